"""``standpipe rebuild``: make every derived thing of a record store again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from sidecar.cli import show
from sidecar.config import Config


@click.command()
@click.option("--record", required=True, metavar="ADDRESS", help="The record store: sqlite:PATH or postgresql://….")
def rebuild(record: str) -> None:
    """Make again what is derived from a record store's log.

    It checks every hash chain on its way. Vectors follow when a sidecar serves the store; until then recall goes by
    words alone.
    """
    config = Config(record=record, record_migrate=False)
    if record.startswith("sqlite:") and not Path(record.removeprefix("sqlite:")).is_file():
        show.fail(f"{record!r} is not there")
    with show.progress("rebuild") as step:
        sessions, events = asyncio.run(_rebuild(config, step))
    show.stdout().print(f"{sessions:,} sessions, {events:,} events: every hash chain holds")


async def _rebuild(config: Config, step: show.Step) -> tuple[int, int]:
    from sidecar.engines import record_of
    from sidecar.rebuild import rebuild as run

    record = record_of(config)
    await record.open()
    try:
        return await run(record, progress=lambda *done: step("{:,} sessions, {:,} events".format(*done)))
    finally:
        await record.close()
