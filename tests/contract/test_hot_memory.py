"""The in-process engine against the hot contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar import limits
from sidecar.stores.memory import MemoryHot
from sidecar.view import View
from tests.contract.hot_suite import HotSuite, HotView, Make, PassTime, a_view, key


class Clock:
    """Time that passes when it is told to."""

    now_s = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """Make the engine's clock."""
    return Clock()


class TestMemoryHot(HotSuite):
    """One process's own views: not coherent."""

    @pytest.fixture
    async def make(self, clock: Clock) -> AsyncIterator[Make]:
        """Make engines."""
        made: list[MemoryHot[View]] = []

        async def make_one(**options: Any) -> HotView:
            made.append(MemoryHot(clock=clock, **options))
            return made[-1]

        yield make_one
        for one in made:
            await one.close()

    @pytest.fixture
    async def pass_time(self, clock: Clock) -> PassTime:
        """Set the clock forward."""

        async def pass_seconds(seconds: float) -> None:
            clock.now_s += seconds

        return pass_seconds


def test_the_default_bound_is_the_documented_limit() -> None:
    """Without a setting the store holds at most limits.view_cache_bytes."""
    hot: MemoryHot[View] = MemoryHot()
    assert hot.keep(key(), a_view(nbytes=limits.view_cache_bytes))
    assert not hot.keep(key(), a_view(nbytes=limits.view_cache_bytes + 1))
