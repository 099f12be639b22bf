"""A circuit breaker: what does not answer is left alone for a while, and is then asked by one caller, not by all.

::

    closed ──failures in a row──> open ──pause──> one probe ──success──> closed
                                   ^ └──────────failure: twice the pause, up to the longest

A store that comes back from a restart would otherwise meet every waiting call of every pod at once. The pause is
jittered, so that pods which lost the store together do not probe it together.
"""

from __future__ import annotations

import random as randomness
import time
from collections.abc import Callable

from sidecar import limits


class Breaker:
    """For one store, used by one event loop. It knows no clock but its own, asks nobody and never waits."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = randomness.random
    ) -> None:
        """`clock` gives seconds that never run back, `random` numbers from 0 to 1."""
        self._clock = clock
        self._random = random
        self._success()

    @property
    def closed(self) -> bool:
        """Whether calls go through."""
        return self._pause_s is None

    def check(self) -> float | None:
        """Return None if the call may go on, else the seconds until another may: fail at once, and say so.

        Who may go on reports `success` or `failure` of the store; whoever was cancelled reports neither. A probe that
        nobody reports on is followed by another after the same pause.
        """
        if self._pause_s is None:
            return None
        now = self._clock()
        if now < self._until:
            return self._until - now
        self._probing = True
        self._wait(self._pause_s)
        return None

    def success(self) -> None:
        """Report that the store answered, be it with an error of its own."""
        self._success()

    def failure(self) -> None:
        """Report that the store did not answer.

        While the breaker is open only the probe's word counts: the calls that were under way when it opened, however
        many, say nothing new.
        """
        if self._pause_s is None:
            self._failures += 1
            if self._failures >= limits.breaker_failures_max:
                self._wait(limits.breaker_pause_ms / 1000)
        elif self._probing:
            self._probing = False
            self._wait(min(2 * self._pause_s, limits.breaker_pause_longest_ms / 1000))

    def _success(self) -> None:
        self._failures = 0
        self._pause_s: float | None = None
        self._until = 0.0
        self._probing = False

    def _wait(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._until = self._clock() + pause_s * (1 + self._random()) / 2
