"""The PostgreSQL engine while its server is restarted, killed, stopped in its tracks, locked, or behind others."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from sidecar import limits
from sidecar.errors import DeadlineExceeded, Overloaded, StandpipeError, StoreReadOnly, StoreUnavailable
from sidecar.stores.postgres import PostgresRecord, _Call
from sidecar.stores.record import Appended, Head, HeadRead, ScopeRead, ScopeState
from tests.contract.postgres import ROLE, RawPostgres, migrated
from tests.contract.record_suite import log, one, turn
from tests.servers import LOOPBACK, Postgres, Server, directory

HEAD = HeadRead(tenant="acme", session="s")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that waits for the disk, and that a test may do anything to and must mend."""
    with Postgres(durable=True) as made:
        yield made


@pytest.fixture(scope="module")
def template(server: Postgres) -> str:
    """The name of a migrated database that others are copied from."""
    return migrated(server)


@pytest.fixture
def database(server: Postgres, template: str) -> str:
    """The name of a migrated database."""
    return server.create_database(template)


@pytest.fixture
def raw(server: Postgres, database: str) -> RawPostgres:
    """What bypasses the engine."""
    return RawPostgres(server, database)


@asynccontextmanager
async def opened(dsn: str, **options: Any) -> AsyncIterator[PostgresRecord]:
    """Open an engine; close it after."""
    record = PostgresRecord(dsn, **options)
    await record.open()
    try:
        yield record
    finally:
        await record.close()


@pytest.fixture
async def record(server: Postgres, database: str) -> AsyncIterator[PostgresRecord]:
    """An open engine."""
    async with opened(server.dsn(database, user=ROLE)) as made:
        yield made


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """Wait until something is so."""
    give_up_at = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.02)


async def works(record: PostgresRecord) -> bool:
    """Return whether the store answers."""
    try:
        await record.fetch([HEAD])
    except StoreUnavailable:
        return False
    return True


# --- servers that go away --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "kill9"])
async def test_the_server_goes_away_under_load(server: Postgres, database: str, how: str) -> None:
    """P1, P3: callers see StoreUnavailable and nothing else; what was acknowledged is there, once, when it is back."""
    acknowledged: dict[str, Appended] = {}
    errors: list[Exception] = []
    over = False

    async def write(record: PostgresRecord, session: str) -> None:
        while not over:
            event = turn(session)
            while not over:
                try:
                    acknowledged[event.request_id] = await record.append(event)
                    break
                except StandpipeError as error:
                    errors.append(error)
                    await asyncio.sleep((error.retry_after_ms or 0) / 1000)

    async with opened(server.dsn(database, user=ROLE)) as one_pod, opened(server.dsn(database, user=ROLE)) as another:
        writers = [asyncio.ensure_future(write(pod, f"s{number}")) for number in range(3) for pod in (one_pod, another)]
        for _ in range(2):
            before = len(acknowledged)
            await until(lambda before=before: _grown(acknowledged, before + 20))
            if how == "restart":
                await asyncio.to_thread(server.restart)
            else:
                await asyncio.to_thread(server.kill9)
                await asyncio.to_thread(server.start)
            before = len(acknowledged)
            await until(lambda before=before: _grown(acknowledged, before + 20))
        over = True
        await asyncio.gather(*writers)
        assert {type(error) for error in errors} == {StoreUnavailable}
        logs = {f"s{number}": await log(one_pod, f"s{number}") for number in range(3)}
        found = {event.request_id: event for events in logs.values() for event in events}
        assert len(found) == sum(map(len, logs.values()))
        for request_id, appended in acknowledged.items():
            assert (found[request_id].version, found[request_id].event_hash) == (appended.version, appended.event_hash)
        memory = await one(one_pod, ScopeRead(tenant="acme", subject="ana", model=""), ScopeState)
        assert [item.position for item in memory.items] == list(range(1, len(found) + 1))


async def _grown(held: dict[str, Appended], size: int) -> bool:
    return len(held) >= size


async def test_a_server_that_is_down_fails_fast(server: Postgres, record: PostgresRecord) -> None:
    """P12: without a server calls fail at once, the breaker says when to come again, and one probe finds it back."""
    await asyncio.to_thread(server.stop)
    try:
        refused: list[StoreUnavailable] = []
        for _ in range(limits.breaker_failures_max + 1):
            with pytest.raises(StoreUnavailable) as caught:
                await record.append(turn())
            refused.append(caught.value)
        assert "nothing listens" in refused[0].message
        assert "asked again" in refused[-1].message
        assert 0 < (refused[-1].retry_after_ms or 0) <= limits.breaker_pause_ms
    finally:
        await asyncio.to_thread(server.start)
    await until(lambda: works(record))
    assert (await record.append(turn())).version == 1


async def test_a_restart_between_calls_is_not_noticed(server: Postgres, record: PostgresRecord) -> None:
    """A connection that the server ended while it was idle is not used again, so that no call fails for it."""
    await asyncio.gather(*(record.fetch([HEAD]) for _ in range(9)))
    await asyncio.to_thread(server.restart)
    assert await asyncio.gather(*(record.fetch([HEAD]) for _ in range(9))) == [[None]] * 9


async def test_a_server_stopped_in_its_tracks(
    server: Postgres, record: PostgresRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R18: deadlines hold against a server that says nothing; a commit is in doubt, and its request id tells later."""
    monkeypatch.setattr(limits, "record_grace_ms", 100)
    await record.append(turn("before"))
    event = turn()
    server.pause()
    try:
        for _ in range(2):  # on a connection that there is, and on one that must be made
            with pytest.raises(StandpipeError) as caught:
                await record.fetch([HEAD], deadline=time.monotonic() + 0.2)
            assert type(caught.value) in {DeadlineExceeded, StoreUnavailable}
            with pytest.raises(StoreUnavailable):
                await record.append(event, deadline=time.monotonic() + 0.2)
        await asyncio.sleep(2 * limits.record_grace_ms / 1000)
    finally:
        server.resume()
    await until(lambda: works(record))
    first = await record.append(event)
    assert (first.version, (await record.append(event)).replayed) == (1, True)
    assert [found.request_id for found in await log(record)] == [event.request_id]


# --- servers that are busy -------------------------------------------------------------------------------------------


@contextmanager
def locked(server: Postgres, database: str) -> Iterator[psycopg.Connection[Any]]:
    """Hold the row of a session that an append needs."""
    with psycopg.connect(server.dsn(database)) as db:
        db.execute("SELECT 1 FROM standpipe.sessions WHERE session = 's' FOR UPDATE")
        yield db
        db.rollback()


async def test_a_statement_ends_at_the_deadline(server: Postgres, database: str, record: PostgresRecord) -> None:
    """R18: the server itself ends what waits beyond the deadline: nothing is written, and nothing goes on there."""
    await record.append(turn())
    raw = RawPostgres(server, database)
    with locked(server, database):
        with pytest.raises(DeadlineExceeded) as caught:
            await record.append(turn(), deadline=time.monotonic() + 1)
        assert caught.value.metadata == {"phase": "record_append"}
        at_work = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state = 'active' AND datname = %s"
        assert raw.execute(at_work, ROLE, database) == [(0,)]
        append = asyncio.ensure_future(record.append(turn("other"), deadline=time.monotonic() + 30))
        assert (await append).version == 1
    assert (await record.append(turn())).version == 2


async def test_reads_do_not_wait_for_writers(server: Postgres, database: str) -> None:
    """P12: writers hold all but one of record_pool_max connections, and reads go on; a process has no more."""
    async with opened(server.dsn(database, user=ROLE)) as record:
        await record.append(turn())
        with locked(server, database):
            appends = [asyncio.ensure_future(record.append(turn())) for _ in range(2 * limits.record_pool_max)]
            await asyncio.sleep(0.2)
            for _ in range(9):
                heads = await asyncio.gather(*(record.fetch([HEAD]) for _ in range(9)))
                assert all(isinstance(head, Head) and head.version == 1 for (head,) in heads)
            ((connections,),) = RawPostgres(server, database).execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND datname = %s", ROLE, database
            )
            assert connections <= limits.record_pool_max
        assert sorted(appended.version for appended in await asyncio.gather(*appends)) == list(range(2, 10))


async def test_a_full_queue_is_overload(
    server: Postgres, database: str, record: PostgresRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: commits beyond append_queue_max are refused at once, with the limit's name; the others succeed."""
    monkeypatch.setattr(limits, "append_queue_max", 5)
    await record.append(turn())
    with locked(server, database):
        at_work = limits.record_pool_max - 1
        appends = []
        for _ in range(at_work + 5):
            appends.append(asyncio.ensure_future(record.append(turn())))
            await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as caught:
            await record.append(turn())
        assert caught.value.metadata == {"limit": "append_queue_max", "maximum": "5"}
        with pytest.raises(Overloaded):
            await record.append(turn())
    assert len({appended.version for appended in await asyncio.gather(*appends)}) == at_work + 5


async def test_a_call_that_waits_past_its_deadline_is_dropped(
    server: Postgres, database: str, record: PostgresRecord
) -> None:
    """R18: in the queue at its deadline an append is given up with its phase, and never happens."""
    await record.append(turn())
    with locked(server, database):
        appends = [asyncio.ensure_future(record.append(turn())) for _ in range(limits.record_pool_max - 1)]
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded) as caught:
            await record.append(turn("late"), deadline=time.monotonic() + 0.1)
        assert caught.value.metadata == {"phase": "record_append"}
    await asyncio.gather(*appends)
    assert await record.fetch([HeadRead(tenant="acme", session="late")]) == [None]


GIVE_WAY = """
CREATE SEQUENCE tries;
GRANT USAGE ON SEQUENCE tries TO PUBLIC;
CREATE FUNCTION give_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.tries') % {every} <> 0 THEN
        RAISE EXCEPTION USING ERRCODE = '{state}';
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER give_way BEFORE INSERT ON standpipe.work FOR EACH ROW EXECUTE FUNCTION give_way();
CREATE TRIGGER give_way BEFORE INSERT ON standpipe.events FOR EACH ROW EXECUTE FUNCTION give_way();
"""


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_giving_way_is_tried_again(raw: RawPostgres, record: PostgresRecord, state: str) -> None:
    """A transaction that gave way runs again, record_attempts_max times in all; then the caller retries (R18)."""
    raw.execute(GIVE_WAY.format(every=limits.record_attempts_max, state=state))
    event = turn()
    assert (await record.append(event)).version == 1
    raw.execute("SELECT setval('tries', 1)")
    raw.execute("DROP FUNCTION give_way CASCADE; DROP SEQUENCE tries")
    raw.execute(GIVE_WAY.format(every=limits.record_attempts_max + 1, state=state))
    with pytest.raises(StoreUnavailable):
        await record.append(turn())
    assert raw.rows()["events"] == 1


def test_the_servers_word_comes_before_the_deadline() -> None:
    """A statement has record_margin_ms less than the call, or a tenth less, and at least a millisecond."""
    now = time.monotonic()
    for left_s, least_ms, most_ms in ((10, 9_800, 10_000 - limits.record_margin_ms), (0.1, 50, 90), (-1, 1, 1)):
        assert least_ms <= int(_Call("record_fetch", now + left_s).timeout_ms()) <= most_ms
    assert _Call("record_append", float("inf")).timeout_ms() == "0"
    assert limits.record_grace_ms > limits.record_margin_ms


async def test_a_server_that_refuses_writes(raw: RawPostgres, server: Postgres, database: str) -> None:
    """A standby, or a database set read-only, still answers reads; when it takes writes again they go on (R18)."""
    async with opened(server.dsn(database, user=ROLE)) as record:
        await record.append(turn())
        await asyncio.gather(*(record.fetch([HEAD]) for _ in range(9)))
        raw.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s AND datname = %s"
        assert raw.execute(ended, ROLE, database)
        for _ in range(limits.breaker_failures_max + 1):
            with pytest.raises(StoreReadOnly):
                await record.append(turn())
        assert await one(record, HEAD, Head)
        with server.connect() as db:
            db.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(database)))
        assert (await record.append(turn())).version == 2


async def test_commits_wait_for_the_disk(raw: RawPostgres, server: Postgres, database: str) -> None:
    """P1: a server whose default is not to wait does so for commits; a stricter default is left alone."""
    for default, used in (("off", "on"), ("local", "local")):
        raw.execute(f"ALTER DATABASE {database} SET synchronous_commit = {default}")
        raw.execute(
            "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " new.reason := current_setting('synchronous_commit'); RETURN new; END $$"
        )
        raw.execute(
            "CREATE OR REPLACE TRIGGER note BEFORE INSERT ON standpipe.work FOR EACH ROW EXECUTE FUNCTION note()"
        )
        async with opened(server.dsn(database, user=ROLE)) as record:
            await record.claim(model="m", worker="w", lease_s=1, count_max=1)
            await record.append(turn(default, subject=default))
        assert raw.execute("SELECT reason FROM standpipe.work WHERE subject = %s", default) == [(used,)]


# --- what stands between --------------------------------------------------------------------------------------------


PGBOUNCER = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer on this machine")


class PgBouncer(Server):
    """A pooler that gives each transaction another server connection."""

    kind = "pgbouncer"

    def __init__(self, behind: Postgres, database: str, **settings: str) -> None:
        super().__init__()
        self._dsn = f"postgresql://{ROLE}@{LOOPBACK}:{self.port}/{database}"
        config = self.directory / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={LOOPBACK} port={behind.port} user={ROLE}\n[pgbouncer]\n"
            f"listen_addr = {LOOPBACK}\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 2\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        self._command = [PGBOUNCER or "", str(config)]
        if os.geteuid() == 0:
            self._command += ["-u", "nobody"]
            self.directory.chmod(0o755)

    def command(self) -> list[str]:
        return self._command

    def ready(self) -> bool:
        try:
            psycopg.connect(self._dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def dsn(self) -> str:
        """Where to reach the database through it."""
        return self._dsn


@needs_pgbouncer
async def test_through_a_transaction_pooler(server: Postgres, database: str) -> None:
    """P8: over PgBouncer's two connections eight of ours work for two tenants, and nothing of one reaches the other."""
    with PgBouncer(server, database) as pooler:
        async with opened(pooler.dsn) as one_pod, opened(pooler.dsn) as another:
            pods = [one_pod, another]

            async def work(number: int) -> None:
                tenant = ("acme", "rival")[number % 2]
                record = pods[number // 2 % 2]
                for version in range(20):
                    event = turn(f"s{number}", tenant=tenant, expected=version, texts=[tenant])
                    assert (await record.append(event)).version == version + 1
                    state = await one(record, ScopeRead(tenant=tenant, subject="ana", model=""), ScopeState)
                    assert {item.text for item in state.items} == {tenant}

            await asyncio.gather(*(work(number) for number in range(8)))
            await one_pod.adopt("server", [(0, 9)])
            (order, _) = await another.claim(model="m", worker="w", lease_s=60, count_max=2)
            assert await another.put_vectors(order.scope, model="m", vectors=[b"1"])
            with pytest.raises(DeadlineExceeded), locked_session(server, database):
                await one_pod.append(turn("s0", expected=20), deadline=time.monotonic() + 0.5)
            assert (await another.append(turn("s0", expected=20))).version == 21
            counts = RawPostgres(server, database).execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND datname = %s", ROLE, database
            )
            assert counts[0][0] <= 2


@contextmanager
def locked_session(server: Postgres, database: str) -> Iterator[None]:
    """Hold the row of session s0."""
    with psycopg.connect(server.dsn(database)) as db:
        db.execute("SELECT 1 FROM standpipe.sessions WHERE session = 's0' FOR UPDATE")
        yield


def certificates(place: Path) -> None:
    """Write two authorities, and a certificate for the loopback address by the first."""
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    by_ca = ["-CA", f"{place}/ca.pem", "-CAkey", f"{place}/ca.key", "-addext", f"subjectAltName=IP:{LOOPBACK}"]
    for name, more in (("ca", []), ("other", []), ("server", by_ca)):
        files = ["-keyout", f"{place}/{name}.key", "-out", f"{place}/{name}.pem"]
        subprocess.run([*new, "-subj", f"/CN={name}", *more, *files], check=True, capture_output=True)


@needs_pgbouncer
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")
async def test_tls(server: Postgres, database: str) -> None:
    """With verify-full the certificate must be of the named authority and for the host; else no connection is made."""
    place = directory()
    await asyncio.to_thread(certificates, place)
    place.chmod(0o755)
    (place / "server.key").chmod(0o644)
    tls = {
        "client_tls_sslmode": "require",
        "client_tls_key_file": f"{place}/server.key",
        "client_tls_cert_file": f"{place}/server.pem",
    }
    with PgBouncer(server, database, **tls) as pooler:
        secure = f"{pooler.dsn}?sslmode=verify-full&sslrootcert={place}"
        async with opened(f"{secure}/ca.pem") as record:
            assert (await record.append(turn())).version == 1
        for refused in (f"{secure}/other.pem", f"{secure}/ca.pem".replace(LOOPBACK, "localhost")):
            with pytest.raises(StoreUnavailable, match="certificate"):
                await PostgresRecord(refused).open()
        with pytest.raises(StoreUnavailable):
            await PostgresRecord(f"{pooler.dsn}?sslmode=disable").open()
