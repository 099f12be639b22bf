"""The demonstration keeps its word: everything that it claims is read from its JSON."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import standpipe
from sidecar.cli import demo
from sidecar.config import Config
from sidecar.demo import play, story
from sidecar.server import Server
from standpipe.v1.context_pb2 import TokenTax
from tests import keys


@pytest.fixture(scope="module")
def played(models_directory: Path) -> play.Played:
    """Play the story once, with the real model."""
    return asyncio.run(play.play(story.load(), models_dir=str(models_directory), embedder="all-MiniLM-L6-v2"))


@pytest.fixture(scope="module")
def wordless(models_directory: Path) -> play.Played:
    """Play the story without an embedder."""
    return asyncio.run(play.play(story.load(), models_dir=str(models_directory), embedder="none"))


@pytest.fixture(scope="module")
def figures(played: play.Played) -> dict[str, Any]:
    """Return what `--json` prints."""
    return demo.figures(played)


def test_story_is_long_enough() -> None:
    """The story has 60 to 100 turns in 3 or 4 dated sessions, two tool calls with results, and three questions."""
    told = story.load()
    turns = [turn for session in told.sessions for turn in session.turns]
    assert 60 <= len(turns) <= 100
    assert len(told.sessions) in (3, 4)
    assert [turn.at for turn in turns] == sorted(turn.at for turn in turns)
    assert sum(entry.HasField("tool_result") for turn in turns for entry in turn.reply) >= 2
    facts = {turn.fact for turn in turns if turn.fact}
    assert {turn.asks for turn in (*turns, told.question) if turn.asks} <= facts


def test_early_facts_are_recalled(figures: dict[str, Any]) -> None:
    """Every question finds in the recall section what was told once, in another session, months before."""
    assert len(figures["asked"]) >= 2
    for asked in figures["asked"]:
        assert asked["source"] == "recall"
        assert asked["days"] > 60
        assert asked["score"] > 0


def test_what_a_tool_said_is_held_back(figures: dict[str, Any], played: play.Played) -> None:
    """P10: what the user said is held and shown with its source; what a tool said waits for review, in no section."""
    assert [(one["outcome"], one["reasons"], one["section"]) for one in figures["recorded"]] == [
        ("held", (), "facts"),
        ("held", (), "profile"),
        ("quarantined", ("origin",), ""),
    ]
    assert "bulky waste: 70" not in played.bundle.text
    waits = {"source": "SOURCE_FACTS", "reason": "OMISSION_REASON_QUARANTINED", "candidates": 1}
    assert waits in figures["bundle"]["omission_counts"]


def test_facts_are_told_once(played: play.Played) -> None:
    """What the demo calls remembered is no echo: nobody says the lift's length again before the question."""
    said = [words for words in played.said.values() if "2.10 m" in words]
    assert len(said) == 1


def test_sources_act_under_the_budget(figures: dict[str, Any]) -> None:
    """All sources share a full budget that is never exceeded (P5), after history was evicted."""
    bundle = figures["bundle"]
    assert [section["source"] for section in bundle["sections"]] == [
        "SOURCE_POLICY",
        "SOURCE_PROFILE",
        "SOURCE_SUMMARY",
        "SOURCE_HISTORY",
        "SOURCE_RECALL",
        "SOURCE_FACTS",
        "SOURCE_DOCUMENTS",
    ]
    assert bundle["tokens"] <= bundle["budget_tokens"] == 1200
    assert all(section["tokens"] <= section["cap_tokens"] for section in bundle["sections"])
    left_out = {(one["source"], one["reason"]) for one in bundle["omission_counts"]}
    assert ("SOURCE_HISTORY", "OMISSION_REASON_EVICTED") in left_out
    assert ("SOURCE_RECALL", "OMISSION_REASON_OVER_BUDGET") in left_out


def test_tool_calls_keep_their_results(played: play.Played) -> None:
    """The last history window shows a tool call with its result (P5)."""
    kinds = [(s.kind, s.tool_call_id) for section in played.bundle.sections for s in section.segments if s.tool_call_id]
    assert kinds
    assert [call for _, call in kinds[::2]] == [result for _, result in kinds[1::2]]


def test_same_question_gives_the_same_bundle(figures: dict[str, Any]) -> None:
    """The second hydrate has the first one's fingerprint (P6), and the receipt renders it again (P7)."""
    assert figures["fingerprint"] == figures["fingerprint_again"]
    assert figures["replay_equal"]
    assert figures["degraded"] == []


def test_loser_is_told_and_turn_gets_through(figures: dict[str, Any]) -> None:
    """The refused writer learns the winner's version and request id, and `Session.turn` commits behind it (P2)."""
    race = figures["race"]
    assert race["told_version"] == race["version"] + 1
    assert race["told_winner"] == race["winner"]
    first, second = race["turn_versions"]
    assert second == first + 1
    assert race["committed_version"] == second + 1


def test_retry_gets_the_stored_answer(figures: dict[str, Any]) -> None:
    """A commit that is sent again under its request id is answered as it was, and not counted twice (P3)."""
    assert figures["retry"]["same"]


def test_bundles_cost_less_than_transcripts(figures: dict[str, Any]) -> None:
    """Over the whole play, bundles carry fewer tokens than everything said before each question."""
    assert figures["tokens"]["sent"] < figures["tokens"]["transcript"]


def test_demo_is_deterministic(played: play.Played, models_directory: Path) -> None:
    """A second play, in another store, gives the same bundle, finds the same, and sends as much (P6)."""
    again = asyncio.run(play.play(story.load(), models_dir=str(models_directory), embedder="all-MiniLM-L6-v2"))
    assert again.bundle.fingerprint == played.bundle.fingerprint
    assert again.asked == played.asked
    assert again.sent_tokens == played.sent_tokens


def test_words_alone_find_the_facts_too(wordless: play.Played) -> None:
    """Without an embedder recall goes by words, says so, and still finds what the last question needs."""
    assert demo.figures(wordless)["degraded"] == ["embedder_off"] * 3
    assert wordless.asked[-1].source == "recall"


@pytest.mark.parametrize("plain", [True, False])
def test_told_in_eighty_columns(played: play.Played, plain: bool) -> None:
    """Every line fits in 80 columns, and without colours no bar needs one to be read."""
    out = io.StringIO()
    console = Console(file=out, width=80, color_system=None if plain else "truecolor", force_terminal=not plain)
    demo.tell(console, played)
    text = out.getvalue()
    if plain:
        assert "\x1b" not in text
        assert all(len(line) <= 80 for line in text.splitlines())
        assert "####" in text
        assert "━" not in text
    else:
        assert "━" in text
    for title in ("What the model gets to see", "left out", "What was remembered", "What is held true", "What it cost"):
        assert title in text


def test_absent_facts_are_admitted(played: play.Played) -> None:
    """A question whose fact no section quotes is told as not found: the demo knows no answers."""
    turn = story.Turn("Where is my umbrella?", (), played.story.question.at, asks="lift")
    player = play._Player(played.story, standpipe.connect("127.0.0.1:1"))
    first = played.asked[-1]
    player._told["lift"] = (first.told, played.story.sessions[0].turns[4], 4)
    empty = standpipe.Bundle(type(played.bundle.message)())
    assert player._find(turn, empty).source == ""


async def test_printed_client_code_runs(
    models_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines that the demo prints at its end are a program: they commit a turn and replay its bundle."""
    config = Config(
        listen=("127.0.0.1:0",),
        http="",
        encryption_keys_file=keys.key_file(),
        record=f"sqlite:{tmp_path / 'demo.db'}",
        models_dir=str(models_directory),
        embedder="none",
        log_level="error",
    )
    assert len(demo.CLIENT.splitlines()) <= 14

    async def your_model(messages: list[dict[str, Any]]) -> str:
        return f"answer to {messages[-1]['content']}"

    async with Server(config) as server:
        code = demo.CLIENT.replace("127.0.0.1:7460", server.addresses[0])
        names: dict[str, Any] = {"your_model": your_model}
        exec(compile(code.replace("asyncio.run(main())", ""), "demo", "exec"), names)
        await names["main"]()
    version, fingerprint = capsys.readouterr().out.split()
    assert version == "1"
    assert len(fingerprint) == 64


def test_median_names_every_phase(played: play.Played) -> None:
    """Every phase has a median, commits too, and a hydrate's phases take no longer than the whole."""
    median = played.median_us()
    assert set(median) == {"total", "hot", "record", "embed", "rank", "render", "commit"}
    assert median["total"] > 0
    assert isinstance(played.bundle.tax, TokenTax)
