"""A shared embedder that does what a test tells it: a real gRPC server, at one address for ever."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

from sidecar import limits
from sidecar.errors import StandpipeError
from sidecar.servicers.boundary import _abort
from standpipe.v1 import context_pb2, embedding_pb2

ID, OTHER_ID = "small@1/int8", "small@1/fp32"
DIMENSIONS = 4
QUERY, PASSAGE = embedding_pb2.EMBED_KIND_QUERY, embedding_pb2.EMBED_KIND_PASSAGE


def vector_of(text: str, kind: int) -> np.ndarray:
    """Return a text's vector: no two have the same."""
    return np.frombuffer(hashlib.sha256(f"{kind} {text}".encode()).digest()[: 2 * DIMENSIONS], "<i2").astype("<f4")


def right(request: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedResponse:
    """Answer as an embedder should."""
    vectors = np.stack([vector_of(text, request.kind) for text in request.texts])
    return embedding_pb2.EmbedResponse(model_id=request.model_id, dimensions=DIMENSIONS, vectors=vectors.tobytes())


class Replica:
    """A gRPC server of the service, at one address for ever, which does what a test tells it."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self.models = [ID]
        self.asked: list[embedding_pb2.EmbedRequest] = []
        self.probed = 0
        self.listed = 0
        self.cancelled = 0
        self.error: StandpipeError | None = None
        self.embed: Callable[[embedding_pb2.EmbedRequest], bytes] = lambda request: right(request).SerializeToString()
        self.delay_s = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self.began = asyncio.Semaphore(0)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serve."""
        handlers = {
            "Embed": grpc.unary_unary_rpc_method_handler(self._embed, embedding_pb2.EmbedRequest.FromString),
            "ListModels": grpc.unary_unary_rpc_method_handler(self._list),
        }
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", limits.wire_bytes)])
        generic = grpc.method_handlers_generic_handler("standpipe.v1.EmbeddingService", handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """End, and whatever is at work."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def hang(self) -> None:
        """Embed nothing, and say nothing, until `open` is set."""
        self.open.clear()

    async def has_begun(self) -> None:
        """Wait until one more text has come, of a caller or of a watcher."""
        async with asyncio.timeout(10):
            await self.began.acquire()

    async def _embed(self, request: embedding_pb2.EmbedRequest, context: grpc.aio.ServicerContext) -> bytes:
        if request.texts[0].startswith("ready "):
            self.probed += 1
        else:
            self.asked.append(request)
        self.began.release()
        try:
            await asyncio.sleep(self.delay_s)
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            await _abort(context, self.error)
        return self.embed(request)

    async def _list(self, _request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        self.listed += 1
        models = [
            context_pb2.EmbeddingInfo(
                model_id=one,
                dimensions=DIMENSIONS,
                provider="CPUExecutionProvider",
                precision=one.partition("/")[2],
                tokens_max=256,
            )
            for one in self.models
        ]
        return embedding_pb2.ListModelsResponse(models=models).SerializeToString()
