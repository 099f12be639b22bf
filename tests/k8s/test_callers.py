"""Callers in a cluster: real service accounts, their projected tokens, and a real API server that vouches for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import callers, config, doctor, limits
from sidecar.config import Config
from tests.e2e.pods import Pod, refused, serving, until
from tests.k8s import tools
from tests.k8s.apiserver import ISSUER, ApiServer

pytestmark = pytest.mark.needs("etcd", "kube-apiserver")

SELF = "standpipe-server"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApiServer]:
    """A cluster with two tenants' namespaces, and an account of the server that may have tokens reviewed."""
    with ApiServer() as api:
        for namespace in ("acme", "umbrella"):
            api.namespace(namespace)
            api.account(namespace, "web")
        api.account("default", SELF)
        api.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "standpipe-reviews"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "system:auth-delegator",
                },
                "subjects": [{"kind": "ServiceAccount", "name": SELF, "namespace": "default"}],
            }
        )
        yield api


def settings(cluster: ApiServer, directory: Path, way: str) -> dict[str, Any]:
    """Return the settings of a shared server in the cluster."""
    own, tenants = directory / "own-token", directory / "tenants.yaml"
    own.write_text(cluster.token("default", SELF))
    entry = {"tenant": "{namespace}", "callers": ["system:serviceaccount:*:web"]}
    tenants.write_text(yaml.safe_dump({"tenants": [entry]}))
    found: dict[str, Any] = {
        "auth_ca_file": str(cluster.certificates.authority),
        "auth_api_token_file": str(own),
        "tenants_file": str(tenants),
    }
    if way == "review":
        return {**found, "auth_review": cluster.address}
    return {**found, "auth_jwks": f"{cluster.address}/openid/v1/jwks", "auth_issuer": ISSUER}


@pytest.mark.parametrize("way", ["review", "jwks"])
async def test_service_accounts_are_callers(cluster: ApiServer, tmp_path: Path, way: str) -> None:
    """A pod's projected token with our audience is taken and names its namespace's tenant; others are not (P8)."""
    tokens = {
        name: await asyncio.to_thread(cluster.token, name, "web", audience="standpipe") for name in ("acme", "umbrella")
    }
    others = [
        await asyncio.to_thread(cluster.token, "acme", "web"),  # for the API server
        await asyncio.to_thread(cluster.token, "acme", "web", audience="another"),
        tokens["acme"][:-6] + "AAAAAA",
    ]
    unlisted = await asyncio.to_thread(cluster.token, "acme", "default", audience="standpipe")
    async with serving(tmp_path / "r.db", **settings(cluster, tmp_path, way)) as server:
        pods = {name: Pod(server.target, token=lambda token=token: token) for name, token in tokens.items()}
        for name, pod in pods.items():
            await pod.append("s", "r", f"The lift of {name} is out of order.")
        for name, pod in pods.items():
            (other,) = pods.keys() - {name}
            shown = str(await pod.hydrate("s"))
            assert f"lift of {name}" in shown
            assert f"lift of {other}" not in shown
            assert (await refused(pod.hydrate("s", tenant_id=other))).reason == "TENANT_DENIED"
            await pod.close()
        for token, reason in (*((one, "UNAUTHENTICATED") for one in others), (unlisted, "TENANT_DENIED")):
            pod = Pod(server.target, token=lambda token=token: token)
            assert (await refused(pod.hydrate("s"))).reason == reason
            await pod.close()


async def test_a_deleted_account_is_refused(
    cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With reviews an account that is deleted can call no longer, once review_fresh_s are over."""
    monkeypatch.setattr(limits, "review_fresh_s", 1)
    await asyncio.to_thread(cluster.namespace, "gone")
    await asyncio.to_thread(cluster.account, "gone", "web")
    token = await asyncio.to_thread(cluster.token, "gone", "web", audience="standpipe")
    async with serving(tmp_path / "r.db", **settings(cluster, tmp_path, "review")) as server:
        pod = Pod(server.target, token=lambda: token)
        await pod.append("s", "r", "hello")
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "gone"}}
        await asyncio.to_thread(cluster.delete, account)

        async def out() -> bool:
            try:
                await pod.hydrate("s")
            except Exception as error:
                return (await refused(_raise(error))).reason == "UNAUTHENTICATED"
            return False

        await until(out)
        await pod.close()


async def _raise(error: BaseException) -> None:
    raise error


async def test_a_server_that_may_not_review_says_so(cluster: ApiServer, tmp_path: Path) -> None:
    """Without the role to have tokens reviewed no caller is called bad, and `doctor` names what is lacking."""
    await asyncio.to_thread(cluster.account, "default", "nobody")
    given = settings(cluster, tmp_path, "review")
    Path(given["auth_api_token_file"]).write_text(await asyncio.to_thread(cluster.token, "default", "nobody"))
    token = await asyncio.to_thread(cluster.token, "acme", "web", audience="standpipe")
    async with serving(tmp_path / "r.db", **given) as server:
        pod = Pod(server.target, token=lambda: token)
        assert (await refused(pod.hydrate("s"))).reason == "AUTHENTICATOR_UNAVAILABLE"
        await pod.close()
        assert '"cause": "403"' in server.log()
    found = await doctor.examine(Config(**given, record=f"sqlite:{tmp_path}/new.db", embedder="none", plaintext=True))
    (finding,) = [one for one in found["callers"] if one.check == "auth_review"]
    assert "system:auth-delegator" in finding.advice


BASE: dict[str, Any] = {
    "record": {"existingSecret": "standpipe-record"},
    "hot": {"existingSecret": "standpipe-hot"},
    "encryption": {"existingSecret": "standpipe-keys"},
}
TLS = {"existingSecret": "standpipe-tls", "clientCertificates": True}
TENANTS = [
    {"tenant": "acme", "callers": ["system:serviceaccount:acme:*", "spiffe://example.org/acme/*", "dns:acme.example"]},
    {"tenant": "{namespace}", "callers": ["system:serviceaccount:*:chat"], "methods": ["ContextService/*"]},
]
JWKS = {"mode": "jwks", "issuer": "https://issuer.example"}


@pytest.mark.needs("helm4")
@pytest.mark.parametrize(
    "shared",
    [
        {"auth": {"mode": "tokens", "existingSecret": "standpipe-tokens"}},
        {"auth": {"mode": "review"}, "tenants": TENANTS},
        {"auth": {"mode": "review"}, "tenants": TENANTS, "tls": TLS},
        {"auth": {**JWKS}, "tenants": TENANTS},
        {"auth": {**JWKS, "jwks": "https://issuer.example/keys", "clusterCredentials": False}, "tenants": TENANTS},
        {"auth": {**JWKS, "jwks": "/etc/keys/jwks.json", "clusterCredentials": False}, "tenants": TENANTS},
        {"tenants": TENANTS, "tls": TLS},
    ],
    ids=["tokens", "review", "review-tls", "jwks", "jwks-elsewhere", "jwks-file", "certificates"],
)
def test_what_the_chart_writes_is_taken(tmp_path: Path, shared: dict[str, Any]) -> None:
    """For each way to know callers the chart writes settings and a tenants file that a server starts with."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({**BASE, "shared": {"enabled": True, **shared}}))
    text = tools.run(tools.need("helm4"), "template", "standpipe", tools.CHART, "--values", values)
    data = {}
    for manifest in yaml.safe_load_all(text):
        if manifest and manifest["kind"] == "ConfigMap":
            data |= manifest["data"]
    (tmp_path / "config.yaml").write_text(data["config.yaml"])
    found = config.load(path=str(tmp_path / "config.yaml"), environment={})
    auth = shared.get("auth", {})
    ways = {"tokens": "auth_token_file", "jwks": "auth_jwks", "review": "auth_review"}
    for mode, name in ways.items():
        assert bool(getattr(found, name)) is (auth.get("mode") == mode), name
    assert bool(found.tls_client_ca_file) is ("tls" in shared)
    assert bool(found.tenants_file) is ("tenants" in shared)
    if "tenants" in shared:
        rights = callers.parse(data["tenants.yaml"].encode(), "tenants.yaml")
        assert rights.rights(["system:serviceaccount:acme:web"]).keys() == {"acme"}
        assert rights.rights(["system:serviceaccount:red:chat"]).keys() == {"red"}
