"""The clients' languages: how each one's driver is built, tested and started, and the driver's line of JSON both ways.

``python -m tests.clients.languages [--test] [NAME…]`` builds the drivers, and with `--test` runs the packages' own
tests. What tests ask for here skips where a toolchain is missing or nothing was built, and fails in CI.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests import expects

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
ANSWER_S = 60.0
"""How long a driver may take for one command, with a debugger's and a race detector's patience."""


@dataclass(frozen=True)
class Language:
    """One language's package."""

    name: str
    directory: Path
    """Where its commands run."""
    start: tuple[str, ...]
    """The driver's command."""
    build: tuple[tuple[str, ...], ...] = ()
    """What makes the driver, one command after another; each may be repeated, and is quick then."""
    test: tuple[tuple[str, ...], ...] = ()
    """The package's own tests, and its own checks."""
    needs: tuple[str, ...] = ()
    """Programs of the toolchain."""
    built: str = ""
    """A file of `directory` that is there once the driver was built."""
    measured: tuple[str, ...] = ()
    """The driver's command where its speed is looked at, if that is another."""
    example: tuple[str, ...] = ()
    """The example's command: a chat with an OpenAI-compatible model."""
    environment: dict[str, str] = field(default_factory=dict)


LANGUAGES = {
    one.name: one
    for one in (
        Language(
            name="python",
            directory=ROOT,
            start=(sys.executable, "tests/clients/python/driver.py"),
            environment={"PYTHONPATH": str(CLIENTS / "python")},
        ),
        Language(
            name="go",
            directory=CLIENTS / "go",
            needs=("go",),
            build=(
                ("go", "build", "-race", "-o", "build/driver", "./internal/driver"),
                ("go", "build", "-o", "build/measured", "./internal/driver"),
                ("go", "build", "-o", "build/chat", "./examples/chat"),
            ),
            # Go does not see that the vectors changed, which are outside of the module: -count=1 takes no old result.
            test=(("go", "vet", "./..."), ("go", "test", "-race", "-count=1", "./...")),
            start=("build/driver",),
            measured=("build/measured",),
            example=("build/chat",),
            built="build/driver",
        ),
        Language(
            name="typescript",
            directory=CLIENTS / "typescript",
            needs=("node", "npm"),
            build=(("npm", "ci", "--silent", "--no-audit", "--no-fund"), ("npm", "run", "--silent", "build:test")),
            test=(("npm", "test", "--silent"),),
            start=("node", "build/test/driver.js"),
            example=("node", "build/examples/chat/chat.js"),
            built="build/test/driver.js",
        ),
        Language(
            name="java",
            directory=CLIENTS / "java",
            needs=("java", "mvn"),
            build=(
                ("mvn", "-q", "-B", "test-compile", "dependency:copy-dependencies", "-DoutputDirectory=target/lib"),
            ),
            test=(("mvn", "-q", "-B", "verify"),),
            start=("java", "-cp", "target/classes:target/test-classes:target/lib/*", "dev.standpipe.client.Driver"),
            example=("java", "-cp", "target/classes:target/lib/*", "examples/chat/Chat.java"),
            built="target/test-classes/dev/standpipe/client/Driver.class",
        ),
    )
}


def absent(language: Language) -> str:
    """Say what a language's driver lacks; empty: nothing."""
    for tool in language.needs:
        if shutil.which(tool) is None:
            return f"no {tool} on this machine"
    if language.built and not (language.directory / language.built).exists():
        return f"no driver of {language.name}: `make clients` makes it"
    return ""


def ready(name: str) -> Language:
    """Return a language whose driver can be started, or skip the test that needs it."""
    language = LANGUAGES[name]
    if why := absent(language):
        expects.missing(name, why, promised=LANGUAGES.keys())
    return language


class DriverError(Exception):
    """A command that ended in an error; `error` is what the driver said of it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('kind')}: {error.get('reason') or error.get('code')}: {error.get('message')}")
        self.error = error


class Driver:
    """A running driver. One command at a time; from any thread."""

    def __init__(self, language: Language, *, measured: bool = False) -> None:
        self.name = language.name
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            (measured and language.measured) or language.start,
            cwd=language.directory,
            env={**os.environ, **language.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, do: str, **fields: Any) -> dict[str, Any]:
        """Do one command and return what it answered. Raises DriverError."""
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            killer = threading.Timer(ANSWER_S, self._process.kill)
            killer.start()
            line = self._process.stdout.readline()
            killer.cancel()
        if not line:
            raise RuntimeError(f"the driver of {self.name} ended at {do!r}, or took longer than {ANSWER_S:g} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DriverError(answer["error"])
        return answer["ok"]  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it, as its standard input ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()
        assert status == 0, f"the driver of {self.name} ended with status {status}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """Build the drivers of all languages or of some whose toolchain is here, and test the packages."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--test", action="store_true", help="run the packages' own tests, too")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(LANGUAGES))
    arguments = parser.parse_args()
    for name in arguments.names or LANGUAGES:
        language = LANGUAGES[name]
        absent = [tool for tool in language.needs if shutil.which(tool) is None]
        if absent and os.environ.get("CI"):
            sys.exit(f"{name}: no {absent[0]} on this machine, which CI should have")
        if absent:
            print(f"{name}: skipped: no {absent[0]} on this machine")
            continue
        for command in (*language.build, *(language.test if arguments.test else ())):
            print(f"{name}: {' '.join(command)}", flush=True)
            done = subprocess.run(
                command, cwd=language.directory, env={**os.environ, **language.environment}, check=False
            )
            if done.returncode:
                sys.exit(f"{name}: `{' '.join(command)}` ended with {done.returncode}")


if __name__ == "__main__":
    main()
