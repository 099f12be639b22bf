"""``python -m tests.bench --out build``: print the figures, draw them, write bench.json."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Bench, Figure
from tests.bench.served import ServedBench
from tests.servers import Postgres, Redis

FAMILIES = ("warm", "recall", "encryption", "commit", "process", "clients")

STORES = ("embedded", "served")


async def run(given: argparse.Namespace) -> dict[str, list[Figure]]:
    """Measure what was asked for; return figures by the stores that they were measured on."""
    found = {}
    counts = {"rounds": given.rounds, "calls": given.round_calls, "many": given.calls}
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="standpipe-bench-")))
        for stores in given.stores or STORES:
            place = work / stores
            place.mkdir()
            if stores == "embedded":
                bench = Bench(place, given.models_dir.resolve(), **counts)
            else:
                # Room for the vectors of a search in memory: what is measured is not the disk.
                postgres = stack.enter_context(Postgres(durable=True, shared_buffers="512MB"))
                redis = stack.enter_context(Redis())
                bench = ServedBench(place, given.models_dir.resolve(), postgres=postgres, redis=redis, **counts)
            await bench.fill(memories=given.memories)
            for family in given.only or FAMILIES:
                if family == "none" or (family, stores) == ("clients", "served"):
                    continue  # what a client adds does not depend on the stores
                await (bench.recall(given.memories) if family == "recall" else getattr(bench, family)())
            if given.profile:
                await bench.profile(given.out / stores)
            found[bench.title] = bench.figures
    return found


def show(title: str, figures: list[Figure], console: Console) -> None:
    """Print a table."""
    table = Table(title=f"Standpipe on {title}, ratios of one run", title_justify="left", header_style="dim")
    table.add_column("figure", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("bar", justify="right")
    table.add_column("")
    table.add_column("what is behind it: p50 / p95 / p99 in ms", overflow="fold")
    for one in figures:
        bar = "" if one.bar is None else f"{'≤' if one.at_most else '≥'} {one.bar:g}"
        mark = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[one.met]
        ms = "\n".join(
            f"{side}: {' / '.join(f'{value:.2f}' for value in cut.values())}" for side, cut in one.ms.items()
        )
        unit = "" if one.unit == "times" else f" {one.unit}"
        table.add_row(one.title, f"{one.value:g}{unit}", bar, mark, "\n".join(filter(None, (ms, one.note))))
    console.print(table)


def draw(title: str, figures: list[Figure], path: Path) -> None:
    """Draw every figure that has a bar against it, one scale for all: the bar is 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [one for one in figures if one.bar is not None]
    figure, axis = plt.subplots(figsize=(10.5, 0.52 * len(rows) + 1.4))
    for place, one in enumerate(rows):
        # To the left of 1 is better, whichever way the bar points.
        share = one.value / one.bar if one.at_most else one.bar / max(one.value, 1e-9)
        colour = "#0d9488" if one.met else "#dc2626"
        axis.barh(place, share, height=0.56, color=colour, alpha=0.9)
        unit = "×" if one.unit == "times" else f" {one.unit}"
        axis.annotate(
            f"{one.value:g}{unit}", (share, place), (6, 0), textcoords="offset points", va="center",
            color=colour, fontweight="bold", fontsize=9.5, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
        axis.annotate(
            f"{'≤' if one.at_most else '≥'} {one.bar:g}", (1.0, place), xycoords=("axes fraction", "data"),
            xytext=(8, 0), textcoords="offset points", va="center", color="#7b8794", fontsize=9.5,
        )  # fmt: skip
    axis.axvline(1, color="#1f2933", linewidth=1.2)
    axis.annotate(
        "bar",
        (1, -0.62),
        (0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9,
        color="#1f2933",
    )
    axis.set_yticks(range(len(rows)), [one.title for one in rows], fontsize=9.5)
    axis.set_ylim(len(rows) - 0.4, -0.62)
    axis.set_xlim(0, max(1.25, *(one.value / one.bar if one.at_most else one.bar / one.value for one in rows)) * 1.14)
    axis.set_xticks([])
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(f"{title}, against the bars: shorter is better", loc="left", fontsize=12, fontweight="bold", pad=22)
    figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.25)
    plt.close(figure)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build"))
    default = os.environ.get("STANDPIPE_MODELS_DIR") or ".cache/models"
    parser.add_argument("--models-dir", type=Path, default=Path(default))
    parser.add_argument("--rounds", type=int, default=7, help="the figure is the median of so many")
    parser.add_argument("--round-calls", type=int, default=120, help="calls of each side in a round")
    parser.add_argument("--calls", type=int, default=20_000, help="calls after which memory is looked at")
    parser.add_argument("--memories", type=int, default=100_000, help="of the large scope")
    parser.add_argument("--stores", action="append", choices=STORES)
    parser.add_argument("--only", action="append", choices=(*FAMILIES, "none"))
    parser.add_argument("--profile", action="store_true", help="also write profile-*.pstats")
    given = parser.parse_args()
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    found = asyncio.run(run(given))
    console = Console(width=150)
    for title, figures in found.items():
        show(title, figures, console)
        if any(one.bar is not None for one in figures):
            draw(title, figures, given.out / f"bench-{title.lower().replace(' ', '-')}.png")
    as_json = {title: {one.name: one.as_json() for one in figures} for title, figures in found.items()}
    (given.out / "bench.json").write_text(json.dumps(as_json, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
