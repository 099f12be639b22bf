"""MemoryService: facts, profile and documents, with their lineage.

Every change is seen by every hydrate that starts after its answer, on any pod (P4): a hydrate that shows memory asks
the record store for changes each time, in its one batch, and so does every method here.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from typing import cast

import grpc
from google.protobuf.message import Message

from sidecar import canonical, validate
from sidecar.beliefs import FOR_EVER, Belief, Beliefs, BeliefStore
from sidecar.commit import Committer
from sidecar.erasure import Eraser
from sidecar.errors import InvalidField
from sidecar.export import Exporter
from sidecar.hydrate import Hydrator
from sidecar.policies import DEFAULT, Policies
from sidecar.servicers.boundary import Answer, Boundary
from sidecar.stores.record import (
    ChangesRead,
    Deadline,
    HeldRead,
    Read,
    Record,
    RouteRead,
    ScopeState,
    StoredRoute,
)
from standpipe.v1 import fact_pb2, memory_pb2, memory_pb2_grpc

_SUBJECTS_AT_ONCE = 64
"""Subjects whose waiting claims are read in one round trip."""

_BATCHES_A_PAGE = 16
"""How many times one page of waiting claims does so: it may be shorter than was asked for."""


class MemoryServicer(memory_pb2_grpc.MemoryServiceServicer):
    """See protos/standpipe/v1/memory.proto."""

    def __init__(
        self,
        boundary: Boundary,
        *,
        record: Record,
        committer: Committer,
        beliefs: BeliefStore,
        policies: Policies,
        eraser: Eraser,
        exporter: Exporter,
        hydrator: Hydrator,
    ) -> None:
        self._boundary = boundary
        self._record = record
        self._committer = committer
        self._beliefs = beliefs
        self._policies = policies
        self._eraser = eraser
        self._exporter = exporter
        self._hydrator = hydrator

    async def RecordFacts(
        self, request: memory_pb2.RecordFactsRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.RecordFactsResponse:
        """Record claims."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.RecordFactsResponse:
            found = await self._committer.remember(tenant, request, deadline=deadline)
            return memory_pb2.RecordFactsResponse(results=found.results, replayed=found.done.replayed)

        return await self._call("RecordFacts", request, context, work)

    async def CorrectFact(
        self, request: memory_pb2.CorrectFactRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.CorrectFactResponse:
        """Correct a fact."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.CorrectFactResponse:
            found = await self._committer.remember(tenant, request, deadline=deadline)
            return memory_pb2.CorrectFactResponse(
                replacement=next(iter(found.results), None), replayed=found.done.replayed
            )

        return await self._call("CorrectFact", request, context, work)

    async def PinFact(
        self, request: memory_pb2.PinFactRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.PinFactResponse:
        """Pin or unpin a fact."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.PinFactResponse:
            found = await self._committer.remember(tenant, request, deadline=deadline)
            return memory_pb2.PinFactResponse(replayed=found.done.replayed)

        return await self._call("PinFact", request, context, work)

    async def PutProfile(
        self, request: memory_pb2.PutProfileRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.PutProfileResponse:
        """Set attributes of a profile."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.PutProfileResponse:
            done = (await self._committer.remember(tenant, request, deadline=deadline)).done
            beliefs = await self._beliefs.current(tenant, request.subject_id, deadline=deadline)
            return memory_pb2.PutProfileResponse(
                attributes=_profile(beliefs.at(position=done.position).profile), replayed=done.replayed
            )

        return await self._call("PutProfile", request, context, work)

    async def IngestDocuments(
        self, request: memory_pb2.IngestDocumentsRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.IngestDocumentsResponse:
        """Ingest documents."""
        return await self._call(
            "IngestDocuments",
            request,
            context,
            lambda tenant, deadline: self._committer.ingest(tenant, request, deadline=deadline),
        )

    async def SearchMemory(
        self, request: memory_pb2.SearchMemoryRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.SearchMemoryResponse:
        """Search memory."""
        return await self._call(
            "SearchMemory",
            request,
            context,
            lambda tenant, deadline: self._hydrator.search(tenant, request, deadline=deadline),
        )

    async def ListBeliefs(
        self, request: memory_pb2.ListBeliefsRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.ListBeliefsResponse:
        """List what is held true; the page token holds the point of the log at which the first page looked."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.ListBeliefsResponse:
            subject = validate.identifier(request.subject_id, "subject_id")
            route = validate.name(request.route or DEFAULT, "route")
            known_at_us = validate.moment(request, "known_at")
            valid_at_us = validate.moment(request, "valid_at")
            count = validate.page(request.page_size)
            now_us, position, start = _point(request.page_token) or (time.time_ns() // 1000, -1, 0)
            held = self._beliefs.fresh(tenant, subject)
            reads: list[Read] = [held.read(), RouteRead(tenant=tenant, name=route)]
            asked_at = time.monotonic()
            state, stored = await self._record.fetch(reads, deadline=deadline)
            beliefs = await self._beliefs.settle(held, cast(ChangesRead, reads[0]), cast(ScopeState, state))
            policy = await self._policies.follow(tenant, route, cast("StoredRoute | None", stored), asked_at=asked_at)
            if position < 0:
                position = beliefs.position
            known = beliefs.at(position=position, known_at_us=known_at_us)
            standing = known.standing(
                now_us=now_us if known_at_us is None else known_at_us,
                valid_at_us=known_at_us if valid_at_us is None else valid_at_us,
                lifetimes=policy.lifetimes,
            )
            found = standing.beliefs if request.all_statuses else standing.held
            more = len(found) > start + count
            return memory_pb2.ListBeliefsResponse(
                beliefs=[belief.message() for belief in found[start : start + count]],
                profile=[] if start else _profile(known.profile),
                next_page_token=_token(now_us, position, start + count) if more else "",
            )

        return await self._call("ListBeliefs", request, context, work)

    async def ListQuarantine(
        self, request: memory_pb2.ListQuarantineRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.ListQuarantineResponse:
        """List claims that wait, by subject; the page token names the last one."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.ListQuarantineResponse:
            validate.identifier(request.subject_id, "subject_id", optional=True)
            count = validate.page(request.page_size)
            after = _cursor(request.page_token)
            found: list[tuple[str, Belief]] = []
            reached = after[0]
            subjects = [subject] if (subject := request.subject_id or reached) else []
            for _ in range(_BATCHES_A_PAGE):
                for beliefs in await self._all(tenant, subjects, deadline):
                    reached = beliefs.subject
                    waiting = [(reached, belief) for belief in _waiting(beliefs)]
                    found += [one for one in waiting if (reached, one[1].claim.position) > after]
                if request.subject_id or len(found) > count:
                    break
                read = HeldRead(tenant=tenant, after_subject=reached, count_max=_SUBJECTS_AT_ONCE)
                subjects = list(cast("list[str]", (await self._record.fetch([read], deadline=deadline))[0]))
                if not subjects:
                    break
            token = ""
            if len(found) > count:
                last, belief = found[count - 1]
                token = _token(last, belief.claim.position)
            elif subjects and not request.subject_id:
                token = _token(reached, FOR_EVER)
            return memory_pb2.ListQuarantineResponse(
                claims=[
                    memory_pb2.QuarantinedClaim(subject_id=whose, belief=belief.message())
                    for whose, belief in found[:count]
                ],
                next_page_token=token,
            )

        return await self._call("ListQuarantine", request, context, work)

    async def ReviewQuarantine(
        self, request: memory_pb2.ReviewQuarantineRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.ReviewQuarantineResponse:
        """Decide on a claim that waits."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.ReviewQuarantineResponse:
            found = await self._committer.remember(tenant, request, deadline=deadline)
            return memory_pb2.ReviewQuarantineResponse(replayed=found.done.replayed)

        return await self._call("ReviewQuarantine", request, context, work)

    async def EraseSubject(
        self, request: memory_pb2.EraseSubjectRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.EraseSubjectResponse:
        """Erase a subject, or a session or document of it."""

        async def work(tenant: str, deadline: Deadline) -> memory_pb2.EraseSubjectResponse:
            receipt = await self._eraser.erase(tenant, request, deadline=deadline)
            return memory_pb2.EraseSubjectResponse(receipt=receipt)

        return await self._call("EraseSubject", request, context, work)

    async def ExportSubject(
        self, request: memory_pb2.ExportSubjectRequest, context: grpc.aio.ServicerContext
    ) -> memory_pb2.ExportSubjectResponse:
        """Export all that is stored of a subject, page by page."""
        return await self._call(
            "ExportSubject",
            request,
            context,
            lambda tenant, deadline: self._exporter.page(tenant, request, deadline=deadline),
        )

    async def _call(
        self,
        method: str,
        request: Message,
        context: grpc.aio.ServicerContext,
        work: Callable[[str, Deadline], Awaitable[Answer]],
    ) -> Answer:
        return await self._boundary.call(method, request, context, work)

    async def _all(self, tenant: str, subjects: list[str], deadline: Deadline) -> list[Beliefs]:
        """Bring the beliefs of subjects up to date: in one round trip."""
        held = [self._beliefs.fresh(tenant, subject) for subject in subjects]
        reads = [beliefs.read() for beliefs in held]
        states = await self._record.fetch(list(reads), deadline=deadline) if reads else []
        return [
            await self._beliefs.settle(beliefs, read, cast(ScopeState, state))
            for beliefs, read, state in zip(held, reads, states, strict=True)
        ]


def _waiting(beliefs: Beliefs) -> list[Belief]:
    standing = beliefs.at().standing(now_us=time.time_ns() // 1000)
    return [one for one in standing.beliefs if one.status == memory_pb2.BELIEF_STATUS_QUARANTINED]


def _profile(profile: dict[str, str]) -> list[fact_pb2.ProfileAttribute]:
    return [fact_pb2.ProfileAttribute(name=name, value=value) for name, value in profile.items()]


def _token(*fields: canonical.Field) -> str:
    return base64.urlsafe_b64encode(canonical.pack(fields)).decode()


def _point(token: str) -> tuple[int, int, int] | None:
    """Read a token of ListBeliefs: (time, position, claims before it)."""
    match _fields(token):
        case []:
            return None
        case [int(now_us), int(position), int(start)] if position >= 0 and start >= 0:
            return now_us, position, start
    raise InvalidField("is not a token of this method", field="page_token")


def _cursor(token: str) -> tuple[str, int]:
    """Read a token of ListQuarantine: (subject, position)."""
    match _fields(token):
        case []:
            return "", 0
        case [str(subject), int(position)]:
            return subject, position
    raise InvalidField("is not a token of this method", field="page_token")


def _fields(token: str) -> list[canonical.Field]:
    try:
        return canonical.unpack(base64.urlsafe_b64decode(token))
    except ValueError:
        raise InvalidField("is not a token of this method", field="page_token") from None
