"""The wire: how a call reaches the server, and what the channel does on its own.

Targets are gRPC's: "unix:/run/standpipe/standpipe.sock", "127.0.0.1:7460", "dns:///standpipe.default.svc:7460".

The client is written once, as coroutines over a `Wire`. `AioWire` really waits; the wire of `standpipe.sync`
blocks inside its coroutines instead, so that the same code runs to its end in one step.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from standpipe import errors
from standpipe.credentials import Secret, TlsFiles, TokenFile, tls

__all__ = ["DEADLINE_MS", "SERVICE_CONFIG", "TARGET", "WIRE_BYTES"]

TARGET: Final = "127.0.0.1:7460"
"""Whom a client calls that neither an argument nor the environment tells: the server's default."""

WIRE_BYTES: Final = 8 << 20
"""One gRPC message in either direction, as the server's `wire_bytes`; gRPC's own default is 4 MiB to receive."""

DEADLINE_MS: Final = 10_000
"""For calls that bring no deadline, retries included: no call waits for ever."""

SERVICE_CONFIG: Final[Mapping[str, Any]] = {
    # Only matters for a name with several addresses: a retry then goes to another replica.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            # All methods: reads change nothing, and a commit is counted once per request id (P3).
            "name": [{}],
            "retryPolicy": {
                # gRPC allows no more. The pauses are 0.1, 0.3, 0.9 and 2 s: enough for a sidecar to restart.
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "backoffMultiplier": 3,
                "maxBackoff": "2s",
                # CANCELLED is what gRPC answers for a call that a server took in just when it stopped; one that the
                # caller cancels is not retried.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # A failed attempt costs 1 token of 100, a success gives 0.1 back, and below half nothing is retried: when a
    # server is down for good, its clients add little to its load.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}
"""What every channel does with a failed call, in gRPC's own form, for clients of any language to copy."""

_OPTIONS: Final[Mapping[str, Any]] = {
    "grpc.service_config": json.dumps(SERVICE_CONFIG),
    "grpc.enable_retries": 1,
    # gRPC keeps a request for its retries only up to this size, and retries no larger one: its default is 256 KiB.
    "grpc.per_rpc_retry_buffer_size": WIRE_BYTES,
    "grpc.max_send_message_length": WIRE_BYTES,
    "grpc.max_receive_message_length": WIRE_BYTES,
    # A peer that is gone without a word is noticed within 70 s of a call. Pings only run during calls, and no
    # server takes one a minute for too many as long as calls end.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # A restarted sidecar is found again at once; gRPC's defaults are 1 s, growing to 2 minutes.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
    # The pod's http_proxy is for the world outside.
    "grpc.enable_http_proxy": 0,
    "grpc.primary_user_agent": "standpipe-python",
}

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
Options: TypeAlias = Sequence[tuple[str, Any]]
Answered = TypeVar("Answered", bound=Message)


class Wire(Protocol):
    """What the client needs of the world."""

    async def call(self, path: str, request: Message, answer: type[Answered], deadline_ms: int) -> Answered:
        """Call "Service/Method" and return its answer. Raises errors.StandpipeError."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait."""
        ...

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled. May be called again."""
        ...


class _Line:
    """One channel, its methods, and how many calls are on it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.methods: dict[str, Any] = {}
        self.calls = 0


class Dialer(ABC):
    """The part of a wire that both kinds share: a channel, opened at the first call, and who calls.

    A channel keeps the certificates that it was opened with. When their files change, later calls go through a new
    channel, and the one before is closed when its last call has ended.
    """

    def __init__(
        self,
        target: str,
        *,
        token_file: str,
        ca_file: str,
        cert_file: str,
        key_file: str,
        credentials: grpc.ChannelCredentials | None,
        metadata: Metadata,
        options: Options,
    ) -> None:
        """Take what is empty from the environment, see `standpipe.connect`. Raises ValueError."""
        if credentials is not None and (ca_file or cert_file or key_file):
            raise ValueError("give either credentials, or ca_file with cert_file and key_file")
        authorized = any(name.lower() == "authorization" for name, _ in metadata)
        if authorized and token_file:
            raise ValueError('give either token_file, or "authorization" in metadata')
        self._target = target or os.environ.get("STANDPIPE_TARGET") or TARGET
        token_file = "" if authorized else token_file or os.environ.get("STANDPIPE_TOKEN_FILE", "")
        self._token = TokenFile(token_file) if token_file else None
        self._tls: TlsFiles | None = None
        self._credentials = credentials
        if credentials is None and not self._target.startswith(("unix:", "unix-abstract:")):
            self._tls = tls(
                ca_file or os.environ.get("STANDPIPE_CA_FILE", ""),
                cert_file or os.environ.get("STANDPIPE_CERT_FILE", ""),
                key_file or os.environ.get("STANDPIPE_KEY_FILE", ""),
            )
        self._metadata = tuple(metadata)
        self._options = list({**_OPTIONS, **dict(options)}.items())
        self._lines: list[_Line] = []
        self._closed = False
        self._lock = threading.Lock()  # the blocking client's threads share one

    async def call(self, path: str, request: Message, answer: type[Answered], deadline_ms: int) -> Answered:
        """Call; a refused token is tried once more if its file has another by now."""
        deadline = time.monotonic() + deadline_ms / 1000
        shown = self._authorization()
        try:
            return await self._attempt(path, request, answer, deadline_ms / 1000, shown)
        except errors.Unauthenticated:
            newer = self._authorization(anew=True)
            left_s = deadline - time.monotonic()
            if newer == shown or left_s <= 0:
                raise
        return await self._attempt(path, request, answer, left_s, newer)

    @abstractmethod
    async def _attempt(
        self, path: str, request: Message, answer: type[Answered], timeout_s: float, shown: Secret
    ) -> Answered:
        """Call once, as who the `authorization` says."""

    def _begin(self, api: Any, path: str, request: type[Message], answer: type[Message]) -> tuple[_Line, Any]:
        """Return a channel opened by `api`, `grpc` or `grpc.aio`, and its method: `_end` must follow the call.

        Raises RuntimeError if closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if (self._tls is not None and self._tls.renewed()) or not self._lines:
                self._lines.append(_Line(self._open(api)))
            line = self._lines[-1]
            line.calls += 1
            if (method := line.methods.get(path)) is None:
                method = line.methods[path] = line.channel.unary_unary(
                    f"/standpipe.v1.{path}",
                    request_serializer=request.SerializeToString,
                    response_deserializer=answer.FromString,
                )
            return line, method

    def _open(self, api: Any) -> Any:
        credentials = self._credentials if self._tls is None else self._tls.credentials
        if credentials is None:
            return api.insecure_channel(self._target, options=self._options)
        return api.secure_channel(self._target, credentials, options=self._options)

    def _end(self, line: _Line) -> list[Any]:
        """Note the end of a call; return channels that are to be closed, since a newer one is in use."""
        with self._lock:
            line.calls -= 1
            if len(self._lines) < 2:
                return []
            idle = [one for one in self._lines[:-1] if not one.calls]
            self._lines = [one for one in self._lines if one not in idle]
            return [one.channel for one in idle]

    def _authorization(self, *, anew: bool = False) -> Secret:
        return self._token.authorization(anew=anew) if self._token is not None else Secret()

    def _with(self, authorization: Secret) -> Metadata:
        """Return the metadata of a call."""
        return (*self._metadata, ("authorization", authorization)) if authorization else self._metadata

    def _take(self) -> list[Any]:
        """Return the channels that are to be closed, once."""
        with self._lock:
            lines, self._lines, self._closed = self._lines, [], True
            return [line.channel for line in lines]


class AioWire(Dialer):
    """A grpc.aio channel; it belongs to the event loop of its first call."""

    async def _attempt(
        self, path: str, request: Message, answer: type[Answered], timeout_s: float, shown: Secret
    ) -> Answered:
        """Call, and leave the loop free meanwhile. Cancelling the task cancels the call."""
        line, method = self._begin(grpc.aio, path, type(request), answer)
        try:
            return cast(Answered, await method(request, timeout=timeout_s, metadata=self._with(shown)))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except asyncio.CancelledError:
            # grpc.aio also raises this when another task closes the channel, which is not this task's cancel.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise errors.Cancelled("the client was closed") from None
            raise
        finally:
            for channel in self._end(line):
                await channel.close()

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the channel."""
        for channel in self._take():
            await channel.close()


def error_of(error: Any) -> errors.StandpipeError:
    """Return the typed error of a failed call of either API."""
    trailers: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    return errors.parse(error.code().name, error.details() or "", trailers)
