"""A session of the OpenAI Agents SDK on Standpipe.

::

    session = AgentsSession(standpipe.connect().session("s-1", subject="anna"))
    await Runner.run(agent, "Hi, I am Anna.", session=session)

Items come back exactly as they went in. What was said and what tools did is also in the log as such: other pods
hydrate it, recall finds it in later sessions, and erasing the subject erases it.

`pop_item` and `clear_session` take items off the list that the SDK sees. The log keeps what happened, and so do
bundles: to have it gone, erase the subject. An item's JSON is at most 256 KiB, and nested at most 98 deep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from agents import SessionSettings, TResponseInputItem

from standpipe.adapters import entries
from standpipe.adapters.journal import AnySession, Item, Journal
from standpipe.bundle import Json
from standpipe.v1.turn_pb2 import Part, Role, TurnEntry

__all__ = ["AgentsSession"]


class AgentsSession:
    """The SDK's `Session` protocol over a Standpipe session.

    A session of `standpipe.connect()` belongs to one event loop; one of `standpipe.sync.connect()` serves any, in
    threads: take it for `Runner.run_sync`.
    """

    def __init__(
        self, session: AnySession, *, session_settings: SessionSettings | dict[str, Any] | None = None
    ) -> None:
        """`session_settings.limit` is how many items `get_items` returns by itself; None means all."""
        self.session_id = session.id
        if isinstance(session_settings, dict):
            unknown = sorted(session_settings.keys() - {one.name for one in dataclasses.fields(SessionSettings)})
            if unknown:
                raise TypeError(f"Unknown session settings: {', '.join(unknown)}")
            session_settings = SessionSettings(**session_settings)
        self.session_settings: SessionSettings | None = session_settings or SessionSettings()
        self._journal = Journal(session, "openai_agents", _item_of)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the latest `limit` items in their order; None means the settings' limit, or all."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        items = await self._journal.wait(self._journal.items())
        if limit is not None:
            items = items[-limit:] if limit > 0 else []
        return cast(list[TResponseInputItem], items)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items, behind whatever other writers added. Raises TypeError for what is not JSON."""
        await self._journal.wait(self._journal.append([_steps(cast(Json, item)) for item in items]))

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the latest item off the list and return it; None if there is none."""
        return cast("TResponseInputItem | None", await self._journal.wait(self._journal.pop()))

    async def clear_session(self) -> None:
        """Take all items off the list."""
        await self._journal.wait(self._journal.clear())


def _steps(item: Json) -> Item:
    """Return an item and the step of a conversation that it is, if it is one."""
    kind, role = item.get("type", "message"), item.get("role")
    step: TurnEntry | None = None
    if kind == "message" and role in ("user", "assistant"):
        speaker = Role.ROLE_USER if role == "user" else Role.ROLE_ASSISTANT
        step = entries.message(speaker, _content(item.get("content")))
    elif kind == "function_call":
        step = entries.call(str(item.get("call_id")), str(item.get("name")), str(item.get("arguments") or ""))
    elif kind == "function_call_output":
        content = _content(item.get("output"))
        text = content if isinstance(content, str) else "\n".join(part.text for part in content if part.text)
        step = entries.result(str(item.get("call_id")), text)
    return item, [] if step is None else [step]


def _content(content: Any) -> str | list[Part]:
    """Return text, or pieces where there is more than text."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part for part in map(_part, content) if part is not None]
    if all(part.WhichOneof("content") == "text" for part in parts):
        return "\n".join(part.text for part in parts)
    return parts


def _part(part: Any) -> Part | None:
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text", "refusal"):
        text = entries.clean(str(part.get("refusal" if kind == "refusal" else "text") or ""))
        return Part(text=text) if text.strip() else None
    if kind == "input_image":
        return entries.reference(part.get("image_url") or f"openai-file:{part.get('file_id')}", "image/*")
    if kind == "input_file":
        name = str(part.get("filename") or "")
        address = part.get("file_url") or part.get("file_data") or f"openai-file:{part.get('file_id')}"
        return entries.reference(address, "application/octet-stream", name)
    return None


def _item_of(entry: TurnEntry) -> Json | None:
    """Return the plainest item that an entry can be."""
    if entry.HasField("message"):
        role = "user" if entry.message.role == Role.ROLE_USER else "assistant"
        return {"role": role, "content": entries.text_of(entry)}
    if entry.HasField("tool_call"):
        call = entry.tool_call
        return {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments_json,
        }
    result = entry.tool_result
    return {"type": "function_call_output", "call_id": result.call_id, "output": result.content}
