"""The sealed hot store against the hot contract, and what sealing alone promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import Config
from sidecar.engines import hot_of, record_of
from sidecar.errors import HotUnavailable
from sidecar.stores.hot import Found, Hot
from sidecar.stores.memory import MemoryHot
from sidecar.stores.redis import RedisHot, key_of
from sidecar.stores.sealed import Keys, SealedHot, SealedRecord
from sidecar.stores.sqlite import SqliteRecord
from sidecar.view import View
from tests import keys
from tests.contract.hot_suite import CoherentHotSuite, Evict, HotView, Log, Make, PassTime, folded, key
from tests.contract.test_hot_memory import Clock
from tests.contract.test_hot_redis import PATIENT_MS
from tests.contract.test_record_sealed import sealed
from tests.contract.test_record_sqlite import RawSqlite
from tests.servers import Redis

PREFIX = "standpipe1:sealed"


@pytest.fixture
def clock() -> Clock:
    """Make the clock of what the process holds."""
    return Clock()


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[SealedRecord]:
    """The record store that keeps the subjects' keys."""
    record = sealed(SqliteRecord(tmp_path / "record.db"))
    await record.open()
    yield record
    await record.close()


@pytest.fixture
async def make(clock: Clock, redis_server: Redis, record: SealedRecord) -> AsyncIterator[Make]:
    """Make engines, each as a pod of its own."""
    made: list[SealedHot[View]] = []

    async def make_one(**options: Any) -> HotView:
        url = f"redis+unix://{redis_server.socket}"
        inner: RedisHot[View] = RedisHot(url, timeout_ms=PATIENT_MS, clock=clock, **options)
        made.append(SealedHot(inner, Keys(record.inner, record.keys.vault)))
        await made[-1].open()
        return made[-1]

    yield make_one
    for one in made:
        await one.close()


class TestSealedHot(CoherentHotSuite):
    """One server."""

    @pytest.fixture
    async def make(self, make: Make) -> Make:
        """Make engines, each as a pod of its own."""
        return make

    @pytest.fixture
    async def pass_time(self, clock: Clock, redis_server: Redis) -> PassTime:
        """Set the clock forward, and bring every key's end nearer."""

        async def pass_seconds(seconds: float) -> None:
            clock.now_s += seconds
            with redis_server.client() as client:
                for key in client.scan_iter():
                    client.pexpire(key, max(0, client.pttl(key) - round(seconds * 1000)))

        return pass_seconds

    @pytest.fixture
    async def evict(self, redis_server: Redis) -> Evict:
        """Delete the key."""

        async def delete(tenant: str, session: str) -> None:
            assert redis_server.call("DEL", key_of(tenant, session, prefix=PREFIX).decode()) == 1

        return delete


# --- what sealing alone promises -----------------------------------------------------------------------------------


async def shared(hot: HotView, log: Log, *, checkpoint: bool = True) -> None:
    """Publish a log's tail, behind a checkpoint."""
    ticket = (await hot.fetch(log.key)).ticket
    state = log.state(2, checkpoint=checkpoint) if checkpoint else log.state()
    await hot.publish(log.key.tenant, log.key.session, state, ticket=ticket, grant=3)


def shows(found: Found[View], log: Log) -> bool:
    """Return whether what was found ends as the log does."""
    view = folded(found)
    return view is not None and (view.version, view.units[-1]) == (log.version, log.view().units[-1])


async def test_no_marker_is_in_the_server(make: Make, redis_server: Redis) -> None:
    """What a tail holds cannot be read in the server's memory, as it writes it to disk (P11)."""
    hot, log = await make(), Log(key(), text="xq0001zj")
    log.append(9)
    await shared(hot, log)
    redis_server.call("CONFIG", "SET", "rdbcompression", "no")
    redis_server.call("SAVE")
    dump = redis_server.directory / "dump.rdb"
    assert log.key.session.encode() in dump.read_bytes()  # the scan can see
    assert b"xq0001zj" not in dump.read_bytes()
    dump.unlink()
    assert shows(await (await make()).fetch(log.key), log)


async def test_what_cannot_be_opened_is_a_miss(make: Make, redis_server: Redis, record: SealedRecord) -> None:
    """A tail of another session, of a key that is gone, or that nobody sealed shows nothing and is not trusted (P8)."""
    hot = await make()
    log, other = Log(key()), Log(key())
    for one in (log, other):
        one.append(3)
        await shared(hot, one)
    names = [key_of("acme", one.key.session, prefix=PREFIX).decode() for one in (log, other)]
    redis_server.call("COPY", names[1], names[0], "REPLACE")
    found = await (await make()).fetch(log.key)
    assert (found.view, found.gained, found.grant) == (None, None, 0)
    assert shows(await (await make()).fetch(other.key), other)
    RawSqlite(record.inner._path).execute("DELETE FROM keys")  # type: ignore[attr-defined]
    found = await (await make()).fetch(other.key)
    assert (found.view, found.gained, found.grant) == (None, None, 0)


async def test_a_tail_in_plain_text_is_another_deployments(make: Make, redis_server: Redis) -> None:
    """Who does not encrypt and who does share no tail, and what nobody sealed is never shown as sealed (H11)."""
    hot, log = await make(), Log(key())
    log.append(3)
    plain: RedisHot[View] = RedisHot(f"redis+unix://{redis_server.socket}", timeout_ms=PATIENT_MS)
    await plain.open()
    await shared(plain, log)
    assert (await hot.fetch(log.key)).gained is None
    names = [key_of("acme", log.key.session, prefix=prefix).decode() for prefix in ("standpipe1:", PREFIX)]
    redis_server.call("COPY", *names, "REPLACE")
    found = await hot.fetch(log.key)
    assert (found.gained, found.grant) == (None, 0)
    await plain.close()


async def test_who_has_no_key_publishes_nothing(make: Make, record: SealedRecord) -> None:
    """When a tail cannot be sealed, the publish fails as one that the store did not confirm (H13)."""
    hot, log = await make(), Log(key())
    log.append(1)
    ticket = (await hot.fetch(log.key)).ticket
    await record.close()
    with pytest.raises(HotUnavailable, match="cannot be sealed"):
        await hot.publish("acme", log.key.session, log.state(), ticket=ticket, grant=1)


def test_views_of_a_process_are_not_sealed(tmp_path: Path) -> None:
    """The hot store in memory is the engine itself, since it shares nothing; one that shares is sealed."""
    config = Config(record=f"sqlite:{tmp_path / 'r.db'}", encryption_keys_file=keys.key_file())
    memory: Hot[View] = hot_of(config, record_of(config))
    assert isinstance(memory, MemoryHot)
    plain = replace(config, encryption_keys_file="", plaintext=True, hot="redis://h")
    assert isinstance(hot_of(plain, record_of(plain)), RedisHot)
    sealing = replace(config, hot="redis://h")
    assert isinstance(hot_of(sealing, record_of(sealing)), SealedHot)
