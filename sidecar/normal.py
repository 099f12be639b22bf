"""One form of a text for all its spellings, and what of a text no reader sees. Pure.

Claims are compared by their normal form, so that what was rejected once is known again under any disguise: another case
or width, letters of other alphabets that look alike, characters that show nothing, other white space, a full stop more.
Words that a reader tells apart stay apart: accents count, and so do signs that belong to a name ("C++").
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# The letters that look like one Latin letter each, by that letter: from confusables.txt of Unicode 15.1 (UTS 39, under
# the Unicode License v3), less those of which an alphabet has two for one Latin letter, as Armenian has for "q", and
# those that look alike only from afar, as sigma does to "o".
_LOOKALIKES: Final = {
    "A": "ΑАᎪᗅꓮ𐊠𖽀",
    "a": "ɑαа",
    "B": "ΒВᏴᗷꓐꞴ𐊂𐊡𐌁",
    "b": "ƄЬᏏᑲᖯ",
    "C": "СᏟⲤꓚ𐊢𐌂𐐕𐔜",
    "c": "сᴄⲥꮯ𐐽",
    "D": "Ꭰᗞᗪꓓ",
    "d": "ԁᏧᑯꓒ",
    "E": "ΕЕᎬⴹꓰ𐊆𑢦𑢮",
    "e": "еꬲ",
    "F": "ϜᖴꓝꞘ𐊇𐊥𐔥𑢢𑣂",
    "f": "քẝꞙꬵ",
    "G": "ԌᏀᏳꓖ",
    "g": "ɡցᶃ",
    "H": "ΗНᎻᕼⲎꓧ𐋏",
    "h": "һհᏂ",
    "I": "ΙІ",
    "i": "ıɪιіᎥꙇꭵ𑣃",
    "J": "ͿЈᎫᒍꓙꞲ",
    "j": "ϳј",
    "K": "ΚКᏦᛕⲔꓗ𐔘",
    "L": "ᏞᒪⳐꓡ𐐛𐔦𑢣𑢲𖼖",
    "l": "ǀӀӏᛁⲒⵏꓲ𐊊𐌉𖼨",
    "M": "ΜϺМᎷᗰᛖⲘꓟ𐊰𐌑",
    "N": "ΝⲚꓠ𐔓",
    "n": "ո",
    "O": "ΟОՕଠዐⲞⵔꓳ𐊒𐊫𐐄𐓂𐔖𑢵",
    "o": "οоօഠဝჿᴏᴑⲟꬽ𐐬𐓪𑣈𑣗",
    "P": "ΡРᏢᑭⲢꓑ𐊕",
    "p": "ρрⲣ",
    "Q": "ⵕ",
    "q": "ԛզ",
    "R": "ƦᎡᏒᖇꓣ𐒴𖼵",
    "r": "гᴦⲅꭇꭈꮁ",
    "S": "ЅՏᏕᏚꓢ𐊖𐐠𖼺",
    "s": "ƽѕꜱꮪ𐑈𑣁",
    "T": "ΤТᎢⲦꓔ𐊗𐊱𐌕𑢼𖼊",
    "U": "Սሀᑌꓴ𐓎𑢸𖽂",
    "u": "υսᴜꞟꭎꭒ𐓶𑣘",
    "V": "ѴᏙᐯⴸꓦꛟ𐔝𑢠𖼈",
    "v": "νѵᴠꮩ𑜆𑣀",
    "W": "ԜᎳᏔꓪ",
    "w": "ѡԝաᴡꮃ𑜊𑜎𑜏",
    "X": "ΧХᚷⲬⵝꓫꞳ𐊐𐊴𐌗𐔧",
    "x": "хᕁᕽ",
    "Y": "ΥУҮᎩᎽⲨꓬ𐊲𑢤𖽃",
    "y": "ʏуүყᶌỿꭚ𑣜",
    "Z": "ΖᏃꓜ𑢩",
    "z": "ᴢꮓ𑣄",
}

_EXACT: Final = {ord(letter): latin for latin, letters in _LOOKALIKES.items() for letter in letters}
"""For words that hold Latin letters: there, each letter stands for what it looks like."""

_FOLDED: Final = {
    **{ord(one): latin.lower() for latin, letters in _LOOKALIKES.items() for one in letters if one.casefold() == one},
    **{
        ord(one.casefold()): latin.lower()
        for latin, letters in _LOOKALIKES.items()
        for one in letters
        if one.casefold() != one
    },
}
"""For other words: there, a letter has one form in both cases, that of its capital, lest case tell words apart."""

_FILLERS: Final = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_SELECTORS: Final = "\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
_FORMATS: Final = (
    "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\U00013430-\U00013438\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_UNSEEN: Final = f"[{_FILLERS}{_SELECTORS}{_FORMATS}]"
_IGNORED: Final = re.compile(rf"{_UNSEEN}|[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_BLANK: Final = re.compile(r"[\s\u2800]+")
_WORD: Final = re.compile(r"[^\W\d_]+")
_LATIN: Final = re.compile(r"[A-Za-z]")
_QUOTES: Final = r"\s\"'`\u00ab\u00bb\u2010-\u2015\u2018-\u201f\u2039\u203a\u3008-\u3011,;:!?\u3001\u3002"
_BEFORE: Final = re.compile(rf"[(\[{{<\u00a1\u00bf{_QUOTES}]+")
_BEHIND: Final = re.compile(rf"[)\]}}>.{_QUOTES}]+")
"""Matched from the end, so that it is read once."""

_JOINING: Final = (
    "\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1b00-\u1bff\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff"
)
_PICTURES: Final = "\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff"
_IDEOGRAPHS: Final = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_NEEDED: Final = "|".join(
    (
        r"\A\ufeff",  # the first character of many files
        f"(?<=[{_JOINING}])[\u200c\u200d]",
        f"(?<=[{_PICTURES}\ufe0f])\u200d(?=[{_PICTURES}])",
        f"(?<=[{_PICTURES}{_IDEOGRAPHS}{_JOINING}0-9#*])[\ufe00-\ufe0f]",
        f"(?<=[{_IDEOGRAPHS}])[\U000e0100-\U000e01ef]",
        "\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f",  # the flags of regions
        f"(?<=[{_UNSPACED}])[\u200b\u2060]|[\u200b\u2060](?=[{_UNSPACED}])",
        "(?<=[\u1800-\u18af])[\u180b-\u180f]",
        "(?<=[\u0591-\u05c7])\u034f",
        "[\u115f\u1160](?=[\u1100-\u11ff])|(?<=[\u1100-\u11ff])[\u115f\u1160]",
    )
)
_HIDING: Final = re.compile(f"{_NEEDED}|(?P<hidden>{_UNSEEN})")
_DIRECTIONS: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069]")
_LEFTWARDS: Final = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")

_STEPS_MAX: Final = 8
"""Steps until nothing changes: two, but for what was made to need more."""


def form(text: str) -> str:
    """Return the normal form of a text; that of a normal form is itself."""
    for _ in range(_STEPS_MAX):
        before, text = text, _step(text)
        if text == before:
            break
    return text


def seen(char: str) -> str:
    """Return what a reader takes a character for, in small letters without marks; empty if it shows nothing."""
    if char.isascii():
        return char.lower()
    if _IGNORED.match(char):
        return ""
    plain = "".join(one for one in unicodedata.normalize("NFKD", char) if unicodedata.category(one) not in ("Mn", "Me"))
    return plain.translate(_EXACT).casefold().translate(_FOLDED)


def hidden(text: str) -> bool:
    """Return whether a text holds characters that show nothing where no script needs them."""
    if text.isascii():
        return False
    if _LEFTWARDS.search(text):
        text = _DIRECTIONS.sub("", text)
    return any(match.lastgroup for match in _HIDING.finditer(text))


def _step(text: str) -> str:
    if not text.isascii():
        text = _IGNORED.sub("", unicodedata.normalize("NFKC", text))
        text = _WORD.sub(_latin, unicodedata.normalize("NFKC", text))
    text = _BLANK.sub(" ", _IGNORED.sub("", unicodedata.normalize("NFKC", text.casefold())))
    opening = _BEFORE.match(text)
    text = text[opening.end() if opening else 0 :]
    ending = _BEHIND.match(text[::-1])
    return text[: len(text) - ending.end()] if ending else text


def _latin(word: re.Match[str]) -> str:
    found = word.group()
    if found.isascii():
        return found
    if _LATIN.search(found):
        found = found.translate(_EXACT)
    return found.casefold().translate(_FOLDED)
