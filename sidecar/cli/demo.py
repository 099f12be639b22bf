"""``standpipe demo``: a conversation played against a real server, and what came of it, for people to look at."""

from __future__ import annotations

import asyncio
import json
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from sidecar.cli import show
from sidecar.cli.model import models_dir
from sidecar.errors import ModelInvalid

if TYPE_CHECKING:
    from sidecar.demo.play import Asked, Played

CLIENT = """\
import asyncio, standpipe

async def answer(bundle):  # called again if another writer was first
    return await your_model(bundle.to_openai())

async def main():
    async with standpipe.connect("127.0.0.1:7460") as client:
        session = client.session("kitchen-5", subject="nora")
        commit, bundle = await session.turn("Will it fit our lift?", answer)
        replay = await client.replay(bundle.receipt)
        print(commit.version, replay.bundle.fingerprint)

asyncio.run(main())
"""


@click.command()
@models_dir
@click.option("--embedder", default="all-MiniLM-L6-v2", show_default=True, help="Its directory there, or none.")
@click.option("--plain", is_flag=True, help="No colours and no block characters, 80 columns.")
@click.option("--json", "as_json", is_flag=True, help="Print what happened as JSON.")
def demo(directory: Path, embedder: str, *, plain: bool, as_json: bool) -> None:
    """Play a conversation against a real server, and show the bundle.

    The server is in this process, on a loopback port, over stores in a temporary directory. No model is called:
    the assistant's words are part of the data. The relevance is real: nothing is known of the answers beforehand.
    """
    from sidecar.demo import play, story

    _check_models(directory, embedder)
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        show.fail("there is no directory to write to; TMPDIR names one")
    done = asyncio.run(play.play(story.load(), models_dir=str(directory), embedder=embedder))
    if as_json:
        click.echo(json.dumps(figures(done), indent=2, ensure_ascii=False))
    else:
        tell(show.stdout(plain=plain), done)


def _check_models(directory: Path, embedder: str) -> None:
    """Say what to run before anything starts. Raises ModelInvalid."""
    where = "" if directory == Path("models") else f" --to {directory}"
    missing = []
    if embedder != "none" and not (directory / embedder).is_dir():
        missing.append(f"standpipe model fetch{where}")
    if not (directory / "tokenizers" / "o200k_base.tiktoken").is_file():
        missing.append(f"standpipe model ranks{where}")
    if missing:
        words = "" if len(missing) > 1 or "ranks" in missing[0] else ", or try --embedder none"
        raise ModelInvalid(f"{directory} lacks what the demo needs; run: {' && '.join(missing)}{words}")


def figures(done: Played) -> dict[str, Any]:
    """Return what happened as plain data."""
    race, retry = done.race, done.retry
    return {
        "turns": done.turns,
        "sessions": len(done.story.sessions),
        "provider": done.provider,
        "bundle": show.fields(done.bundle.message),
        "fingerprint": done.bundle.fingerprint,
        "fingerprint_again": done.fingerprint_again,
        "replay_equal": done.replay_equal,
        "degraded": [item.cause for item in done.bundle.degraded],
        "asked": [
            {
                "question": one.question,
                "fact": one.fact,
                "told": show.fields(one.told),
                "days": one.days,
                "turns": one.turns,
                "source": one.source,
                "rank": one.rank,
                "score": one.score_micros / 1e6,
            }
            for one in done.asked
        ],
        "recorded": [
            {
                "claim": one.text,
                "source": show.fields(one.source),
                "outcome": one.outcome,
                "reasons": one.reasons,
                "section": one.section,
            }
            for one in done.recorded
        ],
        "race": {name: getattr(race, name) for name in race.__slots__},
        "retry": {"request_id": retry.request_id, "version": retry.second.version, "same": retry.same},
        "tokens": {"sent": done.sent_tokens, "transcript": done.transcript_tokens},
        "median_us": dict(done.median_us()),
        "seconds": round(done.seconds, 3),
    }


def tell(console: Console, done: Played) -> None:
    """Show what happened."""
    story, question = done.story, done.story.question
    first, last = story.sessions[0].turns[0].at, question.at
    console.print(
        f"{done.turns} turns in {len(story.sessions)} sessions, {first:%Y-%m-%d} to {last:%Y-%m-%d}: hydrated,"
        " answered and committed over gRPC. No model was called; the assistant's words are part of the story."
    )
    show.heading(console, "Then the user asks")
    console.print(Padding(Text(question.said, style="italic"), (0, 2)))
    show.heading(console, "What the model gets to see")
    show.bundle(console, done.bundle, quote=lambda at: done.said.get((at.session_id, at.version, at.entry), ""))
    remembered = [row for one in done.asked for row in (*_asked(one), ("", ""))][:-1]
    show.facts(console, remembered, title="What was remembered")
    show.facts(console, _recorded(done), title="What is held true")
    show.facts(console, _proofs(done), title="What can be relied on")
    show.facts(console, _costs(done), title="What it cost")
    show.heading(console, "The same from your code, beside a running `standpipe serve`")
    console.print(Text(textwrap.indent(CLIENT.rstrip(), "  ")), soft_wrap=True)


def _asked(one: Asked) -> Iterator[tuple[str, str | Text]]:
    yield "asked", one.question
    yield "told", one.fact
    found = f"in {one.source}" if one.source else "not in the bundle"
    rank = f", rank {one.rank}, score {one.score_micros / 1e6:.2f}" if one.rank else ""
    where = f"{found}{rank}: said {one.days} days and {one.turns} turns before, in {show.ref(one.told)}"
    yield "found", Text(where, style="green" if one.source else "red")


def _recorded(done: Played) -> Iterator[tuple[str, str | Text]]:
    for one in done.recorded:
        why = f" ({', '.join(one.reasons)}): a review decides" if one.reasons else ""
        shown = f"shown in {one.section}" if one.section else "in no bundle"
        text = f"{one.text}; {shown}, said in {show.ref(one.source)}{why}"
        yield one.outcome, Text(text, style="green" if one.section else "yellow")


def _proofs(done: Played) -> Iterator[tuple[str, str]]:
    race, retry = done.race, done.retry
    same = done.bundle.fingerprint == done.fingerprint_again
    versions = ", then ".join(map(str, race.turn_versions))
    yield "twice", f"the same hydrate again: fingerprint {done.fingerprint_again[:12]}…, {_verdict(same)}"
    size = len(done.bundle.receipt)
    yield "replay", f"from its receipt of {size} bytes: {_verdict(done.replay_equal)}, byte for byte"
    both = f"phone and laptop both answered version {race.version}, and {race.winner} came first."
    told = f"{race.loser} was refused and told: version is {race.told_version}, won by {race.told_winner}."
    yield "conflict", f"{both} {told} Nothing was lost."
    once_more = f"session.turn answered version {versions}, since the phone was first once more"
    yield "again", f"{once_more}, and committed version {race.committed_version}."
    stored = f"{retry.request_id} sent twice: the stored answer came back, version {retry.second.version}"
    yield "retry", f"{stored}, {_verdict(retry.same)}; nothing was written."


def _costs(done: Played) -> Iterator[tuple[str, str]]:
    median, tokens, whole = done.median_us(), done.bundle.tokens, done.last_transcript_tokens
    sent, instead = done.sent_tokens, done.transcript_tokens
    yield (
        "tokens",
        f"{tokens:,} for this question, where all that was ever said has {whole:,} ({tokens / whole:.0%})",
    )
    yield "", f"{sent:,} over {len(done.timings)} questions, in place of {instead:,} ({sent / instead:.0%})"
    phases = ", ".join(f"{name} {us / 1000:.1f}" for name, us in median.items() if name not in ("total", "commit"))
    yield "hydrate", f"{show.milliseconds(median['total'])} in the median: {phases}"
    yield "commit", f"{show.milliseconds(median['commit'])} in the median, durable on disk and over gRPC"
    yield "all", f"{done.seconds:.1f} s, embeddings by {done.provider}"


def _verdict(good: bool) -> str:
    return "equal" if good else "DIFFERENT"
