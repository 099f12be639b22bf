"""Summaries: verbatim, cited, and the same in whatever steps a log is folded (P6, P9, P10)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import limits, segment, summary
from sidecar.log.v1 import log_pb2
from standpipe.v1 import turn_pb2
from tests.unit import conversation as talk

USER, ASSISTANT = turn_pb2.ROLE_USER, turn_pb2.ROLE_ASSISTANT
many = settings(deadline=None, max_examples=200)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("Sounds great! I moved to Oslo in May 2021. See you.", "I moved to Oslo in May 2021."),
        ("The weather is nice today. We decided to cancel the order.", "We decided to cancel the order."),
        ("Do you like the colour? My name is Ana and I prefer green.", "My name is Ana and I prefer green."),
        (
            "It costs 3.50 per unit because we buy 1,000 of them.",
            "It costs 3.50 per unit because we buy 1,000 of them.",
        ),
        ("see example.org/a.b for all of the details", "see example.org/a.b for all of the details"),
        ("first line without much in it\nI need the report by Friday", "I need the report by Friday"),
        ('He said "we must leave now!" (and I agreed).', 'He said "we must leave now!"'),
        ("Hello there.\n\n\n   I always take two sugars in my tea.   \n", "I always take two sugars in my tea."),
        ("Sounds great!", None),
        ("", None),
        ("   \n\n  ", None),
        ("." * 500, "." * 120),
        ("漢字かな" * 10 + "。", "漢字かな" * 10 + "。"),
    ],
)
def test_the_sentence_that_says_most_is_chosen(text: str, chosen: str | None) -> None:
    """Of a message one whole sentence stands for it: a figure, a name, a decision before small talk."""
    found = summary.choose(text, USER)
    if chosen is None:
        assert found is None
    else:
        assert found is not None
        assert text[found[0] : found[1]].startswith(chosen)
        assert len(text[found[0] : found[1]]) <= summary.EXTRACT_CHARS_MAX


@given(text=talk.TEXTS, role=talk.ROLES)
@many
def test_an_extract_is_verbatim_and_within_its_limits(text: str, role: int) -> None:
    """P10: what is chosen is a piece of the text itself, on its own, 24 to 240 characters, worth at least 1."""
    found = summary.choose(text, role)
    if found is None:
        return
    start, end, salience = found
    assert 0 <= start < end <= len(text)
    assert summary.EXTRACT_CHARS_MIN <= end - start <= summary.EXTRACT_CHARS_MAX
    assert salience >= 1
    assert text[start:end].strip()
    assert not text[start].isspace()
    assert summary.choose(text, role) == found


def test_a_long_sentence_is_cut_at_a_word() -> None:
    """A sentence over the limit ends at a blank, so that no word is cut in two."""
    text = "I need " + "seventeen " * 60
    found = summary.choose(text, USER)
    assert found is not None
    assert text[found[1]] == " "
    assert re.fullmatch(r"I need (seventeen ?)+", text[found[0] : found[1]])


def test_what_the_user_says_counts_double() -> None:
    """The same sentence is worth more from the user than from the model, and less as a question."""
    said = {role: summary.choose("We moved to Oslo in 2021.", role) for role in (USER, ASSISTANT)}
    asked = summary.choose("We moved to Oslo in 2021?", ASSISTANT)
    assert said[USER] and said[ASSISTANT] and asked  # noqa: PT018
    assert said[USER][2] == 2 * said[ASSISTANT][2] > 2 * asked[2]


def test_only_the_beginning_of_a_giant_is_read() -> None:
    """P12: what stands behind limits.entry_weight_bytes changes nothing, and no text is slow to choose from."""
    head = "nothing much is said in here, really. " * 1000
    text = head[: limits.entry_weight_bytes] + " I decided to buy 3 of them because I need them."
    found = summary.choose(text, USER)
    assert found is not None
    assert found[1] <= limits.entry_weight_bytes
    before = time.process_time()
    for hard in (".", "!", " ", "\n", "a.", ". ", "a ", '")', "I ", "9", "a, B", "漢"):
        summary.choose(hard * (limits.message_bytes // len(hard)), USER)
    assert time.process_time() - before < 5


# --- ranks -----------------------------------------------------------------------------------------------------


@given(
    one=st.tuples(st.integers(1, 60), st.integers(0, 1 << 40)),
    other=st.tuples(st.integers(1, 60), st.integers(0, 1 << 40)),
    later=st.integers(0, 1 << 20),
)
@many
def test_the_order_of_two_sentences_never_changes(one: tuple[int, int], other: tuple[int, int], later: int) -> None:
    """P6: shifting both by whole half-lives keeps their order, so a rank need never be computed again."""
    shift = later * summary.HALF_LIFE_TOKENS
    now = [summary.rank(*one), summary.rank(*other)]
    then = [summary.rank(one[0], one[1] + shift), summary.rank(other[0], other[1] + shift)]
    assert then[0] - then[1] == now[0] - now[1]


def test_a_half_life_later_half_the_salience_is_enough() -> None:
    """Recency and salience trade as said: a sentence one half-life later ranks as one of twice the salience."""
    assert summary.rank(8, 5000) == summary.rank(4, 5000 + summary.HALF_LIFE_TOKENS)
    assert summary.rank(8, 5000) > summary.rank(7, 5000)
    assert summary.rank(8, 50_000) > summary.rank(8, 5000)


EXTRACTS = st.lists(
    st.builds(
        lambda version, entry, text, rank, tokens: log_pb2.Extract(
            version=version, entry=entry, body=text, rank=rank, tokens=tokens
        ),
        st.integers(1, 30),
        st.integers(0, 3),
        st.sampled_from([f"Text {letter}\n" for letter in "abcdefghijkl"] + ["text A\n", "TEXT b\n"]),
        st.integers(-5, 40),
        st.integers(1, 60),
    ),
    max_size=16,
    unique_by=lambda entry: (entry.version, entry.entry),
)


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools that a short list outgrows."""
    monkeypatch.setattr(limits, "summary_pool_max", 5)


def _plain(pool: Sequence[log_pb2.Extract]) -> list[tuple[object, ...]]:
    return [(entry.version, entry.entry, entry.body, entry.rank) for entry in pool]


@given(entries=EXTRACTS, cuts=st.tuples(st.integers(0, 16), st.integers(0, 16)))
@settings(deadline=None, max_examples=300)
@pytest.mark.usefixtures("small_pool")
def test_merging_is_associative(entries: list[log_pb2.Extract], cuts: tuple[int, int]) -> None:
    """P9: in whatever steps entries come into a pool, the pool is the same, sorted, bounded, each text once."""
    low, high = sorted(cuts)
    first, second, third = entries[:low], entries[low:high], entries[high:]
    whole = summary.merge([], entries)
    assert _plain(summary.merge(summary.merge(summary.merge([], first), second), third)) == _plain(whole)
    assert _plain(summary.merge(first, summary.merge(second, third))) == _plain(whole)
    assert _plain(summary.merge([], reversed(entries))) == _plain(whole)
    assert len(whole) <= limits.summary_pool_max
    assert len({entry.body.casefold() for entry in whole}) == len(whole)
    assert [entry.rank for entry in whole] == sorted((entry.rank for entry in whole), reverse=True)


# --- fitting ---------------------------------------------------------------------------------------------------


@given(entries=EXTRACTS, room=st.integers(-20, 400))
@many
def test_a_summary_is_the_best_that_fits(entries: list[log_pb2.Extract], room: int) -> None:
    """P5: never over its room; what ranks higher is left out only if it does not fit in what is left above it."""
    pool = summary.merge([], entries)
    shown, left_out = summary.fit(pool, tokens_max=room)
    assert sum(entry.tokens for entry in shown) <= max(0, room)
    assert len(shown) + len(left_out) == len(pool)
    said = [(entry.version, entry.entry) for entry in shown]
    assert said == sorted(said)
    left = room
    for entry in pool:
        if entry in shown:
            left -= entry.tokens
        else:
            assert entry.tokens > left


@given(entries=EXTRACTS, room=st.integers(0, 400), less=st.integers(0, 400))
@many
def test_a_smaller_room_gives_a_coarser_summary(entries: list[log_pb2.Extract], room: int, less: int) -> None:
    """P5: with entries of one size, a smaller room shows a subset: the best of what a larger one shows."""
    for entry in entries:
        entry.tokens = 20
    pool = summary.merge([], entries)
    fine, _ = summary.fit(pool, tokens_max=room)
    coarse, _ = summary.fit(pool, tokens_max=max(0, room - less))
    assert {(entry.version, entry.entry) for entry in coarse} <= {(entry.version, entry.entry) for entry in fine}


@pytest.mark.parametrize(
    "mark", ["</earlier>", "<earlier>", "< earlier >", "</ EARLIER>", "<\t/recalled>", "</recalled x", "<<recalled>"]
)
def test_marks_in_a_text_are_defused(mark: str) -> None:
    """P8: what looks like a fence's mark, in any spelling, loses its bracket's meaning, in text and in names."""
    for text in (
        segment.quoted_body(f"I said {mark} and left"),
        segment.header(USER, f"{mark}x"),
        segment.header(USER, mark),
    ):
        assert not re.search(r"<\s*/?\s*(earlier|recalled)\b", text, re.IGNORECASE)
    assert segment.quoted_body("a < b, <earl>, recalled") == "a < b, <earl>, recalled\n"
