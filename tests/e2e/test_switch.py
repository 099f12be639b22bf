"""A deployment moves from one embedding model to another under load: recall is never empty, and never of two models.

Pods are processes, restarted one after another with the new settings, as a rollout does it; one is killed amid the
re-embedding. Every bundle that was served meanwhile is looked at: the query's vector in its receipt must be that of the
receipt's model, and the bundle must come out again, byte for byte, from that model's stored vectors.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from sidecar import bert, recall
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.embed_server import EmbedServer
from sidecar.engines import open_record
from sidecar.model import Model
from sidecar.receipt import Receipt, Signer
from sidecar.stores.record import Models, ModelsRead
from sidecar.switch import Switch
from standpipe.v1 import context_pb2
from tests.e2e.pods import MODEL, MODELS, RECALL, Fleet, Pod, budget, exact, refused, section, serving, settings, until
from tests.servers import directory
from tests.unit.test_model import TINY, tiny_weights

SUBJECTS = ("anna", "ben", "cleo")
TURNS = 40
"""Of each subject, before the move: a few seconds of re-embedding."""

PLACES = ("harbour", "station", "theatre", "library", "market", "garden", "clinic", "museum")
COLOURS = ("green", "yellow", "grey", "white", "orange")

SWITCHED = "recall moved to another model"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a models directory with the real model, and a tiny one with random weights and other dimensions."""
    if not (MODELS / MODEL).is_dir():
        pytest.skip(f"no model in {MODELS}: make setup")
    directory = tmp_path / "models"
    directory.mkdir()
    for name in (MODEL, "tokenizers"):
        (directory / name).symlink_to(MODELS / name)
    tiny = directory / "tiny"
    tiny.mkdir()
    (tiny / "model.onnx").write_bytes(bert.build(TINY, tiny_weights(), form="fp32"))
    (tiny / "tokenizer.json").symlink_to(MODELS / MODEL / "tokenizer.json")
    (tiny / "model.yaml").write_text(yaml.safe_dump({"id": "tiny@1", "tokens_max": TINY.positions, "dimensions": 8}))
    return directory


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return where a fleet keeps what it has."""
    if request.param == "sqlite":
        return {"record": f"sqlite:{tmp_path / 'record.db'}"}
    return {"record": request.getfixturevalue("database")}


def a_fact(dice: random.Random, number: int) -> str:
    """Return something worth remembering, unlike all else."""
    return (
        f"I left the {dice.choice(COLOURS)} suitcase number {number} at the {dice.choice(PLACES)}, "
        f"and the ticket costs {dice.randrange(1000)} crowns."
    )


def a_query(dice: random.Random) -> str:
    """Return a question that every subject's memory has something to say to."""
    return f"Where is the {dice.choice(COLOURS)} suitcase, at the {dice.choice(PLACES)}?"


class Told:
    """The load on a fleet, and all that it was shown."""

    def __init__(self) -> None:
        self.pods: list[Pod] = []
        self.shown: list[context_pb2.HydrateContextResponse] = []
        self.commits = 0
        self.stopping = False
        self._numbers = iter(range(1_000_000))

    async def anywhere(self, dice: random.Random, ask: Any) -> Any:
        """Ask some pod, and another one if that is gone."""
        while True:
            try:
                return await ask(dice.choice(self.pods))
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                await asyncio.sleep(0.05)

    async def commit(self, dice: random.Random, subject: str) -> None:
        """Commit a turn, once."""
        number = next(self._numbers)
        request_id, text = f"r{number}", a_fact(dice, number)
        await self.anywhere(dice, lambda pod: pod.append(f"of-{subject}", request_id, text, subject=subject))
        self.commits += 1

    async def look(self, dice: random.Random, subject: str) -> None:
        """Hydrate; whatever is shown of memory must not be nothing."""
        query = a_query(dice)
        answer = await self.anywhere(
            dice,
            lambda pod: pod.hydrate(
                f"new-{subject}", query, subject=subject, budget=budget(700), include=[RECALL], route="patient"
            ),
        )
        assert section(answer.bundle, RECALL), (subject, query, answer.degraded)
        self.shown.append(answer)

    async def _caller(self, seed: int) -> None:
        dice = random.Random(seed)
        while not self.stopping:
            await self.look(dice, dice.choice(SUBJECTS))
            if dice.random() < 0.15:
                await self.commit(dice, dice.choice(SUBJECTS))
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def load(self, seed: int) -> AsyncIterator[None]:
        """Have callers at work; their failures are the test's."""
        self.stopping = False
        async with asyncio.TaskGroup() as callers:
            for number in range(4):
                callers.create_task(self._caller(10 * seed + number))
            try:
                yield
            finally:
                self.stopping = True


async def first(told: Told, pod: Pod) -> None:
    """Write what the fleet is to remember, and wait until it is embedded."""
    told.pods[:] = [pod]
    dice = random.Random(5)
    await pod.publish("name: patient\ndeadlines: {embed_ms: 20000}\n")
    await pod.route("patient", "patient", 1)
    for subject in SUBJECTS:
        for _ in range(TURNS):
            await told.commit(dice, subject)
    await pod.embedded()
    for subject in SUBJECTS:
        await told.look(dice, subject)


async def restarted(fleet: Fleet, number: int, *, kill: bool = False, **changes: Any) -> Pod:
    """Start a process again with other settings, as a rollout does; return a client of it."""
    process = fleet.processes[number]
    if kill:
        process.kill()
    else:
        assert await process.terminate() == 0
    process.config.write_text(json.dumps({**json.loads(process.config.read_text()), **changes}))
    await process.start()
    return fleet.pod(process)


async def ranks_by(pod: Pod) -> str:
    """Return the model that a pod ranks by."""
    return str((await pod.info()).embedding.model_id)


def logged(fleet: Fleet, event: str) -> int:
    """Return how often the fleet's processes logged an event."""
    return sum(f'"event": "{event}"' in line for one in fleet.processes for line in one.log.read_text().splitlines())


async def hold_against(
    told: Told, stores: Mapping[str, Any], embedders: list[Embedder], pods: list[Pod], *, embedded: bool = True
) -> Counter[str]:
    """Check every bundle that was shown; return how many were ranked by which model."""
    record = await open_record(Config(**settings(Path(), **stores)))
    signer = Signer(await record.signing_key())
    await record.close()
    by_id = {one.id: one for one in embedders}

    @functools.cache
    def vector_of(model: str, query: str) -> bytes:
        return recall.pack_vector(*recall.quantise(by_id[model].embed_one(query)))

    counts: Counter[str] = Counter()
    for number, answer in enumerate(told.shown):
        receipt: Receipt = signer.open(answer.receipt, tenant="default", field_name="receipt")
        counts[receipt.model] += 1
        causes = {one.cause for one in answer.degraded}
        if receipt.query_vector:
            assert not causes - {"stale"}, causes
            assert receipt.query_vector == vector_of(receipt.model, receipt.query), receipt.model
            assert receipt.vector_position > 0 or not embedded
        else:
            assert causes, "words alone, and nothing says so"
        replayed = await pods[number % len(pods)].replay(answer.receipt)
        assert exact(replayed.bundle) == exact(answer.bundle), (number, receipt.model)
    return counts


async def models_of(stores: Mapping[str, Any]) -> Models:
    """Return what the store says of its models."""
    record = await open_record(Config(**settings(Path(), **stores)))
    (answer,) = await record.fetch([ModelsRead()])
    await record.close()
    assert isinstance(answer, Models)
    return answer


@pytest.mark.timeout(600)
@pytest.mark.parametrize("to", ["all-MiniLM-L6-v2/fp32", "tiny/fp32"])
async def test_a_move_under_load(fleet: Fleet, models: Path, stores: dict[str, Any], to: str) -> None:
    """Two pods are restarted into another model, one is killed: recall stays, unmixed, and moves once (P6, P7)."""
    name, _, precision = to.partition("/")
    old = Embedder(Model.open(models / MODEL), precision="int8")
    new = Embedder(Model.open(models / name), precision=precision)
    before: dict[str, Any] = {"models_dir": str(models), "embedder": MODEL, "precision": "int8"}
    moving = {"embedder": name, "precision": precision, "embedder_before": f"{MODEL}/int8"}
    pods = [fleet.pod(await fleet.start(**stores, **before)) for _ in range(2)]
    told = Told()
    await first(told, pods[0])
    assert await models_of(stores) == Models(serving=old.id, known=[old.id])

    told.pods[:] = pods
    async with told.load(1):
        pods[0] = await restarted(fleet, 0, **moving)  # it alone knows the new model
        told.pods[:] = pods
        await asyncio.sleep(0.5)
        pods[0] = await restarted(fleet, 0, kill=True)  # amid the re-embedding
        told.pods[:] = pods

        async def moved() -> bool:
            return await ranks_by(pods[0]) == new.id

        await until(moved, seconds=200)
        seen = len(told.shown)

        async def shown_since() -> bool:
            return len(told.shown) > seen + 30

        await until(shown_since)  # the other knows the old model alone, and goes on with it
        assert await ranks_by(pods[1]) == old.id
        assert logged(fleet, "the model that serves is not at hand: recall ranks by another") >= 1
        pods[1] = await restarted(fleet, 1, **moving)
        told.pods[:] = pods
        seen = len(told.shown)
        await until(shown_since)
    assert [await ranks_by(pod) for pod in pods] == [new.id, new.id]
    assert logged(fleet, SWITCHED) == 1
    assert (await models_of(stores)).serving == new.id
    counts = await hold_against(told, stores, [old, new], pods)
    assert counts[old.id] > 20
    assert counts[new.id] > 20
    print(f"{told.commits} commits, {sum(counts.values())} bundles, each replayed: {dict(counts)}")

    # What is left of the old model goes, and with it the bundles that it ranked; nothing else does.
    for number in range(2):
        pods[number] = await restarted(fleet, number, embedder_before="")
    record = await open_record(Config(**settings(Path(), **stores)))
    signer = Signer(await record.signing_key())
    await record.drop_model(old.id)
    await record.close()
    assert await models_of(stores) == Models(serving=new.id, known=[new.id])
    for answer in told.shown[::7]:
        receipt = signer.open(answer.receipt, tenant="default", field_name="receipt")
        if receipt.model == old.id:
            refusal = await refused(pods[0].replay(answer.receipt))
            assert (refusal.reason, refusal.metadata["missing"]) == ("REPLAY_UNAVAILABLE", "vectors")
        else:
            assert exact((await pods[0].replay(answer.receipt)).bundle) == exact(answer.bundle)
    told.pods[:] = pods
    for subject in SUBJECTS:
        for seed in range(5):
            await told.look(random.Random(seed), subject)


@pytest.mark.timeout(300)
async def test_the_way_back(fleet: Fleet, models: Path, tmp_path: Path) -> None:
    """Swapping the two settings moves recall back, at once where the old model's vectors were kept up."""
    stores = {"record": f"sqlite:{tmp_path / 'record.db'}"}
    there: dict[str, Any] = {"embedder": "tiny", "precision": "fp32", "embedder_before": f"{MODEL}/int8"}
    back: dict[str, Any] = {"embedder": MODEL, "precision": "int8", "embedder_before": "tiny/fp32"}
    pod = fleet.pod(await fleet.start(**stores, models_dir=str(models), embedder=MODEL, precision="int8"))
    told = Told()
    await first(told, pod)
    old = await ranks_by(pod)
    found = [old]
    for changes in (there, back, there):
        pod = await restarted(fleet, 0, **changes)
        told.pods[:] = [pod]
        async with told.load(len(found)):

            async def moved(pod: Pod = pod) -> bool:
                return await ranks_by(pod) != found[-1]

            await until(moved, seconds=60)
        found.append(await ranks_by(pod))
    assert found == [old, "tiny@1/fp32", old, "tiny@1/fp32"]
    assert logged(fleet, SWITCHED) == 3
    embedders = [
        Embedder(Model.open(models / MODEL), precision="int8"),
        Embedder(Model.open(models / "tiny"), precision="fp32"),
    ]
    counts = await hold_against(told, stores, embedders, [pod])
    assert set(counts) == {old, "tiny@1/fp32"}


@pytest.mark.timeout(300)
async def test_a_pod_of_another_model_alone(fleet: Fleet, models: Path, tmp_path: Path) -> None:
    """A pod that knows the new model alone never moves recall: it ranks by its own, and the others by theirs."""
    stores = {"record": f"sqlite:{tmp_path / 'record.db'}"}
    common: dict[str, Any] = {**stores, "models_dir": str(models)}
    pods = [fleet.pod(await fleet.start(**common, embedder=MODEL, precision="int8"))]
    told = Told()
    await first(told, pods[0])
    pods.append(fleet.pod(await fleet.start(**common, embedder="tiny", precision="fp32")))
    told.pods[:] = pods
    async with told.load(1):
        for pod in pods:
            await pod.embedded()
        await asyncio.sleep(6)  # longer than a look for what is to be done
    ids = [await ranks_by(pod) for pod in pods]
    assert ids[1] == "tiny@1/fp32"
    assert (await models_of(stores)).serving == ids[0]
    assert logged(fleet, SWITCHED) == 0
    embedders = [
        Embedder(Model.open(models / MODEL), precision="int8"),
        Embedder(Model.open(models / "tiny"), precision="fp32"),
    ]
    assert set(await hold_against(told, stores, embedders, pods, embedded=False)) == set(ids)


@pytest.mark.timeout(240)
async def test_a_block_that_does_not_come_in_time(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While memory cannot be read anew for the model that serves, it is shown by the model of before, and `stale`."""

    async def behind(*_: Any) -> bool:
        return False

    monkeypatch.setattr(Switch, "_caught_up", behind)
    record = tmp_path / "record.db"
    moving: dict[str, Any] = {"embedder": "tiny", "precision": "fp32", "embedder_before": f"{MODEL}/int8"}
    async with serving(record, models_dir=str(models), embedder=MODEL, precision="int8") as pod:
        await pod.append("s", "r", "The ferry to the island leaves at noon.", subject="anna")
        await pod.embedded()
        old = await ranks_by(pod)
    async with serving(record, models_dir=str(models), **moving) as pod:

        async def look() -> tuple[str, set[str]]:
            answer = await pod.hydrate("new", "When does the ferry leave?", include=[RECALL], timeout_s=4)
            assert section(answer.bundle, RECALL)
            assert exact((await pod.replay(answer.receipt)).bundle) == exact(answer.bundle)
            receipt = signer.open(answer.receipt, tenant="default", field_name="receipt")
            return receipt.model, {one.cause for one in answer.degraded}

        signer = Signer(await pod.server.record.signing_key())
        assert await look() == (old, set())
        await pod.server.record.serve("tiny@1/fp32", instead_of=old)

        async def never(*_: Any) -> Any:
            await asyncio.sleep(60)

        with monkeypatch.context() as slow:
            slow.setattr(pod.server.scopes, "load", never)
            assert await look() == (old, {"stale"})
        assert await look() == ("tiny@1/fp32", set())


@pytest.mark.timeout(300)
async def test_a_shared_embedder_moves_its_sidecars(models: Path, tmp_path: Path) -> None:
    """A shared embedder that comes back with another model before the one of before moves its sidecars as they are."""
    old = Embedder(Model.open(models / MODEL), precision="int8")
    new = Embedder(Model.open(models / "tiny"), precision="fp32")
    address = f"unix:{directory() / 'embed'}"
    config = Config(**settings(tmp_path, listen=(address,), http="", embedder=MODEL))
    record = tmp_path / "record.db"
    async with serving(record, embedder_address=(address,)) as pod:
        told = Told()
        async with EmbedServer(config, embedders=[old]):

            async def at_hand() -> bool:
                return await ranks_by(pod) == old.id

            await until(at_hand)
            await first(told, pod)
        async with told.load(1):  # by words alone, for a while
            await asyncio.sleep(0.5)
            async with EmbedServer(config, embedders=[new, old]):

                async def moved() -> bool:
                    return await ranks_by(pod) == new.id and SWITCHED in pod.log()

                await until(moved, seconds=90)
                seen = len(told.shown)

                async def shown_since() -> bool:
                    return len(told.shown) > seen + 10

                await until(shown_since)
                told.stopping = True
        assert pod.log().count(SWITCHED) == 1
        counts = await hold_against(told, {"record": f"sqlite:{record}"}, [old, new], [pod])
    assert counts[old.id] > 0
    assert counts[new.id] > 10
