"""The embedding projection: gives every item its vector, behind the log.

A subject whose items are ahead of its vectors is its own durable work order (R14). Vectors are put in order of
position and only right behind the last one (R13), so any number of workers may run: of two that embed the same
items one writes and the other's work is dropped. A text that the model cannot embed gets the zero vector and is
found by words alone; it never blocks those behind it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import cast

import numpy as np

from sidecar import limits, recall
from sidecar.embed import EmbedQueue, Vector
from sidecar.errors import Internal, Overloaded, StandpipeError
from sidecar.stores.record import LagRead, Record, Scope, ScopeRead, ScopeState
from sidecar.telemetry import Telemetry

_IDLE_S = 5.0
"""Between two looks for work that nobody announced: another process's commits."""

_PAUSE_S_MAX = 30.0


class EmbeddingProjection:
    """One worker. A process runs one; several processes may."""

    def __init__(
        self, record: Record, embedder: EmbedQueue, *, model_id: str, dimensions: int, telemetry: Telemetry
    ) -> None:
        self._record = record
        self._embedder = embedder
        self._model_id = model_id
        self._dimensions = dimensions
        self._telemetry = telemetry
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. A step that fails is tried again, after a pause that grows."""
        pause_s = 0.1
        while True:
            self.wake.clear()
            try:
                busy = await self.step()
                pause_s = 0.1
            except StandpipeError as error:
                self._telemetry.projection_failures.inc()
                self._telemetry.log.warning("projection step failed", reason=error.reason)
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - jitter, not a secret
                pause_s = min(_PAUSE_S_MAX, 2 * pause_s)
                continue
            if not busy:
                await self._wait()

    async def step(self) -> bool:
        """Do one round over the subjects that lag; return whether there were any."""
        lagging = await self._record.lagging(model=self._model_id, count_max=16)
        failed: StandpipeError | None = None
        for scope in lagging:
            try:
                await self._advance(scope)
            except StandpipeError as error:  # one subject's trouble must not hold up those behind it
                failed = failed or error
        self._telemetry.projection_lag_items.set(await self.lag())
        if failed is not None:
            raise failed
        return bool(lagging)

    async def lag(self) -> int:
        """Return how many items wait for their vector, over all tenants."""
        (lag,) = await self._record.fetch([LagRead(model=self._model_id)])
        return cast(int, lag)

    async def _advance(self, scope: Scope) -> None:
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
        if state.vector_position != scope.vector_position or not state.items:
            return  # another worker was quicker
        vectors = await self._embed([item.text for item in state.items])
        if await self._record.put_vectors(scope, model=self._model_id, vectors=vectors):
            self._telemetry.projected_items.inc(len(vectors))

    async def _embed(self, texts: Sequence[str]) -> list[bytes]:
        try:
            vectors = await self._embedder.embed_items(texts)
        except Overloaded:
            raise
        except Internal:
            vectors = [await self._embed_or_zero(text) for text in texts]
        return [recall.pack_vector(*recall.quantise(self._finite_or_zero(vector))) for vector in vectors]

    async def _embed_or_zero(self, text: str) -> Vector:
        try:
            return (await self._embedder.embed_items([text]))[0]
        except Internal:
            return self._zero()

    def _finite_or_zero(self, vector: Vector) -> Vector:
        """Return the vector, or zero where the model ran but gave no number (overflow of half precision)."""
        return vector if np.isfinite(vector).all() else self._zero()

    def _zero(self) -> Vector:
        self._telemetry.projection_failures.inc()
        return np.zeros(self._dimensions, np.float32)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_IDLE_S):
                await self.wake.wait()
        except TimeoutError:
            pass
