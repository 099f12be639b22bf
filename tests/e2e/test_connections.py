"""Connections end in time, and no call with them: that is how clients find the servers that were added since."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import standpipe
from sidecar import limits, sockets
from tests.e2e.pods import serving
from tests.proxy import Proxy
from tests.servers import LOOPBACK, START_S


async def test_a_client_connects_anew_and_no_call_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection lasts for `connection_age_ms`; calls go on, without a retry of anybody's."""
    given = dict(sockets._OPTIONS)
    assert given["grpc.max_connection_age_ms"] == limits.connection_age_ms
    monkeypatch.setattr(sockets, "_OPTIONS", [*(given | {"grpc.max_connection_age_ms": 100}).items()])
    async with serving(tmp_path / "record.db") as server:
        with Proxy((LOOPBACK, server.server.ports[0])) as proxy:
            without_retries = [("grpc.enable_retries", 0), ("grpc.service_config", "{}")]
            async with standpipe.connect(f"{LOOPBACK}:{proxy.port}", options=without_retries) as client:
                async with asyncio.timeout(START_S):
                    while proxy.accepted < 4:
                        await client.server_info()
