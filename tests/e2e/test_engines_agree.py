"""The same conversations on every pair of engines: what they serve is the same to the byte (P6, P7)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from google.protobuf import timestamp_pb2
from numpy.typing import NDArray

from sidecar.embed import Embedder, Shape, Tokens
from standpipe.v1 import context_pb2, turn_pb2
from tests.e2e.pods import HISTORY, RECALL, SUMMARY, Local, exact, section, serving, until
from tests.e2e.talk import a_turn, a_wish, publish
from tests.servers import Postgres, Redis

CHAPTERS = 8
TURNS = 30
WISHES = 5
_FRESH = context_pb2.Consistency(fully_consistent=True)


@dataclass
class Deployment:
    """A pair of engines of its own, a pod that commits and reads, and one that only reads."""

    settings: dict[str, Any]
    embedder: Embedder
    redis: Redis | None
    writer: Local
    reader: Local

    @contextlib.asynccontextmanager
    async def restarted(self) -> AsyncIterator[Local]:
        """Serve by a pod that has seen nothing yet."""
        async with serving(Path(), embedder=self.embedder, **self.settings) as pod:
            yield pod


@pytest_asyncio.fixture
async def deployments(
    tmp_path: Path, embedder: Embedder, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Deployment]]:
    """All four pairs of engines. What is said on one is said on all: it is embedded once."""
    run, known = embedder.run, {}

    def remembered(texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        key = b"".join(text.tobytes() for text in texts)
        if key not in known:
            known[key] = run(texts, shape)
        return known[key]

    monkeypatch.setattr(embedder, "run", remembered)
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for record in ("sqlite", "postgresql"):
            for hot in ("memory", "redis"):
                settings = {"record": f"sqlite:{tmp_path / hot}.db", "hot": hot}
                redis = None
                if record == "postgresql":
                    name = await asyncio.to_thread(postgres_server.create_database)
                    stack.callback(postgres_server.drop_database, name)
                    settings["record"] = postgres_server.dsn(name)
                if hot == "redis":
                    redis = Redis()
                    stack.callback(redis.close)
                    await asyncio.to_thread(redis.start)
                    settings["hot"] = redis.url
                writer, reader = [
                    await stack.enter_async_context(serving(Path(), embedder=embedder, **settings)) for _ in range(2)
                ]
                found.append(Deployment(settings, embedder, redis, writer, reader))
        yield found


def _dated(entries: list[turn_pb2.TurnEntry]) -> list[turn_pb2.TurnEntry]:
    """Give every message a time: what has none was said when it came in, which is another moment for each store."""
    for entry in entries:
        if entry.HasField("message") and not entry.message.HasField("spoken_at"):
            entry.message.spoken_at.CopyFrom(timestamp_pb2.Timestamp(seconds=1_750_000_000))
    return entries


async def _ask(pod: Local, wish: dict[str, Any]) -> bytes:
    """Return what a pod serves, after it has come again from its receipt.

    A pod that had no time for all of it says so (P12), and is asked again: that is no other view of what is stored.
    """
    answer = context_pb2.HydrateContextResponse()

    async def whole() -> bool:
        answer.CopyFrom(await pod.hydrate(**wish))
        return not answer.degraded

    await until(whole)
    assert exact((await pod.replay(answer.receipt)).bundle) == exact(answer.bundle), wish
    return exact(answer.bundle)


async def _tell(one: Deployment, script: list[tuple[str, str]], said: list[list[turn_pb2.TurnEntry]]) -> None:
    """Commit turns, and wait until they are embedded."""
    for (session, name), entries in zip(script, said, strict=True):
        await one.writer.append(session, name, *entries)
    await one.writer.embedded()


async def _ask_all(one: Deployment, wishes: list[dict[str, Any]]) -> list[bytes]:
    """Return what every pod of a deployment serves: the one that commits, then without a hot store, others, a new."""
    first = [await _ask(one.writer, wish) for wish in wishes]
    if one.redis is not None:
        await asyncio.to_thread(one.redis.flush)
        assert [await _ask(one.writer, wish) for wish in wishes] == first, one.settings
    async with one.restarted() as new:
        for pod in (one.reader, new):
            assert [await _ask(pod, wish) for wish in wishes] == first, one.settings
    return first


@pytest.mark.timeout(600)
async def test_all_engines_serve_the_same_bundles(deployments: list[Deployment]) -> None:
    """Four pairs of engines serve one sequence of bundles: through pods warm, behind, flushed and new (P6, P7, P9)."""
    dice = random.Random(31)
    sources: dict[int, int] = dict.fromkeys((SUMMARY, HISTORY, RECALL), 0)
    served = 0
    for one in deployments:
        await publish(one.writer)
    for chapter in range(CHAPTERS):
        script = [(f"s{dice.randrange(3)}", f"c{chapter}-{number}") for number in range(TURNS)]
        said = [_dated(a_turn(dice, name)) for _, name in script]
        wishes = [a_wish(dice) for _ in range(WISHES)] + [{**a_wish(dice), "consistency": _FRESH}]

        await asyncio.gather(*(_tell(one, script, said) for one in deployments))
        first, *others = await asyncio.gather(*(_ask_all(one, wishes) for one in deployments))
        for one, other in zip(deployments[1:], others, strict=True):
            for wish, here, there in zip(wishes, first, other, strict=True):
                assert here == there, (one.settings, wish)
        for wish in wishes:
            bundle = (await deployments[0].writer.hydrate(**wish)).bundle
            for source in sources:
                sources[source] += section(bundle, source) is not None
        served += len(first)
    print(f"{served} bundles, the same on {len(deployments)} pairs of engines; with each source: {sources}")
    assert min(sources.values()) > served / 6, sources
