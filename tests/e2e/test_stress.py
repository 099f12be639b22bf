"""Deadlines, overload, locks, cancelled callers and draining (P12): answered in time, named, and well afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from sidecar import embedders, limits
from sidecar.batching import EmbedQueue
from sidecar.embed import Embedder, Shape, Tokens
from tests.e2e.pods import (
    RECALL,
    Fleet,
    Local,
    commit_request,
    gather,
    refusal_of,
    refused,
    said,
    serving,
    shown,
    until,
)
from tests.faults.log_check import read_log

LONG = "name: patient\ndeadlines: {embed_ms: 60000}\n"


class Stalled(Embedder):
    """The real model behind a gate: a run waits while the gate is closed, and fails while it is broken."""

    def __init__(self, real: Embedder) -> None:
        self.__dict__.update(real.__dict__)
        self.open = threading.Event()
        self.broken = False

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Wait at the gate, then embed."""
        assert self.open.wait(60)
        if self.broken:
            raise RuntimeError(f"broken on purpose: {texts}")
        return super().run(texts, shape)


@pytest.fixture
def stalled(embedder: Embedder) -> Iterator[Stalled]:
    """Return an embedder whose gate is closed; it is opened at the end, so that its thread ends."""
    found = Stalled(embedder)
    yield found
    found.open.set()


@contextlib.contextmanager
def _locked(record: Path) -> Iterator[None]:
    """Hold the store's write lock, as another process would."""
    with contextlib.closing(sqlite3.connect(record, isolation_level=None, timeout=10)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


async def _memories(pod: Local, count: int = 12) -> None:
    for number in range(count):
        await pod.append("past", f"r{number}", f"The locker of team {number} opens with code 55{number}1.")


async def test_a_stalled_embedder_costs_recall_by_vector_alone(tmp_path: Path, stalled: Stalled) -> None:
    """At a 20 ms deadline with a stalled embedder an answer comes in time, names recall and recalls by words (P12)."""
    async with serving(tmp_path / "r.db", embedder=stalled) as pod:
        await _memories(pod)
        await pod.hydrate("now", "code of the locker of team 7", timeout_s=5)
        in_time = 0
        for number in range(400):
            if in_time == 10:
                break
            began = time.perf_counter()
            try:
                answer = await pod.hydrate("now", f"code of the locker of team 7, try {number}", timeout_s=0.02)
            except grpc.aio.AioRpcError as error:  # a busy machine: then it is the deadline's own status
                assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017
                continue
            assert time.perf_counter() - began < 0.1
            assert [(one.source, one.cause) for one in answer.degraded] == [(RECALL, "embedding_timed_out")]
            assert "5571" in shown(answer.bundle, RECALL)
            in_time += 1
        assert in_time == 10, f"only {in_time} of 400 answers came in time"
        began = time.perf_counter()
        answer = await pod.hydrate("now", "code of the locker of team 8")
        assert time.perf_counter() - began < 2, "the policy's embed_ms bounds the wait of patient callers"
        assert [one.cause for one in answer.degraded] == ["embedding_timed_out"]
        stalled.open.set()
        await pod.embedded()
        answer = await pod.hydrate("now", "code of the locker of team 9")
        assert not answer.degraded
        assert answer.recall.items_without_vector == 0


async def test_a_failing_embedder_is_named_and_blocks_nothing(
    tmp_path: Path, stalled: Stalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that fails delays vectors, never an answer or a commit, and its words are in no log (P8, P12)."""
    monkeypatch.setattr(limits, "work_pause_s_max", 0.5)
    stalled.open.set()
    stalled.broken = True
    async with serving(tmp_path / "r.db", embedder=stalled) as pod:
        await _memories(pod)
        answer = await pod.hydrate("now", "code of the locker of team 7")
        assert [(one.source, one.cause) for one in answer.degraded] == [(RECALL, "embedding_failed")]
        assert "5571" in shown(answer.bundle, RECALL)
        stalled.broken = False
        await pod.embedded()
        assert "locker" not in pod.log()


async def test_a_full_embed_queue_costs_recall_by_vector_alone(
    tmp_path: Path, stalled: Stalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When too many queries wait to be embedded, the next goes by words and says so (P12)."""
    monkeypatch.setattr(embedders, "EmbedQueue", functools.partial(EmbedQueue, query_tokens_max=10))
    async with serving(tmp_path / "r.db", embedder=stalled) as pod:
        await _memories(pod)
        answers = await asyncio.gather(*(pod.hydrate("now", f"locker of team {number}") for number in range(6)))
        assert all("locker" in shown(answer.bundle, RECALL) for answer in answers)
        causes = sorted(one.cause for answer in answers for one in answer.degraded)
        assert set(causes) == {"embedding_failed", "embedding_timed_out"}
        assert len(causes) == 6


async def test_too_many_hydrates_are_told_so(tmp_path: Path, stalled: Stalled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond hydrates_in_flight_max the answer is RESOURCE_EXHAUSTED with a pause, at once; then all is well (P12)."""
    monkeypatch.setattr(limits, "hydrates_in_flight_max", 4)
    async with serving(tmp_path / "r.db", embedder=stalled) as pod:
        await _memories(pod)
        await pod.publish(LONG)
        await pod.route("patient", "patient", 1)
        waiting = [asyncio.create_task(pod.hydrate("now", f"query {one}", route="patient")) for one in range(4)]

        async def busy() -> bool:
            return pod.metrics()["standpipe_hydrates_in_flight"] == 4

        await until(busy)
        began = time.perf_counter()
        refusal = await refused(pod.hydrate("now", "one too many", route="patient"))
        assert time.perf_counter() - began < 1
        assert (refusal.status, refusal.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert refusal.metadata["limit"] == "hydrates_in_flight_max"
        assert refusal.retry_ms
        waiting[0].cancel()
        stalled.open.set()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(one, BaseException) for one in done] == [True, False, False, False]

        async def idle() -> bool:
            return pod.metrics()["standpipe_hydrates_in_flight"] == 0

        await until(idle)
        await asyncio.gather(*(pod.hydrate("now") for _ in range(4)))


async def test_a_locked_store_is_named_and_readable(
    pod: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that another process keeps locked refuses commits at the deadline, by name, and is read (P12)."""
    monkeypatch.setattr(limits, "deadline_default_ms", 400)
    record = tmp_path / "record.db"
    await pod.append("s", "r0", "before")
    requests = [commit_request("s", f"r{number}", f"turn {number}", mode=2) for number in range(1, 9)]
    with _locked(record):
        began = time.perf_counter()
        refusals = [refusal_of(one) for one in await gather([pod.send(request) for request in requests])]
        assert time.perf_counter() - began < 3
        assert {(one.status, one.reason) for one in refusals} == {("UNAVAILABLE", "STORE_UNAVAILABLE")}
        assert all(one.retry_ms for one in refusals)
        assert (await pod.hydrate("s")).bundle.session_version == 1
        late = await refused(pod.send(requests[0], timeout_s=0.1))  # the caller's own timer, or the server before it
        assert late.status in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    monkeypatch.setattr(limits, "deadline_default_ms", 10_000)
    done = await asyncio.gather(*(pod.send(request) for request in requests))
    assert sorted(answer.result.version for answer in done) == list(range(2, 10))
    assert len(read_log(record, "s")) == 9


async def test_a_full_commit_queue_is_told_so(pod: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond append_queue_max waiting commits the next is RESOURCE_EXHAUSTED at once, and happened not (P12, P3)."""
    monkeypatch.setattr(limits, "append_queue_max", 8)
    record = tmp_path / "record.db"
    requests = [commit_request("s", f"r{number}", f"turn {number}", mode=2) for number in range(40)]
    with _locked(record):
        sent = [asyncio.create_task(gather([pod.send(request)])) for request in requests]

        async def some_refused() -> bool:
            return sum(task.done() for task in sent) >= 20

        await until(some_refused)
        early = [task.result()[0] for task in sent if task.done()]
        refusals = [refusal_of(one) for one in early]
        assert {(one.status, one.reason) for one in refusals} == {("RESOURCE_EXHAUSTED", "OVERLOADED")}
        assert {one.metadata["limit"] for one in refusals} == {"append_queue_max"}
        assert all(one.retry_ms for one in refusals)
    done = [(await task)[0] for task in sent]
    happened = [one for one in done if not isinstance(one, grpc.aio.AioRpcError)]
    assert len(read_log(record, "s")) == len(happened) > 0
    monkeypatch.setattr(limits, "append_queue_max", 1024)
    again = await asyncio.gather(*(pod.send(request) for request in requests))
    assert sum(answer.replayed for answer in again) == len(happened)
    assert len(read_log(record, "s")) == 40


async def test_a_cancelled_commit_happened_or_not(pod: Local, tmp_path: Path) -> None:
    """A commit whose caller left at any moment is whole or absent, and its request id tells which (P3)."""
    dice = random.Random(3)
    record = tmp_path / "record.db"
    happened = 0
    for number in range(80):
        request = commit_request("s", f"r{number}", said(f"turn {number}"), said("and more"), expected=number)
        task = asyncio.ensure_future(pod.send(request))
        await asyncio.sleep(dice.choice((0, dice.uniform(0, 0.008), 0.05)))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        answer = await pod.send(request)
        assert answer.result.version == number + 1
        happened += answer.replayed
        seen = await pod.hydrate("s")
        assert seen.bundle.session_version == number + 1
    assert len(read_log(record, "s")) == 80
    assert all(len(event.turn.entries) == 2 for event in await pod.events("s"))
    assert happened > 0
    assert happened < 80


async def test_a_commit_cancelled_behind_a_lock_is_finished(pod: Local, tmp_path: Path) -> None:
    """A caller that leaves while its commit waits does not undo it, and nobody sees half of it (P1, P3)."""
    record = tmp_path / "record.db"
    request = commit_request("s", "r1", "left early", expected=0)
    with _locked(record):
        task = asyncio.ensure_future(pod.send(request))
        await asyncio.sleep(0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await pod.hydrate("s")).bundle.session_version == 0

    async def there() -> bool:
        return (await pod.hydrate("s")).bundle.session_version == 1

    await until(there)
    answer = await pod.send(request)
    assert answer.replayed
    assert len(read_log(record, "s")) == 1


async def test_a_large_turn_is_answered_at_its_deadline(pod: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose analysis takes longer than the deadline ends there, not when the analysis does (P12)."""
    text = "日本語" * (limits.message_bytes // 9)  # takes seconds
    monkeypatch.setattr(limits, "deadline_default_ms", 250)
    began = time.perf_counter()
    refusal = await refused(pod.append("s", "r1", text))
    assert (refusal.status, refusal.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert refusal.metadata == {"phase": "analyse"}
    assert time.perf_counter() - began < 3
    assert (await pod.hydrate("s")).bundle.session_version == 0


async def test_sigterm_under_load_loses_nothing(fleet: Fleet) -> None:
    """A server that is told to stop ends what is at work, refuses the rest as UNAVAILABLE, and is soon gone (P1)."""
    process = await fleet.start()
    pod = fleet.pod(process)
    acknowledged: dict[str, list[tuple[int, str, bytes]]] = {}

    async def write(session: str) -> None:
        books = acknowledged[session] = []
        while True:
            try:
                answer = await pod.commit(session, f"{session}-{len(books)}", "text", expected=len(books))
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
                return
            books.append((answer.result.version, f"{session}-{len(books)}", answer.result.event_hash))

    writers = [asyncio.create_task(write(f"s{number}")) for number in range(8)]
    await asyncio.sleep(0.3)
    began = time.perf_counter()
    assert await process.terminate() == 0
    assert time.perf_counter() - began < 5, "1.5 s to drain, and the process's own end on a busy machine"
    await asyncio.gather(*writers)
    for session, books in acknowledged.items():
        stored = read_log(fleet.record, session)
        assert stored[: len(books)] == books
        assert len(stored) <= len(books) + 1


async def test_draining_ends_what_is_at_work(tmp_path: Path, stalled: Stalled) -> None:
    """While a server drains, calls at work are answered and new ones are refused as UNAVAILABLE (P12)."""
    async with serving(tmp_path / "r.db", embedder=stalled) as pod:
        await _memories(pod)
        await pod.publish(LONG)
        await pod.route("patient", "patient", 1)
        at_work = asyncio.create_task(pod.hydrate("now", "locker of team 3", route="patient"))

        async def busy() -> bool:
            return pod.metrics()["standpipe_hydrates_in_flight"] == 1

        await until(busy)
        stopping = asyncio.create_task(pod.server.stop())
        refusal = await refused(pod.hydrate("now"))
        assert (refusal.status, refusal.reason) == ("UNAVAILABLE", "DRAINING")
        assert refusal.retry_ms
        await asyncio.sleep(0.3)
        assert (await refused(pod.hydrate("now"))).status == "UNAVAILABLE"
        stalled.open.set()
        answer = await at_work
        assert "5531" in shown(answer.bundle, RECALL)
        await stopping
        assert (await refused(pod.hydrate("now"))).status == "UNAVAILABLE"
