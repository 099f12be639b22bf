"""Reading conversations as people have them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from sidecar import limits
from sidecar.evaluation import conversations


def _one(turns, questions=()):
    (found,) = conversations.parse("tiny", [{"turns": turns, "questions": list(questions)}]).conversations
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:56 pm on 8 May, 2023", datetime(2023, 5, 8, 13, 56, tzinfo=UTC)),
        ("12:06 am on 11 November, 2022", datetime(2022, 11, 11, 0, 6, tzinfo=UTC)),
        ("March-15-2024", datetime(2024, 3, 15, tzinfo=UTC)),
        ("2024-03-15", datetime(2024, 3, 15, tzinfo=UTC)),
        ("2024-03-15T10:00:00+02:00", datetime(2024, 3, 15, 8, tzinfo=UTC)),
        ("2024-03-15T10:00:00Z", datetime(2024, 3, 15, 10, tzinfo=UTC)),
        ("2023/05/20 (Sat) 02:21", datetime(2023, 5, 20, 2, 21, tzinfo=UTC)),
        ("May 3rd, 2021", datetime(2021, 5, 3, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_date_is_read_in_the_forms_that_are_known(text, expected):
    """Every form that data sets use gives the same moment in UTC."""
    assert conversations.moment(text) == expected


@pytest.mark.parametrize("text", ["", "  ", "next Tuesday", "8 May", None, True, [], 1e300, "0001-01-01T00:00+23:59"])
def test_a_date_that_is_not_understood_is_absent(text):
    """A turn whose date cannot be read has none, rather than a wrong one."""
    assert conversations.moment(text) is None


def test_a_whole_conversation_is_read():
    """Sessions, speakers, roles, times, categories and evidence come out as they went in."""
    found = conversations.parse(
        "tiny",
        [
            {
                "id": "c1",
                "source": "mine",
                "turns": [
                    {"id": "a", "session": 1, "at": "2024-01-01", "speaker": "Ana", "role": "user", "text": "Hi"},
                    {
                        "id": "b",
                        "session": 1,
                        "at": "2024-01-01",
                        "speaker": "Bo",
                        "role": "assistant",
                        "text": "Yo",
                    },
                    {
                        "id": "c",
                        "session": 2,
                        "at": "2024-01-02",
                        "speaker": "Ana",
                        "role": "user",
                        "text": "Tea?",
                    },
                ],
                "questions": [{"id": "q", "question": "What drink?", "category": 4, "evidence": ["c"]}],
            }
        ],
    )
    (one,) = found.conversations
    assert (one.id, one.source) == ("c1", "mine")
    assert [[turn.id for turn in session] for session in one.sessions] == [["a", "b"], ["c"]]
    assert [turn.is_user for turn in one.turns] == [True, False, True]
    assert [turn.speaker for turn in one.turns] == ["Ana", "Bo", "Ana"]
    assert one.questions == (conversations.Question("q", "What drink?", "4", frozenset({"c"})),)
    assert not found.notes


def test_missing_fields_are_filled():
    """Turns need no more than a text: ids are places, the first speaker is the user, the session goes on."""
    one = _one([{"text": "Hi", "speaker": "Ana"}, {"text": "Yo", "speaker": "Bo"}, {"text": "Tea?", "speaker": "Ana"}])
    assert [turn.id for turn in one.turns] == ["0", "1", "2"]
    assert [turn.is_user for turn in one.turns] == [True, False, True]
    assert len(one.sessions) == 1
    assert {turn.at for turn in one.turns} == {None}


def test_what_the_api_would_refuse_is_cleaned_or_left_out_and_counted():
    """Empty texts go, control characters become spaces, names are cut to their limit; all of it is noted."""
    found = conversations.parse(
        "tiny",
        [
            {
                "turns": [
                    {"text": "   "},
                    {"text": "\x00"},
                    {"text": None},
                    "not a turn",
                    {"text": "be\x07ll \ud800", "speaker": " " + "n" * 300 + "\n", "role": "user"},
                ]
            }
        ],
    )
    (turn,) = found.conversations[0].turns
    assert turn.texts == ("be ll  ",)
    assert turn.speaker == "n" * limits.name_bytes
    assert found.notes["turns_empty"] == 2
    assert found.notes["turns_without_text"] == 2
    assert found.notes["texts_cleaned"] == 2
    assert found.notes["speakers_cleaned"] == 1


@pytest.mark.parametrize("letter", ["x ", "語", "🙂"])
def test_a_huge_text_becomes_several_messages(letter):
    """A text over the message limit is cut into messages of at most that limit."""
    one = _one([{"text": letter * (limits.message_bytes // len(letter) + 1)}])
    (turn,) = one.turns
    assert len(turn.texts) > 1
    assert max(len(text.encode()) for text in turn.texts) <= limits.message_bytes
    assert sum(len(text.encode()) for text in turn.texts) < limits.wire_bytes


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (["D1:1", "D1:2"], {"D1:1", "D1:2"}),
        ("D1:1", {"D1:1"}),
        ("D1:1; D1:2", {"D1:1", "D1:2"}),
        (["D1:1, D1:2"], {"D1:1", "D1:2"}),
        ([["D1:1"], {"id": "D1:2"}], {"D1:1", "D1:2"}),
        (["D9:9"], set()),
        (None, set()),
    ],
)
def test_evidence_is_read_in_whatever_form(evidence, expected):
    """Evidence names turns of the conversation, as a list or as text; unknown ids do not count."""
    turns = [{"id": "D1:1", "text": "Hi"}, {"id": "D1:2", "text": "Yo"}]
    (question,) = _one(turns, [{"question": "Who?", "evidence": evidence}]).questions
    assert question.evidence == expected


def test_numbers_are_ids_too():
    """A number names the turn that has it as text."""
    (question,) = _one([{"id": 7, "text": "Hi"}], [{"question": "Who?", "evidence": [7]}]).questions
    assert question.evidence == {"7"}


def test_files_of_another_shape_are_named_and_skipped(tmp_path):
    """A directory may hold other JSON: one line each says that it was skipped."""
    (tmp_path / "good.json").write_text(json.dumps([{"turns": [{"text": "Hi"}]}]))
    (tmp_path / "wrapped.json").write_text(json.dumps({"conversations": [{"turns": [{"text": "Hi"}]}]}))
    (tmp_path / "labels.json").write_text(json.dumps([{"text": "Hi", "spans": []}]))
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "number.json").write_text("7")
    sets, skipped = conversations.read(tmp_path)
    assert [one.name for one in sets] == ["good", "wrapped"]
    assert len(skipped) == 4
    assert all("skipped" in line for line in skipped)


def test_one_file_can_be_named(tmp_path):
    """A path to a file is read as that file alone."""
    path = tmp_path / "good.json"
    path.write_text(json.dumps([{"turns": [{"text": "Hi"}]}]))
    sets, _ = conversations.read(path)
    assert [one.name for one in sets] == ["good"]


@pytest.mark.parametrize(
    ("categories", "expected"), [("12345", True), ("14", True), ("16", False), ("a", False), ("", False)]
)
def test_locomo_is_known_by_its_categories(categories, expected):
    """Only sets whose categories are all 1 to 5 leave the fifth out of their headline."""
    questions = [{"question": "Who?", "category": one, "evidence": ["0"]} for one in categories]
    found = conversations.parse("tiny", [{"turns": [{"text": "Hi"}], "questions": questions}])
    assert found.is_locomo is expected
