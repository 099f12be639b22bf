"""Standpipe's Python client: fresh context for every model call, and every turn committed exactly once."""

from typing import TYPE_CHECKING, Any

from standpipe import errors, sync
from standpipe.bundle import Bundle, Replay
from standpipe.client import Client, Commit, Policies, Session, TurnResult, connect
from standpipe.errors import StandpipeError
from standpipe.memory import Memory, document, fact, source
from standpipe.state import Record, State, Write
from standpipe.turn import app, assistant, tool_call, tool_result, user
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
    "app",
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
    "wrap_openai",
]

if TYPE_CHECKING:
    from standpipe.adapters.openai_chat import wrap_openai
else:

    def __getattr__(name: str) -> Any:
        """Import what needs another package when it is asked for."""
        if name != "wrap_openai":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from standpipe.adapters.openai_chat import wrap_openai  # noqa: PLC0415

        return wrap_openai
