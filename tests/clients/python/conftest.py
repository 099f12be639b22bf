"""The double served on both transports, and both clients behind one async face."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from client_double import Double, Threaded

import standpipe
from standpipe.v1.context_pb2_grpc import add_ContextServiceServicer_to_server
from standpipe.v1.policy_pb2_grpc import add_PolicyServiceServicer_to_server
from standpipe.v1.session_pb2_grpc import add_SessionServiceServicer_to_server


@pytest_asyncio.fixture
async def double() -> Double:
    """Return the scripted server's state."""
    return Double()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="sp-"))
    yield path
    shutil.rmtree(path)


@pytest_asyncio.fixture(params=["unix", "tcp"])
async def target(request: Any, double: Double, directory: Path) -> AsyncIterator[str]:
    """Serve the double on a Unix socket, or on a loopback port; return its address."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
    add_ContextServiceServicer_to_server(double, server)
    add_SessionServiceServicer_to_server(double, server)
    add_PolicyServiceServicer_to_server(double, server)
    if request.param == "unix":
        address = f"unix:{directory}/s.sock"
        server.add_insecure_port(address)
    else:
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield address
    await server.stop(None)


@pytest_asyncio.fixture(params=["async", "sync"])
async def connect(request: Any) -> AsyncIterator[Callable[..., Any]]:
    """Return what connects, with either client; all its clients are closed at the end."""
    opened: list[Any] = []

    def dial(address: str = "", **options: Any) -> Any:
        if request.param == "async":
            opened.append(standpipe.connect(address, **options))
        else:
            opened.append(Threaded(standpipe.sync.connect(address, **options)))
        return opened[-1]

    dial.kind = request.param  # type: ignore[attr-defined]
    yield dial
    for client in opened:
        await client.close()


@pytest_asyncio.fixture
async def client(connect: Callable[..., Any], target: str) -> Any:
    """Return a client of the double."""
    return connect(target, tenant="acme")
