"""Policies: every mistake is named by its path, defaults are as written, and a budget is divided as promised (P5)."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar import limits, policy
from sidecar.beliefs import Lifetime
from sidecar.errors import BudgetTooSmall, InvalidField, LimitExceeded, PolicyInvalid
from sidecar.policies import Policies
from sidecar.policy import (
    HISTORY,
    PROFILE,
    RANKED,
    RECALL,
    REMEMBERED,
    SUMMARY,
    Amount,
    Policy,
)
from sidecar.tokens import Tokenizers
from standpipe.v1 import bundle_pb2

many = settings(deadline=None, max_examples=300)


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    """Names alone: parsing loads no ranks."""

    class Names(Tokenizers):
        def get(self, name: str) -> Any:
            if name in ("o200k_base", "cl100k_base"):
                return type("Named", (), {"name": name})()
            return super().get(name)

    return Names(directory=None, written=("o200k_base",))  # type: ignore[arg-type]


def parse(tokenizers: Tokenizers, document: str) -> Policy:
    """Read a document as version 1."""
    return policy.parse(document, version=1, tokenizers=tokenizers)


# --- the schema ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ("", "document_yaml"),
        ("[]", "document_yaml"),
        ("just text", "document_yaml"),
        ("name: [unclosed", "document_yaml"),
        ("name: 2024-13-45", "document_yaml"),
        ("? [a]\n: b", "document_yaml"),
        ("name: !!python/object:os.system {}", "document_yaml"),
        ("[" * 5000, "document_yaml"),
        ("budget_tokens: 5", "name"),
        ("name: 'two words'", "name"),
        ("name: ''", "name"),
        ("name: 5", "name"),
        (f"name: {'x' * 129}", "name"),
        ("name: p\ncolour: red", "colour"),
        ("name: p\ntokenizer: words", "tokenizer"),
        ("name: p\ntokenizer: 5", "tokenizer"),
        ("name: p\nmodel: no-such-model", "model"),
        ("name: p\nmodel: gpt-4o\ntokenizer: o200k_base", "model"),
        ("name: p\nbudget_tokens: 0", "budget_tokens"),
        ("name: p\nbudget_tokens: true", "budget_tokens"),
        ("name: p\nbudget_tokens: 8000.0", "budget_tokens"),
        ("name: p\nbudget_tokens: '8000'", "budget_tokens"),
        (f"name: p\nbudget_tokens: {limits.budget_tokens_max + 1}", "budget_tokens"),
        ("name: p\nprompts: text", "prompts"),
        ("name: p\nprompts: null", "prompts"),
        ("name: p\nprompts: [text]", "prompts[0]"),
        ("name: p\nprompts: [{text: a}, {text: ''}]", "prompts[1].text"),
        ("name: p\nprompts: [{text: '  '}]", "prompts[0].text"),
        ("name: p\nprompts: [{text: 5}]", "prompts[0].text"),
        ("name: p\nprompts: [{name: a}]", "prompts[0].text"),
        ("name: p\nprompts: [{text: ' /start'}]", "prompts[0].text"),
        ("name: p\nprompts: [{name: 'a b', text: x}]", "prompts[0].name"),
        ("name: p\nprompts: [{role: system, text: x}]", "prompts[0].role"),
        ("name: p\nsources: []", "sources"),
        ("name: p\nsources: {memory: {}}", "sources.memory"),
        ("name: p\nsources: {history: false}", "sources.history"),
        ("name: p\nsources: {history: 0}", "sources.history"),
        ("name: p\nsources: {history: {size: 5}}", "sources.history.size"),
        ("name: p\nsources: {history: {cap: -1}}", "sources.history.cap"),
        ("name: p\nsources: {history: {cap: 101%}}", "sources.history.cap"),
        ("name: p\nsources: {history: {cap: 5.5}}", "sources.history.cap"),
        ("name: p\nsources: {history: {cap: true}}", "sources.history.cap"),
        ("name: p\nsources: {history: {cap: null}}", "sources.history.cap"),
        ("name: p\nsources: {summary: {reserve: lots}}", "sources.summary.reserve"),
        (f"name: p\nsources: {{recall: {{cap: {limits.budget_tokens_max + 1}}}}}", "sources.recall.cap"),
        ("name: p\nsources: {history: {reserve: 60%}, recall: {reserve: 50%}}", "sources"),
        ("name: p\nsources: {history: {priority: 0}}", "sources.history.priority"),
        ("name: p\nsources: {history: {priority: 10}}", "sources.history.priority"),
        ("name: p\nsources: {history: {priority: high}}", "sources.history.priority"),
        ("name: p\nrecall: true", "recall"),
        ("name: p\nrecall: {floor: 'yes'}", "recall.floor"),
        ("name: p\nrecall: {roof: 1}", "recall.roof"),
        ("name: p\ndeadlines: {embed_ms: -1}", "deadlines.embed_ms"),
        ("name: p\ndeadlines: {embed_ms: 60001}", "deadlines.embed_ms"),
        ("name: p\ndeadlines: {total_ms: 5}", "deadlines.total_ms"),
        ("name: p\nttl: {session_hot_s: 0}", "ttl.session_hot_s"),
        ("name: p\nttl: {forever: 1}", "ttl.forever"),
        ("name: p\nttl: {session_log_s: 3599}", "ttl.session_log_s"),
        ("name: p\nttl: {session_log_s: -1}", "ttl.session_log_s"),
        ("name: p\nttl: {session_log_s: true}", "ttl.session_log_s"),
        ("name: p\nttl: {session_log_s: 3153600001}", "ttl.session_log_s"),
        ("name: p\nsources: {profile: {cap: 101%}}", "sources.profile.cap"),
        ("name: p\nsources: {facts: {kinds: {}}}", "sources.facts.kinds"),
        ("name: p\nsources: {documents: 5}", "sources.documents"),
        ("name: p\nfacts: []", "facts"),
        ("name: p\nfacts: {ttl_s: 5}", "facts.ttl_s"),
        ("name: p\nfacts: {kinds: [plan]}", "facts.kinds"),
        ("name: p\nfacts: {kinds: {5: {}}}", "facts.kinds"),
        ("name: p\nfacts: {kinds: {'two words': {}}}", "facts.kinds"),
        ("name: p\nfacts: {kinds: {plan: 5}}", "facts.kinds.plan"),
        ("name: p\nfacts: {kinds: {plan: {ttl: 5}}}", "facts.kinds.plan.ttl"),
        ("name: p\nfacts: {kinds: {plan: {ttl_s: -1}}}", "facts.kinds.plan.ttl_s"),
        ("name: p\nfacts: {kinds: {plan: {half_life_s: 3153600001}}}", "facts.kinds.plan.half_life_s"),
        ("name: p\npii: true", "pii"),
        ("name: p\npii: {mask: 'yes'}", "pii.mask"),
        ("name: p\npii: {originals: 0}", "pii.originals"),
        ("name: p\npii: {hide: true}", "pii.hide"),
    ],
)
def test_every_mistake_is_named_by_its_path(tokenizers: Tokenizers, document: str, field: str) -> None:
    """A document that does not follow the schema is PolicyInvalid, with the path of what is wrong."""
    with pytest.raises(PolicyInvalid) as caught:
        parse(tokenizers, document)
    assert caught.value.field == field
    assert "Unhandled" not in caught.value.message


def test_the_documented_example_is_the_default(tokenizers: Tokenizers) -> None:
    """The example in the module's docstring, where every default is written out, equals one that sets nothing."""
    example = textwrap.dedent((policy.__doc__ or "").split("::\n", 1)[1].split("\n\n`cap`")[0])
    raw = yaml.safe_load(example)
    assert set(raw) == {"name", "tokenizer", "budget_tokens", "prompts", "sources", "recall"} | {
        "facts",
        "pii",
        "deadlines",
        "ttl",
        "freshness",
    }
    written = parse(tokenizers, example)
    least = parse(tokenizers, yaml.safe_dump({"name": raw["name"], "prompts": raw["prompts"]}))
    assert written == least


def test_the_built_in_policy_is_the_default_too(tokenizers: Tokenizers) -> None:
    """What serves a route that was never set is what a document that only has a name says."""
    built_in = parse(tokenizers, Policies(None, tokenizers).built_in())  # type: ignore[arg-type]
    assert built_in == parse(tokenizers, "name: default")
    assert built_in.id == "default@1"


def test_a_source_that_is_not_named_is_not_allowed(tokenizers: Tokenizers) -> None:
    """The input contract: with sources written, only those that are named have a rule; an empty rule is the default."""
    parsed = parse(tokenizers, "name: p\nsources: {history: }")
    assert list(parsed.sources) == [HISTORY]
    assert parsed.sources[HISTORY].cap == Amount(percent=65)
    assert not parse(tokenizers, "name: p\nsources: {}").sources


def test_lifetimes_are_by_kind(tokenizers: Tokenizers) -> None:
    """Each kind has its own; what is not said is for ever."""
    parsed = parse(tokenizers, "name: p\nfacts: {kinds: {plan: {ttl_s: 60}, mood: {half_life_s: 5}, trait: {}}}")
    assert parsed.lifetimes == {"plan": Lifetime(ttl_s=60), "mood": Lifetime(half_life_s=5), "trait": Lifetime()}


def test_masking_is_as_the_policy_says(tokenizers: Tokenizers) -> None:
    """Personal data is shown in bundles, and given by ListEvents, unless the policy says otherwise."""
    least, most = parse(tokenizers, "name: p"), parse(tokenizers, "name: p\npii: {mask: true, originals: false}")
    assert (least.mask, least.originals, most.mask, most.originals) == (False, True, True, False)


# --- hostile documents -----------------------------------------------------------------------------------------


def test_a_document_over_its_limit_is_refused_unread(tokenizers: Tokenizers) -> None:
    """Over limits.policy_bytes nothing is parsed, and the error says how much is allowed."""
    with pytest.raises(LimitExceeded) as caught:
        parse(tokenizers, "name: p #" + "x" * limits.policy_bytes)
    assert caught.value.metadata["limit"] == "policy_bytes"
    assert caught.value.field == "document_yaml"


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
        )
        + "name: p\nprompts: *j",
        "name: p\nprompts:\n- &p {text: " + "x" * 100_000 + "}\n" + "- *p\n" * 25_000,
        "name: p\nsources: &s {history: *s}",
        "name: p\nprompts: &p [*p]",
    ],
    ids=["laughs", "aliases", "itself", "itself in a list"],
)
def test_a_document_cannot_unfold(tokenizers: Tokenizers, bomb: str) -> None:
    """P12: small documents that stand for gigabytes are refused, in the time that reading them takes."""
    before = time.process_time()
    with pytest.raises(InvalidField):
        parse(tokenizers, bomb)
    assert time.process_time() - before < 8


# --- digests ---------------------------------------------------------------------------------------------------


def test_a_digest_is_of_what_is_meant() -> None:
    """Comments, layout, quotes and the order of keys do not make a new version; order of prompts does."""
    one = "name: p\nbudget_tokens: 5\nprompts: [{name: a, text: x}, {name: b, text: y}]\n"
    same = "# comment\nprompts:\n  - {text: 'x', name: a}\n  - text: y\n    name: b\n\nbudget_tokens: 5 # five\nname: p"
    assert policy.digest(one) == policy.digest(same)
    others = [
        one.replace("5", "6"),
        one.replace("5", "'5'"),
        one.replace("{name: a, text: x}, {name: b, text: y}", "{name: b, text: y}, {name: a, text: x}"),
        one.replace("text: x", "text: X"),
        one.replace("name: a, ", ""),
        one + "recall: {}",
    ]
    assert len({policy.digest(document) for document in (one, *others)}) == 1 + len(others)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab{[]}", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab{[]}", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(one=VALUES, other=VALUES)
@many
def test_different_meanings_have_different_digests(one: Any, other: Any) -> None:
    """Whatever is nested in what, two values that differ never share a digest."""

    def typed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: typed(inner) for key, inner in value.items()}
        return [typed(inner) for inner in value] if isinstance(value, list) else (type(value).__name__, value)

    digests = [policy.digest(yaml.safe_dump(value)) for value in (one, other)]
    assert (digests[0] == digests[1]) == (typed(one) == typed(other))


# --- dividing a budget -----------------------------------------------------------------------------------------

AMOUNTS = st.builds(Amount, tokens=st.integers(0, 4000)) | st.builds(Amount, percent=st.integers(0, 100))
RULES = st.builds(policy.SourceRule, AMOUNTS, AMOUNTS, st.integers(1, 9))
POLICIES = st.builds(
    Policy,
    name=st.just("p"),
    version=st.just(1),
    tokenizer=st.just("o200k_base"),
    budget_tokens=st.sampled_from([100, 1000, 8000, 100_000]),
    prompts=st.just(()),
    sources=st.dictionaries(st.sampled_from(list(policy.SOURCES.values())), RULES, max_size=6),
).filter(lambda one: sum(rule.reserve.percent or 0 for rule in one.sources.values()) <= 100)
CAPS = st.dictionaries(st.sampled_from(list(policy.SOURCES.values())), st.integers(0, 9000), max_size=4)
INCLUDES = st.frozensets(st.sampled_from([policy.POLICY, *policy.SOURCES.values()]), max_size=4)
TOTALS = st.none() | st.integers(1, 10_000)
PROMPTS = st.integers(0, 1500)


def allocate(
    rules: Policy,
    prompt: int = 0,
    total: int | None = None,
    caps: Mapping[bundle_pb2.Source, int] | None = None,
    include: frozenset[bundle_pb2.Source] = frozenset(),
) -> policy.Allocation | None:
    """Divide, or None where the budget is too small."""
    try:
        return policy.allocate(rules, prompt_tokens=prompt, total_tokens=total, caps=caps or {}, include=include)
    except BudgetTooSmall:
        return None


@given(rules=POLICIES, prompt=PROMPTS, total=TOTALS, caps=CAPS, include=INCLUDES)
@many
def test_a_budget_is_never_overdrawn(rules: Policy, prompt: int, total: int | None, caps: Any, include: Any) -> None:
    """P5: prompts, history and summary fit together with what is kept for all that is remembered, and with the
    profile; each is within every cap, none below zero.
    """
    found = allocate(rules, prompt, total, caps, include)
    if found is None:
        return
    room = found.total - prompt
    assert found.total == min(rules.budget_tokens, total or rules.budget_tokens)
    kept = 0
    for source, cap in found.caps.items():
        allowed = source in rules.sources and (not include or source in include)
        assert 0 <= cap <= (min(rules.sources[source].cap.of(room), caps.get(source, cap)) if allowed else 0)
        if source in RANKED and allowed:
            kept += min(rules.sources[source].reserve.of(room), cap)
    fixed = prompt + found.caps[HISTORY] + found.caps[SUMMARY]
    assert fixed + kept <= found.total
    assert fixed + found.caps[PROFILE] <= found.total
    assert found.caps[HISTORY] <= limits.history_tokens_max
    assert found.caps[SUMMARY] <= limits.summary_tokens_max


@given(rules=POLICIES, prompt=PROMPTS, total=TOTALS, include=INCLUDES)
@many
def test_reserves_are_kept(rules: Policy, prompt: int, total: int | None, include: Any) -> None:
    """P5: every allowed source can have its reserve, as far as its own cap goes, whatever the others take."""
    found = allocate(rules, prompt, total, {}, include)
    if found is None:
        return
    room = found.total - prompt
    most = {SUMMARY: limits.summary_tokens_max, HISTORY: limits.history_tokens_max}
    for source, rule in rules.sources.items():
        if not include or source in include:
            assert found.caps[source] >= min(rule.reserve.of(room), rule.cap.of(room), most.get(source, 1 << 30))


@given(rules=POLICIES, prompt=PROMPTS, caps=CAPS, total=TOTALS, include=INCLUDES)
@many
def test_a_refused_budget_names_one_that_would_do(
    rules: Policy, prompt: int, caps: Any, total: int | None, include: Any
) -> None:
    """P5: BudgetTooSmall says how many tokens are required; it is more than there were, and it is enough."""
    try:
        policy.allocate(rules, prompt_tokens=prompt, total_tokens=total, caps=caps, include=include)
    except BudgetTooSmall as error:
        assume(sum(rule.reserve.percent or 0 for rule in rules.sources.values()) < 100)
        required = int(error.metadata["required_tokens"])
        assert required > int(error.metadata["budget_tokens"])  # noqa: PT017
        larger = Policy(**{**{name: getattr(rules, name) for name in Policy.__slots__}, "budget_tokens": required})
        assert allocate(larger, prompt, required, caps, include) is not None


@given(rules=POLICIES, prompt=PROMPTS, total=TOTALS, caps=CAPS)
@many
def test_a_request_only_lowers(rules: Policy, prompt: int, total: int | None, caps: Any) -> None:
    """P5: lowering one source's cap never raises that cap, and no request raises the total."""
    alone, asked = allocate(rules, prompt, total), allocate(rules, prompt, total, caps)
    if alone is not None and asked is not None:
        assert asked.total <= rules.budget_tokens
        for source, cap in caps.items():
            assert asked.caps[source] <= min(cap, alone.caps[source]) or asked.caps[source] <= cap


@given(rules=POLICIES, prompt=PROMPTS, total=st.integers(1, 10_000))
@many
def test_who_comes_later_yields_first(rules: Policy, prompt: int, total: int) -> None:
    """P5: a source is cut below its cap only when every source of a later priority is down to its own reserve."""
    found = allocate(rules, prompt, total)
    if found is None:
        return
    room = found.total - prompt
    most = {SUMMARY: limits.summary_tokens_max, HISTORY: limits.history_tokens_max}
    order = sorted(rules.sources, key=lambda source: (rules.sources[source].priority, source))
    for at, source in enumerate(order):
        cap = min(rules.sources[source].cap.of(room), room, most.get(source, room))
        if source not in RANKED and found.caps[source] < cap:
            for later in order[at + 1 :]:
                if later not in REMEMBERED:
                    assert found.caps[later] <= rules.sources[later].reserve.of(room)


def test_the_summary_yields_before_history(tokenizers: Tokenizers) -> None:
    """P5: as the default is written, a smaller budget makes the summary coarser before history is cut shorter."""
    rules = parse(tokenizers, "name: p\nsources: {summary: {cap: 400}, history: {cap: 600}, recall: {reserve: 100}}")
    caps = [allocate(rules, 0, total) for total in (1100, 900, 700, 500, 101)]
    shares = [(one.caps[HISTORY], one.caps[SUMMARY]) for one in caps if one]
    assert shares == [(600, 400), (600, 200), (600, 0), (400, 0), (1, 0)]


@given(rules=POLICIES, prompt=PROMPTS, total=st.integers(1, 10_000), less=st.integers(0, 3000))
@many
def test_a_smaller_budget_never_gives_history_more(rules: Policy, prompt: int, total: int, less: int) -> None:
    """P5: with fewer tokens in all, no source but the summary's share of the rest grows over the policy's cap."""
    large, small = allocate(rules, prompt, total), allocate(rules, prompt, max(1, total - less))
    if large is not None and small is not None:
        for source in (HISTORY, SUMMARY, RECALL):
            room = small.total - prompt
            assert small.caps[source] <= (rules.sources[source].cap.of(room) if source in rules.sources else 0)
        assert small.caps[RECALL] <= large.caps[RECALL]


@given(rules=POLICIES, prompt=PROMPTS, total=TOTALS)
@many
def test_what_is_remembered_moves_no_history(rules: Policy, prompt: int, total: int | None) -> None:
    """P13: profile, facts and documents that come last by priority leave the caps of all others as they are."""
    names = (PROFILE, policy.FACTS, policy.DOCUMENTS)
    assume(all(rule.priority < 9 for rule in rules.sources.values()))
    before = {source: rule for source, rule in rules.sources.items() if source not in names}
    after = before | {source: policy.SourceRule(Amount(percent=60), priority=9) for source in names}
    values = {name: getattr(rules, name) for name in Policy.__slots__}
    few, more = (allocate(Policy(**{**values, "sources": sources}), prompt, total) for sources in (before, after))
    assert (few is None) == (more is None)
    if few is not None and more is not None:
        assert {source: more.caps[source] for source in (SUMMARY, HISTORY, RECALL)} == {
            source: few.caps[source] for source in (SUMMARY, HISTORY, RECALL)
        }


def test_the_profile_is_shown_out_of_recalls_reserve(tokenizers: Tokenizers) -> None:
    """P13: where history and summary take all else, the profile has its cap as far as recall's reserve goes."""
    document = "name: p\nsources: {{profile: {{cap: 40%}}, history: {{cap: 100%}}, recall: {{reserve: {}%}}}}"
    caps = [allocate(parse(tokenizers, document.format(reserve)), 0, 1000) for reserve in (0, 25, 50)]
    assert [(one.caps[HISTORY], one.caps[PROFILE]) for one in caps if one] == [(1000, 0), (750, 250), (500, 400)]


def test_reserves_that_exclude_each_other_are_refused(tokenizers: Tokenizers) -> None:
    """P5: a share of everything beside a number of tokens cannot be kept, and is an error, not a negative cap."""
    rules = parse(
        tokenizers, "name: p\nsources: {summary: {}, history: {reserve: 50}, recall: {cap: 100%, reserve: 100%}}"
    )
    assert allocate(rules, 0, 100) is None


@pytest.mark.parametrize(("said", "kept_s"), [("", 0), ("0", 0), ("3600", 3600), ("3153600000", 3_153_600_000)])
def test_a_log_is_kept_for_ever_unless_said(tokenizers: Tokenizers, said: str, kept_s: int) -> None:
    """From an hour to a hundred years, or for ever: 0, and where nothing is said."""
    document = f"name: p\nttl: {{session_log_s: {said}}}" if said else "name: p"
    assert parse(tokenizers, document).session_log_s == kept_s
