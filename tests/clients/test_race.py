"""The race of 64 committers with committers of all languages at once: one wins each version (P2)."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import servers
from tests.clients.languages import LANGUAGES, Driver, ready
from tests.clients.served import serving
from tests.faults.log_check import broken_chain, every_event, rounds

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs(*LANGUAGES)]

COMMITTERS = 64
AHEAD_MS = 250
"""How far ahead the start is said: by then all drivers have read it."""


def race(targets: list[str], tag: str) -> dict[int, tuple[str, str]]:
    """Race drivers for a session's versions; return who won each, and by which request id."""
    won: dict[int, tuple[str, str]] = {}
    share = COMMITTERS // len(LANGUAGES)
    with contextlib.ExitStack() as stack:
        drivers = {name: stack.enter_context(Driver(ready(name))) for name in LANGUAGES}
        pool = stack.enter_context(ThreadPoolExecutor(len(LANGUAGES)))
        for number, driver in enumerate(drivers.values()):
            driver("connect", target=targets[number % len(targets)], tenant="default", deadline_ms=30_000)
            driver("info")
        for version in range(rounds(8)):
            fields = {
                "session": tag,
                "subject": tag,
                "committers": share,
                "expected_version": version,
                "start_unix_ms": time.time() * 1000 + AHEAD_MS,
            }
            asked = {
                name: pool.submit(driver, "race", tag=f"{name}-{version}", **fields) for name, driver in drivers.items()
            }
            outcomes = {
                f"{name}-{version}-{committer}": outcome
                for name, future in asked.items()
                for committer, outcome in enumerate(future.result()["outcomes"])
            }
            assert len(outcomes) == share * len(LANGUAGES)
            winners = [request for request, outcome in outcomes.items() if "version" in outcome]
            assert len(winners) == 1, f"version {version + 1}: {winners}"
            assert outcomes[winners[0]]["version"] == version + 1
            for request, outcome in outcomes.items():
                if request != winners[0]:
                    error = outcome["error"]
                    assert (error["kind"], error["reason"]) == ("Conflict", "VERSION_CONFLICT"), error
                    told = {"current_version": str(version + 1), "winner_request_id": winners[0]}
                    assert error["metadata"] == told
                    assert error["request_id"] == request
            won[version + 1] = (winners[0].partition("-")[0], winners[0])
    return won


def check(won: dict[int, tuple[str, str]], store: Path | str, tag: str) -> None:
    """Read the log behind the servers' backs: no gap, no event twice, a whole chain, and the winners' alone."""
    rows = every_event(store)["default", tag]
    assert not broken_chain(rows)
    assert [(row.version, row.request_id) for row in rows] == [(at, request) for at, (_, request) in won.items()]


def test_race_on_one_server(figure: Callable[[str], None]) -> None:
    """P2: on SQLite over one socket."""
    place = servers.directory()
    target = f"unix:{place}/s.sock"
    with serving(place, target):
        won = race([target], "race")
    check(won, place / "record.db", "race")
    figure(f"race of {COMMITTERS} on SQLite: {len(won)} rounds, won by {dict(Counter(who for who, _ in won.values()))}")


def test_race_on_two_servers(database: str, redis_server: servers.Redis, figure: Callable[[str], None]) -> None:
    """P2: on PostgreSQL and Redis behind two servers, one at a socket and one at a port."""
    place = servers.directory()
    targets = [f"unix:{place}/s.sock", f"127.0.0.1:{servers.free_port()}"]
    with contextlib.ExitStack() as stack:
        for target in targets:
            name = target.partition(":")[0]
            stack.enter_context(serving(place, target, name=name, record=database, hot=redis_server.url))
        won = race(targets, "race")
    check(won, database, "race")
    wins = dict(Counter(who for who, _ in won.values()))
    figure(f"race of {COMMITTERS} on PostgreSQL and Redis, two servers: {len(won)} rounds, won by {wins}")
