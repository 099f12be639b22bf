"""The embedding projection: gives every item its vector, behind the log.

A subject whose items are ahead of its vectors is a work order (`sidecar.orders`). A worker embeds a batch in order of
position, and puts the vectors right behind the last one (R13). Should two embed the same items after all, one writes
and the other's work is dropped. A text that the model cannot embed gets the zero vector and is found by words alone.

A batch is as large as the embedder is fast: at first `_BATCH` items, which a processor takes a tenth of a second for,
and up to `limits.embed_batch_max`, without which a GPU would wait for a store's round trips. Its items are read in
pages, and each page is embedded while the next is read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
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
"""Items of a batch at first, and at least."""

_BATCH_S: Final = 0.25
"""What a batch is to take: long against a store's round trips, and short against a lease."""

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
        self._batch = _BATCH

    async def _advance(self, claim: Claim) -> None:
        scope, batch = claim.scope, self._batch
        started = time.monotonic()
        pages: list[asyncio.Task[list[bytes]]] = []
        position = scope.vector_position
        try:
            while (room := batch - (position - scope.vector_position)) > 0:
                items = await self._page(scope, position, min(room, _PAGE))
                if not items:
                    break
                pages.append(asyncio.create_task(self._vectors(items, until=started + self._lease_s)))
                position = items[-1].position
                if position >= scope.position:
                    break
            vectors = [vector for page in pages for vector in await page]
        finally:
            for page in pages:
                page.cancel()
            await asyncio.gather(*pages, return_exceptions=True)
        if vectors:
            self._tune(len(vectors), batch, time.monotonic() - started)
            if await self._record.put_vectors(scope, model=self.model_id, vectors=vectors):
                self.done += len(vectors)
                self._telemetry.projected_items.inc(len(vectors))
                return
        await self._record.release(claim)  # our lease had passed, and another worker was quicker

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

    def _tune(self, count: int, batch: int, took_s: float) -> None:
        """Choose the size of the next batches, from how long one took, with all that was at work beside it."""
        if count == batch and took_s < _BATCH_S / 2:
            self._batch = min(limits.embed_batch_max, max(self._batch, 2 * batch))
        elif took_s > 2 * _BATCH_S:
            self._batch = max(_BATCH, min(self._batch, batch // 2))

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
                self._batch = max(_BATCH, self._batch // 2)
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


def _text(item: StoredItem) -> str:
    """Return what the vector of an item is made of: its text in masked form, since vectors are read by more than texts
    are; nothing of what is gone or says nothing.
    """
    detail = log_pb2.ItemDetail.FromString(item.detail)
    if item.gone or detail.trivial or not item.text.strip():
        return ""
    return pii.mask(item.text, detail.pii)
