"""A real server in a process of its own, which keeps its addresses when it starts again."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.pods import Process, settings


@dataclass
class Served:
    """The server."""

    process: Process
    record: Path
    """Its log, where it is SQLite's."""
    targets: dict[str, str]
    """Its addresses: `unix`, `tcp`."""

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.process._start()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.popen is not None
        self.process.popen.send_signal(number)

    def stop(self) -> None:
        """Stop it as an operator does."""
        assert self.process.popen is not None
        self.signal(signal.SIGTERM)
        assert self.process.popen.wait(30) == 0
        self.process.kill()


@contextlib.contextmanager
def serving(place: Path, *targets: str, name: str = "server", **stores: Any) -> Iterator[Served]:
    """Run a server, on SQLite below `place` unless `stores` are others. A defect that it logged fails the test."""
    config, log = place / f"{name}.json", place / f"{name}.log"
    config.write_text(json.dumps(settings(place / "record.db", listen=targets, **stores)))
    found = Served(
        Process(config, log),
        place / "record.db",
        {"unix" if target.startswith("unix:") else "tcp": target for target in targets},
    )
    found.start()
    try:
        yield found
    finally:
        found.process.kill()
    assert '"defect"' not in log.read_text(), log.read_text()[-4000:]
