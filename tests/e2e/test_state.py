"""StateService over gRPC, on both engines: records that survive, race, expire, are refused by name, and are erased."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import standpipe
from sidecar import limits
from sidecar.errors import InvalidField, VersionConflict
from sidecar.retention import Retention
from sidecar.stores.hot import Hot
from standpipe import Write, errors
from standpipe.v1 import memory_pb2, session_pb2, state_pb2, state_pb2_grpc
from tests.e2e.pods import Local, refused, serving
from tests.e2e.test_export import JSON_LINES, MARKDOWN, Store, embedded, erase, exported, hurry, imported, make
from tests.servers import Postgres

__all__ = ["embedded", "hurry", "make"]

W = state_pb2.StateWrite


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def pods(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_server: Postgres
) -> AsyncIterator[tuple[Local, Local]]:
    """Two servers on one record store, of each engine."""
    settings: dict[str, Any] = {}
    name = ""
    if request.param == "postgresql":
        name = await asyncio.to_thread(postgres_server.create_database)
        settings["record"] = postgres_server.dsn(name)
    record = tmp_path / "record.db"
    try:
        async with serving(record, **settings) as one, serving(record, **settings) as other:
            yield one, other
    finally:
        if name:
            await asyncio.to_thread(postgres_server.drop_database, name)


def stub(pod: Local) -> state_pb2_grpc.StateServiceStub:
    """Return the service as generated code reaches it."""
    return state_pb2_grpc.StateServiceStub(pod.channel)


async def put(pod: Local, *writes: Any, collection: str = "c", **fields: Any) -> int:
    """Write, and return the revision."""
    request = state_pb2.PutStateRequest(collection=collection, writes=writes, **fields)
    return (await stub(pod).PutState(request, timeout=pod.timeout_s)).revision


async def listed(pod: Local, **fields: Any) -> state_pb2.ListStateResponse:
    """List a page."""
    request = state_pb2.ListStateRequest(**{"collection": "c", **fields})
    return await stub(pod).ListState(request, timeout=pod.timeout_s)


# --- what it promises ------------------------------------------------------------------------------------------------


async def test_what_one_pod_writes_every_pod_reads(pods: tuple[Local, Local]) -> None:
    """P4: a record is read at once through any pod, of its subject and collection alone, and never staler."""
    one, other = pods
    async with standpipe.connect(one.target) as writer, standpipe.connect(other.target) as reader:
        mine, theirs = (client.state("agent/1".replace("/", "."), subject="anna") for client in (writer, reader))
        revision = await mine.put("plan", b"\x00go to Porto\xff")
        found = await theirs.get("plan")
        assert found is not None
        assert (found.key, found.value, found.revision, found.expires_at) == ("plan", b"\x00go to Porto\xff", 1, None)
        assert await reader.state("agent.1").get("plan") is None
        assert await reader.state("agent.2", subject="anna").get("plan") is None
        assert await reader.state("agent.1", subject="ben").get("plan") is None
        changed = await theirs.put("plan", b"", expected_revision=revision, ttl_s=3600)
        kept = await mine.get("plan")
        assert kept is not None
        assert (kept.value, kept.revision) == (b"", changed)
        assert kept.expires_at is not None
        assert (kept.expires_at - kept.updated_at).total_seconds() == 3600
        shared = writer.state("settings")
        await shared.put("theme", b"dark")
        assert [record.value async for record in reader.state("settings").list()] == [b"dark"]


async def test_a_conflict_names_the_write_and_the_revision(pods: tuple[Local, Local]) -> None:
    """Nothing of a write that lost is done; the error says which record has which revision."""
    one, _ = pods
    async with standpipe.connect(one.target) as client:
        state = client.state("c", subject="anna")
        first = await state.write(Write("a", b"1", expected_revision=0), Write("b", b"1", expected_revision=0))
        await state.put("b", b"2")
        with pytest.raises(errors.Conflict) as lost:
            await state.write(Write("a", b"3", expected_revision=first), Write("b", b"3", expected_revision=first))
        assert lost.value.metadata == {"key_index": "1", "current_version": "2"}
        assert lost.value.field == "writes[1].expected_revision"
        assert {key: one.value for key, one in (await state.get_all(["a", "b"])).items()} == {"a": b"1", "b": b"2"}
        with pytest.raises(errors.Conflict) as gone:
            await state.delete("nothing", expected_revision=9)
        assert gone.value.metadata["current_version"] == "0"
        await state.delete("a", expected_revision=first)
        assert await state.get("a") is None


async def test_a_counter_loses_no_increment(pods: tuple[Local, Local]) -> None:
    """P2: increments by compare-and-swap through two pods, each retried when it lost, add up."""
    clients = [standpipe.connect(pod.target) for pod in pods]

    async def increment(number: int) -> None:
        state = clients[number % 2].state("counters", subject="anna")
        while True:
            found = await state.get("n")
            value = int(found.value) if found else 0
            try:
                await state.put("n", str(value + 1).encode(), expected_revision=found.revision if found else 0)
                return
            except errors.Conflict:
                continue

    try:
        await asyncio.gather(*(increment(number) for number in range(24)))
        total = await clients[0].state("counters", subject="anna").get("n")
    finally:
        for client in clients:
            await client.close()
    assert total is not None
    assert (total.value, total.revision) == (b"24", 24)


async def test_lists_go_both_ways_page_by_page(pods: tuple[Local, Local]) -> None:
    """Keys come in the order of their bytes, of a prefix alone, with values or without; deletions by prefix end it."""
    one, _ = pods
    keys = ["a", "run/é", "run/1", "run/10", "run/2", "run/\U0001f600", "run/\uffee", "s"]
    async with standpipe.connect(one.target) as client:
        state = client.state("c", subject="anna")
        await state.write(*(Write(key, key.encode()) for key in keys))
        runs = sorted((key for key in keys if key.startswith("run/")), key=str.encode)
        for page_size in (0, 1, 2, 5):
            assert [record.key async for record in state.list("run/", page_size=page_size)] == runs
            back = [record async for record in state.list("run/", descending=True, keys_only=True, page_size=page_size)]
            assert [record.key for record in back] == runs[::-1]
            assert {record.value for record in back} == {b""}
        assert [record.key async for record in state.list()] == sorted(keys, key=str.encode)
        assert await state.delete_all("run/1") == 2
        assert await state.delete_all("nothing") == 0
        assert [record.key async for record in state.list(keys_only=True)] == ["a", "run/2", *runs[3:], "s"]
        assert await state.delete_all() == 6


async def test_answers_keep_within_a_page(pods: tuple[Local, Local]) -> None:
    """However large the values, an answer is what a stock client takes, and says where it stopped (page_bytes)."""
    one, _ = pods
    large = b"v" * limits.state_value_bytes
    for key in "abcde":
        await put(one, W(key=key, value=large), subject_id="anna")
    request = state_pb2.GetStateRequest(subject_id="anna", collection="c", keys=[*"edcb", "nothing", "a"])
    got = await stub(one).GetState(request, timeout=one.timeout_s)
    assert ([record.key for record in got.records], list(got.unread_keys)) == (["e", "d"], ["c", "b", "nothing", "a"])
    assert got.ByteSize() < 4 << 20
    page = await listed(one, subject_id="anna")
    assert [record.key for record in page.records] == ["a", "b"]
    assert page.ByteSize() < 4 << 20
    bare = await listed(one, subject_id="anna", keys_only=True)
    assert ([record.key for record in bare.records], bare.next_page_token) == ([*"abcde"], "")
    async with standpipe.connect(one.target) as client:
        state = client.state("c", subject="anna")
        assert [*await state.get_all([*"edcb", "nothing", "a"])] == [*"edcba"]
        assert [record.key async for record in state.list(page_size=4)] == [*"abcde"]


async def test_any_number_of_keys_is_read(pod: Local) -> None:
    """The client cuts what one call does not take (state_writes_max), and asks for each key once."""
    async with standpipe.connect(pod.target) as client:
        state = client.state("c")
        keys = [f"k{number:04}" for number in range(limits.state_writes_max + 10)]
        await state.write(*(Write(key, b"v") for key in keys[: limits.state_writes_max]))
        await state.write(*(Write(key, b"v") for key in keys[limits.state_writes_max :]))
        assert list(await state.get_all([*keys, *keys])) == keys
        assert await state.get_all([]) == {}


# --- time ------------------------------------------------------------------------------------------------------------


async def test_what_has_expired_is_not_shown_and_then_removed(
    pod: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read shows it from its time on; a sweeper removes it, state_expire_max at a time, and counts it."""
    path = tmp_path / "record.db"
    for number in range(5):
        await put(pod, W(key=f"k{number}", value=b"v", ttl_s=60), subject_id="anna")
    await put(pod, W(key="kept", value=b"v"), subject_id="anna")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        db.execute("UPDATE state SET expires_at_us = 1 WHERE expires_at_us > 0")
    assert [record.key for record in (await listed(pod, subject_id="anna")).records] == ["kept"]
    monkeypatch.setattr(limits, "state_expire_max", 2)
    pieces = []
    expire = pod.server.record.expire_state

    async def noted(*, count_max: int) -> int:
        pieces.append(await expire(count_max=count_max))
        return pieces[-1]

    monkeypatch.setattr(pod.server.record, "expire_state", noted)
    hot: Hot[Any] = pod.server.sessions.hot
    retention = Retention(pod.server.record, hot, pod.server.telemetry)
    assert await retention.expire() == 5
    assert pieces == [2, 2, 1]
    assert (await asyncio.to_thread(pod.metrics))["standpipe_expired_records_total"] == 5
    with closing(sqlite3.connect(path, timeout=10)) as db:
        assert db.execute("SELECT key FROM state").fetchall() == [("kept",)]


# --- what is refused -------------------------------------------------------------------------------------------------

INVALID, LIMIT = ("INVALID_ARGUMENT", "INVALID_FIELD"), ("INVALID_ARGUMENT", "LIMIT_EXCEEDED")


def puts(*writes: Any, **fields: Any) -> state_pb2.PutStateRequest:
    """Return a request to write."""
    return state_pb2.PutStateRequest(**{"collection": "c", "subject_id": "anna", "writes": writes, **fields})


def gets(*keys: str, **fields: Any) -> state_pb2.GetStateRequest:
    """Return a request to read."""
    return state_pb2.GetStateRequest(**{"collection": "c", "subject_id": "anna", "keys": keys, **fields})


def lists(**fields: Any) -> state_pb2.ListStateRequest:
    """Return a request to list."""
    return state_pb2.ListStateRequest(**{"collection": "c", "subject_id": "anna", **fields})


def deletes(**fields: Any) -> state_pb2.DeleteStateRequest:
    """Return a request to delete."""
    return state_pb2.DeleteStateRequest(**{"collection": "c", "subject_id": "anna", **fields})


async def ask(pod: Local, request: Any) -> Any:
    """Send a request to the method that takes it."""
    method = getattr(stub(pod), type(request).__name__.removesuffix("Request"))
    return await method(request, timeout=pod.timeout_s)


BAD: dict[str, tuple[Any, tuple[str, str], str]] = {
    "no collection": (puts(W(key="a", value=b""), collection=""), INVALID, "collection"),
    "a collection with a slash": (lists(collection="a/b"), INVALID, "collection"),
    "a collection that is long": (gets("a", collection="c" * 129), INVALID, "collection"),
    "a subject with a blank": (deletes(subject_id="a b"), INVALID, "subject_id"),
    "our own subject": (lists(subject_id="~"), INVALID, "subject_id"),
    "no writes": (puts(), INVALID, "writes"),
    "no keys": (gets(), INVALID, "keys"),
    "an empty key": (puts(W(key="a", value=b""), W(value=b"")), INVALID, "writes[1].key"),
    "an empty key to read": (gets("a", ""), INVALID, "keys[1]"),
    "a key with a newline": (puts(W(key="a\nb", value=b"")), INVALID, "writes[0].key"),
    "a key with a nought": (puts(W(key="a\x00b", value=b"")), INVALID, "writes[0].key"),
    "a key twice": (puts(W(key="a"), W(key="b"), W(key="a")), INVALID, "writes[2].key"),
    "a key to read twice": (gets("a", "a"), INVALID, "keys[1]"),
    "a prefix with a tab": (lists(key_prefix="a\tb"), INVALID, "key_prefix"),
    "a prefix to delete with a tab": (deletes(key_prefix="a\tb"), INVALID, "key_prefix"),
    "a negative revision": (puts(W(key="a", value=b"", expected_revision=-1)), INVALID, "writes[0].expected_revision"),
    "no time": (puts(W(key="a", value=b"", ttl_s=0)), INVALID, "writes[0].ttl_s"),
    "too long a time": (puts(W(key="a", value=b"", ttl_s=limits.state_ttl_s + 1)), INVALID, "writes[0].ttl_s"),
    "a time without a value": (puts(W(key="a", ttl_s=1)), INVALID, "writes[0].ttl_s"),
    "a page too large": (lists(page_size=limits.page_max + 1), INVALID, "page_size"),
    "no token": (lists(page_token="x"), ("INVALID_ARGUMENT", "TOKEN_INVALID"), "page_token"),
    "too long a token": (
        lists(page_token="A" * (limits.state_token_chars_max + 1)),
        ("INVALID_ARGUMENT", "TOKEN_INVALID"),
        "page_token",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_input_is_named(pod: Local, what: str) -> None:
    """The field that is wrong is named, nothing of the request is quoted, and nothing is written (P12)."""
    request, (status, reason), field = BAD[what]
    refusal = await refused(ask(pod, request))
    assert (refusal.status, refusal.reason, refusal.field) == (status, reason, field)
    assert list((await listed(pod, subject_id="anna")).records) == []


def _of_size(total: int) -> list[Any]:
    """Return writes whose keys and values have so many bytes in all."""
    keys = [f"k{number}" for number in range(5)]
    whole = limits.state_value_bytes
    rest = total - 10 - 3 * whole
    return [
        W(key=key, value=b"v" * size)
        for key, size in zip(keys, (whole, whole, whole, rest // 2, rest - rest // 2), strict=True)
    ]


LIMITS: dict[str, tuple[Callable[[int], Any], str]] = {
    "state_key_bytes": (lambda above: puts(W(key="é" * 512 + "k" * above, value=b"")), "writes[0].key"),
    "state_key_bytes to read": (lambda above: gets("é" * 512 + "k" * above), "keys[0]"),
    "state_key_bytes of a prefix": (
        lambda above: lists(key_prefix="k" * (limits.state_key_bytes + above)),
        "key_prefix",
    ),
    "state_value_bytes": (
        lambda above: puts(W(key="k", value=b"v" * (limits.state_value_bytes + above))),
        "writes[0].value",
    ),
    "state_writes_max": (
        lambda above: puts(*(W(key=str(number), value=b"") for number in range(limits.state_writes_max + above))),
        "writes",
    ),
    "state_writes_max to read": (lambda above: gets(*map(str, range(limits.state_writes_max + above))), "keys"),
    "state_write_bytes": (lambda above: puts(*_of_size(limits.state_write_bytes + above)), "writes"),
}
"""By limit: a request at the maximum plus `above`, and how one above it is refused."""


@pytest.mark.parametrize("name", LIMITS)
async def test_a_limit_is_where_it_says(pod: Local, name: str) -> None:
    """What is at a limit is taken, what is one above is refused by name with its size, and nothing is written (P12)."""
    make_one, field = LIMITS[name]
    await ask(pod, make_one(0))
    await ask(pod, deletes())
    refusal = await refused(ask(pod, make_one(1)))
    assert (refusal.status, refusal.reason, refusal.field) == (*LIMIT, field)
    limit = name.partition(" ")[0]
    most = getattr(limits, limit)
    assert refusal.metadata == {"limit": limit, "maximum": str(most), "actual": str(most + 1)}
    assert list((await listed(pod, subject_id="anna", keys_only=True)).records) == []


async def test_a_time_at_its_limit_is_taken(pod: Local) -> None:
    """state_ttl_s itself is a time that a record may be given."""
    await put(pod, W(key="a", value=b"v", ttl_s=limits.state_ttl_s))
    (found,) = (await listed(pod)).records
    assert found.expires_at.seconds - found.updated_at.seconds == limits.state_ttl_s


async def test_the_longest_key_has_a_page_token(pod: Local) -> None:
    """A token that ends in the longest of keys is read again: state_token_chars_max has room for it."""
    keys = ["k" * (limits.state_key_bytes - 1) + end for end in "abc"]
    await put(pod, *(W(key=key, value=b"") for key in keys))
    first = await listed(pod, page_size=1)
    assert len(first.next_page_token) < limits.state_token_chars_max
    second = await listed(pod, page_size=1, page_token=first.next_page_token)
    assert [second.records[0].key] == keys[1:2]


async def test_a_page_token_is_of_its_list(pod: Local) -> None:
    """It is refused for another collection, subject, prefix, order, kind of list, tenant's token or none of ours."""
    for subject in ("anna", "ben", ""):
        await put(pod, W(key="ka", value=b""), W(key="kb", value=b""), subject_id=subject)
    same = {"subject_id": "anna", "key_prefix": "k", "page_size": 1}
    token = (await listed(pod, **same)).next_page_token
    assert [one.key for one in (await listed(pod, **same, page_token=token)).records] == ["kb"]
    assert [one.key for one in (await listed(pod, **{**same, "page_size": 9}, page_token=token)).records] == ["kb"]
    for other in (
        {"subject_id": "ben"},
        {"subject_id": ""},
        {"collection": "d"},
        {"key_prefix": ""},
        {"key_prefix": "ka"},
        {"descending": True},
        {"keys_only": True},
        {"page_token": token[:-2] + ("AA" if token[-2:] != "AA" else "BB")},
    ):
        refusal = await refused(listed(pod, **{**same, "page_token": token, **other}))
        assert (refusal.reason, refusal.field) == ("TOKEN_INVALID", "page_token"), other


async def test_another_tenant_is_refused(pod: Local) -> None:
    """P8: the tenant in a request may only confirm the caller's own, in every method."""
    await put(pod, W(key="a", value=b"v"), tenant_id="default")
    for request in (puts(W(key="a")), gets("a"), lists(), deletes()):
        request.tenant_id = "rival"
        assert (await refused(ask(pod, request))).reason == "TENANT_DENIED"
    assert len((await listed(pod)).records) == 1


async def test_deletions_come_in_pieces(pod: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call deletes state_delete_max records, says that there are more, and the client goes on."""
    monkeypatch.setattr(limits, "state_delete_max", 2)
    await put(pod, *(W(key=key, value=b"") for key in "abcde"), subject_id="anna")
    got = await ask(pod, deletes())
    assert (got.deleted, got.more) == (2, True)
    async with standpipe.connect(pod.target) as client:
        assert await client.state("c", subject="anna").delete_all() == 3


# --- what becomes of a subject ---------------------------------------------------------------------------------------


async def test_export_erase_import(make: Callable[[], Store]) -> None:
    """P11: erasure takes the records and counts them, nothing is written any more, and an import brings them back."""
    async with make().serve() as pod:
        await pod.append("s1", "r1", "I moved to Bergen.", subject="ana")
        await put(pod, W(key="plan", value=b"\x00\xff"), W(key="empty", value=b""), subject_id="ana")
        await put(pod, W(key="short", value=b"v", ttl_s=3600), subject_id="ana", collection="b")
        await put(pod, W(key="plan", value=b"of ben"), subject_id="ben")
        await put(pod, W(key="plan", value=b"of all"))
        file, page = await exported(pod), (await exported(pod, MARKDOWN)).decode()
        kept = [json.loads(line)["state"] for line in file.splitlines() if b'"state"' in line]
        assert [(one["collection"], one["key"], base64.b64decode(one["value"])) for one in kept] == [
            ("b", "short", b"v"),
            ("c", "empty", b""),
            ("c", "plan", b"\x00\xff"),
        ]
        assert "## Records" in page.splitlines()
        assert "- c: plan (2 bytes of" in page
        receipt = await erase(pod)
        assert (receipt.logs, receipt.state_records) == (1, 3)
        assert await erase(pod) == receipt
        assert list((await listed(pod, subject_id="ana")).records) == []
        refusal = await refused(put(pod, W(key="plan", value=b"late"), subject_id="ana"))
        assert (refusal.status, refusal.reason, refusal.metadata) == (
            "FAILED_PRECONDITION",
            "ERASED",
            {"what": "subject"},
        )
        assert (await listed(pod, subject_id="ben")).records[0].value == b"of ben"
        assert (await listed(pod)).records[0].value == b"of all"
        done = await imported(pod, file)
        assert (done.signed, done.events, done.records, done.present, done.left_out) == (True, 1, 3, 0, 0)
        assert await exported(pod) == file
        found = (await listed(pod, subject_id="ana")).records
        assert [(one.key, one.value) for one in found] == [("empty", b""), ("plan", b"\x00\xff")]
        assert min(one.revision for one in found) > 2  # none of before
        again = await imported(pod, file)
        assert (again.events, again.records, again.present) == (0, 0, 4)


async def test_pages_make_the_file(make: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that is cut after every line, amid the records too, is the same file, in both forms."""
    async with make().serve() as pod:
        await pod.append("s1", "r1", "Hello.", subject="ana")
        await put(pod, W(key="k" * limits.state_key_bytes, value=b"1"), W(key="2", value=b"2"), subject_id="ana")
        for form in (JSON_LINES, MARKDOWN):
            whole = await exported(pod, form)
            with monkeypatch.context() as patch:
                patch.setattr(limits, "export_page_bytes", 1)
                assert await exported(pod, form) == whole


async def test_records_alone_are_exported(embedded: Store) -> None:
    """A subject without any log, or whose only session was erased, has an export of its records."""
    async with embedded.serve() as pod:
        await put(pod, W(key="plan", value=b"v"), subject_id="ana")
        assert (await exported(pod)).count(b"\n") == 3
        await pod.append("s1", "r1", "Hello.", subject="ana")
        request = memory_pb2.EraseSubjectRequest(subject_id="ana", session_id="s1")
        assert (await pod.memory.EraseSubject(request)).receipt.state_records == 0
        assert (await exported(pod)).count(b"\n") == 3


async def test_a_file_that_is_not_ours_brings_no_records(embedded: Store) -> None:
    """What an application would take for its own is left out of a file that anybody may have written, and counted."""
    async with embedded.serve() as pod:
        await pod.append("s1", "r1", "Hello.", subject="ana")
        await put(pod, W(key="plan", value=b"v"), subject_id="ana")
        file = await exported(pod)
        await erase(pod)
        done = await imported(pod, file.replace(b"Hello.", b"Hullo."))
        assert (done.signed, done.events, done.records, done.left_out) == (False, 1, 0, 1)
        assert list((await listed(pod, subject_id="ana")).records) == []


async def test_a_record_that_is_there_is_not_overwritten(embedded: Store) -> None:
    """An import that would change a record changes nothing at all."""
    async with embedded.serve() as pod:
        await pod.append("s1", "r1", "Hello.", subject="ana")
        await put(pod, W(key="a", value=b"v"), W(key="b", value=b"v"), subject_id="ana")
        file = await exported(pod)
        await erase(pod)
        await imported(pod, file)
        await put(pod, W(key="a"), W(key="b", value=b"newer"), subject_id="ana")
        with pytest.raises(VersionConflict, match="the record of line 4 is there, and not from this file"):
            await imported(pod, file)
        found = (await listed(pod, subject_id="ana")).records
        assert [(one.key, one.value) for one in found] == [("b", b"newer")]


SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "no object": ({"state": 7}, "line 2: state.collection"),
    "no collection": ({"state": {"key": "k", "value": ""}}, "line 2: state.collection"),
    "a bad collection": ({"state": {"collection": "a b", "key": "k", "value": ""}}, "line 2: state.collection"),
    "no key": ({"state": {"collection": "c", "value": ""}}, "line 2: state.key"),
    "an empty key": ({"state": {"collection": "c", "key": "", "value": ""}}, "line 2: state.key[0]"),
    "no value": ({"state": {"collection": "c", "key": "k"}}, "line 2: state.value"),
    "no base64": ({"state": {"collection": "c", "key": "k", "value": "?"}}, "line 2: state.value"),
    "no time": (
        {"state": {"collection": "c", "key": "k", "value": "", "expires_at": "soon"}},
        "line 2: state.expires_at",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
async def test_bad_lines_are_named(embedded: Store, what: str) -> None:
    """A line of a record that is none is named by its field, and nothing is imported."""
    line, field = SPOILT[what]
    header = {"standpipe_export": 1, "subject": "ana"}
    async with embedded.serve() as pod:
        with pytest.raises(InvalidField) as error:
            await imported(pod, "".join(json.dumps(one) + "\n" for one in (header, line)).encode())
        assert error.value.field == field
        twice = {"state": {"collection": "c", "key": "k", "value": ""}}
        with pytest.raises(InvalidField, match="earlier line"):
            await imported(pod, "".join(json.dumps(one) + "\n" for one in (header, twice, twice)).encode())


async def test_records_are_beside_the_conversation(pod: Local) -> None:
    """They make no session, no event and no bundle other than it was, and cost its hydrates nothing."""
    await pod.append("s", "r1", "I moved to Porto.")
    before = (await pod.hydrate("s", "Porto")).bundle.SerializeToString(deterministic=True)
    await put(pod, W(key="Porto", value=b"I moved to Porto."), subject_id="anna")
    assert (await pod.hydrate("s", "Porto")).bundle.SerializeToString(deterministic=True) == before
    sessions = await pod.sessions.ListSessions(session_pb2.ListSessionsRequest(), timeout=pod.timeout_s)
    assert [one.session_id for one in sessions.sessions] == ["s"]
