"""The edge between callers and the rest, once for all methods: caller, tenant, deadline, drain, errors and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from sidecar import limits
from sidecar.callers import Callers
from sidecar.errors import DeadlineExceeded, Draining, Internal, InvalidField, Overloaded, StandpipeError, TenantDenied
from sidecar.stores.record import Deadline
from sidecar.telemetry import Telemetry

ERROR_DOMAIN = "standpipe.dev"
DETAILS_KEY = "grpc-status-details-bin"
"""Under which an error's details travel."""

Answer = TypeVar("Answer", bound=Message)


class Request(Protocol):
    """What every request has."""

    tenant_id: str


class Call(Protocol):
    """What is asked of a call: gRPC's context has it, and `sidecar.json_api` has its own."""

    def time_remaining(self) -> float | None:
        """Return the seconds that are left; None without a deadline."""

    def invocation_metadata(self) -> Sequence[tuple[str, Any]] | None:
        """Return what came with the request."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Return what the client's certificate says."""

    async def abort(self, code: Any, message: str, trailing_metadata: Any) -> NoReturn:
        """End the call with a status."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a request whose bytes are not a message of the method."""

    problem: str = "the bytes are not a message of this method"
    field: str = ""


class ReadableOnly:
    """Stands before a server while services are added, so that bytes that cannot be read reach `Boundary.call`.

    gRPC would answer them with UNKNOWN and its parser's own words, and write a traceback into the log.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add the handlers of one service."""
        self._handlers += handlers
        self._server.add_generic_rpc_handlers(tuple(_Readable(handler) for handler in handlers))

    def behaviour(self, path: str) -> Any:
        """Return the servicer's method that gRPC calls for a path. Raises LookupError."""
        asked = SimpleNamespace(method=path)
        found = next((method for method in (one.service(asked) for one in self._handlers) if method), None)
        if found is None or found.unary_unary is None:
            raise LookupError(path)
        return found.unary_unary


class _Readable(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        self._handler = handler

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = self._handler.service(details)
        return method and method._replace(request_deserializer=partial(_read, method.request_deserializer))


def _read(parse: Callable[[bytes], Message], data: bytes) -> Message | Unreadable:
    try:
        return parse(data)
    except DecodeError:
        return Unreadable()


class Boundary:
    """Wraps the work of a method. One a process."""

    def __init__(self, *, tenant: str, telemetry: Telemetry, callers: Callers | None = None) -> None:
        """Without `callers` no call needs a credential, and all are for `tenant`."""
        self.tenant = tenant
        self.telemetry = telemetry
        self.draining = False
        self._callers = callers
        self.shares = Shares() if callers is not None and callers.several else None

    async def call(
        self,
        method: str,
        request: Message | Unreadable,
        context: Call,
        work: Callable[[str, Deadline], Awaitable[Answer]],
        *,
        longest_ms: int | None = None,
    ) -> Answer:
        """Do `work(tenant, deadline)` and return its answer, or end the call with its error's status.

        A deadline is at most `longest_ms` ahead; None: as far as that of a call that brings none.
        """
        started = time.perf_counter()
        status, reason = "OK", ""
        try:
            if self.draining:
                raise Draining("the server is shutting down")
            if self._callers is not None:
                answer = await self._admitted(self._callers, method, request, context, work, longest_ms)
            else:
                readable = _readable(request)
                answer = await work(self._tenant(readable), _deadline(context, longest_ms))
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        except StandpipeError as error:
            status, reason = error.status, error.reason
            await _abort(context, error)
        except Exception as error:
            correlation = uuid.uuid4().hex
            status, reason = Internal.status, Internal.reason
            # The type and the place, never the message: a library may have put content into it.
            self.telemetry.log.error(  # noqa: TRY400 - no traceback: its values may be content
                "defect", method=method, correlation_id=correlation, type=type(error).__name__, place=_place(error)
            )
            await _abort(context, Internal("a defect in the server; its log has this id", correlation_id=correlation))
        else:
            return answer
        finally:
            self.telemetry.calls.labels(method, status, reason).inc()
            self.telemetry.call_seconds.labels(method).observe(time.perf_counter() - started)
        raise AssertionError("abort always raises")

    async def _admitted(
        self,
        callers: Callers,
        method: str,
        request: Message | Unreadable,
        context: Call,
        work: Callable[[str, Deadline], Awaitable[Answer]],
        longest_ms: int | None,
    ) -> Answer:
        """Do the work for the tenant that the caller may act for, within that tenant's share."""
        deadline = _deadline(context, longest_ms)
        tenant = await callers.admit(
            method,
            authorization=[value for key, value in context.invocation_metadata() or () if key == "authorization"],
            certificate=lambda: _certificate_names(context),
            tenant=getattr(request, "tenant_id", None),
            deadline=deadline,
        )
        _readable(request)
        if self.shares is None:
            return await work(tenant, deadline)
        with self.shares.of(tenant):
            return await work(tenant, deadline)

    def _tenant(self, request: Message) -> str:
        """Return the caller's tenant: it is the server's own; a request may only confirm it (P8)."""
        named = getattr(request, "tenant_id", "")
        if named and named != self.tenant:
            raise TenantDenied("the request names a tenant that is not the caller's", field="tenant_id")
        return self.tenant


class Shares:
    """How many calls each tenant has at work: none may have more than are free for others.

    So one tenant alone gets half of what there is, two that press get a third each, and a newcomer always finds room.
    """

    def __init__(self) -> None:
        self._at_work: dict[str, int] = {}
        self._free = limits.calls_at_work_max

    @contextlib.contextmanager
    def of(self, tenant: str) -> Iterator[None]:
        """Count one call of a tenant while it is at work. Raises Overloaded."""
        own = self._at_work.get(tenant, 0)
        if own >= self._free:
            raise Overloaded("too many calls of the tenant at work", limit="calls_at_work_max")
        self._at_work[tenant] = own + 1
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
            self._at_work[tenant] -= 1
            if not self._at_work[tenant]:
                del self._at_work[tenant]


def _readable(request: Message | Unreadable) -> Message:
    if isinstance(request, Unreadable):
        raise InvalidField(request.problem, field=request.field)
    return request


def _certificate_names(context: Call) -> list[str]:
    """Return what the client's certificate names: URIs as they are, DNS names behind `dns:`.

    A URI without :// is none of ours: it could read like a service account's name.
    """
    found = context.auth_context() or {}
    uris = [uri.decode("ascii", "replace") for uri in found.get("peer_uri", ())]
    names = [name.decode("ascii", "replace") for name in found.get("peer_dns", ())]
    return [*(uri for uri in uris if "://" in uri), *(f"dns:{name}" for name in names)]


def _deadline(context: Call, longest_ms: int | None) -> Deadline:
    left_s = context.time_remaining()
    now = time.monotonic()
    if left_s is None:
        return now + limits.deadline_default_ms / 1000
    if left_s <= 0:
        raise DeadlineExceeded("the deadline had passed when the call arrived", phase="arrival")
    return now + min(float(left_s), (longest_ms or limits.deadline_default_ms) / 1000)


async def _abort(context: Call, error: StandpipeError) -> None:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    ]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_ms is not None:
        pause = duration_pb2.Duration()
        pause.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=pause))
    message = f"{error.field}: {error.message}" if error.field else error.message
    status = status_pb2.Status(code=code_pb2.Code.Value(error.status), message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort(
        getattr(grpc.StatusCode, error.status),
        message,
        trailing_metadata=((DETAILS_KEY, status.SerializeToString()),),
    )


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace else ""
