"""The HTTP port: what kubelets and Prometheus are told, in every state, also while the event loop is stuck (P12)."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from sidecar import health
from sidecar.errors import ConfigInvalid
from sidecar.health import Health, HealthServer
from sidecar.telemetry import Log, Telemetry


@pytest.fixture
def state() -> Health:
    """Return a server's health before it started."""
    return Health(Telemetry(Log(io.StringIO())))


@pytest.fixture
def pages(state: Health) -> Iterator[HealthServer]:
    """Serve the pages of that state."""
    server = HealthServer("127.0.0.1:0", state)
    yield server
    server.close()


@pytest.fixture
async def beating(state: Health) -> AsyncIterator[None]:
    """Let the event loop prove that it runs."""
    task = asyncio.create_task(state.beat())
    await asyncio.sleep(0)
    yield
    task.cancel()


def get(port: int, path: str, *, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str, str]:
    """Return (status, content type, body)."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


async def codes(port: int) -> list[int]:
    """Return what startup, readiness and liveness probes get."""
    return [(await asyncio.to_thread(get, port, path))[0] for path in ("/startupz", "/readyz", "/livez")]


@pytest.mark.usefixtures("beating")
async def test_probes_in_every_state(state: Health, pages: HealthServer) -> None:
    """P12: starting, ready, draining: each probe says what is so; only liveness holds all the time."""
    assert await codes(pages.port) == [503, 503, 200]
    state.started = state.ready = True
    assert await codes(pages.port) == [200, 200, 200]
    state.ready = False
    assert await codes(pages.port) == [200, 503, 200]


async def test_before_the_first_heartbeat_nothing_is_alive(state: Health, pages: HealthServer) -> None:
    """A loop that never ran is not alive, whatever the flags say."""
    state.started = state.ready = True
    assert await codes(pages.port) == [200, 503, 503]


@pytest.mark.usefixtures("beating")
async def test_a_stuck_event_loop_is_seen(state: Health, pages: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: while the loop is blocked the port still answers: alive at first, 503 once the heartbeat is late."""
    monkeypatch.setattr(health, "HEARTBEAT_LATE_S", 0.4)
    monkeypatch.setattr(health, "HEARTBEAT_S", 0.05)
    state.started = state.ready = True
    await asyncio.sleep(0.1)
    probe = asyncio.create_task(asyncio.to_thread(_probe_twice, pages.port))
    await asyncio.sleep(0.05)
    time.sleep(1.0)  # noqa: ASYNC251 - the loop is stuck, that is the test
    assert await probe == ([200, 200], [503, 503])
    await asyncio.sleep(0.7)
    assert await codes(pages.port) == [200, 200, 200]
    lag = state.telemetry.registry.get_sample_value("standpipe_event_loop_lag_seconds")
    assert lag is not None


def _probe_twice(port: int) -> tuple[list[int], list[int]]:
    early = [get(port, path)[0] for path in ("/readyz", "/livez")]
    time.sleep(0.8)
    return early, [get(port, path)[0] for path in ("/readyz", "/livez")]


def test_the_metrics_page(state: Health, pages: HealthServer) -> None:
    """Prometheus gets its own format, with what was counted; unknown pages are 404, other methods are refused."""
    state.telemetry.commits.inc(3)
    status, kind, body = get(pages.port, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert "standpipe_commits_total 3.0" in body
    assert get(pages.port, "/metrics?name[]=x")[0] == 200
    assert get(pages.port, "/other")[0] == 404
    assert get(pages.port, "/")[0] == 404
    assert get(pages.port, "/livez", method="POST")[0] == 501


def test_a_port_that_is_taken_is_an_error(pages: HealthServer, state: Health) -> None:
    """Two servers on one port are a mistake of configuration, not a lottery."""
    with pytest.raises(ConfigInvalid, match="cannot be bound") as caught:
        HealthServer(f"127.0.0.1:{pages.port}", state)
    assert caught.value.field == "http"


def test_it_is_served_on_ipv6(state: Health) -> None:
    """[::1]:port is an address like another."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    server = HealthServer("[::1]:0", state)
    assert get(server.port, "/other", host="::1")[0] == 404
    server.close()


def test_nothing_is_asked_of_a_name_server(state: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    """Binding looks no name up: where there is no DNS that would hang."""

    def refuse(*args: object) -> str:
        raise AssertionError("the DNS was asked")

    monkeypatch.setattr(socket, "getfqdn", refuse)
    monkeypatch.setattr(socket, "gethostbyaddr", refuse)
    HealthServer("127.0.0.1:0", state).close()


def test_a_silent_caller_holds_nobody_up(pages: HealthServer) -> None:
    """P12: a connection that says nothing does not keep others from their answer, nor the server from closing."""
    with socket.create_connection(("127.0.0.1", pages.port)):
        assert get(pages.port, "/other")[0] == 404
