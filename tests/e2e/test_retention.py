"""Logs that have outstayed their time, and sessions that come back: two pods, each with caches of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar import limits
from sidecar.config import Config
from sidecar.retention import Retention
from sidecar.server import Server
from sidecar.stores.hot import HotKey
from sidecar.stores.record import ExpiredRead, Read, SessionState
from sidecar.telemetry import Log
from standpipe.v1 import context_pb2, session_pb2
from tests.e2e.pods import HISTORY, RECALL, SUMMARY, Local, budget, exact, refused, settings, shown, until
from tests.servers import Postgres, Redis

KEPT_S = 7200
DOCUMENT = f"name: kept\nttl: {{session_log_s: {KEPT_S}}}"


@dataclass
class Place:
    """Stores that pods share, and a way to let time pass in them."""

    config: dict[str, Any]
    execute: Callable[[str, str], object]

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Local]:
        """Serve in this process; its own sweeper has had its first turn before the test's data is there."""
        log = io.StringIO()
        server = Server(Config(**self.config))
        server.telemetry.log = Log(log)
        async with server:
            pod = Local(server, log)
            try:
                yield pod
            finally:
                await pod.close()
        assert '"defect"' not in log.getvalue(), log.getvalue()

    def outstay(self, session: str) -> None:
        """Let the time of a session's log pass."""
        self.execute("UPDATE {}sessions SET updated_at_us = 1 WHERE session = {}", session)


@pytest.fixture(params=["embedded", "servers"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Both pairs of engines."""
    if request.param == "embedded":
        path = tmp_path / "record.db"

        def execute(statement: str, value: str) -> object:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
                return db.execute(statement.format("", "?"), (value,)).fetchall()

        yield Place(settings(path), execute)
        return
    postgres: Postgres = request.getfixturevalue("postgres_server")
    redis: Redis = request.getfixturevalue("redis_server")
    name = postgres.create_database()

    def change(statement: str, value: str) -> object:
        with postgres.connect(name) as db:
            return db.execute(statement.format("standpipe.", "%s"), (value,))

    yield Place(settings(tmp_path) | {"record": postgres.dsn(name), "hot": redis.url}, change)
    postgres.drop_database(name)


def sweeper(pod: Local) -> Retention:
    """Return a sweeper beside a pod, on its stores."""
    return Retention(pod.server.record, pod.server.sessions.hot, pod.server.telemetry)


async def keep(pod: Local) -> None:
    """Have logs kept for a time."""
    published = await pod.publish(DOCUMENT)
    await pod.route("default", "kept", published.policy.version)
    await pod.hydrate("anything")


async def test_what_has_outstayed_its_time_is_gone_everywhere(place: Place) -> None:
    """Its session takes and shows nothing, other sessions recall none of it, and no receipt helps (P11, P7)."""
    async with place.serve() as one, place.serve() as other:
        await keep(one)
        first = await one.commit("old", "r1", "The locker has the code 7714.", expected=0)
        await one.append("kept", "r1", "The garden has three plum trees.")
        for pod in (one, other):  # all caches are warm
            seen = await pod.hydrate("new", "which code has the locker", budget=budget(2000))
            mine = await pod.hydrate("old", "which code has the locker")
            assert "7714" in shown(seen.bundle, RECALL)
            assert seen.recall.items == 2
        innocent = await one.hydrate("kept", "", include=[HISTORY])
        place.outstay("old")
        assert await sweeper(one).sweep() == 1
        for pod in (other, one):
            for wish in (None, context_pb2.Consistency(fully_consistent=True)):
                answer = await refused(pod.hydrate("old", consistency=wish))
                assert (answer.status, answer.reason) == ("FAILED_PRECONDITION", "SESSION_EXPIRED")
            at = context_pb2.Consistency(at_least_as_fresh=first.result.consistency_token)
            late: list[Awaitable[Any]] = [
                pod.hydrate("old", consistency=at),
                pod.commit("old", "r1", "The locker has the code 7714.", expected=0),
                pod.commit("old", "r2", "hello?", expected=1),
                pod.append("old", "r3", "hello?"),
                pod.end("old", "r4"),
                pod.events("old"),
            ]
            assert {(await refused(work)).reason for work in late} == {"SESSION_EXPIRED"}
            found = (await pod.session("old")).session
            assert (found.expired, found.version, found.head_hash) == (True, 1, first.result.event_hash)
            again = await pod.hydrate("new", "which code has the locker", budget=budget(2000))
            assert "7714" not in exact(again).decode("latin-1")
            assert again.recall.items == 1
            for receipt in (seen.receipt, mine.receipt):
                assert (await refused(pod.replay(receipt))).reason == "REPLAY_UNAVAILABLE"
            assert exact((await pod.replay(innocent.receipt)).bundle) == exact(innocent.bundle)
            assert exact((await pod.replay(again.receipt)).bundle) == exact(again.bundle)
        assert "a replayed bundle differs" not in one.log() + other.log()
        listed = await one.sessions.ListSessions(session_pb2.ListSessionsRequest())
        assert {found.session_id: found.expired for found in listed.sessions} == {"kept": False, "old": True}


async def test_the_policy_of_the_bundle_says_how_long(place: Place) -> None:
    """A turn keeps its log as the policy says whose bundle it answers, else as the default route's does."""
    async with place.serve() as one, place.serve() as other:
        await one.append("ever", "r1", "before there was a policy")
        await keep(one)
        published = await one.publish("name: brief\nttl: {session_log_s: 3600}")
        await one.route("brief", "brief", published.policy.version)
        receipt = (await one.hydrate("brief", route="brief")).receipt
        await other.append("brief", "r1", "hello", receipt=receipt)
        await other.append("plain", "r1", "hello")
        kept = {}
        for name in ("ever", "brief", "plain"):
            found = (await one.session(name)).session
            until_s = found.expires_at.ToMicroseconds() if found.HasField("expires_at") else None
            kept[name] = until_s and until_s - found.updated_at.ToMicroseconds()
        assert kept == {"ever": None, "brief": 3600 * 1_000_000, "plain": KEPT_S * 1_000_000}
        await one.end("brief", "r2")
        found = (await one.session("brief")).session
        assert found.expires_at.ToMicroseconds() - found.updated_at.ToMicroseconds() == 3600 * 1_000_000


async def test_a_sweeper_that_died_is_followed(place: Place) -> None:
    """A log that was removed, and not forgotten by the hot store, is taken up by the next sweeper (R23)."""
    async with place.serve() as one, place.serve() as other:
        await keep(one)
        await one.append("old", "r1", "hello")
        await until(lambda: _is_hot(other, "old"))
        place.outstay("old")
        assert await one.server.record.sweep(one.server.config.tenant, "old")
        assert await one.server.record.fetch([ExpiredRead(count_max=9)]) == [[(one.server.config.tenant, "old")]]
        assert await sweeper(one).sweep() == 0
        assert (await refused(other.hydrate("old"))).reason == "SESSION_EXPIRED"
        assert await one.server.record.fetch([ExpiredRead(count_max=9)]) == [[]]


async def _is_hot(pod: Local, session: str) -> bool:
    """Return whether hydrates of a session need no record store, where pods share a hot store."""
    answer = await pod.hydrate(session, include=[HISTORY])
    return answer.timings.record_us == 0 or pod.server.config.hot == "memory"


async def test_a_late_reader_publishes_nothing_of_a_swept_session(place: Place) -> None:
    """Who looked before a sweep, and shares what it read before, leaves nothing behind in the hot store (H10)."""
    async with place.serve() as one, place.serve() as other:
        await keep(one)
        await one.append("old", "r1", "hello")
        sessions, tenant = other.server.sessions, other.server.config.tenant
        await sessions.hot.forget(tenant, "old")
        look = await sessions.look(tenant, "old", "o200k_base")
        read = sessions.read(tenant, "old", "o200k_base", look.view)
        (state,) = await other.server.record.fetch([read])
        place.outstay("old")
        assert await sweeper(one).sweep() == 1
        await sessions.share(look, cast(SessionState, state))
        for pod in (one, other):
            found = await pod.server.sessions.hot.fetch(look.key)
            assert (found.view, found.gained, found.version) == (None, None, 0)
            assert (await refused(pod.hydrate("old"))).reason == "SESSION_EXPIRED"


@pytest.mark.parametrize("gone", ["flushed", "outlived"])
async def test_a_session_long_gone_from_the_hot_store_comes_back(
    place: Place, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next bundle is the same to the byte, and costs no more than a checkpoint and a window of the log (P9)."""
    async with place.serve() as pod:
        published = await pod.publish("name: hasty\nttl: {session_hot_s: 1}")
        await pod.route("default", "hasty", published.policy.version)
        for number in range(120):
            await pod.append("s", f"r{number}", *(f"{number} {part} " + "plum tree " * 800 for part in range(2)))
        before = await pod.hydrate("s", include=[SUMMARY, HISTORY])
        await pod.server.sessions.drain()
        hot = pod.server.sessions.hot
        if gone == "flushed":
            await hot.flush()
        else:

            async def empty() -> bool:
                return hot.held(HotKey(pod.server.config.tenant, "s", "o200k_base")) is None

            await asyncio.sleep(1.5)
            await until(empty)
        read_bytes = 0
        fetch = pod.server.record.fetch

        async def counting(reads: list[Read], **fields: Any) -> list[Any]:
            nonlocal read_bytes
            answers = await fetch(reads, **fields)
            for answer in answers:
                if isinstance(answer, SessionState):
                    start = answer.checkpoint.weight_bytes if answer.checkpoint else 0
                    read_bytes = answer.head.weight_bytes - start
            return answers

        monkeypatch.setattr(pod.server.record, "fetch", counting)
        after = await pod.hydrate("s", include=[SUMMARY, HISTORY])
        assert exact(after.bundle) == exact(before.bundle)
        turn_bytes = 2 * (len("plum tree ") * 800 + 32)
        assert 0 < read_bytes <= limits.view_bytes + limits.checkpoint_bytes + turn_bytes
