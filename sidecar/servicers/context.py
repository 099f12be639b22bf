"""ContextService: the hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from sidecar.commit import Committer
from sidecar.hydrate import Hydrator
from sidecar.servicers.boundary import Boundary
from standpipe.v1 import context_pb2, context_pb2_grpc


class ContextServicer(context_pb2_grpc.ContextServiceServicer):
    """See protos/standpipe/v1/context.proto."""

    def __init__(
        self,
        boundary: Boundary,
        hydrator: Hydrator,
        committer: Committer,
        server_info: Callable[[], Awaitable[context_pb2.GetServerInfoResponse]],
    ) -> None:
        self._boundary = boundary
        self._hydrator = hydrator
        self._committer = committer
        self._server_info = server_info

    async def HydrateContext(
        self, request: context_pb2.HydrateContextRequest, context: grpc.aio.ServicerContext
    ) -> context_pb2.HydrateContextResponse:
        """Return what the model should see."""
        return await self._boundary.call(
            "HydrateContext",
            request,
            context,
            lambda tenant, deadline: self._hydrator.hydrate(tenant, request, deadline=deadline),
        )

    async def CommitTurn(
        self, request: context_pb2.CommitTurnRequest, context: grpc.aio.ServicerContext
    ) -> context_pb2.CommitTurnResponse:
        """Append one turn, exactly once."""
        return await self._boundary.call(
            "CommitTurn",
            request,
            context,
            lambda tenant, deadline: self._committer.commit(tenant, request, deadline=deadline),
        )

    async def ReplayContext(
        self, request: context_pb2.ReplayContextRequest, context: grpc.aio.ServicerContext
    ) -> context_pb2.ReplayContextResponse:
        """Render a past bundle again."""
        return await self._boundary.call(
            "ReplayContext",
            request,
            context,
            lambda tenant, deadline: self._hydrator.replay(tenant, request, deadline=deadline),
        )

    async def GetServerInfo(
        self, request: context_pb2.GetServerInfoRequest, context: grpc.aio.ServicerContext
    ) -> context_pb2.GetServerInfoResponse:
        """Tell what this server is."""
        return await self._boundary.call(
            "GetServerInfo", request, context, lambda _tenant, _deadline: self._server_info()
        )
