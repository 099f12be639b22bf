"""The command line as its users have it: processes against a process that serves."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import standpipe
from sidecar.cli.failure import ADVICE
from sidecar.config import Config
from standpipe import sync
from standpipe.v1.error_pb2 import ErrorReason
from tests import keys
from tests.contract.postgres import ROLE, unmigrated
from tests.e2e.pods import MODELS, ROOT
from tests.servers import Postgres, wait_for

WAIT_S = 30.0
POLICY = """\
name: support
budget_tokens: 400
prompts: [{name: persona, text: Be brief.}]
sources: {history: {}, recall: {}}
"""


def environment(**changes: str) -> dict[str, str]:
    """Return an environment without settings of whoever runs the tests, warnings being errors in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    python = {"PYTHONPATH": paths, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}
    ours = {"STANDPIPE_MODELS_DIR": str(MODELS), "STANDPIPE_ENCRYPTION_KEYS_FILE": keys.key_file()}
    return {**kept, **python, **ours, "COLUMNS": "80", **changes}


def run(*arguments: str, stdin: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        env=environment(**changes),
    )


class Serving:
    """A `standpipe serve` process, or one of another command that runs until it is told to end."""

    def __init__(self, *flags: str, command: str = "serve", **changes: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**changes),
        )
        assert self.process.stderr is not None
        self.started: dict[str, Any] = json.loads(self.process.stderr.readline())

    @property
    def target(self) -> str:
        """Where it really listens."""
        return str(self.started["listen"][0])

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Signal it; return (exit code, standard output, the rest of its log)."""
        self.process.send_signal(number)
        out, log = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, log


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Serve, without an embedder, for all tests of this file."""
    record = tmp_path_factory.mktemp("cli") / "record.db"
    found = Serving(
        "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--record", f"sqlite:{record}", "--embedder", "none"
    )
    yield found
    found.end(signal.SIGKILL)


def call(server: Serving, *arguments: str, code: int = 0, stdin: str = "") -> str:
    """Run a client command against the server; return what it printed where results belong, or errors."""
    done = run(*arguments, "--target", server.target, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def commit(server: Serving, session: str) -> dict[str, Any]:
    """Commit a session's first turn."""
    said = ("--user", "My cat is called Bo.", "--assistant", "Noted.")
    return json.loads(call(server, "commit", session, "--subject", "anna", *said, "--expected-version", "0", "--json"))


# --- serve ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_and_exits_0(tmp_path: Path, number: int) -> None:
    """A signal ends the server gracefully: exit code 0, nothing on stdout, JSON on stderr, a commit kept (P1)."""
    record = f"sqlite:{tmp_path / 'record.db'}"
    flags = ("--listen", f"127.0.0.1:0,unix:{tmp_path}/s.sock", "--http", "127.0.0.1:0", "--embedder", "none")
    serving = Serving(*flags, "--record", record)
    assert serving.started["event"] == "started"
    host, _, port = serving.target.rpartition(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    assert serving.started["listen"][1] == f"unix:{tmp_path}/s.sock"
    with urllib.request.urlopen(f"http://{serving.started['http']}/readyz", timeout=WAIT_S) as page:
        assert page.status == 200
    with sync.connect(serving.started["listen"][1]) as client:
        client.session("s", subject="anna").commit([standpipe.user("Hi.")], expected_version=0)
    code, out, log = serving.end(number)
    assert (code, out) == (0, "")
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["draining", "stopped"]
    assert "1 sessions, 1 events" in run("rebuild", "--record", record).stdout


def test_serve_ends_while_a_call_hangs_on(tmp_path: Path) -> None:
    """A client that keeps its channel open does not hold up the exit beyond drain_ms (P12)."""
    serving = Serving(
        *("--listen", "127.0.0.1:0", "--http", "", "--record", f"sqlite:{tmp_path}/r.db", "--embedder", "none"),
        *("--drain-ms", "300"),
    )
    with sync.connect(serving.target) as client:
        client.server_info()
        assert serving.end()[0] == 0


@pytest.mark.parametrize("command", ["serve", "work"])
def test_every_setting_has_a_flag(command: str) -> None:
    """The help of what takes settings names each field of the configuration with what it means."""
    shown = " ".join(run(command, "--help").stdout.split())
    for setting in dataclasses.fields(Config):
        assert f"--{setting.name.replace('_', '-')} " in shown
        assert setting.metadata["doc"].split(";")[0].split(":")[0] in shown


def test_flags_beat_environment_beat_file(tmp_path: Path) -> None:
    """Settings come from the file, over it the environment, over that the flags; the result is a file again."""
    file = tmp_path / "config.yaml"
    file.write_text("tenant: of-file\nembedder: of-file\nprecision: fp32\n")
    first = run("serve", "--print-config", "--config", str(file), "--tenant", "of-flag", STANDPIPE_EMBEDDER="none")
    for line in ("tenant: of-flag", "embedder: none", "precision: fp32", "drain_ms: 1500", "- 127.0.0.1:7460"):
        assert line in first.stdout
    file.write_text(first.stdout)
    assert run("serve", "--print-config", STANDPIPE_CONFIG=str(file)).stdout == first.stdout


@pytest.mark.parametrize(
    ("flags", "variables", "field"),
    [
        (("--drain-ms", "soon"), {}, "drain_ms"),
        (("--listen", "nowhere"), {}, "listen"),
        ((), {"STANDPIPE_LISTN": "x"}, "listn"),
        (("--config", "/nowhere/x.yaml"), {}, "config"),
        (("--record", "sqlite:/nowhere/x.db", "--listen", "127.0.0.1:0", "--http", ""), {}, "record"),
        (("--record", "mysql:x"), {}, "record"),
    ],
)
def test_bad_setting_exits_2(flags: tuple[str, ...], variables: dict[str, str], field: str) -> None:
    """A setting that is wrong ends the start with one line that names it, and exit code 2."""
    done = run("serve", *flags, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: FAILED_PRECONDITION CONFIG_INVALID in {field}: .*\n", done.stderr)


def test_client_variables_are_no_settings() -> None:
    """What names a target and files for clients, and what Kubernetes writes for a Service, do not stop the server."""
    links = {"STANDPIPE_TARGET": "x:1", "STANDPIPE_SERVICE_HOST": "10.0.0.1", "STANDPIPE_PORT_7460_TCP": "tcp://x"}
    files = {f"STANDPIPE_{name}_FILE": "/x" for name in ("TOKEN", "CA", "CERT", "KEY")}
    assert run("serve", "--print-config", **links, **files).returncode == 0
    assert run("serve", "--print-config", **files, STANDPIPE_TOKENS_FILE="/x").returncode == 2


def test_taken_port_exits_2(server: Serving, tmp_path: Path) -> None:
    """A second server on one port does not start, and says which address it is."""
    flags = ("--record", f"sqlite:{tmp_path}/r.db", "--http", "", "--embedder", "none")
    done = run("serve", "--listen", server.target, *flags)
    assert done.returncode == 2
    assert server.target in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_model_says_what_to_run(tmp_path: Path) -> None:
    """Without a model, serve and demo end with exit code 2 or 1 and the command that fetches it."""
    flags = ("--listen", "127.0.0.1:0", "--http", "", "--record", f"sqlite:{tmp_path}/r.db")
    done = run("serve", *flags, "--models-dir", str(tmp_path))
    assert done.returncode == 2
    assert "standpipe model ranks" in done.stderr
    done = run("demo", "--models-dir", str(tmp_path))
    assert done.returncode == 1
    assert f"standpipe model fetch --to {tmp_path} && standpipe model ranks --to {tmp_path}" in done.stderr


def test_light_install_is_told(tmp_path: Path) -> None:
    """Where the commands' dependencies are missing, one line says what to install, with exit code 2."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    done = run("info", PYTHONPATH=f"{tmp_path}:{environment()['PYTHONPATH']}")
    assert done.returncode == 2
    assert done.stderr == 'error: click is not installed, run: pip install "standpipe[sidecar]"\n'


# --- calls ---------------------------------------------------------------------------------------------------


def test_info(server: Serving) -> None:
    """`info` shows engines, embedder and limits; as JSON too; and says where no server answers."""
    assert "words alone" in call(server, "info")
    assert json.loads(call(server, "info", "--json"))["record_engine"] == "sqlite"
    done = run("info", STANDPIPE_TARGET="127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: UNAVAILABLE: no server answers at 127.0.0.1:1; `standpipe serve` starts one")


def test_commit_keeps_the_order_of_entries(server: Serving) -> None:
    """Users' and assistants' entries stand in the log in the order of the command line."""
    texts = ["one", "two", "three", "four"]
    flags = ["--user", texts[0], "--user", texts[1], "--assistant", texts[2], "--user", texts[3]]
    assert call(server, "commit", "order", "--subject", "anna", *flags, "--append").startswith("version 1\n")
    (event,) = map(json.loads, call(server, "events", "order", "--json").splitlines())
    entries = [entry["message"] for entry in event["turn"]["entries"]]
    assert [entry["text"] for entry in entries] == texts
    assert [entry["role"] for entry in entries] == ["ROLE_USER", "ROLE_USER", "ROLE_ASSISTANT", "ROLE_USER"]


def test_commit_retry_and_conflict(server: Serving) -> None:
    """The same request id is answered again (P3); another one at that version is told the winner's id (P2)."""
    first = ("commit", "race", "--subject", "anna", "--user", "Hi", "--expected-version", "0", "--request-id")
    won = call(server, *first, "mine")
    again = call(server, *first, "mine")
    assert again == won.replace("version 1", "version 1, committed before under this request id")
    error = call(server, *first, "other", code=1)
    assert error.startswith("error: ABORTED VERSION_CONFLICT")
    assert "winner_request_id=mine" in error
    assert len(error.splitlines()) == 1


def test_commit_of_a_file(server: Serving, tmp_path: Path) -> None:
    """A turn with tool calls comes as protobuf JSON, from a file or from standard input."""
    turn = {
        "entries": [
            {"message": {"role": "ROLE_USER", "text": "Weather?"}},
            {"toolCall": {"id": "c1", "name": "weather", "argumentsJson": "{}"}},
            {"toolResult": {"callId": "c1", "content": "rain"}},
        ]
    }
    file = tmp_path / "turn.json"
    file.write_text(json.dumps(turn))
    call(server, "commit", "file", "--subject", "anna", "--file", str(file), "--expected-version", "0")
    call(server, "commit", "file", "--file", "-", "--append", stdin=file.read_text().replace("c1", "c2"))
    assert "Weather? | call weather | re" in call(server, "events", "file")
    file.write_text("{}}")
    assert "not a turn as protobuf JSON" in call(server, "commit", "file", "--file", str(file), "--append", code=2)


@pytest.mark.parametrize(
    "flags",
    [
        ("--user", "Hi"),
        ("--user", "Hi", "--append", "--expected-version", "1"),
        ("--append",),
        ("--append", "--user", "Hi", "--file", str(ROOT / "pyproject.toml")),
    ],
)
def test_commit_usage(server: Serving, flags: tuple[str, ...]) -> None:
    """A commit without a version or without content, or with both forms of either, is a usage error."""
    assert "Error: give " in call(server, "commit", "usage", *flags, code=2)


def test_events_show_the_chain(server: Serving) -> None:
    """`events` checks that each event names the hash of the one before, and names the head."""
    commit(server, "chain")
    head = json.loads(call(server, "commit", "chain", "--user", "And [b]?", "--append", "--json"))["event_hash"]
    shown = call(server, "events", "chain")
    assert "And [b]?" in shown
    assert f"2 events, each names the hash of the one before; head {head}" in shown
    assert call(server, "events", "chain", "--after", "1").count(" ok ") == 1
    assert "SESSION_NOT_FOUND" in call(server, "events", "nobody", code=1)


def test_hydrate_forms(server: Serving) -> None:
    """A bundle comes as a picture, as JSON, and as the messages of both providers."""
    token = commit(server, "forms")["token"]
    flags = ("hydrate", "forms", "--query", "What is my cat called?")
    shown = call(server, *flags, "--token", token)
    assert "history" in shown
    assert "My cat is called Bo." in shown
    assert "embedder off" in shown
    assert "token tax" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert json.loads(call(server, *flags, "--openai"))[-1]["content"].endswith("What is my cat called?")
    assert json.loads(call(server, *flags, "--anthropic"))["messages"][0]["role"] == "user"
    answer = json.loads(call(server, *flags, "--json"))
    assert answer["bundle"]["session_version"] == "1"
    assert set(answer) >= {"receipt", "consistency_token", "timings", "token_tax", "recall", "degraded"}


def test_hydrate_lowers_and_chooses(server: Serving) -> None:
    """Budgets, caps and sources of the command line reach the request; wrong ones are told by name."""
    commit(server, "lower")
    flags = ("hydrate", "lower", "--query", "cat", "--json")
    bundle = json.loads(call(server, *flags, "--budget", "100", "--cap", "history=90", "--include", "history"))[
        "bundle"
    ]
    assert bundle["budget_tokens"] == 100
    assert [(one["source"], one["cap_tokens"] <= 90) for one in bundle["sections"]] == [("SOURCE_HISTORY", True)]
    assert "SOURCE=TOKENS" in call(server, *flags, "--cap", "memory=1", code=2)
    assert "ROUTE_NOT_FOUND in route" in call(server, *flags, "--route", "nowhere", code=1)
    assert "TOKEN_INVALID in consistency.at_least_as_fresh" in call(server, *flags, "--token", "x", code=1)
    assert "TENANT_DENIED" in call(server, *flags, "--tenant", "other", code=1)


def test_replay_of_a_receipt(server: Serving, tmp_path: Path) -> None:
    """A receipt in base64, from a file or standard input, gives the bundle again (P7); anything else is told."""
    commit(server, "again")
    answer = json.loads(call(server, "hydrate", "again", "--query", "cat", "--json"))
    file = tmp_path / "receipt"
    file.write_text(answer["receipt"])
    assert json.loads(call(server, "replay", str(file), "--json"))["bundle"] == answer["bundle"]
    assert "to session again of anna" in call(server, "replay", "-", "--all-omissions", stdin=answer["receipt"] + "\n")
    assert "not base64" in call(server, "replay", "-", code=2, stdin="no receipt")
    forged = base64.b64encode(b"x" * 40).decode()
    assert "RECEIPT_INVALID in receipt" in call(server, "replay", "-", code=1, stdin=forged)


def test_memory(server: Serving, tmp_path: Path) -> None:
    """Facts are recorded, listed, corrected, pinned and reviewed; documents and the profile are put."""
    memory = functools.partial(call, server, "memory")
    said = ("--user", "I moved to Porto.", "--assistant", "It rains there.")
    call(server, "commit", "mem", "--subject", "mia", "--append", *said)
    told = memory("record", "mia", "home city", "Porto", "--source", "mem@1.0", "--request-id", "r1")
    assert told == "held: ~m~mia@1.0\n"
    told = memory("record", "mia", "home city", "PORTO", "--source", "mem@1.0", "--from", "2026-05-03", "--pinned")
    assert told == "held: ~m~mia@2.0\n"
    told = memory("record", "mia", "weather", "rain", "--source", "mem@1.1", "--many", "--kind", "weather")
    assert told == "quarantined: ~m~mia@3.0 (origin)\n"
    listed = memory("beliefs", "mia", "--all").splitlines()
    assert listed[0].split() == ["fact", "status", "trust", "recorded", "sources", "what"]
    assert listed[3].startswith("~m~mia@3.0  quarantined")
    assert "home city: PORTO (pinned)" in "\n".join(listed)
    waiting = memory("quarantine")
    assert re.search(r"mia +~m~mia@3.0 +inferred +.* origin +weather: rain", waiting)
    assert memory("review", "mia", "~m~mia@3.0", "--accept", "--reviewer", "rita") == "accepted\n"
    assert json.loads(memory("quarantine", "mia", "--json")) == {}
    told = memory("correct", "mia", "~m~mia@3.0", "--value", "rain", "--not", "--source", "mem@1.0", "--cause", "dry")
    assert told == "held: ~m~mia@5.0\n"
    assert "weather: not rain" in memory("beliefs", "mia", "--valid-at", "2030-01-01T00:00Z")
    assert memory("correct", "mia", "~m~mia@5.0") == "retracted\n"
    assert memory("pin", "mia", "~m~mia@2.0", "--off") == "unpinned\n"
    assert memory("correct", "mia", "~m~mia@2.0", "--reject") == "rejected\n"
    assert json.loads(memory("beliefs", "mia", "--json")) == {}
    assert memory("profile", "mia", "tone=dry", "name=Mia").split() == ["name", "Mia", "tone", "dry"]
    assert memory("profile", "mia").split() == ["name", "Mia", "tone", "dry"]
    guide = tmp_path / "guide.txt"
    guide.write_text("Porto is wet.")
    assert memory("ingest", str(guide), "--subject", "mia") == "guide.txt: version 1, 1 chunks\n"
    assert memory("ingest", str(guide), "--subject", "mia") == "guide.txt: version 1, 1 chunks, as it was\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("record", "mia", "a", "b"),
        ("record", "mia", "a", "b", "--source", "mem"),
        ("record", "mia", "a", "b", "--source", "mem@1.0", "--from", "soon"),
        ("correct", "mia", "~m~mia@1.0", "--reject", "--value", "x"),
        ("correct", "mia", "~m~mia@99.0", "--value", "x", "--source", "mem@1.0"),
        ("profile", "mia", "tone"),
        ("review", "mia", "~m~mia@1.0", "--reviewer", "rita"),
    ],
)
def test_memory_usage(server: Serving, arguments: tuple[str, ...]) -> None:
    """What cannot be read is a usage error, before anything is written."""
    call(server, "memory", *arguments, code=2)


def test_policies(server: Serving, tmp_path: Path) -> None:
    """A policy is published once, listed, printed as it was, and routed to; a wrong one is told by field."""
    file = tmp_path / "support.yaml"
    file.write_text(POLICY)
    assert call(server, "policy", "publish", str(file), str(file)).split("\n")[:2] == [
        f"support@1  published  {file}",
        f"support@1  unchanged  {file}",
    ]
    assert call(server, "policy", "get", "support") == POLICY
    assert json.loads(call(server, "policy", "get", "support", "--version", "1", "--json"))["name"] == "support"
    assert call(server, "policy", "route", "help", "support@1") == "help -> support@1\n"
    assert re.search(r"support@1 .* help\n", call(server, "policy", "list"))
    assert json.loads(call(server, "policy", "list", "--json"))["routes"][0]["name"] == "help"
    file.write_text(POLICY.replace("400", "many"))
    assert "POLICY_INVALID in budget_tokens" in call(server, "policy", "publish", str(file), code=1)
    assert "POLICY_NOT_FOUND" in call(server, "policy", "get", "nothing", code=1)
    assert "POLICY_NOT_FOUND" in call(server, "policy", "route", "help", "support@9", code=1)
    assert "POLICY@VERSION" in call(server, "policy", "route", "help", "support", code=2)


def test_policy_check_needs_no_server(tmp_path: Path) -> None:
    """`policy check` says what a document allows in tokens, or which field is wrong."""
    file = tmp_path / "support.yaml"
    file.write_text(POLICY)
    done = run("policy", "check", str(file))
    assert done.returncode == 0
    assert "support is good: 400 tokens" in done.stdout
    assert re.search(r"summary +none\nhistory +at most \d+\n", done.stdout)
    file.write_text(POLICY + "colour: red\n")
    done = run("policy", "check", str(file))
    assert done.returncode == 1
    assert "POLICY_INVALID in colour" in done.stderr


# --- files ---------------------------------------------------------------------------------------------------


def test_models_are_verified_and_fetched_once(tmp_path: Path) -> None:
    """`verify` lists every file; `fetch` and `ranks` leave alone what is there; what is missing or bad is told."""
    done = run("model", "verify")
    assert done.returncode == 0
    assert len(re.findall(r"^\S+ +[0-9a-f]{16} +ok$", done.stdout, re.MULTILINE)) >= 5
    assert "all-MiniLM-L6-v2@" in run("model", "fetch", "--to", str(MODELS)).stdout
    made = run("model", "ranks", str(MODELS / "tokenizers"), "--to", str(tmp_path))
    assert made.stdout == f"cl100k_base, o200k_base in {tmp_path}/tokenizers\n"
    assert "o200k_base.tiktoken is verified" in made.stderr
    (tmp_path / "tokenizers" / "o200k_base.tiktoken").write_text("x")
    done = run("model", "verify", "--models-dir", str(tmp_path))
    assert done.returncode == 1
    assert "MODEL_INVALID" in done.stderr
    assert run("model", "fetch", str(tmp_path), "--to", str(tmp_path / "other")).returncode == 1


def test_rebuild_tells_a_broken_chain(server: Serving, tmp_path: Path) -> None:
    """`rebuild` counts what it checked, refuses a store that is not there, and stops at an event that was changed."""
    record = tmp_path / "record.db"
    flags = ("--listen", "127.0.0.1:0", "--http", "", "--record", f"sqlite:{record}", "--embedder", "none")
    serving = Serving(*flags)
    commit(serving, "s")
    serving.end()
    done = run("rebuild", "--record", f"sqlite:{record}")
    assert (done.returncode, done.stdout) == (0, "1 sessions, 1 events: every hash chain holds\n")
    with sqlite3.connect(record) as db:
        db.execute("UPDATE events SET request_id = 'forged'")
    db.close()
    done = run("rebuild", "--record", f"sqlite:{record}")
    assert done.returncode == 1
    assert "STORE_CORRUPT" in done.stderr
    assert run("rebuild", "--record", f"sqlite:{tmp_path}/none.db").returncode == 2


def test_work_is_left_to_workers(tmp_path: Path) -> None:
    """A sidecar with `project: false` embeds nothing, `work --once` does it all, and recall has every vector (P9)."""
    record = f"sqlite:{tmp_path / 'record.db'}"
    serving = Serving("--listen", "127.0.0.1:0", "--http", "", "--record", record, "--project", "false")
    commit(serving, "s")
    assert "2 items wait" in call(serving, "info")
    done = run("work", "--once", "--record", record, "--http", "")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["started", "stopped"]
    assert "0 items wait" in call(serving, "info")
    assert serving.end()[0] == 0


def test_work_ends_at_a_signal(tmp_path: Path) -> None:
    """A worker is ready and counts on its HTTP port, and a signal ends it with exit code 0."""
    flags = ("--record", f"sqlite:{tmp_path / 'record.db'}", "--http", "127.0.0.1:0")
    working = Serving(*flags, command="work")

    def shows(page: str, words: str) -> bool:
        with urllib.request.urlopen(f"http://{working.started['http']}/{page}", timeout=WAIT_S) as answer:
            return words in answer.read().decode()

    try:
        assert shows("readyz", "ok")
        wait_for(lambda: shows("metrics", 'standpipe_projection_lag_seconds{model="'), "the lag", seconds=WAIT_S)
    finally:
        code, out, log = working.end()
    assert (code, out, [json.loads(line)["event"] for line in log.splitlines()]) == (0, "", ["stopped"])


def test_work_needs_a_model(tmp_path: Path) -> None:
    """Without an embedder there is nothing to work on: exit code 2, and the setting's name."""
    done = run("work", "--record", f"sqlite:{tmp_path / 'record.db'}", "--http", "", "--embedder", "none")
    assert done.returncode == 2
    assert "CONFIG_INVALID in embedder" in done.stderr


def test_parked_orders_are_shown_and_tried_again(tmp_path: Path) -> None:
    """`parked` lists ids in whole and reasons, `work --once` ends with 1, and `--retry` has the work done."""
    path = tmp_path / "record.db"
    record, subject = f"sqlite:{path}", "a-subject-with-a-name-that-is-longer-than-any-column"
    serving = Serving("--listen", "127.0.0.1:0", "--http", "", "--record", record, "--project", "false")
    call(serving, "commit", "s", "--subject", subject, "--user", "Hi.", "--append")
    serving.end()
    once = ("work", "--once", "--record", record, "--http", "")
    model = f"SELECT tenant, subject, '{'m' * 40}', 1, 1700000100000000, 'STORE_CORRUPT' FROM sessions"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"INSERT INTO work (tenant, subject, model, since_us, parked_at_us, reason) {model}")
    shown = run("parked", "--record", record).stdout
    assert "2023-11-14 22:15:00" in shown
    assert subject in "".join(line[slice(*_column(shown, "subject", "model"))].strip() for line in shown.splitlines())
    (order,) = json.loads(run("parked", "--record", record, "--json").stdout)
    assert (order["subject"], order["model"], order["items"]) == (subject, "m" * 40, 1)
    assert (order["reason"], order["parked_at"]) == ("STORE_CORRUPT", "2023-11-14T22:15:00.000Z")
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        assert run(*once).returncode == 0, "what is parked for another model is not this one's"
        (real,) = db.execute("SELECT model FROM models").fetchone()
        db.execute("UPDATE work SET model = ?", (real,))
        db.execute("DELETE FROM vectors")
    assert run(*once).returncode == 1
    assert "1 will be tried again" in run("parked", "--record", record, "--retry").stdout
    assert run("parked", "--record", record).stdout == "no work order is parked\n"
    assert run(*once).returncode == 0
    assert run("parked", "--record", f"sqlite:{tmp_path}/none.db").returncode == 2


def test_models_are_listed_and_dropped(tmp_path: Path) -> None:
    """`model list` says which ranks and how far each is behind; `model drop` takes one that does not, whole."""
    record = f"sqlite:{tmp_path / 'record.db'}"
    serving = Serving("--listen", "127.0.0.1:0", "--http", "", "--record", record, "--project", "false")
    call(serving, "commit", "s", "--subject", "anna", "--user", "The ferry leaves at noon.", "--append")
    (model,) = json.loads(call(serving, "info", "--json"))["embeddings"]
    assert (model["ranks"], model["lag_items"]) == (True, "1")
    shown = " ".join(call(serving, "info").split())
    assert f"{model['model_id']}, 384 dimensions, int8, CPUExecutionProvider: ranks" in shown
    serving.end()
    once = ("work", "--once", "--record", record, "--http", "")
    assert run(*once).returncode == 0
    other = f"{model['model_id'].removesuffix('int8')}fp32"
    assert run(*once, "--precision", "fp32", "--embedder-before", "all-MiniLM-L6-v2/int8").returncode == 0
    listed = json.loads(run("model", "list", "--record", record, "--json").stdout)
    assert [(one["model"], one["ranks"], one["items"]) for one in listed] == [
        (other, True, 0),
        (model["model_id"], False, 0),
    ]
    assert re.search(f"ranks .* {re.escape(other)}$", run("model", "list", "--record", record).stdout, re.MULTILINE)
    for name in (other, "nobody/int8"):
        refused = run("model", "drop", name, "--record", record)
        assert (refused.returncode, "INVALID_FIELD" in refused.stderr) == (1, True), refused
    assert (
        run("model", "drop", model["model_id"], "--record", record).stdout
        == f"nothing is left of {model['model_id']}\n"
    )
    (left,) = json.loads(run("model", "list", "--record", record, "--json").stdout)
    assert left["model"] == other


def _column(table: str, name: str, following: str) -> tuple[int, int]:
    head = table.splitlines()[0]
    return head.index(name), head.index(following)


# --- doctor --------------------------------------------------------------------------------------------------


def test_doctor_says_what_to_do(tmp_path: Path) -> None:
    """`doctor` exits 0 if nothing failed, 1 if something did, and fits a terminal; its JSON has the same findings."""
    flags = ("doctor", "--record", f"sqlite:{tmp_path}/record.db")
    fine = run(*flags, "--embedder", "none")
    assert fine.returncode == 0
    assert re.search(r"^\d+ ok$", fine.stdout, re.MULTILINE)
    broken = run(*flags, "--embedder", "nothing")
    assert broken.returncode == 1
    assert re.search(r"failed +embedder .*\n(.*\n)* +`standpipe model fetch`", broken.stdout)
    assert all(len(line) <= 80 for line in (*fine.stdout.splitlines(), *broken.stdout.splitlines()))
    found = json.loads(run(*flags, "--embedder", "nothing", "--json").stdout)
    assert found["failed"] == 1
    (one,) = [check for check in found["checks"] if check["outcome"] == "failed"]
    assert (one["area"], one["check"]) == ("model", "embedder")
    assert one["advice"]


def test_doctor_examines_the_settings_first() -> None:
    """A setting that is wrong is a finding, exit code 1, and its secret is not shown."""
    done = run("doctor", "--record", "mysql://u:hunter2@h/d", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["checks"][0]["check"] == "record"
    assert "hunter2" not in done.stdout + done.stderr


def test_migrate_makes_the_schema_and_lets_a_role_in(postgres_server: Postgres) -> None:
    """`migrate` says what is missing, makes it once, grants; it names what it cannot do, and never the password."""
    name = unmigrated(postgres_server)
    try:
        record = ("--record", postgres_server.dsn(name, user=ROLE))
        missing = run("migrate", *record, "--dry-run").stdout
        assert missing.startswith("missing: migration 1\n")
        done = run("migrate", *record, "--grant-to", ROLE)
        assert (done.returncode, done.stdout) == (0, missing.replace("missing", "done") + f"granted to {ROLE}\n")
        assert run("migrate", *record).stdout == "the schema is that of this release\n"
        assert run("migrate", STANDPIPE_RECORD=record[1]).stdout == "the schema is that of this release\n"
        assert run("migrate", *record, "--tenant", "acme").returncode == 2
        other = ("--grant-to", "of_two")
        with postgres_server.connect(name) as db:
            db.execute("CREATE ROLE of_two LOGIN")
        bound = run("migrate", *record, *other, "--tenant", "acme", "--tenant", "beta")
        assert (bound.returncode, bound.stdout.splitlines()[-1]) == (0, "granted to of_two, for acme, beta alone")
        assert run("migrate", *record, *other, "--tenant", "*").stdout.endswith("granted to of_two\n")
        refused = run("migrate", *record, *other, "--tenant", "no name")
        assert (refused.returncode, "tenant" in refused.stderr) == (1, True)
        refused = run("migrate", *record, "--grant-to", ROLE, "--tenant", "acme")
        assert (refused.returncode, "owner" in refused.stderr) == (2, True)
    finally:
        postgres_server.drop_database(name)
    assert run("migrate", "--record", "sqlite:record.db").returncode == 2
    refused = run("migrate", "--record", "postgresql://u:hunter2@127.0.0.1:1/d")
    assert (refused.returncode, "nothing listens" in refused.stderr, "hunter2" in refused.stderr) == (1, True, False)


def test_eval_tells_an_empty_directory(tmp_path: Path) -> None:
    """`eval` without conversations says so."""
    done = run("eval", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "no conversations in" in done.stderr


def test_demo_json_and_plain() -> None:
    """The demo runs as a command: JSON for programs, and 80 plain columns for people."""
    done = run("demo", "--embedder", "none", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["asked"][-1]["source"] == "recall"
    assert figures["replay_equal"]
    assert figures["race"]["told_winner"] == figures["race"]["winner"]
    done = run("demo", "--embedder", "none", "--plain", COLUMNS="200", FORCE_COLOR="1")
    assert done.returncode == 0
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert not re.search(r" $", done.stdout, re.MULTILINE)


# --- looks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_terminals_get_colours_unless_refused(server: Serving, no_color: str, coloured: bool) -> None:
    """On a terminal a bundle has colours, with NO_COLOR none; in a pipe there is no escape at all."""
    commit(server, f"colour-{coloured}")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sidecar", "hydrate", f"colour-{coloured}", "--target", server.target]
    variables = {"TERM": "xterm-256color", **({"NO_COLOR": no_color} if no_color else {})}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment(**variables)) as process:
        os.close(theirs)
        out = b""
        try:
            while chunk := os.read(ours, 65536):
                out += chunk
        except OSError:  # how Linux says that the other end was closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    assert (b"\x1b[34m" in out or b";34m" in out) == coloured
    assert "\x1b" not in call(server, "hydrate", f"colour-{coloured}")


def test_every_reason_has_advice() -> None:
    """Every reason of the API's closed set comes with a word on what to do, and no other does."""
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in ErrorReason.items()} - {"UNSPECIFIED"}
    assert set(ADVICE) == reasons
    assert all(text.endswith(".") for text in ADVICE.values())


def test_help_is_quick_to_import() -> None:
    """The help of the command line loads no numerics, tokenizer or server."""
    heavy = "{'numpy', 'onnxruntime', 'tiktoken', 'sidecar.server'}"
    code = f"import sys, sidecar.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip() == ""


def test_a_subject_is_exported_erased_and_imported(tmp_path: Path) -> None:
    """`subject`: the file comes back equal, the receipt is told without a server, bad calls say what is wrong."""
    record = f"sqlite:{tmp_path / 'record.db'}"
    serving = Serving("--listen", "127.0.0.1:0", "--http", "", "--record", record, "--embedder", "none")
    call(serving, "commit", "s", "--subject", "ana", "--user", "I moved to Bergen.", "--append")
    file = tmp_path / "ana.jsonl"
    assert call(serving, "subject", "export", "ana", "--output", str(file)) == ""
    assert "Bergen" in file.read_text()
    assert call(serving, "subject", "export", "ana", "--markdown").startswith("# Memory of ana")
    assert "ERASED" not in call(serving, "subject", "erase", "ana", "--session", "s", "--document", "d", code=2)
    assert "name the SUBJECT" in call(serving, "subject", "erase", "--yes", code=2)
    assert "Aborted" in call(serving, "subject", "erase", "ana", stdin="n\n", code=1)
    receipt = json.loads(call(serving, "subject", "erase", "ana", "--yes", "--json"))
    assert (receipt["subject_id"], receipt["logs"], receipt["events"]) == ("ana", "1", "1")
    refusal = call(serving, "subject", "export", "ana", "--output", str(tmp_path / "none"), code=1)
    assert "ERASED" in refusal
    assert not (tmp_path / "none").exists()
    again = run("subject", "receipt", "ana", "--record", record, "--json")
    assert json.loads(again.stdout) == receipt
    assert run("subject", "receipt", "ben", "--record", record).returncode == 2
    shown = run("subject", "import", str(file), "--record", record)
    assert "1 events of ana imported, 0 were there" in shown.stdout, shown.stderr
    assert "not signed" not in shown.stdout
    assert call(serving, "subject", "export", "ana") == file.read_text()
    serving.end()
