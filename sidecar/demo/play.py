"""Playing a story: every figure comes from a real server, asked through gRPC with the public client.

The server is this process's own, on a loopback port, over stores in a temporary directory. Before each hydrate the
play waits until every turn has its vector, so that what is recalled does not hang on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import standpipe
from sidecar import vault
from sidecar.config import Config
from sidecar.demo.story import Story, Turn
from sidecar.server import Server
from standpipe.errors import Conflict
from standpipe.v1.bundle_pb2 import Source
from standpipe.v1.context_pb2 import Timings
from standpipe.v1.fact_pb2 import Fact, FactOutcome, FactResult, HoldReason
from standpipe.v1.turn_pb2 import EventRef, TurnEntry

ROUTE = "kitchen"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question whose answer was given earlier, and where the bundle had it."""

    question: str
    fact: str
    told: EventRef
    days: int
    """Between telling and asking."""
    turns: int
    source: str
    """The section that quoted it; empty when none did."""
    rank: int
    """Its place among the recalled by score, from 1; 0 elsewhere."""
    score_micros: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A claim, what became of it, and whether the bundle shows it."""

    text: str
    source: EventRef
    outcome: str
    reasons: tuple[str, ...]
    """Why it waits for review."""
    section: str
    """The section that shows it; empty when none does."""


@dataclass(frozen=True, slots=True)
class Race:
    """Two writers at one version: what the loser was told, and how `Session.turn` got through."""

    version: int
    winner: str
    loser: str
    told_version: int | None
    told_winner: str | None
    turn_versions: tuple[int, ...]
    """The versions that `Session.turn` answered from, one an attempt."""
    committed_version: int


@dataclass(frozen=True, slots=True)
class Retry:
    """One commit sent twice under one request id."""

    request_id: str
    first: standpipe.Commit
    second: standpipe.Commit

    @property
    def same(self) -> bool:
        """Whether the second answer was the stored first."""
        stored = (self.second.version, self.second.event_hash, self.second.token, self.second.committed_at)
        first = (self.first.version, self.first.event_hash, self.first.token, self.first.committed_at)
        return self.second.replayed and stored == first


@dataclass(slots=True)
class Played:
    """What happened."""

    story: Story
    turns: int = 0
    provider: str = ""
    bundle: standpipe.Bundle = field(init=False)
    """What answers the story's question."""
    fingerprint_again: str = ""
    """Of the same hydrate, asked once more."""
    replay: standpipe.Replay = field(init=False)
    asked: list[Asked] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    race: Race = field(init=False)
    retry: Retry = field(init=False)
    sent_tokens: int = 0
    """Over all hydrates of the play."""
    transcript_tokens: int = 0
    """What it would have been, had every one carried all that was said before, in all sessions."""
    last_transcript_tokens: int = 0
    """The same for the story's question alone."""
    timings: list[Timings] = field(default_factory=list)
    commits_us: list[int] = field(default_factory=list)
    seconds: float = 0.0
    said: dict[tuple[str, int, int], str] = field(default_factory=dict)
    """The text of every entry, by session, version and entry."""

    @property
    def replay_equal(self) -> bool:
        """Whether the replayed bundle has the bytes of the one that was served."""
        both = (self.bundle.message, self.replay.bundle.message)
        return len({one.SerializeToString(deterministic=True) for one in both}) == 1

    def median_us(self) -> Mapping[str, int]:
        """Return the median time of each phase, in microseconds."""
        phases = ("total_us", "hot_us", "record_us", "embed_us", "rank_us", "render_us")
        medians = {
            name.removesuffix("_us"): round(statistics.median(getattr(one, name) for one in self.timings))
            for name in phases
        }
        return {**medians, "commit": round(statistics.median(self.commits_us))}


async def play(story: Story, *, models_dir: str, embedder: str) -> Played:
    """Play a story. Raises the errors of a server's start: ModelInvalid when a model or tokenizer is missing."""
    with tempfile.TemporaryDirectory(prefix="standpipe-demo-") as folder:
        keys = Path(folder) / "keys"
        keys.touch(mode=0o600)
        keys.write_text(vault.new_line())
        config = Config(
            listen=(f"unix:{Path(folder) / 'socket'}",),  # whatever TLS the environment names, a socket has none
            http="",
            encryption_keys_file=str(keys),
            record=f"sqlite:{Path(folder) / 'demo.db'}",
            models_dir=models_dir,
            embedder=embedder,
            log_level="error",
        )
        async with Server(config) as server, standpipe.connect(server.addresses[0]) as client:
            return await _Player(story, client).play()


class _Player:
    def __init__(self, story: Story, client: standpipe.Client) -> None:
        self._story = story
        self._client = client
        self._told: dict[str, tuple[EventRef, Turn, int]] = {}
        self._done = Played(story)

    async def play(self) -> Played:
        started = time.perf_counter()
        client, done = self._client, self._done
        published = await client.policies.publish(self._story.policy)
        await client.policies.set_route(ROUTE, published.policy.name, published.policy.version)
        done.provider = (await client.server_info()).embedding.provider
        before_tokens = 0
        session = client.session(self._story.sessions[0].id, subject=self._story.subject)
        for chapter in self._story.sessions:
            session = client.session(chapter.id, subject=self._story.subject)
            for turn in chapter.turns:
                bundle = await self._hydrate(session, turn, before_tokens)
                await self._commit(session, turn, bundle)
            if chapter is not self._story.sessions[-1]:
                whole = await session.hydrate(include=["history"], route=ROUTE)
                before_tokens += whole.tax.transcript_tokens if whole.tax else 0
                await session.end("the evening is over")
        results = await self._remember()
        done.bundle = await self._hydrate(session, self._story.question, before_tokens)
        done.recorded = [_recorded(claim, result, done.bundle) for claim, result in results]
        done.fingerprint_again = (await session.hydrate(self._story.question.said, route=ROUTE)).fingerprint
        done.replay = await client.replay(done.bundle.receipt)
        await self._race(session)
        done.seconds = time.perf_counter() - started
        return done

    async def _hydrate(self, session: standpipe.Session, turn: Turn, before_tokens: int) -> standpipe.Bundle:
        while (await self._client.server_info()).projection_lag_items:  # noqa: ASYNC110  # it is behind an API
            await asyncio.sleep(0.002)
        bundle = await session.hydrate(turn.said, route=ROUTE)
        done = self._done
        if bundle.tax and bundle.timings:
            done.sent_tokens += bundle.tokens
            done.last_transcript_tokens = before_tokens + bundle.tax.transcript_tokens
            done.transcript_tokens += done.last_transcript_tokens
            done.timings.append(bundle.timings)
        if turn.asks:
            done.asked.append(self._find(turn, bundle))
        return bundle

    async def _commit(self, session: standpipe.Session, turn: Turn, bundle: standpipe.Bundle) -> None:
        started = time.perf_counter_ns()
        commit = await session.commit(turn.entries, bundle=bundle)
        done = self._done
        done.commits_us.append((time.perf_counter_ns() - started) // 1000)
        for index, entry in enumerate(turn.entries):
            done.said[session.id, commit.version, index] = _words(entry)
        if turn.fact:
            ref = EventRef(session_id=session.id, version=commit.version, entry=0)
            self._told[turn.fact] = (ref, turn, done.turns)
        done.turns += 1

    async def _remember(self) -> list[tuple[Fact, FactResult]]:
        """Record what the application makes of the story; return the claims with what became of them."""
        memory, made = self._client.memory(self._story.subject), self._story.memory
        await memory.put_profile(made.profile)
        claims = []
        for claim in made.claims:
            told, turn, _ = self._told[claim.source]
            entry = next((at for at, one in enumerate(turn.entries) if one.HasField("tool_result")), 0)
            source = standpipe.source(told.session_id, told.version, entry if claim.tool else 0)
            claims.append(standpipe.fact(claim.attribute, claim.value, source, pinned=claim.pinned))
        results = await memory.remember(*claims)
        document = made.document
        ingested = standpipe.document(document["id"], document["text"], title=document["title"])
        await memory.ingest(ingested)
        return list(zip(claims, results, strict=True))

    def _find(self, turn: Turn, bundle: standpipe.Bundle) -> Asked:
        """Look for the turn that told the fact among the bundle's citations."""
        ref, told, at = self._told[turn.asks]
        source, rank, score = "", 0, 0
        for section in bundle.sections:
            scores = sorted((segment.score_micros for segment in section.segments), reverse=True)
            for segment in section.segments:
                if ref in segment.citations and not source:
                    source = Source.Name(section.source).removeprefix("SOURCE_").lower()
                    score = segment.score_micros
                    rank = scores.index(score) + 1 if section.source == Source.SOURCE_RECALL else 0
        days, turns = (turn.at - told.at).days, self._done.turns - at
        return Asked(turn.said, told.said, ref, days, turns, source, rank, score)

    async def _race(self, laptop: standpipe.Session) -> None:
        """Let another device win a version, twice: before a bare commit, and in the middle of `Session.turn`."""
        phone = self._client.session(laptop.id, subject=laptop.subject)
        question, (first, second) = self._story.question, self._story.phone
        seen, raced = await asyncio.gather(laptop.hydrate(route=ROUTE), phone.hydrate(route=ROUTE))
        won = await phone.commit(first.entries, bundle=raced, request_id="phone-1")
        told_version, told_winner = None, None
        try:
            await laptop.commit(question.entries, bundle=seen, request_id="laptop-1")
        except Conflict as conflict:
            told_version, told_winner = conflict.current_version, conflict.winner_request_id
        versions: list[int] = []

        async def answer(bundle: standpipe.Bundle) -> tuple[TurnEntry, ...]:
            versions.append(bundle.version)
            if len(versions) == 1:
                await phone.commit(second.entries, expected_version=bundle.version, request_id="phone-2")
            return question.reply

        commit, _ = await laptop.turn(question.said, answer, route=ROUTE)
        self._done.race = Race(
            seen.version, "phone-1", "laptop-1", told_version, told_winner, tuple(versions), commit.version
        )
        again = await phone.commit(first.entries, bundle=raced, request_id="phone-1")
        self._done.retry = Retry("phone-1", won, again)


def _recorded(claim: Fact, result: FactResult, bundle: standpipe.Bundle) -> Recorded:
    shown = [
        Source.Name(section.source).removeprefix("SOURCE_").lower()
        for section in bundle.sections
        for segment in section.segments
        if segment.citations and segment.citations[0] == result.fact
    ]
    return Recorded(
        text=f"{claim.attribute}: {claim.value}",
        source=claim.sources[0],
        outcome=FactOutcome.Name(result.outcome).removeprefix("FACT_OUTCOME_").lower(),
        reasons=tuple(HoldReason.Name(one).removeprefix("HOLD_REASON_").lower() for one in result.reasons),
        section="".join(shown),
    )


def _words(entry: TurnEntry) -> str:
    return entry.message.text or entry.tool_result.content or entry.tool_call.arguments_json
