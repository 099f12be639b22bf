"""What is held true of a subject: the fold of its memory's changes. Pure, but for the cache at the end.

A claim is never overwritten. It has two times: when it holds (`Fact.valid_from` to `valid_to`), and when it was
recorded (and retracted, rejected or superseded). What is believed at a point of both follows by these rules:

- Claims of one subject contradict each other if their attributes have one normal form and they cannot both be true:
  two different values, unless the attribute can have many or one of them is only denied, or one value said and denied.
  What says the same as another is no contradiction, and yet there is no second copy of it. Of those that are valid at a
  time, the one with the latest `valid_from` is held there, and of equal ones the one that was recorded last. So a claim
  of bounded validity gives way to the older one when its time is over, and nothing needs to be written for that.
- A claim without `valid_from` holds since it was recorded. Clocks of processes differ and positions do not: what has a
  later position counts as recorded no earlier, and as recorded already for whoever sees it.
- A correction ends the claim that it names for all times of validity, from when it was recorded on. A replacement
  without `valid_from` holds since that claim did, and is pinned if that was.
- A claim that is held back counts as soon as a review accepts it, from then on; its trust stays what it was. Until then
  a replacement that waits corrects nothing.
- A rejection leaves a tombstone: the keyed hash of the claim's normal form. A claim that matches one is REJECTED,
  whatever path recorded it, before or after.
- Lifetimes are the policy's, by kind, counted from the last time that a claim was recorded, confirmed or accepted.
  Pinned claims have none. What has expired is not held, and what it superseded does not come back.
- Of more than `limits.facts_held_max` held claims the least useful are PRUNED: those not pinned, with the fewest
  confirmations, recorded or confirmed the longest ago. Nothing is removed from the log for it.

Changes have positions (R6), so what was known at a position is a prefix of them; what was known at a time is those that
were recorded until then.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

from sidecar import canonical, limits, normal
from sidecar.log.v1 import log_pb2
from sidecar.stores.record import ChangesRead, Deadline, Record, ScopeState, StoredItem
from standpipe.v1 import fact_pb2, memory_pb2, turn_pb2

FOR_EVER: int = 1 << 62
"""A time, in microseconds since 1970, that never comes."""

_PAGE_ITEMS = 4096
"""Changes of one read while a subject's memory is loaded."""

HELD = memory_pb2.BELIEF_STATUS_HELD
_SUPERSEDED = memory_pb2.BELIEF_STATUS_SUPERSEDED
_RETRACTED = memory_pb2.BELIEF_STATUS_RETRACTED
_REJECTED = memory_pb2.BELIEF_STATUS_REJECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long facts of a kind matter."""

    ttl_s: int = 0
    """How long after it was recorded or last confirmed a fact is held, unless it is pinned; 0: for ever."""
    half_life_s: int = 0
    """After how long its score in recall has halved, unless it is pinned; 0: never."""


class Ref(NamedTuple):
    """The place of a change in the log; a claim's id."""

    session: str
    version: int
    entry: int

    def message(self) -> turn_pb2.EventRef:
        """Return it as the API has it."""
        return turn_pb2.EventRef(session_id=self.session, version=self.version, entry=self.entry)


class Form(NamedTuple):
    """What a claim says, whatever its spelling (`sidecar.normal`)."""

    attribute: str
    value: str
    negated: bool


def form_of(fact: fact_pb2.Fact) -> Form:
    """Return what a claim says."""
    return Form(normal.form(fact.attribute), normal.form(fact.value), fact.negated)


def tombstone(key: bytes, subject: str, form: Form) -> bytes:
    """Return the keyed hash of a claim, by which it is known again when its text is gone."""
    return canonical.sign(key, canonical.pack(("tombstone", subject, *form[:2], int(form.negated))), size_bytes=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a subject's memory, at its place."""

    position: int
    ref: Ref
    recorded_at_us: int
    change: fact_pb2.MemoryChange
    """Its references are whole: none is relative to its event."""
    text: str = ""
    """A claim's line, as it was frozen when it was written."""

    @classmethod
    def of(cls, item: StoredItem) -> Change:
        """Read one from its item (R27). Raises DecodeError."""
        detail = log_pb2.ItemDetail.FromString(item.detail)
        return cls(
            position=item.position,
            ref=Ref(item.session, item.version, item.entry),
            recorded_at_us=detail.recorded_at_us,
            change=whole(detail.change, item.session, item.version),
            text=item.text,
        )


def whole(change: fact_pb2.MemoryChange, session: str, version: int) -> fact_pb2.MemoryChange:
    """Complete the references of a stored change, in place: those without a session are to its own event."""
    for ref in references(change):
        if not ref.session_id:
            ref.session_id, ref.version = session, version
    return change


def references(change: fact_pb2.MemoryChange) -> list[turn_pb2.EventRef]:
    """Return all references of a change: the fact that it is about, and the sources."""
    kind = change.WhichOneof("change")
    if kind == "fact":
        return list(change.fact.sources)
    if kind == "confirmation":
        return [change.confirmation.fact, *change.confirmation.sources]
    if kind == "correction":
        return [change.correction.fact, *change.correction.replacement.sources]
    if kind == "pin":
        return [change.pin.fact]
    return [change.review.fact] if kind == "review" else []


def claim_in(change: fact_pb2.MemoryChange) -> fact_pb2.Fact | None:
    """Return the claim that a change records: a fact, or a correction's replacement."""
    if change.HasField("fact"):
        return change.fact
    if change.HasField("correction") and change.correction.HasField("replacement"):
        return change.correction.replacement
    return None


class End(NamedTuple):
    """How a claim ended, whatever else was said later."""

    status: memory_pb2.BeliefStatus
    at_us: int
    by: Ref | None
    """What took its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim, with all that changes have made of it."""

    ref: Ref
    position: int
    fact: fact_pb2.Fact
    """As it was recorded. Never changed."""
    text: str
    """It as a line."""
    form: Form
    recorded_at_us: int
    starts_us: int
    """Since when it holds."""
    ends_us: int
    """Until when, itself excluded."""
    trust: fact_pb2.Trust
    held_back: tuple[fact_pb2.HoldReason, ...]
    waits: bool
    """Whether it is held back, and no review has accepted it."""
    pinned: bool
    sources: tuple[turn_pb2.EventRef, ...]
    """Its own, and those that confirmations added."""
    seen_at_us: int
    """When it was recorded, confirmed or accepted last."""
    reviewed: bool = False
    """Whether a review accepted it."""
    confirmations: int = 0
    corrects: Ref | None = None
    """The claim whose place it takes as soon as it does not wait."""
    end: End | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """What decides between claims that contradict each other: the greatest is held."""
        return self.starts_us, self.position

    def contradicts(self, other: Claim) -> bool:
        """Return whether both cannot be true at one time."""
        mine, its = self.form, other.form
        if mine.attribute != its.attribute or mine == its:
            return False
        single = not (self.fact.many or other.fact.many or mine.negated or its.negated)
        return single or mine.value == its.value

    def overlaps(self, other: Claim) -> bool:
        """Return whether there is a time at which both are valid."""
        return max(self.starts_us, other.starts_us) < min(self.ends_us, other.ends_us)


@dataclass(frozen=True, slots=True)
class Belief:
    """A claim, and where it stands."""

    claim: Claim
    status: memory_pb2.BeliefStatus
    ended_at_us: int = 0
    """When it was retracted, rejected or superseded; 0: it was not."""
    superseded_by: Ref | None = None

    @property
    def held(self) -> bool:
        """Whether it is held true."""
        return self.status == HELD

    def message(self) -> memory_pb2.Belief:
        """Return it as the API has it."""
        claim = self.claim
        found = memory_pb2.Belief(
            fact_ref=claim.ref.message(),
            fact=claim.fact,
            status=self.status,
            trust=claim.trust,
            reviewed=claim.reviewed,
            pinned=claim.pinned,
            superseded_by=self.superseded_by and self.superseded_by.message(),
            held_back=claim.held_back,
            confirmations=claim.confirmations,
        )
        del found.fact.sources[:]
        found.fact.sources.extend(claim.sources)
        found.recorded_at.FromMicroseconds(claim.recorded_at_us)
        if self.ended_at_us:
            found.ended_at.FromMicroseconds(self.ended_at_us)
        return found


class Standing:
    """All claims of a subject, and where they stand at one time."""

    def __init__(self, beliefs: Sequence[Belief], *, from_us: int, until_us: int) -> None:
        self.beliefs = beliefs
        """In the order in which they were recorded."""
        self.held = [belief for belief in beliefs if belief.status == HELD]
        self.from_us = from_us
        self.until_us = until_us
        """The next time at which a claim begins, ends or expires."""
        self._by_ref = {belief.claim.ref: belief for belief in beliefs}

    def get(self, ref: Ref) -> Belief | None:
        """Return a claim by its id."""
        return self._by_ref.get(ref)

    def status(self, ref: Ref) -> memory_pb2.BeliefStatus:
        """Return where a claim stands; UNSPECIFIED if there is none."""
        found = self._by_ref.get(ref)
        return found.status if found else memory_pb2.BELIEF_STATUS_UNSPECIFIED


NO_LIFETIMES: Mapping[str, Lifetime] = {}


class Known:
    """What was known at a point of the log: a fold. Never changed once it is made."""

    def __init__(self, keyed: Callable[[Form], bytes]) -> None:
        self.clock_us = 0
        """When the last change was recorded."""
        self.position = 0
        """The last change's."""
        self.profile: dict[str, str] = {}
        """By attribute, in the order of names."""
        self.profile_refs: dict[str, Ref] = {}
        """Where each attribute was set last."""
        self._keyed = keyed
        self._claims: dict[Ref, Claim] = {}
        self._tombstones: set[bytes] = set()
        self._rejected: set[Form] = set()
        self._standing: tuple[Mapping[str, Lifetime], Standing] | None = None

    def extended(self, changes: Iterable[Change]) -> Known:
        """Return what is known after more changes, in the order of their positions."""
        after = Known(self._keyed)
        after.clock_us, after.position = self.clock_us, self.position
        after.profile = dict(self.profile)
        after.profile_refs = dict(self.profile_refs)
        after._claims = dict(self._claims)
        after._tombstones = set(self._tombstones)
        after._rejected = set(self._rejected)
        for change in changes:
            after._take(change)
        after.profile = dict(sorted(after.profile.items()))
        return after

    @property
    def claims(self) -> Iterable[Claim]:
        """All claims, in the order in which they were recorded."""
        return self._claims.values()

    @property
    def count(self) -> int:
        """How many claims there are."""
        return len(self._claims)

    def claim(self, ref: Ref) -> Claim | None:
        """Return a claim by its id."""
        return self._claims.get(ref)

    def rejected(self, form: Form) -> bool:
        """Return whether a claim was rejected, under whatever spelling."""
        if form in self._rejected:
            return True
        return bool(self._tombstones) and self._keyed(form) in self._tombstones

    def standing(
        self, *, now_us: int, valid_at_us: int | None = None, lifetimes: Mapping[str, Lifetime] = NO_LIFETIMES
    ) -> Standing:
        """Return where all claims stand, of those that are valid at a time (by default now).

        Cheap as long as nothing begins, ends or expires.
        """
        now_us = max(now_us, self.clock_us)
        if valid_at_us is not None:
            return self._stand(now_us, valid_at_us, lifetimes)
        if self._standing is not None:
            for_lifetimes, standing = self._standing
            if standing.from_us <= now_us < standing.until_us and for_lifetimes == lifetimes:
                return standing
        standing = self._stand(now_us, now_us, lifetimes)
        self._standing = (lifetimes, standing)
        return standing

    def _stand(self, now_us: int, valid_us: int, lifetimes: Mapping[str, Lifetime]) -> Standing:
        until_us = FOR_EVER
        best: dict[tuple[str, str | None], Claim] = {}
        settled: dict[Ref, Belief] = {}
        for claim in self._claims.values():
            belief = self._settled(claim)
            if belief is None and not claim.starts_us <= valid_us < claim.ends_us:
                belief = Belief(claim, memory_pb2.BELIEF_STATUS_NOT_VALID)
            if belief is not None:
                settled[claim.ref] = belief
            else:
                for group in _groups(claim):
                    if group not in best or best[group].rank < claim.rank:
                        best[group] = claim
            if belief is None or belief.status == memory_pb2.BELIEF_STATUS_NOT_VALID:
                until_us = min(until_us, *(at for at in (claim.starts_us, claim.ends_us, FOR_EVER) if at > valid_us))
        held = []
        for claim in self._claims.values():
            if claim.ref in settled:
                continue
            by = max((best[group] for group in _groups(claim)), key=lambda one: one.rank)
            ttl_s = lifetimes[claim.fact.kind or "fact"].ttl_s if (claim.fact.kind or "fact") in lifetimes else 0
            expires_us = claim.seen_at_us + ttl_s * 1_000_000 if ttl_s and not claim.pinned else FOR_EVER
            if by is not claim:
                settled[claim.ref] = Belief(claim, _SUPERSEDED, by.recorded_at_us, by.ref)
            elif expires_us <= now_us:
                settled[claim.ref] = Belief(claim, memory_pb2.BELIEF_STATUS_EXPIRED)
            else:
                until_us = min(until_us, expires_us)
                held.append(claim)
        held.sort(key=lambda one: (one.pinned, one.confirmations, one.seen_at_us, one.position))
        surplus = min(max(0, len(held) - limits.facts_held_max), sum(not claim.pinned for claim in held))
        for at, claim in enumerate(held):
            settled[claim.ref] = Belief(claim, memory_pb2.BELIEF_STATUS_PRUNED if at < surplus else HELD)
        return Standing([settled[ref] for ref in self._claims], from_us=now_us, until_us=until_us)

    def _settled(self, claim: Claim) -> Belief | None:
        """Return where a claim stands that stands there at all times; None if it counts."""
        end = claim.end
        if end is not None and end.status == _REJECTED:
            return Belief(claim, _REJECTED, end.at_us)
        if self.rejected(claim.form):
            return Belief(claim, _REJECTED)
        if end is not None:
            return Belief(claim, end.status, end.at_us, end.by)
        return Belief(claim, memory_pb2.BELIEF_STATUS_QUARANTINED) if claim.waits else None

    def _take(self, change: Change) -> None:
        self.position = max(self.position, change.position)
        self.clock_us = max(self.clock_us, change.recorded_at_us)
        what = change.change
        kind = what.WhichOneof("change")
        if kind == "fact":
            self._add(change, what.fact)
        elif kind == "confirmation":
            self._confirm(what.confirmation)
        elif kind == "correction":
            self._correct(change, what.correction)
        elif kind == "pin":
            self._update(_ref(what.pin.fact), pinned=what.pin.pinned)
        elif kind == "profile":
            for attribute in what.profile.attributes:
                self.profile.pop(attribute.name, None)
                self.profile_refs[attribute.name] = change.ref
                if attribute.value:
                    self.profile[attribute.name] = attribute.value
        elif kind == "review":
            self._review(what.review)

    def _add(self, change: Change, fact: fact_pb2.Fact, *, corrects: Ref | None = None) -> Claim:
        held_back = tuple(change.change.held_back)
        claim = self._claims[change.ref] = Claim(
            ref=change.ref,
            position=change.position,
            fact=fact,
            text=change.text,
            form=form_of(fact),
            recorded_at_us=change.recorded_at_us,
            starts_us=fact.valid_from.ToMicroseconds() if fact.HasField("valid_from") else self.clock_us,
            ends_us=fact.valid_to.ToMicroseconds() if fact.HasField("valid_to") else FOR_EVER,
            trust=change.change.trust,
            held_back=held_back,
            waits=bool(held_back),
            pinned=fact.pinned,
            sources=tuple(fact.sources),
            seen_at_us=self.clock_us,
            corrects=corrects,
        )
        return claim

    def _confirm(self, confirmation: fact_pb2.Confirmation) -> None:
        ref = _ref(confirmation.fact)
        claim = self._claims.get(ref)
        if claim is not None:
            there = {source.SerializeToString(deterministic=True) for source in claim.sources}
            added = [one for one in confirmation.sources if one.SerializeToString(deterministic=True) not in there]
            self._update(
                ref,
                sources=(*claim.sources, *added)[: limits.sources_max],
                confirmations=claim.confirmations + 1,
                seen_at_us=self.clock_us,
            )

    def _correct(self, change: Change, correction: fact_pb2.FactCorrection) -> None:
        ref = _ref(correction.fact)
        if correction.HasField("replacement"):
            claim = self._add(change, correction.replacement, corrects=ref)
            if not claim.waits:
                self._replace(claim)
        elif correction.correction == fact_pb2.CORRECTION_REJECT:
            self._reject(ref, correction.tombstone)
        elif correction.correction == fact_pb2.CORRECTION_RETRACT:
            self._end(ref, End(_RETRACTED, self.clock_us, None))

    def _replace(self, claim: Claim) -> None:
        """Put a replacement in the place of what it corrects."""
        assert claim.corrects is not None
        corrected = self._claims.get(claim.corrects)
        if corrected is not None:
            starts_us = claim.starts_us if claim.fact.HasField("valid_from") else corrected.starts_us
            self._update(claim.ref, starts_us=starts_us, pinned=claim.pinned or corrected.pinned)
            self._end(claim.corrects, End(_SUPERSEDED, self.clock_us, claim.ref))

    def _review(self, review: fact_pb2.Review) -> None:
        ref = _ref(review.fact)
        claim = self._claims.get(ref)
        if review.decision == fact_pb2.DECISION_REJECT:
            self._reject(ref, review.tombstone)
        elif claim is not None and claim.waits:
            self._update(ref, waits=False, reviewed=True, seen_at_us=self.clock_us)
            if claim.corrects is not None:
                self._replace(self._claims[ref])

    def _reject(self, ref: Ref, stone: bytes) -> None:
        claim = self._claims.get(ref)
        if stone:
            self._tombstones.add(stone)
        if claim is not None:
            self._rejected.add(claim.form)
            if claim.end is None or claim.end.status != _REJECTED:
                self._claims[ref] = replace(claim, end=End(_REJECTED, self.clock_us, None))

    def _end(self, ref: Ref, end: End) -> None:
        """End a claim: what ended it first stays."""
        claim = self._claims.get(ref)
        if claim is not None and claim.end is None:
            self._claims[ref] = replace(claim, end=end)

    def _update(self, ref: Ref, **fields: Any) -> None:
        claim = self._claims.get(ref)
        if claim is not None:
            self._claims[ref] = replace(claim, **fields)


def _groups(claim: Claim) -> list[tuple[str, str | None]]:
    """Return the keys under which a claim competes: of all that share one, one is held at a time."""
    form = claim.form
    value: list[tuple[str, str | None]] = [(form.attribute, form.value)]
    return value if claim.fact.many or form.negated else [*value, (form.attribute, None)]


def _ref(ref: turn_pb2.EventRef) -> Ref:
    return Ref(ref.session_id, ref.version, ref.entry)


class Beliefs:
    """The changes of one subject's memory, and what is known by them. Kept up to date by position, as a scope is."""

    def __init__(self, *, tenant: str, subject: str, key: bytes, epoch: int = 0) -> None:
        self.tenant = tenant
        self.subject = subject
        self.epoch = epoch
        self.position = 0
        """The scope's, up to which all changes are here."""
        self.read_at = 0.0
        """When the record store last answered for it, in `time.monotonic()` seconds."""
        self.nbytes = 2000
        """About how much memory it takes."""
        self._changes: list[Change] = []
        self._empty = Known(partial(tombstone, key, subject))
        self._latest = self._empty

    def read(self, *, count_max: int = _PAGE_ITEMS) -> ChangesRead:
        """Return the read that brings this up to date."""
        return ChangesRead(tenant=self.tenant, subject=self.subject, after_position=self.position, count_max=count_max)

    def apply(self, read: ChangesRead, state: ScopeState) -> bool:
        """Take in the answer to `read`, of this epoch; return whether all of the store's changes are here now.

        Nothing is awaited between; of an answer that another task overtook the known part is left out.
        """
        self.read_at = time.monotonic()
        whole_answer = len(state.items) < read.count_max
        fresh = [Change.of(item) for item in state.items if item.position > self.position and not item.gone]
        if fresh:
            self._changes += fresh
            self._latest = self._latest.extended(fresh)
            self.nbytes += sum(2 * len(item.detail) + 2000 for item in state.items)
        reached = state.position if whole_answer else state.items[-1].position
        self.position = max(self.position, reached)
        return whole_answer

    def at(self, *, position: int | None = None, known_at_us: int | None = None) -> Known:
        """Return what was known at a position, and at a time; by default all that is here."""
        changes: Sequence[Change] = self._changes
        if position is not None and position < self._latest.position:
            changes = changes[: bisect_right(changes, position, key=lambda change: change.position)]
        if known_at_us is not None:
            changes = [change for change in changes if change.recorded_at_us <= known_at_us]
        return self._latest if len(changes) == len(self._changes) else self._empty.extended(changes)


class BeliefStore:
    """The cache of beliefs: least recently used out first, each loaded by one task however many wait for it."""

    def __init__(self, record: Record, *, key: bytes, bytes_max: int = limits.belief_cache_bytes) -> None:
        """`key` is the deployment's signing key."""
        self.key = canonical.sign(key, b"beliefs", size_bytes=32)
        self._record = record
        self._bytes_max = bytes_max
        self._held: OrderedDict[tuple[str, str], Beliefs] = OrderedDict()
        self._loads: dict[tuple[str, str], asyncio.Task[Beliefs]] = {}

    def held(self, tenant: str, subject: str) -> Beliefs | None:
        """Return what is in the cache, however old."""
        found = self._held.get((tenant, subject))
        if found is not None:
            self._held.move_to_end((tenant, subject))
        return found

    async def load(self, tenant: str, subject: str) -> Beliefs:
        """Read all changes. Callers share one load and may give up waiting; the load goes on."""
        key = (tenant, subject)
        task = self._loads.get(key)
        if task is None:
            task = self._loads[key] = asyncio.create_task(self._load(tenant, subject))
            task.add_done_callback(partial(self._loaded, key))
        return await asyncio.shield(task)

    def fresh(self, tenant: str, subject: str) -> Beliefs:
        """Return what is in the cache, or something empty to be settled: for one more read in a batch."""
        return self.held(tenant, subject) or Beliefs(tenant=tenant, subject=subject, key=self.key)

    async def settle(self, beliefs: Beliefs, read: ChangesRead, state: ScopeState) -> Beliefs:
        """Bring beliefs up to an answer of the store, reading on if the answer was only a page of it."""
        if state.epoch != beliefs.epoch:
            if beliefs.position:
                found = await self.load(beliefs.tenant, beliefs.subject)
                if found.epoch < state.epoch or found.position < state.position:  # that load began before the read
                    found = await self.load(beliefs.tenant, beliefs.subject)
                return found
            beliefs.epoch = state.epoch
        if not beliefs.apply(read, state) and not await self._catch_up(beliefs):
            return await self.load(beliefs.tenant, beliefs.subject)
        self._keep(beliefs)
        return beliefs

    async def current(self, tenant: str, subject: str, *, deadline: Deadline | None = None) -> Beliefs:
        """Return a subject's beliefs with all that was acknowledged before the call: one round trip."""
        beliefs = self.fresh(tenant, subject)
        read = beliefs.read()
        (state,) = await self._record.fetch([read], deadline=deadline)
        return await self.settle(beliefs, read, cast(ScopeState, state))

    def forget(self, tenant: str, subject: str) -> None:
        """Drop a subject's beliefs."""
        self._held.pop((tenant, subject), None)

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return sum(beliefs.nbytes for beliefs in self._held.values())

    async def _load(self, tenant: str, subject: str) -> Beliefs:
        while True:
            probe = ChangesRead(tenant=tenant, subject=subject, count_max=0)
            state = cast(ScopeState, (await self._record.fetch([probe]))[0])
            beliefs = Beliefs(tenant=tenant, subject=subject, key=self.key, epoch=state.epoch)
            if await self._catch_up(beliefs):
                self._keep(beliefs)
                return beliefs

    async def _catch_up(self, beliefs: Beliefs) -> bool:
        """Read on to the end; return False if another epoch has begun."""
        while True:
            read = beliefs.read()
            state = cast(ScopeState, (await self._record.fetch([read]))[0])
            if state.epoch != beliefs.epoch:
                return False
            if beliefs.apply(read, state):
                return True

    def _loaded(self, key: tuple[str, str], done: asyncio.Task[Beliefs]) -> None:
        del self._loads[key]
        if not done.cancelled():
            done.exception()  # seen, also when all callers gave up

    def _keep(self, beliefs: Beliefs) -> None:
        key = (beliefs.tenant, beliefs.subject)
        self._held[key] = beliefs
        self._held.move_to_end(key)
        while len(self._held) > 1 and self.nbytes > self._bytes_max:
            self._held.popitem(last=False)
