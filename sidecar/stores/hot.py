"""The hot contract: disposable views, for every engine.

Nothing in a hot store is needed: it may be flushed, evicted or lost at any moment, and costs latency, never data
and never a stale answer. `tests/contract/hot_suite.py` holds every engine to these clauses, by number.

H1  `fetch` takes a batch of keys and answers in the same length and order, in one round trip; a view that is
    not there is None.
H2  `publish` never puts an older view over a newer one: it compares versions, atomically, and returns whether
    it stored. An equal version is not stored again.
H3  A fetched view equals the published one.
H4  `forget` removes every view of a session, for all tokenizers. `flush` removes everything.
H5  The store is bounded in bytes: beyond, the least recently used views leave. A view larger than the whole bound
    is not stored.
H6  A view leaves when its time to live, as it was last given, has passed since it was last published or fetched.
H7  Tenants never meet: the tenant leads the key.
H8  `capabilities.coherent` says whether every pod sees a published view before `publish` returns. Where it is
    absent, a view proves nothing about the log, and a fresh read compares it with the record's head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class HotKey:
    """A session's view, as counted by one tokenizer."""

    tenant: str
    session: str
    tokenizer: str


class HotView(Protocol):
    """What an engine needs to know of a view."""

    @property
    def version(self) -> int:
        """The session version that it shows."""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine may leave out."""

    coherent: bool
    """H8."""


V = TypeVar("V", bound=HotView)


class Hot(ABC, Generic[V]):
    """Session views, shared by every task of the process."""

    engine: str
    capabilities: Capabilities

    @abstractmethod
    async def fetch(self, keys: Sequence[HotKey], *, ttl_s: float | None = None) -> list[V | None]:
        """Return the views of a batch of keys (H1). `ttl_s` is their time to live from now on; None: as it was."""

    @abstractmethod
    async def publish(self, key: HotKey, view: V, *, ttl_s: float | None = None) -> bool:
        """Store a view unless a newer one is there (H2). `ttl_s` None: as it was, or `limits.view_ttl_s` at first."""

    @abstractmethod
    async def forget(self, tenant: str, session: str) -> None:
        """Remove a session's views (H4)."""

    @abstractmethod
    async def flush(self) -> None:
        """Remove everything (H4)."""

    @abstractmethod
    async def close(self) -> None:
        """Release everything. Safe to call twice."""
