"""What vouches for callers in tests: an issuer of tokens, and a real HTTPS server with its keys, and reviews."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.certificates import Certificates
from tests.servers import LOOPBACK

ISSUER = "https://issuer.example"
AUDIENCE = "standpipe"
OURS = "token-of-the-server-itself"


def account(namespace: str, name: str = "app") -> str:
    """Return a service account's name."""
    return f"system:serviceaccount:{namespace}:{name}"


class Issuer:
    """Signs tokens with keys of any kind."""

    def __init__(self, *kinds: str) -> None:
        """`kinds` are algorithms; the first key signs unless another is named."""
        self.keys: dict[str, tuple[str, Any]] = {}
        for number, kind in enumerate(kinds or ("ES256",)):
            self.add(f"key-{number}", kind)

    def add(self, key_id: str, algorithm: str = "ES256") -> None:
        """Add a key; the next token may be signed with it."""
        if algorithm[:2] in {"RS", "PS"}:
            key: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        elif algorithm == "EdDSA":
            key = ed25519.Ed25519PrivateKey.generate()
        else:
            key = ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
        self.keys[key_id] = (algorithm, key)

    def jwks(self, *names: str) -> dict[str, Any]:
        """Return the public keys, all of them or those named."""
        return {"keys": [self.public(name) for name in names or self.keys]}

    def public(self, name: str) -> dict[str, Any]:
        """Return one public key as a JWK."""
        algorithm, key = self.keys[name]
        made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        return {**made, "kid": name, "use": "sig", "alg": algorithm}

    def write(self, path: Path, *names: str) -> Path:
        """Write a JWKS to a file, whole or not at all."""
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.jwks(*names)))
        return fresh.rename(path)

    def token(
        self, caller: str, *, key: str = "", valid_s: float = 600, header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """Return a token of a caller; a claim of None is left out."""
        name = key or next(iter(self.keys))
        algorithm, secret = self.keys[name]
        now = time.time()
        body = {"sub": caller, "iss": ISSUER, "aud": [AUDIENCE], "exp": now + valid_s, "iat": now, "nbf": now, **claims}
        present = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(present, secret, algorithm=algorithm, headers={"kid": name, **(header or {})})


class ApiServer:
    """An HTTPS server: POST of a TokenReview, GET of /openid/v1/jwks, for who brings the server's own token."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self.accounts: dict[str, tuple[str, list[str]]] = {}
        """Whom a token is of, and for which audiences, by the token."""
        self.jwks: dict[str, Any] = {"keys": []}
        self.reviews: list[str] = []
        """The digests of the tokens that were reviewed."""
        self.looks = 0
        self.status = 0
        """What is answered in place of an answer, if anything."""
        self.answer: bytes | None = None
        self.hold = threading.Event()
        """While it is not set nothing is answered."""
        self.hold.set()
        self.reached = threading.Semaphore(0)

    def __enter__(self) -> Self:
        """Serve."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_GET(self) -> None:
                outer.looks += 1
                self._answer(200, outer.jwks if self.path == "/openid/v1/jwks" else {})

            def do_POST(self) -> None:
                spec = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["spec"]
                outer.reviews.append(hashlib.sha256(spec["token"].encode()).hexdigest())
                outer.reached.release()
                outer.hold.wait(30)
                known = outer.accounts.get(spec["token"])
                both = [one for one in spec.get("audiences", []) if known and one in known[1]]
                status: dict[str, Any] = {"authenticated": False, "error": "invalid bearer token"}
                if known and both:
                    status = {"authenticated": True, "user": {"username": known[0], "uid": "1"}, "audiences": both}
                self._answer(201, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})

            def _answer(self, status: int, body: Any) -> None:
                if self.headers["Authorization"] != f"Bearer {OURS}":
                    status, body = 401, {}
                data = outer.answer if outer.answer is not None else json.dumps(body).encode()
                self.send_response(outer.status or status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Say nothing: clients that leave are part of the tests."""

        self._server = Server((LOOPBACK, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates.certificate, self.certificates.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, with who still waits."""
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://{LOOPBACK}:{self._server.server_address[1]}"

    def settings(self, directory: Path) -> dict[str, Any]:
        """Return the settings of a sidecar that asks it for reviews."""
        own = directory / "own-token"
        own.write_text(OURS)
        return {
            "auth_review": self.url,
            "auth_ca_file": str(self.certificates.authority),
            "auth_api_token_file": str(own),
        }


class Volume:
    """A directory that is swapped as kubelet swaps that of a ConfigMap or a Secret: by one symlink."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0
        path.mkdir()

    def put(self, **files: str) -> None:
        """Put all files, in one step."""
        self._count += 1
        fresh = self.path / f"..{self._count}"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_text(content)
        (self.path / "..data_tmp").symlink_to(fresh.name)
        (self.path / "..data_tmp").rename(self.path / "..data")
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
