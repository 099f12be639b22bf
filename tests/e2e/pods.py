"""Pods: servers in this process and in others, and a stock gRPC client of each, made of the generated stubs alone."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.server import Server
from sidecar.telemetry import Log
from standpipe.v1 import (
    bundle_pb2,
    context_pb2,
    context_pb2_grpc,
    memory_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    turn_pb2,
)
from tests import keys

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(os.environ.get("STANDPIPE_MODELS_DIR", ROOT / ".cache" / "models")).resolve()
MODEL = "all-MiniLM-L6-v2"
WIRE_BYTES = 8 << 20
START_S = 30.0

POLICY, SUMMARY, HISTORY, RECALL = (
    bundle_pb2.SOURCE_POLICY,
    bundle_pb2.SOURCE_SUMMARY,
    bundle_pb2.SOURCE_HISTORY,
    bundle_pb2.SOURCE_RECALL,
)


def settings(record: Path, /, **changes: Any) -> dict[str, Any]:
    """Return the settings of a quick server: an ephemeral port, no embedder. `changes` may name other stores.

    It encrypts with the tests' keys unless they say plaintext.
    """
    return {
        "encryption_keys_file": "" if changes.get("plaintext") else keys.key_file(),
        "listen": ("127.0.0.1:0",),
        "http": "127.0.0.1:0",
        "record": f"sqlite:{record}",
        "models_dir": str(MODELS),
        "embedder": "none",
        **changes,
    }


# --- requests --------------------------------------------------------------------------------------------------


def said(text: str, role: int = turn_pb2.ROLE_USER, **fields: Any) -> turn_pb2.TurnEntry:
    """Return a message."""
    return turn_pb2.TurnEntry(message=turn_pb2.Message(role=role, text=text, **fields))


def answered(text: str, **fields: Any) -> turn_pb2.TurnEntry:
    """Return a message of the model."""
    return said(text, turn_pb2.ROLE_ASSISTANT, **fields)


def call(call_id: str, name: str = "lookup", arguments_json: str = "{}") -> turn_pb2.TurnEntry:
    """Return a tool call."""
    return turn_pb2.TurnEntry(tool_call=turn_pb2.ToolCall(id=call_id, name=name, arguments_json=arguments_json))


def result(call_id: str, content: str = "done", **fields: Any) -> turn_pb2.TurnEntry:
    """Return a tool result."""
    return turn_pb2.TurnEntry(tool_result=turn_pb2.ToolResult(call_id=call_id, content=content, **fields))


def commit_request(
    session: str,
    request_id: str,
    *entries: turn_pb2.TurnEntry | str,
    expected: int | None = None,
    subject: str = "anna",
    receipt: bytes = b"",
    **fields: Any,
) -> context_pb2.CommitTurnRequest:
    """Return a commit; texts become messages of the user."""
    request = context_pb2.CommitTurnRequest(
        session_id=session,
        subject_id=subject,
        request_id=request_id,
        turn=turn_pb2.Turn(
            entries=[said(entry) if isinstance(entry, str) else entry for entry in entries], bundle_receipt=receipt
        ),
        **fields,
    )
    if expected is not None:
        request.expected_version = expected
    return request


def budget(total: int | None = None, **caps: int) -> context_pb2.Budget:
    """Return a budget; caps by the source's name."""
    return context_pb2.Budget(
        total_tokens=total,
        sources=[
            context_pb2.SourceBudget(source=bundle_pb2.Source.Value(f"SOURCE_{name.upper()}"), cap_tokens=cap)
            for name, cap in caps.items()
        ],
    )


# --- answers ---------------------------------------------------------------------------------------------------


def exact(message: Any) -> bytes:
    """Return a message's bytes, to compare."""
    return message.SerializeToString(deterministic=True)


def section(bundle: bundle_pb2.Bundle, source: int) -> bundle_pb2.Section | None:
    """Return a bundle's section, if it has one."""
    return next((one for one in bundle.sections if one.source == source), None)


def shown(bundle: bundle_pb2.Bundle, source: int) -> str:
    """Return the canonical text of a source in a bundle."""
    found = section(bundle, source)
    return "".join(one.header + one.body for one in found.segments) if found else ""


@dataclass(frozen=True)
class Refusal:
    """A failed call, read from the wire form that any client sees."""

    status: str
    reason: str
    metadata: dict[str, str]
    field: str
    text: str
    """Everything that it says, to search for content."""
    retry_ms: int | None


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """Read the details of a failed call."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    status = status_pb2.Status()
    seen = set()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    for detail in status.details:
        seen |= {type(target).__name__ for target in (info, bad, retry) if detail.Unpack(target)}
    return Refusal(
        status=error.code().name,
        reason=info.reason,
        metadata=dict(info.metadata),
        field=bad.field_violations[0].field if bad.field_violations else "",
        text=f"{error.details()} {status} {error.trailing_metadata()}",
        retry_ms=retry.retry_delay.ToMilliseconds() if "RetryInfo" in seen else None,
    )


async def refused(work: Awaitable[Any]) -> Refusal:
    """Await a call that must fail."""
    try:
        answer = await work
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError(f"the call was answered: {str(answer)[:300]}")


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 20.0) -> None:
    """Poll until something is true."""
    give_up = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < give_up, "it did not come true in time"
        await asyncio.sleep(0.02)


# --- clients and servers -----------------------------------------------------------------------------------------


class Brings(grpc.aio.UnaryUnaryClientInterceptor):
    """Puts a token into the metadata of each call."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Add the token."""
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {self._token()}"))
        return await continuation(details._replace(metadata=metadata), request)


class Pod:
    """A client of one server."""

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 20.0,
        tls: grpc.ChannelCredentials | None = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        """`token` is asked for each call."""
        self.target = target
        self.timeout_s = timeout_s
        options = [
            ("grpc.max_receive_message_length", WIRE_BYTES + (1 << 20)),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        brings = [Brings(token)] if token else []
        if tls is None:
            self.channel = grpc.aio.insecure_channel(target, options=options, interceptors=brings)
        else:
            self.channel = grpc.aio.secure_channel(target, tls, options=options, interceptors=brings)
        self.context = context_pb2_grpc.ContextServiceStub(self.channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)
        self.memory = memory_pb2_grpc.MemoryServiceStub(self.channel)
        self.policies = policy_pb2_grpc.PolicyServiceStub(self.channel)
        self.memory = memory_pb2_grpc.MemoryServiceStub(self.channel)

    async def hydrate(
        self,
        session: str = "s",
        query: str = "",
        *,
        subject: str = "anna",
        timeout_s: float | None = None,
        **fields: Any,
    ) -> context_pb2.HydrateContextResponse:
        """Hydrate."""
        request = context_pb2.HydrateContextRequest(session_id=session, subject_id=subject, query=query, **fields)
        return await self.context.HydrateContext(request, timeout=timeout_s or self.timeout_s)

    async def send(
        self, request: context_pb2.CommitTurnRequest, *, timeout_s: float | None = None
    ) -> context_pb2.CommitTurnResponse:
        """Commit a request that was made before."""
        return await self.context.CommitTurn(request, timeout=timeout_s or self.timeout_s)

    async def commit(
        self, session: str, request_id: str, *entries: turn_pb2.TurnEntry | str, **fields: Any
    ) -> context_pb2.CommitTurnResponse:
        """Commit; see `commit_request`."""
        return await self.send(commit_request(session, request_id, *entries, **fields))

    async def append(
        self, session: str, request_id: str, *entries: turn_pb2.TurnEntry | str, **fields: Any
    ) -> context_pb2.CommitTurnResponse:
        """Commit behind whatever is there."""
        return await self.commit(session, request_id, *entries, mode=context_pb2.COMMIT_MODE_APPEND, **fields)

    async def replay(self, receipt: bytes, **fields: Any) -> context_pb2.ReplayContextResponse:
        """Replay."""
        request = context_pb2.ReplayContextRequest(receipt=receipt, **fields)
        return await self.context.ReplayContext(request, timeout=self.timeout_s)

    async def session(self, session: str) -> session_pb2.GetSessionResponse:
        """Get a session."""
        return await self.sessions.GetSession(session_pb2.GetSessionRequest(session_id=session), timeout=self.timeout_s)

    async def end(self, session: str, request_id: str, **fields: Any) -> session_pb2.EndSessionResponse:
        """End a session."""
        request = session_pb2.EndSessionRequest(session_id=session, request_id=request_id, **fields)
        return await self.sessions.EndSession(request, timeout=self.timeout_s)

    async def events(self, session: str) -> list[turn_pb2.Event]:
        """List all events of a session, page by page."""
        found: list[turn_pb2.Event] = []
        while True:
            page = await self.sessions.ListEvents(
                session_pb2.ListEventsRequest(
                    session_id=session, after_version=found[-1].version if found else 0, page_size=1000
                ),
                timeout=self.timeout_s,
            )
            found += page.events
            if not page.events or found[-1].version >= page.head_version:
                return found

    async def publish(self, document: str) -> policy_pb2.PublishPolicyResponse:
        """Publish a policy."""
        request = policy_pb2.PublishPolicyRequest(document_yaml=document)
        return await self.policies.PublishPolicy(request, timeout=self.timeout_s)

    async def route(self, name: str, policy: str, version: int) -> policy_pb2.SetRouteResponse:
        """Set a route."""
        request = policy_pb2.SetRouteRequest(
            route=policy_pb2.Route(name=name, policy_name=policy, policy_version=version)
        )
        return await self.policies.SetRoute(request, timeout=self.timeout_s)

    async def info(self) -> context_pb2.GetServerInfoResponse:
        """Describe the server."""
        return await self.context.GetServerInfo(context_pb2.GetServerInfoRequest(), timeout=self.timeout_s)

    async def embedded(self) -> None:
        """Wait until every item has its vector."""

        async def done() -> bool:
            return (await self.info()).projection_lag_items == 0

        await until(done)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


class Local(Pod):
    """A server in this process, with a client of it."""

    def __init__(self, server: Server, log: io.StringIO) -> None:
        super().__init__(f"127.0.0.1:{server.ports[0]}")
        self.server = server
        self._log = log

    def log(self) -> str:
        """Return what the server logged so far."""
        return self._log.getvalue()

    def forget_log(self) -> None:
        """Forget what was logged: for a test that made a defect on purpose."""
        self._log.seek(0)
        self._log.truncate()

    def metrics(self) -> dict[str, float]:
        """Return the server's metrics: by name and labels, as they are exposed."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.http_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


@contextlib.asynccontextmanager
async def serving(record: Path, /, *, embedder: Embedder | str | None = None, **changes: Any) -> AsyncIterator[Local]:
    """Serve in this process, with an embedder, or one of a name. A defect that the server logged fails the test."""
    log = io.StringIO()
    if isinstance(embedder, str):
        changes["embedder"], embedder = embedder, None
    server = Server(Config(**settings(record, **changes)), embedder=embedder)
    server.telemetry.log = Log(log)
    async with server:
        pod = Local(server, log)
        try:
            yield pod
        finally:
            await pod.close()
    assert '"defect"' not in log.getvalue(), log.getvalue()


@dataclass
class Process:
    """A server in a process of its own."""

    config: Path
    log: Path
    root: Path = ROOT
    """Where its source is: this release's, or another's."""
    popen: subprocess.Popen[str] | None = None
    port: int = 0
    http_port: int = 0

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        with self.log.open("a") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.serve", str(self.config)],
                cwd=self.root,
                env={**os.environ, "PYTHONPATH": f"{self.root}:{self.root}/clients/python"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"the server did not start: {self.log.read_text()[-2000:]}"
        ready = json.loads(line)
        self.port, self.http_port = (ready["ports"] or [0])[0], ready["http_port"]

    def kill(self) -> None:
        """Kill -9, and bury."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()
            assert self.popen.stdout is not None
            self.popen.stdout.close()
            self.popen = None

    async def terminate(self) -> int:
        """SIGTERM; return the exit status."""
        assert self.popen is not None
        self.popen.terminate()
        status = await asyncio.to_thread(self.popen.wait, 20)
        self.kill()
        return status

    def client(self) -> Pod:
        """Return a client of it, as it runs now."""
        return Pod(f"127.0.0.1:{self.port}")


@dataclass
class Fleet:
    """Server processes on one record store, and clients; all are gone when the test ends."""

    directory: Path
    processes: list[Process] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)

    @property
    def record(self) -> Path:
        """The file that they share."""
        return self.directory / "record.db"

    async def start(self, *, root: Path = ROOT, **changes: Any) -> Process:
        """Start another process."""
        number = len(self.processes)
        config = self.directory / f"server-{number}.json"
        config.write_text(json.dumps(settings(self.record, **changes)))
        process = Process(config, self.directory / f"server-{number}.log", root)
        self.processes.append(process)
        await process.start()
        return process

    def pod(self, process: Process, *, target: str = "") -> Pod:
        """Return a client that is closed when the test ends."""
        pod = Pod(target) if target else process.client()
        self.pods.append(pod)
        return pod

    async def close(self) -> None:
        """End all of it. A defect that a server logged fails the test."""
        for pod in self.pods:
            await pod.close()
        for process in self.processes:
            process.kill()
        for process in self.processes:
            assert '"defect"' not in process.log.read_text(), process.log.read_text()


async def gather(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """Run together; failed calls are answers too."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for one in done:
        if isinstance(one, BaseException) and not isinstance(one, grpc.aio.AioRpcError):
            raise one
    return done
