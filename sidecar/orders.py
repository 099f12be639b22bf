"""Work orders: the loop of whoever works behind the log, whatever the work is.

A subject whose items are ahead of what was done for them is its own durable work order (R14), for each model, which
is the name of a kind of work. A worker claims orders for a lease and advances each by a batch, in order of position;
so any number of workers may run, in processes that serve and in `standpipe work`, and die. It has several orders at
work, and claims more before the last is done, so that what does the work never waits for a store. The put of a batch
ends its claim, and then the order stands in line again: a subject with a million items takes one place of these.

What fails is of two kinds. What cannot just now (an error that carries RetryInfo) is no fault of the order: it goes
back, and the worker pauses. Any other error is counted against the order, which comes again after a pause that grows,
until it is parked (R21).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sidecar import limits
from sidecar.errors import Internal, StandpipeError
from sidecar.stores.record import Claim, Lag, LagRead, Record
from sidecar.telemetry import OrderFigures, Telemetry

_IDLE_S = 5.0
"""Between two looks for work that nobody announced: another process's commits."""

_LET_GO_S = 0.5
"""For orders that go back: a process that ends has little time."""


class Orders(ABC):
    """One worker on the orders of one model. A process runs one of each; several processes may."""

    def __init__(
        self,
        record: Record,
        *,
        model_id: str,
        telemetry: Telemetry,
        figures: OrderFigures,
        claims_max: int = limits.work_claims_max,
        lease_s: float = limits.work_lease_s,
    ) -> None:
        self._record = record
        self.model_id = model_id
        self._telemetry = telemetry
        self._figures = figures
        self._claims_max = claims_max
        self._lease_s = lease_s
        self._name = secrets.token_hex(8)
        self._published_at = -math.inf
        self.done = 0
        """Items that this worker was through with."""
        self.wake = asyncio.Event()

    @abstractmethod
    async def _advance(self, claim: Claim) -> bool:
        """Do a batch of an order, and put its marks; else release it, and return False."""

    async def run(self) -> None:
        """Work until cancelled; what is claimed then goes back at once."""
        failures = 0
        while True:
            self.wake.clear()
            try:
                busy = await self.step()
                failures = 0
            except StandpipeError as error:
                self._figures.failures.inc()
                self._telemetry.log.warning("projection step failed", model=self.model_id, reason=error.reason)
                await asyncio.sleep(_pause_s(failures))
                failures += 1
                continue
            if not busy:
                await self._wait()

    async def watch(self) -> None:
        """Publish the lag until cancelled, and leave the work to others."""
        while True:
            with contextlib.suppress(StandpipeError):
                await self.lag()
            await asyncio.sleep(_IDLE_S)

    async def drain(self) -> Lag:
        """Work until nothing is left but what is parked; return the lag then."""
        while True:
            if await self.step():
                continue
            lag = await self.lag()
            if not lag.items:
                return lag
            await asyncio.sleep(_pause_s(0))  # others hold the rest, or it waits for its next try

    async def step(self) -> bool:
        """Do batches of the orders that are due, some orders at once, until none is, or one came no further.

        Returns whether there were any. Raises what a store or a model said that cannot just now, if none came further.
        """
        busy = came_further = stuck = False
        unable: StandpipeError | None = None
        claims: list[Claim] = []
        at_work: dict[asyncio.Task[Exception | bool], Claim] = {}
        try:
            while True:
                # Not for each order that ends: a claim is worth its round trip.
                if not stuck and len(at_work) <= self._claims_max // 2:
                    lapse_at = time.monotonic() + self._lease_s
                    claims += await self._claim(self._claims_max - len(at_work))
                    busy = busy or bool(claims)
                    alone = any(claim.attempts > 1 for claim in claims)
                    if alone and at_work:  # it may be what kills its workers, which is not to be held against others
                        await asyncio.wait(at_work)
                    if claims and time.monotonic() >= lapse_at:  # too slow: they are anybody's
                        break
                    at_work |= {asyncio.create_task(self._try(claim)): claim for claim in claims}
                    claims.clear()
                if not at_work:
                    break
                await asyncio.wait(at_work, return_when=asyncio.ALL_COMPLETED if alone else asyncio.FIRST_COMPLETED)
                for task in [task for task in at_work if task.done()]:
                    del at_work[task]
                    outcome = task.result()
                    came_further = came_further or outcome is True
                    stuck = stuck or outcome is not True
                    if isinstance(outcome, StandpipeError) and outcome.retry_after_ms is not None:
                        unable = outcome
                if time.monotonic() - self._published_at > _IDLE_S:  # not more often: a long queue takes long to count
                    await self.lag()
        finally:  # cancelled, or too slow
            await self._let_go(at_work, claims)
        if not busy:
            await self.lag()
        if unable is not None and not came_further:
            raise unable
        return busy

    async def lag(self) -> Lag:
        """Return how far the work is behind, over all tenants, and publish it."""
        (answer,) = await self._record.fetch([LagRead(model=self.model_id)])
        lag = cast(Lag, answer)
        self._figures.lag_items.set(lag.items)
        self._figures.lag_seconds.set(lag.age_s)
        self._figures.parked.set(lag.parked)
        self._published_at = time.monotonic()
        return lag

    async def _claim(self, count_max: int) -> Sequence[Claim]:
        return await self._record.claim(
            model=self.model_id, worker=self._name, lease_s=self._lease_s, count_max=count_max
        )

    async def _try(self, claim: Claim) -> Exception | bool:
        """Do a batch of an order; return what went wrong, or whether it came further."""
        try:
            return await self._advance(claim)
        except Exception as error:  # one subject's trouble, a defect too, must not hold up others
            await self._give_back(claim, error)
            return error

    async def _give_back(self, claim: Claim, error: Exception) -> None:
        """Release an order that failed, counted unless its failure was none of its own."""
        ours = error if isinstance(error, StandpipeError) else Internal("a defect")
        passing = ours.retry_after_ms is not None
        reason, pause_s = ("", _pause_s(0)) if passing else (ours.reason, _pause_s(claim.attempts))
        try:
            parked = await self._record.release(claim, reason=reason, pause_s=pause_s)
        except StandpipeError:
            return  # the lease passes by itself
        if not passing:
            self._figures.failures.inc()
            event = "work order parked" if parked else "work order failed"
            kind = type(error).__name__
            self._telemetry.log.warning(event, reason=ours.reason, type=kind, attempts=claim.attempts)

    async def _let_go(self, at_work: Mapping[asyncio.Task[Any], Claim], claims: Sequence[Claim]) -> None:
        """End what is at work, and release its orders and those that were not begun, unless the store keeps the process
        waiting: their leases pass.
        """
        for task in at_work:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LET_GO_S):
                await asyncio.gather(*at_work, return_exceptions=True)
                await asyncio.gather(*map(self._record.release, [*at_work.values(), *claims]), return_exceptions=True)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                await self.wake.wait()


def _pause_s(failures: int) -> float:
    """Return a pause that doubles with each failure in a row, with jitter: neighbours must not come back as one."""
    return min(limits.work_pause_s_max, 2.0**failures) * (0.5 + random.random())  # noqa: S311 - jitter, not a secret
