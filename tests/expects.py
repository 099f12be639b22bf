"""Tools that a machine may lack: tests skip with a reason, and fail where CI has promised the tool."""

from __future__ import annotations

import os
from collections.abc import Set
from typing import NoReturn

import pytest

EXPECTED = frozenset(os.environ.get("TEST_EXPECTS", "").split())
"""What was installed for this run, says TEST_EXPECTS: podman, say."""


def missing(name: str, why: str, *, promised: Set[str] = frozenset()) -> NoReturn:
    """Skip a test for want of a tool, or of what the tool may do here; fail it where CI has promised the tool."""
    if os.environ.get("CI") and name in promised | EXPECTED:
        pytest.fail(f"{why}, which CI should have")
    pytest.skip(why)
