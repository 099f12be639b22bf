"""The in-process engine of the hot contract: views in a bounded dictionary, least recently used out first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from sidecar import limits
from sidecar.finding import Finding, ok
from sidecar.stores.hot import NOWHERE, Capabilities, Found, Hot, HotKey, Place, Ticket, V
from sidecar.stores.record import Deadline, SessionState


class MemoryHot(Hot[V]):
    """Views in a dictionary. It shares nothing with other processes, so it is not coherent."""

    engine = "memory"
    capabilities = Capabilities(coherent=False)

    def __init__(
        self, *, bytes_max: int = limits.view_cache_bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bytes_max = bytes_max
        self._clock = clock
        self._views: OrderedDict[HotKey, tuple[V, float, float]] = OrderedDict()
        """(view, time to live, until when)."""
        self._bytes = 0

    async def open(self, *, deployment: str = "") -> None:
        """Nothing is to be prepared."""

    async def examine(self) -> Sequence[Finding]:
        return [ok("sharing", "none: each process folds its own views from the record store")]

    def held(self, key: HotKey, *, ttl_s: float | None = None) -> V | None:
        held = self._views.get(key)
        if held is None:
            return None
        view, held_ttl_s, until = held
        if until <= self._clock():
            self._drop(key)
            return None
        ttl_s = ttl_s or held_ttl_s
        self._views[key] = (view, ttl_s, self._clock() + ttl_s)
        self._views.move_to_end(key)
        return view

    def keep(self, key: HotKey, view: V, *, ttl_s: float | None = None) -> bool:
        held = self.held(key, ttl_s=ttl_s)
        if (held is not None and held.version >= view.version) or view.nbytes > self._bytes_max:
            return False
        ttl_s = self._views[key][1] if held is not None else (ttl_s or limits.view_ttl_s)
        self._drop(key)
        self._views[key] = (view, ttl_s, self._clock() + ttl_s)
        self._bytes += view.nbytes
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._views)))
        return True

    async def fetch(self, key: HotKey, *, ttl_s: float | None = None, deadline: Deadline | None = None) -> Found[V]:
        return Found(view=self.held(key, ttl_s=ttl_s), gained=None, version=0, grant=0, ticket=NOWHERE)

    async def announce(
        self, tenant: str, session: str, *, mark: str, lasts_ms: int, deadline: Deadline | None = None
    ) -> Ticket:
        return NOWHERE

    async def publish(
        self,
        tenant: str,
        session: str,
        state: SessionState,
        *,
        ticket: Ticket,
        grant: int,
        mark: str = "",
        deadline: Deadline | None = None,
    ) -> Place:
        return NOWHERE.place

    async def withdraw(
        self, tenant: str, session: str, *, ticket: Ticket, mark: str, version: int, deadline: Deadline | None = None
    ) -> Place:
        return NOWHERE.place

    async def forget(self, tenant: str, session: str) -> None:
        for key in [key for key in self._views if (key.tenant, key.session) == (tenant, session)]:
            self._drop(key)

    async def flush(self) -> None:
        self._views.clear()
        self._bytes = 0

    def slot(self, tenant: str, session: str) -> int:
        return 0

    def slots_of(self, incarnation: str) -> Sequence[tuple[int, int]]:
        return ()

    async def close(self) -> None:
        await self.flush()

    def _drop(self, key: HotKey) -> None:
        held = self._views.pop(key, None)
        if held is not None:
            self._bytes -= held[0].nbytes
