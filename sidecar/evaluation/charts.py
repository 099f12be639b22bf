"""The charts of an evaluation: recall by budget and by category, and one conversation to a prefix cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sidecar.evaluation.report import BASELINES, bars_of

INK, QUIET, FAINT = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, TEAL, AMBER, RED = "#2563eb", "#0d9488", "#d97706", "#dc2626"
_SHADES = ("#bfdbfe", "#60a5fa", "#1d4ed8")

_STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": FAINT,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "savefig.facecolor": "white",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.25,
    "savefig.dpi": 160,
}


def draw(figures: Mapping[str, Any], strips: Mapping[str, Sequence[tuple[int, int, int]]], out: Path) -> list[Path]:
    """Draw all charts into a directory; return their paths."""
    with plt.rc_context(_STYLE):
        drawn = [_recall(figures, out / "eval-recall.png"), _categories(figures, out / "eval-categories.png")]
        drawn += [
            _strip(name, figures["sets"][name], strip, out / f"eval-prefix-{name}.png")
            for name, strip in strips.items()
            if strip
        ]
    return drawn


def _recall(figures: Mapping[str, Any], path: Path) -> Path:
    sets = figures["sets"]
    figure, axes = plt.subplots(1, len(sets), figsize=(5.4 * len(sets), 4.4), squeeze=False, sharey=True)
    for axis, (name, one) in zip(axes[0], sets.items(), strict=True):
        _recall_of(axis, name, one)
    axes[0][0].set_ylabel("evidence turns that stand in the bundle")
    figure.tight_layout(w_pad=3)
    return _saved(figure, path)


def _recall_of(axis: Axes, name: str, one: Mapping[str, Any]) -> None:
    counts = one["counts"]
    values = {int(budget): value for budget, value in one["evidence_recall"].items() if value is not None}
    budgets = list(values)
    places = {budget: place for place, budget in enumerate(budgets)}
    source = counts["source"]
    ends: list[tuple[float, str, str, str]] = []
    for (label, line), colour in zip(_baselines(source).items(), (AMBER, QUIET), strict=False):
        if not line.keys() & places.keys():
            continue
        x = [places[budget] for budget in line if budget in places]
        y = [line[budget] for budget in line if budget in places]
        axis.plot(x, y, color=colour, linewidth=1.5, marker="o", markersize=4, linestyle=(0, (4, 2)))
        ends.append((y[-1], label, colour, "normal"))
    axis.plot([places[b] for b in budgets], list(values.values()), color=BLUE, linewidth=2.5, marker="o", markersize=7)
    if values:
        ends.append((list(values.values())[-1], "Standpipe", BLUE, "bold"))
    bars = bars_of(source)
    for budget, bar in bars.items():
        if budget in places:
            axis.hlines(bar, places[budget] - 0.16, places[budget] + 0.16, color=RED, linewidth=2, zorder=5)
            axis.annotate(
                f"bar {bar:.2f}", (places[budget], bar), (0, -5), textcoords="offset points",
                ha="center", va="top", fontsize=8, color=RED,
            )  # fmt: skip
    for budget, value in values.items():
        axis.annotate(
            f"{value:.3f}", (places[budget], value), (0, 9), textcoords="offset points", ha="center", va="bottom",
            color=BLUE, fontweight="bold",
        )  # fmt: skip
    for height, label, colour, weight in ends:
        axis.annotate(
            label, (len(places) - 1, height), (24, 0), textcoords="offset points", va="center",
            color=colour, fontweight=weight, fontsize=9,
        )  # fmt: skip
    axis.set_xticks(range(len(budgets)), [f"{budget:,}" for budget in budgets])
    axis.set_xlim(-0.35, len(budgets) - 1 + 0.95)
    axis.set_ylim(0, 1.09)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axis.grid(axis="y")
    axis.set_xlabel("tokens of the bundle, everything included")
    axis.set_title(f"{name}: evidence recall")
    axis.text(
        0, 1.0, f"{counts['questions_scored']:,} questions, {counts['conversations']} conversations",
        transform=axis.transAxes, color=QUIET, fontsize=9, va="bottom",
    )  # fmt: skip


def _baselines(source: str) -> Mapping[str, Mapping[int, float]]:
    return next((lines for name, lines in BASELINES.items() if source.startswith(name)), {})


def _categories(figures: Mapping[str, Any], path: Path) -> Path:
    sets = figures["sets"]
    rows = [max(1, len(one["by_category"])) for one in sets.values()]
    figure, axes = plt.subplots(
        len(sets), 1, figsize=(8, 0.62 * sum(rows) + 1.3 * len(sets)), squeeze=False,
        gridspec_kw={"height_ratios": rows},
    )  # fmt: skip
    for axis, (name, one) in zip(axes[:, 0], sets.items(), strict=True):
        categories = list(one["by_category"].items())
        for place, (_, by_budget) in enumerate(categories):
            values = list(by_budget.values())
            axis.plot([min(values), max(values)], [place, place], color=FAINT, linewidth=6, zorder=1)
            for value, colour in zip(values, _SHADES, strict=False):
                axis.scatter([value], [place], s=85, color=colour, zorder=3, edgecolor="white", linewidth=0.8)
            axis.annotate(
                f"{values[-1]:.2f}", (max(values), place), (9, 0), textcoords="offset points", va="center",
                fontsize=9, color=_SHADES[-1],
            )  # fmt: skip
        counts = one["counts"]["questions_by_category"]
        labels = [f"{_category(one, category)}  ({counts[category]})" for category, _ in categories]
        axis.set_yticks(range(len(categories)), labels)
        axis.tick_params(axis="y", colors=INK)
        axis.set_ylim(len(categories) - 0.4, -0.6)
        axis.set_xlim(0, 1.06)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axis.grid(axis="x")
        axis.set_title(f"{name}: evidence recall by category (questions)")
    budgets = figures["settings"]["budgets"]
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=9, color=colour, label=f"{budget:,} tokens")
        for budget, colour in zip(budgets, _SHADES, strict=False)
    ]
    figure.tight_layout(h_pad=2, rect=(0, 0.05, 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False)
    return _saved(figure, path)


_LOCOMO = {
    "1": "multi-hop",
    "2": "temporal",
    "3": "open domain",
    "4": "single-hop",
    "5": "adversarial, not scored",
}


def _category(one: Mapping[str, Any], category: str) -> str:
    if one["counts"]["source"].startswith("locomo") and category in _LOCOMO:
        return f"{category} {_LOCOMO[category]}"
    return category.replace("_", " ")


def _strip(name: str, one: Mapping[str, Any], strip: Sequence[tuple[int, int, int]], path: Path) -> Path:
    repeated, new, recalled = zip(*strip, strict=True)
    before = [a + b for a, b in zip(repeated, new, strict=True)]
    figure, axis = plt.subplots(figsize=(11, 3.6))
    x = range(1, len(strip) + 1)
    axis.bar(x, repeated, width=1.0, color=TEAL, label="same as the request before: a prefix cache serves it")
    axis.bar(x, new, width=1.0, bottom=repeated, color=AMBER, label="new turns, or a new epoch")
    axis.bar(x, recalled, width=1.0, bottom=before, color=_SHADES[0], label="recall")
    axis.set_xlim(0.5, len(strip) + 0.5)
    axis.grid(axis="y")
    axis.set_xlabel("request, one per two turns")
    axis.set_ylabel("tokens")
    axis.yaxis.set_major_formatter("{x:,.0f}")
    figures = one["prefix_reuse"]
    axis.set_title(f"{name}: one conversation, as a prefix cache sees it", pad=40)
    axis.text(
        0, 1.13,
        f"over all conversations of the set {figures['stable']:.1%} of policy to history repeats, "
        f"{figures['all']:.1%} of everything",
        transform=axis.transAxes, color=QUIET, fontsize=9, va="bottom",
    )  # fmt: skip
    axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, fontsize=9)
    figure.tight_layout()
    return _saved(figure, path)


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    plt.close(figure)
    return path
