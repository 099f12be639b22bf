"""Anything at all, through a real socket: every answer is a documented one, and the server lives on (P8, P12)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import descriptor, timestamp_pb2
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sidecar.embed import Embedder
from standpipe.v1 import context_pb2, embedding_pb2, error_pb2, policy_pb2, session_pb2, state_pb2, turn_pb2
from tests.e2e import embedders
from tests.e2e.pods import Local, Pod, answered, budget, call, commit_request, refusal_of, result, said, serving
from tests.faults.log_check import ROUNDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICES = [
    context_pb2.DESCRIPTOR.services_by_name["ContextService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
    policy_pb2.DESCRIPTOR.services_by_name["PolicyService"],
    state_pb2.DESCRIPTOR.services_by_name["StateService"],
]
METHODS = {
    f"/{service.full_name}/{method.name}": method.input_type._concrete_class
    for service in SERVICES
    for method in service.methods
}
EMBED = f"/{embedding_pb2.DESCRIPTOR.services_by_name['EmbeddingService'].full_name}/Embed"
REASONS = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()}  # noqa: SIM118 - an enum
MARK = "zebra xyzzy"
CALL_S = 15.0
SCALE = 10 if ROUNDS else 1

QUICK = settings(
    max_examples=250 * SCALE,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pod(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Local]:
    """One server for all of it, with something to find in it."""
    async with serving(tmp_path_factory.mktemp("fuzz") / "record.db") as found:
        for number in range(5):
            await found.append("s", f"r{number}", f"Turn {number} about the harbour.", call(f"c{number}"))
        found.answer = await found.hydrate("s", "harbour")
        yield found
        assert (await found.session("s")).session.version >= 5, "the server did not live on"
        assert MARK not in found.log()


# --- random messages, by descriptor: any field may be missing, sensible, or extreme ----------------------

_WORDS = st.sampled_from(
    ["s", "anna", "r1", "default", "name: a\n", "{}", "c1", "o200k_base", "gpt-4o", "", " ", "\0", "é", MARK, "x" * 129]
)
_TEXT = st.one_of(_WORDS, st.text(max_size=40).filter(lambda text: text.isprintable() or True))
_EDGES = {
    descriptor.FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 99, (1 << 31) - 1, -(1 << 31)),
    descriptor.FieldDescriptor.CPPTYPE_INT64: (0, 1, 5, -1, 1 << 40, (1 << 63) - 1, -(1 << 63)),
    descriptor.FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 5, 99, -7),
}


def _value(field: descriptor.FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == field.CPPTYPE_MESSAGE:
        return messages(field.message_type, depth + 1)
    if kind == field.CPPTYPE_BOOL:
        return st.booleans()
    if kind == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return st.binary(max_size=60)
        return _TEXT.filter(_is_utf8)
    return st.sampled_from(_EDGES[kind])


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def messages(kind: descriptor.Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Return any message of a type."""
    fields = {}
    for field in kind.fields:
        if depth > 5:
            continue
        value = _value(field, depth)
        fields[field.name] = st.none() | (st.lists(value, max_size=3) if field.is_repeated else value)

    def build(values: dict[str, Any]) -> Message:
        chosen: dict[str, Any] = {}
        taken: set[str] = set()
        for name, value in values.items():
            oneof = kind.fields_by_name[name].containing_oneof
            if value is None or (oneof is not None and oneof.name in taken):
                continue
            if oneof is not None:
                taken.add(oneof.name)
            chosen[name] = value
        return kind._concrete_class(**chosen)

    return st.fixed_dictionaries(fields).map(build)


_ANY_CALL = st.sampled_from(sorted(METHODS)).flatmap(
    lambda path: st.tuples(st.just(path), messages(METHODS[path].DESCRIPTOR))
)


async def _call(pod: Pod | embedders.Caller, path: str, data: bytes) -> str:
    """Send bytes to a method; return the status, having held the answer against what is documented."""
    method = pod.channel.unary_unary(path, request_serializer=None, response_deserializer=None)
    try:
        await method(data, timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        assert refusal.status not in ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"), refusal
        assert refusal.reason in REASONS, refusal
        assert MARK not in refusal.text, refusal
        return refusal.status
    return "OK"


@seed(1)
@QUICK
@given(request=_ANY_CALL)
async def test_any_message(pod: Local, request: tuple[str, Message]) -> None:
    """Any message that the types allow gets a documented answer in time (P12), which quotes none of it (P8)."""
    path, message = request
    await _call(pod, path, message.SerializeToString())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(embedder: Embedder) -> AsyncIterator[embedders.Local]:
    """One shared embedder for all of it."""
    async with embedders.embedding(embedder) as found:
        yield found
        assert len(await found.embed("Is anybody there?")) == 1, "the server did not live on"
        assert MARK not in found.log.getvalue()


@seed(5)
@QUICK
@given(request=messages(embedding_pb2.EmbedRequest.DESCRIPTOR), number=st.integers(0, 1 << 30))
async def test_any_call_of_a_shared_embedder(shared: embedders.Local, request: Message, number: int) -> None:
    """Any message, whole, mended or damaged, gets a documented answer (P12), which quotes none of it (P8)."""
    dice = random.Random(number)
    if dice.random() < 0.5:  # what is right in all but its texts, or but for a few bytes
        request.model_id, request.kind = shared.model_id, dice.choice((embedders.QUERY, embedders.PASSAGE))
    data = request.SerializeToString()
    await _call(shared, EMBED, _mutated(data, dice) if dice.random() < 0.3 else data)


def _valid(pod: Local, dice: random.Random) -> list[tuple[str, Message]]:
    """Return requests that are good, one of each kind."""
    number = dice.randrange(1 << 40)
    spoken = timestamp_pb2.Timestamp(seconds=dice.randrange(1 << 30))
    media = turn_pb2.Part(media=turn_pb2.Media(uri="u", media_type="image/png", description="d"))
    receipt = pod.answer.receipt
    context, sessions, policies, states = (f"/{service.full_name}/" for service in SERVICES)
    commit = commit_request(
        f"f{number % 50}",
        f"r{number}",
        said("hello", spoken_at=spoken, speaker="Anna"),
        turn_pb2.TurnEntry(message=turn_pb2.Message(role=turn_pb2.ROLE_USER, parts=[turn_pb2.Part(text="x"), media])),
        call(f"c{number}", "tool", '{"a": [1, 2]}'),
        result(f"c{number}", "found"),
        answered("bye", citations=[turn_pb2.EventRef(session_id="s", version=1, entry=0)]),
        mode=context_pb2.COMMIT_MODE_APPEND,
    )
    token = context_pb2.Consistency(at_exact_snapshot=pod.answer.consistency_token)
    hydrate = context_pb2.HydrateContextRequest(
        session_id="s",
        subject_id="anna",
        query="harbour",
        budget=budget(dice.randrange(20, 4000), recall=100),
        consistency=token,
        include=[4, 5],
        tokenizer=dice.choice(["", "cl100k_base"]),
    )
    document = f"name: p{number % 9}\nbudget_tokens: {100 + number % 999}\nprompts: [{{name: a, text: be kind}}]\n"
    subject, key = dice.choice(["anna", ""]), f"k{number % 20}"
    writes = [
        state_pb2.StateWrite(key=key, value=b"v", ttl_s=60),
        state_pb2.StateWrite(key=f"{key}/gone"),
        state_pb2.StateWrite(key=f"{key}/{number}", value=b"", expected_revision=0),
    ]
    return [
        (states + "PutState", state_pb2.PutStateRequest(subject_id=subject, collection="c", writes=writes)),
        (states + "GetState", state_pb2.GetStateRequest(subject_id=subject, collection="c", keys=[key, "none"])),
        (
            states + "ListState",
            state_pb2.ListStateRequest(collection="c", key_prefix="k", descending=True, keys_only=True, page_size=2),
        ),
        (states + "DeleteState", state_pb2.DeleteStateRequest(subject_id=subject, collection="c", key_prefix=key)),
        (context + "CommitTurn", commit),
        (context + "HydrateContext", hydrate),
        (context + "ReplayContext", context_pb2.ReplayContextRequest(receipt=receipt, all_omissions=True)),
        (context + "GetServerInfo", context_pb2.GetServerInfoRequest()),
        (sessions + "GetSession", session_pb2.GetSessionRequest(session_id="s")),
        (sessions + "ListSessions", session_pb2.ListSessionsRequest(subject_id="anna", page_size=5, page_token="s")),
        (sessions + "ListEvents", session_pb2.ListEventsRequest(session_id="s", after_version=2, page_size=2)),
        (sessions + "EndSession", session_pb2.EndSessionRequest(session_id=f"f{number % 50}", request_id=f"e{number}")),
        (policies + "PublishPolicy", policy_pb2.PublishPolicyRequest(document_yaml=document)),
        (policies + "GetPolicy", policy_pb2.GetPolicyRequest(name="default", version=0)),
        (policies + "ListPolicies", policy_pb2.ListPoliciesRequest(page_size=3)),
        (
            policies + "SetRoute",
            policy_pb2.SetRouteRequest(route=policy_pb2.Route(name="r", policy_name="default", policy_version=0)),
        ),
    ]


def _mutated(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with a few things wrong."""
    out = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(out) + 1)
        what = dice.randrange(5)
        if what == 0 and out:
            out[at % len(out)] ^= 1 << dice.randrange(8)
        elif what == 1:
            out[at:at] = dice.randbytes(dice.randrange(1, 6))
        elif what == 2:
            del out[at : at + dice.randrange(1, 6)]
        elif what == 3:
            out[at:at] = out[max(0, at - 20) : at]
        else:
            del out[at:]
    return bytes(out)


def _extreme(message: Message, dice: random.Random) -> None:
    """Set one field, somewhere in the tree, to what it should not be."""
    while True:
        field = dice.choice(message.DESCRIPTOR.fields)
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            inner = getattr(message, field.name)
            if field.is_repeated:
                message = dice.choice(inner) if len(inner) and dice.random() < 0.9 else inner.add()
            else:
                inner.SetInParent()
                message = inner
            if not message.DESCRIPTOR.fields:
                return
            continue
        values: tuple[Any, ...]
        if field.cpp_type == field.CPPTYPE_BOOL:
            values = (False, True)
        elif field.type == field.TYPE_BYTES:
            values = (b"", b"\0", dice.randbytes(300))
        elif field.cpp_type == field.CPPTYPE_STRING:
            values = ("", " ", "\0", "\n", MARK, MARK * 20, "\u2028", "é", "{", "name: " + MARK, "s", "\U0010ffff")
        else:
            values = _EDGES[field.cpp_type]
        if field.is_repeated:
            getattr(message, field.name).append(dice.choice(values))
        else:
            setattr(message, field.name, dice.choice(values))
        return


async def test_good_requests_with_one_field_wrong(pod: Local) -> None:
    """Good requests with one field at an extreme get documented answers in time (P12), which quote none of it (P8)."""
    dice = random.Random(10)
    statuses: dict[str, int] = {}
    for _ in range(300 * SCALE):
        for path, message in _valid(pod, dice):
            if message.DESCRIPTOR.fields:
                _extreme(message, dice)
            status = await _call(pod, path, message.SerializeToString())
            statuses[status] = statuses.get(status, 0) + 1
    assert statuses["OK"] > 100
    assert statuses["INVALID_ARGUMENT"] > 100


async def test_mutated_bytes_of_good_requests(pod: Local) -> None:
    """Good requests of every method with bytes changed on the wire get documented answers in time (P12)."""
    dice = random.Random(11)
    statuses: dict[str, int] = {}
    assert {path for path, _ in _valid(pod, dice)} == set(METHODS)
    for _ in range(200 * SCALE):
        for path, message in _valid(pod, dice):
            data = message.SerializeToString()
            status = await _call(pod, path, _mutated(data, dice))
            statuses[status] = statuses.get(status, 0) + 1
    assert statuses["OK"] > 20
    assert statuses["INVALID_ARGUMENT"] > 100
    for path, message in _valid(pod, dice):
        assert await _call(pod, path, message.SerializeToString()) in ("OK", "FAILED_PRECONDITION", "NOT_FOUND")


async def test_bytes_of_another_method(pod: Local) -> None:
    """A request sent to every other method, and plain noise, get documented answers (P12)."""
    dice = random.Random(12)
    for _, message in _valid(pod, dice):
        for path in METHODS:
            await _call(pod, path, message.SerializeToString())
    for path in METHODS:
        for size in (0, 1, 3, 100, 70_000):
            await _call(pod, path, dice.randbytes(size))
    refusals = [
        refusal_of(error)
        for error in [await _error(pod, "/standpipe.v1.ContextService/HydrateContext", b"\x12\x02\xff\xfe")]
    ]
    assert [(one.status, one.reason) for one in refusals] == [("INVALID_ARGUMENT", "INVALID_FIELD")]
    unknown = await _error(pod, "/standpipe.v1.ContextService/Guess", b"")
    assert unknown.code() == grpc.StatusCode.UNIMPLEMENTED


async def _error(pod: Local, path: str, data: bytes) -> grpc.aio.AioRpcError:
    method = pod.channel.unary_unary(path, request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(data, timeout=CALL_S)
    return caught.value


# --- YAML ------------------------------------------------------------------------------------------------------------

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5000),
    st.floats(allow_nan=True),
    st.sampled_from(["10%", "65%", "100%", "101%", "o200k_base", "be kind", "/x", "", " ", "2020-01-01", "*a", "&a"]),
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "text", "cap", "reserve", "summary", "history", "recall", "floor", "embed_ms"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)
_POLICIES = st.dictionaries(
    st.sampled_from(
        ["tokenizer", "model", "budget_tokens", "prompts", "sources", "recall", "deadlines", "ttl", "other"]
    ),
    _TREES,
    max_size=4,
)


@seed(2)
@QUICK
@given(policy=_POLICIES, cut=st.integers(0, 400))
async def test_any_policy(pod: Local, policy: dict[str, Any], cut: int) -> None:
    """Any YAML is published or refused by its path, and what is published serves or says why not (P12)."""
    import yaml

    document = yaml.safe_dump({"name": "fuzz", **policy})
    path = "/standpipe.v1.PolicyService/PublishPolicy"
    await _call(pod, path, policy_pb2.PublishPolicyRequest(document_yaml=document[:cut]).SerializeToString())
    request = policy_pb2.PublishPolicyRequest(document_yaml=document)
    if await _call(pod, path, request.SerializeToString()) == "OK":
        version = (await pod.policies.GetPolicy(policy_pb2.GetPolicyRequest(name="fuzz"))).policy.version
        await pod.route("fuzz", "fuzz", version)
        hydrate = context_pb2.HydrateContextRequest(session_id="s", subject_id="anna", route="fuzz", query="harbour")
        status = await _call(pod, "/standpipe.v1.ContextService/HydrateContext", hydrate.SerializeToString())
        assert status in ("OK", "INVALID_ARGUMENT")
