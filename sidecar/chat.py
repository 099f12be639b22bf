"""An OpenAI-compatible endpoint: POST .../chat/completions, one question, one answer.

Nothing here is trusted: an answer has a size and a time, redirects are not followed, no proxy is looked up, and what
came back is text until somebody has checked it. The key is read from its file for each call, so that it rotates without
a restart, and stands in no log and no error.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sidecar import limits
from sidecar.errors import ConfigInvalid, EndpointUnavailable, Internal
from sidecar.telemetry import Telemetry

_PATH: Final = "/chat/completions"
_OF_THE_QUESTION: Final = frozenset({400, 413, 422})
"""Statuses that mean this question and no other. What is wrong with the key or the address is wrong for all of them."""

_KEY: Final = re.compile(r"[!-~]{1,4096}")


class Chat:
    """One model of an endpoint. To make one raises ConfigInvalid if its key cannot be read."""

    def __init__(self, url: str, *, model: str, key_file: str, telemetry: Telemetry) -> None:
        parts = urlsplit(url)
        self.model = model
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        path = parts.path.rstrip("/")
        self._path = path if path.endswith(_PATH) else path + _PATH
        self._key_file = key_file
        self._telemetry = telemetry
        self._tls = ssl.create_default_context() if self._secure else None
        self._key()

    async def ask(self, system: str, said: str) -> str:
        """Return what the model says; empty if it says nothing that could be read.

        Raises EndpointUnavailable for what may pass, Internal for a question that it refuses.
        """
        body = {
            "model": self.model,
            "temperature": 0,
            "response_format": {"type": "json_object"},
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": said}],
        }
        key = await asyncio.to_thread(self._key)
        connection = self._connection()
        try:
            async with asyncio.timeout(limits.extract_call_s):
                status, data = await asyncio.to_thread(self._post, connection, json.dumps(body).encode(), key)
        except TimeoutError:
            raise self._failed("timed_out") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(type(error).__name__) from None
        finally:
            # A thread cannot be cancelled: without its socket it ends by itself.
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        if status in _OF_THE_QUESTION:
            self._telemetry.log.warning("endpoint refuses a question", status=status)
            raise Internal("the endpoint refuses the question")
        if status != http.client.OK:
            raise self._failed(str(status))
        return _content(data)

    def _post(self, connection: http.client.HTTPConnection, body: bytes, key: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "standpipe"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            connection.connect()  # nobody can end this part: it has a time of its own
            connection.sock.settimeout(limits.extract_call_s)
            connection.request("POST", self._path, body, headers)
            with connection.getresponse() as answer:
                return answer.status, answer.read(limits.extract_answer_bytes + 1)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=limits.extract_connect_s, context=self._tls
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=limits.extract_connect_s)

    def _key(self) -> str:
        if not self._key_file:
            return ""
        try:
            key = Path(self._key_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigInvalid("extractor_key_file cannot be read", field="extractor_key_file") from None
        if not _KEY.fullmatch(key):
            raise ConfigInvalid("extractor_key_file must hold one key on one line", field="extractor_key_file")
        return key

    def _failed(self, cause: str) -> EndpointUnavailable:
        self._telemetry.log.warning("endpoint failed", cause=cause)
        return EndpointUnavailable("the endpoint cannot answer just now")


def _content(data: bytes) -> str:
    """Return the words of an answer."""
    if len(data) > limits.extract_answer_bytes:
        return ""
    with suppress(ValueError, RecursionError, LookupError, TypeError):
        content = json.loads(data)["choices"][0]["message"]["content"]
        return content if isinstance(content, str) else ""
    return ""
