"""Personal data over gRPC: masked where the policy says so, replayed as it was served, and in no log line at all."""

from __future__ import annotations

import re
from typing import Any

import grpc
import pytest

from sidecar import bundle
from standpipe.v1 import context_pb2, fact_pb2, memory_pb2, session_pb2, turn_pb2
from tests.e2e.pods import Local, answered, call, result, said

SECRETS = (
    "ana.silva@mail.example",
    "+44 20 7946 0018",
    "4111 1111 1111 1111",
    "DE89370400440532013000",
    "203.0.113.7",
    "212-09-9999",
    "https://files.example/ana",
    "ghp_Zx81KqLm02NvBt47RyWs93PdGh56JaQwErTy",
)
KINDS = ("EMAIL", "PHONE", "CARD", "IBAN", "IP", "US_SSN", "URL", "SECRET")

MASKING = """\
name: masking
pii: {mask: true, originals: false}
sources:
  profile: {cap: 20%}
  summary: {cap: 20%}
  history: {cap: 40%}
  facts: {cap: 20%}
  documents: {cap: 20%}
  recall: {cap: 100%, reserve: 20%}
recall: {floor: false}
"""
OPEN = MASKING.replace("masking", "open").replace("true", "false").replace("originals: false", "originals: true")


def entry(version: int, number: int = 0) -> turn_pb2.EventRef:
    """Name an entry of the session."""
    return turn_pb2.EventRef(session_id="s", version=version, entry=number)


async def told(pod: Local) -> None:
    """Tell a server everything, in every way, and set a route that masks and one that does not."""
    for document, route in ((MASKING, "masked"), (OPEN, "open")):
        await pod.publish(document)
        await pod.route(route, "masking" if route == "masked" else "open", 1)
    for number, secret in enumerate(SECRETS):
        await pod.append("s", f"r-{number}", f"Zebra number {number} is reached through {secret}, I decided in 2021.")
    arguments = f'{{"to": "{SECRETS[0]}"}}'
    await pod.append("s", "tools", call("c", arguments_json=arguments), result("c", f"Sent to {SECRETS[0]}."))
    await pod.append("s", "named", said("The zebra and I agree on this.", speaker=SECRETS[0]), answered("Noted."))
    fact = fact_pb2.Fact(attribute="zebra contact", value=f"reached at {SECRETS[0]}", sources=[entry(1)], pinned=True)
    other = fact_pb2.Fact(attribute="zebra phone", value=f"rings at {SECRETS[1]}", sources=[entry(2)])
    request = memory_pb2.RecordFactsRequest(subject_id="anna", request_id="facts", facts=[fact, other])
    await pod.memory.RecordFacts(request, timeout=pod.timeout_s)
    attributes = [fact_pb2.ProfileAttribute(name="mail", value=SECRETS[0])]
    await pod.memory.PutProfile(
        memory_pb2.PutProfileRequest(subject_id="anna", request_id="profile", attributes=attributes),
        timeout=pod.timeout_s,
    )
    document = fact_pb2.Document(
        document_id="d", title=f"Of {SECRETS[0]}", uri=SECRETS[6], text=f"Zebra care: {SECRETS[0]}"
    )
    await pod.memory.IngestDocuments(
        memory_pb2.IngestDocumentsRequest(subject_id="anna", documents=[document]), timeout=pod.timeout_s
    )


def shows(answer: Any) -> list[str]:
    """Return which of the secrets are anywhere in an answer."""
    wire = str(answer)
    return [secret for secret in SECRETS if secret in wire]


async def test_a_route_that_masks_shows_kinds_and_replays(two_pods: tuple[Local, Local]) -> None:
    """P6, P7: no masked bundle holds a find; it is the same from any pod, and renders again from its receipt."""
    one, other = two_pods
    await told(one)
    for caps in ({}, {"total_tokens": 900}):
        budget = context_pb2.Budget(**caps) if caps else None
        made = [await pod.hydrate("s", "zebra", route="masked", budget=budget) for pod in (one, other, one)]
        assert len({answer.bundle.fingerprint for answer in made}) == 1
        assert shows(made[0].bundle) == []
        text = str(made[0].bundle)
        assert [kind for kind in KINDS if f"<{kind}>" not in text] == [] or caps
        assert made[0].bundle.tokenizer == "o200k_base"
        assert any(part.masked for section in made[0].bundle.sections for part in section.segments)
        again = await other.replay(made[0].receipt)
        assert again.bundle.fingerprint == made[0].bundle.fingerprint
        assert again.bundle.sections == made[0].bundle.sections
    plain = await other.hydrate("s", "zebra", route="open")
    assert shows(plain.bundle) == list(SECRETS)
    assert not any(part.masked for section in plain.bundle.sections for part in section.segments)


async def test_a_masked_view_follows_commits(pod: Local) -> None:
    """P4: what is committed next is in the next masked bundle, masked."""
    await told(pod)
    for number in range(3):
        await pod.append("s", f"more-{number}", f"And number {number} writes to b{number}@mail.example.")
        answer = await pod.hydrate("s", "", route="masked")
        assert f"And number {number} writes to <EMAIL>." in str(answer.bundle)
        assert "@mail.example" not in str(answer.bundle)


async def test_search_shows_what_a_bundle_would(pod: Local) -> None:
    """Searching memory over a route that masks finds the same, in masked form."""
    await told(pod)
    for route, found in (("masked", []), ("open", list(SECRETS))):
        request = memory_pb2.SearchMemoryRequest(subject_id="anna", route=route, query="zebra", count_max=100)
        answer = await pod.memory.SearchMemory(request, timeout=pod.timeout_s)
        assert len(answer.results) >= len(SECRETS)
        assert shows(answer) == found


async def test_events_are_listed_in_masked_form_where_originals_are_not_given(pod: Local) -> None:
    """ListEvents masks turns and changes as the route's policy says; hashes are those of what is stored."""
    await told(pod)
    for log in ("s", "~m~anna", "~d~anna~d"):
        listed = {}
        for route in ("masked", "open", ""):
            request = session_pb2.ListEventsRequest(session_id=log, route=route, page_size=1000)
            listed[route] = await pod.sessions.ListEvents(request, timeout=pod.timeout_s)
        assert shows(listed["masked"]) == []
        assert re.search(r"<(?:EMAIL|PHONE)>", str(listed["masked"]))
        assert shows(listed["open"]) == shows(listed[""]) != []
        assert [event.hash for event in listed["masked"].events] == [event.hash for event in listed["open"].events]


async def test_a_route_that_is_not_there_lists_nothing(pod: Local) -> None:
    """A wrong route is an error that names its field, and no way around a policy."""
    await told(pod)
    for route, code in (("nowhere", grpc.StatusCode.NOT_FOUND), ("no name!", grpc.StatusCode.INVALID_ARGUMENT)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pod.sessions.ListEvents(session_pb2.ListEventsRequest(session_id="s", route=route), timeout=9)
        assert caught.value.code() == code


async def test_no_log_line_and_no_error_holds_personal_data(pod: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: of all that a server logs and answers while calls succeed, fail and break, no line holds any of it."""
    await told(pod)
    errors = []

    async def fails(work: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await work
        errors.append(
            f"{caught.value.details()} {caught.value.trailing_metadata()} {caught.value.debug_error_string()}"
        )

    for secret in SECRETS:
        await fails(pod.hydrate(secret + " ", f"who is {secret}?"))
        await fails(pod.hydrate("s", f"who is {secret}?", route=secret + "!"))
        await fails(pod.hydrate("s", secret, tokenizer=secret))
        await fails(pod.commit("s", f"{secret} ", secret, expected=1))
        await fails(pod.commit("s", "r-0", f"something else of {secret}", expected=0))
        await fails(pod.commit("s", "late", said(secret, speaker=secret), expected=1))
        await fails(pod.append("s", "orphan", result(secret, secret)))
        await fails(pod.append("s", "double", call("c", arguments_json=f'{{"q": "{secret}"}}')))
        await fails(pod.publish(f"name: '{secret}'\nprompts: [{{text: 1}}]"))
        await fails(pod.replay(secret.encode()))
        bad = fact_pb2.Fact(attribute=secret, value=f"{secret}\x00", sources=[entry(1)])
        request = memory_pb2.RecordFactsRequest(subject_id="anna", request_id=f"bad-{len(errors)}", facts=[bad])
        await fails(pod.memory.RecordFacts(request, timeout=pod.timeout_s))

    def breaks(*_: Any, **__: Any) -> None:
        raise ValueError(f"a defect over {SECRETS}")

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "assemble", breaks)
        await fails(pod.hydrate("s", f"who is {SECRETS[0]}?"))
        patch.setattr(pod.server.record, "fetch", breaks)
        await fails(pod.hydrate("other", SECRETS[0]))
    log = pod.log()
    assert log.count('"defect"') >= 1
    assert [secret for secret in SECRETS if secret in log] == []
    assert [secret for secret in SECRETS if secret in "".join(errors)] == []
    pod.forget_log()
