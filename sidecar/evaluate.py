"""Measuring Standpipe on recorded conversations: ``standpipe eval DIR --out build``.

Everything goes through the API of a real server on a file of its own, under one policy for all sets:

- **Evidence recall.** Each conversation is a subject and is committed session by session, turn by turn. Then each
  question is asked from a new session of that subject. The figure is the share of the question's evidence turns
  that the bundle cites, in whatever section. The budget includes everything: prompts, fences, dates.
- **Prefix reuse.** Each conversation is replayed as one session, one request per two turns. The figure is the
  share of tokens that repeat the request before as an exact prefix, in whole segments: what a prefix cache can
  serve.
- **Tokens sent** by the same replay at a smaller budget, against sending the whole transcript each time.
- **Determinism.** Each question is asked again, asked after a restart, and asked after a rebuild from the log, and
  each receipt is replayed: the bundles must be equal byte for byte.

The conversations stay where they are: nothing but figures and ids is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import standpipe
from sidecar import conversations
from sidecar.config import Config
from sidecar.conversations import Conversation, DataSet, Question, Turn
from sidecar.embed import Embedder, Vector
from sidecar.model import Model
from sidecar.rebuild import rebuild
from sidecar.server import Server
from sidecar.stores.sqlite import SqliteRecord
from standpipe.errors import StandpipeError
from standpipe.v1.bundle_pb2 import Segment, Source

T = TypeVar("T")

BUDGETS: Final = (1000, 2000, 4000)
"""Of evidence recall, in tokens."""

BUDGET: Final = 2000
"""Of determinism, of questions in the session itself, and of the tokens sent."""

REPLAY_BUDGET: Final = 4000
REPLAY_RECALL: Final = 1000
"""What recall may take of it."""

POLICY: Final = """\
name: eval
tokenizer: {tokenizer}
budget_tokens: 4000
prompts:
  - name: system
    text: You are a helpful assistant with a long memory. Use what was said before; if it was never said, say so.
deadlines:
  embed_ms: 5000
"""

BARS: Final[Mapping[str, Mapping[int, float]]] = {
    "locomo": {1000: 0.86, 2000: 0.91, 4000: 0.95},
    "beam": {2000: 0.76},
}
"""The least evidence recall, by the conversations' source."""

BAR_STABLE, BAR_ALL, BAR_SENT = 0.88, 0.65, 0.20

BASELINES: Final[Mapping[str, Mapping[str, Mapping[int, float]]]] = {
    "locomo": {
        "plain hybrid": {1000: 0.717, 2000: 0.813, 4000: 0.879},
        "recent window": {1000: 0.043, 2000: 0.093, 4000: 0.191},
    },
    "beam": {"plain hybrid": {1000: 0.501, 2000: 0.581, 4000: 0.642}},
}
"""What simpler methods reach on public data of these sources, for the charts."""

_HYDRATES_AT_ONCE = 4
_ATTEMPTS = 5
"""Of a hydrate that came without something, such as the query's vector on a busy machine."""
_DEADLINE_MS = 60_000
_STABLE = (Source.SOURCE_POLICY, Source.SOURCE_PROFILE, Source.SOURCE_SUMMARY, Source.SOURCE_HISTORY)


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and with what."""

    models_dir: Path
    tokenizer: str = "cl100k_base"
    embedder: str = "all-MiniLM-L6-v2"
    conversations_max: int | None = None
    """Of each set; None for all."""
    questions_max: int | None = None
    """Of each conversation; None for all."""


# --- arithmetic ------------------------------------------------------------------------------------------------


def share_found(cited: Iterable[str], evidence: frozenset[str]) -> float:
    """Return the share of a question's evidence turns among the cited ones."""
    return len(evidence & set(cited)) / len(evidence)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a replay: its sections' segments as (text, tokens), and their epochs."""

    stable: Mapping[int, tuple[tuple[str, int], ...]]
    """By source, in order: policy to history."""
    epochs: Mapping[int, int]
    rest: tuple[tuple[str, int], ...]
    """Recall."""

    @property
    def front(self) -> list[tuple[str, int]]:
        """The segments from policy to history."""
        return [segment for part in self.stable.values() for segment in part]


@dataclass(slots=True)
class Reuse:
    """What the requests of a replay repeat of the request before, in tokens."""

    stable_repeated: int = 0
    stable_total: int = 0
    all_repeated: int = 0
    all_total: int = 0
    epochs: int = 0
    """How often a section from policy to history said that its bytes change."""
    undeclared: int = 0
    """How often one's bytes changed in another way than by growing, and its epoch did not: a breach of P13."""
    strip: list[tuple[int, int, int]] = field(default_factory=list)
    """By request: tokens repeated, new before recall, and recalled."""

    @property
    def stable(self) -> float:
        """The share from policy to history."""
        return self.stable_repeated / max(1, self.stable_total)

    @property
    def all(self) -> float:
        """The share of everything."""
        return self.all_repeated / max(1, self.all_total)

    def __iadd__(self, other: Reuse) -> Self:
        """Add another replay's; the strip stays this one's."""
        for name in ("stable_repeated", "stable_total", "all_repeated", "all_total", "epochs", "undeclared"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


def reuse(requests: Sequence[Request]) -> Reuse:
    """Measure how much of each request of a conversation repeats the one before as an exact prefix."""
    found = Reuse()
    before = Request({}, {}, ())
    for request in requests:
        front, everything = request.front, [*request.front, *request.rest]
        stable = _repeated(before.front, front)
        total = sum(tokens for _, tokens in front)
        recalled = sum(tokens for _, tokens in request.rest)
        found.stable_repeated += stable
        found.stable_total += total
        found.all_repeated += _repeated([*before.front, *before.rest], everything)
        found.all_total += total + recalled
        found.strip.append((stable, total - stable, recalled))
        for source, part in request.stable.items():
            if source in before.stable:
                if request.epochs[source] != before.epochs[source]:
                    found.epochs += 1
                elif part[: len(before.stable[source])] != before.stable[source]:
                    found.undeclared += 1
        before = request
    return found


def _repeated(before: Sequence[tuple[str, int]], now: Sequence[tuple[str, int]]) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
    return sum(segment[1] for segment, _ in same)


def request_of(bundle: standpipe.Bundle) -> Request:
    """Reduce a bundle to what a prefix cache sees of it."""
    parts = {
        section.source: tuple((segment.header + segment.body, segment.tokens) for segment in section.segments)
        for section in bundle.sections
    }
    return Request(
        stable={source: part for source, part in parts.items() if source in _STABLE},
        epochs={section.source: section.epoch for section in bundle.sections},
        rest=tuple(segment for source, part in parts.items() if source not in _STABLE for segment in part),
    )


def difference(before: bytes, after: bytes) -> dict[str, list[str]]:
    """Name the segments that only one of two serialised bundles has, by citation, and fields beside them."""
    from standpipe.v1.bundle_pb2 import Bundle  # noqa: PLC0415 - only for a report that should never be written

    old, new = Bundle.FromString(before), Bundle.FromString(after)
    names = [Counter(map(_segment_name, _segments(bundle))) for bundle in (old, new)]
    fields = [
        name
        for name in ("tokens", "fingerprint", "session_version", "omissions", "omission_counts", "policy")
        if getattr(old, name) != getattr(new, name)
    ]
    return {
        "only_before": sorted((names[0] - names[1]).elements())[:20],
        "only_after": sorted((names[1] - names[0]).elements())[:20],
        "fields": fields,
    }


def _segments(bundle: Any) -> Iterable[Segment]:
    return (segment for section in bundle.sections for segment in section.segments)


def _segment_name(segment: Segment) -> str:
    refs = ",".join(f"{ref.session_id}:{ref.version}.{ref.entry}" for ref in segment.citations)
    return f"{refs or 'frame'} tokens={segment.tokens} score={segment.score_micros}"


# --- the work ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Asked:
    """One question and what came of it."""

    question: Question
    subject: str
    last_session: str
    found: dict[int, float] = field(default_factory=dict)
    found_in_session: float = 0.0
    served: bytes = b""
    receipt: bytes = b""

    @property
    def session(self) -> str:
        return f"{self.subject}.new"


@dataclass(slots=True)
class _Measured:
    """One set on its way."""

    data: DataSet
    asked: list[_Asked] = field(default_factory=list)
    turn_of: dict[tuple[str, int], str] = field(default_factory=dict)
    """(session, version) -> turn id. Session ids lead with the conversation's number, so turn ids may repeat."""
    reuse: Reuse = field(default_factory=Reuse)
    strip: list[tuple[int, int, int]] = field(default_factory=list)
    sent_tokens: int = 0
    transcript_tokens: int = 0
    checks: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[str] = field(default_factory=Counter)
    first_mismatch: dict[str, Any] | None = None

    @property
    def notes(self) -> Counter[str]:
        return self.data.notes

    @property
    def source(self) -> str:
        return self.data.conversations[0].source.lower()


class _Remembering(Embedder):
    """Embeds a text once: the replays say again what the conversations said. Restart and rebuild go without it."""

    def __init__(self, model: Model) -> None:
        self._known: dict[str, Vector] = {}
        super().__init__(model)

    def embed_one(self, text: str) -> Vector:
        if text not in self._known:
            self._known[text] = super().embed_one(text)
        return self._known[text]


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


async def evaluate(directory: Path, out: Path, options: Options, *, console: Console | None = None) -> dict[str, Any]:
    """Measure the sets of a directory; write `out`/eval.json and charts, print a table, and return the figures.

    Raises FileNotFoundError if there is nothing to measure.
    """
    console = console or Console()
    sets, skipped = conversations.read(directory)
    for line in skipped:
        console.print(line, style="dim", highlight=False)
    if not sets:
        raise FileNotFoundError(f"no conversations in {directory}")
    for one in sets:
        one.conversations = one.conversations[: options.conversations_max]
    measured = [_Measured(one) for one in sets]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="standpipe-eval-") as work, _Screen() as screen:
        kept = None
        if options.embedder != "none":
            kept = await asyncio.to_thread(_Remembering, Model.open(options.models_dir / options.embedder))
        await _recall_and_determinism(measured, Path(work) / "recall.db", options, screen, kept)
        await _replays(measured, Path(work) / "replay.db", options, screen, kept)
    figures = _figures(measured, options, skipped, seconds=time.monotonic() - started)
    _write(figures, out / "eval.json")
    _print(figures, console)
    try:
        from sidecar import charts  # noqa: PLC0415 - matplotlib is an extra, and slow to import
    except ImportError:
        console.print("no charts: matplotlib is not installed (pip install 'standpipe\\[eval]')", style="yellow")
    else:
        strips = {one.data.name: one.strip for one in measured}
        for path in charts.draw(figures, strips, out):
            console.print(f"[dim]wrote[/] {path}")
    console.print(f"[dim]wrote[/] {out / 'eval.json'}")
    return figures


@contextlib.asynccontextmanager
async def _serving(path: Path, options: Options, embedder: Embedder | None = None) -> AsyncIterator[standpipe.Client]:
    """Run a server on a record store's file, and yield a client of it. `embedder` None: it loads its own."""
    address = f"unix:{path.with_suffix('.sock')}"
    config = Config(
        listen=(address,),
        http="",
        record=f"sqlite:{path}",
        models_dir=str(options.models_dir),
        embedder=options.embedder,
        tokenizers=(options.tokenizer,),
        reflection=False,
        log_level="error",
    )
    async with Server(config, embedder=embedder), standpipe.connect(address, deadline_ms=_DEADLINE_MS) as client:
        published = await client.policies.publish(POLICY.format(tokenizer=options.tokenizer))
        await client.policies.set_route("default", "eval", published.policy.version)
        yield client


async def _recall_and_determinism(
    measured: list[_Measured], path: Path, options: Options, screen: _Screen, kept: Embedder | None
) -> None:
    async with _serving(path, options, kept) as client:
        await _commit_all(measured, client, options, screen)
        await _no_lag(client, screen)
        everything = [(one, asked) for one in measured for asked in one.asked]
        with screen.phase("asking the questions", len(everything)) as done:
            await _each(everything, lambda pair: _ask(client, *pair), done)
        with screen.phase("asking again", len(everything)) as done:
            await _each(everything, lambda pair: _same(client, *pair, "again"), done)
    async with _serving(path, options) as client:
        with screen.phase("asking after a restart", len(everything)) as done:
            await _each(everything, lambda pair: _same(client, *pair, "restart"), done)
        with screen.phase("replaying the receipts", len(everything)) as done:
            await _each(everything, lambda pair: _replayed(client, *pair, "replay"), done)
    record = SqliteRecord(path)
    await record.open()
    try:
        await rebuild(record)
    finally:
        await record.close()
    async with _serving(path, options) as client:
        await _no_lag(client, screen)
        with screen.phase("asking after a rebuild", len(everything)) as done:
            await _each(everything, lambda pair: _same(client, *pair, "rebuild"), done)
        with screen.phase("replaying after it", len(everything)) as done:
            await _each(everything, lambda pair: _replayed(client, *pair, "replay_after_rebuild"), done)


async def _commit_all(measured: list[_Measured], client: standpipe.Client, options: Options, screen: _Screen) -> None:
    work = []
    for number, one in enumerate(measured):
        for place, conversation in enumerate(one.data.conversations):
            subject = f"{number}.{place}"
            work.append((one, conversation, subject))
            last = f"{subject}.{len(conversation.sessions) - 1}"
            one.asked += [
                _Asked(question, subject, last) for question in conversation.questions[: options.questions_max]
            ]
    total = sum(len(conversation.turns) for _, conversation, _ in work)
    with screen.phase("committing the turns", total) as done:
        await _each(work, lambda item: _commit(client, *item, done), lambda: None)


async def _commit(
    client: standpipe.Client,
    one: _Measured,
    conversation: Conversation,
    subject: str,
    done: Callable[[], None],
) -> None:
    for place, turns in enumerate(conversation.sessions):
        session = client.session(f"{subject}.{place}", subject=subject)
        version = 0
        for turn in turns:
            try:
                commit = await session.commit(_entries(turn), expected_version=version)
            except StandpipeError as error:
                one.notes[f"turns_refused_{error.reason}"] += 1
            else:
                version = commit.version
                one.turn_of[session.id, version] = turn.id
            done()


def _entries(turn: Turn) -> list[Any]:
    say = standpipe.user if turn.is_user else standpipe.assistant
    return [say(text, speaker=turn.speaker, at=turn.at) for text in turn.texts]


async def _no_lag(client: standpipe.Client, screen: _Screen | None = None) -> None:
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


async def _ask(client: standpipe.Client, one: _Measured, asked: _Asked) -> None:
    """Ask a question after the conversation, at every budget, and at the end of its last session."""
    for budget in BUDGETS:
        bundle = await _hydrate(client, one, asked, asked.session, budget)
        asked.found[budget] = _found(one, asked, bundle)
        if budget == BUDGET and bundle is not None:
            asked.served = bundle.message.SerializeToString(deterministic=True)
            asked.receipt = bundle.receipt
    asked.found_in_session = _found(one, asked, await _hydrate(client, one, asked, asked.last_session, BUDGET))


def _found(one: _Measured, asked: _Asked, bundle: standpipe.Bundle | None) -> float:
    if bundle is None or not asked.question.evidence:
        return 0.0
    refs = ((ref.session_id, ref.version) for segment in _segments(bundle) for ref in segment.citations)
    return share_found((one.turn_of[ref] for ref in refs if ref in one.turn_of), asked.question.evidence)


async def _hydrate(
    client: standpipe.Client, one: _Measured, asked: _Asked, session: str, budget: int
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


async def _same(client: standpipe.Client, one: _Measured, asked: _Asked, check: str) -> None:
    """Ask once more, and compare with what was served first."""
    bundle = await _hydrate(client, one, asked, asked.session, BUDGET)
    _compare(one, asked, check, bundle)


async def _replayed(client: standpipe.Client, one: _Measured, asked: _Asked, check: str) -> None:
    """Render the receipt of what was served first, and compare."""
    bundle = None
    if asked.receipt:
        try:
            bundle = (await client.replay(asked.receipt)).bundle
        except StandpipeError as error:
            one.notes[f"replays_failed_{error.reason}"] += 1
    _compare(one, asked, check, bundle)


def _compare(one: _Measured, asked: _Asked, check: str, bundle: standpipe.Bundle | None) -> None:
    one.checks[check] += 1
    now = bundle.message.SerializeToString(deterministic=True) if bundle is not None else b""
    if now and now == asked.served:
        return
    one.mismatches[check] += 1
    if one.first_mismatch is None:
        one.first_mismatch = {"check": check, "question": asked.question.id, "subject": asked.subject}
        one.first_mismatch |= difference(asked.served, now)


async def _replays(
    measured: list[_Measured], path: Path, options: Options, screen: _Screen, kept: Embedder | None
) -> None:
    work = [
        (one, conversation, f"{number}.{place}")
        for number, one in enumerate(measured)
        for place, conversation in enumerate(one.data.conversations)
    ]
    total = sum(-(-len(conversation.turns) // 2) for _, conversation, _ in work)
    async with _serving(path, options, kept) as client:
        with screen.phase("replaying as one session", total) as done:
            for one, conversation, subject in work:
                found = await _replay(client, one, conversation, subject, done)
                one.reuse += found
                if len(found.strip) > len(one.strip):
                    one.strip = found.strip


async def _replay(
    client: standpipe.Client,
    one: _Measured,
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
        await _no_lag(client)
        large = partial(session.hydrate, query, budget_tokens=REPLAY_BUDGET, caps={"recall": REPLAY_RECALL})
        bundle = await _whole(large, one.notes)
        requests.append(request_of(bundle))
        small = await _whole(partial(session.hydrate, query, budget_tokens=BUDGET), one.notes)
        assert small.tax is not None
        prompts = sum(section.tokens for section in small.sections if section.source == Source.SOURCE_POLICY)
        one.sent_tokens += small.tokens
        one.transcript_tokens += prompts + small.tax.transcript_tokens
        entries = [entry for turn in turns[at : at + 2] for entry in _entries(turn)]
        try:
            await session.commit(entries, bundle=bundle)
        except StandpipeError as error:
            one.notes[f"replay_turns_refused_{error.reason}"] += 1
        done()
    return reuse(requests)


async def _each(items: Sequence[T], work: Callable[[T], Awaitable[None]], done: Callable[[], None]) -> None:
    """Do all of it, a few at a time."""
    free = asyncio.Semaphore(_HYDRATES_AT_ONCE)

    async def one(item: T) -> None:
        async with free:
            await work(item)
            done()

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(one(item))


# --- figures ----------------------------------------------------------------------------------------------------


def _figures(measured: list[_Measured], options: Options, skipped: list[str], *, seconds: float) -> dict[str, Any]:
    total = Reuse()
    for one in measured:
        total += one.reuse
    return {
        "sets": {one.data.name: _set_figures(one) for one in measured},
        "prefix_reuse": _reuse_figures(total),
        "tokens_sent_over_transcript": _rounded(
            sum(one.sent_tokens for one in measured) / max(1, sum(one.transcript_tokens for one in measured))
        ),
        "deterministic": all(not one.mismatches for one in measured),
        "settings": {
            "tokenizer": options.tokenizer,
            "embedder": options.embedder,
            "policy": POLICY.format(tokenizer=options.tokenizer),
            "budgets": list(BUDGETS),
            "budget_of_sent_tokens_and_determinism": BUDGET,
            "replay_budget": REPLAY_BUDGET,
            "replay_recall": REPLAY_RECALL,
            "conversations_max": options.conversations_max,
            "questions_max": options.questions_max,
        },
        "skipped": skipped,
        "seconds": round(seconds, 1),
    }


def _set_figures(one: _Measured) -> dict[str, Any]:
    with_evidence = [asked for asked in one.asked if asked.question.evidence]
    scored = [asked for asked in with_evidence if not (one.data.is_locomo and asked.question.category == "5")]
    categories: dict[str, list[_Asked]] = defaultdict(list)
    for asked in with_evidence:
        categories[asked.question.category or "none"].append(asked)
    return {
        "evidence_recall": _means(scored),
        "evidence_recall_in_session": _mean([asked.found_in_session for asked in scored]),
        "by_category": {name: _means(categories[name]) for name in sorted(categories)},
        "prefix_reuse": _reuse_figures(one.reuse),
        "tokens_sent_over_transcript": _rounded(one.sent_tokens / max(1, one.transcript_tokens)),
        "deterministic": not one.mismatches,
        "determinism": {
            "checks": dict(one.checks),
            "mismatches": {name: one.mismatches[name] for name in one.checks},
            "first_mismatch": one.first_mismatch,
        },
        "counts": {
            "source": one.source,
            "conversations": len(one.data.conversations),
            "sessions": sum(len(conversation.sessions) for conversation in one.data.conversations),
            "turns": sum(len(conversation.turns) for conversation in one.data.conversations),
            "questions": len(one.asked),
            "questions_scored": len(scored),
            "questions_by_category": {name: len(categories[name]) for name in sorted(categories)},
            "tokens_sent": one.sent_tokens,
            "tokens_of_transcripts": one.transcript_tokens,
        },
        "notes": dict(sorted(one.notes.items())),
    }


def _reuse_figures(found: Reuse) -> dict[str, Any]:
    return {
        "stable": _rounded(found.stable),
        "all": _rounded(found.all),
        "tokens": found.all_total,
        "epochs": found.epochs,
        "undeclared_changes": found.undeclared,
    }


def _write(figures: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _means(asked: Sequence[_Asked]) -> dict[str, float | None]:
    return {str(budget): _mean([one.found[budget] for one in asked]) for budget in BUDGETS}


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(fmean(values)) if values else None


def _rounded(value: float) -> float:
    return round(value, 4)


def bars_of(source: str) -> Mapping[int, float]:
    """Return the bars of evidence recall for conversations of a source; none for others."""
    return next((bars for name, bars in BARS.items() if source.startswith(name)), {})


def _print(figures: Mapping[str, Any], console: Console) -> None:
    table = Table(title="Standpipe, measured", title_justify="left", title_style="bold", header_style="dim")
    for name, justify in (("set", "left"), ("figure", "left"), ("value", "right"), ("bar", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]

    def row(where: str, what: str, value: float | None, bar: float | None = None, *, at_most: bool = False) -> None:
        if value is None:
            table.add_row(where, what, "-", "", "")
            return
        mark = ""
        if bar is not None:
            met = value <= bar if at_most else value >= bar
            mark = "[green]met[/]" if met else "[red]missed[/]"
        sign = "≤" if at_most else "≥"
        table.add_row(where, what, f"{value:.3f}", f"{sign} {bar:.2f}" if bar is not None else "", mark)

    for name, one in figures["sets"].items():
        counts = one["counts"]
        bars = bars_of(counts["source"])
        for budget, value in one["evidence_recall"].items():
            row(name, f"evidence recall at {int(budget):,} tokens", value, bars.get(int(budget)))
        row(name, f"the same, in its last session, at {BUDGET:,}", one["evidence_recall_in_session"])
        row(name, "prefix reuse, policy to history", one["prefix_reuse"]["stable"], BAR_STABLE)
        row(name, "prefix reuse, everything", one["prefix_reuse"]["all"], BAR_ALL)
        row(name, "tokens sent / transcript", one["tokens_sent_over_transcript"], BAR_SENT, at_most=True)
        checks, wrong = sum(one["determinism"]["checks"].values()), sum(one["determinism"]["mismatches"].values())
        mark = "[green]met[/]" if not wrong else "[red]missed[/]"
        table.add_row(name, "bundles equal byte for byte", f"{checks - wrong}", f"{checks}", mark)
        table.add_section()
    row("all", "prefix reuse, policy to history", figures["prefix_reuse"]["stable"], BAR_STABLE)
    row("all", "prefix reuse, everything", figures["prefix_reuse"]["all"], BAR_ALL)
    row("all", "tokens sent / transcript", figures["tokens_sent_over_transcript"], BAR_SENT, at_most=True)
    console.print(table)
    categories = Table(title="Evidence recall by category", title_justify="left", header_style="dim")
    for column in ("set", "category", "questions", *(f"{budget:,}" for budget in BUDGETS)):
        categories.add_column(column, justify="left" if column in ("set", "category") else "right")
    for name, one in figures["sets"].items():
        for category, by_budget in one["by_category"].items():
            n = one["counts"]["questions_by_category"][category]
            categories.add_row(name, category, str(n), *(f"{value:.3f}" for value in by_budget.values()))
        categories.add_section()
    console.print(categories)
    for name, one in figures["sets"].items():
        for note, n in one["notes"].items():
            console.print(f"{name}: {note.replace('_', ' ')}: {n}", style="dim", highlight=False)
        if one["determinism"]["first_mismatch"]:
            console.print(f"{name}: first mismatch: {json.dumps(one['determinism']['first_mismatch'])}", style="red")
