"""Policies: what a bundle may hold, how large it may be, and who counts; parsed from YAML, strictly.

A whole policy, with every default written out::

    name: support                # 1 to 128 characters of A-Z a-z 0-9 . _ -
    tokenizer: o200k_base        # or: model: gpt-4o
    budget_tokens: 8000          # the bundle's most tokens, everything included
    prompts:                     # never dropped, in this order, before all else
      - name: persona
        text: You are the support assistant of Acme.
    sources:                     # the input contract: a source that is not named here reaches no prompt
      profile: {cap: 5%, reserve: 0, priority: 3}
      summary: {cap: 10%, reserve: 0, priority: 2}
      history: {cap: 65%, reserve: 0, priority: 1}
      recall: {cap: 100%, reserve: 25%, priority: 3}
      facts: {cap: 10%, reserve: 0, priority: 3}
      documents: {cap: 15%, reserve: 0, priority: 3}
    recall:
      floor: true                # nothing below the relevance floor
    facts:
      kinds: {}                  # lifetimes by kind, such as plan: {ttl_s: 2592000, half_life_s: 604800}
    pii:
      mask: false                # whether bundles show personal data and secrets by their kind alone, as <EMAIL>
      originals: true            # whether ListEvents gives them as they were written
    deadlines:
      embed_ms: 200              # the longest wait for the query's vector; then recall goes by words alone
    ttl:
      session_hot_s: 86400       # how long an idle session stays in the hot store
      session_log_s: 0           # how long after its last turn a session's log is kept, 3600 to 100 years; 0: for ever
    freshness:
      stale: false               # whether an old view may be shown, marked, while the record store cannot be reached

`cap` and `reserve` are tokens, or a share of what the prompts leave of the budget. `reserve` is kept free for a
source whatever the others want; recall's is kept for all that is remembered, so profile, facts and documents are shown
out of it. Beyond the reserves, sources claim their caps in order of `priority`, 1 before 9. What a source does not use
in the end is free for facts, then documents, then recall, which comes last and takes what is left.

Of a fact of a kind that `facts.kinds` names, `ttl_s` is how long after it was recorded or last confirmed it is held,
and `half_life_s` after how long its score in recall has halved; 0, and a kind that is not named, mean for ever. Pinned
facts have neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from sidecar import canonical, limits
from sidecar.beliefs import Lifetime
from sidecar.errors import BudgetTooSmall, LimitExceeded, PolicyInvalid, TokenizerUnknown
from sidecar.tokens import Tokenizers
from standpipe.v1 import bundle_pb2

POLICY, PROFILE, SUMMARY, HISTORY, RECALL, FACTS, DOCUMENTS = (
    bundle_pb2.SOURCE_POLICY,
    bundle_pb2.SOURCE_PROFILE,
    bundle_pb2.SOURCE_SUMMARY,
    bundle_pb2.SOURCE_HISTORY,
    bundle_pb2.SOURCE_RECALL,
    bundle_pb2.SOURCE_FACTS,
    bundle_pb2.SOURCE_DOCUMENTS,
)
SOURCES: Mapping[str, bundle_pb2.Source] = {
    "profile": PROFILE,
    "summary": SUMMARY,
    "history": HISTORY,
    "recall": RECALL,
    "facts": FACTS,
    "documents": DOCUMENTS,
}
"""The sources that a policy can allow, in the order in which they stand in a bundle."""

RANKED = frozenset((RECALL, FACTS, DOCUMENTS))
"""The sources that a query finds something in. What they take is known when a bundle is made, and moves no other."""

REMEMBERED = RANKED | {PROFILE}
"""The sources that recall's reserve is kept for."""

BUILT_IN = """\
name: default
tokenizer: {tokenizer}
budget_tokens: 8000
sources:
  profile: {{cap: 5%}}
  summary: {{cap: 10%}}
  history: {{cap: 65%}}
  recall: {{cap: 100%, reserve: 25%}}
  facts: {{cap: 10%}}
  documents: {{cap: 15%}}
"""
"""What serves a route "default" that was never set: useful without any policy, and without a prompt of ours."""

_TOKENS_MAX = {HISTORY: limits.history_tokens_max, SUMMARY: limits.summary_tokens_max}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_LOG_S = (3600, 100 * 365 * 86_400)
"""How long a log can be kept, if not for ever: no shorter than a pause in a conversation."""

_LIFETIME_S_MAX = 100 * 365 * 86_400
"""The longest lifetime and half-life of a fact that is not for ever: a person's."""

_DEPTH_MAX = 8
"""Levels of a document; the schema has five."""

_NODES_MAX = 4096
"""Keys and values of a document: some hundred prompts. PyYAML takes 20 us for each."""


class _Loader(yaml.SafeLoader):
    """Reads YAML without what makes a small document large or ambiguous: aliases, merge and duplicate keys, depth."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._nodes += 1
        self._depth += 1
        if isinstance(event, yaml.AliasEvent):
            raise _malformed("must hold no aliases", event.start_mark)
        if self._depth > _DEPTH_MAX or self._nodes > _NODES_MAX:
            limit = f"must have at most {_NODES_MAX} keys and values on {_DEPTH_MAX} levels"
            raise _malformed(limit, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value == "<<" or (isinstance(key, yaml.ScalarNode) and key.value in seen):
                raise _malformed("must name each setting once, without merge keys", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def _malformed(message: str, mark: Any) -> PolicyInvalid:
    return PolicyInvalid(f"{message}: line {mark.line + 1}, column {mark.column + 1}", field="document_yaml")


def _load(document: str) -> Any:
    return yaml.load(document, _Loader)  # noqa: S506 - a safe loader


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of tokens, or a share of what the prompts leave."""

    tokens: int = 0
    percent: int | None = None

    def of(self, room_tokens: int) -> int:
        """Return the amount in tokens."""
        return self.tokens if self.percent is None else room_tokens * self.percent // 100


@dataclass(frozen=True, slots=True)
class SourceRule:
    """What one source may take."""

    cap: Amount
    reserve: Amount = Amount()
    priority: int = 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """A system prompt."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One parsed version."""

    name: str
    version: int
    tokenizer: str
    budget_tokens: int
    prompts: tuple[Prompt, ...]
    sources: Mapping[bundle_pb2.Source, SourceRule]
    recall_floor: bool = True
    embed_ms: int = 200
    session_hot_s: int = 86_400
    session_log_s: int = 0
    """How long after its last turn a session's log is kept; 0: for ever."""
    stale: bool = False
    """Whether an old view may be shown while the record store cannot be reached."""
    lifetimes: Mapping[str, Lifetime] = field(default_factory=dict)
    """Of facts, by kind."""
    mask: bool = False
    """Whether bundles show personal data and secrets by their kind alone."""
    originals: bool = True
    """Whether ListEvents gives personal data as it was written."""

    @property
    def id(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The caps of one bundle, in tokens.

    A function of policy and request alone: nothing that varies from turn to turn, such as what recall finds, can
    move the history window (P13).
    """

    total: int
    caps: Mapping[bundle_pb2.Source, int] = field(default_factory=dict)


def allocate(
    policy: Policy,
    *,
    prompt_tokens: int,
    total_tokens: int | None,
    caps: Mapping[bundle_pb2.Source, int],
    include: frozenset[bundle_pb2.Source],
) -> Allocation:
    """Divide a budget. The request's numbers can only lower the policy's.

    In order of priority each source claims its cap, as far as the reserves of the others allow: as it is written,
    history before the summary, so that it is the summary that gets coarser before history is cut shorter. What is
    remembered may claim recall's reserve, too. The caps of recall, facts and documents here are their most;
    `bundle.assemble` gives them what the others really left. Raises BudgetTooSmall if the prompts and the reserves do
    not fit.
    """
    total = min(policy.budget_tokens, total_tokens if total_tokens is not None else policy.budget_tokens)
    room = total - prompt_tokens
    allowed = [source for source in policy.sources if not include or source in include]
    wanted = {
        source: min(policy.sources[source].cap.of(max(0, room)), caps.get(source, limits.budget_tokens_max))
        for source in allowed
    }
    cap = {source: min(wanted[source], max(0, room)) for source in allowed}
    reserve = {source: min(policy.sources[source].reserve.of(max(0, room)), wanted[source]) for source in allowed}
    if room < 0 or sum(reserve.values()) > room:
        reserves = [policy.sources[source].reserve for source in allowed if caps.get(source, 1)]
        free_percent = max(1, 100 - sum(one.percent or 0 for one in reserves))
        required = prompt_tokens + -(-100 * sum(one.tokens for one in reserves) // free_percent)
        raise BudgetTooSmall(
            f"a budget of {total} tokens cannot hold the {required} that the prompts and reserves of policy "
            f"{policy.id} need",
            field="budget.total_tokens",
            budget_tokens=total,
            required_tokens=required,
        )
    claims = dict.fromkeys(SOURCES.values(), 0)
    free = room - sum(reserve.values())
    shared = reserve.get(RECALL, 0)
    for source in sorted(allowed, key=lambda one: (policy.sources[one].priority, one)):
        lent = shared if source in REMEMBERED and source != RECALL else 0
        claims[source] = min(cap[source], reserve[source] + lent + free, _TOKENS_MAX.get(source, total))
        beyond = max(0, claims[source] - reserve[source])
        shared -= min(beyond, lent)
        free -= max(0, beyond - lent)
    return Allocation(total=total, caps={**claims, **{source: cap.get(source, 0) for source in RANKED}})


def parse(document: str, *, version: int, tokenizers: Tokenizers) -> Policy:
    """Read a document. Raises PolicyInvalid with the path of the first thing that is wrong, and what is right."""
    size = len(document.encode())
    if size > limits.policy_bytes:
        raise LimitExceeded(
            f"the document is {size} bytes; at most {limits.policy_bytes}",
            field="document_yaml",
            limit="policy_bytes",
            maximum=limits.policy_bytes,
            actual=size,
        )
    try:
        raw = _load(document)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise PolicyInvalid(f"the document is not YAML{where}", field="document_yaml") from None
    top = _mapping(
        raw,
        "",
        {
            "name",
            "tokenizer",
            "model",
            "budget_tokens",
            "prompts",
            "sources",
            "recall",
            "facts",
            "pii",
            "deadlines",
            "ttl",
            "freshness",
        },
    )
    name = top.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PolicyInvalid("must be 1 to 128 characters of A-Z a-z 0-9 . _ -", field="name")
    if "tokenizer" in top and "model" in top:
        raise PolicyInvalid("at most one of tokenizer and model may be set", field="model")
    recall = _mapping(top.get("recall", {}), "recall", {"floor"})
    deadlines = _mapping(top.get("deadlines", {}), "deadlines", {"embed_ms"})
    ttl = _mapping(top.get("ttl", {}), "ttl", {"session_hot_s", "session_log_s"})
    freshness = _mapping(top.get("freshness", {}), "freshness", {"stale"})
    pii = _mapping(top.get("pii", {}), "pii", {"mask", "originals"})
    return Policy(
        name=name,
        version=version,
        tokenizer=_tokenizer(top, tokenizers),
        budget_tokens=_integer(top.get("budget_tokens", 8000), "budget_tokens", 1, limits.budget_tokens_max),
        prompts=_prompts(top.get("prompts", [])),
        sources=_sources(top.get("sources", dict.fromkeys(SOURCES))),
        recall_floor=_flag(recall.get("floor", True), "recall.floor"),
        embed_ms=_integer(deadlines.get("embed_ms", 200), "deadlines.embed_ms", 0, 60_000),
        session_hot_s=_integer(ttl.get("session_hot_s", 86_400), "ttl.session_hot_s", 1, 31_536_000),
        session_log_s=_kept_s(ttl.get("session_log_s", 0), "ttl.session_log_s"),
        stale=_flag(freshness.get("stale", False), "freshness.stale"),
        lifetimes=_lifetimes(top.get("facts", {})),
        mask=_flag(pii.get("mask", False), "pii.mask"),
        originals=_flag(pii.get("originals", True), "pii.originals"),
    )


def digest(document: str) -> bytes:
    """Return the SHA-256 of a document's meaning: comments, layout and key order do not count."""
    return canonical.sha256(_flat(_load(document)))


def _flat(value: Any) -> list[canonical.Field]:
    if isinstance(value, dict):
        return ["{", *(part for key in sorted(value, key=str) for part in (str(key), *_flat(value[key]))), "}"]
    if isinstance(value, list):
        return ["[", *(part for item in value for part in _flat(item)), "]"]
    return [type(value).__name__, str(value)]


def _tokenizer(top: Mapping[str, Any], tokenizers: Tokenizers) -> str:
    for key in ("tokenizer", "model"):
        if key in top and not isinstance(top[key], str):
            raise PolicyInvalid("must be text", field=key)
    try:
        if "model" in top:
            return tokenizers.for_model(top["model"])
        return tokenizers.get(top.get("tokenizer", tokenizers.written[0])).name
    except TokenizerUnknown as error:
        raise PolicyInvalid(error.message, field="model" if "model" in top else "tokenizer") from None


def _prompts(raw: Any) -> tuple[Prompt, ...]:
    if not isinstance(raw, list):
        raise PolicyInvalid("must be a list of {name, text}", field="prompts")
    prompts, size = [], 0
    for index, item in enumerate(raw):
        path = f"prompts[{index}]"
        fields = _mapping(item, path, {"name", "text"})
        name, text = fields.get("name", ""), fields.get("text")
        if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
            raise PolicyInvalid("must be at most 128 characters of A-Z a-z 0-9 . _ -", field=f"{path}.name")
        if not isinstance(text, str) or not text.strip():
            raise PolicyInvalid("must be text that is not blank", field=f"{path}.text")
        if _CONTROL.search(text):
            raise PolicyInvalid(
                "must hold no control characters but tab, newline and carriage return", field=f"{path}.text"
            )
        if text.lstrip().startswith("/"):  # would join the line before it into one token; see `sidecar.tokens`
            raise PolicyInvalid("must not begin with a slash", field=f"{path}.text")
        prompts.append(Prompt(name, text))
        size += len(text.encode())
        if size > limits.policy_bytes:  # a small document can name one text many times
            raise LimitExceeded(
                f"the prompts are more than {limits.policy_bytes} bytes",
                field=path,
                limit="policy_bytes",
                maximum=limits.policy_bytes,
                actual=size,
            )
    return tuple(prompts)


def _sources(raw: Any) -> dict[bundle_pb2.Source, SourceRule]:
    fields = _mapping(raw, "sources", set(SOURCES))
    caps = {"profile": "5%", "summary": "10%", "history": "65%", "recall": "100%", "facts": "10%", "documents": "15%"}
    reserves = {"recall": "25%"}
    priorities = {"history": 1, "summary": 2}
    rules = {}
    for name, source in SOURCES.items():
        if name in fields:
            rule = _mapping(
                {} if fields[name] is None else fields[name], f"sources.{name}", {"cap", "reserve", "priority"}
            )
            rules[source] = SourceRule(
                _amount(rule.get("cap", caps[name]), f"sources.{name}.cap"),
                _amount(rule.get("reserve", reserves.get(name, 0)), f"sources.{name}.reserve"),
                _integer(rule.get("priority", priorities.get(name, 3)), f"sources.{name}.priority", 1, 9),
            )
    if sum(rule.reserve.percent or 0 for rule in rules.values()) > 100:
        raise PolicyInvalid("the reserves add up to more than 100%", field="sources")
    return rules


def _lifetimes(raw: Any) -> dict[str, Lifetime]:
    kinds = _mapping(raw, "facts", {"kinds"}).get("kinds", {})
    if not isinstance(kinds, dict):
        raise PolicyInvalid("must be a mapping of kinds", field="facts.kinds")
    lifetimes = {}
    for kind, fields in kinds.items():
        if not isinstance(kind, str) or not _NAME.fullmatch(kind):
            raise PolicyInvalid("a kind is 1 to 128 characters of A-Z a-z 0-9 . _ -", field="facts.kinds")
        path = f"facts.kinds.{kind}"
        rule = _mapping(fields, path, {"ttl_s", "half_life_s"})
        lifetimes[kind] = Lifetime(
            ttl_s=_integer(rule.get("ttl_s", 0), f"{path}.ttl_s", 0, _LIFETIME_S_MAX),
            half_life_s=_integer(rule.get("half_life_s", 0), f"{path}.half_life_s", 0, _LIFETIME_S_MAX),
        )
    return lifetimes


def _amount(raw: Any, path: str) -> Amount:
    if isinstance(raw, str) and re.fullmatch(r"\d{1,3}%", raw) and int(raw[:-1]) <= 100:
        return Amount(percent=int(raw[:-1]))
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= limits.budget_tokens_max:
        return Amount(tokens=raw)
    raise PolicyInvalid(f'must be 0 to {limits.budget_tokens_max} tokens, or "0%" to "100%"', field=path)


def _flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyInvalid("must be true or false", field=path)
    return value


def _integer(raw: Any, path: str, low: int, high: int) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or not low <= raw <= high:
        raise PolicyInvalid(f"must be a whole number from {low} to {high}", field=path)
    return raw


def _kept_s(raw: Any, path: str) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool) and raw != 0 and not _LOG_S[0] <= raw <= _LOG_S[1]:
        raise PolicyInvalid(f"must be 0, for ever, or {_LOG_S[0]} to {_LOG_S[1]} seconds", field=path)
    return _integer(raw, path, 0, _LOG_S[1])


def _mapping(raw: Any, path: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise PolicyInvalid(f"must be a mapping of {', '.join(sorted(known))}", field=path or "document_yaml")
    for key in raw:
        if key not in known:
            shown = key if isinstance(key, str) and _NAME.fullmatch(key) else "?"
            raise PolicyInvalid(
                f"no such setting; known: {', '.join(sorted(known))}", field=f"{path}.{shown}".lstrip(".")
            )
    return raw
