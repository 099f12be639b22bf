"""Leases: what a process relies on without asking, and what a commit waits for. Real record store, stepped clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from sidecar import lease, limits
from sidecar.errors import HotUnavailable, StoreUnavailable
from sidecar.lease import LEASE_S, MARGIN_S, Leases
from sidecar.policies import Policies
from sidecar.stores.grants import Grant
from sidecar.stores.hot import SLOTS, Capabilities, Found, Place, Ticket
from sidecar.stores.memory import MemoryHot
from sidecar.stores.record import GrantsRead, GrantsState, StoredRoute
from sidecar.stores.sqlite import SqliteRecord
from sidecar.telemetry import Telemetry
from sidecar.view import View

A, B = Place(7, "a"), Place(7, "b")
ALL = [(0, SLOTS)]


class Shared(MemoryHot[View]):
    """Claims to be shared, so that leases matter; every server in it holds all slots."""

    capabilities = Capabilities(coherent=True)

    def slots_of(self, incarnation: str) -> Sequence[tuple[int, int]]:
        return ALL if incarnation else ()


class Clock:
    """Time that passes when it is told to, and with every sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the leases run by."""
    clock = Clock()
    monkeypatch.setattr(lease.asyncio, "sleep", clock.sleep)
    return clock


@pytest.fixture
async def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> AsyncIterator[SqliteRecord]:
    """A record store whose clock is the stepped one, an hour off."""
    monkeypatch.setattr("sidecar.stores.sqlite._now_us", lambda: int((clock.now + 3600) * 1e6))
    record = SqliteRecord(tmp_path / "record.db")
    await record.open()
    yield record
    await record.close()


@pytest.fixture
def leases(record: SqliteRecord, clock: Clock) -> Leases:
    """The leases of one process."""
    return Leases(record, Shared(), Policies(record, None), Telemetry(), clock=clock)  # type: ignore[arg-type]


def found(place: Place, grant: int) -> Found[View]:
    """Return what a server answered, stamped."""
    return Found(view=None, gained=None, version=1, grant=grant, ticket=Ticket(place, "life", 0))


async def rows(record: SqliteRecord) -> list[Grant]:
    """Return the grants."""
    (state,) = await record.fetch([GrantsRead()])
    assert isinstance(state, GrantsState)
    return list(state.rows)


def confirming(*answers: Place | None) -> tuple[Callable[[], object], list[int]]:
    """Return a step that is answered so in turn (None: not at all), and a list that grows with its calls."""
    calls: list[int] = []

    async def step() -> Place:
        calls.append(len(calls))
        answer = answers[min(len(calls), len(answers)) - 1]
        if answer is None:
            raise HotUnavailable("gone")
        return answer

    return step, calls


async def test_a_reader_trusts_only_under_all_four_conditions(
    leases: Leases, record: SqliteRecord, clock: Clock
) -> None:
    """A tail is trusted under a lease, from the granted server, once the grant is usable, under its stamp (P4)."""
    await record.adopt("a", ALL)
    await leases.renew()
    (row,) = await rows(record)
    assert not leases.trusts(found(A, row.grant))  # not usable yet
    clock.now += LEASE_S + 2 * MARGIN_S
    assert not leases.trusts(found(A, row.grant))  # the lease has ended
    await leases.renew()
    assert leases.trusts(found(A, row.grant))
    assert not leases.trusts(found(B, row.grant))  # another server
    assert not leases.trusts(found(Place(7, ""), row.grant))  # a replica
    assert not leases.trusts(found(A, row.grant - 1))  # stamped under an older grant
    assert not leases.trusts(found(A, 0))  # not whole
    clock.now += LEASE_S
    assert not leases.trusts(found(A, row.grant))


async def test_a_stamp_is_given_only_when_it_is_usable(leases: Leases, record: SqliteRecord, clock: Clock) -> None:
    """What is read before a grant is usable is not published under it: others may be writing to its predecessor."""
    await record.adopt("a", ALL)
    await leases.renew()
    assert leases.stamp(A) == 0
    clock.now += LEASE_S + 2 * MARGIN_S
    assert leases.stamp(A) == (await rows(record))[0].grant
    assert leases.stamp(Place(7, "")) == 0


async def test_slots_that_nobody_was_granted_need_no_step(leases: Leases) -> None:
    """Before the first adoption a commit does not touch the hot store."""
    step, calls = confirming(A)
    await leases.honoured(7, step, deadline=None)
    assert calls == []


async def test_a_confirmed_step_is_honoured_at_once(leases: Leases, record: SqliteRecord, clock: Clock) -> None:
    """When the granted server confirms, there is nothing to wait for."""
    await record.adopt("a", ALL)
    clock.now += LEASE_S + 2 * MARGIN_S
    step, calls = confirming(A)
    await leases.honoured(7, step, deadline=None)
    assert (len(calls), clock.slept) == (1, [])


async def test_a_commit_waits_for_the_leases_on_a_predecessor(
    leases: Leases, record: SqliteRecord, clock: Clock
) -> None:
    """While a grant is not usable yet, others may trust the server before it: the commit waits that long."""
    await record.adopt("a", ALL)
    started = clock.now
    step, calls = confirming(A)
    await leases.honoured(7, step, deadline=None)
    assert len(calls) == 1
    assert clock.now - started >= limits.hot_lease_ms / 1000


@pytest.mark.parametrize("answer", [None, B, Place(7, "")])
async def test_a_server_that_does_not_confirm_loses_its_grant(
    leases: Leases, record: SqliteRecord, clock: Clock, answer: Place | None
) -> None:
    """Unreachable, another, or a replica: the grant is revoked, and the commit outlasts every lease on it."""
    await record.adopt("a", ALL)
    clock.now += LEASE_S + 2 * MARGIN_S
    other = Leases(record, Shared(), leases.policies, Telemetry(), clock=clock)
    await other.renew()
    (row,) = await rows(record)
    assert other.trusts(found(A, row.grant))
    step, calls = confirming(answer)
    await leases.honoured(7, step, deadline=None)
    assert len(calls) == 1
    assert (await rows(record))[0].incarnation == ""
    assert not other.trusts(found(A, row.grant))
    assert sum(clock.slept) >= (limits.hot_lease_ms + limits.hot_lease_margin_ms) / 1000 - 0.001


async def test_the_wait_for_leases_keeps_the_deadline(leases: Leases, record: SqliteRecord, clock: Clock) -> None:
    """A commit that cannot wait so long ends as UNAVAILABLE: it may have happened, its request id tells."""
    await record.adopt("a", ALL)
    step, _ = confirming(A)
    with pytest.raises(StoreUnavailable):
        await leases.honoured(7, step, deadline=time.monotonic() + 0.2)
    assert clock.slept[-1] <= 0.2


async def test_a_hot_store_that_keeps_changing_ends_a_commit(
    leases: Leases, record: SqliteRecord, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that take the slot from each other at every turn end in UNAVAILABLE, not in a loop."""
    await record.adopt("a", ALL)
    revoke = record.revoke

    async def revoke_and_adopt(incarnation: str) -> None:
        await revoke(incarnation)
        await record.adopt("b" if incarnation == "a" else "a", ALL)

    monkeypatch.setattr(record, "revoke", revoke_and_adopt)
    step, calls = confirming(None)
    with pytest.raises(StoreUnavailable, match="keeps changing"):
        await leases.honoured(7, step, deadline=None)
    assert 1 < len(calls) < 10


async def test_a_new_server_is_adopted_in_the_background(leases: Leases, record: SqliteRecord, clock: Clock) -> None:
    """Who notices a server that is not granted its slot adopts it; the first of many does it for all."""
    await leases.renew()
    assert leases.stamp(A) == 0
    while leases._tasks:
        await asyncio.wait(set(leases._tasks))
    (row,) = await rows(record)
    assert (row.incarnation, row.slot_from, row.slot_to) == ("a", 0, SLOTS)
    clock.now += LEASE_S + 2 * MARGIN_S
    assert leases.stamp(A) == row.grant


async def test_adoptions_do_not_take_turns_without_end(leases: Leases, record: SqliteRecord, clock: Clock) -> None:
    """A process that has just adopted lets another server be for a while, longer each time."""
    await leases.renew()
    adopted = []
    for turn in range(200):
        leases.stamp(A if turn % 2 else B)
        while leases._tasks:
            await asyncio.wait(set(leases._tasks))
        adopted.append((await rows(record))[0].grant)
        clock.now += 0.5
        await leases.renew()
    assert len(set(adopted[:20])) >= 2
    assert len(set(adopted)) < 40  # of 200 turns; with jitter about 16


async def test_grants_of_a_process_that_died_are_dated(leases: Leases, record: SqliteRecord) -> None:
    """A change whose second half is missing is completed by the next who reads it, and only then relied on."""
    date_grants = record.date_grants
    record.date_grants = lambda: asyncio.sleep(0)  # type: ignore[method-assign,assignment]
    await record.adopt("a", ALL)
    record.date_grants = date_grants  # type: ignore[method-assign]
    await leases.renew()
    (row,) = await rows(record)
    assert row.usable_at_us < 1 << 60


async def test_a_route_is_followed_for_a_lease_and_no_longer(
    leases: Leases, record: SqliteRecord, clock: Clock
) -> None:
    """A pointer that was read is relied on for a lease; SetRoute returns when every lease on the old one has ended."""
    leases.policies._versions["acme", "p", 1] = "one"  # type: ignore[assignment]
    leases.policies._versions["acme", "p", 2] = "two"  # type: ignore[assignment]
    for number in (1, 2):
        await record.publish_policy("acme", name="p", document=str(number), digest=bytes([number]) * 32)
    await leases.point("acme", StoredRoute(name="r", policy_name="p", policy_version=1))
    one = StoredRoute(name="r", policy_name="p", policy_version=1)
    leases.policies.saw("acme", "r", one, asked_at=clock.now)
    assert leases.policy("acme", "r") == "one"
    await leases.point("acme", StoredRoute(name="r", policy_name="p", policy_version=2))
    assert leases.policy("acme", "r") is None
    await leases.renew()
    assert leases.policy("acme", "r") == "two"


async def test_a_committer_that_shares_no_hot_store_withdraws_the_trust_in_all(
    leases: Leases, record: SqliteRecord, clock: Clock
) -> None:
    """Where a server is trusted, commits past it wait for the leases of others; where none is, they do not (P4)."""
    await leases.alone(deadline=None)
    assert clock.slept == []
    await record.adopt("a", ALL)
    await leases.alone(deadline=None)
    assert clock.slept == []  # under a lease from before: the grant is not usable before it ends
    clock.now += LEASE_S + MARGIN_S
    await leases.alone(deadline=None)
    assert sum(clock.slept) >= LEASE_S
    assert {row.incarnation for row in await rows(record)} == {""}
