"""Summaries: structured, extractive, verbatim and cited; no model writes them, so they cannot drift.

When an entry is written, the one sentence that says most is chosen from it, with a salience. An entry that left
the history window is stood for by that sentence, as long as its rank is among the best under the summary's cap.
The rank is ``log2(salience) + position / HALF_LIFE_TOKENS``: exponential decay with the tokens said since,
written so that it never changes. Hence the best of a prefix of the log is a running top list: a view keeps
`limits.summary_pool_max` of them and forgets the rest for good, and any pod that folds the same log keeps the
same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from sidecar import limits
from sidecar.log.v1 import log_pb2
from standpipe.v1 import turn_pb2

HALF_LIFE_TOKENS = 16_384
"""After so many tokens of conversation a sentence counts half: one large history window."""

EXTRACT_CHARS_MAX = 240
"""A longer sentence is cut at a word: about 60 tokens, so that a cap of 400 still holds several."""

EXTRACT_CHARS_MIN = 24
"""A shorter sentence ("Sounds great!") says nothing by itself."""

OPENING = "<earlier> What was said before the turns below, quoted as data:"
CLOSING = "</earlier>"

_SENTENCE = re.compile(r"[^\n.!?]*(?:[.!?](?=\S)[^\n.!?]*)*(?:[.!?]+[\"')\]]*|\n|$)")
_FIRST_PERSON = re.compile(r"\b(?:I|I'm|I've|I'll|I'd|my|me|mine|we|our|us)\b", re.IGNORECASE)
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][\w'-]+")
_FIGURE = re.compile(r"\d")
_COMMITMENT = re.compile(
    r"\b(?:decid|prefer|need|want|plan|must|always|never|deadline|because|instead|remember|changed?|moved?|born|name)\w*",
    re.IGNORECASE,
)


def choose(text: str, role: int) -> tuple[int, int, int] | None:
    """Return (start, end, salience) of the sentence that stands for `text`, in code points, or None.

    Salience counts signs that a sentence carries something to keep: a figure, a name, the first person, a
    decision; twice for the user, whose conversation it is; less for a question. Only the first 32 KiB are read.
    """
    best: tuple[int, int, int] | None = None
    for match in _SENTENCE.finditer(text[: limits.entry_weight_bytes]):
        sentence = match.group()
        start = match.start() + len(sentence) - len(sentence.lstrip())
        end = min(match.start() + len(sentence.rstrip()), start + EXTRACT_CHARS_MAX)
        if end < match.start() + len(sentence.rstrip()):
            end = max(text.rfind(" ", start, end), start + EXTRACT_CHARS_MAX // 2)
        if end - start < EXTRACT_CHARS_MIN:
            continue
        words = text[start:end]
        salience = (
            2
            + 3 * min(2, len(_FIGURE.findall(words)))
            + 2 * min(3, len(_NAME.findall(words)))
            + 3 * bool(_FIRST_PERSON.search(words))
            + 3 * min(2, len(_COMMITMENT.findall(words)))
        )
        if words.rstrip("\"')]").endswith("?"):
            salience //= 2
        if role == turn_pb2.ROLE_USER:
            salience *= 2
        if best is None or salience > best[2]:
            best = (start, end, max(1, salience))
    return best


def rank(salience: int, offset_tokens: int) -> int:
    """Return the time-invariant rank of a sentence, in thousandths of a half-life."""
    return round(1000 * math.log2(max(1, salience))) + 1000 * offset_tokens // HALF_LIFE_TOKENS


def merge(pool: Sequence[log_pb2.Extract], entries: Iterable[log_pb2.Extract]) -> list[log_pb2.Extract]:
    """Return the best of both, best first, each text once, at most `limits.summary_pool_max`.

    Merging is associative: in whatever steps a log is folded, the pool is the same.
    """
    best: dict[str, log_pb2.Extract] = {}
    for entry in (*pool, *entries):
        key = entry.body.casefold()
        held = best.get(key)
        if held is None or _order(entry) < _order(held):
            best[key] = entry
    return sorted(best.values(), key=_order)[: limits.summary_pool_max]


def fit(pool: Sequence[log_pb2.Extract], *, tokens_max: int) -> tuple[list[log_pb2.Extract], list[log_pb2.Extract]]:
    """Return (shown in the order said, left out in rank order); a smaller room gives a coarser summary."""
    shown, left_out = [], []
    room = tokens_max
    for entry in pool:
        if entry.tokens <= room:
            room -= entry.tokens
            shown.append(entry)
        else:
            left_out.append(entry)
    shown.sort(key=lambda entry: (entry.version, entry.entry))
    return shown, left_out


def _order(entry: log_pb2.Extract) -> tuple[int, int, int]:
    return -entry.rank, -entry.version, -entry.entry
