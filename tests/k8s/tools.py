"""The tools that tests of k8s/ are run with: each has a path, or a reason why it has none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

from tests import expects

ROOT = Path(__file__).parents[2]
CHART = ROOT / "k8s" / "chart" / "standpipe"
DIRECTORY = Path(os.environ.get("TEST_TOOLS_DIR", ROOT / ".cache" / "tools"))
BUILT = frozenset(
    "helm3 helm4 helm-unittest kubeconform kube-score promtool kustomize etcd kube-apiserver schemas".split()
)
"""What `make k8s-tools` makes; a CI that lacks one of them is broken."""


def need(name: str) -> Path:
    """Return where a tool is, or skip the test that needs it."""
    if name in BUILT:
        if (path := DIRECTORY / name).exists():
            return path
        missing(name, f"no {name} in {DIRECTORY.name}/: `make k8s-tools` makes it")
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return Path(found) if found else missing(name, f"no {name} on this machine")


def image(name: str) -> None:
    """Skip a test whose image is not in podman's store."""
    target = "image-cuda13" if name.endswith("-cuda13") else "image"
    if subprocess.run([need("podman"), "image", "exists", name], check=False).returncode:
        missing(target, f"no image {name}: `make {target}` makes it")


def missing(name: str, why: str) -> NoReturn:
    """Skip a test for want of a tool, or of what the tool may do here; fail it where CI has promised the tool."""
    expects.missing(name, why, promised=BUILT)


def run(tool: Path, *arguments: str | Path, stdin: str = "", fails: bool | None = False) -> str:
    """Run a tool to its end and return what it wrote to both of its streams; with `fails` it must fail, and
    else succeed, but for None.
    """
    done = subprocess.run(
        [tool, *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert fails in {None, done.returncode != 0}, f"{tool.name} ended with {done.returncode}:\n{done.stdout[-8000:]}"
    return done.stdout
