"""The entries of a turn, in the caller's words: `commit([user("Hi"), assistant("Hello!")])`.

Limits are the server's (turn.proto): 1 to 256 entries a turn, 512 KiB of text each, 256 KiB of arguments. What these
helpers cannot say, such as media, is a `TurnEntry` built by hand: a commit takes both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from standpipe.v1.turn_pb2 import EventRef, Message, Role, ToolCall, ToolResult, TurnEntry

__all__ = ["Entries", "assistant", "tool_call", "tool_result", "user"]

Entries: TypeAlias = TurnEntry | Iterable[TurnEntry]
"""One entry or several, in order."""


def user(text: str, *, speaker: str = "", at: datetime | None = None, citations: Iterable[EventRef] = ()) -> TurnEntry:
    """Return what the human said. `speaker` is shown instead of "user"; `at` must have a time zone."""
    return _message(Role.ROLE_USER, text, speaker, at, citations)


def assistant(
    text: str, *, speaker: str = "", at: datetime | None = None, citations: Iterable[EventRef] = ()
) -> TurnEntry:
    """Return what the model said. `speaker` is shown instead of "assistant"; `at` must have a time zone."""
    return _message(Role.ROLE_ASSISTANT, text, speaker, at, citations)


def tool_call(id: str, name: str, arguments: Mapping[str, Any] | str = "") -> TurnEntry:
    """Return a call that the model made; `arguments` is a mapping, or the JSON text as the model wrote it.

    Raises ValueError or TypeError if a mapping cannot be written as JSON.
    """
    if not isinstance(arguments, str):
        arguments = json.dumps(dict(arguments), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return TurnEntry(tool_call=ToolCall(id=id, name=name, arguments_json=arguments))


def tool_result(call_id: str, content: str, is_error: bool = False) -> TurnEntry:
    """Return what a tool answered to the call `call_id`, of this turn or still open from an earlier one."""
    return TurnEntry(tool_result=ToolResult(call_id=call_id, content=content, is_error=is_error))


def as_list(entries: Entries) -> list[TurnEntry]:
    """Return `entries` as a list. Raises TypeError for anything but entries: plain text has no role."""
    items = [entries] if isinstance(entries, TurnEntry) else list(entries)
    for item in items:
        if not isinstance(item, TurnEntry):
            raise TypeError(f"a turn holds entries made by user(), assistant(), ..., not {type(item).__name__}")
    return items


def _message(role: Role, text: str, speaker: str, at: datetime | None, citations: Iterable[EventRef]) -> TurnEntry:
    message = Message(role=role, text=text, speaker=speaker, citations=citations)
    if at is not None:
        if at.tzinfo is None:
            raise ValueError("`at` needs a time zone: a naive time means another moment on every machine")
        stamp = Timestamp()
        stamp.FromDatetime(at)
        message.spoken_at.CopyFrom(stamp)
    return TurnEntry(message=message)
