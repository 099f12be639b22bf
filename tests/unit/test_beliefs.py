"""The fold of a subject's memory: what contradicts, ends, waits, expires and comes back, now and as of any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import analysis, beliefs, limits
from sidecar.beliefs import Belief, Beliefs, BeliefStore, Known, Lifetime, Ref, form_of
from sidecar.log.v1 import log_pb2
from sidecar.stores.record import EventKind, ItemKind, ScopeState, StoredItem
from sidecar.stores.sqlite import SqliteRecord
from standpipe.v1 import fact_pb2, memory_pb2, turn_pb2
from tests.contract.record_suite import turn

KEY = bytes(32)
LOG = "~m~anna"
HELD, SUPERSEDED, RETRACTED, REJECTED, EXPIRED, NOT_VALID, QUARANTINED, PRUNED = range(1, 9)
ORIGIN = fact_pb2.HOLD_REASON_ORIGIN


def fact(attribute: str, value: str, *, start_s: int = 0, end_s: int = 0, **more: Any) -> fact_pb2.Fact:
    """Make a claim; times are seconds since 1970, 0 for none."""
    made = fact_pb2.Fact(attribute=attribute, value=value, **more)
    if start_s:
        made.valid_from.FromSeconds(start_s)
    if end_s:
        made.valid_to.FromSeconds(end_s)
    return made


@dataclass
class Memory:
    """A subject's changes, as a record store would give them."""

    items: list[StoredItem] = field(default_factory=list)

    def add(self, at_s: int, *, held_back: tuple[Any, ...] = (), **change: Any) -> turn_pb2.EventRef:
        """Record a change at a time; return its place."""
        position = len(self.items) + 1
        what = fact_pb2.MemoryChange(trust=fact_pb2.TRUST_USER, held_back=held_back, **change)
        detail = log_pb2.ItemDetail(change=what, recorded_at_us=at_s * 1_000_000)
        self.items.append(
            StoredItem(
                position=position,
                session=LOG,
                version=position,
                entry=0,
                chunk=0,
                role=turn_pb2.ROLE_USER,
                speaker="",
                spoken_at_us=at_s * 1_000_000,
                text="",
                terms=b"",
                tokens={},
                kind=ItemKind.HELD if held_back else ItemKind.CHANGE,
                detail=detail.SerializeToString(),
            )
        )
        return turn_pb2.EventRef(session_id=LOG, version=position, entry=0)

    def claim(self, at_s: int, attribute: str, value: str, *, held_back: tuple[Any, ...] = (), **more: Any) -> Any:
        """Record a claim."""
        return self.add(at_s, held_back=held_back, fact=fact(attribute, value, **more))

    def correct(self, at_s: int, ref: Any, how: str, *, held_back: tuple[Any, ...] = (), **more: Any) -> Any:
        """Correct a claim."""
        correction = fact_pb2.FactCorrection(fact=ref, correction=how, **more)
        return self.add(at_s, held_back=held_back, correction=correction)

    def review(self, at_s: int, ref: Any, decision: str, *, tombstone: bytes = b"") -> Any:
        """Review a claim."""
        return self.add(at_s, review=fact_pb2.Review(fact=ref, decision=decision, tombstone=tombstone))

    def beliefs(self) -> Beliefs:
        """Fold all."""
        found = Beliefs(tenant="t", subject="anna", key=BeliefStore(None, key=KEY).key)  # type: ignore[arg-type]
        read = found.read(count_max=len(self.items) + 1)
        assert found.apply(read, ScopeState(position=len(self.items), vector_position=0, items=self.items, vectors=[]))
        return found

    def known(self, **at: Any) -> Known:
        """Fold all, and look from a point."""
        return self.beliefs().at(**at)

    def held(self, now_s: int, *, valid_s: int | None = None, **at: Any) -> list[str]:
        """Return what is held at a time, as text."""
        standing = self.known(**at).standing(
            now_us=now_s * 1_000_000, valid_at_us=None if valid_s is None else valid_s * 1_000_000
        )
        return [line(belief) for belief in standing.held]

    def statuses(self, now_s: int, *, lifetimes: dict[str, Lifetime] | None = None) -> list[int]:
        """Return where all claims stand."""
        standing = self.known().standing(now_us=now_s * 1_000_000, lifetimes=lifetimes or {})
        return [belief.status for belief in standing.beliefs]


def line(belief: Belief) -> str:
    """Return a belief as text."""
    said = belief.claim.fact
    return f"{said.attribute}: {'not ' if said.negated else ''}{said.value}"


# --- corrections, in five shapes; each holds as of before and after --------------------------------------------


def test_a_replacement_takes_the_place_of_a_claim() -> None:
    """Another value is held from the correction on, as if it had been the one all along; before, the old one was."""
    memory = Memory()
    old = memory.claim(100, "home city", "Lisbon", pinned=True)
    new = memory.correct(200, old, "CORRECTION_SUPERSEDE", replacement=fact("home city", "Porto"))
    assert memory.held(300) == ["home city: Porto"]
    assert memory.held(300, valid_s=150) == ["home city: Porto"]
    assert memory.held(150, known_at_us=150_000_000) == ["home city: Lisbon"]
    assert memory.held(300, position=1) == ["home city: Lisbon"]
    first, second = memory.known().standing(now_us=300_000_000).beliefs
    assert first.superseded_by == Ref(LOG, 2, 0) == beliefs.Ref(new.session_id, new.version, new.entry)
    assert first.ended_at_us == 200_000_000
    assert second.claim.pinned


def test_a_claim_can_be_turned_into_its_denial() -> None:
    """Polarity: what was said is denied; nothing older comes back for it."""
    memory = Memory()
    old = memory.claim(100, "likes", "olives", many=True)
    memory.claim(110, "likes", "figs", many=True)
    replacement = fact("likes", "olives", many=True, negated=True)
    memory.correct(200, old, "CORRECTION_SUPERSEDE", replacement=replacement)
    assert memory.held(300) == ["likes: figs", "likes: not olives"]
    assert memory.held(300, known_at_us=199_000_000) == ["likes: olives", "likes: figs"]


def test_a_claim_can_be_retracted_and_recorded_again() -> None:
    """Retraction ends a claim and leaves no tombstone."""
    memory = Memory()
    old = memory.claim(100, "employer", "Orchid")
    memory.correct(200, old, "CORRECTION_RETRACT")
    assert memory.statuses(250) == [RETRACTED]
    assert memory.held(250, known_at_us=150_000_000) == ["employer: Orchid"]
    memory.claim(300, "employer", "Orchid")
    assert memory.held(400) == ["employer: Orchid"]


def test_a_part_of_a_claim_can_be_corrected() -> None:
    """Partial: one value of many is narrowed, the others stay; the old one was held before."""
    memory = Memory()
    works = memory.claim(100, "works on", "weekdays", many=True)
    memory.claim(100, "works on", "Sunday", many=True)
    memory.correct(200, works, "CORRECTION_SUPERSEDE", replacement=fact("works on", "Monday to Thursday", many=True))
    assert memory.held(300) == ["works on: Sunday", "works on: Monday to Thursday"]
    assert memory.held(300, known_at_us=100_000_000) == ["works on: weekdays", "works on: Sunday"]


def test_a_claim_of_bounded_validity_gives_way_when_its_time_is_over() -> None:
    """A claim for a time supersedes the older one in that time, and nothing is written when it ends."""
    memory = Memory()
    memory.claim(100, "home city", "Lisbon")
    memory.claim(200, "home city", "Oslo", start_s=300, end_s=400)
    assert memory.held(250) == ["home city: Lisbon"]
    assert memory.held(300) == ["home city: Oslo"]
    assert memory.held(399) == ["home city: Oslo"]
    assert memory.held(400) == ["home city: Lisbon"]
    assert memory.held(400, valid_s=350) == ["home city: Oslo"]
    assert memory.held(400, valid_s=350, known_at_us=150_000_000) == ["home city: Lisbon"]


# --- contradiction --------------------------------------------------------------------------------------------


def test_denying_one_value_leaves_another_held() -> None:
    """Only what cannot be true together contradicts: not Lisbon and Porto can, not Lisbon and Lisbon cannot."""
    memory = Memory()
    memory.claim(100, "home city", "Lisbon")
    memory.claim(200, "home city", "Porto")
    memory.claim(300, "home city", "Lisbon", negated=True)
    assert memory.held(400) == ["home city: Porto", "home city: not Lisbon"]
    memory.claim(500, "home city", "LISBON ")
    assert memory.held(600) == ["home city: LISBON "]
    one, two, three, four = memory.known().claims
    assert four.contradicts(two)
    assert four.contradicts(three)
    assert not three.contradicts(two)
    assert not four.contradicts(one)
    assert four.overlaps(one)


def test_what_says_the_same_is_held_once() -> None:
    """Two copies that raced are one belief: the later."""
    memory = Memory()
    memory.claim(100, "likes", "figs", many=True)
    memory.claim(100, "Likes", " Figs", many=True)
    assert memory.statuses(200) == [SUPERSEDED, HELD]


def test_clocks_that_run_behind_lose_no_update() -> None:
    """A later position is later, whatever its process's clock said, and readers whose clock is behind see it."""
    memory = Memory()
    memory.claim(1000, "home city", "Lisbon")
    memory.claim(990, "home city", "Porto")
    assert memory.held(950) == ["home city: Porto"]


# --- review, rejection ----------------------------------------------------------------------------------------


def test_a_claim_that_waits_is_held_when_a_review_accepts_it() -> None:
    """It is not held before, keeps its trust, and is marked as reviewed."""
    memory = Memory()
    waits = memory.claim(100, "diet", "vegan", held_back=(ORIGIN,))
    assert memory.statuses(150) == [QUARANTINED]
    memory.review(200, waits, "DECISION_ACCEPT")
    (belief,) = memory.known().standing(now_us=300_000_000).held
    assert belief.claim.reviewed
    assert belief.message().held_back == [ORIGIN]
    assert memory.held(300, known_at_us=150_000_000) == []


def test_a_replacement_that_waits_corrects_nothing() -> None:
    """The corrected claim stays until a review accepts the replacement."""
    memory = Memory()
    old = memory.claim(100, "diet", "vegan")
    new = memory.correct(200, old, "CORRECTION_SUPERSEDE", replacement=fact("diet", "none"), held_back=(ORIGIN,))
    assert memory.statuses(250) == [HELD, QUARANTINED]
    memory.review(300, new, "DECISION_ACCEPT")
    assert memory.statuses(350) == [SUPERSEDED, HELD]
    assert memory.held(350, valid_s=150) == ["diet: none"]


def test_a_rejected_value_never_comes_back() -> None:
    """No claim of the same form is held, recorded before or after; also when the rejected text itself is gone."""
    memory = Memory()
    memory.claim(90, "Employer", "ORCHID")
    bad = memory.claim(100, "employer", "Orchid")
    store = BeliefStore(None, key=KEY)  # type: ignore[arg-type]
    stone = beliefs.tombstone(store.key, "anna", form_of(fact("employer", "Orchid")))
    memory.correct(200, bad, "CORRECTION_REJECT", tombstone=stone)
    memory.claim(300, "employer", "orchid  ")
    memory.claim(300, "employer", "Orchid", negated=True)
    assert memory.statuses(400) == [REJECTED, REJECTED, REJECTED, HELD]
    del memory.items[:2]  # their session was removed
    assert memory.statuses(400) == [REJECTED, HELD]
    assert memory.known().rejected(form_of(fact("employer", "orchid")))
    assert not memory.known().rejected(form_of(fact("employer", "Orchard")))


def test_a_review_can_reject() -> None:
    """A rejected claim that waited is as if a correction had rejected it."""
    memory = Memory()
    waits = memory.claim(100, "diet", "vegan", held_back=(ORIGIN,))
    memory.review(200, waits, "DECISION_REJECT")
    memory.claim(300, "diet", "Vegan")
    assert memory.statuses(400) == [REJECTED, REJECTED]


# --- lifetimes, pins, pruning -----------------------------------------------------------------------------------


def test_a_lifetime_counts_from_the_last_confirmation() -> None:
    """A fact expires unless it is confirmed or pinned; what it superseded does not come back."""
    lifetimes = {"mood": Lifetime(ttl_s=100)}
    memory = Memory()
    memory.claim(90, "mood", "calm")
    mood = memory.claim(100, "mood", "gloomy", kind="mood")
    assert memory.statuses(199, lifetimes=lifetimes) == [SUPERSEDED, HELD]
    assert memory.statuses(200, lifetimes=lifetimes) == [SUPERSEDED, EXPIRED]
    source = turn_pb2.EventRef(session_id="s", version=1, entry=0)
    memory.add(150, confirmation=fact_pb2.Confirmation(fact=mood, sources=[source, source]))
    assert memory.statuses(249, lifetimes=lifetimes) == [SUPERSEDED, HELD]
    assert memory.statuses(250, lifetimes=lifetimes) == [SUPERSEDED, EXPIRED]
    memory.add(160, pin=fact_pb2.Pin(fact=mood, pinned=True))
    assert memory.statuses(999, lifetimes=lifetimes) == [SUPERSEDED, HELD]
    memory.add(170, pin=fact_pb2.Pin(fact=mood, pinned=False))
    assert memory.statuses(999, lifetimes=lifetimes) == [SUPERSEDED, EXPIRED]


def test_the_least_useful_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than facts_held_max those leave that are not pinned, seldom confirmed, and old."""
    monkeypatch.setattr(limits, "facts_held_max", 2)
    memory = Memory()
    memory.claim(100, "a", "1", pinned=True)
    twice = memory.claim(110, "b", "1")
    memory.claim(120, "c", "1")
    memory.claim(130, "d", "1")
    memory.add(140, confirmation=fact_pb2.Confirmation(fact=twice))
    assert memory.statuses(200) == [HELD, HELD, PRUNED, PRUNED]


def test_a_standing_is_made_once_until_something_changes_by_time() -> None:
    """The same object serves until the next time at which a claim begins, ends or expires."""
    memory = Memory()
    memory.claim(100, "a", "1", start_s=200, end_s=300)
    known = memory.known()
    early = known.standing(now_us=150_000_000)
    assert known.standing(now_us=199_999_999) is early
    assert known.standing(now_us=200_000_000) is not early
    assert known.standing(now_us=250_000_000).until_us == 300_000_000
    assert known.standing(now_us=250_000_000).status(Ref(LOG, 1, 0)) == HELD
    assert known.standing(now_us=250_000_000).get(Ref(LOG, 9, 0)) is None


def test_the_profile_is_the_last_word_on_each_attribute() -> None:
    """Attributes are set one by one, and removed by an empty value."""
    memory = Memory()

    def put(at_s: int, **values: str) -> None:
        attributes = [fact_pb2.ProfileAttribute(name=name, value=value) for name, value in values.items()]
        memory.add(at_s, profile=fact_pb2.ProfileChange(attributes=attributes))

    put(100, zone="UTC", name="Anna")
    put(200, zone="", tone="dry")
    assert memory.known().profile == {"name": "Anna", "tone": "dry"}
    assert list(memory.known(position=1).profile) == ["name", "zone"]


def test_references_without_a_session_are_to_their_own_event() -> None:
    """A claim made in a turn cites the turn's entries, whose version was not known when it was written."""
    memory = Memory()
    memory.claim(100, "a", "1", sources=[turn_pb2.EventRef(entry=3)])
    (claim,) = memory.known().claims
    assert claim.sources == (turn_pb2.EventRef(session_id=LOG, version=1, entry=3),)


# --- any batching, any position -------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> Memory:
    """Draw a history of up to 24 changes over few attributes, values and times."""
    memory = Memory()
    at_s = 100
    for _ in range(draw(st.integers(0, 24))):
        at_s += draw(st.integers(-5, 20))
        places = [turn_pb2.EventRef(session_id=LOG, version=version, entry=0) for version in range(1, 9)]
        ref = draw(st.sampled_from(places))
        claim = fact(
            draw(st.sampled_from("ab")),
            draw(st.sampled_from("xyz")),
            negated=draw(st.booleans()),
            many=draw(st.booleans()),
            start_s=draw(st.sampled_from([0, 0, 120, 180])),
            end_s=draw(st.sampled_from([0, 0, 190, 260])),
            pinned=draw(st.booleans()),
            kind=draw(st.sampled_from(["", "mood"])),
        )
        held_back = draw(st.sampled_from([(), (), (ORIGIN,)]))
        match draw(st.integers(0, 7)):
            case 0 | 1 | 2:
                memory.add(at_s, fact=claim, held_back=held_back)
            case 3:
                memory.correct(at_s, ref, "CORRECTION_SUPERSEDE", replacement=claim, held_back=held_back)
            case 4:
                memory.correct(at_s, ref, draw(st.sampled_from(["CORRECTION_RETRACT", "CORRECTION_REJECT"])))
            case 5:
                memory.review(at_s, ref, draw(st.sampled_from(["DECISION_ACCEPT", "DECISION_REJECT"])))
            case 6:
                memory.add(at_s, pin=fact_pb2.Pin(fact=ref, pinned=draw(st.booleans())))
            case _:
                memory.add(at_s, confirmation=fact_pb2.Confirmation(fact=ref))
    return memory


LIFETIMES = {"mood": Lifetime(ttl_s=30)}


@given(memory=histories(), data=st.data())
def test_any_batching_gives_the_same_beliefs(memory: Memory, data: st.DataObject) -> None:
    """Pages of any size, and prefixes taken at any position, give what one fold of as much gives."""
    at_us = data.draw(st.integers(100, 500)) * 1_000_000
    paged = Beliefs(tenant="t", subject="anna", key=BeliefStore(None, key=KEY).key)  # type: ignore[arg-type]
    while True:
        read = paged.read(count_max=data.draw(st.integers(1, 5)))
        items = memory.items[read.after_position : read.after_position + read.count_max]
        state = ScopeState(position=len(memory.items), vector_position=0, items=items, vectors=[])
        if paged.apply(read, state):
            break
    assert paged.position == len(memory.items)
    until = data.draw(st.integers(0, len(memory.items)))
    for position in (until, len(memory.items)):
        short = Memory(memory.items[:position])
        one = short.known().standing(now_us=at_us, lifetimes=LIFETIMES)
        other = paged.at(position=position).standing(now_us=at_us, lifetimes=LIFETIMES)
        assert one.beliefs == other.beliefs
        assert short.known().profile == paged.at(position=position).profile


@given(memory=histories(), data=st.data())
def test_what_is_held_does_not_contradict_itself(memory: Memory, data: st.DataObject) -> None:
    """At any time, of what is held nothing waits, was rejected or has ended, and no two claims exclude each other."""
    valid_s = data.draw(st.none() | st.integers(90, 400))
    known = memory.known()
    standing = known.standing(
        now_us=data.draw(st.integers(90, 500)) * 1_000_000,
        valid_at_us=None if valid_s is None else valid_s * 1_000_000,
        lifetimes=LIFETIMES,
    )
    assert [belief.claim.ref for belief in standing.beliefs] == [claim.ref for claim in known.claims]
    held = [belief.claim for belief in standing.held]
    forms = [claim.form for claim in held]
    assert len(set(forms)) == len(forms)
    for claim in held:
        assert not claim.waits
        assert claim.end is None
        assert not known.rejected(claim.form)
        assert not any(claim.contradicts(other) for other in held)
    for belief in standing.beliefs:
        if belief.status == memory_pb2.BELIEF_STATUS_SUPERSEDED:
            assert belief.superseded_by is not None


@given(memory=histories(), data=st.data())
def test_a_remembered_standing_is_the_one_that_would_be_made(memory: Memory, data: st.DataObject) -> None:
    """At any two times the cached answer equals a fresh one."""
    known = memory.known()
    for at_s in data.draw(st.lists(st.integers(90, 500), max_size=6)):
        cached = known.standing(now_us=at_s * 1_000_000, lifetimes=LIFETIMES)
        assert cached.beliefs == memory.known().standing(now_us=at_s * 1_000_000, lifetimes=LIFETIMES).beliefs


# --- the cache ------------------------------------------------------------------------------------------------


async def write(record: SqliteRecord, subject: str, version: int) -> None:
    """Append a claim to a subject's memory."""
    change = fact_pb2.MemoryChange(fact=fact("likes", f"thing {version}", many=True), trust=fact_pb2.TRUST_USER)
    stored = log_pb2.StoredMemory(received_at_us=version)
    stored.changes.add(change=change)
    await record.append(
        turn(
            f"~m~{subject}",
            subject=subject,
            expected=version - 1,
            kind=EventKind.MEMORY,
            items=analysis.memory_items(stored),
        )
    )


async def test_beliefs_are_cached_up_to_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look sees what was acknowledged before it (P4); beyond belief_cache_bytes old subjects leave."""
    record = SqliteRecord(tmp_path / "record.db")
    await record.open()
    try:
        store = BeliefStore(record, key=KEY, bytes_max=1)
        monkeypatch.setattr(beliefs, "_PAGE_ITEMS", 2)
        for version in range(1, 6):
            await write(record, "ana", version)
        assert (await store.current("acme", "ana")).at().count == 5
        held = store.held("acme", "ana")
        await write(record, "ana", 6)
        assert await store.current("acme", "ana") is held
        assert held is not None
        assert held.at().count == 6
        assert held.nbytes > limits.belief_cache_bytes // 100_000
        await write(record, "bob", 1)
        assert (await store.load("acme", "bob")).at().count == 1
        assert store.held("acme", "ana") is None
        assert (await store.current("acme", "nobody")).at().count == 0
        store.forget("acme", "nobody")
        assert store.nbytes == 0
    finally:
        await record.close()
