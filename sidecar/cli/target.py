"""What the commands that call a server share: its address, the tenant, a client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import click

from standpipe import sync
from standpipe.errors import Unavailable

P = ParamSpec("P")

TARGET = "127.0.0.1:7460"
TARGET_VARIABLE = "STANDPIPE_TARGET"


def calling(command: Callable[Concatenate[sync.Client, P], None]) -> Callable[..., None]:
    """Give a command --target and --tenant, and a connected client as its first argument."""

    @click.option(
        "--target",
        envvar=TARGET_VARIABLE,
        default="127.0.0.1:7460",
        show_default=True,
        show_envvar=True,
        help="The server, as gRPC names it: host:port or unix:/path.",
    )
    @click.option("--tenant", envvar="STANDPIPE_TENANT", default="", help="The tenant; the server checks it.")
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        target, tenant = str(kwargs.pop("target")), str(kwargs.pop("tenant"))
        with sync.connect(target, tenant=tenant) as client:
            try:
                command(client, *args, **kwargs)
            except Unavailable as error:
                if not error.reason:  # gRPC's own words are about sockets
                    error.message = (
                        f"no server answers at {target}; `standpipe serve` starts one, --target names another"
                    )
                raise

    return run


json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
