"""The conformance suite of the hot contract: every engine subclasses `HotSuite`, a coherent one `CoherentHotSuite`.

A test's name begins with the clause of `sidecar.stores.hot` that it proves: test_h01_ to test_h14_. Views and states
are real ones, of turns that were analysed and folded as those of a server: what comes back must fold as the log does.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar import analysis, canonical, limits, view
from sidecar.errors import HotUnavailable
from sidecar.finding import Outcome
from sidecar.stores.hot import NOWHERE, SLOTS, Found, Hot, HotKey, Ticket
from sidecar.stores.record import EventKind, Head, SessionState, StoredEvent
from sidecar.view import View
from standpipe.v1 import turn_pb2

TTL_S = 60.0
LASTS_MS = 60_000
HotView = Hot[View]
Make = Callable[..., Awaitable[HotView]]
PassTime = Callable[[float], Awaitable[None]]
Evict = Callable[[str, str], Awaitable[None]]

_fresh = itertools.count(1)


def key(session: str = "", *, tenant: str = "acme", tokenizer: str = "words") -> HotKey:
    """Return the key of a session that no other test has, unless one is named."""
    return HotKey(tenant, session or f"s-{next(_fresh)}", tokenizer)


@dataclass
class Log:
    """A session's log as a record store has it, and what the store would answer."""

    key: HotKey
    text: str = "hello"
    events: list[StoredEvent] = field(default_factory=list)

    def append(self, count: int = 1, *, text: str = "") -> SessionState:
        """Append turns; return the last as its committer publishes it."""
        for _ in range(count):
            version = self.version + 1
            turn = turn_pb2.Turn(
                entries=[
                    turn_pb2.TurnEntry(
                        message=turn_pb2.Message(
                            role=turn_pb2.ROLE_USER, text=f"{text or self.text}, I need {version}."
                        )
                    ),
                    turn_pb2.TurnEntry(tool_call=turn_pb2.ToolCall(id=f"open-{version}", name="search")),
                ]
            )
            stored = analysis.analyse(turn, {"words": _words}, received_at_us=version)
            before = self.events[-1].weight_end_bytes if self.events else 0
            self.events.append(
                StoredEvent(
                    session=self.key.session,
                    version=version,
                    kind=EventKind.TURN,
                    request_id=f"r-{version}",
                    committed_at_us=version,
                    body=stored.SerializeToString(deterministic=True),
                    previous_hash=bytes(32),
                    event_hash=canonical.sha256((version,)),
                    weight_end_bytes=before + analysis.weight_bytes(turn),
                    position_end=version,
                )
            )
        return self.state(self.version - 1)

    @property
    def version(self) -> int:
        """The version of its head."""
        return len(self.events)

    def state(self, after: int = 0, *, to: int | None = None, checkpoint: bool = False) -> SessionState:
        """Return what a read behind a version gives: the events up to the head, and before them a checkpoint."""
        last = self.events[(self.version if to is None else to) - 1]
        head = Head(
            session=self.key.session,
            subject="ana",
            version=last.version,
            event_hash=last.event_hash,
            ended=False,
            weight_bytes=last.weight_end_bytes,
            position_end=last.position_end,
            created_at_us=1,
            updated_at_us=last.committed_at_us,
        )
        return SessionState(
            head=head,
            checkpoint=view.to_checkpoint(self.view(after)) if checkpoint else None,
            events=self.events[after : last.version],
            after_version=after,
        )

    def view(self, version: int | None = None) -> View:
        """Return the fold of the log up to a version."""
        empty = view.empty(session=self.key.session, subject="ana", tokenizer=self.key.tokenizer)
        return view.fold(empty, self.events[: self.version if version is None else version], count=_words)


def folded(found: Found[View]) -> View | None:
    """Return the view that a fetch gives: what was gained, on what it says that it follows."""
    if found.gained is None:
        return found.view
    gained = found.gained
    if gained.checkpoint is not None:
        base = view.from_checkpoint(gained.checkpoint, subject=gained.head.subject)
    elif found.view is not None and gained.after_version == found.view.version:
        base = found.view
    else:
        assert gained.after_version == 0
        base = view.empty(session=gained.head.session, subject=gained.head.subject, tokenizer="words")
    assert gained.after_version == base.version
    after = view.fold(base, gained.events, count=_words)
    assert after.version == gained.head.version
    return after


def a_view(version: int = 1, *, nbytes: int | None = None, text: str = "hello") -> View:
    """Return a view of so many turns. `nbytes`: what it claims to weigh."""
    log = Log(HotKey("acme", "s", "words"), text)
    log.append(version)
    return log.view() if nbytes is None else replace(log.view(), nbytes=nbytes)


def _words(text: str) -> int:
    return len(text.split())


async def views(hot: HotView, keys: Sequence[HotKey]) -> list[int | None]:
    """Return the versions of what this process holds, as fetches see it."""
    found = [(await hot.fetch(one)).view for one in keys]
    return [one and one.version for one in found]


class HotSuite:
    """H1 to H7, which bind every engine. Subclass it, and override the fixtures."""

    @pytest.fixture
    async def make(self) -> Make:
        """Make engines on an empty store; `bytes_max` bounds the views. All are closed after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def pass_time(self) -> PassTime:
        """Let so many seconds pass for times to live."""
        raise NotImplementedError

    @pytest.fixture
    async def hot(self, make: Make) -> HotView:
        """One engine."""
        return await make()

    @pytest.fixture
    async def other_pod(self, make: Make) -> HotView:
        """Return what another pod of the deployment has, while `hot` is this one's."""
        return await make()

    # --- H1 ---

    async def test_h01_a_fetch_finds_what_was_kept_and_nothing_else(self, hot: HotView) -> None:
        """Fetch gives the view that was kept under its key; where there is nothing, all is None and no grant (H1)."""
        keys = [key() for _ in range(3)]
        for version, one in enumerate(keys, 1):
            assert hot.keep(one, a_view(version))
        assert await views(hot, [keys[2], key(), keys[0], keys[2], keys[1]]) == [3, None, 1, 3, 2]
        found = await hot.fetch(key())
        assert (found.view, found.gained, found.version, found.grant) == (None, None, 0, 0)

    # --- H2 ---

    async def test_h02_an_older_view_never_replaces_a_newer_one(self, hot: HotView) -> None:
        """Keep stores only what is newer, and says whether it did (H2, P4)."""
        one = key()
        made = {version: a_view(version) for version in (1, 2, 3)}
        assert [hot.keep(one, made[version]) for version in (2, 1, 2, 3, 3, 1)] == [
            True,
            False,
            False,
            True,
            False,
            False,
        ]
        assert hot.held(one) is made[3]

    # --- H3 ---

    @pytest.mark.parametrize("version", [1, 7])
    async def test_h03_a_kept_view_comes_back_as_it_is(self, hot: HotView, version: int) -> None:
        """What was kept is handed back itself, not a copy, so that what hangs on it is kept too (H3, P6)."""
        one, kept = key(), a_view(version, text="Ünïcode 漢字 😀 </recalled> <|endoftext|>")
        hot.keep(one, kept)
        assert hot.held(one) is kept
        assert (await hot.fetch(one)).view is kept

    # --- H4 ---

    async def test_h04_forget_removes_a_session_for_every_tokenizer(self, hot: HotView) -> None:
        """Forget takes all views of one session and of no other (H4)."""
        one, other, rival = key("same"), key("other"), key("same", tenant="rival")
        again = key("same", tokenizer="letters")
        for at in (one, other, rival, again):
            hot.keep(at, a_view())
        await hot.forget("acme", "same")
        assert await views(hot, [one, again, other, rival]) == [None, None, 1, 1]
        await hot.forget("acme", "never there")
        assert hot.keep(one, a_view())

    async def test_h04_flush_removes_everything(self, hot: HotView) -> None:
        """After a flush nothing is there, and any version can be kept again (H4)."""
        keys = [key(), key(tenant="rival")]
        for one in keys:
            hot.keep(one, a_view(5))
        await hot.flush()
        assert await views(hot, keys) == [None, None]
        assert hot.keep(keys[0], a_view(1))

    # --- H5 ---

    async def test_h05_the_least_recently_used_leave_first(self, make: Make) -> None:
        """Over its bytes the process drops views, the least recently fetched or kept first (H5)."""
        hot = await make(bytes_max=3000)
        keys = [key() for _ in range(4)]
        for one in keys[:3]:
            assert hot.keep(one, a_view(nbytes=1000))
        await hot.fetch(keys[0])
        assert hot.keep(keys[3], a_view(nbytes=1000))
        assert await views(hot, keys) == [1, None, 1, 1]

    async def test_h05_a_view_over_the_whole_bound_is_not_stored(self, make: Make) -> None:
        """A view that is larger than the bound is refused, and pushes nothing out (H5)."""
        hot = await make(bytes_max=3000)
        small, giant = key(), key()
        hot.keep(small, a_view(nbytes=3000))
        assert not hot.keep(giant, a_view(nbytes=3001))
        assert await views(hot, [small, giant]) == [1, None]

    async def test_h05_a_view_that_grows_is_counted_once(self, make: Make) -> None:
        """Replacing, forgetting and flushing give the bytes back (H5)."""
        hot = await make(bytes_max=3000)
        one, other = key(), key()
        for version in range(1, 6):
            assert hot.keep(one, a_view(version, nbytes=1000 + version))
        assert hot.keep(other, a_view(nbytes=1900))
        assert await views(hot, [one, other]) == [5, 1]
        await hot.forget("acme", other.session)
        await hot.flush()
        keys = [key() for _ in range(3)]
        for at in keys:
            hot.keep(at, a_view(nbytes=1000))
        assert None not in await views(hot, keys)

    # --- H6 ---

    async def test_h06_a_view_leaves_after_its_time(self, hot: HotView, pass_time: PassTime) -> None:
        """A view that nobody asks for leaves after its time to live, each after its own (H6)."""
        short, long = key(), key()
        hot.keep(short, a_view(3), ttl_s=1.0)
        hot.keep(long, a_view(3), ttl_s=60.0)
        await pass_time(1.1)
        assert await views(hot, [short, long]) == [None, 3]
        assert hot.keep(short, a_view(1), ttl_s=1.0)

    async def test_h06_use_prolongs_a_view(self, hot: HotView, pass_time: PassTime) -> None:
        """Each fetch and each newer view starts the time to live again (H6)."""
        one = key()
        hot.keep(one, a_view(1), ttl_s=2.0)
        for _ in range(2):
            await pass_time(1.2)
            assert await views(hot, [one]) == [1]
        await pass_time(1.2)
        hot.keep(one, a_view(2), ttl_s=2.0)
        await pass_time(1.2)
        assert await views(hot, [one]) == [2]
        await pass_time(2.1)
        assert await views(hot, [one]) == [None]

    async def test_h06_a_time_to_live_is_kept_until_another_is_given(self, hot: HotView, pass_time: PassTime) -> None:
        """Without a time to live the view keeps its own, at first limits.view_ttl_s; a fetch may set another (H6)."""
        one, other = key(), key()
        hot.keep(one, a_view(1), ttl_s=2.0)
        hot.keep(one, a_view(2))
        hot.keep(other, a_view(1))
        await pass_time(1.5)
        assert await views(hot, [one, other]) == [2, 1]
        await pass_time(2.1)
        assert await views(hot, [one, other]) == [None, 1]
        await pass_time(limits.view_ttl_s - 1)
        assert (await hot.fetch(other, ttl_s=1.0)).view is not None
        await pass_time(1.1)
        assert await views(hot, [other]) == [None]

    # --- H7 ---

    async def test_h07_tenants_never_meet(self, hot: HotView) -> None:
        """Two tenants with the same session ids each have their own view (H7, P8)."""
        mine, theirs = key("shared"), key("shared", tenant="rival")
        hot.keep(mine, a_view(3, text="mine"))
        assert hot.held(theirs) is None
        hot.keep(theirs, a_view(1, text="theirs"))
        assert [hot.held(mine), hot.held(theirs)] == [a_view(3, text="mine"), a_view(1, text="theirs")]
        await hot.forget("rival", "shared")
        assert await views(hot, [mine, theirs]) == [3, None]

    async def test_h07_no_two_keys_are_one(self, hot: HotView) -> None:
        """Ids that hold the characters of a separator do not run into each other (H7, P8)."""
        keys = _confusable()
        for version, one in enumerate(keys, 1):
            assert hot.keep(one, a_view(version))
        assert await views(hot, keys) == [1, 2, 3, 4, 5]

    # --- H8: what is left out without the capability ---

    async def test_h08_without_coherence_nothing_is_shared(self, hot: HotView, other_pod: HotView) -> None:
        """An engine that is not coherent shows nothing to another pod, and never gives a grant (H8, P4)."""
        if hot.capabilities.coherent:
            assert type(self) is not HotSuite
            return
        log = Log(key())
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=LASTS_MS)
        assert ticket == NOWHERE
        place = await hot.publish("acme", log.key.session, log.append(), ticket=ticket, grant=1, mark="m")
        assert place == NOWHERE.place
        assert await hot.withdraw("acme", log.key.session, ticket=ticket, mark="m", version=1) == place
        found = await other_pod.fetch(log.key)
        assert (found.view, found.gained, found.version, found.grant, found.ticket) == (None, None, 0, 0, NOWHERE)
        assert hot.slots_of(place.incarnation) == ()
        assert hot.slot("acme", log.key.session) == place.slot == 0

    async def test_h13_close_is_final_and_repeatable(self, hot: HotView) -> None:
        """Close can be called twice, and an engine says its name (H13)."""
        await hot.close()
        await hot.close()
        assert hot.engine

    # --- H14 ---

    async def test_h14_an_examination_leaves_nothing_behind(self, hot: HotView) -> None:
        """A store that works is found to, beside its use, and says what to do where something is to be done (H14)."""
        found = await hot.examine()
        assert found
        assert [one for one in found if one.outcome == Outcome.FAILED] == []
        assert all(bool(one.advice) == (one.outcome in {Outcome.WARNING, Outcome.FAILED}) for one in found)


def _confusable() -> list[HotKey]:
    return [
        HotKey("a:b", "c", "words"),
        HotKey("a", "b:c", "words"),
        HotKey("a", "b", "c:words"),
        HotKey("a/b", "c", "words"),
        HotKey("a", "b/c", "words"),
    ]


class CoherentHotSuite(HotSuite):
    """H1 to H7 of the shared tail, and H8 to H13."""

    @pytest.fixture
    async def evict(self) -> Evict:
        """Remove what the store has of a session behind the engine's back."""
        raise NotImplementedError

    # --- steps that many tests take ---

    async def commit(self, hot: HotView, log: Log, *, grant: int = 1) -> Ticket:
        """Commit a turn: announce, append, publish."""
        mark = f"m-{next(_fresh)}"
        ticket = await hot.announce(log.key.tenant, log.key.session, mark=mark, lasts_ms=LASTS_MS)
        await hot.publish(log.key.tenant, log.key.session, log.append(), ticket=ticket, grant=grant, mark=mark)
        return ticket

    async def load(
        self, hot: HotView, log: Log, *, grant: int = 1, after: int = 0, checkpoint: bool = False
    ) -> Found[View]:
        """Publish what a reader found in the record store; return what a fetch then finds."""
        found = await hot.fetch(log.key)
        state = log.state(after, checkpoint=checkpoint)
        await hot.publish(log.key.tenant, log.key.session, state, ticket=found.ticket, grant=grant)
        return await hot.fetch(log.key)

    # --- H1 ---

    async def test_h01_a_fetch_gives_what_is_behind_the_view(self, hot: HotView, other_pod: HotView) -> None:
        """A pod that holds a view gets the events behind it, one that holds none all of them (H1)."""
        log = Log(key())
        for _ in range(5):
            await self.commit(hot, log)
        other_pod.keep(log.key, log.view(3))
        found = await other_pod.fetch(log.key)
        assert found.view is not None
        assert found.gained is not None
        assert (found.view.version, found.gained.after_version, len(found.gained.events)) == (3, 3, 2)
        assert (await hot.fetch(log.key)).view is None
        assert folded(found) == folded(await hot.fetch(log.key)) == log.view()
        other_pod.keep(log.key, log.view())
        found = await other_pod.fetch(log.key)
        assert (found.gained, found.version, found.grant) == (None, 5, 1)

    # --- H2 ---

    @given(versions=st.lists(st.integers(1, 5), min_size=1, max_size=8), afters=st.lists(st.integers(0, 4), min_size=8))
    @settings(
        deadline=None,
        max_examples=25,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    async def test_h02_whatever_the_order_the_newest_stays(
        self, hot: HotView, versions: list[int], afters: list[int]
    ) -> None:
        """Of concurrent publishes in any order the newest is what is there in the end (H2, H3)."""
        log = Log(key())
        log.append(5)
        ticket = (await hot.fetch(log.key)).ticket
        states = [log.state(min(after, to - 1), to=to) for to, after in zip(versions, afters, strict=False)]
        await asyncio.gather(*(hot.publish("acme", log.key.session, state, ticket=ticket, grant=1) for state in states))
        found = await hot.fetch(log.key)
        assert (found.version, found.grant) == (max(versions), 1)
        assert found.gained is None or folded(found) == log.view(max(versions))

    # --- H3 ---

    async def test_h03_a_tail_folds_as_the_log_does(self, hot: HotView) -> None:
        """From version 1, from a checkpoint and from a view, the tail gives what folding the log gives (H3, P6)."""
        log = Log(key(), text="Ünïcode 漢字 😀 </recalled> <|endoftext|>")
        log.append(9)
        assert folded(await self.load(hot, log)) == log.view()
        other = Log(key())
        other.append(9)
        found = await self.load(hot, other, after=4, checkpoint=True)
        assert found.gained is not None
        assert found.gained.checkpoint == other.state(4, checkpoint=True).checkpoint
        assert found.gained.head == other.state().head
        loaded = folded(found)
        assert loaded is not None
        assert [loaded.version, loaded.offsets, loaded.weight_bytes] == [
            9,
            other.view().offsets,
            other.view().weight_bytes,
        ]
        assert view.to_checkpoint(loaded) == view.to_checkpoint(other.view())

    async def test_h03_events_keep_what_a_fold_reads(self, hot: HotView) -> None:
        """An event comes back with its body, kind, weight and position; what folding does not read is empty (H3)."""
        log = Log(key())
        log.append(2)
        log.events.append(replace(log.events[1], version=3, kind=EventKind.END, body=b""))
        found = await self.load(hot, log)
        assert found.gained is not None
        bare = [replace(event, request_id="", previous_hash=b"", event_hash=b"") for event in log.events]
        assert found.gained.events == bare

    async def test_h03_a_checkpoint_serves_its_tokenizer_alone(self, hot: HotView) -> None:
        """A pod that counts otherwise finds no tail that begins at another tokenizer's checkpoint (H3)."""
        log = Log(key())
        log.append(6)
        await self.load(hot, log, after=3, checkpoint=True)
        letters = replace(log.key, tokenizer="letters")
        found = await hot.fetch(letters)
        assert (found.view, found.gained, found.version, found.grant) == (None, None, 6, 1)
        rival = Log(letters, events=log.events)
        assert folded(await self.load(hot, rival, after=1, checkpoint=True)) is not None
        found = await hot.fetch(log.key)
        assert found.gained is not None
        assert found.gained.after_version == 3
        assert (await hot.fetch(letters)).gained is not None

    async def test_h03_a_reader_mends_a_tail_to_the_front(self, hot: HotView, other_pod: HotView) -> None:
        """Events before the tail's join it: a pod without a view then finds all of them (H3)."""
        log = Log(key())
        log.append(4)
        await self.load(hot, log, after=4)
        assert (await hot.fetch(log.key)).gained is None
        assert (await hot.fetch(log.key)).grant == 1
        await self.load(hot, log)
        assert folded(await other_pod.fetch(log.key)) == log.view()
        other_pod.keep(log.key, log.view(2))
        assert folded(await other_pod.fetch(log.key)) == log.view()

    # --- H4 ---

    async def test_h04_forget_and_flush_reach_the_tail(self, hot: HotView, other_pod: HotView) -> None:
        """What one pod forgets or flushes no other finds; a ticket from before publishes nothing (H4, H10)."""
        one, other = Log(key()), Log(key())
        for log in (one, other):
            await self.commit(hot, log)
        ticket = (await other_pod.fetch(one.key)).ticket
        await hot.forget("acme", one.key.session)
        assert (await other_pod.fetch(one.key)).version == 0
        await other_pod.publish("acme", one.key.session, one.state(), ticket=ticket, grant=1)
        assert [(await other_pod.fetch(log.key)).version for log in (one, other)] == [0, 1]
        await hot.flush()
        assert (await other_pod.fetch(other.key)).version == 0

    # --- H5 ---

    async def test_h05_a_tail_is_bounded(self, make: Make) -> None:
        """A tail that outgrows its bound starts anew with what is new, and stays right throughout (H5, H3)."""
        hot, reader = await make(session_bytes_max=4000), await make()
        log = Log(key())
        shown = []
        for _ in range(40):
            reader.keep(log.key, log.view())
            await self.commit(hot, log)
            found = await reader.fetch(log.key)
            assert (found.version, found.grant) == (log.version, 1)
            assert folded(found) == log.view()
            cold = await hot.fetch(log.key)
            shown.append(0 if cold.gained is None else len(cold.gained.events))
        assert max(shown) == shown.index(0) > 5
        await self.load(hot, log, after=36, checkpoint=True)
        found = await hot.fetch(log.key)
        assert found.gained is not None
        assert found.gained.after_version == 36

    async def test_h05_an_event_over_the_bound_is_a_version_alone(self, make: Make) -> None:
        """An event that does not fit leaves a tail without events: who holds its view is fresh, others read (H5)."""
        hot, other_pod = await make(session_bytes_max=4000), await make()
        log = Log(key())
        await self.commit(hot, log)
        log.text = "x" * 4000
        await self.commit(hot, log)
        found = await other_pod.fetch(log.key)
        assert (found.gained, found.version, found.grant) == (None, 2, 1)
        log.text = "hello"
        await self.commit(hot, log)
        other_pod.keep(log.key, log.view(2))
        assert folded(await other_pod.fetch(log.key)) == log.view()

    # --- H6 ---

    async def test_h06_a_tail_leaves_after_its_time(
        self, hot: HotView, other_pod: HotView, pass_time: PassTime
    ) -> None:
        """A tail lives as long as the last fetch said, from its last use, and is prolonged by use (H6)."""
        log = Log(key())
        await other_pod.fetch(log.key, ttl_s=32.0)
        await self.commit(hot, log)
        for _ in range(3):
            await pass_time(20)
            assert (await other_pod.fetch(log.key)).version == 1
        await pass_time(20)
        await self.commit(hot, log)
        await pass_time(20)
        assert (await other_pod.fetch(log.key)).version == 2
        await pass_time(33)
        assert (await other_pod.fetch(log.key)).version == 0

    async def test_h06_a_tail_lives_for_a_day_at_first(
        self, hot: HotView, other_pod: HotView, pass_time: PassTime
    ) -> None:
        """At first it is limits.view_ttl_s. Another holds from the fetch that gives it (H6)."""
        log = Log(key())
        await self.commit(hot, log)
        await pass_time(limits.view_ttl_s * 0.9)
        assert (await other_pod.fetch(log.key)).version == 1
        await pass_time(limits.view_ttl_s * 0.9)
        assert (await other_pod.fetch(log.key, ttl_s=10)).version == 1
        await pass_time(11)
        assert (await other_pod.fetch(log.key)).version == 0

    async def test_h06_an_entry_outlives_its_marks(self, hot: HotView, other_pod: HotView, pass_time: PassTime) -> None:
        """However short the time to live, and without a tail, a marked session stays until its mark expires (H6)."""
        log = Log(key())
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=600_000)
        await other_pod.fetch(log.key, ttl_s=1)
        await pass_time(limits.hot_bare_ttl_s + 10)
        assert (await other_pod.fetch(log.key, ttl_s=2)).ticket.life == ticket.life
        await pass_time(600)
        assert (await other_pod.fetch(log.key)).ticket.life != ticket.life

    # --- H7 ---

    async def test_h07_no_two_tails_are_one(self, hot: HotView) -> None:
        """Tenants and sessions whose ids run together have tails of their own (H7, P8)."""
        logs = [Log(one, text=str(number)) for number, one in enumerate(_confusable())]
        for number, log in enumerate(logs):
            if number != 2:  # the tokenizer is no part of a log's name
                log.append(number + 1)
                await self.load(hot, log)
        found = [folded(await hot.fetch(log.key)) for number, log in enumerate(logs) if number != 2]
        assert found == [log.view() for number, log in enumerate(logs) if number != 2]

    # --- H8 ---

    async def test_h08_a_publish_is_seen_by_every_pod(self, hot: HotView, other_pod: HotView) -> None:
        """What one pod published the next fetch of another shows, with its grant (H8, P4)."""
        log = Log(key())
        for version in range(1, 4):
            await self.commit(hot if version % 2 else other_pod, log, grant=version)
            for pod in (hot, other_pod):
                found = await pod.fetch(log.key)
                assert (found.version, found.grant, folded(found)) == (version, version, log.view())

    async def test_h08_what_is_evicted_is_gone_and_comes_back(self, hot: HotView, evict: Evict) -> None:
        """After an eviction a fetch finds no tail; the next reader brings it back (H8)."""
        log = Log(key())
        await self.commit(hot, log)
        await evict("acme", log.key.session)
        found = await hot.fetch(log.key)
        assert (found.gained, found.version, found.grant) == (None, 0, 0)
        assert folded(await self.load(hot, log)) == log.view()

    # --- H9 ---

    async def test_h09_a_marked_session_has_no_grant(self, hot: HotView, other_pod: HotView) -> None:
        """From announce to publish, and with every mark of several, no fetch has a grant; the tail is shown (H9)."""
        log = Log(key())
        await self.commit(hot, log)
        tickets = {
            mark: await hot.announce("acme", log.key.session, mark=mark, lasts_ms=LASTS_MS) for mark in ("a", "b")
        }
        found = await other_pod.fetch(log.key)
        assert (found.version, found.grant, folded(found)) == (1, 0, log.view())
        await hot.publish("acme", log.key.session, log.append(), ticket=tickets["b"], grant=1, mark="b")
        assert (await other_pod.fetch(log.key)).grant == 0
        await hot.withdraw("acme", log.key.session, ticket=tickets["a"], mark="a", version=2)
        assert (await other_pod.fetch(log.key)).grant == 1

    async def test_h09_a_mark_stands_through_readers_and_other_writers(self, hot: HotView, other_pod: HotView) -> None:
        """A reader's publish, and another committer's, leave a mark whose time has not passed (H9, P4)."""
        log = Log(key())
        await self.commit(hot, log)
        await hot.announce("acme", log.key.session, mark="dies", lasts_ms=LASTS_MS)
        assert (await self.load(other_pod, log)).grant == 0
        await self.commit(other_pod, log)
        assert (await other_pod.fetch(log.key)).grant == 0

    async def test_h09_a_dead_mark_goes_with_a_read_that_began_after_its_time(
        self, hot: HotView, other_pod: HotView
    ) -> None:
        """A mark whose committer died goes with a publish under a ticket of later than its time, with no other (H9)."""
        log = Log(key())
        await self.commit(other_pod, log)
        await hot.announce("acme", log.key.session, mark="dies", lasts_ms=300)
        early = (await other_pod.fetch(log.key)).ticket
        await asyncio.sleep(0.31)
        assert (await other_pod.fetch(log.key)).grant == 0
        await other_pod.publish("acme", log.key.session, log.state(), ticket=early, grant=1)
        found = await other_pod.fetch(log.key)
        assert found.grant == 0
        await other_pod.publish("acme", log.key.session, log.state(), ticket=found.ticket, grant=1)
        assert (await other_pod.fetch(log.key)).grant == 1

    async def test_h09_marks_are_bounded(self, hot: HotView) -> None:
        """Beyond limits.hot_marks_max one mark stands for all, until the last of their times has passed (H9)."""
        log = Log(key())
        await self.commit(hot, log)
        for number in range(limits.hot_marks_max):
            await hot.announce("acme", log.key.session, mark=f"m-{number}", lasts_ms=1)
        ticket = await hot.announce("acme", log.key.session, mark="last", lasts_ms=100)
        await hot.withdraw("acme", log.key.session, ticket=ticket, mark="last", version=1)
        assert (await self.load(hot, log)).grant == 0
        await asyncio.sleep(0.11)
        assert (await self.load(hot, log)).grant == 1

    # --- H10 ---

    async def test_h10_a_ticket_from_before_an_eviction_publishes_nothing(self, hot: HotView, evict: Evict) -> None:
        """What a reader found before an eviction is not stored after it, with or without an entry (H10, P4)."""
        log = Log(key())
        log.append(1)
        before = (await hot.fetch(log.key)).ticket
        state = log.state()
        await evict("acme", log.key.session)
        await hot.publish("acme", log.key.session, state, ticket=before, grant=1)
        found = await hot.fetch(log.key)
        assert (found.version, found.ticket.life == before.life) == (0, False)
        await hot.publish("acme", log.key.session, state, ticket=before, grant=1)
        assert (await hot.fetch(log.key)).version == 0

    @pytest.mark.parametrize("how", ["commit", "withdraw", "read"])
    async def test_h10_a_ticket_of_another_life_removes_what_there_is(
        self, hot: HotView, other_pod: HotView, evict: Evict, how: str
    ) -> None:
        """A reader that looked between an eviction and a commit cannot publish behind the commit (H10, P4)."""
        log = Log(key())
        log.append(1)
        before = await hot.announce("acme", log.key.session, mark="m", lasts_ms=LASTS_MS)
        await evict("acme", log.key.session)
        reader = (await other_pod.fetch(log.key)).ticket
        old = log.state()
        await other_pod.publish("acme", log.key.session, old, ticket=reader, grant=1)
        assert (await other_pod.fetch(log.key)).grant == 1
        if how == "withdraw":
            await hot.withdraw("acme", log.key.session, ticket=before, mark="m", version=1)
        else:
            mark = "m" if how == "commit" else ""
            await hot.publish("acme", log.key.session, log.append(), ticket=before, grant=1, mark=mark)
        found = await other_pod.fetch(log.key)
        assert (found.version, found.grant) == (0, 0)
        await other_pod.publish("acme", log.key.session, old, ticket=reader, grant=1)
        assert (await other_pod.fetch(log.key)).version == 0

    @pytest.mark.parametrize("how", ["commit", "withdraw", "read"])
    async def test_h10_a_ticket_of_another_server_is_of_another_life(self, hot: HotView, how: str) -> None:
        """The entry may have come along to another server; times and trust of a ticket have not (H10, H11)."""
        log = Log(key())
        await self.commit(hot, log)
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=LASTS_MS)
        foreign = replace(ticket, place=replace(ticket.place, incarnation="f" * 40), asked_at_ms=1 << 50)
        if how == "withdraw":
            await hot.withdraw("acme", log.key.session, ticket=foreign, mark="m", version=1)
        else:
            mark = "m" if how == "commit" else ""
            await hot.publish("acme", log.key.session, log.append(), ticket=foreign, grant=1, mark=mark)
        found = await hot.fetch(log.key)
        assert (found.version, found.grant, found.ticket.life == ticket.life) == (0, 0, False)

    # --- H11 ---

    async def test_h11_every_answer_says_who_gave_it(self, hot: HotView, other_pod: HotView) -> None:
        """Fetch, announce, publish and withdraw name one server and slot, from both pods; its slots are known (H11)."""
        log = Log(key())
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=LASTS_MS)
        places = [
            ticket.place,
            await hot.publish("acme", log.key.session, log.append(), ticket=ticket, grant=1, mark="m"),
            (await other_pod.fetch(log.key)).ticket.place,
            await other_pod.withdraw("acme", log.key.session, ticket=ticket, mark="m", version=1),
        ]
        assert len(set(places)) == 1
        place = places[0]
        assert place.incarnation
        assert place.slot == hot.slot("acme", log.key.session) < SLOTS
        assert any(start <= place.slot < end for start, end in hot.slots_of(place.incarnation))
        assert hot.slots_of("f" * 40) == ()

    # --- H12 ---

    async def test_h12_a_grant_is_the_stamp_of_the_newest(self, hot: HotView) -> None:
        """The grant is of the last publish that reached the tail's version, not of one that fell behind it (H12)."""
        log = Log(key())
        log.append(3)
        await self.load(hot, log, grant=7)
        assert (await self.load(hot, log, grant=8)).grant == 8
        ticket = (await hot.fetch(log.key)).ticket
        await hot.publish("acme", log.key.session, log.state(to=2), ticket=ticket, grant=9)
        found = await hot.fetch(log.key)
        assert (found.version, found.grant) == (3, 8)

    async def test_h12_a_version_without_its_event_is_no_grant(self, hot: HotView) -> None:
        """A withdrawal that knows of a newer version takes the grant, until events reach it (H12)."""
        log = Log(key())
        await self.commit(hot, log)
        ticket = await hot.announce("acme", log.key.session, mark="m", lasts_ms=LASTS_MS)
        log.append(2)
        await hot.withdraw("acme", log.key.session, ticket=ticket, mark="m", version=3)
        found = await hot.fetch(log.key)
        assert (found.version, found.grant, folded(found)) == (3, 0, log.view(1))
        await hot.publish("acme", log.key.session, log.state(to=2), ticket=found.ticket, grant=1)
        assert (await hot.fetch(log.key)).grant == 0
        assert folded(await self.load(hot, log, after=2)) == log.view()
        assert (await hot.fetch(log.key)).grant == 1

    async def test_h12_a_gap_starts_the_tail_anew(self, hot: HotView, other_pod: HotView) -> None:
        """Events behind a gap replace the tail: who stands before the gap finds nothing that follows (H12)."""
        log = Log(key())
        await self.commit(hot, log)
        log.append(3)
        await self.commit(hot, log)
        other_pod.keep(log.key, log.view(1))
        found = await other_pod.fetch(log.key)
        assert (found.gained, found.version, found.grant) == (None, 5, 1)
        other_pod.keep(log.key, log.view(4))
        assert folded(await other_pod.fetch(log.key)) == log.view()

    # --- H13 ---

    async def test_h13_a_deadline_that_has_passed_is_kept(self, hot: HotView) -> None:
        """Whatever is asked with no time left raises HotUnavailable, and the next call works (H13, P12)."""
        log = Log(key())
        state, late = log.append(), time.monotonic() - 1
        with pytest.raises(HotUnavailable):
            await hot.fetch(log.key, deadline=late)
        with pytest.raises(HotUnavailable):
            await hot.announce("acme", log.key.session, mark="m", lasts_ms=1, deadline=late)
        ticket = (await hot.fetch(log.key)).ticket
        with pytest.raises(HotUnavailable):
            await hot.publish("acme", log.key.session, state, ticket=ticket, grant=1, deadline=late)
        with pytest.raises(HotUnavailable):
            await hot.withdraw("acme", log.key.session, ticket=ticket, mark="m", version=1, deadline=late)
        assert (await self.load(hot, log)).version == 1
