"""Makes the patches of k8s/kustomize from the chart's template of the sidecar: `make chart-patches`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "standpipe"
COMPONENT = CHART.parents[1] / "kustomize" / "sidecar"

_PARTS = """
{{- range $part := list "container" "volumes" "mount" "env" "groups" }}
{{ $part }}: {{- include (printf "standpipe.sidecar.%s" $part) $.Subcharts.standpipe | nindent 2 }}
{{- end }}
"""
_HEAD = "# Made from the chart's template by `make chart-patches`.\n"


def main() -> None:
    """Write the patches, or with --check see that they are written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--helm", type=Path, required=True, help="Helm's binary")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where something would change")
    arguments = parser.parse_args()
    made = make(arguments.helm)
    if arguments.check:
        stale = [path.name for path, text in made.items() if path.read_text() != text]
        sys.exit(f"run make chart-patches: the template gives another {', '.join(stale)}" if stale else 0)
    for path, text in made.items():
        path.write_text(text)


def make(helm: Path) -> dict[Path, str]:
    """Return what each file must hold."""
    parts = render(helm)
    [mount], [variable] = parts["mount"], parts["env"]
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "any"},
        "spec": {
            "template": {
                "metadata": {"labels": {"standpipe.dev/inject": "true"}},
                "spec": {
                    "securityContext": {"supplementalGroups": parts["groups"]},
                    "initContainers": parts["container"],
                    "volumes": parts["volumes"],
                },
            }
        },
    }
    socket = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "standpipe-socket", "annotations": {"config.kubernetes.io/local-config": "true"}},
        "data": {"target": variable["value"], "path": mount["mountPath"]},
    }
    return {COMPONENT / "patch.yaml": _text(patch), COMPONENT / "socket.yaml": _text(socket)}


def render(helm: Path) -> dict[str, Any]:
    """Return the parts of a sidecar, as a chart that depends on ours includes them."""
    with tempfile.TemporaryDirectory() as directory:
        parent = Path(directory)
        (parent / "Chart.yaml").write_text("{apiVersion: v2, name: parts, version: 0.1.0}\n")
        (parent / "templates").mkdir()
        (parent / "templates" / "parts.yaml").write_text(_PARTS)
        shutil.copytree(CHART, parent / "charts" / "standpipe")
        names = "--set=standpipe.fullnameOverride=standpipe", "--show-only=templates/parts.yaml"
        command = [helm, "template", "standpipe", parent, *names]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _text(manifest: dict[str, Any]) -> str:
    return _HEAD + yaml.safe_dump(manifest, sort_keys=False)


if __name__ == "__main__":
    main()
