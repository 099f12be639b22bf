"""Rebuild: drop every derived thing and make it again from the log (P9).

Items come back at their old positions, because what cuts a turn into items was frozen with its event; vectors
follow by the projection, checkpoints and views by use. Serving may go on meanwhile: recall shows less until it
is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sidecar import analysis, canonical, limits
from sidecar.errors import StoreCorrupt
from sidecar.log.v1 import log_pb2
from sidecar.stores.record import EventKind, EventsRead, Head, Record, StoredEvent

Progress = Callable[[int, int], None]
"""Called with (sessions done, events done)."""


async def rebuild(record: Record, *, progress: Progress = lambda _sessions, _events: None) -> tuple[int, int]:
    """Rebuild the items of every tenant; return (sessions, events). Checks every hash chain on its way.

    Raises StoreCorrupt at the first event that does not match its hash, naming its version.
    """
    await record.drop_derived()
    sessions = events = 0
    after = ("", "")
    while page := await record.sessions_all(after=after, count_max=limits.page_max):
        for tenant, head in page:
            events += await _session(record, tenant, head)
            sessions += 1
            progress(sessions, events)
        after = (page[-1][0], page[-1][1].session)
    return sessions, events


async def _session(record: Record, tenant: str, head: Head) -> int:
    version, previous = 0, canonical.NO_HASH
    while version < head.version:
        read = EventsRead(
            tenant=tenant,
            session=head.session,
            after_version=version,
            count_max=limits.page_max,
            bytes_max=limits.page_bytes,
        )
        (page,) = await record.fetch([read])
        events = cast("list[StoredEvent]", page)
        previous = check_chain(tenant, events, previous)
        if not events:
            raise StoreCorrupt(f"event {version + 1} is not there", version=version + 1)
        for event in events:
            if event.version == head.version and event.event_hash != head.event_hash:
                raise StoreCorrupt(f"event {event.version} is not the session's head", version=event.version)
            if event.kind == EventKind.TURN:
                items = analysis.items(log_pb2.StoredTurn.FromString(event.body))
                await record.restore_items(tenant, subject=head.subject, event=event, items=items)
        version = events[-1].version
    return version


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
        )
        if event.event_hash != expected or (previous is not None and event.previous_hash != previous):
            raise StoreCorrupt(f"event {event.version} does not match the hash chain", version=event.version)
        previous = event.event_hash
    return previous or canonical.NO_HASH
