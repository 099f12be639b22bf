"""The same bundle again: by request (P6), from its receipt (P7), after a rebuild (P9); and a stable prefix (P13)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from sidecar.embed import Embedder
from sidecar.rebuild import rebuild
from sidecar.tokens import Tokenizers
from standpipe.v1 import bundle_pb2, context_pb2
from tests.e2e.pods import (
    HISTORY,
    MODELS,
    POLICY,
    RECALL,
    SUMMARY,
    Local,
    Pod,
    budget,
    exact,
    refused,
    said,
    section,
    serving,
    shown,
)
from tests.e2e.talk import TOPICS, a_turn, a_wish, converse, publish

Served = list[tuple[dict[str, Any], context_pb2.HydrateContextResponse]]


async def _check_replays(pod: Pod, served: Served) -> None:
    for wish, answer in served:
        replay = await pod.replay(answer.receipt)
        assert exact(replay.bundle) == exact(answer.bundle), wish
        assert replay.session_id == wish["session"]
        assert replay.subject_id == "anna"
        assert list(replay.degraded) == list(answer.degraded)


def _check_budget(bundle: bundle_pb2.Bundle, tokenizers: Tokenizers) -> None:
    """Hold a bundle against P5: the tokenizer's own count of the whole, every cap, and calls beside their results."""
    text = "".join(one.header + one.body for found in bundle.sections for one in found.segments)
    assert tokenizers.get(bundle.tokenizer).count(text) == bundle.tokens <= bundle.budget_tokens
    assert sum(found.tokens for found in bundle.sections) == bundle.tokens
    for found in bundle.sections:
        assert sum(one.tokens for one in found.segments) == found.tokens <= found.cap_tokens
        calls = [
            (at, one.tool_call_id)
            for at, one in enumerate(found.segments)
            if one.kind == bundle_pb2.SEGMENT_KIND_TOOL_CALL
        ]
        results = [
            (at - 1, one.tool_call_id)
            for at, one in enumerate(found.segments)
            if found.source == HISTORY and one.kind == bundle_pb2.SEGMENT_KIND_TOOL_RESULT
        ]
        assert calls == results


async def _check_all_omissions(pod: Pod, served: Served) -> None:
    """Every candidate that was left out is listed with its reason (P7), and what was served lists the first of them."""
    for wish, answer in served:
        full = (await pod.replay(answer.receipt, all_omissions=True)).bundle
        listed: dict[tuple[int, int], int] = {}
        for omission in full.omissions:
            listed[omission.source, omission.reason] = listed.get((omission.source, omission.reason), 0) + 1
        counted = {
            (count.source, count.reason): count.candidates
            for count in full.omission_counts
            if count.reason != bundle_pb2.OMISSION_REASON_EVICTED
        }
        assert listed == counted, wish
        assert len(answer.bundle.omissions) == min(32, len(full.omissions))
        assert list(full.omissions)[: len(answer.bundle.omissions)] == list(answer.bundle.omissions)
        del full.omissions[len(answer.bundle.omissions) :]
        assert exact(full) == exact(answer.bundle)


@pytest.mark.timeout(240)
async def test_any_bundle_again(tmp_path: Path, embedder: Embedder) -> None:
    """200 random bundles hold their budgets (P5) and come again to the byte (P6, P7), also rebuilt (P9)."""
    dice = random.Random(7)
    record = tmp_path / "record.db"
    served: Served = []
    async with serving(record, embedder=embedder) as one, serving(record, embedder=embedder) as other:
        await publish(one)
        for chapter in range(10):
            await converse(one, dice, turns=15, prefix=f"c{chapter}-")
            if chapter % 2:
                await one.embedded()  # otherwise some items are still without their vector
            for _ in range(20):
                wish = a_wish(dice)
                served.append((wish, await (one, other)[dice.randrange(2)].hydrate(**wish)))
        assert any(answer.recall.items_without_vector for _, answer in served)
        assert sum(section(answer.bundle, RECALL) is not None for _, answer in served) > 60
        assert sum(section(answer.bundle, SUMMARY) is not None for _, answer in served) > 20
        tokenizers = Tokenizers(MODELS / "tokenizers")
        for _, answer in served:
            _check_budget(answer.bundle, tokenizers)
        await _check_replays(other, served[::2])
        await _check_replays(one, served[1::2])
        await one.embedded()
        final: Served = []
        for wish in (a_wish(dice) for _ in range(60)):
            final.append((wish, await one.hydrate(**wish)))
            assert exact((await one.hydrate(**wish)).bundle) == exact(final[-1][1].bundle), wish
            assert exact((await other.hydrate(**wish)).bundle) == exact(final[-1][1].bundle), wish
    async with serving(record, embedder=embedder) as fresh:
        for wish, answer in final:
            assert exact((await fresh.hydrate(**wish)).bundle) == exact(answer.bundle), wish
        await _check_replays(fresh, served)
        await rebuild(fresh.server.record)
        await fresh.embedded()
    async with serving(record, embedder=embedder) as rebuilt:
        for wish, answer in final:
            assert exact((await rebuilt.hydrate(**wish)).bundle) == exact(answer.bundle), wish
        await _check_replays(rebuilt, served)
        await _check_all_omissions(rebuilt, served[::5] + final[::5])


async def test_a_degraded_bundle_replays_as_it_was(tmp_path: Path, embedder: Embedder) -> None:
    """What was served without vectors replays without them, also where vectors are there by then (P7, P12)."""
    record = tmp_path / "record.db"
    async with serving(record) as blind:
        for number in range(20):
            await blind.append("s", f"r{number}", f"My {TOPICS[number % 10]} has the number {number}.")
        served = await blind.hydrate("t", "number of the passport", budget=budget(300))
        assert [(one.source, one.cause) for one in served.degraded] == [(RECALL, "embedder_off")]
        assert "My passport" in shown(served.bundle, RECALL)
    async with serving(record, embedder=embedder) as seeing:
        await seeing.embedded()
        await _check_replays(seeing, [({"session": "t"}, served)])


async def test_no_other_receipt_is_taken(tmp_path: Path) -> None:
    """A receipt that is changed in any byte, cut, or of another tenant or deployment is RECEIPT_INVALID (P7, P8)."""
    record = tmp_path / "record.db"
    async with (
        serving(record) as pod,
        serving(record, tenant="rival") as rival,
        serving(tmp_path / "other.db") as elsewhere,
    ):
        await pod.append("s", "r1", "My password is xyzzy.")
        receipt = (await pod.hydrate("s", "password")).receipt
        for other in (rival, elsewhere):
            for work in (
                other.replay(receipt),
                other.append("s", "r2", "x", receipt=receipt),
                other.append("new", "r2", "x", receipt=receipt),
            ):
                refusal = await refused(work)
                assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "RECEIPT_INVALID")
                assert "xyzzy" not in refusal.text
        forged = [receipt[:at] + bytes([receipt[at] ^ 1 << at % 8]) + receipt[at + 1 :] for at in range(len(receipt))]
        forged += [receipt[:cut] for cut in range(0, len(receipt), 7)] + [receipt + b"\0", receipt * 2, b"\0" * 65_537]
        for bad in forged:
            refusal = await refused(pod.replay(bad))
            assert (refusal.status, refusal.reason, refusal.field) == ("INVALID_ARGUMENT", "RECEIPT_INVALID", "receipt")
        refusal = await refused(pod.append("s", "r2", "x", receipt=forged[50]))
        assert (refusal.reason, refusal.field) == ("RECEIPT_INVALID", "turn.bundle_receipt")
        refusal = await refused(pod.append("s2", "r2", "x", receipt=receipt))
        assert (refusal.reason, refusal.field) == ("RECEIPT_INVALID", "turn.bundle_receipt")
        assert (await pod.session("s")).session.version == 1
        await pod.append("s", "r2", "thank you", receipt=receipt)
        stored = (await pod.events("s"))[-1].turn.bundle_receipt
        assert exact((await pod.replay(stored)).bundle) == exact((await pod.replay(receipt)).bundle)


# --- the stable prefix ---------------------------------------------------------------------------------------------


class Watch:
    """Follows one budget's sections over a session, and holds each change against its epoch."""

    def __init__(self, **wish: Any) -> None:
        self.wish = wish
        self.last: dict[int, tuple[int, str]] = {}
        self.epochs = 0
        self.reused = self.sent = 0

    def see(self, bundle: bundle_pb2.Bundle) -> None:
        """Compare a bundle with the one before."""
        order = [one.source for one in bundle.sections]
        assert order == sorted(order), "sections stand from stable to volatile"
        for source in (POLICY, SUMMARY, HISTORY):
            found = section(bundle, source)
            now = (found.epoch if found else 0, shown(bundle, source))
            before = self.last.get(source, (0, ""))
            if now[0] == before[0]:
                assert now[1].startswith(before[1]), f"bytes changed inside an epoch: source {source}, {self.wish}"
            elif source == HISTORY:
                assert not now[1].startswith(before[1]), f"an epoch without a change: {self.wish}"
                self.epochs += 1
            self.last[source] = now


async def _watch(pod: Local, watches: list[Watch], turns: Any) -> None:
    for number, entries in enumerate(turns):
        await pod.append("s", f"r{number}", *entries)
        for watch in watches:
            watch.see((await pod.hydrate("s", query="passport", **watch.wish)).bundle)


async def test_stable_sections_only_grow_inside_an_epoch(pod: Local) -> None:
    """Over 150 turns and six budgets, history's bytes only grow inside an epoch and change with each new one (P13)."""
    dice = random.Random(13)
    await publish(pod)
    watches = [Watch(budget=budget(total)) for total in (300, 900, 2500, 8000)]
    watches += [Watch(budget=budget(4000, history=700, summary=200)), Watch(route="talk")]
    await _watch(pod, watches, (a_turn(dice, f"c{number}") for number in range(150)))
    assert [watch.epochs > 2 for watch in watches] == [True] * len(watches)


async def test_long_tokens_do_not_slide_the_window(pod: Local) -> None:
    """A text of few tokens and many bytes (rules, tables) leaves the window as stable as any other (P13)."""
    await pod.publish("name: big\nbudget_tokens: 40000\nsources: {summary: {cap: 2000}, history: {cap: 16384}}\n")
    await pod.route("big", "big", 1)
    rule = "\n".join(["Remember that I need the table of my invoices from May.", *(["-" * 128] * 90)])
    watch = Watch(route="big")
    await _watch(pod, [watch], ([said(f"Table {number}:\n{rule}")] for number in range(40)))


async def test_the_prefix_is_the_same_from_a_cold_start(tmp_path: Path) -> None:
    """A restarted pod, and one that never saw the session, cut the history at the same place (P6, P13)."""
    dice = random.Random(14)
    record = tmp_path / "record.db"
    wishes = [{"budget": budget(total)} for total in (250, 1000, 3000, 7000)]
    async with serving(record) as warm:
        for number in range(12):
            for turn in range(15):
                await warm.append("s", f"{number}-{turn}", *a_turn(dice, f"{number}-{turn}"))
            async with serving(record) as cold:
                for wish in wishes:
                    one, other = await warm.hydrate("s", **wish), await cold.hydrate("s", **wish)
                    assert exact(one.bundle) == exact(other.bundle), (number, wish)
