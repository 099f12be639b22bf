"""The examples of all languages and of all adapters, as they are, beside a real server and a stand-in for the model."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import expects, servers
from tests.clients.conftest import OF_ALL
from tests.clients.languages import LANGUAGES, ready
from tests.clients.served import Served, serving
from tests.endpoint import ChatModel
from tests.faults.log_check import every_event

pytestmark = [pytest.mark.timeout(180), pytest.mark.needs("examples")]

ROOT = Path(__file__).parents[2]
OF_PYTHON = sorted((ROOT / "clients" / "python" / "examples").glob("*.py"))
TOM = "My cat is called Tom."


@pytest.fixture
def server() -> Iterator[Served]:
    """Run a server with an empty store."""
    place = servers.directory()
    with serving(place, f"unix:{place}/s.sock") as found:
        yield found


@pytest.fixture
def model() -> Iterator[ChatModel]:
    """Run a stand-in for a model, which repeats what it was asked."""
    with ChatModel() as found:
        yield found


def run(command: Sequence[str], directory: Path, server: Served, model: ChatModel, **more: str) -> str:
    """Run an example to its end; return what it printed."""
    told = {
        "STANDPIPE_TARGET": server.targets["unix"],
        "OPENAI_BASE_URL": model.url,
        "OPENAI_API_KEY": "none",
        "OPENAI_MODEL": "a-stand-in",
        **more,
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **told},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    return done.stdout


def rows(record: Path) -> int:
    """Return how many rows the store has in all its tables."""
    with contextlib.closing(sqlite3.connect(f"{record.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return sum(db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables)


@pytest.mark.parametrize("name", [one for one in OF_ALL if LANGUAGES[one.values[0]].example])
def test_a_language_talks_and_remembers(name: str, server: Served, model: ChatModel) -> None:
    """Two turns in two processes are one conversation, and another conversation of the same person knows of it."""
    language = ready(name)
    for session, question in (("trip", TOM), ("trip", "What did I say?"), ("other", "What is my cat called?")):
        command = [*language.example, "--session", session, "--subject", "anna", question]
        assert "You said: " in run(command, language.directory, server, model)
    first, second, third = (asked["messages"] for asked in model.asked)
    assert first[-1] == {"role": "user", "content": TOM}
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert (second[0]["content"], second[-1]["content"]) == (TOM, "What did I say?")
    assert "Tom" in third[-1]["content"]
    assert model.asked[0]["model"] == "a-stand-in"
    log = every_event(server.record)
    assert (len(log["default", "trip"]), len(log["default", "other"])) == (2, 1)


@pytest.mark.parametrize("path", OF_PYTHON, ids=lambda path: path.stem)
def test_an_adapter_works(path: Path, server: Served, model: ChatModel) -> None:
    """An example of Python ends well, says something, and leaves something behind in the server."""
    tree = ast.parse(path.read_text())
    imported = {one.module or "" for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)}
    imported |= {alias.name for one in ast.walk(tree) if isinstance(one, ast.Import) for alias in one.names}
    for package in sorted({name.partition(".")[0] for name in imported}):
        if importlib.util.find_spec(package) is None:
            expects.missing(package, f"no {package} here: `make test-clients` installs it")
    before = rows(server.record)
    places: dict[str, Any] = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "clients" / "python")))}
    assert run([sys.executable, str(path)], server.record.parent, server, model, **places).strip()
    assert rows(server.record) > before
