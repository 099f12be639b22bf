"""What the engines of the record contract share: SQL in files, and rows that become the contract's dataclasses.

A row's columns are in the order of its dataclass, in whatever engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from sidecar import limits
from sidecar.errors import InvalidField, LimitExceeded, StoreCorrupt, VersionConflict
from sidecar.stores.grants import Grant
from sidecar.stores.record import (
    Erasure,
    EventKind,
    Head,
    ItemKind,
    NewItem,
    ParkedOrder,
    StateFound,
    StateList,
    StateRecord,
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
        records=row[10],
    )


def state_of(row: Sequence[Any]) -> StateRecord:
    """Return a record of state."""
    return StateRecord(
        collection=row[0],
        key=row[1],
        value=row[2],
        revision=row[3],
        updated_at_us=row[4],
        expires_at_us=row[5],
    )


def state_page(records: Iterable[StateRecord], bytes_max: int, count_max: int | None = None) -> StateFound:
    """Return the first records that keep within a page, but one at least (R37)."""
    page: list[StateRecord] = []
    size_bytes = 0
    for record in records:
        size_bytes += len(record.key.encode()) + len(record.value)
        if page and (size_bytes > bytes_max or len(page) == count_max):
            return StateFound(records=page, more=True)
        page.append(record)
    return StateFound(records=page, more=False)


_ABOVE: Final = chr(0x10FFFF) * (limits.state_key_bytes // 4 + 1)
"""Above every key."""

_NEXT: Final = "\x01"
"""Behind a key, it makes the least text above it that a key may have: none holds a control character."""


def keys_from(prefix: str) -> tuple[str, str]:
    """Return the range of keys that begin with a prefix, [from, to), in the order of code points, and so of bytes."""
    rest = prefix.rstrip(chr(0x10FFFF))
    if not rest:
        return prefix, _ABOVE
    after = ord(rest[-1]) + 1
    return prefix, rest[:-1] + chr(0xE000 if after == 0xD800 else after)


def keys_of_page(read: StateList) -> tuple[str, str]:
    """Return the range of keys that a page of a list may hold, [from, to)."""
    low, high = keys_from(read.prefix)
    if read.after_key and read.descending:
        high = min(high, read.after_key)
    elif read.after_key:
        low = max(low, read.after_key + _NEXT)
    return low, high


def state_conflict(index: int, revision: int) -> VersionConflict:
    """Return what a write that expects another revision is refused with (R36)."""
    return VersionConflict(
        "the record has another revision than the write expects",
        field=f"writes[{index}].expected_revision",
        key_index=index,
        current_version=revision,
    )


def state_full(records: int) -> LimitExceeded:
    """Return what records beyond `limits.state_records_max` are refused with (R39)."""
    return LimitExceeded(
        f"the subject has room for {limits.state_records_max} records",
        field="writes",
        limit="state_records_max",
        maximum=limits.state_records_max,
        actual=records,
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
