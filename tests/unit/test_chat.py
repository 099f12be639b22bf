"""The endpoint's client: whatever answers, and however, one call ends in time, in words or in an error of ours."""

from __future__ import annotations

import datetime
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import limits
from sidecar.chat import Chat
from sidecar.errors import ConfigInvalid, EndpointUnavailable, Internal
from sidecar.telemetry import Log, Telemetry
from tests.endpoint import Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Serve."""
    with Endpoint() as found:
        yield found


def chat(url: str, *, key_file: str = "", stream: io.StringIO | None = None) -> Chat:
    """Return a client."""
    return Chat(url, model="some/model:7b", key_file=key_file, telemetry=Telemetry(Log(stream or io.StringIO())))


async def test_a_question_is_put_as_the_api_wants_it(endpoint: Endpoint, tmp_path: Path) -> None:
    """Path, model, messages and key are those of the chat completions API; the key is read anew for each call."""
    key = tmp_path / "key"
    key.write_text("sk-one\n")
    asker = chat(endpoint.url, key_file=str(key))
    endpoint.answer = json.dumps
    assert await asker.ask("do this", '[{"text": "hello"}]') == '[{"text": "hello"}]'
    key.write_text("sk-two")
    await asker.ask("do this", "[]")
    assert endpoint.paths == ["/v1/chat/completions"] * 2
    assert [headers["Authorization"] for headers in endpoint.headers] == ["Bearer sk-one", "Bearer sk-two"]
    asked = endpoint.asked[0]
    assert (asked["model"], asked["temperature"]) == ("some/model:7b", 0)
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]


async def test_the_whole_path_may_be_given(endpoint: Endpoint) -> None:
    """An address that ends in the call's path is taken as it is, and no key sends no header."""
    await chat(f"{endpoint.url}/chat/completions/").ask("", "[]")
    assert endpoint.paths == ["/v1/chat/completions"]
    assert "Authorization" not in endpoint.headers[0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[" * 100_000,
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": [1]}}]}',
        b'{"choices": {"0": 1}}',
        b"\xff\xfe",
        b'{"choices": [{"message": {"content": "' + b"x" * (limits.extract_answer_bytes + 1) + b'"}}]}',
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_what_is_no_answer_says_nothing(endpoint: Endpoint, body: bytes) -> None:
    """An answer that cannot be read, or is over extract_answer_bytes, is empty, and no error."""
    endpoint.answer = lambda _: (200, body)
    assert await chat(endpoint.url).ask("", "[]") == ""


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 429, 500, 503])
async def test_what_may_pass_is_tried_again(endpoint: Endpoint, status: int) -> None:
    """P12: statuses that say nothing of the question carry RetryInfo: the order goes back uncounted."""
    endpoint.answer = lambda _: (status, b"a private text")
    stream = io.StringIO()
    with pytest.raises(EndpointUnavailable) as raised:
        await chat(endpoint.url, stream=stream).ask("", "[]")
    assert raised.value.retry_after_ms
    assert str(status) in stream.getvalue()
    assert "private" not in stream.getvalue() + raised.value.message


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_is_wrong_with_the_question_counts_against_it(endpoint: Endpoint, status: int) -> None:
    """Statuses that are about the question carry no RetryInfo: the order is tried a few times, and parked."""
    endpoint.answer = lambda _: (status, b"")
    with pytest.raises(Internal) as raised:
        await chat(endpoint.url).ask("", "[]")
    assert raised.value.retry_after_ms is None


async def test_nobody_there_may_pass() -> None:
    """P12: an address at which nothing listens is an outage."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(EndpointUnavailable):
            await chat(f"http://127.0.0.1:{held.getsockname()[1]}").ask("", "[]")


async def test_one_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: an answer that comes byte by byte, for ever, ends after extract_call_s, and its thread with it."""
    monkeypatch.setattr(limits, "extract_call_s", 0.3)
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            try:
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.02)
            except OSError:
                ended.set()

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(EndpointUnavailable):
        await chat(f"http://127.0.0.1:{server.getsockname()[1]}").ask("", "[]")
    thread.join(10)
    server.close()
    assert ended.is_set()


@pytest.mark.parametrize("content", ["", "two\nlines", "with blank s", "ké", "x" * 5000])
def test_a_key_is_one_word(tmp_path: Path, content: str) -> None:
    """A file that holds no key, or what could break out of a header, is refused at the start, unquoted."""
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(ConfigInvalid) as raised:
        chat("http://localhost", key_file=str(path))
    assert raised.value.field == "extractor_key_file"
    with pytest.raises(ConfigInvalid):
        chat("http://localhost", key_file=str(tmp_path / "none"))


async def test_a_key_stands_in_no_log(endpoint: Endpoint, tmp_path: Path) -> None:
    """P8: whatever fails, neither the log nor the error holds the key."""
    key = tmp_path / "key"
    key.write_text("sk-sesame")
    stream = io.StringIO()
    asker = chat(endpoint.url, key_file=str(key), stream=stream)
    said = []
    for status in (401, 400, 500):
        endpoint.answer = lambda _, status=status: (status, b"sk-sesame")
        with pytest.raises((EndpointUnavailable, Internal)) as raised:
            await asker.ask("", "[]")
        said.append(repr(raised.value) + str(raised.value.metadata))
    assert "sesame" not in stream.getvalue() + "".join(said)


def certificate(directory: Path) -> ssl.SSLContext:
    """Return a server's context with a certificate that nobody vouches for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_a_server_that_nobody_vouches_for_learns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: over TLS the certificate is checked before a word is sent; one that is vouched for is asked."""
    with Endpoint(certificate(tmp_path)) as endpoint:
        url = endpoint.url.replace("127.0.0.1", "localhost")
        with pytest.raises(EndpointUnavailable):
            await chat(url).ask("", "[]")
        assert endpoint.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        endpoint.answer = lambda _: {"said": 1}
        assert json.loads(await chat(url).ask("", "[]")) == {"said": 1}
