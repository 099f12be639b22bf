"""The shared embedder from its caller's side: against real gRPC servers that answer as a test tells them (P12)."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sidecar import limits, remote
from sidecar.embedding import Embedding, Vector
from sidecar.errors import (
    ConfigInvalid,
    DeadlineExceeded,
    Draining,
    EmbedderUnavailable,
    Internal,
    LimitExceeded,
    ModelNotServed,
    Overloaded,
    StandpipeError,
)
from sidecar.remote import RemoteEmbedding, SharedEmbedder
from sidecar.telemetry import Log, Telemetry
from standpipe.v1 import embedding_pb2
from tests.certificates import Certificates
from tests.replica import DIMENSIONS, ID, OTHER_ID, PASSAGE, QUERY, Replica, right, vector_of
from tests.servers import directory


class Local(Embedding):
    """An embedder in this process, to fall back to."""

    def __init__(self, model_id: str) -> None:
        self.id, self.dimensions = model_id, DIMENSIONS
        self.precision, self.provider, self.tokens_max = "int8", "CPUExecutionProvider", 256
        self.seen: list[str] = []

    async def embed_query(self, text: str, *, deadline_s: float) -> Vector:
        """Embed."""
        self.seen.append(text)
        return vector_of(text, QUERY)

    async def embed_items(self, texts: Any, *, deadline_s: float = math.inf) -> list[Vector]:
        """Embed."""
        self.seen += texts
        return [vector_of(text, PASSAGE) for text in texts]

    async def close(self) -> None:
        """Do nothing."""


class Ends:
    """Replicas, and shared embeddings of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.AsyncExitStack()
        self.log = io.StringIO()
        self.telemetry = Telemetry(Log(self.log))

    async def replica(self, *, start: bool = True) -> Replica:
        """Make a replica."""
        made = Replica(self._directory / f"{len(list(self._directory.iterdir()))}.sock")
        (self._directory / f"{made.address}.made".replace("/", "_")).touch()
        self._stack.push_async_callback(made.stop)
        if start:
            await made.start()
        return made

    async def shared(self, *replicas: Replica, fallback: Embedding | None = None) -> SharedEmbedder:
        """Make a shared embedder that has looked at all replicas which run."""
        shared = SharedEmbedder([one.address for one in replicas], self.telemetry, fallback=fallback)
        await self._stack.enter_async_context(shared)
        await until(lambda: all(one.listed or one._server is None for one in replicas))
        running = [one for one in replicas if one._server is not None]
        await until(lambda: len([one for one in shared._replicas if one.models is not None]) == len(running))
        return shared

    async def one(self, *replicas: Replica) -> RemoteEmbedding:
        """Return the only model of them."""
        (model,) = (await self.shared(*replicas)).models()
        return model

    def counted(self, name: str, **labels: str) -> float:
        """Return a metric."""
        value = self.telemetry.registry.get_sample_value(f"standpipe_{name}", labels)
        return value or 0.0

    async def close(self) -> None:
        """End all."""
        await self._stack.aclose()


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    """Both ends; a socket's path must be short, and so it is not pytest's directory."""
    made = Ends(directory())
    yield made
    await made.close()


async def until(true: Callable[[], bool]) -> None:
    """Poll until something is true."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def failure(work: Awaitable[Any]) -> StandpipeError:
    """Return what a call fails with."""
    with pytest.raises(StandpipeError) as caught:
        await work
    return caught.value


async def saved_up(ends: Ends, *replicas: Replica) -> RemoteEmbedding:
    """Return the only model of replicas, after so many quick queries that two may be sent twice."""
    model = await ends.one(*replicas)
    model._shared._hedging.after_s = 10.0
    for number in range(2 * 100 // limits.embed_hedge_percent_max + 1):
        await model.embed_query(f"before {number}", deadline_s=10)
    model._shared._hedging.after_s = 0.001
    return model


def same(found: Any, text: str, kind: int = QUERY) -> bool:
    """Tell whether a vector is the text's."""
    return bytes(np.ascontiguousarray(found, "<f4").data) == vector_of(text, kind).tobytes()


# --- what is asked, and what comes back


async def test_texts_have_their_vectors(ends: Ends) -> None:
    """A query's and passages' vectors are those of the embedder, in order and read-only, and the model is as listed."""
    model = await ends.one(await ends.replica())
    assert (model.id, model.dimensions, model.precision) == (ID, DIMENSIONS, "int8")
    assert (model.provider, model.tokens_max, model.remote) == ("CPUExecutionProvider", 256, True)
    vector = await model.embed_query("one", deadline_s=10)
    assert same(vector, "one")
    texts = [f"passage {number}" for number in range(40)]
    passages = await model.embed_items(texts)
    assert [same(found, text, PASSAGE) for found, text in zip(passages, texts, strict=True)] == [True] * 40
    assert not vector.flags.writeable
    assert not passages[0].flags.writeable
    assert await model.embed_items([]) == []


async def test_equal_queries_are_asked_once(ends: Ends) -> None:
    """Equal queries in flight share a call, and what was embedded is not asked again; passages always are."""
    replica = await ends.replica()
    model = await ends.one(replica)
    found = await asyncio.gather(*(model.embed_query("one", deadline_s=10) for _ in range(20)))
    assert all(same(one, "one") for one in found)
    await model.embed_query("one", deadline_s=10)
    assert len(replica.asked) == 1
    for _ in range(2):
        await model.embed_items(["one"])
    assert len(replica.asked) == 3


async def test_calls_are_cut_to_what_an_embedder_takes(ends: Ends) -> None:
    """At most embed_call_texts_max texts and half of wire_bytes go into a call, and of a text embed_text_chars_max."""
    replica = await ends.replica()
    model = await ends.one(replica)
    many = [f"{number}" for number in range(2 * limits.embed_call_texts_max + 1)]
    found = await model.embed_items(many)
    assert all(same(one, text, PASSAGE) for one, text in zip(found, many, strict=True))
    assert [len(one.texts) for one in replica.asked] == [limits.embed_call_texts_max] * 2 + [1]
    replica.asked.clear()
    long = [f"{number}" + "\U0001f600" * 2 * limits.embed_text_chars_max for number in range(100)]
    found = await model.embed_items(long)
    assert all(same(one, text[: limits.embed_text_chars_max], PASSAGE) for one, text in zip(found, long, strict=True))
    assert len(replica.asked) > 1
    for request in replica.asked:
        assert request.ByteSize() < limits.wire_bytes
        assert all(len(text.encode()) <= limits.embed_text_bytes for text in request.texts)


async def test_a_text_that_no_message_can_hold_is_embedded_as_it_is_here(ends: Ends) -> None:
    """A lone surrogate is read as `?`, as by the embedder itself."""
    model = await ends.one(await ends.replica())
    assert same(await model.embed_query("what \ud800 is", deadline_s=10), "what ? is")


def _fewer(request: embedding_pb2.EmbedRequest) -> bytes:
    answer = right(request)
    return embedding_pb2.EmbedResponse(
        model_id=ID, dimensions=DIMENSIONS, vectors=answer.vectors[: -4 * DIMENSIONS]
    ).SerializeToString()


def _more(request: embedding_pb2.EmbedRequest) -> bytes:
    answer = right(request)
    answer.vectors += bytes(4)
    return answer.SerializeToString()


def _other_size(request: embedding_pb2.EmbedRequest) -> bytes:
    answer = right(request)
    answer.dimensions = 2 * DIMENSIONS
    return answer.SerializeToString()


def _not_a_number(request: embedding_pb2.EmbedRequest) -> bytes:
    answer = right(request)
    answer.vectors = np.full(len(request.texts) * DIMENSIONS, np.nan, "<f4").tobytes()
    return answer.SerializeToString()


def _other_model(request: embedding_pb2.EmbedRequest) -> bytes:
    answer = right(request)
    answer.model_id = OTHER_ID
    return answer.SerializeToString()


WRONG = [_fewer, _more, _other_size, _not_a_number, _other_model, lambda _: b"\xff\xff\xff", lambda _: b""]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_answer_is_never_a_vector(ends: Ends, wrong: Callable[..., bytes]) -> None:
    """What is not of the model, count, size and finite is refused as the embedder's fault, and another is asked."""
    bad, good = await ends.replica(), await ends.replica()
    bad.embed = wrong
    alone = await ends.one(bad)
    assert isinstance(await failure(alone.embed_query("one", deadline_s=10)), EmbedderUnavailable)
    assert isinstance(await failure(alone.embed_items(["one", "two"])), EmbedderUnavailable)
    both = await ends.one(bad, good)
    for number in range(20):
        assert same(await both.embed_query(f"{number}", deadline_s=10), f"{number}")
    await until(lambda: ends.counted("embedder_breaker_open", address=bad.address) == 1)
    assert ends.counted("embedder_calls_total", address=bad.address, outcome="wrong") >= limits.breaker_failures_max
    assert "answered wrongly" in ends.log.getvalue()
    assert "traceback" not in ends.log.getvalue().lower()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Internal("a defect"), Internal),
        (LimitExceeded("too long", limit="x", maximum=1, actual=2), Internal),
        (DeadlineExceeded("late", phase="embed"), DeadlineExceeded),
        (EmbedderUnavailable("the device failed"), EmbedderUnavailable),
        (Draining("on its way out"), EmbedderUnavailable),
        (ModelNotServed("not here", known=OTHER_ID), EmbedderUnavailable),
    ],
)
async def test_an_error_means_here_what_it_means_there(
    ends: Ends, error: StandpipeError, kind: type[StandpipeError]
) -> None:
    """What the text is to blame for is Internal; what another try may mend says when."""
    replica = await ends.replica()
    model = await ends.one(replica)
    replica.error = error
    found = await failure(model.embed_items(["one"], deadline_s=10))
    assert type(found) is kind
    assert (found.retry_after_ms is not None) == (kind is EmbedderUnavailable)
    assert len(replica.asked) == 1


async def test_another_service_at_the_address_is_no_embedder(ends: Ends) -> None:
    """Where the service is not served, nothing is listed, nothing is asked, and that is all."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    shared = SharedEmbedder([f"127.0.0.1:{port}"], ends.telemetry)
    async with shared:
        await until(lambda: ends.counted("embedder_breaker_open", address=f"127.0.0.1:{port}") == 1)
        assert shared.models() == []
        assert not shared.listed
    await server.stop(None)


# --- deadlines and callers that leave


async def test_a_deadline_holds_while_the_embedder_says_nothing(ends: Ends) -> None:
    """A call of 20 ms ends by then, and the embedder is told."""
    replica = await ends.replica()
    model = await ends.one(replica)
    replica.hang()
    assert isinstance(await failure(model.embed_query("one", deadline_s=0.02)), DeadlineExceeded)
    assert isinstance(await failure(model.embed_items(["one"], deadline_s=0.02)), DeadlineExceeded)
    await until(lambda: replica.cancelled == len(replica.asked) > 0)
    assert isinstance(await failure(model.embed_items(["two"], deadline_s=0)), DeadlineExceeded)


async def test_bulk_work_without_a_deadline_has_one(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that would wait for ever is told after embed_call_ms that nobody answers, not that it was late."""
    replica = await ends.replica()
    model = await ends.one(replica)
    replica.hang()
    monkeypatch.setattr(limits, "embed_call_ms", 30)
    assert isinstance(await failure(model.embed_items(["one"])), EmbedderUnavailable)


async def test_a_caller_that_leaves_ends_its_call(ends: Ends) -> None:
    """The embedder sees the call end, and can drop the text."""
    replica = await ends.replica()
    model = await ends.one(replica)
    replica.hang()
    for work in (model.embed_query("one", deadline_s=10), model.embed_items(["one"])):
        task = asyncio.create_task(work)
        await replica.has_begun()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: replica.cancelled == 2)


async def test_closing_ends_those_who_wait(ends: Ends) -> None:
    """Whoever waits gets Draining, and so does whoever comes."""
    replica = await ends.replica()
    shared = await ends.shared(replica)
    (model,) = shared.models()
    replica.hang()
    waiting = [
        asyncio.create_task(work) for work in (model.embed_query("one", deadline_s=60), model.embed_items(["one"]))
    ]
    for _ in waiting:
        await replica.has_begun()
    await shared.close()
    for task in waiting:
        assert isinstance(await failure(task), Draining)
    assert isinstance(await failure(model.embed_query("two", deadline_s=1)), Draining)
    assert isinstance(await failure(model.embed_items(["two"])), Draining)
    await shared.close()


# --- an embedder that is away


async def test_an_embedder_may_come_later(ends: Ends) -> None:
    """The start waits for nobody; the models are there when the embedder is, and whoever waits is told."""
    replica = await ends.replica(start=False)
    shared = await ends.shared(replica)
    assert shared.models() == []
    assert not shared.changed.is_set()
    await replica.start()
    async with asyncio.timeout(20):
        await shared.changed.wait()
    (model,) = shared.models()
    assert same(await model.embed_query("one", deadline_s=10), "one")


async def test_an_embedder_that_dies_is_used_again_when_it_is_back(ends: Ends) -> None:
    """While it is away calls fail at once, as EmbedderUnavailable; the model stays the same object, and then works."""
    replica = await ends.replica()
    shared = await ends.shared(replica)
    (model,) = shared.models()
    await replica.stop()
    for number in range(20):
        assert isinstance(await failure(model.embed_query(f"{number}", deadline_s=10)), EmbedderUnavailable)
    assert shared.models() == [model]
    await replica.start()
    await until(lambda: shared._replicas[0].usable)
    assert same(await model.embed_query("one", deadline_s=10), "one")
    told = [json.loads(line)["event"] for line in ends.log.getvalue().splitlines()]
    assert told == [f"a shared embedder {what}" for what in ("serves", "is left alone")]


async def test_an_embedder_that_hangs_is_left_alone(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some silence calls fail without being sent, and no caller ever waits for a probe."""
    monkeypatch.setattr(limits, "embedder_look_ms", 50)
    replica = await ends.replica()
    shared = await ends.shared(replica)
    (model,) = shared.models()
    replica.hang()
    began = time.monotonic()
    while shared._replicas[0].usable:
        await failure(model.embed_query(f"{time.monotonic()}", deadline_s=0.02))
    # One that is slow once is not left alone.
    assert time.monotonic() - began >= limits.breaker_failures_max * limits.embed_silence_ms / 1000
    sent = len(replica.asked)
    for number in range(50):
        error = await failure(model.embed_query(f"more {number}", deadline_s=10))
        assert isinstance(error, EmbedderUnavailable)
        assert error.retry_after_ms
    assert len(replica.asked) == sent
    # Its models it lists all the while: but as long as it embeds nothing it stays alone.
    await until(lambda: replica.probed >= 3)
    assert not shared._replicas[0].usable
    assert len(replica.asked) == sent
    replica.open.set()
    await until(lambda: shared._replicas[0].usable)
    assert ends.counted("embedder_breaker_open", address=replica.address) == 0
    assert same(await model.embed_query("one", deadline_s=10), "one")


async def test_callers_in_a_hurry_are_no_failure(ends: Ends) -> None:
    """However many calls end before their answer, an embedder that answers others meanwhile is used on."""
    replica = await ends.replica()
    shared = await ends.shared(replica)
    (model,) = shared.models()
    for number in range(200):
        await failure(model.embed_query(f"{number}", deadline_s=1e-6))
        if number % 10 == 0:
            await model.embed_query(f"answered {number}", deadline_s=10)
    assert shared._replicas[0].usable


# --- several replicas


async def test_calls_go_where_the_fewest_are(ends: Ends) -> None:
    """With one replica held up all else goes to the others."""
    slow, quick = await ends.replica(), await ends.replica()
    model = await ends.one(slow, quick)
    slow.hang()
    held = [asyncio.create_task(model.embed_items([f"held {number}"])) for number in range(4)]
    await until(lambda: len(slow.asked) + len(quick.asked) == 4)
    before = len(slow.asked)
    assert 1 <= before <= 2
    for number in range(20):
        await model.embed_items([f"{number}"])
    assert len(slow.asked) == before
    slow.open.set()
    await asyncio.gather(*held)


async def test_a_slow_replica_is_hedged(ends: Ends) -> None:
    """A query that takes long goes to another replica too: whose answer comes first counts, the other call ends."""
    slow, quick = await ends.replica(), await ends.replica()
    model = await saved_up(ends, slow, quick)
    won, asked, number = ends.counted("embedder_hedges_won_total"), len(slow.asked), 0
    slow.hang()
    model._shared._hedging.after_s = 0.05
    while len(slow.asked) == asked:  # one of the next two, if the other answers in time
        number += 1
        assert same(await model.embed_query(f"{number}", deadline_s=10), f"{number}")
    await until(lambda: slow.cancelled == 1)
    assert ends.counted("embedder_hedges_won_total") == won + 1


async def test_a_hedge_that_loses_is_ended(ends: Ends) -> None:
    """If the first replica answers after all, the second call ends, and its vector is the first's."""
    one, other = await ends.replica(), await ends.replica()
    model = await saved_up(ends, one, other)
    won = ends.counted("embedder_hedges_won_total")
    one.hang()
    other.hang()
    model._shared._hedging.after_s = 0.1
    seen = len(one.asked), len(other.asked)
    task = asyncio.create_task(model.embed_query("one", deadline_s=10))
    await until(lambda: seen != (len(one.asked), len(other.asked)))
    first, second = (one, other) if len(one.asked) > seen[0] else (other, one)
    await until(lambda: second.asked[-1].texts == ["one"])
    first.open.set()
    assert same(await task, "one")
    await until(lambda: second.cancelled == 1)
    assert ends.counted("embedder_hedges_won_total") == won


async def test_second_calls_are_few(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred queries at most embed_hedge_percent_max are sent twice, however slow all are; passages never."""
    replicas = [await ends.replica() for _ in range(2)]
    model = await ends.one(*replicas)
    for replica in replicas:
        replica.delay_s = 0.05
    monkeypatch.setattr(remote._Hedging, "took", lambda *_: None)  # so that each is slower than most are
    model._shared._hedging.after_s = 0.001
    for start in range(0, 300, 50):
        texts = [f"{number}" for number in range(start, start + 50)]
        found = await asyncio.gather(*(model.embed_query(text, deadline_s=30) for text in texts))
        assert all(same(one, text) for one, text in zip(found, texts, strict=True))
    sent, hedges = sum(len(one.asked) for one in replicas), ends.counted("embedder_hedges_total")
    assert 10 <= hedges <= 300 * limits.embed_hedge_percent_max / 100
    assert 300 < sent <= 300 + hedges  # one may end before it is on its way
    await asyncio.gather(*(model.embed_items([f"{number}"]) for number in range(50)))
    assert sum(len(one.asked) for one in replicas) == sent + 50


async def test_the_wait_for_a_second_call_follows_the_times(ends: Ends) -> None:
    """It is what all but one in twenty took lately, and at least embed_hedge_ms."""
    hedging = remote._Hedging(limits.embed_hedge_percent_max)
    assert hedging.after_s == limits.embed_hedge_ms / 1000
    for number in range(128):
        hedging.took(QUERY, number / 1000)
        hedging.took(PASSAGE, 100.0)
    assert 0.115 <= hedging.after_s <= 0.125
    for _ in range(128):
        hedging.took(QUERY, 0.0001)
    assert hedging.after_s == limits.embed_hedge_ms / 1000


async def test_overload_is_passed_on_and_not_hedged(ends: Ends) -> None:
    """Overloaded has the limit and the pause that the embedder named, no other replica is asked, and nothing is sent
    twice for as long.
    """
    one, other = await ends.replica(), await ends.replica()
    model = await saved_up(ends, one, other)
    model._shared._hedging.after_s = 10.0
    full = Overloaded("full", limit="embed_items_max")
    full.retry_after_ms = 60_000
    one.error = other.error = full
    before, hedges = len(one.asked) + len(other.asked), ends.counted("embedder_hedges_total")
    error = await failure(model.embed_query("one", deadline_s=10))
    assert isinstance(error, Overloaded)
    assert (error.metadata, error.retry_after_ms) == ({"limit": "embed_items_max"}, 60_000)
    assert len(one.asked) + len(other.asked) == before + 1
    one.error = other.error = None
    model._shared._hedging.after_s = 0.001
    one.hang()
    other.hang()
    assert isinstance(await failure(model.embed_query("two", deadline_s=0.1)), DeadlineExceeded)
    assert len(one.asked) + len(other.asked) == before + 2
    assert ends.counted("embedder_hedges_total") == hedges


async def test_no_caller_notices_a_replica_that_dies(ends: Ends) -> None:
    """One of two is killed and started again under load: every caller gets its vector."""
    one, other = await ends.replica(), await ends.replica()
    model = await ends.one(one, other)
    done = False
    answered = 0

    async def load(caller: int) -> None:
        nonlocal answered
        number = 0
        while not done:
            number += 1
            text = f"{caller} {number}"
            if number % 3:
                assert same(await model.embed_query(text, deadline_s=10), text)
            else:
                assert same((await model.embed_items([text]))[0], text, PASSAGE)
            answered += 1

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for caller in range(8):
            group.create_task(load(caller))
        for _ in range(3):
            before = answered
            await until(lambda before=before: answered > before + 50)
            await one.stop()
            before = answered
            await until(lambda before=before: answered > before + 50)
            asked = len(one.asked)
            await one.start()
            await until(lambda asked=asked: len(one.asked) > asked)
        done = True


async def test_a_model_that_one_replica_no_longer_has_is_asked_of_the_next(ends: Ends) -> None:
    """During a rolling update replicas serve different lists: a text goes where its model is, and the lists are read
    anew.
    """
    old, new = await ends.replica(), await ends.replica()
    model = await ends.one(old, new)
    old.models, old.error = [OTHER_ID], ModelNotServed("moved on", known=OTHER_ID)
    listed = old.listed
    for number in range(10):
        assert same((await model.embed_items([f"{number}"]))[0], f"{number}", PASSAGE)
    assert len([one for one in old.asked if one.kind == PASSAGE]) == 1
    await until(lambda: old.listed > listed)
    await until(lambda: len(model._shared.models()) == 2)


async def test_lists_that_differ_agree_on_an_order(ends: Ends) -> None:
    """A model that any replica puts behind another stands behind it, whoever is asked first."""
    before, between = await ends.replica(), await ends.replica()
    before.models, between.models = [ID], [OTHER_ID, ID]
    for order in ((before, between), (between, before)):
        shared = await ends.shared(*order)
        await until(lambda shared=shared: [one.id for one in shared.models()] == [OTHER_ID, ID])
    kept = shared.models()[0]
    before.models = between.models = [OTHER_ID]
    for replica in shared._replicas:
        replica._lost.set()
    await until(lambda: shared.models() == [kept])
    assert shared.changed.is_set()


async def test_models_are_listed_again_where_nothing_happens(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each embedder_list_s a replica is asked what it serves now."""
    monkeypatch.setattr(limits, "embedder_list_s", 0.05)
    replica = await ends.replica()
    shared = await ends.shared(replica)
    replica.models = [OTHER_ID, ID]
    await until(lambda: [one.id for one in shared.models()] == [OTHER_ID, ID])


async def test_a_list_that_makes_no_sense_is_refused(ends: Ends) -> None:
    """No empty list is taken, none of more than embedder_models_max models or of an id beyond embed_model_chars_max."""
    many = [f"m{number}/int8" for number in range(limits.embedder_models_max + 1)]
    for models in ([], many, ["x" * (limits.embed_model_chars_max + 1)]):
        replica = await ends.replica(start=False)
        replica.models = models
        shared = await ends.shared(replica)
        await replica.start()
        await until(lambda replica=replica: replica.listed > 2)
        assert shared.models() == []


# --- the fallback


async def test_the_same_model_here_stands_in(ends: Ends) -> None:
    """While the shared embedder is away the local model embeds, if it is of the same id."""
    replica, local = await ends.replica(), Local(ID)
    shared = await ends.shared(replica, fallback=local)
    (model,) = shared.models()
    assert same(await model.embed_query("one", deadline_s=10), "one")
    assert local.seen == []
    await replica.stop()
    assert same(await model.embed_query("two", deadline_s=10), "two")
    assert same((await model.embed_items(["three"]))[0], "three", PASSAGE)
    assert local.seen == ["two", "three"]
    assert ends.counted("embedder_fallbacks_total") == 2


async def test_another_model_here_never_stands_in(ends: Ends) -> None:
    """A fallback of another id is named in the log once, and answers nothing."""
    replica, local = await ends.replica(), Local(OTHER_ID)
    shared = await ends.shared(replica, fallback=local)
    await until(lambda: shared.listed)
    (model,) = shared.models()
    assert model.id == ID
    await replica.stop()
    assert isinstance(await failure(model.embed_query("two", deadline_s=10)), EmbedderUnavailable)
    assert isinstance(await failure(model.embed_items(["two"])), EmbedderUnavailable)
    assert local.seen == []
    told = [json.loads(line) for line in ends.log.getvalue().splitlines()]
    assert len([one for one in told if one.get("fallback") == OTHER_ID]) == 1


async def test_a_fallback_is_there_before_the_shared_embedder(ends: Ends) -> None:
    """A process that starts while the embedder is away ranks by its fallback, and embeds nothing to be stored, since
    nobody knows yet whether that is the model.
    """
    replica, local = await ends.replica(start=False), Local(ID)
    shared = await ends.shared(replica, fallback=local)
    (model,) = shared.models()
    assert same(await model.embed_query("one", deadline_s=10), "one")
    assert isinstance(await failure(model.embed_items(["one"])), EmbedderUnavailable)
    assert local.seen == ["one"]
    await replica.start()
    async with asyncio.timeout(20):
        await shared.changed.wait()
    assert shared.models() == [model]
    assert same((await model.embed_items(["one"]))[0], "one", PASSAGE)
    assert local.seen == ["one"]


# --- the channel


def test_the_channel_is_ours() -> None:
    """Messages are bounded, no proxy of the environment is used, gRPC repeats nothing, and a dead peer is noticed."""
    options = dict(remote._OPTIONS)
    assert options["grpc.max_receive_message_length"] == options["grpc.max_send_message_length"] == limits.wire_bytes
    assert options["grpc.enable_http_proxy"] == options["grpc.enable_retries"] == 0
    assert options["grpc.keepalive_timeout_ms"] < options["grpc.keepalive_time_ms"] <= limits.embed_call_ms


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    """An authority that cannot be read is a mistake in the settings, and not an embedder that is away."""
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")
    for path in (nonsense, tmp_path / "missing.pem"):
        with pytest.raises(ConfigInvalid) as caught:
            SharedEmbedder(["127.0.0.1:1"], Telemetry(Log(io.StringIO())), ca_file=str(path))
        assert caught.value.field == "embedder_ca_file"


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    """What is shown to an embedder is read before anything is asked, and the setting at fault is named."""
    mine, other = (Certificates.make(tmp_path / name) for name in ("mine", "other"))
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for field, files in (
        ("embedder_cert_file", {"cert_file": mine.certificate, "key_file": other.key}),
        ("embedder_cert_file", {"cert_file": mine.key, "key_file": mine.key}),
        ("embedder_cert_file", {"cert_file": tmp_path / "missing", "key_file": mine.key}),
        ("embedder_key_file", {"cert_file": mine.certificate, "key_file": tmp_path / "missing"}),
        ("embedder_ca_file", {"ca_file": empty, "cert_file": mine.certificate, "key_file": mine.key}),
    ):
        named = {"ca_file": mine.authority, **files}
        with pytest.raises(ConfigInvalid) as caught:
            SharedEmbedder(
                ["127.0.0.1:1"], Telemetry(Log(io.StringIO())), **{name: str(path) for name, path in named.items()}
            )
        assert caught.value.field == field


async def test_a_proxy_of_the_environment_sees_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts go to the address that was configured."""
    seen = []

    async def proxy(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, address)
    model = await ends.one(await ends.replica())
    assert same(await model.embed_query("one", deadline_s=10), "one")
    assert seen == []
    server.close()
    await server.wait_closed()
