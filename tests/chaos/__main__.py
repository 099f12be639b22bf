"""Chaos: sidecars under a mixed load while everything beneath them is harmed; then the history is checked.

`python -m tests.chaos --seconds 600 --record postgresql --hot redis`. Exits with 1 if a promise was broken; with
`--plant`, if none was: the harness must find what it planted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.checker import Violation, check, stalls_ms
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.nemesis import Nemesis
from tests.chaos.planted import PLANTS
from tests.chaos.stage import Stage

CLIENTS = 12
SHOWN_MAX = 20


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be run."""

    seconds: float
    seed: int
    record: str = "sqlite"
    hot: str = "memory"
    plant: str = ""
    only: tuple[str, ...] = ()
    """The faults, by how their names begin; none: all."""
    pause_s: float = 1.5
    sessions_max: int = 12

    @classmethod
    def of_plant(cls, name: str, *, seconds: float, seed: int) -> Run:
        """Return the run that finds a plant soonest."""
        plant = PLANTS[name]
        return cls(
            seconds=seconds,
            seed=seed,
            record=plant.record,
            hot=plant.hot,
            plant=name,
            only=plant.faults or ("none",),
            pause_s=plant.pause_s,
            sessions_max=plant.sessions_max,
        )


def play(run: Run) -> tuple[History, list[Violation]]:
    """Run it, and return what happened and which promises were broken."""
    history = History()
    with Stage(record=run.record, hot=run.hot, plant=run.plant, seed=run.seed) as stage:
        asyncio.run(_play(run, stage, history))
        stage.read_log(history)
        violations = check(history)
        violations += [Violation("defect", "log", line) for line in stage.defects()]
    return history, violations


async def _play(run: Run, stage: Stage, history: History) -> None:
    load = Load(await stage.open_pods(), history, sessions_max=run.sessions_max)
    nemesis = Nemesis(stage, history, run.seed, only=run.only, pause_s=run.pause_s)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(CLIENTS, run.seed))
            group.create_task(nemesis.run())
            await asyncio.sleep(run.seconds)
            nemesis.stopping.set()
            load.stopping = True
        await stage.heal()
        await load.settle()
    finally:
        await stage.close_pods()


def report(run: Run, history: History, violations: list[Violation]) -> None:
    """Print what happened."""
    print(f"seed {run.seed}, {run.seconds:g} s, record {run.record}, hot {run.hot}, plant {run.plant or 'none'}")
    for kind in ("commit", "hydrate"):
        count = Counter(one.outcome for one in history.ops if one.kind == kind)
        print(f"  {kind:8} " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(count.items())))
    reasons = Counter(f"{one.kind} {one.outcome} {one.reason}" for one in history.ops if one.outcome != "ok")
    print("  " + ", ".join(f"{number} {reason}" for reason, number in reasons.most_common()))
    reads = [one for one in history.ops if one.kind == "hydrate" and one.outcome == "ok" and one.wanted == "fresh"]
    direct = sum(one.direct for one in reads)
    print(f"  {direct} of {len(reads)} fresh hydrates were answered without the record store")
    print(f"  {len(history.log)} sessions, {sum(len(log) for log in history.log.values())} events")
    stalls = stalls_ms(history)
    if stalls:
        print("  faults, and the longest time that a caller was without an answer around each, ms:")
    for kind, waits in sorted(stalls.items()):
        waits.sort()
        print(f"    {kind:28} {len(waits):4}   p50 {waits[len(waits) // 2]:6.0f}   max {waits[-1]:6.0f}")
    print(f"  {len(violations)} violations")
    for kind, number in Counter(one.kind for one in violations).most_common():
        print(f"    {number} {kind}")
    for one in violations[:SHOWN_MAX]:
        print(f"    {one}")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="of what is done and harmed; times differ all the same")
    parser.add_argument("--record", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--hot", choices=("memory", "redis", "cluster"), default="memory")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="a protection to switch off")
    parser.add_argument("--only", nargs="*", default=[], help="the faults, by how their names begin")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if given.seed is None else given.seed
    if given.plant:  # it says itself which stores and faults bring it out
        run = Run.of_plant(given.plant, seconds=given.seconds, seed=seed)
    else:
        run = Run(seconds=given.seconds, seed=seed, record=given.record, hot=given.hot, only=tuple(given.only))
    history, violations = play(run)
    report(run, history, violations)
    if violations and not run.plant:
        path = Path(tempfile.gettempdir()) / f"chaos-{run.seed}.jsonl"
        history.write(path)
        print(f"  the history is in {path}")
    if not run.plant:
        return int(bool(violations))
    wanted = PLANTS[run.plant].violations
    found = any(one.kind in wanted for one in violations)
    print(f"  the plant was {'found' if found else 'NOT found'}: {' or '.join(wanted)}")
    return int(not found)


if __name__ == "__main__":
    sys.exit(main())
