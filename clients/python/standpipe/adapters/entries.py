"""A framework's messages as the entries of a turn.

The log takes less than frameworks send: no control characters, no blank text, only JSON as arguments, and a call's id
once in a session. What is built here is always taken, as far as its form goes; sizes remain the server's to judge.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import re
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

from standpipe import errors
from standpipe.v1.turn_pb2 import Media, Message, Part, Role, ToolCall, ToolResult, TurnEntry

__all__ = ["arguments", "call", "clean", "dumps", "message", "readdressed", "reference", "result", "text_of"]

URI_BYTES: Final = 2048
"""An address's most bytes: a longer one is named by its hash."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]")
_SPEAKER = re.compile(r"[\w.@+-]([\w.@+ -]{0,30}[\w.@+-])?")
_ROLES = frozenset(role.removeprefix("ROLE_").lower() for role in Role.keys())  # noqa: SIM118 (an enum, not a dict)


def clean(text: str) -> str:
    """Return a text without the control characters that the log refuses, such as a terminal's colours."""
    return _CONTROL.sub("", text)


def dumps(value: Any) -> str:
    """Return JSON as short as it can be; half a surrogate pair, which stands for no character, becomes "?".

    Raises TypeError, ValueError.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="replace").decode()


def message(role: Role, content: str | Sequence[Part], *, speaker: str = "") -> TurnEntry | None:
    """Return what somebody said, or None if it is blank. A speaker that the log would refuse is left out."""
    said = Message(role=role)
    if isinstance(content, str):
        said.text = clean(content)
        if not said.text.strip():
            return None
    else:
        if not content:
            return None
        said.parts.extend(content)
    if _SPEAKER.fullmatch(speaker) and speaker.casefold() not in _ROLES:
        said.speaker = speaker
    return TurnEntry(message=said)


def reference(address: str, media_type: str, description: str = "") -> Part:
    """Return a reference to what the application keeps. Its address tells the media type, or else `media_type`.

    What a message holds itself, as a `data:` address, is named by its SHA-256: Standpipe stores no files.
    """
    guessed = mimetypes.guess_type(address.partition("?")[0])[0] or media_type
    if address.startswith("data:"):
        guessed = address[len("data:") :].partition(",")[0].partition(";")[0] or media_type
    if address.startswith("data:") or len(address.encode()) > URI_BYTES:
        address = f"urn:sha256:{hashlib.sha256(address.encode()).hexdigest()}"
    return Part(media=Media(uri=clean(address), media_type=clean(guessed)[:127], description=clean(description)[:1000]))


def call(call_id: str, name: str, arguments: str) -> TurnEntry:
    """Return a tool call. Arguments that are not JSON, as models write now and then, become {"raw": text}."""
    arguments = clean(arguments)
    if arguments.strip():
        try:
            json.loads(arguments, parse_constant=_refuse)
        except (ValueError, RecursionError):
            arguments = dumps({"raw": arguments})
    else:
        arguments = ""
    made = ToolCall(id=_line(call_id), name=_NOT_NAME.sub("_", name)[:128] or "tool", arguments_json=arguments)
    return TurnEntry(tool_call=made)


def arguments(made: ToolCall) -> dict[str, Any]:
    """Return a call's arguments; what is not an object becomes {"raw": text}, as in a bundle's messages."""
    value = json.loads(made.arguments_json or "{}")
    return value if isinstance(value, dict) else {"raw": made.arguments_json}


def result(call_id: str, content: str, *, is_error: bool = False) -> TurnEntry:
    """Return what a tool answered."""
    return TurnEntry(tool_result=ToolResult(call_id=_line(call_id), content=clean(content), is_error=is_error))


def text_of(entry: TurnEntry) -> str:
    """Return the words of a message; media by their description."""
    said = entry.message
    if not said.parts:
        return str(said.text)
    shown = (
        part.text if part.WhichOneof("content") == "text" else part.media.description or part.media.uri
        for part in said.parts
    )
    return "\n".join(shown)


def readdressed(entries: Iterable[TurnEntry], refusal: errors.InvalidArgument) -> list[TurnEntry] | None:
    """Return a refused turn's entries with new ids for its calls; None if it was refused for something else.

    Some model servers number their calls anew in every answer, while the log takes a call's id once in a session.
    """
    copies = []
    names: dict[str, str] = {}
    for entry in entries:
        copy = TurnEntry()
        copy.CopyFrom(entry)
        copies.append(copy)
        if copy.HasField("tool_call"):
            copy.tool_call.id = names[entry.tool_call.id] = f"call_{uuid.uuid4().hex}"
        elif copy.HasField("tool_result"):
            copy.tool_result.call_id = names.get(entry.tool_result.call_id, entry.tool_result.call_id)
    return copies if names and refusal.field == "turn.entries" and refusal.reason == "INVALID_FIELD" else None


def _line(call_id: str) -> str:
    """Return an id that is one line of at most 128 bytes."""
    return "".join(clean(call_id).split())[:100].encode()[:128].decode(errors="ignore") or "call"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
