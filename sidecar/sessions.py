"""Views of sessions, between the hot store and the log: loading, advancing, checkpointing.

A view is derived: whichever way it came about (folded turn by turn in this process, loaded cold from a
checkpoint, or read from the hot store), at one version it is the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from sidecar import limits, view
from sidecar.errors import StandpipeError, StoreCorrupt, VersionInFuture
from sidecar.segment import Count
from sidecar.stores.hot import Hot, HotKey
from sidecar.stores.record import (
    Appended,
    EventKind,
    NewEvent,
    Record,
    SessionRead,
    SessionState,
    StoredEvent,
)
from sidecar.telemetry import Telemetry
from sidecar.tokens import Tokenizers
from sidecar.view import View

_FOLD_INLINE_EVENTS = 32
"""Folds up to this many events run on the event loop, in about a millisecond; larger ones in a thread."""


@dataclass(slots=True)
class Sessions:
    """Loads views and keeps them hot. One a process."""

    record: Record
    hot: Hot[View]
    tokenizers: Tokenizers
    telemetry: Telemetry
    _background: set[asyncio.Task[Any]] = field(default_factory=set)

    async def held(self, tenant: str, session: str, tokenizer: str, *, ttl_s: float | None = None) -> View | None:
        """Return the view that the hot store has, however old; it stays for `ttl_s` from now on."""
        found = (await self.hot.fetch(HotKey(tenant, session, tokenizer), ttl_s=ttl_s)).view
        (self.telemetry.hot_hits if found else self.telemetry.hot_misses).inc()
        return found

    def read(
        self, tenant: str, session: str, tokenizer: str, known: View | None, *, at: int | None = None
    ) -> SessionRead:
        """Return the read that brings `known` up to the head, or that loads the session at a version."""
        return SessionRead(
            tenant=tenant,
            session=session,
            tokenizer=tokenizer,
            known_version=known.version if known and at is None else 0,
            at_version=at,
            window_bytes=limits.view_bytes,
        )

    async def settle(self, read: SessionRead, state: SessionState | None, known: View | None, *, subject: str) -> View:
        """Return the view that an answer of the record store gives, and keep it hot if it is the head's."""
        if state is None:
            if read.at_version:
                raise VersionInFuture(
                    f"the session is not there yet; asked for version {read.at_version}", current_version=0
                )
            return view.empty(session=read.session, subject=subject, tokenizer=read.tokenizer)
        head = state.head
        if read.at_version is not None and read.at_version > head.version:
            raise VersionInFuture(
                f"the session is at version {head.version}; asked for {read.at_version}",
                current_version=head.version,
            )
        if read.at_version is None and known is not None and known.version == head.version:
            return known
        base = known if known is not None and read.at_version is None and state.after_version == known.version else None
        if base is None:
            if state.checkpoint is not None:
                base = view.from_checkpoint(state.checkpoint, subject=head.subject)
            else:
                base = view.empty(session=read.session, subject=head.subject, tokenizer=read.tokenizer)
        count = self._count(read.tokenizer)
        if len(state.events) <= _FOLD_INLINE_EVENTS:
            found = view.fold(base, state.events, count=count)
        else:
            found = await asyncio.to_thread(view.fold, base, state.events, count=count)
        expected = head.version if read.at_version is None else read.at_version
        if found.version != expected:
            raise StoreCorrupt(f"the log ends at version {found.version}; its head is {expected}")
        if read.at_version is None:
            await self._keep(read.tenant, base, found)
        return found

    async def advance(self, event: NewEvent, done: Appended) -> None:
        """Bring hot views that stood right before a just appended event up to it."""
        if event.kind != EventKind.TURN:
            await self.hot.forget(event.tenant, event.session)
            return
        stored = StoredEvent(
            session=event.session,
            version=done.version,
            kind=event.kind,
            request_id=event.request_id,
            committed_at_us=done.committed_at_us,
            body=event.body,
            previous_hash=b"",
            event_hash=done.event_hash,
            weight_end_bytes=0,
            position_end=done.position,
        )
        for tokenizer in self.tokenizers.loaded:
            key = HotKey(event.tenant, event.session, tokenizer)
            held = self.hot.held(key)
            if held is None and done.version == 1:
                held = view.empty(session=event.session, subject=done.subject, tokenizer=tokenizer)
            if held is None or held.version != done.version - 1:
                continue
            weighed = replace(stored, weight_end_bytes=held.weight_bytes + event.weight_bytes)
            await self._keep(event.tenant, held, view.fold(held, [weighed], count=self._count(tokenizer)))

    async def drain(self) -> None:
        """Wait for the checkpoints that are being written."""
        if self._background:
            await asyncio.wait(set(self._background))

    async def _keep(self, tenant: str, before: View, after: View) -> None:
        self.hot.keep(HotKey(tenant, after.session, after.tokenizer), after)
        if before.weight_bytes // limits.checkpoint_bytes != after.weight_bytes // limits.checkpoint_bytes:
            task = asyncio.create_task(self._checkpoint(tenant, after))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _checkpoint(self, tenant: str, found: View) -> None:
        """Store the fold, so that the next cold load is short. It is a cache: failing costs nothing but time."""
        try:
            await self.record.put_checkpoint(tenant, view.to_checkpoint(found))
        except StandpipeError as error:
            self.telemetry.log.warning("checkpoint not stored", reason=error.reason, version=found.version)

    def _count(self, tokenizer: str) -> Count:
        return self.tokenizers.get(tokenizer).count
