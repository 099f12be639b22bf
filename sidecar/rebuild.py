"""Rebuild: drop every derived thing and make it again from the log (P9).

Items come back at their old positions, because what cuts a turn into items was frozen with its event; vectors
follow by the projection, checkpoints and views by use. Serving may go on meanwhile: recall shows less until it
is done. Of a session whose log was removed (R23) there is nothing to check but that nothing else is there: its head
keeps the hash that the log ended with, and its items keep their positions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import cast

from sidecar import analysis, canonical, limits
from sidecar.errors import StoreCorrupt
from sidecar.stores.record import EventKind, EventsRead, Head, HeadRead, Record, StoredEvent

Progress = Callable[[int, int], None]
"""Called with (sessions done, events done)."""


async def rebuild(record: Record, *, progress: Progress = lambda _sessions, _events: None) -> tuple[int, int]:
    """Rebuild the items of every tenant; return (sessions, events).

    The whole log is checked before anything is dropped: raises StoreCorrupt at the first event that does not match the
    hash chain, naming its version, with nothing changed.
    """
    async for _ in _log(record):
        pass
    await record.drop_derived()
    sessions = events = 0
    async for tenant, head, page in _log(record):
        for event in page:
            if event.kind != EventKind.END:
                await record.restore_items(tenant, subject=head.subject, event=event, items=analysis.items_of(event))
        events += len(page)
        sessions += page[-1].version == head.version
        progress(sessions, events)
    return sessions, events


async def _log(record: Record) -> AsyncIterator[tuple[str, Head, list[StoredEvent]]]:
    """Yield (tenant, head, events) for every page of every session's log, checked."""
    after = ("", "")
    while heads := await record.sessions_all(after=after, count_max=limits.page_max):
        for tenant, head in heads:
            version, previous = 0, canonical.NO_HASH
            while version < head.version and not head.expired:
                read = EventsRead(
                    tenant=tenant,
                    session=head.session,
                    after_version=version,
                    count_max=min(limits.page_max, head.version - version),
                    bytes_max=limits.page_bytes,
                )
                now, found = await record.fetch([HeadRead(tenant=tenant, session=head.session), read])
                if cast(Head, now).expired:
                    break  # meanwhile
                page = cast("list[StoredEvent]", found)
                previous = check_chain(tenant, page, previous)
                if not page:
                    raise StoreCorrupt(f"event {version + 1} is not there", version=version + 1)
                version = page[-1].version
                if version == head.version and page[-1].event_hash != head.event_hash:
                    raise StoreCorrupt(f"event {version} is not the session's head", version=version)
                yield tenant, head, page
        after = (heads[-1][0], heads[-1][1].session)


def check_chain(tenant: str, events: list[StoredEvent], previous: bytes | None) -> bytes:
    """Check that events follow each other and match their hashes; return the last hash (R5).

    `previous` None takes the first event's own word for what was before it. Raises StoreCorrupt.
    """
    for event in events:
        expected = canonical.event_hash(
            event.previous_hash,
            tenant=tenant,
            session=event.session,
            version=event.version,
            kind=event.kind,
            request_id=event.request_id,
            committed_at_us=event.committed_at_us,
            body=event.body,
            body_hash=event.body_hash,
        )
        if event.event_hash != expected or (previous is not None and event.previous_hash != previous):
            raise StoreCorrupt(f"event {event.version} does not match the hash chain", version=event.version)
        previous = event.event_hash
    return previous or canonical.NO_HASH
