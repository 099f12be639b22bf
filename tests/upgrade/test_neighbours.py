"""Who stands beside a server may be of the release before, or after: clients, the command line, a shared embedder."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from standpipe.v1 import turn_pb2
from tests.e2e.embedders import EmbedderProcess
from tests.e2e.pods import MODEL, RECALL, ROOT, Fleet, exact, refused, said, until
from tests.upgrade.releases import BEFORE, unpack

TALK = """
import json, sys
from standpipe import assistant, errors, fact, source, sync, user

with sync.connect(sys.argv[1]) as client:
    session, memory = client.session("talk", subject="ines"), client.memory("ines")
    said = [user("My boat is called Petrel."), assistant("A fine name for a boat.")]
    first = session.commit(said, expected_version=0)
    again = session.commit(said, expected_version=0, request_id=first.request_id)
    bundle = session.hydrate("What is my boat called?", budget_tokens=800)
    replay = client.replay(bundle.receipt)
    try:
        session.commit(user("Too late."), expected_version=0)
    except errors.Conflict as error:
        won = error.winner_request_id
    (held,) = memory.remember(fact("boat", "Petrel", source("talk", 1, 0)))
    done = session.turn("And my dinghy?", lambda bundle: "You never said.")
    info = client.server_info()
    print(json.dumps({
        "replayed": [first.replayed, again.replayed, again.event_hash == first.event_hash],
        "shows": "Petrel" in bundle.text,
        "equal": replay.bundle.fingerprint == bundle.fingerprint,
        "won": won == first.request_id,
        "fact": len(held.reasons),
        "version": done.commit.version,
        "events": [event.version for event in session.events()],
        "believes": [one.fact.value for one in memory.beliefs()],
        "limits": len(info.limits) > 10,
        "erased": memory.erase().subject_id,
    }))
"""
"""A conversation with whatever client is in the path; it prints what came of it."""

CAME = {
    "replayed": [False, True, True],
    "shows": True,
    "equal": True,
    "won": True,
    "fact": 0,
    "version": 2,
    "events": [1, 2],
    "believes": ["Petrel"],
    "limits": True,
    "erased": "ines",
}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the release before."""
    return unpack(BEFORE["sqlite+memory"], tmp_path_factory.mktemp("before"))


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a release's modules, warnings being errors."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    paths = os.pathsep.join([str(root), str(root / "clients" / "python")])
    found = {**kept, "PYTHONPATH": paths, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=found, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("older", ["client", "server"])
async def test_a_client_of_one_release_and_a_server_of_the_other(fleet: Fleet, before: Path, older: str) -> None:
    """A whole conversation goes as ever, whichever of the two is upgraded first; so does the command line."""
    theirs, ours = (before, ROOT) if older == "client" else (ROOT, before)
    process = await fleet.start(root=ours)
    target = f"127.0.0.1:{process.port}"
    found = await asyncio.to_thread(python, theirs, "-c", TALK, target)
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout) == CAME
    commands = [["info", "--json"], ["hydrate", "s", "--query", "boat", "--json"]]
    if older == "server":
        commands += [["smoke", "--json"], ["health"]]
    for command in commands:
        done = await asyncio.to_thread(python, theirs, "-m", "sidecar", *command, "--target", target)
        assert (done.returncode, done.stderr) == (0, ""), command


class _OtherEmbedder(EmbedderProcess):
    """`standpipe embed` of some release."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(self._root), str(self._root / "clients" / "python")])
        return {**super().environment(), "PYTHONPATH": paths}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("older", ["sidecar", "embedder"])
async def test_a_sidecar_of_one_release_and_an_embedder_of_the_other(fleet: Fleet, before: Path, older: str) -> None:
    """Vectors are the same bits whoever of the two is upgraded first: bundles are those of a model in process (P6)."""
    theirs, ours = (before, ROOT) if older == "sidecar" else (ROOT, before)
    with _OtherEmbedder(ours) as shared:
        wired: dict[str, Any] = {"embedder": MODEL, "embedder_address": [shared.target]}
        slim = fleet.pod(await fleet.start(root=theirs, **wired))
        own = fleet.pod(await fleet.start(embedder=MODEL))
        for number, text in enumerate(("The boat lies in the north harbour.", "Tea is at five.", "The dinghy leaks.")):
            await slim.append("s", f"s-{number}", text)

        async def whole() -> bool:
            return not (await slim.hydrate("other", "Where is the boat?")).degraded

        await until(whole, seconds=60)
        for pod in (slim, own):
            await pod.embedded()
        for query in ("Where is the boat?", "When do we drink something?"):
            answers = [await pod.hydrate("new", query, include=[RECALL]) for pod in (slim, own)]
            assert exact(answers[0].bundle) == exact(answers[1].bundle)
            assert not answers[0].degraded


async def test_app_json_waits_for_the_last_pod_of_before(fleet: Fleet, before: Path) -> None:
    """A pod of before takes none alone, and shows no session that has some; it harms nothing, and beside a message it
    is not in the way.
    """
    old, new = fleet.pod(await fleet.start(root=before)), fleet.pod(await fleet.start())
    own = turn_pb2.TurnEntry(app_json='{"step": 1}')
    beside = turn_pb2.TurnEntry(app_json='"mine"', message=said("The zebra is here.").message)
    await new.append("beside", "r1", beside)
    for pod in (old, new):
        answer = await pod.hydrate("beside")
        assert answer.bundle.session_version == 1
        assert "mine" not in str(answer.bundle)
        assert exact((await new.replay(answer.receipt)).bundle) == exact(answer.bundle)

    refusal = await refused(old.append("alone", "r1", said("hello"), own))
    assert (refusal.reason, refusal.field) == ("INVALID_FIELD", "turn.entries[1]")
    await new.append("alone", "r1", said("hello"), own)
    assert (await refused(old.hydrate("alone"))).reason == "INTERNAL"
    fleet.processes[0].log.write_text("")  # a defect of that release, which the fleet would report
    await old.append("alone", "r2", said("and on"))  # what it does not show it can still append to
    bundle = (await new.hydrate("alone")).bundle
    assert [part.body for one in bundle.sections for part in one.segments] == ["hello\n", "and on\n"]
    for pod in (old, new):
        events = await pod.events("alone")
        assert [len(event.turn.entries) for event in events] == [2, 1]
        assert events[0].turn.entries[1] == own
