"""A process that embeds and sweeps, and does not serve: `standpipe work`.

Any number of them work on one record store, beside sidecars or for those that are told not to (`project: false`). What
a worker holds goes back when it ends in peace, and when its lease has passed if it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidecar.config import Config
from sidecar.embed import Embedder, EmbedQueue
from sidecar.engines import open_hot, open_record
from sidecar.erasure import Eraser
from sidecar.errors import ConfigInvalid
from sidecar.health import Health, HealthServer
from sidecar.model import Model
from sidecar.projection import EmbeddingProjection
from sidecar.retention import Retention
from sidecar.stores.hot import Hot
from sidecar.stores.record import Lag
from sidecar.telemetry import Log, Telemetry


class Worker:
    """A worker's process: ``async with Worker(config) as worker``."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.telemetry = Telemetry(Log(level=config.log_level))
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def work(self, stop: asyncio.Event, *, once: bool) -> Lag | None:
        """Work until `stop` is set, or, `once`, until nothing is left but what is parked: then return the lag."""
        if once:
            await self._retention.sweep()
        async with (
            _beside(self._retention.run()),
            _beside(self._projection.drain() if once else self._projection.run()) as work,
            _beside(stop.wait()) as stopped,
        ):
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            lag: Lag | None = work.result() if work.done() else None
            return lag

    async def _start(self) -> None:
        started, config, stack = time.perf_counter(), self.config, self._stack
        if config.embedder == "none":
            raise ConfigInvalid("embedder must name a model, which a worker embeds with", field="embedder")
        health = Health(self.telemetry)
        await stack.enter_async_context(_beside(health.beat()))
        address = ""
        if config.http:
            pages = HealthServer(config.http, health)
            stack.callback(pages.close)
            address = f"{config.http.rpartition(':')[0]}:{pages.port}"
        record = await open_record(config)
        stack.push_async_callback(record.close)
        embedder = await asyncio.to_thread(self._load)
        queue = EmbedQueue(embedder)
        stack.push_async_callback(queue.close)
        self._projection = EmbeddingProjection(
            record, queue, model_id=embedder.id, dimensions=embedder.dimensions, telemetry=self.telemetry
        )
        hot: Hot[Any] = await open_hot(config, record)
        stack.push_async_callback(hot.close)
        eraser = Eraser(record=record, hot=hot, telemetry=self.telemetry)
        self._retention = Retention(record, hot, self.telemetry, eraser)
        version = metadata.version("standpipe")
        self.telemetry.info.labels(version, record.engine, hot.engine, embedder.provider).set(1)
        health.started = health.ready = True
        self.telemetry.log.info(
            "started",
            version=version,
            seconds=round(time.perf_counter() - started, 3),
            http=address,
            provider=embedder.provider,
        )

    def _load(self) -> Embedder:
        model = Model.open(Path(self.config.models_dir) / self.config.embedder)
        return Embedder(model, precision=self.config.precision, threads=self.config.embed_threads)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """Run something until the block ends."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
