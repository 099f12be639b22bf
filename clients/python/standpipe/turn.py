"""The entries of a turn, in the caller's words: `commit([user("Hi"), assistant("Hello!")])`.

Limits are the server's (turn.proto): 1 to 256 entries a turn, 512 KiB of text each, 256 KiB of arguments and of
`app_json`, which is the entry as the application itself keeps it, as JSON text: `Session.events` gives it back, and no
model is ever shown it. `app` makes an entry that has nothing else. What these helpers cannot say, such as media, is a
`TurnEntry` built by hand: a commit takes both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from standpipe.v1.turn_pb2 import EventRef, Message, Role, ToolCall, ToolResult, TurnEntry

__all__ = ["Entries", "app", "assistant", "tool_call", "tool_result", "user"]

Entries: TypeAlias = TurnEntry | Iterable[TurnEntry]
"""One entry or several, in order."""


def user(
    text: str,
    *,
    speaker: str = "",
    at: datetime | None = None,
    citations: Iterable[EventRef] = (),
    app_json: str = "",
) -> TurnEntry:
    """Return what the human said. `speaker` is shown instead of "user"; `at` must have a time zone."""
    return TurnEntry(message=_message(Role.ROLE_USER, text, speaker, at, citations), app_json=app_json)


def assistant(
    text: str,
    *,
    speaker: str = "",
    at: datetime | None = None,
    citations: Iterable[EventRef] = (),
    app_json: str = "",
) -> TurnEntry:
    """Return what the model said. `speaker` is shown instead of "assistant"; `at` must have a time zone."""
    return TurnEntry(message=_message(Role.ROLE_ASSISTANT, text, speaker, at, citations), app_json=app_json)


def tool_call(id: str, name: str, arguments: Mapping[str, Any] | str = "", *, app_json: str = "") -> TurnEntry:
    """Return a call that the model made; `arguments` is a mapping, or the JSON text as the model wrote it.

    Raises ValueError or TypeError if a mapping cannot be written as JSON.
    """
    if not isinstance(arguments, str):
        arguments = _json(dict(arguments))
    return TurnEntry(tool_call=ToolCall(id=id, name=name, arguments_json=arguments), app_json=app_json)


def tool_result(call_id: str, content: str, is_error: bool = False, *, app_json: str = "") -> TurnEntry:
    """Return what a tool answered to the call `call_id`, of this turn or still open from an earlier one."""
    return TurnEntry(tool_result=ToolResult(call_id=call_id, content=content, is_error=is_error), app_json=app_json)


def app(value: Any) -> TurnEntry:
    """Return what the application keeps in the log for itself: no step of the conversation, and no model sees it.

    Raises ValueError or TypeError if it cannot be written as JSON.
    """
    return TurnEntry(app_json=_json(value))


def as_list(entries: Entries) -> list[TurnEntry]:
    """Return `entries` as a list. Raises TypeError for anything but entries: plain text has no role."""
    items = [entries] if isinstance(entries, TurnEntry) else list(entries)
    for item in items:
        if not isinstance(item, TurnEntry):
            raise TypeError(f"a turn holds entries made by user(), assistant(), ..., not {type(item).__name__}")
    return items


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _message(role: Role, text: str, speaker: str, at: datetime | None, citations: Iterable[EventRef]) -> Message:
    message = Message(role=role, text=text, speaker=speaker, citations=citations)
    if at is not None:
        if at.tzinfo is None:
            raise ValueError("`at` needs a time zone: a naive time means another moment on every machine")
        stamp = Timestamp()
        stamp.FromDatetime(at)
        message.spoken_at.CopyFrom(stamp)
    return message
