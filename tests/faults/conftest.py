"""The same servers as end to end."""

from __future__ import annotations

from tests.e2e.conftest import fleet

__all__ = ["fleet"]
