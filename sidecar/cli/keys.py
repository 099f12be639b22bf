"""``standpipe keys``: the keys that content is encrypted under."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar import config
from sidecar.cli import show
from sidecar.cli.serve import record_flags, record_settings
from sidecar.errors import ConfigInvalid, StandpipeError

if TYPE_CHECKING:
    from sidecar.stores.record import Record
    from sidecar.vault import Vault

RECORD = click.option("--record", required=True, metavar="ADDRESS", help="The record store.")


@click.group()
def keys() -> None:
    """Make, check and rotate the keys that content is encrypted under.

    To rotate: put a new key into the file as its second line, and give that time to reach every process; move it to the
    front; run `standpipe keys rotate`; let `standpipe keys check` say that the old one opens nothing any more; take it
    out. Nothing is restarted. Who loses the keys loses what they encrypt: keep them apart from backups of the store.
    """


@keys.command()
@click.option("--id", "key_id", default="", help="What the key is called; at random if it is not said.")
@click.option(
    "--to", "path", metavar="FILE", type=click.Path(path_type=Path), help="Put it into a file, and print nothing."
)
def new(key_id: str, path: Path | None) -> None:
    """Make a new key, a line of the file that `encryption_keys_file` names.

    With --to it becomes the last line of a file, which is made for its owner alone if it is not there.
    """
    from sidecar.vault import new_line, parse

    line = new_line(key_id)
    if path is None:
        click.echo(line)
        return
    try:
        path.touch(mode=0o600)
        before = path.read_text(encoding="ascii")
        text = before + ("\n" if before and not before.endswith("\n") else "") + line + "\n"
        parse(text)  # a name that is there already must not make the file unreadable
        path.write_text(text, encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        show.fail(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', '') or 'it is no text'}")


@record_flags
@keys.command()
@RECORD
@click.pass_context
def check(ctx: click.Context, /, *, record: str, **given: Any) -> None:
    """Open every subject's key, and say which encryption key wraps how many.

    The exit code is 1 if a subject's key is wrapped by one that is not there any more, or not the same.
    """
    ctx.exit(asyncio.run(_check(record_settings(record, given))))


@record_flags
@keys.command()
@RECORD
def rotate(record: str, **given: Any) -> None:
    """Wrap every subject's key by the first encryption key; content stays as it is.

    It may run while all is served, more than once, and be broken off: it goes on where it was.
    """
    done, total = asyncio.run(_rotate(record_settings(record, given)))
    show.stdout().print(f"{done:,} of {total:,} subjects' keys wrapped anew")


async def _check(settings: config.Config) -> int:
    from sidecar.stores.sealed import every_key

    vault, record = await _opened(settings)
    counts: Counter[str] = Counter()
    broken: dict[str, str] = {}
    try:
        async for tenant, stored in every_key(record):
            counts[stored.wrapping] += 1
            try:
                await vault.unwrap(tenant, stored)
            except StandpipeError as error:
                broken[stored.wrapping] = error.message
    finally:
        await record.close()
    out = show.stdout()
    for name in dict.fromkeys([*vault.ids, *sorted(counts)]):
        said = broken.get(name) or ("encrypts" if name == vault.first else "needed until `standpipe keys rotate`")
        if not counts[name] and name != vault.first:
            said = "not needed any more"
        out.print(f"{name}: {counts[name]:,} subjects' keys: {said}", markup=False, highlight=False, soft_wrap=True)
    return 1 if broken else 0


async def _rotate(settings: config.Config) -> tuple[int, int]:
    from sidecar.stores.sealed import rotate

    vault, record = await _opened(settings)
    try:
        return await rotate(record, vault)
    finally:
        await record.close()


async def _opened(settings: config.Config) -> tuple[Vault, Record]:
    """Return the encryption keys, read, and the record store as its engine, open."""
    from sidecar.engines import engine_of
    from sidecar.vault import vault_of

    vault = vault_of(settings)
    if vault is None:
        raise ConfigInvalid("plaintext has no keys: name those of the record store", field="encryption_keys_file")
    await vault.open()
    record = engine_of(settings)
    await record.open()
    return vault, record
