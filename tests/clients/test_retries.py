"""What the clients of all languages do by themselves when a call fails, against a scripted server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from standpipe.v1 import bundle_pb2, turn_pb2
from tests.clients.double import Double, Fault, served
from tests.clients.languages import Driver, DriverError

pytestmark = pytest.mark.timeout(120)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "retries.json").read_text())
METHODS = {"hydrate": "HydrateContext", "commit": "CommitTurn"}
ENTRIES = [{"message": {"role": "ROLE_USER", "text": "Hi"}}]


class Scripted:
    """A double, its address, and a driver that is connected to it; commands leave the loop free."""

    def __init__(self, driver: Driver, double: Double, target: str) -> None:
        self.driver, self.double, self.target = driver, double, target

    async def __call__(self, do: str, **fields: Any) -> dict[str, Any]:
        """Do one command. Raises DriverError."""
        return await asyncio.to_thread(self.driver, do, **fields)

    async def refused(self, do: str, **fields: Any) -> dict[str, Any]:
        """Do one command, which must fail; return its error."""
        with pytest.raises(DriverError) as caught:
            await self(do, **fields)
        return caught.value.error

    async def ask(self, method: str, **fields: Any) -> dict[str, Any]:
        """Hydrate or commit."""
        more = {"entries": ENTRIES, "expected_version": 0} if method == "commit" else {}
        return await self(method, session="s", subject="anna", **more, **fields)


@pytest_asyncio.fixture
async def scripted(driver: Driver, directory: Path) -> AsyncIterator[Scripted]:
    """Serve a double of its own to each test, since a channel counts the failures of its server."""
    double = Double()
    async with served(double, f"unix:{directory}/s.sock") as target:
        found = Scripted(driver, double, target)
        await found("connect", target=target, tenant="acme")
        yield found
        await found("close")


@pytest.mark.parametrize("row", [pytest.param(row, id=row["name"]) for row in VECTORS])
async def test_retries(scripted: Scripted, row: Any) -> None:
    """The server is called so often, and the call ends so; a commit keeps its request id."""
    method = METHODS[row["method"]]
    for answer in row["answers"]:
        step = {"OK": None, "WAIT": scripted.double.hang}.get(answer, ())
        scripted.double.plan(method, Fault(answer) if step == () else step)
    try:
        done = {"kind": "OK", **await scripted.ask(row["method"], deadline_ms=row["deadline_ms"])}
    except DriverError as error:
        done = error.error
    asked = scripted.double.asked(method)
    assert (done["kind"], len(asked)) == (row["outcome"], row["calls"])
    if row["method"] == "commit":
        assert {one.request_id for one in asked} == {done["request_id"]}
        assert done["request_id"]


async def test_what_a_call_sends(scripted: Scripted) -> None:
    """Tenant, subject, budget, sources and freshness reach the request, and what was not said stays absent."""
    first = await scripted("hydrate", session="s", subject="anna", query="q?")
    await scripted("hydrate", session="s", budget_tokens=900, include=["history", "recall"], route="fast", fully=True)
    await scripted("commit", session="s", entries=ENTRIES, from_bundle=True)
    await scripted("commit", session="s", entries=ENTRIES, mode="append", request_id="mine")
    plain, full = scripted.double.asked("HydrateContext")
    assert (plain.tenant_id, plain.session_id, plain.subject_id, plain.query) == ("acme", "s", "anna", "q?")
    assert [field.name for field, _ in plain.ListFields()] == ["tenant_id", "session_id", "subject_id", "query"]
    assert (full.budget.total_tokens, full.route, full.subject_id) == (900, "fast", "anna")
    assert list(full.include) == [bundle_pb2.SOURCE_HISTORY, bundle_pb2.SOURCE_RECALL]
    assert full.consistency.WhichOneof("requirement") == "fully_consistent"
    assert first["token"] == "h0"
    at, append = scripted.double.asked("CommitTurn")
    assert (at.tenant_id, at.subject_id, at.expected_version, at.HasField("expected_version")) == (
        "acme",
        "anna",
        0,
        True,
    )
    assert at.turn.bundle_receipt == b"receipt s 0"
    assert (append.mode, append.HasField("expected_version"), append.request_id) == (2, False, "mine")
    assert (await scripted("token", session="s"))["token"] == "c2"


async def test_a_token_is_read_again_once_when_it_is_refused(scripted: Scripted, directory: Path) -> None:
    """A token that was renewed behind the client's back is found, and a wrong one is refused and shown nowhere."""
    token = directory / "token"
    token.write_text("the-first\nanother-line\n")
    scripted.double.bearer = "the-first"
    await scripted("connect", target=scripted.target, token_file=str(token))
    await scripted.ask("hydrate")
    token.write_text("the-second\n")
    scripted.double.bearer = "the-second"
    await scripted.ask("hydrate")
    scripted.double.bearer = "the-third"
    before = len(scripted.double.requests)
    refused = await scripted.refused("hydrate", session="s")
    assert (refused["kind"], refused["reason"]) == ("Unauthenticated", "UNAUTHENTICATED")
    assert len(scripted.double.requests) == before + 1
    assert "second" not in json.dumps(refused)
    shown = [metadata.get("authorization") for _, _, metadata in scripted.double.requests]
    assert shown[0] == "Bearer the-first"
    assert shown[-1] == "Bearer the-second"


async def test_a_token_that_changes_as_it_is_refused_is_tried_once_more(scripted: Scripted, directory: Path) -> None:
    """UNAUTHENTICATED makes a client look at the file again: with another token in it, the call is made once more."""
    token = directory / "token"
    token.write_text("the-first")
    await scripted("connect", target=scripted.target, token_file=str(token))

    async def renewed() -> Fault:
        token.write_text("the-second")
        return Fault("UNAUTHENTICATED", "UNAUTHENTICATED")

    scripted.double.plan("CommitTurn", renewed)
    await scripted.ask("commit")
    first, second = (metadata["authorization"] for _, _, metadata in scripted.double.requests)
    assert (first, second) == ("Bearer the-first", "Bearer the-second")
    assert len({request.request_id for request in scripted.double.asked("CommitTurn")}) == 1


async def test_four_mebibytes_pass_both_ways_and_nine_none(scripted: Scripted) -> None:
    """Messages of 5 MiB pass, which gRPC's defaults refuse; one beyond the limit fails before it is sent."""
    big = "é" * (5 << 19)
    segment = bundle_pb2.Segment(kind=1, role=2, header="user: ", body=big + "\n")
    scripted.double.sections = [bundle_pb2.Section(source=4, segments=[segment])]
    assert (await scripted.ask("hydrate"))["openai"] == [{"role": "user", "content": big}]
    entries = [{"message": {"role": "ROLE_USER", "text": big}}]
    await scripted("commit", session="s", entries=entries, expected_version=0)
    assert scripted.double.asked("CommitTurn")[0].turn.entries[0].message.text == big
    refused = await scripted.refused("commit", session="s", entries=entries * 2, expected_version=1)
    assert (refused["kind"], refused["code"], refused["reason"]) == ("ResourceExhausted", "RESOURCE_EXHAUSTED", "")
    assert len(scripted.double.asked("CommitTurn")) == 1
    scripted.double.sections = [bundle_pb2.Section(source=4, segments=[segment, segment])]
    refused = await scripted.refused("hydrate", session="s")
    assert refused["kind"] == "ResourceExhausted"


async def test_large_requests_are_retried_too(scripted: Scripted) -> None:
    """What gRPC's defaults would not keep for a second attempt, being larger than 256 KiB or 1 MiB, is retried."""
    scripted.double.plan("CommitTurn", Fault("UNAVAILABLE"))
    entries = [{"message": {"role": "ROLE_USER", "text": "x" * (3 << 20)}}]
    assert (await scripted("commit", session="s", entries=entries, expected_version=0))["version"] == 1
    assert len(scripted.double.asked("CommitTurn")) == 2


async def test_turn_answers_again_and_gives_up_with_the_conflict(scripted: Scripted) -> None:
    """P2: a lost turn is hydrated and answered again under a new request id, five times by default."""
    lost = Fault("ABORTED", "VERSION_CONFLICT", current_version="7", winner_request_id="rival")
    scripted.double.plan("CommitTurn", lost, lost)
    assert await scripted("turn", session="s", subject="anna", query="Hi?", answer="Ho") == {"version": 1, "asked": 3}
    sent = scripted.double.asked("CommitTurn")
    assert len({one.request_id for one in sent}) == len(sent) == 3
    assert [entry.message.text for entry in sent[-1].turn.entries] == ["Hi?", "Ho 3"]
    scripted.double.plan("CommitTurn", *[lost] * 5)
    refused = await scripted.refused("turn", session="s", query="Hi?", answer="Ho")
    assert (refused["kind"], refused["metadata"]) == (
        "Conflict",
        {"current_version": "7", "winner_request_id": "rival"},
    )
    assert len(scripted.double.asked("CommitTurn")) == 3 + 5
    assert refused["request_id"] == scripted.double.asked("CommitTurn")[-1].request_id
    scripted.double.plan("CommitTurn", *[lost] * 2)
    assert (await scripted.refused("turn", session="s", query="Hi?", answer="Ho", attempts=2))["kind"] == "Conflict"
    assert len(scripted.double.asked("CommitTurn")) == 3 + 5 + 2


async def test_pages_are_read_to_the_last(scripted: Scripted) -> None:
    """A log of more than one page comes whole, in order."""
    for _ in range(250):
        scripted.double.append("s", "r", turn_pb2.Turn())
    found = (await scripted("events", session="s", after=3))["events"]
    assert [int(one["version"]) for one in found] == list(range(4, 251))
    assert [one.after_version for one in scripted.double.asked("ListEvents")] == [3, 103, 203]
