"""LangChain's chat history on Standpipe.

::

    history = ChatHistory(standpipe.sync.connect().session("s-1", subject="anna"))
    history.add_messages([HumanMessage("Hi, I am Anna."), AIMessage("Hello Anna!")])

Messages come back exactly as they went in, whatever they hold. `clear` takes them off the list that LangChain sees;
the log keeps what was said, and so do bundles: to have it gone, erase the subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)

from standpipe.adapters import entries
from standpipe.adapters.journal import AnySession, Item, Journal
from standpipe.bundle import Json
from standpipe.v1.turn_pb2 import Role, TurnEntry

__all__ = ["ChatHistory"]


class ChatHistory(BaseChatMessageHistory):
    """The messages of a Standpipe session.

    With a session of `standpipe.sync.connect()` everything works, the asynchronous methods in threads; with one of
    `standpipe.connect()` the asynchronous methods alone, and the others raise TypeError.
    """

    def __init__(self, session: AnySession) -> None:
        """`session` is created by the first message; it needs a subject then."""
        self._journal = Journal(session, "langchain", _item_of)

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """All messages, in order."""
        return messages_from_dict(self._journal.run(self._journal.items()))

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, behind whatever other writers added. Raises TypeError for what is not JSON."""
        self._journal.run(self._journal.append(map(_steps, messages)))

    def clear(self) -> None:
        """Take all messages off the list."""
        self._journal.run(self._journal.clear())

    async def aget_messages(self) -> list[BaseMessage]:
        """Return all messages, in order."""
        return messages_from_dict(await self._journal.wait(self._journal.items()))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, as `add_messages`."""
        await self._journal.wait(self._journal.append(map(_steps, messages)))

    async def aclear(self) -> None:
        """Take all messages off the list."""
        await self._journal.wait(self._journal.clear())


def _steps(message: BaseMessage) -> Item:
    """Return a message and the steps of a conversation that it is."""
    steps: list[TurnEntry | None] = []
    if isinstance(message, HumanMessage):
        steps.append(entries.message(Role.ROLE_USER, str(message.text), speaker=message.name or ""))
    elif isinstance(message, AIMessage):
        steps.append(entries.message(Role.ROLE_ASSISTANT, str(message.text), speaker=message.name or ""))
        calls: list[Any] = [*message.tool_calls, *message.invalid_tool_calls]
        for call in calls:
            args = call["args"] or ""
            text = args if isinstance(args, str) else entries.dumps(args)
            steps.append(entries.call(call["id"] or "", call["name"] or "", text))
    elif isinstance(message, ToolMessage):
        failed = message.status == "error"
        steps.append(entries.result(message.tool_call_id, str(message.text), is_error=failed))
    return message_to_dict(message), [step for step in steps if step is not None]


def _item_of(entry: TurnEntry) -> Json | None:
    """Return the plainest message that an entry can be."""
    message: BaseMessage
    if entry.HasField("message"):
        speaks = HumanMessage if entry.message.role == Role.ROLE_USER else AIMessage
        message = speaks(content=entries.text_of(entry), name=entry.message.speaker or None)
    elif entry.HasField("tool_call"):
        call = entry.tool_call
        message = AIMessage(
            content="", tool_calls=[{"name": call.name, "args": entries.arguments(call), "id": call.id}]
        )
    else:
        result = entry.tool_result
        status = "error" if result.is_error else "success"
        message = ToolMessage(content=result.content, tool_call_id=result.call_id, status=status)
    return message_to_dict(message)
