"""Segments: no text that is quoted reads as the fence around it, and an entry in masked form."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import analysis, pii, segment
from standpipe.v1 import turn_pb2
from tests.unit.conversation import answer, call, say

ANGLES = st.sampled_from("<\uff1c\ufe64\u2039\u3008\u27e8\u276e\u02c2")
SLASHES = st.sampled_from(["", "/", "\uff0f", "\u2215", " / "])
NOTHING = st.sampled_from(["", "", "", "\u200b", "\u00ad", "\u2060", "\U000e0041", "\ufe0f", "\u0301", "\u200d\u200c"])
TWINS = {
    "r": "rRｒ𝐫г",
    "e": "eEｅ𝒆е\u00e93",
    "c": "cCｃс",
    "a": "aAａ\u0430\u03b1\u00e44",
    "l": "lLｌ\u04cf1I|",
    "d": "dDｄԁ",
    "i": "iIｉ\u0456\u0131",
}


@st.composite
def fences(draw: st.DrawFn) -> str:
    """Draw a mark of a fence in disguise."""
    word = draw(st.sampled_from(["recalled", "earlier"]))
    letters = "".join(draw(st.sampled_from(TWINS[char])) + draw(NOTHING) for char in word)
    blank = draw(st.sampled_from(["", " ", "\u00a0", "\u200b "]))
    ending = draw(st.sampled_from([">", "\uff1e", " x>", "", "\n"]))
    return draw(ANGLES) + draw(NOTHING) + blank + draw(SLASHES) + blank + letters + ending


def reads_as_fence(text: str) -> bool:
    """Return whether somebody who sees pictures, and not characters, reads a mark of a fence: by another way than the
    code's.
    """
    shown = "".join(
        char
        for char in unicodedata.normalize("NFKD", text)
        if unicodedata.category(char) not in ("Cf", "Mn", "Me") and char not in "\u3164\uffa0\u1160"
    )
    pictures = str.maketrans(
        "\u2039\u3008\u27e8\u276e\u02c2\u2215\u2044\u0433\u0435\u0441\u0430\u03b1\u04cf\u0501\u0456\u01313\u00341|",
        "<<<<<//recaaldiiea" + "ll",
    )
    shown = shown.translate(pictures).casefold().replace("i", "l")
    return bool(re.search(r"<\s*/*\s*(?:recalled|earller)(?!\w)", shown))


@given(st.text(), fences(), st.text())
@example("", "<recalled>", "")
@example("<", "</ earlier>", ">")
def test_no_quoted_text_reads_as_a_fence(before: str, fence: str, behind: str) -> None:
    """P8: whatever the letters, widths, marks and hidden characters, what is quoted cannot open or end a fence."""
    assert not reads_as_fence(segment.quoted_body(before + fence + " " + behind))
    assert not reads_as_fence(segment.header(turn_pb2.ROLE_USER, before + fence))


@given(fences())
def test_every_disguise_is_defused(fence: str) -> None:
    """The disguises of these tests read as a fence before, so that the test above can fail."""
    assert segment.defused(fence) != fence


@given(st.text())
def test_what_is_defused_stays_so(text: str) -> None:
    """Defusing again changes nothing, and nothing but backslashes is ever added."""
    once = segment.defused(text)
    assert segment.defused(once) == once
    assert once.replace("\\", "") == text.replace("\\", "")


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "<recall>",
        "<earliest>",
        "<recalled_items>",
        "<recalledx",
        "2 <3",
        "< >",
        "<\u200b",
        "<re>called",
        "<3 r",
        "‹em›",
    ],
)
def test_what_is_no_fence_is_as_it_was(text: str) -> None:
    """Texts without such a mark are quoted byte for byte, so that what was served renders again."""
    assert segment.quoted_body(text) == text + "\n"


def test_the_plain_forms_are_defused_as_they_always_were() -> None:
    """A backslash behind the angle bracket, as in releases before."""
    assert segment.defused("x <recalled> y </ Recalled> z <EARLIER") == "x <\\recalled> y <\\/ Recalled> z <\\EARLIER"


@pytest.mark.parametrize("part", ["<", "< ", "<\u200b", "</", "<r", "<recalle", "\uff1c\u0301"])
def test_defusing_is_linear(part: str) -> None:
    """Half a mebibyte of half a fence is read once; what is quadratic outlasts the timeout."""
    segment.defused(part * (524_288 // len(part)))


# --- masked form -----------------------------------------------------------------------------------------------


def masked(entry: turn_pb2.TurnEntry) -> turn_pb2.TurnEntry:
    """Return an entry in masked form, by its own finds."""
    return segment.masked(entry, pii.find(segment.spoken_text(entry)))


def test_a_message_in_masked_form() -> None:
    """Text and speaker show kinds, and nothing else changes."""
    shown = masked(say("Mail ana@mail.example, thanks", speaker="ana@mail.example"))
    assert shown == say("Mail <EMAIL>, thanks", speaker="<EMAIL>")
    assert masked(say("nothing to hide", speaker="Ana")) == say("nothing to hide", speaker="Ana")


def test_parts_of_a_message_in_masked_form() -> None:
    """Each part is masked where it stands: texts, descriptions of media, addresses."""
    parts = [
        turn_pb2.Part(text="I am ana@mail.example"),
        turn_pb2.Part(
            media=turn_pb2.Media(
                uri="https://files.example/ana", media_type="image/png", description="call 020 7946 0018"
            )
        ),
        turn_pb2.Part(media=turn_pb2.Media(uri="https://files.example/b", media_type="image/png")),
        turn_pb2.Part(text="and 4111 1111 1111 1111"),
    ]
    entry = turn_pb2.TurnEntry(message=turn_pb2.Message(role=turn_pb2.ROLE_USER, parts=parts))
    shown = masked(entry).message
    assert [part.text for part in shown.parts] == ["I am <EMAIL>", "", "", "and <CARD>"]
    assert shown.parts[1].media.description == "call <PHONE>"
    assert {part.media.uri for part in shown.parts} == {"", "<URL>"}
    text = segment.message_text(shown)
    assert text == "I am <EMAIL>\n[image/png: call <PHONE>]\n[image/png: <URL>]\nand <CARD>"
    assert text == pii.masked(segment.message_text(entry.message))


def test_arguments_in_masked_form_are_still_json() -> None:
    """A string keeps its quotes; a bare number becomes a string."""
    arguments = '{"to": "ana@mail.example", "phone": 2125550147, "note": "a \\"b\\" 020 7946 0018", "n": 7}'
    shown = json.loads(masked(call("c", arguments=arguments)).tool_call.arguments_json)
    assert shown == {"to": "<EMAIL>", "phone": "<PHONE>", "note": 'a "b" <PHONE>', "n": 7}


def test_a_result_in_masked_form() -> None:
    """What a tool said is masked like what was said."""
    assert masked(answer("c", "ip 203.0.113.7")) == answer("c", "ip <IP>")


def test_finds_are_frozen_at_write() -> None:
    """What was found is stored with the turn, chunk by chunk with the items, clipped at their borders."""
    long = "word " * 200 + "ana@mail.example " + "word " * 200
    turn = turn_pb2.Turn(
        entries=[say(long), call("c", arguments='{"to": "ana@mail.example"}'), answer("c", "020 7946 0018")]
    )
    stored = analysis.analyse(turn, {"words": lambda text: len(text.split())}, received_at_us=1)
    assert [[one.kind for one in found.pii] for found in stored.analyses] == [["EMAIL"], ["EMAIL"], ["PHONE"]]
    items = analysis.items(stored)
    found = [(item, one) for item in items for one in analysis.log_pb2.ItemDetail.FromString(item.detail).pii]
    assert len(items) > 2
    assert [item.text[one.start : one.end] for item, one in found] == ["ana@mail.example", "020 7946 0018"]


def test_what_says_nothing_is_known_at_write() -> None:
    """An entry without a word of content is trivial; one word, in any script, is content."""
    texts = ["ok", "Thanks!", "  ", "yes, sure", "👍", "...", "ok Lisbon", "никогда", "好的吗", "7", "no peanuts"]
    turn = turn_pb2.Turn(entries=[say(text) for text in texts])
    stored = analysis.analyse(turn, {"words": lambda text: len(text.split())}, received_at_us=1)
    assert [found.trivial for found in stored.analyses] == [True, True, False, True, True, True, *[False] * 5]
