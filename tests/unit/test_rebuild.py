"""Rebuilding: everything derived comes back from the log alone, and a log that was touched is named (P9)."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar import analysis, canonical, limits, rebuild
from sidecar.errors import StoreCorrupt
from sidecar.stores.record import (
    EventKind,
    EventsRead,
    NewEvent,
    Scope,
    ScopeRead,
    ScopeState,
    SessionRead,
    StoredEvent,
)
from sidecar.stores.sqlite import SqliteRecord
from standpipe.v1 import turn_pb2
from tests.contract.record_suite import orders
from tests.unit.conversation import STARTED_US, Entry, answer, call, say

MODEL = "m"


def words(text: str) -> int:
    """Count without a tokenizer."""
    return len(text.split())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "record.db"


@pytest.fixture
async def record(path: Path) -> AsyncIterator[SqliteRecord]:
    """Open a store."""
    store = SqliteRecord(path)
    await store.open()
    await orders(store, model=MODEL, count_max=1)
    yield store
    await store.close()


async def commit(
    record: SqliteRecord, session: str, *entries: Entry, subject: str = "ana", tenant: str = "acme"
) -> int:
    """Append a turn, analysed as a commit does; return its version."""
    turn = turn_pb2.Turn(entries=entries)
    stored = analysis.analyse(turn, {"words": words}, received_at_us=STARTED_US)
    body = stored.SerializeToString(deterministic=True)
    event = NewEvent(
        tenant=tenant,
        session=session,
        subject=subject,
        request_id=f"r-{time.perf_counter_ns()}",
        digest=canonical.sha256((body,)),
        expected_version=None,
        kind=EventKind.TURN,
        body=body,
        weight_bytes=analysis.weight_bytes(turn),
        items=analysis.items(stored),
        opened_calls=[entry.tool_call.id for entry in entries if entry.HasField("tool_call")],
        answered_calls=[entry.tool_result.call_id for entry in entries if entry.HasField("tool_result")],
    )
    return (await record.append(event)).version


async def fill(record: SqliteRecord) -> None:
    """Write interleaved sessions of several subjects and tenants, with calls, ends and long messages."""
    for number in range(12):
        session = f"s-{number % 3}"
        await commit(record, session, say(f"I need {number} tickets. " * (number + 1)), call(f"c-{number}"))
        await commit(record, session, answer(f"c-{number}", f"found {number}"), say("fine", role=3))
        await commit(record, "theirs", say(f"rival {number}"), tenant="rival", subject="eve")
    end = turn_pb2.SessionEnd(cause="done").SerializeToString()
    await record.append(
        NewEvent(
            tenant="acme", session="s-0", subject="", request_id="end", digest=bytes(32), expected_version=None,
            kind=EventKind.END, body=end, weight_bytes=0,
        )
    )  # fmt: skip


async def everything(record: SqliteRecord) -> list[Any]:
    """Return what reads show of the log and of what is derived from it."""
    reads: list[Any] = [
        ScopeRead(tenant=tenant, subject=subject, model="") for tenant, subject in (("acme", "ana"), ("rival", "eve"))
    ]
    reads += [
        EventsRead(tenant="acme", session=f"s-{number}", after_version=0, count_max=999, bytes_max=1 << 30)
        for number in range(3)
    ]
    reads += [SessionRead(tenant="acme", session=f"s-{number}", tokenizer="words") for number in range(3)]
    return await record.fetch(reads)


async def test_what_is_derived_comes_back_equal(record: SqliteRecord) -> None:
    """P9: items, positions, terms and counts are those of before, for every tenant; the log was not touched."""
    await fill(record)
    before = await everything(record)
    seen: list[tuple[int, int]] = []
    assert await rebuild.rebuild(record, progress=lambda *done: seen.append(done)) == (4, 37)
    assert await everything(record) == before
    assert seen[-1] == (4, 37)
    assert seen == sorted(seen)
    assert await rebuild.rebuild(record) == (4, 37)
    assert await everything(record) == before


async def test_long_logs_come_back_in_pages(record: SqliteRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: also when sessions and events are read in pages of a few."""
    await fill(record)
    before = await everything(record)
    monkeypatch.setattr(limits, "page_max", 2)
    monkeypatch.setattr(limits, "page_bytes", 300)
    await rebuild.rebuild(record)
    assert await everything(record) == before


async def test_an_empty_store_is_rebuilt(record: SqliteRecord) -> None:
    """Nothing comes of nothing."""
    assert await rebuild.rebuild(record) == (0, 0)


async def test_vectors_are_ordered_again(record: SqliteRecord) -> None:
    """P9: vectors are dropped with the items, and the work order for all of them stands."""
    await fill(record)
    scope = Scope(tenant="acme", subject="ana", position=0, vector_position=0)
    assert await record.put_vectors(scope, model=MODEL, vectors=[b"v"] * 5)
    await rebuild.rebuild(record)
    lagging = {(one.tenant, one.subject): one for one in await orders(record, model=MODEL)}
    assert set(lagging) == {("acme", "ana"), ("rival", "eve")}
    assert all(one.vector_position == 0 and one.position > 0 for one in lagging.values())


async def test_serving_goes_on_meanwhile(record: SqliteRecord) -> None:
    """P9, P12: commits and reads during a rebuild work, recall never shows a gap, and in the end nothing is missing."""
    await fill(record)
    prefixes: list[list[int]] = []
    done = asyncio.Event()

    async def serve() -> None:
        number = 0
        while not done.is_set():
            number += 1
            await commit(record, "live", say(f"said meanwhile {number}"))
            (state,) = await record.fetch([ScopeRead(tenant="acme", subject="ana", model="")])
            assert isinstance(state, ScopeState)
            prefixes.append([item.position for item in state.items])

    serving = asyncio.create_task(serve())
    await asyncio.sleep(0.02)
    for _ in range(3):
        await rebuild.rebuild(record)
    done.set()
    await serving
    assert len(prefixes) > 3
    for positions in prefixes:
        assert positions == list(range(1, len(positions) + 1))
    before = await everything(record)
    (state,) = await record.fetch([ScopeRead(tenant="acme", subject="ana", model="")])
    assert isinstance(state, ScopeState)
    assert state.position == len(state.items)
    assert sum(item.text.startswith("said meanwhile") for item in state.items) == len(prefixes)
    await rebuild.rebuild(record)
    assert await everything(record) == before


def touch(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the engine's back."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        assert db.execute(statement, values).rowcount == 1


@pytest.mark.parametrize(
    ("change", "version"),
    [
        ("UPDATE events SET body = x'00' WHERE session = 's-1' AND version = 3", 3),
        ("UPDATE events SET request_id = 'other' WHERE session = 's-1' AND version = 1", 1),
        ("UPDATE events SET committed_at_us = 1 WHERE session = 's-1' AND version = 8", 8),
        ("UPDATE events SET event_hash = zeroblob(32) WHERE session = 's-1' AND version = 2", 2),
        ("UPDATE events SET previous_hash = zeroblob(32) WHERE session = 's-1' AND version = 5", 5),
        ("UPDATE events SET kind = 2 WHERE session = 's-1' AND version = 4", 4),
    ],
)
async def test_a_changed_event_is_found_and_named(record: SqliteRecord, path: Path, change: str, version: int) -> None:
    """P1: any change of a stored event breaks the chain at its version, and the error names it (R5)."""
    await fill(record)
    touch(path, change)
    with pytest.raises(StoreCorrupt) as caught:
        await rebuild.rebuild(record)
    assert caught.value.metadata["version"] == str(version)


@pytest.mark.parametrize("version", [1, 4, 8])
async def test_a_lost_event_is_found(record: SqliteRecord, path: Path, version: int) -> None:
    """P1: an event that is gone is StoreCorrupt, be it the first, in the middle or the last."""
    await fill(record)
    touch(path, f"DELETE FROM events WHERE session = 's-1' AND version = {version}")
    with pytest.raises(StoreCorrupt) as caught:
        await rebuild.rebuild(record)
    assert caught.value.metadata["version"] in (str(version), str(version + 1))


async def test_a_forged_last_event_is_found(record: SqliteRecord, path: Path) -> None:
    """P1: an event that was rewritten with a fitting hash does not fit what the session says of its head."""
    await fill(record)
    (page,) = await record.fetch(
        [EventsRead(tenant="acme", session="s-1", after_version=7, count_max=1, bytes_max=1 << 20)]
    )
    event = page[0]  # type: ignore[index]
    forged = canonical.event_hash(
        event.previous_hash, tenant="acme", session="s-1", version=8, kind=event.kind, request_id=event.request_id,
        committed_at_us=7, body=event.body,
    )  # fmt: skip
    touch(path, "UPDATE events SET committed_at_us = 7, event_hash = ? WHERE session = 's-1' AND version = 8", forged)
    with pytest.raises(StoreCorrupt):
        await rebuild.rebuild(record)


def chain(length: int) -> list[StoredEvent]:
    """Return events that follow each other."""
    events: list[StoredEvent] = []
    for version in range(1, length + 1):
        previous = events[-1].event_hash if events else canonical.NO_HASH
        values: dict[str, Any] = {
            "session": "s", "version": version, "kind": EventKind.TURN, "request_id": f"r-{version}",
            "committed_at_us": version, "body": bytes([version]),
        }  # fmt: skip
        mac = canonical.event_hash(previous, tenant="acme", **values)
        events.append(StoredEvent(**values, previous_hash=previous, event_hash=mac, weight_end_bytes=0, position_end=0))
    return events


def broken(events: Sequence[StoredEvent], previous: bytes | None = canonical.NO_HASH, tenant: str = "acme") -> str:
    """Return the version that the check names."""
    with pytest.raises(StoreCorrupt) as caught:
        rebuild.check_chain(tenant, list(events), previous)
    return caught.value.metadata["version"]


def test_the_chain_is_checked_link_by_link() -> None:
    """P1: a whole chain passes in any pages; one that is reordered, cut, or of another tenant does not."""
    events = chain(6)
    last = rebuild.check_chain("acme", events, canonical.NO_HASH)
    assert last == events[-1].event_hash
    middle = rebuild.check_chain("acme", events[:3], canonical.NO_HASH)
    assert rebuild.check_chain("acme", events[3:], middle) == last
    assert rebuild.check_chain("acme", events[3:], None) == last
    assert rebuild.check_chain("acme", [], None) == canonical.NO_HASH
    assert broken(events[1:]) == "2"
    assert broken([events[0], events[2]]) == "3"
    assert broken([events[1], events[0]]) == "2"
    assert broken(events, tenant="rival") == "1"
    assert broken(events[3:], events[0].event_hash) == "4"


async def test_a_swept_session_is_no_gap(record: SqliteRecord, path: Path) -> None:
    """P9: rebuild passes over a session whose log was removed, and the others come back where they were."""
    await fill(record)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE sessions SET updated_at_us = 1, keep_us = 1 WHERE session = 's-1'")
    assert await record.sweep("acme", "s-1")
    before = await everything(record)
    assert await rebuild.rebuild(record) == (3, 29)
    assert await everything(record) == before


async def test_a_session_may_be_swept_amid_a_rebuild(
    record: SqliteRecord, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: whichever read of the log a sweep comes before, rebuild ends well, and leaves no gap."""
    await fill(record)
    fetch, restore, steps = SqliteRecord.fetch, SqliteRecord.restore_items, 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps in (3, 12):  # while the log is checked; while it is read back
            session = "s-1" if steps == 3 else "s-2"
            with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
                db.execute("UPDATE sessions SET updated_at_us = 1, keep_us = 1 WHERE session = ?", (session,))
            assert await record.sweep("acme", session)

    async def fetching(self: SqliteRecord, *args: Any, **fields: Any) -> Any:
        await step()
        return await fetch(self, *args, **fields)

    async def restoring(self: SqliteRecord, *args: Any, **fields: Any) -> None:
        await step()
        await restore(self, *args, **fields)

    monkeypatch.setattr(SqliteRecord, "fetch", fetching)
    monkeypatch.setattr(SqliteRecord, "restore_items", restoring)
    await rebuild.rebuild(record)
    assert steps > 12
    scope = (await everything(record))[0]
    assert [item.position for item in scope.items] == list(range(1, scope.position + 1))
    assert {item.session for item in scope.items if not item.gone} == {"s-0"}
    assert await rebuild.rebuild(record)
    assert (await everything(record))[0] == scope
