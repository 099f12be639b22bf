"""The release before, taken out of history, and what it and this one share."""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.e2e.pods import ROOT

_0_5_0 = "dbb02d14e01ed9b304d63abab3eb12bab82c81aa"

BEFORE = {
    "sqlite+memory": _0_5_0,
    "postgresql+memory": _0_5_0,
    "postgresql+redis": _0_5_0,
}
"""By engines: release 0.5.0, which served on all of them."""

_PARTS = ("sidecar", "clients/python", "tests/__init__.py", "tests/e2e/__init__.py", "tests/e2e/serve.py")


def unpack(commit: str, to: Path) -> Path:
    """Take a release's source out of history; where there is no git, or a clone without it, the test is skipped."""
    if shutil.which("git") is None:
        pytest.skip("the release before is not here: there is no git")
    done = subprocess.run(["git", "archive", commit, *_PARTS], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the release before is not here: git knows no {commit}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(to, filter="data")
    return to


@dataclass(frozen=True)
class Database:
    """A record store that processes share, and a hand behind their backs."""

    record: str
    hot: str

    @property
    def place(self) -> Path | str:
        """Where the log is read past the engines."""
        return Path(self.record.removeprefix("sqlite:")) if self.record.startswith("sqlite:") else self.record

    def plant_expansion(self, number: int) -> None:
        """Change the schema as an expansion may: another column in every table that there is."""
        if isinstance(self.place, Path):
            with closing(sqlite3.connect(self.place, timeout=10)) as db, db:
                names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
                for name in names:
                    db.execute(f"ALTER TABLE {name} ADD COLUMN planted INTEGER NOT NULL DEFAULT 0")
                db.execute("INSERT INTO expansions (number) VALUES (?)", (number,))
        else:
            with psycopg.connect(self.place) as db:
                names = db.execute(
                    "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'standpipe'::regnamespace"
                    " AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
                ).fetchall()
                for (name,) in names:
                    db.execute(f"ALTER TABLE {name} ADD COLUMN planted integer NOT NULL DEFAULT 0")
                db.execute("INSERT INTO standpipe.migrations (number, kind) VALUES (%s, 'expansion')", (number,))

    def plant_migration(self, number: int) -> None:
        """Say that a migration was done which neither release knows."""
        if isinstance(self.place, Path):
            with closing(sqlite3.connect(self.place, timeout=10)) as db:
                db.execute(f"PRAGMA user_version = {number}")
        else:
            with psycopg.connect(self.place) as db:
                db.execute("INSERT INTO standpipe.migrations (number, kind) VALUES (%s, 'migration')", (number,))
