"""Retention: removes what has outstayed its time, finishes erasures, tells how much there is.

How long a session's log is kept stands with the session since its last commit (R23), so a sweeper needs no policy. Any
number of sweepers may run, in processes that serve and in `standpipe work`, and die: each removal is one transaction of
the record store. Then the hot store forgets the session, so that nobody is shown what it holds on trust, and only then
does the record store list the session no more. A reader who looked before, and publishes what it read before, holds a
ticket of a life that has ended (H10). A hot store that does not answer leaves the session listed.

Records of state expire by themselves: no read shows them any more (R38), and here they are removed, in pieces.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sidecar import limits
from sidecar.erasure import Eraser
from sidecar.errors import StandpipeError
from sidecar.stores.hot import Hot
from sidecar.stores.record import ExpiredRead, Figures, FiguresRead, Record
from sidecar.telemetry import Telemetry


@dataclass(slots=True)
class Retention:
    """One sweeper. A process runs one; several processes may."""

    record: Record
    hot: Hot[Any]
    telemetry: Telemetry
    eraser: Eraser | None = None
    """Finishes what erasers that died have begun."""

    async def run(self) -> None:
        """Sweep, and publish figures, until cancelled."""
        while True:
            try:
                await self.sweep()
                await self.expire()
                if self.eraser is not None:
                    await self.eraser.resume()
                await self.measure()
            except StandpipeError as error:
                self.telemetry.log.warning("retention step failed", reason=error.reason)
            # Neighbours that started together must not come as one.
            await asyncio.sleep(limits.sweep_pause_s * (0.5 + random.random()))  # noqa: S311 - jitter, no secret

    async def sweep(self) -> int:
        """Remove the logs of all sessions whose time has passed; return how many this sweeper removed.

        A session that fails is left for the next time, and does not hold up others; when a batch gets nowhere, the
        sweep ends.
        """
        removed = 0
        while True:
            (answer,) = await self.record.fetch([ExpiredRead(count_max=limits.sweep_batch_max)])
            due = cast(Sequence[tuple[str, str]], answer)
            done = 0
            for tenant, session in due:
                try:
                    if await self.record.sweep(tenant, session):
                        removed += 1
                        self.telemetry.swept_sessions.inc()
                    await self.hot.forget(tenant, session)
                    await self.record.forgotten(tenant, session)
                    done += 1
                except StandpipeError as error:
                    self.telemetry.sweep_failures.inc()
                    self.telemetry.log.warning("session not swept", reason=error.reason)
            if not done or len(due) < limits.sweep_batch_max:
                return removed

    async def expire(self) -> int:
        """Remove the records of state whose time has passed; return how many this sweeper removed."""
        removed = 0
        while True:
            gone = await self.record.expire_state(count_max=limits.state_expire_max)
            self.telemetry.expired_records.inc(gone)
            removed += gone
            if gone < limits.state_expire_max:
                return removed

    async def measure(self) -> None:
        """Publish about how much there is."""
        (answer,) = await self.record.fetch([FiguresRead()])
        figures, telemetry = cast(Figures, answer), self.telemetry
        telemetry.record_sessions.set(figures.sessions)
        telemetry.record_events.set(figures.events)
        telemetry.record_items.set(figures.items)
        telemetry.record_log_bytes.set(figures.log_bytes)
        telemetry.sweep_lag_seconds.set(figures.overdue_s)
