"""A process that embeds, sweeps and, if it is told to, extracts, and does not serve: `standpipe work`.

Any number of them work on one record store, beside sidecars or for those that are told not to (`project: false`). What
a worker holds goes back when it ends in peace, and when its lease has passed if it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from sidecar.beliefs import BeliefStore
from sidecar.chat import Chat
from sidecar.commit import Committer
from sidecar.config import Config
from sidecar.embedders import embedders_of
from sidecar.engines import open_hot, open_record
from sidecar.erasure import Eraser
from sidecar.errors import ConfigInvalid, EmbedderUnavailable, StandpipeError
from sidecar.extraction import Extraction
from sidecar.gateway import Gateway
from sidecar.health import Health, HealthServer
from sidecar.lease import Leases
from sidecar.orders import Orders
from sidecar.policies import Policies
from sidecar.receipt import Signer
from sidecar.retention import Retention
from sidecar.sessions import Sessions
from sidecar.stores.hot import Hot
from sidecar.stores.record import Lag, Record
from sidecar.switch import Switch
from sidecar.telemetry import Log, Telemetry
from sidecar.tokens import Tokenizers

_TELL_S = 1.0

_MODELS_S = 10.0
"""How long to wait for a shared embedder to say which models it has, before there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How far the work of one kind is."""

    model_id: str
    """What embeds or extracts."""
    done: int
    """Items that this process was through with."""
    waiting: int
    """Items that nobody was through with, but those of parked orders."""
    tokens: int
    """That were embedded in this process; 0 where nothing counts them."""
    parked: int
    """Orders."""


Report = Callable[[Stage], None]


class Worker:
    """A worker's process: ``async with Worker(config) as worker``."""

    def __init__(self, config: Config, *, extract: bool = False) -> None:
        """`extract`: whether to ask the endpoint of the configuration for facts and summary entries."""
        self.config = config
        self._extract = extract
        self._orders: list[Orders] = []
        self._switch: Switch | None = None
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

    @property
    def done(self) -> int:
        """Items that this process was through with."""
        projections = self._switch.attend() if self._switch else ()
        return sum(orders.done for orders in (*self._orders, *projections))

    async def work(self, stop: asyncio.Event, *, once: bool, report: Report | None = None) -> int | None:
        """Work until `stop` is set, or, `once`, until nothing is left but parked orders.

        Returns how many these are; None if it was stopped before. `once`, `report` is told about every second.
        """
        if once:
            await self._retention.sweep()
        async with (
            _beside(self._retention.run()),
            _beside(self._drain(report) if once else self._run()) as work,
            _beside(stop.wait()) as stopped,
        ):
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            return cast(int | None, work.result()) if work.done() else None

    async def _run(self) -> None:
        loops = [orders.run() for orders in self._orders]
        await asyncio.gather(*loops, *([self._switch.run()] if self._switch else []))

    async def _drain(self, report: Report | None) -> int:
        """Do all that there is, what is extracted before it is embedded."""
        parked = 0
        for orders in await self._attended():
            async with _beside(self._tell(orders, report)):
                lag = await orders.drain()
            self._report(orders, lag, report)
            parked += lag.parked
        if self._switch:
            await self._switch.look()
        return parked

    async def _attended(self) -> list[Orders]:
        """Return all the work that there is, once the models to embed with are at hand."""
        if self._switch is None:
            return self._orders
        give_up_at = time.monotonic() + _MODELS_S
        while not (projections := self._switch.attend()):
            if time.monotonic() > give_up_at:
                raise EmbedderUnavailable("the shared embedder does not answer")
            await asyncio.sleep(0.1)
        return [*self._orders, *projections]

    async def _tell(self, orders: Orders, report: Report | None) -> None:
        """Tell how far some work is, until cancelled."""
        while report:
            started = time.monotonic()
            with contextlib.suppress(StandpipeError):
                self._report(orders, await orders.lag(), report)
            # A long queue takes long to count: at most a twentieth of the time goes into that.
            await asyncio.sleep(max(_TELL_S, 19 * (time.monotonic() - started)))

    def _report(self, orders: Orders, lag: Lag, report: Report | None) -> None:
        if report:
            found = self.telemetry.registry.get_sample_value
            tokens = found("standpipe_embedded_tokens_total", {"model": orders.model_id, "kind": "passage"})
            report(Stage(orders.model_id, orders.done, lag.items, int(tokens or 0), lag.parked))

    async def _start(self) -> None:
        started, config, stack = time.perf_counter(), self.config, self._stack
        if config.embedder == "none" and not config.embedder_address and not self._extract:
            raise ConfigInvalid("embedder must name a model, which a worker embeds with", field="embedder")
        if self._extract and not config.extractor_url:
            raise ConfigInvalid("extractor_url must name the endpoint that --extract asks", field="extractor_url")
        health = Health(self.telemetry)
        await stack.enter_async_context(_beside(health.beat()))
        address = ""
        if config.http:
            pages = HealthServer(config.http, health)
            stack.callback(pages.close)
            address = f"{config.http.rpartition(':')[0]}:{pages.port}"
        record = await open_record(config)
        stack.push_async_callback(record.close)
        hot: Hot[Any] = await open_hot(config, record)
        stack.push_async_callback(hot.close)
        if self._extract:
            self._orders.append(await self._extraction(record, hot))
        provider = "none"
        embedders = await stack.enter_async_context(embedders_of(config, self.telemetry))
        health.sound = lambda: not any(one.broken for one in embedders.all)
        if embedders.configured:
            self._switch = Switch(record, embedders, telemetry=self.telemetry)
            await self._switch.look()
            provider = embedders.ranking.provider if embedders.ranking else "none"
        eraser = Eraser(record=record, hot=hot, telemetry=self.telemetry)
        self._retention = Retention(record, hot, self.telemetry, eraser)
        version = metadata.version("standpipe")
        self.telemetry.info.labels(version, record.engine, hot.engine, provider).set(1)
        health.started = health.ready = True
        self.telemetry.log.info(
            "started",
            version=version,
            seconds=round(time.perf_counter() - started, 3),
            http=address,
            provider=provider,
        )

    async def _extraction(self, record: Record, hot: Hot[Any]) -> Extraction:
        """Return the extraction, with the write path that every claim goes."""
        config, telemetry, stack = self.config, self.telemetry, self._stack
        chat = Chat(
            config.extractor_url,
            model=config.extractor_model,
            key_file=config.extractor_key_file,
            telemetry=telemetry,
        )
        tokenizers = Tokenizers(Path(config.models_dir) / "tokenizers", config.tokenizers)
        counters = {name: (await asyncio.to_thread(tokenizers.get, name)).count for name in config.tokenizers}
        policies = Policies(record, tokenizers)
        leases = Leases(record, hot, policies, telemetry)
        stack.push_async_callback(leases.close)
        await stack.enter_async_context(_beside(leases.run()))
        sessions = Sessions(record, hot, leases, tokenizers, telemetry)
        stack.push_async_callback(sessions.drain)
        signing_key = await record.signing_key()
        committer = Committer(
            sessions=sessions,
            gateway=Gateway(record, BeliefStore(record, key=signing_key)),
            counters=counters,
            signer=Signer(signing_key),
            telemetry=telemetry,
            wake_projection=lambda: None,
        )
        stack.push_async_callback(committer.drain)
        return Extraction(record, chat, committer, policies=policies, telemetry=telemetry)


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
