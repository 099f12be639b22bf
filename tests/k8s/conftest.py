"""What holds for the tests of k8s/: what they need is said beforehand, and what was skipped is said at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import expects
from tests.k8s import chat, tools


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose tools are not here."""
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            tools.need(name)


@pytest.fixture(scope="session")
def pods() -> None:
    """Skip where there is no image to run pods of, or nobody who may run them."""
    if os.geteuid():
        tools.missing("podman", "podman must run as root to enter a pod's network")
    tools.image(chat.IMAGE)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return what takes a sentence with a figure in it, to be shown at the end of the run."""
    return lambda sentence: record_property("figure", sentence)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was measured, and last which tests did not run and why."""
    expects.summarize(terminalreporter, "Kubernetes", Path(__file__).parent)
