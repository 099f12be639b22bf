"""``standpipe eval``: measure on recorded conversations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from sidecar.cli import show


@click.command("eval")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", default="build", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def evaluate(directory: Path, out: Path) -> None:
    """Measure recall, prefix reuse and tokens sent on the conversations of DIRECTORY."""
    from sidecar.evaluate import evaluate as run

    asyncio.run(run(directory, out, console=show.stdout()))
