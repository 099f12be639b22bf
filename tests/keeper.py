"""End what a test run started, also if the run was killed: waits on its standard input, and cleans up when it closes.

One line a message: `run PID`, `end PID`, `make DIRECTORY`, `gone DIRECTORY`, `undo COMMAND`, `undone COMMAND`. Commands
are run from the last to the first, after the processes have ended and before the directories go.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import psutil


def alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie waits for its parent alone, which may be waiting for us."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Keep the books until the run is over, then kill and remove what is left."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    running: dict[str, psutil.Process] = {}
    directories: set[str] = set()
    commands: dict[str, None] = {}
    for line in sys.stdin:
        order, _, what = line.rstrip("\n").partition(" ")
        if order == "run":
            with contextlib.suppress(psutil.NoSuchProcess):
                running[what] = psutil.Process(int(what))  # it knows when a pid has been given to another process
        elif order == "end":
            running.pop(what, None)
        elif order == "make":
            directories.add(what)
        elif order == "undo":
            commands[what] = None
        elif order == "undone":
            commands.pop(what, None)
        else:
            directories.discard(what)
    killed: list[psutil.Process] = []
    for process in running.values():
        with contextlib.suppress(psutil.Error):
            killed += [process, *process.children(recursive=True)]
    for one in killed:
        with contextlib.suppress(psutil.Error):
            one.kill()
    give_up = time.monotonic() + 10
    while any(alive(one) for one in killed) and time.monotonic() < give_up:
        time.sleep(0.01)
    for command in reversed(commands):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(shlex.split(command), capture_output=True, check=False, timeout=60)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
