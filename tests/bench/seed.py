"""Filling stores with turns and memories of a known size: straight into the record store, many at a time."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sidecar import analysis, canonical, limits, recall, view
from sidecar.stores.record import EventKind, NewEvent, Record, Scope, SessionRead, SessionState
from standpipe.v1 import turn_pb2

Count = Callable[[str], int]

_WORDS = (
    "harbour lantern copper meadow ticket saddle violin orchard pepper granite whistle canvas river ladder "
    "button marble forest kettle window anchor feather candle bridge pocket thunder garden mirror blanket "
    "cinnamon compass bicycle notebook ceramic pelican turnip workshop glacier umbrella satchel telescope"
).split()


def note(random_: random.Random, number: int) -> str:
    """Return something to remember, 20 tokens or so; no two are equal."""
    a, b, c = random_.sample(_WORDS, 3)
    return f"We left the {a} beside the {b} and took the {c} home, that was number {number}."


def question(random_: random.Random) -> str:
    """Return something to ask of such notes."""
    a, b = random_.sample(_WORDS, 2)
    return f"Where did we leave the {a} and the {b}, was it number {random_.randrange(10**6)}?"


def words(random_: random.Random, n: int) -> str:
    """Return a text of n words, in sentences of twelve."""
    said = [random_.choice(_WORDS) for _ in range(n)]
    return " ".join(" ".join(said[at : at + 12]).capitalize() + "." for at in range(0, n, 12))


def sized(random_: random.Random, count: Count, label: str, tokens: int) -> str:
    """Return a text that costs exactly so many tokens as a segment under that label."""
    while True:
        text = words(random_, tokens * 2 // 3)
        while (have := count(f"{label}: {text}\n")) < tokens:
            text = text[:-1] + " " + random_.choice(_WORDS) + "."
        while have > tokens and " " in text:
            text = text.rpartition(" ")[0].rstrip(".") + "."
            have = count(f"{label}: {text}\n")
        if have == tokens:
            return text


def turn(*said: tuple[int, str]) -> turn_pb2.Turn:
    """Return a turn of messages: (role, text)."""
    return turn_pb2.Turn(
        entries=[turn_pb2.TurnEntry(message=turn_pb2.Message(role=role, text=text)) for role, text in said]
    )


async def append(
    record: Record, subject: str, session: str, turns: Iterator[turn_pb2.Turn], counters: dict[str, Count]
) -> None:
    """Append turns to a session, in order, as CommitTurn stores them."""
    waiting: list[asyncio.Task] = []
    analysed: dict[int, tuple] = {}  # by identity: some benches say the same few turns over and over
    for number, one in enumerate(turns):
        if id(one) not in analysed:
            at_us = 1_700_000_000_000_000 + number * 60_000_000
            stored = analysis.analyse(one, counters, received_at_us=at_us)
            body = stored.SerializeToString(deterministic=True)
            analysed[id(one)] = (one, body, analysis.weight_bytes(one), analysis.items(stored))
        _, body, weight_bytes, items = analysed[id(one)]
        event = NewEvent(
            tenant="default",
            session=session,
            subject=subject,
            request_id=f"r{number}",
            digest=canonical.sha256((session, number)),
            expected_version=None,
            kind=EventKind.TURN,
            body=body,
            weight_bytes=weight_bytes,
            items=items,
        )
        waiting.append(asyncio.create_task(record.append(event)))
        await asyncio.sleep(0)
        if len(waiting) >= 64 or not number:  # the first asks for what the others then know
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)


async def checkpoint(record: Record, session: str, tokenizer: str, count: Count) -> None:
    """Store the fold of a long session up to where a cold load begins, as commits do on the way."""
    read = SessionRead(
        tenant="default", session=session, tokenizer=tokenizer, known_version=0, at_version=None,
        window_bytes=limits.view_bytes,
    )  # fmt: skip
    (state,) = await record.fetch([read], deadline=time.monotonic() + 600)
    assert isinstance(state, SessionState)
    before = [one for one in state.events if one.weight_end_bytes <= state.head.weight_bytes - limits.view_bytes]
    folded = view.fold(
        view.empty(session=session, subject=state.head.subject, tokenizer=tokenizer), before, count=count
    )
    await record.put_checkpoint("default", view.to_checkpoint(folded))


async def memories(record: Record, subject: str, texts: list[str], counters: dict[str, Count]) -> None:
    """Give a subject memories, 200 a turn, in a session of their own."""
    parts = (texts[at : at + 200] for at in range(0, len(texts), 200))
    turns = (turn(*((turn_pb2.ROLE_USER, text) for text in part)) for part in parts)
    await append(record, subject, f"{subject}.past", turns, counters)


async def embed(record: Record, model_id: str, vectors: np.ndarray) -> None:
    """Give all items that wait for a vector one of these, over and over, each a little turned."""
    noise = np.random.default_rng(7)
    claims = await record.claim(model=model_id, worker="seed", lease_s=600, count_max=1000)
    for scope in (claim.scope for claim in claims):
        at = scope.vector_position
        while at < scope.position:
            n = min(4096, scope.position - at)
            chosen = vectors[np.arange(at, at + n) % len(vectors)]
            chosen = chosen + 0.01 * noise.standard_normal(chosen.shape, np.float32)
            chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
            packed = [recall.pack_vector(*recall.quantise(vector)) for vector in chosen]
            upto = Scope(tenant=scope.tenant, subject=scope.subject, position=scope.position, vector_position=at)
            assert await record.put_vectors(upto, model=model_id, vectors=packed)
            at += n


def by_hand(path: Path, session: str, history: list[dict], texts: list[str], vectors: np.ndarray) -> None:
    """Write the store of the sidecar that is written by hand."""
    with sqlite3.connect(path) as db:
        db.execute("create table session (id text primary key, history text)")
        db.execute("create table memory (id integer primary key, text text, vector blob)")
        db.execute("insert into session values (?, ?)", (session, json.dumps(history)))
        db.executemany(
            "insert into memory (text, vector) values (?, ?)",
            [(text, vector.astype(np.float32).tobytes()) for text, vector in zip(texts, vectors, strict=True)],
        )
    db.close()
