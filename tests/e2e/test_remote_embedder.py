"""A sidecar whose vectors another process makes: the same bundles, and words alone when it is not there (P6, P12)."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from cryptography import x509

from sidecar import limits
from sidecar.config import Config
from sidecar.doctor import _shared
from sidecar.embed import Embedder
from sidecar.errors import ConfigInvalid, Draining, Overloaded
from sidecar.finding import Outcome
from sidecar.remote import SharedEmbedder
from sidecar.server import Server
from sidecar.telemetry import Log, Telemetry
from standpipe.v1 import context_pb2
from tests.certificates import Certificates
from tests.e2e.embedders import EmbedderProcess, Gated, embedding, total
from tests.e2e.pods import MODEL, MODELS, RECALL, ROOT, Local, Pod, answered, serving, settings, shown, until
from tests.proxy import Proxy
from tests.replica import Replica
from tests.servers import LOOPBACK, directory

ABOUT = (
    "The violin lies in the attic, behind the blue trunk.",
    "Our dentist moved to Harbour Street last spring.",
    "I never eat fennel, whatever the recipe says.",
    "The thesis is due on the ninth of June.",
    "My bicycle has a flat tyre again.",
)
QUERIES = ("Where is the instrument kept?", "When must the paper be handed in?", "What food does she dislike?")

EMBED_MS = 500
POLICY = f"""\
name: patient
sources: {{history: {{cap: 200}}, recall: {{cap: 400}}}}
deadlines: {{embed_ms: {EMBED_MS}}}
"""


@pytest.fixture
def process() -> Iterator[EmbedderProcess]:
    """A shared embedder that a test may kill."""
    with EmbedderProcess() as found:
        yield found


@pytest_asyncio.fixture
async def replica() -> AsyncIterator[Replica]:
    """A shared embedder that does as it is told."""
    made = Replica(directory() / "socket")
    await made.start()
    yield made
    await made.stop()


def caused(answer: context_pb2.HydrateContextResponse) -> set[str]:
    """Return why sources are missing or reduced."""
    return {one.cause for one in answer.degraded}


async def told(pod: Pod, session: str = "s") -> None:
    """Commit some turns that are worth remembering."""
    for number, text in enumerate(ABOUT):
        await pod.append(session, f"{session}-{number}", text, answered("I see."))


async def whole(pod: Pod, query: str) -> bool:
    """Tell whether a hydrate is not reduced; a query that was asked before asks no embedder."""
    return not (await pod.hydrate("other", query)).degraded


def calls(pod: Local, **labels: str) -> float:
    """Return how many calls of the shared embedder have ended."""
    return total(pod.metrics(), "embedder_calls_total", **labels)


async def test_bundles_are_those_of_an_embedder_of_ones_own(
    tmp_path: Path, process: EmbedderProcess, embedder: Embedder
) -> None:
    """P6: beside a sidecar that embeds by itself, one that asks another process serves the same bytes."""
    record = tmp_path / "record.db"
    address = (f"unix:{process.socket}", process.target)
    async with serving(record, embedder=embedder) as own, serving(record, embedder_address=address) as slim:
        await told(own)
        await told(slim, "t")
        await own.embedded()
        await until(lambda: whole(slim, "is it there?"))
        info = (await slim.info()).embedding
        assert (info.model_id, info.remote, info.ranks) == (embedder.id, True, True)
        assert (info.provider, info.dimensions) == (embedder.provider, embedder.dimensions)
        for query in QUERIES:
            one, other = await own.hydrate("new", query), await slim.hydrate("new", query)
            assert not one.degraded
            assert not other.degraded
            assert one.bundle.SerializeToString() == other.bundle.SerializeToString()
            assert (await own.replay(other.receipt)).bundle.fingerprint == one.bundle.fingerprint
        assert calls(slim, outcome="ok") >= len(QUERIES)


async def test_a_sidecar_starts_without_its_embedder(tmp_path: Path) -> None:
    """It is ready, recalls by words and says why; when the embedder comes, it recalls by vectors too."""
    process = EmbedderProcess()
    async with serving(tmp_path / "record.db", embedder_address=(process.target,)) as pod:
        await told(pod)
        answer = await pod.hydrate("new", "Where is the violin?")
        assert caused(answer) == {"embedder_unavailable"}
        assert "attic" in shown(answer.bundle, RECALL)
        assert calls(pod) == 0
        with process:
            await until(lambda: whole(pod, QUERIES[0]))
            await pod.embedded()
            answer = await pod.hydrate("new", QUERIES[0])
            assert "attic" in shown(answer.bundle, RECALL)


async def test_an_embedder_killed_under_load(tmp_path: Path, process: EmbedderProcess) -> None:
    """Killed and started again while pods hydrate and commit: each call is answered, reduced at most, none hangs, and
    in the end everything has its vector.
    """
    causes: set[str] = set()
    done = False
    async with serving(tmp_path / "record.db", embedder_address=(process.target,)) as pod:
        await pod.publish(POLICY)
        await pod.route("default", "patient", 1)
        await told(pod)
        await pod.embedded()
        answered_whole = 0

        async def talk(caller: int) -> None:
            nonlocal answered_whole
            turn = 0
            while not done:
                turn += 1
                await pod.append(f"s{caller}", f"r{turn}", f"Caller {caller} keeps {turn} jars of plum jam.")
                answer = await pod.hydrate(f"s{caller}", f"Where do the {turn} jars of {caller} stand?")
                causes.update(caused(answer))
                answered_whole += not answer.degraded
                await asyncio.sleep(0.05)  # without an embedder calls are quick, and all must be embedded

        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for caller in range(4):
                group.create_task(talk(caller))
            for _ in range(int(os.environ.get("TEST_ROUNDS", "2"))):
                before = answered_whole

                async def more(before: int = before) -> bool:
                    return answered_whole > before + 20

                await until(more)
                await asyncio.to_thread(process.kill9)
                await asyncio.to_thread(process.start)
            await until(more)
            done = True

        async def embedded() -> bool:
            return (await pod.info()).projection_lag_items == 0

        await until(embedded, seconds=90)
        assert causes <= {"embedder_unavailable", "embedding_timed_out"}
        assert total(pod.metrics(), "projection_parked") == 0
        assert total(pod.metrics(), "unembeddable_items_total") == 0


async def test_nobody_notices_one_of_two_replicas(tmp_path: Path, process: EmbedderProcess) -> None:
    """While one of two is killed, no hydrate is reduced."""
    with EmbedderProcess() as other:
        addresses = (process.target, other.target)
        async with serving(tmp_path / "record.db", embedder_address=addresses) as pod:
            await pod.publish(POLICY.replace(f"{EMBED_MS}", "20000"))
            await pod.route("default", "patient", 1)
            await told(pod)
            await pod.embedded()
            for number in range(60):
                if number == 20:
                    process.kill9()
                answer = await pod.hydrate("new", f"Where does thing {number} lie?")
                assert not answer.degraded
            assert calls(pod, address=other.target, outcome="ok") > 30


async def test_an_embedder_that_hangs_costs_its_share_once(tmp_path: Path, process: EmbedderProcess) -> None:
    """One that accepts and never answers makes a few hydrates wait for embed_ms, and then none: it is not asked."""
    with Proxy((LOOPBACK, process.port)) as proxy:
        address = f"{LOOPBACK}:{proxy.port}"
        async with serving(tmp_path / "record.db", embedder_address=(address,)) as pod:
            await pod.publish(POLICY.replace(f"{EMBED_MS}", "60"))
            await pod.route("default", "patient", 1)
            await told(pod)
            await pod.embedded()
            proxy.black_hole()
            seen = []
            for number in range(40):
                answer = await pod.hydrate("new", f"How many of {number} are there?")
                seen.append(*caused(answer))
                if seen[-1] == "embedder_unavailable":
                    break
            # The last of them may be told while they wait.
            assert "embedding_timed_out" in seen
            assert seen[-1] == "embedder_unavailable"
            assert len(seen) <= limits.breaker_failures_max * limits.embed_silence_ms // 60 + 3

            async def quiet() -> bool:  # those that waited have ended
                before = calls(pod)
                await asyncio.sleep(0.2)
                return calls(pod) == before

            await until(quiet)
            embeds = total(pod.metrics(), "embedder_calls_total", outcome="cancelled")
            for number in range(40):
                answer = await pod.hydrate("new", f"And how many of {number} were there?")
                assert caused(answer) == {"embedder_unavailable"}
            assert total(pod.metrics(), "embedder_calls_total", outcome="cancelled") == embeds
            assert total(pod.metrics(), "embedder_breaker_open", address=address) == 1
            proxy.heal()
            await until(lambda: whole(pod, "Is it back?"))
            assert total(pod.metrics(), "embedder_breaker_open", address=address) == 0


async def test_a_full_embedder_reduces_recall_and_delays_projection(tmp_path: Path, replica: Replica) -> None:
    """Overload is no failure of an item: it is embedded later, and hydrates go by words meanwhile."""
    async with serving(tmp_path / "record.db", embedder_address=(replica.address,)) as pod:
        await told(pod)
        await pod.embedded()
        replica.error = Overloaded("full", limit="embed_item_tokens_max")
        await pod.append("s", "late", "The invoice for the piano was paid in March.")
        answer = await pod.hydrate("new", "Was the invoice paid?")
        assert caused(answer) == {"embedding_failed"}
        assert "invoice" in shown(answer.bundle, RECALL)

        async def refused() -> bool:
            return calls(pod, outcome="overloaded") >= 2

        await until(refused)
        assert (await pod.info()).projection_lag_items == 1
        assert total(pod.metrics(), "embedder_breaker_open") == 0
        replica.error = None
        await pod.embedded()
        assert total(pod.metrics(), "projection_parked") == total(pod.metrics(), "unembeddable_items_total") == 0


async def test_wrong_vectors_are_never_stored(tmp_path: Path, replica: Replica) -> None:
    """An embedder that answers wrongly gives no item a vector, not even that of a text that cannot be embedded."""
    right = replica.embed
    async with serving(tmp_path / "record.db", embedder_address=(replica.address,)) as pod:
        await until(lambda: whole(pod, "Is it there?"))
        for number, wrong in enumerate((lambda _: b"\xff", lambda request: right(request)[:-8])):
            replica.embed = wrong
            before = calls(pod, outcome="wrong")
            await pod.append("s", f"r{number}", f"The passport of guest {number} is in the safe.")

            async def seen(before: float = before) -> bool:
                return calls(pod, outcome="wrong") > before

            await until(seen)
            answer = await pod.hydrate("new", f"Where is passport {number}?")
            assert caused(answer) <= {"embedding_failed", "embedder_unavailable"}
            assert answer.degraded
            assert (await pod.info()).projection_lag_items > 0
            replica.embed = right
            await pod.embedded()
        found = pod.metrics()
        assert total(found, "unembeddable_items_total") == total(found, "projection_parked") == 0


@pytest.mark.parametrize(("precision", "stands_in"), [("int8", True), ("fp32", False)])
async def test_a_model_of_ones_own_stands_in(
    tmp_path: Path, process: EmbedderProcess, precision: str, stands_in: bool
) -> None:
    """With the embedder gone a sidecar embeds by itself, if and only if that is the very same model."""
    changes: dict[str, Any] = {
        "embedder_address": (process.target,),
        "embedder_fallback": True,
        "embedder": MODEL,
        "precision": precision,
    }
    server = Server(Config(**settings(tmp_path / "record.db", **changes)))
    log = io.StringIO()
    server.telemetry.log = Log(log)
    async with server:
        pod = Local(server, log)
        await told(pod)

        async def known() -> bool:
            info = (await pod.info()).embedding
            return info.model_id.endswith("/int8") and (await pod.info()).projection_lag_items == 0

        await until(known)
        process.kill9()
        answer = await pod.hydrate("new", QUERIES[0])
        assert caused(answer) == (set() if stands_in else {"embedder_unavailable"})
        await pod.append("s", "late", "The invoice for the piano was paid in March.")
        if stands_in:
            await pod.embedded()
        else:
            assert "the fallback is another model" in pod.log()
        assert (total(pod.metrics(), "embedder_fallbacks_total") > 0) == stands_in
        await pod.close()


async def test_a_worker_waits_for_the_embedder(tmp_path: Path) -> None:
    """`standpipe work --once` without a model of its own embeds everything when the embedder comes, and ends."""
    record, process = tmp_path / "record.db", EmbedderProcess()
    async with serving(record, project=False) as pod:
        await told(pod)
    config = settings(record, embedder_address=[process.target], http="")
    del config["listen"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "embedder": MODEL, "models_dir": str(tmp_path)}))
    command = [sys.executable, "-m", "sidecar", "work", "--once", "--config", str(path)]
    with (tmp_path / "work.log").open("w+") as said:
        worker = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=_environment(), stderr=said)
        with process:
            async with asyncio.timeout(60):
                status = await worker.wait()
            said.seek(0)
            assert status == 0, said.read()
            async with serving(record, embedder_address=(process.target,), project=False) as pod:
                await until(lambda: whole(pod, QUERIES[0]))
                assert (await pod.info()).projection_lag_items == 0


_SLIM = """
import asyncio, json, sys
from pathlib import Path
from sidecar.config import Config
from sidecar.server import Server

async def main():
    settings = json.loads(Path(sys.argv[1]).read_text())
    async with Server(Config(**{**settings, **{name: tuple(settings[name]) for name in ("listen", "embedder_address")}})) as server:
        print(json.dumps(server.ports), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(sorted(sys.modules)), flush=True)

asyncio.run(main())
"""  # noqa: E501


async def test_a_slim_sidecar_loads_no_model(tmp_path: Path, process: EmbedderProcess) -> None:
    """With a shared embedder a process needs neither ONNX Runtime nor a tokenizer of a model, and is small."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings(tmp_path / "record.db", embedder_address=[process.target], embedder=MODEL)))
    with subprocess.Popen(  # noqa: ASYNC220 - it is talked to while it runs
        [sys.executable, "-c", _SLIM, str(path)],
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as slim:
        assert slim.stdin is not None
        assert slim.stdout is not None
        try:
            pod = Pod(f"{LOOPBACK}:{json.loads(slim.stdout.readline())[0]}")
            await told(pod)
            await until(lambda: whole(pod, QUERIES[0]))
            await pod.embedded()
            assert not (await pod.hydrate("new", QUERIES[1])).degraded
            await pod.close()
            resident_mb = psutil.Process(slim.pid).memory_info().rss / 1e6
            slim.stdin.write("\n")
            slim.stdin.flush()
            loaded = set(json.loads(slim.stdout.readline()))
        finally:
            slim.kill()
    print(f"resident: {resident_mb:.0f} MB")
    assert not loaded & {"onnxruntime", "tokenizers", "onnx", "rich", "matplotlib"}
    assert resident_mb < 150


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    return {
        **kept,
        "STANDPIPE_MODELS_DIR": str(MODELS),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")]),
    }


async def test_texts_travel_in_tls(tmp_path: Path, embedder: Embedder) -> None:
    """With a certificate an embedder's port speaks TLS alone, and a sidecar takes it only from its own authority."""
    ours, others = (Certificates.make(tmp_path / name) for name in ("ours", "others"))
    tls = {"tls_cert_file": str(ours.certificate), "tls_key_file": str(ours.key)}
    async with embedding(embedder, **tls, listen=(f"{LOOPBACK}:0", f"unix:{directory()}/socket")) as shared:
        port, socket = shared.server.addresses
        for number, (address, authority, good) in enumerate(
            [
                (port, str(ours.authority), True),
                (socket, str(ours.authority), True),
                (socket, "", True),
                (port, "", False),
                (port, str(others.authority), False),
            ]
        ):
            record = tmp_path / f"{number}.db"
            async with serving(record, embedder_address=(address,), embedder_ca_file=authority) as pod:
                await told(pod)
                if good:
                    await until(lambda pod=pod: whole(pod, QUERIES[0]))
                    continue
                await until(lambda pod=pod: left_alone(pod))
                assert caused(await pod.hydrate("new", QUERIES[0])) == {"embedder_unavailable"}
                assert (await pod.info()).embedding.model_id == ""


async def test_an_embedder_asks_who_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`standpipe embed` under mTLS serves those with a certificate of its authority alone; doctor tells."""
    ours, mine = (Certificates.make(tmp_path / name) for name in ("ours", "mine"))
    shown = {"embedder_cert_file": str(mine.certificate), "embedder_key_file": str(mine.key)}
    others = {"embedder_cert_file": str(ours.certificate), "embedder_key_file": str(ours.key)}
    monkeypatch.setattr(limits, "examine_ms", 3000)
    with EmbedderProcess(**_guarded(ours, mine.authority)) as process:
        trusting: dict[str, Any] = {"embedder_address": (process.target,), "embedder_ca_file": str(ours.authority)}
        for number, (files, good) in enumerate(((shown, True), (others, False), ({}, False))):
            async with serving(tmp_path / f"{number}.db", **trusting, **files) as pod:
                await told(pod)
                if good:
                    await until(lambda pod=pod: whole(pod, QUERIES[0]))
                else:
                    await until(lambda pod=pod: left_alone(pod))
            found = await _shared(Config(plaintext=True, **trusting, **files))
            assert [one.outcome for one in found] == [Outcome.OK if good else Outcome.FAILED]
            assert good or "certificates" in found[0].advice


async def test_renewed_certificates_are_shown_to_the_embedder(tmp_path: Path) -> None:
    """A sidecar shows its embedder the certificate that is on its disk now, half a pair in between or not."""
    ours, before, after = (Certificates.make(tmp_path / name) for name in ("ours", "before", "after"))
    used = Certificates.make(tmp_path / "used")
    authority = tmp_path / "callers.pem"

    def put(source: Certificates, *names: str) -> None:
        for name in names:
            fresh = tmp_path / "fresh"
            fresh.write_bytes(getattr(source, name).read_bytes())
            fresh.rename(getattr(used, name))

    put(before, "certificate", "key")
    authority.write_bytes(before.authority.read_bytes())
    asked = itertools.count()
    files = {"embedder_cert_file": str(used.certificate), "embedder_key_file": str(used.key)}
    with EmbedderProcess(**_guarded(ours, authority)) as process:
        settings = {"embedder_address": (process.target,), "embedder_ca_file": str(ours.authority), **files}
        async with serving(tmp_path / "record.db", **settings) as pod:

            async def embeds() -> bool:
                return await whole(pod, f"Where was it the {next(asked)}th time?")

            await told(pod)
            await until(embeds)
            put(after, "certificate")
            await until(lambda: refused(pod))
            assert await embeds()  # what was there before is in force
            put(after, "key")
            authority.write_bytes(after.authority.read_bytes())
            await asyncio.to_thread(process.restart)
            await until(embeds)
            assert total(pod.metrics(), "mounted_taken_up_total", setting="embedder_ca_file") == 1


async def test_a_call_under_way_ends_as_it_began(tmp_path: Path, embedder: Embedder) -> None:
    """Certificates are renewed in the middle of a call: it is answered, and so is the next, over another connection."""
    ours, mine = (Certificates.make(tmp_path / name) for name in ("ours", "mine"))
    gated = Gated(embedder, opened=True)
    async with embedding(gated, **_guarded(ours, mine.authority)) as served:
        telemetry = Telemetry(Log(io.StringIO()))
        files = {"ca_file": ours.authority, "cert_file": mine.certificate, "key_file": mine.key}
        named = {name: str(path) for name, path in files.items()}
        async with SharedEmbedder(served.server.addresses, telemetry, **named) as shared:
            await shared.changed.wait()
            (model,), (replica,) = shared.models(), shared._replicas
            gated.open.clear()
            before = asyncio.create_task(model.embed_query("What was before?", deadline_s=30))
            while not replica.in_flight:
                await asyncio.sleep(0.01)
            channel = replica._channel
            mine.issue("", x509.DNSName("renewed"))
            assert shared._tls is not None
            await asyncio.to_thread(shared._tls.look)
            after = asyncio.create_task(model.embed_query("What comes after?", deadline_s=30))
            while replica.in_flight < 2:
                await asyncio.sleep(0.01)
            assert replica._channel is not channel
            assert replica._closing
            gated.open.set()
            for task in (before, after):
                assert (await task).shape == (model.dimensions,)
            async with asyncio.timeout(20):
                while replica._closing:
                    await asyncio.sleep(0.01)
            gated.open.clear()
            left = asyncio.create_task(model.embed_query("Who is left?", deadline_s=30))
            while not replica.in_flight:
                await asyncio.sleep(0.01)
            mine.issue("", x509.DNSName("again"))
            await asyncio.to_thread(shared._tls.look)
            await replica._look()
            assert replica._closing
        with pytest.raises(Draining):  # a close does not wait for what is left on either channel
            await left


def _guarded(ours: Certificates, callers: Path) -> dict[str, str]:
    """Return settings of an embedder in TLS for callers of an authority."""
    return {
        "tls_cert_file": str(ours.certificate),
        "tls_key_file": str(ours.key),
        "tls_client_ca_file": str(callers),
    }


async def refused(pod: Local) -> bool:
    """Tell whether a sidecar has seen certificates that do not fit together."""
    return total(pod.metrics(), "mounted_refused_total", setting="embedder_ca_file") >= 1


async def left_alone(pod: Local) -> bool:
    """Tell whether a sidecar has tried its embedder, and given it up for a while."""
    return total(pod.metrics(), "embedder_breaker_open") == 1


@pytest.mark.parametrize("name", ["certificate", "key"])
async def test_an_embedder_without_its_certificate_does_not_start(
    tmp_path: Path, embedder: Embedder, name: str
) -> None:
    """A file that is missing, no PEM, or of another pair is named before anything is served."""
    ours, others = (Certificates.make(tmp_path / name) for name in ("ours", "others"))
    getattr(ours, name).write_bytes(getattr(others, name).read_bytes())
    tls = {"tls_cert_file": str(ours.certificate), "tls_key_file": str(ours.key)}
    for change in (lambda path: None, lambda path: path.write_text("nonsense"), lambda path: path.unlink()):
        change(getattr(ours, name))
        with pytest.raises(ConfigInvalid) as caught:
            async with embedding(embedder, **tls):
                pass
        assert caught.value.field == "tls_cert_file"
