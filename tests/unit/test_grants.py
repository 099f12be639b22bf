"""Grants: trust in servers of the hot store, as pure functions of rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.stores.grants import UNDATED, Grant, adopt, date, revoke
from sidecar.stores.hot import SLOTS

RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=3
)
STEPS = st.lists(st.tuples(st.sampled_from(["adopt", "revoke", "date"]), st.sampled_from("abc"), RANGES), max_size=12)


def row(start: int, end: int, incarnation: str, grant: int = 1, usable_at_us: int = 5) -> Grant:
    """Return a row."""
    return Grant(grant=grant, slot_from=start, slot_to=end, incarnation=incarnation, usable_at_us=usable_at_us)


def test_a_first_server_is_granted_what_it_holds() -> None:
    """An adoption of free slots gives an undated row."""
    assert adopt([], grant=1, incarnation="a", slots=[(0, SLOTS)]) == [row(0, SLOTS, "a", 1, UNDATED)]


def test_a_successor_takes_all_slots_of_a_server() -> None:
    """After a failover the old server has nothing left, and the new one's grant is its own."""
    assert adopt([row(0, 100, "a")], grant=2, incarnation="b", slots=[(0, 100)]) == [row(0, 100, "b", 2, UNDATED)]


def test_a_moved_slot_leaves_the_rest_alone() -> None:
    """A slot that migrated is cut out of its old owner's range, which keeps its grant and its time."""
    rows = [row(0, 100, "a", 1), row(100, 200, "b", 2)]
    assert adopt(rows, grant=3, incarnation="b", slots=[(40, 41), (100, 200)]) == [
        row(0, 40, "a", 1),
        row(40, 41, "b", 3, UNDATED),
        row(41, 100, "a", 1),
        row(100, 200, "b", 2),
    ]


def test_a_second_adoption_changes_nothing() -> None:
    """Of many processes that see a new server at once, the first one's adoption stands."""
    rows = [row(0, 100, "a", 1)]
    assert adopt(rows, grant=9, incarnation="a", slots=[(0, 100)]) == rows


def test_revoked_slots_are_nobodys() -> None:
    """A revocation leaves rows that name nobody, to be dated; others stay; a second changes nothing."""
    rows = revoke([row(0, 10, "a", 1), row(10, 20, "b", 2)], grant=3, incarnation="a")
    assert rows == [row(0, 10, "", 3, UNDATED), row(10, 20, "b", 2)]
    assert revoke(rows, grant=4, incarnation="a") == rows


def test_only_undated_rows_are_dated() -> None:
    """A date is given once: a later one must not push back when a grant is usable."""
    rows = [row(0, 10, "a", 1, UNDATED), row(10, 20, "b", 2, 7)]
    assert [one.usable_at_us for one in date(rows, usable_at_us=100)] == [100, 7]


@given(steps=STEPS)
def test_rows_never_overlap_and_every_slot_has_its_last_owner(
    steps: list[tuple[str, str, list[tuple[int, int]]]],
) -> None:
    """Over any history each slot has at most one row, that of the server that was adopted for it last."""
    rows: list[Grant] = []
    owner: dict[int, str] = {}
    for number, (step, name, slots) in enumerate(steps, 1):
        if step == "adopt":
            rows = adopt(rows, grant=number, incarnation=name, slots=slots)
            owner |= {slot: name for start, end in slots for slot in range(start, end)}
        elif step == "revoke":
            rows = revoke(rows, grant=number, incarnation=name)
            owner = {slot: "" if held == name else held for slot, held in owner.items()}
        else:
            rows = date(rows, usable_at_us=number)
    covered = [(slot, one.incarnation) for one in rows for slot in range(one.slot_from, one.slot_to)]
    assert len(covered) == len(dict(covered))
    assert dict(covered) == owner
