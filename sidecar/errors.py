"""Every way a call can fail, as one tree.

::

    StandpipeError
    ├── InvalidField            INVALID_ARGUMENT     a field is missing, malformed or out of range
    │   ├── LimitExceeded       INVALID_ARGUMENT     a documented limit
    │   ├── ToolResultWithoutCall
    │   ├── TokenInvalid
    │   ├── ReceiptInvalid
    │   ├── BudgetTooSmall
    │   ├── TokenizerUnknown
    │   └── PolicyInvalid
    ├── RequestIdReused         ALREADY_EXISTS
    ├── SessionNotFound, PolicyNotFound, RouteNotFound, FactNotFound, ModelNotServed    NOT_FOUND
    ├── SessionEnded, SessionExpired, Erased, SubjectMismatch, ReplayUnavailable    FAILED_PRECONDITION
    ├── VersionConflict         ABORTED              rehydrate, reapply, new request id
    ├── VersionInFuture         OUT_OF_RANGE
    ├── TenantDenied            PERMISSION_DENIED
    ├── Unauthenticated         UNAUTHENTICATED
    ├── StoreUnavailable        UNAVAILABLE          the one that a client retries
    │   ├── HotUnavailable      never leaves the server
    │   ├── EndpointUnavailable never leaves the worker
    │   └── Draining
    ├── EmbedderUnavailable, AuthenticatorUnavailable   UNAVAILABLE
    ├── StoreReadOnly, StoreSchemaNewer, ModelInvalid, ConfigInvalid   FAILED_PRECONDITION
    ├── StoreFull, Overloaded   RESOURCE_EXHAUSTED
    ├── StoreCorrupt            DATA_LOSS
    ├── DeadlineExceeded        DEADLINE_EXCEEDED
    └── Internal                INTERNAL

Each class carries one reason of ``standpipe.v1.ErrorReason`` and one gRPC status, by name: only the servicers
know gRPC. A message says what is wrong and what would be right, and never holds a user's text: trailers,
logs and other tenants' eyes are where it ends up.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar


class StandpipeError(Exception):
    """The root. `metadata` travels as ErrorInfo.metadata: short, and never a user's text."""

    reason: ClassVar[str] = "INTERNAL"
    status: ClassVar[str] = "INTERNAL"
    retry_after_ms: int | None = None
    """The pause that RetryInfo advises; None means that a retry of the same call cannot help. Who knows better than the
    class sets it on the instance, as a breaker's pause is."""

    def __init__(self, message: str, /, *, field: str | None = None, **metadata: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidField(StandpipeError):
    """A field is missing, malformed or out of its range. `field` is its path in the request."""

    reason = "INVALID_FIELD"
    status = "INVALID_ARGUMENT"


class LimitExceeded(InvalidField):
    """A limit of `sidecar.limits` is exceeded: named in the metadata with its maximum and the actual size."""

    reason = "LIMIT_EXCEEDED"


class ToolResultWithoutCall(InvalidField):
    """A tool result names a call that neither this turn nor the session's open calls hold.

    The id travels as its hash: a model or a tool wrote it.
    """

    reason = "TOOL_RESULT_WITHOUT_CALL"

    def __init__(self, message: str, /, *, call_id: str, field: str) -> None:
        digest = hashlib.sha256(call_id.encode()).hexdigest()
        super().__init__(message, field=field, tool_call_id_sha256=digest[:16])


class TokenInvalid(InvalidField):
    """A consistency token is malformed, forged, or of another tenant or session."""

    reason = "TOKEN_INVALID"


class ReceiptInvalid(InvalidField):
    """A receipt is malformed, changed, or of another tenant or session."""

    reason = "RECEIPT_INVALID"


class BudgetTooSmall(InvalidField):
    """The budget cannot hold the policy's prompts and reserved minimums (P5)."""

    reason = "BUDGET_TOO_SMALL"


class TokenizerUnknown(InvalidField):
    """No tokenizer of that name, or none known for that model; the message lists the known."""

    reason = "TOKENIZER_UNKNOWN"


class PolicyInvalid(InvalidField):
    """A policy document does not follow the schema; `field` is the path inside the document."""

    reason = "POLICY_INVALID"


class RequestIdReused(StandpipeError):
    """The request id was used before in this session with another body (P3)."""

    reason = "REQUEST_ID_REUSED"
    status = "ALREADY_EXISTS"


class SessionNotFound(StandpipeError):
    """The tenant has no such session."""

    reason = "SESSION_NOT_FOUND"
    status = "NOT_FOUND"


class PolicyNotFound(StandpipeError):
    """The tenant has no such policy, or not that version of it."""

    reason = "POLICY_NOT_FOUND"
    status = "NOT_FOUND"


class RouteNotFound(StandpipeError):
    """The tenant has no such route."""

    reason = "ROUTE_NOT_FOUND"
    status = "NOT_FOUND"


class SessionEnded(StandpipeError):
    """The session was ended and takes no more turns."""

    reason = "SESSION_ENDED"
    status = "FAILED_PRECONDITION"


class SessionExpired(StandpipeError):
    """The session's log was removed when its time had passed; a new session has another id."""

    reason = "SESSION_EXPIRED"
    status = "FAILED_PRECONDITION"

    def __init__(self) -> None:
        super().__init__("the session's log was removed when its time had passed: go on under a new session id")


class Erased(StandpipeError):
    """A subject, session or document was erased, and takes nothing under its id any more (P11). Metadata: what."""

    reason = "ERASED"
    status = "FAILED_PRECONDITION"

    def __init__(self, what: str) -> None:
        super().__init__(f"the {what} was erased, and takes nothing under its id any more", what=what)


class FactNotFound(StandpipeError):
    """The subject has no such fact, or it is not in the state that the call needs. Metadata: its status."""

    reason = "FACT_NOT_FOUND"
    status = "NOT_FOUND"


class SubjectMismatch(StandpipeError):
    """The session belongs to another subject than the request names."""

    reason = "SUBJECT_MISMATCH"
    status = "FAILED_PRECONDITION"


class ReplayUnavailable(StandpipeError):
    """What a receipt names is gone: erased, or its model or tokenizer is not at hand."""

    reason = "REPLAY_UNAVAILABLE"
    status = "FAILED_PRECONDITION"


class VersionConflict(StandpipeError):
    """Another commit won this version (P2), or another write this record. Metadata: current_version, and
    winner_request_id or key_index.
    """

    reason = "VERSION_CONFLICT"
    status = "ABORTED"


class VersionInFuture(StandpipeError):
    """The version or the token is ahead of the session's log."""

    reason = "VERSION_IN_FUTURE"
    status = "OUT_OF_RANGE"


class TenantDenied(StandpipeError):
    """The tenant in the request is not the caller's (P8)."""

    reason = "TENANT_DENIED"
    status = "PERMISSION_DENIED"


class Unauthenticated(StandpipeError):
    """The call's credential is missing, expired, not valid, or not meant for this server."""

    reason = "UNAUTHENTICATED"
    status = "UNAUTHENTICATED"


class StoreUnavailable(StandpipeError):
    """A store cannot be reached, or stayed locked beyond the deadline. Retry with the same request id."""

    reason = "STORE_UNAVAILABLE"
    status = "UNAVAILABLE"
    retry_after_ms = 200


class HotUnavailable(StoreUnavailable):
    """The hot store cannot be reached in time. No call fails for it alone: the record store answers instead."""


class EndpointUnavailable(StoreUnavailable):
    """The endpoint of the extraction cannot be reached, or cannot answer just now; nothing else waits for it."""


class Draining(StoreUnavailable):
    """The server is shutting down; another replica, or this one restarted, takes the retry."""

    reason = "DRAINING"
    retry_after_ms = 500


class StoreReadOnly(StandpipeError):
    """The record store refuses writes."""

    reason = "STORE_READ_ONLY"
    status = "FAILED_PRECONDITION"


class StoreFull(StandpipeError):
    """The record store's disk is full; nothing was written."""

    reason = "STORE_FULL"
    status = "RESOURCE_EXHAUSTED"


class StoreCorrupt(StandpipeError):
    """A stored event does not match its hash, or a stored row cannot be read."""

    reason = "STORE_CORRUPT"
    status = "DATA_LOSS"


class StoreSchemaNewer(StandpipeError):
    """The record store was written by a newer release than this one."""

    reason = "STORE_SCHEMA_NEWER"
    status = "FAILED_PRECONDITION"


class Overloaded(StandpipeError):
    """A bounded queue is full; metadata names its limit (P12)."""

    reason = "OVERLOADED"
    status = "RESOURCE_EXHAUSTED"
    retry_after_ms = 100


class DeadlineExceeded(StandpipeError):
    """The caller's deadline passed before a mandatory phase ended; metadata names the phase."""

    reason = "DEADLINE_EXCEEDED"
    status = "DEADLINE_EXCEEDED"


class ModelNotServed(StandpipeError):
    """An embedder was asked for a model that it does not serve; metadata lists those that it does."""

    reason = "MODEL_NOT_SERVED"
    status = "NOT_FOUND"


class EmbedderUnavailable(StandpipeError):
    """The embedder's device failed, or the shared embedder does not answer; recall goes by words alone meanwhile."""

    reason = "EMBEDDER_UNAVAILABLE"
    status = "UNAVAILABLE"
    retry_after_ms = 1000


class AuthenticatorUnavailable(StandpipeError):
    """What vouches for callers' tokens does not answer, and this token was not seen before."""

    reason = "AUTHENTICATOR_UNAVAILABLE"
    status = "UNAVAILABLE"
    retry_after_ms = 1000


class ModelInvalid(StandpipeError):
    """A model or tokenizer file is missing, unreadable, or not of its pinned SHA-256."""

    reason = "MODEL_INVALID"
    status = "FAILED_PRECONDITION"


class ConfigInvalid(StandpipeError):
    """A configuration value is missing or not valid; `field` is its name. Printed at start, never sent."""

    reason = "CONFIG_INVALID"
    status = "FAILED_PRECONDITION"


class Internal(StandpipeError):
    """A defect in Standpipe; the log has the correlation id."""

    reason = "INTERNAL"
    status = "INTERNAL"
