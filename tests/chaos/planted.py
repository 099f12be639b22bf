"""Run one sidecar with one of its protections switched off: `python -m tests.chaos.planted CONFIG.json [PLANT]`.

A run with a plant must end with violations: so the harness proves that it would find such a fault in the code.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar import hydrate
from sidecar.config import Config
from sidecar.engines import record_of
from tests.e2e.serve import serve

PLANTED = "."
"""What stands behind it in a request id was put there by a plant; callers' own have none."""


def trust_held(config: Config) -> None:
    """Answer every hydrate from what this process holds, whatever others have committed since."""
    plan = hydrate.Hydrator._plan

    def nearest(self: hydrate.Hydrator, *args: Any) -> Any:
        return dataclasses.replace(plan(self, *args), nearest=True)

    hydrate.Hydrator._plan = nearest  # type: ignore[method-assign]


def no_compare_and_swap(config: Config) -> None:
    """Append behind whatever is there, whichever version was expected."""
    _change_events(config, lambda event: dataclasses.replace(event, expected_version=None))


def no_receipts(config: Config) -> None:
    """Take every retry for a new request, as if receipts were lost; each keeps its own row, under a made-up id."""

    def renamed(event: Any) -> Any:
        return dataclasses.replace(event, request_id=f"{event.request_id}{PLANTED}{uuid.uuid4().hex[:8]}")

    _change_events(config, renamed)


def ack_before_durable(config: Config) -> None:
    """Acknowledge before the log is on the disk: the stage gives PostgreSQL's sessions that setting."""


def _change_events(config: Config, change: Callable[[Any], Any]) -> None:
    engine = type(record_of(config))
    append = engine.append

    async def changed(self: Any, event: Any, **options: Any) -> Any:
        return await append(self, change(event), **options)

    engine.append = changed  # type: ignore[method-assign]


PLANTS: dict[str, tuple[Callable[[Config], None], str]] = {
    "trust_held": (trust_held, "stale"),
    "no_compare_and_swap": (no_compare_and_swap, "two winners"),
    "no_receipts": (no_receipts, "doubled"),
    "ack_before_durable": (ack_before_durable, "lost"),
}
"""By name: what switches it off, and the kind of violation that must be found then."""


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    if sys.argv[2:] and sys.argv[2]:
        PLANTS[sys.argv[2]][0](Config(**{**settings, "listen": tuple(settings["listen"])}))
    asyncio.run(serve(settings))
