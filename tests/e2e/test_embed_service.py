"""`standpipe embed`: each caller gets its own texts' vectors or an error in time, whatever others do (P6, P8, P12)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar import doctor, embed_server, limits
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.embed_server import SERVICES, EmbedServer
from sidecar.errors import EmbedderUnavailable
from sidecar.model import Model
from standpipe.v1 import embedding_pb2
from tests.e2e.embedders import (
    PASSAGE,
    QUERY,
    Caller,
    EmbedderProcess,
    Gated,
    Local,
    embedding,
    get,
    metrics,
    texts_of,
    total,
)
from tests.e2e.pods import MODEL, MODELS, gather, refusal_of, refused, until
from tests.servers import free_port

MARK = "zebra-xyzzy"
"""Stands in what callers send, and must stand in no answer and no log."""


@pytest.fixture(scope="module")
def other(embedder: Embedder) -> Embedder:
    """Return a second model: the same weights in another precision."""
    return Embedder(Model.open(MODELS / MODEL), precision="fp32")


@pytest.fixture(scope="module")
def process() -> Iterator[EmbedderProcess]:
    """Run one process for the tests that leave it as it was: two models, a port and a socket file."""
    with EmbedderProcess(embedder_before=f"{MODEL}/fp32") as found:
        yield found


@pytest_asyncio.fixture
async def shared(embedder: Embedder, other: Embedder) -> AsyncIterator[Local]:
    """Serve both models in this process."""
    async with embedding(embedder, other) as found:
        yield found


def alone(embedder: Embedder, text: str, *, query: bool = True) -> Any:
    """Return what a process of its own would compute."""
    prefix = embedder.model.query_prefix if query else embedder.model.passage_prefix
    return embedder.embed_one(prefix + text, query=query)


# --- vectors ---------------------------------------------------------------------------------------------------------


async def test_64_callers_lose_nothing(process: EmbedderProcess, embedder: Embedder) -> None:
    """Of 64 callers at once each gets the vectors of its own texts, with the bits that they have alone (P6, P12)."""
    dice = random.Random(5)
    texts = texts_of(dice, 64 * 8)
    callers = [Caller(process.target if number % 2 else f"unix:{process.socket}", embedder.id) for number in range(16)]

    async def call(number: int) -> None:
        own = texts[8 * number : 8 * (number + 1)]
        caller = callers[number % len(callers)]
        for text in own[:4]:
            (vector,) = await caller.embed(text)
            assert np.array_equal(vector, alone(embedder, text)), text
        vectors = await caller.embed(*own, kind=PASSAGE)
        for text, vector in zip(own, vectors, strict=True):
            assert np.array_equal(vector, alone(embedder, text, query=False)), text

    await asyncio.gather(*(call(number) for number in range(64)))
    for caller in callers:
        await caller.close()


async def test_two_models_side_by_side(shared: Local, embedder: Embedder, other: Embedder) -> None:
    """Both models are listed, the one to move to first, and each answers for itself at the same time (P6)."""
    listed = await shared.models()
    assert [(one.model_id, one.precision) for one in listed] == [(embedder.id, "int8"), (other.id, "fp32")]
    for one, of in zip(listed, (embedder, other), strict=True):
        assert (one.dimensions, one.tokens_max, one.provider) == (of.dimensions, of.model.tokens_max, of.provider)
        assert not one.ranks
        assert not one.remote
    texts = texts_of(random.Random(3), 6)
    here, there = await asyncio.gather(
        shared.embed(*texts, kind=PASSAGE), shared.embed(*texts, kind=PASSAGE, model_id=other.id)
    )
    for text, one, another in zip(texts, here, there, strict=True):
        assert np.array_equal(one, alone(embedder, text, query=False))
        assert np.array_equal(another, alone(other, text, query=False))
        assert not np.array_equal(one, another)


async def test_a_process_serves_the_model_before_too(
    process: EmbedderProcess, embedder: Embedder, other: Embedder
) -> None:
    """With embedder_before the process serves both, by its port and by its socket, with the same bits (P6)."""
    by_port, by_socket = Caller(process.target), Caller(f"unix:{process.socket}")
    assert [one.model_id for one in await by_port.models()] == [embedder.id, other.id]
    for model in (embedder, other):
        vectors = [await caller.embed("Where is the harbour?", model_id=model.id) for caller in (by_port, by_socket)]
        assert all(np.array_equal(one[0], alone(model, "Where is the harbour?")) for one in vectors)
    await by_port.close()
    await by_socket.close()


async def test_an_answer_says_what_it_took(shared: Local, embedder: Embedder) -> None:
    """An answer has the tokens that were embedded, and the times before and in runs."""
    texts = ["A short one.", "word " * 1000, ""]
    sizes = [tokens.size for tokens in embedder.tokenise(texts)]
    assert sizes[1] == embedder.model.tokens_max
    for kind in (PASSAGE, QUERY):
        answer = await shared.ask(*texts, kind=kind)
        assert answer.tokens == sum(sizes)
        assert answer.run_us > 0
        assert answer.queue_us >= 0
        assert len(answer.vectors) == 4 * 3 * answer.dimensions


# --- what callers get wrong ------------------------------------------------------------------------------------------

LIMIT, INVALID = "LIMIT_EXCEEDED", "INVALID_FIELD"
ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("no model", {"model_id": ""}, INVALID, "model_id"),
    ("a long model", {"model_id": "m" * (limits.embed_model_chars_max + 1)}, INVALID, "model_id"),
    ("no kind", {"kind": 0}, INVALID, "kind"),
    ("an unknown kind", {"kind": 7}, INVALID, "kind"),
    ("no texts", {"texts": []}, INVALID, "texts"),
    ("too many texts", {"texts": [MARK] * (limits.embed_call_texts_max + 1)}, LIMIT, "texts"),
    ("a long text", {"texts": [MARK, MARK + "é" * (limits.embed_text_bytes // 2)]}, LIMIT, "texts[1]"),
]


@pytest.mark.parametrize(("fields", "reason", "field"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_a_bad_call_is_named(shared: Local, fields: dict[str, Any], reason: str, field: str) -> None:
    """What is wrong is named by its field, without a word of the texts (P8, P12)."""
    refusal = await refused(shared.ask(**{"texts": [MARK], **fields}))
    assert (refusal.status, refusal.reason, refusal.field) == ("INVALID_ARGUMENT", reason, field)
    assert MARK not in refusal.text
    assert MARK not in shared.log.getvalue()


async def test_limits_of_a_call(shared: Local) -> None:
    """A call may have embed_call_texts_max texts, and a text embed_text_bytes; one more is over the limit (P12)."""
    assert len(await shared.embed(*["ok"] * limits.embed_call_texts_max)) == limits.embed_call_texts_max
    assert len(await shared.embed("é" * (limits.embed_text_bytes // 2), kind=PASSAGE)) == 1
    for limit, texts in (
        ("embed_call_texts_max", ["ok"] * (limits.embed_call_texts_max + 1)),
        ("embed_text_bytes", ["x" * (limits.embed_text_bytes + 1)]),
    ):
        refusal = await refused(shared.ask(*texts))
        assert refusal.metadata["limit"] == limit
        assert int(refusal.metadata["maximum"]) == getattr(limits, limit)
        assert int(refusal.metadata["actual"]) == int(refusal.metadata["maximum"]) + 1
    longest = "m" * limits.embed_model_chars_max
    assert (await refused(shared.ask("x", model_id=longest))).reason == "MODEL_NOT_SERVED"


async def test_another_model_never_answers(shared: Local, embedder: Embedder, other: Embedder) -> None:
    """A model that is not served is NOT_FOUND, and those that are served are listed (P6)."""
    for wrong in ("nobody@000/int8", embedder.id + " ", embedder.model.id, MARK):
        refusal = await refused(shared.ask("x", model_id=wrong))
        assert (refusal.status, refusal.reason, refusal.field) == ("NOT_FOUND", "MODEL_NOT_SERVED", "model_id")
        assert refusal.metadata == {"known": f"{embedder.id},{other.id}"}
        assert MARK not in refusal.text


async def test_garbage_is_refused(shared: Local, embedder: Embedder) -> None:
    """Bytes that are no message or no UTF-8 are an invalid argument, and the next call is served (P12)."""
    raw = shared.channel.unary_unary(f"/{SERVICES[0]}/Embed")
    good = embedding_pb2.EmbedRequest(model_id=embedder.id, kind=QUERY, texts=["abc"]).SerializeToString()
    for garbage in (b"\xff" * 40, good.replace(b"abc", b"\xff\xfe\xfd")):
        refusal = await refused(raw(garbage, timeout=20))
        assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert len(await shared.embed("abc")) == 1


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud7ff\ue000", "a\u0301" * 500, "\U0001f642" * 16_000, "x" * 60_000])
async def test_odd_text_has_a_vector(shared: Local, embedder: Embedder, text: str) -> None:
    """Whatever is a text has a vector, which is finite, and the same as elsewhere (P6)."""
    (vector,) = await shared.embed(text)
    assert np.isfinite(vector).all()
    assert np.array_equal(vector, alone(embedder, text))


# --- time ------------------------------------------------------------------------------------------------------------


async def test_no_call_outlives_its_deadline(embedder: Embedder) -> None:
    """While the device does nothing, the server ends each of 64 calls at its deadline, and runs none late (P12)."""
    gated = Gated(embedder)
    async with embedding(gated) as shared:
        kinds = [(number, kind) for number in range(32) for kind in (QUERY, PASSAGE)]
        calls = [shared.ask(f"{number} {kind}", kind=kind, timeout_s=2 + number / 64) for number, kind in kinds]
        refusals = [refusal_of(one) for one in await gather(calls)]
        assert {one.status for one in refusals} == {"DEADLINE_EXCEEDED"}

        async def ended() -> bool:
            return total(shared.metrics(), "calls_total", method="Embed") == len(kinds)

        await until(ended)
        assert total(shared.metrics(), "calls_total", method="Embed", status="OK") == 0
        begun = len(gated.begun)
        assert begun <= 1, "one run began, and never ended"
        gated.open.set()
        (vector,) = await shared.embed("and now")
        assert np.array_equal(vector, alone(embedder, "and now"))
        assert len(gated.begun) == begun + 1, "none of the dead was run"


async def test_the_longest_wait_is_the_servers(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patient caller waits for embed_call_ms, and one that brings no deadline for deadline_default_ms (P12)."""
    gated = Gated(embedder)
    async with embedding(gated) as shared:
        for limit, timeout_s in (("embed_call_ms", 3600.0), ("deadline_default_ms", None)):
            with monkeypatch.context() as patch:
                patch.setattr(limits, limit, 200)
                refusal = await refused(shared.ask("x", timeout_s=timeout_s))
            assert (refusal.status, refusal.metadata) == ("DEADLINE_EXCEEDED", {"phase": "embed"})
    assert limits.deadline_default_ms < limits.embed_call_ms


async def test_callers_that_left_are_not_run(embedder: Embedder) -> None:
    """The texts of a cancelled call are dropped when their turn comes, and whoever stayed is answered (P12)."""
    gated = Gated(embedder)
    async with embedding(gated) as shared:
        first = asyncio.ensure_future(shared.embed("first"))

        async def at_the_gate() -> bool:
            return len(gated.begun) == 1

        await until(at_the_gate)
        left = [
            asyncio.ensure_future(shared.embed(f"left {number}", "too", kind=kind))
            for number in range(20)
            for kind in (QUERY, PASSAGE)
        ]
        stayed = [asyncio.ensure_future(shared.embed(f"stayed {kind}", kind=kind)) for kind in (QUERY, PASSAGE)]

        async def all_there() -> bool:
            return total(shared.metrics(), "embed_waiting_texts") == 2 * len(left) + len(stayed)

        await until(all_there)
        for one in left:
            one.cancel()

        async def gone() -> bool:
            return total(shared.metrics(), "calls_total", method="Embed", status="CANCELLED") == len(left)

        await until(gone)
        gated.open.set()
        assert len(await first) == 1
        for kind, vectors in zip((QUERY, PASSAGE), await asyncio.gather(*stayed), strict=True):
            assert np.array_equal(vectors[0], alone(embedder, f"stayed {kind}", query=kind == QUERY))
        assert sum(gated.begun) == 3


async def test_queries_overtake_bulk(process: EmbedderProcess, embedder: Embedder) -> None:
    """Queries that come behind a flood of passages are answered before it is (P12)."""
    dice = random.Random(8)
    caller = Caller(process.target, embedder.id)
    flood = texts_of(dice, 64, sentences=16)
    bulk = [asyncio.ensure_future(caller.embed(*flood, kind=PASSAGE, timeout_s=110)) for _ in range(3)]

    async def begun() -> bool:
        return total(await asyncio.to_thread(metrics, process.http), "embed_waiting_texts", kind="passage") > 0

    await until(begun)
    queries = texts_of(dice, 32, sentences=1)
    answers = await asyncio.gather(*(caller.embed(text) for text in queries))
    assert not any(one.done() for one in bulk)
    for text, vectors in zip(queries, answers, strict=True):
        assert np.array_equal(vectors[0], alone(embedder, text))
    done = await asyncio.gather(*bulk)
    assert all(np.array_equal(vectors, done[0]) for vectors in done)
    await caller.close()


async def test_deadlines_hold_behind_a_flood(process: EmbedderProcess, embedder: Embedder) -> None:
    """Of 64 callers behind a flood each has its own vector or DEADLINE_EXCEEDED, long before the flood ends (P12)."""
    dice = random.Random(9)
    caller = Caller(process.target, embedder.id)
    bulk = [
        asyncio.ensure_future(caller.embed(*texts_of(dice, 256, sentences=16), kind=PASSAGE, timeout_s=110))
        for _ in range(3)
    ]

    async def waiting(kind: str) -> float:
        return total(await asyncio.to_thread(metrics, process.http), "embed_waiting_texts", kind=kind)

    async def flooded() -> bool:
        return await waiting("passage") > 256

    await until(flooded)
    texts = texts_of(dice, 64)
    kinds = [dice.choice((QUERY, PASSAGE)) for _ in texts]
    calls = [
        caller.embed(text, kind=kind, timeout_s=dice.uniform(0.02, 0.6))
        for text, kind in zip(texts, kinds, strict=True)
    ]
    answers = await gather(calls)

    assert not any(one.done() for one in bulk)

    async def forgotten() -> bool:
        return await waiting("query") == 0

    await until(forgotten)
    for text, kind, answer in zip(texts, kinds, answers, strict=True):
        if isinstance(answer, grpc.aio.AioRpcError):
            assert answer.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            assert np.array_equal(answer[0], alone(embedder, text, query=kind == QUERY))
    for one in bulk:
        one.cancel()
    await caller.close()


async def test_overload_is_told_and_passes(embedder: Embedder) -> None:
    """A full queue is RESOURCE_EXHAUSTED with a pause and its limit; queries still come in; it recovers (P12)."""
    gated = Gated(embedder)
    text = "word " * 1000
    async with embedding(gated) as shared:
        waiting: set[asyncio.Future[Any]] = set()
        refusal = None
        for _ in range(limits.embed_item_tokens_max):
            call = asyncio.ensure_future(shared.embed(*[text] * 64, kind=PASSAGE))
            done, _ = await asyncio.wait([call], timeout=0.05)
            if done:
                refusal = await refused(call)
                break
            waiting.add(call)
        assert refusal is not None
        assert (refusal.status, refusal.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert refusal.metadata["limit"] == "embed_item_tokens_max"
        assert refusal.retry_ms
        assert total(shared.metrics(), "embed_refused_texts_total", kind="passage") >= 1
        query = asyncio.ensure_future(shared.embed("a query"))
        for one in waiting:
            one.cancel()
        gated.open.set()
        assert len(await query) == 1
        assert len(await shared.embed("again", kind=PASSAGE)) == 1


async def test_whoever_pauses_as_told_gets_through(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many more callers than there is room for, those that pause as they are told are all served (P12)."""
    monkeypatch.setattr(limits, "embed_item_tokens_max", 1000)
    texts = texts_of(random.Random(4), 24 * 8, sentences=1)
    refused_times = 0

    async def call(caller: Caller, own: list[str]) -> None:
        nonlocal refused_times
        while True:
            try:
                vectors = await caller.embed(*own, kind=PASSAGE)
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
                assert (refusal.reason, refusal.metadata["limit"]) == ("OVERLOADED", "embed_item_tokens_max")
                assert refusal.retry_ms is not None
                assert limits.embed_pause_ms <= refusal.retry_ms <= limits.embed_pause_longest_ms
                refused_times += 1
                await asyncio.sleep(refusal.retry_ms / 1000)
                continue
            for text, vector in zip(own, vectors, strict=True):
                assert np.array_equal(vector, alone(embedder, text, query=False))
            return

    async with embedding(embedder) as shared:
        await asyncio.gather(*(call(shared, texts[8 * number : 8 * (number + 1)]) for number in range(24)))
        assert total(shared.metrics(), "embed_refused_texts_total", kind="passage") == 8 * refused_times
    assert refused_times


async def test_a_failed_run_fails_its_callers(embedder: Embedder) -> None:
    """A run that fails is INTERNAL for those who had texts in it, and the next is well (P12)."""
    gated = Gated(embedder, opened=True)
    async with embedding(gated) as shared:
        gated.failing = RuntimeError("broken on purpose")
        for kind in (QUERY, PASSAGE):
            refusal = await refused(shared.ask(MARK, kind=kind))
            assert (refusal.status, refusal.reason) == ("INTERNAL", "INTERNAL")
            assert MARK not in refusal.text + shared.log.getvalue()
        gated.failing = None
        assert len(await shared.embed(MARK)) == 1


# --- the process -----------------------------------------------------------------------------------------------------


async def test_sigterm_under_load(embedder: Embedder) -> None:
    """An embedder that is told to stop answers what is at work or says UNAVAILABLE, and ends with 0 (P12)."""
    process = await asyncio.to_thread(EmbedderProcess().start)
    popen = process.popen
    assert popen is not None
    callers = [Caller(process.target, embedder.id) for _ in range(8)]
    texts = texts_of(random.Random(1), 32)
    expected = {text: alone(embedder, text) for text in texts}
    answered = 0

    async def call(number: int) -> str:
        nonlocal answered
        dice = random.Random(number)
        while True:
            text = dice.choice(texts)
            try:
                (vector,) = await callers[number % 8].embed(text, kind=dice.choice((QUERY, PASSAGE)))
            except grpc.aio.AioRpcError as error:
                return error.code().name
            assert np.array_equal(vector, expected[text])
            answered += 1

    calls = [asyncio.ensure_future(call(number)) for number in range(32)]

    async def warm() -> bool:
        return answered > 64

    await until(warm)
    await asyncio.to_thread(process.stop)
    assert popen.returncode == 0
    # What gRPC had taken in and not handed over when a machine out of breath stops it ends as CANCELLED.
    assert {"UNAVAILABLE"} <= set(await asyncio.gather(*calls)) <= {"UNAVAILABLE", "CANCELLED"}
    for caller in callers:
        await caller.close()
    process.close()


async def test_draining_ends_what_is_at_work(embedder: Embedder) -> None:
    """While an embedder drains, calls at work are answered and new ones are refused with DRAINING (P12)."""
    gated = Gated(embedder)
    async with embedding(gated) as shared:
        at_work = asyncio.ensure_future(shared.embed("at work"))

        async def busy() -> bool:
            return bool(gated.begun)

        await until(busy)
        stopping = asyncio.ensure_future(shared.server.stop())
        refusal = await refused(shared.ask("late"))
        assert (refusal.status, refusal.reason) == ("UNAVAILABLE", "DRAINING")
        assert refusal.retry_ms
        gated.open.set()
        assert np.array_equal((await at_work)[0], alone(embedder, "at work"))
        await stopping


async def test_what_cannot_end_in_the_drain_is_refused(embedder: Embedder) -> None:
    """What no run has begun for when the drain nears its end is UNAVAILABLE with DRAINING, not cancelled (P12)."""
    gated = Gated(embedder)
    async with embedding(gated, drain_ms=1000) as shared:
        calls = [asyncio.ensure_future(gather([shared.ask(str(number), kind=PASSAGE)])) for number in range(8)]

        async def there() -> bool:
            return total(shared.metrics(), "embed_waiting_texts") == 7

        await until(there)
        stopping = asyncio.ensure_future(shared.server.stop())
        refusals = [refusal_of((await call)[0]) for call in calls]
        assert sum((one.status, one.reason) == ("UNAVAILABLE", "DRAINING") for one in refusals) >= 7, "all but the run"
        gated.open.set()
        await stopping


async def test_health_tells_the_start(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the model is loaded the probes say alive, and neither started nor ready (P12)."""
    loaded = threading.Event()

    def load(*_: Any) -> list[Embedder]:
        assert loaded.wait(30)
        return [embedder]

    monkeypatch.setattr(embed_server, "loaded_by", load)
    server = EmbedServer(Config(listen=("127.0.0.1:0",), http="127.0.0.1:0", models_dir=str(MODELS), log_level="error"))
    starting = asyncio.ensure_future(server.__aenter__())

    async def asked() -> bool:
        return bool(server.http_port)

    await until(asked)
    pages = {"/startupz": 503, "/readyz": 503, "/livez": 200}
    assert {path: (await asyncio.to_thread(get, server.http_address, path))[0] for path in pages} == pages
    assert server.ports == []
    loaded.set()
    await starting
    for path in pages:
        assert (await asyncio.to_thread(get, server.http_address, path))[0] == 200
    await server.stop()


async def test_a_device_that_failed_ends_the_process(embedder: Embedder) -> None:
    """When the device fails for good, calls are UNAVAILABLE with a pause, and liveness asks for a restart (P12)."""
    gated = Gated(embedder, opened=True)
    async with embedding(gated) as shared:
        assert await asyncio.to_thread(get, shared.server.http_address, "/livez") == (200, "ok\n")
        gated.failing, gated.broken = EmbedderUnavailable("the GPU failed"), True
        refusal = await refused(shared.ask("x"))
        assert (refusal.status, refusal.reason) == ("UNAVAILABLE", "EMBEDDER_UNAVAILABLE")
        assert refusal.retry_ms
        for path in ("/livez", "/readyz"):
            assert (await asyncio.to_thread(get, shared.server.http_address, path))[0] == 503


async def test_health_by_grpc(shared: Local) -> None:
    """A stock health check finds the service serving, until it stops (P12)."""
    stub = health_pb2_grpc.HealthStub(shared.channel)
    for name in ("", *SERVICES):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert (await refused(stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=20))).status == "NOT_FOUND"


async def test_an_embedder_without_a_model_does_not_start() -> None:
    """`--embedder none` and a model that is not there are told in one line, with exit code 2 or 1 (P12)."""
    for flags, words in (
        (("--embedder", "none"), "CONFIG_INVALID in embedder"),
        (("--embedder", "nowhere"), "MODEL_INVALID"),
        (("--embedder-before", f"{MODEL}/int4"), "CONFIG_INVALID in embedder_before"),
    ):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "sidecar", "embed", "--http", "", "--listen", "127.0.0.1:0", *flags],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=EmbedderProcess.environment(None) | {"STANDPIPE_MODELS_DIR": str(MODELS)},
        )
        assert done.returncode in (1, 2)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


async def test_the_doctor_asks_every_replica(
    embedder: Embedder, other: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor has each replica embed, names those that are away or differ, and looks for no model here."""
    monkeypatch.setattr(limits, "examine_ms", 3000)
    async with embedding(embedder, other) as one, embedding(embedder) as another:
        addresses = [shared.server.addresses[0] for shared in (one, another)]
        away = f"127.0.0.1:{free_port()}"
        for asked, unfit in (
            ((addresses[0],), set()),
            ((*addresses, away), {away, "replicas"}),
        ):
            config = Config(embedder_address=asked, plaintext=True, record="sqlite:nowhere.db", models_dir="nowhere")
            areas = await doctor.examine(config)
            assert "model" not in areas
            found = {finding.check: finding for finding in areas["shared embedder"]}
            assert {check for check, finding in found.items() if finding.advice} == unfit
            assert embedder.id in found[addresses[0]].found
            assert other.id in found[addresses[0]].found
            assert embedder.provider in found[addresses[0]].found


async def test_every_setting_of_an_embedder_has_a_flag() -> None:
    """The help names what an embedder takes with what it means, and nothing of stores and keys."""
    command = [sys.executable, "-m", "sidecar", "embed", "--help"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    shown = " ".join(done.stdout.split())
    settings = {setting.name: setting.metadata["doc"] for setting in dataclasses.fields(Config)}
    taken = {name for name in settings if f"--{name.replace('_', '-')} " in shown}
    assert {"listen", "http", "models_dir", "embedder", "embedder_before", "device", "drain_ms"} <= taken
    assert not taken & {"record", "hot", "tenant", "encryption_keys_file", "plaintext", "embedder_address", "project"}
    assert all(settings[name].split(";")[0].split(":")[0] in shown for name in taken)


async def test_an_embedder_loads_no_driver(process: EmbedderProcess) -> None:
    """Its process loads no store, no tokenizer of a language model and no cipher: what is not there cannot fail."""
    assert process.popen is not None
    loaded = {Path(one.path).name for one in psutil.Process(process.popen.pid).memory_maps()}
    assert any("onnxruntime" in name for name in loaded)
    assert not [
        name for name in loaded if re.search(r"sqlite|psycopg|libpq|tiktoken|hiredis|cryptography|Stemmer", name)
    ]


async def test_the_process_needs_no_store(process: EmbedderProcess) -> None:
    """It runs without keys and a record store, leaves nothing on disk, and listens with mode 0660 (P8)."""
    assert {path.name for path in process.directory.iterdir()} == {"log", "socket"}
    assert process.socket.stat().st_mode & 0o777 == 0o660
    assert '"started"' in process.tail()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_peace(number: int) -> None:
    """A signal ends an idle embedder with exit code 0 and two lines in its log."""
    with EmbedderProcess() as process:
        popen = process.popen
        assert popen is not None
        popen.send_signal(number)
        assert popen.wait(30) == 0
        events = [line.partition('"event": "')[2].partition('"')[0] for line in process.tail().splitlines()]
        assert events == ["started", "draining", "stopped"]
        process._buried()


async def test_every_metric_of_an_embedder_moves(embedder: Embedder) -> None:
    """What is embedded, waits, is refused and is dropped is counted, by kind (P12)."""
    gated = Gated(embedder)
    async with embedding(gated) as shared:
        calls = [asyncio.ensure_future(shared.embed("first"))]

        async def at_the_gate() -> bool:
            return bool(gated.begun)

        await until(at_the_gate)
        calls += [asyncio.ensure_future(shared.embed("three words here", str(number))) for number in range(3)]
        calls += [asyncio.ensure_future(shared.embed("and more", str(number), kind=PASSAGE)) for number in range(3)]

        async def waiting() -> bool:
            found = await asyncio.to_thread(shared.metrics)
            return all(total(found, "embed_waiting_texts", kind=kind) == 6 for kind in ("query", "passage"))

        await until(waiting)
        found = shared.metrics()
        for kind in ("query", "passage"):
            assert total(found, "embed_waiting_tokens", kind=kind) > total(found, "embed_waiting_texts", kind=kind)
        calls[-1].cancel()

        async def gone() -> bool:
            found = await asyncio.to_thread(shared.metrics)
            return total(found, "calls_total", method="Embed", status="CANCELLED") == 1

        await until(gone)
        gated.open.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*calls, return_exceptions=True)
        await refused(shared.ask("x", model_id="nobody"))
        await shared.models()
        found = shared.metrics()
        for kind in ("query", "passage"):
            assert total(found, "embedded_texts_total", kind=kind) >= 4
            assert total(found, "embedded_tokens_total", kind=kind) > total(found, "embedded_texts_total", kind=kind)
            assert total(found, "embed_run_seconds_count", kind=kind) > 0
            assert total(found, "embed_fill_share_count", kind=kind) > 0
            assert total(found, "embed_waiting_texts", kind=kind) == 0
        assert total(found, "embed_dropped_texts_total", kind="passage") == 2
        assert total(found, "calls_total", method="Embed", status="OK") == 6
        assert total(found, "calls_total", method="Embed", reason="MODEL_NOT_SERVED") == 1
        assert total(found, "calls_total", method="ListModels", status="OK") == 1
        assert total(found, "build_info", record="none", hot="none", provider=embedder.provider) == 1


async def test_no_content_in_its_logs_and_metrics(embedder: Embedder) -> None:
    """Nothing that is embedded stands in a log or a metric (P8)."""
    async with embedding(embedder) as shared:
        for kind in (QUERY, PASSAGE):
            await shared.embed(MARK, MARK * 20, kind=kind)
            await refused(shared.ask(MARK, kind=kind, model_id=MARK))
            await refused(shared.ask(MARK * 10_000, kind=kind))
        said = shared.log.getvalue() + (await asyncio.to_thread(get, shared.server.http_address, "/metrics"))[1]
    assert "started" in said
    assert MARK not in said
