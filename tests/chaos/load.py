"""The callers: a mixed load on some sessions through all pods, every call recorded."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import grpc

from standpipe.v1 import bundle_pb2, context_pb2
from tests.chaos.history import History, Op
from tests.e2e.pods import HISTORY, Pod, budget, commit_request, exact, refusal_of, shown

SESSION_VERSIONS_MAX = 150
"""Then a new session takes its place: first turns race too, and old ones stay cheap to check."""
RETRY_PAUSE_S = 0.05
_MARK = re.compile(r"\[(c\d+-\d+)\]")
_DOUBT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}


@dataclass
class Known:
    """What all callers together know of a session."""

    name: str
    version: int = 0
    tokens: dict[int, str] = field(default_factory=dict)
    acknowledged: list[context_pb2.CommitTurnRequest] = field(default_factory=list)

    def learn(self, version: int, token: str) -> None:
        """Take in an answer."""
        self.version = max(self.version, version)
        if token:
            self.tokens[version] = token


@dataclass
class Load:
    """All callers."""

    pods: list[Pod]
    history: History
    sessions_max: int = 12
    tag: str = ""
    stopping: bool = False
    _turns: Counter[int] = field(default_factory=Counter)
    _sessions: dict[int, Known] = field(default_factory=dict)
    _unsettled: list[tuple[int, context_pb2.CommitTurnRequest]] = field(default_factory=list)

    async def run(self, clients: int, seed: int) -> None:
        """Call until `stopping` is set. A load that was stopped may run again, and goes on with its sessions."""
        async with asyncio.TaskGroup() as group:
            for client in range(clients):
                group.create_task(self._client(client, random.Random(f"{seed}-{client}")))

    async def settle(self) -> None:
        """Learn the fate of every commit that is in doubt, and read every session through every pod."""
        dice = random.Random(0)
        for client, request in self._unsettled:
            for _ in range(100):
                if await self._commit(client, request, dice.randrange(len(self.pods)), timeout_s=10.0) != "doubt":
                    break
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                raise TimeoutError("a commit stays in doubt though all faults are over")
        self._unsettled.clear()
        for name in {one.session for one in self.history.ops}:
            for pod in range(len(self.pods)):
                await self._hydrate(0, Known(name), "fresh", pod, timeout_s=10.0)

    async def _client(self, client: int, dice: random.Random) -> None:
        while not self.stopping:
            self._turns[client] += 1
            known = self._session(dice.randrange(self.sessions_max))
            pod = dice.randrange(len(self.pods))
            chosen = dice.random()
            if chosen < 0.35:
                await self._hydrate(client, known, "fresh", pod)
            elif chosen < 0.50:
                await self._hydrate(client, known, "token", pod)
            elif chosen < 0.56:
                await self._hydrate(client, known, "full", pod)
            elif chosen < 0.62:
                await self._hydrate(client, known, "nearest", pod)
            elif chosen < 0.67 and known.acknowledged:
                await self._commit(client, dice.choice(known.acknowledged), pod)
            else:
                await self._turn(client, self._turns[client], known, dice)
            await asyncio.sleep(dice.random() * 0.02)

    def _session(self, place: int) -> Known:
        known = self._sessions.get(place)
        if known is None or known.version >= SESSION_VERSIONS_MAX:
            generation = int(known.name.rpartition("-")[2]) + 1 if known else 0
            known = self._sessions[place] = Known(f"{self.tag}s{place}-{generation}")
        return known

    async def _turn(self, client: int, number: int, known: Known, dice: random.Random) -> None:
        """Commit one turn, and ask again through any pod until it is known what became of it."""
        mode = {"expected": known.version} if dice.random() < 0.7 else {"mode": context_pb2.COMMIT_MODE_APPEND}
        request_id = f"c{client}-{number}"
        text = f"[{request_id}] " + "word " * dice.randrange(30)
        request = commit_request(known.name, request_id, text, subject=f"subject-{known.name}", **mode)
        impatient = dice.random() < 0.05
        for attempt in range(10):
            timeout_s = dice.uniform(0.001, 0.02) if impatient and attempt == 0 else 3.0
            if await self._commit(client, request, dice.randrange(len(self.pods)), timeout_s=timeout_s) != "doubt":
                return
            if self.stopping:
                break
            await asyncio.sleep(RETRY_PAUSE_S)
        self._unsettled.append((client, request))

    async def _commit(
        self, client: int, request: context_pb2.CommitTurnRequest, pod: int, *, timeout_s: float = 3.0
    ) -> Literal["ok", "refused", "doubt"]:
        known = self._known(request.session_id)
        about = {
            "client": client,
            "kind": "commit",
            "session": request.session_id,
            "pod": pod,
            "request_id": request.request_id,
            "expected": request.expected_version if request.HasField("expected_version") else None,
        }
        started_ns = time.monotonic_ns()
        try:
            answer = await self.pods[pod].send(request, timeout_s=timeout_s)
        except grpc.aio.AioRpcError as error:
            return self._failed(error, started_ns, **about)
        result = answer.result
        self.history.ops.append(
            Op(
                started_ns=started_ns,
                ended_ns=time.monotonic_ns(),
                outcome="ok",
                version=result.version,
                result=exact(result),
                event_hash=result.event_hash,
                **about,
            )
        )
        known.learn(result.version, result.consistency_token)
        known.acknowledged.append(request)
        return "ok"

    async def _hydrate(
        self,
        client: int,
        known: Known,
        wanted: Literal["fresh", "token", "full", "nearest"],
        pod: int,
        *,
        timeout_s: float = 2.0,
    ) -> None:
        consistency = None
        at_least = 0
        if wanted == "token":
            if not known.tokens:
                return
            at_least = max(known.tokens)
            consistency = context_pb2.Consistency(at_least_as_fresh=known.tokens[at_least])
        elif wanted == "full":
            consistency = context_pb2.Consistency(fully_consistent=True)
        elif wanted == "nearest":
            consistency = context_pb2.Consistency(minimize_latency=True)
        about = {
            "client": client,
            "kind": "hydrate",
            "session": known.name,
            "pod": pod,
            "wanted": wanted,
            "at_least": at_least,
        }
        started_ns = time.monotonic_ns()
        try:
            answer = await self.pods[pod].hydrate(
                known.name,
                subject=f"subject-{known.name}",
                timeout_s=timeout_s,
                consistency=consistency,
                budget=budget(1000),
                include=[bundle_pb2.SOURCE_HISTORY],
            )
        except grpc.aio.AioRpcError as error:
            self._failed(error, started_ns, **about)
            await asyncio.sleep(RETRY_PAUSE_S)
            return
        self.history.ops.append(
            Op(
                started_ns=started_ns,
                ended_ns=time.monotonic_ns(),
                outcome="ok",
                version=answer.bundle.session_version,
                direct=answer.timings.record_us == 0,
                shown=tuple(_MARK.findall(shown(answer.bundle, HISTORY))),
                **about,
            )
        )
        known.learn(answer.bundle.session_version, answer.consistency_token)

    def _failed(self, error: grpc.aio.AioRpcError, started_ns: int, **about) -> Literal["refused", "doubt"]:
        refusal = refusal_of(error)
        outcome = "doubt" if error.code() in _DOUBT else "refused"
        self.history.ops.append(
            Op(
                started_ns=started_ns,
                ended_ns=time.monotonic_ns(),
                outcome=outcome,
                reason=refusal.reason or refusal.status,
                version=int(refusal.metadata.get("current_version", 0)),
                **about,
            )
        )
        return outcome

    def _known(self, session: str) -> Known:
        return next((one for one in self._sessions.values() if one.name == session), None) or Known(session)
