"""Bundles without profile, facts and documents are those of release 0.2.0, whose fingerprints stand here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sidecar import bundle, policy
from sidecar.policy import RECALL
from sidecar.tokens import Tokenizers
from tests.unit import conversation as talk
from tests.unit.conftest import DIRECTORY
from tests.unit.conversation import Conversation, answer, call, say

pytestmark = pytest.mark.usefixtures("models_directory")

TOKENIZER = "o200k_base"

POLICIES = {
    "built-in": "",
    "narrow": "name: p\nbudget_tokens: 900\nprompts: [{name: a, text: You keep the harbour's books.}]\n",
    "wide recall": "name: p\nsources: {history: {cap: 200}, recall: {cap: 60%}}\nrecall: {floor: false}\n",
    "no recall": "name: p\nsources: {summary: {cap: 30%, priority: 1}, history: {cap: 50%, priority: 2}}\n",
}

REQUESTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "lowered": {"total_tokens": 450},
    "capped": {"caps": {RECALL: 90}},
}

SERVED = {
    ("built-in", "as it is"): "ae43a72d1c9a378982ca64f834aace9af5d2715fcfb2fd2d11ee423451b969f3",
    ("built-in", "lowered"): "9c255ee79567ec9a81b8bc7ffc58418bb1daa02359ab085979eab5fdaa75b977",
    ("built-in", "capped"): "ae43a72d1c9a378982ca64f834aace9af5d2715fcfb2fd2d11ee423451b969f3",
    ("narrow", "as it is"): "f888291c8314a959d7c715e67410e6d2f5696dda1b17304f8c7ef1620659a262",
    ("narrow", "lowered"): "a25c83684b3f1cb3788aca9b610e89c35c2c8a80e0eaacf1af1e4912a0a45dc6",
    ("narrow", "capped"): "f888291c8314a959d7c715e67410e6d2f5696dda1b17304f8c7ef1620659a262",
    ("wide recall", "as it is"): "d03b28c4a1cda72f0ef1a3ca1d40e73938e929a87b2e76d95ed26c18936d8f8c",
    ("wide recall", "lowered"): "0f2833547f74927b98efe98d6fe3ad9dd809ff053ad8a6cd0d27561067a46f17",
    ("wide recall", "capped"): "da75fa61d8ae465be621ec33ec0ff6cba02bf1156d68685fc39e1aea7651ea9c",
    ("no recall", "as it is"): "ae43a72d1c9a378982ca64f834aace9af5d2715fcfb2fd2d11ee423451b969f3",
    ("no recall", "lowered"): "6d59df7fb81699fd38a2be58905c1941fd508f6caf33d24371844b2596550a31",
    ("no recall", "capped"): "ae43a72d1c9a378982ca64f834aace9af5d2715fcfb2fd2d11ee423451b969f3",
}


@cache
def tokenizers() -> Tokenizers:
    """Return the one tokenizer, loaded once."""
    return Tokenizers(Path(DIRECTORY) / "tokenizers", (TOKENIZER,))


@cache
def story() -> Conversation:
    """Return a conversation of forty turns, with tools, repetition and a look-alike of the fence."""
    played = Conversation({TOKENIZER: tokenizers().get(TOKENIZER).count})
    for number in range(40):
        ship = ("Halcyon", "Petrel", "Auk", "Gannet")[number % 4]
        played.commit(
            say(f"I booked berth {number} for the {ship}, because the tide is right on day {number}.", speaker="Ines"),
            call(f"c-{number}", name="tide_table", arguments=f'{{"day": {number}}}'),
            answer(f"c-{number}", f"high water at {number % 12}:30 <recalled> berth {number}"),
            say(f"The {ship} has berth {number}. " + "Ropes are checked. " * (number % 5), role=2),
        )
    return played


def fingerprint(played: Conversation, document: str, request: dict[str, Any]) -> str:
    """Assemble as a hydrate does; return the fingerprint."""
    count = played.counters[TOKENIZER]
    rules = policy.parse(document or policy.BUILT_IN.format(tokenizer=TOKENIZER), version=1, tokenizers=tokenizers())
    frames = bundle.Frames(count)
    made = bundle.assemble(
        rules,
        talk.allocation(rules, frames, **request),
        played.view(TOKENIZER, count),
        played.candidates("which berth has the Petrel", tokenizer=TOKENIZER, count=count, floor=rules.recall_floor),
        frames=frames,
    )
    return made.fingerprint.hex()


@pytest.mark.parametrize("request_name", list(REQUESTS))
@pytest.mark.parametrize("policy_name", list(POLICIES))
def test_a_bundle_without_memory_is_as_it_was(policy_name: str, request_name: str) -> None:
    """P7: what release 0.2.0 served renders again, whatever the policy allows beside it now."""
    made = fingerprint(story(), POLICIES[policy_name], REQUESTS[request_name])
    assert made == SERVED[policy_name, request_name]
