"""What a hydrate sees, and when (P4): two servers, each with caches of its own, on one record store."""

from __future__ import annotations

import asyncio
from pathlib import Path

from standpipe.v1 import context_pb2, policy_pb2, session_pb2, turn_pb2
from tests.e2e.pods import (
    HISTORY,
    RECALL,
    SUMMARY,
    Fleet,
    Local,
    answered,
    budget,
    call,
    exact,
    refused,
    result,
    said,
    section,
    serving,
    shown,
)

Pods = tuple[Local, Local]


async def test_every_commit_is_read_through_the_other_pod(two_pods: Pods) -> None:
    """A hydrate that starts after an ack sees the commit through any pod, whichever committed, token or none (P4)."""
    for version in range(24):
        writer, reader = two_pods[version % 2], two_pods[version % 3 % 2 ^ 1]
        done = await writer.commit("s", f"r{version}", f"turn {version}", expected=version)
        wishes = [
            None,
            context_pb2.Consistency(at_least_as_fresh=done.result.consistency_token),
            context_pb2.Consistency(at_exact_snapshot=done.result.consistency_token),
            context_pb2.Consistency(fully_consistent=True),
        ]
        seen = await asyncio.gather(*(reader.hydrate("s", consistency=wish) for wish in wishes))
        assert {answer.bundle.session_version for answer in seen} == {version + 1}
        assert {shown(answer.bundle, HISTORY).splitlines()[-1] for answer in seen} == {f"user: turn {version}"}
        assert len({exact(answer.bundle) for answer in seen}) == 1


async def test_memory_of_another_session_is_read_at_once(two_pods: Pods) -> None:
    """What one session committed is recalled by the subject's other session through the other pod, at once (P4)."""
    one, other = two_pods
    for number in range(12):
        await one.append(f"past-{number}", "r", f"My locker number {number} has the code 77{number}4.")
        seen = await other.hydrate("now", f"code of locker number {number}", budget=budget(2000))
        assert f"77{number}4" in shown(seen.bundle, RECALL)
        assert seen.recall.items == number + 1


async def test_a_token_of_a_hydrate_holds_for_the_next(two_pods: Pods) -> None:
    """A token handed on by whoever hydrated makes the next reader see at least as much (P4)."""
    one, other = two_pods
    await one.append("s", "r1", "first")
    await other.hydrate("s")
    await one.append("s", "r2", "second")
    token = (await one.hydrate("s")).consistency_token
    seen = await other.hydrate("s", consistency=context_pb2.Consistency(at_least_as_fresh=token))
    assert seen.bundle.session_version == 2
    token = (await one.session("s")).consistency_token
    seen = await other.hydrate("s", consistency=context_pb2.Consistency(at_exact_snapshot=token))
    assert seen.bundle.session_version == 2


async def test_an_exact_snapshot_is_the_bundle_of_then(vector_pods: Pods) -> None:
    """A bundle at a token's exact snapshot equals the one served then, many turns and memories later (P4, P7)."""
    one, other = vector_pods
    served = []
    for number in range(40):
        await one.append(f"other-{number % 3}", f"r{number}", f"Aside {number}: the boat of friend {number} is red.")
        done = await one.append("s", f"r{number}", f"Turn {number}: I like boat number {number}.", answered("Noted."))
        if number % 8 == 3:
            await one.embedded()
            query = f"boat number {number}"
            answer = await one.hydrate("s", query, budget=budget(700))
            assert section(answer.bundle, RECALL)
            served.append((query, done.result.consistency_token, answer))
    await one.embedded()
    for query, token, then in served:
        for pod in (one, other):
            for wish in (token, then.consistency_token):
                now = await pod.hydrate(
                    "s",
                    query,
                    budget=budget(700),
                    consistency=context_pb2.Consistency(at_exact_snapshot=wish),
                )
                assert now.bundle.session_version == then.bundle.session_version
                assert now.bundle.sections == then.bundle.sections
                assert now.bundle.fingerprint == then.bundle.fingerprint


async def test_least_latency_may_lag_and_is_whole(two_pods: Pods) -> None:
    """MINIMIZE_LATENCY takes the pod's own view, old but whole; the next plain hydrate is fresh again (P4)."""
    one, other = two_pods
    nearest = context_pb2.Consistency(minimize_latency=True)
    await one.append("s", "r1", "first")
    assert (await other.hydrate("s", consistency=nearest)).bundle.session_version == 1  # nothing cached: reads
    await one.append("s", "r2", "second")
    old = await other.hydrate("s", consistency=nearest)
    assert old.bundle.session_version in (1, 2)
    first_turns = ["user: first\n", "user: second\n"][: old.bundle.session_version]
    assert shown(old.bundle, HISTORY) == "".join(first_turns)
    replay = await one.replay(old.receipt)
    assert exact(replay.bundle) == exact(old.bundle)
    assert (await other.hydrate("s")).bundle.session_version == 2
    assert (await other.hydrate("s", consistency=nearest)).bundle.session_version == 2
    plain = await other.hydrate("s", consistency=context_pb2.Consistency(minimize_latency=False))
    assert plain.bundle.session_version == 2


async def test_a_token_of_a_store_that_was_set_back_is_named(fleet: Fleet) -> None:
    """A token that has seen more than the log holds is OUT_OF_RANGE, never a bundle that shows less (P4, P12)."""
    process = await fleet.start()
    pod = fleet.pod(process)
    await pod.append("s", "r1", "first")
    await process.terminate()
    kept = fleet.record.read_bytes()
    await process.start()
    pod = fleet.pod(process)
    token = (await pod.append("s", "r2", "second")).result.consistency_token
    await process.terminate()
    for path in fleet.directory.glob("record.db*"):
        path.unlink()
    fleet.record.write_bytes(kept)
    await process.start()
    pod = fleet.pod(process)
    for wish in ("at_least_as_fresh", "at_exact_snapshot"):
        refusal = await refused(pod.hydrate("s", consistency=context_pb2.Consistency(**{wish: token})))
        assert (refusal.status, refusal.reason) == ("OUT_OF_RANGE", "VERSION_IN_FUTURE")
        assert refusal.metadata == {"current_version": "1"}


async def test_append_mode_loses_none_of_32_writers(two_pods: Pods) -> None:
    """32 writers in mode APPEND over two pods all succeed, none is lost, and both pods agree bytewise (P2, P3, P6)."""
    done = await asyncio.gather(
        *(
            two_pods[(writer + number) % 2].append("s", f"{writer}-{number}", f"writer {writer} says {number}")
            for writer in range(32)
            for number in range(4)
        )
    )
    assert sorted(answer.result.version for answer in done) == list(range(1, 129))
    events = await two_pods[0].events("s")
    assert {event.request_id for event in events} == {f"{w}-{n}" for w in range(32) for n in range(4)}
    for query in ("", "writer 7 says 3"):
        one, other = await asyncio.gather(*(pod.hydrate("s", query, budget=budget(900)) for pod in two_pods))
        assert exact(one.bundle) == exact(other.bundle)
        assert one.bundle.session_version == 128


async def test_a_call_stands_with_its_result(two_pods: Pods) -> None:
    """A tool call is shown with its result or not at all, also when the result came turns later (P5)."""
    one, other = two_pods
    await one.append("s", "r1", "What is the weather?", call("c1", "weather", '{"city": "Lisbon"}'), call("c2", "news"))
    open_now = await other.hydrate("s")
    assert shown(open_now.bundle, HISTORY) == "user: What is the weather?\n"
    waiting = [one for one in open_now.bundle.omissions if one.source == HISTORY]
    assert [(o.candidate.version, o.candidate.entry, o.reason) for o in waiting] == [(1, 1, 11), (1, 2, 11)]
    assert all(o.tokens > 0 for o in waiting)
    await other.append("s", "r2", answered("One moment."))
    await other.append("s", "r3", result("c2", "", is_error=True), result("c1", "sunny"))
    for pod in two_pods:
        bundle = (await pod.hydrate("s")).bundle
        segments = section(bundle, HISTORY).segments
        assert [one.header + one.body for one in segments] == [
            "user: What is the weather?\n",
            "assistant: One moment.\n",
            "call news: {}\n",
            "tool: \n",
            'call weather: {"city": "Lisbon"}\n',
            "tool: sunny\n",
        ]
        assert [one.tool_call_id for one in segments] == ["", "", "c2", "c2", "c1", "c1"]
        assert [one.is_error for one in segments] == [False, False, False, True, False, False]
        assert [(c.version, c.entry) for one in segments for c in one.citations] == [
            (1, 0),
            (2, 0),
            (1, 2),
            (3, 0),
            (1, 1),
            (3, 1),
        ]
        assert not bundle.omissions
    refusal = await refused(one.append("s", "r4", result("c1", "again")))
    assert refusal.reason == "TOOL_RESULT_WITHOUT_CALL"
    refusal = await refused(one.append("s", "r5", call("c1", "weather")))
    assert (refusal.reason, refusal.field) == ("INVALID_FIELD", "turn.entries")


async def test_an_ended_session_is_readable_and_takes_no_more(two_pods: Pods) -> None:
    """An ended session stays readable and recallable and takes no turn; retries of the end and of turns replay (P3)."""
    one, other = two_pods
    first = await one.append("s", "r1", "My passport number is X77.")
    await other.hydrate("s")
    ended = await one.end("s", "bye", cause="idle")
    assert (ended.version, ended.replayed) == (2, False)
    again = await other.end("s", "bye", cause="idle")
    assert (again.version, again.replayed) == (2, True)
    assert (await other.session("s")).session.ended
    for pod in two_pods:
        for refusal in (
            await refused(pod.append("s", "r2", "more")),
            await refused(pod.commit("s", "r3", "more", expected=2)),
            await refused(pod.end("s", "bye-again")),
        ):
            assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "SESSION_ENDED")
        bundle = (await pod.hydrate("s", "passport number")).bundle
        assert bundle.session_version == 2
        assert shown(bundle, HISTORY) == "user: My passport number is X77.\n"
        assert "X77" in shown((await pod.hydrate("new", "passport number")).bundle, RECALL)
        assert exact((await pod.append("s", "r1", "My passport number is X77.")).result) == exact(first.result)
    refusal = await refused(one.end("s", "bye", cause="another"))
    assert (refusal.status, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert refusal.metadata == {"version": "2"}
    kinds = [event.WhichOneof("body") for event in await one.events("s")]
    assert kinds == ["turn", "session_end"]


async def test_a_session_keeps_its_subject(two_pods: Pods) -> None:
    """A session belongs to the subject of its first turn: others are refused, and see none of it (P8)."""
    one, other = two_pods
    await one.append("s", "r1", "The vault opens with 4711.", subject="anna")
    for refusal in (
        await refused(other.hydrate("s", subject="ben")),
        await refused(one.hydrate("s", subject="ben", consistency=context_pb2.Consistency(minimize_latency=True))),
        await refused(other.append("s", "r2", "mine", subject="ben")),
    ):
        assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "SUBJECT_MISMATCH")
        assert "4711" not in refusal.text
    assert (await other.hydrate("s", subject="")).bundle.session_version == 1
    assert (await other.append("s", "r3", "without a name", subject="")).result.version == 2
    stranger = await other.hydrate("of-ben", "vault opens", subject="ben")
    assert not section(stranger.bundle, RECALL)
    assert not stranger.bundle.omission_counts


async def test_a_route_moves_at_once_everywhere(two_pods: Pods) -> None:
    """A hydrate that starts after SetRoute follows the new policy through any pod (P4); old bundles replay (P7)."""
    one, other = two_pods
    for number in range(6):
        published = await one.publish(f"name: p\nprompts: [{{name: a, text: Prompt number {number}.}}]\n")
        assert published.policy.version == number + 1
        await two_pods[number % 2].route("r", "p", number + 1)
        for pod in two_pods:
            answer = await pod.hydrate("s", route="r")
            assert answer.bundle.policy == f"p@{number + 1}"
            assert shown(answer.bundle, 1) == f"Prompt number {number}.\n"
        if number == 0:
            first = answer
    assert exact((await other.replay(first.receipt)).bundle) == exact(first.bundle)
    again = await other.publish("# the same in other words\nprompts:\n- text: Prompt number 5.\n  name: a\nname: p\n")
    assert (again.policy.version, again.created) == (6, False)
    refusal = await refused(one.route("r", "p", 7))
    assert (refusal.status, refusal.reason) == ("NOT_FOUND", "POLICY_NOT_FOUND")
    assert (await one.hydrate("s", route="r")).bundle.policy == "p@6"


async def test_a_request_lowers_and_never_raises(two_pods: Pods) -> None:
    """Budgets, caps and sources of a request lower what the policy allows and never raise it (P5)."""
    one, _ = two_pods
    await one.publish("name: tight\nbudget_tokens: 500\nsources:\n  history: {cap: 200}\n  recall: {cap: 100}\n")
    await one.route("tight", "tight", 1)
    for number in range(30):
        text = "the harbour at night" if number % 7 == 0 else "many words of something else"
        await one.append("s", f"r{number}", f"Turn {number}: {text}. " * 4)
    plain = await one.hydrate("s", "harbour at night", route="tight")
    high = await one.hydrate(
        "s",
        "harbour at night",
        route="tight",
        budget=budget(100_000, history=90_000, recall=90_000, summary=90_000),
        include=[SUMMARY, HISTORY, RECALL],
    )
    assert exact(high.bundle) == exact(plain.bundle)
    assert {one.source for one in plain.bundle.sections} == {HISTORY, RECALL}
    assert section(plain.bundle, HISTORY).cap_tokens == 200
    assert section(plain.bundle, RECALL).tokens <= 100
    for total in range(1, 500, 23):
        answer = await one.hydrate("s", "harbour at night", route="tight", budget=budget(total, recall=60))
        assert answer.bundle.tokens <= total == answer.bundle.budget_tokens
        for found in answer.bundle.sections:
            assert found.tokens <= found.cap_tokens
            assert found.tokens == sum(segment.tokens for segment in found.segments)
    only = await one.hydrate("s", "harbour at night", route="tight", include=[HISTORY])
    assert [found.source for found in only.bundle.sections] == [HISTORY]
    assert not only.HasField("recall")
    none = await one.hydrate("s", "harbour at night", route="tight", budget=budget(history=0, recall=0))
    assert not none.bundle.sections


async def test_tenants_never_meet(tmp_path: Path) -> None:
    """Two tenants on one record store with equal names see nothing of each other, in any call (P8)."""
    record = tmp_path / "record.db"
    async with serving(record, tenant="acme") as one, serving(record, tenant="rival") as other:
        await one.append("s", "r1", "The vault of acme opens with 4711.")
        await one.publish("name: p\nprompts: [{text: Work for acme.}]\n")
        await one.route("default", "p", 1)
        await other.append("mine", "r1", "The vault of the rival opens with 1234.")
        for session in ("s", "mine", "new"):
            answer = await other.hydrate(session, "which code opens the vault of acme")
            assert "4711" not in str(answer)
            assert "Work for acme" not in str(answer)
            assert answer.bundle.policy == "default@0"
            assert answer.recall.items == 1
        assert (await other.hydrate("s")).bundle.session_version == 0
        assert (await refused(other.session("s"))).reason == "SESSION_NOT_FOUND"
        assert (await refused(other.events("s"))).reason == "SESSION_NOT_FOUND"
        assert (await refused(other.end("s", "e"))).reason == "SESSION_NOT_FOUND"
        assert (await refused(other.route("r", "p", 1))).reason == "POLICY_NOT_FOUND"
        cites = turn_pb2.EventRef(session_id="s", version=1)
        assert (await refused(other.append("mine", "r2", said("x", citations=[cites])))).reason == "INVALID_FIELD"
        listed = await other.sessions.ListSessions(session_pb2.ListSessionsRequest())
        assert [found.session_id for found in listed.sessions] == ["mine"]
        policies = await other.policies.ListPolicies(policy_pb2.ListPoliciesRequest())
        assert not policies.policies
        assert not policies.routes
        assert (await other.commit("s", "r1", "our own s", expected=0)).result.version == 1
        token = (await one.hydrate("s")).consistency_token
        wish = context_pb2.Consistency(at_least_as_fresh=token)
        assert (await refused(other.hydrate("s", consistency=wish))).reason == "TOKEN_INVALID"


async def test_a_route_that_moves_to_recall_recalls_at_once(two_pods: Pods) -> None:
    """The first hydrate after a route moved to a policy that recalls is as good as the next (P6)."""
    one, _ = two_pods
    await one.append("s", "r1", "The heron nests by the mill pond.")
    silent = await one.publish("name: silent\nsources: {history: {}}\n")
    await one.route("default", "silent", silent.policy.version)
    assert not (await one.hydrate("t", "heron mill pond")).HasField("recall")
    await one.route("default", "default", 0)
    first, second = await one.hydrate("t", "heron mill pond"), await one.hydrate("t", "heron mill pond")
    assert first.recall.items_relevant > 0
    assert exact(first.bundle) == exact(second.bundle)
