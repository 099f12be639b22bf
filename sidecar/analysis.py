"""What is found in a turn when it is written: recall items, extracts, token counts. Frozen with the event.

So a read never counts, cuts or chooses again, and a rebuild by any later release makes the same items at the same
positions from the log alone (P9).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from sidecar import limits, recall, segment, summary
from sidecar.log.v1 import log_pb2
from sidecar.segment import Count
from sidecar.stores.record import NewItem
from standpipe.v1 import turn_pb2

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
        role, name = _speaker(entry, names)
        text = segment.entry_text(entry)
        kind = entry.WhichOneof("entry")
        if kind == "message":
            whole = segment.message_piece(entry.message, _NOWHERE, 0).segment
        elif kind == "tool_call":
            whole = segment.call_piece(entry.tool_call, _NOWHERE, 0).segment
        else:
            whole = segment.result_piece(entry.tool_result, name, _NOWHERE, 0).segment
        shown = whole.header + whole.body
        tokens = {tokenizer: count(shown) for tokenizer, count in counters.items()}
        spans: list[tuple[int, int]] = []
        if text.strip():
            small = tokens[lead] <= limits.item_tokens_max  # the common case: one item, counted already
            spans = [(0, len(text))] if small else recall.chunk(text, counters[lead])
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
                )
            )
    return found


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
