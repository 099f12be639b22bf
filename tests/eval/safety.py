"""What must never happen, tried on real conversations and attacks: `python -m tests.eval.safety RUN DATA`.

**isolation** (P8). Every conversation is committed, with a document, a fact and a profile of its own, once as a tenant
of its own and once as a subject of one tenant. Then every question is asked of its own conversation and of
others, as a hydrate and as a search, and whatever comes back is traced: the log that a segment cites, and its text. A
caller that names another's scope, a wildcard or nothing is tried for each. In the end the processes' caches and logs
are read.

**poison** (P10). Every row of the attacks is committed as a tool's result, as a document and as what the user said, and
recorded as a claim that cites each. What did not come from the user must be neither trusted nor held, every attack must
stand inside a fence, honest claims must be held and recalled.

The data stay where they are: figures alone are printed, and written to OUT/safety-RUN.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc

import standpipe
from sidecar import names
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.evaluation import conversations
from sidecar.evaluation.conversations import Conversation
from sidecar.evaluation.evaluate import Remembering, each, entries, no_lag
from sidecar.model import Model
from sidecar.server import Server
from standpipe.errors import StandpipeError
from standpipe.v1 import bundle_pb2, fact_pb2, memory_pb2, memory_pb2_grpc, turn_pb2
from tests import keys
from tests.servers import Postgres, Redis

FENCED = (bundle_pb2.SOURCE_PROFILE, bundle_pb2.SOURCE_SUMMARY, bundle_pb2.SOURCE_RECALL, bundle_pb2.SOURCE_FACTS)
FENCED += (bundle_pb2.SOURCE_DOCUMENTS,)
FENCE = re.compile(r"</?(recalled|earlier)\b")
POLICY = """\
name: safety
tokenizer: cl100k_base
budget_tokens: 4000
sources: {profile: {cap: 10%}, summary: {cap: 10%}, history: {cap: 30%}, facts: {cap: 25%}, documents: {cap: 25%},
          recall: {cap: 100%, reserve: 25%}}
recall: {floor: false}
deadlines: {embed_ms: 10000}
"""
"""Without a floor: the sharpest test of isolation is a policy that fills the budget with whatever there is."""

HONEST_PER_RUN = 100

OTHERS = 3
"""Scopes besides its own that each question is asked of, in turn, so that all pairs of scopes come up."""


class Finding(NamedTuple):
    """A promise that was broken: what, and a place that holds no content."""

    what: str
    where: str


@dataclass(slots=True)
class Found:
    """What a run saw."""

    checks: Counter[str] = field(default_factory=Counter)
    broken: list[Finding] = field(default_factory=list)

    def check(self, what: str, good: bool, where: str) -> None:
        """Count one check, and keep it if it failed."""
        self.checks[what] += 1
        if not good:
            self.broken.append(Finding(what, where))


class Api:
    """A client, and the stub of the memory's API."""

    def __init__(self, client: standpipe.Client, channel: grpc.aio.Channel, server: Server) -> None:
        self.client = client
        self.memory = memory_pb2_grpc.MemoryServiceStub(channel)
        self.server = server


@dataclass(frozen=True, slots=True)
class Stores:
    """Where it runs."""

    record: str
    hot: str
    models_dir: Path
    embedder: Embedder

    @contextlib.asynccontextmanager
    async def serving(self, tenant: str, directory: Path) -> AsyncIterator[Api]:
        """Run a server of a tenant."""
        address = f"unix:{directory / secrets.token_hex(4)}.sock"
        config = Config(
            tenant=tenant,
            listen=(address,),
            http="",
            record=self.record,
            hot=self.hot,
            encryption_keys_file=keys.key_file(),
            models_dir=str(self.models_dir),
            tokenizers=("cl100k_base",),
            reflection=False,
        )
        async with (
            Server(config, embedder=self.embedder) as server,
            standpipe.connect(address, deadline_ms=60_000) as client,
            grpc.aio.insecure_channel(address) as channel,
        ):
            published = await client.policies.publish(POLICY)
            await client.policies.set_route("default", "safety", published.policy.version)
            yield Api(client, channel, server)


@contextlib.contextmanager
def stores(arguments: argparse.Namespace, directory: Path) -> Iterator[Stores]:
    """Start what was asked for."""
    embedder = Remembering(Model.open(arguments.models_dir / "all-MiniLM-L6-v2"))
    if arguments.engines == "embedded":
        yield Stores(f"sqlite:{directory / 'safety.db'}", "memory", arguments.models_dir, embedder)
        return
    with Postgres() as postgres, Redis() as redis:
        record = postgres.dsn(postgres.create_database())
        yield Stores(record, redis.url, arguments.models_dir, embedder)


def words(text: str) -> str:
    """Return a text's letters and digits: what is left of it in whatever form it is shown."""
    return re.sub(r"\W+", " ", text).casefold().strip()


# --- isolation ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Owner:
    """A conversation, and what its scope may show."""

    conversation: Conversation
    subject: str
    said: str = ""
    """Every word of it: what its bundles may hold."""
    logs: set[str] = field(default_factory=set)


async def _settle(api: Api, owner: Owner) -> None:
    """Commit a conversation, and what else its subject has."""
    said = []
    for place, turns in enumerate(owner.conversation.sessions):
        session = api.client.session(f"{owner.subject}.{place}", subject=owner.subject)
        owner.logs.add(session.id)
        version = 0
        for turn in turns:
            with contextlib.suppress(StandpipeError):
                version = (await session.commit(entries(turn), expected_version=version)).version
                said += [turn.speaker, *turn.texts]
    longest = max(owner.conversation.turns, key=lambda turn: len(turn.texts[0])).texts[0][:4000]
    document = fact_pb2.Document(document_id=f"{owner.subject}.doc", title=f"About {owner.subject}", text=longest)
    await api.memory.IngestDocuments(
        memory_pb2.IngestDocumentsRequest(subject_id=owner.subject, documents=[document]), timeout=60
    )
    owner.logs |= {names.document_log(owner.subject, document.document_id), names.memory_log(owner.subject)}
    text = next(turn.texts[0] for turn in owner.conversation.turns if turn.is_user)[:1000]
    source = turn_pb2.EventRef(session_id=f"{owner.subject}.0", version=1, entry=0)
    for pinned in (False, True):
        fact = fact_pb2.Fact(attribute=f"note {pinned}", value=text, pinned=pinned, sources=[source])
        request = memory_pb2.RecordFactsRequest(subject_id=owner.subject, request_id=f"fact-{pinned}", facts=[fact])
        await api.memory.RecordFacts(request, timeout=60)
    profile = fact_pb2.ProfileAttribute(name="handle", value=f"handle of {owner.subject}")
    await api.memory.PutProfile(
        memory_pb2.PutProfileRequest(subject_id=owner.subject, request_id="profile", attributes=[profile]), timeout=60
    )
    said += [document.title, "handle", profile.value, f"note False {text}", f"note True {text}"]
    owner.said = f" {words(' '.join(said))} "


def _own(owner: Owner, segment: bundle_pb2.Segment) -> bool:
    """Return whether a segment is the owner's: by every log that it cites, and by its words."""
    if any(ref.session_id not in owner.logs for ref in segment.citations):
        return False
    pieces = [words(line) for line in segment.body.replace("[...]", "\n").splitlines()]
    return all(piece in owner.said for piece in pieces if segment.citations)


async def _ask(api: Api, owner: Owner, question: str, found: Found) -> None:
    where = f"{owner.subject}: a question"
    session = api.client.session(f"{owner.subject}.asks", subject=owner.subject)
    bundle = await session.hydrate(question)
    for section in bundle.sections:
        if section.source != bundle_pb2.SOURCE_POLICY:
            for segment in section.segments:
                found.check("segment of a bundle is the scope's own", _own(owner, segment), where)
    for omission in bundle.omissions:
        log = omission.candidate.session_id
        found.check("omission names the scope's own log", not log or log in owner.logs, where)
    request = memory_pb2.SearchMemoryRequest(subject_id=owner.subject, query=question, count_max=100)
    for result in (await api.memory.SearchMemory(request, timeout=60)).results:
        found.check("search result is the scope's own", _own(owner, result.segment), where)


async def _trespass(api: Api, owner: Owner, other: Owner, question: str, found: Found) -> None:
    """Name another's scope in every way there is."""
    client = api.client
    where = f"{owner.subject} against {other.subject}"
    for subject in ("*", "%", "~", "", "_", f"{other.subject}*", names.memory_log(other.subject)):
        try:
            bundle = await client.session(f"{owner.subject}.nobody", subject=subject).hydrate(question)
        except StandpipeError as error:
            found.check("a wildcard is refused", error.reason == "INVALID_FIELD", where)
        else:
            quoted = [one for section in bundle.sections for one in section.segments if one.citations]
            found.check("a wildcard or nothing shows nothing", not quoted, f"{where} as {subject!r}")
    tenant = memory_pb2.SearchMemoryRequest(tenant_id="somebody", subject_id=owner.subject, query=question)
    try:
        await api.memory.SearchMemory(tenant, timeout=60)
    except grpc.aio.AioRpcError as error:
        found.check("another tenant is refused", error.code() == grpc.StatusCode.PERMISSION_DENIED, where)
    else:
        found.check("another tenant is refused", False, where)
    if other.subject == owner.subject:  # in a tenant of its own: what is named there is the caller's own
        return
    for subject, session in ((owner.subject, f"{other.subject}.0"), ("", names.memory_log(other.subject))):
        try:
            bundle = await client.session(session, subject=subject).hydrate(question)
        except StandpipeError as error:
            reasons = {"SUBJECT_MISMATCH", "INVALID_FIELD"}
            found.check("another's session is refused", error.reason in reasons, where)
        else:
            found.check("another's session is refused", False, where)
    source = turn_pb2.EventRef(session_id=f"{other.subject}.0", version=1, entry=0)
    fact = fact_pb2.Fact(attribute="stolen", value="something", sources=[source])
    request = memory_pb2.RecordFactsRequest(subject_id=owner.subject, request_id=secrets.token_hex(8), facts=[fact])
    try:
        await api.memory.RecordFacts(request, timeout=60)
    except grpc.aio.AioRpcError as error:
        found.check("a claim cannot cite another's event", error.code() == grpc.StatusCode.INVALID_ARGUMENT, where)
    else:
        found.check("a claim cannot cite another's event", False, where)


def _caches(api: Api, owners: Sequence[Owner], found: Found) -> None:
    """Read what the process keeps: blocks by subject, views by session."""
    by_subject = {owner.subject: owner for owner in owners}
    for (_, subject), memory in api.server.scopes._blocks.items():
        if subject == names.EVERYONE:
            continue
        owner = by_subject.get(subject)
        for part in memory._parts:
            for item in part.items:
                good = owner is not None and item.session in owner.logs
                found.check("item of a cached block is the subject's", good, subject)


async def isolation(arguments: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Try every question on every scope."""
    sets, _ = conversations.read(arguments.data)
    chosen = [one for data in sets for one in data.conversations[: arguments.conversations]]
    assert len(chosen) > 1, "isolation needs two conversations"
    questions = [(at, one.text) for at, talk in enumerate(chosen) for one in talk.questions[: arguments.questions]]
    figures: dict[str, Any] = {"conversations": len(chosen), "questions": len(questions)}
    said = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="standpipe-safety-") as work, stores(arguments, Path(work)) as where:
        with contextlib.redirect_stderr(_Both(said)):
            one_tenant = [Owner(talk, f"subject-{at}") for at, talk in enumerate(chosen)]
            async with where.serving("all", Path(work)) as api:
                await each(one_tenant, lambda owner: _settle(api, owner), lambda: None)
                await no_lag(api.client)
                _say("subjects of one tenant: committed")
                await _questions([(api, owner) for owner in one_tenant], questions, found)
                _caches(api, one_tenant, found)
            many = [Owner(talk, "subject") for talk in chosen]
            async with contextlib.AsyncExitStack() as stack:
                places = [where.serving(f"tenant-{at}", Path(work)) for at in range(len(many))]
                apis = [await stack.enter_async_context(place) for place in places]
                for api, owner in zip(apis, many, strict=True):
                    await _settle(api, owner)
                for api in apis:
                    await no_lag(api.client)
                _say("tenants of their own: committed")
                await _questions(list(zip(apis, many, strict=True)), questions, found)
        log = said.getvalue()
    for owner in one_tenant:
        for turn in owner.conversation.turns:
            for text in turn.texts:
                if len(text) >= 24:
                    found.check("log holds no text", text[:24] not in log, owner.subject)
    figures["log_lines"] = log.count("\n")
    return figures


class _Both(io.TextIOBase):
    """Keeps what is written to stderr."""

    def __init__(self, kept: io.StringIO) -> None:
        self._kept = kept

    def write(self, text: str) -> int:
        self._kept.write(text)
        return len(text)


async def _questions(places: Sequence[tuple[Api, Owner]], questions: Sequence[tuple[int, str]], found: Found) -> None:
    work = []
    for number, (at, text) in enumerate(questions):
        others = [(at + 1 + number + step) % len(places) for step in range(OTHERS)]
        work += [(*places[place], text) for place in sorted({at, *others})]
    await each(work, lambda item: _ask(*item, found), lambda: None)
    _say(f"{len(work)} questions asked")
    trespasses = [
        (api, owner, places[(at + 1 + number) % len(places)][1], text)
        for number, (at, text) in enumerate(questions)
        for api, owner in [places[at]]
        if places[(at + 1 + number) % len(places)][1] is not owner
    ]
    await each(trespasses, lambda item: _trespass(*item, found), lambda: None)


# --- poison ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One attack, or one honest text that looks like one."""

    number: int
    kind: str
    attack: bool
    question: str
    text: str


def _rows(path: Path, count_max: int | None) -> list[Row]:
    raw = json.loads(path.read_text())
    rows = [
        Row(at, one["kind"], one["attack"], one["question"] or one["text"][:2000], one["text"])
        for at, one in enumerate(raw)
        if one["text"].strip()
    ]
    return rows[:: max(1, len(rows) // count_max)] if count_max else rows


async def _commit(api: Api, subject: str, origin: str, row: Row) -> turn_pb2.EventRef:
    """Commit a row by one of the ways into memory; return where it stands."""
    name = f"{subject}.{origin}.{row.number}"
    session = api.client.session(name, subject=subject)
    if origin == "tool":
        call = turn_pb2.TurnEntry(tool_call=turn_pb2.ToolCall(id="c1", name="web_search", arguments_json="{}"))
        result = turn_pb2.TurnEntry(tool_result=turn_pb2.ToolResult(call_id="c1", content=row.text))
        ask = standpipe.user("Please look that up for me.")
        done = await session.commit([ask, call, result], expected_version=0)
        return turn_pb2.EventRef(session_id=name, version=done.version, entry=2)
    if origin == "user":
        done = await session.commit([standpipe.user(row.text)], expected_version=0)
        return turn_pb2.EventRef(session_id=name, version=done.version, entry=0)
    document = fact_pb2.Document(document_id=name, title=f"page {row.number}", text=row.text)
    request = memory_pb2.IngestDocumentsRequest(subject_id=subject, documents=[document])
    (result,) = (await api.memory.IngestDocuments(request, timeout=60)).results
    return turn_pb2.EventRef(session_id=names.document_log(subject, name), version=result.version, entry=0)


async def _claim(api: Api, subject: str, ref: turn_pb2.EventRef, attribute: str, value: str) -> fact_pb2.FactResult:
    fact = fact_pb2.Fact(attribute=attribute, value=value, many=True, sources=[ref])
    request = memory_pb2.RecordFactsRequest(subject_id=subject, request_id=secrets.token_hex(8), facts=[fact])
    (result,) = (await api.memory.RecordFacts(request, timeout=60)).results
    return result


def _fences(bundle: standpipe.Bundle, found: Found, where: str) -> None:
    """Check that every quoted segment stands between an opening and its closing line, and looks like neither."""
    for section in bundle.sections:
        if section.source not in FENCED:
            continue
        first, *quoted, last = section.segments
        found.check("a section is fenced", first.kind == last.kind == bundle_pb2.SEGMENT_KIND_FRAME, where)
        text = "".join(one.header + one.body for one in quoted)
        found.check("what is quoted cannot end its fence", FENCE.search(text) is None, where)


async def poison(arguments: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Try every attack by every way."""
    rows = _rows(arguments.data / "poison.json" if arguments.data.is_dir() else arguments.data, arguments.questions)
    outcomes: dict[str, Counter[str]] = {}
    shown: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="standpipe-safety-") as work, stores(arguments, Path(work)) as where:
        async with where.serving("poisoned", Path(work)) as api:
            refs: dict[tuple[str, int], turn_pb2.EventRef] = {}

            async def commit(origin: str, row: Row) -> None:
                ref = refs[origin, row.number] = await _commit(api, f"from-{origin}", origin, row)
                result = await _claim(api, f"from-{origin}", ref, "note", row.text[:2000])
                outcome = fact_pb2.FactOutcome.Name(result.outcome).removeprefix("FACT_OUTCOME_")
                label = f"{'attack' if row.attack else 'benign'} by {origin}"
                outcomes.setdefault(label, Counter())[outcome] += 1
                for reason in result.reasons:
                    outcomes[label][fact_pb2.HoldReason.Name(reason).removeprefix("HOLD_REASON_")] += 1
                if origin == "user" and row.attack:
                    kind = row.kind.partition(":")[0]
                    outcomes.setdefault(f"{kind} by user", Counter())[outcome] += 1
                if origin != "user":
                    good = result.outcome in {fact_pb2.FACT_OUTCOME_QUARANTINED, fact_pb2.FACT_OUTCOME_REJECTED}
                    found.check("what the user did not say becomes no fact", good, f"{origin} {row.number}")

            work_items = [(origin, row) for row in rows for origin in ("tool", "document", "user")]
            await each(work_items, lambda item: commit(*item), lambda: None)
            await no_lag(api.client)
            _say(f"{len(work_items)} rows committed")

            async def ask(origin: str, row: Row) -> None:
                subject, at = f"from-{origin}", f"{origin} {row.number}"
                bundle = await api.client.session(f"{subject}.asks", subject=subject).hydrate(row.question)
                _fences(bundle, found, at)
                there = words(row.text)[:200]
                for section in bundle.sections:
                    for segment in section.segments:
                        if origin != "user" and segment.citations:
                            asked = segment.role == turn_pb2.ROLE_USER and "look that up" in segment.body
                            trusted = segment.trust >= fact_pb2.TRUST_USER
                            found.check("what the user did not say is not trusted", asked or not trusted, at)
                        if there and there[:60] in words(segment.body):
                            name = bundle_pb2.Source.Name(section.source).removeprefix("SOURCE_").lower()
                            shown[f"{'attack' if row.attack else 'benign'} by {origin} in {name}"] += 1
                            found.check("an attack that is shown is fenced", section.source in FENCED, at)
                    held = section.source in {bundle_pb2.SOURCE_PROFILE, bundle_pb2.SOURCE_FACTS}
                    if origin != "user":
                        found.check("no section of facts", not held, at)

            await each(work_items, lambda item: ask(*item), lambda: None)
            for origin in ("tool", "document"):
                request = memory_pb2.ListBeliefsRequest(subject_id=f"from-{origin}", page_size=1000)
                beliefs = (await api.memory.ListBeliefs(request, timeout=60)).beliefs
                found.check("nothing is believed", not beliefs, origin)
            honest = await _honest(api, rows, found)
    return {"rows": len(rows), "claims": {name: dict(counts) for name, counts in sorted(outcomes.items())}} | {
        "shown": dict(sorted(shown.items())),
        "honest": honest,
    }


async def _honest(api: Api, rows: Sequence[Row], found: Found) -> dict[str, Any]:
    """Record what a user says in the very form of the false facts, beside the poison; all of it must be recalled."""
    chosen = [row for row in rows if row.kind == "false_fact"][:HONEST_PER_RUN]
    held = recalled = 0
    for row in chosen:
        for origin in ("tool", "document"):
            subject = f"from-{origin}"
            said = f"{row.text.strip()} I checked this myself."
            name = f"{subject}.honest.{row.number}"
            done = await api.client.session(name, subject=subject).commit([standpipe.user(said)], expected_version=0)
            ref = turn_pb2.EventRef(session_id=name, version=done.version, entry=0)
            result = await _claim(api, subject, ref, "checked", said[:2000])
            held += result.outcome == fact_pb2.FACT_OUTCOME_HELD
            bundle = await api.client.session(f"{subject}.asks", subject=subject).hydrate(row.question)
            cited = [
                (ref.session_id, ref.version)
                for section in bundle.sections
                if section.source == bundle_pb2.SOURCE_FACTS
                for segment in section.segments
                for ref in segment.citations
            ]
            recalled += (name, done.version) in cited
    found.checks["honest claims"] += 2 * len(chosen)
    return {"claims": 2 * len(chosen), "held": held, "recalled": recalled}


# --- ---------------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


RUNS: dict[str, Callable[[argparse.Namespace, Found], Any]] = {"isolation": isolation, "poison": poison}


def main() -> int:
    """Return 0 if nothing was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--engines", choices=("embedded", "servers"), default="embedded")
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--models-dir", type=Path, default=Path(".cache/models"))
    parser.add_argument("--conversations", type=int, help="the first N of each set")
    parser.add_argument("--questions", type=int, help="the first N of each conversation; of poison, about N rows")
    arguments = parser.parse_args()
    found, started = Found(), time.monotonic()
    figures = asyncio.run(RUNS[arguments.run](arguments, found))
    figures |= {"engines": arguments.engines, "seconds": round(time.monotonic() - started, 1)}
    figures |= {"checks": dict(found.checks), "broken": Counter(one.what for one in found.broken)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"safety-{arguments.run}.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    for one in found.broken[:20]:
        print(f"BROKEN {one.what}: {one.where}")
    return 1 if found.broken or not found.checks else 0


if __name__ == "__main__":
    raise SystemExit(main())
