"""Memory as text: all that is stored of a subject, in pages. Equal logs give equal files.

**JSON Lines** is what `sidecar.restore` reads: a header, one event a line, and a signature over all of it. Events stand
in the order in which their items were given positions, so that importing them gives the same order again (R6); those
without items stand before the next of their session that has some, or at the end. A session's versions are in order.
Behind them stand the records of state, by collection and key. What is the record store's own (hashes, positions,
receipts, revisions, counts) is not in it.

**Markdown** is for people, to be read and compared: the profile, the claims by attribute with where they stand and what
they rest on, the documents, the conversations. Lifetimes are a policy's, and no policy is asked: a claim that one lets
expire is held here. A citation `[s1#3.0]` is session, version and entry.

A page is whole lines, and its token is where the next begins, signed, with the hash of all lines before.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from sidecar import limits, names, segment, validate
from sidecar.beliefs import Belief, BeliefStore
from sidecar.errors import Erased, InvalidField, StoreUnavailable
from sidecar.log.v1 import log_pb2
from sidecar.receipt import Signer
from sidecar.stores.record import (
    Deadline,
    EventKind,
    EventsRead,
    Head,
    HeadRead,
    Read,
    Record,
    ScopeRead,
    ScopeState,
    SessionsRead,
    StateAll,
    StateFound,
    StateRecord,
    StoredEvent,
)
from standpipe.v1 import fact_pb2, memory_pb2, turn_pb2

FORMAT = 1
"""Of the JSON Lines. Raised when a file of the one before cannot be read as it was."""

JSON_LINES = memory_pb2.EXPORT_FORMAT_JSON_LINES
MARKDOWN = memory_pb2.EXPORT_FORMAT_MARKDOWN

_ITEMS_AT_ONCE = 256
_RECORDS_AT_ONCE = 256
_STATE = 3
"""The part of both forms that has the records of state."""

_EVENTS_AT_ONCE = 16
"""Events that are read in one trip, each with the one before it."""

START = hashlib.sha256(b"standpipe export").digest()
"""The hash before the first line."""

_WHO: Mapping[int, str] = {
    fact_pb2.TRUST_EXTERNAL: "a tool, a document or an import",
    fact_pb2.TRUST_INFERRED: "a model",
    fact_pb2.TRUST_USER: "the user",
    fact_pb2.TRUST_OPERATOR: "the operator",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page begins."""

    format: int
    part: int = 0
    """What comes first of the file's parts; the meaning of the rest is the part's."""
    position: int = 0
    session: str = ""
    version: int = 0
    until: int = 0
    """The scope's position when the export began: what came later is not in it."""
    at_us: int = 0
    """When it began."""
    chain: bytes = START
    """Of all lines before."""
    key: str = ""
    """Of a record of state, whose collection stands in place of a session."""


class _Step(NamedTuple):
    """A line, and where one goes on behind it."""

    line: str
    then: _Place


class Exporter:
    """Writes exports. One a process."""

    def __init__(self, *, record: Record, beliefs: BeliefStore, signer: Signer) -> None:
        self._record = record
        self._beliefs = beliefs
        self._signer = signer

    async def page(
        self, tenant: str, request: memory_pb2.ExportSubjectRequest, *, deadline: Deadline | None
    ) -> memory_pb2.ExportSubjectResponse:
        """Return a page of at most `limits.export_page_bytes`, or of one line that is longer."""
        subject = validate.identifier(request.subject_id, "subject_id")
        place = self._place(tenant, request)
        if not place.at_us:
            place = await self._begin(tenant, subject, place, deadline)
        steps = self._json_lines if place.format == JSON_LINES else self._markdown
        lines: list[bytes] = []
        size, token = 0, ""
        async for step in steps(tenant, subject, place, deadline):
            line = step.line.encode() + b"\n"
            size += len(line)
            if lines and size > limits.export_page_bytes:
                token = self._token(tenant, subject, place)
                break
            lines.append(line)
            place = replace(step.then, chain=chained(place.chain, line))
        else:
            if place.format == JSON_LINES:
                lines.append(self._signature(tenant, subject, place.chain))
        return memory_pb2.ExportSubjectResponse(content=b"".join(lines), next_page_token=token)

    # --- pages ---

    async def _begin(self, tenant: str, subject: str, place: _Place, deadline: Deadline | None) -> _Place:
        probe = ScopeRead(tenant=tenant, subject=subject, model="", count_max=0)
        position, erased, lives = 0, False, False
        async for head in self._heads(tenant, subject, "", deadline):
            position = max(position, head.position_end)
            erased, lives = erased or head.erased, lives or not head.erased
        if erased and not lives and not await self._has_state(tenant, subject, deadline):
            raise Erased("subject")
        until = cast(ScopeState, (await self._record.fetch([probe], deadline=deadline))[0]).position
        if until < position:
            raise StoreUnavailable("the items are being rebuilt: their order is not known yet")
        return replace(place, until=until, at_us=time.time_ns() // 1000)

    def _place(self, tenant: str, request: memory_pb2.ExportSubjectRequest) -> _Place:
        wanted = request.format or JSON_LINES
        if wanted not in (JSON_LINES, MARKDOWN):
            raise InvalidField("names no format", field="format")
        if not request.page_token:
            return _Place(wanted)
        fields = self._signer.open_page(
            request.page_token,
            of=("export", tenant, request.subject_id),
            field_name="page_token",
            chars_max=limits.state_token_chars_max,
        )
        place = _Place(*cast(Any, fields))
        if place.format != wanted:
            raise InvalidField("belongs to an export in another format", field="page_token")
        return place

    def _token(self, tenant: str, subject: str, place: _Place) -> str:
        fields = [getattr(place, name) for name in _Place.__slots__]
        if not place.key:
            fields.pop()  # the release before knows no such field
        return self._signer.seal_page(fields, of=("export", tenant, subject))

    def _signature(self, tenant: str, subject: str, chain: bytes) -> bytes:
        signature = self._signer.sign_export(tenant=tenant, subject=subject, chain=chain)
        return _json({"signature": signature.hex()}).encode() + b"\n"

    # --- JSON Lines ---

    async def _json_lines(
        self, tenant: str, subject: str, place: _Place, deadline: Deadline | None
    ) -> AsyncIterator[_Step]:
        if place.part == 0:
            place = replace(place, part=1)
            yield _Step(_json({"standpipe_export": FORMAT, "subject": subject}), place)
        if place.part == 1:
            async for event, head, then in self._by_position(tenant, subject, place, deadline):
                yield _Step(line_of(event, head), then)
            place = replace(place, part=2, session="", version=0)
        if place.part == 2:
            async for event, head, then in self._without_items(tenant, subject, place, deadline):
                yield _Step(line_of(event, head), then)
            place = replace(place, part=_STATE, session="", version=0)
        async for record, then in self._state(tenant, subject, place, deadline):
            yield _Step(line_of_record(record), then)

    async def _state(
        self, tenant: str, subject: str, place: _Place, deadline: Deadline | None
    ) -> AsyncIterator[tuple[StateRecord, _Place]]:
        """Yield the records of state."""
        more = True
        while more:
            read = StateAll(
                tenant=tenant,
                subject=subject,
                after=(place.session, place.key),
                count_max=_RECORDS_AT_ONCE,
                bytes_max=limits.export_page_bytes,
            )
            found = cast(StateFound, (await self._record.fetch([read], deadline=deadline))[0])
            for record in found.records:
                place = replace(place, session=record.collection, key=record.key)
                yield record, place
            more = found.more

    async def _has_state(self, tenant: str, subject: str, deadline: Deadline | None) -> bool:
        read = StateAll(tenant=tenant, subject=subject, count_max=1, bytes_max=1)
        return bool(cast(StateFound, (await self._record.fetch([read], deadline=deadline))[0]).records)

    async def _by_position(
        self, tenant: str, subject: str, place: _Place, deadline: Deadline | None
    ) -> AsyncIterator[tuple[StoredEvent, Head, _Place]]:
        """Yield the events that have items, each behind those before it in its session that have none."""
        while place.position < place.until:
            read = ScopeRead(
                tenant=tenant, subject=subject, model="", after_position=place.position, count_max=_ITEMS_AT_ONCE
            )
            state = cast(ScopeState, (await self._record.fetch([read], deadline=deadline))[0])
            items = [item for item in state.items if item.position <= place.until]
            if not items:
                return
            found: dict[tuple[str, int], int] = {}
            for item in items:
                if not item.gone:
                    found[item.session, item.version] = item.position
            wanted = list(found)
            for start in range(0, len(wanted), _EVENTS_AT_ONCE):
                for event, before, head in await self._events(
                    tenant, wanted[start : start + _EVENTS_AT_ONCE], deadline
                ):
                    if not has_items(event) or event.position_end <= place.position:
                        continue  # the items of one event may lie on two pages
                    first = event.version
                    if before is not None and not has_items(before):
                        first = await self._run_start(tenant, event.session, event.version, deadline)
                    if place.session == event.session:
                        first = max(first, place.version)
                    async for one in self._range(tenant, event.session, first, event.version - 1, deadline):
                        place = replace(place, session=event.session, version=one.version + 1)
                        yield one, head, place
                    place = replace(place, position=event.position_end, session="", version=0)
                    yield event, head, place
            place = replace(place, position=max(place.position, items[-1].position), session="", version=0)

    async def _without_items(
        self, tenant: str, subject: str, place: _Place, deadline: Deadline | None
    ) -> AsyncIterator[tuple[StoredEvent, Head, _Place]]:
        """Yield the events that stand without items at the ends of their sessions."""
        after = place.session
        if place.version:  # amid such an end
            (answer,) = await self._record.fetch([HeadRead(tenant=tenant, session=place.session)], deadline=deadline)
            head = cast("Head | None", answer)
            if head is not None and not head.expired:
                async for event in self._range(tenant, place.session, place.version, head.version, deadline):
                    if has_items(event):
                        break  # it came later
                    place = replace(place, version=event.version + 1)
                    yield event, head, place
        async for head in self._heads(tenant, subject, after, deadline):
            if head.expired:
                continue
            first = await self._end_start(tenant, head, place.until, deadline)
            async for event in self._range(tenant, head.session, first, head.version, deadline):
                if has_items(event):
                    break
                place = replace(place, session=head.session, version=event.version + 1)
                yield event, head, place

    async def _events(
        self, tenant: str, wanted: Sequence[tuple[str, int]], deadline: Deadline | None
    ) -> list[tuple[StoredEvent, StoredEvent | None, Head]]:
        """Return events, each with the one before it and its session's head; without those that are gone meanwhile."""
        reads: list[Read] = []
        for session, version in wanted:
            reads += [_one(tenant, session, version), _one(tenant, session, max(1, version - 1))]
            reads.append(HeadRead(tenant=tenant, session=session))
        answers = await self._record.fetch(reads, deadline=deadline)
        found = []
        for at, (_, version) in enumerate(wanted):
            event, before = (_first(answer) for answer in answers[3 * at : 3 * at + 2])
            if event is not None and event.version == version:
                found.append((event, before if version > 1 else None, cast(Head, answers[3 * at + 2])))
        return found

    async def _run_start(self, tenant: str, session: str, version: int, deadline: Deadline | None) -> int:
        """Return where the events without items begin that stand right before one."""
        while version > 1:
            (answer,) = await self._record.fetch([_one(tenant, session, version - 1)], deadline=deadline)
            event = _first(answer)
            if event is None or has_items(event):
                break
            version -= 1
        return version

    async def _end_start(self, tenant: str, head: Head, until: int, deadline: Deadline | None) -> int:
        """Return where the events without items begin that a session ends with, as it was when the export began."""
        version = first = head.version + 1
        while version > 1:
            (answer,) = await self._record.fetch([_one(tenant, head.session, version - 1)], deadline=deadline)
            event = _first(answer)
            if event is None:
                break
            if has_items(event):
                if event.position_end <= until:
                    break
                first = version - 1  # it came later, and so did what follows
            else:
                first = version - 1
            version -= 1
        return first

    async def _range(
        self, tenant: str, session: str, first: int, last: int, deadline: Deadline | None
    ) -> AsyncIterator[StoredEvent]:
        """Yield events of one session."""
        while first <= last:
            read = EventsRead(
                tenant=tenant,
                session=session,
                after_version=first - 1,
                count_max=min(limits.page_default, last - first + 1),
                bytes_max=limits.page_bytes,
            )
            page = cast("Sequence[StoredEvent] | None", (await self._record.fetch([read], deadline=deadline))[0])
            if not page:
                return
            for event in page:
                yield event
            first = page[-1].version + 1

    async def _heads(self, tenant: str, subject: str, after: str, deadline: Deadline | None) -> AsyncIterator[Head]:
        while True:
            read = SessionsRead(tenant=tenant, subject=subject, after_session=after, count_max=limits.page_max)
            page = cast(Sequence[Head], (await self._record.fetch([read], deadline=deadline))[0])
            for head in page:
                yield head
            if len(page) < limits.page_max:
                return
            after = page[-1].session

    # --- Markdown ---

    async def _markdown(
        self, tenant: str, subject: str, place: _Place, deadline: Deadline | None
    ) -> AsyncIterator[_Step]:
        if place.part == 0:
            beliefs = await self._beliefs.current(tenant, subject, deadline=deadline)
            known = beliefs.at(position=place.until)
            standing = known.standing(now_us=place.at_us)
            lines = [f"# Memory of {subject}", "", *_profile(known.profile), *_facts(standing.beliefs)]
            for number, line in enumerate(lines[place.version :], place.version + 1):
                yield _Step(line, replace(place, version=number))
            place = replace(place, part=1, session=names.document_log(subject, ""), version=0)
        if place.part == 1:
            async for step in self._documents(tenant, subject, place, deadline):
                yield step
                place = step.then
            place = replace(place, part=2, position=0, session="", version=0)
        if place.part == 2:
            async for step in self._conversations(tenant, subject, place, deadline):
                yield step
            place = replace(place, part=_STATE, session="", version=0)
        async for record, then in self._state(tenant, subject, place, deadline):
            heading = "" if place.key else "## Records\n\n"
            place = then
            yield _Step(heading + _kept(record), then)

    async def _documents(
        self, tenant: str, subject: str, place: _Place, deadline: Deadline | None
    ) -> AsyncIterator[_Step]:
        """Yield the latest versions of the subject's documents."""
        if not place.position:
            place = replace(place, position=1)
            yield _Step("## Documents\n", place)
        async for head in self._heads(tenant, subject, place.session, deadline):
            if head.expired or not names.is_own(head.session) or not names.own(head.session).document:
                continue
            (answer,) = await self._record.fetch([_one(tenant, head.session, head.version)], deadline=deadline)
            event = _first(answer)
            if event is None:
                continue
            place = replace(place, session=head.session)
            for change in log_pb2.StoredMemory.FromString(event.body).changes:
                yield _Step("\n".join(_document(change.change.document, event)), place)

    async def _conversations(
        self, tenant: str, subject: str, place: _Place, deadline: Deadline | None
    ) -> AsyncIterator[_Step]:
        if not place.position:
            place = replace(place, position=1)
            yield _Step("## Conversations\n", place)
        after = place.session
        if place.version:
            async for step in self._conversation(tenant, place, deadline):
                yield step
        async for head in self._heads(tenant, subject, after, deadline):
            if names.is_own(head.session):  # these stand behind all others
                return
            if head.expired:
                continue
            place = replace(place, session=head.session, version=1)
            yield _Step(f"### {head.session}\n", place)
            async for step in self._conversation(tenant, place, deadline):
                yield step
                place = step.then

    async def _conversation(self, tenant: str, place: _Place, deadline: Deadline | None) -> AsyncIterator[_Step]:
        async for event in self._range(tenant, place.session, place.version, limits.session_events_max + 1, deadline):
            place = replace(place, version=event.version + 1)
            yield _Step("\n".join(_said(event)), place)


def chained(chain: bytes, line: bytes) -> bytes:
    """Return the hash of all lines up to one."""
    return hashlib.sha256(chain + line).digest()


def has_items(event: StoredEvent) -> bool:
    """Return whether an event has items that are not gone: those of a change that was erased are."""
    if event.kind == EventKind.TURN:
        turn = log_pb2.StoredTurn.FromString(event.body)
        return any(one.chunks for one in turn.analyses) or any(_there(one) for one in turn.changes)
    if event.kind == EventKind.MEMORY:
        return any(_there(one) for one in log_pb2.StoredMemory.FromString(event.body).changes)
    return False


def _there(change: log_pb2.StoredChange) -> bool:
    return change.change.WhichOneof("change") is not None


def line_of(event: StoredEvent, head: Head) -> str:
    """Return an event as a line of JSON."""
    fields: dict[str, Any] = {
        "session": event.session,
        "version": event.version,
        "kind": EventKind(event.kind).name.lower(),
        "request_id": event.request_id,
        "committed_at": _time(event.committed_at_us),
    }
    if head.expires_at_us:
        fields["keep_s"] = (head.expires_at_us - head.updated_at_us) // 1_000_000
    if event.kind == EventKind.TURN:
        stored = log_pb2.StoredTurn.FromString(event.body)
        stored.turn.ClearField("bundle_receipt")
        fields["received_at"] = _time(stored.received_at_us)
        fields["turn"] = _message(stored.turn)
        trust = {str(at): fact_pb2.Trust.Name(one.trust) for at, one in enumerate(stored.analyses) if one.trust}
        if trust:
            fields["trust"] = trust
        if stored.changes:
            fields["changes"] = [_message(one.change) for one in stored.changes]
    elif event.kind == EventKind.MEMORY:
        memory = log_pb2.StoredMemory.FromString(event.body)
        fields["received_at"] = _time(memory.received_at_us)
        fields["changes"] = [_message(one.change) for one in memory.changes]
    else:
        fields["end"] = _message(turn_pb2.SessionEnd.FromString(event.body))
    return _json(fields)


def line_of_record(record: StateRecord) -> str:
    """Return a record of state as a line of JSON."""
    fields = {
        "collection": record.collection,
        "key": record.key,
        "value": base64.b64encode(record.value).decode(),
    }
    if record.expires_at_us:
        fields["expires_at"] = _time(record.expires_at_us)
    return _json({"state": fields})


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _message(message: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", json_format.MessageToDict(message, preserving_proto_field_name=True))


def _time(at_us: int) -> str:
    stamp = Timestamp()
    stamp.FromMicroseconds(at_us)
    return cast(str, stamp.ToJsonString())


def _one(tenant: str, session: str, version: int) -> EventsRead:
    return EventsRead(tenant=tenant, session=session, after_version=version - 1, count_max=1, bytes_max=1)


def _first(answer: object) -> StoredEvent | None:
    events = cast("Sequence[StoredEvent] | None", answer)
    return events[0] if events else None


# --- Markdown, for people ------------------------------------------------------------------------------------


def _profile(profile: Mapping[str, str]) -> Iterator[str]:
    yield "## Profile"
    yield ""
    for name, value in sorted(profile.items()):
        yield f"- **{name}**: {value}"
    if profile:
        yield ""


def _facts(beliefs: Sequence[Belief]) -> Iterator[str]:
    """Yield the claims by attribute, each attribute's in the order in which they were recorded."""
    yield "## Facts"
    yield ""
    groups: dict[str, list[Belief]] = {}
    for belief in beliefs:
        groups.setdefault(belief.claim.form.attribute, []).append(belief)
    for attribute in sorted(groups):
        yield f"### {groups[attribute][0].claim.fact.attribute}"
        yield ""
        for belief in groups[attribute]:
            yield _fact(belief)
        yield ""


def _fact(belief: Belief) -> str:
    claim, fact = belief.claim, belief.claim.fact
    said = ("not " if fact.negated else "") + fact.value.replace("\n", "\n  ")
    notes = [memory_pb2.BeliefStatus.Name(belief.status).removeprefix("BELIEF_STATUS_").replace("_", " ").lower()]
    notes.append(f"recorded {_day(claim.recorded_at_us)}")
    if fact.HasField("valid_from"):
        notes.append(f"from {_day(fact.valid_from.ToMicroseconds())}")
    if fact.HasField("valid_to"):
        notes.append(f"until {_day(fact.valid_to.ToMicroseconds())}")
    if belief.ended_at_us:
        notes.append(f"ended {_day(belief.ended_at_us)}")
    if belief.superseded_by is not None:
        notes.append(f"by {_cited(belief.superseded_by.message())}")
    notes.append(f"from {_WHO.get(claim.trust, 'nobody')}")
    if claim.pinned:
        notes.append("pinned")
    if claim.reviewed:
        notes.append("reviewed")
    if claim.confirmations:
        notes.append(f"confirmed {claim.confirmations} times")
    reasons = [fact_pb2.HoldReason.Name(one).removeprefix("HOLD_REASON_").lower() for one in claim.held_back]
    if reasons:
        notes.append("held back: " + ", ".join(reasons))
    sources = " ".join(map(_cited, claim.sources))
    return f"- {said} ({'; '.join(notes)}) {_cited(claim.ref.message())} <- {sources}"


def _document(document: fact_pb2.Document, event: StoredEvent) -> Iterator[str]:
    yield f"### {document.title or document.document_id}"
    yield ""
    where = f", from {document.uri}" if document.uri else ""
    yield f"{document.document_id}, version {event.version} of {_day(event.committed_at_us)}{where}"
    yield ""
    yield from _quoted(document.text)
    yield ""


def _said(event: StoredEvent) -> Iterator[str]:
    """Yield an event of a conversation."""
    at = f"{_day(event.committed_at_us)} {_clock(event.committed_at_us)}"
    if event.kind == EventKind.END:
        cause = turn_pb2.SessionEnd.FromString(event.body).cause
        yield f"{at} [{event.session}#{event.version}] ended{': ' if cause else ''}{cause}"
        yield ""
        return
    for index, entry in enumerate(log_pb2.StoredTurn.FromString(event.body).turn.entries):
        ref = f"[{event.session}#{event.version}.{index}]"
        kind = entry.WhichOneof("entry")
        if kind == "message":
            message = entry.message
            who = message.speaker or turn_pb2.Role.Name(message.role).removeprefix("ROLE_").lower()
            rests = " <- " + " ".join(map(_cited, message.citations)) if message.citations else ""
            yield f"{at} {ref} **{who}**{rests}"
        elif kind == "tool_call":
            yield f"{at} {ref} call of **{entry.tool_call.name}**"
        elif kind == "tool_result":
            yield f"{at} {ref} result{' (failed)' if entry.tool_result.is_error else ''}"
        if kind is not None:
            yield ""
            yield from _quoted(segment.entry_text(entry) or entry.tool_call.arguments_json)
            yield ""
        if entry.app_json:
            yield f"{at} {ref} as the application keeps it"
            yield ""
            yield from _quoted(entry.app_json)
            yield ""


def _kept(record: StateRecord) -> str:
    until = f", until {_day(record.expires_at_us)}" if record.expires_at_us else ""
    return f"- {record.collection}: {record.key} ({len(record.value)} bytes of {_day(record.updated_at_us)}{until})"


def _quoted(text: str) -> Iterator[str]:
    for line in text.splitlines() or [""]:
        yield f"> {line}".rstrip()


def _cited(ref: turn_pb2.EventRef) -> str:
    return f"[{ref.session_id}#{ref.version}{f'.{ref.entry}' if ref.HasField('entry') else ''}]"


def _day(at_us: int) -> str:
    return _when(at_us).strftime("%Y-%m-%d")


def _clock(at_us: int) -> str:
    return _when(at_us).strftime("%H:%M:%S")


def _when(at_us: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=at_us)
