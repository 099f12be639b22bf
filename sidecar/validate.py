"""Checking what callers send, by hand: the first thing that is wrong is named by its field, and nothing happens.

No message here ever quotes what was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from google.protobuf import timestamp_pb2
from google.protobuf.message import Message

from sidecar import limits, names, normal
from sidecar.errors import InvalidField, LimitExceeded, ToolResultWithoutCall
from standpipe.v1 import bundle_pb2, context_pb2, embedding_pb2, fact_pb2, state_pb2, turn_pb2

T = TypeVar("T")

_ID = re.compile(rf"[A-Za-z0-9._:@/+-]{{1,{limits.id_chars_max}}}")
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{limits.id_chars_max}}}")
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{limits.id_chars_max}}}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_ANY_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BRACKET = re.compile(r"[\[\]{}]")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WHITESPACE_RUN = re.compile(r"\s+")
_ROLE_NAMES = frozenset(turn_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in turn_pb2.Role.values())
_SPEAKER = turn_pb2.ROLE_USER, turn_pb2.ROLE_ASSISTANT


def identifier(value: str, field: str, *, optional: bool = False) -> str:
    """Check a session or subject id."""
    if not (_ID.fullmatch(value) or (optional and not value)):
        raise InvalidField(f"must be 1 to {limits.id_chars_max} characters of A-Z a-z 0-9 . _ : - @ / +", field=field)
    return value


def log(value: str, field: str) -> str:
    """Check the name of a log: a session's id, or one of our own."""
    if not names.is_own(value):
        return identifier(value, field)
    try:
        found = names.own(value)
    except ValueError:
        raise InvalidField("is neither a session's id nor the name of a log of memory", field=field) from None
    for part in (found.subject, found.document):
        identifier("" if part == names.EVERYONE else part, field, optional=True)
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


def embedding(request: embedding_pb2.EmbedRequest) -> None:
    """Check a call of a shared embedder; whether it serves the model, it knows itself."""
    if not 1 <= len(request.model_id) <= limits.embed_model_chars_max:
        raise InvalidField(f"must be 1 to {limits.embed_model_chars_max} characters", field="model_id")
    if request.kind not in (embedding_pb2.EMBED_KIND_QUERY, embedding_pb2.EMBED_KIND_PASSAGE):
        raise InvalidField("must be EMBED_KIND_QUERY or EMBED_KIND_PASSAGE", field="kind")
    if not request.texts:
        raise InvalidField("must hold at least one text", field="texts")
    size(len(request.texts), "texts", limit="embed_call_texts_max", maximum=limits.embed_call_texts_max)
    for place, one in enumerate(request.texts):
        size(len(one.encode()), f"texts[{place}]", limit="embed_text_bytes", maximum=limits.embed_text_bytes)


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
        elif not entry.app_json:
            raise InvalidField("must be a message, a tool_call or a tool_result, or have app_json alone", field=path)
        if entry.app_json:
            _app_json(entry.app_json, f"{path}.app_json")
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
        _timestamp(message.spoken_at, f"{path}.spoken_at")
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
        reference(ref, f"{path}.citations[{index}]")


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


def _app_json(value: str, path: str) -> None:
    """Check JSON that others will have to read: whatever language they do so in."""
    size(len(value.encode()), path, limit="app_json_bytes", maximum=limits.app_json_bytes)
    brackets = _BRACKET.findall(_JSON_STRING.sub("", value))
    depth = max(accumulate(1 if one in "[{" else -1 for one in brackets), default=0)
    size(depth, path, limit="app_json_depth_max", maximum=limits.app_json_depth_max)
    try:
        said = json.loads(value, parse_int=len, parse_constant=_no_json, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise InvalidField("must be JSON", field=path) from None
    if _SURROGATE.search(value):
        try:
            json.dumps(said, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InvalidField(
                "must hold no half of a surrogate pair: it stands for no character", field=path
            ) from None


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


def _timestamp(value: timestamp_pb2.Timestamp, path: str) -> None:
    try:
        value.ToDatetime()
    except (ValueError, OverflowError):
        raise InvalidField("must be a time between the years 1 and 9999", field=path) from None


# --- memory ---


def moment(request: Message, field: str) -> int | None:
    """Check a time, and return it in microseconds since 1970; None if there is none."""
    if not request.HasField(field):
        return None
    value: timestamp_pb2.Timestamp = getattr(request, field)
    _timestamp(value, field)
    return int(value.ToMicroseconds())


def reference(ref: turn_pb2.EventRef, path: str, *, to_entry: bool = False) -> None:
    """Check a reference to a place in the log: to one entry of an event, or to the whole event."""
    log(ref.session_id, f"{path}.session_id")
    if ref.version < 1:
        raise InvalidField("must be at least 1", field=f"{path}.version")
    if to_entry and not ref.HasField("entry"):
        raise InvalidField("is required: a fact is one entry of its event", field=f"{path}.entry")
    between(ref.entry, f"{path}.entry", 0, limits.turn_entries_max + limits.facts_per_request_max - 1)


def facts(values: Sequence[fact_pb2.Fact], path: str, *, entries: int | None = None) -> None:
    """Check claims. `entries`: of the turn that they are made in, whose entries they may cite without its name."""
    size(len(values), path, limit="facts_per_request_max", maximum=limits.facts_per_request_max)
    for index, value in enumerate(values):
        fact(value, f"{path}[{index}]", entries=entries)


def fact(value: fact_pb2.Fact, path: str, *, entries: int | None = None) -> None:
    """Check a claim: everything but what only the store can know (its sources, what else is held)."""
    line(value.attribute, f"{path}.attribute", limit="fact_attribute_bytes", maximum=limits.fact_attribute_bytes)
    if not normal.form(value.attribute):
        raise InvalidField("must not be blank, nor punctuation alone", field=f"{path}.attribute")
    text(value.value, f"{path}.value", limit="fact_value_bytes", maximum=limits.fact_value_bytes)
    if not value.value.strip():
        raise InvalidField("must not be blank", field=f"{path}.value")
    if value.kind:
        name(value.kind, f"{path}.kind")
    for which in ("valid_from", "valid_to"):
        if value.HasField(which):
            _timestamp(getattr(value, which), f"{path}.{which}")
    both = value.HasField("valid_from") and value.HasField("valid_to")
    if both and value.valid_from.ToMicroseconds() >= value.valid_to.ToMicroseconds():
        raise InvalidField("must be after valid_from", field=f"{path}.valid_to")
    if not value.sources:
        raise InvalidField("must name at least one source: there is no claim without one", field=f"{path}.sources")
    size(len(value.sources), f"{path}.sources", limit="sources_max", maximum=limits.sources_max)
    for index, ref in enumerate(value.sources):
        if entries is None or ref.session_id:
            reference(ref, f"{path}.sources[{index}]")
        elif ref.version:
            raise InvalidField("must not be set without session_id", field=f"{path}.sources[{index}].version")
        else:
            between(ref.entry, f"{path}.sources[{index}].entry", 0, entries - 1)
    extractor(value.extractor, f"{path}.extractor")


def extractor(value: fact_pb2.Extractor, path: str) -> None:
    """Check what made a claim."""
    if value.name:
        name(value.name, f"{path}.name")
    line(
        value.version,
        f"{path}.version",
        limit="extractor_version_bytes",
        maximum=limits.extractor_version_bytes,
    )


def correction(value: fact_pb2.FactCorrection, path: str) -> None:
    """Check a correction."""
    reference(value.fact, f"{path}.fact", to_entry=True)
    if value.correction not in fact_pb2.Correction.values() or not value.correction:
        raise InvalidField("names no correction", field=f"{path}.correction")
    supersedes = value.correction == fact_pb2.CORRECTION_SUPERSEDE
    if supersedes != value.HasField("replacement"):
        why = "is required: what takes its place" if supersedes else "goes with CORRECTION_SUPERSEDE alone"
        raise InvalidField(why, field=f"{path}.replacement")
    if supersedes:
        fact(value.replacement, f"{path}.replacement")
    line(value.cause, f"{path}.cause", limit="cause_bytes", maximum=limits.cause_bytes)


def review(value: fact_pb2.Review, path: str) -> None:
    """Check a review."""
    reference(value.fact, f"{path}.fact", to_entry=True)
    if value.decision not in fact_pb2.Decision.values() or not value.decision:
        raise InvalidField("names no decision", field=f"{path}.decision")
    if not value.reviewer.strip():
        raise InvalidField("must say who decided", field=f"{path}.reviewer")
    line(value.reviewer, f"{path}.reviewer", limit="reviewer_bytes", maximum=limits.reviewer_bytes)
    line(value.cause, f"{path}.cause", limit="cause_bytes", maximum=limits.cause_bytes)


def profile(values: Sequence[fact_pb2.ProfileAttribute], path: str) -> None:
    """Check attributes of a profile."""
    if not values:
        raise InvalidField("must hold at least one attribute", field=path)
    size(len(values), path, limit="profile_attributes_max", maximum=limits.profile_attributes_max)
    seen: set[str] = set()
    for index, value in enumerate(values):
        name(value.name, f"{path}[{index}].name")
        _once(value.name, seen, f"{path}[{index}].name", "names an attribute a second time")
        line(
            value.value,
            f"{path}[{index}].value",
            limit="profile_value_bytes",
            maximum=limits.profile_value_bytes,
        )


def documents(values: Sequence[fact_pb2.Document], path: str) -> None:
    """Check documents."""
    if not values:
        raise InvalidField("must hold at least one document", field=path)
    size(len(values), path, limit="documents_per_request_max", maximum=limits.documents_per_request_max)
    seen: set[str] = set()
    total = 0
    for index, value in enumerate(values):
        at = f"{path}[{index}]"
        identifier(value.document_id, f"{at}.document_id")
        _once(value.document_id, seen, f"{at}.document_id", "names a document a second time")
        line(value.title, f"{at}.title", limit="document_title_bytes", maximum=limits.document_title_bytes)
        line(value.uri, f"{at}.uri", limit="document_uri_bytes", maximum=limits.document_uri_bytes)
        text(value.text, f"{at}.text", limit="document_bytes", maximum=limits.document_bytes)
        if not value.text.strip():
            raise InvalidField("must not be blank", field=f"{at}.text")
        total += len(value.text.encode())
    size(total, path, limit="documents_bytes", maximum=limits.documents_bytes)


def state_keys(values: Sequence[str], field: str, *, of: str = "") -> None:
    """Check the keys of records: that each is one, and that they differ. `of` is its path below the field's element."""
    if not values:
        raise InvalidField("must not be empty", field=field)
    size(len(values), field, limit="state_writes_max", maximum=limits.state_writes_max)
    seen: set[str] = set()
    for index, value in enumerate(values):
        path = f"{field}[{index}]{of}"
        if not value:
            raise InvalidField(f"must be 1 to {limits.state_key_bytes} bytes", field=path)
        state_prefix(value, path)
        if value in seen:
            raise InvalidField("is an earlier one again: each key may stand once", field=path)
        seen.add(value)


def state_prefix(value: str, field: str) -> str:
    """Check what keys may begin with."""
    return line(value, field, limit="state_key_bytes", maximum=limits.state_key_bytes)


def state_writes(writes: Sequence[state_pb2.StateWrite]) -> None:
    """Check changes of records."""
    state_keys([write.key for write in writes], "writes", of=".key")
    for index, write in enumerate(writes):
        path = f"writes[{index}]"
        size(len(write.value), f"{path}.value", limit="state_value_bytes", maximum=limits.state_value_bytes)
        if write.HasField("expected_revision") and write.expected_revision < 0:
            raise InvalidField("must not be negative", field=f"{path}.expected_revision")
        if write.HasField("ttl_s"):
            between(write.ttl_s, f"{path}.ttl_s", 1, limits.state_ttl_s)
            if not write.HasField("value"):
                raise InvalidField("goes with a value: a write without one deletes", field=f"{path}.ttl_s")
    total = sum(len(write.key.encode()) + len(write.value) for write in writes)
    size(total, "writes", limit="state_write_bytes", maximum=limits.state_write_bytes)
