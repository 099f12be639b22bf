"""The embedding projection: gives every item its vector, behind the log.

A subject whose items are ahead of its vectors is its own durable work order (R14). A worker claims orders for a lease,
embeds a batch of each in order of position, and puts the vectors right behind the last one (R13); so any number of
workers may run, in processes that serve and in `standpipe work`, and die. Should two embed the same items after all,
one writes and the other's work is dropped.

What fails is of three kinds. A text that the model cannot embed gets the zero vector and is found by words alone. A
store or an embedder that cannot just now (an error that carries RetryInfo) is no fault of the order: it goes back, and
the worker pauses. Any other error is counted against the order, which comes again after a pause that grows, until it is
parked (R21).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
import time
from collections.abc import Sequence
from typing import cast

import numpy as np

from sidecar import limits, recall
from sidecar.embed import EmbedQueue, Vector
from sidecar.errors import Internal, StandpipeError
from sidecar.stores.record import Claim, Lag, LagRead, Record, ScopeRead, ScopeState
from sidecar.telemetry import Telemetry

_IDLE_S = 5.0
"""Between two looks for work that nobody announced: another process's commits."""

_LET_GO_S = 0.5
"""For orders that go back: a process that ends has little time."""

_PROBE = "ready"
"""A text that every model can embed: if it fails, the embedder is broken, and not the texts before it."""


class EmbeddingProjection:
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
        self._record = record
        self._embedder = embedder
        self._model_id = model_id
        self._dimensions = dimensions
        self._telemetry = telemetry
        self._lease_s = lease_s
        self._name = secrets.token_hex(8)
        self._published_at = -math.inf
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; what is claimed then goes back at once."""
        failures = 0
        while True:
            self.wake.clear()
            try:
                busy = await self.step()
                failures = 0
            except StandpipeError as error:
                self._telemetry.projection_failures.inc()
                self._telemetry.log.warning("projection step failed", reason=error.reason)
                await asyncio.sleep(_pause_s(failures))
                failures += 1
                continue
            if not busy:
                await self._wait()

    async def watch(self) -> None:
        """Publish the lag until cancelled, and leave the work to others."""
        while True:
            with contextlib.suppress(StandpipeError):
                await self.lag()
            await asyncio.sleep(_IDLE_S)

    async def drain(self) -> Lag:
        """Work until nothing is left but what is parked; return the lag then."""
        while True:
            if await self.step():
                continue
            lag = await self.lag()
            if not lag.items:
                return lag
            await asyncio.sleep(_pause_s(0))  # others hold the rest, or it waits for its next try

    async def step(self) -> bool:
        """Do a batch of each order that is due; return whether there were any.

        Raises what a store or an embedder said that cannot just now, if no order came further.
        """
        record, lapse_at = self._record, time.monotonic() + self._lease_s
        claims = list(
            await record.claim(
                model=self._model_id, worker=self._name, lease_s=self._lease_s, count_max=limits.work_claims_max
            )
        )
        busy, came_further = bool(claims), False
        unable: StandpipeError | None = None
        try:
            while claims and time.monotonic() < lapse_at:
                try:
                    await self._advance(claims[0])
                    came_further = True
                except Exception as error:  # one subject's trouble, a defect too, must not hold up those behind it
                    if isinstance(error, StandpipeError) and error.retry_after_ms is not None:
                        unable = error
                    await self._give_back(claims[0], error)
                claims.pop(0)
        finally:  # cancelled, or too slow
            await self._let_go(claims)
        if not busy or time.monotonic() - self._published_at > _IDLE_S:  # a long queue takes long to count
            await self.lag()
        if unable is not None and not came_further:
            raise unable
        return busy

    async def lag(self) -> Lag:
        """Return how far vectors are behind, over all tenants, and publish it."""
        (answer,) = await self._record.fetch([LagRead(model=self._model_id)])
        lag = cast(Lag, answer)
        self._telemetry.projection_lag_items.set(lag.items)
        self._telemetry.projection_lag_seconds.set(lag.age_s)
        self._telemetry.projection_parked.set(lag.parked)
        self._published_at = time.monotonic()
        return lag

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
            embedded = iter(await self._embed([item.text for item in state.items if not item.gone]))
            gone = recall.pack_vector(*recall.quantise(np.zeros(self._dimensions, np.float32)))
            vectors = [gone if item.gone else next(embedded) for item in state.items]
            if await self._record.put_vectors(scope, model=self._model_id, vectors=vectors):
                self._telemetry.projected_items.inc(len(vectors))
                return
        await self._record.release(claim)  # our lease had passed, and another worker was quicker

    async def _give_back(self, claim: Claim, error: Exception) -> None:
        """Release an order that failed, counted unless its failure was none of its own."""
        ours = error if isinstance(error, StandpipeError) else Internal("a defect")
        passing = ours.retry_after_ms is not None
        reason, pause_s = ("", _pause_s(0)) if passing else (ours.reason, _pause_s(claim.attempts))
        try:
            parked = await self._record.release(claim, reason=reason, pause_s=pause_s)
        except StandpipeError:
            return  # the lease passes by itself
        if not passing:
            self._telemetry.projection_failures.inc()
            event = "work order parked" if parked else "work order failed"
            kind = type(error).__name__
            self._telemetry.log.warning(event, reason=ours.reason, type=kind, attempts=claim.attempts)

    async def _let_go(self, claims: Sequence[Claim]) -> None:
        """Release orders that were not begun, unless the store keeps the process waiting: their leases pass."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LET_GO_S):
                await asyncio.gather(*map(self._record.release, claims), return_exceptions=True)

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

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                await self.wake.wait()


def _pause_s(failures: int) -> float:
    """Return a pause that doubles with each failure in a row, with jitter: neighbours must not come back as one."""
    return min(limits.work_pause_s_max, 2.0**failures) * (0.5 + random.random())  # noqa: S311 - jitter, not a secret
