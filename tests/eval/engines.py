"""The whole evaluation on every pair of engines, and its bundles compared: `python -m tests.eval.engines DATA`.

Whatever a pair of engines serves must be the same to the byte (P6). Texts are embedded once for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sidecar.evaluation.evaluate import Remembering, evaluate
from sidecar.evaluation.measured import Options
from sidecar.model import Model
from tests.servers import Postgres, Redis

PAIRS = (("sqlite", "memory"), ("postgresql", "redis"), ("sqlite", "redis"), ("postgresql", "memory"))


async def measure(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Evaluate on each pair; return the digests that each gave, a line a bundle, and a line of checks that failed."""
    found = {}
    common = Options(arguments.models_dir, conversations_max=arguments.conversations, questions_max=arguments.questions)
    embedder = Remembering(Model.open(arguments.models_dir / common.embedder))
    with Postgres() as postgres, Redis() as redis:
        for record, hot in PAIRS:
            name = f"{record}+{hot}"
            options = replace(
                common,
                record=postgres.dsn(postgres.create_database()) if record == "postgresql" else "",
                hot=redis.url if hot == "redis" else hot,
            )
            out = arguments.out / name
            print(f"--- {name}", flush=True)
            figures = await evaluate(arguments.data, out, options, console=Console(), embedder=embedder)
            found[name] = (out / "bundles.sha256").read_text().splitlines()
            found[name] += [] if figures["deterministic"] else ["a restart, a rebuild or a replay gave other bytes"]
    return found


def main() -> int:
    """Return 0 if all pairs served the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/engines"))
    parser.add_argument("--models-dir", type=Path, default=Path(".cache/models"))
    parser.add_argument("--conversations", type=int, help="the first N of each set")
    parser.add_argument("--questions", type=int, help="the first N of each conversation")
    found = asyncio.run(measure(parser.parse_args()))
    first = next(iter(found.values()))
    print(f"{len(first)} bundles on each of {', '.join(found)}:")
    different = 0
    for name, lines in found.items():
        odd = sorted(set(first) ^ set(lines))
        different += len(odd)
        print(f"  {name}: {len(lines)} bundles, {len(odd)} lines differ", *odd[:20], sep="\n    ")
    return 1 if different or not first or any(line.startswith("none") for line in first) else 0


if __name__ == "__main__":
    raise SystemExit(main())
