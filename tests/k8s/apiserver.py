"""A real Kubernetes API server with its etcd, on loopback: authentication, RBAC and admission, and no controllers.

So nothing makes the service account of a namespace, or the pods of a Deployment: `namespace` makes the former, and a
test that wants a Deployment's pods posts its template. PodSecurity admission is built in, and enforced where a
namespace's labels say so.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.certificates import Certificates
from tests.k8s import tools
from tests.servers import LOOPBACK, Server, free_port

ISSUER = "https://kubernetes.default.svc"
ADMIN_TOKEN = "admin-of-the-test"
FIELD_MANAGER = "standpipe-test"

RELEASES = {
    "1.36": ["--runtime-config=admissionregistration.k8s.io/v1beta1=true"],
    "1.34": [
        "--emulated-version=1.34",
        "--emulation-forward-compatible",  # this release's policies are read as v1, which 1.34 had not
        "--feature-gates=kube:MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
    ],
    "1.33": [
        "--emulated-version=1.33",
        "--feature-gates=kube:DynamicResourceAllocation=true",
        "--runtime-config=resource.k8s.io/v1beta2=true",
    ],
}
"""What an API server of each release is told: one that is older is emulated, with the betas that the chart uses on."""

Manifest = dict[str, Any]


class Refused(Exception):
    """The API server did not do it: its status code, its reason in one word, and its message."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.code: int = status.get("code", 0)
        self.reason: str = status.get("reason", "")
        self.message: str = status.get("message", "")
        super().__init__(f"{self.code} {self.reason}: {self.message}")


class Etcd(Server):
    """Where the API server keeps its objects."""

    kind = "etcd"

    def __init__(self) -> None:
        super().__init__()
        self._binary = tools.need("etcd")
        self._peer = f"http://{LOOPBACK}:{free_port()}"
        self.address = f"http://{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        """Return the command line: one member, that need not survive the machine."""
        return [
            str(self._binary),
            f"--data-dir={self.directory / 'data'}",
            "--name=one",
            f"--initial-cluster=one={self._peer}",
            f"--initial-advertise-peer-urls={self._peer}",
            f"--listen-peer-urls={self._peer}",
            f"--advertise-client-urls={self.address}",
            f"--listen-client-urls={self.address}",
            "--unsafe-no-fsync",
        ]

    def ready(self) -> bool:
        """Return whether it says that it is well."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return json.loads(connection.getresponse().read())["health"] == "true"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class ApiServer(Server):
    """A kube-apiserver with an etcd of its own, and a client of it that may do everything."""

    kind = "kube-apiserver"

    def __init__(self, release: str = "1.36", *flags: str) -> None:
        super().__init__()
        self._binary = tools.need("kube-apiserver")
        self._flags = [*RELEASES[release], *flags]
        self._etcd = Etcd()
        self.certificates = Certificates.make(self.directory / "certificates")
        self.address = f"https://{LOOPBACK}:{self.port}"
        self._accounts_key = self.directory / "accounts.pem"
        self._accounts_key.write_bytes(
            rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}
        self._tokens = self.directory / "tokens.csv"
        self._tokens.write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
        self._trust = ssl.create_default_context(cafile=str(self.certificates.authority))
        self._trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the test's authority has no key identifiers

    def command(self) -> list[str]:
        """Return the command line: what a cluster has by default, and what `RELEASES` adds."""
        return [
            str(self._binary),
            f"--etcd-servers={self._etcd.address}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={self.port}",
            f"--cert-dir={self.directory}",
            f"--tls-cert-file={self.certificates.certificate}",
            f"--tls-private-key-file={self.certificates.key}",
            f"--token-auth-file={self._tokens}",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self._accounts_key}",
            f"--service-account-signing-key-file={self._accounts_key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            *self._flags,
        ]

    def ready(self) -> bool:
        """Return whether it is ready, the roles of a new cluster made."""
        try:
            return self.call("GET", "/readyz") == {"text": "ok"}
        except (OSError, http.client.HTTPException, Refused):
            return False

    def __enter__(self) -> Self:
        """Start etcd and the API server, with the namespace default and its service account."""
        self._etcd.start()
        self.start()
        self.namespace("default")
        return self

    def __exit__(self, *_: object) -> None:
        """End both."""
        self.stop()
        self._etcd.stop()

    # --- the client ---------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = ADMIN_TOKEN,
        content: str = "application/json",
        **query: str,
    ) -> Manifest:
        """Make one request and return the answer, {"text": …} if it is no JSON. Raises Refused."""
        connection = http.client.HTTPSConnection(LOOPBACK, self.port, context=self._trust, timeout=60)
        try:
            connection.request(
                method,
                f"{path}?{urlencode(query)}" if query else path,
                None if body is None else json.dumps(body),
                {"Authorization": f"Bearer {token}", "Content-Type": content},
            )
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        try:
            found = json.loads(text)
        except ValueError:
            found = {"text": text, "code": answer.status, "message": text} if answer.status >= 300 else {"text": text}
        if answer.status >= 300:
            raise Refused(found)
        return found

    def create(self, manifest: Manifest, *, dry_run: bool = False, token: str = ADMIN_TOKEN) -> Manifest:
        """Create an object, with every field known, and return it as it was stored."""
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self.call("POST", self.path(manifest), manifest, token=token, **query)

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply an object as `kubectl apply --server-side` does, with every field known, and return it."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry_run else {}
        path = f"{self.path(manifest)}/{manifest['metadata']['name']}"
        return self.call("PATCH", path, manifest, content="application/apply-patch+yaml", **query)

    def delete(self, manifest: Manifest) -> None:
        """Delete an object, at once."""
        path = f"{self.path(manifest)}/{manifest['metadata']['name']}"
        self.call("DELETE", path, gracePeriodSeconds="0")

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Make a namespace, and the service account that its pods have; return its name."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
        self.account(name, "default")
        return name

    def account(self, namespace: str, name: str) -> str:
        """Make a service account and return its user's name."""
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
        return f"system:serviceaccount:{namespace}:{name}"

    def token(self, namespace: str, account: str, *, audience: str = "", seconds: int = 3600) -> str:
        """Return a token of a service account, as a kubelet projects it into a pod."""
        asked = {"audiences": [audience] if audience else [], "expirationSeconds": seconds}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        made = self.call(
            "POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": asked}
        )
        return str(made["status"]["token"])

    def path(self, manifest: Manifest) -> str:
        """Return where objects of a manifest's kind live, in its namespace. Raises KeyError for an unknown kind."""
        root, name, namespaced = self._kind(manifest)
        if not namespaced:
            return f"{root}/{name}"
        return f"{root}/namespaces/{manifest['metadata'].get('namespace', 'default')}/{name}"

    def namespaced(self, manifest: Manifest) -> bool:
        """Return whether objects of a manifest's kind are in namespaces. Raises KeyError for an unknown kind."""
        return self._kind(manifest)[2]

    def _kind(self, manifest: Manifest) -> tuple[str, str, bool]:
        version, kind = manifest["apiVersion"], manifest["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (root, kind) not in self._kinds:
            for one in self.call("GET", root)["resources"]:
                if "/" not in one["name"]:
                    self._kinds[root, one["kind"]] = one["name"], one["namespaced"]
        return root, *self._kinds[root, kind]


def write_kubeconfig(server: ApiServer, path: Path) -> Path:
    """Write a kubeconfig for tools such as helm."""
    here = {"server": server.address, "certificate-authority": str(server.certificates.authority)}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": here}],
                "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            }
        )
    )
    path.chmod(0o600)
    return path
