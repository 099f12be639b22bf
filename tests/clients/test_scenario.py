"""One scenario for the clients of all languages, over the socket and over TCP, against a real server that may die."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import standpipe
from tests import servers
from tests.clients.languages import Driver, DriverError
from tests.clients.served import Served, serving
from tests.faults.log_check import read_log

pytestmark = pytest.mark.timeout(180)

LIMITS = json.loads((Path(__file__).parents[1] / "vectors" / "limits.json").read_text())
RETRIES_MAX = 20
"""Times that a commit is repeated while a server starts."""

WRITES = 20
"""Commits of a writer that a turn must find its way past: each can cost it one attempt."""

POLICY = """
name: warm
tokenizer: cl100k_base
budget_tokens: 4000
prompts:
  - {name: persona, text: "Be warm. 親切に。"}
sources:
  summary: {cap: 10%}
  history: {cap: 50%}
  recall: {cap: 100%}
recall: {floor: false}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """Run a server for all tests of the module."""
    place = servers.directory()
    with serving(place, f"unix:{place}/s.sock", f"127.0.0.1:{servers.free_port()}") as found:
        with standpipe.sync.connect(found.targets["unix"]) as client:
            client.policies.publish(POLICY)
            client.policies.set_route("default", "warm", 1)
        yield found


@pytest.fixture
def reference(server: Served) -> Iterator[standpipe.sync.Client]:
    """Return Python's client of the same server: another pod, and what the others are compared with."""
    with standpipe.sync.connect(server.targets["unix"], tenant="default") as client:
        yield client


@pytest.fixture(params=["unix", "tcp"])
def do(request: Any, driver: Driver, server: Served) -> Iterator[Driver]:
    """Return a driver that is connected to the server."""
    driver("connect", target=server.targets[request.param], tenant="default")
    yield driver
    driver("close")


@pytest.fixture
def name() -> str:
    """Return a session's name that nobody else has."""
    return f"s-{uuid.uuid4().hex[:12]}"


def said(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    """Return an utterance."""
    return {"message": {"role": f"ROLE_{role.upper()}", "text": text, **more}}


def refused(call: Callable[..., Any], do: str, **fields: Any) -> dict[str, Any]:
    """Do a command that must fail; return its error."""
    with pytest.raises(DriverError) as caught:
        call(do, **fields)
    return caught.value.error


def test_a_conversation_is_rendered_alike(do: Driver, name: str, reference: standpipe.sync.Client) -> None:
    """P6, P7: hydrates and commits go around, and what a real server served looks the same in every language."""
    first = do("hydrate", session=name, subject=name, query="Olá! 你好 📎")
    assert first["version"] == 0
    assert first["openai"][-1] == {"role": "user", "content": "Olá! 你好 📎"}
    entries = [
        said("Olá! 你好 📎 My cat is called Tom.", speaker="Ana"),
        {"toolCall": {"id": "call 1/é", "name": "fs.read", "argumentsJson": '{"path": "a<b>.txt", "n": 1.5}'}},
        {"toolResult": {"callId": "call 1/é", "content": "no such file: שלום", "isError": True}},
        {"toolCall": {"id": "c2", "name": "look", "argumentsJson": '["no object", "\u2028"]'}},
        {"toolResult": {"callId": "c2", "content": ""}},
        said("Tom is a fine name.\n\n\tIndeed.", "assistant"),
    ]
    committed = do("commit", session=name, entries=entries, from_bundle=True)
    assert (committed["version"], committed["replayed"]) == (1, False)
    assert do("get", session=name)["version"] == 1
    do("commit", session=name, entries=[said("And?", speaker="Ana Ä.")], expected_version=1)
    other = reference.session(name + "-2", subject=name)
    other.commit([standpipe.user("My dog is called Rex."), standpipe.assistant("Noted.")], expected_version=0)
    for session, query in ((name, ""), (name, "What is my cat called?"), (name + "-3", "Who is Tom, and who is Rex?")):
        found = do("hydrate", session=session, subject=name, query=query, fully=True)
        fresh = standpipe.Consistency(fully_consistent=True)
        same = reference.session(session, subject=name).hydrate(query, consistency=fresh)
        assert (found["fingerprint"], found["version"], found["tokens"]) == (
            same.fingerprint,
            same.version,
            same.tokens,
        )
        assert found["openai"] == same.to_openai()
        assert found["anthropic"] == same.to_anthropic()
        assert found["degraded"] == [one.cause for one in same.degraded]
        assert do("replay", receipt=found["receipt"])["fingerprint"] == found["fingerprint"]
    assert "Rex" in found["openai"][-1]["content"]
    small = do("hydrate", session=name, budget_tokens=100, include=["policy"])
    assert small["openai"] == [{"role": "system", "content": "Be warm. 親切に。"}]


def test_the_loser_of_a_version_is_told(do: Driver, name: str, reference: standpipe.sync.Client) -> None:
    """P2: a commit at a version that is taken fails with the winner's name, and a turn finds its way past it."""
    do("hydrate", session=name, subject=name)
    won = reference.session(name, subject=name).commit(standpipe.user("First."), expected_version=0)
    error = refused(do, "commit", session=name, entries=[said("Second.")], from_bundle=True)
    assert (error["kind"], error["code"], error["reason"]) == ("Conflict", "ABORTED", "VERSION_CONFLICT")
    assert error["metadata"] == {"current_version": "1", "winner_request_id": won.request_id}
    assert error["request_id"]
    assert do("turn", session=name, query="Now?", answer="Now") == {"version": 2, "asked": 1}
    assert do("commit", session=name, entries=[said("Last.")], mode="append")["version"] == 3


def test_a_request_id_counts_once(do: Driver, name: str) -> None:
    """P3: a commit that is repeated is answered as the first was; with other entries it is refused."""
    fields = {"session": name, "subject": name, "expected_version": 0, "request_id": "one:and.only"}
    first = do("commit", entries=[said("Hi")], **fields)
    again = do("commit", entries=[said("Hi")], **fields)
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert {**again, "replayed": False} == first
    error = refused(do, "commit", entries=[said("Ho")], **fields)
    assert (error["kind"], error["reason"], error["metadata"]) == (
        "AlreadyExists",
        "REQUEST_ID_REUSED",
        {"version": "1"},
    )
    assert error["request_id"] == "one:and.only"
    assert [one["requestId"] for one in do("events", session=name)["events"]] == ["one:and.only"]


def test_a_session_reads_its_own_writes(do: Driver, name: str) -> None:
    """P4: each answer's token goes with the next hydrate, which shows no less."""
    for version in range(3):
        committed = do("commit", session=name, subject=name, entries=[said(f"No. {version}")], expected_version=version)
        assert do("token", session=name)["token"] == committed["token"]
        found = do("hydrate", session=name)
        assert found["version"] == version + 1
        assert do("token", session=name)["token"] == found["token"]
        assert found["openai"][-1]["content"] == f"No. {version}"


def test_a_deadline_passes(do: Driver, name: str, server: Served) -> None:
    """A server that does not answer is given up when the deadline has passed, and the next call is as any other."""
    do("hydrate", session=name, subject=name)
    server.signal(signal.SIGSTOP)
    try:
        error = refused(do, "hydrate", session=name, deadline_ms=300)
        lost = refused(do, "commit", session=name, entries=[said("Hi")], expected_version=0, deadline_ms=300)
    finally:
        server.signal(signal.SIGCONT)
    assert (error["kind"], error["code"], error["reason"]) == ("DeadlineExceeded", "DEADLINE_EXCEEDED", "")
    assert (lost["kind"], bool(lost["request_id"])) == ("DeadlineExceeded", True)
    again = do("commit", session=name, entries=[said("Hi")], expected_version=0, request_id=lost["request_id"])
    assert again["version"] == 1


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_server_comes_back(do: Driver, name: str, server: Served, how: str) -> None:
    """P1, P3: one client outlives its server, and what it commits meanwhile counts once."""
    for version in range(2):
        do("commit", session=name, subject=name, entries=[said("before")], expected_version=version)
    if how == "stopped":
        server.stop()
    else:
        server.process.kill()
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        fields = {"session": name, "entries": [said("meanwhile")], "expected_version": 2, "request_id": "meanwhile"}
        for _ in range(RETRIES_MAX):
            with contextlib.suppress(DriverError):
                done = do("commit", **fields)
                break
    finally:
        starting.join()
    assert done["version"] == 3
    assert do("hydrate", session=name)["version"] == 3
    assert [event[1] for event in read_log(server.record, name)][2:] == ["meanwhile"]


def test_an_ended_session_takes_no_more(do: Driver, name: str) -> None:
    """The end is an error of its own kind for who goes on, and who calls nobody's session is told so."""
    error = refused(do, "get", session=name + "-nobody")
    assert (error["kind"], error["reason"]) == ("NotFound", "SESSION_NOT_FOUND")
    do("commit", session=name, subject=name, entries=[said("Hi")], expected_version=0)
    assert do("end", session=name) == {}
    error = refused(do, "commit", session=name, entries=[said("More")], expected_version=2)
    assert (error["kind"], error["code"], error["reason"]) == ("SessionEnded", "FAILED_PRECONDITION", "SESSION_ENDED")
    assert do("hydrate", session=name)["version"] == 2


def test_what_is_wrong_is_named(do: Driver, name: str, server: Served) -> None:
    """Refusals name the field, what it must be, their reason and its metadata, and never what was said."""
    error = refused(do, "commit", session=name, subject=name, entries=[said("secret words")])
    assert (error["kind"], error["reason"], error["field"]) == ("InvalidArgument", "INVALID_FIELD", "expected_version")
    assert error["field_message"]
    assert error["retry_after_ms"] is None
    assert "secret" not in json.dumps(error)
    error = refused(do, "hydrate", session=name, route="nowhere")
    assert (error["kind"], error["reason"], error["request_id"]) == ("NotFound", "ROUTE_NOT_FOUND", None)
    error = refused(do, "hydrate", session=name, subject=name, budget_tokens=1)
    assert (error["kind"], error["reason"]) == ("InvalidArgument", "BUDGET_TOO_SMALL")
    assert set(error["metadata"]) == {"budget_tokens", "required_tokens"}
    error = refused(do, "replay", receipt=base64.b64encode(b"forged").decode())
    assert (error["kind"], error["reason"]) == ("InvalidArgument", "RECEIPT_INVALID")
    error = refused(do, "commit", session=name, subject=name, entries=[said("Hi")], expected_version=9)
    assert (error["kind"], error["metadata"]) == ("OutOfRange", {"current_version": "0"})
    do("connect", target=server.targets["unix"], tenant="somebody-else")
    assert refused(do, "hydrate", session=name)["kind"] == "PermissionDenied"
    do("connect", target=f"unix:{server.record.parent}/nobody.sock")
    error = refused(do, "commit", session=name, entries=[said("Hi")], expected_version=0, deadline_ms=2000)
    assert error["kind"] in {"Unavailable", "DeadlineExceeded"}
    assert (error["reason"], error["metadata"], bool(error["request_id"])) == ("", {}, True)


@pytest.mark.parametrize("row", [pytest.param(row, id=row["name"]) for row in LIMITS["sizes"]])
def test_sizes_at_the_limits(do: Driver, name: str, row: Any) -> None:
    """What is as large as it may be passes, and one more is refused by its field."""
    size = row["bytes"]
    call: Any = {"toolCall": {"id": "c1", "name": "look", "argumentsJson": ""}}
    commit: dict[str, Any] = {"session": name, "subject": name, "entries": [said("Hi")], "expected_version": 0}
    match row["what"]:
        case "query":
            asked = ("hydrate", {"session": name, "subject": name, "query": "ä" * (size // 2) + "b" * (size % 2)})
        case "text":
            asked = ("commit", {**commit, "entries": [said("ä" * (size // 2) + "b" * (size % 2))]})
        case "arguments":
            call["toolCall"]["argumentsJson"] = '"' + "a" * (size - 2) + '"'
            asked = ("commit", {**commit, "entries": [call]})
        case "content":
            result = {"toolResult": {"callId": "c1", "content": "ä" * (size // 2) + "b" * (size % 2)}}
            asked = ("commit", {**commit, "entries": [call, result]})
        case "request_id":
            asked = ("commit", {**commit, "request_id": "r" * size})
        case "session":
            asked = ("commit", {**commit, "session": name.ljust(size, "x")})
        case "entries":
            asked = ("commit", {**commit, "entries": [said("Hi")] * size})
        case "turn":
            asked = ("commit", {**commit, "entries": [said("a" * (size // 4))] * 4})
        case "wire":
            asked = ("commit", {**commit, "entries": [said("a" * size)]})
    if row["outcome"] == "OK":
        done = do(asked[0], **asked[1])
        assert done["version"] == (1 if asked[0] == "commit" else 0)
    else:
        error = refused(do, asked[0], **asked[1])
        assert (error["kind"], error["field"]) == (row["outcome"], row["field"])


def test_texts_come_back_as_they_were(do: Driver, name: str) -> None:
    """What was said stands in the log and in the next bundle, character by character, whatever it is written in."""
    texts = [row["text"] for row in LIMITS["texts"]]
    do("commit", session=name, subject=name, entries=[said(text) for text in texts], expected_version=0)
    (event,) = do("events", session=name)["events"]
    assert [one["message"]["text"] for one in event["turn"]["entries"]] == texts
    shown = [one["content"] for one in do("hydrate", session=name)["openai"] if one["role"] == "user"]
    assert shown == [text.rstrip() for text in texts]  # a bundle's segments end in one newline
    for text in texts:
        assert do("hydrate", session=name + "-q", subject=name, query=text)["openai"][-1]["content"].endswith(text)


def test_turns_under_a_concurrent_writer(
    do: Driver, name: str, server: Served, reference: standpipe.sync.Client
) -> None:
    """P2: turns that lose are answered again, and the log is without gap: each turn of both sides stands once."""
    rival = reference.session(name, subject=name)

    def write() -> None:
        for _ in range(WRITES):
            rival.commit(standpipe.user("me too"), mode="append")
            time.sleep(0.02)

    writing = threading.Thread(target=write)
    writing.start()
    fields = {"session": name, "subject": name, "answer": "a", "attempts": WRITES + 1}
    try:
        took = [do("turn", query=f"q{number}", **fields) for number in range(5)]
    finally:
        writing.join()
    assert len(read_log(server.record, name)) == WRITES + len(took)
    events = {int(one["version"]): one["turn"]["entries"] for one in do("events", session=name)["events"]}
    for number, one in enumerate(took):
        assert [entry["message"]["text"] for entry in events[one["version"]]] == [f"q{number}", f"a {one['asked']}"]
    assert sum(len(entries) == 2 for entries in events.values()) == len(took)
