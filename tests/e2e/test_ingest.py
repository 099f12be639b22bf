"""`standpipe memory ingest` in bulk, against real servers: killed on either side, all is there, and nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click.testing
import pytest

from sidecar import limits, names
from sidecar.cli.memory_ingest import ingest
from sidecar.config import Config
from sidecar.engines import open_record
from sidecar.stores.record import ItemKind, Record, ScopeRead, ScopeState
from standpipe import errors
from tests import keys
from tests.e2e.pods import MODEL, MODELS, ROOT, Fleet, Local, until

DOCUMENTS = 2000
SUBJECTS = ("", "ana", "ben")


def written(directory: Path) -> list[Path]:
    """Write the documents: a quarter as files, the others as lines, of everybody and of two subjects."""
    notes = directory / "notes"
    for number in range(DOCUMENTS // 4):
        path = notes / f"part-{number % 10}" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Note {number}. The keeper of lighthouse {number} writes down the weather every evening.")
    with (directory / "more.jsonl").open("w") as lines:
        for number in range(DOCUMENTS // 4, DOCUMENTS):
            row = {
                "document_id": f"more/{number}",
                "title": f"More {number}",
                "text": f"Entry {number}. Boat {number} was painted blue in its {number}th year.",
                "subject": SUBJECTS[number // 100 % 3],
            }
            print(json.dumps(row), file=lines)
    return [notes, directory / "more.jsonl"]


def documents_of(subject: str) -> int:
    """Return how many documents of a subject there are."""
    lines = sum(SUBJECTS[number // 100 % 3] == subject for number in range(DOCUMENTS // 4, DOCUMENTS))
    return lines + (DOCUMENTS // 4 if not subject else 0)


async def start(target: str, paths: Sequence[Path], journal: Path) -> asyncio.subprocess.Process:
    """Start the command."""
    flags = ["memory", "ingest", *map(str, paths), "--target", target, "--journal", str(journal)]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", *flags),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A shell that starts the tests in the background has it ignored, and that is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def lines_of(journal: Path) -> int:
    """Return how many documents a journal knows."""
    return len(journal.read_bytes().splitlines()) - 1 if journal.is_file() else 0


async def memory(record: Record, subject: str, model: str) -> ScopeState:
    """Return all of a subject's memory."""
    (state,) = await record.fetch([ScopeRead(tenant="default", subject=subject or names.EVERYONE, model=model)])
    assert isinstance(state, ScopeState)
    return state


@pytest.mark.timeout(240)
async def test_ingestion_killed_on_both_sides_is_whole(fleet: Fleet, tmp_path: Path) -> None:
    """P1, P3: client and server are killed in the middle; run again, every document is there once, at one version, its
    chunks at positions of their own, and all of them get their vectors.
    """
    paths, journal, sock = written(tmp_path), tmp_path / "journal", tmp_path / "s.sock"
    target = f"unix:{sock}"
    settings = {"listen": (target,), "embedder": MODEL, "models_dir": str(MODELS)}
    server = await fleet.start(**settings)

    async def known(count: int) -> None:
        async def enough() -> bool:
            return lines_of(journal) >= count

        await until(enough, seconds=60)

    client = await start(target, paths, journal)
    await known(200)
    client.kill()
    await client.communicate()
    client = await start(target, paths, journal)
    await known(lines_of(journal) + 300)
    server.kill()
    await asyncio.sleep(0.5)
    await server.start()
    out, log = await client.communicate()
    assert client.returncode == 0, (out, log)
    rows = dict(line.rsplit(maxsplit=1) for line in out.decode().splitlines())
    assert rows["documents"] == f"{DOCUMENTS:,}"
    assert int(rows["in the journal"].replace(",", "")) >= 200
    again = await start(target, paths, journal)
    out, _ = await again.communicate()
    assert again.returncode == 0
    assert dict(line.rsplit(maxsplit=1) for line in out.decode().splitlines())["in the journal"] == f"{DOCUMENTS:,}"

    record = await open_record(Config(record=f"sqlite:{fleet.record}", encryption_keys_file=keys.key_file()))
    try:
        pod = fleet.pod(server, target=target)

        async def embedded() -> bool:
            return not (await pod.info()).projection_lag_items

        await until(embedded, seconds=120)  # the orders of the server that was killed lie still for a lease
        model = (await pod.info()).embedding.model_id
        for subject in SUBJECTS:
            found = await memory(record, subject, model)
            assert [item.position for item in found.items] == list(range(1, found.position + 1))
            documents = [item for item in found.items if item.kind == ItemKind.DOCUMENT]
            assert len({(item.session, item.entry, item.chunk) for item in documents}) == len(documents)
            assert {item.version for item in documents} == {1}
            assert len({item.session for item in documents}) == documents_of(subject)
            assert found.vector_position == found.position == len(found.vectors)
    finally:
        await record.close()


async def invoke(pod: Local, *arguments: str, stdin: bytes = b"") -> click.testing.Result:
    """Run the command against a server of this process."""
    flags = ["--target", pod.target, *arguments]
    return await asyncio.to_thread(click.testing.CliRunner().invoke, ingest, flags, input=stdin)


async def test_what_is_refused_is_listed_at_the_end(pod: Local, tmp_path: Path) -> None:
    """Each in a line with its place and field, the others are ingested, the exit code is 1; a dry run sends nothing."""
    (tmp_path / "good.md").write_text("A good note.")
    (tmp_path / "bad.md").write_bytes(b"\xff")
    (tmp_path / "rows.jsonl").write_text('{"document_id": "row", "text": "A row."}\n{"document_id": "x"}\n')
    dry = await invoke(pod, str(tmp_path), "--dry-run")
    assert dry.exit_code == 1
    assert "ingested 0" in " ".join(dry.output.split())
    done = await invoke(pod, str(tmp_path), "--subject", "ana")
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert f"refused: {tmp_path}/bad.md: it is not UTF-8" in said
    assert f"refused: {tmp_path}/rows.jsonl:2: INVALID_FIELD in text: must not be blank" in said
    assert "documents 4" in said
    assert "ingested 2" in said
    piped = await invoke(pod, "-", "--subject", "ana", stdin=b'{"document_id": "row", "text": "A row."}\n')
    assert piped.exit_code == 0, piped.output
    assert "there already 1" in " ".join(piped.output.split())


async def test_an_interrupted_ingestion_says_how_to_go_on(fleet: Fleet, tmp_path: Path) -> None:
    """SIGINT ends it within a moment: what was acknowledged is in the journal, and the same command does the rest."""
    paths, journal = written(tmp_path), tmp_path / "journal"
    server = await fleet.start()
    target = f"127.0.0.1:{server.port}"
    client = await start(target, paths, journal)

    async def begun() -> bool:
        return lines_of(journal) >= 32

    await until(begun)
    client.send_signal(signal.SIGINT)
    out, _ = await client.communicate()
    assert client.returncode == 1
    assert b"the same command goes on from there" in out
    acknowledged = lines_of(journal)
    assert 32 <= acknowledged < DOCUMENTS
    client = await start(target, paths, journal)
    out, _ = await client.communicate()
    assert client.returncode == 0
    rows = dict(line.rsplit(maxsplit=1) for line in out.decode().splitlines())
    assert rows["in the journal"].replace(",", "") == str(acknowledged)
    assert lines_of(journal) == DOCUMENTS


async def test_a_call_ends_at_its_deadline(pod: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: after ingest_call_ms a call is over; a server that never answered in time is not asked again."""
    (tmp_path / "note.md").write_text("word " * 100_000)
    monkeypatch.setattr(limits, "ingest_call_ms", 1)
    late = await invoke(pod, str(tmp_path))
    assert isinstance(late.exception, errors.DeadlineExceeded)
    assert "the same command goes on from there" in late.output


async def test_calls_in_flight_are_bounded(pod: Local, tmp_path: Path) -> None:
    """At most ingest_calls_max; more is a usage error."""
    over = await invoke(pod, str(tmp_path), "--concurrency", str(limits.ingest_calls_max + 1))
    assert over.exit_code == 2
    assert "--concurrency" in over.output
