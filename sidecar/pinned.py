"""Files of a pinned SHA-256: what is not, is refused before anything reads it. Nothing is ever deleted."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sidecar.errors import ModelInvalid


def verify(path: Path, expected_sha256: str) -> None:
    """Hash the file in place, without holding it. Raises ModelInvalid if it is missing or another."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error, expected_sha256) from error
    _compare(path.name, actual, expected_sha256)


def read(path: Path, expected_sha256: str) -> bytes:
    """Read the file and answer with the very bytes that were verified. Raises ModelInvalid as `verify` does."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error, expected_sha256) from error
    _compare(path.name, hashlib.sha256(data).hexdigest(), expected_sha256)
    return data


def _compare(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        message = f"{name}: its SHA-256 must be {expected} and is {actual}"
        raise ModelInvalid(message, expected_sha256=expected, actual_sha256=actual)


def _unreadable(path: Path, error: OSError, expected: str) -> ModelInvalid:
    missing = isinstance(error, FileNotFoundError)
    message = f"{path}: {'is missing' if missing else 'cannot be read'}; its SHA-256 must be {expected}"
    return ModelInvalid(message, expected_sha256=expected, actual_sha256="missing" if missing else "unreadable")
