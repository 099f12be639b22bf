"""Rank a scope's verbatim items against one query: pure, exact, deterministic.

An item is one chunk of one message. It is ranked by what it says (BM25 over stems and the cosine
of its vector, half each), by what is said around it (its neighbours, its session) and by two
priors (its speaker is named in the query; long messages pay for their many chances).

    terms, chunk, quantise    at write: what is stored with an item
    Block                     at read: a scope's items as parallel arrays, kept up to date
    rank                      the one function that orders them

The same items and query give the same order on every machine:

- Vectors are int8. A dot product of two is a sum of integers below 2**24 and so exact in float32,
  in whatever order BLAS adds it up.
- All else is element-wise IEEE arithmetic, a sum in a stated order, or a maximum. Logarithms, whose
  last bit depends on the maths library, are rounded before use.
- Every part of a score is rounded to whole micro-units, and the score is the sum of these integers.
  Equal scores are ordered by position.
"""

from __future__ import annotations

import math
import re
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import Stemmer

from sidecar import limits

MICRO = 1_000_000
"""Micro-units in one unit of score."""

DIMENSIONS_MAX = 1_040
"""Above it an int8 dot product could pass 2**24 and float32 would round: 1,040 * 127**2 < 2**24."""

ROWS_AT_ONCE = 1_024
"""Vectors widened at a time: 1.5 MB at 384 dimensions, which stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The constants of the ranking, one set for every kind of conversation.

    Each stands on a plateau of evidence recall; ARCHITECTURE.md has the figures.
    """

    dense_share: float = 0.5
    """Share of the cosine against BM25 in an item's own score. Flat from 0.4 to 0.6."""
    saturation: float = 1.2
    """BM25's k1. Flat from 0.9 to 2."""
    length_norm: float = 0.75
    """BM25's b. Flat from 0.5 to 1."""
    neighbour_weight: float = 0.25
    """Share of each adjacent item's score: an answer seldom repeats its question. Flat from 0.15 to
    0.35."""
    session_weight: float = 0.3
    """Share of the score of the session's best item: evidence clusters. Flat from 0.2 to 0.5."""
    speaker_bonus: float = 0.3
    """For items of a speaker whom the query names. Flat from 0.2 to 0.4, no effect where no one is
    named."""
    message_cost: float = 0.15
    """Per doubling of the chunks in the item's message, since n chunks have n chances. Flat from
    0.1 to 0.2."""
    token_cost: float = 0.05
    """Per doubling of the item's tokens over `tokens_free`: two short items beat a long one. Flat
    from 0.03 to 0.1."""
    tokens_free: int = 32
    """Size in tokens up to which an item pays no token cost."""
    repeat_cost: float = 0.1
    """Per better chunk of the same message: see other messages first. Flat from 0.1; more shows
    less of each message."""
    cosine_floor: float = 0.3
    """Cosine from which an item shows that the scope has something to say to the query."""
    lexical_floor: float = 1.25
    """The same for its matched term weight, in terms as rare as can be: an identifier or two
    names."""
    lexical_floor_alone: float = 0.5
    """The same for an item whose cosine is not known."""
    score_floor: float = 0.3
    """Share of the best score under which an item is left out. Free up to 0.3, a point lost at
    0.4."""
    candidates_max: int = limits.recall_candidates_max
    """Items in a ranking: four times what 4,000 tokens hold, and it bounds the sorting."""


# --------------------------------------------------------------------------------------------------
# Terms


class Terms(NamedTuple):
    """A text's terms: `hashes` uint32[n], ascending and distinct; `counts` uint8[n], from 1."""

    hashes: np.ndarray
    counts: np.ndarray


_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"  # kana, Han, Hangul
    "\U00020000-\U0003ffff"
)
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_WORD = re.compile(rf"([{_UNSPACED}]+)|(?:(?![{_UNSPACED}])[^\W_]|[{_MARKS}])+")
"""A run of a script written without spaces (group 1), else a word with its combining marks."""

_STOP = frozenset(
    "a an the and or of to in on at for from by with about as into is are was were be been being am"
    " do does did has have had having i me my we our you your he him his she her it its they them"
    " their this that these those what which who whom when where why how will would could should"
    " can may might d ll m re s t ve".split()
)
"""Question and function words. They are rare in a chat's statements, so idf would reward them:
leaving them out is worth a point of recall. Other languages rely on idf."""

_COURTESY = frozenset(
    "ok okay k kk yes yeah yep yup no nope nah sure fine right cool great nice good perfect awesome wow oh ah aha"
    " hm hmm mm uh um lol haha hehe thanks thank thx ty please welcome sorry hi hello hey bye goodbye cheers well"
    " so just too very much really also then there here indeed exactly absolutely got know see done go sounds"
    " alright".split()
)
"""What fills a turn without saying anything."""

MONTHS = "January February March April May June July August September October November December".split()


def terms(text: str) -> Terms:
    """Analyse `text` into stems: NFKC, case-folded, without stop words; character pairs where
    a script has no spaces. The same text gives the same terms on every machine and release.
    """
    words: list[str] = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = match[0]
        if match[1] and len(run) > 1:
            words.extend(run[i : i + 2] for i in range(len(run) - 1))
        elif run not in _STOP:
            words.append(run)
    counts = Counter(map(_term, words))
    hashes = sorted(counts)
    return Terms(
        np.array(hashes, np.uint32),
        np.array([min(counts[h], 255) for h in hashes], np.uint8),
    )


@lru_cache(maxsize=16_384)
def _term(word: str) -> int:
    """Return the hash of a word's stem. Kept for the common words: it is most of what an analysis costs."""
    # A stemmer is not safe to share between threads and costs a quarter of a microsecond to make.
    return crc32(Stemmer.Stemmer("english").stemWord(word).encode())


def trivial(text: str) -> bool:
    """Return whether a text holds no word of content ("ok, thanks!"), so that a vector of it would say nothing."""
    if len(text) > _TRIVIAL_CHARS_MAX:
        return False
    words = (match[0] for match in _WORD.finditer(unicodedata.normalize("NFKC", text).casefold()))
    return all(word in _STOP or word in _COURTESY for word in words)


_TRIVIAL_CHARS_MAX = 256
"""A longer text is taken to say something."""


def item_terms(text: str, *, speaker: str, year: int, month: int, day: int) -> Terms:
    """Analyse an item as it is indexed: its date in words, its speaker and its text, so that "in
    May" and a name find it. The vector is of the text alone, which measured better.
    """
    return terms(f"{day} {MONTHS[month - 1]} {year} {speaker}: {text}")


def pack_terms(packed: Terms) -> bytes:
    """Serialise terms: all hashes as little-endian uint32, then all counts; five bytes a term."""
    return packed.hashes.astype("<u4").tobytes() + packed.counts.tobytes()


def unpack_terms(data: bytes) -> Terms:
    """Read what `pack_terms` wrote. ValueError when the length cannot be that of terms."""
    n, rest = divmod(len(data), 5)
    if rest:
        raise ValueError(f"packed terms are five bytes each, not {len(data)} in all")
    hashes = np.frombuffer(data, "<u4", n).astype(np.uint32)
    return Terms(hashes, np.frombuffer(data, np.uint8, n, offset=4 * n))


def weight(bag: Terms) -> int:
    """Return a number for a text's terms: that of two texts together is the sum of theirs, so that
    texts of the same words have the same, and others but by chance.
    """
    return int(bag.hashes.astype(np.int64) @ bag.counts.astype(np.int64))


# --------------------------------------------------------------------------------------------------
# Chunks

CHUNK_TOKENS_MAX = limits.item_tokens_max
"""Tokens a chunk may hold. Smaller chunks pack a bundle better and read worse; see
ARCHITECTURE.md."""

_BOUNDARIES = (
    re.compile(r"\n\s*\n"),  # paragraph
    re.compile(r"\n"),  # line
    re.compile(r"[.!?][\"')\]]*\s+|[。！？]"),  # sentence
    re.compile(r"\s+"),  # word
)


def chunk(text: str, count_tokens: Callable[[str], int], tokens_max: int = CHUNK_TOKENS_MAX) -> list[tuple[int, int]]:
    """Cut `text` into spans (start, end) that cover it without gap or overlap, each of at most
    `tokens_max` tokens (counted piece by piece), at the coarsest boundaries that allow it:
    paragraphs, lines, sentences, words, characters. An empty text has no spans.
    """
    spans: list[tuple[int, int]] = []
    spans_tokens: list[int] = []
    for start, end, tokens in _pieces(text, 0, len(text), count_tokens=count_tokens, tokens_max=tokens_max, level=0):
        if spans and spans_tokens[-1] + tokens <= tokens_max:
            spans[-1] = (spans[-1][0], end)
            spans_tokens[-1] += tokens
        else:
            spans.append((start, end))
            spans_tokens.append(tokens)
    return spans


def _pieces(
    text: str,
    start: int,
    end: int,
    *,
    count_tokens: Callable[[str], int],
    tokens_max: int,
    level: int,
) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, tokens) for the largest pieces of a span that fit, in order."""
    if start == end:
        return
    tokens = count_tokens(text[start:end])
    if tokens <= tokens_max or end - start == 1:
        yield start, end, tokens
        return
    if level < len(_BOUNDARIES):
        cuts = [match.end() for match in _BOUNDARIES[level].finditer(text, start, end)]
    else:  # about as many characters as fit: halving would count a long run of them again and again
        cuts = list(range(start, end, max(1, (end - start) * tokens_max // (tokens + tokens_max // 4))))[1:]
    for left, right in pairwise([start, *cuts, end]):
        yield from _pieces(text, left, right, count_tokens=count_tokens, tokens_max=tokens_max, level=level + 1)


# --------------------------------------------------------------------------------------------------
# Vectors


def quantise(vector: np.ndarray) -> tuple[np.ndarray, float]:
    """Quantise a unit vector float[d] to (int8[d], scale), vector ~ scale * int8, the largest
    component at +-127. A zero vector has scale 0, which means "no vector" to a block.
    """
    vector = np.asarray(vector, np.float32)
    if vector.ndim != 1 or vector.size > DIMENSIONS_MAX or not np.isfinite(vector).all():
        raise ValueError(f"a vector is finite, flat and of at most {DIMENSIONS_MAX} components")
    scale = np.abs(vector).max(initial=np.float32(0)) / np.float32(127)
    if scale == 0:
        return np.zeros(vector.size, np.int8), 0.0
    return np.rint(vector / scale).clip(-127, 127).astype(np.int8), float(scale)


def pack_vector(vector: np.ndarray, scale: float) -> bytes:
    """Serialise what `quantise` gave: the scale as a little-endian float32, then a byte a component."""
    return struct.pack("<f", scale) + vector.tobytes()


def pack_vectors(vectors: np.ndarray) -> list[bytes]:
    """Return what `quantise` and `pack_vector` give for each row of finite float32[n, d], bit for bit."""
    scales = np.abs(vectors).max(axis=1, initial=np.float32(0)) / np.float32(127)
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    packed = np.empty((len(vectors), 4 + vectors.shape[1]), np.uint8)
    packed[:, :4] = scales.astype("<f4")[:, None].view(np.uint8)
    packed[:, 4:] = np.rint(vectors / divisors).clip(-127, 127).astype(np.int8).view(np.uint8)
    return [row.tobytes() for row in packed]


def unpack_vector(data: bytes) -> tuple[np.ndarray, float]:
    """Read what `pack_vector` wrote: (int8[d], scale)."""
    return np.frombuffer(data, np.int8, offset=4), float(np.frombuffer(data, "<f4", 1)[0])


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: the raw text, its terms, and its vector as `quantise` gave it, or None."""

    text: str
    terms: Terms
    vector: np.ndarray | None = None
    scale: float = 0.0
    model: str = ""
    """Whose vector it is: `sidecar.scope` compares it with vectors of the same model alone."""
    cosine_floor_thousandths: int = 0
    """That model's `Settings.cosine_floor`, in thousandths; 0: as it stands there."""

    @classmethod
    def of(
        cls, text: str, vector: np.ndarray | None = None, *, model: str = "", cosine_floor_thousandths: int = 0
    ) -> Query:
        """Analyse `text`; `vector` is its unit vector float[d], None to rank by terms alone."""
        if vector is None:
            return cls(text, terms(text))
        return cls(text, terms(text), *quantise(vector), model, cosine_floor_thousandths)


# --------------------------------------------------------------------------------------------------
# Block


@dataclass(frozen=True, slots=True)
class Item:
    """One chunk of one message, as a block takes it. Chunks of a message follow each other."""

    position: int
    """Place in the scope, ascending."""
    message: Hashable
    session: Hashable
    speaker: str
    terms: Terms
    tokens: int
    """Size as rendered."""
    vector: np.ndarray | None = None
    """int8[d] from `quantise`, None until it is embedded."""
    scale: float = 0.0


class _Column:
    """An append-only array whose capacity doubles, so that appending is cheap on average."""

    def __init__(self, dtype: type, *shape: int) -> None:
        self._data: np.ndarray = np.zeros((16, *shape), dtype)
        self._size = 0

    def extend(self, values: np.ndarray | Sequence[Any]) -> None:
        size = self._size + len(values)
        if size > len(self._data):
            capacity = max(size, 2 * len(self._data))
            data = np.zeros((capacity, *self._data.shape[1:]), self._data.dtype)
            data[: self._size] = self.view
            self._data = data
        self._data[self._size : size] = values
        self._size = size

    @property
    def view(self) -> np.ndarray:
        return self._data[: self._size]

    @property
    def nbytes(self) -> int:
        return self._data.nbytes


class _Postings:
    """The inverted index: a part sorted by term, and a short unsorted tail. The tail is merged in
    when it has grown to an eighth of the rest, so that an append is a copy and eight pay for a
    merge.
    """

    TAIL_MIN = 4_096
    """Entries a tail may always hold: scanning them costs two microseconds a term."""

    def __init__(self) -> None:
        self._hashes = np.empty(0, np.uint32)
        self._starts = np.zeros(1, np.int64)
        self._items = np.empty(0, np.int32)
        self._counts = np.empty(0, np.uint8)
        self._clear_tail()

    def _clear_tail(self) -> None:
        self._tail_hashes = _Column(np.uint32)
        self._tail_items = _Column(np.int32)
        self._tail_counts = _Column(np.uint8)

    def extend(self, hashes: np.ndarray, items: np.ndarray, counts: np.ndarray) -> None:
        """Add entries; their items never descend, within a call or from one to the next."""
        self._tail_hashes.extend(hashes)
        self._tail_items.extend(items)
        self._tail_counts.extend(counts)
        if len(self._tail_hashes.view) > max(self.TAIL_MIN, len(self._items) // 8):
            self._merge()

    def _merge(self) -> None:
        sorted_hashes = np.repeat(self._hashes, np.diff(self._starts))
        hashes = np.concatenate([sorted_hashes, self._tail_hashes.view])
        order = np.argsort(hashes, kind="stable")  # keeps each term's items ascending
        self._items = np.concatenate([self._items, self._tail_items.view])[order]
        self._counts = np.concatenate([self._counts, self._tail_counts.view])[order]
        self._hashes, starts = np.unique(hashes[order], return_index=True)
        self._starts = np.append(starts, len(order))
        self._clear_tail()

    def of(self, term: np.uint32, items_end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items below `items_end` that hold `term`, ascending, and how often each does."""
        place = self._hashes.searchsorted(term)
        here = slice(0, 0)
        if place < len(self._hashes) and self._hashes[place] == term:
            here = slice(self._starts[place], self._starts[place + 1])
        items, counts = self._items[here], self._counts[here]
        tail = (self._tail_hashes.view == term).nonzero()[0]
        if len(tail):
            items = np.concatenate([items, self._tail_items.view[tail]])
            counts = np.concatenate([counts, self._tail_counts.view[tail]])
        end = items.searchsorted(items_end)
        return items[:end], counts[:end]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in vars(self).values())


class Block:
    """A scope's items as parallel arrays, in order of position. One writer; a reader on another
    thread needs a lock. About 0.6 kB an item at 384 dimensions, and up to as much to spare.
    """

    positions: np.ndarray
    """int64[n], ascending."""
    messages: np.ndarray
    """int32[n], the number of the item's message in this block. Sessions and speakers likewise."""
    sessions: np.ndarray
    speakers: np.ndarray
    previous: np.ndarray
    """int32[n], the item before in the same session, or -1."""
    tokens: np.ndarray
    """int32[n], size as rendered."""
    lengths: np.ndarray
    """int32[n], terms counted with repetition."""
    weights: np.ndarray
    """int64[n], the `weight` of the terms."""
    vectors: np.ndarray
    """int8[n, d], zeros where there is no vector."""
    scales: np.ndarray
    """float32[n], 0 where there is no vector."""

    def __init__(self, dimensions: int = 384) -> None:
        if not 0 < dimensions <= DIMENSIONS_MAX:
            raise ValueError(f"dimensions must be between 1 and {DIMENSIONS_MAX}")
        self._dimensions = dimensions
        self._columns = {
            "positions": _Column(np.int64),
            "messages": _Column(np.int32),
            "sessions": _Column(np.int32),
            "speakers": _Column(np.int32),
            "previous": _Column(np.int32),
            "tokens": _Column(np.int32),
            "lengths": _Column(np.int32),
            "weights": _Column(np.int64),
            "vectors": _Column(np.int8, dimensions),
            "scales": _Column(np.float32),
        }
        self._postings = _Postings()
        self._last_message: Hashable = None
        self._sessions: dict[Hashable, int] = {}
        self._last_of_session: list[int] = []
        self._speakers: dict[str, int] = {}
        self._speaker_hashes: list[frozenset[int]] = []
        self._expose()

    def _expose(self) -> None:
        """Bind the columns' present extent to the attributes above."""
        for name, column in self._columns.items():
            setattr(self, name, column.view)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, spare capacity included."""
        return sum(column.nbytes for column in self._columns.values()) + self._postings.nbytes

    def append(self, items: Sequence[Item]) -> None:
        """Add items whose positions ascend past those in the block, else ValueError and no change.

        Costs a copy of the items, however large the block, but for a rare doubling or merge.
        """
        if not items:
            return
        first = len(self)
        positions = np.array([item.position for item in items], np.int64)
        if (np.diff(positions) <= 0).any() or (first and positions[0] <= self.positions[-1]):
            raise ValueError("positions must ascend past those in the block")
        vectors = np.zeros((len(items), self._dimensions), np.int8)
        for row, item in zip(vectors, items, strict=True):
            if item.vector is not None:
                row[:] = item.vector
        columns: dict[str, np.ndarray | Sequence[Any]] = {
            **self._link(items, first),
            "positions": positions,
            "tokens": [item.tokens for item in items],
            "lengths": [int(item.terms.counts.sum(dtype=np.int64)) for item in items],
            "weights": [weight(item.terms) for item in items],
            "vectors": vectors,
            "scales": [0 if item.vector is None else item.scale for item in items],
        }
        for name, values in columns.items():
            self._columns[name].extend(values)
        self._expose()
        self._postings.extend(
            np.concatenate([item.terms.hashes for item in items]),
            np.repeat(np.arange(first, len(self)), [len(item.terms.hashes) for item in items]),
            np.concatenate([item.terms.counts for item in items]),
        )

    def _link(self, items: Sequence[Item], first: int) -> dict[str, list[int]]:
        """Give numbers to messages, sessions and speakers, and tie each item to the one before it."""
        columns: dict[str, list[int]] = {"messages": [], "sessions": [], "speakers": [], "previous": []}
        message = int(self.messages[-1]) if first else -1
        for index, item in enumerate(items, first):
            if index == 0 or item.message != self._last_message:
                message += 1
                self._last_message = item.message
            session = self._sessions.setdefault(item.session, len(self._sessions))
            if session == len(self._last_of_session):
                self._last_of_session.append(-1)
            speaker = self._speakers.setdefault(item.speaker, len(self._speakers))
            if speaker == len(self._speaker_hashes):
                self._speaker_hashes.append(frozenset(terms(item.speaker).hashes.tolist()))
            columns["messages"].append(message)
            columns["sessions"].append(session)
            columns["speakers"].append(speaker)
            columns["previous"].append(self._last_of_session[session])
            self._last_of_session[session] = index
        return columns

    def __contains__(self, position: int) -> bool:
        """Return whether an item has this position."""
        index = int(np.searchsorted(self.positions, position))
        return index < len(self) and bool(self.positions[index] == position)

    def put_vector(self, position: int, vector: np.ndarray, scale: float) -> None:
        """Give the item at `position` the vector that `quantise` made of its text, else
        KeyError.
        """
        index = int(np.searchsorted(self.positions, position))
        if index == len(self) or self.positions[index] != position:
            raise KeyError(position)
        self.vectors[index], self.scales[index] = vector, scale

    def named_speakers(self, asked: Terms) -> np.ndarray:
        """bool[speakers]: whose whole name is among the terms asked."""
        hashes = set(asked.hashes.tolist())
        return np.array([bool(name) and name <= hashes for name in self._speaker_hashes], bool)

    def postings(self, term: np.uint32, items_end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items below `items_end` that hold `term`, ascending, and how often each does."""
        return self._postings.of(term, items_end)


# --------------------------------------------------------------------------------------------------
# Rank


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items in rank order, best first. Empty when nothing in the scope is relevant."""

    items: np.ndarray
    """int64[m], indices into the block, m <= candidates_max."""
    scores: np.ndarray
    """int64[m], micro-units, descending."""
    parts: dict[str, np.ndarray]
    """int64[m] each, the integers a score is the sum of: lexical, dense, neighbours, session,
    speaker, length, repeat."""


_NONE = np.empty(0, np.int64)

NOTHING = Ranking(_NONE, _NONE, {})


def rank(
    block: Block,
    query: Query,
    *,
    settings: Settings = Settings(),
    limit_positions: int | None = None,
    vector_limit: int | None = None,
    among: np.ndarray | None = None,
) -> Ranking:
    """Order the block's items by relevance to the query.

    Items past position `limit_positions` do not exist: the ranking equals that of a block without
    them. Items past position `vector_limit` have no vector, and without a vector an item is ranked
    by its terms alone. Of the items that are left, only those in `among` (bool[n]) are ranked, and
    can show that the scope has something to say; the others count as context.
    """
    positions = block.positions
    n = vectors_end = len(block)
    if limit_positions is not None:
        n = vectors_end = int(positions.searchsorted(limit_positions, "right"))
    if vector_limit is not None:
        vectors_end = int(positions[:n].searchsorted(vector_limit, "right"))
    bm25, matched = _bm25(block, query.terms, n, settings)
    cosines, known = _cosines(block, query, vectors_end, n)
    relevant = _relevant(cosines, matched, known, settings)
    if not (relevant if among is None else relevant & among).any():
        return NOTHING

    parts = _own(bm25, cosines, known, settings)
    parts |= _context(block, parts["lexical"] + parts["dense"], settings)
    parts |= _priors(block, query, n, settings)
    total = np.zeros(n)
    for part in parts.values():
        total += part

    ranked = np.arange(n) if among is None else np.flatnonzero(among)
    items = ranked[_ordered(total[ranked], ranked, settings.candidates_max)]
    parts = {name: part[items].astype(np.int64) for name, part in parts.items()}
    parts["repeat"] = round(-settings.repeat_cost * MICRO) * _better_chunks(block.messages[items])
    scores = total[items].astype(np.int64) + parts["repeat"]
    order = _ordered(scores, items, len(items))
    best = scores.max(initial=0)
    order = order[scores[order] >= best - round((1 - settings.score_floor) * max(best, MICRO))]
    return Ranking(items[order], scores[order], {name: part[order] for name, part in parts.items()})


def _bm25(block: Block, asked: Terms, n: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """BM25 of the first n items, and the idf of the terms each has matched as a multiple of the idf
    of a term that only one item holds: float64[n] twice.
    """
    found = [block.postings(term, n) for term in asked.hashes]
    if not any(len(items) for items, _ in found):
        return np.zeros(n), np.zeros(n)
    holders = [len(items) for items, _ in found]
    idf = np.repeat([_idf(n, count) for count in holders], holders)
    items = np.concatenate([items for items, _ in found])
    counts = np.concatenate([counts for _, counts in found])
    lengths = block.lengths[:n]
    mean_length = lengths.sum(dtype=np.int64) / n
    k1, b = settings.saturation, settings.length_norm
    norm = k1 * (1 - b + b * lengths[items] / mean_length)
    weights = idf * (k1 + 1) * counts / (counts + norm)
    # bincount adds up in the order given: term by term, each time the same.
    scores, matched = (np.bincount(items, each, minlength=n) for each in (weights, idf))
    return scores, matched / _idf(n, 1)


def _idf(n: int, holders: int) -> float:
    """BM25's inverse document frequency, rounded so that the last bit of a maths library cannot
    show.
    """
    return round(math.log(1 + (n - holders + 0.5) / (holders + 0.5)), 6)


def _cosines(block: Block, query: Query, vectors_end: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines float64[n], and bool[n] which of them are known: those of the items before
    `vectors_end` that have a vector, if the query has one.
    """
    cosines, known = np.zeros(n), np.zeros(n, bool)
    if query.vector is not None and query.scale > 0:
        scales = block.scales[:vectors_end].astype(np.float64)
        dots = _dots(block.vectors[:vectors_end], query.vector)
        cosines[:vectors_end] = dots * (scales * float(query.scale))
        known[:vectors_end] = scales > 0
    return cosines, known


def _dots(vectors: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Exact dot products float32[n] of int8[n, d] with int8[d]. Rows are widened to float32 for
    BLAS a cache-full at a time: a quarter of the memory, and faster than reading float32 from it.
    """
    dots = np.empty(len(vectors), np.float32)
    wide = vector.astype(np.float32)
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        np.dot(vectors[rows].astype(np.float32), wide, out=dots[rows])
    return dots


def _relevant(cosines: np.ndarray, matched: np.ndarray, known: np.ndarray, settings: Settings) -> np.ndarray:
    """bool[n]: the items with raw evidence that the scope has something to say. Scores cannot tell:
    they are relative to the scope's best item, however bad it is.
    """
    return np.where(
        known,
        (cosines >= settings.cosine_floor) | (matched >= settings.lexical_floor),
        matched >= settings.lexical_floor_alone,
    )


def _own(bm25: np.ndarray, cosines: np.ndarray, known: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
    """Score what an item itself says: BM25 against the best, and where known the cosine between worst and
    best.
    """
    lexical = bm25 / (bm25.max() or 1)
    low = cosines.min(initial=1, where=known)
    spread = cosines.max(initial=-1, where=known) - low
    dense = (cosines - low) / (spread if spread > 0 else 1)
    share = settings.dense_share * known
    return {"lexical": _micro((1 - share) * lexical), "dense": _micro(share * dense)}


def _context(block: Block, own: np.ndarray, settings: Settings) -> dict[str, np.ndarray]:
    """Score what is said around an item: the items before and after it in its session, and the session's
    best.
    """
    previous = block.previous[: len(own)]
    later = np.flatnonzero(previous >= 0)
    earlier = previous[later]
    around = np.zeros(len(own))
    around[later] = own[earlier]
    around[earlier] += own[later]
    neighbours = np.rint(settings.neighbour_weight * around)
    sessions = block.sessions[: len(own)]
    best = np.zeros(sessions.max() + 1)
    np.maximum.at(best, sessions, own + neighbours)
    return {"neighbours": neighbours, "session": np.rint(settings.session_weight * best)[sessions]}


def _priors(block: Block, query: Query, n: int, settings: Settings) -> dict[str, np.ndarray]:
    """Score what is known of an item before it is read: who speaks, and how long it and its message
    are.
    """
    named = block.named_speakers(query.terms)[block.speakers[:n]]
    chunks = np.bincount(block.messages[:n])
    message_cost = settings.message_cost * _log2(chunks)[block.messages[:n]]
    token_cost = settings.token_cost * _log2(np.maximum(block.tokens[:n] / settings.tokens_free, 1))
    return {
        "speaker": _micro(settings.speaker_bonus * named),
        "length": -_micro(message_cost + token_cost),
    }


def _better_chunks(messages: np.ndarray) -> np.ndarray:
    """For each of a ranking's messages int[m], how many times it stood before: int64[m]."""
    order = np.argsort(messages, kind="stable")
    grouped = messages[order]
    before = np.empty(len(messages), np.int64)
    before[order] = np.arange(len(messages)) - np.searchsorted(grouped, grouped)
    return before


def _ordered(scores: np.ndarray, items: np.ndarray, count: int) -> np.ndarray:
    """Return the places int64[min(count, m)] of the best scores (whole numbers, [m]), descending; of equal
    scores the lower item, [m] distinct and below 2**31, goes first.
    """
    keys = (-scores.astype(np.int64) << 31) + items  # distinct, so any sort gives the same order
    places = np.argpartition(keys, count - 1)[:count] if count < len(keys) else np.arange(len(keys))
    return places[np.argsort(keys[places])]


def _micro(values: np.ndarray) -> np.ndarray:
    """Whole micro-units, as float64: sums of them stay exact."""
    micro: np.ndarray = np.rint(values * MICRO)
    return micro


def _log2(values: np.ndarray) -> np.ndarray:
    """Logarithms rounded to a thousandth, so that the last bit of a maths library cannot show."""
    rounded: np.ndarray = np.round(np.log2(values), 3)
    return rounded
