"""The one place where a write is admitted: what it rests on, whether it is held or waits, what is stored of it.

- **Origin decides.** An entry is trusted by its role; a message no more than what it cites; a claim no more than the
  least trusted of its sources. All of these are read from the log, never from the request. A claim that somebody else
  than the user stands behind waits for review, whatever it says.
- **Screening adds.** What a claim says can only be a reason to hold it back (`sidecar.screen`).
- **Nothing twice.** What was rejected is dropped. What is held already is confirmed, by sources that are trusted no
  less than the claim is: so its trust stays the least of all of its sources. What waits already is not queued again.

Decisions are pure: `Draft` makes them against what was known at a point of the log, and whoever appends does so at that
point or decides again (`sidecar.commit`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from sidecar import analysis, beliefs, canonical, limits, names, screen, segment, validate
from sidecar.beliefs import Belief, BeliefStore, Change, Known, Ref
from sidecar.errors import FactNotFound, InvalidField, LimitExceeded
from sidecar.log.v1 import log_pb2
from sidecar.segment import Count
from sidecar.stores.record import (
    ChangesRead,
    Deadline,
    EventKind,
    EventsRead,
    Head,
    HeadRead,
    Read,
    Record,
    ScopeState,
    StoredEvent,
)
from standpipe.v1 import fact_pb2, memory_pb2, turn_pb2

_EVENTS_AT_ONCE = 64
"""Events of one read of sources: each may be as large as a turn."""

_USER = fact_pb2.TRUST_USER

_LISTED = (
    memory_pb2.BELIEF_STATUS_HELD,
    memory_pb2.BELIEF_STATUS_PRUNED,
    memory_pb2.BELIEF_STATUS_EXPIRED,
)
_CORRECTABLE = (*_LISTED, memory_pb2.BELIEF_STATUS_SUPERSEDED, memory_pb2.BELIEF_STATUS_NOT_VALID)


class Source(NamedTuple):
    """A reference, and the field of the request that it stands in."""

    ref: turn_pb2.EventRef
    path: str


# --- origin ---------------------------------------------------------------------------------------------------


def entry_trust(entry: turn_pb2.TurnEntry, analysed: log_pb2.EntryAnalysis | None = None) -> fact_pb2.Trust:
    """Return how far an entry of a turn can be trusted, as it was stamped when it was written."""
    if analysed is not None and analysed.trust:
        return analysed.trust
    kind = entry.WhichOneof("entry")
    if kind == "message":
        return segment.trust(entry.message.role)
    return segment.trust(turn_pb2.ROLE_ASSISTANT if kind == "tool_call" else turn_pb2.ROLE_TOOL)


def is_said(entry: turn_pb2.TurnEntry) -> bool:
    """Return whether an entry is a step of the conversation: else it has `app_json` alone, and nothing rests on it."""
    return entry.WhichOneof("entry") is not None


def event_trusts(event: StoredEvent) -> list[fact_pb2.Trust | None]:
    """Return the trust of each entry of an event; None for what no claim can rest on: a pin, `app_json` alone."""
    if event.kind == EventKind.TURN:
        turn = log_pb2.StoredTurn.FromString(event.body)
        entries = zip(turn.turn.entries, turn.analyses, strict=True)
        found = [entry_trust(entry, analysed) if is_said(entry) else None for entry, analysed in entries]
        return found + [_change_trust(one.change) for one in turn.changes]
    if event.kind == EventKind.MEMORY:
        return [_change_trust(one.change) for one in log_pb2.StoredMemory.FromString(event.body).changes]
    return []


def _change_trust(change: fact_pb2.MemoryChange) -> fact_pb2.Trust | None:
    if beliefs.claim_in(change) is not None or change.HasField("document"):
        return change.trust
    return None


def _least(trusts: Sequence[fact_pb2.Trust | None], entry: int | None) -> fact_pb2.Trust | None:
    """Return the trust of one entry, or the least of all."""
    if entry is None:
        return min((trust for trust in trusts if trust is not None), default=None)
    return trusts[entry] if entry < len(trusts) else None


# --- decisions ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Draft:
    """Decides on the changes of one event, each in the light of those before it. Pure."""

    known: Known
    now_us: int
    entries: int = 0
    """Of the turn that the changes are made in; theirs are counted on behind."""
    changes: list[fact_pb2.MemoryChange] = field(default_factory=list)
    results: list[fact_pb2.FactResult] = field(default_factory=list)

    def record(
        self, fact: fact_pb2.Fact, trust: fact_pb2.Trust, path: str, *, doubts: Iterable[fact_pb2.HoldReason] = ()
    ) -> None:
        """Decide on a claim. `doubts`: what its extractor found against it."""
        form = beliefs.form_of(fact)
        if self.known.rejected(form):
            self._result(fact_pb2.FACT_OUTCOME_REJECTED)
            return
        reasons = self._reasons(fact, trust, doubts)
        same = self._same(fact, form, waits=bool(reasons))
        if same is not None:
            self._confirm(same, fact, trust, path, reasons)
            return
        if fact.pinned and not reasons:
            self._pinnable(f"{path}.pinned")
        ref = self._add(fact_pb2.MemoryChange(fact=fact, trust=trust, held_back=reasons))
        outcome = fact_pb2.FACT_OUTCOME_QUARANTINED if reasons else fact_pb2.FACT_OUTCOME_HELD
        self._result(outcome, ref, reasons)

    def correct(
        self, correction: fact_pb2.FactCorrection, trust: fact_pb2.Trust, path: str, *, key: bytes, subject: str
    ) -> None:
        """Decide on a correction. `trust`: of its replacement's sources; `key`: of tombstones."""
        rejects = correction.correction == fact_pb2.CORRECTION_REJECT
        may_be = (*_CORRECTABLE, memory_pb2.BELIEF_STATUS_RETRACTED) if rejects else _CORRECTABLE
        claim = self._there(correction.fact, f"{path}.fact", may_be, ended=rejects).claim
        made = fact_pb2.FactCorrection(fact=correction.fact, correction=correction.correction, cause=correction.cause)
        if rejects:
            made.tombstone = beliefs.tombstone(key, subject, claim.form)
        if correction.correction != fact_pb2.CORRECTION_SUPERSEDE:
            self._add(fact_pb2.MemoryChange(correction=made, trust=fact_pb2.TRUST_USER))
            return
        made.replacement.CopyFrom(correction.replacement)
        if self.known.rejected(beliefs.form_of(made.replacement)):
            self._result(fact_pb2.FACT_OUTCOME_REJECTED)
            return
        if not made.replacement.HasField("valid_from") and not made.replacement.HasField("valid_to"):
            for which in ("valid_from", "valid_to"):
                if claim.fact.HasField(which):
                    getattr(made.replacement, which).CopyFrom(getattr(claim.fact, which))
        reasons = self._reasons(made.replacement, trust, (), corrects=claim.ref)
        if made.replacement.pinned and not claim.pinned and not reasons:
            self._pinnable(f"{path}.replacement.pinned")
        ref = self._add(fact_pb2.MemoryChange(correction=made, trust=trust, held_back=reasons))
        outcome = fact_pb2.FACT_OUTCOME_QUARANTINED if reasons else fact_pb2.FACT_OUTCOME_HELD
        self._result(outcome, ref, reasons)

    def pin(self, pin: fact_pb2.Pin, path: str) -> None:
        """Decide on a pin."""
        claim = self._there(pin.fact, f"{path}.fact", _CORRECTABLE).claim
        if pin.pinned and not claim.pinned:
            self._pinnable(f"{path}.pinned")
        self._add(fact_pb2.MemoryChange(pin=pin, trust=fact_pb2.TRUST_USER))

    def review(self, review: fact_pb2.Review, path: str, *, key: bytes, subject: str) -> None:
        """Decide on a review."""
        claim = self._there(review.fact, f"{path}.fact", (memory_pb2.BELIEF_STATUS_QUARANTINED,)).claim
        made = fact_pb2.Review(fact=review.fact, decision=review.decision, reviewer=review.reviewer, cause=review.cause)
        if review.decision == fact_pb2.DECISION_REJECT:
            made.tombstone = beliefs.tombstone(key, subject, claim.form)
        self._add(fact_pb2.MemoryChange(review=made, trust=fact_pb2.TRUST_OPERATOR))

    def put_profile(self, attributes: Sequence[fact_pb2.ProfileAttribute], path: str) -> None:
        """Decide on a change of the profile."""
        self._add(
            fact_pb2.MemoryChange(profile=fact_pb2.ProfileChange(attributes=attributes), trust=fact_pb2.TRUST_OPERATOR)
        )
        _size(len(self.known.profile), path, "profile_attributes_max", limits.profile_attributes_max)

    def _reasons(
        self,
        fact: fact_pb2.Fact,
        trust: fact_pb2.Trust,
        doubts: Iterable[fact_pb2.HoldReason],
        *,
        corrects: Ref | None = None,
    ) -> list[fact_pb2.HoldReason]:
        """Return why a claim has to wait, each reason once."""
        found = {fact_pb2.HOLD_REASON_ORIGIN} if trust < fact_pb2.TRUST_USER else set()
        found |= {*doubts, *screen.signals(f"{fact.attribute}: {fact.value}")}
        if self._against_pinned(fact, corrects):
            found.add(fact_pb2.HOLD_REASON_CONTRADICTS_PINNED)
        return sorted(found)

    def _against_pinned(self, fact: fact_pb2.Fact, corrects: Ref | None) -> bool:
        standing = self.known.standing(now_us=self.now_us)
        pinned = [one.claim for one in standing.held if one.claim.pinned and one.claim.ref != corrects]
        if not pinned:
            return False
        change = fact_pb2.MemoryChange(fact=fact)
        (claim,) = Known(lambda _: b"").extended([self._change(change)]).claims
        return any(one.contradicts(claim) and one.overlaps(claim) for one in pinned)

    def _same(self, fact: fact_pb2.Fact, form: beliefs.Form, *, waits: bool) -> Belief | None:
        """Return the belief that a claim only repeats: one that is held or, for a claim that has to wait, waits."""
        for belief in self.known.standing(now_us=self.now_us).beliefs:
            claim = belief.claim
            if claim.form == form:
                timeless = not fact.HasField("valid_from") and not fact.HasField("valid_to")
                at_once = all(
                    claim.fact.HasField(which) == fact.HasField(which)
                    and getattr(claim.fact, which) == getattr(fact, which)
                    for which in ("valid_from", "valid_to")
                )
                if belief.status in _LISTED and (timeless or at_once):
                    return belief
                if belief.status == memory_pb2.BELIEF_STATUS_NOT_VALID and at_once:
                    return belief
                if waits and belief.status == memory_pb2.BELIEF_STATUS_QUARANTINED and at_once:
                    return belief
        return None

    def _confirm(
        self,
        belief: Belief,
        fact: fact_pb2.Fact,
        trust: fact_pb2.Trust,
        path: str,
        reasons: Sequence[fact_pb2.HoldReason],
    ) -> None:
        claim = belief.claim
        if trust >= claim.trust and not set(reasons) - {*claim.held_back}:
            confirmation = fact_pb2.Confirmation(
                fact=claim.ref.message(), sources=fact.sources, extractor=fact.extractor
            )
            self._add(fact_pb2.MemoryChange(confirmation=confirmation, trust=trust))
            if fact.pinned and not claim.pinned and not claim.waits:
                self._pinnable(f"{path}.pinned")
                pin = fact_pb2.Pin(fact=claim.ref.message(), pinned=True)
                self._add(fact_pb2.MemoryChange(pin=pin, trust=fact_pb2.TRUST_USER))
        if claim.waits:
            self._result(fact_pb2.FACT_OUTCOME_QUARANTINED, claim.ref.message(), claim.held_back)
        else:
            self._result(fact_pb2.FACT_OUTCOME_CONFIRMED, claim.ref.message())

    def _pinnable(self, path: str) -> None:
        pinned = sum(belief.claim.pinned for belief in self.known.standing(now_us=self.now_us).held)
        _size(pinned + 1, path, "facts_pinned_max", limits.facts_pinned_max)

    def _there(
        self,
        ref: turn_pb2.EventRef,
        path: str,
        may_be: Sequence[memory_pb2.BeliefStatus],
        *,
        ended: bool = False,
    ) -> Belief:
        """Return the belief that a change is about. Raises FactNotFound, with where it stands."""
        found = self.known.standing(now_us=self.now_us).get(Ref(ref.session_id, ref.version, ref.entry))
        if found is None:
            raise FactNotFound("the subject has no such fact", field=path)
        if found.status not in may_be or (found.claim.end is not None and not ended):
            status = memory_pb2.BeliefStatus.Name(found.status).removeprefix("BELIEF_STATUS_")
            raise FactNotFound("the fact is not in a state that this can change", field=path, status=status)
        return found

    def _add(self, change: fact_pb2.MemoryChange) -> turn_pb2.EventRef:
        """Take a change into what is known; return its place, as its own event names it."""
        taken = self._change(change)
        self.known = self.known.extended([taken])
        self.changes.append(change)
        return taken.ref.message()

    def _change(self, change: fact_pb2.MemoryChange) -> Change:
        return Change(
            position=self.known.position + 1,
            ref=Ref("", 0, self.entries + len(self.changes)),
            recorded_at_us=self.now_us,
            change=change,
        )

    def _result(
        self,
        outcome: fact_pb2.FactOutcome,
        ref: turn_pb2.EventRef | None = None,
        reasons: Sequence[fact_pb2.HoldReason] = (),
    ) -> None:
        self.results.append(fact_pb2.FactResult(outcome=outcome, fact=ref, reasons=reasons))


def _size(actual: int, path: str, limit: str, maximum: int) -> None:
    if actual > maximum:
        raise LimitExceeded(
            f"{actual} is over the limit {limit} of {maximum}",
            field=path,
            limit=limit,
            maximum=maximum,
            actual=actual,
        )


# --- requests -------------------------------------------------------------------------------------------------

MemoryRequest = (
    memory_pb2.RecordFactsRequest
    | memory_pb2.CorrectFactRequest
    | memory_pb2.PinFactRequest
    | memory_pb2.PutProfileRequest
    | memory_pb2.ReviewQuarantineRequest
)
"""What changes a subject's memory outside of a turn."""

Doubts = Sequence[Sequence[fact_pb2.HoldReason]]
"""By claim, what its extractor found against it; shorter where there is nothing."""


class Plan(NamedTuple):
    """A request that was checked: what is to be read for it, and what then decides."""

    digest: bytes
    """Tells a retry from a reuse (R4)."""
    sources: Sequence[Source]
    decide: Callable[[Draft, Lineage], None]


def plan(request: MemoryRequest, *, key: bytes, doubts: Doubts = ()) -> Plan:
    """Check a request, all but what only the store can know. `key`: of tombstones (`BeliefStore.key`)."""
    subject = validate.identifier(request.subject_id, "subject_id")
    validate.request_id(request.request_id)
    if isinstance(request, memory_pb2.RecordFactsRequest):
        facts = list(request.facts)
        if not facts:
            raise InvalidField("must hold at least one fact", field="facts")
        validate.facts(facts, "facts")

        def decide(draft: Draft, lineage: Lineage) -> None:
            record_all(draft, facts, lineage, subject=subject, doubts=doubts)

        return Plan(_digest("record", subject, *facts_fields(facts)), sources_of(facts), decide)
    if isinstance(request, memory_pb2.CorrectFactRequest):
        correction = request.correction
        validate.correction(correction, "correction")
        replacement = [correction.replacement] if correction.HasField("replacement") else []

        def decide(draft: Draft, lineage: Lineage) -> None:
            trust = min((lineage.claim(one, subject, "correction.replacement") for one in replacement), default=_USER)
            draft.correct(correction, trust, "correction", key=key, subject=subject)

        said = (*_place(correction.fact), correction.correction, correction.cause)
        sources = [source for one in replacement for source in _sources(one, "correction.replacement")]
        return Plan(_digest("correct", subject, *said, *facts_fields(replacement)), sources, decide)
    if isinstance(request, memory_pb2.PinFactRequest):
        pin = request.pin
        validate.reference(pin.fact, "pin.fact", to_entry=True)
        digest = _digest("pin", subject, *_place(pin.fact), int(pin.pinned))
        return Plan(digest, (), lambda draft, _: draft.pin(pin, "pin"))
    if isinstance(request, memory_pb2.PutProfileRequest):
        attributes = list(request.attributes)
        validate.profile(attributes, "attributes")
        digest = _digest("profile", subject, *(said for one in attributes for said in (one.name, one.value)))
        return Plan(digest, (), lambda draft, _: draft.put_profile(attributes, "attributes"))
    review = request.review
    validate.review(review, "review")
    digest = _digest("review", subject, *_place(review.fact), review.decision, review.reviewer, review.cause)
    return Plan(digest, (), lambda draft, _: draft.review(review, "review", key=key, subject=subject))


def record_all(
    draft: Draft, facts: Sequence[fact_pb2.Fact], lineage: Lineage, *, subject: str, doubts: Doubts = ()
) -> None:
    """Decide on claims in order."""
    for index, fact in enumerate(facts):
        path = f"facts[{index}]"
        trust = lineage.claim(fact, subject, path)
        draft.record(fact, trust, path, doubts=doubts[index] if index < len(doubts) else ())


def sources_of(facts: Sequence[fact_pb2.Fact]) -> list[Source]:
    """Return the sources of claims that stand in other events, with their fields."""
    return [source for index, fact in enumerate(facts) for source in _sources(fact, f"facts[{index}]")]


def facts_fields(facts: Sequence[fact_pb2.Fact]) -> list[canonical.Field]:
    """Return everything that claims say, in canonical form."""
    fields: list[canonical.Field] = [len(facts)]
    for fact in facts:
        fields += [fact.attribute, fact.value, int(fact.negated), int(fact.many), fact.kind, int(fact.pinned)]
        for which in ("valid_from", "valid_to"):
            at = getattr(fact, which)
            fields += [at.seconds, at.nanos] if fact.HasField(which) else ["", ""]
        fields += [fact.extractor.name, fact.extractor.version, len(fact.sources)]
        fields += [part for ref in fact.sources for part in _place(ref)]
    return fields


def _sources(fact: fact_pb2.Fact, path: str) -> list[Source]:
    found = [Source(ref, f"{path}.sources[{index}]") for index, ref in enumerate(fact.sources)]
    return [source for source in found if source.ref.session_id]


def _place(ref: turn_pb2.EventRef) -> tuple[str, int, int]:
    return ref.session_id, ref.version, ref.entry if ref.HasField("entry") else -1


def _digest(*fields: canonical.Field) -> bytes:
    return canonical.sha256(fields)


# --- what a write rests on ------------------------------------------------------------------------------------


class Lineage:
    """The events that a write rests on, as they were found in the log."""

    def __init__(self, turn: Sequence[fact_pb2.Trust | None] = ()) -> None:
        """`turn`: the trust of the entries of the turn that is written, which its claims may cite."""
        self.turn = turn
        self._found: dict[tuple[str, int], tuple[str, Sequence[fact_pb2.Trust | None]]] = {}
        self._unsaid: set[tuple[str, int, int]] = set()

    def add(self, head: Head, event: StoredEvent) -> None:
        """Take in an event."""
        self._found[event.session, event.version] = head.subject, event_trusts(event)
        if event.kind == EventKind.TURN:
            entries = log_pb2.StoredTurn.FromString(event.body).turn.entries
            self._unsaid |= {(event.session, event.version, at) for at, one in enumerate(entries) if not is_said(one)}

    def cited(self, ref: turn_pb2.EventRef, path: str) -> fact_pb2.Trust:
        """Return how far what a message cites can be trusted; what cannot be found, not at all.

        Raises InvalidField for an entry that has `app_json` alone.
        """
        if ref.HasField("entry") and (ref.session_id, ref.version, ref.entry) in self._unsaid:
            raise InvalidField("names an entry that has app_json alone: nothing was said in it", field=path)
        _, trusts = self._found.get((ref.session_id, ref.version), ("", ()))
        return _least(trusts, ref.entry if ref.HasField("entry") else None) or fact_pb2.TRUST_EXTERNAL

    def claim(self, fact: fact_pb2.Fact, subject: str, path: str) -> fact_pb2.Trust:
        """Return the least trust of a claim's sources.

        Raises InvalidField for one that is not there, or is another subject's: nobody learns which.
        """
        return min(self._source(ref, subject, f"{path}.sources[{index}]") for index, ref in enumerate(fact.sources))

    def _source(self, ref: turn_pb2.EventRef, subject: str, path: str) -> fact_pb2.Trust:
        entry = ref.entry if ref.HasField("entry") else None
        if not ref.session_id:
            trust = _least(self.turn, entry)
        else:
            owner, trusts = self._found.get((ref.session_id, ref.version), ("", ()))
            trust = _least(trusts, entry) if owner in (subject, names.EVERYONE) else None
        if trust is None:
            raise InvalidField(
                "names nothing that a claim about this subject can rest on: an entry of a turn, a document or a fact",
                field=path,
            )
        return trust


def turn_trusts(turn: turn_pb2.Turn, lineage: Lineage) -> list[fact_pb2.Trust | None]:
    """Return the trust of each entry of a turn: of its role, or of what it cites, if that is less; None for `app_json`
    alone. Raises InvalidField for a message that cites such an entry.
    """
    found: list[fact_pb2.Trust | None] = []
    for index, entry in enumerate(turn.entries):
        path = f"turn.entries[{index}].message.citations"
        cited = [lineage.cited(ref, f"{path}[{at}]") for at, ref in enumerate(entry.message.citations)]
        found.append(min((entry_trust(entry), *cited)) if is_said(entry) else None)
    return found


def stored_turn(
    turn: turn_pb2.Turn, counters: Mapping[str, Count], trusts: Sequence[fact_pb2.Trust | None], draft: Draft
) -> log_pb2.StoredTurn:
    """Return a turn as it is stored, with the changes that were decided with it. Slow for a large one."""
    stored = analysis.analyse(turn, counters, received_at_us=draft.now_us)
    for entry, analysed, trust in zip(turn.entries, stored.analyses, trusts, strict=True):
        if trust is not None and trust < entry_trust(entry):
            analysed.trust = trust
    stored.changes.extend(analysis.analyse_change(change, counters) for change in draft.changes)
    stored.results.extend(draft.results)
    return stored


def stored_memory(draft: Draft, counters: Mapping[str, Count]) -> log_pb2.StoredMemory:
    """Return changes as they are stored outside of a turn."""
    return log_pb2.StoredMemory(
        changes=[analysis.analyse_change(change, counters) for change in draft.changes],
        tokenizers=list(counters),
        received_at_us=draft.now_us,
        results=draft.results,
    )


def stored_document(document: fact_pb2.Document, counters: Mapping[str, Count], *, now_us: int) -> log_pb2.StoredMemory:
    """Return a version of a document as it is stored. Slow for a large one."""
    draft = Draft(known=Known(lambda _: b""), now_us=now_us)
    draft.changes.append(fact_pb2.MemoryChange(document=document, trust=segment.trust(turn_pb2.ROLE_DOCUMENT)))
    return stored_memory(draft, counters)


def imported(change: fact_pb2.MemoryChange) -> fact_pb2.MemoryChange:
    """Return what is admitted of a change in a file that anybody may have written: nothing of what is no claim.

    Claims wait for review, whatever the file says of them. Documents are nobody's word anyway. What decides on other
    claims, pins them, or is the operator's is left out: an empty change, so that what cites the others finds them.
    """
    admitted = fact_pb2.MemoryChange(trust=fact_pb2.TRUST_EXTERNAL)
    claim = beliefs.claim_in(change)
    if claim is not None:
        admitted.CopyFrom(change)
        admitted.trust = fact_pb2.TRUST_EXTERNAL
        claim = beliefs.claim_in(admitted)
        assert claim is not None
        claim.pinned = False
        reasons = {fact_pb2.HOLD_REASON_ORIGIN, *screen.signals(f"{claim.attribute}: {claim.value}")}
        admitted.held_back[:] = sorted(reasons)
    elif change.HasField("document"):
        admitted.document.CopyFrom(change.document)
    else:
        admitted.Clear()
    return admitted


def whole_results(results: Iterable[fact_pb2.FactResult], session: str, version: int) -> list[fact_pb2.FactResult]:
    """Return results whose references to their own event have its name."""
    found = []
    for result in results:
        one = fact_pb2.FactResult()
        one.CopyFrom(result)
        if one.HasField("fact") and not one.fact.session_id:
            one.fact.session_id, one.fact.version = session, version
        found.append(one)
    return found


@dataclass(slots=True)
class Gateway:
    """Reads what decisions rest on. One a process."""

    record: Record
    beliefs: BeliefStore

    async def look(
        self, tenant: str, subject: str, log: str, *, deadline: Deadline | None
    ) -> tuple[Known, Head | None]:
        """Return what is known of a subject, and the head of one of its logs: in one round trip."""
        held = self.beliefs.fresh(tenant, subject)
        reads: list[Read] = [held.read(), HeadRead(tenant=tenant, session=log)]
        state, head = await self.record.fetch(reads, deadline=deadline)
        current = await self.beliefs.settle(held, cast(ChangesRead, reads[0]), cast(ScopeState, state))
        return current.at(), cast("Head | None", head)

    async def lineage(self, tenant: str, refs: Iterable[turn_pb2.EventRef], *, deadline: Deadline | None) -> Lineage:
        """Read events that a write rests on: in one round trip, unless they are many."""
        found = Lineage()
        places = sorted({(ref.session_id, ref.version) for ref in refs})
        for start in range(0, len(places), _EVENTS_AT_ONCE):
            some = places[start : start + _EVENTS_AT_ONCE]
            sessions = sorted({session for session, _ in some})
            reads: list[Read] = [HeadRead(tenant=tenant, session=session) for session in sessions]
            reads += [
                EventsRead(tenant=tenant, session=session, after_version=version - 1, count_max=1, bytes_max=1)
                for session, version in some
            ]
            answers = await self.record.fetch(reads, deadline=deadline)
            heads = dict(zip(sessions, cast("list[Head | None]", answers), strict=False))
            pages = cast("list[Sequence[StoredEvent] | None]", answers[len(sessions) :])
            for (session, version), page in zip(some, pages, strict=True):
                head = heads[session]
                for event in page or ():
                    if head is not None and not head.expired and event.version == version:
                        found.add(head, event)
        return found

    async def subject_of(self, tenant: str, session: str, *, deadline: Deadline | None) -> str:
        """Return whose a session is; empty if there is none."""
        (head,) = await self.record.fetch([HeadRead(tenant=tenant, session=session)], deadline=deadline)
        return cast(Head, head).subject if head is not None else ""

    async def latest(
        self, tenant: str, log: str, *, deadline: Deadline | None
    ) -> tuple[Head | None, StoredEvent | None]:
        """Return the head of a log, and its last event."""
        (found,) = await self.record.fetch([HeadRead(tenant=tenant, session=log)], deadline=deadline)
        head = cast("Head | None", found)
        if head is None or head.expired:
            return head, None
        read = EventsRead(tenant=tenant, session=log, after_version=head.version - 1, count_max=1, bytes_max=1)
        (page,) = await self.record.fetch([read], deadline=deadline)
        events = cast("Sequence[StoredEvent] | None", page)
        return head, events[0] if events else None
