"""What holds for the tests of the clients: drivers of all languages, and what was skipped is said at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import expects
from tests.clients.languages import LANGUAGES, Driver, ready

OF_ALL = [pytest.param(name, marks=pytest.mark.needs(name)) for name in LANGUAGES]
"""The languages; `make test` leaves their drivers out, Python's too: what only it does is tested beside them."""


@pytest.fixture(scope="module", params=OF_ALL)
def driver(request: Any) -> Iterator[Driver]:
    """Run a driver of each language for a module's tests."""
    with Driver(ready(request.param)) as found:
        yield found


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="sp-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return what takes a sentence with a figure in it, to be shown at the end of the run."""
    return lambda sentence: record_property("figure", sentence)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was measured, and last which tests did not run and why."""
    expects.summarize(terminalreporter, "Clients", Path(__file__).parent)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of CI in which `make test-clients` left something out: it has installed all that tests ask for."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and "clients" in expects.EXPECTED and reporter is not None:
        here = Path(__file__).parent
        if any(report.skipped for report in expects.reports_below(reporter, here)) and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
