"""Normal forms: one for all disguises of a text, another for every other text; and what shows nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import normal

WORDS = st.sampled_from("Lisbon harbour violet Okonkwo peanut Geneva tenor maple seven oboe quince zither".split())
PLAIN = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
CYRILLIC = str.maketrans("aceopxyisjABCEHIKMOPTXYSJdqwh", "асеорхуіѕјАВСЕНІКМОРТХУЅЈԁԛԝһ")
GREEK = str.maketrans("AEZHIKMNOPTXYBov", "ΑΕΖΗΙΚΜΝΟΡΤΧΥΒον")
ARMENIAN = str.maketrans("ohugnqj", "օհսցոզյ".replace("յ", "j"))
CHEROKEE = str.maketrans("ADEHLMPRSTWZ", "ᎪᎠᎬᎻᏞᎷᏢᎡᏚᎢᎳᏃ")
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u180e\ufe0f\U000e0041\U000e0101\u202e\u2066\u3164"


@given(st.text())
def test_a_normal_form_is_its_own(text: str) -> None:
    """Normalising twice changes nothing more, whatever the text."""
    once = normal.form(text)
    assert normal.form(once) == once


@given(PLAIN, st.sampled_from([FULL_WIDTH, CYRILLIC, GREEK, ARMENIAN, CHEROKEE]), st.data())
def test_letters_that_look_alike_are_one(text: str, letters: dict[int, int], data: st.DataObject) -> None:
    """Any part of the letters in another alphabet, one that looks the same, gives the same form."""
    chosen = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    disguised = "".join(
        char.translate(letters) if other and char != " " else char for char, other in zip(text, chosen, strict=True)
    )
    assert normal.form(disguised) == normal.form(text)


@pytest.mark.parametrize("letters", [CYRILLIC, GREEK])
def test_a_word_wholly_in_another_alphabet_is_known(letters: dict[int, int]) -> None:
    """A word all of whose letters are of another alphabet is the word that it looks like."""
    assert normal.form("HOME TAXI".translate(letters)) == "home taxi"


@given(PLAIN, st.sampled_from(INVISIBLE), st.data())
def test_what_shows_nothing_counts_for_nothing(text: str, char: str, data: st.DataObject) -> None:
    """Characters without a picture change no form, wherever they stand."""
    at = data.draw(st.integers(0, len(text)))
    assert normal.form(text[:at] + char + text[at:]) == normal.form(text)


@given(PLAIN, st.sampled_from([str.upper, str.title, str.swapcase]))
def test_case_counts_for_nothing(text: str, cased: object) -> None:
    """Capitals and small letters are one."""
    assert normal.form(cased(text)) == normal.form(text)  # type: ignore[operator]


@given(PLAIN, st.sampled_from(["  ", "\t", "\n", "\u00a0", "\u3000", " \u2009 ", "\u2800"]))
def test_white_space_is_one_blank(text: str, blank: str) -> None:
    """Runs of white space of any kind are one blank, and none at the ends."""
    assert normal.form(blank + text.replace(" ", blank) + blank) == normal.form(text)


@given(PLAIN, st.sampled_from(['"%s"', "%s.", "“%s”", "¿%s?", "(%s)", "— %s!", "「%s」。", "«%s»…"]))
def test_outer_punctuation_counts_for_nothing(text: str, around: str) -> None:
    """Quotes, brackets and full stops around a text are not part of it."""
    assert normal.form(around % text) == normal.form(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Lisbon", "Lisbao"),
        ("C", "C++"),
        ("C", "C#"),
        ("5", "-5"),
        ("B+", "B"),
        ("B", "B-"),
        ("año", "ano"),
        ("resume", "résumé"),
        ("кот", "код"),
        ("мать", "мат"),
        ("ναός", "νους"),
        ("cat", "act"),
        ("1", "l"),
        ("0", "o"),
        ("well", "we'll"),
        ("no where", "nowhere"),
        ("東京", "京都"),
        ("łaska", "laska"),
    ],
)
def test_different_words_stay_different(one: str, other: str) -> None:
    """What a reader tells apart has two forms."""
    assert normal.form(one) != normal.form(other)


@given(st.lists(WORDS, min_size=2, max_size=2, unique=True))
def test_no_two_words_of_a_list_meet(pair: list[str]) -> None:
    """Words without a disguise keep their identity."""
    assert normal.form(pair[0]) != normal.form(pair[1])


@pytest.mark.parametrize("word", ["ναι", "υγεία", "Ήλιος", "ячмень", "Նոր", "straße", "ǅ"])
def test_a_word_of_another_alphabet_has_one_form_in_both_cases(word: str) -> None:
    """Where only a capital looks Latin, its small letter goes with it."""
    assert normal.form(word.upper()) == normal.form(word) == normal.form(word.lower())


def test_every_format_character_without_a_picture_is_left_out() -> None:
    """The list in the code holds all that this interpreter's Unicode knows of the category, but for visible signs."""
    signs = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    found = [code for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf" and code not in signs]
    assert [hex(code) for code in found if normal.form(f"a{chr(code)}b") != "ab"] == []


@pytest.mark.parametrize(
    "text",
    [
        "I like \u2764\ufe0f and \U0001f469\u200d\U0001f469\u200d\U0001f467",
        "1\ufe0f\u20e3 first",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0915\u094d\u200d\u0937",
        "\u05e9\u05dc\u05d5\u05dd\u200f!",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f wins",
        "\u0e2a\u0e27\u200b\u0e31\u0e2a",
        "\u845b\U000e0100\u98fe\u533a",
        "\ufeffA file's first line",
        "plain ASCII",
        "naïve café Ünïcödé",
    ],
)
def test_what_a_script_needs_is_not_hidden_text(text: str) -> None:
    """Joiners of Arabic and India, of emoji, selectors and flags are honest."""
    assert not normal.hidden(text)


@given(PLAIN, st.sampled_from(INVISIBLE), st.data())
def test_hidden_characters_between_letters_are_found(text: str, char: str, data: st.DataObject) -> None:
    """What shows nothing between Latin letters is there to hide something."""
    at = data.draw(st.integers(1, len(text)))
    assert normal.hidden(text[:at] + char + text[at:])


def test_forms_of_long_texts_are_made_in_one_pass() -> None:
    """A text made of what is dropped, or of what grows, comes to an end without a step per character."""
    for text in (
        "\u200b" * 200_000,
        "\ufdfa" * 5_000,
        "'" * 200_000 + "a",
        "a" + "." * 200_000,
        "\U000e0061" * 100_000,
    ):
        once = normal.form(text)
        assert normal.form(once) == once
        normal.hidden(text)
