"""Receipts and consistency tokens: read by whoever has the key, made and changed by no one else (P4, P7, P8)."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import limits
from sidecar.errors import ReceiptInvalid, TokenInvalid
from sidecar.receipt import Receipt, Signer, Token
from standpipe.v1 import memory_pb2

SIGNER = Signer(b"k" * 32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(0, (1 << 62) - 1)
RECEIPTS = st.builds(
    Receipt,
    tenant=st.just("acme"),
    session=TEXTS,
    subject=TEXTS,
    policy_name=TEXTS,
    policy_version=NUMBERS,
    tokenizer=TEXTS,
    version=NUMBERS,
    position=NUMBERS,
    vector_position=NUMBERS,
    model=TEXTS,
    total_tokens=NUMBERS,
    caps=st.lists(st.tuples(st.integers(1, 5), NUMBERS), max_size=4).map(tuple),
    include=st.lists(st.integers(1, 5), max_size=4).map(tuple),
    query=TEXTS,
    query_vector=st.binary(max_size=400),
    degraded=st.lists(st.tuples(st.integers(1, 5), TEXTS), max_size=3).map(tuple),
    served_at_us=NUMBERS,
    fingerprint=st.binary(min_size=32, max_size=32),
    **dict.fromkeys(("epoch", "rules", "known_position"), NUMBERS | st.just(0)),
    cosine_floor_thousandths=NUMBERS | st.just(0),
    **dict.fromkeys(("library_position", "library_vector_position", "library_epoch"), NUMBERS | st.just(0)),
)
many = settings(deadline=None, max_examples=150)


def receipt(**changes: Any) -> Receipt:
    """Return a plain receipt."""
    plain = Receipt(
        tenant="acme", session="s", subject="ana", policy_name="p", policy_version=1, tokenizer="o200k_base",
        version=3, position=2, vector_position=1, model="", total_tokens=0, caps=(), include=(), query="q",
        query_vector=b"", degraded=(), served_at_us=5,
    )  # fmt: skip
    return replace(plain, **changes)


@given(made=RECEIPTS)
@many
def test_a_receipt_is_read_back_exactly(made: Receipt) -> None:
    """P7: everything that a bundle depended on comes back, field by field, also in another process of the key."""
    sealed = SIGNER.seal(made)
    assert Signer(b"k" * 32).open(sealed, tenant="acme", field_name="receipt") == made
    assert SIGNER.seal(made) == sealed


def test_a_receipt_without_what_came_later_has_the_bytes_of_then() -> None:
    """P7: what shows nothing of long-term memory is sealed as release 0.2.0 sealed it, which can read it, too."""
    of_0_2_0 = "1af4ea54"
    assert hashlib.sha256(SIGNER.seal(receipt())).hexdigest()[:8] == of_0_2_0
    assert (
        len(SIGNER.seal(receipt(known_position=4))) > len(SIGNER.seal(receipt(epoch=4))) > len(SIGNER.seal(receipt()))
    )


@given(made=RECEIPTS, other=RECEIPTS)
@many
def test_two_receipts_are_two_byte_strings(made: Receipt, other: Receipt) -> None:
    """P7: different receipts never share their bytes."""
    assert (SIGNER.seal(made) == SIGNER.seal(other)) == (made == other)


def test_every_field_is_sealed() -> None:
    """P7: each field of a receipt changes its bytes, so that none is forgotten when one is added."""
    plain = receipt()
    for one in fields(Receipt):
        value = getattr(plain, one.name)
        changed: Any = {str: "zz", int: 77, bytes: b"zz"}.get(type(value))
        if changed is None:
            changed = {"caps": ((4, 9),), "include": (4,), "degraded": ((5, "x"),)}[one.name]
        assert SIGNER.seal(replace(plain, **{one.name: changed})) != SIGNER.seal(plain), one.name


@given(made=RECEIPTS, data=st.data())
@many
def test_a_changed_receipt_is_refused(made: Receipt, data: st.DataObject) -> None:
    """P8: any flipped bit, any cut, any addition and any other key or tenant is ReceiptInvalid, naming the field."""
    sealed = bytearray(SIGNER.seal(made))
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(flipped), bytes(sealed[:at]), bytes(sealed) + b"\0", b"\0" + bytes(sealed)):
        with pytest.raises(ReceiptInvalid) as caught:
            SIGNER.open(bad, tenant="acme", field_name="turn.bundle_receipt")
        assert caught.value.field == "turn.bundle_receipt"
    for signer, tenant in ((Signer(b"l" * 32), "acme"), (SIGNER, "rival")):
        with pytest.raises(ReceiptInvalid):
            signer.open(bytes(sealed), tenant=tenant, field_name="receipt")


@given(garbage=st.binary(max_size=200))
@many
def test_garbage_is_no_receipt(garbage: bytes) -> None:
    """Any other bytes are ReceiptInvalid, and nothing of them is in the error."""
    with pytest.raises(ReceiptInvalid, match="is not a receipt"):
        SIGNER.open(garbage, tenant="acme", field_name="receipt")


def test_a_receipt_over_its_limit_is_refused() -> None:
    """Over limits.receipt_bytes nothing is read; the largest query and vector stay below."""
    largest = receipt(query="x" * limits.query_bytes, query_vector=bytes(1044))
    assert len(SIGNER.seal(largest)) < limits.receipt_bytes
    SIGNER.open(SIGNER.seal(largest), tenant="acme", field_name="receipt")
    with pytest.raises(ReceiptInvalid):
        SIGNER.open(SIGNER.seal(receipt(query="x" * limits.receipt_bytes)), tenant="acme", field_name="receipt")


def test_a_receipt_is_compact() -> None:
    """About 150 bytes and the query: it travels with every turn."""
    assert len(SIGNER.seal(receipt(session="s" * 20, subject="u" * 20, fingerprint=bytes(32)))) < 330


# --- tokens ----------------------------------------------------------------------------------------------------


@given(session=TEXTS, version=NUMBERS, position=NUMBERS)
@many
def test_a_token_is_read_back(session: str, version: int, position: int) -> None:
    """P4: a token gives its point back, is URL-safe and short."""
    text = SIGNER.token(tenant="acme", session=session, version=version, position=position)
    assert SIGNER.read_token(text, tenant="acme", session=session, field_name="t") == Token(version, position)
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").isalnum()
    assert len(text) < 110


def test_a_token_is_of_one_tenant_and_session() -> None:
    """P8: a token of another tenant, session or deployment is TokenInvalid, naming the field."""
    text = SIGNER.token(tenant="acme", session="s", version=1, position=1)
    for signer, tenant, session in (
        (SIGNER, "rival", "s"),
        (SIGNER, "acme", "t"),
        (Signer(b"l" * 32), "acme", "s"),
    ):
        with pytest.raises(TokenInvalid) as caught:
            signer.read_token(text, tenant=tenant, session=session, field_name="consistency.at_least_as_fresh")
        assert caught.value.field == "consistency.at_least_as_fresh"


@given(garbage=st.text(max_size=100))
@many
def test_garbage_is_no_token(garbage: str) -> None:
    """Any other text, of any characters, is TokenInvalid."""
    with pytest.raises(TokenInvalid):
        SIGNER.read_token(garbage, tenant="acme", session="s", field_name="t")


@given(data=st.data())
@many
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    """P4: no character of a token can be changed for another point."""
    text = SIGNER.token(tenant="acme", session="s", version=7, position=9)
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("ABCabc019-_=+/ é"))
    changed = text[:at] + letter + text[at + 1 :]
    try:
        found = SIGNER.read_token(changed, tenant="acme", session="s", field_name="t")
    except TokenInvalid:
        return
    assert found == Token(7, 9)  # the same bytes in another spelling of base64


def test_a_token_over_its_limit_is_refused() -> None:
    """Over limits.token_chars_max nothing is decoded."""
    with pytest.raises(TokenInvalid):
        SIGNER.read_token("A" * (limits.token_chars_max + 1), tenant="acme", session="s", field_name="t")


def test_a_receipt_is_no_token_and_a_token_no_receipt() -> None:
    """Both are made with one key: neither passes for the other, also when its signature is cut to length."""
    import base64

    sealed = SIGNER.seal(receipt())
    for data in (sealed, sealed[:-4]):
        text = base64.urlsafe_b64encode(data).decode().rstrip("=")
        with pytest.raises(TokenInvalid):
            SIGNER.read_token(text, tenant="acme", session="s", field_name="t")
    token = SIGNER.token(tenant="acme", session="s", version=1, position=1)
    with pytest.raises(ReceiptInvalid):
        SIGNER.open(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), tenant="acme", field_name="receipt")


def test_an_erasures_receipt_of_before_is_still_signed() -> None:
    """A receipt that was signed before it could count records of state is known again; their count is signed too."""
    old = memory_pb2.ErasureReceipt(tenant_id="acme", subject_id="ana", logs=3, events=7, items=9, keys=1)
    old.asked_at.FromMicroseconds(1_700_000_000_000_000)
    old.done_at.FromMicroseconds(1_700_000_002_000_000)
    old.signature = bytes.fromhex("95737dc6efd66d751d10de4d5cd7cd17ab0a1c6ac27d39807f62d85a249ecd8d")
    assert SIGNER.signed_erasure(old)
    assert SIGNER.sign_erasure(old) == old.signature
    old.state_records = 4
    assert not SIGNER.signed_erasure(old)
    old.signature = SIGNER.sign_erasure(old)
    assert SIGNER.signed_erasure(old)
    old.state_records = 5
    assert not SIGNER.signed_erasure(old)
