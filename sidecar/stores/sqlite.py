"""The embedded record store: one SQLite file, for one machine and any number of its processes.

::

    append ──> queue ──> writer thread: BEGIN IMMEDIATE, a savepoint for each write, one COMMIT and one fsync
    fetch  ──> queue ──> reader threads: one deferred transaction for each fetch, so one snapshot

SQLite never runs on the event loop. The writer takes whatever waits, up to `limits.append_batch_max`, into one
transaction, so that commits which arrive together share an fsync; a write that fails is rolled back to its savepoint
and harms no other. WAL lets readers go on meanwhile, in this process and in others, and synchronous=FULL makes each
commit durable before it is answered.

The SQL stands in `sql/sqlite_schema.sql` and `sql/sqlite_queries.sql`. This file alone imports the driver, and
`store_error` is the one place where its exceptions become ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import queue
import secrets
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sidecar import canonical, limits
from sidecar.errors import (
    ConfigInvalid,
    DeadlineExceeded,
    Erased,
    Internal,
    InvalidField,
    Overloaded,
    PolicyNotFound,
    RequestIdReused,
    SessionEnded,
    SessionExpired,
    SessionNotFound,
    StandpipeError,
    StoreCorrupt,
    StoreFull,
    StoreReadOnly,
    StoreSchemaNewer,
    StoreUnavailable,
    SubjectMismatch,
    ToolResultWithoutCall,
    VersionConflict,
    VersionInFuture,
)
from sidecar.finding import Finding, failed, ok, parked, ranked_by, skipped, warning
from sidecar.stores import grants
from sidecar.stores.grants import Grant
from sidecar.stores.record import (
    Answer,
    Appended,
    ChangesRead,
    Checkpoint,
    Claim,
    Deadline,
    Erasure,
    ErasureRead,
    ErasuresRead,
    EventKind,
    EventsRead,
    ExpiredRead,
    Figures,
    FiguresRead,
    GrantsRead,
    GrantsState,
    Head,
    HeadRead,
    HeldRead,
    KeyRead,
    Lag,
    LagRead,
    Models,
    ModelsRead,
    NewEvent,
    NewItem,
    ParkedOrder,
    ParkedRead,
    PoliciesRead,
    PolicyRead,
    Read,
    Record,
    RouteRead,
    RoutesRead,
    Scope,
    ScopeRead,
    ScopeState,
    SessionRead,
    SessionsRead,
    SessionState,
    StateAll,
    StateFound,
    StateList,
    StateRead,
    StateWrite,
    StoredEvent,
    StoredItem,
    StoredKey,
    StoredPolicy,
    StoredRoute,
)
from sidecar.stores.rows import (
    erasure_of,
    event_of,
    grant_of,
    head_of,
    item_of,
    key_of,
    keys_from,
    keys_of_page,
    named,
    parked_of,
    policy_of,
    route_of,
    sections,
    serves,
    session_full,
    state_conflict,
    state_full,
    state_of,
    state_page,
    tokens_text,
)

T = TypeVar("T")

APPLICATION_ID: Final = 0x5374_6470
"""PRAGMA application_id of our files: "Stdp"."""

READERS: Final = 2
"""Reader threads: one long load does not hold up the short reads. More would only queue for the GIL."""

LOCK_STEP_MS: Final = 50
"""How long SQLite itself polls for another process's write lock before the writer looks for callers that gave up."""

CACHE_KIB: Final = 8192
"""Page cache of each connection."""

WAL_BYTES: Final = 32 << 20
"""What the WAL file is cut back to after a burst."""


SQL: Final = sections("sqlite_queries.sql", "name")
MIGRATIONS: Final = {int(number): script for number, script in sections("sqlite_schema.sql", "migration").items()}
EXPANSIONS: Final = {int(number): script for number, script in sections("sqlite_schema.sql", "expansion").items()}
SCHEMA: Final = max(MIGRATIONS)
"""What this release writes as PRAGMA user_version: the least that another must know to share the file."""


# --- errors --------------------------------------------------------------------------------------------------

_Mapped = tuple[type[StandpipeError], str]
_UNAVAILABLE: Final[_Mapped] = (
    StoreUnavailable,
    "the record store cannot be used just now; retry with the same request id",
)
_READ_ONLY: Final[_Mapped] = (StoreReadOnly, "the record store's file refuses writes")
_CORRUPT: Final[_Mapped] = (StoreCorrupt, "the record store's file is damaged: restore it from a backup")
_DEFECT: Final[_Mapped] = (Internal, "the record store refused a statement")

ERRORS: Final[Mapping[int, _Mapped]] = {
    sqlite3.SQLITE_BUSY: (StoreUnavailable, "the record store stayed locked by another process"),
    sqlite3.SQLITE_LOCKED: (StoreUnavailable, "the record store stayed locked"),
    sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, "the record store's file or -wal cannot be opened"),
    sqlite3.SQLITE_IOERR: (StoreUnavailable, "the record store's disk reported an error; see its log"),
    sqlite3.SQLITE_PROTOCOL: _UNAVAILABLE,
    sqlite3.SQLITE_NOMEM: _UNAVAILABLE,
    sqlite3.SQLITE_INTERRUPT: _UNAVAILABLE,
    sqlite3.SQLITE_ABORT: _UNAVAILABLE,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_AUTH: _READ_ONLY,
    sqlite3.SQLITE_FULL: (StoreFull, "the record store's disk is full; nothing was written"),
    sqlite3.SQLITE_CORRUPT: _CORRUPT,
    sqlite3.SQLITE_FORMAT: _CORRUPT,
    sqlite3.SQLITE_IOERR_CORRUPTFS: _CORRUPT,
    sqlite3.SQLITE_NOTADB: (StoreCorrupt, "the record store's file is no SQLite database, or damaged"),
    sqlite3.SQLITE_ERROR: _DEFECT,
    sqlite3.SQLITE_INTERNAL: _DEFECT,
    sqlite3.SQLITE_NOTFOUND: _DEFECT,
    sqlite3.SQLITE_EMPTY: _DEFECT,
    sqlite3.SQLITE_SCHEMA: _DEFECT,
    sqlite3.SQLITE_TOOBIG: _DEFECT,
    sqlite3.SQLITE_CONSTRAINT: _DEFECT,
    sqlite3.SQLITE_MISMATCH: _DEFECT,
    sqlite3.SQLITE_MISUSE: _DEFECT,
    sqlite3.SQLITE_NOLFS: _DEFECT,
    sqlite3.SQLITE_RANGE: _DEFECT,
    sqlite3.SQLITE_NOTICE: _DEFECT,
    sqlite3.SQLITE_WARNING: _DEFECT,
}
"""By extended code where one stands here, else by primary code: its lowest byte."""


def store_error(error: Exception) -> StandpipeError:
    """Return what the contract raises for an exception of the driver, or for any other from inside the engine."""
    if isinstance(error, StandpipeError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code is not None:
        kind, message = ERRORS.get(code) or ERRORS.get(code & 0xFF, _DEFECT)
    else:  # Python's own: a row that it cannot decode, or a value that it cannot bind
        kind, message = _CORRUPT if isinstance(error, sqlite3.OperationalError) else _DEFECT
    ours = kind(message, driver_error=name)
    ours.__cause__ = error
    return ours


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _one(db: sqlite3.Connection, name: str, *values: object) -> Any:
    """Return the first row of a named query, or None."""
    return db.execute(SQL[name], values).fetchone()


def _all(db: sqlite3.Connection, name: str, *values: object) -> list[Any]:
    """Return all rows of a named query, so that what follows may change its tables."""
    return db.execute(SQL[name], values).fetchall()


def _now_us() -> int:
    return time.time_ns() // 1000


class _Counters(NamedTuple):
    """A row of `scopes`."""

    position: int = 0
    items_position: int = 0
    epoch: int = 0
    erased: bool = False


def _counters(db: sqlite3.Connection, scope: tuple[str, str]) -> _Counters:
    return _Counters(*(_one(db, "scope_counters", *scope) or ()))


# --- reads: each runs inside the snapshot of its fetch -----------------------------------------------------------


def _read_head(db: sqlite3.Connection, read: HeadRead) -> Head | None:
    row = _one(db, "head", read.tenant, read.session)
    return row and head_of(row)


def _weight_at(db: sqlite3.Connection, read: SessionRead, version: int) -> int:
    if version < 1:
        return 0
    row = _one(db, "weight_at", read.tenant, read.session, version)
    if row is None:
        raise StoreCorrupt("an event is missing from a session's log", version=version)
    return int(row[0])


def _read_session(db: sqlite3.Connection, read: SessionRead) -> SessionState | None:
    row = _one(db, "head", read.tenant, read.session)
    if row is None:
        return None
    head = head_of(row)
    end, known = head.version, read.known_version
    if read.at_version is not None:
        end = max(0, min(end, read.at_version))
    if known == end or head.expired:
        return SessionState(head=head, checkpoint=None, events=(), after_version=known)
    weight_end = head.weight_bytes if end == head.version else _weight_at(db, read, end)
    checkpoint = None
    if 0 < known < end and weight_end - _weight_at(db, read, known) <= read.window_bytes:
        after = known
    else:
        weight_max = weight_end - read.window_bytes
        row = _one(db, "last_checkpoint", read.tenant, read.session, read.tokenizer, end, weight_max)
        if row is not None:
            checkpoint = Checkpoint(session=row[0], tokenizer=row[1], version=row[2], weight_bytes=row[3], body=row[4])
        after = checkpoint.version if checkpoint else 0
    events = [event_of(row) for row in db.execute(SQL["events"], (read.tenant, read.session, after, end, -1))]
    if len(events) != end - after:
        raise StoreCorrupt("events are missing from a session's log", after_version=after, end_version=end)
    return SessionState(head=head, checkpoint=checkpoint, events=events, after_version=after)


def _read_events(db: sqlite3.Connection, read: EventsRead) -> Sequence[StoredEvent] | None:
    row = _one(db, "head", read.tenant, read.session)
    if row is None:
        return None
    head = head_of(row)
    if head.expired:
        return []
    events: list[StoredEvent] = []
    size_bytes = 0
    values = (read.tenant, read.session, read.after_version, head.version, read.count_max)
    with contextlib.closing(db.execute(SQL["events"], values)) as rows:
        for event in map(event_of, rows):
            size_bytes += len(event.body)
            if events and size_bytes > read.bytes_max:
                break
            events.append(event)
    return events


def _read_sessions(db: sqlite3.Connection, read: SessionsRead) -> Sequence[Head]:
    if read.subject:
        rows = db.execute(SQL["sessions_of_subject"], (read.tenant, read.subject, read.after_session, read.count_max))
    else:
        rows = db.execute(SQL["sessions_of_tenant"], (read.tenant, read.after_session, read.count_max))
    return [head_of(row) for row in rows]


def _read_scope(db: sqlite3.Connection, read: ScopeRead) -> ScopeState:
    key = (read.tenant, read.subject)
    given, position, epoch, erased, serving = _one(db, "scope", *key)
    if erased:
        return ScopeState(position=given, vector_position=0, items=(), vectors=(), epoch=epoch, serving=serving)
    vector_position = _one(db, "vector_position", *key, read.model)[0] if read.model and position else 0
    items: list[StoredItem] = []
    vectors: list[bytes] = []
    if read.after_position < position:
        rows = db.execute(SQL["items"], (*key, read.after_position, position, read.count_max))
        items = [item_of(row) for row in rows]
    if read.after_vector_position < vector_position:
        rows = db.execute(SQL["vectors"], (*key, read.model, read.after_vector_position, read.count_max))
        vectors = [row[0] for row in rows]
    return ScopeState(
        position=position,
        vector_position=vector_position,
        items=items,
        vectors=vectors,
        epoch=epoch,
        serving=serving,
    )


def _read_changes(db: sqlite3.Connection, read: ChangesRead) -> ScopeState:
    key = (read.tenant, read.subject)
    given, position, epoch, erased = _counters(db, key)
    if erased:
        return ScopeState(position=given, vector_position=0, items=(), vectors=(), epoch=epoch)
    rows = db.execute(SQL["changes"], (*key, read.after_position, position, read.count_max))
    items = [item_of(row) for row in rows]
    return ScopeState(position=position, vector_position=0, items=items, vectors=(), epoch=epoch)


def _read_held(db: sqlite3.Connection, read: HeldRead) -> Sequence[str]:
    rows = db.execute(SQL["held_subjects"], (read.tenant, read.after_subject, read.count_max))
    return [row[0] for row in rows]


def _read_key(db: sqlite3.Connection, read: KeyRead) -> StoredKey | None:
    if read.key_id:
        row = _one(db, "key", read.tenant, read.key_id)
    else:
        row = _one(db, "key_of_subject", read.tenant, read.subject)
    return row and key_of(row)


def _read_erasure(db: sqlite3.Connection, read: ErasureRead) -> Erasure | None:
    return _erasure(db, (read.tenant, read.subject, read.session))


def _erasure(db: sqlite3.Connection, key: tuple[str, str, str]) -> Erasure | None:
    row = _one(db, "erasure", *key)
    return row and erasure_of(row)


def _read_erasures(db: sqlite3.Connection, read: ErasuresRead) -> Sequence[Erasure]:
    return [erasure_of(row) for row in db.execute(SQL["erasures_at_work"], (read.count_max,))]


def _read_state(db: sqlite3.Connection, read: StateRead) -> StateFound:
    key, now_us = (read.tenant, read.subject, read.collection), _now_us()
    rows = (_one(db, "state_record", *key, one, now_us) for one in read.keys)
    return state_page((state_of(row) for row in rows if row), read.bytes_max)


def _read_state_list(db: sqlite3.Connection, read: StateList) -> StateFound:
    values = (read.keys_only, read.tenant, read.subject, read.collection, *keys_of_page(read), _now_us())
    name = "state_down" if read.descending else "state_up"
    with contextlib.closing(db.execute(SQL[name], (*values, read.count_max + 1))) as rows:
        return state_page(map(state_of, rows), read.bytes_max, read.count_max)


def _read_state_all(db: sqlite3.Connection, read: StateAll) -> StateFound:
    values = (read.tenant, read.subject, *read.after, _now_us(), read.count_max + 1)
    with contextlib.closing(db.execute(SQL["state_all"], values)) as rows:
        return state_page(map(state_of, rows), read.bytes_max, read.count_max)


def _read_policy(db: sqlite3.Connection, read: PolicyRead) -> StoredPolicy | None:
    if read.version is None:
        row = _one(db, "latest_policy", read.tenant, read.name)
    else:
        row = _one(db, "policy", read.tenant, read.name, read.version)
    return row and policy_of(row)


def _read_route(db: sqlite3.Connection, read: RouteRead) -> StoredRoute | None:
    row = _one(db, "route", read.tenant, read.name)
    return row and route_of(row)


def _read_policies(db: sqlite3.Connection, read: PoliciesRead) -> Sequence[StoredPolicy]:
    return [policy_of(row) for row in db.execute(SQL["policies"], (read.tenant, *read.after, read.count_max))]


def _read_routes(db: sqlite3.Connection, read: RoutesRead) -> Sequence[StoredRoute]:
    return [route_of(row) for row in db.execute(SQL["routes"], (read.tenant,))]


def _grants(db: sqlite3.Connection) -> list[Grant]:
    return [grant_of(row) for row in db.execute(SQL["grants"])]


def _read_grants(db: sqlite3.Connection, _read: GrantsRead) -> GrantsState:
    return GrantsState(rows=_grants(db), now_us=_now_us())


def _read_lag(db: sqlite3.Connection, read: LagRead) -> Lag:
    known = _one(db, "model", read.model)
    items, since_us, parked = _one(db, "lag", read.model) if known else _one(db, "lag_of_unknown_model")
    age_us = max(0, _now_us() - since_us) if since_us is not None else 0
    return Lag(items=items, age_s=age_us / 1e6, parked=parked)


def _read_models(db: sqlite3.Connection, _read: ModelsRead) -> Models:
    return Models(serving=_one(db, "serving")[0], known=[row[0] for row in _all(db, "models")])


def _read_parked(db: sqlite3.Connection, read: ParkedRead) -> Sequence[ParkedOrder]:
    return [parked_of(row) for row in db.execute(SQL["parked"], (*read.after, read.count_max))]


def _read_expired(db: sqlite3.Connection, read: ExpiredRead) -> Sequence[tuple[str, str]]:
    erased = _all(db, "erased_sessions", read.count_max)
    return erased + _all(db, "expired", _now_us(), read.count_max - len(erased))


def _read_figures(db: sqlite3.Connection, _read: FiguresRead) -> Figures:
    sessions, events, items, log_bytes, expires_at_us = _one(db, "figures")
    overdue_us = max(0, _now_us() - expires_at_us) if expires_at_us is not None else 0
    return Figures(sessions=sessions, events=events, items=items, log_bytes=log_bytes, overdue_s=overdue_us / 1e6)


_READS: Final[Mapping[type[Read], Callable[[sqlite3.Connection, Any], Answer]]] = {
    HeadRead: _read_head,
    SessionRead: _read_session,
    EventsRead: _read_events,
    SessionsRead: _read_sessions,
    ScopeRead: _read_scope,
    ChangesRead: _read_changes,
    HeldRead: _read_held,
    KeyRead: _read_key,
    ErasureRead: _read_erasure,
    ErasuresRead: _read_erasures,
    StateRead: _read_state,
    StateList: _read_state_list,
    StateAll: _read_state_all,
    PolicyRead: _read_policy,
    RouteRead: _read_route,
    PoliciesRead: _read_policies,
    RoutesRead: _read_routes,
    LagRead: _read_lag,
    ModelsRead: _read_models,
    ParkedRead: _read_parked,
    ExpiredRead: _read_expired,
    FiguresRead: _read_figures,
    GrantsRead: _read_grants,
}


@contextlib.contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


def _answer(db: sqlite3.Connection, reads: Sequence[Read], deadline: Deadline | None) -> list[Answer]:
    answers: list[Answer] = []
    with _snapshot(db):
        for read in reads:
            if deadline is not None and time.monotonic() > deadline:
                raise _late("record_fetch")
            answers.append(_READS[type(read)](db, read))
    return answers


def _is_due(db: sqlite3.Connection, model: str) -> bool:
    return _one(db, "due", model, _now_us(), 1) is not None


def _sessions_all(db: sqlite3.Connection, after: tuple[str, str], count_max: int) -> Sequence[tuple[str, Head]]:
    return [(row[11], head_of(row)) for row in db.execute(SQL["sessions_of_all"], (*after, count_max))]


def _keys_all(db: sqlite3.Connection, after: tuple[str, bytes], count_max: int) -> Sequence[tuple[str, StoredKey]]:
    return [(row[4], key_of(row)) for row in db.execute(SQL["keys_of_all"], (*after, count_max))]


# --- writes: each runs inside a savepoint of the writer's transaction ---------------------------------------------


def _append(db: sqlite3.Connection, event: NewEvent) -> Appended:
    row = _one(db, "head", event.tenant, event.session)
    head: Head | None = row and head_of(row)
    if head and head.expired:
        raise _refused(db, event.tenant, head)
    # A clock that is set back must not let a session's time run backwards.
    committed_at_us = max(_now_us(), head.updated_at_us) if head else _now_us()
    return _append_behind(db, event, head, committed_at_us)


def _refused(db: sqlite3.Connection, tenant: str, head: Head) -> StandpipeError:
    """Return what appends to a session whose log is gone are refused with."""
    if not head.erased:
        return SessionExpired()
    return Erased("subject" if _counters(db, (tenant, head.subject)).erased else "session")


def _append_behind(db: sqlite3.Connection, event: NewEvent, head: Head | None, committed_at_us: int) -> Appended:
    """Append an event to a log that is there, or begins with it."""
    key = (event.tenant, event.session)
    if head is None and _counters(db, (event.tenant, event.subject)).erased:
        raise Erased("subject")
    receipt = _one(db, "receipt", *key, event.request_id)
    if head and receipt:  # R4, before all other checks
        version, digest, event_hash, position, weight_bytes, committed_at_us = receipt
        if digest != event.digest:
            raise RequestIdReused("the request id was used before in this session, with another body", version=version)
        return Appended(
            version=version,
            event_hash=event_hash,
            subject=head.subject,
            position=position,
            weight_end_bytes=weight_bytes,
            committed_at_us=committed_at_us,
            replayed=True,
        )
    _check_head(db, event, head)
    version = head.version + 1 if head else 1
    _keep_tool_calls(db, event, version)
    for number, (session, cited) in enumerate(event.citations):
        if _one(db, "citable", event.tenant, session, cited) is None:
            raise InvalidField(f"citation {number} names no event of this tenant", field="turn.entries")
    subject = head.subject if head else event.subject
    previous_hash = head.event_hash if head else canonical.NO_HASH
    event_hash = canonical.event_hash(
        previous_hash,
        tenant=event.tenant,
        session=event.session,
        version=version,
        kind=event.kind,
        request_id=event.request_id,
        committed_at_us=committed_at_us,
        body=event.body,
    )
    position = _append_items(db, event, subject, version, committed_at_us)
    weight_bytes = event.weight_bytes + (head.weight_bytes if head else 0)
    db.execute(
        SQL["insert_event"],
        (*key, version, int(event.kind), event.request_id, event.digest, committed_at_us, len(event.items), position)
        + (weight_bytes, previous_hash, event_hash, event.body),
    )
    created_at_us = head.created_at_us if head else committed_at_us
    ended = event.kind == EventKind.END
    keep_us = _keep_us(db, event)
    db.execute(
        SQL["put_session"],
        (*key, subject, version, event_hash, ended, weight_bytes, position, created_at_us, committed_at_us, keep_us),
    )
    return Appended(
        version=version,
        event_hash=event_hash,
        subject=subject,
        position=position,
        weight_end_bytes=weight_bytes,
        committed_at_us=committed_at_us,
        replayed=False,
    )


def _keep_us(db: sqlite3.Connection, event: NewEvent) -> int:
    """Return how long the session's log is kept after this event; 0 for ever."""
    if event.keep_s is not None:
        return event.keep_s * 1_000_000
    row = _one(db, "keep", event.tenant, event.session)
    return int(row[0]) if row else 0


def _check_head(db: sqlite3.Connection, event: NewEvent, head: Head | None) -> None:
    """Hold an append against where its session stands: version, end, subject, in this order."""
    if head is None and event.must_exist:
        raise SessionNotFound("the tenant has no such session", field="session_id")
    current, expected = (head.version if head else 0), event.expected_version
    if expected is not None and expected > current:
        raise VersionInFuture("the expected version is ahead of the session", current_version=current)
    if expected is not None and expected < current:
        winner = _one(db, "request_id_of_version", event.tenant, event.session, expected + 1)
        raise VersionConflict(
            "another commit won this version: hydrate again, and commit with a new request id",
            current_version=current,
            winner_request_id=winner[0] if winner else "",
        )
    if head is None:
        if not event.subject:
            raise InvalidField("the first append of a session must name its subject", field="subject_id")
    elif head.ended:
        raise SessionEnded("the session was ended and takes no more turns")
    elif event.subject and event.subject != head.subject:
        raise SubjectMismatch("the session belongs to another subject")
    if current >= limits.session_events_max and event.kind != EventKind.END:
        raise session_full()


def _keep_tool_calls(db: sqlite3.Connection, event: NewEvent, version: int) -> None:
    key = (event.tenant, event.session)
    for number, call_id in enumerate(event.opened_calls):
        if db.execute(SQL["open_tool_call"], (*key, call_id, version)).rowcount == 0:
            raise InvalidField(f"tool call {number} has an id that the session has had", field="turn.entries")
    for number, call_id in enumerate(event.answered_calls):
        if db.execute(SQL["answer_tool_call"], (version, *key, call_id)).rowcount == 0:
            raise ToolResultWithoutCall(
                f"tool result {number} answers no open call", call_id=call_id, field="turn.entries"
            )


def _append_items(db: sqlite3.Connection, event: NewEvent, subject: str, version: int, committed_at_us: int) -> int:
    """Write the event's items and their work order; return the subject's last position."""
    scope = (event.tenant, subject)
    start, items_position, _, _ = _counters(db, scope)
    end = start + len(event.items)
    if event.items:
        # While a rebuild has not yet caught up, readers see nothing behind the gap (R6).
        db.execute(SQL["put_scope"], (*scope, end, end if items_position == start else items_position))
        _put_items(db, scope, start, (event.session, version), event.items)
        db.execute(SQL["order_work"], (*scope, committed_at_us))
    return end


def _put_items(
    db: sqlite3.Connection, scope: tuple[str, str], start: int, origin: tuple[str, int], items: Sequence[NewItem]
) -> None:
    db.executemany(
        SQL["put_item"],
        [  # of an enum's number the driver asks at length how to bind it
            (*scope, position, *origin, item.entry, item.chunk, item.role, item.speaker, item.spoken_at_us)
            + (item.text, item.terms, tokens_text(item), int(item.kind), item.detail)
            for position, item in enumerate(items, start + 1)
        ],
    )


def _know_model(db: sqlite3.Connection, model: str) -> None:
    """Note that a model is in use: from now on every append orders its vectors, and so does all that is there."""
    if db.execute(SQL["put_model"], (model,)).rowcount:
        db.execute(SQL["order_all_work"], (model,))


def _put_vectors(db: sqlite3.Connection, scope: Scope, model: str, vectors: Sequence[bytes]) -> bool:
    key = (scope.tenant, scope.subject)
    _know_model(db, model)
    _, items_position, epoch, erased = _counters(db, key)
    start = _one(db, "vector_position", *key, model)[0]
    end = start + len(vectors)
    if erased or start != scope.vector_position or end > items_position:
        return False
    db.executemany(
        SQL["put_vector"],
        [(*key, model, position, vector) for position, vector in enumerate(vectors, start + 1)],
    )
    if epoch:
        db.execute(SQL["empty_vectors"], (*key, model, start, end))
    if end == items_position:
        db.execute(SQL["finish_work"], (*key, model))
    else:
        db.execute(SQL["shorten_work"], (end + 1, *key, model))
    return True


def _claim(db: sqlite3.Connection, model: str, worker: str, lease_s: float, count_max: int) -> Sequence[Claim]:
    claims: list[Claim] = []
    now_us = _now_us()
    until_us = now_us + int(lease_s * 1e6)
    for tenant, subject, position, vector_position, tried in _all(db, "due", model, now_us, count_max):
        key = (tenant, subject, model)
        if tried >= limits.work_attempts_max:  # its last worker is gone
            db.execute(SQL["give_back"], (0, tried, "", now_us, *key))
            continue
        if tried and claims:
            break
        db.execute(SQL["hold"], (worker, until_us, *key))
        scope = Scope(tenant=tenant, subject=subject, position=position, vector_position=vector_position)
        claims.append(Claim(scope=scope, model=model, worker=worker, until_us=until_us, attempts=tried + 1))
        if tried:
            break
    return claims


def _release(db: sqlite3.Connection, claim: Claim, reason: str, pause_s: float) -> bool:
    key = (claim.scope.tenant, claim.scope.subject, claim.model)
    row = _one(db, "held", *key, claim.worker, claim.until_us)
    if row is None:
        return False
    now_us = _now_us()
    attempts = row[0] if reason else row[0] - 1
    parked: bool = attempts >= limits.work_attempts_max
    due_at_us = now_us + int(pause_s * 1e6)
    db.execute(SQL["give_back"], (due_at_us, attempts, reason, now_us if parked else 0, *key))
    return parked


def _unpark(db: sqlite3.Connection, tenant: str, subject: str, model: str) -> bool:
    return bool(db.execute(SQL["unpark"], (tenant, subject, model)).rowcount)


def _serve(db: sqlite3.Connection, model: str, instead_of: str) -> bool:
    if not db.execute(SQL["serve"], (model, instead_of)).rowcount:
        return False
    _know_model(db, model)
    return True


def _drop_vectors(db: sqlite3.Connection, model: str, after: tuple[str, str]) -> tuple[str, str] | None:
    """Remove the vectors of some subjects, whole; return the last of them, None when there are no more."""
    _refuse_serving(db, model)
    dropped = 0
    for tenant, subject in db.execute(SQL["scopes_after"], after).fetchall():
        dropped += db.execute(SQL["drop_vectors_of_scope"], (tenant, subject, model)).rowcount
        after = (tenant, subject)
        if dropped >= limits.drop_vectors_max:
            return after
    return after if _one(db, "scopes_after", *after) else None


def _forget_model(db: sqlite3.Connection, model: str) -> None:
    """Remove a model's name and orders, and what vectors came while the others were removed."""
    _refuse_serving(db, model)
    for name in ("drop_vectors_of_model", "drop_work_of_model", "drop_model"):
        db.execute(SQL[name], (model,))


def _refuse_serving(db: sqlite3.Connection, model: str) -> None:
    if _one(db, "serving")[0] == model:
        raise serves(model)


def _put_checkpoint(db: sqlite3.Connection, tenant: str, new: Checkpoint) -> None:
    db.execute(SQL["put_checkpoint"], (new.tokenizer, new.version, new.weight_bytes, new.body, tenant, new.session))


def _publish_policy(
    db: sqlite3.Connection, tenant: str, name: str, document: str, digest: bytes
) -> tuple[StoredPolicy, bool]:
    row = _one(db, "latest_policy", tenant, name)
    latest = row and policy_of(row)
    if latest and latest.digest == digest:
        return latest, False
    new = StoredPolicy(
        name=name,
        version=latest.version + 1 if latest else 1,
        document=document,
        digest=digest,
        published_at_us=_now_us(),
    )
    db.execute(SQL["put_policy"], (tenant, name, new.version, document, digest, new.published_at_us))
    return new, True


def _set_route(db: sqlite3.Connection, tenant: str, route: StoredRoute) -> None:
    built_in = route.policy_name == "default" and route.policy_version == 0
    if not built_in and _one(db, "policy", tenant, route.policy_name, route.policy_version) is None:
        raise PolicyNotFound("the tenant has no such policy version", version=route.policy_version)
    db.execute(SQL["put_route"], (tenant, route.name, route.policy_name, route.policy_version))


def _drop_derived(db: sqlite3.Connection) -> None:
    for name in ("drop_items", "drop_vectors", "drop_checkpoints", "drop_work", "forget_items_positions"):
        db.execute(SQL[name])
    for tenant, subject in _all(db, "scopes_that_begin_gone"):
        _join_items(db, (tenant, subject), 0)


def _join_items(db: sqlite3.Connection, scope: tuple[str, str], items_position: int) -> None:
    """Move a scope's items_position on to the last item without a gap before it."""
    position = _counters(db, scope).position
    db.execute(SQL["put_scope"], (*scope, position, _one(db, "end_of_run", *scope, items_position)[0]))


def _sweep(db: sqlite3.Connection, tenant: str, session: str) -> bool:
    key, now_us = (tenant, session), _now_us()
    row = _one(db, "due_subject", *key, now_us)
    if row is None:
        return False
    scope = (tenant, row[0])
    spans, items = _all(db, "events_with_items", *key), 0
    for version, start, end in spans:
        positions = range(start + 1, end + 1)
        items += db.executemany(
            SQL["empty_item"], [(*scope, position, session, version) for position in positions]
        ).rowcount
        _empty_vectors(db, scope, start, end)
    if spans:
        items_position = _counters(db, scope).items_position
        db.execute(SQL["raise_epoch"], (_one(db, "end_of_run", *scope, items_position)[0], *scope))
    events = db.execute(SQL["drop_events_of_session"], key).rowcount
    for name in ("drop_tool_calls_of_session", "drop_checkpoints_of_session"):
        db.execute(SQL[name], key)
    db.execute(SQL["mark_swept"], (now_us, *key))
    db.execute(SQL["count_removed"], (events, items, *scope, session))
    return True


def _empty_vectors(db: sqlite3.Connection, scope: tuple[str, str], start: int, end: int) -> None:
    """Take the vectors of those items in a range that are gone."""
    for (model,) in _all(db, "models"):
        db.execute(SQL["empty_vectors"], (*scope, model, start, end))


def _forgotten(db: sqlite3.Connection, tenant: str, session: str) -> None:
    db.execute(SQL["mark_forgotten"], (tenant, session))


def _restore_items(
    db: sqlite3.Connection, tenant: str, subject: str, event: StoredEvent, items: Sequence[NewItem]
) -> None:
    origin, scope = (event.session, event.version), (tenant, subject)
    head = _one(db, "head", tenant, event.session)
    if head and head_of(head).expired:
        return  # meanwhile
    row = _one(db, "items_of_event", tenant, *origin)
    if row is None or row[0] != len(items):
        # Another count would move every later position of the subject, and with it what citations point at.
        raise InvalidField("the event is not in the log, or had another number of items", field="items")
    start = event.position_end - len(items)
    items_position = _counters(db, scope).items_position
    if event.position_end <= items_position:
        return
    _put_items(db, scope, start, origin, items)
    for entry in json.loads(row[1]):  # whoever read the event before it was redacted brings them along
        db.execute(SQL["empty_items_of_entry"], (*scope, start, event.position_end, entry))
    if start <= items_position:  # below it, if the first of its items were gone before
        _join_items(db, scope, items_position)
    db.execute(SQL["order_work"], (*scope, event.committed_at_us))


# --- erasure: these, too, inside a savepoint ------------------------------------------------------------------------


def _redact(
    db: sqlite3.Connection,
    tenant: str,
    session: str,
    version: int,
    body: bytes,
    entries: Sequence[int],
    erasure: Erasure,
) -> None:
    key = (tenant, session, version)
    row = _one(db, "redactable", *key)
    if row is None:
        return  # swept: nothing is left of it
    subject, old, body_hash, redacted, start, end = row
    scope = (tenant, subject)
    everything = sorted({*json.loads(redacted), *entries})
    first_hash = body_hash or hashlib.sha256(old).digest()
    db.execute(SQL["redact"], (body, first_hash, json.dumps(everything), *key))
    items = db.executemany(SQL["empty_items_of_entry"], [(*scope, start, end, entry) for entry in entries]).rowcount
    _empty_vectors(db, scope, start, end)
    db.execute(SQL["next_epoch"], scope)
    db.execute(SQL["drop_checkpoints_from"], key)
    db.execute(SQL["count_redacted"], (items, erasure.tenant, erasure.subject, erasure.session))


def _erase(db: sqlite3.Connection, tenant: str, subject: str, session: str) -> Erasure:
    key, now_us = (tenant, subject, session), _now_us()
    row = _one(db, "head", tenant, session) if session else None
    head: Head | None = row and head_of(row)
    if head and head.subject != subject:
        raise SubjectMismatch("the session belongs to another subject")
    marked = head.erased if head else not session and _counters(db, (tenant, subject)).erased
    if marked and (there := _erasure(db, key)):
        return there
    keys = records = 0
    if not session:
        records = _state_counters(db, (tenant, subject)).records  # they go with the mark
        db.execute(SQL["mark_erased_scope"], (tenant, subject))
        db.execute(SQL["mark_erased_sessions"], (tenant, subject))
        db.execute(SQL["drop_work_of_subject"], (tenant, subject))
        keys = db.execute(SQL["drop_keys_of_subject"], (tenant, subject)).rowcount
    elif head:
        db.execute(SQL["mark_erased_session"], (tenant, session))
    else:
        db.execute(SQL["keep_erased_session"], (tenant, session, subject, now_us))
    db.execute(SQL["put_erasure"], (*key, now_us, keys, records))
    return erasure_of(_one(db, "erasure", *key))


def _finish_erasure(db: sqlite3.Connection, erasure: Erasure) -> Erasure:
    key = (erasure.tenant, erasure.subject, erasure.session)
    db.execute(SQL["finish_erasure"], (max(_now_us(), erasure.asked_at_us), *key))
    return erasure_of(_one(db, "erasure", *key))


def _reopen(db: sqlite3.Connection, tenant: str, subject: str) -> None:
    scope = (tenant, subject)
    erasure = _erasure(db, (*scope, ""))
    if erasure and not erasure.done_at_us:
        raise Erased("subject")
    if _counters(db, scope).erased:
        db.execute(SQL["reopen_scope"], scope)
        db.execute(SQL["drop_erased_heads"], scope)


def _restore(db: sqlite3.Connection, event: NewEvent, committed_at_us: int) -> Appended:
    key = (event.tenant, event.session)
    row = _one(db, "head", *key)
    head: Head | None = row and head_of(row)
    if head and head.expired:
        own = _erasure(db, (event.tenant, head.subject, event.session))
        if _counters(db, (event.tenant, head.subject)).erased or (own and not own.done_at_us):
            raise _refused(db, event.tenant, head)
        if _one(db, "listed", *key):
            raise StoreUnavailable("what the session held before is being removed; retry")
        db.execute(SQL["drop_head"], key)
        head = None
    if head:
        committed_at_us = max(committed_at_us, head.updated_at_us)
    return _append_behind(db, event, head, committed_at_us)


class _StateCounters(NamedTuple):
    """What a row of `scopes` says of state."""

    erased: bool = False
    revision: int = 0
    records: int = 0


def _state_counters(db: sqlite3.Connection, scope: tuple[str, str]) -> _StateCounters:
    return _StateCounters(*(_one(db, "state_counters", *scope) or ()))


def _put_state(db: sqlite3.Connection, tenant: str, subject: str, collection: str, writes: Sequence[StateWrite]) -> int:
    scope, now_us = (tenant, subject), _now_us()
    erased, revision, records = _state_counters(db, scope)
    if erased:
        raise Erased("subject")
    revision += 1
    before = records
    for index, write in enumerate(writes):  # each key has one, so what was written before does not count
        key = (*scope, collection, write.key)
        row = _one(db, "state_stands", *key)
        current = row[0] if row and (row[1] == 0 or row[1] > now_us) else 0
        if write.expected_revision not in {None, current}:
            raise state_conflict(index, current)
        if write.value is None:
            records -= db.execute(SQL["drop_state"], key).rowcount
            continue
        records += row is None
        expires_at_us = write.expires_at_us or (now_us + write.keep_us if write.keep_us else 0)
        db.execute(SQL["put_state"], (*key, revision, now_us, expires_at_us, write.value))
    if records > max(before, limits.state_records_max):
        raise state_full(records)
    db.execute(SQL["count_state"], (*scope, revision, records))
    return revision


def _delete_state(
    db: sqlite3.Connection, tenant: str, subject: str, collection: str, prefix: str, count_max: int
) -> tuple[int, bool]:
    key, now_us = (tenant, subject, collection), _now_us()
    found = _all(db, "state_keys", *key, *keys_from(prefix), count_max + 1)
    gone = found[:count_max]
    db.executemany(SQL["drop_state"], [(*key, one) for one, _ in gone])
    db.execute(SQL["fewer_state"], (len(gone), tenant, subject))
    return sum(not 0 < expires_at_us <= now_us for _, expires_at_us in gone), len(found) > len(gone)


def _expire_state(db: sqlite3.Connection, count_max: int) -> int:
    keys = _all(db, "expired_state", _now_us(), count_max)
    db.executemany(SQL["drop_state"], keys)
    fewer = Counter((tenant, subject) for tenant, subject, _, _ in keys)
    db.executemany(SQL["fewer_state"], [(count, *scope) for scope, count in fewer.items()])
    return len(keys)


def _any_expired_state(db: sqlite3.Connection) -> bool:
    return _one(db, "expired_state", _now_us(), 1) is not None


def _put_key(db: sqlite3.Connection, tenant: str, key: StoredKey) -> StoredKey:
    if _counters(db, (tenant, key.subject)).erased:
        raise Erased("subject")
    db.execute(SQL["put_key"], (tenant, key.subject, key.key_id, key.wrapped, key.wrapping))
    return key_of(_one(db, "key_of_subject", tenant, key.subject))


def _rewrap(db: sqlite3.Connection, tenant: str, old: StoredKey, new: StoredKey) -> bool:
    values = (new.wrapped, new.wrapping, tenant, old.subject, old.key_id, old.wrapped, old.wrapping)
    return bool(db.execute(SQL["rewrap"], values).rowcount)


def _change_grants(db: sqlite3.Connection, change: Callable[[Sequence[Grant], int], Sequence[Grant]]) -> None:
    before = _grants(db)
    after = change(before, _one(db, "next_grant")[0])
    if after != before:
        db.execute(SQL["drop_grants"])
        rows = [(row.slot_from, row.slot_to, row.grant, row.incarnation, row.usable_at_us) for row in after]
        db.executemany(SQL["put_grant"], rows)


# --- the file ----------------------------------------------------------------------------------------------------


def _connect(path: Path, *, busy_ms: int, read_only: bool) -> sqlite3.Connection:
    """Open a connection. It never creates the file: `_prepare` does, with its permissions."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA busy_timeout = {busy_ms}")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute(f"PRAGMA query_only = {int(read_only)}")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")  # what was erased is not left in free pages
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    except BaseException:
        db.close()
        raise
    return db


def _stored_schema(db: sqlite3.Connection) -> int:
    """Return the file's schema number, 0 for an empty file. Raises on a file that is not ours, or newer."""
    owner = db.execute("PRAGMA application_id").fetchone()[0]
    stored = db.execute("PRAGMA user_version").fetchone()[0]
    empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if owner != APPLICATION_ID and not (empty and owner == 0 and stored == 0):
        raise ConfigInvalid("holds a database of another application: name another file", field="record")
    if stored > SCHEMA:
        raise StoreSchemaNewer(
            f"the record store has schema {stored}, this release knows up to {SCHEMA}: run a newer release",
            stored_schema=stored,
            known_schema=SCHEMA,
        )
    return int(stored)


def _statements(script: str) -> Iterator[str]:
    """Cut a script into statements: `executescript` would commit the transaction that a migration needs."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _prepare(path: Path, *, busy_ms: int) -> bytes:
    """Create the file or bring its schema up to date, in one transaction; return the signing key."""
    if not path.parent.is_dir():
        raise ConfigInvalid("its directory does not exist", field="record")
    if path.is_dir():
        raise ConfigInvalid("must name a file, not a directory", field="record")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StoreReadOnly("the record store's directory is not writable: the -wal file stands there too")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives the -wal and -shm files the same mode
    except OSError as error:
        raise StoreReadOnly(f"the record store's file is not writable ({error.strerror})") from error
    with contextlib.closing(_connect(path, busy_ms=busy_ms, read_only=False)) as db:
        db.execute("BEGIN")  # one snapshot: another process may be making the schema just now
        _stored_schema(db)  # before anything is changed in what may not be ours
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
        # Where SQLite has its own temporary files, in all of this process: a container's root is read-only, and VACUUM
        # needs as much room as the file. Its environment variables are read once, when the driver is imported.
        # Set once: another connection may be using it.
        if not any(db.execute("PRAGMA temp_store_directory").fetchone() or ()):
            beside = str(path.absolute().parent).replace("'", "''")
            db.execute(f"PRAGMA temp_store_directory = '{beside}'")
        db.execute("BEGIN IMMEDIATE")  # of several processes that start together one migrates, the others wait
        for number in range(_stored_schema(db) + 1, SCHEMA + 1):
            for statement in _statements(MIGRATIONS[number]):
                db.execute(statement)
        db.execute("CREATE TABLE IF NOT EXISTS expansions (number INTEGER PRIMARY KEY) STRICT")
        there = {row[0] for row in db.execute("SELECT number FROM expansions")}
        for number in sorted(EXPANSIONS.keys() - there):
            for statement in _statements(EXPANSIONS[number]):
                db.execute(statement)
            db.execute("INSERT INTO expansions (number) VALUES (?)", (number,))
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute(SQL["keep_signing_key"], (secrets.token_bytes(32),))
        signing_key: bytes = _one(db, "signing_key")[0]
        db.execute("COMMIT")
        return signing_key


def _scrub(path: Path, busy_ms: int) -> None:
    """Leave nothing of what was removed in the file and its -wal (R32).

    `secure_delete` overwrites what is deleted where it stands. It knows nothing of the copies that stay in the gaps of
    pages when SQLite moves rows to balance its trees, so the file is written anew. That takes the room of a second
    copy, and commits wait for it.
    """
    with contextlib.closing(_connect(path, busy_ms=busy_ms, read_only=False)) as db:
        for step in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            row = db.execute(step).fetchone()
            if row and row[0]:
                raise StoreUnavailable("a reader holds what was removed in the record store's -wal; retry")


# --- its examination ---------------------------------------------------------------------------------------------


def _examine(path: Path) -> list[Finding]:
    """Look at the file, from without and from within (R22)."""
    if not path.parent.is_dir():
        return [failed("file", f"its directory {path.parent} is not there", "Make it, or name another in `record`.")]
    found = [_disk(path.parent)]
    if not os.access(path.parent, os.W_OK | os.X_OK):
        advice = "Let the sidecar's user write there: the -wal file stands beside the store's."
        return [*found, failed("directory", f"{path.parent} refuses writes", advice)]
    if not path.exists():
        return [*found, ok("file", "not there yet: the first start makes it")]
    found += _permissions(path)
    give_up_at = time.monotonic() + limits.examine_ms / 2000
    try:
        with contextlib.closing(_connect(path, busy_ms=LOCK_STEP_MS, read_only=True)) as db:
            db.set_progress_handler(lambda: time.monotonic() > give_up_at, 10_000)
            found += [*_schema(db), *_pages(db)]
    except Exception as error:
        refused = store_error(error)
        advice = "Restore it from a backup, or name another in `record`; a newer release's file needs that release."
        found.append(failed("file", refused.message, advice))
    return found


def _disk(directory: Path) -> Finding:
    free_bytes = shutil.disk_usage(directory).free
    found = f"{free_bytes / (1 << 30):,.1f} GiB free"
    if free_bytes < limits.disk_free_bytes:
        return warning("disk", found, "Make room: a full disk refuses commits.")
    return ok("disk", found)


def _permissions(path: Path) -> list[Finding]:
    mode = path.stat().st_mode
    if not os.access(path, os.R_OK | os.W_OK):
        return [failed("permissions", "the file refuses reads or writes", "Give it to the sidecar's user.")]
    if mode & 0o077:
        advice = f"chmod 600 {path}: it holds conversations, and the key that signs receipts."
        return [warning("permissions", f"others than its owner may open it ({mode & 0o777:03o})", advice)]
    return [ok("permissions", "its owner alone may open it")]


def _schema(db: sqlite3.Connection) -> list[Finding]:
    stored = _stored_schema(db)
    if not stored:
        return [ok("schema", "none yet: the first start makes it")]
    there = {row[0] for row in db.execute("SELECT number FROM expansions")}
    if stored < SCHEMA or EXPANSIONS.keys() - there:
        return [ok("schema", f"{stored}, of the release before: the next start brings it up to {SCHEMA}")]
    return [
        ok("schema", f"{stored}, of this release, with SQLite {sqlite3.sqlite_version}"),
        ranked_by(_one(db, "serving")[0]),
        parked(_one(db, "parked_count")[0]),
    ]


def _pages(db: sqlite3.Connection) -> list[Finding]:
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        return [warning("journal", "not in WAL mode", "Start a sidecar once: it sets the mode.")]
    try:
        said = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return [skipped("pages", "too many to check in the time; `standpipe rebuild` reads every event")]
    if said != "ok":
        return [failed("pages", "damaged", "Stop writing, and restore the file from a backup.")]
    return [ok("pages", "every one is sound")]


# --- the engine ----------------------------------------------------------------------------------------------------


class _Job(Generic[T]):
    """A piece of work for a thread, and the future that waits for it.

    Who gets `claim` decides its fate: the thread that starts it, or the deadline that drops it.
    """

    __slots__ = ("claim", "future", "phase", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T], future: asyncio.Future[T], phase: str) -> None:
        self.work = work
        self.future = future
        self.phase = phase
        self.claim = threading.Lock()

    def start(self) -> bool:
        """Claim the job for a thread; False if nobody waits for it any more."""
        return not self.future.done() and self.claim.acquire(blocking=False)


Outcome = tuple[_Job[Any], Any, StandpipeError | None]


def _late(phase: str) -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed in the record store", phase=phase)


def _resolve(outcomes: Sequence[Outcome]) -> None:
    """Hand outcomes to those who still wait. Runs on the event loop."""
    for job, answer, error in outcomes:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(answer)
        else:
            job.future.set_exception(error)


class SqliteRecord(Record):
    """A `Record` in one SQLite file. `lock_wait_ms` bounds the wait of calls that bring no deadline."""

    engine = "sqlite"

    def __init__(self, path: str | os.PathLike[str], *, lock_wait_ms: int = limits.deadline_default_ms) -> None:
        self._path = Path(path)
        self._lock_wait_ms = lock_wait_ms
        self._reads: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._writes: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._models: set[str] = set()
        self._signing_key = b""
        self._locked = False
        self._open = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        give_up_at = time.monotonic() + self._lock_wait_ms / 1000
        while True:
            try:
                connections = await asyncio.to_thread(self._connect_all)
                break
            except StoreUnavailable:  # SQLite does not wait by itself for every lock, such as that of a change to WAL
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(LOCK_STEP_MS / 1000)
        for number, db in enumerate(connections):
            run = self._run_writer if number == 0 else self._run_reader
            name = f"record-writer-{number}" if number == 0 else f"record-reader-{number}"
            self._threads.append(threading.Thread(target=run, args=(db,), name=name, daemon=True))
        for thread in self._threads:
            thread.start()
        self._open = True

    def _connect_all(self) -> list[sqlite3.Connection]:
        """Return the writer's connection, then the readers'."""
        with contextlib.ExitStack() as opened:
            try:
                self._signing_key = _prepare(self._path, busy_ms=LOCK_STEP_MS)
                connections = []
                for number in range(1 + READERS):
                    busy_ms = LOCK_STEP_MS if number == 0 else self._lock_wait_ms
                    connections.append(_connect(self._path, busy_ms=busy_ms, read_only=number > 0))
                    opened.callback(connections[-1].close)
            except Exception as error:
                raise store_error(error) from error
            opened.pop_all()
            return connections

    async def close(self) -> None:
        if self._open:
            self._open = False
            for _ in range(READERS):
                self._reads.put(None)
            writer, *readers = self._threads
            for reader in readers:
                await asyncio.to_thread(reader.join)
            # The writer closes last and alone: SQLite folds the log into the file only for the last connection, and of
            # two that close at once neither is.
            self._writes.put(None)
            await asyncio.to_thread(writer.join)
        self._threads = []

    async def examine(self) -> Sequence[Finding]:
        return await asyncio.to_thread(_examine, self._path)

    async def signing_key(self) -> bytes:
        return self._signing_key

    async def append(self, event: NewEvent, *, deadline: Deadline | None = None) -> Appended:
        return await self._write(partial(_append, event=event), deadline)

    async def fetch(self, reads: Sequence[Read], *, deadline: Deadline | None = None) -> list[Answer]:
        return await self._read(partial(_answer, reads=reads, deadline=deadline), deadline)

    async def put_vectors(
        self, scope: Scope, *, model: str, vectors: Sequence[bytes], deadline: Deadline | None = None
    ) -> bool:
        return await self._write(partial(_put_vectors, scope=scope, model=model, vectors=vectors), deadline)

    async def claim(self, *, model: str, worker: str, lease_s: float, count_max: int) -> Sequence[Claim]:
        if model not in self._models:
            await self._write(partial(_know_model, model=model))
            self._models.add(model)
        if not await self._read(partial(_is_due, model=model)):  # idle workers leave the write lock alone
            return []
        return await self._write(partial(_claim, model=model, worker=worker, lease_s=lease_s, count_max=count_max))

    async def release(self, claim: Claim, *, reason: str = "", pause_s: float = 0.0) -> bool:
        return await self._write(partial(_release, claim=claim, reason=reason, pause_s=pause_s))

    async def unpark(self, tenant: str, *, subject: str, model: str) -> bool:
        return await self._write(partial(_unpark, tenant=tenant, subject=subject, model=model))

    async def serve(self, model: str, *, instead_of: str) -> bool:
        return await self._write(partial(_serve, model=named(model), instead_of=instead_of))

    async def drop_model(self, model: str) -> None:
        after: tuple[str, str] | None = ("", "")
        while after is not None:  # commits wait for none of these for long
            after = await self._write(partial(_drop_vectors, model=model, after=after))
        await self._write(partial(_forget_model, model=model))
        self._models.discard(model)

    async def put_checkpoint(self, tenant: str, checkpoint: Checkpoint) -> None:
        await self._write(partial(_put_checkpoint, tenant=tenant, new=checkpoint))

    async def sweep(self, tenant: str, session: str) -> bool:
        return await self._write(partial(_sweep, tenant=tenant, session=session))

    async def forgotten(self, tenant: str, session: str) -> None:
        await self._write(partial(_forgotten, tenant=tenant, session=session))

    async def redact(
        self, tenant: str, *, session: str, version: int, body: bytes, entries: Sequence[int], erasure: Erasure
    ) -> None:
        work = partial(_redact, session=session, version=version, body=body, entries=entries, erasure=erasure)
        await self._write(partial(work, tenant=tenant))

    async def erase(self, tenant: str, *, subject: str, session: str = "") -> Erasure:
        return await self._write(partial(_erase, tenant=tenant, subject=subject, session=session))

    async def finish_erasure(self, erasure: Erasure) -> Erasure:
        return await self._write(partial(_finish_erasure, erasure=erasure))

    async def reopen(self, tenant: str, *, subject: str) -> None:
        await self._write(partial(_reopen, tenant=tenant, subject=subject))

    async def restore(self, event: NewEvent, *, committed_at_us: int) -> Appended:
        return await self._write(partial(_restore, event=event, committed_at_us=committed_at_us))

    async def put_state(
        self,
        tenant: str,
        *,
        subject: str,
        collection: str,
        writes: Sequence[StateWrite],
        deadline: Deadline | None = None,
    ) -> int:
        work = partial(_put_state, tenant=tenant, subject=subject, collection=collection, writes=writes)
        return await self._write(work, deadline)

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
        work = partial(_delete_state, subject=subject, collection=collection, prefix=prefix, count_max=count_max)
        return await self._write(partial(work, tenant=tenant), deadline)

    async def expire_state(self, *, count_max: int) -> int:
        if not await self._read(_any_expired_state):  # who finds nothing leaves the write lock alone
            return 0
        return await self._write(partial(_expire_state, count_max=count_max))

    async def scrub(self) -> None:
        if not self._open:
            raise StoreUnavailable("the record store is closed")
        try:
            await asyncio.to_thread(_scrub, self._path, self._lock_wait_ms)
        except Exception as error:
            raise store_error(error) from error

    async def put_key(self, tenant: str, key: StoredKey) -> StoredKey:
        return await self._write(partial(_put_key, tenant=tenant, key=key))

    async def rewrap(self, tenant: str, *, old: StoredKey, new: StoredKey) -> bool:
        return await self._write(partial(_rewrap, tenant=tenant, old=old, new=new))

    async def keys_all(self, *, after: tuple[str, bytes], count_max: int) -> Sequence[tuple[str, StoredKey]]:
        return await self._read(partial(_keys_all, after=after, count_max=count_max))

    async def publish_policy(
        self, tenant: str, *, name: str, document: str, digest: bytes
    ) -> tuple[StoredPolicy, bool]:
        return await self._write(partial(_publish_policy, tenant=tenant, name=name, document=document, digest=digest))

    async def set_route(self, tenant: str, route: StoredRoute) -> None:
        await self._write(partial(_set_route, tenant=tenant, route=route))

    async def drop_derived(self) -> None:
        await self._write(_drop_derived)

    async def sessions_all(self, *, after: tuple[str, str], count_max: int) -> Sequence[tuple[str, Head]]:
        return await self._read(partial(_sessions_all, after=after, count_max=count_max))

    async def restore_items(self, tenant: str, *, subject: str, event: StoredEvent, items: Sequence[NewItem]) -> None:
        await self._write(partial(_restore_items, tenant=tenant, subject=subject, event=event, items=items))

    async def adopt(self, incarnation: str, slots: Sequence[tuple[int, int]]) -> None:
        await self._change_grants(
            lambda rows, grant: grants.adopt(rows, grant=grant, incarnation=incarnation, slots=slots)
        )
        await self.date_grants()

    async def revoke(self, incarnation: str) -> None:
        await self._change_grants(lambda rows, grant: grants.revoke(rows, grant=grant, incarnation=incarnation))
        await self.date_grants()

    async def date_grants(self) -> None:
        await self._change_grants(
            lambda rows, _grant: grants.date(rows, usable_at_us=_now_us() + limits.hot_lease_ms * 1000)
        )

    async def _change_grants(self, change: Callable[[Sequence[Grant], int], Sequence[Grant]]) -> None:
        await self._write(partial(_change_grants, change=change))

    # --- on the event loop: hand a job to a thread and wait ---

    async def _write(self, work: Callable[[sqlite3.Connection], T], deadline: Deadline | None = None) -> T:
        if self._writes.qsize() >= limits.append_queue_max:
            raise Overloaded(
                "too many commits wait for the record store",
                limit="append_queue_max",
                maximum=limits.append_queue_max,
            )
        return await self._wait(self._writes, _Job(work, self._loop.create_future(), "record_append"), deadline)

    async def _read(self, work: Callable[[sqlite3.Connection], T], deadline: Deadline | None = None) -> T:
        return await self._wait(self._reads, _Job(work, self._loop.create_future(), "record_fetch"), deadline)

    async def _wait(self, jobs: queue.SimpleQueue[_Job[Any] | None], job: _Job[T], deadline: Deadline | None) -> T:
        if not self._open:
            raise StoreUnavailable("the record store is closed")
        wait_s = self._lock_wait_ms / 1000 if deadline is None else deadline - time.monotonic()
        if wait_s <= 0:
            raise _late(job.phase)
        timer = self._loop.call_later(wait_s, self._expire, job, deadline is None)
        jobs.put(job)
        try:
            return await job.future
        finally:
            timer.cancel()

    def _expire(self, job: _Job[Any], default: bool) -> None:
        """End the wait for a job: dropped if no thread has started it, else left to finish unseen."""
        writes = job.phase == "record_append"
        if job.claim.acquire(blocking=False):
            if writes and (self._locked or default):
                error: StandpipeError = StoreUnavailable("the record store stayed locked; nothing was written")
            else:
                error = _late(job.phase)
        elif default:
            return  # it is at work, and the caller set no limit
        elif writes:
            error = StoreUnavailable("the deadline passed during the commit: its request id tells if it happened")
        else:
            error = _late(job.phase)
        _resolve([(job, None, error)])

    # --- on the threads ---

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_resolve, outcomes)

    def _run_reader(self, db: sqlite3.Connection) -> None:
        with contextlib.closing(db):
            while (job := self._reads.get()) is not None:
                if not job.start():
                    continue
                try:
                    outcome: Outcome = (job, job.work(db), None)
                except Exception as error:
                    outcome = (job, None, store_error(error))
                self._report([outcome])

    def _run_writer(self, db: sqlite3.Connection) -> None:
        with contextlib.closing(db):
            at_work = True
            while at_work:
                batch = [self._writes.get()]
                with contextlib.suppress(queue.Empty):
                    while len(batch) < limits.append_batch_max:
                        batch.append(self._writes.get_nowait())
                at_work = None not in batch
                self._commit(db, [job for job in batch if job is not None])

    def _commit(self, db: sqlite3.Connection, batch: Sequence[_Job[Any]]) -> None:
        """Run a batch of writes in one transaction.

        Nothing is reported before COMMIT, a conflict neither: it may be with a write of the same batch.
        """
        try:
            if not self._begin(db, batch):
                return
            outcomes = [self._run(db, job) for job in batch if job.start()]
            db.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            refused = store_error(error)
            outcomes = [(job, None, refused) for job in batch]
        self._report(outcomes)

    def _begin(self, db: sqlite3.Connection, batch: Sequence[_Job[Any]]) -> bool:
        """Take the write lock, however long another process holds it; False when every caller has given up."""
        while not all(job.future.done() for job in batch):
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
                self._locked = True  # until a BEGIN succeeds: the next batch waits for the same lock
            else:
                self._locked = False
                return True
        return False

    def _run(self, db: sqlite3.Connection, job: _Job[Any]) -> Outcome:
        """Run one write under its savepoint."""
        db.execute("SAVEPOINT job")
        try:
            answer = job.work(db)
        except Exception as error:
            if not db.in_transaction:
                raise  # SQLite has rolled all of the batch back: a full disk, an I/O error
            db.execute("ROLLBACK TO job")
            db.execute("RELEASE job")
            return job, None, store_error(error)
        db.execute("RELEASE job")
        return job, answer, None
