"""What is measured, one function a figure or a family of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
import psutil

from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.engines import open_record
from sidecar.model import Model
from sidecar.stores.record import Record
from sidecar.tokens import Tokenizers
from standpipe.v1 import bundle_pb2, context_pb2, policy_pb2, turn_pb2
from tests import keys
from tests.bench import seed
from tests.clients.languages import LANGUAGES, Driver, absent

HYDRATE = "/standpipe.v1.ContextService/HydrateContext"
COMMIT = "/standpipe.v1.ContextService/CommitTurn"
TOKENIZER = "o200k_base"
MODEL = "all-MiniLM-L6-v2"
WINDOW = 5200
"""The history cap of the benches' policy: 20 turns of 260 tokens."""

RECALLED = 2000
"""What recall may take in the benches: a hundred short memories."""

POLICY = f"""\
name: bench
tokenizer: {TOKENIZER}
budget_tokens: 8000
prompts: [{{name: system, text: You are the support assistant of Acme. Be brief and honest.}}]
sources:
  summary: {{cap: 800}}
  history: {{cap: {WINDOW}}}
  recall: {{cap: 100%, reserve: 1500}}
deadlines: {{embed_ms: 5000}}
"""

Call = Callable[[], Awaitable[Any]]


@dataclass
class Figure:
    """One figure and what is behind it."""

    name: str
    title: str
    value: float
    unit: str = "times"
    bar: float | None = None
    at_most: bool = True
    ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """By side: p50, p95 and p99."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def as_json(self) -> dict[str, Any]:
        """Return what bench.json holds of it."""
        return {key: value for key, value in asdict(self).items() if key != "name"} | {"met": self.met}


# --- processes ------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A process that serves, and a channel to it."""

    process: asyncio.subprocess.Process
    target: str
    channel: grpc.aio.Channel
    start_s: float

    def call(self, path: str, request: bytes) -> Awaitable[bytes]:
        """Make one call in bytes: neither side of a ratio parses anything here."""
        return self.channel.unary_unary(path)(request, timeout=60)

    @property
    def rss_mb(self) -> float:
        """Its resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    async def tell(self, command: str) -> None:
        """Give it a command and wait until it has done it."""
        self.process.stdin.write(command.encode() + b"\n")
        await self.process.stdout.readline()


@contextlib.asynccontextmanager
async def child(kind: str, address: Path, **options: Any) -> AsyncIterator[Child]:
    """Start a process of `tests.bench.serve`, and end it."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.serve", kind, f"unix:{address}", json.dumps(options),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        if not await process.stdout.readline():
            raise RuntimeError(f"{kind} did not start")
        start_s = time.perf_counter() - started
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(f"unix:{address}", options=unlimited) as channel:
            yield Child(process, f"unix:{address}", channel, start_s)
    finally:
        process.stdin.close()
        await process.wait()


# --- time -----------------------------------------------------------------------------------------------------


def percentiles(samples: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99 in ms."""
    cuts = np.percentile(samples, [50, 95, 99]) * 1000
    return dict(zip(("p50", "p95", "p99"), cuts.round(3).tolist(), strict=True))


async def interleave(sides: Mapping[str, Call], *, rounds: int, calls: int) -> dict[str, list[list[float]]]:
    """Time the sides in turn, call by call; return seconds by side and round."""
    for side in sides.values():
        for _ in range(5):
            await side()
    times: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for one in times.values():
            one.append([])
        for _ in range(calls):
            for name, side in sides.items():
                started = time.perf_counter()
                await side()
                times[name][-1].append(time.perf_counter() - started)
    return times


def ratio(times: Mapping[str, list[list[float]]], over: str, *under: str) -> float:
    """Return the median over the rounds of p50(over) / sum of p50(under)."""
    rounds = range(len(times[over]))
    return round(
        statistics.median(
            statistics.median(times[over][at]) / sum(statistics.median(times[name][at]) for name in under)
            for at in rounds
        ),
        3,
    )


def behind(times: Mapping[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Return the percentiles of each side over all rounds."""
    return {name: percentiles([one for part in parts for one in part]) for name, parts in times.items()}


# --- the bench ------------------------------------------------------------------------------------------------


class Bench:
    """The embedded stores, filled once; and the figures measured on them."""

    title = "SQLite and memory"
    floor_is = "bare echo"
    insert_is = "bare echo + one bare INSERT as durable"
    scan_is = "exact numpy scan"
    scan_bar: float | None = None

    def __init__(self, work: Path, models: Path, *, rounds: int, calls: int, many: int) -> None:
        self.work = work
        self.models = models
        self.rounds = rounds
        self.calls = calls
        self.many = many
        self.count = Tokenizers(models / "tokenizers").get(TOKENIZER).count
        self.embedder = Embedder(Model.open(models / MODEL))
        self.random = random.Random(1)
        self._sockets = itertools.count()
        self.figures: list[Figure] = []

    def add(self, *figures: Figure) -> None:
        """Keep figures, and say them."""
        for one in figures:
            self.figures.append(one)
            mark = {True: "met", False: "MISSED", None: ""}[one.met]
            print(f"{one.name:34} {one.value:9.3f} {one.unit:8} {one.bar or ''!s:>6} {mark}", flush=True)

    def standpipe(self, db: str, *, embedder: str = MODEL) -> contextlib.AbstractAsyncContextManager[Child]:
        """Run Standpipe on one of the stores."""
        return child(
            "standpipe", self._socket(), **self.stores(db),
            models_dir=str(self.models), embedder=embedder, tokenizers=[TOKENIZER],
        )  # fmt: skip

    def addresses(self, db: str) -> dict[str, Any]:
        """Return the settings that name one of the stores."""
        return {"record": f"sqlite:{self.work / db}.db"}

    def stores(self, db: str) -> dict[str, Any]:
        """Return the settings of one of the stores: all but `clear` are encrypted, as a deployment's are."""
        how = {"plaintext": True} if db == "clear" else {"encryption_keys_file": keys.key_file()}
        return {**self.addresses(db), **how}

    @contextlib.asynccontextmanager
    async def record(self, db: str) -> AsyncIterator[Record]:
        """Open one of the stores behind Standpipe's back."""
        record = await open_record(Config(**self.stores(db)))
        try:
            yield record
        finally:
            await record.close()

    def floor(self) -> contextlib.AbstractAsyncContextManager[Child]:
        """Run the floor."""
        return child("floor", self._socket())

    async def warm_up(self, hydrate: Call) -> None:
        """Hydrate until all that can be cached is."""
        for _ in range(3):
            await hydrate()

    @contextlib.asynccontextmanager
    async def scan(self, count: int) -> AsyncIterator[Call]:
        """Yield an exact search of so many vectors, without any store."""
        matrix = np.resize(self.vectors, (count, self.vectors.shape[1]))

        async def search() -> None:
            scores = matrix @ self.vectors[3]
            top = np.argpartition(scores, -200)[-200:]
            top[np.argsort(-scores[top])]

        yield search

    @contextlib.asynccontextmanager
    async def bare_commit(self, floor: Child, size: int, request: bytes) -> AsyncIterator[dict[str, Call]]:
        """Yield what a commit cannot do without: its answer's way, and its body on the disk."""
        db = sqlite3.connect(self.work / "bare.db", isolation_level=None)
        db.executescript(
            "pragma page_size = 8192; pragma journal_mode = wal; pragma synchronous = full;"
            "create table log (version integer primary key, body blob)"
        )

        async def insert() -> None:
            db.execute("begin immediate")
            db.execute("insert into log (body) values (?)", (request,))
            db.execute("commit")

        with contextlib.closing(db):
            yield {"floor": lambda: floor.call(f"/floor/{size}", request), "insert": insert}

    def by_hand(self, history: list[dict[str, str]], texts: list[str], vectors: np.ndarray) -> dict[str, Any]:
        """Write the stores of the sidecar that is written by hand; return the options that name them."""
        seed.by_hand(self.work / "hand.db", "hand", history, texts, vectors)
        return {"db": str(self.work / "hand.db")}

    def _socket(self) -> Path:
        return self.work / f"{next(self._sockets)}.sock"

    # --- filling

    async def fill(self, *, memories: int) -> None:
        """Make the stores `plain` (sessions) and `memory` (memories with vectors)."""
        started = time.perf_counter()
        counters = {TOKENIZER: self.count}
        user, assistant = turn_pb2.ROLE_USER, turn_pb2.ROLE_ASSISTANT
        said = [
            seed.turn(
                (user, seed.sized(self.random, self.count, "user", 130)),
                (assistant, seed.sized(self.random, self.count, "assistant", 130)),
            )
            for _ in range(50)
        ]
        async with self.record("plain") as record:
            for turns in (20, 10_000):
                several = (said[at % len(said)] for at in range(turns))
                await seed.append(record, f"s{turns}", f"s{turns}", several, counters)
            await seed.checkpoint(record, "s10000", TOKENIZER, self.count)
        async with self.record("memory") as record:
            for n in (1000, memories):
                texts = [seed.note(self.random, number) for number in range(n)]
                await seed.memories(record, f"m{n}", texts, counters)
                greeting = seed.turn((user, "Good morning."), (assistant, "Good morning, how can I help?"))
                await seed.append(record, f"m{n}", f"m{n}.new", iter([greeting]), counters)
            self.said = [
                (seed.sized(self.random, self.count, "user", 60), seed.sized(self.random, self.count, "assistant", 60))
                for _ in range(200)
            ]
            turns = (seed.turn((user, a), (assistant, b)) for a, b in self.said)
            await seed.append(record, "hand", "hand", turns, counters)
            sample = [seed.note(self.random, number) for number in range(1000)]
            self.vectors = np.stack([self.embedder.embed_one(text) for text in sample])
            await seed.embed(record, self.embedder.id, self.vectors)
        async with self.record("clear") as record:
            await seed.memories(record, "m1000", sample, counters)
            await seed.append(record, "m1000", "m1000.new", iter([greeting]), counters)
            await seed.embed(record, self.embedder.id, self.vectors)
        print(f"stores filled in {time.perf_counter() - started:.1f} s", flush=True)

    async def prepare(self, server: Child) -> None:
        """Publish the policy and point the default route at it."""
        publish = policy_pb2.PublishPolicyRequest(document_yaml=POLICY).SerializeToString()
        got = await server.call("/standpipe.v1.PolicyService/PublishPolicy", publish)
        version = policy_pb2.PublishPolicyResponse.FromString(got).policy.version
        route = policy_pb2.Route(name="default", policy_name="bench", policy_version=version)
        await server.call(
            "/standpipe.v1.PolicyService/SetRoute", policy_pb2.SetRouteRequest(route=route).SerializeToString()
        )

    # --- figures

    async def warm(self) -> None:
        """Measure hydrates without recall: over the floor, at 10,000 turns over 20, and 32 in flight."""
        async with self.floor() as floor, self.standpipe("plain", embedder="none") as server:
            await self.prepare(server)
            history = [bundle_pb2.SOURCE_HISTORY]
            requests = {
                "20": _hydrate("s20", include=history),
                "10000": _hydrate("s10000", include=history),
                "20 all": _hydrate("s20"),
                "10000 all": _hydrate("s10000"),
            }
            for request in requests.values():
                await self.warm_up(lambda request=request: server.call(HYDRATE, request))
            sizes = {name: len(await server.call(HYDRATE, request)) for name, request in requests.items()}
            sides: dict[str, Call] = {
                name: lambda request=request: server.call(HYDRATE, request) for name, request in requests.items()
            }
            sides["floor"] = lambda: floor.call(f"/floor/{sizes['20']}", requests["20"])
            times = await interleave(sides, rounds=self.rounds, calls=self.calls)
            ms, phases = behind(times), await _phases(sides["20"])
            self.add(
                Figure(
                    "hydrate_warm_over_floor", f"warm hydrate, 20 turns / {self.floor_is}", ratio(times, "20", "floor"),
                    bar=1.3, ms={"hydrate": ms["20"], "floor": ms["floor"]},
                    note=f"{sizes['20']:,} bytes; " + phases,
                ),
                Figure(
                    "hydrate_10000_over_20", "10,000 turns / 20 turns", ratio(times, "10000", "20"), bar=1.1,
                    ms={"at 10,000": ms["10000"], "at 20": ms["20"]},
                    note=f"history alone: {sizes['10000']:,} bytes against {sizes['20']:,}",
                ),
                Figure(
                    "hydrate_10000_over_20_with_summary", "the same, with the summary that 20 turns lack",
                    ratio(times, "10000 all", "20 all"), ms={"at 10,000": ms["10000 all"], "at 20": ms["20 all"]},
                    note=f"{sizes['10000 all']:,} bytes against {sizes['20 all']:,}; "
                    + await _phases(sides["10000 all"]),
                ),
            )  # fmt: skip
            rates: dict[str, list[float]] = {"20": [], "floor": []}
            times = {"20": [], "floor": []}
            for _ in range(self.rounds):
                for name, one in rates.items():
                    rate, took = await _in_flight(sides[name], 32, 10 * self.calls)
                    one.append(rate)
                    times[name].append(took)
            ms = behind(times)
            self.add(
                Figure(
                    "hydrates_32_in_flight", f"32 in flight: hydrates a second / {self.floor_is} a second",
                    round(statistics.median(a / b for a, b in zip(rates["20"], rates["floor"], strict=True)), 3),
                    bar=0.7, at_most=False, ms={"hydrate": ms["20"], "floor": ms["floor"]},
                    note="{:,.0f} a second against {:,.0f}".format(*map(statistics.median, rates.values())),
                )
            )  # fmt: skip

    async def clients(self) -> None:
        """Measure the clients of all languages that are built here: a hydrate by each over its bare stub."""
        async with self.standpipe("plain", embedder="none") as server:
            await self.prepare(server)
            with contextlib.ExitStack() as stack:
                drivers = {
                    name: stack.enter_context(Driver(language, measured=True))
                    for name, language in LANGUAGES.items()
                    if not absent(language)
                }
                fields = {"session": "s20", "subject": "s20", "calls": self.calls}
                for driver in drivers.values():
                    driver("connect", target=server.target)
                    # What a compiler learns while it runs, it learns before.
                    await asyncio.to_thread(driver, "bench", **{**fields, "calls": 1}, warmup=10 * self.calls)
                times: dict[str, dict[str, list[list[float]]]] = {name: {"client": [], "stub": []} for name in drivers}
                for _ in range(self.rounds):
                    for name, driver in drivers.items():
                        took = await asyncio.to_thread(driver, "bench", **fields, warmup=5)
                        for side, found in times[name].items():
                            found.append([one / 1e6 for one in took[f"{side}_us"]])
        for name, language in LANGUAGES.items():
            if name not in times:
                print(f"client_{name} skipped: {absent(language)}", flush=True)
                continue
            self.add(
                Figure(
                    f"client_{name}", f"hydrate, 20 turns, by the client in {name.capitalize()} / its bare stub",
                    ratio(times[name], "client", "stub"), bar=1.15, ms=behind(times[name]),
                )
            )  # fmt: skip

    async def recall(self, memories: int) -> None:
        """Measure hydrates that recall, over the floor and one embedding; and over a hand-written sidecar."""
        async with self.floor() as floor, self.standpipe("memory") as server:
            await self.prepare(server)
            for n in (1000, memories):
                async with self.scan(n) as scan:
                    await self._recall(server, floor, n, scan)
            await self._hand(server)

    async def _recall(self, server: Child, floor: Child, n: int, scan: Call) -> None:
        await self.warm_up(lambda: server.call(HYDRATE, self._asking(f"m{n}.new", f"m{n}")))
        got = await server.call(HYDRATE, self._asking(f"m{n}.new", f"m{n}"))
        answer = context_pb2.HydrateContextResponse.FromString(got)
        assert answer.recall.items_relevant, "recall found nothing"
        assert not answer.degraded, answer.degraded
        sides: dict[str, Call] = {
            "hydrate": lambda: server.call(HYDRATE, self._asking(f"m{n}.new", f"m{n}")),
            "floor": lambda: floor.call(f"/floor/{len(got)}", b"x" * 200),
            "embedding": self._embedding,
            "scan": scan,
        }
        rounds, calls = (self.rounds, self.calls) if n <= 10_000 else (3, max(20, self.calls // 4))
        times = await interleave(sides, rounds=rounds, calls=calls)
        ms, note = behind(times), await _phases(sides["hydrate"])
        if n == 1000:
            self.add(
                Figure(
                    "hydrate_recall_1000", "recall over 1,000 memories / (floor + one embedding)",
                    ratio(times, "hydrate", "floor", "embedding"), bar=1.2, ms=ms, note=note,
                )
            )  # fmt: skip
        else:
            self.add(
                Figure(
                    f"hydrate_recall_{n}", f"recall over {n:,} / (floor + embedding + {self.scan_is})",
                    ratio(times, "hydrate", "floor", "embedding", "scan"), bar=self.scan_bar, ms=ms, note=note,
                )
            )  # fmt: skip

    async def encryption(self) -> None:
        """Measure the same store encrypted and in plain text: hydrates that recall, and commits."""
        turn, versions = self._turn(), {"encrypted": iter(range(1 << 30)), "plain": iter(range(1 << 30))}
        async with self.standpipe("memory") as sealed, self.standpipe("clear") as clear:
            servers = {"encrypted": sealed, "plain": clear}
            hydrates: dict[str, Call] = {}
            commits: dict[str, Call] = {}
            for side, server in servers.items():
                await self.prepare(server)
                hydrates[side] = partial(self._hydrated, server)
                commits[side] = partial(self._committed, server, versions[side], turn)
                await self.warm_up(hydrates[side])
                await commits[side]()
            recalled = await interleave(hydrates, rounds=self.rounds, calls=self.calls)
            written = await interleave(commits, rounds=self.rounds, calls=self.calls)
        for name, title, times, bar in (
            ("encrypted_recall_1000", "recall over 1,000 memories, encrypted / in plain text", recalled, 1.1),
            ("encrypted_commit", "commit, encrypted / in plain text", written, None),
        ):
            self.add(Figure(name, title, ratio(times, "encrypted", "plain"), bar=bar, ms=behind(times)))

    async def _hydrated(self, server: Child) -> bytes:
        return await server.call(HYDRATE, self._asking("m1000.new", "m1000"))

    async def _committed(self, server: Child, versions: Iterator[int], turn: turn_pb2.Turn) -> bytes:
        return await server.call(COMMIT, _commit("encryption", next(versions), turn))

    async def _hand(self, server: Child) -> None:
        history = [
            {"speaker": who, "text": text} for a, b in self.said for who, text in (("user", a), ("assistant", b))
        ]
        texts = [one["text"] for one in history]
        vectors = np.resize(self.vectors, (len(texts), self.vectors.shape[1]))
        options = self.by_hand(history, texts, vectors) | {
            "models_dir": str(self.models), "tokenizer": TOKENIZER,
            "history_tokens": WINDOW, "recall_tokens": RECALLED,
        }  # fmt: skip
        async with child("handwritten", self._socket(), **options) as hand:

            def by_hand(query: str, *, careful: bool = False) -> Awaitable[bytes]:
                asked = {"session": "hand", "query": query, "careful": careful}
                return hand.call("/hand/Hydrate", json.dumps(asked).encode())

            sides: dict[str, Call] = {
                "hand": lambda: by_hand(seed.question(self.random)),
                "careful hand": lambda: by_hand(seed.question(self.random), careful=True),
                "standpipe": lambda: server.call(HYDRATE, self._asking("hand", "hand")),
                "hand, no recall": lambda: by_hand(""),
                "standpipe, no recall": lambda: server.call(HYDRATE, _hydrate("hand")),
                "embedding": self._embedding,
            }
            times = await interleave(sides, rounds=self.rounds, calls=max(20, self.calls // 2))
        ms = behind(times)
        self.add(
            Figure(
                "handwritten_200_turns", "a hand-written sidecar at 200 turns / Standpipe",
                ratio(times, "hand", "standpipe"), bar=3.0, at_most=False,
                ms={name: ms[name] for name in ("hand", "standpipe", "embedding")},
                note="both embed each query with the same model; by hand, each message is counted once a read",
            ),
            Figure(
                "handwritten_careful_200_turns", "the same, when it stops counting at the budget",
                ratio(times, "careful hand", "standpipe"), ms={"careful hand": ms["careful hand"]},
            ),
            Figure(
                "handwritten_200_turns_no_recall", "the same, without recall",
                ratio(times, "hand, no recall", "standpipe, no recall"),
                ms={name: ms[name] for name in ("hand, no recall", "standpipe, no recall")},
            ),
        )  # fmt: skip

    async def commit(self) -> None:
        """Measure commits over what a commit cannot do without."""
        turn, versions = self._turn(), iter(range(1 << 30))
        async with self.floor() as floor, self.standpipe("plain", embedder="none") as server:
            first = _commit("commits", next(versions), turn)
            size = len(await server.call(COMMIT, first))
            await self.warm_up(lambda: server.call(HYDRATE, _hydrate("commits")))
            async with self.bare_commit(floor, size, first) as bare:
                sides = {"commit": lambda: server.call(COMMIT, _commit("commits", next(versions), turn)), **bare}
                times = await interleave(sides, rounds=self.rounds, calls=self.calls)
        self.add(
            Figure(
                "commit", f"commit / ({self.insert_is})", ratio(times, "commit", *bare), bar=1.4, ms=behind(times),
                note="two messages, 260 tokens",
            )
        )  # fmt: skip

    async def process(self) -> None:
        """Measure start, memory at rest, and memory after many calls."""
        for embedder, label, start_bar, rest_bar in (
            (MODEL, "own_embedder", 3.0, 260),
            ("none", "no_embedder", 1.5, 150),
        ):
            starts, rests = [], []
            for _ in range(3):
                async with self.standpipe("plain2" if embedder == MODEL else "plain", embedder=embedder) as server:
                    starts.append(server.start_s)
                    await asyncio.sleep(0.5)
                    rests.append(server.rss_mb)
            self.add(
                Figure(
                    f"start_{label}", f"start to ready, {label.replace('_', ' ')}",
                    round(statistics.median(starts), 3), unit="s", bar=start_bar,
                    note="from the spawn of the process: Python's imports included",
                ),
                Figure(
                    f"memory_at_rest_{label}", f"memory at rest, {label.replace('_', ' ')}",
                    round(statistics.median(rests), 1), unit="MB", bar=rest_bar,
                ),
            )  # fmt: skip
        async with self.standpipe("memory") as server:
            await self.prepare(server)
            asked = [seed.question(self.random) for _ in range(64)]
            requests = [
                _hydrate("hand"),
                *(_hydrate("m1000.new", "m1000", query, caps={"recall": RECALLED}) for query in asked),
            ]

            async def call() -> None:
                await server.call(HYDRATE, self.random.choice(requests))

            await _in_flight(call, 8, 2000)
            before = server.rss_mb
            await _in_flight(call, 8, self.many)
            after = server.rss_mb
            self.add(
                Figure(
                    "memory_growth", f"memory gained over {self.many:,} calls", round(after - before, 1),
                    unit="MB",
                    note=f"{before:.0f} MB after 2,000 calls, {after:.0f} MB after {self.many:,} more",
                )
            )  # fmt: skip

    async def profile(self, out: Path) -> None:
        """Write cProfile's view of the server's event loop: hydrates without and with recall, and commits."""
        turn, versions = self._turn(), iter(range(1 << 30))
        async with self.standpipe("memory", embedder="none") as plain, self.standpipe("memory") as server:
            await self.prepare(server)
            for name, call in (
                ("warm", lambda: server.call(HYDRATE, _hydrate("hand"))),
                ("recall", lambda: server.call(HYDRATE, self._asking("m1000.new", "m1000"))),
                ("commit", lambda: plain.call(COMMIT, _commit("profiled", next(versions), turn))),
            ):
                one = plain if name == "commit" else server
                for _ in range(50):
                    await call()
                await one.tell("profile")
                for _ in range(1000):
                    await call()
                await one.tell(f"dump {out / f'profile-{name}.pstats'}")

    def _asking(self, session: str, subject: str) -> bytes:
        return _hydrate(session, subject, seed.question(self.random), caps={"recall": RECALLED})

    def _turn(self) -> turn_pb2.Turn:
        text = seed.sized(self.random, self.count, "user", 130)
        answer = seed.sized(self.random, self.count, "assistant", 130)
        return seed.turn((turn_pb2.ROLE_USER, text), (turn_pb2.ROLE_ASSISTANT, answer))

    async def _embedding(self) -> None:
        self.embedder.embed_one(seed.question(self.random))


async def _in_flight(call: Call, width: int, calls: int) -> tuple[float, list[float]]:
    """Keep so many calls in flight; return (calls a second, seconds of each)."""
    left, took = iter(range(calls)), []

    async def work() -> None:
        for _ in left:
            started = time.perf_counter()
            await call()
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(width)))
    return calls / (time.perf_counter() - started), took


def _hydrate(
    session: str,
    subject: str = "",
    query: str = "",
    *,
    include: Iterable[bundle_pb2.Source] = (),
    caps: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    request = context_pb2.HydrateContextRequest(session_id=session, subject_id=subject, query=query, include=include)
    for name, cap in caps.items():
        request.budget.sources.add(source=bundle_pb2.Source.Value(f"SOURCE_{name.upper()}"), cap_tokens=cap)
    return request.SerializeToString()


def _commit(session: str, version: int, turn: turn_pb2.Turn) -> bytes:
    return context_pb2.CommitTurnRequest(
        session_id=session, subject_id=session, request_id=f"c{version}", expected_version=version, turn=turn
    ).SerializeToString()


_PHASES = ("hot", "record", "embed", "rank", "render", "total")


async def _phases(hydrate: Call) -> str:
    """Say where the server's time goes, in its own words: the medians of a hundred calls."""
    found = [context_pb2.HydrateContextResponse.FromString(await hydrate()).timings for _ in range(100)]
    medians = {phase: statistics.median(getattr(one, f"{phase}_us") for one in found) for phase in _PHASES}
    return "in the server, in µs: " + ", ".join(f"{phase} {us:.0f}" for phase, us in medians.items() if us)
