"""`wrap_openai` between a real client, a real server and a stand-in for the model."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

import standpipe
from standpipe import errors
from tests.clients.adapters.conftest import off_loop, steps
from tests.endpoint import ChatModel, Reply

openai = pytest.importorskip("openai", reason="the extra `openai` is not installed here")

pytestmark = pytest.mark.timeout(60)

HI = [{"role": "user", "content": "Hi, I am Anna."}]


class Chat:
    """A wrapped client of either kind behind one asynchronous face."""

    def __init__(self, kind: str, model: ChatModel, client: Any, sync_client: Any) -> None:
        self.kind = kind
        self._sessions = client if kind == "async" else sync_client
        make = openai.AsyncOpenAI if kind == "async" else openai.OpenAI
        self.plain = make(base_url=model.url, api_key="unused", max_retries=0)
        self.client: Any = None
        self.bundles: list[Any] = []
        self.commits: list[Any] = []
        self.open()

    def session(self, session_id: str = "s") -> Any:
        return self._sessions.session(session_id, subject="anna")

    def open(self, session: Any = None, **options: Any) -> Chat:
        """Wrap anew."""
        self.client = standpipe.wrap_openai(
            self.plain,
            session=session or self.session(),
            on_bundle=self.bundles.append,
            on_commit=self.commits.append,
            **options,
        )
        return self

    async def run(self, make: Callable[[Any], Any]) -> Any:
        """Run a call of the client."""
        return await make(self.client) if self.kind == "async" else await off_loop(make, self.client)

    async def ask(self, messages: Any = HI, **options: Any) -> Any:
        """Ask for a whole answer."""
        return await self.run(lambda c: c.chat.completions.create(model="m", messages=messages, **options))

    async def text(self, messages: Any = HI, **options: Any) -> str:
        """Ask, and return the answer's words."""
        return (await self.ask(messages, **options)).choices[0].message.content

    async def stream(self, messages: Any = HI, *, until: Any = None, **options: Any) -> list[Any]:
        """Ask for a stream, and return its chunks up to the first of which `until` is true."""
        return await self.read(
            lambda c: c.chat.completions.create(model="m", messages=messages, stream=True, **options), until
        )

    async def read(self, make: Callable[[Any], Any], until: Any = None) -> list[Any]:
        """Read a stream."""
        found: list[Any] = []

        def enough(chunk: Any) -> bool:
            found.append(chunk)
            return until is not None and bool(until(chunk))

        async def read_async() -> None:
            async for chunk in await make(self.client):
                if enough(chunk):
                    return

        def read() -> None:
            for chunk in make(self.client):
                if enough(chunk):
                    return

        await (read_async() if self.kind == "async" else off_loop(read))
        return found

    async def close(self) -> None:
        """Close the connections."""
        gc.collect()
        await (self.plain.close() if self.kind == "async" else off_loop(self.plain.close))


@pytest.fixture(params=["async", "sync"])
async def chat(request: Any, model: ChatModel, client: Any, sync_client: Any) -> Any:
    """Return a wrapped client of each kind."""
    made = Chat(request.param, model, client, sync_client)
    yield made
    await made.close()


def sent(model: ChatModel, at: int = -1) -> list[tuple[str, Any]]:
    """Return what the model was sent."""
    return [(message["role"], message.get("content")) for message in model.asked[at]["messages"]]


async def test_an_answer_is_one_turn(chat: Chat, model: ChatModel, client: Any) -> None:
    """P3: the user's words and the answer are one turn, and the next call is shown it though it was not sent."""
    model.replies = [Reply("Hello Anna!"), Reply("You are Anna.")]
    assert await chat.text() == "Hello Anna!"
    assert await chat.text([{"role": "user", "content": "Who am I?"}]) == "You are Anna."
    assert sent(model) == [("user", "Hi, I am Anna."), ("assistant", "Hello Anna!"), ("user", "Who am I?")]
    assert await steps(client, "s") == [
        ["user: Hi, I am Anna.", "assistant: Hello Anna!"],
        ["user: Who am I?", "assistant: You are Anna."],
    ]
    assert [bundle.version for bundle in chat.bundles] == [0, 1]
    assert [commit.version for commit in chat.commits] == [1, 2]
    events = [event async for event in client.session("s").events()]
    assert events[1].turn.bundle_receipt == chat.bundles[1].receipt, "the turn does not say what the model saw"


async def test_an_application_may_send_the_whole_conversation(chat: Chat, model: ChatModel, client: Any) -> None:
    """Older messages come from the session alone; system messages are the application's, and stay in front."""
    messages = [{"role": "system", "content": "Be brief."}, *HI]
    first = await chat.ask(messages)
    messages += [first.choices[0].message, {"role": "user", "content": "And now?"}]
    await chat.ask(messages)
    assert sent(model) == [
        ("system", "Be brief."),
        ("user", "Hi, I am Anna."),
        ("assistant", "You said: Hi, I am Anna."),
        ("user", "And now?"),
    ]
    assert len(await steps(client, "s")) == 2


async def test_a_stream_passes_through_unchanged(chat: Chat, model: ChatModel, client: Any) -> None:
    """Chunks are those of the client without us, in their order, and the turn is there when the iteration ends."""
    model.replies = [Reply("One two three.", usage=True), Reply("One two three.", usage=True)]
    options = {"stream_options": {"include_usage": True}}
    chunks = await chat.stream(**options)
    assert await steps(client, "s") == [["user: Hi, I am Anna.", "assistant: One two three."]]
    chat.client = chat.plain
    assert [chunk.model_dump() for chunk in chunks] == [chunk.model_dump() for chunk in await chat.stream(**options)]
    assert chunks[-1].usage is not None


async def test_words_are_streamed_as_they_come(chat: Chat, model: ChatModel) -> None:
    """The first words are there while the model still thinks of the rest."""
    hold = threading.Event()
    model.replies = [Reply("One two three four.", hold=hold)]
    seen: list[str] = []

    def look(chunk: Any) -> bool:
        seen.append(chunk.choices[0].delta.content or "")
        if "One" in "".join(seen):
            hold.set()  # nothing else lets the model go on
        return False

    await chat.stream(until=look)
    assert "".join(seen) == "One two three four."


async def test_who_stops_at_the_finish_reason_has_the_turn(chat: Chat, client: Any) -> None:
    """Many applications read a stream no further than to its finish reason: the answer is whole then."""
    await chat.stream(until=lambda chunk: chunk.choices[0].finish_reason)
    assert await steps(client, "s") == [["user: Hi, I am Anna.", "assistant: You said: Hi, I am Anna."]]


@pytest.mark.parametrize("cut", ["end", "break", "error", "late"])
async def test_a_broken_stream_commits_nothing(chat: Chat, model: ChatModel, client: Any, cut: str) -> None:
    """Not even one that ends as if it were complete; the next attempt is the one turn."""
    model.replies = [Reply("One two three four.", cut=cut)]
    try:
        await chat.stream()
        assert cut == "end", "the client did not notice"
    except openai.APIError:
        assert cut != "end"
    assert (await steps(client, "s"), chat.commits) == ([], [])
    await chat.stream()
    assert len(await steps(client, "s")) == 1


async def test_an_abandoned_stream_commits_nothing(chat: Chat, model: ChatModel, client: Any) -> None:
    """Who leaves in the middle of an answer has not got it."""
    model.replies = [Reply("One two three four.")]
    await chat.stream(until=lambda chunk: chunk.choices[0].delta.content)
    gc.collect()
    assert await steps(client, "s") == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_failed_call_commits_nothing(
    chat: Chat, model: ChatModel, client: Any, status: int, stream: bool
) -> None:
    """The error is the client's own, and nothing was said."""
    model.replies = [Reply(status=status)]
    with pytest.raises(openai.APIStatusError):
        await (chat.stream() if stream else chat.ask())
    assert await steps(client, "s") == []


async def test_the_clients_own_retries_are_one_turn(chat: Chat, model: ChatModel, client: Any) -> None:
    """However often the client asks the model again, the answer is committed once."""
    model.replies = [Reply(status=500), Reply(status=500), Reply("At last.")]
    chat.client = chat.client.with_options(max_retries=2)
    assert await chat.text() == "At last."
    assert len(model.asked) == 3
    assert await steps(client, "s") == [["user: Hi, I am Anna.", "assistant: At last."]]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_timeout_commits_nothing(chat: Chat, model: ChatModel, client: Any, stream: bool) -> None:
    """Neither before the answer nor in its middle."""
    hold = threading.Event()
    model.replies = [Reply("One two three four.", hold=hold)]
    try:
        with pytest.raises(openai.APITimeoutError):
            await (chat.stream(timeout=0.2) if stream else chat.ask(timeout=0.2))
    finally:
        hold.set()
    assert await steps(client, "s") == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_task_commits_nothing(model: ChatModel, client: Any, stream: bool) -> None:
    """Neither before the answer nor in its middle."""
    chat = Chat("async", model, client, None)
    hold = threading.Event()
    model.replies = [Reply("One two three four.", hold=hold)]
    task = asyncio.ensure_future(chat.stream() if stream else chat.ask())
    assert await off_loop(model.reached.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hold.set()
    assert await steps(client, "s") == []
    await chat.ask()
    assert len(await steps(client, "s")) == 1
    await chat.close()


def tools(answer: Any, *results: str) -> list[Any]:
    """Return what an application puts behind a call of tools."""
    calls = answer.choices[0].message.tool_calls
    return [
        answer.choices[0].message,
        *(
            {"role": "tool", "tool_call_id": call.id, "content": text}
            for call, text in zip(calls, results, strict=True)
        ),
    ]


async def test_tools_are_part_of_the_turn(chat: Chat, model: ChatModel, client: Any) -> None:
    """Calls, results and answer are committed with the answer, and not before."""
    model.replies = [
        Reply("Let me see.", calls=[("c1", "tide", '{"port":"Emden"}'), ("c2", "wind", "{}")]),
        Reply(None, calls=[("c3", "boat", "")]),
        Reply("Sail at noon."),
    ]
    messages: list[Any] = [{"role": "user", "content": "When can I sail?"}]
    messages += tools(await chat.ask(messages), "high at 12", "calm")
    messages += tools(await chat.ask(messages), "")
    assert await steps(client, "s") == []
    assert await chat.text(messages) == "Sail at noon."
    assert [role for role, _ in sent(model)] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert await steps(client, "s") == [
        [
            "user: When can I sail?",
            "assistant: Let me see.",
            'call tide {"port":"Emden"}',
            "call wind {}",
            "result high at 12",
            "result calm",
            "call boat ",
            "result ",
            "assistant: Sail at noon.",
        ]
    ]
    await chat.ask([*messages, {"role": "assistant", "content": "Sail at noon."}, *HI])
    assert [role for role, _ in sent(model)].count("tool") == 3, "the session's history has the tools"


async def test_a_streamed_call_of_tools_commits_nothing_yet(chat: Chat, model: ChatModel, client: Any) -> None:
    """A stream may end well and still not be the turn's end."""
    model.replies = [Reply(None, calls=[("c1", "tide", '{"port":"Emden"}')])]
    chunks = await chat.stream()
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert await steps(client, "s") == []


async def test_call_ids_may_come_again(chat: Chat, model: ChatModel, client: Any) -> None:
    """Some servers number calls anew in each answer; a turn is not lost for it."""
    for number in range(2):
        model.replies = [Reply(None, calls=[("call_0", "tide", "{}")]), Reply(f"Noon {number}.")]
        messages: list[Any] = [{"role": "user", "content": "When?"}]
        messages += tools(await chat.ask(messages), "high")
        await chat.ask(messages)
    assert [turn[-1] for turn in await steps(client, "s")] == ["assistant: Noon 0.", "assistant: Noon 1."]
    await chat.ask()
    asked = model.asked[-1]["messages"]
    ids = [call["id"] for message in asked for call in message.get("tool_calls") or ()]
    assert len(ids) == len(set(ids)) == 2
    assert [message["tool_call_id"] for message in asked if message["role"] == "tool"] == ids


async def test_what_the_log_refuses_is_made_fit(chat: Chat, model: ChatModel, client: Any) -> None:
    """Colours of a terminal and arguments that are not JSON happen; they cost no turn."""
    model.replies = [Reply(None, calls=[("c1", "run it!", "{broken")]), Reply("\x1b[32mdone\x1b[0m")]
    messages: list[Any] = [{"role": "user", "content": "Run\x00 it", "name": "Anna"}]
    messages += tools(await chat.ask(messages), "\x1b[1mok\x1b[0m")
    assert await chat.text(messages) == "\x1b[32mdone\x1b[0m", "the application gets what the model said"
    assert await steps(client, "s") == [
        ["Anna: Run it", 'call run_it_ {"raw":"{broken"}', "result [1mok[0m", "assistant: [32mdone[0m"]
    ]


async def test_a_new_session_takes_the_earlier_messages(chat: Chat, model: ChatModel, client: Any) -> None:
    """An application that comes with a conversation keeps it: sent as it is, committed with the first turn."""
    earlier = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "I like tea."},
        {"role": "assistant", "content": "Noted."},
    ]
    await chat.ask([*earlier, *HI])
    assert sent(model)[:3] == [(message["role"], message["content"]) for message in earlier]
    assert await steps(client, "s") == [
        ["user: I like tea.", "assistant: Noted.", "user: Hi, I am Anna.", "assistant: You said: Hi, I am Anna."]
    ]
    await chat.ask([*earlier, *HI])
    assert len((await steps(client, "s"))[1]) == 2


async def test_two_first_calls_bring_the_earlier_messages_once(model: ChatModel, client: Any) -> None:
    """P2: of two calls that both found the session new, one brings the conversation that was before."""
    chat = Chat("async", model, client, None)
    hold = threading.Event()
    model.replies = [Reply("A.", hold=hold), Reply("B.", hold=hold)]
    earlier = [{"role": "user", "content": "I like tea."}, {"role": "assistant", "content": "Noted."}]
    work = asyncio.gather(chat.ask([*earlier, *HI]), chat.ask([*earlier, *HI]))
    while len(model.asked) < 2:
        await asyncio.sleep(0.01)
    hold.set()
    await work
    assert sorted(len(turn) for turn in await steps(client, "s")) == [2, 4]
    await chat.close()


async def test_too_long_a_past_is_refused_before_the_model_is_asked(chat: Chat, model: ChatModel) -> None:
    """A turn has room for 256 steps: what cannot be committed is not asked."""
    earlier = [{"role": ("user", "assistant")[at % 2], "content": "word"} for at in range(256)]
    with pytest.raises(ValueError, match="256"):
        await chat.ask([*earlier, *HI])
    assert model.asked == []


async def test_turns_at_once_are_all_kept(model: ChatModel, client: Any) -> None:
    """P2, P3: in mode "append" every answer that was shown is a turn."""
    chat = Chat("async", model, client, None)
    await asyncio.gather(*(chat.ask([{"role": "user", "content": f"Number {n}."}]) for n in range(8)))
    assert sorted(turn[0] for turn in await steps(client, "s")) == [f"user: Number {n}." for n in range(8)]
    await chat.close()


async def test_mode_fail_raises_a_conflict(chat: Chat, model: ChatModel, client: Any) -> None:
    """Who wants no answer to an old state is told, and nothing is committed."""
    chat.open(mode="fail")
    hold = threading.Event()
    model.replies = [Reply(hold=hold)]
    task = asyncio.ensure_future(chat.ask())
    assert await off_loop(model.reached.wait, 20)
    await client.session("s", subject="anna").commit([standpipe.user("Meanwhile.")], mode="append")
    hold.set()
    with pytest.raises(errors.Conflict):
        await task
    assert await steps(client, "s") == [["user: Meanwhile."]]


async def test_policy_and_memory_reach_the_model(chat: Chat, model: ChatModel, client: Any) -> None:
    """There is one system message, and what was recalled stands in front of the user's words, never in the system."""
    policy = "name: kind\nprompts:\n  - {name: persona, text: You are kind.}\nrecall: {floor: false}\n"
    policy += "sources:\n  history: {cap: 50%}\n  recall: {cap: 50%}\n"
    await client.policies.publish(policy)
    await client.policies.set_route("kind", "kind", 1)
    other = client.session("other", subject="anna")
    await other.commit([standpipe.user("My boat is called Nordwind.")], mode="append")
    chat.open(route="kind")
    await chat.ask([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is my boat called?"}])
    (system, told), (role, asked) = sent(model)
    assert (system, told) == ("system", "Be brief.\n\nYou are kind.")
    assert role == "user"
    assert "Nordwind" in asked
    assert asked.endswith("\n\nWhat is my boat called?")
    assert chat.bundles[0].to_openai()[-1]["content"] == asked
    await chat.ask([{"role": "user", "content": [{"type": "text", "text": "What is my boat called?"}]}])
    first, *_, last = sent(model)
    assert first == ("system", "You are kind.")
    assert [part["text"] for part in last[1]][-1] == "What is my boat called?"
    assert "Nordwind" in last[1][0]["text"]
    assert (await steps(client, "s"))[0][0] == "user: What is my boat called?", "what was recalled is not said again"


async def test_images_become_references(chat: Chat, model: ChatModel, client: Any) -> None:
    """The model gets content as it was sent; the log keeps where it is, or its hash."""
    data = "data:image/png;base64," + base64.b64encode(b"not a picture").decode()
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/boat.jpg?size=2"}},
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "file", "file": {"file_id": "file-7", "filename": "plan.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    await chat.ask([{"role": "user", "content": content}])
    assert sent(model) == [("user", content)]
    digest = hashlib.sha256(data.encode()).hexdigest()
    sound = hashlib.sha256(b"data:audio/wav;base64,AAAA").hexdigest()
    assert (await steps(client, "s"))[0][0] == (
        "user: What is this? [image/jpeg https://pictures.example/boat.jpg?size=2 ] "
        f"[image/png urn:sha256:{digest} ] "
        f"[application/pdf openai-file:file-7 plan.pdf] [audio/wav urn:sha256:{sound} ]"
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (Reply(None, message={"refusal": "I would rather not."}), "assistant: I would rather not."),
        (
            Reply(None, message={"audio": {"id": "a", "transcript": "Hello.", "data": "", "expires_at": 1}}),
            "assistant: Hello.",
        ),
        (Reply("Cut sh", finish="length"), "assistant: Cut sh"),
        (Reply(""), None),
        (Reply(" \n"), None),
        (Reply(None, finish="content_filter"), None),
    ],
)
async def test_other_answers(
    chat: Chat, model: ChatModel, client: Any, reply: Reply, kept: str | None, stream: bool
) -> None:
    """What was shown as words is the answer; an answer without words is none."""
    model.replies = [reply]
    await (chat.stream() if stream else chat.ask())
    assert await steps(client, "s") == ([["user: Hi, I am Anna.", kept]] if kept else [])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n": 2}, ValueError, "n must be 1"),
        ({"functions": [{"name": "f"}]}, ValueError, "use tools"),
        ({"messages": [{"role": "system", "content": "x"}]}, ValueError, "user"),
        ({"messages": [*HI, {"role": "function", "name": "f", "content": "x"}]}, ValueError, r"messages\[1\]"),
    ],
)
async def test_what_is_refused(chat: Chat, model: ChatModel, options: Any, error: Any, match: str) -> None:
    """Before anything is asked, and in words that name what is wrong."""
    with pytest.raises(error, match=match):
        await chat.ask(**options)
    assert model.asked == []


async def test_every_way_to_ask(chat: Chat, model: ChatModel, client: Any) -> None:
    """stream(), parse(), raw responses, copies and the beta namespace do the same; an unread answer is refused."""
    pydantic = pytest.importorskip("pydantic")

    class Boat(pydantic.BaseModel):
        name: str

    ask = {"model": "m", "messages": HI}

    async def streamed(client: Any) -> None:
        async with client.chat.completions.stream(**ask) as stream:
            assert (await stream.get_final_completion()).choices[0].message.content == "Hello."

    def streamed_sync(client: Any) -> None:
        with client.chat.completions.stream(**ask) as stream:
            assert stream.get_final_completion().choices[0].message.content == "Hello."

    model.replies = [Reply("Hello.")]
    await chat.run(streamed if chat.kind == "async" else streamed_sync)
    model.replies = [Reply('{"name":"Nordwind"}')]
    parsed = await chat.run(lambda c: c.chat.completions.parse(**ask, response_format=Boat))
    assert parsed.choices[0].message.parsed == Boat(name="Nordwind")
    raw = await chat.run(lambda c: c.chat.completions.with_raw_response.create(**ask))
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content.startswith("You said")
    raw = await chat.run(lambda c: c.chat.completions.with_raw_response.create(**ask, stream=True))
    assert len(await steps(client, "s")) == 3
    await chat.read(lambda _: _given(raw.parse()) if chat.kind == "async" else raw.parse())
    await chat.run(lambda c: c.with_options(timeout=5).chat.completions.create(**ask))
    await chat.run(lambda c: c.beta.chat.completions.create(**ask))
    assert len(await steps(client, "s")) == 6
    asked = len(model.asked)
    unread = chat.client.chat.completions.with_streaming_response.create(**ask)
    with pytest.raises(TypeError, match="stream=True"):
        await (unread.__aenter__() if chat.kind == "async" else off_loop(unread.__enter__))
    assert len(model.asked) == asked


async def _given(value: Any) -> Any:
    return value


async def test_it_is_a_client_of_the_same_class(chat: Chat, model: ChatModel, client: Any) -> None:
    """So type checks and other libraries take it; the client that was given is as it was."""
    assert type(chat.client) is type(chat.plain)
    wrapped, chat.client = chat.client, chat.plain
    await chat.ask()
    assert await steps(client, "s") == []
    assert wrapped.base_url == chat.plain.base_url


async def test_a_session_for_each_call(chat: Chat, model: ChatModel, client: Any) -> None:
    """A server wraps its client once, and says whose call it is when it is made."""
    names = iter(["one", "two"])
    chat.open(lambda: chat.session(next(names)))
    await chat.ask()
    await chat.ask()
    assert [len(await steps(client, name)) for name in ("one", "two", "s")] == [1, 1, 0]


async def test_the_wrong_kind_of_session_is_told(chat: Chat, client: Any, sync_client: Any) -> None:
    """A blocking session would stop an event loop, and an asynchronous one cannot be waited for."""
    wrong = (sync_client if chat.kind == "async" else client).session("s")
    with pytest.raises(TypeError, match=r"standpipe\.sync\.connect"):
        chat.open(wrong)
    chat.open(lambda: wrong)
    with pytest.raises(TypeError, match=r"standpipe\.sync\.connect"):
        await chat.ask()
    with pytest.raises(TypeError, match="AsyncOpenAI"):
        standpipe.wrap_openai(object(), session=client.session("s"))
    with pytest.raises(ValueError, match="mode"):
        chat.open(mode="fork")


async def test_a_server_that_is_gone_is_told_before_the_model_is_asked(model: ChatModel) -> None:
    """Without context there is no call: an answer that forgot everything is worse than an error."""
    async with standpipe.connect("127.0.0.1:1", deadline_ms=500) as nobody:
        session = nobody.session("s", subject="anna")
        plain = openai.AsyncOpenAI(base_url=model.url, api_key="unused")
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):
            await standpipe.wrap_openai(plain, session=session).chat.completions.create(model="m", messages=HI)
        await plain.close()
    assert model.asked == []
