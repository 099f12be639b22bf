"""The client's own logic, both clients against a real gRPC server over both transports."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

import standpipe
from standpipe import assistant, errors, tool_call, tool_result, user
from standpipe import channel as wire
from standpipe.v1 import bundle_pb2, context_pb2, policy_pb2, session_pb2, turn_pb2
from standpipe.v1.context_pb2_grpc import add_ContextServiceServicer_to_server
from tests.clients.double import Double, Fault

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.timeout(30)]


async def reply(bundle: Any) -> str:
    """Answer like a model that knows only the version."""
    return f"I saw {bundle.version}"


@pytest.mark.asyncio
async def test_a_turn_goes_around(client: Any, double: Double) -> None:
    """A hydrate brings the bundle with all that came with it, and a commit at it becomes the next version."""
    session = client.session("s", subject="anna")
    bundle = await session.hydrate("Where were we?")
    assert (bundle.version, bundle.token, bundle.receipt) == (0, "h0", b"receipt s 0")
    assert (bundle.query, bundle.policy, len(bundle.fingerprint)) == ("Where were we?", "default@0", 64)
    assert bundle.degraded[0].cause == "embedder_off"
    assert (bundle.timings.total_us, bundle.tax.bundle_tokens, bundle.recall.items) == (7, 3, 2)
    commit = await session.commit([user("Hi"), assistant("Hello")], bundle=bundle)
    assert (commit.version, commit.event_hash, commit.token, commit.replayed) == (1, "ab" * 32, "c1", False)
    assert commit.committed_at == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    (sent,) = double.asked("CommitTurn")
    assert (sent.tenant_id, sent.session_id, sent.subject_id) == ("acme", "s", "anna")
    assert sent.HasField("expected_version")
    assert (sent.expected_version, sent.turn.bundle_receipt) == (0, b"receipt s 0")
    assert (sent.mode, sent.request_id) == (context_pb2.COMMIT_MODE_FAIL, commit.request_id)
    assert (await session.hydrate()).recall is None


@pytest.mark.asyncio
async def test_hydrate_says_what_was_asked(client: Any, double: Double) -> None:
    """Every option of a hydrate reaches the request, and what was not asked for stays absent."""
    session = client.session("s")
    await session.hydrate()
    await session.hydrate(
        "q",
        route="fast",
        budget_tokens=900,
        caps={"recall": 100, "history": 0},
        include=["history", "recall"],
        consistency=standpipe.Consistency(fully_consistent=True),
        tokenizer="cl100k_base",
    )
    await session.hydrate(model="gpt-4o", caps={"recall": 5})
    plain, full, capped = double.asked("HydrateContext")
    assert not plain.HasField("budget")
    assert not plain.HasField("consistency")
    assert (full.route, full.query, full.tokenizer) == ("fast", "q", "cl100k_base")
    assert full.budget.total_tokens == 900
    assert [(cap.source, cap.cap_tokens) for cap in full.budget.sources] == [(5, 100), (4, 0)]
    assert list(full.include) == [bundle_pb2.SOURCE_HISTORY, bundle_pb2.SOURCE_RECALL]
    assert full.consistency.WhichOneof("requirement") == "fully_consistent"
    assert (capped.model, capped.budget.HasField("total_tokens")) == ("gpt-4o", False)
    with pytest.raises(ValueError, match="SOURCE_RECAL"):
        await session.hydrate(caps={"recal": 5})


@pytest.mark.asyncio
async def test_a_session_reads_its_own_writes(client: Any, double: Double) -> None:
    """P4: the newest token seen goes with the next hydrate, older answers do not replace it, and it travels."""
    session = client.session("s")
    await session.commit(user("Hi"), expected_version=0)
    assert session.token == "c1"
    await session.hydrate()
    await client.session("s", token=session.token).hydrate()
    await session.get()
    assert session.token == "g1"
    del double.logs["s"]
    await session.hydrate()
    assert session.token == "g1"
    seen = [request.consistency.at_least_as_fresh for request in double.asked("HydrateContext")]
    assert seen == ["c1", "h1", "g1"]


@pytest.mark.asyncio
async def test_turn_answers_again_after_a_conflict(client: Any, double: Double) -> None:
    """P2: the loser of a version hydrates again, asks for a new answer, and commits it under a new request id."""
    session = client.session("s")
    versions: list[int] = []

    async def answer(bundle: Any) -> str:
        versions.append(bundle.version)
        if len(versions) < 3:
            double.append("s", f"rival-{bundle.version}", turn_pb2.Turn())
        return f"I saw {bundle.version}"

    done = await session.turn("Hi", answer, speaker="Anna", budget_tokens=50)
    assert versions == [0, 1, 2]
    assert (done.commit.version, done.bundle.version) == (3, 2)
    sent = double.asked("CommitTurn")
    assert len({request.request_id for request in sent}) == 3
    assert [entry.message.text for entry in sent[-1].turn.entries] == ["Hi", "I saw 2"]
    assert sent[-1].turn.entries[0].message.speaker == "Anna"
    assert [request.budget.total_tokens for request in double.asked("HydrateContext")] == [50] * 3


@pytest.mark.asyncio
async def test_turn_gives_up_with_the_conflict(client: Any, double: Double) -> None:
    """After the last attempt the conflict comes out, typed, with the winner."""
    double.append("s", "rival", turn_pb2.Turn())
    conflict = Fault("ABORTED", "VERSION_CONFLICT", current_version="7", winner_request_id="rival")
    double.plan("CommitTurn", conflict, conflict)
    with pytest.raises(errors.Conflict) as caught:
        await client.session("s").turn("Hi", reply, attempts=2)
    error = caught.value
    assert (error.code, error.reason) == ("ABORTED", "VERSION_CONFLICT")
    assert (error.current_version, error.winner_request_id) == (7, "rival")
    assert error.request_id == double.asked("CommitTurn")[-1].request_id
    with pytest.raises(ValueError, match="at least 1"):
        await client.session("s").turn("Hi", reply, attempts=0)


@pytest.mark.asyncio
async def test_turn_takes_tools_and_leaves_the_answers_errors_alone(client: Any, double: Double) -> None:
    """An answer may be entries; what the answer function raises, even our own errors, comes out uncommitted."""

    async def tools(_: Any) -> Any:
        return [tool_call("c1", "add", {"a": 1}), tool_result("c1", "2", is_error=True), assistant("2")]

    async def fails(_: Any) -> str:
        raise errors.Conflict("of another session")

    await client.session("s").turn("1+1?", tools)
    (sent,) = double.asked("CommitTurn")
    assert [entry.WhichOneof("entry") for entry in sent.turn.entries] == [
        "message",
        "tool_call",
        "tool_result",
        "message",
    ]
    assert sent.turn.entries[1].tool_call.arguments_json == '{"a":1}'
    with pytest.raises(errors.Conflict, match="of another session"):
        await client.session("s").turn("1+1?", fails)
    assert len(double.asked("HydrateContext")) == 2


@pytest.mark.asyncio
async def test_a_server_that_stops_is_retried_by_the_channel(client: Any, double: Double) -> None:
    """UNAVAILABLE, or a call that a stopping server dropped, and then success is success, under one request id."""
    down = Fault("UNAVAILABLE", "STORE_UNAVAILABLE", retry_ms=200, store="record")
    double.plan("CommitTurn", down, Fault("CANCELLED"))
    commit = await client.session("s").commit(user("Hi"), expected_version=0)
    assert commit.version == 1
    assert [request.request_id for request in double.asked("CommitTurn")] == [commit.request_id] * 3
    double.plan(
        "GetServerInfo", Fault("RESOURCE_EXHAUSTED", "OVERLOADED", retry_ms=100, limit="hydrates_in_flight_max")
    )
    with pytest.raises(errors.Overloaded) as caught:
        await client.server_info()
    assert caught.value.retry_after_ms == 100
    assert caught.value.metadata == {"limit": "hydrates_in_flight_max"}
    assert len(double.asked("GetServerInfo")) == 1


@pytest.mark.asyncio
async def test_a_request_id_commits_once(client: Any) -> None:
    """P3: the caller's own request id is kept, and a repeat says that it was one."""
    session = client.session("s")
    first = await session.commit(user("Hi"), expected_version=0, request_id="mine")
    again = await session.commit(user("Hi"), expected_version=0, request_id="mine")
    assert (first.request_id, first.replayed, again.replayed) == ("mine", False, True)
    assert (first.version, first.event_hash) == (again.version, again.event_hash)


@pytest.mark.asyncio
async def test_append_sends_no_version(client: Any, double: Double) -> None:
    """Mode append keeps the bundle's receipt and leaves its version out, since it must not matter."""
    session = client.session("s")
    bundle = await session.hydrate()
    double.append("s", "rival", turn_pb2.Turn())
    commit = await session.commit(user("Hi"), bundle=bundle, mode="append")
    (sent,) = double.asked("CommitTurn")
    assert (commit.version, sent.mode, sent.HasField("expected_version")) == (2, 2, False)
    assert sent.turn.bundle_receipt == b"receipt s 0"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (Fault("INVALID_ARGUMENT", "INVALID_FIELD"), errors.InvalidArgument, "INVALID_FIELD"),
        (Fault("NOT_FOUND", "SESSION_NOT_FOUND"), errors.NotFound, "SESSION_NOT_FOUND"),
        (Fault("ALREADY_EXISTS", "REQUEST_ID_REUSED"), errors.AlreadyExists, "REQUEST_ID_REUSED"),
        (Fault("FAILED_PRECONDITION", "SESSION_ENDED"), errors.SessionEnded, "SESSION_ENDED"),
        (Fault("FAILED_PRECONDITION", "SUBJECT_MISMATCH"), errors.FailedPrecondition, "SUBJECT_MISMATCH"),
        (Fault("OUT_OF_RANGE", "VERSION_IN_FUTURE"), errors.OutOfRange, "VERSION_IN_FUTURE"),
        (Fault("PERMISSION_DENIED", "TENANT_DENIED"), errors.PermissionDenied, "TENANT_DENIED"),
        (Fault("UNAUTHENTICATED", "UNAUTHENTICATED"), errors.Unauthenticated, "UNAUTHENTICATED"),
        (Fault("RESOURCE_EXHAUSTED", "STORE_FULL"), errors.ResourceExhausted, "STORE_FULL"),
        (Fault("DATA_LOSS", "STORE_CORRUPT"), errors.DataLoss, "STORE_CORRUPT"),
        (Fault("INTERNAL", "INTERNAL"), errors.Internal, "INTERNAL"),
        (Fault("UNKNOWN"), errors.StandpipeError, ""),
        (Fault("ABORTED"), errors.Conflict, ""),
        (Fault("NOT_FOUND", "SESSION_NOT_FOUND", domain="elsewhere.dev"), errors.NotFound, ""),
        (Fault("NOT_FOUND", details=b"\xff\xff not a status"), errors.NotFound, ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_every_status_has_its_error(client: Any, double: Double, fault: Any, kind: type, reason: str) -> None:
    """The class follows the status, the reason comes from our own details only, and broken details do no harm."""
    double.plan("GetServerInfo", fault)
    with pytest.raises(errors.StandpipeError) as caught:
        await client.server_info()
    assert type(caught.value) is kind
    assert (caught.value.reason, caught.value.code) == (reason, fault.code.name)
    assert caught.value.retry_after_ms is None


@pytest.mark.asyncio
async def test_errors_name_the_field_and_survive_pickling(client: Any) -> None:
    """A bad request names its field; an error keeps all it knows on the way to another process."""
    with pytest.raises(errors.InvalidArgument) as caught:
        await client.session("s").commit(user("Hi"))
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.field, error.field_message) == ("expected_version", "needed")
        assert str(error) == "INVALID_FIELD: scripted"
        assert error.request_id


@pytest.mark.asyncio
async def test_a_deadline_holds(client: Any, connect: Any, target: str, double: Double) -> None:
    """A call ends when its own deadline, or the client's, has passed, and the server sees it cancelled."""
    double.plan("HydrateContext", double.hang, double.hang)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        await client.session("s").hydrate(deadline_ms=80)
    assert (caught.value.code, caught.value.reason) == ("DEADLINE_EXCEEDED", "")
    await asyncio.wait_for(double.cancelled.wait(), 5)
    with pytest.raises(errors.DeadlineExceeded):
        await connect(target, deadline_ms=80).session("s").hydrate()


@pytest.mark.asyncio
async def test_a_server_that_is_down_is_unavailable(connect: Any, directory: Path) -> None:
    """Without a server the typed error comes after the channel's retries, without reason or details."""
    with pytest.raises(errors.Unavailable) as caught:
        await connect(f"unix:{directory}/nobody.sock").session("s").commit(user("Hi"), expected_version=0)
    error = caught.value
    assert (error.reason, error.metadata, error.retry_after_ms) == ("", {}, None)
    assert error.request_id


@pytest.mark.asyncio
async def test_a_call_outlives_a_restart(connect: Any, double: Double, directory: Path) -> None:
    """A call that comes while the sidecar restarts is answered by the new one, through the same client."""

    async def serve() -> grpc.aio.Server:
        server = grpc.aio.server()
        add_ContextServiceServicer_to_server(double, server)
        server.add_insecure_port(f"unix:{directory}/s.sock")
        await server.start()
        return server

    client = connect(f"unix:{directory}/s.sock")
    first = await serve()
    await client.server_info()
    await first.stop(None)
    call = asyncio.ensure_future(client.server_info())
    await asyncio.sleep(0.3)
    second = await serve()
    assert (await call).record_engine == "double"
    await second.stop(None)


@pytest.mark.asyncio
async def test_a_message_larger_than_the_wire_is_refused_here(client: Any, double: Double) -> None:
    """Four MiB pass both ways, which gRPC's defaults refuse; more than the wire limit never leaves the client."""
    big = "x" * (5 << 20)
    double.sections = [bundle_pb2.Section(segments=[bundle_pb2.Segment(body=big)])]
    session = client.session("s")
    assert len((await session.hydrate()).text) == 5 << 20
    await session.commit(user(big), expected_version=0)
    with pytest.raises(errors.ResourceExhausted):
        await session.commit([user(big), user(big)], expected_version=1)


@pytest.mark.asyncio
async def test_replay_info_and_paging(client: Any, double: Double) -> None:
    """Replays, server info, sessions, events and ends reach their calls, and pages are read to the last."""
    session = client.session("s1")
    for version in range(5):
        await session.commit(user(str(version)), expected_version=version)
    assert [event.version async for event in session.events(page_size=2)] == [1, 2, 3, 4, 5]
    assert [event.version async for event in session.events(3)] == [4, 5]
    assert [request.after_version for request in double.asked("ListEvents")] == [0, 2, 4, 3]
    await client.session("s2").commit(user("Hi"), expected_version=0)
    assert [info.session_id async for info in client.sessions(page_size=1)] == ["s1", "s2"]
    assert (await session.get()).version == 5
    assert (await session.end("done", expected_version=5)).version == 6
    assert double.asked("EndSession")[0].cause == "done"
    assert (await client.server_info()).record_engine == "double"
    replay = await client.replay(b"receipt", all_omissions=True)
    assert (replay.bundle.version, replay.bundle.receipt, replay.session_id) == (4, b"receipt", "s")
    assert (replay.served_at.tzinfo, replay.subject_id) == (UTC, "anna")
    assert double.asked("ReplayContext")[0].all_omissions
    with pytest.raises(errors.NotFound):
        await client.session("nobody").get()


@pytest.mark.asyncio
async def test_an_end_that_failed_names_its_request(client: Any, double: Double) -> None:
    """An end that may have happened can be repeated under the id in its error."""
    double.plan("EndSession", Fault("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", phase="append"))
    with pytest.raises(errors.DeadlineExceeded) as caught:
        await client.session("s").end()
    assert caught.value.request_id == double.asked("EndSession")[0].request_id
    assert caught.value.metadata == {"phase": "append"}


@pytest.mark.asyncio
async def test_iteration_can_be_left(client: Any, double: Double) -> None:
    """Leaving a log early reads no further page and leaks nothing."""
    for version in range(4):
        double.append("s", str(version), turn_pb2.Turn())
    events = client.session("s").events(page_size=1)
    async for event in events:
        if event.version == 2:
            break
    await events.aclose()
    assert len(double.asked("ListEvents")) == 2


@pytest.mark.asyncio
async def test_policies(client: Any, double: Double) -> None:
    """Policies are published, fetched, listed over all pages, and routed."""
    first = await client.policies.publish("name: p")
    await client.policies.publish("name: p2")
    assert (first.created, first.policy.version) == (True, 1)
    route = await client.policies.set_route("fast", "p", 2)
    assert (route.name, route.policy_name, route.policy_version) == ("fast", "p", 2)
    assert (await client.policies.get("p")).version == 2
    assert (await client.policies.get("p", 1)).document_yaml == "name: p"
    listed = await client.policies.list()
    assert ([policy.version for policy in listed.policies], len(listed.routes)) == ([1, 2], 1)
    assert len(double.asked("ListPolicies")) == 2


@pytest.mark.asyncio
async def test_metadata_goes_with_every_call(connect: Any, target: str, double: Double) -> None:
    """Credentials in metadata reach the server, and so does the client's name."""
    await connect(target, metadata=[("authorization", "Bearer t")]).server_info()
    metadata = double.requests[0][2]
    assert metadata["authorization"] == "Bearer t"
    assert metadata["user-agent"].startswith("standpipe-python")


@pytest.mark.asyncio
async def test_a_closed_client_says_so(client: Any) -> None:
    """Closing twice is fine; a call afterwards, or a client that never called, is no crash of gRPC's."""
    await client.server_info()
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.server_info()


@pytest.mark.asyncio
async def test_cancelling_a_task_cancels_its_call(target: str, double: Double) -> None:
    """A task's cancel stays CancelledError and reaches the server; a client closed meanwhile is Cancelled."""
    double.plan("HydrateContext", double.hang, double.hang)
    async with standpipe.connect(target) as client:
        task = asyncio.create_task(client.session("s").hydrate())
        await asyncio.wait_for(double.entered.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(double.cancelled.wait(), 5)
        double.entered.clear()
        task = asyncio.create_task(client.session("s").hydrate())
        await asyncio.wait_for(double.entered.wait(), 5)
    with pytest.raises(errors.Cancelled, match="closed"):
        await task


@pytest.mark.asyncio
async def test_the_blocking_client_is_shared_by_threads(target: str) -> None:
    """Threads may open the channel at once and share a session."""
    with standpipe.sync.connect(target) as client:
        session = client.session("s")
        commits = await asyncio.gather(
            *(asyncio.to_thread(session.commit, user(str(n)), mode="append") for n in range(8))
        )
    assert sorted(commit.version for commit in commits) == list(range(1, 9))
    assert session.token == "c8"


def test_the_blocking_client_has_every_method() -> None:
    """Both clients offer the same names and parameters, and only one of them waits."""
    for kind in ("Client", "Session", "Policies"):
        ours, theirs = getattr(standpipe, kind), getattr(standpipe.sync, kind)
        names = {name for name, value in vars(ours).items() if callable(value) and not name.startswith("_")}
        assert names == {name for name, value in vars(theirs).items() if callable(value) and not name.startswith("_")}
        for name in names:
            assert list(inspect.signature(getattr(ours, name)).parameters) == list(
                inspect.signature(getattr(theirs, name)).parameters
            )
            assert not inspect.iscoroutinefunction(getattr(theirs, name))
            assert getattr(theirs, name).__doc__
    assert list(inspect.signature(standpipe.connect).parameters) == list(
        inspect.signature(standpipe.sync.connect).parameters
    )


def test_helpers_build_entries() -> None:
    """The helpers write what the proto has, and refuse what would be ambiguous."""
    entry = user("Hi", speaker="Anna", at=datetime(2026, 1, 2, tzinfo=UTC))
    assert (entry.message.role, entry.message.speaker) == (turn_pb2.ROLE_USER, "Anna")
    assert entry.message.spoken_at.ToDatetime(UTC) == datetime(2026, 1, 2, tzinfo=UTC)
    assert not assistant("Hi").message.HasField("spoken_at")
    assert tool_call("c", "f").tool_call.arguments_json == ""
    assert tool_call("c", "f", '{"a": 1}').tool_call.arguments_json == '{"a": 1}'
    assert tool_call("c", "f", {"ä": [1, None]}).tool_call.arguments_json == '{"ä":[1,null]}'
    with pytest.raises(ValueError, match="time zone"):
        user("Hi", at=datetime(2026, 1, 2))  # noqa: DTZ001 - what is refused
    with pytest.raises(ValueError, match="JSON compliant"):
        tool_call("c", "f", {"a": float("nan")})


@pytest.mark.asyncio
async def test_plain_text_is_no_turn(client: Any, double: Double) -> None:
    """Text without a role is refused before anything is sent."""
    with pytest.raises(TypeError, match="entries made by"):
        await client.session("s").commit("Hi", expected_version=0)
    assert not double.requests


def test_the_service_config_retries_what_a_stopping_server_answers() -> None:
    """The config is what gRPC reads: bounded, with backoff, throttled, for all methods, and for nothing else."""
    (method,) = json.loads(json.dumps(wire.SERVICE_CONFIG))["methodConfig"]
    assert method["name"] == [{}]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert 2 <= method["retryPolicy"]["maxAttempts"] <= 5
    assert 0 < wire.SERVICE_CONFIG["retryThrottling"]["maxTokens"] <= 1000
    dialer: Any = standpipe.connect("", options=[("grpc.enable_http_proxy", 1)])._wire
    assert dict(dialer._options)["grpc.enable_http_proxy"] == 1


def test_every_reason_has_an_error() -> None:
    """Each status that sidecar/errors.py can send has its own class here, and the limits of the wire agree."""
    limits = pytest.importorskip("sidecar.limits")
    theirs = pytest.importorskip("sidecar.errors")
    assert (limits.wire_bytes, limits.deadline_default_ms) == (wire.WIRE_BYTES, wire.DEADLINE_MS)
    kinds = [kind for kind in vars(theirs).values() if isinstance(kind, type) and hasattr(kind, "reason")]
    for kind in kinds:
        error = errors.parse(kind.status, "", ())
        assert (type(error).status, type(error) is not errors.StandpipeError) == (kind.status, True)


def test_every_call_of_the_api_is_used() -> None:
    """Each method of the three services is named in the client, and no other."""
    source = inspect.getsource(standpipe.client)
    for module in (context_pb2, session_pb2, policy_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert f'"{service.name}/{method.name}"' in source


@pytest.mark.asyncio
async def test_secure_channels(double: Double, directory: Path, connect: Any) -> None:
    """Credentials make a secure channel: local ones on a Unix socket work, and prove the path."""
    del double
    server = grpc.aio.server()
    address = f"unix:{directory}/tls.sock"
    server.add_secure_port(address, grpc.local_server_credentials(grpc.LocalConnectionType.UDS))
    await server.start()
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    with pytest.raises(errors.Unimplemented):
        await connect(address, credentials=credentials).server_info()
    await server.stop(None)
