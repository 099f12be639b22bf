"""The engines that a configuration chooses; the driver of one that is not chosen is not imported."""

from __future__ import annotations

from typing import TypeVar

from sidecar import canonical
from sidecar.config import Config
from sidecar.stores.hot import Hot, HotView
from sidecar.stores.record import Record

V = TypeVar("V", bound=HotView)


def record_of(config: Config) -> Record:
    """Return the record store, not yet opened. Raises ConfigInvalid for what its driver cannot read."""
    if config.record.startswith("sqlite:"):
        from sidecar.stores.sqlite import SqliteRecord

        return SqliteRecord(config.record.removeprefix("sqlite:"))
    from sidecar.stores.postgres import PostgresRecord

    return PostgresRecord(config.record, migrate=config.record_migrate)


def deployment_of(signing_key: bytes) -> str:
    """Return the name under which a hot store keeps what is of this record store, and no other's."""
    return canonical.sha256(("hot", signing_key)).hex()[:12]


def hot_of(config: Config) -> Hot[V]:
    """Return the hot store, not yet opened. Raises ConfigInvalid for what its driver cannot read."""
    if config.hot == "memory":
        from sidecar.stores.memory import MemoryHot

        return MemoryHot(bytes_max=config.view_cache_bytes)
    from sidecar.stores.redis import RedisHot

    return RedisHot(config.hot, bytes_max=config.view_cache_bytes)
