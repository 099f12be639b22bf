"""The embedding projection: every item one vector, in order, whoever does the work and whatever fails (P9, P12)."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar import analysis, limits, recall
from sidecar.embedding import Embedding, Vector
from sidecar.errors import Internal, Overloaded, StandpipeError, StoreCorrupt, StoreUnavailable
from sidecar.orders import _pause_s
from sidecar.projection import _BATCH, _PAGE, EmbeddingProjection, _Pace
from sidecar.stores import sqlite
from sidecar.stores.record import ParkedRead, Record, ScopeRead, ScopeState
from sidecar.stores.sqlite import SqliteRecord
from sidecar.telemetry import Log, Telemetry
from standpipe.v1 import turn_pb2
from tests.contract.record_suite import claim, orders, turn

MODEL = "test@1/fp32"

Worker = Callable[..., EmbeddingProjection]


class Counting(Embedding):
    """Gives each text a vector of its own, fails where the text says so, and notes what it was asked."""

    id, dimensions, precision, provider, tokens_max = MODEL, 4, "fp32", "none", 256

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def embed_query(self, text: str, *, deadline_s: float) -> Vector:
        """Answer as for an item."""
        return (await self.embed_items([text], deadline_s=deadline_s))[0]

    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Answer with vectors that tell which texts they are of: all or none."""
        self.seen += texts
        await asyncio.sleep(0)
        if any(text.startswith("fail") for text in texts):
            raise Internal("an embedding run failed")
        return [vector_of(text) for text in texts]

    async def close(self) -> None:
        """Hold nothing."""


def vector_of(text: str) -> Vector:
    """Return what the model says of a text."""
    if text.startswith("nan"):
        return np.full(4, np.nan, np.float32)
    return np.array([1, len(text), sum(text.encode()), 7], np.float32)


def packed(text: str) -> bytes:
    """Return the vector that a text must have."""
    vector = np.zeros(4, np.float32) if text.startswith(("fail", "nan")) else vector_of(text)
    return recall.pack_vector(*recall.quantise(vector))


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[Record]:
    """Open a store."""
    store = SqliteRecord(tmp_path / "record.db")
    await store.open()
    await orders(store, model=MODEL)
    yield store
    await store.close()


@pytest.fixture
def worker(record: Record) -> Worker:
    """Make workers on the store; `store` stands in for it, `embedding` for the model."""

    def make(*, embedding: Any = None, store: Any = None) -> EmbeddingProjection:
        return EmbeddingProjection(store or record, embedding or Counting(), telemetry=Telemetry(Log(io.StringIO())))

    return make


async def vectors(record: Record, subject: str = "ana", tenant: str = "acme") -> tuple[Sequence[bytes], list[str]]:
    """Return a subject's vectors and its items' texts."""
    (state,) = await record.fetch([ScopeRead(tenant=tenant, subject=subject, model=MODEL)])
    assert isinstance(state, ScopeState)
    return state.vectors, [item.text for item in state.items]


async def drained(projection: EmbeddingProjection) -> None:
    """Step until there is no work."""
    while await projection.step():
        pass


def metric(projection: EmbeddingProjection, name: str) -> float:
    """Return a figure."""
    labels = {"model": MODEL} if name.startswith("projection") else {}
    value = projection._telemetry.registry.get_sample_value(f"standpipe_{name}", labels)
    assert value is not None
    return value


async def test_every_item_gets_its_own_vector(record: Record, worker: Worker) -> None:
    """P9: over more items than one batch, sessions and tenants, each position has the vector of its text."""
    for number in range(_BATCH + 9):
        await record.append(turn(f"s-{number % 3}", texts=[f"text {number}", "x" * number + "y"]))
    await record.append(turn("t", tenant="rival", subject="bob", texts=["theirs"]))
    projection = worker()
    assert (await projection.lag()).items == 2 * (_BATCH + 9) + 1
    await drained(projection)
    for subject, tenant in (("ana", "acme"), ("bob", "rival")):
        found, texts = await vectors(record, subject, tenant)
        assert found == [packed(text) for text in texts]
    assert (await projection.lag()).items == 0
    assert metric(projection, "projection_lag_items") == 0
    assert metric(projection, "projected_items_total") == 2 * (_BATCH + 9) + 1


async def test_two_workers_put_each_vector_once(record: Record, worker: Worker) -> None:
    """P9: of two workers on one store one writes each batch; together they count every item once."""
    for number in range(150):
        await record.append(turn(subject=f"subject-{number % 3}", session=f"s-{number % 3}", texts=[f"text {number}"]))
    workers = [worker(), worker()]
    while any(await asyncio.gather(*(one.step() for one in workers))):
        pass
    for number in range(3):
        found, texts = await vectors(record, f"subject-{number}")
        assert found == [packed(text) for text in texts]
    assert sum(metric(one, "projected_items_total") for one in workers) == 150
    assert (await workers[0].lag()).items == 0


async def test_a_batch_that_another_worker_wrote_is_dropped(record: Record, worker: Worker) -> None:
    """P9: a worker whose view of a scope is old writes nothing and fails nothing."""
    await record.append(turn(texts=["one", "two"]))
    late = worker()
    (held,) = await claim(record, model=MODEL, lease_s=0)
    await drained(worker())
    await late._advance(held)
    await late._advance(replace(held, scope=replace(held.scope, vector_position=1)))
    assert metric(late, "projected_items_total") == 0
    assert len((await vectors(record))[0]) == 2


@pytest.mark.parametrize("bad", ["fail", "nan"])
async def test_a_text_that_cannot_be_embedded_blocks_nobody(record: Record, worker: Worker, bad: str) -> None:
    """P12: it gets the zero vector, which means none, and those before and behind it get theirs."""
    await record.append(turn(texts=["before", f"{bad} this", "behind"]))
    projection = worker()
    await drained(projection)
    found, texts = await vectors(record)
    assert found == [packed(text) for text in texts]
    assert recall.unpack_vector(found[1])[1] == 0
    assert (await projection.lag()).items == 0
    assert metric(projection, "unembeddable_items_total") == 1


class Broken(Counting):
    """Embeds nothing while it is broken."""

    broken = True

    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Fail, or answer."""
        if self.broken:
            raise Internal("an embedding run failed")
        return await super().embed_items(texts, deadline_s=deadline_s)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pauses of orders that failed."""
    monkeypatch.setattr(limits, "work_pause_s_max", 0)


@pytest.mark.usefixtures("at_once")
async def test_a_broken_embedder_gives_no_zero_vectors(record: Record, worker: Worker) -> None:
    """P9, P12: when nothing at all can be embedded the texts are not to blame: the order is parked, and kept."""
    await record.append(turn(texts=["one", "two"]))
    embedder = Broken()
    projection = worker(embedding=embedder)
    await drained(projection)
    assert (await vectors(record))[0] == []
    assert metric(projection, "projection_failures_total") == limits.work_attempts_max
    assert metric(projection, "projection_parked") == 1
    assert metric(projection, "unembeddable_items_total") == 0
    embedder.broken = False
    assert await record.unpark("acme", subject="ana", model=MODEL)
    await drained(projection)
    assert (await vectors(record))[0] == [packed("one"), packed("two")]
    assert metric(projection, "projection_parked") == 0


class Busy(Counting):
    """Is full for a while."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Refuse, or embed."""
        self.refusals -= 1
        if self.refusals >= 0:
            refusal = Overloaded("full", limit="items_max")
            refusal.retry_after_ms = 1
            raise refusal
        return await super().embed_items(texts, deadline_s=deadline_s)


async def test_an_overloaded_embedder_is_asked_again(record: Record, worker: Worker) -> None:
    """P12: Overloaded gives no text the zero vector and fails no order: the batch waits as long as it is told to."""
    await record.append(turn(texts=["one", "two"]))
    projection = worker(embedding=Busy(refusals=3))
    await drained(projection)
    found, texts = await vectors(record)
    assert found == [packed(text) for text in texts]
    assert metric(projection, "projection_failures_total") == 0


async def test_an_embedder_that_stays_overloaded_gets_a_pause(
    record: Record, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: past its lease a worker asks no more: the order goes back, not counted against it, and the worker pauses."""
    await record.append(turn(texts=["one", "two"]))
    monkeypatch.setattr("sidecar.orders._pause_s", lambda _: 0)
    embedder = Busy(refusals=1 << 30)
    projection = worker(embedding=embedder)
    projection._lease_s = 0.05
    with pytest.raises(Overloaded):
        await projection.step()
    embedder.refusals = 0
    (held,) = await claim(record, model=MODEL)
    assert held.attempts == 1
    await record.release(held)
    projection._lease_s = 30
    await drained(projection)
    assert (await vectors(record))[0] == [packed("one"), packed("two")]


@dataclass
class Flawed:
    """A store in which one subject cannot be read."""

    record: Record
    subject: str
    error: StandpipeError
    errors: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    async def fetch(self, reads: Sequence[Any]) -> list[Any]:
        """Fail for the one subject."""
        if any(isinstance(read, ScopeRead) and read.subject == self.subject for read in reads):
            self.errors += 1
            raise self.error
        return await self.record.fetch(reads)


CORRUPT = StoreCorrupt("this row cannot be read")
AWAY = StoreUnavailable("the store is away", store="record")


async def test_one_subjects_trouble_holds_up_no_other(record: Record, worker: Worker) -> None:
    """P8, P12: work goes on behind a subject that fails, and the failure is counted."""
    await record.append(turn("s-1", subject="broken", texts=["one"]))
    await record.append(turn("s-2", subject="whole", texts=["two"]))
    projection = worker(store=Flawed(record, "broken", CORRUPT))
    await drained(projection)
    assert (await vectors(record, "whole"))[0] == [packed("two")]
    assert (await vectors(record, "broken"))[0] == []
    assert metric(projection, "projection_lag_items") == 1
    assert metric(projection, "projection_failures_total") == 1


@pytest.mark.usefixtures("at_once")
async def test_poison_is_parked(record: Record, worker: Worker) -> None:
    """P12: a subject that fails work_attempts_max times is tried no more, and its lag is shown apart."""
    await record.append(turn("s-1", subject="broken", texts=["one", "two"]))
    store = Flawed(record, "broken", CORRUPT)
    projection = worker(store=store)
    lag = await projection.drain()
    assert (lag.items, lag.parked) == (0, 1)
    assert store.errors == limits.work_attempts_max
    assert not await projection.step()
    assert [metric(projection, f"projection_{name}") for name in ("lag_items", "lag_seconds", "parked")] == [0, 0, 1]
    (parked,) = (await record.fetch([ParkedRead()]))[0]
    assert (parked.subject, parked.items, parked.reason) == ("broken", 2, "STORE_CORRUPT")


@pytest.mark.usefixtures("at_once")
async def test_a_store_that_is_away_parks_nothing(record: Record, worker: Worker) -> None:
    """P12: however often the store is away, no order is blamed for it; the worker itself pauses."""
    await record.append(turn("s-1", subject="broken", texts=["one"]))
    store = Flawed(record, "broken", AWAY)
    projection = worker(store=store)
    for _ in range(3 * limits.work_attempts_max):
        with pytest.raises(StoreUnavailable):
            await projection.step()
    assert metric(projection, "projection_parked") == 0
    store.subject = ""
    await drained(projection)
    assert (await vectors(record, "broken"))[0] == [packed("one")]


async def test_a_worker_that_is_cancelled_gives_back_what_it_holds(record: Record, worker: Worker) -> None:
    """P12: orders of a process that ends are due at once, and nothing is counted against them."""
    for number in range(limits.work_claims_max + 2):
        await record.append(turn(f"s-{number}", subject=f"subject-{number}"))
    started, never = asyncio.Event(), asyncio.Event()

    class Stuck(Counting):
        async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
            started.set()
            await never.wait()
            return []

    task = asyncio.create_task(worker(embedding=Stuck()).run())
    await started.wait()
    assert len(await orders(record, model=MODEL, count_max=99)) == 2, "it holds work_claims_max orders, and no more"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    claims = await claim(record, model=MODEL, count_max=99)
    assert [held.attempts for held in claims] == [1] * (limits.work_claims_max + 2)


async def test_a_worker_ends_though_its_store_is_stuck(record: Record, worker: Worker) -> None:
    """P12: a store that does not take an order back does not keep the process from ending."""
    await record.append(turn(texts=["one"]))
    stuck = asyncio.Event()

    class Stuck:
        def __getattr__(self, name: str) -> Any:
            return getattr(record, name)

        async def fetch(self, _reads: Sequence[Any]) -> list[Any]:
            stuck.set()
            await asyncio.Event().wait()
            return []

        async def release(self, _claim: Any) -> bool:
            await asyncio.Event().wait()
            return False

    task = asyncio.create_task(worker(store=Stuck()).run())
    await stuck.wait()
    task.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_worker_that_is_too_slow_begins_nothing_new(record: Record, worker: Worker) -> None:
    """P9: behind its lease, work_lease_s by default, a worker leaves the rest of its orders to others."""
    for number in range(3):
        await record.append(turn(f"s-{number}", subject=f"subject-{number}"))
    projection = worker()
    assert projection._lease_s == limits.work_lease_s
    projection._lease_s = 0
    assert await projection.step()
    assert metric(projection, "projected_items_total") == 0
    assert len(await orders(record, model=MODEL)) == 3


def test_pauses_grow_up_to_a_limit() -> None:
    """Each failure in a row doubles the pause, give or take a half, up to work_pause_s_max."""
    for failures in range(40):
        middle = min(2**failures, limits.work_pause_s_max)
        assert middle * 0.5 <= _pause_s(failures) <= middle * 1.5


async def test_a_clock_that_is_set_back_hides_nothing(
    record: Record, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: what is committed with an earlier time than all that is embedded gets its vector like anything else."""
    projection = worker()
    clock = iter(range(2_000_000_000_000_000, 0, -1_000_000))
    monkeypatch.setattr(sqlite, "_now_us", lambda: next(clock))
    for number in range(5):
        await record.append(turn(f"s-{number}", texts=[f"text {number}"]))
        await drained(projection)
        assert (await vectors(record))[0] == [packed(f"text {one}") for one in range(number + 1)]


async def test_a_process_that_leaves_the_work_to_others_shows_the_lag(record: Record, worker: Worker) -> None:
    """The lag is published where nothing is embedded, too."""
    await record.append(turn(texts=["one", "two"]))
    projection = worker()
    task = asyncio.create_task(projection.watch())
    async with asyncio.timeout(5):
        while not metric(projection, "projection_lag_items"):
            await asyncio.sleep(0.01)
    task.cancel()
    assert metric(projection, "projection_lag_items") == 2
    assert (await vectors(record))[0] == []


async def test_a_running_worker_wakes_at_once(record: Record, worker: Worker) -> None:
    """A commit that wakes the worker is embedded long before the idle look for work; cancelling ends it."""
    projection = worker()
    task = asyncio.create_task(projection.run())
    await asyncio.sleep(0.05)
    await record.append(turn(texts=["one"]))
    projection.wake.set()
    async with asyncio.timeout(3):
        while not (await vectors(record))[0]:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_gone_is_not_embedded(
    record: Record, worker: Callable[..., EmbeddingProjection], tmp_path: Path
) -> None:
    """An item whose log was removed gets the zero vector without a run, and those behind it get theirs (P11)."""
    await record.append(turn("s", texts=["gone"], keep_s=1))
    await record.append(turn("other", texts=["kept"]))
    await record.append(turn("s", texts=["gone too"]))
    with contextlib.closing(sqlite3.connect(tmp_path / "record.db", isolation_level=None)) as db:
        db.execute("UPDATE sessions SET updated_at_us = 1 WHERE session = 's'")
    assert await record.sweep("acme", "s")
    embedder = Counting()
    await worker(embedding=embedder).drain()
    assert embedder.seen == ["kept"]
    (state,) = await record.fetch([ScopeRead(tenant="acme", subject="ana", model=MODEL)])
    assert isinstance(state, ScopeState)
    assert list(state.vectors) == [packed("fail"), packed("kept"), packed("fail")]


async def test_a_vector_is_of_masked_text_and_what_says_nothing_has_none(record: Record, worker: Worker) -> None:
    """Who reads vectors reads no personal data; an item that says nothing costs no run, and is counted (P9)."""
    texts = ["write to ana@mail.example", "ok, thanks!", "zebra"]
    said = [turn_pb2.TurnEntry(message=turn_pb2.Message(role=turn_pb2.ROLE_USER, text=text)) for text in texts]
    stored = analysis.analyse(turn_pb2.Turn(entries=said), {"o200k_base": len}, received_at_us=1)
    await record.append(turn("s", texts=texts, items=analysis.items(stored)))
    await record.append(turn("of the release before", texts=["ok"]))
    embedder = Counting()
    projection = worker(embedding=embedder)
    await projection.drain()
    assert sorted(embedder.seen) == ["ok", "write to <EMAIL>", "zebra"]
    found, _ = await vectors(record)
    assert found == [packed("write to <EMAIL>"), packed("fail"), packed("zebra"), packed("ok")]
    assert metric(projection, "items_trivial_total") == 1
    assert metric(projection, "projected_items_total") == 4
    assert metric(projection, "unembeddable_items_total") == 0


class Device(Counting):
    """An embedder that takes a time for each text, and notes how many it has at once, and of how many subjects."""

    def __init__(self, *, text_s: float = 0.0) -> None:
        super().__init__()
        self.text_s = text_s
        self.waiting = self.most = self.calls_most = 0
        self.subjects: list[str] = []

    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Take its time."""
        self.waiting += len(texts)
        self.most = max(self.most, self.waiting)
        self.calls_most = max(self.calls_most, len(texts))
        self.subjects.append(texts[0].partition(" ")[0])
        await asyncio.sleep(self.text_s * len(texts))  # as a device does: it is what these tests are about
        self.waiting -= len(texts)
        return await super().embed_items(texts)


async def test_several_orders_are_at_work_at_once(record: Record, worker: Worker) -> None:
    """Nobody's round trip keeps the embedder waiting: while one order's vectors are written others are embedded."""
    for number in range(3 * limits.work_claims_max):
        await record.append(turn(f"s-{number}", subject=f"subject-{number}", texts=["one", "two"]))
    embedder = Device(text_s=0.001)
    await worker(embedding=embedder).drain()
    assert limits.work_claims_max <= embedder.most <= 2 * limits.work_claims_max
    for number in range(3 * limits.work_claims_max):
        assert (await vectors(record, f"subject-{number}"))[0] == [packed("one"), packed("two")]


async def test_a_long_order_lets_short_ones_pass(record: Record, worker: Worker) -> None:
    """A subject with thousands of items takes one place: those that came later with three are done long before it."""
    for number in range(40):
        await record.append(turn("long", subject="long", texts=[f"long {number} {at}" for at in range(64)]))
    for number in range(2 * limits.work_claims_max):
        await record.append(turn(f"s-{number}", subject=f"subject-{number}", texts=["short 1", "short 2", "short 3"]))
    embedder = Device()
    await worker(embedding=embedder).drain()
    assert embedder.subjects.count("short") == 2 * limits.work_claims_max
    last = max(at for at, subject in enumerate(embedder.subjects) if subject == "short")
    assert "long" in embedder.subjects[last:], "the long one is not done when the last of the short ones is"
    found, texts = await vectors(record, "long")
    assert found == [packed(text) for text in texts]


async def test_batches_are_as_large_as_the_embedder_is_fast(record: Record, worker: Worker) -> None:
    """They grow to embed_batch_max where they take no time, in calls of at most _PAGE texts."""
    for number in range(40):
        await record.append(turn("long", texts=[f"text {number} {at}" for at in range(128)]))
    embedder = Device()
    projection = worker(embedding=embedder)
    await projection.drain()
    assert projection._pace.batch == limits.embed_batch_max
    assert embedder.calls_most == _PAGE
    assert metric(projection, "projected_items_total") == 40 * 128
    found, texts = await vectors(record)
    assert found == [packed(text) for text in texts]


async def test_a_slow_embedder_has_one_batch_at_a_time(
    record: Record, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: the first vectors are not as late as the last, and no lease runs while others are embedded."""
    monkeypatch.setattr("sidecar.projection._SHORT_S", 0)
    for number in range(limits.work_claims_max):
        await record.append(turn(f"s-{number}", subject=f"s-{number}", texts=[f"text {at}" for at in range(_BATCH)]))
    embedder = Device()
    projection = worker(embedding=embedder)
    await projection.drain()
    assert embedder.most == _BATCH
    found, texts = await vectors(record, "s-0")
    assert found == [packed(text) for text in texts]


def test_what_is_with_the_embedder_follows_from_its_speed() -> None:
    """It doubles after a short batch, if there was no more room, and halves after a long one, down to _BATCH; what was
    begun before the last change tells nothing of it.
    """
    pace = _Pace()
    for now_s, took_s, tight, room in (
        (10.0, 0.1, True, 2 * _BATCH),
        (10.0, 0.1, True, 2 * _BATCH),
        (11.0, 0.1, False, 2 * _BATCH),
        (12.0, 0.5, True, 2 * _BATCH),
        (13.0, 0.1, True, 4 * _BATCH),
        (15.0, 1.1, True, 2 * _BATCH),
        (17.0, 1.1, True, _BATCH),
        (19.0, 1.1, True, _BATCH),
    ):
        pace._choose(now_s - took_s, now_s, is_tight=tight)
        assert pace.room == room
    for second in range(20, 40):
        pace._choose(second, second + 0.1, is_tight=True)
    assert pace.batch == limits.embed_batch_max
    pace.slower()
    assert pace.batch == limits.embed_batch_max // 2


async def test_one_text_among_many_that_fails_is_found(record: Record, worker: Worker) -> None:
    """It is looked for by halves, so that a batch of a thousand is not embedded text by text."""
    texts = [f"text {at}" for at in range(_BATCH)]
    texts[41] = "fail this"
    await record.append(turn(texts=texts))
    embedder = Counting()
    projection = worker(embedding=embedder)
    await drained(projection)
    assert (await vectors(record))[0] == [packed(text) for text in texts]
    assert len(embedder.seen) < 4 * _BATCH
    assert metric(projection, "unembeddable_items_total") == 1


async def test_an_order_that_was_tried_before_is_worked_on_alone(record: Record, worker: Worker) -> None:
    """R21: what may kill its workers is begun when nothing else is at work, and nothing else beside it."""
    for number in range(limits.work_claims_max // 2):
        await record.append(turn(f"s-{number}", subject=f"subject-{number}", texts=[f"{number} is short"]))
    await record.append(turn("poison", subject="poison", texts=["poison comes last"]))
    for number in range(limits.work_claims_max):
        await record.append(turn(f"t-{number}", subject=f"later-{number}", texts=[f"{number} comes later"]))
    held = await claim(record, model=MODEL, count_max=99)
    for one in held:
        await record.release(one, reason="INTERNAL" if one.scope.subject == "poison" else "")
    beside: list[int] = []

    class Watching(Device):
        async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
            if texts[0].startswith("poison"):
                beside.append(self.waiting)
                await asyncio.sleep(0.02)
                beside.append(self.waiting)
            return await super().embed_items(texts, deadline_s=deadline_s)

    await worker(embedding=Watching(text_s=0.005)).drain()
    assert beside == [0, 0]
    assert (await vectors(record, "poison"))[0] == [packed("poison comes last")]


def test_a_page_fits_into_every_call_of_an_embedder() -> None:
    """A projection never asks for more than one call may hold, however long its texts: that would fail the order."""
    assert limits.embed_call_texts_max >= _PAGE
    assert _PAGE * 512 <= limits.embed_item_tokens_max <= limits.embed_gpu_item_tokens_max
    assert limits.embed_batch_max > _BATCH
