"""``standpipe eval``: measure on recorded conversations."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import get_args

import click

from sidecar.cli import show
from sidecar.cli.failure import line
from sidecar.cli.model import models_dir
from sidecar.errors import StandpipeError
from sidecar.model import Precision


@click.command("eval")
@click.argument("source", metavar="DIRECTORY", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    default="build",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where eval.json and the charts go.",
)
@models_dir
@click.option("--tokenizer", default="cl100k_base", show_default=True, help="What counts the budgets.")
@click.option("--embedder", default="all-MiniLM-L6-v2", show_default=True, help="Its directory there, or none.")
@click.option(
    "--precision", default="int8", show_default=True, type=click.Choice(get_args(Precision)), help="Its weights."
)
@click.option("--record", default="", metavar="ADDRESS", help="A record store to measure on; it is rebuilt on the way.")
@click.option("--hot", default="memory", show_default=True, metavar="ADDRESS", help="A hot store to measure on.")
@click.option("--conversations", type=click.IntRange(1), metavar="N", help="The first N of each set.")
@click.option("--questions", type=click.IntRange(1), metavar="N", help="The first N of each conversation.")
@click.option("--recall-only", is_flag=True, help="Measure evidence recall, and nothing else.")
def evaluate(
    source: Path,
    out: Path,
    directory: Path,
    *,
    tokenizer: str,
    embedder: str,
    precision: Precision,
    record: str,
    hot: str,
    conversations: int | None,
    questions: int | None,
    recall_only: bool,
) -> None:
    """Measure recall, prefix reuse and tokens sent on conversations.

    DIRECTORY holds them as *.json, or is one file.
    """
    from sidecar.evaluation.evaluate import evaluate as run
    from sidecar.evaluation.measured import Options

    options = Options(
        directory,
        tokenizer,
        embedder,
        precision=precision,
        conversations_max=conversations,
        questions_max=questions,
        record=record,
        hot=hot,
        recall_only=recall_only,
    )
    try:
        asyncio.run(run(source, out, options, console=show.stdout()))
    except StandpipeError as error:
        raise click.ClickException(line(error)) from None
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
