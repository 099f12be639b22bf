"""Views: the same however they are folded, and a history that stands still between cuts (P6, P9, P13)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sidecar import bundle, limits, policy, segment, view
from sidecar.segment import Count
from sidecar.stores.record import StoredEvent
from sidecar.tokens import ENCODINGS, Tokenizers
from sidecar.view import View
from standpipe.v1 import bundle_pb2
from tests.unit import conversation as talk
from tests.unit.conversation import Conversation, Entry, answer, call, say

many = settings(
    max_examples=60,
    suppress_health_check=list(HealthCheck),
    phases=[phase for phase in Phase if phase is not Phase.shrink],
)

SMALL_VIEW_BYTES = 2000


@pytest.fixture
def count(tokenizers: Tokenizers) -> Count:
    """Return the leading tokenizer's count."""
    return tokenizers.get("o200k_base").count


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make views so small that a short log outgrows them."""
    monkeypatch.setattr(limits, "view_bytes", SMALL_VIEW_BYTES)
    monkeypatch.setattr(limits, "entry_weight_bytes", SMALL_VIEW_BYTES // 8)
    monkeypatch.setattr(limits, "summary_pool_max", 6)
    monkeypatch.setattr(limits, "open_calls_max", 3)


SENTENCES = st.sampled_from(
    [
        "I decided to move to Oslo in 2021 because of my sister.",
        "ok, whatever you think is best then",
        "We always need 3 tickets, remember that!",
        "the weather was rather nice all day long",
        "漢字 " * 9,
    ]
)
STEPS = st.one_of(
    st.tuples(st.just("say"), st.builds(lambda text, times: text * times, SENTENCES, st.integers(1, 9)), talk.ROLES,
              st.sampled_from(["", "Ana"])),
    st.tuples(st.just("call"), st.just("search"), st.just("{}")),
    st.tuples(st.just("answer"), st.integers(0, 9), SENTENCES, st.just(False)),
    st.tuples(st.just("app"), st.sampled_from(["0", '"in Oslo"'])),
)  # fmt: skip
LOGS = st.lists(st.lists(STEPS, min_size=1, max_size=5), min_size=5, max_size=25)


def empty(tokenizer: str = "o200k_base") -> View:
    """Return a view of nothing."""
    return view.empty(session="s", subject="ana", tokenizer=tokenizer)


def in_batches(events: Sequence[StoredEvent], cuts: Sequence[int], count: Count, start: View | None = None) -> View:
    """Fold events in the batches that lie between the cuts."""
    found = start or empty()
    edges = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    for low, high in pairwise(edges):
        found = view.fold(found, events[low:high], count=count)
    return found


def shown(found: View, cap: int, rules: policy.Policy, frames: bundle.Frames) -> bytes:
    """Return the bytes of the bundle that a view gives under a cap of history."""
    caps = {policy.SUMMARY: 200, policy.HISTORY: cap, policy.RECALL: 0}
    made = bundle.assemble(rules, policy.Allocation(total=1 << 20, caps=caps), found, None, frames=frames)
    return made.SerializeToString(deterministic=True)


@pytest.fixture
def rules(tokenizers: Tokenizers) -> policy.Policy:
    """Parse a policy whose caps do not matter here."""
    return policy.parse("name: p", version=1, tokenizers=tokenizers)


# --- folding ---------------------------------------------------------------------------------------------------


@given(script=LOGS, cuts=st.lists(st.integers(0, 99), max_size=5), at=st.integers(0, 99), cap=st.integers(0, 900))
@many
def test_however_it_is_folded_a_view_is_the_same(
    small: None, count: Count, rules: policy.Policy, script: Any, cuts: list[int], at: int, cap: int
) -> None:
    """P6, P9: turn by turn, in any batches, or from a checkpoint and the rest: equal views, windows and bundles."""
    played = talk.play(script, {"o200k_base": count})
    if not played.events:
        return
    events = played.events
    whole = in_batches(events, [], count)
    by_turn = in_batches(events, range(len(events)), count)
    assert by_turn == whole == in_batches(events, cuts, count)

    # A cold load takes a checkpoint that lies at least a view before the end.
    far = [event.version for event in events if event.weight_end_bytes <= whole.weight_bytes - limits.view_bytes]
    version = at % (len(far) + 1)
    base = in_batches(events[:version], cuts, count)
    checkpoint = view.to_checkpoint(base)
    assert checkpoint == view.to_checkpoint(in_batches(events[:version], [at], count))
    cold = in_batches(events[version:], cuts, count, start=view.from_checkpoint(checkpoint, subject="ana"))
    assert cold == whole
    frames = bundle.Frames(count)
    assert shown(cold, cap, rules, frames) == shown(by_turn, cap, rules, frames)
    assert view.window(cold, cap_tokens=cap) == view.window(by_turn, cap_tokens=cap)


@given(script=LOGS, at=st.integers(0, 99))
@many
def test_a_view_of_a_past_version_is_the_one_of_then(small: None, count: Count, script: Any, at: int) -> None:
    """P7: folding the log up to a version gives the view that was served at that version, whatever came after."""
    played = talk.play(script, {"o200k_base": count})
    if not played.events:
        return
    served = {0: empty()}
    for event in played.events:
        served[event.version] = view.fold(served[event.version - 1], [event], count=count)
    version = at % (len(played.events) + 1)
    assert in_batches(played.events[:version], [], count) == served[version]


@given(script=LOGS)
@many
def test_a_view_holds_the_end_of_the_log(small: None, count: Count, script: Any) -> None:
    """A view keeps the units of the last limits.view_bytes, never more, and counts the others."""
    played = talk.play(script, {"o200k_base": count})
    found = in_batches(played.events, [], count)
    assert all(unit.weight_start >= found.weight_bytes - limits.view_bytes for unit in found.units)
    assert [unit.weight_start for unit in found.units] == sorted(unit.weight_start for unit in found.units)
    assert len(found.pool) <= limits.summary_pool_max
    assert len(found.open_calls) <= limits.open_calls_max
    if found.units:
        assert found.offsets[-1] >= found.units[-1].offsets[-1]


@given(script=LOGS, kept=st.lists(st.tuples(st.integers(0, 99), st.booleans()), max_size=30), cap=st.integers(0, 900))
@many
def test_what_the_application_keeps_shows_nowhere(
    count: Count, rules: policy.Policy, script: Any, kept: list[tuple[int, bool]], cap: int
) -> None:
    """P6: the same log with `app_json` in entries and in entries of their own behind them gives the same bundles."""
    bare, full = Conversation({"o200k_base": count}), Conversation({"o200k_base": count})
    at = 0
    for turn in talk.turns(script):
        bare.commit(*turn)
        here = [alone for where, alone in kept if at <= where < at + len(turn)]
        more = [Entry(app_json='{"zebra": "in Oslo"}') for alone in here if alone]
        with_own = [Entry(app_json="[2021]") if not all(here) else Entry() for _ in turn]
        for entry, own in zip(turn, with_own, strict=True):
            own.MergeFrom(entry)
        full.commit(*with_own, *more)
        at += len(turn)
    one, other = in_batches(bare.events, [], count), in_batches(full.events, [], count)
    frames = bundle.Frames(count)
    assert shown(one, cap, rules, frames) == shown(other, cap, rules, frames)
    assert [unit.pieces for unit in one.units] == [unit.pieces for unit in other.units]
    assert (one.pool, one.offsets, one.open_calls) == (other.pool, other.offsets, other.open_calls)
    assert [item.text for item in bare.items] == [item.text for item in full.items]


def test_a_gap_is_refused(count: Count) -> None:
    """P4: events that do not follow the view's version raise; nothing is skipped or folded twice."""
    played = Conversation({"o200k_base": count}).commit(say("one")).commit(say("two"))
    with pytest.raises(ValueError, match="version 2 does not follow 0"):
        view.fold(empty(), played.events[1:], count=count)
    once = view.fold(empty(), played.events, count=count)
    with pytest.raises(ValueError, match="version 1 does not follow 2"):
        view.fold(once, played.events[:1], count=count)


def test_an_ended_session_says_so(count: Count) -> None:
    """The end is an event like others: it has a version, and shows nothing."""
    played = Conversation({"o200k_base": count}).commit(say("one")).end()
    found = in_batches(played.events, [], count)
    assert (found.version, found.ended, len(found.units)) == (2, True, 1)


# --- the window ------------------------------------------------------------------------------------------------


def stable_text(found: View, cap: int, frames: bundle.Frames) -> str:
    """Return the canonical text of history under a cap."""
    history = view.window(found, cap_tokens=cap)
    pieces = [frames.clamped(piece, history.clamp) for unit in history.units for piece in unit.pieces]
    return "".join(piece.segment.header + piece.segment.body for piece in pieces)


def check_epochs(versions: Sequence[View], cap: int, frames: bundle.Frames) -> list[int]:
    """Check what P13 says of a session's successive views; return the epochs."""
    epochs: list[int] = []
    before_text, before_first, before_summary = "", None, None
    for found in versions:
        history = view.window(found, cap_tokens=cap)
        text = stable_text(found, cap, frames)
        first = history.units[0].pieces[0].segment.citations[0] if history.units else None
        extracts = view.extracts_before(found, history)
        if epochs:
            assert history.evicted >= epochs[-1]
            if history.evicted == epochs[-1]:
                assert text.startswith(before_text)
                assert extracts == before_summary
                assert first == before_first or not before_text
            else:
                assert first != before_first or first is None
        assert sum(min(piece.tokens, history.clamp) for unit in history.units for piece in unit.pieces) <= cap
        epochs.append(history.evicted)
        before_text, before_first, before_summary = text, first, extracts
    return epochs


@given(script=LOGS, cap=st.one_of(st.integers(0, 60), st.integers(0, 1500)))
@many
def test_between_epochs_the_stable_bytes_only_grow(small: None, count: Count, script: Any, cap: int) -> None:
    """P13: while the epoch stays, history only grows and the summary is the same; it changes with the first unit."""
    played = talk.play(script, {"o200k_base": count})
    versions = [empty()]
    for event in played.events:
        versions.append(view.fold(versions[-1], [event], count=count))
    check_epochs(versions[1:], cap, bundle.Frames(count))


def test_a_cut_leaves_about_half(count: Count) -> None:
    """P13: a cut leaves at most half of the cap and one entry, and then many turns pass before the next."""
    played, found = Conversation({"o200k_base": count}), empty()
    versions = []
    for number in range(400):
        played.commit(say(f"message {number} with a few more words"), say("an answer", role=3))
        found = view.fold(found, played.events[-1:], count=count)
        versions.append(found)
    for cap in (520, 1000, 3000):
        epochs = check_epochs(versions, cap, bundle.Frames(count))
        cuts = [at for at, (low, high) in enumerate(pairwise(epochs), 1) if high > low]
        assert cuts
        unit = max(sum(piece.tokens for piece in one.pieces) for one in found.units)
        turn = 2 * unit
        for at in cuts:
            kept = sum(piece.tokens for one in view.window(versions[at], cap_tokens=cap).units for piece in one.pieces)
            assert cap // 2 - 2 * turn <= kept <= cap // 2 + 2 * turn
        gaps = [high - low for low, high in pairwise(cuts)]
        assert min(gaps, default=99) >= cap // 2 // turn - 1


def test_every_cap_is_kept_to_the_token(count: Count) -> None:
    """P5: for each cap from none to all, the window fits, and it shows all exactly when all fits."""
    played = Conversation({"o200k_base": count})
    for number in range(30):
        played.commit(say(f"message {number} " + "word " * (number % 4)))
    found = in_batches(played.events, [], count)
    for cap in range(found.transcript_tokens + 2):
        history = view.window(found, cap_tokens=cap)
        assert sum(piece.tokens for unit in history.units for piece in unit.pieces) <= cap
        assert (history.evicted == 0) == (cap >= found.transcript_tokens)


def test_a_cap_of_zero_shows_nothing_and_declares_it(count: Count) -> None:
    """P13: without history every unit is evicted, and the epoch moves with the summary that stands for it."""
    played = Conversation({"o200k_base": count})
    epochs = []
    for number in range(5):
        played.commit(say(f"I need {number} tickets by Friday, please."))
        history = view.window(in_batches(played.events, [], count), cap_tokens=0)
        assert not history.units
        assert history.evicted == number + 1
        epochs.append(history.evicted)
    assert epochs == sorted(set(epochs))


def test_text_that_is_light_in_tokens_is_cut_by_weight(small: None, count: Count) -> None:
    """P13: where the view is smaller than the window, history still stands still between declared cuts."""
    played, versions = Conversation({"o200k_base": count}), [empty()]
    for number in range(120):
        played.commit(say(f"{number} " + "-" * 64))
        versions.append(view.fold(versions[-1], played.events[-1:], count=count))
    epochs = check_epochs(versions[1:], 16_384, bundle.Frames(count))
    assert 4 < len(set(epochs)) < 40


def test_what_is_not_shown_does_not_weigh(count: Count) -> None:
    """Addresses of media and citations take no room in a view, since they are not in the prompt."""
    plain = say("look at this")
    heavy = Entry()
    heavy.message.role = plain.message.role
    heavy.message.parts.add(text="look at this")
    heavy.message.citations.add(session_id="s" * 100, version=1)
    with_media = Entry()
    with_media.message.CopyFrom(heavy.message)
    media = with_media.message.parts.add().media
    media.uri, media.media_type, media.description = "https://example.org/" + "a" * 1500, "image/png", "a cat"
    assert segment.weight_bytes(plain) == segment.weight_bytes(heavy)
    assert segment.weight_bytes(with_media) == segment.weight_bytes(plain) + len("\n[image/png: a cat]")
    giant = say("x" * (limits.entry_weight_bytes + 5))
    assert segment.weight_bytes(giant) == limits.entry_weight_bytes
    assert segment.weight_bytes(answer("c", "")) > 0


# --- tool calls ------------------------------------------------------------------------------------------------


def test_a_call_waits_until_its_result_comes(count: Count) -> None:
    """P5: an open call is in no window; with its result, turns later, both are one unit at the result's place."""
    played = Conversation({"o200k_base": count}).commit(say("go"), call("c", name="dig")).commit(say("waiting"))
    found = in_batches(played.events, [], count)
    assert [one.call.id for one in found.open_calls] == ["c"]
    assert len(found.units) == 2
    played.commit(answer("c", "gold", is_error=True))
    found = in_batches(played.events, [], count)
    assert not found.open_calls
    kinds = [piece.segment.kind for piece in found.units[-1].pieces]
    assert kinds == [bundle_pb2.SEGMENT_KIND_TOOL_CALL, bundle_pb2.SEGMENT_KIND_TOOL_RESULT]
    assert found.units[-1].pieces[1].segment.is_error
    versions = [piece.segment.citations[0].version for piece in found.units[-1].pieces]
    assert versions == [1, 3]


def test_a_call_that_was_pushed_out_is_never_half_shown(small: None, count: Count) -> None:
    """P9: beyond limits.open_calls_max the oldest calls are given up, in any batches the same."""
    played = Conversation({"o200k_base": count})
    for number in range(5):
        played.commit(call(f"c-{number}"))
    played.commit(answer("c-0", "late"), answer("c-4", "in time"))
    found = in_batches(played.events, [], count)
    assert found == in_batches(played.events, range(9), count)
    assert [unit.pieces[0].segment.tool_call_id for unit in found.units] == ["c-4"]
    assert [one.call.id for one in found.open_calls] == ["c-2", "c-3"]


# --- tokenizers and sizes --------------------------------------------------------------------------------------


@given(script=LOGS)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
def test_a_view_of_another_tokenizer_counts_with_it(small: None, tokenizers: Tokenizers, script: Any) -> None:
    """P5: whether counts were stored at write or not, a view's counts are its own tokenizer's."""
    counts = {name: tokenizers.get(name).count for name in ENCODINGS}
    both = talk.play(script, counts)
    lead = talk.play(script, {"o200k_base": counts["o200k_base"]})
    for name, own in counts.items():
        found = view.fold(empty(name), lead.events, count=own)
        stored = view.fold(empty(name), both.events, count=own)
        assert found.offsets == stored.offsets
        assert found.pool == stored.pool
        for unit in found.units:
            for piece in unit.pieces:
                assert piece.tokens == own(piece.segment.header + piece.segment.body)
            if unit.extract:
                assert unit.extract.tokens == own(unit.extract.header + unit.extract.body)


def test_stored_counts_are_not_counted_again(count: Count) -> None:
    """Reads count nothing that was counted at write: the fold of a long log asks no tokenizer."""
    played = Conversation({"o200k_base": count})
    for number in range(50):
        played.commit(say(f"I need {number} tickets by Friday."), call(f"c-{number}"), answer(f"c-{number}", "done"))

    def never(text: str) -> int:
        raise AssertionError(len(text))

    assert view.fold(empty(), played.events, count=never).version == 50


def test_a_message_of_a_mebibyte(count: Count, rules: policy.Policy) -> None:
    """P5: the largest message is shown by its head and tail, in any window, and leaves room for the others."""
    words = " ".join(f"word{number}" for number in range(120_000))[: limits.message_bytes]
    played = Conversation({"o200k_base": count}).commit(say("hello before")).commit(say(words)).commit(say("after"))
    assert len(words) == limits.message_bytes
    found = in_batches(played.events, [], count)
    frames = bundle.Frames(count)
    for cap in (100, 600, 16_384):
        made = bundle_pb2.Bundle.FromString(shown(found, cap, rules, frames))
        parts = [part for section in made.sections if section.source == policy.HISTORY for part in section.segments]
        giant = max(parts, key=lambda part: part.tokens)
        assert giant.shortened
        assert giant.body.startswith("word0 ")
        assert giant.tokens <= max(64, cap // view.CLAMP_SHARE)
        assert parts[-1].body == "after\n"
        assert sum(part.tokens for part in parts) <= cap


def test_a_log_longer_than_a_real_view(count: Count) -> None:
    """P9: at the documented sizes, a cold load from any usable checkpoint gives what folding all gives."""
    chance = random.Random(7)
    played, found, checkpoints = Conversation({"o200k_base": count}), empty(), [view.to_checkpoint(empty())]
    text = "I told you in 2021 that we need the blue one because it is cheaper. " * 60
    while found.weight_bytes < limits.view_bytes + 4 * limits.checkpoint_bytes:
        played.commit(say(text[: chance.randint(20, 4000)]), say(text[: chance.randint(20, 800)], role=3))
        after = view.fold(found, played.events[-1:], count=count)
        if after.weight_bytes // limits.checkpoint_bytes != found.weight_bytes // limits.checkpoint_bytes:
            checkpoints.append(view.to_checkpoint(after))
        found = after
    usable = [one for one in checkpoints if one.weight_bytes <= found.weight_bytes - limits.view_bytes]
    assert len(usable) >= 4
    for checkpoint in usable:
        start = view.from_checkpoint(checkpoint, subject="ana")
        cold = view.fold(start, played.events[checkpoint.version :], count=count)
        assert cold == found
    assert found.units_before > 0
    window = view.window(found, cap_tokens=limits.history_tokens_max)
    assert window.evicted > found.units_before
