"""The histories of frameworks on a real server: items come back exactly, and what was said is in the log as such."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import standpipe
from tests import expects
from tests.clients.adapters.conftest import off_loop, steps

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=["async", "sync"])
def session(request: Any, client: Any, sync_client: Any) -> Any:
    """Return a session of each kind."""
    return (client if request.param == "async" else sync_client).session("s", subject="anna")


AGENT_ITEMS: list[Any] = [
    {"role": "user", "content": "When can I sail?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
    {"type": "function_call", "call_id": "c1", "name": "tide", "arguments": '{"port": "Emden"}', "id": "fc_1"},
    {"type": "function_call_output", "call_id": "c1", "output": "high at 12"},
    {"content": [{"type": "output_text", "text": "At noon.", "annotations": []}], "role": "assistant", "id": "m_1"},
    {"role": "user", "content": [{"type": "input_image", "image_url": "https://p.example/b.png", "detail": "low"}]},
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " "},
    {"type": "function_call_output", "call_id": "nobody", "output": "late"},
]


async def test_agents_items_come_back_exactly(session: Any, client: Any) -> None:
    """Reasoning, images, blanks and answers to no call too; what was said is in the log for bundles and recall."""
    agents = pytest.importorskip("standpipe.adapters.openai_agents", reason="openai-agents is not installed here")
    ours = agents.AgentsSession(session)
    assert await ours.get_items() == []
    assert await ours.pop_item() is None
    await ours.add_items(AGENT_ITEMS)
    assert json.dumps(await ours.get_items()) == json.dumps(AGENT_ITEMS)
    assert await ours.get_items(2) == AGENT_ITEMS[-2:]
    assert json.dumps(await agents.AgentsSession(session).get_items()) == json.dumps(AGENT_ITEMS)
    lines = (await steps(client, "s"))[0]
    assert [line for line in lines if not line.startswith("app ")] == [
        "user: When can I sail?",
        'call tide {"port": "Emden"}',
        "result high at 12",
        "assistant: At noon.",
        "user: [image/png https://p.example/b.png ]",
    ]
    bundle = await client.session("s").hydrate()
    assert "At noon." in bundle.text
    assert "gAAA" not in bundle.text


async def test_agents_take_items_off(session: Any, client: Any) -> None:
    """Popped and cleared items are gone from the list, and later ones follow; the log keeps what happened."""
    agents = pytest.importorskip("standpipe.adapters.openai_agents", reason="openai-agents is not installed here")
    ours = agents.AgentsSession(session)
    words = [{"role": "user", "content": f"Word {n}."} for n in range(3)]
    await ours.add_items(words)
    other = agents.AgentsSession(client.session("s"))
    assert await other.pop_item() == words[2]
    assert await ours.pop_item() == words[1]
    assert await other.get_items() == words[:1]
    await ours.clear_session()
    assert await other.get_items() == []
    assert await ours.pop_item() is None
    await other.add_items(words[1:])
    assert await ours.get_items() == words[1:]
    assert (await steps(client, "s"))[0] == [f"user: Word {n}." for n in range(3)]


async def test_agents_writers_at_once_lose_nothing(client: Any) -> None:
    """P2: appends of many writers are all there, and of pops at once each takes another item."""
    agents = pytest.importorskip("standpipe.adapters.openai_agents", reason="openai-agents is not installed here")
    many = [agents.AgentsSession(client.session("s", subject="anna")) for _ in range(8)]
    words = [{"role": "user", "content": f"Word {n}."} for n in range(8)]
    await asyncio.gather(*(one.add_items([word]) for one, word in zip(many, words, strict=True)))
    items = await many[0].get_items()
    assert sorted(map(str, items)) == sorted(map(str, words))
    popped = await asyncio.gather(*(one.pop_item() for one in many[:5]))
    assert sorted(map(str, popped)) == sorted(map(str, items[3:]))
    assert await many[7].get_items() == items[:3]


async def test_agents_call_ids_may_come_again(client: Any) -> None:
    """The log takes a call's id once in a session; the list takes what it is given."""
    agents = pytest.importorskip("standpipe.adapters.openai_agents", reason="openai-agents is not installed here")
    ours = agents.AgentsSession(client.session("s", subject="anna"))
    for _ in range(2):
        await ours.add_items(AGENT_ITEMS[2:4])
    assert await ours.get_items() == AGENT_ITEMS[2:4] * 2
    assert [len([line for line in turn if line.startswith("call tide")]) for turn in await steps(client, "s")] == [1, 1]


async def test_the_sdks_own_session_tests() -> None:
    """The OpenAI Agents SDK's tests of its SQLite sessions pass with ours in their place."""
    pytest.importorskip("agents", reason="openai-agents is not installed here")
    found = sorted((ROOT / ".cache" / "tools" / "framework-tests").glob("openai_agents-*"))
    if not found:
        expects.missing(
            "framework-tests",
            "no tests of the SDK here: `make test-clients` gets them",
            promised={"framework-tests"},
        )
    names = ["tests/memory/test_session.py", "tests/extensions/memory/test_async_sqlite_session.py"]
    names.append("tests/memory/test_session_limit.py")
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (ROOT, ROOT / "clients" / "python", here)))
    models = str(ROOT / os.environ.get("STANDPIPE_MODELS_DIR", ".cache/models"))  # Make's is relative
    command = [sys.executable, "-m", "pytest", "-q", "-p", "agents_sdk_plugin", "-p", "no:cacheprovider", *names]
    environment = {**os.environ, "PYTHONPATH": path, "STANDPIPE_MODELS_DIR": models}
    done = await off_loop(
        subprocess.run, command, cwd=found[-1], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 60, done.stdout[-300:]


async def test_langchain_messages_come_back_exactly(sync_client: Any, client: Any) -> None:
    """Names, ids, calls, failed tools and content blocks; clear takes them off the list."""
    adapter = pytest.importorskip("standpipe.adapters.langchain", reason="langchain-core is not installed here")
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

    said = [
        HumanMessage("Hi", name="Anna"),
        SystemMessage("Be brief."),
        AIMessage("Let me see.", id="r1", tool_calls=[{"name": "tide", "args": {"port": "Emden"}, "id": "c1"}]),
        ToolMessage("no tide", tool_call_id="c1", status="error"),
        AIMessage([{"type": "text", "text": "At noon."}]),
        HumanMessage("Plain."),
    ]
    history = adapter.ChatHistory(sync_client.session("s", subject="anna"))
    await off_loop(history.add_messages, said)
    assert await off_loop(lambda: history.messages) == said
    assert await adapter.ChatHistory(client.session("s")).aget_messages() == said
    lines = (await steps(client, "s"))[0]
    assert [line for line in lines if not line.startswith("app ")] == [
        "Anna: Hi",
        "assistant: Let me see.",
        'call tide {"port":"Emden"}',
        "result no tide",
        "assistant: At noon.",
        "user: Plain.",
    ]
    await adapter.ChatHistory(client.session("s")).aclear()
    assert await off_loop(lambda: history.messages) == []
    with pytest.raises(TypeError, match="sync"):
        _ = adapter.ChatHistory(client.session("s")).messages


async def test_pydantic_ai_messages_come_back_exactly(session: Any, client: Any) -> None:
    """A whole run with a tool, and the messages of others."""
    adapter = pytest.importorskip("standpipe.adapters.pydantic_ai", reason="pydantic-ai is not installed here")
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    agent = Agent(TestModel())

    @agent.tool_plain
    def tide(port: str) -> str:
        return "high at 12"

    history = adapter.History(session)
    result = await agent.run("When can I sail?", message_history=await history.load())
    await history.save(result.new_messages())
    assert await history.load() == result.new_messages()
    lines = (await steps(client, "s"))[0]
    assert lines[0] == "user: When can I sail?"
    assert "result high at 12" in lines
    again = await agent.run("And now?", message_history=await history.load())
    await history.save(again.new_messages())
    assert await adapter.History(client.session("s")).load() == again.all_messages()
    await client.session("s").commit([standpipe.user("By another.")], mode="append")
    assert (await history.load())[-1].parts[0].content == "By another."


async def test_llama_index_messages_come_back_exactly(sync_client: Any, client: Any) -> None:
    """put, set and reset; what set keeps is not said again."""
    adapter = pytest.importorskip("standpipe.adapters.llama_index", reason="llama-index-core is not installed here")
    from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock

    said = [
        ChatMessage("Hi"),
        ChatMessage(
            role=MessageRole.ASSISTANT, blocks=[ToolCallBlock(tool_call_id="c1", tool_name="tide", tool_kwargs={})]
        ),
        ChatMessage("high", role=MessageRole.TOOL, additional_kwargs={"tool_call_id": "c1"}),
        ChatMessage("At noon.", role=MessageRole.ASSISTANT),
    ]
    memory = adapter.StandpipeMemory.of(sync_client.session("s", subject="anna"), messages_max=2)
    await off_loop(memory.put_messages, said)
    assert await off_loop(memory.get_all) == said
    assert await off_loop(memory.get) == said[-2:]
    assert (await steps(client, "s"))[0] == ["user: Hi", "call tide {}", "result high", "assistant: At noon."]
    await off_loop(memory.set, [*said[:1], ChatMessage("New.")])
    other = adapter.StandpipeMemory.from_defaults(client.session("s"))
    assert [message.content for message in await other.aget_all()] == ["Hi", "New."]
    assert [line for line in (await steps(client, "s"))[1] if not line.startswith("app ")] == ["user: New."]
    await other.areset()
    assert await off_loop(memory.get_all) == []


def test_dates_are_no_problem() -> None:
    """What is not JSON is refused with a TypeError, before anything is sent."""
    from standpipe.adapters import entries

    with pytest.raises(TypeError):
        entries.dumps({"at": datetime.datetime.now(datetime.UTC)})
    with pytest.raises(ValueError, match="JSON"):
        entries.dumps(float("nan"))
    assert entries.dumps("half \ud800") == '"half ?"'
