"""Run one sidecar with one of its protections switched off: `python -m tests.chaos.planted CONFIG.json [PLANT]`.

A run with a plant must end with violations: so the harness proves that it would find such a fault in the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar import hydrate, lease
from sidecar.config import Config
from sidecar.engines import engine_of
from sidecar.errors import HotUnavailable, StandpipeError
from sidecar.lease import Leases
from sidecar.sessions import Sessions
from sidecar.stores.hot import Found
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
    """Acknowledge before the log is on the disk."""
    from sidecar.stores import postgres

    careful = "coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on')"
    assert careful in postgres.SQL["change"], "the statement has changed; so must the plant"
    postgres.SQL["change"] = postgres.SQL["change"].replace(careful, "'off'")


def ack_unconfirmed(config: Config) -> None:
    """Acknowledge a commit that the hot store did not confirm, without withdrawing the trust in it."""

    async def honoured(self: Leases, slot: int, step: Callable[[], Any], **options: Any) -> None:
        with contextlib.suppress(HotUnavailable):
            await step()

    Leases.honoured = honoured  # type: ignore[assignment, method-assign]


def endless_lease(config: Config) -> None:
    """Rely for ever on what was once read of grants."""
    Leases.holds = lambda self: self._until > 0  # type: ignore[method-assign]


def any_server(config: Config) -> None:
    """Trust a whole tail of whatever server has one, whether it was promoted or restarted since."""

    def trusts(self: Leases, found: Found[Any]) -> bool:
        return self.holds() and bool(found.grant and found.ticket.place.incarnation)

    Leases.trusts = trusts  # type: ignore[method-assign]


def no_life(config: Config) -> None:
    """Store what was read before the entry was lost, over what was lost."""
    _share_late()
    _change_scripts(
        "if not entry or entry.life ~= ARGV[2] or incarnation ~= ARGV[1] then",
        "entry = entry or new_entry(ARGV[2], 60000)\nif incarnation ~= ARGV[1] then",
    )


def no_version_compare(config: Config) -> None:
    """Let an older publish overwrite a newer one in the hot store."""
    _share_late()
    _change_scripts("entry.version = math.max(entry.version, top)", "entry.version = top")
    _change_scripts("math.min(entry.after, after), math.max(entry.top, top)", "math.min(entry.after, after), top")


def _change_events(config: Config, change: Callable[[Any], Any]) -> None:
    engine = type(engine_of(config))
    append = engine.append

    async def changed(self: Any, event: Any, **options: Any) -> Any:
        return await append(self, change(event), **options)

    engine.append = changed  # type: ignore[method-assign]


def _share_late() -> None:
    """Let time pass between what a hydrate reads and what it publishes, in which others commit."""
    share = Sessions.share

    async def late(self: Sessions, *args: Any) -> None:
        await asyncio.sleep(random.random() * 0.1)
        await share(self, *args)

    Sessions.share = late  # type: ignore[method-assign]


def _change_scripts(old: str, new: str) -> None:
    from sidecar.stores import redis

    load, found = redis.Script.load, []

    def changed(name: str) -> redis.Script:
        text = load(name).text
        found.append(old in text)
        return redis.Script(text.replace(old, new))

    redis.Script.load = changed  # type: ignore[method-assign, assignment]
    redis.RedisHot("redis://127.0.0.1:1")
    assert any(found), "the scripts have changed; so must the plant"


@dataclasses.dataclass(frozen=True)
class Plant:
    """A protection that can be switched off, and how that is found."""

    switch_off: Callable[[Config], None]
    violations: tuple[str, ...]
    """One of which must be found then."""
    hot: str = "memory"
    record: str = "sqlite"
    """The least that it shows on."""
    faults: tuple[str, ...] = ()
    """Those that bring it out; none: it shows without."""
    pause_s: float = 0.5
    sessions_max: int = 12
    """Fewer, where calls must meet on one."""


STALE = ("stale", "token")

PLANTS: dict[str, Plant] = {
    one.switch_off.__name__: one
    for one in (
        Plant(trust_held, STALE),
        Plant(no_compare_and_swap, ("two winners",)),
        Plant(no_receipts, ("doubled",)),
        Plant(ack_before_durable, ("lost",), record="postgresql", faults=("postgresql kill",), pause_s=2.0),
        Plant(ack_unconfirmed, STALE, hot="redis", faults=("hot refused", "hot answer")),
        Plant(endless_lease, STALE, hot="redis", record="postgresql", faults=("hot refused", "record swallowed")),
        Plant(no_life, STALE, hot="redis", faults=("redis flush",), pause_s=0.2, sessions_max=2),
        Plant(
            no_version_compare,
            STALE,
            hot="redis",
            faults=("redis flush",),
            pause_s=0.2,
            sessions_max=2,
        ),
        Plant(any_server, STALE, hot="cluster", faults=("cluster lagging",)),
    )
}


if __name__ == "__main__":
    # A hot store is adopted again soon after each fault, so that there is trust for the next one to betray.
    lease._ADOPT_PAUSE_S = (0.1, 0.5)
    settings = json.loads(Path(sys.argv[1]).read_text())
    if sys.argv[2:] and sys.argv[2]:
        PLANTS[sys.argv[2]].switch_off(Config(**{**settings, "listen": tuple(settings["listen"])}))
    try:
        asyncio.run(serve(settings))
    except StandpipeError as error:  # the record store is away; whoever runs it starts it again
        sys.exit(f"not started: {error.reason}")
