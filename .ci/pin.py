"""Write .ci/dev.lock: everything that pyproject.toml asks for, pinned with hashes, naming no index.

pip-tools resolves; it is not in the lock itself: ``pip install pip-tools`` first.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / ".ci" / "dev.lock"
HEAD = """\
# What `make setup` installs, with hashes; `make lock` writes it from pyproject.toml. Linux and macOS, Python 3.11.
"""


def main() -> None:
    """Resolve, drop the project itself and all comments, write."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "lock.txt")
        command = ["piptools", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url"]
        command += [
            "--no-emit-find-links",
            "--allow-unsafe",
            "--no-emit-trusted-host",
            "--no-emit-options",
            "--strip-extras",
        ]
        command += ["--no-header", "--no-annotate", "--extra", "dev", "--output-file", str(raw), "pyproject.toml"]
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)
        blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", raw.read_text())
    pinned = [re.sub(r"(?m)^#.*\n?", "", block).strip() for block in blocks if "==" in block.partition("\n")[0]]
    LOCK.write_text(HEAD + "\n".join(pinned) + "\n")


if __name__ == "__main__":
    main()
