"""The client: connect, hydrate, commit.

::

    async with standpipe.connect("unix:/run/standpipe/standpipe.sock") as client:
        session = client.session("chat-42", subject="anna")
        bundle = await session.hydrate("Where did we leave off?")
        answer = await model(bundle.to_openai())
        await session.commit([user(bundle.query), assistant(answer)], bundle=bundle)

Every call takes `deadline_ms`, retries included; None means the client's. Every call may raise what
`standpipe.errors` lists; each docstring names those that a caller will want to handle. `standpipe.sync` has the
same client without `await`.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import Message

from standpipe import errors, turn
from standpipe.bundle import Bundle, Replay
from standpipe.channel import DEADLINE_MS, AioWire, Answered, Metadata, Options, Wire
from standpipe.memory import Memory
from standpipe.state import State
from standpipe.v1.bundle_pb2 import Source
from standpipe.v1.context_pb2 import (
    Budget,
    CommitMode,
    CommitTurnRequest,
    CommitTurnResponse,
    Consistency,
    GetServerInfoRequest,
    GetServerInfoResponse,
    HydrateContextRequest,
    HydrateContextResponse,
    ReplayContextRequest,
    ReplayContextResponse,
    SourceBudget,
)
from standpipe.v1.fact_pb2 import Fact, FactResult
from standpipe.v1.policy_pb2 import (
    GetPolicyRequest,
    GetPolicyResponse,
    ListPoliciesRequest,
    ListPoliciesResponse,
    Policy,
    PublishPolicyRequest,
    PublishPolicyResponse,
    Route,
    SetRouteRequest,
    SetRouteResponse,
)
from standpipe.v1.session_pb2 import (
    EndSessionRequest,
    EndSessionResponse,
    GetSessionRequest,
    GetSessionResponse,
    ListEventsRequest,
    ListEventsResponse,
    ListSessionsRequest,
    ListSessionsResponse,
)
from standpipe.v1.session_pb2 import Session as SessionInfo
from standpipe.v1.turn_pb2 import Event, Turn

__all__ = ["Client", "Commit", "Policies", "Session", "TurnResult", "connect"]

SourceName: TypeAlias = Literal["policy", "profile", "summary", "history", "recall", "facts", "documents"]
Mode: TypeAlias = Literal["fail", "append"]
Answer: TypeAlias = str | turn.Entries
"""What an answer function may return: the assistant's text, or the entries that follow the user's message."""

TURN_ATTEMPTS: Final = 5
"""Answers that `Session.turn` asks for before it gives up: each one is a model call."""

PAUSE_S: Final = 0.05
"""The longest pause after the first conflict; it doubles with each further one."""

PAUSE_S_MAX: Final = 2.0
"""The longest pause after any conflict."""

PAGE_MAX: Final = 1000
"""Rows of one listed page: the server's `page_max`."""


@dataclass(frozen=True)
class Commit:
    """A turn that is durable (P1)."""

    version: int
    """The version that it became."""
    event_hash: str
    """The hash of its event, in hexadecimal."""
    token: str
    """Shows it to every hydrate that carries this token, through any pod (P4)."""
    committed_at: datetime
    """When the record store took it, in UTC."""
    replayed: bool
    """Whether an earlier request with this id had already committed it (P3)."""
    request_id: str
    """The id that it was committed under."""
    facts: tuple[FactResult, ...] = ()
    """What became of the claims that were committed with it."""


class TurnResult(NamedTuple):
    """What `Session.turn` did."""

    commit: Commit
    """The turn."""
    bundle: Bundle
    """What its answer was made from."""


def connect(
    target: str = "",
    *,
    tenant: str = "",
    deadline_ms: int = DEADLINE_MS,
    token_file: str = "",
    ca_file: str = "",
    cert_file: str = "",
    key_file: str = "",
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Metadata = (),
    options: Options = (),
) -> Client:
    """Return a client of the server at `target`; the channel opens at the first call.

    Where `target`, `token_file`, `ca_file`, `cert_file` or `key_file` is empty, STANDPIPE_TARGET, STANDPIPE_TOKEN_FILE,
    STANDPIPE_CA_FILE, STANDPIPE_CERT_FILE or STANDPIPE_KEY_FILE tells it, and else `target` is 127.0.0.1:7460. So an
    application that a platform put a sidecar beside just calls `connect()`.

    `token_file` holds a bearer token on its first line, such as a projected service-account token. It goes with every
    call, also over plaintext, and is read again when the file changes, and when the server refuses it.

    `ca_file` holds the certificates, as PEM, one of which must have signed the server's: then host:port is spoken to in
    TLS. `cert_file` and `key_file` are the certificate and the key, as PEM, for a server that asks for one. When they
    are renewed on disk, later calls take a new connection. A Unix socket never has TLS, whatever is given.

    `tenant` is checked by the server against the caller's own; empty leaves it to the server. `credentials` are
    gRPC's, in place of these files. `metadata` goes with every call; an "authorization" in it stands in for a token's
    file. `options` are gRPC channel options that override the client's.

    Raises ValueError for files that are missing or not what they must be, and for arguments that exclude each other.
    """
    wire = AioWire(
        target,
        token_file=token_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        credentials=credentials,
        metadata=metadata,
        options=options,
    )
    return Client(wire, tenant=tenant, deadline_ms=deadline_ms)


class Client:
    """A connection to Standpipe, to be shared by all sessions of one event loop. Close it, or use `async with`."""

    def __init__(self, wire: Wire, *, tenant: str = "", deadline_ms: int = DEADLINE_MS) -> None:
        self._wire = wire
        self._tenant = tenant
        self._deadline_ms = deadline_ms
        self.policies = Policies(self)
        """The policies and routes."""

    async def __aenter__(self) -> Client:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close the channel: calls in flight are cancelled, later ones raise RuntimeError."""
        await self._wire.close()

    def session(self, session_id: str, *, subject: str = "", token: str = "") -> Session:
        """Return a session by its id; calls nothing yet.

        `subject` is whose memory it feeds, needed for its first commit. `token` is a consistency token from
        elsewhere, such as another process's `session.token`, which this one must not see less than.
        """
        return Session(self, session_id, subject=subject, token=token)

    def memory(self, subject: str = "") -> Memory:
        """Return a subject's long-term memory; calls nothing yet. Without a subject, what all of the tenant share."""
        return Memory(self, subject)

    def state(self, collection: str, subject: str = "") -> State:
        """Return the records of a collection, of a subject or, without one, of the whole tenant."""
        return State(self, collection, subject)

    async def replay(self, receipt: bytes, *, all_omissions: bool = False, deadline_ms: int | None = None) -> Replay:
        """Render a bundle that was served before again, from `Bundle.receipt` or a turn of the log (P7).

        `all_omissions` lists everything that was left out. Raises InvalidArgument (RECEIPT_INVALID) and
        FailedPrecondition (REPLAY_UNAVAILABLE: its subject was erased, or its model is gone).
        """
        request = ReplayContextRequest(tenant_id=self._tenant, receipt=receipt, all_omissions=all_omissions)
        got = await self._call("ContextService/ReplayContext", request, ReplayContextResponse, deadline_ms)
        return Replay(
            bundle=Bundle(got.bundle, receipt=receipt, degraded=tuple(got.degraded)),
            served_at=got.served_at.ToDatetime(UTC),
            session_id=got.session_id,
            subject_id=got.subject_id,
        )

    async def server_info(self, *, deadline_ms: int | None = None) -> GetServerInfoResponse:
        """Return what the server is and can: versions, limits, engines, tokenizers, embedding model."""
        return await self._call(
            "ContextService/GetServerInfo",
            GetServerInfoRequest(),
            GetServerInfoResponse,
            deadline_ms,
        )

    async def sessions(
        self, subject: str = "", *, page_size: int = 0, deadline_ms: int | None = None
    ) -> AsyncIterator[SessionInfo]:
        """Iterate over the tenant's sessions by id, or over those of one subject.

        `page_size` is 0 (the server's 100) to 1000; `deadline_ms` is for each page.
        """
        request = ListSessionsRequest(tenant_id=self._tenant, subject_id=subject, page_size=page_size)
        while True:
            page = await self._call("SessionService/ListSessions", request, ListSessionsResponse, deadline_ms)
            for session in page.sessions:
                yield session
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _call(self, path: str, request: Message, answer: type[Answered], deadline_ms: int | None) -> Answered:
        return await self._wire.call(path, request, answer, self._deadline_ms if deadline_ms is None else deadline_ms)


class Session:
    """One conversation.

    It remembers the newest consistency token that it has seen, so that it reads its own writes through any pod,
    also while the hot store is stale (P4).
    """

    def __init__(self, client: Client, session_id: str, *, subject: str = "", token: str = "") -> None:
        self.id = session_id
        self.subject = subject
        self._client = client
        self._seen = (-1, token)
        self._lock = threading.Lock()

    @property
    def token(self) -> str:
        """The newest consistency token that it has seen; empty before the first answer."""
        return self._seen[1]

    async def hydrate(
        self,
        query: str = "",
        *,
        route: str = "",
        budget_tokens: int | None = None,
        caps: Mapping[SourceName, int] | None = None,
        include: Iterable[SourceName] | None = None,
        consistency: Consistency | None = None,
        tokenizer: str = "",
        model: str = "",
        deadline_ms: int | None = None,
    ) -> Bundle:
        """Return what the model should see for this turn.

        `query` is what recall looks for, usually the user's new message, at most 32 KiB; empty recalls nothing.
        `budget_tokens` and `caps` (tokens per source) lower the policy's, and never raise them. `include` names
        the sources wanted; None means all that the policy allows. `consistency` None means every acknowledged
        commit and all that this session has seen; else, for example, `Consistency(fully_consistent=True)`.
        `tokenizer`, or the one of `model`, counts in place of the policy's.

        Raises InvalidArgument (BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN), NotFound (ROUTE_NOT_FOUND), Overloaded.
        """
        request = HydrateContextRequest(
            tenant_id=self._client._tenant,
            session_id=self.id,
            subject_id=self.subject,
            route=route,
            query=query,
            include=[_source(name) for name in include or ()],
            tokenizer=tokenizer,
            model=model,
        )
        if budget_tokens is not None or caps:
            sources = [SourceBudget(source=_source(name), cap_tokens=cap) for name, cap in (caps or {}).items()]
            request.budget.CopyFrom(Budget(total_tokens=budget_tokens, sources=sources))
        if consistency is None and self.token:
            consistency = Consistency(at_least_as_fresh=self.token)
        if consistency is not None:
            request.consistency.CopyFrom(consistency)
        got = await self._client._call("ContextService/HydrateContext", request, HydrateContextResponse, deadline_ms)
        self._saw(got.bundle.session_version, got.consistency_token)
        return Bundle(
            got.bundle,
            query=query,
            receipt=got.receipt,
            token=got.consistency_token,
            degraded=tuple(got.degraded),
            timings=got.timings,
            tax=got.token_tax,
            recall=got.recall if got.HasField("recall") else None,
        )

    async def commit(
        self,
        entries: turn.Entries,
        *,
        bundle: Bundle | None = None,
        expected_version: int | None = None,
        request_id: str | None = None,
        mode: Mode = "fail",
        facts: Iterable[Fact] = (),
        deadline_ms: int | None = None,
    ) -> Commit:
        """Append one turn, exactly once (P3); it is durable when this returns (P1).

        `bundle` is what the turn answers: its receipt is stored with the turn, and its version is the one that the
        turn follows, unless `expected_version` says another (0 for the first turn). Mode "fail" needs one of the
        two; "append" goes behind whatever is there. `facts` are recorded with the turn, or not at all.
        `request_id` None makes one, which the channel's retries keep.

        Cancelling does not undo it. Raises Conflict (another commit came first), SessionEnded, AlreadyExists (the
        id was used with other entries). After Unavailable, DeadlineExceeded or a cancel it may have happened:
        commit the same entries again under the same id (`error.request_id`).
        """
        if expected_version is None and bundle is not None and mode == "fail":
            expected_version = bundle.version
        request = CommitTurnRequest(
            tenant_id=self._client._tenant,
            session_id=self.id,
            subject_id=self.subject,
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            expected_version=expected_version,
            turn=Turn(entries=turn.as_list(entries), bundle_receipt=bundle.receipt if bundle else b""),
            mode=CommitMode.Value(f"COMMIT_MODE_{mode.upper()}"),
            facts=facts,
        )
        try:
            got = await self._client._call("ContextService/CommitTurn", request, CommitTurnResponse, deadline_ms)
        except errors.StandpipeError as error:
            error.request_id = request.request_id
            raise
        result = got.result
        self._saw(result.version, result.consistency_token)
        return Commit(
            version=result.version,
            event_hash=result.event_hash.hex(),
            token=result.consistency_token,
            committed_at=result.committed_at.ToDatetime(UTC),
            replayed=got.replayed,
            request_id=request.request_id,
            facts=tuple(got.facts),
        )

    async def turn(
        self,
        query: str,
        answer: Callable[[Bundle], Awaitable[Answer]],
        /,
        *,
        attempts: int = TURN_ATTEMPTS,
        speaker: str = "",
        route: str = "",
        budget_tokens: int | None = None,
        caps: Mapping[SourceName, int] | None = None,
        include: Iterable[SourceName] | None = None,
        tokenizer: str = "",
        model: str = "",
        deadline_ms: int | None = None,
    ) -> TurnResult:
        """Hydrate for `query`, await `answer(bundle)`, and commit the user's `query` and the answer as one turn.

        The answer is the assistant's text, or the entries that follow the user's message, such as tool calls,
        their results and the assistant's words. If another commit came first, it hydrates again and asks for a new
        answer, `attempts` times in all, with growing random pauses of at most 2 s; then it raises Conflict. So
        `answer` must do nothing that may not be done twice. `speaker` names the user; the rest is as in `hydrate`,
        and `deadline_ms` is for each call. What `answer` raises comes out as it is, and nothing is committed.

        If the commit itself ends in Unavailable or DeadlineExceeded, it may have happened: commit
        `[user(query), ...]` again with the same `bundle` and `request_id=error.request_id`.
        """
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        include = None if include is None else list(include)
        for attempt in range(attempts):
            bundle = await self.hydrate(
                query,
                route=route,
                budget_tokens=budget_tokens,
                caps=caps,
                include=include,
                tokenizer=tokenizer,
                model=model,
                deadline_ms=deadline_ms,
            )
            reply = await answer(bundle)
            said = [turn.assistant(reply)] if isinstance(reply, str) else turn.as_list(reply)
            entries = [turn.user(query, speaker=speaker), *said]
            try:
                return TurnResult(await self.commit(entries, bundle=bundle, deadline_ms=deadline_ms), bundle)
            except errors.Conflict:
                if attempt + 1 == attempts:
                    raise
            await self._client._wire.pause(random.uniform(0, min(PAUSE_S_MAX, PAUSE_S * 2**attempt)))
        raise AssertionError("unreachable")

    async def get(self, *, deadline_ms: int | None = None) -> SessionInfo:
        """Return its version, subject and times. Raises NotFound before the first commit."""
        request = GetSessionRequest(tenant_id=self._client._tenant, session_id=self.id)
        got = await self._client._call("SessionService/GetSession", request, GetSessionResponse, deadline_ms)
        self._saw(got.session.version, got.consistency_token)
        return got.session

    async def events(
        self, after_version: int = 0, *, page_size: int = 0, deadline_ms: int | None = None
    ) -> AsyncIterator[Event]:
        """Iterate over its log by version, up to the version that it has when the last page is read.

        `page_size` is 0 (the server's 100) to 1000; `deadline_ms` is for each page. Raises NotFound, DataLoss.
        """
        request = ListEventsRequest(
            tenant_id=self._client._tenant, session_id=self.id, after_version=after_version, page_size=page_size
        )
        while True:
            page = await self._client._call("SessionService/ListEvents", request, ListEventsResponse, deadline_ms)
            for event in page.events:
                yield event
                request.after_version = event.version
            if not page.events or request.after_version >= page.head_version:
                return

    async def end(
        self,
        cause: str = "",
        *,
        expected_version: int | None = None,
        request_id: str | None = None,
        deadline_ms: int | None = None,
    ) -> EndSessionResponse:
        """End it: it takes no more turns and stays readable and recallable.

        `cause` is for operators, at most 256 bytes. `expected_version` None ends it at whatever version it is.
        Raises Conflict, NotFound, SessionEnded (by another request id).
        """
        request = EndSessionRequest(
            tenant_id=self._client._tenant,
            session_id=self.id,
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            expected_version=expected_version,
            cause=cause,
        )
        try:
            return await self._client._call("SessionService/EndSession", request, EndSessionResponse, deadline_ms)
        except errors.StandpipeError as error:
            error.request_id = request.request_id
            raise

    def _saw(self, version: int, token: str) -> None:
        """Keep a token unless a later version was seen: answers may overtake each other."""
        with self._lock:
            if token and version >= self._seen[0]:
                self._seen = (version, token)


class Policies:
    """What bundles may hold, and the routes that point at it. Reach it as `client.policies`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self, document: str, *, deadline_ms: int | None = None) -> PublishPolicyResponse:
        """Publish a document, YAML of at most 256 KiB with its name inside, as a new version.

        `created` is false if the latest version had the same content. Raises InvalidArgument (POLICY_INVALID:
        `field` is the path in the document).
        """
        request = PublishPolicyRequest(tenant_id=self._client._tenant, document_yaml=document)
        return await self._client._call("PolicyService/PublishPolicy", request, PublishPolicyResponse, deadline_ms)

    async def get(self, name: str, version: int | None = None, *, deadline_ms: int | None = None) -> Policy:
        """Return one version, or the latest. Raises NotFound."""
        request = GetPolicyRequest(tenant_id=self._client._tenant, name=name, version=version)
        got = await self._client._call("PolicyService/GetPolicy", request, GetPolicyResponse, deadline_ms)
        return got.policy

    async def list(self, *, deadline_ms: int | None = None) -> ListPoliciesResponse:
        """Return all versions of all policies, without their documents, and all routes.

        `deadline_ms` is for each page.
        """
        request = ListPoliciesRequest(tenant_id=self._client._tenant, page_size=PAGE_MAX)
        out = ListPoliciesResponse()
        while True:
            page = await self._client._call("PolicyService/ListPolicies", request, ListPoliciesResponse, deadline_ms)
            out.policies.extend(page.policies)
            out.routes.extend(page.routes)
            if not page.next_page_token:
                return out
            request.page_token = page.next_page_token

    async def set_route(self, route: str, policy: str, version: int, *, deadline_ms: int | None = None) -> Route:
        """Point a route at a policy's version, at once for every later hydrate. Raises NotFound."""
        request = SetRouteRequest(
            tenant_id=self._client._tenant, route=Route(name=route, policy_name=policy, policy_version=version)
        )
        got = await self._client._call("PolicyService/SetRoute", request, SetRouteResponse, deadline_ms)
        return got.route


def _source(name: SourceName) -> Source:
    """Return a source by its short name. Raises ValueError for an unknown one."""
    source: Source = Source.Value(f"SOURCE_{name.upper()}")
    return source
