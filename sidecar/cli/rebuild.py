"""``standpipe rebuild``: make every derived thing of a record store again."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from sidecar.cli import show
from sidecar.cli.serve import record_flags, record_settings
from sidecar.config import Config


@record_flags
@click.command()
@click.option("--record", required=True, metavar="ADDRESS", help="The record store: sqlite:PATH or postgresql://….")
def rebuild(record: str, **given: Any) -> None:
    """Make again what is derived from a record store's log.

    It checks every hash chain on its way. Vectors follow when a sidecar serves the store; until then recall goes by
    words alone.
    """
    config = record_settings(record, given)
    with show.progress("rebuild") as step:
        sessions, events = asyncio.run(_rebuild(config, step))
    show.stdout().print(f"{sessions:,} sessions, {events:,} events: every hash chain holds")


async def _rebuild(config: Config, step: show.Step) -> tuple[int, int]:
    from sidecar.engines import open_record
    from sidecar.rebuild import rebuild as run

    record = await open_record(config)
    try:
        return await run(record, progress=lambda *done: step("{:,} sessions, {:,} events".format(*done)))
    finally:
        await record.close()
