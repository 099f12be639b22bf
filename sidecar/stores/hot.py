"""The hot contract: the ends of session logs, shared between processes, for every engine.

Nothing in a hot store is needed: it may be flushed, evicted or lost at any moment, and costs latency, never data
and never a stale answer. An engine holds two things: *views* folded in this process, which it hands back as they are,
and, if it is `coherent`, the *tail* of each session's log, which every process sees. A tail is what the record store
would answer to a `SessionRead`, so both stores' answers are folded by one function. `tests/contract/hot_suite.py` holds
every engine to these clauses, by number; H8 to H13 bind coherent engines alone.

H1  `fetch` answers in one round trip: the view that this process holds, and what the shared tail has behind it. With
    neither, both are None.
H2  Neither `keep` nor `publish` puts an older version over a newer one. `keep` drops a view of an equal version.
H3  A kept view comes back as it is. `gained` folds onto the view, or onto its own checkpoint, without a gap, and gives
    the view that folding the log gives.
H4  `forget` removes a session, for all tokenizers. `flush` removes everything.
H5  The store is bounded in bytes: beyond, the least recently used leaves. What is larger than the bound is not stored.
H6  A session leaves when its time to live, as it was last given, has passed since it was last published or fetched.
H7  Tenants never meet, nor do deployments: both stand in the key.
H8  `publish` is seen by every later `fetch`, in whatever process, unless the session was evicted or flushed since.
H9  `announce` marks a session: until its mark is gone, no fetch of the session has a grant. A mark goes with the
    `publish` or `withdraw` that names it. A mark whose time has passed goes with a publish whose ticket was asked for
    after that time: what it announced is in what was read since, or never happened.
H10 A ticket belongs to one life of a session's entry. A publish or withdrawal under a ticket of another life stores
    nothing and removes what there is: since the ticket was given others may have written what was then lost, and what
    was read before may be published yet. On another server it is another life: times and trust do not come along.
H11 `Place.incarnation` changes whenever the server that holds a session may have lost writes that it had confirmed:
    restart, promotion, another server. So does another form of what is stored, which other releases would not find. It
    is empty if the answer did not come from a primary.
H12 `Found.grant` is the stamp of the last publish that reached the tail's version, and 0 when the tail is not whole: a
    mark stands, or its events do not reach its version.
H13 What cannot be reached in time raises HotUnavailable. No driver's own exception leaves an engine; deadlines hold.
H14 `examine` tells what is wrong with the store as it is deployed, for people to mend. It needs no `open`, leaves
    nothing behind, and raises nothing but ConfigInvalid: what cannot be asked is a finding too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from sidecar.finding import Finding
from sidecar.stores.record import Deadline, SessionState

SLOTS: Final = 16_384
"""Sessions fall into so many slots, as keys do on a Redis Cluster; a grant covers ranges of them."""


@dataclass(frozen=True, slots=True)
class HotKey:
    """A session's view, as counted by one tokenizer."""

    tenant: str
    session: str
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Place:
    """Which server answered for a session."""

    slot: int
    """From 0 to SLOTS - 1."""
    incarnation: str
    """H11."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a publish must show: where and when its writer looked before it read the record store."""

    place: Place
    life: str
    """Of the session's entry (H10)."""
    asked_at_ms: int
    """By the server's clock; tells which marks had expired (H9)."""


NOWHERE: Final = Ticket(Place(0, ""), "", 0)
"""The ticket of an engine that shares nothing."""


class HotView(Protocol):
    """What an engine needs to know of a view."""

    @property
    def version(self) -> int:
        """The session version that it shows."""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""


V = TypeVar("V", bound=HotView)


@dataclass(frozen=True, slots=True)
class Found(Generic[V]):
    """What a fetch found."""

    view: V | None
    """What this process holds, however old."""
    gained: SessionState | None
    """What the shared tail has behind the view; None if nothing, or nothing that follows."""
    version: int
    """The tail's version; 0 without one."""
    grant: int
    """H12."""
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine may leave out."""

    coherent: bool
    """Whether there is a shared tail (H8 to H13). Where it is absent, a view proves nothing about the log, and a fresh
    read compares it with the record's head."""


class Hot(ABC, Generic[V]):
    """The hot store, shared by every task of the process."""

    engine: str
    capabilities: Capabilities

    @abstractmethod
    async def open(self, *, deployment: str = "") -> None:
        """Prepare. Never fails for a server that is not there: it may come.

        `deployment` names the record store that the tails are of, in letters and digits: two that share a hot store
        do not meet (H7).
        """

    @abstractmethod
    async def examine(self) -> Sequence[Finding]:
        """Look at the store as it is deployed (H14)."""

    @abstractmethod
    def held(self, key: HotKey) -> V | None:
        """Return the view that this process holds, however old, without asking anyone."""

    @abstractmethod
    def keep(self, key: HotKey, view: V, *, ttl_s: float | None = None) -> bool:
        """Hold a view in this process unless a newer one is held (H2).

        `ttl_s` None: as it was, or `limits.view_ttl_s` at first.
        """

    @abstractmethod
    async def fetch(self, key: HotKey, *, ttl_s: float | None = None, deadline: Deadline | None = None) -> Found[V]:
        """Return what there is of a session (H1). `ttl_s` is its time to live from now on; None: as it was."""

    @abstractmethod
    async def announce(
        self, tenant: str, session: str, *, mark: str, lasts_ms: int, deadline: Deadline | None = None
    ) -> Ticket:
        """Say that an append is about to happen (H9). `mark` names it; after `lasts_ms` it can no longer happen."""

    @abstractmethod
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
        """Bring the shared tail up to `state.head.version` (H2, H10) and stamp it with a grant.

        `state` is the record store's answer to a read that began after the ticket was given; or, with `mark`, the one
        event that was just appended. Events that join the tail's extend it, to either side; events behind a gap
        replace it. Returns who confirmed it.
        """

    @abstractmethod
    async def withdraw(
        self, tenant: str, session: str, *, ticket: Ticket, mark: str, version: int, deadline: Deadline | None = None
    ) -> Place:
        """Take a mark back: nothing was appended under it. Returns who confirmed it.

        The session is at `version` at least, which a fetch from now on knows: an older tail is no longer whole.
        """

    @abstractmethod
    async def forget(self, tenant: str, session: str) -> None:
        """Remove a session (H4)."""

    @abstractmethod
    async def flush(self) -> None:
        """Remove everything (H4)."""

    @abstractmethod
    def slot(self, tenant: str, session: str) -> int:
        """Return the slot of a session; 0 in an engine that shares nothing."""

    @abstractmethod
    def slots_of(self, incarnation: str) -> Sequence[tuple[int, int]]:
        """Return the ranges of slots, [from, to), that a server was last seen to hold; empty if it is not known."""

    @abstractmethod
    async def close(self) -> None:
        """Release everything. Safe to call twice."""
