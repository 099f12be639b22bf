"""What a run plays on: stores, a proxy before each store for each pod, and sidecars, which can all be harmed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.chaos.history import Event, History
from tests.chaos.planted import PLANTED
from tests.e2e.pods import ROOT, Pod, settings
from tests.faults.log_check import broken_chain, every_event
from tests.proxy import Proxy
from tests.servers import LOOPBACK, Postgres, Redis, RedisCluster, Server, directory, free_port

_LAZY = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
"""PostgreSQL writes nothing that a commit does not wait for, so that an acknowledgement without waiting shows."""


class Sidecar(Server):
    """One sidecar, on ports of its own that it keeps; `plant` switches one of its protections off."""

    kind = "sidecar"

    def __init__(self, *, record: str, hot: str, plant: str) -> None:
        super().__init__()
        self.http_port = free_port()
        self._plant = plant
        self._config = self.directory / "config.json"
        changes = {"listen": (f"{LOOPBACK}:{self.port}",), "http": f"{LOOPBACK}:{self.http_port}", "hot": hot}
        self._config.write_text(json.dumps(settings(Path(), record=record, **changes)))

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.chaos.planted", str(self._config), self._plant]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python"}

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.http_port}/startupz", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


class Stage:
    """All of it: enter to start, leave to end."""

    def __init__(self, *, record: str, hot: str, pods: int = 3, plant: str = "", seed: int = 0) -> None:
        self._stack = contextlib.ExitStack()
        self._kinds = (record, hot)
        self._count, self._plant, self._seed = pods, plant, seed
        self.postgres: Postgres | None = None
        self.redis: Redis | None = None
        self.cluster: RedisCluster | None = None
        self.record_proxies: list[Proxy] = []
        self.hot_proxies: list[Proxy] = []
        self.sidecars: list[Sidecar] = []
        self.pods: list[Pod] = []
        self._file = Path()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        record, hot = self._kinds
        records, hots = [self._record(record)] * self._count, [self._hot(hot)] * self._count
        if self.postgres is not None:
            self.record_proxies = [self._proxy(self.postgres) for _ in records]
            name = self.postgres.create_database()
            records = [self.postgres.dsn(name, address=proxy.address) for proxy in self.record_proxies]
            self._database = name
        if self.redis is not None:
            self.hot_proxies = [self._proxy(self.redis) for _ in hots]
            hots = [f"redis://{proxy.address[0]}:{proxy.address[1]}" for proxy in self.hot_proxies]
        for one_record, one_hot in zip(records, hots, strict=True):
            sidecar = Sidecar(record=one_record, hot=one_hot, plant=self._plant)
            self._stack.callback(sidecar.close)
            self.sidecars.append(sidecar)
        with ThreadPoolExecutor() as threads:
            list(threads.map(Sidecar.start, self.sidecars))

    def _record(self, kind: str) -> str:
        if kind == "postgresql":
            self.postgres = self._stack.enter_context(Postgres(durable=True, **_LAZY))
            return ""
        made = directory()
        self._stack.callback(shutil.rmtree, made)
        self._file = made / "record.db"
        return f"sqlite:{self._file}"

    def _hot(self, kind: str) -> str:
        if kind == "redis":
            self.redis = self._stack.enter_context(Redis())
        elif kind == "cluster":
            self.cluster = self._stack.enter_context(RedisCluster())
            return self.cluster.url
        return "memory"

    def _proxy(self, server: Postgres | Redis) -> Proxy:
        return self._stack.enter_context(Proxy(server.address, seed=self._seed))

    async def open_pods(self) -> list[Pod]:
        """Return a client of each sidecar, on the running loop."""
        self.pods = [Pod(f"{LOOPBACK}:{one.port}") for one in self.sidecars]
        return self.pods

    async def close_pods(self) -> None:
        """Close the clients."""
        for pod in self.pods:
            await pod.close()

    async def heal(self) -> None:
        """End every fault, and wait until all of it runs."""
        for proxy in (*self.record_proxies, *self.hot_proxies):
            await asyncio.to_thread(proxy.heal)
        nodes = self.cluster.nodes if self.cluster else []
        for server in (self.postgres, self.redis, *nodes, *self.sidecars):
            if server is not None:
                await asyncio.to_thread(server.resume if server.running else server.start)
        if self.cluster:
            await asyncio.to_thread(self.cluster.settle)

    def read_log(self, history: History) -> None:
        """Put the final log of every session into the history, read behind the back of the engines."""
        where = self.postgres.dsn(self._database) if self.postgres else self._file
        for (_, session), rows in every_event(where).items():
            history.log[session] = [
                Event(row.version, row.request_id.partition(PLANTED)[0], row.event_hash) for row in rows
            ]
            wrong = broken_chain(rows)
            if wrong:
                history.broken_chains[session] = wrong

    def defects(self) -> list[str]:
        """Return what sidecars logged as defects, and where they raised what nobody caught."""
        found = []
        for one in self.sidecars:
            lines = one.log.read_text(errors="replace").splitlines()
            for place, line in enumerate(lines):
                if '"defect"' in line:
                    found.append(line)
                elif line.startswith("Traceback"):
                    found.append(" ".join(part.strip() for part in lines[place : place + 60])[-1500:])
        return found
