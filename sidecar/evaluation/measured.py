"""What is measured, and the arithmetic of it: shares of evidence, repeated prefixes, differences of bundles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Self

import standpipe
from sidecar.evaluation.conversations import DataSet, Question
from sidecar.model import Precision
from standpipe.v1.bundle_pb2 import Segment, Source

BUDGETS: Final = (1000, 2000, 4000)
"""Of evidence recall, in tokens."""

BUDGET: Final = 2000
"""Of determinism, of questions in the session itself, and of the tokens sent."""

REPLAY_BUDGET: Final = 4000
REPLAY_RECALL: Final = 1000
"""What recall may take of it."""

POLICY: Final = """\
name: eval
tokenizer: {tokenizer}
budget_tokens: 4000
prompts:
  - name: system
    text: You are a helpful assistant with a long memory. Use what was said before; if it was never said, say so.
deadlines:
  embed_ms: 5000
"""

_STABLE = (Source.SOURCE_POLICY, Source.SOURCE_PROFILE, Source.SOURCE_SUMMARY, Source.SOURCE_HISTORY)


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and with what."""

    models_dir: Path
    tokenizer: str = "cl100k_base"
    embedder: str = "all-MiniLM-L6-v2"
    precision: Precision = "int8"
    """Of the embedder's weights."""
    conversations_max: int | None = None
    """Of each set; None for all."""
    questions_max: int | None = None
    """Of each conversation; None for all."""
    record: str = ""
    """The record store's address; empty: a file of its own. It is rebuilt from its log on the way."""
    hot: str = "memory"
    recall_only: bool = False
    """Whether evidence recall is all that is measured: nothing is asked twice, rebuilt or replayed."""


def share_found(cited: Iterable[str], evidence: frozenset[str]) -> float:
    """Return the share of a question's evidence turns among the cited ones."""
    return len(evidence & set(cited)) / len(evidence)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a replay: its sections' segments as (text, tokens), and their epochs."""

    stable: Mapping[int, tuple[tuple[str, int], ...]]
    """By source, in order: policy to history."""
    epochs: Mapping[int, int]
    rest: tuple[tuple[str, int], ...]
    """Recall."""

    @property
    def front(self) -> list[tuple[str, int]]:
        """The segments from policy to history."""
        return [segment for part in self.stable.values() for segment in part]


@dataclass(slots=True)
class Reuse:
    """What the requests of a replay repeat of the request before, in tokens."""

    stable_repeated: int = 0
    stable_total: int = 0
    all_repeated: int = 0
    all_total: int = 0
    epochs: int = 0
    """How often a section from policy to history said that its bytes change."""
    undeclared: int = 0
    """How often one's bytes changed in another way than by growing, and its epoch did not: a breach of P13."""
    strip: list[tuple[int, int, int]] = field(default_factory=list)
    """By request: tokens repeated, new before recall, and recalled."""

    def __iadd__(self, other: Reuse) -> Self:
        """Add another replay's; the strip stays this one's."""
        for name in ("stable_repeated", "stable_total", "all_repeated", "all_total", "epochs", "undeclared"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


def reuse(requests: Sequence[Request]) -> Reuse:
    """Measure how much of each request of a conversation repeats the one before as an exact prefix."""
    found = Reuse()
    before = Request({}, {}, ())
    for request in requests:
        front, everything = request.front, [*request.front, *request.rest]
        stable = _repeated(before.front, front)
        total = sum(tokens for _, tokens in front)
        recalled = sum(tokens for _, tokens in request.rest)
        found.stable_repeated += stable
        found.stable_total += total
        found.all_repeated += _repeated([*before.front, *before.rest], everything)
        found.all_total += total + recalled
        found.strip.append((stable, total - stable, recalled))
        for source, part in request.stable.items():
            if source in before.stable:
                if request.epochs[source] != before.epochs[source]:
                    found.epochs += 1
                elif part[: len(before.stable[source])] != before.stable[source]:
                    found.undeclared += 1
        before = request
    return found


def _repeated(before: Sequence[tuple[str, int]], now: Sequence[tuple[str, int]]) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
    return sum(segment[1] for segment, _ in same)


def request_of(bundle: standpipe.Bundle) -> Request:
    """Reduce a bundle to what a prefix cache sees of it."""
    parts = {
        section.source: tuple((segment.header + segment.body, segment.tokens) for segment in section.segments)
        for section in bundle.sections
    }
    return Request(
        stable={source: part for source, part in parts.items() if source in _STABLE},
        epochs={section.source: section.epoch for section in bundle.sections},
        rest=tuple(segment for source, part in parts.items() if source not in _STABLE for segment in part),
    )


def difference(before: bytes, after: bytes) -> dict[str, list[str]]:
    """Name the segments that only one of two serialised bundles has, by citation, and fields beside them."""
    from standpipe.v1.bundle_pb2 import Bundle  # noqa: PLC0415 - only for a report that should never be written

    old, new = Bundle.FromString(before), Bundle.FromString(after)
    names = [Counter(map(_segment_name, segments_of(bundle))) for bundle in (old, new)]
    fields = [
        name
        for name in ("tokens", "fingerprint", "session_version", "omissions", "omission_counts", "policy")
        if getattr(old, name) != getattr(new, name)
    ]
    return {
        "only_before": sorted((names[0] - names[1]).elements())[:20],
        "only_after": sorted((names[1] - names[0]).elements())[:20],
        "fields": fields,
    }


def segments_of(bundle: Any) -> Iterable[Segment]:
    """Yield the segments of a bundle, in order."""
    return (segment for section in bundle.sections for segment in section.segments)


def _segment_name(segment: Segment) -> str:
    refs = ",".join(f"{ref.session_id}:{ref.version}.{ref.entry}" for ref in segment.citations)
    return f"{refs or 'frame'} tokens={segment.tokens} score={segment.score_micros}"


@dataclass(slots=True)
class Asked:
    """One question and what came of it."""

    question: Question
    subject: str
    last_session: str
    name: str
    """Of this question among all; its id may repeat."""
    found: dict[int, float] = field(default_factory=dict)
    found_in_session: float = 0.0
    served: bytes = b""
    receipt: bytes = b""

    @property
    def session(self) -> str:
        """The new session that the question is asked from."""
        return f"{self.subject}.new"


@dataclass(slots=True)
class Measured:
    """One set on its way."""

    data: DataSet
    asked: list[Asked] = field(default_factory=list)
    turn_of: dict[tuple[str, int], str] = field(default_factory=dict)
    """(session, version) -> turn id. Session ids lead with the conversation's number, so turn ids may repeat."""
    reuse: Reuse = field(default_factory=Reuse)
    strip: list[tuple[int, int, int]] = field(default_factory=list)
    sent_tokens: int = 0
    transcript_tokens: int = 0
    checks: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[str] = field(default_factory=Counter)
    digests: dict[str, str] = field(default_factory=dict)
    """Of every bundle that was measured, by what was asked."""
    first_mismatch: dict[str, Any] | None = None

    @property
    def notes(self) -> Counter[str]:
        """What could not be taken as it was, counted."""
        return self.data.notes

    @property
    def source(self) -> str:
        """Where the set's conversations come from."""
        return self.data.conversations[0].source.lower()
