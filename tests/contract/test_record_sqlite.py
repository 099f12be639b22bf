"""The SQLite engine against the record contract, and what only a file can suffer."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar import limits
from sidecar.errors import (
    ConfigInvalid,
    DeadlineExceeded,
    Erased,
    Internal,
    Overloaded,
    StandpipeError,
    StoreCorrupt,
    StoreFull,
    StoreReadOnly,
    StoreSchemaNewer,
    StoreUnavailable,
    ToolResultWithoutCall,
    VersionConflict,
)
from sidecar.stores.record import Appended, HeadRead, NewEvent, Record, ScopeRead, SessionRead, StateWrite
from sidecar.stores.sqlite import APPLICATION_ID, ERRORS, READERS, SCHEMA, SQL, SqliteRecord, store_error
from tests.contract.record_suite import (
    MODEL,
    RawRecord,
    RecordSuite,
    Reopen,
    claim,
    erase,
    item,
    log,
    scope_of,
    turn,
)

ROOT: Final = Path(__file__).parents[2]
CHILD_ENV: Final = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


class RawSqlite(RawRecord):
    """The file through the driver alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Run one statement in a connection of its own."""
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=10)) as db:
            return db.execute(statement, values).fetchall()

    def rows(self) -> Mapping[str, int]:
        tables = [row[0] for row in self.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: self.execute(f"SELECT count(*) FROM {name}")[0][0] for name in tables}

    def damage_event(self, tenant: str, session: str, version: int) -> None:
        self.execute(
            "UPDATE events SET kind = 99 WHERE (tenant, session, version) = (?, ?, ?)", tenant, session, version
        )

    def lose_event(self, tenant: str, session: str, version: int) -> None:
        self.execute("DELETE FROM events WHERE (tenant, session, version) = (?, ?, ?)", tenant, session, version)

    def set_updated_at(self, tenant: str, session: str, updated_at_us: int) -> None:
        self.execute(
            "UPDATE sessions SET updated_at_us = ? WHERE (tenant, session) = (?, ?)",
            updated_at_us,
            tenant,
            session,
        )

    def set_expires_at(self, tenant: str, key: str, expires_at_us: int) -> None:
        self.execute("UPDATE state SET expires_at_us = ? WHERE (tenant, key) = (?, ?)", expires_at_us, tenant, key)

    def analyse(self) -> None:
        """It counts when it is asked."""

    def dump(self) -> str:
        return "\n".join(str(self.execute(f"SELECT * FROM {name}")) for name in self.rows())

    @asynccontextmanager
    async def stalled(self, record: Record, event: NewEvent) -> AsyncIterator[asyncio.Future[Appended]]:
        assert isinstance(record, SqliteRecord)
        written, gate = threading.Event(), threading.Event()
        with holding(threading.Event(), record) as before:
            await asyncio.sleep(0.05)
            append = asyncio.ensure_future(record.append(event))
            await asyncio.sleep(0)
            after = asyncio.ensure_future(record._write(lambda _: written.set() or gate.wait(30)))
            await asyncio.sleep(0)
        try:
            assert await asyncio.to_thread(written.wait, 10)
            yield append
        finally:
            gate.set()
            await asyncio.gather(before, after)

    def keys(self) -> Mapping[str, Sequence[str]]:
        indexes = self.execute("SELECT i.name FROM sqlite_schema t, pragma_index_list(t.name) i WHERE t.type = 'table'")
        return {name: [row[2] for row in self.execute(f"PRAGMA index_info('{name}')")] for (name,) in indexes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store's file stands."""
    return tmp_path / "record.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Open engines on the file; all are closed after the test."""
    records: list[SqliteRecord] = []

    async def open_one(**options: Any) -> SqliteRecord:
        records.append(SqliteRecord(path, **options))
        await records[-1].open()
        return records[-1]

    yield open_one
    for record in records:
        await record.close()


class TestSqliteRecord(RecordSuite):
    """The whole contract, on one file."""

    @pytest.fixture
    async def record(self, opened: Callable[..., Any]) -> Record:
        """An open engine on an empty store."""
        record: Record = await opened()
        return record

    @pytest.fixture
    async def reopen(self, opened: Reopen) -> Reopen:
        """Open one more handle on the same file."""
        return opened

    @pytest.fixture
    async def raw(self, path: Path) -> RawRecord:
        """What bypasses the engine."""
        return RawSqlite(path)


# --- the writer: one queue, one transaction for whatever waits --------------------------------------------------


@contextmanager
def holding(gate: threading.Event, record: SqliteRecord) -> Iterator[asyncio.Future[bool]]:
    """Keep the writer busy with a write of ours until the gate opens."""
    held = asyncio.ensure_future(record._write(lambda _: gate.wait(30)))
    try:
        yield held
    finally:
        gate.set()


async def test_a_failing_append_harms_no_other(opened: Callable[..., Any], path: Path) -> None:
    """Appends that wait share one COMMIT, and one that fails after its first rows takes no other along (R1)."""
    record = await opened()
    commits: list[str] = []
    await record._write(lambda db: db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None))
    with holding(threading.Event(), record) as held:
        await asyncio.sleep(0.05)
        events = [turn(texts=[f"{number}"]) for number in range(12)]
        events[3] = turn(opened_calls=["call"], answered_calls=["call", "none"])
        events[6] = turn(items=[replace(item("x"), text="\ud800")])
        events[9] = turn(expected=0)
        appends = [asyncio.ensure_future(record.append(event)) for event in events]
        await asyncio.sleep(0.05)
        commits.clear()
    await held
    results = await asyncio.gather(*appends, return_exceptions=True)
    failed = {number: type(result) for number, result in enumerate(results) if isinstance(result, BaseException)}
    assert failed == {3: ToolResultWithoutCall, 6: Internal, 9: VersionConflict}
    assert len(commits) == 2, "the one that held the writer, and one for all that waited"
    assert RawSqlite(path).rows()["tool_calls"] == 0
    found = await log(record)
    assert [event.request_id for event in found] == [
        event.request_id for number, event in enumerate(events) if number not in failed
    ]
    assert [event.version for event in found] == list(range(1, 10))


async def test_a_full_queue_is_overload(opened: Callable[..., Any]) -> None:
    """Appends beyond append_queue_max are refused at once, with the limit's name; the others succeed (P12)."""
    record = await opened()
    with holding(threading.Event(), record) as held:
        await asyncio.sleep(0.05)
        appends = [asyncio.ensure_future(record.append(turn())) for _ in range(limits.append_queue_max + 3)]
        await asyncio.sleep(0)
        refused = [append.exception() for append in appends if append.done()]
    assert len(refused) == 3
    for error in refused:
        assert isinstance(error, Overloaded)
        assert error.metadata == {"limit": "append_queue_max", "maximum": str(limits.append_queue_max)}
    await held
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == limits.append_queue_max


async def test_an_append_that_waits_past_its_deadline_is_dropped(opened: Callable[..., Any], path: Path) -> None:
    """In the queue at its deadline an append is given up, and never happens (R18, P12)."""
    record = await opened()
    with holding(threading.Event(), record) as held:
        await asyncio.sleep(0.05)
        with pytest.raises(DeadlineExceeded) as caught:
            await record.append(turn(), deadline=time.monotonic() + 0.05)
        assert caught.value.metadata == {"phase": "record_append"}
    await held
    await record.append(turn("after"))
    assert RawSqlite(path).rows()["events"] == 1


async def test_an_append_at_work_past_its_deadline_may_have_happened(opened: Callable[..., Any]) -> None:
    """When the deadline falls into the commit the caller learns that, and its request id tells the rest (R18)."""
    record = await opened()
    with holding(threading.Event(), record) as before:
        await asyncio.sleep(0.05)
        event = turn()
        append = asyncio.ensure_future(record.append(event, deadline=time.monotonic() + 0.3))
        await asyncio.sleep(0)
        same_batch = threading.Event()
        after = asyncio.ensure_future(record._write(lambda _: same_batch.wait(30)))
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await append
    same_batch.set()
    await asyncio.gather(before, after)
    appended = await record.append(event)
    assert (appended.version, appended.replayed) == (1, True)


async def test_a_read_past_its_deadline_ends(opened: Callable[..., Any]) -> None:
    """A fetch whose readers are all busy ends at its deadline, naming the phase (P12)."""
    record = await opened()
    gate = threading.Event()
    held = [asyncio.ensure_future(record._read(lambda _: gate.wait(30))) for _ in range(READERS)]
    await asyncio.sleep(0.05)
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            await record.fetch([HeadRead(tenant="acme", session="s")], deadline=time.monotonic() + 0.05)
        assert caught.value.metadata == {"phase": "record_fetch"}
    finally:
        gate.set()
    await asyncio.gather(*held)


# --- another process holds the lock ------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's write lock, as a second process in a long transaction does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


async def test_locked_beyond_the_deadline(opened: Callable[..., Any], path: Path) -> None:
    """An append that cannot get the lock in time is unavailable and wrote nothing; reads go on meanwhile (R18)."""
    record = await opened(lock_wait_ms=150)
    with locked(path):
        with pytest.raises(StoreUnavailable):
            await record.append(turn())
        with pytest.raises(StoreUnavailable):
            await record.append(turn(), deadline=time.monotonic() + 0.1)
        assert await record.fetch([HeadRead(tenant="acme", session="s")]) == [None]
    assert (await record.append(turn("after"))).version == 1
    assert RawSqlite(path).rows()["events"] == 1


async def test_locked_for_a_while(opened: Callable[..., Any], path: Path) -> None:
    """An append waits for the lock as long as its deadline allows (R18)."""
    record = await opened()
    with locked(path):
        append = asyncio.ensure_future(record.append(turn()))
        await asyncio.sleep(0.2)
        assert not append.done()
    assert (await append).version == 1


async def test_locked_at_open(opened: Callable[..., Any], path: Path) -> None:
    """A store that stays locked at open is unavailable, not a hang (R18)."""
    await opened()
    with locked(path), pytest.raises(StoreUnavailable):
        await opened(lock_wait_ms=150)


# --- files that are not what they should be ------------------------------------------------------------------------


async def test_many_handles_open_at_once(opened: Callable[..., Any], path: Path) -> None:
    """Of handles that open a new file together one makes the schema and the key, and all work (R12)."""
    records = await asyncio.gather(*(opened() for _ in range(6)))
    assert len({await record.signing_key() for record in records}) == 1
    versions = [(await record.append(turn())).version for record in records]
    assert versions == [1, 2, 3, 4, 5, 6]
    assert RawSqlite(path).rows()["deployment"] == 1


async def test_the_last_to_close_folds_the_log_into_the_file(tmp_path: Path) -> None:
    """However its threads end, a store that is closed is one file, whole: a copy of it is a backup."""
    for attempt in range(40):
        path = tmp_path / f"{attempt}.db"
        record = SqliteRecord(path)
        await record.open()
        await record.append(turn())
        await record.close()
        assert [file.name for file in tmp_path.glob(f"{attempt}.db*")] == [path.name], attempt


async def test_a_new_file_is_never_taken_for_anothers(tmp_path: Path) -> None:
    """However handles that make one new file come between each other's looks at it, all of them open (R12)."""
    for number in range(25):
        records = [SqliteRecord(tmp_path / f"{number}.db") for _ in range(6)]
        outcomes = await asyncio.gather(*(record.open() for record in records), return_exceptions=True)
        await asyncio.gather(*(record.close() for record in records))
        assert outcomes == [None] * 6


async def test_migrations_run_once(opened: Callable[..., Any], path: Path) -> None:
    """Opening again changes neither the schema nor the key, and the file is its owner's alone (R18)."""
    raw = RawSqlite(path)
    first = await opened()
    schema = raw.execute("SELECT name, sql FROM sqlite_schema ORDER BY name")
    key = await first.signing_key()
    await first.close()
    assert await (await opened()).signing_key() == key
    assert raw.execute("SELECT name, sql FROM sqlite_schema ORDER BY name") == schema
    assert raw.execute("PRAGMA user_version") == [(SCHEMA,)]
    assert raw.execute("PRAGMA application_id") == [(APPLICATION_ID,)]
    assert raw.execute("PRAGMA journal_mode") == [("wal",)]
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file.name


async def test_a_newer_schema(opened: Callable[..., Any], path: Path) -> None:
    """A file of a newer release is refused, with both numbers (R18)."""
    await (await opened()).close()
    RawSqlite(path).execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(StoreSchemaNewer) as caught:
        await opened()
    assert caught.value.metadata == {"stored_schema": str(SCHEMA + 1), "known_schema": str(SCHEMA)}


async def test_another_applications_file(opened: Callable[..., Any], path: Path) -> None:
    """A database that is not ours is refused and stays as it is (R18)."""
    RawSqlite(path).execute("CREATE TABLE theirs (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(ConfigInvalid):
        await opened()
    assert path.read_bytes() == before


async def test_not_a_database(opened: Callable[..., Any], path: Path) -> None:
    """A file that is no database is refused and stays as it is (R18)."""
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(StoreCorrupt):
        await opened()
    assert path.read_bytes() == b"no database " * 1000


async def test_a_truncated_file(opened: Callable[..., Any], path: Path) -> None:
    """A file that has lost its second half is reported as damaged, at open or at the first read (R18)."""
    record = await opened()
    for number in range(64):
        await record.append(turn(f"s{number}", body=b"x" * 4096))
    await record.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(StoreCorrupt):
        await (await opened()).fetch(
            [SessionRead(tenant="acme", session=f"s{number}", tokenizer="o") for number in range(64)]
        )


async def test_text_that_is_not_text(opened: Callable[..., Any], path: Path) -> None:
    """A damaged text column is reported as such, though the driver gives it no error code (R18)."""
    record = await opened()
    await record.append(turn())
    RawSqlite(path).execute("UPDATE items SET speaker = CAST(x'ff00ff' AS TEXT)")
    with pytest.raises(StoreCorrupt):
        await record.fetch([ScopeRead(tenant="acme", subject="ana", model="")])
    RawSqlite(path).execute("UPDATE items SET speaker = '', tokens = '{'")
    with pytest.raises(StoreCorrupt):
        await record.fetch([ScopeRead(tenant="acme", subject="ana", model="")])


async def test_no_directory(tmp_path: Path) -> None:
    """A directory that is missing, or one in the file's place, is a mistake in the configuration."""
    for path in (tmp_path / "none" / "record.db", tmp_path):
        with pytest.raises(ConfigInvalid):
            await SqliteRecord(path).open()


OPEN_AND_APPEND = """
import asyncio, concurrent.futures.thread, os, sys  # all modules, while they can be read
from sidecar.errors import StandpipeError
from sidecar.stores.sqlite import SqliteRecord
from tests.contract.record_suite import turn

async def main():
    if len(sys.argv) > 3:
        os.setuid(int(sys.argv[3]))
    record = SqliteRecord(sys.argv[1])
    try:
        await record.open()
        for _ in range(int(sys.argv[2])):
            await record.append(turn(body=b"x" * 4096))
        print("written")
    except StandpipeError as error:
        print(error.reason)
    await record.close()

asyncio.run(main())
"""


def run_child(path: Path, appends: int, *user: int) -> str:
    """Open the store and append in another process; return what it says."""
    command = [sys.executable, "-c", OPEN_AND_APPEND, str(path), str(appends), *map(str, user)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=CHILD_ENV, timeout=60
    ).stdout.strip()


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A store's path that a process without privileges can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        yield Path(directory) / "record.db"


def test_a_file_that_refuses_writes(shared_path: Path) -> None:
    """A read-only file, and a read-only directory, are said to be so at open (R18)."""
    nobody = [65534] if os.geteuid() == 0 else []  # root is refused nothing
    assert run_child(shared_path, 1, *nobody) == "written"
    shared_path.chmod(0o444)
    assert run_child(shared_path, 0, *nobody) == "STORE_READ_ONLY"
    shared_path.chmod(0o600)
    shared_path.parent.chmod(0o555)
    assert run_child(shared_path, 0, *nobody) == "STORE_READ_ONLY"
    shared_path.parent.chmod(0o777)
    assert run_child(shared_path, 1, *nobody) == "written"


# --- a full disk ------------------------------------------------------------------------------------------------------


async def test_a_full_store(opened: Callable[..., Any], path: Path) -> None:
    """A store that cannot grow refuses what does not fit, keeps what it acknowledged, and goes on later (R18)."""
    record = await opened()
    await record.append(turn())
    pages = await record._write(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await record._write(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 4}").fetchone())
    before = RawSqlite(path).rows()
    with pytest.raises(StoreFull):
        await record.append(turn(body=b"x" * (1 << 20)))
    assert RawSqlite(path).rows() == before
    results = await asyncio.gather(
        *(record.append(turn("other", body=b"x" * 9000)) for _ in range(40)), return_exceptions=True
    )
    assert {type(result) for result in results} <= {StoreFull, Appended}
    await record._write(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
    assert (await record.append(turn())).version == 2


def test_a_full_disk(tmp_path: Path) -> None:
    """On a file system without room the commit is refused as full, and what was acknowledged is there (R18)."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount on PATH")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs privileges")
    try:
        path = tmp_path / "record.db"
        assert run_child(path, 1) == "written"
        assert run_child(path, 1000) == "STORE_FULL"
        (versions,) = RawSqlite(path).execute("SELECT count(*), max(version) FROM events")
        assert versions[0] == versions[1] > 1
        assert RawSqlite(path).execute("PRAGMA integrity_check") == [("ok",)]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- kill -9 -------------------------------------------------------------------------------------------------------

APPEND_FOR_EVER = """
import asyncio, sys
from sidecar.stores.sqlite import SqliteRecord
from tests.contract.record_suite import turn

async def main():
    record = SqliteRecord(sys.argv[1])
    await record.open()

    async def write(session):
        while True:
            name = f"{sys.argv[2]}-{session}-{len(seen)}"
            event = turn(session, request_id=name, opened_calls=[f"{len(seen)}-{sys.argv[2]}"])
            seen.append(event)
            done = await record.append(event)
            print(session, done.version, event.request_id, done.event_hash.hex(), done.position, flush=True)

    seen = []
    await asyncio.gather(*(write(f"s{number}") for number in range(8)))

asyncio.run(main())
"""


def killed_writer(path: Path, number: int) -> list[str]:
    """Run a writer, kill -9 it after a number of acknowledgements, and return all that it acknowledged."""
    command = [sys.executable, "-c", APPEND_FOR_EVER, str(path), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=CHILD_ENV) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(5 + 17 * number % 90)]
        child.kill()
        return lines + child.stdout.readlines()


async def test_acknowledged_appends_survive_kill_9(opened: Callable[..., Any], path: Path) -> None:
    """Over a dozen kills in mid-write no acknowledged append is lost, doubled or changed, and the log is whole (P1)."""
    acknowledged: dict[tuple[str, int], tuple[str, str, int]] = {}
    for number in range(12):
        lines = await asyncio.to_thread(killed_writer, path, number)
        for line in lines:
            if line.endswith("\n"):
                session, version, *rest, position = line.split()
                assert (session, int(version)) not in acknowledged
                acknowledged[session, int(version)] = (rest[0], rest[1], int(position))
        record = await opened()
        logs = {f"s{number}": await log(record, f"s{number}") for number in range(8)}
        for (session, at), (request_id, event_hash, last) in acknowledged.items():
            event = logs[session][at - 1]
            assert (event.version, event.request_id, event.position_end) == (at, request_id, last)
            assert event.event_hash.hex() == event_hash
        count = sum(map(len, logs.values()))
        assert RawSqlite(path).execute("PRAGMA integrity_check") == [("ok",)]
        memory = await scope_of(record)
        assert [item.position for item in memory.items] == list(range(1, count + 1))
        rows = RawSqlite(path).rows()
        assert rows["tool_calls"] == rows["events"] == count
        await record.close()
    assert len(acknowledged) > 12


# --- errors and SQL ------------------------------------------------------------------------------------------------


NO_ERRORS: Final = frozenset(
    {"OK", "ROW", "DONE", "DENY", "IGNORE", "LIMIT", "DBCONFIG", "CREATE", "DROP", "ALTER", "DELETE", "INSERT"}
    | {"UPDATE", "SELECT", "READ", "PRAGMA", "TRANSACTION", "SAVEPOINT", "ATTACH", "DETACH", "REINDEX", "ANALYZE"}
    | {"FUNCTION", "RECURSIVE"}
)
"""First words of the driver's constants that are no errors: results, limits, and actions of an authorizer."""


def test_every_error_code_is_mapped() -> None:
    """Each error code of the driver, primary or extended, becomes a named error of ours with its name (R18)."""
    codes = {
        name: code
        for name, code in vars(sqlite3).items()
        if name.startswith("SQLITE_") and name.split("_")[1] not in NO_ERRORS
    }
    assert len(codes) > 90
    for name, code in codes.items():
        error = sqlite3.OperationalError("a text of the driver")
        error.sqlite_errorcode, error.sqlite_errorname = code, name
        ours = store_error(error)
        assert code & 0xFF in ERRORS, name
        assert type(ours) is not StandpipeError
        assert ours.metadata == {"driver_error": name}
        assert "a text of the driver" not in ours.message
        assert ours.__cause__ is error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailable),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StoreReadOnly),
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreCorrupt),
        (sqlite3.SQLITE_NOTADB, StoreCorrupt),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailable),
        (sqlite3.SQLITE_IOERR_CORRUPTFS, StoreCorrupt),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, Internal),
        (12345, Internal),
    ],
)
def test_error_kinds(code: int, kind: type[StandpipeError]) -> None:
    """Codes of each family become the error that says whether to retry (R18)."""
    error = sqlite3.DatabaseError("text")
    error.sqlite_errorcode = code
    assert type(store_error(error)) is kind


def test_errors_without_a_code() -> None:
    """Errors that Python's driver raises by itself are mapped too, and ours pass as they are (R18)."""
    assert type(store_error(sqlite3.OperationalError("Could not decode to UTF-8"))) is StoreCorrupt
    assert type(store_error(sqlite3.ProgrammingError("closed"))) is Internal
    assert type(store_error(OverflowError("too large"))) is Internal
    ours = StoreFull("full")
    assert store_error(ours) is ours


async def test_reads_go_by_keys(opened: Callable[..., Any], path: Path) -> None:
    """No statement of the read and append paths scans a table or sorts one."""
    await opened()
    raw = RawSqlite(path)
    scans = {
        "figures",
        "grants",
        "next_grant",
        "parked_count",
        "lag_of_unknown_model",
        "order_all_work",
        "scopes_that_begin_gone",
        "signing_key",
        "policies",
        "sessions_of_all",
        "keys_of_all",
        "erased_sessions",
        "erasures_at_work",
    }
    for name, statement in SQL.items():
        if name in scans or name.startswith(("drop_", "forget_", "end_of_run")):
            continue
        numbered = re.findall(r"\?(\d)", statement)
        values = [None] * (max(map(int, numbered)) if numbered else statement.count("?"))
        plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", *values)]
        assert not [
            step
            for step in plan
            if step.startswith("SCAN")
            and step not in {"SCAN held", "SCAN models", "SCAN models USING COVERING INDEX sqlite_autoindex_models_1"}
        ], (name, plan)
        assert not [step for step in plan if "TEMP B-TREE" in step], (name, plan)


# --- what was erased ------------------------------------------------------------------------------------------------


def traces(path: Path, mark: bytes = b"xylophone") -> dict[str, int]:
    """Return how often a mark stands in the bytes of each of the store's files."""
    files = sorted(path.parent.glob(f"{path.name}*"))
    return {file.name.removeprefix(path.name): file.read_bytes().count(mark) for file in files}


async def fill(record: SqliteRecord, *, seed: int = 1) -> list[str]:
    """Write turns of many sessions in turns, so that SQLite moves rows between pages; return the marked sessions.

    With such turns it leaves copies of rows in pages that `secure_delete` does not find: hence this many.
    """
    dice = random.Random(seed)
    marked = [f"marked-{number}" for number in range(20)]
    sessions = [*marked, *(f"kept-{number}" for number in range(20))]
    for number in range(60):
        dice.shuffle(sessions)
        events = []
        for session in sessions:
            word = "xylophone " if session in marked else "trombone "
            text, request_id = word * dice.choice([3, 30, 60, 90]), f"{word}{session}-{number}"
            events.append(turn(session, texts=[text], request_id=request_id, opened_calls=[f"{word}{number}"]))
        await asyncio.gather(*map(record.append, events))
    (held,) = await claim(record)
    memory = await scope_of(record)
    assert await record.put_vectors(held.scope, model=MODEL, vectors=[one.terms for one in memory.items])
    for number in range(40):
        write = StateWrite(key=f"trombone-{number % 20}", value=b"trombone " * dice.choice([3, 300, 3000]))
        await record.put_state("acme", subject="ana", collection="c", writes=[write])
    return marked


async def test_nothing_erased_is_left_in_the_files(opened: Callable[..., Any], path: Path) -> None:
    """After a scrub no byte of erased sessions, then of their subject, stands in any file of the store (R32, P11)."""
    record = await opened()
    other = await opened()
    marked = await fill(record)
    assert traces(path)[""] + traces(path)["-wal"] > 1000
    for session in marked:
        await erase(record, session=session)
    await other.fetch([HeadRead(tenant="acme", session="s")])
    await record.scrub()
    found = {mark: sum(traces(path, mark).values()) for mark in (b"xylophone", b"enohpolyx")}
    assert found == {b"xylophone": 0, b"enohpolyx": 0}
    assert traces(path, b"trombone")[""] > 0
    await asyncio.gather(*(other.append(turn(f"s{n}", subject="bob", texts=["flute " * 50])) for n in range(50)))
    assert sum(traces(path).values()) == 0
    await erase(record)
    await record.scrub()
    assert sum(traces(path, b"trombone").values()) == 0
    assert traces(path, b"flute")[""] > 0


async def test_the_release_before_erases_records_too(opened: Callable[..., Any], path: Path) -> None:
    """What it marks has no records any more, and takes none, though it knows of no records (R40, P11)."""
    record = await opened()
    raw = RawSqlite(path)
    for subject in ("ana", "bob"):
        for key in ("a", "b"):
            await record.put_state("acme", subject=subject, collection="c", writes=[StateWrite(key=key, value=b"v")])
    raw.execute(  # as release 0.5.0 says it
        "INSERT INTO scopes (tenant, subject, position, items_position, erased) VALUES ('acme', 'ana', 0, 0, 1)"
        " ON CONFLICT DO UPDATE SET erased = 1, epoch = epoch + 1"
    )
    assert raw.execute("SELECT DISTINCT subject FROM state") == [("bob",)]
    with pytest.raises(Erased):
        await record.put_state("acme", subject="ana", collection="c", writes=[StateWrite(key="a", value=b"v")])
    assert raw.execute("SELECT subject, state_revision, state_records FROM scopes ORDER BY subject") == [
        ("ana", 2, 0),
        ("bob", 2, 2),
    ]


async def test_a_scrub_waits_for_readers(opened: Callable[..., Any], path: Path) -> None:
    """While a snapshot from before holds what was removed, a scrub is refused, and works when it is over (R32)."""
    record = await opened(lock_wait_ms=150)
    await fill(record)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        await erase(record)
        with pytest.raises(StoreUnavailable):
            await record.scrub()
        assert sum(traces(path).values()) > 0
        reader.execute("ROLLBACK")
        await record.scrub()
    assert set(traces(path).values()) == {0}


async def test_a_scrub_waits_for_writers(opened: Callable[..., Any], path: Path) -> None:
    """While another process holds the write lock a scrub is refused, and works when it is over (R32, R18)."""
    record = await opened(lock_wait_ms=150)
    await record.append(turn(texts=["xylophone"]))
    await erase(record)
    with locked(path), pytest.raises(StoreUnavailable):
        await record.scrub()
    await record.scrub()
    assert set(traces(path).values()) == {0}
