"""The command ``standpipe``; a light client install, which lacks what it needs, is told so in one line."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the call or the check failed, 2 usage or configuration."""
    # gRPC's core would write plain text to stderr; its errors reach us anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from sidecar.cli import cli  # noqa: PLC0415  # its dependencies may be missing

        cli(prog_name="standpipe")
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", "sidecar", "standpipe"):
            raise
        print(f'error: {name} is not installed, run: pip install "standpipe[sidecar]"', file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
