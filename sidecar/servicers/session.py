"""SessionService: sessions and their logs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import grpc

from sidecar import limits, names, pii, segment, validate
from sidecar.beliefs import claim_in, whole
from sidecar.commit import Committer
from sidecar.errors import Erased, InvalidField, SessionExpired, SessionNotFound
from sidecar.log.v1 import log_pb2
from sidecar.policies import DEFAULT
from sidecar.rebuild import check_chain
from sidecar.receipt import Signer
from sidecar.servicers.boundary import Boundary
from sidecar.stores.record import (
    Deadline,
    EventKind,
    EventsRead,
    Head,
    HeadRead,
    Read,
    Record,
    RouteRead,
    SessionsRead,
    StoredEvent,
    StoredRoute,
)
from standpipe.v1 import fact_pb2, session_pb2, session_pb2_grpc, turn_pb2


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """See protos/standpipe/v1/session.proto."""

    def __init__(self, boundary: Boundary, record: Record, committer: Committer, signer: Signer) -> None:
        self._boundary = boundary
        self._record = record
        self._committer = committer
        self._signer = signer
        self._policies = committer.sessions.leases.policies

    async def GetSession(
        self, request: session_pb2.GetSessionRequest, context: grpc.aio.ServicerContext
    ) -> session_pb2.GetSessionResponse:
        """Return one session."""

        async def work(tenant: str, deadline: Deadline) -> session_pb2.GetSessionResponse:
            validate.identifier(request.session_id, "session_id")
            (head,) = await self._record.fetch([HeadRead(tenant=tenant, session=request.session_id)], deadline=deadline)
            found = _exists(cast("Head | None", head))
            token = self._signer.token(
                tenant=tenant, session=found.session, version=found.version, position=found.position_end
            )
            return session_pb2.GetSessionResponse(session=_session(found), consistency_token=token)

        return await self._boundary.call("GetSession", request, context, work)

    async def ListSessions(
        self, request: session_pb2.ListSessionsRequest, context: grpc.aio.ServicerContext
    ) -> session_pb2.ListSessionsResponse:
        """List sessions by id; the page token is the last id."""

        async def work(tenant: str, deadline: Deadline) -> session_pb2.ListSessionsResponse:
            validate.identifier(request.subject_id, "subject_id", optional=True)
            validate.identifier(request.page_token, "page_token", optional=True)
            count = validate.page(request.page_size)
            read = SessionsRead(
                tenant=tenant, subject=request.subject_id, after_session=request.page_token, count_max=count + 1
            )
            (heads,) = await self._record.fetch([read], deadline=deadline)
            # Our own logs stand behind all sessions: no byte of an id is above the one that they begin with.
            found = [head for head in cast("list[Head]", heads) if not names.is_own(head.session)]
            return session_pb2.ListSessionsResponse(
                sessions=[_session(head) for head in found[:count]],
                next_page_token=found[count - 1].session if len(found) > count else "",
            )

        return await self._boundary.call("ListSessions", request, context, work)

    async def ListEvents(
        self, request: session_pb2.ListEventsRequest, context: grpc.aio.ServicerContext
    ) -> session_pb2.ListEventsResponse:
        """List a session's events, their hashes checked."""

        async def work(tenant: str, deadline: Deadline) -> session_pb2.ListEventsResponse:
            validate.log(request.session_id, "session_id")
            if request.after_version < 0:
                raise InvalidField("must not be negative", field="after_version")
            route = request.route or DEFAULT
            validate.name(route, "route")
            reads: list[Read] = [
                RouteRead(tenant=tenant, name=route),
                HeadRead(tenant=tenant, session=request.session_id),
                EventsRead(
                    tenant=tenant,
                    session=request.session_id,
                    after_version=request.after_version,
                    count_max=validate.page(request.page_size),
                    bytes_max=limits.page_bytes,
                ),
            ]
            asked_at = time.monotonic()
            pointer, head, page = await self._record.fetch(reads, deadline=deadline)
            rules = await self._policies.follow(tenant, route, cast("StoredRoute | None", pointer), asked_at=asked_at)
            found = _exists(cast("Head | None", head))
            if found.erased:
                raise Erased("session")
            if found.expired:
                raise SessionExpired
            events = list(cast("list[StoredEvent]", page))
            check_chain(tenant, events, None)
            return session_pb2.ListEventsResponse(
                events=[_event(event, masked=not rules.originals) for event in events],
                head_version=found.version,
                changes=[change for event in events for change in _changes(event, masked=not rules.originals)],
            )

        return await self._boundary.call("ListEvents", request, context, work)

    async def EndSession(
        self, request: session_pb2.EndSessionRequest, context: grpc.aio.ServicerContext
    ) -> session_pb2.EndSessionResponse:
        """End a session."""
        return await self._boundary.call(
            "EndSession",
            request,
            context,
            lambda tenant, deadline: self._committer.end(tenant, request, deadline=deadline),
        )


def _exists(head: Head | None) -> Head:
    if head is None:
        raise SessionNotFound("the tenant has no such session", field="session_id")
    return head


def _session(head: Head) -> session_pb2.Session:
    session = session_pb2.Session(
        session_id=head.session,
        subject_id=head.subject,
        version=head.version,
        head_hash=head.event_hash,
        ended=head.ended,
        expired=head.expired,
    )
    session.created_at.FromMicroseconds(head.created_at_us)
    session.updated_at.FromMicroseconds(head.updated_at_us)
    if head.expires_at_us:
        session.expires_at.FromMicroseconds(head.expires_at_us)
    return session


def _event(stored: StoredEvent, *, masked: bool) -> turn_pb2.Event:
    event = turn_pb2.Event(
        session_id=stored.session,
        version=stored.version,
        request_id=stored.request_id,
        previous_hash=stored.previous_hash,
        hash=stored.event_hash,
    )
    event.committed_at.FromMicroseconds(stored.committed_at_us)
    if stored.kind == EventKind.TURN:
        turn = log_pb2.StoredTurn.FromString(stored.body)
        event.turn.CopyFrom(_masked_turn(turn) if masked else turn.turn)
    elif stored.kind == EventKind.END:
        event.session_end.CopyFrom(turn_pb2.SessionEnd.FromString(stored.body))
    return event


def _changes(stored: StoredEvent, *, masked: bool) -> list[session_pb2.LoggedChange]:
    """Return the changes of memory in an event, at their places."""
    first = 0
    changes: Sequence[log_pb2.StoredChange] = ()
    if stored.kind == EventKind.TURN:
        turn = log_pb2.StoredTurn.FromString(stored.body)
        first, changes = len(turn.turn.entries), turn.changes
    elif stored.kind == EventKind.MEMORY:
        changes = log_pb2.StoredMemory.FromString(stored.body).changes
    found = []
    for entry, one in enumerate(changes, first):
        place = turn_pb2.EventRef(session_id=stored.session, version=stored.version, entry=entry)
        change = whole(one.change, stored.session, stored.version) if one.change.WhichOneof("change") else None
        if change is not None and masked:
            _mask_change(change, one.analysis.pii)
        found.append(session_pb2.LoggedChange(place=place, change=change))
    return found


def _masked_turn(stored: log_pb2.StoredTurn) -> turn_pb2.Turn:
    turn = turn_pb2.Turn()
    turn.CopyFrom(stored.turn)
    for entry, analysis in zip(turn.entries, stored.analyses, strict=True):
        entry.CopyFrom(segment.masked(entry, pii.known(analysis.pii, segment.spoken_text(entry))))
        entry.ClearField("app_json")  # nobody knows what is personal in it
    return turn


def _mask_change(change: fact_pb2.MemoryChange, spans: Sequence[pii.Find]) -> None:
    """Put a change in masked form: a document by its frozen finds, all else as it reads."""
    document = change.document if change.HasField("document") else None
    if document is not None:
        document.text = pii.mask(document.text, pii.known(spans, document.text))
        document.title, document.uri = pii.masked(document.title), pii.masked(document.uri)
    fact = claim_in(change)
    if fact is not None:
        fact.attribute, fact.value = pii.masked(fact.attribute), _masked_value(fact.attribute, fact.value)
    for attribute in change.profile.attributes if change.HasField("profile") else ():
        attribute.value = _masked_value(attribute.name, attribute.value)
    for judged in ("correction", "review"):
        if change.HasField(judged):
            one = getattr(change, judged)
            one.cause = pii.masked(one.cause)


def _masked_value(name: str, value: str) -> str:
    """Return a value in masked form, read behind its name: of "password" and what follows it the second is a secret."""
    before = f"{name}: "
    return pii.mask(value, pii.within(pii.find(before + value), len(before), len(before) + len(value)))
