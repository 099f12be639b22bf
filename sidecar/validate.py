"""Checking what callers send, by hand: the first thing that is wrong is named by its field, and nothing happens.

No message here ever quotes what was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from sidecar import limits
from sidecar.errors import InvalidField, LimitExceeded, ToolResultWithoutCall
from standpipe.v1 import bundle_pb2, context_pb2, turn_pb2

T = TypeVar("T")

_ID = re.compile(rf"[A-Za-z0-9._:@/+-]{{1,{limits.id_chars_max}}}")
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{limits.id_chars_max}}}")
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{limits.id_chars_max}}}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_ANY_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WHITESPACE_RUN = re.compile(r"\s+")
_ROLE_NAMES = frozenset(turn_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in turn_pb2.Role.values())
_SPEAKER = turn_pb2.ROLE_USER, turn_pb2.ROLE_ASSISTANT


def identifier(value: str, field: str, *, optional: bool = False) -> str:
    """Check a session or subject id."""
    if not (_ID.fullmatch(value) or (optional and not value)):
        raise InvalidField(f"must be 1 to {limits.id_chars_max} characters of A-Z a-z 0-9 . _ : - @ / +", field=field)
    return value


def request_id(value: str) -> str:
    """Check a request id."""
    if not _REQUEST_ID.fullmatch(value):
        raise InvalidField(f"must be 1 to {limits.id_chars_max} characters of A-Z a-z 0-9 . _ : -", field="request_id")
    return value


def name(value: str, field: str) -> str:
    """Check the name of a route or policy."""
    if not _NAME.fullmatch(value):
        raise InvalidField(f"must be 1 to {limits.id_chars_max} characters of A-Z a-z 0-9 . _ -", field=field)
    return value


def between(value: int, field: str, low: int, high: int) -> int:
    """Check a number."""
    if not low <= value <= high:
        raise InvalidField(f"must be from {low} to {high}", field=field)
    return value


def size(actual: int, field: str, *, limit: str, maximum: int) -> None:
    """Check a size against a named limit."""
    if actual > maximum:
        raise LimitExceeded(
            f"{actual} is over the limit {limit} of {maximum}",
            field=field,
            limit=limit,
            maximum=maximum,
            actual=actual,
        )


def text(value: str, field: str, *, limit: str = "message_bytes", maximum: int = limits.message_bytes) -> str:
    """Check a text: its size in UTF-8, and no control characters but tab, newline and carriage return."""
    if _CONTROL.search(value):
        raise InvalidField("must hold no control characters but tab, newline and carriage return", field=field)
    if len(value) > limits.whitespace_run_chars_max:
        run = max((len(found[0]) for found in _WHITESPACE_RUN.finditer(value)), default=0)
        size(run, field, limit="whitespace_run_chars_max", maximum=limits.whitespace_run_chars_max)
    size(len(value.encode()), field, limit=limit, maximum=maximum)
    return value


def line(value: str, field: str, *, limit: str, maximum: int) -> str:
    """Check a short text on one line."""
    if _ANY_CONTROL.search(value):
        raise InvalidField("must be one line without control characters", field=field)
    size(len(value.encode()), field, limit=limit, maximum=maximum)
    return value


def named(field: str, look_up: Callable[[], T]) -> T:
    """Return what `look_up` finds; an InvalidField that it raises is given the field."""
    try:
        return look_up()
    except InvalidField as error:
        error.field = field
        raise


def page(value: int) -> int:
    """Return the rows of a page."""
    return between(value, "page_size", 0, limits.page_max) or limits.page_default


def budget(value: context_pb2.Budget) -> dict[bundle_pb2.Source, int]:
    """Check a budget and return its caps."""
    if value.HasField("total_tokens"):
        between(value.total_tokens, "budget.total_tokens", 1, limits.budget_tokens_max)
    caps: dict[bundle_pb2.Source, int] = {}
    for index, cap in enumerate(value.sources):
        path = f"budget.sources[{index}]"
        source(cap.source, f"{path}.source")
        if cap.source == bundle_pb2.SOURCE_POLICY:
            raise InvalidField("the policy's prompts cannot be capped", field=f"{path}.source")
        if cap.source in caps:
            raise InvalidField("names a source a second time", field=f"{path}.source")
        caps[cap.source] = between(cap.cap_tokens, f"{path}.cap_tokens", 0, limits.budget_tokens_max)
    return caps


def source(value: int, field: str) -> None:
    """Check that a source is one that this release knows."""
    if value not in bundle_pb2.Source.values() or value == bundle_pb2.SOURCE_UNSPECIFIED:
        raise InvalidField("names no source", field=field)


def turn(value: turn_pb2.Turn) -> None:
    """Check a turn: everything but what only the store can know (earlier calls, cited events)."""
    if not value.entries:
        raise InvalidField("must hold at least one entry", field="turn.entries")
    size(value.ByteSize(), "turn", limit="turn_bytes", maximum=limits.turn_bytes)
    size(len(value.entries), "turn.entries", limit="turn_entries_max", maximum=limits.turn_entries_max)
    size(len(value.bundle_receipt), "turn.bundle_receipt", limit="receipt_bytes", maximum=limits.receipt_bytes)
    called: set[str] = set()
    answered: set[str] = set()
    for index, entry in enumerate(value.entries):
        path = f"turn.entries[{index}]"
        kind = entry.WhichOneof("entry")
        if kind == "message":
            _message(entry.message, f"{path}.message")
        elif kind == "tool_call":
            _call(entry.tool_call, f"{path}.tool_call")
            _once(entry.tool_call.id, called, f"{path}.tool_call.id", "is the id of an earlier call of this turn")
        elif kind == "tool_result":
            result = entry.tool_result
            _call_id(result.call_id, f"{path}.tool_result.call_id")
            text(result.content, f"{path}.tool_result.content")
            _once(result.call_id, answered, f"{path}.tool_result.call_id", "has a result in this turn already")
        else:
            raise InvalidField("must be a message, a tool_call or a tool_result", field=path)
    _calls_before_results(value.entries)


def _calls_before_results(entries: Iterable[turn_pb2.TurnEntry]) -> None:
    later = {entry.tool_call.id: index for index, entry in enumerate(entries) if entry.HasField("tool_call")}
    for index, entry in enumerate(entries):
        if entry.HasField("tool_result") and later.get(entry.tool_result.call_id, -1) > index:
            raise ToolResultWithoutCall(
                "answers a call that comes after it",
                call_id=entry.tool_result.call_id,
                field=f"turn.entries[{index}].tool_result.call_id",
            )


def _message(message: turn_pb2.Message, path: str) -> None:
    if message.role not in _SPEAKER:
        raise InvalidField("must be ROLE_USER or ROLE_ASSISTANT", field=f"{path}.role")
    line(message.speaker, f"{path}.speaker", limit="name_bytes", maximum=limits.name_bytes)
    if message.speaker and not message.speaker.strip():
        raise InvalidField("must not be blank", field=f"{path}.speaker")
    if message.speaker != message.speaker.strip():
        raise InvalidField("must not begin or end with white space", field=f"{path}.speaker")
    own = turn_pb2.Role.Name(message.role).removeprefix("ROLE_").lower()
    if message.speaker.casefold() in _ROLE_NAMES - {own}:
        raise InvalidField("must not be the name of another role", field=f"{path}.speaker")
    if message.HasField("spoken_at"):
        _timestamp(message, f"{path}.spoken_at")
    if bool(message.text) == bool(message.parts):
        raise InvalidField("exactly one of text and parts must be set, and not be empty", field=f"{path}.text")
    if message.text:
        text(message.text, f"{path}.text")
        if not message.text.strip():
            raise InvalidField("must not be blank", field=f"{path}.text")
    size(len(message.parts), f"{path}.parts", limit="message_parts_max", maximum=limits.message_parts_max)
    total = 0
    for index, part in enumerate(message.parts):
        total += _part(part, f"{path}.parts[{index}]")
    size(total, f"{path}.parts", limit="message_bytes", maximum=limits.message_bytes)
    size(len(message.citations), f"{path}.citations", limit="citations_max", maximum=limits.citations_max)
    for index, ref in enumerate(message.citations):
        identifier(ref.session_id, f"{path}.citations[{index}].session_id")
        if ref.version < 1:
            raise InvalidField("must be at least 1", field=f"{path}.citations[{index}].version")
        between(ref.entry, f"{path}.citations[{index}].entry", 0, limits.turn_entries_max - 1)


def _part(part: turn_pb2.Part, path: str) -> int:
    kind = part.WhichOneof("content")
    if kind == "text":
        if not part.text.strip():
            raise InvalidField("must not be blank", field=f"{path}.text")
        text(part.text, f"{path}.text")
        return len(part.text.encode())
    if kind != "media":
        raise InvalidField("must be text or media", field=path)
    media = part.media
    for value, field, limit, maximum in (
        (media.uri, "uri", "media_uri_bytes", limits.media_uri_bytes),
        (media.media_type, "media_type", "media_type_bytes", limits.media_type_bytes),
    ):
        if not value:
            raise InvalidField("must not be empty", field=f"{path}.media.{field}")
        line(value, f"{path}.media.{field}", limit=limit, maximum=maximum)
    text(
        media.description,
        f"{path}.media.description",
        limit="media_description_bytes",
        maximum=limits.media_description_bytes,
    )
    return len(media.description.encode())


def _call(call: turn_pb2.ToolCall, path: str) -> None:
    _call_id(call.id, f"{path}.id")
    name(call.name, f"{path}.name")
    size(
        len(call.arguments_json.encode()),
        f"{path}.arguments_json",
        limit="tool_arguments_bytes",
        maximum=limits.tool_arguments_bytes,
    )
    if call.arguments_json:
        text(call.arguments_json, f"{path}.arguments_json")
        try:
            json.loads(call.arguments_json, parse_int=len, parse_constant=_no_json)
        except (ValueError, RecursionError):
            raise InvalidField("must be JSON", field=f"{path}.arguments_json") from None


def _no_json(word: str) -> None:
    """Refuse NaN and Infinity, which Python alone takes for JSON."""
    raise ValueError(word)


def _call_id(value: str, path: str) -> None:
    if not value:
        raise InvalidField("must not be empty", field=path)
    line(value, path, limit="name_bytes", maximum=limits.name_bytes)


def _once(value: str, seen: set[str], path: str, why: str) -> None:
    if value in seen:
        raise InvalidField(why, field=path)
    seen.add(value)


def _timestamp(message: turn_pb2.Message, path: str) -> None:
    try:
        message.spoken_at.ToDatetime()
    except (ValueError, OverflowError):
        raise InvalidField("must be a time between the years 1 and 9999", field=path) from None
