"""EmbeddingService: texts to vectors for other processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import grpc
import numpy as np

from sidecar import limits, validate
from sidecar.batching import EmbedQueue
from sidecar.embedding import Vector
from sidecar.errors import ModelNotServed
from sidecar.servicers.boundary import Boundary
from sidecar.stores.record import Deadline
from standpipe.v1 import context_pb2, embedding_pb2, embedding_pb2_grpc


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
            vectors = await _vectors(queue, request, deadline_s=deadline - time.monotonic())
            return embedding_pb2.EmbedResponse(
                model_id=queue.id,
                dimensions=queue.dimensions,
                vectors=np.stack(vectors).astype("<f4", copy=False).tobytes(),
            )

        return await self._boundary.call("Embed", request, context, work, longest_ms=limits.embed_call_ms)

    async def ListModels(
        self, request: embedding_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> embedding_pb2.ListModelsResponse:
        """List the models at hand."""

        async def work(_tenant: str, _deadline: Deadline) -> embedding_pb2.ListModelsResponse:
            return embedding_pb2.ListModelsResponse(
                models=[
                    context_pb2.EmbeddingInfo(
                        model_id=queue.id,
                        dimensions=queue.dimensions,
                        provider=queue.provider,
                        precision=queue.precision,
                        tokens_max=queue.tokens_max,
                    )
                    for queue in self._queues.values()
                ]
            )

        return await self._boundary.call("ListModels", request, context, work)


async def _vectors(queue: EmbedQueue, request: embedding_pb2.EmbedRequest, *, deadline_s: float) -> list[Vector]:
    if request.kind == embedding_pb2.EMBED_KIND_PASSAGE:
        return await queue.embed_items(request.texts, deadline_s=deadline_s)
    waits = [asyncio.ensure_future(queue.embed_query(text, deadline_s=deadline_s)) for text in request.texts]
    try:
        return await asyncio.gather(*waits)
    finally:  # of a call that failed nobody waits for the rest
        for wait in waits:
            wait.cancel()
