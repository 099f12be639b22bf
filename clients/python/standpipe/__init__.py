"""Standpipe's Python client: fresh context for every model call, and every turn committed exactly once."""

from standpipe import errors, sync
from standpipe.bundle import Bundle, Replay
from standpipe.client import Client, Commit, Policies, Session, TurnResult, connect
from standpipe.errors import StandpipeError
from standpipe.memory import Memory, document, fact, source
from standpipe.state import Record, State, Write
from standpipe.turn import assistant, tool_call, tool_result, user
from standpipe.v1.context_pb2 import Consistency

__all__ = [
    "Bundle",
    "Client",
    "Commit",
    "Consistency",
    "Memory",
    "Policies",
    "Record",
    "Replay",
    "Session",
    "StandpipeError",
    "State",
    "TurnResult",
    "Write",
    "assistant",
    "connect",
    "document",
    "errors",
    "fact",
    "source",
    "sync",
    "tool_call",
    "tool_result",
    "user",
]
