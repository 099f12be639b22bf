"""What happened in a run: every call with its times and its answer, every fault, and the log at the end."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["commit", "hydrate"]
Outcome = Literal["ok", "refused", "doubt"]
"""refused: it did not happen and never will, for the reason given; doubt: nobody can tell from the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One call, as its caller saw it. Times are of the one monotonic clock of the run, in nanoseconds."""

    client: int
    kind: Kind
    session: str
    pod: int
    started_ns: int
    ended_ns: int
    outcome: Outcome
    reason: str = ""
    """Of an answer that was not ok."""
    version: int = 0
    """Committed, shown, or named by the refusal; 0: none was named."""

    request_id: str = ""
    expected: int | None = None
    """None: the commit goes behind whatever is there."""
    result: bytes = b""
    """The commit's answer, byte for byte, but for whether it was replayed."""
    event_hash: bytes = b""

    wanted: Literal["fresh", "token", "full", "nearest"] = "fresh"
    at_least: int = 0
    """The version that the token had seen."""
    shown: tuple[str, ...] = ()
    """The request ids of the turns in the bundle's history, in order."""
    direct: bool = False
    """Answered without asking the record store."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a session's log, as the record store has it at the end."""

    version: int
    request_id: str
    event_hash: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that the nemesis did."""

    kind: str
    started_ns: int
    ended_ns: int


@dataclass(slots=True)
class History:
    """A whole run."""

    ops: list[Op] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    log: dict[str, list[Event]] = field(default_factory=dict)
    broken_chains: dict[str, str] = field(default_factory=dict)
    """What is wrong with the hash chain, by session."""

    def write(self, path: Path) -> None:
        """Keep it for whoever looks for the cause, as JSON lines."""
        with path.open("w") as out:
            for one in (*self.ops, *self.faults):
                print(json.dumps(dataclasses.asdict(one), default=bytes.hex), file=out)
            for session, events in self.log.items():
                print(json.dumps({"session": session, "log": [one.request_id for one in events]}), file=out)
