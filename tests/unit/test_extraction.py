"""What is taken of a model's answer: what can be shown, and nothing else (P10)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import limits, normal
from sidecar.extraction import Place, Proposed, _texts, propose
from sidecar.log.v1 import log_pb2
from sidecar.stores.record import EventKind, StoredEvent
from standpipe import assistant, tool_call, tool_result, user
from standpipe.v1 import fact_pb2, turn_pb2

BEFORE, SAID, TOOL = Place("chat", 2, 0), Place("chat", 3, 0), Place("chat", 3, 2)
SHOWN = {
    BEFORE: "Shall we talk about the harbour?",
    SAID: "I moved to Lisbon in 2019. I don't eat fish; my sister Marta does. Call me on <PHONE>.",
    TOOL: "Weather in Lisbon: 21 degrees.",
}
EXTRACTOR = fact_pb2.Extractor(name="llm", version="m@1")


def cited(place: Place, quote: Any) -> dict[str, Any]:
    """Return a citation."""
    return {**place._asdict(), "quote": quote}


def proposal(value: Any = "Lisbon", *citations: Any, attribute: Any = "home city", **more: Any) -> dict[str, Any]:
    """Return a proposal of a fact, by default a good one."""
    found = list(citations) or [cited(SAID, "I moved to Lisbon in 2019.")]
    return {"attribute": attribute, "value": value, "citations": found, **more}


def taken(*facts: Any, summary: Any = (), answer: str | None = None) -> Proposed:
    """Read an answer."""
    text = answer if answer is not None else json.dumps({"facts": list(facts), "summary": list(summary)})
    return propose(text, SHOWN, extractor=EXTRACTOR, from_version=3)


def one(found: Proposed) -> tuple[fact_pb2.Fact, bool]:
    """Return the only claim, which nothing was refused beside."""
    assert not found.refused
    ((claim,),) = found.claims.values()
    return claim


def test_a_claim_carries_where_it_was_said() -> None:
    """P10: a fact names its entries once each, its extractor and version, and belongs to the latest turn it cites."""
    citations = [cited(SAID, "moved to LISBON"), cited(TOOL, "lisbon"), cited(SAID, "in 2019")]
    found = taken(proposal("Lisbon", *citations, many=True, valid_from="2019-05-01"))
    fact, borne_out = one(found)
    assert list(found.claims) == [3]
    assert [(ref.session_id, ref.version, ref.entry) for ref in fact.sources] == [SAID, TOOL]
    assert (fact.attribute, fact.value, fact.many, fact.negated, fact.kind) == ("home city", "Lisbon", True, False, "")
    assert fact.valid_from.ToJsonString() == "2019-05-01T00:00:00Z"
    assert fact.extractor == EXTRACTOR
    assert borne_out


def test_a_summary_entry_is_a_fact_of_its_kind() -> None:
    """A summary entry is recorded as one of many facts of kind "summary", with its citations."""
    fact, borne_out = one(taken(summary=[{"text": "Moved to\n Lisbon.", "citations": [cited(SAID, SHOWN[SAID])]}]))
    assert (fact.kind, fact.attribute, fact.value, fact.many) == ("summary", "summary", "Moved to Lisbon.", True)
    assert borne_out


def test_an_answer_in_a_fence_of_markdown_is_one() -> None:
    """Models that wrap their JSON in a code block are understood."""
    text = "```json\n" + json.dumps({"facts": [proposal()]}) + "\n```\n"
    assert one(taken(answer=text))[1]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        (proposal(citations=[]), "uncited"),
        (proposal(citations=None), "uncited"),
        (proposal(citations={"session": "chat"}), "uncited"),
        (proposal(citations=["chat 3 0"]), "uncited"),
        (proposal(citations=[{"session": "chat", "version": 3, "entry": 0}]), "unquoted"),
        (proposal("Lisbon", cited(SAID, "I moved to Porto")), "unquoted"),
        (proposal("Lisbon", cited(SAID, "")), "unquoted"),
        (proposal("Lisbon", cited(SAID, " .!? ")), "unquoted"),
        (proposal("Lisbon", cited(SAID, ["Lisbon"])), "unquoted"),
        (proposal("Lisbon", cited(TOOL, "I moved to Lisbon")), "unquoted"),
        (proposal("Lisbon", cited(Place("other", 3, 0), "Lisbon")), "unshown"),
        (proposal("Lisbon", cited(Place("~m~bob", 3, 0), "Lisbon")), "unshown"),
        (proposal("Lisbon", cited(Place("chat", 3, 1), "Lisbon")), "unshown"),
        (proposal("Lisbon", cited(Place("chat", 4, 0), "Lisbon")), "unshown"),
        (proposal("Lisbon", cited(Place("chat", -3, 0), "Lisbon")), "unshown"),
        (proposal("Lisbon", cited(Place("chat", 10**30, 0), "Lisbon")), "unshown"),
        (proposal("Lisbon", {"session": "chat", "version": "3", "entry": 0, "quote": "Lisbon"}), "uncited"),
        (proposal("Lisbon", {"session": "chat", "version": 3, "entry": False, "quote": "Lisbon"}), "uncited"),
        (proposal("Lisbon", cited(SAID, "Lisbon"), cited(SAID, "Porto")), "unquoted"),
        (proposal("harbour", cited(BEFORE, "the harbour")), "context"),
        (proposal("<PHONE>", cited(SAID, "Call me on <PHONE>")), "masked"),
        (proposal(None), "form"),
        (proposal(["Lisbon"]), "form"),
        (proposal(True), "form"),
        (proposal(""), "form"),
        (proposal(" \n"), "form"),
        (proposal("x" * (limits.fact_value_bytes + 1)), "form"),
        (proposal("\ud800"), "form"),
        (proposal("Lis\u0000bon"), "form"),
        (proposal(attribute=""), "form"),
        (proposal(attribute="!!!"), "form"),
        (proposal(attribute=7), "form"),
        (proposal(attribute="x" * (limits.fact_attribute_bytes + 1)), "form"),
        (proposal(valid_from="soon"), "form"),
        (proposal(valid_from=2019), "form"),
        (proposal(valid_from="2020-01-01", valid_to="2019-01-01"), "form"),
        ("Lisbon", "form"),
        (None, "form"),
    ],
)
def test_what_cannot_be_shown_is_refused(row: Any, cause: str) -> None:
    """P10: a proposal that cites nothing, what was not shown, or words that are not there, is refused and counted."""
    found = taken(row)
    assert not found.claims
    assert found.refused == {cause: 1}


def test_one_refused_proposal_costs_no_other() -> None:
    """A bad proposal between good ones is left out alone."""
    found = taken(proposal(), proposal(citations=[]), proposal("Marta", cited(SAID, "my sister Marta does")))
    assert [fact.value for fact, _ in found.claims[3]] == ["Lisbon", "Marta"]
    assert found.refused == {"uncited": 1}


@pytest.mark.parametrize(
    ("value", "quote", "negated", "borne_out"),
    [
        ("Lisbon", "I moved to Lisbon in 2019", False, True),
        ("moving to Lisbon", "I moved to Lisbon in 2019", False, True),
        (2019, "I moved to Lisbon in 2019", False, True),
        ("Lisbon, Portugal", "I moved to Lisbon in 2019", False, False),
        ("2020", "I moved to Lisbon in 2019", False, False),
        ("Lisbon", "I moved", False, False),
        ("Lisbon", "I moved to Lisbon in 2019", True, False),
        ("fish", "I don't eat fish", True, True),
        ("fish", "I don't eat fish", False, False),
        ("fish", "eat fish", False, False),
        ("fish", "fish", False, False),
        ("Marta", "my sister Marta does", False, True),
    ],
)
def test_a_claim_says_no_more_than_its_quotes(value: Any, quote: str, *, negated: bool, borne_out: bool) -> None:
    """P10: a word or number that is not quoted, and a denial turned round, make a claim wait for review."""
    assert one(taken(proposal(value, cited(SAID, quote), negated=negated)))[1] == borne_out


@pytest.mark.parametrize("answer", ["", "no", "[]", "null", '"facts"', "[" * 100_000, "{", '{"facts": []} {}', "1e999"])
def test_what_is_no_answer_is_told(answer: str) -> None:
    """An answer that is no JSON object is told from one that proposes nothing."""
    found = taken(answer=answer)
    assert not found.claims
    assert found.refused == {"answer": 1}


@pytest.mark.parametrize("document", [{}, {"facts": None}, {"facts": 7, "summary": "x"}, {"other": [1]}])
def test_an_object_of_another_shape_proposes_nothing(document: Any) -> None:
    """Missing lists are empty, and what is no list is refused once."""
    found = taken(answer=json.dumps(document))
    assert not found.claims
    assert set(found.refused) <= {"form"}


def test_a_turn_gives_so_many_claims() -> None:
    """Proposals beyond facts_per_request_max for one turn are refused."""
    found = taken(*[proposal(attribute=f"trait {number}") for number in range(limits.facts_per_request_max + 3)])
    assert len(found.claims[3]) == limits.facts_per_request_max
    assert found.refused == {"too_many": 3}


def stored(*entries: turn_pb2.TurnEntry, pii: Sequence[tuple[int, int, str]] = ()) -> StoredEvent:
    """Return a turn as the log has it, with finds in its first entry."""
    body = log_pb2.StoredTurn(turn=turn_pb2.Turn(entries=entries), analyses=[log_pb2.EntryAnalysis() for _ in entries])
    for start, end, kind in pii:
        body.analyses[0].pii.add(start=start, end=end, kind=kind)
    return StoredEvent(
        session="chat",
        version=3,
        kind=EventKind.TURN,
        request_id="r",
        committed_at_us=0,
        body=body.SerializeToString(),
        previous_hash=b"",
        event_hash=b"",
        weight_end_bytes=0,
        position_end=1,
    )


def test_personal_data_is_masked_before_it_leaves() -> None:
    """P8: where the policy masks, the endpoint is shown the kinds of what was found, and never the values."""
    event = stored(user("Write to ana@example.org, today."), assistant("I will."), pii=[(9, 24, "EMAIL")])
    assert [text for _, text, _ in _texts(event, masked=True)] == ["Write to <EMAIL>, today.", "I will."]
    assert next(_texts(event, masked=False))[1] == "Write to ana@example.org, today."


def test_what_is_shown_says_who_spoke_and_when() -> None:
    """Each text is shown with its place, role, speaker and time; calls, and what ends a session, are not."""
    at = datetime.datetime(2026, 3, 1, 9, tzinfo=datetime.UTC)
    event = stored(user("Hello.", speaker="Ana", at=at), tool_call("c", "look"), tool_result("c", "seen"))
    assert list(_texts(event, masked=False)) == [
        (Place("chat", 3, 0), "Hello.", {"role": "user", "speaker": "Ana", "said_at": "2026-03-01T09:00:00Z"}),
        (Place("chat", 3, 2), "seen", {"role": "tool"}),
    ]
    assert not list(_texts(replace(event, kind=EventKind.END), masked=False))


def test_limits_of_an_order_agree() -> None:
    """A lease outlasts all calls of a step, which outlast connecting; a page of items holds the turns of a question."""
    assert limits.extract_connect_s < limits.extract_call_s
    assert limits.extract_lease_s >= 2 * limits.extract_answers_max * limits.extract_call_s
    assert limits.extract_items_max >= limits.extract_turns_max


PLACES = st.sampled_from([*SHOWN, Place("other", 3, 0), Place("chat", 99, 0)])
WORDS = st.sampled_from(["Lisbon", "moved to", "fish", "not", "2019", "", "<PHONE>", "\ud800", "Porto", "harbour"])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4)
CITATION = st.builds(cited, PLACES, WORDS | JSON) | JSON
ROW = (
    st.fixed_dictionaries(
        {"attribute": WORDS | JSON, "value": WORDS | JSON, "text": WORDS | JSON},
        optional={
            "citations": st.lists(CITATION, max_size=4) | JSON,
            "negated": JSON,
            "valid_from": st.sampled_from(["2019-01-01", "0001-01-01", "9999-12-31T23:59:59-14:00"]) | JSON,
        },
    )
    | JSON
)


@given(st.fixed_dictionaries({}, optional={"facts": st.lists(ROW, max_size=5) | JSON, "summary": st.lists(ROW)}) | JSON)
def test_no_answer_breaks_what_is_taken(document: Any) -> None:
    """P10: whatever comes back, each claim taken cites shown entries alone, one of them new, with words of theirs."""
    found = taken(answer=json.dumps(document))
    for version, claims in found.claims.items():
        assert version >= 3
        for fact, borne_out in claims:
            places = [Place(ref.session_id, ref.version, ref.entry) for ref in fact.sources]
            assert places
            assert set(places) <= set(SHOWN)
            assert version in {place.version for place in places}
            if borne_out:
                words = normal.form(" ".join(SHOWN[place] for place in places))
                assert all(word in words for word in normal.form(fact.value).split())
