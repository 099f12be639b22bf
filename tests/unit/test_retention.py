"""Sweepers: every log that has outstayed its time goes once, in bounded batches, whatever fails beside it."""

from __future__ import annotations

import asyncio
import io
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sidecar import hydrate, limits, recall
from sidecar.embedders import Embedders
from sidecar.errors import HotUnavailable
from sidecar.retention import Retention
from sidecar.scope import ScopeMemory, Scopes
from sidecar.stores.memory import MemoryHot
from sidecar.stores.record import ExpiredRead, Read, ScopeRead
from sidecar.stores.sqlite import SqliteRecord
from sidecar.telemetry import Log, Telemetry
from tests.contract.record_suite import item, orders, turn
from tests.faults.work import DIMENSIONS, MODEL, StandIn

QUERY = recall.Query.of("xylophone", np.eye(1, DIMENSIONS, dtype=np.float32)[0], model=MODEL)


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


def outstay(path: Path, session: str = "%") -> None:
    """Let the time of sessions pass."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        db.execute("UPDATE sessions SET updated_at_us = 1 WHERE session LIKE ?", (session,))


class DeafHot(MemoryHot[Any]):
    """Does not forget some sessions until it is mended."""

    deaf: frozenset[str] = frozenset()

    async def forget(self, tenant: str, session: str) -> None:
        if session in self.deaf:
            raise HotUnavailable("does not answer")
        await super().forget(tenant, session)


def sweeper(record: Any, hot: DeafHot | None = None) -> Retention:
    """Return one with metrics of its own."""
    return Retention(record, hot or DeafHot(), Telemetry(Log(io.StringIO())))


def swept(retention: Retention) -> tuple[float, float]:
    """Return (sessions swept, failures) as they are counted."""
    telemetry = retention.telemetry
    return telemetry.swept_sessions._value.get(), telemetry.sweep_failures._value.get()


async def test_batches_are_bounded_and_all_go(
    record: SqliteRecord, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are due, each look lists sweep_batch_max at most, and one sweep takes them all."""
    due = 2 * limits.sweep_batch_max + 5
    for number in range(due):
        await record.append(turn(f"s-{number}", keep_s=1))
    await record.append(turn("kept"))
    outstay(path)
    listed: list[int] = []
    fetch = record.fetch

    async def counting(reads: Sequence[Read], **fields: Any) -> list[Any]:
        answers = await fetch(reads, **fields)
        listed.extend(len(answer) for read, answer in zip(reads, answers, strict=True) if isinstance(read, ExpiredRead))
        return answers

    monkeypatch.setattr(record, "fetch", counting)
    retention = sweeper(record)
    assert await retention.sweep() == due
    assert listed == [limits.sweep_batch_max, limits.sweep_batch_max, 5]
    assert (swept(retention), await retention.sweep()) == ((due, 0), 0)
    await retention.measure()
    assert retention.telemetry.record_sessions._value.get() == 1
    assert retention.telemetry.sweep_lag_seconds._value.get() == 0


async def test_many_sweepers_remove_each_log_once(record: SqliteRecord, path: Path) -> None:
    """Sweepers that run at once share the work: together they count each session once."""
    for number in range(20):
        await record.append(turn(f"s-{number}", keep_s=1))
    outstay(path)
    assert sum(await asyncio.gather(*(sweeper(record).sweep() for _ in range(4)))) == 20


async def test_a_hot_store_that_does_not_answer_is_asked_again(record: SqliteRecord, path: Path) -> None:
    """The log is gone at once; the session stays listed until the hot store forgot it, and holds up no other."""
    for session in ("a", "b"):
        await record.append(turn(session, keep_s=1))
    outstay(path)
    hot = DeafHot()
    hot.deaf = frozenset("a")
    retention = sweeper(record, hot)
    assert (await retention.sweep(), swept(retention)) == (2, (2, 1))
    assert await record.fetch([ExpiredRead(count_max=9)]) == [[("acme", "a")]]
    hot.deaf = frozenset()
    assert (await retention.sweep(), swept(retention)) == (0, (2, 1))
    assert await record.fetch([ExpiredRead(count_max=9)]) == [[]]


async def test_it_goes_on_by_itself(record: SqliteRecord, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweeper that runs looks again each sweep_pause_s or so, also after the store had failed it."""
    monkeypatch.setattr(limits, "sweep_pause_s", 0.01)
    broken = [True]

    async def failing(reads: Sequence[Read], **fields: Any) -> list[Any]:
        if broken:
            broken.clear()
            raise HotUnavailable("a store")
        return await SqliteRecord.fetch(record, reads, **fields)

    monkeypatch.setattr(record, "fetch", failing)
    retention = sweeper(record)
    task = asyncio.create_task(retention.run())
    await record.append(turn("s", keep_s=1))
    outstay(path)
    while swept(retention) != (1, 0):
        await asyncio.sleep(0.01)
    task.cancel()


async def test_a_block_holds_nothing_that_is_gone(record: SqliteRecord, path: Path) -> None:
    """A block that had seen a log is read anew: what is gone is not counted, ranked or listed (P11)."""
    await orders(record, model=MODEL)
    for session, text in (("s", "my xylophone"), ("other", "my plum tree"), ("s", "a second xylophone")):
        words = recall.pack_terms(recall.terms(text))
        new = [item(text), item(text + " again", chunk=1)]
        await record.append(turn(session, keep_s=int(session == "s"), items=[replace(one, terms=words) for one in new]))
    (order,) = await orders(record, model=MODEL)
    vector = recall.pack_vector(*recall.quantise(np.eye(1, DIMENSIONS, dtype=np.float32)[0]))
    assert await record.put_vectors(order, model=MODEL, vectors=[vector] * 5)
    embedding = StandIn()
    scopes = Scopes(record, Embedders(lambda: [embedding]))
    before = await scopes.load("acme", "ana")
    outstay(path, "s")
    assert await record.sweep("acme", "s")
    read = before.read()
    (state,) = await record.fetch([read])
    after = await scopes.settle(before, read, state)
    assert after is scopes.held("acme", "ana") is not before
    assert (after.epoch, after.position, after.vector_position) == (1, 6, 5)
    ranked = _rank(after)
    assert (ranked.total, [ranked.at(place).item.session for place in range(len(ranked.indices))]) == (2, ["other"] * 2)
    assert list(ranked.unlisted()) == []
    assert _rank(after, position=2).total == 0
    assert await scopes.at("acme", "ana", position=6, model=MODEL) is after
    assert (await scopes.at("acme", "ana", position=4, model="other")).epoch == 1


def _rank(memory: Any, *, position: int = 6) -> Any:
    return memory.rank(
        QUERY, position=position, vector_position=5, tokenizer="o200k_base", count=len, session="", floor=False
    )


async def test_a_block_is_of_one_epoch(record: SqliteRecord, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep amid a load of many pages makes it start again: no block holds items of two epochs (P11)."""
    for number in range(6):
        await record.append(turn(f"s-{number % 2}", texts=[f"text{number}"], keep_s=1))
    pages = 0

    async def sweeping(reads: Sequence[Read], **fields: Any) -> list[Any]:
        nonlocal pages
        pages += isinstance(reads[0], ScopeRead)
        if pages == 3:
            outstay(path, "s-0")
            assert await record.sweep("acme", "s-0")
        return await SqliteRecord.fetch(record, reads, **fields)

    monkeypatch.setattr(record, "fetch", sweeping)
    monkeypatch.setattr(ScopeMemory.read, "__kwdefaults__", {"count_max": 2})
    memory = await Scopes(record, Embedders()).load("acme", "ana")
    assert memory.epoch == 1
    assert [one.text for one in memory.turns.items] == ["text1", "text3", "text5"]


def test_what_may_have_been_removed_is_asked_for() -> None:
    """However near a hydrate wants its data, past a log's time it is the record store that says what there is (P11)."""
    now_us = time.time_ns() // 1000
    fresh, old = (SimpleNamespace(version=1, committed_at_us=now_us - age_s * 1_000_000) for age_s in (3500, 3700))
    for kept_s, expected in ((3600, (False, True)), (0, (False, False))):
        rules: Any = SimpleNamespace(session_log_s=kept_s)
        assert tuple(hydrate._outlived(view, rules) for view in (fresh, old)) == expected  # type: ignore[arg-type]
