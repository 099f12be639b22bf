"""Stores that are gone: slower without Redis, marked or refused without PostgreSQL, and whole again by itself (P12)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from sidecar.config import Config
from sidecar.errors import StoreUnavailable
from sidecar.server import Server
from sidecar.stores.postgres import PostgresRecord
from sidecar.stores.record import ChangesRead
from standpipe.v1 import bundle_pb2, context_pb2, fact_pb2, memory_pb2
from tests.e2e.pods import Pod, refusal_of, refused, settings, until
from tests.servers import LOOPBACK, Postgres, Redis

STALE = """
name: stale
sources: {history: {}}
freshness: {stale: true}
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server that these tests may stop."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """Likewise."""
    with Redis() as server:
        yield server


@dataclass
class Stores:
    """Both servers, with one database."""

    postgres: Postgres
    redis: Redis
    record: str

    @contextlib.asynccontextmanager
    async def serve(self, **changes: Any) -> AsyncIterator[Pod]:
        """Serve in this process."""
        config = settings(self.redis.directory) | {"record": self.record, "hot": self.redis.url} | changes
        async with Server(Config(**config)) as server:
            pod = Pod(f"{LOOPBACK}:{server.ports[0]}")
            try:
                yield pod
            finally:
                await pod.close()


@pytest.fixture
def stores(postgres: Postgres, redis: Redis) -> Iterator[Stores]:
    """Servers that run, now and after the test, and an empty database."""
    name = postgres.create_database()
    yield Stores(postgres, redis, postgres.dsn(name))
    for server in (postgres, redis):
        if server.running:
            server.resume()
        else:
            server.start()
    redis.flush()
    postgres.drop_database(name)


async def in_thread(work: Callable[[], object]) -> None:
    """Do what blocks."""
    await asyncio.to_thread(work)


async def hot(pod: Pod, session: str = "s") -> None:
    """Wait until hydrates of a session that show nothing of memory need no record store."""

    async def done() -> bool:
        return (await pod.hydrate(session, include=[bundle_pb2.SOURCE_HISTORY])).timings.record_us == 0

    await until(done)


async def in_time(work: Awaitable[Any], *, seconds: float) -> Any:
    """Wait for what must come, or fail, within its deadline and a little."""
    return await asyncio.wait_for(work, seconds)


async def test_redis_may_be_missing_from_the_start(stores: Stores) -> None:
    """A sidecar starts, commits and hydrates without its hot store, and uses it when it comes."""
    await in_thread(stores.redis.kill9)
    async with stores.serve() as pod:
        assert (await pod.append("s", "r-1", "one")).result.version == 1
        assert (await pod.hydrate("s")).bundle.session_version == 1
        await in_thread(stores.redis.start)
        await hot(pod)
        assert (await pod.append("s", "r-2", "two")).result.version == 2
        assert (await pod.hydrate("s")).bundle.session_version == 2


async def test_without_redis_it_is_slower_and_whole(stores: Stores) -> None:
    """If Redis dies, one commit waits for the leases to end, the next do not; hydrates stay fresh; then it is hot."""
    async with stores.serve() as pod, stores.serve() as other:
        await pod.append("s", "r-0", "zero")
        await hot(pod)
        await hot(other)
        await in_thread(stores.redis.kill9)
        for number in range(1, 6):
            done = await pod.append("s", f"r-{number}", f"turn {number}")
            assert done.result.version == number + 1
            for one in (pod, other):
                answer = await one.hydrate("s")
                assert answer.bundle.session_version == number + 1
                assert not answer.degraded
        await in_thread(stores.redis.start)
        await hot(pod)
        await hot(other)
        assert (await other.hydrate("s")).bundle.session_version == 6


async def test_a_redis_that_hangs_holds_nobody_up(stores: Stores) -> None:
    """A Redis that takes connections and does not answer costs each call its bound, then nothing: it is left alone."""
    async with stores.serve() as pod:
        await pod.append("s", "r-0", "zero")
        await hot(pod)
        stores.redis.pause()
        for number in range(1, 20):
            await in_time(pod.append("s", f"r-{number}", f"turn {number}"), seconds=8)
            assert (await in_time(pod.hydrate("s"), seconds=5)).bundle.session_version == number + 1
        started = time.monotonic()
        answers = await asyncio.gather(*(pod.hydrate("s") for _ in range(32)))
        assert {answer.bundle.session_version for answer in answers} == {20}
        print(f"32 hydrates beside a Redis that hangs: {time.monotonic() - started:.3f} s")
        stores.redis.resume()
        await hot(pod)


async def test_a_hot_session_answers_marked_while_postgresql_is_down(stores: Stores) -> None:
    """Where the policy allows, a session at hand is shown and named stale; commits are UNAVAILABLE, with a pause."""
    async with stores.serve() as pod:
        await pod.publish(STALE)
        await pod.route("stale", "stale", 1)
        await pod.append("s", "r-1", "one")
        await hot(pod)
        shown = await pod.hydrate("s", route="stale")
        assert not shown.degraded
        await in_thread(stores.postgres.kill9)
        await asyncio.sleep(1.2)  # until no lease holds
        answer = await pod.hydrate("s", route="stale", timeout_s=3)
        assert [(one.source, one.cause) for one in answer.degraded] == [(bundle_pb2.SOURCE_HISTORY, "stale")]
        assert answer.bundle.fingerprint == shown.bundle.fingerprint
        for work in (pod.hydrate("s"), pod.append("s", "r-2", "two")):  # this route's policy does not allow it
            refusal = await in_time(refused(work), seconds=25)
            assert (refusal.status, refusal.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
            assert refusal.retry_ms
        refusal = await refused(
            pod.hydrate("s", route="stale", consistency=context_pb2.Consistency(fully_consistent=True), timeout_s=3)
        )
        assert refusal.status in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        await in_thread(stores.postgres.start)

        async def committed() -> bool:
            try:
                return (await pod.append("s", "r-2", "two")).result.version == 2
            except grpc.aio.AioRpcError as error:
                return refusal_of(error).status != "UNAVAILABLE"

        await until(committed)
        answer = await pod.hydrate("s", route="stale")
        assert (answer.bundle.session_version, list(answer.degraded)) == (2, [])


async def test_a_hot_session_goes_without_what_is_known(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: a session that is proven fresh is shown while the record store is away, and its profile named missing."""
    async with stores.serve() as pod:
        await pod.append("s", "r-1", "one")
        profile = [fact_pb2.ProfileAttribute(name="tone", value="formal")]
        request = memory_pb2.PutProfileRequest(subject_id="anna", request_id="p-1", attributes=profile)
        await pod.memory.PutProfile(request, timeout=pod.timeout_s)
        whole = await pod.hydrate("s")
        assert not whole.degraded
        fetch = PostgresRecord.fetch

        async def failing(record: PostgresRecord, reads: Any, **fields: Any) -> Any:
            if any(isinstance(read, ChangesRead) for read in reads):
                raise StoreUnavailable("it does not answer")
            return await fetch(record, reads, **fields)

        await hot(pod)
        monkeypatch.setattr(PostgresRecord, "fetch", failing)
        answer = await pod.hydrate("s")
        assert [(one.source, one.cause) for one in answer.degraded] == [
            (bundle_pb2.SOURCE_PROFILE, "store_unavailable")
        ]
        assert list(answer.bundle.sections) == list(whole.bundle.sections)[1:]
        assert (await refused(pod.hydrate("s", "what was it"))).reason == "STORE_UNAVAILABLE"
        monkeypatch.undo()
        assert (await pod.replay(answer.receipt)).bundle == answer.bundle
        assert (await pod.hydrate("s")).bundle == whole.bundle


async def test_a_postgresql_that_hangs_keeps_deadlines(stores: Stores) -> None:
    """A server that takes connections and does not answer: every call ends at its deadline, and a hot one is shown."""
    async with stores.serve() as pod:
        await pod.publish(STALE)
        await pod.route("stale", "stale", 1)
        await pod.append("s", "r-1", "one")
        await hot(pod)
        await pod.hydrate("s", route="stale")
        stores.postgres.pause()
        await asyncio.sleep(1.2)
        answer = await in_time(pod.hydrate("s", route="stale", timeout_s=1), seconds=2)
        assert [one.cause for one in answer.degraded] == ["stale"]
        refusal = await in_time(refused(pod.hydrate("s", timeout_s=1)), seconds=2)
        assert refusal.status in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        stores.postgres.resume()

        async def back() -> bool:
            try:
                return not (await pod.hydrate("s", route="stale")).degraded
            except grpc.aio.AioRpcError:
                return False

        await until(back)


async def test_a_store_that_comes_back_meets_no_herd(stores: Stores) -> None:
    """While PostgreSQL is down, calls fail at once and few connections are tried; when it is back, all go through."""
    async with stores.serve() as pod:
        await pod.append("s", "r-0", "zero")
        await in_thread(stores.postgres.kill9)
        refusals = 0
        started = time.monotonic()
        while time.monotonic() - started < 3:
            work = [refused(pod.append(f"s-{number}", "r", "x")) for number in range(16)]
            refusals += len([one for one in await asyncio.gather(*work) if one.status == "UNAVAILABLE"])
        assert refusals >= 64  # they do not each wait for a connection
        await in_thread(stores.postgres.start)

        async def back() -> bool:
            try:
                return (await pod.append("s", "r-1", "one")).result.version == 2
            except grpc.aio.AioRpcError:
                return False

        await until(back)
        done = await asyncio.gather(*(pod.append(f"s-{number}", "again", "x") for number in range(64)))
        assert len(done) == 64
