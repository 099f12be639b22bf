"""A pytest plugin for the OpenAI Agents SDK's own tests: its SQLite sessions become ours, on a real server.

It is loaded into their test run, by `test_openai_agents.py`; nothing of theirs is here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

import agents
import agents.extensions.memory
import pytest

import standpipe
from sidecar.config import Config
from sidecar.server import Server
from standpipe.adapters.openai_agents import AgentsSession

NOT_OURS = {
    "SQLite's connections and files": "worker_thread live_worker retired file_lock wal_ quarantined initialization",
    "SQLite's driver and clock": "connect_ same_timestamp post_commit_cancellation cancelled_",
    "broken rows in SQLite's tables": "corrupt",
    "SQLite's transactions": "write_lock rolls_back rollback",
    "close(), which ours has no need of: the client is shared": "closed_ close_",
}
"""Which of their tests of SQLite sessions are about something that ours has not, by words in their names."""


class _Place:
    """One server for the whole run, in a thread of its own, and a client of it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._port = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        self.client = standpipe.sync.connect(f"127.0.0.1:{self._port}")

    async def _serve(self) -> None:
        settings = Config(
            listen=("127.0.0.1:0",),
            http="",
            plaintext=True,
            record=f"sqlite:{Path(self._directory.name) / 's.db'}",
            models_dir=os.environ["STANDPIPE_MODELS_DIR"],
            embedder="none",
            log_level="error",
        )
        async with Server(settings) as server:
            self._port = server.ports[0]
            self._ready.set()
            await asyncio.to_thread(self._stop.wait)

    def close(self) -> None:
        self.client.close()
        self._stop.set()
        self._thread.join()
        self._directory.cleanup()


PLACE: _Place


class Ours(AgentsSession):
    """Ours, made as theirs: a file of theirs is a part of a session's name here."""

    def __init__(self, session_id: str, db_path: Any = ":memory:", *_: Any, session_settings: Any = None) -> None:
        name = uuid.uuid4().hex if str(db_path) == ":memory:" else str(db_path)
        place = hashlib.sha256(f"{name}\0{session_id}".encode()).hexdigest()[:32]
        super().__init__(PLACE.client.session(place, subject="sdk"), session_settings=session_settings)
        self.session_id = session_id

    def close(self) -> None:
        """There is nothing to close: a Standpipe client is shared."""


class OursAsync(Ours):
    """Likewise, where closing is asynchronous."""

    async def close(self) -> None:  # type: ignore[override]
        """There is nothing to close."""


def pytest_configure(config: pytest.Config) -> None:
    """Put ours in theirs' place before their tests import it."""
    global PLACE
    PLACE = _Place()
    config.add_cleanup(PLACE.close)
    agents.SQLiteSession = agents.memory.SQLiteSession = Ours  # type: ignore[misc,assignment]
    agents.extensions.memory.AsyncSQLiteSession = OursAsync  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot apply, and say why."""
    for item in items:
        for reason, words in NOT_OURS.items():
            if any(word in item.name for word in words.split()):
                item.add_marker(pytest.mark.skip(reason=reason))
                break
