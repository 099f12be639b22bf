"""``standpipe policy``: publish, list, get, route; check offline."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from sidecar.cli import show
from sidecar.cli.model import models_dir
from sidecar.cli.target import calling, json_flag
from standpipe import sync
from standpipe.v1.policy_pb2 import ListPoliciesResponse

_DOCUMENT = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def policy() -> None:
    """Publish and check what bundles may hold, and route to it."""


@policy.command()
@click.argument("files", nargs=-1, required=True, type=_DOCUMENT)
@calling
def publish(client: sync.Client, /, *, files: tuple[Path, ...]) -> None:
    """Publish documents, each as a new version of the policy that it names."""
    for path in files:
        done = client.policies.publish(_read(path))
        news = "published" if done.created else "unchanged"
        show.stdout().print(f"{done.policy.name}@{done.policy.version}  {news}  {path}", soft_wrap=True)


@policy.command("list")
@json_flag
@calling
def list_all(client: sync.Client, /, *, as_json: bool) -> None:
    """List all versions and routes."""
    found: ListPoliciesResponse = client.policies.list()
    if as_json:
        click.echo(show.message(found))
        return
    routes: dict[tuple[str, int], list[str]] = {}
    for one in found.routes:
        routes.setdefault((one.policy_name, one.policy_version), []).append(one.name)
    table = show.grid(head=("policy", "published (UTC)", "digest", "routes"))
    for version in found.policies:
        table.add_row(
            f"{version.name}@{version.version}",
            show.time(version.published_at),
            version.digest.hex()[:12],
            Text(", ".join(routes.pop((version.name, version.version), [])), style="green"),
        )
    for (name, number), names in routes.items():  # the built-in version is in no store
        table.add_row(f"{name}@{number}", "built in", "", Text(", ".join(names), style="green"))
    console = show.stdout()
    console.print(table if table.row_count else "no policy yet: the built-in default@0 serves the route default")


@policy.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(0), metavar="N", help="Left out, the latest.")
@json_flag
@calling
def get(client: sync.Client, /, *, name: str, version: int | None, as_json: bool) -> None:
    """Print a version's document, as it was published."""
    found = client.policies.get(name, version)
    click.echo(show.message(found) if as_json else found.document_yaml, nl=as_json)


@policy.command()
@click.argument("name")
@click.argument("policy_version", metavar="POLICY@VERSION")
@calling
def route(client: sync.Client, /, *, name: str, policy_version: str) -> None:
    """Point the route NAME at a policy's version, at once for every later hydrate."""
    policy_name, _, version = policy_version.rpartition("@")
    if not policy_name or not version.isdigit():
        show.fail(f"{policy_version!r} is not POLICY@VERSION, such as support@3")
    done = client.policies.set_route(name, policy_name, int(version))
    show.stdout().print(f"{done.name} -> {done.policy_name}@{done.policy_version}")


@policy.command()
@click.argument("file", type=_DOCUMENT)
@models_dir
def check(file: Path, directory: Path) -> None:
    """Check a document without a server, and show what it allows."""
    from sidecar import bundle
    from sidecar.policy import SOURCES, allocate, parse
    from sidecar.tokens import Tokenizers

    tokenizers = Tokenizers(directory / "tokenizers")
    found = parse(_read(file), version=0, tokenizers=tokenizers)
    frames = bundle.Frames(tokenizers.get(found.tokenizer).count)
    prompt_tokens = sum(piece.tokens for piece in bundle.prompts(found, frames))
    allowed = allocate(found, prompt_tokens=prompt_tokens, total_tokens=None, caps={}, include=frozenset())
    console = show.stdout()
    console.print(f"{found.name} is good: {found.budget_tokens:,} tokens of {found.tokenizer}")
    caps = [(name, allowed.caps[of]) for name, of in SOURCES.items()]
    rows = [(name, f"at most {cap:,}" if cap else "none") for name, cap in caps]
    show.facts(console, [("prompts", f"{prompt_tokens:,}, always"), *rows])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8") from None
