"""The Redis engine against the hot contract, on a real server; and what is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.stores.redis import RedisHot, key_of
from sidecar.view import View
from tests.contract.hot_suite import CoherentHotSuite, Evict, HotView, Make, PassTime
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
