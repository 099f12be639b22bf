"""The circuit breaker: it opens late, waits longer each time, and lets one call at a time find out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import limits
from sidecar.breaker import Breaker

FIRST_S = limits.breaker_pause_ms / 1000
LONGEST_S = limits.breaker_pause_longest_ms / 1000


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def opened(clock: Clock, *, random: float = 1.0) -> Breaker:
    """Return a breaker that has just opened."""
    breaker = Breaker(clock=clock, random=lambda: random)
    for _ in range(limits.breaker_failures_max):
        assert breaker.check() is None
        breaker.failure()
    assert not breaker.closed
    return breaker


def test_it_opens_after_failures_in_a_row_alone() -> None:
    """One failure less than breaker_failures_max opens nothing, and a success between makes them count anew."""
    breaker = Breaker()
    for _ in range(3):
        for _ in range(limits.breaker_failures_max - 1):
            breaker.failure()
        assert breaker.check() is None
        breaker.success()
    for _ in range(limits.breaker_failures_max):
        assert breaker.closed
        breaker.failure()
    assert breaker.check() is not None


@pytest.mark.parametrize(("random", "pause_s"), [(0.0, FIRST_S / 2), (1.0, FIRST_S)])
def test_the_pause_is_jittered(random: float, pause_s: float) -> None:
    """The first pause lies between half of breaker_pause_ms and all of it; what is left of it is told."""
    clock = Clock()
    breaker = opened(clock, random=random)
    assert breaker.check() == pytest.approx(pause_s)
    clock.now += pause_s / 2
    assert breaker.check() == pytest.approx(pause_s / 2)


def test_one_probe_goes_through_and_the_others_fail_fast() -> None:
    """P12: when the pause is over one caller goes on, and everybody else is refused until it has reported."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_S
    assert [breaker.check() is None for _ in range(100)] == [True] + [False] * 99
    breaker.success()
    assert breaker.closed
    assert all(breaker.check() is None for _ in range(100))


def test_the_pause_doubles_up_to_the_longest() -> None:
    """Each failed probe doubles the pause, up to breaker_pause_longest_ms; a success makes it short again."""
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(10):
        left = breaker.check()
        assert left is not None
        pauses.append(left)
        clock.now += left
        assert breaker.check() is None
        breaker.failure()
    assert pauses[:3] == pytest.approx([FIRST_S, 2 * FIRST_S, 4 * FIRST_S])
    assert pauses[-1] == pytest.approx(LONGEST_S)
    breaker.success()
    for _ in range(limits.breaker_failures_max):
        breaker.failure()
    assert breaker.check() == pytest.approx(FIRST_S)


def test_calls_that_were_under_way_do_not_lengthen_the_pause() -> None:
    """A hundred calls that fail after the breaker opened say nothing new: the pause stays as it was."""
    clock = Clock()
    breaker = opened(clock)
    for _ in range(100):
        breaker.failure()
    assert breaker.check() == pytest.approx(FIRST_S)


def test_a_probe_whose_caller_left_wedges_nothing() -> None:
    """A probe that is never reported on is followed by another after the same pause, not twice as long."""
    clock = Clock()
    breaker = opened(clock)
    for _ in range(5):
        clock.now += FIRST_S
        assert breaker.check() is None
        assert breaker.check() == pytest.approx(FIRST_S)
    breaker.success()
    assert breaker.closed


STEP = st.one_of(st.sampled_from(["check", "success", "failure"]), st.floats(0.001, 2 * LONGEST_S))


@given(steps=st.lists(STEP, max_size=200), random=st.floats(0, 1))
def test_whatever_is_reported_an_open_breaker_is_asked_rarely_and_always_ends(
    steps: list[str | float], random: float
) -> None:
    """While it is open, calls pass at least half the first pause apart, and after the longest pause one passes."""
    clock = Clock()
    breaker = Breaker(clock=clock, random=lambda: random)
    passed: list[float] = []
    for step in steps:
        if step == "success":
            breaker.success()
        elif step == "failure":
            breaker.failure()
        elif step == "check":
            left = breaker.check()
            assert left is None or 0 < left <= LONGEST_S
            assert not (breaker.closed and left is not None)
            if left is None and not breaker.closed:
                passed.append(clock.now)
        else:
            clock.now += float(step)
        if breaker.closed:
            passed.clear()
    assert all(later - earlier >= FIRST_S / 2 * (1 - 1e-9) for earlier, later in pairwise(passed))
    clock.now += LONGEST_S
    assert breaker.check() is None
