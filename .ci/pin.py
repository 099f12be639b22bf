"""Write the locks: everything that is asked for, pinned with hashes, naming no index.

pip-tools resolves; it is not in the lock itself: ``pip install pip-tools`` first.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = {
    "dev.lock": (
        ("--extra", "dev", "pyproject.toml"),
        "What `make setup` installs, hashed; `make lock` writes it from pyproject.toml. Linux and macOS, Python 3.11.",
    ),
    "peer.lock": (
        (".ci/peer.in",),
        "What `make bench-embed` measures against, hashed; `make lock` writes it from peer.in. Linux, Python 3.11.",
    ),
}
"""What each is resolved from, and what stands at its top."""


def main() -> None:
    """Resolve, drop the project itself and all comments, write."""
    for name, (sources, head) in LOCKS.items():
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
            command += ["--no-header", "--no-annotate", "--output-file", str(raw), *sources]
            subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)
            blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", raw.read_text())
        pinned = [re.sub(r"(?m)^#.*\n?", "", block).strip() for block in blocks if "==" in block.partition("\n")[0]]
        (ROOT / ".ci" / name).write_text(f"# {head}\n" + "\n".join(pinned) + "\n")


if __name__ == "__main__":
    main()
