"""Assembling bundles, over random conversations, policies and requests: what P5 and P6 promise, for both tokenizers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from sidecar import bundle, limits, policy, segment, summary, view
from sidecar.bundle import Remembered
from sidecar.errors import BudgetTooSmall, PolicyInvalid
from sidecar.policy import DOCUMENTS, FACTS, HISTORY, POLICY, PROFILE, RECALL, SUMMARY, Allocation, Policy
from sidecar.scope import Candidates
from sidecar.segment import Count
from sidecar.tokens import ENCODINGS, Tokenizers
from sidecar.view import View
from standpipe.v1 import bundle_pb2, fact_pb2, turn_pb2
from tests.unit import conversation as talk
from tests.unit.conftest import DIRECTORY
from tests.unit.conversation import Conversation, answer, call, canonical_text, say

OVER_BUDGET = bundle_pb2.OMISSION_REASON_OVER_BUDGET
DOES_NOT_FIT = bundle_pb2.OMISSION_REASON_DOES_NOT_FIT
DUPLICATE = bundle_pb2.OMISSION_REASON_DUPLICATE
BELOW_FLOOR = bundle_pb2.OMISSION_REASON_BELOW_FLOOR
EVICTED = bundle_pb2.OMISSION_REASON_EVICTED
QUARANTINED = bundle_pb2.OMISSION_REASON_QUARANTINED
AWAITING = bundle_pb2.OMISSION_REASON_AWAITING_RESULT

TOKENIZERS = Tokenizers(Path(DIRECTORY) / "tokenizers", tuple(ENCODINGS))

QUICK = [phase for phase in Phase if phase is not Phase.shrink]
"""Shrinking a whole conversation takes minutes; whoever needs it takes this out."""

many = settings(max_examples=100, suppress_health_check=list(HealthCheck), phases=QUICK)
few = settings(max_examples=30, suppress_health_check=list(HealthCheck))

pytestmark = pytest.mark.usefixtures("models_directory")


@cache
def counting(tokenizer: str) -> Count:
    """Return what counts."""
    return TOKENIZERS.get(tokenizer).count


@cache
def frames(tokenizer: str) -> bundle.Frames:
    """Return the frames of one tokenizer, kept over examples as a server keeps them over calls."""
    return bundle.Frames(counting(tokenizer))


@dataclass
class Served:
    """A bundle with all that it was made of."""

    rules: Policy
    allocation: Allocation
    session: View
    candidates: Candidates | None
    remembered: Remembered
    played: Conversation
    bundle: bundle_pb2.Bundle

    def section(self, source: bundle_pb2.Source) -> Sequence[bundle_pb2.Segment]:
        """Return the segments of a source; none if it has no section."""
        return [part for section in self.bundle.sections if section.source == source for part in section.segments]

    def omitted(self, source: bundle_pb2.Source) -> Mapping[bundle_pb2.OmissionReason, int]:
        """Return how many candidates of a source were left out, by reason."""
        return {one.reason: one.candidates for one in self.bundle.omission_counts if one.source == source}


def serve(
    played: Conversation,
    *,
    document: Mapping[str, Any] | None = None,
    request: Mapping[str, Any] | None = None,
    query: str = "zebra",
    tokenizer: str = "o200k_base",
    omissions_max: int = limits.omissions_listed_max,
    session: str | None = None,
) -> Served:
    """Hydrate without a server: parse, allocate, fold, rank, assemble."""
    count = counting(tokenizer)
    rules = policy.parse(yaml.safe_dump(document or {"name": "p"}), version=1, tokenizers=TOKENIZERS)
    allocation = talk.allocation(rules, frames(tokenizer), **(request or {}))
    folded = played.view(tokenizer, count)
    candidates = None
    if allocation.caps[RECALL]:
        candidates = played.candidates(
            query, tokenizer=tokenizer, count=count, floor=rules.recall_floor, session=session
        )
    remembered = played.remembered(query, rules, tokenizer=tokenizer, count=count)
    made = bundle.assemble(
        rules,
        allocation,
        folded,
        candidates,
        frames=frames(tokenizer),
        remembered=remembered,
        omissions_max=omissions_max,
    )
    return Served(rules, allocation, folded, candidates, remembered, played, made)


@st.composite
def hydrates(draw: st.DrawFn, *, omissions_max: int = 1 << 30) -> Served:
    """Draw a whole hydrate that its budget can hold."""
    written = draw(st.sampled_from([("o200k_base",), ("cl100k_base", "o200k_base")]))
    tokenizer = draw(st.sampled_from(list(ENCODINGS)))
    played = talk.play(draw(talk.SCRIPTS), {name: counting(name) for name in written}, draw(talk.CHANGES))
    try:
        return serve(
            played,
            document=draw(talk.POLICIES),
            request=draw(talk.REQUESTS),
            query=draw(talk.QUERIES),
            tokenizer=tokenizer,
            omissions_max=omissions_max,
            session=draw(st.sampled_from([None, "another"])),
        )
    except (BudgetTooSmall, PolicyInvalid):
        assume(False)
        raise


# --- the budget ------------------------------------------------------------------------------------------------


def check_that_no_bundle_is_over_budget_and_no_section_over_its_cap(served: Served) -> None:
    """P5: tokens <= the total in force; each section <= its cap, which is at most the policy's and the request's."""
    made = served.bundle
    assert made.tokens == sum(section.tokens for section in made.sections)
    assert made.tokens <= made.budget_tokens == served.allocation.total <= served.rules.budget_tokens
    for section in made.sections:
        assert section.tokens <= section.cap_tokens <= made.budget_tokens
        if section.source != POLICY:
            assert section.cap_tokens <= served.allocation.caps[section.source]
    assert all(cap >= 0 for cap in served.allocation.caps.values())


def check_that_stored_counts_are_the_tokenizers_own(served: Served) -> None:
    """P5: the sum of the stored counts is the tokenizer's count of the text, of every segment, section and bundle."""
    count = counting(served.session.tokenizer)
    for section in served.bundle.sections:
        assert section.tokens == sum(part.tokens for part in section.segments)
        assert section.tokens == count(canonical_text([section]))
        for part in section.segments:
            assert part.tokens == count(part.header + part.body)
            assert part.body.endswith("\n")
            assert not part.body[:-1].endswith("\n")
    assert served.bundle.tokens == count(canonical_text(served.bundle.sections))


def check_that_the_policy_is_always_there(served: Served) -> None:
    """P5: every prompt stands in the bundle, first, whole and in order, whatever the budget."""
    prompts = served.section(POLICY)
    assert [part.body for part in prompts] == [prompt.text.strip() + "\n" for prompt in served.rules.prompts]
    sources = [section.source for section in served.bundle.sections]
    assert sources == sorted(sources)
    assert len(set(sources)) == len(sources)


@given(total=st.integers(1, 400), prompt=st.integers(1, 300), reserve=st.integers(0, 200))
@few
def test_a_budget_too_small_for_the_policy_is_an_error(total: int, prompt: int, reserve: int) -> None:
    """P5: prompts and reserves fit, or BudgetTooSmall names a budget that would do."""
    document = {
        "name": "p",
        "prompts": [{"text": "word " * prompt}],
        "sources": {"history": {"cap": "100%", "reserve": reserve}, "recall": {"reserve": "25%"}},
    }
    played = Conversation({"o200k_base": counting("o200k_base")}).commit(say("hello"))
    try:
        served = serve(played, document=document, request={"total_tokens": total})
    except BudgetTooSmall as error:
        required = int(error.metadata["required_tokens"])
        assert required > total == int(error.metadata["budget_tokens"])  # noqa: PT017
        assert error.field == "budget.total_tokens"  # noqa: PT017
        served = serve(played, document=document, request={"total_tokens": required})
    assert served.section(POLICY)[0].body == ("word " * prompt).strip() + "\n"


def check_that_a_request_can_only_lower(served: Served) -> None:
    """P5: no request raises a cap over what the policy alone gives, nor brings in a source that it does not allow."""
    assert served.allocation.total <= served.rules.budget_tokens
    for source, cap in served.allocation.caps.items():
        rule = served.rules.sources.get(source)
        assert cap <= rule.cap.of(served.rules.budget_tokens) if rule else cap == 0


# --- history ---------------------------------------------------------------------------------------------------


def check_that_calls_stand_beside_their_results(served: Served) -> None:
    """P5: in any bundle each tool call is followed by its own result, and no result stands without its call."""
    parts = served.section(HISTORY)
    calls = [at for at, part in enumerate(parts) if part.kind == bundle_pb2.SEGMENT_KIND_TOOL_CALL]
    results = [at for at, part in enumerate(parts) if part.kind == bundle_pb2.SEGMENT_KIND_TOOL_RESULT]
    assert results == [at + 1 for at in calls]
    for at in calls:
        assert parts[at].tool_call_id == parts[at + 1].tool_call_id != ""


def check_that_history_is_the_end_of_the_log_without_a_gap(served: Served) -> None:
    """P5: history shows the newest units, contiguous in the log and in order; the evicted ones are all older."""
    units = served.session.units
    shown = [(part.citations[0].version, part.citations[0].entry, part.kind) for part in served.section(HISTORY)]
    all_pieces = [
        (piece.segment.citations[0].version, piece.segment.citations[0].entry, piece.segment.kind)
        for unit in units
        for piece in unit.pieces
    ]
    assert shown == all_pieces[len(all_pieces) - len(shown) :]
    if shown and len(shown) < len(all_pieces):
        assert len(shown) in [sum(len(unit.pieces) for unit in units[at:]) for at in range(len(units))]


def check_that_history_is_kept_as_far_as_the_cap_allows(served: Served) -> None:
    """P5: everything is shown that fits, and after a cut at least about half of the cap is still in use."""
    cap = served.allocation.caps[HISTORY]
    units, total = served.session.units, served.session.offsets
    shown = len(served.section(HISTORY))
    clamp = view.window(served.session, cap_tokens=cap).clamp
    at = view.CLAMPS.index(clamp)
    if cap and total[at] <= cap:
        assert shown == sum(len(unit.pieces) for unit in units)
    elif cap >= 512 and total[at] > cap:
        used = sum(part.tokens for part in served.section(HISTORY))
        assert used >= cap // 2 - 2 * clamp - 1 - (cap // 2) % 2 - sum(
            max(0, min(piece.tokens, clamp) - part.tokens)
            for unit in units[-shown:]
            if shown
            for piece in unit.pieces
            for part in served.section(HISTORY)
            if part.citations[0] == piece.segment.citations[0] and part.kind == piece.segment.kind
        )


def check_that_every_unit_is_shown_evicted_or_awaited(served: Served) -> None:
    """P5: shown units and counted omissions of history account for every unit of the log, when history has a cap."""
    omitted = served.omitted(HISTORY)
    units = len(served.session.units) + served.session.units_before
    parts = served.section(HISTORY)
    shown = sum(part.kind != bundle_pb2.SEGMENT_KIND_TOOL_RESULT for part in parts)
    if served.allocation.caps[HISTORY]:
        assert omitted.get(EVICTED, 0) + shown == units
        assert omitted.get(AWAITING, 0) == len(served.session.open_calls)
    else:
        assert not parts
        assert not omitted


def test_a_result_of_a_later_turn_is_counted_as_it_is_shown() -> None:
    """P5: a tool result whose call is of an earlier turn has the count of what is rendered."""
    for tokenizer in ENCODINGS:
        count = counting(tokenizer)
        played = Conversation({tokenizer: count}).commit(say("hello"), call("c")).commit(answer("c", "found"))
        served = serve(played, tokenizer=tokenizer)
        assert served.bundle.tokens == count(canonical_text(served.bundle.sections))
        assert [part.name for part in served.section(HISTORY)][1] == "search"


def test_a_name_that_fills_its_clamp_is_cut() -> None:
    """P5: a speaker whose name alone is larger than an entry's share still leaves history under its cap."""
    count = counting("o200k_base")
    name = "".join(chr(0x12000 + 7 * at) for at in range(32))
    assert count(name) > 64 >= len(name.encode()) // 2
    played = Conversation({"o200k_base": count})
    for number in range(12):
        played.commit(say(f"message {number} " + "word " * 30, speaker=name))
    for cap in (60, 200, 513):
        served = serve(played, request={"caps": {HISTORY: cap}})
        assert sum(part.tokens for part in served.section(HISTORY)) <= cap
        assert all(part.tokens <= 64 for part in served.section(HISTORY))
        assert all("[...]" in part.body and part.shortened for part in served.section(HISTORY))


def test_a_turn_that_weighs_more_than_a_view_is_still_shown() -> None:
    """P5: right after a turn of ten giants, history shows those that fit, not nothing."""
    played = Conversation({"o200k_base": counting("o200k_base")})
    played.commit(*(say(f"giant {number} " + "x y z " * 6000) for number in range(10)))
    parts = serve(played).section(HISTORY)
    assert len(parts) >= 4
    assert parts[-1].body.startswith("giant 9 ")


# --- recall ----------------------------------------------------------------------------------------------------


def check_that_recall_takes_what_ranks_highest(served: Served) -> None:
    """P5: walking down the ranking, a candidate is left out only if it does not fit in what those above it left."""
    if served.candidates is None:
        assert not served.section(RECALL)
        return
    tokenizer = served.session.tokenizer
    chosen = {
        (part.citations[0].SerializeToString(), part.header + part.body): part.tokens
        for part in served.section(RECALL)
        if part.citations
    }
    history = {
        (part.citations[0].version, part.citations[0].entry) for part in served.section(HISTORY) if not part.shortened
    }
    others = sum(section.tokens for section in served.bundle.sections if section.source != RECALL)
    fence = sum(frames(tokenizer).line(text).tokens for text in (bundle.OPENINGS[RECALL], bundle.CLOSING))
    cap = min(served.allocation.caps[RECALL], served.allocation.total - others)
    room = room_all = cap - fence
    groups: set[tuple[str, int]] = set()
    expected: Counter[bundle_pb2.OmissionReason] = Counter()
    taken = 0
    twins = served.candidates.twins
    taken_twins: set[int | None] = set()
    for place, group in enumerate(served.candidates.groups):
        candidate = served.candidates.at(place)
        ref = candidate.ref
        day = 0 if group in groups else frames(tokenizer).line(bundle._date(group[1])).tokens
        item = candidate.item
        text = segment.header(item.role, item.speaker) + segment.quoted_body(item.text)
        assert candidate.tokens == counting(tokenizer)(text)
        twin = twins.get(served.candidates.indices[place])
        elsewhere = ref.session_id == served.candidates.session and (ref.version, ref.entry) in history
        if elsewhere or twin in taken_twins:
            expected[DUPLICATE] += 1
        elif candidate.tokens + day <= room:
            taken_twins |= {twin} - {None}
            room -= candidate.tokens + day
            groups.add(group)
            assert (ref.SerializeToString(), text) in chosen
            taken += 1
        else:
            expected[DOES_NOT_FIT if candidate.tokens > room_all else OVER_BUDGET] += 1
    behind = served.candidates.relevant - len(served.candidates.groups)
    if behind:
        expected[OVER_BUDGET] += behind
    if served.candidates.below_floor:
        expected[BELOW_FLOOR] = served.candidates.below_floor
    assert served.candidates.chosen == taken
    assert taken == sum(1 for part in served.section(RECALL) if part.citations)
    assert served.omitted(RECALL) == expected


def check_that_every_recall_candidate_is_accounted_for(served: Served) -> None:
    """P7: shown plus left out, by reason, is the whole memory; and what is listed agrees with what is counted."""
    if served.candidates is None:
        return
    shown = sum(1 for part in served.section(RECALL) if part.citations)
    assert shown + sum(served.omitted(RECALL).values()) == served.candidates.total
    listed: dict[tuple[int, int], int] = {}
    for one in served.bundle.omissions:
        listed[one.source, one.reason] = listed.get((one.source, one.reason), 0) + 1
    for counted in served.bundle.omission_counts:
        if counted.reason not in (EVICTED, QUARANTINED):
            assert listed.get((counted.source, counted.reason), 0) == counted.candidates


def check_that_quoted_text_cannot_end_its_fence(served: Served) -> None:
    """P8: between the marks of a fence there is no second mark, in no spelling, in a text or in a speaker's name."""
    recalled = (RECALL, PROFILE, FACTS, DOCUMENTS)
    fences = ((SUMMARY, "earlier"), *((source, "recalled") for source in recalled))
    for source, word in fences:
        parts = served.section(source)
        if not parts:
            continue
        assert [part.kind for part in (parts[0], parts[-1])] == [bundle_pb2.SEGMENT_KIND_FRAME] * 2
        assert parts[0].body.startswith(f"<{word}>")
        assert parts[-1].body == f"</{word}>\n"
        inside = "".join(part.header + part.body for part in parts[1:-1])
        assert not re.search(r"<\s*/?\s*(recalled|earlier)\b", inside, re.IGNORECASE)


def check_that_recall_is_quoted_in_the_order_said(served: Served) -> None:
    """P6: recalled items stand under one line per session and day, by position; each cites its event (P10)."""
    parts = served.section(RECALL)[1:-1]
    assert all(bool(part.citations) != (part.kind == bundle_pb2.SEGMENT_KIND_FRAME) for part in parts)
    days = [part.body for part in parts if not part.citations]
    assert len(days) == len(set(days))
    places = [(part.citations[0].version, part.citations[0].entry) for part in parts if part.citations]
    assert places == sorted(places)


def test_what_is_below_the_score_floor_is_not_recalled() -> None:
    """P5: a budget with room is not filled up with items that the ranking left out; without a floor it may be."""
    played = Conversation({"o200k_base": counting("o200k_base")})
    for number in range(120):
        played.commit(say(f"entry about gardening number {number} and nothing more"))
    played.commit(say("the zebra escaped from the zoo"))
    for floor, least, most in ((True, 1, 12), (False, 100, 121)):
        served = serve(
            played, document={"name": "p", "sources": {"recall": {}}, "recall": {"floor": floor}}, session="other"
        )
        texts = [part.body for part in served.section(RECALL) if part.citations]
        assert any("zebra" in text for text in texts)
        assert least <= len(texts) <= most
        assert served.omitted(RECALL).get(BELOW_FLOOR, 0) == (121 - len(texts) if floor else 0)


def test_the_smallest_item_is_recalled_into_the_smallest_room() -> None:
    """P5: an item of three tokens is not passed over when three tokens are left."""
    count = counting("o200k_base")
    played = Conversation({"o200k_base": count}).commit(say("zebra one"), say("zebra"), say("?"))
    assert [item.tokens["o200k_base"] for item in played.items][2] == 3
    document = {"name": "p", "sources": {"recall": {"cap": "100%"}}, "recall": {"floor": False}}
    whole = serve(played, document=document, session="other", query="zebra").bundle.tokens
    served = serve(played, document=document, session="other", query="zebra", request={"total_tokens": whole})
    assert len([part for part in served.section(RECALL) if part.citations]) == 3


def test_counts_do_not_depend_on_how_many_are_listed() -> None:
    """P7: a replay that lists all omissions counts them as the served bundle did."""
    played = Conversation({"o200k_base": counting("o200k_base")})
    for number in range(80):
        played.commit(say(f"zebra number {number} in the zoo"))
    document = {
        "name": "p",
        "sources": {"history": {"cap": 300}, "recall": {"cap": 60}},
        "recall": {"floor": False},
    }
    short, full = (serve(played, document=document, omissions_max=most) for most in (32, 1 << 30))
    assert len(short.bundle.omissions) == 32
    assert short.bundle.fingerprint == full.bundle.fingerprint
    assert short.bundle.omission_counts == full.bundle.omission_counts


# --- what is remembered ----------------------------------------------------------------------------------------


def check_that_only_what_is_held_is_shown(served: Served) -> None:
    """P10: every claim in a bundle is held true then, and was said by the user or accepted by a reviewer; each line of
    the profile is set now.
    """
    known = served.played.known()
    standing = known.standing(now_us=talk.NOW_US, lifetimes=served.rules.lifetimes)
    held = {belief.claim.ref.message().SerializeToString(): belief.claim for belief in standing.held}
    for source in (PROFILE, FACTS):
        for part in served.section(source):
            if not part.citations or part.trust == fact_pb2.TRUST_OPERATOR:
                continue
            claim = held[part.citations[0].SerializeToString()]
            assert claim.trust >= fact_pb2.TRUST_USER or claim.reviewed
            assert not claim.waits
            assert part.trust == claim.trust
            assert list(part.citations[1:]) == list(claim.sources)
            assert claim.pinned or source == FACTS
    said = {f"{name}: {value}" for name, value in known.profile.items()}
    shown = [part for part in served.section(PROFILE) if part.trust == fact_pb2.TRUST_OPERATOR]
    assert {part.body.rstrip() for part in shown} <= {segment.quoted_body(line).rstrip() for line in said}


def check_that_all_claims_and_chunks_are_accounted_for(served: Served) -> None:
    """P7: claims, chunks and lines of the profile are shown, or counted as left out by reason."""
    omitted = {source: sum(served.omitted(source).values()) for source in (PROFILE, FACTS, DOCUMENTS)}
    shown = {source: sum(1 for part in served.section(source) if part.citations) for source in omitted}
    remembered = served.remembered
    if remembered.facts is not None:
        assert shown[FACTS] + omitted[FACTS] == len(remembered.facts.standing.beliefs)
    if remembered.documents is not None:
        assert shown[DOCUMENTS] + omitted[DOCUMENTS] == remembered.documents.total
    if remembered.profile is not None:
        assert shown[PROFILE] + omitted[PROFILE] == len(remembered.profile) + len(remembered.pinned)


def check_that_documents_are_of_their_latest_version(served: Served) -> None:
    """Chunks stand in order under one line per document, and none is of a version that was replaced."""
    places = [part.citations[0] for part in served.section(DOCUMENTS) if part.citations]
    latest = served.played.versions
    assert all(ref.version == latest[ref.session_id] for ref in places)
    lines = [part.body for part in served.section(DOCUMENTS)[1:-1] if not part.citations]
    assert len(lines) == len({ref.session_id for ref in places})


def check_that_every_segment_says_how_far_it_is_trusted(served: Served) -> None:
    """P10: what quotes somebody says how far it is trusted and cites its events; what Standpipe says does neither."""
    for section in served.bundle.sections:
        for part in section.segments:
            quoted = section.source != POLICY and part.kind != bundle_pb2.SEGMENT_KIND_FRAME
            assert bool(part.trust) == bool(part.citations) == quoted


@given(served=hydrates())
@many
def test_any_bundle_shows_what_is_held_true(served: Served) -> None:
    """P10, P7: over any memory, conversation, policy and request, what profile, facts and documents show."""
    for check in (
        check_that_only_what_is_held_is_shown,
        check_that_all_claims_and_chunks_are_accounted_for,
        check_that_documents_are_of_their_latest_version,
        check_that_every_segment_says_how_far_it_is_trusted,
        check_that_quoted_text_cannot_end_its_fence,
    ):
        check(served)


@given(script=talk.SCRIPTS, changes=talk.CHANGES, more=talk.CHANGES, document=talk.POLICIES, request=talk.REQUESTS)
@many
def test_memory_never_moves_the_window(
    script: Any, changes: Any, more: Any, document: dict[str, Any], request: dict[str, Any]
) -> None:
    """P13: summary and history are the same bytes with and without anything remembered, and the profile's epoch changes
    exactly when its bytes do.
    """
    counters = {"o200k_base": counting("o200k_base")}
    plays = [talk.play(script, counters, changed) for changed in ([], changes, changes, [*changes, *more])]
    try:
        made = [serve(played, document=document, request=request) for played in plays]
    except (BudgetTooSmall, PolicyInvalid):
        assume(False)
        raise
    shown = [
        [part.header + part.body for source in (SUMMARY, HISTORY) for part in served.section(source)] for served in made
    ]
    assert shown[0] == shown[1] == shown[3]
    profiles = [[one for one in served.bundle.sections if one.source == PROFILE] for served in made]
    epochs = [[one.epoch for one in found] for found in profiles]
    bytes_of = [canonical_text(found) for found in profiles]
    for one in range(4):
        for other in range(4):
            assert (epochs[one] == epochs[other]) == (bytes_of[one] == bytes_of[other])


def test_a_half_life_moves_what_is_old_behind_what_is_new() -> None:
    """A fact's score halves with each half-life of its kind since it was recorded; pinned and other kinds stay."""
    played = Conversation({"o200k_base": counting("o200k_base")}).commit(say("hello"))
    for number in range(3):
        fact = fact_pb2.Fact(attribute=f"zebra {number}", value="striped", kind="mood" if number < 2 else "trait")
        played.remember(fact_pb2.MemoryChange(fact=fact, trust=fact_pb2.TRUST_USER))
        played.commit(say("and then?"))
    facts = {}
    for half_life_s in (0, 3600 * 1000):
        kinds = {"mood": {"half_life_s": half_life_s}}
        served = serve(played, document={"name": "p", "facts": {"kinds": kinds}, "recall": {"floor": False}})
        facts[half_life_s] = {part.body: part.score_micros for part in served.section(FACTS) if part.citations}
    before, after = facts.values()
    first, second, third = sorted(before)
    assert len(set(before.values())) == 1
    assert after[third] == before[third]
    assert 0.49 < after[first] / before[first] < 0.51
    assert after[first] < after[second] < after[third]


def test_what_is_folded_cites_at_most_its_limit() -> None:
    """A segment that stands for many names limits.segment_citations_max places at most, and counts all of them."""
    played = Conversation({"o200k_base": counting("o200k_base")})
    for _ in range(limits.segment_citations_max + 20):
        played.commit(say("the zebra sleeps"))
    served = serve(played, session="other", document={"name": "p", "recall": {"floor": False}})
    (part,) = [part for part in served.section(RECALL) if part.citations]
    assert len(part.citations) == limits.segment_citations_max
    assert served.omitted(RECALL)[DUPLICATE] == limits.segment_citations_max + 19
    assert served.candidates
    assert served.candidates.folded == limits.segment_citations_max + 19


@pytest.mark.parametrize(
    ("one", "other", "folded"),
    [
        ("The zebra sleeps.", "the  ZEBRA sleeps", True),
        ("The zebra sleeps.", "The zebra does not sleep.", False),
        ("I can see the zebra", "I can't see the zebra", False),
        ("zebra beats lion", "lion beats zebra", False),
        ("zebra 5", "zebra -5", False),
        ("zebra", "zebras", False),
    ],
)
def test_only_the_same_words_in_the_same_order_are_folded(one: str, other: str, *, folded: bool) -> None:
    """What differs in more than case, white space and outer punctuation says something else."""
    played = Conversation({"o200k_base": counting("o200k_base")}).commit(say(one)).commit(say(other))
    served = serve(played, session="other", document={"name": "p", "recall": {"floor": False}})
    assert served.omitted(RECALL).get(DUPLICATE, 0) == int(folded)


# --- the same bytes --------------------------------------------------------------------------------------------


def check_that_the_same_inputs_give_the_same_bytes(served: Served) -> None:
    """P6: assembling again, with frames that remember nothing, gives the same bundle to the last byte."""
    again = bundle.assemble(
        served.rules,
        served.allocation,
        served.session,
        served.candidates,
        remembered=served.remembered,
        frames=bundle.Frames(counting(served.session.tokenizer)),
        omissions_max=1 << 30,
    )
    assert again.SerializeToString(deterministic=True) == served.bundle.SerializeToString(deterministic=True)


# --- the checks, each over conversations, policies and requests of its own ---------------------------------------


@given(served=hydrates())
@many
def test_any_bundle_keeps_its_budget(served: Served) -> None:
    """P5, P6: over any conversation, policy and request, what a bundle may hold, as counted, in the same bytes."""
    for check in (
        check_that_no_bundle_is_over_budget_and_no_section_over_its_cap,
        check_that_stored_counts_are_the_tokenizers_own,
        check_that_the_policy_is_always_there,
        check_that_a_request_can_only_lower,
        check_that_the_same_inputs_give_the_same_bytes,
    ):
        check(served)


@given(served=hydrates())
@many
def test_any_history_is_the_whole_end_of_the_log(served: Served) -> None:
    """P5: over any conversation, policy and request, what history shows."""
    for check in (
        check_that_calls_stand_beside_their_results,
        check_that_history_is_the_end_of_the_log_without_a_gap,
        check_that_history_is_kept_as_far_as_the_cap_allows,
        check_that_every_unit_is_shown_evicted_or_awaited,
    ):
        check(served)


@given(served=hydrates())
@many
def test_any_recall_takes_what_ranks_highest(served: Served) -> None:
    """P5, P7, P8: over any conversation, policy and request, what recall and the summary show."""
    for check in (
        check_that_recall_takes_what_ranks_highest,
        check_that_every_recall_candidate_is_accounted_for,
        check_that_quoted_text_cannot_end_its_fence,
        check_that_recall_is_quoted_in_the_order_said,
    ):
        check(served)


def test_equal_fingerprints_mean_equal_input() -> None:
    """P6: over budgets, tokenizers and policies, two bundles have one fingerprint exactly if a model sees the same."""
    played = Conversation({"o200k_base": counting("o200k_base")})
    for number in range(12):
        played.commit(say(f"I need {number} zebras by Friday. " + "word " * 15), call(f"c-{number}"))
        played.commit(answer(f"c-{number}", "found"))
    seen: dict[bytes, set[str]] = {}
    inputs: dict[str, set[bytes]] = {}
    for total in range(40, 1000, 40):
        for tokenizer in ENCODINGS:
            made = serve(played, request={"total_tokens": total}, tokenizer=tokenizer, session="other").bundle
            shown = repr(
                [
                    (section.source, part.kind, part.role, part.name, part.header, part.body, part.tool_call_id)
                    for section in made.sections
                    for part in section.segments
                ]
            )
            seen.setdefault(made.fingerprint, set()).add(shown)
            inputs.setdefault(shown, set()).add(made.fingerprint)
    assert len(seen) > 10
    assert {len(shown) for shown in seen.values()} == {len(prints) for prints in inputs.values()} == {1}


def test_each_part_of_a_segment_is_in_the_fingerprint() -> None:
    """P6: changing any one thing that a model or an adapter can see changes the digest; tokens do not."""
    whole = bundle_pb2.Segment(
        kind=bundle_pb2.SEGMENT_KIND_TEXT, role=turn_pb2.ROLE_USER, name="n", header="n: ", body="b\n", tokens=3
    )
    changes: list[dict[str, Any]] = [
        {"kind": bundle_pb2.SEGMENT_KIND_FRAME},
        {"role": turn_pb2.ROLE_ASSISTANT},
        {"name": "m"},
        {"header": "n:"},
        {"body": " b\n"},
        {"tool_call_id": "1"},
        {"is_error": True},
    ]
    digests = {segment.piece(whole).digest}
    for change in changes:
        other = bundle_pb2.Segment()
        other.CopyFrom(whole)
        for name, value in change.items():
            setattr(other, name, value)
        digests.add(segment.piece(other).digest)
    assert len(digests) == 1 + len(changes)
    more = bundle_pb2.Segment()
    more.CopyFrom(whole)
    more.tokens = 9
    assert segment.piece(more).digest in digests


@given(text=talk.TEXTS, speaker=talk.SPEAKERS, clamp=st.sampled_from(view.CLAMPS[:4]))
@example(text="x" * 4000, speaker="", clamp=64)
@example(text=" a" * 3000, speaker="𒀱" * 32, clamp=64)
@few
def test_a_shortened_entry_keeps_its_head_and_tail(text: str, speaker: str, clamp: int) -> None:
    """P5: it is at most the clamp, counted right, and what it keeps is the verbatim beginning and end."""
    count = counting("o200k_base")
    whole = segment.message_piece(
        turn_pb2.Message(role=turn_pb2.ROLE_USER, text=text, speaker=speaker), turn_pb2.EventRef(), count
    )
    if whole.tokens <= clamp:
        return
    short = segment.shortened(whole, tokens_max=clamp, count=count)
    assert short.tokens <= clamp
    assert short.tokens == count(short.segment.header + short.segment.body)
    assert short.segment.shortened
    head, tail = short.segment.body.rsplit("[...]", 1) if text.count("[...]") == 0 else ("", "")
    assert whole.segment.body.startswith(head.rstrip())
    assert whole.segment.body.endswith(tail.strip() + "\n" if tail.strip() else "\n")


def test_summaries_are_fenced_by_their_own_mark() -> None:
    """P10: the summary stands in its fence, each entry cites its event, and it comes before history."""
    played = Conversation({"o200k_base": counting("o200k_base")})
    for number in range(60):
        played.commit(say(f"I decided to plant {number} trees in my garden. " + "word " * 80))
    served = serve(played, document={"name": "p", "budget_tokens": 2000})
    parts = served.section(SUMMARY)
    assert parts[0].body == summary.OPENING + "\n"
    assert parts[-1].body == summary.CLOSING + "\n"
    assert len(parts) > 3
    assert all(len(part.citations) == 1 for part in parts[1:-1])
    assert [section.source for section in served.bundle.sections][:2] == [SUMMARY, HISTORY]
