"""Grants: which server of the hot store may be trusted for which slots. Kept in the record store (R20).

A row covers a range of slots. It names the incarnation of the server that is trusted for them, or nobody, and from
when: its predecessor may be trusted by others until then, since they hold leases (`sidecar.lease`). That time counts
from the end of the transaction that changed the row, before which others still read the old one: so a changed row is
`UNDATED` first, and dated by the next transaction. These are pure functions, so that every engine does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

UNDATED: Final = 1 << 62
"""`Grant.usable_at_us` of a row whose change may not have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Trust in one server for a range of slots."""

    grant: int
    """Its id, from 1; never given twice."""
    slot_from: int
    slot_to: int
    """Behind the last slot."""
    incarnation: str
    """Empty: nobody is trusted."""
    usable_at_us: int
    """By the record store's clock: from then on nobody trusts a predecessor any more."""


def adopt(rows: Sequence[Grant], *, grant: int, incarnation: str, slots: Sequence[tuple[int, int]]) -> list[Grant]:
    """Return the rows after a server was adopted for ranges of slots: what it had before keeps its grant."""
    wanted: list[tuple[int, int]] = []
    for one in slots:
        wanted += _cut([one], *wanted)
    for row in rows:
        if row.incarnation == incarnation:
            wanted = _cut(wanted, (row.slot_from, row.slot_to))
    new = [
        Grant(grant=grant, slot_from=start, slot_to=end, incarnation=incarnation, usable_at_us=UNDATED)
        for start, end in wanted
    ]
    kept = [
        replace(row, slot_from=start, slot_to=end)
        for row in rows
        for start, end in _cut([(row.slot_from, row.slot_to)], *wanted)
    ]
    return sorted(kept + new, key=lambda row: row.slot_from)


def revoke(rows: Sequence[Grant], *, grant: int, incarnation: str) -> list[Grant]:
    """Return the rows after all trust in a server was withdrawn."""
    return [
        replace(row, grant=grant, incarnation="", usable_at_us=UNDATED) if row.incarnation == incarnation else row
        for row in rows
    ]


def date(rows: Sequence[Grant], *, usable_at_us: int) -> list[Grant]:
    """Return the rows with a time for those whose change has ended."""
    return [replace(row, usable_at_us=min(row.usable_at_us, usable_at_us)) for row in rows]


def _cut(ranges: Sequence[tuple[int, int]], *holes: tuple[int, int]) -> list[tuple[int, int]]:
    """Return ranges without the slots of others."""
    left = list(ranges)
    for hole_start, hole_end in holes:
        left = [
            part
            for start, end in left
            for part in ((start, min(end, hole_start)), (max(start, hole_end), end))
            if part[0] < part[1]
        ]
    return left
