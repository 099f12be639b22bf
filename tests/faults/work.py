"""Run one worker in a process of its own: `python -m tests.faults.work RECORD LEASE_S`.

It says "ready", and works until it is killed, or until its parent is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
import os
import sys
from collections.abc import Sequence

import numpy as np

from sidecar.config import Config
from sidecar.embedding import Embedding, Vector
from sidecar.engines import open_record
from sidecar.projection import EmbeddingProjection
from sidecar.telemetry import Log, Telemetry
from tests import keys

MODEL = "stand-in@1/fp32"
DIMENSIONS = 8
RUN_S = 0.008


class StandIn(Embedding):
    """Gives each text a vector of its own, one after another, in the time that a model takes for a short one."""

    id, dimensions, precision, provider, tokens_max = MODEL, DIMENSIONS, "fp32", "none", 256

    def __init__(self) -> None:
        self._device = asyncio.Lock()

    async def embed_query(self, text: str, *, deadline_s: float) -> Vector:
        """Answer as for an item."""
        return (await self.embed_items([text], deadline_s=deadline_s))[0]

    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Answer with the bytes of each text's hash."""
        async with self._device:
            await asyncio.sleep(RUN_S * len(texts))
        return [vector_of(text) for text in texts]

    async def close(self) -> None:
        """Hold nothing."""


def vector_of(text: str) -> Vector:
    """Return the vector that a text must have."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:DIMENSIONS], np.uint8).astype(np.float32)


async def _work(record: str, lease_s: float) -> None:
    store = await open_record(Config(record=record, encryption_keys_file=keys.key_file()))
    telemetry = Telemetry(Log(io.StringIO()))
    projection = EmbeddingProjection(store, StandIn(), telemetry=telemetry, lease_s=lease_s)
    print("ready", flush=True)
    work, parent = asyncio.create_task(projection.run()), os.getppid()
    while not work.done() and os.getppid() == parent:
        projection.wake.set()  # what others append is announced to nobody here
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], float(sys.argv[2])))
