"""Servers, in this process and in others."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from sidecar import tokens
from sidecar.embed import Embedder
from sidecar.model import Model
from tests.e2e.pods import MODEL, MODELS, Fleet, Local, serving


@pytest.fixture(scope="session", autouse=True)
def _ranks_once() -> Iterator[None]:
    """Read the tokenizers' ranks once for all servers of this process: 0.3 s each time."""
    patch = pytest.MonkeyPatch()
    patch.setattr(tokens, "_load", functools.cache(tokens._load))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """Load the real int8 model, once."""
    directory = MODELS / MODEL
    if not directory.is_dir():
        pytest.skip(f"no model in {directory}: make setup")
    return Embedder(Model.open(directory))


@pytest_asyncio.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Local]:
    """One server in this process, without an embedder."""
    async with serving(tmp_path / "record.db") as found:
        yield found


@pytest_asyncio.fixture
async def two_pods(tmp_path: Path) -> AsyncIterator[tuple[Local, Local]]:
    """Two servers in this process on one record store: each with caches of its own."""
    async with serving(tmp_path / "record.db") as one, serving(tmp_path / "record.db") as other:
        yield one, other


@pytest_asyncio.fixture
async def vector_pods(tmp_path: Path, embedder: Embedder) -> AsyncIterator[tuple[Local, Local]]:
    """Two servers that recall by vector too."""
    record = tmp_path / "record.db"
    async with serving(record, embedder=embedder) as one, serving(record, embedder=embedder) as other:
        yield one, other


@pytest_asyncio.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Server processes, which can die."""
    found = Fleet(tmp_path)
    try:
        yield found
    finally:
        await found.close()
