"""``standpipe memory import``: the conversations of other systems."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.text import Text

from sidecar.cli import progress, show
from sidecar.cli.target import calling
from standpipe import errors, sync

_LISTED_MAX = 20
"""Refused messages that are listed one by one; the others are counted."""

_OURS = (
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Overloaded,
    errors.PermissionDenied,
    errors.Unauthenticated,
)
"""What no other message of the file would fare better with."""


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(("openai", "redis-json", "mem0", "letta")),
    help="What wrote the file.",
)
@click.option("--subject", required=True, help="Whose memory it becomes.")
@click.option("--session", "prefix", default="", metavar="PREFIX", help="Begins the sessions' names; else the format.")
@click.option("--newest-first", is_flag=True, help="Lists begin with the newest message, as LangChain's do in Redis.")
@click.option("--dry-run", is_flag=True, help="Say what would be imported, and call no server.")
@calling
def import_(
    client: sync.Client, /, *, file: Path, form: str, subject: str, prefix: str, newest_first: bool, dry_run: bool
) -> None:
    """Import the conversations of FILE, each message once, however often it is run; - is standard input.

    What users, models and tools said is committed as they said it. Memories that another system's model wrote down
    become quoted words of a model, never facts. The operator's prompts are left out. A file with an error in it is
    refused whole, before anything is sent; what the server refuses is listed, and the exit code is 1.
    """
    from sidecar import importers

    with click.open_file(str(file), "rb") as opened:
        found = importers.read(opened.read(), form, prefix=prefix, newest_first=newest_first)
    imported = there = 0
    refused: Counter[str] = Counter()
    console = show.stdout()
    for turn in progress.each("importing", found.turns, "messages") if not dry_run else ():
        try:
            done = client.session(turn.session, subject=subject).commit(
                turn.entries, mode="append", request_id=turn.request_id
            )
        except _OURS:
            console.print(f"{imported:,} imported so far; the same command goes on from there")
            raise
        except errors.StandpipeError as error:
            refused[error.reason or error.code] += 1
            if refused.total() <= _LISTED_MAX:
                place = f"{file}, {found.place(turn.path)}"
                what = ": ".join(filter(None, (error.field or "", error.field_message or error.message)))
                console.print(f"refused: {place}: {error.reason or error.code} {what}", soft_wrap=True, markup=False)
        else:
            there += done.replayed
            imported += not done.replayed
    sessions = len({turn.session for turn in found.turns})
    rows = [("messages", len(found.turns)), ("sessions", sessions)]
    if not dry_run:
        rows += [("imported", imported), ("there already", there)]
        rows += [(f"refused: {reason}", count) for reason, count in sorted(refused.items())]
    rows += [(f"left out: {why}", count) for why, count in sorted(found.left_out.items())]
    table = show.grid()
    for name, count in rows:
        table.add_row(name, Text(f"{count:,}", justify="right"))
    console.print(table)
    if refused:
        click.get_current_context().exit(1)
