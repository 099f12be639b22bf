"""Canonical bytes: what is hashed, signed or compared is written here, once.

A value is a sequence of fields, each a tag, a length and the bytes; integers are 8 bytes, big-endian, signed.
Neither protobuf nor JSON output is canonical over releases and languages; this form is, and it is cheap.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable

Field = bytes | str | int
NO_HASH = bytes(32)
"""What stands before the first event of a session."""

_HEAD = struct.Struct(">BI")
_INT = struct.Struct(">q")


def pack(fields: Iterable[Field]) -> bytes:
    """Return the canonical bytes: of each field its kind (1 bytes, 2 text, 3 integer), its length, itself."""
    out = bytearray()
    for value in fields:
        if isinstance(value, bytes):
            kind, raw = 1, value
        elif isinstance(value, str):
            kind, raw = 2, value.encode()
        else:
            kind, raw = 3, _INT.pack(value)
        out += _HEAD.pack(kind, len(raw))
        out += raw
    return bytes(out)


def unpack(data: bytes) -> list[Field]:
    """Read what `pack` wrote. Raises ValueError on anything else."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ValueError("a field's head is cut off")
        kind, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        raw = data[at : at + size]
        if len(raw) != size:
            raise ValueError("a field is cut off")
        at += size
        if kind == 1:
            fields.append(raw)
        elif kind == 2:
            fields.append(raw.decode())
        elif kind == 3 and size == _INT.size:
            fields.append(_INT.unpack(raw)[0])
        else:
            raise ValueError(f"no field has kind {kind} and {size} bytes")
    return fields


def sha256(fields: Iterable[Field]) -> bytes:
    """Return the SHA-256 of the canonical bytes of `fields`."""
    return hashlib.sha256(pack(fields)).digest()


def sign(key: bytes, data: bytes, *, size_bytes: int = 16) -> bytes:
    """Return the first `size_bytes` of HMAC-SHA-256 over `data`."""
    return hmac.digest(key, data, "sha256")[:size_bytes]


def signed_by(key: bytes, data: bytes, mac: bytes) -> bool:
    """Return whether `mac` is the signature of `data`, in constant time."""
    return hmac.compare_digest(sign(key, data, size_bytes=len(mac)), mac)


def event_hash(
    previous_hash: bytes,
    *,
    tenant: str,
    session: str,
    version: int,
    kind: int,
    request_id: str,
    committed_at_us: int,
    body: bytes,
    body_hash: bytes = b"",
) -> bytes:
    """Return the hash of one event: the chain that makes a changed, lost or reordered event visible (R5).

    `body_hash` stands for the body that it is the SHA-256 of, if that one is there no more (R28).
    """
    return sha256(
        (
            previous_hash,
            tenant,
            session,
            version,
            int(kind),
            request_id,
            committed_at_us,
            body_hash or hashlib.sha256(body).digest(),
        )
    )
