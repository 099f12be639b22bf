"""``standpipe rebuild``: make every derived thing of a record store again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from sidecar.cli import show


@click.command()
@click.option("--record", required=True, metavar="sqlite:PATH", help="The record store.")
def rebuild(record: str) -> None:
    """Make again what is derived from a record store's log.

    It checks every hash chain on its way. Vectors follow when a sidecar serves the store; until then recall goes by
    words alone.
    """
    path = Path(record.removeprefix("sqlite:"))
    if not record.startswith("sqlite:") or not path.is_file():
        show.fail(f"{record!r} is not sqlite:PATH of a record store that exists")
    with show.progress("rebuild") as step:
        sessions, events = asyncio.run(_rebuild(path, step))
    show.stdout().print(f"{sessions:,} sessions, {events:,} events: every hash chain holds")


async def _rebuild(path: Path, step: show.Step) -> tuple[int, int]:
    from sidecar.rebuild import rebuild as run
    from sidecar.stores.sqlite import SqliteRecord

    record = SqliteRecord(path)
    await record.open()
    try:
        return await run(record, progress=lambda *done: step("{:,} sessions, {:,} events".format(*done)))
    finally:
        await record.close()
