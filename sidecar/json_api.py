"""The API as JSON over HTTP/1.1, for those who have no gRPC: the unary half of the Connect protocol.

``POST /standpipe.v1.ContextService/HydrateContext`` with the request as canonical protobuf JSON gives the answer as
that, or an error as Connect writes it: its code, our message, and the same details that gRPC's trailers have. So
Connect's own clients work as they are, those too that write messages as bytes, and `curl` does. The servicers and the
boundary are those of gRPC; this gives them a call.

No browser gets in: a page of another origin cannot send this content type without asking first, nobody answers when it
asks, and what bears an Origin is refused.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any, NoReturn

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from sidecar import limits
from sidecar.servicers.boundary import DETAILS_KEY, Unreadable

Behaviour = Callable[[Message | Unreadable, Any], Awaitable[Message]]
"""A servicer's method."""

STATUSES: Mapping[str, int] = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}
"""HTTP's status for each code, as Connect has them."""

JSON = "application/json"
_BYTES = "application/proto"
_TIMEOUT = re.compile(r"[0-9]{1,10}")
_GRACE_S = 0.05
"""What is left of a call behind its deadline, so that it is the one that says which deadline passed."""

_IDLE_S = 75.0
"""After which a connection without a call is closed, and one that sends no whole call."""

_INLINE_BYTES = 64 << 10
"""Messages up to this size are read and written on the event loop, in about a millisecond; larger ones in a thread."""

_DETAILS = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
}


@dataclass(frozen=True, slots=True)
class Method:
    """A method that can be called."""

    request: type[Message]
    behaviour: Behaviour


class _Refused(Exception):
    """Ends a call with an error."""

    def __init__(
        self, code: str, message: str, *, status: int = 0, details: bytes = b"", headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(message)
        self.status = status or STATUSES[code]
        self.headers = dict(headers)
        self.body: dict[str, Any] = {"code": code, "message": message}
        if details:
            self.body["details"] = list(_details(status_pb2.Status.FromString(details)))


def _details(status: status_pb2.Status) -> Iterator[dict[str, Any]]:
    """Yield an error's details as Connect has them: the bytes for clients, and what they say for people."""
    for detail in status.details:
        name = detail.TypeName()
        kind = _DETAILS[name]()
        detail.Unpack(kind)
        value = base64.b64encode(detail.value).decode().rstrip("=")
        yield {"type": name, "value": value, "debug": json_format.MessageToDict(kind)}


class _Call:
    """What the boundary asks of a call, in place of gRPC's context."""

    def __init__(self, request: web.BaseRequest, deadline: float | None) -> None:
        self._request = request
        self._deadline = deadline

    def time_remaining(self) -> float | None:
        """Return the seconds that are left; None without a deadline."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Return the headers."""
        return [(name.lower(), value) for name, value in self._request.headers.items()]

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Return the names in the client's certificate, as gRPC does."""
        transport = self._request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        found: dict[str, list[bytes]] = {"peer_uri": [], "peer_dns": []}
        for kind, name in (certificate or {}).get("subjectAltName", ()):
            found.setdefault({"URI": "peer_uri", "DNS": "peer_dns"}.get(kind, ""), []).append(name.encode())
        return found

    async def abort(self, code: Any, message: str, trailing_metadata: Sequence[tuple[str, bytes]]) -> NoReturn:
        """End the call with a status."""
        name = "canceled" if code.name == "CANCELLED" else code.name.lower()
        headers = {"WWW-Authenticate": "Bearer"} if name == "unauthenticated" else {}
        raise _Refused(name, message, details=dict(trailing_metadata)[DETAILS_KEY], headers=headers)


class _Server(web.Server):
    """Knows since when its connections are there."""

    def __init__(self, handler: Any, **options: Any) -> None:
        super().__init__(handler, **options)
        self._since: dict[web.RequestHandler, float] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._since[handler] = time.monotonic()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._since.pop(handler, None)

    def is_old(self, handler: web.RequestHandler) -> bool:
        """Return whether a client should connect anew: it then shows its certificate again, and may find other pods."""
        return time.monotonic() > self._since.get(handler, 0.0) + limits.connection_age_ms / 1000


class JsonApi:
    """Serves methods by their paths."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._server = _Server(
            self._answer,
            handler_cancellation=True,  # a caller that leaves ends its call, as with gRPC
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_IDLE_S,
        )
        self._listening: list[asyncio.Server] = []
        self._files: dict[Path, int] = {}

    async def serve(self, bound: socket, tls: ssl.SSLContext | None) -> None:
        """Serve at a bound socket."""
        if bound.family == AF_UNIX:
            path = Path(bound.getsockname())
            self._files[path] = path.stat().st_ino
        loop = asyncio.get_running_loop()
        self._listening.append(await loop.create_server(self._server, sock=bound, ssl=tls))

    async def close(self, within_s: float) -> None:
        """Take no new connections, and let the calls at work end."""
        for one in self._listening:
            one.close()
        self._server.pre_shutdown()
        await self._server.shutdown(within_s)
        for path, inode in self._files.items():
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:  # and not one that took its place
                    path.unlink()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            status, headers, body = 200, {"Content-Type": request.content_type}, await self._answered(request)
        except _Refused as refused:
            status, headers, body = refused.status, refused.headers, json.dumps(refused.body).encode()
        headers = {"Content-Type": JSON, "Server": "standpipe", **headers}
        answer = web.Response(status=status, body=body, headers=headers)
        if self._server.is_old(request.protocol):
            answer.force_close()
        return answer

    async def _answered(self, request: web.BaseRequest) -> bytes:
        method = self._admitted(request)
        deadline = _deadline(request)
        left_s = limits.deadline_default_ms / 1000 if deadline is None else deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(left_s, 0) + _GRACE_S):
                body = await _read(request)
        except TimeoutError:
            raise _Refused("deadline_exceeded", "the deadline passed before the request was here") from None
        parse, form = (read, write) if request.content_type == JSON else (_parse, _form)
        large = len(body) > _INLINE_BYTES
        message = await asyncio.to_thread(parse, method.request, body) if large else parse(method.request, body)
        longest_s = None if deadline is None else max(0, deadline - time.monotonic()) + _GRACE_S
        try:
            async with asyncio.timeout(longest_s):
                answer = await method.behaviour(message, _Call(request, deadline))
        except TimeoutError:
            raise _Refused("deadline_exceeded", "the deadline passed") from None
        large = answer.ByteSize() > _INLINE_BYTES
        written = await asyncio.to_thread(form, answer) if large else form(answer)
        _size(len(written), "the answer")
        return written

    def _admitted(self, request: web.BaseRequest) -> Method:
        """Return the method that a request is for, unless it is no request of this protocol."""
        headers = request.headers
        if "Origin" in headers:
            raise _Refused("permission_denied", "browsers are not served")
        method = self._methods.get(request.path)
        if method is None:
            raise _Refused("unimplemented", "there is no such method", status=404)
        if request.method != "POST":
            raise _Refused("unimplemented", "calls are made by POST", status=405, headers={"Allow": "POST"})
        if request.content_type not in (JSON, _BYTES) or (request.charset or "utf-8").lower() != "utf-8":
            said = f"Content-Type must be {JSON}, or {_BYTES}"
            raise _Refused("invalid_argument", said, status=415, headers={"Accept-Post": f"{JSON}, {_BYTES}"})
        if headers.get("Content-Encoding", "identity") != "identity":
            raise _Refused(
                "unimplemented", "Content-Encoding must be identity", headers={"Accept-Encoding": "identity"}
            )
        if headers.get("Connect-Protocol-Version", "1") != "1":
            raise _Refused("invalid_argument", "Connect-Protocol-Version must be 1")
        return method


def _deadline(request: web.BaseRequest) -> float | None:
    """Return when the caller stops waiting, by `time.monotonic()`; None if it does not say."""
    given = request.headers.get("Connect-Timeout-Ms")
    if given is None:
        return None
    if not _TIMEOUT.fullmatch(given):
        raise _Refused("invalid_argument", "Connect-Timeout-Ms must be a number of at most 10 digits")
    return time.monotonic() + int(given) / 1000


async def _read(request: web.BaseRequest) -> bytes:
    """Return a request's body."""
    _size(request.content_length or 0, "the request")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        _size(len(body), "the request")
    return bytes(body)


def _size(actual: int, what: str) -> None:
    if actual > limits.wire_bytes:
        raise _Refused("resource_exhausted", f"{what} is over the limit wire_bytes of {limits.wire_bytes}")


def _parse(kind: type[Message], body: bytes) -> Message | Unreadable:
    try:
        return kind.FromString(body)
    except DecodeError:
        return Unreadable()


def _form(message: Message) -> bytes:
    return bytes(message.SerializeToString())


# --- canonical protobuf JSON -----------------------------------------------------------------------------------------


def write(message: Message) -> bytes:
    """Return a message as JSON."""
    return json.dumps(json_format.MessageToDict(message), ensure_ascii=False, separators=(",", ":")).encode()


def read(kind: type[Message], body: bytes) -> Message | Unreadable:
    """Return the message that a body is, or what is wrong with it; of what was sent nothing is repeated."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return Unreadable("must be one JSON object in UTF-8, with each name once")
    if not isinstance(value, dict):
        return Unreadable("must be one JSON object in UTF-8, with each name once")
    message = _parsed(kind, value)
    return message if message is not None else _fault(kind.DESCRIPTOR, value, "")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_json(word: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python alone takes for JSON."""
    raise ValueError(word)


def _parsed(kind: type[Message], value: Any) -> Message | None:
    message = kind()
    try:
        json_format.ParseDict(value, message)
    except (json_format.ParseError, AttributeError, TypeError, ValueError, RecursionError):  # its words hold content
        return None
    return message


def _fault(kind: Descriptor, value: Any, path: str) -> Unreadable:
    """Return what is wrong with a value that is no message of a kind: the first field, by its path."""
    plain = not kind.full_name.startswith("google.protobuf.")
    if plain and not isinstance(value, dict):
        return Unreadable("must be an object", path)
    for name, said in value.items() if plain else ():
        field = _field(kind, name)
        at = f"{path}.{field.name}" if path and field else field.name if field else path
        if field is None:
            names = ", ".join(one.json_name for one in kind.fields)
            return Unreadable(f"has a field that {kind.full_name} has not; its fields: {names}", path)
        if said is None or _parsed(GetMessageClass(kind), {name: said}) is not None:
            continue
        return _field_fault(field, said, at)
    return Unreadable(f"is not a {kind.full_name} as protobuf JSON", path)


def _field_fault(field: FieldDescriptor, value: Any, path: str) -> Unreadable:
    if repeated(field):
        if not isinstance(value, list):
            return Unreadable("must be a list", path)
        for index, one in enumerate(value):
            if _parsed(GetMessageClass(field.containing_type), {field.name: [one]}) is None:
                return _value_fault(field, one, f"{path}[{index}]")
    return _value_fault(field, value, path)


def _value_fault(field: FieldDescriptor, value: Any, path: str) -> Unreadable:
    if field.message_type is not None:
        return _fault(field.message_type, value, path)
    if field.enum_type is not None:
        return Unreadable(f"must be a name of {field.enum_type.full_name}", path)
    return Unreadable(f"must be {_AS_JSON[field.cpp_type]}", path)


_AS_JSON = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "a text; bytes are base64",
    FieldDescriptor.CPPTYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number of 32 bits, not negative",
    FieldDescriptor.CPPTYPE_INT64: "a whole number of 64 bits, as text or number",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number of 64 bits, as text or number, not negative",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
}


def repeated(field: FieldDescriptor) -> bool:
    """Return whether a field is a list; what says so has another name in newer runtimes."""
    found = getattr(field, "is_repeated", None)
    return bool(found) if isinstance(found, bool) else field.label == FieldDescriptor.LABEL_REPEATED


def _field(kind: Descriptor, name: str) -> FieldDescriptor | None:
    return next((field for field in kind.fields if name in (field.json_name, field.name)), None)
