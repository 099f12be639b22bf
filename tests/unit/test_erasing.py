"""Erasers on a record store: what goes, what stays, and that whoever dies on the way is followed."""

from __future__ import annotations

import asyncio
import io
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar import canonical, limits
from sidecar.erasure import Eraser
from sidecar.errors import (
    DeadlineExceeded,
    Erased,
    InvalidField,
    Overloaded,
    StandpipeError,
    StoreUnavailable,
    SubjectMismatch,
)
from sidecar.log.v1 import log_pb2
from sidecar.names import EVERYONE, document_log, memory_log
from sidecar.rebuild import check_chain
from sidecar.receipt import Signer
from sidecar.retention import Retention
from sidecar.stores.memory import MemoryHot
from sidecar.stores.record import (
    ChangesRead,
    ErasureRead,
    EventKind,
    EventsRead,
    ExpiredRead,
    Head,
    HeadRead,
    ItemKind,
    NewEvent,
    NewItem,
    Record,
    ScopeState,
    StoredEvent,
)
from sidecar.stores.sqlite import SqliteRecord
from sidecar.telemetry import Log, Telemetry
from standpipe.v1 import fact_pb2, memory_pb2, turn_pb2
from tests.contract.record_suite import fresh, item

Cited = tuple[str, int, int]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nobody's memory."""
    monkeypatch.setattr(limits, "nearest_s", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "record.db"


@pytest.fixture
async def record(path: Path) -> AsyncIterator[SqliteRecord]:
    """Open a store."""
    store = SqliteRecord(path)
    await store.open()
    yield store
    await store.close()


class Forgetful(MemoryHot[Any]):
    """Remembers what it was told to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[str] = []

    async def forget(self, tenant: str, session: str) -> None:
        self.forgotten.append(session)
        await super().forget(tenant, session)


class Dropped:
    """A cache that remembers what it was told to forget."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    def forget(self, tenant: str, subject: str) -> None:
        self.subjects.append(subject)


def eraser(record: Record, hot: Forgetful | None = None, *caches: Dropped) -> Eraser:
    """Return one with metrics of its own."""
    return Eraser(
        record=record,
        hot=hot or Forgetful(),
        telemetry=Telemetry(Log(io.StringIO())),
        signer=Signer(bytes(32)),
        caches=caches,
    )


def asked(subject: str = "ana", **part: str) -> memory_pb2.EraseSubjectRequest:
    """Return a request."""
    return memory_pb2.EraseSubjectRequest(subject_id=subject, **part)


def fact(value: str, *cited: Cited) -> fact_pb2.MemoryChange:
    """Return a claim that rests on entries."""
    sources = [turn_pb2.EventRef(session_id=log, version=version, entry=entry) for log, version, entry in cited]
    return fact_pb2.MemoryChange(fact=fact_pb2.Fact(attribute="town", value=value, sources=sources))


def changes_in(first: int, changes: Sequence[fact_pb2.MemoryChange]) -> list[NewItem]:
    """Return the items of changes, from an entry on."""
    return [
        item(
            one.fact.value,
            entry=entry,
            kind=ItemKind.CHANGE,
            detail=log_pb2.ItemDetail(change=one).SerializeToString(),
        )
        for entry, one in enumerate(changes, first)
    ]


def event(session: str, body: bytes, items: Sequence[NewItem], kind: EventKind, subject: str) -> NewEvent:
    """Return an event to append."""
    return NewEvent(
        tenant="acme",
        session=session,
        subject=subject,
        request_id=fresh("request"),
        digest=canonical.sha256((body,)),
        expected_version=None,
        kind=kind,
        body=body,
        weight_bytes=len(body),
        items=items,
    )


def turn(session: str, text: str, *changes: fact_pb2.MemoryChange, subject: str = "ana") -> NewEvent:
    """Return a turn of one message that makes changes."""
    said = turn_pb2.Turn(entries=[turn_pb2.TurnEntry(message=turn_pb2.Message(text=text))])
    stored = log_pb2.StoredTurn(turn=said, changes=[log_pb2.StoredChange(change=one) for one in changes])
    items = [item(text), *changes_in(1, changes)]
    return event(session, stored.SerializeToString(), items, EventKind.TURN, subject)


def memory(*changes: fact_pb2.MemoryChange, subject: str = "ana", log: str = "") -> NewEvent:
    """Return changes of a subject's memory."""
    stored = log_pb2.StoredMemory(changes=[log_pb2.StoredChange(change=one) for one in changes])
    name = log or memory_log(subject)
    return event(name, stored.SerializeToString(), changes_in(0, changes), EventKind.MEMORY, subject)


async def values(record: Record, subject: str = "ana") -> list[str]:
    """Return the values of the claims that are left, by their items."""
    (state,) = await record.fetch([ChangesRead(tenant="acme", subject=subject)])
    assert isinstance(state, ScopeState)
    return [log_pb2.ItemDetail.FromString(one.detail).change.fact.value for one in state.items]


async def log(record: Record, session: str) -> list[StoredEvent]:
    """Return a log, its chain checked."""
    read = EventsRead(tenant="acme", session=session, after_version=0, count_max=100, bytes_max=1 << 20)
    (answer,) = await record.fetch([read])
    assert isinstance(answer, list)
    check_chain("acme", answer, None)
    return answer


async def story(record: Record) -> None:
    """Two sessions, claims in turns and outside, and somebody else."""
    for one in (
        turn("s", "I moved to Oslo"),
        turn("t", "nice weather", fact("from-t", ("t", 1, 0)), fact("in-t-from-s", ("s", 1, 0))),
        memory(fact("from-s", ("s", 1, 0)), fact("from-t-too", ("t", 1, 0))),
        memory(fact("from-the-first", (memory_log("ana"), 1, 0))),
        turn("b", "hello", fact("of-ben", ("b", 1, 0)), subject="ben"),
    ):
        await record.append(one)


async def test_a_session_goes_with_what_was_derived_from_it(record: SqliteRecord, path: Path) -> None:
    """Claims of other logs that rest on it are cut out, through others too; all else stays; the chains hold (P11)."""
    await story(record)
    hot, cache = Forgetful(), Dropped()
    receipt = await eraser(record, hot, cache).erase("acme", asked(session_id="s"), deadline=None)
    assert (receipt.logs, receipt.events, receipt.events_redacted, receipt.session_id) == (1, 1, 3, "s")
    assert await values(record) == ["from-t", "from-t-too"]
    assert await values(record, "ben") == ["of-ben"]
    (of_t,) = await log(record, "t")
    left = [one.change.fact.value for one in log_pb2.StoredTurn.FromString(of_t.body).changes]
    assert left == ["from-t", ""]
    bodies = b"".join(one.body for one in await log(record, memory_log("ana")))
    assert b"from-t-too" in bodies
    assert b"from-s" not in bodies
    assert b"from-the-first" not in bodies
    assert set(hot.forgotten) == {"s", "t", memory_log("ana")}
    assert set(cache.subjects) == {"ana"}
    with pytest.raises(Erased):
        await record.append(turn("s", "again"))
    await record.append(turn("t", "goes on"))


async def test_a_subject_goes_whole(record: SqliteRecord, path: Path) -> None:
    """All of its logs go, and nothing of others; the id takes nothing more."""
    await story(record)
    await record.append(memory(fact("a chapter"), log=document_log("ana", "book")))
    hot = Forgetful()
    receipt = await eraser(record, hot).erase("acme", asked(), deadline=None)
    assert (receipt.logs, receipt.events, receipt.events_redacted) == (4, 5, 0)
    assert set(hot.forgotten) == {"s", "t", memory_log("ana"), document_log("ana", "book")}
    assert await values(record) == []
    assert await values(record, "ben") == ["of-ben"]
    (head,) = await record.fetch([HeadRead(tenant="acme", session="s")])
    assert isinstance(head, Head)
    assert head.erased
    assert await record.fetch([ExpiredRead(count_max=9)]) == [[]]
    for refused in (turn("s", "x"), turn("new", "x"), memory(fact("x", ("b", 1, 0)))):
        with pytest.raises(Erased):
            await record.append(refused)


async def test_a_document_of_everyone_goes_from_all_memories(record: SqliteRecord) -> None:
    """Whoever's claims rest on it, in whatever log, lose them; other subjects' other claims stay."""
    book = document_log(EVERYONE, "book")
    await record.append(memory(fact("a chapter"), subject=EVERYONE, log=book))
    for number in range(70):  # more subjects than are read at once
        name = f"s-{number}"
        await record.append(turn(name, "hello", subject=name))
        await record.append(memory(fact("from the book", (book, 1, 0)), fact("own", (name, 1, 0)), subject=name))
    receipt = await eraser(record).erase("acme", asked("", document_id="book"), deadline=None)
    assert (receipt.subject_id, receipt.document_id, receipt.logs, receipt.events_redacted) == ("", "book", 1, 70)
    for number in range(70):
        assert await values(record, f"s-{number}") == ["own"]


async def test_again_it_gives_the_same_receipt(record: SqliteRecord) -> None:
    """Called again, at once or later, by whatever process, it changes nothing; and the receipt is signed."""
    await story(record)
    first, second = eraser(record), eraser(record)
    receipts = await asyncio.gather(*(one.erase("acme", asked(), deadline=None) for one in (first, first, second)))
    receipts.append(await second.erase("acme", asked(), deadline=None))
    assert len({one.SerializeToString(deterministic=True) for one in receipts}) == 1
    assert Signer(bytes(32)).signed_erasure(receipts[0])


STEPS = ("erase", "sweep", "forget", "forgotten", "redact", "scrub", "finish_erasure")


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("step", STEPS)
async def test_whoever_dies_is_followed(
    record: SqliteRecord, path: Path, monkeypatch: pytest.MonkeyPatch, step: str, nth: int, after: bool
) -> None:
    """Killed before or behind any step, an erasure is finished by another's retention; no byte is left in the files."""
    await story(record)
    hot = Forgetful()
    target: Any = hot if step == "forget" else record
    whole = getattr(target, step)
    calls = 0

    async def deadly(*args: Any, **fields: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            raise Killed
        done = await whole(*args, **fields)
        if calls == nth:
            raise Killed
        return done

    with monkeypatch.context() as patch:
        patch.setattr(target, step, deadly)
        killed = eraser(record, hot)
        try:
            await killed.erase("acme", asked(session_id="s"), deadline=None)
        except Killed:
            assert calls == nth
    (marked,) = await record.fetch([ErasureRead(tenant="acme", subject="ana", session="s")])
    if marked is None:
        assert (step, nth, after) == ("erase", 1, False)  # nothing happened
        return
    telemetry = Telemetry(Log(io.StringIO()))
    next_hot = Forgetful()
    follower = Eraser(record=record, hot=next_hot, telemetry=telemetry)
    await follower.resume()
    assert await values(record) == ["from-t", "from-t-too"]
    if calls >= nth and step != "finish_erasure":
        assert {"t", memory_log("ana")} <= set(hot.forgotten) | set(next_hot.forgotten)
    files = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"nice weather" in files
    assert not [gone for gone in (b"moved to", b"from-s", b"in-t-from-s", b"from-the-first") if gone in files]
    receipt = await eraser(record).erase("acme", asked(session_id="s"), deadline=None)
    assert (receipt.logs, receipt.events, receipt.events_redacted) == (1, 1, 3)
    assert receipt.HasField("done_at")
    assert await follower.resume() == 0


async def test_two_who_cut_one_event_do_not_undo_each_other(
    record: SqliteRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read the event before either writes; afterwards neither's claim is back (P11)."""
    await record.append(turn("a", "one"))
    await record.append(turn("b", "two"))
    await record.append(memory(fact("from-a", ("a", 1, 0)), fact("from-b", ("b", 1, 0)), fact("own", ("c", 1, 0))))
    both = asyncio.Barrier(2)
    redact = SqliteRecord.redact
    met = 0

    async def together(self: SqliteRecord, *args: Any, **fields: Any) -> None:
        nonlocal met
        if met < 2:
            met += 1
            await both.wait()
        await redact(self, *args, **fields)

    monkeypatch.setattr(SqliteRecord, "redact", together)
    await asyncio.gather(
        *(eraser(record).erase("acme", asked(session_id=session), deadline=None) for session in ("a", "b"))
    )
    (left,) = await log(record, memory_log("ana"))
    assert [one.change.fact.value for one in log_pb2.StoredMemory.FromString(left.body).changes] == ["", "", "own"]


async def test_amid_a_rebuild_it_waits(record: SqliteRecord, path: Path) -> None:
    """While items are missing nobody knows what was derived: it is not taken for nothing, and not for gone."""
    await story(record)
    await record.append(turn("t", "later"))
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        db.execute("CREATE TABLE kept AS SELECT * FROM items")
        db.execute("DELETE FROM items WHERE position > 1")
        db.execute("UPDATE scopes SET items_position = 1 WHERE subject = 'ana'")
        with pytest.raises(StoreUnavailable):
            await eraser(record).erase("acme", asked(session_id="s"), deadline=None)
        db.execute("INSERT INTO items SELECT * FROM kept WHERE position > 1")
        db.execute("UPDATE scopes SET items_position = position WHERE subject = 'ana'")
    await eraser(record).erase("acme", asked(session_id="s"), deadline=None)
    assert await values(record) == ["from-t", "from-t-too"]


async def test_a_deadline_ends_the_wait_and_not_the_work(record: SqliteRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cannot wait is told so, and asks again for the same receipt."""
    await story(record)
    monkeypatch.setattr(limits, "nearest_s", 0.2)
    one = eraser(record)
    with pytest.raises(DeadlineExceeded):
        await one.erase("acme", asked(), deadline=time.monotonic() + 0.05)
    await one.drain()
    receipt = await eraser(record).erase("acme", asked(), deadline=time.monotonic() + 0.1)
    assert receipt.HasField("done_at")


async def test_an_erasure_outlasts_what_others_hold(record: SqliteRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not done before nearest_s have passed since the hot store forgot the last log."""
    monkeypatch.setattr(limits, "nearest_s", 0.3)
    await story(record)
    hot = Forgetful()
    task = asyncio.create_task(eraser(record, hot).erase("acme", asked(), deadline=None))
    while len(hot.forgotten) < 3:
        await asyncio.sleep(0.005)
    begun = time.monotonic()
    receipt = await task
    assert time.monotonic() - begun > 0.2
    assert receipt.done_at.ToMicroseconds() - receipt.asked_at.ToMicroseconds() > 250_000


async def test_erasures_at_work_are_bounded(record: SqliteRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond erasures_at_work_max a call is refused; it is marked, and the next look finishes it."""
    monkeypatch.setattr(limits, "erasures_at_work_max", 2)
    monkeypatch.setattr(limits, "nearest_s", 0.1)
    one = eraser(record)
    calls = [one.erase("acme", asked(f"s-{number}"), deadline=None) for number in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(Overloaded) == 1
    assert await one.resume() == 1
    assert await one.resume() == 0


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (asked(""), "subject_id"),
        (asked("~"), "subject_id"),
        (asked("ana", session_id="~m~ana"), "session_id"),
        (asked("ana", session_id=""), "session_id"),
        (asked("", session_id="s"), "subject_id"),
        (asked("ana", document_id="a b"), "document_id"),
    ],
)
async def test_bad_requests_name_their_field(
    record: SqliteRecord, request_: memory_pb2.EraseSubjectRequest, field: str
) -> None:
    """What names nothing erases nothing."""
    with pytest.raises(InvalidField) as refused:
        await eraser(record).erase("acme", request_, deadline=None)
    assert refused.value.field == field


async def test_another_subjects_session_is_not_erased(record: SqliteRecord) -> None:
    """A session goes only with its own subject's name."""
    await story(record)
    with pytest.raises(SubjectMismatch):
        await eraser(record).erase("acme", asked("ben", session_id="s"), deadline=None)
    assert len(await log(record, "s")) == 1


async def test_files_that_are_held_up_are_tried_again(record: SqliteRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be scrubbed yet delays the receipt, and one that never can fails the call."""
    monkeypatch.setattr("sidecar.erasure._SCRUB_PAUSE_S", 0.001)
    await story(record)
    scrub, failures = record.scrub, 3

    async def held_up() -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StoreUnavailable("readers are there")
        await scrub()

    monkeypatch.setattr(record, "scrub", held_up)
    await eraser(record).erase("acme", asked(session_id="s"), deadline=None)
    failures = 1000
    with pytest.raises(StandpipeError, match="readers"):
        await eraser(record).erase("acme", asked(), deadline=None)
    failures = 0
    retention = Retention(record, Forgetful(), Telemetry(Log(io.StringIO())), eraser(record))
    assert retention.eraser is not None
    assert await retention.eraser.resume() == 1
