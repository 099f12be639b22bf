"""What a process needs to know of an embedding model to use it, wherever it runs.

`sidecar.batching` has it in this process, `sidecar.remote` behind an address; `sidecar.embedders` says which there are.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidecar import limits
from sidecar.errors import DeadlineExceeded, Draining

Vector = NDArray[np.float32]


class Embedding(ABC):
    """One model's way from texts to vectors, for one event loop.

    Vectors are float32 [dimensions] and read-only, since callers share them. Both calls raise DeadlineExceeded after
    `deadline_s` seconds whatever the embedder does, Overloaded where too much waits, Internal if a run fails,
    EmbedderUnavailable if there is no embedder to ask, and Draining once closed.
    """

    id: str
    """Of the model and its precision: what vectors must have in common to be compared."""
    dimensions: int
    precision: str
    provider: str
    """What really computes, as ONNX Runtime calls it."""
    tokens_max: int
    remote: bool = False
    """Whether another process computes."""

    @property
    def broken(self) -> bool:
        """Whether its device has failed for good, so that only a restart of this process helps."""
        return False

    @abstractmethod
    async def embed_query(self, text: str, *, deadline_s: float) -> Vector:
        """Embed a query, with the model's prefix, before all passages; it may come from a cache."""

    @abstractmethod
    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Embed passages, with the model's prefix, in order: all or none."""

    @abstractmethod
    async def close(self) -> None:
        """Refuse new calls, and end those that wait. Safe to call twice."""


@dataclass(eq=False, slots=True)
class _Flight:
    """A query that is being embedded, and how many wait for it."""

    vector: asyncio.Future[Vector]
    waiting: int = 0


class QueryCache:
    """What one model made of queries, for one event loop: the least recently used are forgotten.

    Equal queries in flight share one: who joins waits at most to its own deadline, and when the last of them has left
    the flight is cancelled. Texts are known by their hash alone. Failures are not kept.
    """

    def __init__(self, entries_max: int = limits.query_cache_max) -> None:
        self._entries_max = entries_max
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}

    async def get(self, text: str, begin: Callable[[float], asyncio.Future[Vector]], *, deadline_s: float) -> Vector:
        """Return the vector of a query, and `begin` its embedding if nobody has.

        `begin` is told how many seconds there are, and answers with what is cancelled when nobody waits any more: a
        task, or a future. Raises DeadlineExceeded after `deadline_s` seconds, and what `begin` and the flight raise.
        """
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        cached = self._vectors.get(key)
        if cached is not None:
            self._vectors.move_to_end(key)
            return cached
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while True:
            flight = self._flights.get(key)
            began = flight is None or _failed(flight.vector)  # its end has not been told yet
            if flight is None or began:
                flight = self._flights[key] = self._begin(key, begin(deadline - loop.time()))
            try:
                return await self._land(key, flight, deadline - loop.time())
            except DeadlineExceeded:
                # Who began the flight had less time than we have: it is begun again for those who are left.
                if began or loop.time() >= deadline:
                    raise

    def _begin(self, key: bytes, vector: asyncio.Future[Vector]) -> _Flight:
        flight = _Flight(vector)

        def landed(done: asyncio.Future[Vector]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if _failed(done):
                return
            self._vectors[key] = done.result()
            while len(self._vectors) > self._entries_max:
                self._vectors.popitem(last=False)

        vector.add_done_callback(landed)
        return flight

    async def _land(self, key: bytes, flight: _Flight, left_s: float) -> Vector:
        """Wait for a flight; the last who leaves it cancels it."""
        flight.waiting += 1
        try:
            # Unlike a timeout around the future it leaves it be, for the others' sake.
            landed, _ = await asyncio.wait([flight.vector], timeout=None if left_s == math.inf else left_s)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.vector.done():
                # Nobody may join from here on, and a task takes a while to end.
                del self._flights[key]
                flight.vector.cancel()
        if not landed:
            raise DeadlineExceeded("the text was not embedded before the deadline", phase="embed")
        if flight.vector.cancelled():
            raise Draining("the embedder is closed")
        return flight.vector.result()


def _failed(vector: asyncio.Future[Vector]) -> bool:
    return vector.done() and (vector.cancelled() or vector.exception() is not None)
