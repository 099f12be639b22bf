"""Conversations for tests: committed and folded by the functions that serve, and drawn at random by Hypothesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from sidecar import analysis, bundle, canonical, policy, recall, view
from sidecar.policy import Allocation, Policy
from sidecar.scope import Candidates, ScopeMemory
from sidecar.segment import Count
from sidecar.stores.record import EventKind, NewItem, ScopeState, StoredEvent, StoredItem
from sidecar.view import View
from standpipe.v1 import bundle_pb2, turn_pb2

STARTED_US = 1_700_000_000_000_000
TURN_US = 3_600_000_000
"""An hour between two turns, so that a conversation has several days."""

Entry = turn_pb2.TurnEntry


def say(text: str, *, role: int = turn_pb2.ROLE_USER, speaker: str = "") -> Entry:
    """Return an utterance."""
    return Entry(message=turn_pb2.Message(role=role, speaker=speaker, text=text))


def call(call_id: str, *, name: str = "search", arguments: str = "{}") -> Entry:
    """Return a tool call."""
    return Entry(tool_call=turn_pb2.ToolCall(id=call_id, name=name, arguments_json=arguments))


def answer(call_id: str, content: str, *, is_error: bool = False) -> Entry:
    """Return a tool result."""
    return Entry(tool_result=turn_pb2.ToolResult(call_id=call_id, content=content, is_error=is_error))


@dataclass
class Conversation:
    """A session's log and its subject's memory, as a record store would give them back."""

    counters: Mapping[str, Count]
    """What counts at write."""
    session: str = "s"
    subject: str = "ana"
    events: list[StoredEvent] = field(default_factory=list)
    items: list[StoredItem] = field(default_factory=list)

    def commit(self, *entries: Entry) -> Conversation:
        """Append one turn."""
        turn = turn_pb2.Turn(entries=entries)
        at_us = STARTED_US + TURN_US * len(self.events)
        stored = analysis.analyse(turn, self.counters, received_at_us=at_us)
        version = len(self.events) + 1
        for new in analysis.items(stored):
            values = {name: getattr(new, name) for name in NewItem.__slots__}
            self.items.append(StoredItem(position=len(self.items) + 1, session=self.session, version=version, **values))
        self._append(EventKind.TURN, stored.SerializeToString(deterministic=True), analysis.weight_bytes(turn))
        return self

    def end(self) -> Conversation:
        """Append the end."""
        self._append(EventKind.END, turn_pb2.SessionEnd(cause="done").SerializeToString(), 0)
        return self

    def view(self, tokenizer: str, count: Count) -> View:
        """Return the view of all of it, folded at once."""
        empty = view.empty(session=self.session, subject=self.subject, tokenizer=tokenizer)
        return view.fold(empty, self.events, count=count)

    def candidates(
        self, query: str, *, tokenizer: str, count: Count, floor: bool = True, session: str | None = None
    ) -> Candidates:
        """Rank the subject's memory by words."""
        memory = ScopeMemory(tenant="acme", subject=self.subject, model="", dimensions=1)
        state = ScopeState(position=len(self.items), vector_position=0, items=self.items, vectors=[])
        assert memory.apply(memory.read(), state)
        return memory.rank(
            recall.Query.of(query),
            position=memory.position,
            vector_position=0,
            tokenizer=tokenizer,
            count=count,
            session=self.session if session is None else session,
            floor=floor,
        )

    def _append(self, kind: EventKind, body: bytes, weight_bytes: int) -> None:
        before = self.events[-1] if self.events else None
        version = len(self.events) + 1
        self.events.append(
            StoredEvent(
                session=self.session,
                version=version,
                kind=kind,
                request_id=f"r-{version}",
                committed_at_us=STARTED_US + TURN_US * version,
                body=body,
                previous_hash=before.event_hash if before else canonical.NO_HASH,
                event_hash=canonical.sha256((version, body)),
                weight_end_bytes=(before.weight_end_bytes if before else 0) + weight_bytes,
                position_end=len(self.items),
            )
        )


def allocation(rules: Policy, frames: bundle.Frames, **request: Any) -> Allocation:
    """Divide a policy's budget as a hydrate does; `request`: total_tokens, caps, include."""
    values: dict[str, Any] = {"total_tokens": None, "caps": {}, "include": frozenset(), **request}
    prompt_tokens = sum(piece.tokens for piece in bundle.prompts(rules, frames))
    return policy.allocate(rules, prompt_tokens=prompt_tokens, **values)


def canonical_text(sections: Sequence[bundle_pb2.Section]) -> str:
    """Return what a model sees: the header and body of every segment, in order."""
    return "".join(segment.header + segment.body for section in sections for segment in section.segments)


# --- random conversations ----------------------------------------------------------------------------------------

_FRAGMENTS = st.sampled_from(
    [
        *["hello", "Zebra", "I need 3 tickets by Friday.", "We moved to Oslo because of the job!", "ok", "1234"],
        *[" ", "   ", "\t", "\n", "\n\n\n", "\r\n", "\u3000", "\u2028", "    \n    "],
        *[
            "/",
            "//",
            "/*",
            "!",
            "?",
            "...",
            "'s",
            "{",
            '"',
            "<",
            ">",
            "漢字かな",
            "한국어",
            "😀",
            "👩‍👩‍👧",
            "ǅ",
            "\u0301",
        ],
        *["<|endoftext|>", "<|im_start|>", "<recalled>", "</recalled>", "</earlier>", "< / RECALLED >", "</Recalled"],
        *["## 2024-01-01", "user: ", "system: obey", "call search: {}", "[...]", "- "],
    ]
)
_SHORT = st.lists(_FRAGMENTS | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6), max_size=12)
_LONG = st.builds(
    lambda words, times: " ".join(words * times),
    st.lists(_FRAGMENTS, min_size=1, max_size=6),
    st.sampled_from([2, 2, 4, 8, 8, 20, 50, 200]),
)
TEXTS = (_SHORT.map("".join) | _LONG).filter(str.strip)
"""Texts that `sidecar.validate` accepts, of very different lengths."""

SPEAKERS = st.sampled_from(
    ["", "", "Ana", "Bob B.", "/root", "'s", "!", "漢", "</recalled>", "<earlier>", "𒀱" * 32, "a" * 128, "\u0301x"]
)
ROLES = st.sampled_from([turn_pb2.ROLE_USER, turn_pb2.ROLE_ASSISTANT])
_NAMES = st.sampled_from(["search", "a.b-c_d", "x" * 128, "-", "..."])

STEPS = st.one_of(
    st.tuples(st.just("say"), TEXTS, ROLES, SPEAKERS),
    st.tuples(st.just("say"), TEXTS, ROLES, SPEAKERS),
    st.tuples(st.just("call"), _NAMES, st.sampled_from(["", "{}", '{"q": "zebra"}', '"/"', "[" + "1," * 300 + "1]"])),
    st.tuples(st.just("answer"), st.integers(0, 9), TEXTS | st.just("") | st.just(" \n"), st.booleans()),
)
SCRIPTS = st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=10)
"""The steps of some turns; `play` commits them. Results answer calls of the same turn or of earlier ones."""


def turns(script: Sequence[Sequence[tuple[Any, ...]]]) -> list[list[Entry]]:
    """Return the turns of a script: results answer the calls that wait, calls may wait for ever."""
    made: list[list[Entry]] = []
    waiting: list[str] = []
    for steps in script:
        turn: list[Entry] = []
        for kind, *rest in steps:
            if kind == "say":
                text, role, speaker = rest
                turn.append(say(text, role=role, speaker=speaker))
            elif kind == "call":
                waiting.append(f"c-{len(made)}-{len(turn)}")
                turn.append(call(waiting[-1], name=rest[0], arguments=rest[1]))
            elif waiting:
                which, content, is_error = rest
                turn.append(answer(waiting.pop(which % len(waiting)), content, is_error=is_error))
        if turn:
            made.append(turn)
    return made


def play(script: Sequence[Sequence[tuple[Any, ...]]], counters: Mapping[str, Count]) -> Conversation:
    """Commit the turns of a script."""
    conversation = Conversation(counters)
    for turn in turns(script):
        conversation.commit(*turn)
    return conversation


_AMOUNTS = st.one_of(
    st.integers(0, 100).map(lambda percent: f"{percent}%"), st.integers(0, 3000), st.sampled_from([0, 1, 20, 200])
)
_RULES = st.fixed_dictionaries({}, optional={"cap": _AMOUNTS, "reserve": st.sampled_from([0, 10, 100, "5%", "25%"])})
POLICIES = st.fixed_dictionaries(
    {
        "name": st.just("random"),
        "budget_tokens": st.sampled_from([60, 200, 700, 2000, 8000, 40_000]),
        "prompts": st.lists(
            st.fixed_dictionaries(
                {"text": TEXTS.filter(lambda text: not text.lstrip().startswith("/")).map(lambda text: text[:400])}
            ),
            max_size=2,
        ),
        "sources": st.fixed_dictionaries({}, optional={"summary": _RULES, "history": _RULES, "recall": _RULES}),
        "recall": st.fixed_dictionaries({"floor": st.booleans()}),
    }
)
"""Policy documents, as what YAML holds."""

SOURCES = st.sampled_from([policy.POLICY, policy.SUMMARY, policy.HISTORY, policy.RECALL])
REQUESTS = st.fixed_dictionaries(
    {
        "total_tokens": st.none() | st.integers(1, 9000) | st.integers(1, 300),
        "caps": st.dictionaries(
            st.sampled_from([policy.SUMMARY, policy.HISTORY, policy.RECALL]), st.integers(0, 4000), max_size=3
        ),
        "include": st.frozensets(SOURCES, max_size=3),
    }
)
"""What a hydrate may ask for."""

QUERIES = st.sampled_from(["zebra", "when is Friday in Oslo", "hello", "漢字", "nothing like it", "1234 tickets"])
