"""The command line, one noun a file. How things look is `show`, how they fail is `failure`.

Every command imports what is heavy when it runs: `standpipe --help` loads neither numpy nor a tokenizer.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import click

from sidecar import errors as server_errors
from sidecar.cli import (
    demo,
    doctor,
    embed,
    evaluate,
    keys,
    memory,
    migrate,
    model,
    policy,
    rebuild,
    serve,
    session,
    subject,
    work,
)
from sidecar.cli.failure import exit_code, line
from sidecar.cli.show import stderr
from standpipe import errors as client_errors


class _Root(click.Group):
    """Prints the error of a failed command as one line; lists the commands in the order given below."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (server_errors.StandpipeError, client_errors.StandpipeError) as error:
            stderr().print(line(error), style="red", soft_wrap=True, markup=False)
            ctx.exit(exit_code(error))

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(metadata.version("standpipe"), prog_name="standpipe")
def cli() -> None:
    """Standpipe, the context sidecar for LLM pods: hydrate, commit, replay.

    Exit codes: 0 done, 1 the call or the check failed, 2 usage or configuration.
    """


for command in (
    serve.serve,
    embed.embed,
    work.work,
    doctor.doctor,
    demo.demo,
    model.model,
    policy.policy,
    memory.memory,
    session.hydrate,
    session.commit,
    session.events,
    session.replay,
    session.info,
    work.parked,
    migrate.migrate,
    keys.keys,
    subject.subject,
    rebuild.rebuild,
    evaluate.evaluate,
):
    cli.add_command(command)
