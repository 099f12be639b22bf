"""Receipts and consistency tokens: what a client carries, so that the read path writes nothing.

Both are canonical bytes with a MAC under the deployment's key: any pod on the same record store reads them, no one
else can make or change them. A receipt holds what a hydrate depended on besides the log (the request, the policy
version, the positions that were visible, the query's vector), so the same bundle can be rendered again (P7).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sidecar import canonical, limits
from sidecar.errors import ReceiptInvalid, TokenInvalid
from standpipe.v1 import memory_pb2

_RECEIPT_MAC_BYTES = 16
_TOKEN_MAC_BYTES = 12
_ERASURE_MAC_BYTES = 32
_EXPORT_MAC_BYTES = 32
_PAGE_FORMAT = "page"
"""A consistency token begins with a number."""
_RECEIPT_FORMAT = 1
_TAIL = (
    "epoch",
    "rules",
    "known_position",
    "library_position",
    "library_vector_position",
    "library_epoch",
    "cosine_floor_thousandths",
)
"""Fields that came later, in this order: numbers, 0 where they are not there."""

_TOKEN_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Everything that a bundle is a function of, besides the log and the immutable policies."""

    tenant: str
    session: str
    subject: str
    policy_name: str
    policy_version: int
    tokenizer: str
    version: int
    """The session's version."""
    position: int
    """The subject's last visible item; 0 when recall was not searched."""
    vector_position: int
    """The subject's last item whose vector was visible."""
    model: str
    """The id of the embedding model; empty without one."""
    total_tokens: int
    """The request's total; 0 when it had none."""
    caps: tuple[tuple[int, int], ...]
    """The request's caps: (source, tokens)."""
    include: tuple[int, ...]
    """The request's sources."""
    query: str
    query_vector: bytes
    """Packed by `sidecar.recall`; empty when recall went by words alone."""
    degraded: tuple[tuple[int, str], ...]
    """(source, cause) of what was missing."""
    served_at_us: int
    fingerprint: bytes = field(default=b"")
    epoch: int = 0
    """The epoch of the subject's memory: at another, items have gone since."""
    rules: int = 0
    """By which rules the bundle was made: 0 for those of release 0.2.0, which knew what was said and nothing else."""
    known_position: int = 0
    """The subject's last visible change of memory; 0 when neither profile nor facts were shown."""
    library_position: int = 0
    """The last visible item of the tenant's own documents; 0 when there was none."""
    library_vector_position: int = 0
    """As `vector_position`."""
    library_epoch: int = 0
    """As `epoch`."""
    cosine_floor_thousandths: int = 0
    """The model's own floor of relevance; 0 for the built-in one."""


@dataclass(frozen=True, slots=True)
class Token:
    """A point in a session's log, and in its subject's memory."""

    version: int
    position: int


class Signer:
    """Makes and reads receipts and tokens under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, receipt: Receipt) -> bytes:
        """Return the bytes of a receipt: about 150, plus the query and 388 for its vector."""
        fields: list[canonical.Field] = [
            _RECEIPT_FORMAT,
            receipt.tenant,
            receipt.session,
            receipt.subject,
            receipt.policy_name,
            receipt.policy_version,
            receipt.tokenizer,
            receipt.version,
            receipt.position,
            receipt.vector_position,
            receipt.model,
            receipt.total_tokens,
            canonical.pack(part for cap in receipt.caps for part in cap),
            canonical.pack(receipt.include),
            receipt.query,
            receipt.query_vector,
            canonical.pack(part for item in receipt.degraded for part in item),
            receipt.served_at_us,
            receipt.fingerprint,
        ]
        tail = [getattr(receipt, name) for name in _TAIL]
        while tail and not tail[-1]:  # releases before know fewer fields, and receipts without them are theirs, too
            tail.pop()
        fields += tail
        data = canonical.pack(fields)
        return data + canonical.sign(self._key, data, size_bytes=_RECEIPT_MAC_BYTES)

    def open(self, sealed: bytes, *, tenant: str, field_name: str) -> Receipt:
        """Read a receipt of this tenant. Raises ReceiptInvalid, whatever is wrong with it, naming `field_name`."""
        data, mac = sealed[:-_RECEIPT_MAC_BYTES], sealed[-_RECEIPT_MAC_BYTES:]
        if len(sealed) > limits.receipt_bytes or not data or not canonical.signed_by(self._key, data, mac):
            raise ReceiptInvalid("is not a receipt of this deployment, or was changed", field=field_name)
        fields = canonical.unpack(data)
        if fields[0] != _RECEIPT_FORMAT or fields[1] != tenant:
            raise ReceiptInvalid("is a receipt of another tenant or release", field=field_name)
        caps, include, degraded = (canonical.unpack(_bytes(fields[at])) for at in (12, 13, 16))
        return Receipt(
            tenant=tenant,
            session=str(fields[2]),
            subject=str(fields[3]),
            policy_name=str(fields[4]),
            policy_version=_int(fields[5]),
            tokenizer=str(fields[6]),
            version=_int(fields[7]),
            position=_int(fields[8]),
            vector_position=_int(fields[9]),
            model=str(fields[10]),
            total_tokens=_int(fields[11]),
            caps=tuple((_int(a), _int(b)) for a, b in zip(caps[::2], caps[1::2], strict=True)),
            include=tuple(_int(source) for source in include),
            query=str(fields[14]),
            query_vector=_bytes(fields[15]),
            degraded=tuple((_int(a), str(b)) for a, b in zip(degraded[::2], degraded[1::2], strict=True)),
            served_at_us=_int(fields[17]),
            fingerprint=_bytes(fields[18]),
            **dict(zip(_TAIL, map(_int, fields[19:]), strict=False)),
        )

    def token(self, *, tenant: str, session: str, version: int, position: int) -> str:
        """Return the consistency token of a point: URL-safe text of about 90 characters."""
        data = canonical.pack((_TOKEN_FORMAT, _identity(tenant, session), version, position))
        sealed = data + canonical.sign(self._key, data, size_bytes=_TOKEN_MAC_BYTES)
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def sign_erasure(self, receipt: memory_pb2.ErasureReceipt) -> bytes:
        """Return the signature over everything else that an erasure's receipt says."""
        said: list[canonical.Field] = ["erasure"]  # no receipt of a bundle begins so
        for one in receipt.DESCRIPTOR.fields:
            value = getattr(receipt, one.name)
            if one.name in ("asked_at", "done_at"):
                said.append(value.ToMicroseconds())
            elif one.name == "state_records" and not value:
                continue  # a receipt from before there was state is signed as it was
            elif one.name != "signature":
                said.append(value)
        return canonical.sign(self._key, canonical.pack(said), size_bytes=_ERASURE_MAC_BYTES)

    def signed_erasure(self, receipt: memory_pb2.ErasureReceipt) -> bool:
        """Return whether a receipt of an erasure is this deployment's, and unchanged."""
        return hmac.compare_digest(self.sign_erasure(receipt), receipt.signature)

    def sign_export(self, *, tenant: str, subject: str, chain: bytes) -> bytes:
        """Return the signature over an export of a subject: by it this deployment knows its own again."""
        return canonical.sign(
            self._key, canonical.pack(("export", tenant, subject, chain)), size_bytes=_EXPORT_MAC_BYTES
        )

    def seal_page(self, fields: Iterable[canonical.Field], *, of: Sequence[str]) -> str:
        """Return the token of a page: where it begins, and of what it is."""
        data = canonical.pack((_PAGE_FORMAT, canonical.pack(of), *fields))
        sealed = data + canonical.sign(self._key, data, size_bytes=_TOKEN_MAC_BYTES)
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open_page(
        self, text: str, *, of: Sequence[str], field_name: str, chars_max: int = limits.token_chars_max
    ) -> list[canonical.Field]:
        """Read the token of a page. Raises TokenInvalid, naming `field_name`."""
        fields = canonical.unpack(self._opened(text, "a page token", field_name, chars_max))
        if fields[:2] != [_PAGE_FORMAT, canonical.pack(of)]:
            raise TokenInvalid("belongs to another list", field=field_name)
        return fields[2:]

    def read_token(self, text: str, *, tenant: str, session: str, field_name: str) -> Token:
        """Read a token of this session. Raises TokenInvalid, naming `field_name`."""
        fields = canonical.unpack(self._opened(text, "a consistency token", field_name))
        if fields[0] != _TOKEN_FORMAT or fields[1] != _identity(tenant, session):
            raise TokenInvalid("belongs to another session", field=field_name)
        return Token(_int(fields[2]), _int(fields[3]))

    def _opened(self, text: str, what: str, field_name: str, chars_max: int = limits.token_chars_max) -> bytes:
        """Return what stands in a token that is ours."""
        try:
            if len(text) > chars_max:
                raise ValueError
            sealed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise TokenInvalid(f"is not {what}", field=field_name) from None
        data, mac = sealed[:-_TOKEN_MAC_BYTES], sealed[-_TOKEN_MAC_BYTES:]
        if not data or not canonical.signed_by(self._key, data, mac):
            raise TokenInvalid(f"is not {what} of this deployment", field=field_name)
        return data


def _identity(tenant: str, session: str) -> bytes:
    return canonical.sha256((tenant, session))[:8]


def _int(value: canonical.Field) -> int:
    assert isinstance(value, int)  # signed by us, so its form is ours
    return value


def _bytes(value: canonical.Field) -> bytes:
    assert isinstance(value, bytes)
    return value
