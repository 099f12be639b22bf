"""``standpipe health``: whether a server is well, for probes in images without a shell; it starts quickly."""

from __future__ import annotations

import socket
from typing import Any

import click

from sidecar.cli.target import target_flag, tls_flags

HTTP = "127.0.0.1:7461"
PROBES = ("startupz", "readyz", "livez")

_SERVING = b"\x08\x01"
"""A grpc.health.v1.HealthCheckResponse that says SERVING; the request for the whole server is empty."""

_LINE_BYTES_MAX = 256


@click.command(epilog="Exit codes: 0 it is well, 1 it is not, or does not answer, 2 usage.")
@target_flag
@tls_flags
@click.option(
    "--http", metavar="ADDRESS", help=f"Ask this HTTP port instead, such as {HTTP}, which is meant with --probe alone."
)
@click.option("--probe", type=click.Choice(PROBES), help="Which page of the HTTP port; left out, it is readyz.")
@click.option(
    "--deadline-ms", type=click.IntRange(1), default=1000, show_default=True, metavar="MS", help="How long it may take."
)
@click.pass_context
def health(
    ctx: click.Context, /, *, target: str, http: str | None, probe: str | None, deadline_ms: int, **files: str
) -> None:
    """Ask a server whether it is well, without a credential: gRPC's health service, or a probe of its HTTP port."""
    if http or probe:
        address, path = http or HTTP, f"/{probe or PROBES[1]}"
        well, found = _page(address, path, deadline_ms / 1000)
    else:
        address, path = target, ""
        well, found = _check(target, deadline_ms / 1000, **files)
    click.echo(f"{address}{path}: {found}", err=not well)
    ctx.exit(0 if well else 1)


def _check(target: str, timeout_s: float, **files: str) -> tuple[bool, str]:
    """Call grpc.health.v1.Health/Check; its messages are so small that protobuf need not be loaded."""
    import grpc

    credentials = None if target.startswith("unix:") else _credentials(**files)
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    if credentials is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        channel = grpc.secure_channel(target, credentials, options=options)
    with channel:
        try:
            answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            return False, str(error.code().name)
    return answer == _SERVING, "SERVING" if answer == _SERVING else "NOT_SERVING"


def _credentials(*, ca_file: str, cert_file: str, key_file: str) -> Any:
    if not (ca_file or cert_file or key_file):
        return None
    from standpipe.credentials import tls

    try:
        found = tls(ca_file, cert_file, key_file)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return found and found.credentials


def _page(address: str, path: str, timeout_s: float) -> tuple[bool, str]:
    """Get a page, and tell whether its status is 200; every HTTP client of the library takes longer to load."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise click.UsageError(f"{address!r} is not host:port")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as link:
            link.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            with link.makefile("rb") as answer:
                line = answer.readline(_LINE_BYTES_MAX).split()
    except (OSError, OverflowError) as error:
        return False, (isinstance(error, OSError) and error.strerror) or "no answer"
    status = line[1].decode("ascii", "replace") if len(line) > 1 and line[0].startswith(b"HTTP/") else "no HTTP"
    return status == "200", status
