"""A record engine against a plain dictionary: whatever the order of calls, both answer alike."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar import limits
from sidecar.errors import (
    Erased,
    InvalidField,
    RequestIdReused,
    SessionEnded,
    StandpipeError,
    SubjectMismatch,
    ToolResultWithoutCall,
    VersionConflict,
    VersionInFuture,
)
from sidecar.stores.postgres import PostgresRecord
from sidecar.stores.record import (
    Appended,
    ChangesRead,
    Checkpoint,
    Claim,
    ErasuresRead,
    EventKind,
    EventsRead,
    ExpiredRead,
    Head,
    HeadRead,
    HeldRead,
    ItemKind,
    Lag,
    LagRead,
    NewEvent,
    NewItem,
    ParkedRead,
    Read,
    Record,
    Scope,
    ScopeRead,
    ScopeState,
    SessionRead,
    SessionState,
    StateAll,
    StateFound,
    StateWrite,
)
from sidecar.stores.sqlite import SqliteRecord
from tests.contract.postgres import ROLE, empty, migrated
from tests.contract.record_suite import item, turn
from tests.servers import Postgres

T = TypeVar("T")
Key = tuple[str, str]

tenants = st.sampled_from(["acme"] * 3 + ["rival"])
sessions = st.sampled_from(["s1", "s1", "s2", "s3"])
subjects = st.sampled_from(["ana", "ana", "bob"])
call_ids = st.lists(st.sampled_from(["c1", "c2", "c3"]), max_size=2)
MODELS = ["minilm", "other"]


@dataclass
class ModelSession:
    """A session as the contract's text has it."""

    subject: str
    events: list[NewEvent] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    open_calls: set[str] = field(default_factory=set)
    had_calls: set[str] = field(default_factory=set)
    erased: bool = False


@dataclass
class ModelItem:
    """An item as the contract's text has it."""

    session: str
    version: int
    new: NewItem
    gone: bool = False

    def shown(self) -> tuple[str, int, ItemKind, bool, str, bytes]:
        """Return what a read shows of it."""
        text, detail = ("", b"") if self.gone else (self.new.text, self.new.detail)
        return self.session, self.version, self.new.kind, self.gone, text, detail


@dataclass
class ModelOrder:
    """What is known of a work order beside its items: nothing, until it is claimed."""

    attempts: int = 0
    claim: Claim | None = None
    parked: bool = False


def key_of(held: Claim) -> Key:
    """Return whose order a claim holds."""
    return held.scope.tenant, held.scope.subject


class RecordMachine(RuleBasedStateMachine):
    """Drives two handles on one store, in turns, so that neither may keep what the other changes."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.records = [self.make(), self.make()]
        for record in self.records:
            self.run(record.open())
        for model in MODELS:  # one that comes late orders only what the log knows
            self.run(self.records[0].claim(model=model, worker="first", lease_s=0, count_max=1))
        self.sessions: dict[Key, ModelSession] = {}
        self.items: dict[Key, list[ModelItem]] = {}
        self.idle: set[Key] = set()
        """Subjects that were rebuilt when all of their items were gone: nobody waits for their vectors."""
        self.erased: set[Key] = set()
        self.erasures: dict[tuple[str, str, str], bool] = {}
        """Of what was erased ever, whether that is finished."""
        self.vectors: dict[tuple[str, str, str], int] = {}
        self.orders: dict[tuple[str, str, str], ModelOrder] = {}
        self.folds: dict[Key, set[int]] = {}
        self.kept: dict[Key, dict[tuple[str, str], tuple[bytes, int]]] = {}
        """Of each subject its records of state: (value, revision) by (collection, key)."""
        self.revisions: dict[Key, int] = {}
        self.calls = 0

    def make(self) -> Record:
        """Return a handle on the store, not yet opened; the first one's store is empty."""
        raise NotImplementedError

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run one call to its end."""
        return self.runner.run(call)

    @property
    def record(self) -> Record:
        """The handle whose turn it is."""
        self.calls += 1
        return self.records[self.calls % 2]

    def teardown(self) -> None:
        """Close the handles."""
        for record in self.records:
            self.run(record.close())
        self.runner.close()

    def write(self, tenant: str, subject: str, session: str, *, items: Sequence[NewItem], restored: bool) -> bool:
        """Write an event that nothing but an erasure is in the way of; return whether it was written."""
        held = self.sessions.get((tenant, session))
        subject = held.subject if held else subject
        alive = held if held and not held.erased else None
        version = len(alive.events) if alive else 0
        event = turn(session, tenant=tenant, subject=subject, expected=version, items=items)
        erased = (tenant, subject) in self.erased
        anew = held is None or (restored and self.erasures.get((tenant, subject, session), False))
        try:
            call = self.record.restore(event, committed_at_us=1) if restored else self.record.append(event)
            appended = self.run(call)
        except Erased:
            assert erased or not (alive or anew)
            return False
        assert not erased
        assert alive or anew
        alive = self.sessions[tenant, session] = alive or ModelSession(subject=subject)
        memory = self.items.setdefault((tenant, subject), [])
        alive.events.append(event)
        memory += [ModelItem(session, version + 1, new) for new in items]
        if items:
            self.idle.discard((tenant, subject))
        alive.positions.append(len(memory))
        assert (appended.version, appended.position) == (version + 1, len(memory))
        return True

    @rule(
        tenant=tenants,
        subject=subjects,
        session=sessions,
        kinds=st.lists(st.sampled_from(ItemKind), max_size=3),
        restored=st.booleans(),
    )
    def go_on(self, tenant: str, subject: str, session: str, kinds: Sequence[ItemKind], restored: bool) -> None:
        """Append what is right, or restore it."""
        held = self.sessions.get((tenant, session))
        if held and held.events and held.events[-1].kind == EventKind.END and not held.erased:
            return
        items = [item(kind.name, entry=entry, kind=kind, detail=b"detail") for entry, kind in enumerate(kinds)]
        self.write(tenant, subject, session, items=items, restored=restored)

    @rule(
        tenant=tenants,
        subject=subjects,
        collection=st.sampled_from(["c", "d"]),
        writes=st.dictionaries(
            st.sampled_from(["a", "ab", "b"]),
            st.tuples(st.none() | st.binary(max_size=3), st.none() | st.integers(-1, 1)),
            min_size=1,
            max_size=3,
        ),
    )
    def put_state(
        self, tenant: str, subject: str, collection: str, writes: dict[str, tuple[bytes | None, int | None]]
    ) -> None:
        """Change records of state: some expect the revision that there is, some the one beside it (R36, R40)."""
        kept = self.kept.setdefault((tenant, subject), {})
        stands = {key: kept.get((collection, key), (b"", 0))[1] for key in writes}
        made = [
            StateWrite(key=key, value=value, expected_revision=None if off is None else max(0, stands[key] + off))
            for key, (value, off) in writes.items()
        ]
        wrong = [one for one in made if one.expected_revision not in {None, stands[one.key]}]
        call = self.record.put_state(tenant, subject=subject, collection=collection, writes=made)
        if (tenant, subject) in self.erased:
            with pytest.raises(Erased):
                self.run(call)
            return
        if wrong:
            with pytest.raises(VersionConflict) as refused:
                self.run(call)
            told = {"key_index": str(made.index(wrong[0])), "current_version": str(stands[wrong[0].key])}
            assert refused.value.metadata == told
            return
        revision = self.run(call)
        assert revision == self.revisions.get((tenant, subject), 0) + 1
        self.revisions[tenant, subject] = revision
        for one in made:
            kept.pop((collection, one.key), None)
            if one.value is not None:
                kept[collection, one.key] = (one.value, revision)

    @rule(tenant=tenants, subject=subjects, prefix=st.sampled_from(["", "a", "b"]), count_max=st.integers(1, 3))
    def delete_state(self, tenant: str, subject: str, prefix: str, count_max: int) -> None:
        """Delete records by the beginning of their keys (R37)."""
        kept = self.kept.get((tenant, subject), {})
        found = sorted(key for collection, key in kept if collection == "c" and key.startswith(prefix))
        what: Any = {"subject": subject, "collection": "c", "prefix": prefix, "count_max": count_max}
        deleted = self.run(self.record.delete_state(tenant, **what))
        assert deleted == (len(found[:count_max]), len(found) > count_max)
        for key in found[:count_max]:
            del kept["c", key]

    def refusal(self, event: NewEvent) -> type[StandpipeError] | None:
        """Return what the contract says that a new event is refused for (R2, R7 to R10)."""
        session = self.sessions.get((event.tenant, event.session))
        if session is None and (event.tenant, event.subject) in self.erased:
            return Erased
        version = len(session.events) if session else 0
        opened: set[str] = set(session.open_calls) if session else set()
        had = set(session.had_calls) if session else set()
        if event.expected_version is not None and event.expected_version != version:
            return VersionInFuture if event.expected_version > version else VersionConflict
        if session is None and not event.subject:
            return InvalidField
        if session and session.events[-1].kind == EventKind.END:
            return SessionEnded
        if session and event.subject not in {"", session.subject}:
            return SubjectMismatch
        for call_id in event.opened_calls:
            if call_id in had:
                return InvalidField
            had.add(call_id)
            opened.add(call_id)
        for call_id in event.answered_calls:
            if call_id not in opened:
                return ToolResultWithoutCall
            opened.remove(call_id)
        for cited, at in event.citations:
            source = self.sessions.get((event.tenant, cited))
            if source is None or source.erased or not 1 <= at <= len(source.events):
                return InvalidField
        return None

    @rule(
        tenant=tenants,
        session=sessions,
        subject=st.sampled_from(["ana", "ana", "bob", ""]),
        request_id=st.integers(1, 40).map(lambda number: f"r{number}"),
        digest=st.sampled_from([b"1" * 32, b"1" * 32, b"2" * 32]),
        expected=st.none() | st.integers(0, 6),
        kind=st.sampled_from([EventKind.TURN] * 9 + [EventKind.END]),
        texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=3),
        item_kind=st.sampled_from(ItemKind),
        restored=st.booleans(),
        weight=st.integers(0, 20),
        opened=call_ids,
        answered=call_ids,
        citations=st.lists(st.tuples(sessions, st.integers(1, 2)), max_size=1),
    )
    def append(
        self,
        tenant: str,
        session: str,
        subject: str,
        request_id: str,
        digest: bytes,
        expected: int | None,
        kind: EventKind,
        texts: Sequence[str],
        item_kind: ItemKind,
        restored: bool,
        weight: int,
        opened: Sequence[str],
        answered: Sequence[str],
        citations: Sequence[tuple[str, int]],
    ) -> None:
        """Append in any mode, or restore; a request id that is used again is a retry or a reuse."""
        event = NewEvent(
            tenant=tenant,
            session=session,
            subject=subject,
            request_id=request_id,
            digest=digest,
            expected_version=expected,
            kind=kind,
            body="\n".join(texts).encode(),
            weight_bytes=weight,
            items=[item(text, entry=entry, kind=item_kind, detail=text.encode()) for entry, text in enumerate(texts)],
            opened_calls=opened,
            answered_calls=answered,
            citations=citations,
        )
        key = (tenant, session)
        held = self.sessions.get(key)
        outcome: Appended | StandpipeError
        try:
            call = self.record.restore(event, committed_at_us=0) if restored else self.record.append(event)
            outcome = self.run(call)
        except StandpipeError as error:
            outcome = error
        if held and held.erased:
            finished = (tenant, held.subject) not in self.erased and self.erasures[tenant, held.subject, session]
            if not restored or not finished:
                assert type(outcome) is Erased
                return
            del self.sessions[key]
            refusal = self.refusal(event)
            if refusal is not None:  # then it is erased as before
                self.sessions[key] = held
                assert type(outcome) is refusal
                return
            held = None
        for version, old in enumerate(held.events if held else (), 1):
            if held and old.request_id == request_id:
                if old.digest != digest:
                    assert type(outcome) is RequestIdReused
                else:
                    assert isinstance(outcome, Appended)
                    assert (outcome.version, outcome.replayed) == (version, True)
                    assert outcome.position == held.positions[version - 1]
                return
        refusal = self.refusal(event)
        if refusal is not None:
            assert type(outcome) is refusal
            return
        assert isinstance(outcome, Appended)
        held = self.sessions.setdefault(key, ModelSession(subject=subject))
        held.events.append(event)
        held.had_calls.update(opened)
        held.open_calls = (held.open_calls | set(opened)) - set(answered)
        memory = self.items.setdefault((tenant, held.subject), [])
        memory += [ModelItem(session, len(held.events), new) for new in event.items]
        if event.items:
            self.idle.discard((tenant, held.subject))
        held.positions.append(len(memory))
        assert not outcome.replayed
        assert (outcome.version, outcome.position) == (len(held.events), len(memory))
        assert outcome.subject == held.subject

    @rule(tenant=tenants, subject=subjects, model=st.sampled_from(MODELS), start=st.integers(0, 4), data=st.data())
    def put_vectors(self, tenant: str, subject: str, model: str, start: int, data: st.DataObject) -> None:
        """Embed some items: taken only right behind the last vector."""
        held = self.vectors.get((tenant, subject, model), 0)
        start = data.draw(st.sampled_from([held, held, start]))
        count = data.draw(st.integers(1, 3))
        last = len(self.items.get((tenant, subject), []))
        scope = Scope(tenant=tenant, subject=subject, position=last, vector_position=start)
        vectors = [b"%d" % position for position in range(start + 1, start + count + 1)]
        put = self.run(self.record.put_vectors(scope, model=model, vectors=vectors))
        assert put == (start == held and start + count <= last and (tenant, subject) not in self.erased)
        if put:
            self.vectors[tenant, subject, model] = start + count
            self.orders.pop((tenant, subject, model), None)

    @rule(model=st.sampled_from(MODELS), count_max=st.sampled_from([1, 2, 99]), lease_s=st.sampled_from([0, 0, 3600]))
    def claim(self, model: str, count_max: int, lease_s: float) -> None:
        """Claim what is due: fresh orders together, one that was tried before alone, a worn out one not at all."""
        due = {
            (*key, model): self.orders.get((*key, model), ModelOrder())
            for key, items in self.items.items()
            if len(items) > self.vectors.get((*key, model), 0) and key not in self.erased | self.idle
        }
        due = {key: order for key, order in due.items() if order.claim is None and not order.parked}
        worn = {key for key, order in due.items() if order.attempts >= limits.work_attempts_max}
        worker = f"worker-{self.calls}"
        claims = self.run(self.record.claim(model=model, worker=worker, lease_s=lease_s, count_max=count_max))
        taken = {(held.scope.tenant, held.scope.subject, model) for held in claims}
        assert len(taken) == len(claims) <= count_max
        assert taken <= due.keys() - worn
        assert bool(claims) or due.keys() == worn or len(worn) >= count_max
        assert len(claims) == 1 or not any(due[key].attempts for key in taken)
        if count_max > len(due) and not any(order.attempts for order in due.values()):
            assert taken == due.keys()
        listed = self.run(self.record.fetch([ParkedRead()]))[0]
        assert isinstance(listed, list)
        parked = {(one.tenant, one.subject, one.model) for one in listed}
        for key in worn & parked:
            self.orders[key].parked = True
        for held in claims:
            order = self.orders.setdefault((held.scope.tenant, held.scope.subject, model), ModelOrder())
            order.attempts += 1
            order.claim = held if lease_s else None
            assert held.attempts == order.attempts
            assert held.scope.vector_position == self.vectors.get((*key_of(held), model), 0)

    @rule(reason=st.sampled_from(["", "INTERNAL"]), data=st.data())
    def release(self, reason: str, data: st.DataObject) -> None:
        """Give a claim back, failed or not, twice: the second time it is over."""
        held = [order for order in self.orders.values() if order.claim]
        if not held:
            return
        order = data.draw(st.sampled_from(held))
        assert order.claim is not None
        order.attempts -= not reason
        order.parked = order.attempts >= limits.work_attempts_max
        assert self.run(self.record.release(order.claim, reason=reason)) == order.parked
        assert not self.run(self.record.release(order.claim, reason="STORE_CORRUPT"))
        order.claim = None

    @rule(tenant=tenants, subject=subjects, model=st.sampled_from(MODELS))
    def unpark(self, tenant: str, subject: str, model: str) -> None:
        """Free a parked order, if it is one."""
        order = self.orders.get((tenant, subject, model), ModelOrder())
        assert self.run(self.record.unpark(tenant, subject=subject, model=model)) == order.parked
        if order.parked:
            del self.orders[tenant, subject, model]

    @rule(tenant=tenants, session=sessions, data=st.data())
    def put_checkpoint(self, tenant: str, session: str, data: st.DataObject) -> None:
        """Fold a session at some version."""
        held = self.sessions.get((tenant, session))
        if held and held.events:
            version = data.draw(st.integers(1, len(held.events)))
            weight = sum(event.weight_bytes for event in held.events[:version])
            fold = Checkpoint(session=session, tokenizer="o", version=version, weight_bytes=weight, body=b"")
            self.run(self.record.put_checkpoint(tenant, fold))
            if not held.erased:
                self.folds.setdefault((tenant, session), set()).add(version)

    @rule(
        tenant=tenants,
        session=sessions,
        known=st.integers(0, 6),
        at=st.none() | st.integers(0, 6),
        window=st.integers(0, 60),
    )
    def read_session(self, tenant: str, session: str, known: int, at: int | None, window: int) -> None:
        """Read the end of a log, as a view that is current, behind or cold would."""
        read = SessionRead(
            tenant=tenant, session=session, tokenizer="o", known_version=known, at_version=at, window_bytes=window
        )
        (state,) = self.run(self.record.fetch([read]))
        held = self.sessions.get((tenant, session))
        if held is None:
            assert state is None
            return
        assert isinstance(state, SessionState)
        if held.erased:
            assert (state.checkpoint, list(state.events), state.after_version) == (None, [], known)
            return
        end = len(held.events) if at is None else min(at, len(held.events))

        def weigh(after: int) -> int:
            return sum(event.weight_bytes for event in held.events[after:end])

        folds = self.folds.get((tenant, session), set())
        if known == end or (0 < known < end and weigh(known) <= window):
            after = known
        else:
            after = max((version for version in folds if version <= end and weigh(version) >= window), default=0)
            assert (state.checkpoint.version if state.checkpoint else 0) == after
        assert state.after_version == after
        assert [event.body for event in state.events] == [event.body for event in held.events[after:end]]

    @rule(tenant=tenants, subject=subjects, session=st.sampled_from(["s1", "s1", "s2", ""]), last=st.booleans())
    def erase(self, tenant: str, subject: str, session: str, last: bool) -> None:
        """Mark a session or a subject; mostly, see that nothing is left of what was marked."""
        held = self.sessions.get((tenant, session))
        if held and held.subject != subject:
            with pytest.raises(SubjectMismatch):
                self.run(self.record.erase(tenant, subject=subject, session=session))
            return
        marked = held.erased if held else (tenant, subject) in self.erased and not session
        erasure = self.run(self.record.erase(tenant, subject=subject, session=session))
        key = (tenant, subject, session)
        if not marked or key not in self.erasures:
            self.erasures[key] = False
        assert bool(erasure.done_at_us) == self.erasures[key]
        if session:
            self.sessions.setdefault((tenant, session), ModelSession(subject=subject)).erased = True
            self.folds.pop((tenant, session), None)
        elif not marked:
            if (tenant, subject) not in self.erased:
                assert erasure.records == len(self.kept.pop((tenant, subject), {}))
            self.erased.add((tenant, subject))
            for name, one in self.sessions.items():
                if (name[0], one.subject) == (tenant, subject):
                    one.erased = True
                    self.folds.pop(name, None)
            for model in MODELS:
                self.orders.pop((tenant, subject, model), None)
        if last:
            self.finish()

    def finish(self) -> None:
        """Do what is left to do of all erasures."""
        due, at_work = self.run(self.record.fetch([ExpiredRead(count_max=99), ErasuresRead(count_max=99)]))
        assert isinstance(due, list)
        assert isinstance(at_work, list)
        for tenant, session in due:
            assert self.sessions[tenant, session].erased
            self.run(self.record.sweep(tenant, session))
            self.run(self.record.forgotten(tenant, session))
        for erasure in at_work:
            self.run(self.record.finish_erasure(erasure))
        found = {(one.tenant, one.subject, one.session) for one in at_work}
        assert found == {key for key, finished in self.erasures.items() if not finished}
        self.erasures.update(dict.fromkeys(found, True))
        erased = {key for key, held in self.sessions.items() if held.erased}
        for (tenant, _), items in self.items.items():
            for one in items:
                one.gone = one.gone or (tenant, one.session) in erased

    @precondition(lambda self: self.erased)
    @rule(data=st.data())
    def reopen(self, data: st.DataObject) -> None:
        """Let an erased subject begin anew, and restore a session, if nothing of it is left."""
        tenant, subject = data.draw(st.sampled_from(sorted(self.erased)))
        if not self.erasures[tenant, subject, ""]:
            with pytest.raises(Erased):
                self.run(self.record.reopen(tenant, subject=subject))
            self.finish()
        self.run(self.record.reopen(tenant, subject=subject))
        self.erased.discard((tenant, subject))
        for key, held in list(self.sessions.items()):
            own = (tenant, subject, key[1]) in self.erasures
            if (key[0], held.subject) == (tenant, subject) and held.erased and not own:
                del self.sessions[key]
        # Its items wait for vectors from the first event on.
        assert self.write(tenant, subject, f"anew-{self.calls}", items=[item("again")], restored=True)

    @precondition(lambda self: any(held.events for held in self.sessions.values()))
    @rule(data=st.data(), entries=st.lists(st.integers(0, 3), unique=True, max_size=2), body=st.binary(max_size=5))
    def redact(self, data: st.DataObject, entries: Sequence[int], body: bytes) -> None:
        """Put another body in an event's place, and take some of its entries out; nothing if it was swept."""
        key = data.draw(st.sampled_from(sorted(key for key, held in self.sessions.items() if held.events)))
        (tenant, session), held = key, self.sessions[key]
        version = data.draw(st.integers(1, len(held.events)))
        erasure = self.run(self.record.erase(tenant, subject="nobody", session="nothing"))
        self.erasures.setdefault((tenant, "nobody", "nothing"), False)
        self.sessions.setdefault((tenant, "nothing"), ModelSession(subject="nobody", erased=True))
        self.run(
            self.record.redact(tenant, session=session, version=version, body=body, entries=entries, erasure=erasure)
        )
        event, end = held.events[version - 1], held.positions[version - 1]
        held.events[version - 1] = replace(event, body=body)
        for one in self.items.get((tenant, held.subject), [])[end - len(event.items) : end]:
            one.gone = one.gone or one.new.entry in entries
        folds = self.folds.get(key, set())
        folds.difference_update([fold for fold in folds if fold >= version])

    @precondition(lambda self: self.items)
    @rule(shuffle=st.randoms(use_true_random=False))
    def rebuild(self, shuffle: Any) -> None:
        """Drop all that is derived and put the items back, in any order."""
        self.finish()
        self.run(self.record.drop_derived())
        self.vectors.clear()
        self.orders.clear()
        self.folds.clear()
        self.idle = {key for key, items in self.items.items() if all(one.gone for one in items)}
        keys = list(self.sessions)
        shuffle.shuffle(keys)
        listed = self.run(self.record.sessions_all(after=("", ""), count_max=99))
        assert [(tenant, head.session) for tenant, head in listed] == sorted(keys)
        for tenant, session in keys:
            held = self.sessions[tenant, session]
            for new, event in zip([] if held.erased else held.events, self.log(tenant, session), strict=True):
                self.run(self.record.restore_items(tenant, subject=held.subject, event=event, items=new.items))

    def log(self, tenant: str, session: str) -> list[Any]:
        """Return all events of a session."""
        read = EventsRead(tenant=tenant, session=session, after_version=0, count_max=99, bytes_max=1 << 20)
        (events,) = self.run(self.record.fetch([read]))
        assert isinstance(events, list)
        return events

    @invariant()
    def the_state_agrees(self) -> None:
        """Every subject has the records that were written and not deleted, in their order."""
        whose = sorted(self.kept)
        reads = [StateAll(tenant=tenant, subject=subject, count_max=99, bytes_max=999) for tenant, subject in whose]
        for key, found in zip(whose, self.run(self.record.fetch(reads)), strict=True):
            assert isinstance(found, StateFound)
            assert [((one.collection, one.key), (one.value, one.revision)) for one in found.records] == sorted(
                self.kept[key].items()
            )

    @invariant()
    def the_store_agrees(self) -> None:
        """Whatever is read, all in one batch, is what was written and is not gone."""
        heads = [(tenant, session) for tenant in ("acme", "rival") for session in ("s1", "s2", "s3")]
        scopes = sorted(self.items)
        reads: list[Read] = [HeadRead(tenant=tenant, session=session) for tenant, session in heads]
        reads += [HeldRead(tenant=tenant, after_subject="", count_max=99) for tenant in ("acme", "rival")]
        for tenant, subject in scopes:
            reads.append(ChangesRead(tenant=tenant, subject=subject))
            reads += [ScopeRead(tenant=tenant, subject=subject, model=model) for model in MODELS]
        reads += [LagRead(model=model) for model in MODELS]
        answers: Any = iter(self.run(self.record.fetch([*reads, ParkedRead()])))
        for key in heads:
            self.head_agrees(key, next(answers))
        for tenant in ("acme", "rival"):
            listed = [subject for subject in next(answers) if (tenant, subject) not in self.erased]
            assert listed == [subject for owner, subject in scopes if owner == tenant and self.waits(owner, subject)]
        for key in scopes:
            changes = next(answers)
            for model in MODELS:
                self.memory_agrees(key, model, next(answers), changes)
        *lags, parked = answers
        for model, lag in zip(MODELS, lags, strict=True):
            self.lag_agrees(model, lag, parked)

    def waits(self, tenant: str, subject: str) -> bool:
        """Return whether a subject that is not erased has a change that is held back."""
        held = [one for one in self.items[tenant, subject] if one.new.kind == ItemKind.HELD and not one.gone]
        return bool(held) and (tenant, subject) not in self.erased

    def head_agrees(self, key: Key, head: Any) -> None:
        """Check a head, read or missing."""
        held = self.sessions.get(key)
        if held is None:
            assert head is None
            return
        assert isinstance(head, Head)
        assert (head.version, head.subject) == (len(held.events), held.subject)
        assert (head.erased, head.expired) == (held.erased, held.erased)
        if not held.erased:
            assert head.ended == (held.events[-1].kind == EventKind.END)
            assert head.position_end == held.positions[-1]
            assert head.weight_bytes == sum(event.weight_bytes for event in held.events)

    def memory_agrees(self, key: Key, model: str, memory: Any, changes: Any) -> None:
        """Check a subject's items, changes and vectors."""
        held, embedded = self.items[key], self.vectors.get((*key, model), 0)
        assert isinstance(memory, ScopeState)
        assert isinstance(changes, ScopeState)
        assert (memory.position, changes.position, changes.epoch) == (len(held), len(held), memory.epoch)
        if key in self.erased:
            assert (list(memory.items), list(memory.vectors), list(changes.items)) == ([], [], [])
            return
        assert [
            (found.session, found.version, found.kind, found.gone, found.text, found.detail) for found in memory.items
        ] == [one.shown() for one in held]
        assert [found.position for found in memory.items] == list(range(1, len(held) + 1))
        assert list(changes.items) == [
            one for one in memory.items if not one.gone and one.kind in {ItemKind.CHANGE, ItemKind.HELD}
        ]
        assert memory.vector_position == embedded
        assert memory.vectors == [
            bytes(len(b"%d" % position)) if held[position - 1].gone else b"%d" % position
            for position in range(1, embedded + 1)
        ]

    def lag_agrees(self, model: str, lag: Any, listed: Any) -> None:
        """Check how far a model is behind, and what is parked of it."""
        waiting = {
            key: len(held) - self.vectors.get((*key, model), 0)
            for key, held in self.items.items()
            if len(held) > self.vectors.get((*key, model), 0) and key not in self.idle | self.erased
        }
        parked = {key[:2] for key, order in self.orders.items() if order.parked and key[2] == model}
        assert isinstance(lag, Lag)
        assert lag.items == sum(items for key, items in waiting.items() if key not in parked)
        assert lag.parked == len(parked)
        assert isinstance(listed, list)
        found = {(one.tenant, one.subject): one.items for one in listed if one.model == model}
        assert found == {key: waiting[key] for key in parked}


class SqliteMachine(RecordMachine):
    """On one file."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        super().__init__()

    def make(self) -> Record:
        """Return a handle on the file."""
        return SqliteRecord(Path(self.directory.name) / "record.db")

    def teardown(self) -> None:
        """Close the handles and remove the file."""
        super().teardown()
        self.directory.cleanup()


class PostgresMachine(RecordMachine):
    """On one database."""

    server: Postgres
    database: str

    def __init__(self) -> None:
        empty(self.server, self.database)
        super().__init__()

    def make(self) -> Record:
        """Return a handle on the database."""
        return PostgresRecord(self.server.dsn(self.database, user=ROLE))


@pytest.fixture(scope="module", autouse=True)
def database(postgres_server: Postgres) -> None:
    """Make a database for the machine that needs one."""
    PostgresMachine.server, PostgresMachine.database = postgres_server, migrated(postgres_server)


TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(deadline=None, max_examples=50, stateful_step_count=50)
TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(deadline=None, max_examples=15, stateful_step_count=30)
