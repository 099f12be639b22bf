"""Views of sessions, between the hot store and the log: looking, loading, advancing, checkpointing.

A view is derived: whichever way it came about (folded turn by turn in this process, loaded cold from a checkpoint, or
from the tail in the hot store), at one version it is the same.

**Freshness** (P4) has two sides, which meet in `sidecar.lease`. A reader takes a view from the hot store as the newest
only if a lease says that it may; otherwise it reads the log's head, and publishes what it found before it answers. A
committer announces in the hot store, appends to the record store, publishes in the hot store, and only then answers.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from google.protobuf.message import DecodeError

from sidecar import limits, names, segment, view
from sidecar.errors import (
    Erased,
    HotUnavailable,
    SessionExpired,
    StandpipeError,
    StoreCorrupt,
    StoreUnavailable,
    VersionConflict,
    VersionInFuture,
)
from sidecar.lease import Leases
from sidecar.segment import Count
from sidecar.stores.hot import NOWHERE, Hot, HotKey, Place, Ticket
from sidecar.stores.record import (
    Appended,
    Deadline,
    EventKind,
    Head,
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

_MARK_GRACE_MS = 5000
"""How long after its deadline an announced append may still come: what is under way in a server or a network."""


_NO_MARK = "none"
"""Withdrawn by those who announced nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was known of a session before the record store was asked."""

    key: HotKey
    view: View | None
    fresh: bool = False
    """Whether the view shows every commit that was acknowledged before the look."""
    tail_version: int = 0
    """The version of the tail that processes share; 0 if there is none."""
    stamped: bool = False
    """Whether that tail is whole and bears `grant`."""
    ticket: Ticket = NOWHERE
    grant: int = 0
    """What to publish under; 0 for no trust."""


@dataclass(slots=True)
class _Commit:
    """An append that is announced in the hot store."""

    tenant: str
    session: str
    mark: str
    ticket: Ticket = NOWHERE
    grant: int = 0


Announced = asyncio.Task[_Commit]


@dataclass(slots=True)
class Sessions:
    """Loads views and keeps them hot. One a process."""

    record: Record
    hot: Hot[View]
    leases: Leases
    tokenizers: Tokenizers
    telemetry: Telemetry
    _background: set[asyncio.Task[Any]] = field(default_factory=set)

    def held(self, tenant: str, session: str, tokenizer: str) -> View | None:
        """Return the view that this process holds, however old."""
        return self.hot.held(HotKey(tenant, session, tokenizer))

    async def look(
        self, tenant: str, session: str, tokenizer: str, *, ttl_s: float | None = None, deadline: Deadline | None = None
    ) -> Look:
        """Ask the hot store for a session; it stays for `ttl_s` from now on. Never fails: the record store is left."""
        key = HotKey(tenant, session, tokenizer)
        try:
            found = await self.hot.fetch(key, ttl_s=ttl_s, deadline=deadline)
            fresh = self.leases.trusts(found)  # now that the answer is here, and before anything else is waited for
            newest = found.view
            if found.gained is not None:
                _, newest = await self._fold(found.gained, newest, key)
                self.hot.keep(key, newest, ttl_s=ttl_s)
        except (HotUnavailable, DecodeError, ValueError):
            self.telemetry.hot_failures.inc()
            return Look(key=key, view=self.hot.held(key))
        (self.telemetry.hot_hits if newest else self.telemetry.hot_misses).inc()
        grant = self.leases.stamp(found.ticket.place)
        return Look(
            key=key,
            view=newest,
            fresh=fresh and newest is not None and newest.version == found.version,
            tail_version=found.version,
            stamped=bool(grant) and found.grant == grant,
            ticket=found.ticket,
            grant=grant,
        )

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
        """Return the view that an answer of the record store gives, and keep it in this process if it is the head's."""
        if state is None:
            if read.at_version:
                raise VersionInFuture(
                    f"the session is not there yet; asked for version {read.at_version}", current_version=0
                )
            return view.empty(session=read.session, subject=subject, tokenizer=read.tokenizer)
        head = state.head
        if head.erased or head.expired:
            self._later(self.hot.forget(read.tenant, read.session))  # if only that this process holds a view
            raise Erased("session") if head.erased else SessionExpired
        if read.at_version is not None and read.at_version > head.version:
            raise VersionInFuture(
                f"the session is at version {head.version}; asked for {read.at_version}",
                current_version=head.version,
            )
        if known is not None and read.at_version is None and _begun_anew(known, state):
            await self.hot.forget(read.tenant, read.session)
            read = self.read(read.tenant, read.session, read.tokenizer, None)
            (answer,) = await self.record.fetch([read])
            return await self.settle(read, cast("SessionState | None", answer), None, subject=subject)
        key = HotKey(read.tenant, read.session, read.tokenizer)
        fold = self._fold_and_keep(state, known, key, at=read.at_version)
        if len(state.events) <= _FOLD_INLINE_EVENTS:
            return await fold
        # A long log may take longer than its caller waits: what was folded serves the next.
        task = asyncio.create_task(fold)
        task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def _fold_and_keep(self, state: SessionState, known: View | None, key: HotKey, *, at: int | None) -> View:
        weight_before, found = await self._fold(state, known if at is None else None, key)
        expected = state.head.version if at is None else at
        if found.version != expected:
            raise StoreCorrupt(f"the log ends at version {found.version}; its head is {expected}")
        if at is None:
            found.heard.at = time.monotonic()
            if found is not known:
                self._keep(key.tenant, weight_before, found)
        return found

    async def share(self, look: Look, state: SessionState | None) -> None:
        """Tell the hot store what a hydrate read from the record store, before it answers: nobody then sees less (P4).

        A hydrate that did not look first has no ticket to publish under; it raises the tail's version, if need be.
        """
        if state is None or not self.hot.capabilities.coherent:
            return
        key, version = look.key, state.head.version
        try:
            if look.ticket is not NOWHERE:
                if look.tail_version != version or (look.grant and not look.stamped):
                    await self.hot.publish(key.tenant, key.session, state, ticket=look.ticket, grant=look.grant)
            elif look.view is None or look.view.version != version:
                found = await self.hot.fetch(key)
                if found.version < version:
                    await self.hot.withdraw(
                        key.tenant, key.session, ticket=found.ticket, mark=_NO_MARK, version=version
                    )
        except HotUnavailable:
            self.telemetry.hot_failures.inc()

    # --- commits ---

    async def append(self, event: NewEvent, *, announced: Announced | None, deadline: Deadline | None) -> Appended:
        """Append an event to the log so that every hydrate that starts after this returns sees it (P4).

        One of our own logs has no view: a hydrate that shows memory asks the record store for its changes.
        """
        if names.is_own(event.session):
            return await self.record.append(event, deadline=deadline)
        if announced is None:
            await self.leases.alone(deadline=deadline)
            done = await self.record.append(event, deadline=deadline)
            await self.leases.alone(deadline=deadline)
        else:
            commit = await announced
            try:
                done = await self.record.append(event, deadline=deadline)
            except VersionConflict as conflict:  # whoever is told of a version must be able to see it
                await self._withdraw(commit, version=int(conflict.metadata["current_version"]), deadline=deadline)
                raise
            except StoreUnavailable:
                raise  # it may have happened, or may yet: the mark stays until it cannot
            except StandpipeError:
                self.abandon(announced)
                raise
            if done.replayed:
                await self._withdraw(commit, version=done.version, deadline=deadline)
            else:
                await self._publish(commit, _tail(event, done), deadline=deadline)
        if not done.replayed:
            self._advance(event, done)
        return done

    def announce(self, tenant: str, session: str, *, deadline: Deadline | None) -> Announced | None:
        """Start to announce an append in a hot store that is shared; it goes on beside the turn's analysis.

        The task goes to `append`, or to `abandon`.
        """
        if not self.hot.capabilities.coherent:
            return None
        task = asyncio.create_task(self._announce(tenant, session, deadline=deadline))
        task.add_done_callback(_seen)
        return task

    def abandon(self, announced: Announced | None) -> None:
        """Take back what was announced and will not be appended. A mark that stays behind passes by itself."""

        async def withdraw(announced: Announced) -> None:
            commit = await announced
            if commit.ticket is not NOWHERE:
                await self.hot.withdraw(
                    commit.tenant, commit.session, ticket=commit.ticket, mark=commit.mark, version=0
                )

        if announced is not None:
            self._later(withdraw(announced))

    # A commit's steps in the hot store take the time that the hot store may take, whatever is left to the caller: who
    # does not confirm in time loses the trust of all, and a caller in a hurry is no reason for that.

    async def _announce(self, tenant: str, session: str, *, deadline: Deadline | None) -> _Commit:
        commit = _Commit(tenant, session, mark=secrets.token_hex(8))
        left_ms = limits.deadline_default_ms if deadline is None else int((deadline - time.monotonic()) * 1000)

        async def step() -> Place:
            commit.ticket = await self.hot.announce(
                tenant, session, mark=commit.mark, lasts_ms=left_ms + _MARK_GRACE_MS
            )
            return commit.ticket.place

        await self.leases.honoured(self.hot.slot(tenant, session), step, deadline=deadline)
        commit.grant = self.leases.stamp(commit.ticket.place)
        return commit

    async def _publish(self, commit: _Commit, state: SessionState, *, deadline: Deadline | None) -> None:
        async def step() -> Place:
            return await self.hot.publish(
                commit.tenant,
                commit.session,
                state,
                ticket=commit.ticket,
                grant=commit.grant,
                mark=commit.mark,
            )

        await self.leases.honoured(self.hot.slot(commit.tenant, commit.session), step, deadline=deadline)

    async def _withdraw(self, commit: _Commit, *, version: int, deadline: Deadline | None) -> None:
        async def step() -> Place:
            return await self.hot.withdraw(
                commit.tenant,
                commit.session,
                ticket=commit.ticket,
                mark=commit.mark,
                version=version,
            )

        await self.leases.honoured(self.hot.slot(commit.tenant, commit.session), step, deadline=deadline)

    def _advance(self, event: NewEvent, done: Appended) -> None:
        """Bring this process's views that stood right before a just appended event up to it."""
        loaded = list(self.tokenizers.loaded)
        for tokenizer in (*loaded, *map(segment.masked_as, loaded)):
            key = HotKey(event.tenant, event.session, tokenizer)
            held = self.hot.held(key)
            if held is None and done.version == 1 and tokenizer in loaded:
                held = view.empty(session=event.session, subject=done.subject, tokenizer=tokenizer)
            if held is None or held.version != done.version - 1:
                continue
            after = view.fold(held, _tail(event, done).events, count=self._count(tokenizer))
            self._keep(event.tenant, held.weight_bytes, after)

    async def drain(self) -> None:
        """Wait for what is written behind the answers: checkpoints, withdrawals."""
        if self._background:
            await asyncio.wait(set(self._background))

    # --- folding ---

    async def _fold(self, state: SessionState, known: View | None, key: HotKey) -> tuple[int, View]:
        """Return (weight of what was folded onto, the view that a store's answer gives)."""
        if known is not None and known.version == state.head.version and not state.events:
            return known.weight_bytes, known
        if known is not None and state.after_version == known.version:
            base = known
        elif state.checkpoint is not None:
            base = view.from_checkpoint(state.checkpoint, subject=state.head.subject)
        else:
            base = view.empty(session=key.session, subject=state.head.subject, tokenizer=key.tokenizer)
        count = self._count(key.tokenizer)
        if len(state.events) <= _FOLD_INLINE_EVENTS:
            return base.weight_bytes, view.fold(base, state.events, count=count)
        return base.weight_bytes, await asyncio.to_thread(view.fold, base, state.events, count=count)

    def _keep(self, tenant: str, weight_before: int, after: View) -> None:
        self.hot.keep(HotKey(tenant, after.session, after.tokenizer), after)
        if weight_before // limits.checkpoint_bytes != after.weight_bytes // limits.checkpoint_bytes:
            self._later(self._checkpoint(tenant, after))

    async def _checkpoint(self, tenant: str, found: View) -> None:
        """Store the fold, so that the next cold load is short."""
        await self.record.put_checkpoint(tenant, view.to_checkpoint(found))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do behind the answer what costs nothing but time when it fails."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            reason = error.reason if isinstance(error, StandpipeError) else type(error).__name__
            self.telemetry.log.warning("work behind an answer failed", reason=reason)

    def _count(self, tokenizer: str) -> Count:
        return self.tokenizers.get(segment.tokenizer_of(tokenizer)).count


def _begun_anew(known: View, state: SessionState) -> bool:
    """Return whether a view is of a log that is there no more: it was erased, and another was imported in its place."""
    if known.version >= state.head.version:
        follows = state.head.event_hash
        return known.version > state.head.version or known.event_hash not in (b"", follows)
    if state.after_version != known.version or not state.events:
        return False
    follows = state.events[0].previous_hash
    return bool(follows and known.event_hash) and known.event_hash != follows


def _tail(event: NewEvent, done: Appended) -> SessionState:
    """Return what the record store would answer to who knows the version before a just appended event."""
    head = Head(
        session=event.session,
        subject=done.subject,
        version=done.version,
        event_hash=done.event_hash,
        ended=event.kind == EventKind.END,
        weight_bytes=done.weight_end_bytes,
        position_end=done.position,
        created_at_us=0,
        updated_at_us=done.committed_at_us,
    )
    stored = StoredEvent(
        session=event.session,
        version=done.version,
        kind=event.kind,
        request_id=event.request_id,
        committed_at_us=done.committed_at_us,
        body=event.body,
        previous_hash=b"",
        event_hash=done.event_hash,
        weight_end_bytes=done.weight_end_bytes,
        position_end=done.position,
    )
    return SessionState(head=head, checkpoint=None, events=[stored], after_version=done.version - 1)


def _seen(task: asyncio.Task[Any]) -> None:
    """Look at a task's outcome, which nobody may have waited for."""
    if not task.cancelled():
        task.exception()
