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
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast

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


T = TypeVar("T")


async def answered(answer: asyncio.Future[T], deadline_s: float) -> T:
    """Wait for a future that is the caller's alone: it fails with DeadlineExceeded after `deadline_s` seconds."""
    if deadline_s == math.inf:
        return await answer
    late = DeadlineExceeded("the text was not embedded before the deadline", phase="embed")
    timer = asyncio.get_running_loop().call_later(deadline_s, settle, answer, None, late)
    try:
        return await answer
    finally:
        timer.cancel()


def settle(answer: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    """Answer whoever still waits."""
    if answer.done():
        return
    if error is None:
        answer.set_result(cast(T, value))
    else:
        answer.set_exception(error)
        answer.exception()  # it has been heard of, should the caller be about to leave


@dataclass(eq=False, slots=True)
class _Flight:
    """A query that is being embedded, and who waits for it."""

    vector: asyncio.Future[Vector]
    waiters: set[asyncio.Future[Vector]] = field(default_factory=set)


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
            began = flight is None or _failed(flight.vector)  # and it has not been told yet
            if flight is None or began:
                flight = _Flight(begin(deadline - loop.time()))
                flight.vector.add_done_callback(partial(self._land, key, flight))
                self._flights[key] = flight
            waiter: asyncio.Future[Vector] = loop.create_future()
            flight.waiters.add(waiter)
            try:
                return await answered(waiter, deadline - loop.time())
            except DeadlineExceeded:
                # Who began the flight had less time than we have: it is begun again for those who are left.
                if began or loop.time() >= deadline:
                    raise
            finally:
                flight.waiters.discard(waiter)
                if not flight.waiters and not flight.vector.done():
                    # Nobody may join from here on, though a task takes a while to end.
                    del self._flights[key]
                    flight.vector.cancel()

    def _land(self, key: bytes, flight: _Flight, vector: asyncio.Future[Vector]) -> None:
        """Keep what came of a flight, and tell those who wait for it."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        error = Draining("the embedder is closed") if vector.cancelled() else vector.exception()
        if error is None:
            self._vectors[key] = vector.result()
            while len(self._vectors) > self._entries_max:
                self._vectors.popitem(last=False)
        for waiter in flight.waiters:
            settle(waiter, None if error else vector.result(), error)


def _failed(vector: asyncio.Future[Vector]) -> bool:
    return vector.done() and (vector.cancelled() or vector.exception() is not None)
