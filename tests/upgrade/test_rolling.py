"""A rolling upgrade: the release before and this one serve one database under load, and no caller notices."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import standpipe
from standpipe import errors
from standpipe.v1 import memory_pb2
from tests.chaos.checker import check
from tests.chaos.history import Event, History
from tests.chaos.load import Load
from tests.e2e.pods import MODEL, RECALL, ROOT, Fleet, Pod, exact, section, until
from tests.e2e.talk import a_wish, converse, publish
from tests.faults.log_check import broken_chain, check_store, every_event
from tests.upgrade.releases import BEFORE, Database, unpack

CLIENTS = 5
COMMITS = 25
"""Acknowledged through each pod before a rollout goes on."""


@pytest.fixture(params=BEFORE)
def engines(request: pytest.FixtureRequest) -> str:
    """Return a pair of engines."""
    return request.param


@pytest.fixture
def before(engines: str, tmp_path: Path) -> Path:
    """Unpack the release before that served on them."""
    return unpack(BEFORE[engines], tmp_path / "before")


@pytest.fixture
def shared(engines: str, tmp_path: Path, request: pytest.FixtureRequest) -> Database:
    """Return an empty database, and a hot store."""
    record, hot = engines.split("+")
    return Database(
        f"sqlite:{tmp_path / 'record.db'}" if record == "sqlite" else request.getfixturevalue("database"),
        hot if hot == "memory" else request.getfixturevalue("redis_server").url,
    )


@contextlib.asynccontextmanager
async def _loaded(load: Load, seed: int) -> AsyncIterator[None]:
    """Have callers at work; at the end every call's fate is known."""
    load.stopping = False
    callers = asyncio.create_task(load.run(CLIENTS, seed))
    try:
        yield
    finally:
        load.stopping = True
        await callers
    await load.settle()


async def _served(load: Load, pods: Sequence[Pod]) -> None:
    """Spread the load over pods, until each has acknowledged commits."""
    load.pods[:] = pods
    start = len(load.history.ops)

    async def enough() -> bool:
        done = Counter(op.pod for op in load.history.ops[start:] if op.kind == "commit" and op.outcome == "ok")
        return all(done[number] >= COMMITS for number in range(len(pods)))

    await until(enough, seconds=120)


async def _agree(pods: Sequence[Pod], dice: random.Random) -> list[tuple[dict[str, Any], Any]]:
    """Hold pods of both releases against each other: equal bundles, and receipts of each replayed by all."""
    for pod in pods:
        await pod.embedded()
    served = []
    for wish in [a_wish(dice) for _ in range(6)]:
        answers = [await pod.hydrate(**wish) for pod in pods]
        assert {exact(answer.bundle) for answer in answers} == {exact(answers[0].bundle)}, wish
        for answer in answers:
            for pod in pods:
                assert exact((await pod.replay(answer.receipt)).bundle) == exact(answer.bundle), wish
        served.append((wish, answers[0]))
    return served


@pytest.mark.timeout(600)
async def test_a_rollout_under_load(fleet: Fleet, before: Path, shared: Database) -> None:
    """Two releases share a database: nothing is lost, doubled or stale (P1 to P4), and bundles are equal (P6, P7)."""
    dice = random.Random(17)
    stores = {"record": shared.record, "hot": shared.hot, "embedder": MODEL}
    load = Load([], History(), sessions_max=8)

    old = [await fleet.start(root=before, **stores) for _ in range(2)]
    old_pods = [fleet.pod(process) for process in old]
    await publish(old_pods[0])
    await converse(old_pods[0], dice, turns=20, prefix="before-")
    by_old = await _agree(old_pods, dice)
    async with _loaded(load, 1):
        await _served(load, old_pods)
        new = await asyncio.gather(*(fleet.start(**stores) for _ in range(2)))
        new_pods = [fleet.pod(process) for process in new]
        await _served(load, [*old_pods, *new_pods])
    await converse(new_pods[0], dice, turns=5, prefix="beside-")
    by_both = await _agree([*old_pods, *new_pods], dice)

    async with _loaded(load, 2):
        await _served(load, [*old_pods, *new_pods])
        assert await old[0].terminate() == 0  # its callers go elsewhere with what is in doubt
        await old[0].start()
        old_pods[0] = fleet.pod(old[0])
        await _served(load, [*old_pods, *new_pods])
    for number, pod in enumerate([*old_pods, *new_pods]):  # what one release served is answered through the other
        wish, answer = by_both[number]
        session = "s0" if wish["session"] == "unborn" else wish["session"]
        answer = await [*new_pods, *old_pods][number].hydrate(session, "harbour")
        await pod.append(session, f"answer-{number}", f"thank you for answer {number}", receipt=answer.receipt)
    by_both += await _agree([*new_pods, *old_pods], dice)

    async with _loaded(load, 3):
        await _served(load, [*old_pods, *new_pods])
        for process in old:
            assert await process.terminate() == 0
        await _served(load, new_pods)
    for wish, answer in by_old + by_both:
        for pod in new_pods:
            assert exact((await pod.replay(answer.receipt)).bundle) == exact(answer.bundle), wish

    history = load.history
    logs = every_event(shared.place)
    for (_, session), rows in logs.items():
        assert not broken_chain(rows), session
        if not session.startswith("s") or "-" not in session:
            continue  # told by the test, not by the load
        history.log[session] = [Event(row.version, row.request_id, row.event_hash) for row in rows]
    violations = check(history)
    assert not violations, "\n".join(map(str, violations[:10]))
    if isinstance(shared.place, Path):
        check_store(shared.place)
    outcomes = Counter((op.kind, op.outcome) for op in history.ops)
    print(f"{dict(outcomes)}; {len(history.log)} sessions; {len(by_old) + len(by_both)} bundles compared")


@pytest.mark.timeout(300)
async def test_another_model_beside_the_release_before(fleet: Fleet, before: Path, shared: Database) -> None:
    """Pods of both releases move to another embedding model together: recall is never empty, and they agree."""
    stores = {"record": shared.record, "hot": shared.hot, "embedder": MODEL}
    moving = {**stores, "precision": "fp32", "embedder_before": f"{MODEL}/int8"}
    dice = random.Random(19)
    first = await fleet.start(root=before, **stores)
    await converse(fleet.pod(first), dice, turns=20, prefix="before-")
    await fleet.pod(first).embedded()
    assert await first.terminate() == 0
    pods = [fleet.pod(await fleet.start(root=root, **moving)) for root in (before, ROOT)]
    served = []

    async def ask() -> None:
        for pod in pods:
            answer = await pod.hydrate("s0", "Is the harbour far?", include=[RECALL])
            assert section(answer.bundle, RECALL)
            served.append(answer)

    async def moved() -> bool:
        await ask()
        return [(await pod.info()).embedding.precision for pod in pods] == ["fp32", "fp32"]

    await ask()
    await until(moved, seconds=60)
    for number, pod in enumerate(pods):
        await converse(pod, dice, turns=5, prefix=f"beside-{number}-")
    for pod in pods:
        await pod.embedded()
    await ask()
    assert exact(served[-1].bundle) == exact(served[-2].bundle)
    for answer in served:  # of either release and either model
        for pod in pods:
            assert exact((await pod.replay(answer.receipt)).bundle) == exact(answer.bundle)


@pytest.mark.timeout(240)
async def test_the_release_before_erases_records_of_state(fleet: Fleet, before: Path, shared: Database) -> None:
    """P11: what this release's pod keeps for a subject goes when the release before is asked to erase the subject."""
    stores = {"record": shared.record, "hot": shared.hot}
    old = fleet.pod(await fleet.start(root=before, **stores))
    await old.append("s", "r1", "My boat is called Petrel.")
    new = fleet.pod(await fleet.start(**stores))
    async with standpipe.connect(new.target) as client:
        state, shared_state = client.state("plans", subject="anna"), client.state("plans")
        await state.put("route", b"Porto to Faro")
        await shared_state.put("route", b"everybody's")
        await old.append("s", "r2", "She is green.")
        receipt = (await old.memory.EraseSubject(memory_pb2.EraseSubjectRequest(subject_id="anna"))).receipt
        assert receipt.logs == 1
        assert await state.get("route") is None
        with pytest.raises(errors.FailedPrecondition) as refused:
            await state.put("route", b"anew")
        assert refused.value.reason == "ERASED"
        assert (await client.memory("anna").erase()).asked_at == receipt.asked_at
        kept = await shared_state.get("route")
        assert kept is not None
        assert kept.value == b"everybody's"


@pytest.mark.timeout(300)
async def test_expansions_pass_unnoticed_and_migrations_are_refused(
    fleet: Fleet, before: Path, shared: Database
) -> None:
    """Both releases live with an expansion that they do not know, and start on it; neither starts on a migration."""
    stores = {"record": shared.record, "hot": shared.hot}
    processes = [await fleet.start(root=before, **stores), await fleet.start(**stores)]
    dice = random.Random(18)
    await publish(fleet.pod(processes[0]))
    for number, process in enumerate(processes):
        await converse(fleet.pod(process), dice, turns=3, prefix=f"{number}-")
    shared.plant_expansion(900)
    for restarted in (False, True):
        pods = [fleet.pod(process) for process in processes]
        for number, pod in enumerate(pods):
            await converse(pod, dice, turns=3, prefix=f"{restarted}{number}-")
        await _agree(pods, dice)
        for process in processes:
            assert await process.terminate() == 0
            await process.start()
    shared.plant_migration(901)
    for process in processes:
        assert await process.terminate() == 0
        with pytest.raises(AssertionError, match="did not start"):
            await process.start()
        assert "StoreSchemaNewer" in process.log.read_text()
        process.kill()
