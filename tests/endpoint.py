"""A stand-in for an OpenAI-compatible endpoint, in a thread: answers as a test says, and notes what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
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


class Endpoint:
    """``with Endpoint() as endpoint``; set `endpoint.answer`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = nothing
        self.asked: list[Mapping[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint._serve(self)

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

    @property
    def texts(self) -> list[str]:
        """Every text that was shown, in order."""
        return [entry["text"] for asked in self.asked for entry in json.loads(asked["messages"][1]["content"])]

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        answer = self.answer(json.loads(body["messages"][1]["content"]))
        if isinstance(answer, tuple):
            status, data = answer
        else:
            text = answer if isinstance(answer, str) else json.dumps(answer)
            status, data = 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
