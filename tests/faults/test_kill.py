"""kill -9 under load: what was acknowledged is there once; what was not becomes so by a retry of its request id."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, field

import grpc
import pytest

from standpipe.v1 import context_pb2
from tests.e2e.pods import HISTORY, Fleet, Pod, Process, commit_request, exact, shown
from tests.faults.log_check import check_store, read_log, rounds

WRITERS = 6
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)


@dataclass
class Writer:
    """One caller with a session of its own, and its own books of what was acknowledged."""

    session: str
    acknowledged: list[tuple[int, str, bytes]] = field(default_factory=list)
    results: dict[str, bytes] = field(default_factory=dict)
    in_doubt: context_pb2.CommitTurnRequest | None = None
    reads: int = 0

    @property
    def version(self) -> int:
        """The last version that was acknowledged."""
        return self.acknowledged[-1][0] if self.acknowledged else 0

    def next(self) -> context_pb2.CommitTurnRequest:
        """Return the next commit."""
        number = self.version + 1
        return commit_request(
            self.session,
            f"{self.session}-{number}",
            f"This is message {number} of {self.session}, and it shall be kept.",
            expected=self.version,
        )

    async def send(self, pod: Pod, request: context_pb2.CommitTurnRequest) -> bool:
        """Commit and keep the books; return whether it was acknowledged."""
        self.in_doubt = request
        try:
            answer = await pod.send(request, timeout_s=10)
        except grpc.aio.AioRpcError as error:
            _expect(error, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return False
        self.in_doubt = None
        assert answer.result.version == self.version + 1
        self.acknowledged.append((answer.result.version, request.request_id, answer.result.event_hash))
        self.results[request.request_id] = exact(answer.result)
        return True

    async def write(self, pod: Pod, reader: Pod, *, read_every: int) -> None:
        """Commit until the server dies; read some of it at once through the other process."""
        while await self.send(pod, self.next()):
            if read_every and self.version % read_every == 0:
                version = self.version
                try:
                    seen = await reader.hydrate(self.session, timeout_s=10)
                except grpc.aio.AioRpcError as error:
                    _expect(error, grpc.StatusCode.UNAVAILABLE)
                    continue
                assert seen.bundle.session_version == version, "an acknowledged commit was not read (P4)"
                assert f"message {version} of" in shown(seen.bundle, HISTORY)
                self.reads += 1

    async def settle(self, pod: Pod) -> bool | None:
        """Retry what is in doubt, under its own id. Return whether it had been committed; None: nothing was."""
        if self.in_doubt is None:
            return None
        request = self.in_doubt
        answer = await pod.send(request)
        again = await pod.send(request)
        assert again.replayed
        assert exact(again.result) == exact(answer.result)
        assert answer.result.version == self.version + 1
        self.acknowledged.append((answer.result.version, request.request_id, answer.result.event_hash))
        self.results[request.request_id] = exact(answer.result)
        self.in_doubt = None
        return answer.replayed


def _expect(error: grpc.aio.AioRpcError, *codes: grpc.StatusCode) -> None:
    assert error.code() in codes, error


async def _load(
    writers: list[Writer], pods: list[Pod], dying: list[int], kill_after_s: float, processes: list[Process]
) -> None:
    """Let writers write through the processes that will die, then kill these."""
    tasks = [
        asyncio.create_task(writer.write(pods[dying[at % len(dying)]], pods[dying[at % len(dying)] ^ 1], read_every=3))
        for at, writer in enumerate(writers)
    ]
    await asyncio.sleep(kill_after_s)
    for one in dying:
        processes[one].kill()
    await asyncio.gather(*tasks)


@pytest.mark.timeout(120 + 8 * rounds(5))
async def test_what_was_acknowledged_survives_kill_9(fleet: Fleet) -> None:
    """Acknowledged commits outlive kill -9 of one process or both, once, in order (P1, P3), and are read (P4)."""
    print(f"TEST_SEED={SEED}")
    dice = random.Random(SEED)
    processes = list(await asyncio.gather(fleet.start(), fleet.start()))
    writers = [Writer(f"kill-{number}") for number in range(WRITERS)]
    had_happened = had_not = 0
    for number in range(rounds(5)):
        pods = [process.client() for process in processes]
        dying = dice.choice([[0], [1], [0, 1]])
        before = {writer.session: writer.version for writer in writers}
        await _load(writers, pods, dying, dice.uniform(0.005, 0.5), processes)
        for pod in pods:
            await pod.close()
        await asyncio.gather(*(processes[one].start() for one in dying))
        pods = [process.client() for process in processes]
        for writer in writers:
            through, other = pods[dice.randrange(2)], pods[dice.randrange(2)]
            seen = await other.hydrate(writer.session)
            extra = int(writer.in_doubt is not None)
            assert writer.version <= seen.bundle.session_version <= writer.version + extra, f"round {number}"
            happened = await writer.settle(through)
            had_happened += happened is True
            had_not += happened is False
            if writer.version > before[writer.session]:
                retried = writer.acknowledged[dice.randrange(before[writer.session], writer.version)]
                request = _again(writer, retried[0])
                replay = await other.send(request)
                assert replay.replayed
                assert exact(replay.result) == writer.results[request.request_id]
            assert read_log(fleet.record, writer.session) == writer.acknowledged, f"round {number}"
        for pod in pods:
            await pod.close()
    for writer in writers:
        pod = fleet.pod(processes[0])
        events = await pod.events(writer.session)
        assert [(one.version, one.request_id, one.hash) for one in events] == writer.acknowledged
        assert [one.turn.entries[0].message.text for one in events] == [
            f"This is message {version} of {writer.session}, and it shall be kept."
            for version, _, _ in writer.acknowledged
        ]
    check_store(fleet.record)
    total = sum(writer.version for writer in writers)
    print(
        f"{rounds(5)} kills, {total} acknowledged commits, {sum(w.reads for w in writers)} reads through the other "
        f"process; of those in doubt {had_happened} had happened and {had_not} had not"
    )
    assert total > 0


def _again(writer: Writer, version: int) -> context_pb2.CommitTurnRequest:
    """Return an acknowledged commit's request."""
    past = Writer(writer.session, writer.acknowledged[: version - 1])
    return past.next()


async def test_the_committer_dies_right_after_the_ack(fleet: Fleet) -> None:
    """A commit whose server was killed the moment it had answered is read through the other process (P1, P4)."""
    processes = list(await asyncio.gather(fleet.start(), fleet.start()))
    reader = fleet.pod(processes[1])
    for number in range(4):
        writer = processes[0].client()
        await reader.hydrate("last-words")  # the reader's cached view is now one behind
        done = await writer.commit("last-words", f"r{number}", f"last words {number}", expected=number)
        processes[0].kill()
        seen = await reader.hydrate("last-words")
        assert seen.bundle.session_version == number + 1
        assert f"last words {number}" in shown(seen.bundle, HISTORY)
        token = context_pb2.Consistency(at_least_as_fresh=done.result.consistency_token)
        assert (await reader.hydrate("last-words", consistency=token)).bundle == seen.bundle
        await writer.close()
        await processes[0].start()
