"""What every process that serves has: gRPC and JSON sockets, health and reflection, probes and metrics, and a drain.

Start: the probes answer, then whatever the process needs is made, then the sockets are bound; only then is it started
and ready. Stop: no new calls, the calls at work end, then everything else, in reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sidecar import limits
from sidecar.config import Config
from sidecar.errors import ConfigInvalid
from sidecar.health import Health, HealthServer
from sidecar.mounted import Mounted, follow
from sidecar.servicers.boundary import Boundary, ReadableOnly
from sidecar.telemetry import Log, Telemetry

if TYPE_CHECKING:  # aiohttp is imported where it is configured
    from sidecar.json_api import JsonApi

_OPTIONS = (
    ("grpc.max_receive_message_length", limits.wire_bytes),
    ("grpc.max_send_message_length", limits.wire_bytes),
    ("grpc.max_connection_age_ms", limits.connection_age_ms),
    ("grpc.so_reuseport", 0),  # two servers on one port must be an error, not a lottery
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, and what clients' are checked against."""

    grpc: Any
    """A `grpc.ServerCertificateConfiguration`, which has no types."""
    context: ssl.SSLContext
    """The same for HTTP."""


_DRAIN_PAUSE_S = 0.1
"""How long new calls are answered with DRAINING before the sockets close."""


def version() -> str:
    """Return the release."""
    return metadata.version("standpipe")


class Sockets:
    """The sockets of a process. Servicers are added to `services` before they are opened."""

    def __init__(self, config: Config, boundary: Boundary, *, tls: Mounted[Pair] | None = None) -> None:
        """With `tls` every host:port speaks TLS; a socket file never does."""
        self._config = config
        self._tls = tls
        self._json: JsonApi | None = None
        self.json_ports: list[int] = []
        self._credentials = _credentials(tls, clients_too=bool(config.tls_client_ca_file)) if tls else None
        self._boundary = boundary
        self._server = grpc.aio.server(options=_OPTIONS)
        self._health = health.aio.HealthServicer()
        self.services = ReadableOnly(self._server)

    async def open(self, names: Sequence[str]) -> list[int]:
        """Bind all addresses and serve services of these names; return the ports, 0 for a socket file.

        Raises ConfigInvalid if another server is at one of the addresses.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self._config.reflection:
            listed = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(listed, self._server)
        ports = [await _bind(self._server, address, self._credentials) for address in self._config.listen]
        if self._config.listen_json:
            await self._open_json(names)
        await self._server.start()
        return ports

    async def _open_json(self, names: Sequence[str]) -> None:
        from sidecar.json_api import JsonApi, Method

        methods = {}
        for name in names:
            for one in descriptor_pool.Default().FindServiceByName(name).methods:
                path = f"/{name}/{one.name}"
                methods[path] = Method(GetMessageClass(one.input_type), self.services.behaviour(path))
        self._json = JsonApi(methods)
        try:
            for address in self._config.listen_json:
                port = 0
                for bound in await _bound(address):
                    tls = _followed(self._tls) if self._tls and not address.startswith("unix:") else None
                    await self._json.serve(bound, tls)
                    port = port or (0 if address.startswith("unix:") else int(bound.getsockname()[1]))
                self.json_ports.append(port)
        except BaseException:
            await self._json.close(0)
            raise

    async def drain(self) -> None:
        """Refuse new calls, and let those at work end, for at most `drain_ms` in all."""
        self._boundary.draining = True
        await self._health.enter_graceful_shutdown()
        # What gRPC has taken in and not yet handed over when it stops ends as CANCELLED, which not all clients retry.
        pause_s = min(_DRAIN_PAUSE_S, self._config.drain_ms / 1000)
        await asyncio.sleep(pause_s)
        left_s = self._config.drain_ms / 1000 - pause_s
        await asyncio.gather(self._server.stop(left_s), *([self._json.close(left_s)] if self._json else []))


class Serving(ABC):
    """A process that serves: ``async with Server(config) as server``."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.telemetry = Telemetry(Log(level=config.log_level))
        self.health = Health(self.telemetry)
        self.ports: list[int] = []
        self.json_ports: list[int] = []
        self.http_port = 0
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        started = time.perf_counter()
        try:
            self._stack.push_async_callback(cancelled, asyncio.create_task(self.health.beat()))
            if self.config.http:
                pages = HealthServer(self.config.http, self.health)
                self._stack.callback(pages.close)
                self.http_port = pages.port
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        self.health.started = self.health.ready = True
        self.telemetry.log.info(
            "started",
            version=version(),
            seconds=round(time.perf_counter() - started, 3),
            listen=self.addresses,
            listen_json=self.json_addresses,
            http=self.http_address,
            provider=self.provider,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Drain and release everything; at most `config.drain_ms` for calls that are at work."""
        self.health.ready = False
        await self._stack.aclose()

    @property
    def addresses(self) -> list[str]:
        """Where it is served: as configured, with the port that was given where 0 was asked for."""
        return [_given(one, port) for one, port in zip(self.config.listen, self.ports, strict=True)]

    @property
    def json_addresses(self) -> list[str]:
        """Where it is served as JSON, likewise."""
        return [_given(one, port) for one, port in zip(self.config.listen_json, self.json_ports, strict=True)]

    @property
    def http_address(self) -> str:
        """Where health and metrics are served, likewise; empty for nowhere."""
        return _given(self.config.http, self.http_port)

    @property
    @abstractmethod
    def provider(self) -> str:
        """What computes embeddings, as ONNX Runtime calls it, or none."""

    @abstractmethod
    async def _start(self) -> None:
        """Make everything, put on the stack how it is undone, and open the sockets."""

    def _certificates(self) -> Mounted[Pair] | None:
        """Read the certificates, and look after them until the end. Raises ConfigInvalid."""
        files = certificates(self.config, self.telemetry)
        if files:
            self._stack.push_async_callback(cancelled, asyncio.create_task(follow(files)))
        return files

    async def _open(self, sockets: Sockets, names: Sequence[str]) -> None:
        """Open the sockets, which are the first to close."""
        self.ports = await sockets.open(names)
        self.json_ports = sockets.json_ports
        self._stack.push_async_callback(sockets.drain)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and see its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _given(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}" if port else address


def certificates(config: Config, telemetry: Telemetry) -> Mounted[Pair] | None:
    """Read the server's certificate, its key, and what clients' are checked against; None without TLS.

    Raises ConfigInvalid for files that are missing, no such pair, or no certificates.
    """
    cert_file, key_file, client_ca_file = config.tls_cert_file, config.tls_key_file, config.tls_client_ca_file
    if not cert_file:
        return None

    def parse(certificate: bytes, key: bytes, client_ca: bytes | None = None) -> Pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # OpenSSL reads files alone: what was read and what it reads may differ while they are swapped, and then the
            # next look finds it.
            context.load_cert_chain(cert_file, key_file, password="")  # never asks
        except (OSError, ValueError):  # an SSLError is an OSError
            raise ConfigInvalid(
                f"{cert_file} and {key_file} must be a certificate and its key, as PEM", field="tls_cert_file"
            ) from None
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii"))
            except (OSError, ValueError):
                raise ConfigInvalid(
                    f"{client_ca_file} must hold certificates, as PEM", field="tls_client_ca_file"
                ) from None
        return Pair(grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca), context)

    paths = [cert_file, key_file, *([client_ca_file] if client_ca_file else [])]
    return Mounted(paths, parse, setting="tls_cert_file", telemetry=telemetry)


def _credentials(files: Mounted[Pair], *, clients_too: bool) -> grpc.ServerCredentials:
    """Return credentials that follow files: each handshake has the certificate that is in force then."""
    given = files.value

    def changed() -> Any:
        nonlocal given
        if files.value is given:
            return None
        given = files.value
        return given.grpc

    return grpc.dynamic_ssl_server_credentials(given.grpc, changed, require_client_authentication=clients_too)


def _followed(files: Mounted[Pair]) -> ssl.SSLContext:
    """Return a context that follows files likewise: each handshake goes on with the one that is in force then."""
    first = files.value.context
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = first.verify_mode
    context.num_tickets = 0  # a session that goes on elsewhere would not be looked at again

    def greeted(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = files.value.context

    context.sni_callback = greeted
    return context


async def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Bind one address; return its port, 0 for a socket file. Raises ConfigInvalid if another server is there."""
    if not address.startswith("unix:"):
        try:
            if credentials is not None:
                return int(server.add_secure_port(address, credentials))
            return int(server.add_insecure_port(address))
        except RuntimeError:
            raise ConfigInvalid(f"{address} cannot be bound: is another server there?", field="listen") from None
    path = await _vacant(address, "listen")
    with _group_alone():
        try:
            server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigInvalid(f"{path} cannot be bound", field="listen") from None
    return 0


async def _bound(address: str) -> list[socket.socket]:
    """Return the sockets of one address of `listen_json`. Raises ConfigInvalid, as `_bind` does."""
    if address.startswith("unix:"):
        path = await _vacant(address, "listen_json")
        found = socket.socket(socket.AF_UNIX)
        with _group_alone():
            try:
                found.bind(str(path))
            except OSError:
                found.close()
                raise ConfigInvalid(f"{path} cannot be bound", field="listen_json") from None
        return [found]
    host, _, port = address.rpartition(":")
    bound: list[socket.socket] = []
    try:
        given = int(port)
        for family, _, _, _, place in await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), given, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            both = family == socket.AF_INET6 and place[0] == "::" and socket.has_dualstack_ipv6()
            bound.append(socket.create_server((place[0], given), family=family, dualstack_ipv6=both))
            given = bound[0].getsockname()[1]
    except OSError:
        for one in bound:
            one.close()
        raise ConfigInvalid(f"{address} cannot be bound: is another server there?", field="listen_json") from None
    return bound


async def _vacant(address: str, setting: str) -> Path:
    """Return the path of a socket file to be; one that nobody is at is removed. Raises ConfigInvalid."""
    path = Path(address.removeprefix("unix:"))
    if path.exists():  # who binds over a live server makes it one that nobody can reach from then on
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigInvalid(f"{path} is there and is not a socket", field=setting)
        if await asyncio.to_thread(_answers, path):
            raise ConfigInvalid(f"another server is on {path}", field=setting)
        path.unlink()
    return path


@contextlib.contextmanager
def _group_alone() -> Iterator[None]:
    """Make files that the owner and the group may use: the pod's containers share a socket by its group."""
    umask = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(umask)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) == 0
