"""The figures of embedding, as tables with their bars and as one chart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

INK, QUIET, FAINT = "#1f2933", "#7b8794", "#e4e7eb"
OURS = ("#2563eb", "#60a5fa", "#0d9488", "#93c5fd", "#5eead4")
THEIRS = ("#d97706", "#fbbf24")


def bars(figures: Mapping[str, Any]) -> list[tuple[str, float, str, float, bool]]:
    """Return what was promised: (title, value, unit, bar, whether it is at most that)."""
    found = [
        (f"least cosine with sentence-transformers, {name}", one["least"], "", one["bar"], False)
        for name, one in figures["cosine"].items()
    ]
    if "ratios" not in figures:
        return found
    first = next(iter(figures["ratios"]))
    ratios = figures["ratios"][first]
    if figures["on"] == "gpu":
        found.append(("texts a second over sentence-transformers, fp16", ratios["bulk"], "×", 2.0, False))
        found.append(("single query, p50", figures["sides"][first]["single"]["1"]["p50_ms"], " ms", 2.0, True))
    else:
        found.append(("sentence-transformers over int8, p50 of a single query", ratios["p50 at 1"], "×", 2.0, False))
    return found


def show(figures: Mapping[str, Any], console: Console) -> bool:
    """Print the tables; return whether a vector misses its bar."""
    if "sides" in figures:
        _show_sides(figures, console)
    table = Table(title="Bars", title_justify="left", title_style="bold", header_style="dim")
    for name, justify in (("figure", "left"), ("value", "right"), ("bar", "right"), ("", "left")):
        table.add_column(name, justify=justify)
    for title, value, unit, bar, at_most in bars(figures):
        met = value <= bar if at_most else value >= bar
        sign = "≤" if at_most else "≥"
        shown = f"{value:.6f}" if "cosine" in title else f"{value:.2f}"
        table.add_row(title, shown + unit, f"{sign} {bar:g}{unit}", "[green]met[/]" if met else "[red]missed[/]")
    console.print(table)
    for name, one in figures["cosine"].items():
        where = f"{one['provider']}, {one['texts']:,} texts: mean {one['mean']:.6f}"
        console.print(f"{name}: {where}, least {one['least']:.6f}", style="dim", highlight=False)
    return any(one["least"] < one["bar"] for one in figures["cosine"].values())


def _show_sides(figures: Mapping[str, Any], console: Console) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    table = Table(
        title=f"Embedding on {figures['device']}, {versions}; median of {figures['rounds']} rounds",
        title_justify="left", title_style="bold", header_style="dim",
    )  # fmt: skip
    table.add_column("side")
    for name in ("texts/s", "tokens/s", "of the ceiling", "× peer"):
        table.add_column(name, justify="right")
    callers = sorted({int(level) for one in figures["sides"].values() for level in one["single"]})
    for level in callers:
        table.add_column(f"{level} caller{'s' * (level > 1)}: p50 / p99 ms", justify="right")
    for name, one in figures["sides"].items():
        ratio = figures["ratios"].get(name, {}).get("bulk")
        cells = []
        for level in callers:
            single = one["single"].get(str(level))
            cells.append(_single(single, figures["ratios"].get(name, {}).get(f"p50 at {level}")) if single else "")
        table.add_row(
            name + (f"\n[dim]batches of {one['batch']}[/]" if one["batch"] else ""),
            f"{one['texts_per_s']:,.0f}", f"{one['tokens_per_s']:,}", f"{one['share_of_ceiling']:.1%}",
            f"{ratio:.2f}" if ratio else "", *cells,
        )  # fmt: skip
    console.print(table)
    for name, one in figures["ceiling"].items():
        after = figures["ceiling_after"][name]
        floor = figures["sides"][name]["single_floor_ms"]
        line = (
            f"{name}: ceiling {_flops(one['ops_per_s'])} (after: {_flops(after['ops_per_s'])}),"
            f" copy {one['bytes_per_s'] / 1e9:,.0f} GB/s; a median query cannot take less than"
            f" {floor['arithmetic']:.3f} ms of arithmetic or {floor['weights']:.3f} ms of reading weights"
        )
        console.print(line, style="dim", highlight=False)
    layers = ", ".join(f"{name} {ms:.3f}" for name, ms in figures["layers_ms"].items())
    console.print(f"a single query in ms, p50, from the inside out: {layers}", style="dim", highlight=False)
    texts = figures["texts"]
    console.print(
        f"texts have {texts['tokens_mean']} tokens in the mean, queries {texts['query_tokens_median']:g} in the median",
        style="dim", highlight=False,
    )  # fmt: skip


def _single(one: Mapping[str, Any], ratio: float | None) -> str:
    extra = [f"[bold]{ratio:.2f} ×[/]"] if ratio else []
    extra += [f"[dim]{one['form']}[/]"] if one["form"] != "directly" else []
    extra += [f"[dim]{one['refused']} refused[/]"] if one["refused"] else []
    return "\n".join([f"{one['p50_ms']:,.2f} / {one['p99_ms']:,.2f}", " ".join(extra)])


def _flops(value: float) -> str:
    return f"{value / 1e12:,.0f} Top/s" if value > 2e12 else f"{value / 1e9:,.0f} Gop/s"


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw bulk, single queries by callers, and where a query's time goes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {
        "font.size": 9.5, "text.color": INK, "axes.labelcolor": QUIET, "xtick.color": QUIET, "ytick.color": INK,
        "axes.edgecolor": FAINT, "axes.titlelocation": "left", "axes.titlesize": 11.5, "axes.titleweight": "bold",
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": FAINT,
        "xtick.major.size": 0, "ytick.major.size": 0,
    }  # fmt: skip
    names = list(figures["sides"])
    ours = iter(OURS)
    theirs = iter(THEIRS)
    colours = {name: next(ours if figures["sides"][name]["ours"] else theirs) for name in names}
    with plt.rc_context(style):
        figure, (bulk, single) = plt.subplots(
            2,
            1,
            figsize=(12, 0.42 * len(names) + 5.2),
            gridspec_kw={"height_ratios": (0.42 * len(names), 4), "hspace": 0.3},
        )
        _draw_bulk(bulk, figures, names, colours)
        _draw_single(single, figures, names, colours)
        figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.25)
        plt.close(figure)


def _draw_bulk(axis: Any, figures: Mapping[str, Any], names: list[str], colours: Mapping[str, str]) -> None:
    for place, name in enumerate(names):
        one = figures["sides"][name]
        axis.barh(place, one["tokens_per_s"], height=0.6, color=colours[name])
        ratio = figures["ratios"].get(name, {}).get("bulk")
        label = f"{one['texts_per_s']:,.0f} texts/s, {one['share_of_ceiling']:.0%} of the ceiling"
        axis.annotate(
            label + (f", {ratio:.2f}×" if ratio else ""), (one["tokens_per_s"], place), (6, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, max(one["tokens_per_s"] for one in figures["sides"].values()) * 1.4)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    axis.set_xlabel("tokens a second")
    axis.set_title("In bulk")


def _draw_single(axis: Any, figures: Mapping[str, Any], names: list[str], colours: Mapping[str, str]) -> None:
    levels = sorted({int(level) for one in figures["sides"].values() for level in one["single"]})
    step = 0.8 / len(names)
    for at, name in enumerate(names):
        for place, level in enumerate(levels):
            one = figures["sides"][name]["single"].get(str(level))
            if one is None:
                continue
            x = place + (at - (len(names) - 1) / 2) * step
            axis.plot([x, x], [one["p50_ms"], one["p99_ms"]], color=colours[name], linewidth=5, solid_capstyle="butt")
            axis.scatter([x], [one["p50_ms"]], color=colours[name], s=46, zorder=3, edgecolor="white")
            axis.annotate(
                f"{one['p50_ms']:{',.0f' if one['p50_ms'] >= 100 else '.3g'}}", (x, one["p50_ms"]), (0, -8),
                textcoords="offset points", ha="center", va="top", fontsize=7.5, color=QUIET,
            )  # fmt: skip
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.tick_params(axis="y", which="minor", left=False)
    axis.margins(x=0.01, y=0.12)
    axis.set_xticks(range(len(levels)), [f"{level} caller{'s' * (level > 1)}" for level in levels])
    axis.grid(axis="y")
    axis.set_ylabel("ms")
    axis.set_title("A single query, in the colours above: p50 (dot) to p99")
