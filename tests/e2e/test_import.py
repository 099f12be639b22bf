"""`standpipe memory import` against a server: twice is once, what broke off goes on, and errors are told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click.testing
import pytest

import standpipe
from sidecar.cli.memory_import import import_
from standpipe.v1.turn_pb2 import Role
from tests.e2e.pods import Local
from tests.unit.test_importers import CASES, HERE

FLAGS = {"newest_first": ["--newest-first"], "prefix": ["--session", "old"]}


async def run(pod: Local, *arguments: str, **options: Any) -> click.testing.Result:
    """Run the command against a server of this process."""
    flags = ["--target", pod.target, *arguments]
    return await asyncio.to_thread(click.testing.CliRunner().invoke, import_, flags, **options)


async def log(pod: Local) -> dict[str, list[bytes]]:
    """Return every session's turns, as they are stored."""
    async with standpipe.connect(pod.target) as client:
        names = [session.session_id async for session in client.sessions()]
        return {
            name: [event.turn.SerializeToString(deterministic=True) async for event in client.session(name).events()]
            for name in names
        }


@pytest.mark.parametrize("name", CASES)
async def test_importing_twice_is_importing_once(pod: Local, name: str) -> None:
    """P3: the second import of each format says that all is there already, and the logs are what they were."""
    form, options = CASES[name]
    flags = [flag for option in options for flag in FLAGS[option]]
    arguments = (str(HERE / name), "--format", form, "--subject", "ana", *flags)
    dry = await run(pod, *arguments, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert await log(pod) == {}
    first = await run(pod, *arguments)
    assert first.exit_code == 0, first.output
    once = await log(pod)
    messages = sum(map(len, once.values()))
    assert messages
    assert ["imported", str(messages)] in [line.split() for line in first.output.splitlines()]
    second = await run(pod, *arguments)
    assert second.exit_code == 0, second.output
    rows = [line.split() for line in second.output.splitlines()]
    assert ["imported", "0"] in rows
    assert ["there", "already", str(messages)] in rows
    assert await log(pod) == once


async def test_an_import_that_broke_off_goes_on(pod: Local) -> None:
    """What a shorter file brought stays as it is, and the rest comes behind it."""
    messages = [{"role": "user", "content": f"line {number}"} for number in range(5)]
    flags = ("-", "--format", "openai", "--subject", "ana", "--session", "chat")
    await run(pod, *flags, input=json.dumps(messages[:3]))
    await run(pod, *flags, input=json.dumps(messages))
    async with standpipe.connect(pod.target) as client:
        said = [event.turn.entries[0].message.text async for event in client.session("chat").events()]
    assert said == [message["content"] for message in messages]


async def test_a_peers_memory_is_recalled_as_a_models_words(pod: Local) -> None:
    """P10: what a peer's model wrote down is recalled with the peer as its speaker, inside the fence."""
    await run(pod, str(HERE / "mem0.json"), "--format", "mem0", "--subject", "ana")
    async with standpipe.connect(pod.target) as client:
        bundle = await client.session("new", subject="ana").hydrate("Who keeps a wooden rowing boat?")
        recalled = [
            segment for section in bundle.message.sections for segment in section.segments if "rowing" in segment.body
        ]
    assert [segment.role for segment in recalled] == [Role.ROLE_ASSISTANT]
    assert "mem0" in recalled[0].header


async def test_what_the_server_refuses_is_listed(pod: Local) -> None:
    """A message over a limit is refused with its place, the others are imported, and the exit code is 1."""
    messages = [
        {"role": "user", "content": "short"},
        {"role": "user", "content": "x" * (600 << 10)},
        {"role": "assistant", "content": "short again"},
    ]
    text = "[\n" + ",\n".join(map(json.dumps, messages)) + "\n]"
    done = await run(pod, "-", "--format", "openai", "--subject", "ana", input=text)
    assert done.exit_code == 1
    assert "-, line 3, [1]: LIMIT_EXCEEDED turn.entries[0].message.text" in done.output
    assert ["imported", "2"] in [line.split() for line in done.output.splitlines()]
    assert "xxx" not in done.output


async def test_a_wrong_file_imports_nothing(pod: Local, tmp_path: Path) -> None:
    """A file with an error at its end is refused before its beginning is sent."""
    path = tmp_path / "log.json"
    path.write_text('[{"role": "user", "content": "a"},\n{"role": "robot", "content": "b"}]')
    done = await run(pod, str(path), "--format", "openai", "--subject", "ana")
    assert done.exit_code != 0
    assert await log(pod) == {}
