"""Other systems' files become the same turns for ever: golden files, properties, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import importers, limits, validate
from sidecar.errors import InvalidField, LimitExceeded
from sidecar.importers import Found
from standpipe.v1.turn_pb2 import Role, Turn, TurnEntry

HERE = Path(__file__).parent / "importers"
CASES = {
    "openai-chat.json": ("openai", {}),
    "openai-lines.jsonl": ("openai", {}),
    "redis-lists.json": ("redis-json", {"newest_first": True}),
    "redis-session.json": ("redis-json", {"prefix": "old"}),
    "mem0.json": ("mem0", {}),
    "letta.json": ("letta", {}),
    "letta-old.json": ("letta", {}),
}


def line(entry: TurnEntry) -> str:
    """Return an entry on one line."""
    kind = entry.WhichOneof("entry")
    if kind == "tool_call":
        return f"call {entry.tool_call.id} {entry.tool_call.name} {entry.tool_call.arguments_json}".rstrip()
    if kind == "tool_result":
        result = entry.tool_result
        return f"result {result.call_id} {'error ' if result.is_error else ''}{result.content}"
    message = entry.message
    at = message.spoken_at.ToJsonString() if message.HasField("spoken_at") else "-"
    parts = [part.text or f"<{part.media.media_type} {part.media.uri}>" for part in message.parts]
    said = message.text or " + ".join(parts)
    who = Role.Name(message.role).removeprefix("ROLE_").lower()
    return f"{who} {json.dumps(message.speaker)} {at} {json.dumps(said)}"


def told(found: Found) -> str:
    """Return what was found as text."""
    rows = [f"{turn.session} {turn.request_id} {line(entry)}" for turn in found.turns for entry in turn.entries]
    return "\n".join([*rows, *(f"left out {why}: {count}" for why, count in sorted(found.left_out.items()))]) + "\n"


def openai(*messages: Any, **options: Any) -> Found:
    """Read messages."""
    return importers.read(json.dumps(messages).encode(), "openai", **options)


@pytest.mark.parametrize("name", CASES)
def test_a_format_is_read_as_it_was(name: str) -> None:
    """Sessions, entries and request ids of each format are those of the golden file: others would import twice."""
    form, options = CASES[name]
    found = importers.read((HERE / name).read_bytes(), form, **options)
    assert told(found) == (HERE / f"{name}.golden").read_text()


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_can_be_committed(name: str) -> None:
    """Every turn of every format passes the checks of CommitTurn, and no id stands for two turns."""
    form, options = CASES[name]
    found = importers.read((HERE / name).read_bytes(), form, **options)
    seen = {(turn.session, turn.request_id) for turn in found.turns}
    assert len(seen) == len(found.turns)
    opened: dict[str, set[str]] = {}
    for turn in found.turns:
        validate.identifier(turn.session, "session_id")
        validate.request_id(turn.request_id)
        validate.turn(Turn(entries=turn.entries))
        for entry in turn.entries:
            if entry.HasField("tool_call"):
                opened.setdefault(turn.session, set()).add(entry.tool_call.id)
            if entry.HasField("tool_result"):
                assert entry.tool_result.call_id in opened[turn.session]


def test_what_a_peers_model_wrote_is_never_the_users() -> None:
    """P10: memories of peers are words of a model, under the peer's name; nothing of them is a user's, or a fact."""
    for name in ("mem0.json", "redis-session.json", "letta.json", "letta-old.json"):
        form, options = CASES[name]
        found = importers.read((HERE / name).read_bytes(), form, **options)
        quoted = [turn for turn in found.turns if turn.session.endswith(("memories", "blocks", "trip"))]
        assert quoted
        for turn in quoted:
            (entry,) = turn.entries
            assert entry.message.role == Role.ROLE_ASSISTANT
            assert entry.message.speaker in ("mem0", "letta", "agent-memory-server")


SAID = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.sampled_from(["ok", "no", "a longer one", " "])}
)


@given(st.lists(SAID, max_size=12), st.integers(0, 12))
def test_a_log_that_has_grown_adds_what_is_new(messages: list[dict[str, str]], cut: int) -> None:
    """What a shorter file gave, the grown one gives again under the same ids, equal messages each with its own."""
    before = openai(*messages[:cut], prefix="chat").turns
    after = openai(*messages, prefix="chat").turns
    assert after[: len(before)] == before
    assert len({turn.request_id for turn in after}) == len(after)


@given(st.permutations(["one", "two", "three", "three"]))
def test_memories_may_come_in_any_order(texts: list[str]) -> None:
    """A peer lists memories as it likes: the ids are the same, and a memory listed twice has one."""
    rows = [{"id": text, "memory": text} for text in texts]
    found = importers.read(json.dumps(rows).encode(), "mem0").turns
    sorted_rows = importers.read(json.dumps(sorted(rows, key=lambda row: row["id"])).encode(), "mem0").turns
    assert {turn.request_id for turn in found} == {turn.request_id for turn in sorted_rows}
    assert len({turn.request_id for turn in found}) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9**20) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                "role content type data messages name tool_calls id function arguments memory text created_at results"
                " agents blocks value label tool_call_id function_call user_id run_id parts image_url memories".split()
            )
            | st.text(max_size=3),
            inner | st.sampled_from(["user", "assistant", "tool", "human", "ai", "function_call", "system"]),
            max_size=6,
        )
    ),
    max_leaves=24,
)


@given(document=JSON, form=st.sampled_from(sorted(importers.FORMATS)), indented=st.booleans())
def test_any_json_is_read_or_refused(*, document: Any, form: str, indented: bool) -> None:
    """Whatever stands in a file, it becomes turns or an error that names a line and a field, and nothing else."""
    text = json.dumps(document, indent=2 if indented else None)
    try:
        found = importers.read(text.encode(), form)
    except InvalidField as error:
        refused = error
    else:
        assert all(turn.entries and found.place(turn.path).startswith("line ") for turn in found.turns)
        return
    assert refused.field
    assert 1 <= int(refused.metadata["line"]) <= text.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "form", "field", "at"),
    [
        ("", "openai", "file", 1),
        ('[\n{"role": "user", "content": "a"},\n{"role": "user" "content": "b"}]', "openai", "file", 3),
        ('{"messages": []}\nnonsense', "openai", "file", 2),
        ('[\n{"role": "user", "content": "a"},\n\n{"role": "robot"}]', "openai", "[1].role", 4),
        (
            '{"a": [1, {"b": "}"}],\n "messages": [\n  {"role": "user",\n   "content": 7}]}',
            "openai",
            "messages[0].content",
            4,
        ),
        ('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": [4]}', "openai", "[1].messages[0]", 2),
        ('[{"role": "user", "content": "a",\n"created_at": "soon"}]', "openai", "[0].created_at", 2),
        ('[{"role": "user", "content": "a",\n"created_at": 1e300}]', "openai", "[0].created_at", 2),
        ('[{"role": "assistant", "tool_calls": [\n{"function": {"name": 7}}]}]', "openai", "[0].tool_calls[0].name", 2),
        ('[{"role": "user", "content": "\\ud800"}]', "openai", "[0]", 1),
        ('{"k": ["{}"]}', "redis-json", "k[0].role", 1),
        ('{"k": [\n"not json"]}', "redis-json", "k[0]", 2),
        ('{"k": {"user_id": "a", "messages": []}, "l": {"user_id": "b", "messages": []}}', "redis-json", "file", 1),
        ('[{"memory": "a", "user_id": "ana"},\n{"memory": "b", "user_id": "bob"}]', "mem0", "[1].user_id", 2),
        ('{"results": [{"memory": null}]}', "mem0", "results[0].memory", 1),
        ('{"agents": [{"messages": {}}]}', "letta", "agents[0].messages", 1),
        ("[" * 100_000, "openai", "file", 1),
    ],
)
def test_what_is_wrong_names_its_line_and_field(text: str, form: str, field: str, at: int) -> None:
    """A file with an error in it is refused whole: the error says where, and quotes nothing."""
    with pytest.raises(InvalidField) as raised:
        importers.read(text.encode(), form)
    assert (raised.value.field, raised.value.metadata["line"]) == (field, str(at))
    assert "nonsense" not in raised.value.message


def test_bytes_that_are_no_text_are_refused() -> None:
    """A file that is not UTF-8 is refused with the line of the first such byte."""
    with pytest.raises(InvalidField) as raised:
        importers.read(b'[\n"\xff"]', "openai")
    assert raised.value.metadata["line"] == "2"


def test_a_prefix_must_fit_into_a_sessions_id() -> None:
    """A prefix with a blank is refused before anything is read."""
    with pytest.raises(InvalidField) as raised:
        openai({"role": "user", "content": "a"}, prefix="my chats")
    assert raised.value.field == "session"


def test_a_file_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file over import_bytes is refused unread."""
    monkeypatch.setattr(limits, "import_bytes", 10)
    with pytest.raises(LimitExceeded) as raised:
        importers.read(b" " * 11, "openai")
    assert raised.value.metadata["limit"] == "import_bytes"


def test_a_call_that_waits_at_the_end_stays_open() -> None:
    """The last message's calls are calls, since their results may come with the next import; earlier ones are text."""
    call = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "tide", "arguments": "{}"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "low"}
    (waiting,) = openai(call, prefix="s").turns
    whole = openai(call, result, prefix="s").turns
    assert waiting == whole[0]
    assert whole[1].entries[0].tool_result.content == "low"
    left = openai(call, {"role": "user", "content": "well?"}, prefix="s").turns
    assert left[0].entries[0].message.text == "[tide {}]"
