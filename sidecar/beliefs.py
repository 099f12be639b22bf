"""What is held true of a subject: the fold of its memory's changes. Pure, but for the cache at the end.

A claim is never overwritten. It has two times: when it holds (`Fact.valid_from` to `valid_to`), and when it was
recorded (and retracted, rejected or superseded). What is believed at a point of both follows by these rules:

- Claims of one subject contradict each other if their attributes have one normal form, and, where an attribute can have
  many values, their values, too. Of those that are valid at a time, the one with the latest `valid_from` is held there,
  and of equal ones the one that was recorded last. So a claim of bounded validity gives way to the older one when its
  time is over, and nothing needs to be written for that.
- A correction ends the claim that it names for all times of validity, from when it was recorded on.
- A claim that is held back counts as soon as a review accepts it, from then on; its trust stays what it was.
- A rejection leaves a tombstone: the keyed hash of the claim's normal form. A claim that matches one is REJECTED,
  whatever path recorded it, before or after.
- Lifetimes are the policy's, by kind, counted from the last time that a claim was recorded or confirmed. Pinned claims
  have none.
- Of more than `limits.facts_held_max` held claims the least useful are PRUNED: those not pinned, with the fewest
  confirmations, recorded or confirmed the longest ago. Nothing is removed from the log for it.

Changes have positions (R6), so what was known at a position is a prefix of them; what was known at a time is those that
were recorded until then.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long facts of a kind matter."""

    ttl_s: int = 0
    """How long after it was recorded or last confirmed a fact is held, unless it is pinned; 0: for ever."""
    half_life_s: int = 0
    """After how long its score in recall has halved, unless it is pinned; 0: never."""
