"""The embedding projection: gives every item its vector, behind the log.

A subject whose items are ahead of its vectors is a work order (`sidecar.orders`). A worker embeds a batch in order of
position, and puts the vectors right behind the last one (R13). Should two embed the same items after all, one writes
and the other's work is dropped. A text that the model cannot embed gets the zero vector and is found by words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from sidecar import limits, pii, recall
from sidecar.batching import EmbedQueue
from sidecar.embedding import Vector
from sidecar.errors import Internal
from sidecar.log.v1 import log_pb2
from sidecar.orders import Orders
from sidecar.stores.record import Claim, Record, ScopeRead, ScopeState, StoredItem
from sidecar.telemetry import Telemetry

_PROBE = "ready"
"""A text that every model can embed: if it fails, the embedder is broken, and not the texts before it."""


class EmbeddingProjection(Orders):
    """One worker. A process runs one; several processes may."""

    def __init__(
        self,
        record: Record,
        embedder: EmbedQueue,
        *,
        model_id: str,
        dimensions: int,
        telemetry: Telemetry,
        lease_s: float = limits.work_lease_s,
    ) -> None:
        super().__init__(record, model_id=model_id, telemetry=telemetry, figures=telemetry.projection, lease_s=lease_s)
        self._embedder = embedder
        self._dimensions = dimensions

    async def _advance(self, claim: Claim) -> None:
        scope = claim.scope
        read = ScopeRead(
            tenant=scope.tenant,
            subject=scope.subject,
            model=self._model_id,
            after_position=scope.vector_position,
            after_vector_position=scope.vector_position,
            count_max=limits.embed_batch_max,
        )
        (answer,) = await self._record.fetch([read])
        state = cast(ScopeState, answer)
        if state.vector_position == scope.vector_position and state.items:
            texts = [_text(item) for item in state.items]
            embedded = iter(await self._embed([text for text in texts if text]))
            none = recall.pack_vector(*recall.quantise(np.zeros(self._dimensions, np.float32)))
            vectors = [next(embedded) if text else none for text in texts]
            if await self._record.put_vectors(scope, model=self._model_id, vectors=vectors):
                self._telemetry.trivial_items.inc(texts.count("") - sum(item.gone for item in state.items))
                self._telemetry.projected_items.inc(len(vectors))
                return
        await self._record.release(claim)  # our lease had passed, and another worker was quicker

    async def _embed(self, texts: Sequence[str]) -> list[bytes]:
        if not texts:
            return []
        try:
            vectors = await self._embedder.embed_items(texts)
        except Internal:
            vectors = [await self._embed_or_zero(text) for text in texts]
        return [recall.pack_vector(*recall.quantise(self._finite_or_zero(vector))) for vector in vectors]

    async def _embed_or_zero(self, text: str) -> Vector:
        try:
            return (await self._embedder.embed_items([text]))[0]
        except Internal:
            await self._embedder.embed_items([_PROBE])
            return self._zero()

    def _finite_or_zero(self, vector: Vector) -> Vector:
        """Return the vector, or zero where the model ran but gave no number (overflow of half precision)."""
        return vector if np.isfinite(vector).all() else self._zero()

    def _zero(self) -> Vector:
        self._telemetry.unembeddable_items.inc()
        return np.zeros(self._dimensions, np.float32)


def _text(item: StoredItem) -> str:
    """Return what the vector of an item is made of: its text in masked form, since vectors are read by more than texts
    are; nothing of what is gone or says nothing.
    """
    detail = log_pb2.ItemDetail.FromString(item.detail)
    if item.gone or detail.trivial or not item.text.strip():
        return ""
    return pii.mask(item.text, detail.pii)
