"""What the application keeps of a step, over gRPC: it comes back as it was, and shows nowhere else; on both engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner
from google.protobuf import json_format

import standpipe
from sidecar.cli import cli
from standpipe.v1 import fact_pb2, memory_pb2, session_pb2, turn_pb2
from tests.e2e.pods import Local, Pod, answered, call, commit_request, exact, refused, result, said, serving
from tests.servers import Postgres

OWN = '{ "step": 1,\t"zebra": ["\\u00e9\\ud83d\\ude00", "漢", null, 1e400], "mail": "ana@mail.example" }'
MASKING = "{name: masking, pii: {mask: true, originals: false}}"


def own(value: str = OWN) -> turn_pb2.TurnEntry:
    """Return an entry that has it alone."""
    return turn_pb2.TurnEntry(app_json=value)


def beside(entry: turn_pb2.TurnEntry, value: str = OWN) -> turn_pb2.TurnEntry:
    """Return an entry with it."""
    made = turn_pb2.TurnEntry(app_json=value)
    made.MergeFrom(entry)
    return made


def plain(entry: turn_pb2.TurnEntry) -> turn_pb2.TurnEntry:
    """Return an entry without it."""
    made = turn_pb2.TurnEntry()
    made.CopyFrom(entry)
    made.ClearField("app_json")
    return made


TURNS: list[list[turn_pb2.TurnEntry]] = [
    [
        beside(said("I decided in 2021 that the zebra lives in Oslo.", speaker="Ana")),
        answered("Noted!"),
        own(),
    ],
    [said("What does she eat?"), call("c"), beside(call("d")), beside(answered("A moment."))],
    [beside(result("d", "hay")), result("c", "grass"), answered("Grass and hay."), own("0"), own("[]")],
]


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def pods(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Local, Local]]:
    """Two servers on one record store, and on no hot store that they share."""
    changes: dict[str, Any] = {}
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres_server")
        name = postgres.create_database()
        request.addfinalizer(lambda: postgres.drop_database(name))
        changes["record"] = postgres.dsn(name)
    async with serving(tmp_path / "r.db", **changes) as one, serving(tmp_path / "r.db", **changes) as other:
        yield one, other


async def bundles(pod: Pod, session: str, subject: str) -> list[bytes]:
    """Return what a session is shown, with and without a query, without the session's name and what hangs on it."""
    found = []
    for query in ("", "zebra hay", "step mail"):
        bundle = (await pod.hydrate(session, query, subject=subject)).bundle
        for section in bundle.sections:
            for segment in section.segments:
                for citation in segment.citations:
                    citation.session_id = ""
        found += [exact(section) for section in bundle.sections]
    return found


async def test_it_comes_back_as_it_was_and_shows_in_no_bundle(pods: tuple[Local, Local]) -> None:
    """Entries stay in their places, byte for byte; bundles are those of the same turns without it, from every pod."""
    one, other = pods
    for number, entries in enumerate(TURNS):
        await one.commit("with", f"r{number}", *entries, expected=number, subject="ana")
        without = [plain(entry) for entry in entries if entry.WhichOneof("entry")]
        await one.commit("without", f"r{number}", *without, expected=number, subject="bea")
        assert await bundles(one, "with", "ana") == await bundles(one, "without", "bea")
    assert await bundles(other, "with", "ana") == await bundles(other, "without", "bea")
    for pod in pods:
        assert [list(event.turn.entries) for event in await pod.events("with")] == TURNS
        answer = await pod.hydrate("with", "zebra", subject="ana")
        bare = await pod.hydrate("without", "zebra", subject="bea")
        assert answer.bundle.tokens == bare.bundle.tokens
        assert (await pod.replay(answer.receipt)).bundle == answer.bundle
        assert "step" not in str(answer.bundle)
        found = await pod.memory.SearchMemory(memory_pb2.SearchMemoryRequest(subject_id="ana", query="step mail"))
        assert "step" not in str(found)


async def test_a_turn_may_have_nothing_else(pods: tuple[Local, Local]) -> None:
    """Such a turn is a version like any other; it shows nothing, and what comes before and behind it does."""
    one, other = pods
    await one.commit("s", "r1", own(), expected=0)
    assert (await one.hydrate("s")).bundle.session_version == 1
    await other.commit("s", "r2", "The zebra is here.", expected=1)
    await one.commit("s", "r3", own("1"), own("2"), expected=2)
    for pod in pods:
        bundle = (await pod.hydrate("s", "zebra")).bundle
        assert bundle.session_version == 3
        assert [part.body for section in bundle.sections for part in section.segments] == ["The zebra is here.\n"]
        assert [[one.app_json for one in event.turn.entries] for event in await pod.events("s")] == [
            [OWN],
            [""],
            ["1", "2"],
        ]
    await one.end("s", "end")
    receipt = (await one.memory.EraseSubject(memory_pb2.EraseSubjectRequest(subject_id="anna"))).receipt
    assert receipt.events == 4
    assert (await refused(other.events("s"))).reason == "ERASED"


async def test_it_is_part_of_the_turn(pods: tuple[Local, Local]) -> None:
    """A retry with the same is answered with what happened, one with another is refused; the event's hash covers it."""
    one, other = pods
    first = await one.send(commit_request("s", "r", beside(said("hello")), own(), expected=0))
    again = await other.send(commit_request("s", "r", beside(said("hello")), own(), expected=0))
    assert again.replayed
    assert again.result == first.result
    for entries in (
        (beside(said("hello"), "1"), own()),
        (said("hello"), own()),
        (beside(said("hello")),),
        (beside(said("hello")), own(f"{OWN} ")),
        (said("hello"), own(), own()),
    ):
        refusal = await refused(other.send(commit_request("s", "r", *entries, expected=0)))
        assert refusal.reason == "REQUEST_ID_REUSED"
    (event,) = await one.events("s")
    assert event.hash == first.result.event_hash


async def test_a_policy_that_masks_leaves_it_out(pods: tuple[Local, Local]) -> None:
    """Over a route that shows no originals ListEvents has the entries in their places, without it."""
    pod, _ = pods
    await pod.publish(MASKING)
    await pod.route("masked", "masking", 1)
    await pod.commit("s", "r", beside(said("Write to ana@mail.example.")), own(), answered("Done."), expected=0)
    for route, expected in (("", [OWN, OWN, ""]), ("masked", ["", "", ""])):
        request = session_pb2.ListEventsRequest(session_id="s", route=route)
        (event,) = (await pod.sessions.ListEvents(request)).events
        assert [entry.app_json for entry in event.turn.entries] == expected
        assert [entry.WhichOneof("entry") for entry in event.turn.entries] == ["message", None, "message"]
    masked = (await pod.hydrate("s", route="masked")).bundle
    assert [part.masked for section in masked.sections for part in section.segments] == [True, False]


async def test_nothing_rests_on_it(pods: tuple[Local, Local]) -> None:
    """A claim or a message that cites an entry that has it alone is refused, and the field is named (P8)."""
    pod, other = pods
    await pod.commit("s", "r", own(), said("I live in Oslo."), expected=0)
    await pod.commit("t", "r", own(), expected=0)
    place = turn_pb2.EventRef(session_id="s", version=1, entry=0)

    def claim(ref: turn_pb2.EventRef) -> fact_pb2.Fact:
        return fact_pb2.Fact(attribute="home", value="Oslo", sources=[ref])

    def record(request_id: str, ref: turn_pb2.EventRef) -> memory_pb2.RecordFactsRequest:
        return memory_pb2.RecordFactsRequest(subject_id="anna", request_id=request_id, facts=[claim(ref)])

    for ref in (place, turn_pb2.EventRef(session_id="t", version=1)):
        refusal = await refused(other.memory.RecordFacts(record("f", ref)))
        assert (refusal.reason, refusal.field) == ("INVALID_FIELD", "facts[0].sources[0]")
    refusal = await refused(pod.commit("s", "f", "x", own(), expected=1, facts=[claim(turn_pb2.EventRef(entry=1))]))
    assert (refusal.reason, refusal.field) == ("INVALID_FIELD", "facts[0].sources[0]")
    refusal = await refused(pod.commit("s", "c", own(), said("x", citations=[place]), expected=1))
    assert (refusal.reason, refusal.field) == ("INVALID_FIELD", "turn.entries[1].message.citations[0]")
    whole = turn_pb2.EventRef(session_id="s", version=1)
    for request_id, ref in (("f1", whole), ("f2", turn_pb2.EventRef(session_id="s", version=1, entry=1))):
        answer = await other.memory.RecordFacts(record(request_id, ref))
        assert answer.results[0].outcome in (fact_pb2.FACT_OUTCOME_HELD, fact_pb2.FACT_OUTCOME_CONFIRMED)
    await pod.commit("s", "c", said("x", citations=[whole]), expected=1)


async def test_what_is_wrong_with_it_is_named(pods: tuple[Local, Local]) -> None:
    """What is no JSON is refused by its field, and none of it is repeated (P8)."""
    pod, _ = pods
    refusal = await refused(pod.commit("s", "r", "x", own(), own('{"hunter2"}'), expected=0))
    assert (refusal.reason, refusal.field) == ("INVALID_FIELD", "turn.entries[2].app_json")
    assert "hunter2" not in refusal.text


async def test_pythons_client_writes_and_reads_it(pods: tuple[Local, Local]) -> None:
    """`app` and the helpers' `app_json` put it into a turn, and `Session.events` gives it back."""
    pod, _ = pods
    state = {"next": ["漢", 2.5, None]}
    async with standpipe.connect(pod.target) as client:
        session = client.session("s", subject="ana")
        entries = [
            standpipe.user("hi", app_json="1"),
            standpipe.tool_call("c", "look", {"a": 1}, app_json="2"),
            standpipe.tool_result("c", "there", app_json="3"),
            standpipe.assistant("ho", app_json="4"),
            standpipe.app(state),
        ]
        await session.commit(entries, expected_version=0)
        (event,) = [event async for event in session.events()]
    assert list(event.turn.entries) == entries
    assert json.loads(event.turn.entries[4].app_json) == state
    for bad in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            standpipe.app(bad)


async def test_the_command_line_lists_it(pods: tuple[Local, Local]) -> None:
    """`standpipe events` says that an entry has it alone, and gives all of it as JSON."""
    pod, _ = pods
    await pod.commit("s", "r", "hello", own('{"secret": 1}'), expected=0)

    def listed(*flags: str) -> str:
        done = CliRunner().invoke(cli, ["events", "s", "--target", pod.target, *flags])
        assert done.exit_code == 0, done.output
        return done.output

    assert "hello | app_json" in await asyncio.to_thread(listed)
    (line,) = (await asyncio.to_thread(listed, "--json")).splitlines()
    assert json_format.Parse(line, turn_pb2.Event()).turn.entries[1] == own('{"secret": 1}')


async def test_much_of_it_does_not_hide_the_conversation(tmp_path: Path) -> None:
    """What is kept beside messages weighs a sixteenth: half a megabyte moves nothing, warm or cold."""
    async with serving(tmp_path / "r.db") as pod:
        for number in range(8):
            await pod.append("s", f"r{number}", beside(said(f"word {number}"), f'"{"x" * (64 << 10)}"'))

        async def bodies(found: Pod) -> list[str]:
            bundle = (await found.hydrate("s")).bundle
            return [part.body for section in bundle.sections for part in section.segments]

        assert await bodies(pod) == [f"word {number}\n" for number in range(8)]
    async with serving(tmp_path / "r.db") as again:
        assert await bodies(again) == [f"word {number}\n" for number in range(8)]
