"""The conformance suite of the record contract: an engine subclasses `RecordSuite` and gives it a store.

Every test names the clause of `sidecar.stores.record` that it holds the engine to.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar import canonical, limits
from sidecar.errors import (
    DeadlineExceeded,
    Erased,
    InvalidField,
    LimitExceeded,
    PolicyNotFound,
    RequestIdReused,
    SessionEnded,
    SessionExpired,
    StandpipeError,
    StoreCorrupt,
    StoreUnavailable,
    SubjectMismatch,
    ToolResultWithoutCall,
    VersionConflict,
    VersionInFuture,
)
from sidecar.finding import Outcome
from sidecar.rebuild import check_chain
from sidecar.stores.record import (
    Appended,
    ChangesRead,
    Checkpoint,
    Claim,
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
    ItemKind,
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
    StoredRoute,
)

T = TypeVar("T")
Reopen = Callable[[], Awaitable[Record]]

RACERS = 32
ROUNDS = 8
MODEL = "minilm"

_fresh = itertools.count(1)

shared_store = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
"""For properties that run against one store: each example takes a tenant of its own."""


class RawRecord(ABC):
    """Ways into a store that bypass the engine."""

    @abstractmethod
    def rows(self) -> Mapping[str, int]:
        """Return how many rows each table has."""

    @abstractmethod
    def damage_event(self, tenant: str, session: str, version: int) -> None:
        """Make a stored event unreadable."""

    @abstractmethod
    def lose_event(self, tenant: str, session: str, version: int) -> None:
        """Delete an event from the log."""

    @abstractmethod
    def set_updated_at(self, tenant: str, session: str, updated_at_us: int) -> None:
        """Pretend that a session's last event was committed at another time."""

    @abstractmethod
    def set_expires_at(self, tenant: str, key: str, expires_at_us: int) -> None:
        """Pretend that a record of state expires at another time."""

    @abstractmethod
    def analyse(self) -> None:
        """Let the store count its rows, if it estimates how many there are."""

    @abstractmethod
    def dump(self) -> str:
        """Return every row of every table as text."""

    @abstractmethod
    def stalled(self, record: Record, event: NewEvent) -> AbstractAsyncContextManager[asyncio.Future[Appended]]:
        """Append an event through a handle, and hold its transaction right before the commit until the block ends."""

    @abstractmethod
    def keys(self) -> Mapping[str, Sequence[str]]:
        """Return the columns of every primary key and index, in order, by name."""


def fresh(what: str) -> str:
    """Return an id that no other test has."""
    return f"{what}-{next(_fresh)}"


def item(text: str, *, entry: int = 0, chunk: int = 0, kind: ItemKind = ItemKind.CHUNK, detail: bytes = b"") -> NewItem:
    """Return a recall item."""
    return NewItem(
        entry=entry,
        chunk=chunk,
        role=1,
        speaker="Ana",
        spoken_at_us=1_700_000_000_000_000,
        text=text,
        terms=text.encode()[::-1],
        tokens={"o200k_base": len(text)},
        kind=kind,
        detail=detail,
    )


def change(text: str, *, entry: int = 0, held: bool = False) -> NewItem:
    """Return the item of a change of memory, with a detail of its own."""
    kind = ItemKind.HELD if held else ItemKind.CHANGE
    return item(text, entry=entry, kind=kind, detail=b"\x00detail of " + text.encode())


def data_key(subject: str = "ana") -> StoredKey:
    """Return a key for a subject, as it is stored."""
    key_id = canonical.sha256((fresh("key"),))[:16]
    return StoredKey(subject=subject, key_id=key_id, wrapped=b"wrapped " + key_id, wrapping="first")


def turn(
    session: str = "s",
    *,
    tenant: str = "acme",
    subject: str = "ana",
    expected: int | None = None,
    texts: Sequence[str] = ("hello",),
    **more: Any,
) -> NewEvent:
    """Return an event to append: one entry a text, and a request id of its own."""
    body = "\n".join(texts).encode()
    values: dict[str, Any] = {
        "request_id": fresh("request"),
        "digest": canonical.sha256((body, subject)),
        "kind": EventKind.TURN,
        "body": body,
        "weight_bytes": len(body),
        "items": [item(text, entry=entry) for entry, text in enumerate(texts)],
    }
    values.update(more)
    return NewEvent(tenant=tenant, session=session, subject=subject, expected_version=expected, **values)


def stored(items: Sequence[NewItem], event: StoredEvent) -> list[StoredItem]:
    """Return what the items of an event must read as."""
    return [
        StoredItem(
            position=position,
            session=event.session,
            version=event.version,
            **{name: getattr(new, name) for name in NewItem.__slots__},
        )
        for position, new in enumerate(items, event.position_end - len(items) + 1)
    ]


async def one(record: Record, read: Any, kind: type[T]) -> T:
    """Fetch one read and return its answer, which must be of a type."""
    (answer,) = await record.fetch([read])
    assert isinstance(answer, kind)
    return answer


async def log(record: Record, session: str = "s", *, tenant: str = "acme") -> list[StoredEvent]:
    """Return all of a session's events."""
    return await one(record, EventsRead(**{**_all_of(session), "tenant": tenant}), list)


async def scope_of(record: Record, subject: str = "ana", *, tenant: str = "acme", **more: Any) -> ScopeState:
    """Return all of a subject's memory."""
    values = {"model": MODEL, **more}
    return await one(record, ScopeRead(tenant=tenant, subject=subject, **values), ScopeState)


async def changes_of(record: Record, subject: str = "ana", *, tenant: str = "acme", **more: Any) -> ScopeState:
    """Return the changes of a subject's memory."""
    return await one(record, ChangesRead(tenant=tenant, subject=subject, **more), ScopeState)


async def held_subjects(record: Record, *, tenant: str = "acme", after: str = "", count_max: int = 99) -> list[str]:
    """Return the subjects some of whose changes wait, or waited, for review."""
    return list(await one(record, HeldRead(tenant=tenant, after_subject=after, count_max=count_max), list))


async def waiting(record: Record, *, model: str = MODEL) -> int:
    """Return how many items wait for their vector."""
    return (await one(record, LagRead(model=model), Lag)).items


async def claim(
    record: Record, *, model: str = MODEL, worker: str = "worker", lease_s: float = 3600, count_max: int = 9
) -> Sequence[Claim]:
    """Claim work orders."""
    return await record.claim(model=model, worker=worker, lease_s=lease_s, count_max=count_max)


async def orders(record: Record, *, model: str = MODEL, count_max: int = 9) -> list[Scope]:
    """Return the work orders that are due, and leave them so."""
    claims = await claim(record, model=model, worker=fresh("looker"), count_max=count_max)
    for held in claims:
        assert not await record.release(held)
    return [held.scope for held in claims]


async def models_of(record: Record) -> Models:
    """Return the models in use, and the one that serves."""
    return await one(record, ModelsRead(), Models)


async def embed(record: Record, *, model: str, mark: bytes) -> None:
    """Give every item that waits for it a vector of a model."""
    for found in await orders(record, model=model, count_max=99):
        vectors = [mark] * (found.position - found.vector_position)
        assert await record.put_vectors(found, model=model, vectors=vectors)


async def park(record: Record, subject: str = "ana", *, model: str = MODEL) -> None:
    """Fail the order of a subject, the only one that is due, until it is parked."""
    for attempt in range(1, limits.work_attempts_max + 1):
        (held,) = await claim(record, model=model)
        assert (held.scope.subject, held.attempts) == (subject, attempt)
        assert await record.release(held, reason="STORE_CORRUPT") == (attempt == limits.work_attempts_max)


async def expired(record: Record) -> Sequence[tuple[str, str]]:
    """Return the sessions whose log is to be removed."""
    return await one(record, ExpiredRead(count_max=99), list)


async def sweep(record: Record, raw: RawRecord, session: str = "s") -> None:
    """Let a session's time pass, and remove its log."""
    raw.set_updated_at("acme", session, 1)
    assert await record.sweep("acme", session)


def emptied(items: Sequence[StoredItem], session: str) -> list[StoredItem]:
    """Return what items must read as when a session's are gone."""
    return [
        replace(item, role=0, speaker="", spoken_at_us=0, text="", terms=b"", detail=b"", gone=True)
        if item.session == session
        else item
        for item in items
    ]


def _all_of(session: str) -> dict[str, Any]:
    return {"tenant": "acme", "session": session, "after_version": 0, "count_max": 1 << 20, "bytes_max": 1 << 30}


async def redact(record: Record, *, session: str = "s", version: int = 1, body: bytes, entries: Sequence[int]) -> None:
    """Redact an event, for the erasure of a session that nobody has."""
    erasure = await record.erase("acme", subject="ana", session="source")
    await record.redact("acme", session=session, version=version, body=body, entries=entries, erasure=erasure)


async def erase(record: Record, subject: str = "ana", *, session: str = "") -> Erasure:
    """Erase a subject or a session to the end, from wherever that is."""
    erasure = await record.erase("acme", subject=subject, session=session)
    while due := await expired(record):
        for tenant, name in due:
            await record.sweep(tenant, name)
            await record.forgotten(tenant, name)
    return await record.finish_erasure(erasure)


async def put(record: Record, *writes: StateWrite, subject: str = "ana", collection: str = "c", **more: Any) -> int:
    """Change records of state."""
    return await record.put_state(more.pop("tenant", "acme"), subject=subject, collection=collection, writes=writes)


async def listed(record: Record, *, subject: str = "ana", collection: str = "c", **more: Any) -> StateFound:
    """Return a page of records, of any size if nothing else is said."""
    values = {"tenant": "acme", "count_max": 1000, "bytes_max": 1 << 30, **more}
    return await one(record, StateList(subject=subject, collection=collection, **values), StateFound)


async def kept(record: Record, *, subject: str = "ana", **more: Any) -> dict[str, tuple[bytes, int]]:
    """Return all records of a subject: collection/key -> (value, revision)."""
    found = await one(
        record,
        StateAll(tenant=more.pop("tenant", "acme"), subject=subject, count_max=1000, bytes_max=1 << 30),
        StateFound,
    )
    return {f"{record.collection}/{record.key}": (record.value, record.revision) for record in found.records}


async def outcomes(*calls: Awaitable[Appended]) -> tuple[list[Appended], list[BaseException]]:
    """Run appends at once and return those that succeeded and the errors of the others."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return (
        [result for result in results if isinstance(result, Appended)],
        [result for result in results if isinstance(result, BaseException)],
    )


class RecordSuite:
    """Subclass it, and override the three fixtures."""

    unfit_checks: frozenset[str] = frozenset()
    """What an examination of the suite's own store finds wrong with it: a server for tests need not be fit to serve."""

    sealed = False
    """Whether what is written cannot be read past the engine."""

    def chained(self, event: StoredEvent, was: StoredEvent) -> StoredEvent:
        """Return a restored event with the hashes of before: what is sealed anew is another body to them."""
        if not self.sealed:
            return event
        assert event.body_hash != was.body_hash
        return replace(event, previous_hash=was.previous_hash, event_hash=was.event_hash, body_hash=was.body_hash)

    @pytest.fixture
    async def record(self) -> Record:
        """An open engine on an empty store."""
        raise NotImplementedError

    @pytest.fixture
    async def reopen(self) -> Reopen:
        """Open one more handle on the same store, as another process would. Closed after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def raw(self) -> RawRecord:
        """What bypasses the engine."""
        raise NotImplementedError

    # --- R1 ---

    async def test_r01_an_append_writes_all_its_parts(self, record: Record, raw: RawRecord) -> None:
        """An append leaves the event, its receipt, its call, its items and its work order (R1, P1)."""
        await orders(record, count_max=1)
        event = turn(texts=["one", "two"], opened_calls=["call"])
        appended = await record.append(event)
        (found,) = await log(record)
        assert (found.body, found.request_id, found.kind) == (event.body, event.request_id, event.kind)
        assert (await scope_of(record)).items == stored(event.items, found)
        assert [scope.position for scope in await orders(record)] == [2]
        assert await record.append(event) == replace(appended, replayed=True)
        rows = raw.rows()
        assert [rows[name] for name in ("events", "items", "tool_calls", "work")] == [1, 2, 1, 1]

    @pytest.mark.parametrize(
        ("refused", "error"),
        [
            (turn(expected=0), VersionConflict),
            (turn(expected=7), VersionInFuture),
            (turn(subject="bob"), SubjectMismatch),
            (turn("other", subject=""), InvalidField),
            (turn(opened_calls=["new", "had"]), InvalidField),
            (turn(opened_calls=["new"], answered_calls=["new", "unknown"]), ToolResultWithoutCall),
            (turn(citations=[("s", 1), ("s", 9)], opened_calls=["new"]), InvalidField),
            (turn("ended"), SessionEnded),
        ],
    )
    async def test_r01_a_refused_append_writes_nothing(
        self, record: Record, raw: RawRecord, refused: NewEvent, error: type[StandpipeError]
    ) -> None:
        """Whatever an append is refused for, not one row of it stays (R1)."""
        await record.append(turn(opened_calls=["had"]))
        await record.append(turn("ended", kind=EventKind.END, texts=()))
        before = raw.rows()
        with pytest.raises(error):
            await record.append(refused)
        assert raw.rows() == before

    async def test_r01_an_append_outlives_its_handle(self, record: Record, reopen: Reopen) -> None:
        """What was acknowledged is there after the engine is gone (R1, P1)."""
        appended = await record.append(turn())
        await record.close()
        head = await one(await reopen(), HeadRead(tenant="acme", session="s"), Head)
        assert (head.version, head.event_hash) == (1, appended.event_hash)

    async def test_r01_cancelling_the_caller_leaves_no_half(self, record: Record, raw: RawRecord) -> None:
        """An append whose caller is cancelled is there whole or not at all, and its retry makes it so (R1)."""
        for _ in range(20):
            event = turn(fresh("s"), texts=["one", "two"])
            task = asyncio.create_task(record.append(event))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await record.append(event)).version == 1
        rows = raw.rows()
        assert (rows["events"], rows["items"]) == (20, 40)

    # --- R2 ---

    @pytest.mark.parametrize("handles", [1, 2])
    async def test_r02_one_winner(self, record: Record, reopen: Reopen, handles: int) -> None:
        """Of 32 concurrent appends at a version, the first included, one wins and names itself (R2, P2)."""
        records = [record] if handles == 1 else [record, await reopen()]
        for version in range(ROUNDS):
            events = [turn(expected=version) for _ in range(RACERS)]
            won, lost = await outcomes(
                *(records[number % handles].append(event) for number, event in enumerate(events))
            )
            assert [appended.version for appended in won] == [version + 1]
            winner = (await log(record))[-1].request_id
            assert winner in {event.request_id for event in events}
            assert len(lost) == RACERS - 1
            for error in lost:
                assert isinstance(error, VersionConflict)
                assert error.metadata == {"current_version": str(version + 1), "winner_request_id": winner}

    async def test_r02_the_winner_is_of_the_expected_version(self, record: Record) -> None:
        """A conflict far behind names the event right after the expected version, not the latest (R2)."""
        events = [turn() for _ in range(4)]
        for event in events:
            await record.append(event)
        with pytest.raises(VersionConflict) as caught:
            await record.append(turn(expected=1))
        assert caught.value.metadata == {"current_version": "4", "winner_request_id": events[1].request_id}

    async def test_r02_a_version_ahead(self, record: Record) -> None:
        """A version that the log has not reached is in the future, of an unknown session too (R2)."""
        for current in (0, 1):
            with pytest.raises(VersionInFuture) as caught:
                await record.append(turn(expected=current + 1))
            assert caught.value.metadata == {"current_version": str(current)}
            await record.append(turn(expected=current))

    # --- R3 ---

    @pytest.mark.parametrize("handles", [1, 2])
    async def test_r03_any_version(self, record: Record, reopen: Reopen, handles: int) -> None:
        """Appends without an expected version all succeed, one behind the other (R3)."""
        records = [record] if handles == 1 else [record, await reopen()]
        won, lost = await outcomes(*(records[number % handles].append(turn()) for number in range(4 * RACERS)))
        assert not lost
        assert sorted(appended.version for appended in won) == list(range(1, 4 * RACERS + 1))

    # --- R4 ---

    async def test_r04_a_retry_returns_the_first_result(self, record: Record, raw: RawRecord) -> None:
        """The same request again gives the same answer and writes nothing, at any later version (R4, P3)."""
        event = turn(expected=0, opened_calls=["call"], answered_calls=["call"])
        first = await record.append(event)
        assert not first.replayed
        await record.append(turn(texts=["later"]))
        await record.append(turn(kind=EventKind.END, texts=()))
        before = raw.rows()
        for again in (event, replace(event, expected_version=9), replace(event, expected_version=None)):
            assert await record.append(again) == replace(first, replayed=True)
        assert await record.append(replace(event, subject="bob", citations=[("no", 1)])) == replace(
            first, replayed=True
        )
        assert raw.rows() == before

    async def test_r04_another_body_is_a_reuse(self, record: Record) -> None:
        """The request id with another digest is refused before the version, end and subject are looked at (R4)."""
        event = turn(expected=0)
        await record.append(event)
        await record.append(turn(kind=EventKind.END, texts=()))
        for version in (0, 1, 2, 9, None):
            with pytest.raises(RequestIdReused):
                await record.append(
                    replace(event, digest=bytes(32), expected_version=version, subject="bob", answered_calls=["no"])
                )

    async def test_r04_request_ids_are_a_sessions_own(self, record: Record) -> None:
        """Two sessions may use the same request id (R4)."""
        for session in ("one", "two"):
            appended = await record.append(turn(session, request_id="same", texts=[session]))
            assert (appended.version, appended.replayed) == (1, False)

    @pytest.mark.parametrize("handles", [1, 2])
    async def test_r04_concurrent_retries_write_once(
        self, record: Record, reopen: Reopen, raw: RawRecord, handles: int
    ) -> None:
        """Of 32 copies of one request in flight one writes, and all get its answer (R4, P3)."""
        records = [record] if handles == 1 else [record, await reopen()]
        for version in range(ROUNDS):
            event = turn(expected=version)
            won, lost = await outcomes(*(records[number % handles].append(event) for number in range(RACERS)))
            assert not lost
            assert sum(not appended.replayed for appended in won) == 1
            assert {replace(appended, replayed=True) for appended in won} == {replace(won[0], replayed=True)}
        assert raw.rows()["events"] == ROUNDS

    # --- R5 ---

    async def test_r05_the_log_is_a_chain(self, record: Record) -> None:
        """Versions have no gaps, and each hash is over the hash before it (R5)."""
        for number in range(5):
            await record.append(turn(texts=[f"text {number}"]))
        previous = canonical.NO_HASH
        for version, event in enumerate(await log(record), 1):
            assert (event.version, event.previous_hash) == (version, previous)
            previous = canonical.event_hash(
                previous,
                tenant="acme",
                session="s",
                version=version,
                kind=event.kind,
                request_id=event.request_id,
                committed_at_us=event.committed_at_us,
                body=event.body,
                body_hash=event.body_hash,
            )
            assert event.event_hash == previous
        head = await one(record, HeadRead(tenant="acme", session="s"), Head)
        assert (head.version, head.event_hash) == (5, previous)

    async def test_r05_a_sessions_time_never_runs_back(self, record: Record, raw: RawRecord) -> None:
        """A server clock that is behind the log commits at the log's time; else it is the time in UTC (R5)."""
        appended = await record.append(turn())
        assert abs(appended.committed_at_us - time.time_ns() // 1000) < 60_000_000
        ahead_us = appended.committed_at_us + 3_600_000_000
        raw.set_updated_at("acme", "s", ahead_us)
        assert (await record.append(turn())).committed_at_us == ahead_us

    # --- R6 ---

    async def test_r06_positions_have_no_gaps(self, record: Record) -> None:
        """A subject's items are numbered from 1 over all its sessions, events without items too (R6)."""
        texts = [["a", "b"], ["c"], [], ["d", "e", "f"]]
        ends = [(await record.append(turn(f"s{number % 2}", texts=said))).position for number, said in enumerate(texts)]
        assert ends == [2, 3, 3, 6]
        memory = await scope_of(record)
        assert [(item.position, item.text) for item in memory.items] == list(enumerate("abcdef", 1))

    async def test_r06_a_reader_misses_nothing(self, record: Record, reopen: Reopen) -> None:
        """A reader that goes on from its last position sees each item once, while two handles append (R6)."""
        other = await reopen()
        writes = [
            asyncio.ensure_future(
                (record, other)[number % 2].append(turn(f"s{number % 7}", texts=["x"] * (number % 4)))
            )
            for number in range(120)
        ]
        seen: list[int] = []
        while True:
            done = all(write.done() for write in writes)
            gain = await scope_of(other, after_position=len(seen))
            seen += [item.position for item in gain.items]
            assert gain.position == len(seen)
            if done:
                break
        await asyncio.gather(*writes)
        assert seen == list(range(1, sum(number % 4 for number in range(120)) + 1))

    async def test_r06_a_late_commit_is_not_missed(self, record: Record, reopen: Reopen, raw: RawRecord) -> None:
        """While an append is about to commit, a worker and what comes behind leave its place to it (R6, R13, P9)."""

        async def work() -> list[bytes]:
            done = 0
            while done < 2:
                memory = await scope_of(record)
                assert [item.position for item in memory.items] == list(range(1, memory.position + 1))
                scope = Scope(tenant="acme", subject="ana", position=memory.position, vector_position=done)
                texts = [item.text.encode() for item in memory.items[done:]]
                if texts and await record.put_vectors(scope, model=MODEL, vectors=texts):
                    done += len(texts)
                await asyncio.sleep(0.005)
            return list((await scope_of(record)).vectors)

        async with raw.stalled(await reopen(), turn("late", texts=["late"])) as late:
            worker = asyncio.ensure_future(work())
            soon = asyncio.ensure_future(record.append(turn("soon", texts=["soon"])))
            await asyncio.sleep(0.2)
        assert [(await append).position for append in (late, soon)] == [1, 2]
        assert await worker == [b"late", b"soon"]

    # --- R7 ---

    async def test_r07_a_session_keeps_its_subject(self, record: Record) -> None:
        """The first append names the subject; later ones name it or none, never another (R7)."""
        with pytest.raises(InvalidField) as caught:
            await record.append(turn(subject=""))
        assert caught.value.field == "subject_id"
        assert (await record.append(turn(subject="ana"))).subject == "ana"
        assert (await record.append(turn(subject=""))).subject == "ana"
        with pytest.raises(SubjectMismatch):
            await record.append(turn(subject="bob"))

    # --- R8 ---

    async def test_r08_an_ended_session_takes_no_more(self, record: Record) -> None:
        """After the end every append is refused, a second end too; a stale version is still a conflict (R8)."""
        await record.append(turn())
        await record.append(turn(kind=EventKind.END, texts=()))
        assert (await one(record, HeadRead(tenant="acme", session="s"), Head)).ended
        for expected in (None, 2):
            for kind in EventKind:
                with pytest.raises(SessionEnded):
                    await record.append(turn(kind=kind, expected=expected))
        with pytest.raises(VersionConflict):
            await record.append(turn(expected=1))

    # --- R9 ---

    async def test_r09_a_result_needs_its_call(self, record: Record) -> None:
        """A call is answered once, in its own turn or a later one; anything else has no call (R9)."""
        await record.append(turn(opened_calls=["a", "b"], answered_calls=["a"]))
        await record.append(turn(answered_calls=["b"]))
        for answered in (["a"], ["b"], ["unknown"]):
            with pytest.raises(ToolResultWithoutCall):
                await record.append(turn(answered_calls=answered))
        with pytest.raises(ToolResultWithoutCall):
            await record.append(turn(opened_calls=["c"], answered_calls=["c", "c"]))
        with pytest.raises(ToolResultWithoutCall):
            await record.append(turn("other", answered_calls=["a"]))

    async def test_r09_a_call_id_is_used_once(self, record: Record) -> None:
        """A call id that the session has had, answered or not, is refused; another session may use it (R9)."""
        await record.append(turn(opened_calls=["a", "b"], answered_calls=["a"]))
        for opened in (["a"], ["b"], ["c", "c"]):
            with pytest.raises(InvalidField):
                await record.append(turn(opened_calls=opened))
        await record.append(turn("other", opened_calls=["a"]))

    # --- R10 ---

    async def test_r10_citations_exist(self, record: Record) -> None:
        """A citation names an event of the tenant that is already there (R10, P10)."""
        await record.append(turn("old"))
        await record.append(turn("new", citations=[("old", 1)]))
        await record.append(turn("old", tenant="rival"))
        for citation in (("old", 2), ("old", 0), ("none", 1), ("new", 2)):
            with pytest.raises(InvalidField):
                await record.append(turn("new", citations=[("old", 1), citation]))
        with pytest.raises(InvalidField):
            await record.append(turn("old", tenant="rival", citations=[("new", 1)]))

    # --- R11 ---

    async def test_r11_answers_keep_length_and_order(self, record: Record) -> None:
        """Any mix of reads is answered one by one, in order, and what is not there is None (R11)."""
        await record.append(turn())
        there = HeadRead(tenant="acme", session="s")
        reads: list[Read] = [
            there,
            HeadRead(tenant="acme", session="none"),
            SessionRead(tenant="acme", session="none", tokenizer="o200k_base"),
            EventsRead(tenant="acme", session="none", after_version=0, count_max=9, bytes_max=9),
            SessionsRead(tenant="acme", subject="none", after_session="", count_max=9),
            ScopeRead(tenant="acme", subject="none", model=MODEL),
            HeldRead(tenant="acme", after_subject="", count_max=9),
            PolicyRead(tenant="acme", name="none"),
            PolicyRead(tenant="acme", name="none", version=3),
            PoliciesRead(tenant="acme"),
            RouteRead(tenant="acme", name="none"),
            RoutesRead(tenant="acme"),
            ParkedRead(),
            LagRead(model=MODEL),
            there,
        ]
        head, *middle, lag, same = await record.fetch(reads)
        assert isinstance(head, Head)
        assert head == same
        nothing = ScopeState(position=0, vector_position=0, items=[], vectors=[])
        assert middle == [None, None, None, [], nothing, [], None, None, [], None, [], []]
        assert isinstance(lag, Lag)
        assert lag.items == 1
        assert await record.fetch([]) == []

    async def test_r11_a_batch_sees_one_snapshot(self, record: Record, reopen: Reopen) -> None:
        """Two reads of one batch never disagree, while another handle appends (R11)."""
        other = await reopen()
        await record.append(turn())
        writing = asyncio.gather(*(other.append(turn()) for _ in range(200)))
        read = HeadRead(tenant="acme", session="s")
        while not writing.done():
            first, memory, last = await record.fetch([read, ScopeRead(tenant="acme", subject="ana", model=""), read])
            assert first == last
            assert isinstance(first, Head)
            assert isinstance(memory, ScopeState)
            assert first.version == memory.position
        await writing

    async def test_r11_session_read_of_a_known_version(self, record: Record) -> None:
        """A view that is current gets no events, one behind gets those after it, one too far back all (R11)."""
        for _ in range(5):
            await record.append(turn(weight_bytes=10))
        read = SessionRead(tenant="acme", session="s", tokenizer="o", window_bytes=20)
        expected = {5: (5, []), 4: (4, [5]), 3: (3, [4, 5]), 2: (0, [1, 2, 3, 4, 5]), 6: (0, [1, 2, 3, 4, 5])}
        for known, (after, versions) in expected.items():
            state = await one(record, replace(read, known_version=known), SessionState)
            assert (state.after_version, [event.version for event in state.events]) == (after, versions)
            assert state.checkpoint is None
            assert state.head.version == 5

    @shared_store
    @given(data=st.data())
    async def test_r11_session_read_follows_its_docstring(self, record: Record, data: st.DataObject) -> None:
        """For any weights, checkpoints, known and asked version and window, the read is what is written (R11)."""
        tenant = fresh("tenant")
        weights = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=8))
        ends = list(itertools.accumulate(weights, initial=0))
        for weight in weights:
            await record.append(turn(tenant=tenant, weight_bytes=weight))
        checkpoints = data.draw(st.sets(st.integers(1, len(weights))))
        for version in checkpoints:
            for tokenizer in ("o", "other"):
                new = Checkpoint(
                    session="s", tokenizer=tokenizer, version=version, weight_bytes=ends[version], body=b"fold"
                )
                await record.put_checkpoint(tenant, new)
        for _ in range(5):
            known = data.draw(st.integers(0, len(weights) + 1))
            at = data.draw(st.none() | st.integers(0, len(weights) + 1))
            window = data.draw(st.integers(0, 100))
            read = SessionRead(
                tenant=tenant, session="s", tokenizer="o", known_version=known, at_version=at, window_bytes=window
            )
            state = await one(record, read, SessionState)
            end = len(weights) if at is None else min(at, len(weights))
            if known == end or (0 < known < end and ends[end] - ends[known] <= window):
                after, checkpoint = known, None
            else:
                fits = [version for version in checkpoints if version <= end and ends[version] <= ends[end] - window]
                after = checkpoint = max(fits, default=0)
            assert state.after_version == after
            assert (state.checkpoint.version if state.checkpoint else 0) == (checkpoint or 0)
            assert [event.version for event in state.events] == list(range(after + 1, end + 1))
            assert state.head.version == len(weights)

    @shared_store
    @given(data=st.data())
    async def test_r11_pages_of_events(self, record: Record, data: st.DataObject) -> None:
        """A page stops before the event that exceeds its bytes, gives at least one, and pages join (R11)."""
        tenant = fresh("tenant")
        sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=8))
        for size in sizes:
            await record.append(turn(tenant=tenant, body=b"x" * size))
        count_max, bytes_max = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 60))
        seen = 0
        while True:
            read = EventsRead(tenant=tenant, session="s", after_version=seen, count_max=count_max, bytes_max=bytes_max)
            page = await one(record, read, list)
            expected = 0
            for count in range(1, min(count_max, len(sizes) - seen) + 1):
                if count == 1 or sum(sizes[seen : seen + count]) <= bytes_max:
                    expected = count
                else:
                    break
            assert [event.version for event in page] == list(range(seen + 1, seen + expected + 1))
            seen += expected
            if not page:
                break
        assert seen == len(sizes)

    async def test_r11_pages_of_sessions(self, record: Record) -> None:
        """Sessions are listed by id, of a subject or of all, in pages that join (R11)."""
        for number in (3, 1, 2, 0):
            await record.append(turn(f"s{number}", subject="ana" if number % 2 else "bob"))

        async def page(subject: str, after: str) -> list[str]:
            read = SessionsRead(tenant="acme", subject=subject, after_session=after, count_max=2)
            return [head.session for head in await one(record, read, list)]

        assert await page("", "") == ["s0", "s1"]
        assert await page("", "s1") == ["s2", "s3"]
        assert await page("ana", "") == ["s1", "s3"]
        assert await page("ana", "s1") == ["s3"]
        assert await page("none", "") == []

    async def test_r11_a_head_says_where_its_session_stands(self, record: Record) -> None:
        """A head adds up its events: weight, positions, times (R11)."""
        first = await record.append(turn(weight_bytes=10))
        await record.append(turn("other", texts=["x", "y"]))
        last = await record.append(turn(weight_bytes=32, texts=["a", "b"]))
        head = await one(record, HeadRead(tenant="acme", session="s"), Head)
        assert head == Head(
            session="s",
            subject="ana",
            version=2,
            event_hash=last.event_hash,
            ended=False,
            weight_bytes=42,
            position_end=5,
            created_at_us=first.committed_at_us,
            updated_at_us=last.committed_at_us,
        )
        assert [(event.weight_end_bytes, event.position_end) for event in await log(record)] == [(10, 1), (42, 5)]

    # --- R12 ---

    async def test_r12_read_your_writes_from_anywhere(self, record: Record, reopen: Reopen) -> None:
        """A fetch that begins after an acknowledgement sees it, through this handle and another (R12, P4)."""
        other = await reopen()
        for version in range(1, 40):
            await (record, other)[version % 2].append(turn(expected=version - 1))
            for handle in (record, other):
                assert (await one(handle, HeadRead(tenant="acme", session="s"), Head)).version == version

    # --- R13 ---

    async def test_r13_vectors_go_in_order(self, record: Record) -> None:
        """Vectors continue right behind the last one, or nothing is written (R13)."""
        await record.append(turn(texts=["a", "b", "c"]))
        scope = Scope(tenant="acme", subject="ana", position=3, vector_position=0)
        assert await record.put_vectors(scope, model=MODEL, vectors=[b"1", b"2"])
        assert not await record.put_vectors(scope, model=MODEL, vectors=[b"1", b"2"])
        assert not await record.put_vectors(replace(scope, vector_position=3), model=MODEL, vectors=[b"4"])
        memory = await scope_of(record)
        assert (memory.position, memory.vector_position, memory.vectors) == (3, 2, [b"1", b"2"])
        assert await record.put_vectors(replace(scope, vector_position=2), model=MODEL, vectors=[b"3"])
        assert (await scope_of(record, after_vector_position=1)).vectors == [b"2", b"3"]
        assert (await scope_of(record, after_vector_position=1, count_max=1)).vectors == [b"2"]

    async def test_r13_no_vector_without_its_item(self, record: Record) -> None:
        """Vectors beyond the last item are not taken: the worker read another state (R13)."""
        await record.append(turn())
        scope = Scope(tenant="acme", subject="ana", position=2, vector_position=0)
        assert not await record.put_vectors(scope, model=MODEL, vectors=[b"1", b"2"])
        assert not await record.put_vectors(replace(scope, subject="bob"), model=MODEL, vectors=[b"1"])
        assert (await scope_of(record)).vector_position == 0

    async def test_r13_models_are_apart(self, record: Record) -> None:
        """Each model has vectors of its own, and none are read without a model (R13)."""
        await record.append(turn())
        scope = Scope(tenant="acme", subject="ana", position=1, vector_position=0)
        for model in (MODEL, "other"):
            assert await record.put_vectors(scope, model=model, vectors=[model.encode()])
        assert (await scope_of(record, model="other")).vectors == [b"other"]
        nothing = await scope_of(record, model="")
        assert (nothing.vector_position, nothing.vectors) == (0, [])

    @pytest.mark.parametrize("handles", [1, 2])
    async def test_r13_an_effect_happens_once(self, record: Record, reopen: Reopen, handles: int) -> None:
        """Of 32 workers that embed the same items one writes them (R13)."""
        records = [record] if handles == 1 else [record, await reopen()]
        for position in range(ROUNDS):
            await record.append(turn())
            scope = Scope(tenant="acme", subject="ana", position=position + 1, vector_position=position)
            put = await asyncio.gather(
                *(
                    records[number % handles].put_vectors(scope, model=MODEL, vectors=[b"%d" % number])
                    for number in range(RACERS)
                )
            )
            assert sum(put) == 1
            assert (await scope_of(record)).vectors[position:] == [b"%d" % put.index(True)]

    # --- R14 ---

    async def test_r14_the_oldest_order_is_the_first(self, record: Record) -> None:
        """Subjects wait in the order of their oldest item without a vector, and leave when they have all (R14)."""
        for subject in ("a", "b", "a", "c"):
            await record.append(turn(fresh("s"), subject=subject, texts=["x", "y"]))
            await asyncio.sleep(0.001)

        async def due(count_max: int = 9) -> list[tuple[str, int, int]]:
            scopes = await orders(record, count_max=count_max)
            behind = sum(scope.position - scope.vector_position for scope in await orders(record))
            assert await waiting(record) == behind
            return [(scope.subject, scope.position, scope.vector_position) for scope in scopes]

        assert await due() == [("a", 4, 0), ("b", 2, 0), ("c", 2, 0)]
        assert await due(1) == [("a", 4, 0)]
        (first,) = await orders(record, count_max=1)
        assert await record.put_vectors(first, model=MODEL, vectors=[b"1", b"2"])
        assert await due() == [("b", 2, 0), ("a", 4, 2), ("c", 2, 0)]
        for scope in await orders(record):
            count = scope.position - scope.vector_position
            assert await record.put_vectors(scope, model=MODEL, vectors=[b"v"] * count)
        assert await due() == []
        await record.append(turn(fresh("s"), subject="b"))
        assert await due() == [("b", 3, 2)]

    async def test_r14_an_order_has_one_holder(self, record: Record, reopen: Reopen) -> None:
        """Of 32 workers through two handles each order goes to one, and comes back when its lease has passed (R14)."""
        for number in range(6):
            await record.append(turn(fresh("s"), subject=f"subject-{number}"))
        records = [record, await reopen()]
        claimed = await asyncio.gather(
            *(claim(records[number % 2], worker=f"worker-{number}", count_max=2) for number in range(RACERS))
        )
        assert sorted(len(claims) for claims in claimed) == [0] * 29 + [2] * 3
        assert len({held.scope.subject for claims in claimed for held in claims}) == 6
        assert await claim(record) == []
        await record.append(turn(fresh("s"), subject="subject-6"))
        (short,) = await claim(record, lease_s=0)
        (again,) = await claim(record, worker="another")
        assert (again.scope, again.worker, again.attempts) == (short.scope, "another", 2)

    async def test_r14_vectors_end_a_claim(self, record: Record) -> None:
        """A put that succeeds frees its order, whoever holds it, and what is left of it is due at once (R14)."""
        await record.append(turn(texts=["a", "b", "c"]))
        (held,) = await claim(record)
        assert await record.put_vectors(held.scope, model=MODEL, vectors=[b"1"])
        (rest,) = await claim(record, worker="another")
        assert (rest.scope.vector_position, rest.attempts) == (1, 1)
        assert not await record.put_vectors(held.scope, model=MODEL, vectors=[b"1"])
        assert await claim(record) == []
        late = replace(held.scope, vector_position=1)
        assert await record.put_vectors(late, model=MODEL, vectors=[b"2", b"3"])
        assert not await record.release(rest, reason="INTERNAL")
        assert await waiting(record) == 0
        await record.append(turn())
        (new,) = await claim(record)
        assert new.attempts == 1

    async def test_r14_the_lag_has_an_age(self, record: Record) -> None:
        """The lag counts items, and its age is that of the oldest, before a model is in use and after (R14)."""
        assert await one(record, LagRead(model=MODEL), Lag) == Lag(items=0, age_s=0, parked=0)
        await record.append(turn(texts=["a", "b"]))
        await asyncio.sleep(0.01)
        for _ in range(2):
            lag = await one(record, LagRead(model=MODEL), Lag)
            assert (lag.items, lag.parked) == (2, 0)
            assert 0.01 <= lag.age_s < 60
            (held,) = await claim(record, lease_s=0)
        assert await record.put_vectors(held.scope, model=MODEL, vectors=[b"1", b"2"])
        assert await one(record, LagRead(model=MODEL), Lag) == Lag(items=0, age_s=0, parked=0)

    async def test_r14_every_model_has_its_own_lag(self, record: Record, reopen: Reopen) -> None:
        """A model that comes into use later, through any handle, lags behind all that is there (R14)."""
        await record.append(turn(texts=["a", "b"]))
        (scope,) = await orders(record)
        assert await record.put_vectors(scope, model=MODEL, vectors=[b"1", b"2"])
        assert [await waiting(record), await waiting(record, model="newer")] == [0, 2]
        other = await reopen()
        assert await orders(other, model="newer") == [scope]
        await record.append(turn())
        assert [found.position for found in await orders(record)] == [3]
        assert [await waiting(other), await waiting(other, model="newer")] == [1, 3]

    # --- R15 ---

    async def _fill(self, record: Record) -> list[tuple[str, StoredEvent, Sequence[NewItem]]]:
        """Append to three sessions of two subjects, embed and fold; return each event with its items."""
        made = []
        for number in range(9):
            event = turn(f"s{number % 3}", subject="bob" if number % 3 == 2 else "ana", texts=["x"] * (number % 4))
            await record.append(event)
            found = (await log(record, event.session))[-1]
            made.append((event.subject, found, event.items))
        for scope in await orders(record):
            await record.put_vectors(scope, model=MODEL, vectors=[b"v"] * scope.position)
        fold = Checkpoint(session="s0", tokenizer="o", version=1, weight_bytes=0, body=b"fold")
        await record.put_checkpoint("acme", fold)
        await record.append(turn("s0", texts=(), opened_calls=["call"]))
        return made

    async def test_r15_drop_removes_the_derived_alone(self, record: Record, raw: RawRecord) -> None:
        """Dropping takes items, vectors, checkpoints and work, and leaves the log as it was (R15, P9)."""
        await self._fill(record)
        logs = [await log(record, f"s{number}") for number in range(3)]
        before = raw.rows()
        await record.drop_derived()
        derived = {"items", "vectors", "checkpoints", "work"}
        assert raw.rows() == {name: 0 if name in derived else count for name, count in before.items()}
        assert [await log(record, f"s{number}") for number in range(3)] == logs
        assert await scope_of(record) == ScopeState(position=0, vector_position=0, items=[], vectors=[])
        assert await orders(record) == []
        state = await one(record, SessionRead(tenant="acme", session="s0", tokenizer="o"), SessionState)
        assert (state.checkpoint, len(state.events)) == (None, 4)
        with pytest.raises(InvalidField):
            await record.append(turn("s0", opened_calls=["call"]))

    @pytest.mark.parametrize("order", ["sessions", "commits", "backwards", "twice"])
    async def test_r15_a_rebuilt_scope_equals_the_old_one(self, record: Record, order: str) -> None:
        """Items come back at their positions whatever the order, while appends go on; readers see no gap (R15)."""
        made = await self._fill(record)
        before = {subject: await scope_of(record, subject) for subject in ("ana", "bob")}
        await record.drop_derived()
        appended = await record.append(turn("s0", texts=["meanwhile"]))
        assert appended.position == before["ana"].position + 1
        if order == "sessions":
            made.sort(key=lambda one: (one[1].session, one[1].version))
        elif order == "backwards":
            made.reverse()
        elif order == "twice":
            made += made[:5]
        for subject, event, items in made:
            await record.restore_items("acme", subject=subject, event=event, items=items)
            for name in before:
                memory = await scope_of(record, name)
                assert [item.position for item in memory.items] == list(range(1, memory.position + 1))
        for subject, old in before.items():
            memory = await scope_of(record, subject)
            assert memory.items[: old.position] == old.items
            assert memory.vector_position == 0
        assert (await scope_of(record)).items[-1].text == "meanwhile"
        lagging = await orders(record)
        assert {scope.subject: scope.position for scope in lagging} == {
            "ana": appended.position,
            "bob": before["bob"].position,
        }

    async def test_r15_restoring_what_is_there_changes_nothing(self, record: Record, raw: RawRecord) -> None:
        """A rebuild that is run again writes nothing and orders no work (R15)."""
        made = await self._fill(record)
        before = raw.rows()
        for subject, event, items in made:
            await record.restore_items("acme", subject=subject, event=event, items=items)
        assert raw.rows() == before

    async def test_r15_another_number_of_items_is_refused(self, record: Record) -> None:
        """Items that would not fill the event's own positions are refused (R15)."""
        await record.append(turn(texts=["a", "b"]))
        (event,) = await log(record)
        await record.drop_derived()
        for items in ([item("a")], [item("a")] * 3):
            with pytest.raises(InvalidField):
                await record.restore_items("acme", subject="ana", event=event, items=items)
        assert (await scope_of(record)).position == 0

    async def test_r15_all_sessions_are_listed(self, record: Record) -> None:
        """Rebuild walks the sessions of every tenant by (tenant, session), in pages that join (R15)."""
        for tenant, session in (("b", "1"), ("a", "2"), ("a", "1"), ("c", "0")):
            await record.append(turn(session, tenant=tenant))
        seen: list[tuple[str, str]] = []
        while page := await record.sessions_all(after=seen[-1] if seen else ("", ""), count_max=3):
            seen += [(tenant, head.session) for tenant, head in page]
        assert seen == [("a", "1"), ("a", "2"), ("b", "1"), ("c", "0")]

    # --- R16 ---

    async def test_r16_policy_versions_are_immutable(self, record: Record, raw: RawRecord) -> None:
        """The latest content again is the same version; other content, an older one's too, is the next (R16)."""

        async def publish(document: str) -> tuple[int, bool]:
            digest = canonical.sha256((document,))
            policy, new = await record.publish_policy("acme", name="p", document=document, digest=digest)
            assert (policy.document, policy.digest, policy.name) == (document, digest, "p")
            return policy.version, new

        published = [await publish(document) for document in ("one", "one", "two", "one")]
        assert published == [(1, True), (1, False), (2, True), (3, True)]
        assert raw.rows()["policies"] == 3
        latest, second, none = await record.fetch(
            [PolicyRead(tenant="acme", name="p", version=version) for version in (None, 2, 4)]
        )
        assert [getattr(policy, "document", None) for policy in (latest, second, none)] == ["one", "two", None]

    async def test_r16_concurrent_publishing_makes_one_version(self, record: Record, reopen: Reopen) -> None:
        """32 publishers of one content through two handles make one version (R16)."""
        handles = [record, await reopen()]
        published = await asyncio.gather(
            *(
                handles[number % 2].publish_policy("acme", name="p", document="one", digest=bytes(32))
                for number in range(RACERS)
            )
        )
        assert {policy.version for policy, _ in published} == {1}
        assert sum(new for _, new in published) == 1

    async def test_r16_policies_are_listed(self, record: Record) -> None:
        """Versions are listed by (name, version), in pages that join (R16)."""
        for name in ("b", "a", "b"):
            await record.publish_policy("acme", name=name, document=name, digest=canonical.sha256((fresh("d"),)))
        seen: list[tuple[str, int]] = []
        while page := await one(
            record, PoliciesRead(tenant="acme", after=seen[-1] if seen else ("", 0), count_max=2), list
        ):
            seen += [(policy.name, policy.version) for policy in page]
        assert seen == [("a", 1), ("b", 1), ("b", 2)]

    async def test_r16_a_route_needs_its_version(self, record: Record) -> None:
        """A route points at a version that exists, or at the built-in default, and moves (R16)."""
        await record.publish_policy("acme", name="p", document="one", digest=bytes(32))
        await record.publish_policy("rival", name="q", document="one", digest=bytes(32))
        routes = [
            StoredRoute(name="b", policy_name="p", policy_version=1),
            StoredRoute(name="a", policy_name="default", policy_version=0),
        ]
        for route in routes:
            await record.set_route("acme", route)
        for name, version in (("p", 2), ("p", 0), ("q", 1), ("default", 1)):
            with pytest.raises(PolicyNotFound):
                await record.set_route("acme", StoredRoute(name="b", policy_name=name, policy_version=version))
        assert await record.fetch([RoutesRead(tenant="acme"), RouteRead(tenant="acme", name="b")]) == [
            [routes[1], routes[0]],
            routes[0],
        ]
        await record.set_route("acme", replace(routes[1], name="b"))
        assert await record.fetch([RouteRead(tenant="acme", name="b")]) == [replace(routes[1], name="b")]

    # --- R17 ---

    async def test_r17_tenants_never_meet(self, record: Record) -> None:
        """Two tenants with the same ids everywhere each see their own, in every read (R17, P8)."""
        for tenant in ("acme", "rival"):
            await record.append(turn(tenant=tenant, texts=[tenant], request_id="same"))
            scope = Scope(tenant=tenant, subject="ana", position=1, vector_position=0)
            assert await record.put_vectors(scope, model=MODEL, vectors=[tenant.encode()])
            fold = Checkpoint(session="s", tokenizer="o", version=1, weight_bytes=0, body=tenant.encode())
            await record.put_checkpoint(tenant, fold)
            await record.publish_policy(tenant, name="p", document=tenant, digest=canonical.sha256((tenant,)))
            await record.set_route(tenant, StoredRoute(name="r", policy_name="p", policy_version=1))
        await record.append(turn("private", tenant="rival", subject="eve"))
        await record.set_route("rival", StoredRoute(name="private", policy_name="p", policy_version=1))
        for tenant in ("acme", "rival"):
            (event,) = await log(record, tenant=tenant)
            memory = await scope_of(record, tenant=tenant)
            assert (event.body, memory.items[0].text, memory.vectors) == (
                tenant.encode(),
                tenant,
                [tenant.encode()],
            )
            state = await one(record, SessionRead(tenant=tenant, session="s", tokenizer="o"), SessionState)
            assert state.checkpoint is not None
            assert state.checkpoint.body == tenant.encode()
            policies = await one(record, PoliciesRead(tenant=tenant), list)
            assert [policy.document for policy in policies] == [tenant]
        private: list[Read] = [
            HeadRead(tenant="acme", session="private"),
            RouteRead(tenant="acme", name="private"),
            EventsRead(tenant="acme", session="private", after_version=0, count_max=9, bytes_max=99),
        ]
        assert await record.fetch(private) == [None, None, None]
        assert (await scope_of(record, "eve")).items == []
        heads = await one(record, SessionsRead(tenant="acme", subject="", after_session="", count_max=9), list)
        assert [head.session for head in heads] == ["s"]
        assert len(await one(record, RoutesRead(tenant="acme"), list)) == 1

    async def test_r17_every_key_leads_with_the_tenant(self, record: Record, raw: RawRecord) -> None:
        """No key or index of a tenant's rows leads with anything else, but those of the queues (R17)."""
        leads = {name: columns[0] for name, columns in raw.keys().items() if "tenant" in columns}
        assert leads.pop("work_by_age") == "model"
        leads.pop("sessions_by_expiry")
        assert leads.pop("state_by_expiry") == "expires_at_us"
        assert leads.pop("erasures_at_work") == "asked_at_us"
        assert len(leads) > 9
        assert set(leads.values()) == {"tenant"}

    # --- R18 ---

    async def test_r18_a_row_that_cannot_be_read(self, record: Record, raw: RawRecord) -> None:
        """A damaged or lost event is reported as such, and other sessions are not harmed (R18)."""
        for session in ("damaged", "lost", "whole"):
            for _ in range(3):
                await record.append(turn(session))
        raw.damage_event("acme", "damaged", 2)
        raw.lose_event("acme", "lost", 2)
        for session in ("damaged", "lost"):
            with pytest.raises(StoreCorrupt):
                await record.fetch([SessionRead(tenant="acme", session=session, tokenizer="o")])
        await record.fetch([SessionRead(tenant="acme", session="whole", tokenizer="o")])

    async def test_r18_a_deadline_that_has_passed(self, record: Record, raw: RawRecord) -> None:
        """A call whose deadline is over does nothing, and says which wait it was (R18, P12)."""
        past = time.monotonic() - 1
        with pytest.raises(DeadlineExceeded) as caught:
            await record.fetch([HeadRead(tenant="acme", session="s")], deadline=past)
        assert caught.value.metadata == {"phase": "record_fetch"}
        with pytest.raises(DeadlineExceeded) as caught:
            await record.append(turn(), deadline=past)
        assert caught.value.metadata == {"phase": "record_append"}
        assert raw.rows()["events"] == 0
        await record.append(turn(), deadline=time.monotonic() + 60)

    async def test_r18_a_closed_store_is_unavailable(self, record: Record) -> None:
        """Close finishes the appends at work, can be called twice, and every later call is refused (R18)."""
        appends = [asyncio.ensure_future(record.append(turn())) for _ in range(100)]
        await asyncio.sleep(0)
        await record.close()
        await record.close()
        assert sorted(appended.version for appended in await asyncio.gather(*appends)) == list(range(1, 101))
        for call in (record.append(turn()), record.fetch([]), record.drop_derived()):
            with pytest.raises(StoreUnavailable):
                await call

    async def test_r18_the_signing_key_stays(self, record: Record, reopen: Reopen) -> None:
        """The deployment's key is made once, and every handle has the same (R18)."""
        key = await record.signing_key()
        assert len(key) == 32
        assert key == await (await reopen()).signing_key()

    # --- R19 ---

    async def test_r19_a_checkpoint_is_written_once(self, record: Record, raw: RawRecord) -> None:
        """The same (session, tokenizer, version) again changes nothing (R19)."""
        await record.append(turn())
        fold = Checkpoint(session="s", tokenizer="o", version=1, weight_bytes=0, body=b"first")
        await record.put_checkpoint("acme", fold)
        await record.put_checkpoint("acme", replace(fold, body=b"second"))
        state = await one(record, SessionRead(tenant="acme", session="s", tokenizer="o"), SessionState)
        assert state.checkpoint == fold
        assert raw.rows()["checkpoints"] == 1

    # --- R20 ---

    async def test_r20_a_grant_is_usable_a_lease_later(self, record: Record) -> None:
        """What adopt and revoke changed is usable hot_lease_ms after, by the store's clock; the rest stays (R20)."""
        before = await one(record, GrantsRead(), GrantsState)
        assert before.rows == []
        assert abs(before.now_us - time.time_ns() // 1000) < 60_000_000
        await record.adopt("one", [(0, 100)])
        (first,) = (await one(record, GrantsRead(), GrantsState)).rows
        assert (first.slot_from, first.slot_to, first.incarnation) == (0, 100, "one")
        await record.adopt("two", [(40, 60)])
        after = await one(record, GrantsRead(), GrantsState)
        low, middle, high = after.rows
        assert [(row.slot_from, row.slot_to, row.incarnation) for row in after.rows] == [
            (0, 40, "one"),
            (40, 60, "two"),
            (60, 100, "one"),
        ]
        assert {low.grant, high.grant} == {first.grant}
        assert {low.usable_at_us, high.usable_at_us} == {first.usable_at_us}
        for earliest_us, row in ((before.now_us, first), (first.usable_at_us - limits.hot_lease_ms * 1000, middle)):
            assert earliest_us <= row.usable_at_us - limits.hot_lease_ms * 1000 <= after.now_us
        await record.revoke("one")
        rows = (await one(record, GrantsRead(), GrantsState)).rows
        assert [row.incarnation for row in rows] == ["", "two", ""]
        assert rows[1] == middle
        assert rows[0].usable_at_us > after.now_us

    async def test_r20_what_is_granted_already_changes_nothing(self, record: Record, raw: RawRecord) -> None:
        """A second adoption, and a revocation of a stranger, leave every row with its grant and its time (R20)."""
        await record.adopt("one", [(0, 100)])
        before = (await one(record, GrantsRead(), GrantsState)).rows
        await record.adopt("one", [(0, 50), (50, 100)])
        await record.revoke("stranger")
        await record.date_grants()
        assert (await one(record, GrantsRead(), GrantsState)).rows == before
        assert raw.rows()["grants"] == 1

    async def test_r20_concurrent_changes_give_no_grant_twice(self, record: Record, reopen: Reopen) -> None:
        """32 adoptions through two handles each have a grant of their own, and none is lost (R20)."""
        handles = [record, await reopen()]
        await asyncio.gather(
            *(handles[number % 2].adopt(f"server-{number}", [(number, number + 1)]) for number in range(RACERS))
        )
        rows = (await one(record, GrantsRead(), GrantsState)).rows
        assert [(row.slot_from, row.incarnation) for row in rows] == [(n, f"server-{n}") for n in range(RACERS)]
        assert len({row.grant for row in rows}) == RACERS
        assert max(row.usable_at_us for row in rows) < time.time_ns() // 1000 + 60_000_000

    # --- R21 ---

    async def test_r21_a_release_gives_the_order_back(self, record: Record) -> None:
        """A release without a reason leaves but its pause, and a release of a claim that is over does nothing (R21)."""
        await record.append(turn())
        (first,) = await claim(record)
        assert not await record.release(first, pause_s=3600)
        assert await claim(record) == []
        assert await waiting(record) == 1
        await record.append(turn(fresh("s"), subject="bob"))
        for _ in range(2 * limits.work_attempts_max):
            (held,) = await claim(record)
            assert (held.scope.subject, held.attempts) == ("bob", 1)
            assert not await record.release(held)
        (held,) = await claim(record)
        for over in (first, replace(held, worker="another"), replace(held, until_us=held.until_us + 1)):
            assert not await record.release(over, reason="INTERNAL")
        assert await claim(record) == []

    async def test_r21_what_fails_again_and_again_is_parked(self, record: Record) -> None:
        """After work_attempts_max failures an order is kept, shown and handed out to nobody; others go on (R21)."""
        await record.append(turn(texts=["a", "b"]))
        (event,) = await log(record)
        await park(record)
        assert await claim(record) == []
        (parked,) = await one(record, ParkedRead(), list)
        assert (parked.tenant, parked.subject, parked.model, parked.items) == ("acme", "ana", MODEL, 2)
        assert (parked.since_us, parked.reason) == (event.committed_at_us, "STORE_CORRUPT")
        assert event.committed_at_us <= parked.parked_at_us < event.committed_at_us + 60_000_000
        assert await one(record, LagRead(model=MODEL), Lag) == Lag(items=0, age_s=0, parked=1)
        await record.append(turn(fresh("s"), subject="bob"))
        assert [scope.subject for scope in await orders(record)] == ["bob"]

    async def test_r21_new_items_do_not_free_a_parked_order(self, record: Record) -> None:
        """Items that its subject gains join a parked order; unparked it is due, and has never failed (R21)."""
        await record.append(turn())
        await park(record)
        await record.append(turn())
        assert await claim(record) == []
        (parked,) = await one(record, ParkedRead(), list)
        assert parked.items == 2
        assert not await record.unpark("rival", subject="ana", model=MODEL)
        assert await record.unpark("acme", subject="ana", model=MODEL)
        assert not await record.unpark("acme", subject="ana", model=MODEL)
        assert await one(record, ParkedRead(), list) == []
        assert await waiting(record) == 2
        (held,) = await claim(record)
        assert (held.scope.position, held.attempts) == (2, 1)

    async def test_r21_vectors_free_a_parked_order(self, record: Record) -> None:
        """A worker whose claim was over may still put vectors, and then the order is parked no longer (R21)."""
        await record.append(turn(texts=["a", "b"]))
        await park(record)
        scope = Scope(tenant="acme", subject="ana", position=2, vector_position=0)
        assert await record.put_vectors(scope, model=MODEL, vectors=[b"1"])
        assert await one(record, ParkedRead(), list) == []
        (held,) = await claim(record)
        assert (held.scope.vector_position, held.attempts) == (1, 1)

    async def test_r21_an_order_that_kills_its_workers_is_parked(self, record: Record) -> None:
        """Claims that nobody ended count, and an order tried before is handed out alone, until it is parked (R21)."""
        await record.append(turn("s1", subject="deadly"))
        (lost,) = await claim(record, lease_s=0)
        for subject in ("a", "b"):
            await record.append(turn(fresh("s"), subject=subject))
        for attempt in range(2, limits.work_attempts_max + 1):
            (lost,) = await claim(record, lease_s=0)
            assert (lost.scope.subject, lost.attempts) == ("deadly", attempt)
        assert [(held.scope.subject, held.attempts) for held in await claim(record)] == [("a", 1), ("b", 1)]
        (parked,) = await one(record, ParkedRead(), list)
        assert (parked.subject, parked.reason) == ("deadly", "")

    async def test_r21_an_order_tried_before_waits_for_its_turn(self, record: Record) -> None:
        """Behind fresh orders one that failed is left for a claim of its own (R21)."""
        for subject in ("a", "b", "c"):
            await record.append(turn(fresh("s"), subject=subject))
            await asyncio.sleep(0.001)
        first, second, _ = claims = await claim(record)
        await record.release(second, reason="INTERNAL")
        for held in (first, claims[2]):
            await record.release(held)
        assert [held.scope.subject for held in await claim(record)] == ["a"]
        assert [(held.scope.subject, held.attempts) for held in await claim(record)] == [("b", 2)]
        assert [held.scope.subject for held in await claim(record)] == ["c"]

    async def test_r21_parked_orders_are_listed(self, record: Record) -> None:
        """Parked orders of all tenants come by (tenant, subject, model), in pages that join (R21)."""
        for tenant, subject in (("b", "x"), ("a", "y"), ("a", "x")):
            await record.append(turn(fresh("s"), tenant=tenant, subject=subject))
            await park(record, subject)
        seen: list[tuple[str, str, str]] = []
        while page := await one(record, ParkedRead(after=seen[-1] if seen else ("", "", ""), count_max=2), list):
            seen += [(order.tenant, order.subject, order.model) for order in page]
        assert seen == [("a", "x", MODEL), ("a", "y", MODEL), ("b", "x", MODEL)]

    # --- R22 ---

    async def test_r22_an_examination_changes_nothing(self, record: Record, raw: RawRecord) -> None:
        """A store that works is found to, beside its use and after it was closed, and has the same rows then (R22)."""
        await record.append(turn())
        before = raw.rows()
        for _ in range(2):
            found = await record.examine()
            assert [one for one in found if one.outcome == Outcome.FAILED and one.check not in self.unfit_checks] == []
            assert {"schema", *self.unfit_checks} <= {one.check for one in found}
            assert all(bool(one.advice) == (one.outcome in {Outcome.WARNING, Outcome.FAILED}) for one in found)
            await record.close()
        assert raw.rows() == before

    # --- R23 ---

    async def test_r23_a_log_is_kept_for_its_time(self, record: Record, raw: RawRecord) -> None:
        """The last append that names a time says how long, from the last event on; none or 0 is for ever (R23)."""
        await record.append(turn("silent"))
        await record.append(turn("ever", keep_s=3600))
        await record.append(turn("ever", keep_s=0))
        await record.append(turn("kept", keep_s=7200))
        first = await record.append(turn("kept", keep_s=3600))
        later = await record.append(turn("kept"))
        heads = await record.fetch([HeadRead(tenant="acme", session=name) for name in ("silent", "ever", "kept")])
        assert [head.expires_at_us for head in heads if isinstance(head, Head)] == [
            0,
            0,
            later.committed_at_us + 3600 * 1_000_000,
        ]
        assert later.committed_at_us >= first.committed_at_us
        assert (await expired(record), await record.sweep("acme", "kept")) == ([], False)
        for name in ("silent", "ever", "kept"):
            raw.set_updated_at("acme", name, 1)
        assert await expired(record) == [("acme", "kept")]
        assert not await record.sweep("acme", "ever")
        assert not await record.sweep("rival", "kept")
        await record.append(turn("kept"))  # who comes back before the sweep goes on
        assert (await expired(record), await record.sweep("acme", "kept")) == ([], False)

    async def test_r23_the_longest_overdue_come_first(self, record: Record, raw: RawRecord) -> None:
        """What is due longest is listed first, of all tenants, in batches (R23)."""
        for at_us, session in enumerate(("b", "c", "a"), 1):
            await record.append(turn(session, tenant=f"tenant-{session}", keep_s=1))
            raw.set_updated_at(f"tenant-{session}", session, at_us)
        assert await expired(record) == [("tenant-b", "b"), ("tenant-c", "c"), ("tenant-a", "a")]
        assert await one(record, ExpiredRead(count_max=1), list) == [("tenant-b", "b")]

    async def test_r23_a_swept_session_is_a_head(self, record: Record, raw: RawRecord) -> None:
        """Nothing of the log stays but the head; reads say so, and the session is listed until forgotten (R23)."""
        kept = turn("kept", texts=["kept"])
        await record.append(kept)
        event = turn(texts=["one", "two"], opened_calls=["call"], keep_s=1)
        appended = await record.append(event)
        fold = Checkpoint(session="s", tokenizer="t", version=1, weight_bytes=1, body=b"x")
        await record.put_checkpoint("acme", fold)
        await sweep(record, raw)
        await record.put_checkpoint("acme", replace(fold, tokenizer="late"))
        rows = raw.rows()
        assert [rows[name] for name in ("sessions", "events", "tool_calls", "checkpoints")] == [2, 1, 0, 0]
        head = await one(record, HeadRead(tenant="acme", session="s"), Head)
        assert (head.version, head.event_hash, head.expired) == (1, appended.event_hash, True)
        for known, at in ((0, None), (1, None), (0, 1), (7, 0)):
            read = SessionRead(tenant="acme", session="s", tokenizer="t", known_version=known, at_version=at)
            state = await one(record, read, SessionState)
            assert (state.head, state.checkpoint, list(state.events)) == (head, None, [])
        assert await log(record) == []
        assert ("acme", head) in await record.sessions_all(after=("", ""), count_max=9)
        assert not await record.sweep("acme", "s")
        assert await expired(record) == [("acme", "s")]
        await record.forgotten("acme", "kept")
        await record.forgotten("acme", "s")
        assert await expired(record) == []
        assert (await record.append(kept)).replayed
        assert (await one(record, HeadRead(tenant="acme", session="s"), Head)).expired

    async def test_r23_a_swept_session_takes_nothing(self, record: Record, raw: RawRecord) -> None:
        """Whatever is appended to a swept session is refused as such, and writes nothing; a retry too (R23)."""
        event = turn(expected=0, keep_s=1)
        await record.append(event)
        await sweep(record, raw)
        before = raw.rows()
        late = [
            event,
            turn(),
            turn(expected=0),
            turn(expected=1),
            turn(expected=9),
            turn(subject="bob"),
            turn(subject=""),
        ]
        late += [turn(must_exist=True, kind=EventKind.END, texts=()), turn(answered_calls=["none"])]
        for refused in late:
            with pytest.raises(SessionExpired):
                await record.append(refused)
        with pytest.raises(InvalidField):
            await record.append(turn("other", citations=[("s", 1)]))
        assert raw.rows() == before

    async def test_r23_an_ended_session_is_swept_too(self, record: Record, raw: RawRecord) -> None:
        """The end of a session is an event like another for its time (R23)."""
        await record.append(turn(keep_s=3600))
        ended = await record.append(turn(kind=EventKind.END, texts=()))
        head = await one(record, HeadRead(tenant="acme", session="s"), Head)
        assert head.expires_at_us == ended.committed_at_us + 3600 * 1_000_000
        await sweep(record, raw)
        with pytest.raises(SessionExpired):
            await record.append(turn())

    async def test_r23_one_of_many_sweeps(self, record: Record, reopen: Reopen, raw: RawRecord) -> None:
        """Of sweepers that meet one removes the log, and an append beside them is whole or refused (R23, P1)."""
        records = [record, await reopen()]
        for _ in range(ROUNDS):
            session = fresh("s")
            await record.append(turn(session, keep_s=1))
            raw.set_updated_at("acme", session, 1)
            late, *swept = await asyncio.gather(
                records[1].append(turn(session)),
                *(records[number % 2].sweep("acme", session) for number in range(6)),
                return_exceptions=True,
            )
            if isinstance(late, Appended):
                assert swept == [False] * 6
                assert len(await log(record, session)) == 2
            else:
                assert isinstance(late, SessionExpired)
                assert sorted(map(bool, swept)) == [False] * 5 + [True]
                assert await log(record, session) == []

    # --- R24 ---

    async def test_r24_positions_outlive_their_content(self, record: Record, raw: RawRecord) -> None:
        """Items of a swept session keep their places, and nothing else; the scope's epoch tells (R24, R6)."""
        await record.append(turn("s", texts=["one", "two"], keep_s=1))
        await record.append(turn("other", texts=["three"]))
        await record.append(turn("s", texts=["four"]))
        (order,) = await orders(record)
        assert await record.put_vectors(order, model=MODEL, vectors=[bytes([7]) * 8] * 3)
        before = await scope_of(record)
        await sweep(record, raw)
        after = await scope_of(record)
        assert after.items == emptied(before.items, "s")
        assert list(after.vectors) == [bytes(8), bytes(8), bytes([7]) * 8]
        assert (before.epoch, after.epoch, after.position) == (0, 1, 4)
        (order,) = await orders(record)
        assert await record.put_vectors(order, model=MODEL, vectors=[b"content!"])  # embedded before the sweep
        assert (await scope_of(record)).vectors[3] == bytes(8)
        await record.append(turn("other", texts=["five"]))
        assert [(item.position, item.text) for item in (await scope_of(record)).items][3:] == [(4, ""), (5, "five")]
        assert (await scope_of(record)).epoch == 1

    async def test_r24_no_content_is_left_anywhere(self, record: Record, raw: RawRecord) -> None:
        """What was said in a swept session stands in no row of any table (R24, P11)."""
        secret = "the word is xylophone"
        await record.append(turn(texts=[secret], keep_s=1, opened_calls=["xylophone"]))
        assert self.sealed or "xylophone" in raw.dump()
        await sweep(record, raw)
        assert "xylophone" not in raw.dump()

    async def test_r24_a_new_model_starts_behind_what_is_gone(self, record: Record, raw: RawRecord) -> None:
        """A later model orders what the log knows, by its time; what is gone counts for no age (R24, R14)."""
        await record.append(turn("s", texts=["gone"], keep_s=1))
        await record.append(turn("other", texts=["kept"]))
        await record.append(turn("lonely", subject="bob", keep_s=1))
        await sweep(record, raw, "s")
        await sweep(record, raw, "lonely")
        lag = await one(record, LagRead(model="new"), Lag)
        assert lag.age_s < 600
        assert [(scope.subject, scope.position) for scope in await orders(record, model="new")] == [("ana", 2)]
        (order,) = await orders(record, model="new")
        assert await record.put_vectors(order, model="new", vectors=[b"1234"])
        assert (await scope_of(record, model="new")).vectors == [bytes(4)]
        (order,) = await orders(record, model="new")
        assert await record.put_vectors(order, model="new", vectors=[b"1234"])
        assert (await scope_of(record, model="new")).vectors == [bytes(4), b"1234"]

    @pytest.mark.parametrize("moment", ["before", "amid", "after the first"])
    async def test_r24_a_rebuild_goes_on_beside_sweeps(self, record: Record, raw: RawRecord, moment: str) -> None:
        """Whenever a session is swept, the others' items come back where they were, without a gap (R24, R15, P9)."""
        await record.append(turn("s", texts=["one"], keep_s=1))
        events = [turn("other", texts=["two", "three"]), turn("other", texts=["six"])]
        await record.append(events[0])
        await record.append(turn("s", texts=["four", "five"]))
        await record.append(events[1])
        before = emptied((await scope_of(record)).items, "s")
        swept = await log(record)
        if moment == "before":
            await sweep(record, raw)
        await record.drop_derived()
        if moment == "amid":
            await sweep(record, raw)
        for number, stored_event in enumerate(await log(record, "other")):
            await record.restore_items("acme", subject="ana", event=stored_event, items=events[number].items)
            if moment == "after the first" and number == 0:
                await sweep(record, raw)
        await record.restore_items("acme", subject="ana", event=swept[0], items=[item("one")])  # read before the sweep
        after = await scope_of(record)
        assert [(item.position, item.session, item.text, item.gone) for item in after.items] == [
            (item.position, item.session, item.text, item.gone) for item in before
        ]
        assert after.position == 6
        assert [scope.position for scope in await orders(record)] in ([], [6])

    # --- R25 ---

    async def test_r25_a_session_is_bounded(
        self, record: Record, raw: RawRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A session takes session_events_max events, replays the last, ends, and refuses more untouched (R25)."""
        monkeypatch.setattr(limits, "session_events_max", 2)
        events = [turn(), turn()]
        for event in events:
            await record.append(event)
        before = raw.rows()
        for refused in (turn(), turn(expected=2)):
            with pytest.raises(LimitExceeded) as caught:
                await record.append(refused)
            assert caught.value.metadata == {"limit": "session_events_max", "maximum": "2", "actual": "3"}
        assert raw.rows() == before
        assert (await record.append(events[1])).replayed
        assert (await record.append(turn(kind=EventKind.END, texts=()))).version == 3

    # --- R26 ---

    async def test_r26_figures_tell_how_much_there_is(self, record: Record, raw: RawRecord) -> None:
        """Sessions, events, items and bytes are counted; the age is that of the longest overdue (R26)."""
        for number in range(3):
            for _ in range(4):
                await record.append(turn(f"s-{number}", texts=["one", "two"], keep_s=3600))
        raw.analyse()
        figures = await one(record, FiguresRead(), Figures)
        assert (figures.sessions, figures.events, figures.items) == (3, 12, 24)
        assert figures.log_bytes > 0
        assert figures.overdue_s == 0
        raw.set_updated_at("acme", "s-1", 1)
        assert (await one(record, FiguresRead(), Figures)).overdue_s > 1e9
        assert await record.sweep("acme", "s-1")
        await record.forgotten("acme", "s-1")
        raw.analyse()
        figures = await one(record, FiguresRead(), Figures)
        assert (figures.events, figures.overdue_s) == (8, 0)

    # --- R27 ---

    async def _remember(self, record: Record) -> list[NewEvent]:
        """Append turns and memory of every kind of item to two subjects; return the events."""
        events = [
            turn(items=[item("said"), change("home: Oslo", entry=1), change("likes: rain", entry=2, held=True)]),
            turn("~m~ana", kind=EventKind.MEMORY, items=[change("home: Bergen"), change("", entry=1)]),
            turn("~d~ana~d", kind=EventKind.MEMORY, items=[item("a page", kind=ItemKind.DOCUMENT, detail=b"title")]),
            turn("other", items=[item("more"), change("pet: Rex", entry=1)]),
            turn("~m~bob", subject="bob", kind=EventKind.MEMORY, items=[change("pet: none", held=True)]),
        ]
        for event in events:
            await record.append(event)
        return events

    async def test_r27_kinds_and_details_come_back(self, record: Record) -> None:
        """An item's kind and detail are what was put, of turns and of memory's own events (R27)."""
        for event in await self._remember(record):
            (found,) = await log(record, event.session)
            assert (found.kind, found.body) == (event.kind, event.body)
            memory = await scope_of(record, event.subject)
            assert [one for one in memory.items if one.session == event.session] == stored(event.items, found)

    async def test_r27_changes_are_read_alone(self, record: Record) -> None:
        """Of all items the changes alone come, in pages that join, with the scope's position (R27)."""
        await self._remember(record)
        memory = await scope_of(record)
        expected = [one for one in memory.items if one.kind in {ItemKind.CHANGE, ItemKind.HELD}]
        assert [one.position for one in expected] == [2, 3, 4, 5, 8]
        whole = await changes_of(record)
        assert (list(whole.items), list(whole.vectors), whole.epoch) == (expected, [], 0)
        assert whole.position == memory.position == 8
        assert list((await changes_of(record, after_position=2, count_max=2)).items) == expected[1:3]
        assert list((await changes_of(record, after_position=4, count_max=2)).items) == expected[3:]
        rest = await changes_of(record, after_position=8)
        assert (rest.position, list(rest.items)) == (8, [])
        nobody = await changes_of(record, "nobody")
        assert (nobody.position, list(nobody.items)) == (0, [])
        assert list((await changes_of(record, tenant="rival")).items) == []

    async def test_r27_subjects_with_held_changes_are_listed(self, record: Record) -> None:
        """Subjects that have a held change come by name, each once, in pages that join; others do not (R27)."""
        for subject in ("d", "b", "c", "a"):
            kept = [change("x", held=subject != "c"), change("y", entry=1, held=subject != "c")]
            await record.append(turn(f"~m~{subject}", subject=subject, kind=EventKind.MEMORY, items=kept))
        await record.append(turn("~m~e", tenant="rival", subject="e", kind=EventKind.MEMORY, items=[change("x")]))
        assert await held_subjects(record) == ["a", "b", "d"]
        assert await held_subjects(record, count_max=2) == ["a", "b"]
        assert await held_subjects(record, after="b", count_max=2) == ["d"]
        assert await held_subjects(record, count_max=0) == []
        assert await held_subjects(record, tenant="rival") == []

    async def test_r27_a_rebuild_gives_kinds_and_details_back(self, record: Record) -> None:
        """After items are restored from the log, changes and held subjects read as before (R27, R15, P9)."""
        events = await self._remember(record)
        before = [await scope_of(record), await changes_of(record), await scope_of(record, "bob")]
        await record.drop_derived()
        gone = await changes_of(record)
        assert (gone.position, list(gone.items), await held_subjects(record)) == (0, [], [])
        for event in events:
            (found,) = await log(record, event.session)
            await record.restore_items("acme", subject=event.subject, event=found, items=event.items)
        assert [await scope_of(record), await changes_of(record), await scope_of(record, "bob")] == before
        assert await held_subjects(record) == ["ana", "bob"]

    async def test_r27_what_is_gone_is_no_change(self, record: Record, raw: RawRecord) -> None:
        """A swept session's changes are changes no more, and neither their text nor their detail stays (R27, R24)."""
        held = [item("said"), change("pet: xylophone", entry=1, held=True)]
        await record.append(turn(items=held, keep_s=1, texts=()))
        await record.append(turn("other", items=[change("home: Oslo")], texts=()))
        before = await scope_of(record)
        assert self.sealed or "xylophone" in raw.dump()
        await sweep(record, raw)
        assert "xylophone" not in raw.dump()
        assert list((await scope_of(record)).items) == emptied(before.items, "s")
        after = await changes_of(record)
        assert (after.position, after.epoch) == (3, 1)
        assert list(after.items) == list(before.items[2:])
        assert await held_subjects(record) == []

    # --- R28 ---

    async def test_r28_another_body_keeps_the_chain(self, record: Record) -> None:
        """A redacted event reads with its new body, its first body's hash and its place in the chain (R28, R5)."""
        for number in range(3):
            await record.append(turn(texts=[f"text {number}", "more"]))
        before = await log(record)
        for body in (b"less", b"least"):
            await redact(record, version=2, body=body, entries=[])
            after = await log(record)
            digest = before[1].body_hash or hashlib.sha256(before[1].body).digest()
            assert after == [before[0], replace(before[1], body=body, body_hash=digest), before[2]]
            assert check_chain("acme", after, canonical.NO_HASH) == before[2].event_hash
        with pytest.raises(StoreCorrupt):
            check_chain("acme", [before[0], replace(before[1], body=b"less", body_hash=b"")], canonical.NO_HASH)
        state = await one(record, SessionRead(tenant="acme", session="s", tokenizer="o"), SessionState)
        assert list(state.events) == after
        assert (await record.append(turn(expected=3))).version == 4

    async def test_r28_items_of_its_entries_are_gone(self, record: Record, raw: RawRecord) -> None:
        """Items of the entries that are named go, with text, detail and vectors; the others stay (R28, R24, R27)."""
        kept = [item("said"), change("pet: xylophone", entry=1, held=True), change("home: Oslo", entry=2)]
        await record.append(turn("other", texts=["before"]))
        await record.append(turn(items=kept, body=b"xylophone"))
        (order,) = await orders(record)
        assert await record.put_vectors(order, model=MODEL, vectors=[b"\7" * 8] * 3)
        before = await scope_of(record)
        assert await held_subjects(record) == ["ana"]
        await redact(record, body=b"Oslo", entries=[1])
        after = await scope_of(record)
        assert "xylophone" not in raw.dump()
        assert list(after.items) == [*before.items[:2], *emptied(before.items[2:3], "s"), before.items[3]]
        assert list(after.vectors) == [b"\7" * 8, b"\7" * 8, bytes(8)]
        assert (after.position, after.epoch > before.epoch) == (4, True)
        assert [one.text for one in (await changes_of(record)).items] == ["home: Oslo"]
        assert await held_subjects(record) == []
        (order,) = await orders(record)
        assert await record.put_vectors(order, model=MODEL, vectors=[b"\7" * 8])
        await redact(record, body=b"", entries=[1, 2])
        assert list((await scope_of(record)).vectors) == [b"\7" * 8, b"\7" * 8, bytes(8), bytes(8)]
        assert [one.gone for one in (await scope_of(record)).items] == [False, False, True, True]

    async def test_r28_the_erasure_counts_it(self, record: Record) -> None:
        """Redacted events and their items are counted by the erasure that they were redacted for (R28, R29)."""
        await record.append(turn("source"))
        await record.append(turn(texts=["a", "b", "c"]))
        erasure = await record.erase("acme", subject="ana", session="source")
        for entries in ([1], [0, 1]):
            await record.redact(
                "acme", session="s", version=1, body=fresh("b").encode(), entries=entries, erasure=erasure
            )
        read = ErasureRead(tenant="acme", subject="ana", session="source")
        assert await record.fetch([read]) == [replace(erasure, events_redacted=2, items=2)]

    async def test_r28_what_is_not_there_is_not_redacted(self, record: Record, raw: RawRecord) -> None:
        """No event: no change, whether it never was, was swept meanwhile, or is another tenant's (R28)."""
        await record.append(turn(keep_s=1))
        await record.append(turn(tenant="rival"))
        await sweep(record, raw)
        await record.erase("acme", subject="ana", session="source")
        before = raw.dump()
        for session, version in (("s", 1), ("s", 2), ("none", 1)):
            await redact(record, session=session, version=version, body=b"body", entries=[0])
        assert raw.dump() == before

    @pytest.mark.parametrize("moment", ["before", "amid", "after"])
    @pytest.mark.parametrize("entry", [0, 1, 2])
    async def test_r28_a_rebuild_brings_nothing_back(
        self, record: Record, raw: RawRecord, moment: str, entry: int
    ) -> None:
        """Whoever read an event before it was redacted cannot restore what was taken out of it (R28, R15, P11)."""
        texts = ["xylophone" if number == entry else "said" for number in range(3)]
        event = turn(items=[change(text, entry=number) for number, text in enumerate(texts)], body=b"xylophone")
        await record.append(event)
        (read,) = await log(record)
        items = list((await scope_of(record)).items)
        items[entry : entry + 1] = emptied(items[entry : entry + 1], "s")
        if moment == "before":
            await redact(record, body=b"", entries=[entry])
        await record.drop_derived()
        if moment == "amid":
            await redact(record, body=b"", entries=[entry])
        await record.restore_items("acme", subject="ana", event=read, items=event.items)
        if moment == "after":
            await redact(record, body=b"", entries=[entry])
        await record.restore_items("acme", subject="ana", event=read, items=event.items)
        memory = await scope_of(record)
        assert (memory.position, list(memory.items)) == (3, items)
        assert list((await changes_of(record)).items) == [one for one in items if not one.gone]
        assert "xylophone" not in raw.dump()

    # --- R29 ---

    async def test_r29_an_erased_session_takes_nothing(self, record: Record, raw: RawRecord) -> None:
        """From the mark on every append is refused, a retry too, before the sweep and after; others go on (R29)."""
        event = turn(expected=0, keep_s=3600)
        await record.append(event)
        await record.append(turn("other"))
        erasure = await record.erase("acme", subject="ana", session="s")
        assert (erasure.subject, erasure.session, erasure.done_at_us, erasure.logs) == ("ana", "s", 0, 0)
        late = [
            event,
            turn(),
            turn(expected=0),
            turn(expected=1),
            turn(expected=9),
            turn(subject="bob"),
            turn(subject=""),
        ]
        late += [turn(must_exist=True, kind=EventKind.END, texts=()), turn(answered_calls=["none"])]
        for step in (None, record.sweep, record.forgotten):
            if step:
                await step("acme", "s")
            before = raw.rows()
            for refused in late:
                with pytest.raises(Erased):
                    await record.append(refused)
            with pytest.raises(InvalidField):
                await record.append(turn("other", citations=[("s", 1)]))
            assert raw.rows() == before
        await record.append(turn("other"))
        await record.append(turn("new"))

    async def test_r29_an_erased_subject_takes_nothing(self, record: Record, raw: RawRecord) -> None:
        """From the mark on no session of the subject takes anything, a new one neither; other subjects' do (R29)."""
        event = turn(expected=0)
        await record.append(event)
        await record.append(turn("bob's", subject="bob"))
        await record.append(turn(tenant="rival"))
        erasure = await record.erase("acme", subject="ana")
        assert (erasure.tenant, erasure.subject, erasure.session) == ("acme", "ana", "")
        late = [event, turn(), turn(expected=5), turn(subject=""), turn("new"), turn("new", expected=5)]
        late += [turn("new", must_exist=True), turn("new", kind=EventKind.MEMORY, citations=[("none", 1)])]
        before = raw.rows()
        for refused in late:
            with pytest.raises(Erased):
                await record.append(refused)
        assert raw.rows() == before
        with pytest.raises(SubjectMismatch):
            await record.append(turn("bob's", subject="ana"))
        await record.append(turn("bob's", subject="bob"))
        await record.append(turn(tenant="rival"))
        await erase(record)
        for refused in late:
            with pytest.raises(Erased):
                await record.append(refused)

    async def test_r29_what_was_never_used_is_never_used(self, record: Record) -> None:
        """A session and a subject that were erased before they began never begin (R29)."""
        await record.erase("acme", subject="ana", session="s")
        head = await one(record, HeadRead(tenant="acme", session="s"), Head)
        assert (head.subject, head.version, head.erased, head.expired) == ("ana", 0, True, True)
        assert await log(record) == []
        await record.erase("acme", subject="bob")
        for refused in (turn(), turn(expected=0), turn(subject="carl"), turn("new", subject="bob")):
            with pytest.raises(Erased):
                await record.append(refused)
        assert (await scope_of(record, "bob")).position == 0
        assert await expired(record) == []

    async def test_r29_reads_show_an_erased_session_as_gone(self, record: Record) -> None:
        """Reads give the head of an erased session, `erased`, and no events, before the sweep and after (R29)."""
        await record.append(turn(keep_s=3600))
        appended = await record.append(turn(keep_s=3600))
        fold = Checkpoint(session="s", tokenizer="t", version=1, weight_bytes=1, body=b"x")
        await record.put_checkpoint("acme", fold)
        await record.erase("acme", subject="ana", session="s")
        for swept in (False, True):
            if swept:
                assert await record.sweep("acme", "s")
                assert not await record.sweep("acme", "s")
            head = await one(record, HeadRead(tenant="acme", session="s"), Head)
            assert (head.version, head.event_hash, head.erased, head.expired) == (2, appended.event_hash, True, True)
            for known, at in ((0, None), (1, None), (0, 1)):
                read = SessionRead(tenant="acme", session="s", tokenizer="t", known_version=known, at_version=at)
                state = await one(record, read, SessionState)
                assert (state.head, state.checkpoint, list(state.events)) == (head, None, [])
            assert await log(record) == []
            assert await one(
                record, SessionsRead(tenant="acme", subject="ana", after_session="", count_max=9), list
            ) == [head]
            assert await record.sessions_all(after=("", ""), count_max=9) == [("acme", head)]
            await record.put_checkpoint("acme", replace(fold, version=2))

    async def test_r29_an_erased_subject_has_an_empty_scope(self, record: Record) -> None:
        """Neither items, changes nor vectors of an erased subject are read, nor any put; its position stays (R29)."""
        await record.append(turn(items=[item("said"), change("home: Oslo", entry=1)]))
        (held,) = await claim(record)
        scope = held.scope
        assert await record.put_vectors(scope, model=MODEL, vectors=[b"1"])
        before = await scope_of(record)
        await record.erase("acme", subject="ana")
        for swept in (False, True):
            if swept:
                await erase(record)
            for memory in (await scope_of(record), await changes_of(record), await scope_of(record, after_position=1)):
                assert (memory.position, list(memory.items), list(memory.vectors)) == (2, [], [])
                assert memory.epoch > before.epoch
            late = replace(scope, vector_position=1)
            assert not await record.put_vectors(late, model=MODEL, vectors=[b"2"])
            assert not await record.put_vectors(replace(scope, vector_position=0), model=MODEL, vectors=[b"1"])
            assert await orders(record) == []
            assert await orders(record, model=fresh("newer")) == []
            assert await waiting(record) == 0

    async def test_r29_an_append_at_work_is_waited_for(self, record: Record, reopen: Reopen, raw: RawRecord) -> None:
        """An append that is about to commit when its subject is erased is erased too, and none comes after (R29)."""
        for number, session in enumerate(("s", "")):
            subject = f"subject-{number}"
            await record.append(turn("s" if session else "first", subject=subject))
            async with raw.stalled(await reopen(), turn("s" if session else "late", subject=subject)) as late:
                erasing = asyncio.ensure_future(record.erase("acme", subject=subject, session=session))
                await asyncio.sleep(0.2)
                assert not erasing.done()
            await late
            await erasing
            with pytest.raises(Erased):
                await record.append(turn("s" if session else "late", subject=subject))
            await erase(record, subject, session=session)
            rows = raw.rows()
            assert (rows["events"], rows["sessions"]) == (0, number * 2 + 1)

    async def test_r29_marks_and_appends_that_race(self, record: Record, reopen: Reopen) -> None:
        """Whatever appends succeed beside an erasure, nothing of them is left when it is done (R29, P11)."""
        handles = [record, await reopen()]
        for number in range(ROUNDS):
            subject = f"subject-{number}"
            await record.append(turn(f"{subject}-0", subject=subject))
            calls = [handles[n % 2].append(turn(f"{subject}-{n % 3}", subject=subject)) for n in range(9)]
            marked, *results = await asyncio.gather(
                handles[number % 2].erase("acme", subject=subject), *calls, return_exceptions=True
            )
            assert isinstance(marked, Erasure)
            assert {type(result) for result in results} <= {Appended, Erased}
            erasure = await erase(record, subject)
            done = sum(isinstance(result, Appended) for result in results)
            assert (erasure.events, erasure.items) == (done + 1, done + 1)
            for session in range(3):
                assert await record.fetch([EventsRead(**_all_of(f"{subject}-{session}"))]) in ([None], [[]])

    async def test_r29_who_erases_counts_and_finishes(self, record: Record, raw: RawRecord) -> None:
        """Logs, events, items and keys are counted once, however often a step is taken again; the row stays (R29)."""
        await record.put_key("acme", data_key())
        await record.put_key("acme", data_key("bob"))
        await record.append(turn("one", texts=["a", "b"], keep_s=3600))
        await record.append(turn("one", texts=["c"]))
        await record.append(turn("two", texts=["d"], kind=EventKind.MEMORY))
        await record.append(turn("swept", texts=["e"], keep_s=1))
        await record.append(turn("bob's", subject="bob"))
        await sweep(record, raw, "swept")
        await record.forgotten("acme", "swept")
        read = ErasureRead(tenant="acme", subject="ana")
        assert await record.fetch([read]) == [None]
        marked = await record.erase("acme", subject="ana")
        assert abs(marked.asked_at_us - time.time_ns() // 1000) < 60_000_000
        assert marked == await record.erase("acme", subject="ana")
        assert await record.fetch([read, ErasuresRead(count_max=9)]) == [marked, [marked]]
        assert sorted(await expired(record)) == [("acme", "one"), ("acme", "swept"), ("acme", "two")]
        for session, removed in (("one", True), ("one", False), ("swept", False), ("two", True), ("bob's", False)):
            assert await record.sweep("acme", session) == removed
            await record.forgotten("acme", session)
        assert await expired(record) == []
        done = await record.finish_erasure(marked)
        assert done == replace(marked, done_at_us=done.done_at_us, logs=2, events=3, items=4, keys=1)
        assert done.done_at_us >= done.asked_at_us
        for again in (record.finish_erasure(marked), record.erase("acme", subject="ana")):
            assert await again == done
        assert await record.fetch([read, ErasuresRead(count_max=9)]) == [done, []]
        assert await record.fetch([replace(read, tenant="rival"), replace(read, session="one")]) == [None, None]

    async def test_r29_the_oldest_erasure_is_the_first(self, record: Record) -> None:
        """What was not finished is listed by when it was asked, of all tenants, in batches (R29)."""
        marked = []
        for tenant, session in (("b", ""), ("a", "s"), ("a", "")):
            marked.append(await record.erase(tenant, subject="ana", session=session))
            await asyncio.sleep(0.001)
        assert await one(record, ErasuresRead(count_max=9), list) == marked
        assert await one(record, ErasuresRead(count_max=1), list) == marked[:1]
        await record.finish_erasure(marked[0])
        assert await one(record, ErasuresRead(count_max=9), list) == marked[1:]

    async def test_r29_no_content_is_left_anywhere(self, record: Record, raw: RawRecord) -> None:
        """What an erased subject said stands in no row of any table, nor do its keys; others' does (R29, P11)."""
        secret = [item("xylophone"), change("pet: xylophone", entry=1)]
        await record.append(turn(body=b"xylophone", items=secret, opened_calls=["xylophone"]))
        await record.put_key("acme", replace(data_key(), wrapped=b"xylophone"))
        await record.append(turn("bob's", subject="bob", texts=["trombone"]))
        fold = Checkpoint(session="s", tokenizer="t", version=1, weight_bytes=1, body=b"xylophone")
        await record.put_checkpoint("acme", fold)
        await erase(record)
        dump = raw.dump()
        assert "xylophone" not in dump
        assert self.sealed or "trombone" in dump
        assert await record.fetch([KeyRead(tenant="acme", subject="ana")]) == [None]

    async def test_r29_a_session_of_another_subject_is_not_erased(self, record: Record, raw: RawRecord) -> None:
        """To erase a session one names its subject (R29)."""
        await record.append(turn())
        await record.append(turn("gone", keep_s=1))
        await sweep(record, raw, "gone")
        before = raw.rows()
        for session in ("s", "gone"):
            with pytest.raises(SubjectMismatch):
                await record.erase("acme", subject="bob", session=session)
        assert raw.rows() == before
        assert (await record.append(turn())).version == 2

    async def test_r29_a_swept_session_is_erased_too(self, record: Record, raw: RawRecord) -> None:
        """Of a session whose log was removed before, the mark is all that there is to set (R29, R23)."""
        await record.append(turn(keep_s=1))
        await sweep(record, raw)
        await record.forgotten("acme", "s")
        assert (await erase(record, session="s")).logs == 0
        with pytest.raises(Erased):
            await record.append(turn())

    async def test_r29_an_erased_log_is_not_rebuilt(self, record: Record) -> None:
        """Items that a rebuild read before the mark are not put back after it, nor is there a gap (R29, R15, P11)."""
        event, other = turn(texts=["one", "two"]), turn("other", texts=["three"])
        for appended in (event, other):
            await record.append(appended)
        (read,), (kept,) = await log(record), await log(record, "other")
        await record.drop_derived()
        await record.erase("acme", subject="ana", session="s")
        await record.restore_items("acme", subject="ana", event=read, items=event.items)
        await record.restore_items("acme", subject="ana", event=kept, items=other.items)
        await erase(record, session="s")
        memory = await scope_of(record)
        assert [(one.position, one.text, one.gone) for one in memory.items] == [
            (1, "", True),
            (2, "", True),
            (3, "three", False),
        ]

    # --- R30 ---

    async def test_r30_a_restored_log_is_what_it_was(self, record: Record) -> None:
        """An erased subject's events come back with their times and hashes, behind the last position given (R30)."""
        events = [turn(texts=["a", "b"], keep_s=0), turn(items=[change("home: Oslo")]), turn("~m~ana", texts=["c"])]
        times = [(await record.append(event)).committed_at_us for event in events]
        before, own, memory = await log(record), await log(record, "~m~ana"), await scope_of(record)
        await erase(record)
        await record.reopen("acme", subject="ana")
        await asyncio.sleep(0.002)
        ends = []
        for event, at_us, version in zip(events, times, (0, 1, 0), strict=True):
            restored = await record.restore(replace(event, expected_version=version), committed_at_us=at_us)
            assert (restored.committed_at_us, restored.version, restored.replayed) == (at_us, version + 1, False)
            assert await record.restore(event, committed_at_us=at_us) == replace(restored, replayed=True)
            ends.append(restored.position)
        assert ends == [6, 7, 8]
        shift = 4
        for old, new in ((before, await log(record)), (own, await log(record, "~m~ana"))):
            found = [self.chained(event, was) for event, was in zip(new, old, strict=True)]
            assert found == [replace(event, position_end=event.position_end + shift) for event in old]
        after = await scope_of(record)
        assert [one.gone for one in after.items[:shift]] == [True] * shift
        assert list(after.items[shift:]) == [replace(one, position=one.position + shift) for one in memory.items]
        head = await one(record, HeadRead(tenant="acme", session="s"), Head)
        assert (head.created_at_us, head.updated_at_us, head.erased, head.expired) == (*times[:2], False, False)
        assert (await record.append(turn(expected=2))).version == 3
        assert (await record.append(turn("~m~ana"))).version == 2

    async def test_r30_an_erased_subject_is_reopened_first(self, record: Record) -> None:
        """While it is marked nothing is restored, and while its erasure is at work the mark stays (R30, R29)."""
        event = turn(expected=0)
        at_us = (await record.append(event)).committed_at_us
        marked = await record.erase("acme", subject="ana")
        for step in (None, record.sweep, record.forgotten):
            if step:
                await step("acme", "s")
            for restored in (event, replace(event, session="new")):
                with pytest.raises(Erased):
                    await record.restore(restored, committed_at_us=at_us)
            with pytest.raises(Erased):
                await record.reopen("acme", subject="ana")
        done = await record.finish_erasure(marked)
        for refused in (record.restore(event, committed_at_us=at_us), record.append(event)):
            with pytest.raises(Erased):
                await refused
        await record.reopen("rival", subject="ana")
        with pytest.raises(Erased):
            await record.put_key("acme", data_key())
        for _ in range(2):
            await record.reopen("acme", subject="ana")
            assert await record.fetch([ErasureRead(tenant="acme", subject="ana")]) == [done]
        key = data_key()
        assert await record.put_key("acme", key) == key
        assert (await record.restore(event, committed_at_us=at_us)).version == 1

    async def test_r30_what_was_reopened_begins_anew(self, record: Record) -> None:
        """Its session ids may be used again, but not those that were erased by themselves (R30, R29)."""
        for session in ("s", "own"):
            await record.append(turn(session))
        await erase(record, session="own")
        await erase(record)
        await record.reopen("acme", subject="ana")
        assert await record.fetch([HeadRead(tenant="acme", session="s")]) == [None]
        appended = await record.append(turn(texts=["new"]))
        assert (appended.version, appended.position) == (1, 3)
        (order,) = await orders(record)
        assert await record.put_vectors(order, model=MODEL, vectors=[b"new!"] * (3 - order.vector_position))
        assert list((await scope_of(record)).vectors) == [bytes(4), bytes(4), b"new!"]
        assert (await one(record, HeadRead(tenant="acme", session="own"), Head)).erased
        with pytest.raises(Erased):
            await record.append(turn("own"))

    async def test_r30_what_began_anew_is_erased_anew(self, record: Record) -> None:
        """A second erasure has a time and counts of its own, for a subject and for a session (R30, R29)."""
        for session in ("", "s"):
            event = turn(subject="bob" if session else "ana", session=session or "other", texts=["a", "b"])
            at_us = (await record.append(event)).committed_at_us
            first = await erase(record, event.subject, session=session)
            await record.reopen("acme", subject=event.subject)
            await record.restore(replace(event, expected_version=0), committed_at_us=at_us)
            await asyncio.sleep(0.002)
            second = await record.erase("acme", subject=event.subject, session=session)
            assert (second.done_at_us, second.logs, second.items) == (0, 0, 0)
            assert second.asked_at_us > first.asked_at_us
            with pytest.raises(Erased):
                await record.append(event)
            second = await erase(record, event.subject, session=session)
            assert (second.logs, second.events, second.items) == (1, 1, 2)

    async def test_r30_a_session_alone_is_restored(self, record: Record, raw: RawRecord) -> None:
        """A session that was erased, or swept, begins anew by a restore when nothing is at work on it (R30)."""
        for way in ("erased", "swept"):
            event = turn(way, keep_s=0 if way == "erased" else 1, texts=["a"], expected=0)
            at_us = (await record.append(event)).committed_at_us
            await record.append(turn(way))
            if way == "erased":
                marked = await record.erase("acme", subject="ana", session=way)
            else:
                raw.set_updated_at("acme", way, 1)
            assert await record.sweep("acme", way)
            with pytest.raises(Erased if way == "erased" else StoreUnavailable):
                await record.restore(event, committed_at_us=at_us)
            await record.forgotten("acme", way)
            if way == "erased":
                await record.finish_erasure(marked)
            with pytest.raises(VersionInFuture):
                await record.restore(replace(event, expected_version=2), committed_at_us=at_us)
            assert (await one(record, HeadRead(tenant="acme", session=way), Head)).expired
            restored = await record.restore(replace(event, keep_s=0), committed_at_us=at_us)
            assert (restored.version, restored.committed_at_us) == (1, at_us)
            (found,) = await log(record, way)
            assert (found.version, found.previous_hash, found.body) == (1, canonical.NO_HASH, event.body)
            assert (await record.append(turn(way, expected=1))).version == 2

    async def test_r30_what_is_there_is_not_restored(self, record: Record, raw: RawRecord) -> None:
        """A version that the session has is a conflict, one ahead is in the future, and time never runs back (R30)."""
        first = await record.append(turn())
        before = raw.rows()
        with pytest.raises(VersionConflict):
            await record.restore(turn(expected=0), committed_at_us=5)
        with pytest.raises(VersionInFuture):
            await record.restore(turn(expected=2), committed_at_us=5)
        with pytest.raises(SubjectMismatch):
            await record.restore(turn(expected=1, subject="bob"), committed_at_us=5)
        assert raw.rows() == before
        restored = await record.restore(turn(expected=1), committed_at_us=5)
        assert (restored.version, restored.committed_at_us) == (2, first.committed_at_us)
        assert (await record.restore(turn("new", expected=0), committed_at_us=5)).committed_at_us == 5

    # --- R31 ---

    async def test_r31_an_erased_subject_has_no_key(self, record: Record) -> None:
        """Erasing a subject takes its key, and it gets no other; a session's erasure leaves it (R31, R29)."""
        key, bystander = await record.put_key("acme", data_key()), await record.put_key("acme", data_key("bob"))
        await record.append(turn())
        await record.erase("acme", subject="ana", session="s")
        read = KeyRead(tenant="acme", subject="ana")
        assert await record.fetch([read]) == [key]
        await record.erase("acme", subject="ana")
        assert await record.fetch([read, KeyRead(tenant="acme", key_id=key.key_id)]) == [None, None]
        for offered in (key, data_key()):
            with pytest.raises(Erased):
                await record.put_key("acme", offered)
        assert not await record.rewrap("acme", old=key, new=replace(key, wrapped=b"late"))
        assert await record.keys_all(after=("", b""), count_max=9) == [("acme", bystander)]

    async def test_r31_the_first_key_of_a_subject_is_kept(self, record: Record, reopen: Reopen) -> None:
        """Of 32 keys for one subject, through two handles, one is kept, and all callers get it (R31)."""
        handles = [record, await reopen()]
        offered = [data_key() for _ in range(RACERS)]
        kept = await asyncio.gather(*(handles[number % 2].put_key("acme", key) for number, key in enumerate(offered)))
        assert len(set(kept)) == 1
        assert kept[0] in offered
        assert await record.put_key("acme", data_key()) == kept[0]
        by_subject = KeyRead(tenant="acme", subject="ana")
        by_id = KeyRead(tenant="acme", key_id=kept[0].key_id)
        assert await record.fetch([by_subject, by_id]) == [kept[0], kept[0]]
        assert await record.fetch([replace(by_id, subject="bob"), replace(by_subject, subject="bob")]) == [
            kept[0],
            None,
        ]
        assert await record.fetch([replace(by_subject, tenant="rival"), replace(by_id, tenant="rival")]) == [None, None]
        assert await record.fetch([KeyRead(tenant="acme", key_id=bytes(16))]) == [None]

    async def test_r31_one_of_many_wraps_anew(self, record: Record, reopen: Reopen) -> None:
        """A wrapping takes the place of the one that it was made from, and of no other; the key's id stays (R31)."""
        handles = [record, await reopen()]
        old, bystander = await record.put_key("acme", data_key()), await record.put_key("rival", data_key())
        news = [replace(old, wrapped=b"%d" % number, wrapping="newer") for number in range(RACERS)]
        done = await asyncio.gather(
            *(handles[number % 2].rewrap("acme", old=old, new=new) for number, new in enumerate(news))
        )
        assert sum(done) == 1
        read = KeyRead(tenant="acme", subject="ana")
        assert await record.fetch([read]) == [news[done.index(True)]]
        assert not await record.rewrap("acme", old=old, new=replace(old, wrapped=b"late"))
        assert not await record.rewrap("acme", old=bystander, new=replace(bystander, wrapped=b"another's"))
        assert await record.fetch([replace(read, tenant="rival")]) == [bystander]

    async def test_r31_keys_are_listed_for_rotation(self, record: Record) -> None:
        """The keys of all tenants come by (tenant, key id), in pages that join (R31)."""
        made = []
        for tenant, subject in (("b", "x"), ("a", "y"), ("a", "x"), ("c", "x"), ("a", "z")):
            made.append((tenant, await record.put_key(tenant, data_key(subject))))
        made.sort(key=lambda one: (one[0], one[1].key_id))
        seen: list[tuple[str, StoredKey]] = []
        while page := await record.keys_all(
            after=(seen[-1][0], seen[-1][1].key_id) if seen else ("", b""), count_max=2
        ):
            assert len(page) <= 2
            seen += page
        assert seen == made

    # --- R32 ---

    async def test_r32_a_scrub_changes_nothing_that_is_there(self, record: Record, reopen: Reopen) -> None:
        """Appends go on beside scrubs, and what was there before and came meanwhile is read after, often (R32)."""
        other = await reopen()
        await record.append(turn("gone", texts=["gone"]))
        await record.append(turn(texts=["kept"]))
        await erase(record, session="gone")
        before, memory = await log(record), await scope_of(record)
        appends = [asyncio.ensure_future((record, other)[n % 2].append(turn(texts=[f"{n}"]))) for n in range(20)]
        for _ in range(2):
            await record.scrub()
        await asyncio.gather(*appends)
        await other.scrub()
        for handle in (record, other):
            assert (await log(handle))[:1] == before
            assert len(await log(handle)) == 21
            assert list((await scope_of(handle)).items)[:2] == list(memory.items)
        await record.close()
        with pytest.raises(StoreUnavailable):
            await record.scrub()

    # --- R33 ---

    async def test_r33_one_model_serves(self, record: Record, reopen: Reopen) -> None:
        """None serves at first, then whoever is named in place of the one before, and every handle knows it (R33)."""
        await record.append(turn())
        other = await reopen()
        assert (await models_of(record)).serving == (await scope_of(record)).serving == ""
        assert not await record.serve("old", instead_of="another")
        assert await record.serve("old", instead_of="")
        for handle in (record, other):
            assert (await models_of(handle)).serving == (await scope_of(handle)).serving == "old"
            assert not await handle.serve("new", instead_of="")
            assert not await handle.serve("new", instead_of="newer")
        assert await other.serve("new", instead_of="old")
        assert not await record.serve("new", instead_of="old")
        assert (await scope_of(record)).serving == "new"
        with pytest.raises(InvalidField, match="model"):
            await record.serve("", instead_of="new")

    async def test_r33_the_model_is_told_of_every_subject(self, record: Record, raw: RawRecord) -> None:
        """It stands in reads of subjects without items, of erased ones, and whatever model they ask for (R33)."""
        await record.serve("old", instead_of="")
        for subject in ("ana", "bob"):
            await record.append(turn(subject, subject=subject))
        await erase(record, "bob")
        asked = [scope_of(record, subject, model=model) for subject in ("ana", "bob", "none") for model in ("old", "")]
        assert {state.serving for state in await asyncio.gather(*asked)} == {"old"}
        assert (await scope_of(record, tenant="rival")).serving == "old"

    async def test_r33_a_model_that_serves_is_in_use(self, record: Record) -> None:
        """From then on it lags behind all that is there, as if it had been claimed for (R33, R14)."""
        await record.append(turn(texts=["a", "b"]))
        await record.serve("old", instead_of="")
        assert (await models_of(record)).known == ["old"]
        await record.append(turn())
        (held,) = await claim(record, model="old")
        assert (held.scope.position, held.scope.vector_position) == (3, 0)

    async def test_r33_one_of_many_switches(self, record: Record, reopen: Reopen) -> None:
        """Of racers through several handles who replace one model each by another, one wins, and all know who (R33)."""
        handles = [record, await reopen(), await reopen()]
        serving = ""
        for number in range(ROUNDS):
            named = [f"model-{number}-{racer}" for racer in range(6)]
            did = await asyncio.gather(
                *(handles[at % 3].serve(model, instead_of=serving) for at, model in enumerate(named))
            )
            assert did.count(True) == 1
            serving = named[did.index(True)]
            assert (await models_of(record)).serving == serving

    async def test_r33_a_rebuild_leaves_it(self, record: Record, reopen: Reopen) -> None:
        """It is configuration and not derived: dropping what is derived, and another start, leave it (R33, P9)."""
        await record.append(turn())
        await record.serve("old", instead_of="")
        await record.drop_derived()
        assert await models_of(await reopen()) == Models(serving="old", known=["old"])

    async def test_r33_it_is_of_the_reads_own_snapshot(self, record: Record, reopen: Reopen) -> None:
        """All reads of a batch name one model, and never one before that which an earlier batch named (R33, R11)."""
        await record.append(turn())
        other, seen = await reopen(), [""]

        async def switch() -> None:
            for number in range(30):
                assert await other.serve(f"model-{number:02}", instead_of=seen_last[0])
                seen_last[0] = f"model-{number:02}"

        seen_last, switching = [""], asyncio.ensure_future(switch())
        read = ScopeRead(tenant="acme", subject="ana", model="")
        while not switching.done():
            before = seen_last[0]
            answers = [*await record.fetch([read, ModelsRead(), read])]
            named = {answer.serving for answer in answers if isinstance(answer, ScopeState | Models)}
            assert len(named) == 1
            seen.append(named.pop())
            assert seen[-1] >= before
        await switching
        assert seen == sorted(seen)

    # --- R34 ---

    async def test_r34_a_dropped_model_leaves_nothing(self, record: Record, raw: RawRecord) -> None:
        """Its vectors, orders and name go, of every subject and tenant; another's stay; again is nothing (R34)."""
        for tenant, subject in (("acme", "ana"), ("acme", "bob"), ("rival", "ana")):
            await record.append(turn(subject, tenant=tenant, subject=subject, texts=["a", "b"]))
        for model in ("old", "new"):
            await embed(record, model=model, mark=model.encode())
        await record.serve("new", instead_of="")
        await record.append(turn("late", texts=["c"]))
        await claim(record, model="old")
        before = raw.rows()
        await record.drop_model("old")
        after = raw.rows()
        assert {name: count - after[name] for name, count in before.items() if count != after[name]} == {
            "models": 1,
            "vectors": 6,
            "work": 1,
        }
        for tenant, subject in (("acme", "ana"), ("acme", "bob"), ("rival", "ana")):
            memory = await scope_of(record, subject, tenant=tenant, model="new")
            assert memory.vectors == [b"new"] * 2
            assert (await scope_of(record, subject, tenant=tenant, model="old")).vector_position == 0
        assert await models_of(record) == Models(serving="new", known=["new"])
        await record.drop_model("old")
        await record.drop_model("never there")
        assert raw.rows() == after

    async def test_r34_the_model_that_serves_stays(self, record: Record, raw: RawRecord) -> None:
        """Dropping the one whose vectors rank is refused, and takes nothing; one that served before goes (R34)."""
        await record.append(turn())
        await embed(record, model="old", mark=b"1")
        await record.serve("old", instead_of="")
        before = raw.rows()
        with pytest.raises(InvalidField, match="old"):
            await record.drop_model("old")
        assert raw.rows() == before
        await record.serve("new", instead_of="old")
        await record.drop_model("old")
        assert await models_of(record) == Models(serving="new", known=["new"])

    async def test_r34_a_dropped_model_begins_anew(self, record: Record, reopen: Reopen) -> None:
        """A model that is used again lags behind all that is there, through whatever handle (R34, R14)."""
        await record.append(turn(texts=["a", "b"]))
        await embed(record, model="old", mark=b"1")
        await record.drop_model("old")
        assert await waiting(record, model="old") == 2
        for handle in (record, await reopen()):
            (found,) = await orders(handle, model="old")
            assert (found.position, found.vector_position) == (2, 0)
        await embed(record, model="old", mark=b"2")
        assert (await scope_of(record, model="old")).vectors == [b"2", b"2"]

    async def test_r34_readers_see_all_or_nothing(
        self, record: Record, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While vectors are removed in many steps, each subject has all of its or none, and commits go on (R34)."""
        monkeypatch.setattr(limits, "drop_vectors_max", 4)
        subjects = [f"subject-{number:02}" for number in range(40)]
        for subject in subjects:
            await record.append(turn(subject, subject=subject, texts=["a", "b", "c"]))
        await embed(record, model="old", mark=b"1")
        other = await reopen()
        dropping = asyncio.ensure_future(record.drop_model("old"))
        while not dropping.done():
            states = await asyncio.gather(*(scope_of(other, subject, model="old") for subject in subjects[::8]))
            assert {len(state.vectors) for state in states} <= {0, 3}
            await other.append(turn(subjects[0], subject=subjects[0]))
        await dropping
        assert not [subject for subject in subjects if (await scope_of(record, subject, model="old")).vectors]

    # --- R35 ---

    async def test_r35_who_is_not_bound_may_be_any_tenant(self, record: Record) -> None:
        """A store that binds nobody lets its caller serve whatever tenant (R35)."""
        assert await record.may_be("acme")
        assert await record.may_be("a tenant that nobody has")

    # --- R36 ---

    async def test_r36_a_write_gives_all_its_records_one_revision(self, record: Record, reopen: Reopen) -> None:
        """What was written is there, also after the engine is gone, under a revision of its own (R36)."""
        before_us = time.time_ns() // 1000 - 1_000_000
        assert await put(record, StateWrite(key="a", value=b"1"), StateWrite(key="b", value=b"\x00\xff")) == 1
        assert await put(record, StateWrite(key="a", value=b""), collection="d") == 2
        assert await put(record, StateWrite(key="a", value=b"2"), StateWrite(key="b", value=None)) == 3
        await record.close()
        other = await reopen()
        assert await kept(other) == {"c/a": (b"2", 3), "d/a": (b"", 2)}
        (found,) = (await listed(other)).records
        assert (found.collection, found.key, found.expires_at_us) == ("c", "a", 0)
        assert found.updated_at_us > before_us

    async def test_r36_revisions_are_never_given_twice(self, record: Record) -> None:
        """Each subject counts for itself, on behind what was deleted, expired or erased (R36)."""
        assert await put(record, StateWrite(key="a", value=b"1")) == 1
        assert await put(record, StateWrite(key="a", value=None)) == 2
        assert await put(record, StateWrite(key="nothing", value=None)) == 3
        assert await put(record, StateWrite(key="a", value=b"1"), subject="bob") == 1
        assert await put(record, StateWrite(key="a", value=b"1"), tenant="rival") == 1
        assert await put(record, StateWrite(key="a", value=b"1")) == 4
        await record.delete_state("acme", subject="ana", collection="c", prefix="", count_max=9)
        await erase(record)
        await record.reopen("acme", subject="ana")
        assert await put(record, StateWrite(key="a", value=b"1", expected_revision=0)) == 5

    async def test_r36_a_conflict_writes_nothing(self, record: Record, raw: RawRecord) -> None:
        """The first write that expects what is not so is named with the record's revision, and none is done (R36)."""
        await put(record, StateWrite(key="a", value=b"1"), StateWrite(key="b", value=b"1"))
        await put(record, StateWrite(key="b", value=b"2"))
        before = await kept(record)
        for expected, index, revision in (((1, 1, None), 1, 2), ((0, 1, 0), 0, 1), ((1, 2, 7), 2, 0)):
            with pytest.raises(VersionConflict) as refused:
                await put(
                    record,
                    StateWrite(key="a", value=None, expected_revision=expected[0]),
                    StateWrite(key="b", value=b"3", expected_revision=expected[1]),
                    StateWrite(key="new", value=b"3", expected_revision=expected[2]),
                )
            assert refused.value.metadata == {"key_index": str(index), "current_version": str(revision)}
            assert refused.value.field == f"writes[{index}].expected_revision"
            assert await kept(record) == before
        assert await put(record, StateWrite(key="a", value=None, expected_revision=1)) == 3

    @pytest.mark.parametrize("handles", [1, 2])
    async def test_r36_one_writer_wins(self, record: Record, reopen: Reopen, handles: int) -> None:
        """Of concurrent writes that expect one revision exactly one wins, the first write included (R36)."""
        records = [record, *[await reopen() for _ in range(handles - 1)]]
        revision = 0
        for turn_no in range(4):
            tries = [
                put(
                    records[number % handles],
                    StateWrite(key="shared", value=str(number).encode(), expected_revision=revision),
                    StateWrite(key=f"{turn_no}-{number}", value=b"mine"),
                )
                for number in range(16)
            ]
            done = await asyncio.gather(*tries, return_exceptions=True)
            (revision,) = [one for one in done if isinstance(one, int)]
            winner = next(number for number, one in enumerate(done) if isinstance(one, int))
            assert all(isinstance(one, int | VersionConflict) for one in done), done
            found = await kept(record)
            assert found["c/shared"] == (str(winner).encode(), revision)
            assert [key for key in found if key.startswith(f"c/{turn_no}-")] == [f"c/{turn_no}-{winner}"]

    async def test_r36_writers_of_other_keys_all_win(self, record: Record, reopen: Reopen) -> None:
        """Writes that expect nothing of each other are all done, each under a revision of its own (R36)."""
        records = [record, await reopen()]
        tries = (put(records[n % 2], StateWrite(key=f"k{n}", value=b"v", expected_revision=0)) for n in range(32))
        assert sorted(await asyncio.gather(*tries)) == list(range(1, 33))

    # --- R37 ---

    async def test_r37_reads_keep_the_order_of_their_keys(self, record: Record) -> None:
        """Records come in the order in which they are named, without those that are not there (R37, R11)."""
        await put(record, *(StateWrite(key=key, value=key.encode()) for key in "abc"))
        await put(record, StateWrite(key="a", value=b"other"), collection="d")
        await put(record, StateWrite(key="a", value=b"bob"), subject="bob")
        read = StateRead(tenant="acme", subject="ana", collection="c", keys=["c", "x", "a"], bytes_max=99)
        found, nothing, bob = await record.fetch(
            [read, replace(read, tenant="rival"), replace(read, subject="bob", keys=["a"])]
        )
        assert isinstance(found, StateFound)
        assert [(one.key, one.value) for one in found.records] == [("c", b"c"), ("a", b"a")]
        assert not found.more
        assert nothing == StateFound(records=[], more=False)
        assert isinstance(bob, StateFound)
        assert [one.value for one in bob.records] == [b"bob"]

    async def test_r37_a_read_stops_before_what_it_has_no_room_for(self, record: Record) -> None:
        """Keys and values count, the first record always comes, and what is left is said (R37)."""
        await put(record, *(StateWrite(key=key, value=b"x" * 9) for key in "abc"))
        for bytes_max, count in ((1, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3)):
            reads: list[Read] = [
                StateRead(tenant="acme", subject="ana", collection="c", keys=["a", "b", "c"], bytes_max=bytes_max),
                StateList(tenant="acme", subject="ana", collection="c", count_max=9, bytes_max=bytes_max),
                StateAll(tenant="acme", subject="ana", count_max=9, bytes_max=bytes_max),
            ]
            for found in await record.fetch(reads):
                assert isinstance(found, StateFound)
                assert [one.key for one in found.records] == ["a", "b", "c"][:count]
                assert found.more == (count < 3)
        bare = await listed(record, keys_only=True, bytes_max=3)
        assert [(one.key, one.value) for one in bare.records] == [("a", b""), ("b", b""), ("c", b"")]
        assert not bare.more

    @given(data=st.data())
    @shared_store
    async def test_r37_lists_are_in_the_order_of_bytes(self, record: Record, data: st.DataObject) -> None:
        """Any keys, prefix and size of page give what sorting their bytes gives, both ways, page by page (R37)."""
        texts = st.text(st.sampled_from(" Aa/\u00e9\ud7ff\ue000\uffff\U00010000\U0010ffff~"), min_size=1, max_size=5)
        keys = data.draw(st.sets(texts, min_size=1, max_size=12))
        prefix = data.draw(st.one_of(st.just(""), texts.map(lambda text: text[:2])))
        count_max = data.draw(st.integers(1, 5))
        tenant = fresh("tenant")
        await put(record, *(StateWrite(key=key, value=key.encode()) for key in sorted(keys)), tenant=tenant)
        expected = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)
        for descending in (False, True):
            found: list[str] = []
            more, after = True, ""
            while more:
                page = await listed(
                    record,
                    tenant=tenant,
                    prefix=prefix,
                    after_key=after,
                    descending=descending,
                    count_max=count_max,
                )
                assert len(page.records) == count_max or not page.more
                found += [one.key for one in page.records]
                more, after = page.more, found[-1] if found else ""
            assert found == (expected[::-1] if descending else expected)

    async def test_r37_all_collections_are_listed(self, record: Record) -> None:
        """A subject's records come by collection and key, page by page (R37)."""
        for collection in ("b", "a"):
            await put(record, StateWrite(key="2", value=b"v"), StateWrite(key="1", value=b"v"), collection=collection)
        await put(record, StateWrite(key="1", value=b"v"), subject="bob")
        found: list[tuple[str, str]] = []
        more = True
        while more:
            after = found[-1] if found else ("", "")
            page = await one(
                record,
                StateAll(tenant="acme", subject="ana", after=after, count_max=3, bytes_max=99),
                StateFound,
            )
            found += [(one.collection, one.key) for one in page.records]
            more = page.more
        assert found == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]

    async def test_r37_a_prefix_is_deleted_in_pieces(self, record: Record) -> None:
        """Each call deletes so many, in order, and says whether some are left; others stay (R37)."""
        await put(record, *(StateWrite(key=key, value=b"v") for key in ("a", "b", "b/1", "b/2", "b/3", "c")))
        await put(record, StateWrite(key="b/1", value=b"v"), collection="d")
        what: dict[str, Any] = {"subject": "ana", "collection": "c", "prefix": "b/"}
        assert await record.delete_state("rival", **what, count_max=9) == (0, False)
        assert await record.delete_state("acme", **what, count_max=2) == (2, True)
        assert await record.delete_state("acme", **what, count_max=1) == (1, False)
        assert await record.delete_state("acme", **what, count_max=1) == (0, False)
        assert list(await kept(record)) == ["c/a", "c/b", "c/c", "d/b/1"]
        assert await record.delete_state("acme", **{**what, "prefix": ""}, count_max=9) == (3, False)

    # --- R38 ---

    async def test_r38_what_has_expired_is_there_for_nobody(self, record: Record, raw: RawRecord) -> None:
        """No read, comparison or count of what was deleted knows it; a record that was kept goes on (R38)."""
        writes = [StateWrite(key=key, value=b"v", keep_us=3_600_000_000) for key in ("gone", "there")]
        await put(record, *writes, StateWrite(key="ever", value=b"v"))
        found = {one.key: one for one in (await listed(record)).records}
        assert found["gone"].expires_at_us == found["gone"].updated_at_us + 3_600_000_000
        raw.set_expires_at("acme", "gone", 1)
        assert list(await kept(record)) == ["c/ever", "c/there"]
        assert [one.key for one in (await listed(record)).records] == ["ever", "there"]
        read = StateRead(tenant="acme", subject="ana", collection="c", keys=["gone", "ever"], bytes_max=99)
        assert [one.key for one in (await one(record, read, StateFound)).records] == ["ever"]
        with pytest.raises(VersionConflict) as refused:
            await put(record, StateWrite(key="gone", value=b"new", expected_revision=1))
        assert refused.value.metadata["current_version"] == "0"
        await put(record, StateWrite(key="gone", value=b"new", expected_revision=0))
        assert (await kept(record))["c/gone"] == (b"new", 2)
        raw.set_expires_at("acme", "there", 1)
        assert await record.delete_state("acme", subject="ana", collection="c", prefix="", count_max=9) == (2, False)

    async def test_r38_expired_records_are_removed_in_pieces(self, record: Record, raw: RawRecord) -> None:
        """Those of all tenants go, the longest ago first, and no others (R38)."""
        for at, (tenant, subject) in enumerate((("acme", "ana"), ("acme", "bob"), ("rival", "ana")), 1):
            for key in ("old", "new"):
                write = StateWrite(key=f"{tenant}-{subject}-{key}", value=b"v", keep_us=3_600_000_000)
                await put(record, write, tenant=tenant, subject=subject)
            raw.set_expires_at(tenant, f"{tenant}-{subject}-old", at)
        assert await record.expire_state(count_max=2) == 2
        assert raw.rows()["state"] == 4
        assert await record.expire_state(count_max=9) == 1
        assert await record.expire_state(count_max=9) == 0
        assert list(await kept(record)) == ["c/acme-ana-new"]
        assert list(await kept(record, tenant="rival")) == ["c/rival-ana-new"]

    # --- R39 ---

    async def test_r39_a_subject_has_so_many_records(
        self, record: Record, raw: RawRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What would make more than state_records_max is refused whole; deletions in the same write make room (R39)."""
        monkeypatch.setattr(limits, "state_records_max", 3)
        await put(record, *(StateWrite(key=key, value=b"v", keep_us=3_600_000_000) for key in "abc"))
        with pytest.raises(LimitExceeded) as refused:
            await put(record, StateWrite(key="a", value=b"2"), StateWrite(key="d", value=b"v"), collection="d")
        assert refused.value.metadata == {"limit": "state_records_max", "maximum": "3", "actual": "5"}
        assert {value for value, _ in (await kept(record)).values()} == {b"v"}
        await put(
            record, StateWrite(key="a", value=b"2"), StateWrite(key="b", value=None), StateWrite(key="d", value=b"v")
        )
        await record.delete_state("acme", subject="ana", collection="c", prefix="a", count_max=9)
        raw.set_expires_at("acme", "c", 1)
        assert await record.expire_state(count_max=9) == 1
        await put(record, StateWrite(key="e", value=b"v"), StateWrite(key="f", value=b"v"))
        monkeypatch.setattr(limits, "state_records_max", 1)
        await put(record, StateWrite(key="e", value=b"less, and still too much"), StateWrite(key="f", value=None))
        with pytest.raises(LimitExceeded):
            await put(record, StateWrite(key="g", value=b"v"))
        await put(record, StateWrite(key="g", value=b"v"), subject="bob")

    # --- R40 ---

    async def test_r40_an_erased_subject_has_no_records(self, record: Record, raw: RawRecord) -> None:
        """They go with the mark, are counted, and none comes behind it; those of others stay (R40, P11)."""
        await put(record, *(StateWrite(key=key, value=b"secret of ana") for key in "abc"))
        await put(record, StateWrite(key="d", value=b"v"), collection="d")
        await put(record, StateWrite(key="a", value=b"bob"), subject="bob")
        await put(record, StateWrite(key="a", value=b"rival"), tenant="rival")
        marked = await record.erase("acme", subject="ana")
        assert marked.records == 4
        assert raw.rows()["state"] == 2
        assert await kept(record) == {}
        for expected in (None, 0):
            with pytest.raises(Erased):
                await put(record, StateWrite(key="a", value=b"late", expected_revision=expected))
        assert await record.delete_state("acme", subject="ana", collection="c", prefix="", count_max=9) == (0, False)
        assert (await erase(record)).records == 4
        assert await one(record, ErasureRead(tenant="acme", subject="ana"), Erasure) == await erase(record)
        await record.reopen("acme", subject="ana")
        await put(record, StateWrite(key="a", value=b"anew", expected_revision=0))
        assert (await record.erase("acme", subject="ana")).records == 1

    async def test_r40_an_erased_session_leaves_records(self, record: Record) -> None:
        """Records are the subject's, not a session's: they go with the subject alone (R40)."""
        await record.append(turn())
        await put(record, StateWrite(key="a", value=b"v"))
        assert (await erase(record, session="s")).records == 0
        assert list(await kept(record)) == ["c/a"]

    async def test_r40_a_rebuild_leaves_records(self, record: Record) -> None:
        """They are no projection of the log (R40, R15)."""
        await record.append(turn())
        await put(record, StateWrite(key="a", value=b"v"))
        await record.drop_derived()
        assert await kept(record) == {"c/a": (b"v", 1)}
        assert await put(record, StateWrite(key="a", value=b"w", expected_revision=1)) == 2

    async def test_r40_a_write_and_an_erasure_are_ordered(self, record: Record, reopen: Reopen, raw: RawRecord) -> None:
        """Of writes that race with the erasure of their subject, each is erased or refused: none is left (R40)."""
        other = await reopen()
        for number in range(8):
            subject = f"subject-{number}"
            racing = [put(other, StateWrite(key=f"k{n}", value=b"v"), subject=subject) for n in range(6)]
            done = await asyncio.gather(*racing, record.erase("acme", subject=subject), return_exceptions=True)
            assert all(isinstance(one, int | Erased | Erasure) for one in done), done
        assert raw.rows()["state"] == 0
