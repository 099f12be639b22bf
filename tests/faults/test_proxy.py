"""The fault proxy does what it is told, and only while it is told so."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.proxy import Proxy
from tests.servers import LOOPBACK


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that sends back what comes."""
    listener = socket.create_server((LOOPBACK, 0))

    def echo(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(peer,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    with Proxy(listener.getsockname()) as found:
        yield found
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def connect(proxy: Proxy, *, timeout_s: float = 10.0) -> socket.socket:
    """Connect a client."""
    return socket.create_connection(proxy.address, timeout=timeout_s)


def asked(client: socket.socket, question: bytes) -> bytes:
    """Send something and read it back, or what of it comes before the end."""
    client.sendall(question)
    answer = b""
    while len(answer) < len(question):
        part = client.recv(65536)
        if not part:
            break
        answer += part
    return answer


def test_it_passes_what_comes(proxy: Proxy) -> None:
    """Bytes pass both ways, on several connections."""
    with connect(proxy) as one, connect(proxy) as other:
        assert asked(one, b"a" * 300_000) == b"a" * 300_000
        assert asked(other, b"b") == b"b"
    assert proxy.accepted == 2


def test_it_cuts_and_takes_new_connections(proxy: Proxy) -> None:
    """A cut ends what is there, not what comes."""
    with connect(proxy) as client:
        assert asked(client, b"a") == b"a"
        proxy.cut()
        with pytest.raises(ConnectionError):
            client.recv(1) or _ended()
    with connect(proxy) as client:
        assert asked(client, b"a") == b"a"


def _ended() -> None:
    raise ConnectionError


def test_it_refuses_until_it_is_healed(proxy: Proxy) -> None:
    """Refused is refused at once; healed is as before, on the same port."""
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as client:
        assert asked(client, b"a") == b"a"


@pytest.mark.parametrize("direction", ["up", "down"])
def test_it_swallows_and_hands_over_later(proxy: Proxy, direction: str) -> None:
    """A black hole answers nothing; healed, what was held back comes."""
    with connect(proxy, timeout_s=0.2) as client:
        proxy.black_hole(direction)
        with pytest.raises(TimeoutError):
            asked(client, b"late")
        proxy.heal()
        client.settimeout(10)
        assert client.recv(10) == b"late"


def test_it_cuts_an_answer_in_the_middle(proxy: Proxy) -> None:
    """After so many bytes the connection ends; the next one is whole."""
    with connect(proxy) as client:
        proxy.cut_after(3)
        assert asked(client, b"abcdef") == b"abc"
    with connect(proxy) as client:
        assert asked(client, b"abcdef") == b"abcdef"


def test_it_delays_and_slows_down(proxy: Proxy) -> None:
    """A client that waits less than the link needs gets nothing whole; the bytes come all the same."""
    with connect(proxy, timeout_s=0.05) as client:
        proxy.delay(0.5, jitter_s=0.1)
        with pytest.raises(TimeoutError):
            asked(client, b"x")
        client.settimeout(10)
        assert client.recv(1) == b"x"
        proxy.heal()
        proxy.trickle(1000, direction="down")
        client.sendall(b"y" * 300)
        first = client.recv(300)
        assert 0 < len(first) < 300
        rest = b""
        while len(first) + len(rest) < 300:
            rest += client.recv(300)
        assert first + rest == b"y" * 300
