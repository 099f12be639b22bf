"""What an examination of a deployment found: one finding a check, with what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sidecar import limits


class Outcome(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, and will not for long, or not as well as it could."""
    FAILED = "failed"
    """It does not work, or a promise does not hold."""
    SKIPPED = "skipped"
    """It could not be checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    """What was looked at, in a word or two."""
    outcome: Outcome
    found: str
    """What is so. Never content, never a password."""
    advice: str = ""
    """What to do; empty if nothing is to be done."""
    model_ids: tuple[str, ...] = ()
    """The embedding models that it is about, for a check that compares them."""


def ok(check: str, found: str, *, model_ids: tuple[str, ...] = ()) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(check, Outcome.OK, found, model_ids=model_ids)


def warning(check: str, found: str, advice: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding(check, Outcome.WARNING, found, advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(check, Outcome.FAILED, found, advice)


def skipped(check: str, found: str) -> Finding:
    """Return the finding of a check that was not made; `found` says why."""
    return Finding(check, Outcome.SKIPPED, found)


def clock(before_s: float, theirs_s: float, after_s: float) -> Finding:
    """Compare another machine's clock with ours, read before and after it."""
    skew_s = max(before_s - theirs_s, theirs_s - after_s, 0.0)
    if skew_s * 1000 > limits.clock_skew_ms:
        return warning("clock", f"{skew_s:,.1f} s from this machine's", "Let NTP set the clocks of both machines.")
    return ok("clock", "as this machine's" if skew_s < 0.001 else f"{skew_s * 1000:.0f} ms from this machine's")


def ranked_by(model: str) -> Finding:
    """Say which model's vectors rank."""
    if not model:
        return ok("recall", "no embedding model ranks yet: the first sidecar names its own")
    return ok("recall", f"ranks by {model}", model_ids=(model,))


def parked(count: int) -> Finding:
    """Judge the work orders that nobody tries any more."""
    if count:
        found = (
            f"{count} {'order is' if count == 1 else 'orders are'} parked: recall does not find their items by meaning"
        )
        return warning("work", found, "`standpipe parked` says why, and with --retry tries them again.")
    return ok("work", "no order is parked")
