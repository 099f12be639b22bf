"""Erasure: removes a subject, or one session or document, with all that was derived from it, and proves it (P11).

In this order, so that whoever dies on the way is followed by anybody (`Retention` looks for what is unfinished):

1. **Mark** (R29), in one transaction. From then on the record store takes and gives nothing of what is marked, in any
   process: no commit that is late, no retry under an old request id, no re-ingestion. A subject's records of state and
   its key go with it.
2. **Sweep** every log of it: events, tool calls, checkpoints and request ids go; items and vectors are emptied, those
   too that come later (R24). Then the hot store forgets the log, and nobody can publish what was read before (H10).
3. **Cut out what was derived** and stands in other logs, when a session or a document is erased: claims, confirmations
   and replacements that rest on it, and claims that rest on those. Their place in the event stays, empty (R28). This
   comes behind the sweep: what cites an event that is not there is refused (R10), so nothing new joins them. A fact
   that such a replacement had superseded is held again, as if the replacement had never been.
4. **Wait** until no process shows what it held in memory: a hydrate that is content with the nearest view is so for
   `limits.nearest_s` after the record store last spoke for it.
5. **Scrub** the store's files (R32), and **finish**: the row of the erasure stays for ever, counts and times alone.

What a model said by itself in another session is that session's: it is not derived in Standpipe's sense.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from itertools import groupby
from typing import Any, Protocol, cast

from sidecar import limits, names, validate
from sidecar.beliefs import Change, Ref
from sidecar.errors import DeadlineExceeded, Overloaded, StandpipeError, StoreCorrupt, StoreUnavailable
from sidecar.log.v1 import log_pb2
from sidecar.receipt import Signer
from sidecar.stores.hot import Hot
from sidecar.stores.record import (
    ChangesRead,
    Deadline,
    Erasure,
    ErasureRead,
    ErasuresRead,
    EventKind,
    EventsRead,
    Head,
    Record,
    ScopeState,
    SessionsRead,
    StoredEvent,
    StoredItem,
)
from sidecar.telemetry import Telemetry
from standpipe.v1 import fact_pb2, memory_pb2, turn_pb2

_SCRUB_ATTEMPTS = 20
_SCRUB_PAUSE_S = 0.25
"""Readers that hold a store's files up are done in a moment; a backup is not: then the next look of Retention."""

_SUBJECTS_AT_ONCE = 64
"""Subjects whose changes are asked for in one trip."""

_PAGE_ITEMS = 4096


class Cache(Protocol):
    """What holds a subject's memory in this process."""

    def forget(self, tenant: str, subject: str) -> None:
        """Forget a subject."""


class Eraser:
    """Erases. One a process."""

    def __init__(
        self,
        *,
        record: Record,
        hot: Hot[Any],
        telemetry: Telemetry,
        signer: Signer | None = None,
        caches: Sequence[Cache] = (),
    ) -> None:
        """`signer` signs receipts; who only finishes what others began needs none."""
        self._record = record
        self._hot = hot
        self._telemetry = telemetry
        self._signer = signer
        self._caches = caches
        self._at_work: dict[tuple[str, str, str], asyncio.Task[Erasure]] = {}

    async def erase(
        self, tenant: str, request: memory_pb2.EraseSubjectRequest, *, deadline: Deadline | None
    ) -> memory_pb2.ErasureReceipt:
        """Erase what is asked for, and return the receipt; the same for every later call.

        When the deadline passes the work goes on: called again, this waits for the same.
        """
        subject, session = _asked(request)
        read = ErasureRead(tenant=tenant, subject=subject, session=session)
        (known,) = await self._record.fetch([read], deadline=deadline)
        mark = await self._record.erase(tenant, subject=subject, session=session)
        if not mark.done_at_us:
            task = self._begin(mark, resumed=known is not None)
            try:
                async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                    mark = await asyncio.shield(task)
            except TimeoutError:
                raise DeadlineExceeded("the deadline passed before all was erased; it goes on", phase="erase") from None
        return receipt_of(mark, self._signer)

    async def resume(self) -> int:
        """Finish what others began and left, or are at; return how many erasures this did."""
        (answer,) = await self._record.fetch([ErasuresRead(count_max=limits.erasures_at_work_max)])
        done = 0
        for mark in cast(Sequence[Erasure], answer):
            try:
                await asyncio.shield(self._begin(mark, resumed=True))
                done += 1
            except StandpipeError as error:  # it holds up no other
                self._telemetry.erasure_failures.inc()
                self._telemetry.log.warning("erasure not finished", reason=error.reason)
        return done

    async def drain(self) -> None:
        """Wait for the erasures whose callers have left."""
        if self._at_work:
            await asyncio.wait(set(self._at_work.values()))

    def _begin(self, mark: Erasure, *, resumed: bool) -> asyncio.Task[Erasure]:
        key = (mark.tenant, mark.subject, mark.session)
        task = self._at_work.get(key)
        if task is None:
            if len(self._at_work) >= limits.erasures_at_work_max:
                raise Overloaded(
                    "too many erasures at work; it is marked, and will be done", limit="erasures_at_work_max"
                )
            task = self._at_work[key] = asyncio.create_task(self._carry_out(mark, resumed=resumed))
            task.add_done_callback(lambda done: self._left(key, done))
        return task

    def _left(self, key: tuple[str, str, str], done: asyncio.Task[Erasure]) -> None:
        del self._at_work[key]
        if not done.cancelled():
            done.exception()  # seen, also when the caller left: Retention tries again

    # --- the steps ---

    async def _carry_out(self, mark: Erasure, *, resumed: bool) -> Erasure:
        if mark.session:
            await self._sweep(mark.tenant, mark.session)
            await self._cut_derived(mark, resumed=resumed)
        else:
            async for head in self._heads(mark.tenant, mark.subject):
                await self._sweep(mark.tenant, head.session)
        for cache in self._caches:
            cache.forget(mark.tenant, mark.subject)
        await asyncio.sleep(limits.nearest_s)
        await self._scrub()
        done = await self._record.finish_erasure(mark)
        self._telemetry.erasures.inc()
        self._telemetry.log.info("erased", logs=done.logs, events=done.events, redacted=done.events_redacted)
        return done

    async def _sweep(self, tenant: str, session: str) -> None:
        """Remove a log; the hot store forgets it, and only then is it listed no more (R23)."""
        await self._record.sweep(tenant, session)
        await self._hot.forget(tenant, session)
        await self._record.forgotten(tenant, session)

    async def _cut_derived(self, mark: Erasure, *, resumed: bool) -> None:
        """Redact the events of other logs that hold what was derived from a session or a document.

        A document of everyone may be cited by anybody: then all subjects of the tenant are looked at, by the items
        that are changes alone.
        """
        everyone = mark.subject == names.EVERYONE
        ends: dict[str, int] = {}
        async for head in self._heads(mark.tenant, "" if everyone else mark.subject):
            ends[head.subject] = max(head.position_end, ends.get(head.subject, 0))
            if resumed and not everyone:  # who died may have left what was cut out in the hot store
                await self._hot.forget(mark.tenant, head.session)
        subjects = sorted(ends)
        for start in range(0, len(subjects), _SUBJECTS_AT_ONCE):
            some = subjects[start : start + _SUBJECTS_AT_ONCE]
            for subject, changes in zip(some, await self._changes(mark.tenant, some, ends), strict=True):
                derived = resting_on(mark.session, changes)
                if derived or (resumed and changes and everyone):
                    await self._cut(mark, subject, derived, forget_all=resumed and everyone)

    async def _cut(self, mark: Erasure, subject: str, derived: Sequence[Ref], *, forget_all: bool) -> None:
        """Redact events, last those that others rest on: until then, whoever follows finds these through them."""
        logs = set()
        for (log, version), refs in groupby(reversed(derived), key=lambda ref: (ref.session, ref.version)):
            logs.add(log)
            await self._redact(mark, subject, log, version, {ref.entry for ref in refs})
        if forget_all:
            logs |= {head.session async for head in self._heads(mark.tenant, subject)}
        for log in sorted(logs):
            await self._hot.forget(mark.tenant, log)
        for cache in self._caches:
            cache.forget(mark.tenant, subject)

    async def _changes(self, tenant: str, subjects: Sequence[str], ends: dict[str, int]) -> list[list[StoredItem]]:
        """Return all changes of some subjects. Raises StoreUnavailable while a rebuild has not all of them."""
        found: list[list[StoredItem]] = [[] for _ in subjects]
        after = dict.fromkeys(subjects, 0)
        while after:
            reads = [
                ChangesRead(tenant=tenant, subject=one, after_position=position, count_max=_PAGE_ITEMS)
                for one, position in after.items()
            ]
            for read, answer in zip(reads, await self._record.fetch(reads), strict=True):
                state = cast(ScopeState, answer)
                _complete(state, ends[read.subject])
                found[subjects.index(read.subject)].extend(item for item in state.items if not item.gone)
                if len(state.items) < read.count_max:
                    del after[read.subject]
                else:
                    after[read.subject] = state.items[-1].position
        return found

    async def _redact(self, mark: Erasure, subject: str, log: str, version: int, entries: Collection[int]) -> None:
        """Empty some changes of an event, beside others that may be emptying more of it at the same time.

        Two who read one body and each put back theirs would undo the other's. So what is written is read again, until
        nothing is in the body that has no item any more: the last one sees to it.
        """
        event_read = EventsRead(tenant=mark.tenant, session=log, after_version=version - 1, count_max=1, bytes_max=1)
        event = _event((await self._record.fetch([event_read]))[0])
        while event is not None:  # until its own log is swept
            count = len(changes_of(event))  # the last items of the event
            items_read = ChangesRead(
                tenant=mark.tenant, subject=subject, after_position=event.position_end - count, count_max=count
            )
            now, answer = await self._record.fetch([event_read, items_read])
            event, state = _event(now), cast(ScopeState, answer)
            if event is None:
                return
            _complete(state, event.position_end)
            of_event = (item for item in state.items if (item.session, item.version) == (log, version))
            there = {item.entry for item in of_event if not item.gone}
            body = emptied(event, there - set(entries))
            if body == event.body and not there & set(entries):
                return
            await self._record.redact(
                mark.tenant, session=log, version=version, body=body, entries=sorted(entries), erasure=mark
            )

    async def _heads(self, tenant: str, subject: str) -> AsyncIterator[Head]:
        """Yield the logs of a subject, or, with an empty one, of all."""
        after = ""
        while True:
            read = SessionsRead(tenant=tenant, subject=subject, after_session=after, count_max=limits.page_max)
            page = cast(Sequence[Head], (await self._record.fetch([read]))[0])
            for head in page:
                yield head
            if len(page) < limits.page_max:
                return
            after = page[-1].session

    async def _scrub(self) -> None:
        for attempt in range(_SCRUB_ATTEMPTS):
            try:
                return await self._record.scrub()
            except StoreUnavailable:
                if attempt == _SCRUB_ATTEMPTS - 1:
                    raise
            await asyncio.sleep(_SCRUB_PAUSE_S)
        return None


def _asked(request: memory_pb2.EraseSubjectRequest) -> tuple[str, str]:
    """Return (subject, log or nothing) of what is asked for, checked."""
    part = request.WhichOneof("part")
    validate.identifier(request.subject_id, "subject_id", optional=part == "document_id")
    if part == "session_id":
        return request.subject_id, validate.identifier(request.session_id, "session_id")
    if part == "document_id":
        validate.identifier(request.document_id, "document_id")
        subject = request.subject_id or names.EVERYONE
        return subject, names.document_log(subject, request.document_id)
    return request.subject_id, ""


def receipt_of(erasure: Erasure, signer: Signer | None) -> memory_pb2.ErasureReceipt:
    """Return the receipt of a finished erasure: a function of its row, so it is the same for ever."""
    receipt = memory_pb2.ErasureReceipt(
        tenant_id=erasure.tenant,
        subject_id="" if erasure.subject == names.EVERYONE else erasure.subject,
        logs=erasure.logs,
        events=erasure.events,
        items=erasure.items,
        events_redacted=erasure.events_redacted,
        keys=erasure.keys,
        state_records=erasure.records,
    )
    if erasure.session and names.is_own(erasure.session):
        receipt.document_id = names.own(erasure.session).document
    else:
        receipt.session_id = erasure.session
    receipt.asked_at.FromMicroseconds(erasure.asked_at_us)
    if erasure.done_at_us:
        receipt.done_at.FromMicroseconds(erasure.done_at_us)
    if signer is not None:
        receipt.signature = signer.sign_erasure(receipt)
    return receipt


# --- what was derived ----------------------------------------------------------------------------------------


def resting_on(log: str, changes: Iterable[StoredItem]) -> list[Ref]:
    """Return the changes that cite a log, or cite changes that do: those of other logs, each behind one it rests on."""
    citing: dict[tuple[str, int], list[tuple[int | None, Ref]]] = defaultdict(list)
    first: set[Ref] = set()
    for one in map(Change.of, changes):
        for source in sources_of(one.change):
            entry = source.entry if source.HasField("entry") else None
            citing[source.session_id, source.version].append((entry, one.ref))
            if source.session_id == log != one.ref.session:
                first.add(one.ref)
    found = dict.fromkeys(sorted(first))
    waiting = deque(found)
    while waiting:
        cited = waiting.popleft()
        for entry, ref in citing.get(cited[:2], ()):
            if entry in (None, cited.entry) and ref not in found and ref.session != log:
                found[ref] = None
                waiting.append(ref)
    return list(found)


def sources_of(change: fact_pb2.MemoryChange) -> Sequence[turn_pb2.EventRef]:
    """Return what a change rests on: the sources of its claim, or those that it adds."""
    kind = change.WhichOneof("change")
    if kind == "fact":
        return cast("Sequence[turn_pb2.EventRef]", change.fact.sources)
    if kind == "confirmation":
        return cast("Sequence[turn_pb2.EventRef]", change.confirmation.sources)
    if kind == "correction":
        return cast("Sequence[turn_pb2.EventRef]", change.correction.replacement.sources)
    return ()


def changes_of(event: StoredEvent) -> dict[int, log_pb2.StoredChange]:
    """Return the changes of memory in an event, by entry."""
    if event.kind == EventKind.TURN:
        turn = log_pb2.StoredTurn.FromString(event.body)
        return dict(enumerate(turn.changes, len(turn.turn.entries)))
    if event.kind == EventKind.MEMORY:
        return dict(enumerate(log_pb2.StoredMemory.FromString(event.body).changes))
    return {}


def emptied(event: StoredEvent, kept: Collection[int]) -> bytes:
    """Return an event's body with all changes emptied but some. What became of each claim stays: it is no content."""
    if event.kind == EventKind.TURN:
        turn = log_pb2.StoredTurn.FromString(event.body)
        _empty(turn.changes, kept, first=len(turn.turn.entries))
        return cast(bytes, turn.SerializeToString(deterministic=True))
    if event.kind != EventKind.MEMORY:
        raise StoreCorrupt(f"event {event.version} holds no changes of memory", version=event.version)
    memory = log_pb2.StoredMemory.FromString(event.body)
    _empty(memory.changes, kept, first=0)
    return cast(bytes, memory.SerializeToString(deterministic=True))


def _empty(changes: Iterable[log_pb2.StoredChange], kept: Collection[int], *, first: int) -> None:
    for entry, change in enumerate(changes, first):
        if entry not in kept:
            change.Clear()


def _complete(state: ScopeState, position: int) -> None:
    """Raise StoreUnavailable while a rebuild has not brought all items back: what is missing then is not gone."""
    if state.position < position:
        raise StoreUnavailable("the items are being rebuilt: what was derived is not known yet")


def _event(answer: object) -> StoredEvent | None:
    events = cast("Sequence[StoredEvent] | None", answer)
    return events[0] if events else None
