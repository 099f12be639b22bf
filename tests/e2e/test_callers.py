"""Callers with credentials: every call has one, acts for its own tenant alone, and rotation fails no call (P8)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.server import METHODS
from tests.e2e.pods import Local, Pod, refused, serving
from tests.issuer import ISSUER, Issuer, account
from tests.servers import LOOPBACK, directory

ACME, UMBRELLA = account("acme"), account("umbrella")
ENTRIES: list[dict[str, Any]] = [
    {"tenant": "acme", "callers": ["system:serviceaccount:acme:*"]},
    {"tenant": "umbrella", "callers": ["system:serviceaccount:umbrella:*"]},
    {"tenant": "acme", "callers": [account("both")]},
    {"tenant": "umbrella", "callers": [account("both")], "methods": ["ContextService/HydrateContext"]},
    {"tenant": "{namespace}", "callers": ["system:serviceaccount:team-*:app"]},
]


def tenants(path: Path, entries: list[dict[str, Any]]) -> str:
    """Write a tenants file, whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump({"tenants": entries}))
    return str(fresh.rename(path))


def signed(tmp_path: Path, issuer: Issuer, **changes: Any) -> dict[str, Any]:
    """Return the settings of a sidecar that takes an issuer's tokens."""
    return {
        "tenants_file": tenants(tmp_path / "tenants.yaml", ENTRIES),
        "auth_jwks": str(issuer.write(tmp_path / "jwks.json")),
        "auth_issuer": ISSUER,
        **changes,
    }


@contextlib.asynccontextmanager
async def calling(server: Local, token: str | Callable[[], str], target: str = "") -> AsyncIterator[Pod]:
    """Call a server with a token."""
    bring = token if callable(token) else lambda: token
    pod = Pod(target or server.target, token=bring)
    try:
        yield pod
    finally:
        await pod.close()


async def outcome(work: Any) -> str:
    """Return OK, or the reason of a refusal."""
    try:
        await work
    except grpc.aio.AioRpcError as error:
        (found,) = [await refused(_raise(error))]
        return found.reason
    return "OK"


async def _raise(error: BaseException) -> None:
    raise error


# --- who may call ----------------------------------------------------------------------------------------------------


async def test_without_a_credential_nothing_is_answered_but_health(tmp_path: Path) -> None:
    """Every method of every service refuses a call without a token, on a port and on a socket; health answers (P8)."""
    file = tmp_path / "tokens"
    file.write_text("a-token-of-callers-1\n")
    socket = f"unix:{directory()}/socket"
    async with serving(tmp_path / "r.db", auth_token_file=str(file), listen=(f"{LOOPBACK}:0", socket)) as server:
        for target in (server.target, socket):
            channel = grpc.aio.insecure_channel(target)
            for full in METHODS.values():
                call = channel.unary_unary(f"/standpipe.v1.{full}")
                for brought in (
                    (),
                    (("authorization", "Bearer another-token-of-16"),),
                    (("authorization", "Basic YTpi"),),
                ):
                    found = await refused(call(b"", metadata=brought, timeout=20))
                    assert (found.status, found.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED"), full
                    assert "another-token" not in found.text
            # Not even bytes that are no message, or a deadline, come before the credential.
            garbage = channel.unary_unary("/standpipe.v1.ContextService/CommitTurn")
            assert (await refused(garbage(b"\xff\xff", timeout=20))).reason == "UNAUTHENTICATED"
            healthy = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert healthy.status == health_pb2.HealthCheckResponse.SERVING
            listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
            assert (await listing.read()).list_services_response.service
            await channel.close()
        async with (
            calling(server, "a-token-of-callers-1") as pod,
            calling(server, "a-token-of-callers-1", socket) as by,
        ):
            await pod.append("s", "r", "hello")
            assert (await by.hydrate("s")).bundle
        metrics = server.metrics()
        assert metrics['standpipe_authentications_total{outcome="accepted"}'] == 2
        assert metrics['standpipe_authentications_total{outcome="missing"}'] == 2 * (len(METHODS) + 1)
        assert metrics['standpipe_authentications_total{outcome="refused"}'] == 2 * 2 * len(METHODS)
        assert "a-token-of-callers" not in server.log()
