"""`standpipe keys`, what starts with which keys, and what is in the files of a whole deployment."""

from __future__ import annotations

import json
import re
import stat
import time
from pathlib import Path

import pytest

from sidecar.vault import new_line, parse
from tests import keys
from tests.e2e.pods import Pod, answered, said, serving, until
from tests.e2e.test_cli import Serving, run
from tests.servers import Postgres, Redis

MARKERS = [f"xq{number:04d}zj" for number in range(1000)]
MARKED = re.compile(rb"xq0[0-9]{3}")  # three bytes alone stand in every few megabytes of what is encrypted, by chance


async def filled(path: Path, file: Path) -> str:
    """Make a store with three subjects, encrypted under a file's keys; return its address."""
    async with serving(path, encryption_keys_file=str(file)) as pod:
        for subject in ("ana", "bob", "eve"):
            await pod.append(f"of-{subject}", "r", "hello", subject=subject)
    return f"sqlite:{path}"


async def test_a_rotation_by_hand(tmp_path: Path) -> None:
    """Each step of a rotation says what is so, and the old key is kept while it is needed."""
    file, old, new = tmp_path / "keys", new_line("old"), run("keys", "new", "--id", "new").stdout.strip()
    record = await filled(tmp_path / "record.db", keys.write(file, old))
    flags = ("--record", record, "--encryption-keys-file", str(file))
    assert "old: 3 subjects' keys: encrypts" in run("keys", "check", *flags).stdout

    keys.write(file, new)  # the old one was taken out too early
    done = run("keys", "check", *flags)
    assert done.returncode == 1
    assert "old: 3 subjects' keys: a subject's key is wrapped by an encryption key that is not at hand" in done.stdout
    assert run("keys", "rotate", *flags).returncode == 1
    assert run("rebuild", *flags).returncode == 2

    keys.write(file, new, old)
    done = run("keys", "check", *flags)
    assert done.returncode == 0
    assert "old: 3 subjects' keys: needed until `standpipe keys rotate`" in done.stdout
    assert run("keys", "rotate", *flags).stdout == "3 of 3 subjects' keys wrapped anew\n"
    assert run("keys", "rotate", *flags).stdout == "0 of 3 subjects' keys wrapped anew\n"
    assert "old: 0 subjects' keys: not needed any more" in run("keys", "check", *flags).stdout

    keys.write(file, new)
    assert run("keys", "check", *flags).stdout == "new: 3 subjects' keys: encrypts\n"
    assert "3 sessions, 3 events" in run("rebuild", *flags).stdout


def test_a_new_key_has_no_odd_name() -> None:
    """An id of other characters is a usage error, and without one each key has a name of its own."""
    assert run("keys", "new", "--id", "a b").returncode == 2
    assert run("keys", "new").stdout != run("keys", "new").stdout


def test_a_new_key_goes_into_a_file(tmp_path: Path) -> None:
    """A file is made for its owner alone; a key goes behind those that are there, and never twice under one name."""
    file = tmp_path / "keys"
    assert run("keys", "new", "--to", str(file), "--id", "first").stdout == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text().rstrip())
    assert run("keys", "new", "--to", str(file), "--id", "second").returncode == 0
    assert [*parse(file.read_text())] == ["first", "second"]
    before = file.read_text()
    assert run("keys", "new", "--to", str(file), "--id", "first").returncode == 2
    assert run("keys", "new", "--to", str(tmp_path / "none" / "keys")).returncode == 2
    assert file.read_text() == before


async def test_nothing_starts_without_keys(tmp_path: Path) -> None:
    """Who serves, works or opens the record store without keys, or with others, is refused and told why."""
    record = await filled(tmp_path / "record.db", keys.write(tmp_path / "keys", new_line("tests")))
    none, here = {"STANDPIPE_ENCRYPTION_KEYS_FILE": ""}, ("--record", record)
    quick = (*here, "--listen", "127.0.0.1:0", "--http", "")
    for command in (
        ("serve", *quick, "--embedder", "none"),
        ("work", *here, "--http", "", "--once"),
        ("rebuild", *here),
        ("parked", *here),
        ("keys", "check", *here),
        ("keys", "rotate", *here),
    ):
        done = run(*command, **none)
        assert done.returncode == 2, command
        assert "encryption_keys_file" in done.stderr
        assert "standpipe keys new" in done.stderr
        assert "Traceback" not in done.stderr
        done = run(*command, "--plaintext", "true", **none)
        assert done.returncode == 2, command
        assert "plaintext" in done.stderr
    done = run("serve", *quick, "--embedder", "none")  # the tests' own key has the same id, and is another
    assert done.returncode == 2
    assert "of other encryption keys" in done.stderr


async def test_plain_text_where_it_is_asked_for(tmp_path: Path) -> None:
    """A store that is plain is served as such when the configuration says so, and can be read by others."""
    path = tmp_path / "record.db"
    async with serving(path, plaintext=True) as pod:
        await pod.append("s", "r", MARKERS[0])
    assert MARKERS[0].encode() in path.read_bytes()
    async with serving(path) as pod:  # from now on encrypted, and what was before is read
        await pod.append("s", "r2", MARKERS[1])
        shown = str(await pod.hydrate("s"))
        assert MARKERS[0] in shown
        assert MARKERS[1] in shown
    assert MARKERS[1].encode() not in path.read_bytes()


@pytest.mark.timeout(240)
async def test_no_marker_is_in_a_deployment(postgres_server: Postgres, redis_server: Redis, database: str) -> None:
    """Of a thousand planted markers none stands in PostgreSQL's directory, Redis' dump or the logs (P11)."""
    pod = Serving(
        "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--record", database, "--hot", redis_server.url
    )  # fmt: skip
    client = Pod(pod.target)
    for at in range(0, len(MARKERS), 50):
        words = [" ".join(MARKERS[start : start + 5]) for start in range(at, at + 50, 5)]
        entries = [said(f"The words are {one}.", speaker=one.split()[0]) for one in words[:5]]
        entries += [answered(f"So {one} it is.") for one in words[5:]]
        await client.append(f"seen-{at // 100}", f"r{at}", *entries, subject=f"u{at // 100}")
    await client.embedded()
    assert MARKERS[0] in str(await client.hydrate("seen-0", "the words", subject="u0"))

    async def shared() -> bool:
        await client.append("seen-0", f"r-{time.monotonic_ns()}", MARKERS[0], subject="u0")
        (name,) = redis_server.call("KEYS", "*seen-0}")
        return bool(redis_server.call("HEXISTS", name, "head"))

    await until(shared, seconds=60)
    await client.close()
    code, out, log = pod.end()
    assert code == 0, log
    assert json.loads(log.splitlines()[-1])["event"] == "stopped"
    redis_server.call("CONFIG", "SET", "rdbcompression", "no")
    assert "seen-0" in str(redis_server.call("KEYS", "*"))
    redis_server.call("SAVE")
    dump = redis_server.directory / "dump.rdb"
    with postgres_server.connect() as db:
        db.execute("CHECKPOINT")
    files = [path for path in postgres_server.directory.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 1 << 20
    found = b"seen-0"
    seen = set()
    for path in [*files, dump]:
        content = path.read_bytes()
        assert not MARKED.search(content), path
        if found in content:
            seen.add(path.name)
    assert dump.name in seen  # the scan can see
    assert len(seen) > 1
    dump.unlink()
    assert "xq0" not in out + log
