"""Encryption keys for tests: the same for all that share a store, whatever their directories."""

from __future__ import annotations

import base64
import os
import tempfile
from functools import cache
from pathlib import Path

LINE = f"tests:{base64.b64encode(bytes(range(32))).decode()}"


def write(path: Path, *lines: str) -> Path:
    """Write a file of keys that others cannot read, in one step."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("".join(f"{line}\n" for line in lines))
    return new.replace(path)


@cache
def key_file() -> str:
    """Return the file of the tests' key. All processes write the same."""
    path = Path(tempfile.gettempdir()) / f"standpipe-tests-{os.getuid()}.keys"
    return str(write(path.with_name(f"{path.stem}-{os.getpid()}.keys"), LINE).replace(path))
