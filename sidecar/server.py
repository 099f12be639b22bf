"""Wiring and lifecycle: what is made in which order, and undone in reverse.

Start: the record store, the tokenizers, the embedder, then the sockets; only then is the server started and
ready. Stop: no new calls, the calls at work end, then the commits whose callers left, the projection, the
stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sidecar import limits
from sidecar.batching import EmbedQueue
from sidecar.beliefs import BeliefStore
from sidecar.commit import Committer
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.engines import open_hot, open_record
from sidecar.erasure import Eraser
from sidecar.errors import ConfigInvalid
from sidecar.export import Exporter
from sidecar.gateway import Gateway
from sidecar.health import Health, HealthServer
from sidecar.hydrate import Hydrator
from sidecar.lease import Leases
from sidecar.model import Model
from sidecar.policies import Policies
from sidecar.projection import EmbeddingProjection
from sidecar.receipt import Signer
from sidecar.retention import Retention
from sidecar.scope import Scopes
from sidecar.servicers.boundary import Boundary, ReadableOnly
from sidecar.servicers.context import ContextServicer
from sidecar.servicers.memory import MemoryServicer
from sidecar.servicers.policy import PolicyServicer
from sidecar.servicers.session import SessionServicer
from sidecar.sessions import Sessions
from sidecar.stores.hot import Hot
from sidecar.stores.record import Record
from sidecar.telemetry import Log, Telemetry
from sidecar.tokens import Tokenizers
from sidecar.view import View
from standpipe.v1 import (
    context_pb2,
    context_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)

SERVICES = (
    context_pb2.DESCRIPTOR.services_by_name["ContextService"].full_name,
    session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
    policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name,
    memory_pb2.DESCRIPTOR.services_by_name["MemoryService"].full_name,
)

_OPTIONS = (
    ("grpc.max_receive_message_length", limits.wire_bytes),
    ("grpc.max_send_message_length", limits.wire_bytes),
    ("grpc.so_reuseport", 0),  # two servers on one port must be an error, not a lottery
)

_DRAIN_PAUSE_S = 0.1
"""How long new calls are answered with DRAINING before the sockets close."""


def version() -> str:
    """Return the release."""
    return metadata.version("standpipe")


class Server:
    """A sidecar: ``async with Server(config) as server``."""

    def __init__(self, config: Config, *, embedder: Embedder | None = None) -> None:
        """`embedder` stands in for the one that the configuration names; it is for tests and benches."""
        self.config = config
        self.telemetry = Telemetry(Log(level=config.log_level))
        self.health = Health(self.telemetry)
        self.ports: list[int] = []
        self.http_port = 0
        self._given_embedder = embedder
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        started = time.perf_counter()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        self.health.started = self.health.ready = True
        self.telemetry.log.info(
            "started",
            version=version(),
            seconds=round(time.perf_counter() - started, 3),
            listen=self.addresses,
            http=self.http_address,
            provider=self.provider,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Drain and release everything; at most `config.drain_ms` for calls that are at work."""
        self.health.ready = False
        await self._stack.aclose()

    @property
    def addresses(self) -> list[str]:
        """Where it is served: as configured, with the port that was given where 0 was asked for."""
        return [
            f"{one.rpartition(':')[0]}:{port}" if port else one
            for one, port in zip(self.config.listen, self.ports, strict=True)
        ]

    @property
    def http_address(self) -> str:
        """Where health and metrics are served, likewise; empty for nowhere."""
        return f"{self.config.http.rpartition(':')[0]}:{self.http_port}" if self.http_port else ""

    @property
    def provider(self) -> str:
        """What computes embeddings."""
        return self._embedder.provider if self._embedder else "none"

    async def lag(self) -> int:
        """Return how many items wait for their vector."""
        return (await self._projection.lag()).items if self._projection else 0

    async def _start(self) -> None:
        config, telemetry, stack = self.config, self.telemetry, self._stack
        beat = asyncio.create_task(self.health.beat())
        stack.push_async_callback(_cancelled, beat)
        if config.http:
            pages = HealthServer(config.http, self.health)
            stack.callback(pages.close)
            self.http_port = pages.port

        self.record: Record = await open_record(config)
        stack.push_async_callback(self.record.close)
        models = Path(config.models_dir)
        tokenizers = Tokenizers(models / "tokenizers", config.tokenizers)
        counters = {}
        for name in config.tokenizers:
            counters[name] = (await asyncio.to_thread(tokenizers.get, name)).count
        self._embedder = self._given_embedder
        if self._embedder is None and config.embedder != "none":
            self._embedder = await asyncio.to_thread(self._load_embedder, models / config.embedder)
        queue = EmbedQueue(self._embedder) if self._embedder else None
        model_id = self._embedder.id if self._embedder else ""
        dimensions = self._embedder.dimensions if self._embedder else 1

        signing_key = await self.record.signing_key()
        signer = Signer(signing_key)
        hot: Hot[View] = await open_hot(config, self.record)
        stack.push_async_callback(hot.close)
        policies = Policies(self.record, tokenizers)
        leases = Leases(self.record, hot, policies, telemetry)
        stack.push_async_callback(leases.close)
        stack.push_async_callback(_cancelled, asyncio.create_task(leases.run()))
        self.sessions = sessions = Sessions(self.record, hot, leases, tokenizers, telemetry)
        self.scopes = scopes = Scopes(
            self.record, model=model_id, dimensions=dimensions, bytes_max=config.block_cache_bytes
        )
        beliefs = BeliefStore(self.record, key=signing_key)
        self.eraser = Eraser(record=self.record, hot=hot, telemetry=telemetry, signer=signer, caches=(scopes, beliefs))
        stack.push_async_callback(self.eraser.drain)
        self._projection = None
        if queue is not None:
            stack.push_async_callback(queue.close)
            self._projection = EmbeddingProjection(self.record, queue, telemetry=telemetry)
            work = self._projection.run() if config.project else self._projection.watch()
            stack.push_async_callback(_cancelled, asyncio.create_task(work))
        if config.project:
            retention = Retention(self.record, hot, telemetry, self.eraser)
            stack.push_async_callback(_cancelled, asyncio.create_task(retention.run()))
        stack.push_async_callback(sessions.drain)
        committer = Committer(
            sessions=sessions,
            gateway=Gateway(self.record, beliefs),
            counters=counters,
            signer=signer,
            telemetry=telemetry,
            wake_projection=self._projection.wake if self._projection else asyncio.Event(),
        )
        stack.push_async_callback(committer.drain)
        hydrator = Hydrator(
            record=self.record,
            sessions=sessions,
            scopes=scopes,
            beliefs=beliefs,
            leases=leases,
            tokenizers=tokenizers,
            embedder=queue,
            model_id=model_id,
            signer=signer,
            telemetry=telemetry,
        )
        telemetry.info.labels(version(), self.record.engine, hot.engine, self.provider).set(1)
        telemetry.block_cache_bytes.set_function(lambda: scopes.nbytes)

        boundary = Boundary(tenant=config.tenant, telemetry=telemetry)
        server = grpc.aio.server(options=_OPTIONS)
        readable = ReadableOnly(server)
        context_pb2_grpc.add_ContextServiceServicer_to_server(
            ContextServicer(boundary, hydrator, committer, self._info), readable
        )
        session_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionServicer(boundary, self.record, committer, signer), readable
        )
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(PolicyServicer(boundary, self.record, leases), readable)
        memory_pb2_grpc.add_MemoryServiceServicer_to_server(
            MemoryServicer(
                boundary,
                record=self.record,
                committer=committer,
                beliefs=beliefs,
                policies=policies,
                eraser=self.eraser,
                exporter=Exporter(record=self.record, beliefs=beliefs, signer=signer),
                hydrator=hydrator,
            ),
            readable,
        )
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        for name in ("", *SERVICES):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        if config.reflection:
            reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.ports = [await _bind(server, address) for address in config.listen]
        await server.start()

        async def drain() -> None:
            boundary.draining = True
            await servicer.enter_graceful_shutdown()
            # What gRPC has taken in and not yet handed over when it stops ends as CANCELLED, which no client retries.
            pause_s = min(_DRAIN_PAUSE_S, config.drain_ms / 1000)
            await asyncio.sleep(pause_s)
            await server.stop(config.drain_ms / 1000 - pause_s)

        stack.push_async_callback(drain)

    def _load_embedder(self, directory: Path) -> Embedder:
        return Embedder(Model.open(directory), precision=self.config.embed_precision, threads=self.config.embed_threads)

    async def _info(self) -> context_pb2.GetServerInfoResponse:
        embedding = context_pb2.EmbeddingInfo(provider="none")
        if self._embedder:
            embedding = context_pb2.EmbeddingInfo(
                model_id=self._embedder.id,
                dimensions=self._embedder.dimensions,
                provider=self._embedder.provider,
                precision=self._embedder.precision,
            )
        return context_pb2.GetServerInfoResponse(
            version=version(),
            record_engine=self.record.engine,
            hot_engine=self.config.hot.partition("://")[0],  # what stands behind it may hold a password
            tokenizers=self.config.tokenizers,
            embedding=embedding,
            limits=[
                context_pb2.Limit(name=name, value=value)
                for name, value in sorted(vars(limits).items())
                if isinstance(value, int)
            ],
            projection_lag_items=await self.lag(),
        )


async def _bind(server: grpc.aio.Server, address: str) -> int:
    """Bind one address; return its port, 0 for a socket file. Raises ConfigInvalid if another server is there."""
    if not address.startswith("unix:"):
        try:
            return int(server.add_insecure_port(address))
        except RuntimeError:
            raise ConfigInvalid(f"{address} cannot be bound: is another server there?", field="listen") from None
    path = Path(address.removeprefix("unix:"))
    if path.exists():  # gRPC would bind over a live server, which nobody could reach from then on
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigInvalid(f"{path} is there and is not a socket", field="listen")
        if await asyncio.to_thread(_answers, path):
            raise ConfigInvalid(f"another server is on {path}", field="listen")
        path.unlink()
    umask = os.umask(0o117)  # the pod's containers share the socket by its group
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise ConfigInvalid(f"{path} cannot be bound", field="listen") from None
    finally:
        os.umask(umask)
    return 0


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) == 0


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
