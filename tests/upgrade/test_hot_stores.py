"""Another hot store under a deployment that goes on: from memory to Redis, a pod at a time."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from standpipe.v1 import bundle_pb2
from tests.e2e.pods import serving
from tests.servers import Redis

HISTORY = [bundle_pb2.SOURCE_HISTORY]
"""What Redis alone can answer for: memory asks the record store."""


@pytest.mark.timeout(240)
async def test_a_pod_without_the_shared_hot_store_commits_past_nobody(database: str, redis_server: Redis) -> None:
    """What a pod on memory commits is read through a pod on Redis, though Redis was trusted before (P4)."""
    async with contextlib.AsyncExitStack() as stack:
        alone, sharing = [
            await stack.enter_async_context(serving(Path(), record=database, hot=hot))
            for hot in ("memory", redis_server.url)
        ]
        version = (await sharing.append("s", "r0", "hello")).result.version
        while alone.metrics()["standpipe_hot_revocations_total"] < 2:
            for _ in range(30):
                await sharing.hydrate("s", include=HISTORY)
                version = (await alone.append("s", f"r{version}", "is it there?")).result.version
                assert (await sharing.hydrate("s", include=HISTORY)).bundle.session_version == version
                await asyncio.sleep(0.02)
