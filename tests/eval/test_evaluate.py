"""The evaluation: its arithmetic, and one small run of the whole."""

from __future__ import annotations

import asyncio
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from sidecar.evaluation import evaluate, measured
from sidecar.evaluation.measured import Options, Request, reuse, share_found
from standpipe.v1 import bundle_pb2, turn_pb2

MODELS = Path(os.environ.get("STANDPIPE_MODELS_DIR") or Path(__file__).parents[2] / ".cache" / "models")

POLICY, HISTORY = bundle_pb2.SOURCE_POLICY, bundle_pb2.SOURCE_HISTORY


def test_recall_is_the_share_of_evidence_that_is_cited():
    """Each evidence turn counts once, however often it is cited; other citations count nothing."""
    assert share_found(["a", "a", "x"], frozenset("ab")) == 0.5
    assert share_found([], frozenset("ab")) == 0.0
    assert share_found("abc", frozenset("ab")) == 1.0


def _request(history: str, recall: str = "", *, epoch: int = 0) -> Request:
    return Request(
        stable={POLICY: (("p", 10),), HISTORY: tuple((letter, 1) for letter in history)},
        epochs={POLICY: 1, HISTORY: epoch},
        rest=tuple((letter, 1) for letter in recall),
    )


def test_a_growing_history_is_repeated_whole():
    """When history only grows, everything before the new turns repeats, and recall ends the prefix."""
    found = reuse([_request("ab", "xy"), _request("abcd", "zw")])
    assert (found.stable_repeated, found.stable_total) == (12, 12 + 14)
    assert (found.all_repeated, found.all_total) == (12, 14 + 16)
    assert found.strip == [(0, 12, 2), (12, 2, 2)]
    assert (found.epochs, found.undeclared) == (0, 0)


def test_a_cut_ends_the_prefix_at_the_first_segment_that_differs():
    """After a cut only the prompt repeats, even if later segments stand in both requests."""
    found = reuse([_request("abcd"), _request("cdef", epoch=1)])
    assert found.stable_repeated == 10
    assert (found.epochs, found.undeclared) == (1, 0)


def test_a_change_without_a_new_epoch_is_a_breach():
    """Bytes that change while the epoch stays are counted as undeclared (P13)."""
    found = reuse([_request("abcd", epoch=3), _request("cdef", epoch=3)])
    assert (found.epochs, found.undeclared) == (0, 1)


def test_replays_add_up():
    """The figure of a set is that of all its tokens, not the mean of its conversations."""
    total = reuse([_request("ab"), _request("abc")])
    total += reuse([_request("ab")])
    assert (total.stable_repeated, total.stable_total) == (12, 12 + 13 + 12)


def test_a_difference_names_segments_by_citation():
    """Of two bundles that should be equal, the report says which segments only one of them has."""

    def bundle(*versions):
        segments = [
            bundle_pb2.Segment(
                body="x", tokens=3, citations=[turn_pb2.EventRef(session_id="s", version=version, entry=0)]
            )
            for version in versions
        ]
        return bundle_pb2.Bundle(sections=[bundle_pb2.Section(segments=segments)], tokens=3 * len(versions))

    found = measured.difference(bundle(1, 2).SerializeToString(), bundle(2).SerializeToString())
    assert found["only_before"] == ["s:1.0 tokens=3 score=0"]
    assert found["only_after"] == []
    assert found["fields"] == ["tokens"]


CONVERSATION = {
    "id": "kitchen",
    "turns": [
        {"id": f"{session}-{place}", "session": session, "at": f"2024-0{session}-01", "role": role, "text": text}
        for session, said in enumerate(
            [
                [
                    "My sister Ines moved to Porto.",
                    "How does she like it?",
                    "She misses her cat Pixel.",
                    "Poor Pixel.",
                ],
                ["I bought a kiln for the shed.", "What will you fire first?", "A teapot, if it fits.", "Lovely."],
                ["The roof of the shed leaks.", "Tar paper helps.", "I am away until Monday.", "Enjoy the trip."],
            ],
            1,
        )
        for place, (role, text) in enumerate(zip(["user", "assistant"] * 2, said, strict=True))
    ],
    "questions": [
        {"id": "q1", "question": "Where does Ines live?", "category": "place", "evidence": ["1-0"]},
        {"id": "q2", "question": "What was bought for the shed?", "category": "thing", "evidence": ["2-0"]},
        {"id": "q3", "question": "Nobody knows?", "category": "thing", "evidence": []},
        {"id": "q4", "question": "What leaks?", "evidence": ["3-0"]},
    ],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return (figures, output directory, screen) of one run over a small conversation, and one that is odd."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    odd = {"turns": [{"text": "Only this."}], "questions": [{"question": "What?", "evidence": "0"}]}
    (data / "kitchen.json").write_text(json.dumps([CONVERSATION]))
    (data / "odd.json").write_text(json.dumps([odd, {"turns": []}, {"turns": [{"text": ""}]}]))
    unanswerable = {"question": "What?", "evidence": ["0"], "category": 5}
    nothing_scored = {"source": "locomo", "turns": [{"text": "Only this."}], "questions": [unanswerable]}
    (data / "nothing.json").write_text(json.dumps([nothing_scored, {"turns": [{"text": "Nobody asks."}]}]))
    (data / "labels.json").write_text(json.dumps([{"text": "not a conversation"}]))
    screen = io.StringIO()
    work = evaluate.evaluate(data, out, Options(models_dir=MODELS), console=Console(file=screen, width=120))
    figures = asyncio.run(work)
    return figures, out, screen.getvalue()


def test_a_run_finds_what_is_there(run):
    """Every set has its figures; a conversation that fits into the budget is recalled whole."""
    figures, _, _ = run
    assert set(figures["sets"]) == {"kitchen", "nothing", "odd"}
    kitchen = figures["sets"]["kitchen"]
    assert kitchen["evidence_recall"] == {"1000": 1.0, "2000": 1.0, "4000": 1.0}
    assert set(kitchen["by_category"]) == {"place", "thing", "none"}
    assert kitchen["by_category"]["place"] == {"1000": 1.0, "2000": 1.0, "4000": 1.0}
    assert kitchen["counts"]["questions"] == 4
    assert kitchen["counts"]["questions_scored"] == 3
    assert kitchen["notes"]["questions_without_evidence"] == 1
    assert kitchen["evidence_recall_in_session"] == 1.0
    assert figures["sets"]["odd"]["evidence_recall"]["1000"] == 1.0
    assert figures["sets"]["odd"]["notes"]["conversations_empty"] == 2


def test_questions_that_cannot_be_answered_are_reported_apart(run):
    """LoCoMo's category 5 has its own line and no part in the headline, which may then be empty."""
    figures, _, screen = run
    nothing = figures["sets"]["nothing"]
    assert nothing["evidence_recall"] == {"1000": None, "2000": None, "4000": None}
    assert nothing["evidence_recall_in_session"] is None
    assert nothing["by_category"]["5"] == {"1000": 1.0, "2000": 1.0, "4000": 1.0}
    assert nothing["counts"]["questions_scored"] == 0
    assert "nothing" in screen


def test_a_run_is_deterministic(run):
    """Asked twice, after a restart, after a rebuild, and replayed: the bundles are equal (P6, P7, P9)."""
    figures, _, _ = run
    assert figures["deterministic"] is True
    assert figures["sets"]["kitchen"]["deterministic"] is True
    checks = figures["sets"]["kitchen"]["determinism"]["checks"]
    assert checks == {"again": 4, "restart": 4, "replay": 4, "rebuild": 4, "replay_after_rebuild": 4}


def test_a_run_measures_the_prefix(run):
    """A conversation that never leaves its window repeats all of its history, under undisturbed epochs (P13)."""
    figures, _, _ = run
    kitchen = figures["sets"]["kitchen"]["prefix_reuse"]
    assert 0 < kitchen["all"] <= kitchen["stable"] < 1
    assert (kitchen["epochs"], kitchen["undeclared_changes"]) == (0, 0)
    assert figures["tokens_sent_over_transcript"] > 0


def test_a_run_writes_its_figures_and_says_them(run):
    """eval.json holds what was returned, under the promised keys; the screen names what was skipped."""
    figures, out, screen = run
    assert json.loads((out / "eval.json").read_text()) == figures
    assert {"sets", "prefix_reuse", "tokens_sent_over_transcript", "deterministic", "settings"} <= set(figures)
    assert {"stable", "all"} <= set(figures["prefix_reuse"])
    assert "labels.json: holds no conversations" in screen
    assert "evidence recall at 1,000 tokens" in screen
    assert all(path.stat().st_size > 10_000 for path in out.glob("*.png"))


def test_recall_alone_is_measured_with_any_weights(tmp_path):
    """With `recall_only` questions are asked once, by the precision that was asked for; the rest is not there."""
    data = tmp_path / "kitchen.json"
    data.write_text(json.dumps([CONVERSATION]))
    screen = io.StringIO()
    options = Options(models_dir=MODELS, precision="fp32", recall_only=True)
    figures = asyncio.run(evaluate.evaluate(data, tmp_path, options, console=Console(file=screen, width=120)))
    kitchen = figures["sets"]["kitchen"]
    assert kitchen["evidence_recall"] == {"1000": 1.0, "2000": 1.0, "4000": 1.0}
    assert figures["settings"]["precision"] == "fp32"
    assert figures["deterministic"] is kitchen["deterministic"] is None
    assert kitchen["determinism"]["checks"] == {}
    assert figures["prefix_reuse"]["stable"] is figures["tokens_sent_over_transcript"] is None
    assert "bundles equal" not in screen.getvalue()
    assert "missed" not in screen.getvalue()


async def test_nothing_to_measure_is_an_error(tmp_path):
    """A directory without conversations is refused before anything starts."""
    with pytest.raises(FileNotFoundError):
        await evaluate.evaluate(tmp_path, tmp_path, Options(models_dir=MODELS), console=Console(file=io.StringIO()))
