"""What to plan a deployment with: ``python -m tests.bench.sizing``, or ``make bench-sizing``.

Bytes, processor time and connections, not wall time: so a busy machine gives the same figures as an idle one. A server
process runs on a real PostgreSQL and a real Redis, encrypted, with sessions of 20 turns of 260 tokens. Its processor
time is what the system charges it with, for all its threads; a store's bytes are what the store says of itself. What it
prints is the table of k8s/docs/sizing.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

import standpipe
from sidecar.embed import Embedder
from sidecar.model import Model
from sidecar.stores.postgres import migrate
from sidecar.tokens import Tokenizers
from standpipe import assistant, user
from tests import keys
from tests.bench import seed
from tests.bench.figures import MODEL, POLICY, TOKENIZER, Child, child
from tests.servers import Postgres, Redis

TURNS: Final = 20
"""Of a session: as many as its policy's history holds."""

ROLE: Final = "sizing"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: str
    how: str


class Sizing:
    """A database, a Redis and a process, measured from outside."""

    def __init__(self, work: Path, models: Path, *, postgres: Postgres, redis: Redis, sessions: int) -> None:
        self._work, self._models = work, models
        self._postgres, self._redis = postgres, redis
        self._sessions = sessions
        self._sockets = itertools.count()
        self._random = random.Random(6)
        self._count = Tokenizers(models / "tokenizers").get(TOKENIZER).count
        self.rows: list[Row] = []

    def add(self, what: str, value: str, how: str) -> None:
        """Keep a line, and say it."""
        self.rows.append(Row(what, value, how))
        print(f"{what}: {value}", flush=True)

    async def measure(self) -> None:
        """Measure everything, on a database each."""
        await self._without_embedder()
        await self._with_embedder()
        await self._embedder()

    # --- the parts

    async def _without_embedder(self) -> None:
        """Bytes of both stores, memory and processor time of a sidecar that embeds nothing itself."""
        database = await self._database()
        before, redis_before = self._bytes(database), self._redis_bytes()
        async with self._served(database, embedder="none", project=False) as (server, client):
            await self._trusted(client)
            empty_mb = server.rss_mb
            at_start = await self._connections(client, callers=0)
            wal = self._wal()
            cpu = await _cpu_ms(server, lambda: self._fill(client, self._sessions))
            turns = self._sessions * TURNS
            wal_kb = (self._wal() - wal) / turns / 1024
            self.add("processor time of a commit, embedder elsewhere", f"{cpu / turns:.1f} ms", f"{turns:,} turns")
            redis_kb = (self._redis_bytes() - redis_before) / self._sessions / 1024
            loaded = await self._connections(client, callers=32)
            how = "then they stay: a pool of 4"
            self.add("connections to PostgreSQL, at start / with 32 commits in flight", f"{at_start} / {loaded}", how)
            hydrates = [f"s{at % self._sessions}" for at in range(self._sessions * 4)]
            await self._hydrate(client, hydrates, recall=False)
            cpu = await _cpu_ms(server, lambda: self._hydrate(client, hydrates, recall=False))
            self.add(
                "processor time of a hydrate, history alone", f"{cpu / len(hydrates):.1f} ms", f"{len(hydrates):,}"
            )
            full_mb = server.rss_mb
            self.add("memory of a sidecar without embedder, nothing cached", f"{empty_mb:.0f} MB", "resident")
            kb = (full_mb - empty_mb) * 1024 / self._sessions
            self.add(
                f"the same with {self._sessions} sessions cached", f"{full_mb:.0f} MB", f"{kb:.0f} kB each, both caches"
            )
        after = self._bytes(database)
        total = sum(after.values()) - sum(before.values())
        most = sorted(after, key=lambda name: before.get(name, 0) - after[name])[:3]
        parts = ", ".join(f"{name} {(after[name] - before.get(name, 0)) / turns:,.0f}" for name in most)
        self.add("PostgreSQL, bytes a turn without vectors", f"{total / turns / 1024:.1f} kB", f"with indexes; {parts}")
        self.add("PostgreSQL, write-ahead log a turn", f"{wal_kb:.1f} kB", "with page images")
        self.add(f"Redis, bytes a session of {TURNS} turns", f"{redis_kb:.0f} kB", "used_memory, with its index")

    async def _with_embedder(self) -> None:
        """What vectors add, and recall."""
        database = await self._database()
        sessions = max(5, self._sessions // 5)
        turns = sessions * TURNS
        async with self._served(database, embedder=MODEL) as (server, client):
            await self._trusted(client)
            empty_mb = server.rss_mb

            async def fill() -> None:
                await self._fill(client, sessions)
                while not self._embedded(database):
                    await asyncio.sleep(0.2)

            cpu = await _cpu_ms(server, fill)
            self.add("processor time of a commit and its vectors", f"{cpu / turns:.0f} ms", "int8, 260 tokens a turn")
            bytes_ = self._bytes(database)
            self.add(
                "PostgreSQL, bytes of a turn's vectors", f"{bytes_['vectors'] / turns / 1024:.1f} kB", "with index"
            )
            asked = [f"s{at % sessions}" for at in range(sessions * 4)]
            await self._hydrate(client, asked, recall=True)
            cpu = await _cpu_ms(server, lambda: self._hydrate(client, asked, recall=True))
            self.add("processor time of a hydrate with recall", f"{cpu / len(asked):.1f} ms", "the query embedded here")
            self.add(
                "memory of a sidecar with its own embedder, nothing cached", f"{empty_mb:.0f} MB", "resident, int8"
            )
            self.add(f"the same with {sessions} subjects recalled", f"{server.rss_mb:.0f} MB", "resident")

    async def _embedder(self) -> None:
        """How much a processor embeds."""
        embedder = await asyncio.to_thread(Embedder, Model.open(self._models / MODEL))
        for tokens, texts in ((15, 400), (110, 100)):
            said = [seed.sized(self._random, self._count, "user", tokens) for _ in range(texts)]
            started = time.process_time()
            for text in said:
                embedder.embed_one(text, query=False)
            ms = (time.process_time() - started) * 1000 / texts
            self.add(
                f"processor time of a text of {tokens} tokens", f"{ms:.1f} ms", f"int8: {1000 / ms:.0f} texts/s a core"
            )

    # --- the deployment

    async def _database(self) -> str:
        database = self._postgres.create_database()
        with self._postgres.connect(database) as db:
            db.execute("CREATE EXTENSION IF NOT EXISTS vector")
            if not db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchall():
                db.execute(f"CREATE ROLE {ROLE} LOGIN")
        await migrate(self._postgres.dsn(database), grant_to=[ROLE])
        return database

    @contextlib.asynccontextmanager
    async def _served(self, database: str, **settings: Any) -> AsyncIterator[tuple[Child, standpipe.Client]]:
        number = next(self._sockets)
        socket = self._work / f"{number}.sock"
        stores = {
            "record": self._postgres.dsn(database, user=ROLE),
            "record_migrate": False,
            "hot": f"{self._redis.url}/{number}",
            "encryption_keys_file": keys.key_file(),
        }
        common = {"models_dir": str(self._models), "tokenizers": [TOKENIZER]}
        async with (
            child("standpipe", socket, **stores, **common, **settings) as server,
            standpipe.connect(f"unix:{socket}", deadline_ms=60_000) as client,
        ):
            await client.policies.publish(POLICY)
            await client.policies.set_route("default", "bench", 1)
            yield server, client

    async def _trusted(self, client: standpipe.Client) -> None:
        """Wait until a hydrate is answered from Redis: a Redis that is new is trusted when the leases have ended."""
        session = client.session("first", subject="first")
        await session.commit([user("Good morning."), assistant("Good morning.")], mode="append")
        give_up = time.monotonic() + 60
        while (await session.hydrate(include=["policy", "history"])).timings.record_us:
            assert time.monotonic() < give_up, "Standpipe does not trust its Redis"
            await asyncio.sleep(0.1)

    async def _fill(self, client: standpipe.Client, sessions: int) -> None:
        async def converse(number: int) -> None:
            session = client.session(f"s{number}", subject=f"s{number}")
            for _ in range(TURNS):
                said = [seed.sized(self._random, self._count, who, 130) for who in ("user", "assistant")]
                await session.commit([user(said[0]), assistant(said[1])], mode="append")

        await _some_at_once(converse, range(sessions), at_once=4)

    async def _hydrate(self, client: standpipe.Client, sessions: list[str], *, recall: bool) -> None:
        include = ["policy", "summary", "history", *(["recall"] if recall else [])]

        async def one(name: str) -> None:
            await client.session(name, subject=name).hydrate(seed.question(self._random), include=include)

        await _some_at_once(one, sessions, at_once=4)

    # --- what the stores say

    def _bytes(self, database: str) -> dict[str, int]:
        """Return bytes on disk by table, with indexes and what is stored out of line; partitions as their table."""
        with self._postgres.connect(database) as db:
            rows = db.execute(
                "SELECT regexp_replace(c.relname, '_[0-9][0-9]$', ''), sum(pg_total_relation_size(c.oid))::bigint"
                " FROM pg_class c WHERE c.relnamespace = 'standpipe'::regnamespace AND c.relkind = 'r' GROUP BY 1"
            )
            return dict(rows.fetchall())

    def _wal(self) -> int:
        with self._postgres.connect() as db:
            ((position,),) = db.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()
            return int(position)

    def _embedded(self, database: str) -> bool:
        with self._postgres.connect(database) as db:
            return db.execute("SELECT 1 FROM standpipe.work LIMIT 1").fetchall() == []

    def _redis_bytes(self) -> int:
        with self._redis.client() as client:
            return int(client.info("memory")["used_memory"])

    async def _connections(self, client: standpipe.Client, *, callers: int) -> int:
        """Return the most connections of the role while so many are at work."""

        def count() -> int:
            with self._postgres.connect() as db:
                rows = db.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", (ROLE,)).fetchall()
            return int(rows[0][0])

        async def commit(number: int) -> None:
            session = client.session(f"load{number}", subject=f"load{number}")
            for _ in range(20):
                await session.commit([user("One more."), assistant("Noted.")], mode="append")

        load = asyncio.gather(*(commit(number) for number in range(callers)))
        most = 0
        while True:
            most = max(most, await asyncio.to_thread(count))
            if load.done():
                break
            await asyncio.sleep(0.01)
        await load
        return most


async def _cpu_ms(server: Child, work: Callable[[], Awaitable[None]]) -> float:
    """Return the processor time that a process takes while something is done."""

    def spent_s() -> float:
        times = psutil.Process(server.process.pid).cpu_times()
        return times.user + times.system

    before = spent_s()
    await work()
    return (spent_s() - before) * 1000


async def _some_at_once(work: Callable[[Any], Awaitable[None]], over: Any, *, at_once: int) -> None:
    left: Iterator[Any] = iter(over)

    async def worker() -> None:
        for one in left:
            await work(one)

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def _run(models: Path, sessions: int) -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="standpipe-sizing-") as work,
        Postgres(durable=True, wal_level="replica") as postgres,
        Redis() as redis,
    ):
        sizing = Sizing(Path(work), models, postgres=postgres, redis=redis, sessions=sessions)
        await sizing.measure()
        return sizing.rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sizing", description=__doc__)
    default = os.environ.get("STANDPIPE_MODELS_DIR") or ".cache/models"
    parser.add_argument("--models-dir", type=Path, default=Path(default))
    parser.add_argument("--sessions", type=int, default=100, help="of 20 turns each")
    given = parser.parse_args()
    rows = asyncio.run(_run(given.models_dir.resolve(), given.sessions))
    print("\n| | measured | |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.value} | {row.how} |")


if __name__ == "__main__":
    main()
