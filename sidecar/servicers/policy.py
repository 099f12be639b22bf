"""PolicyService: immutable versions, and the routes that point at them."""

from __future__ import annotations

import base64
from typing import cast

import grpc

from sidecar import canonical, policy, validate
from sidecar.errors import InvalidField, PolicyNotFound
from sidecar.lease import Leases
from sidecar.policies import DEFAULT
from sidecar.servicers.boundary import Boundary
from sidecar.stores.record import (
    Deadline,
    PoliciesRead,
    PolicyRead,
    Record,
    RoutesRead,
    StoredPolicy,
    StoredRoute,
)
from standpipe.v1 import policy_pb2, policy_pb2_grpc


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """See protos/standpipe/v1/policy.proto."""

    def __init__(self, boundary: Boundary, record: Record, leases: Leases) -> None:
        self._boundary = boundary
        self._record = record
        self._leases = leases
        self._policies = leases.policies

    async def PublishPolicy(
        self, request: policy_pb2.PublishPolicyRequest, context: grpc.aio.ServicerContext
    ) -> policy_pb2.PublishPolicyResponse:
        """Publish a version."""

        async def work(tenant: str, _deadline: Deadline) -> policy_pb2.PublishPolicyResponse:
            stored, created = await self._policies.publish(tenant, request.document_yaml)
            return policy_pb2.PublishPolicyResponse(policy=_policy(stored), created=created)

        return await self._boundary.call("PublishPolicy", request, context, work)

    async def GetPolicy(
        self, request: policy_pb2.GetPolicyRequest, context: grpc.aio.ServicerContext
    ) -> policy_pb2.GetPolicyResponse:
        """Return a version, or the latest."""

        async def work(tenant: str, deadline: Deadline) -> policy_pb2.GetPolicyResponse:
            validate.name(request.name, "name")
            version = request.version if request.HasField("version") else None
            (found,) = await self._record.fetch(
                [PolicyRead(tenant=tenant, name=request.name, version=version)], deadline=deadline
            )
            stored = cast("StoredPolicy | None", found)
            if stored is None and request.name == DEFAULT and not version:
                document = self._policies.built_in()
                stored = StoredPolicy(
                    name=DEFAULT, version=0, document=document, digest=policy.digest(document), published_at_us=0
                )
            if stored is None:
                raise PolicyNotFound("the tenant has no such policy version", field="name")
            return policy_pb2.GetPolicyResponse(policy=_policy(stored))

        return await self._boundary.call("GetPolicy", request, context, work)

    async def ListPolicies(
        self, request: policy_pb2.ListPoliciesRequest, context: grpc.aio.ServicerContext
    ) -> policy_pb2.ListPoliciesResponse:
        """List versions and routes."""

        async def work(tenant: str, deadline: Deadline) -> policy_pb2.ListPoliciesResponse:
            count = validate.page(request.page_size)
            after = _after(request.page_token)
            found, routes = await self._record.fetch(
                [PoliciesRead(tenant=tenant, after=after, count_max=count + 1), RoutesRead(tenant=tenant)],
                deadline=deadline,
            )
            policies = list(cast("list[StoredPolicy]", found))
            more = len(policies) > count
            return policy_pb2.ListPoliciesResponse(
                policies=[_policy(stored, document=False) for stored in policies[:count]],
                routes=[] if request.page_token else [_route(route) for route in cast("list[StoredRoute]", routes)],
                next_page_token=_page_token(policies[count - 1]) if more else "",
            )

        return await self._boundary.call("ListPolicies", request, context, work)

    async def SetRoute(
        self, request: policy_pb2.SetRouteRequest, context: grpc.aio.ServicerContext
    ) -> policy_pb2.SetRouteResponse:
        """Point a route at a version."""

        async def work(tenant: str, _deadline: Deadline) -> policy_pb2.SetRouteResponse:
            route = StoredRoute(
                name=validate.name(request.route.name, "route.name"),
                policy_name=validate.name(request.route.policy_name, "route.policy_name"),
                policy_version=validate.between(request.route.policy_version, "route.policy_version", 0, (1 << 62) - 1),
            )
            await self._leases.point(tenant, route)
            return policy_pb2.SetRouteResponse(route=_route(route))

        return await self._boundary.call("SetRoute", request, context, work)


def _policy(stored: StoredPolicy, *, document: bool = True) -> policy_pb2.Policy:
    found = policy_pb2.Policy(
        name=stored.name,
        version=stored.version,
        document_yaml=stored.document if document else "",
        digest=stored.digest,
    )
    found.published_at.FromMicroseconds(stored.published_at_us)
    return found


def _route(stored: StoredRoute) -> policy_pb2.Route:
    return policy_pb2.Route(name=stored.name, policy_name=stored.policy_name, policy_version=stored.policy_version)


def _page_token(last: StoredPolicy) -> str:
    return base64.urlsafe_b64encode(canonical.pack((last.name, last.version))).decode()


def _after(page_token: str) -> tuple[str, int]:
    if not page_token:
        return "", 0
    try:
        name, version = canonical.unpack(base64.urlsafe_b64decode(page_token))
    except ValueError:
        name = version = None  # type: ignore[assignment]
    if not isinstance(name, str) or not isinstance(version, int):
        raise InvalidField("is not a token of this method", field="page_token")
    return name, version
