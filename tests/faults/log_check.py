"""The event log read through the driver alone, and its hash chain computed from its definition, not from our code."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

import psycopg

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


@dataclass(frozen=True, slots=True)
class Row:
    """One event as the record store has it."""

    tenant: str
    session: str
    version: int
    kind: int
    request_id: str
    committed_at_us: int
    previous_hash: bytes
    event_hash: bytes
    body: bytes


_EVENTS = "SELECT {} FROM {} ORDER BY tenant, session, version"
_COLUMNS = ", ".join(one.name for one in fields(Row))


def every_event(store: Path | str) -> dict[tuple[str, str], list[Row]]:
    """Return the log of every session, by tenant and session: of an SQLite file, or of a PostgreSQL URI."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    if isinstance(store, Path):
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            rows = db.execute(_EVENTS.format(_COLUMNS, "events")).fetchall()
    else:
        with psycopg.connect(store) as db:  # as the owner of all, whom row security does not bind
            rows = db.execute(_EVENTS.format(_COLUMNS, "standpipe.events")).fetchall()
    for row in rows:
        one = Row(*row)
        found[one.tenant, one.session].append(one)
    return found


def broken_chain(rows: Sequence[Row]) -> str:
    """Say what is wrong with the hash chain of a session's log; empty: nothing."""
    previous = bytes(32)
    for number, row in enumerate(rows, 1):
        if row.version != number:
            return f"version {row.version} stands at place {number}"
        if row.previous_hash != previous:
            return f"event {row.version} does not name the one before"
        told = (row.tenant, row.session, row.version, row.kind, row.request_id, row.committed_at_us)
        computed = hashlib.sha256(_canonical(previous, *told, hashlib.sha256(row.body).digest())).digest()
        if computed != row.event_hash:
            return f"event {row.version} does not match its hash"
        previous = row.event_hash
    return ""


def read_log(record: Path, session: str, *, tenant: str = "default") -> list[tuple[int, str, bytes]]:
    """Return (version, request id, hash) of every event of a session; fails where the chain is not whole."""
    rows = every_event(record)[tenant, session]
    with closing(sqlite3.connect(f"{record.as_uri()}?mode=ro", uri=True, timeout=10)) as db:
        head = db.execute(
            "SELECT version, event_hash FROM sessions WHERE tenant = ? AND session = ?", (tenant, session)
        ).fetchone()
    wrong = broken_chain(rows)
    assert not wrong, f"{session}: {wrong}"
    found = [(row.version, row.request_id, row.event_hash) for row in rows]
    assert head == (found[-1][0], found[-1][2]) if found else head is None, f"{session}: the head is elsewhere"
    return found


def check_store(record: Path) -> None:
    """Ask SQLite itself whether the file is whole."""
    with closing(sqlite3.connect(record, timeout=10)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
