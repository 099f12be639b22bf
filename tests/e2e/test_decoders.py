"""Decoders on any bytes: they read back what was written, and raise their documented errors on all else."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from sidecar import canonical
from sidecar.errors import ReceiptInvalid, TokenInvalid
from sidecar.log.v1 import log_pb2
from sidecar.receipt import Receipt, Signer

_UTF8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@seed(3)
@settings(max_examples=300, deadline=None, database=None)
@given(data=st.binary(max_size=200))
def test_decoders_raise_what_they_say(data: bytes) -> None:
    """On any bytes the decoders raise their documented errors and nothing else (P7, P12)."""
    signer = Signer(b"k" * 32)
    with contextlib.suppress(ValueError):
        assert canonical.pack(canonical.unpack(data)) == data
    with pytest.raises(ReceiptInvalid):
        signer.open(data, tenant="t", field_name="receipt")
    with pytest.raises(TokenInvalid):
        signer.read_token(data.decode("latin-1"), tenant="t", session="s", field_name="token")
    with contextlib.suppress(DecodeError):
        log_pb2.StoredTurn.FromString(data)


@seed(4)
@settings(max_examples=100, deadline=None, database=None)
@given(fields=st.lists(st.one_of(st.binary(max_size=9), _UTF8, st.integers(-(1 << 63), (1 << 63) - 1))))
def test_canonical_bytes_are_read_back(fields: list[canonical.Field]) -> None:
    """What is packed is unpacked to the same, so that no two requests share a digest (P3, P6)."""
    assert canonical.unpack(canonical.pack(fields)) == fields


@seed(5)
@settings(max_examples=100, deadline=None, database=None)
@given(
    numbers=st.tuples(*[st.integers(0, 1 << 60)] * 6),
    texts=st.tuples(*[_UTF8] * 6),
    caps=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1 << 20)), max_size=4),
    degraded=st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["stale", "embedder_off"])), max_size=3),
    vector=st.binary(max_size=20),
)
def test_receipts_are_read_back(
    numbers: tuple[int, ...],
    texts: tuple[str, ...],
    caps: list[tuple[int, int]],
    degraded: list[tuple[int, str]],
    vector: bytes,
) -> None:
    """A receipt is read back as it was sealed, by the holder of the key alone (P7, P8)."""
    receipt = Receipt(
        tenant="t",
        session=texts[0],
        subject=texts[1],
        policy_name=texts[2],
        policy_version=numbers[0],
        tokenizer=texts[3],
        version=numbers[1],
        position=numbers[2],
        vector_position=numbers[3],
        model=texts[4],
        total_tokens=numbers[4],
        caps=tuple(caps),
        include=(3, 4),
        query=texts[5],
        query_vector=vector,
        degraded=tuple(degraded),
        served_at_us=numbers[5],
        fingerprint=vector,
    )
    sealed = Signer(b"k" * 32).seal(receipt)
    assert Signer(b"k" * 32).open(sealed, tenant="t", field_name="receipt") == receipt
    for other, tenant in ((b"j" * 32, "t"), (b"k" * 32, "u")):
        with pytest.raises(ReceiptInvalid):
            Signer(other).open(sealed, tenant=tenant, field_name="receipt")
