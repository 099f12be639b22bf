"""Write the locks: everything that is asked for, pinned with hashes, naming no index.

The images have what the tests have: `dev.lock` is a constraint on theirs.

pip-tools resolves; it is not in the lock itself: ``pip install pip-tools`` first.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
_IMAGE = ("--constraint", ".ci/dev.lock", "pyproject.toml", "k8s/image/image.in")
LOCKS = {
    ".ci/dev.lock": (
        ("--extra", "dev", "pyproject.toml"),
        "What `make setup` installs, hashed; `make lock` writes it from pyproject.toml. Linux and macOS, Python 3.11.",
    ),
    ".ci/clients.lock": (
        ("--extra", "dev", "--extra", "clients", "--constraint", ".ci/dev.lock", "pyproject.toml"),
        "What `make test-clients` installs, hashed: dev.lock, and the frameworks; `make lock` writes it. Python 3.11.",
    ),
    ".ci/peer.lock": (
        (".ci/peer.in",),
        "What `make bench-embed` measures against, hashed; `make lock` writes it from peer.in. Linux, Python 3.11.",
    ),
    "k8s/image/cpu.lock": (
        ("--extra", "sidecar", *_IMAGE),
        "What the image `cpu` holds, hashed, without what it leaves out; `make lock` writes it. Linux, Python 3.11.",
    ),
    "k8s/image/cuda13.lock": (
        ("--extra", "sidecar-gpu", *_IMAGE),
        "What the image `cuda13` holds, hashed, without what it leaves out; `make lock` writes it. Linux, Python 3.11.",
    ),
    "k8s/image/build.lock": (
        ("k8s/image/build.in",),
        "What builds an image and is not in it, hashed; `make lock` writes it from build.in. Linux, Python 3.11.",
    ),
}
"""What each is resolved from, and what stands at its top."""
FRAMEWORK_TESTS = ".ci/framework-tests.lock"
"""The sources of frameworks whose own tests our adapters must pass: those of the versions in clients.lock."""
WITH_TESTS = ("langgraph-checkpoint", "openai-agents")
LEFT_OUT = frozenset(
    "anyio certifi charset-normalizer filelock flatbuffers fsspec h11 hf-xet httpcore httpcore2 httpx httpx2"
    " huggingface-hub markdown-it-py mdurl packaging pycparser pygments requests tqdm truststore tzdata"
    " urllib3 nvidia-cufft".split()
)
"""Of the images. Libraries name them for what Standpipe does not ask of them: tiktoken and tokenizers to download,
rich to colour source code and Markdown, ONNX Runtime for its tools and for Fourier transforms, cffi to compile."""


def main(*names: str) -> None:
    """Resolve, drop the project itself and all comments, write: all locks, or those that are named."""
    for name, (sources, head) in LOCKS.items():
        if names and Path(name).name not in names:
            continue
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
        if sources[-1:] == _IMAGE[-1:]:
            pinned = [block for block in pinned if block.partition("==")[0] not in LEFT_OUT]
        (ROOT / name).write_text(f"# {head}\n" + "\n".join(pinned) + "\n")
    if not names or Path(FRAMEWORK_TESTS).name in names:
        pin_sources()


def pin_sources() -> None:
    """Write the lock of the frameworks' sources, which carry their tests as wheels do not."""
    versions = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (ROOT / ".ci/clients.lock").read_text()))
    lines = [
        "# The sources of frameworks whose own tests the adapters must pass, hashed; `make lock` writes it.",
    ]
    for name in WITH_TESTS:
        with tempfile.TemporaryDirectory() as scratch:
            command = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
            command += ["--dest", scratch, f"{name}=={versions[name]}"]
            subprocess.run([sys.executable, "-m", *command], check=True)
            (source,) = Path(scratch).iterdir()
            digest = hashlib.sha256(source.read_bytes()).hexdigest()
        lines.append(f"{name}=={versions[name]} \\\n    --hash=sha256:{digest}")
    (ROOT / FRAMEWORK_TESTS).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
