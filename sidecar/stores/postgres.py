"""The record store of many machines: PostgreSQL 16 or newer, with pgvector.

::

    append ──> at most append_queue_max wait ──> a connection: settings, append(), Sync     one round trip
    fetch  ───────────────────────────────────> a connection: BEGIN, settings, reads, COMMIT   one round trip

Statements go to the wire as one pipeline. A write is one implicit transaction: it is committed when the pipeline's Sync
is answered, and its answer is not looked at before. What a transaction depends on (whose rows it sees, how long it may
take) is set in it and for it alone, and no statement is prepared by name: so a pooler that gives each transaction
another server connection, such as PgBouncer, may stand between.

A call runs in a task of its own, so that a caller who gives up tears nothing apart. The server ends a statement shortly
before the deadline; a server that does not even do that is left behind, and the connection with it.

The SQL stands in `sql/postgres_schema.sql` and `sql/postgres_queries.sql`. This file alone imports the driver, and
`store_error` is the one place where its exceptions become ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import re
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any, Final, TypeVar, cast

import psycopg
from psycopg import conninfo
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

from sidecar import limits
from sidecar.breaker import Breaker
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
from sidecar.finding import Finding, failed
from sidecar.stores import grants, postgres_examination
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
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]

SQL: Final = sections("postgres_queries.sql", "name")
MIGRATIONS: Final = {int(number): script for number, script in sections("postgres_schema.sql", "migration").items()}
EXPANSIONS: Final = {int(number): script for number, script in sections("postgres_schema.sql", "expansion").items()}
SCHEMA: Final = max(MIGRATIONS)
"""The last migration that this release knows: the least that another must know to share the database."""

COMPONENTS_MAX: Final = 16_000
"""Components of pgvector's half-precision type: longer vectors are stored as bytes alone."""

CONNECTION: Final[Mapping[str, str | int]] = {
    "application_name": "standpipe",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""Where the address says nothing else: a peer that has vanished is noticed within half a minute."""


# --- errors --------------------------------------------------------------------------------------------------

_Mapped = tuple[type[StandpipeError], str]
_UNAVAILABLE: Final[_Mapped] = (
    StoreUnavailable,
    "the record store cannot be used just now; retry with the same request id",
)
_READ_ONLY: Final[_Mapped] = (StoreReadOnly, "the record store's server refuses writes: it is a standby, or set so")
_FULL: Final[_Mapped] = (StoreFull, "the record store's disk is full; nothing was written")
_CORRUPT: Final[_Mapped] = (StoreCorrupt, "the record store is damaged: restore it from a backup")
_DEFECT: Final[_Mapped] = (Internal, "the record store refused a statement")
_UNMIGRATED: Final[_Mapped] = (
    ConfigInvalid,
    "the database has not this release's schema: run `standpipe migrate --record` with a role that may make it",
)
_NO_RIGHT: Final[_Mapped] = (
    ConfigInvalid,
    "the database role lacks a right: run `standpipe migrate --record --grant-to` it (and `--tenant`, if it is bound)",
)
_LATE: Final[_Mapped] = (DeadlineExceeded, "the deadline passed in the record store")

ERRORS: Final[Mapping[str, _Mapped]] = {
    "08": _UNAVAILABLE,
    "0A": _DEFECT,
    "25": _DEFECT,
    "25006": _READ_ONLY,
    "25P03": _UNAVAILABLE,
    "25P04": _UNAVAILABLE,
    "28": (ConfigInvalid, "the database server refuses the role or its password"),
    "3D000": (ConfigInvalid, "there is no such database"),
    "3F000": _UNMIGRATED,
    "40": (StoreUnavailable, "the record store gave way to other transactions; nothing was written"),
    "40003": _UNAVAILABLE,
    "42501": _NO_RIGHT,
    "42P01": _UNMIGRATED,
    "42703": _UNMIGRATED,
    "42704": _UNMIGRATED,
    "42883": _UNMIGRATED,
    "53": (StoreUnavailable, "the record store's server is short of memory or connections"),
    "53100": _FULL,
    "55": _UNAVAILABLE,
    "57": (StoreUnavailable, "the record store's server is starting, stopping or ending connections"),
    "57014": _LATE,
    "58": (StoreUnavailable, "the record store's disk or system reported an error; see its log"),
    "SP001": (ConfigInvalid, "the database's encoding must be UTF8"),
    "SP002": (ConfigInvalid, "the database server must be PostgreSQL 16 or newer"),
    "XX": _DEFECT,
    "XX001": _CORRUPT,
    "XX002": _CORRUPT,
}
"""By SQLSTATE where one stands here, else by its class: its first two characters; all others are defects."""

UNREACHABLE: Final[Mapping[str, str]] = {
    "password authentication failed": "the server refuses the role or its password",
    "no password supplied": "the server wants a password",
    "no pg_hba.conf entry": "the server's pg_hba.conf does not let this role in from here",
    'role "': "the server has no such role",
    'database "': "the server has no such database",
    "certificate": "the server's certificate does not pass: see sslmode and sslrootcert",
    "SSL": "no TLS could be agreed on: see sslmode",
    "could not translate host name": "its host name is not known",
    "Name or service not known": "its host name is not known",
    "Connection refused": "nothing listens at its address",
    "No such file or directory": "nothing listens at its socket",
    "too many": "the server has no connection left",
    "starting up": "the server is starting",
    "shutting down": "the server is stopping",
    "read-only": "no server takes writes",
}
"""What a failed connection's text says, in words of our own: the driver gives no code, and its text names roles."""


def store_error(error: Exception, *, phase: str = "record_fetch") -> StandpipeError:
    """Return what the contract raises for an exception of the driver, or for any other from inside the engine."""
    if isinstance(error, StandpipeError):
        return error
    state = getattr(error, "sqlstate", None)
    if state == "SP003":
        return session_full()
    if state == "SP004":
        return Erased("subject")
    if state is not None:
        kind, message = ERRORS.get(state) or ERRORS.get(state[:2], _DEFECT)
    elif isinstance(error, psycopg.OperationalError | OSError):  # the connection was lost
        kind, message = _UNAVAILABLE
    elif isinstance(error, UnicodeDecodeError):
        kind, message = _CORRUPT
    else:  # the driver's own: a value that it cannot send
        kind, message = _DEFECT
    metadata = {"phase": phase} if kind is DeadlineExceeded else {"driver_error": state or type(error).__name__}
    ours = kind(message, field="record" if kind is ConfigInvalid else None, **metadata)
    ours.__cause__ = error
    return ours


def _unreachable(error: Exception) -> StoreUnavailable:
    """Return the error of a connection that was not made, with its reason where it is known."""
    text = str(error)
    why = next((why for sign, why in UNREACHABLE.items() if sign in text), "it does not answer")
    ours = StoreUnavailable(f"the record store cannot be reached: {why}", driver_error=type(error).__name__)
    ours.__cause__ = error
    return ours


def _runs_again(error: Exception, *, fresh: bool) -> bool:
    """Return whether a transaction that failed so has written nothing, and may fare better at once."""
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return not fresh  # another connection may reach another server
    return isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected)


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the record store is closed")


def _late(phase: str) -> DeadlineExceeded:
    return DeadlineExceeded(_LATE[1], phase=phase)


# --- connections -----------------------------------------------------------------------------------------------


def _address(dsn: str) -> str:
    """Return the libpq connection string of an address. Raises ConfigInvalid, without a trace of its password."""
    whole = ""
    with contextlib.suppress(psycopg.Error):
        whole = conninfo.make_conninfo("", **{**CONNECTION, **conninfo.conninfo_to_dict(dsn)})
    if not whole:
        raise ConfigInvalid("must be a libpq address, such as postgresql://role@host/database", field="record")
    return whole


async def _connect(address: str) -> Connection:
    try:
        return await psycopg.AsyncConnection.connect(address, autocommit=True, prepare_threshold=None)
    except (psycopg.Error, OSError) as error:
        raise _unreachable(error) from error


class _Call:
    """A call at work: how far it has come decides what a passed deadline means."""

    __slots__ = ("connected", "fresh", "give_up_at", "phase", "waiting", "writes")

    def __init__(self, phase: str, give_up_at: float) -> None:
        self.phase = phase
        self.writes = phase == "record_append"
        self.give_up_at = give_up_at
        self.waiting = True
        """For its turn: it asks for no connection yet."""
        self.connected = False
        self.fresh = True
        """The connection was made for this call."""

    def timeout_ms(self) -> str:
        """Return the statement timeout, in milliseconds: the server's word should come before the deadline."""
        if self.give_up_at == math.inf:
            return "0"
        left_ms = (self.give_up_at - time.monotonic()) * 1000
        return str(max(1, int(left_ms - min(limits.record_margin_ms, left_ms / 10))))


class _Pool:
    """Connections, made when they are needed, so that a server that is down is noticed at once and by who asks.

    `psycopg_pool` makes them in the background instead, and callers wait out their deadlines meanwhile.
    """

    def __init__(self, address: str, *, count_max: int) -> None:
        self._address = address
        self._slots = asyncio.Semaphore(count_max)
        self._idle: list[Connection] = []

    @contextlib.asynccontextmanager
    async def connection(self, call: _Call) -> AsyncIterator[Connection]:
        """Lend a connection. One that comes back amid a transaction, or broken, is closed."""
        async with self._slots:
            call.waiting = False
            idle = await self._whole()
            call.fresh = idle is None
            db = idle or await _connect(self._address)
            call.connected = True
            try:
                yield db
            except psycopg.errors.ReadOnlySqlTransaction:
                await db.close()
                await self.close()  # the server was demoted: who is primary now, the address tells
                raise
            finally:
                if db.pgconn.transaction_status == TransactionStatus.IDLE:
                    self._idle.append(db)
                else:
                    await db.close()

    async def _whole(self) -> Connection | None:
        """Return the idle connection that was used last. One that has something to read was ended by the server."""
        while self._idle:
            db = self._idle.pop()
            said = select.poll()
            if not db.closed:
                said.register(db, select.POLLIN)
                if not said.poll(0):
                    return db
            await db.close()
        return None

    async def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop().close()


# --- statements --------------------------------------------------------------------------------------------------

Statement = tuple[str, Sequence[object]]
"""A statement's name, and its values."""


async def _execute(db: Connection, name: str, *values: object) -> psycopg.AsyncCursor[Row]:
    return await db.execute(SQL[name], values or None, binary=True)


async def _one_row(db: Connection, name: str, *values: object) -> Row:
    return cast("Row", await (await _execute(db, name, *values)).fetchone())


@functools.cache
def _numbered(text: str) -> bytes:
    """Return a statement with its values numbered as the protocol has it: $1, $2, ..."""
    numbers = itertools.count(1)
    return re.sub("%b", lambda _: f"${next(numbers)}", text).encode()


async def _pipeline(db: Connection, statements: Sequence[Statement]) -> list[list[Row]]:
    """Run statements in one round trip, with one Sync behind them; return the rows of each.

    This is what the driver's own pipeline does, for a quarter of its work: it makes a cursor of every statement, and
    synchronises with the server at every step that a general pipeline may take.
    """
    transformer = Transformer(db)
    pgconn = db.pgconn
    pgconn.enter_pipeline_mode()
    try:
        for name, values in statements:
            sent = transformer.dump_sequence(values, [PyFormat.BINARY] * len(values))
            pgconn.send_query_params(
                _numbered(SQL[name]),
                sent,
                param_types=transformer.types,
                param_formats=transformer.formats,
                result_format=Format.BINARY,
            )
        pgconn.pipeline_sync()
        results = await db.wait(_exchange(pgconn))
    finally:
        # A connection that is amid something stays as it is: whoever lent it closes it.
        with contextlib.suppress(psycopg.OperationalError):
            pgconn.exit_pipeline_mode()
    rows = []
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        transformer.set_pgresult(result, format=Format.BINARY)
        rows.append(transformer.load_rows(0, result.ntuples, tuple))
    return rows


def _exchange(pgconn: PGconn) -> Generator[Wait, Ready | int, list[PGresult]]:
    """Send what waits and read to the Sync: the driver's event loop sees to the socket."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            if (yield Wait.R):
                pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:  # behind the result of each statement, and for ever on a connection that was lost
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError("the connection was lost")
        elif result.status == ExecStatus.PIPELINE_SYNC:
            return results
        else:
            results.append(result)


@dataclass(frozen=True, slots=True)
class _Sight:
    """Whose rows a statement may see."""

    tenant: str = ""
    worker: str = "off"


_WORKER: Final = _Sight(worker="on")
_NOBODY: Final = _Sight()


# --- reads: each is one or more statements of the pipeline, and what their rows mean ---------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    sight: _Sight
    statements: Sequence[Statement]
    answer: Callable[[Sequence[list[Row]]], Answer]


def _first(of: Callable[[Row], T]) -> Callable[[Sequence[list[Row]]], T | None]:
    return lambda found: of(found[0][0]) if found[0] else None


def _each(of: Callable[[Row], T]) -> Callable[[Sequence[list[Row]]], list[T]]:
    return lambda found: [of(row) for row in found[0]]


def _read_head(read: HeadRead) -> _Asked:
    return _Asked(_Sight(read.tenant), [("head", (read.tenant, read.session))], _first(head_of))


def _read_session(read: SessionRead) -> _Asked:
    def answer(found: Sequence[list[Row]]) -> SessionState | None:
        heads, rows = found
        if not heads:
            return None
        head = head_of(heads[0])
        if head.expired:
            return SessionState(head=head, checkpoint=None, events=(), after_version=read.known_version)
        mark, *events = rows
        after, end = mark[1], mark[9]
        checkpoint = None
        if mark[5] is not None:
            checkpoint = Checkpoint(
                session=read.session, tokenizer=read.tokenizer, version=after, weight_bytes=mark[8], body=mark[5]
            )
        if len(events) != max(0, end - after):
            raise StoreCorrupt("events are missing from a session's log", after_version=after, end_version=end)
        return SessionState(
            head=head,
            checkpoint=checkpoint,
            events=[event_of(row) for row in events],
            after_version=after,
        )

    key = (read.tenant, read.session)
    values = (*key, read.tokenizer, read.known_version, read.at_version, read.window_bytes)
    return _Asked(_Sight(read.tenant), [("head", key), ("session_end", values)], answer)


def _read_events(read: EventsRead) -> _Asked:
    def answer(found: Sequence[list[Row]]) -> list[StoredEvent] | None:
        heads, rows = found
        if not heads:
            return None
        return [] if head_of(heads[0]).expired else [event_of(row) for row in rows]

    key = (read.tenant, read.session)
    values = (*key, read.after_version, read.count_max, read.bytes_max)
    return _Asked(_Sight(read.tenant), [("head", key), ("events", values)], answer)


def _read_sessions(read: SessionsRead) -> _Asked:
    if read.subject:
        statement: Statement = ("sessions_of_subject", (read.tenant, read.subject, read.after_session, read.count_max))
    else:
        statement = ("sessions_of_tenant", (read.tenant, read.after_session, read.count_max))
    return _Asked(_Sight(read.tenant), [statement], _each(head_of))


def _item(row: Row) -> StoredItem:
    return item_of((*row[:6], row[6].decode(), row[7], row[8].decode(), *row[9:]))


def _read_scope(read: ScopeRead) -> _Asked:
    def answer(found: Sequence[list[Row]]) -> ScopeState:
        counters, items, *vectors = found
        position, epoch, vector_position, erased, serving = counters[0]
        return ScopeState(
            position=position,
            vector_position=vector_position or 0,
            items=[_item(row) for row in items],
            vectors=[row[0] for row in vectors[0]] if vectors and position and not erased else [],
            epoch=epoch,
            serving=serving,
        )

    key = (read.tenant, read.subject)
    statements: list[Statement] = [
        ("scope", (*key, read.model, *key)),
        ("items", (*key, read.after_position, *key, read.count_max)),
    ]
    if read.model:
        statements.append(("vectors", (*key, read.model, read.after_vector_position, read.count_max)))
    return _Asked(_Sight(read.tenant), statements, answer)


def _read_changes(read: ChangesRead) -> _Asked:
    def answer(found: Sequence[list[Row]]) -> ScopeState:
        counters, items = found
        position, epoch, _, _, _ = counters[0]
        return ScopeState(
            position=position, vector_position=0, items=[_item(row) for row in items], vectors=[], epoch=epoch
        )

    key = (read.tenant, read.subject)
    statements = [
        ("scope", (*key, "", *key)),
        ("changes", (*key, read.after_position, *key, read.count_max, *key)),
    ]
    return _Asked(_Sight(read.tenant), statements, answer)


def _read_held(read: HeldRead) -> _Asked:
    values = (read.tenant, read.after_subject, read.tenant, read.count_max)
    return _Asked(_Sight(read.tenant), [("held_subjects", values)], _each(lambda row: row[0]))


def _read_key(read: KeyRead) -> _Asked:
    statement: Statement = ("key_of_subject", (read.tenant, read.subject))
    if read.key_id:
        statement = ("key", (read.tenant, read.key_id))
    return _Asked(_Sight(read.tenant), [statement], _first(key_of))


def _read_policy(read: PolicyRead) -> _Asked:
    statement: Statement = ("latest_policy", (read.tenant, read.name))
    if read.version is not None:
        statement = ("policy", (read.tenant, read.name, read.version))
    return _Asked(_Sight(read.tenant), [statement], _first(policy_of))


def _read_route(read: RouteRead) -> _Asked:
    return _Asked(_Sight(read.tenant), [("route", (read.tenant, read.name))], _first(route_of))


def _read_policies(read: PoliciesRead) -> _Asked:
    values = (read.tenant, *read.after, read.count_max)
    return _Asked(_Sight(read.tenant), [("policies", values)], _each(policy_of))


def _read_routes(read: RoutesRead) -> _Asked:
    return _Asked(_Sight(read.tenant), [("routes", (read.tenant,))], _each(route_of))


def _read_lag(read: LagRead) -> _Asked:
    def lag(row: Row) -> Lag:
        return Lag(items=row[0], age_s=(row[1] or 0) / 1e6, parked=row[2])

    return _Asked(_WORKER, [("lag", (read.model, read.model))], _first(lag))


def _read_models(_read: ModelsRead) -> _Asked:
    def models(found: Sequence[list[Row]]) -> Models:
        return Models(serving=found[0][0][0], known=[row[1] for row in found[0] if row[1] is not None])

    return _Asked(_NOBODY, [("models", ())], models)


def _read_parked(read: ParkedRead) -> _Asked:
    return _Asked(_WORKER, [("parked", (*read.after, read.count_max))], _each(parked_of))


def _read_expired(read: ExpiredRead) -> _Asked:
    def answer(found: Sequence[list[Row]]) -> list[tuple[str, str]]:
        return list(dict.fromkeys((row[0], row[1]) for rows in found for row in rows))[: read.count_max]

    values = (read.count_max,)
    return _Asked(_WORKER, [("erased_sessions", values), ("expired", values)], answer)


def _read_erasure(read: ErasureRead) -> _Asked:
    values = (read.tenant, read.subject, read.session)
    return _Asked(_Sight(read.tenant), [("erasure", values)], _first(erasure_of))


def _read_erasures(read: ErasuresRead) -> _Asked:
    return _Asked(_WORKER, [("erasures_at_work", (read.count_max,))], _each(erasure_of))


def _state_page(bytes_max: int, count_max: int | None = None) -> Callable[[Sequence[list[Row]]], StateFound]:
    def answer(found: Sequence[list[Row]]) -> StateFound:
        fit = [row for row in found[0] if row[2] is not None]
        page = state_page(map(state_of, fit), bytes_max, count_max)
        return page if len(fit) == len(found[0]) else StateFound(records=page.records, more=True)

    return answer


def _read_state(read: StateRead) -> _Asked:
    values = (read.bytes_max, list(read.keys), read.tenant, read.subject, read.collection)
    return _Asked(_Sight(read.tenant), [("state_records", values)], _state_page(read.bytes_max))


def _read_state_list(read: StateList) -> _Asked:
    key = (read.tenant, read.subject, read.collection, *keys_of_page(read))
    values = (read.bytes_max, read.keys_only, *key, read.count_max + 1)
    name = "state_down" if read.descending else "state_up"
    return _Asked(_Sight(read.tenant), [(name, values)], _state_page(read.bytes_max, read.count_max))


def _read_state_all(read: StateAll) -> _Asked:
    values = (read.bytes_max, read.tenant, read.subject, *read.after, read.count_max + 1)
    return _Asked(_Sight(read.tenant), [("state_all", values)], _state_page(read.bytes_max, read.count_max))


def _read_figures(_read: FiguresRead) -> _Asked:
    def figures(row: Row) -> Figures:
        sessions, events, items, log_bytes, overdue_us = (int(value or 0) for value in row)
        return Figures(sessions=sessions, events=events, items=items, log_bytes=log_bytes, overdue_s=overdue_us / 1e6)

    return _Asked(_WORKER, [("figures", ())], _first(figures))


def _read_grants(_read: GrantsRead) -> _Asked:
    def answer(found: Sequence[list[Row]]) -> GrantsState:
        return GrantsState(rows=[grant_of(row) for row in found[0] if row[0] is not None], now_us=found[0][0][5])

    return _Asked(_NOBODY, [("grants", ())], answer)


_READS: Final[Mapping[type[Read], Callable[[Any], _Asked]]] = {
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


async def _answer(db: Connection, timeout_ms: str, asked: Sequence[_Asked]) -> list[Answer]:
    """Answer reads from one snapshot, in one round trip."""
    statements: list[Statement] = [("snapshot", ())]
    sight = None
    for one in asked:
        if one.sight != sight:
            sight = one.sight
            statements.append(("see", (sight.tenant, sight.worker, timeout_ms)))
        statements += one.statements
    rows = await _pipeline(db, [*statements, ("commit", ())])
    found = iter([rows for rows, (name, _) in zip(rows, statements, strict=False) if name not in {"snapshot", "see"}])
    return [one.answer([next(found) for _ in one.statements]) for one in asked]


# --- writes ------------------------------------------------------------------------------------------------------


async def _commit(db: Connection, timeout_ms: str, sight: _Sight, name: str, values: Sequence[object]) -> list[Row]:
    """Run one statement as one durable transaction, in one round trip; return its rows."""
    _, rows = await _pipeline(db, [("change", (sight.tenant, sight.worker, timeout_ms)), (name, values)])
    return rows


def _items(items: Sequence[NewItem]) -> tuple[list[Any], ...]:
    """Return items as the arrays that the functions take: most have no kind and no detail, and no array says so."""
    special = any(item.kind or item.detail for item in items)
    return (
        [item.entry for item in items],
        [item.chunk for item in items],
        [item.role for item in items],
        [item.speaker.encode() for item in items],
        [item.spoken_at_us for item in items],
        [item.text.encode() for item in items],
        [item.terms for item in items],
        [tokens_text(item) for item in items],
        [int(item.kind) for item in items] if special else [],
        [item.detail for item in items] if special else [],
    )


def _append_values(event: NewEvent, *, restored_at_us: int | None = None) -> tuple[object, ...]:
    return (
        event.tenant,
        event.session,
        event.subject,
        event.request_id,
        event.digest,
        event.expected_version,
        event.must_exist,
        int(event.kind),
        event.body,
        event.weight_bytes,
        list(event.opened_calls),
        list(event.answered_calls),
        [session for session, _ in event.citations],
        [version for _, version in event.citations],
        *_items(event.items),
        None if event.keep_s is None else event.keep_s * 1_000_000,
        limits.session_events_max,
        restored_at_us,
    )


def _appended(event: NewEvent, row: Row) -> Appended:
    """Return what an append wrote, or raise what it was refused for."""
    outcome, version, event_hash, subject, position, weight_bytes, committed_at_us, number, winner = row
    if outcome in {"appended", "replayed"}:
        return Appended(
            version=version,
            event_hash=event_hash,
            subject=subject,
            position=position,
            weight_end_bytes=weight_bytes,
            committed_at_us=committed_at_us,
            replayed=outcome == "replayed",
        )
    raise _refusal(event, outcome, version=version, at=(number or 1) - 1, winner=winner or "")


def _refusal(event: NewEvent, outcome: str, *, version: int, at: int, winner: str) -> StandpipeError:
    match outcome:
        case "reused":
            return RequestIdReused("the request id was used before in this session, with another body", version=version)
        case "unknown":
            return SessionNotFound("the tenant has no such session", field="session_id")
        case "future":
            return VersionInFuture("the expected version is ahead of the session", current_version=version)
        case "conflict":
            return VersionConflict(
                "another commit won this version: hydrate again, and commit with a new request id",
                current_version=version,
                winner_request_id=winner,
            )
        case "nameless":
            return InvalidField("the first append of a session must name its subject", field="subject_id")
        case "subject erased" | "session erased":
            return Erased(outcome.removesuffix(" erased"))
        case "expired":
            return SessionExpired()
        case "listed":
            return StoreUnavailable("what the session held before is being removed; retry")
        case "ended":
            return SessionEnded("the session was ended and takes no more turns")
        case "mismatch":
            return SubjectMismatch("the session belongs to another subject")
        case "call":
            return InvalidField(f"tool call {at} has an id that the session has had", field="turn.entries")
        case "result":
            return ToolResultWithoutCall(
                f"tool result {at} answers no open call", call_id=event.answered_calls[at], field="turn.entries"
            )
        case _:
            return InvalidField(f"citation {at} names no event of this tenant", field="turn.entries")


def _components(vector: bytes) -> str | None:
    """Return a packed vector's int8 components as pgvector's text; None if it has none, or too many."""
    if not 4 < len(vector) <= 4 + COMPONENTS_MAX:
        return None
    return str(memoryview(vector)[4:].cast("b").tolist())


GrantsChange = Callable[[Sequence[Grant], int, int], Sequence[Grant]]
"""From the rows, a grant that was never given, and the store's time, to the rows after."""


async def _regrant(db: Connection, timeout_ms: str, change: GrantsChange) -> None:
    async with db.transaction():
        await _execute(db, "change", _NOBODY.tenant, _NOBODY.worker, timeout_ms)
        grant, now_us = await _one_row(db, "lock_grants")
        before = [grant_of(row) async for row in await _execute(db, "grants") if row[0] is not None]
        after = change(before, grant, now_us)
        if after != before:
            async with db.pipeline():
                await _execute(db, "drop_grants")
                for row in after:
                    values = (row.slot_from, row.slot_to, row.grant, row.incarnation, row.usable_at_us)
                    await _execute(db, "put_grant", *values)


async def _scrub(db: Connection) -> bool:
    """Vacuum what erasures touch, once nobody can see what they removed; False if somebody still can (R32)."""
    (horizon,) = await _one_row(db, "horizon")
    give_up_at = time.monotonic() + limits.scrub_wait_ms / 1000
    while (await _one_row(db, "held_up", horizon))[0]:
        if time.monotonic() >= give_up_at:
            return False
        await asyncio.sleep(0.02)
    await _execute(db, "vacuum")
    if (await _one_row(db, "may_checkpoint"))[0]:
        await _execute(db, "checkpoint")
    return True


# --- the schema ----------------------------------------------------------------------------------------------------


async def _missing(db: Connection) -> list[tuple[int, str]]:
    """Return the parts of the schema that a database lacks, in order: (number, kind). Raises StoreSchemaNewer."""
    stored: set[tuple[int, str]] = set()
    if (await _one_row(db, "is_made"))[0]:
        stored = {(row[0], row[1]) for row in await (await _execute(db, "migrations")).fetchall()}
    newest = max((number for number, kind in stored if kind == "migration"), default=0)
    if newest > SCHEMA:
        raise StoreSchemaNewer(
            f"the record store has schema {newest}, this release knows up to {SCHEMA}: run a newer release",
            stored_schema=newest,
            known_schema=SCHEMA,
        )
    known = [(number, "migration") for number in MIGRATIONS] + [(number, "expansion") for number in EXPANSIONS]
    return sorted(set(known) - stored)


async def _migrate(db: Connection) -> list[tuple[int, str]]:
    """Run the missing parts, each in a transaction; of several processes that start together one does."""
    done = []
    while missing := await _missing(db):
        number, kind = missing[0]
        async with db.transaction():
            await _execute(db, "lock_schema")
            if not (await _one_row(db, "is_made"))[0]:
                await db.execute(SQL["make"])
            if missing[0] in await _missing(db):
                script = (MIGRATIONS if kind == "migration" else EXPANSIONS)[number]
                await db.execute(script)
                await _generated(db, "bind_new_tables")
                await _execute(db, "note_migration", number, kind)
                done.append(missing[0])
    await _execute(db, "keep_signing_key", token_bytes(32))
    return done


async def _generated(db: Connection, name: str, *values: object) -> None:
    """Run the statements that a statement makes, each in a transaction of its own unless one has begun."""
    for (statement,) in await (await _execute(db, name, *values)).fetchall():
        if statement:
            await db.execute(statement)


ANY_TENANT: Final = "*"
"""In place of tenants: a role is bound to none."""


async def migrate(
    dsn: str, *, dry_run: bool = False, grant_to: Iterable[str] = (), tenants: Sequence[str] = ()
) -> list[tuple[int, str]]:
    """Bring a database's schema up to date, and let other roles use it; return the parts that it lacked.

    Each part is (number, "migration" or "expansion"). With `dry_run` nothing is changed. With `tenants` the roles see
    and write the rows of these alone from now on, whatever their sidecars say; ANY_TENANT ends that. Without, a role
    stays as it is: a new one may be any tenant. Raises ConfigInvalid for a role whose rights the schema's owner has.
    """
    db = await _connect(_address(dsn))
    try:
        if dry_run:
            return await _missing(db)
        done = await _migrate(db)
        for role in grant_to:
            if tenants:
                rows = await (await _execute(db, "rights_of_owner", role, role)).fetchall()
                if rows and rows[0][0]:
                    raise ConfigInvalid(
                        "the schema's owner has this role's rights: bind another role", field="grant_to"
                    )
                await _execute(db, "bind_wait", str(limits.bind_wait_ms))
                await _generated(db, "bind", role, [tenant for tenant in tenants if tenant != ANY_TENANT])
            await _generated(db, "grant", role, role)  # what it may see is bound by now
    except Exception as error:
        raise store_error(error) from error
    else:
        return done
    finally:
        await db.close()


# --- its examination ---------------------------------------------------------------------------------------------


async def _examine(address: str, *, pool_max: int) -> list[Finding]:
    """Look at the server, the database and the role, in a transaction that is rolled back (R22)."""
    try:
        db = await _connect(address)
    except StoreUnavailable as error:
        return [failed("server", error.message, "Start it, or correct `record`; see the server's log.")]

    async def ask(name: str, *values: object) -> Sequence[Row]:
        try:
            async with db.transaction():  # a savepoint: a check that fails takes no other along
                cursor = await db.execute(postgres_examination.SQL[name], values or None)
                return await cursor.fetchall() if cursor.description else []
        except Exception as error:
            raise store_error(error) from error

    parts = {"migration": [*MIGRATIONS], "expansion": [*EXPANSIONS]}
    try:
        async with db.transaction(force_rollback=True):
            return await postgres_examination.examine(ask, parts=parts, pool_max=pool_max)
    except Exception as error:
        return [failed("server", store_error(error).message, "See the server's log.")]
    finally:
        await db.close()


# --- the engine ----------------------------------------------------------------------------------------------------


Work = Callable[[Connection, str], Awaitable[T]]
"""What a call does with a connection and its statement timeout."""


class PostgresRecord(Record):
    """A `Record` in a PostgreSQL database. `wait_ms` bounds calls that bring no deadline.

    `dsn` is a libpq address or connection string: TLS, hosts and all else is said there. Without `migrate` the schema
    must be there (`standpipe migrate`), and the role needs no right to make it.
    """

    engine = "postgresql"

    def __init__(
        self,
        dsn: str,
        *,
        pool_max: int = limits.record_pool_max,
        migrate: bool = True,
        components: bool = True,
        wait_ms: int = limits.deadline_default_ms,
    ) -> None:
        self._address = _address(dsn)
        self._pool_max = pool_max
        self._migrates = migrate
        self._wait_ms = wait_ms
        self._components = components
        self._pool = _Pool(self._address, count_max=pool_max)
        # Reads never wait behind all the commits: one connection is theirs.
        self._writers = asyncio.Semaphore(max(1, pool_max - 1))
        self._writes_waiting = 0
        self._breaker = Breaker()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._models: set[str] = set()
        self._signing_key = b""
        self._open = False

    async def open(self) -> None:
        self._open = True
        try:
            await self._call(self._prepare, phase="record_fetch", deadline=math.inf)
        except BaseException:
            await self.close()
            raise

    async def _prepare(self, db: Connection, _timeout_ms: str) -> None:
        if self._migrates:
            await _migrate(db)
        elif await _missing(db):
            raise ConfigInvalid(_UNMIGRATED[1], field="record")
        self._signing_key = (await _one_row(db, "signing_key"))[0]

    async def close(self) -> None:
        self._open = False
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._pool.close()

    async def examine(self) -> Sequence[Finding]:
        try:
            async with asyncio.timeout(limits.examine_ms / 1000):
                return await _examine(self._address, pool_max=self._pool_max)
        except TimeoutError:
            advice = "See why its server is slow: locks, disk, network."
            return [failed("server", "it did not answer in time", advice)]

    async def signing_key(self) -> bytes:
        return self._signing_key

    async def may_be(self, tenant: str) -> bool:
        (found,) = await self._ask([_Asked(_NOBODY, [("may_be", (tenant,))], _first(lambda row: row[0]))])
        return bool(found)

    async def append(self, event: NewEvent, *, deadline: Deadline | None = None) -> Appended:
        rows = await self._write("append", *_append_values(event), sight=_Sight(event.tenant), deadline=deadline)
        return _appended(event, rows[0])

    async def fetch(self, reads: Sequence[Read], *, deadline: Deadline | None = None) -> list[Answer]:
        return await self._ask([_READS[type(read)](read) for read in reads], deadline)

    async def put_vectors(
        self, scope: Scope, *, model: str, vectors: Sequence[bytes], deadline: Deadline | None = None
    ) -> bool:
        await self._know(model)
        values = (scope.tenant, scope.subject, model, scope.vector_position)
        arrays = (list(vectors), [_components(vector) if self._components else None for vector in vectors])
        rows = await self._write("put_vectors", *values, *arrays, sight=_Sight(scope.tenant), deadline=deadline)
        return bool(rows[0][0])

    async def claim(self, *, model: str, worker: str, lease_s: float, count_max: int) -> Sequence[Claim]:
        await self._know(model)
        values = (model, worker, int(lease_s * 1e6), limits.work_attempts_max, count_max)
        return [
            Claim(
                scope=Scope(tenant=row[0], subject=row[1], position=row[2], vector_position=row[3]),
                model=model,
                worker=worker,
                until_us=row[4],
                attempts=row[5],
            )
            for row in await self._write("claim", *values, sight=_WORKER)
        ]

    async def release(self, claim: Claim, *, reason: str = "", pause_s: float = 0.0) -> bool:
        values = (reason, int(pause_s * 1e6), limits.work_attempts_max)
        order = (claim.scope.tenant, claim.scope.subject, claim.model, claim.worker, claim.until_us)
        rows = await self._write("release", *values, *order, sight=_Sight(claim.scope.tenant))
        return bool(rows and rows[0][0])

    async def unpark(self, tenant: str, *, subject: str, model: str) -> bool:
        return bool(await self._write("unpark", tenant, subject, model, sight=_Sight(tenant)))

    async def serve(self, model: str, *, instead_of: str) -> bool:
        ((done,),) = await self._write("serve", named(model), instead_of, sight=_WORKER, deadline=math.inf)
        return bool(done)

    async def drop_model(self, model: str) -> None:
        await self._write("drop_vectors", model, model, sight=_WORKER, deadline=math.inf)
        if not (await self._write("forget_model", model, sight=_WORKER, deadline=math.inf))[0][0]:
            raise serves(model)
        self._models.discard(model)
        # Those that came meanwhile: the orders that they answered are gone now.
        await self._write("drop_vectors", model, model, sight=_WORKER, deadline=math.inf)

    async def _know(self, model: str) -> None:
        """Note that a model is in use: from now on every append orders its vectors, and so does all that is there."""
        if model not in self._models:
            (known,) = await self._ask([_Asked(_NOBODY, [("known_models", ())], _each(lambda row: row[0]))])
            if model not in cast("list[str]", known):
                await self._write("know_model", model, sight=_WORKER, deadline=math.inf)
            self._models.add(model)

    async def put_checkpoint(self, tenant: str, checkpoint: Checkpoint) -> None:
        fold = (checkpoint.tokenizer, checkpoint.version, checkpoint.weight_bytes, checkpoint.body)
        await self._write("put_checkpoint", *fold, tenant, checkpoint.session, sight=_Sight(tenant))

    async def sweep(self, tenant: str, session: str) -> bool:
        return bool((await self._write("sweep", tenant, session, sight=_Sight(tenant)))[0][0])

    async def forgotten(self, tenant: str, session: str) -> None:
        await self._write("forgotten", tenant, session, sight=_Sight(tenant))

    async def redact(
        self, tenant: str, *, session: str, version: int, body: bytes, entries: Sequence[int], erasure: Erasure
    ) -> None:
        values = (tenant, session, version, body, list(entries), erasure.subject, erasure.session)
        await self._write("redact", *values, sight=_Sight(tenant))

    async def erase(self, tenant: str, *, subject: str, session: str = "") -> Erasure:
        key = (tenant, subject, session)
        rows = await self._write("erase", *key, sight=_Sight(tenant), deadline=math.inf)
        if not rows:
            raise SubjectMismatch("the session belongs to another subject")
        if not session:
            values = (tenant, subject, tenant, subject)
            await self._write("mark_late_sessions", *values, sight=_Sight(tenant), deadline=math.inf)
        return erasure_of(rows[0])

    async def finish_erasure(self, erasure: Erasure) -> Erasure:
        key = (erasure.tenant, erasure.subject, erasure.session)
        return erasure_of((await self._write("finish_erasure", *key, sight=_Sight(erasure.tenant)))[0])

    async def reopen(self, tenant: str, *, subject: str) -> None:
        if not (await self._write("reopen", tenant, subject, sight=_Sight(tenant)))[0][0]:
            raise Erased("subject")

    async def restore(self, event: NewEvent, *, committed_at_us: int) -> Appended:
        values = _append_values(event, restored_at_us=committed_at_us)
        return _appended(event, (await self._write("append", *values, sight=_Sight(event.tenant)))[0])

    async def put_state(
        self,
        tenant: str,
        *,
        subject: str,
        collection: str,
        writes: Sequence[StateWrite],
        deadline: Deadline | None = None,
    ) -> int:
        arrays = (
            [write.key for write in writes],
            [write.value for write in writes],
            [write.expected_revision for write in writes],
            [write.keep_us for write in writes],
            [write.expires_at_us for write in writes],
        )
        values = (tenant, subject, collection, *arrays, limits.state_records_max)
        ((outcome, revision, number),) = await self._write(
            "put_state", *values, sight=_Sight(tenant), deadline=deadline
        )
        match outcome:
            case "erased":
                raise Erased("subject")
            case "conflict":
                raise state_conflict(number - 1, revision)
            case "full":
                raise state_full(number)
        return int(revision)

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
        values = (tenant, subject, collection, *keys_from(prefix), count_max)
        ((deleted, more),) = await self._write("delete_state", *values, sight=_Sight(tenant), deadline=deadline)
        return deleted, more

    async def expire_state(self, *, count_max: int) -> int:
        # Who finds nothing asks for no transaction that writes.
        (any_due,) = await self._ask([_Asked(_WORKER, [("any_expired_state", ())], _first(lambda row: row[0]))])
        if not any_due:
            return 0
        return int((await self._write("expire_state", count_max, sight=_WORKER, deadline=math.inf))[0][0])

    async def scrub(self) -> None:
        if not self._open:
            raise _closed()
        db = await _connect(self._address)  # of its own: a vacuum may take longer than anybody should wait for the pool
        try:
            done = await _scrub(db)
        except Exception as error:
            raise store_error(error) from error
        finally:
            await db.close()
        if not done:
            raise StoreUnavailable("another transaction can still see what was removed: try again when it has ended")

    async def put_key(self, tenant: str, key: StoredKey) -> StoredKey:
        values = (tenant, key.subject, key.key_id, key.wrapped, key.wrapping)
        rows = await self._write("put_key", *values, sight=_Sight(tenant))
        if not rows:
            raise Erased("subject")
        return key_of(rows[0])

    async def rewrap(self, tenant: str, *, old: StoredKey, new: StoredKey) -> bool:
        values = (new.wrapped, new.wrapping, tenant, old.subject, old.key_id, old.wrapped, old.wrapping)
        return bool(await self._write("rewrap", *values, sight=_Sight(tenant)))

    async def keys_all(self, *, after: tuple[str, bytes], count_max: int) -> Sequence[tuple[str, StoredKey]]:
        def key(row: Row) -> tuple[str, StoredKey]:
            return row[4], key_of(row)

        (found,) = await self._ask([_Asked(_WORKER, [("keys_of_all", (*after, count_max))], _each(key))])
        return cast("list[tuple[str, StoredKey]]", found)

    async def publish_policy(
        self, tenant: str, *, name: str, document: str, digest: bytes
    ) -> tuple[StoredPolicy, bool]:
        ((version, stored, at_us, new),) = await self._write(
            "publish_policy", tenant, name, document, digest, sight=_Sight(tenant)
        )
        policy = StoredPolicy(name=name, version=version, document=stored, digest=digest, published_at_us=at_us)
        return policy, new

    async def set_route(self, tenant: str, route: StoredRoute) -> None:
        values = (tenant, route.name, route.policy_name, route.policy_version)
        if not (await self._write("set_route", *values, sight=_Sight(tenant)))[0][0]:
            raise PolicyNotFound("the tenant has no such policy version", version=route.policy_version)

    async def drop_derived(self) -> None:
        await self._write("drop_derived", sight=_WORKER, deadline=math.inf)

    async def sessions_all(self, *, after: tuple[str, str], count_max: int) -> Sequence[tuple[str, Head]]:
        def session(row: Row) -> tuple[str, Head]:
            return row[11], head_of(row)

        (found,) = await self._ask([_Asked(_WORKER, [("sessions_of_all", (*after, count_max))], _each(session))])
        return cast("list[tuple[str, Head]]", found)

    async def restore_items(self, tenant: str, *, subject: str, event: StoredEvent, items: Sequence[NewItem]) -> None:
        values = (tenant, subject, event.session, event.version, event.position_end, event.committed_at_us)
        if not (await self._write("restore_items", *values, *_items(items), sight=_Sight(tenant)))[0][0]:
            raise InvalidField("the event is not in the log, or had another number of items", field="items")

    async def adopt(self, incarnation: str, slots: Sequence[tuple[int, int]]) -> None:
        await self._change_grants(
            lambda rows, grant, _: grants.adopt(rows, grant=grant, incarnation=incarnation, slots=slots)
        )
        await self.date_grants()

    async def revoke(self, incarnation: str) -> None:
        await self._change_grants(lambda rows, grant, _: grants.revoke(rows, grant=grant, incarnation=incarnation))
        await self.date_grants()

    async def date_grants(self) -> None:
        lease_us = limits.hot_lease_ms * 1000
        await self._change_grants(lambda rows, _, now_us: grants.date(rows, usable_at_us=now_us + lease_us))

    async def _change_grants(self, change: GrantsChange) -> None:
        await self._queue(lambda db, timeout_ms: _regrant(db, timeout_ms, change))

    # --- calls ---

    async def _ask(self, asked: Sequence[_Asked], deadline: Deadline | None = None) -> list[Answer]:
        return await self._call(
            lambda db, timeout_ms: _answer(db, timeout_ms, asked), phase="record_fetch", deadline=deadline
        )

    async def _write(self, name: str, *values: object, sight: _Sight, deadline: Deadline | None = None) -> list[Row]:
        return await self._queue(lambda db, timeout_ms: _commit(db, timeout_ms, sight, name, values), deadline)

    async def _queue(self, work: Work[T], deadline: Deadline | None = None) -> T:
        if self._writes_waiting >= limits.append_queue_max:
            raise Overloaded(
                "too many commits wait for the record store",
                limit="append_queue_max",
                maximum=limits.append_queue_max,
            )
        return await self._call(work, phase="record_append", deadline=deadline)

    async def _call(self, work: Work[T], *, phase: str, deadline: Deadline | None) -> T:
        """Run a call in a task, and wait for it until its deadline."""
        if not self._open:
            raise _closed()
        now = time.monotonic()
        call = _Call(phase, now + self._wait_ms / 1000 if deadline is None else deadline)
        if call.give_up_at <= now:
            raise _late(phase)
        pause_s = self._breaker.check()
        if pause_s is not None:
            refused = StoreUnavailable("the record store does not answer; it is asked again in a moment")
            refused.retry_after_ms = math.ceil(pause_s * 1000)
            raise refused
        task = asyncio.get_running_loop().create_task(self._run(work, call))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            await asyncio.wait([task], timeout=None if call.give_up_at == math.inf else call.give_up_at - now)
        finally:
            if not task.done():
                self._abandon(task, call)
        if task.done():
            return task.result()
        if not call.waiting:
            self._breaker.failure()  # the server has ended a statement that is late, if it answers at all
        if call.waiting or (call.connected and not call.writes):
            raise _late(phase)
        if not call.connected:
            raise StoreUnavailable("the record store cannot be reached in time; nothing was written")
        raise StoreUnavailable("the deadline passed during the commit: its request id tells if it happened")

    def _abandon(self, task: asyncio.Task[Any], call: _Call) -> None:
        """Leave a call that nobody waits for: a commit may still end by itself, all else is dropped."""
        if call.connected and call.writes:
            asyncio.get_running_loop().call_later(limits.record_grace_ms / 1000, task.cancel)
        else:
            task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it may be that nobody else asks

    async def _run(self, work: Work[T], call: _Call) -> T:
        if not call.writes:
            return await self._try(work, call)
        self._writes_waiting += 1
        try:
            await self._writers.acquire()
        finally:
            self._writes_waiting -= 1
        try:
            return await self._try(work, call)
        finally:
            self._writers.release()

    async def _try(self, work: Work[T], call: _Call) -> T:
        """Run a call on a connection; again if it had to give way to other transactions."""
        for left in reversed(range(limits.record_attempts_max)):
            try:
                async with self._pool.connection(call) as db:
                    answer = await work(db, call.timeout_ms())
            except Exception as error:
                if left and _runs_again(error, fresh=call.fresh):
                    continue
                ours = store_error(error, phase=call.phase)
                if isinstance(ours, StoreUnavailable):
                    self._breaker.failure()
                else:
                    self._breaker.success()
                raise ours from ours.__cause__
            self._breaker.success()
            return answer
        raise AssertionError
