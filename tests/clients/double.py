"""A scripted server with just what the clients' own logic needs, and Python's blocking client behind an async face."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

import standpipe
from standpipe.v1 import bundle_pb2, context_pb2, policy_pb2, session_pb2, turn_pb2
from standpipe.v1.context_pb2_grpc import ContextServiceServicer, add_ContextServiceServicer_to_server
from standpipe.v1.policy_pb2_grpc import PolicyServiceServicer, add_PolicyServiceServicer_to_server
from standpipe.v1.session_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server


class Fault(Exception):
    """A failed call: its status, and the details of a Standpipe server unless `details` is given."""

    def __init__(
        self,
        code: str,
        reason: str = "",
        *,
        field: tuple[str, str] | None = None,
        retry_ms: int | None = None,
        domain: str = "standpipe.dev",
        details: bytes | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(code)
        self.code = grpc.StatusCode[code]
        messages: list[Message] = []
        if reason:
            messages.append(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata))
        if field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=field[0], description=field[1])
            messages.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if retry_ms is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(retry_ms)
            messages.append(retry)
        status = status_pb2.Status(code=self.code.value[0], message="scripted")
        for message in messages:
            packed = AnyMessage()
            packed.Pack(message)
            status.details.append(packed)
        given = status.SerializeToString() if messages else None
        self.details = given if details is None else details


class Double(ContextServiceServicer, SessionServiceServicer, PolicyServiceServicer):
    """Sessions in memory, with compare-and-swap and request ids; `script` comes before all of it.

    `script[method]` is a queue: a Fault fails the call, a callable is awaited in its place or before it, and None
    lets it through. With a `bearer`, a call that does not bring that token is refused before its turn in the queue.
    """

    def __init__(self) -> None:
        self.script: dict[str, deque[Any]] = {}
        self.requests: list[tuple[str, Any, dict[str, Any]]] = []
        self.logs: dict[str, list[turn_pb2.Event]] = {}
        self.commits: dict[tuple[str, str], context_pb2.CommitResult] = {}
        self.policies: list[policy_pb2.Policy] = []
        self.routes: dict[str, policy_pb2.Route] = {}
        self.sections: list[bundle_pb2.Section] = []
        self.bearer = ""
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()

    def plan(self, method: str, *steps: Any) -> None:
        """Script the next calls of a method."""
        self.script.setdefault(method, deque()).extend(steps)

    def asked(self, method: str) -> list[Any]:
        """Return the requests of a method, in order."""
        return [request for name, request, _ in self.requests if name == method]

    async def hang(self) -> None:
        """A step that never ends by itself."""
        self.entered.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        self.requests.append((method, request, dict(context.invocation_metadata())))
        if self.bearer and self.requests[-1][2].get("authorization") != f"Bearer {self.bearer}":
            await self._fail(context, Fault("UNAUTHENTICATED", "UNAUTHENTICATED"))
        queue = self.script.get(method)
        step = queue.popleft() if queue else None
        if inspect.iscoroutinefunction(step):
            step = await step()
        if step is not None:
            await self._fail(context, step)

    async def _fail(self, context: Any, fault: Fault) -> None:
        trailers = (("grpc-status-details-bin", fault.details),) if fault.details is not None else ()
        await context.abort(fault.code, "scripted", trailers)

    def append(self, session: str, request_id: str, turn: turn_pb2.Turn) -> turn_pb2.Event:
        """Write an event, as another pod would."""
        log = self.logs.setdefault(session, [])
        event = turn_pb2.Event(session_id=session, version=len(log) + 1, request_id=request_id, turn=turn)
        log.append(event)
        return event

    async def HydrateContext(self, request: Any, context: Any) -> context_pb2.HydrateContextResponse:
        await self._enter("HydrateContext", request, context)
        version = len(self.logs.get(request.session_id, ()))
        text = "".join(segment.body for section in self.sections for segment in section.segments)
        return context_pb2.HydrateContextResponse(
            bundle=bundle_pb2.Bundle(
                sections=self.sections,
                session_version=version,
                fingerprint=hashlib.sha256(text.encode()).digest(),
                policy="default@0",
            ),
            receipt=f"receipt {request.session_id} {version}".encode(),
            consistency_token=f"h{version}",
            degraded=[context_pb2.Degradation(source="SOURCE_RECALL", cause="embedder_off")],
            timings=context_pb2.Timings(total_us=7),
            token_tax=context_pb2.TokenTax(bundle_tokens=3),
            recall=context_pb2.RecallInfo(items=2) if request.query else None,
        )

    async def CommitTurn(self, request: Any, context: Any) -> context_pb2.CommitTurnResponse:
        await self._enter("CommitTurn", request, context)
        key = (request.session_id, request.request_id)
        if key in self.commits:
            return context_pb2.CommitTurnResponse(result=self.commits[key], replayed=True)
        log = self.logs.get(request.session_id, [])
        if request.mode != context_pb2.COMMIT_MODE_APPEND:
            if not request.HasField("expected_version"):
                await self._fail(
                    context, Fault("INVALID_ARGUMENT", "INVALID_FIELD", field=("expected_version", "needed"))
                )
            if request.expected_version < len(log):
                winner = log[request.expected_version].request_id
                fault = Fault("ABORTED", "VERSION_CONFLICT", current_version=str(len(log)), winner_request_id=winner)
                await self._fail(context, fault)
        event = self.append(request.session_id, request.request_id, request.turn)
        result = context_pb2.CommitResult(
            version=event.version, event_hash=b"\xab" * 32, consistency_token=f"c{event.version}"
        )
        result.committed_at.FromMilliseconds(1_700_000_000_123)
        self.commits[key] = result
        return context_pb2.CommitTurnResponse(result=result)

    async def ReplayContext(self, request: Any, context: Any) -> context_pb2.ReplayContextResponse:
        await self._enter("ReplayContext", request, context)
        return context_pb2.ReplayContextResponse(
            bundle=bundle_pb2.Bundle(sections=self.sections, session_version=4), session_id="s", subject_id="anna"
        )

    async def GetServerInfo(self, request: Any, context: Any) -> context_pb2.GetServerInfoResponse:
        await self._enter("GetServerInfo", request, context)
        return context_pb2.GetServerInfoResponse(version="0.1.0", record_engine="double")

    async def GetSession(self, request: Any, context: Any) -> session_pb2.GetSessionResponse:
        await self._enter("GetSession", request, context)
        if request.session_id not in self.logs:
            await self._fail(context, Fault("NOT_FOUND", "SESSION_NOT_FOUND"))
        version = len(self.logs[request.session_id])
        session = session_pb2.Session(session_id=request.session_id, version=version)
        return session_pb2.GetSessionResponse(session=session, consistency_token=f"g{version}")

    async def ListSessions(self, request: Any, context: Any) -> session_pb2.ListSessionsResponse:
        await self._enter("ListSessions", request, context)
        ids = sorted(self.logs)
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        return session_pb2.ListSessionsResponse(
            sessions=[session_pb2.Session(session_id=name) for name in ids[start:end]],
            next_page_token=str(end) if end < len(ids) else "",
        )

    async def ListEvents(self, request: Any, context: Any) -> session_pb2.ListEventsResponse:
        await self._enter("ListEvents", request, context)
        log = self.logs[request.session_id]
        events = log[request.after_version : request.after_version + (request.page_size or 100)]
        return session_pb2.ListEventsResponse(events=events, head_version=len(log))

    async def EndSession(self, request: Any, context: Any) -> session_pb2.EndSessionResponse:
        await self._enter("EndSession", request, context)
        return session_pb2.EndSessionResponse(version=len(self.logs[request.session_id]) + 1)

    async def PublishPolicy(self, request: Any, context: Any) -> policy_pb2.PublishPolicyResponse:
        await self._enter("PublishPolicy", request, context)
        policy = policy_pb2.Policy(name="p", version=len(self.policies) + 1, document_yaml=request.document_yaml)
        self.policies.append(policy)
        return policy_pb2.PublishPolicyResponse(policy=policy, created=True)

    async def GetPolicy(self, request: Any, context: Any) -> policy_pb2.GetPolicyResponse:
        await self._enter("GetPolicy", request, context)
        version = request.version if request.HasField("version") else len(self.policies)
        return policy_pb2.GetPolicyResponse(policy=self.policies[version - 1])

    async def ListPolicies(self, request: Any, context: Any) -> policy_pb2.ListPoliciesResponse:
        await self._enter("ListPolicies", request, context)
        at = int(request.page_token or 0)
        return policy_pb2.ListPoliciesResponse(
            policies=self.policies[at : at + 1],
            routes=self.routes.values() if at == 0 else (),
            next_page_token=str(at + 1) if at + 1 < len(self.policies) else "",
        )

    async def SetRoute(self, request: Any, context: Any) -> policy_pb2.SetRouteResponse:
        await self._enter("SetRoute", request, context)
        self.routes[request.route.name] = request.route
        return policy_pb2.SetRouteResponse(route=request.route)


@contextlib.asynccontextmanager
async def served(double: Double, address: str) -> AsyncIterator[str]:
    """Serve the double at a Unix socket's address, or at host:0; yield the address that it has then."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
    add_ContextServiceServicer_to_server(double, server)
    add_SessionServiceServicer_to_server(double, server)
    add_PolicyServiceServicer_to_server(double, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(None)


class Threaded:
    """The blocking client as an async one: its methods run in a thread, so that the server's loop stays free."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if isinstance(value, standpipe.sync.Policies):
            return Threaded(value)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in {"session", "memory", "state"}:
                return Threaded(value(*args, **kwargs))
            if name in {"events", "sessions", "beliefs", "quarantine", "export"} or (
                name == "list" and isinstance(self._inner, standpipe.sync.State)
            ):
                return self._items(value(*args, **kwargs))
            if name == "turn":
                args = (args[0], _finished(args[1]), *args[2:])
            return asyncio.to_thread(value, *args, **kwargs)

        return call

    async def _items(self, items: Iterator[Any]) -> AsyncIterator[Any]:
        nothing = object()
        while (item := await asyncio.to_thread(next, items, nothing)) is not nothing:
            yield item


def _finished(answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return an async answer function, which must not wait, as a blocking one."""

    def run(bundle: Any) -> Any:
        try:
            answer(bundle).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("an answer of this test must not wait")

    return run
