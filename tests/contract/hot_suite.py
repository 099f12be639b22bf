"""The conformance suite of the hot contract: every engine subclasses `HotSuite`.

A test's name begins with the clause of `sidecar.stores.hot` that it proves: test_h01_ to test_h08_. The views are real
ones, folded from turns, so an engine that stores them in another form must bring them back equal.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar import analysis, canonical, limits, view
from sidecar.finding import Outcome
from sidecar.stores.hot import Hot, HotKey
from sidecar.stores.record import EventKind, StoredEvent
from sidecar.view import View
from standpipe.v1 import turn_pb2

TTL_S = 60.0
HotView = Hot[View]
Make = Callable[..., Awaitable[HotView]]
PassTime = Callable[[float], Awaitable[None]]

_fresh = itertools.count(1)


def key(session: str = "", *, tenant: str = "acme", tokenizer: str = "words") -> HotKey:
    """Return the key of a session that no other test has, unless one is named."""
    return HotKey(tenant, session or f"s-{next(_fresh)}", tokenizer)


def a_view(version: int = 1, *, nbytes: int | None = None, text: str = "hello") -> View:
    """Return a view of so many turns. `nbytes`: what it claims to weigh."""
    turn = turn_pb2.Turn(
        entries=[
            turn_pb2.TurnEntry(message=turn_pb2.Message(role=turn_pb2.ROLE_USER, text=f"{text}, I need 3 of them.")),
            turn_pb2.TurnEntry(tool_call=turn_pb2.ToolCall(id="open", name="search")),
        ]
    )
    body = analysis.analyse(turn, {"words": _words}, received_at_us=1).SerializeToString(deterministic=True)
    events = [
        StoredEvent(
            session="s",
            version=number,
            kind=EventKind.TURN,
            request_id=f"r-{number}",
            committed_at_us=number,
            body=body,
            previous_hash=bytes(32),
            event_hash=canonical.sha256((number,)),
            weight_end_bytes=number * analysis.weight_bytes(turn),
            position_end=number,
        )
        for number in range(1, version + 1)
    ]
    folded = view.fold(view.empty(session="s", subject="ana", tokenizer="words"), events, count=_words)
    return folded if nbytes is None else replace(folded, nbytes=nbytes)


def _words(text: str) -> int:
    return len(text.split())


class HotSuite:
    """Subclass it, and override the three fixtures."""

    @pytest.fixture
    async def make(self) -> Make:
        """Make engines on an empty store; `bytes_max` bounds it. All are closed after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def hot(self, make: Make) -> HotView:
        """One engine."""
        return await make()

    @pytest.fixture
    async def other_pod(self, hot: HotView) -> HotView:
        """Return what another pod of the deployment has, while `hot` is this one's."""
        raise NotImplementedError

    @pytest.fixture
    async def pass_time(self) -> PassTime:
        """Let so many seconds pass for the engine."""
        raise NotImplementedError

    # --- H1 ---

    async def test_h01_a_batch_is_answered_in_order(self, hot: HotView) -> None:
        """Fetch answers a batch in its length and order, duplicates included; what is not there is None (H1)."""
        keys = [key() for _ in range(3)]
        for version, one in enumerate(keys, 1):
            assert await hot.publish(one, a_view(version), ttl_s=TTL_S)
        asked = [keys[2], key(), keys[0], keys[2], keys[1]]
        found = await hot.fetch(asked)
        assert [one and one.version for one in found] == [3, None, 1, 3, 2]
        assert await hot.fetch([]) == []

    # --- H2 ---

    async def test_h02_an_older_view_never_replaces_a_newer_one(self, hot: HotView) -> None:
        """Publish stores only what is newer, and says whether it did (H2, P4)."""
        one = key()
        views = {version: a_view(version) for version in (1, 2, 3)}
        outcomes = [await hot.publish(one, views[version], ttl_s=TTL_S) for version in (2, 1, 2, 3, 3, 1)]
        assert outcomes == [True, False, False, True, False, False]
        assert await hot.fetch([one]) == [views[3]]

    @given(versions=st.lists(st.integers(1, 5), min_size=1, max_size=12))
    @settings(
        deadline=None,
        max_examples=25,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    async def test_h02_whatever_the_order_the_newest_stays(self, hot: HotView, versions: list[int]) -> None:
        """Of concurrent publications in any order the newest is what is there in the end (H2)."""
        one = key()
        stored = await asyncio.gather(*(hot.publish(one, a_view(version), ttl_s=TTL_S) for version in versions))
        assert any(stored)
        (found,) = await hot.fetch([one])
        assert found == a_view(max(versions))

    # --- H3 ---

    @pytest.mark.parametrize("version", [1, 7])
    async def test_h03_a_view_comes_back_equal(self, hot: HotView, version: int) -> None:
        """A fetched view equals the published one, in all its parts (H3, P6)."""
        one, published = key(), a_view(version, text="Ünïcode 漢字 😀 </recalled> <|endoftext|>")
        await hot.publish(one, published, ttl_s=TTL_S)
        (found,) = await hot.fetch([one])
        assert found == published
        assert view.window(found, cap_tokens=100) == view.window(published, cap_tokens=100)

    # --- H4 ---

    async def test_h04_forget_removes_a_session_for_every_tokenizer(self, hot: HotView) -> None:
        """Forget takes all views of one session and of no other (H4)."""
        one, other, rival = key("same"), key("other"), key("same", tenant="rival")
        again = key("same", tokenizer="letters")
        for at in (one, other, rival, again):
            await hot.publish(at, a_view(), ttl_s=TTL_S)
        await hot.forget("acme", "same")
        assert [found is not None for found in await hot.fetch([one, again, other, rival])] == [
            False,
            False,
            True,
            True,
        ]
        await hot.forget("acme", "never there")
        assert await hot.publish(one, a_view(), ttl_s=TTL_S)

    async def test_h04_flush_removes_everything(self, hot: HotView) -> None:
        """After a flush nothing is there, and any version can be published again (H4)."""
        keys = [key(), key(tenant="rival")]
        for one in keys:
            await hot.publish(one, a_view(5), ttl_s=TTL_S)
        await hot.flush()
        assert await hot.fetch(keys) == [None, None]
        assert await hot.publish(keys[0], a_view(1), ttl_s=TTL_S)

    # --- H5 ---

    async def test_h05_the_least_recently_used_leave_first(self, make: Make) -> None:
        """Over its bytes the store drops views, the least recently fetched or published first (H5)."""
        hot = await make(bytes_max=3000)
        keys = [key() for _ in range(4)]
        for one in keys[:3]:
            assert await hot.publish(one, a_view(nbytes=1000), ttl_s=TTL_S)
        await hot.fetch([keys[0]])
        assert await hot.publish(keys[3], a_view(nbytes=1000), ttl_s=TTL_S)
        assert [found is not None for found in await hot.fetch(keys)] == [True, False, True, True]

    async def test_h05_a_view_over_the_whole_bound_is_not_stored(self, make: Make) -> None:
        """A view that is larger than the store is refused, and pushes nothing out (H5)."""
        hot = await make(bytes_max=3000)
        small, giant = key(), key()
        await hot.publish(small, a_view(nbytes=3000), ttl_s=TTL_S)
        assert not await hot.publish(giant, a_view(nbytes=3001), ttl_s=TTL_S)
        assert [found is not None for found in await hot.fetch([small, giant])] == [True, False]

    async def test_h05_a_view_that_grows_is_counted_once(self, make: Make) -> None:
        """Replacing, forgetting and flushing give the bytes back (H5)."""
        hot = await make(bytes_max=3000)
        one, other = key(), key()
        for version in range(1, 6):
            assert await hot.publish(one, a_view(version, nbytes=1000 + version), ttl_s=TTL_S)
        assert await hot.publish(other, a_view(nbytes=1900), ttl_s=TTL_S)
        assert None not in await hot.fetch([one, other])
        await hot.forget("acme", other.session)
        await hot.flush()
        keys = [key() for _ in range(3)]
        for at in keys:
            await hot.publish(at, a_view(nbytes=1000), ttl_s=TTL_S)
        assert None not in await hot.fetch(keys)

    # --- H6 ---

    async def test_h06_a_view_leaves_after_its_time(self, hot: HotView, pass_time: PassTime) -> None:
        """A view that nobody asks for leaves after its time to live, each after its own (H6)."""
        short, long = key(), key()
        await hot.publish(short, a_view(3), ttl_s=1.0)
        await hot.publish(long, a_view(3), ttl_s=60.0)
        await pass_time(1.1)
        assert [found is not None for found in await hot.fetch([short, long])] == [False, True]
        assert await hot.publish(short, a_view(1), ttl_s=1.0)

    async def test_h06_use_prolongs_a_view(self, hot: HotView, pass_time: PassTime) -> None:
        """Each fetch and each newer publication starts the time to live again (H6)."""
        one = key()
        await hot.publish(one, a_view(1), ttl_s=2.0)
        for _ in range(2):
            await pass_time(1.2)
            assert await hot.fetch([one]) != [None]
        await pass_time(1.2)
        await hot.publish(one, a_view(2), ttl_s=2.0)
        await pass_time(1.2)
        assert await hot.fetch([one]) != [None]
        await pass_time(2.1)
        assert await hot.fetch([one]) == [None]

    async def test_h06_a_time_to_live_is_kept_until_another_is_given(self, hot: HotView, pass_time: PassTime) -> None:
        """Without a time to live the view keeps its own, at first limits.view_ttl_s; a fetch may set another (H6)."""
        one, other = key(), key()
        await hot.publish(one, a_view(1), ttl_s=2.0)
        await hot.publish(one, a_view(2))
        await hot.publish(other, a_view(1))
        await pass_time(1.5)
        assert None not in await hot.fetch([one, other])
        await pass_time(2.1)
        assert [found is not None for found in await hot.fetch([one, other])] == [False, True]
        await pass_time(limits.view_ttl_s - 1)
        assert None not in await hot.fetch([other], ttl_s=1.0)
        await pass_time(1.1)
        assert await hot.fetch([other]) == [None]

    # --- H7 ---

    async def test_h07_tenants_never_meet(self, hot: HotView) -> None:
        """Two tenants with the same session ids each have their own view (H7, P8)."""
        mine, theirs = key("shared"), key("shared", tenant="rival")
        await hot.publish(mine, a_view(3, text="mine"), ttl_s=TTL_S)
        assert await hot.fetch([theirs]) == [None]
        await hot.publish(theirs, a_view(1, text="theirs"), ttl_s=TTL_S)
        assert await hot.fetch([mine, theirs]) == [a_view(3, text="mine"), a_view(1, text="theirs")]
        await hot.forget("rival", "shared")
        assert await hot.fetch([mine, theirs]) == [a_view(3, text="mine"), None]

    async def test_h07_no_two_keys_are_one(self, hot: HotView) -> None:
        """Ids that hold the characters of a separator do not run into each other (H7, P8)."""
        keys = [
            HotKey("a:b", "c", "t"),
            HotKey("a", "b:c", "t"),
            HotKey("a", "b", "c:t"),
            HotKey("a/b", "c", "t"),
            HotKey("a", "b/c", "t"),
        ]
        for version, one in enumerate(keys, 1):
            assert await hot.publish(one, a_view(version), ttl_s=TTL_S)
        assert [found and found.version for found in await hot.fetch(keys)] == [1, 2, 3, 4, 5]

    # --- H8 ---

    async def test_h08_coherent_says_what_another_pod_sees(self, hot: HotView, other_pod: HotView) -> None:
        """With the capability another pod sees a view once it is published; without it, never one (H8, P4)."""
        one = key()
        await hot.publish(one, a_view(1), ttl_s=TTL_S)
        (found,) = await other_pod.fetch([one])
        assert (found is not None) == hot.capabilities.coherent
        await hot.publish(one, a_view(2), ttl_s=TTL_S)
        await other_pod.publish(one, a_view(1), ttl_s=TTL_S)
        (found,) = await other_pod.fetch([one])
        assert found is not None
        assert found.version == (2 if hot.capabilities.coherent else 1)

    async def test_h08_close_is_final_and_repeatable(self, hot: HotView) -> None:
        """Close can be called twice, and an engine says its name (H8)."""
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
