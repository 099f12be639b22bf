"""A framework's list of items, kept in the log of a session.

An item becomes entries of a turn: what was said, called and answered, so that bundles and recall know it. Where that
form does not give the item back exactly, its first entry has it as `app_json` beside, under the framework's name, and
its other entries have null there. What is no step of a conversation, such as reasoning, is `app_json` alone, and so is
what the log refuses as a step.

The log only grows. To take items off the list is an entry, too, `{"NAME.drop": n}` or `{"NAME.keep": n}`, and whoever
reads the list folds the log: so no two writers lose anything of each other's. What was taken off the list has been
said: it stays in the log, and in bundles, until its subject is erased or its time is over.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import standpipe.sync
from standpipe import client as aio
from standpipe import errors
from standpipe.adapters import entries
from standpipe.bundle import Json
from standpipe.v1.turn_pb2 import Event, TurnEntry

__all__ = ["AnySession", "Item", "Journal"]

AnySession: TypeAlias = aio.Session | standpipe.sync.Session
Item: TypeAlias = tuple[Json, Sequence[TurnEntry]]
"""A framework's item as JSON, and as the steps that it is; none if it is not one."""

TURN_ENTRIES: Final = 200
"""Entries of one commit: below the 256 that a turn takes."""
TURN_BYTES: Final = 900 << 10
"""Bytes of one commit: below the 1 MiB that a turn takes. One item may be larger than this, and is refused then."""

T = TypeVar("T")

_REFUSED = re.compile(r"turn\.entries\[(\d+)\]\.(?!app_json)")


class Journal:
    """The list of one framework in one session; other writers, of other frameworks too, may append to the session."""

    def __init__(self, session: AnySession, name: str, item_of: Callable[[TurnEntry], Json | None]) -> None:
        """`item_of` returns the plain item that an entry is, for entries that another writer made."""
        self.blocking = isinstance(session, standpipe.sync.Session)
        self._session = session._inner if isinstance(session, standpipe.sync.Session) else session
        self._name = name
        self._item_of = item_of
        self._seen: tuple[int, Sequence[str]] = (0, ())
        """The version up to which the log was folded, and the items, as JSON."""

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Run one of the methods below over a blocking session. Raises TypeError for another."""
        if not self.blocking:
            step.close()
            raise TypeError("this needs a session of standpipe.sync.connect()")
        return standpipe.sync._run(step)

    async def wait(self, step: Coroutine[Any, Any, T]) -> T:
        """Await one of the methods below; over a blocking session it runs in a thread, for any event loop."""
        return await (asyncio.to_thread(self.run, step) if self.blocking else step)

    async def items(self) -> list[Json]:
        """Return the list; each call returns items of its own."""
        return [json.loads(item) for item in await self._read()]

    async def append(self, items: Iterable[Item]) -> None:
        """Append, behind whatever is there: in one commit, unless the items are more than a turn takes."""
        for batch in self._batches(items):
            await self._commit(batch)

    async def pop(self) -> Json | None:
        """Take the last item off the list and return it; None if there is none."""
        if not await self._read():
            return None
        done = await self._commit([self._mark("drop", 1)])
        left = await self._read(before=done)
        return json.loads(left[-1]) if left else None

    async def clear(self) -> None:
        """Take all items off the list."""
        if await self._read():
            await self._commit([self._mark("keep", 0)])

    async def replace(self, items: Sequence[Item]) -> None:
        """Make the list what is given; what it begins with already is not said again.

        Raises Conflict when other writers kept coming in between.
        """
        for attempt in range(aio.TURN_ATTEMPTS):
            held = await self._read()
            version = self._seen[0]
            kept = 0
            while kept < min(len(held), len(items)) and held[kept] == entries.dumps(items[kept][0]):
                kept += 1
            first: list[TurnEntry] = [self._mark("keep", kept)] if kept < len(held) else []
            batches = list(self._batches(items[kept:]))
            if not first and not batches:
                return
            try:
                await self._commit([*first, *(batches.pop(0) if batches else ())], expected_version=version)
            except errors.Conflict:
                if attempt + 1 == aio.TURN_ATTEMPTS:
                    raise
                pause = min(aio.PAUSE_S_MAX, aio.PAUSE_S * 2**attempt)
                await self._session._client._wire.pause(random.uniform(0, pause))
                continue
            for batch in batches:
                await self._commit(batch)
            return

    async def _read(self, *, before: int | None = None) -> list[str]:
        """Return the list as it is, or as it was before the event of a version."""
        version, seen = self._seen if before is None or self._seen[0] < before else (0, ())
        items = list(seen)
        try:
            async for event in self._session.events(version, page_size=1000):
                if event.version == before:
                    return items
                self._fold(event, items)
                version = event.version
        except errors.NotFound:
            version, items = 0, []
        self._seen = (version, items)
        return items

    def _fold(self, event: Event, items: list[str]) -> None:
        for entry in event.turn.entries:
            app = json.loads(entry.app_json) if entry.app_json else None
            app = app if isinstance(app, dict) else {}
            if self._name in app:
                if app[self._name] is not None:
                    items.append(entries.dumps(app[self._name]))
            elif (kept := app.get(f"{self._name}.keep")) is not None:
                del items[kept:]
            elif (dropped := app.get(f"{self._name}.drop")) is not None:
                del items[-dropped:]
            elif entry.WhichOneof("entry") is not None and (item := self._item_of(entry)) is not None:
                items.append(entries.dumps(item))

    def _batches(self, items: Iterable[Item]) -> Iterator[list[TurnEntry]]:
        """Yield the entries of commits; those of one item stay together."""
        batch: list[TurnEntry] = []
        for item in items:
            made = self._entries(*item)
            size = sum(entry.ByteSize() for entry in (*batch, *made))
            if batch and (len(batch) + len(made) > TURN_ENTRIES or size > TURN_BYTES):
                yield batch
                batch = []
            batch += made
        if batch:
            yield batch

    def _entries(self, item: Json, steps: Sequence[TurnEntry]) -> list[TurnEntry]:
        text = entries.dumps(item)
        if len(steps) == 1 and (plain := self._item_of(steps[0])) is not None and entries.dumps(plain) == text:
            return list(steps)
        made = list(steps) or [TurnEntry()]
        for at, entry in enumerate(made):
            entry.app_json = entries.dumps({self._name: None if at else item})
        return made

    def _mark(self, what: str, number: int) -> TurnEntry:
        return TurnEntry(app_json=entries.dumps({f"{self._name}.{what}": number}))

    async def _commit(self, batch: list[TurnEntry], *, expected_version: int | None = None) -> int:
        """Commit, and return the version. What is refused as a step is kept as `app_json` alone."""
        readdressed = False
        while True:
            try:
                mode: aio.Mode = "append" if expected_version is None else "fail"
                done = await self._session.commit(batch, mode=mode, expected_version=expected_version)
                return done.version
            except errors.InvalidArgument as error:
                again: list[TurnEntry] | None = None
                if error.field == "turn.entries" and error.reason == "TOOL_RESULT_WITHOUT_CALL":
                    called = {entry.tool_call.id for entry in batch}
                    again = [
                        self._alone(entry)
                        if entry.HasField("tool_result") and entry.tool_result.call_id not in called
                        else entry
                        for entry in batch
                    ]
                elif refused := _REFUSED.match(error.field or ""):
                    again = list(batch)
                    again[int(refused[1])] = self._alone(batch[int(refused[1])])
                elif not readdressed:
                    again = entries.readdressed(map(self._whole, batch), error)
                    readdressed = True
                if again is None or again == batch:
                    raise
                batch = again

    def _whole(self, entry: TurnEntry) -> TurnEntry:
        """Return an entry that has its item beside."""
        whole = TurnEntry(app_json=entry.app_json or entries.dumps({self._name: self._item_of(entry)}))
        whole.MergeFrom(entry)
        return whole

    def _alone(self, entry: TurnEntry) -> TurnEntry:
        """Return an entry that has its item only."""
        return TurnEntry(app_json=self._whole(entry).app_json)
