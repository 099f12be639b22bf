"""Restore: reads an export of a subject back in (`sidecar.export`), as it was and in the order in which it was.

It is a write path, and the least trusted one. By its signature a deployment knows an export of its own again: then all
stamps in it stand. A file that is not signed, or was changed, is what somebody says: everything in it is trusted as
EXTERNAL, so its claims wait for review, and what only who may review or operate can do (reviews, pins, corrections, the
profile) is left out (`sidecar.gateway`). Records of state are left out of it too: an application takes what it finds
under its keys for what it wrote itself, and may do whatever that says.

The whole file is checked before anything is written. What is written is one event after the other, each as an append
(R30); who is interrupted calls again, and what is there already is passed over. Pods that serve meanwhile show what has
been read in so far; at the end the hot store forgets the sessions, so that all see all of it. Records of state come
last; their revisions are new.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from sidecar import analysis, canonical, export, gateway, limits, names, validate
from sidecar.erasure import sources_of
from sidecar.errors import InvalidField, LimitExceeded, StandpipeError, VersionConflict
from sidecar.log.v1 import log_pb2
from sidecar.receipt import Signer
from sidecar.segment import Count
from sidecar.stores.hot import Hot
from sidecar.stores.record import (
    EventKind,
    EventsRead,
    Head,
    HeadRead,
    NewEvent,
    Read,
    Record,
    StateFound,
    StateRead,
    StateWrite,
    StoredEvent,
)
from standpipe.v1 import fact_pb2, turn_pb2

M = TypeVar("M", bound=Message)

_SESSIONS_AT_ONCE = 64
_RECORDS_AT_ONCE = 16

_KINDS: Mapping[str, EventKind] = {kind.name.lower(): kind for kind in EventKind}


@dataclass(slots=True)
class Restored:
    """What an import did."""

    subject: str
    signed: bool
    """Whether the file is this deployment's own, unchanged."""
    events: int = 0
    """Events that were written."""
    present: int = 0
    """Events that an interrupted import had written."""
    left_out: int = 0
    """Changes of memory, and records of state, that a file without its signature cannot make."""
    records: int = 0
    """Records of state that were written."""


@dataclass(slots=True)
class _Line:
    """An event of the file, parsed."""

    number: int
    session: str
    version: int
    kind: EventKind
    request_id: str
    committed_at_us: int
    received_at_us: int
    keep_s: int
    digest: bytes
    turn: turn_pb2.Turn
    changes: list[fact_pb2.MemoryChange]
    trust: dict[int, fact_pb2.Trust]
    end: turn_pb2.SessionEnd


@dataclass(slots=True)
class _Kept:
    """A record of state of the file, parsed."""

    number: int
    collection: str
    key: str
    value: bytes
    expires_at_us: int


@dataclass(slots=True)
class _Checked:
    """What the first pass over a file found."""

    subject: str
    signed: bool = False
    ends: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By session: its last version, and the line that it stands on."""
    calls: dict[str, tuple[set[str], set[str]]] = field(default_factory=lambda: defaultdict(lambda: (set(), set())))
    """By session: ids of its calls, and of those that wait."""
    kept: set[tuple[str, str]] = field(default_factory=set)
    """(collection, key) of its records of state."""


class Restorer:
    """Imports exports."""

    def __init__(self, *, record: Record, hot: Hot[Any], counters: Mapping[str, Count], signer: Signer) -> None:
        """`counters`: what counts at write, by tokenizer; the first one leads."""
        self._record = record
        self._hot = hot
        self._counters = counters
        self._signer = signer

    async def restore(
        self, tenant: str, file: BinaryIO, *, progress: Callable[[int], None] = lambda _events: None
    ) -> Restored:
        """Read a file in. Errors name the line and the field; an InvalidField has changed nothing."""
        checked = self._check(tenant, file)
        there = await self._there(tenant, checked, file)
        kept = await self._kept_there(tenant, checked, file)
        done = Restored(checked.subject, checked.signed)
        await self._record.reopen(tenant, subject=checked.subject)
        line: _Line | _Kept | None = None
        try:
            for line in self._lines(file, checked.subject):
                if line.version <= there.get(line.session, 0):
                    done.present += 1
                    continue
                event = self._event(tenant, checked, line, done)
                await self._record.restore(event, committed_at_us=line.committed_at_us)
                done.events += 1
                progress(done.events)
            for line in self._state(file):
                await self._keep(tenant, checked, line, there=kept, done=done)
        except StandpipeError as error:
            where = f"line {line.number}" if line else "line 1"
            error.message += f" ({where}; {done.events} events were imported, call again to go on)"
            error.args = (error.message,)
            raise
        finally:
            for session in checked.ends:
                await self._hot.forget(tenant, session)
        return done

    # --- checking ---

    def _check(self, tenant: str, file: BinaryIO) -> _Checked:
        file.seek(0)
        chain, subject, signature = export.START, "", None
        checked: _Checked | None = None
        for number, raw in _raw_lines(file):
            if signature is not None:
                raise InvalidField("stands behind the signature, which is the last line", field=f"line {number}")
            fields = _object(raw, number)
            if checked is None:
                subject = _header(fields, number)
                checked = _Checked(subject)
            elif "signature" in fields:
                signature = fields["signature"]
                continue
            elif "state" in fields:
                one = _state_line(number, fields)
                if (one.collection, one.key) in checked.kept:
                    raise InvalidField("names the record of an earlier line", field=f"line {number}: state.key")
                checked.kept.add((one.collection, one.key))
            else:
                with _naming(number):
                    self._check_line(_line(number, fields, raw), checked)
            chain = export.chained(chain, raw)
        if checked is None:
            raise InvalidField("is empty: an export begins with its header", field="line 1")
        if signature is not None:
            own = self._signer.sign_export(tenant=tenant, subject=subject, chain=chain)
            checked.signed = isinstance(signature, str) and signature == own.hex()
        if not checked.signed:
            self._check_sources(file, checked)
        return checked

    def _check_line(self, line: _Line, checked: _Checked) -> None:
        validate.log(line.session, "session")
        if names.is_own(line.session) and names.own(line.session).subject != checked.subject:
            raise InvalidField("is a log of another subject", field="session")
        if names.is_own(line.session) != (line.kind == EventKind.MEMORY):
            raise InvalidField("does not go with that session", field="kind")
        last, _ = checked.ends.get(line.session, (0, 0))
        if line.version != last + 1:
            raise InvalidField(f"must be {last + 1}: versions follow each other", field="version")
        if line.version > limits.session_events_max + 1:
            raise LimitExceeded(
                "is over the limit session_events_max",
                field="version",
                limit="session_events_max",
                maximum=limits.session_events_max,
                actual=line.version,
            )
        checked.ends[line.session] = (line.version, line.number)
        validate.request_id(line.request_id)
        if line.kind == EventKind.TURN:
            validate.turn(line.turn)
            self._check_calls(line.turn, *checked.calls[line.session])
        if line.kind == EventKind.END:
            validate.line(line.end.cause, "end.cause", limit="cause_bytes", maximum=limits.cause_bytes)
        for index, change in enumerate(line.changes):
            _check_change(change, f"changes[{index}]", entries=len(line.turn.entries))

    def _check_calls(self, turn: turn_pb2.Turn, called: set[str], waiting: set[str]) -> None:
        for index, entry in enumerate(turn.entries):
            kind = entry.WhichOneof("entry")
            if kind == "tool_call":
                if entry.tool_call.id in called:
                    raise InvalidField("is the id of an earlier call", field=f"turn.entries[{index}].tool_call.id")
                called.add(entry.tool_call.id)
                waiting.add(entry.tool_call.id)
            elif kind == "tool_result":
                if entry.tool_result.call_id not in waiting:
                    raise InvalidField("names no call that waits", field=f"turn.entries[{index}].tool_result.call_id")
                waiting.discard(entry.tool_result.call_id)

    def _check_sources(self, file: BinaryIO, checked: _Checked) -> None:
        """Check that no claim of a file that anybody may have written rests on what is another subject's."""
        for line in self._lines(file, checked.subject):
            for index, change in enumerate(line.changes):
                for ref in sources_of(change):
                    document = names.is_document(ref.session_id) and names.own(ref.session_id).subject == names.EVERYONE
                    if ref.session_id and ref.session_id not in checked.ends and not document:
                        raise InvalidField(
                            "rests on what is not in this file", field=f"line {line.number}: changes[{index}].sources"
                        )

    async def _there(self, tenant: str, checked: _Checked, file: BinaryIO) -> dict[str, int]:
        """Return how much of each session is there already. Raises VersionConflict if it is not from this file."""
        sessions = sorted(checked.ends)
        heads: dict[str, Head] = {}
        for start in range(0, len(sessions), _SESSIONS_AT_ONCE):
            some = sessions[start : start + _SESSIONS_AT_ONCE]
            reads: list[Read] = [HeadRead(tenant=tenant, session=session) for session in some]
            for head in await self._record.fetch(reads):
                if head is not None and not cast(Head, head).expired and not cast(Head, head).erased:
                    heads[cast(Head, head).session] = cast(Head, head)
        if not heads:
            return {}
        for line in self._lines(file, checked.subject):
            head = heads.get(line.session)
            if head is None or line.version != min(head.version, checked.ends[line.session][0]):
                continue
            read = EventsRead(
                tenant=tenant, session=line.session, after_version=line.version - 1, count_max=1, bytes_max=1
            )
            (answer,) = await self._record.fetch([read])
            events = cast("Sequence[StoredEvent] | None", answer)
            same = events and (events[0].request_id, events[0].committed_at_us) == (
                line.request_id,
                line.committed_at_us,
            )
            if head.subject != checked.subject or not same or head.version > checked.ends[line.session][0]:
                raise VersionConflict(
                    f"the session of line {line.number} is there, and not from this file",
                    field=f"line {line.number}: session",
                    current_version=head.version,
                    winner_request_id=events[0].request_id if events else "",
                )
        return {session: head.version for session, head in heads.items()}

    # --- writing ---

    def _lines(self, file: BinaryIO, subject: str) -> Iterator[_Line]:
        """Yield the events of a file that was checked."""
        file.seek(0)
        for number, raw in _raw_lines(file):
            fields = _object(raw, number)
            if number == 1 and _header(fields, number) != subject:
                raise InvalidField("was changed while it was read", field="line 1")
            if number > 1 and not {"signature", "state"} & fields.keys():
                yield _line(number, fields, raw)

    def _state(self, file: BinaryIO) -> Iterator[_Kept]:
        """Yield the records of state of a file that was checked."""
        file.seek(0)
        for number, raw in _raw_lines(file):
            fields = _object(raw, number)
            if "state" in fields:
                yield _state_line(number, fields)

    async def _kept_there(self, tenant: str, checked: _Checked, file: BinaryIO) -> set[tuple[str, str]]:
        """Return which records of state are there already. Raises VersionConflict if one is not from this file."""
        there: set[tuple[str, str]] = set()
        if not checked.signed:
            return there
        lines = self._state(file)
        while some := list(itertools.islice(lines, _RECORDS_AT_ONCE)):
            reads: list[Read] = [
                StateRead(
                    tenant=tenant, subject=checked.subject, collection=one.collection, keys=[one.key], bytes_max=1
                )
                for one in some
            ]
            for one, answer in zip(some, await self._record.fetch(reads), strict=True):
                for found in cast(StateFound, answer).records:
                    if found.value != one.value:
                        raise VersionConflict(
                            f"the record of line {one.number} is there, and not from this file",
                            field=f"line {one.number}: state",
                            current_version=found.revision,
                        )
                    there.add((one.collection, one.key))
        return there

    async def _keep(
        self, tenant: str, checked: _Checked, line: _Kept, *, there: Set[tuple[str, str]], done: Restored
    ) -> None:
        """Write a record of state, unless it is there or its time has passed."""
        if not checked.signed:
            done.left_out += 1
        elif (line.collection, line.key) in there:
            done.present += 1
        elif not 0 < line.expires_at_us <= time.time_ns() // 1000:
            write = StateWrite(key=line.key, value=line.value, expected_revision=0, expires_at_us=line.expires_at_us)
            await self._record.put_state(tenant, subject=checked.subject, collection=line.collection, writes=[write])
            done.records += 1

    def _event(self, tenant: str, checked: _Checked, line: _Line, done: Restored) -> NewEvent:
        changes = []
        for change in line.changes:
            admitted = change if checked.signed else gateway.imported(change)
            done.left_out += change.WhichOneof("change") is not None and admitted.WhichOneof("change") is None
            changes.append(analysis.analyse_change(admitted, self._counters))
        entries = line.turn.entries
        fields: dict[str, Any] = {"weight_bytes": 0}
        if line.kind == EventKind.TURN:
            stored = analysis.analyse(line.turn, self._counters, received_at_us=line.received_at_us)
            for entry, trust in line.trust.items() if checked.signed else ():
                stored.analyses[entry].trust = trust
            if not checked.signed:
                for one in stored.analyses:
                    one.trust = fact_pb2.TRUST_EXTERNAL
            stored.changes.extend(changes)
            fields = {
                "body": stored.SerializeToString(deterministic=True),
                "weight_bytes": analysis.weight_bytes(line.turn),
                "items": analysis.items(stored),
                "opened_calls": [entry.tool_call.id for entry in entries if entry.HasField("tool_call")],
                "answered_calls": [entry.tool_result.call_id for entry in entries if entry.HasField("tool_result")],
            }
        elif line.kind == EventKind.MEMORY:
            memory = log_pb2.StoredMemory(
                changes=changes, tokenizers=list(self._counters), received_at_us=line.received_at_us
            )
            fields |= {
                "body": memory.SerializeToString(deterministic=True),
                "items": analysis.memory_items(memory),
            }
        else:
            fields |= {"body": line.end.SerializeToString(deterministic=True)}
        return NewEvent(
            tenant=tenant,
            session=line.session,
            subject=checked.subject,
            request_id=line.request_id,
            digest=line.digest,
            expected_version=line.version - 1,
            kind=line.kind,
            keep_s=line.keep_s,
            **fields,
        )


@contextlib.contextmanager
def _naming(number: int) -> Iterator[None]:
    """Name what is found to be wrong by its line."""
    try:
        yield
    except InvalidField as error:
        if not (error.field or "").startswith("line "):
            error.field = f"line {number}: {error.field}"
        raise


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := file.readline(limits.import_line_bytes + 1):
        number += 1
        if len(raw) > limits.import_line_bytes:
            raise LimitExceeded(
                "is over the limit import_line_bytes",
                field=f"line {number}",
                limit="import_line_bytes",
                maximum=limits.import_line_bytes,
                actual=len(raw),
            )
        yield number, raw if raw.endswith(b"\n") else raw + b"\n"


def _object(raw: bytes, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidField("must be one JSON object in UTF-8", field=f"line {number}")
    return fields


def _header(fields: Mapping[str, Any], number: int) -> str:
    if fields.get("standpipe_export") != export.FORMAT:
        raise InvalidField(f"must begin an export of format {export.FORMAT}", field=f"line {number}: standpipe_export")
    subject = fields.get("subject")
    return validate.identifier(subject if isinstance(subject, str) else "", f"line {number}: subject")


def _line(number: int, fields: Mapping[str, Any], raw: bytes) -> _Line:
    path = f"line {number}: "

    def given(name: str, kind: type) -> Any:
        value = fields.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidField(f"must be {'a number' if kind is int else 'text'}", field=path + name)
        return value

    kind = _KINDS.get(given("kind", str))
    if kind is None:
        raise InvalidField("names no kind of event", field=path + "kind")
    changes = fields.get("changes", [])
    trust = fields.get("trust", {})
    if not isinstance(changes, list) or not isinstance(trust, dict):
        raise InvalidField("must be a list", field=path + "changes")
    validate.size(len(changes), path + "changes", limit="import_changes_max", maximum=limits.import_changes_max)
    turn = _parsed(fields.get("turn", {}), turn_pb2.Turn(), path + "turn")
    turn.ClearField("bundle_receipt")
    keep_s = given("keep_s", int) if "keep_s" in fields else 0
    return _Line(
        number=number,
        session=given("session", str),
        version=validate.between(given("version", int), path + "version", 1, 1 << 60),
        kind=kind,
        request_id=given("request_id", str),
        committed_at_us=_time(given("committed_at", str), path + "committed_at"),
        received_at_us=0 if kind == EventKind.END else _time(given("received_at", str), path + "received_at"),
        keep_s=validate.between(keep_s, path + "keep_s", 0, 1 << 40),
        digest=canonical.sha256(("import", raw)),
        turn=turn,
        changes=[_parsed(one, fact_pb2.MemoryChange(), f"{path}changes[{index}]") for index, one in enumerate(changes)],
        trust=_trusts(trust, len(turn.entries), path + "trust"),
        end=_parsed(fields.get("end", {}), turn_pb2.SessionEnd(), path + "end"),
    )


def _state_line(number: int, fields: Mapping[str, Any]) -> _Kept:
    path = f"line {number}: state"
    said = fields["state"]
    said = said if isinstance(said, dict) else {}

    def text(name: str) -> str:
        if not isinstance(said.get(name), str):
            raise InvalidField("must be text", field=f"{path}.{name}")
        return cast(str, said[name])

    collection = validate.name(text("collection"), f"{path}.collection")
    validate.state_keys([text("key")], f"{path}.key")
    try:
        value = base64.b64decode(text("value"), validate=True)
    except (ValueError, binascii.Error):
        raise InvalidField("must be base64", field=f"{path}.value") from None
    validate.size(len(value), f"{path}.value", limit="state_value_bytes", maximum=limits.state_value_bytes)
    expires_at_us = _time(text("expires_at"), f"{path}.expires_at") if "expires_at" in said else 0
    return _Kept(number, collection, said["key"], value, expires_at_us)


def _trusts(values: Mapping[str, Any], entries: int, path: str) -> dict[int, fact_pb2.Trust]:
    found = {}
    for key, value in values.items():
        if not (key.isascii() and key.isdigit() and int(key) < entries and value in fact_pb2.Trust.keys()):  # noqa: SIM118 - no dict
            raise InvalidField("must name entries of the turn, and how far they are trusted", field=path)
        found[int(key)] = fact_pb2.Trust.Value(value)
    return found


def _parsed(value: Any, into: M, path: str) -> M:
    try:
        json_format.ParseDict(value, into)
    except (json_format.ParseError, AttributeError, TypeError, ValueError):  # its words hold what was given
        name = into.DESCRIPTOR.full_name
        raise InvalidField(f"is not a {name} as protobuf JSON", field=path) from None
    return into


def _time(value: str, path: str) -> int:
    stamp = Timestamp()
    try:
        stamp.FromJsonString(value)
        return validate.between(stamp.ToMicroseconds(), path, 1, 1 << 60)
    except ValueError:
        raise InvalidField("must be a time such as 2026-05-03T10:00:00Z", field=path) from None


def _check_change(change: fact_pb2.MemoryChange, path: str, *, entries: int) -> None:
    kind = change.WhichOneof("change")
    if kind == "fact":
        validate.fact(change.fact, f"{path}.fact", entries=entries)
    elif kind == "confirmation":
        _refs([change.confirmation.fact, *change.confirmation.sources], path, entries)
    elif kind == "correction":
        validate.correction(change.correction, f"{path}.correction")
    elif kind == "pin":
        _refs([change.pin.fact], path, entries)
    elif kind == "profile":
        validate.profile(change.profile.attributes, f"{path}.profile.attributes")
    elif kind == "document":
        validate.documents([change.document], f"{path}.document")
    elif kind == "review":
        validate.review(change.review, f"{path}.review")


def _refs(refs: Sequence[turn_pb2.EventRef], path: str, entries: int) -> None:
    validate.size(len(refs) - 1, path, limit="sources_max", maximum=limits.sources_max)
    for ref in refs:
        if ref.session_id:
            validate.reference(ref, path)
        else:
            validate.between(ref.entry, path, 0, entries + limits.facts_per_request_max)
