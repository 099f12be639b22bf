"""The PostgreSQL engine against the record contract, and what only a server can suffer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sidecar.stores.postgres import PostgresRecord
from sidecar.stores.record import Record
from tests.contract.postgres import ROLE, RawPostgres, empty, migrated
from tests.contract.record_suite import RawRecord, RecordSuite, Reopen
from tests.servers import Postgres


@pytest.fixture(scope="session")
def shared_place(postgres_server: Postgres) -> str:
    """The name of a migrated database for tests that only fill it."""
    return migrated(postgres_server)


@pytest.fixture
def place(postgres_server: Postgres, shared_place: str) -> Iterator[str]:
    """The name of a migrated, empty database."""
    yield shared_place
    empty(postgres_server, shared_place)


@pytest.fixture
async def opened(postgres_server: Postgres, place: str) -> AsyncIterator[Callable[..., Any]]:
    """Open engines on the database; all are closed after the test."""
    records: list[PostgresRecord] = []

    async def open_one(**options: Any) -> PostgresRecord:
        records.append(PostgresRecord(postgres_server.dsn(place, user=ROLE), **options))
        await records[-1].open()
        return records[-1]

    yield open_one
    for record in records:
        await record.close()


@pytest.fixture
def raw_database(postgres_server: Postgres, place: str) -> RawPostgres:
    """What bypasses the engine."""
    return RawPostgres(postgres_server, place)


class TestPostgresRecord(RecordSuite):
    """The whole contract, on one database."""

    unfit_checks = frozenset({"durability"})

    @pytest.fixture
    async def record(self, opened: Callable[..., Any]) -> Record:
        """An open engine on an empty store."""
        record: Record = await opened()
        return record

    @pytest.fixture
    async def reopen(self, opened: Reopen) -> Reopen:
        """Open one more handle on the same database."""
        return opened

    @pytest.fixture
    async def raw(self, raw_database: RawPostgres) -> RawRecord:
        """What bypasses the engine."""
        return raw_database
