"""The wire: how a call reaches the server, and what the channel does on its own.

Targets are gRPC's: "unix:/run/standpipe/standpipe.sock", "127.0.0.1:7070", "dns:///standpipe.default.svc:7070".

The client is written once, as coroutines over a `Wire`. `AioWire` really waits; the wire of `standpipe.sync`
blocks inside its coroutines instead, so that the same code runs to its end in one step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from standpipe import errors

__all__ = ["DEADLINE_MS", "SERVICE_CONFIG", "WIRE_BYTES"]

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
                # gRPC allows no more. The pauses add up to about 1.5 s: a sidecar's restart.
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "backoffMultiplier": 2,
                "maxBackoff": "1s",
                "retryableStatusCodes": ["UNAVAILABLE"],
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


class Dialer:
    """The part of a wire that both kinds share: one channel, opened at the first call, and its methods."""

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None, metadata: Metadata, options: Options
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._metadata = tuple(metadata)
        self._options = list({**_OPTIONS, **dict(options)}.items())
        self._channel: Any = None
        self._methods: dict[str, Any] = {}
        self._closed = False

    def _method(self, api: Any, path: str, request: type[Message], answer: type[Message]) -> Any:
        """Return a method of the channel, opened by `api`: `grpc` or `grpc.aio`. Raises RuntimeError if closed."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            if self._credentials is None:
                self._channel = api.insecure_channel(self._target, options=self._options)
            else:
                self._channel = api.secure_channel(self._target, self._credentials, options=self._options)
        if (method := self._methods.get(path)) is None:
            method = self._methods[path] = self._channel.unary_unary(
                f"/standpipe.v1.{path}",
                request_serializer=request.SerializeToString,
                response_deserializer=answer.FromString,
            )
        return method

    def _take(self) -> Any:
        """Return the channel that is to be closed, once; None if there is none."""
        channel, self._channel, self._closed = self._channel, None, True
        self._methods.clear()
        return channel


class AioWire(Dialer):
    """A grpc.aio channel; it belongs to the event loop of its first call."""

    async def call(self, path: str, request: Message, answer: type[Answered], deadline_ms: int) -> Answered:
        """Call, and leave the loop free meanwhile. Cancelling the task cancels the call."""
        method = self._method(grpc.aio, path, type(request), answer)
        try:
            return cast(Answered, await method(request, timeout=deadline_ms / 1000, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except asyncio.CancelledError:
            # grpc.aio also raises this when another task closes the channel, which is not this task's cancel.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise errors.Cancelled("the client was closed") from None
            raise

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the channel."""
        if (channel := self._take()) is not None:
            await channel.close()


def error_of(error: Any) -> errors.StandpipeError:
    """Return the typed error of a failed call of either API."""
    trailers: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    return errors.parse(error.code().name, error.details() or "", trailers)
