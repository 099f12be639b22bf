"""``python -m tests.gpu``: what is promised of a GPU, all of it, on the GPU of this machine, in a few minutes.

It needs `onnxruntime-gpu` in the place of `onnxruntime`, an NVIDIA driver and the model; `--rehearse` goes through the
same list on a CPU in a GPU's shapes. Prints a table. The exit code is 0 if all of it holds, 1 if anything does not, and
3 where there is no GPU to ask.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sidecar import fetch
from sidecar.batching import EmbedQueue
from sidecar.embed import Embedder, Shape, Tokens
from sidecar.errors import ConfigInvalid, StandpipeError
from sidecar.model import Model, Precision

ROOT = Path(__file__).parents[1]
WORDS = (
    "the boiler was serviced on a Tuesday in May and nobody at home had time to wait for it, said Ana; 東京都 naïve 42 "
    "invoice number please garden train ticket late because she would rather not change what works 😀 кошка def return"
).split()
LENGTHS = (1, 2, 4, 6, 9, 14, 20, 30, 45, 70, 110, 170, 250)
"""Words of a text, each as likely: from a nod to more than a model reads."""
QUERY_P50_MS = 2.0
COSINES: dict[Precision, float] = {"fp16": 0.999, "fp32": 0.9999}
"""The least cosine with the vector in float32 of a CPU, of any text."""
FAILED, LACKING = 1, 3

_REFUSES = """
import sys
from pathlib import Path
from sidecar.embed import Embedder
from sidecar.errors import ConfigInvalid
from sidecar.model import Model
try:
    Embedder(Model.open(Path(sys.argv[1])), precision="fp16", device="gpu")
except ConfigInvalid as error:
    print("refused", error.message)
"""


class Report:
    """Lines of what was looked at, what was found, and whether it holds."""

    def __init__(self) -> None:
        self.table = Table("what", "found", "holds", box=None, padding=(0, 3, 0, 0), expand=False)
        self.good = True

    def line(self, what: str, found: str, holds: bool | None = None) -> None:
        """Add a line; without a judgement it is a figure alone."""
        self.table.add_row(what, found, "" if holds is None else "yes" if holds else "NO")
        self.good &= holds is not False


def written(count: int, seed: int) -> list[str]:
    """Write texts of every length."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.choice(LENGTHS))) for _ in range(count)]


def differing(embedder: Embedder, texts: Sequence[Tokens], *, query: bool) -> int:
    """Count the texts whose bits in random company, at a random place, are not those that they have alone."""
    draw = random.Random(1)
    shapes = [embedder.shape(text.size, query=query) for text in texts]
    alone = [embedder.run([text], shape)[0].tobytes() for text, shape in zip(texts, shapes, strict=True)]
    by_shape: dict[Shape, list[int]] = {}
    for place in draw.sample(range(len(texts)), len(texts)):
        by_shape.setdefault(shapes[place], []).append(place)
    found = 0
    for shape, places in by_shape.items():
        while places:
            count = draw.randint(1, shape.rows)
            company, places = places[:count], places[count:]  # noqa: PLW2901 - what is left
            vectors = embedder.run([texts[place] for place in company], shape)
            found += sum(vector.tobytes() != alone[i] for i, vector in zip(company, vectors, strict=True))
    return found


def memory_used_bytes() -> int | None:
    """Ask the driver how much of the first GPU's memory is in use, by whomever; None without one."""
    with contextlib.suppress(OSError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        device, numbers = ctypes.c_void_p(), (ctypes.c_ulonglong * 3)()
        if (
            library.nvmlInit_v2() == 0
            and library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
            and library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(numbers)) == 0
        ):
            return numbers[2]
    return None


def milliseconds(calls: int, call: Callable[[int], object]) -> list[float]:
    """Time calls, one after another."""
    found = []
    for number in range(calls):
        start = time.perf_counter()
        call(number)
        found.append(1000 * (time.perf_counter() - start))
    return found


async def queued_milliseconds(embedder: Embedder, texts: Sequence[str]) -> list[float]:
    """Time queries through the queue, as a sidecar asks them, one after another and none of them cached."""
    queue, found = EmbedQueue(embedder), []
    for text in texts:
        start = time.perf_counter()
        await queue.embed_query(text, deadline_s=10)
        found.append(1000 * (time.perf_counter() - start))
    await queue.close()
    return found


def examine(report: Report, directory: Path, load: Callable[[Precision], Embedder], *, texts: int) -> None:
    """Go through the whole list."""
    done = subprocess.run(
        [sys.executable, "-c", _REFUSES, str(directory)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said = done.stdout.strip() or done.stderr.strip()[-200:]
    report.line("device=gpu without a GPU", said, said.startswith("refused"))
    words = written(texts, 0)
    exact = Embedder(Model.open(directory), precision="fp32", threads=8)
    sample = words[:: max(1, texts // 300)]
    expected = np.stack([exact.embed_one(text) for text in sample])
    for precision, cosine_min in COSINES.items():
        before, start = memory_used_bytes(), time.perf_counter()
        try:
            embedder = load(precision)
        except StandpipeError as error:
            report.line(f"{precision}: it starts", error.message, holds=False)
            continue
        report.line(f"{precision}: it starts", f"{embedder.chosen}, in {time.perf_counter() - start:.1f} s")
        held = memory_used_bytes()
        tokens = embedder.tokenise(words)
        for query in (False, True):
            some = tokens if not query else tokens[: max(1, texts // 5)]
            count, kind = differing(embedder, some, query=query), "queries" if query else "passages"
            found = f"{count} of {len(some)} differ"
            report.line(f"{precision}: {kind} alone and in company", found, count == 0)
        cosines = np.sum(expected * np.stack([embedder.embed_one(text, query=False) for text in sample]), axis=1)
        least = float(cosines.min())
        report.line(
            f"{precision}: cosine with float32 on the CPU",
            f"at least {least:.6f}, {cosines.mean():.6f} in the mean",
            least >= cosine_min,
        )
        speeds(report, precision, embedder)
        after = memory_used_bytes()
        if before is not None and held is not None and after is not None:
            found = f"{(held - before) >> 20} MiB at start, {(after - held) >> 20} more at the end"
            report.line(f"{precision}: GPU memory", found, after == held)
        report.line(f"{precision}: the device", "broken" if embedder.broken else "works", not embedder.broken)
        del embedder  # or the next one's memory would be told with it


def speeds(report: Report, precision: Precision, embedder: Embedder) -> None:
    """Time single queries and full runs."""
    questions = [f"What did she say about the invoice number {number}?" for number in range(300)]
    alone = statistics.median(milliseconds(300, lambda number: embedder.embed_one(questions[number]))[100:])
    through = sorted(asyncio.run(queued_milliseconds(embedder, questions))[100:])
    p50, p99 = statistics.median(through), through[int(0.99 * len(through))]
    judged = p50 <= QUERY_P50_MS if embedder.device == "gpu" and precision == "fp16" else None
    found = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms through the queue; {alone:.2f} ms without"
    report.line(f"{precision}: a single query", found, judged)
    for size in (16, 64, embedder.model.tokens_max):
        shape = embedder.shape(size, query=False)
        full = [np.resize(embedder.tokenise(questions[:1])[0], size)] * shape.rows
        run_ms = statistics.median(milliseconds(20, lambda _, full=full, shape=shape: embedder.run(full, shape)))  # type: ignore[misc]
        found = f"{run_ms:.2f} ms, {1000 * shape.rows / run_ms:,.0f} texts/s"
        report.line(f"{precision}: a run of {shape.rows} texts of {shape.tokens} tokens", found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the list; see above for the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").partition("\n")[0])
    default = os.environ.get("STANDPIPE_MODELS_DIR") or ".cache/models"
    parser.add_argument("--models-dir", type=Path, default=Path(default))
    parser.add_argument("--model", default=fetch.PINNED_NAME)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--gpu-memory-bytes", type=int, default=2 << 30)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in a GPU's shapes, fewer texts a run")
    given = parser.parse_args(arguments)
    directory, console, report = (
        given.models_dir / given.model,
        Console(width=160, highlight=False, markup=False),
        Report(),
    )

    def load(precision: Precision) -> Embedder:
        model = Model.open(directory)
        if given.rehearse:
            return Embedder(model, precision=precision, padded=(64, 256))
        return Embedder(model, precision=precision, device="gpu", gpu_memory_bytes=given.gpu_memory_bytes)

    try:
        load("fp16")
    except ConfigInvalid as error:
        console.print(f"Nothing was looked at: {error.message}", soft_wrap=True)
        return LACKING
    except StandpipeError:
        pass  # it is told below
    examine(report, directory, load, texts=given.texts)
    console.print(report.table)
    return 0 if report.good else FAILED


if __name__ == "__main__":
    sys.exit(main())
