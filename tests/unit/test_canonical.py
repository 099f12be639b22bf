"""Canonical bytes: one form, read back exactly, and no two values in one form (P3, P6)."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import canonical

FIELDS = st.lists(st.binary(max_size=20) | st.text(max_size=10) | st.integers(-(1 << 63), (1 << 63) - 1), max_size=6)
many = settings(deadline=None, max_examples=300)


@given(fields=FIELDS)
@many
def test_what_is_packed_is_read_back(fields: list[Any]) -> None:
    """Unpack gives the fields that were packed, of the same types."""
    found = canonical.unpack(canonical.pack(fields))
    assert found == fields
    assert [type(one) for one in found] == [type(one) for one in fields]


@given(one=FIELDS, other=FIELDS)
@many
def test_packing_is_injective(one: list[Any], other: list[Any]) -> None:
    """Two different sequences have different bytes, however their fields are cut."""
    same = one == other and [type(part) for part in one] == [type(part) for part in other]
    assert (canonical.pack(one) == canonical.pack(other)) == same
    assert (canonical.sha256(one) == canonical.sha256(other)) == same


def test_where_a_field_ends_counts() -> None:
    """Moving a byte over a border, nesting, or another type gives other bytes."""
    values: list[list[Any]] = [["ab", "c"], ["a", "bc"], ["abc"], [b"abc"], [b"ab", b"c"], ["abc", ""], [], [0], [""]]
    values += [[canonical.pack(["a"])], ["a"], [1], ["1"], [b"1"], [-1], [1 << 62]]
    assert len({canonical.pack(value) for value in values}) == len(values)


@given(data=st.binary(max_size=60))
@many
def test_garbage_is_refused_or_canonical(data: bytes) -> None:
    """Any bytes are either exactly what pack wrote, or a ValueError and nothing else."""
    with contextlib.suppress(ValueError):
        assert canonical.pack(canonical.unpack(data)) == data


@given(fields=FIELDS.filter(bool), data=st.data())
@many
def test_a_cut_is_noticed(fields: list[Any], data: st.DataObject) -> None:
    """Cut anywhere but between two fields, packed bytes are refused."""
    packed = canonical.pack(fields)
    at = data.draw(st.integers(1, len(packed) - 1))
    whole = {len(canonical.pack(fields[:count])) for count in range(len(fields) + 1)}
    if at in whole:
        assert canonical.unpack(packed[:at]) == fields[: sorted(whole).index(at)]
    else:
        with pytest.raises(ValueError, match=r"cut off|bytes"):
            canonical.unpack(packed[:at])


@pytest.mark.parametrize("bad", [b"\x09\x00\x00\x00\x00", b"\x03\x00\x00\x00\x01x", b"\x02\x00\x00\x00\x01\xff"])
def test_unknown_kinds_and_sizes_are_refused(bad: bytes) -> None:
    """A kind that is none, an integer of another size and text that is not UTF-8 are refused."""
    with pytest.raises(ValueError):
        canonical.unpack(bad)


def test_a_signature_is_of_its_key_and_data() -> None:
    """A signature fits its own key, data and length only."""
    mac = canonical.sign(b"k" * 32, b"data")
    assert len(mac) == 16
    assert canonical.signed_by(b"k" * 32, b"data", mac)
    for key, data, other in (
        (b"l" * 32, b"data", mac),
        (b"k" * 32, b"dat", mac),
        (b"k" * 32, b"data", mac[:-1] + bytes([mac[-1] ^ 1])),
    ):
        assert not canonical.signed_by(key, data, other)


def test_an_events_hash_depends_on_each_of_its_parts() -> None:
    """P1: changing any one part of an event, or the hash before it, changes its hash (R5)."""
    event: dict[str, Any] = {
        "tenant": "acme",
        "session": "s",
        "version": 1,
        "kind": 1,
        "request_id": "r",
        "committed_at_us": 5,
        "body": b"x",
    }
    changes: dict[str, Any] = {
        "tenant": "rival",
        "session": "t",
        "version": 2,
        "kind": 2,
        "request_id": "q",
        "committed_at_us": 6,
        "body": b"y",
    }
    hashes = {canonical.event_hash(canonical.NO_HASH, **event), canonical.event_hash(bytes([1] * 32), **event)}
    hashes |= {canonical.event_hash(canonical.NO_HASH, **{**event, name: to}) for name, to in changes.items()}
    assert len(hashes) == 2 + len(changes)
    assert changes.keys() == event.keys()


def test_the_form_is_pinned() -> None:
    """The stored form never changes: these bytes were written by the first release."""
    packed = canonical.pack((b"\x01", "é", -2))
    assert packed.hex() == "0100000001" + "01" + "0200000002" + "c3a9" + "0300000008" + "fffffffffffffffe"
    assert canonical.sha256((b"\x01",)) == hashlib.sha256(bytes.fromhex("010000000101")).digest()
    pinned = canonical.event_hash(
        bytes(32), tenant="acme", session="s", version=1, kind=1, request_id="r", committed_at_us=7, body=b"body"
    )
    assert pinned.hex() == "638c3dca0f95e0bf8cd3146ed73f344c5f8eb76454e7e530ba9c7b7e56263173"
