"""What was erased is gone (P11): from files, stores, caches, logs; after restart, rebuild, replay and re-ingestion."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar import limits
from sidecar.config import Config
from sidecar.engines import open_record
from sidecar.rebuild import rebuild
from sidecar.server import Server
from sidecar.telemetry import Log
from standpipe.v1 import context_pb2, fact_pb2, memory_pb2, turn_pb2
from tests.e2e.pods import HISTORY, Local, Pod, answered, call, commit_request, refused, result, said, settings, shown
from tests.servers import Postgres, Redis

MARKERS = 1000
MARKER = re.compile(rb"qzx(\d{4})mark", re.IGNORECASE)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for long for what other processes hold."""
    monkeypatch.setattr(limits, "nearest_s", 0.2)


@dataclass
class Place:
    """Stores that pods share, and the files in which they keep what they are told."""

    config: dict[str, Any]
    files: list[Path]
    """Directories and files to be scanned."""
    redis: Redis | None = None
    logs: list[io.StringIO] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Local]:
        """Serve in this process."""
        log = io.StringIO()
        self.logs.append(log)
        server = Server(Config(**self.config))
        server.telemetry.log = Log(log)
        async with server:
            pod = Local(server, log)
            try:
                yield pod
            finally:
                await pod.close()
        assert '"defect"' not in log.getvalue(), log.getvalue()

    async def rebuild(self) -> None:
        """Drop what is derived, and make it again."""
        record = await open_record(Config(**self.config))
        try:
            await rebuild(record)
        finally:
            await record.close()

    def found(self) -> set[int]:
        """Return the markers that stand in any byte of any file."""
        seen: set[int] = set()
        for log in self.logs:
            seen |= {int(one) for one in MARKER.findall(log.getvalue().encode())}
        if self.redis is not None:
            self.redis.call("CONFIG", "SET", "rdbcompression", "no")
            self.redis.call("SAVE")
        for root in self.files:
            for path in [root] if root.is_file() else sorted(root.rglob("*")):
                if path.is_file():
                    seen |= {int(one) for one in MARKER.findall(path.read_bytes())}
        return seen


def _embedded(path: Path, *, plaintext: bool) -> Place:
    return Place(settings(path / "record.db", plaintext=plaintext), [path])


@pytest.fixture(params=["sqlite-plain", "sqlite-encrypted", "sqlite-redis-plain", "servers-encrypted"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """All stores that keep bytes, plain and encrypted.

    PostgreSQL in plain text is not among them: its write-ahead log and its replicas are the server's, and only
    encryption makes what stands there unreadable.
    """
    plaintext = request.param.endswith("plain")
    if request.param.startswith("sqlite"):
        place = _embedded(tmp_path, plaintext=plaintext)
        if "redis" in request.param:
            place.redis = request.getfixturevalue("redis_server")
            place.config["hot"] = place.redis.url
            place.files.append(place.redis.directory)
        yield place
        return
    postgres: Postgres = request.getfixturevalue("postgres_server")
    redis: Redis = request.getfixturevalue("redis_server")
    name = postgres.create_database()
    config = settings(tmp_path, plaintext=plaintext) | {"record": postgres.dsn(name), "hot": redis.url}
    yield Place(config, [postgres.data, redis.directory], redis)
    postgres.drop_database(name)


class Planted:
    """Everything that a subject says, with a marker in each place that holds what somebody said."""

    def __init__(self) -> None:
        self.count = 0
        self.receipts: list[bytes] = []
        self.requests: list[context_pb2.CommitTurnRequest] = []
        self.documents: list[fact_pb2.Document] = []

    def __call__(self, count: int = 1) -> str:
        """Return new markers."""
        self.count += count
        return " ".join(f"qzx{number:04d}mark" for number in range(self.count - count, self.count))

    async def speak(self, pod: Pod, session: str, subject: str) -> None:
        """Hold a conversation of two turns, with a tool, a receipt and claims."""
        for turn in range(2):
            bundle = await pod.hydrate(session, f"what about {self()}", subject=subject)
            self.receipts.append(bundle.receipt)
            source = turn_pb2.EventRef(entry=0)
            request = commit_request(
                session,
                f"request-{turn}",
                said(f"I like {self(5)}", speaker=self()),
                call(f"call-{turn}", self(), f'{{"of": "{self()}"}}'),
                result(f"call-{turn}", self(3)),
                answered(f"So you like {self(4)}"),
                expected=turn,
                subject=subject,
                receipt=bundle.receipt,
                facts=[fact_pb2.Fact(attribute=self(), value=self(2), sources=[source])],
            )
            self.requests.append(request)
            await pod.send(request)
        await pod.end(session, "end", cause=self())

    async def remember(self, pod: Pod, subject: str, session: str) -> None:
        """Record, correct and review claims, put a profile, ingest documents."""
        said_by_user = turn_pb2.EventRef(session_id=session, version=1, entry=0)
        said_by_tool = turn_pb2.EventRef(session_id=session, version=1, entry=2)
        for number in range(8):
            sources = [said_by_tool if number % 2 else said_by_user]
            fact = fact_pb2.Fact(attribute=self(), value=self(), sources=sources)
            made = await pod.memory.RecordFacts(
                memory_pb2.RecordFactsRequest(subject_id=subject, request_id=f"fact-{number}", facts=[fact])
            )
            if number % 2:
                review = fact_pb2.Review(
                    fact=made.results[0].fact, decision=fact_pb2.DECISION_REJECT, reviewer=self(), cause=self()
                )
                await pod.memory.ReviewQuarantine(
                    memory_pb2.ReviewQuarantineRequest(subject_id=subject, request_id=f"review-{number}", review=review)
                )
            else:
                replacement = fact_pb2.Fact(attribute=self(), value=self(), sources=[said_by_user])
                correction = fact_pb2.FactCorrection(
                    fact=made.results[0].fact,
                    correction=fact_pb2.CORRECTION_SUPERSEDE,
                    replacement=replacement,
                    cause=self(),
                )
                await pod.memory.CorrectFact(
                    memory_pb2.CorrectFactRequest(
                        subject_id=subject, request_id=f"correct-{number}", correction=correction
                    )
                )
        profile = [fact_pb2.ProfileAttribute(name=f"name-{number}", value=self()) for number in range(10)]
        await pod.memory.PutProfile(
            memory_pb2.PutProfileRequest(subject_id=subject, request_id="profile", attributes=profile)
        )
        for version in range(2):
            for number in range(3):
                document = fact_pb2.Document(
                    document_id=f"doc-{number}", title=self(), uri=f"file:{self()}", text=self(20)
                )
                self.documents.append(document)
                await pod.memory.IngestDocuments(
                    memory_pb2.IngestDocumentsRequest(subject_id=subject, documents=[document])
                )
            assert version < 2

    async def all(self, pod: Pod, subject: str) -> None:
        """Plant 1,000."""
        session = 0
        while self.count < MARKERS - 200:
            await self.speak(pod, f"s-{session}", subject)
            session += 1
        await self.remember(pod, subject, "s-0")
        await pod.commit("filler", "request", said(self(MARKERS - self.count)), expected=0, subject=subject)
        assert self.count == MARKERS


async def erase(pod: Pod, subject: str = "ana", **part: str) -> memory_pb2.ErasureReceipt:
    """Erase, and return the receipt."""
    request = memory_pb2.EraseSubjectRequest(subject_id=subject, **part)
    return (await pod.memory.EraseSubject(request, timeout=20)).receipt


async def test_no_marker_is_left_anywhere(place: Place) -> None:
    """Of 1,000 planted markers none is found in any byte after erasure, whatever happens then (P11)."""
    planted = Planted()
    async with place.serve() as pod:
        await planted.all(pod, "ana")
        await pod.commit("of-ben", "request", said("my own words"), expected=0, subject="ben")
        if place.config.get("plaintext"):
            assert len(place.found()) > MARKERS // 2  # the scan finds what is there
        receipt = await erase(pod)
        assert receipt.HasField("done_at")
        assert place.found() == set()
        await late(pod, planted)
        assert await erase(pod) == receipt
        assert place.found() == set()
    async with place.serve() as pod:  # again
        await late(pod, planted)
        assert await erase(pod) == receipt
        assert "my own words" in shown((await pod.hydrate("of-ben", subject="ben")).bundle, HISTORY)
    await place.rebuild()
    assert place.found() == set()
    async with place.serve() as pod:
        await late(pod, planted)
        assert "my own words" in shown((await pod.hydrate("of-ben", subject="ben")).bundle, HISTORY)
    assert place.found() == set()


async def late(pod: Pod, planted: Planted) -> None:
    """Try every way back in."""
    for request in planted.requests[:3]:  # a retry whose first answer was lost
        assert (await refused(pod.send(request))).reason == "ERASED"
    assert (await refused(pod.events("s-0"))).reason == "ERASED"
    late_turn = commit_request("s-0", "late", "too late", expected=2, subject="ana")
    assert (await refused(pod.send(late_turn))).reason == "ERASED"
    new = commit_request("new", "late", "too late", expected=0, subject="ana")
    assert (await refused(pod.send(new))).reason == "ERASED"
    ingest = memory_pb2.IngestDocumentsRequest(subject_id="ana", documents=planted.documents[:1])
    assert (await refused(pod.memory.IngestDocuments(ingest))).reason == "ERASED"
    put = memory_pb2.PutProfileRequest(
        subject_id="ana", request_id="profile", attributes=[fact_pb2.ProfileAttribute(name="a", value="b")]
    )
    assert (await refused(pod.memory.PutProfile(put))).reason == "ERASED"
    for consistency in ({}, {"minimize_latency": True}, {"fully_consistent": True}):
        hydrate = pod.hydrate("s-0", subject="ana", consistency=context_pb2.Consistency(**consistency))
        assert (await refused(hydrate)).reason == "ERASED"
    replays = [await refused(pod.replay(receipt)) for receipt in planted.receipts[1::8]]
    assert {(one.reason, one.metadata["missing"]) for one in replays} == {("REPLAY_UNAVAILABLE", "subject")}
    beliefs = await pod.memory.ListBeliefs(memory_pb2.ListBeliefsRequest(subject_id="ana", all_statuses=True))
    assert not beliefs.beliefs
    assert not beliefs.profile
    waiting = await pod.memory.ListQuarantine(memory_pb2.ListQuarantineRequest())
    assert not waiting.claims
    for form in (memory_pb2.EXPORT_FORMAT_JSON_LINES, memory_pb2.EXPORT_FORMAT_MARKDOWN):
        export = pod.memory.ExportSubject(memory_pb2.ExportSubjectRequest(subject_id="ana", format=form))
        assert (await refused(export)).reason == "ERASED"


async def test_a_session_goes_with_its_claims_on_every_pod(place: Place) -> None:
    """Other pods' caches show it no more, nearest or not, once the erasure is answered; the rest goes on (P11)."""
    async with place.serve() as one, place.serve() as other:
        await one.commit("s", "r", said("I moved to Oslo"), expected=0, subject="ana")
        await one.commit("t", "r", said("I like tea"), expected=0, subject="ana")
        facts = [
            fact_pb2.Fact(attribute=attribute, value=value, sources=[turn_pb2.EventRef(session_id=session, version=1)])
            for attribute, value, session in (("town", "Oslo", "s"), ("drink", "tea", "t"))
        ]
        await one.memory.RecordFacts(memory_pb2.RecordFactsRequest(subject_id="ana", request_id="r", facts=facts))
        nearest = context_pb2.Consistency(minimize_latency=True)
        for pod in (one, other):
            for session in ("s", "t"):
                await pod.hydrate(session, "Oslo tea", subject="ana", consistency=nearest)
        receipt = await erase(one, session_id="s")
        assert (receipt.logs, receipt.events, receipt.events_redacted) == (1, 1, 1)
        for pod in (one, other):
            assert (await refused(pod.hydrate("s", subject="ana", consistency=nearest))).reason == "ERASED"
            left = await pod.hydrate("t", "Oslo tea", subject="ana", consistency=nearest)
            assert "Oslo" not in str(left.bundle)
            beliefs = await pod.memory.ListBeliefs(memory_pb2.ListBeliefsRequest(subject_id="ana", all_statuses=True))
            assert [belief.fact.value for belief in beliefs.beliefs] == ["tea"]
            assert {event.version for event in await pod.events("t")} == {1}


async def test_writes_and_an_erasure_at_once(place: Place) -> None:
    """Whatever is committed beside an erasure was either erased with the rest or refused."""
    async with place.serve() as one, place.serve() as other:
        await one.commit("s", "r", said("hello"), expected=0, subject="ana")

        async def write(number: int) -> bool:
            pod = (one, other)[number % 2]
            try:
                await pod.append("s" if number % 3 else f"s-{number}", f"r-{number}", said("again"), subject="ana")
            except Exception as error:
                assert "ERASED" in str(error) or "erased" in str(error)  # noqa: PT017
                return False
            return True

        writes = [asyncio.create_task(write(number)) for number in range(40)]
        receipt, *took = await asyncio.gather(erase(other), *writes)
        assert receipt.events == 1 + sum(took)
        assert (await refused(one.hydrate("s", subject="ana"))).reason == "ERASED"
