"""The vectors that the clients of all languages run, run by this one; and what a sceptic asks of the vectors."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

import standpipe
from standpipe import Bundle, errors
from standpipe.client import Client
from standpipe.v1 import bundle_pb2, context_pb2, error_pb2, turn_pb2

pytestmark = pytest.mark.filterwarnings("error")

VECTORS = Path(__file__).parents[2] / "vectors"
HELPERS = {
    "user": standpipe.user,
    "assistant": standpipe.assistant,
    "tool_call": standpipe.tool_call,
    "tool_result": standpipe.tool_result,
}


def vectors(name: str) -> list[Any]:
    """Return a file's vectors as parameters, named as they are."""
    rows = json.loads((VECTORS / name).read_text())
    assert len({row["name"] for row in rows}) == len(rows), "two vectors of one name"
    return [pytest.param(row, id=row["name"].encode("ascii", "replace").decode()) for row in rows]


def typed(value: Any) -> Any:
    """Return JSON whose numbers and truths are not equal to each other, as they are in Python."""
    if isinstance(value, dict):
        return {key: typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [typed(one) for one in value]
    return f"{type(value).__name__} {value}" if isinstance(value, bool) else value


@pytest.mark.parametrize("row", vectors("rendering.json"))
def test_rendering(row: Any) -> None:
    """A bundle becomes these messages, whether it brought its query or was given it."""
    message = json_format.ParseDict(row["bundle"], bundle_pb2.Bundle())
    given = row["query"] or ""
    for shown in (Bundle(message, query=given), Bundle(message, query="something else")):
        again = () if shown.query == given else (given,)
        assert typed(shown.to_openai(*again)) == typed(row["openai"])
        assert typed(shown.to_anthropic(*again)) == typed(row["anthropic"])


def test_rendered_messages_are_what_providers_take() -> None:
    """The expected messages themselves keep the providers' rules: roles, pairs, breakpoints, JSON in UTF-8."""
    for (row,) in (param.values for param in vectors("rendering.json")):
        json.dumps([row["openai"], row["anthropic"]], ensure_ascii=False, allow_nan=False).encode()
        messages = row["anthropic"]["messages"]
        roles = [message["role"] for message in messages]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)], row["name"]
        blocks = [*row["anthropic"]["system"], *(block for message in messages for block in message["content"])]
        assert sum("cache_control" in block for block in blocks) <= 4, row["name"]
        uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert uses == [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"], row["name"]
        calls = [one["id"] for message in row["openai"] for one in message.get("tool_calls", ())]
        assert calls == uses == [one["tool_call_id"] for one in row["openai"] if one["role"] == "tool"], row["name"]
        assert [message["role"] for message in row["openai"]].count("system") <= 1, row["name"]


@pytest.mark.parametrize("row", vectors("errors.json"))
def test_errors(row: Any) -> None:
    """A status, its message and its details become this error."""
    given = row["details_base64"]
    trailers = [("other", "x")] if given is None else [("grpc-status-details-bin", base64.b64decode(given))]
    error = errors.parse(row["code"], row["message"], trailers)
    found = {name: getattr(error, name) for name in row["expect"] if name != "kind"}
    assert {"kind": type(error).__name__, **found} == row["expect"]
    assert error.message == row["message"]


def test_every_reason_and_every_status_has_a_vector() -> None:
    """The vectors know every reason of error.proto with its status as it stands there, and every status of gRPC."""
    rows = [param.values[0] for param in vectors("errors.json")]
    reasons = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    said = {row["name"].removeprefix("the reason "): row for row in rows if row["name"].startswith("the reason ")}
    assert set(said) == reasons
    proto = (Path(__file__).parents[3] / "protos" / "standpipe" / "v1" / "error.proto").read_text()
    for reason, row in said.items():
        comment = proto.split(f"ERROR_REASON_{reason} = ")[0].rpartition("\n\n")[2]
        status, _, _ = comment.strip(" /").partition(".")
        assert status.removesuffix(" with RetryInfo") == row["code"], reason
        assert ("with RetryInfo" in status) == (row["expect"]["retry_after_ms"] is not None), reason
        details = status_pb2.Status.FromString(base64.b64decode(row["details_base64"]))
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in details.details)
        assert all(key in comment for key in info.metadata), reason
    classes = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)} - {"Message", "DecodeError"}
    kinds = {row["expect"]["kind"] for row in rows}
    assert kinds == {name for name in errors.__all__ if name != "parse"} <= classes
    assert len({row["code"] for row in rows}) == 16


@pytest.mark.parametrize("row", vectors("entries.json"))
def test_entries(row: Any) -> None:
    """A helper makes this entry."""
    arguments = dict(row["call"]["arguments"])
    if "at" in arguments:
        arguments["at"] = datetime.fromisoformat(arguments["at"])
    if "citations" in arguments:
        arguments["citations"] = [json_format.ParseDict(one, turn_pb2.EventRef()) for one in arguments["citations"]]
    made = HELPERS[row["call"]["helper"]](**arguments)
    assert made == json_format.ParseDict(row["entry"], turn_pb2.TurnEntry())


class Answers:
    """A wire that gives these answers in turn, and keeps the last request."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = iter(seen)
        self.request = context_pb2.HydrateContextRequest()

    async def call(self, path: str, request: Any, answer: Any, deadline_ms: int) -> Any:
        self.request = request
        one = next(self.seen, {"version": 0, "token": ""})
        bundle = bundle_pb2.Bundle(session_version=one["version"])
        return context_pb2.HydrateContextResponse(bundle=bundle, consistency_token=one["token"])


@pytest.mark.asyncio
@pytest.mark.parametrize("row", vectors("tokens.json"))
async def test_tokens(row: Any) -> None:
    """P4: after these answers, a session asks for what the newest of them showed, unless the caller asks for else."""
    wire: Any = Answers(row["seen"])
    session = Client(wire).session("s", token=row["initial"])
    for _ in row["seen"]:
        await session.hydrate()
    asked = row["consistency"] and json_format.ParseDict(row["consistency"], context_pb2.Consistency())
    await session.hydrate(consistency=asked)
    sent = wire.request
    assert (json_format.MessageToDict(sent.consistency) if sent.HasField("consistency") else None) == row["sends"]
