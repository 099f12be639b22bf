"""What the commands that call a server share: its address, who calls, the tenant, a client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

if TYPE_CHECKING:  # protobuf and more, which `standpipe health` does without
    from standpipe import sync

P = ParamSpec("P")

TARGET = "127.0.0.1:7460"
TARGET_VARIABLE = "STANDPIPE_TARGET"

_Command = Callable[..., None]


def target_flag(command: _Command) -> _Command:
    """Give a command --target."""
    return click.option(
        "--target",
        envvar=TARGET_VARIABLE,
        default=TARGET,
        show_default=True,
        show_envvar=True,
        help="The server, as gRPC names it: host:port or unix:/path.",
    )(command)


def tls_flags(command: _Command) -> _Command:
    """Give a command --ca-file, --cert-file and --key-file, of its connection to host:port."""
    for name, text in (
        ("key", "The certificate's private key, as PEM."),
        ("cert", "The certificate, as PEM, for a server that asks for one."),
        ("ca", "The certificates, as PEM, one of which signed the server's: then host:port is spoken to in TLS."),
    ):
        command = click.option(
            f"--{name}-file",
            envvar=f"STANDPIPE_{name.upper()}_FILE",
            default="",
            metavar="FILE",
            show_envvar=True,
            help=text,
        )(command)
    return command


CONNECTION = ("target", "tenant", "token_file", "ca_file", "cert_file", "key_file")
"""What `connection_flags` give a command, by the names that `standpipe.connect` has for them."""


def connection_flags(command: _Command) -> _Command:
    """Give a command --target, --tenant and who calls."""
    command = tls_flags(command)
    command = click.option(
        "--token-file",
        envvar="STANDPIPE_TOKEN_FILE",
        default="",
        metavar="FILE",
        show_envvar=True,
        help="A bearer token, on the file's first line, for a server that asks for one.",
    )(command)
    command = click.option("--tenant", envvar="STANDPIPE_TENANT", default="", help="The tenant; the server checks it.")(
        command
    )
    return target_flag(command)


def calling(command: Callable[Concatenate[sync.Client, P], None]) -> _Command:
    """Give a command `connection_flags`, and a connected client as its first argument."""

    @connection_flags
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from standpipe import sync
        from standpipe.errors import Unavailable

        given: dict[str, Any] = {name: str(kwargs.pop(name)) for name in CONNECTION}
        try:
            client = sync.connect(**given)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        with client:
            try:
                command(client, *args, **kwargs)
            except Unavailable as error:
                if not error.reason:  # gRPC's own words are about sockets
                    how = " in TLS as --ca-file, --cert-file and --key-file say" if given["ca_file"] else ""
                    error.message = (
                        f"no server answers at {given['target']}{how};"
                        " `standpipe serve` starts one, --target names another"
                    )
                raise

    return run


json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
