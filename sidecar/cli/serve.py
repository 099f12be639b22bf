"""``standpipe serve``: the sidecar as a process."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import yaml

from sidecar import config
from sidecar.cli import show
from sidecar.cli.failure import line
from sidecar.cli.show import stderr
from sidecar.errors import StandpipeError
from sidecar.telemetry import Log

if TYPE_CHECKING:  # gRPC is imported by a command that runs
    from sidecar.sockets import Serving

C = TypeVar("C", bound=click.Command)


def setting_flags(command: C) -> C:
    """Give a command a flag for every setting."""
    return flags_of(*(setting.name for setting in dataclasses.fields(config.Config)))(command)


def flags_of(*names: str) -> Callable[[C], C]:
    """Give a command flags for some settings."""
    settings = {setting.name: setting for setting in dataclasses.fields(config.Config)}

    def give(command: C) -> C:
        for name in names:
            setting = settings[name]
            factory = setting.default_factory
            default = setting.default if factory is dataclasses.MISSING else factory()
            shown = ",".join(default) if isinstance(default, tuple) else str(default)
            kind = {bool: "true|false", int: "INT", tuple: "LIST"}.get(type(default), "TEXT")
            command.params.append(
                click.Option(
                    [f"--{name.replace('_', '-')}"],
                    metavar=kind,
                    help=f"{setting.metadata['doc']}  [default: {shown or 'empty'}]",
                )
            )
        return command

    return give


@setting_flags
@click.command(
    epilog=f"A setting is taken from its flag, else from {config.ENV_PREFIX}<SETTING> in the environment, else"
    " from the YAML file, else from its default. A LIST is comma-separated."
)
@click.option("--config", "path", metavar="FILE", help=f"A YAML file of settings; also {config.CONFIG_VARIABLE}.")
@click.option("--print-config", is_flag=True, help="Print the settings in force, as YAML, and exit.")
@click.pass_context
def serve(ctx: click.Context, /, *, path: str | None, print_config: bool, **given: Any) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Logs go to stderr, one JSON object a line."""
    try:
        settings = config.load(path=path, environment=os.environ, flags=given)
        if print_config:
            plain = {name: [*value] if isinstance(value, tuple) else value for name, value in settings.masked().items()}
            click.echo(yaml.safe_dump(plain, sort_keys=False), nl=False)
            return
        asyncio.run(_run(settings))
    except StandpipeError as error:
        stderr().print(line(error), style="red", soft_wrap=True, markup=False)
        ctx.exit(2)


record_flags = flags_of("encryption_keys_file", "encryption_keys_command", "plaintext")
"""For commands that open a record store, beside their --record."""


def record_settings(record: str, given: Mapping[str, Any]) -> config.Config:
    """Return the settings of a command that opens a record store that is there; keys may come from the environment."""
    if record.startswith("sqlite:") and not Path(record.removeprefix("sqlite:")).is_file():
        show.fail(f"{record!r} is not there")
    return config.load(environment=os.environ, flags={**given, "record": record, "record_migrate": False})


async def _run(settings: config.Config) -> None:
    from sidecar.server import Server

    await until_stopped(Server, settings)


async def until_stopped(kind: type[Serving], settings: config.Config) -> None:
    """Serve until a first SIGTERM or SIGINT, then drain."""
    stop = stopping(settings)
    async with kind(settings) as server:
        await stop.wait()
        server.telemetry.log.info("draining", drain_ms=settings.drain_ms)
    server.telemetry.log.info("stopped")


def stopping(settings: config.Config) -> asyncio.Event:
    """Prepare the process: return what a first SIGTERM or SIGINT sets, and log what libraries say as our lines."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        """End gracefully; a second signal ends at once."""
        stop.set()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(one)

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, ask)
    logging.basicConfig(handlers=[_Library(Log(level=settings.log_level))], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    return stop


class _Library(logging.Handler):
    """Writes what libraries log as our lines: where and what kind, never their words, which may hold content."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        write("library", logger=record.name, place=f"{record.module}:{record.lineno}", type=kind)
