"""What is found in a turn or a change of memory when it is written: items, extracts, token counts. Frozen with it.

So a read never counts, cuts or chooses again, and a rebuild by any later release makes the same items at the same
positions from the log alone (P9).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import timestamp_pb2

from sidecar import beliefs, limits, names, pii, recall, segment, summary
from sidecar.log.v1 import log_pb2
from sidecar.segment import Count
from sidecar.stores.record import EventKind, ItemKind, NewItem, StoredEvent
from standpipe.v1 import fact_pb2, turn_pb2

_NOWHERE = turn_pb2.EventRef()
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def analyse(turn: turn_pb2.Turn, counters: Mapping[str, Count], *, received_at_us: int) -> log_pb2.StoredTurn:
    """Return the turn as it is stored. `counters`: the tokenizers that count at write, the first one leads.

    Costs one pass of each tokenizer over the text: milliseconds for a megabyte-sized turn, so callers keep large
    ones off the event loop.
    """
    stored = log_pb2.StoredTurn(turn=turn, tokenizers=list(counters), received_at_us=received_at_us)
    lead = next(iter(counters))
    names = _tool_names(turn)
    for entry in turn.entries:
        analysis = stored.analyses.add()
        kind = entry.WhichOneof("entry")
        if kind is None:  # `app_json` alone: nothing was said
            continue
        role, name = _speaker(entry, names)
        text = segment.entry_text(entry)
        if kind == "message":
            whole = segment.message_piece(entry.message, _NOWHERE, 0).segment
        elif kind == "tool_call":
            whole = segment.call_piece(entry.tool_call, _NOWHERE, 0).segment
        else:
            whole = segment.result_piece(entry.tool_result, name, _NOWHERE, 0).segment
        shown = whole.header + whole.body
        analysis.pii.extend(_stored(pii.find(segment.spoken_text(entry))))
        tokens = {tokenizer: count(shown) for tokenizer, count in counters.items()}
        spans: list[tuple[int, int]] = []
        if text.strip():
            small = tokens[lead] <= limits.item_tokens_max  # the common case: one item, counted already
            spans = [(0, len(text))] if small else recall.chunk(text, counters[lead])
            analysis.trivial = len(spans) == 1 and recall.trivial(text)
        analysis.chunks.extend(log_pb2.Span(start=start, end=end) for start, end in spans)
        quoted = [segment.header(role, name) + segment.quoted_body(text[start:end]) for start, end in spans]
        chosen = summary.choose(text, role) if kind == "message" else None
        extract = ""
        if chosen is not None:
            start, end, analysis.salience = chosen
            analysis.extract.start, analysis.extract.end = start, end
            extract = "- " + segment.header(role, name) + segment.quoted_body(" ".join(text[start:end].split()))
        for tokenizer, count in counters.items():
            analysis.counts.add(
                whole=tokens[tokenizer],
                extract=count(extract) if extract else 0,
                chunks=[tokens[tokenizer] if one == shown else count(one) for one in quoted],
            )
    return stored


def items(stored: log_pb2.StoredTurn) -> list[NewItem]:
    """Return the recall items of a stored turn, in order of their positions."""
    found = []
    names = _tool_names(stored.turn)
    answered_at_us = stored.received_at_us  # a tool has no clock: it answered when the message before it was said
    for index, (entry, analysis) in enumerate(zip(stored.turn.entries, stored.analyses, strict=True)):
        role, name = _speaker(entry, names)
        text = segment.entry_text(entry)
        spoken_at_us = answered_at_us
        if entry.WhichOneof("entry") == "message":
            at = entry.message.spoken_at
            spoken_at_us = at.ToMicroseconds() if entry.message.HasField("spoken_at") else stored.received_at_us
            answered_at_us = spoken_at_us
        day = _EPOCH + datetime.timedelta(microseconds=spoken_at_us)
        for chunk, span in enumerate(analysis.chunks):
            part = text[span.start : span.end]
            found.append(
                NewItem(
                    entry=index,
                    chunk=chunk,
                    role=role,
                    speaker=name,
                    spoken_at_us=spoken_at_us,
                    text=part,
                    terms=recall.pack_terms(
                        recall.item_terms(part, speaker=name, year=day.year, month=day.month, day=day.day)
                    ),
                    tokens={
                        tokenizer: analysis.counts[at].chunks[chunk] for at, tokenizer in enumerate(stored.tokenizers)
                    },
                    detail=_packed(
                        log_pb2.ItemDetail(
                            trust=analysis.trust,
                            pii=_stored(pii.within(analysis.pii, span.start, span.end)),
                            trivial=analysis.trivial,
                        )
                    ),
                )
            )
    found += _change_items(
        stored.changes, len(stored.turn.entries), tokenizers=stored.tokenizers, received_at_us=stored.received_at_us
    )
    return found


def analyse_change(change: fact_pb2.MemoryChange, counters: Mapping[str, Count]) -> log_pb2.StoredChange:
    """Return a change as it is stored. A document costs as much as a turn of its size."""
    stored = log_pb2.StoredChange(change=change)
    text = change_text(change)
    if text:
        stored.analysis.pii.extend(_stored(pii.find(text)))
        lead = next(iter(counters))
        spans = recall.chunk(text, counters[lead]) if change.HasField("document") else [(0, len(text))]
        stored.analysis.chunks.extend(log_pb2.Span(start=start, end=end) for start, end in spans)
        shown = [segment.LISTED + segment.quoted_body(text[start:end]) for start, end in spans]
        for count in counters.values():
            stored.analysis.counts.add(chunks=[count(one) for one in shown])
    return stored


def change_text(change: fact_pb2.MemoryChange) -> str:
    """Return what can be recalled of a change: a claim as a line, a document's text; empty for all else."""
    if change.HasField("document"):
        return str(change.document.text)
    fact = beliefs.claim_in(change)
    if fact is None:
        return ""
    value = " ".join(fact.value.split())
    shown = f"{' '.join(fact.attribute.split())}: {'not ' if fact.negated else ''}{value}"
    since = f"from {_day(fact.valid_from)}" if fact.HasField("valid_from") else ""
    until = f"until {_day(fact.valid_to)}" if fact.HasField("valid_to") else ""
    return f"{shown} ({', '.join(filter(None, (since, until)))})" if since or until else shown


def items_of(event: StoredEvent) -> list[NewItem]:
    """Return the recall items of an event as it was stored."""
    if event.kind == EventKind.TURN:
        return items(log_pb2.StoredTurn.FromString(event.body))
    return memory_items(log_pb2.StoredMemory.FromString(event.body)) if event.kind == EventKind.MEMORY else []


def memory_items(stored: log_pb2.StoredMemory) -> list[NewItem]:
    """Return the items of changes that were not made in a turn, in order of their positions."""
    return _change_items(stored.changes, 0, tokenizers=stored.tokenizers, received_at_us=stored.received_at_us)


def _change_items(
    changes: Sequence[log_pb2.StoredChange], first: int, *, tokenizers: Sequence[str], received_at_us: int
) -> list[NewItem]:
    """Return an item for each change, and one for each chunk of a document. `first`: the first change's entry."""
    found = []
    day = _EPOCH + datetime.timedelta(microseconds=received_at_us)

    def item(entry: int, chunk: int, text: str, *, counted: int | None, title: str = "", **more: Any) -> NewItem:
        words = f"{title}\n{text}" if title else text
        terms = recall.item_terms(words, speaker="", year=day.year, month=day.month, day=day.day) if text else None
        return NewItem(
            entry=entry,
            chunk=chunk,
            speaker="",
            spoken_at_us=received_at_us,
            text=text,
            terms=recall.pack_terms(terms) if terms else b"",
            tokens={
                tokenizer: 0 if counted is None else analysis.counts[at].chunks[counted]
                for at, tokenizer in enumerate(tokenizers)
            },
            **more,
        )

    for entry, one in enumerate(changes, first):
        change, analysis = one.change, one.analysis
        detail = log_pb2.ItemDetail(trust=change.trust, change=change, recorded_at_us=received_at_us)
        text = ""
        if change.HasField("document"):
            detail.change.document.ClearField("text")
        else:
            text = change_text(change)
            detail.pii.extend(analysis.pii)
        kind = ItemKind.HELD if change.held_back else ItemKind.CHANGE
        role = _role(change)
        found.append(item(entry, 0, text, counted=0 if text else None, role=role, kind=kind, detail=_packed(detail)))
        if change.HasField("document"):
            title = change.document.title
            for chunk, span in enumerate(analysis.chunks):
                part = change.document.text[span.start : span.end]
                found.append(
                    item(
                        entry,
                        chunk,
                        part,
                        counted=chunk,
                        title=title,
                        role=role,
                        kind=ItemKind.DOCUMENT,
                        detail=_packed(
                            log_pb2.ItemDetail(
                                trust=change.trust,
                                title=title,
                                pii=_stored(pii.within(analysis.pii, span.start, span.end)),
                            )
                        ),
                    )
                )
    return found


def _role(change: fact_pb2.MemoryChange) -> int:
    """Return who says a change: the user, or who its least trusted source is."""
    if change.HasField("document"):
        return turn_pb2.ROLE_DOCUMENT
    if change.trust >= fact_pb2.TRUST_USER or change.trust == fact_pb2.TRUST_UNSPECIFIED:
        return turn_pb2.ROLE_USER
    if change.trust == fact_pb2.TRUST_INFERRED:
        return turn_pb2.ROLE_ASSISTANT
    fact = beliefs.claim_in(change)
    quoted = fact is not None and any(names.is_document(source.session_id) for source in fact.sources)
    return turn_pb2.ROLE_DOCUMENT if quoted else turn_pb2.ROLE_TOOL


def _stored(found: Iterable[pii.Span]) -> list[log_pb2.PiiSpan]:
    return [log_pb2.PiiSpan(start=one.start, end=one.end, kind=one.kind) for one in found]


def _packed(detail: log_pb2.ItemDetail) -> bytes:
    packed: bytes = detail.SerializeToString(deterministic=True)
    return packed


def _day(at: timestamp_pb2.Timestamp) -> str:
    day = at.ToDatetime()
    return f"{day.day} {recall.MONTHS[day.month - 1]} {day.year}"


def weight_bytes(turn: turn_pb2.Turn) -> int:
    """Return what a turn weighs in a view: what its entries do."""
    return sum(map(segment.weight_bytes, turn.entries))


def _tool_names(turn: turn_pb2.Turn) -> dict[str, str]:
    return {entry.tool_call.id: entry.tool_call.name for entry in turn.entries if entry.HasField("tool_call")}


def _speaker(entry: turn_pb2.TurnEntry, tool_names: Mapping[str, str]) -> tuple[int, str]:
    """Return (role, name) of an entry. A result whose call is of an earlier turn goes without the tool's name."""
    kind = entry.WhichOneof("entry")
    if kind == "message":
        return entry.message.role, entry.message.speaker
    if kind == "tool_call":
        return turn_pb2.ROLE_ASSISTANT, entry.tool_call.name
    return turn_pb2.ROLE_TOOL, tool_names.get(entry.tool_result.call_id, "")
