"""Pydantic AI's message history on Standpipe.

::

    history = History(standpipe.connect().session("s-1", subject="anna"))
    result = await agent.run("Hi, I am Anna.", message_history=await history.load())
    await history.save(result.new_messages())

Messages come back exactly as they went in. What was said and what tools did is also in the log as such: bundles and
recall know it, in later sessions too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from pydantic_ai import messages as parts
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelRequest, ModelResponse

from standpipe.adapters import entries
from standpipe.adapters.journal import AnySession, Item, Journal
from standpipe.bundle import Json
from standpipe.v1.turn_pb2 import Part, Role, TurnEntry

__all__ = ["History"]


class History:
    """The messages of a Standpipe session, of `standpipe.connect()`, or of `standpipe.sync.connect()` in threads."""

    def __init__(self, session: AnySession) -> None:
        """`session` is created by the first message; it needs a subject then."""
        self._journal = Journal(session, "pydantic_ai", _item_of)

    async def load(self) -> list[ModelMessage]:
        """Return all messages, in order: for `message_history`."""
        return ModelMessagesTypeAdapter.validate_python(await self._journal.wait(self._journal.items()))

    async def save(self, messages: Sequence[ModelMessage]) -> None:
        """Append the messages of a run, `result.new_messages()`, behind whatever other writers added."""
        items: list[Json] = json.loads(ModelMessagesTypeAdapter.dump_json(list(messages)))
        steps = [list(_steps(message)) for message in messages]
        both: list[Item] = list(zip(items, steps, strict=True))
        await self._journal.wait(self._journal.append(both))

    async def clear(self) -> None:
        """Take all messages off the list; the log, and bundles, keep what was said."""
        await self._journal.wait(self._journal.clear())


def _steps(message: ModelMessage) -> Iterable[TurnEntry]:
    """Yield the steps of a conversation that a message is."""
    for part in message.parts:
        step: TurnEntry | None = None
        if isinstance(part, parts.UserPromptPart):
            step = entries.message(Role.ROLE_USER, _content(part.content))
        elif isinstance(part, parts.TextPart):
            step = entries.message(Role.ROLE_ASSISTANT, part.content)
        elif isinstance(part, parts.ToolCallPart):
            step = entries.call(part.tool_call_id, part.tool_name, part.args_as_json_str())
        elif isinstance(part, parts.ToolReturnPart):
            failed = getattr(part, "outcome", "success") != "success"
            step = entries.result(part.tool_call_id, part.model_response_str(), is_error=failed)
        elif isinstance(part, parts.RetryPromptPart) and part.tool_name is not None:
            step = entries.result(part.tool_call_id, part.model_response(), is_error=True)
        if step is not None:
            yield step


def _content(content: object) -> str | list[Part]:
    """Return text, or pieces where there is more than text."""
    if isinstance(content, str):
        return content
    found: list[Part] = []
    for piece in content if isinstance(content, Iterable) else ():
        if isinstance(piece, str) and entries.clean(piece).strip():
            found.append(Part(text=entries.clean(piece)))
        elif isinstance(piece, parts.FileUrl):
            found.append(entries.reference(piece.url, piece.media_type))
        elif isinstance(piece, parts.BinaryContent):
            found.append(entries.reference(piece.data_uri, piece.media_type))
    return found


def _item_of(entry: TurnEntry) -> Json | None:
    """Return the plainest message that an entry can be."""
    message: ModelMessage
    if entry.HasField("message"):
        text = entries.text_of(entry)
        if entry.message.role == Role.ROLE_USER:
            message = ModelRequest(parts=[parts.UserPromptPart(text)])
        else:
            message = ModelResponse(parts=[parts.TextPart(text)])
    elif entry.HasField("tool_call"):
        call = entry.tool_call
        message = ModelResponse(parts=[parts.ToolCallPart(call.name, call.arguments_json or None, call.id)])
    else:
        result = entry.tool_result
        message = ModelRequest(parts=[parts.ToolReturnPart("tool", result.content, result.call_id)])
    item: Json = json.loads(ModelMessagesTypeAdapter.dump_json([message]))[0]
    return item
