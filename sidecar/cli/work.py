"""``standpipe work`` and ``standpipe parked``: the work orders of the embedding projection."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import click
from rich.text import Text

from sidecar import config, names
from sidecar.cli import show
from sidecar.cli.progress import Progress
from sidecar.cli.serve import record_flags, record_settings, setting_flags, stopping
from sidecar.cli.target import json_flag
from sidecar.stores.record import ParkedOrder, ParkedRead, Record

if TYPE_CHECKING:
    from sidecar.worker import Stage


@setting_flags
@click.command()
@click.option("--config", "path", metavar="FILE", help=f"A YAML file of settings; also {config.CONFIG_VARIABLE}.")
@click.option("--once", is_flag=True, help="End when nothing is left but what is parked.")
@click.option("--extract", is_flag=True, help="Ask extractor_url for facts and summary entries, too.")
@click.pass_context
def work(ctx: click.Context, /, *, path: str | None, once: bool, extract: bool, **given: Any) -> None:
    """Embed what sidecars commit and remove expired logs, without serving, until SIGTERM or SIGINT.

    It takes the settings of `serve`, and any number of processes may work on one record store. Logs go to stderr, one
    JSON object a line. Whatever ends it, what is done is done, and the next run goes on from there. With --once it says
    how far it is, and the exit code is 1 if orders are parked or it was told to end before the end.
    """
    settings = config.load(path=path, environment=os.environ, flags=given)
    ctx.exit(asyncio.run(_work(settings, once=once, extract=extract)))


async def _work(settings: config.Config, *, once: bool, extract: bool) -> int:
    from sidecar.worker import Worker

    stop = stopping(settings)
    async with Worker(settings, extract=extract) as worker:
        log = worker.telemetry.log
        with Progress("items", log=log) as progress:

            def report(stage: Stage) -> None:
                name = "extracting" if stage.model_id.startswith(names.EXTRACTS) else "embedding"
                rates, counts = {"tokens": stage.tokens}, {"parked": stage.parked}
                progress.show(f"{name} {stage.model_id}", stage.done, stage.waiting, rates=rates, counts=counts)

            parked = await worker.work(stop, once=once, report=report)
    log.info("stopped", items=worker.done, parked=parked)
    return 1 if parked or (once and parked is None) else 0


@record_flags
@click.command()
@click.option("--record", required=True, metavar="ADDRESS", help="The record store: sqlite:PATH or postgresql://….")
@click.option("--retry", is_flag=True, help="Have all of them tried again, as if they had never failed.")
@json_flag
def parked(*, record: str, retry: bool, as_json: bool, **given: Any) -> None:
    """List the work orders that failed too often, of all tenants.

    The items of a parked order are found by words alone, and so are those that its subject gains meanwhile: vectors are
    put in order. Mend what the reason names, then --retry.
    """
    orders = asyncio.run(_parked(record_settings(record, given), retry=retry))
    if as_json:
        times = [(order, _iso(order.since_us), _iso(order.parked_at_us)) for order in orders]
        rows = [
            {name: value for name, value in dataclasses.asdict(order).items() if not name.endswith("_us")}
            | {"since": since, "parked_at": at}
            for order, since, at in times
        ]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    console = show.stdout()
    if not orders:
        console.print("no work order is parked")
        return
    table = show.grid(head=("parked at", "items", "reason"))
    for column in ("tenant", "subject", "model"):
        table.add_column(column, overflow="fold")
    for order in orders:
        table.add_row(
            show.time(_moment(order.parked_at_us)),
            Text(f"{order.items:,}", justify="right"),
            order.reason or "its worker died",
            Text(order.tenant),
            Text(order.subject),
            Text(order.model),
        )
    console.print(table)
    if retry:
        console.print(f"{len(orders):,} will be tried again")


async def _parked(settings: config.Config, *, retry: bool) -> Sequence[ParkedOrder]:
    """Return all parked orders, which are so no longer after a `retry`."""
    from sidecar.engines import open_record

    record = await open_record(settings)
    try:
        orders = await _all(record)
        for order in orders if retry else ():
            await record.unpark(order.tenant, subject=order.subject, model=order.model)
        return orders
    finally:
        await record.close()


async def _all(record: Record) -> Sequence[ParkedOrder]:
    orders: list[ParkedOrder] = []
    after = ("", "", "")
    while True:
        (answer,) = await record.fetch([ParkedRead(after=after)])
        page = cast(Sequence[ParkedOrder], answer)
        if not page:
            return orders
        orders += page
        after = (page[-1].tenant, page[-1].subject, page[-1].model)


def _moment(us: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(us / 1e6, tz=datetime.UTC)


def _iso(us: int) -> str:
    return _moment(us).isoformat(timespec="milliseconds").replace("+00:00", "Z")
