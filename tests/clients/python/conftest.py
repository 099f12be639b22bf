"""The double served on both transports, and both clients behind one async face."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import standpipe
from tests.clients.double import Double, Threaded, served


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
    async with served(double, f"unix:{directory}/s.sock" if request.param == "unix" else "127.0.0.1:0") as address:
        yield address


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
