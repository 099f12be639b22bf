"""The HTTP port: /startupz, /readyz, /livez and /metrics, for kubelets and Prometheus.

It runs in threads of its own, so that it can tell when the event loop is stuck. Readiness does not ask the
stores: a store that is down must not take every pod down with it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import exposition

from sidecar.errors import ConfigInvalid
from sidecar.telemetry import Telemetry

HEARTBEAT_S = 0.5
HEARTBEAT_LATE_S = 10.0
"""A loop that did not run for so long is stuck, not busy."""


@dataclass(slots=True)
class Health:
    """What the probes ask. Written by the event loop, read by the HTTP threads."""

    telemetry: Telemetry
    sound: Callable[[], bool] = lambda: True
    """Whether everything without which only a restart helps is as it was, such as a GPU that answers."""
    started: bool = False
    ready: bool = False
    _beat_at: float = 0.0

    async def beat(self) -> None:
        """Prove that the event loop runs, until cancelled."""
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(HEARTBEAT_S)
            self.telemetry.heartbeat_seconds.set(max(0.0, time.monotonic() - self._beat_at - HEARTBEAT_S))

    @property
    def alive(self) -> bool:
        """Whether the event loop ran lately, and a restart would not help."""
        return self.sound() and time.monotonic() - self._beat_at < HEARTBEAT_LATE_S


class HealthServer:
    """Serves a `Health` on a port of its own."""

    def __init__(self, address: str, health: Health) -> None:
        host, _, port = address.rpartition(":")
        probes = {
            "/startupz": lambda: health.started,
            "/readyz": lambda: health.ready and health.alive,
            "/livez": lambda: health.alive,
        }

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5.0

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    encoder, content_type = exposition.choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encoder(health.telemetry.registry), content_type)
                elif path in probes:
                    good = probes[path]()
                    self._answer(200 if good else 503, b"ok\n" if good else b"not yet\n", "text/plain; charset=utf-8")
                else:
                    self._answer(404, b"no such page\n", "text/plain; charset=utf-8")

            def _answer(self, code: int, body: bytes, content_type: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Say nothing: probes come every second."""

        class Pages(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            allow_reuse_port = False  # two servers on one port must be an error, not a lottery

            def server_bind(self) -> None:
                """Bind, and do not ask the DNS for our name, as HTTPServer does: it may hang where there is none."""
                TCPServer.server_bind(self)

        try:
            self._server = Pages((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            raise ConfigInvalid(f"{address} cannot be bound: {error.strerror}", field="http") from None
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
