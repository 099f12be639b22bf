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
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sidecar import limits
from sidecar.errors import DeadlineExceeded, Draining
from standpipe.v1 import context_pb2

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
    cosine_floor_thousandths: int = 0
    """Cosine from which an item has something to say to a query, in thousandths; 0: as `sidecar.recall` has it."""

    def info(self) -> context_pb2.EmbeddingInfo:
        """Describe it: all but what a deployment does with it."""
        return context_pb2.EmbeddingInfo(
            model_id=self.id,
            dimensions=self.dimensions,
            precision=self.precision,
            provider=self.provider,
            tokens_max=self.tokens_max,
            remote=self.remote,
            cosine_floor_thousandths=self.cosine_floor_thousandths,
        )

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


class Flight:
    """A query that is being embedded, for all who wait for it. It is of one event loop."""

    __slots__ = ("_done", "_error", "_waiters", "abandon", "left_s", "vector")

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s
        """Seconds that who began it has; who joined it may have more."""
        self.abandon: Callable[[], object] | None = None
        """Called when nobody waits any more."""
        self.vector: Vector | None = None
        self._error: BaseException | None = None
        self._done = False
        self._waiters: set[asyncio.Future[Vector]] = set()

    def done(self) -> bool:
        """Tell whether it has been answered, or nobody waits for that."""
        return self._done

    def follow(self, task: asyncio.Task[Vector]) -> None:
        """Let a task answer; it is cancelled when nobody waits any more."""

        def ended(task: asyncio.Task[Vector]) -> None:
            error = Draining("the embedder is closed") if task.cancelled() else task.exception()
            self.land(None if error else task.result(), error)

        self.abandon = task.cancel
        task.add_done_callback(ended)

    def land(self, vector: Vector | None, error: BaseException | None = None) -> None:
        """Answer all who wait, unless they have been answered."""
        if self._done:
            return
        self._done, self.vector, self._error = True, vector, error
        for waiter in self._waiters:
            settle(waiter, vector, error)

    async def wait(self, left_s: float) -> Vector:
        """Wait for the answer, or for so many seconds; the last who leaves gives it up."""
        waiter: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        if self._done:
            settle(waiter, self.vector, self._error)
        self._waiters.add(waiter)
        try:
            return await answered(waiter, left_s)
        finally:
            self._waiters.discard(waiter)
            if not self._waiters and not self._done:
                self._done = True
                if self.abandon is not None:
                    self.abandon()


class QueryCache:
    """What one model made of queries, for one event loop: the least recently used are forgotten.

    Equal queries in flight share one: who joins waits at most to its own deadline, and when the last of them has left
    the flight is abandoned. Texts are known by their hash alone. Failures are not kept.
    """

    def __init__(self, entries_max: int = limits.query_cache_max) -> None:
        self._entries_max = entries_max
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()
        self._flights: dict[bytes, Flight] = {}

    async def get(self, text: str, begin: Callable[[Flight], None], *, deadline_s: float) -> Vector:
        """Return the vector of a query, and `begin` its flight if nobody has.

        Raises DeadlineExceeded after `deadline_s` seconds, and what `begin` raises and the flight comes to.
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
            began = flight is None or (flight.done() and flight.vector is None)
            if flight is None or began:
                flight = Flight(deadline - loop.time())
                begin(flight)
                self._flights[key] = flight
            try:
                vector = await flight.wait(deadline - loop.time())
            except DeadlineExceeded:
                # Who began the flight had less time than we have: it is begun again for those who are left.
                if began or loop.time() >= deadline:
                    raise
            else:
                self._vectors[key] = vector
                while len(self._vectors) > self._entries_max:
                    self._vectors.popitem(last=False)
                return vector
            finally:
                if flight.done() and self._flights.get(key) is flight:
                    del self._flights[key]
