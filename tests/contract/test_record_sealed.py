"""The sealed engines against the record contract, and what sealing alone promises."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar import limits
from sidecar.config import Config
from sidecar.engines import engine_of, open_record
from sidecar.errors import ConfigInvalid, LimitExceeded, RequestIdReused, StoreCorrupt
from sidecar.stores.postgres import PostgresRecord
from sidecar.stores.record import (
    Appended,
    Checkpoint,
    EventsRead,
    HeadRead,
    NewEvent,
    PolicyRead,
    Read,
    Record,
    Scope,
    ScopeRead,
    ScopeState,
    SessionRead,
    StateAll,
    StateWrite,
)
from sidecar.stores.sealed import SealedRecord, rotate
from sidecar.stores.sqlite import SqliteRecord
from sidecar.vault import DataKey, KeyFile, Vault, Wrapped, key_id_of, new_line
from tests import keys
from tests.contract.postgres import ROLE, RawPostgres
from tests.contract.record_suite import MODEL, RawRecord, RecordSuite, Reopen, item, log, one, scope_of, turn
from tests.contract.test_record_postgres import place, shared_place  # noqa: F401 - fixtures
from tests.contract.test_record_sqlite import RawSqlite
from tests.servers import Postgres

Open = Callable[..., Any]

SUITE_TTL_S = 0.5
"""For how long a key is held in the suite, which lets subjects begin anew often."""


class SuiteVault(Vault):
    """Takes the suite's made up keys for keys, too."""

    async def unwrap(self, tenant: str, stored: Wrapped) -> DataKey:
        if stored.wrapping in self.ids:
            return await super().unwrap(tenant, stored)
        return DataKey(stored.key_id, hashlib.sha256(stored.wrapped).digest())


def sealed(engine: Record, *, key_ttl_s: float = limits.data_key_s) -> SealedRecord:
    """Return an engine with the tests' keys before it."""
    return SealedRecord(engine, SuiteVault(KeyFile(keys.key_file())), key_ttl_s=key_ttl_s)


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
        record: Record = await opened(key_ttl_s=SUITE_TTL_S)
        return record

    @pytest.fixture
    async def reopen(self, opened: Open) -> Reopen:
        """Open one more handle on the same file."""
        return partial(opened, key_ttl_s=SUITE_TTL_S)

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
            records.append(sealed(PostgresRecord(postgres_server.dsn(place, user=ROLE)), key_ttl_s=SUITE_TTL_S))
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


# --- what sealing alone promises -----------------------------------------------------------------------------------


def marker(number: int) -> str:
    """Return a text that is nowhere by chance."""
    return f"xq{number:04d}zj"


async def fill(record: Record, count: int = 50) -> None:
    """Commit markers in all that can hold content: bodies, texts, speakers, terms, details, vectors, checkpoints."""
    for number in range(count):
        said = marker(number)
        new = replace(item(said), speaker=said, terms=said.encode(), detail=said.encode(), spoken_at_us=number)
        await record.append(turn(f"s{number % 3}", subject=f"u{number % 3}", texts=[said], items=[new]))
    for subject in ("u0", "u1", "u2"):
        state = await scope_of(record, subject)
        scope = Scope(tenant="acme", subject=subject, position=state.position, vector_position=0)
        assert await record.put_vectors(scope, model=MODEL, vectors=[f"v{one.text}".encode() for one in state.items])
        body = f"checkpoint {marker(7)}".encode()
        fold = Checkpoint(session=f"s{subject[1]}", tokenizer="t", version=2, weight_bytes=0, body=body)
        await record.put_checkpoint("acme", fold)
        writes = [StateWrite(key=str(number), value=f"state {marker(number)}".encode()) for number in range(2)]
        for collection in ("c", "d"):
            await record.put_state("acme", subject=subject, collection=collection, writes=writes)


async def test_no_marker_is_in_the_files(opened: Open, path: Path) -> None:
    """Nothing of what was committed stands in the database, its log or its index, forwards or as terms (P11)."""
    record = await opened()
    await fill(record)
    for file in path.parent.iterdir():
        assert not re.search(rb"xq0[0-9]{3}", file.read_bytes()), file.name
    plain = SqliteRecord(path.parent / "plain.db")
    await plain.open()
    await fill(plain)
    await plain.close()
    assert (path.parent / "plain.db").read_bytes().count(b"xq0") > 250  # the scan can see


SWAPS = {
    "event": "UPDATE events SET body = (SELECT body FROM events WHERE session = 's0' AND version = 2)"
    " WHERE session = 's0' AND version = 1",
    "event of another session": "UPDATE events SET body = (SELECT body FROM events WHERE session = 's1'"
    " AND version = 1) WHERE session = 's0' AND version = 1",
    "checkpoint": "UPDATE checkpoints SET version = 1 WHERE session = 's0'",
    "item": "UPDATE items SET terms = (SELECT terms FROM items WHERE subject = 'u0' AND position = 2)"
    " WHERE subject = 'u0' AND position = 1",
    "item of another subject": "UPDATE items SET terms = (SELECT terms FROM items WHERE subject = 'u1'"
    " AND position = 1) WHERE subject = 'u0' AND position = 1",
    "role": "UPDATE items SET role = 2 WHERE subject = 'u0' AND position = 1",
    "counts": "UPDATE items SET tokens = '{\"o200k_base\":1}' WHERE subject = 'u0' AND position = 1",
    "vector": "UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE subject = 'u0' AND position = 2)"
    " WHERE subject = 'u0' AND position = 1",
    "vector of another subject": "UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE subject = 'u1'"
    " AND position = 1) WHERE subject = 'u0' AND position = 1",
    "state": "UPDATE state SET value = (SELECT value FROM state WHERE (subject, collection, key) = ('u0', 'c', '1'))"
    " WHERE (subject, collection, key) = ('u0', 'c', '0')",
    "state of another subject": "UPDATE state SET value = (SELECT value FROM state WHERE"
    " (subject, collection, key) = ('u1', 'c', '0')) WHERE (subject, collection, key) = ('u0', 'c', '0')",
    "state of another collection": "UPDATE state SET value = (SELECT value FROM state WHERE"
    " (subject, collection, key) = ('u0', 'd', '0')) WHERE (subject, collection, key) = ('u0', 'c', '0')",
    "one bit": "UPDATE events SET body = CAST(substr(body, 1, 50) || x'00' || substr(body, 52) AS BLOB)"
    " WHERE session = 's0'",
}


@pytest.mark.parametrize("what", SWAPS)
async def test_a_value_that_was_moved_does_not_open(opened: Open, path: Path, what: str) -> None:
    """What stands in another row than it was sealed for, or was changed, is refused, and nothing of it shown (P8)."""
    record = await opened()
    await fill(record, 9)
    reads = [
        SessionRead(tenant="acme", session="s0", tokenizer="t"),
        EventsRead(tenant="acme", session="s0", after_version=0, count_max=9, bytes_max=999),
        ScopeRead(tenant="acme", subject="u0", model=MODEL),
        StateAll(tenant="acme", subject="u0", count_max=9, bytes_max=9999),
    ]
    await record.fetch(reads)
    RawSqlite(path).execute(SWAPS[what])
    with pytest.raises(StoreCorrupt) as caught:
        await record.fetch(reads)
    assert "xq" not in caught.value.message + str(caught.value.metadata)


async def test_what_was_written_before_is_read_as_it_is(opened: Open, path: Path) -> None:
    """A store that was plain goes on: old rows beside sealed ones, old requests answered, old items gone in peace."""
    plain = SqliteRecord(path)
    await plain.open()
    old = turn(texts=["old"], request_id="old", keep_s=1)
    await plain.append(old)
    scope = Scope(tenant="acme", subject="ana", position=1, vector_position=0)
    assert await plain.put_vectors(scope, model=MODEL, vectors=[b"v1"])
    kind: dict[str, Any] = {"subject": "ana", "collection": "c"}
    await plain.put_state("acme", **kind, writes=[StateWrite(key="old", value=b"1")])
    await plain.close()
    record = await opened()
    assert (await record.append(old)).replayed  # P3
    with pytest.raises(RequestIdReused):
        await record.append(replace(old, digest=bytes(32)))
    await record.append(turn(texts=["new"]))
    scope = replace(scope, position=2, vector_position=1)
    assert await record.put_vectors(scope, model=MODEL, vectors=[b"v2"])
    state = await scope_of(record)
    assert [one.text for one in state.items] == ["old", "new"]
    assert state.vectors == [b"v1", b"v2"]
    assert [event.body for event in await log(record)] == [b"old", b"new"]
    assert (await record.append(old)).replayed
    await record.put_state("acme", **kind, writes=[StateWrite(key="new", value=b"2")])
    (kept,) = await record.fetch([StateAll(tenant="acme", subject="ana", count_max=9, bytes_max=99)])
    assert [(one.key, one.value) for one in kept.records] == [("new", b"2"), ("old", b"1")]


async def test_zero_vectors_keep_their_length(opened: Open, path: Path) -> None:
    """The vector of an item that is gone has the length of the others, in a store that is sealed in part, too (R24)."""
    record = await opened()
    for number in range(3):
        await record.append(turn(f"s{number}", texts=["x"], keep_s=1))
    scope = Scope(tenant="acme", subject="ana", position=3, vector_position=0)
    assert await record.put_vectors(scope, model=MODEL, vectors=[bytes(8), b"12345678", b"abcdefgh"])
    raw = RawSqlite(path)
    raw.set_updated_at("acme", "s1", 1)
    assert await record.sweep("acme", "s1")
    assert (await scope_of(record)).vectors == [bytes(8), bytes(8), b"abcdefgh"]
    raw.execute("UPDATE vectors SET vector = x'0000000000000000' WHERE position = 2")  # emptied before it was sealed
    assert (await scope_of(record)).vectors == [bytes(8), bytes(8), b"abcdefgh"]
    raw.set_updated_at("acme", "s2", 1)
    assert await record.sweep("acme", "s2")
    only = await one(record, ScopeRead(tenant="acme", subject="ana", model=MODEL, after_vector_position=2), ScopeState)
    assert only.vectors == [bytes(8)]


# --- keys ----------------------------------------------------------------------------------------------------------


async def test_each_subject_has_a_key_of_its_own(opened: Open, path: Path) -> None:
    """Of many that want a new subject's key one makes it, in two processes too, and tenants share none (P8)."""
    records = [await opened(), await opened()]
    await asyncio.gather(
        *(
            records[number % 2].append(turn(f"s{number}", tenant=tenant, subject="ana"))
            for number in range(20)
            for tenant in ("acme", "other")
        )
    )
    listed = await records[0].keys_all(after=("", b""), count_max=9)
    assert [(tenant, key.subject) for tenant, key in listed] == [("acme", "ana"), ("other", "ana")]
    assert len({key.key_id for _, key in listed}) == 2
    assert len(await log(records[1], "s7", tenant="other")) == 1


async def test_reads_ask_for_keys_on_their_way(opened: Open, path: Path) -> None:
    """A hydrate's batch costs one round trip: its subject's key comes with it, once in limits.data_key_s."""
    await fill(await opened(), 9)
    record = await opened()
    batches: list[int] = []
    fetch = record.inner.fetch

    async def counted(reads: Sequence[Read], **options: Any) -> list[Any]:
        batches.append(len(reads))
        return await fetch(reads, **options)

    record.inner.fetch = counted
    hydrate = [
        SessionRead(tenant="acme", session="s0", tokenizer="t"),
        ScopeRead(tenant="acme", subject="u0", model=MODEL),
    ]
    for _ in range(3):
        await record.fetch(hydrate)
    assert batches == [3, 2, 2]
    assert record.keys.ttl_s == limits.data_key_s
    await record.append(turn("s0", subject=""))
    assert len(batches) == 3
    await record.fetch([HeadRead(tenant="acme", session="s0"), PolicyRead(tenant="acme", name="p")])
    assert batches == [3, 2, 2, 2]


async def test_a_key_is_not_used_for_longer_than_it_may(opened: Open) -> None:
    """After its time a key is asked for again, so that an erasure elsewhere is noticed (P11)."""
    record = await opened(key_ttl_s=0.2)
    await record.append(turn())
    assert record.keys.held("acme", "ana") is not None
    await asyncio.sleep(0.25)
    assert record.keys.held("acme", "ana") is None
    await record.append(turn())
    assert record.keys.held("acme", "ana") is not None


async def test_the_cache_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    """At most limits.data_keys_max keys are held; the others are asked for again."""
    monkeypatch.setattr(limits, "data_keys_max", 3)
    record = await opened()
    for number in range(5):
        await record.append(turn(f"s{number}", subject=f"u{number}"))
    assert [record.keys.held("acme", f"u{number}") is None for number in range(5)] == [True, True, False, False, False]
    assert [len(await log(record, f"s{number}")) for number in range(5)] == [1] * 5


async def test_large_answers_are_opened_beside_the_loop(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than limits.sealed_inline_max values is sealed and opened in a thread, and is the same."""
    record = await opened()
    threads: list[str] = []
    to_thread = asyncio.to_thread

    async def noted(work: Any, *args: Any) -> Any:
        threads.append("one")
        return await to_thread(work, *args)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    items = [item(f"piece {number}", chunk=number) for number in range(limits.sealed_inline_max + 1)]
    await record.append(turn(items=items[:-1]))
    assert len((await scope_of(record)).items) == limits.sealed_inline_max
    assert threads == []
    await record.append(turn("t", items=items))
    texts = [one.text for one in (await scope_of(record)).items]
    assert texts == [one.text for one in items[:-1]] + [one.text for one in items]
    assert threads == ["one", "one"]


async def test_one_key_seals_so_much(opened: Open) -> None:
    """A subject whose items come near limits.sealed_messages_max gets no more vectors under its key."""
    record = await opened()
    await record.append(turn())
    scope = Scope(tenant="acme", subject="ana", position=limits.sealed_messages_max // 64, vector_position=0)
    with pytest.raises(LimitExceeded) as caught:
        await record.put_vectors(scope, model=MODEL, vectors=[b"v"])
    assert caught.value.metadata["limit"] == "sealed_messages_max"


async def test_a_key_that_is_gone(opened: Open, path: Path) -> None:
    """Content whose key is lost is told as damage, and never shown as it is stored."""
    await fill(await opened(), 3)
    RawSqlite(path).execute("DELETE FROM keys")
    record = await opened()
    for read in (
        SessionRead(tenant="acme", session="s0", tokenizer="t"),
        EventsRead(tenant="acme", session="s0", after_version=0, count_max=9, bytes_max=99),
        ScopeRead(tenant="acme", subject="u0", model=MODEL),
    ):
        with pytest.raises(StoreCorrupt, match="a key that is gone"):
            await record.fetch([read])


async def test_who_begins_anew_waits_for_the_old_key(opened: Open) -> None:
    """A process that did not hear of an erasure seals nothing under the key that is gone (P11)."""
    records = [await opened(key_ttl_s=1.0), await opened(key_ttl_s=1.0)]
    await records[0].append(turn())
    old = await records[1].keys.of("acme", "ana")
    await records[0].finish_erasure(await records[0].erase("acme", subject="ana"))
    assert records[0].keys.held("acme", "ana") is None
    assert records[1].keys.held("acme", "ana") is old
    await records[0].sweep("acme", "s")
    await records[0].forgotten("acme", "s")
    await records[0].reopen("acme", subject="ana")
    assert records[1].keys.held("acme", "ana") is None
    await records[1].append(turn("new", texts=["anew"]))
    assert [event.body for event in await log(records[0], "new")] == [b"anew"]
    new = await records[0].keys.of("acme", "ana")
    assert new.id != old.id


async def test_an_erased_subject_is_shredded(opened: Open, path: Path) -> None:
    """With its key gone even a copy of the files opens nothing, and what comes late is not written (R29, R31, P11)."""
    record = await opened()
    await record.append(turn(texts=["hello"]))
    raw = RawSqlite(path)
    ((copy,),) = raw.execute("SELECT body FROM events")
    scope = Scope(tenant="acme", subject="ana", position=1, vector_position=0)
    (event,) = await log(record)
    erasure = await record.erase("acme", subject="ana")
    assert not await record.put_vectors(scope, model=MODEL, vectors=[b"v"])
    await record.put_checkpoint("acme", Checkpoint(session="s", tokenizer="t", version=1, weight_bytes=0, body=b"x"))
    await record.restore_items("acme", subject="ana", event=event, items=[item("hello")])
    await record.redact("acme", session="s", version=1, body=b"x", entries=[0], erasure=erasure)
    assert raw.execute("SELECT count(*) FROM checkpoints") == [(0,)]
    assert raw.execute("SELECT count(*) FROM keys") == [(0,)]
    assert await record.keys.by_id({("acme", key_id_of(copy))}) == {}


# --- wrapping keys -------------------------------------------------------------------------------------------------


async def test_other_keys_are_refused_at_the_start(opened: Open, path: Path, tmp_path: Path) -> None:
    """A store of other keys, or of keys for a process without, is not opened, and stays as it was."""
    await fill(await opened(), 3)
    address = f"sqlite:{path}"
    wrong = keys.write(tmp_path / "wrong", new_line("tests"))
    other = keys.write(tmp_path / "other", new_line("other"))
    for settings, field in (
        ({"encryption_keys_file": str(wrong)}, "encryption_keys_file"),
        ({"encryption_keys_file": str(other)}, "encryption_keys_file"),
        ({"plaintext": True}, "plaintext"),
        ({}, "encryption_keys_file"),
    ):
        with pytest.raises(ConfigInvalid) as caught:
            await open_record(Config(record=address, **settings))
        assert caught.value.field == field
    record = await open_record(Config(record=address, encryption_keys_file=keys.key_file()))
    assert len(await log(record, "s0")) == 1
    await record.close()


async def rotated(config: Config) -> tuple[int, int]:
    """Wrap all keys by the first of the file as it is now."""
    vault, engine = Vault(KeyFile(config.encryption_keys_file)), engine_of(config)
    await vault.open()
    await engine.open()
    try:
        return await rotate(engine, vault)
    finally:
        await engine.close()


async def test_rotation_under_load_loses_nothing(path: Path, tmp_path: Path) -> None:
    """Keys are rotated while subjects come and go on; with the old key gone all is there (P1)."""
    file, old, new = tmp_path / "keys", new_line("old"), new_line("new")
    keys.write(file, old)
    config = Config(record=f"sqlite:{path}", encryption_keys_file=str(file))
    records = [await open_record(config) for _ in range(2)]
    done: list[str] = []
    stop = asyncio.Event()

    async def talk(number: int) -> None:
        while not stop.is_set():
            session = f"s{len(done)}-{number}"
            await records[number % 2].append(turn(session, subject=session, texts=[session]))
            done.append(session)

    def age() -> None:
        for record in records:
            record.keys.vault._read_at -= limits.wrapping_keys_s

    talks = [asyncio.create_task(talk(number)) for number in range(4)]
    while len(done) < 50:
        await asyncio.sleep(0.01)
    keys.write(file, old, new)
    age()
    while len(done) < 100:
        await asyncio.sleep(0.01)
    keys.write(file, new, old)
    first = await rotated(config)
    age()
    more = len(done) + 20
    while len(done) < more:
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*talks)
    second = await rotated(config)
    assert first[0] >= 50
    assert (await rotated(config)) == (0, len(done))
    assert second[1] == len(done)
    keys.write(file, new)
    for record in records:
        await record.close()
    record = await open_record(config)
    for session in done:
        assert [event.body for event in await log(record, session)] == [session.encode()]
    await record.close()
