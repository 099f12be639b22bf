"""The figures of an evaluation: as JSON, and as tables with their bars."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from rich.console import Console
from rich.table import Table

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
)

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


def figures(measured: list[Measured], options: Options, skipped: list[str], *, seconds: float) -> dict[str, Any]:
    """Return all figures, by set and over all."""
    total = Reuse()
    for one in measured:
        total += one.reuse
    return {
        "sets": {one.data.name: _set_figures(one) for one in measured},
        "prefix_reuse": _reuse_figures(total),
        "tokens_sent_over_transcript": _share(
            sum(one.sent_tokens for one in measured), sum(one.transcript_tokens for one in measured)
        ),
        "deterministic": None if options.recall_only else all(not one.mismatches for one in measured),
        "settings": {
            "tokenizer": options.tokenizer,
            "embedder": options.embedder,
            "precision": options.precision,
            "policy": POLICY.format(tokenizer=options.tokenizer),
            "budgets": list(BUDGETS),
            "budget_of_sent_tokens_and_determinism": BUDGET,
            "replay_budget": REPLAY_BUDGET,
            "replay_recall": REPLAY_RECALL,
            "conversations_max": options.conversations_max,
            "questions_max": options.questions_max,
            "recall_only": options.recall_only,
        },
        "skipped": skipped,
        "seconds": round(seconds, 1),
    }


def _set_figures(one: Measured) -> dict[str, Any]:
    with_evidence = [asked for asked in one.asked if asked.question.evidence]
    scored = [asked for asked in with_evidence if not (one.data.is_locomo and asked.question.category == "5")]
    categories: dict[str, list[Asked]] = defaultdict(list)
    for asked in with_evidence:
        categories[asked.question.category or "none"].append(asked)
    return {
        "evidence_recall": _means(scored),
        "evidence_recall_in_session": _mean([asked.found_in_session for asked in scored]),
        "by_category": {name: _means(categories[name]) for name in sorted(categories)},
        "prefix_reuse": _reuse_figures(one.reuse),
        "tokens_sent_over_transcript": _share(one.sent_tokens, one.transcript_tokens),
        "deterministic": not one.mismatches if one.checks else None,
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
        "stable": _share(found.stable_repeated, found.stable_total),
        "all": _share(found.all_repeated, found.all_total),
        "tokens": found.all_total,
        "epochs": found.epochs,
        "undeclared_changes": found.undeclared,
    }


def write(figures: Mapping[str, Any], path: Path) -> None:
    """Write the figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_digests(measured: Iterable[Measured], path: Path) -> None:
    """Write the digest of every bundle and what was asked for it, one a line: what `diff` compares runs by."""
    lines = [f"{digest}  {one.data.name} {name}\n" for one in measured for name, digest in sorted(one.digests.items())]
    path.write_text("".join(lines), encoding="utf-8")


def _means(asked: Sequence[Asked]) -> dict[str, float | None]:
    return {str(budget): _mean([one.found[budget] for one in asked]) for budget in BUDGETS}


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(fmean(values)) if values else None


def _share(part: int, total: int) -> float | None:
    """Divide, where there is something to divide by; else it was not measured."""
    return _rounded(part / total) if total else None


def _rounded(value: float) -> float:
    return round(value, 4)


def bars_of(source: str) -> Mapping[int, float]:
    """Return the bars of evidence recall for conversations of a source; none for others."""
    return next((bars for name, bars in BARS.items() if source.startswith(name)), {})


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print the figures as tables."""
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
        if checks:
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
