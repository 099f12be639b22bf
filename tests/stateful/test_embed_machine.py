"""The embedder's queue against a plain model: callers come, leave, are late, fail or are refused, run by run (P6, P12).

The model knows of each text whether it waits, runs, or is over with. Runs end one by one, when the machine says so, and
so it sees what each of them took, and from what.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from sidecar.batching import EmbedQueue
from sidecar.embed import Shape, Tokens
from sidecar.embedding import Vector
from sidecar.errors import DeadlineExceeded, Internal, LimitExceeded, Overloaded
from tests.embedders import StandIn, text_of

QUERY_TOKENS, ITEM_TOKENS = 60, 300
RUN_TOKENS = 64


class Stepped(StandIn):
    """Runs when it is told to, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__(run_tokens=RUN_TOKENS)
        self.runs: list[tuple[list[str], Shape]] = []
        self.go = threading.Semaphore(0)
        self.fails = False

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Show what is run, and wait."""
        self.runs.append(([text_of(text) for text in texts], shape))
        assert self.go.acquire(timeout=20)
        if self.fails:
            self.fails = False
            raise RuntimeError("on purpose")
        return super().run(texts, shape)

    def vector(self, text: str) -> Vector:
        """Give texts that begin with n a vector that is no number."""
        return super().vector(text) * np.float32(np.nan if text.startswith("n") else 1)


@dataclass(eq=False)
class Caller:
    """A call under way, as the model sees it."""

    texts: list[str]
    query: bool
    task: asyncio.Task[Any]
    waiting: set[str] = field(default_factory=set)
    fails: bool = False
    """Whether one of its texts was in a run that failed, or has no number."""


class EmbedMachine(RuleBasedStateMachine):
    """One queue, and whoever uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.embedder = Stepped()
        self.queue = EmbedQueue(
            self.embedder, query_tokens_max=QUERY_TOKENS, item_tokens_max=ITEM_TOKENS, cache_entries_max=1
        )
        self.callers: list[Caller] = []
        self.numbers = itertools.count()
        self.ran: set[str] = set()
        self.run: list[str] | None = None
        self.seen = 0
        """Runs that began, and were checked."""

    # What callers do

    @rule(size=st.integers(0, 30), mark=st.sampled_from("qqqn"))
    def ask(self, size: int, mark: str) -> None:
        """Ask for a query that nobody else asks for."""
        text = f"{mark}{next(self.numbers)}" + "x" * size
        self.call([text], True, self.queue.embed_query(text, deadline_s=60))

    @rule(
        sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12), mark=st.sampled_from("iiiin"), query=st.booleans()
    )
    def embed(self, sizes: list[int], mark: str, *, query: bool) -> None:
        """Ask for several texts, the first of which may have no number."""
        texts = [f"{mark if at == 0 else 'i'}{next(self.numbers)}" + "x" * size for at, size in enumerate(sizes)]
        self.call(texts, query, self.queue.embed(texts, query=query, deadline_s=60))

    @rule()
    def late(self) -> None:
        """Ask when it is too late: that is no run."""
        before = self.queue._passages.texts
        task = self.loop.create_task(self.queue.embed_items([f"late{next(self.numbers)}"], deadline_s=0))
        error = self.loop.run_until_complete(asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5))[0]
        assert isinstance(error, DeadlineExceeded | Overloaded)
        self.settle()
        assert self.queue._passages.texts == before

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Leave before the answer."""
        caller = data.draw(st.sampled_from(self.callers))
        self.callers.remove(caller)
        caller.task.cancel()
        self.settle()
        assert caller.task.cancelled()

    # What the device does

    @precondition(lambda self: self.run is not None)
    @rule(fails=st.sampled_from((False, False, False, True)))
    def end_of_run(self, *, fails: bool) -> None:
        """Let the run in hand end, well or not; then look at what is answered, and what runs next."""
        run = set(self.run or ())
        for caller in self.callers:
            if run & set(caller.texts) and (fails or any(text[0] == "n" for text in run & set(caller.texts))):
                caller.fails = True
                caller.waiting.clear()
        self.embedder.fails = fails
        self.run = None
        self.embedder.go.release()
        self.settle(begins=True)
        for caller in list(self.callers):
            if caller.fails:
                self.callers.remove(caller)
                assert isinstance(self.answer(caller), Internal)
            elif not caller.waiting and not (self.run and set(caller.texts) & set(self.run)):
                self.callers.remove(caller)
                vectors = self.answer(caller)
                vectors = [vectors] if isinstance(vectors, np.ndarray) else vectors.vectors
                for text, vector in zip(caller.texts, vectors, strict=True):
                    assert vector.tobytes() == self.embedder.vector(text).tobytes()
            else:
                assert not caller.task.done()

    # What always holds

    @invariant()
    def counters_agree(self) -> None:
        """What waits by the queue's counters is what waits by the model, in texts and tokens, and within its limits."""
        for lane, query in ((self.queue._queries, True), (self.queue._passages, False)):
            waiting = [text for caller in self.callers if caller.query == query for text in caller.waiting]
            assert lane.texts == len(waiting)
            assert lane.tokens == sum(len(text) + 1 for text in waiting) <= lane.tokens_max

    @invariant()
    def the_device_is_busy_while_anything_waits(self) -> None:
        """Nothing waits for a batch to fill."""
        assert self.run is not None or not any(caller.waiting for caller in self.callers)

    def teardown(self) -> None:
        """End every run; everybody is answered, and the queue closes."""
        while self.run is not None:
            self.end_of_run(fails=False)
        assert not self.callers
        self.loop.run_until_complete(self.queue.close())
        self.loop.close()

    # Between the rules

    def call(self, texts: list[str], query: bool, work: Coroutine[Any, Any, Any]) -> None:
        """Begin a call, and see that it was taken or refused as it must be."""
        lane = self.queue._queries if query else self.queue._passages
        tokens = sum(len(text) + 1 for text in texts)
        room, busy = lane.tokens_max - lane.tokens, self.run is not None
        caller = Caller(texts, query, self.loop.create_task(work), waiting=set(texts))
        if tokens > room:
            self.settle()
            refusal = self.answer(caller)
            assert isinstance(refusal, Overloaded | LimitExceeded)
            assert isinstance(refusal, Overloaded) or tokens > lane.tokens_max
            return
        self.callers.append(caller)
        self.settle(begins=not busy)

    def answer(self, caller: Caller) -> Any:
        """Return what a call came to."""

        async def ended() -> Any:
            return (await asyncio.gather(caller.task, return_exceptions=True))[0]

        return self.loop.run_until_complete(asyncio.wait_for(ended(), 5))

    def settle(self, *, begins: bool = False) -> None:
        """Let the event loop come to rest, and check the run that `begins` if there is anything to run."""

        async def rest() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rest())
        if not begins:
            return
        queries = {text for caller in self.callers if caller.query for text in caller.waiting}
        passages = {text for caller in self.callers if not caller.query for text in caller.waiting}
        limit = time.monotonic() + 20
        while len(self.embedder.runs) == self.seen and (queries or passages):
            assert time.monotonic() < limit, "the device idles while texts wait"
            self.loop.run_until_complete(rest())
        self.loop.run_until_complete(rest())
        if len(self.embedder.runs) == self.seen:
            return
        self.seen += 1
        self.run, shape = self.embedder.runs[-1]
        run = set(self.run)
        assert len(self.embedder.runs) == self.seen
        assert len(run) == len(self.run), "a text is in a run once"
        assert not run & self.ran, "and in one run"
        assert run <= (queries or passages), "queries first, and nobody who has left"
        waiting = [
            text for text in queries or passages if self.embedder.shape(len(text) + 1, query=bool(queries)) == shape
        ]
        assert run <= set(waiting), "of one shape"
        assert len(run) == min(shape.rows, len(waiting)), "all that fit"
        self.ran |= run
        for caller in self.callers:
            caller.waiting -= run


TestEmbedMachine = EmbedMachine.TestCase
TestEmbedMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
