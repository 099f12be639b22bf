"""Stand-ins for OpenAI-compatible endpoints, in a thread: they answer as a test says, and note what they were asked."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Entry = Mapping[str, Any]
Answer = Callable[[Sequence[Entry]], Any]
"""From the entries that were shown to a text, or to JSON; or (status, bytes), the whole answer."""


def nothing(_: Sequence[Entry]) -> Any:
    """Propose nothing."""
    return {"facts": [], "summary": []}


def cite(entry: Entry, quote: str = "", **changes: Any) -> dict[str, Any]:
    """Return a citation of an entry; of all of it, unless a quote is given."""
    found = {name: entry[name] for name in ("session", "version", "entry")}
    return {**found, "quote": quote or entry["text"], **changes}


def fact(attribute: str, value: str, *citations: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a proposal."""
    return {"attribute": attribute, "value": value, "citations": list(citations), **more}


class Served:
    """An HTTP server in a thread; what it does with a request is its subclass's."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served.asked.append(body)
                served.headers.append(dict(self.headers))
                served.paths.append(self.path)
                served._serve(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # callers that leave are part of the tests

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        raise NotImplementedError


class Endpoint(Served):
    """``with Endpoint() as endpoint``; set `endpoint.answer`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.answer: Answer = nothing

    @property
    def texts(self) -> list[str]:
        """Every text that was shown, in order."""
        return [entry["text"] for asked in self.asked for entry in json.loads(asked["messages"][1]["content"])]

    def _serve(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        answer = self.answer(json.loads(body["messages"][1]["content"]))
        if isinstance(answer, tuple):
            status, data = answer
        else:
            text = answer if isinstance(answer, str) else json.dumps(answer)
            status, data = 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        _answer(request, status, data)


@dataclass
class Reply:
    """What a stand-in for a chat model answers, whole or as a stream, as the request asks."""

    text: str | None = "Understood."
    calls: Sequence[tuple[str, str, str]] = ()
    """Tool calls: id, name, arguments."""
    message: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the message."""
    finish: str | None = None
    """The finish reason; by itself "stop" or "tool_calls"."""
    status: int = 200
    """Another one fails."""
    hold: threading.Event | None = None
    """Set by the test to go on: before the answer, or in the middle of a stream."""
    cut: str = ""
    """How a stream ends in the middle: "end" as if it were the end, "break" with its connection, "error" with an error;
    "late": with an error after the finish reason."""
    usage: bool = False
    """Whether a stream has a chunk with usage behind the finish reason."""


class ChatModel(Served):
    """A stand-in for an OpenAI-compatible chat model: gives `replies` in order, then repeats what was asked."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)
        self.reached = threading.Event()
        """Set when an answer is held back."""

    def _serve(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        reply = self.replies.pop(0) if self.replies else Reply(f"You said: {_words(body['messages'][-1])}")
        if reply.hold is not None and not body.get("stream"):
            self.reached.set()
            reply.hold.wait(20)
        if reply.status != 200:
            _answer(request, reply.status, json.dumps({"error": {"message": "the stand-in fails"}}).encode())
            return
        calls = [
            {"index": at, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for at, (call_id, name, arguments) in enumerate(reply.calls)
        ]
        finish = reply.finish or ("tool_calls" if calls else "stop")
        about = {"id": "chatcmpl-1", "created": 1, "model": str(body.get("model"))}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not body.get("stream"):
            message = {"role": "assistant", "content": reply.text, **reply.message}
            if calls:
                message["tool_calls"] = calls
            choices = [{"index": 0, "message": message, "finish_reason": finish}]
            whole = {**about, "object": "chat.completion", "choices": choices, "usage": usage}
            _answer(request, 200, json.dumps(whole).encode())
            return
        words = [{"content": word} for word in re.findall(r"\S*\s*", reply.text or "") if word]
        deltas: list[Any] = [{"role": "assistant", "content": ""}, *words, *({"tool_calls": [call]} for call in calls)]
        if reply.message:
            deltas.append(dict(reply.message))
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Transfer-Encoding", "chunked")
        request.send_header("Connection", "close")
        request.end_headers()

        def send(text: str) -> None:
            data = f"data: {text}\n\n".encode()
            request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            request.wfile.flush()

        def chunk(delta: Any, finish: str | None = None) -> None:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            send(json.dumps({**about, "object": "chat.completion.chunk", "choices": choices}))

        middle = (len(deltas) + 1) // 2
        for at, delta in enumerate(deltas):
            if at == middle and reply.hold is not None:
                self.reached.set()
                reply.hold.wait(20)
            if at == middle and reply.cut in ("end", "break", "error"):
                break
            chunk(delta)
        if reply.cut == "break":
            return
        if reply.cut != "end":
            if reply.cut != "error":
                chunk({}, finish)
            if reply.cut:
                send(json.dumps({"error": {"message": "the stand-in fails"}}))
            if reply.usage:
                send(json.dumps({**about, "object": "chat.completion.chunk", "choices": [], "usage": usage}))
        if not reply.cut:
            send("[DONE]")
        request.wfile.write(b"0\r\n\r\n")


def _words(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _answer(request: BaseHTTPRequestHandler, status: int, data: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
