"""The Redis engine against the hot contract, on a real server; and what is its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import exceptions

from sidecar import limits
from sidecar.errors import ConfigInvalid, HotUnavailable
from sidecar.finding import Outcome
from sidecar.stores import redis as engine
from sidecar.stores.hot import SLOTS, Place, Ticket
from sidecar.stores.redis import Address, RedisHot, key_of
from sidecar.view import View
from tests.contract.hot_suite import CoherentHotSuite, Evict, HotView, Log, Make, PassTime, folded, key
from tests.contract.test_hot_memory import Clock
from tests.servers import Redis

PATIENT_MS = 10_000
"""A timeout that no slow machine reaches."""


@pytest.fixture
def clock() -> Clock:
    """Make the clock of what the process holds."""
    return Clock()


class TestRedisHot(CoherentHotSuite):
    """One server."""

    @pytest.fixture
    def server(self, redis_server: Redis) -> Redis:
        """Return the server."""
        return redis_server

    @pytest.fixture
    async def make(self, clock: Clock, server: Redis) -> AsyncIterator[Make]:
        """Make engines, each as a pod of its own."""
        made: list[RedisHot[View]] = []

        async def make_one(**options: Any) -> HotView:
            made.append(RedisHot(f"redis+unix://{server.socket}", timeout_ms=PATIENT_MS, clock=clock, **options))
            return made[-1]

        yield make_one
        for one in made:
            await one.close()

    @pytest.fixture
    async def pass_time(self, clock: Clock, server: Redis) -> PassTime:
        """Set the clock forward, and bring every key's end nearer."""

        async def pass_seconds(seconds: float) -> None:
            clock.now_s += seconds
            with server.client() as client:
                for key in client.scan_iter():
                    client.pexpire(key, max(0, client.pttl(key) - round(seconds * 1000)))

        return pass_seconds

    @pytest.fixture
    async def evict(self, server: Redis) -> Evict:
        """Delete the key."""

        async def delete(tenant: str, session: str) -> None:
            assert server.call("DEL", key_of(tenant, session).decode()) == 1

        return delete


# --- the server -----------------------------------------------------------------------------------------------


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """Start a server that a test may do to what it likes."""
    with Redis() as server:
        yield server


@asynccontextmanager
async def pod(url: str, **options: Any) -> AsyncIterator[RedisHot[View]]:
    """Make an engine for an address."""
    hot: RedisHot[View] = RedisHot(url, **{"timeout_ms": PATIENT_MS, **options})
    try:
        await hot.open()
        yield hot
    finally:
        await hot.close()


async def test_a_server_that_forgot_its_scripts_learns_them_again(redis_server: Redis) -> None:
    """SCRIPT FLUSH, as a restart, costs one call a second trip and nothing else."""
    async with pod(redis_server.url) as hot:
        log = Log(key())
        log.append()
        for step in range(3):
            redis_server.call("SCRIPT", "FLUSH")
            ticket = (await hot.fetch(log.key)).ticket
            redis_server.call("SCRIPT", "FLUSH")
            await hot.publish("acme", log.key.session, log.state(), ticket=ticket, grant=step)
        assert (await hot.fetch(log.key)).grant == 2


async def test_a_restart_is_another_incarnation(own_redis: Redis) -> None:
    """A server that comes back, empty or not, is not the one that was trusted; the engine finds it by itself (H11)."""
    async with pod(own_redis.url, timeout_ms=5000) as hot:
        log = Log(key())
        before = (await hot.fetch(log.key)).ticket.place.incarnation
        assert hot.slots_of(before) == ((0, SLOTS),)
        await asyncio.to_thread(own_redis.kill9)
        with pytest.raises(HotUnavailable):
            await hot.fetch(log.key)
        await asyncio.to_thread(own_redis.start)
        after = (await hot.fetch(log.key)).ticket.place.incarnation
        assert after not in ("", before)
        assert (hot.slots_of(before), hot.slots_of(after)) == ((), ((0, SLOTS),))


async def test_a_server_that_became_a_replica_has_no_incarnation(redis_server: Redis, own_redis: Redis) -> None:
    """What a replica refuses is HotUnavailable; promoted again, it is another server than before (H11, H13)."""
    async with pod(own_redis.url) as hot:
        log = Log(key())
        before = (await hot.fetch(log.key)).ticket
        own_redis.call("REPLICAOF", "127.0.0.1", redis_server.port)
        with pytest.raises(HotUnavailable):
            await hot.announce("acme", log.key.session, mark="m", lasts_ms=1000)
        own_redis.call("REPLICAOF", "NO", "ONE")
        after = (await hot.fetch(log.key)).ticket
        assert after.place.incarnation not in ("", before.place.incarnation)


async def test_a_replica_that_still_has_the_entry_answers_without_a_name(own_redis: Redis) -> None:
    """A demoted server whose data is still there shows it, and nobody takes it for the primary's word (H11)."""
    async with pod(own_redis.url) as hot:
        log = Log(key())
        log.append()
        ticket = (await hot.fetch(log.key)).ticket
        await hot.publish("acme", log.key.session, log.state(), ticket=ticket, grant=1)
        own_redis.call("REPLICAOF", "127.0.0.1", 1)
        found = await hot.fetch(log.key)
        assert (found.version, found.ticket.place.incarnation) == (1, "")
        assert hot.slots_of("") == ()


async def test_a_server_that_hangs_is_left_alone(own_redis: Redis) -> None:
    """Calls end after limits.hot_timeout_ms; after a few the breaker is open, and closes when it is back (H13, P12)."""
    async with pod(own_redis.url, timeout_ms=limits.hot_timeout_ms) as hot:
        one = key()
        while (await hot.examine())[0].outcome == Outcome.FAILED:
            pass
        own_redis.pause()
        for _ in range(limits.breaker_failures_max):
            with pytest.raises(HotUnavailable):
                await hot.fetch(one)
        with pytest.raises(HotUnavailable, match="left alone"):
            await hot.fetch(one)
        own_redis.resume()
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(HotUnavailable):
                    assert (await hot.fetch(one)).version == 0
                    break
                await asyncio.sleep(0.01)


async def test_cut_off_calls_leave_connections_in_step(redis_server: Redis) -> None:
    """Whenever a caller gives up, no later call gets the answer that was meant for another (H13)."""
    async with pod(redis_server.url) as hot:
        logs = [Log(key()) for _ in range(8)]
        for number, log in enumerate(logs, 1):
            log.append(number)
            ticket = (await hot.fetch(log.key)).ticket
            await hot.publish("acme", log.key.session, log.state(), ticket=ticket, grant=1)
        for turn in range(40):
            calls = [asyncio.ensure_future(hot.fetch(log.key)) for log in logs]
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            for call in calls[turn % 3 :: 3]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            with contextlib.suppress(HotUnavailable):
                await hot.fetch(logs[0].key, deadline=time.monotonic() + turn / 100_000)
            assert [(await hot.fetch(log.key)).version for log in logs] == list(range(1, 9))


async def test_connections_are_bounded(own_redis: Redis) -> None:
    """However many calls are in flight, they share limits.hot_connections_max connections, and all are answered."""
    async with pod(own_redis.url) as hot:
        one = key()
        found = await asyncio.gather(*(hot.fetch(one) for _ in range(20 * limits.hot_connections_max)))
        assert len({each.ticket.life for each in found}) == 1
        named = [line for line in own_redis.call("CLIENT", "LIST").splitlines() if "evalsha" in line or "eval" in line]
        assert 1 < len(named) <= limits.hot_connections_max


async def test_eviction_is_harmless(own_redis: Redis) -> None:
    """A full server drops sessions, least recently used first; what is there is whole (H5, P4)."""
    own_redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    own_redis.call("CONFIG", "SET", "maxmemory", "4mb")
    async with pod(own_redis.url) as hot:
        assert [one for one in await hot.examine() if one.outcome != Outcome.OK] == []
        logs = [Log(key(), text="word " * 2000) for _ in range(100)]
        for log in logs:
            ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=60_000)
            log.append(5)
            await hot.publish("acme", log.key.session, log.state(), ticket=ticket, grant=1, mark="m")
        there = []
        for log in logs:
            found = await hot.fetch(log.key)
            there.append(found.version)
            assert found.version in (0, 5)
            assert found.grant == bool(found.version)
            assert not found.version or folded(found) == log.view()
        assert 10 < there.count(5) < 90
        assert there[-1] == 5


async def test_a_full_server_that_refuses_is_unavailable(own_redis: Redis) -> None:
    """Without eviction a full server refuses writes: HotUnavailable; examined, it says what to set (H13, H14)."""
    async with pod(own_redis.url) as hot:
        assert [one.outcome for one in await hot.examine() if one.check == "memory"] == [Outcome.WARNING]
        own_redis.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(HotUnavailable):
            await hot.fetch(key())


async def test_a_limited_user_is_enough(own_redis: Redis) -> None:
    """A user with the commands and keys that the module's text lists can do everything, with a password."""
    commands = re.search(r"``~standpipe1:\* ([^`]+)``", engine.__doc__ or "")
    assert commands
    own_redis.call("ACL", "SETUSER", "pod", "on", ">pass/word@1", "~standpipe1:*", *commands[1].split())
    async with pod(own_redis.url.replace("://", "://pod:pass%2Fword%401@")) as hot:
        log = Log(key())
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=1000)
        await hot.publish("acme", log.key.session, log.append(), ticket=ticket, grant=1, mark="m")
        await hot.publish("acme", log.key.session, log.state(), ticket=ticket, grant=1)
        await hot.withdraw("acme", log.key.session, ticket=ticket, mark="m", version=1)
        assert folded(await hot.fetch(log.key, ttl_s=5)) == log.view()
        assert [one for one in await hot.examine() if one.outcome == Outcome.FAILED] == []
        await hot.forget("acme", log.key.session)
        await hot.flush()
    async with pod(own_redis.url.replace("://", "://pod:wrong@")) as hot:
        with pytest.raises(HotUnavailable, match="Authentication"):
            await hot.fetch(key())
        assert [one.outcome for one in await hot.examine()] == [Outcome.FAILED]
    own_redis.call("ACL", "SETUSER", "pod", "-time")
    async with pod(own_redis.url.replace("://", "://pod:pass%2Fword%401@")) as hot:
        with pytest.raises(HotUnavailable):
            await hot.fetch(key())


def test_the_default_bounds_agree() -> None:
    """A tail holds a cold load as it is stored, and grows by as much again before it starts anew."""
    assert limits.hot_session_bytes_max >= 2 * (limits.view_bytes + limits.checkpoint_bytes)
    assert limits.hot_session_bytes_max < limits.view_cache_bytes


# --- the driver -----------------------------------------------------------------------------------------------


def _driver_errors() -> list[type[Exception]]:
    classes = [one for one in vars(exceptions).values() if isinstance(one, type) and issubclass(one, Exception)]
    return [one for one in classes if one.__module__.startswith("redis")]


@pytest.mark.parametrize("error", [*_driver_errors(), OSError, EOFError, RuntimeError], ids=lambda one: one.__name__)
async def test_no_exception_of_the_driver_leaves(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Whatever the driver raises, a caller sees HotUnavailable, without the driver's text (H13)."""
    async with pod(redis_server.url) as hot:

        async def fail(*_: object) -> None:
            raise error.__new__(error, "a text with content")

        monkeypatch.setattr(hot._client, "execute_command", fail)
        log = Log(key())
        state = log.append()
        ticket = Ticket(Place(0, ""), "", 0)
        for call in (
            hot.fetch(log.key),
            hot.announce("acme", "s", mark="m", lasts_ms=1),
            hot.publish("acme", "s", state, ticket=ticket, grant=1),
            hot.forget("acme", "s"),
        ):
            with pytest.raises(HotUnavailable) as caught:
                await call
            assert "content" not in str(caught.value)


# --- the address ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "kind", "hosts", "path", "options"),
    [
        ("redis://h", "single", [("h", 6379)], "", {}),
        ("redis://u:p%40:x@h:1/3", "single", [("h", 1)], "", {"username": "u", "password": "p@:x", "db": 3}),
        ("redis://:p@[::1]:7", "single", [("::1", 7)], "", {"password": "p"}),
        ("rediss://h?ca=/a/b.pem", "single", [("h", 6379)], "", {"ssl": True, "ssl_ca_certs": "/a/b.pem"}),
        ("redis+unix:///run/a%20b", "unix", [], "/run/a b", {}),
        ("redis+sentinel://a,b:2/m/4", "sentinel", [("a", 26379), ("b", 2)], "m", {"db": 4}),
        ("rediss+cluster://a:1,b:2", "cluster", [("a", 1), ("b", 2)], "", {"ssl": True}),
    ],
)
def test_an_address_is_read(
    address: str, kind: str, hosts: list[tuple[str, int]], path: str, options: dict[str, Any]
) -> None:
    """Each form of the address gives its servers, its master or socket, and its options."""
    read = Address.parse(address)
    given = {name: value for name, value in read.options.items() if value is not None}
    assert (read.kind, list(read.hosts), read.path, given) == (kind, hosts, path, options)


@pytest.mark.parametrize(
    "address",
    [
        "memory",
        "http://h",
        "redis://",
        "redis://a,b",
        "redis://h:0",
        "redis://h:99999",
        "redis://h:x",
        "redis://h/x",
        "redis://h?ca=/x",
        "rediss://h?colour=secret",
        "redis+unix://h/x",
        "redis+unix:",
        "rediss+unix:///x",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+cluster://h/1",
        "redis+cluster://h,",
        "redis://[h",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """What cannot be an address names the setting and what is wrong, without repeating what stands there."""
    with pytest.raises(ConfigInvalid) as caught:
        Address.parse(address)
    assert caught.value.field == "hot"
    assert "secret" not in caught.value.message
