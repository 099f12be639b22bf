"""The command line, one noun a file. How things look is `show`, how they fail is `failure`.

A command's file is imported when it is called: a probe does not wait for tables. What is heavy in it is imported when
it runs: `standpipe --help` loads neither numpy nor a tokenizer.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

COMMANDS: Mapping[str, str] = {
    "serve": "serve.serve",
    "embed": "embed.embed",
    "work": "work.work",
    "health": "health.health",
    "doctor": "doctor.doctor",
    "smoke": "smoke.smoke",
    "demo": "demo.demo",
    "model": "model.model",
    "policy": "policy.policy",
    "memory": "memory.memory",
    "hydrate": "session.hydrate",
    "commit": "session.commit",
    "events": "session.events",
    "replay": "session.replay",
    "info": "session.info",
    "mcp": "mcp.mcp",
    "parked": "work.parked",
    "migrate": "migrate.migrate",
    "keys": "keys.keys",
    "subject": "subject.subject",
    "rebuild": "rebuild.rebuild",
    "eval": "evaluate.evaluate",
}
"""Where each is: its file, and its name there. They are listed in this order."""


class _Root(click.Group):
    """Finds a command's file, and prints the error of one that failed as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            from sidecar.cli import failure, show

            if not isinstance(error, failure.ERRORS):
                raise
            show.stderr().print(failure.line(error), style="red", soft_wrap=True, markup=False)
            ctx.exit(failure.exit_code(error))

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        file, _, name = COMMANDS[cmd_name].partition(".")
        found = getattr(importlib.import_module(f"sidecar.cli.{file}"), name)
        assert isinstance(found, click.Command)
        return found


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="standpipe", prog_name="standpipe")
def cli() -> None:
    """Standpipe, the context sidecar for LLM pods: hydrate, commit, replay.

    Exit codes: 0 done, 1 the call or the check failed, 2 usage or configuration.
    """
