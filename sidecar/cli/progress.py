"""How far a long command is: a bar on a terminal, a line of JSON every few seconds elsewhere; both on stderr."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from sidecar.cli import show
from sidecar.telemetry import Log

T = TypeVar("T")

LINE_S: Final = 5.0
"""Between two lines."""

WINDOW_S: Final = 20.0
"""What speeds are taken over: long enough to be steady, and short enough to see a change."""


class Progress:
    """A stage after another, each with what is done and what waits: ``with Progress("items") as progress``."""

    def __init__(self, unit: str, *, console: Console | None = None, log: Log | None = None) -> None:
        console = console or show.stderr()
        self._unit = unit
        self._log = log or Log()
        self._stage = ""
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque()
        self._said_at = time.monotonic()
        self._task: TaskID | None = None
        self._bar: Bar | None = None
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(30, complete_style="cyan", finished_style="cyan"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", style="bright_black"),
                TimeElapsedColumn(),
                console=console,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(
        self,
        stage: str,
        done: int,
        waiting: int,
        *,
        rates: Mapping[str, int] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Say what is done and what waits; `rates` are totals whose speed is of interest, `counts` are as they are.

        What is zero is not said.
        """
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._task = stage, None
            self._samples.clear()
        self._samples.append((now, {self._unit: done, **(rates or {})}))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW_S:
            self._samples.popleft()
        speeds = self._speeds()
        speed = speeds.get(self._unit, 0.0)
        left_s = round(waiting / speed) if speed and waiting else None
        found = {name: count for name, count in (counts or {}).items() if count}
        if self._bar:
            parts = [f"{_short(one)} {name}/s" for name, one in speeds.items()]
            parts += [f"{_clock(left_s)} left"] if left_s is not None else []
            parts += [f"{count:,} {name}" for name, count in found.items()]
            self._bar.start()
            if self._task is None:
                self._task = self._bar.add_task(stage, total=None, figures="")
            self._bar.update(self._task, completed=done, total=done + waiting, figures=", ".join(parts))
        elif now - self._said_at >= LINE_S:
            self._said_at = now
            per_second = {f"{name}_per_second": round(one, 1) for name, one in speeds.items()}
            self._log.info("progress", stage=stage, done=done, waiting=waiting, **per_second, left_s=left_s, **found)

    def _speeds(self) -> dict[str, float]:
        """Return what comes in a second of each total, where anything does."""
        (began_at, first), (ended_at, last) = self._samples[0], self._samples[-1]
        if ended_at <= began_at:
            return {}
        speeds = {name: (total - first.get(name, 0)) / (ended_at - began_at) for name, total in last.items()}
        return {name: speed for name, speed in speeds.items() if speed > 0}


def each(stage: str, things: Sequence[T], unit: str) -> Iterator[T]:
    """Yield one thing after another, and show how far it is."""
    with Progress(unit) as progress:
        for done, thing in enumerate(things):
            progress.show(stage, done, len(things) - done)
            yield thing


def _short(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"


def _clock(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
