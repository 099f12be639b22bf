"""An embedder for many sidecars, as a process: `standpipe embed`.

It has models and a device, and no stores and no keys: what it is sent is in its memory until it is answered, and
nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sidecar.batching import EmbedQueue
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.embedders import loaded_by, queued
from sidecar.errors import ConfigInvalid
from sidecar.servicers.boundary import Boundary
from sidecar.servicers.embedding import EmbeddingServicer
from sidecar.sockets import Serving, Sockets, cancelled, version
from standpipe.v1 import embedding_pb2, embedding_pb2_grpc

SERVICES = (embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,)

_DRAIN_SHARE = 0.8
"""Of the drain, after which what still waits for a run is refused: what gRPC has to end by itself when the time is up
may end as CANCELLED, which not all clients retry."""


class EmbedServer(Serving):
    """A shared embedder: ``async with EmbedServer(config) as server``."""

    def __init__(self, config: Config, *, embedders: Sequence[Embedder] = ()) -> None:
        """`embedders` stand in for those that the configuration names; they are for tests and benches."""
        super().__init__(config)
        self._embedders = list(embedders)
        self._queues: list[EmbedQueue] = []

    @property
    def provider(self) -> str:
        """What computes embeddings."""
        return self._embedders[0].provider

    async def stop(self) -> None:
        """Drain and release everything, as any server does; what no run has begun for near the end is refused."""
        late = asyncio.create_task(self._refuse_late())
        await super().stop()
        await cancelled(late)

    async def _start(self) -> None:
        config = self.config
        if config.embedder == "none":
            raise ConfigInvalid("embedder must name a model, which is what an embedder serves", field="embedder")
        tls = self._certificates()
        self._embedders = self._embedders or await asyncio.to_thread(loaded_by, config, self.telemetry.log)
        self._queues = [await queued(self._stack, embedder, self.telemetry) for embedder in self._embedders]
        self.health.sound = lambda: not any(queue.broken for queue in self._queues)
        self.telemetry.info.labels(version(), "none", "none", self.provider).set(1)
        boundary = Boundary(tenant="", telemetry=self.telemetry)
        sockets = Sockets(config, boundary, tls=tls)
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(
            EmbeddingServicer(boundary, self._queues), sockets.services
        )
        await self._open(sockets, SERVICES)

    async def _refuse_late(self) -> None:
        """Refuse what waits for a run when most of the drain is over."""
        await asyncio.sleep(self.config.drain_ms / 1000 * _DRAIN_SHARE)
        await asyncio.gather(*(queue.close() for queue in self._queues))
