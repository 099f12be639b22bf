"""Encryption before a store: what an engine gets to keep is sealed, what a caller gets back is open.

::

    caller ──> SealedRecord ──> any engine of the record contract
    caller ──> SealedHot    ──> any coherent engine of the hot contract

Both keep their contract whole, so nobody else knows of encryption. Sealed under the subject's key are event bodies; an
item's text, speaker, terms and detail, together in the place of its terms; vectors; checkpoints; values of state; and
in the hot store the events and checkpoints of tails. The digest of a request (R4) is keyed, since it would tell a short
message to whoever guesses it. In the clear stay ids, names of subjects and sessions, keys of state, times, counts,
roles, kinds, and policies.

The associated data of a value is the identity of its row: one that was moved to another row, subject or tenant does not
open (StoreCorrupt). For an item its time, to the microsecond, stands for its version, which is not yet known then. What
was written before encryption was switched on is read as it is. What was removed (R24, R28) is empty, or all zeros, and
passes as such.

A key costs no round trip of its own where the caller's reads name its subject or session: it is asked for in the same
batch, every `limits.data_key_s`. A view of the hot store that cannot be opened is a miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Generic, TypeVar, cast

from sidecar import canonical, limits
from sidecar.errors import (
    ConfigInvalid,
    DeadlineExceeded,
    Erased,
    HotUnavailable,
    InvalidField,
    LimitExceeded,
    RequestIdReused,
    SessionNotFound,
    StandpipeError,
    StoreCorrupt,
    StoreUnavailable,
    VersionInFuture,
)
from sidecar.finding import Finding
from sidecar.stores.hot import Found, Hot, HotKey, Place, Ticket, V
from sidecar.stores.record import (
    Answer,
    Appended,
    ChangesRead,
    Checkpoint,
    Claim,
    Deadline,
    Erasure,
    ErasureRead,
    EventsRead,
    GrantsRead,
    GrantsState,
    Head,
    HeadRead,
    KeyRead,
    NewEvent,
    NewItem,
    Read,
    Record,
    Scope,
    ScopeRead,
    ScopeState,
    SessionRead,
    SessionState,
    StateAll,
    StateFound,
    StateList,
    StateRead,
    StateRecord,
    StateWrite,
    StoredEvent,
    StoredItem,
    StoredKey,
    StoredPolicy,
    StoredRoute,
)
from sidecar.stores.rows import state_page
from sidecar.vault import OVERHEAD_BYTES, DataKey, Vault, is_sealed, key_id_of

K = TypeVar("K")
T = TypeVar("T")

_ITEM: Final = struct.Struct(">III")
"""Lengths of the text, the speaker and the terms; the detail is the rest."""

_SEALS_AN_ITEM: Final = 64
"""Values that an item accounts for at most: itself, its event, a vector of each model in use, its share of checkpoints,
and all of these again as often as a subject is rebuilt."""


class _Recent(Generic[K, T]):
    """A bounded cache whose entries pass."""

    def __init__(self, *, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._entries: OrderedDict[K, tuple[float, T]] = OrderedDict()

    def get(self, key: K) -> T | None:
        found = self._entries.get(key)
        if found is None or found[0] <= time.monotonic():
            return None
        self._entries.move_to_end(key)
        return found[1]

    def put(self, key: K, value: T, *, since: float) -> None:
        self._entries[key] = (since + self._ttl_s, value)
        self._entries.move_to_end(key)
        while len(self._entries) > limits.data_keys_max:
            self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        self._entries.pop(key, None)


class Keys:
    """The subjects' keys, unwrapped, as both stores of a process use them."""

    def __init__(self, record: Record, vault: Vault, *, ttl_s: float = limits.data_key_s) -> None:
        self.vault = vault
        self.ttl_s = ttl_s
        self._record = record
        self._by_subject: _Recent[tuple[str, str], DataKey] = _Recent(ttl_s=ttl_s)
        self._by_id: _Recent[tuple[str, bytes], DataKey] = _Recent(ttl_s=ttl_s)

    def held(self, tenant: str, subject: str) -> DataKey | None:
        """Return a subject's key, if it is known well enough not to ask again."""
        return self._by_subject.get((tenant, subject))

    async def learn(self, tenant: str, stored: StoredKey, *, since: float) -> DataKey:
        """Unwrap and keep what the record store answered to a read that began at `since`."""
        held = self._by_id.get((tenant, stored.key_id))
        if held is None:
            held = await self.vault.unwrap(tenant, stored)
        self._by_subject.put((tenant, stored.subject), held, since=since)
        self._by_id.put((tenant, stored.key_id), held, since=since)
        return held

    async def of(self, tenant: str, subject: str, *, deadline: Deadline | None = None) -> DataKey:
        """Return a subject's key, made now if it has none. Raises Erased."""
        held = self.held(tenant, subject)
        if held is not None:
            return held
        since = time.monotonic()
        (found,) = await self._record.fetch([KeyRead(tenant=tenant, subject=subject)], deadline=deadline)
        if found is None:
            key_id, wrapped, wrapping = await self.vault.make(tenant, subject)
            new = StoredKey(subject=subject, key_id=key_id, wrapped=wrapped, wrapping=wrapping)
            since = time.monotonic()
            found = await self._record.put_key(tenant, new)
        return await self.learn(tenant, cast(StoredKey, found), since=since)

    async def by_id(
        self, wanted: Iterable[tuple[str, bytes]], *, deadline: Deadline | None = None
    ) -> dict[tuple[str, bytes], DataKey]:
        """Return keys by (tenant, key id), those that there are."""
        found = {one: self._by_id.get(one) for one in set(wanted)}
        missing = [one for one, key in found.items() if key is None]
        if missing:
            since = time.monotonic()
            reads = [KeyRead(tenant=tenant, key_id=key_id) for tenant, key_id in missing]
            for one, answer in zip(missing, await self._record.fetch(reads, deadline=deadline), strict=True):
                if answer is not None:
                    found[one] = await self.learn(one[0], cast(StoredKey, answer), since=since)
        return {one: key for one, key in found.items() if key is not None}

    def forget(self, tenant: str, subject: str) -> None:
        """Drop a subject's key: it was erased."""
        held = self._by_subject.get((tenant, subject))
        self._by_subject.drop((tenant, subject))
        if held is not None:
            self._by_id.drop((tenant, held.id))


async def every_key(record: Record) -> AsyncIterator[tuple[str, StoredKey]]:
    """Yield (tenant, key) of all subjects of all tenants."""
    after = ("", b"")
    while page := await record.keys_all(after=after, count_max=limits.page_max):
        for tenant, stored in page:
            yield tenant, stored
        after = (page[-1][0], page[-1][1].key_id)


async def rotate(record: Record, vault: Vault) -> tuple[int, int]:
    """Wrap every key by the first wrapping key; return how many were not yet, and how many there are.

    Sidecars may serve meanwhile, others may do the same, and who is broken off goes on where it was.
    """
    done = total = 0
    async for tenant, stored in every_key(record):
        total += 1
        if stored.wrapping != vault.first:
            wrapped, wrapping = await vault.rewrap(tenant, stored)
            done += await record.rewrap(tenant, old=stored, new=replace(stored, wrapped=wrapped, wrapping=wrapping))
    return done, total


# --- the identities of rows ----------------------------------------------------------------------------------------


def _event_identity(tenant: str, session: str, request_id: str) -> bytes:
    return canonical.pack(("event", tenant, session, request_id))


def _item_identity(tenant: str, subject: str, session: str, item: NewItem | StoredItem) -> bytes:
    counts = (part for pair in sorted(item.tokens.items()) for part in pair)
    place = (item.entry, item.chunk, item.role, item.spoken_at_us, int(item.kind))
    return canonical.pack(("item", tenant, subject, session, *place, *counts))


def _vector_identity(tenant: str, subject: str, model: str, position: int) -> bytes:
    return canonical.pack(("vector", tenant, subject, model, position))


def _checkpoint_identity(tenant: str, checkpoint: Checkpoint) -> bytes:
    return canonical.pack(
        ("checkpoint", tenant, checkpoint.session, checkpoint.tokenizer, checkpoint.version, checkpoint.weight_bytes)
    )


def _state_identity(tenant: str, subject: str, collection: str, key: str) -> bytes:
    return canonical.pack(("state", tenant, subject, collection, key))


def _state_key(key: DataKey, collection: str, name: str) -> DataKey:
    """Return the key of one record: however often records change, no key seals too much."""
    return key.derived(f"state {collection} {name}")


def _hot_identity(tenant: str, event: StoredEvent) -> bytes:
    return canonical.pack(
        ("tail", tenant, event.session, event.version, int(event.kind), event.committed_at_us)
        + (event.weight_end_bytes, event.position_end)
    )


# --- one value each ------------------------------------------------------------------------------------------------


def _seal_item(key: DataKey, tenant: str, subject: str, session: str, item: NewItem) -> NewItem:
    text, speaker = item.text.encode(), item.speaker.encode()
    head = _ITEM.pack(len(text), len(speaker), len(item.terms))
    sealed = key.seal(head + text + speaker + item.terms + item.detail, _item_identity(tenant, subject, session, item))
    return replace(item, text="", speaker="", terms=sealed, detail=b"")


def _open_item(key: DataKey, tenant: str, subject: str, item: StoredItem) -> StoredItem:
    value = key.open(item.terms, _item_identity(tenant, subject, item.session, item))
    text, speaker, terms = _ITEM.unpack_from(value)
    from_speaker = _ITEM.size + text
    from_terms = from_speaker + speaker
    from_detail = from_terms + terms
    return replace(
        item,
        text=value[_ITEM.size : from_speaker].decode(),
        speaker=value[from_speaker:from_terms].decode(),
        terms=value[from_terms:from_detail],
        detail=value[from_detail:],
    )


async def _run(work: Callable[[], T], *, values: int) -> T:
    """Do what seals or opens so many values: many of them beside the event loop."""
    return work() if values <= limits.sealed_inline_max else await asyncio.to_thread(work)


class _Opener:
    """Opens the answers to a batch of reads with the keys that they name."""

    def __init__(self, keys: Mapping[tuple[str, bytes], DataKey]) -> None:
        self._keys = keys

    def answer(self, read: Read, answer: Answer) -> Answer:
        """Return an answer, opened."""
        match read, answer:
            case SessionRead(), SessionState():
                return self.session(read.tenant, answer)
            case EventsRead(), list() | tuple():
                return _page([self.event(read.tenant, event) for event in answer], read)
            case ScopeRead() | ChangesRead(), ScopeState():
                return self._scope(read, answer)
            case StateRead() | StateList() | StateAll(), StateFound():
                page = state_page([self._record(read, record) for record in answer.records], read.bytes_max)
                return replace(page, more=page.more or answer.more)
        return answer

    def session(self, tenant: str, state: SessionState) -> SessionState:
        checkpoint = state.checkpoint
        if checkpoint is not None and is_sealed(checkpoint.body):
            key = self._key(tenant, checkpoint.body)
            checkpoint = replace(checkpoint, body=key.open(checkpoint.body, _checkpoint_identity(tenant, checkpoint)))
        return replace(state, checkpoint=checkpoint, events=[self.event(tenant, event) for event in state.events])

    def event(self, tenant: str, event: StoredEvent) -> StoredEvent:
        if not is_sealed(event.body):
            return event
        body = self._key(tenant, event.body).open(event.body, _event_identity(tenant, event.session, event.request_id))
        return replace(event, body=body, body_hash=event.body_hash or hashlib.sha256(event.body).digest())

    def _record(self, read: StateRead | StateList | StateAll, record: StateRecord) -> StateRecord:
        if not is_sealed(record.value):
            return record
        key = _state_key(self._key(read.tenant, record.value), record.collection, record.key)
        identity = _state_identity(read.tenant, read.subject, record.collection, record.key)
        return replace(record, value=key.open(record.value, identity))

    def _scope(self, read: ScopeRead | ChangesRead, state: ScopeState) -> ScopeState:
        items = [
            _open_item(self._key(read.tenant, item.terms), read.tenant, read.subject, item)
            if is_sealed(item.terms)
            else item
            for item in state.items
        ]
        if not isinstance(read, ScopeRead) or not state.vectors:
            return replace(state, items=items)
        vectors: list[bytes] = []
        emptied: list[int] = []
        for position, stored in enumerate(state.vectors, read.after_vector_position + 1):
            if is_sealed(stored):
                identity = _vector_identity(read.tenant, read.subject, read.model, position)
                vectors.append(self._key(read.tenant, stored).open(stored, identity))
            else:
                vectors.append(stored)
                if not any(stored):
                    emptied.append(len(vectors) - 1)
        # A sealed vector was emptied in its whole length; how long it was the others tell, if there are any.
        sizes = {len(vector) for vector in vectors if any(vector)} or {
            len(vectors[at]) - OVERHEAD_BYTES for at in emptied if len(vectors[at]) > OVERHEAD_BYTES
        }
        for at in emptied:
            if len(vectors[at]) - OVERHEAD_BYTES in sizes:
                vectors[at] = bytes(len(vectors[at]) - OVERHEAD_BYTES)
        return replace(state, items=items, vectors=vectors)

    def _key(self, tenant: str, sealed: bytes) -> DataKey:
        key = self._keys.get((tenant, key_id_of(sealed)))
        if key is None:
            raise StoreCorrupt("what is stored was sealed under a key that is gone")
        return key


def _page(events: Sequence[StoredEvent], read: EventsRead) -> Sequence[StoredEvent]:
    """Cut a page that was read with room for what sealing adds."""
    size_bytes = 0
    for number, event in enumerate(events):
        size_bytes += len(event.body)
        if number and size_bytes > read.bytes_max:
            return events[:number]
    return events


def _roomy(read: Read) -> Read:
    """Return a read that stops where the caller's would, or behind."""
    if isinstance(read, EventsRead | StateList | StateAll):
        return replace(read, bytes_max=read.bytes_max + OVERHEAD_BYTES * min(read.count_max, limits.page_max))
    if isinstance(read, StateRead):
        return replace(read, bytes_max=read.bytes_max + OVERHEAD_BYTES * len(read.keys))
    return read


def _key_ids(read: Read, answer: Answer) -> set[tuple[str, bytes]]:
    """Return the (tenant, key id) that an answer needs."""
    values: list[bytes] = []
    match read, answer:
        case SessionRead(), SessionState():
            values = [event.body for event in answer.events]
            if answer.checkpoint is not None:
                values.append(answer.checkpoint.body)
        case EventsRead(), list() | tuple():
            values = [event.body for event in answer]
        case ScopeRead() | ChangesRead(), ScopeState():
            values = [item.terms for item in answer.items] + [*answer.vectors]
        case StateRead() | StateList() | StateAll(), StateFound():
            values = [record.value for record in answer.records]
        case _:
            return set()
    return {(read.tenant, key_id_of(value)) for value in values if is_sealed(value)}


def _size(answer: Answer) -> int:
    match answer:
        case SessionState():
            return len(answer.events)
        case ScopeState():
            return len(answer.items) + len(answer.vectors)
        case StateFound():
            return len(answer.records)
        case list() | tuple():
            return len(answer)
    return 0


# --- the record store ----------------------------------------------------------------------------------------------


class SealedRecord(Record):
    """An engine of the record contract that keeps content sealed."""

    def __init__(self, inner: Record, vault: Vault, *, key_ttl_s: float = limits.data_key_s) -> None:
        self.inner = inner
        self.engine = inner.engine
        self.capabilities = inner.capabilities
        self.keys = Keys(inner, vault, ttl_s=key_ttl_s)
        self._subjects: _Recent[tuple[str, str], str] = _Recent(ttl_s=key_ttl_s)
        """Of sessions, by (tenant, session)."""
        self._appends: set[asyncio.Future[None]] = set()
        """At work: an append asks for its key before the engine hears of it."""

    async def open(self) -> None:
        await self.keys.vault.open()
        await self.inner.open()
        try:
            await self._check_keys()
        except BaseException:
            await self.inner.close()
            raise

    async def _check_keys(self) -> None:
        """Open one key of each wrapping that stands at the front. Raises ConfigInvalid: it is better known now."""
        page = await self.inner.keys_all(after=("", b""), count_max=limits.page_max)
        for tenant, stored in {stored.wrapping: (tenant, stored) for tenant, stored in page}.values():
            try:
                await self.keys.vault.unwrap(tenant, stored)
            except (StoreUnavailable, StoreCorrupt) as error:
                raise ConfigInvalid(
                    f"{error.message}: the record store is of other encryption keys",
                    field="encryption_keys_file",
                    **error.metadata,
                ) from None

    async def close(self) -> None:
        if self._appends:
            await asyncio.wait(self._appends)
        await self.inner.close()

    @contextlib.asynccontextmanager
    async def _appending(self) -> AsyncIterator[None]:
        """Have `close` wait for an append, and name its phase when its deadline passes before the engine has it."""
        done = asyncio.get_running_loop().create_future()
        self._appends.add(done)
        try:
            yield
        except DeadlineExceeded as error:
            raise DeadlineExceeded(error.message, phase="record_append") from error
        finally:
            self._appends.discard(done)
            done.set_result(None)

    async def examine(self) -> Sequence[Finding]:
        return await self.inner.examine()

    async def signing_key(self) -> bytes:
        return await self.inner.signing_key()

    async def may_be(self, tenant: str) -> bool:
        return await self.inner.may_be(tenant)

    # --- the log ---

    async def append(self, event: NewEvent, *, deadline: Deadline | None = None) -> Appended:
        async with self._appending():
            subject = await self._subject(event, deadline=deadline)
            done = await self._append(
                event, subject, lambda sealed: self.inner.append(sealed, deadline=deadline), deadline
            )
        self._subjects.put((event.tenant, event.session), done.subject, since=time.monotonic())
        return done

    async def restore(self, event: NewEvent, *, committed_at_us: int) -> Appended:
        async with self._appending():
            (head,) = await self.inner.fetch([HeadRead(tenant=event.tenant, session=event.session)])
            begun = cast(Head, head) if head is not None and not cast(Head, head).expired else None
            subject = begun.subject if begun else event.subject
            done = await self._append(
                event, subject, lambda sealed: self.inner.restore(sealed, committed_at_us=committed_at_us), None
            )
        self._subjects.put((event.tenant, event.session), done.subject, since=time.monotonic())
        return done

    async def _append(
        self, event: NewEvent, subject: str, write: Callable[[NewEvent], Awaitable[Appended]], deadline: Deadline | None
    ) -> Appended:
        tenant = event.tenant
        try:
            key = await self.keys.of(tenant, subject, deadline=deadline)
            identity = _event_identity(tenant, event.session, event.request_id)
            sealed = await _run(
                lambda: replace(
                    event,
                    digest=key.digest(event.digest),
                    body=key.seal(event.body, identity),
                    items=[_seal_item(key, tenant, subject, event.session, item) for item in event.items],
                ),
                values=len(event.items),
            )
            try:
                done = await write(sealed)
            except RequestIdReused:  # unless it was written before encryption was switched on
                done = await write(replace(sealed, digest=event.digest))
        except Erased:
            self.keys.forget(tenant, subject)
            raise
        return done

    async def _subject(self, event: NewEvent, *, deadline: Deadline | None) -> str:
        """Return the subject that a session belongs to, or will: not the one that a refused append names."""
        known = self._subjects.get((event.tenant, event.session))
        if known is not None:
            return known
        reads: list[Read] = [HeadRead(tenant=event.tenant, session=event.session)]
        if event.subject and self.keys.held(event.tenant, event.subject) is None:
            reads.append(KeyRead(tenant=event.tenant, subject=event.subject))
        since = time.monotonic()
        head, *stored = await self.inner.fetch(reads, deadline=deadline)
        for one in stored:
            if one is not None:
                await self.keys.learn(event.tenant, cast(StoredKey, one), since=since)
        if head is not None:
            return cast(Head, head).subject
        if event.subject:
            return event.subject
        if event.must_exist:
            raise SessionNotFound("the tenant has no such session", field="session_id")
        if event.expected_version:
            raise VersionInFuture("the expected version is ahead of the session", current_version=0)
        raise InvalidField("the first append of a session must name its subject", field="subject_id")

    async def redact(
        self, tenant: str, *, session: str, version: int, body: bytes, entries: Sequence[int], erasure: Erasure
    ) -> None:
        head, events = await self.inner.fetch(
            [
                HeadRead(tenant=tenant, session=session),
                EventsRead(tenant=tenant, session=session, after_version=version - 1, count_max=1, bytes_max=1),
            ]
        )
        if head is not None and events:
            try:
                key = await self.keys.of(tenant, cast(Head, head).subject)
            except Erased:
                return
            request_id = cast("Sequence[StoredEvent]", events)[0].request_id
            body = key.seal(body, _event_identity(tenant, session, request_id))
        await self.inner.redact(tenant, session=session, version=version, body=body, entries=entries, erasure=erasure)

    async def put_checkpoint(self, tenant: str, checkpoint: Checkpoint) -> None:
        subject = self._subjects.get((tenant, checkpoint.session))
        if subject is None:
            (head,) = await self.inner.fetch([HeadRead(tenant=tenant, session=checkpoint.session)])
            if head is None or cast(Head, head).expired:
                return
            subject = cast(Head, head).subject
        try:
            key = await self.keys.of(tenant, subject)
        except Erased:
            return
        sealed = key.seal(checkpoint.body, _checkpoint_identity(tenant, checkpoint))
        await self.inner.put_checkpoint(tenant, replace(checkpoint, body=sealed))

    async def sweep(self, tenant: str, session: str) -> bool:
        self._subjects.drop((tenant, session))
        return await self.inner.sweep(tenant, session)

    async def forgotten(self, tenant: str, session: str) -> None:
        await self.inner.forgotten(tenant, session)

    # --- reading ---

    async def fetch(self, reads: Sequence[Read], *, deadline: Deadline | None = None) -> list[Answer]:
        answers = await self._fetch(reads, deadline=deadline)
        keys = await self._keys_for(reads, answers, deadline=deadline)
        if keys is None:  # erased between the two reads: then it is not read again
            answers = await self._fetch(reads, deadline=deadline)
            keys = await self._keys_for(reads, answers, deadline=deadline)
        if keys is None:
            raise StoreCorrupt("what is stored was sealed under a key that is gone")
        opener = _Opener(keys)
        return await _run(
            lambda: [opener.answer(read, answer) for read, answer in zip(reads, answers, strict=True)],
            values=sum(map(_size, answers)),
        )

    async def _keys_for(
        self, reads: Sequence[Read], answers: Sequence[Answer], *, deadline: Deadline | None
    ) -> Mapping[tuple[str, bytes], DataKey] | None:
        """Return the keys that answers need; None if one of them is gone."""
        wanted = {one for read, answer in zip(reads, answers, strict=True) for one in _key_ids(read, answer)}
        if not wanted:
            return {}
        keys = await self.keys.by_id(wanted, deadline=deadline)
        return keys if len(keys) == len(wanted) else None

    async def _fetch(self, reads: Sequence[Read], *, deadline: Deadline | None) -> list[Answer]:
        """Fetch, and in the same round trip the keys of the subjects that the reads are about."""
        owners = {owner for owner in map(self._owner, reads) if owner is not None}
        asked = [owner for owner in sorted(owners) if self.keys.held(*owner) is None]
        since = time.monotonic()
        found = await self.inner.fetch(
            [*map(_roomy, reads), *(KeyRead(tenant=tenant, subject=subject) for tenant, subject in asked)],
            deadline=deadline,
        )
        answers = found[: len(reads)]
        for (tenant, _), stored in zip(asked, found[len(reads) :], strict=True):
            if stored is not None:
                await self.keys.learn(tenant, cast(StoredKey, stored), since=since)
        for read, answer in zip(reads, answers, strict=True):
            if isinstance(read, SessionRead) and answer is not None:
                head = cast(SessionState, answer).head
                self._subjects.put((read.tenant, read.session), head.subject, since=since)
        return answers

    def _owner(self, read: Read) -> tuple[str, str] | None:
        """Return the (tenant, subject) whose content a read asks for, as far as it is known."""
        subject = None
        match read:
            case ScopeRead() | ChangesRead() | StateRead() | StateList() | StateAll():
                subject = read.subject
            case SessionRead() | EventsRead():
                subject = self._subjects.get((read.tenant, read.session))
            case _:
                return None
        return (read.tenant, subject) if subject else None

    # --- what is derived ---

    async def put_vectors(
        self, scope: Scope, *, model: str, vectors: Sequence[bytes], deadline: Deadline | None = None
    ) -> bool:
        tenant, subject = scope.tenant, scope.subject
        if scope.position * _SEALS_AN_ITEM >= limits.sealed_messages_max:
            raise LimitExceeded(
                "the subject has more items than one key may seal",
                limit="sealed_messages_max",
                maximum=limits.sealed_messages_max,
                actual=scope.position * _SEALS_AN_ITEM,
            )
        try:
            key = await self.keys.of(tenant, subject, deadline=deadline)
        except Erased:
            return False
        sealed = await _run(
            lambda: [
                key.seal(vector, _vector_identity(tenant, subject, model, position))
                for position, vector in enumerate(vectors, scope.vector_position + 1)
            ],
            values=len(vectors),
        )
        return await self.inner.put_vectors(scope, model=model, vectors=sealed, deadline=deadline)

    async def restore_items(self, tenant: str, *, subject: str, event: StoredEvent, items: Sequence[NewItem]) -> None:
        try:
            key = await self.keys.of(tenant, subject)
        except Erased:
            return
        sealed = await _run(
            lambda: [_seal_item(key, tenant, subject, event.session, item) for item in items], values=len(items)
        )
        await self.inner.restore_items(tenant, subject=subject, event=event, items=sealed)

    async def drop_derived(self) -> None:
        await self.inner.drop_derived()

    async def claim(self, *, model: str, worker: str, lease_s: float, count_max: int) -> Sequence[Claim]:
        return await self.inner.claim(model=model, worker=worker, lease_s=lease_s, count_max=count_max)

    async def release(self, claim: Claim, *, reason: str = "", pause_s: float = 0.0) -> bool:
        return await self.inner.release(claim, reason=reason, pause_s=pause_s)

    async def unpark(self, tenant: str, *, subject: str, model: str) -> bool:
        return await self.inner.unpark(tenant, subject=subject, model=model)

    async def serve(self, model: str, *, instead_of: str) -> bool:
        return await self.inner.serve(model, instead_of=instead_of)

    async def drop_model(self, model: str) -> None:
        await self.inner.drop_model(model)

    # --- erasure ---

    async def erase(self, tenant: str, *, subject: str, session: str = "") -> Erasure:
        erasure = await self.inner.erase(tenant, subject=subject, session=session)
        if not session:
            self.keys.forget(tenant, subject)
        return erasure

    async def finish_erasure(self, erasure: Erasure) -> Erasure:
        return await self.inner.finish_erasure(erasure)

    async def reopen(self, tenant: str, *, subject: str) -> None:
        """Wait until no process holds the key of before any more: what it sealed with it nobody could open."""
        erasure, now = await self.inner.fetch([ErasureRead(tenant=tenant, subject=subject), GrantsRead()])
        if erasure is not None and cast(Erasure, erasure).done_at_us:
            gone_s = (cast(GrantsState, now).now_us - cast(Erasure, erasure).asked_at_us) / 1e6
            await asyncio.sleep(min(max(self.keys.ttl_s - gone_s, 0.0), self.keys.ttl_s))
        await self.inner.reopen(tenant, subject=subject)

    # --- state ---

    async def put_state(
        self,
        tenant: str,
        *,
        subject: str,
        collection: str,
        writes: Sequence[StateWrite],
        deadline: Deadline | None = None,
    ) -> int:
        async with self._appending():
            try:
                key = await self.keys.of(tenant, subject, deadline=deadline)

                def sealed(write: StateWrite) -> StateWrite:
                    if write.value is None:
                        return write
                    own = _state_key(key, collection, write.key)
                    identity = _state_identity(tenant, subject, collection, write.key)
                    return replace(write, value=own.seal(write.value, identity))

                writes = await _run(lambda: [sealed(write) for write in writes], values=len(writes))
                return await self.inner.put_state(
                    tenant, subject=subject, collection=collection, writes=writes, deadline=deadline
                )
            except Erased:
                self.keys.forget(tenant, subject)
                raise

    async def delete_state(
        self,
        tenant: str,
        *,
        subject: str,
        collection: str,
        prefix: str,
        count_max: int,
        deadline: Deadline | None = None,
    ) -> tuple[int, bool]:
        return await self.inner.delete_state(
            tenant, subject=subject, collection=collection, prefix=prefix, count_max=count_max, deadline=deadline
        )

    async def expire_state(self, *, count_max: int) -> int:
        return await self.inner.expire_state(count_max=count_max)

    async def scrub(self) -> None:
        await self.inner.scrub()

    # --- keys, policies, grants, and what spans tenants ---

    async def put_key(self, tenant: str, key: StoredKey) -> StoredKey:
        return await self.inner.put_key(tenant, key)

    async def rewrap(self, tenant: str, *, old: StoredKey, new: StoredKey) -> bool:
        return await self.inner.rewrap(tenant, old=old, new=new)

    async def keys_all(self, *, after: tuple[str, bytes], count_max: int) -> Sequence[tuple[str, StoredKey]]:
        return await self.inner.keys_all(after=after, count_max=count_max)

    async def publish_policy(
        self, tenant: str, *, name: str, document: str, digest: bytes
    ) -> tuple[StoredPolicy, bool]:
        return await self.inner.publish_policy(tenant, name=name, document=document, digest=digest)

    async def set_route(self, tenant: str, route: StoredRoute) -> None:
        await self.inner.set_route(tenant, route)

    async def sessions_all(self, *, after: tuple[str, str], count_max: int) -> Sequence[tuple[str, Head]]:
        return await self.inner.sessions_all(after=after, count_max=count_max)

    async def adopt(self, incarnation: str, slots: Sequence[tuple[int, int]]) -> None:
        await self.inner.adopt(incarnation, slots)

    async def revoke(self, incarnation: str) -> None:
        await self.inner.revoke(incarnation)

    async def date_grants(self) -> None:
        await self.inner.date_grants()


# --- the hot store -------------------------------------------------------------------------------------------------


class SealedHot(Hot[V]):
    """A coherent engine of the hot contract that keeps tails sealed. Views in this process are plain."""

    def __init__(self, inner: Hot[V], keys: Keys) -> None:
        self.inner = inner
        self.engine = inner.engine
        self.capabilities = inner.capabilities
        self._keys = keys

    async def open(self, *, deployment: str = "") -> None:
        # Tails in another form are those of another deployment: who does not encrypt neither finds nor trusts them.
        await self.inner.open(deployment=f"{deployment}sealed")

    async def examine(self) -> Sequence[Finding]:
        return await self.inner.examine()

    def held(self, key: HotKey) -> V | None:
        return self.inner.held(key)

    def keep(self, key: HotKey, view: V, *, ttl_s: float | None = None) -> bool:
        return self.inner.keep(key, view, ttl_s=ttl_s)

    async def fetch(self, key: HotKey, *, ttl_s: float | None = None, deadline: Deadline | None = None) -> Found[V]:
        found = await self.inner.fetch(key, ttl_s=ttl_s, deadline=deadline)
        if found.gained is None:
            return found
        try:
            return replace(found, gained=await self._opened(key.tenant, found.gained, deadline=deadline))
        except StandpipeError:  # sealed under a key that is gone or not at hand, or not sealed by us
            return replace(found, gained=None, grant=0)

    async def announce(
        self, tenant: str, session: str, *, mark: str, lasts_ms: int, deadline: Deadline | None = None
    ) -> Ticket:
        return await self.inner.announce(tenant, session, mark=mark, lasts_ms=lasts_ms, deadline=deadline)

    async def publish(
        self,
        tenant: str,
        session: str,
        state: SessionState,
        *,
        ticket: Ticket,
        grant: int,
        mark: str = "",
        deadline: Deadline | None = None,
    ) -> Place:
        try:
            sealed = await self._sealed(tenant, session, state, deadline=deadline)
        except StandpipeError as error:
            raise HotUnavailable(f"the session's tail cannot be sealed: {error.reason}") from None
        return await self.inner.publish(
            tenant, session, sealed, ticket=ticket, grant=grant, mark=mark, deadline=deadline
        )

    async def withdraw(
        self, tenant: str, session: str, *, ticket: Ticket, mark: str, version: int, deadline: Deadline | None = None
    ) -> Place:
        return await self.inner.withdraw(tenant, session, ticket=ticket, mark=mark, version=version, deadline=deadline)

    async def forget(self, tenant: str, session: str) -> None:
        await self.inner.forget(tenant, session)

    async def flush(self) -> None:
        await self.inner.flush()

    def slot(self, tenant: str, session: str) -> int:
        return self.inner.slot(tenant, session)

    def slots_of(self, incarnation: str) -> Sequence[tuple[int, int]]:
        return self.inner.slots_of(incarnation)

    async def close(self) -> None:
        await self.inner.close()

    async def _sealed(
        self, tenant: str, session: str, state: SessionState, *, deadline: Deadline | None
    ) -> SessionState:
        if not state.events and state.checkpoint is None:
            return state
        key = (await self._keys.of(tenant, state.head.subject, deadline=deadline)).derived(f"tail {session}")
        checkpoint = state.checkpoint

        def seal() -> SessionState:
            return replace(
                state,
                checkpoint=checkpoint
                and replace(checkpoint, body=key.seal(checkpoint.body, _checkpoint_identity(tenant, checkpoint))),
                events=[replace(one, body=key.seal(one.body, _hot_identity(tenant, one))) for one in state.events],
            )

        return await _run(seal, values=len(state.events))

    async def _opened(self, tenant: str, state: SessionState, *, deadline: Deadline | None) -> SessionState:
        checkpoint = state.checkpoint
        bodies = [one.body for one in state.events] + ([checkpoint.body] if checkpoint else [])
        if not all(map(is_sealed, bodies)):
            raise StoreCorrupt("what a tail holds is not sealed")
        found = await self._keys.by_id({(tenant, key_id_of(body)) for body in bodies}, deadline=deadline)
        keys = {key_id: key.derived(f"tail {state.head.session}") for (_, key_id), key in found.items()}

        def opened(body: bytes, identity: bytes) -> bytes:
            key = keys.get(key_id_of(body))
            if key is None:
                raise StoreCorrupt("a tail was sealed under a key that is gone")
            return key.open(body, identity)

        def open_all() -> SessionState:
            return replace(
                state,
                checkpoint=checkpoint
                and replace(checkpoint, body=opened(checkpoint.body, _checkpoint_identity(tenant, checkpoint))),
                events=[replace(one, body=opened(one.body, _hot_identity(tenant, one))) for one in state.events],
            )

        return await _run(open_all, values=len(state.events))
