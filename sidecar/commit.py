"""CommitTurn: validate, analyse, append, publish. The append is one transaction in the record store.

What makes it exactly once is in the record contract (R1 to R4): compare-and-swap on the version, and the receipt
of the request id in the same transaction. What makes it safe to cancel is here: from the append on, the work is
a task of its own, and a caller that leaves only stops waiting for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from sidecar import analysis, canonical, limits, validate
from sidecar.errors import DeadlineExceeded, InvalidField, ReceiptInvalid, StandpipeError, VersionConflict
from sidecar.policies import DEFAULT
from sidecar.receipt import Receipt, Signer
from sidecar.segment import Count
from sidecar.sessions import Announced, Sessions
from sidecar.stores.record import Appended, Deadline, EventKind, NewEvent, RouteRead, StoredRoute
from sidecar.telemetry import Telemetry
from standpipe.v1 import context_pb2, session_pb2, turn_pb2

T = TypeVar("T")

_ANALYSE_INLINE_BYTES = 8 << 10
"""Turns up to this size are analysed on the event loop, in about a millisecond; larger ones in a thread."""


@dataclass(slots=True)
class Committer:
    """The write path. One a process."""

    sessions: Sessions
    counters: Mapping[str, Count]
    """What counts at write, by tokenizer; the first one leads."""
    signer: Signer
    telemetry: Telemetry
    wake_projection: asyncio.Event
    _at_work: set[asyncio.Task[Any]] = field(default_factory=set)

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
        receipt = self._check_receipt(tenant, request)
        announced = self.sessions.announce(tenant, request.session_id, deadline=deadline)
        try:
            keep_s = await self._keep_s(tenant, receipt, deadline)
            if request.ByteSize() <= _ANALYSE_INLINE_BYTES:
                event = self._event(tenant, request, keep_s)
            else:
                event = await self._event_in_time(tenant, request, keep_s, deadline)
        except BaseException:
            self.sessions.abandon(announced)
            raise
        done = await self._shielded(self._append(event, announced, deadline))
        return context_pb2.CommitTurnResponse(
            result=self._result(tenant, request.session_id, done), replayed=done.replayed
        )

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

    async def _event_in_time(
        self, tenant: str, request: context_pb2.CommitTurnRequest, keep_s: int | None, deadline: Deadline | None
    ) -> NewEvent:
        """Analyse a large turn in a thread. The thread goes on when the deadline passes; the caller is answered."""
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                return await asyncio.to_thread(self._event, tenant, request, keep_s)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the turn was analysed", phase="analyse") from None

    def _event(self, tenant: str, request: context_pb2.CommitTurnRequest, keep_s: int | None) -> NewEvent:
        stored = analysis.analyse(request.turn, self.counters, received_at_us=time.time_ns() // 1000)
        entries = request.turn.entries
        return NewEvent(
            tenant=tenant,
            session=request.session_id,
            subject=request.subject_id,
            request_id=request.request_id,
            digest=_digest(request),
            expected_version=None if request.mode == context_pb2.COMMIT_MODE_APPEND else request.expected_version,
            kind=EventKind.TURN,
            body=stored.SerializeToString(deterministic=True),
            weight_bytes=analysis.weight_bytes(request.turn),
            items=analysis.items(stored),
            opened_calls=[entry.tool_call.id for entry in entries if entry.HasField("tool_call")],
            answered_calls=[entry.tool_result.call_id for entry in entries if entry.HasField("tool_result")],
            citations=sorted({(ref.session_id, ref.version) for entry in entries for ref in entry.message.citations}),
            keep_s=keep_s,
        )

    async def _append(self, event: NewEvent, announced: Announced | None, deadline: Deadline | None) -> Appended:
        try:
            done = await self.sessions.append(event, announced=announced, deadline=deadline)
        except VersionConflict:
            self.telemetry.commit_conflicts.inc()
            raise
        if done.replayed:
            self.telemetry.commit_replays.inc()
            return done
        self.telemetry.commits.inc()
        self.wake_projection.set()
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
        else:
            fields += _message_fields(entry.message)
    return canonical.sha256(fields)


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
