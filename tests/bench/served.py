"""The same figures on PostgreSQL and Redis: real servers on the loopback, PostgreSQL as durable as it is in earnest.

The floor's handler does what no sidecar can do without, with the same drivers: a hydrate's asks Redis, in one pipeline,
for as many bytes as it answers with; a commit's inserts the request in one transaction and makes one call to Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psycopg

from sidecar.stores.postgres import migrate
from standpipe.v1 import context_pb2
from tests.bench.figures import Bench, Call, Child, child
from tests.servers import Postgres, Redis

ROLE = "pod"
"""Whom Standpipe logs in as: row-level security binds it, as it does not bind the owner."""

TRUSTED_S = 60.0
"""How long Standpipe may take until it trusts a Redis that it has never seen."""


class ServedBench(Bench):
    """Figures on two servers, which the caller has started."""

    title = "PostgreSQL and Redis"
    floor_is = "(bare echo + one Redis pipeline)"
    insert_is = "bare echo + one bare INSERT transaction + one Redis call"
    scan_is = "one bare exact pgvector query"
    scan_bar = 0.5

    def __init__(self, work: Path, models: Path, *, postgres: Postgres, redis: Redis, **counts: int) -> None:
        super().__init__(work, models, **counts)
        self.postgres = postgres
        self.redis = redis
        self._numbers = itertools.count(1)
        self._addresses: dict[str, dict[str, Any]] = {}
        with postgres.connect() as db:
            db.execute(f"CREATE ROLE {ROLE} LOGIN")
            db.execute("CREATE EXTENSION vector")
            db.execute("CREATE TABLE log (version bigserial PRIMARY KEY, body bytea)")

    def addresses(self, db: str) -> dict[str, Any]:
        return self._addresses[db]

    async def fill(self, *, memories: int) -> None:
        for name in ("plain", "plain2", "memory", "clear"):
            database = self.postgres.create_database()
            await migrate(self.postgres.dsn(database), grant_to=[ROLE])
            self._addresses[name] = {
                "record": self.postgres.dsn(database, user=ROLE, address=self.postgres.address),
                "record_migrate": False,
                "hot": f"{self.redis.url}/{next(self._numbers)}",
            }
        await super().fill(memories=memories)
        # From here on it waits for the disk, as it does in earnest.
        self.postgres.stop()
        self.postgres.settings |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
        self.postgres.start()

    def floor(self) -> contextlib.AbstractAsyncContextManager[Child]:
        return child("floor", self._socket(), redis=self.redis.url, postgres=self._bare)

    @property
    def _bare(self) -> str:
        return self.postgres.dsn(address=self.postgres.address)

    async def warm_up(self, hydrate: Call) -> None:
        """Hydrate until the record store is asked no more: a Redis is trusted when the leases without it have ended.

        With recall it is asked for ever. A long session without a checkpoint may not be loaded at the first attempt.
        """
        give_up = time.monotonic() + TRUSTED_S
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = context_pb2.HydrateContextResponse.FromString(await hydrate())
                if not answer.timings.record_us or answer.HasField("recall"):
                    break
            if time.monotonic() > give_up:
                raise TimeoutError("Standpipe does not trust its Redis")
            await asyncio.sleep(0.05)
        await super().warm_up(hydrate)

    @contextlib.asynccontextmanager
    async def scan(self, count: int) -> AsyncIterator[Call]:
        query = "SELECT id FROM bare ORDER BY vector <#> %s LIMIT 200"
        asked = (_vector(self.vectors[3]),)
        async with await psycopg.AsyncConnection.connect(self._bare, autocommit=True) as db:
            # Half precision: the quicker of pgvector's types for an exact search.
            await db.execute("DROP TABLE IF EXISTS bare, sample")
            await db.execute("CREATE TABLE sample (vector halfvec(384))")
            rows = [(_vector(vector),) for vector in self.vectors]
            await db.cursor().executemany("INSERT INTO sample VALUES (%s)", rows)
            await db.execute("CREATE TABLE bare (id bigserial, vector halfvec(384))")
            copies = count // len(self.vectors)
            await db.execute("INSERT INTO bare (vector) SELECT vector FROM sample, generate_series(1, %s)", (copies,))
            await db.execute("VACUUM ANALYZE bare")

            async def search() -> None:
                found = await (await db.execute(query, asked)).fetchall()
                assert len(found) == 200

            yield search

    @contextlib.asynccontextmanager
    async def bare_commit(self, floor: Child, size: int, request: bytes) -> AsyncIterator[dict[str, Call]]:
        yield {"floor": lambda: floor.call(f"/commit/{size}", request)}

    def by_hand(self, history: list[dict[str, str]], texts: list[str], vectors: np.ndarray) -> dict[str, Any]:
        with self.redis.client() as client:
            client.set("hand", json.dumps(history))
        with self.postgres.connect() as db:
            db.execute("CREATE TABLE hand (id bigserial PRIMARY KEY, text text, vector halfvec(384))")
            rows = [(text, _vector(vector)) for text, vector in zip(texts, vectors, strict=True)]
            db.cursor().executemany("INSERT INTO hand (text, vector) VALUES (%s, %s)", rows)
            db.execute("VACUUM ANALYZE hand")
        return {"redis": self.redis.url, "postgres": self._bare}


def _vector(vector: np.ndarray) -> str:
    """Return a vector as pgvector reads it."""
    return str(vector.tolist())
