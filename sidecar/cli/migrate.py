"""``standpipe migrate``: make or update a record store's schema, with a role that may."""

from __future__ import annotations

import asyncio

import click

from sidecar import config
from sidecar.cli import show


@click.command()
@click.option(
    "--record",
    required=True,
    envvar=f"{config.ENV_PREFIX}RECORD",
    metavar="postgresql://…",
    help=f"The database, as a role that may change it; also {config.ENV_PREFIX}RECORD.",
)
@click.option("--dry-run", is_flag=True, help="Say what is missing, and change nothing.")
@click.option("--grant-to", multiple=True, metavar="ROLE", help="A role that sidecars log in with; repeatable.")
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="NAME",
    help="A tenant that these roles may be, and no other; repeatable. '*' ends that: they may be any again.",
)
def migrate(record: str, dry_run: bool, grant_to: tuple[str, ...], tenants: tuple[str, ...]) -> None:
    """Bring a PostgreSQL database's schema up to this release.

    Sidecars do it by themselves when they start, if their role may; with record_migrate off they ask for this command.
    It may run while sidecars of the release before serve, and twice at once. The database needs pgvector, which a
    superuser creates: CREATE EXTENSION vector. SQLite files are brought up to date when they are opened.
    """
    if not record.startswith(("postgresql://", "postgres://")):
        show.fail("--record must be postgresql://…: a SQLite file is brought up to date when it is opened")
    if tenants and not grant_to:
        show.fail("--tenant says what a role may be: name the role with --grant-to")
    from sidecar import validate
    from sidecar.stores.postgres import ANY_TENANT
    from sidecar.stores.postgres import migrate as run

    if tenants != (ANY_TENANT,):
        for tenant in tenants:
            validate.identifier(tenant, "tenant")
    parts = asyncio.run(run(record, dry_run=dry_run, grant_to=grant_to, tenants=tenants))
    out = show.stdout()
    for number, kind in parts:
        out.print(f"{'missing' if dry_run else 'done'}: {kind} {number}")
    if not parts:
        out.print("the schema is that of this release")
    if not dry_run:
        for role in grant_to:
            bound = f", for {', '.join(tenants)} alone" if tenants and tenants != (ANY_TENANT,) else ""
            out.print(f"granted to {role}{bound}", markup=False)
