"""Personal data and secrets in a text: where they stand, and the text without them. Pure.

Found by form and by arithmetic, without a model: a card's number by its issuer's range and check digit, an IBAN by its
country's length and remainder, an SSN by the rules under which they are given out, a phone number by how nations group
its digits and by what stands around it. What has no form, such as a name, is not found.

Every pattern is linear in the text: it stands in the way of each commit, and the text is anybody's.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

EMAIL: Final = "EMAIL"
PHONE: Final = "PHONE"
CARD: Final = "CARD"
IBAN: Final = "IBAN"
IP: Final = "IP"
US_SSN: Final = "US_SSN"
URL: Final = "URL"
SECRET: Final = "SECRET"  # noqa: S105 - a kind
KINDS: Final = (SECRET, URL, EMAIL, IBAN, CARD, IP, US_SSN, PHONE)
"""All kinds. Finds that overlap are one, of the kind that stands first."""


class Find(Protocol):
    """What a find has to tell, as it was made or as it was stored."""

    @property
    def start(self) -> int:
        """The first code point."""

    @property
    def end(self) -> int:
        """The one behind the last."""

    @property
    def kind(self) -> str:
        """What was found, of `KINDS`."""


class Span(NamedTuple):
    """A find: `text[start:end]`, in code points."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Span]:
    """Return personal data and secrets, in order, without overlaps."""
    lowered = _lowered(text)
    found: list[Span] = []
    if "/" in text or "www." in lowered:
        found += _urls(text, lowered)
    if "@" in text:
        found += _emails(text)
    if ":" in text:
        found += _ipv6(text)
    if _DIGITS.search(text):
        found += _numbers(text, lowered)
    found += _secrets(text, lowered)
    return _merged(found)


def mask(text: str, spans: Iterable[Find]) -> str:
    """Return a text with its finds replaced by their kinds, such as ``<EMAIL>``. `spans`: as `find` returns them."""
    parts: list[str] = []
    done = 0
    for one in spans:
        parts += (text[done : one.start], f"<{one.kind}>")
        done = one.end
    return "".join((*parts, text[done:]))


def known(spans: Sequence[Find], text: str) -> Sequence[Find]:
    """Return the finds in a text as they were frozen. What was written before they were is looked at now."""
    return spans or find(text)


def masked(text: str) -> str:
    """Return a text with what is found in it replaced: for what is not analysed when it is written, such as a name."""
    return mask(text, find(text))


def within(spans: Iterable[Find], start: int, end: int) -> list[Span]:
    """Return what of the finds lies in a part of the text, relative to it; what its border cuts is clipped."""
    return [
        Span(max(one.start, start) - start, min(one.end, end) - start, one.kind)
        for one in spans
        if max(one.start, start) < min(one.end, end)
    ]


def _lowered(text: str) -> str:
    """Return a text in small letters, each where its capital stood: one has two."""
    lowered = text.lower()
    return (
        lowered if len(lowered) == len(text) else "".join(one if len(one.lower()) > 1 else one.lower() for one in text)
    )


def _merged(found: Sequence[Span]) -> list[Span]:
    """Return finds in order; those that overlap as one, of the first of their kinds."""
    merged: list[Span] = []
    for one in sorted(found):
        if merged and one.start < merged[-1].end:
            last = merged[-1]
            kind = min(last.kind, one.kind, key=KINDS.index)
            merged[-1] = Span(last.start, max(last.end, one.end), kind)
        else:
            merged.append(one)
    return merged


# --- addresses of the net --------------------------------------------------------------------------------------

_LOCAL_CHARS_MAX: Final = 64
"""Of a mailbox's name: RFC 5321."""

_HOST_CHARS_MAX: Final = 253
_LOCAL: Final = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+")
_HOST: Final = re.compile(rf"[\w.-]{{1,{_HOST_CHARS_MAX}}}")
_LABEL: Final = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?\Z")
_SCHEME: Final = re.compile(r"(?<![a-z0-9])(?:https?|ftps?|wss?)\Z")
_WORLDWIDE: Final = re.compile(r"www\.(?<![\w./@-]....)(?=\w)")
_BARE: Final = re.compile(
    r"\.(?:com|org|net|edu|gov|info|io|co|app|dev|me|ly|uk|de|fr|nl|eu|jp|cn|in|br|it|es|ch|se|no|au|ca)/(?=\w)"
)
_BARE_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,63})(?![\w@/:-])")
"""Reversed: what stands before a bare domain's end."""

_REST: Final = re.compile(r"[^\s<>\"'`\\^{}|]+")
_HOME: Final = re.compile(r"(?:localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0)(?![\w.])")
_URL_ENDS: Final = ".,;:!?*_~'\")]}\u2026\u3002\uff0c\uff09\u201d\u2019\u00bb"
_COLONS: Final = re.compile(r":[0-9A-Fa-f]{0,4}:")
_HEX: Final = re.compile(r"[0-9A-Fa-f:.]*")
_SCAN_CHARS_MAX: Final = 45
"""Of an IPv6 address."""


def _urls(text: str, lowered: str) -> Iterator[Span]:
    starts = []
    for match in re.finditer("://", lowered):
        scheme = _SCHEME.search(lowered[max(0, match.start() - 6) : match.start()])
        if scheme:
            starts.append((match.start() - len(scheme.group()), match.end()))
    if "www." in lowered:
        starts += [match.span() for match in _WORLDWIDE.finditer(lowered)]
    for match in _BARE.finditer(lowered):
        host = _BARE_HOST.match(lowered[max(0, match.start() - _HOST_CHARS_MAX) : match.start()][::-1])
        if host:
            starts.append((match.start() - host.end(), match.end()))
    done = 0
    for start, rest in sorted(starts):
        found = _REST.match(text, rest) if start >= done else None
        if found is None:
            continue
        done = found.end()
        if _HOME.match(text, rest):
            continue
        kept = found.group().rstrip(_URL_ENDS)
        if found.group()[len(kept) :].startswith(")") and kept.count("(") > kept.count(")"):
            kept += ")"
        yield Span(start, rest + len(kept), URL)


def _emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.match(text[max(0, at - _LOCAL_CHARS_MAX) : at][::-1])
        host = _HOST.match(text, at + 1)
        if local and host:
            name = local.group()[::-1].lstrip(".'`*/|{=")
            labels = host.group().rstrip(".-_").split(".")
            while len(labels) > 2 and not _LABEL.match(labels[-1]):
                labels.pop()
            if name and len(labels) > 1 and all(map(_LABEL.match, labels)) and re.match(r"[^\W\d_]{2}", labels[-1]):
                yield Span(at - len(name), at + 1 + len(".".join(labels)), EMAIL)
        at = text.find("@", at + 1)


def _ipv6(text: str) -> Iterator[Span]:
    done = 0
    for match in _COLONS.finditer(text):
        if match.start() < done:
            continue
        before = text[max(0, match.start() - _SCAN_CHARS_MAX) : match.start()][::-1]
        start = match.start() - _length(_HEX, before)
        done = match.end() + _length(_HEX, text[match.end() : match.end() + _SCAN_CHARS_MAX])
        found = text[start:done].rstrip(".")
        found = found[:-1] if found.endswith(":") and not found.endswith("::") else found
        if start and (text[start - 1].isalnum() or text[start - 1] == "_"):
            continue
        if len(found) > _SCAN_CHARS_MAX or sum(map(bool, found.split(":"))) < 3:  # "::1" is nobody's, "a::b" code
            continue
        try:
            ipaddress.IPv6Address(found)
        except ValueError:
            continue
        yield Span(start, start + len(found), IP)


def _length(pattern: re.Pattern[str], text: str) -> int:
    """Return how much of a text's beginning a pattern matches."""
    match = pattern.match(text)
    return match.end() if match else 0


# --- numbers ---------------------------------------------------------------------------------------------------

_DIGITS: Final = re.compile(r"\d[\d .()/\u00a0\u2010-\u2014-]{3}")
_GAP: Final = " .\u00a0\u2007\u202f\u2009\u2010\u2011\u2012\u2013-"

_IBAN_CHARS: Final = {
    country: int(length)
    for country, length in (
        entry.split(":")
        for entry in (
            "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 "
            "DE:22 DJ:27 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 "
            "GT:28 HN:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 "
            "LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18 NO:15 OM:23 PK:24 "
            "PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24 SC:31 SD:18 SE:24 SI:19 SK:24 SM:27 SO:23 ST:25 "
            "SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 YE:30 "
        ).split()
    )
}
"""Characters of an IBAN, by country: the SWIFT registry."""

_IBAN: Final = re.compile(r"\d\d(?=[ -]?[A-Za-z0-9]{4})")
_IBAN_COUNTRY: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[ -]?\Z")
_IBAN_PART: Final = re.compile(r"[ \u00a0-]?[A-Za-z0-9]")
_CARD: Final = re.compile(
    r"\d(?<![\w.+]\d)(?<!\d-\d)"
    r"(?=(\d{11,18}|\d{3}([ -])\d{4}\2\d{4}\2\d{4}(?:\2\d{3})?|\d{3}([ -])\d{6}\3\d{4,5})(?!\w)(?!-\d))"
)
"""Consumes one digit, so that of numbers in a row each is looked at."""

_CARD_GROUPS: Final = re.compile(r"[ -]")
_IPV4: Final = re.compile(r"\d(?<![\w.-]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\w)(?!\.\d)(?!-\d)")
_VERSION: Final = re.compile(
    r"(?i)\b(?:v|ver|version|release|build|firmware|driver|section|chapter|clause)[ .:#]{0,3}\Z"
)
_SSN: Final = re.compile(r"\d(?<![\w-]\d)\d\d(?:-\d\d-\d{4}(?![\w-])|(?<!\d[ .]\d\d\d) \d\d \d{4}(?![\w-])(?![ .]\d))")
_SSN_NAMED: Final = re.compile(r"(?:ssn|social security(?: number| no\.?| #)?)[^\w\n]{0,4}(?:is )?(\d{9})\b")

# A pattern that starts with a class of characters and looks behind from there is ten times as fast as one that looks
# first.


def _numbers(text: str, lowered: str) -> Iterator[Span]:
    yield from _ibans(text)
    for match in _CARD.finditer(text):
        if _is_card(match.group() + match.group(1)):
            yield Span(match.start(), match.end(1), CARD)
    for match in _IPV4.finditer(text):
        parts = match.group().split(".")
        if all(int(part) < 256 and part == str(int(part)) for part in parts) and not (
            _HOME.match(match.group()) or _VERSION.search(text[max(0, match.start() - 12) : match.start()])
        ):
            yield Span(match.start(), match.end(), IP)
    for match in _SSN.finditer(text):
        if _is_ssn(match.group()):
            yield Span(match.start(), match.end(), US_SSN)
    if "ssn" in lowered or "social" in lowered:
        for match in _SSN_NAMED.finditer(lowered):
            if _is_ssn(match.group(1)):
                yield Span(match.start(1), match.end(1), US_SSN)
    yield from _phones(text)


def _is_ssn(found: str) -> bool:
    """Return whether the Social Security Administration would give out a number."""
    digits = re.sub(r"\D", "", found)
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        country = _IBAN_COUNTRY.search(text[max(0, match.start() - 4) : match.start()])
        if country is None:
            continue
        start, at = match.start() - len(country.group()), match.end()
        left = _IBAN_CHARS.get(country.group()[:2].upper(), 0) - 4
        while left > 0:
            part = _IBAN_PART.match(text, at)
            if part is None:
                break
            at, left = part.end(), left - 1
        if left == 0 and not text[at : at + 1].isalnum():
            code = re.sub(r"\W", "", text[start:at]).upper()
            if int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1:
                yield Span(start, at, IBAN)


def _is_card(found: str) -> bool:
    """Return whether a number has an issuer's prefix and length, and the check digit of all of them."""
    number = _CARD_GROUPS.sub("", found)
    if not _issued(number, len(number)):
        return False
    doubled = (2 * int(digit) for digit in number[-2::-2])
    return (sum(map(int, number[-1::-2])) + sum(two - 9 * (two > 9) for two in doubled)) % 10 == 0


def _issued(number: str, digits: int) -> bool:
    """Return whether an issuer gives out numbers of this prefix and length (ISO/IEC 7812)."""
    one, two, three, four = int(number[0]), int(number[:2]), int(number[:3]), int(number[:4])
    if one == 4:  # Visa
        return digits in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:  # Mastercard
        return digits == 16
    if 2200 <= four <= 2204:  # Mir
        return 16 <= digits <= 19
    if two in (34, 37):  # American Express
        return digits == 15
    if 300 <= three <= 305 or three == 309 or two in (36, 38, 39):  # Diners Club
        return 14 <= digits <= 19
    if two == 35:  # JCB: 3528 to 3589, and what is made up for it
        return 16 <= digits <= 19
    if four in (1800, 2131):  # JCB of old
        return digits == 15
    if four == 6011 or 644 <= three <= 649 or two in (62, 65, 81, 82) or three == 508 or four in (9792, 3657):
        return 16 <= digits <= 19  # Discover, UnionPay, RuPay, Troy
    return (two == 50 or 56 <= two <= 58 or two in (63, 67)) and 12 <= digits <= 19  # Maestro


# --- phones ----------------------------------------------------------------------------------------------------

_PHONE: Final = re.compile(
    rf"[+(\d](?<![\w+].)(?<!\d[-.,/:].)(?<![A-Za-z][-_].)[ (+]{{0,2}}(?:[/(){_GAP}]{{0,3}}\d){{5,17}}"
    rf"(?P<extension>,? ?(?:x|ext\.?|extension|#) ?\d{{1,6}})?(?!\w)(?![.,:/-]\d)"
)
_E164_DIGITS_MAX: Final = 15
"""Of a number with its country: ITU-T E.164."""

_GROUPS_MAX: Final = 8
"""Groups of digits that a phone number and a number beside it can have."""

_DIGIT_RUN: Final = re.compile(r"\d+")
_NATIONAL: Final = frozenset(
    tuple(map(int, shape.split("-")))
    for shape in "3-3-4 1-3-3-4 3-2-2-2 3-4-4 2-4-4 2-5-4 3-3-2-2 1-3-3-2-2 2-3-2-2".split()
)
"""Groups of digits that are phone numbers wherever they stand: few other numbers are written so."""

_CONTEXT_CHARS: Final = 48
_CALLED: Final = re.compile(
    r"(?i)\b(?:(?:tele|smart|cell|mobile |home |work )?(?:phone|fon|fax)s?|tele?f?|tel[eé]fono?|t[eé]l[eé]phone|"
    r"mob(?:ile)?|cell(?:ular|ulare)?|m[oó]vil|celular|portable|handy|desk|office|landline|hot-?line|help-?line|"
    r"whats ?app|viber|sms|pager|contact|call(?:ed|ing|s|back)?|dial(?:led|ing)?|ring|reach(?:ed|able)?|"
    r"answer(?:ing|ed)?|text(?:ed|ing)?|messages?|registered|(?:my|her|his|their|our|your|new|old|"
    r"the) numbers? (?:is|was)|numbers?:|n[uú]mero|numer|nummer|rufnummer|"
    r"mobil(?:nummer)?|telefon\w{0,8}|puhelin\w{0,6}|тел(?:ефон\w{0,4})?|номер\w{0,2}|τηλ(?:έφωνο)?)\b"
    r"[^\d\n]{0,32}\n? {0,4}\Z|(?:電話|电话|手机|携帯|전화)[^\d]{0,8}\Z"
)
_CALLED_AT: Final = re.compile(
    r"(?i)(?:\b(?:at|on|to|under|number is|phone|t[eé]l|t[eé]l[eé]phone|mob|mobile|cell|fax|desk|office|home|work|"
    r"landline|"
    r"hotline|whatsapp|registered|telefon\w{0,8}|tel[eé]fono|m[oó]vil|celular|handy|номер|телефон)|電話|电话|手机)[\s:.]*\Z"
)
"""For numbers that could be thousands in groups: who calls, calls at or on it."""

_THOUSANDS: Final = re.compile(r"[1-9]\d{0,2}(?:[ .\u00a0\u202f]\d{3})+")
_CALLED_BEHIND: Final = re.compile(r"(?i)[\s(,\u2013-]{0,3}(?:office|fax|mobile|cell|home|desk|work|phone|tel|mob)\b")
_COUNTED: Final = re.compile(
    r"(?i)(?:[$€£¥₹#=]|\b(?:orders?|invoice|account|acct|a/c|ticket|case|ref(?:erence)?|tracking|serial|sku|isbn|issn|"
    r"ean|upc|id|part|model|item|product|batch|lot|po|zip|postcode|version|build|pages?|room|flight|routing|sort|"
    r"population|vat|tax|permit|licen[cs]e|passport|booking|confirmation|transaction|customer|member(?:ship)?|student|"
    r"employee|policy|claim|che(?:ck|que)|article|doi|port|error|code|patent|bug|issue|parcel|shipment|receipt|"
    r"contract|timestamp|meter|score)\b"
    r"(?:[\s:.-]*\b(?:number|no|nr|num|id|code|is|was|of)\b)*[\s:#.=-]{0,4})\Z"
)
_UNIT: Final = re.compile(
    r"(?i)\s?(?:[%€$£¥°]|(?:eur|usd|gbp|chf|kr|euros?|dollars?|pounds?|yen|kg|km|cm|mm|mb|gb|ms|people|"
    r"inhabitants|users|"
    r"views|followers|units|copies|votes|steps|miles|years|bytes|rows)\b)"
)
_DATE: Final = re.compile(r"(?:19|20)\d\d\W+[01]?\d\W+[0-3]?\d|[0-3]?\d\W+[0-3]?\d\W+(?:(?:19|20)\d\d|\d\d)")
_YEARS: Final = re.compile(r"(?:1[6-9]|20)\d\d\W+(?:1[6-9]|20)\d\d(?:\W+(?:1[6-9]|20)\d\d)*")


def _phones(text: str) -> Iterator[Span]:
    last = -_CONTEXT_CHARS
    for match in _PHONE.finditer(text):
        start, end = match.span()
        if match.group().count("(") > match.group().count(")"):  # the whole stands in brackets
            start += 1
        extended = match.group("extension") is not None
        number = text[start : match.start("extension") if extended else end]
        for first, behind, named in _readings(number):
            at, to = start + first, end if behind == len(number) else start + behind
            left = text[max(0, at - _CONTEXT_CHARS) : at]
            if _COUNTED.search(left) or _UNIT.match(text, to):
                continue
            if named or extended or at - last <= 8 or _is_called(left, number) or _CALLED_BEHIND.match(text, to):
                yield Span(at, to, PHONE)
                last = to
                break


def _is_called(left: str, number: str) -> bool:
    """Return whether what stands before a number says that it is a phone's."""
    return bool(_CALLED.search(left) and (_CALLED_AT.search(left) or not _THOUSANDS.fullmatch(number)))


def _readings(number: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, whether it is one wherever it stands) of what can be a phone number, the likeliest first."""
    groups = [match.span() for match in _DIGIT_RUN.finditer(number)]
    if len(groups) > _GROUPS_MAX or _DATE.fullmatch(number) or _YEARS.fullmatch(number):
        return
    shape = tuple(end - start for start, end in groups)
    digits = sum(shape)
    if number.lstrip("( ").startswith("+"):
        while digits > _E164_DIGITS_MAX and len(shape) > 1:  # another number stands behind it
            shape = shape[:-1]
            digits = sum(shape)
        if 8 <= digits <= _E164_DIGITS_MAX:
            yield 0, groups[len(shape) - 1][1], True
        return
    if _is_national(number, shape, digits):
        yield 0, len(number), True
        return
    for at in range(1, len(shape)):  # a number beside another: "flat 25 0496 46 46 70"
        if " " in number[groups[at - 1][1] : groups[at][0]]:
            start = groups[at][0] - (number[groups[at][0] - 1] == "(")
            if _is_national(number[start:], shape[at:], sum(shape[at:])):
                yield start, len(number), True
                return
            if _is_national(number[: groups[at - 1][1]], shape[:at], sum(shape[:at])):
                yield 0, groups[at - 1][1], True
                return
    if (
        7 <= digits <= 13
        and len(shape) <= 6
        and min(shape[1:], default=2) >= 2
        and number.count("(") == number.count(")")
    ):
        yield 0, len(number), False


def _is_national(number: str, shape: Sequence[int], digits: int) -> bool:
    """Return whether digits are grouped as in phone numbers alone."""
    if _DATE.fullmatch(number):
        return False
    if number.startswith("00") and number[2:3] != "0" and 11 <= digits <= 17:
        return True
    if number[0] == "(":
        return 7 <= digits <= 12 and 2 <= shape[0] <= 5 and len(shape) <= 5 and number.find(")") == shape[0] + 1
    if shape[0] == 1 and len(shape) > 2 and shape[1] == 3 and "(" in number[1:3]:
        return digits == 11
    if "(" in number:
        return False
    if number[0] == "0" and shape[0] >= 2:
        return (10 <= digits <= 11 and len(shape) == 1) or (8 <= digits <= 12 and len(shape) > 1 and min(shape) >= 2)
    return shape in _NATIONAL and "/" not in number


# --- secrets ---------------------------------------------------------------------------------------------------

_BLOCK: Final = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----))*"
    r"(?:-----END [A-Z0-9 ]{1,64}-----)?"
)
_SIGN: Final = re.compile(
    r"AKIA|ASIA|gh[oprsu]_|github_pat_|gl(?:pat|dt)-|xox[abeoprs]-|xapp-|_live_|_test_|whsec_|AIza|ya29\.|GOCSPX-|"
    r"sk-|hf_|"
    r"npm_|pypi-|SG\.|eyJ|shpat_|dop_v1_|key-|hooks\.slack|AccountKey="
)
"""What begins a key that its issuer marks: most texts hold none."""

_TOKEN: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[oprsu]_[A-Za-z0-9]{20,255}|github_pat_\w{22,255}|"
    r"gl(?:pat|dt)-[\w-]{20,255}|xox[abeoprs]-[\w-]{10,255}|xapp-[\w-]{10,255}|(?:sk|rk|pk)_(?:live|test)_\w{10,255}|"
    r"whsec_[\w+/=]{16,255}|AIza[\w-]{35}|ya29\.[\w-]{20,1024}|GOCSPX-[\w-]{20,64}|sk-(?=[\w-]{0,120}\d)[\w-]{20,255}|"
    r"hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,255}|SG\.[\w-]{16,64}\.[\w-]{16,64}|"
    r"shpat_[0-9a-fA-F]{32}|dop_v1_[0-9a-f]{64}|key-[0-9a-f]{32}|eyJ[\w-]{8,2048}\.eyJ[\w-]{4,8192}\.[\w-]{0,2048}|"
    r"hooks\.slack\.com/services/[\w/]{20,128}|AccountKey=[\w+/=]{40,128})(?![A-Za-z0-9])"
)
_WORD: Final = re.compile(
    "passw|passp|passc|pwd|pin|kennwort|contrase|mot de passe|senha|wachtwoord|пароль|apikey|key|token|secret|"
    "credential|bearer"
)
"""What begins the name of a secret, at the same place as `_NAMED`."""

_NAMED: Final = re.compile(
    r"(?<![a-z])(?:(?P<word>pass(?:word|wd|phrase|code|wort)|pwd|pin|kennwort|contrase[ñn]a|mot de passe|senha|"
    r"wachtwoord|пароль)(?: code| number)?|(?:api)?(?:key|token|secret|credential|bearer)s?)[\"']?"
    r"(?P<sign> {0,2}(?::=|=>|[:=\uff1a]) {0,2}| {1,2}(?:is|was|ist|est|es)(?: now)?:? {1,2}| {1,2}(?=[\w+/=.~-]{20}))"
    r"(?P<quote>[\"'`]?)(?P<value>[^\s\"'`<>]{4,256})"
)
_VALUE: Final = re.compile(r"[^\s\"'`<>]+")
_VALUE_CHARS_MAX: Final = 250
"""Of a value that is looked at; what goes on behind belongs to it."""

_PLAIN: Final = re.compile(r"[^\W\d_]+\Z")
_STARS: Final = re.compile(
    r"(?i)[*x•.…_-]+\Z|\$\{|\{\{|%\(|(?:none|null|true|false|string|required|optional|hidden|redacted)\Z"
)
_ENTROPY_BITS: Final = 3.0
"""Per character, of what is no word: of English words it is below, of random letters and digits above."""


def _secrets(text: str, lowered: str) -> Iterator[Span]:
    if "-----BEGIN " in text:
        yield from (Span(*match.span(), SECRET) for match in _BLOCK.finditer(text))
    if _SIGN.search(text):
        yield from (Span(*match.span(), SECRET) for match in _TOKEN.finditer(text))
    done = 0
    for word in _WORD.finditer(lowered):
        match = _NAMED.match(lowered, word.start()) if word.start() >= done else None
        if match:
            start, end = match.span("value")
            value = text[start:end].rstrip(".,;:!?)]}")
            if _is_secret(match, value, text[start + len(value) : start + len(value) + 2]):
                done = start + (len(value) if len(value) < _VALUE_CHARS_MAX else _length(_VALUE, text[start:]))
                yield Span(start, done, SECRET)


def _is_secret(match: re.Match[str], value: str, behind: str) -> bool:
    """Return whether what stands behind a name such as "password" is one."""
    if len(value) < 4 or _STARS.match(value) or (not match.group("quote") and ("(" in value or "[" in value)):
        return False  # nothing, or code
    assigned = match.group("sign").strip()[-1:] in (":", "=", ">", "\uff1a")
    if not match.group("word"):
        return len(value) >= 16 and any(map(str.isdigit, value)) and _entropy_bits(value) >= _ENTROPY_BITS
    if not _PLAIN.match(value):
        return (assigned or bool(match.group("sign").strip())) and (
            any(map(str.isdigit, value)) or any(char in value for char in "!@#$%^&*+=~?")
        )
    # A word can be a password; in a sentence it is one if nothing goes on behind it.
    return bool(match.group("quote")) or (assigned and not re.match(r" \w", behind))


def _entropy_bits(value: str) -> float:
    """Return the entropy of a text's characters, in bits each."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
