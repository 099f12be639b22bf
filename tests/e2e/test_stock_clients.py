"""What operators and strangers use: health, reflection, grpcurl, HTTP probes, metrics, logs and socket files."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import stat
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar import embed_server
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.errors import ConfigInvalid
from sidecar.server import SERVICES, Server
from standpipe.v1 import context_pb2, fact_pb2, memory_pb2, turn_pb2
from tests.e2e.embedders import Gated, embedding
from tests.e2e.pods import ROOT, Fleet, Local, Pod, budget, refused, serving, settings, until

TOOLS = Path(os.environ.get("TEST_TOOLS_DIR", ROOT / ".cache" / "tools"))
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"


# --- gRPC ------------------------------------------------------------------------------------------------------------


async def test_health(pod: Local) -> None:
    """A stock health check finds every service serving, and an unknown one not found (P12)."""
    stub = health_pb2_grpc.HealthStub(pod.channel)
    for name in ("", *SERVICES):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    refusal = await refused(stub.Check(health_pb2.HealthCheckRequest(service="nope")))
    assert refusal.status == "NOT_FOUND"
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    await asyncio.gather(pod.server.stop(), _next_is(watch, health_pb2.HealthCheckResponse.NOT_SERVING))


async def _next_is(watch: Any, status: int) -> None:
    assert (await watch.read()).status == status
    watch.cancel()


async def _reflect(pod: Pod, **question: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(pod.channel)
    stream = stub.ServerReflectionInfo(timeout=10)
    await stream.write(reflection_pb2.ServerReflectionRequest(**question))
    answer = await stream.read()
    await stream.done_writing()
    stream.cancel()
    return answer


async def test_a_stranger_calls_by_reflection_alone(pod: Local) -> None:
    """A client that has none of our code lists the API by reflection, and hydrates with what it learned (P6)."""
    await pod.append("s", "r1", "The harbour is closed on Mondays.")
    listed = (await _reflect(pod, list_services="")).list_services_response.service
    assert {one.name for one in listed} == {*SERVICES, HEALTH, REFLECTION}
    pool = descriptor_pool.DescriptorPool()
    wanted = (await _reflect(pod, file_containing_symbol=SERVICES[0])).file_descriptor_response.file_descriptor_proto
    await _learn(pod, pool, [descriptor_pb2.FileDescriptorProto.FromString(data) for data in wanted], set())
    method = pool.FindServiceByName(SERVICES[0]).methods_by_name["HydrateContext"]
    request = message_factory.GetMessageClass(method.input_type)(session_id="s", subject_id="anna", query="harbour")
    answer_type = message_factory.GetMessageClass(method.output_type)
    assert not isinstance(request, context_pb2.HydrateContextRequest)
    call = pod.channel.unary_unary(
        f"/{SERVICES[0]}/HydrateContext",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer_type.FromString,
    )
    answer = await call(request, timeout=10)
    assert answer.bundle.sections[0].segments[0].body == "The harbour is closed on Mondays.\n"
    assert answer.bundle.fingerprint == (await pod.hydrate("s", "harbour")).bundle.fingerprint


async def _learn(
    pod: Pod, pool: descriptor_pool.DescriptorPool, files: list[descriptor_pb2.FileDescriptorProto], known: set[str]
) -> None:
    """Add files to a pool, those that they depend on first."""
    for file in files:
        if file.name in known:
            continue
        known.add(file.name)
        for needed in file.dependency:
            if needed not in known:
                answer = (await _reflect(pod, file_by_filename=needed)).file_descriptor_response
                found = [descriptor_pb2.FileDescriptorProto.FromString(data) for data in answer.file_descriptor_proto]
                await _learn(pod, pool, found, known)
        pool.Add(file)


async def test_reflection_can_be_off(tmp_path: Path) -> None:
    """Without reflection the API is not listed, and serves as before (P8)."""
    async with serving(tmp_path / "r.db", reflection=False) as pod:
        stub = reflection_pb2_grpc.ServerReflectionStub(pod.channel)
        stream = stub.ServerReflectionInfo(timeout=10)
        assert await stream.code() == grpc.StatusCode.UNIMPLEMENTED
        assert (await pod.hydrate("s")).bundle.session_version == 0


@pytest.fixture
def grpcurl() -> str:
    """Return where grpcurl is."""
    found = shutil.which("grpcurl") or shutil.which("grpcurl", path=str(TOOLS))
    if not found:
        missing = f"no grpcurl on PATH or in {TOOLS}: `make tools` builds it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return found


async def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)


async def test_grpcurl(pod: Local, grpcurl: str) -> None:
    """Grpcurl lists the API, hydrates, commits, and shows an error with its details (P12)."""
    address = pod.target
    listed = await _run(grpcurl, "-plaintext", address, "list")
    assert set(listed.stdout.split()) >= set(SERVICES)
    described = await _run(grpcurl, "-plaintext", address, "describe", SERVICES[0])
    assert "standpipe.v1.CommitTurnRequest" in described.stdout
    turn = {"entries": [{"message": {"role": "ROLE_USER", "text": "Hello from grpcurl"}}]}
    body = {"session_id": "s", "subject_id": "anna", "request_id": "r1", "expected_version": 0, "turn": turn}
    done = await _run(grpcurl, "-plaintext", "-d", json.dumps(body), address, f"{SERVICES[0]}/CommitTurn")
    assert json.loads(done.stdout)["result"]["version"] == "1"
    body = {"session_id": "s", "subject_id": "anna", "query": "hello"}
    shown = await _run(grpcurl, "-plaintext", "-d", json.dumps(body), address, f"{SERVICES[0]}/HydrateContext")
    bundle = json.loads(shown.stdout)["bundle"]
    assert bundle["sections"][0]["segments"][0]["body"] == "Hello from grpcurl\n"
    wrong = await _run(grpcurl, "-plaintext", "-d", '{"session_id": "s s"}', address, f"{SERVICES[0]}/HydrateContext")
    assert wrong.returncode != 0
    assert "InvalidArgument" in wrong.stderr
    assert "INVALID_FIELD" in wrong.stderr
    assert "session_id" in wrong.stderr


async def test_grpcurl_of_a_shared_embedder(embedder: Embedder, grpcurl: str) -> None:
    """Grpcurl lists what `standpipe embed` serves, embeds with it, and shows which models there are instead (P12)."""
    async with embedding(embedder) as shared:
        address, service = shared.server.addresses[0], embed_server.SERVICES[0]
        listed = await _run(grpcurl, "-plaintext", address, "list")
        assert set(listed.stdout.split()) == {service, HEALTH, REFLECTION}
        models = await _run(grpcurl, "-plaintext", address, f"{service}/ListModels")
        assert [one["model_id"] for one in json.loads(models.stdout)["models"]] == [embedder.id]
        body = {"model_id": embedder.id, "kind": "EMBED_KIND_QUERY", "texts": ["Where is the harbour?"]}
        done = await _run(grpcurl, "-plaintext", "-d", json.dumps(body), address, f"{service}/Embed")
        vector = base64.b64decode(json.loads(done.stdout)["vectors"])
        assert vector == embedder.embed_one("Where is the harbour?").astype("<f4").tobytes()
        body["model_id"] = "another"
        wrong = await _run(grpcurl, "-plaintext", "-d", json.dumps(body), address, f"{service}/Embed")
        assert "NotFound" in wrong.stderr
        assert embedder.id in wrong.stderr


# --- HTTP ------------------------------------------------------------------------------------------------------------


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_probes(tmp_path: Path) -> None:
    """The probes say started, ready and alive; readiness falls when the server stops; other pages are 404 (P12)."""
    server = Server(Config(**settings(tmp_path / "r.db", log_level="error")))
    async with server:
        port = server.http_port
        for path in ("/startupz", "/readyz", "/livez", "/livez?verbose"):
            assert await asyncio.to_thread(_get, port, path) == (200, "ok\n")
        for path in ("/", "/debug", "/metricsx", "/../etc/passwd"):
            assert (await asyncio.to_thread(_get, port, path))[0] == 404
        server.health.ready = False
        assert await asyncio.to_thread(_get, port, "/readyz") == (503, "not yet\n")
        assert await asyncio.to_thread(_get, port, "/livez") == (200, "ok\n")
    with pytest.raises(urllib.error.URLError):
        _get(port, "/livez")


async def test_a_device_that_failed_asks_for_a_restart(tmp_path: Path, embedder: Embedder) -> None:
    """A sidecar whose own GPU has failed for good is not alive, since nothing but a restart helps (P12)."""
    gated = Gated(embedder, opened=True)
    async with serving(tmp_path / "r.db", embedder=gated) as pod:
        port = pod.server.http_port
        assert await asyncio.to_thread(_get, port, "/livez") == (200, "ok\n")
        gated.broken = True
        for path in ("/livez", "/readyz"):
            assert (await asyncio.to_thread(_get, port, path))[0] == 503


async def test_a_store_that_is_down_leaves_the_pod_ready(pod: Local, tmp_path: Path) -> None:
    """Readiness does not ask the store: one that is damaged must not take every pod down (P12)."""
    await pod.append("s", "r1", "x")
    (tmp_path / "record.db").write_bytes(b"damaged" * 5000)
    for path in ("/readyz", "/livez"):
        assert (await asyncio.to_thread(_get, pod.server.http_port, path))[0] == 200


def _total(metrics: dict[str, float], name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    series = {key: value for key, value in metrics.items() if key.partition("{")[0] == f"standpipe_{name}"}
    return sum(value for key, value in series.items() if all(one in key for one in wanted))


async def test_every_metric_moves(tmp_path: Path, embedder: Embedder) -> None:
    """Every metric that telemetry.py names is exposed and moves with what it counts (P12)."""
    async with serving(tmp_path / "r.db", embedder=embedder) as pod:
        before = pod.metrics()
        for number in range(30):
            await pod.append("s", f"r{number}", f"The code of locker {number} is 77{number}. " * 4)
        await pod.append("s", "r0", "The code of locker 0 is 770. " * 4)
        await refused(pod.commit("s", "late", "x", expected=3))
        said = turn_pb2.EventRef(session_id="s", version=1, entry=0)
        fact = fact_pb2.Fact(attribute="locker", value="by the door", sources=[said])
        await pod.memory.RecordFacts(memory_pb2.RecordFactsRequest(subject_id="anna", request_id="f", facts=[fact]))
        await pod.embedded()
        answer = await pod.hydrate("s", "code of locker 7", budget=budget(600))
        await pod.hydrate("s", "", budget=budget(600))
        await pod.hydrate("empty", "zebra", subject="nobody")
        await refused(pod.hydrate("bad id"))
        await pod.replay(answer.receipt)
        await pod.publish("name: hasty\ndeadlines: {embed_ms: 0}\n")
        await pod.route("hasty", "hasty", 1)
        assert (await pod.hydrate("s", "another query, and a long one " * 60, route="hasty")).degraded

        async def lag_is_seen() -> bool:
            return _total(pod.metrics(), "projected_items_total") >= 30

        await until(lag_is_seen)
        after = pod.metrics()

    def moved(name: str, **labels: str) -> float:
        return _total(after, name, **labels) - _total(before, name, **labels)

    assert moved("commits_total") == 30
    assert moved("commit_replays_total") == 1
    assert moved("commit_conflicts_total") == 1
    assert moved("calls_total", method="CommitTurn", status="ABORTED", reason="VERSION_CONFLICT") == 1
    assert moved("calls_total", method="HydrateContext", status="INVALID_ARGUMENT", reason="INVALID_FIELD") == 1
    assert moved("calls_total", method="HydrateContext", status="OK") == 4
    assert moved("call_seconds_count", method="HydrateContext") == 5
    for phase in ("hot", "record", "embed", "rank", "render", "total"):
        assert moved("hydrate_phase_seconds_count", phase=phase) > 0, phase
        assert moved("hydrate_phase_seconds_sum", phase=phase) >= 0
    for source in ("history", "summary", "recall"):
        assert moved("bundle_tokens_sum", source=source) > 0, source
    assert moved("token_tax_tokens_count") == 4
    assert moved("token_tax_tokens_sum") >= answer.token_tax.bundle_tokens
    assert moved("tokens_saved_total") >= answer.token_tax.transcript_tokens - answer.token_tax.bundle_tokens
    assert moved("stable_tokens_total") >= answer.token_tax.stable_tokens
    assert moved("recalls_total", outcome="hit") >= 1
    assert moved("recalls_total", outcome="empty") >= 1
    assert moved("recalled_items_total") >= 1
    for kind, texts in (("passage", 30), ("query", 1)):
        assert moved("embedded_texts_total", kind=kind) >= texts
        assert moved("embedded_tokens_total", kind=kind) > texts
        assert moved("embed_run_seconds_count", kind=kind) >= texts
        assert moved("embed_fill_share_sum", kind=kind) >= texts
    assert moved("degraded_total", source="recall", cause="embedding_timed_out") == 1
    assert moved("replays_total", outcome="equal") == 1
    assert _total(after, "replays_total", outcome="different") == 0
    assert moved("facts_total", outcome="held") == 1
    assert moved("subject_facts_sum", status="held") >= 1
    assert moved("hot_hits_total") > 0
    assert moved("hot_misses_total") > 0
    assert moved("block_cache_bytes") > 0
    assert _total(after, "projection_lag_items", model=embedder.id) == 0
    assert _total(after, "embedding_ranks", model=embedder.id) == 1
    assert _total(after, "hydrates_in_flight") == 0
    assert _total(after, "projection_failures_total") == 0
    assert _total(after, "event_loop_lag_seconds") >= 0
    assert _total(after, "build_info", record="sqlite", hot="memory", provider=embedder.provider) == 1
    exposed = {name.partition("{")[0] for name in after}
    for metric in pod.server.telemetry.registry.collect():
        if metric.name in {"standpipe_extraction_claims", "standpipe_extraction_refused"}:
            continue  # of `standpipe work --extract` alone
        if metric.name.startswith("standpipe_embedder_"):
            continue  # of a shared embedder's callers alone
        if metric.name.startswith(("standpipe_authenti", "standpipe_authority_", "standpipe_mounted_")):
            continue  # where callers have credentials: see test_callers.py
        assert exposed & {metric.name, f"{metric.name}_total", f"{metric.name}_count"}, metric.name


async def test_no_content_in_logs_and_metrics(tmp_path: Path, embedder: Embedder) -> None:
    """Nothing that a caller says, and no tenant, session or subject, stands in a log or a metric (P8)."""
    marks = {name: f"marked{name}7261" for name in ("text", "query", "speaker", "session", "subject", "call", "prompt")}
    async with serving(tmp_path / "r.db", embedder=embedder, tenant="markedtenant7261") as pod:
        await pod.publish(f"name: p\nprompts: [{{text: {marks['prompt']}}}]\n")
        await pod.route("default", "p", 1)
        for number in range(20):
            await pod.append(marks["session"], f"r{number}", marks["text"] * 20, subject=marks["subject"])
        await refused(pod.commit(marks["session"], "late", marks["text"], expected=1, subject=marks["subject"]))
        await refused(pod.append(marks["session"], "bad", marks["text"] + "\0", subject=marks["subject"]))
        await refused(pod.hydrate(marks["session"], subject="ben"))
        await pod.hydrate(marks["session"], marks["query"], subject=marks["subject"])
        await pod.embedded()
        raw = await asyncio.to_thread(_get, pod.server.http_port, "/metrics")
        said = pod.log() + raw[1]
    assert "started" in said
    for mark in (*marks.values(), "markedtenant7261"):
        assert mark not in said


# --- sockets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a directory whose path is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="sp-"))
    yield path
    shutil.rmtree(path)


def _listening(directory: Path, *addresses: str, **changes: Any) -> Config:
    return Config(**settings(directory / "r.db", listen=addresses, log_level="error", **changes))


async def test_a_socket_serves_beside_a_port(short: Path) -> None:
    """A Unix socket has mode 0660 and serves beside loopback; both give the same bytes (P6)."""
    path = short / "s.sock"
    async with Server(_listening(short, f"unix:{path}", "127.0.0.1:0")) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_ISSOCK(path.stat().st_mode)
        by_file, by_port = Pod(f"unix:{path}"), Pod(f"127.0.0.1:{server.ports[1]}")
        await by_file.append("s", "r1", "hello")
        assert (await by_file.hydrate("s")).bundle == (await by_port.hydrate("s")).bundle
        await by_file.close()
        await by_port.close()


async def test_a_second_server_is_refused(short: Path) -> None:
    """A second server on a live socket or port is refused, and the first goes on serving (P12)."""
    path = short / "s.sock"
    async with Server(_listening(short, f"unix:{path}", "127.0.0.1:0")) as server:
        pod = Pod(f"unix:{path}")
        await pod.append("s", "r1", "hello")
        for address, field in (
            (f"unix:{path}", "listen"),
            (f"127.0.0.1:{server.ports[1]}", "listen"),
        ):
            with pytest.raises(ConfigInvalid) as caught:
                async with Server(_listening(short, address)):
                    pass
            assert caught.value.field == field
        with pytest.raises(ConfigInvalid) as caught:
            async with Server(_listening(short, "127.0.0.1:0", http=f"127.0.0.1:{server.http_port}")):
                pass
        assert caught.value.field == "http"
        assert (await pod.hydrate("s")).bundle.session_version == 1
        await pod.close()


async def test_a_stale_socket_is_replaced(short: Path, fleet: Fleet) -> None:
    """A socket that a killed server left is replaced; a file that is no socket is never touched (P12)."""
    path = short / "s.sock"
    process = await fleet.start(listen=[f"unix:{path}"])
    process.kill()
    assert path.exists()
    await process.start()
    pod = Pod(f"unix:{path}")
    assert (await pod.hydrate("s")).bundle.session_version == 0
    await pod.close()
    await process.terminate()
    file = short / "precious"
    file.write_text("precious")
    with pytest.raises(ConfigInvalid):
        async with Server(_listening(short, f"unix:{file}")):
            pass
    assert file.read_text() == "precious"
