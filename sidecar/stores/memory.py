"""The in-process engine of the hot contract: a bounded dictionary, least recently used out first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from sidecar import limits
from sidecar.stores.hot import Capabilities, Hot, HotKey, V


class MemoryHot(Hot[V]):
    """Views in a dictionary. Another process does not see them, so it is not coherent (H8)."""

    engine = "memory"
    capabilities = Capabilities(coherent=False)

    def __init__(
        self, *, bytes_max: int = limits.view_cache_bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bytes_max = bytes_max
        self._clock = clock
        self._views: OrderedDict[HotKey, tuple[V, float, float]] = OrderedDict()
        self._bytes = 0

    async def fetch(self, keys: Sequence[HotKey], *, ttl_s: float | None = None) -> list[V | None]:
        """Return the views of a batch of keys (H1)."""
        return [self._touch(key, ttl_s) for key in keys]

    async def publish(self, key: HotKey, view: V, *, ttl_s: float | None = None) -> bool:
        """Store a view unless a newer one is there (H2). Nothing is awaited, so nothing comes between."""
        held = self._touch(key, ttl_s)
        if (held is not None and held.version >= view.version) or view.nbytes > self._bytes_max:
            return False
        ttl_s = self._views[key][1] if held is not None else (ttl_s or limits.view_ttl_s)
        self._drop(key)
        self._views[key] = (view, ttl_s, self._clock() + ttl_s)
        self._bytes += view.nbytes
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._views)))
        return True

    async def forget(self, tenant: str, session: str) -> None:
        """Remove a session's views (H4)."""
        for key in [key for key in self._views if (key.tenant, key.session) == (tenant, session)]:
            self._drop(key)

    async def flush(self) -> None:
        """Remove everything (H4)."""
        self._views.clear()
        self._bytes = 0

    async def close(self) -> None:
        """Release everything."""
        await self.flush()

    def _touch(self, key: HotKey, ttl_s: float | None) -> V | None:
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

    def _drop(self, key: HotKey) -> None:
        held = self._views.pop(key, None)
        if held is not None:
            self._bytes -= held[0].nbytes
