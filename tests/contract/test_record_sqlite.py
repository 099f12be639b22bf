"""The SQLite engine against the record contract, and what only a file can suffer."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.stores.record import Record
from sidecar.stores.sqlite import SqliteRecord
from tests.contract.record_suite import RawRecord, RecordSuite, Reopen


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

    def keys(self) -> Mapping[str, Sequence[str]]:
        indexes = self.execute(
            "SELECT i.name FROM sqlite_schema t, pragma_index_list(t.name) i WHERE t.type = 'table'"
        )
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
