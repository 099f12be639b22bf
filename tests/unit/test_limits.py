"""The limits check themselves: each has a reason, a unit, a use and a test. And the limits that no other test names."""

from __future__ import annotations

import ast
import asyncio
import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar import analysis, limits, policy, recall
from sidecar.batching import EmbedQueue
from sidecar.embed import Embedder
from sidecar.policies import Policies
from sidecar.scope import base_of
from sidecar.stores.record import StoredRoute
from sidecar.stores.sqlite import SqliteRecord
from sidecar.tokens import Tokenizers
from standpipe.v1 import turn_pb2
from tests.contract.record_suite import turn
from tests.unit.conversation import Conversation, say

ROOT = Path(__file__).parents[2]
MODULE = ast.parse((ROOT / "sidecar" / "limits.py").read_text())


def constants() -> Iterator[tuple[str, str]]:
    """Yield each constant of the module with the text below it."""
    body = MODULE.body
    for at, node in enumerate(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            after = body[at + 1] if at + 1 < len(body) else None
            said = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                said = str(after.value.value)
            yield node.target.id, said


NAMES = [name for name, _ in constants()]


@cache
def source(folder: str) -> str:
    """Return all Python of a folder, this file and the limits themselves left out."""
    here = {Path(__file__), ROOT / "sidecar" / "limits.py"}
    files = [path for path in sorted((ROOT / folder).rglob("*.py")) if path not in here and "_pb2" not in path.name]
    return "\n".join(path.read_text() for path in files)


def test_the_file_holds_limits_and_nothing_else() -> None:
    """Every statement of the module is an import, a Final constant or the text below one."""
    assert NAMES
    assert set(NAMES) == {name for name, value in vars(limits).items() if isinstance(value, int)}
    for node in MODULE.body:
        if isinstance(node, ast.AnnAssign):
            assert ast.unparse(node.annotation) == "Final"
        else:
            assert isinstance(node, ast.ImportFrom | ast.Expr), ast.unparse(node)


@pytest.mark.parametrize(("name", "reason"), list(constants()))
def test_every_limit_has_a_reason(name: str, reason: str) -> None:
    """Below each constant stands why it is what it is: more than its name in other words."""
    assert len(reason.split()) >= 4, f"{name} needs a reason"
    assert reason.strip().endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_names_its_unit(name: str) -> None:
    """Each name ends in its unit, or in what it bounds, and its value is a positive whole number."""
    assert re.search(r"_(max|bytes|tokens|ms|s|default)$", name)
    assert isinstance(getattr(limits, name), int)
    assert getattr(limits, name) > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_is_used(name: str) -> None:
    """Each constant is read somewhere in the code: a limit that nothing enforces is a wish."""
    assert re.search(rf"\blimits\.{name}\b", source("sidecar"))


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_is_named_by_a_test(name: str) -> None:
    """Each constant is named in a test that shows what happens at it."""
    below = (Path(__file__)).read_text().split("# --- the limits themselves ---")[-1]
    assert re.search(rf"\b{name}\b", source("tests") + below)


def test_no_other_module_hides_a_limit() -> None:
    """A limit that an error names is one of this module's, so that GetServerInfo can tell it."""
    named = set(re.findall(r"\blimit=\"(\w+)\"", source("sidecar")))
    assert named
    assert named <= set(NAMES)


# --- the limits themselves ---


def test_limits_that_depend_on_each_other_agree() -> None:
    """A window lies in a view, a query in a receipt, a turn and a page in a gRPC message, a batch in a queue."""
    assert limits.view_bytes >= 16 * limits.history_tokens_max
    assert limits.entry_weight_bytes * 8 <= limits.view_bytes
    assert limits.checkpoint_bytes <= limits.view_bytes
    assert limits.query_bytes + 2048 < limits.receipt_bytes
    assert limits.message_bytes <= limits.turn_bytes < limits.wire_bytes
    assert limits.page_bytes + limits.message_bytes < 4 << 20 or limits.page_bytes < 4 << 20
    assert limits.page_default <= limits.page_max
    assert limits.append_batch_max <= limits.append_queue_max
    assert limits.embed_call_texts_max * 512 <= limits.embed_item_tokens_max <= limits.embed_gpu_item_tokens_max
    assert limits.embed_query_tokens_max <= limits.embed_gpu_query_tokens_max
    assert limits.embed_pause_ms < limits.embed_pause_longest_ms
    assert limits.history_tokens_max + limits.summary_tokens_max <= limits.budget_tokens_max
    assert limits.policy_bytes < limits.wire_bytes
    assert limits.drain_ms < 2000


def test_a_scope_is_ranked_over_its_newest_items() -> None:
    """P6: at scope_items_max the base moves, in steps that depend on the position alone, and at most so many stay."""
    most = limits.scope_items_max
    assert [base_of(position) for position in (0, 1, most)] == [0, 0, 0]
    before = 0
    for position in range(most, 3 * most, 997):
        base = base_of(position)
        assert before <= base <= position
        assert most * 7 // 8 <= position - base <= most
        before = base
    bases = {base_of(position) for position in range(most, 2 * most, 13)}
    assert len(bases) <= 9


def test_an_item_is_at_most_its_limit(tokenizers: Tokenizers) -> None:
    """P5: however long a message, its recall items are each at most item_tokens_max as they are shown."""
    count = tokenizers.get("o200k_base").count
    texts = [
        "word " * 3000,
        "x" * 5000,
        "漢字" * 2000,
        "One sentence here. " * 300,
        "\n\n".join(["line of text"] * 400),
    ]
    for text in texts:
        stored = analysis.analyse(
            turn_pb2.Turn(entries=[say(text, speaker="Ana")]), {"o200k_base": count}, received_at_us=1
        )
        sizes = stored.analyses[0].counts[0].chunks
        assert len(sizes) > 3
        # Counts of pieces do not quite add up where a piece is cut inside a word.
        assert max(sizes) <= limits.item_tokens_max + 8
        spans = stored.analyses[0].chunks
        assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]


def test_a_ranking_is_bounded() -> None:
    """A ranking holds at most recall_candidates_max items, the best; all further ones are counted as left out."""
    conversation = Conversation({"words": lambda text: len(text.split())})
    for number in range(6):
        conversation.commit(*(say(f"zebra {number} {other}") for other in range(100)))
    conversation.commit(*(say(f"about zebra and giraffe {number}") for number in range(3)))
    candidates = conversation.candidates(
        "zebra giraffe", tokenizer="words", count=lambda text: len(text.split()), session="other", floor=False
    )
    ranked = [candidates.at(place) for place in range(len(candidates.indices))]
    assert len(ranked) == limits.recall_candidates_max < candidates.total == candidates.relevant == 603
    assert all("giraffe" in candidate.item.text for candidate in ranked[:3])
    rest = list(candidates.unlisted())
    assert len({candidate.item.position for candidate in (*ranked, *rest)}) == 603
    assert recall.Settings().candidates_max == limits.recall_candidates_max


async def test_parsed_policies_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of published versions and followed routes at most policy_cache_max are kept, and all can be had."""
    monkeypatch.setattr(limits, "policy_cache_max", 4)
    monkeypatch.setattr(policy, "parse", lambda document, *, version, tokenizers: (document, version))
    record = SqliteRecord(tmp_path / "record.db")
    await record.open()
    policies = Policies(record, tokenizers=type("Names", (), {"written": ("o200k_base",)})())
    for version in range(1, 10):
        await record.publish_policy("acme", name="p", document=f"{version}", digest=bytes([version]) * 32)
    for version in (*range(1, 10), 1, 9):
        assert await policies.version("acme", "p", version) == (f"{version}", version)
        await policies.follow("acme", "default", None, asked_at=0.0)
        assert len(policies._versions) <= 4
    for number in range(9):
        policies.saw("acme", f"r-{number}", StoredRoute(name="r", policy_name="p", policy_version=1), asked_at=0.0)
        assert len(policies.routes_in_use()) <= 4
    await record.close()


async def test_commits_that_wait_share_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most append_batch_max commits are in one transaction, and many that wait are in few."""
    record = SqliteRecord(tmp_path / "record.db")
    await record.open()
    sizes: list[int] = []
    commit = SqliteRecord._commit

    def counting(self: SqliteRecord, db: sqlite3.Connection, batch: Any) -> None:
        sizes.append(len(batch))
        commit(self, db, batch)

    monkeypatch.setattr(SqliteRecord, "_commit", counting)
    await asyncio.gather(*(record.append(turn(f"s-{number}")) for number in range(3 * limits.append_batch_max)))
    await record.close()
    assert max(sizes) <= limits.append_batch_max
    assert len(sizes) < 3 * limits.append_batch_max


def test_what_stands_past_the_embedders_limit_is_not_read(embedder: Embedder) -> None:
    """P6: two texts that differ behind embed_text_chars_max characters have one vector."""
    text = ("word " * limits.embed_text_chars_max)[: limits.embed_text_chars_max]
    vectors = [embedder.embed_one(text + tail) for tail in ("", " and more", "😀" * 1000)]
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)


async def test_query_vectors_are_bounded(embedder: Embedder) -> None:
    """At most query_cache_max query vectors are kept unless a test says otherwise."""
    queue = EmbedQueue(embedder)
    small = EmbedQueue(embedder, cache_entries_max=2)
    for text in ("a", "b", "c"):
        await small.embed_query(text, deadline_s=30)
    assert (queue._cache._entries_max, len(small._cache._vectors)) == (limits.query_cache_max, 2)
    await queue.close()
    await small.close()
