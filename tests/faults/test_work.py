"""kill -9 of workers: every item gets its vector once, in order, and none is lost, whoever dies and when."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sidecar import recall
from sidecar.config import Config
from sidecar.engines import record_of
from sidecar.stores.record import Lag, LagRead, ParkedRead, Record, ScopeState
from tests.contract.postgres import ROLE, migrated
from tests.contract.record_suite import one, scope_of, turn
from tests.faults.log_check import rounds
from tests.faults.work import MODEL, vector_of
from tests.servers import Postgres

WORKERS = 3
SUBJECTS = 5
LEASE_S = 0.4
"""Short, so that the work of the dead is soon taken up; a batch takes a third of it."""
SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 31)


class Workers:
    """Worker processes on one store; all are gone when the test ends."""

    def __init__(self, record: str) -> None:
        self._record = record
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Start one, and wait until it works."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.work", self._record, str(LEASE_S)), stdout=asyncio.subprocess.PIPE
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

    async def kill(self, number: int) -> None:
        """Kill one with -9. That it had ended by itself is a failure."""
        process = self._processes.pop(number)
        assert process.returncode is None
        process.kill()
        await process.wait()

    async def close(self) -> None:
        """Kill all."""
        while self._processes:
            await self.kill(0)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the record store is, for each engine that processes share."""
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path / 'record.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = migrated(server)
    yield server.dsn(name, user=ROLE)
    server.drop_database(name)


@pytest.fixture
async def record(address: str) -> AsyncIterator[Record]:
    """Open the store."""
    found = record_of(Config(record=address))
    await found.open()
    yield found
    await found.close()


async def grow(record: Record, stop: asyncio.Event, dice: random.Random) -> int:
    """Append to all subjects, each in two sessions, until told to stop; return how many items."""
    count = 0
    while not stop.is_set():
        number = dice.randrange(SUBJECTS)
        texts = [f"item {count + at} of {number}" for at in range(dice.randrange(6))]
        session = f"{number}-{dice.randrange(2)}"
        await record.append(turn(session, tenant=f"tenant-{number % 2}", subject=f"subject-{number}", texts=texts))
        count += len(texts)
        await asyncio.sleep(0.02)
    return count


async def memory(record: Record, number: int) -> ScopeState:
    """Return a subject's memory, whose vectors are the right ones as far as they go."""
    found = await scope_of(record, f"subject-{number}", tenant=f"tenant-{number % 2}", model=MODEL)
    assert [item.position for item in found.items] == list(range(1, found.position + 1))
    assert found.vectors == [
        recall.pack_vector(*recall.quantise(vector_of(item.text))) for item in found.items[: found.vector_position]
    ]
    return found


@pytest.mark.timeout(120 + 2 * rounds(12))
async def test_workers_that_are_killed_lose_and_double_nothing(address: str, record: Record) -> None:
    """Over kills in mid-work each item gets the vector of its text, at its position, once (P9, P12)."""
    print(f"TEST_SEED={SEED}")
    dice = random.Random(SEED)
    workers, stop = Workers(address), asyncio.Event()
    try:
        await asyncio.gather(*(workers.start() for _ in range(WORKERS)))
        growth = asyncio.create_task(grow(record, stop, dice))
        busy = 0
        for _ in range(rounds(12)):
            await asyncio.sleep(dice.uniform(0.01, 0.3))
            before = (await one(record, LagRead(model=MODEL), Lag)).items
            await workers.kill(dice.randrange(WORKERS))
            busy += before > 0
            await workers.start()
            for number in range(SUBJECTS):
                await memory(record, number)
        stop.set()
        count = await growth
        parked = await one(record, ParkedRead(), list)
        for order in parked:  # its workers were killed too often in a row: that is what it is parked for
            assert order.reason == ""
            await record.unpark(order.tenant, subject=order.subject, model=order.model)
        async with asyncio.timeout(60):
            while (await one(record, LagRead(model=MODEL), Lag)).items:
                await asyncio.sleep(0.05)
        memories = [await memory(record, number) for number in range(SUBJECTS)]
        assert [found.vector_position for found in memories] == [found.position for found in memories]
        assert sum(len(found.vectors) for found in memories) == count
        assert await one(record, LagRead(model=MODEL), Lag) == Lag(items=0, age_s=0, parked=0)
    finally:
        await workers.close()
    print(f"{rounds(12)} kills, {busy} while items waited; {count} items; {len(parked)} orders parked for their dead")
    assert busy > 0
