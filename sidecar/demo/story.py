"""A conversation written down: who said what, when, in which session. No model is called to play it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from standpipe import assistant, tool_call, tool_result, user
from standpipe.v1.turn_pb2 import TurnEntry


@dataclass(frozen=True, slots=True)
class Turn:
    """What one commit holds."""

    said: str
    """The user's words: also the query of the hydrate before it."""
    reply: tuple[TurnEntry, ...]
    """What follows them: a tool call with its result, if there was one, and the assistant's words."""
    at: datetime.datetime
    fact: str = ""
    """A name for what the user tells here."""
    asks: str = ""
    """The fact that is needed to answer."""

    @property
    def entries(self) -> list[TurnEntry]:
        """The whole turn."""
        return [user(self.said, at=self.at), *self.reply]


@dataclass(frozen=True, slots=True)
class Session:
    """One evening."""

    id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """What is recorded about the subject, and where it was said."""

    attribute: str
    value: str
    source: str
    """The name of the turn that tells it."""
    tool: bool = False
    """Whether the turn's tool said it, not the user."""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What the application makes of the sessions."""

    profile: Mapping[str, str]
    claims: tuple[Claim, ...]
    document: Mapping[str, str]
    """Its id, title and text."""


@dataclass(frozen=True, slots=True)
class Story:
    """A subject's sessions, the question at their end, and two turns that come in between from another device."""

    subject: str
    policy: str
    """Its document."""
    sessions: tuple[Session, ...]
    memory: Memory
    question: Turn
    phone: tuple[Turn, ...]


def load(name: str = "kitchen") -> Story:
    """Read a story of this package."""
    folder = resources.files(__package__)
    raw = yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text())
    step = datetime.timedelta(minutes=raw["minutes_between_turns"])
    sessions = []
    for one in raw["sessions"]:
        turns = (_turn(turn, one["at"] + step * at, one["id"], at) for at, turn in enumerate(one["turns"]))
        sessions.append(Session(one["id"], tuple(turns)))
    last = sessions[-1]
    later = [_turn(turn, last.turns[-1].at + step, last.id, -1) for turn in (raw["question"], *raw["phone"])]
    made = raw["memory"]
    memory = Memory(made["profile"], tuple(Claim(**claim) for claim in made["facts"]), made["document"])
    policy = folder.joinpath("policy.yaml").read_text()
    return Story(raw["subject"], policy, tuple(sessions), memory, later[0], tuple(later[1:]))


def _turn(raw: dict[str, Any], at: datetime.datetime, session: str, index: int) -> Turn:
    reply = [assistant(raw["assistant"], at=at)]
    if call := raw.get("call"):
        call_id = f"{session}-{index}"
        reply[:0] = [tool_call(call_id, call["tool"], call["arguments"]), tool_result(call_id, call["result"])]
    return Turn(raw["user"], tuple(reply), at, raw.get("fact", ""), raw.get("asks", ""))
