"""EmbeddingService: texts to vectors for other processes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc

from sidecar import limits, validate
from sidecar.batching import EmbedQueue
from sidecar.errors import ModelNotServed
from sidecar.servicers.boundary import Boundary
from sidecar.stores.record import Deadline
from standpipe.v1 import embedding_pb2, embedding_pb2_grpc


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """See protos/standpipe/v1/embedding.proto."""

    def __init__(self, boundary: Boundary, queues: Sequence[EmbedQueue]) -> None:
        """`queues`: one of each model, in the order of preference."""
        self._boundary = boundary
        self._queues = {queue.id: queue for queue in queues}

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, context: grpc.aio.ServicerContext
    ) -> embedding_pb2.EmbedResponse:
        """Embed texts: all or none."""

        async def work(_tenant: str, deadline: Deadline) -> embedding_pb2.EmbedResponse:
            validate.embedding(request)
            queue = self._queues.get(request.model_id)
            if queue is None:
                known = ",".join(self._queues)
                raise ModelNotServed(f"this embedder serves {known}", field="model_id", known=known)
            query = request.kind == embedding_pb2.EMBED_KIND_QUERY
            # Not from a cache: whoever asks has one.
            found = await queue.embed(request.texts, query=query, deadline_s=deadline - time.monotonic())
            return embedding_pb2.EmbedResponse(
                model_id=queue.id,
                dimensions=queue.dimensions,
                vectors=found.vectors.astype("<f4", copy=False).tobytes(),
                tokens=found.tokens,
                queue_us=found.queue_us,
                run_us=found.run_us,
            )

        return await self._boundary.call("Embed", request, context, work, longest_ms=limits.embed_call_ms)

    async def ListModels(
        self, request: embedding_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> embedding_pb2.ListModelsResponse:
        """List the models at hand."""

        async def work(_tenant: str, _deadline: Deadline) -> embedding_pb2.ListModelsResponse:
            return embedding_pb2.ListModelsResponse(models=[queue.info() for queue in self._queues.values()])

        return await self._boundary.call("ListModels", request, context, work)
