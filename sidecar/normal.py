"""The normal form of a text, by which a claim is known again whatever its spelling."""

from __future__ import annotations

import unicodedata


def form(text: str) -> str:
    """Return the normal form of a text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
