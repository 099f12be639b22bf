"""The queue before an embedder: a vector is its text's alone (P6), and whoever calls is answered in time (P12)."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sidecar import batching, limits
from sidecar.batching import EmbedQueue
from sidecar.embed import Embedder, Shape, Tokens
from sidecar.embedding import Flight, QueryCache, Vector
from sidecar.errors import (
    DeadlineExceeded,
    Draining,
    EmbedderUnavailable,
    Internal,
    LimitExceeded,
    Overloaded,
    StandpipeError,
)
from sidecar.telemetry import Telemetry
from tests.embedders import StandIn, text_of

TEXTS = ["a", "What did she say?", "the boiler was serviced " * 10, "東京都", "word " * 300, "", "x" * 500]


class Gated(StandIn):
    """An embedder whose runs wait for a gate, so that a test decides what is in flight."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.runs: list[list[str]] = []
        self.read: list[str] = []
        self.readers: set[str] = set()
        self.began = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    @property
    def seen(self) -> list[str]:
        """The texts that were run, in order."""
        return [text for run in self.runs for text in run]

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Note what is read, and where."""
        self.read += texts
        self.readers.add(threading.current_thread().name)
        return super().tokenise(texts)

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Answer once the gate lets the run through."""
        self.runs.append([text_of(text) for text in texts])
        self.began.release()
        assert self.gate.acquire(timeout=10)
        if "fail" in self.runs[-1]:
            raise RuntimeError("fail")
        if "broken" in self.runs[-1]:
            raise EmbedderUnavailable("the device is broken")
        return super().run(texts, shape)

    def vector(self, text: str) -> Vector:
        """Give one text a vector that is no number."""
        return super().vector(text) * np.float32(np.nan if text == "nan" else 1)

    async def has_begun(self) -> None:
        """Wait until one more run has begun."""
        assert await asyncio.to_thread(self.began.acquire, timeout=5)

    def open(self, runs: int = 100_000) -> None:
        """Let that many runs through."""
        self.gate.release(runs)


@pytest.fixture
def gated() -> Iterator[Gated]:
    """Make a gated embedder of one text a run, whose gate is open at the end."""
    embedder = Gated()
    yield embedder
    embedder.open()


@pytest.fixture
def padded() -> Iterator[Gated]:
    """Make a gated embedder of fixed shapes: 64 padded tokens a run."""
    embedder = Gated(run_tokens=64)
    yield embedder
    embedder.open()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


def bits(vector: Vector) -> bytes:
    """Show the bits of a vector, to compare without a tolerance."""
    return vector.tobytes()


def is_empty(queue: EmbedQueue) -> bool:
    """Tell whether nothing of any caller is left in a queue, by its counters and by what it holds."""
    lanes = (queue._queries, queue._passages)
    counted = all((lane.texts, lane.tokens) == (0, 0) for lane in lanes)
    held = any(lane._calls or any(lane._by_shape.values()) for lane in lanes) or queue._cache._flights
    return counted and not held


# --- one vector (P6) -------------------------------------------------------------------------------------------


async def test_the_queue_answers_as_the_embedder_does(embedder: Embedder) -> None:
    """P6: through the queue, among queries and items in flight, every vector has the bits of its text alone."""
    queue = EmbedQueue(embedder)
    bulk = asyncio.create_task(queue.embed_items(TEXTS))
    queries = await asyncio.gather(*(queue.embed_query(text, deadline_s=30) for text in TEXTS))
    items = await bulk
    await queue.close()
    for text, item, query in zip(TEXTS, items, queries, strict=True):
        assert bits(item) == bits(query) == bits(embedder.embed_one(text))
        assert not item.flags.writeable
        assert not query.flags.writeable


async def test_random_company_changes_no_bit(embedder: Embedder) -> None:
    """P6: 120 texts alone, and then in calls of random size, kind and order that are in flight together."""
    dice = random.Random(7)
    words = "the boiler locker seven code of was never there again why 東京 Ünal 42".split()
    texts = [" ".join(dice.choices(words, k=dice.randint(0, 30))) for _ in range(120)]
    alone = {text: bits(embedder.embed_one(text)) for text in texts}
    queue = EmbedQueue(embedder, cache_entries_max=1)

    async def ask(some: list[str]) -> None:
        if len(some) == 1:
            found = [await queue.embed_query(some[0], deadline_s=60)]
        else:
            found = list((await queue.embed(some, query=dice.random() < 0.3)).vectors)
        assert [bits(vector) for vector in found] == [alone[text] for text in some]

    await asyncio.gather(*(ask(dice.sample(texts, dice.choice((1, 1, 2, 5, 17)))) for _ in range(40)))
    await queue.close()


class Shaped(StandIn):
    """Gives a text a vector that depends on its tokens and on the shape of its run, as a GPU's kernels do."""

    def __init__(self) -> None:
        super().__init__(run_tokens=256)
        self.rows: list[int] = []

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Add the shape's mark to each row."""
        self.rows.append(len(texts))
        return super().run(texts, shape) + np.float32(shape.tokens + shape.rows / 1024)


CALLS = st.lists(
    st.tuples(st.booleans(), st.lists(st.text("ab", max_size=40), min_size=1, max_size=20)), min_size=1, max_size=12
)


@given(calls=CALLS)
@settings(max_examples=60)
def test_a_text_runs_in_its_own_shape_whatever_the_company(calls: list[tuple[bool, list[str]]]) -> None:
    """P6: of fixed shapes too a text has one vector as a query and one as a passage, alone and in company."""

    async def play() -> None:
        embedder = Shaped()
        queue = EmbedQueue(embedder)
        answers = await asyncio.gather(*(queue.embed(texts, query=query) for query, texts in calls))
        for (query, texts), answer in zip(calls, answers, strict=True):
            assert answer.tokens == sum(len(text) + 1 for text in texts)
            for text, vector in zip(texts, answer.vectors, strict=True):
                assert bits(vector) == bits(embedder.embed_one(text, query=query))
        assert is_empty(queue)
        await queue.close()

    asyncio.run(play())


async def test_prefixes_stand_before_texts() -> None:
    """Queries and passages have the prefix that the model says."""
    used = Gated(query_prefix="query: ", passage_prefix="passage: ")
    used.open()
    queue = EmbedQueue(used)
    await queue.embed_query("a", deadline_s=9)
    await queue.embed_items(["a"])
    await queue.embed(["b"], query=True)
    assert used.seen == ["query: a", "passage: a", "query: b"]
    await queue.close()


async def test_an_answer_tells_what_it_took(gated: Gated) -> None:
    """Times are from arrival to the first run, and from there to the last's end; nothing takes nothing."""
    queue = EmbedQueue(gated)
    first = asyncio.create_task(queue.embed(["ab", "c"], query=False))
    await gated.has_begun()
    second = asyncio.create_task(queue.embed(["d"], query=True))
    await asyncio.sleep(0.02)
    gated.open()
    one, other = await first, await second
    assert (one.tokens, other.tokens) == (5, 2)
    assert one.run_us >= 15_000
    assert one.queue_us >= 0
    assert other.queue_us >= 15_000
    nothing = await queue.embed([], query=False)
    assert (nothing.vectors.shape, nothing.tokens, nothing.queue_us, nothing.run_us) == ((0, 8), 0, 0, 0)
    assert await queue.embed_items([]) == []
    await queue.close()


# --- what runs next --------------------------------------------------------------------------------------------


async def test_queries_go_before_items(gated: Gated) -> None:
    """A query waits for the one run in hand, and the items of that call go on behind it, by turns with others."""
    queue = EmbedQueue(gated)
    items = asyncio.create_task(queue.embed_items(["i1", "i2", "i3"]))
    more = asyncio.create_task(queue.embed_items(["j1"]))
    await gated.has_begun()
    queries = [asyncio.create_task(queue.embed_query(text, deadline_s=9)) for text in ("q1", "q2")]
    await settle()
    assert (queue.queries_waiting, queue.items_waiting) == (2, 3)
    gated.open()
    await asyncio.gather(items, more, *queries)
    assert gated.seen == ["i1", "q1", "q2", "j1", "i2", "i3"]
    assert is_empty(queue)
    await queue.close()


async def test_a_batch_is_what_waits_in_one_shape(padded: Gated) -> None:
    """Nothing waits for a batch to fill: the first runs alone, and what came meanwhile fills the next."""
    queue = EmbedQueue(padded)
    first = asyncio.create_task(queue.embed_items(["first"]))
    await padded.has_begun()
    calls = [["a1", "a2", "long " * 5], ["b1"], ["c1", "c2", "c3"], ["d" * 30]]
    tasks = [asyncio.create_task(queue.embed_items(texts)) for texts in calls]
    queries = [asyncio.create_task(queue.embed_query(f"q{number}", deadline_s=9)) for number in range(10)]
    await settle()
    padded.open()
    await asyncio.gather(first, *tasks, *queries)
    assert (
        padded.runs
        == [
            ["first"],
            [f"q{number}" for number in range(8)],  # 32 padded tokens of 4
            ["q8", "q9"],
            ["a1", "a2", "b1", "c1", "c2", "c3"],  # 64 padded tokens of 4
            ["d" * 30, "long " * 5],
        ]
        or padded.runs[3:] == [["a1", "a2", "b1", "c1", "c2", "c3"], ["long " * 5, "d" * 30]]
    )
    await queue.close()


async def test_a_query_waits_for_one_run_of_passages(padded: Gated) -> None:
    """However many passages wait, each query that comes is in the very next run."""
    queue = EmbedQueue(padded)
    bulk = asyncio.create_task(queue.embed_items([f"{number:03}" for number in range(200)]))
    await padded.has_begun()
    for number in range(5):
        query = asyncio.create_task(queue.embed_query(f"q{number}", deadline_s=9))
        await settle()
        padded.open(1)
        await padded.has_begun()
        assert padded.runs[-1] == [f"q{number}"]
        padded.open(1)
        await query
        await padded.has_begun()
        assert len(padded.runs[-1]) == 16
    padded.open()
    assert len(await bulk) == 200
    await queue.close()


@pytest.mark.parametrize("run_tokens", [0, 64])
async def test_callers_take_turns(run_tokens: int) -> None:
    """A call of three texts is answered after a few runs though one of 4,000 stands before it, and one more behind."""
    embedder = Gated(run_tokens=run_tokens)
    queue = EmbedQueue(embedder)
    large = asyncio.create_task(queue.embed_items([f"large {number}" for number in range(4000)]))
    await embedder.has_begun()
    small = asyncio.create_task(queue.embed_items(["small 1", "small 2", "another shape, small 3"]))
    second = asyncio.create_task(queue.embed_items([f"second {number}" for number in range(1000)]))
    await settle()
    embedder.open(12)
    assert len(await small) == 3
    assert not large.done()
    assert not second.done()
    embedder.open()
    assert (len(await large), len(await second)) == (4000, 1000)
    assert sorted(embedder.seen) == sorted(set(embedder.seen)), "no text is run twice"
    assert len(embedder.seen) == 5003
    await queue.close()


async def test_a_run_is_shared_fairly(padded: Gated) -> None:
    """Callers who have more than a run holds have equal shares of it; one with less leaves its rest to the others."""
    queue = EmbedQueue(padded)
    first = asyncio.create_task(queue.embed_items(["0"]))
    await padded.has_begun()
    sizes = {"a": 20, "b": 20, "d": 20, "c": 2}
    calls = [queue.embed_items([f"{name}{number:02}" for number in range(size)]) for name, size in sizes.items()]
    tasks = [asyncio.create_task(call) for call in calls]
    await settle()
    padded.open()
    await asyncio.gather(first, *tasks)
    shares = {name: sum(text[0] == name for text in padded.runs[1]) for name in sizes}
    assert sum(shares.values()) == 16
    assert shares["c"] == 2
    assert sorted(shares.values()) == [2, 4, 5, 5]
    await queue.close()


# --- shared flights and the cache ------------------------------------------------------------------------------


async def test_equal_queries_in_flight_share_a_run(gated: Gated) -> None:
    """Ten callers of one text cost one run, and one more is answered from the cache."""
    queue = EmbedQueue(gated)
    callers = [asyncio.create_task(queue.embed_query("a", deadline_s=9)) for _ in range(10)]
    await gated.has_begun()
    callers.append(asyncio.create_task(queue.embed_query("a", deadline_s=9)))
    await settle()
    gated.open(1)
    vectors = await asyncio.gather(*callers)
    assert len({id(vector) for vector in vectors}) == 1
    assert await queue.embed_query("a", deadline_s=9) is vectors[0]
    assert gated.seen == ["a"]
    await queue.close()


async def test_the_cache_forgets_the_least_recently_used(gated: Gated) -> None:
    """The cache keeps as many vectors as it may, and those that were asked for last."""
    gated.open()
    queue = EmbedQueue(gated, cache_entries_max=2)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        assert bits(await queue.embed_query(text, deadline_s=9)) == bits(gated.vector(text))
    assert gated.seen == ["a", "bb", "ccc", "bb"]
    await queue.close()


async def test_the_cache_holds_no_text(gated: Gated) -> None:
    """P8, P11: what a user wrote is gone once it is embedded; only a hash of it remains."""
    gated.open()
    queue = EmbedQueue(gated)
    await queue.embed_query("a secret of someone", deadline_s=9)
    await settle()
    assert not queue._cache._flights
    keys = queue._cache._vectors
    assert all(isinstance(key, bytes) and len(key) == 32 and b"secret" not in key for key in keys)
    await queue.close()


async def test_a_query_outlives_the_caller_that_began_it(gated: Gated) -> None:
    """Of callers that share a run, the cancelled and the late leave; the run is for those who stay."""
    queue = EmbedQueue(gated)
    running = asyncio.create_task(queue.embed_items(["i"]))
    await gated.has_begun()
    cancelled, late, patient = (
        asyncio.create_task(queue.embed_query("a", deadline_s=deadline_s)) for deadline_s in (9, 0.01, 9)
    )
    await settle()
    cancelled.cancel()
    with pytest.raises(DeadlineExceeded):
        await late
    gated.open()
    assert bits(await patient) == bits(gated.vector("a"))
    assert cancelled.cancelled()
    assert gated.seen == ["i", "a"]
    await running
    await queue.close()


async def test_a_flight_for_the_hurried_is_begun_again_for_the_patient(gated: Gated) -> None:
    """Who joins a query of less time than its own waits to its own deadline, not to the other's."""
    queue = EmbedQueue(gated)
    running = asyncio.create_task(queue.embed_items(["i"]))
    await gated.has_begun()
    hurried = asyncio.create_task(queue.embed_query("a", deadline_s=0.02))
    await settle()
    patient = asyncio.create_task(queue.embed_query("a", deadline_s=9))
    with pytest.raises(DeadlineExceeded):
        await hurried
    await asyncio.sleep(0.01)
    gated.open()
    assert bits(await patient) == bits(gated.vector("a"))
    await running
    assert is_empty(queue)
    await queue.close()


async def test_a_dropped_query_can_be_asked_again(gated: Gated) -> None:
    """A new caller of a text does not join a flight that everybody has left."""
    queue = EmbedQueue(gated)
    running = asyncio.create_task(queue.embed_items(["i"]))
    await gated.has_begun()
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            await queue.embed_query("a", deadline_s=0.001)
    gated.open()
    assert bits(await queue.embed_query("a", deadline_s=9)) == bits(gated.vector("a"))
    assert gated.seen == ["i", "a"]
    await running
    await queue.close()


async def test_a_cache_cancels_what_nobody_waits_for() -> None:
    """The last who leaves a flight cancels it; who comes then begins another, though the first has not ended yet."""
    begun: list[Flight] = []
    tasks: list[asyncio.Task[Vector]] = []
    ended = asyncio.Event()

    async def fly() -> Vector:
        try:
            await asyncio.Event().wait()
        finally:
            await ended.wait()
        raise AssertionError

    def begin(flight: Flight) -> None:
        assert 0 < flight.left_s <= 9
        begun.append(flight)
        if not tasks:
            tasks.append(asyncio.create_task(fly()))
            flight.follow(tasks[0])

    cache = QueryCache()
    callers = [asyncio.create_task(cache.get("a", begin, deadline_s=9)) for _ in range(3)]
    await settle()
    for caller in callers[:2]:
        caller.cancel()
    await settle()
    assert not tasks[0].cancelling()
    callers[2].cancel()
    await settle()
    assert tasks[0].cancelling() == 1
    again = asyncio.create_task(cache.get("a", begin, deadline_s=9))
    await settle()
    ended.set()
    await settle()
    assert tasks[0].cancelled()
    vector = np.zeros(4, np.float32)
    begun[1].land(vector)
    begun[1].land(None, Internal("too late to fail"))
    assert await cache.get("a", begin, deadline_s=9) is vector, "whoever comes before the others wake"
    assert await again is vector
    assert await cache.get("a", begin, deadline_s=0) is vector
    assert len(begun) == 2


async def test_a_flight_that_failed_takes_no_passengers() -> None:
    """Who comes after a flight's failure, before anybody has been told, begins another; a lost one is Draining."""
    begun: list[Flight] = []
    task = asyncio.create_task(asyncio.sleep(9, np.zeros(4, np.float32)))

    def begin(flight: Flight) -> None:
        begun.append(flight)
        if len(begun) == 2:
            flight.follow(task)
        if len(begun) == 3:
            flight.land(None, Internal("at once"))

    cache = QueryCache()
    first = asyncio.create_task(cache.get("a", begin, deadline_s=9))
    await settle()
    begun[0].land(None, DeadlineExceeded("the replica's own", phase="embed"))
    second = asyncio.create_task(cache.get("a", begin, deadline_s=9))
    with pytest.raises(DeadlineExceeded):
        await first
    assert len(begun) == 2
    task.cancel()
    with pytest.raises(Draining):
        await second
    with pytest.raises(Internal, match="at once"):
        await cache.get("a", begin, deadline_s=9)
    assert not cache._flights


# --- admission -------------------------------------------------------------------------------------------------


async def test_too_many_queries_are_refused(gated: Gated) -> None:
    """P12: a full queue answers at once and names its limit; equal queries take no place of their own."""
    queue = EmbedQueue(gated, query_tokens_max=4)
    callers = [asyncio.create_task(queue.embed_query("0", deadline_s=9))]
    await gated.has_begun()
    callers += [asyncio.create_task(queue.embed_query(text, deadline_s=9)) for text in ("1", "2", "2")]
    await settle()
    with pytest.raises(Overloaded) as caught:
        await queue.embed_query("3", deadline_s=9)
    assert caught.value.metadata == {"limit": "embed_query_tokens_max"}
    assert gated.read == ["0", "1", "2"], "what is refused is not even read"
    gated.open()
    await asyncio.gather(*callers)
    await queue.embed_query("3", deadline_s=9)
    await queue.close()


async def test_too_many_passages_are_refused(gated: Gated) -> None:
    """P12: passages have a limit for the call and for all calls, in tokens, and queries are taken all the same."""
    queue = EmbedQueue(gated, item_tokens_max=8)
    with pytest.raises(LimitExceeded) as exceeded:
        await queue.embed_items(["abcd", "abc"])
    assert exceeded.value.metadata == {"limit": "embed_item_tokens_max", "maximum": "8", "actual": "9"}
    items = asyncio.create_task(queue.embed_items(["abc", "abc"]))
    await gated.has_begun()
    with pytest.raises(Overloaded) as overloaded:
        await queue.embed_items(["abcd"])
    assert overloaded.value.metadata == {"limit": "embed_item_tokens_max"}
    more = asyncio.create_task(queue.embed_items(["abc"]))
    query = asyncio.create_task(queue.embed_query("q", deadline_s=9))
    await settle()
    gated.open()
    await asyncio.gather(items, more, query)
    assert len(await queue.embed_items(["a"] * 4)) == 4
    await queue.close()


async def test_callers_who_leave_make_room(gated: Gated) -> None:
    """P12: a queue that is full of the texts of callers who are gone or late takes others, though nothing runs."""
    queue = EmbedQueue(gated, item_tokens_max=8, query_tokens_max=4)
    running = asyncio.create_task(queue.embed_items(["r"]))
    await gated.has_begun()
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            await queue.embed_items(["abc", "abc"], deadline_s=0.01)
        gone = asyncio.create_task(queue.embed_query("abc", deadline_s=9))
        await settle()
        gone.cancel()
        await settle()
    assert is_empty(queue)
    assert not queue._passages._by_shape[Shape(rows=1, tokens=4)]
    gated.open()
    await running
    await queue.close()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
async def test_the_limits_are_the_devices(device: str) -> None:
    """embed_query_tokens_max and embed_item_tokens_max are a CPU's, embed_gpu_…_tokens_max a GPU's."""
    queue = EmbedQueue(StandIn(device=device))
    gpu = device == "gpu"
    queries = limits.embed_gpu_query_tokens_max if gpu else limits.embed_query_tokens_max
    items = limits.embed_gpu_item_tokens_max if gpu else limits.embed_item_tokens_max
    assert (queue._queries.tokens_max, queue._passages.tokens_max) == (queries, items)
    assert queue._passages.limit == ("embed_gpu_item_tokens_max" if gpu else "embed_item_tokens_max")
    await queue.close()
    wide = EmbedQueue(StandIn(tokens_max=limits.embed_query_tokens_max + 1))
    assert wide._queries.tokens_max == limits.embed_query_tokens_max + 1, "any one query fits"
    await wide.close()


@pytest.mark.parametrize(
    ("tokens_per_s", "pause_ms"),
    [(0.0, 100), (100.0, 500), (1e-3, limits.embed_pause_longest_ms), (1e9, limits.embed_pause_ms)],
)
async def test_the_pause_follows_the_speed(gated: Gated, tokens_per_s: float, pause_ms: int) -> None:
    """RetryInfo is what half of the queue takes at that speed, from embed_pause_ms to embed_pause_longest_ms."""
    queue = EmbedQueue(gated, item_tokens_max=100)
    first = asyncio.create_task(queue.embed_items(["r"]))
    await gated.has_begun()
    full = asyncio.create_task(queue.embed_items(["x" * 99]))
    await settle()
    queue._tokens_per_s = tokens_per_s
    with pytest.raises(Overloaded) as caught:
        await queue.embed_items(["more"])
    assert caught.value.retry_after_ms == pause_ms
    gated.open()
    await asyncio.gather(first, full)
    await queue.close()


async def test_the_speed_is_measured(gated: Gated) -> None:
    """The speed is that of the last runs: a faster embedder soon advises shorter pauses."""
    queue = EmbedQueue(gated)
    slow = asyncio.create_task(queue.embed_items(["x" * 99]))
    await gated.has_begun()
    await asyncio.sleep(0.05)
    gated.open()
    await slow
    await until(lambda: queue._tokens_per_s > 0)  # it is reckoned behind the callers' backs
    before = queue._tokens_per_s
    assert 0 < before < 2000
    for _ in range(40):
        await queue.embed_items(["x" * 99])
    assert queue._tokens_per_s > 2 * before
    await queue.close()


async def test_long_texts_are_read_in_a_thread(gated: Gated) -> None:
    """The event loop reads what takes no longer than a fifth of a millisecond; queries and passages wait apart."""
    gated.open()
    queue = EmbedQueue(gated)
    long = "long " * 200
    await asyncio.gather(queue.embed_query("short", deadline_s=9), queue.embed_items(["short"] * 8))
    assert gated.readers == {threading.current_thread().name}
    gated.readers.clear()
    vector, (item, _) = await asyncio.gather(
        queue.embed_query(long, deadline_s=9), queue.embed_items([long, "and a short one"])
    )
    assert bits(vector) == bits(item) == bits(gated.vector(long))
    await queue.embed_items(["short"] * 100)
    assert gated.readers == {"tokenise-query_0", "tokenise-passage_0"}
    await queue.close()


class Stuck(Gated):
    """Reads long texts once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_read = threading.Semaphore(0)
        self.open()

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Wait, unless the text is short."""
        if max(map(len, texts)) > 100:
            assert self.may_read.acquire(timeout=10)
        return super().tokenise(texts)


async def test_texts_that_are_being_read_take_room() -> None:
    """P12: what is read in a thread is bounded too, callers take turns at it, and leave in time."""
    embedder = Stuck()
    queue = EmbedQueue(embedder, item_tokens_max=20_000)
    large = asyncio.create_task(queue.embed_items(["large" * 200] * 60))  # two portions, guessed 15,120 tokens
    await settle()
    with pytest.raises(Overloaded):
        await queue.embed_items(["x" * 1000] * 20)
    with pytest.raises(DeadlineExceeded):
        await queue.embed_items(["late" * 200], deadline_s=0.01)
    small = asyncio.create_task(queue.embed_items(["small" * 200]))
    await settle()
    embedder.may_read.release(1)
    await until(lambda: len(embedder.read) >= 30)
    embedder.may_read.release(1)
    await small
    large.cancel()
    await settle()
    embedder.may_read.release(9)
    await until(lambda: is_empty(queue))
    assert not any(text.startswith("late") for text in embedder.seen)
    await queue.close()


async def test_a_tokenizer_that_fails_is_internal(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tokenizer raises is an error of ours, on the loop and in the thread, and no place is lost."""

    def fails(texts: Sequence[str]) -> list[Tokens]:
        raise RuntimeError("of the library")

    monkeypatch.setattr(gated, "tokenise", fails)
    queue = EmbedQueue(gated)
    for text in ("short", "long " * 200):
        with pytest.raises(Internal, match="tokenizer"):
            await queue.embed_query(text, deadline_s=9)
        with pytest.raises(Internal, match="tokenizer"):
            await queue.embed_items([text])
    await settle()
    assert is_empty(queue)
    await queue.close()


# --- the late and the gone -------------------------------------------------------------------------------------


async def test_deadlines_hold_while_the_embedder_stalls(gated: Gated) -> None:
    """P12: a caller is answered at its deadline though no run ends, and its text is never run."""
    queue = EmbedQueue(gated)
    first = asyncio.create_task(queue.embed_query("first", deadline_s=9))
    await gated.has_begun()
    with pytest.raises(DeadlineExceeded) as caught:
        await queue.embed_query("late", deadline_s=0.05)
    assert caught.value.metadata == {"phase": "embed"}
    with pytest.raises(DeadlineExceeded):
        await queue.embed_items(["late item"], deadline_s=0.01)
    gated.open()
    await first
    await queue.embed_query("next", deadline_s=9)
    assert gated.seen == ["first", "next"]
    assert queue.items_waiting == 0
    await queue.close()


@pytest.mark.parametrize("deadline_s", [0.0, -1.0])
async def test_a_deadline_that_has_passed_is_exceeded(gated: Gated, deadline_s: float) -> None:
    """P12: there is no time to wait, so there is no waiting; what is cached is answered all the same."""
    queue = EmbedQueue(gated)
    for text in ("a", "long " * 200):
        with pytest.raises(DeadlineExceeded):
            await queue.embed_query(text, deadline_s=deadline_s)
        with pytest.raises(DeadlineExceeded):
            await queue.embed_items([text], deadline_s=deadline_s)
    gated.open()
    vector = await queue.embed_query("a", deadline_s=9)
    assert await queue.embed_query("a", deadline_s=deadline_s) is vector
    await queue.close()


async def test_the_late_are_dropped_when_popped(gated: Gated) -> None:
    """A text whose deadline passes while the event loop is held up is not run, though nobody took it out."""
    queue = EmbedQueue(gated)
    running = asyncio.create_task(queue.embed_items(["r"]))
    await gated.has_begun()
    late = [
        asyncio.create_task(queue.embed_query("late query", deadline_s=0.01)),
        asyncio.create_task(queue.embed_items(["late item"], deadline_s=0.01)),
    ]
    patient = asyncio.create_task(queue.embed_items(["patient"]))
    await settle()
    time.sleep(0.02)  # noqa: ASYNC251 - the loop is held here, so that no timer fires
    gated.open()
    while len(gated.runs) < 2:
        time.sleep(0.001)  # noqa: ASYNC251 - until the worker has looked
    for task in late:
        with pytest.raises(DeadlineExceeded):
            await task
    await asyncio.gather(running, patient)
    assert gated.seen == ["r", "patient"]
    assert queue._queries.dropped._value.get() == queue._passages.dropped._value.get() == 1
    await queue.close()


async def test_cancelled_callers_cost_no_run(gated: Gated) -> None:
    """A caller that went away costs no run, of a query or of what is left of its items; and that is counted."""
    queue = EmbedQueue(gated)
    items = asyncio.create_task(queue.embed_items(["i1", "i2", "i3"]))
    await gated.has_begun()
    query = asyncio.create_task(queue.embed_query("gone", deadline_s=9))
    await settle()
    for task in (items, query):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await settle()
    assert is_empty(queue)
    gated.open()
    await queue.embed_query("next", deadline_s=9)
    assert gated.seen == ["i1", "next"]
    assert (queue._queries.dropped._value.get(), queue._passages.dropped._value.get()) == (1, 2)
    await queue.close()


# --- failures --------------------------------------------------------------------------------------------------


async def test_a_failing_run_fails_its_waiters_only(gated: Gated) -> None:
    """Every waiter of the run hears Internal, without the text; the worker lives on and nothing is cached."""
    gated.open()
    queue = EmbedQueue(gated)
    failures = await asyncio.gather(
        *(queue.embed_query("fail", deadline_s=9) for _ in range(2)),
        queue.embed_items(["aaaa", "fail", "cccc", "dddd"]),
        return_exceptions=True,
    )
    for failure in failures:
        assert isinstance(failure, Internal)
        assert isinstance(failure.__cause__, RuntimeError)
        assert failure.message == "an embedding run failed"
    assert is_empty(queue)
    assert bits(await queue.embed_query("ok", deadline_s=9)) == bits(gated.vector("ok"))
    with pytest.raises(Internal):
        await queue.embed_query("fail", deadline_s=9)
    assert "dddd" not in gated.seen
    await queue.close()


async def test_a_failing_batch_fails_all_who_are_in_it_and_no_other(padded: Gated) -> None:
    """Of calls that wait together those with a text in the failing run fail, with all their texts."""
    queue = EmbedQueue(padded)
    first = asyncio.create_task(queue.embed_items(["r"]))
    await padded.has_begun()
    calls = [["fail"], ["abcd", "of another shape"], ["of another shape"], ["q" * 60]]
    tasks = [asyncio.create_task(queue.embed_items(texts)) for texts in calls]
    await settle()
    padded.open()
    await first
    failed, beside, other, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(failed, Internal)
    assert isinstance(beside, Internal)
    assert failed is not beside
    assert isinstance(other, list)
    assert isinstance(last, list)
    assert is_empty(queue)
    await queue.close()


async def test_a_text_that_gives_no_number_fails_alone(padded: Gated) -> None:
    """A row that is not finite fails the call of its text, and nobody who shares the run."""
    queue = EmbedQueue(padded)
    first = asyncio.create_task(queue.embed_items(["r"]))
    await padded.has_begun()
    calls = [["abc"], ["de", "nan", "fg", "never run, in a shape of its own"], ["hi", "jk"]]
    tasks = [asyncio.create_task(queue.embed_items(texts)) for texts in calls]
    query = asyncio.create_task(queue.embed_query("nan", deadline_s=9))
    await settle()
    padded.open()
    await first
    before, failed, behind = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(failed, Internal)
    assert "not finite" in failed.message
    assert [bits(one) for one in (*before, *behind)] == [bits(padded.vector(text)) for text in ("abc", "hi", "jk")]
    with pytest.raises(Internal, match="not finite"):
        await query
    assert sorted(padded.runs[2]) == ["abc", "de", "fg", "hi", "jk", "nan"]
    assert len(padded.runs) == 3
    assert is_empty(queue)
    await queue.close()


async def test_a_broken_device_is_named(gated: Gated) -> None:
    """An embedder whose device is gone says so, and so does the queue: its callers may ask another."""
    gated.open()
    queue = EmbedQueue(gated)
    with pytest.raises(EmbedderUnavailable):
        await queue.embed_query("broken", deadline_s=9)
    await queue.close()


async def test_an_embedder_that_answers_too_little_is_internal(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are missing are no vectors of anybody."""
    monkeypatch.setattr(gated, "run", lambda texts, shape: np.zeros((0, 8), np.float32))
    queue = EmbedQueue(gated)
    with pytest.raises(Internal):
        await queue.embed_items(["a"])
    await queue.close()


# --- closing ---------------------------------------------------------------------------------------------------


async def test_closing_fails_those_who_wait_and_ends_the_run_in_hand(gated: Gated) -> None:
    """Those in the queue hear Draining, as do later callers; the run in hand is waited for."""
    queue = EmbedQueue(gated)
    running = asyncio.create_task(queue.embed_query("running", deadline_s=9))
    await gated.has_begun()
    waiting = [
        asyncio.create_task(queue.embed_query("waiting", deadline_s=9)),
        asyncio.create_task(queue.embed_items(["item"])),
    ]
    await settle()
    closing = asyncio.create_task(queue.close())
    for task in waiting:
        with pytest.raises(Draining):
            await task
    for text in ("new", "long " * 200):
        with pytest.raises(Draining):
            await queue.embed_query(text, deadline_s=9)
        with pytest.raises(Draining):
            await queue.embed_items([text])
    gated.open()
    assert bits(await running) == bits(gated.vector("running"))
    await closing
    assert not queue._worker.is_alive()
    await queue.close()


async def test_closing_fails_what_is_left_of_a_call(gated: Gated) -> None:
    """The text in hand is embedded to its end, those behind it are not, and their caller hears of it at once."""
    queue = EmbedQueue(gated)
    running = asyncio.create_task(queue.embed_items(["a", "b"]))
    await gated.has_begun()
    closing = asyncio.create_task(queue.close())
    with pytest.raises(Draining):
        await asyncio.wait_for(running, 5)
    gated.open()
    await closing
    assert gated.seen == ["a"]


async def test_closing_fails_nobody_whose_texts_are_all_in_hand(padded: Gated) -> None:
    """Of two calls in one run, the one that has more texts hears Draining, and the other has its vectors."""
    queue = EmbedQueue(padded)
    first = asyncio.create_task(queue.embed_items(["r"]))
    await padded.has_begun()
    more = asyncio.create_task(queue.embed_items(["abc", "in another shape"]))
    whole = asyncio.create_task(queue.embed_items(["def"]))
    await settle()
    padded.open(1)
    await padded.has_begun()
    assert padded.runs[-1] == ["abc", "def"]
    closing = asyncio.create_task(queue.close())
    with pytest.raises(Draining):
        await more
    padded.open()
    assert bits((await whole)[0]) == bits(padded.vector("def"))
    await asyncio.gather(first, closing)


async def test_closing_fails_whose_text_is_being_read() -> None:
    """Who closes a queue does not wait for a tokenizer, and whoever does hears Draining as soon as it is done."""
    embedder = Stuck()
    queue = EmbedQueue(embedder)
    callers = [asyncio.create_task(queue.embed_items(["long " * 200] * count)) for count in (1, 100)]
    await settle()
    await queue.close()
    embedder.may_read.release(9)
    for caller in callers:
        with pytest.raises(Draining):
            await caller
    assert is_empty(queue)


async def test_closing_does_not_wait_for_ever(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: a run that never ends holds up neither close nor the caller without a deadline."""
    monkeypatch.setattr(batching, "CLOSE_S", 0.05)
    queue = EmbedQueue(gated)
    running = asyncio.create_task(queue.embed_items(["a"]))
    await gated.has_begun()
    await queue.close()
    with pytest.raises(Draining):
        await running
    gated.open()
    await asyncio.to_thread(queue._worker.join, 5)
    assert gated.seen == ["a"]


def test_a_loop_that_was_closed_with_a_run_in_hand_is_no_trouble(gated: Gated) -> None:
    """The worker goes on in silence though there is no one left to tell, and ends when the queue is closed."""

    async def begin() -> EmbedQueue:
        queue = EmbedQueue(gated)
        task = asyncio.create_task(queue.embed_query("a", deadline_s=9))
        await gated.has_begun()
        task.cancel()
        return queue

    queue = asyncio.run(begin())
    gated.open()
    asyncio.run(queue.close())
    assert not queue._worker.is_alive()


# --- everything at once ----------------------------------------------------------------------------------------


class Flaky(StandIn):
    """Fails where a text says so, and takes as long as the dice say."""

    def __init__(self, seed: int) -> None:
        super().__init__(run_tokens=512)
        self.dice = random.Random(seed)
        self.ran: list[str] = []

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Sleep a little, fail now and then."""
        here = [text_of(text) for text in texts]
        self.ran += here
        time.sleep(self.dice.choice((0, 0, 0.0005, 0.002)))
        if any(text.startswith("fail") for text in here):
            raise RuntimeError("on purpose")
        return super().run(texts, shape)

    def vector(self, text: str) -> Vector:
        """Give some texts a vector that is no number."""
        return super().vector(text) * np.float32(np.nan if text.startswith("nan") else 1)


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_callers_is_answered(seed: int) -> None:
    """P12: of 3,000 callers of all kinds, many of whom leave, each has its own vectors or an error; nothing is left.

    The queue is closed in the middle of it. No passage is run twice, and none of a caller that was refused is run.
    """
    dice = random.Random(seed)
    embedder = Flaky(seed)
    queue = EmbedQueue(embedder, query_tokens_max=600, item_tokens_max=6000, cache_entries_max=50)
    outcomes: dict[str, int] = {}
    refused: list[str] = []

    async def call(number: int) -> None:
        await asyncio.sleep(dice.uniform(0, 1.2))
        mark = dice.choices(("", "fail", "nan"), (60, 1, 1))[0]
        deadline_s = dice.choice((0.0, 0.002, 0.02, 0.2, 30.0))
        texts = [
            f"{mark}{number}.{at}" + "x" * dice.choice((0, 5, 40, 700)) for at in range(dice.choice((1, 2, 9, 30)))
        ]
        began = time.monotonic()
        try:
            if dice.random() < 0.6:
                text = dice.choice((texts[0], f"shared {dice.randrange(60)}"))
                vectors, texts = [await queue.embed_query(text, deadline_s=deadline_s)], [text]
            else:
                vectors = await queue.embed_items(texts, deadline_s=deadline_s)
            assert [bits(one) for one in vectors] == [bits(StandIn().vector(text)) for text in texts]
            outcome = "answered"
        except StandpipeError as error:
            outcome = type(error).__name__
            if outcome in ("Overloaded", "LimitExceeded"):
                refused.extend(texts)
            if outcome == "DeadlineExceeded":
                assert time.monotonic() - began >= deadline_s - 0.001
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    tasks = [asyncio.create_task(call(number)) for number in range(3000)]
    closing = asyncio.create_task(asyncio.sleep(1.0))
    while not closing.done():
        await asyncio.sleep(0.005)
        for task in dice.sample(tasks, 3):
            task.cancel()
    await queue.close()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    for answer in done:
        assert answer is None or isinstance(answer, asyncio.CancelledError), repr(answer)
    await settle()
    assert is_empty(queue)
    assert {"answered", "DeadlineExceeded", "Internal", "Overloaded", "Draining"} <= set(outcomes), outcomes
    passages = [text for text in embedder.ran if "." in text]
    assert len(passages) == len(set(passages)), "no text is run twice"
    assert not set(refused) & set(passages)
    gc.collect()  # an exception that nobody heard would be a warning now, and so an error


# --- figures ---------------------------------------------------------------------------------------------------


async def test_what_runs_waits_and_is_refused_is_counted(padded: Gated) -> None:
    """Depth, texts, tokens, fill, run times, drops and refusals are told for each model and kind."""
    telemetry = Telemetry()
    queue = EmbedQueue(padded, telemetry=telemetry, item_tokens_max=100)

    def figure(name: str, kind: str) -> float:
        labels = {"model": "stand-in@1/fp32", "kind": kind}
        value = telemetry.registry.get_sample_value(f"standpipe_embed{name}", labels)
        assert value is not None
        return value

    assert figure("_waiting_texts", "query") == figure("ded_texts_total", "passage") == 0
    running = asyncio.create_task(queue.embed_items(["r", "s"]))
    await padded.has_begun()
    query = asyncio.create_task(queue.embed_query("abc", deadline_s=9))
    items = asyncio.create_task(queue.embed_items(["x" * 30, "y" * 20]))
    gone = asyncio.create_task(queue.embed_items(["gone"]))
    await settle()
    gone.cancel()
    await settle()
    with pytest.raises(Overloaded):
        await queue.embed_items(["z" * 30] * 2)
    assert (figure("_waiting_texts", "query"), figure("_waiting_tokens", "query")) == (1, 4)
    assert (figure("_waiting_texts", "passage"), figure("_waiting_tokens", "passage")) == (2, 52)
    padded.open()
    await asyncio.gather(running, query, items)
    await queue.close()  # what a run was is counted behind its callers' backs
    assert (figure("_waiting_texts", "passage"), figure("_waiting_tokens", "passage")) == (0, 0)
    assert (figure("ded_texts_total", "passage"), figure("ded_tokens_total", "passage")) == (4, 4 + 52)
    assert (figure("ded_texts_total", "query"), figure("ded_tokens_total", "query")) == (1, 4)
    assert figure("_fill_share_sum", "passage") == pytest.approx(4 / 64 + 52 / 64)
    assert figure("_fill_share_sum", "query") == pytest.approx(4 / 32)
    assert figure("_run_seconds_count", "passage") == 2
    assert figure("_dropped_texts_total", "passage") == 1
    assert figure("_refused_texts_total", "passage") == 2
