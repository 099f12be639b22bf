"""`helm test`: what its pod does, run against the pod of the shared Deployment, both as the chart renders them.

Podman has no Service between two pods: both are run as one, in which the Service's name is an alias of its address.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from tests import keys
from tests.issuer import AUDIENCE, ISSUER, Issuer, account
from tests.k8s import chat, kubelet, tools

pytestmark = [pytest.mark.needs("podman", "helm4"), pytest.mark.usefixtures("pods"), pytest.mark.timeout(180)]

NAMESPACE = "prod"
REPOSITORY, _, TAG = chat.IMAGE.rpartition(":")
VALUES: dict[str, Any] = {
    "image": {"repository": REPOSITORY, "tag": TAG},
    "settings": {"record": "sqlite:/data/standpipe.db", "embedder": "none"},
    "encryption": {"existingSecret": "standpipe-keys"},
    "shared": {
        "enabled": True,
        "replicas": 1,
        "auth": {"mode": "jwks", "jwks": "/jwks/keys.json", "issuer": ISSUER},
        "tenants": [{"tenant": "acme", "callers": [account(NAMESPACE, "standpipe-smoke")]}],
        "pod": {
            "preStopSleepSeconds": 0,
            "extraVolumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "jwks", "configMap": {"name": "jwks"}},
            ],
            "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "jwks", "mountPath": "/jwks"}],
        },
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the manifests of a release called standpipe."""
    flags = ("--namespace", NAMESPACE, "--kube-version", "1.36", "--values", "-")
    text = tools.run(tools.need("helm4"), "template", "standpipe", tools.CHART, *flags, stdin=yaml.safe_dump(values))
    return [one for one in yaml.safe_load_all(text) if one]


def together(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one pod in which the shared pod starts, as a sidecar does, before the smoke test's container."""
    shared = next(one for one in manifests if one["kind"] == "Deployment")["spec"]["template"]
    smoke = next(one for one in manifests if one["kind"] == "Pod")
    (service,) = (one["metadata"]["name"] for one in manifests if one["kind"] == "Service")
    pod, (server,), (trial,) = copy.deepcopy(shared), shared["spec"]["containers"], smoke["spec"]["containers"]
    for volume in smoke["spec"]["volumes"]:
        pod["spec"]["volumes"].append({**volume, "name": f"smoke-{volume['name']}"})
    mounts = [{**mount, "name": f"smoke-{mount['name']}"} for mount in trial["volumeMounts"]]
    assert pod["spec"]["securityContext"] == smoke["spec"]["securityContext"]
    pod["metadata"] = {**pod.get("metadata", {}), "name": "together", "namespace": NAMESPACE}
    pod["spec"] |= {
        "initContainers": [{**server, "restartPolicy": "Always"}],
        "containers": [{**trial, "volumeMounts": mounts}],
        "restartPolicy": smoke["spec"]["restartPolicy"],
        "hostAliases": [{"ip": kubelet.ADDRESS, "hostnames": [f"{service}.{NAMESPACE}.svc"]}],
    }
    return pod


@pytest.mark.parametrize(("name", "code"), [("standpipe-smoke", 0), ("somebody", 1)])
def test_helm_test(name: str, code: int) -> None:
    """The smoke test hydrates, commits and erases with its own token; with another's it fails and says why."""
    issuer = Issuer()
    manifests = rendered(VALUES)
    objects = [
        *(one for one in manifests if one["kind"] == "ConfigMap"),
        {"kind": "ConfigMap", "metadata": {"name": "jwks"}, "data": {"keys.json": json.dumps(issuer.jwks())}},
        chat.secret("standpipe-keys", **{"standpipe.keys": keys.LINE + "\n"}),
    ]

    def token(audience: str) -> str:
        assert audience == AUDIENCE
        return issuer.token(account(NAMESPACE, name))

    with kubelet.Pod(together(manifests), objects, token=token) as pod:
        pod.wait(lambda: pod["smoke"].ended)
        said = "\n".join(pod["smoke"].logs())
        assert pod["smoke"].exits == [code], pod.described()
        if code:
            assert "PERMISSION_DENIED TENANT_DENIED" in said
        else:
            steps = ("info", "first", "hydrate", "replay", "conflict", "again", "erase")
            assert [line.split()[:2] for line in said.splitlines()] == [["ok", step] for step in steps], said
        assert not [line for line in pod["standpipe"].records() if line["event"] == "defect"]
