"""``standpipe memory ingest``: documents, one or millions."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from sidecar import limits
from sidecar.cli import show
from sidecar.cli.progress import Progress
from sidecar.cli.target import calling
from standpipe import sync

if TYPE_CHECKING:
    from sidecar.ingestion import Tally
    from standpipe.v1.memory_pb2 import DocumentResult


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path))
@click.option("--subject", default="", help="Whose documents; left out, all subjects recall them.")
@click.option("--title", default="", help="Shown above what is quoted; left out, the file's name.")
@click.option(
    "--pattern",
    "patterns",
    multiple=True,
    metavar="GLOB",
    help="Files of a directory that are taken, such as '*.md'; may be repeated.  [default: *.txt *.md *.rst *.jsonl]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, limits.ingest_calls_max),
    default=4,
    show_default=True,
    help="Calls in flight.",
)
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keeps what was acknowledged, so that the same command sends only what is new or has changed.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be ingested, and call no server.")
@calling
def ingest(
    client: sync.Client,
    /,
    *,
    paths: tuple[Path, ...],
    subject: str,
    title: str,
    patterns: tuple[str, ...],
    concurrency: int,
    journal: Path | None,
    dry_run: bool,
) -> None:
    """Ingest text files as documents, by their names; the same content again does nothing.

    PATHS are text files, directories (recursively, by the paths in them) and .jsonl files, or - for JSON Lines on
    standard input: {"document_id": …, "text": …} a line, with title, uri and subject if they are known. What is refused
    is listed at the end, and the exit code is 1. Whatever ends a run, the same command goes on from there.
    """
    from sidecar import ingestion

    if title and len(paths) > 1:
        raise click.UsageError("--title is for one file")
    context, console = click.get_current_context(), show.stdout()
    patterns = patterns or ingestion.PATTERNS
    source = ingestion.read(paths, subject=subject, title=title, patterns=patterns)
    if dry_run:
        _print(ingestion.Tally.of(source))
        return
    few = all(path.is_file() and path.suffix != ".jsonl" for path in paths)
    # Of standard input nobody knows how much there is.
    all_bytes = sum(path.stat().st_size for path, _ in ingestion.files(paths, patterns) if str(path) != "-")

    def told(done: DocumentResult) -> None:
        if few:
            what = "" if done.created else ", as it was"
            console.print(f"{done.document_id}: version {done.version}, {done.chunks} chunks{what}", highlight=False)

    with contextlib.ExitStack() as stack:
        where = {name: str(context.params[name]) for name in ("target", "tenant")}
        run = ingestion.Ingestion(
            lambda whose, documents: client.memory(whose).ingest(*documents, deadline_ms=limits.ingest_call_ms),
            calls_max=concurrency,
            hang_up=client.close,
            journal=stack.enter_context(ingestion.Journal(journal, **where)) if journal else None,
        )
        progress = stack.enter_context(Progress("KB"))

        def report(tally: Tally) -> None:
            if not few:
                progress.show(
                    "ingesting",
                    tally.read_bytes // 1000,
                    max(0, all_bytes - tally.read_bytes) // 1000,
                    rates={"documents": tally.ingested + tally.there},
                    counts={"refused": tally.refused.total()},
                )

        try:
            run.run(source, report=report, told=told)
        except BaseException:
            stack.close()
            console.print(f"{run.tally.ingested:,} ingested so far; the same command goes on from there")
            raise
    if not few or run.tally.refused:
        _print(run.tally)


def _print(tally: Tally) -> None:
    """Print what became of it all, and end with 1 if anything was refused."""
    console = show.stdout()
    for line in tally.listed:
        console.print(f"refused: {line}", soft_wrap=True, markup=False)
    rows = [("documents", tally.documents), ("ingested", tally.ingested), ("there already", tally.there)]
    rows += [("in the journal", tally.skipped)] if tally.skipped else []
    rows += [(f"refused: {reason}", count) for reason, count in sorted(tally.refused.items())]
    table = show.grid()
    for name, count in rows:
        table.add_row(name, Text(f"{count:,}", justify="right"))
    console.print(table)
    if tally.refused:
        click.get_current_context().exit(1)
