"""A coherent hot store against a plain model: random interleavings of committers, readers, losses and time.

The model is the log's version, and `seen`: the newest version that anybody was told of. Whoever then takes a tail for
the newest must see no less (P4), whatever was evicted, whoever died, in whatever order publishes arrive. Then each
protection in the scripts is taken out, one by one: the same model must see the stale read that it prevents.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from sidecar.stores.hot import HotKey, Ticket
from sidecar.stores.record import Checkpoint, EventKind, Head, SessionState, StoredEvent
from sidecar.stores.redis import RedisHot, Script, key_of
from tests.servers import Redis

GRANT = 1
LASTS_MS = 3_600_000
_sessions = itertools.count(1)


@dataclass(frozen=True)
class Shown:
    """A view of which only the version matters."""

    version: int
    nbytes: int = 100


@dataclass
class Writer:
    """A commit under way in a pod."""

    pod: int
    mark: str
    ticket: Ticket
    version: int = 0
    """Of what it appended; 0 before."""
    late: bool = False
    """Whether its mark's time has passed: it can append no more."""


@dataclass
class Reader:
    """A hydrate under way in a pod, which the hot store could not answer."""

    pod: int
    ticket: Ticket
    known: int
    state: SessionState | None = None


@dataclass
class World:
    """The server, and the pods that all examples use."""

    server: Redis
    runner: asyncio.Runner
    pods: list[RedisHot[Shown]]
    raw: Any = field(init=False)

    def __post_init__(self) -> None:
        self._client = self.server.client()
        self.raw = self._client.__enter__()

    def close(self) -> None:
        """End the pods' connections."""
        for pod in self.pods:
            self.runner.run(pod.close())
        self._client.__exit__(None, None, None)


class HotMachine(RuleBasedStateMachine):
    """One session; two pods."""

    writers = Bundle("writers")
    readers = Bundle("readers")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.session = f"s-{next(_sessions)}"
        self.raw_key = key_of("acme", self.session).decode()
        self.version = 0
        self.seen = 0
        self.marked = (0, "")
        """The newest version that was appended under a mark of a life, and that life: nobody sees less meanwhile."""
        self.open: list[Writer] = []
        self.serial = itertools.count(1)

    # --- committers ---

    @rule(target=writers, pod=st.integers(0, 1))
    def announce(self, pod: int) -> Writer:
        """Announce a commit."""
        mark = f"m-{next(self.serial)}"
        ticket = self.run(self.world.pods[pod].announce("acme", self.session, mark=mark, lasts_ms=LASTS_MS))
        self.open.append(Writer(pod, mark, ticket))
        return self.open[-1]

    @rule(writer=writers)
    def append(self, writer: Writer) -> None:
        """Append to the log, unless that was done, or the time for it has passed."""
        if not writer.version and not writer.late:
            self.version += 1
            writer.version = self.version
            if self.life() == writer.ticket.life:
                self.marked = (self.version, writer.ticket.life)

    @rule(writer=consumes(writers))
    def acknowledge(self, writer: Writer) -> None:
        """Publish what was appended, or take the mark back and say which version was met; then answer."""
        pod = self.world.pods[writer.pod]
        if writer.version:
            state = self.state(writer.version - 1, writer.version)
            self.run(pod.publish("acme", self.session, state, ticket=writer.ticket, grant=GRANT, mark=writer.mark))
            self.seen = max(self.seen, writer.version)
        else:
            self.run(pod.withdraw("acme", self.session, ticket=writer.ticket, mark=writer.mark, version=self.version))
            self.seen = self.version

    @rule(pod=st.integers(0, 1))
    def commit(self, pod: int) -> None:
        """Do all of a commit."""
        writer = self.announce(pod)
        self.append(writer)
        self.acknowledge(writer)

    @rule(writer=consumes(writers))
    def die(self, writer: Writer) -> None:
        """The pod is killed between two steps."""

    @rule(writer=consumes(writers))
    def abandon(self, writer: Writer) -> None:
        """Take the mark back without saying anything, if nothing was appended."""
        if not writer.version:
            pod = self.world.pods[writer.pod]
            self.run(pod.withdraw("acme", self.session, ticket=writer.ticket, mark=writer.mark, version=0))

    # --- readers ---

    @rule(target=readers, pod=st.integers(0, 1), reads=st.booleans(), cold=st.booleans())
    def look(self, pod: int, reads: bool, cold: bool) -> Reader:
        """Fetch; whoever may take the tail for the newest sees no less than anybody was told of.

        Whoever may not, or holds no lease, goes on to the record store, now or later.
        """
        hot = self.world.pods[pod]
        found = self.run(hot.fetch(self.key))
        shown = found.view.version if found.view else 0
        if found.gained is not None:
            assert found.gained.after_version == shown or found.gained.checkpoint or found.gained.after_version == 0
            numbers = range(found.gained.after_version + 1, found.gained.head.version + 1)
            assert [(event.version, event.body) for event in found.gained.events] == [
                (number, self.body(number)) for number in numbers
            ]
            shown = max(shown, found.gained.head.version)
            hot.keep(self.key, Shown(shown))
        assert found.version <= self.version
        if found.grant == GRANT and shown == found.version > 0:
            marked, life = self.marked
            assert shown >= self.seen, "stale"
            assert shown >= marked or life != found.ticket.life, "stale: appended under a mark that stands"
            self.seen = max(self.seen, shown)
        reader = Reader(pod, found.ticket, shown)
        if reads:
            self.read(reader, cold)
        return reader

    @rule(reader=readers, cold=st.booleans())
    def read_later(self, reader: Reader, cold: bool) -> None:
        """Read the record store, unless that was done."""
        if reader.state is None:
            self.read(reader, cold)

    def read(self, reader: Reader, cold: bool) -> None:
        """Read the record store behind a view, or cold."""
        if self.version:
            after = max(0, self.version - 3) if cold else reader.known
            reader.state = self.state(after, self.version, checkpoint=cold and after > 0)

    @rule(reader=consumes(readers))
    def share(self, reader: Reader) -> None:
        """Publish what was read; then answer."""
        if reader.state is not None:
            hot, version = self.world.pods[reader.pod], reader.state.head.version
            self.run(hot.publish("acme", self.session, reader.state, ticket=reader.ticket, grant=GRANT))
            hot.keep(self.key, Shown(version))
            self.seen = max(self.seen, version)

    # --- what happens to stores ---

    @rule()
    def evict(self) -> None:
        """Lose the entry."""
        self.world.raw.delete(self.raw_key)

    @rule(pod=st.integers(0, 1))
    def forget_views(self, pod: int) -> None:
        """A pod loses what it holds."""
        self.run(self.world.pods[pod]._views.forget("acme", self.session))

    @rule()
    def time_passes(self) -> None:
        """The time of every mark passes."""
        marks = self.world.raw.hget(self.raw_key, "marks")
        for writer in self.open:
            writer.late = True
        if marks:
            time.sleep(0.002)
            seconds, micros = self.world.raw.time()
            self.world.raw.hset(self.raw_key, "marks", re.sub(r"[0-9]+=", f"{seconds * 1000 + micros // 1000}=", marks))
            time.sleep(0.002)

    @invariant()
    def an_entry_is_consistent(self) -> None:
        """Its interval is one, its version in it or beyond, its events are there and count as many bytes."""
        entry = self.world.raw.hgetall(self.raw_key)
        if entry:
            after, top, version = (int(entry[name]) for name in ("after", "top", "version"))
            assert after <= top <= version <= self.version
            events = {int(name[1:]): len(body) for name, body in entry.items() if re.fullmatch(r"e[0-9]+", name)}
            assert sorted(events) == list(range(after + 1, top + 1))
            size = sum(events.values()) + 64 * len(events) + sum(len(entry[n]) for n in entry if n.startswith("c "))
            assert size == int(entry["bytes"])
            assert self.world.raw.pttl(self.raw_key) > 0

    # --- the model ---

    @property
    def key(self) -> HotKey:
        """The session, as one tokenizer counts it."""
        return HotKey("acme", self.session, "words")

    def run(self, call: Any) -> Any:
        """Run a call of a pod."""
        return self.world.runner.run(call)

    def life(self) -> str:
        """Return the entry's life, as it is stored."""
        return self.world.raw.hget(self.raw_key, "life") or ""

    @staticmethod
    def body(version: int) -> bytes:
        """Return what the log has at a version."""
        return b"%d" % version * (20 if version % 5 else 300)

    def state(self, after: int, to: int, *, checkpoint: bool = False) -> SessionState:
        """Return what the record store answers."""
        events = [
            StoredEvent(
                session=self.session,
                version=number,
                kind=EventKind.TURN,
                request_id="",
                committed_at_us=number,
                body=self.body(number),
                previous_hash=b"",
                event_hash=b"",
                weight_end_bytes=number,
                position_end=number,
            )
            for number in range(after + 1, to + 1)
        ]
        head = Head(
            session=self.session,
            subject="ana",
            version=to,
            event_hash=bytes(32),
            ended=False,
            weight_bytes=to,
            position_end=to,
            created_at_us=0,
            updated_at_us=to,
        )
        fold = Checkpoint(session=self.session, tokenizer="words", version=after, weight_bytes=after, body=b"fold")
        return SessionState(head=head, checkpoint=fold if checkpoint else None, events=events, after_version=after)


@pytest.fixture
def world(redis_server: Redis) -> Iterator[World]:
    """Two pods on an empty server; a tail holds a few events."""
    with asyncio.Runner() as runner:

        async def make() -> list[RedisHot[Shown]]:
            address = f"redis+unix://{redis_server.socket}"
            return [RedisHot(address, timeout_ms=10_000, session_bytes_max=1000) for _ in range(2)]

        one = World(redis_server, runner, runner.run(make()))
        yield one
        one.close()


def search(world: World, *, examples: int) -> None:
    """Run the machine."""
    run_state_machine_as_test(
        lambda: HotMachine(world),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        ),
    )


def play(machine: HotMachine, story: str) -> None:
    """Take the steps of a story: "R=read" and "A=announce" begin a reader and a writer, "share R" goes on with it."""
    who: dict[str, Any] = {}
    for step in story.split("; "):
        name, begins, what = step.rpartition("=")
        if begins:
            who[name] = machine.announce(0) if what == "announce" else machine.look(0, True, False)
        elif " " in step:
            does, name = step.split(" ")
            getattr(machine, does)(who[name])
        elif step == "look":
            machine.look(0, False, False)
        elif step == "commit":
            machine.commit(1)
        else:
            getattr(machine, step)()


def test_no_interleaving_shows_a_stale_view(world: World) -> None:
    """Whatever order commits, reads, deaths, evictions and expiries come in, a trusted tail is the newest (P4)."""
    search(world, examples=100)


ONLY_ITS_LIFE = [("entry.life ~= ARGV[2] or ", "")]
NOTHING_REMOVED = [("    redis.call('DEL', key)\n    return", "    return")]
THE_LAST_TO_COME = [("math.max(entry.version, top)", "top"), ("math.max(entry.top, top)", "top")]
NOT_RAISED = [("math.max(entry.version, tonumber(ARGV[4]))", "entry.version")]
NO_MARKS = [("entry.marks == '' and ", "")]
ALL_MARKS = [("unmarked(entry.marks, ARGV[4], tonumber(ARGV[3]))", "''")]
WHEN_IT_COMES = [("ARGV[4], tonumber(ARGV[3]))", "ARGV[4], now_ms)")]


@pytest.mark.parametrize(
    ("script", "changes", "story"),
    [
        ("publish", ONLY_ITS_LIFE, "commit; R=read; commit; evict; look; share R; look"),
        ("publish", NOTHING_REMOVED, "commit; A=announce; evict; R=read; append A; acknowledge A; share R; look"),
        (
            "withdraw",
            NOTHING_REMOVED,
            "commit; A=announce; B=announce; evict; R=read; append A; acknowledge B; share R; look",
        ),
        ("publish", THE_LAST_TO_COME, "commit; R=read; commit; share R; look"),
        (
            "withdraw",
            NOT_RAISED,
            "commit; A=announce; evict; R=read; append A; die A; B=announce; acknowledge B; share R; look",
        ),
        ("fetch", NO_MARKS, "commit; A=announce; append A; look"),
        ("publish", ALL_MARKS, "commit; A=announce; R=read; append A; share R; look"),
        ("publish", WHEN_IT_COMES, "commit; A=announce; R=read; append A; die A; time_passes; share R; look"),
    ],
    ids=["life", "publish removes", "withdraw removes", "newest stays", "met version", "marks", "own mark", "asked at"],
)
def test_each_protection_is_needed(world: World, script: str, changes: list[tuple[str, str]], story: str) -> None:
    """Each protection has a story that ends well with it, and with a stale read without it (P4)."""
    play(HotMachine(world), story)
    text = Script.load(script).text
    for protection, without in changes:
        assert text.count(protection) == 1
        text = text.replace(protection, without)
    for pod in world.pods:
        pod._scripts[script] = Script(text)
    with pytest.raises(AssertionError, match="stale"):
        play(HotMachine(world), story)
