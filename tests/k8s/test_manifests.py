"""What the chart renders: the same in both Helms, of shapes that Kubernetes has, and with nothing that a linter minds.

The sets of values are tests/k8s/values/*.yaml. A test of each check plants an error, which must be found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import tools

HERE = Path(__file__).parent
VALUES = sorted((HERE / "values").glob("*.yaml"))
EXAMPLES = sorted(
    path
    for place in ("examples", "kustomize")
    for path in (tools.ROOT / "k8s" / place).rglob("*.yaml")
    if not {"templates", "charts", "patch.yaml"} & set(path.parts)
)
OVERLAYS = sorted(
    path.parent
    for path in (tools.ROOT / "k8s").rglob("kustomization.yaml")
    if yaml.safe_load(path.read_text()).get("kind") != "Component"
)
VERSIONS = ("1.33.13", "1.36.3")
"""The oldest and the newest Kubernetes; .ci/k8s/schemas.py writes the shapes of both."""
WITHOUT_SCHEMA = ("Cluster", "Pooler", "ScheduledBackup", "Database")
"""Kinds of CloudNativePG, whose module no Go proxy has: examples name them, and the chart never does."""

SCORE_IGNORED = {
    "container-image-pull-policy": "a release or a digest names an image, and never moves: no need to pull it again",
    "container-ephemeral-storage-request-and-limit": "the root is read-only, and emptyDirs have limits of their own",
    "deployment-has-host-podantiaffinity": "topology spread does it, and lets a rollout go on where nodes are few",
}
"""Checks of kube-score that the chart does not follow, with the reason."""
SCORE_WANTED = ("container-seccomp-profile", "container-ports-check")
"""Checks beyond its usual ones."""
ALL_WELL = 10
"""The grade of kube-score that asks for nothing; a warning has 5, and what is critical 1."""
SCORE_FLAGS = ("--min-replicas-deployment", "1", "--min-replicas-hpa", "1")
"""One embedder, or one pod on SQLite, is a choice too: callers go on without an embedder."""
SCORE_CPU = "--ignore-container-cpu-limit"
"""A limit of CPU would slow a pod that has a node for itself; requests are set, and memory has a limit."""


def named(path: Path) -> str:
    """Return what a test of a file is called."""
    return path.stem if path.parent == HERE / "values" else path.relative_to(tools.ROOT / "k8s").as_posix()


def rendered(
    helm: str, values: Path, version: str = VERSIONS[-1], *, chart: Path = tools.CHART, fails: bool = False
) -> str:
    """Return what a Helm makes of the chart for a set of values on a release of Kubernetes."""
    of_cluster = ("--kube-version", version, "--namespace", "standpipe", "--include-crds")
    return tools.run(tools.need(helm), "template", "standpipe", chart, *of_cluster, "--values", values, fails=fails)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the manifests of a stream."""
    return [each for each in yaml.safe_load_all(text) if each]


def injects(values: Path) -> bool:
    """Say whether a set of values has the admission policies."""
    return bool((yaml.safe_load(values.read_text()) or {}).get("injection", {}).get("enabled"))


def is_beta(values: Path) -> bool:
    """Say whether a set of values is for a cluster that serves the mutating policies as a beta: 1.34 or 1.35."""
    return "mutatingAdmissionPolicy" in ((yaml.safe_load(values.read_text()) or {}).get("apiVersions") or {})


def conform(text: str, version: str, *, fails: bool = False) -> str:
    """Hold manifests against the schemas of a release of Kubernetes."""
    schemas = tools.need("schemas")
    file = "{{.ResourceKind}}_{{.Group}}_{{.ResourceAPIVersion}}.json"
    places = [f"{schemas}/{place}/{file}" for place in (f"v{version}", "crds")]
    locations = [part for place in places for part in ("-schema-location", place)]
    flags = ("-strict", "-summary", "-kubernetes-version", version, "-skip", ",".join(WITHOUT_SCHEMA))
    return tools.run(tools.need("kubeconform"), *flags, *locations, "-", stdin=text, fails=fails)


def findings(text: str) -> list[str]:
    """Return what kube-score minds in manifests, warnings too, but for the checks that are ignored."""
    without = [part for check in SCORE_IGNORED for part in ("--ignore-test", check)]
    wanted = [part for check in SCORE_WANTED for part in ("--enable-optional-test", check)]
    flags = ("--kubernetes-version", "v1.33", SCORE_CPU, *SCORE_FLAGS, "-o", "json")
    said = tools.run(tools.need("kube-score"), "score", *flags, *wanted, *without, "-", stdin=text, fails=None)
    return [
        f"{judged['object_name']}: {check['check']['id']}: {[one['summary'] for one in check['comments'] or ()]}"
        for judged in json.loads(said) or ()
        for check in judged["checks"]
        if check["grade"] < ALL_WELL and not check["skipped"]
    ]


# --- Helm ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("helm3", "helm4")
@pytest.mark.parametrize("values", VALUES, ids=named)
@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_lint(helm: str, values: Path) -> None:
    """Neither Helm minds anything in the chart."""
    version = "1.35.0" if is_beta(values) else VERSIONS[-1]
    flags = ("--strict", "--kube-version", version)
    said = tools.run(tools.need(helm), "lint", *flags, tools.CHART, "--values", values)
    assert "0 chart(s) failed" in said


@pytest.mark.needs("helm3", "helm4")
@pytest.mark.parametrize("values", VALUES, ids=named)
def test_both_helms_render_the_same(values: Path) -> None:
    """Helm 3 and 4 make the same manifests in the same order, and some: they differ in empty lines alone."""
    three, four = (rendered(helm, values) for helm in ("helm3", "helm4"))
    assert documents(three)
    assert documents(three) == documents(four)
    assert [line for line in three.splitlines() if line] == [line for line in four.splitlines() if line]


@pytest.mark.needs("helm3", "helm4")
@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_lint_finds_a_planted_error(helm: str, tmp_path: Path) -> None:
    """A template that renders no YAML fails."""
    chart = Path(shutil.copytree(tools.CHART, tmp_path / "standpipe"))
    (chart / "templates" / "planted.yaml").write_text("metadata: {name: [}\n")
    assert "planted.yaml" in tools.run(tools.need(helm), "lint", "--strict", chart, fails=True)


@pytest.mark.needs("helm-unittest")
def test_unit_tests_of_the_chart() -> None:
    """The chart's own tests and snapshots hold."""
    if not list((tools.CHART / "tests").glob("*_test.yaml")):
        pytest.fail("the chart has no tests")
    said = tools.run(tools.need("helm-unittest"), "--strict", "--color=false", tools.CHART)
    assert "0 failed" in said or "failed" not in said, said


# --- shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.needs("helm4", "kubeconform", "schemas")
@pytest.mark.parametrize("values", VALUES, ids=named)
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_have_shapes_of_this_kubernetes(values: Path, version: str) -> None:
    """No kind, field or type is rendered that the cluster does not know; policies are refused where it has none."""
    if injects(values) and version == VERSIONS[0]:
        said = rendered("helm4", values, version, fails=True)
        assert "1.34" in said, said
        assert "MutatingAdmissionPolicy" in said, said
        return
    text = rendered("helm4", values, version)
    assert f"{len(documents(text))} resources found" in conform(text, version)


@pytest.mark.needs("kubeconform", "schemas")
@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_examples_have_shapes_of_kubernetes(example: Path) -> None:
    """Manifests among the examples are as Kubernetes has them; values and patches are somebody else's."""
    whole = [each for each in documents(example.read_text()) if is_whole(each)]
    if whole:
        conform(yaml.safe_dump_all(whole), VERSIONS[-1])


def is_whole(document: Any) -> bool:
    """Say whether a document is a manifest, and not a patch, a chart or values."""
    return (
        isinstance(document, dict)
        and {"apiVersion", "kind", "metadata"} <= set(document)
        and "kustomize" not in document["apiVersion"]
        and "$patch" not in str(document)
    )


@pytest.mark.needs("kustomize", "kubeconform", "schemas")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=named)
def test_overlays_build(overlay: Path) -> None:
    """Kustomize makes manifests of each overlay that Kubernetes knows."""
    text = tools.run(tools.need("kustomize"), "build", overlay)
    conform(text, VERSIONS[-1])


PLANTED = {
    "a field that is not there": ("spec", "replica", 2),
    "a null": ("spec", "minReadySeconds", None),
    "a wrong type": ("spec", "replicas", "two"),
    "a kind of another group": ("apiVersion", None, "extensions/v1beta1"),
}


@pytest.mark.needs("kubeconform", "schemas")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", PLANTED)
def test_a_wrong_shape_is_found(what: str, version: str) -> None:
    """The schemas refuse what an API server would refuse or silently drop."""
    right = deployment()
    conform(yaml.safe_dump(right), version)
    where, name, value = PLANTED[what]
    wrong = right | {where: right[where] | {name: value} if name else value}
    conform(yaml.safe_dump(wrong), version, fails=True)


# --- the linter ----------------------------------------------------------------------------------------------------


@pytest.mark.needs("helm4", "kube-score")
@pytest.mark.parametrize("values", VALUES, ids=named)
def test_kube_score_minds_nothing(values: Path) -> None:
    """No finding stands but those of the checks that are ignored with a reason."""
    assert findings(rendered("helm4", values)) == []


@pytest.mark.needs("kube-score")
def test_kube_score_finds_what_is_planted() -> None:
    """A Deployment that says nothing of security, resources and disruption is minded for each."""
    said = " ".join(findings(yaml.safe_dump(deployment())))
    for check in (
        "security-context-user-group-id",
        "seccomp-profile",
        "container-resources",
        "has-poddisruptionbudget",
    ):
        assert check in said


def deployment() -> dict[str, Any]:
    """Return a Deployment as Kubernetes knows it, and as nobody should write it."""
    labels = {"app": "planted"}
    pod = {"containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 80}]}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "planted", "labels": labels},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def every_check() -> Iterator[str]:
    """Yield the names of the checks that kube-score has."""
    for line in tools.run(tools.need("kube-score"), "list").splitlines():
        yield line.split(",")[0]


@pytest.mark.needs("kube-score")
def test_ignored_checks_are_there() -> None:
    """Each check that is ignored is one that kube-score has, and has a reason."""
    assert set(SCORE_IGNORED) <= set(every_check())
    assert all(len(reason) > 20 for reason in SCORE_IGNORED.values())
