"""Files that are mounted into a pod, and taken up anew when they change, without a restart.

An orchestrator changes a mounted file by swapping a symlink: a reader may see the old of one file and the new of its
neighbour. So files that belong together are read until two readings agree, and what is wrong is read once more. What
is wrong then leaves in force what was read before: a typing error must not end what is served.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from sidecar import limits
from sidecar.errors import ConfigInvalid
from sidecar.telemetry import Telemetry

T = TypeVar("T")

_AGAIN_S = 0.05
"""After which what did not fit is read once more: the swap of a symlink is over by then."""

_READINGS_MAX = 5


class Mounted(Generic[T]):
    """What some files say together. `value` is replaced and never changed, so that any thread may read it."""

    def __init__(self, paths: Sequence[str], parse: Callable[..., T], *, setting: str, telemetry: Telemetry) -> None:
        """`parse` takes the bytes of each file. It raises ConfigInvalid for what is wrong, and so does this."""
        self._paths = [Path(path) for path in paths]
        self._parse = parse
        self._setting = setting
        self._telemetry = telemetry
        self._wrong = ""
        contents = self._read()
        self._seen = _digest(contents)
        self.value = parse(*contents)

    def look(self) -> None:
        """Take the files up anew if they changed. It blocks for as long as they take to read."""
        try:
            try:
                self._take_up()
            except ConfigInvalid:
                time.sleep(_AGAIN_S)
                self._take_up()
        except Exception as error:  # whatever it is, the next look may find it mended
            problem = error.message if isinstance(error, ConfigInvalid) else type(error).__name__
            if problem != self._wrong:
                self._wrong = problem
                self._telemetry.mounted_refused.labels(self._setting).inc()
                self._telemetry.log.error(  # noqa: TRY400 - the words are ours
                    "changed files refused", setting=self._setting, problem=problem
                )
        else:
            self._wrong = ""

    def _take_up(self) -> None:
        contents = self._read()
        seen = _digest(contents)
        if seen != self._seen:
            self.value = self._parse(*contents)
            self._seen = seen
            self._telemetry.mounted_taken_up.labels(self._setting).inc()
            self._telemetry.log.info("changed files taken up", setting=self._setting)

    def _read(self) -> list[bytes]:
        """Read all files until two readings agree: then they are of one time."""
        before, contents = None, self._read_once()
        for _ in range(_READINGS_MAX):
            if contents == before:
                break
            before, contents = contents, self._read_once()
        return contents

    def _read_once(self) -> list[bytes]:
        return [read(path, self._setting) for path in self._paths]


def read(path: Path, setting: str) -> bytes:
    """Return a mounted file's bytes. Raises ConfigInvalid, with the setting that names it."""
    try:
        with path.open("rb") as file:
            content = file.read(limits.mounted_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        problem = error.strerror if isinstance(error, OSError) else "it is no path"
        raise ConfigInvalid(f"{path} cannot be read: {problem}", field=setting) from None
    if len(content) > limits.mounted_bytes:
        raise ConfigInvalid(f"{path} must have at most {limits.mounted_bytes} bytes", field=setting)
    return content


async def follow(*files: Mounted[T]) -> None:
    """Look after files until cancelled."""
    while True:
        await asyncio.sleep(limits.mounted_look_s)
        for one in files:
            await asyncio.to_thread(one.look)


def _digest(contents: Sequence[bytes]) -> list[bytes]:
    return [hashlib.sha256(content).digest() for content in contents]
