"""``standpipe eval``: measure on recorded conversations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from sidecar.cli import show


@click.command("eval")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", default="build", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--models-dir", default="models", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--tokenizer", default="cl100k_base", show_default=True, help="What counts the budgets.")
@click.option("--embedder", default="all-MiniLM-L6-v2", show_default=True, help="The model's directory, or none.")
@click.option("--conversations", type=click.IntRange(1), help="At most so many of each set.")
@click.option("--questions", type=click.IntRange(1), help="At most so many of each conversation.")
def evaluate(
    directory: Path,
    out: Path,
    models_dir: Path,
    tokenizer: str,
    embedder: str,
    conversations: int | None,
    questions: int | None,
) -> None:
    """Measure recall, prefix reuse, tokens sent and determinism on the conversations of DIRECTORY."""
    from sidecar.evaluate import Options
    from sidecar.evaluate import evaluate as run

    options = Options(
        models_dir=models_dir,
        tokenizer=tokenizer,
        embedder=embedder,
        conversations_max=conversations,
        questions_max=questions,
    )
    asyncio.run(run(directory, out, options, console=show.stdout()))
