"""Calls of a running server: hydrate, commit, events, replay, info."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import click
from google.protobuf import json_format
from rich.text import Text

from sidecar.cli import show
from sidecar.cli.target import calling, json_flag
from standpipe import Bundle, Consistency, assistant, sync, user
from standpipe.client import SourceName
from standpipe.v1.context_pb2 import EmbeddingInfo, HydrateContextResponse, ReplayContextResponse
from standpipe.v1.turn_pb2 import Event, Turn, TurnEntry

SOURCES = ("policy", "profile", "summary", "history", "recall", "facts", "documents")


def _caps(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[SourceName, int]:
    """Read source=tokens."""
    caps = {}
    for value in values:
        source, _, tokens = value.partition("=")
        if source not in SOURCES or not tokens.isdigit():
            raise click.BadParameter(f"{value!r} is not SOURCE=TOKENS, with a source of {', '.join(SOURCES)}")
        caps[cast("SourceName", source)] = int(tokens)
    return caps


@click.command()
@click.argument("session")
@click.option("--subject", default="", help="Whose memory is recalled; may be left out for a session that exists.")
@click.option("--query", default="", help="What recall looks for: usually the user's new message.")
@click.option("--budget", type=click.IntRange(1), metavar="TOKENS", help="The most tokens; lowers the policy's.")
@click.option(
    "--cap",
    "caps",
    multiple=True,
    callback=_caps,
    metavar="SOURCE=TOKENS",
    help="The most of a source; may be repeated.",
)
@click.option("--include", multiple=True, type=click.Choice(SOURCES), help="Only these sources; may be repeated.")
@click.option("--route", default="", help='The route; left out, it is "default".')
@click.option("--token", default="", help="A consistency token: see at least what it has seen.")
@click.option("--openai", "form", flag_value="openai", help="Print the messages for OpenAI's API.")
@click.option("--anthropic", "form", flag_value="anthropic", help="Print system and messages for Anthropic's API.")
@click.option("--json", "form", flag_value="json", help="Print the whole answer as JSON, with its receipt.")
@calling
def hydrate(
    client: sync.Client,
    /,
    *,
    session: str,
    subject: str,
    query: str,
    budget: int | None,
    caps: dict[SourceName, int],
    include: tuple[SourceName, ...],
    route: str,
    token: str,
    form: str | None,
) -> None:
    """Show what the model should see for SESSION's next turn."""
    bundle = client.session(session, subject=subject).hydrate(
        query,
        route=route,
        budget_tokens=budget,
        caps=caps,
        include=include,
        consistency=Consistency(at_least_as_fresh=token) if token else None,
    )
    if form == "json":
        click.echo(show.message(_answer(bundle)))
    elif form:
        said = bundle.to_openai() if form == "openai" else bundle.to_anthropic()
        click.echo(json.dumps(said, ensure_ascii=False, indent=2))
    else:
        console = show.stdout()
        show.bundle(console, bundle)
        console.print()
        show.cost(console, bundle)


class _InOrder(click.Command):
    """Keeps the order in which the entries of a turn were given: click by itself groups them by option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta["entries"] = [one.name for one in order if one.name in ("user", "assistant")]
        return super().parse_args(ctx, args)


@click.command(cls=_InOrder)
@click.argument("session")
@click.option("--subject", default="", help="Whose memory the turn becomes; needed for a session's first commit.")
@click.option("--user", multiple=True, metavar="TEXT", help="What the user said; entries keep their order.")
@click.option("--assistant", multiple=True, metavar="TEXT", help="What the assistant said.")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A turn as protobuf JSON (standpipe.v1.Turn), with tool calls and all; - is standard input.",
)
@click.option("--expected-version", type=click.IntRange(0), metavar="N", help="The version that it follows, from 0.")
@click.option("--append", is_flag=True, help="Follow whatever version there is, instead.")
@click.option("--request-id", help="Keeps a retry from counting twice; left out, a random one.")
@json_flag
@calling
@click.pass_context
def commit(
    ctx: click.Context,
    client: sync.Client,
    /,
    *,
    session: str,
    subject: str,
    user: tuple[str, ...],
    assistant: tuple[str, ...],
    path: Path | None,
    expected_version: int | None,
    append: bool,
    request_id: str | None,
    as_json: bool,
) -> None:
    """Append one turn to SESSION, exactly once."""
    if append == (expected_version is not None):
        show.fail("give one of --expected-version and --append")
    if (path is None) != bool(user or assistant):
        show.fail("give either --user and --assistant, or --file")
    turn = _read_turn(path) if path else Turn(entries=_entries(ctx.meta["entries"], user, assistant))
    done = client.session(session, subject=subject).commit(
        turn.entries,
        expected_version=expected_version,
        request_id=request_id,
        mode="append" if append else "fail",
    )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done), indent=2, default=str))
    else:
        console = show.stdout()
        console.print(f"version {done.version}" + (", committed before under this request id" if done.replayed else ""))
        for label in ("request_id", "event_hash", "token"):  # whole, to be copied
            console.print(f"{label.replace('_', ' ')} {getattr(done, label)}", soft_wrap=True)


def _entries(order: list[str], users: tuple[str, ...], assistants: tuple[str, ...]) -> list[TurnEntry]:
    left = {"user": iter(users), "assistant": iter(assistants)}
    make = {"user": user, "assistant": assistant}
    return [make[who](next(left[who])) for who in order]


def _read_turn(path: Path) -> Turn:
    try:
        with click.open_file(str(path), encoding="utf-8") as file:
            turn = json_format.Parse(file.read(), Turn())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not a turn as protobuf JSON: {error}") from None
    assert isinstance(turn, Turn)
    return turn


@click.command()
@click.argument("session")
@click.option("--after", default=0, type=click.IntRange(0), metavar="VERSION", help="Only later events.")
@json_flag
@calling
def events(client: sync.Client, /, *, session: str, after: int, as_json: bool) -> None:
    """List SESSION's log, its hash chain checked.

    JSON gives one event a line.
    """
    console = show.stdout()
    table = show.grid(head=("version", "committed (UTC)", "chain", "hash"))
    table.add_column("what", no_wrap=True, overflow="ellipsis", ratio=1)
    table.expand = True
    count, broken, previous = 0, 0, b"" if after else bytes(32)
    for event in client.session(session).events(after):
        linked = not previous or event.previous_hash == previous
        previous = event.hash
        count, broken = count + 1, broken + (not linked)
        if as_json:
            click.echo(show.message(event, lines=False))
            continue
        table.add_row(
            str(event.version),
            show.time(event.committed_at),
            Text("ok", style="green") if linked else Text("BROKEN", style="bold red"),
            event.hash.hex()[:12],
            _what(event),
        )
    if not as_json:
        console.print(table)
        verdict = f"{broken} BROKEN" if broken else "each names the hash of the one before"
        console.print(f"\n{count} events, {verdict}; head {previous.hex() or 'unknown'}", soft_wrap=True)
    if broken:
        click.get_current_context().exit(1)


def _what(event: Event) -> Text:
    """Return an event in one line, its first words in front."""
    if event.HasField("session_end"):
        return Text(f"end: {event.session_end.cause}".rstrip(": "), style="yellow")
    said = [_entry(entry) for entry in event.turn.entries]
    return Text(" | ".join(" ".join(one.split()) for one in said))


def _entry(entry: TurnEntry) -> str:
    kind = entry.WhichOneof("entry")
    if kind == "tool_call":
        return f"call {entry.tool_call.name}"
    if kind == "tool_result":
        return "failed result" if entry.tool_result.is_error else "result"
    if kind is None:
        return "app_json"
    return entry.message.text or f"{len(entry.message.parts)} parts"


@click.command()
@click.argument("receipt", type=click.File("r"))
@click.option("--all-omissions", is_flag=True, help="List everything that was left out.")
@json_flag
@calling
def replay(client: sync.Client, /, *, receipt: Any, all_omissions: bool, as_json: bool) -> None:
    """Render a past bundle again from its RECEIPT.

    RECEIPT is a file with it as base64, or - for standard input.
    """
    try:
        sealed = base64.b64decode("".join(receipt.read().split()), validate=True)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise click.UsageError("RECEIPT is not base64; `standpipe hydrate --json` gives it so") from None
    again = client.replay(sealed, all_omissions=all_omissions)
    if as_json:
        answer = ReplayContextResponse(
            bundle=again.bundle.message,
            session_id=again.session_id,
            subject_id=again.subject_id,
            degraded=again.bundle.degraded,
        )
        answer.served_at.FromDatetime(again.served_at)
        click.echo(show.message(answer))
        return
    console = show.stdout()
    console.print(f"served {show.time(again.served_at)} UTC to session {again.session_id} of {again.subject_id}")
    show.bundle(console, again.bundle)


@click.command()
@json_flag
@calling
def info(client: sync.Client, /, *, as_json: bool) -> None:
    """Show what the server is and can."""
    found = client.server_info()
    if as_json:
        click.echo(show.message(found))
        return
    console = show.stdout()
    embeddings = [("embedding", "none: recall goes by words alone")]
    if found.embeddings or found.embedding.model_id:  # a server of before knows of one alone
        embeddings = [("embedding", _model(one)) for one in found.embeddings or [found.embedding]]
    show.facts(
        console,
        [
            ("version", found.version),
            ("record store", found.record_engine),
            ("hot store", found.hot_engine),
            ("tokenizers", ", ".join(found.tokenizers)),
            *embeddings,
            ("lag", f"{found.projection_lag_items:,} items wait for their vector"),
        ],
    )
    show.heading(console, "limits")
    limits = show.grid()
    for limit in found.limits:
        limits.add_row(limit.name, Text(f"{limit.value:,}", justify="right"))
    console.print(limits)


def _model(one: EmbeddingInfo) -> str:
    parts = [one.model_id, f"{one.dimensions} dimensions", one.precision, one.provider]
    if one.remote:
        parts.append("shared")
    if one.lag_items and not one.ranks:
        parts.append(f"{one.lag_items:,} items behind")
    return ", ".join(parts) + (": ranks" if one.ranks else "")


def _answer(bundle: Bundle) -> HydrateContextResponse:
    return HydrateContextResponse(
        bundle=bundle.message,
        receipt=bundle.receipt,
        consistency_token=bundle.token,
        degraded=bundle.degraded,
        timings=bundle.timings,
        token_tax=bundle.tax,
        recall=bundle.recall,
    )
