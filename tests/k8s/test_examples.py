"""The values of the examples and of the documents: both Helms render them, and Kubernetes knows what comes out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.k8s import tools
from tests.k8s.apiserver import ApiServer, Refused
from tests.k8s.test_manifests import VERSIONS, conform, documents
from tests.servers import wait_for

K8S: Final = tools.ROOT / "k8s"
EXAMPLES: Final = {
    "cloudnativepg": ["cloudnativepg/values.yaml"],
    "production": ["cloudnativepg/values.yaml", "production/values.yaml"],
}
"""Which files of values go together."""

STORES: Final[dict[str, Any]] = {
    "record": {"existingSecret": "record"},
    "hot": {"existingSecret": "hot"},
    "encryption": {"existingSecret": "keys"},
}
"""What an excerpt of a document leaves out."""


def excerpts() -> dict[str, dict[str, Any]]:
    """Return the fenced values of the documents: blocks of YAML whose names are all of the chart's values."""
    names = set(yaml.safe_load((tools.CHART / "values.yaml").read_text()))
    found = {}
    for document in (K8S / "README.md", *sorted((K8S / "docs").glob("*.md"))):
        for block in re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL):
            if "{{" in block:  # a template's
                continue
            values = yaml.safe_load(block)
            if isinstance(values, dict) and set(values) <= names:
                found[f"{document.name}: {', '.join(values)}"] = values
    return found


def render(helm: str, *files: Path) -> str:
    """Return what a Helm makes of files of values, one over the other."""
    given = [part for file in files for part in ("--values", file)]
    of_cluster = ("--kube-version", VERSIONS[-1], "--namespace", "standpipe")
    return tools.run(tools.need(helm), "template", "standpipe", tools.CHART, *of_cluster, *given)


@pytest.mark.needs("helm3", "helm4", "kubeconform", "schemas")
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_render(example: str) -> None:
    """Both Helms make the same manifests of an example's values, and Kubernetes knows all of them."""
    files = [K8S / "examples" / name for name in EXAMPLES[example]]
    text = render("helm4", *files)
    assert documents(text)
    assert documents(render("helm3", *files)) == documents(text)
    conform(text, VERSIONS[-1])


@pytest.mark.needs("helm4", "kubeconform", "schemas")
@pytest.mark.parametrize("excerpt", excerpts())
def test_values_of_documents_render(excerpt: str, tmp_path: Path) -> None:
    """What a document says to put into values is taken by the chart's schema and checks."""
    base, given = tmp_path / "base.yaml", tmp_path / "given.yaml"
    base.write_text(yaml.safe_dump(STORES))
    given.write_text(yaml.safe_dump(excerpts()[excerpt]))
    conform(render("helm4", base, given), VERSIONS[-1])


@pytest.mark.needs("helm4", "etcd", "kube-apiserver")
def test_the_production_injects() -> None:
    """The example's policies on a real API server: the example's pods get the sidecar with the example's settings."""
    files = [K8S / "examples" / name for name in EXAMPLES["production"]]
    policies = [one for one in documents(render("helm4", *files)) if "injection" in one["metadata"]["labels"].values()]
    (deployment,) = documents((K8S / "examples" / "production" / "chat.yaml").read_text())
    spec = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": spec["metadata"] | {"name": "chat-1", "namespace": "chat"}}

    def sidecar(api: ApiServer) -> dict[str, Any] | None:
        try:
            containers = api.create(pod | {"spec": spec["spec"]}, dry_run=True)["spec"].get("initContainers")
        except Refused:  # until its parameters are known
            return None
        return dict(containers[0]) if containers else None

    with ApiServer() as api:
        api.namespace("chat", {"pod-security.kubernetes.io/enforce": "restricted"})
        for one in policies:
            api.apply(one)
        wait_for(lambda: sidecar(api) is not None, "the policies are in force")
        found = sidecar(api)
    assert found
    assert (found["name"], found["restartPolicy"], found["args"]) == ("standpipe", "Always", ["serve"])
    assert found["image"].startswith("registry.example/standpipe:")
    assert found["resources"]["limits"]["memory"] == "384Mi"
    (settings,) = [one["data"]["config.yaml"] for one in policies if one["kind"] == "ConfigMap"]
    assert yaml.safe_load(settings)["embedder_address"] == ["standpipe-embedder.standpipe.svc:7460"]


def test_documents_have_values() -> None:
    """There are excerpts: a change of how they are fenced would not silently leave none."""
    assert len(excerpts()) >= 3
