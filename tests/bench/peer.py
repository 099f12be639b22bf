"""sentence-transformers as a process of its own, in a virtual environment of its own: what the embedder is measured by.

It reads one JSON object a line and answers each with one. It imports nothing of Standpipe, so that any Python with
sentence-transformers runs it. It is given the same weights and the same texts, and is timed here, not through the pipe.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}

import numpy as np
import sentence_transformers
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # newer releases have moved them, and older ones have not
    from sentence_transformers.models import Normalize, Pooling, Transformer

BATCH_S = 5.0
"""How long the search for a batch size may try one of them."""


class Peer:
    """A model loaded by sentence-transformers, once for each way it is measured."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[Any, int]] = {}
        self.texts: dict[str, list[str]] = {}

    def load(self, *, side: str, model: str, device: str, precision: str, threads: int, tokens_max: int) -> dict:
        """Load the model from a directory; `threads` 0: as many as torch takes by itself."""
        words = Transformer(model, max_seq_length=tokens_max)
        pooling = Pooling(words.get_word_embedding_dimension(), "mean")
        loaded = sentence_transformers.SentenceTransformer(modules=[words, pooling, Normalize()], device=device)
        loaded = loaded.half() if precision == "fp16" else loaded
        loaded.eval()
        threads = threads or torch.get_num_threads()
        self.models[side] = loaded, threads
        versions = {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__}
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        return {"threads": threads, "versions": versions, "device": name}

    def read(self, *, path: str) -> dict:
        """Read the texts that the other commands name by their list and place."""
        self.texts = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: len(texts) for name, texts in self.texts.items()}

    def vectors(self, *, side: str, texts: str, out: str) -> dict:
        """Write the vectors of a whole list, float32, in its order."""
        np.save(out, np.asarray(self._use(side).encode(self.texts[texts], batch_size=32), np.float32))
        return {}

    def best_batch(self, *, side: str, texts: str, sizes: list[int]) -> dict:
        """Find the batch size with the most texts a second, over a list that each size sees whole."""
        model, listed, rates = self._use(side), self.texts[texts], {}
        for size in sizes:
            model.encode(listed[: 2 * size], batch_size=size)
            started = time.perf_counter()
            done = 0
            while done < len(listed) and time.perf_counter() - started < BATCH_S:
                part = listed[done : done + 8 * max(size, 32)]
                model.encode(part, batch_size=size)
                done += len(part)
            rates[size] = round(done / (time.perf_counter() - started), 1)
        return {"batch": max(rates, key=rates.__getitem__), "texts_per_s": rates}

    def bulk(self, *, side: str, texts: str, start: int, count: int, batch: int) -> dict:
        """Embed a part of a list in one call, as its manual says; return the seconds."""
        model, part = self._use(side), self.texts[texts][start : start + count]
        started = time.perf_counter()
        model.encode(part, batch_size=batch)
        return {"s": time.perf_counter() - started}

    def single(self, *, side: str, texts: str, start: int, callers: int, calls: int, batch: int) -> dict:
        """Let threads ask for a text at a time, each as soon as its last is there; return the seconds of each call.

        With `batch` 0 a lone caller calls encode itself; else one thread encodes what waits, at most `batch` texts
        together, in the order in which they came. A caller's first call is not counted: all begin at once.
        """
        serving = _Serving(self._use(side), batch) if batch else None
        ask = serving.ask if serving else self._use(side).encode
        each = calls // callers + 1
        times: list[list[float]] = [[] for _ in range(callers)]

        def caller(number: int) -> None:
            for turn in range(each):
                text = self.texts[texts][start + number * each + turn]
                started = time.perf_counter()
                ask(text)
                if turn:
                    times[number].append(time.perf_counter() - started)

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        if serving:
            serving.close()
        return {"times": [one for part in times for one in part], "s": seconds}

    def ceiling(self, *, side: str, device: str, precision: str) -> dict:
        """Measure the machine: operations a second of a matrix product of the best size, and bytes of a copy."""
        _, threads = self.models[side]
        torch.set_num_threads(threads)
        copied = torch.empty((4 << 30) if device == "cuda" else (256 << 20), dtype=torch.uint8, device=device).fill_(1)
        target = torch.empty_like(copied)
        rates = []
        with torch.inference_mode():
            copy_s = _least(lambda: target.copy_(copied), device)
            for size in (2048, 4096, 8192) if device == "cuda" else (384, 512, 768, 1024, 1536):
                if precision == "int8":
                    a, b = (torch.randint(-63, 63, (size, size), dtype=torch.int8, device=device) for _ in range(2))
                    product = torch._int_mm
                else:
                    kind = torch.float16 if precision == "fp16" else torch.float32
                    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
                    product = torch.matmul
                rates.append(2 * size**3 / _least(lambda a=a, b=b, product=product: product(a, b), device))
        return {"ops_per_s": max(rates), "bytes_per_s": 2 * copied.numel() / copy_s}

    def _use(self, side: str) -> Any:
        model, threads = self.models[side]
        torch.set_num_threads(threads)
        return model


class _Serving:
    """One thread encodes together what waits: how sentence-transformers is served when it is served well.

    In batches of one it is what a lock around encode would be, if locks were given in the order of asking.
    """

    def __init__(self, model: Any, batch: int) -> None:
        self._model = model
        self._batch = batch
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def ask(self, text: str) -> None:
        """Wait until a text is encoded."""
        done = threading.Event()
        self._waiting.put((text, done))
        done.wait()

    def close(self) -> None:
        """End the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            taken = [first]
            while len(taken) < self._batch and not self._waiting.empty():
                taken.append(self._waiting.get())
            self._model.encode([text for text, _ in taken], batch_size=self._batch)
            for _, done in taken:
                done.set()


def _least(work: Any, device: str) -> float:
    """Return the least seconds of several runs, since whatever disturbs makes it longer."""
    found = []
    # A GPU's runs are timed several at once, since their launch is no work; a processor's are not disturbed so often.
    times = 4 if device == "cuda" else 1
    for _ in range(16):
        started = time.perf_counter()
        for _ in range(times):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - started) / times)
    return min(found)


def main() -> None:
    """Answer until stdin ends. What libraries print goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    peer = Peer()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = getattr(peer, asked.pop("do"))(**asked)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
