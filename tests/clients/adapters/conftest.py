"""A real server in this process, clients of it of both kinds, and a stand-in for a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import standpipe
from tests.e2e import pods
from tests.endpoint import ChatModel


@pytest_asyncio.fixture
async def pod(tmp_path: Path) -> AsyncIterator[pods.Local]:
    """Serve an empty store in this process."""
    async with pods.serving(tmp_path / "s.db") as served:
        yield served


@pytest_asyncio.fixture
async def client(pod: pods.Local) -> AsyncIterator[standpipe.Client]:
    """Return an asynchronous client of the server."""
    async with standpipe.connect(pod.target) as connected:
        yield connected


@pytest.fixture
def sync_client(pod: pods.Local) -> Iterator[standpipe.sync.Client]:
    """Return a blocking client of the server; it must be used in another thread than the server's."""
    with standpipe.sync.connect(pod.target) as connected:
        yield connected


@pytest.fixture
def model() -> Iterator[ChatModel]:
    """Serve a stand-in for a model."""
    with ChatModel() as served:
        yield served


async def off_loop(work: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Run what blocks in a thread, since the server is on this thread's loop."""
    return await asyncio.to_thread(work, *args, **options)


async def steps(client: standpipe.Client, session_id: str) -> list[list[str]]:
    """Return each turn of a session's log, as one line per entry."""
    try:
        return [[_line(entry) for entry in event.turn.entries] async for event in client.session(session_id).events()]
    except standpipe.errors.NotFound:
        return []


async def raised(work: Awaitable[Any], kind: type[BaseException]) -> Any:
    """Return the error that something ends in."""
    with pytest.raises(kind) as caught:
        await work
    return caught.value


def _line(entry: Any) -> str:
    kind = entry.WhichOneof("entry")
    if kind == "message":
        said = entry.message
        who = said.speaker or {2: "user", 3: "assistant"}[said.role]
        if not said.parts:
            return f"{who}: {said.text}"
        shown = [
            part.text or f"[{part.media.media_type} {part.media.uri} {part.media.description}]" for part in said.parts
        ]
        return f"{who}: {' '.join(shown)}"
    if kind == "tool_call":
        return f"call {entry.tool_call.name} {entry.tool_call.arguments_json}"
    if kind == "tool_result":
        return f"result {entry.tool_result.content}"
    return f"app {entry.app_json}"
