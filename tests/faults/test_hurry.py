"""Callers in a hurry harm nobody but themselves."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from standpipe.v1 import bundle_pb2, context_pb2
from tests.e2e.pods import commit_request, serving, until
from tests.proxy import Proxy
from tests.servers import Redis


async def test_a_commit_that_ran_out_of_time_takes_no_trust_away(tmp_path: Path, redis_server: Redis) -> None:
    """A caller that gives up while the hot store is asked withdraws no grant: other commits go on as they did (P12)."""
    with Proxy(redis_server.address) as proxy:
        url = f"redis://{proxy.address[0]}:{proxy.address[1]}"
        async with serving(tmp_path / "record.db", hot=url) as pod:

            async def adopted() -> bool:
                await pod.hydrate("s", include=[bundle_pb2.SOURCE_HISTORY])
                return pod.metrics()["standpipe_hot_adoptions_total"] > 0

            await pod.commit("s", "first", "hello", expected=0)
            await until(adopted)
            proxy.delay(0.02)
            for number in range(10):
                request = commit_request("s", f"hurry-{number}", "quick", mode=context_pb2.COMMIT_MODE_APPEND)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await pod.send(request, timeout_s=0.01)
                assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await pod.append("s", "last", "goodbye")
            assert pod.metrics()["standpipe_hot_revocations_total"] == 0
