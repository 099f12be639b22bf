"""The record contract: the system of record, for every engine.

The event log is the truth; everything else in a record store is derived from it or configuration. Engines
subclass `Record`; `tests/contract/record_suite.py` holds every one to these clauses, by number.

R1  `append` is atomic: afterwards the event, its receipt, its tool calls, its recall items and its work order
    are all there, or nothing is. It is durable when it returns.
R2  An append with `expected_version` n succeeds only if the session's version is n (0: it does not exist).
    Of concurrent appends at one version exactly one wins; every other raises VersionConflict with
    `current_version` and `winner_request_id`, the request id of the event n + 1. n above the version raises
    VersionInFuture with `current_version`.
R3  An append with `expected_version` None goes behind whatever is there.
R4  The same (session, request id, digest) again returns the first result with `replayed`, whatever the
    version is by then, and writes nothing. Another digest raises RequestIdReused. This check comes
    before every other: of version, end, subject, tool calls and citations, which are made in this order.
R5  Versions of a session run from 1 without gaps; each event's hash is `event_hash` over the hash before it.
R6  Positions of a subject's items run from 1 without gaps, in commit order over all its sessions: whoever
    reads up to position p has missed nothing at or below p, ever after.
R7  A session belongs to the subject of its first event: an append that names another raises SubjectMismatch.
    A first append must name one (InvalidField); one that `must_exist` raises SessionNotFound.
R8  After an event of kind END every append raises SessionEnded.
R9  A tool result needs its call: in the same append, or in the session without a result yet. Otherwise
    ToolResultWithoutCall. A call id that the session has had raises InvalidField. (That within one append the call
    stands before its result is the caller's check: it alone knows the entries' order.)
R10 Citations must name events of the tenant that exist (InvalidField).
R11 `fetch` takes a batch of reads and answers in the same length and order, from one snapshot, in one round trip.
    What does not exist is None, not an error.
R12 A snapshot contains every append that was acknowledged before the fetch began, in whatever process.
R13 Vectors of a (subject, model) are put in position order: `put_vectors` starts right behind the last position
    that has one and returns True, or writes nothing and returns False; also when it would go beyond the last item.
    So an effect happens once.
R14 A subject with items beyond its last vector of a model is a work order. `claim` hands out the oldest, by the time
    of the first such item, each to one worker at a time, until `lease_s` have passed by the store's clock: then it is
    anybody's again. A put that succeeds ends the claim on its order, whoever made it. Each model lags by itself, from
    its first use behind all that is there.
R15 `drop_derived` removes items, vectors, checkpoints and work orders, and nothing else.
    `restore_items` puts the items of one event back, in any order of events that keeps positions; the
    positions are part of the event, so that a rebuilt scope equals the old one. Another number of items than the
    event had raises InvalidField. Meanwhile appends go on, and a scope's position is the last without a gap before
    it, so that R6 holds; items that are there already are left as they are.
R16 Policy versions are immutable: publishing the content of the latest version returns it and writes nothing;
    other content becomes the next version. A route moves only to a version that exists (PolicyNotFound).
R17 Tenants never meet: every key leads with the tenant, and no read sees another's rows. The queue of work orders
    alone is ordered by age over all tenants: no tenant reads it (`claim`, LagRead, ParkedRead), nor what is due
    to be removed (ExpiredRead, ErasuresRead, FiguresRead, `expire_state`), nor what is to be wrapped anew (`keys_all`).
R18 A store that cannot be reached, or is locked beyond the deadline, raises StoreUnavailable; one that refuses
    writes StoreReadOnly; a full one StoreFull; a newer one StoreSchemaNewer; a row that cannot be read
    StoreCorrupt. No driver's own exception leaves an engine. A failed append wrote nothing that is visible,
    except that after StoreUnavailable it may have happened: the request id tells. A deadline that passes while a
    call waits for its turn raises DeadlineExceeded with its `phase`, and nothing happens; in mid-commit it raises
    StoreUnavailable. A full append queue raises Overloaded with its `limit`.
R19 A checkpoint is a cache of a fold: writing the same (session, tokenizer, version) again changes nothing.
R20 Grants say which server of a coherent hot store is trusted for which slots (`sidecar.stores.grants`). `adopt` and
    `revoke` are atomic against each other, and date what they changed in a transaction of its own:
    `limits.hot_lease_ms` from then, by the store's clock. A row that stays keeps its grant, and no grant is given
    twice. `date_grants` does the second half for a process that died between the two.
R21 `release` ends a claim that its worker still holds, and else does nothing. Without a reason the order is due again
    after the pause, as if nobody had claimed it; with a reason it has failed. An order that was claimed
    `limits.work_attempts_max` times in a row and came to nothing, because it failed or its workers were gone, is
    parked: handed out to nobody, until `unpark` or a put that succeeds. Items that the subject gains join the parked
    order and do not free it, since their vectors cannot come before those that failed. An order that was tried before
    is handed out alone, so that one that kills its workers is not counted against others.
R22 `examine` tells what is wrong with the store as it is deployed, for people to mend. It needs no `open`, creates and
    changes nothing, and raises nothing but ConfigInvalid: what cannot be asked is a finding too.
R23 A session's log is kept for `NewEvent.keep_s` after its last event. `ExpiredRead` lists those whose time has passed
    by the store's clock, the longest ago first. `sweep` removes the events, tool calls and checkpoints of one, if its
    time has passed still, in one transaction. Its head stays, `expired`, so that nobody begins a session anew under its
    id: every append raises SessionExpired, before every other check (R4 too), and reads give the head and no events.
    It stays listed until `forgotten`, so that whoever dies before the hot store forgot it is followed by another.
R24 The items of a swept session keep their positions (R6), and no content: they are `gone`, and have zero vectors, also
    where these are put later. `ScopeState.epoch` rises with each sweep that took items. `drop_derived` leaves them,
    since the log knows them no more.
R25 A session has at most `limits.session_events_max` events, and its end: a turn beyond raises LimitExceeded.
R26 `FiguresRead` tells how much there is. It may estimate, and costs the same however much it is.
R27 An item has a kind and a detail, which come back as they were put. `ChangesRead` gives those of kinds CHANGE and
    HELD alone, at the cost of these; `HeldRead` the subjects that have items of kind HELD, by name. What is gone
    (R24) is in neither.
R28 `redact` puts another body in an event's place, and makes the items of some of its entries `gone` (R24). The
    event's hash stays, and so does the chain: `StoredEvent.body_hash` is that of the first body. Any number of times.
R29 `erase` marks a subject, or one session, in one transaction; again, it changes nothing. From then on every append
    to it raises Erased, before every other check (R4 too), a first append of a session included; an append at work is
    waited for. Reads give `Head.erased` and no events, and of a subject an empty scope at its position. All keys of
    an erased subject are gone (R31). `ExpiredRead` lists the sessions, and `sweep` removes their logs whatever their
    time, adding what it removed to the erasure's counts. Who marked it calls `finish_erasure` when no session is
    listed any more, and `ErasuresRead` lists what was not finished, for whoever finds it. An erasure's row stays for
    ever.
R30 `restore` is an append that puts an event back as it was, with the time at which it was committed then, in the
    order of versions; where the session was swept or erased, it begins it anew. Before, `reopen` takes the mark from
    a subject, and forgets the heads of its sessions, but of those that were erased by themselves. Both raise Erased
    while the erasure is at work; `restore` raises StoreUnavailable while a swept session is still listed. A session
    that is there and has such a version raises VersionConflict. Positions go on behind the last ever given. What was
    erased and begun anew may be erased anew: then its row counts from 0.
R31 `put_key` keeps the first key of a subject, and returns the one that is kept; it raises Erased for a subject that
    is erased. `rewrap` puts another wrapping in place of one that is still there. `keys_all` lists them for rotation.
R32 `scrub` leaves nothing of what was removed before in the store's files, as far as the engine can say where it
    stands: free pages, write-ahead logs, dead rows. It raises StoreUnavailable when others hold them up, and may be
    called again.
R33 `serve` names the one model of the store whose vectors rank, if the one named so far is `instead_of` (empty: none
    yet), and returns whether it did; of concurrent calls one does. A model so named is in use (R14).
    `ScopeState.serving` is the name in the read's snapshot. `drop_derived` leaves it.
R34 `drop_model` removes a model's vectors, work orders and name; InvalidField for the one that serves. No snapshot
    holds a part of a subject's vectors. It may be called again, and goes on where it was broken off. A process that
    still works on the model may begin it anew (R14): it is dropped when nobody does.
R35 `may_be` tells whether the store lets its caller serve a tenant. Where it does not, the tenant's reads find nothing,
    and its writes raise ConfigInvalid. Stores that bind nobody say True.
R36 `put_state` writes and deletes records of one collection of a subject: all or none, durable when it returns. All get
    one revision, counted up from 1 for the subject over its collections, and never given twice, whatever was deleted
    or erased since. Where a write expects another revision than its record has (0: there is none), it raises
    VersionConflict with `key_index`, the place of the first such write, and `current_version`, the record's revision;
    of concurrent ones that expect the same revision one wins.
R37 `StateRead` gives records in the order of the keys that it names, `StateList` those of a collection by the bytes of
    their keys, either way, and `StateAll` those of all collections. Each stops before the record whose key and value
    would exceed `bytes_max`, but gives at least one, and says so. `delete_state` removes records by the beginning of
    their keys, and says whether some are left.
R38 A record whose time has passed by the store's clock is there for no read and no comparison. `expire_state` removes
    those of all tenants, the longest ago first.
R39 A subject has at most `limits.state_records_max` records: a write of more raises LimitExceeded, and writes nothing.
R40 `erase` of a subject removes its records with the mark (R29), and counts them; from then on `put_state` raises
    Erased. `drop_derived` and `sweep` leave records.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.finding import Finding
from sidecar.stores.grants import Grant

Deadline = float
"""A point in `time.monotonic()` seconds."""


class EventKind(enum.IntEnum):
    """What an event records. Stored: never renumber."""

    TURN = 1
    END = 2
    MEMORY = 3
    """Changes of a subject's memory, in one of our own logs (`sidecar.names`)."""


class ItemKind(enum.IntEnum):
    """What an item is. Stored: never renumber."""

    CHUNK = 0
    """A piece of a turn."""
    CHANGE = 1
    """A change of memory."""
    DOCUMENT = 2
    """A piece of a document."""
    HELD = 3
    """A change of memory that waits, or waited, for review."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """One recallable piece of an event: a message, or a chunk of one. Derived from the event's body alone."""

    entry: int
    """Index of the entry in the turn."""
    chunk: int
    """Index of the chunk in the entry, from 0."""
    role: int
    """`standpipe.v1.Role`."""
    speaker: str
    spoken_at_us: int
    """Microseconds since 1970, UTC."""
    text: str
    """Verbatim."""
    terms: bytes
    """The packed lexical analysis of `sidecar.recall`."""
    tokens: Mapping[str, int]
    """Tokens as rendered, by tokenizer: one per tokenizer that is counted at write."""
    kind: ItemKind = ItemKind.CHUNK
    detail: bytes = b""
    """A serialised `sidecar.log.v1.ItemDetail`; empty if there is nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """What `append` is asked to write."""

    tenant: str
    session: str
    subject: str
    """Empty: the session's own."""
    request_id: str
    digest: bytes
    """32 bytes: SHA-256 of the canonical request, to tell a retry from a reuse (R4)."""
    expected_version: int | None
    must_exist: bool = False
    """Whether the session must be there already, whatever version is expected."""
    kind: EventKind
    body: bytes
    """The stored body: a serialised `standpipe.v1.Turn` or `SessionEnd`."""
    weight_bytes: int
    """What the event weighs in a view (`limits.view_bytes`)."""
    items: Sequence[NewItem] = ()
    opened_calls: Sequence[str] = ()
    """Ids of the tool calls in it, in order."""
    answered_calls: Sequence[str] = ()
    """Ids of the calls that its results answer; may name calls of the same event."""
    citations: Sequence[tuple[str, int]] = ()
    """(session, version) of every event that it cites."""
    keep_s: int | None = None
    """How long after this event the session's log is kept (R23); 0: for ever; None: as it was, for ever at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What `append` wrote, or had written before. The whole answer to a commit follows from it."""

    version: int
    event_hash: bytes
    subject: str
    position: int
    """The subject's last item position after this event."""
    weight_end_bytes: int
    """The session's weight up to and with this event."""
    committed_at_us: int
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event of the log."""

    session: str
    version: int
    kind: EventKind
    request_id: str
    committed_at_us: int
    body: bytes
    previous_hash: bytes
    event_hash: bytes
    weight_end_bytes: int
    """The session's weight up to and with this event."""
    position_end: int
    """The subject's last item position after this event."""
    body_hash: bytes = b""
    """SHA-256 of the body as it was stored at first, which the event's hash covers; empty: that of `body`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a session stands."""

    session: str
    subject: str
    version: int
    event_hash: bytes
    ended: bool
    weight_bytes: int
    position_end: int
    """`StoredEvent.position_end` of the last event."""
    created_at_us: int
    updated_at_us: int
    expires_at_us: int = 0
    """Until when the log is kept at least; 0: for ever."""
    expired: bool = False
    """Whether its log was removed (R23)."""
    erased: bool = False
    """Whether it, or its subject, was erased (R29); then it is `expired`, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A fold of the log up to a version, so that a cold load reads no more than the end (R19)."""

    session: str
    tokenizer: str
    version: int
    weight_bytes: int
    """The session's weight up to and with that version."""
    body: bytes
    """Encoded by `sidecar.view`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItem:
    """A recall item of a subject."""

    position: int
    session: str
    version: int
    entry: int
    chunk: int
    role: int
    speaker: str
    spoken_at_us: int
    text: str
    terms: bytes
    tokens: Mapping[str, int]
    gone: bool = False
    """Whether its session's log was removed: then it is a position, and nothing else (R24)."""
    kind: ItemKind = ItemKind.CHUNK
    detail: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A subject's data key, wrapped (R31)."""

    subject: str
    key_id: bytes
    """16 random bytes: what was sealed names its key by it."""
    wrapped: bytes
    wrapping: str
    """The id of the key that wraps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was erased, in counts (R29)."""

    tenant: str
    subject: str
    session: str
    """Empty: all of the subject."""
    asked_at_us: int
    done_at_us: int
    """0: it is at work."""
    logs: int
    events: int
    items: int
    events_redacted: int
    keys: int
    records: int = 0
    """Of its state (R40)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateWrite:
    """One change of one record of state (R36)."""

    key: str
    value: bytes | None
    """None deletes it."""
    expected_revision: int | None = None
    """0: there is none; None: whatever there is."""
    keep_us: int = 0
    """How long it is kept from now; 0: until it is deleted."""
    expires_at_us: int = 0
    """Until when, in place of that: an import says what was said before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRecord:
    """A record of state."""

    collection: str
    key: str
    value: bytes
    """Empty in a list of keys alone."""
    revision: int
    updated_at_us: int
    expires_at_us: int
    """0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPolicy:
    """One immutable policy version."""

    name: str
    version: int
    document: str
    digest: bytes
    published_at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRoute:
    """Where a route points."""

    name: str
    policy_name: str
    policy_version: int


# --- reads: each class has one answer type; `fetch` takes any mix of them (R11) ------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRead:
    """-> Head | None."""

    tenant: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRead:
    """-> SessionState | None: the end of a session's log, enough to fold a view at a version.

    The end is the head, or `at_version`. With `known_version` equal to it, `events` is empty and `checkpoint` None:
    the caller's view is current. With a `known_version` behind it, `events` are those after it and `checkpoint`
    is None, unless they would weigh more than `window_bytes`: then it is a cold load.
    A cold load gives the last checkpoint of the tokenizer that lies at least `window_bytes` before the end (None
    if there is none: then from version 1) and all events after it.
    """

    tenant: str
    session: str
    tokenizer: str
    known_version: int = 0
    at_version: int | None = None
    """Read the log as it was at this version; None for the head. Beyond the head it is the head: compare
    `SessionState.head.version`."""
    window_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """A session's head (as it is now), and the part of its log that was asked for."""

    head: Head
    checkpoint: Checkpoint | None
    events: Sequence[StoredEvent]
    after_version: int
    """The version that `events` follow: the known one, the checkpoint's, or 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsRead:
    """-> Sequence[StoredEvent] | None: a page of the log, by version; None if there is no such session."""

    tenant: str
    session: str
    after_version: int
    count_max: int
    bytes_max: int
    """Stops before the event whose body would exceed it, but gives at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsRead:
    """-> Sequence[Head]: a page of sessions, by id."""

    tenant: str
    subject: str
    """Empty: all."""
    after_session: str
    count_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRead:
    """-> ScopeState: what a subject's memory has gained. A subject without items has position 0."""

    tenant: str
    subject: str
    model: str
    """The embedding model's id; empty: no vectors."""
    after_position: int = 0
    after_vector_position: int = 0
    count_max: int = 1 << 30
    """The most items, and the most vectors, of one answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeState:
    """The gain of a scope. When `items` or `vectors` is shorter than the positions say, read on."""

    position: int
    """The last item's."""
    vector_position: int
    """The last item's that has a vector of the model; all before have one too (R13)."""
    items: Sequence[StoredItem]
    vectors: Sequence[bytes]
    """Packed vectors of the positions after `after_vector_position`, in order."""
    epoch: int = 0
    """How often items of the scope have gone: what was read at another epoch must be read again (R24)."""
    serving: str = ""
    """The model whose vectors rank; empty: none is named yet (R33)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesRead:
    """-> ScopeState without vectors and `serving`: the items of kinds CHANGE and HELD alone, after a position (R27).

    `position` and `epoch` are the scope's. When fewer items come than `count_max`, these are all.
    """

    tenant: str
    subject: str
    after_position: int = 0
    count_max: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRead:
    """-> Sequence[str]: a page of the tenant's subjects that have items of kind HELD, by name."""

    tenant: str
    after_subject: str
    count_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRead:
    """-> StoredKey | None: by id, or, with an empty one, the subject's."""

    tenant: str
    subject: str = ""
    key_id: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureRead:
    """-> Erasure | None."""

    tenant: str
    subject: str
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasuresRead:
    """-> Sequence[Erasure]: of all tenants, those that are not finished, the oldest first."""

    count_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRead:
    """-> StateFound: those of the keys that have a record, in their order (R37)."""

    tenant: str
    subject: str
    collection: str
    keys: Sequence[str]
    """That differ."""
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateList:
    """-> StateFound: a page of a collection's records (R37)."""

    tenant: str
    subject: str
    collection: str
    prefix: str = ""
    """What their keys begin with."""
    after_key: str = ""
    """The last key of the page before."""
    descending: bool = False
    keys_only: bool = False
    count_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateAll:
    """-> StateFound: a page of a subject's records, by (collection, key) (R37)."""

    tenant: str
    subject: str
    after: tuple[str, str] = ("", "")
    count_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFound:
    """What was found, and whether there may be more behind the last of it: for a StateRead, under its later keys."""

    records: Sequence[StateRecord]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRead:
    """-> StoredPolicy | None."""

    tenant: str
    name: str
    version: int | None = None
    """None: the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRead:
    """-> StoredRoute | None."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesRead:
    """-> Sequence[StoredPolicy]: a page of versions, by (name, version)."""

    tenant: str
    after: tuple[str, int] = ("", 0)
    count_max: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutesRead:
    """-> Sequence[StoredRoute], by name."""

    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LagRead:
    """-> Lag."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far the vectors of a model are behind, over all tenants."""

    items: int
    """Items that wait for their vector; those of parked orders are not among them."""
    age_s: float
    """How long ago the oldest of them was committed; 0 if there is none."""
    parked: int
    """Parked orders (R21)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsRead:
    """-> Models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models that a store has work orders for, and the one that serves."""

    serving: str
    """Whose vectors rank; empty: none is named yet (R33)."""
    known: Sequence[str]
    """Those in use (R14), by name; extractors are among them (`sidecar.names.EXTRACTS`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRead:
    """-> Sequence[ParkedOrder]: a page of all tenants' parked orders, by (tenant, subject, model)."""

    after: tuple[str, str, str] = ("", "", "")
    count_max: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedOrder:
    """A work order that came to nothing too often (R21)."""

    tenant: str
    subject: str
    model: str
    items: int
    """Items that wait for their vector."""
    since_us: int
    """When the oldest of them was committed."""
    parked_at_us: int
    reason: str
    """Of `standpipe.v1.ErrorReason`, from the last failure; empty: the last worker was gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredRead:
    """-> Sequence[tuple[str, str]]: (tenant, session) of all tenants' sessions whose log is to be removed (R23)."""

    count_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FiguresRead:
    """-> Figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """About how much there is, over all tenants (R26)."""

    sessions: int
    """Swept ones are not among them."""
    events: int
    items: int
    log_bytes: int
    """What the events take, as they are stored or as they weigh."""
    overdue_s: float
    """For how long the log has outstayed its time that did so longest; 0 if none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantsRead:
    """-> GrantsState."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantsState:
    """Who is trusted for which slots of the hot store (R20)."""

    rows: Sequence[Grant]
    """By slot, without overlaps. Slots without a row were never granted."""
    now_us: int
    """The record store's clock, in microseconds since 1970."""


Read = (
    HeadRead
    | SessionRead
    | EventsRead
    | SessionsRead
    | ScopeRead
    | ChangesRead
    | HeldRead
    | KeyRead
    | ErasureRead
    | ErasuresRead
    | StateRead
    | StateList
    | StateAll
    | PolicyRead
    | RouteRead
    | PoliciesRead
    | RoutesRead
    | LagRead
    | ModelsRead
    | ParkedRead
    | ExpiredRead
    | FiguresRead
    | GrantsRead
)
Answer = object


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A subject's memory, and how far it is embedded."""

    tenant: str
    subject: str
    position: int
    vector_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A work order that one worker holds (R14)."""

    scope: Scope
    model: str
    worker: str
    until_us: int
    """When the lease passes, by the store's clock. With `worker` it tells this claim from any other."""
    attempts: int
    """Claims in a row that came to nothing, with this one."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine may leave out. The conformance suite tests each, present and absent."""

    multiprocess: bool = True
    """Several processes may open the store at once."""


class Record(ABC):
    """The system of record.

    Opened once, shared by every task of the process; all methods are safe to call concurrently. A `deadline` bounds
    the wait; None waits as long as the engine's own timeouts.
    """

    engine: str
    capabilities: Capabilities = Capabilities()

    @abstractmethod
    async def open(self) -> None:
        """Connect and bring the schema up to date. Raises StoreSchemaNewer, StoreUnavailable, StoreReadOnly."""

    @abstractmethod
    async def close(self) -> None:
        """Finish the appends at work and release everything. Safe to call twice."""

    @abstractmethod
    async def examine(self) -> Sequence[Finding]:
        """Look at the store as it is deployed (R22)."""

    @abstractmethod
    async def signing_key(self) -> bytes:
        """Return the deployment's 32-byte key, made by the first `open`; it signs tokens and receipts."""

    async def may_be(self, tenant: str) -> bool:
        """Return whether the store lets its caller serve a tenant (R35)."""
        return True

    @abstractmethod
    async def append(self, event: NewEvent, *, deadline: Deadline | None = None) -> Appended:
        """Append one event to a session's log (R1 to R10). There is no default for the expected version."""

    @abstractmethod
    async def fetch(self, reads: Sequence[Read], *, deadline: Deadline | None = None) -> list[Answer]:
        """Answer a batch of reads from one snapshot (R11, R12)."""

    @abstractmethod
    async def put_vectors(
        self, scope: Scope, *, model: str, vectors: Sequence[bytes], deadline: Deadline | None = None
    ) -> bool:
        """Store the vectors of the positions after `scope.vector_position`, in order (R13)."""

    @abstractmethod
    async def claim(self, *, model: str, worker: str, lease_s: float, count_max: int) -> Sequence[Claim]:
        """Take the oldest work orders that are due, for a worker whose name no other has (R14, R21)."""

    @abstractmethod
    async def release(self, claim: Claim, *, reason: str = "", pause_s: float = 0.0) -> bool:
        """Give an order back, failed if there is a reason; return whether it is parked now (R21)."""

    @abstractmethod
    async def unpark(self, tenant: str, *, subject: str, model: str) -> bool:
        """Make a parked order due at once, as if it had never failed; False if there is none (R21)."""

    @abstractmethod
    async def serve(self, model: str, *, instead_of: str) -> bool:
        """Name the model whose vectors rank in place of another; False if another is named than that (R33)."""

    @abstractmethod
    async def drop_model(self, model: str) -> None:
        """Remove all that there is of a model which does not serve (R34)."""

    @abstractmethod
    async def put_checkpoint(self, tenant: str, checkpoint: Checkpoint) -> None:
        """Store a fold (R19), but not of a session that was swept (R23)."""

    @abstractmethod
    async def sweep(self, tenant: str, session: str) -> bool:
        """Remove a session's log if its time has passed; False if it has not, or the log was removed before (R23)."""

    @abstractmethod
    async def forgotten(self, tenant: str, session: str) -> None:
        """Note that the hot store holds nothing of a swept session (R23)."""

    @abstractmethod
    async def redact(
        self, tenant: str, *, session: str, version: int, body: bytes, entries: Sequence[int], erasure: Erasure
    ) -> None:
        """Replace an event's body, and empty the items of some of its entries; the erasure counts it (R28)."""

    @abstractmethod
    async def erase(self, tenant: str, *, subject: str, session: str = "") -> Erasure:
        """Mark a subject, or one session of it, as erased (R29). Raises SubjectMismatch if the session is another's."""

    @abstractmethod
    async def finish_erasure(self, erasure: Erasure) -> Erasure:
        """Note that nothing is left; again, nothing changes. Returns the row as it is kept (R29)."""

    @abstractmethod
    async def reopen(self, tenant: str, *, subject: str) -> None:
        """Let a subject that was erased, and of which nothing is left, begin anew (R30)."""

    @abstractmethod
    async def restore(self, event: NewEvent, *, committed_at_us: int) -> Appended:
        """Append an event that an export holds (R30). `expected_version` is the one that it follows."""

    @abstractmethod
    async def put_state(
        self,
        tenant: str,
        *,
        subject: str,
        collection: str,
        writes: Sequence[StateWrite],
        deadline: Deadline | None = None,
    ) -> int:
        """Change records under keys that differ; return their revision (R36). Raises VersionConflict, Erased."""

    @abstractmethod
    async def delete_state(
        self,
        tenant: str,
        *,
        subject: str,
        collection: str,
        prefix: str,
        count_max: int,
        deadline: Deadline | None = None,
    ) -> tuple[int, bool]:
        """Remove records whose keys begin with a prefix; return how many, and whether some are left (R37)."""

    @abstractmethod
    async def expire_state(self, *, count_max: int) -> int:
        """Remove records of all tenants whose time has passed; return how many (R38)."""

    @abstractmethod
    async def scrub(self) -> None:
        """Leave nothing of what was removed in the store's files (R32)."""

    @abstractmethod
    async def put_key(self, tenant: str, key: StoredKey) -> StoredKey:
        """Keep a subject's first key; return the one that is kept (R31)."""

    @abstractmethod
    async def rewrap(self, tenant: str, *, old: StoredKey, new: StoredKey) -> bool:
        """Put another wrapping of the same key in place of an old one; False if that is not there (R31)."""

    @abstractmethod
    async def keys_all(self, *, after: tuple[str, bytes], count_max: int) -> Sequence[tuple[str, StoredKey]]:
        """List the keys of every tenant, by (tenant, key id): (tenant, key) (R31)."""

    @abstractmethod
    async def publish_policy(
        self, tenant: str, *, name: str, document: str, digest: bytes
    ) -> tuple[StoredPolicy, bool]:
        """Store a policy version; the flag says whether it is new (R16)."""

    @abstractmethod
    async def set_route(self, tenant: str, route: StoredRoute) -> None:
        """Point a route at a version (R16). Version 0 of "default" is built in and always exists."""

    @abstractmethod
    async def drop_derived(self) -> None:
        """Remove everything that `rebuild` makes again from the log (R15)."""

    @abstractmethod
    async def sessions_all(self, *, after: tuple[str, str], count_max: int) -> Sequence[tuple[str, Head]]:
        """List sessions of every tenant by (tenant, session), for rebuild: (tenant, head)."""

    @abstractmethod
    async def restore_items(self, tenant: str, *, subject: str, event: StoredEvent, items: Sequence[NewItem]) -> None:
        """Put back the items of one event, at the positions that end with its `position_end` (R15)."""

    @abstractmethod
    async def adopt(self, incarnation: str, slots: Sequence[tuple[int, int]]) -> None:
        """Grant trust in a server of the hot store for ranges of slots, [from, to), taking them from others (R20)."""

    @abstractmethod
    async def revoke(self, incarnation: str) -> None:
        """Withdraw all trust in a server of the hot store; nothing if there is none (R20)."""

    @abstractmethod
    async def date_grants(self) -> None:
        """Give a time to grants that were changed and not yet dated (R20)."""
