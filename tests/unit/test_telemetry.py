"""Metrics and logs: names that are documented, labels that are few, and no content in either (P8)."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram, exposition

from sidecar.telemetry import Log, OrderFigures, Telemetry

ROOT = Path(__file__).parents[2]
LABELS = {
    "model",
    "kind",
    "method",
    "status",
    "reason",
    "phase",
    "source",
    "outcome",
    "cause",
    "version",
    "record",
    "hot",
    "provider",
} | {
    "address",  # of a shared embedder, as the settings name it
    "model",  # an embedding model's id
    "setting",  # of our own, by its name
}
"""What a label may be: things that Standpipe itself names. No id, no name and no text of a caller."""


def metrics() -> dict[str, Counter | Gauge | Histogram]:
    """Return every metric, by its attribute."""
    found = dict(vars(Telemetry(Log(io.StringIO()))))
    for name, value in list(found.items()):
        if isinstance(value, OrderFigures):
            found |= {f"{name}.{one.name}": getattr(value, one.name) for one in dataclasses.fields(value)}
    return {name: value for name, value in found.items() if isinstance(value, Counter | Gauge | Histogram)}


def test_labels_name_no_caller() -> None:
    """P8: every label is one of a closed set; tenant, session, subject, text and query are not among them."""
    found = {label for metric in metrics().values() for label in metric._labelnames}
    assert found <= LABELS
    assert not found & {"tenant", "session", "subject", "user", "query", "text", "policy", "route"}


def test_names_carry_their_units() -> None:
    """A counter ends in _total, a time in _seconds, and each has a sentence of help."""
    for metric in metrics().values():
        (family,) = metric.describe()
        assert family.name.startswith("standpipe_")
        assert family.documentation.endswith(".")
        assert re.fullmatch(r"[a-z_]+", family.name)
        if isinstance(metric, Histogram):
            assert family.name.endswith(("_seconds", "_tokens", "_facts", "_share"))


def test_two_servers_in_one_process_do_not_meet() -> None:
    """Each Telemetry counts for itself."""
    one, other = Telemetry(Log(io.StringIO())), Telemetry(Log(io.StringIO()))
    one.commits.inc()
    pages = [exposition.generate_latest(each.registry).decode() for each in (one, other)]
    assert [f"standpipe_commits_total {count}" in page for count, page in zip(("1.0", "0.0"), pages, strict=True)] == [
        True,
        True,
    ]


def test_every_metric_is_in_the_manual() -> None:
    """README.md or ARCHITECTURE.md names every metric."""
    text = "".join((ROOT / name).read_text() for name in ("README.md", "ARCHITECTURE.md"))
    names = [family.name for metric in metrics().values() for family in metric.describe()]
    assert [name for name in names if name not in text] == []


def test_a_log_line_is_one_json_object() -> None:
    """Whatever the values, newlines and objects included, a line is one object with time, level and event."""
    stream = io.StringIO()
    log = Log(stream)
    log.info("started", seconds=0.5, listen=["a"], path=Path("/x"))
    log.warning("odd", note="two\nlines", inner={"a": 1})
    log.error("bad", kind=ValueError)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "started"),
        ("warning", "odd"),
        ("error", "bad"),
    ]
    assert all(line["at"] > 1_600_000_000 for line in lines)
    assert lines[0]["path"] == "/x"


@pytest.mark.parametrize(("level", "written"), [("info", 3), ("warning", 2), ("error", 1)])
def test_levels_below_the_set_one_are_silent(level: str, written: int) -> None:
    """Nothing below the level is written."""
    stream = io.StringIO()
    log = Log(stream, level=level)
    log.info("a")
    log.warning("b")
    log.error("c")
    assert len(stream.getvalue().splitlines()) == written
