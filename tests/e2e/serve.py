"""Run one server in a process of its own: `python -m tests.e2e.serve CONFIG.json`.

Prints one JSON line with its ports when it is ready, and serves until SIGTERM, or until its parent is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from sidecar.config import Config
from sidecar.server import Server


async def serve(settings: dict) -> None:
    """Serve until it is told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    parent = os.getppid()
    async with Server(Config(**{**settings, "listen": tuple(settings["listen"])})) as server:
        print(json.dumps({"ports": server.ports, "http_port": server.http_port}), flush=True)
        while not stop.is_set() and os.getppid() == parent:
            try:
                async with asyncio.timeout(1.0):
                    await stop.wait()
            except TimeoutError:
                continue


if __name__ == "__main__":
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text())))
