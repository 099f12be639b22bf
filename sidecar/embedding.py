"""What a process needs to know of an embedding model to use it, wherever it runs.

`sidecar.batching` has it in this process, `sidecar.remote` behind an address; `sidecar.embedders` says which there are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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

    @abstractmethod
    async def embed_query(self, text: str, *, deadline_s: float) -> Vector:
        """Embed a query, with the model's prefix, before all passages; it may come from a cache."""

    @abstractmethod
    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Embed passages, with the model's prefix, in order: all or none."""

    @abstractmethod
    async def close(self) -> None:
        """Refuse new calls, and end those that wait. Safe to call twice."""
