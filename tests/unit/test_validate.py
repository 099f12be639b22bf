"""Validation: each thing that can be wrong is named by its path, nothing that was sent is quoted, limits are exact."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import limits, validate
from sidecar.errors import InvalidField, LimitExceeded, ToolResultWithoutCall
from standpipe.v1 import bundle_pb2, context_pb2, turn_pb2
from tests.unit.conversation import Entry, answer, call, say

SECRET = "hunter2"


def turn(*entries: Entry, **more: Any) -> turn_pb2.Turn:
    """Return a turn of these entries."""
    return turn_pb2.Turn(entries=entries, **more)


def message(**values: Any) -> Entry:
    """Return a message, valid but for `values`."""
    return Entry(message=turn_pb2.Message(**{"role": turn_pb2.ROLE_USER, "text": "x", **values}))


def media(**values: Any) -> Entry:
    """Return a message with one medium, valid but for `values`."""
    one = turn_pb2.Media(**{"uri": "s3://x", "media_type": "image/png", **values})
    return message(text="", parts=[turn_pb2.Part(media=one)])


def ref(session: str = "s", version: int = 1) -> turn_pb2.EventRef:
    """Return a citation."""
    return turn_pb2.EventRef(session_id=session, version=version)


def app(value: str, entry: Entry | None = None) -> Entry:
    """Return an entry with the application's own form of it, alone or beside what was said."""
    made = Entry(app_json=value)
    made.MergeFrom(entry or Entry())
    return made


NAMES = '{"[[[{":'
"""A name that looks like nesting."""


E0 = "turn.entries[0]"


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (turn(), "turn.entries"),
        (turn(Entry()), E0),
        (turn(say("fine"), Entry()), "turn.entries[1]"),
        (turn(message(role=turn_pb2.ROLE_UNSPECIFIED)), f"{E0}.message.role"),
        (turn(message(role=turn_pb2.ROLE_SYSTEM)), f"{E0}.message.role"),
        (turn(message(role=turn_pb2.ROLE_TOOL)), f"{E0}.message.role"),
        (turn(message(role=99)), f"{E0}.message.role"),
        (turn(message(text="")), f"{E0}.message.text"),
        (turn(message(text=" \n")), f"{E0}.message.text"),
        (turn(message(text=f"{SECRET}\x00")), f"{E0}.message.text"),
        (turn(message(text="\x1b[31m")), f"{E0}.message.text"),
        (turn(message(text="\x85")), f"{E0}.message.text"),
        (turn(message(parts=[turn_pb2.Part(text="x")])), f"{E0}.message.text"),
        (turn(message(text="", parts=[turn_pb2.Part()])), f"{E0}.message.parts[0]"),
        (turn(message(text="", parts=[turn_pb2.Part(text=" ")])), f"{E0}.message.parts[0].text"),
        (turn(message(speaker="a\nb")), f"{E0}.message.speaker"),
        (turn(message(speaker="a\u2028b")), f"{E0}.message.speaker"),
        (turn(message(speaker=" ")), f"{E0}.message.speaker"),
        (turn(message(speaker=f"{SECRET} ")), f"{E0}.message.speaker"),
        (turn(message(spoken_at={"seconds": 1 << 50})), f"{E0}.message.spoken_at"),
        (turn(message(spoken_at={"seconds": -(1 << 50)})), f"{E0}.message.spoken_at"),
        (turn(message(spoken_at={"nanos": -1})), f"{E0}.message.spoken_at"),
        (turn(message(citations=[ref(), ref("")])), f"{E0}.message.citations[1].session_id"),
        (turn(message(citations=[ref(version=0)])), f"{E0}.message.citations[0].version"),
        (turn(media(uri="")), f"{E0}.message.parts[0].media.uri"),
        (turn(media(uri="a\nb")), f"{E0}.message.parts[0].media.uri"),
        (turn(media(media_type="")), f"{E0}.message.parts[0].media.media_type"),
        (turn(media(description="\x00")), f"{E0}.message.parts[0].media.description"),
        (turn(call("")), f"{E0}.tool_call.id"),
        (turn(call("a\tb")), f"{E0}.tool_call.id"),
        (turn(call("c", name="")), f"{E0}.tool_call.name"),
        (turn(call("c", name="a b")), f"{E0}.tool_call.name"),
        (turn(call("c", name="x" * 129)), f"{E0}.tool_call.name"),
        (turn(call("c", arguments=f"{{{SECRET}")), f"{E0}.tool_call.arguments_json"),
        (turn(call("c", arguments="[" * 100_000)), f"{E0}.tool_call.arguments_json"),
        (turn(call("c", arguments='"\x00"')), f"{E0}.tool_call.arguments_json"),
        (turn(app(f"{{{SECRET}")), f"{E0}.app_json"),
        (turn(say("x"), app(f'{{"a": {SECRET}}}', say("x"))), "turn.entries[1].app_json"),
        (turn(app(" ")), f"{E0}.app_json"),
        (turn(app("NaN")), f"{E0}.app_json"),
        (turn(app("[1, -Infinity]")), f"{E0}.app_json"),
        (turn(app("{} {}")), f"{E0}.app_json"),
        (turn(app("'x'")), f"{E0}.app_json"),
        (turn(app('"a\nb"')), f"{E0}.app_json"),
        (turn(app('"\x00"')), f"{E0}.app_json"),
        (turn(app('"\\ud800"')), f"{E0}.app_json"),
        (turn(app('["\\uDC00\\ud800"]')), f"{E0}.app_json"),
        (turn(app('{"\\ud83d": 1, "a": "\\ud83d\\ude00"}')), f"{E0}.app_json"),
        (turn(app('{"a": "\\ud800", "a": 1}')), f"{E0}.app_json"),
        (turn(app('"' + "[" * 100_000)), f"{E0}.app_json"),
        (turn(call("c"), call("c")), "turn.entries[1].tool_call.id"),
        (turn(answer("", "x")), f"{E0}.tool_result.call_id"),
        (turn(answer("c", "\x07")), f"{E0}.tool_result.content"),
        (turn(call("c"), answer("c", ""), answer("c", "")), "turn.entries[2].tool_result.call_id"),
        (turn(answer("c", ""), call("c")), f"{E0}.tool_result.call_id"),
    ],
)
def test_what_is_wrong_is_named(bad: turn_pb2.Turn, field: str) -> None:
    """The first thing that is wrong in a turn is named by its path, and what was sent is not repeated (P8)."""
    with pytest.raises(InvalidField) as caught:
        validate.turn(bad)
    assert caught.value.field == field
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.metadata)


def test_a_result_before_its_call_has_a_reason_of_its_own() -> None:
    """A result that stands before its call is ToolResultWithoutCall."""
    with pytest.raises(ToolResultWithoutCall):
        validate.turn(turn(answer("c", "x"), call("c")))


def sized(make: Callable[[int], turn_pb2.Turn], limit: str, field: str) -> Any:
    """Return a case for the test below."""
    return pytest.param(make, limit, field, id=limit)


@pytest.mark.parametrize(
    ("make", "limit", "field"),
    [
        sized(lambda n: turn(*[say("x")] * n), "turn_entries_max", "turn.entries"),
        sized(lambda n: turn(say("x" * n)), "message_bytes", f"{E0}.message.text"),
        sized(lambda n: turn(message(speaker="x" * n)), "name_bytes", f"{E0}.message.speaker"),
        sized(lambda n: turn(message(text="", parts=[turn_pb2.Part(text="x")] * n)), "message_parts_max",
              f"{E0}.message.parts"),
        sized(lambda n: turn(message(citations=[ref()] * n)), "citations_max", f"{E0}.message.citations"),
        sized(lambda n: turn(media(uri="x" * n)), "media_uri_bytes", f"{E0}.message.parts[0].media.uri"),
        sized(lambda n: turn(media(media_type="x" * n)), "media_type_bytes",
              f"{E0}.message.parts[0].media.media_type"),
        sized(lambda n: turn(media(description="x" * n)), "media_description_bytes",
              f"{E0}.message.parts[0].media.description"),
        sized(lambda n: turn(call("c", arguments='"' + "x" * (n - 2) + '"')), "tool_arguments_bytes",
              f"{E0}.tool_call.arguments_json"),
        sized(lambda n: turn(app('"' + "x" * (n - 2) + '"')), "app_json_bytes", f"{E0}.app_json"),
        sized(lambda n: turn(app("[" * n + "]" * n)), "app_json_depth_max", f"{E0}.app_json"),
        sized(lambda n: turn(app(NAMES * n + '"]]]}"' + "}" * n, say("x"))), "app_json_depth_max", f"{E0}.app_json"),
        sized(lambda n: turn(say("x"), bundle_receipt=bytes(n)), "receipt_bytes", "turn.bundle_receipt"),
    ],
)  # fmt: skip
def test_limits_are_exact(make: Callable[[int], turn_pb2.Turn], limit: str, field: str) -> None:
    """At a limit a turn is good; one more is LimitExceeded with the limit's name, its maximum and the size."""
    maximum = getattr(limits, limit)
    validate.turn(make(maximum))
    with pytest.raises(LimitExceeded) as caught:
        validate.turn(make(maximum + 1))
    assert caught.value.field == field
    assert caught.value.metadata == {"limit": limit, "maximum": str(maximum), "actual": str(maximum + 1)}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(said=_JSON, plain=st.booleans())
def test_whatever_is_json_may_be_kept(said: Any, plain: bool) -> None:
    """`app_json` takes every JSON value, escaped or not."""
    validate.turn(turn(app(json.dumps(said, ensure_ascii=plain))))


@given(said=st.text('[]{}",:\\\\udD8c0 \n1eE.-truefalsn\u6f22', min_size=1, max_size=40))
@settings(max_examples=500)
def test_what_is_kept_can_be_read(said: str) -> None:
    """What is taken as `app_json` is JSON by any reader, and nothing but InvalidField is raised."""
    with contextlib.suppress(InvalidField):
        validate.turn(turn(app(said)))
        json.dumps(json.loads(said), ensure_ascii=False, allow_nan="e" in said).encode()


def test_sizes_are_of_utf8() -> None:
    """Limits in bytes count the encoded text, not its characters; a result has the same limit as a message."""
    for make in (say, lambda text: answer("c", text)):
        validate.turn(turn(call("c"), make("é" * (limits.message_bytes // 2))))
        with pytest.raises(LimitExceeded):
            validate.turn(turn(call("c"), make("é" * (limits.message_bytes // 2 + 1))))


def test_all_parts_together_have_the_limit_of_one_message() -> None:
    """Many large parts are not a way around message_bytes."""
    half = turn_pb2.Part(text="x" * (limits.message_bytes // 2 + 1))
    with pytest.raises(LimitExceeded) as caught:
        validate.turn(turn(message(text="", parts=[half, half])))
    assert caught.value.field == f"{E0}.message.parts"


@pytest.mark.parametrize(
    "good",
    [
        turn(say("tab\tnewline\nreturn\r\n 漢字 😀 \u200b </recalled> <|endoftext|>")),
        turn(call("c"), answer("c", "")),
        turn(call("c", arguments=""), call("d", arguments='{"a": [1, null]}'), answer("d", "x"), answer("c", "x")),
        turn(answer("of-an-earlier-turn", "x")),
        turn(app("{}")),
        turn(
            app("null"),
            say("x"),
            app('"漢 \\ud83d\\ude00 \\\\ud800 \\u0000 \x85"', call("c")),
            app("0", answer("c", "")),
        ),
        turn(app(" [1e400, 123456789012345678901234567890, true]\r\n\t")),
        turn(message(speaker="Ana María / 漢")),
        turn(message(spoken_at={"seconds": -62_135_596_800}), message(spoken_at={"seconds": 253_402_300_799})),
        turn(media(), media(description="a cat")),
        turn(message(citations=[ref("a/b:c@d+e-f_g.h", 1 << 60)])),
    ],
)
def test_what_is_good_passes(good: turn_pb2.Turn) -> None:
    """Everything that the proto's comments allow is accepted."""
    validate.turn(good)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda value: validate.identifier(value, "f"), ["a", "A.z_0:@/+-", "x" * limits.id_chars_max],
         ["", "a b", "é", "x" * (limits.id_chars_max + 1), "a\n"]),
        (validate.request_id, ["a", "0-a:b.c_d"], ["", "a/b", "a@b", "x" * (limits.id_chars_max + 1), "a\n"]),
        (lambda value: validate.name(value, "f"), ["a", "A.b_c-0"], ["", "a/b", "a:b", "a\n"]),
    ],
)  # fmt: skip
def test_ids_and_names(check: Callable[[str], str], good: list[str], bad: list[str]) -> None:
    """Ids are 1 to 128 characters of their alphabet, to the last one: no newline slips in at the end."""
    for value in good:
        assert check(value) == value
    for value in bad:
        with pytest.raises(InvalidField):
            check(value)


def test_an_optional_id_may_be_empty() -> None:
    """Only what is declared optional may be left out."""
    assert validate.identifier("", "subject_id", optional=True) == ""
    with pytest.raises(InvalidField):
        validate.identifier(" ", "subject_id", optional=True)


def budget(*caps: tuple[int, int], total: int | None = None) -> context_pb2.Budget:
    """Return a budget."""
    made = context_pb2.Budget(sources=[context_pb2.SourceBudget(source=s, cap_tokens=cap) for s, cap in caps])
    if total is not None:
        made.total_tokens = total
    return made


HISTORY, RECALL = bundle_pb2.SOURCE_HISTORY, bundle_pb2.SOURCE_RECALL


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (budget(total=0), "budget.total_tokens"),
        (budget(total=-1), "budget.total_tokens"),
        (budget(total=limits.budget_tokens_max + 1), "budget.total_tokens"),
        (budget((0, 5)), "budget.sources[0].source"),
        (budget((99, 5)), "budget.sources[0].source"),
        (budget((bundle_pb2.SOURCE_POLICY, 5)), "budget.sources[0].source"),
        (budget((HISTORY, 5), (HISTORY, 6)), "budget.sources[1].source"),
        (budget((HISTORY, -1)), "budget.sources[0].cap_tokens"),
        (budget((HISTORY, limits.budget_tokens_max + 1)), "budget.sources[0].cap_tokens"),
    ],
)
def test_a_bad_budget_is_named(bad: context_pb2.Budget, field: str) -> None:
    """P5: a budget that means nothing is refused, by the path of what is wrong."""
    with pytest.raises(InvalidField) as caught:
        validate.budget(bad)
    assert caught.value.field == field


def test_a_good_budget_gives_its_caps() -> None:
    """A cap of 0 is one: it switches a source off."""
    assert validate.budget(budget((HISTORY, 0), (RECALL, 5), total=limits.budget_tokens_max)) == {HISTORY: 0, RECALL: 5}
    assert validate.budget(context_pb2.Budget()) == {}


def test_pages() -> None:
    """A page has page_default rows if none are asked for, and at most page_max."""
    assert validate.page(0) == limits.page_default <= limits.page_max
    assert validate.page(limits.page_max) == limits.page_max
    for bad in (-1, limits.page_max + 1):
        with pytest.raises(InvalidField):
            validate.page(bad)


@given(value=st.text(max_size=30))
@settings(deadline=None, max_examples=300)
def test_a_line_is_one_line(value: str) -> None:
    """Whatever passes as a line is one, to every reader of lines, and encodes."""
    try:
        validate.line(value, "f", limit="cause_bytes", maximum=limits.cause_bytes)
    except InvalidField as error:
        assert error.field == "f"  # noqa: PT017
    else:
        assert len(value.splitlines()) <= 1
        value.encode()
