"""How things look: the one place that makes consoles, tables, bars and the picture of a bundle.

On a terminal there are colours, unless NO_COLOR is set; elsewhere there is plain text. Widths follow the terminal.
"""

from __future__ import annotations

import datetime
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NoReturn, cast

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from standpipe import Bundle
from standpipe.v1.bundle_pb2 import OmissionReason, Section, Segment, SegmentKind, Source
from standpipe.v1.turn_pb2 import EventRef

PLAIN_COLUMNS = 80
"""Of output that is to look the same everywhere."""

EXAMPLES_MAX = 3
"""Omissions that are shown for one source and reason."""

_COLOURS = {
    Source.SOURCE_POLICY: "magenta",
    Source.SOURCE_PROFILE: "yellow",
    Source.SOURCE_SUMMARY: "cyan",
    Source.SOURCE_HISTORY: "blue",
    Source.SOURCE_RECALL: "green",
    Source.SOURCE_FACTS: "yellow",
    Source.SOURCE_DOCUMENTS: "cyan",
}

Quote = Callable[[EventRef], str]
"""Gives the text of an entry of the log."""

Step = Callable[[str], None]
"""Names the step that a progress bar shows."""


class _Trimmed(io.TextIOBase):
    """Standard output without the blanks that tables put at the ends of lines: files and pipes have no use for them."""

    def write(self, text: str) -> int:
        return sys.stdout.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def flush(self) -> None:
        sys.stdout.flush()


def stdout(*, plain: bool = False) -> Console:
    """Return where results go. `plain`: without colours and block characters, 80 columns wide."""
    if plain:
        return Console(file=cast("IO[str]", _Trimmed()), highlight=False, color_system=None, width=PLAIN_COLUMNS)
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(file=cast("IO[str]", _Trimmed()), highlight=False)


def stderr() -> Console:
    """Return where errors and progress go."""
    return Console(stderr=True, highlight=False)


def fields(found: Message) -> dict[str, Any]:
    """Return a message as plain data, with the names of the proto files."""
    return dict(json_format.MessageToDict(found, preserving_proto_field_name=True))


def message(found: Message, *, lines: bool = True) -> str:
    """Return a message as protobuf JSON; `lines` False: in one line."""
    return json.dumps(fields(found), ensure_ascii=False, indent=2 if lines else None)


def time(stamp: Timestamp | datetime.datetime) -> str:
    """Return a time to the second, in UTC."""
    moment = stamp.ToDatetime(datetime.UTC) if isinstance(stamp, Timestamp) else stamp
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def ref(one: EventRef) -> str:
    """Return a place in the log: session, version and entry. A long session id is cut."""
    session = one.session_id if len(one.session_id) <= 16 else one.session_id[:15] + "…"
    return f"{session} {one.version}" + (f".{one.entry}" if one.HasField("entry") else "")


def name(source: int) -> str:
    """Return a source by its short name."""
    return str(Source.Name(source)).removeprefix("SOURCE_").lower()


def reason(value: int) -> str:
    """Return why something was left out, in words."""
    return str(OmissionReason.Name(value)).removeprefix("OMISSION_REASON_").replace("_", " ").lower()


def milliseconds(us: int) -> str:
    """Return microseconds as milliseconds."""
    return f"{us / 1000:.1f} ms"


def grid(*, head: Iterable[str] = ()) -> Table:
    """Return a table without lines; `head` names its columns."""
    columns = list(head)
    table = Table(box=None, show_header=bool(columns), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def heading(console: Console, title: str) -> None:
    """Print a title over what follows."""
    console.print()
    console.print(Text(title, style="bold"))


def facts(console: Console, rows: Iterable[tuple[str, str | Text]], *, title: str = "") -> None:
    """Print names and what is to be said of each; under a title they are set in."""
    if title:
        heading(console, title)
    table = grid()
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, words in rows:
        table.add_row(label, words)
    console.print(Padding(table, (0, 0, 0, 2 if title else 0), expand=False))


@contextmanager
def progress(text: str) -> Iterator[Step]:
    """Show a moving bar on the terminal, or a line for each step elsewhere; yields what names the step."""
    console = stderr()
    if not console.is_terminal:
        yield lambda step: console.print(f"{text}: {step}", soft_wrap=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda step: bar.update(task, description=f"{text}: {step}")


def fail(text: str) -> NoReturn:
    """End with a usage error: exit code 2."""
    raise click.UsageError(text)


def bar(console: Console, part: int, whole: int, *, columns: int, style: str) -> Text:
    """Return a bar that is filled to part/whole."""
    full, empty = ("#", ".") if console.color_system is None or console.no_color else ("━", "━")
    filled = min(columns, -(-columns * part // max(1, whole)))
    return Text.assemble((full * filled, style), (empty * (columns - filled), "bright_black"))


def bundle(console: Console, shown: Bundle, *, quote: Quote | None = None) -> None:
    """Show a bundle: its cost per source, its sections, what was left out, in words if there is `quote`."""
    console.print(
        f"{shown.tokens:,} of {shown.budget_tokens:,} tokens ({shown.tokenizer}), policy {shown.policy}, session"
        f" version {shown.version}"
    )
    console.print(f"fingerprint {shown.fingerprint[:32]}…")
    for item in shown.degraded:
        console.print(f"degraded: {name(item.source)}, {item.cause.replace('_', ' ')}", style="yellow")
    console.print()
    console.print(_costs(console, shown))
    for section in shown.sections:
        console.print()
        style = _COLOURS.get(section.source, "")
        console.print(
            Text.assemble((name(section.source), f"bold {style}"), (f"  epoch {section.epoch}", "bright_black"))
        )
        console.print(_segments(console, section))
    if shown.omission_counts:
        heading(console, "left out")
        console.print(_left_out(console, shown, quote))


def cost(console: Console, shown: Bundle) -> None:
    """Show where the time went, and the token tax."""
    if shown.timings:
        phases = ("hot", "record", "embed", "rank", "render")
        parts = ", ".join(f"{phase} {getattr(shown.timings, f'{phase}_us') / 1000:.1f}" for phase in phases)
        console.print(f"time {milliseconds(shown.timings.total_us)}: {parts}")
    if shown.tax:
        console.print(
            f"token tax {shown.tax.bundle_tokens:,}; the session's transcript has {shown.tax.transcript_tokens:,},"
            f" {shown.tax.stable_tokens:,} stand before recall"
        )


def _costs(console: Console, shown: Bundle) -> Table:
    table = grid()
    columns = max(10, min(60, console.width - 32))
    for section in shown.sections:
        style = _COLOURS.get(section.source, "")
        table.add_row(
            Text(name(section.source), style=f"bold {style}"),
            bar(console, section.tokens, section.cap_tokens, columns=columns, style=style),
            Text(f"{section.tokens:,}", justify="right"),
            Text(f"of {section.cap_tokens:,}", justify="right", style="bright_black"),
        )
    return table


def _entries(console: Console) -> Table:
    """Return the table of bundle entries: a figure, a word, the text, its tokens, where it stands in the log."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column(width=5, justify="right", no_wrap=True)
    table.add_column(width=10 if console.width < 100 else 20, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(width=4, justify="right", no_wrap=True)
    table.add_column(no_wrap=True, style="bright_black")
    return table


def _segments(console: Console, section: Section) -> Table:
    table = _entries(console)
    for segment in section.segments:
        frame = segment.kind == SegmentKind.SEGMENT_KIND_FRAME
        table.add_row(
            Text(_score(segment.score_micros), style="bright_black"),
            Text(_who(segment), style="bold"),
            Text(_line(segment.body), style="bright_black" if frame else ""),
            str(segment.tokens),
            ", ".join(ref(one) for one in segment.citations),
        )
    return table


def _left_out(console: Console, shown: Bundle, quote: Quote | None) -> Table:
    table = _entries(console)
    for count in shown.omission_counts:
        table.add_row(str(count.candidates), name(count.source), reason(count.reason), "", "", style="bold")
        same = [one for one in shown.omissions if (one.source, one.reason) == (count.source, count.reason)]
        for one in same[:EXAMPLES_MAX]:
            words = _line(quote(one.candidate)) if quote else ""
            cells = (_score(one.score_micros), words, str(one.tokens), ref(one.candidate))
            table.add_row("", *cells, style="bright_black")
    return table


def _who(segment: Segment) -> str:
    """Return who speaks: the header without its marks, or a prompt's name."""
    return segment.header.removeprefix("- ").rstrip(": ") or segment.name


def _line(text: str) -> str:
    return " ".join(text.split())


def _score(micros: int) -> str:
    return f"{micros / 1e6:.2f}" if micros else ""
