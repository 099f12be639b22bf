"""The checker finds what is wrong: a good history passes, and each kind of violation is found in one that has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.chaos.checker import CHECKS, check, stalls_ms
from tests.chaos.history import Event, Fault, History, Op

MS = 1_000_000


def commit(request_id: str, version: int, start: int, *, session: str = "s", **fields) -> Op:
    """A commit that was acknowledged after 10 ms."""
    given = {
        "client": 0,
        "kind": "commit",
        "session": session,
        "pod": 0,
        "request_id": request_id,
        "started_ns": start * MS,
        "ended_ns": (start + 10) * MS,
        "outcome": "ok",
        "version": version,
        "expected": version - 1,
        "result": request_id.encode(),
        "event_hash": request_id.encode(),
    }
    return Op(**{**given, **fields})


def read(version: int, start: int, *shown: str, **fields) -> Op:
    """A hydrate that was answered after 10 ms."""
    given = {
        "client": 1,
        "kind": "hydrate",
        "session": "s",
        "pod": 1,
        "started_ns": start * MS,
        "ended_ns": (start + 10) * MS,
        "outcome": "ok",
        "version": version,
        "shown": shown,
    }
    return Op(**{**given, **fields})


def good() -> History:
    """Three commits, one of them in doubt and retried, one refused, and reads between, beside and behind them."""
    return History(
        ops=[
            read(0, 0),
            commit("a", 1, 10),
            read(1, 21, "a"),
            read(1, 25, "a"),  # beside the next commit: either version is right
            commit("b", 0, 22, outcome="doubt", reason="UNAVAILABLE", expected=1, result=b"", event_hash=b""),
            commit("b", 2, 40, pod=2),
            commit("x", 2, 41, outcome="refused", reason="VERSION_CONFLICT", expected=1, result=b""),
            commit("b", 2, 60),
            read(2, 75, "b"),
            commit("c", 3, 80, expected=None),
            read(3, 91, "a", "b", "c", wanted="token", at_least=3),
            read(1, 95, "a", wanted="nearest"),
            read(2, 95, "b", wanted="token", at_least=2),
            read(0, 96, outcome="doubt", reason="UNAVAILABLE"),
        ],
        log={"s": [Event(1, "a", b"a"), Event(2, "b", b"b"), Event(3, "c", b"c")]},
    )


def test_a_good_history_has_no_violations() -> None:
    """Overlapping calls, doubts, retries, refusals, and reads that asked for less than the newest are no violations."""
    assert check(good()) == []


def _change(history: History, place: int, **fields) -> None:
    history.ops[place] = dataclasses.replace(history.ops[place], **fields)


def lost(history: History) -> None:
    """What was acknowledged last is not in the log."""
    history.log["s"].pop()
    del history.ops[10]


def another_hash(history: History) -> None:
    """The log's event is not the acknowledged one."""
    history.log["s"][0] = Event(1, "a", b"other")


def doubled(history: History) -> None:
    """A request is in the log twice."""
    history.log["s"].append(Event(4, "b", b"b"))


def invented(history: History) -> None:
    """Nobody sent an event."""
    history.log["s"].append(Event(4, "z", b"z"))


def gap(history: History) -> None:
    """A version is missing."""
    history.log["s"][2] = Event(4, "c", b"c")


def reordered(history: History) -> None:
    """A commit that began after another's acknowledgement stands before it."""
    history.ops += [commit("d", 5, 100, expected=None), commit("e", 4, 120, expected=None)]
    history.log["s"] += [Event(4, "e", b"e"), Event(5, "d", b"d")]


def two_winners(history: History) -> None:
    """Two requests were acknowledged as one version."""
    history.ops.append(commit("d", 3, 79))


def wrong_version_won(history: History) -> None:
    """A compare-and-swap won another version than it named."""
    _change(history, 5, expected=0)


def answer_changed(history: History) -> None:
    """A retry was answered otherwise."""
    _change(history, 7, result=b"other")


def refused_and_done(history: History) -> None:
    """A refused commit is in the log."""
    history.log["s"].append(Event(4, "x", b"x"))


def stale_after_commit(history: History) -> None:
    """A fresh read that began after an acknowledgement does not see it."""
    _change(history, 8, version=1, shown=("a",))


def stale_after_read(history: History) -> None:
    """Somebody was shown a version in doubt, and another read later is not."""
    _change(history, 3, version=2, shown=("a", "b"), ended_ns=36 * MS)
    history.ops.append(read(1, 37, "a"))


def stale_refusal(history: History) -> None:
    """A refusal names a version that was past already."""
    history.ops.append(commit("y", 2, 120, outcome="refused", reason="VERSION_CONFLICT", expected=1))


def token_ignored(history: History) -> None:
    """A read shows less than its token has seen."""
    _change(history, 10, at_least=4)


def token_refused(history: History) -> None:
    """A token that was given out is said to be of the future."""
    history.ops.append(read(2, 120, outcome="refused", reason="VERSION_IN_FUTURE", at_least=3))


def phantom(history: History) -> None:
    """A read shows a version that never was."""
    history.ops.append(read(4, 120, "d"))


def before_it_was_sent(history: History) -> None:
    """A read shows a turn that nobody had sent yet."""
    _change(history, 0, version=1, shown=("a",), ended_ns=9 * MS)


def missing_turn(history: History) -> None:
    """A read's history leaves a turn out."""
    _change(history, 10, shown=("a", "c"))


def nothing_shown(history: History) -> None:
    """A read says that it is at a version, and shows nothing of it."""
    _change(history, 10, shown=())


def defect(history: History) -> None:
    """A fault of a store was told as something else."""
    history.ops.append(read(0, 120, outcome="refused", reason="INTERNAL"))


def chain(history: History) -> None:
    """The hash chain does not hold."""
    history.broken_chains["s"] = "event 2 does not match its hash"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lost, "lost"),
        (another_hash, "lost"),
        (doubled, "doubled"),
        (invented, "invented"),
        (gap, "gap"),
        (reordered, "reordered"),
        (two_winners, "two winners"),
        (wrong_version_won, "two winners"),
        (answer_changed, "answer changed"),
        (refused_and_done, "refused and done"),
        (stale_after_commit, "stale"),
        (stale_after_read, "stale"),
        (stale_refusal, "stale"),
        (token_ignored, "token"),
        (token_refused, "token"),
        (phantom, "phantom"),
        (before_it_was_sent, "phantom"),
        (missing_turn, "content"),
        (nothing_shown, "content"),
        (defect, "defect"),
        (chain, "chain"),
    ],
)
def test_each_kind_of_violation_is_found(spoil: Callable[[History], None], kind: str) -> None:
    """A history that is bad in one way has a violation of that kind (P1 to P4)."""
    history = good()
    spoil(history)
    found = check(history)
    assert kind in {one.kind for one in found}
    assert all(one.session == "s" and str(one) for one in found)


def test_every_check_has_a_bad_history() -> None:
    """No check is left that nothing shows to work."""
    (cases,) = [mark for mark in test_each_kind_of_violation_is_found.pytestmark if mark.name == "parametrize"]
    assert {kind for _, kind in cases.args[1]} == {*CHECKS, "chain"}


def test_a_stall_is_the_longest_wait_around_a_fault() -> None:
    """The wait of the slowest client counts, from its last answer before to its first one after."""
    ops = [read(0, at, client=1) for at in (0, 20, 200)] + [read(0, at, client=2) for at in (0, 30, 60, 90)]
    history = History(ops=ops, faults=[Fault("kill", 35 * MS, 50 * MS), Fault("late", 300 * MS, 310 * MS)])
    assert stalls_ms(history) == {"kill": [180.0], "late": [0]}
