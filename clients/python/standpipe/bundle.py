"""A bundle: what the model should see, and its form for the models' own APIs.

Both forms keep the order that prompt caches want, stable before volatile, and the same bundle and query always
give the same JSON bytes:

- POLICY, PROFILE and SUMMARY, in this order, are the system side, as canonical text.
- HISTORY becomes real messages: a body without its final newline and without the header, whose role the message
  itself has. A tool call and its result stay next to each other. Should one ever come without the other, it
  becomes plain text, since providers refuse half a pair. Frame lines become text on the user's side.
- RECALL, FACTS and DOCUMENTS stand in front of the query in the last user message: what a query finds in what was said
  is never system. So does a section whose source this client does not know yet.

Providers are narrower than Standpipe, so some names are mapped, always in the same way: a tool name's characters
outside A-Z a-z 0-9 _ - become "_" and 64 are kept; a call id with other characters, or longer than 40, becomes
"call_" and 32 digits of its SHA-256; arguments that are not a JSON object, such as shortened ones, become
{"raw": text}.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from standpipe.v1 import bundle_pb2, context_pb2
from standpipe.v1.bundle_pb2 import Section, Segment, SegmentKind, Source
from standpipe.v1.turn_pb2 import Role

__all__ = ["Bundle", "Replay"]

Json: TypeAlias = dict[str, Any]

HISTORY_START: Final = "[start of the visible conversation]"
"""Anthropic's first message must be the user's: this stands there when the history starts with the assistant."""

ARGUMENTS_DEPTH_MAX: Final = 128
"""Levels of objects and lists in a tool's arguments: more than anybody writes, less than any parser ends at."""

BREAKPOINTS_MAX: Final = 4
"""Cache breakpoints that Anthropic takes in one request; the last ones stay, since they cover most."""

_SYSTEM: Final = (Source.SOURCE_POLICY, Source.SOURCE_PROFILE, Source.SOURCE_SUMMARY)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}")
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """Everything that the model should see before the user's new message."""

    message: bundle_pb2.Bundle
    """As it came; the properties below read it."""
    query: str = ""
    """What it was hydrated with."""
    receipt: bytes = b""
    """Renders it again with `client.replay`; a commit `bundle=` stores it with the turn."""
    token: str = ""
    """The consistency token of what it has seen."""
    degraded: Sequence[context_pb2.Degradation] = ()
    """The sources that are missing or reduced, and why; empty when all is well (P12)."""
    timings: context_pb2.Timings | None = None
    """Where the time went, in microseconds; None for a replay."""
    tax: context_pb2.TokenTax | None = None
    """What it costs, in tokens; None for a replay."""
    recall: context_pb2.RecallInfo | None = None
    """What recall searched; None when it was not asked for."""

    @property
    def sections(self) -> Sequence[Section]:
        """Its sections in the order of Source; a source without content has none."""
        sections: Sequence[Section] = self.message.sections
        return sections

    @property
    def tokens(self) -> int:
        """Its tokens, never more than `budget_tokens` (P5)."""
        return self.message.tokens

    @property
    def budget_tokens(self) -> int:
        """The total that was in force."""
        return self.message.budget_tokens

    @property
    def tokenizer(self) -> str:
        """The tokenizer that counted."""
        return self.message.tokenizer

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its canonical bytes in hexadecimal: equal means identical model input (P6)."""
        return self.message.fingerprint.hex()

    @property
    def policy(self) -> str:
        """The policy that shaped it, as name@version."""
        return self.message.policy

    @property
    def version(self) -> int:
        """The session's version that it shows; 0 for a session that does not exist yet."""
        return self.message.session_version

    @property
    def omissions(self) -> Sequence[bundle_pb2.Omission]:
        """The best-ranked candidates that were left out, and why; all of them in a full replay."""
        omissions: Sequence[bundle_pb2.Omission] = self.message.omissions
        return omissions

    @property
    def omission_counts(self) -> Sequence[bundle_pb2.OmissionCount]:
        """How many candidates were left out, by source and reason."""
        omission_counts: Sequence[bundle_pb2.OmissionCount] = self.message.omission_counts
        return omission_counts

    @property
    def text(self) -> str:
        """Its canonical text: header and body of all segments, without the query."""
        return "".join(map(_text, self.sections))

    def __repr__(self) -> str:
        """Name it without showing content."""
        return f"<Bundle version={self.version} tokens={self.tokens} fingerprint={self.fingerprint[:12]}>"

    def to_openai(self, query: str | None = None) -> list[Json]:
        """Return OpenAI chat messages; the last is the user's, with what was found and `query`, if there is either.

        `query` None means what the bundle was hydrated with. Content is plain text and there is one system message
        at most, since many compatible servers take no other; its sections are set apart by an empty line. A
        speaker's name goes into `name` where OpenAI allows it. A failed tool's result starts with "error: ", since
        this form has no field for it.
        """
        out: list[Json] = []
        system = [_text(section) for section in self.sections if section.source in _SYSTEM]
        if system:
            out.append({"role": "system", "content": "\n".join(system).removesuffix("\n")})
        for step in self._history():
            if isinstance(step, Segment):
                role = _role(step)
                message: Json = {"role": role, "content": _content(step)}
                if step.name != role and _is_spoken(step) and _NAME.fullmatch(step.name):
                    message["name"] = step.name
                out.append(message)
                continue
            call, result = step
            function = {"name": _tool_name(call), "arguments": _arguments(call)[0]}
            calls = [{"id": _call_id(call), "type": "function", "function": function}]
            out.append({"role": "assistant", "content": None, "tool_calls": calls})
            content = ("error: " if result.is_error else "") + _body(result)
            out.append({"role": "tool", "tool_call_id": _call_id(call), "content": content})
        last = [text for text in (self._recalled(), self.query if query is None else query) if text]
        if last:
            out.append({"role": "user", "content": "\n".join(last)})
        return out

    def to_anthropic(self, query: str | None = None) -> Json:
        """Return `system` and `messages` for Anthropic's Messages API, with cache breakpoints.

        `query` None means what the bundle was hydrated with. Roles alternate: neighbours of one role are one
        message of several blocks. A history that starts with the assistant gets `HISTORY_START` in front. Every
        section that has a `cache_breakpoint`, and the history always, ends in a block with `cache_control`. Blocks
        of white space alone are left out, since the API refuses them.
        """
        marks: list[Json] = []
        system: list[Json] = []
        for section in self.sections:
            text = _text(section).removesuffix("\n")
            if section.source in _SYSTEM and text.strip():
                system.append({"type": "text", "text": text})
                if section.cache_breakpoint:
                    marks.append(system[-1])
        messages: list[Json] = []

        def add(role: str, block: Json) -> None:
            if not messages and role == "assistant":
                add("user", {"type": "text", "text": HISTORY_START})
            if not messages or messages[-1]["role"] != role:
                messages.append({"role": role, "content": []})
            messages[-1]["content"].append(block)

        for step in self._history():
            if isinstance(step, Segment):
                if (content := _content(step)).strip():
                    add(_role(step), {"type": "text", "text": content})
                continue
            call, result = step
            use = {
                "type": "tool_use",
                "id": _call_id(call),
                "name": _tool_name(call),
                "input": _arguments(call)[1],
            }
            add("assistant", use)
            answer: Json = {"type": "tool_result", "tool_use_id": _call_id(call)}
            if (content := _body(result)).strip():
                answer["content"] = content
            if result.is_error:
                answer["is_error"] = True
            add("user", answer)
        if messages:
            marks.append(messages[-1]["content"][-1])
        for text in (self._recalled().removesuffix("\n"), self.query if query is None else query):
            if text.strip():
                add("user", {"type": "text", "text": text})
        for block in marks[-BREAKPOINTS_MAX:]:
            block["cache_control"] = {"type": "ephemeral"}
        return {"system": system, "messages": messages}

    def _history(self) -> Iterator[Segment | tuple[Segment, Segment]]:
        """Yield the history's segments, a tool call together with its result."""
        segments = [s for section in self.sections if section.source == Source.SOURCE_HISTORY for s in section.segments]
        at = 0
        while at < len(segments):
            pair = segments[at : at + 2]
            if [segment.kind for segment in pair] == [
                SegmentKind.SEGMENT_KIND_TOOL_CALL,
                SegmentKind.SEGMENT_KIND_TOOL_RESULT,
            ] and pair[0].tool_call_id == pair[1].tool_call_id:
                yield pair[0], pair[1]
                at += 2
            else:
                yield pair[0]
                at += 1

    def _recalled(self) -> str:
        known = (*_SYSTEM, Source.SOURCE_HISTORY)
        return "".join(_text(section) for section in self.sections if section.source not in known)


@dataclass(frozen=True)
class Replay:
    """A bundle that was served before, rendered again byte for byte (P7)."""

    bundle: Bundle
    """Equal to what was served, except for the length of its omission list when all were asked for."""
    served_at: datetime
    """When it was served, in UTC."""
    session_id: str
    """The session that it was served for."""
    subject_id: str
    """Whose memory it recalled."""


def _text(section: Section) -> str:
    return "".join(segment.header + segment.body for segment in section.segments)


def _body(segment: Segment) -> str:
    return segment.body.removesuffix("\n")


def _is_spoken(segment: Segment) -> bool:
    return segment.kind == SegmentKind.SEGMENT_KIND_TEXT


def _content(segment: Segment) -> str:
    """Return what a message says; what nobody said keeps its header, as the only word on what it is."""
    return _body(segment) if _is_spoken(segment) else segment.header + _body(segment)


def _role(segment: Segment) -> str:
    frame = segment.kind == SegmentKind.SEGMENT_KIND_FRAME
    return "assistant" if segment.role == Role.ROLE_ASSISTANT and not frame else "user"


def _tool_name(call: Segment) -> str:
    return _NOT_NAME.sub("_", call.name)[:64] or "tool"


def _call_id(call: Segment) -> str:
    if _CALL_ID.fullmatch(call.tool_call_id):
        return call.tool_call_id
    return "call_" + hashlib.sha256(call.tool_call_id.encode()).hexdigest()[:32]


def _arguments(call: Segment) -> tuple[str, Json]:
    """Return a call's arguments as JSON text, unchanged if it is an object, and as that object."""
    text = _body(call)
    if not text.strip():
        return "{}", {}
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=_whole)
        # Half a surrogate pair is valid JSON that no UTF-8 request can carry, and 1e309 a number that few read.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, OverflowError, RecursionError):
        value = None
    if not isinstance(value, dict) or _is_deeper(value, ARGUMENTS_DEPTH_MAX):
        value = {"raw": text}
        text = json.dumps(value, ensure_ascii=False)
    return text, value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _whole(digits: str) -> int:
    """Return a whole number as exact as it is. Raises OverflowError if no double comes near it."""
    value = int(digits)
    float(value)
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether objects and lists stand more than `depth` deep in each other."""
    level = [value]
    for _ in range(depth + 1):
        inner = [one for one in level if isinstance(one, dict | list)]
        if not inner:
            return False
        level = [one for outer in inner for one in (outer.values() if isinstance(outer, dict) else outer)]
    return True
