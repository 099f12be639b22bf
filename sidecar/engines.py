"""The engines that a configuration chooses, sealed unless it says plain text.

The driver of an engine that is not chosen is not imported.
"""

from __future__ import annotations

from typing import TypeVar

from sidecar import canonical
from sidecar.config import Config
from sidecar.errors import ConfigInvalid
from sidecar.stores.hot import Hot, HotView
from sidecar.stores.record import Record
from sidecar.stores.sealed import SealedHot, SealedRecord
from sidecar.vault import vault_of

V = TypeVar("V", bound=HotView)


def engine_of(config: Config) -> Record:
    """Return the record store's engine itself, not yet opened. Raises ConfigInvalid for what its driver cannot read."""
    if config.record.startswith("sqlite:"):
        from sidecar.stores.sqlite import SqliteRecord

        return SqliteRecord(config.record.removeprefix("sqlite:"))
    from sidecar.stores.postgres import PostgresRecord

    return PostgresRecord(config.record, migrate=config.record_migrate, components=config.plaintext)


def record_of(config: Config) -> Record:
    """Return the record store, not yet opened. Raises ConfigInvalid, also without keys where it is not plain text."""
    vault, engine = vault_of(config), engine_of(config)
    return SealedRecord(engine, vault) if vault is not None else engine


async def open_record(config: Config) -> Record:
    """Open the record store. Raises ConfigInvalid for keys that are not its own, and for plain text where it has any.

    A store with keys holds what a process without them cannot read, and takes for nonsense.
    """
    record = record_of(config)
    await record.open()
    try:
        if config.plaintext and await record.keys_all(after=("", b""), count_max=1):
            raise ConfigInvalid(
                "plaintext must be false: the record store holds what is encrypted; name its keys", field="plaintext"
            )
    except BaseException:
        await record.close()
        raise
    return record


def hot_of(config: Config, record: Record | None = None) -> Hot[V]:
    """Return the hot store, not yet opened. Raises ConfigInvalid for what its driver cannot read.

    Views of a process stay in its memory; what is shared is sealed if `record`, whose sessions it shows, is.
    """
    if config.hot == "memory":
        from sidecar.stores.memory import MemoryHot

        return MemoryHot(bytes_max=config.view_cache_bytes)
    from sidecar.stores.redis import RedisHot

    hot: Hot[V] = RedisHot(config.hot, bytes_max=config.view_cache_bytes)
    return SealedHot(hot, record.keys) if isinstance(record, SealedRecord) else hot


async def open_hot(config: Config, record: Record) -> Hot[V]:
    """Open the hot store of a record store's deployment."""
    hot: Hot[V] = hot_of(config, record)
    await hot.open(deployment=canonical.sha256(("hot", await record.signing_key())).hex()[:12])
    return hot
