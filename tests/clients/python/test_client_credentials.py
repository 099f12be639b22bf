"""Who a client calls as: tokens and certificates from files, which change while it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

import standpipe
from standpipe import channel, credentials, errors, user
from standpipe.v1.context_pb2_grpc import add_ContextServiceServicer_to_server
from tests.certificates import Certificates
from tests.clients.double import Double, Fault

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.timeout(60)]

VARIABLES = ("TARGET", "TOKEN_FILE", "CA_FILE", "CERT_FILE", "KEY_FILE")


class Guarded(Double):
    """The double behind a door: it takes some tokens, or any caller, and remembers each one's certificate."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: set[str] | None = None
        self.shown: list[str] = []
        self.certificates: list[bytes] = []

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        self.certificates += context.auth_context().get("x509_pem_cert", [])
        if self.tokens is not None:
            self.shown.append(dict(context.invocation_metadata()).get("authorization", ""))
            if self.shown[-1] not in {f"Bearer {one}" for one in self.tokens}:
                await self._fail(context, Fault("UNAUTHENTICATED", "UNAUTHENTICATED"))
        await super()._enter(method, request, context)


@pytest_asyncio.fixture
async def double() -> Guarded:
    """Return the scripted server's state."""
    return Guarded()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take the variables of whoever runs the tests away."""
    for name in VARIABLES:
        monkeypatch.delenv(f"STANDPIPE_{name}", raising=False)
    return monkeypatch


class Mounted:
    """A token's file as a kubelet mounts it: a link to a file in a directory behind another link, which is swapped."""

    def __init__(self, directory: Path, token: str) -> None:
        self.path = directory / "token"
        self._directory = directory
        self._count = 0
        self.swap(token)
        self.path.symlink_to("..data/token")

    def swap(self, token: str) -> None:
        """Put another token there, at once."""
        self._count += 1
        fresh = self._directory / f"..{self._count}"
        fresh.mkdir()
        (fresh / "token").write_text(token)
        (self._directory / "..new").symlink_to(fresh.name)
        (self._directory / "..new").rename(self._directory / "..data")

    def swap_unseen(self, token: str) -> None:
        """Put another token of the same length there, of the same file, size and time."""
        about = self.path.stat()
        self.path.write_text(token)
        os.utime(self.path, ns=(about.st_atime_ns, about.st_mtime_ns))

    def remove(self) -> None:
        """Take the directory away, as in the middle of something."""
        (self._directory / "..data").unlink()


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    """Return a token's file."""
    return Mounted(tmp_path, "one")


# --- tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_token_goes_with_every_call_as_its_file_is_then(
    connect: Callable[..., Any], target: str, double: Guarded, mounted: Mounted
) -> None:
    """A token that is renewed on disk is shown from the next call on, by the same client, and nothing is refused."""
    client = connect(target, token_file=str(mounted.path), metadata=[("x-trace", "t1")])
    for token in ("one", "two", "three"):
        mounted.swap(f"{token}\nthe-next-one\n")
        double.tokens = {token}
        await client.server_info()
        await client.session("s", subject="anna").commit(user("Hi"), mode="append")
    assert double.shown == [f"Bearer {token}" for token in ("one", "one", "two", "two", "three", "three")]
    assert {metadata["x-trace"] for _, _, metadata in double.requests} == {"t1"}


@pytest.mark.asyncio
async def test_a_refused_token_is_read_again_and_tried_once(
    connect: Callable[..., Any], target: str, double: Guarded, mounted: Mounted
) -> None:
    """Where the file's time tells nothing, the refusal does; a token that is still the same is not shown twice."""
    client = connect(target, token_file=str(mounted.path))
    double.tokens = {"one"}
    await client.server_info()
    double.tokens = {"two"}
    mounted.swap_unseen("two")
    commit = await client.session("s", subject="anna").commit(user("Hi"), expected_version=0)
    assert (commit.version, double.shown[1:]) == (1, ["Bearer one", "Bearer two"])
    del double.shown[:]
    double.tokens = set()
    with pytest.raises(errors.Unauthenticated) as refused:
        await client.server_info()
    assert (refused.value.reason, double.shown) == ("UNAUTHENTICATED", ["Bearer two"])
    mounted.swap_unseen("six")
    with pytest.raises(errors.Unauthenticated):
        await client.server_info()
    assert double.shown[1:] == ["Bearer two", "Bearer six"]


@pytest.mark.asyncio
async def test_a_file_that_is_away_leaves_its_token_in_force(
    connect: Callable[..., Any], target: str, double: Guarded, mounted: Mounted
) -> None:
    """A file that is missing, empty or half written for a moment ends no call, and its next token is taken."""
    client = connect(target, token_file=str(mounted.path))
    double.tokens = {"one"}
    mounted.remove()
    await client.server_info()
    for text in ("", "\n", "not a token\x00", "x" * 70_000):
        mounted.swap(text)
        await client.server_info()
    double.tokens = {"two"}
    mounted.swap("two")
    await client.server_info()


@pytest.mark.asyncio
async def test_the_environment_tells_what_no_argument_does(
    connect: Callable[..., Any], target: str, double: Guarded, mounted: Mounted, environment: pytest.MonkeyPatch
) -> None:
    """An application in a pod calls connect() without arguments; an argument comes first, as does metadata."""
    double.tokens = {"one"}
    environment.setenv("STANDPIPE_TARGET", target)
    environment.setenv("STANDPIPE_TOKEN_FILE", str(mounted.path))
    await connect().server_info()
    environment.setenv("STANDPIPE_TOKEN_FILE", "/nowhere")
    await connect(token_file=str(mounted.path)).server_info()
    await connect(metadata=[("authorization", "Bearer one")]).server_info()
    environment.setenv("STANDPIPE_TARGET", "unix:/nowhere")
    await connect(target, token_file=str(mounted.path)).server_info()
    assert double.shown == ["Bearer one"] * 4


def test_without_a_word_it_is_the_servers_default() -> None:
    """Client, command line and server have the same default address, and nobody has to say it."""
    config = pytest.importorskip("sidecar.config")
    command = pytest.importorskip("sidecar.cli.target")
    wire: Any = standpipe.connect()._wire
    assert wire._target == channel.TARGET == command.TARGET == config.Config(plaintext=True).listen[0]


@pytest.mark.asyncio
async def test_a_token_is_shown_to_nobody_else(
    connect: Callable[..., Any],
    target: str,
    double: Guarded,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No error, no representation, no log and no traceback with the variables of this client holds a token."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "token"
    path.write_text("hush-hush")
    double.tokens = set()
    client = connect(target, token_file=str(path))
    with pytest.raises(errors.Unauthenticated) as refused:
        await client.session("s").hydrate()
    told = [repr(refused.value), str(refused.value), str(vars(refused.value)), caplog.text]
    inner = getattr(client, "_inner", client)
    wire = getattr(inner, "_inner", inner)._wire
    told += [repr(one) for one in (client, inner, wire, wire._token, vars(wire), vars(wire._token))]
    for frame, _ in traceback.walk_tb(refused.value.__traceback__):
        if "standpipe" in frame.f_code.co_filename:
            told.append(str({name: repr(value) for name, value in frame.f_locals.items()}))
    assert not [one for one in told if "hush" in one]
    assert any("***" in one for one in told)
    path.write_text("hush-hush \x00")
    with pytest.raises(ValueError, match="token_file") as invalid:
        standpipe.connect(target, token_file=str(path))
    assert "hush" not in str(invalid.value) + str(invalid.value.__cause__)


# --- what is refused at once -------------------------------------------------------------------------------------


def test_arguments_that_make_no_sense(connect: Callable[..., Any], tmp_path: Path) -> None:
    """What cannot work is a ValueError of `connect` that names the argument, and not a call that fails later."""
    made, other = Certificates.make(tmp_path / "ca"), Certificates.make(tmp_path / "other")
    ca, cert, key = map(str, (made.authority, made.certificate, made.key))
    files = {"empty": b"", "blank": b"\n \n", "umlaut": "t\u00f6ken".encode(), "long": b"x" * 70_000}
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    plain = grpc.ssl_channel_credentials()
    refused: list[tuple[dict[str, Any], str]] = [
        *(({"token_file": str(tmp_path / name)}, "token_file: .*must hold a token") for name in files),
        ({"token_file": str(tmp_path / "none")}, "token_file: .*cannot be read: No such file"),
        ({"token_file": str(tmp_path)}, "token_file: .*cannot be read"),
        ({"token_file": cert, "metadata": [("Authorization", "Bearer x")]}, "either token_file"),
        ({"ca_file": str(tmp_path / "none")}, "ca_file: .*must hold certificates"),
        ({"ca_file": key}, "ca_file: .*must hold certificates"),
        ({"cert_file": cert, "key_file": key}, "cert_file needs ca_file"),
        ({"ca_file": ca, "cert_file": cert}, "both cert_file and key_file"),
        ({"ca_file": ca, "key_file": key}, "both cert_file and key_file"),
        ({"ca_file": ca, "cert_file": cert, "key_file": str(other.key)}, "cert_file: .*a certificate and its key"),
        ({"ca_file": ca, "credentials": plain}, "either credentials"),
    ]
    for arguments, text in refused:
        with pytest.raises(ValueError, match=text):
            connect("127.0.0.1:1", **arguments)
    connect("unix:/nowhere", ca_file=str(tmp_path / "none"))  # TLS is for ports


# --- certificates ------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    """Return the server's certificate and its authority."""
    return Certificates.make(tmp_path / "server")


@pytest.fixture
def mine(tmp_path: Path) -> Certificates:
    """Return the caller's certificate and its authority."""
    return Certificates.make(tmp_path / "caller")


async def serve(double: Guarded, ours: Certificates, callers: Iterable[Certificates]) -> tuple[grpc.aio.Server, str]:
    """Serve the double in TLS; with authorities of callers, one of them must have signed the caller's certificate."""
    roots = b"".join(one.authority.read_bytes() for one in callers)
    pair = (ours.key.read_bytes(), ours.certificate.read_bytes())
    server = grpc.aio.server()
    add_ContextServiceServicer_to_server(double, server)
    guard = grpc.ssl_server_credentials([pair], roots or None, require_client_auth=bool(roots))
    port = server.add_secure_port("127.0.0.1:0", guard)
    await server.start()
    return server, f"127.0.0.1:{port}"


@pytest_asyncio.fixture
async def serving(double: Guarded, ours: Certificates) -> AsyncIterator[Callable[..., Any]]:
    """Return what serves the double in TLS, for callers of some authorities."""
    servers = []

    async def start(*callers: Certificates) -> str:
        server, address = await serve(double, ours, callers)
        servers.append(server)
        return address

    yield start
    for server in servers:
        await server.stop(None)


def files_of(ours: Certificates, mine: Certificates) -> dict[str, str]:
    """Return the arguments of a caller with a certificate."""
    return {"ca_file": str(ours.authority), "cert_file": str(mine.certificate), "key_file": str(mine.key)}


@pytest.mark.asyncio
async def test_tls_and_a_callers_certificate(
    connect: Callable[..., Any],
    serving: Callable[..., Any],
    ours: Certificates,
    mine: Certificates,
    environment: pytest.MonkeyPatch,
) -> None:
    """A port is spoken to in TLS with a server of a trusted authority, which may ask for the caller's certificate."""
    plain, mutual = await serving(), await serving(mine)
    for address, arguments, answers in (
        (plain, {"ca_file": str(ours.authority)}, True),
        (plain, files_of(ours, mine), True),
        (plain, {}, False),
        (plain, {"ca_file": str(mine.authority)}, False),
        (mutual, files_of(ours, mine), True),
        (mutual, {"ca_file": str(ours.authority)}, False),
        (mutual, files_of(ours, ours), False),
    ):
        client = connect(address, **arguments)
        if answers:
            assert (await client.server_info()).record_engine == "double"
        else:
            with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):
                await client.server_info(deadline_ms=1000)
    for name, value in files_of(ours, mine).items():
        environment.setenv(f"STANDPIPE_{name.upper()}", value)
    assert (await connect(mutual).server_info()).record_engine == "double"


@pytest.mark.asyncio
@pytest.mark.parametrize("target", ["unix"], indirect=True)
async def test_a_socket_file_has_no_tls(connect: Callable[..., Any], target: str, ours: Certificates) -> None:
    """One environment serves both: certificates that are named are for ports."""
    await connect(target, ca_file=str(ours.authority)).server_info()


@pytest.mark.asyncio
async def test_renewed_certificates_are_shown_by_later_calls(
    connect: Callable[..., Any], serving: Callable[..., Any], double: Guarded, ours: Certificates, tmp_path: Path
) -> None:
    """Later calls show the new certificate, a call under way ends as it began, and half a new pair is waited out."""
    before, after = (Certificates.make(tmp_path / name) for name in ("before", "after"))
    used = Certificates.make(tmp_path / "used")

    def put(*names: str, source: Certificates) -> None:
        for name in names:
            fresh = tmp_path / "fresh"
            shutil.copy(getattr(source, name), fresh)
            fresh.rename(getattr(used, name))

    put("certificate", "key", source=before)
    address = await serving(before, after)
    client = connect(address, **files_of(ours, used))
    gate = asyncio.Event()

    async def wait() -> None:
        double.entered.set()
        await gate.wait()

    double.plan("GetServerInfo", wait)
    under_way = asyncio.create_task(client.server_info())
    await double.entered.wait()
    put("certificate", source=after)
    await client.server_info()  # the key is still the old one's
    put("key", source=after)
    for _ in range(2):
        await client.server_info()
    wire = client._inner._inner._wire if connect.kind == "sync" else client._wire  # type: ignore[attr-defined]
    assert len(wire._lines) == 2
    gate.set()
    await under_way
    assert [one.rstrip(b"\0") for one in double.certificates] == [
        one.certificate.read_bytes() for one in (before, before, after, after)
    ]
    assert len(wire._lines) == 1  # what nobody uses any more is closed


def test_threads_share_a_token_that_changes(tmp_path: Path) -> None:
    """A reading is taken whole: no thread puts an older token behind a newer file's time for good."""
    mounted = Mounted(tmp_path, "0")
    found = credentials.TokenFile(str(mounted.path))
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            found.authorization()

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        for number in range(1, 50):
            mounted.swap(str(number))
            assert found.authorization() == f"Bearer {number}"
            time.sleep(0.001)
            assert found.authorization() == f"Bearer {number}"
        ended.set()
    for reader in readers:
        reader.result()
