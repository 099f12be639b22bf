"""The embedding projection: every item one vector, in order, whoever does the work and whatever fails (P9, P12)."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar import analysis, limits, recall
from sidecar.batching import EmbedQueue
from sidecar.embed import Embedder
from sidecar.embedding import Vector
from sidecar.errors import Overloaded, StandpipeError, StoreCorrupt, StoreUnavailable
from sidecar.model import Model
from sidecar.orders import _pause_s
from sidecar.projection import EmbeddingProjection
from sidecar.stores import sqlite
from sidecar.stores.record import ParkedRead, Record, ScopeRead, ScopeState
from sidecar.stores.sqlite import SqliteRecord
from sidecar.telemetry import Log, Telemetry
from standpipe.v1 import turn_pb2
from tests.contract.record_suite import claim, orders, turn

MODEL = "test@1/fp32"


class Counting(Embedder):
    """Gives each text a vector of its own, fails where the text says so, and notes what it was asked."""

    def __init__(self) -> None:  # loads no model
        self.model = Model(directory=Path(), id="test@1", query_prefix="", passage_prefix="")
        self.id, self.dimensions = MODEL, 4
        self.precision, self.provider = "fp32", "none"
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def embed_one(self, text: str) -> Vector:
        """Answer with a vector that tells which text it is of."""
        with self.lock:
            self.seen.append(text)
        if text.startswith("fail"):
            raise RuntimeError(text)
        if text.startswith("nan"):
            return np.full(4, np.nan, np.float32)
        return np.array([1, len(text), sum(text.encode()), 7], np.float32)


def packed(text: str) -> bytes:
    """Return the vector that a text must have."""
    vector = np.zeros(4, np.float32) if text.startswith(("fail", "nan")) else Counting().embed_one(text)
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
async def worker(record: Record) -> AsyncIterator[Callable[..., EmbeddingProjection]]:
    """Make workers on the store, each with a queue of its own; `wrapped` stands in for the store or the queue."""
    queues: list[EmbedQueue] = []

    def make(*, embedder: Embedder | None = None, store: Any = None, queue: Any = None) -> EmbeddingProjection:
        if queue is None:
            queue = EmbedQueue(embedder or Counting())
            queues.append(queue)
        telemetry = Telemetry(Log(io.StringIO()))
        return EmbeddingProjection(store or record, queue, model_id=MODEL, dimensions=4, telemetry=telemetry)

    yield make
    for queue in queues:
        await queue.close()


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


Worker = Callable[..., EmbeddingProjection]


async def test_every_item_gets_its_own_vector(record: Record, worker: Worker) -> None:
    """P9: over more items than one batch, sessions and tenants, each position has the vector of its text."""
    for number in range(limits.embed_batch_max + 9):
        await record.append(turn(f"s-{number % 3}", texts=[f"text {number}", "x" * number + "y"]))
    await record.append(turn("t", tenant="rival", subject="bob", texts=["theirs"]))
    projection = worker()
    assert (await projection.lag()).items == 2 * (limits.embed_batch_max + 9) + 1
    await drained(projection)
    for subject, tenant in (("ana", "acme"), ("bob", "rival")):
        found, texts = await vectors(record, subject, tenant)
        assert found == [packed(text) for text in texts]
    assert (await projection.lag()).items == 0
    assert metric(projection, "projection_lag_items") == 0
    assert metric(projection, "projected_items_total") == 2 * (limits.embed_batch_max + 9) + 1


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

    def embed_one(self, text: str) -> Vector:
        """Fail, or answer."""
        if self.broken:
            raise RuntimeError(text)
        return super().embed_one(text)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pauses of orders that failed."""
    monkeypatch.setattr(limits, "work_pause_s_max", 0)


@pytest.mark.usefixtures("at_once")
async def test_a_broken_embedder_gives_no_zero_vectors(record: Record, worker: Worker) -> None:
    """P9, P12: when nothing at all can be embedded the texts are not to blame: the order is parked, and kept."""
    await record.append(turn(texts=["one", "two"]))
    embedder = Broken()
    projection = worker(embedder=embedder)
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


@dataclass
class Busy:
    """A queue that is full for a while."""

    queue: EmbedQueue
    refusals: int
    asked: list[int] = field(default_factory=list)

    async def embed_items(self, texts: Sequence[str]) -> list[Vector]:
        """Refuse, or embed."""
        self.asked.append(len(texts))
        if len(self.asked) <= self.refusals:
            raise Overloaded("full", limit="items_max")
        return await self.queue.embed_items(texts)


async def test_an_overloaded_embedder_is_asked_again(
    record: Record, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: Overloaded gives no text the zero vector: the whole batch waits and is tried again."""
    await record.append(turn(texts=["one", "two"]))
    queue = EmbedQueue(Counting())
    projection = worker(queue=Busy(queue, refusals=3))
    pauses: list[int] = []
    monkeypatch.setattr("sidecar.orders._pause_s", lambda failures: pauses.append(failures) or 0)
    task = asyncio.create_task(projection.run())
    while (await projection.lag()).items:
        await asyncio.sleep(0.01)
    task.cancel()
    await queue.close()
    found, texts = await vectors(record)
    assert found == [packed(text) for text in texts]
    assert metric(projection, "projection_failures_total") == 3
    assert pauses == [0, 0, 0, 1, 0, 2], "of the order, which has not failed, and of the worker, by turns"


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

    class Stuck:
        async def embed_items(self, texts: Sequence[str]) -> list[Vector]:
            started.set()
            await never.wait()
            return []

    task = asyncio.create_task(worker(queue=Stuck()).run())
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
    await worker(embedder=embedder).drain()
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
    projection = worker(embedder=embedder)
    await projection.drain()
    assert sorted(embedder.seen) == ["ok", "write to <EMAIL>", "zebra"]
    found, _ = await vectors(record)
    assert found == [packed("write to <EMAIL>"), packed("fail"), packed("zebra"), packed("ok")]
    assert metric(projection, "items_trivial_total") == 1
    assert metric(projection, "projected_items_total") == 4
    assert metric(projection, "unembeddable_items_total") == 0
