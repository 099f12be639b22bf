"""The PostgreSQL engine against the record contract, and what only a server can suffer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from psycopg import sql

from sidecar.stores.postgres import PostgresRecord, migrate
from sidecar.stores.record import Appended, NewEvent, Record
from tests.contract.record_suite import RawRecord, RecordSuite, Reopen
from tests.servers import Postgres

ROLE = "sidecar"
"""Who owns the databases and serves: no superuser, so that row-level security binds it."""


class RawPostgres(RawRecord):
    """The database through the driver alone, as its superuser."""

    def __init__(self, server: Postgres, database: str) -> None:
        self._server = server
        self._database = database

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Run one statement in a connection of its own."""
        with self._server.connect(self._database) as db:
            cursor = db.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def tables(self) -> set[str]:
        """Return the tables that statements name: no partitions."""
        found = self.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'standpipe'::regnamespace"
            " AND relkind IN ('r', 'p') AND NOT relispartition"
        )
        return {name for (name,) in found}

    def rows(self) -> Mapping[str, int]:
        return {name: self.execute(f"SELECT count(*) FROM standpipe.{name}")[0][0] for name in self.tables()}

    def damage_event(self, tenant: str, session: str, version: int) -> None:
        self.execute(
            "UPDATE standpipe.events SET kind = 99 WHERE (tenant, session, version) = (%s, %s, %s)",
            tenant,
            session,
            version,
        )

    def lose_event(self, tenant: str, session: str, version: int) -> None:
        self.execute(
            "DELETE FROM standpipe.events WHERE (tenant, session, version) = (%s, %s, %s)", tenant, session, version
        )

    def set_updated_at(self, tenant: str, session: str, updated_at_us: int) -> None:
        self.execute(
            "UPDATE standpipe.sessions SET updated_at_us = %s WHERE (tenant, session) = (%s, %s)",
            updated_at_us,
            tenant,
            session,
        )

    @contextlib.asynccontextmanager
    async def stalled(self, record: Record, event: NewEvent) -> AsyncIterator[asyncio.Future[Appended]]:
        self.execute(
            "CREATE FUNCTION standpipe.stall() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'"
        )
        # It is sessions of that name, and at their commit, when all is written and locked.
        self.execute(
            "CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON standpipe.sessions DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW WHEN (NEW.session = '{event.session}') EXECUTE FUNCTION standpipe.stall()"
        )
        try:
            with self._server.connect(self._database) as holder:
                holder.execute("SELECT pg_advisory_lock(1)")
                append = asyncio.ensure_future(record.append(event))
                while not self.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                    await asyncio.sleep(0.01)
                yield append
                holder.execute("SELECT pg_advisory_unlock(1)")
                await append
        finally:
            self.execute("DROP FUNCTION standpipe.stall() CASCADE")

    def keys(self) -> Mapping[str, Sequence[str]]:
        found = self.execute(
            "SELECT c.relname, (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(i.indkey::int2[])"
            " WITH ORDINALITY AS k (number, place) JOIN pg_attribute a ON a.attrelid = i.indrelid"
            " AND a.attnum = k.number) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE c.relnamespace = 'standpipe'::regnamespace"
        )
        return dict(found)


@pytest.fixture(scope="session")
def template(postgres_server: Postgres) -> str:
    """A migrated database that others are copied from."""
    name = postgres_server.create_database()
    with postgres_server.connect(name) as db:
        db.execute("CREATE EXTENSION vector")
        db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ROLE)))
        db.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(ROLE)))
    asyncio.run(migrate(postgres_server.dsn(name, user=ROLE)))
    return name


@pytest.fixture(scope="session")
def shared_place(postgres_server: Postgres, template: str) -> str:
    """The name of a migrated database for tests that only fill it."""
    return postgres_server.create_database(template)


@pytest.fixture
def place(postgres_server: Postgres, shared_place: str) -> Iterator[str]:
    """The name of a migrated, empty database. Emptying one takes a tenth of the time that copying one takes."""
    yield shared_place
    kept = {"deployment", "migrations"}
    with postgres_server.connect(shared_place) as db:
        for name in RawPostgres(postgres_server, shared_place).tables() - kept:
            db.execute(sql.SQL("DELETE FROM standpipe.{}").format(sql.Identifier(name)))


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
