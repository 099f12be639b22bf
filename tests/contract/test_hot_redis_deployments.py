"""The Redis engine on what platform teams run: a cluster, sentinels, TLS. And on the worst moments of each."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sidecar import limits
from sidecar.errors import HotUnavailable
from sidecar.finding import Outcome
from sidecar.stores.hot import SLOTS
from sidecar.stores.redis import RedisHot, key_of, slot_of
from sidecar.view import View
from tests.contract.hot_suite import CoherentHotSuite, Evict, HotView, Log, Make, PassTime, folded, key
from tests.contract.test_hot_memory import Clock
from tests.contract.test_hot_redis import PATIENT_MS, pod
from tests.servers import Redis, RedisCluster, Sentinel

T = TypeVar("T")


@pytest.fixture
def clock() -> Clock:
    """Make the clock of what the process holds."""
    return Clock()


async def until_it_works(call: Callable[[], Awaitable[T]], *, good: Callable[[T], bool] = bool) -> T:
    """Repeat a call until the hot store answers, and well."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(HotUnavailable):
                answer = await call()
                if good(answer):
                    return answer
            await asyncio.sleep(0.02)


# --- a cluster ------------------------------------------------------------------------------------------------


class TestRedisClusterHot(CoherentHotSuite):
    """Three primaries with a replica each."""

    @pytest.fixture
    async def make(self, clock: Clock, redis_cluster: RedisCluster) -> AsyncIterator[Make]:
        """Make engines, each as a pod of its own."""
        redis_cluster.flush()
        made: list[RedisHot[View]] = []

        async def make_one(**options: Any) -> HotView:
            made.append(RedisHot(redis_cluster.url, timeout_ms=PATIENT_MS, clock=clock, **options))
            return made[-1]

        yield make_one
        for one in made:
            await one.close()

    @pytest.fixture
    async def pass_time(self, clock: Clock, redis_cluster: RedisCluster) -> PassTime:
        """Set the clock forward, and bring every key's end nearer."""

        async def pass_seconds(seconds: float) -> None:
            clock.now_s += seconds
            for node in redis_cluster.masters():
                with node.client() as client:
                    for key in client.scan_iter():
                        client.pexpire(key, max(0, client.pttl(key) - round(seconds * 1000)))

        return pass_seconds

    @pytest.fixture
    async def evict(self, redis_cluster: RedisCluster) -> Evict:
        """Delete the key."""

        async def delete(tenant: str, session: str) -> None:
            at = key_of(tenant, session)
            assert redis_cluster.master_of(slot_of(at)).call("DEL", at.decode()) == 1

        return delete


async def test_the_slots_of_a_cluster_are_shared_out(redis_cluster: RedisCluster) -> None:
    """Each primary's slots go by its incarnation; together they are all, each once, and where the server says (H11)."""
    async with pod(redis_cluster.url) as hot:
        servers = {}
        while len(servers) < 3:
            one = key()
            place = (await hot.fetch(one)).ticket.place
            assert place.slot == redis_cluster.slot_of(key_of(one.tenant, one.session).decode())
            assert any(start <= place.slot < end for start, end in hot.slots_of(place.incarnation))
            servers[place.incarnation] = hot.slots_of(place.incarnation)
        ranges = sorted(part for parts in servers.values() for part in parts)
        assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
        assert ranges[-1][1] == SLOTS


@pytest.mark.parametrize("how", ["", "TAKEOVER"])
async def test_a_promoted_replica_is_another_incarnation(redis_cluster: RedisCluster, how: str) -> None:
    """After a failover, orderly or to whatever the replica had, the engine finds the new primary and its name (H11)."""
    async with pod(redis_cluster.url, timeout_ms=2000) as hot:
        log = Log(key())
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=60_000)
        place = await hot.publish("acme", log.key.session, log.append(), ticket=ticket, grant=1, mark="m")
        (replica,) = redis_cluster.replicas(redis_cluster.master_of(place.slot))
        await asyncio.to_thread(redis_cluster.fail_over, replica, how)
        found = await until_it_works(
            lambda: hot.fetch(log.key),
            good=lambda found: found.ticket.place.incarnation not in ("", place.incarnation),
        )
        assert found.version in (0, 1)
        after = found.ticket.place
        assert any(start <= after.slot < end for start, end in hot.slots_of(after.incarnation))
        assert hot.slots_of(place.incarnation) == ()
        await asyncio.to_thread(redis_cluster.settle)


async def test_a_primary_that_hangs_is_found_to_be_replaced(redis_cluster: RedisCluster) -> None:
    """While a primary hangs, its sessions' calls end in time; they work again on its replica (H13, P12)."""
    async with pod(redis_cluster.url, timeout_ms=400) as hot:
        one = key()
        before = await until_it_works(lambda: hot.fetch(one))
        master = redis_cluster.master_of(before.ticket.place.slot)
        master.pause()
        try:
            with pytest.raises(HotUnavailable):
                await hot.fetch(one)
            after = await until_it_works(lambda: hot.fetch(one))
            assert after.ticket.place.incarnation not in ("", before.ticket.place.incarnation)
        finally:
            master.resume()
            await asyncio.to_thread(redis_cluster.settle)


async def test_a_slot_moves_under_load(redis_cluster: RedisCluster) -> None:
    """While a slot is in two places and after, fetches by many callers are right or refused, never wrong (H8)."""
    async with pod(redis_cluster.url) as hot:
        log = Log(key())
        log.append(3)
        ticket = (await hot.fetch(log.key)).ticket
        before = await hot.publish("acme", log.key.session, log.state(), ticket=ticket, grant=1)
        to = next(node for node in redis_cluster.masters() if node is not redis_cluster.master_of(before.slot))
        done = asyncio.Event()
        seen: list[int] = []
        failures = 0

        async def ask() -> None:
            nonlocal failures
            while not done.is_set():
                try:
                    found = await hot.fetch(log.key)
                except HotUnavailable:
                    failures += 1
                    await asyncio.sleep(0.01)
                else:
                    seen.append(found.version)
                    assert found.version in (0, 3)
                    assert not found.version or folded(found) == log.view()

        callers = [asyncio.create_task(ask()) for _ in range(8)]
        await asyncio.to_thread(redis_cluster.migrate, before.slot, to, between=time_for_calls)
        done.set()
        await asyncio.gather(*callers)
        assert seen
        assert failures <= len(seen) // 4
        found = await until_it_works(
            lambda: hot.fetch(log.key), good=lambda found: found.ticket.place.incarnation != before.incarnation
        )
        assert found.version == 3
        assert any(start <= before.slot < end for start, end in hot.slots_of(found.ticket.place.incarnation))
        assert not any(start <= before.slot < end for start, end in hot.slots_of(before.incarnation))


def time_for_calls() -> None:
    """Leave a slot in between for a moment."""
    time.sleep(0.2)


# --- sentinels ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentinel() -> Iterator[Sentinel]:
    """Start a primary, two replicas and three sentinels."""
    with Sentinel() as one:
        yield one


async def test_sentinels_name_the_primary_and_its_successor(sentinel: Sentinel) -> None:
    """After a failover the engine asks the sentinels again by itself, and its answers bear another name (H11)."""
    async with pod(sentinel.url, timeout_ms=2000) as hot:
        log = Log(key())
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=60_000)
        place = await hot.publish("acme", log.key.session, log.append(), ticket=ticket, grant=1, mark="m")
        assert folded(await hot.fetch(log.key)) == log.view()
        assert [one for one in await hot.examine() if one.outcome == Outcome.FAILED] == []
        await asyncio.to_thread(sentinel.fail_over)
        found = await until_it_works(
            lambda: hot.fetch(log.key),
            good=lambda found: found.ticket.place.incarnation not in ("", place.incarnation),
        )
        assert hot.slots_of(found.ticket.place.incarnation) == ((0, SLOTS),)


async def test_a_sentinel_that_hangs_is_passed_over(sentinel: Sentinel) -> None:
    """The first sentinel of the list hangs: a pod that starts asks the next in time (H13, P12)."""
    sentinel.sentinels[0].pause()
    try:
        async with pod(sentinel.url, timeout_ms=2000) as hot:
            assert (await until_it_works(lambda: hot.fetch(key()))).ticket.place.incarnation
    finally:
        sentinel.sentinels[0].resume()


# --- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority, and a certificate for the loopback."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    made = tmp_path_factory.mktemp("certificates")
    (made / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=server",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
    ):
        subprocess.run([openssl, *command.split()], cwd=made, check=True, capture_output=True)
    return made


@asynccontextmanager
async def tls_before(server: Redis, certificates: Path) -> AsyncIterator[int]:
    """Terminate TLS before a server that may have been built without it; clients must show a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(server.socket))
        pipes.update(asyncio.create_task(one) for one in (pipe(reader, back), pipe(there, writer)))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    for one in pipes:
        one.cancel()
    await asyncio.gather(*pipes, return_exceptions=True)


async def test_tls_in_both_directions(certificates: Path, redis_server: Redis) -> None:
    """With the authority and a certificate of its own the engine works; without either it does not (H13)."""
    async with tls_before(redis_server, certificates) as port:
        where = f"rediss://127.0.0.1:{port}?ca={certificates}/ca.pem"
        async with pod(f"{where}&cert={certificates}/cert.pem&key={certificates}/key.pem") as hot:
            log = Log(key())
            ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=60_000)
            await hot.publish("acme", log.key.session, log.append(), ticket=ticket, grant=1, mark="m")
            assert folded(await hot.fetch(log.key)) == log.view()
        for bad in (where, f"rediss://127.0.0.1:{port}", f"redis://127.0.0.1:{port}"):
            async with pod(bad, timeout_ms=2000) as hot:
                with pytest.raises(HotUnavailable):
                    await hot.fetch(key())


def test_a_timeout_leaves_room_to_look_elsewhere() -> None:
    """A hung server is noticed within half of limits.hot_timeout_ms, a hung sentinel within a quarter (H13)."""
    hot: RedisHot[View] = RedisHot("redis+sentinel://a,b/m")
    pool: Any = hot._client.connection_pool
    assert pool.connection_kwargs["socket_timeout"] == limits.hot_timeout_ms / 2000
    first = pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs
    assert first["socket_timeout"] == limits.hot_timeout_ms / 4000
