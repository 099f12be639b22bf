"""Server processes, of two releases."""

from tests.e2e.conftest import fleet

__all__ = ["fleet"]
