"""The in-process engine against the hot contract, with the capability `coherent` absent and present."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar import limits
from sidecar.stores import hot as contract
from sidecar.stores.hot import Capabilities
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

    engine_class: type[MemoryHot[View]] = MemoryHot

    @pytest.fixture
    async def make(self, clock: Clock) -> AsyncIterator[Make]:
        """Make engines."""
        made: list[MemoryHot[View]] = []

        async def make_one(**options: Any) -> HotView:
            made.append(self.engine_class(clock=clock, **options))
            return made[-1]

        yield make_one
        for one in made:
            await one.close()

    @pytest.fixture
    async def other_pod(self, make: Make) -> HotView:
        """Another process has a dictionary of its own."""
        return await make()

    @pytest.fixture
    async def pass_time(self, clock: Clock) -> PassTime:
        """Set the clock forward."""

        async def pass_seconds(seconds: float) -> None:
            clock.now_s += seconds

        return pass_seconds


class CoherentHot(MemoryHot[View]):
    """The same engine where all pods are tasks of one process: then it is coherent."""

    capabilities = Capabilities(coherent=True)


class TestCoherentHot(TestMemoryHot):
    """The capability present: both pods look into one dictionary."""

    engine_class = CoherentHot

    @pytest.fixture
    async def other_pod(self, hot: HotView) -> HotView:
        """Share the store."""
        return hot


async def test_the_default_bound_is_the_documented_limit() -> None:
    """Without a setting the store holds at most limits.view_cache_bytes."""
    hot: MemoryHot[View] = MemoryHot()
    one, giant = key(), key()
    assert await hot.publish(one, a_view(nbytes=limits.view_cache_bytes), ttl_s=1)
    assert not await hot.publish(giant, a_view(nbytes=limits.view_cache_bytes + 1), ttl_s=1)


def test_every_clause_is_named_by_a_test() -> None:
    """Each Hn of the contract's docstring has a test_hnn_ that cites it, and each such test has its clause."""
    clauses = {int(number) for number in re.findall(r"^H(\d+) ", contract.__doc__ or "", re.MULTILINE)}
    tests = {name: test for name, test in vars(HotSuite).items() if re.match(r"test_h\d\d_", name)}
    assert clauses == set(range(1, len(clauses) + 1))
    assert {int(name[6:8]) for name in tests} == clauses
    for name, test in tests.items():
        assert f"H{int(name[6:8])}" in (test.__doc__ or ""), name


def test_both_states_of_every_capability_are_tested() -> None:
    """An engine that has a capability and one that lacks it both run the suite."""
    assert {one.engine_class.capabilities.coherent for one in (TestMemoryHot, TestCoherentHot)} == {True, False}
