"""What an application does all day, in its container of a pod: `python3 application.py WRITERS PAUSE_MS`.

It knows the client alone. Each writer has a session of its own: it hydrates, checks that it reads what was acknowledged
to it (P4), and commits one turn; a commit in doubt is sent again under its own request id until it is acknowledged.
It prints one JSON object a line: what was acknowledged, and what was refused and why.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

import standpipe
from standpipe import errors
from standpipe.turn import assistant, user


def say(**fields: object) -> None:
    """Print one line, at once."""
    print(json.dumps({"at": round(time.time(), 3), **fields}), flush=True)


async def write(client: standpipe.Client, name: str, pause_s: float) -> None:
    """Take turns in one session, for ever."""
    session = client.session(name, subject="anna")
    version, in_doubt = 0, ""
    while True:
        try:
            if not in_doubt:
                bundle = await session.hydrate("What do we know of the lighthouse?")
                assert bundle.version == version, f"{name}: {bundle.version} was read, {version} was acknowledged"
            number = version + 1
            turn = [user(f"Entry {number} of the log of {name}."), assistant(f"The lamp is lit for night {number}.")]
            in_doubt = in_doubt or f"{name}-{number}"
            done = await session.commit(turn, expected_version=version, request_id=in_doubt, deadline_ms=10_000)
        except errors.StandpipeError as error:
            say(refused=error.reason, code=error.code, commit=in_doubt)
            await asyncio.sleep(0.2)
            continue
        version, in_doubt = done.version, ""
        say(acknowledged=[name, done.version, done.request_id, done.event_hash], replayed=done.replayed)
        await asyncio.sleep(pause_s)


async def main(writers: int, pause_s: float) -> None:
    """Connect once, and write until SIGTERM, which ends a container's first process only if it asks for it.

    Whatever happens to the server, it is the same client.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit)
    async with standpipe.connect(os.environ["STANDPIPE_TARGET"]) as client:
        say(begun=os.getpid(), uid=os.getuid(), groups=os.getgroups())
        await asyncio.gather(*(write(client, f"log-{number}", pause_s) for number in range(writers)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) / 1000))
