"""``standpipe doctor``: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from sidecar import config as configuration
from sidecar.cli import show
from sidecar.cli.serve import setting_flags
from sidecar.cli.target import json_flag
from sidecar.errors import ConfigInvalid
from sidecar.finding import Outcome, failed, ok

if TYPE_CHECKING:
    from sidecar.doctor import Areas

_STYLES = {Outcome.OK: "green", Outcome.WARNING: "yellow", Outcome.FAILED: "red", Outcome.SKIPPED: "bright_black"}


@setting_flags
@click.command(epilog="Exit codes: 0 nothing failed, 1 something did.")
@click.option(
    "--config", "path", metavar="FILE", help=f"A YAML file of settings; also {configuration.CONFIG_VARIABLE}."
)
@json_flag
@click.pass_context
def doctor(ctx: click.Context, /, *, path: str | None, as_json: bool, **flags: Any) -> None:
    """Examine the deployment that the settings describe: they are those of `standpipe serve`.

    It changes nothing: run it beside sidecars that serve, as their user and with their settings.
    """
    found: Areas = {}
    try:
        settings = configuration.load(path=path, environment=os.environ, flags=flags)
    except ConfigInvalid as error:
        advice = "Correct it; `standpipe serve --help` lists the settings."
        found["settings"] = [failed(error.field or "settings", error.message, advice)]
    else:
        from sidecar.doctor import examine

        found["settings"] = [ok("settings", f"tenant {settings.tenant}, served at {', '.join(settings.listen)}")]
        with show.progress("doctor") as step:
            found |= asyncio.run(examine(settings, progress=step))
    outcomes = [one.outcome for findings in found.values() for one in findings]
    if as_json:
        checks = [
            {"area": area, "check": one.check, "outcome": one.outcome, "found": one.found, "advice": one.advice}
            for area, findings in found.items()
            for one in findings
        ]
        click.echo(
            json.dumps({"failed": outcomes.count(Outcome.FAILED), "checks": checks}, ensure_ascii=False, indent=2)
        )
    else:
        _print(show.stdout(), found)
        counts = ", ".join(f"{outcomes.count(one)} {one}" for one in Outcome if one in outcomes)
        show.stdout().print(f"\n{counts}")
    ctx.exit(1 if Outcome.FAILED in outcomes else 0)


def _print(console: Console, found: Areas) -> None:
    width = max(len(one.check) for findings in found.values() for one in findings)
    for area, findings in found.items():
        show.heading(console, area)
        table = show.grid()
        table.add_column(no_wrap=True, width=7)
        table.add_column(no_wrap=True, width=width)
        table.add_column(overflow="fold")
        for one in findings:
            style = _STYLES[one.outcome]
            table.add_row(Text(one.outcome, style=style), one.check, Text(one.found))
            if one.advice:
                table.add_row("", "", Text(one.advice, style=style))
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
