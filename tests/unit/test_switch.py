"""The move from one embedding model to another: who names, who switches, what holds it up, and what never mixes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar import limits, recall
from sidecar.embedders import Embedders
from sidecar.errors import StoreUnavailable
from sidecar.scope import Library, Scopes, rank_documents
from sidecar.stores.record import ItemKind, Models, ModelsRead, ScopeRead
from sidecar.stores.sqlite import SqliteRecord
from sidecar.switch import Switch
from sidecar.telemetry import Log, Telemetry
from tests.contract.record_suite import item, models_of, orders, park, turn
from tests.faults.work import StandIn

OLD, NEW = "old@1/int8", "new@1/int8"


class Named(StandIn):
    """A model of a name, with vectors of a size."""

    def __init__(self, model_id: str, *, dimensions: int = 8) -> None:
        super().__init__()
        self.id, self.dimensions = model_id, dimensions


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[SqliteRecord]:
    """Open a store."""
    store = SqliteRecord(tmp_path / "record.db")
    await store.open()
    yield store
    await store.close()


class Process:
    """What of a process has to do with models; `has` may change."""

    def __init__(self, record: SqliteRecord, *models: str) -> None:
        self.has: list[Named] = [Named(model) for model in models]
        self.said = io.StringIO()
        self.telemetry = Telemetry(Log(self.said))
        self.embedders = Embedders(lambda: self.has, telemetry=self.telemetry)
        self.switch = Switch(record, self.embedders, telemetry=self.telemetry)

    @property
    def events(self) -> list[str]:
        """What it logged."""
        return [json.loads(line)["event"] for line in self.said.getvalue().splitlines()]


async def embed(record: SqliteRecord, model: str) -> None:
    """Embed all that waits."""
    for found in await orders(record, model=model):
        vectors = [b"\x00" * 4 + b"\x01" * 8] * (found.position - found.vector_position)
        assert await record.put_vectors(found, model=model, vectors=vectors)


async def test_the_first_process_names_what_ranks(record: SqliteRecord) -> None:
    """On a store that names none it is a process's own model, or the one that it comes from; later ones follow."""
    assert Process(record, NEW).embedders.ranking_id == NEW
    moving = Process(record, NEW, OLD)
    await moving.switch.look()
    assert await models_of(record) == Models(serving=OLD, known=[OLD])
    assert moving.embedders.ranking_id == OLD
    other = Process(record, NEW)
    await other.switch.look()
    assert (await models_of(record)).serving == OLD
    assert other.embedders.ranking_id == NEW
    assert other.events == ["the model that serves is not at hand: recall ranks by another"]
    await other.switch.look()
    assert len(other.events) == 1


async def test_only_who_comes_from_it_moves_on(record: SqliteRecord) -> None:
    """A process without the model that serves, or with it as its own, never switches; who comes from it does, once."""
    await record.serve(OLD, instead_of="")
    for models in ((NEW,), (OLD,), (OLD, NEW), (NEW, "other@1/int8")):
        process = Process(record, *models)
        await process.switch.look()
        assert (await models_of(record)).serving == OLD, models
    moving = [Process(record, NEW, OLD) for _ in range(3)]
    await asyncio.gather(*(process.switch.look() for process in moving))
    assert (await models_of(record)).serving == NEW
    assert [process.embedders.ranking_id for process in moving] == [NEW] * 3
    figure = [process.telemetry.registry.get_sample_value for process in moving]
    assert sum(one("standpipe_model_switches_total") or 0 for one in figure) == 1
    assert [figure[0]("standpipe_embedding_ranks", {"model": model}) for model in (OLD, NEW)] == [0, 1]


@pytest.mark.parametrize("size", [2, 65])
async def test_what_is_behind_holds_it_up(record: SqliteRecord, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next model waits until it is no further behind than the one that serves, or by a moment alone."""
    await record.serve(OLD, instead_of="")
    await record.append(turn(texts=["a"] * size))
    await embed(record, OLD)
    if size < 65:  # else it is more than a moment's, however young
        monkeypatch.setattr("sidecar.switch._BEHIND_S", 0.0)
    moving = Process(record, NEW, OLD)
    await moving.switch.look()
    assert (await models_of(record)).serving == OLD
    await embed(record, NEW)
    await moving.switch.look()
    assert (await models_of(record)).serving == NEW


async def test_a_parked_order_holds_it_up(record: SqliteRecord) -> None:
    """What the next model could not embed holds the switch up and is told, until it is mended."""
    await record.serve(OLD, instead_of="")
    await record.append(turn())
    await embed(record, OLD)
    moving = Process(record, NEW, OLD)
    await park(record, model=NEW)
    for _ in range(2):
        await moving.switch.look()
    assert (await models_of(record)).serving == OLD
    assert moving.events.count("parked orders hold the switch of models up") == 1
    assert (await moving.switch.lags())[NEW].parked == 1
    assert await record.unpark("acme", subject="ana", model=NEW)
    await embed(record, NEW)
    await moving.switch.look()
    assert (await models_of(record)).serving == NEW


async def test_models_come_and_go(record: SqliteRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shared embedder begins to serve is projected from then on, and what it ceases to serve no more."""
    monkeypatch.setattr("sidecar.switch._LOOK_S", 0.01)
    process = Process(record)
    await record.append(turn(texts=["a", "b"]))
    work = asyncio.create_task(process.switch.run())

    async def embedded(model: str, count: int) -> None:
        async with asyncio.timeout(10):
            while len((await record.fetch([ScopeRead(tenant="acme", subject="ana", model=model)]))[0].vectors) < count:
                process.switch.wake()
                await asyncio.sleep(0.01)

    await asyncio.sleep(0.05)
    assert await models_of(record) == Models(serving="", known=[])
    process.has.append(Named(OLD))
    await embedded(OLD, 2)
    assert process.embedders.ranking_id == OLD
    process.has.insert(0, Named(NEW, dimensions=8))
    await embedded(NEW, 2)
    async with asyncio.timeout(10):
        while process.embedders.ranking_id != NEW:
            await asyncio.sleep(0.01)
    process.has.pop()
    await asyncio.sleep(0.05)
    await record.append(turn())
    await embedded(NEW, 3)
    assert len((await record.fetch([ScopeRead(tenant="acme", subject="ana", model=OLD)]))[0].vectors) == 2
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_a_look_at_a_store_that_is_away_is_tried_again(
    record: SqliteRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises nothing, changes nothing, and the next look sees."""
    process = Process(record, OLD)

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as gone:
        gone.setattr(record, "fetch", away)
        await process.switch.look()
    assert process.embedders.serving == ""
    await process.switch.look()
    assert process.embedders.serving == OLD


# --- one model in one ranking ---------------------------------------------------------------------------------------


def vector(at: int, dimensions: int) -> np.ndarray:
    """Return a unit vector."""
    return np.eye(dimensions, dtype=np.float32)[at]


async def remember(record: SqliteRecord, **models: Sequence[int]) -> None:
    """Write a turn, a fact and a chunk of a document, and give each a vector of some models, by its axis."""
    new = [
        item("the ferry", entry=0),
        item("the ferry leaves", entry=1, kind=ItemKind.CHANGE),
        item("the ferry's timetable", entry=2, kind=ItemKind.DOCUMENT),
    ]
    words = [replace(one, terms=recall.pack_terms(recall.terms(one.text))) for one in new]
    await record.append(turn(items=words))
    for model, axes in models.items():
        (found,) = await orders(record, model=model)
        vectors = [recall.pack_vector(*recall.quantise(vector(axis, 8))) for axis in axes]
        assert await record.put_vectors(found, model=model, vectors=vectors)


@pytest.mark.parametrize("planted", ["another model", "no model's name", "another size"])
async def test_vectors_of_two_models_never_meet(record: SqliteRecord, planted: str) -> None:
    """A query's vector of another model than a block's is not looked at: the ranking is that of words alone (P6).

    The mistake is planted, since nothing that serves makes it: equal axes would look like perfect matches.
    """
    await remember(record, old=[3, 3, 3])
    process = Process(record, "old")
    block = await Scopes(record, process.embedders).load("acme", "ana")
    assert (block.model, block.vector_position) == ("old", 3)
    right = recall.Query.of("boat", vector(3, 8), model="old")
    wrong = {
        "another model": recall.Query.of("boat", vector(3, 8), model="new"),
        "no model's name": recall.Query.of("boat", vector(3, 8)),
        "another size": recall.Query.of("boat", vector(3, 5), model="new"),
    }[planted]
    of: Any = {"position": 3, "vector_position": 3, "tokenizer": "o200k_base", "count": len, "floor": True}

    def found(query: recall.Query) -> tuple[int, int]:
        documents = rank_documents([Library(block, 3, 3)], query, tokenizer="o200k_base", count=len, floor=True)
        return len(block.rank(query, session="", **of).indices), len(documents.indices)

    assert found(right) == (1, 1)
    assert found(wrong) == (0, 0)
    assert found(recall.Query.of("ferry")) == (1, 1)


async def test_a_model_has_a_floor_of_its_own(record: SqliteRecord) -> None:
    """A model that finds no two texts far apart says from which cosine on an item counts; others are not moved."""
    await remember(record, old=[3, 3, 3])
    block = await Scopes(record, Process(record, "old").embedders).load("acme", "ana")
    near = (vector(3, 8) * 4 + vector(2, 8) * 3) / 5  # a cosine of 0.8
    of: Any = {"position": 3, "vector_position": 3, "tokenizer": "o200k_base", "count": len, "session": ""}
    for thousandths, floor, count in ((0, True, 1), (790, True, 1), (810, True, 0), (810, False, 1)):
        query = recall.Query.of("boat", near, model="old", cosine_floor_thousandths=thousandths)
        assert len(block.rank(query, floor=floor, **of).indices) == count, (thousandths, floor)


async def test_a_block_is_read_anew_when_another_model_serves(record: SqliteRecord) -> None:
    """The answer that names another model keeps the block as it is; `ranked` has one of that model's vectors alone."""
    await remember(record, old=[1, 1, 1], new=[2, 2, 2])
    await record.serve("old", instead_of="")
    process = Process(record, "new", "old")
    scopes = Scopes(record, process.embedders)
    before = await scopes.load("acme", "ana")
    assert before.model == "old"
    assert await scopes.ranked(before) is before
    await record.serve("new", instead_of="old")
    read = before.read()
    (state,) = await record.fetch([read])
    settled = await scopes.settle(before, read, state)
    assert settled is before
    after = await scopes.ranked(settled)
    assert (after.model, after.vector_position) == ("new", 3)
    assert scopes.held("acme", "ana") is after
    assert after.turns.block.vectors[0].argmax() == 2
    past = await scopes.at("acme", "ana", position=3, model="old", dimensions=8)
    assert (past.model, past.turns.block.vectors[0].argmax()) == ("old", 1)
    assert scopes.held("acme", "ana") is after


async def test_a_drop_is_cut_in_steps(record: SqliteRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits do not wait for a whole model to go: SQLite removes about drop_vectors_max vectors at a time."""
    for number in range(6):
        await record.append(turn(f"s{number}", subject=f"u{number}", texts=["x"] * 4))
    await embed(record, OLD)
    monkeypatch.setattr(limits, "drop_vectors_max", 8)
    steps = 0
    write = record._write

    async def counted(*args: Any, **fields: Any) -> Any:
        nonlocal steps
        steps += 1
        return await write(*args, **fields)

    monkeypatch.setattr(record, "_write", counted)
    await record.drop_model(OLD)
    assert steps >= 4
    assert (await record.fetch([ModelsRead()]))[0] == Models(serving="", known=[])
