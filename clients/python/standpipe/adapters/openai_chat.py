"""`standpipe.wrap_openai`: an OpenAI-compatible chat client that remembers, for one changed line.

::

    client = standpipe.wrap_openai(OpenAI(), session=standpipe.sync.connect().session("s-1", subject="anna"))
    client.chat.completions.create(model=..., messages=[{"role": "user", "content": "Hi"}])

What the model gets is the application's system messages, then the bundle (policy, summary, history), then the
application's own messages since the model's last answer, with what was recalled in front of the user's words. The
application may go on sending the whole conversation: its older messages are left to the session's history, unless the
session is new; then they are sent as they are, and committed with the first turn.

What is committed is one turn for each final answer: the user's words, the tool calls and their results since, and the
answer. An answer that asks for tools commits nothing yet. Nothing is committed when the call fails, times out or is
cancelled, when a stream breaks or is left before its end, or when the answer has no text at all.
"""

from __future__ import annotations

import copy
import mimetypes
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar

from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai.resources.chat.chat import AsyncChat, Chat
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import standpipe.sync
from standpipe import client as aio
from standpipe import errors
from standpipe.adapters import entries
from standpipe.adapters.journal import AnySession
from standpipe.bundle import Bundle, Json
from standpipe.client import Commit
from standpipe.v1.turn_pb2 import Part, Role, TurnEntry

__all__ = ["wrap_openai"]

QUERY_BYTES: Final = 32 << 10
"""What a hydrate takes as its query: the beginning of longer words is looked for."""
ENTRIES_MAX: Final = 256
"""What a turn takes."""

ClientT = TypeVar("ClientT", bound=OpenAI | AsyncOpenAI)
Mode: TypeAlias = Literal["append", "fail"]

_RAW: Final = "x-stainless-raw-response"


def wrap_openai(
    client: ClientT,
    *,
    session: aio.Session | standpipe.sync.Session | Callable[[], aio.Session] | Callable[[], standpipe.sync.Session],
    mode: Mode = "append",
    route: str = "",
    budget_tokens: int | None = None,
    on_bundle: Callable[[Bundle], None] | None = None,
    on_commit: Callable[[Commit], None] | None = None,
) -> ClientT:
    """Return a client like `client`, whose chat completions hydrate before and commit after.

    `session` is a session, or a callable that gives the session of each call: of `standpipe.sync` for `OpenAI`, of
    `standpipe` for `AsyncOpenAI`. Mode "append" commits behind whatever was said meanwhile, since the answer has been
    shown; "fail" raises Conflict then. `route` and `budget_tokens` are as in `Session.hydrate`. `on_bundle` is told
    each bundle before the model is asked, `on_commit` each commit; what they raise comes out.

    `create`, with `stream=True` or without, `stream()`, `parse()` and their `with_raw_response` do this;
    `with_streaming_response` raises TypeError, since its body is not read here. So do copies of the client made by
    `with_options`; all else, such as `client.responses`, is as it was. Both clients share one connection pool.

    Images, sounds and files become references: by their address, their file id, or their content's SHA-256.
    A call raises ValueError for `n` other than 1, for the legacy `functions`, without a user's message, and when a
    new session's earlier messages are more than one turn takes; and what a hydrate and a commit raise. When a commit
    ends in Unavailable or DeadlineExceeded, the answer has been given and the turn may be there or not.
    """
    turns = _Turns(
        session,
        standpipe.sync.Session if isinstance(client, OpenAI) else aio.Session,
        mode=mode,
        route=route,
        budget_tokens=budget_tokens,
        on_bundle=on_bundle,
        on_commit=on_commit,
    )
    return _wrapped(client, turns)


def _wrapped(client: ClientT, turns: _Turns) -> ClientT:
    """Return a shallow copy with another `chat`: the same class, options and connections."""
    wrapped = copy.copy(client)
    chat: Chat | AsyncChat
    if isinstance(wrapped, OpenAI):
        chat = Chat(wrapped)
        vars(chat)["completions"] = _Completions(wrapped, turns)
    elif isinstance(wrapped, AsyncOpenAI):
        chat = AsyncChat(wrapped)
        vars(chat)["completions"] = _AsyncCompletions(wrapped, turns)
    else:
        raise TypeError(f"wrap_openai takes an OpenAI or AsyncOpenAI client, not {type(client).__name__}")

    def again(*args: Any, **options: Any) -> Any:
        return _wrapped(client.copy(*args, **options), turns)

    own = vars(wrapped)
    own.pop("beta", None)
    own["chat"] = vars(wrapped.beta)["chat"] = chat
    own["copy"] = own["with_options"] = again
    return wrapped


class _Turns:
    """What a wrapped client was told."""

    def __init__(
        self,
        session: AnySession | Callable[[], AnySession],
        kind: type[AnySession],
        *,
        mode: Mode,
        route: str,
        budget_tokens: int | None,
        on_bundle: Callable[[Bundle], None] | None,
        on_commit: Callable[[Commit], None] | None,
    ) -> None:
        if mode not in ("append", "fail"):
            raise ValueError('mode must be "append" or "fail"')
        self._given = session
        self._kind = kind
        if isinstance(session, AnySession):
            self._checked(session)
        self.mode = mode
        self.route = route
        self.budget_tokens = budget_tokens
        self.on_bundle = on_bundle
        self.on_commit = on_commit

    def begin(self, messages: Iterable[Any], options: Mapping[str, Any]) -> _Call:
        """Return a call, checked. Raises ValueError, TypeError."""
        n = options.get("n")
        if isinstance(n, int) and n != 1:
            raise ValueError("n must be 1: a turn has one answer")
        if options.get("functions") or options.get("function_call"):
            raise ValueError("functions and function_call are not supported: use tools and tool_choice")
        headers = options.get("extra_headers") or {}
        if any(name.lower() == _RAW and value == "stream" for name, value in headers.items()):
            raise TypeError(
                "with_streaming_response leaves the answer unread: use stream=True, so that it is committed"
            )
        session = self._checked(self._given if isinstance(self._given, AnySession) else self._given())
        return _Call(self, session, list(messages))

    def _checked(self, session: AnySession) -> aio.Session:
        """Return the session whose coroutines are run: by a loop, or by `standpipe.sync`."""
        if not isinstance(session, self._kind):
            raise TypeError(
                "OpenAI needs a session of standpipe.sync.connect(), and AsyncOpenAI one of standpipe.connect(): "
                f"not {type(session).__module__}.{type(session).__name__}"
            )
        return session._inner if isinstance(session, standpipe.sync.Session) else session


class _Call:
    """One call: from the application's messages to the model's, and from the model's answer to a turn."""

    def __init__(self, turns: _Turns, session: aio.Session, messages: Sequence[Any]) -> None:
        self._turns = turns
        self._session = session
        plain = [_plain(message, at) for at, message in enumerate(messages)]
        roles = [message.get("role") for message in plain]
        if "user" not in roles:
            raise ValueError("messages must hold a message of the user: it is what the model is asked")
        last = len(roles) - 1 - roles[::-1].index("user")
        start = last
        while start and not (roles[start - 1] == "assistant" and not plain[start - 1].get("tool_calls")):
            start -= 1
        while _is_system(plain[start]):
            start += 1
        self._system = [messages[at] for at in range(start) if _is_system(plain[at])]
        self._earlier = [messages[at] for at in range(start) if not _is_system(plain[at])]
        self._fresh = list(messages[start:])
        self._asked = last - start
        """Where in the fresh messages the user's last words are."""

    async def ask(self) -> list[Any]:
        """Hydrate, and return the model's messages."""
        words = _content(_plain(self._fresh[self._asked], 0).get("content"))
        query = words if isinstance(words, str) else "\n".join(part.text for part in words if part.text)
        self._bundle = await self._session.hydrate(
            entries.clean(query).encode()[:QUERY_BYTES].decode(errors="ignore"),
            route=self._turns.route,
            budget_tokens=self._turns.budget_tokens,
        )
        new = self._bundle.version == 0
        self._said = _entries([*(self._earlier if new else []), *self._fresh])
        if len(self._said) >= ENTRIES_MAX:
            raise ValueError(
                f"messages hold {len(self._said)} steps that the session does not have, and a turn takes {ENTRIES_MAX} "
                "with the answer: import older conversations first"
            )
        if self._turns.on_bundle is not None:
            self._turns.on_bundle(self._bundle)
        recalled = self._bundle._recalled()
        rendered: list[Any] = self._bundle.to_openai("")[: -1 if recalled else None]
        system = list(self._system)
        if rendered and rendered[0]["role"] == "system":
            head = rendered.pop(0)
            # Many compatible servers take one system message at most.
            system = [*system[:-1], _with_text(system[-1], after=head["content"])] if system else [head]
        fresh = list(self._fresh)
        if recalled:
            fresh[self._asked] = _with_text(fresh[self._asked], before=recalled)
        return [*system, *(self._earlier if new else rendered), *fresh]

    async def keep(self, answer: _Answer) -> None:
        """Commit the turn, if this is its end."""
        last = answer.entry()
        if last is None:
            return
        said = [*self._said, last]
        try:
            done = await self._commit(said)
        except errors.InvalidArgument as error:
            again = entries.readdressed(said, error)
            if again is None:
                raise
            done = await self._commit(again)
        if self._turns.on_commit is not None:
            self._turns.on_commit(done)

    async def _commit(self, said: list[TurnEntry]) -> Commit:
        mode = self._turns.mode
        earlier = len(_entries(self._earlier))
        if self._bundle.version or not earlier:
            return await self._session.commit(said, bundle=self._bundle, mode=mode)
        try:
            return await self._session.commit(said, bundle=self._bundle, mode="fail")
        except errors.Conflict:
            if mode == "fail":
                raise
        # Another call brought the earlier messages: once is enough.
        return await self._session.commit(said[earlier:], bundle=self._bundle, mode=mode)


class _Answer:
    """The model's answer, whole or as it comes."""

    def __init__(self) -> None:
        self.text = ""
        self.finished = False
        self._calls = False

    def entry(self) -> TurnEntry | None:
        """Return it as the end of a turn; None if it is not."""
        return entries.message(Role.ROLE_ASSISTANT, self.text) if self.finished and not self._calls else None

    @classmethod
    def of(cls, completion: ChatCompletion) -> _Answer:
        """Return a whole answer."""
        answer = cls()
        for choice in completion.choices or ():
            answer._add(choice.message)
            answer.finished = True
        return answer

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Take a piece of a stream."""
        for choice in chunk.choices or ():
            if choice.delta is not None:
                self._add(choice.delta)
            self.finished |= choice.finish_reason is not None

    def _add(self, said: Any) -> None:
        audio = getattr(said, "audio", None)
        spoken = audio.get("transcript") if isinstance(audio, dict) else getattr(audio, "transcript", None)
        self.text += said.content or getattr(said, "refusal", None) or spoken or ""
        self._calls |= bool(said.tool_calls)


class _Completions(Completions):
    """Chat completions that hydrate before and commit after."""

    def __init__(self, client: OpenAI, turns: _Turns) -> None:
        super().__init__(client)
        self._turns = turns

    def create(self, *, messages: Iterable[Any], **options: Any) -> Any:
        """Create a completion, as `openai` does."""
        call = self._turns.begin(messages, options)
        answer: Any = super().create(messages=_run(call.ask()), **options)
        return self._kept(answer, call, stream=bool(options.get("stream")))

    def parse(self, *, messages: Iterable[Any], **options: Any) -> Any:
        """Create a completion and parse it, as `openai` does."""
        call = self._turns.begin(messages, options)
        answer: Any = super().parse(messages=_run(call.ask()), **options)
        return self._kept(answer, call, stream=False)

    def _kept(self, answer: Any, call: _Call, *, stream: bool) -> Any:
        if isinstance(answer, ChatCompletion):
            _run(call.keep(_Answer.of(answer)))
        elif isinstance(answer, Stream):
            answer._iterator = _kept_chunks(answer._iterator, call)
        elif stream:  # a raw response, parsed when it is asked to be
            _once_parsed(answer, lambda parsed: self._kept(parsed, call, stream=False))
        else:
            self._kept(answer.parse(), call, stream=False)
        return answer


class _AsyncCompletions(AsyncCompletions):
    """Chat completions that hydrate before and commit after."""

    def __init__(self, client: AsyncOpenAI, turns: _Turns) -> None:
        super().__init__(client)
        self._turns = turns

    async def create(self, *, messages: Iterable[Any], **options: Any) -> Any:
        """Create a completion, as `openai` does."""
        call = self._turns.begin(messages, options)
        answer: Any = await super().create(messages=await call.ask(), **options)
        return await self._kept(answer, call, stream=bool(options.get("stream")))

    async def parse(self, *, messages: Iterable[Any], **options: Any) -> Any:
        """Create a completion and parse it, as `openai` does."""
        call = self._turns.begin(messages, options)
        answer: Any = await super().parse(messages=await call.ask(), **options)
        return await self._kept(answer, call, stream=False)

    async def _kept(self, answer: Any, call: _Call, *, stream: bool) -> Any:
        if isinstance(answer, ChatCompletion):
            await call.keep(_Answer.of(answer))
        elif isinstance(answer, AsyncStream):
            answer._iterator = _kept_chunks_async(answer._iterator, call)
        elif stream:
            _once_parsed(answer, lambda parsed: _recording(parsed, call))
        else:
            await call.keep(_Answer.of(answer.parse()))
        return answer


def _recording(stream: Any, call: _Call) -> Any:
    stream._iterator = _kept_chunks_async(stream._iterator, call)
    return stream


def _once_parsed(raw: Any, keep: Callable[[Any], Any]) -> None:
    """Have a raw response give a stream that is kept, the same one each time."""
    parse = raw.parse
    streams: list[Any] = []

    def parsed(*args: Any, **options: Any) -> Any:
        if not streams:
            streams.append(keep(parse(*args, **options)))
        return streams[0]

    raw.parse = parsed


def _kept_chunks(chunks: Iterator[ChatCompletionChunk], call: _Call) -> Iterator[ChatCompletionChunk]:
    """Pass chunks through. What ends the answer is held until the stream has ended well and the turn is committed.

    So whoever stops reading at the finish reason has a committed turn, and whoever gets an error has none.
    """
    answer, held = _Answer(), []
    for chunk in chunks:
        answer.add(chunk)
        if answer.finished:
            held.append(chunk)
        else:
            yield chunk
    _run(call.keep(answer))
    yield from held


async def _kept_chunks_async(
    chunks: AsyncIterator[ChatCompletionChunk], call: _Call
) -> AsyncIterator[ChatCompletionChunk]:
    """Pass chunks through, as `_kept_chunks`."""
    answer, held = _Answer(), []
    async for chunk in chunks:
        answer.add(chunk)
        if answer.finished:
            held.append(chunk)
        else:
            yield chunk
    await call.keep(answer)
    for chunk in held:
        yield chunk


def _run(step: Any) -> Any:
    return standpipe.sync._run(step)


def _plain(message: Any, at: int) -> Json:
    """Return a message as a mapping: applications put the models' own answers into their lists."""
    plain: Json = dict(message) if isinstance(message, Mapping) else message.model_dump()
    if plain.get("role") == "function" or plain.get("function_call"):
        raise ValueError(f"messages[{at}]: the legacy functions are not supported: use tools")
    return plain


def _is_system(message: Json) -> bool:
    return message.get("role") in ("system", "developer")


def _with_text(message: Any, *, before: str = "", after: str = "") -> Json:
    """Return a message with more text at its beginning or end."""
    plain = dict(_plain(message, 0))
    content = plain.get("content") or ""
    if isinstance(content, str):
        head = "\n".join(text for text in (before, content) if text)
        plain["content"] = "\n\n".join(text for text in (head, after) if text)
        return plain
    parts = [*content]
    if before:
        parts.insert(0, {"type": "text", "text": before})
    if after:
        parts.append({"type": "text", "text": after})
    plain["content"] = parts
    return plain


def _entries(messages: Iterable[Any]) -> list[TurnEntry]:
    """Return messages as entries of a turn; a tool's answer to a call that is not among them is left out."""
    out: list[TurnEntry | None] = []
    called: set[str] = set()
    for at, one in enumerate(messages):
        message = _plain(one, at)
        role = message.get("role")
        if role == "user":
            speaker = message.get("name") or ""
            out.append(entries.message(Role.ROLE_USER, _content(message.get("content")), speaker=speaker))
        elif role == "assistant":
            out.append(entries.message(Role.ROLE_ASSISTANT, _content(message.get("content") or message.get("refusal"))))
            for call in message.get("tool_calls") or ():
                call_id = call.get("id") or ""
                custom = call.get("custom")
                if custom is not None:
                    entry = entries.call(
                        call_id, custom.get("name") or "", entries.dumps({"input": custom.get("input")})
                    )
                else:
                    function = call.get("function") or {}
                    entry = entries.call(call_id, function.get("name") or "", function.get("arguments") or "")
                if entry.tool_call.id not in called:
                    called.add(entry.tool_call.id)
                    out.append(entry)
        elif role == "tool":
            content = _content(message.get("content"))
            text = content if isinstance(content, str) else "\n".join(part.text for part in content)
            entry = entries.result(message.get("tool_call_id") or "", text)
            if entry.tool_result.call_id in called:
                out.append(entry)
    return [entry for entry in out if entry is not None]


def _content(content: Any) -> str | list[Part]:
    """Return text, or pieces where there is more than text."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part for part in map(_part, content) if part is not None]
    if all(part.WhichOneof("content") == "text" for part in parts):
        return "\n".join(part.text for part in parts)
    return parts


def _part(part: Json) -> Part | None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = entries.clean(part.get(kind) or "")
        return Part(text=text) if text.strip() else None
    if kind == "image_url":
        image = part["image_url"]
        return entries.reference(image["url"] if isinstance(image, Mapping) else image, "image/*")
    if kind == "input_audio":
        sound = part["input_audio"]
        return entries.reference(f"data:audio/{sound.get('format') or '*'};base64,{sound.get('data') or ''}", "audio/*")
    if kind == "file":
        file = part["file"]
        name = file.get("filename") or ""
        guess = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return entries.reference(file.get("file_data") or f"openai-file:{file.get('file_id') or ''}", guess, name)
    return None
