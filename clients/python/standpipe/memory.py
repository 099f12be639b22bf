"""Long-term memory of one subject: facts with their sources, profile, documents, review, erasure, export.

::

    memory = client.memory("anna")
    done = await session.commit([user("I moved to Porto."), assistant("Noted.")], bundle=bundle)
    await memory.remember(fact("home city", "Porto", source("chat-42", done.version, 0)))
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from standpipe import errors
from standpipe.channel import Answered
from standpipe.v1.bundle_pb2 import Source
from standpipe.v1.fact_pb2 import (
    Correction,
    Decision,
    Document,
    Extractor,
    Fact,
    FactCorrection,
    FactResult,
    Pin,
    ProfileAttribute,
    Review,
)
from standpipe.v1.memory_pb2 import (
    Belief,
    CorrectFactRequest,
    CorrectFactResponse,
    DocumentResult,
    EraseSubjectRequest,
    EraseSubjectResponse,
    ErasureReceipt,
    ExportFormat,
    ExportSubjectRequest,
    ExportSubjectResponse,
    IngestDocumentsRequest,
    IngestDocumentsResponse,
    ListBeliefsRequest,
    ListBeliefsResponse,
    ListQuarantineRequest,
    ListQuarantineResponse,
    PinFactRequest,
    PinFactResponse,
    PutProfileRequest,
    PutProfileResponse,
    QuarantinedClaim,
    RecordFactsRequest,
    RecordFactsResponse,
    ReviewQuarantineRequest,
    ReviewQuarantineResponse,
    SearchMemoryRequest,
    SearchMemoryResponse,
    SearchResult,
)
from standpipe.v1.turn_pb2 import EventRef

if TYPE_CHECKING:
    from standpipe.client import Client

__all__ = ["Memory", "document", "fact", "source"]

Form: TypeAlias = Literal["json_lines", "markdown"]
Searched: TypeAlias = Literal["recall", "facts", "documents"]


def source(session_id: str = "", version: int = 0, entry: int | None = None) -> EventRef:
    """Name a place in the log; without a session, an entry of the turn that the claim is committed with."""
    return EventRef(session_id=session_id, version=version, entry=entry)


def fact(
    attribute: str,
    value: str,
    *sources: EventRef,
    negated: bool = False,
    many: bool = False,
    kind: str = "",
    valid_from: datetime | None = None,
    valid_to: datetime | None = None,
    pinned: bool = False,
    extractor: str = "",
    extractor_version: str = "",
) -> Fact:
    """Make a claim: `attribute` is `value`, as its sources say. Times without a zone are UTC."""
    made = Fact(
        attribute=attribute,
        value=value,
        negated=negated,
        many=many,
        kind=kind,
        sources=sources,
        pinned=pinned,
        valid_from=_timestamp(valid_from),
        valid_to=_timestamp(valid_to),
    )
    if extractor or extractor_version:
        made.extractor.CopyFrom(Extractor(name=extractor, version=extractor_version))
    return made


def document(document_id: str, text: str, *, title: str = "", uri: str = "") -> Document:
    """Make a version of a document."""
    return Document(document_id=document_id, text=text, title=title, uri=uri)


class Memory:
    """One subject's memory; without a subject, what belongs to the whole tenant. Reach it as `client.memory`.

    Writes are exactly once per `request_id`; None makes one, which the channel's retries keep. After Unavailable or
    DeadlineExceeded a write may have happened: call it again under `error.request_id`.
    """

    def __init__(self, client: Client, subject: str) -> None:
        self.subject = subject
        self._client = client

    async def remember(
        self, *facts: Fact, request_id: str | None = None, deadline_ms: int | None = None
    ) -> list[FactResult]:
        """Record claims; return what became of each. Raises InvalidArgument (a source that is not there)."""
        request = RecordFactsRequest(
            tenant_id=self._client._tenant, subject_id=self.subject, request_id=_id(request_id), facts=facts
        )
        return list((await self._write("RecordFacts", request, RecordFactsResponse, deadline_ms)).results)

    async def supersede(
        self,
        old: EventRef,
        new: Fact,
        *,
        cause: str = "",
        request_id: str | None = None,
        deadline_ms: int | None = None,
    ) -> FactResult:
        """Put a claim in a fact's place; return what became of it: one that waits has corrected nothing yet."""
        correction = FactCorrection(fact=old, correction=Correction.CORRECTION_SUPERSEDE, replacement=new, cause=cause)
        return (await self._correct(correction, request_id, deadline_ms)).replacement

    async def retract(
        self, old: EventRef, *, cause: str = "", request_id: str | None = None, deadline_ms: int | None = None
    ) -> None:
        """Hold a fact no longer; it may be recorded again. Raises NotFound (FACT_NOT_FOUND)."""
        correction = FactCorrection(fact=old, correction=Correction.CORRECTION_RETRACT, cause=cause)
        await self._correct(correction, request_id, deadline_ms)

    async def reject(
        self, old: EventRef, *, cause: str = "", request_id: str | None = None, deadline_ms: int | None = None
    ) -> None:
        """Hold a fact no longer, nor let it be recorded again under any spelling. Raises NotFound."""
        correction = FactCorrection(fact=old, correction=Correction.CORRECTION_REJECT, cause=cause)
        await self._correct(correction, request_id, deadline_ms)

    async def pin(
        self, ref: EventRef, *, pinned: bool = True, request_id: str | None = None, deadline_ms: int | None = None
    ) -> None:
        """Show a fact in every bundle, or no longer. Raises NotFound."""
        request = PinFactRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            request_id=_id(request_id),
            pin=Pin(fact=ref, pinned=pinned),
        )
        await self._write("PinFact", request, PinFactResponse, deadline_ms)

    async def put_profile(
        self, attributes: Mapping[str, str], *, request_id: str | None = None, deadline_ms: int | None = None
    ) -> dict[str, str]:
        """Set attributes, or remove those with an empty value; return the profile as it then is."""
        request = PutProfileRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            request_id=_id(request_id),
            attributes=[ProfileAttribute(name=name, value=value) for name, value in attributes.items()],
        )
        return _plain((await self._write("PutProfile", request, PutProfileResponse, deadline_ms)).attributes)

    async def ingest(self, *documents: Document, deadline_ms: int | None = None) -> list[DocumentResult]:
        """Ingest documents, each exactly once by its content; without a subject, for all subjects."""
        request = IngestDocumentsRequest(tenant_id=self._client._tenant, subject_id=self.subject, documents=documents)
        got = await self._call("IngestDocuments", request, IngestDocumentsResponse, deadline_ms)
        return list(got.results)

    async def search(
        self,
        query: str,
        *,
        route: str = "",
        sources: Iterable[Searched] = (),
        count_max: int = 0,
        deadline_ms: int | None = None,
    ) -> list[SearchResult]:
        """Search turns, facts and documents as a hydrate would; 20 results unless `count_max` says 1 to 100."""
        request = SearchMemoryRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            route=route,
            query=query,
            sources=[Source.Value(f"SOURCE_{name.upper()}") for name in sources],
            count_max=count_max,
        )
        return list((await self._call("SearchMemory", request, SearchMemoryResponse, deadline_ms)).results)

    async def profile(self, *, known_at: datetime | None = None, deadline_ms: int | None = None) -> dict[str, str]:
        """Return the profile, now or as it was known at a time."""
        request = ListBeliefsRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            known_at=_timestamp(known_at),
            page_size=1,
        )
        return _plain((await self._call("ListBeliefs", request, ListBeliefsResponse, deadline_ms)).profile)

    async def beliefs(
        self,
        *,
        known_at: datetime | None = None,
        valid_at: datetime | None = None,
        all_statuses: bool = False,
        route: str = "",
        page_size: int = 0,
        deadline_ms: int | None = None,
    ) -> AsyncIterator[Belief]:
        """Iterate over what is held true, in the order in which it was recorded.

        `known_at`: only what was recorded until then counts; `valid_at`: what was true then. Times without a zone are
        UTC. `page_size` is 0 (the server's 100) to 1000; `deadline_ms` is for each page.
        """
        request = ListBeliefsRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            route=route,
            known_at=_timestamp(known_at),
            valid_at=_timestamp(valid_at),
            all_statuses=all_statuses,
            page_size=page_size,
        )
        while True:
            page = await self._call("ListBeliefs", request, ListBeliefsResponse, deadline_ms)
            for belief in page.beliefs:
                yield belief
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def quarantine(
        self, *, page_size: int = 0, deadline_ms: int | None = None
    ) -> AsyncIterator[QuarantinedClaim]:
        """Iterate over claims that wait for review; without a subject, over those of all subjects."""
        request = ListQuarantineRequest(tenant_id=self._client._tenant, subject_id=self.subject, page_size=page_size)
        while True:
            page = await self._call("ListQuarantine", request, ListQuarantineResponse, deadline_ms)
            for claim in page.claims:
                yield claim
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def review(
        self,
        ref: EventRef,
        *,
        accept: bool,
        reviewer: str,
        cause: str = "",
        request_id: str | None = None,
        deadline_ms: int | None = None,
    ) -> None:
        """Accept or reject a claim that waits. Raises NotFound (FACT_NOT_FOUND: it does not wait)."""
        decision = Decision.DECISION_ACCEPT if accept else Decision.DECISION_REJECT
        request = ReviewQuarantineRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            request_id=_id(request_id),
            review=Review(fact=ref, decision=decision, reviewer=reviewer, cause=cause),
        )
        await self._write("ReviewQuarantine", request, ReviewQuarantineResponse, deadline_ms)

    async def erase(
        self, *, session_id: str | None = None, document_id: str | None = None, deadline_ms: int | None = None
    ) -> ErasureReceipt:
        """Erase the subject, or one session or document, with all that was derived from it (P11).

        Called again, also after DeadlineExceeded, it goes on and gives the same receipt.
        """
        request = EraseSubjectRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            session_id=session_id,
            document_id=document_id,
        )
        return (await self._call("EraseSubject", request, EraseSubjectResponse, deadline_ms)).receipt

    async def export(self, form: Form = "json_lines", *, deadline_ms: int | None = None) -> AsyncIterator[bytes]:
        """Iterate over the pages of an export; one behind the other they are the file."""
        request = ExportSubjectRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            format=ExportFormat.Value(f"EXPORT_FORMAT_{form.upper()}"),
        )
        while True:
            page = await self._call("ExportSubject", request, ExportSubjectResponse, deadline_ms)
            yield page.content
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _correct(
        self, correction: FactCorrection, request_id: str | None, deadline_ms: int | None
    ) -> CorrectFactResponse:
        request = CorrectFactRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            request_id=_id(request_id),
            correction=correction,
        )
        return await self._write("CorrectFact", request, CorrectFactResponse, deadline_ms)

    async def _write(
        self,
        method: str,
        request: RecordFactsRequest | CorrectFactRequest | PinFactRequest | PutProfileRequest | ReviewQuarantineRequest,
        answer: type[Answered],
        deadline_ms: int | None,
    ) -> Answered:
        try:
            return await self._call(method, request, answer, deadline_ms)
        except errors.StandpipeError as error:
            error.request_id = request.request_id
            raise

    async def _call(self, method: str, request: Message, answer: type[Answered], deadline_ms: int | None) -> Answered:
        return await self._client._call(f"MemoryService/{method}", request, answer, deadline_ms)


def _id(request_id: str | None) -> str:
    return uuid.uuid4().hex if request_id is None else request_id


def _plain(attributes: Iterable[ProfileAttribute]) -> dict[str, str]:
    return {one.name: one.value for one in attributes}


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    made = Timestamp()
    made.FromDatetime(at)
    return made
