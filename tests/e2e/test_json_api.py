"""The API as JSON over HTTP: the same answers and errors as gRPC, by the protocol that Connect's clients speak."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import io
import json
import os
import shutil
import socket as sockets
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import jsonschema
import openapi_spec_validator
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from sidecar import embed_server, json_api, limits
from sidecar.errors import ConfigInvalid
from sidecar.server import SERVICES
from sidecar.stores.record import HeadRead
from standpipe.v1 import (
    context_pb2,
    error_pb2,
    fact_pb2,
    memory_pb2,
    policy_pb2,
    session_pb2,
    state_pb2,
    turn_pb2,
)
from tests.certificates import Certificates
from tests.e2e.pods import ROOT, Local, answered, call, commit_request, refusal_of, result, said, serving, until
from tests.servers import LOOPBACK

TOOLS = Path(os.environ.get("TEST_TOOLS_DIR", ROOT / ".cache" / "tools"))
SPEC = json.loads((ROOT / "protos" / "openapi.json").read_text())
HYDRATE = "ContextService/HydrateContext"
COMMIT = "ContextService/CommitTurn"
JSON = {"Content-Type": "application/json"}
MARK = "hunter2zebra"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: Any

    @property
    def details(self) -> dict[str, dict[str, Any]]:
        """Return an error's details by their kind, as JSON."""
        return {one["type"]: one["debug"] for one in self.body.get("details", ())}

    @property
    def reason(self) -> str:
        """Return an error's reason."""
        return str(self.details.get("google.rpc.ErrorInfo", {}).get("reason", ""))

    @property
    def field(self) -> str:
        """Return the field that an error names."""
        violations = self.details.get("google.rpc.BadRequest", {}).get("fieldViolations", [{}])
        return str(violations[0].get("field", ""))


class Http:
    """A client without any of our code."""

    def __init__(self, base: str, socket: str = "", tls: ssl.SSLContext | None = None) -> None:
        connector = aiohttp.UnixConnector(socket) if socket else aiohttp.TCPConnector(ssl=tls or True)
        self._session = aiohttp.ClientSession(base, connector=connector)

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, path: str, *, method: str = "POST", **more: Any) -> Answer:
        """Send anything; check an answer of JSON against the OpenAPI file."""
        async with self._session.request(method, path, **more) as answer:
            body = await answer.read()
            if answer.content_type != "application/json":
                return Answer(answer.status, answer.headers, body)
            found = Answer(answer.status, answer.headers, json.loads(body))
        if found.status == 200 and path in SPEC["paths"]:
            ok = SPEC["paths"][path]["post"]["responses"]["200"]
            check(found.body, ok["content"]["application/json"]["schema"])
        elif found.status != 200:
            check(found.body, {"$ref": "#/components/schemas/connect.Error"})
            assert found.body["code"] in {
                code for code, status in json_api.STATUSES.items() if status == found.status
            } | {404: {"unimplemented"}, 405: {"unimplemented"}, 415: {"invalid_argument"}}.get(found.status, set())
        return found

    async def call(self, method: str, request: Message | dict[str, Any] | None = None, **headers: str) -> Answer:
        """Call a method."""
        said = json_format.MessageToDict(request) if isinstance(request, Message) else request or {}
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send(f"/standpipe.v1.{method}", data=json.dumps(said).encode(), headers={**JSON, **more})


@cache
def strict() -> dict[str, Any]:
    """Return the schemas of the OpenAPI file, with nothing allowed that they do not name."""
    schemas = copy.deepcopy(SPEC["components"]["schemas"])

    def close(schema: Any) -> None:
        if isinstance(schema, dict):
            if "properties" in schema and isinstance(schema["properties"], dict):
                schema.setdefault("additionalProperties", False)
            for one in schema.values():
                close(one)

    close(schemas)
    return {"components": {"schemas": schemas}}


def check(body: Any, schema: dict[str, Any]) -> None:
    """Check an answer, strictly."""
    validator = jsonschema.Draft202012Validator(
        {**strict(), **schema}, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(body)


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a directory whose path is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="sp-"))
    yield path
    shutil.rmtree(path)


@contextlib.asynccontextmanager
async def both(directory: Path, **changes: Any) -> AsyncIterator[tuple[Local, Http, Http]]:
    """Serve JSON on loopback and on a socket, beside gRPC."""
    path = directory / "j.sock"
    listen_json = (f"{LOOPBACK}:0", f"unix:{path}")
    async with serving(directory / "r.db", listen_json=listen_json, **changes) as pod:
        base = f"http://{LOOPBACK}:{pod.server.json_ports[0]}"
        async with Http(base) as port, Http("http://localhost", str(path)) as socket:
            yield pod, port, socket


def kinds(method: str) -> tuple[type[Message], type[Message]]:
    """Return what a method takes and gives."""
    service, _, name = method.partition("/")
    found = descriptor_pool.Default().FindServiceByName(f"standpipe.v1.{service}").methods_by_name[name]
    return GetMessageClass(found.input_type), GetMessageClass(found.output_type)


async def by_grpc(pod: Local, method: str, request: Message) -> Message:
    """Call a method over gRPC."""
    taken, given = kinds(method)
    stub = pod.channel.unary_unary(
        f"/standpipe.v1.{method}", request_serializer=taken.SerializeToString, response_deserializer=given.FromString
    )
    return await stub(request, timeout=20)


VOLATILE = ("replayed", "created", "revision", "deleted", "timings", "served_at")
"""What differs between two calls of the same, whoever answers; and a bundle's receipt, in which the time is."""


def lasting(answer: Message) -> Message:
    """Return an answer without what differs between two calls."""
    for name in VOLATILE:
        if name in answer.DESCRIPTOR.fields_by_name:
            answer.ClearField(name)
    if isinstance(answer, context_pb2.HydrateContextResponse):
        answer.ClearField("receipt")
    for one in getattr(answer, "results", ()):
        if "created" in one.DESCRIPTOR.fields_by_name:
            one.ClearField("created")
    return answer


def ref(session: str, version: int, entry: int) -> turn_pb2.EventRef:
    """Return a reference."""
    return turn_pb2.EventRef(session_id=session, version=version, entry=entry)


def calls(receipt: bytes) -> list[tuple[str, Message]]:
    """Return a call of every method, each on what those before it left."""
    fact = fact_pb2.Fact(attribute="town", value="Oslo 漢", sources=[ref("s", 1, 0)])
    waits = fact_pb2.Fact(attribute="colour", value="grey", sources=[ref("s", 1, 3)])
    mine = ref("~m~anna", 1, 0)
    review = fact_pb2.Review(fact=ref("~m~anna", 1, 1), decision=fact_pb2.DECISION_ACCEPT, reviewer="Kim")
    correction = fact_pb2.FactCorrection(fact=mine, correction=fact_pb2.CORRECTION_RETRACT, cause="moved")
    document = fact_pb2.Document(document_id="d", title="Guide", text="Take a raincoat to Bergen.")
    turn = commit_request(
        "s", "r1", said("I live in Oslo.\u2028\U0001f600", speaker="Ana"), answered("Nice."), call("c"),
        result("c", "grey"), turn_pb2.TurnEntry(app_json='{"a": [1]}'), expected=0,
    )  # fmt: skip
    memory: dict[str, Message] = {
        "RecordFacts": memory_pb2.RecordFactsRequest(subject_id="anna", request_id="f", facts=[fact, waits]),
        "ListQuarantine": memory_pb2.ListQuarantineRequest(subject_id="anna"),
        "ReviewQuarantine": memory_pb2.ReviewQuarantineRequest(subject_id="anna", request_id="v", review=review),
        "PinFact": memory_pb2.PinFactRequest(
            subject_id="anna", request_id="p", pin=fact_pb2.Pin(fact=mine, pinned=True)
        ),
        "CorrectFact": memory_pb2.CorrectFactRequest(subject_id="anna", request_id="c", correction=correction),
        "PutProfile": memory_pb2.PutProfileRequest(
            subject_id="anna", request_id="a", attributes=[fact_pb2.ProfileAttribute(name="tone", value="dry")]
        ),
        "IngestDocuments": memory_pb2.IngestDocumentsRequest(subject_id="anna", documents=[document]),
        "SearchMemory": memory_pb2.SearchMemoryRequest(subject_id="anna", query="raincoat Oslo"),
        "ListBeliefs": memory_pb2.ListBeliefsRequest(subject_id="anna", all_statuses=True),
        "ExportSubject": memory_pb2.ExportSubjectRequest(subject_id="anna"),
    }
    context: dict[str, Message] = {
        "CommitTurn": turn,
        "HydrateContext": context_pb2.HydrateContextRequest(session_id="s", subject_id="anna", query="raincoat"),
        "GetServerInfo": context_pb2.GetServerInfoRequest(),
    }
    sessions: dict[str, Message] = {
        "GetSession": session_pb2.GetSessionRequest(session_id="s"),
        "ListSessions": session_pb2.ListSessionsRequest(),
        "ListEvents": session_pb2.ListEventsRequest(session_id="s"),
        "EndSession": session_pb2.EndSessionRequest(session_id="s", request_id="e", cause="done"),
    }
    write = state_pb2.StateWrite(key="k/\u6f22", value=b"\x00\xff", ttl_s=9999)
    state: dict[str, Message] = {
        "PutState": state_pb2.PutStateRequest(subject_id="anna", collection="c", writes=[write]),
        "GetState": state_pb2.GetStateRequest(subject_id="anna", collection="c", keys=["k/\u6f22", "no"]),
        "ListState": state_pb2.ListStateRequest(subject_id="anna", collection="c", key_prefix="k", page_size=1),
        "DeleteState": state_pb2.DeleteStateRequest(subject_id="anna", collection="c", key_prefix="k"),
    }
    route = policy_pb2.Route(name="r", policy_name="p", policy_version=1)
    policies: dict[str, Message] = {
        "PublishPolicy": policy_pb2.PublishPolicyRequest(document_yaml="name: p\nprompts: [{text: Be brief.}]\n"),
        "SetRoute": policy_pb2.SetRouteRequest(route=route),
        "GetPolicy": policy_pb2.GetPolicyRequest(name="p", version=1),
        "ListPolicies": policy_pb2.ListPoliciesRequest(),
    }
    return [
        *((f"PolicyService/{name}", request) for name, request in policies.items()),
        *((f"StateService/{name}", request) for name, request in state.items()),
        *((f"ContextService/{name}", request) for name, request in context.items()),
        *((f"MemoryService/{name}", request) for name, request in memory.items()),
        ("ContextService/HydrateContext", context["HydrateContext"]),
        ("ContextService/ReplayContext", context_pb2.ReplayContextRequest(receipt=receipt, all_omissions=True)),
        *((f"SessionService/{name}", request) for name, request in sessions.items()),
        ("MemoryService/EraseSubject", memory_pb2.EraseSubjectRequest(subject_id="anna", session_id="s")),
    ]


@pytest.mark.parametrize("where", ["port", "socket"])
async def test_every_method_answers_as_over_grpc(short: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each RPC of every service, first as JSON and then over gRPC: equal answers, and writes were retries (P3, P6)."""
    monkeypatch.setattr(limits, "nearest_s", 0.01)
    async with both(short) as (pod, port, socket):
        http = port if where == "port" else socket
        await pod.append("before", "r", "I like raincoats.")
        receipt = (await pod.hydrate("before", "raincoat")).receipt
        made = calls(receipt)
        for method, request in made:
            answer = await http.call(method, request)
            assert answer.status == 200, (method, answer)
            assert answer.headers["Content-Type"] == "application/json"
            _, given = kinds(method)
            read = json_format.ParseDict(answer.body, given())
            again = await by_grpc(pod, method, request)
            if hasattr(again, "replayed"):
                assert (read.replayed, again.replayed) == (False, True), method
            assert lasting(read) == lasting(again), method
            assert answer.body == json_format.MessageToDict(json_format.ParseDict(answer.body, given())), method
        services = [descriptor_pool.Default().FindServiceByName(name) for name in SERVICES]
        assert {method for method, _ in made} == {f"{one.name}/{rpc.name}" for one in services for rpc in one.methods}


async def test_both_names_of_a_field_and_bytes_are_read(short: Path) -> None:
    """A field goes by either of its names, an int64 as text or number, and Connect's binary form is read."""
    async with both(short) as (pod, http, _):
        entry = {"message": {"role": "ROLE_USER", "text": "hi", "spokenAt": "2026-01-02T03:04:05.5Z"}}
        turn = {"entries": [entry]}
        for number, request in enumerate((
            {"sessionId": "s", "subjectId": "a", "requestId": "r0", "expectedVersion": "0", "turn": turn},
            {"session_id": "s", "request_id": "r1", "expected_version": 1, "turn": turn},
            {"session_id": "s", "request_id": "r2", "mode": 2, "turn": turn, "facts": None},
        )):  # fmt: skip
            answer = await http.call(COMMIT, request)
            assert answer.body["result"]["version"] == str(number + 1)
        request = session_pb2.GetSessionRequest(session_id="s").SerializeToString()
        binary = {"Content-Type": "application/proto", "Connect-Protocol-Version": "1"}
        answer = await http.send("/standpipe.v1.SessionService/GetSession", data=request, headers=binary)
        assert answer.headers["Content-Type"] == "application/proto"
        assert session_pb2.GetSessionResponse.FromString(answer.body) == await pod.session("s")
        answer = await http.send("/standpipe.v1.SessionService/GetSession", data=b"\xff\xff", headers=binary)
        assert (answer.status, answer.reason) == (400, "INVALID_FIELD")


async def test_errors_are_those_of_grpc(short: Path) -> None:
    """Code, message and every detail are the same, byte for byte; the HTTP status is the one that Connect has."""
    async with both(short) as (pod, http, _):
        await pod.commit("s", "r", "hello", expected=0)
        await pod.end("s", "e")
        cases: list[tuple[str, Message, int, str]] = [
            (COMMIT, commit_request("s", "r", "other", expected=0), 409, "REQUEST_ID_REUSED"),
            (COMMIT, commit_request("t", "r", "x", expected=7), 400, "VERSION_IN_FUTURE"),
            (COMMIT, commit_request("s", "n", "x", expected=0), 409, "VERSION_CONFLICT"),
            (COMMIT, commit_request("s", "n", "x", expected=2), 400, "SESSION_ENDED"),
            (COMMIT, commit_request("t", "r", " ", expected=0), 400, "INVALID_FIELD"),
            (COMMIT, commit_request("t", "r", "x" * (limits.message_bytes + 1), expected=0), 400, "LIMIT_EXCEEDED"),
            (HYDRATE, context_pb2.HydrateContextRequest(session_id="s", subject_id="ben"), 400, "SUBJECT_MISMATCH"),
            (HYDRATE, context_pb2.HydrateContextRequest(session_id="s", tenant_id="other"), 403, "TENANT_DENIED"),
            ("SessionService/GetSession", session_pb2.GetSessionRequest(session_id="no"), 404, "SESSION_NOT_FOUND"),
        ]
        for method, request, status, reason in cases:
            answer = await http.call(method, request)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await by_grpc(pod, method, request)
            wire = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
            assert (answer.status, answer.reason) == (status, reason)
            assert answer.body["code"] == caught.value.code().name.lower()
            assert answer.body["message"] == wire.message
            theirs = [(one.TypeName(), one.value) for one in wire.details]
            ours = [(one["type"], base64.b64decode(one["value"] + "==")) for one in answer.body["details"]]
            assert ours == theirs
            assert answer.field == refusal_of(caught.value).field
        conflict = await http.call(*cases[2][:2])
        metadata = conflict.details["google.rpc.ErrorInfo"]["metadata"]
        assert (metadata["current_version"], metadata["winner_request_id"]) == ("2", "r")


async def test_a_defect_says_nothing_of_itself(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in the server is 500 with an id that its log has, and no words of it."""
    async with both(short) as (pod, http, _):
        fetch = pod.server.record.fetch

        async def fail(reads: Any, **more: Any) -> Any:
            if isinstance(reads[0], HeadRead):
                raise TypeError(MARK)
            return await fetch(reads, **more)

        with monkeypatch.context() as patch:
            patch.setattr(pod.server.record, "fetch", fail)
            answer = await http.call("SessionService/GetSession", {"sessionId": "s"})
        assert (answer.status, answer.reason) == (500, "INTERNAL")
        assert answer.details["google.rpc.ErrorInfo"]["metadata"]["correlation_id"] in pod.log()
        assert MARK not in str(answer) + pod.log()
        pod.forget_log()


BAD: list[tuple[bytes, str]] = [
    (b"", ""),
    (b"[]", ""),
    (b"{", ""),
    (b"\xff{}", ""),
    (b"\xef\xbb\xbf{}", ""),
    (b'{"a": NaN}', ""),
    (b'{"sessionId": "a", "sessionId": "b"}', ""),
    (b"[" * 100_000, ""),
    (b'{"turn": ' * 5000, ""),
    (b'{"hunter2zebra": 1}', ""),
    (b'{"turn": "hunter2zebra"}', "turn"),
    (b'{"turn": {"entries": {"hunter2zebra": 1}}}', "turn.entries"),
    (b'{"turn": {"entries": [{}, {"hunter2zebra": {}}]}}', "turn.entries[1]"),
    (b'{"turn": {"entries": [{"message": {"role": "hunter2zebra"}}]}}', "turn.entries[0].message.role"),
    (b'{"turn": {"entries": [{"message": {"spokenAt": "hunter2zebra"}}]}}', "turn.entries[0].message.spoken_at"),
    (b'{"turn": {"entries": [{"message": {"text": 1}}]}}', "turn.entries[0].message.text"),
    (b'{"turn": {"entries": [{"message": {"text": "\\ud800"}}]}}', "turn.entries[0].message.text"),
    (b'{"turn": {"entries": [{"message": {}, "toolCall": {}}]}}', "turn.entries[0]"),
    (b'{"turn": {"bundleReceipt": "a"}}', "turn.bundle_receipt"),
    (b'{"expectedVersion": "hunter2zebra"}', "expected_version"),
    (b'{"expectedVersion": 1.5}', "expected_version"),
    (b'{"expectedVersion": "99999999999999999999"}', "expected_version"),
    (b'{"mode": "COMMIT_MODE_hunter2zebra"}', "mode"),
    (b'{"turn": null, "mode": []}', "mode"),
    (b'{"facts": [{"pinned": "true"}]}', "facts[0].pinned"),
]


async def test_what_cannot_be_read_is_named(short: Path) -> None:
    """Bytes that are no message of the method are INVALID_FIELD with the field's path; nothing is repeated (P8)."""
    async with both(short) as (pod, http, _):
        for body, field in BAD:
            answer = await http.send(f"/standpipe.v1.{COMMIT}", data=body, headers=JSON)
            assert (answer.status, answer.reason, answer.field) == (400, "INVALID_FIELD", field), body[:80]
            assert MARK not in str(answer.body)
        assert MARK not in pod.log()


async def test_what_is_no_call_is_refused(short: Path) -> None:
    """Other paths, methods, content types and encodings, and every browser: refused, in the protocol's own words."""
    path = f"/standpipe.v1.{HYDRATE}"
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"path": "/"}, 404, "unimplemented"),
        ({"path": "/standpipe.v1.ContextService/Nope"}, 404, "unimplemented"),
        ({"path": "/grpc.health.v1.Health/Check"}, 404, "unimplemented"),
        ({"method": "GET"}, 405, "unimplemented"),
        ({"method": "OPTIONS"}, 405, "unimplemented"),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "invalid_argument"),
        ({"headers": {"Content-Type": "application/json; charset=latin-1"}}, 415, "invalid_argument"),
        ({"headers": {"Content-Type": "application/connect+json"}}, 415, "invalid_argument"),
        ({"headers": {**JSON, "Origin": "https://page.example"}}, 403, "permission_denied"),
        ({"headers": {**JSON, "Origin": "null"}}, 403, "permission_denied"),
        ({"method": "OPTIONS", "headers": {"Origin": "https://page.example"}}, 403, "permission_denied"),
        ({"headers": {**JSON, "Content-Encoding": "gzip"}}, 501, "unimplemented"),
        ({"headers": {**JSON, "Connect-Protocol-Version": "2"}}, 400, "invalid_argument"),
        ({"headers": {**JSON, "Connect-Timeout-Ms": "soon"}}, 400, "invalid_argument"),
        ({"headers": {**JSON, "Connect-Timeout-Ms": "12345678901"}}, 400, "invalid_argument"),
    ]
    async with both(short) as (_, port, socket):
        for http in (port, socket):
            for more, status, code in cases:
                answer = await http.send(**{"path": path, "data": b"{}", "headers": JSON, **more})
                assert (answer.status, answer.body["code"]) == (status, code), more
                assert "Access-Control-Allow-Origin" not in answer.headers
            headers = {"Content-Type": "application/json; charset=UTF-8"}
            answer = await http.send(path, data=b'{"sessionId": "s", "subjectId": "anna"}', headers=headers)
            assert answer.status == 200


async def test_messages_have_the_size_of_grpcs(short: Path) -> None:
    """The largest turn is taken, whether its length is said before or not; more than 8 MiB are not."""
    async with both(short) as (pod, http, _):
        text = "word " * (limits.message_bytes // 5)
        request = commit_request("s", "r", text, answered(text[:-600]), expected=0)
        body = json.dumps(json_format.MessageToDict(request)).encode()
        assert len(body) > 1_000_000

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        path = f"/standpipe.v1.{COMMIT}"
        assert (await http.send(path, data=body, headers=JSON)).status == 200
        assert (await http.send(path, data=body, headers={**JSON, "Expect": "100-continue"})).body["replayed"]
        assert (await http.send(path, data=pieces(), headers=JSON)).body["replayed"]

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b" " * (1 << 20)

        full = b"{}".ljust(limits.wire_bytes)
        assert (await http.send(path, data=io.BytesIO(full), headers=JSON)).reason == "INVALID_FIELD"  # it was read
        for data in (io.BytesIO(full + b" "), endless()):
            with contextlib.suppress(aiohttp.ClientError):  # who goes on sending may miss the answer
                answer = await http.send(path, data=data, headers=JSON)
                assert (answer.status, answer.body["code"]) == (429, "resource_exhausted")
                assert "wire_bytes" in answer.body["message"]
        assert (await pod.session("s")).session.version == 1


async def test_an_answer_over_the_limit_is_refused(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is larger than a message may be ends as it does over gRPC."""
    async with both(short) as (pod, http, _):
        await pod.append("s", "r", "x" * 5000)
        monkeypatch.setattr(limits, "wire_bytes", 4000)
        answer = await http.call("SessionService/ListEvents", {"sessionId": "s"})
        assert (answer.status, answer.body["code"]) == (429, "resource_exhausted")


async def test_deadlines(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect-Timeout-Ms is the call's deadline: work that does not end by then is answered with DEADLINE_EXCEEDED."""
    async with both(short) as (pod, http, _):
        answer = await http.call(HYDRATE, {"sessionId": "s", "subjectId": "a"}, Connect_Timeout_Ms="0")
        assert (answer.status, answer.reason) == (504, "DEADLINE_EXCEEDED")
        assert answer.details["google.rpc.ErrorInfo"]["metadata"] == {"phase": "arrival"}
        assert (await http.call(HYDRATE, {"sessionId": "s", "subjectId": "a"}, Connect_Timeout_Ms="9999")).status == 200
        cancelled = asyncio.Event()

        async def hang(*_: Any, **__: Any) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        monkeypatch.setattr(pod.server.record, "fetch", hang)
        answer = await http.call("SessionService/GetSession", {"sessionId": "s"}, Connect_Timeout_Ms="50")
        assert (answer.status, answer.body["code"]) == (504, "deadline_exceeded")
        await asyncio.wait_for(cancelled.wait(), 10)

        async def trickle() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(30)
            yield b"}"

        path = "/standpipe.v1.SessionService/GetSession"
        with contextlib.suppress(aiohttp.ClientError):
            answer = await http.send(path, data=trickle(), headers={**JSON, "Connect-Timeout-Ms": "50"})
            assert (answer.status, answer.body["code"]) == (504, "deadline_exceeded")


async def test_a_caller_that_leaves_ends_its_call(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with gRPC: work for nobody is cancelled, and counted so; calls are counted alike."""
    async with both(short) as (pod, http, _):
        began, ended = asyncio.Event(), asyncio.Event()

        async def hang(*_: Any, **__: Any) -> None:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        await http.call("SessionService/GetSession", {"sessionId": "s"})
        await pod.append("s", "r", "hello")
        await http.call("SessionService/GetSession", {"sessionId": "s"})
        monkeypatch.setattr(pod.server.record, "fetch", hang)
        task = asyncio.create_task(http.call("SessionService/GetSession", {"sessionId": "s"}))
        await asyncio.wait_for(began.wait(), 10)
        task.cancel()
        await asyncio.wait_for(ended.wait(), 10)

        async def counted() -> bool:
            metrics = await asyncio.to_thread(pod.metrics)
            return all(
                metrics.get(f'standpipe_calls_total{{method="GetSession",reason="{reason}",status="{status}"}}') == 1
                for status, reason in (("OK", ""), ("NOT_FOUND", "SESSION_NOT_FOUND"), ("CANCELLED", ""))
            )

        await until(counted)


# --- callers -----------------------------------------------------------------------------------------------------


async def test_without_a_token_nothing_is_answered(short: Path) -> None:
    """Every method wants the token, on a port and on a socket, before it reads a request (P8)."""
    (short / "tokens").write_text("a-token-of-callers-1\n")
    async with both(short, auth_token_file=str(short / "tokens")) as (pod, port, socket):
        for http in (port, socket):
            for path in SPEC["paths"]:
                if "EmbeddingService" in path or not path[1:].startswith(SERVICES):
                    continue
                for brought in ({}, {"Authorization": "Bearer another-token-of-16"}, {"Authorization": "Basic YTpi"}):
                    for body in (b"{}", b"nonsense"):
                        answer = await http.send(path, data=body, headers={**JSON, **brought})
                        assert (answer.status, answer.reason) == (401, "UNAUTHENTICATED"), path
                        assert answer.headers["WWW-Authenticate"] == "Bearer"
                        assert "another-token" not in str(answer.body)
            good = "Bearer a-token-of-callers-1"
            request = {"sessionId": "s", "subjectId": "anna"}
            assert (await http.call(HYDRATE, request, Authorization=good)).status == 200
            twice = [("Content-Type", "application/json"), ("Authorization", good), ("Authorization", good)]
            answer = await http.send(f"/standpipe.v1.{HYDRATE}", data=json.dumps(request).encode(), headers=twice)
            assert answer.status == 401
        assert "a-token-of-callers" not in pod.log()


def trusting(authority: Path, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Return what a client trusts and shows."""
    context = ssl.create_default_context(cafile=str(authority))
    if pair:
        context.load_cert_chain(*pair)
    return context


async def test_certificates(short: Path, tmp_path: Path) -> None:
    """A port speaks TLS, asks for the client's certificate and knows the tenant by it; a socket does neither (P8)."""
    from cryptography import x509

    ours, others = Certificates.make(tmp_path / "ours"), Certificates.make(tmp_path / "others")
    web = ours.issue("web", x509.UniformResourceIdentifier("spiffe://example/acme/web"))
    mail = ours.issue("mail", x509.DNSName("mail.umbrella.example"))
    nobody = ours.issue("nobody", x509.DNSName("nobody.example"))
    foreign = others.issue("web", x509.UniformResourceIdentifier("spiffe://example/acme/web"))
    entries = [
        {"tenant": "acme", "callers": ["spiffe://example/acme/*"]},
        {"tenant": "umbrella", "callers": ["dns:mail.umbrella.example"]},
    ]
    (tmp_path / "tenants.yaml").write_text(json.dumps({"tenants": entries}))
    changes = {
        "tls_cert_file": str(ours.certificate),
        "tls_key_file": str(ours.key),
        "tls_client_ca_file": str(ours.authority),
        "tenants_file": str(tmp_path / "tenants.yaml"),
    }
    async with both(short, **changes) as (pod, plain, socket):
        base = f"https://{LOOPBACK}:{pod.server.json_ports[0]}"
        request = {"sessionId": "s", "subjectId": "anna"}
        for pair, status in ((web, 200), (mail, 200), (nobody, 403)):
            async with Http(base, tls=trusting(ours.authority, pair)) as http:
                assert (await http.call(HYDRATE, request)).status == status
        async with Http(base, tls=trusting(ours.authority, mail)) as http:
            assert (await http.call(HYDRATE, {**request, "tenantId": "acme"})).reason == "TENANT_DENIED"
        for tls in (
            trusting(ours.authority),
            trusting(ours.authority, foreign),
            trusting(others.authority, web),
        ):
            async with Http(base, tls=tls) as http:
                with pytest.raises(aiohttp.ClientError):
                    await http.call(HYDRATE, request)
        with pytest.raises(aiohttp.ClientError):
            await plain.call(HYDRATE, request)
        assert (await socket.call(HYDRATE, request)).reason == "UNAUTHENTICATED"


async def test_certificates_are_followed(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New files are in force for the next handshake, without a restart: the server's own, and whom it lets in."""
    monkeypatch.setattr(limits, "mounted_look_s", 0.05)
    before, after = Certificates.make(tmp_path / "before"), Certificates.make(tmp_path / "after")
    from cryptography import x509

    pairs = [one.issue("web", x509.DNSName("web.example")) for one in (before, after)]
    mounted = {name: tmp_path / name for name in ("cert", "key", "ca")}

    def put(one: Certificates) -> None:
        for name, source in (("cert", one.certificate), ("key", one.key), ("ca", one.authority)):
            mounted[name].write_bytes(source.read_bytes())

    put(before)
    changes = {
        "tls_cert_file": str(mounted["cert"]),
        "tls_key_file": str(mounted["key"]),
        "tls_client_ca_file": str(mounted["ca"]),
    }
    async with both(short, **changes) as (pod, _, _):
        base = f"https://{LOOPBACK}:{pod.server.json_ports[0]}"
        request = {"sessionId": "s", "subjectId": "anna"}
        async with Http(base, tls=trusting(before.authority, pairs[0])) as http:
            assert (await http.call(HYDRATE, request)).status == 200
        put(after)

        async def taken_up() -> bool:
            try:
                async with Http(base, tls=trusting(after.authority, pairs[1])) as http:
                    return (await http.call(HYDRATE, request)).status == 200
            except aiohttp.ClientError:
                return False

        await until(taken_up)
        for authority, pair in (
            (before.authority, pairs[0]),
            (after.authority, pairs[0]),
            (before.authority, pairs[1]),
        ):
            async with Http(base, tls=trusting(authority, pair)) as http:
                with pytest.raises(aiohttp.ClientError):
                    await http.call(HYDRATE, request)


async def test_a_connection_is_not_kept_for_ever(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At connection_age_ms the answer ends its connection, as gRPC's server does; the next call opens another."""
    async with both(short) as (_, http, _socket):
        assert "Connection" not in (await http.call("ContextService/GetServerInfo")).headers
        monkeypatch.setattr(limits, "connection_age_ms", 0)
        for _ in range(2):
            answer = await http.call("ContextService/GetServerInfo")
            assert (answer.status, answer.headers["Connection"]) == (200, "close")


# --- sockets and the drain -----------------------------------------------------------------------------------------


async def test_a_drain_lets_calls_end(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New calls are told that it drains, those at work end, and the socket's file is gone (P12)."""
    going, go = asyncio.Event(), asyncio.Event()
    async with both(short, drain_ms=5000) as (pod, port, socket):
        fetch = pod.server.record.fetch

        async def held(*args: Any, **more: Any) -> Any:
            going.set()
            await go.wait()
            return await fetch(*args, **more)

        await pod.append("s", "r", "hello")
        assert (await socket.call("ContextService/GetServerInfo")).status == 200
        assert stat.S_IMODE((short / "j.sock").stat().st_mode) == 0o660
        monkeypatch.setattr(pod.server.record, "fetch", held)
        at_work = asyncio.create_task(port.call("SessionService/GetSession", {"sessionId": "s"}))
        await asyncio.wait_for(going.wait(), 10)
        stopping = asyncio.create_task(pod.server.stop())

        async def draining() -> bool:
            return bool(pod.server.boundary.draining)

        await until(draining)
        answer = await socket.call("SessionService/GetSession", {"sessionId": "s"})
        assert (answer.status, answer.reason) == (503, "DRAINING")
        assert "retryDelay" in answer.details["google.rpc.RetryInfo"]
        go.set()
        assert (await at_work).body["session"]["version"] == "1"
        await asyncio.wait_for(stopping, 10)
        with pytest.raises(aiohttp.ClientError):
            await port.call("ContextService/GetServerInfo")
        assert not (short / "j.sock").exists()


async def test_a_second_server_is_refused(short: Path) -> None:
    """A live address is nobody else's, a stale socket's file is taken over, and another file is never touched (P12)."""
    async with both(short) as (pod, _, socket):
        for address in (f"unix:{short / 'j.sock'}", f"{LOOPBACK}:{pod.server.json_ports[0]}", pod.target):
            with pytest.raises(ConfigInvalid) as caught:
                async with serving(short / "r.db", listen_json=(f"{LOOPBACK}:0", address)):
                    pass
            assert caught.value.field == "listen_json"
        assert (await socket.call("ContextService/GetServerInfo")).status == 200
    with contextlib.closing(sockets.socket(sockets.AF_UNIX)) as left:
        left.bind(str(short / "j.sock"))
    async with both(short) as (_, _, socket):
        assert (await socket.call("ContextService/GetServerInfo")).status == 200
    (short / "precious").write_text("precious")
    with pytest.raises(ConfigInvalid):
        async with serving(short / "r.db", listen_json=(f"unix:{short / 'precious'}",)):
            pass
    assert (short / "precious").read_text() == "precious"


def test_who_serves_no_json_does_not_pay_for_it() -> None:
    """The library behind it is imported where the setting is used, and nowhere else."""
    code = "import sys, sidecar.server, sidecar.embed_server; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- others' tools -------------------------------------------------------------------------------------------------


@pytest.fixture
def modules() -> Path:
    """Return where Connect's clients are."""
    found = TOOLS / "buf" / "node_modules"
    if not (found / "@connectrpc").is_dir() or shutil.which("node") is None:
        missing = f"no Connect clients in {found}: `make proto-check` gets them, with npm"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return found


async def run(*command: Any) -> tuple[int, str, str]:
    """Run a program; return its status, and what it said."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    made = await asyncio.create_subprocess_exec(*map(str, command), **pipes)
    out, err = await made.communicate()
    return made.returncode or 0, out.decode(), err.decode()


async def test_bufs_client(short: Path, modules: Path) -> None:
    """The client of buf speaks Connect with it as it is: over loopback and the socket, answers and typed errors."""
    async with both(short) as (pod, _, _):
        await pod.append("s", "r", "hello")
        port = f"http://{LOOPBACK}:{pod.server.json_ports[0]}"
        curl = (modules / ".bin" / "buf", "curl", "--protocol", "connect", "--schema", ROOT / "protos", "--data")
        for base, more in ((port, ()), ("http://localhost", ("--unix-socket", short / "j.sock"))):
            url = f"{base}/standpipe.v1.SessionService/GetSession"
            status, out, err = await run(*curl, '{"session_id": "s"}', *more, url)
            assert (status, json.loads(out)["session"]["version"]) == (0, "1"), err
            status, out, err = await run(*curl, '{"session_id": "no"}', *more, url)
            assert status
            assert json.loads(err)["code"] == "not_found"
            assert "SESSION_NOT_FOUND" in err


async def test_connects_client_for_node(short: Path, modules: Path) -> None:
    """Connect's client for Node commits, retries and reads typed errors, as JSON and in binary form (P2, P3)."""
    files = descriptor_pb2.FileDescriptorSet()

    def add(file: Any) -> None:
        for one in file.dependencies:
            add(one)
        if file.name not in {one.name for one in files.file}:
            made = files.file.add()
            file.CopyToProto(made)
            for message in made.message_type:
                for field in message.field:
                    field.json_name = file.message_types_by_name[message.name].fields_by_name[field.name].json_name

    add(context_pb2.DESCRIPTOR)
    add(error_details_pb2.DESCRIPTOR)
    (short / "api.binpb").write_bytes(files.SerializeToString())
    async with both(short) as (pod, _, _):
        port = f"http://{LOOPBACK}:{pod.server.json_ports[0]}"
        script = Path(__file__).with_name("connect.mjs")
        status, out, err = await run("node", script, modules, short / "api.binpb", port, "s", 0)
        assert status == 0, err
        conflict = {"code": "Aborted", "reason": "VERSION_CONFLICT", "current": "1"}
        committed = {"version": "1", "replayed": False, "shown": "hi \u6f22\n"}
        assert json.loads(out) == [committed, conflict, {**committed, "replayed": True}, conflict]
        assert (await pod.session("s")).session.version == 1


def test_the_openapi_file_is_one() -> None:
    """It is valid OpenAPI, says something of everything, and has the methods, codes and reasons that there are."""
    openapi_spec_validator.validate(SPEC)
    services = [descriptor_pool.Default().FindServiceByName(name) for name in (*SERVICES, *embed_server.SERVICES)]
    assert {f"/{one.full_name}/{rpc.name}" for one in services for rpc in one.methods} <= set(SPEC["paths"])
    for path, item in SPEC["paths"].items():
        assert item["post"]["description"], path
    for name, schema in SPEC["components"]["schemas"].items():
        assert schema["description"].strip(), name
        for field, told in schema.get("properties", {}).items():
            assert told.get("description", "").strip(), (name, field)
    statuses: dict[str, set[int]] = {}
    for name, response in SPEC["components"]["responses"].items():
        for code in response["description"].removeprefix("The call failed: ").rstrip(".").split(", "):
            statuses.setdefault(code, set()).add(int(name.removeprefix("Error")))
    assert {code: min(found) for code, found in statuses.items()} | {"unimplemented": 501} == json_api.STATUSES
    reasons = SPEC["components"]["schemas"]["standpipe.v1.ErrorReason"]["enum"]
    assert reasons == [name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()]  # noqa: SIM118


def test_every_code_of_grpc_has_a_status() -> None:
    """A status that an error of ours could have is never without HTTP's."""
    names = {code.name.lower() for code in grpc.StatusCode} - {"ok", "cancelled"} | {"canceled"}
    assert names == set(json_api.STATUSES)
    assert {kind.DESCRIPTOR.full_name for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)} <= set(
        SPEC["components"]["schemas"]["connect.ErrorDetail"]["properties"]["type"]["enum"]
    )
    assert descriptor_pb2.FieldDescriptorProto.TYPE_GROUP not in {
        field.type
        for service in SERVICES
        for method in descriptor_pool.Default().FindServiceByName(service).methods
        for field in method.input_type.fields
    }
