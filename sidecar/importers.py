"""Conversations of other systems, read into turns that CommitTurn takes: `standpipe memory import`.

Who spoke decides how far a text is trusted, here as everywhere. What a user, a model or a tool said in a log stays what
that role said. What a peer's model wrote down as a memory has no lineage, so it comes in as what it is: words of a
model, quoted, with the peer as the speaker, and never a fact. Prompts of the operator are left out: they are a
policy's.

A message becomes a turn of its own, and its request id follows from where it stands and what it says. So a second
import changes nothing, one that broke off goes on, and a log that has grown since adds what is new. A file is read
whole before anything is sent: what is wrong with it is an InvalidField that names the line and the field.

The formats, as their sources had them in 2026:

- ``openai``: messages of the chat completions API and items of the responses API
  (platform.openai.com/docs/api-reference), as one conversation, a list of them, or JSON Lines of either, such as the
  files for fine-tuning.
- ``redis-json``: lists of JSON messages as they stand under Redis keys: of LangChain's RedisChatMessageHistory
  (``message_to_dict`` of langchain-core; it pushes on the left, so give `newest_first`), of openai-agents-python's
  RedisSession, and session documents of redis/agent-memory-server (``WorkingMemory`` of its models.py).
- ``mem0``: what ``get_all`` gives (mem0ai/mem0, mem0/memory/main.py; docs.mem0.ai/api-reference/memory).
- ``letta``: agent files, .af (letta-ai/letta, letta/schemas/agent_file.py, and the one before it,
  letta/serialize_schemas/pydantic_agent_schema.py; letta/system.py for the envelopes of messages).
"""

from __future__ import annotations

import datetime
import hashlib
import json
import mimetypes
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import Any, Final, NoReturn

from google.protobuf import json_format

from sidecar import canonical, limits
from sidecar.errors import InvalidField, LimitExceeded
from standpipe import assistant, tool_call, tool_result, user
from standpipe.v1.turn_pb2 import Media, Part, Role, TurnEntry

_ID = re.compile(rf"[A-Za-z0-9._:@/+-]{{1,{limits.id_chars_max}}}")
_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TIMES = ("created_at", "timestamp", "created", "time")
"""Where logs keep when a message was said."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one commit is to hold, and where it comes from."""

    session: str
    request_id: str
    entries: Sequence[TurnEntry]
    path: Path
    """Where it stands in the file's document."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds."""

    turns: Sequence[Turn]
    """In order of each session."""
    left_out: Mapping[str, int]
    """How many messages were not taken, by why."""
    text: str
    """The file."""
    is_lines: bool

    def place(self, path: Path) -> str:
        """Return where something stands, as "line 3, messages[2]"."""
        return f"line {_line(self.text, path, is_lines=self.is_lines)}, {_dotted(path)}"


@dataclass(slots=True)
class _Conversation:
    """A run of messages in the form of the chat completions API, each with where it stands."""

    name: str
    """The file's own id of it; empty if it has none."""
    messages: list[tuple[Path, Mapping[str, Any]]] = field(default_factory=list)
    ordered: bool = True
    """Whether a message's place in it is part of what it is. Memories come in any order, and have ids."""


class _Invalid(Exception):
    """Something is wrong at a path; becomes an InvalidField with its line."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def read(data: bytes, form: str, *, prefix: str = "", newest_first: bool = False) -> Found:
    """Read a file of a format. `prefix` begins the names of its sessions in place of the format's name.

    Raises InvalidField, with the line in its metadata, and LimitExceeded. KeyError for a format that is none.
    """
    if len(data) > limits.import_bytes:
        raise LimitExceeded(
            f"{len(data)} bytes are over the limit import_bytes of {limits.import_bytes}: import it in parts",
            field="file",
            limit="import_bytes",
            maximum=limits.import_bytes,
            actual=len(data),
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidField("must be UTF-8", field="file", line=line) from None
    if prefix and not _ID.fullmatch(prefix):
        raise InvalidField("must be characters of a session's id: A-Z a-z 0-9 . _ : - @ / +", field="session")
    document, is_lines = _parse(text)
    left_out: Counter[str] = Counter()
    try:
        conversations = FORMATS[form](document, left_out)
        turns = list(_turns(conversations, form, prefix, newest_first=newest_first, left_out=left_out))
    except _Invalid as error:
        line = _line(text, error.path, is_lines=is_lines)
        raise InvalidField(error.message, field=_dotted(error.path) or "file", line=line) from None
    return Found(turns, dict(left_out), text, is_lines)


# --- turns ------------------------------------------------------------------------------------------------------


def _turns(
    conversations: Sequence[_Conversation], form: str, prefix: str, *, newest_first: bool, left_out: Counter[str]
) -> Iterator[Turn]:
    for number, conversation in enumerate(conversations, start=1):
        messages = conversation.messages[::-1] if newest_first and conversation.ordered else conversation.messages
        made = [(path, message, entries) for path, message, entries in _Entries(messages, left_out).made() if entries]
        if not made:
            continue
        session = _session(conversation, form, prefix, number, len(conversations), [one[2] for one in made])
        for ordinal, (path, message, entries) in enumerate(made):
            place = ordinal if conversation.ordered else str(message.get("id") or "")
            digest = canonical.sha256(["import", form, session, place, _said(entries)])
            yield Turn(session, f"import-{digest.hex()[:32]}", entries, path)


def _said(entries: Sequence[TurnEntry]) -> str:
    """Return what a turn holds in a form that no release of protobuf changes: the API's own names."""
    return json.dumps([json_format.MessageToDict(entry) for entry in entries], sort_keys=True)


def _session(
    conversation: _Conversation, form: str, prefix: str, number: int, count: int, turns: Sequence[Sequence[TurnEntry]]
) -> str:
    """Name a conversation's session: by its own id, else by its place under a given prefix, else by what it says."""
    name = conversation.name
    if name and not _ID.fullmatch(f"{prefix or form}-{name}"):
        name = hashlib.sha256(name.encode()).hexdigest()[:16]
    if not name:
        if prefix:
            return prefix if count == 1 else f"{prefix}-{number}"
        name = hashlib.sha256("".join(map(_said, turns)).encode()).hexdigest()[:16]
    return f"{prefix or form}-{name}"


class _Entries:
    """Makes a conversation's entries, its calls and results in pairs."""

    def __init__(self, messages: Sequence[tuple[Path, Mapping[str, Any]]], left_out: Counter[str]) -> None:
        self.messages = messages
        self.left_out = left_out
        self.ids: dict[str, str] = {}
        """The id under which a call was committed, by its own: ids are unique in a session, and not in every log."""
        self.given: set[str] = set()
        self.open: dict[str, str] = {}
        """The tools of the calls that wait for their result, by their own ids."""

    def made(self) -> Iterator[tuple[Path, Mapping[str, Any], list[TurnEntry]]]:
        """Yield what each message becomes: nothing, if it holds nothing to remember."""
        answered = {
            _call_id(message): at
            for at, (_, message) in enumerate(self.messages)
            if _role(message) in ("tool", "function")
        }
        for at, (path, message) in enumerate(self.messages):
            role = _role(message)
            if role in ("system", "developer"):
                self.left_out["a prompt of the operator"] += 1
            elif role == "reasoning":
                self.left_out["a model's reasoning"] += 1
            elif role in ("user", "assistant", "tool", "function"):
                try:
                    entries = (
                        self._spoken(path, message, role) + self._calls(path, message, at, answered)
                        if role in ("user", "assistant")
                        else self._result(path, message)
                    )
                except UnicodeEncodeError:
                    raise _Invalid("must hold whole characters: half of one stands alone", path) from None
                if not entries:
                    self.left_out["nothing in it"] += 1
                yield path, message, entries
            else:
                raise _Invalid("must be system, developer, user, assistant, tool or function", (*path, "role"))

    def _spoken(self, path: Path, message: Mapping[str, Any], role: str) -> list[TurnEntry]:
        content = message.get("content")
        parts = list(_parts(content, (*path, "content")))
        if not parts and isinstance(message.get("refusal"), str) and message["refusal"].strip():
            parts = [Part(text=message["refusal"])]
        if not parts:
            return []
        make = user if role == "user" else assistant
        texts = [part.text for part in parts]
        entry = make(
            texts[0] if len(parts) == 1 and texts[0] else "",
            speaker=_speaker(message.get("name"), role),
            at=_at(path, message),
        )
        if not entry.message.text:
            entry.message.parts.extend(parts)
        return [entry]

    def _calls(self, path: Path, message: Mapping[str, Any], at: int, answered: Mapping[str, int]) -> list[TurnEntry]:
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise _Invalid("must be a list of calls", (*path, "tool_calls"))
        found = []
        for index, call in enumerate(calls):
            place = (*path, "tool_calls", index)
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                raise _Invalid("must be a call with a function", place)
            found.append((place, str(call.get("id") or f"call-{at}-{index}"), function))
        legacy = message.get("function_call")
        if isinstance(legacy, dict):
            found.append(((*path, "function_call"), str(legacy.get("name") or ""), legacy))
        entries = []
        last = at == len(self.messages) - 1
        for place, own, function in found:
            name, arguments = function.get("name"), function.get("arguments") or ""
            if not isinstance(name, str) or not name:
                raise _Invalid("must be the function's name", (*place, "name"))
            raw = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            if answered.get(own, -1) > at or last:
                self.open[own] = name
                entries.append(tool_call(self._new_id(own), _tool(name), _arguments(raw)))
            else:  # nobody ever answered: it must not wait for ever
                entries.append(assistant(f"[{' '.join(filter(None, (name, raw)))}]", at=_at(path, message)))
        return entries

    def _result(self, path: Path, message: Mapping[str, Any]) -> list[TurnEntry]:
        own = _call_id(message)
        content = message.get("content", message.get("output"))
        text = "\n".join(part.text or part.media.uri for part in _parts(content, (*path, "content")))
        entries = []
        if self.open.pop(own, None) is None:  # its call is not in the log: a tool said it all the same
            entries.append(tool_call(self._new_id(own), _tool(str(message.get("name") or "unknown"))))
        is_error = message.get("status") == "error"
        return [*entries, tool_result(self.ids[own], text, is_error)]

    def _new_id(self, own: str) -> str:
        """Return an id for a call that no other of the session has."""
        given = own if own and not _CONTROL.search(own) and len(own.encode()) < limits.name_bytes - 8 else "call"
        number = 1
        while given in self.given:
            number += 1
            given = f"{given.rpartition('#')[0] or given}#{number}"
        self.given.add(given)
        self.ids[own] = given
        return given


def _role(message: Mapping[str, Any]) -> str:
    """Return who a message is of: a role, or for an item of the responses API what its type stands for."""
    if "role" in message:
        return str(message["role"])
    return "reasoning" if message.get("type") == "reasoning" else str(message.get("type") or "")


def _call_id(message: Mapping[str, Any]) -> str:
    """Return a log's own id of the call that a result answers; of the oldest form of the API, the function's name."""
    return str(message.get("tool_call_id") or message.get("call_id") or message.get("name") or "")


def _parts(content: Any, path: Path) -> Iterator[Part]:
    """Yield what a content holds. A file inside it is named and not kept: it is no text."""
    if content is None:
        return
    if isinstance(content, str):
        if content.strip():
            yield Part(text=content)
        return
    if not isinstance(content, list):
        raise _Invalid("must be a text, or a list of parts", path)
    for index, part in enumerate(content):
        if isinstance(part, str):
            part = {"type": "text", "text": part}  # noqa: PLW2901 - the short form of the same
        if not isinstance(part, dict):
            raise _Invalid("must be a part with a type", (*path, index))
        said = part.get("text", part.get("refusal"))
        if isinstance(said, str):
            if said.strip():
                yield Part(text=said)
            continue
        kind = str(part.get("type") or "file")
        if kind in ("reasoning", "thinking", "redacted_reasoning", "omitted_reasoning", "redacted_thinking"):
            continue
        link = part.get("image_url")
        uri = link.get("url") if isinstance(link, dict) else link
        if isinstance(uri, str) and re.match(r"https?://", uri) and len(uri.encode()) <= limits.media_uri_bytes:
            media_type = mimetypes.guess_type(uri.partition("?")[0])[0] or "application/octet-stream"
            yield Part(media=Media(uri=uri, media_type=media_type))
        else:
            yield Part(text=f"[{_NOT_NAME.sub('_', kind)[:40]}]")


def _speaker(name: Any, role: str) -> str:
    """Return a name that can stand for a speaker; empty for one that cannot."""
    if not isinstance(name, str):
        return ""
    clean = " ".join(_CONTROL.sub(" ", name).split())
    taken = {Role.Name(one).removeprefix("ROLE_").lower() for one in Role.values()} - {role}
    return "" if clean.casefold() in taken or len(clean.encode()) > limits.name_bytes else clean


def _tool(name: str) -> str:
    return _NOT_NAME.sub("_", name)[: limits.id_chars_max] or "unknown"


def _arguments(raw: str) -> str:
    """Return a call's arguments as JSON; what a model wrote and is none, as a text in it."""
    try:
        json.loads(raw, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return json.dumps({"arguments": raw}, ensure_ascii=False) if raw.strip() else ""
    return raw


def _no_json(word: str) -> NoReturn:
    raise ValueError(word)


def _at(path: Path, message: Mapping[str, Any]) -> datetime.datetime | None:
    """Return when a message was said: seconds or milliseconds since 1970, or ISO 8601, in UTC unless it says."""
    for name in _TIMES:
        value = message.get(name)
        if value is None or value == "":
            continue
        try:
            if isinstance(value, int | float) and not isinstance(value, bool):
                seconds = value / 1000 if abs(value) > 1e11 else value
                return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
            if isinstance(value, str):
                when = datetime.datetime.fromisoformat(value)
                return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
        except (ValueError, OverflowError, OSError):
            pass
        raise _Invalid("must be a time, in ISO 8601 or in seconds since 1970", (*path, name))
    return None


# --- formats ----------------------------------------------------------------------------------------------------


def _openai(document: Any, left_out: Counter[str]) -> list[_Conversation]:
    del left_out
    if isinstance(document, dict):
        return [_conversation(document, ())]
    rows = _rows(document, ())
    if rows and all(isinstance(row, dict) and "messages" in row for _, row in rows):
        return [_conversation(row, path) for path, row in rows]
    if rows and all(isinstance(row, list) for _, row in rows):
        return [_Conversation("", _messages(row, path)) for path, row in rows]
    return [_Conversation("", _messages(document, ()))]


def _redis(document: Any, left_out: Counter[str]) -> list[_Conversation]:
    if isinstance(document, list):
        return [_Conversation("", _messages(document, ()))]
    if not isinstance(document, dict):
        raise _Invalid("must be a list of messages, a session, or an object of them by key", ())
    if isinstance(document.get("messages"), list):
        return _working(document, (), "", left_out)
    found = []
    owners: set[str] = set()
    for key, value in document.items():
        if isinstance(value, dict) and isinstance(value.get("messages"), list):
            found += _working(value, (key,), str(key), left_out)
            owners.add(str(value.get("user_id") or ""))
        else:
            found.append(_Conversation(str(key), _messages(value, (key,))))
    if len(owners) > 1:
        raise _Invalid("holds sessions of several users: import one user's at a time", ())
    return found


def _working(document: Mapping[str, Any], path: Path, key: str, left_out: Counter[str]) -> list[_Conversation]:
    """Read a session document of agent-memory-server: what was said, and what its model made of it."""
    spoken = _conversation(document, path)
    spoken.name = spoken.name or key
    memories = _Conversation(f"{spoken.name}-memories" if spoken.name else "memories", ordered=False)
    for place, row in _rows(document.get("memories") or [], (*path, "memories")):
        memories.messages.append((place, _memory(row, place, "text", "agent-memory-server")))
    if isinstance(document.get("context"), str) and document["context"].strip():
        left_out["a summary"] += 1  # of what is there in full
    return [spoken, memories]


def _mem0(document: Any, left_out: Counter[str]) -> list[_Conversation]:
    del left_out
    path: Path = ()
    if isinstance(document, dict):
        document, path = document.get("results"), ("results",)
    found: dict[str, _Conversation] = {}
    owners: set[str] = set()
    for place, row in _rows(document, path):
        message = _memory(row, place, "memory", "mem0")
        name = str(row.get("run_id") or "memories")
        found.setdefault(name, _Conversation(name, ordered=False)).messages.append((place, message))
        owners.add(str(row.get("user_id") or ""))
        if len(owners) > 1:
            raise _Invalid("is another user's: import one user's memories at a time", (*place, "user_id"))
    return list(found.values())


def _letta(document: Any, left_out: Counter[str]) -> list[_Conversation]:
    if not isinstance(document, dict):
        raise _Invalid("must be an agent file", ())
    agents = _rows(document["agents"], ("agents",)) if "agents" in document else [((), document)]
    blocks = _rows(document.get("blocks") or document.get("core_memory") or [], ("blocks",))
    found = []
    for path, agent in agents:
        if not isinstance(agent, dict) or not isinstance(agent.get("messages"), list):
            raise _Invalid("must be an agent with its messages", (*path, "messages"))
        conversation = _Conversation(str(agent.get("id") or agent.get("name") or ""))
        for place, row in _rows(agent["messages"], (*path, "messages")):
            for part in _returned(_object(row, place)):
                message = _opened(part, left_out)
                if message is not None:
                    conversation.messages.append((place, message))
        found.append(conversation)
    kept = _Conversation("blocks", ordered=False)
    for place, row in blocks:
        if isinstance(row, dict) and row.get("label") == "persona":
            left_out["an agent's persona"] += 1  # a prompt of the operator
        elif not isinstance(row, dict) or str(row.get("value") or "").strip():
            kept.messages.append((place, _memory(row, place, "value", "letta")))
    return [*found, kept]


def _returned(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a Letta message, or, where it holds the results of several calls, one for each."""
    returns = message.get("tool_returns")
    returns = [one for one in returns if isinstance(one, dict)] if isinstance(returns, list) else []
    if message.get("role") != "tool" or len(returns) < 2:
        return [message]
    return [{**message, **one, "content": one.get("func_response")} for one in returns]


def _opened(message: Mapping[str, Any], left_out: Counter[str]) -> Mapping[str, Any] | None:
    """Take a Letta message out of its envelope. None for what Letta itself said in the user's name, and for echoes."""
    said = message.get("content")
    text = "".join(str(part.get("text") or "") for part in said if isinstance(part, dict)) if said else ""
    text = said if isinstance(said, str) else text
    envelope: Any = None
    if text.startswith("{"):
        try:
            envelope = json.loads(text)
        except (ValueError, RecursionError):
            envelope = None
    role = message.get("role")
    if role == "user" and isinstance(envelope, dict) and "type" in envelope:
        if envelope["type"] != "user_message":
            left_out["an event of the agent's own"] += 1
            return None
        return {**message, "content": str(envelope.get("message") or "")}
    if role == "tool":
        if message.get("name") == "send_message":
            left_out["an event of the agent's own"] += 1
            return None
        if isinstance(envelope, dict) and "status" in envelope and "message" in envelope:
            status = "" if envelope["status"] == "OK" else "error"
            return {**message, "content": str(envelope["message"] or ""), "status": status}
    if role == "assistant" and isinstance(message.get("tool_calls"), list):
        return _sent(message)
    if role in ("approval", "summary"):
        left_out["an event of the agent's own"] += 1
        return None
    return message


def _sent(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give an assistant its words: an agent of the older kind speaks by a call of send_message, and thinks aloud."""
    words, calls = [], []
    for call in message["tool_calls"]:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and function.get("name") == "send_message":
            try:
                words.append(str(json.loads(function.get("arguments") or "{}")["message"]))
            except (ValueError, KeyError, TypeError, RecursionError):
                words.append(str(function.get("arguments")))
        else:
            calls.append(call)
    return {**message, "content": "\n".join(words) if words else message.get("content"), "tool_calls": calls}


FORMATS: Final[Mapping[str, Callable[[Any, Counter[str]], list[_Conversation]]]] = {
    "openai": _openai,
    "redis-json": _redis,
    "mem0": _mem0,
    "letta": _letta,
}
"""What reads each format."""


def _conversation(document: Mapping[str, Any], path: Path) -> _Conversation:
    name = next((document[key] for key in ("session_id", "conversation_id", "id") if document.get(key)), "")
    return _Conversation(str(name), _messages(document.get("messages"), (*path, "messages")))


def _messages(rows: Any, path: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    """Read a list of messages, each an object or its JSON, in the form of the chat completions API."""
    found = []
    for place, row in _rows(rows, path):
        message = _object(row, place)
        if isinstance(message.get("data"), dict) and "role" not in message:
            message = _langchain(message, place)
        kind = message.get("type")
        if kind == "function_call" and "role" not in message:
            call = {"id": message.get("call_id"), "function": message}
            message = {"role": "assistant", "tool_calls": [call]} | {
                name: message[name] for name in _TIMES if name in message
            }
        elif kind == "function_call_output" and "role" not in message:
            message = {**message, "role": "tool"}
        found.append((place, message))
    return found


def _langchain(row: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    roles = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function"}
    role = roles.get(str(row.get("type")).removesuffix("MessageChunk").lower())
    if role is None:
        raise _Invalid("must be human, ai, system, tool or function", (*path, "type"))
    data = row["data"]
    calls = [
        {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("args") or {}}}
        for call in data.get("tool_calls") or []
        if isinstance(call, dict)
    ]
    kept = {name: data[name] for name in ("content", "name", "tool_call_id", "status", *_TIMES) if name in data}
    return {**kept, "role": role, "tool_calls": calls}


def _memory(row: Any, path: Path, name: str, peer: str) -> Mapping[str, Any]:
    """Read what a peer's model wrote down, as a model's words."""
    text = _object(row, path).get(name)
    if not isinstance(text, str):
        raise _Invalid("must be a text", (*path, name))
    label = row.get("label")
    said = f"{label}: {text}" if label else text
    at = {"created_at": row.get("created_at") or row.get("updated_at")}
    return {"role": "assistant", "name": peer, "content": said, "id": row.get("id"), **at}


def _rows(value: Any, path: Path) -> list[tuple[Path, Any]]:
    if not isinstance(value, list):
        raise _Invalid("must be a list", path)
    return [((*path, index), row) for index, row in enumerate(value)]


def _object(row: Any, path: Path) -> Mapping[str, Any]:
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except (ValueError, RecursionError):
            raise _Invalid("must be a message, or its JSON", path) from None
    if not isinstance(row, dict):
        raise _Invalid("must be an object", path)
    return row


# --- files ------------------------------------------------------------------------------------------------------


def _parse(text: str) -> tuple[Any, bool]:
    """Return a file's document, and whether it is JSON Lines: then the document is the list of them."""
    try:
        return json.loads(text), False
    except RecursionError:
        raise InvalidField("must not be nested so deeply", field="file", line=1) from None
    except JSONDecodeError as error:
        first = error
    rows = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            at = number if rows else first.lineno  # a file that does not begin as lines is meant as one document
            raise InvalidField("must be JSON, or JSON Lines", field="file", line=at) from None
    if not rows:
        raise InvalidField("must not be empty", field="file", line=1)
    return rows, True


def _dotted(path: Path) -> str:
    """Return a path as it is written: messages[3].content."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _line(text: str, path: Path, *, is_lines: bool) -> int:
    """Return the line on which a path's value begins, or that of the innermost value that is there."""
    if is_lines:
        lines = [number for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        return lines[int(path[0])] if path else 1
    at = _skip(text, 0)
    for step in path:
        members = list(_members(text, at))
        found = [place for name, place in members if name == step]
        if not found:
            break
        at = found[-1]
    return text.count("\n", 0, at) + 1


def _members(text: str, at: int) -> Iterable[tuple[str | int, int]]:
    """Yield the members of the object or list at a place: their names or numbers, and where their values begin."""
    decoder = json.JSONDecoder()
    opened = text[at]
    if opened not in "{[":
        return
    at = _skip(text, at + 1)
    number = 0
    while text[at] not in "}]":
        name: str | int = number
        if opened == "{":
            name, at = decoder.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        yield name, at
        _, at = decoder.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
        number += 1


def _skip(text: str, at: int) -> int:
    """Return where the next sign stands that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
