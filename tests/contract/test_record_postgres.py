"""The PostgreSQL engine against the record contract, and what only a server can suffer."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import canonical, limits
from sidecar.errors import (
    ConfigInvalid,
    DeadlineExceeded,
    Internal,
    StandpipeError,
    StoreCorrupt,
    StoreFull,
    StoreReadOnly,
    StoreSchemaNewer,
    StoreUnavailable,
)
from sidecar.stores.postgres import ERRORS, EXPANSIONS, MIGRATIONS, SCHEMA, SQL, PostgresRecord, migrate, store_error
from sidecar.stores.record import (
    ChangesRead,
    Checkpoint,
    ErasureRead,
    EventsRead,
    Head,
    HeadRead,
    HeldRead,
    KeyRead,
    LagRead,
    PoliciesRead,
    PolicyRead,
    Read,
    Record,
    RouteRead,
    RoutesRead,
    Scope,
    ScopeRead,
    SessionRead,
    SessionsRead,
    StateAll,
    StateList,
    StateRead,
    StateWrite,
    StoredKey,
    StoredRoute,
)
from tests.contract.postgres import ROLE, RawPostgres, empty, migrated, unmigrated
from tests.contract.record_suite import (
    MODEL,
    RawRecord,
    RecordSuite,
    Reopen,
    change,
    data_key,
    erase,
    item,
    scope_of,
    shared_store,
    turn,
)
from tests.servers import Postgres, free_port

DEPLOYMENT: Final = {"deployment", "grants", "models", "migrations"}
"""Tables that hold nothing of a tenant."""


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


# --- the schema ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(postgres_server: Postgres) -> Iterator[str]:
    """The name of a database of the role's own, without the schema."""
    name = unmigrated(postgres_server)
    yield name
    postgres_server.drop_database(name)


async def test_many_handles_open_at_once(postgres_server: Postgres, bare: str) -> None:
    """Of handles that open a new database together one makes the schema and the key, and all work (R12)."""
    records = [PostgresRecord(postgres_server.dsn(bare, user=ROLE)) for _ in range(6)]
    await asyncio.gather(*(record.open() for record in records))
    try:
        assert len({await record.signing_key() for record in records}) == 1
        assert [(await record.append(turn())).version for record in records] == [1, 2, 3, 4, 5, 6]
    finally:
        await asyncio.gather(*(record.close() for record in records))
    rows = RawPostgres(postgres_server, bare).rows()
    assert (rows["deployment"], rows["migrations"]) == (1, len(MIGRATIONS) + len(EXPANSIONS))


async def test_migrate_says_what_it_did(postgres_server: Postgres, bare: str) -> None:
    """A dry run changes nothing and lists what is missing; a run does it, and a second finds nothing to do."""
    dsn = postgres_server.dsn(bare, user=ROLE)
    missing = await migrate(dsn, dry_run=True)
    assert missing[0] == (1, "migration")
    assert RawPostgres(postgres_server, bare).execute("SELECT to_regnamespace('standpipe')") == [(None,)]
    assert await migrate(dsn) == missing
    key = RawPostgres(postgres_server, bare).execute("SELECT signing_key FROM standpipe.deployment")
    assert await migrate(dsn) == await migrate(dsn, dry_run=True) == []
    assert RawPostgres(postgres_server, bare).execute("SELECT signing_key FROM standpipe.deployment") == key


async def test_a_database_without_the_schema(postgres_server: Postgres, bare: str) -> None:
    """An engine that may not migrate says what to run (R18)."""
    record = PostgresRecord(postgres_server.dsn(bare, user=ROLE), migrate=False)
    with pytest.raises(ConfigInvalid, match="standpipe migrate"):
        await record.open()


async def test_a_newer_schema(postgres_server: Postgres, bare: str) -> None:
    """A newer release's expansion goes unnoticed; its migration is refused, with both numbers (R18)."""
    record = PostgresRecord(postgres_server.dsn(bare, user=ROLE))
    raw = RawPostgres(postgres_server, bare)
    await record.open()
    await record.close()
    raw.execute("INSERT INTO standpipe.migrations (number, kind) VALUES (998, 'expansion')")
    await record.open()
    await record.close()
    raw.execute("INSERT INTO standpipe.migrations (number, kind) VALUES (999, 'migration')")
    for migrates in (True, False):
        with pytest.raises(StoreSchemaNewer) as caught:
            await PostgresRecord(postgres_server.dsn(bare, user=ROLE), migrate=migrates).open()
        assert caught.value.metadata == {"stored_schema": "999", "known_schema": str(SCHEMA)}


async def test_another_encoding(postgres_server: Postgres) -> None:
    """A database that cannot hold every text is refused, and nothing is left in it."""
    with postgres_server.connect() as db:
        db.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(ConfigInvalid, match="UTF8"):
            await migrate(postgres_server.dsn("latin"))
        assert await migrate(postgres_server.dsn("latin"), dry_run=True)
        with postgres_server.connect("latin") as db:
            assert db.execute("SELECT to_regnamespace('standpipe')").fetchall() == [(None,)]
    finally:
        postgres_server.drop_database("latin")


async def test_a_role_that_only_serves(postgres_server: Postgres, bare: str) -> None:
    """A role without rights to the schema serves after `migrate --grant-to`, and reaches no partition (P8)."""
    raw = RawPostgres(postgres_server, bare)
    raw.execute('CREATE ROLE "App" LOGIN')
    owner, app = (postgres_server.dsn(bare, user=user) for user in (ROLE, "App"))
    try:
        await migrate(owner)
        with pytest.raises(ConfigInvalid, match="--grant-to"):
            await PostgresRecord(app, migrate=False).open()
        assert await migrate(owner, grant_to=["App"]) == []
        record = PostgresRecord(app)
        await record.open()
        for tenant in ("acme", "rival"):
            await record.append(turn(tenant=tenant))
        (claim, _) = await record.claim(model=MODEL, worker="w", lease_s=60, count_max=9)
        assert await record.put_vectors(claim.scope, model=MODEL, vectors=[b"1"])
        await record.adopt("server", [(0, 9)])
        assert await record.serve("newer", instead_of="")
        await record.drop_model(MODEL)
        await record.drop_derived()
        await record.close()
        for statement in (
            "CREATE TABLE standpipe.t ()",
            "DROP TABLE standpipe.work",
            "SELECT 1 FROM standpipe.events_00",
        ):
            with psycopg.connect(app, autocommit=True) as db, pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(statement)
    finally:
        raw.execute('DROP OWNED BY "App"; DROP ROLE "App"')


# --- isolation -------------------------------------------------------------------------------------------------------


def test_every_key_can_be_distributed(postgres_server: Postgres, shared_place: str) -> None:
    """P8: tables of tenants lead every primary and unique key with the tenant, and the large are partitioned by it."""
    raw = RawPostgres(postgres_server, shared_place)
    keys = raw.execute(
        "SELECT t.relname, a.attname FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid"
        " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
        " WHERE i.indisunique AND t.relnamespace = 'standpipe'::regnamespace"
    )
    leads = {table: lead for table, lead in keys if table not in DEPLOYMENT}
    assert len(leads) == 14 + 3 * 16
    assert set(leads.values()) == {"tenant"}
    parted = raw.execute(
        "SELECT c.relname, pg_get_partkeydef(c.oid), (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = c.oid)"
        " FROM pg_class c WHERE c.relkind = 'p' AND c.relnamespace = 'standpipe'::regnamespace"
    )
    assert sorted(parted) == [(name, "HASH (tenant)", 16) for name in ("events", "items", "vectors")]
    unbound = raw.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'standpipe'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert {name for (name,) in unbound} == DEPLOYMENT


EVERY_READ: Sequence[Read] = (
    HeadRead(tenant="acme", session="s"),
    HeadRead(tenant="acme", session="private"),
    SessionRead(tenant="acme", session="s", tokenizer="o"),
    SessionRead(tenant="acme", session="private", tokenizer="o"),
    EventsRead(tenant="acme", session="s", after_version=0, count_max=9, bytes_max=99),
    SessionsRead(tenant="acme", subject="", after_session="", count_max=9),
    SessionsRead(tenant="acme", subject="ana", after_session="", count_max=9),
    ScopeRead(tenant="acme", subject="ana", model=MODEL),
    ScopeRead(tenant="acme", subject="eve", model=MODEL),
    ChangesRead(tenant="acme", subject="ana"),
    HeldRead(tenant="acme", after_subject="", count_max=9),
    KeyRead(tenant="acme", subject="ana"),
    KeyRead(tenant="acme", key_id=b"id of ana"),
    ErasureRead(tenant="acme", subject="ana", session="erased"),
    StateRead(tenant="acme", subject="ana", collection="c", keys=["k", "private"], bytes_max=99),
    StateList(tenant="acme", subject="ana", collection="c", count_max=9, bytes_max=99),
    StateList(tenant="acme", subject="ana", collection="c", descending=True, count_max=9, bytes_max=99),
    StateAll(tenant="acme", subject="ana", count_max=9, bytes_max=99),
    PolicyRead(tenant="acme", name="p"),
    PolicyRead(tenant="acme", name="p", version=1),
    PoliciesRead(tenant="acme"),
    RouteRead(tenant="acme", name="r"),
    RoutesRead(tenant="acme"),
)
"""Every kind of read that a tenant's call makes."""


async def fill(record: Record) -> None:
    """Give two tenants the same names for everything, and one of them a session more."""
    for tenant in ("rival", "acme"):
        kinds = [item(tenant), change(tenant, entry=1), change(tenant, entry=2, held=True)]
        parts = {"texts": [tenant], "items": kinds, "opened_calls": ["open"]}
        await record.append(turn(tenant=tenant, request_id="same", **parts))
        scope = Scope(tenant=tenant, subject="ana", position=1, vector_position=0)
        assert await record.put_vectors(scope, model=MODEL, vectors=[tenant.encode()])
        fold = Checkpoint(session="s", tokenizer="o", version=1, weight_bytes=0, body=tenant.encode())
        await record.put_checkpoint(tenant, fold)
        await record.put_key(
            tenant, StoredKey(subject="ana", key_id=b"id of ana", wrapped=tenant.encode(), wrapping="first")
        )
        await record.publish_policy(tenant, name="p", document=tenant, digest=canonical.sha256((tenant,)))
        await record.put_state(
            tenant, subject="ana", collection="c", writes=[StateWrite(key="k", value=tenant.encode())]
        )
        await record.erase(tenant, subject="ana", session="erased")
    await record.put_state(
        "rival", subject="ana", collection="c", writes=[StateWrite(key="private", value=b"rival", keep_us=1 << 40)]
    )
    for document in ("rival 2", "rival 3"):
        await record.publish_policy("rival", name="p", document=document, digest=canonical.sha256((document,)))
    await record.set_route("acme", StoredRoute(name="r", policy_name="p", policy_version=1))
    await record.set_route("rival", StoredRoute(name="r", policy_name="default", policy_version=0))
    await record.append(turn("private", tenant="rival", subject="eve", items=[change("secret", held=True)]))


def strip(raw: RawPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the tenant's filter out of all statements and functions: what is left of it is row-level security."""
    filters = re.compile(r"\b(\w+\.)?tenant = (%b|new_tenant|of_tenant)")
    stripped = 0
    for name, statement in SQL.items():
        bare, count = filters.subn(lambda found: "%b::text IS NOT NULL" if found[2] == "%b" else "true", statement)
        monkeypatch.setitem(SQL, name, bare)
        stripped += count
    for (definition,) in raw.execute(
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'standpipe'::regnamespace"
    ):
        bare, count = filters.subn("true", definition)
        raw.execute(bare)
        stripped += count
    assert stripped > 40


async def test_row_level_security_alone_isolates(
    postgres_server: Postgres, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: without a single tenant filter in code, no read sees another tenant's row, and no write touches one."""
    raw = RawPostgres(postgres_server, bare)
    record = PostgresRecord(postgres_server.dsn(bare, user=ROLE))
    await record.open()
    await fill(record)
    expected = await record.fetch(EVERY_READ)
    assert "rival" not in repr(expected)
    await record.close()
    strip(raw, monkeypatch)
    await record.open()
    try:
        assert await record.fetch(EVERY_READ) == expected
        rival = [replace(read, tenant="rival") for read in EVERY_READ]
        before = await record.fetch(rival)
        assert (await record.append(turn(answered_calls=["open"], citations=[("s", 1)]))).version == 2
        for refused in (turn(citations=[("private", 1)]), turn("private", must_exist=True)):
            with pytest.raises(StandpipeError):
                await record.append(refused)
        await record.publish_policy("acme", name="p", document="new", digest=bytes(32))
        await record.set_route("acme", StoredRoute(name="r", policy_name="p", policy_version=2))
        await record.unpark("acme", subject="eve", model=MODEL)
        erasure = await record.erase("acme", subject="eve")
        await record.redact("acme", session="private", version=1, body=b"", entries=[0], erasure=erasure)
        assert not await record.sweep("acme", "private")
        await record.finish_erasure(erasure)
        await record.reopen("acme", subject="eve")
        assert await record.fetch(rival) == before

        # And the other way round: it is the policies that did it.
        own = await record.fetch(EVERY_READ)
        for name in raw.tables() - DEPLOYMENT:
            raw.execute(f"ALTER TABLE standpipe.{name} DISABLE ROW LEVEL SECURITY")
        differ = set()
        for read, answer in zip(EVERY_READ, own, strict=True):
            try:
                if await record.fetch([read]) != [answer]:
                    differ.add(type(read))
            except StandpipeError:  # two rows where one can be
                differ.add(type(read))
        assert differ == {type(read) for read in EVERY_READ}
    finally:
        await record.close()


async def test_no_transaction_leaves_its_tenant_behind(opened: Callable[..., Any]) -> None:
    """P8: what a transaction set is gone with it: a statement after it on its connection sees nobody's rows."""
    record = await opened(pool_max=1)
    await record.append(turn())
    await record.fetch([HeadRead(tenant="acme", session="s"), LagRead(model=MODEL)])

    async def look(db: Any, _: str) -> list[Any]:
        found = await db.execute(
            "SELECT (SELECT count(*) FROM standpipe.sessions), current_setting('statement_timeout')"
        )
        return list(await found.fetchall())

    assert await record._call(look, phase="record_fetch", deadline=None) == [(0, "0")]


# --- what PostgreSQL computes ----------------------------------------------------------------------------------------


@shared_store
@given(
    previous=st.binary(min_size=32, max_size=32),
    texts=st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)] * 3),
    numbers=st.tuples(*[st.integers(0, 2**62)] * 2),
    kind=st.integers(1, 9),
    body=st.binary(max_size=99),
)
def test_hashes_are_those_of_canonical(
    postgres_server: Postgres, shared_place: str, previous: bytes, texts: Any, numbers: Any, kind: int, body: bytes
) -> None:
    """The database's event_hash is `sidecar.canonical.event_hash` for any event (R5, P6)."""
    (tenant, session, request_id), (version, committed_at_us) = texts, numbers
    ((found,),) = RawPostgres(postgres_server, shared_place).execute(
        "SELECT standpipe.event_hash(%b, %b::text, %b::text, %b, %b, %b::text, %b, %b)",
        previous,
        tenant,
        session,
        version,
        kind,
        request_id,
        committed_at_us,
        body,
    )
    assert found == canonical.event_hash(
        previous,
        tenant=tenant,
        session=session,
        version=version,
        kind=kind,
        request_id=request_id,
        committed_at_us=committed_at_us,
        body=body,
    )


async def test_vectors_are_searchable_in_the_database(opened: Callable[..., Any], raw_database: RawPostgres) -> None:
    """A packed vector comes back bit for bit, and its components stand in pgvector for exact search (P6)."""
    record = await opened()
    dice = random.Random(7)
    vectors = [bytes(dice.randrange(256) for _ in range(4 + 384)) for _ in range(20)]
    await record.append(turn(texts=["x"] * 22))
    scope = Scope(tenant="acme", subject="ana", position=22, vector_position=0)
    assert await record.put_vectors(scope, model=MODEL, vectors=[*vectors, b"", bytes(4)])
    assert (await scope_of(record)).vectors == [*vectors, b"", bytes(4)]
    assert raw_database.execute("SELECT position FROM standpipe.vectors WHERE components IS NULL") == [(21,), (22,)]

    def product(one: bytes, other: bytes) -> int:
        return sum(a * b for a, b in zip(memoryview(one)[4:].cast("b"), memoryview(other)[4:].cast("b"), strict=True))

    query = vectors[3]
    best = sorted(range(20), key=lambda at: -product(query, vectors[at]) / product(vectors[at], vectors[at]) ** 0.5)
    found = raw_database.execute(
        "SELECT position - 1 FROM standpipe.vectors WHERE components IS NOT NULL ORDER BY components <=> %s::halfvec",
        str(memoryview(query)[4:].cast("b").tolist()),
    )
    assert [at for (at,) in found] == best


async def test_any_text_comes_back(opened: Callable[..., Any]) -> None:
    """Texts with what PostgreSQL's own text cannot hold come back as they were (P6)."""
    record = await opened()
    texts = ["\0", "a\0b", "", "Ünïcode 漢字 😀", "\\x00", "'; DROP TABLE events; --", "%s %b %%"]
    await record.append(turn(texts=texts))
    assert [found.text for found in (await scope_of(record)).items] == texts


async def test_sealed_vectors_are_bytes_alone(opened: Callable[..., Any], raw_database: RawPostgres) -> None:
    """An engine whose vectors are sealed makes no components of them, and they come back as they were (P11)."""
    record = await opened(components=False)
    await record.append(turn(texts=["x"]))
    scope = Scope(tenant="acme", subject="ana", position=1, vector_position=0)
    sealed = b"\0" + bytes(range(99))
    assert await record.put_vectors(scope, model=MODEL, vectors=[sealed])
    assert (await scope_of(record)).vectors == [sealed]
    assert raw_database.execute("SELECT components FROM standpipe.vectors") == [(None,)]


def test_reads_go_by_keys(postgres_server: Postgres, shared_place: str) -> None:
    """No statement that a tenant's call makes scans a table, under row-level security too."""
    scans = {"grants", "known_models", "signing_key", "migrations", "drop_grants", "lag", "lock_grants", "drop_vectors"}
    with psycopg.connect(postgres_server.dsn(shared_place, user=ROLE), autocommit=True) as db:
        db.execute("SET enable_seqscan = off")
        for name, statement in SQL.items():
            if name in scans or "standpipe." not in statement or name in {"make", "vacuum"}:
                continue
            values = [None] * statement.count("%b")
            plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN {statement}", values or None).fetchall())
            assert "Seq Scan" not in plan, (name, plan)


# --- erasure ---------------------------------------------------------------------------------------------------------


async def test_a_session_that_begins_amid_an_erasure(opened: Callable[..., Any], raw_database: RawPostgres) -> None:
    """A session that the marking of its subject could not see yet is erased when the call returns (R29)."""
    record = await opened()
    await record.append(turn())
    async with raw_database.stalled(await opened(), turn("late")) as late:
        erasing = asyncio.ensure_future(record.erase("acme", subject="ana"))
        await asyncio.sleep(0.2)
        assert not erasing.done()
    assert (await late).version == 1
    await erasing
    for head in await record.fetch([HeadRead(tenant="acme", session=name) for name in ("s", "late")]):
        assert isinstance(head, Head)
        assert head.erased


_ARGUMENTS: Final = "'acme', %b::text, %b::text, %b::text, '', NULL, false, 1, '', 0" + ", '{}'" * 12
CALLS: Final = {
    "append": f"SELECT outcome FROM standpipe.append({_ARGUMENTS})",
    "append_kept": f"SELECT outcome FROM standpipe.append_kept({_ARGUMENTS}, 0, 9)",
}
"""How the releases before append: the first state that served on PostgreSQL, and 0.2.0."""


@pytest.mark.parametrize(("name", "refused"), [("append", "ended"), ("append_kept", "expired")])
async def test_the_releases_before_append_nothing_to_what_is_erased(
    opened: Callable[..., Any], postgres_server: Postgres, place: str, name: str, refused: str
) -> None:
    """Their functions work as they did, and refuse what was erased by an outcome that they know (R29)."""
    record = await opened()
    for subject in ("ana", "bob"):
        await record.append(turn(subject, subject=subject))
    await record.erase("acme", subject="ana")
    await record.erase("acme", subject="bob", session="bob")
    with psycopg.connect(postgres_server.dsn(place, user=ROLE), autocommit=True) as db:
        db.execute("SELECT set_config('standpipe.tenant', 'acme', false)")

        def append(session: str, subject: str) -> str:
            row = db.execute(CALLS[name], (session, subject, f"{session}-{subject}")).fetchone()
            assert row
            return str(row[0])

        assert append("ana", "") == append("ana", "ana") == append("new", "ana") == refused
        assert append("bob", "bob") == refused
        assert append("new", "bob") == append("new", "") == "appended"
        assert append("new", "") == "replayed"
        assert append("new", "carl") == "mismatch"


async def test_who_was_let_in_serves_on(postgres_server: Postgres, bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that was granted a release's tables may use those that a later release adds."""
    raw = RawPostgres(postgres_server, bare)
    raw.execute('CREATE ROLE "App" LOGIN')
    try:
        with monkeypatch.context() as earlier:
            earlier.delitem(EXPANSIONS, 4)
            earlier.delitem(EXPANSIONS, 5)
            earlier.delitem(EXPANSIONS, 7)
            await migrate(postgres_server.dsn(bare, user=ROLE), grant_to=["App"])
        later = [(number, "expansion") for number in (4, 5, 7)]
        assert await migrate(postgres_server.dsn(bare, user=ROLE)) == later
        record = PostgresRecord(postgres_server.dsn(bare, user="App"), migrate=False)
        await record.open()
        await record.append(turn(items=[change("home: Oslo")]))
        await record.put_key("acme", data_key())
        await record.put_state("acme", subject="ana", collection="c", writes=[StateWrite(key="k", value=b"v")])
        await erase(record)
        await record.scrub()
        await record.close()
    finally:
        raw.execute('DROP OWNED BY "App"; DROP ROLE "App"')


async def test_a_scrub_leaves_no_dead_row(opened: Callable[..., Any], raw_database: RawPostgres) -> None:
    """After a scrub no row that was removed is left in the tables that hold content (R32, P11)."""
    record = await opened()
    await record.append(turn(texts=["x" * 9999] * 9, opened_calls=["call"]))
    await record.put_key("acme", data_key())
    await record.put_state("acme", subject="ana", collection="c", writes=[StateWrite(key="k", value=b"x" * 9999)])
    await erase(record)
    await record.close()  # or else it may tell the server later what it removed
    await (await opened()).scrub()
    rows = raw_database.execute(
        "SELECT relname, n_dead_tup, vacuum_count FROM pg_stat_user_tables"
        " WHERE relname ~ '^(events|items|vectors)_|^(keys|tool_calls|checkpoints|state)$'"
    )
    assert len(rows) == 3 * 16 + 4
    assert {dead for _, dead, _ in rows} == {0}
    assert min(count for _, _, count in rows) > 0


async def test_a_scrub_waits_for_who_still_sees(
    opened: Callable[..., Any], postgres_server: Postgres, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a snapshot sees what was removed, a scrub is refused after scrub_wait_ms; then it works (R32)."""
    monkeypatch.setattr(limits, "scrub_wait_ms", 100)
    record = await opened()
    await record.append(turn(texts=["xylophone"]))
    with psycopg.connect(postgres_server.dsn(place, user=ROLE)) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM standpipe.events")
        await erase(record)
        for _ in range(limits.breaker_failures_max + 1):
            with pytest.raises(StoreUnavailable, match="still see"):
                await record.scrub()
        assert await record.fetch([HeadRead(tenant="acme", session="none")]) == [None]
        reader.rollback()
        await record.scrub()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_every_exception_of_the_driver_is_mapped() -> None:
    """Each class of the driver becomes a named error of ours, without its text (R18)."""
    classes = {
        found
        for found in (*vars(psycopg).values(), *vars(psycopg.errors).values())
        if isinstance(found, type) and issubclass(found, Exception)
    }
    assert len(classes) > 250
    for found in classes:
        error = found("a text of the driver")
        ours = store_error(error)
        assert type(ours) is not StandpipeError
        assert "a text of the driver" not in repr((ours.message, ours.metadata))
        assert ours.__cause__ is error
    known = {found.sqlstate for found in classes if getattr(found, "sqlstate", None)}
    for state in ERRORS:
        assert state.startswith("SP") or any(one.startswith(state) for one in known), state


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("the connection is lost"), StoreUnavailable),
        (psycopg.errors.AdminShutdown(), StoreUnavailable),
        (psycopg.errors.CannotConnectNow(), StoreUnavailable),
        (psycopg.errors.TooManyConnections(), StoreUnavailable),
        (psycopg.errors.SerializationFailure(), StoreUnavailable),
        (psycopg.errors.DeadlockDetected(), StoreUnavailable),
        (psycopg.errors.QueryCanceled(), DeadlineExceeded),
        (psycopg.errors.DiskFull(), StoreFull),
        (psycopg.errors.ReadOnlySqlTransaction(), StoreReadOnly),
        (psycopg.errors.DataCorrupted(), StoreCorrupt),
        (psycopg.errors.IndexCorrupted(), StoreCorrupt),
        (psycopg.errors.UndefinedTable(), ConfigInvalid),
        (psycopg.errors.UndefinedFunction(), ConfigInvalid),
        (psycopg.errors.InsufficientPrivilege(), ConfigInvalid),
        (psycopg.errors.UniqueViolation(), Internal),
        (psycopg.DataError("NUL"), Internal),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), StoreCorrupt),
        (ConnectionResetError(), StoreUnavailable),
        (KeyError("x"), Internal),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_error_kinds(error: Exception, kind: type[StandpipeError]) -> None:
    """Errors of each family become the error that says whether to retry, and ours pass as they are (R18)."""
    ours = store_error(error)
    assert type(ours) is kind
    assert store_error(ours) is ours


def test_an_address_that_is_none() -> None:
    """What libpq cannot read is refused by the setting's name, without the password in it."""
    for dsn in ("postgresql://me:hunter2@host/d?sslmood=on", "postgresql://me:hunter2@[host/d", "hunter2"):
        with pytest.raises(ConfigInvalid) as caught:
            PostgresRecord(dsn)
        assert caught.value.field == "record"
        assert "hunter2" not in repr((caught.value.message, caught.value.__context__, caught.value.__cause__))


async def test_what_cannot_be_reached_says_why(postgres_server: Postgres) -> None:
    """A failed connection says what is wrong in words of ours, never with names or passwords (R18)."""
    port = postgres_server.port
    for dsn, why in {
        f"postgresql://me:hunter2@127.0.0.1:{free_port()}/d": "nothing listens at its address",
        "postgresql://me:hunter2@/d?host=/nowhere": "nothing listens at its socket",
        f"postgresql://nobody-here:hunter2@127.0.0.1:{port}/postgres": "the server has no such role",
        f"postgresql://postgres:hunter2@127.0.0.1:{port}/nowhere": "the server has no such database",
        f"postgresql://postgres:hunter2@127.0.0.1:{port}/postgres?sslmode=require": "no TLS could be agreed on",
    }.items():
        with pytest.raises(StoreUnavailable) as caught:
            await PostgresRecord(dsn).open()
        assert why in caught.value.message
        assert not re.search("hunter2|nobody-here|nowhere", repr((caught.value.message, caught.value.metadata)))
