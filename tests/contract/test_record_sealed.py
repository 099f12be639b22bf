"""The sealed engines against the record contract, and what sealing alone promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from sidecar.stores.postgres import PostgresRecord
from sidecar.stores.record import Appended, NewEvent, Record
from sidecar.stores.sealed import SealedRecord
from sidecar.stores.sqlite import SqliteRecord
from sidecar.vault import KeyFile, Vault
from tests import keys
from tests.contract.postgres import ROLE, RawPostgres
from tests.contract.record_suite import RawRecord, RecordSuite, Reopen
from tests.contract.test_record_postgres import place, shared_place  # noqa: F401 - fixtures
from tests.contract.test_record_sqlite import RawSqlite
from tests.servers import Postgres

Open = Callable[..., Any]


def sealed(engine: Record, **options: Any) -> SealedRecord:
    """Return an engine with the tests' keys before it."""
    return SealedRecord(engine, Vault(KeyFile(keys.key_file())), **options)


class RawSealedSqlite(RawSqlite):
    """The file through the driver alone."""

    def stalled(self, record: Record, event: NewEvent) -> AbstractAsyncContextManager[asyncio.Future[Appended]]:
        assert isinstance(record, SealedRecord)
        return super().stalled(record.inner, event)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store's file stands."""
    return tmp_path / "record.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[Open]:
    """Open sealed engines on the file; all are closed after the test."""
    records: list[SealedRecord] = []

    async def open_one(**options: Any) -> SealedRecord:
        records.append(sealed(SqliteRecord(path), **options))
        await records[-1].open()
        return records[-1]

    yield open_one
    for record in records:
        await record.close()


class TestSealedSqlite(RecordSuite):
    """The whole contract, on one file."""

    sealed = True

    @pytest.fixture
    async def record(self, opened: Open) -> Record:
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
        return RawSealedSqlite(path)


class TestSealedPostgres(RecordSuite):
    """The whole contract, on one database."""

    sealed = True
    unfit_checks = frozenset({"durability"})

    @pytest.fixture
    async def reopen(self, postgres_server: Postgres, place: str) -> AsyncIterator[Reopen]:  # noqa: F811 - a fixture
        """Open one more handle on the same database."""
        records: list[SealedRecord] = []

        async def open_one() -> SealedRecord:
            records.append(sealed(PostgresRecord(postgres_server.dsn(place, user=ROLE))))
            await records[-1].open()
            return records[-1]

        yield open_one
        for record in records:
            await record.close()

    @pytest.fixture
    async def record(self, reopen: Reopen) -> Record:
        """An open engine on an empty store."""
        return await reopen()

    @pytest.fixture
    async def raw(self, postgres_server: Postgres, place: str) -> RawRecord:  # noqa: F811 - a fixture
        """What bypasses the engine."""
        return RawPostgres(postgres_server, place)
