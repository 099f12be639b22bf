"""What a history proves: a pure function from the calls and the final log to the promises that were broken."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from tests.chaos.history import Event, History, Op

EXPECTED_REASONS = {
    "commit": {"VERSION_CONFLICT", "OVERLOADED"},
    "hydrate": {"OVERLOADED"},
}
"""What a store under faults may refuse. Anything else that is refused is a defect."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    kind: str
    session: str
    text: str

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.kind}: {self.session}: {self.text}"


@dataclass(slots=True)
class _Session:
    """All about one session, in the orders that the checks want."""

    name: str
    commits: list[Op]
    reads: list[Op]
    log: Sequence[Event]

    def acknowledged(self) -> list[Op]:
        return [one for one in self.commits if one.outcome == "ok"]

    def attempts(self) -> dict[str, list[Op]]:
        found: dict[str, list[Op]] = defaultdict(list)
        for one in self.commits:
            found[one.request_id].append(one)
        return found


def check(history: History) -> list[Violation]:
    """Return every violation, of all kinds."""
    ops: dict[str, list[Op]] = defaultdict(list)
    for one in history.ops:
        ops[one.session].append(one)
    found = [Violation("chain", session, wrong) for session, wrong in history.broken_chains.items()]
    for name in sorted(ops.keys() | history.log.keys()):
        session = _Session(
            name,
            [one for one in ops[name] if one.kind == "commit"],
            [one for one in ops[name] if one.kind == "hydrate"],
            history.log.get(name, ()),
        )
        for kind, finds in CHECKS.items():
            found += [Violation(kind, name, text) for text in finds(session)]
    return found


def _lost(session: _Session) -> Iterator[str]:
    """P1: what was acknowledged is in the log, at its version, with its hash."""
    for one in session.acknowledged():
        event = session.log[one.version - 1] if 1 <= one.version <= len(session.log) else None
        if event is None or event.request_id != one.request_id:
            there = event.request_id if event else "nothing"
            yield f"{one.request_id} was acknowledged as version {one.version}, where the log has {there}"
        elif event.event_hash != one.event_hash:
            yield f"{one.request_id} was acknowledged with another hash than the log's"


def _doubled(session: _Session) -> Iterator[str]:
    """P3: a request takes effect once."""
    for request_id, count in Counter(event.request_id for event in session.log).items():
        if count > 1:
            yield f"{request_id} is in the log {count} times"


def _invented(session: _Session) -> Iterator[str]:
    """Nothing is in the log that nobody sent."""
    sent = {one.request_id for one in session.commits}
    for event in session.log:
        if event.request_id not in sent:
            yield f"nobody sent {event.request_id}, version {event.version}"


def _gap(session: _Session) -> Iterator[str]:
    """Versions run from 1 without a gap."""
    for place, event in enumerate(session.log, 1):
        if event.version != place:
            yield f"version {event.version} stands at place {place}"


def _reordered(session: _Session) -> Iterator[str]:
    """A request that was first sent after another was acknowledged stands behind it."""
    first = {request_id: min(one.started_ns for one in tries) for request_id, tries in session.attempts().items()}
    acknowledged = sorted(session.acknowledged(), key=lambda one: one.ended_ns)
    highest = list(accumulate((one.version for one in acknowledged), max))
    ends = [one.ended_ns for one in acknowledged]
    for one in acknowledged:
        before = bisect_left(ends, first[one.request_id])
        if before and highest[before - 1] >= one.version:
            yield f"{one.request_id} became version {one.version} after {highest[before - 1]} was acknowledged"


def _two_winners(session: _Session) -> Iterator[str]:
    """P2: one request wins a version, and a compare-and-swap wins the version that it named."""
    winners: dict[int, str] = {}
    for one in session.acknowledged():
        if winners.setdefault(one.version, one.request_id) != one.request_id:
            yield f"{winners[one.version]} and {one.request_id} were both acknowledged as version {one.version}"
        if one.expected is not None and one.version != one.expected + 1:
            yield f"{one.request_id} expected version {one.expected} and became {one.version}"


def _answer_changed(session: _Session) -> Iterator[str]:
    """P3: one request id has one answer, whoever gives it."""
    for request_id, tries in session.attempts().items():
        answers = {one.result for one in tries if one.outcome == "ok"}
        if len(answers) > 1:
            yield f"{request_id} was answered in {len(answers)} ways"


def _refused_and_done(session: _Session) -> Iterator[str]:
    """What was refused for good is not in the log."""
    there = {event.request_id for event in session.log}
    for one in session.commits:
        if one.outcome == "refused" and one.reason == "VERSION_CONFLICT" and one.request_id in there:
            yield f"{one.request_id} was refused, and is in the log"


def _stale(session: _Session) -> Iterator[str]:
    """P4: whoever asks after a version was answered to anyone sees it.

    Unless the caller asked for the least latency, or brought a token and so asked for what the token has seen.
    """
    answers = [one for one in (*session.commits, *session.reads) if one.version and one.outcome != "doubt"]
    answers.sort(key=lambda one: one.ended_ns)
    ends = [one.ended_ns for one in answers]
    highest = list(accumulate((one.version for one in answers), max))
    for one in (*session.reads, *session.commits):
        fresh = one.kind == "hydrate" and one.outcome == "ok" and one.wanted in {"fresh", "full"}
        if not fresh and one.reason != "VERSION_CONFLICT":
            continue
        before = bisect_left(ends, one.started_ns)
        if before and highest[before - 1] > one.version:
            late_ms = (one.started_ns - ends[highest.index(highest[before - 1])]) / 1e6
            what = f"a {one.wanted} read" if one.kind == "hydrate" else "a refusal"
            yield (
                f"{what} through pod {one.pod} shows version {one.version}; "
                f"{highest[before - 1]} had been answered {late_ms:.1f} ms before"
            )


def _token(session: _Session) -> Iterator[str]:
    """A token is honoured, and never of a version that is not there."""
    for one in session.reads:
        if one.outcome == "ok" and one.version < one.at_least:
            yield f"a read with a token of {one.at_least} shows {one.version}"
        if one.reason == "VERSION_IN_FUTURE":
            yield f"a token of {one.at_least} is refused: the session is said to be at {one.version}"


def _phantom(session: _Session) -> Iterator[str]:
    """A read shows what the log has, and what had been sent by then."""
    first = {request_id: min(one.started_ns for one in tries) for request_id, tries in session.attempts().items()}
    for one in session.reads:
        if one.outcome != "ok":
            continue
        if one.version > len(session.log):
            yield f"a read shows version {one.version}; the log ends at {len(session.log)}"
        elif one.version and first.get(session.log[one.version - 1].request_id, 0) > one.ended_ns:
            yield f"a read shows version {one.version} before it was sent"


def _content(session: _Session) -> Iterator[str]:
    """A read at a version shows the end of the log up to it: nothing missing, doubled or in another order."""
    log = [event.request_id for event in session.log]
    for one in session.reads:
        if one.outcome != "ok" or one.version > len(log):
            continue
        shown = list(one.shown)
        if (one.version and not shown) or shown != log[one.version - len(shown) : one.version]:
            yield f"a read of version {one.version} shows {shown[-3:]}, the log has {log[: one.version][-3:]}"


def _defect(session: _Session) -> Iterator[str]:
    """P12: faults of stores are told as such: nothing else is refused."""
    for one in (*session.commits, *session.reads):
        if one.outcome == "refused" and one.reason not in {*EXPECTED_REASONS[one.kind], "VERSION_IN_FUTURE"}:
            yield f"a {one.kind} was refused as {one.reason}"


CHECKS: dict[str, Callable[[_Session], Iterator[str]]] = {
    "lost": _lost,
    "doubled": _doubled,
    "invented": _invented,
    "gap": _gap,
    "reordered": _reordered,
    "two winners": _two_winners,
    "answer changed": _answer_changed,
    "refused and done": _refused_and_done,
    "stale": _stale,
    "token": _token,
    "phantom": _phantom,
    "content": _content,
    "defect": _defect,
}


def stalls_ms(history: History) -> dict[str, list[float]]:
    """Return, by kind of fault, the longest time that a client was without an answer around each."""
    answered: dict[int, list[int]] = defaultdict(list)
    for one in history.ops:
        if one.outcome != "doubt":
            answered[one.client].append(one.ended_ns)
    for ends in answered.values():
        ends.sort()
    found: dict[str, list[float]] = defaultdict(list)
    for fault in history.faults:
        longest = 0
        for ends in answered.values():
            around = ends[max(0, bisect_left(ends, fault.started_ns) - 1) : bisect_left(ends, fault.ended_ns) + 1]
            longest = max(longest, *(after - before for before, after in pairwise(around)), 0)
        found[fault.kind].append(longest / 1e6)
    return found
