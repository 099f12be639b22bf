"""`standpipe health` and `standpipe smoke`: what probes and a release's test run against a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from standpipe import assistant, errors, sync, user
from tests.certificates import Certificates
from tests.e2e.test_cli import Serving, run
from tests.servers import free_port

STEPS = ["info", "first", "hydrate", "replay", "conflict", "again", "erase"]
NOTHING = "name: nothing\nprompts: [{name: persona, text: Be brief.}]\nsources: {facts: {cap: 10}}\n"
"""Under it no bundle shows a turn."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return the server's certificate."""
    return Certificates.make(tmp_path_factory.mktemp("smoke") / "server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Serve, without an embedder, for all tests of this file."""
    directory = tmp_path_factory.mktemp("smoke")
    listen, record = f"127.0.0.1:0,unix:{directory}/s.sock", f"sqlite:{directory}/record.db"
    found = Serving("--listen", listen, "--http", "127.0.0.1:0", "--record", record, "--embedder", "none")
    yield found
    found.end(signal.SIGKILL)


def logs(client: sync.Client) -> dict[str, list[bytes]]:
    """Return every session's log; of what was erased nothing but the id is left."""
    found = {}
    for one in client.sessions():
        try:
            found[one.session_id] = [event.hash for event in client.session(one.session_id).events()]
        except errors.FailedPrecondition as error:
            if error.reason != "ERASED":
                raise
    return found


# --- smoke -------------------------------------------------------------------------------------------------------


def test_smoke_tries_a_server_and_leaves_nothing(server: Serving) -> None:
    """Each step is told, over either transport, for people and for programs; what others wrote is as it was (P11)."""
    with sync.connect(server.target) as client:
        client.session("kept", subject="anna").commit([user("Hi"), assistant("Hello")], mode="append")
        before = logs(client)
        for target in server.started["listen"]:
            done = run("smoke", "--target", target)
            assert (done.returncode, done.stderr) == (0, "")
            assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", step] for step in STEPS]
        done = run("smoke", "--json", STANDPIPE_TARGET=server.target)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(one["step"], one["ok"]) for one in told] == [(step, True) for step in STEPS]
        assert all(one["found"] and one["ms"] >= 0 for one in told)
        assert logs(client) == before


def test_smoke_fails_with_the_step_and_its_error(server: Serving) -> None:
    """A server that refuses, does not keep its word, or is not there: exit code 1, and which step it was."""
    done = run("smoke", "--target", server.target, "--tenant", "other")
    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", "info"], ["failed", "first"]]
    assert "TENANT_DENIED" in done.stderr
    assert "Traceback" not in done.stderr

    with sync.connect(server.target) as client:
        client.policies.publish(NOTHING)
        before, route = logs(client), client.policies.list().routes
        client.policies.set_route("default", "nothing", 1)
        done = run("smoke", "--target", server.target, "--json")
        assert done.returncode == 1
        last = json.loads(done.stdout.splitlines()[-1])
        assert (last["step"], last["ok"]) == ("hydrate", False)
        assert "Error: hydrate: the bundle neither shows the turn nor omits it" in done.stderr
        assert logs(client) == before  # erased all the same
        assert not route

    done = run("smoke", "--target", f"127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout.split()[:2]) == (1, ["failed", "info"])
    assert "no server answers" in done.stderr
    assert run("smoke", "--token-file", "/nowhere").returncode == 2


def test_smoke_shows_who_calls(tmp_path: Path, certificates: Certificates) -> None:
    """With a token on a socket file, and with a certificate in TLS besides; without a token health alone goes."""
    tokens, token = tmp_path / "tokens", tmp_path / "token"
    tokens.write_text("an-older-token-1\nthe-newer-token-1\n")
    token.write_text("the-newer-token-1\n")
    mine = Certificates.make(tmp_path / "mine")
    settings = {
        "listen": f"unix:{tmp_path}/s.sock,127.0.0.1:0",
        "http": "",
        "record": f"sqlite:{tmp_path}/record.db",
        "embedder": "none",
        "auth-token-file": str(tokens),
        "tls-cert-file": str(certificates.certificate),
        "tls-key-file": str(certificates.key),
        "tls-client-ca-file": str(mine.authority),
    }
    serving = Serving(*(f"--{name}={value}" for name, value in settings.items()))
    socket, port = serving.started["listen"]
    tls = ["--ca-file", certificates.authority, "--cert-file", mine.certificate, "--key-file", mine.key]
    try:
        for target in (["--target", socket], ["--target", port, *map(str, tls)]):
            done = run("smoke", *target, "--token-file", str(token))
            assert (done.returncode, done.stderr) == (0, "")
            done = run("smoke", *target)
            assert (done.returncode, done.stdout.split()[:2]) == (1, ["failed", "info"])
            assert "UNAUTHENTICATED" in done.stderr
            assert "--token-file" in done.stderr
            assert run("health", *target).returncode == 0
        done = run("smoke", "--target", port, "--token-file", str(token), *map(str, tls[:2]))
        assert done.returncode == 1
        assert "in TLS as --ca-file, --cert-file and --key-file say" in done.stderr
    finally:
        code, _, log = serving.end()
    assert code == 0
    assert "newer-token" not in log


# --- health ------------------------------------------------------------------------------------------------------


def test_health_asks_grpc_and_the_pages(server: Serving) -> None:
    """A server that serves is well by every question, on every socket; one that is not there is not."""
    for target in server.started["listen"]:
        done = run("health", "--target", target)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{target}: SERVING\n", "")
    http = server.started["http"]
    for flags, page in (
        (["--probe", "startupz"], "startupz"),
        (["--probe", "readyz"], "readyz"),
        (["--probe", "livez"], "livez"),
        ([], "readyz"),
    ):
        done = run("health", "--http", http, *flags)
        assert (done.returncode, done.stdout) == (0, f"{http}/{page}: 200\n")
    nobody = f"127.0.0.1:{free_port()}"
    for flags in (["--target", nobody], ["--http", nobody], ["--http", server.target], ["--target", "unix:/nowhere"]):
        done = run("health", *flags, "--deadline-ms", "500")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"\S+: [\w ]+\n", done.stderr)
    for wrong in (["--probe", "wellz"], ["--http", "nowhere"], ["--deadline-ms", "0"], ["--cert-file", "x"]):
        assert run("health", *wrong).returncode == 2


def test_health_of_a_server_that_drains_or_is_no_standpipe() -> None:
    """NOT_SERVING and a server without a health service are exit code 1."""
    answer = [health_pb2.HealthCheckResponse.NOT_SERVING]

    class Health(health_pb2_grpc.HealthServicer):
        def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> object:
            del request, context
            return health_pb2.HealthCheckResponse(status=answer[0])

    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = run("health", "--target", f"127.0.0.1:{port}")
        assert (done.returncode, done.stderr) == (1, f"127.0.0.1:{port}: UNIMPLEMENTED\n")
        health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
        done = run("health", "--target", f"127.0.0.1:{port}")
        assert (done.returncode, done.stderr) == (1, f"127.0.0.1:{port}: NOT_SERVING\n")
        answer[0] = health_pb2.HealthCheckResponse.SERVING
        assert run("health", "--target", f"127.0.0.1:{port}").returncode == 0
    finally:
        server.stop(None)


def test_health_in_tls(tmp_path: Path, certificates: Certificates) -> None:
    """A port that speaks TLS is asked in TLS, with the files that the environment may name."""
    pair = (certificates.key.read_bytes(), certificates.certificate.read_bytes())
    mine = Certificates.make(tmp_path / "mine")
    server = grpc.server(ThreadPoolExecutor(2))
    service = health.HealthServicer()
    service.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    guard = grpc.ssl_server_credentials([pair], mine.authority.read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", guard)
    server.start()
    try:
        flags = {"ca": certificates.authority, "cert": mine.certificate, "key": mine.key}
        named = [word for name, path in flags.items() for word in (f"--{name}-file", str(path))]
        assert run("health", "--target", f"127.0.0.1:{port}", *named).returncode == 0
        told = {f"STANDPIPE_{name.upper()}_FILE": str(path) for name, path in flags.items()}
        assert run("health", "--target", f"127.0.0.1:{port}", **told).returncode == 0
        assert run("health", "--target", f"127.0.0.1:{port}", *named[:2]).returncode == 1
        assert run("health", "--target", f"127.0.0.1:{port}").returncode == 1
    finally:
        server.stop(None)


def test_health_loads_little() -> None:
    """A probe each second must not cost what a command for people does: no tables, no YAML, no protobuf, no client."""
    code = "import sys; from sidecar.__main__ import main; sys.argv = ['standpipe', *sys.argv[1:]]\ntry: main()\n"
    code += "except SystemExit: print(*sys.modules)"
    for flags, loaded in (
        (["--probe", "livez"], set()),
        (["--target", "unix:/nowhere"], {"grpc", "asyncio"}),  # which it loads itself
    ):
        arguments = [sys.executable, "-c", code, "health", *flags]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "80"})
        heavy = {"grpc", "google.protobuf", "yaml", "rich", "standpipe", "numpy", "asyncio", "http.client"}
        assert heavy & set(done.stdout.split()) == loaded
