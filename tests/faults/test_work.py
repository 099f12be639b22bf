"""Workers that are killed, or that outlive their leases: every item gets its vector once, in order, none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from sidecar import recall
from sidecar.batching import EmbedQueue
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.engines import open_record
from sidecar.model import Model
from sidecar.projection import EmbeddingProjection
from sidecar.stores.record import Lag, LagRead, ParkedRead, Record, ScopeState
from sidecar.stores.sqlite import SqliteRecord
from sidecar.telemetry import Log, Telemetry
from tests import keys
from tests.contract.postgres import ROLE, migrated
from tests.contract.record_suite import one, scope_of, turn
from tests.e2e.pods import MODEL as MODEL_NAME
from tests.e2e.pods import MODELS
from tests.faults.log_check import rounds
from tests.faults.work import MODEL, vector_of
from tests.servers import Postgres

WORKERS = 3
SUBJECTS = 5
LEASE_S = 1.5
"""Short, so that the work of the dead is soon taken up; a batch takes a third of it."""
BEHIND = 128
"""Items that wait whenever a worker is stopped or killed, so that it has work in hand."""
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

    async def freeze(self, number: int) -> None:
        """Stop one until its lease has passed and others have its work; then it goes on as if nothing had been."""
        process = self._processes[number]
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.2 * LEASE_S)
        process.send_signal(signal.SIGCONT)

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
    found = await open_record(Config(record=address, encryption_keys_file=keys.key_file()))
    yield found
    await found.close()


@pytest.fixture
def lapse(address: str, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Let all leases pass."""
    if address.startswith("sqlite:"):

        def pass_by() -> None:
            with contextlib.closing(sqlite3.connect(address.removeprefix("sqlite:"), isolation_level=None)) as db:
                db.execute("UPDATE work SET due_at_us = 0")

        return pass_by
    server: Postgres = request.getfixturevalue("postgres_server")
    name = conninfo_to_dict(address)["dbname"]

    def pass_by_there() -> None:
        with server.connect(str(name)) as db:
            db.execute("UPDATE standpipe.work SET due_at_us = 0")

    return pass_by_there


async def behind(record: Record, model: str = MODEL) -> int:
    """Return how many items wait for their vector."""
    return (await one(record, LagRead(model=model), Lag)).items


async def grow(record: Record, stop: asyncio.Event, dice: random.Random) -> int:
    """Append to all subjects, each in two sessions, as fast as workers work, until told to; return how many items."""
    count = 0
    while not stop.is_set():
        if await behind(record) > 2 * BEHIND:
            await asyncio.sleep(0.02)
            continue
        number = dice.randrange(SUBJECTS)
        texts = [f"item {count + at} of {number}" for at in range(dice.randrange(24))]
        session = f"{number}-{dice.randrange(2)}"
        await record.append(turn(session, tenant=f"tenant-{number % 2}", subject=f"subject-{number}", texts=texts))
        count += len(texts)
    return count


async def memory(record: Record, number: int) -> ScopeState:
    """Return a subject's memory, whose vectors are the right ones as far as they go."""
    found = await scope_of(record, f"subject-{number}", tenant=f"tenant-{number % 2}", model=MODEL)
    assert [item.position for item in found.items] == list(range(1, found.position + 1))
    assert found.vectors == [
        recall.pack_vector(*recall.quantise(vector_of(item.text))) for item in found.items[: found.vector_position]
    ]
    return found


@pytest.mark.timeout(120 + 2 * rounds(8))
async def test_workers_that_die_or_freeze_lose_and_double_nothing(address: str, record: Record) -> None:
    """Over kills and stalls in mid-work each item gets the vector of its text, at its position, once (P9, P12)."""
    print(f"TEST_SEED={SEED}")
    dice = random.Random(SEED)
    workers, stop = Workers(address), asyncio.Event()
    try:
        await asyncio.gather(*(workers.start() for _ in range(WORKERS)))
        growth = asyncio.create_task(grow(record, stop, dice))
        for _ in range(rounds(8)):
            while await behind(record) < BEHIND:
                await asyncio.sleep(0.01)
            await asyncio.sleep(dice.uniform(0, 0.2))
            await workers.freeze(dice.randrange(WORKERS))
            await workers.kill(dice.randrange(WORKERS))
            await workers.start()
            await memory(record, dice.randrange(SUBJECTS))
        stop.set()
        count = await growth
        parked = await one(record, ParkedRead(), list)
        for order in parked:  # its workers were killed too often in a row: that is what it is parked for
            assert order.reason == ""
            await record.unpark(order.tenant, subject=order.subject, model=order.model)
        async with asyncio.timeout(60):
            while await behind(record):
                await asyncio.sleep(0.05)
        memories = [await memory(record, number) for number in range(SUBJECTS)]
        assert [found.vector_position for found in memories] == [found.position for found in memories]
        assert sum(len(found.vectors) for found in memories) == count
        assert await one(record, LagRead(model=MODEL), Lag) == Lag(items=0, age_s=0, parked=0)
    finally:
        await workers.close()
    print(f"{rounds(8)} kills and stalls; {count} items; {len(parked)} orders parked for their dead")


WAITING = 900
REAL = Model.open(MODELS / MODEL_NAME).id + "/int8"


async def fill(record: Record) -> None:
    """Append items to thirty subjects."""
    for number in range(30):
        texts = [f"Item {at} of {number}: the ferry to Porto leaves at {at} past nine." for at in range(WAITING // 30)]
        await record.append(turn(f"{number}", subject=f"subject-{number}", texts=texts))


async def embedded(record: Record) -> list[Sequence[bytes]]:
    """Return all vectors, by subject and position."""
    return [(await scope_of(record, f"subject-{number}", model=REAL)).vectors for number in range(30)]


async def work_once(address: str) -> asyncio.subprocess.Process:
    """Start `standpipe work --once`."""
    flags = ("work", "--once", "--record", address, "--http", "", "--models-dir", str(MODELS))
    here = {**os.environ, "STANDPIPE_ENCRYPTION_KEYS_FILE": keys.key_file()}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", *flags), stderr=asyncio.subprocess.PIPE, env=here
    )


async def test_work_that_breaks_off_goes_on(
    address: str, record: Record, tmp_path: Path, lapse: Callable[[], None]
) -> None:
    """P9: `work --once` killed or interrupted in mid-work does the rest when it is run again; the vectors are
    those of a run that nobody disturbed.
    """
    await fill(record)
    done = 0
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 1)):
        process = await work_once(address)
        async with asyncio.timeout(60):
            while WAITING - await behind(record, REAL) <= done:
                await asyncio.sleep(0.01)
        process.send_signal(number)
        assert await process.wait() == code
        lapse()
        done = WAITING - await behind(record, REAL)
        assert 0 < done < WAITING
    last = await work_once(address)
    _, log = await last.communicate()
    assert last.returncode == 0
    assert json.loads(log.splitlines()[-1])["items"] == WAITING - done
    calm = SqliteRecord(tmp_path / "calm.db")
    await calm.open()
    await fill(calm)
    queue = EmbedQueue(Embedder(Model.open(MODELS / MODEL_NAME)))
    await EmbeddingProjection(calm, queue, telemetry=Telemetry(Log(io.StringIO()))).drain()
    assert await embedded(record) == await embedded(calm)
    await queue.close()
    await calm.close()
