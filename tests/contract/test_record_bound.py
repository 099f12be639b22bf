"""A database role that is bound to tenants: whoever holds its password is these tenants, whatever it says (P8)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from sidecar import limits
from sidecar.config import Config
from sidecar.errors import ConfigInvalid, StoreUnavailable
from sidecar.server import Server
from sidecar.stores import postgres
from sidecar.stores.postgres import ANY_TENANT, PostgresRecord, migrate
from sidecar.stores.record import Read, StateWrite
from tests.contract.postgres import ROLE, RawPostgres, unmigrated
from tests.contract.record_suite import MODEL, scope_of, turn
from tests.contract.test_record_postgres import DEPLOYMENT, EVERY_READ, fill
from tests.e2e.pods import MODELS
from tests.servers import Postgres

Bind = Callable[..., str]
_numbers: Final = itertools.count(1)


@pytest.fixture
def place(postgres_server: Postgres) -> Iterator[str]:
    """The name of a database of the owner's, without the schema."""
    name = unmigrated(postgres_server)
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def bind(postgres_server: Postgres, place: str) -> Bind:
    """Make a role and bind it to tenants, or bind one anew; return its name."""

    def run(*tenants: str, role: str = "") -> str:
        if not role:
            role = f'bound "{next(_numbers)}"'
            with postgres_server.connect(place) as db:
                db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        asyncio.run(migrate(postgres_server.dsn(place, user=ROLE), grant_to=[role], tenants=tenants))
        return role

    return run


def login(server: Postgres, place: str, role: str) -> str:
    """Return the address of a database for a role, whose name may hold anything."""
    return server.dsn(place, user=quote(role))


@pytest.fixture
async def opened(postgres_server: Postgres, place: str) -> AsyncIterator[Callable[[str], Any]]:
    """Open engines as a role; all are closed after the test."""
    records: list[PostgresRecord] = []

    async def open_one(role: str) -> PostgresRecord:
        records.append(PostgresRecord(login(postgres_server, place, role), migrate=role == ROLE))
        await records[-1].open()
        return records[-1]

    yield open_one
    for record in records:
        await record.close()


async def fetch(record: PostgresRecord, reads: Sequence[Read]) -> list[Any]:
    """Ask one by one: some refuse a tenant that has nothing."""
    return [await record.fetch([read]) for read in reads]


async def test_a_bound_role_is_no_other_tenant(
    bind: Bind, opened: Callable[[str], Any], postgres_server: Postgres, place: str
) -> None:
    """P8: its engine reads nothing of another tenant and writes nothing as one; its own it reads and writes (R35)."""
    role = await asyncio.to_thread(bind, "acme")
    owner = await opened(ROLE)
    await fill(owner)
    own, theirs = await fetch(owner, EVERY_READ), [replace(read, tenant="rival") for read in EVERY_READ]
    raw = RawPostgres(postgres_server, place)
    record = await opened(role)
    assert await fetch(record, EVERY_READ) == own
    assert await fetch(record, theirs) == await fetch(owner, [replace(read, tenant="nobody") for read in EVERY_READ])
    assert (await record.append(turn("mine"))).version == 1
    assert (await scope_of(record)).position
    assert await record.may_be("acme")
    assert not [tenant for tenant in ("rival", "acm", "acme,", "{acme}", "") if await record.may_be(tenant)]
    before = raw.dump()
    for tenant in ("rival", "nobody"):
        for event in (turn("s", tenant=tenant), turn("private", tenant=tenant, subject="eve")):
            with pytest.raises(ConfigInvalid):
                await record.append(event)
    with pytest.raises(ConfigInvalid):
        await record.publish_policy("rival", name="p", document="mine", digest=bytes(32))
    with pytest.raises(ConfigInvalid):
        await record.erase("rival", subject="eve")
    for write in (StateWrite(key="k", value=b"mine"), StateWrite(key="k", value=None)):
        with pytest.raises(ConfigInvalid):
            await record.put_state("rival", subject="ana", collection="c", writes=[write])
    assert not await record.sweep("rival", "private")
    assert await record.delete_state("rival", subject="ana", collection="c", prefix="", count_max=9) == (0, False)
    assert raw.dump() == before
    raw.execute("UPDATE standpipe.state SET expires_at_us = 1")
    assert await record.expire_state(count_max=9) == 1
    assert raw.execute("SELECT DISTINCT tenant FROM standpipe.state") == [("rival",)]


async def test_its_workers_see_its_tenants_alone(bind: Bind, opened: Callable[[str], Any]) -> None:
    """P8: what goes over all tenants goes over those of the role."""
    role = await asyncio.to_thread(bind, "acme")
    owner = await opened(ROLE)
    for tenant in ("acme", "rival"):
        await owner.append(turn(tenant=tenant))
    record = await opened(role)
    assert await record.claim(model=MODEL, worker="w", lease_s=9, count_max=9)
    assert not await record.claim(model=MODEL, worker="w", lease_s=9, count_max=9)
    assert [tenant for tenant, _ in await record.sessions_all(after=("", ""), count_max=9)] == ["acme"]
    assert [one.scope.tenant for one in await owner.claim(model=MODEL, worker="x", lease_s=9, count_max=9)] == ["rival"]


async def test_a_model_that_it_is_the_first_to_know_is_ordered_for_all(
    bind: Bind, opened: Callable[[str], Any]
) -> None:
    """A bound role's sidecars may be the first that ask for a model: no other tenant goes without its vectors (R15)."""
    role = await asyncio.to_thread(bind, "acme")
    owner = await opened(ROLE)
    for tenant in ("acme", "rival"):
        await owner.append(turn(tenant=tenant))
    record = await opened(role)
    assert await record.serve("another", instead_of="")
    found = await owner.claim(model="another", worker="w", lease_s=9, count_max=9)
    assert sorted(one.scope.tenant for one in found) == ["acme", "rival"]


async def test_its_statements_reach_no_other_tenant(
    bind: Bind, opened: Callable[[str], Any], postgres_server: Postgres, place: str
) -> None:
    """P8: with its password alone, and SQL of one's own, no table of tenants shows or takes another tenant's row."""
    role = await asyncio.to_thread(bind, "acme")
    owner = await opened(ROLE)
    await fill(owner)
    raw = RawPostgres(postgres_server, place)
    tables = sorted(raw.tables() - DEPLOYMENT)
    before = raw.dump()
    with psycopg.connect(login(postgres_server, place, role), autocommit=True) as db:
        for tenant, worker in itertools.product(("rival", "acme", ""), ("on", "off")):
            db.execute("SELECT set_config('standpipe.tenant', %s, false)", (tenant,))
            db.execute("SELECT set_config('standpipe.worker', %s, false)", (worker,))
            for name in tables:
                table = sql.Identifier("standpipe", name)
                others = sql.SQL("SELECT count(*) FROM {} WHERE tenant <> 'acme'").format(table)
                assert db.execute(others).fetchall() == [(0,)]
                for harm in (
                    "DELETE FROM {} WHERE tenant <> 'acme'",
                    "UPDATE {} SET tenant = 'rival' WHERE tenant = 'rival'",
                ):
                    assert db.execute(sql.SQL(harm).format(table)).rowcount == 0
                for harm in (
                    'INSERT INTO {} SELECT (jsonb_populate_record(t, \'{{"tenant": "rival"}}\')).* FROM {} t LIMIT 1',
                    "UPDATE {} SET tenant = 'rival'",
                    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
                    "CREATE POLICY mine ON {} USING (true)",
                    "TRUNCATE {}",
                ):
                    statement = sql.SQL(harm).format(*[table] * harm.count("{}"))
                    try:
                        assert db.execute(statement).rowcount == 0  # an engine that sees nothing changes nothing
                    except psycopg.errors.InsufficientPrivilege:
                        continue
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("SELECT * FROM standpipe.events_00")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(ROLE)))
    assert raw.dump() == before


async def test_who_has_a_bound_roles_rights_is_bound(
    bind: Bind, opened: Callable[[str], Any], postgres_server: Postgres, place: str
) -> None:
    """P8: a login that has its rights from a bound role, as pods with short-lived logins do, is bound with it."""
    role = await asyncio.to_thread(bind, "acme")
    with postgres_server.connect(place) as db:
        db.execute(sql.SQL("CREATE ROLE guest LOGIN IN ROLE {}").format(sql.Identifier(role)))
    try:
        record = await opened("guest")
        assert (await record.append(turn())).version == 1
        with pytest.raises(ConfigInvalid):
            await record.append(turn(tenant="rival"))
    finally:
        with postgres_server.connect(place) as db:
            db.execute("DROP ROLE guest")


async def test_bindings_are_changed_and_ended(bind: Bind, opened: Callable[[str], Any]) -> None:
    """The tenants that are named last are those of the role; a migration without tenants leaves them; '*' ends it."""
    role = await asyncio.to_thread(bind, "acme")
    record = await opened(role)

    async def may_be(*tenants: str) -> None:
        for tenant in ("acme", "rival", "third"):
            if tenant in tenants:
                await record.append(turn(tenant=tenant))
            else:
                with pytest.raises(ConfigInvalid):
                    await record.append(turn(tenant=tenant))

    await may_be("acme")
    await asyncio.to_thread(bind, "rival", "third", role=role)
    await may_be("rival", "third")
    await asyncio.to_thread(bind, role=role)
    await may_be("rival", "third")
    await asyncio.to_thread(bind, ANY_TENANT, role=role)
    await may_be("acme", "rival", "third")


async def test_a_binding_holds_nobody_up(
    bind: Bind, postgres_server: Postgres, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits no longer than bind_wait_ms for a backup that reads a table, and the role has no rights before it."""
    role = await asyncio.to_thread(bind, ANY_TENANT)
    with postgres_server.connect(place) as db:
        db.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA standpipe FROM {}").format(sql.Identifier(role)))
    monkeypatch.setattr(limits, "bind_wait_ms", 50)
    with postgres_server.connect(place) as backup:
        with backup.transaction():
            backup.execute("LOCK TABLE standpipe.sessions IN ACCESS SHARE MODE")
            with pytest.raises(StoreUnavailable):
                await asyncio.to_thread(bind, "acme", role=role)
            may = backup.execute("SELECT has_table_privilege(%s, 'standpipe.sessions', 'SELECT')", (role,)).fetchall()
        assert may == [(False,)]
    await asyncio.to_thread(bind, "acme", role=role)


async def test_a_table_of_a_later_release_is_bound_too(
    bind: Bind, opened: Callable[[str], Any], postgres_server: Postgres, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: the transaction that makes a table of tenants binds in it who is bound."""
    role = await asyncio.to_thread(bind, "acme", "third")
    later = """
        CREATE TABLE standpipe.later (tenant text COLLATE "C" PRIMARY KEY);
        ALTER TABLE standpipe.later ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY everyone ON standpipe.later USING (true);
        GRANT SELECT ON standpipe.later TO PUBLIC;
        INSERT INTO standpipe.later VALUES ('acme'), ('rival'), ('third')
    """
    monkeypatch.setitem(postgres.EXPANSIONS, 99, later)
    await opened(ROLE)
    with psycopg.connect(login(postgres_server, place, role)) as db:
        assert db.execute("SELECT tenant FROM standpipe.later ORDER BY 1").fetchall() == [("acme",), ("third",)]


async def test_the_owner_is_not_bound(bind: Bind, postgres_server: Postgres, place: str) -> None:
    """What binds a role would bind an owner that has its rights, and with it what must see all: that is refused."""
    await migrate(postgres_server.dsn(place, user=ROLE))
    with pytest.raises(ConfigInvalid) as caught:
        await asyncio.to_thread(bind, "acme", role=ROLE)
    assert caught.value.field == "grant_to"


async def test_who_is_not_bound_pays_nothing(bind: Bind, postgres_server: Postgres, place: str) -> None:
    """No statement of a role that is not bound looks at what binds another."""
    bound = await asyncio.to_thread(bind, "acme")
    free = await asyncio.to_thread(bind, ANY_TENANT)

    def plan(role: str) -> str:
        with psycopg.connect(login(postgres_server, place, role)) as db:
            return str(db.execute("EXPLAIN SELECT * FROM standpipe.sessions WHERE tenant = 'acme'").fetchall())

    assert "ANY" in plan(bound)
    assert "ANY" not in plan(free)


async def test_a_sidecar_of_another_tenant_does_not_start(
    bind: Bind, postgres_server: Postgres, place: str, tmp_path: Path
) -> None:
    """A sidecar whose role may not be its tenant says so at start, and shows nobody an empty memory."""
    role = await asyncio.to_thread(bind, "acme", "beta")
    common = {"record_migrate": False, "plaintext": True, "embedder": "none", "http": "", "models_dir": str(MODELS)}
    config = Config(record=login(postgres_server, place, role), listen=(f"unix:{tmp_path}/s",), tenant="acme", **common)
    async with Server(config):
        pass
    with pytest.raises(ConfigInvalid) as caught:
        async with Server(replace(config, tenant="rival")):
            pass
    assert caught.value.field == "tenant"
