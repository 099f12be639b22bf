"""Weak signals in what a claim says: reasons to let a person look at it first."""

from __future__ import annotations

from sidecar import normal
from standpipe.v1 import fact_pb2


def signals(text: str) -> list[fact_pb2.HoldReason]:
    """Return what speaks against holding a claim true at once."""
    return [fact_pb2.HOLD_REASON_HIDDEN_TEXT] if normal.hidden(text) else []
