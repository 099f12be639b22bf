"""Whoever does harm: kills, pauses, restarts, flushes, cuts and slows, at random from a seed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import redis

from tests.chaos.history import Fault, History
from tests.chaos.stage import Sidecar, Stage
from tests.proxy import Proxy
from tests.servers import DidNotStart, Postgres, Redis, RedisCluster

Harm = Callable[[], Awaitable[None]]


@dataclass
class Nemesis:
    """Three hands, so that faults overlap: at processes, on the way to the hot store, on that to the record store."""

    stage: Stage
    history: History
    seed: int
    only: tuple[str, ...] = ()
    """The kinds of faults, by how they begin; none: all."""
    pause_s: float = 1.5
    """The mean time between faults of one hand."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Do harm until `stopping` is set. What was begun is ended."""
        async with asyncio.TaskGroup() as group:
            for name, makes in (
                ("processes", self._processes),
                ("hot", lambda dice: self._network("hot", self.stage.hot_proxies, dice)),
                ("record", lambda dice: self._network("record", self.stage.record_proxies, dice)),
            ):
                dice = random.Random(f"{self.seed}-{name}")
                harms = {
                    kind: harm for kind, harm in makes(dice).items() if not self.only or kind.startswith(self.only)
                }
                if harms:
                    group.create_task(self._hand(harms, dice))

    async def _hand(self, harms: dict[str, Harm], dice: random.Random) -> None:
        bag: list[str] = []
        while True:
            try:
                async with asyncio.timeout(dice.expovariate(1 / self.pause_s)):
                    await self.stopping.wait()
                return
            except TimeoutError:
                pass
            if not bag:  # every kind comes up, in a short run too
                bag = sorted(harms)
                dice.shuffle(bag)
            kind = bag.pop()
            started_ns = time.monotonic_ns()
            try:
                await harms[kind]()
            except (
                TimeoutError,
                redis.RedisError,
            ):  # what it harmed is not whole again yet: a fault, no reason to stop
                kind += ", lasting"
            self.history.faults.append(Fault(kind, started_ns, time.monotonic_ns()))

    # --- processes

    def _processes(self, dice: random.Random) -> dict[str, Harm]:
        stage = self.stage
        harms: dict[str, Harm] = {
            "sidecar kill -9": lambda: self._killed(dice.choice(stage.sidecars), dice),
            "sidecar pause": lambda: self._paused(dice.choice(stage.sidecars), dice, 3.0),
        }
        if stage.redis is not None:
            redis = stage.redis
            harms |= {
                "redis kill -9": lambda: self._killed(redis, dice),
                "redis pause": lambda: self._paused(redis, dice, 2.0),
                "redis flush": lambda: asyncio.to_thread(redis.flush),
                "redis restart": lambda: asyncio.to_thread(redis.restart),
            }
        if stage.postgres is not None:
            postgres = stage.postgres
            harms |= {
                "postgresql kill -9": lambda: self._killed(postgres, dice),
                "postgresql pause": lambda: self._paused(postgres, dice, 2.0),
                "postgresql restart": lambda: asyncio.to_thread(postgres.restart),
            }
        if stage.cluster is not None:
            cluster = stage.cluster
            harms |= {
                "cluster lagging takeover": lambda: asyncio.to_thread(self._lagging_takeover, cluster, dice),
                "cluster failover": lambda: asyncio.to_thread(self._fail_over, cluster, dice),
                "cluster slot migration": lambda: asyncio.to_thread(self._migration, cluster, dice),
                "cluster master kill -9": lambda: self._master_killed(cluster, dice),
                "cluster flush": lambda: asyncio.to_thread(cluster.flush),
            }
        return harms

    async def _killed(self, server: Sidecar | Redis | Postgres, dice: random.Random) -> None:
        await asyncio.to_thread(server.kill9)
        await asyncio.sleep(dice.random())
        while not server.running:
            try:
                await asyncio.to_thread(server.start)
            except (DidNotStart, TimeoutError):  # a sidecar whose record store is away; whoever runs it starts it again
                if not isinstance(server, Sidecar):
                    raise
                if server.running:
                    await asyncio.to_thread(server.kill9)
                await asyncio.sleep(0.5)

    async def _paused(self, server: Sidecar | Redis | Postgres, dice: random.Random, longest_s: float) -> None:
        await asyncio.to_thread(server.pause)
        await asyncio.sleep(dice.uniform(0.05, longest_s))
        await asyncio.to_thread(server.resume)

    # --- the network between the pods and the stores

    def _network(self, name: str, proxies: list[Proxy], dice: random.Random) -> dict[str, Harm]:
        if not proxies:
            return {}

        def link(harm: Callable[[Proxy], None]) -> Harm:
            return lambda: self._link(dice.choice(proxies), dice, harm)

        return {
            f"{name} cut": lambda: self._cut(proxies, dice),
            f"{name} refused": link(Proxy.refuse),
            f"{name} swallowed": link(Proxy.black_hole),
            f"{name} delayed": link(lambda proxy: proxy.delay(dice.uniform(0.005, 0.03), jitter_s=0.01)),
            f"{name} late": link(lambda proxy: proxy.delay(0.2)),
            f"{name} slow": link(lambda proxy: proxy.trickle(dice.randrange(2_000, 200_000))),
            f"{name} answer cut": lambda: self._answer_cut(dice.choice(proxies), dice),
        }

    async def _cut(self, proxies: list[Proxy], dice: random.Random) -> None:
        for proxy in dice.sample(proxies, dice.randint(1, len(proxies))):
            await asyncio.to_thread(proxy.cut)

    async def _link(self, proxy: Proxy, dice: random.Random, harm: Callable[[Proxy], None]) -> None:
        await asyncio.to_thread(harm, proxy)
        await asyncio.sleep(dice.uniform(0.1, 4.0))
        await asyncio.to_thread(proxy.heal)

    async def _answer_cut(self, proxy: Proxy, dice: random.Random) -> None:
        """Cut within what comes back: what was sent has happened, and the sender does not learn so."""
        await asyncio.to_thread(proxy.cut_after, dice.randrange(1, 500))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(proxy.heal)

    # --- the cluster

    def _lagging_takeover(self, cluster: RedisCluster, dice: random.Random) -> None:
        """A replica that could not follow for a time takes over: what the master confirmed meanwhile is gone."""
        master = dice.choice(cluster.masters())
        replicas = cluster.replicas(master)
        if not replicas:
            return
        cluster.lag(master)
        try:
            time.sleep(dice.uniform(0.1, 1.0))
            cluster.fail_over(dice.choice(replicas))
        finally:
            cluster.follow(master)
        cluster.settle()

    def _fail_over(self, cluster: RedisCluster, dice: random.Random) -> None:
        """A replica and its master change places in good order."""
        master = dice.choice(cluster.masters())
        replicas = cluster.replicas(master)
        if replicas:
            cluster.fail_over(dice.choice(replicas), "")
            cluster.settle()

    def _migration(self, cluster: RedisCluster, dice: random.Random) -> None:
        """Slots that hold sessions move, slowly."""
        held = self._slots_in_use(cluster)
        for slot in dice.sample(held, min(3, len(held))):
            source = cluster.master_of(slot)
            target = dice.choice([one for one in cluster.masters() if one is not source])
            cluster.migrate(slot, target, between=lambda: time.sleep(0.02))
        cluster.settle()

    def _slots_in_use(self, cluster: RedisCluster) -> list[int]:
        found = set()
        for node in cluster.masters():
            with node.client() as client:
                found |= {cluster.slot_of(key) for key in client.scan_iter(count=1000)}
        return sorted(found)

    async def _master_killed(self, cluster: RedisCluster, dice: random.Random) -> None:
        """A master dies; its replica is elected."""
        master = dice.choice(await asyncio.to_thread(cluster.masters))
        await asyncio.to_thread(master.kill9)
        await asyncio.sleep(dice.uniform(0.1, 4.0))
        await asyncio.to_thread(master.start)
        await asyncio.to_thread(cluster.settle)
