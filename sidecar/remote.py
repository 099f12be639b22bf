"""A shared embedder seen from a process that calls it: replicas, deadlines, hedging, a breaker, and what comes back.

::

    RemoteEmbedding  one model: cache, cut into calls, fallback
        │  ask
    SharedEmbedder   which replica, the next one, a second one beside it
        │  embed
    _Replica         one address: channel, breaker, what it serves ── a watcher lists its models and probes it

Embedding has no effects, so whatever one replica cannot do is asked of the next at once, within the caller's deadline.
No call ever waits for a replica that is left alone: each has a watcher, which alone asks it then, and it is used again
once it has embedded a text that nobody waited for. What answers, but wrongly, is left alone as well: a vector is
taken only if it is of the model, the count and the size that were asked for, and all of it finite. A wrong answer is
the embedder's fault and never the text's, and so it is EmbedderUnavailable and not Internal, for which a projection
would take the text to be one that cannot be embedded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from numpy.typing import NDArray

from sidecar import limits, mounted
from sidecar.breaker import Breaker
from sidecar.embedding import Embedding, QueryCache, Vector
from sidecar.errors import (
    ConfigInvalid,
    DeadlineExceeded,
    Draining,
    EmbedderUnavailable,
    Internal,
    Overloaded,
    StandpipeError,
)
from sidecar.mounted import Mounted, follow
from sidecar.telemetry import Telemetry
from standpipe.v1 import context_pb2, embedding_pb2

_OPTIONS: Final = tuple(
    {
        "grpc.max_send_message_length": limits.wire_bytes,
        "grpc.max_receive_message_length": limits.wire_bytes,
        # A name may stand for several pods; each call then goes to the next.
        "grpc.service_config": json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}),
        # Retries are ours: they know the deadline and the other replicas.
        "grpc.enable_retries": 0,
        # Texts go where the settings say and nowhere else.
        "grpc.enable_http_proxy": 0,
        # Pings run during calls alone, so no server takes them for too many. With them the kernel gives a connection
        # up whose peer has confirmed nothing for the timeout: a machine that is gone without a word.
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 5_000,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1_000,  # of one attempt to connect, too
        "grpc.max_reconnect_backoff_ms": 2_000,
        # Two embedders of one process (tests) share no connection, and so no fault.
        "grpc.use_local_subchannel_pool": 1,
        "grpc.primary_user_agent": "standpipe-sidecar",
    }.items()
)

_SERVICE: Final = "/standpipe.v1.EmbeddingService"
_DETAILS_KEY: Final = "grpc-status-details-bin"

_PROVIDER_CHARS_MAX: Final = 64
"""What ONNX Runtime calls a provider: it becomes a label."""

_WARN_S: Final = 10.0
"""Between two lines in the log that say the same of one address."""

_DURATIONS: Final = 128
"""Answers whose times say how long one usually takes; it is worked out anew each `_DURATIONS_EACH`."""

_DURATIONS_EACH: Final = 16

_PAUSE_MS_MAX: Final = 60_000
"""The longest pause that a shared embedder may ask for."""

_HEDGES_SAVED: Final = 10
"""Second calls that may be sent in a row after a time without any: one slow replica is met by several callers."""

T = TypeVar("T")


class SharedEmbedder:
    """The shared embedder at some addresses: ``async with SharedEmbedder(addresses, telemetry) as shared``.

    It is there at once, and says which models there are when a replica has told.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        telemetry: Telemetry,
        *,
        fallback: Embedding | None = None,
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
    ) -> None:
        """Nothing is asked before `__aenter__`.

        `fallback` embeds while no replica does, if it is of the very model that is asked for; it stays its maker's to
        close. With `ca_file` every host:port is spoken to in TLS, and with `cert_file` and `key_file` as whom they say;
        a socket file never is. When these files change, later calls take a new connection. Raises ConfigInvalid for
        files that hold no certificates, or no certificate and its key.
        """
        self._tls = _certificates(ca_file, cert_file, key_file, telemetry) if ca_file else None
        self._telemetry = telemetry
        self._fallback = fallback
        self._replicas = [
            _Replica(address, telemetry, self._listed, None if address.startswith("unix:") else self._tls)
            for address in addresses
        ]
        self._models: dict[str, RemoteEmbedding] = {}
        self._order: list[str] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._turn = 0
        self._hedging = _Hedging(limits.embed_hedge_percent_max)
        self.listed = False
        """Whether any replica has told its models since the start."""
        self.changed = asyncio.Event()
        """Set when `models` answers with others than before; for one who waits, and clears it."""

    async def __aenter__(self) -> Self:
        if self._fallback is not None:
            self._know(self._fallback.info())
            self._order = [self._fallback.id]
        for replica in self._replicas:
            replica.open()
            self._watchers.append(asyncio.create_task(replica.watch()))
        if self._tls is not None:
            self._watchers.append(asyncio.create_task(follow(self._tls)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuse new calls, and end those at work. Safe to call twice."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for model in self._models.values():
            await model.close()
        for replica in self._replicas:
            await replica.close()

    def models(self) -> list[RemoteEmbedding]:
        """Return the models that are served, the one that deployments move to first; each stays the same object.

        Replicas that are away count only if all are. Before any has told, it is the fallback's, which then takes no
        passages: nobody knows yet whether it is the shared one's.
        """
        return [self._models[model_id] for model_id in self._order]

    async def ask(
        self,
        request: embedding_pb2.EmbedRequest,
        *,
        dimensions: int,
        deadline: float,
        running: set[grpc.aio.UnaryUnaryCall],
    ) -> NDArray[np.float32]:
        """Return the vectors of a request, [texts, dimensions], by `deadline` of time.monotonic().

        A query that takes longer than most do is sent to a second replica too; the first answer counts. `running`
        holds the calls meanwhile, for who wants to end them.
        """
        tried: set[_Replica] = set()

        def work() -> Awaitable[NDArray[np.float32]]:
            return self._in_turn(request, dimensions=dimensions, deadline=deadline, running=running, tried=tried)

        hedged = request.kind == embedding_pb2.EMBED_KIND_QUERY and len(self._serving(request.model_id, dimensions)) > 1
        if not hedged or not self._hedging.allowed():
            return await work()
        first = asyncio.ensure_future(work())
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=self._hedging.after_s)
            if not first.done() and self._choose(request.model_id, dimensions, tried) and self._hedging.take():
                self._telemetry.embedder_hedges.inc()
                tasks.append(asyncio.ensure_future(work()))
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.cancelled() and task.exception() is None:
                        self._telemetry.embedder_hedges_won.inc(task is not first)
                        return task.result()
            return await first  # all have failed
        finally:
            for task in tasks:
                task.add_done_callback(_seen)
                task.cancel()

    async def _in_turn(
        self,
        request: embedding_pb2.EmbedRequest,
        *,
        dimensions: int,
        deadline: float,
        running: set[grpc.aio.UnaryUnaryCall],
        tried: set[_Replica],
    ) -> NDArray[np.float32]:
        """Ask one replica after the other, those that were tried left out, until one does not refuse for itself."""
        refusal = EmbedderUnavailable("no replica of the shared embedder can be asked for the model")
        while replica := self._choose(request.model_id, dimensions, tried):
            tried.add(replica)
            began = time.monotonic()
            try:
                vectors = await replica.embed(
                    request, dimensions=dimensions, timeout_s=deadline - began, running=running
                )
            except EmbedderUnavailable as error:
                refusal = error
            except Overloaded as error:
                self._hedging.rest(error.retry_after_ms or 0)
                raise
            except asyncio.CancelledError:  # it would have taken longer still
                self._hedging.took(request.kind, time.monotonic() - began)
                raise
            else:
                self._hedging.took(request.kind, time.monotonic() - began)
                return vectors
        raise refusal

    def _serving(self, model_id: str, dimensions: int) -> list[_Replica]:
        return [one for one in self._replicas if one.usable and one.serves(model_id, dimensions)]

    def _choose(self, model_id: str, dimensions: int, tried: set[_Replica]) -> _Replica | None:
        """Return the replica with the fewest calls in flight; of several, the next in turn."""
        at_hand = [one for one in self._serving(model_id, dimensions) if one not in tried]
        if not at_hand:
            return None
        self._turn += 1
        return min(at_hand[self._turn % len(at_hand) :] + at_hand, key=lambda one: one.in_flight)

    def _know(self, info: context_pb2.EmbeddingInfo) -> None:
        known = self._models.get(info.model_id)
        if known is None:
            same = self._fallback is not None and self._fallback.id == info.model_id
            fallback = self._fallback if same else None
            self._models[info.model_id] = RemoteEmbedding(self, info, self._telemetry, fallback=fallback)
        else:
            known.provider = info.provider

    def _listed(self) -> None:
        """Put together what the replicas serve. During a rolling update they differ: a model stands where the replica
        that puts it last has it.
        """
        told = [one for one in self._replicas if one.models is not None]
        lists = [one.models or {} for one in ([one for one in told if one.usable] or told)]
        if not lists:
            return
        places: dict[str, int] = {}
        for models in lists:
            for place, (model_id, info) in enumerate(models.items()):
                places[model_id] = max(place, places.get(model_id, 0))
                self._know(info)
        order = sorted(places, key=places.__getitem__)
        self._models = {model_id: self._models[model_id] for model_id in order}
        changed = order != self._order or not self.listed
        if not self.listed and self._fallback is not None and self._fallback.id not in places:
            self._telemetry.log.warning(
                "the fallback is another model than the shared embedder's and is not used",
                fallback=self._fallback.id,
                shared=order,
            )
        self._order, self.listed = order, True
        if changed:
            self.changed.set()


class RemoteEmbedding(Embedding):
    """One model of a shared embedder."""

    remote = True

    def __init__(
        self,
        shared: SharedEmbedder,
        info: context_pb2.EmbeddingInfo,
        telemetry: Telemetry,
        *,
        fallback: Embedding | None = None,
    ) -> None:
        """`fallback` is of the same id."""
        self.id = info.model_id
        self.dimensions = info.dimensions
        self.precision = info.precision
        self.provider = info.provider
        self.tokens_max = info.tokens_max
        self.cosine_floor_thousandths = info.cosine_floor_thousandths
        self._shared = shared
        self._telemetry = telemetry
        self._fallback = fallback
        self._cache = QueryCache()
        self._running: set[grpc.aio.UnaryUnaryCall] = set()
        self._closed = False

    async def embed_query(self, text: str, *, deadline_s: float) -> Vector:
        """Embed a query, or take its vector from the cache: float32 [dimensions], read-only."""
        self._refuse_closed()
        return await self._cache.get(
            text,
            lambda flight: flight.follow(asyncio.create_task(self._query(text, flight.left_s))),
            deadline_s=deadline_s,
        )

    async def embed_items(self, texts: Sequence[str], *, deadline_s: float = math.inf) -> list[Vector]:
        """Embed passages, in calls that a shared embedder takes: all or none."""
        self._refuse_closed()
        deadline = time.monotonic() + deadline_s
        try:
            vectors: list[Vector] = []
            for part in _parts(texts, self.dimensions):
                vectors.extend(await self._ask(embedding_pb2.EMBED_KIND_PASSAGE, part, deadline))
            return vectors
        except EmbedderUnavailable:
            if self._fallback is None or not self._shared.listed:
                raise
            self._telemetry.embedder_fallbacks.inc()
            return await self._fallback.embed_items(texts, deadline_s=deadline - time.monotonic())

    async def close(self) -> None:
        """Refuse new calls, and end those that wait. Safe to call twice."""
        self._closed = True
        for call in list(self._running):
            call.cancel()

    async def _query(self, text: str, left_s: float) -> Vector:
        deadline = time.monotonic() + left_s
        try:
            vector: Vector = (await self._ask(embedding_pb2.EMBED_KIND_QUERY, [_readable(text)], deadline))[0]
            return vector
        except EmbedderUnavailable:
            if self._fallback is None:
                raise
            self._telemetry.embedder_fallbacks.inc()
            return await self._fallback.embed_query(text, deadline_s=deadline - time.monotonic())

    async def _ask(self, kind: embedding_pb2.EmbedKind, texts: Sequence[str], deadline: float) -> NDArray[np.float32]:
        request = embedding_pb2.EmbedRequest(model_id=self.id, kind=kind, texts=texts)
        ours = time.monotonic() + limits.embed_call_ms / 1000
        try:
            return await self._shared.ask(
                request, dimensions=self.dimensions, deadline=min(deadline, ours), running=self._running
            )
        except DeadlineExceeded:
            if deadline <= ours:
                raise
            # The caller would wait on: it is told that there is nobody to wait for.
            raise EmbedderUnavailable("the shared embedder did not answer in time") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Draining("the embedder is closed") from None  # which ended the call

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Draining("the embedder is closed")


class _Replica:
    """One address."""

    def __init__(
        self,
        address: str,
        telemetry: Telemetry,
        listed: Callable[[], None],
        tls: Mounted[grpc.ChannelCredentials] | None,
    ) -> None:
        self.models: Mapping[str, context_pb2.EmbeddingInfo] | None = None
        """What it serves, in its order; None before it has told."""
        self.in_flight = 0
        self._address = address
        self._telemetry = telemetry
        self._listed = listed
        self._tls = tls
        self._credentials: grpc.ChannelCredentials | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._breaker = Breaker()
        self._lost = asyncio.Event()
        self._silent_s = 0.0
        self._silent_from = 0.0
        self._warned_at: dict[str, float] = {}
        self._open = telemetry.embedder_breaker_open.labels(address)
        self._ended = cache(lambda outcome: telemetry.embedder_calls.labels(address, outcome))  # looking it up costs

    @property
    def usable(self) -> bool:
        """Whether calls may go to it."""
        return self._breaker.closed

    def serves(self, model_id: str, dimensions: int) -> bool:
        """Tell whether it lists the model, as vectors of that size."""
        info = (self.models or {}).get(model_id)
        return info is not None and info.dimensions == dimensions

    def open(self) -> None:
        """Open the channel; it connects at the first call."""
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        else:
            self._credentials = self._tls.value
            self._channel = grpc.aio.secure_channel(self._address, self._credentials, options=_OPTIONS)
        # Answers are parsed here: gRPC would write a traceback into the log for one that cannot be.
        self._embed = self._channel.unary_unary(f"{_SERVICE}/Embed", embedding_pb2.EmbedRequest.SerializeToString)
        self._list = self._channel.unary_unary(
            f"{_SERVICE}/ListModels", embedding_pb2.ListModelsRequest.SerializeToString
        )

    def _renew(self) -> None:
        """Take another channel, since one keeps the certificates that it was opened with; what is under way ends on
        the one before.
        """
        closing = asyncio.create_task(_retired(self._channel))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self.open()

    async def close(self) -> None:
        """Close the channel, and end what is under way."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()

    async def watch(self) -> None:
        """List the models now and then, when a call fails, and, while the replica is left alone, after each pause."""
        while True:
            pause_s = self._breaker.check()
            if pause_s is not None:
                await asyncio.sleep(pause_s)
                continue
            self._lost.clear()
            well = False
            try:
                well = await self._look()
            except Exception as error:  # a defect, but whoever watches must go on watching
                self._telemetry.log.error("defect", watched=self._address, type=type(error).__name__)  # noqa: TRY400
            if well:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(limits.embedder_list_s):
                        await self._lost.wait()
            else:
                await asyncio.sleep(limits.breaker_pause_ms / 1000)

    async def embed(
        self,
        request: embedding_pb2.EmbedRequest,
        *,
        dimensions: int,
        timeout_s: float,
        running: set[grpc.aio.UnaryUnaryCall],
    ) -> NDArray[np.float32]:
        """Return the vectors of a request. Raises EmbedderUnavailable for all that another replica may do better."""

        def read(data: bytes) -> NDArray[np.float32]:
            answer = embedding_pb2.EmbedResponse.FromString(data)
            shape = (len(request.texts), dimensions)
            if (answer.model_id, answer.dimensions) != (request.model_id, dimensions):
                raise _WrongAnswer("vectors of another model")
            if len(answer.vectors) != 4 * math.prod(shape):
                raise _WrongAnswer("vectors of another size or number")
            vectors: NDArray[np.float32] = np.frombuffer(answer.vectors, "<f4").reshape(shape)
            if not np.isfinite(vectors).all():
                raise _WrongAnswer("a vector that is not finite")
            return vectors

        vectors = await self._call(request, read, timeout_s=timeout_s, running=running)
        self._answered()
        return vectors

    async def _look(self) -> bool:
        """List the models, and have a text embedded if the replica was left alone; tell whether all is well."""
        running: set[grpc.aio.UnaryUnaryCall] = set()
        timeout_s = limits.embedder_look_ms / 1000
        try:
            models = await self._call(
                embedding_pb2.ListModelsRequest(), _read_models, timeout_s=timeout_s, running=running
            )
            if not self.usable:
                model_id, info = next(iter(models.items()))
                # Another text each time: no cache may answer for a device that does not.
                probe = embedding_pb2.EmbedRequest(
                    model_id=model_id, kind=embedding_pb2.EMBED_KIND_QUERY, texts=[f"ready {secrets.token_hex(4)}"]
                )
                await self.embed(probe, dimensions=info.dimensions, timeout_s=timeout_s, running=running)
        except StandpipeError:
            return False
        if models.keys() != (self.models or {}).keys():
            self._telemetry.log.info("a shared embedder serves", address=self._address, models=list(models))
        for provider in {one.provider for one in (*models.values(), *(self.models or {}).values())}:
            count = sum(one.provider == provider for one in models.values())
            self._telemetry.embedder_models.labels(self._address, provider).set(count)
        self.models = models
        self._listed()
        return True

    async def _call(
        self,
        request: embedding_pb2.EmbedRequest | embedding_pb2.ListModelsRequest,
        read: Callable[[bytes], T],
        *,
        timeout_s: float,
        running: set[grpc.aio.UnaryUnaryCall],
    ) -> T:
        """Call it and read the answer. What a failure says of the replica is noted."""
        if timeout_s <= 0:
            raise _late()
        if self._tls is not None and self._tls.value is not self._credentials:
            self._renew()
        began, outcome = time.monotonic(), "ok"
        embeds = isinstance(request, embedding_pb2.EmbedRequest)
        # Only the watcher waits for a replica that cannot be reached.
        call = (self._embed if embeds else self._list)(request, timeout=timeout_s, wait_for_ready=not embeds)
        running.add(call)
        self.in_flight += 1
        try:
            return read(await call)
        except grpc.aio.AioRpcError as error:
            refusal, outcome = _refusal(error)
            if outcome == "unavailable":
                self._failed()
            elif outcome == "timed_out":
                self._unanswered(began)
            elif outcome == "not_served":
                asked = getattr(request, "model_id", "")
                self.models = {name: info for name, info in (self.models or {}).items() if name != asked}
                self._lost.set()
            elif embeds:
                self._answered()
            else:
                self._failed()
            raise refusal from None
        except (DecodeError, _WrongAnswer) as error:
            outcome = "wrong"
            what = str(error) if isinstance(error, _WrongAnswer) else "bytes that are no message"
            self._warn("a shared embedder answered wrongly", answer=what)
            self._failed()
            raise EmbedderUnavailable("the shared embedder answered wrongly") from None
        except asyncio.CancelledError:
            outcome = "cancelled"
            self._unanswered(began)
            raise
        finally:
            self.in_flight -= 1
            running.discard(call)
            if embeds:
                self._ended(outcome).inc()

    def _answered(self) -> None:
        self._silent_s, self._silent_from = 0.0, time.monotonic()
        if not self.usable:
            self._open.set(0)
        self._breaker.success()

    def _unanswered(self, began: float) -> None:
        """Note a call that ended without an answer. How long it lasted is up to its caller: so what counts is for how
        long calls were waited for since the last answer to any.
        """
        now = time.monotonic()
        self._silent_s += now - max(began, self._silent_from)
        self._silent_from = now
        failures, self._silent_s = divmod(self._silent_s, limits.embed_silence_ms / 1000)
        for _ in range(min(int(failures), limits.breaker_failures_max)):
            self._failed()

    def _failed(self) -> None:
        self._lost.set()
        usable = self.usable
        self._breaker.failure()
        if usable and not self.usable:
            self._open.set(1)
            self._warn("a shared embedder is left alone")

    def _warn(self, event: str, **fields: Any) -> None:
        """Log it, unless it was logged a moment ago: an embedder that is just too slow comes and goes."""
        now = time.monotonic()
        if now - self._warned_at.get(event, -math.inf) >= _WARN_S:
            self._warned_at[event] = now
            self._telemetry.log.warning(event, address=self._address, **fields)


class _Hedging:
    """When a query is worth a second call, and how many may be."""

    def __init__(self, percent_max: int) -> None:
        self._share = percent_max / 100
        self._saved = 0.0
        self._rests_until = 0.0
        self._durations: deque[float] = deque(maxlen=_DURATIONS)
        self._seen = 0
        self.after_s = limits.embed_hedge_ms / 1000
        """How long a query is waited for before a second is sent: what all but one in twenty take."""

    def allowed(self) -> bool:
        """Count a query; tell whether a second call of it may be sent."""
        self._saved = min(self._saved + self._share, _HEDGES_SAVED)
        return self._saved >= 1 and time.monotonic() >= self._rests_until

    def take(self) -> bool:
        """Count a second call; tell whether it may be sent still."""
        if self._saved < 1 or time.monotonic() < self._rests_until:
            return False
        self._saved -= 1
        return True

    def rest(self, pause_ms: int) -> None:
        """Send no second calls for a while: there is too much to do already."""
        self._rests_until = max(self._rests_until, time.monotonic() + pause_ms / 1000)

    def took(self, kind: embedding_pb2.EmbedKind, seconds: float) -> None:
        """Note how long a call took."""
        if kind != embedding_pb2.EMBED_KIND_QUERY:
            return
        self._durations.append(seconds)
        self._seen += 1
        if self._seen % _DURATIONS_EACH == 0:
            usual = sorted(self._durations)[len(self._durations) * 95 // 100]
            self.after_s = max(limits.embed_hedge_ms / 1000, usual)


class _WrongAnswer(ValueError):
    """What an embedder must not answer; the message says what, and holds nothing of it."""


async def _retired(channel: grpc.aio.Channel) -> None:
    """Close a channel when its calls have ended; at once when cancelled."""
    try:
        await channel.close(limits.embed_call_ms / 1000)
    except asyncio.CancelledError:
        await channel.close()
        raise


def _certificates(
    ca_file: str, cert_file: str, key_file: str, telemetry: Telemetry
) -> Mounted[grpc.ChannelCredentials]:
    """Read whom to trust, and what to show to who asks. Raises ConfigInvalid."""

    def parse(authorities: bytes, chain: bytes | None = None, key: bytes | None = None) -> grpc.ChannelCredentials:
        try:
            # Comments between certificates may be in any script.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
        except (OSError, ValueError):  # an SSLError is an OSError
            raise ConfigInvalid(f"{ca_file} must hold certificates, as PEM", field="embedder_ca_file") from None
        if chain is not None:
            try:
                # OpenSSL reads files alone; those that are swapped meanwhile are looked at again.
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, password="")  # never asks
            except (OSError, ValueError):
                raise ConfigInvalid(
                    f"{cert_file} and {key_file} must be a certificate and its key, as PEM", field="embedder_cert_file"
                ) from None
        return grpc.ssl_channel_credentials(authorities, key, chain)

    named = {"embedder_ca_file": ca_file, "embedder_cert_file": cert_file, "embedder_key_file": key_file}
    given = {setting: path for setting, path in named.items() if path}
    for setting, path in given.items():
        mounted.read(Path(path), setting)
    return Mounted(list(given.values()), parse, setting="embedder_ca_file", telemetry=telemetry)


def _read_models(data: bytes) -> Mapping[str, context_pb2.EmbeddingInfo]:
    models = embedding_pb2.ListModelsResponse.FromString(data).models
    if not 1 <= len(models) <= limits.embedder_models_max:
        raise _WrongAnswer("no list of models, or too long a one")
    if not all(1 <= len(one.model_id) <= limits.embed_model_chars_max and one.dimensions > 0 for one in models):
        raise _WrongAnswer("a model without an id or dimensions")
    if not all(len(one.provider) <= _PROVIDER_CHARS_MAX for one in models):
        raise _WrongAnswer("a model of a provider that is none")
    return {one.model_id: one for one in models}


def _refusal(error: grpc.aio.AioRpcError) -> tuple[StandpipeError, str]:
    """Return what a failed call means here, and its outcome in the metrics."""
    info, retry, status = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), status_pb2.Status()
    with contextlib.suppress(DecodeError):
        for key, value in error.trailing_metadata() or ():
            if key == _DETAILS_KEY:
                status.ParseFromString(value)
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(retry)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _late(), "late" if info.reason else "timed_out"
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        overloaded = Overloaded("the shared embedder has too much to do", limit=info.metadata["limit"][:64])
        overloaded.retry_after_ms = min(retry.retry_delay.ToMilliseconds(), _PAUSE_MS_MAX) or Overloaded.retry_after_ms
        return overloaded, "overloaded"
    if info.reason == "MODEL_NOT_SERVED":
        return EmbedderUnavailable("the shared embedder does not serve the model"), "not_served"
    if info.reason in {"INTERNAL", "INVALID_FIELD", "LIMIT_EXCEEDED"}:
        return Internal("the shared embedder could not embed the text"), "failed"
    return EmbedderUnavailable("the shared embedder cannot be reached, or cannot embed"), "unavailable"


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the text was not embedded before the deadline", phase="embed")


def _readable(text: str) -> str:
    """Return what of a text the embedder looks at, without lone surrogates, which no message can hold."""
    seen = text[: limits.embed_text_chars_max]
    return seen if seen.isascii() else seen.encode("utf-8", "replace").decode("utf-8")


def _parts(texts: Sequence[str], dimensions: int) -> Iterator[list[str]]:
    """Cut texts into calls whose messages, there and back, are half of what one may be at most."""
    count_max = max(1, min(limits.embed_call_texts_max, limits.wire_bytes // 2 // (4 * dimensions)))
    part: list[str] = []
    left = limits.wire_bytes // 2
    for text in map(_readable, texts):
        size = len(text.encode())
        if part and (size > left or len(part) == count_max):
            yield part
            part, left = [], limits.wire_bytes // 2
        part.append(text)
        left -= size
    if part:
        yield part


def _seen(task: asyncio.Task[Any] | asyncio.Future[Any]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
