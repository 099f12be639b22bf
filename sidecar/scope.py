"""A subject's memory in process: all of its items as a ranked block, kept up to date by position.

A scope is loaded once from the record store, kept in a cache bounded in bytes, and brought up to date by what was
appended since. Items never change and positions have no gaps (R6), so a block that has seen position p can show
the memory as it was at any position up to p. Unless items have gone with their session's log: that begins an epoch of
the scope (R24), and a block belongs to one. What is gone is not in a block: it is not ranked, counted or listed.

A block has the vectors of one model, and a query meets them with a vector of that model or by words alone: cosines
between models say nothing. When another model begins to serve (R33), the scope is read anew.

A scope of more than `limits.scope_items_max` items is ranked over its newest: from a base that moves in steps
and depends on the position alone, so that every pod ranks the same items.

What turns said, facts, and chunks of documents share the positions, and nothing else: each of the three is ranked by
itself, so that none moves the statistics or the neighbours of another.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import heapq
import time
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np

from sidecar import limits, normal, pii, recall, segment
from sidecar.beliefs import Lifetime, Ref, Standing
from sidecar.embedders import Embedders
from sidecar.embedding import Embedding
from sidecar.log.v1 import log_pb2
from sidecar.segment import Count
from sidecar.stores.record import ItemKind, Record, ScopeRead, ScopeState, StoredItem
from standpipe.v1 import memory_pb2, turn_pb2

_BASE_STEP = limits.scope_items_max // 8
_PAGE_ITEMS = 8192
"""Items of one read while a scope is loaded: some megabytes."""

_DAY_US = 86_400_000_000
_EPOCH = datetime.date(1970, 1, 1)

_NO_FLOOR = recall.Settings(cosine_floor=-2.0, lexical_floor=0.0, lexical_floor_alone=0.0, score_floor=-1000.0)
"""For policies that want the budget filled whatever there is."""


@functools.cache
def _settings(cosine_floor_thousandths: int) -> recall.Settings:
    """Return the constants of the ranking by a model's vectors."""
    if not cosine_floor_thousandths:
        return recall.Settings()
    return recall.Settings(cosine_floor=cosine_floor_thousandths / 1000)


Group = tuple[str, int]
"""What stands under one line: a session and a day (since 1970, UTC), or a document's log and version."""


class Candidate(NamedTuple):
    """An item that may be shown."""

    item: StoredItem
    piece: segment.Piece
    """Its segment, shared by all queries: without a score."""
    score_micros: int

    @property
    def ref(self) -> turn_pb2.EventRef:
        """Where the item is in the log."""
        ref: turn_pb2.EventRef = self.piece.segment.citations[0]
        return ref

    @property
    def tokens(self) -> int:
        """Its tokens as rendered."""
        return self.piece.tokens


def base_of(position: int) -> int:
    """Return the position after which a scope's items are ranked, when its last one is at `position`."""
    return max(0, -(-(position - limits.scope_items_max) // _BASE_STEP) * _BASE_STEP)


class _Ranked(NamedTuple):
    """A ranking over one part."""

    part: _Part
    ranking: recall.Ranking
    among: np.ndarray | None
    total: int
    """Items that could be ranked."""
    relevant: int
    """Those above the relevance floor, or all if there is none. Only the best of them are in the ranking."""
    end: int
    """Indices below it are visible."""


class _Part:
    """The items of a scope that are of one sort, in order of position."""

    def __init__(self, dimensions: int) -> None:
        self.block = recall.Block(dimensions)
        self.items: list[StoredItem] = []
        self._groups: list[Group] = []
        self._sessions: dict[str, list[int]] = {}
        self._names: dict[str, str] = {}
        self._pieces: dict[tuple[str, int], segment.Piece] = {}
        self._tokens: dict[str, list[int]] = {}
        """By tokenizer, the stored counts of all items; shorter where some item has none."""
        self._counts: dict[tuple[str, int], int] = {}
        self._masked: dict[int, StoredItem] = {}
        """Items in masked form, by index: those that were shown so."""
        self._text_bytes = 0

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self.items)

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return (
            self.block.nbytes
            + self._text_bytes
            + 500 * len(self.items)
            + 1000 * len(self._pieces)
            + 150 * len(self._counts)
            + 600 * len(self._masked)
        )

    def append(self, fresh: Sequence[StoredItem]) -> None:
        """Take in items that follow those that are there."""
        self.block.append([self._ranked_as(item, recall.unpack_terms(item.terms)) for item in fresh])
        self._note(fresh)
        for item in fresh:
            kept = replace(item, terms=b"", session=self._name(item.session), speaker=self._name(item.speaker))
            self._sessions.setdefault(kept.session, []).append(len(self.items))
            self.items.append(kept)
            self._groups.append(self._group(kept))
            for tokenizer, tokens in item.tokens.items():
                self._tokens.setdefault(tokenizer, []).append(tokens)
            self._text_bytes += len(item.text) + len(item.detail)

    def _note(self, fresh: Sequence[StoredItem]) -> None:
        """Take note of what one sort of items needs to know."""

    def _ranked_as(self, item: StoredItem, terms: recall.Terms) -> recall.Item:
        """Return what the ranking needs of an item: what it stands beside, above all."""
        return recall.Item(
            position=item.position,
            message=(item.session, item.version, item.entry),
            session=item.session,
            speaker=item.speaker,
            terms=terms,
            tokens=next(iter(item.tokens.values())),
        )

    def _group(self, item: StoredItem) -> Group:
        """Return what an item is shown under."""
        return item.session, item.spoken_at_us // _DAY_US

    def end(self, position: int) -> int:
        """Return how many items there are up to a position."""
        return int(self.block.positions.searchsorted(position, "right"))

    def rank(
        self,
        query: recall.Query,
        *,
        position: int,
        vector_position: int,
        floor: bool,
        among: np.ndarray | None = None,
    ) -> _Ranked:
        """Rank the items up to a position; where `among` is given, those alone."""
        if not len(self.block) or (among is not None and not among.any()):
            return _Ranked(self, recall.NOTHING, among, 0, 0, self.end(position))
        settings = _settings(query.cosine_floor_thousandths) if floor else _NO_FLOOR
        ranking = recall.rank(
            self.block,
            query,
            settings=settings,
            limit_positions=position,
            vector_limit=vector_position,
            among=among,
        )
        # A ranking that is not full was cut at the floor; a full one only at its size.
        floored = floor and len(ranking.items) < settings.candidates_max
        end = self.end(position)
        total = end if among is None else int(among.sum())
        relevant = len(ranking.items) if floored or not len(ranking.items) else total
        return _Ranked(self, ranking, among, total, relevant, end)

    def piece(self, index: int, *, tokens: int, tokenizer: str) -> segment.Piece:
        """Return the segment of an item, without a score; it is made once."""
        piece = self._pieces.get((tokenizer, index))
        if piece is None:
            item = self._shown(index, tokenizer)
            ref = turn_pb2.EventRef(session_id=item.session, version=item.version, entry=item.entry)
            piece = segment.quoted_piece(
                item.role,
                item.speaker,
                item.text,
                ref,
                tokens,
                listed=item.kind != ItemKind.CHUNK,
                stated=_detail(item).trust,
            )
            self._pieces[tokenizer, index] = segment.marked(piece, masked=item is not self.items[index])
        return piece

    def _shown(self, index: int, tokenizer: str) -> StoredItem:
        """Return an item as it is shown where `tokenizer` counts: as it is, or in masked form."""
        item = self.items[index]
        if not tokenizer.endswith(segment.MASKED):
            return item
        shown = self._masked.get(index)
        if shown is None:
            text = pii.mask(item.text, pii.known(_detail(item).pii, item.text))
            shown = replace(item, text=text, speaker=pii.masked(item.speaker))
            shown = self._masked[index] = item if shown == item else shown
        return shown

    def tokens(self, indices: Sequence[int], *, tokenizer: str, count: Count) -> list[int]:
        """Return the tokens of items as rendered: the stored counts, or counted once for another tokenizer or form."""
        stored = self._tokens.get(tokenizer)
        if stored is not None and len(stored) == len(self.items):
            return [stored[index] for index in indices]
        return [self._counted(index, tokenizer, count) for index in indices]

    def _counted(self, index: int, tokenizer: str, count: Count) -> int:
        item = self._shown(index, tokenizer)
        stored = item.tokens.get(segment.tokenizer_of(tokenizer)) if item is self.items[index] else None
        tokens = stored or self._counts.get((tokenizer, index))
        if tokens is None:
            header = segment.header(item.role, item.speaker) if item.kind == ItemKind.CHUNK else segment.LISTED
            tokens = self._counts[tokenizer, index] = count(header + segment.quoted_body(item.text))
        return tokens

    def groups(self, indices: Sequence[int]) -> list[Group]:
        """Return the groups of items."""
        return [self._groups[index] for index in indices]

    def of_session(self, session: str, *, from_version: int) -> Iterator[tuple[int, int, int]]:
        """Yield (index, version, entry) of a session's items from a version on."""
        indices = self._sessions.get(session, [])
        start = bisect_left(indices, from_version, key=lambda index: self.items[index].version)
        for index in indices[start:]:
            yield index, self.items[index].version, self.items[index].entry

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, name)


class _Turns(_Part):
    """What was said."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self._said: list[int] = []
        """A number for what each says: equal for equal words, whoever says them and when."""
        self._forms: dict[int, str] = {}
        self._prefixes: dict[tuple[int, str], int] = {}

    def _note(self, fresh: Sequence[StoredItem]) -> None:
        for item, weight in zip(fresh, self.block.weights[len(self.items) :].tolist(), strict=True):
            self._said.append(weight - self._prefix(item.spoken_at_us // _DAY_US, item.speaker))

    def twins(self, indices: Sequence[int]) -> dict[int, int]:
        """Return the number of the group that each item is in that says the same as others among them, in the same
        role, under the same name and with the same trust.

        Most items have no twin; what they say is compared as numbers, and only where these are equal as text.
        """
        said = [self._said[index] for index in indices]
        if len(set(said)) == len(said):
            return {}
        alike: dict[int, list[int]] = {}
        for index, number in zip(indices, said, strict=True):
            alike.setdefault(number, []).append(index)
        groups: dict[tuple[int, str, int, str], list[int]] = {}
        for found in alike.values():
            if len(found) > 1:
                for index in found:
                    item = self.items[index]
                    key = item.role, item.speaker, _detail(item).trust, self._form(index)
                    groups.setdefault(key, []).append(index)
        return {index: found[0] for found in groups.values() if len(found) > 1 for index in found}

    def _form(self, index: int) -> str:
        form = self._forms.get(index)
        if form is None:
            form = self._forms[index] = normal.form(self.items[index].text)
        return form

    def _prefix(self, day: int, speaker: str) -> int:
        """Return what the date and the speaker weigh, which stand before every item's text in its terms."""
        weight = self._prefixes.get((day, speaker))
        if weight is None:
            date = _EPOCH + datetime.timedelta(days=day)
            terms = recall.item_terms("", speaker=speaker, year=date.year, month=date.month, day=date.day)
            weight = self._prefixes[day, speaker] = recall.weight(terms)
        return weight


class _Facts(_Part):
    """Claims, each beside nothing: that one was recorded after another says nothing."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self._places: dict[Ref, int] = {}
        self._held: tuple[Standing, int, np.ndarray] | None = None
        self._counts_of: tuple[Standing, Mapping[memory_pb2.BeliefStatus, int]] | None = None

    def _note(self, fresh: Sequence[StoredItem]) -> None:
        for index, item in enumerate(fresh, len(self.items)):
            self._places[Ref(item.session, item.version, item.entry)] = index

    def held(self, standing: Standing, end: int) -> np.ndarray:
        """Return which of the first items are held true: bool[end]."""
        if self._held is None or self._held[0] is not standing or self._held[1] != end:
            mask = np.zeros(end, bool)
            for belief in standing.held:
                index = self._places.get(belief.claim.ref, end)
                if index < end:
                    mask[index] = True
            self._held = (standing, end, mask)
        return self._held[2]

    def counts(self, standing: Standing) -> Mapping[memory_pb2.BeliefStatus, int]:
        """Return how many claims stand where."""
        if self._counts_of is None or self._counts_of[0] is not standing:
            self._counts_of = (standing, Counter(belief.status for belief in standing.beliefs))
        return self._counts_of[1]

    def ref(self, index: int) -> Ref:
        """Return the id of a claim."""
        item = self.items[index]
        return Ref(item.session, item.version, item.entry)

    def index(self, ref: Ref) -> int | None:
        """Return where a claim is."""
        return self._places.get(ref)

    def _ranked_as(self, item: StoredItem, terms: recall.Terms) -> recall.Item:
        return replace(super()._ranked_as(item, terms), session=item.position)

    def _group(self, item: StoredItem) -> Group:  # noqa: ARG002 - all stand together
        return "", 0


class _Documents(_Part):
    """Chunks of documents, each beside those of its own version alone."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self._versions: dict[str, list[tuple[int, int]]] = {}
        """By document, (version, its first chunk), in order."""
        self._latest: np.ndarray | None = None

    def _note(self, fresh: Sequence[StoredItem]) -> None:
        for index, item in enumerate(fresh, len(self.items)):
            versions = self._versions.setdefault(item.session, [])
            if not versions or versions[-1][0] != item.version:
                versions.append((item.version, index))
        self._latest = None

    def latest(self, end: int) -> np.ndarray:
        """Return which of the first chunks are of their document's latest version then: bool[end]."""
        if self._latest is None or len(self._latest) != end:
            last = {
                session: next((version for version, first in reversed(versions) if first < end), 0)
                for session, versions in self._versions.items()
            }
            self._latest = np.array([item.version == last[item.session] for item in self.items[:end]], bool)
        return self._latest

    def _ranked_as(self, item: StoredItem, terms: recall.Terms) -> recall.Item:
        return replace(super()._ranked_as(item, terms), session=(item.session, item.version))

    def _group(self, item: StoredItem) -> Group:
        return item.session, item.version


class ScopeMemory:
    """One subject's items after `base`, with their vectors of one model."""

    def __init__(
        self, *, tenant: str, subject: str, model: str, dimensions: int, base: int = 0, epoch: int = 0
    ) -> None:
        self.tenant = tenant
        self.subject = subject
        self.model = model
        self.dimensions = dimensions
        self.base = base
        self.epoch = epoch
        """The one whose items it holds."""
        self.position = base
        self.vector_position = base
        self.read_at = 0.0
        """When the record store last answered for it, in `time.monotonic()` seconds."""
        self.turns = _Turns(dimensions if model else 1)
        self.facts = _Facts(dimensions if model else 1)
        self.documents = _Documents(dimensions if model else 1)
        self.lock = asyncio.Lock()
        """Held while the block grows, and while another thread ranks it."""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return sum(part.nbytes for part in self._parts)

    @property
    def _parts(self) -> tuple[_Part, ...]:
        return self.turns, self.facts, self.documents

    def read(self, *, count_max: int = _PAGE_ITEMS) -> ScopeRead:
        """Return the read that brings this block up to date."""
        return ScopeRead(
            tenant=self.tenant,
            subject=self.subject,
            model=self.model,
            after_position=self.position,
            after_vector_position=self.vector_position,
            count_max=count_max,
        )

    def apply(self, read: ScopeRead, state: ScopeState) -> bool:
        """Take in the answer to `read`, of this block's epoch; return whether the block now shows all of the store's.

        Nothing is awaited between, so a concurrent hydrate sees the block before or after. An answer to a read
        that another task overtook is taken from where this block stands.
        """
        self.read_at = time.monotonic()
        fresh = [item for item in state.items if item.position > self.position and not item.gone]
        for part, kinds in zip(self._parts, _KINDS, strict=True):
            # A change that claims nothing has no text: there is nothing to find.
            part.append([item for item in fresh if item.kind in kinds and (item.text or part is self.turns)])
        # Without items there are none up to the position: of a subject that was erased, however far it was read (R29).
        self.position = max(self.position, state.items[-1].position if state.items else state.position)
        for position, packed in enumerate(state.vectors, read.after_vector_position + 1):
            if self.vector_position < position <= self.position:
                vector, scale = recall.unpack_vector(packed)
                for part in self._parts if scale else ():  # else it has none, or is gone
                    if position in part.block:
                        part.block.put_vector(position, vector, scale)
                self.vector_position = position
        return self.position >= state.position and self.vector_position >= min(state.vector_position, self.position)

    def vectors_for(self, query: recall.Query, vector_position: int) -> int:
        """Return up to where vectors may be compared with a query's: nowhere, if that is another model's."""
        return vector_position if query.model == self.model else 0

    def rank(
        self,
        query: recall.Query,
        *,
        position: int,
        vector_position: int,
        tokenizer: str,
        count: Count,
        session: str,
        floor: bool,
        fold: bool = True,
    ) -> Candidates:
        """Rank what was said as it was at `position`, with the vectors up to `vector_position`.

        `fold`: what says the same as something better is shown with it.
        """
        vector_position = self.vectors_for(query, vector_position)
        ranked = self.turns.rank(query, position=position, vector_position=vector_position, floor=floor)
        found = Candidates([ranked], tokenizer=tokenizer, count=count, session=session)
        if fold:
            found.twins = self.turns.twins(found.indices)
        return found

    def rank_facts(
        self,
        query: recall.Query,
        standing: Standing,
        lifetimes: Mapping[str, Lifetime],
        *,
        position: int,
        vector_position: int,
        tokenizer: str,
        count: Count,
        now_us: int,
        floor: bool,
    ) -> Facts:
        """Rank the claims that are held true; a claim's score halves with each half-life of its kind."""
        held = self.facts.held(standing, self.facts.end(position))
        vector_position = self.vectors_for(query, vector_position)
        ranked = self.facts.rank(query, position=position, vector_position=vector_position, floor=floor, among=held)
        return Facts(ranked, standing, lifetimes, tokenizer=tokenizer, count=count, now_us=now_us)


_KINDS = (
    frozenset((ItemKind.CHUNK,)),
    frozenset((ItemKind.CHANGE, ItemKind.HELD)),
    frozenset((ItemKind.DOCUMENT,)),
)
"""The kinds of items of a scope's turns, facts and documents."""


class Library(NamedTuple):
    """A scope's documents as they were at a point."""

    memory: ScopeMemory
    position: int
    vector_position: int


def rank_documents(
    libraries: Sequence[Library], query: recall.Query, *, tokenizer: str, count: Count, floor: bool
) -> Candidates:
    """Rank the latest versions' chunks of several scopes: each by itself, and all by their scores."""
    ranked = []
    for memory, position, vector_position in libraries:
        latest = memory.documents.latest(memory.documents.end(position))
        vectors = memory.vectors_for(query, vector_position)
        ranked.append(
            memory.documents.rank(query, position=position, vector_position=vectors, floor=floor, among=latest)
        )
    return Candidates(ranked, tokenizer=tokenizer, count=count, session="")


class Candidates:
    """A ranking, as bundle assembly reads it: parallel lists in rank order.

    Items are known by indices, which ascend as they are to be shown.
    """

    def __init__(self, ranked: Sequence[_Ranked], *, tokenizer: str, count: Count, session: str) -> None:
        self.session = session
        self.total = sum(one.total for one in ranked)
        self._ranked = ranked
        self._starts = list(accumulate((one.end for one in ranked), initial=0))
        self._tokenizer = tokenizer
        self._count = count
        self.indices: list[int] = ranked[0].ranking.items.tolist() if ranked else []
        self.scores: list[int] = ranked[0].ranking.scores.tolist() if ranked else []
        if len(ranked) > 1:
            self._merge()
        self.tokens: list[int] = self._each(lambda part, at: part.tokens(at, tokenizer=tokenizer, count=count))
        self.groups: list[Group] = self._each(lambda part, at: part.groups(at))
        self.relevant = sum(one.relevant for one in ranked)
        """Items above the relevance floor, or all if there is none. Only the best of them are in the lists."""
        self.below_floor = self.total - self.relevant
        self.twins: Mapping[int, int] = {}
        """Of items that say the same, by index: a number that is the same for all of them."""
        self.chosen = 0
        """How many of them the bundle shows; set by its assembly."""
        self.folded = 0
        """How many it shows with another that says the same; set by its assembly."""

    def _merge(self) -> None:
        """Put the rankings in one order: by score, of equal ones the first scope's first."""
        found = [
            (-score, start + index)
            for one, start in zip(self._ranked, self._starts, strict=False)
            for index, score in zip(one.ranking.items.tolist(), one.ranking.scores.tolist(), strict=True)
        ]
        best = heapq.nsmallest(limits.recall_candidates_max, found)
        self.indices, self.scores = [index for _, index in best], [-score for score, _ in best]

    def _each(self, of: Callable[[_Part, Sequence[int]], list[Any]]) -> list[Any]:
        """Return something of every item, in rank order."""
        if len(self._ranked) == 1:
            return of(self._ranked[0].part, self.indices)
        return [value for index in self.indices for part, at in [self._part(index)] for value in of(part, [at])]

    def _part(self, index: int) -> tuple[_Part, int]:
        """Return which part an item is of, and where it is there."""
        if len(self._ranked) == 1:
            return self._ranked[0].part, index
        which = bisect_right(self._starts, index) - 1
        return self._ranked[which].part, index - self._starts[which]

    def at(self, place: int) -> Candidate:
        """Return the candidate at a place of the ranking."""
        part, index = self._part(self.indices[place])
        return Candidate(part.items[index], self.piece(place), self.scores[place])

    def piece(self, place: int) -> segment.Piece:
        """Return the segment of the candidate at a place of the ranking."""
        part, index = self._part(self.indices[place])
        return part.piece(index, tokens=self.tokens[place], tokenizer=self._tokenizer)

    def ref(self, place: int) -> turn_pb2.EventRef:
        """Return where the candidate at a place of the ranking is in the log."""
        part, index = self._part(self.indices[place])
        item = part.items[index]
        return turn_pb2.EventRef(session_id=item.session, version=item.version, entry=item.entry)

    def title(self, place: int) -> str:
        """Return the title of the document that the candidate at a place is a chunk of."""
        part, index = self._part(self.indices[place])
        return _detail(part.items[index]).title

    def unlisted(self) -> Iterator[Candidate]:
        """Yield the items that are in no list: behind the best, or below the floor; by position."""
        listed = set(self.indices)
        for one, start in zip(self._ranked, self._starts, strict=False):
            for index in range(one.end) if one.among is None else np.flatnonzero(one.among).tolist():
                if start + index not in listed:
                    (tokens,) = one.part.tokens([index], tokenizer=self._tokenizer, count=self._count)
                    piece = one.part.piece(index, tokens=tokens, tokenizer=self._tokenizer)
                    yield Candidate(one.part.items[index], piece, 0)

    def shown_elsewhere(self, refs: Set[tuple[int, int]]) -> frozenset[int]:
        """Return the indices of this session's items whose (version, entry) is among `refs`."""
        if not refs:
            return frozenset()
        items = self._ranked[0].part.of_session(self.session, from_version=min(refs)[0])
        return frozenset(index for index, version, entry in items if (version, entry) in refs)


class Facts(Candidates):
    """A ranking of claims."""

    def __init__(
        self,
        ranked: _Ranked,
        standing: Standing,
        lifetimes: Mapping[str, Lifetime],
        *,
        tokenizer: str,
        count: Count,
        now_us: int,
    ) -> None:
        self.standing = standing
        assert isinstance(ranked.part, _Facts)
        self._facts = ranked.part
        self.counts = ranked.part.counts(standing)
        super().__init__([_decayed(ranked, standing, lifetimes, now_us)], tokenizer=tokenizer, count=count, session="")

    def sources(self, place: int) -> Sequence[turn_pb2.EventRef]:
        """Return the sources of the claim, those that confirmations added too."""
        belief = self.standing.get(self._facts.ref(self.indices[place]))
        return belief.claim.sources if belief else ()

    def places(self, refs: Set[Ref]) -> frozenset[int]:
        """Return the indices of claims."""
        return frozenset(index for index in map(self._facts.index, refs) if index is not None)


def _decayed(ranked: _Ranked, standing: Standing, lifetimes: Mapping[str, Lifetime], now_us: int) -> _Ranked:
    """Halve what is scored with each half-life that has passed since a claim was recorded or confirmed."""
    if not any(one.half_life_s for one in lifetimes.values()) or not len(ranked.ranking.items):
        return ranked
    assert isinstance(ranked.part, _Facts)
    scores = ranked.ranking.scores.copy()
    for at, index in enumerate(ranked.ranking.items.tolist()):
        belief = standing.get(ranked.part.ref(index))
        assert belief is not None
        claim = belief.claim
        lifetime = lifetimes.get(claim.fact.kind or "fact")
        if lifetime is not None and lifetime.half_life_s and not claim.pinned and scores[at] > 0:
            lives = max(0, now_us - claim.seen_at_us) / (lifetime.half_life_s * 1_000_000)
            # Rounded, so that the last bit of a maths library cannot show.
            scores[at] = int(scores[at]) * round(2.0**-lives * recall.MICRO) // recall.MICRO
    order = np.lexsort((ranked.ranking.items, -scores))
    ranking = recall.Ranking(ranked.ranking.items[order], scores[order], {})
    return ranked._replace(ranking=ranking)


_NO_DETAIL = log_pb2.ItemDetail()


def _detail(item: StoredItem) -> log_pb2.ItemDetail:
    return log_pb2.ItemDetail.FromString(item.detail) if item.detail else _NO_DETAIL


class Scopes:
    """The cache of blocks: least recently used out first, each loaded by one task however many wait for it."""

    def __init__(self, record: Record, embedders: Embedders, *, bytes_max: int = limits.block_cache_bytes) -> None:
        self._record = record
        self._embedders = embedders
        self._bytes_max = bytes_max
        self._blocks: OrderedDict[tuple[str, str], ScopeMemory] = OrderedDict()
        self._loads: dict[tuple[str, str], asyncio.Task[ScopeMemory]] = {}

    def held(self, tenant: str, subject: str) -> ScopeMemory | None:
        """Return a block that is in the cache, however old."""
        memory = self._blocks.get((tenant, subject))
        if memory is not None:
            self._blocks.move_to_end((tenant, subject))
        return memory

    def fresh(self, tenant: str, subject: str) -> ScopeMemory:
        """Return a block that is in the cache, or an empty one to be settled: for one more read in a batch."""
        return self.held(tenant, subject) or _empty(tenant, subject, self._embedders.ranking)

    async def load(self, tenant: str, subject: str) -> ScopeMemory:
        """Read a whole scope. Callers share one load and may give up waiting; the load goes on."""
        key = (tenant, subject)
        task = self._loads.get(key)
        if task is None:
            task = self._loads[key] = asyncio.create_task(self._load(tenant, subject))
            task.add_done_callback(partial(self._loaded, key))
        return await asyncio.shield(task)

    def _loaded(self, key: tuple[str, str], done: asyncio.Task[ScopeMemory]) -> None:
        del self._loads[key]
        if not done.cancelled():
            done.exception()  # seen, also when all callers gave up

    async def at(self, tenant: str, subject: str, *, position: int, model: str, dimensions: int = 1) -> ScopeMemory:
        """Return a block that shows the memory at a past position: the cached one, or one read for it.

        It has the vectors of the model, whether that is at hand or not; with an empty one, of any or none.
        """
        memory = self.held(tenant, subject)
        if model in ("", memory.model if memory else self._embedders.ranking_id):
            if memory is None or memory.position < position:
                memory = await self.load(tenant, subject)
            else:
                read = memory.read()
                (state,) = await self._record.fetch([read])
                memory = await self.settle(memory, read, cast(ScopeState, state))
            if memory.base == base_of(position) and model in ("", memory.model):
                return memory
        return await self._read(tenant, subject, (model, dimensions), base=base_of(position), until=position)

    async def ranked(self, memory: ScopeMemory) -> ScopeMemory:
        """Return a block with the vectors of the model that ranks now: this one, or one that takes its place."""
        while memory.model != self._embedders.ranking_id:
            memory = await self.load(memory.tenant, memory.subject)
        return memory

    async def settle(self, memory: ScopeMemory, read: ScopeRead, state: ScopeState) -> ScopeMemory:
        """Bring a block up to an answer of the store, reading on if the answer was only a page of it.

        It keeps its model, also when another has begun to serve: `ranked` has that one's.
        """
        self._embedders.saw(state.serving)
        if (base_of(state.position), state.epoch) != (memory.base, memory.epoch):
            found = await self.load(memory.tenant, memory.subject)
            if found.epoch < state.epoch or found.position < state.position:  # that load began before the read
                found = await self.load(memory.tenant, memory.subject)
            return found
        if not memory.read_at and state.position > len(state.items):
            return await self.load(memory.tenant, memory.subject)  # a page of what was never here: the load goes on
        async with memory.lock:
            current = memory.apply(read, state)
        if not current and not await self._catch_up(memory):
            return await self.load(memory.tenant, memory.subject)
        self._keep(memory)
        return memory

    def forget(self, tenant: str, subject: str) -> None:
        """Forget one subject."""
        self._blocks.pop((tenant, subject), None)

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()

    @property
    def nbytes(self) -> int:
        """About how much memory the blocks take."""
        return sum(memory.nbytes for memory in self._blocks.values())

    async def _load(self, tenant: str, subject: str) -> ScopeMemory:
        memory = await self._read(tenant, subject)
        self._keep(memory)
        return memory

    async def _read(
        self,
        tenant: str,
        subject: str,
        model: tuple[str, int] | None = None,
        *,
        base: int | None = None,
        until: int | None = None,
    ) -> ScopeMemory:
        """Read a block of one epoch, from the start again if another begins meanwhile.

        `model`: id and dimensions; None for the one that ranks.
        """
        while True:
            probe = ScopeRead(tenant=tenant, subject=subject, model="", count_max=0)
            state = cast(ScopeState, (await self._record.fetch([probe]))[0])
            ranking = self._embedders.saw(state.serving)
            model_id, dimensions = model or ((ranking.id, ranking.dimensions) if ranking else ("", 1))
            memory = ScopeMemory(
                tenant=tenant,
                subject=subject,
                model=model_id,
                dimensions=dimensions,
                base=base_of(state.position) if base is None else base,
                epoch=state.epoch,
            )
            if await self._catch_up(memory, until=until):
                return memory

    async def _catch_up(self, memory: ScopeMemory, *, until: int | None = None) -> bool:
        """Read on to the end, or to a position; return False if another epoch has begun."""
        while True:
            read = memory.read()
            state = cast(ScopeState, (await self._record.fetch([read]))[0])
            if state.epoch != memory.epoch:
                return False
            async with memory.lock:
                current = memory.apply(read, state)
            if current or (until is not None and memory.position >= until):
                return True

    def _keep(self, memory: ScopeMemory) -> None:
        key = (memory.tenant, memory.subject)
        self._blocks[key] = memory
        self._blocks.move_to_end(key)
        while len(self._blocks) > 1 and self.nbytes > self._bytes_max:
            self._blocks.popitem(last=False)


def _empty(tenant: str, subject: str, model: Embedding | None) -> ScopeMemory:
    if model is None:
        return ScopeMemory(tenant=tenant, subject=subject, model="", dimensions=1)
    return ScopeMemory(tenant=tenant, subject=subject, model=model.id, dimensions=model.dimensions)
