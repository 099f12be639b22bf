"""Both clients against the real server."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509

import standpipe
from standpipe import assistant, errors, tool_call, tool_result, user
from tests.certificates import Certificates

server = pytest.importorskip("sidecar.server", reason="the server's packages are not installed here")
config = pytest.importorskip("sidecar.config")

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.timeout(60)]

MODELS = Path(os.environ.get("STANDPIPE_MODELS_DIR") or Path(__file__).parents[3] / ".cache" / "models")
POLICY = """
name: kind
tokenizer: cl100k_base
budget_tokens: 2000
prompts:
  - {name: persona, text: You are kind.}
sources:
  summary: {cap: 10%}
  history: {cap: 65%}
  recall: {cap: 100%}
recall: {floor: false}
"""


def settings(directory: Path, *addresses: str, **more: Any) -> Any:
    """Return the settings of a server with an empty store and no embedder, at a socket file and elsewhere."""
    if not (MODELS / "tokenizers" / "cl100k_base.tiktoken").exists():
        pytest.fail(f"no tokenizer ranks in {MODELS}; set STANDPIPE_MODELS_DIR", pytrace=False)
    return config.Config(
        tenant="acme",
        listen=(f"unix:{directory}/s.sock", *addresses),
        http="",
        plaintext=True,
        record=f"sqlite:{directory}/s.db",
        models_dir=str(MODELS),
        embedder="none",
        tokenizers=("cl100k_base",),
        log_level="error",
        **more,
    )


@pytest_asyncio.fixture
async def real(directory: Path, connect: Any) -> AsyncIterator[Any]:
    """Return a client of a real server with an empty store and no embedder."""
    address = f"unix:{directory}/s.sock"
    async with server.Server(settings(directory)):
        client = connect(address, tenant="acme")
        yield client
        await client.close()


async def reply(bundle: Any) -> str:
    """Answer like a model that knows only the version."""
    return f"I saw version {bundle.version}."


@pytest.mark.asyncio
async def test_a_conversation(real: Any) -> None:
    """P1, P3, P7: turns, tools, recall and replay, from an empty store to the end of the session."""
    await real.policies.publish(POLICY)
    await real.policies.set_route("default", "kind", 1)
    session = real.session("s", subject="anna")
    with pytest.raises(errors.NotFound):
        await session.get()
    bundle = await session.hydrate("Hello, my cat is called Tom.")
    assert (bundle.version, bundle.policy) == (0, "kind@1")
    assert bundle.to_openai() == [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "Hello, my cat is called Tom."},
    ]
    said = [user(bundle.query, speaker="Anna"), assistant("What a fine name for a cat.")]
    first = await session.commit(said, bundle=bundle, request_id="one")
    again = await session.commit(said, bundle=bundle, request_id="one")
    assert (first.version, first.replayed, again.replayed, again.event_hash) == (1, False, True, first.event_hash)

    async def adds(_: Any) -> Any:
        return [tool_call("call-1", "add", {"a": 1, "b": 1}), tool_result("call-1", "2"), assistant("Two.")]

    second = await session.turn("What is one and one?", adds)
    assert (second.commit.version, second.bundle.version) == (2, 1)

    bundle = await session.hydrate("What is my cat called?")
    openai = bundle.to_openai()
    assert [message["role"] for message in openai[:-1]] == [
        "system", "user", "assistant", "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert openai[1] == {"role": "user", "content": "Hello, my cat is called Tom.", "name": "Anna"}
    assert json.loads(openai[4]["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "b": 1}
    assert (openai[5]["tool_call_id"], openai[5]["content"]) == ("call-1", "2")
    assert openai[-1]["content"].endswith("What is my cat called?")
    anthropic = bundle.to_anthropic()
    assert [message["role"] for message in anthropic["messages"]] == ["user", "assistant"] * 3 + ["user"]
    assert anthropic["system"][0]["cache_control"] == {"type": "ephemeral"}

    other = await real.session("t", subject="anna").hydrate("What is my cat called?")
    assert "Tom" in other.text
    assert "Tom" in other.to_openai()[-1]["content"]
    assert "Tom" not in other.to_openai()[0]["content"]

    replay = await real.replay(bundle.receipt)
    assert (replay.bundle.text, replay.bundle.fingerprint) == (bundle.text, bundle.fingerprint)
    assert (replay.session_id, replay.subject_id) == ("s", "anna")
    assert [event.version async for event in session.events(page_size=1)] == [1, 2]
    assert [info.session_id async for info in real.sessions("anna")] == ["s"]
    assert (await session.end("done")).version == 3
    with pytest.raises(errors.SessionEnded) as caught:
        await session.commit(user("More"), expected_version=3)
    assert caught.value.reason == "SESSION_ENDED"


@pytest.mark.asyncio
async def test_a_lost_race(real: Any) -> None:
    """P2, P4: the conflict names the winner, and a turn finds its way past it with a fresh bundle."""
    rival = real.session("s", subject="anna")
    session = real.session("s", subject="anna")
    stale = await session.hydrate()
    won = await rival.commit(user("I was first."), expected_version=0)
    with pytest.raises(errors.Conflict) as caught:
        await session.commit(user("So was I."), bundle=stale)
    assert (caught.value.current_version, caught.value.winner_request_id) == (1, won.request_id)
    seen: list[int] = []

    async def answer(bundle: Any) -> str:
        seen.append(bundle.version)
        return "Sorted."

    done = await session.turn("Now?", answer)
    assert (seen, done.commit.version, session.token) == ([1], 2, done.commit.token)
    appended = await rival.commit(user("And me."), mode="append")
    assert appended.version == 3


@pytest.mark.asyncio
async def test_memory(real: Any) -> None:
    """Facts with a turn and without, corrections, review, profile, documents, export and erasure."""
    session, memory = real.session("s", subject="anna"), real.memory("anna")
    assert memory.subject == "anna"
    said = [user("I moved to Porto."), assistant("Then you like rain.")]
    claim = standpipe.fact("home city", "Porto", standpipe.source(entry=0), pinned=True)
    done = await session.commit(said, mode="append", facts=[claim])
    city = done.facts[0].fact
    assert (city.session_id, city.version, city.entry) == ("s", 1, 2)
    moved = datetime(2026, 5, 3, tzinfo=UTC)
    likes = standpipe.fact("likes", "rain", standpipe.source("s", 1, 1), many=True, extractor="llm", valid_from=moved)
    (waits,) = await memory.remember(likes, request_id="r1")
    assert waits.reasons
    assert [one.belief.fact.valid_from.ToDatetime(UTC) async for one in memory.quarantine()] == [moved]
    assert [one.subject_id async for one in real.memory().quarantine(page_size=1)] == ["anna"]
    await memory.review(waits.fact, accept=True, reviewer="rita")
    assert [one.fact.value async for one in memory.beliefs(page_size=1)] == ["Porto", "rain"]
    new = await memory.supersede(city, standpipe.fact("home city", "Braga", standpipe.source("s", 1, 0)))
    await memory.pin(new.fact, pinned=False)
    await memory.retract(waits.fact, cause="a joke")
    await memory.reject(new.fact)
    statuses = [one.status async for one in memory.beliefs(all_statuses=True)]
    assert len(statuses) == 3
    assert [one async for one in memory.beliefs()] == []
    with pytest.raises(errors.NotFound) as gone:
        await memory.pin(city, request_id="late")
    assert (gone.value.reason, gone.value.request_id) == ("FACT_NOT_FOUND", "late")
    assert await memory.put_profile({"tone": "dry", "name": "Anna"}) == {"name": "Anna", "tone": "dry"}
    assert await memory.put_profile({"tone": ""}) == await memory.profile() == {"name": "Anna"}
    guide = standpipe.document("guide", "Porto is wet.", title="Guide", uri="https://example.org/guide")
    assert [one.created for one in await memory.ingest(guide)] == [True]
    assert [one.created for one in await memory.ingest(guide)] == [False]
    page = b"".join([one async for one in memory.export("markdown")])
    assert b"Porto is wet." in page
    receipt = await memory.erase()
    assert receipt.logs == 3
    with pytest.raises(errors.FailedPrecondition):
        await memory.put_profile({"tone": "dry"})


@pytest.mark.asyncio
async def test_state(real: Any) -> None:
    """Records of a subject and of the tenant: written, read, listed both ways, raced for and deleted."""
    state = real.state("notes", subject="anna")
    assert (state.collection, state.subject) == ("notes", "anna")
    first = await state.put("trip/1", b"passport", expected_revision=0, ttl_s=60)
    second = await state.write(standpipe.Write("trip/2", b"charger"), standpipe.Write("other", b""))
    assert (first, second) == (1, 2)
    found = await state.get("trip/1")
    assert isinstance(found, standpipe.Record)
    assert (found.value, found.revision, found.expires_at > found.updated_at) == (b"passport", 1, True)
    assert found.updated_at.tzinfo is UTC
    assert await state.get("nothing") is None
    assert list(await state.get_all(["trip/2", "nothing", "trip/1"])) == ["trip/2", "trip/1"]
    assert [one.key async for one in state.list("trip/", page_size=1)] == ["trip/1", "trip/2"]
    last = [one async for one in state.list("trip/", descending=True, keys_only=True)]
    assert [(one.key, one.value) for one in last] == [("trip/2", b""), ("trip/1", b"")]
    with pytest.raises(errors.Conflict) as lost:
        await state.put("trip/1", b"late", expected_revision=0)
    assert (lost.value.metadata["key_index"], lost.value.current_version) == ("0", 1)
    await state.delete("trip/1", expected_revision=first)
    assert await state.delete_all("trip/") == 1
    assert [one.key async for one in state.list()] == ["other"]
    assert [one async for one in real.state("notes").list()] == []
    with pytest.raises(errors.InvalidArgument) as bad:
        await real.state("no/collection").get("k")
    assert bad.value.field == "collection"


@pytest.mark.asyncio
async def test_refusals(real: Any, connect: Any, directory: Path) -> None:
    """Every refusal has its class, and names its field, reason and metadata, and no user's text."""
    session = real.session("s", subject="anna")
    with pytest.raises(errors.InvalidArgument) as caught:
        await session.commit(user("secret words"))
    assert caught.value.field == "expected_version"
    with pytest.raises(errors.InvalidArgument) as caught:
        await session.commit([tool_result("nobody", "secret words")], expected_version=0)
    assert caught.value.reason == "TOOL_RESULT_WITHOUT_CALL"
    assert "secret" not in str(caught.value)
    with pytest.raises(errors.InvalidArgument) as caught:
        await session.hydrate(tokenizer="abacus")
    assert caught.value.reason == "TOKENIZER_UNKNOWN"
    with pytest.raises(errors.NotFound) as missing:
        await session.hydrate(route="nowhere")
    assert missing.value.reason == "ROUTE_NOT_FOUND"
    await session.commit(user("Hi"), expected_version=0, request_id="one")
    with pytest.raises(errors.AlreadyExists):
        await session.commit(user("Other"), expected_version=0, request_id="one")
    with pytest.raises(errors.OutOfRange):
        await session.commit(user("Hi"), expected_version=9)
    with pytest.raises(errors.FailedPrecondition) as mismatch:
        await real.session("s", subject="bert").hydrate()
    assert mismatch.value.reason == "SUBJECT_MISMATCH"
    with pytest.raises(errors.PermissionDenied):
        await connect(f"unix:{directory}/s.sock", tenant="other").session("s").hydrate()
    with pytest.raises(errors.InvalidArgument) as caught:
        await real.replay(b"forged")
    assert caught.value.reason == "RECEIPT_INVALID"
    with pytest.raises(errors.InvalidArgument) as caught:
        await real.session("s", token="forged").hydrate()
    assert caught.value.reason == "TOKEN_INVALID"
    info = await real.server_info()
    assert {limit.name: limit.value for limit in info.limits}["wire_bytes"] == standpipe.channel.WIRE_BYTES


@pytest.mark.asyncio
async def test_who_calls_changes_while_all_goes_on(directory: Path, connect: Any) -> None:
    """Tokens and certificates of both sides are renewed on disk, and one client goes on; a wrong token is refused."""
    ours, mine = (Certificates.make(directory / name) for name in ("ours", "mine"))
    tokens, token = directory / "tokens", directory / "token"
    tokens.write_text("the-first-token-1")
    token.write_text("the-first-token-1")
    guarded = settings(
        directory,
        "127.0.0.1:0",
        auth_token_file=str(tokens),
        tls_cert_file=str(ours.certificate),
        tls_key_file=str(ours.key),
        tls_client_ca_file=str(mine.authority),
    )
    files = {"ca_file": str(ours.authority), "cert_file": str(mine.certificate), "key_file": str(mine.key)}
    async with server.Server(guarded) as serving:
        socket, port = serving.addresses
        clients = [connect(address, token_file=str(token), **files) for address in (socket, port)]
        sessions = [client.session(f"s{number}", subject="anna") for number, client in enumerate(clients)]
        for number in range(1, 4):
            for session in sessions:
                assert (await session.commit(user("Hi"), expected_version=number - 1)).version == number
            before, after = f"the-{number}th-token-of-many", f"the-{number + 1}th-token-of-many"
            tokens.write_text(f"{before}\n{after}\n" if number > 1 else f"the-first-token-1\n{after}\n")
            await until_taken_up(serving, "auth_token_file", number)
            token.write_text(after)
            mine.issue("", x509.DNSName(f"caller-{number}"))
        wrong = directory / "wrong"
        wrong.write_text("a-token-of-nobody")
        for address in (socket, port):
            for arguments in ({}, {"token_file": str(wrong)}):
                with pytest.raises(errors.Unauthenticated) as refused:
                    await connect(address, **files, **arguments).server_info()
                assert refused.value.reason == "UNAUTHENTICATED"
                assert "nobody" not in repr(refused.value)


async def until_taken_up(serving: Any, setting: str, count: int) -> None:
    """Wait until the server has taken up a file so many times."""
    counter = serving.telemetry.mounted_taken_up.labels(setting)
    async with asyncio.timeout(20):
        while counter._value.get() < count:
            await asyncio.sleep(0.05)
