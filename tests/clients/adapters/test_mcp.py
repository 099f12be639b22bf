"""`standpipe mcp` as an agent's host has it: the protocol's own client starts it, against a real server."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import standpipe
from sidecar.config import Config
from sidecar.server import Server
from standpipe import fact, source, user
from tests.e2e.pods import MODELS, ROOT, settings
from tests.servers import free_port, wait_for

mcp = pytest.importorskip("mcp", reason="the package mcp is not installed here")

pytestmark = [pytest.mark.timeout(120)]

POLICY = """
name: memory
budget_tokens: 2000
prompts: [{name: persona, text: Be brief.}]
sources: {profile: {}, history: {}, facts: {}, recall: {}, documents: {}}
recall: {floor: false}
"""


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[str]:
    """Serve an empty store, and return its address."""
    config = Config(**settings(tmp_path / "record.db", tenant="acme", log_level="error"))
    async with Server(config) as server:
        target = f"127.0.0.1:{server.ports[0]}"
        async with standpipe.connect(target) as client:
            await client.policies.publish(POLICY)
            await client.policies.set_route("default", "memory", 1)
        yield target


def environment() -> dict[str, str]:
    """Return an environment without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    return {**kept, "PYTHONPATH": paths, "STANDPIPE_MODELS_DIR": str(MODELS), "COLUMNS": "80"}


@asynccontextmanager
async def agent(target: str, *flags: str, subject: str = "anna", mode: str = "auto") -> AsyncIterator[Any]:
    """Start the command as a host does, and yield a client of it."""
    arguments = ["-m", "sidecar", "mcp", "--target", target, "--subject", subject, *flags]
    started = mcp.StdioServerParameters(command=sys.executable, args=arguments, env=environment())
    async with mcp.Client(started, mode=mode) as client:
        yield client


async def call(client: Any, tool: str, **arguments: Any) -> Any:
    """Call a tool that must answer; return its structured answer."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return answer.structured_content


async def refused(client: Any, tool: str, **arguments: Any) -> str:
    """Call a tool that must fail; return what the model is told."""
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error, answer.structured_content
    return "".join(part.text for part in answer.content)


async def told(client: standpipe.Client, subject: str, attribute: str, value: str) -> str:
    """Let a user say something of themselves in a session that no agent has; return the fact's reference."""
    session = client.session(f"chat-{subject}-{value}", subject=subject)
    done = await session.commit(
        [user(f"My {attribute} is {value}.")],
        expected_version=0,
        facts=[fact(attribute, value, source(entry=0))],
    )
    ref = done.facts[0].fact
    return f"{ref.session_id}@{ref.version}.{ref.entry}"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.asyncio
async def test_a_host_finds_five_tools_and_none_names_whose_memory_it_is(mode: str, served: str) -> None:
    """P8: the tools say what they take and give; tenant, subject, session and route are nowhere among it. Hosts of the
    protocol's earlier versions, which begin with a handshake, find the same.
    """
    async with agent(served, mode=mode) as client:
        listed = (await client.list_tools()).tools
        assert "Call hydrate" in client.instructions
    assert [tool.name for tool in listed] == ["hydrate", "remember", "correct", "forget", "search"]
    taken = {tool.name: set(tool.input_schema["properties"]) for tool in listed}
    assert taken == {
        "hydrate": {"query", "budget_tokens"},
        "remember": {"attribute", "value", "statement", "many"},
        "correct": {"fact", "value", "statement"},
        "forget": {"fact"},
        "search": {"query", "kinds", "count"},
    }
    for tool in listed:
        assert len(tool.description) > 80
        assert all("description" in field for field in tool.input_schema["properties"].values()), tool.name
        assert tool.output_schema["type"] == "object"
    hints = {tool.name: tool.annotations.read_only_hint for tool in listed}
    assert hints == {"hydrate": True, "search": True, "remember": None, "correct": None, "forget": None}


@pytest.mark.asyncio
async def test_what_an_agent_asks_to_be_remembered_waits_until_a_human_accepts_it(served: str) -> None:
    """P10: an agent's word is no fact. The answer says so, nothing shows it as one, and a review makes it one."""
    async with agent(served) as client, standpipe.connect(served) as own:
        noted = await call(
            client, "remember", attribute="home city", value="Porto", statement="Anna: I moved to Porto."
        )
        assert (noted["outcome"], noted["reasons"]) == ("waits for review", ["origin"])
        assert "until a human accepts it" in noted["meaning"]
        again = await call(client, "remember", attribute="home city", value="Porto")
        assert (again["outcome"], again["fact"]) == ("waits for review", noted["fact"])
        before = await call(client, "hydrate", query="Where does Anna live?")
        assert before["facts"] == []
        assert "I moved to Porto" in before["context"]  # as what the assistant said, in its own session
        waiting = [one async for one in own.memory("anna").quarantine()]
        assert [one.belief.fact.extractor.name for one in waiting] == ["mcp"]
        await own.memory("anna").review(waiting[0].belief.fact_ref, accept=True, reviewer="bo")
        after = await call(client, "hydrate", query="home city")
        assert after["facts"] == [{"fact": noted["fact"], "text": "home city: Porto"}]
        assert 0 < after["tokens"] <= 2000
        small = await refused(client, "hydrate", query="home city", budget_tokens=1)
        assert "BUDGET_TOO_SMALL" in small
        await own.memory("anna").reject(waiting[0].belief.fact_ref)
        never = await call(client, "remember", attribute="Home City", value="PORTO")
        assert (never["outcome"], never["fact"]) == ("rejected before", "")


@pytest.mark.asyncio
async def test_facts_are_found_corrected_and_forgotten_by_their_references(served: str) -> None:
    """What the user said is held, a correction by an agent waits beside it, and a fact that is forgotten is gone."""
    async with agent(served, "--session", "notes") as client, standpipe.connect(served) as own:
        place = await told(own, "anna", "home city", "Lisbon")
        (found,) = (await call(client, "search", query="home city Lisbon", kinds=["fact"]))["results"]
        assert (found["reference"], found["text"], found["trust"]) == (place, "home city: Lisbon", "user")
        kinds = {one["kind"] for one in (await call(client, "search", query="home city Lisbon"))["results"]}
        assert kinds == {"fact", "said"}
        assert len((await call(client, "search", query="home city Lisbon", count=1))["results"]) == 1

        waits = await call(client, "correct", fact=place, value="Porto", statement="Anna: I live in Porto now.")
        assert waits["outcome"] == "waits for review"
        assert [one["text"] for one in (await call(client, "hydrate", query="home city"))["facts"]] == [
            "home city: Lisbon"
        ]
        held = [one async for one in own.memory("anna").quarantine()]
        await own.memory("anna").review(held[0].belief.fact_ref, accept=True, reviewer="bo")
        (now,) = (await call(client, "hydrate", query="home city"))["facts"]
        assert now == {"fact": waits["fact"], "text": "home city: Porto"}

        gone = await call(client, "forget", fact=now["fact"])
        assert gone["outcome"] == "retracted"
        assert (await call(client, "hydrate", query="home city"))["facts"] == []
        assert "FACT_NOT_FOUND" in await refused(client, "forget", fact=now["fact"])
        assert "is retracted, and cannot be corrected" in await refused(
            client, "correct", fact=now["fact"], value="Faro"
        )
        said = [event.version async for event in own.session("notes").events()]
        assert said == [1]  # what could not be corrected left nothing


@pytest.mark.asyncio
async def test_one_subjects_agent_reaches_nothing_of_anothers(served: str) -> None:
    """P8: with a reference in hand, an agent of another subject can neither read, nor correct, nor forget."""
    async with standpipe.connect(served) as own:
        place = await told(own, "anna", "secret plan", "Lighthouse")
        async with agent(served, subject="bo") as client:
            assert "Lighthouse" not in str(await call(client, "hydrate", query="secret plan Lighthouse"))
            assert (await call(client, "search", query="secret plan Lighthouse"))["results"] == []
            for tool, more in (("forget", {}), ("correct", {"value": "Tower"})):
                said = await refused(client, tool, fact=place, **more)
                assert "FACT_NOT_FOUND in fact:" in said
                assert "Lighthouse" not in said
            smuggled = await client.call_tool(
                "search", {"query": "secret plan", "subject": "anna", "subject_id": "anna", "tenant_id": "acme"}
            )
            assert smuggled.is_error or smuggled.structured_content == {"results": []}
        held = [one.fact.value async for one in own.memory("anna").beliefs()]
    assert held == ["Lighthouse"]


@pytest.mark.asyncio
async def test_bad_arguments_are_told_by_reason_and_field(served: str) -> None:
    """A model reads what is wrong and can correct it: of the schema, of a reference, and of the server."""
    async with agent(served) as client:
        assert "attribute" in await refused(client, "remember", value="Porto")
        assert "count" in await refused(client, "search", query="x", count=21)
        assert "kinds" in await refused(client, "search", query="x", kinds=["secrets"])
        for bad in ("nonsense", "a@1", "@1.0", "a@b.c", "a@-1.0", "a@٣.0"):
            assert "INVALID_FIELD in fact" in await refused(client, "forget", fact=bad)
        assert "FACT_NOT_FOUND" in await refused(client, "forget", fact=f"a@{'9' * 30}.0")
        assert "FACT_NOT_FOUND" in await refused(client, "correct", fact="a@1.0", value="x")
        said = await refused(client, "remember", attribute="two\nlines", value="x")
        assert "INVALID_FIELD in attribute" in said
        assert "two" not in said


@pytest.mark.asyncio
async def test_a_server_that_is_away_is_told_and_comes_back(tmp_path: Path) -> None:
    """The tools are listed without a server, say that none answers, and work when there is one."""
    port = free_port()
    async with agent(f"127.0.0.1:{port}") as client:
        assert len((await client.list_tools()).tools) == 5
        assert "UNAVAILABLE" in await refused(client, "search", query="anything")
        config = Config(**settings(tmp_path / "r.db", listen=(f"127.0.0.1:{port}",), log_level="error"))
        async with Server(config):
            assert (await call(client, "search", query="anything"))["results"] == []


@pytest.mark.asyncio
async def test_over_http_it_is_for_this_machine_alone(served: str) -> None:
    """Streamable HTTP on loopback serves the same tools; no other interface is taken, and no browser's page gets in."""
    port = free_port()
    process = start("--target", served, "--subject", "anna", "--http", f"127.0.0.1:{port}")
    try:
        assert process.stderr is not None
        assert f"http://127.0.0.1:{port}/mcp" in process.stderr.readline()
        wait_for(lambda: _answers(port), "it listens")
        async with mcp.Client(f"http://127.0.0.1:{port}/mcp") as client:
            assert (await call(client, "remember", attribute="cat", value="Tom"))["outcome"] == "waits for review"
        assert _post(port, {"Origin": "https://evil.example"}) == 403
        assert _post(port, {"Host": "evil.example"}) == 421
    finally:
        process.terminate()
        process.communicate(timeout=20)
    refusal = run("--subject", "anna", "--http", f"0.0.0.0:{port}")
    assert refusal.returncode == 2
    assert "not an address of this machine's own" in refusal.stderr


def _answers(port: int) -> bool:
    try:
        return _post(port, {}) > 0
    except OSError:
        return False


def _post(port: int, headers: dict[str, str]) -> int:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/mcp", b"{}", {"Content-Type": "application/json", **headers})
        return connection.getresponse().status
    finally:
        connection.close()


def start(*flags: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start the command."""
    return subprocess.Popen(
        [sys.executable, "-m", "sidecar", "mcp", *flags],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def run(*flags: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "mcp", *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**environment(), **changes},
    )


def test_the_command_says_what_it_is_in_a_terminal_and_nothing_in_a_pipe() -> None:
    """Standard output is the protocol's. A person in a terminal is told so, and what is missing is named."""
    piped = run("--subject", "anna")
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, "", "")
    missing = run()
    assert missing.returncode == 2
    assert "--subject" in missing.stderr
    blocked = "import sys; sys.modules['mcp'] = None; import sidecar.__main__ as m; m.main()"
    absent = subprocess.run(
        [sys.executable, "-c", blocked, "mcp", "--subject", "anna"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(),
    )
    assert absent.returncode == 2
    assert "pip install 'standpipe[mcp]'" in absent.stderr

    master, terminal = pty.openpty()
    process = start("--subject", "anna", stdin=terminal)
    os.close(terminal)
    assert process.stderr is not None
    shown = process.stderr.readline()
    assert shown.startswith("The memory of anna, for agents, at standard input and output")
    os.write(master, b"\x04")  # Ctrl-D
    out, _ = process.communicate(timeout=20)
    os.close(master)
    assert (process.returncode, out) == (0, "")
