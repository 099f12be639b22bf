"""What no company, no provider and no precision may change: ``python -m tests.eval.embedding``.

`invariance`: texts are embedded through the queue one at a time, and then by many callers at once, in random portions
and order, queries among passages. Every vector must have the same bits (P6). It is done on every provider at hand, as
it serves, and on the CPU also in the padded shapes that a GPU runs, with several texts a run.

`recall`: the evidence recall of an evaluation with each precision of the weights, which may not lose more than a point
against fp32.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from sidecar.batching import EmbedQueue
from sidecar.embed import Embedder
from sidecar.errors import ConfigInvalid, Overloaded
from sidecar.evaluation.evaluate import evaluate
from sidecar.evaluation.measured import BUDGETS, Options
from sidecar.model import MODEL_FILES, Model, Precision
from tests.bench.said import Said

MODEL = "all-MiniLM-L6-v2"
POINT = 0.01
PORTION = 48
"""The most texts of one call in company."""

CALLS_AT_ONCE = 24
PADDED = (64, 512)
"""Tokens of a run of queries and of passages, where the CPU runs as a GPU does: two texts of the longest in one run."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way that texts are embedded."""

    precision: Precision
    device: str = "cpu"
    padded: tuple[int, int] | None = None

    def embedder(self, model: Model) -> Embedder:
        """Load it."""
        return Embedder(model, precision=self.precision, device=self.device, padded=self.padded)

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}{', padded as on a GPU' if self.padded else ''}"


async def differing(embedder: Embedder, passages: Sequence[str], queries: Sequence[str], *, seed: int) -> list[int]:
    """Return the places of texts, passages before queries, whose vectors have other bits in company than alone."""
    queue = EmbedQueue(embedder)
    texts = [*((text, False) for text in passages), *((text, True) for text in queries)]
    alone = [(await queue.embed([text], query=query)).vectors[0].tobytes() for text, query in texts]
    company: list[bytes] = [b""] * len(texts)
    free = asyncio.Semaphore(CALLS_AT_ONCE)

    async def call(places: Sequence[int], *, query: bool) -> None:
        async with free:
            while True:
                try:
                    found = await queue.embed([texts[place][0] for place in places], query=query)
                    break
                except Overloaded as error:
                    await asyncio.sleep((error.retry_after_ms or 100) / 1000)
        for place, vector in zip(places, found.vectors, strict=True):
            company[place] = vector.tobytes()

    async with asyncio.TaskGroup() as group:
        for places, query in _portions(len(passages), len(queries), random.Random(seed)):
            group.create_task(call(places, query=query))
    await queue.close()
    return [place for place, pair in enumerate(zip(alone, company, strict=True)) if pair[0] != pair[1]]


def _portions(passages: int, queries: int, random_: random.Random) -> Iterator[tuple[list[int], bool]]:
    """Cut all places into calls of one kind each, in random order and of random sizes."""
    calls = []
    for query, places in ((False, list(range(passages))), (True, list(range(passages, passages + queries)))):
        random_.shuffle(places)
        while places:
            size = random_.randint(1, PORTION)
            calls.append((places[:size], query))
            del places[:size]
    random_.shuffle(calls)
    yield from calls


def ways(model: Model, device: str) -> list[Way]:
    """List what is at hand. A GPU is looked for where `device` says so, and must then be there."""
    there: list[Precision] = [one for one in get_args(Precision) if (model.directory / MODEL_FILES[one]).exists()]
    found = [Way(one) for one in there]
    found += [Way(one, padded=PADDED) for one in there if one != "int8"]  # quantised as it goes: for a CPU alone
    return found if device == "cpu" else [Way(one, device="gpu") for one in there if one != "int8"] + found


def invariance(given: argparse.Namespace, console: Console) -> bool:
    """Show it on everything at hand; return whether it holds."""
    model = Model.open(given.models_dir / MODEL)
    table = Table(title="Bits alone and in company", title_justify="left", title_style="bold", header_style="dim")
    for name, justify in (
        ("way", "left"),
        ("provider", "left"),
        ("texts", "right"),
        ("differ", "right"),
        ("s", "right"),
    ):
        table.add_column(name, justify=justify)
    holds = True
    for way in ways(model, given.device):
        started = time.monotonic()
        embedder = way.embedder(model)
        said = Said(11)
        count = given.padded_texts if way.padded else given.texts
        passages, queries = said.passages(count - count // 4), said.queries(count // 4)
        different = asyncio.run(differing(embedder, passages, queries, seed=count))
        holds = holds and not different
        mark = f"[red]{len(different)}[/]" if different else "[green]0[/]"
        table.add_row(str(way), embedder.provider, f"{count:,}", mark, f"{time.monotonic() - started:.0f}")
        print(f"{way}: {len(different)} of {count} differ", file=sys.stderr, flush=True)
    console.print(table)
    return holds


def recall(given: argparse.Namespace, console: Console) -> bool:
    """Evaluate with each precision; return whether none loses more than a point."""
    found: dict[Precision, dict[str, Any]] = {}
    for precision in given.precision or get_args(Precision):
        options = Options(
            given.models_dir, precision=precision, recall_only=True, conversations_max=given.conversations,
            questions_max=given.questions,
        )  # fmt: skip
        out = given.out / precision
        found[precision] = asyncio.run(evaluate(given.data, out, options, console=Console(quiet=True)))
    table = Table(
        title="Evidence recall by precision", title_justify="left", title_style="bold", header_style="dim"
    )  # fmt: skip
    table.add_column("set")
    table.add_column("tokens", justify="right")
    for precision in found:
        table.add_column(precision, justify="right")
    holds = True
    for name in next(iter(found.values()))["sets"]:
        for budget in BUDGETS:
            values = {one: figures["sets"][name]["evidence_recall"][str(budget)] for one, figures in found.items()}
            cells = []
            for precision, value in values.items():
                if value is None:
                    cells.append("-")
                    continue
                full = values.get("fp32")
                if full is None or precision == "fp32":
                    cells.append(f"{value:.4f}")
                    continue
                lost = round(full - value, 6)
                holds = holds and lost <= POINT
                cells.append(f"[{'red' if lost > POINT else 'default'}]{value:.4f}[/] [dim]{-lost:+.4f}[/]")
            table.add_row(name, f"{budget:,}", *cells)
        table.add_section()
    console.print(table)
    return holds


def main() -> int:
    """Return 0 if it holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.eval.embedding", description=__doc__.partition("\n")[0])
    parser.add_argument("--models-dir", type=Path, default=Path(".cache/models"))
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("invariance")
    one.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    one.add_argument("--texts", type=int, default=10_000)
    one.add_argument(
        "--padded-texts", type=int, default=2000, help="of the CPU's runs in padded shapes, which are slow"
    )
    one = what.add_parser("recall")
    one.add_argument("data", type=Path)
    one.add_argument("--out", type=Path, default=Path("build/embed"))
    one.add_argument("--precision", action="append", choices=get_args(Precision))
    one.add_argument("--conversations", type=int, help="the first N of each set")
    one.add_argument("--questions", type=int, help="the first N of each conversation")
    given = parser.parse_args()
    try:
        holds = {"invariance": invariance, "recall": recall}[given.what](given, Console(width=120))
    except ConfigInvalid as error:
        print(f"{error}", file=sys.stderr)
        return 2
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
