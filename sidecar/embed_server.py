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
from sidecar.embedders import loaded_by
from sidecar.errors import ConfigInvalid
from sidecar.servicers.boundary import Boundary
from sidecar.servicers.embedding import EmbeddingServicer
from sidecar.sockets import Serving, Sockets, server_credentials, version
from standpipe.v1 import embedding_pb2, embedding_pb2_grpc

SERVICES = (embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,)


class EmbedServer(Serving):
    """A shared embedder: ``async with EmbedServer(config) as server``."""

    def __init__(self, config: Config, *, embedders: Sequence[Embedder] = ()) -> None:
        """`embedders` stand in for those that the configuration names; they are for tests and benches."""
        super().__init__(config)
        self._embedders = list(embedders)

    @property
    def provider(self) -> str:
        """What computes embeddings."""
        return self._embedders[0].provider

    async def _start(self) -> None:
        config = self.config
        if config.embedder == "none":
            raise ConfigInvalid("embedder must name a model, which is what an embedder serves", field="embedder")
        credentials = None
        if config.tls_cert_file:
            credentials = server_credentials(config.tls_cert_file, config.tls_key_file)
        self._embedders = self._embedders or await asyncio.to_thread(loaded_by, config)
        queues = [EmbedQueue(embedder, telemetry=self.telemetry) for embedder in self._embedders]
        for queue in queues:
            self._stack.push_async_callback(queue.close)
        self.telemetry.info.labels(version(), "none", "none", self.provider).set(1)
        boundary = Boundary(tenant="", telemetry=self.telemetry)
        sockets = Sockets(config, boundary, credentials=credentials)
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(EmbeddingServicer(boundary, queues), sockets.services)
        await self._open(sockets, SERVICES)
