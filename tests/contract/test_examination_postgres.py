"""The examination of a PostgreSQL: nothing to mend where all is well, and each fault that is planted is found (R22)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from psycopg import sql

from sidecar import finding, limits
from sidecar.errors import ConfigInvalid
from sidecar.finding import Finding, Outcome
from sidecar.stores import postgres, postgres_examination
from sidecar.stores.postgres import PostgresRecord
from tests.servers import Postgres

Found = Mapping[str, Finding]
Plant = Callable[..., None]
ROLE = "app"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that waits for the disk, as one that serves does, with a role that serves."""
    with Postgres(durable=True) as made:
        with made.connect() as db:
            db.execute(f"CREATE ROLE {ROLE} LOGIN")
        yield made


@pytest.fixture
async def database(server: Postgres) -> Any:
    """The name of a database with the schema, and rights for the role."""
    name = server.create_database()
    await postgres.migrate(server.dsn(name), grant_to=[ROLE])
    yield name
    server.drop_database(name)


@pytest.fixture
def plant(server: Postgres, database: str) -> Plant:
    """Do something to the database as its owner."""

    def run(*statements: str) -> None:
        with server.connect(database) as db:
            for statement in statements:
                db.execute(sql.SQL(statement))  # type: ignore[arg-type]  # the driver wants literals

    return run


async def examine(dsn: str) -> Found:
    """Examine a database; return what was found, by check."""
    found = await PostgresRecord(dsn).examine()
    assert all(bool(one.advice) == (one.outcome in {Outcome.WARNING, Outcome.FAILED}) for one in found)
    assert len({one.check for one in found}) == len(found)
    return {one.check: one for one in found}


def unfit(found: Found) -> dict[str, Outcome]:
    """Return what is to be mended."""
    return {check: one.outcome for check, one in found.items() if one.advice}


async def test_a_healthy_deployment_has_nothing_to_mend(server: Postgres, database: str) -> None:
    """Every check is made and none asks for anything."""
    found = await examine(server.dsn(database, user=ROLE))
    assert {one.outcome for one in found.values()} == {Outcome.OK}
    assert found["server"].found.startswith("PostgreSQL ")
    assert list(found) == [
        "server",
        "role",
        "durability",
        "connections",
        "clock",
        "pgvector",
        "schema",
        "rights",
        "row security",
        "tenants",
        "isolation",
        "keys",
        "partitions",
        "grants",
        "recall",
        "work",
    ]


FAULTS: list[tuple[str, Sequence[str], Mapping[str, Outcome], str]] = [
    ("superuser", [f"ALTER ROLE {ROLE} SUPERUSER"], {"role": Outcome.FAILED, "isolation": Outcome.FAILED}, "SUPERUSER"),
    ("bypass", [f"ALTER ROLE {ROLE} BYPASSRLS"], {"role": Outcome.FAILED, "isolation": Outcome.FAILED}, "BYPASSRLS"),
    (
        "few connections",
        [f"ALTER ROLE {ROLE} CONNECTION LIMIT 2"],
        {"connections": Outcome.WARNING},
        "PgBouncer",
    ),
    (
        "read-only",
        [f"ALTER ROLE {ROLE} SET default_transaction_read_only = on"],
        {"writes": Outcome.FAILED, "isolation": Outcome.FAILED},
        "target_session_attrs=read-write",
    ),
    ("no extension", ["DROP EXTENSION vector CASCADE"], {"pgvector": Outcome.FAILED}, "CREATE EXTENSION vector"),
    ("no schema", ["DROP SCHEMA standpipe CASCADE"], {"schema": Outcome.FAILED}, "standpipe migrate"),
    ("old schema", ["DELETE FROM standpipe.migrations"], {"schema": Outcome.FAILED}, "standpipe migrate"),
    (
        "newer schema",
        ["INSERT INTO standpipe.migrations (number, kind) VALUES (999, 'migration')"],
        {"schema": Outcome.FAILED},
        "newer",
    ),
    (
        "no rights",
        [f"REVOKE INSERT ON standpipe.events, standpipe.routes FROM {ROLE}"],
        {"rights": Outcome.FAILED, "isolation": Outcome.FAILED},
        "--grant-to",
    ),
    (
        "owner not bound",
        ["ALTER TABLE standpipe.items NO FORCE ROW LEVEL SECURITY"],
        {"row security": Outcome.FAILED},
        "FORCE ROW LEVEL SECURITY",
    ),
    (
        "no row security",
        ["ALTER TABLE standpipe.routes DISABLE ROW LEVEL SECURITY"],
        {"row security": Outcome.FAILED, "isolation": Outcome.FAILED},
        "ENABLE ROW LEVEL SECURITY",
    ),
    (
        "a partition not bound",
        ["ALTER TABLE standpipe.items_07 DISABLE ROW LEVEL SECURITY"],
        {"row security": Outcome.FAILED},
        "ENABLE ROW LEVEL SECURITY",
    ),
    (
        "a policy for everyone",
        ["CREATE POLICY everyone ON standpipe.routes USING (true)"],
        {"isolation": Outcome.FAILED},
        "policies",
    ),
    (
        "a policy for every writer",
        ["CREATE POLICY every_writer ON standpipe.routes FOR INSERT WITH CHECK (true)"],
        {"isolation": Outcome.FAILED},
        "policies",
    ),
    (
        "no policy",
        ["DROP POLICY of_the_tenant ON standpipe.routes"],
        {"isolation": Outcome.FAILED},
        "standpipe migrate",
    ),
    (
        "a key without tenant",
        ["CREATE UNIQUE INDEX stray ON standpipe.routes (name, tenant)"],
        {"keys": Outcome.WARNING},
        "distributed",
    ),
    (
        "parked work",
        ["INSERT INTO standpipe.work (tenant, subject, model, since_us, parked_at_us) VALUES ('t', 's', 'm', 1, 1)"],
        {"work": Outcome.WARNING},
        "standpipe parked",
    ),
    (
        "a partition is missing",
        ["DROP TABLE standpipe.items_07"],
        {"partitions": Outcome.FAILED},
        "Attach",
    ),
]


async def test_a_role_that_is_bound_is_told(server: Postgres, database: str, plant: Plant) -> None:
    """P8: the tenants that a role is bound to are told, and it is no other; a table that lacks it is a fault."""
    dsn = server.dsn(database, user=ROLE)
    assert "may be any" in (await examine(dsn))["tenants"].found
    await postgres.migrate(server.dsn(database), grant_to=[ROLE], tenants=["beta", "acme"])
    found = await examine(dsn)
    assert {one.outcome for one in found.values()} == {Outcome.OK}
    assert found["tenants"].found == "the role is bound to acme, beta"
    plant(f"DROP POLICY {ROLE} ON standpipe.routes", f"DROP POLICY {ROLE} ON standpipe.keys")
    found = await examine(dsn)
    assert unfit(found) == {"tenants": Outcome.FAILED, "isolation": Outcome.FAILED}
    assert found["tenants"].found == "the role is bound, but not in keys, routes"


@pytest.mark.parametrize(("fault", "expected", "advice"), [one[1:] for one in FAULTS], ids=[one[0] for one in FAULTS])
async def test_a_planted_fault_is_found(
    server: Postgres, database: str, plant: Plant, fault: Sequence[str], expected: Mapping[str, Outcome], advice: str
) -> None:
    """Each fault is found by its check, with what to do about it, and nothing else is called wrong (P8)."""
    plant(*fault)
    try:
        found = await examine(server.dsn(database, user=ROLE))
    finally:
        plant(f"ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS CONNECTION LIMIT -1", f"ALTER ROLE {ROLE} RESET ALL")
    assert unfit(found) == expected
    assert any(advice in found[check].advice for check in expected)


async def test_a_server_that_does_not_wait_for_the_disk(postgres_server: Postgres) -> None:
    """P1: a server whose settings lose acknowledged commits in a crash is no record store."""
    found = await examine(postgres_server.dsn())
    assert "fsync" in found["durability"].found
    assert found["durability"].outcome == Outcome.FAILED


@pytest.mark.parametrize(
    "address", ["postgresql://u:hunter2@127.0.0.1:1/d", "postgresql://u:hunter2@nowhere.invalid/d"]
)
async def test_a_server_that_is_not_there(address: str) -> None:
    """The one finding says so, without the password."""
    found = await examine(address)
    assert unfit(found) == {"server": Outcome.FAILED}
    assert "hunter2" not in repr(found)


async def test_what_is_not_in_the_server(server: Postgres) -> None:
    """A database and a role that do not exist are told."""
    for dsn in (server.dsn("nothing"), server.dsn(user="nobody_of_that_name")):
        assert unfit(await examine(dsn)) == {"server": Outcome.FAILED}


def test_an_address_that_cannot_be_read() -> None:
    """What libpq cannot read is a matter of the settings, and is not quoted."""
    with pytest.raises(ConfigInvalid) as caught:
        PostgresRecord("postgresql://u:hunter2@h/d?nonsense=1")
    assert caught.value.field == "record"
    assert "hunter2" not in caught.value.message


def answering(rows: Sequence[Any]) -> Callable[..., Awaitable[Sequence[Any]]]:
    """Answer as a server would that cannot be had here."""

    async def ask(name: str, *values: object) -> Sequence[Any]:
        return [rows]

    return ask


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((150_012, "15.12", False, "UTF8", True, False), {"server": Outcome.FAILED}),
        ((160_000, "16.0", False, "LATIN1", True, False), {"encoding": Outcome.FAILED}),
        ((160_000, "16.0", False, "UTF8", False, False), {"encryption": Outcome.WARNING}),
        ((160_000, "16.0", True, "UTF8", False, True), {"writes": Outcome.FAILED}),
        ((160_000, "16.0", False, "UTF8", False, True), {}),
    ],
)
async def test_servers_that_cannot_be_had_here(row: Sequence[Any], expected: Mapping[str, Outcome]) -> None:
    """An old server, another encoding, and a server on another machine without TLS are told."""
    found = await postgres_examination._server(answering(row))
    assert unfit({one.check: one for one in found}) == expected


@pytest.mark.parametrize(
    ("installed", "available", "says"),
    [(None, None, "Install"), (None, "0.8.0", "CREATE EXTENSION"), ("0.8.0", "0.8.0", "")],
)
async def test_the_extension_may_lack_in_two_places(installed: Any, available: Any, says: str) -> None:
    """What lacks on the server is told from what lacks in the database."""
    found = await postgres_examination._extension(answering((installed, available)))
    assert says in found.advice
    assert (found.outcome == Outcome.OK) == (not says)


@pytest.mark.parametrize("sign", [-1, 1])
def test_clocks_that_disagree(sign: int) -> None:
    """Beyond clock_skew_ms, before or behind, there is a warning; what the question took is no skew."""
    now, most_s = time.time(), limits.clock_skew_ms / 1000
    assert finding.clock(now, now + sign * most_s * 0.99, now).outcome == Outcome.OK
    assert finding.clock(now, now + sign * most_s * 1.01, now).outcome == Outcome.WARNING
    assert finding.clock(now, now + 5, now + 10).found == "as this machine's"
