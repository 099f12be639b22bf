"""The same client without `await`: `standpipe.sync.connect(...)`. Threads may share it.

Nothing is written twice. The methods here run those of `standpipe.client` over a wire that blocks inside its
coroutines, so each runs to its end in one step, without an event loop; signatures and docstrings are theirs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import grpc
from google.protobuf.message import Message

from standpipe import client as aio
from standpipe import memory, state
from standpipe.bundle import Bundle
from standpipe.channel import DEADLINE_MS, Answered, Dialer, Metadata, Options, error_of
from standpipe.client import Answer
from standpipe.credentials import Secret

__all__ = ["Client", "Memory", "Policies", "Session", "State", "connect"]

A = TypeVar("A")
T = TypeVar("T")
P = ParamSpec("P")


def connect(
    target: str = "",
    *,
    tenant: str = "",
    deadline_ms: int = DEADLINE_MS,
    token_file: str = "",
    ca_file: str = "",
    cert_file: str = "",
    key_file: str = "",
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Metadata = (),
    options: Options = (),
) -> Client:
    """Return a client of the server at `target`, as `standpipe.connect`."""
    wire = _BlockingWire(
        target,
        token_file=token_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        credentials=credentials,
        metadata=metadata,
        options=options,
    )
    return Client(aio.Client(wire, tenant=tenant, deadline_ms=deadline_ms))


class _BlockingWire(Dialer):
    """A grpc channel, behind coroutines that never wait for an event loop."""

    async def _attempt(
        self, path: str, request: Message, answer: type[Answered], timeout_s: float, shown: Secret
    ) -> Answered:
        line, method = self._begin(grpc, path, type(request), answer)
        try:
            return cast(Answered, method(request, timeout=timeout_s, metadata=self._with(shown)))
        except grpc.RpcError as error:
            raise error_of(error) from error
        finally:
            for channel in self._end(line):
                channel.close()

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self) -> None:
        for channel in self._take():
            channel.close()


def _run(step: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over a blocking wire to its end."""
    try:
        step.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    step.close()
    raise RuntimeError("a coroutine over a blocking wire waited for something else")


def _iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """Iterate over an asynchronous generator over a blocking wire."""
    generator = cast(AsyncGenerator[T, None], items)
    try:
        while True:
            try:
                item = _run(generator.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        _run(generator.aclose())


class _Blocking(Generic[A]):
    """Holds the asynchronous object whose methods it runs."""

    def __init__(self, inner: A) -> None:
        self._inner = inner


def _blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a method that runs an asynchronous one to its end."""

    @functools.wraps(method)
    def run(self: _Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run(method(self._inner, *args, **kwargs))

    return run


def _iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """Return a method that iterates over an asynchronous one."""

    @functools.wraps(method)
    def run(self: _Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _iterate(method(self._inner, *args, **kwargs))

    return run


def _answering(
    method: Callable[Concatenate[A, str, Callable[[Bundle], Awaitable[Answer]], P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, str, Callable[[Bundle], Answer], P], T]:
    """Return a method that runs an asynchronous one, which awaits a callback, with a callback that returns."""

    @functools.wraps(method)
    def run(
        self: _Blocking[A], query: str, answer: Callable[[Bundle], Answer], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        async def reply(bundle: Bundle) -> Answer:
            return answer(bundle)

        return _run(method(self._inner, query, reply, *args, **kwargs))

    return run


class Client(_Blocking[aio.Client]):
    """A connection to Standpipe, to be shared by all sessions and threads. Close it, or use `with`."""

    def __init__(self, inner: aio.Client) -> None:
        super().__init__(inner)
        self.policies = Policies(inner.policies)
        """The policies and routes."""

    def __enter__(self) -> Client:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def session(self, session_id: str, *, subject: str = "", token: str = "") -> Session:
        """Return a session by its id, as `standpipe.Client.session`."""
        return Session(self._inner.session(session_id, subject=subject, token=token))

    def memory(self, subject: str = "") -> Memory:
        """Return a subject's long-term memory, as `standpipe.Client.memory`."""
        return Memory(self._inner.memory(subject))

    def state(self, collection: str, subject: str = "") -> State:
        """Return the records of a collection, as `standpipe.Client.state`."""
        return State(self._inner.state(collection, subject))

    close = _blocking(aio.Client.close)
    replay = _blocking(aio.Client.replay)
    server_info = _blocking(aio.Client.server_info)
    sessions = _iterating(aio.Client.sessions)


class Session(_Blocking[aio.Session]):
    """One conversation, as `standpipe.Session`."""

    @property
    def id(self) -> str:
        """Its id."""
        return self._inner.id

    @property
    def subject(self) -> str:
        """Whose memory it feeds."""
        return self._inner.subject

    @property
    def token(self) -> str:
        """The newest consistency token that it has seen; empty before the first answer."""
        return self._inner.token

    hydrate = _blocking(aio.Session.hydrate)
    commit = _blocking(aio.Session.commit)
    turn = _answering(aio.Session.turn)
    get = _blocking(aio.Session.get)
    events = _iterating(aio.Session.events)
    end = _blocking(aio.Session.end)


class Memory(_Blocking[memory.Memory]):
    """One subject's memory, as `standpipe.Memory`."""

    @property
    def subject(self) -> str:
        """Whose memory it is."""
        return self._inner.subject

    remember = _blocking(memory.Memory.remember)
    supersede = _blocking(memory.Memory.supersede)
    retract = _blocking(memory.Memory.retract)
    reject = _blocking(memory.Memory.reject)
    pin = _blocking(memory.Memory.pin)
    put_profile = _blocking(memory.Memory.put_profile)
    ingest = _blocking(memory.Memory.ingest)
    search = _blocking(memory.Memory.search)
    profile = _blocking(memory.Memory.profile)
    beliefs = _iterating(memory.Memory.beliefs)
    quarantine = _iterating(memory.Memory.quarantine)
    review = _blocking(memory.Memory.review)
    erase = _blocking(memory.Memory.erase)
    export = _iterating(memory.Memory.export)


class State(_Blocking[state.State]):
    """Records of one collection, as `standpipe.State`."""

    @property
    def collection(self) -> str:
        """Which one."""
        return self._inner.collection

    @property
    def subject(self) -> str:
        """Whose records they are; empty: the tenant's."""
        return self._inner.subject

    put = _blocking(state.State.put)
    write = _blocking(state.State.write)
    get = _blocking(state.State.get)
    get_all = _blocking(state.State.get_all)
    list = _iterating(state.State.list)
    delete = _blocking(state.State.delete)
    delete_all = _blocking(state.State.delete_all)


class Policies(_Blocking[aio.Policies]):
    """What bundles may hold, and the routes that point at it. Reach it as `client.policies`."""

    publish = _blocking(aio.Policies.publish)
    get = _blocking(aio.Policies.get)
    list = _blocking(aio.Policies.list)
    set_route = _blocking(aio.Policies.set_route)
