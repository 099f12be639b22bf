"""A subject's memory in process: all of its items as a ranked block, kept up to date by position.

A scope is loaded once from the record store, kept in a cache bounded in bytes, and brought up to date by what was
appended since. Items never change and positions have no gaps (R6), so a block that has seen position p can show
the memory as it was at any position up to p. Unless items have gone with their session's log: that begins an epoch of
the scope (R24), and a block belongs to one. What is gone is not in a block: it is not ranked, counted or listed.

A scope of more than `limits.scope_items_max` items is ranked over its newest: from a base that moves in steps
and depends on the position alone, so that every pod ranks the same items.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

from sidecar import limits, recall, segment
from sidecar.segment import Count
from sidecar.stores.record import Record, ScopeRead, ScopeState, StoredItem
from standpipe.v1 import turn_pb2

_BASE_STEP = limits.scope_items_max // 8
_PAGE_ITEMS = 8192
"""Items of one read while a scope is loaded: some megabytes."""

_DAY_US = 86_400_000_000

_NO_FLOOR = recall.Settings(cosine_floor=-2.0, lexical_floor=0.0, lexical_floor_alone=0.0, score_floor=-1000.0)
"""For policies that want the budget filled whatever there is."""


Group = tuple[str, int]
"""A session and a day (since 1970, UTC): items of one group stand under one date."""


class Candidate(NamedTuple):
    """An item that recall may show."""

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


class ScopeMemory:
    """One subject's items after `base`, with their vectors of one model."""

    def __init__(
        self, *, tenant: str, subject: str, model: str, dimensions: int, base: int = 0, epoch: int = 0
    ) -> None:
        self.tenant = tenant
        self.subject = subject
        self.model = model
        self.base = base
        self.epoch = epoch
        """The one whose items it holds."""
        self.position = base
        self.vector_position = base
        self.read_at = 0.0
        """When the record store last answered for it, in `time.monotonic()` seconds."""
        self._block = recall.Block(dimensions if model else 1)
        self._items: list[StoredItem] = []
        self._groups: list[Group] = []
        self._sessions: dict[str, list[int]] = {}
        self._pieces: dict[tuple[str, int], segment.Piece] = {}
        self.lock = asyncio.Lock()
        """Held while the block grows, and while another thread ranks it."""
        self._names: dict[str, str] = {}
        self._tokens: dict[str, list[int]] = {}
        """By tokenizer, the stored counts of all items; shorter where some item has none."""
        self._counts: dict[tuple[str, int], int] = {}
        self._text_bytes = 0

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return (
            self._block.nbytes
            + self._text_bytes
            + 500 * len(self._items)
            + 1000 * len(self._pieces)
            + 150 * len(self._counts)
        )

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
        self._block.append(
            [
                recall.Item(
                    position=item.position,
                    message=(item.session, item.version, item.entry),
                    session=item.session,
                    speaker=item.speaker,
                    terms=recall.unpack_terms(item.terms),
                    tokens=next(iter(item.tokens.values())),
                )
                for item in fresh
            ]
        )
        for item in fresh:
            kept = replace(item, terms=b"", session=self._name(item.session), speaker=self._name(item.speaker))
            self._sessions.setdefault(kept.session, []).append(len(self._items))
            self._items.append(kept)
            self._groups.append((kept.session, kept.spoken_at_us // _DAY_US))
            for tokenizer, tokens in item.tokens.items():
                self._tokens.setdefault(tokenizer, []).append(tokens)
            self._text_bytes += len(item.text)
        # Without items there are none up to the position: of a subject that was erased, however far it was read (R29).
        self.position = max(self.position, state.items[-1].position if state.items else state.position)
        for position, packed in enumerate(state.vectors, read.after_vector_position + 1):
            if self.vector_position < position <= self.position:
                vector, scale = recall.unpack_vector(packed)
                if scale:  # else it has none, or is gone
                    self._block.put_vector(position, vector, scale)
                self.vector_position = position
        return self.position >= state.position and self.vector_position >= min(state.vector_position, self.position)

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
    ) -> Candidates:
        """Rank the memory as it was at `position`, with the vectors up to `vector_position`."""
        settings = recall.Settings() if floor else _NO_FLOOR
        ranking = recall.rank(
            self._block, query, settings=settings, limit_positions=position, vector_limit=vector_position
        )
        # A ranking that is not full was cut at the floor; a full one only at its size.
        floored = floor and len(ranking.items) < settings.candidates_max
        total = int(self._block.positions.searchsorted(position, "right"))
        relevant = len(ranking.items) if floored or not len(ranking.items) else total
        return Candidates(
            self, ranking, total=total, relevant=relevant, tokenizer=tokenizer, count=count, session=session
        )

    def candidate(self, index: int, *, score_micros: int, tokens: int, tokenizer: str) -> Candidate:
        """Return one item with its segment and score."""
        return Candidate(self._items[index], self.piece(index, tokens=tokens, tokenizer=tokenizer), score_micros)

    def piece(self, index: int, *, tokens: int, tokenizer: str) -> segment.Piece:
        """Return the segment of an item, without a score; it is made once."""
        piece = self._pieces.get((tokenizer, index))
        if piece is None:
            item = self._items[index]
            ref = turn_pb2.EventRef(session_id=item.session, version=item.version, entry=item.entry)
            piece = segment.quoted_piece(item.role, item.speaker, item.text, ref, tokens)
            self._pieces[tokenizer, index] = piece
        return piece

    def tokens(self, indices: Sequence[int], *, tokenizer: str, count: Count) -> list[int]:
        """Return the tokens of items as rendered: the stored counts, or counted once for another tokenizer."""
        stored = self._tokens.get(tokenizer)
        if stored is not None and len(stored) == len(self._items):
            return [stored[index] for index in indices]
        return [self._counted(index, tokenizer, count) for index in indices]

    def _counted(self, index: int, tokenizer: str, count: Count) -> int:
        item = self._items[index]
        tokens = item.tokens.get(tokenizer) or self._counts.get((tokenizer, index))
        if tokens is None:
            text = segment.header(item.role, item.speaker) + segment.quoted_body(item.text)
            tokens = self._counts[tokenizer, index] = count(text)
        return tokens

    def groups(self, indices: Sequence[int]) -> list[Group]:
        """Return the groups of items."""
        return [self._groups[index] for index in indices]

    def of_session(self, session: str, *, from_version: int) -> Iterator[tuple[int, int, int]]:
        """Yield (index, version, entry) of a session's items from a version on."""
        indices = self._sessions.get(session, [])
        start = bisect_left(indices, from_version, key=lambda index: self._items[index].version)
        for index in indices[start:]:
            yield index, self._items[index].version, self._items[index].entry

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, name)


class Candidates:
    """A ranking over a scope, as bundle assembly reads it: parallel lists in rank order."""

    def __init__(
        self,
        memory: ScopeMemory,
        ranking: recall.Ranking,
        *,
        total: int,
        relevant: int,
        tokenizer: str,
        count: Count,
        session: str,
    ) -> None:
        self.session = session
        self.total = total
        self.indices: list[int] = ranking.items.tolist()
        self.scores: list[int] = ranking.scores.tolist()
        self.tokens = memory.tokens(self.indices, tokenizer=tokenizer, count=count)
        self.groups = memory.groups(self.indices)
        self.relevant = relevant
        """Items above the relevance floor, or all if there is none. Only the best of them are in the lists."""
        self.below_floor = total - relevant
        self.chosen = 0
        """How many of them the bundle shows; set by its assembly."""
        self._memory = memory
        self._tokenizer = tokenizer
        self._count = count

    def at(self, place: int) -> Candidate:
        """Return the candidate at a place of the ranking."""
        return self._memory.candidate(
            self.indices[place],
            score_micros=self.scores[place],
            tokens=self.tokens[place],
            tokenizer=self._tokenizer,
        )

    def piece(self, place: int) -> segment.Piece:
        """Return the segment of the candidate at a place of the ranking."""
        return self._memory.piece(self.indices[place], tokens=self.tokens[place], tokenizer=self._tokenizer)

    def unlisted(self) -> Iterator[Candidate]:
        """Yield the items that are in no list: behind the best, or below the floor; by position."""
        listed = set(self.indices)
        for index in range(self.total):
            if index not in listed:
                (tokens,) = self._memory.tokens([index], tokenizer=self._tokenizer, count=self._count)
                yield self._memory.candidate(index, score_micros=0, tokens=tokens, tokenizer=self._tokenizer)

    def shown_elsewhere(self, refs: Set[tuple[int, int]]) -> frozenset[int]:
        """Return the indices of this session's items whose (version, entry) is among `refs`."""
        if not refs:
            return frozenset()
        items = self._memory.of_session(self.session, from_version=min(refs)[0])
        return frozenset(index for index, version, entry in items if (version, entry) in refs)


class Scopes:
    """The cache of blocks: least recently used out first, each loaded by one task however many wait for it."""

    def __init__(
        self, record: Record, *, model: str, dimensions: int, bytes_max: int = limits.block_cache_bytes
    ) -> None:
        self._record = record
        self._model = model
        self._dimensions = dimensions
        self._bytes_max = bytes_max
        self._blocks: OrderedDict[tuple[str, str], ScopeMemory] = OrderedDict()
        self._loads: dict[tuple[str, str], asyncio.Task[ScopeMemory]] = {}

    def held(self, tenant: str, subject: str) -> ScopeMemory | None:
        """Return a block that is in the cache, however old."""
        memory = self._blocks.get((tenant, subject))
        if memory is not None:
            self._blocks.move_to_end((tenant, subject))
        return memory

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

    async def at(self, tenant: str, subject: str, *, position: int, model: str) -> ScopeMemory:
        """Return a block that shows the memory at a past position: the cached one, or one read for it."""
        if model == self._model:
            memory = self.held(tenant, subject)
            if memory is None or memory.position < position:
                memory = await self.load(tenant, subject)
            else:
                read = memory.read()
                (state,) = await self._record.fetch([read])
                memory = await self.settle(memory, read, cast(ScopeState, state))
            if memory.base == base_of(position):
                return memory
        return await self._read(tenant, subject, model, base=base_of(position), until=position)

    async def settle(self, memory: ScopeMemory, read: ScopeRead, state: ScopeState) -> ScopeMemory:
        """Bring a block up to an answer of the store, reading on if the answer was only a page of it."""
        if (base_of(state.position), state.epoch) != (memory.base, memory.epoch):
            found = await self.load(memory.tenant, memory.subject)
            if found.epoch < state.epoch or found.position < state.position:  # that load began before the read
                found = await self.load(memory.tenant, memory.subject)
            return found
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
        memory = await self._read(tenant, subject, self._model)
        self._keep(memory)
        return memory

    async def _read(
        self, tenant: str, subject: str, model: str, *, base: int | None = None, until: int | None = None
    ) -> ScopeMemory:
        """Read a block of one epoch, from the start again if another begins meanwhile."""
        while True:
            probe = ScopeRead(tenant=tenant, subject=subject, model="", count_max=0)
            state = cast(ScopeState, (await self._record.fetch([probe]))[0])
            memory = ScopeMemory(
                tenant=tenant,
                subject=subject,
                model=model,
                dimensions=self._dimensions,
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
