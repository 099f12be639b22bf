"""MemoryService over gRPC, on both engines: exactly once, traced to its sources, refused by name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import timestamp_pb2

from sidecar import limits, names
from sidecar.beliefs import Ref
from sidecar.rebuild import rebuild
from sidecar.sessions import Sessions
from standpipe.v1 import context_pb2, fact_pb2, memory_pb2, session_pb2, turn_pb2
from tests.e2e.pods import Local, answered, call, commit_request, exact, refused, result, said, serving
from tests.servers import Postgres

HELD, SUPERSEDED, RETRACTED, REJECTED = 1, 2, 3, 4
QUARANTINED = memory_pb2.BELIEF_STATUS_QUARANTINED
O_HELD, O_CONFIRMED, O_QUARANTINED, O_REJECTED = (
    fact_pb2.FACT_OUTCOME_HELD,
    fact_pb2.FACT_OUTCOME_CONFIRMED,
    fact_pb2.FACT_OUTCOME_QUARANTINED,
    fact_pb2.FACT_OUTCOME_REJECTED,
)
EXTERNAL, INFERRED, USER, OPERATOR = 1, 2, 3, 4


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def pods(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_server: Postgres
) -> AsyncIterator[tuple[Local, Local]]:
    """Two servers on one record store, of each engine, with a session "s" of anna that all roles have spoken in."""
    settings: dict[str, Any] = {}
    name = ""
    if request.param == "postgresql":
        name = await asyncio.to_thread(postgres_server.create_database)
        settings["record"] = postgres_server.dsn(name)
    record = tmp_path / "record.db"
    try:
        async with serving(record, **settings) as one, serving(record, **settings) as other:
            await one.append("s", "first", "I moved to Porto.", call("c"), result("c", "It rains."), answered("Noted."))
            yield one, other
    finally:
        if name:
            await asyncio.to_thread(postgres_server.drop_database, name)


def ref(entry: int | None = 0, version: int = 1, session: str = "s") -> turn_pb2.EventRef:
    """Name a place; by default what the user said first."""
    return turn_pb2.EventRef(session_id=session, version=version, entry=entry)


def claim(attribute: str = "home city", value: str = "Porto", *sources: turn_pb2.EventRef, **more: Any) -> Any:
    """Make a claim; by default the user's."""
    return fact_pb2.Fact(attribute=attribute, value=value, sources=sources or [ref()], **more)


async def record(pod: Local, request_id: str, *facts: Any, subject: str = "anna") -> memory_pb2.RecordFactsResponse:
    """Record claims."""
    request = memory_pb2.RecordFactsRequest(subject_id=subject, request_id=request_id, facts=facts)
    return await pod.memory.RecordFacts(request, timeout=pod.timeout_s)


async def correct(
    pod: Local, request_id: str, fact: Any, how: str, *, subject: str = "anna", **more: Any
) -> memory_pb2.CorrectFactResponse:
    """Correct a fact."""
    correction = fact_pb2.FactCorrection(fact=fact, correction=f"CORRECTION_{how}", **more)
    request = memory_pb2.CorrectFactRequest(subject_id=subject, request_id=request_id, correction=correction)
    return await pod.memory.CorrectFact(request, timeout=pod.timeout_s)


async def pin(pod: Local, request_id: str, fact: Any, *, pinned: bool = True) -> memory_pb2.PinFactResponse:
    """Pin a fact."""
    request = memory_pb2.PinFactRequest(
        subject_id="anna", request_id=request_id, pin=fact_pb2.Pin(fact=fact, pinned=pinned)
    )
    return await pod.memory.PinFact(request, timeout=pod.timeout_s)


async def review(pod: Local, request_id: str, fact: Any, how: str, **more: Any) -> memory_pb2.ReviewQuarantineResponse:
    """Review a claim."""
    decision = fact_pb2.Review(fact=fact, decision=f"DECISION_{how}", reviewer="rita", **more)
    request = memory_pb2.ReviewQuarantineRequest(subject_id="anna", request_id=request_id, review=decision)
    return await pod.memory.ReviewQuarantine(request, timeout=pod.timeout_s)


async def put(pod: Local, request_id: str, **values: str) -> memory_pb2.PutProfileResponse:
    """Put attributes of the profile."""
    attributes = [fact_pb2.ProfileAttribute(name=name, value=value) for name, value in values.items()]
    request = memory_pb2.PutProfileRequest(subject_id="anna", request_id=request_id, attributes=attributes)
    return await pod.memory.PutProfile(request, timeout=pod.timeout_s)


async def ingest(pod: Local, *documents: Any, subject: str = "anna") -> list[memory_pb2.DocumentResult]:
    """Ingest documents."""
    request = memory_pb2.IngestDocumentsRequest(subject_id=subject, documents=documents)
    return list((await pod.memory.IngestDocuments(request, timeout=pod.timeout_s)).results)


async def listed(pod: Local, *, subject: str = "anna", **fields: Any) -> memory_pb2.ListBeliefsResponse:
    """List beliefs."""
    request = memory_pb2.ListBeliefsRequest(subject_id=subject, **fields)
    return await pod.memory.ListBeliefs(request, timeout=pod.timeout_s)


async def held(pod: Local, **fields: Any) -> list[str]:
    """Return what is held, as text."""
    return [f"{one.fact.attribute}: {one.fact.value}" for one in (await listed(pod, **fields)).beliefs]


async def waiting(pod: Local, subject: str = "", **fields: Any) -> list[memory_pb2.QuarantinedClaim]:
    """Return what waits, page by page."""
    found: list[memory_pb2.QuarantinedClaim] = []
    token = ""
    while True:
        request = memory_pb2.ListQuarantineRequest(subject_id=subject, page_token=token, **fields)
        page = await pod.memory.ListQuarantine(request, timeout=pod.timeout_s)
        found += page.claims
        token = page.next_page_token
        if not token:
            return found


async def changes(pod: Local, session: str) -> list[session_pb2.LoggedChange]:
    """Return the changes in a log."""
    request = session_pb2.ListEventsRequest(session_id=session, page_size=1000)
    return list((await pod.sessions.ListEvents(request, timeout=pod.timeout_s)).changes)


# --- facts ----------------------------------------------------------------------------------------------------


async def test_a_claim_of_the_user_is_held_and_a_retry_is_the_same(pods: tuple[Local, Local]) -> None:
    """P3, P4: one copy is stored, every retry gets its answer, and another pod sees it at once."""
    one, other = pods
    first = await record(one, "r1", claim())
    assert [(a.outcome, a.fact.session_id) for a in first.results] == [(O_HELD, names.memory_log("anna"))]
    assert await held(other) == ["home city: Porto"]
    again = await record(other, "r1", claim())
    assert again.replayed
    assert list(again.results) == list(first.results)
    second = await record(other, "r2", claim("Home  City", "PORTO."))
    assert [a.outcome for a in second.results] == [O_CONFIRMED]
    assert second.results[0].fact == first.results[0].fact
    (belief,) = (await listed(one)).beliefs
    assert belief.confirmations == 1
    assert belief.trust == USER
    reused = await refused(record(one, "r1", claim(value="Lisbon")))
    assert (reused.status, reused.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_claims_of_one_request_are_decided_in_order(pods: tuple[Local, Local]) -> None:
    """A claim that repeats one before it in the request confirms that one; the ids are their entries."""
    pod, _ = pods
    answer = await record(pod, "r1", claim(), claim("diet", "vegan"), claim("HOME CITY", "porto"))
    assert [(a.outcome, a.fact.entry) for a in answer.results] == [(O_HELD, 0), (O_HELD, 1), (O_CONFIRMED, 0)]
    assert {a.fact.version for a in answer.results} == {1}
    assert await held(pod) == ["home city: Porto", "diet: vegan"]


@pytest.mark.parametrize("how", ["entry", "whole", "chain", "document"])
async def test_a_claim_is_trusted_as_its_least_source(pods: tuple[Local, Local], how: str) -> None:
    """P10: a tool, a model or a document behind a claim makes it wait, also through a citation or a claim."""
    pod, _ = pods
    sources, trust = [ref(0), ref(3)], INFERRED
    if how == "whole":
        sources, trust = [ref(None)], EXTERNAL
    elif how == "chain":
        await pod.append("s", "second", said("So it rains in Porto.", citations=[ref(2)]))
        first = await record(pod, "r0", claim("weather", "rain", ref(0, 2)))
        sources, trust = [ref(), first.results[0].fact], EXTERNAL
    elif how == "document":
        await ingest(pod, fact_pb2.Document(document_id="guide", text="Porto is wet."))
        sources, trust = [ref(0, 1, names.document_log("anna", "guide"))], EXTERNAL
    answer = await record(pod, "r1", claim("home weather", "rain", *sources))
    assert [a.outcome for a in answer.results] == [O_QUARANTINED]
    assert list(answer.results[0].reasons) == [fact_pb2.HOLD_REASON_ORIGIN]
    assert await held(pod) == []
    assert (await waiting(pod, "anna"))[-1].belief.trust == trust


async def test_a_claim_that_waits_is_reviewed_with_an_audit_trail(pods: tuple[Local, Local]) -> None:
    """Accepted it is held at its old trust; the log tells who decided, why, and what was waiting."""
    pod, other = pods
    wet = (await record(pod, "r1", claim("weather", "wet", ref(2)))).results[0]
    dry = (await record(pod, "r2", claim("weather", "dry", ref(2)))).results[0]
    again = (await record(pod, "r3", claim("weather", "WET", ref(2)))).results[0]
    assert (again.outcome, again.fact) == (O_QUARANTINED, wet.fact)
    assert len(await waiting(other)) == 2
    await review(other, "v1", wet.fact, "ACCEPT", cause="checked")
    await review(other, "v2", dry.fact, "REJECT")
    assert (await review(other, "v1", wet.fact, "ACCEPT", cause="checked")).replayed
    (belief,) = (await listed(pod)).beliefs
    assert (belief.reviewed, belief.trust, belief.confirmations) == (True, EXTERNAL, 1)
    assert await waiting(pod) == []
    assert (await record(pod, "r4", claim("Weather", "Dry"))).results[0].outcome == O_REJECTED
    gone = await refused(review(pod, "v3", dry.fact, "ACCEPT"))
    assert (gone.reason, gone.field, gone.metadata["status"]) == ("FACT_NOT_FOUND", "review.fact", "REJECTED")
    trail = [one.change for one in await changes(pod, names.memory_log("anna"))]
    assert [one.WhichOneof("change") for one in trail] == ["fact", "fact", "confirmation", "review", "review"]
    assert (trail[3].review.reviewer, trail[3].review.cause) == ("rita", "checked")
    assert trail[3].review.fact == wet.fact


async def test_corrections_hold_through_a_rebuild_and_as_of_before(pods: tuple[Local, Local]) -> None:
    """Superseded, retracted, rejected: the old belief is there as of before; a rebuild gives all answers again (P9)."""
    pod, other = pods
    answer = await record(pod, "r1", claim(), claim("diet", "vegan"), claim("employer", "Orchid"))
    city, diet, employer = (one.fact for one in answer.results)
    before = (await listed(pod)).beliefs[-1].recorded_at
    await correct(pod, "k1", city, "SUPERSEDE", replacement=claim(value="Braga"))
    await correct(pod, "k2", diet, "RETRACT", cause="a misunderstanding")
    await correct(pod, "k3", employer, "REJECT")
    assert (await correct(other, "k3", employer, "REJECT")).replayed
    assert await held(other) == ["home city: Braga"]
    assert await held(other, known_at=before) == ["home city: Porto", "diet: vegan", "employer: Orchid"]
    later = await record(other, "r2", claim("diet", "vegan"), claim("ｅｍｐｌｏｙｅｒ", "ORCHID"))
    assert [one.outcome for one in later.results] == [O_HELD, O_REJECTED]
    assert not later.results[1].HasField("fact")
    everything = exact(await listed(pod, all_statuses=True))
    statuses = [one.status for one in (await listed(pod, all_statuses=True)).beliefs]
    assert statuses == [SUPERSEDED, RETRACTED, REJECTED, HELD, HELD]
    await rebuild(pod.server.record)
    pod.server.eraser._caches[1].clear()  # type: ignore[attr-defined]
    assert exact(await listed(pod, all_statuses=True)) == everything
    twice = await refused(correct(pod, "k4", city, "RETRACT"))
    assert (twice.reason, twice.metadata["status"]) == ("FACT_NOT_FOUND", "SUPERSEDED")


def _at(day: int) -> Any:
    """Return a day of a May that is long past."""
    at = timestamp_pb2.Timestamp()
    at.FromDatetime(datetime(2024, 5, day, tzinfo=UTC))
    return at


async def _replaced(pod: Local) -> dict[str, list[str]]:
    """Another value takes the place of the old one."""
    (city,) = (await record(pod, "r", claim())).results
    await correct(pod, "k", city.fact, "SUPERSEDE", replacement=claim(value="Braga"))
    return {"before": ["home city: Porto"], "after": ["home city: Braga"]}


async def _denied(pod: Local) -> dict[str, list[str]]:
    """What was said to hold is said not to hold."""
    await record(pod, "r", claim("likes", "coriander", many=True))
    await record(pod, "k", claim("likes", "coriander", many=True, negated=True))
    return {"before": ["likes: coriander"], "after": ["likes: not coriander"]}


async def _retracted(pod: Local) -> dict[str, list[str]]:
    """It is not held any more, and nothing takes its place."""
    (diet,) = (await record(pod, "r", claim("diet", "vegan"))).results
    await correct(pod, "k", diet.fact, "RETRACT")
    return {"before": ["diet: vegan"], "after": []}


async def _corrected_in_part(pod: Local) -> dict[str, list[str]]:
    """One of several values was wrong; the others stand."""
    pets = [claim("pet", name, many=True) for name in ("Mia the cat", "Rex the dog", "Olaf the snail")]
    done = await record(pod, "r", *pets)
    wrong = done.results[1].fact
    await correct(pod, "k", wrong, "SUPERSEDE", replacement=claim("pet", "Max the dog", many=True))
    names = ["Mia the cat", "Olaf the snail", "Max the dog"]
    return {"before": [f"pet: {one.value}" for one in pets], "after": [f"pet: {name}" for name in names]}


async def _bounded(pod: Local) -> dict[str, list[str]]:
    """Something else held for a while; before and after that, the older claim does."""
    await record(pod, "r", claim(valid_from=_at(1)))
    await record(pod, "k", claim(value="Faro", valid_from=_at(10), valid_to=_at(20)))
    for day, city in ((9, "Porto"), (10, "Faro"), (19, "Faro"), (20, "Porto")):
        assert await held(pod, valid_at=_at(day)) == [f"home city: {city}"]
    return {"before": ["home city: Porto"], "after": ["home city: Porto"]}


SHAPES = {
    "replacement": _replaced,
    "polarity": _denied,
    "retraction": _retracted,
    "partial": _corrected_in_part,
    "bounded validity": _bounded,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_correction_of_any_shape_holds_through_a_rebuild(pods: tuple[Local, Local], shape: str) -> None:
    """As of before it the old belief is still there, on every pod, and nothing of it hangs on what is derived (P9)."""
    pod, other = pods
    expected = await SHAPES[shape](pod)
    first_change = (await listed(pod, all_statuses=True)).beliefs
    recorded = [one.recorded_at.ToMicroseconds() for one in first_change]
    later = min((at for at in recorded if at != recorded[0]), default=0)
    before = timestamp_pb2.Timestamp()
    before.FromMicroseconds((later or first_change[0].ended_at.ToMicroseconds()) - 1)

    async def said_of(which: Local) -> dict[str, list[str]]:
        found = {}
        for name, when in (("before", {"known_at": before}), ("after", {})):
            beliefs = (await listed(which, **when)).beliefs
            found[name] = [f"{one.fact.attribute}: {'not ' * one.fact.negated}{one.fact.value}" for one in beliefs]
        return found

    everything = exact(await listed(pod, all_statuses=True))
    assert await said_of(pod) == await said_of(other) == expected
    await rebuild(pod.server.record)
    for which in pods:
        which.server.eraser._caches[1].clear()  # type: ignore[attr-defined]
        assert await said_of(which) == expected
        assert exact(await listed(which, all_statuses=True)) == everything


async def test_all_answers_are_the_same_after_a_rebuild(pods: tuple[Local, Local]) -> None:
    """Every derived thing is dropped and made again: beliefs, quarantine, searches and bundles are equal (P9)."""
    pod, _ = pods
    await record(pod, "r1", claim(pinned=True), claim("home diet", "vegan"), claim("home rent", "900", ref(2)))
    await put(pod, "p", tone="formal")
    about = fact_pb2.Document(document_id="d", title="Homes", text="A home in Porto costs little.\n\nRain is frequent.")
    await ingest(pod, about)
    await ingest(pod, fact_pb2.Document(document_id="all", text="Every home is insured."), subject="")

    async def answers(which: Local) -> list[Any]:
        search = memory_pb2.SearchMemoryRequest(subject_id="anna", query="home in Porto")
        return [
            exact(await listed(which, all_statuses=True)),
            [exact(one) for one in await waiting(which)],
            exact(await which.memory.SearchMemory(search, timeout=which.timeout_s)),
            exact((await which.hydrate("s", query="home in Porto")).bundle),
        ]

    first = await answers(pod)
    assert first[1]
    await rebuild(pod.server.record)
    for which in pods:
        for cache in which.server.eraser._caches:
            cache.clear()  # type: ignore[attr-defined]
        assert await answers(which) == first


async def test_a_replacement_that_waits_has_corrected_nothing(pods: tuple[Local, Local]) -> None:
    """What a tool says supersedes nothing until a review accepts it; then it does."""
    pod, _ = pods
    city = (await record(pod, "r1", claim())).results[0].fact
    answer = await correct(pod, "k1", city, "SUPERSEDE", replacement=claim("home city", "Rome", ref(2)))
    assert answer.replacement.outcome == O_QUARANTINED
    assert await held(pod) == ["home city: Porto"]
    await review(pod, "v1", answer.replacement.fact, "ACCEPT")
    assert await held(pod) == ["home city: Rome"]


async def test_a_pinned_fact_is_not_contradicted_without_review(pods: tuple[Local, Local]) -> None:
    """What the user says against a pinned fact waits; a correction of it does not."""
    pod, _ = pods
    city = (await record(pod, "r1", claim())).results[0].fact
    await pin(pod, "p1", city)
    assert (await pin(pod, "p1", city)).replayed
    (answer,) = (await record(pod, "r2", claim(value="Rome"))).results
    assert (answer.outcome, list(answer.reasons)) == (O_QUARANTINED, [fact_pb2.HOLD_REASON_CONTRADICTS_PINNED])
    await correct(pod, "k1", city, "SUPERSEDE", replacement=claim(value="Braga"))
    (belief,) = (await listed(pod)).beliefs
    assert (belief.fact.value, belief.pinned) == ("Braga", True)
    await pin(pod, "p2", belief.fact_ref, pinned=False)
    assert (await record(pod, "r3", claim(value="Faro"))).results[0].outcome == O_HELD


async def test_a_profile_is_structured_and_capped(pods: tuple[Local, Local]) -> None:
    """Attributes are set one by one and removed when empty; a retry gets the profile of then."""
    pod, other = pods

    def plain(answer: memory_pb2.PutProfileResponse) -> dict[str, str]:
        return {one.name: one.value for one in answer.attributes}

    first = await put(pod, "p1", tone="dry", name="Anna")
    assert plain(first) == {"name": "Anna", "tone": "dry"}
    assert plain(await put(other, "p2", tone="", zone="UTC")) == {"name": "Anna", "zone": "UTC"}
    again = await put(other, "p1", tone="dry", name="Anna")
    assert again.replayed
    assert plain(again) == plain(first)
    assert [one.name for one in (await listed(pod)).profile] == ["name", "zone"]
    some = {f"a{index}": "x" for index in range(limits.profile_attributes_max - 1)}
    full = await refused(put(pod, "p3", **some))
    assert (full.reason, full.field, full.metadata["limit"]) == (
        "LIMIT_EXCEEDED",
        "attributes",
        "profile_attributes_max",
    )


# --- facts of turns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fail", "append"])
async def test_facts_are_committed_with_their_turn_or_not_at_all(pods: tuple[Local, Local], mode: str) -> None:
    """The claims stand in the turn's event, cite its entries, and every retry gets the same answer (P1, P3)."""
    pod, other = pods

    def request(request_id: str = "t2", version: int = 1) -> context_pb2.CommitTurnRequest:
        facts = [
            claim("diet", "vegan", turn_pb2.EventRef(entry=0)),
            claim("mood", "cheerful", turn_pb2.EventRef(entry=1)),
            claim("Diet", "VEGAN", ref()),
        ]
        how = {"expected": version} if mode == "fail" else {"mode": context_pb2.COMMIT_MODE_APPEND}
        return commit_request("s", request_id, "I am vegan.", answered("You sound cheerful."), facts=facts, **how)

    done = await pod.send(request())
    assert [one.outcome for one in done.facts] == [O_HELD, O_QUARANTINED, O_CONFIRMED]
    assert [Ref(*_place(one.fact)) for one in done.facts] == [("s", 2, 2), ("s", 2, 3), ("s", 2, 2)]
    assert await held(other) == ["diet: vegan"]
    (belief,) = (await listed(other)).beliefs
    assert [Ref(*_place(source)) for source in belief.fact.sources] == [("s", 2, 0), ("s", 1, 0)]
    await correct(pod, "k1", done.facts[0].fact, "REJECT")
    again = await other.send(request())
    assert again.replayed
    assert (list(again.facts), again.result) == (list(done.facts), done.result)
    if mode == "fail":
        assert (await refused(other.send(request("t3")))).reason == "VERSION_CONFLICT"
    refs = [Ref(*_place(one.place)) for one in await changes(pod, "s")]
    assert refs == [("s", 2, 2), ("s", 2, 3), ("s", 2, 4)]
    assert len((await pod.events("s"))[-1].turn.entries) == 2


async def test_a_turn_whose_facts_are_refused_is_not_committed(pods: tuple[Local, Local]) -> None:
    """An unfounded claim fails the whole commit, by its field; a retry of a commit that was taken is still answered."""
    pod, other = pods
    bad = await refused(pod.append("s", "t2", "Hello.", facts=[claim("a", "b", ref(0, 9))]))
    assert (bad.status, bad.field) == ("INVALID_ARGUMENT", "facts[0].sources[0]")
    assert (await pod.session("s")).session.version == 1
    await pod.append("t", "t1", "I am vegan.", facts=[claim("a", "b", ref(0))])
    done = await other.append("t", "t1", "I am vegan.", facts=[claim("a", "b", ref(0))])
    assert done.replayed
    new = await refused(pod.send(commit_request("new", "t1", "Hi.", facts=[claim()], subject="", expected=0)))
    assert (new.status, new.field) == ("INVALID_ARGUMENT", "subject_id")


def _place(place: turn_pb2.EventRef) -> tuple[str, int, int]:
    return place.session_id, place.version, place.entry


# --- documents ------------------------------------------------------------------------------------------------


async def test_documents_are_versioned_and_ingested_once(pods: tuple[Local, Local]) -> None:
    """The same content is one version, other content the next; one that belongs to all can found anybody's claim."""
    pod, other = pods
    text = "\n\n".join(f"Paragraph {index} tells of the harbour, the ferry and its many delays." for index in range(40))
    document = fact_pb2.Document(document_id="guide", title="Guide", text=text)
    (first,) = await ingest(pod, document)
    assert (first.version, first.created) == (1, True)
    assert first.chunks > 1
    (again,) = await ingest(other, document)
    assert (again.version, again.created, again.chunks) == (1, False, first.chunks)
    (second,) = await ingest(other, fact_pb2.Document(document_id="guide", title="Guide", text=text + " New."))
    assert (second.version, second.created) == (2, True)
    (third,) = await ingest(pod, document)
    assert (third.version, third.created) == (3, True)
    await ingest(pod, fact_pb2.Document(document_id="law", text="Ferries wait for nobody."), subject="")
    everyones = names.document_log(names.EVERYONE, "law")
    (answer,) = (await record(pod, "r1", claim("ferries", "wait for nobody", ref(0, 1, everyones)))).results
    assert answer.outcome == O_QUARANTINED
    assert (await waiting(pod))[0].belief.trust == EXTERNAL
    sessions = await pod.sessions.ListSessions(session_pb2.ListSessionsRequest(page_size=1))
    assert [one.session_id for one in sessions.sessions] == ["s"]
    assert sessions.next_page_token == ""


# --- races ----------------------------------------------------------------------------------------------------


async def test_writers_of_one_subject_lose_and_double_nothing(pods: tuple[Local, Local]) -> None:
    """P2, P3: of 32 writers with retries on two pods every claim is stored once, and what was rejected stays away."""
    dice = random.Random(7)
    bad = (await record(pods[0], "bad", claim("likes", "rain", many=True))).results[0].fact

    async def write(index: int) -> None:
        mine = claim("likes", f"thing {index}", many=True)
        ours = claim("likes", f"shared {index % 4}", many=True)
        rain = claim("likes", "Rain", many=True)
        for attempt in range(2):
            pod = dice.choice(pods)
            if index % 8 == 7 and attempt == 0:
                await pod.append(f"s{index}", "t", "I like much.", facts=[ours, mine])
            else:
                await record(pod, f"w{index}", mine, ours, rain)
            await asyncio.sleep(0)

    async def reject() -> None:
        await correct(pods[1], "no-rain", bad, "REJECT")

    await asyncio.gather(*(write(index) for index in range(32)), reject())
    for pod in pods:
        values = sorted(one.fact.value.casefold() for one in (await listed(pod)).beliefs)
        expected = [f"shared {index}" for index in range(4)] + [f"thing {index}" for index in range(32)]
        assert values == sorted(expected)
    version = (await pods[0].sessions.ListEvents(session_pb2.ListEventsRequest(session_id="~m~anna"))).head_version
    assert version == 2 + 32


async def test_who_is_always_overtaken_gives_up(pods: tuple[Local, Local], monkeypatch: pytest.MonkeyPatch) -> None:
    """After memory_attempts_max decisions that others overtook the caller is told to try later; one less succeeds."""
    one, other = pods
    append = Sessions.append
    overtakes = iter(range(100))

    async def overtaken(self: Sessions, event: Any, **how: Any) -> Any:
        if event.request_id == "slow" and self is one.server.sessions:
            await record(other, f"fast{next(overtakes)}", claim("likes", "speed", many=True))
        return await append(self, event, **how)

    monkeypatch.setattr(Sessions, "append", overtaken)
    monkeypatch.setattr(limits, "memory_attempts_max", 3)
    refusal = await refused(record(one, "slow", claim()))
    assert (refusal.status, refusal.metadata["limit"]) == ("RESOURCE_EXHAUSTED", "memory_attempts_max")
    assert next(overtakes) == 3
    monkeypatch.setattr(Sessions, "append", append)
    assert [a.outcome for a in (await record(one, "slow", claim())).results] == [O_HELD]


# --- what is refused ------------------------------------------------------------------------------------------


def _bad_claims() -> list[tuple[str, Any, str, str]]:
    long = "x" * 3000
    many = [ref()] * (limits.sources_max + 1)
    ends = claim()
    ends.valid_from.FromSeconds(200)
    ends.valid_to.FromSeconds(200)
    never = claim()
    never.valid_to.seconds = 1 << 50
    return [
        ("blank attribute", claim(" "), "facts[0].attribute", ""),
        ("punctuation", claim("..."), "facts[0].attribute", ""),
        ("two lines", claim("a\nb"), "facts[0].attribute", ""),
        ("long attribute", claim(long), "facts[0].attribute", "fact_attribute_bytes"),
        ("blank value", claim("a", " "), "facts[0].value", ""),
        ("control", claim("a", "b\x00"), "facts[0].value", ""),
        ("long value", claim("a", long), "facts[0].value", "fact_value_bytes"),
        ("kind", claim(kind="a b"), "facts[0].kind", ""),
        ("order", ends, "facts[0].valid_to", ""),
        ("time", never, "facts[0].valid_to", ""),
        ("no source", fact_pb2.Fact(attribute="a", value="b"), "facts[0].sources", ""),
        ("many sources", claim("a", "b", *many), "facts[0].sources", "sources_max"),
        ("no session", claim("a", "b", ref(session="")), "facts[0].sources[0].session_id", ""),
        ("bad session", claim("a", "b", ref(session="~x~y")), "facts[0].sources[0].session_id", ""),
        ("bad part", claim("a", "b", ref(session="~m~a b")), "facts[0].sources[0].session_id", ""),
        ("version", claim("a", "b", ref(version=0)), "facts[0].sources[0].version", ""),
        ("entry", claim("a", "b", ref(-1)), "facts[0].sources[0].entry", ""),
        ("missing", claim("a", "b", ref(session="nowhere")), "facts[0].sources[0]", ""),
        ("missing entry", claim("a", "b", ref(9)), "facts[0].sources[0]", ""),
        ("missing version", claim("a", "b", ref(), ref(0, 7)), "facts[0].sources[1]", ""),
        ("another's", claim("a", "b", ref(session="bobs")), "facts[0].sources[0]", ""),
        ("another's log", claim("a", "b", ref(session="~m~bob")), "facts[0].sources[0]", ""),
        ("extractor", claim(extractor=fact_pb2.Extractor(name="a b")), "facts[0].extractor.name", ""),
        (
            "extractor version",
            claim(extractor=fact_pb2.Extractor(version=long)),
            "facts[0].extractor.version",
            "extractor_version_bytes",
        ),
    ]


async def test_a_bad_claim_is_refused_by_its_field(pods: tuple[Local, Local]) -> None:
    """Nothing of the request is recorded, and a source of another subject reads as one that is not there (P8)."""
    pod, _ = pods
    await pod.append("bobs", "first", "My secret.", subject="bob")
    await record(pod, "b1", claim("a", "b", ref(session="bobs")), subject="bob")
    said_of_missing = set()
    for what, bad, field, limit in _bad_claims():
        refusal = await refused(record(pod, "bad", bad))
        assert (refusal.status, refusal.field) == ("INVALID_ARGUMENT", field), what
        assert refusal.metadata.get("limit", "") == limit, what
        if what.startswith(("missing", "another")):
            said_of_missing.add(refusal.text.replace("sources[1]", "sources[0]"))
    assert len(said_of_missing) == 1
    for facts, limit in (((), ""), ([claim()] * (limits.facts_per_request_max + 1), "facts_per_request_max")):
        refusal = await refused(record(pod, "bad", *facts))
        assert (refusal.field, refusal.metadata.get("limit", "")) == ("facts", limit)
    assert (await refused(record(pod, "", claim()))).field == "request_id"
    assert (await refused(record(pod, "bad", claim(), subject="~"))).field == "subject_id"
    assert (await listed(pod, all_statuses=True)).beliefs == []


async def test_a_bad_change_is_refused_by_its_field(pods: tuple[Local, Local]) -> None:
    """Corrections, pins, reviews, profiles and documents likewise."""
    pod, _ = pods
    fact = (await record(pod, "r1", claim())).results[0].fact
    waits = (await record(pod, "r2", claim("weather", "wet", ref(2)))).results[0].fact
    nothing = ref(5, 1, names.memory_log("anna"))
    whole = ref(None, 1, names.memory_log("anna"))
    document = fact_pb2.Document(document_id="d", text="text")

    def doc(**fields: Any) -> fact_pb2.Document:
        made = fact_pb2.Document()
        made.CopyFrom(document)
        made.MergeFrom(fact_pb2.Document(**fields))
        return made

    big = "word " * (limits.document_bytes // 5)
    for work, field in (
        (correct(pod, "k", fact, "UNSPECIFIED"), "correction.correction"),
        (correct(pod, "k", fact, "SUPERSEDE"), "correction.replacement"),
        (correct(pod, "k", fact, "RETRACT", replacement=claim()), "correction.replacement"),
        (correct(pod, "k", fact, "RETRACT", cause="x" * 300), "correction.cause"),
        (correct(pod, "k", whole, "RETRACT"), "correction.fact.entry"),
        (correct(pod, "k", fact, "SUPERSEDE", replacement=claim(" ")), "correction.replacement.attribute"),
        (
            correct(pod, "k", fact, "SUPERSEDE", replacement=claim("a", "b", ref(9))),
            "correction.replacement.sources[0]",
        ),
        (pin(pod, "k", whole), "pin.fact.entry"),
        (review(pod, "k", waits, "UNSPECIFIED"), "review.decision"),
        (review(pod, "k", waits, "ACCEPT", cause="a\nb"), "review.cause"),
        (put(pod, "k"), "attributes"),
        (put(pod, "k", **{"a b": "x"}), "attributes[0].name"),
        (put(pod, "k", a="x" * (limits.profile_value_bytes + 1)), "attributes[0].value"),
        (ingest(pod), "documents"),
        (ingest(pod, document, document), "documents[1].document_id"),
        (ingest(pod, *[document] * (limits.documents_per_request_max + 1)), "documents"),
        (ingest(pod, doc(title="x" * (limits.document_title_bytes + 1))), "documents[0].title"),
        (ingest(pod, doc(uri="x" * (limits.document_uri_bytes + 1))), "documents[0].uri"),
        (ingest(pod, fact_pb2.Document(document_id="d", text=" ")), "documents[0].text"),
        (ingest(pod, fact_pb2.Document(document_id="d", text=big + " more")), "documents[0].text"),
        (ingest(pod, *(fact_pb2.Document(document_id=f"d{at}", text=big[:-1]) for at in range(5))), "documents"),
        (listed(pod, page_token="AAAA"), "page_token"),
        (listed(pod, page_size=limits.page_max + 1), "page_size"),
        (listed(pod, route="a b"), "route"),
        (waiting(pod, page_size=-1), "page_size"),
    ):
        refusal = await refused(work)
        assert (refusal.status, refusal.field) == ("INVALID_ARGUMENT", field)
    assert limits.documents_bytes < 5 * len(big)
    for work, field, status in (
        (correct(pod, "k", nothing, "RETRACT"), "correction.fact", None),
        (correct(pod, "k", waits, "REJECT"), "correction.fact", "QUARANTINED"),
        (pin(pod, "k", waits), "pin.fact", "QUARANTINED"),
        (review(pod, "k", fact, "ACCEPT"), "review.fact", "HELD"),
    ):
        refusal = await refused(work)
        assert (refusal.status, refusal.reason, refusal.field) == ("NOT_FOUND", "FACT_NOT_FOUND", field)
        assert refusal.metadata.get("status") == status
    long = memory_pb2.ReviewQuarantineRequest(
        subject_id="anna",
        request_id="k",
        review=fact_pb2.Review(fact=waits, decision="DECISION_ACCEPT", reviewer="x" * (limits.reviewer_bytes + 1)),
    )
    assert (await refused(pod.memory.ReviewQuarantine(long))).metadata["limit"] == "reviewer_bytes"
    assert await held(pod) == ["home city: Porto"]


async def test_pinned_facts_are_capped(pods: tuple[Local, Local], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bundle shows them: beyond facts_pinned_max none is pinned, by whatever call."""
    monkeypatch.setattr(limits, "facts_pinned_max", 1)
    pod, _ = pods
    answer = await record(pod, "r1", claim(pinned=True), claim("diet", "vegan"))
    for work, field in (
        (pin(pod, "p", answer.results[1].fact), "pin.pinned"),
        (record(pod, "r2", claim("mood", "calm", pinned=True)), "facts[0].pinned"),
        (record(pod, "r2", claim("diet", "Vegan", pinned=True)), "facts[0].pinned"),
    ):
        refusal = await refused(work)
        assert (refusal.field, refusal.metadata["limit"]) == (field, "facts_pinned_max")


# --- pages ----------------------------------------------------------------------------------------------------


async def test_beliefs_and_waiting_claims_come_in_pages(pods: tuple[Local, Local]) -> None:
    """Pages hold what one look saw, also while claims are added; waiting claims of all subjects come by subject."""
    pod, _ = pods
    for subject in ("bob", "carl"):
        await pod.append(f"{subject}s", "first", "Hi.", answered("Hello."), subject=subject)
        source = ref(1, 1, f"{subject}s")
        facts = [claim("likes", f"thing {index}", source, many=True) for index in range(3)]
        await record(pod, "r", *facts, subject=subject)
    assert [(one.subject_id, one.belief.fact.value) for one in await waiting(pod, page_size=2)] == [
        (subject, f"thing {index}") for subject in ("bob", "carl") for index in range(3)
    ]
    assert len(await waiting(pod, "carl", page_size=2)) == 3
    await record(pod, "r", *(claim("likes", f"thing {index}", many=True) for index in range(5)))
    page = await listed(pod, page_size=2)
    await record(pod, "r2", claim("likes", "more", many=True))
    found = list(page.beliefs)
    while page.next_page_token:
        page = await listed(pod, page_size=2, page_token=page.next_page_token)
        found += page.beliefs
    assert [one.fact.value for one in found] == [f"thing {index}" for index in range(5)]
