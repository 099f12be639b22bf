"""Databases for tests of the PostgreSQL engine: migrated, owned by a role that row-level security binds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from psycopg import sql

from sidecar.stores.postgres import migrate
from sidecar.stores.record import Appended, NewEvent, Record
from tests.contract.record_suite import RawRecord
from tests.servers import Postgres

ROLE = "sidecar"
"""Who owns the databases and serves: no superuser, so that row-level security binds it."""


def unmigrated(server: Postgres) -> str:
    """Make a database of the role's own with the extension, and nothing else; return its name."""
    name = server.create_database()
    with server.connect(name) as db:
        if not db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchall():
            db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ROLE)))
        db.execute("CREATE EXTENSION vector")
        db.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(ROLE)))
    return name


def migrated(server: Postgres) -> str:
    """Make a database with the schema; return its name."""
    name = unmigrated(server)
    asyncio.run(migrate(server.dsn(name, user=ROLE)))
    return name


def empty(server: Postgres, database: str) -> None:
    """Remove all rows but the deployment's own: a tenth of what copying a migrated database takes."""
    kept = {"deployment", "migrations"}
    with server.connect(database) as db:
        for name in RawPostgres(server, database).tables() - kept:
            db.execute(sql.SQL("DELETE FROM standpipe.{}").format(sql.Identifier(name)))
        db.execute("UPDATE standpipe.deployment SET serving = ''")


def readable(dump: str) -> str:
    """Return a dump with what its hexadecimal bytes say behind it."""
    found = re.findall(r"\\\\x([0-9a-f]+)", dump)
    return dump + "".join(bytes.fromhex(digits).decode("latin-1") for digits in found)


STALL = """
CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1);
    RETURN NULL;
END $$
"""
STALL_TRIGGER = """
CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON standpipe.events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
WHEN (new.request_id = {}) EXECUTE FUNCTION stall()
"""


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

    def set_expires_at(self, tenant: str, key: str, expires_at_us: int) -> None:
        self.execute(
            "UPDATE standpipe.state SET expires_at_us = %s WHERE (tenant, key) = (%s, %s)", expires_at_us, tenant, key
        )

    def analyse(self) -> None:
        self.execute("ANALYZE")

    def dump(self) -> str:
        rows = [self.execute(f"SELECT t::text FROM standpipe.{name} t") for name in sorted(self.tables())]
        return readable(str(rows))

    @asynccontextmanager
    async def stalled(self, record: Record, event: NewEvent) -> AsyncIterator[asyncio.Future[Appended]]:
        """Hold the commit by a deferred trigger that waits for a lock of ours."""
        self.execute(STALL)
        with self._server.connect(self._database) as gate:
            gate.execute(sql.SQL(STALL_TRIGGER).format(event.request_id))
            gate.execute("SELECT pg_advisory_lock(1)")
            append = asyncio.ensure_future(record.append(event))
            waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not gate.execute(waiting).fetchall():
                await asyncio.sleep(0.01)
            yield append
            gate.execute("SELECT pg_advisory_unlock(1)")
        await asyncio.wait([append])
        self.execute("DROP FUNCTION stall CASCADE")

    def keys(self) -> Mapping[str, Sequence[str]]:
        found = self.execute(
            "SELECT c.relname, (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(i.indkey::int2[])"
            " WITH ORDINALITY AS k (number, place) JOIN pg_attribute a ON a.attrelid = i.indrelid"
            " AND a.attnum = k.number) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE c.relnamespace = 'standpipe'::regnamespace"
        )
        return dict(found)
