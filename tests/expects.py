"""Tools that a machine may lack: tests skip with a reason, which the run's end repeats; they fail where CI has promised
the tool.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Set
from pathlib import Path
from typing import Any, NoReturn

import pytest

EXPECTED = frozenset(os.environ.get("TEST_EXPECTS", "").split())
"""What was installed for this run, says TEST_EXPECTS: podman, say."""


def missing(name: str, why: str, *, promised: Set[str] = frozenset()) -> NoReturn:
    """Skip a test for want of a tool, or of what the tool may do here; fail it where CI has promised the tool."""
    if os.environ.get("CI") and name in promised | EXPECTED:
        pytest.fail(f"{why}, which CI should have")
    pytest.skip(why)


def reports_below(reporter: Any, here: Path) -> list[pytest.TestReport | pytest.CollectReport]:
    """Return the reports of the tests below a directory, and of files that were not even read."""
    return [
        report
        for each in reporter.stats.values()
        for report in each
        if isinstance(report, pytest.TestReport | pytest.CollectReport)
        and (reporter.config.rootpath / report.fspath).is_relative_to(here)
    ]


def summarize(reporter: Any, title: str, here: Path) -> None:
    """Write what the tests below a directory have measured, and last which of them did not run and why."""
    reports = reports_below(reporter, here)
    if not reports:
        return
    reporter.section(title)
    for sentence in sorted(
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "figure"
    ):
        reporter.write_line(sentence)
    skips = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports if report.skipped)
    why = "; ".join(f"{count} ({reason})" for reason, count in sorted(skips.items()))
    reporter.write_line(f"skipped: {why}" if skips else "skipped: nothing")
