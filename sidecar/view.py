"""A session's view: the end of its log, folded into what a hydrate shows.

It is derived, and the same wherever it is folded. The log grows without end; a view does not. It holds the units
(what is shown whole or not at all: a message, or a tool call with its result) of the last `limits.view_bytes` of
the log, and the best extracts of all that came before.

**Where history starts** is a pure function of the log and of the history cap H, with no state of its own. Let C be
the tokens of the whole session. When C > H, history starts at the first unit that begins at or after the k-th
multiple of H/2, for the least k that makes the rest fit. So between two cuts the section only grows, and each cut
lets its older half leave. Any pod finds the same cut for any H and any past version, from two sums. Where text is so
light in tokens that a window would reach beyond the view, the same rule cuts by weight, in quarters of the view.
The section's epoch is the number of units before it: it changes exactly when the first unit does (P13).

**Long entries** would empty a small window at a stroke. For the window's arithmetic, and in the window, an entry
takes at most a clamp: the largest of `CLAMPS` that is at most H/16. A longer one is shown by its head and its
tail.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from sidecar import limits, pii, segment, summary
from sidecar.log.v1 import log_pb2
from sidecar.segment import Count, Piece
from sidecar.stores.record import Checkpoint, EventKind, StoredEvent
from standpipe.v1 import bundle_pb2, turn_pb2

CLAMPS = (64, 128, 256, 512, 1024, 2048, 4096, 1 << 30)
"""What one entry may take of a window, in tokens; the last is no clamp. Units carry their offset under each."""

CLAMP_SHARE = 16
"""An entry takes at most one part in so many of the history window: however long the answers are, a window holds eight
exchanges. On chats with answers of 1,200 tokens a share of 8 reuses 66 % of the prefix, 16 80 %, 24 88 %."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is shown whole or not at all."""

    version: int
    pieces: tuple[Piece, ...]
    offsets: tuple[int, ...]
    """Tokens of the session before this unit, under each clamp."""
    weight_start: int
    """The session's weight before the entry that completed the unit."""
    extract: log_pb2.Extract | None

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return sum(400 + 2 * len(piece.segment.body) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary as it was made for one cut and cap."""

    pieces: tuple[Piece, ...]
    left_out: tuple[bundle_pb2.Omission, ...]
    """In rank order."""


_SUMMARIES_MAX = 4
"""Summaries that a view keeps: one per cap that is in use."""


@dataclass(slots=True)
class Heard:
    """When a store last spoke for a view: in `time.monotonic()` seconds."""

    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A session at a version, as counted by one tokenizer. Immutable: a commit makes a new one."""

    session: str
    subject: str
    tokenizer: str
    version: int
    ended: bool
    position_end: int
    """The subject's last item position at this version's commit."""
    weight_bytes: int
    offsets: tuple[int, ...]
    """Tokens of the whole session, under each clamp."""
    units: tuple[Unit, ...]
    units_before: int
    """Units that left the view."""
    pool: tuple[log_pb2.Extract, ...]
    """The best extracts of the units that left."""
    open_calls: tuple[log_pb2.OpenCall, ...]
    nbytes: int
    """About how much memory it takes."""
    committed_at_us: int = field(default=0, compare=False)
    """When the last event that was folded was committed; 0 if a checkpoint stands for all of them."""
    event_hash: bytes = field(default=b"", compare=False)
    """Of the last event that was folded; empty if a checkpoint stands for all of them."""
    heard: Heard = field(default_factory=Heard, compare=False)
    """When it was made, or found to be the newest."""
    summaries: dict[tuple[int, int], Summary] = field(default_factory=dict, compare=False)
    """Summaries that were made, by (units before the window, cap). A view hands them on to the next: they depend on
    the log before the window alone."""

    def keep_summary(self, key: tuple[int, int], made: Summary) -> None:
        """Keep a summary; the oldest leaves when there are `_SUMMARIES_MAX`."""
        self.summaries[key] = made
        if len(self.summaries) > _SUMMARIES_MAX:
            del self.summaries[next(iter(self.summaries))]

    @property
    def transcript_tokens(self) -> int:
        """Tokens of the whole log, nothing cut."""
        return self.offsets[-1]


def empty(*, session: str, subject: str, tokenizer: str) -> View:
    """Return the view of a session that has no event."""
    return View(
        session=session,
        subject=subject,
        tokenizer=tokenizer,
        version=0,
        ended=False,
        position_end=0,
        weight_bytes=0,
        offsets=(0,) * len(CLAMPS),
        units=(),
        units_before=0,
        pool=(),
        open_calls=(),
        nbytes=0,
    )


def from_checkpoint(checkpoint: Checkpoint, *, subject: str) -> View:
    """Return the view that a checkpoint stands for; it shows nothing by itself, events must follow."""
    state = log_pb2.FoldState.FromString(checkpoint.body)
    return replace(
        empty(session=checkpoint.session, subject=subject, tokenizer=checkpoint.tokenizer),
        version=checkpoint.version,
        weight_bytes=checkpoint.weight_bytes,
        offsets=tuple(state.offsets),
        units_before=state.units,
        pool=tuple(state.pool),
        open_calls=tuple(state.open_calls),
        nbytes=400 * len(state.pool),
    )


def to_checkpoint(view: View) -> Checkpoint:
    """Return the fold of everything up to the view's version."""
    state = log_pb2.FoldState(
        units=view.units_before + len(view.units),
        offsets=view.offsets,
        pool=summary.merge(view.pool, [unit.extract for unit in view.units if unit.extract]),
        open_calls=view.open_calls,
    )
    return Checkpoint(
        session=view.session,
        tokenizer=view.tokenizer,
        version=view.version,
        weight_bytes=view.weight_bytes,
        body=state.SerializeToString(deterministic=True),
    )


def fold(view: View, events: Iterable[StoredEvent], *, count: Count) -> View:
    """Return the view after `events`, which must follow its version without a gap.

    `count` is asked only for turns whose counts for the view's tokenizer were not stored at write.
    """
    units = list(view.units)
    open_calls = {call.call.id: call for call in view.open_calls}
    offsets = view.offsets
    for event in events:
        if event.version != view.version + 1:
            raise ValueError(f"version {event.version} does not follow {view.version}")
        weight_start = view.weight_bytes
        view = replace(
            view,
            version=event.version,
            ended=event.kind == EventKind.END,
            position_end=event.position_end,
            weight_bytes=event.weight_end_bytes,
            committed_at_us=event.committed_at_us,
            event_hash=event.event_hash,
        )
        if event.kind == EventKind.TURN:
            stored = log_pb2.StoredTurn.FromString(event.body)
            starts = list(accumulate(map(segment.weight_bytes, stored.turn.entries), initial=weight_start))
            for index, pieces, extract in _entries(view, stored, open_calls, offsets, count):
                units.append(Unit(event.version, pieces, offsets, starts[index], extract))
                offsets = tuple(
                    offset + sum(min(piece.tokens, clamp) for piece in pieces)
                    for offset, clamp in zip(offsets, CLAMPS, strict=True)
                )
            for call in list(open_calls)[: -limits.open_calls_max]:  # after each event, so in any batches the same
                del open_calls[call]
    keep_from = bisect_left(units, view.weight_bytes - limits.view_bytes, key=lambda unit: unit.weight_start)
    gone, kept = units[:keep_from], tuple(units[keep_from:])
    pool = view.pool
    if gone:
        pool = tuple(summary.merge(pool, [unit.extract for unit in gone if unit.extract]))
    return replace(
        view,
        offsets=offsets,
        units=kept,
        units_before=view.units_before + len(gone),
        pool=pool,
        open_calls=tuple(open_calls.values()),
        nbytes=view.nbytes
        + 400 * (len(pool) - len(view.pool))
        + sum(unit.nbytes for unit in units[len(view.units) :])
        - sum(unit.nbytes for unit in gone),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """What history shows of a view under a cap, and what the summary stands for."""

    units: Sequence[Unit]
    clamp: int
    before: Sequence[Unit]
    """Units of the view that lie before the window."""
    evicted: int
    """Units before the window, in the view or not: the epoch of all that depends on where it starts."""


def window(view: View, *, cap_tokens: int) -> Window:
    """Return the history window under a cap: see the module's text. A cap of 0 shows nothing."""
    clamp_index = max(0, bisect_left(CLAMPS, cap_tokens // CLAMP_SHARE + 1) - 1)
    start = len(view.units)
    if cap_tokens > 0:
        cut = _cut(view.offsets[clamp_index], room=cap_tokens, step=max(1, cap_tokens // 2))
        weight_cut = _cut(view.weight_bytes, room=limits.view_bytes, step=max(1, limits.view_bytes // 4))
        start = max(
            bisect_left(view.units, cut, key=lambda unit: unit.offsets[clamp_index]),
            bisect_left(view.units, weight_cut, key=lambda unit: unit.weight_start),
        )
    return Window(
        units=view.units[start:],
        clamp=CLAMPS[clamp_index],
        before=view.units[:start],
        evicted=view.units_before + start,
    )


def _cut(size: int, *, room: int, step: int) -> int:
    """Return the least multiple of `step` behind which at most `room` of `size` lie."""
    return -(-max(0, size - room) // step) * step


def extracts_before(view: View, history: Window) -> list[log_pb2.Extract]:
    """Return the summary's candidates, best first: the pool, and the extracts of the units that history cut."""
    return summary.merge(view.pool, [unit.extract for unit in history.before if unit.extract])


def _entries(
    view: View,
    stored: log_pb2.StoredTurn,
    open_calls: dict[str, log_pb2.OpenCall],
    offsets: tuple[int, ...],
    count: Count,
) -> Iterable[tuple[int, tuple[Piece, ...], log_pb2.Extract | None]]:
    """Yield the units of one turn, each with the entry that completes it; calls wait in `open_calls`."""
    tokenizer, masked = segment.tokenizer_of(view.tokenizer), view.tokenizer.endswith(segment.MASKED)
    counted = list(stored.tokenizers).index(tokenizer) if tokenizer in stored.tokenizers else None
    for index, (said, analysis) in enumerate(zip(stored.turn.entries, stored.analyses, strict=True)):
        kind = said.WhichOneof("entry")
        if kind is None:  # `app_json` alone: nothing was said
            continue
        spans = pii.known(analysis.pii, segment.spoken_text(said)) if masked else ()
        entry = segment.masked(said, spans) if masked else said
        ref = turn_pb2.EventRef(session_id=view.session, version=view.version, entry=index)
        counts = None if counted is None or entry != said else analysis.counts[counted]
        tokens: int | Count = count if counts is None else counts.whole
        if kind == "tool_call":
            open_calls[entry.tool_call.id] = log_pb2.OpenCall(
                version=view.version,
                entry=index,
                call=entry.tool_call,
                tokens=segment.call_piece(entry.tool_call, ref, tokens).tokens,
                masked=entry != said,
            )
        elif kind == "tool_result":
            held = open_calls.pop(entry.tool_result.call_id, None)
            if held is None:  # its call was pushed out by `open_calls_max` later ones: half a pair is never shown
                continue
            call_ref = turn_pb2.EventRef(session_id=view.session, version=held.version, entry=held.entry)
            name = held.call.name if held.version == view.version else ""  # as it was counted: `sidecar.analysis`
            yield (
                index,
                (
                    segment.marked(segment.call_piece(held.call, call_ref, held.tokens), masked=held.masked),
                    segment.marked(segment.result_piece(entry.tool_result, name, ref, tokens), masked=entry != said),
                ),
                None,
            )
        else:
            extract = None
            if analysis.salience:
                header = "- " + segment.header(entry.message.role, entry.message.speaker)
                start, end = analysis.extract.start, analysis.extract.end
                text = segment.message_text(said.message)[start:end]
                if masked:
                    text = pii.mask(text, pii.within(spans, start, end))
                body = segment.quoted_body(" ".join(text.split()))
                extract = log_pb2.Extract(
                    version=view.version,
                    entry=index,
                    header=header,
                    body=body,
                    tokens=count(header + body) if counts is None else counts.extract,
                    rank=summary.rank(analysis.salience, offsets[-1]),
                    role=entry.message.role,
                    trust=analysis.trust,
                    masked=entry != said,
                )
            piece = segment.message_piece(entry.message, ref, tokens, stated=analysis.trust)
            yield index, (segment.marked(piece, masked=entry != said),), extract


def extract_piece(view: View, extract: log_pb2.Extract) -> Piece:
    """Make the summary segment of an extract."""
    return segment.piece(
        bundle_pb2.Segment(
            kind=bundle_pb2.SEGMENT_KIND_TEXT,
            role=extract.role,
            header=extract.header,
            body=extract.body,
            tokens=extract.tokens,
            score_micros=extract.rank * 1000,
            citations=[turn_pb2.EventRef(session_id=view.session, version=extract.version, entry=extract.entry)],
            trust=segment.trust(extract.role, extract.trust),
            masked=extract.masked,
        )
    )


def extract_omission(view: View, extract: log_pb2.Extract) -> bundle_pb2.Omission:
    """Say that a summary has no room for an extract."""
    return bundle_pb2.Omission(
        source=bundle_pb2.SOURCE_SUMMARY,
        reason=bundle_pb2.OMISSION_REASON_OVER_BUDGET,
        candidate=turn_pb2.EventRef(session_id=view.session, version=extract.version, entry=extract.entry),
        tokens=extract.tokens,
    )
