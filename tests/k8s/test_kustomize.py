"""The kustomize component: it is the chart's template, and it gives every kind of workload its sidecar."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import tools
from tests.k8s.test_manifests import documents

COMPONENT = tools.ROOT / "k8s" / "kustomize" / "sidecar"
MOUNT = {"name": "standpipe-socket", "mountPath": "/run/standpipe"}
TARGET = {"name": "STANDPIPE_TARGET", "value": "unix:/run/standpipe/standpipe.sock"}
BUILDERS = [pytest.param(tool, marks=pytest.mark.needs(tool)) for tool in ("kustomize", "kubectl")]


def build(tool: str, directory: Path) -> list[dict[str, Any]]:
    """Return what a kustomize, alone or the one in kubectl, makes of a directory."""
    command = "build" if tool == "kustomize" else "kustomize"
    return documents(tools.run(tools.need(tool), command, directory))


def workload(kind: str, name: str, labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    """Return a workload with one or more containers."""
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "app", "image": "a:1"}]} | spec}
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        "spec": {"template": template},
    }


def overlay(directory: Path, *workloads: dict[str, Any]) -> Path:
    """Write an overlay with the component."""
    (directory / "workloads.yaml").write_text(yaml.safe_dump_all(workloads))
    component = os.path.relpath(COMPONENT, directory.resolve())
    written = {"resources": ["workloads.yaml"], "components": [component]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(written))
    return directory


@pytest.mark.needs("helm4")
def test_the_patches_are_what_the_template_gives() -> None:
    """What is committed is what `make chart-patches` writes."""
    generator = tools.ROOT / "k8s" / "chart" / "patches.py"
    tools.run(Path(sys.executable), generator, "--helm", tools.need("helm4"), "--check")


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job"])
@pytest.mark.parametrize("tool", BUILDERS)
def test_each_kind_of_workload_gets_a_sidecar(tool: str, kind: str, tmp_path: Path) -> None:
    """The sidecar is first, what was there stays, and each container of the application has socket and variable."""
    mode = {"name": "MODE", "value": "chat"}
    at = {"name": "cache", "mountPath": "/cache"}
    containers = [
        {"name": "app", "image": "a:1", "env": [mode], "volumeMounts": [at]},
        {"name": "other", "image": "b:1"},
    ]
    given = workload(
        kind,
        "chat",
        {"standpipe.dev/inject": "true"},
        containers=containers,
        initContainers=[{"name": "first", "image": "c:1"}],
        volumes=[{"name": "cache", "emptyDir": {}}],
    )
    [made] = build(tool, overlay(tmp_path, given))
    template = made["spec"]["template"]
    pod = template["spec"]
    [patch] = documents((COMPONENT / "patch.yaml").read_text())
    patched = patch["spec"]["template"]["spec"]
    assert template["metadata"]["labels"] == {"app": "chat", "standpipe.dev/inject": "true"}
    assert pod["initContainers"] == [*patched["initContainers"], {"name": "first", "image": "c:1"}]
    assert sorted(one["name"] for one in pod["volumes"]) == ["cache", "standpipe-config", "standpipe-socket"]
    assert pod["securityContext"] == {"supplementalGroups": [10001]}
    app, other = pod["containers"]
    assert (app["env"], app["volumeMounts"]) == ([mode, TARGET], [at, MOUNT])
    assert (other["env"], other["volumeMounts"]) == ([TARGET], [MOUNT])


@pytest.mark.parametrize("tool", BUILDERS)
def test_others_are_left_alone(tool: str, tmp_path: Path) -> None:
    """Without the label a workload comes out as it went in, and nothing else comes out."""
    given = workload("Deployment", "other", {"app": "other"})
    assert build(tool, overlay(tmp_path, given)) == [given]
