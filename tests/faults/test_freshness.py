"""A fault at every transition of the freshness protocol (ARCHITECTURE.md, "Freshness"); then nobody sees less (P4).

Three pods share one record store and a hot store that loses its memory, fails over to a replica that lags, or is seen
differently by each of them. In each round a pod commits. At chosen points of that commit, and of a hydrate beside it,
something happens: the pod dies, keys are lost, the servers change, others commit and hydrate. What was acknowledged,
shown or told to anybody by then is the least that every hydrate which starts later must show.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from sidecar import lease, limits
from sidecar.config import Config
from sidecar.server import Server
from sidecar.stores.record import Head, HeadRead
from standpipe.v1 import bundle_pb2, context_pb2
from tests.e2e.pods import Pod, refusal_of, settings
from tests.faults.log_check import rounds
from tests.proxy import Proxy
from tests.servers import LOOPBACK, Redis, wait_for

PODS = 3
COMMIT_POINTS = [f"{when} {step}" for step in ("announce", "append", "publish") for when in ("before", "after")]
READ_POINTS = [f"{when} {step}" for step in ("look", "read", "share") for when in ("before", "after")]
LOSSES = ["evict", "flush", "restart", "fail over", "split"]
ACTIONS = [*LOSSES, "cut", "other commit", "other read", "full read", "recall"]
LEASE_S, MARGIN_S = 0.25, 0.05


class Died(Exception):
    """The pod is gone: nothing of what it was doing goes on."""


@dataclass
class Hooked:
    """A server in this process that can be struck between any two of its steps."""

    server: Server
    pod: Pod
    proxy: Proxy
    hooks: dict[str, list[Callable[[], Awaitable[None]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hot, record = self.server.sessions.hot, self.server.record
        self._wrap(hot, "announce", "announce")
        self._wrap(record, "append", "append")
        self._wrap(hot, "publish", "publish")
        self._wrap(hot, "fetch", "look")
        self._wrap(record, "fetch", "read")

    def _wrap(self, store: Any, name: str, step: str) -> None:
        work = getattr(store, name)

        async def struck(*arguments: Any, **named: Any) -> Any:
            what = "share" if step == "publish" and not named.get("mark") else step
            await self._strike(f"before {what}")
            answer = await work(*arguments, **named)
            await self._strike(f"after {what}")
            return answer

        setattr(store, name, struck)

    async def _strike(self, point: str) -> None:
        for action in self.hooks.pop(point, []):
            await action()


@dataclass
class World:
    """The pods, the two Redis servers, and the least that must be shown."""

    pods: list[Hooked]
    master: Redis
    replica: Redis
    dice: random.Random
    floor: dict[str, int] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    lost: bool = False
    restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- what happens

    async def act(self, action: str, session: str, near: Hooked) -> None:
        """Let something happen."""
        self.seen[action] += 1
        self.lost = self.lost or action in LOSSES
        other = self.dice.choice([pod for pod in self.pods if pod is not near])
        if action in {"evict", "flush"}:
            with contextlib.suppress(redis.ConnectionError):  # it may be restarting just now, which loses as much
                key = near.server.sessions.hot.inner.key("default", session).decode()
                self.master.call(*(["DEL", key] if action == "evict" else ["FLUSHALL"]))
        elif action == "restart":
            async with self.restarting:
                await asyncio.to_thread(self.master.kill9)
                await asyncio.to_thread(self.master.start)
        elif action == "fail over":
            self._promote()
            for pod in self.pods:
                self._direct(pod)
        elif action == "split":  # one pod follows the promoted replica, the others still reach the old master
            self._promote()
            self._direct(near)
        elif action == "cut":
            for pod in self.pods:
                pod.proxy.cut()
        elif action == "other commit":
            await self.commit(other, session)
        elif action == "other read":
            await self.hydrate(other, session)
        elif action == "recall":  # asks the record store alone
            await self.hydrate(other, session, query="turn 1")
        elif action == "full read":
            await self.hydrate(other, session, consistency=context_pb2.Consistency(fully_consistent=True))

    def _promote(self) -> None:
        """Make the replica a master. What the old one wrote since it was let fall behind is lost."""
        self.replica.call("REPLICAOF", "NO", "ONE")

    def _direct(self, pod: Hooked) -> None:
        pod.proxy.redirect(self.replica.address)

    async def mend(self) -> None:
        """One master, a replica that follows, and all pods at the master."""
        if self.replica.info("replication")["role"] == "master":
            self.master, self.replica = self.replica, self.master
        for node in (self.master, self.replica):
            node.call("ACL", "SETUSER", "default", "+psync", "+sync")
        self.replica.call("REPLICAOF", LOOPBACK, self.master.port)
        await asyncio.to_thread(
            wait_for, lambda: self.replica.info("replication")["master_link_status"] == "up", "the replica follows"
        )
        for pod in self.pods:
            pod.hooks.clear()
            pod.proxy.redirect(self.master.address)

    def fall_behind(self) -> None:
        """Keep the replica from following: a failover from now on loses what comes."""
        self.master.call("ACL", "SETUSER", "default", "-psync", "-sync")
        self.master.call("CLIENT", "KILL", "TYPE", "replica")

    # --- what is done, and what must be seen

    async def commit(self, pod: Hooked, session: str) -> None:
        """Commit behind the version that was last seen, by compare-and-swap."""
        self.requests += 1
        floor = self.floor.get(session, 0)
        try:
            answer = await pod.pod.commit(session, f"r-{self.requests}", f"turn {self.requests}", expected=floor)
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error)
            if refusal.reason == "VERSION_CONFLICT":
                self._raise(session, int(refusal.metadata["current_version"]))
            self.seen[refusal.reason] += 1
        else:
            self.seen["committed"] += 1
            self._raise(session, answer.result.version)

    async def hydrate(self, pod: Hooked, session: str, **fields: Any) -> None:
        """Hydrate, without a query the history alone: it may be hot. Less than was known to anybody before is stale."""
        floor = self.floor.get(session, 0)
        include = () if "query" in fields else (bundle_pb2.SOURCE_HISTORY,)
        answer = await pod.pod.hydrate(session, subject="", include=include, **fields)
        shown = answer.bundle.session_version
        self.seen["stale"] += shown < floor
        assert shown >= floor, f"{session}: shows {shown}, {floor} was known before; {self.seen}"
        self.seen["hot" if answer.timings.record_us == 0 and shown else "cold"] += 1
        self._raise(session, shown)

    def _raise(self, session: str, version: int) -> None:
        self.floor[session] = max(self.floor.get(session, 0), version)

    async def head(self, session: str) -> int:
        """Return the log's head, whatever anybody was told."""
        record = self.pods[-1].server.record
        (head,) = await type(record).fetch(record, [HeadRead(tenant="default", session=session)])
        return head.version if isinstance(head, Head) else 0


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Three pods with short leases, each with its own way to Redis; a master and a replica."""
    monkeypatch.setattr(limits, "hot_lease_ms", int(LEASE_S * 1000))
    monkeypatch.setattr(lease, "LEASE_S", LEASE_S)
    monkeypatch.setattr(lease, "MARGIN_S", MARGIN_S)
    monkeypatch.setattr(lease, "_ADOPT_PAUSE_S", (0.02, 0.05))
    seed = int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(1 << 30))
    print(f"TEST_SEED={seed}")
    with contextlib.ExitStack() as servers:
        master, replica = (
            servers.enter_context(Redis(repl_diskless_sync="yes", repl_diskless_sync_delay=0)) for _ in range(2)
        )
        proxies = [servers.enter_context(Proxy(master.address)) for _ in range(PODS)]
        async with contextlib.AsyncExitStack() as stack:
            pods = []
            for proxy in proxies:
                hot = f"redis://{LOOPBACK}:{proxy.port}"
                server = Server(Config(**settings(tmp_path / "record.db", hot=hot, embedder="none")))
                await stack.enter_async_context(server)
                pod = Pod(f"{LOOPBACK}:{server.ports[0]}")
                stack.push_async_callback(pod.close)
                pods.append(Hooked(server, pod, proxy))
            world = World(pods, master, replica, random.Random(seed))
            await world.mend()
            yield world


async def one_round(world: World, strikes: list[tuple[str, str]], *, dies_at: str = "", session: str = "") -> None:
    """Commit on one pod and hydrate on another, with actions at points of both; then everybody looks."""
    dice = world.dice
    world.lost = False
    session = session or f"s-{dice.randrange(6)}"
    committer, reader, third = dice.sample(world.pods, 3)
    if dice.random() < 0.7:
        for pod in world.pods:
            await world.hydrate(pod, session)
    if any(action in {"fail over", "split"} for _, action in strikes):
        world.fall_behind()
        if dice.random() < 0.5:
            await world.commit(third, session)
    for point, action in strikes:
        pod = committer if point in COMMIT_POINTS else reader
        pod.hooks.setdefault(point, []).append(
            lambda action=action, pod=pod: world.act(action, session, pod)  # type: ignore[misc]
        )
    if dies_at:

        async def die() -> None:
            world.seen["died"] += 1
            raise Died

        committer.hooks.setdefault(dies_at, []).append(die)
    work = [world.commit(committer, session)]
    if any(point in READ_POINTS for point, _ in strikes):
        work.append(world.hydrate(reader, session))
    await asyncio.gather(*work)
    for pod in world.pods:
        pod.hooks.clear()
    if dies_at in {"after append", "before publish", "after publish"} and not world.lost:
        # Nothing was lost, so what the dead pod announced still stands: its turn is seen although nobody was told.
        world.floor[session] = max(world.floor.get(session, 0), await world.head(session))
    for pod in dice.sample(world.pods, PODS):
        await world.hydrate(pod, session)
    await world.mend()


def every_fault() -> Iterator[tuple[list[tuple[str, str]], str]]:
    """Yield each action at each point alone, and each death alone."""
    for point in (*COMMIT_POINTS, *READ_POINTS):
        for action in ACTIONS:
            yield [(point, action)], ""
    for dies_at in COMMIT_POINTS:
        yield [], dies_at


@pytest.mark.timeout(600)
async def test_a_fault_at_every_transition(world: World) -> None:
    """Each thing that can happen, at each point of a commit and of a hydrate, by itself: nobody sees less (P4)."""
    for strikes, dies_at in every_fault():
        await one_round(world, strikes, dies_at=dies_at)
    print(dict(world.seen))
    assert world.seen["stale"] == 0
    assert world.seen["hot"] > world.seen["cold"] / 10  # else the hot store was never trusted, and nothing was tested
    assert world.seen["died"] == len(COMMIT_POINTS)


@pytest.mark.timeout(300 + 2 * rounds(60))
async def test_faults_together(world: World) -> None:
    """Several faults in one round, a death among them, over many rounds at random points: nobody sees less (P4)."""
    dice = world.dice
    for _ in range(rounds(60)):
        count = dice.choice([1, 2, 2, 3, 4])
        strikes = [(dice.choice([*COMMIT_POINTS, *READ_POINTS]), dice.choice(ACTIONS)) for _ in range(count)]
        await one_round(world, strikes, dies_at=dice.choice(["", *COMMIT_POINTS]))
    print(dict(world.seen))
    assert world.seen["stale"] == 0
