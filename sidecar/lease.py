"""Leases: what this process may rely on without asking the record store, and until when.

Grants and routes live in the record store. A process reads them and relies on them for `limits.hot_lease_ms`, counted
by its own clock from before it asked. Who changes a grant or a route waits that long for the leases of others to end.
No clock is compared with another: only the rates at which they run must agree, within `limits.hot_lease_margin_ms`.

A hydrate may show what the hot store has without asking the record store if, when the answer has come, (1) the lease
holds, (2) it grants the slot to the server that answered, (3) that grant is usable, (4) the session's tail is stamped
with it. A commit is acknowledged only when no such hydrate can miss it: `honoured` says how. Why this suffices is in
ARCHITECTURE.md, "Freshness"; tests/faults/test_freshness.py puts a fault at every step of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sidecar import limits
from sidecar.errors import HotUnavailable, StandpipeError, StoreUnavailable
from sidecar.policies import Policies
from sidecar.policy import Policy
from sidecar.stores.grants import UNDATED, Grant
from sidecar.stores.hot import Found, Hot, Place
from sidecar.stores.record import Deadline, GrantsRead, GrantsState, Read, Record, RouteRead, StoredRoute
from sidecar.telemetry import Telemetry

LEASE_S = limits.hot_lease_ms / 1000
MARGIN_S = limits.hot_lease_margin_ms / 1000

_ROUNDS_MAX = 4
"""Changes of who is trusted that one commit follows, before it gives up."""

_ADOPT_PAUSE_S = (1.0, 30.0)
"""Between two adoptions by one process: doubled up to a maximum while they do not last, so that processes which reach
different servers do not take the slots from each other at every turn."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A grant, with its time by this process's clock."""

    grant: Grant
    usable_at: float


@dataclass(slots=True)
class Leases:
    """Grants and routes as this process knows them. One a process."""

    record: Record
    hot: Hot[Any]
    policies: Policies
    telemetry: Telemetry
    clock: Callable[[], float] = time.monotonic
    _rows: Sequence[_Row] = ()
    _until: float = 0.0
    _renewal: asyncio.Task[None] | None = None
    _used: asyncio.Event = field(default_factory=asyncio.Event)
    _adopting: bool = False
    _adopt_at: float = 0.0
    _adopt_pause_s: float = _ADOPT_PAUSE_S[0]
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    # --- readers ---

    def holds(self) -> bool:
        """Whether the lease holds now. Asking keeps it renewed."""
        self._used.set()
        return self.clock() < self._until

    def policy(self, tenant: str, route: str) -> Policy | None:
        """Return the policy that a route points at, if that is known under a lease."""
        self._used.set()
        return self.policies.nearest(tenant, route, since=self.clock() - LEASE_S)

    def trusts(self, found: Found[Any]) -> bool:
        """Whether a tail shows all that was acknowledged before it was fetched. Ask when the answer has come."""
        place = found.ticket.place
        row = self._row(place.slot)
        return bool(
            self.holds()
            and row is not None
            and place.incarnation
            and row.grant.incarnation == place.incarnation
            and row.grant.grant == found.grant
            and row.usable_at <= self.clock()
        )

    def stamp(self, place: Place) -> int:
        """Return the grant to publish under what is read from the record store from now on; 0 for none.

        A server that is not granted its slot is adopted, in the background.
        """
        row = self._row(place.slot)
        if not place.incarnation:
            return 0
        if row is None or row.grant.incarnation != place.incarnation:
            self._adopt_soon(place)
            return 0
        return row.grant.grant if row.usable_at <= self.clock() else 0

    # --- committers ---

    async def point(self, tenant: str, route: StoredRoute) -> None:
        """Point a route at a policy version; return when every process follows it."""
        await self.record.set_route(tenant, route)
        if self.hot.capabilities.coherent:
            await asyncio.sleep(LEASE_S + MARGIN_S)

    async def honoured(self, slot: int, step: Callable[[], Awaitable[Place]], *, deadline: Deadline | None) -> None:
        """Do a step in the hot store so that no reader who trusts the hot store can miss it; return when it is so.

        Either the server that is granted the slot confirms the step, under a lease that holds; or nobody is granted
        the slot and every lease that said otherwise has ended. A server that does not confirm loses its grant.
        Raises StoreUnavailable when that takes longer than the deadline.
        """
        for _ in range(_ROUNDS_MAX):
            if not self.holds():
                await self.renew()
            row = self._row(slot)
            if row is None:
                return  # never granted to anybody; a grant from now on is usable after this lease's end
            if not row.grant.incarnation:
                await self._sleep_until(row.usable_at, deadline)
                if self.holds():
                    return
                continue
            try:
                place = await step()
            except HotUnavailable:
                confirmed = False
            else:
                confirmed = place.incarnation == row.grant.incarnation
            if not confirmed:
                self.telemetry.hot_revocations.inc()
                self.telemetry.log.warning("hot store did not confirm; its grant is withdrawn", slot=slot)
                await self.record.revoke(row.grant.incarnation)
                await self._forget_rows()
            elif self.holds():
                await self._sleep_until(row.usable_at, deadline)
                return
        raise StoreUnavailable("the hot store keeps changing; retry with the same request id", store="hot")

    async def alone(self, *, deadline: Deadline | None) -> None:
        """Return when no hot store is trusted by anyone: for commits of a process that shares none.

        It may stand beside others that do, while a deployment moves from one hot store to another. What it commits
        nobody would find in theirs, so it withdraws all grants, and waits for the leases to end. Raises
        StoreUnavailable when that takes longer than the deadline.
        """
        for _ in range(_ROUNDS_MAX):
            if not self.holds():
                await self.renew()
            trusted = {row.grant.incarnation for row in self._rows} - {""}
            if not trusted:
                await self._sleep_until(max((row.usable_at for row in self._rows), default=0.0), deadline)
                if self.holds():
                    return
                continue
            self.telemetry.hot_revocations.inc(len(trusted))
            self.telemetry.log.warning("this process shares no hot store; the grants of others are withdrawn")
            for incarnation in trusted:
                await self.record.revoke(incarnation)
            await self._forget_rows()
        raise StoreUnavailable("another hot store keeps being trusted; retry with the same request id", store="hot")

    # --- upkeep ---

    async def run(self) -> None:
        """Keep the lease renewed while it is used, until cancelled."""
        failing = False
        while True:
            await self._used.wait()
            self._used.clear()
            if self.clock() > self._until - LEASE_S / 2:
                try:
                    await self.renew()
                    failing = False
                except StandpipeError as error:
                    if not failing:  # four times a second, the same line says nothing new
                        self.telemetry.log.warning("leases are not renewed", reason=error.reason)
                    failing = True
            await asyncio.sleep(LEASE_S / 4)

    async def renew(self) -> None:
        """Read grants and routes anew. Callers at one time share one read that began after the first of them."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
            self._keep(self._renewal)
        await asyncio.shield(self._renewal)

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            routes = self.policies.routes_in_use()
            reads: list[Read] = [GrantsRead(), *(RouteRead(tenant=tenant, name=name) for tenant, name in routes)]
            asked_at = self.clock()
            state, *stored = await self.record.fetch(reads, deadline=time.monotonic() + LEASE_S)
            answered_at = self.clock()
            grants = cast(GrantsState, state)
            if all(row.usable_at_us != UNDATED for row in grants.rows):
                break
            await self.record.date_grants()  # who changed them may have died
        # Counted from the answer's arrival: a grant must not seem usable too early, and a lease not hold too long.
        offset = answered_at - grants.now_us / 1e6 + MARGIN_S
        self._rows = [_Row(row, row.usable_at_us / 1e6 + offset) for row in grants.rows]
        for (tenant, name), route in zip(routes, stored, strict=True):
            self.policies.saw(tenant, name, cast("StoredRoute | None", route), asked_at=asked_at)
        self._until = asked_at + LEASE_S

    async def _forget_rows(self) -> None:
        """End this process's own lease, since the grants have changed."""
        if self._renewal is not None:  # it may have begun before
            await asyncio.wait([self._renewal])
        self._until = 0.0

    def _row(self, slot: int) -> _Row | None:
        for row in self._rows:
            if row.grant.slot_from <= slot < row.grant.slot_to:
                return row
        return None

    async def _sleep_until(self, at: float, deadline: Deadline | None) -> None:
        left_s = at - self.clock()
        if left_s <= 0:
            return
        self.telemetry.commit_lease_waits.inc()
        if deadline is not None and time.monotonic() + left_s > deadline:
            await asyncio.sleep(max(0.0, deadline - time.monotonic()))
            raise StoreUnavailable("waited for the leases of a lost hot store; its request id tells if it happened")
        await asyncio.sleep(left_s)

    def _adopt_soon(self, place: Place) -> None:
        slots = self.hot.slots_of(place.incarnation)
        if self._adopting or not slots or not self.holds() or self.clock() < self._adopt_at:
            return
        self._adopting = True
        self._keep(asyncio.create_task(self._adopt(place.incarnation, slots)))

    async def _adopt(self, incarnation: str, slots: Sequence[tuple[int, int]]) -> None:
        lasted = self.clock() > self._adopt_at + 2 * _ADOPT_PAUSE_S[1]
        self._adopt_pause_s = _ADOPT_PAUSE_S[0] if lasted else min(2 * self._adopt_pause_s, _ADOPT_PAUSE_S[1])
        self._adopt_at = self.clock() + self._adopt_pause_s * (0.5 + random.random())  # noqa: S311 - jitter, no secret
        try:
            await self.record.adopt(incarnation, slots)
            await self.renew()
            self.telemetry.hot_adoptions.inc()
        except StandpipeError as error:
            self.telemetry.log.warning("hot store not adopted", reason=error.reason)
        finally:
            self._adopting = False

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: who waited for it was told
