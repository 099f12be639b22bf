"""Segments: the units of a bundle, in the one form in which they are counted, hashed and shown.

The canonical text of a segment is ``header + body``. It starts with a character that is not white space and ends
in exactly one newline; between two such texts every supported tokenizer has a boundary, so token counts add up
(`sidecar.tokens`), and fitting a budget is integer arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, cast

from sidecar import canonical, limits, normal, pii
from standpipe.v1 import bundle_pb2, fact_pb2, turn_pb2

Count = Callable[[str], int]
"""Counts the tokens of a text, with one tokenizer."""

LISTED = "- "
"""The header of what is listed and nobody's utterance: a fact, a chunk of a document."""

_TRUST = {
    turn_pb2.ROLE_USER: fact_pb2.TRUST_USER,
    turn_pb2.ROLE_ASSISTANT: fact_pb2.TRUST_INFERRED,
    turn_pb2.ROLE_TOOL: fact_pb2.TRUST_EXTERNAL,
    turn_pb2.ROLE_DOCUMENT: fact_pb2.TRUST_EXTERNAL,
}

MASKED: Final = "+masked"
"""What the name of a tokenizer ends with where it counts texts in masked form: another text, another view."""

_APP_JSON_SHARE = 16
"""A byte of `app_json` weighs one part in so many, as a byte of the largest message does: so a cold load is bounded in
bytes, and what the application keeps beside its messages all but never moves where history starts."""

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')
_ANGLES = "<\u02c2\u1438\u16b2\u2039\u227a\u22d6\u2329\u276c\u276e\u2770\u27e8\u29fc\u3008\ufe64\uff1c\U0001d236"
_ANGLE = re.compile(f"[{_ANGLES}]")
_SLASHES = frozenset("/\u2044\u2215\u2571\u27cb\u29f8\u3033\uff0f\U0001d23a")
_FENCE_WORDS = frozenset({"recalled", "earller"})
"""The words of the marks, as they are read below."""

_READ_AS = str.maketrans("i1|!3@4", "lllleaa")
"""One sign for all that are taken for each other in these words."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment with what the bundle needs of it, computed once."""

    segment: bundle_pb2.Segment
    """Never changed after it was made: it is shared by every bundle that shows it."""
    tokens: int
    digest: bytes
    """32 bytes over everything that a model or an adapter can see of it."""


def piece(segment: bundle_pb2.Segment) -> Piece:
    """Seal a segment."""
    digest = canonical.sha256(
        (
            segment.kind,
            segment.role,
            segment.name,
            segment.header,
            segment.body,
            segment.tool_call_id,
            int(segment.is_error),
        )
    )
    return Piece(segment, segment.tokens, digest)


def marked(piece: Piece, *, masked: bool) -> Piece:
    """Return a piece just made, with the mark that something in it was masked. It is not part of the digest: the text
    is.
    """
    if masked:
        piece.segment.masked = True
    return piece


def trust(role: int, stated: int = fact_pb2.TRUST_UNSPECIFIED) -> fact_pb2.Trust:
    """Return how far something is trusted that was said in a role; `stated`: how far, as it was found at write."""
    return cast(fact_pb2.Trust, stated) or _TRUST.get(cast(turn_pb2.Role, role), fact_pb2.TRUST_UNSPECIFIED)


def masked_as(tokenizer: str) -> str:
    """Return the name under which a tokenizer counts texts in masked form."""
    return tokenizer + MASKED


def tokenizer_of(counted_as: str) -> str:
    """Return the tokenizer that counts under a name."""
    return counted_as.removesuffix(MASKED)


def label(role: int, name: str) -> str:
    """Return how a speaker is shown before a text."""
    if role == turn_pb2.ROLE_TOOL:
        return f"tool {name}".rstrip()
    return name or turn_pb2.Role.Name(role).removeprefix("ROLE_").lower()


def header(role: int, name: str) -> str:
    """Return the header of an utterance. A name that begins with a slash is quoted: see `sidecar.tokens`."""
    shown = defused(label(role, name))
    return f'"{shown}": ' if shown.startswith("/") else f"{shown}: "


def body(text: str) -> str:
    """Return a text as a body: without white space at its end, and with one newline."""
    return text.rstrip() + "\n"


def quoted_body(text: str) -> str:
    """Return a text as a body inside a fence: what looks like the fence's own marks is defused."""
    return defused(body(text))


def defused(text: str) -> str:
    """Return a text in which nothing looks like the marks of a fence, to whoever reads it: letters of other alphabets,
    other widths, characters that show nothing and marks on letters do not help.
    """
    at = [match.end() for match in _ANGLE.finditer(text) if _is_fence(text, match.end())]
    if not at:
        return text
    return "\\".join(text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True))


def _is_fence(text: str, start: int) -> bool:
    """Return whether what follows an angle bracket reads as the rest of a mark."""
    read = ""
    for at in range(start, len(text)):
        shown = normal.seen(text[at])
        if not shown or (not read and (shown.isspace() or text[at] in _SLASHES)):
            continue
        if read in _FENCE_WORDS:
            return not (shown[0].isalnum() or shown[0] == "_")
        read += shown.translate(_READ_AS)
        if not any(word.startswith(read) for word in _FENCE_WORDS):
            return False
    return read in _FENCE_WORDS


def message_text(message: turn_pb2.Message) -> str:
    """Return the text of a message; media are shown by their description."""
    if not message.parts:
        return message.text
    return "\n".join(
        part.text if part.WhichOneof("content") == "text" else _media_text(part.media) for part in message.parts
    )


def _media_text(media: turn_pb2.Media) -> str:
    return f"[{media.media_type}: {media.description or media.uri}]"


def spoken_text(entry: turn_pb2.TurnEntry) -> str:
    """Return what is shown of an entry behind its header: what can be recalled, or a call's arguments."""
    return str(entry.tool_call.arguments_json) if entry.HasField("tool_call") else entry_text(entry)


def masked(entry: turn_pb2.TurnEntry, spans: Iterable[pii.Find]) -> turn_pb2.TurnEntry:
    """Return an entry in masked form. `spans`: the finds in its `spoken_text`, as they were frozen; the speaker's name
    and an address of media are looked at here.
    """
    shown = turn_pb2.TurnEntry()
    shown.CopyFrom(entry)
    kind = entry.WhichOneof("entry")
    if kind == "tool_call":
        shown.tool_call.arguments_json = _masked_json(entry.tool_call.arguments_json, spans)
    elif kind == "tool_result":
        shown.tool_result.content = pii.mask(entry.tool_result.content, spans)
    elif kind == "message":
        message = shown.message
        message.speaker = pii.masked(message.speaker)
        if not message.parts:
            message.text = pii.mask(message.text, spans)
        at = 0
        for part in message.parts:
            if part.WhichOneof("content") == "text":
                length = len(part.text)
                part.text = pii.mask(part.text, pii.within(spans, at, at + length))
            else:
                length = len(_media_text(part.media))
                first = at + len(part.media.media_type) + len("[: ")
                if part.media.description:
                    last = first + len(part.media.description)
                    part.media.description = pii.mask(part.media.description, pii.within(spans, first, last))
                part.media.uri = pii.masked(part.media.uri)
            at += length + 1
    return shown


def _masked_json(text: str, spans: Iterable[pii.Find]) -> str:
    """Return JSON in masked form: a bare number becomes a string, so that it stays JSON."""
    parts: list[str] = []
    done = 0
    strings = _JSON_STRING.finditer(text)
    string = next(strings, None)
    for one in spans:
        while string is not None and string.end() <= one.start:
            string = next(strings, None)
        bare = string is None or one.start < string.start()
        parts += (text[done : one.start], f'"<{one.kind}>"' if bare else f"<{one.kind}>")
        done = one.end
    return "".join((*parts, text[done:]))


def entry_text(entry: turn_pb2.TurnEntry) -> str:
    """Return what can be recalled of an entry: a message's or a tool result's text; a call's is empty."""
    kind = entry.WhichOneof("entry")
    if kind == "message":
        return message_text(entry.message)
    return entry.tool_result.content if kind == "tool_result" else ""


def weight_bytes(entry: turn_pb2.TurnEntry) -> int:
    """Return what an entry weighs in a view: the bytes that are shown of it, a giant no more than its limit, and a
    little for what is not shown, but read with it.
    """
    shown = entry_text(entry) + entry.message.speaker + entry.tool_call.name + entry.tool_call.arguments_json
    beside = len(entry.app_json.encode()) // _APP_JSON_SHARE if entry.app_json else 0
    return min(len(shown.encode()) + 1, limits.entry_weight_bytes) + beside


def message_piece(
    message: turn_pb2.Message, ref: turn_pb2.EventRef, tokens: int | Count, *, stated: int = fact_pb2.TRUST_UNSPECIFIED
) -> Piece:
    """Make the history segment of a message. `tokens`: its stored count, or what counts it; `stated`: see `trust`."""
    return _sealed(
        bundle_pb2.Segment(
            kind=bundle_pb2.SEGMENT_KIND_TEXT,
            role=message.role,
            name=message.speaker,
            header=header(message.role, message.speaker),
            body=body(message_text(message)),
            citations=[ref],
            trust=trust(message.role, stated),
        ),
        tokens,
    )


def call_piece(call: turn_pb2.ToolCall, ref: turn_pb2.EventRef, tokens: int | Count) -> Piece:
    """Make the history segment of a tool call; its body is the arguments."""
    return _sealed(
        bundle_pb2.Segment(
            kind=bundle_pb2.SEGMENT_KIND_TOOL_CALL,
            role=turn_pb2.ROLE_ASSISTANT,
            name=call.name,
            header=f"call {call.name}: ",
            body=body(call.arguments_json),
            tool_call_id=call.id,
            citations=[ref],
            trust=trust(turn_pb2.ROLE_ASSISTANT),
        ),
        tokens,
    )


def result_piece(result: turn_pb2.ToolResult, tool_name: str, ref: turn_pb2.EventRef, tokens: int | Count) -> Piece:
    """Make the history segment of a tool result."""
    return _sealed(
        bundle_pb2.Segment(
            kind=bundle_pb2.SEGMENT_KIND_TOOL_RESULT,
            role=turn_pb2.ROLE_TOOL,
            name=tool_name,
            header=header(turn_pb2.ROLE_TOOL, tool_name),
            body=body(result.content),
            tool_call_id=result.call_id,
            is_error=result.is_error,
            citations=[ref],
            trust=trust(turn_pb2.ROLE_TOOL),
        ),
        tokens,
    )


def quoted_piece(
    role: int,
    speaker: str,
    text: str,
    ref: turn_pb2.EventRef,
    tokens: int | Count,
    *,
    listed: bool = False,
    stated: int = fact_pb2.TRUST_UNSPECIFIED,
) -> Piece:
    """Make the segment of a piece of memory, apart from the score that a query gives it: what was said in a turn, or
    what is listed. `stated`: see `trust`.
    """
    return _sealed(
        bundle_pb2.Segment(
            kind=bundle_pb2.SEGMENT_KIND_TEXT,
            role=cast(turn_pb2.Role, role),
            name=speaker,
            header=LISTED if listed else header(role, speaker),
            body=quoted_body(text),
            citations=[ref],
            trust=trust(role, stated),
        ),
        tokens,
    )


def frame_piece(text: str, count: Count) -> Piece:
    """Make a line that Standpipe writes around quoted content."""
    return _sealed(
        bundle_pb2.Segment(kind=bundle_pb2.SEGMENT_KIND_FRAME, role=turn_pb2.ROLE_SYSTEM, body=body(text)), count
    )


def prompt_piece(name: str, text: str, count: Count) -> Piece:
    """Make the segment of a policy's prompt."""
    return _sealed(
        bundle_pb2.Segment(
            kind=bundle_pb2.SEGMENT_KIND_TEXT, role=turn_pb2.ROLE_SYSTEM, name=name, body=body(text.lstrip())
        ),
        count,
    )


def shortened(whole: Piece, *, tokens_max: int, count: Count) -> Piece:
    """Return a piece of at most `tokens_max` tokens: the head and the tail of the text, with a mark between.

    Two thirds of the room go to the head. What is kept is verbatim, cut at white space where there is some near.
    A name of rare characters can fill a small room by itself: then it is cut too.
    """
    segment = whole.segment
    text = segment.body.rstrip("\n")
    room_chars = max(8, len(text) * tokens_max // max(1, whole.tokens))
    while True:
        head = _cut_back(text[: room_chars * 2 // 3])
        tail = _cut_front(text[len(text) - room_chars // 3 :])
        short = bundle_pb2.Segment()
        short.CopyFrom(segment)
        short.body = body(f"{head.rstrip()}\n[...]\n{tail.lstrip()}")
        short.shortened = True
        short.tokens = count(short.header + short.body)
        if short.tokens <= tokens_max:
            return piece(short)
        if room_chars == 0:
            break
        room_chars = max(0, room_chars * 9 // 10 - 1)
    while short.tokens > tokens_max and len(short.header) > 4:
        short.header = short.header[: len(short.header) // 2] + ": "
        short.tokens = count(short.header + short.body)
    return piece(short)


def _cut_back(text: str) -> str:
    at = max(text.rfind(" "), text.rfind("\n"))
    return text[:at] if at > len(text) * 3 // 4 else text


def _cut_front(text: str) -> str:
    found = [at for at in (text.find(" "), text.find("\n")) if at >= 0]
    return text[min(found) + 1 :] if found and min(found) < len(text) // 4 else text


def _sealed(segment: bundle_pb2.Segment, tokens: int | Count) -> Piece:
    segment.tokens = tokens if isinstance(tokens, int) else tokens(segment.header + segment.body)
    return piece(segment)
