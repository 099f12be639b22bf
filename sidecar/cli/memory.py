"""``standpipe memory``: facts, profile, documents and review, on a running server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import click
from rich.text import Text

from sidecar.cli import memory_import, memory_ingest, show
from sidecar.cli.target import calling, json_flag
from standpipe import fact, sync
from standpipe.v1.fact_pb2 import FactOutcome, FactResult, HoldReason, Trust
from standpipe.v1.memory_pb2 import Belief, BeliefStatus, ListBeliefsResponse, ListQuarantineResponse
from standpipe.v1.turn_pb2 import EventRef

_SUBJECT = click.argument("subject")
_PLACE = "SESSION@VERSION.ENTRY, as the tables print it"


class _Place(click.ParamType[EventRef]):
    """A place in the log."""

    name = "place"

    def convert(self, value: str | EventRef, param: click.Parameter | None, ctx: click.Context | None) -> EventRef:
        """Read SESSION@VERSION.ENTRY."""
        if isinstance(value, EventRef):
            return value
        session, _, place = value.rpartition("@")
        version, _, entry = place.partition(".")
        if not session or not version.isdigit() or not (entry.isdigit() or not entry):
            self.fail(f"{value!r} is not {_PLACE}", param, ctx)
        return EventRef(session_id=session, version=int(version), entry=int(entry) if entry else None)


class _Time(click.ParamType[datetime]):
    """A time, in UTC unless it says else."""

    name = "time"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read ISO 8601."""
        if isinstance(value, datetime):
            return value
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-05-03 or 2026-05-03T14:00", param, ctx)
        return at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at


def place(ref: EventRef) -> str:
    """Return a place in the log, as the commands take it."""
    return f"{ref.session_id}@{ref.version}.{ref.entry}"


_request_id = click.option(
    "--request-id", metavar="ID", help="Makes a repetition do nothing twice; left out, a new one."
)
_from = click.option("--from", "valid_from", type=_Time(), metavar="TIME", help="Since when it holds.")
_to = click.option("--to", "valid_to", type=_Time(), metavar="TIME", help="Until when it holds.")
_source = click.option(
    "--source", "sources", multiple=True, required=True, type=_Place(), metavar="PLACE", help=f"Who said it: {_PLACE}."
)
_negated = click.option("--not", "negated", is_flag=True, help="It is denied that the value holds.")
_cause = click.option("--cause", default="", help="Why, for the audit trail.")


@click.group()
def memory() -> None:
    """Look at what is held true of a subject, and why; record, correct, review, search."""


@memory.command()
@_SUBJECT
@click.argument("attribute")
@click.argument("value")
@_source
@_negated
@click.option("--many", is_flag=True, help="The attribute can have several values at once.")
@click.option("--kind", default="", help="The kind that the policy gives a lifetime.")
@click.option("--pinned", is_flag=True, help="Show it in every bundle.")
@_from
@_to
@_request_id
@calling
def record(
    client: sync.Client,
    /,
    *,
    subject: str,
    attribute: str,
    value: str,
    sources: tuple[EventRef, ...],
    negated: bool,
    many: bool,
    kind: str,
    pinned: bool,
    valid_from: datetime | None,
    valid_to: datetime | None,
    request_id: str | None,
) -> None:
    """Record that ATTRIBUTE of SUBJECT is VALUE, as the sources say."""
    claim = fact(
        attribute,
        value,
        *sources,
        negated=negated,
        many=many,
        kind=kind,
        pinned=pinned,
        valid_from=valid_from,
        valid_to=valid_to,
    )
    (result,) = client.memory(subject).remember(claim, request_id=request_id)
    show.stdout().print(_outcome(result), soft_wrap=True, highlight=False)


@memory.command()
@_SUBJECT
@click.argument("old", metavar="FACT", type=_Place())
@click.option("--value", help="What holds instead; needs --source. Left out, the fact is retracted.")
@click.option("--attribute", default="", help="Of the new value, if it is not the fact's.")
@click.option("--source", "sources", multiple=True, type=_Place(), metavar="PLACE", help=f"Who said it: {_PLACE}.")
@_negated
@_from
@_to
@click.option("--reject", is_flag=True, help="It is wrong: it is never recorded again, under any spelling.")
@_cause
@_request_id
@calling
def correct(
    client: sync.Client,
    /,
    *,
    subject: str,
    old: EventRef,
    value: str | None,
    attribute: str,
    sources: tuple[EventRef, ...],
    negated: bool,
    valid_from: datetime | None,
    valid_to: datetime | None,
    reject: bool,
    cause: str,
    request_id: str | None,
) -> None:
    """Supersede the FACT of SUBJECT by another value, retract it, or reject it."""
    if reject and value is not None:
        raise click.UsageError("--reject and --value exclude each other")
    mine = client.memory(subject)
    console = show.stdout()
    if value is None:
        (mine.reject if reject else mine.retract)(old, cause=cause, request_id=request_id)
        console.print("rejected" if reject else "retracted")
        return
    if not attribute:
        known = {place(one.fact_ref): one.fact.attribute for one in mine.beliefs(all_statuses=True)}
        attribute = known.get(place(old), "")
        if not attribute:
            show.fail(f"{subject} has no fact {place(old)}")
    claim = fact(attribute, value, *sources, negated=negated, valid_from=valid_from, valid_to=valid_to)
    result = mine.supersede(old, claim, cause=cause, request_id=request_id)
    console.print(_outcome(result), soft_wrap=True, highlight=False)


@memory.command()
@_SUBJECT
@click.argument("ref", metavar="FACT", type=_Place())
@click.option("--off", is_flag=True, help="Pin it no longer.")
@_request_id
@calling
def pin(client: sync.Client, /, *, subject: str, ref: EventRef, off: bool, request_id: str | None) -> None:
    """Show the FACT of SUBJECT in every bundle."""
    client.memory(subject).pin(ref, pinned=not off, request_id=request_id)
    show.stdout().print("unpinned" if off else "pinned")


@memory.command()
@_SUBJECT
@click.argument("attributes", nargs=-1, metavar="[NAME=VALUE]...")
@_request_id
@calling
def profile(client: sync.Client, /, *, subject: str, attributes: tuple[str, ...], request_id: str | None) -> None:
    """Show the profile of SUBJECT, or set attributes of it: NAME= removes one."""
    mine = client.memory(subject)
    values = {}
    for one in attributes:
        name, equals, value = one.partition("=")
        if not equals:
            raise click.UsageError(f"{one!r} is not NAME=VALUE")
        values[name] = value
    found = mine.put_profile(values, request_id=request_id) if values else mine.profile()
    show.facts(show.stdout(), list(found.items()))


@memory.command()
@_SUBJECT
@click.argument("query")
@click.option("--route", default="", help='The route; left out, it is "default".')
@click.option("--count", "count_max", type=click.IntRange(1, 100), default=20, show_default=True)
@calling
def search(client: sync.Client, /, *, subject: str, query: str, route: str, count_max: int) -> None:
    """Search turns, facts and documents of SUBJECT."""
    rows = [
        (
            show.name(one.source),
            ", ".join(place(cited) for cited in one.segment.citations[:1]),
            show.time(one.said_at),
            _trust(one.segment.trust),
            " ".join(one.segment.body.split()),
        )
        for one in client.memory(subject).search(query, route=route, count_max=count_max)
    ]
    _print(("source", "where", "said", "trust", "text"), rows)


@memory.command()
@_SUBJECT
@click.option("--known-at", type=_Time(), metavar="TIME", help="Only what was recorded until then counts.")
@click.option("--valid-at", type=_Time(), metavar="TIME", help="What was true then.")
@click.option("--all", "all_statuses", is_flag=True, help="Also what is not held.")
@click.option("--route", default="", help="The route whose policy gives lifetimes.")
@json_flag
@calling
def beliefs(
    client: sync.Client,
    /,
    *,
    subject: str,
    known_at: datetime | None,
    valid_at: datetime | None,
    all_statuses: bool,
    route: str,
    as_json: bool,
) -> None:
    """List what is held true of SUBJECT, now or as of any time."""
    found = list(
        client.memory(subject).beliefs(known_at=known_at, valid_at=valid_at, all_statuses=all_statuses, route=route)
    )
    if as_json:
        click.echo(show.message(ListBeliefsResponse(beliefs=found)))
        return
    _print(("fact", "status", "trust", "recorded", "sources", "what"), [_row(belief) for belief in found])


@memory.command()
@click.argument("subject", default="")
@json_flag
@calling
def quarantine(client: sync.Client, /, *, subject: str, as_json: bool) -> None:
    """List claims that wait for review, of SUBJECT or of all."""
    found = list(client.memory(subject).quarantine())
    if as_json:
        click.echo(show.message(ListQuarantineResponse(claims=found)))
        return
    rows = []
    for one in found:
        ref, _, trust, recorded, _, what = _row(one.belief)
        rows.append((one.subject_id, ref, trust, recorded, _reasons(one.belief.held_back), what))
    _print(("subject", "fact", "trust", "recorded", "why", "what"), rows)


@memory.command()
@_SUBJECT
@click.argument("ref", metavar="FACT", type=_Place())
@click.option("--accept/--reject", required=True, help="Whether it is held from now on, or never.")
@click.option("--reviewer", required=True, help="Who decides, for the audit trail.")
@_cause
@_request_id
@calling
def review(
    client: sync.Client,
    /,
    *,
    subject: str,
    ref: EventRef,
    accept: bool,
    reviewer: str,
    cause: str,
    request_id: str | None,
) -> None:
    """Accept or reject the FACT of SUBJECT that waits."""
    client.memory(subject).review(ref, accept=accept, reviewer=reviewer, cause=cause, request_id=request_id)
    show.stdout().print("accepted" if accept else "rejected")


memory.add_command(memory_ingest.ingest)
memory.add_command(memory_import.import_)


def _outcome(result: FactResult) -> str:
    what = FactOutcome.Name(result.outcome).removeprefix("FACT_OUTCOME_").lower()
    where = f": {place(result.fact)}" if result.HasField("fact") else ""
    why = f" ({_reasons(result.reasons)})" if result.reasons else ""
    return f"{what}{where}{why}"


def _reasons(reasons: Iterable[HoldReason]) -> str:
    found = [HoldReason.Name(one) for one in reasons]
    return ", ".join(one.removeprefix("HOLD_REASON_").lower().replace("_", " ") for one in found)


def _trust(trust: Trust) -> str:
    return Trust.Name(trust).removeprefix("TRUST_").lower() if trust else ""


def _row(belief: Belief) -> tuple[str, ...]:
    said = belief.fact
    pinned = " (pinned)" if belief.pinned else ""
    return (
        place(belief.fact_ref),
        BeliefStatus.Name(belief.status).removeprefix("BELIEF_STATUS_").lower().replace("_", " "),
        _trust(belief.trust),
        show.time(belief.recorded_at),
        ",".join(place(one) for one in said.sources),
        f"{said.attribute}: {'not ' if said.negated else ''}{' '.join(said.value.split())}{pinned}",
    )


def _print(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that no width cuts: its places are what other commands take."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head) - 1)]
    console = show.stdout()
    for row in (head, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        line = "  ".join([*cells, row[-1]])
        console.print(Text(line, style="bold" if row is head else ""), soft_wrap=True)
