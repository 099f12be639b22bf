"""A plugin for pytest with which LangGraph's own tests run over Standpipe: it puts ours in the place of what they test.

`pytest -p langgraph_plugin`, with STANDPIPE_TARGET naming a server. Each store and saver has records of its own.
"""

from __future__ import annotations

import sys
import types
import uuid
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any
from unittest import mock

import langgraph.checkpoint.memory
import langgraph.store.memory
import pytest

import standpipe.sync
from standpipe.adapters.langgraph import StandpipeSaver, StandpipeStore

CLIENT = standpipe.sync.connect()


class Store(StandpipeStore):
    """Ours, made as theirs is."""

    def __init__(self, *, index: Any = None) -> None:
        super().__init__(CLIENT, subject="anna", collection=uuid.uuid4().hex, index=index)


class Saver(StandpipeSaver, AbstractContextManager, AbstractAsyncContextManager):
    """Ours, made as theirs is, which is also a context manager: ours leaves that to the client."""

    def __init__(self, *, serde: Any = None) -> None:
        super().__init__(CLIENT, subject="anna", collection=uuid.uuid4().hex, serde=serde)

    def __exit__(self, *_: object) -> None:
        """Leave nothing open."""

    async def __aexit__(self, *_: object) -> None:
        """Leave nothing open."""


langgraph.store.memory.InMemoryStore = Store  # type: ignore[misc]
langgraph.checkpoint.memory.InMemorySaver = Saver  # type: ignore[misc]


class Mocker:
    """What these tests ask of the package pytest-mock."""

    stub = staticmethod(mock.MagicMock)

    def __init__(self) -> None:
        self._patches: list[Any] = []

    def spy(self, of: Any, name: str) -> Any:
        """Note the calls of a method."""
        patch = mock.patch.object(of, name, side_effect=getattr(of, name), autospec=True)
        self._patches.append(patch)
        return patch.start()

    def end(self) -> None:
        """Put the methods back."""
        for patch in self._patches:
            patch.stop()


sys.modules["pytest_mock"] = types.ModuleType("pytest_mock")
sys.modules["pytest_mock"].MockerFixture = Mocker  # type: ignore[attr-defined]


@pytest.fixture
def mocker() -> Iterator[Mocker]:
    """Lend a Mocker."""
    lent = Mocker()
    yield lent
    lent.end()
