"""Measuring Standpipe on recorded conversations: ``standpipe eval DIR --out build``.

Everything goes through the API of a real server, on a file of its own or on the stores of `Options`, under one policy
for all sets:

- **Evidence recall.** Each conversation is a subject and is committed session by session, turn by turn. Then each
  question is asked from a new session of that subject. The figure is the share of the question's evidence turns
  that the bundle cites, in whatever section. The budget includes everything: prompts, fences, dates.
- **Prefix reuse.** Each conversation is replayed as one session, one request per two turns. The figure is the
  share of tokens that repeat the request before as an exact prefix, in whole segments: what a prefix cache can
  serve.
- **Tokens sent** by the same replay at a smaller budget, against sending the whole transcript each time.
- **Determinism.** Each question is asked again, asked after a restart, and asked after a rebuild from the log, and
  each receipt is replayed: the bundles must be equal byte for byte.

The conversations stay where they are: nothing but figures, ids and digests is written. The digests of all bundles are
in `bundles.sha256`; those of two runs on different engines must be equal, line by line (P6).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import standpipe
from sidecar.config import Config
from sidecar.embed import Embedder, Shape, Tokens
from sidecar.embedding import Vector
from sidecar.engines import open_record
from sidecar.evaluation import conversations, report
from sidecar.evaluation.conversations import Conversation, Turn
from sidecar.evaluation.measured import (
    BUDGET,
    BUDGETS,
    POLICY,
    REPLAY_BUDGET,
    REPLAY_RECALL,
    Asked,
    Measured,
    Options,
    Reuse,
    difference,
    request_of,
    reuse,
    segments_of,
    share_found,
)
from sidecar.model import Model, Precision
from sidecar.rebuild import rebuild
from sidecar.server import Server
from standpipe.errors import StandpipeError
from standpipe.v1.bundle_pb2 import Source

T = TypeVar("T")

_HYDRATES_AT_ONCE = 4
_ATTEMPTS = 5
"""Of a hydrate that came without something, such as the query's vector on a busy machine."""
_DEADLINE_MS = 60_000


class Remembering(Embedder):
    """Embeds a text once: the replays say again what the conversations said."""

    def __init__(self, model: Model, *, precision: Precision = "int8") -> None:
        self._known: dict[tuple[Shape, bytes], Vector] = {}
        super().__init__(model, precision=precision)

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Return the texts' vectors, as they were when they were asked for first."""
        keys = [(shape, text.tobytes()) for text in texts]
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if unknown:
            self._known.update(zip(unknown, super().run(list(unknown.values()), shape), strict=True))
        return np.stack([self._known[key] for key in keys])


class _Screen:
    """Progress on stderr: bars on a terminal, else a line per phase."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30, complete_style="cyan", finished_style="cyan"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def phase(self, name: str, total: int) -> Any:
        """Yield a function that takes how many more are done."""
        task = self._progress.add_task(name, total=total)
        yield lambda n=1: self._progress.advance(task, n)
        self._progress.update(task, completed=total)
        if not self._console.is_terminal:
            print(f"{time.monotonic() - self._started:6.1f} s  {name}: {total}", file=sys.stderr, flush=True)  # noqa: T201


async def evaluate(
    directory: Path,
    out: Path,
    options: Options,
    *,
    console: Console | None = None,
    embedder: Embedder | None = None,
) -> dict[str, Any]:
    """Measure the sets of a directory; write `out`/eval.json and charts, print a table, and return the figures.

    `embedder` stands in for all that would be loaded; without it, restart and rebuild embed anew. Raises
    FileNotFoundError if there is nothing to measure.
    """
    console = console or Console()
    sets, skipped = conversations.read(directory)
    for line in skipped:
        console.print(line, style="dim", highlight=False)
    if not sets:
        raise FileNotFoundError(f"no conversations in {directory}")
    for one in sets:
        one.conversations = one.conversations[: options.conversations_max]
    measured = [Measured(one) for one in sets]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="standpipe-eval-") as work, _Screen() as screen:
        kept = embedder
        if kept is None and options.embedder != "none":
            model = Model.open(options.models_dir / options.embedder)
            kept = await asyncio.to_thread(Remembering, model, precision=options.precision)
        recall, replay = (_Place(Path(work), options, tenant) for tenant in ("recall", "replay"))
        await _recall(measured, recall, screen, kept)
        if not options.recall_only:
            await _determinism(measured, recall, screen, embedder)
            await _replays(measured, replay, screen, kept)
    figures = report.figures(measured, options, skipped, seconds=time.monotonic() - started)
    report.write(figures, out / "eval.json")
    report.write_digests(measured, out / "bundles.sha256")
    report.show(figures, console)
    try:
        from sidecar.evaluation import charts  # noqa: PLC0415 - matplotlib is an extra, and slow to import
    except ImportError:
        console.print("no charts: matplotlib is not installed (pip install 'standpipe\\[eval]')", style="yellow")
    else:
        strips = {one.data.name: one.strip for one in measured}
        for path in charts.draw(figures, strips, out):
            console.print(f"[dim]wrote[/] {path}")
    console.print(f"[dim]wrote[/] {out / 'eval.json'}")
    return figures


class _Place:
    """Where a part of the measuring happens: by itself, also on stores that others use, or that were used before."""

    def __init__(self, directory: Path, options: Options, name: str) -> None:
        self.options = options
        self._address = f"unix:{directory / name}.sock"
        self.config = Config(
            tenant=f"eval-{name}-{secrets.token_hex(4)}",
            listen=(self._address,),
            http="",
            record=options.record or f"sqlite:{directory / name}.db",
            hot=options.hot,
            models_dir=str(options.models_dir),
            plaintext=True,
            embedder=options.embedder,
            precision=options.precision,
            tokenizers=(options.tokenizer,),
            reflection=False,
            log_level="error",
        )

    @contextlib.asynccontextmanager
    async def serving(self, embedder: Embedder | None = None) -> AsyncIterator[standpipe.Client]:
        """Run a server, and yield a client of it. `embedder` None: it loads its own."""
        async with (
            Server(self.config, embedder=embedder),
            standpipe.connect(self._address, deadline_ms=_DEADLINE_MS) as client,
        ):
            published = await client.policies.publish(POLICY.format(tokenizer=self.options.tokenizer))
            await client.policies.set_route("default", "eval", published.policy.version)
            yield client


async def _recall(measured: list[Measured], place: _Place, screen: _Screen, embedder: Embedder | None) -> None:
    async with place.serving(embedder) as client:
        await _commit_all(measured, client, place.options, screen)
        await no_lag(client, screen)
        everything = _everything(measured)
        with screen.phase("asking the questions", len(everything)) as done:
            await each(everything, lambda pair: _ask(client, *pair), done)
        if not place.options.recall_only:
            with screen.phase("asking again", len(everything)) as done:
                await each(everything, lambda pair: _same(client, *pair, "again"), done)


async def _determinism(measured: list[Measured], place: _Place, screen: _Screen, embedder: Embedder | None) -> None:
    everything = _everything(measured)
    async with place.serving(embedder) as client:
        with screen.phase("asking after a restart", len(everything)) as done:
            await each(everything, lambda pair: _same(client, *pair, "restart"), done)
        with screen.phase("replaying the receipts", len(everything)) as done:
            await each(everything, lambda pair: _replayed(client, *pair, "replay"), done)
    record = await open_record(place.config)
    try:
        await rebuild(record)
    finally:
        await record.close()
    async with place.serving(embedder) as client:
        await no_lag(client, screen)
        with screen.phase("asking after a rebuild", len(everything)) as done:
            await each(everything, lambda pair: _same(client, *pair, "rebuild"), done)
        with screen.phase("replaying after it", len(everything)) as done:
            await each(everything, lambda pair: _replayed(client, *pair, "replay_after_rebuild"), done)


def _everything(measured: list[Measured]) -> list[tuple[Measured, Asked]]:
    return [(one, asked) for one in measured for asked in one.asked]


async def _commit_all(measured: list[Measured], client: standpipe.Client, options: Options, screen: _Screen) -> None:
    work = []
    for at, one in enumerate(measured):
        for place, conversation in enumerate(one.data.conversations):
            subject = f"{at}.{place}"
            work.append((one, conversation, subject))
            last = f"{subject}.{len(conversation.sessions) - 1}"
            one.asked += [
                Asked(question, subject, last, f"{subject} question {number}")
                for number, question in enumerate(conversation.questions[: options.questions_max])
            ]
    total = sum(len(conversation.turns) for _, conversation, _ in work)
    with screen.phase("committing the turns", total) as done:
        await each(work, lambda item: _commit(client, *item, done), lambda: None)


async def _commit(
    client: standpipe.Client,
    one: Measured,
    conversation: Conversation,
    subject: str,
    done: Callable[[], None],
) -> None:
    for place, turns in enumerate(conversation.sessions):
        session = client.session(f"{subject}.{place}", subject=subject)
        version = 0
        for turn in turns:
            try:
                commit = await session.commit(entries(turn), expected_version=version)
            except StandpipeError as error:
                one.notes[f"turns_refused_{error.reason}"] += 1
            else:
                version = commit.version
                one.turn_of[session.id, version] = turn.id
            done()


def entries(turn: Turn) -> list[Any]:
    """Write a turn as a commit takes it."""
    say = standpipe.user if turn.is_user else standpipe.assistant
    return [say(text, speaker=turn.speaker, at=turn.at) for text in turn.texts]


async def no_lag(client: standpipe.Client, screen: _Screen | None = None) -> None:
    """Wait until every item has its vector."""
    lag = (await client.server_info()).projection_lag_items
    if screen is None:
        while lag:
            await asyncio.sleep(0.004)
            lag = (await client.server_info()).projection_lag_items
        return
    with screen.phase("embedding", lag) as done:
        while lag:
            await asyncio.sleep(0.2)
            now = (await client.server_info()).projection_lag_items
            done(lag - now)
            lag = now


async def _ask(client: standpipe.Client, one: Measured, asked: Asked) -> None:
    """Ask a question after the conversation, at every budget, and at the end of its last session."""
    for budget in BUDGETS:
        bundle = await _hydrate(client, one, asked, asked.session, budget)
        asked.found[budget] = _found(one, asked, bundle)
        one.digests[f"{asked.name} {budget}"] = _digest(bundle)
        if budget == BUDGET and bundle is not None:
            asked.served = bundle.message.SerializeToString(deterministic=True)
            asked.receipt = bundle.receipt
    bundle = await _hydrate(client, one, asked, asked.last_session, BUDGET)
    asked.found_in_session = _found(one, asked, bundle)
    one.digests[f"{asked.name} in its session"] = _digest(bundle)


def _digest(bundle: standpipe.Bundle | None) -> str:
    """Return the SHA-256 of a bundle's bytes, in hex; nothing for none."""
    return hashlib.sha256(bundle.message.SerializeToString(deterministic=True)).hexdigest() if bundle else "none"


def _found(one: Measured, asked: Asked, bundle: standpipe.Bundle | None) -> float:
    if bundle is None or not asked.question.evidence:
        return 0.0
    refs = ((ref.session_id, ref.version) for segment in segments_of(bundle) for ref in segment.citations)
    return share_found((one.turn_of[ref] for ref in refs if ref in one.turn_of), asked.question.evidence)


async def _hydrate(
    client: standpipe.Client, one: Measured, asked: Asked, session: str, budget: int
) -> standpipe.Bundle | None:
    """Hydrate for a question; None, and a note, if the server cannot."""
    try:
        ask = client.session(session, subject=asked.subject).hydrate
        return await _whole(partial(ask, asked.question.text, budget_tokens=budget), one.notes)
    except StandpipeError as error:
        one.notes[f"hydrates_failed_{error.reason}"] += 1
        return None


async def _whole(hydrate: Callable[[], Awaitable[standpipe.Bundle]], notes: Counter[str]) -> standpipe.Bundle:
    """Hydrate until nothing is missing for want of time; what is still missing then is noted."""
    for attempt in range(_ATTEMPTS):
        bundle = await hydrate()
        causes = {one.cause for one in bundle.degraded} - {"embedder_off", "items_max"}
        if not causes:
            return bundle
        await asyncio.sleep(0.2 * (attempt + 1))
    notes.update(f"hydrates_degraded_{cause}" for cause in causes)
    return bundle


async def _same(client: standpipe.Client, one: Measured, asked: Asked, check: str) -> None:
    """Ask once more, and compare with what was served first."""
    bundle = await _hydrate(client, one, asked, asked.session, BUDGET)
    _compare(one, asked, check, bundle)


async def _replayed(client: standpipe.Client, one: Measured, asked: Asked, check: str) -> None:
    """Render the receipt of what was served first, and compare."""
    bundle = None
    if asked.receipt:
        try:
            bundle = (await client.replay(asked.receipt)).bundle
        except StandpipeError as error:
            one.notes[f"replays_failed_{error.reason}"] += 1
    _compare(one, asked, check, bundle)


def _compare(one: Measured, asked: Asked, check: str, bundle: standpipe.Bundle | None) -> None:
    one.checks[check] += 1
    now = bundle.message.SerializeToString(deterministic=True) if bundle is not None else b""
    if now and now == asked.served:
        return
    one.mismatches[check] += 1
    if one.first_mismatch is None:
        one.first_mismatch = {"check": check, "question": asked.question.id, "subject": asked.subject}
        one.first_mismatch |= difference(asked.served, now)


async def _replays(measured: list[Measured], place: _Place, screen: _Screen, kept: Embedder | None) -> None:
    work = [
        (one, conversation, f"{number}.{place}")
        for number, one in enumerate(measured)
        for place, conversation in enumerate(one.data.conversations)
    ]
    total = sum(-(-len(conversation.turns) // 2) for _, conversation, _ in work)
    async with place.serving(kept) as client:
        with screen.phase("replaying as one session", total) as done:
            for one, conversation, subject in work:
                found = await _replay(client, one, conversation, subject, done)
                one.reuse += found
                if len(found.strip) > len(one.strip):
                    one.strip = found.strip


async def _replay(
    client: standpipe.Client,
    one: Measured,
    conversation: Conversation,
    subject: str,
    done: Callable[[], None],
) -> Reuse:
    """Replay a conversation as one session: hydrate for the next turn, at both budgets, then commit it."""
    session = client.session(subject, subject=subject)
    turns = conversation.turns
    requests = []
    for at in range(0, len(turns), 2):
        query = turns[at].texts[0][:8000]
        await no_lag(client)
        large = partial(session.hydrate, query, budget_tokens=REPLAY_BUDGET, caps={"recall": REPLAY_RECALL})
        bundle = await _whole(large, one.notes)
        requests.append(request_of(bundle))
        small = await _whole(partial(session.hydrate, query, budget_tokens=BUDGET), one.notes)
        one.digests[f"{subject} at {at} {REPLAY_BUDGET}"] = _digest(bundle)
        one.digests[f"{subject} at {at} {BUDGET}"] = _digest(small)
        assert small.tax is not None
        prompts = sum(section.tokens for section in small.sections if section.source == Source.SOURCE_POLICY)
        one.sent_tokens += small.tokens
        one.transcript_tokens += prompts + small.tax.transcript_tokens
        said = [entry for turn in turns[at : at + 2] for entry in entries(turn)]
        try:
            await session.commit(said, bundle=bundle)
        except StandpipeError as error:
            one.notes[f"replay_turns_refused_{error.reason}"] += 1
        done()
    return reuse(requests)


async def each(items: Sequence[T], work: Callable[[T], Awaitable[None]], done: Callable[[], None]) -> None:
    """Do all of it, a few at a time."""
    free = asyncio.Semaphore(_HYDRATES_AT_ONCE)

    async def one(item: T) -> None:
        async with free:
            await work(item)
            done()

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(one(item))
