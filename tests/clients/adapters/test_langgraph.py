"""LangGraph's checkpointer and store on Standpipe: its conformance kit, its own tests, real graphs, and what hurts."""

from __future__ import annotations

import asyncio
import operator
import os
import re
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
import pytest_asyncio
from hypothesis import given, strategies

import standpipe
from sidecar.config import Config
from sidecar.server import Server
from standpipe import errors
from standpipe.adapters import records
from tests import expects
from tests.contract.postgres import ROLE, migrated
from tests.e2e.pods import ROOT, settings
from tests.servers import Postgres

pytest.importorskip("langgraph.checkpoint.base", reason="the package langgraph-checkpoint is not installed here")
pytest.importorskip("langgraph.graph", reason="the package langgraph is not installed here")

from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore, GetOp, InvalidNamespaceError, PutOp, SearchOp
from langgraph.types import Command, Send, interrupt

from standpipe.adapters.langgraph import StandpipeSaver, StandpipeStore

pytestmark = [pytest.mark.timeout(180)]

THEIRS = ROOT / ".cache" / "tools" / "framework-tests"
"""Where `make test-clients` unpacks the tests of frameworks."""

_INSIDE = "writes into the dictionaries of InMemorySaver"
_PARTS = strategies.text(strategies.characters(max_codepoint=0x7E), max_size=6)
"""Parts in which the order of characters is that of their bytes as they are written in keys."""

NOT_OURS = {
    "TestInMemorySaverDeltaChannel::test_load_blobs_omits_delta_channel": _INSIDE,
    "TestInMemorySaverDeltaChannel::test_get_channel_writes_collects_ancestor_writes_only": _INSIDE,
    "TestInMemorySaverDeltaChannel::test_get_channel_writes_at_root_returns_empty": _INSIDE,
    "TestBaseFallbackGetChannelWrites::test_fallback_returns_ancestor_writes_oldest_first": _INSIDE,
    "TestBaseFallbackGetChannelWrites::test_async_fallback_returns_ancestor_writes_oldest_first": _INSIDE,
    "TestBaseFallbackGetChannelWrites::test_async_fallback_concurrent_tasks_do_not_interfere": _INSIDE,
    "TestPreDeltaBlobTerminator::test_seed_from_pre_delta_ancestor_blob": _INSIDE,
    "TestPreDeltaBlobTerminator::test_seed_bounds_walk_without_dropping_its_own_writes": _INSIDE,
}
"""Of LangGraph's tests of its own saver, those that are about that one alone, and why."""


@asynccontextmanager
async def serving(record: Path, /, **changes: Any) -> AsyncIterator[str]:
    """Serve, and yield the address."""
    async with Server(Config(**settings(record, tenant="acme", log_level="error", **changes))) as server:
        yield f"127.0.0.1:{server.ports[0]}"


@contextmanager
def elsewhere(directory: Path) -> Iterator[str]:
    """Serve on an event loop in a thread of its own, for a test that has none."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = serving(directory / "record.db")
    try:
        yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest_asyncio.fixture
async def target(tmp_path: Path) -> AsyncIterator[str]:
    """Serve an empty SQLite file."""
    async with serving(tmp_path / "record.db") as address:
        yield address


@pytest_asyncio.fixture
async def client(target: str) -> AsyncIterator[standpipe.Client]:
    """Return an asynchronous client."""
    async with standpipe.connect(target) as found:
        yield found


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def on_either(request: Any, tmp_path: Path) -> AsyncIterator[str]:
    """Serve an empty store of each engine."""
    if request.param == "sqlite":
        async with serving(tmp_path / "record.db") as address:
            yield address
        return
    postgres: Postgres = request.getfixturevalue("postgres_server")
    name = await asyncio.to_thread(migrated, postgres)
    async with serving(tmp_path / "unused.db", record=postgres.dsn(name, user=ROLE)) as address:
        yield address
    await asyncio.to_thread(postgres.drop_database, name)


def config(thread: str = "t", checkpoint: str = "", space: str = "") -> Any:
    """Return a config."""
    asked = {"thread_id": thread, "checkpoint_ns": space}
    return {"configurable": {**asked, "checkpoint_id": checkpoint} if checkpoint else asked}


async def put(saver: Any, at: Any, **values: Any) -> Any:
    """Store a checkpoint in which all these channels are new."""
    made = empty_checkpoint()
    versions = {channel: saver.get_next_version(None, None) for channel in values}
    made["channel_values"], made["channel_versions"] = values, versions
    return await saver.aput(at, made, {"source": "loop", "step": 0}, versions)


async def stored(client: standpipe.Client, subject: str = "anna", kind: str = "checkpoints") -> list[standpipe.Record]:
    """Return all records of a collection as they are in the store."""
    return [one async for one in client.state(f"langgraph.{kind}", subject).list()]


# --- the other side's own tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.asyncio
async def test_the_checkpointer_conforms_in_full(kind: str, on_either: str) -> None:
    """LangGraph's conformance kit passes with all eight capabilities, over either client, on both engines."""
    kit = pytest.importorskip(
        "langgraph.checkpoint.conformance", reason="the package langgraph-checkpoint-conformance is not installed here"
    )
    client: Any = standpipe.connect(on_either) if kind == "async" else standpipe.sync.connect(on_either)

    @kit.checkpointer_test(name=f"StandpipeSaver-{kind}")
    async def make() -> Any:
        yield StandpipeSaver(client, subject="anna")

    report = await kit.validate(make)
    if kind == "async":
        await client.close()
    else:
        client.close()
    failures = [failure for result in report.results.values() for failure in result.failures]
    assert failures == []
    assert {name for name, result in report.results.items() if result.passed} == set(report.results)
    assert len(report.results) == 8


@pytest.mark.parametrize(("file", "passes"), [("test_store.py", 117), ("test_memory.py", 9)])
@pytest.mark.asyncio
async def test_langgraphs_own_tests_pass_over_ours(file: str, passes: int, target: str) -> None:
    """Its tests of its own store and saver pass with ours in their place: all of the store's, and of the saver's those
    that are not about its dictionaries.
    """
    found = sorted(THEIRS.glob("langgraph_checkpoint-*/tests"))
    if not found:
        why = "LangGraph's tests are not here: `make test-clients` unpacks them"
        expects.missing("framework-tests", why, promised={"framework-tests"})
    without = [f"--deselect=tests/test_memory.py::{name}" for name in NOT_OURS]
    paths = os.pathsep.join([str(ROOT / "clients" / "python"), str(Path(__file__).parent)])
    options = ["-o", "addopts=", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "-q", "-rs"]
    running = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "pytest", "-p", "langgraph_plugin", *options, *without, f"tests/{file}"],
        cwd=found[-1].parent,
        env={**os.environ, "PYTHONPATH": paths, "STANDPIPE_TARGET": target, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    shown = (await running.communicate())[0].decode()
    assert running.returncode == 0, shown[-4000:]
    assert int(shown.rsplit(" passed", 1)[0].split()[-1]) >= passes, shown[-400:]
    assert "skipped" not in shown, shown[-400:]
    assert ("8 deselected" in shown) is (file == "test_memory.py"), shown[-400:]


# --- a real graph -------------------------------------------------------------------------------------------------


class Trip(TypedDict):
    """The state of a graph."""

    city: str
    steps: Annotated[list[str], operator.add]


def trip() -> StateGraph:
    """Return a graph that asks a human in its middle, and keeps what it learned in a store."""

    async def plan(state: Trip) -> dict[str, Any]:
        return {"steps": [f"plan {state['city']}"]}

    async def ask(state: Trip) -> dict[str, Any]:
        answer = interrupt({"question": f"Book {state['city']}?"})
        return {"steps": [f"asked: {answer}"]}

    async def keep(state: Trip, *, store: BaseStore) -> dict[str, Any]:
        await store.aput(("trips", "anna"), state["city"], {"steps": state["steps"]})
        return {"steps": ["kept"]}

    builder = StateGraph(Trip)
    for name, node in (("plan", plan), ("ask", ask), ("keep", keep)):
        builder.add_node(name, node)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "ask")
    builder.add_edge("ask", "keep")
    builder.add_edge("keep", END)
    return builder


@pytest.mark.asyncio
async def test_a_graph_is_interrupted_resumed_elsewhere_and_taken_back(on_either: str) -> None:
    """A run stops for a human, goes on in another process's saver, keeps things, and branches off from its past."""
    at = config("trip")
    async with standpipe.connect(on_either) as client:
        graph = trip().compile(
            checkpointer=StandpipeSaver(client, subject="anna"), store=StandpipeStore(client, subject="anna")
        )
        stopped = await graph.ainvoke({"city": "Porto", "steps": []}, at)
        assert stopped["__interrupt__"][0].value == {"question": "Book Porto?"}
    async with standpipe.connect(on_either) as client:
        store = StandpipeStore(client, subject="anna")
        graph = trip().compile(checkpointer=StandpipeSaver(client, subject="anna"), store=store)
        assert (await graph.aget_state(at)).next == ("ask",)
        done = await graph.ainvoke(Command(resume="yes"), at)
        assert done["steps"] == ["plan Porto", "asked: yes", "kept"]
        kept = await store.aget(("trips", "anna"), "Porto")
        assert kept is not None
        assert kept.value == {"steps": ["plan Porto", "asked: yes"]}

        history = [one async for one in graph.aget_state_history(at)]
        assert [one.next for one in history] == [(), ("keep",), ("ask",), ("plan",), ("__start__",)]
        asking = history[2]
        asked = await graph.ainvoke(None, asking.config)
        assert asked["__interrupt__"][0].value == {"question": "Book Porto?"}
        again = await graph.ainvoke(Command(resume="no"), at)
        assert again["steps"] == ["plan Porto", "asked: no", "kept"]
        edited = await graph.aupdate_state(history[3].config, {"city": "Faro"})
        branch = await graph.ainvoke(None, edited)
        assert branch["__interrupt__"][0].value == {"question": "Book Faro?"}
        old = await graph.aget_state(history[0].config)
        assert old.values["steps"] == ["plan Porto", "asked: yes", "kept"]  # the first past is still there


def test_a_blocking_graph_runs_over_a_blocking_client(tmp_path: Path) -> None:
    """Without an event loop the same graph runs through the blocking methods."""

    def count(state: Trip, *, store: BaseStore) -> dict[str, Any]:
        store.put(("cities",), state["city"], {"seen": True})
        return {"steps": ["counted"]}

    builder = StateGraph(Trip)
    builder.add_node("count", count)
    builder.add_edge(START, "count")
    with elsewhere(tmp_path) as address, standpipe.sync.connect(address) as client:
        saver, store = StandpipeSaver(client, subject="anna"), StandpipeStore(client, subject="anna")
        graph = builder.compile(checkpointer=saver, store=store)
        graph.invoke({"city": "Porto", "steps": []}, config())
        assert graph.invoke({"city": "Faro"}, config())["steps"] == ["counted", "counted"]
        assert [one.key for one in store.search(("cities",))] == ["Faro", "Porto"]
        assert len(list(graph.get_state_history(config()))) == 6
        assert len(list(saver.list(config(), limit=2))) == 2
        saver.delete_thread("t")
        assert saver.get_tuple(config()) is None


@pytest.mark.asyncio
async def test_blocking_and_asynchronous_code_meet(client: standpipe.Client, target: str) -> None:
    """A blocking node of an asynchronous graph reaches the store, and asynchronous methods work over a blocking client.

    Only a blocking call on the event loop's own thread cannot be: it says what to do instead of hanging.
    """
    store = StandpipeStore(client, subject="anna")
    saver = StandpipeSaver(client, subject="anna")

    def node(state: Trip) -> dict[str, Any]:
        store.put(("cities",), state["city"], {"steps": len(state["steps"])})
        return {"steps": ["blocking"]}

    builder = StateGraph(Trip)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=saver, store=store)
    await graph.ainvoke({"city": "Porto", "steps": []}, config())
    assert (await asyncio.to_thread(store.get, ("cities",), "Porto")).value == {"steps": 0}
    assert await asyncio.to_thread(lambda: len(list(saver.list(config())))) == 3
    with pytest.raises(RuntimeError, match=r"await the asynchronous method, or use standpipe\.sync\.connect"):
        store.get(("cities",), "Porto")
    with standpipe.sync.connect(target) as blocking:
        other = StandpipeSaver(blocking, subject="anna")
        found = await other.aget_tuple(config())
        assert found is not None
        assert found.checkpoint["channel_values"]["steps"] == ["blocking"]
        assert [one.metadata["step"] async for one in other.alist(config())] == [1, 0, -1]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.asyncio
async def test_a_graph_has_the_history_that_it_has_in_memory(durability: Any, client: standpipe.Client) -> None:
    """Subgraphs, tasks side by side, a task that fails and one that asks leave the same history as in LangGraph's own
    saver, in every mode of durability.
    """

    def graph(saver: Any) -> Any:
        failures = [RuntimeError("the first time")]

        def fan_out(state: Trip) -> list[Send]:
            return [Send("stop", {"city": f"{state['city']} {n}", "steps": []}) for n in range(5)]

        def fails_once(_: Trip) -> dict[str, Any]:
            if failures:
                raise failures.pop()
            return {"steps": ["mended"]}

        inner = StateGraph(Trip)
        inner.add_node("ask", lambda state: {"steps": [interrupt(f"sure of {state['city']}?")]})
        inner.add_edge(START, "ask")
        builder = StateGraph(Trip)
        builder.add_node("stop", lambda state: {"steps": [f"stop in {state['city']}"]})
        builder.add_node("inner", inner.compile())
        builder.add_node("fails", fails_once)
        builder.add_conditional_edges(START, fan_out, ["stop"])
        builder.add_edge("stop", "inner")
        builder.add_edge("stop", "fails")
        return builder.compile(checkpointer=saver)

    async def history(saver: Any) -> list[Any]:
        made = graph(saver)
        with pytest.raises(RuntimeError, match="the first time"):
            await made.ainvoke({"city": "Porto", "steps": []}, config(), durability=durability)
        await made.ainvoke(None, config(), durability=durability)
        await made.ainvoke(Command(resume="yes"), config(), durability=durability)
        return [
            (
                one.values,
                sorted(one.next),
                one.metadata["step"],
                one.metadata["source"],
                sorted((task.name, bool(task.error), len(task.interrupts), str(task.result)) for task in one.tasks),
            )
            async for one in made.aget_state_history(config())
        ]

    ours, theirs = await history(StandpipeSaver(client, subject="anna")), await history(InMemorySaver())
    assert ours == theirs
    assert sorted(ours[0][0]["steps"][5:]) == [*["mended"], *[f"stop in Porto {n}" for n in range(5)], "yes"]


class Log(TypedDict):
    """A state whose channel stores changes alone."""

    lines: Annotated[list[str], DeltaChannel(lambda state, writes: [*state, *(x for w in writes for x in w)])]


@pytest.mark.asyncio
async def test_a_delta_channel_outlives_pruning(client: standpipe.Client) -> None:
    """What a channel of changes is made from stays when the rest of its thread is pruned, and no more than that."""
    builder = StateGraph(Log)
    builder.add_node("add", lambda state: {"lines": [f"line {len(state['lines'])}"]})
    builder.add_edge(START, "add")
    saver = StandpipeSaver(client, subject="anna")
    graph = builder.compile(checkpointer=saver)
    for _ in range(4):
        await graph.ainvoke({"lines": ["asked"]}, config())
    before = await graph.aget_state(config())
    assert len(before.values["lines"]) == 8
    await saver.aprune(["t"])
    assert (await graph.aget_state(config())).values == before.values
    await graph.ainvoke({"lines": ["more"]}, config())
    assert len((await graph.aget_state(config())).values["lines"]) == 10


# --- what users suffer from ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_writers_on_one_thread_lose_nothing(on_either: str) -> None:
    """Sixteen processes' savers go on from one checkpoint at once: each history is there, with its own values, and a
    task's writes are those of whoever came first, never a mixture.
    """
    async with standpipe.connect(on_either) as client:
        first = await put(StandpipeSaver(client, subject="anna"), config(), messages=["hello"], big="x" * 2000)
        savers = [StandpipeSaver(client, subject="anna") for _ in range(16)]
        ends = await asyncio.gather(
            *(put(saver, first, messages=[f"writer {n}"], count=n) for n, saver in enumerate(savers))
        )
        for n, end in enumerate(ends):
            found = await savers[0].aget_tuple(end)
            assert found is not None
            assert found.checkpoint["channel_values"] == {"messages": [f"writer {n}"], "count": n}
            assert found.parent_config == first
        assert len([one async for one in savers[0].alist(config())]) == 17

        await asyncio.gather(
            *(
                saver.aput_writes(first, [(f"channel {n}", i) for i in range(n % 3 + 1)], "task", "path")
                for n, saver in enumerate(savers)
            )
        )
        found = await savers[0].aget_tuple(first)
        assert found is not None
        assert [value for _, _, value in found.pending_writes or ()] == [0, 1, 2]
        firsts = [channel for _, channel, _ in found.pending_writes or ()]
        await savers[5].aput_writes(first, [("late", 9)], "task", "path")
        found = await savers[0].aget_tuple(first)
        assert found is not None
        assert [channel for _, channel, _ in found.pending_writes or ()] == firsts


@pytest.mark.asyncio
async def test_a_checkpoint_repeats_nothing_that_did_not_change(client: standpipe.Client) -> None:
    """A large channel is stored once, however many checkpoints hold it; small ones cost no record of their own."""
    saver = StandpipeSaver(client, subject="anna")
    at = await put(saver, config(), document=["x" * 100_000], step=0)
    found = await saver.aget_tuple(at)
    assert found is not None
    for step in range(1, 6):
        made = {**found.checkpoint, "id": empty_checkpoint()["id"]}
        made["channel_values"] = {**found.checkpoint["channel_values"], "step": step}
        versions = {"step": saver.get_next_version(found.checkpoint["channel_versions"]["step"], None)}
        made["channel_versions"] = {**found.checkpoint["channel_versions"], **versions}
        at = await saver.aput(at, made, {"step": step}, versions)
    records = await stored(client)
    assert sum(len(one.value) for one in records) < 110_000
    assert len(records) == 7  # six checkpoints, one document
    latest = await saver.aget_tuple(config())
    assert latest is not None
    assert latest.checkpoint["channel_values"] == {"document": ["x" * 100_000], "step": 5}


@pytest.mark.asyncio
async def test_values_of_any_size_are_taken_and_go_with_their_thread(client: standpipe.Client) -> None:
    """What no record holds is cut into pieces, in checkpoints, writes and items; a delete leaves none of it."""
    saver, store = StandpipeSaver(client, subject="anna"), StandpipeStore(client, subject="anna")
    large, larger = os.urandom(3 << 20), os.urandom(9 << 20)
    at = await put(saver, config(), large=large, larger=larger, small=1)
    await saver.aput_writes(at, [("large", large), ("note", "x")], "task")
    found = await saver.aget_tuple(config())
    assert found is not None
    assert found.checkpoint["channel_values"] == {"large": large, "larger": larger, "small": 1}
    assert [value for _, _, value in found.pending_writes or ()] == [large, "x"]
    await saver.acopy_thread("t", "copy")
    copied = await saver.aget_tuple(config("copy"))
    assert copied is not None
    assert copied.checkpoint == found.checkpoint
    await saver.adelete_thread("t")
    await saver.adelete_thread("copy")
    assert await stored(client) == []

    text = "y" * (3 << 20)
    await store.aput(("files",), "a", {"text": text})
    assert (await store.aget(("files",), "a")).value == {"text": text}  # type: ignore[union-attr]
    assert [one.value for one in await store.asearch(())] == [{"text": text}]
    await store.aput(("files",), "a", {"text": "short"})
    assert len(await stored(client, kind="store")) == 1
    await store.aput(("files",), "a", {"text": text})
    await store.adelete(("files",), "a")
    assert await stored(client, kind="store") == []


@pytest.mark.asyncio
async def test_a_value_in_pieces_is_never_torn(client: standpipe.Client) -> None:
    """Who reads while a large value is replaced gets one version of it or the other, whole."""
    store = StandpipeStore(client, subject="anna")

    async def replace() -> None:
        for n in range(1, 6):
            await store.aput(("files",), "a", {"text": str(n) * (2 << 20)})

    await store.aput(("files",), "a", {"text": "0" * (2 << 20)})
    writing = asyncio.create_task(replace())
    seen = set()
    while not writing.done():
        found = await store.aget(("files",), "a")
        assert found is not None
        assert len(found.value["text"]) == 2 << 20
        seen |= set(found.value["text"])
    await writing
    assert seen <= set("012345")
    assert len(await stored(client, kind="store")) == 4  # the value's record, and its three pieces


@pytest.mark.asyncio
async def test_a_put_that_breaks_off_is_not_there_at_all(client: standpipe.Client, monkeypatch: Any) -> None:
    """A checkpoint of more than one write is seen when the last one is done; until then the one before is the newest,
    and the same put again makes it whole.
    """
    saver = StandpipeSaver(client, subject="anna")
    first = await put(saver, config(), large=b"first")
    made = empty_checkpoint()
    values = {"large": os.urandom(5 << 20), **{f"channel {n}": [n] for n in range(300)}}
    versions = {channel: saver.get_next_version(None, None) for channel in values}
    made["channel_values"], made["channel_versions"] = values, versions
    done, write = [], standpipe.State.write

    async def breaks_off(self: Any, *writes: Any, **more: Any) -> int:
        if len(done) == 3:
            raise errors.Unavailable("the server died")
        done.append(len(writes))
        return await write(self, *writes, **more)

    monkeypatch.setattr(standpipe.State, "write", breaks_off)
    with pytest.raises(errors.Unavailable):
        await saver.aput(first, made, {}, versions)
    monkeypatch.undo()
    assert len(done) == 3  # it was on its way
    found = await saver.aget_tuple(config())
    assert found is not None
    assert found.checkpoint["channel_values"] == {"large": b"first"}
    await saver.aput(first, made, {}, versions)
    found = await saver.aget_tuple(config())
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    await saver.adelete_thread("t")
    assert await stored(client) == []  # nor is anything left of the first try


@pytest.mark.asyncio
async def test_pruning_and_deleting_runs_leave_what_is_needed_and_nothing_else(client: standpipe.Client) -> None:
    """The blobs and writes of checkpoints that are gone are gone, too; those that a kept one shares stay."""
    saver = StandpipeSaver(client, subject="anna")
    graph = trip().compile(checkpointer=saver, store=StandpipeStore(client, subject="anna"))
    runs = [str(uuid.uuid4()) for _ in range(3)]
    for run in runs:
        await graph.ainvoke({"city": "x" * 300, "steps": []}, {**config(), "metadata": {"run_id": run}})
        await graph.ainvoke(Command(resume="yes"), {**config(), "metadata": {"run_id": run}})
    before = await graph.aget_state(config())
    assert len(await stored(client)) > 20
    await saver.adelete_for_runs(runs[:1])
    left = [one.metadata["run_id"] async for one in saver.alist(config())]
    assert set(left) == set(runs[1:])
    await saver.aprune(["t"])
    assert (await graph.aget_state(config())).values == before.values
    kinds = [one.key[0] for one in await stored(client)]
    assert kinds.count("c") == 1
    assert kinds.count("b") == len([v for v in before.values.values() if not isinstance(v, str) or len(v) > 256])
    with pytest.raises(ValueError, match="keep_latest"):
        await saver.aprune(["t"], strategy="everything")
    await saver.adelete_for_runs(runs)
    assert await stored(client) == []


@pytest.mark.asyncio
async def test_subjects_are_apart_and_erased_whole(client: standpipe.Client) -> None:
    """P8, P11: each subject's graph data is its own; an erasure takes it, and nothing can be written after it."""
    saver = StandpipeSaver(client, subject=lambda asked: asked["configurable"]["thread_id"].partition("/")[0])
    store = StandpipeStore(client, subject=lambda namespace: namespace[1])
    for who in ("anna", "bo"):
        await put(saver, config(f"{who}/1"), secret=[who])
        await store.aput(("notes", who), "a", {"secret": who})
    assert [one.value["secret"] for one in await store.asearch(("notes", "anna"))] == ["anna"]
    assert await store.alist_namespaces(prefix=("notes", "bo")) == [("notes", "bo")]
    unknown = StandpipeSaver(client, subject=lambda asked: asked["configurable"]["user_id"])
    with pytest.raises(ValueError, match="needs a saver whose `subject` is a name"):
        await unknown.adelete_thread("anna/1")
    other = StandpipeSaver(client, subject="bo")
    assert await other.aget_tuple(config("anna/1")) is None
    assert [one.config["configurable"]["thread_id"] async for one in other.alist(None)] == ["bo/1"]
    await client.memory("anna").erase()
    assert await saver.aget_tuple(config("anna/1")) is None
    assert await store.asearch(("notes", "anna")) == []
    with pytest.raises(errors.FailedPrecondition) as erased:
        await put(saver, config("anna/1"), secret=["again"])
    assert erased.value.reason == "ERASED"
    assert await saver.aget_tuple(config("bo/1")) is not None


@pytest.mark.parametrize(
    "name", ["a!b", 'quoted "~ 0041', "two\nlines\x00\x7f\u2028", "Größe 漢字 🚢", "x" * 5000, " ", "%2F..//", "\ud800"]
)
@pytest.mark.asyncio
async def test_names_of_all_kinds_are_taken(name: str, client: standpipe.Client) -> None:
    """Threads, namespaces, channels and tasks may be called anything; one never stands for another."""
    saver = StandpipeSaver(client, subject="anna")
    plain = name.encode("utf-8", "replace").decode()
    for space in ("", f"node:{plain}|child:1"):
        at = await put(saver, config(plain, space=space), **{plain: [space], "other": 1})
        await saver.aput_writes(at, [(plain, "x")], plain, plain)
    for other in (f"{plain}!", plain[:-1] or "-", f"{plain}x"):
        assert await saver.aget_tuple(config(other)) is None
    found = await saver.aget_tuple(config(plain, space=f"node:{plain}|child:1"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {plain: [f"node:{plain}|child:1"], "other": 1}
    assert found.pending_writes == [(plain, plain, "x")]
    assert found.config["configurable"]["thread_id"] == plain
    assert len([one async for one in saver.alist({"configurable": {"thread_id": plain}})]) == 2
    await saver.adelete_thread(plain)
    assert await stored(client) == []


@given(strategies.lists(_PARTS, min_size=1, max_size=4), strategies.lists(_PARTS, min_size=1, max_size=4))
def test_keys_are_ordered_as_their_parts_are(one: list[str], other: list[str]) -> None:
    """Keys compare by their bytes as lists of parts do, give the parts back, and none begins with another's."""
    mine, others = records.key(*one), records.key(*other)
    assert records.parts(mine) == one
    assert (mine.encode() < others.encode()) is (one < other)
    assert others.startswith(mine) is (other[: len(one)] == one)


@given(strategies.text(max_size=300))
def test_any_text_may_stand_in_a_key(text: str) -> None:
    """Whatever a name holds, its key is one line that the server takes, and the name comes back."""
    made = records.key(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", made)
    assert records.parts(made) == [text]
    assert len(records.key(records.short(text)).encode()) <= records.PART_BYTES + 1


# --- the store ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_items_live_as_long_as_they_are_told_and_longer_when_read(client: standpipe.Client) -> None:
    """An item's time starts anew when it is read, if that is asked for, and is the store's default without one."""
    store = StandpipeStore(client, subject="anna", ttl={"default_ttl": 2.0, "refresh_on_read": True})
    assert store.supports_ttl

    async def left(key: str) -> timedelta:
        (found,) = [one for one in await stored(client, kind="store") if one.key.endswith(f"!{key}!")]
        assert found.expires_at is not None
        return found.expires_at - found.updated_at

    await store.aput(("n",), "given", {"v": 1}, ttl=0.5)
    await store.aput(("n",), "default", {"v": 1})
    await store.aput(("n",), "kept", {"v": 1}, ttl=None)
    assert (await left("given"), await left("default")) == (timedelta(seconds=30), timedelta(minutes=2))
    (kept,) = [one for one in await stored(client, kind="store") if "kept" in one.key]
    assert kept.expires_at is None
    revisions = {one.key: one.revision for one in await stored(client, kind="store")}
    await store.aget(("n",), "given", refresh_ttl=False)
    assert {one.key: one.revision for one in await stored(client, kind="store")} == revisions
    first = await store.aget(("n",), "given")
    again = await store.aget(("n",), "given")
    assert first == again  # what is kept longer is not changed
    assert await left("given") == timedelta(seconds=30)
    now = {one.key: one.revision for one in await stored(client, kind="store")}
    assert [key for key in now if now[key] != revisions[key]] == ["n!!given!"]
    await store.asearch(("n",))
    later = {one.key: one.revision for one in await stored(client, kind="store")}
    assert sorted(key for key in later if later[key] != now[key]) == ["n!!default!", "n!!given!"]
    await store.aput(("n",), "brief", {"v": 1}, ttl=0.001)
    await asyncio.sleep(1.2)
    assert await store.aget(("n",), "brief") is None
    assert ("brief",) not in [(one.key,) for one in await store.asearch(("n",))]


@pytest.mark.asyncio
async def test_a_search_filters_orders_and_pages(client: standpipe.Client) -> None:
    """Operators and nested values filter, namespaces order, and pages neither repeat nor leave out; by meaning, too."""
    asked: list[str] = []

    async def embed(texts: Any) -> list[list[float]]:
        asked.extend(texts)
        return [[float(text.count(letter)) for letter in "abc"] for text in texts]

    store = StandpipeStore(
        client,
        subject="anna",
        index={"dims": 3, "embed": embed, "fields": ["text"]},  # type: ignore[typeddict-item]
    )
    items = [(("a",), "k", "aab"), (("a", "b"), "k", "bbb"), (("a", "c"), "k", "cca"), (("ab",), "k", "abc")]
    puts = [
        PutOp(space, key, {"text": text, "n": n, "in": {"t": [n, "x"]}}) for n, (space, key, text) in enumerate(items)
    ]
    await store.abatch([*puts, PutOp(("a",), "mute", {"text": "aaa", "n": 9}, index=False)])
    found = await store.asearch(("a",))
    assert [(one.namespace, one.key) for one in found] == [
        (("a",), "k"),
        (("a",), "mute"),
        (("a", "b"), "k"),
        (("a", "c"), "k"),
    ]
    assert [one.value["n"] for one in await store.asearch((), filter={"n": {"$gte": 1, "$lt": 3}})] == [1, 2]
    assert [one.value["n"] for one in await store.asearch((), filter={"in": {"t": [3, "x"]}})] == [3]
    assert [one.value["n"] for one in await store.asearch((), filter={"n": {"$ne": 9}, "text": "bbb"})] == [1]
    assert await store.asearch((), filter={"text": {"$gt": 1}}) == []  # what is no number is not more
    with pytest.raises(ValueError, match=r"unknown operator '\$near'"):
        await store.asearch((), filter={"n": {"$near": 1}})
    best = await store.asearch((), query="bb", limit=5)
    assert best[0].value["text"] == "bbb"
    assert best[0].score == pytest.approx(1.0)
    assert best[-1].key == "mute"
    assert best[-1].score is None
    pages = [await store.asearch((), query="bb", limit=2, offset=at) for at in (0, 2, 4, 6)]
    assert [one.value for page in pages for one in page] == [one.value for one in best]
    assert await store.asearch((), limit=0) == []
    assert sorted(set(asked)) == ["aab", "abc", "bb", "bbb", "cca"]

    (before,) = await store.asearch(("ab",))
    reads = await store.abatch([GetOp(("ab",), "k"), PutOp(("ab",), "k", {"text": "new"}), SearchOp(("ab",))])
    assert reads[0].value["text"] == "abc"  # type: ignore[union-attr]
    assert [one.value["text"] for one in reads[2]] == ["abc"]  # type: ignore[union-attr]
    after = await store.aget(("ab",), "k")
    assert after is not None
    assert (after.value, after.created_at) == ({"text": "new"}, before.created_at)
    assert after.updated_at > before.updated_at
    with pytest.raises(InvalidNamespaceError):
        await store.abatch([PutOp(("",), "k", {"v": 1})])
    with pytest.raises(ValueError, match="1000 bytes"):
        await store.aput(("n" * 990,), "k" * 20, {"v": 1})
    with pytest.raises(TypeError, match="JSON"):
        await store.aput(("n",), "k", {"v": object()})
