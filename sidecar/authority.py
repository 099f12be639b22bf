"""What a server may ask over the network who its callers are: one address over TLS, which the settings name.

It is the Kubernetes API server, or a place that serves a JWKS. Nothing here is trusted beyond its certificate: answers
have a size and a time, redirects are not followed, no proxy is looked up. Calls are bounded in number and left out
while a breaker is open, so that an address which hangs holds up no more than the calls that need it, and these for no
longer than `authority_call_ms`. The token that is shown is read from its file for each call, since it rotates.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sidecar import limits
from sidecar.breaker import Breaker
from sidecar.errors import AuthenticatorUnavailable, ConfigInvalid
from sidecar.mounted import Mounted, read
from sidecar.telemetry import Telemetry

_TOKEN: Final = re.compile(r"[!-~]{1,16384}")
_GOOD: Final = frozenset({http.client.OK, http.client.CREATED})


def trusted(ca_file: str, telemetry: Telemetry) -> Mounted[ssl.SSLContext] | None:
    """Return what certificates are checked against; None: what the system trusts. Raises ConfigInvalid."""

    def parse(content: bytes) -> ssl.SSLContext:
        try:
            made = ssl.create_default_context(cadata=content.decode("ascii"))
            # Authorities of clusters are often made without what Python 3.13 asks of one beyond its signature.
            made.verify_flags &= ~ssl.VERIFY_X509_STRICT
            return made
        except (ValueError, ssl.SSLError):
            raise ConfigInvalid(f"{ca_file} must hold certificates, as PEM", field="auth_ca_file") from None

    return Mounted([ca_file], parse, setting="auth_ca_file", telemetry=telemetry) if ca_file else None


class Authority:
    """One address. To make one raises ConfigInvalid if its own token cannot be read."""

    def __init__(
        self, url: str, *, trusts: Mounted[ssl.SSLContext] | None, token_file: str, telemetry: Telemetry
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self.path = parts.path
        self._trusts = trusts
        self._system = ssl.create_default_context() if trusts is None else None
        self._token_file = token_file
        self._telemetry = telemetry
        self._breaker = Breaker()
        # Threads of its own: the process's others must not wait for an address that hangs in a look-up of its name.
        self._threads = ThreadPoolExecutor(limits.authority_calls_max, thread_name_prefix="authority")
        self._waiting = 0
        self.away = False
        """Whether the last call had no good answer."""
        self._token()

    async def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return the answer's body. Raises AuthenticatorUnavailable for whatever is no good answer."""
        pause_s = self._breaker.check()
        if pause_s is not None:
            error = AuthenticatorUnavailable("what vouches for callers' tokens did not answer, and is left alone")
            error.retry_after_ms = max(1, round(pause_s * 1000))
            raise error
        if self._waiting >= limits.authority_waiting_max:
            raise AuthenticatorUnavailable("too many tokens wait for what vouches for them")
        self._waiting += 1
        try:
            status, data = await self._call(method, path, body)
        finally:
            self._waiting -= 1
        if status not in _GOOD:
            # Whatever it answers, it is there; but nothing follows from it about the caller's token.
            raise self._failed(str(status), dead=status >= http.client.INTERNAL_SERVER_ERROR)
        if len(data) > limits.authority_answer_bytes:
            raise self._failed("too long")
        self._breaker.success()
        self.away = False
        self._telemetry.authority_calls.labels("answered").inc()
        return data

    def close(self) -> None:
        """Give the threads back; one that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connections: list[http.client.HTTPSConnection] = []
        call = asyncio.get_running_loop().run_in_executor(self._threads, self._send, connections, method, path, body)
        try:
            async with asyncio.timeout(limits.authority_call_ms / 1000):
                return await call
        except TimeoutError:
            raise self._failed("timed_out") from None
        except (OSError, http.client.HTTPException, ConfigInvalid) as error:
            raise self._failed(type(error).__name__) from None
        finally:
            # A thread cannot be cancelled: without its socket it ends by itself.
            for connection in connections:
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def _send(
        self, connections: list[http.client.HTTPSConnection], method: str, path: str, body: bytes | None
    ) -> tuple[int, bytes]:
        context = self._trusts.value if self._trusts else self._system
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=limits.authority_call_ms / 1000, context=context
        )
        connections.append(connection)
        headers = {
            "Accept": "application/json, application/jwk-set+json",
            "Accept-Encoding": "identity",
            "User-Agent": "standpipe",
        }
        token = self._token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body, headers)
            with connection.getresponse() as answer:
                return answer.status, answer.read(limits.authority_answer_bytes + 1)
        finally:
            connection.close()

    def _token(self) -> str:
        if not self._token_file:
            return ""
        token = read(Path(self._token_file), "auth_api_token_file").decode("ascii", "replace").strip()
        if not _TOKEN.fullmatch(token):
            raise ConfigInvalid(f"{self._token_file} must hold one token", field="auth_api_token_file")
        return token

    def _failed(self, cause: str, *, dead: bool = True) -> AuthenticatorUnavailable:
        if dead:
            self._breaker.failure()
        self.away = True
        self._telemetry.authority_calls.labels("failed").inc()
        self._telemetry.log.warning("authority failed", cause=cause)
        return AuthenticatorUnavailable("what vouches for callers' tokens cannot answer just now")
