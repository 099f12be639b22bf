"""Every way a call can fail, as the client sees it.

::

    StandpipeError                  .code, .reason, .metadata, .field, .field_message, .retry_after_ms, .request_id
    ├── InvalidArgument             a field, token, receipt, budget or policy document is wrong: `field` names it
    ├── NotFound                    no such session, policy or route
    ├── AlreadyExists               the request id was used before with another body
    ├── Conflict                    ABORTED: another commit won this version; rehydrate and reapply
    ├── FailedPrecondition          subject mismatch, read-only store, replay no longer possible
    │   └── SessionEnded            the session takes no more turns
    ├── OutOfRange                  the version or token is ahead of the session's log
    ├── PermissionDenied            the tenant is not the caller's
    ├── Unauthenticated             the credential is missing or not valid
    ├── ResourceExhausted           the store is full, or a message is larger than the wire limit
    │   └── Overloaded              a bounded queue is full: pause for `retry_after_ms`
    ├── Unavailable                 the server or its store cannot be reached; was retried already
    ├── DeadlineExceeded            `deadline_ms` passed
    ├── Cancelled                   the server cancelled the call
    ├── DataLoss, Internal, Unimplemented
    └── (StandpipeError itself)     any other status

The class follows the gRPC status, and the reason where that says more. `reason` is a name of
`standpipe.v1.ErrorReason` without its prefix, or empty when no Standpipe server wrote the error (connection
refused, a proxy's answer, a limit of gRPC itself).

A commit that ends in Unavailable or DeadlineExceeded may have happened. `request_id` tells which it was: commit
the same entries again under that id, and it counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "Conflict",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "ResourceExhausted",
    "SessionEnded",
    "StandpipeError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "parse",
]

Detail = TypeVar("Detail", bound=Message)

DOMAIN: Final = "standpipe.dev"
DETAILS_KEY: Final = "grpc-status-details-bin"


class StandpipeError(Exception):
    """The root of all errors that a call can end in."""

    status: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str = "", *, code: str | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        """What is wrong and what would be right; never holds a user's text."""
        self.code = code or self.status
        """The gRPC status by name, such as "ABORTED"."""
        self.reason = reason
        """The name of `standpipe.v1.ErrorReason` without prefix, such as "VERSION_CONFLICT"; may be empty."""
        self.metadata: dict[str, str] = {}
        """What the reason documents in error.proto, such as `current_version`."""
        self.field: str | None = None
        """The path of the field that is wrong, where one is."""
        self.field_message: str | None = None
        """What that field must be."""
        self.retry_after_ms: int | None = None
        """The pause that the server advises; None where a retry of the same call cannot help."""
        self.request_id: str | None = None
        """The id of the commit or end that failed, to repeat it safely; None for other calls."""

    def __str__(self) -> str:
        label = self.reason or self.code
        return f"{label}: {self.message}" if self.message else label


class InvalidArgument(StandpipeError):
    """Something in the request is wrong; the same request fails again."""

    status = "INVALID_ARGUMENT"


class NotFound(StandpipeError):
    """The tenant has no such session, policy or route."""

    status = "NOT_FOUND"


class AlreadyExists(StandpipeError):
    """The request id was used before in this session with another body."""

    status = "ALREADY_EXISTS"


class Conflict(StandpipeError):
    """Another commit won this version (P2). Rehydrate, reapply, commit under a new request id."""

    status = "ABORTED"

    @property
    def current_version(self) -> int | None:
        """The session's version now; None if the server did not say."""
        value = self.metadata.get("current_version", "")
        return int(value) if value.isdecimal() else None

    @property
    def winner_request_id(self) -> str | None:
        """The request id of the commit that won; None if the server did not say."""
        return self.metadata.get("winner_request_id") or None


class FailedPrecondition(StandpipeError):
    """The call is right but the state of the session or the server is not; see `reason`."""

    status = "FAILED_PRECONDITION"


class SessionEnded(FailedPrecondition):
    """The session was ended and takes no more turns."""


class OutOfRange(StandpipeError):
    """The version or the token is ahead of the session's log."""

    status = "OUT_OF_RANGE"


class PermissionDenied(StandpipeError):
    """The tenant in the request is not the caller's (P8)."""

    status = "PERMISSION_DENIED"


class Unauthenticated(StandpipeError):
    """The credential is missing or not valid."""

    status = "UNAUTHENTICATED"


class ResourceExhausted(StandpipeError):
    """The store's disk is full, or a message exceeds the wire limit of 8 MiB."""

    status = "RESOURCE_EXHAUSTED"


class Overloaded(ResourceExhausted):
    """A bounded queue of the server is full (P12). Nothing happened; pause for `retry_after_ms`."""


class Unavailable(StandpipeError):
    """The server or its store cannot be reached; the channel's retries are used up."""

    status = "UNAVAILABLE"


class DeadlineExceeded(StandpipeError):
    """The call's `deadline_ms` passed."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(StandpipeError):
    """The call was cancelled by the server or by closing the client; a task's own cancel is CancelledError."""

    status = "CANCELLED"


class DataLoss(StandpipeError):
    """A stored event does not match its hash, or a stored row cannot be read."""

    status = "DATA_LOSS"


class Internal(StandpipeError):
    """A defect in Standpipe; metadata has the correlation id of its log."""

    status = "INTERNAL"


class Unimplemented(StandpipeError):
    """The server does not know this call: it is older than the client, or not Standpipe."""

    status = "UNIMPLEMENTED"


_BY_STATUS: Final[Mapping[str, type[StandpipeError]]] = {kind.status: kind for kind in StandpipeError.__subclasses__()}
_BY_REASON: Final[Mapping[str, type[StandpipeError]]] = {"OVERLOADED": Overloaded, "SESSION_ENDED": SessionEnded}


def parse(code: str, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> StandpipeError:
    """Return the error of a failed call from its status `code` by name, its message and its trailing metadata.

    Details of another domain, and details that cannot be read, are left out: the status alone is still true. Of
    details of one kind the first counts.
    """
    status = status_pb2.Status()
    for key, value in trailers:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                status.Clear()
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry: error_details_pb2.RetryInfo | None = None
    for detail in reversed(status.details):
        if (found := _unpacked(detail, error_details_pb2.ErrorInfo)) and found.domain == DOMAIN:
            info = found
        bad = _unpacked(detail, error_details_pb2.BadRequest) or bad
        retry = _unpacked(detail, error_details_pb2.RetryInfo) or retry
    kind = _BY_REASON.get(info.reason) or _BY_STATUS.get(code, StandpipeError)
    error = kind(message, code=code, reason=info.reason)
    error.metadata = dict(info.metadata)
    if bad.field_violations:
        error.field = bad.field_violations[0].field
        error.field_message = bad.field_violations[0].description
    if retry is not None:
        error.retry_after_ms = retry.retry_delay.ToMilliseconds()
    return error


def _unpacked(detail: any_pb2.Any, kind: type[Detail]) -> Detail | None:
    """Return a detail if it is of that kind and can be read."""
    found = kind()
    try:
        return found if detail.Unpack(found) else None
    except DecodeError:
        return None
