"""Values of any size under keys made of parts, in the records of `client.state`; coroutines over either client.

A key is its parts, each ended by "!", which is lower than all else that stands in one: so keys are ordered as the lists
of their parts are, and the keys below a part begin with it. A value that no record holds is cut into pieces, which are
written before the record that names them: who reads finds all of it, or what was there before.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar, cast

from standpipe import errors, sync
from standpipe.client import Client
from standpipe.state import Record, Write

T = TypeVar("T")

PIECE_BYTES: Final = (1 << 20) - 1
"""Of a value in one record: the server's `state_value_bytes`, less the byte that says what the record holds."""

WRITE_BYTES: Final = 4 << 20
"""Of one write: the server's `state_write_bytes`."""

WRITES_MAX: Final = 256
"""Records of one write: the server's `state_writes_max`."""

PART_BYTES: Final = 200
"""Of a part of a key that `short` keeps as it is: four of them and what pieces add are less than `state_key_bytes`."""

READ_ATTEMPTS: Final = 5
"""Reads of a value in pieces that is replaced each time meanwhile."""

_PIECES: Final = '"~'
"""What the keys of pieces begin with: no part does, since two quotation marks or digits follow one in a part."""

_END: Final = object()
_WHOLE, _CUT = b"\x00", b"\x01"
_UNSAFE = re.compile("[\x00-\x22\x7f-\xa0\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile('"([0-9a-f]{4})')


def key(*parts: str) -> str:
    """Return the key of some parts, or the beginning of the keys below them."""
    return "".join(f"{_UNSAFE.sub(_escape, part)}!" for part in parts)


def _escape(found: re.Match[str]) -> str:
    return f'"{ord(found[0]):04x}'


def parts(of: str) -> list[str]:
    """Return the parts of a key."""
    return [_ESCAPED.sub(lambda found: chr(int(found[1], 16)), part) for part in of.split("!")[:-1]]


def short(part: str) -> str:
    """Return a part that no key is too long for: what is longer than usual becomes its beginning and its hash."""
    if len(key(part).encode()) <= PART_BYTES:
        return part
    digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{part[:16]}~{digest}"


def pack(about: Mapping[str, Any], *typed: tuple[str, bytes]) -> bytes:
    """Return one value of a description and of what a serializer made."""
    sizes = [[kind, len(data)] for kind, data in typed]
    head = json.dumps([about, sizes], ensure_ascii=True, separators=(",", ":"))
    return b"\n".join([head.encode(), b"".join(data for _, data in typed)])


def unpack(value: bytes) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Return what `pack` was given."""
    head, _, rest = value.partition(b"\n")
    about, sizes = json.loads(head)
    typed, at = [], 0
    for kind, size in sizes:
        typed.append((kind, rest[at : at + size]))
        at += size
    return about, typed


@dataclass(frozen=True)
class Kept:
    """A value as it stands."""

    key: str
    """Its key."""
    value: bytes
    """All of it."""
    revision: int
    """Of the record under its key."""
    pieces: tuple[str, ...] = ()
    """The keys of the other records that hold it."""


class _State(Protocol):
    """What is asked of `standpipe.State`."""

    async def write(self, *writes: Write) -> int: ...

    async def get_all(self, keys: Iterable[str]) -> dict[str, Record]: ...

    def list(
        self, prefix: str, *, descending: bool = False, keys_only: bool = False, page_size: int = 0
    ) -> AsyncIterator[Record]: ...

    async def delete_all(self, prefix: str) -> int: ...


class _Blocking:
    """`standpipe.sync.State`, behind coroutines that never wait for an event loop."""

    def __init__(self, state: sync.State) -> None:
        self._state = state

    async def write(self, *writes: Write) -> int:
        return self._state.write(*writes)

    async def get_all(self, keys: Iterable[str]) -> dict[str, Record]:
        return self._state.get_all(keys)

    async def list(
        self, prefix: str, *, descending: bool = False, keys_only: bool = False, page_size: int = 0
    ) -> AsyncIterator[Record]:
        for record in self._state.list(prefix, descending=descending, keys_only=keys_only, page_size=page_size):
            yield record

    async def delete_all(self, prefix: str) -> int:
        return self._state.delete_all(prefix)


class Records:
    """The values of one collection of one subject."""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def write(self, *writes: Write, before: Iterable[Kept] = ()) -> None:
        """Write values of any size, all or none while they fit one write; else in order, and what is last comes last.

        `before` are values that these replace: their pieces go with them.
        """
        pieces: list[Write] = []
        ready: list[Write] = []
        for write in writes:
            if write.value is None:
                ready.append(write)
            elif len(write.value) <= PIECE_BYTES:
                ready.append(replace(write, value=_WHOLE + write.value))
            else:
                value, cut = write.value, uuid.uuid4().hex[:16]
                held = [value[at : at + PIECE_BYTES] for at in range(0, len(value), PIECE_BYTES)]
                named = [f"{_PIECES}{write.key}{cut}!{place:04}" for place in range(len(held))]
                pieces += [Write(one, _WHOLE + data, ttl_s=write.ttl_s) for one, data in zip(named, held, strict=True)]
                ready.append(replace(write, value=_CUT + json.dumps(named).encode()))
        ready += [Write(one, None) for kept in before for one in kept.pieces]
        for batch in (*_batches(pieces), *_batches(ready)):
            await self._state.write(*batch)

    async def read(self, keys: Iterable[str]) -> dict[str, Kept]:
        """Return the values that there are, by key."""
        return await self._whole(await self._state.get_all(keys))

    async def list(self, prefix: str = "", *, descending: bool = False, page_size: int = 0) -> AsyncIterator[Kept]:
        """Iterate over the values whose keys begin with a prefix, by key."""
        async for record in self._state.list(prefix, descending=descending, page_size=page_size):
            if not record.key.startswith(_PIECES):
                for kept in (await self._whole({record.key: record})).values():
                    yield kept

    async def keys(self, prefix: str = "", *, descending: bool = False, page_size: int = 1000) -> AsyncIterator[str]:
        """Iterate over the keys that begin with a prefix."""
        async for record in self._state.list(prefix, descending=descending, keys_only=True, page_size=page_size):
            if not record.key.startswith(_PIECES):
                yield record.key

    async def remove(self, keys: Iterable[str], below: str) -> None:
        """Delete the values of some keys, all of which begin with `below`."""
        gone = set(keys)
        if not gone:
            return
        pieces = [
            record.key
            async for record in self._state.list(_PIECES + below, keys_only=True, page_size=1000)
            if _owner(record.key) in gone
        ]
        for batch in _batches([Write(one, None) for one in (*sorted(gone), *pieces)]):
            await self._state.write(*batch)

    async def remove_all(self, below: str) -> None:
        """Delete all values whose keys begin with a prefix."""
        await self._state.delete_all(below)
        await self._state.delete_all(_PIECES + below)

    async def _whole(self, records: dict[str, Record]) -> dict[str, Kept]:
        """Put values in pieces together; one that was replaced meanwhile is read again."""
        found: dict[str, Kept] = {}
        for attempt in range(READ_ATTEMPTS):
            cut = {name: json.loads(one.value[1:]) for name, one in records.items() if one.value.startswith(_CUT)}
            pieces = await self._state.get_all([piece for named in cut.values() for piece in named]) if cut else {}
            torn = []
            for name, one in records.items():
                named = cut.get(name, [])
                if any(piece not in pieces for piece in named):
                    torn.append(name)
                    continue
                value = b"".join(pieces[piece].value[1:] for piece in named) if named else one.value[1:]
                found[name] = Kept(name, value, one.revision, tuple(named))
            if not torn:
                return {name: found[name] for name in (records if not attempt else found)}
            records = await self._state.get_all(torn)
        raise errors.Unavailable("a value in pieces was replaced each time that it was read; try again")


class Bridge:
    """Runs coroutines over either client, for callers that block and for callers on an event loop.

    Over a blocking client they run to their end in one step, in the caller's thread, or in another one for a caller on
    an event loop. Over an asynchronous client they run on its event loop; another thread may wait for them.
    """

    def __init__(self, client: Client | sync.Client) -> None:
        self._client = client
        self.blocks = isinstance(client, sync.Client)
        """Whether the client does."""
        self._loop: asyncio.AbstractEventLoop | None = None
        if not self.blocks:
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                self._loop = None

    def records(self, collection: str, subject: str) -> Records:
        """Return the values of a collection."""
        if isinstance(self._client, sync.Client):
            return Records(_Blocking(self._client.state(collection, subject)))
        return Records(cast(_State, self._client.state(collection, subject)))

    async def together(self, *steps: Coroutine[Any, Any, T]) -> list[T]:
        """Await several steps, at once where the client can."""
        if self.blocks:
            return [await step for step in steps]
        return list(await asyncio.gather(*steps))

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine for a caller that blocks."""
        if self.blocks:
            return _finish(step)
        loop, here = self._loop, asyncio.get_running_loop if _on_a_loop() else None
        if loop is None or not loop.is_running() or (here and here() is loop):
            step.close()
            raise RuntimeError(
                "an asynchronous client serves blocking calls from other threads than its event loop's alone: "
                "await the asynchronous method, or use standpipe.sync.connect()"
            )
        return asyncio.run_coroutine_threadsafe(step, loop).result()

    async def arun(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine for a caller on an event loop."""
        if self.blocks:
            return await asyncio.to_thread(_finish, step)
        self._loop = self._loop or asyncio.get_running_loop()
        return await step

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Iterate for a caller that blocks."""
        items = cast(AsyncGenerator[T, None], make())
        try:
            while (item := self.run(_next(items))) is not _END:
                yield cast(T, item)
        finally:
            self.run(_close(items))

    async def aiterate(self, make: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
        """Iterate for a caller on an event loop."""
        items = cast(AsyncGenerator[T, None], make())
        try:
            while (item := await self.arun(_next(items))) is not _END:
                yield cast(T, item)
        finally:
            await self.arun(_close(items))


async def _next(items: AsyncIterator[T]) -> T | object:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


def _finish(step: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing to its end."""
    try:
        step.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    step.close()
    raise RuntimeError("a coroutine over a blocking client waited for something else")


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    """Cut writes into lists that one call takes each, in order."""
    batch: list[Write] = []
    size = 0
    for write in writes:
        more = len(write.key.encode()) + len(write.value or b"")
        if batch and (len(batch) == WRITES_MAX or size + more > WRITE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += more
    if batch:
        yield batch


def _owner(piece: str) -> str:
    """Return the key of the value that a piece is of."""
    return f"{piece.removeprefix(_PIECES).rsplit('!', 2)[0]}!"
