"""All that the chart, the examples and the kustomizations give, applied to a real API server without storing it.

Every field must be one that the server knows, every value one that it takes, and each pod one that a namespace admits
where Pod Security's "restricted" is enforced.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import tools
from tests.k8s.apiserver import ApiServer, Manifest, Refused, write_kubeconfig
from tests.k8s.test_manifests import (
    EXAMPLES,
    HERE,
    OVERLAYS,
    VALUES,
    VERSIONS,
    WITHOUT_SCHEMA,
    documents,
    injects,
    is_whole,
    named,
    rendered,
)
from tests.servers import wait_for

pytestmark = [pytest.mark.needs("etcd", "kube-apiserver")]

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
CLASSES: dict[str, Manifest] = {
    "priorityClassName": {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000},
    "runtimeClassName": {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "one"},
}
"""What a pod names and a cluster has: without it no pod is admitted."""
CHARTS = sorted(path.parent for path in (tools.ROOT / "k8s" / "examples").rglob("Chart.yaml"))


OLDEST, NEWEST = VERSIONS


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], ApiServer]]:
    """API servers by version, each started once."""
    with ExitStack() as stack:
        yield functools.cache(lambda version: start(stack, version))


@pytest.fixture
def api(request: pytest.FixtureRequest, servers: Callable[[str], ApiServer]) -> ApiServer:
    """Return the API server of the version in `param`."""
    return servers(request.param)


def start(stack: ExitStack, version: str) -> ApiServer:
    """Start an API server that knows the kinds of the Prometheus operator and of KEDA."""
    server = stack.enter_context(ApiServer(version.rpartition(".")[0]))
    files = sorted((tools.need("schemas") / "crds").glob("*.yaml"))
    definitions = [each for path in files for each in documents(path.read_text())]
    assert definitions
    for each in definitions:
        server.apply(each)
    for each in definitions:
        spec = each["spec"]
        served = f"{spec['group']}/{spec['versions'][0]['name']}"
        kind = {"apiVersion": served, "kind": spec["names"]["kind"], "metadata": {}}
        wait_for(lambda kind=kind: known(server, kind), f"{kind['kind']} is served")
    return server


def known(api: ApiServer, kind: Manifest) -> bool:
    """Return whether the server answers for a kind."""
    try:
        api.call("GET", api.path(kind))
    except (KeyError, Refused):
        return False
    return True


def dry_run(api: ApiServer, manifests: list[Manifest], namespace: str) -> int:
    """Apply manifests without storing them, and their pods in a restricted namespace; return how many pods."""
    pods = 0
    for manifest in manifests:
        manifest["metadata"].setdefault("namespace", namespace)
        if manifest["kind"] == "ServiceAccount":
            api.namespace(manifest["metadata"]["namespace"], RESTRICTED)
            api.account(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
    for manifest in manifests:
        inside = manifest["metadata"]["namespace"]
        if not api.namespaced(manifest):
            del manifest["metadata"]["namespace"]
        else:
            api.namespace(inside, RESTRICTED)
        try:
            api.apply(manifest, dry_run=True)
            for pod in pods_of(manifest, inside):
                for field, named_one in CLASSES.items():
                    if name := pod["spec"].get(field):
                        api.apply(named_one | {"metadata": {"name": name}})
                wait_for(lambda pod=pod: admitted(api, pod), "admission knows the classes that were made")
                pods += 1
        except Refused as refused:
            raise AssertionError(f"{manifest['kind']} {manifest['metadata']['name']}: {refused}") from None
    return pods


def admitted(api: ApiServer, pod: Manifest) -> bool:
    """Create a pod without storing it; return False where admission, which watches, has not seen its class yet."""
    try:
        api.create(pod, dry_run=True)
    except Refused as refused:
        if re.search(r"(Priority|Runtime)Class .*(was|not) found", refused.message):
            return False
        raise
    return True


def pods_of(manifest: Manifest, namespace: str) -> Iterator[Manifest]:
    """Give the pod that a workload's template makes."""
    spec: Any = manifest.get("spec") or {}
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    if manifest["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}:
        template = spec["template"]
        metadata = template.get("metadata", {}) | {
            "name": f"{manifest['metadata']['name']}-pod",
            "namespace": namespace,
        }
        defaults = {"restartPolicy": "Never"} if manifest["kind"] == "Job" else {}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": defaults | template["spec"]}


@pytest.mark.needs("helm4", "schemas")
@pytest.mark.parametrize(
    ("api", "version", "values"),
    [
        pytest.param(version, version, values, id=f"{named(values)}-{version}")
        for version in VERSIONS
        for values in VALUES
        if version == NEWEST or not injects(values)
    ],
    indirect=["api"],
)
def test_the_chart_is_taken(api: ApiServer, version: str, values: Path) -> None:
    """For each set of values, by the oldest and the newest Kubernetes that have all of what it asks for."""
    dry_run(api, documents(rendered("helm4", values, version)), "standpipe")


@pytest.mark.needs("helm4", "schemas")
@pytest.mark.parametrize("api", [NEWEST], indirect=True)
@pytest.mark.parametrize("chart", CHARTS, ids=named)
def test_the_examples_charts_are_taken(api: ApiServer, chart: Path, tmp_path: Path) -> None:
    """With the dependency on the chart beside them, which needs no network."""
    here = build(chart, tmp_path)
    assert dry_run(api, documents(tools.run(tools.need("helm4"), "template", "chat", here)), "charts")


@pytest.mark.needs("schemas")
@pytest.mark.parametrize("api", [NEWEST], indirect=True)
@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_the_examples_are_taken(api: ApiServer, example: Path) -> None:
    """Whole manifests; those of operators that no Go module has are left out."""
    whole = [each for each in documents(example.read_text()) if is_whole(each) and each["kind"] not in WITHOUT_SCHEMA]
    dry_run(api, whole, "examples")


@pytest.mark.needs("kustomize", "schemas")
@pytest.mark.parametrize("api", VERSIONS, indirect=True)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=named)
def test_the_overlays_are_taken(api: ApiServer, overlay: Path) -> None:
    """What kustomize makes of each."""
    assert dry_run(api, documents(tools.run(tools.need("kustomize"), "build", overlay)), "overlays")


@pytest.mark.needs("helm3", "helm4")
@pytest.mark.parametrize("api", [NEWEST], indirect=True)
@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_helm_installs_upgrades_and_removes_it(api: ApiServer, helm: str, tmp_path: Path) -> None:
    """For real: what a release has is there, changes with its values, and is gone after it."""
    here = ("--namespace", "standpipe", "--kubeconfig", write_kubeconfig(api, tmp_path / "kubeconfig"))
    values = ("--values", HERE / "values" / "injection.yaml")
    for namespace in ("standpipe", "chat", "agents"):
        api.namespace(namespace)
    settings = "/api/v1/namespaces/chat/configmaps/standpipe-sidecar"
    policies = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies"
    tools.run(tools.need(helm), "install", "standpipe", tools.CHART, *here, *values)
    assert len(api.call("GET", policies)["items"]) == 1
    assert api.call("GET", settings)["data"]["cpu"] == "100m"
    tools.run(tools.need(helm), "upgrade", "standpipe", tools.CHART, *here, *values, "--set", "injection.cpu=2")
    assert api.call("GET", settings)["data"]["cpu"] == "2"
    tools.run(tools.need(helm), "uninstall", "standpipe", *here)
    assert not api.call("GET", policies)["items"]
    with pytest.raises(Refused, match="not found"):
        api.call("GET", settings)


def build(chart: Path, directory: Path) -> Path:
    """Copy a chart with what stands beside it, and fetch its dependency from there."""
    root = Path(shutil.copytree(tools.ROOT / "k8s", directory / "k8s", ignore=shutil.ignore_patterns("charts")))
    here = root / chart.relative_to(tools.ROOT / "k8s")
    tools.run(tools.need("helm4"), "dependency", "build", here)
    return here


@pytest.mark.parametrize("api", [NEWEST], indirect=True)
def test_a_field_that_nobody_knows_is_refused(api: ApiServer) -> None:
    """The check above would see a typing error."""
    manifest: Manifest = yaml.safe_load("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, daat: {}}")
    with pytest.raises(AssertionError, match="daat"):
        dry_run(api, [manifest], "default")
