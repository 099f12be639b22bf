"""Short runs of chaos: as it is nothing breaks, and what is broken on purpose is found. `make chaos` runs long ones."""

from __future__ import annotations

import random

import pytest

from tests.chaos.__main__ import Run, play, report
from tests.chaos.planted import PLANTS
from tests.faults.log_check import ROUNDS

QUICK = ("no_compare_and_swap", "trust_held", "ack_unconfirmed")
"""Plants that show within seconds."""

LONG = pytest.mark.skipif(not ROUNDS, reason="long: make test-long")
SEEDS = random.SystemRandom()


def _played(run: Run) -> set[str]:
    """Play a run, print its report, and return the kinds of its violations."""
    history, violations = play(run)
    report(run, history, violations)
    for kind in ("commit", "hydrate"):
        assert any(one.outcome == "ok" for one in history.ops if one.kind == kind)
    return {one.kind for one in violations}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("record", "hot"),
    [
        ("postgresql", "redis"),
        pytest.param("postgresql", "cluster", marks=LONG),
        pytest.param("sqlite", "memory", marks=LONG),
    ],
)
def test_faults_break_no_promise(record: str, hot: str) -> None:
    """Under kills, pauses, restarts, flushes and bad networks every promise holds (P1 to P4)."""
    run = Run(seconds=120 if ROUNDS else 15, seed=SEEDS.randrange(1 << 31), record=record, hot=hot)
    assert _played(run) == set()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", [pytest.param(name, marks=() if name in QUICK else LONG) for name in PLANTS])
def test_what_is_planted_is_found(plant: str) -> None:
    """With one protection switched off a run ends with violations of the kind that it protects from."""
    for _ in range(10):  # it takes calls that meet within milliseconds
        run = Run.of_plant(plant, seconds=20 if ROUNDS else 3, seed=SEEDS.randrange(1 << 31))
        if _played(run) & {*PLANTS[plant].violations}:
            return
    pytest.fail(f"{plant} was not found")
