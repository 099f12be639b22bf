"""The pod that is run: the one of k8s/examples/helm-dependency as Helm renders it, with an application that talks.

The application's container is the sidecar's image with another command: Python and the client. It has another user, no
key and no store, and shares nothing with the sidecar but the socket's volume.
"""

from __future__ import annotations

import copy
import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sidecar.sockets import version
from tests import keys
from tests.k8s import tools
from tests.servers import directory

IMAGE = os.environ.get("TEST_IMAGE", f"localhost/standpipe:{version()}-cpu")
APPLICATION = Path(__file__).with_name("application.py")
EXAMPLE = tools.ROOT / "k8s" / "examples" / "helm-dependency"


@functools.cache
def _rendered() -> list[dict[str, Any]]:
    """Return the manifests of the example's release."""
    there = directory()
    chart = shutil.copytree(EXAMPLE, there / "chat", ignore=shutil.ignore_patterns("charts", "*.lock"))
    shutil.copytree(tools.CHART, chart / "charts" / "standpipe")
    repository, _, tag = IMAGE.rpartition(":")
    given = {"standpipe.image.repository": repository, "standpipe.image.tag": tag, "image": IMAGE}
    words = [f"--set={name}={value}" for name, value in given.items()]
    text = tools.run(tools.need("helm4"), "template", "chat", chart, *words)
    return [one for one in yaml.safe_load_all(text) if one]


def template() -> dict[str, Any]:
    """Return the pod of the example's Deployment, as its controller would make it."""
    deployment = next(one for one in _rendered() if one["kind"] == "Deployment")
    pod = copy.deepcopy(deployment["spec"]["template"])
    pod["metadata"]["name"] = "chat-0"
    return pod


def container(pod: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a container of a pod's manifest."""
    return next(
        one for one in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]) if one["name"] == name
    )


def mounted(pod: Mapping[str, Any], name: str, volume: Mapping[str, Any], path: str) -> None:
    """Give a container of a pod's manifest a volume."""
    made = f"{name}-{path.strip('/').replace('/', '-')}"
    pod["spec"]["volumes"].append({"name": made, **volume})
    container(pod, name).setdefault("volumeMounts", []).append({"name": made, "mountPath": path})


def talking(pod: dict[str, Any], *, writers: int = 2, pause_ms: int = 20) -> dict[str, Any]:
    """Put the application into a pod's manifest."""
    chat = container(pod, "chat")
    chat["command"] = ["python", "/app/application.py", str(writers), str(pause_ms)]
    mounted(pod, "chat", {"configMap": {"name": "application"}}, "/app")
    return pod


def labelled(namespace: str) -> dict[str, Any]:
    """Return a Deployment of the application as its author writes it: of the sidecar it has the label alone."""
    labels = {"app.kubernetes.io/name": "chat", "standpipe.dev/inject": "true"}
    pod = template()
    of_example = container(pod, "chat")
    pod = {
        "metadata": {"labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                name: value for name, value in pod["spec"]["securityContext"].items() if name != "supplementalGroups"
            },
            "containers": [{name: of_example[name] for name in ("name", "image", "securityContext", "resources")}],
            "volumes": [],
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat", "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": talking(pod)},
    }


def files_of(pod: Mapping[str, Any]) -> str:
    """Return the name of the Secret that the sidecar's tokens come from."""
    sources = next(one["projected"]["sources"] for one in pod["spec"]["volumes"] if one["name"] == "standpipe-config")
    return next(
        str(one["secret"]["name"])
        for one in sources
        if "tokens" in {item["key"] for item in one.get("secret", {}).get("items", [])}
    )


def on_sqlite(pod: dict[str, Any]) -> dict[str, Any]:
    """Give the sidecar of a pod's manifest a volume for its record store."""
    mounted(pod, "standpipe", {"emptyDir": {}}, "/data")
    return pod


def objects(*, record: str = "sqlite:/data/record.db", hot: str = "memory", **settings: Any) -> list[dict[str, Any]]:
    """Return the ConfigMaps and Secrets that the pod names; `settings` are added to the sidecar's."""
    config = copy.deepcopy(next(one for one in _rendered() if one["kind"] == "ConfigMap"))
    plain = {"embedder": "none", **yaml.safe_load(config["data"]["config.yaml"]), **settings}
    config["data"]["config.yaml"] = yaml.safe_dump(plain)
    return [
        config,
        {"kind": "ConfigMap", "metadata": {"name": "application"}, "data": {APPLICATION.name: APPLICATION.read_text()}},
        secret("chat-database", uri=record),
        secret("chat-redis", uri=hot),
        secret("chat-keys", **{"standpipe.keys": keys.LINE + "\n"}),
    ]


def secret(name: str, **data: str) -> dict[str, Any]:
    """Return a Secret."""
    return {"kind": "Secret", "metadata": {"name": name}, "stringData": data}
