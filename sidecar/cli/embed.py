"""``standpipe embed``: an embedder for many sidecars, as a process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from sidecar import config
from sidecar.cli.serve import flags_of, until_stopped

_SETTINGS = (
    "listen",
    "listen_json",
    "tls_cert_file",
    "tls_key_file",
    "tls_client_ca_file",
    "http",
    "models_dir",
    "embedder",
    "precision",
    "embedder_before",
    "device",
    "gpu_memory_bytes",
    "embed_threads",
    "reflection",
    "log_level",
    "drain_ms",
)


@flags_of(*_SETTINGS)
@click.command()
@click.option("--config", "path", metavar="FILE", help=f"A YAML file of settings; also {config.CONFIG_VARIABLE}.")
def embed(*, path: str | None, **given: Any) -> None:
    """Serve embeddings to sidecars that name this process in `embedder_address`, until SIGTERM or SIGINT.

    It takes those settings of `serve` that are about models, sockets and logs, from the same places, and needs no
    record store and no keys. With --embedder-before both models are served, while sidecars move from one to the other.
    Whoever may reach it may embed, unless --tls-client-ca-file says whose certificates may. Logs go to stderr, one
    JSON object a line.
    """
    asyncio.run(_run(config.load(path=path, environment=os.environ, flags=given)))


async def _run(settings: config.Config) -> None:
    from sidecar.embed_server import EmbedServer

    await until_stopped(EmbedServer, settings)
