"""``standpipe subject``: erase, export and import all that is stored of a subject."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from sidecar import config
from sidecar.cli import show
from sidecar.cli.serve import flags_of, record_flags, record_settings
from sidecar.cli.target import calling, json_flag
from standpipe import sync

if TYPE_CHECKING:
    from sidecar.restore import Restored
    from sidecar.stores.record import Record
    from standpipe.v1.memory_pb2 import ErasureReceipt

_SUBJECT = click.argument("subject", metavar="SUBJECT")
_ERASE_MS = 600_000
"""How long the command waits for an erasure: what it began goes on without it."""

_RECORD = click.option("--record", required=True, metavar="ADDRESS", help="The record store.")


@click.group()
def subject() -> None:
    """Erase, export and import all that is stored of a subject."""


@subject.command()
@click.argument("subject", metavar="[SUBJECT]", default="")
@click.option("--session", default=None, metavar="ID", help="Only this session, and what was derived from it.")
@click.option("--document", default=None, metavar="ID", help="Only this document, and what was derived from it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_flag
@calling
def erase(
    client: sync.Client,
    /,
    *,
    subject: str,
    session: str | None,
    document: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase a subject for good, or one session or document of it, and print the receipt.

    Nothing brings it back but an export that was made before. Without SUBJECT, --document names one of all subjects.
    """
    if session is not None and document is not None:
        show.fail("give at most one of --session and --document")
    if not subject and document is None:
        show.fail("name the SUBJECT; only a --document may belong to all")
    if not yes:
        click.confirm("Erase it for good?", abort=True, err=True)
    found = client.memory(subject).erase(session_id=session, document_id=document, deadline_ms=_ERASE_MS)
    _show(found, as_json=as_json)


@subject.command()
@_SUBJECT
@click.option("--markdown", is_flag=True, help="One page for people, instead of lines that can be imported.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to be written; else standard output."
)
@calling
def export(client: sync.Client, /, *, subject: str, markdown: bool, output: Path | None) -> None:
    """Write all that is stored of SUBJECT, as JSON Lines that `standpipe subject import` reads, or as Markdown."""
    pages = client.memory(subject).export("markdown" if markdown else "json_lines")
    first = next(pages, b"")  # a refusal leaves no empty file behind
    with click.open_file(str(output or "-"), "wb") as file:
        file.write(first)
        for page in pages:
            file.write(page)


@record_flags
@flags_of("tenant", "hot", "models_dir", "tokenizers")
@subject.command("import")
@click.argument("file", type=click.File("rb"))
@_RECORD
def import_(file: BinaryIO, record: str, **given: Any) -> None:
    """Import FILE, an export as JSON Lines, into a record store; pods may serve it meanwhile.

    A subject that was erased begins anew by it. This deployment's own exports come back as they were; of other files
    claims wait for review, and what only the operator may say is left out. A file with an error in it is refused whole;
    an import that was broken off goes on when it is called again.
    """
    if not file.seekable():
        show.fail("FILE must be a file: it is read twice")
    with show.progress("import") as step:
        done = asyncio.run(_import(record_settings(record, given), file, step))
    console = show.stdout()
    records = f" and {done.records:,} records" if done.records else ""
    console.print(f"{done.events:,} events{records} of {done.subject} imported, {done.present:,} were there")
    if not done.signed:
        console.print(
            "not signed by this deployment: its claims wait for review"
            f" (`standpipe memory quarantine`), {done.left_out:,} other changes were left out"
        )


async def _import(settings: config.Config, file: BinaryIO, step: show.Step) -> Restored:
    from sidecar.engines import open_hot, open_record
    from sidecar.receipt import Signer
    from sidecar.restore import Restorer
    from sidecar.stores.hot import Hot
    from sidecar.tokens import Tokenizers

    record = await open_record(settings)
    try:
        hot: Hot[Any] = await open_hot(settings, record)
        try:
            tokenizers = Tokenizers(Path(settings.models_dir) / "tokenizers", settings.tokenizers)
            restorer = Restorer(
                record=record,
                hot=hot,
                counters={name: tokenizers.get(name).count for name in settings.tokenizers},
                signer=Signer(await record.signing_key()),
            )
            return await restorer.restore(settings.tenant, file, progress=lambda done: step(f"{done:,} events"))
        finally:
            await hot.close()
    finally:
        await record.close()


@record_flags
@flags_of("tenant")
@subject.command()
@click.argument("subject", metavar="[SUBJECT]", default="")
@click.option("--session", default=None, metavar="ID", help="The session that was erased.")
@click.option("--document", default=None, metavar="ID", help="The document that was erased.")
@_RECORD
@json_flag
def receipt(
    subject: str, session: str | None, document: str | None, record: str, *, as_json: bool, **given: Any
) -> None:
    """Print the receipt of an erasure again, from the record store. Erases nothing."""
    if session is not None and document is not None:
        show.fail("give at most one of --session and --document")
    found = asyncio.run(_receipt(record_settings(record, given), subject, session or "", document))
    if found is None:
        show.fail("nothing was erased under this name")
    _show(found, as_json=as_json)


async def _receipt(settings: config.Config, subject: str, session: str, document: str | None) -> ErasureReceipt | None:
    from sidecar import names
    from sidecar.engines import open_record
    from sidecar.erasure import receipt_of
    from sidecar.receipt import Signer
    from sidecar.stores.record import Erasure, ErasureRead

    whose = subject or names.EVERYONE
    log = session if document is None else names.document_log(whose, document)
    record: Record = await open_record(settings)
    try:
        (found,) = await record.fetch([ErasureRead(tenant=settings.tenant, subject=whose, session=log)])
        return receipt_of(found, Signer(await record.signing_key())) if isinstance(found, Erasure) else None
    finally:
        await record.close()


def _show(found: ErasureReceipt, *, as_json: bool) -> None:
    if as_json:
        click.echo(show.message(found))
        return
    what = f"subject {found.subject_id}" if found.subject_id else "all subjects"
    part = found.session_id or found.document_id
    if part:
        what = f"{'session' if found.session_id else 'document'} {part} of {what}"
    show.facts(
        show.stdout(),
        [
            ("erased", what),
            ("asked", f"{show.time(found.asked_at)} UTC"),
            ("done", f"{show.time(found.done_at)} UTC" if found.HasField("done_at") else "not yet"),
            ("logs", f"{found.logs:,}"),
            ("events", f"{found.events:,}"),
            ("items", f"{found.items:,}"),
            ("redacted", f"{found.events_redacted:,} events of other logs"),
            ("keys", f"{found.keys:,}"),
            ("records", f"{found.state_records:,} of its state"),
            ("signature", found.signature.hex()),
        ],
    )
