"""The same servers as end to end."""

from __future__ import annotations

from tests.e2e.conftest import embedder, fleet

__all__ = ["embedder", "fleet"]
