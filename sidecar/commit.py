"""All that appends: turns, ends, changes of memory, documents. The append is one transaction in the record store.

What makes it exactly once is in the record contract (R1 to R4): compare-and-swap on the version, and the receipt
of the request id in the same transaction. What makes it safe to cancel is here: from the append on, the work is
a task of its own, and a caller that leaves only stops waiting for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast
from weakref import WeakValueDictionary

from sidecar import analysis, canonical, gateway, limits, names, validate
from sidecar.beliefs import Known
from sidecar.errors import (
    DeadlineExceeded,
    InvalidField,
    Overloaded,
    ReceiptInvalid,
    SessionExpired,
    StandpipeError,
    VersionConflict,
    VersionInFuture,
)
from sidecar.gateway import Doubts, Draft, Gateway, Lineage, MemoryRequest, Plan
from sidecar.log.v1 import log_pb2
from sidecar.policies import DEFAULT
from sidecar.receipt import Receipt, Signer
from sidecar.segment import Count
from sidecar.sessions import Announced, Sessions
from sidecar.stores.record import (
    Appended,
    Deadline,
    EventKind,
    EventsRead,
    NewEvent,
    RouteRead,
    StoredEvent,
    StoredRoute,
)
from sidecar.telemetry import Telemetry
from standpipe.v1 import context_pb2, fact_pb2, memory_pb2, session_pb2, turn_pb2

T = TypeVar("T")

_ANALYSE_INLINE_BYTES = 8 << 10
"""Turns up to this size are analysed on the event loop, in about a millisecond; larger ones in a thread."""


_NEVER = 1 << 61
"""A version that no log has: an append at it is answered for a retry alone (R4)."""

EMPTY = Known(lambda _: b"")
"""What is known of nobody."""


class Remembered(NamedTuple):
    """A change of memory that is in the log."""

    results: Sequence[fact_pb2.FactResult]
    """What became of its claims."""
    done: Appended


@dataclass(slots=True)
class _Decided:
    """What comes with a turn."""

    lineage: Lineage
    draft: Draft
    refused: bool = False
    """Whether it must not be appended, unless it was before."""


@dataclass(slots=True)
class Committer:
    """The write path. One a process."""

    sessions: Sessions
    gateway: Gateway
    counters: Mapping[str, Count]
    """What counts at write, by tokenizer; the first one leads."""
    signer: Signer
    telemetry: Telemetry
    wake_projection: Callable[[], None]
    _at_work: set[asyncio.Task[Any]] = field(default_factory=set)
    _turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """By subject, whose turn it is to decide: those who wait in one process need not overtake each other."""

    async def commit(
        self, tenant: str, request: context_pb2.CommitTurnRequest, *, deadline: Deadline | None
    ) -> context_pb2.CommitTurnResponse:
        """Append one turn (P1 to P3). `tenant` is the caller's own."""
        validate.identifier(request.session_id, "session_id")
        validate.identifier(request.subject_id, "subject_id", optional=True)
        validate.request_id(request.request_id)
        if request.mode not in context_pb2.CommitMode.values():
            raise InvalidField("names no mode", field="mode")
        append_mode = request.mode == context_pb2.COMMIT_MODE_APPEND
        if not append_mode and not request.HasField("expected_version"):
            raise InvalidField(
                "is required in mode FAIL: the version that the turn follows, 0 for the first",
                field="expected_version",
            )
        validate.between(request.expected_version, "expected_version", 0, (1 << 62) - 1)
        validate.turn(request.turn)
        validate.facts(request.facts, "facts", entries=len(request.turn.entries))
        receipt = self._check_receipt(tenant, request)
        announced = self.sessions.announce(tenant, request.session_id, deadline=deadline)
        try:
            keep_s = await self._keep_s(tenant, receipt, deadline)
            decided, refused = await self._decided(tenant, request, deadline)
            large = request.ByteSize() > _ANALYSE_INLINE_BYTES
            event = await self._made(
                partial(self._event, tenant, request, decided, keep_s), large=large, deadline=deadline
            )
        except BaseException:
            self.sessions.abandon(announced)
            raise
        try:
            done = await self._shielded(self._append(event, announced, deadline))
        except VersionInFuture:
            if refused is not None:
                raise refused from None
            raise
        results = decided.draft.results
        if request.facts and done.replayed:
            stored = await self._stored(tenant, request.session_id, done.version, deadline)
            results = log_pb2.StoredTurn.FromString(stored).results
        self._count(results, replayed=done.replayed)
        return context_pb2.CommitTurnResponse(
            result=self._result(tenant, request.session_id, done),
            replayed=done.replayed,
            facts=gateway.whole_results(results, request.session_id, done.version),
        )

    async def _decided(
        self, tenant: str, request: context_pb2.CommitTurnRequest, deadline: Deadline | None
    ) -> tuple[_Decided, StandpipeError | None]:
        """Decide on what comes with a turn: nothing is read for one without citations and facts.

        What cannot be decided may be a retry of what was: then only a version that no session has is asked for, which
        the record store answers for a retry alone (R4), and the error is for all others.
        """
        now_us = time.time_ns() // 1000
        cited = [ref for entry in request.turn.entries for ref in entry.message.citations]
        sources = [source.ref for source in gateway.sources_of(request.facts)]
        lineage, known = Lineage(), EMPTY
        subject = request.subject_id
        if cited or sources:
            lineage = await self.gateway.lineage(tenant, [*cited, *sources], deadline=deadline)
        lineage.turn = gateway.turn_trusts(request.turn, lineage)
        if request.facts:
            subject = subject or await self.gateway.subject_of(tenant, request.session_id, deadline=deadline)
            if not subject:
                raise InvalidField(
                    "is required: a session belongs to the subject of its first turn", field="subject_id"
                )
            known, _ = await self.gateway.look(tenant, subject, request.session_id, deadline=deadline)
        draft = Draft(known=known, now_us=now_us, entries=len(request.turn.entries))
        try:
            gateway.record_all(draft, request.facts, lineage, subject=subject)
        except StandpipeError as error:
            return _Decided(lineage, Draft(known=EMPTY, now_us=now_us), refused=True), error
        return _Decided(lineage, draft), None

    async def remember(
        self, tenant: str, request: MemoryRequest, *, doubts: Doubts = (), deadline: Deadline | None
    ) -> Remembered:
        """Change a subject's memory outside of a turn, exactly once (P3): by compare-and-swap on its log.

        `doubts` are reasons to let claims wait that whoever extracted them found.
        """
        plan = gateway.plan(request, key=self.gateway.beliefs.key, doubts=doubts)
        return await self._shielded(self._remember(tenant, request, plan, deadline))

    async def _remember(self, tenant: str, request: MemoryRequest, plan: Plan, deadline: Deadline | None) -> Remembered:
        subject, log = request.subject_id, names.memory_log(request.subject_id)
        lineage = await self.gateway.lineage(tenant, [source.ref for source in plan.sources], deadline=deadline)
        cites = sorted({(source.ref.session_id, source.ref.version) for source in plan.sources})
        if len(self._at_work) > limits.append_queue_max:
            raise Overloaded("too many writes are waiting", limit="append_queue_max")
        async with self._turns.setdefault((tenant, subject), asyncio.Lock()):
            for _ in range(limits.memory_attempts_max):
                known, head = await self.gateway.look(tenant, subject, log, deadline=deadline)
                draft = Draft(known=known, now_us=time.time_ns() // 1000)
                event = partial(
                    NewEvent,
                    tenant=tenant,
                    session=log,
                    subject=subject,
                    request_id=request.request_id,
                    digest=plan.digest,
                    kind=EventKind.MEMORY,
                    weight_bytes=0,
                )
                try:
                    plan.decide(draft, lineage)
                except StandpipeError as error:  # unless it is a retry of what was decided before
                    try:
                        done = await self._append(event(expected_version=_NEVER, body=b""), None, deadline)
                    except VersionInFuture:
                        raise error from None
                else:
                    stored = gateway.stored_memory(draft, self.counters)
                    try:
                        done = await self._append(
                            event(
                                expected_version=head.version if head else 0,
                                body=stored.SerializeToString(deterministic=True),
                                items=analysis.memory_items(stored),
                                citations=cites,
                            ),
                            None,
                            deadline,
                        )
                    except VersionConflict:
                        continue
                results = draft.results
                if done.replayed:
                    body = await self._stored(tenant, log, done.version, deadline)
                    results = log_pb2.StoredMemory.FromString(body).results
                self._count(results, replayed=done.replayed)
                return Remembered(gateway.whole_results(results, log, done.version), done)
        raise Overloaded("others were faster, again and again: try again later", limit="memory_attempts_max")

    async def ingest(
        self, tenant: str, request: memory_pb2.IngestDocumentsRequest, *, deadline: Deadline | None
    ) -> memory_pb2.IngestDocumentsResponse:
        """Append documents to their logs, each exactly once: its content is its request id."""
        validate.identifier(request.subject_id, "subject_id", optional=True)
        validate.documents(request.documents, "documents")
        subject = request.subject_id or names.EVERYONE
        work = self._shielded
        results = [await work(self._ingest(tenant, subject, one, deadline)) for one in request.documents]
        return memory_pb2.IngestDocumentsResponse(results=results)

    async def _ingest(
        self, tenant: str, subject: str, document: fact_pb2.Document, deadline: Deadline | None
    ) -> memory_pb2.DocumentResult:
        log = names.document_log(subject, document.document_id)
        content = canonical.sha256(("document", document.title, document.uri, document.text))
        made: log_pb2.StoredMemory | None = None
        for _ in range(limits.memory_attempts_max):
            head, latest = await self.gateway.latest(tenant, log, deadline=deadline)
            version = head.version if head else 0
            if latest is not None and latest.request_id == _content_id(content, version):
                chunks = log_pb2.StoredMemory.FromString(latest.body).changes[0].analysis.chunks
                return memory_pb2.DocumentResult(
                    document_id=document.document_id, version=version, created=False, chunks=len(chunks)
                )
            make = partial(gateway.stored_document, document, self.counters, now_us=time.time_ns() // 1000)
            large = len(document.text) > _ANALYSE_INLINE_BYTES
            if made is None:
                made = await self._made(make, large=large, deadline=deadline)
            event = NewEvent(
                tenant=tenant,
                session=log,
                subject=subject,
                request_id=_content_id(content, version + 1),
                digest=content,
                expected_version=version,
                kind=EventKind.MEMORY,
                body=made.SerializeToString(deterministic=True),
                weight_bytes=0,
                items=analysis.memory_items(made),
            )
            try:
                done = await self._append(event, None, deadline)
            except VersionConflict:
                continue
            self.telemetry.documents.inc()
            chunks = made.changes[0].analysis.chunks
            return memory_pb2.DocumentResult(
                document_id=document.document_id, version=done.version, created=True, chunks=len(chunks)
            )
        raise Overloaded("others were faster, again and again: try again later", limit="memory_attempts_max")

    async def end(
        self, tenant: str, request: session_pb2.EndSessionRequest, *, deadline: Deadline | None
    ) -> session_pb2.EndSessionResponse:
        """Append the end of a session: an event like a turn, under the same rules."""
        validate.identifier(request.session_id, "session_id")
        validate.request_id(request.request_id)
        validate.line(request.cause, "cause", limit="cause_bytes", maximum=limits.cause_bytes)
        expected = request.expected_version if request.HasField("expected_version") else None
        if expected is not None:
            validate.between(expected, "expected_version", 1, (1 << 62) - 1)
        body = turn_pb2.SessionEnd(cause=request.cause)
        event = NewEvent(
            tenant=tenant,
            session=request.session_id,
            subject="",
            request_id=request.request_id,
            digest=canonical.sha256(("end", request.session_id, -1 if expected is None else expected, request.cause)),
            expected_version=expected,
            kind=EventKind.END,
            body=body.SerializeToString(deterministic=True),
            weight_bytes=0,
            must_exist=True,
        )
        announced = self.sessions.announce(tenant, request.session_id, deadline=deadline)
        done = await self._shielded(self._append(event, announced, deadline))
        return session_pb2.EndSessionResponse(version=done.version, replayed=done.replayed)

    async def drain(self) -> None:
        """Wait for the appends whose callers have left."""
        if self._at_work:
            await asyncio.wait(set(self._at_work))

    def _check_receipt(self, tenant: str, request: context_pb2.CommitTurnRequest) -> Receipt | None:
        if not request.turn.bundle_receipt:
            return None
        field = "turn.bundle_receipt"
        receipt = self.signer.open(request.turn.bundle_receipt, tenant=tenant, field_name=field)
        if receipt.session != request.session_id:
            raise ReceiptInvalid("belongs to another session", field=field)
        return receipt

    async def _keep_s(self, tenant: str, receipt: Receipt | None, deadline: Deadline | None) -> int | None:
        """Return how long the log is kept: as the policy says whose bundle the turn answers, else the default route's.

        None, as it was, when that policy cannot be read: a turn is not lost for it.
        """
        policies = self.sessions.leases.policies
        try:
            if receipt is not None:
                return (await policies.version(tenant, receipt.policy_name, receipt.policy_version)).session_log_s
            asked_at = time.monotonic()
            rules = policies.nearest(tenant, DEFAULT, since=asked_at - limits.sweep_pause_s)
            if rules is None:  # nobody has hydrated here lately
                reads = [RouteRead(tenant=tenant, name=DEFAULT)]
                (route,) = await self.sessions.record.fetch(reads, deadline=deadline)
                rules = await policies.follow(tenant, DEFAULT, cast("StoredRoute | None", route), asked_at=asked_at)
        except StandpipeError as error:
            self.telemetry.log.warning("policy of a turn not read", reason=error.reason)
            return None
        else:
            return rules.session_log_s

    async def _made(self, make: Callable[[], T], *, large: bool, deadline: Deadline | None) -> T:
        """Analyse: a large text in a thread. The thread goes on when the deadline passes; the caller is answered."""
        if not large:
            return make()
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                return await asyncio.to_thread(make)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the text was analysed", phase="analyse") from None

    async def _stored(self, tenant: str, session: str, version: int, deadline: Deadline | None) -> bytes:
        """Return the body of an event that is there."""
        read = EventsRead(tenant=tenant, session=session, after_version=version - 1, count_max=1, bytes_max=1)
        (page,) = await self.sessions.record.fetch([read], deadline=deadline)
        if not page:
            raise SessionExpired  # meanwhile
        return cast("Sequence[StoredEvent]", page)[0].body

    def _count(self, results: Iterable[fact_pb2.FactResult], *, replayed: bool) -> None:
        for result in () if replayed else results:
            self.telemetry.facts.labels(fact_pb2.FactOutcome.Name(result.outcome).rpartition("_")[2].lower()).inc()

    def _event(
        self, tenant: str, request: context_pb2.CommitTurnRequest, decided: _Decided, keep_s: int | None
    ) -> NewEvent:
        entries = request.turn.entries
        stored = gateway.stored_turn(request.turn, self.counters, decided.lineage.turn, decided.draft)
        cited = {(ref.session_id, ref.version) for entry in entries for ref in entry.message.citations}
        cited |= {(source.ref.session_id, source.ref.version) for source in gateway.sources_of(request.facts)}
        expected = None if request.mode == context_pb2.COMMIT_MODE_APPEND else request.expected_version
        return NewEvent(
            tenant=tenant,
            session=request.session_id,
            subject=request.subject_id,
            request_id=request.request_id,
            digest=_digest(request),
            expected_version=_NEVER if decided.refused else expected,
            kind=EventKind.TURN,
            body=stored.SerializeToString(deterministic=True),
            weight_bytes=analysis.weight_bytes(request.turn),
            items=analysis.items(stored),
            opened_calls=[entry.tool_call.id for entry in entries if entry.HasField("tool_call")],
            answered_calls=[entry.tool_result.call_id for entry in entries if entry.HasField("tool_result")],
            citations=sorted(cited),
            keep_s=keep_s,
        )

    async def _append(self, event: NewEvent, announced: Announced | None, deadline: Deadline | None) -> Appended:
        is_turn = event.kind != EventKind.MEMORY
        try:
            done = await self.sessions.append(event, announced=announced, deadline=deadline)
        except VersionConflict:
            if is_turn:
                self.telemetry.commit_conflicts.inc()
            raise
        if done.replayed:
            if is_turn:
                self.telemetry.commit_replays.inc()
            return done
        if is_turn:
            self.telemetry.commits.inc()
        self.wake_projection()
        return done

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end whatever becomes of the caller."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when the caller left: the request id tells it later

    def _result(self, tenant: str, session: str, done: Appended) -> context_pb2.CommitResult:
        """Build the answer from what is stored, and from nothing else: every retry gets the same bytes (P3)."""
        result = context_pb2.CommitResult(
            version=done.version,
            event_hash=done.event_hash,
            consistency_token=self.signer.token(
                tenant=tenant, session=session, version=done.version, position=done.position
            ),
        )
        result.committed_at.FromMicroseconds(done.committed_at_us)
        return result


def _digest(request: context_pb2.CommitTurnRequest) -> bytes:
    """Return what tells a retry from a reuse: everything that the caller said, in canonical form."""
    fields: list[canonical.Field] = [
        "commit",
        request.session_id,
        request.subject_id,
        request.expected_version if request.HasField("expected_version") else -1,
        request.mode or context_pb2.COMMIT_MODE_FAIL,
        request.turn.bundle_receipt,
    ]
    for entry in request.turn.entries:
        kind = entry.WhichOneof("entry")
        fields.append(kind or "")
        if kind == "tool_call":
            call = entry.tool_call
            fields += [call.id, call.name, call.arguments_json]
        elif kind == "tool_result":
            result = entry.tool_result
            fields += [result.call_id, result.content, int(result.is_error)]
        elif kind == "message":
            fields += _message_fields(entry.message)
        if entry.app_json:  # as with facts
            fields += ["app_json", entry.app_json]
    if request.facts:  # releases before had none, and their digests are stored
        fields += ["facts", *gateway.facts_fields(request.facts)]
    return canonical.sha256(fields)


def _content_id(content: bytes, version: int) -> str:
    """Return the request id of a document's version: that of a retry is the same."""
    return f"{content.hex()}:{version}"


def _message_fields(message: turn_pb2.Message) -> list[canonical.Field]:
    at = message.spoken_at
    fields: list[canonical.Field] = [
        message.role,
        message.speaker,
        *((at.seconds, at.nanos) if message.HasField("spoken_at") else ("", "")),
        message.text,
        len(message.parts),
    ]
    for part in message.parts:
        media = part.media
        fields += [part.WhichOneof("content") or "", part.text, media.uri, media.media_type, media.description]
    for ref in message.citations:
        fields += [ref.session_id, ref.version, ref.entry if ref.HasField("entry") else -1]
    return fields
