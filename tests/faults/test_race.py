"""Many commits at one version."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from standpipe.v1 import context_pb2
from tests.e2e.pods import Fleet, Pod, commit_request, exact, gather, refusal_of
from tests.faults.log_check import check_store, read_log, rounds

COMMITTERS = 64
CHANNELS = 8


async def _committers(fleet: Fleet) -> list[Pod]:
    first, second = await asyncio.gather(fleet.start(), fleet.start())
    return [fleet.pod(process) for _ in range(CHANNELS // 2) for process in (first, second)]


@pytest.mark.timeout(120 + 3 * rounds(10))
async def test_one_of_64_commits_wins_each_version(fleet: Fleet) -> None:
    """Of 64 commits at one version over two processes one wins and each loser learns who (P2); a retry replays (P3)."""
    pods = await _committers(fleet)
    session, version = "", 0
    winners: dict[str, list[tuple[int, str, bytes]]] = {}
    wins_by_process = [0, 0]
    for number in range(rounds(10)):
        if number % 2 == 0:
            session, version = f"race-{number}", 0
            winners[session] = []
        requests = [
            commit_request(session, f"{number}-{one}", f"round {number}, committer {one}", expected=version)
            for one in range(COMMITTERS)
        ]
        order = list(range(COMMITTERS))
        random.shuffle(order)
        done = dict(zip(order, await gather([pods[one % CHANNELS].send(requests[one]) for one in order]), strict=True))
        won = [one for one, answer in done.items() if not isinstance(answer, grpc.aio.AioRpcError)]
        assert len(won) == 1, f"round {number}: {len(won)} winners"
        (winner,) = won
        answer = done.pop(winner)
        assert answer.result.version == version + 1
        assert not answer.replayed
        for lost in done.values():
            refusal = refusal_of(lost)
            assert (refusal.status, refusal.reason) == ("ABORTED", "VERSION_CONFLICT")
            assert refusal.metadata["current_version"] == str(version + 1)
            assert refusal.metadata["winner_request_id"] == requests[winner].request_id
        again = await pods[winner % CHANNELS ^ 1].send(requests[winner])
        assert again.replayed
        assert exact(again.result) == exact(answer.result)
        winners[session].append((version + 1, requests[winner].request_id, answer.result.event_hash))
        wins_by_process[winner % 2] += 1
        version += 1
    for name, expected in winners.items():
        assert read_log(fleet.record, name) == expected
    check_store(fleet.record)
    print(f"{rounds(10)} rounds of {COMMITTERS}; wins by process: {wins_by_process}")


async def test_one_request_id_from_everywhere_commits_once(fleet: Fleet) -> None:
    """The same request sent 64 times at once through two processes is one event and 64 equal results (P3)."""
    pods = await _committers(fleet)
    for mode in (context_pb2.COMMIT_MODE_FAIL, context_pb2.COMMIT_MODE_APPEND):
        session = f"same-{mode}"
        request = commit_request(session, "the-one", "once", expected=0, mode=mode)
        done = await asyncio.gather(*(pods[one % CHANNELS].send(request) for one in range(COMMITTERS)))
        assert len({exact(answer.result) for answer in done}) == 1
        assert sorted(answer.replayed for answer in done) == [False] + [True] * (COMMITTERS - 1)
        assert len(read_log(fleet.record, session)) == 1


async def test_one_request_id_with_two_bodies_commits_one(fleet: Fleet) -> None:
    """Of different bodies under one request id one is committed, and all others are told so (P3)."""
    pods = await _committers(fleet)
    requests = [commit_request("two", "the-one", f"body {one}", expected=0) for one in range(16)]
    done = await gather([pods[one % CHANNELS].send(request) for one, request in enumerate(requests)])
    refusals = [refusal_of(one) for one in done if isinstance(one, grpc.aio.AioRpcError)]
    assert len(refusals) == len(requests) - 1
    assert {(one.status, one.reason) for one in refusals} == {("ALREADY_EXISTS", "REQUEST_ID_REUSED")}
    assert {one.metadata.get("version") for one in refusals} == {"1"}
    assert len(read_log(fleet.record, "two")) == 1
