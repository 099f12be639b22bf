"""The event log read through the driver alone, and its hash chain computed from its definition, not from our code."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

ROUNDS = int(os.environ.get("TEST_ROUNDS", "0"))
"""0: the default of the test."""


def rounds(default: int) -> int:
    """Return how many rounds to run."""
    return ROUNDS or default


def _canonical(*fields: bytes | str | int) -> bytes:
    out = b""
    for value in fields:
        if isinstance(value, int):
            kind, raw = 3, struct.pack(">q", value)
        else:
            kind, raw = (2, value.encode()) if isinstance(value, str) else (1, value)
        out += struct.pack(">BI", kind, len(raw)) + raw
    return out


def read_log(record: Path, session: str, *, tenant: str = "default") -> list[tuple[int, str, bytes]]:
    """Return (version, request id, hash) of every event of a session; fails where the chain is not whole."""
    with closing(sqlite3.connect(f"{record.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
        rows = db.execute(
            "SELECT version, kind, request_id, committed_at_us, previous_hash, event_hash, body FROM events "
            "WHERE tenant = ? AND session = ? ORDER BY version",
            (tenant, session),
        ).fetchall()
        head = db.execute(
            "SELECT version, event_hash FROM sessions WHERE tenant = ? AND session = ?", (tenant, session)
        ).fetchone()
    previous, found = bytes(32), []
    for number, (version, kind, request_id, at_us, before, event_hash, body) in enumerate(rows, 1):
        assert version == number, f"{session}: version {version} stands at place {number}"
        assert before == previous, f"{session}: event {version} does not name the one before"
        computed = hashlib.sha256(
            _canonical(previous, tenant, session, version, kind, request_id, at_us, hashlib.sha256(body).digest())
        ).digest()
        assert computed == event_hash, f"{session}: event {version} does not match its hash"
        previous = event_hash
        found.append((version, request_id, event_hash))
    assert head == (found[-1][0], found[-1][2]) if found else head is None, f"{session}: the head is elsewhere"
    return found


def check_store(record: Path) -> None:
    """Ask SQLite itself whether the file is whole."""
    with closing(sqlite3.connect(record, timeout=10)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
