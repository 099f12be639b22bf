"""``standpipe mcp``: a subject's memory for whatever speaks the Model Context Protocol, over a running server."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import show
from sidecar.cli.target import CONNECTION, connection_flags
from sidecar.errors import ConfigInvalid

if TYPE_CHECKING:
    from mcp.server import MCPServer

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Address(click.ParamType[tuple[str, int]]):
    """A port of the loopback interface."""

    name = "address"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Read HOST:PORT."""
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        host = host.strip("[]")
        if host not in LOOPBACK or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            self.fail(f"{value!r} is not an address of this machine's own, such as 127.0.0.1:7470", param, ctx)
        return host, int(port)


@click.command()
@click.option(
    "--subject", envvar="STANDPIPE_SUBJECT", required=True, show_envvar=True, help="Whose memory it is: no tool says."
)
@click.option(
    "--session",
    envvar="STANDPIPE_SESSION",
    default="",
    show_envvar=True,
    help="Where what is remembered is committed; left out, each start has a session of its own.",
)
@click.option(
    "--route", envvar="STANDPIPE_ROUTE", default="", show_envvar=True, help='The route; left out, it is "default".'
)
@click.option(
    "--http",
    type=_Address(),
    metavar="HOST:PORT",
    help="Serve streamable HTTP at /mcp on this loopback address, to every process of the machine, and not standard "
    "input and output.",
)
@connection_flags
def mcp(*, subject: str, session: str, route: str, http: tuple[str, int] | None, **given: Any) -> None:
    """Serve the memory of one subject to an agent: hydrate, remember, correct, forget, search.

    An agent's host starts it and speaks to it over standard input and output. Tenant, subject, session and route are
    fixed here; no tool can name another. What an agent asks to be remembered waits until a human has reviewed it, with
    `standpipe memory quarantine` and `review`.
    """
    if importlib.util.find_spec("mcp") is None:
        raise ConfigInvalid("standpipe mcp needs the package mcp: pip install 'standpipe[mcp]'")
    from standpipe import connect
    from standpipe.adapters import mcp as adapter

    async def serve() -> None:
        try:
            client = connect(**{name: given[name] for name in CONNECTION})
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        async with client:
            await _runs(adapter.server(client, subject=subject, session=session, route=route), http)()

    if http or sys.stdin.isatty():
        where = (
            "http://{}:{}/mcp".format(*http) if http else "standard input and output, where an agent's host starts it"
        )
        end = "Ctrl-C" if http else "Ctrl-D"
        show.stderr().print(
            f"The memory of {subject}, for agents, at {where}. {end} ends it.", markup=False, highlight=False
        )
    asyncio.run(serve())


def _runs(server: MCPServer[Any], http: tuple[str, int] | None) -> Callable[[], Any]:
    """Return what serves: nothing but the protocol goes to standard output."""
    if http is None:
        return server.run_stdio_async
    return lambda: server.run_streamable_http_async(host=http[0], port=http[1])
