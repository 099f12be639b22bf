"""Run one worker in a process of its own: `python -m tests.faults.work RECORD LEASE_S`.

It says "ready", and works until it is killed, or until its parent is gone.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidecar.batching import EmbedQueue
from sidecar.config import Config
from sidecar.embed import Shape, Tokens
from sidecar.embedding import Vector
from sidecar.engines import open_record
from sidecar.projection import EmbeddingProjection
from sidecar.telemetry import Log, Telemetry
from tests import keys
from tests.embedders import DIMENSIONS, StandIn

MODEL = "stand-in@1/fp32"
RUN_S = 0.008


class Slow(StandIn):
    """Gives each text a vector of its own, in the time that a model takes for a short one."""

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Take a while."""
        time.sleep(RUN_S)
        return super().run(texts, shape)


def vector_of(text: str) -> Vector:
    """Return the vector that a text must have."""
    return StandIn().vector(text)


async def _work(record: str, lease_s: float) -> None:
    store = await open_record(Config(record=record, encryption_keys_file=keys.key_file()))
    telemetry = Telemetry(Log(io.StringIO()))
    queue = EmbedQueue(Slow())
    projection = EmbeddingProjection(
        store, queue, model_id=MODEL, dimensions=DIMENSIONS, telemetry=telemetry, lease_s=lease_s
    )
    print("ready", flush=True)
    work, parent = asyncio.create_task(projection.run()), os.getppid()
    while not work.done() and os.getppid() == parent:
        projection.wake.set()  # what others append is announced to nobody here
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], float(sys.argv[2])))
