"""What the engines of the record contract share: SQL in files, and rows that become the contract's dataclasses.

A row's columns are in the order of its dataclass, in whatever engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from sidecar import limits
from sidecar.errors import InvalidField, LimitExceeded, StoreCorrupt
from sidecar.stores.grants import Grant
from sidecar.stores.record import (
    Erasure,
    EventKind,
    Head,
    ItemKind,
    NewItem,
    ParkedOrder,
    StoredEvent,
    StoredItem,
    StoredKey,
    StoredPolicy,
    StoredRoute,
)

_KINDS: Final[Mapping[int, ItemKind]] = {kind.value: kind for kind in ItemKind}
"""A dictionary finds a kind in a tenth of the time that the enum's own call takes, which a load notices."""


def sections(file: str, label: str) -> dict[str, str]:
    """Return the parts of an SQL file by the name that follows `-- label:`."""
    text = resources.files("sidecar.stores").joinpath("sql", file).read_text(encoding="utf-8")
    parts = re.split(r"^-- (\w+): (\w+)\n", text, flags=re.MULTILINE)
    found = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return {name: body.strip() for kind, name, body in found if kind == label}


@lru_cache(maxsize=4096)
def _tokens(text: str) -> Mapping[str, int]:
    """Decode an item's token counts: few differ, so that decoding them is not what a load costs."""
    return MappingProxyType(json.loads(text))


def session_full() -> LimitExceeded:
    """Return what a turn beyond `limits.session_events_max` is refused with (R25)."""
    return LimitExceeded(
        f"the session has {limits.session_events_max} turns: go on under a new session id",
        field="session_id",
        limit="session_events_max",
        maximum=limits.session_events_max,
        actual=limits.session_events_max + 1,
    )


def named(model: str) -> str:
    """Return a model's name, if it is one (R33)."""
    if not model:
        raise InvalidField("must name a model", field="model")
    return model


def serves(model: str) -> InvalidField:
    """Return what dropping the model that serves is refused with (R34)."""
    return InvalidField(f"{model} is the model that recall ranks by: switch to another first", field="model")


def head_of(row: Sequence[Any]) -> Head:
    """Return a session's head. The last column: 0, its log is there; 1, it was swept; 2, erased."""
    return Head(
        session=row[0],
        subject=row[1],
        version=row[2],
        event_hash=row[3],
        ended=bool(row[4]),
        weight_bytes=row[5],
        position_end=row[6],
        created_at_us=row[7],
        updated_at_us=row[8],
        expires_at_us=row[9],
        expired=bool(row[10]),
        erased=row[10] == 2,
    )


def event_of(row: Sequence[Any]) -> StoredEvent:
    """Return an event of the log. Raises StoreCorrupt for one of no known kind."""
    try:
        kind = EventKind(row[2])
    except ValueError as error:
        raise StoreCorrupt("a stored event is of no known kind", version=row[1]) from error
    return StoredEvent(
        session=row[0],
        version=row[1],
        kind=kind,
        request_id=row[3],
        committed_at_us=row[4],
        body=row[5],
        previous_hash=row[6],
        event_hash=row[7],
        weight_end_bytes=row[8],
        position_end=row[9],
        body_hash=row[10],
    )


def item_of(row: Sequence[Any]) -> StoredItem:
    """Return a recall item. Raises StoreCorrupt if its kind or its token counts cannot be read."""
    try:
        tokens, kind = _tokens(row[10]), _KINDS[row[12]]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt("a stored item's kind or token counts cannot be read", position=row[0]) from error
    return StoredItem(
        position=row[0],
        session=row[1],
        version=row[2],
        entry=row[3],
        chunk=row[4],
        role=row[5],
        speaker=row[6],
        spoken_at_us=row[7],
        text=row[8],
        terms=row[9],
        tokens=tokens,
        gone=bool(row[11]),
        kind=kind,
        detail=row[13],
    )


def key_of(row: Sequence[Any]) -> StoredKey:
    """Return a subject's data key."""
    return StoredKey(subject=row[0], key_id=row[1], wrapped=row[2], wrapping=row[3])


def erasure_of(row: Sequence[Any]) -> Erasure:
    """Return what was erased."""
    return Erasure(
        tenant=row[0],
        subject=row[1],
        session=row[2],
        asked_at_us=row[3],
        done_at_us=row[4],
        logs=row[5],
        events=row[6],
        items=row[7],
        events_redacted=row[8],
        keys=row[9],
    )


def policy_of(row: Sequence[Any]) -> StoredPolicy:
    """Return a policy version."""
    return StoredPolicy(name=row[0], version=row[1], document=row[2], digest=row[3], published_at_us=row[4])


def route_of(row: Sequence[Any]) -> StoredRoute:
    """Return where a route points."""
    return StoredRoute(name=row[0], policy_name=row[1], policy_version=row[2])


def parked_of(row: Sequence[Any]) -> ParkedOrder:
    """Return a parked work order."""
    return ParkedOrder(
        tenant=row[0],
        subject=row[1],
        model=row[2],
        items=row[3],
        since_us=row[4],
        parked_at_us=row[5],
        reason=row[6],
    )


def grant_of(row: Sequence[Any]) -> Grant:
    """Return who is trusted for a range of slots."""
    return Grant(slot_from=row[0], slot_to=row[1], grant=row[2], incarnation=row[3], usable_at_us=row[4])


def tokens_text(item: NewItem) -> str:
    """Return an item's token counts as they are stored: the same counts are the same text."""
    return json.dumps(dict(item.tokens), sort_keys=True, separators=(",", ":"))
