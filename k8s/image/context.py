"""Lay out what an image is built from, in a directory: context.py VARIANT OUT MODELS_DIR.

::

    wheels/         what the locks name, downloaded by pip with hashes; what is there already is kept
    source/         Standpipe: the files that git knows
    models/         the models and the ranks, as `standpipe model fetch` and `standpipe model ranks` lay them
    *.lock, *.py    as they lie beside this file

With the directory on a machine without a network, the image is built there all the same.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCE = ("pyproject.toml", "README.md", "LICENSE", "sidecar", "clients/python/standpipe")


def main(variant: str, out: Path, models: Path) -> None:
    """Lay the directory out, anew but for the wheels."""
    wheels = out / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for lock in ("build", variant):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", str(wheels), "--find-links", str(wheels)]
        subprocess.run([*command, "-r", str(HERE / f"{lock}.lock")], check=True)
    shutil.rmtree(out / "source", ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z", *SOURCE], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.split("\0")[:-1]:
        _copy(ROOT / name, out / "source" / name)
    for name in (f"{variant}.lock", "build.lock", "gather.py", "sbom.py", "models.sha256"):
        _copy(HERE / name, out / name)
    for line in (HERE / "models.sha256").read_text().splitlines():
        if not line.startswith("#"):
            _copy(models / line.split()[1], out / "models" / line.split()[1])


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        return
    shutil.copyfile(source, target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
