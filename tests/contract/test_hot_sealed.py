"""The sealed hot store against the hot contract, and what sealing alone promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.stores.redis import RedisHot, key_of
from sidecar.stores.sealed import Keys, SealedHot, SealedRecord
from sidecar.stores.sqlite import SqliteRecord
from sidecar.view import View
from tests.contract.hot_suite import CoherentHotSuite, Evict, HotView, Make, PassTime
from tests.contract.test_hot_memory import Clock
from tests.contract.test_hot_redis import PATIENT_MS
from tests.contract.test_record_sealed import sealed
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
