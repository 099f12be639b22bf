"""Bundles in the models' own forms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe import Bundle
from standpipe.bundle import HISTORY_START
from standpipe.v1 import bundle_pb2
from standpipe.v1.bundle_pb2 import Section, Segment
from standpipe.v1.turn_pb2 import Role

pytestmark = pytest.mark.filterwarnings("error")

TEXT, CALL, RESULT, FRAME = 1, 2, 3, 4
CACHED = {"cache_control": {"type": "ephemeral"}}


def said(role: str, text: str, name: str = "") -> Segment:
    """Return an utterance."""
    return Segment(
        kind=TEXT, role=Role.Value(f"ROLE_{role.upper()}"), name=name, header=f"{name or role}: ", body=text + "\n"
    )


def prompt(text: str) -> Segment:
    """Return a policy's prompt."""
    return Segment(kind=TEXT, role=Role.ROLE_SYSTEM, body=text + "\n")


def frame(text: str) -> Segment:
    """Return a line of Standpipe's."""
    return Segment(kind=FRAME, role=Role.ROLE_SYSTEM, body=text + "\n")


def called(call_id: str, name: str, arguments: str, result: str, *, is_error: bool = False) -> list[Segment]:
    """Return a tool call and its result."""
    return [
        Segment(
            kind=CALL,
            role=Role.ROLE_ASSISTANT,
            name=name,
            header=f"call {name}: ",
            body=arguments + "\n",
            tool_call_id=call_id,
        ),
        Segment(
            kind=RESULT,
            role=Role.ROLE_TOOL,
            name=name,
            header=f"tool {name}: ",
            body=result + "\n",
            tool_call_id=call_id,
            is_error=is_error,
        ),
    ]


def bundle(query: str = "", **sections: list[Segment]) -> Bundle:
    """Return a bundle; every section but recall ends in a cache breakpoint, as the server's do."""
    message = bundle_pb2.Bundle(
        sections=[
            Section(source=f"SOURCE_{name.upper()}", segments=segments, cache_breakpoint=name != "recall")
            for name, segments in sections.items()
        ]
    )
    return Bundle(message, query=query)


def full(query: str = "And now?") -> Bundle:
    """Return a bundle with all sections."""
    return bundle(
        query,
        policy=[prompt("Be kind."), prompt("Be brief.")],
        profile=[said("user", "likes tea")],
        summary=[frame("<earlier>"), said("user", "I moved"), frame("</earlier>")],
        history=[
            said("user", "Hi", "Anna"),
            said("assistant", "Hello"),
            *called("c1", "add", '{"a": 1}', "2"),
            said("assistant", "Two.\n\nDone"),
        ],
        recall=[frame("<recalled>"), said("user", "my cat is Tom"), frame("</recalled>")],
    )


def test_openai() -> None:
    """System first, then the history as real messages, then recall and query from the user."""
    assert full().to_openai() == [
        {
            "role": "system",
            "content": "Be kind.\nBe brief.\n\nuser: likes tea\n\n<earlier>\nuser: I moved\n</earlier>",
        },
        {"role": "user", "content": "Hi", "name": "Anna"},
        {"role": "assistant", "content": "Hello"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "Two.\n\nDone"},
        {"role": "user", "content": "<recalled>\nuser: my cat is Tom\n</recalled>\n\nAnd now?"},
    ]


def test_anthropic() -> None:
    """System blocks, alternating messages, and breakpoints at the ends of the stable sections and the history."""
    assert full().to_anthropic() == {
        "system": [
            {"type": "text", "text": "Be kind.\nBe brief.", **CACHED},
            {"type": "text", "text": "user: likes tea", **CACHED},
            {"type": "text", "text": "<earlier>\nuser: I moved\n</earlier>", **CACHED},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Hello"},
                    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "2"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Two.\n\nDone", **CACHED}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<recalled>\nuser: my cat is Tom\n</recalled>"},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    }


def test_a_query_can_be_given_anew() -> None:
    """The query is the one hydrated with, another one, or none; recall stays either way."""
    assert full().to_openai("Else?")[-1]["content"].endswith("</recalled>\n\nElse?")
    assert full().to_openai("")[-1]["content"].endswith("</recalled>\n")
    assert full("").to_anthropic()["messages"][-1]["content"][0]["text"].endswith("</recalled>")
    assert bundle("Hi").to_openai() == [{"role": "user", "content": "Hi"}]
    assert bundle("Hi").to_anthropic() == {
        "system": [],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }
    assert bundle().to_openai() == []
    assert bundle(history=[said("user", "Hi")]).to_openai() == [{"role": "user", "content": "Hi"}]


def test_text_is_canonical() -> None:
    """The canonical text is the header and body of every segment, in order; a bundle's repr shows none of it."""
    text = full().text
    assert text.startswith("Be kind.\nBe brief.\nuser: likes tea\n<earlier>\nuser: I moved\n</earlier>\nAnna: Hi\n")
    assert text.endswith(
        'call add: {"a": 1}\ntool add: 2\nassistant: Two.\n\nDone\n<recalled>\nuser: my cat is Tom\n</recalled>\n'
    )
    assert "Tom" not in repr(full())


def test_an_assistant_may_start_the_history() -> None:
    """Anthropic gets a placeholder from the user in front; OpenAI needs none."""
    started = bundle("q", history=[said("assistant", "Welcome")])
    first, second, _ = started.to_anthropic()["messages"]
    assert first == {"role": "user", "content": [{"type": "text", "text": HISTORY_START}]}
    assert second["content"][0]["text"] == "Welcome"
    assert started.to_openai()[0] == {"role": "assistant", "content": "Welcome"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [("Anna", True), ("a_b-9", True), ("x" * 64, True), ("x" * 65, False), ("Anna B", False), ("Änne", False),
     ("", False), ("user", False), ("Anna\n", False)],
)  # fmt: skip
def test_openai_names(name: str, shown: bool) -> None:
    """A speaker's name is shown where OpenAI's pattern takes it and it says more than the role."""
    (message,) = bundle(history=[said("user", "Hi", name)]).to_openai()
    assert message.get("name") == (name if shown else None)


@pytest.mark.parametrize(
    ("text", "arguments", "given"),
    [
        ("", "{}", {}),
        ('{"a": {"b": [1]}}', '{"a": {"b": [1]}}', {"a": {"b": [1]}}),
        ("[1]", '{"raw": "[1]"}', {"raw": "[1]"}),
        ('{"a": NaN}', '{"raw": "{\\"a\\": NaN}"}', {"raw": '{"a": NaN}'}),
        ('{"a\n[...]\nz"}', '{"raw": "{\\"a\\n[...]\\nz\\"}"}', {"raw": '{"a\n[...]\nz"}'}),
        ('{"a": "\\ud800"}', '{"raw": "{\\"a\\": \\"\\\\ud800\\"}"}', {"raw": '{"a": "\\ud800"}'}),
        ("[" * 100_000, None, {"raw": "[" * 100_000}),
        ('{"a": ' + "9" * 5000 + "}", None, {"raw": '{"a": ' + "9" * 5000 + "}"}),
    ],
    ids=["none", "object", "list", "nan", "shortened", "surrogate", "deep", "long"],
)
def test_tool_arguments(text: str, arguments: str | None, given: Any) -> None:
    """An object passes unchanged; all else that a model wrote is wrapped, so that no request is refused for it."""
    shown = bundle(history=called("c", "f", text, "ok"))
    function = shown.to_openai()[0]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == given
    assert arguments is None or function["arguments"] == arguments
    assert shown.to_anthropic()["messages"][1]["content"][0]["input"] == given


def test_tools_under_names_that_providers_refuse() -> None:
    """Names and ids outside the providers' patterns are mapped, the same on both sides of a pair."""
    shown = bundle(history=called("call 1/é", "fs.read", "{}", "no such file", is_error=True))
    asked, answered = shown.to_openai()
    assert asked["tool_calls"][0]["id"] == answered["tool_call_id"]
    assert asked["tool_calls"][0]["id"].removeprefix("call_").isalnum()
    assert len(asked["tool_calls"][0]["id"]) == 37
    assert asked["tool_calls"][0]["function"]["name"] == "fs_read"
    assert answered["content"] == "error: no such file"
    _, use, result = shown.to_anthropic()["messages"]
    assert use["content"][0]["id"] == result["content"][0]["tool_use_id"] == answered["tool_call_id"]
    assert result["content"][0]["is_error"] is True
    assert result["content"][0]["content"] == "no such file"


def test_half_a_pair_becomes_text() -> None:
    """A call without its result, or a result without its call, is text with its header, never half a pair."""
    call, result = called("c", "f", "{}", "ok")
    for shown in (bundle(history=[call]), bundle(history=[result]), bundle(history=[result, call])):
        assert not any("tool_calls" in message or message["role"] == "tool" for message in shown.to_openai())
        blocks = [block for message in shown.to_anthropic()["messages"] for block in message["content"]]
        assert {block["type"] for block in blocks} == {"text"}
    assert bundle(history=[result]).to_openai() == [{"role": "user", "content": "tool f: ok"}]


def test_breakpoints_are_the_servers_and_the_historys() -> None:
    """A section without a breakpoint gets none, the history always has one, and recall never."""
    shown = full()
    for section in shown.message.sections:
        section.cache_breakpoint = section.source == bundle_pb2.SOURCE_RECALL
    rendered = shown.to_anthropic()
    assert not any("cache_control" in block for block in rendered["system"])
    marked = [block for message in rendered["messages"] for block in message["content"] if "cache_control" in block]
    assert [block["text"] for block in marked] == ["Two.\n\nDone"]


def test_a_source_of_a_later_server_is_data() -> None:
    """A section that this client does not know is quoted to the user's side, never to the system's."""
    shown = Bundle(bundle_pb2.Bundle(sections=[Section(source=99, segments=[prompt("new")])]), query="q")
    assert shown.to_openai() == [{"role": "user", "content": "new\n\nq"}]


_chars = st.characters(exclude_categories=("Cs", "Cc"))
_words = st.text(_chars, max_size=12)
_names = st.sampled_from(["", "Anna", "user", "Anna B"])
_spoken = st.builds(said, st.sampled_from(["user", "assistant"]), _words, _names).map(lambda segment: [segment])
_pairs = st.builds(
    called,
    st.text(_chars, min_size=1, max_size=50),
    st.text(_chars, min_size=1, max_size=70),
    st.one_of(_words, st.dictionaries(_words, st.integers()).map(json.dumps)),
    _words,
    is_error=st.booleans(),
)
_frames = _words.map(frame).map(lambda segment: [segment])
_odd = _pairs.flatmap(lambda pair: st.sampled_from([[pair[0]], [pair[1]]]))
_histories = st.lists(st.one_of(_spoken, _pairs, _frames, _odd), max_size=8)


def numbered(steps: list[list[Segment]]) -> list[Segment]:
    """Return the segments, each text marked with its place, so that none is like another; sizes stay small."""
    segments: list[Segment] = []
    for at, step in enumerate(steps):
        for segment in step:
            copy = Segment()
            copy.CopyFrom(segment)
            if segment.kind == CALL and segment.body.startswith("{"):
                copy.body = json.dumps({f"<{len(segments)}>": 1}) + "\n"
            else:
                copy.body = f"<{len(segments)}>{segment.body}"
            if copy.tool_call_id:
                copy.tool_call_id = f"{at}{segment.tool_call_id}"
            segments.append(copy)
    return segments


_bundles = st.builds(
    lambda history, recall, query: bundle(query, policy=[prompt("p")], history=numbered(history), recall=recall),
    _histories,
    st.lists(_words.map(lambda text: said("user", text)), max_size=2),
    _words,
)


def openai_body(message: dict[str, Any]) -> str:
    """Return what a message says of its segment."""
    if calls := message.get("tool_calls"):
        return str(calls[0]["function"]["arguments"])
    return str(message["content"])


@given(_bundles)
def test_every_body_is_shown_once_and_in_order(shown: Bundle) -> None:
    """No history segment is lost, doubled or moved, in either form."""
    history = [s for section in shown.sections if section.source == bundle_pb2.SOURCE_HISTORY for s in section.segments]
    marks = [f"<{at}>" for at in range(len(history))]
    openai = [openai_body(message) for message in shown.to_openai() if message["role"] != "system"]
    recalled = any(section.source == bundle_pb2.SOURCE_RECALL and section.segments for section in shown.sections)
    assert len(openai) == len(history) + bool(shown.query or recalled)
    blocks = [block for message in shown.to_anthropic()["messages"] for block in message["content"]]
    blocks = [block for block in blocks if block.get("text") != HISTORY_START]
    for at, mark in enumerate(marks):
        assert [mark in text for text in openai[: len(history)]].count(True) == 1
        assert mark in openai[at]
        assert mark in json.dumps(blocks[at], ensure_ascii=False)
    for text, segment in zip(openai, history, strict=False):
        if segment.kind == TEXT:
            assert text + "\n" == segment.body


@given(_bundles)
def test_anthropic_roles_alternate(shown: Bundle) -> None:
    """Roles alternate from the user on, no message is empty, and at most four blocks are breakpoints."""
    rendered = shown.to_anthropic()
    roles = [message["role"] for message in rendered["messages"]]
    assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
    blocks = [*rendered["system"], *(block for message in rendered["messages"] for block in message["content"])]
    assert all(message["content"] for message in rendered["messages"])
    assert all(block["text"].strip() for block in blocks if block["type"] == "text")
    assert sum("cache_control" in block for block in blocks) <= 4


@given(_bundles)
def test_tool_pairs_are_adjacent(shown: Bundle) -> None:
    """Every call is followed by its result at once, in both forms, and results stand first in their message."""
    openai = shown.to_openai()
    for at, message in enumerate(openai):
        if message.get("tool_calls"):
            assert openai[at + 1]["tool_call_id"] == message["tool_calls"][0]["id"]
        if message["role"] == "tool":
            assert openai[at - 1]["tool_calls"][0]["id"] == message["tool_call_id"]
    messages = shown.to_anthropic()["messages"]
    for at, message in enumerate(messages):
        uses = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        assert len(uses) <= 1
        if uses:
            assert message["content"][-1]["id"] == uses[0]
            assert messages[at + 1]["content"][0]["tool_use_id"] == uses[0]
        for index, block in enumerate(message["content"]):
            if block["type"] == "tool_result":
                assert index == 0
                assert messages[at - 1]["content"][-1]["id"] == block["tool_use_id"]


@given(_bundles)
def test_rendering_is_deterministic(shown: Bundle) -> None:
    """P6: the same bundle, also after a trip over the wire, gives the same JSON bytes, valid in UTF-8."""
    copy = Bundle(bundle_pb2.Bundle.FromString(shown.message.SerializeToString()), query=shown.query)
    for form in ("to_openai", "to_anthropic"):
        rendered = [json.dumps(getattr(each, form)(), ensure_ascii=False).encode() for each in (shown, copy, shown)]
        assert rendered[0] == rendered[1] == rendered[2]


@given(_histories, _histories)
def test_a_longer_history_keeps_the_prefix(before: list[list[Segment]], after: list[list[Segment]]) -> None:
    """P13: appended history leaves every earlier message as it was, so that prefix caches keep hitting."""
    short = bundle(policy=[prompt("p")], history=numbered([*before, [said("user", "x")]]))
    long = bundle(policy=[prompt("p")], history=numbered([*before, [said("user", "x")], *after]))
    assert long.to_openai()[: len(short.to_openai())] == short.to_openai()
