"""kill -9 of the shared embedder under load: every caller gets a vector, its own, or an error, and none hangs (P12)."""

from __future__ import annotations

import asyncio
import os
import random

import grpc
import numpy as np
import pytest

from sidecar.embed import Embedder
from tests.e2e.embedders import PASSAGE, QUERY, Caller, EmbedderProcess, texts_of
from tests.e2e.pods import until
from tests.faults.log_check import rounds

CALLERS = 24
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)


class Asker:
    """One caller that asks on and on, and keeps its books."""

    def __init__(self, caller: Caller, texts: dict[str, np.ndarray], dice: random.Random) -> None:
        self.caller = caller
        self.texts = texts
        self.dice = dice
        self.answered = 0
        self.failed = 0
        self.stopped = False

    async def ask(self) -> None:
        """Ask until stopped: no call may end in another way than with the right vectors, or a status to retry."""
        while not self.stopped:
            bulk = self.dice.random() < 0.3
            texts = self.dice.sample(list(self.texts), self.dice.randrange(1, 12) if bulk else 1)
            try:
                vectors = await self.caller.embed(*texts, kind=PASSAGE if bulk else QUERY, timeout_s=20)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
                self.failed += 1
                await asyncio.sleep(self.dice.uniform(0, 0.1))
                continue
            for text, vector in zip(texts, vectors, strict=True):
                assert np.array_equal(vector, self.texts[text]), text
            self.answered += 1


@pytest.mark.timeout(3600)
async def test_kill_9_of_the_embedder(embedder: Embedder) -> None:
    """Killed and started again round after round, it answers all with their own vectors or UNAVAILABLE (P6, P12)."""
    print(f"TEST_SEED={SEED}")
    dice = random.Random(SEED)
    texts = {text: embedder.embed_one(text) for text in texts_of(dice, 64)}
    process = EmbedderProcess()
    await asyncio.to_thread(process.start)
    targets = (process.target, f"unix:{process.socket}")
    callers = [Caller(targets[number % 2], embedder.id) for number in range(6)]
    askers = [Asker(callers[number % 6], texts, random.Random(dice.random())) for number in range(CALLERS)]
    asking = [asyncio.ensure_future(asker.ask()) for asker in askers]
    try:
        for _ in range(rounds(6)):
            before = [asker.answered for asker in askers]

            async def all_served(before: list[int] = before) -> bool:
                for task in asking:
                    if task.done():
                        task.result()
                return all(asker.answered > count for asker, count in zip(askers, before, strict=True))

            await until(all_served, seconds=60)
            await asyncio.sleep(dice.uniform(0, 0.05))
            await asyncio.to_thread(process.kill9)
            await asyncio.to_thread(process.start)
        for asker in askers:
            asker.stopped = True
        done, hanging = await asyncio.wait(asking, timeout=60)
        assert not hanging
        for task in done:
            task.result()
        assert all(asker.failed for asker in askers), "the kills were felt"
    finally:
        for task in asking:
            task.cancel()
        for caller in callers:
            await caller.close()
        await asyncio.to_thread(process.close)
