"""The queue before an embedder in this process: batches of one shape, queries first, never a hang (P6, P12).

::

    embed_query ─> cache, shared flights ─┐
                                          ├─ tokenise ─ admit by tokens ─> two lanes ─> one thread: take, run, hand over
    embed_items, embed ───────────────────┘

A text runs in the shape that follows from its own tokens and kind, beside whatever else waits in that shape: nothing
ever waits for a batch to fill, since while one run is on the next fills itself. Its bits are the shape's and its own.

Within a lane the callers take turns. Whose turn it is chooses the shape, with the first of its texts that waits, and
has its share of the rows like all others who have texts of that shape. So a call of three texts is answered after a
few runs, however many thousands stand before it.

What it costs, without the tokenizer and the run: 0.12 ms for a query, nearly all of it two threads that wake each
other. A condition, a bare lock and a SimpleQueue are equally quick at that. To tokenise in a thread is another 0.05 ms,
more than a query's tokens take, and so the event loop does it where it is short. A passage takes 2 us of one processor
in calls of 512, 4 in calls of 64, and 25 in a call of its own, nearly all of which is the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sidecar import limits
from sidecar.embed import Embedder, Shape, Tokens
from sidecar.embedding import Embedding, Flight, QueryCache, Vector, answered, settle
from sidecar.errors import DeadlineExceeded, Draining, EmbedderUnavailable, Internal, LimitExceeded, Overloaded
from sidecar.telemetry import Telemetry

CLOSE_S = 1.0
"""How long `close` waits for the run in hand; the drain after SIGTERM has 1.5 s in all."""

_HERE_CHARS = 512
"""Texts that are tokenised where they come: 0.2 ms. A text costs as much as _TEXT_CHARS more than it has."""

_TEXT_CHARS = 16

_PORTION_CHARS = 32_768
"""Texts that are tokenised in one go in a thread: some 10 ms, for which other callers wait."""

_CAUSE_CHARS = 300
"""Of what a device says as it fails, in the log: ONNX Runtime's words, which hold no text of anybody's."""

_SPEED_WEIGHT = 0.2
"""Of the latest run in the speed that pauses are reckoned by: some ten runs after a change it is the new one."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What came of the texts of one call."""

    vectors: NDArray[np.float32]
    """[texts, dimensions], read-only."""
    tokens: int
    """All that were embedded, special ones and the prefix's included."""
    queue_us: int
    """From arrival to the start of the first run."""
    run_us: int
    """From there to the end of the last."""


@dataclass(eq=False, slots=True)
class _Call:
    """Texts of one caller. Its answer is the event loop's, its vectors the worker's, all else the lock's."""

    texts: list[Tokens]
    vectors: NDArray[np.float32]
    answer: asyncio.Future[NDArray[np.float32]] | Flight
    """[texts, dimensions], or [dimensions] of one query that several may wait for."""
    deadline: float
    came_at: float
    left: int
    """Texts without a vector."""
    waiting: dict[Shape, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Where the texts that no run has taken stand in `texts`, the first of them last."""
    began_at: float = 0.0
    ended_at: float = 0.0

    def is_dead(self, now: float) -> bool:
        """Tell whether nobody waits any more: the caller left, or is late."""
        return now > self.deadline or self.answer.done()


@dataclass(slots=True)
class _Batch:
    """What one run takes: some texts of some calls, all of one shape."""

    lane: _Lane
    shape: Shape
    rows: list[tuple[_Call, list[int]]] = field(default_factory=list)
    texts: list[Tokens] = field(default_factory=list)
    tokens: int = 0
    began_at: float = 0.0
    ended_at: float = 0.0

    @property
    def room(self) -> int:
        """Return how many rows are free."""
        return self.shape.rows - len(self.texts)


class _Lane:
    """The calls of one kind that wait. Its queue holds the lock."""

    def __init__(self, embedder: Embedder, telemetry: Telemetry, *, query: bool, tokens_max: int, limit: str) -> None:
        self.tokens_max, self.limit = tokens_max, limit
        self.texts = 0
        self.tokens = 0
        """Of the texts that wait, and about those of the texts that are being tokenised."""
        self.tokeniser = ThreadPoolExecutor(1, f"tokenise-{'query' if query else 'passage'}")
        """For what would hold the event loop: one for each lane, so that no query waits for passages to be read."""
        self._shapes = [embedder.shape(max(size, 1), query=query) for size in range(embedder.model.tokens_max + 1)]
        self._calls: OrderedDict[_Call, None] = OrderedDict()
        """Those that have texts waiting, by turns."""
        self._by_shape: defaultdict[Shape, OrderedDict[_Call, None]] = defaultdict(OrderedDict)
        """The same, for each shape that they have texts of."""
        self.late: list[_Call] = []
        """Those that were dropped when it was their turn, and have not been told yet."""
        labels = (embedder.id, "query" if query else "passage")
        self.dropped = telemetry.embed_dropped_texts.labels(*labels)
        self.refused = telemetry.embed_refused_texts.labels(*labels)
        self.embedded_texts = telemetry.embedded_texts.labels(*labels)
        self.embedded_tokens = telemetry.embedded_tokens.labels(*labels)
        self.fill = telemetry.embed_fill.labels(*labels)
        self.run_seconds = telemetry.embed_run_seconds.labels(*labels)
        telemetry.embed_waiting_texts.labels(*labels).set_function(lambda: self.texts)
        telemetry.embed_waiting_tokens.labels(*labels).set_function(lambda: self.tokens)

    def add(self, call: _Call, tokens: int) -> None:
        """Queue a call behind all others."""
        for at, text in enumerate(call.texts):
            call.waiting[self._shapes[text.size]].append(at)
        for shape, places in call.waiting.items():
            places.reverse()
            self._by_shape[shape][call] = None
        self._calls[call] = None
        self.texts += len(call.texts)
        self.tokens += tokens

    def take(self, now: float) -> _Batch | None:
        """Take what runs next: the shape of the call whose turn it is, with as many texts as there are and fit."""
        while self._calls:
            turn = next(iter(self._calls))
            shape = next(iter(turn.waiting))
            callers = self._by_shape[shape]
            callers.move_to_end(turn, last=False)
            self._calls.move_to_end(turn)
            batch = _Batch(self, shape)
            while callers and batch.room:
                share = -(-batch.room // len(callers))
                for _ in range(len(callers)):
                    if batch.room:
                        self._take_share(batch, callers, min(share, batch.room), now)
            if batch.texts:
                batch.tokens = sum(text.size for text in batch.texts)
                self.texts -= len(batch.texts)
                self.tokens -= batch.tokens
                return batch
        return None

    def remove(self, call: _Call) -> None:
        """Drop what waits of a call."""
        for shape, places in call.waiting.items():
            del self._by_shape[shape][call]
            self.texts -= len(places)
            self.tokens -= sum(call.texts[at].size for at in places)
            self.dropped.inc(len(places))
        call.waiting.clear()
        self._calls.pop(call, None)

    def clear(self) -> list[_Call]:
        """Drop everything; return whose it was."""
        calls = list(self._calls)
        for call in calls:
            self.remove(call)
        return calls

    def _take_share(self, batch: _Batch, callers: OrderedDict[_Call, None], share: int, now: float) -> None:
        """Take at most so many texts of the first of these callers, and let it stand behind the others."""
        call = next(iter(callers))
        if call.is_dead(now):
            self.remove(call)
            self.late.append(call)
            return
        places = call.waiting[batch.shape]
        taken = places[: -share - 1 : -1]
        del places[-share:]
        if places:
            callers.move_to_end(call)
        else:
            del callers[call], call.waiting[batch.shape]
            if not call.waiting:
                del self._calls[call]
        batch.rows.append((call, taken))
        batch.texts += [call.texts[at] for at in taken]


class EmbedQueue(Embedding):
    """The way of one event loop to an embedder: one thread that runs, queries before passages.

    What waits is bounded in tokens, which is what a run's time goes by, for queries and for passages apart. Who comes
    when there is no room is refused at once, before its texts are tokenised, and told how long the half of what waits
    takes at the speed of the last runs. A query waits for at most one run of passages. Vectors are read-only.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        telemetry: Telemetry | None = None,
        query_tokens_max: int | None = None,
        item_tokens_max: int | None = None,
        cache_entries_max: int = limits.query_cache_max,
    ) -> None:
        """Take the limits of the embedder's device unless others are given; `telemetry` is the process's."""
        self.embedder = embedder
        self.id = embedder.id
        self.dimensions = embedder.dimensions
        self.precision = embedder.precision
        self.provider = embedder.provider
        floor = embedder.model.cosine_floor
        self.cosine_floor_thousandths = 0 if floor is None else max(1, round(1000 * floor))
        self.tokens_max = embedder.model.tokens_max
        (query_limit, query_most), (item_limit, item_most) = _bounds(embedder)
        telemetry = telemetry or Telemetry()
        self._queries = _Lane(
            embedder, telemetry, query=True, tokens_max=query_tokens_max or query_most, limit=query_limit
        )
        self._passages = _Lane(
            embedder, telemetry, query=False, tokens_max=item_tokens_max or item_most, limit=item_limit
        )
        self._cache = QueryCache(cache_entries_max)
        self._log = telemetry.log
        self._loop: asyncio.AbstractEventLoop | None = None
        # Both lanes and everything below belong to its lock.
        self._changed = threading.Condition()
        self._in_hand: _Batch | None = None
        self._closed = False
        self._tokens_per_s = 0.0
        # A daemon, so that a run that never ends cannot keep the process from ending.
        self._worker = threading.Thread(target=self._work, name="embed", daemon=True)
        self._worker.start()

    @property
    def broken(self) -> bool:
        """Whether the embedder's device has failed."""
        return self.embedder.broken

    @property
    def queries_waiting(self) -> int:
        """Queries that no run has begun for."""
        return self._queries.texts

    @property
    def items_waiting(self) -> int:
        """Passages that no run has begun for."""
        return self._passages.texts

    async def embed_query(self, text: str, *, deadline_s: float) -> Vector:
        """Embed a query, with the model's prefix: float32 [dimensions], from the cache if it is there.

        Raises DeadlineExceeded after `deadline_s` seconds whatever the embedder does, Overloaded if the queries that
        wait leave no room, Internal if the run fails, EmbedderUnavailable if the device is broken, and Draining once
        closed.
        """
        return await self._cache.get(text, lambda flight: self._begin(flight, text), deadline_s=deadline_s)

    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Embed passages, with the model's prefix, in order, behind all queries.

        All are embedded or none. Raises LimitExceeded for more tokens than ever fit, and else as `embed_query` does.
        """
        return list((await self.embed(texts, query=False, deadline_s=deadline_s)).vectors)

    async def embed(self, texts: Sequence[str], *, query: bool, deadline_s: float = math.inf) -> Embedded:
        """Embed texts as queries or as passages, without the cache, and tell what it took; else as `embed_items`."""
        lane, texts = (self._queries if query else self._passages), list(texts)
        came_at = time.monotonic()
        deadline = came_at + deadline_s
        if not texts:
            return Embedded(np.zeros((0, self.dimensions), np.float32), tokens=0, queue_us=0, run_us=0)
        read = await self._tokenise(lane, texts, deadline)
        answer: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        call = self._admit(lane, read, answer, deadline, came_at=came_at)
        try:
            vectors = await answered(answer, deadline - time.monotonic())
        finally:
            self._leave(lane, call)
        return Embedded(
            vectors,
            tokens=sum(text.size for text in call.texts),
            queue_us=round((call.began_at - call.came_at) * 1e6),
            run_us=round((call.ended_at - call.began_at) * 1e6),
        )

    async def close(self) -> None:
        """Refuse new calls, fail those that wait with Draining, and let the run in hand end, up to CLOSE_S."""
        with self._changed:
            self._closed = True
            waiting = self._queries.clear() + self._passages.clear()
            self._changed.notify()
        for lane in (self._queries, self._passages):
            lane.tokeniser.shutdown(wait=False)
        self._settle([(call, _draining()) for call in waiting])
        await asyncio.to_thread(self._worker.join, CLOSE_S)
        in_hand = self._in_hand
        if in_hand is not None:
            self._settle([(call, _draining()) for call, _ in in_hand.rows])

    # On the event loop

    def _begin(self, flight: Flight, text: str) -> None:
        """Begin a query's flight: without a task, if its text is as short as most."""
        if _is_short([text]):
            now = time.monotonic()
            read = self._read_here(self._queries, [text])
            call = self._admit(self._queries, read, flight, now + flight.left_s, came_at=now)
            flight.abandon = partial(self._leave, self._queries, call)
            return

        async def embed() -> Vector:
            vector: Vector = (await self.embed([text], query=True, deadline_s=flight.left_s)).vectors[0]
            return vector

        flight.follow(asyncio.create_task(embed()))

    async def _tokenise(self, lane: _Lane, texts: Sequence[str], deadline: float) -> list[Tokens]:
        """Read texts: where they come if they are few and short, else in a thread, while a place is held for them.

        Some at a time go to the thread, so that callers take turns there too. How many tokens they have is guessed
        until it is known: a quarter of the characters, which is what most languages have.
        """
        if _is_short(texts):
            return self._read_here(lane, texts)
        guess = min(sum(min(2 + len(text) // 4, self.tokens_max) for text in texts), lane.tokens_max)
        with self._changed:
            self._check_room(lane, guess, len(texts))
            lane.tokens += guess
        try:
            read: list[Tokens] = []
            for some in _portions(texts):
                with self._changed:
                    self._check_open()
                reading = asyncio.get_running_loop().run_in_executor(lane.tokeniser, self._read, lane, some)
                async with asyncio.timeout(None if deadline == math.inf else deadline - time.monotonic()):
                    read += await reading
            return read
        except TimeoutError:
            raise _late() from None
        finally:
            with self._changed:
                lane.tokens -= guess

    def _read_here(self, lane: _Lane, texts: Sequence[str]) -> list[Tokens]:
        self._check_room(lane, len(texts), len(texts))  # for nothing, if not even a token of each would fit
        return self._read(lane, texts)

    def _read(self, lane: _Lane, texts: Sequence[str]) -> list[Tokens]:
        model = self.embedder.model
        prefix = model.query_prefix if lane is self._queries else model.passage_prefix
        try:
            return self.embedder.tokenise([prefix + text for text in texts] if prefix else texts)
        except Exception as error:
            raise Internal("the tokenizer failed") from error

    def _admit(
        self,
        lane: _Lane,
        texts: list[Tokens],
        answer: asyncio.Future[NDArray[np.float32]] | Flight,
        deadline: float,
        *,
        came_at: float,
    ) -> _Call:
        """Queue a call and wake the worker, or raise why not."""
        tokens = sum(text.size for text in texts)
        if tokens > lane.tokens_max:
            raise LimitExceeded(
                f"a call must hold at most {lane.tokens_max} tokens",
                limit=lane.limit,
                maximum=lane.tokens_max,
                actual=tokens,
            )
        self._loop = asyncio.get_running_loop()
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        call = _Call(texts, vectors, answer, deadline, came_at, left=len(texts))
        with self._changed:
            self._check_room(lane, tokens, len(texts))
            lane.add(call, tokens)
            self._changed.notify()
        return call

    def _leave(self, lane: _Lane, call: _Call) -> None:
        """Take out what waits of a call that has ended, however it did."""
        if call.waiting:
            with self._changed:
                lane.remove(call)

    def _check_open(self) -> None:
        if self._closed:
            raise _draining()

    def _check_room(self, lane: _Lane, tokens: int, texts: int) -> None:
        self._check_open()
        if lane.tokens + tokens <= lane.tokens_max:
            return
        lane.refused.inc(texts)
        error = Overloaded(f"{lane.tokens} tokens wait to be embedded, of {lane.tokens_max}", limit=lane.limit)
        if self._tokens_per_s:
            ahead = self._queries.tokens + (lane.tokens if lane is self._passages else 0)
            pause_ms = round(500 * ahead / self._tokens_per_s)
            error.retry_after_ms = min(max(pause_ms, limits.embed_pause_ms), limits.embed_pause_longest_ms)
        raise error

    def _settle(self, ends: Sequence[tuple[_Call, Exception | None]]) -> None:
        """Tell callers what came of their texts."""
        for call, error in ends:
            if error is None:  # else a run in hand may still write to it
                call.vectors.flags.writeable = False
            if isinstance(call.answer, Flight):
                call.answer.land(None if error else call.vectors[0], error)
            else:
                settle(call.answer, call.vectors, error)

    # On the worker's thread

    def _work(self) -> None:
        """Run batch after batch until the queue is closed."""
        while (batch := self._take()) is not None:
            batch.began_at = time.monotonic()
            try:
                vectors = self.embedder.run(batch.texts, batch.shape)
                ends = self._hand_out(batch, vectors)
            except Exception as cause:
                ends = self._fail(batch, cause)
                if isinstance(cause, EmbedderUnavailable) and cause.__cause__ is not None:
                    self._log.error("device failed", model=self.id, cause=str(cause.__cause__)[:_CAUSE_CHARS])
            with self._changed:
                self._in_hand = None
                for call, error in ends:
                    if error is not None:
                        batch.lane.remove(call)
            self._tell(ends)
            # Behind the callers' backs: it takes a tenth of the way.
            self._count(batch)

    def _take(self) -> _Batch | None:
        """Wait for what is to run next; None once the queue is closed."""
        while True:
            with self._changed:
                if self._closed:
                    return None
                now = time.monotonic()
                batch = self._in_hand = self._queries.take(now) or self._passages.take(now)
                late = self._queries.late + self._passages.late
                if batch is None and not late:
                    self._changed.wait()
                    continue
                self._queries.late, self._passages.late = [], []
            # The caller knows by itself, but who joined a query with more time does not.
            self._tell([(call, _late()) for call in late])
            if batch is not None:
                return batch

    def _hand_out(self, batch: _Batch, vectors: NDArray[np.float32]) -> list[tuple[_Call, Exception | None]]:
        """Give each call its rows; return those that have all, or will never."""
        batch.ended_at = time.monotonic()
        assert len(vectors) == len(batch.texts)
        # One product tells of all rows, in a tenth of the time that a look at each takes.
        flawed: NDArray[np.bool_] | None = None
        if not math.isfinite(np.vdot(vectors, vectors)):
            flawed = np.logical_not(np.isfinite(vectors).all(axis=1))
        ends: list[tuple[_Call, Exception | None]] = []
        row = 0
        for call, places in batch.rows:
            rows = slice(row, row + len(places))
            row = rows.stop
            if flawed is not None and flawed[rows].any():
                ends.append((call, Internal("the embedding model answered with a number that is not finite")))
                continue
            in_a_row = places[-1] - places[0] == len(places) - 1
            call.vectors[slice(places[0], places[-1] + 1) if in_a_row else places] = vectors[rows]
            call.began_at = call.began_at or batch.began_at
            call.left -= len(places)
            if not call.left:
                call.ended_at = batch.ended_at
                ends.append((call, None))
        return ends

    def _count(self, batch: _Batch) -> None:
        """Tell the metrics, and the speed, of a run that did not fail."""
        if not batch.ended_at:
            return
        lane, took_s = batch.lane, batch.ended_at - batch.began_at
        lane.embedded_texts.inc(len(batch.texts))
        lane.embedded_tokens.inc(batch.tokens)
        lane.fill.observe(batch.tokens / (batch.shape.rows * batch.shape.tokens))
        lane.run_seconds.observe(took_s)
        speed = batch.tokens / max(took_s, 1e-6)
        self._tokens_per_s += (speed - self._tokens_per_s) * (_SPEED_WEIGHT if self._tokens_per_s else 1)

    def _fail(self, batch: _Batch, cause: Exception) -> list[tuple[_Call, Exception | None]]:
        """Return the end of every call that has a text in a run that failed."""
        ends: list[tuple[_Call, Exception | None]] = []
        for call, _ in batch.rows:
            error = (
                EmbedderUnavailable(cause.message)
                if isinstance(cause, EmbedderUnavailable)
                else Internal("an embedding run failed")
            )
            error.__cause__ = cause
            ends.append((call, error))
        return ends

    def _tell(self, ends: list[tuple[_Call, Exception | None]]) -> None:
        loop = self._loop
        if not ends or loop is None:
            return
        # The loop may have been closed with a run in hand, and all who waited with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._settle, ends)


def _bounds(embedder: Embedder) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return the limits of both lanes, by name. A query as long as the model reads fits in any case."""
    if embedder.device == "gpu":
        queries = "embed_gpu_query_tokens_max", limits.embed_gpu_query_tokens_max
        items = "embed_gpu_item_tokens_max", limits.embed_gpu_item_tokens_max
    else:
        queries = "embed_query_tokens_max", limits.embed_query_tokens_max
        items = "embed_item_tokens_max", limits.embed_item_tokens_max
    return (queries[0], max(queries[1], embedder.model.tokens_max)), items


def _is_short(texts: Sequence[str]) -> bool:
    """Tell whether reading these texts does not hold the event loop."""
    most = _HERE_CHARS - _TEXT_CHARS * len(texts)
    return most >= 0 and sum(map(len, texts)) <= most


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut a long list of texts into portions of about _PORTION_CHARS that are read, or of one text."""
    begin, chars = 0, 0
    for at, text in enumerate(texts):
        size = _TEXT_CHARS + min(len(text), limits.embed_text_chars_max)
        if chars and chars + size > _PORTION_CHARS:
            yield texts[begin:at]
            begin, chars = at, 0
        chars += size
    yield texts[begin:]


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the text was not embedded before the deadline", phase="embed")


def _draining() -> Draining:
    return Draining("the embedder is closed")
