"""Bundles in masked form: nothing found is shown, and P5, P6 and P7 hold as they do for plain ones."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sidecar import bundle, pii, policy, segment, view
from sidecar.policy import DOCUMENTS, FACTS, HISTORY, PROFILE, RECALL, SUMMARY
from sidecar.tokens import Tokenizers
from standpipe.v1 import bundle_pb2, fact_pb2, turn_pb2
from tests.unit import conversation as talk
from tests.unit.conftest import DIRECTORY
from tests.unit.conversation import Conversation, answer, call, canonical_text, say

pytestmark = pytest.mark.usefixtures("models_directory")

TOKENIZER = "o200k_base"
MASKED = segment.masked_as(TOKENIZER)

SECRETS = (
    "ana.silva@mail.example",
    "+44 20 7946 0018",
    "4111 1111 1111 1111",
    "DE89370400440532013000",
    "203.0.113.7",
    "212-09-9999",
    "https://example.com/ana",
    "ghp_Zx81KqLm02NvBt47RyWs93PdGh56JaQwErTy",
)
TEXTS = st.builds(
    "{} {} {}".format,
    st.sampled_from(
        ["I decided that you write to", "Remember in 2021:", "zebra", "My new contact is", "We moved, see"]
    ),
    st.sampled_from([*SECRETS, "the zebra", "nobody at all"]),
    st.sampled_from(["because of Oslo.", "and nothing else", "and bring 7 zebras to Porto. Then rest.", "word " * 120]),
)
SPEAKERS = st.sampled_from(["", "Ana", "ana.silva@mail.example"])
TURNS = st.lists(
    st.lists(st.tuples(st.sampled_from(["say", "tool"]), TEXTS, SPEAKERS), min_size=1, max_size=3),
    min_size=1,
    max_size=12,
)
CAPS = st.sampled_from([{}, {"total_tokens": 700}, {"caps": {HISTORY: 80}}, {"caps": {HISTORY: 0}}])

DOCUMENT = """\
name: p
pii: {mask: true}
sources:
  profile: {cap: 20%}
  summary: {cap: 20%}
  history: {cap: 30%}
  facts: {cap: 20%}
  documents: {cap: 20%}
  recall: {cap: 100%, reserve: 10%}
recall: {floor: false}
"""


@cache
def tokenizers() -> Tokenizers:
    """Return the tokenizer, loaded once."""
    return Tokenizers(Path(DIRECTORY) / "tokenizers", (TOKENIZER,))


def play(turns: list[list[tuple[str, str, str]]]) -> Conversation:
    """Commit turns, and remember things about their speaker."""
    played = Conversation({TOKENIZER: tokenizers().get(TOKENIZER).count})
    for number, steps in enumerate(turns):
        entries = []
        for at, (kind, text, speaker) in enumerate(steps):
            if kind == "say":
                entries.append(say(text, speaker=speaker))
            else:
                called = f"c-{number}-{at}"
                entries += [call(called, arguments=f'{{"q": "{text}"}}'), answer(called, text)]
        played.commit(*entries)
    source = turn_pb2.EventRef(session_id="s", version=1, entry=0)
    for number, secret in enumerate(SECRETS):
        fact = fact_pb2.Fact(
            attribute=f"zebra {number}", value=f"is at {secret}", sources=[source], pinned=number % 2 == 0
        )
        played.remember(fact_pb2.MemoryChange(fact=fact, trust=fact_pb2.TRUST_USER))
    attributes = [fact_pb2.ProfileAttribute(name="mail", value=SECRETS[0])]
    played.remember(
        fact_pb2.MemoryChange(profile=fact_pb2.ProfileChange(attributes=attributes), trust=fact_pb2.TRUST_OPERATOR)
    )
    document = fact_pb2.Document(
        document_id="d", title=f"Of {SECRETS[0]}", text="zebra care. " * 90 + " ".join(SECRETS)
    )
    played.remember(fact_pb2.MemoryChange(document=document, trust=fact_pb2.TRUST_EXTERNAL))
    return played


def serve(played: Conversation, request: dict[str, object], *, masked: bool = True) -> bundle_pb2.Bundle:
    """Hydrate without a server, in masked form or not."""
    count = tokenizers().get(TOKENIZER).count
    rules = policy.parse(DOCUMENT, version=1, tokenizers=tokenizers())
    frames = bundle.Frames(count, masked=masked)
    form = MASKED if masked else TOKENIZER
    return bundle.assemble(
        rules,
        talk.allocation(rules, frames, **request),
        played.view(form, count),
        played.candidates("zebra", tokenizer=form, count=count, floor=False, session="another"),
        frames=frames,
        remembered=played.remembered("zebra", rules, tokenizer=form, count=count),
    )


@given(TURNS, CAPS)
@example([[("say", f"zebra {secret} because of Oslo.", "")] for secret in SECRETS], {})
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_a_masked_bundle_shows_kinds_and_keeps_its_budget(
    turns: list[list[tuple[str, str, str]]], request: dict[str, object]
) -> None:
    """P5, P6: no find is in a masked bundle; its counts are the tokenizer's own; the same log gives the same bytes."""
    played = play(turns)
    count = tokenizers().get(TOKENIZER).count
    made = serve(played, request)
    text = canonical_text(made.sections)
    assert not [secret for secret in SECRETS if secret in text]
    assert made.tokens == count(text) <= made.budget_tokens
    assert made.tokenizer == TOKENIZER
    for section in made.sections:
        assert section.tokens == sum(part.tokens for part in section.segments) <= section.cap_tokens
        for part in section.segments:
            assert part.tokens == count(part.header + part.body)
            assert not [secret for secret in SECRETS if secret in part.name]
            if part.citations:
                assert part.masked or not any(f"<{kind}>" in part.header + part.body for kind in pii.KINDS)
    assert serve(played, request).SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


def test_all_sections_are_masked() -> None:
    """Every source of a bundle shows its finds by their kind; the same bundle in plain form shows them."""
    played = play(
        [
            [("say", f"zebra {number}: I told {secret} to move to Oslo in 2021.", "")]
            for number, secret in enumerate(SECRETS)
        ]
        * 4
    )
    request: dict[str, object] = {"caps": {HISTORY: 200}}
    for masked in (True, False):
        made = serve(played, request, masked=masked)
        sources = {section.source: canonical_text([section]) for section in made.sections}
        for source in (PROFILE, SUMMARY, HISTORY, FACTS, DOCUMENTS, RECALL):
            assert any(f"<{kind}>" in sources[source] for kind in pii.KINDS) == masked, source
            assert any(secret in sources[source] for secret in SECRETS) != masked, source


@given(TURNS, st.lists(st.integers(1, 12)), st.booleans())
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_a_masked_view_is_the_same_however_it_is_folded(
    turns: list[list[tuple[str, str, str]]], cuts: list[int], through_checkpoint: bool
) -> None:
    """P6, P9: in one step, in several, or from a checkpoint, a masked view shows the same, and no find in its pool."""
    played = play(turns)
    count = tokenizers().get(TOKENIZER).count
    whole = played.view(MASKED, count)
    folded, at = view.empty(session="s", subject="ana", tokenizer=MASKED), 0
    for cut in sorted({min(cut, len(played.events)) for cut in cuts} | {len(played.events)}):
        folded = view.fold(folded, played.events[at:cut], count=count)
        at = cut
    assert folded == dataclasses.replace(whole, nbytes=folded.nbytes)
    if through_checkpoint:
        body = view.to_checkpoint(whole).body
        assert not [secret for secret in SECRETS if secret.encode() in body]


def test_a_view_without_finds_is_counted_from_what_is_stored() -> None:
    """Texts without finds keep their stored counts in masked form: nothing is counted again."""
    played = Conversation({TOKENIZER: tokenizers().get(TOKENIZER).count})
    for number in range(20):
        played.commit(say(f"I need {number} tickets by Friday."), call(f"c-{number}"), answer(f"c-{number}", "done"))

    def never(text: str) -> int:
        raise AssertionError(len(text))

    empty = view.empty(session="s", subject="ana", tokenizer=MASKED)
    assert view.fold(empty, played.events, count=never).version == 20


def test_what_was_written_before_finds_were_frozen_is_masked_too() -> None:
    """Turns and items of release 0.2.0 carry no finds: they are looked at when they are shown."""
    played = play([[("say", f"zebra {SECRETS[0]} in Oslo", "")]])
    stored = view.log_pb2.StoredTurn.FromString(played.events[0].body)
    for found in stored.analyses:
        found.ClearField("pii")
    played.events[0] = dataclasses.replace(played.events[0], body=stored.SerializeToString())
    played.items = [dataclasses.replace(item, detail=b"") if item.session == "s" else item for item in played.items]
    assert SECRETS[0] not in canonical_text(serve(played, {}).sections)
