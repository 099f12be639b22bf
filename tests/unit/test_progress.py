"""Progress of long commands: the same figures on a terminal and elsewhere."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from sidecar.cli import progress
from sidecar.cli.progress import Progress
from sidecar.telemetry import Log


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stand in for the process's clock."""
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_elsewhere_there_is_a_line_every_few_seconds(clock: Clock) -> None:
    """One JSON object a line, with speeds and what is left, and none in between."""
    out = io.StringIO()
    with Progress("items", console=Console(file=io.StringIO()), log=Log(out)) as shown:
        for second in range(12):
            clock.now_s = 100 + second
            shown.show("embedding m", 10 * second, 1000 - 10 * second, rates={"tokens": 400 * second})
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert {name: value for name, value in first.items() if name != "at"} == {
        "level": "info",
        "event": "progress",
        "stage": "embedding m",
        "done": 50,
        "waiting": 950,
        "items_per_second": 10.0,
        "tokens_per_second": 400.0,
        "left_s": 95,
    }
    assert second["done"] == 100


def test_speeds_are_those_of_late(clock: Clock) -> None:
    """What was fast an hour ago says nothing of when it is done; nothing done is no speed and no end."""
    out = io.StringIO()
    shown = Progress("items", console=Console(file=io.StringIO()), log=Log(out))
    done = 0
    for second in range(100):
        clock.now_s = 100 + second
        done += 1000 if second < 50 else 10
        shown.show("embedding", done, 500)
    clock.now_s += 60
    shown.show("embedding", done, 500)
    clock.now_s += 60
    shown.show("embedding", done, 500, counts={"parked": 2})
    *_, late, _, stuck = (json.loads(line) for line in out.getvalue().splitlines())
    assert (late["items_per_second"], late["left_s"]) == (10.0, 50)
    assert "items_per_second" not in stuck
    assert (stuck["left_s"], stuck["parked"]) == (None, 2)


def test_a_terminal_shows_a_bar_for_each_stage(clock: Clock) -> None:
    """Done and all, speeds, what is left and what is wrong; nothing is written as a line."""
    terminal, out = io.StringIO(), io.StringIO()
    console = Console(file=terminal, force_terminal=True, color_system=None, width=160)
    with Progress("items", console=console, log=Log(out)) as shown:
        for second in range(3):
            clock.now_s = 100 + second
            shown.show("extracting", second, 0)
        for second in range(10):
            clock.now_s = 110 + second
            shown.show("embedding", 100 * second, 400_000, rates={"tokens": 4000 * second}, counts={"parked": 1})
    last = next(line for line in reversed(terminal.getvalue().splitlines()) if "embedding" in line)
    assert "900/400900" in last
    assert "100 items/s, 4,000 tokens/s, 1:06:40 left, 1 parked" in last
    assert "extracting" in terminal.getvalue()
    assert out.getvalue() == ""


@pytest.mark.usefixtures("clock")
def test_things_are_yielded_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress takes nothing away, and says nothing of what is quick."""
    assert list(progress.each("importing", ["a", "b"], "messages")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
