"""Callers in a cluster: real service accounts, their projected tokens, and a real API server that vouches for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import doctor, limits
from sidecar.config import Config
from tests.e2e.pods import Pod, refused, serving, until
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
