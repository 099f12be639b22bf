"""A proxy that does to connections what networks do: cut, refuse, delay, slow down, swallow; switched while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from tests.servers import LOOPBACK, free_port

T = TypeVar("T")
Direction = Literal["up", "down", "both"]
"""up: from the client to the server."""

CHUNK_BYTES = 64 << 10
SLICE_S = 0.01
"""A slow link passes what it may in so much time at once."""


@dataclass
class Link:
    """One direction."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: int = 0
    """0: as fast as it goes."""
    cut_after_bytes: int | None = None
    """The connection that passes so many more is cut there."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set: what comes is swallowed until it is; nobody is told."""


class Proxy:
    """Passes bytes between clients and one server, in a thread of its own. Every order holds when it returns."""

    def __init__(self, target: tuple[str, int] | Path, *, seed: int = 0) -> None:
        self._target = target
        self._dice = random.Random(seed)
        self.port = free_port()
        self.up, self.down = Link(), Link()
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return (LOOPBACK, self.port)

    def __enter__(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- what a test switches

    def heal(self) -> None:
        """Take connections and pass everything as it comes; connections that are there stay."""
        self._run(self._heal())

    def redirect(self, target: tuple[str, int] | Path) -> None:
        """Pass what comes from now on to another server; connections to the old one end."""
        if target != self._target:
            self._target = target
            self.cut()

    def cut(self) -> None:
        """End all connections at once; new ones are taken."""
        self._run(self._cut())

    def refuse(self) -> None:
        """End all connections, and refuse new ones until `heal`."""
        self._run(self._refuse())

    def delay(self, seconds: float, *, jitter_s: float = 0.0, direction: Direction = "both") -> None:
        """Hold back what passes for a time, and a random one on top."""
        self._run(self._set(direction, delay_s=seconds, jitter_s=jitter_s))

    def trickle(self, bytes_per_s: int, *, direction: Direction = "both") -> None:
        """Pass only so much a second."""
        self._run(self._set(direction, bytes_per_s=bytes_per_s))

    def black_hole(self, direction: Direction = "both") -> None:
        """Pass nothing and say nothing, until `heal`; then what was held back is passed, as TCP would repeat it."""
        self._run(self._swallow(direction))

    def cut_after(self, count: int, *, direction: Direction = "down") -> None:
        """Cut the connection that passes so many more bytes, right there: an answer that was sent and never came."""
        self._run(self._set(direction, cut_after_bytes=count))

    # --- the thread's side

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _links(self, direction: Direction) -> list[Link]:
        return [link for name, link in (("up", self.up), ("down", self.down)) if direction in {name, "both"}]

    async def _set(self, direction: Direction, **values: Any) -> None:
        for link in self._links(direction):
            for name, value in values.items():
                setattr(link, name, value)

    async def _swallow(self, direction: Direction) -> None:
        for link in self._links(direction):
            link.open.clear()

    async def _heal(self) -> None:
        for link in (self.up, self.down):
            link.delay_s = link.jitter_s = 0.0
            link.bytes_per_s, link.cut_after_bytes = 0, None
            link.open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _close(self) -> None:
        await self._refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self._writers.add(writer)
        ends = [writer]
        try:
            if isinstance(self._target, Path):
                there_reader, there_writer = await asyncio.open_unix_connection(str(self._target))
            else:
                there_reader, there_writer = await asyncio.open_connection(*self._target)
            self._writers.add(there_writer)
            ends.append(there_writer)
            pumps = [
                asyncio.ensure_future(self._pump(reader, there_writer, self.up)),
                asyncio.ensure_future(self._pump(there_reader, writer, self.down)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the server is not there: the client sees its connection end
        finally:
            for end in ends:
                self._writers.discard(end)
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if link.delay_s or link.jitter_s:
                    await asyncio.sleep(link.delay_s + self._dice.random() * link.jitter_s)
                while chunk:
                    await link.open.wait()
                    size = max(1, int(link.bytes_per_s * SLICE_S)) if link.bytes_per_s else len(chunk)
                    left = link.cut_after_bytes
                    if left is not None:
                        size = min(size, left)
                    part, chunk = chunk[:size], chunk[size:]
                    writer.write(part)
                    await writer.drain()
                    if left is not None:
                        if left == size:
                            link.cut_after_bytes = None
                            return
                        link.cut_after_bytes = left - size
                    if link.bytes_per_s:
                        await asyncio.sleep(size / link.bytes_per_s)
