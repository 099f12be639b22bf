"""Run one worker in a process of its own: `python -m tests.faults.work RECORD LEASE_S`.

It says "ready", and works until it is killed, or until its parent is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import time
from pathlib import Path

import numpy as np

from sidecar.batching import EmbedQueue
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.embedding import Vector
from sidecar.engines import open_record
from sidecar.model import Model
from sidecar.projection import EmbeddingProjection
from sidecar.telemetry import Log, Telemetry
from tests import keys

MODEL = "stand-in@1/fp32"
DIMENSIONS = 8
RUN_S = 0.008


class StandIn(Embedder):
    """Gives each text a vector of its own, in the time that a model takes for a short one."""

    def __init__(self) -> None:  # loads no model
        self.model = Model(directory=Path(), id="stand-in@1", query_prefix="", passage_prefix="")
        self.id, self.dimensions = MODEL, DIMENSIONS
        self.precision, self.provider = "fp32", "none"

    def embed_one(self, text: str) -> Vector:
        """Answer with the bytes of the text's hash."""
        time.sleep(RUN_S)
        return vector_of(text)


def vector_of(text: str) -> Vector:
    """Return the vector that a text must have."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:DIMENSIONS], np.uint8).astype(np.float32)


async def _work(record: str, lease_s: float) -> None:
    store = await open_record(Config(record=record, encryption_keys_file=keys.key_file()))
    telemetry = Telemetry(Log(io.StringIO()))
    queue = EmbedQueue(StandIn())
    projection = EmbeddingProjection(store, queue, telemetry=telemetry, lease_s=lease_s)
    print("ready", flush=True)
    work, parent = asyncio.create_task(projection.run()), os.getppid()
    while not work.done() and os.getppid() == parent:
        projection.wake.set()  # what others append is announced to nobody here
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], float(sys.argv[2])))
