"""LlamaIndex's memory on Standpipe.

::

    memory = StandpipeMemory.of(standpipe.sync.connect().session("s-1", subject="anna"))
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)

It implements `BaseMemory`, which has been the same since LlamaIndex 0.10 and is what chat engines and agents take. Its
messages come back exactly as they went in. `reset`, and `set` where it drops messages, take them off the list that
LlamaIndex sees; the log keeps what was said, and so do bundles: to have it gone, erase the subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.memory import BaseMemory

from standpipe.adapters import entries
from standpipe.adapters.journal import AnySession, Item, Journal
from standpipe.bundle import Json
from standpipe.v1.turn_pb2 import Part, Role, TurnEntry

__all__ = ["StandpipeMemory"]


class StandpipeMemory(BaseMemory):
    """The messages of a Standpipe session; make it by `of`.

    With a session of `standpipe.sync.connect()` everything works, the asynchronous methods in threads; with one of
    `standpipe.connect()` the asynchronous methods alone, and the others raise TypeError.
    """

    _journal: Journal = PrivateAttr()
    _messages_max: int | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, session: AnySession, *, messages_max: int | None = None) -> Self:
        """Return the memory of a session. `get` returns the latest `messages_max` messages; None means all."""
        memory = cls()
        memory._journal = Journal(session, "llama_index", _item_of)
        memory._messages_max = messages_max
        return memory

    @classmethod
    def class_name(cls) -> str:
        """Return its name."""
        return "StandpipeMemory"

    @classmethod
    def from_defaults(cls, session: AnySession | None = None, **options: Any) -> Self:
        """Return the memory of a session, as `of`. Raises TypeError without one."""
        if session is None:
            raise TypeError("StandpipeMemory needs session=: whose messages it holds")
        return cls.of(session, **options)

    def get(self, input: str | None = None, **_: Any) -> list[ChatMessage]:  # noqa: ARG002 (the interface's)
        """Return the latest messages, at most `messages_max`."""
        return self._latest(self.get_all())

    def get_all(self) -> list[ChatMessage]:
        """Return all messages."""
        return _messages(self._journal.run(self._journal.items()))

    def put(self, message: ChatMessage) -> None:
        """Append a message."""
        self.put_messages([message])

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Append messages, behind whatever other writers added."""
        self._journal.run(self._journal.append(map(_steps, messages)))

    def set(self, messages: list[ChatMessage]) -> None:
        """Make the messages what is given; those that it begins with already are not said again."""
        self._journal.run(self._journal.replace([_steps(message) for message in messages]))

    def reset(self) -> None:
        """Take all messages off the list."""
        self._journal.run(self._journal.clear())

    async def aget(self, input: str | None = None, **_: Any) -> list[ChatMessage]:  # noqa: ARG002 (likewise)
        """Return the latest messages, as `get`."""
        return self._latest(await self.aget_all())

    async def aget_all(self) -> list[ChatMessage]:
        """Return all messages."""
        return _messages(await self._journal.wait(self._journal.items()))

    async def aput(self, message: ChatMessage) -> None:
        """Append a message."""
        await self.aput_messages([message])

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Append messages, as `put_messages`."""
        await self._journal.wait(self._journal.append(map(_steps, messages)))

    async def aset(self, messages: list[ChatMessage]) -> None:
        """Make the messages what is given, as `set`."""
        await self._journal.wait(self._journal.replace([_steps(message) for message in messages]))

    async def areset(self) -> None:
        """Take all messages off the list."""
        await self._journal.wait(self._journal.clear())

    def _latest(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        if self._messages_max is None:
            return messages
        return messages[-self._messages_max :] if self._messages_max > 0 else []


def _messages(items: Iterable[Json]) -> list[ChatMessage]:
    return [ChatMessage.model_validate(item) for item in items]


def _steps(message: ChatMessage) -> Item:
    """Return a message and the steps of a conversation that it is."""
    steps: list[TurnEntry | None] = []
    item: Json = message.model_dump(mode="json")
    if message.role in (MessageRole.USER, MessageRole.ASSISTANT, MessageRole.CHATBOT):
        role = Role.ROLE_USER if message.role == MessageRole.USER else Role.ROLE_ASSISTANT
        steps.append(entries.message(role, _content(message.blocks)))
        for block in message.blocks:
            if isinstance(block, ToolCallBlock):
                args = block.tool_kwargs
                text = args if isinstance(args, str) else entries.dumps(args)
                steps.append(entries.call(block.tool_call_id or "", block.tool_name, text))
    elif message.role in (MessageRole.TOOL, MessageRole.FUNCTION):
        call_id = str(message.additional_kwargs.get("tool_call_id") or "")
        steps.append(entries.result(call_id, message.content or ""))
    return item, [step for step in steps if step is not None]


def _content(blocks: Sequence[Any]) -> str | list[Part]:
    """Return text, or pieces where there is more than text."""
    found: list[Part] = []
    for block in blocks:
        if isinstance(block, TextBlock) and entries.clean(block.text).strip():
            found.append(Part(text=entries.clean(block.text)))
        elif isinstance(block, ImageBlock) and block.url is not None:
            found.append(entries.reference(str(block.url), block.image_mimetype or "image/*"))
    if all(part.WhichOneof("content") == "text" for part in found):
        return "\n".join(part.text for part in found)
    return found


def _item_of(entry: TurnEntry) -> Json | None:
    """Return the plainest message that an entry can be."""
    if entry.HasField("message"):
        role = MessageRole.USER if entry.message.role == Role.ROLE_USER else MessageRole.ASSISTANT
        message = ChatMessage(role=role, content=entries.text_of(entry))
    elif entry.HasField("tool_call"):
        call = entry.tool_call
        block = ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=entries.arguments(call))
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[block])
    else:
        result = entry.tool_result
        told = {"tool_call_id": result.call_id}
        message = ChatMessage(role=MessageRole.TOOL, content=result.content, additional_kwargs=told)
    item: Json = message.model_dump(mode="json")
    return item
