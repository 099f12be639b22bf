"""The embedding projection: gives every item its vector, behind the log.

A subject whose items are ahead of its vectors is a work order (`sidecar.orders`). A worker embeds a batch in order of
position, and puts the vectors right behind the last one (R13). Should two embed the same items after all, one writes
and the other's work is dropped. A text that the model cannot embed gets the zero vector and is found by words alone.

How much is with the embedder at once follows from its speed: on a processor little more than one batch, so that the
first vectors are not as late as the last, and on a GPU thousands of texts, so that it never waits for a store's round
trips. A batch is a part of that. Its items are read in pages, and each page is embedded while the next is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final, cast

import numpy as np

from sidecar import limits, pii, recall
from sidecar.embedding import Embedding, Vector
from sidecar.errors import Internal, Overloaded
from sidecar.log.v1 import log_pb2
from sidecar.orders import Orders
from sidecar.stores.record import Claim, Record, Scope, ScopeRead, ScopeState, StoredItem
from sidecar.telemetry import Telemetry

_BATCH: Final = 64
"""Items of a batch, at least: what a processor takes a tenth of a second for."""

_SHARE: Final = 4
"""Batches that are with the embedder at once, where they are large."""

_SHORT_S: Final = 0.25
"""A batch that took less tells that more could be with the embedder: a store's round trips are a tenth of it."""

_LONG_S: Final = 1.0
"""A batch that took longer tells that less should be: its vectors are late, and its lease runs."""

_PAGE: Final = 256
"""Items that are read at once, and texts of one call of the embedder."""

_PROBE: Final = "ready"
"""A text that every model can embed: if it fails, the embedder is broken, and not the texts before it."""


class EmbeddingProjection(Orders):
    """One worker on one model's vectors. A process runs one for each model; several processes may."""

    def __init__(
        self, record: Record, embedding: Embedding, *, telemetry: Telemetry, lease_s: float = limits.work_lease_s
    ) -> None:
        figures = telemetry.projection(embedding.id)
        super().__init__(record, model_id=embedding.id, telemetry=telemetry, figures=figures, lease_s=lease_s)
        self._embedding = embedding
        self._pace = _Pace()

    async def _advance(self, claim: Claim) -> bool:
        scope, lapse_at = claim.scope, time.monotonic() + self._lease_s
        count = min(self._pace.batch, scope.position - scope.vector_position)
        async with self._pace.room_for(count):
            vectors = await self._embedded(scope, count, until=lapse_at) if time.monotonic() < lapse_at else []
        if vectors and await self._record.put_vectors(scope, model=self.model_id, vectors=vectors):
            self.done += len(vectors)
            self._telemetry.projected_items.inc(len(vectors))
            return True
        await self._record.release(claim)  # our lease had passed, and another worker was quicker
        return False

    async def _embedded(self, scope: Scope, count: int, *, until: float) -> list[bytes]:
        """Return the vectors of the next items of a scope; none if they are not the next any more."""
        pages: list[asyncio.Task[list[bytes]]] = []
        position = scope.vector_position
        try:
            while (left := scope.vector_position + count - position) > 0:
                items = await self._page(scope, position, min(left, _PAGE))
                if not items:
                    break
                pages.append(asyncio.create_task(self._vectors(items, until=until)))
                position = items[-1].position
            return [vector for page in pages for vector in await page]
        finally:
            for page in pages:
                page.cancel()
            await asyncio.gather(*pages, return_exceptions=True)

    async def _page(self, scope: Scope, position: int, count_max: int) -> Sequence[StoredItem]:
        """Read items behind a position; none if the scope's vectors are not where they were."""
        read = ScopeRead(
            tenant=scope.tenant,
            subject=scope.subject,
            model=self.model_id,
            after_position=position,
            after_vector_position=position,
            count_max=count_max,
        )
        (answer,) = await self._record.fetch([read])
        state = cast(ScopeState, answer)
        return state.items if state.vector_position == scope.vector_position else ()

    async def _vectors(self, items: Sequence[StoredItem], *, until: float) -> list[bytes]:
        """Return the packed vector of each item."""
        texts = [_text(item) for item in items]
        given = [text for text in texts if text]
        self._telemetry.trivial_items.inc(len(items) - len(given) - sum(item.gone for item in items))
        embedded = np.zeros((1 + len(given), self._embedding.dimensions), np.float32)
        if given:
            embedded[1:] = await self._embed(given, until=until)
        lost = ~np.isfinite(embedded).all(axis=1)  # the model ran but gave no number: overflow of half precision
        embedded[lost] = 0
        self._telemetry.unembeddable_items.inc(int(lost.sum()))
        none, *packed = recall.pack_vectors(embedded)
        rest = iter(packed)
        return [next(rest) if text else none for text in texts]

    async def _embed(self, texts: Sequence[str], *, until: float) -> Sequence[Vector]:
        """Embed texts, and look for the one that fails if they do: it gets no vector, unless all would fail."""
        while True:
            try:
                return await self._embedding.embed_items(texts)
            except Overloaded as error:  # by others, or by us: it tells when there is room
                self._pace.slower()
                pause_s = (error.retry_after_ms or 0) / 1000 * (1 + random.random())  # noqa: S311 - jitter
                if time.monotonic() + pause_s > until:
                    raise
                await asyncio.sleep(pause_s)
            except Internal:
                if len(texts) > 1:
                    half = len(texts) // 2
                    first = await self._embed(texts[:half], until=until)
                    return [*first, *await self._embed(texts[half:], until=until)]
                await self._embedding.embed_items([_PROBE])
                return [np.full(self._embedding.dimensions, np.nan, np.float32)]


class _Pace:
    """How many items may be with the embedder at once: more while they come back soon, fewer when they do not."""

    def __init__(self) -> None:
        self.room = _BATCH
        self._at_work = 0
        self._changed = asyncio.Condition()
        self._chosen_at = 0.0

    @property
    def batch(self) -> int:
        """The most items of one order."""
        return min(limits.embed_batch_max, max(_BATCH, self.room // _SHARE))

    @contextlib.asynccontextmanager
    async def room_for(self, count: int) -> AsyncIterator[None]:
        """Wait until there is room for some items, and hold it; a batch that is larger goes alone."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._at_work or self._at_work + count <= self.room)
            self._at_work += count
        began_at, is_tight = time.monotonic(), 2 * self._at_work > self.room or count == self.batch
        try:
            yield
            self._choose(began_at, time.monotonic(), is_tight=is_tight)
        finally:
            self._at_work -= count
            async with self._changed:
                self._changed.notify_all()

    def slower(self) -> None:
        """Halve what is there at once."""
        self.room = max(_BATCH, self.room // 2)

    def _choose(self, began_at: float, ended_at: float, *, is_tight: bool) -> None:
        if began_at < self._chosen_at:  # it tells of what was chosen before
            return
        if ended_at - began_at > _LONG_S:
            self.slower()
        elif ended_at - began_at < _SHORT_S and is_tight:
            self.room = min(limits.embed_batch_max * _SHARE, self.room * 2)
        else:
            return
        self._chosen_at = ended_at


def _text(item: StoredItem) -> str:
    """Return what the vector of an item is made of: its text in masked form, since vectors are read by more than texts
    are; nothing of what is gone or says nothing.
    """
    detail = log_pb2.ItemDetail.FromString(item.detail)
    if item.gone or detail.trivial or not item.text.strip():
        return ""
    return pii.mask(item.text, detail.pii)
