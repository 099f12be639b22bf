"""Personal data and secrets: found in every national form, not where something else is written so, and masked."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import pii
from tests.eval import pii as measured

PHONES = (
    """\
+1 212 555 0147|+1-415-555-0199|+1 (303) 555-0123|(617) 555-0188|617-555-0188|617.555.0188|1-800-555-0175|+12125550147
001-503-555-0111|(404)555-0134x22|702-555-0160 ext. 4|+44 20 7946 0018|020 7946 0018|(020) 7946 0018|07700 900123
07700900456|+447700900789|0161 496 0345|+44 (0)161 496 0999|+353 1 555 0123|01 555 0187|+49 30 901820|030 90182099
+49 (0)89 1234567|089/1234567|0171 2345678|0171-2345678|+43 1 5880012|0664 1234567|+41 44 668 18 00|044 668 18 00
+41 (0)79 123 45 67|079 123 45 67|+33 1 84 17 61 18|01 84 17 61 18|01.84.17.61.18|06-12-34-56-78|0612345678
+32 2 555 12 12
0475 12 34 56|+31 20 123 4567|020-1234567|06 12345678|+352 27 12 34 56|+34 612 34 56 78|612 34 56 78|+34 912345678
+351 21 123 4567|+39 06 1234 5678|06 1234 5678|347 123 4567|+39 347 1234567|+30 21 0123 4567|0210 123 4567
+46 8 123 456 78|08-123 456 78|070-123 45 67|+46 (0)70 123 45 67|+47 22 12 34 56|+45 32 12 34 56|+358 9 123 4567
09 123 4567|040 123 4567|+354 555 1234|+48 22 123 45 67|+48 600 123 456|+420 601 123 456|+421 901 123 456
+36 1 123 4567
06 20 123 4567|+40 21 123 4567|0721 123 456|+359 2 123 4567|+385 1 1234 567|+386 1 123 45 67|+381 11 1234567
+7 495 123-45-67|8 (495) 123-45-67|+7 (812) 123-45-67|+380 44 123 45 67|044 123 45 67|+90 212 123 45 67|0212 123 45 67
0 (532) 123 45 67|+972 3 123 4567|03-1234567|052-123-4567|+20 2 12345678|+27 21 123 4567|021 123 4567|082 123 4567
+234 803 123 4567|0803 123 4567|+254 722 123456|0722 123456|+91 98765 43210|+91-22-12345678|022 12345678|098765 43210
+92 300 1234567|0300-1234567|+880 1712-345678|01712-345678|+94 77 123 4567|+66 2 123 4567|02-123-4567|081-234-5678
+84 24 1234 5678|+62 21 12345678|0812-3456-7890|+60 3-1234 5678|03-1234 5678|+65 6123 4567|+63 2 8123 4567
0917 123 4567
+86 138 1234 5678|138 1234 5678|+86 10 1234 5678|010-12345678|+852 2123 4567|+886 2 1234 5678|02-1234-5678
+82 2-123-4567
010-1234-5678|+81 3-1234-5678|03-1234-5678|090-1234-5678|+61 2 9876 5432|(02) 9876 5432|0412 345 678|+61 412 345 678
+64 9 123 4567|(09) 123 4567|021 123 456|+55 11 91234-5678|(11) 91234-5678|(11) 3123-4567|11 91234-5678
+54 11 1234-5678
(011) 1234-5678|+56 2 2123 4567|+57 1 123 4567|+52 55 1234 5678|55 1234 5678|+51 1 123 4567|+58 212-1234567
+598 2123 4567
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""In the forms of forty countries; the digits are made up, or those that regulators keep for stories."""

LOCAL = (
    "555 0134|555-0134|9123 4567|612 345 678|22 12 34 56|71-33-52-22|(37) 788-063|6175550188|416 60 039|"
    "21 253 109 8211|"
    "61755501"
)
SAID = (
    "Call me at {}.|My number is {}|Phone: {}|mobile {}, please|Fax:\n{}|reach her on {}?|téléphone : {}|{} office|"
    "Tel. {}"
)

NO_PHONES = (
    """\
the phone costs 1299 99|the answer is 42 000 000|I reached 100 000 points|messages: 1 234 567 unread|text 100 200 people
call of duty 2 3 4|model 737-800|call me in 2025 or 2026|contact lens -3.25 -1.75|from 1,000,000 to 2,000,000
GTX 1080 2080
on 2026-11-20|on 20.11.2026|on 11/20/2026|from 1999-2004|in 1987 1991 1994|at 10:30:15
version 10.0.19041.1288|v1.2.3.4567
order 123-456-7890|invoice no. 0301 234567|ticket #4155550199|tracking number 0123 456 789|it cost $1,234,567.89
€ 123 456 789 in all|a population of 123 456 789 people|123 456 789 users|ISBN 978-3-16-148410-0
pi is 3.14159265358979
room 1204 5678|page 12 34 56 78|AB-123-4567|sku 0123-456-789|id 0612345678|52.520008, 13.404954|1 2 3 4 5 6 7 8 9 10
1000000000 rows|192.168.100.200|the years 2019 2020 2021 2022|2026-11-20 12:34:56|20261120123456|case 612 34 56 78
100 200 300 400 500|ratio 16:9, 1920x1080|zip 12345-6789|89 12 7|12,345,678|5 10 15 20 25 30|0.12345678|1.000.000.000
score 100-200-3000|timestamp 1700000000|port 5432 5433|customer 030 1234567|passport 123456789|the 1234567890th time
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

OTHERS = {
    pii.EMAIL: "ana.silva+news@mail.example|o'hara@dept.uni.example|x_1@sub.domain.example|jürgen@büro.example|"
    "A-B@c-d.example",
    pii.CARD: "4111 1111 1111 1111|5500-0000-0000-0004|340000000000009|3400 000000 00009|30000000000004|"
    "6011000000000004|"
    "3530111333300000|4222222222222|2223003122003222|6759649826438453|6212345678901232|2200000000000004",
    pii.IBAN: "GB82 WEST 1234 5698 7654 32|DE89370400440532013000|fr1420041010050500013m02606|NO9386011117947|"
    "CH93 0076 2011 6238 5295 7|MT84MALT011000012345MTLCAST001S|BE68-5390-0754-7034",
    pii.IP: "203.0.113.7|8.8.4.4|2001:db8::8a2e:370:7334|2001:0db8:85a3:0000:0000:8a2e:0370:7334|"
    "fe80::1ff:fe23:4567:890a",
    pii.US_SSN: "212-09-9999|212 09 9998|SSN 212099999|social security number: 212099998",
    pii.URL: "https://example.com/a?b=c#d|http://a.example|www.example.org|HTTPS://EXAMPLE.NET/x_(y)|"
    "ftp://files.example/a|"
    "wss://socket.example:8443/|example.com/path",
    pii.SECRET: "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----|AKIAQ3ZX7LMN2PRT5VWY|"
    "ghp_Zx81KqLm02NvBt47RyWs93PdGh56JaQwErTy|glpat-Zx81KqLm02NvBt47RyWs|xoxb-1234567890-abcdefGHIJKL|"
    "sk_live_4f9aK2mQ81xTz0LrB7yW|AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q|sk-proj-4f9aK2mQ81xTz0LrB7yW3uE6|"
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123|github_pat_11ABCDEFG0abcdefghijkl_mnop",
}
FAKES = {
    pii.EMAIL: "me @home|a@b|@handle|user@|x@.example|3 @ 4.50|@media.query {",
    pii.CARD: "4111 1111 1111 1112|1234567812345670|0000000000000000|9999999999999995|41111111111111111111",
    pii.IBAN: "GB82 WEST 1234 5698 7654 33|XX89370400440532013000|DE8937040044053201300|AB12 cd",
    pii.IP: "version 1.2.3.4|256.1.1.1|1.2.3|1.2.3.4.5|01.02.03.04|std::map::end|12:30:45|a::b|127.0.0.1|::1",
    pii.US_SSN: "000-12-3456|666-12-3456|912-12-3456|212-00-3456|212-12-0000|212-09-99999|2120-09-9999",
    pii.URL: "and/or|a.b.c|e.g. this|Node.js|http://|www.|http://localhost:8080/x|file.txt",
    pii.SECRET: "the key is under the mat|a token of thanks|password: ****|password is required|"
    "the secret is patience|"
    "password = db.Column(String(60))|key: value|forgot my password again|-----BEGIN CERTIFICATE-----",
}
NAMED_SECRETS = (
    """\
password: hunter22|pwd=S3same!|my password is Tr0ub4dor&3|passphrase: "correct horse"|pin: 4821|Passwort: geheim99
contraseña: gato1234|mot de passe : chien-77|пароль: кот2019|api_key = 9f8e7d6c5b4a39281706|secret: aK3mQ81xTz0LrB7yW3
access_token: "f3a9c1d47b2e8065aa91"|Authorization: Bearer 4f9aK2mQ81xTz0LrB7yW3uE6
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def kinds(text: str) -> set[str]:
    """Return the kinds of what is found."""
    return {one.kind for one in pii.find(text)}


@pytest.mark.parametrize("number", PHONES)
def test_a_phone_number_is_found_wherever_it_stands(number: str) -> None:
    """A number in the form of some country is one, in any sentence, as a whole."""
    for around in ("{}", "Ana, {}", "it is {}.", "({})", "{}\n", "write to Ana\n{}, or come by", "flat 25 {}"):
        text = around.format(number)
        found = [text[one.start : one.end] for one in pii.find(text) if one.kind == pii.PHONE]
        assert len(found) == 1, text
        assert [char for char in found[0] if char.isdigit()] == [char for char in number if char.isdigit()]


@pytest.mark.parametrize("number", LOCAL.split("|"))
def test_a_local_number_is_found_by_what_stands_around_it(number: str) -> None:
    """Digits in a form that other numbers have, too, are a phone's where the sentence says so, and else are not."""
    for said in SAID.split("|"):
        assert kinds(said.format(number)) == {pii.PHONE}, said.format(number)
    assert pii.PHONE not in kinds(f"there were {number.strip('()')} of them") or number.startswith(("(", "21 253"))


@pytest.mark.parametrize("text", NO_PHONES)
def test_other_numbers_are_no_phones(text: str) -> None:
    """Dates, prices, orders, versions, addresses and measures stay."""
    assert pii.PHONE not in kinds(text)
    assert pii.PHONE not in kinds(f"She wrote {text} on it")


@pytest.mark.parametrize(("kind", "text"), [(kind, one) for kind, all_ in OTHERS.items() for one in all_.split("|")])
def test_what_has_a_form_is_found(kind: str, text: str) -> None:
    """Every kind is found as a whole, in the forms in which it is written."""
    for around in ("{}", "it is {}", "({})", "see {}, please", "\n{}\n", '"{}"'):
        whole = around.format(text)
        (one,) = pii.find(whole)
        assert one.kind == kind
        assert whole[one.start : one.end] in (text, text.rsplit(maxsplit=1)[-1])


@pytest.mark.parametrize(("kind", "text"), [(kind, one) for kind, all_ in FAKES.items() for one in all_.split("|")])
def test_what_only_looks_like_it_is_not_found(kind: str, text: str) -> None:
    """A check digit, a length, a range that do not fit, and words: nothing."""
    assert kind not in kinds(text)
    assert kind not in kinds(f"well, {text} then")


@pytest.mark.parametrize("text", NAMED_SECRETS)
def test_what_is_named_a_secret_is_one(text: str) -> None:
    """A password or key stands behind its name, in several languages."""
    assert kinds(f"note: {text}") == {pii.SECRET}


def test_made_up_data_of_all_kinds_is_found() -> None:
    """Of a thousand generated sentences, nothing is missed and nothing invented."""
    chance = random.Random(11)
    counts = {"wanted": 0, "found": 0}
    for _ in range(1000):
        kind = chance.choice([*OTHERS, pii.PHONE])
        value = chance.choice(PHONES if kind == pii.PHONE else OTHERS[kind].split("|"))
        before, behind = (
            chance.choice(["Hello", "Um 10 Uhr", "On 3 May 2024"]),
            chance.choice(["", "thanks", "- see you"]),
        )
        text = f"{before}, {value} {behind}"
        counts["wanted"] += 1
        counts["found"] += [one.kind for one in pii.find(text)] == [kind]
    assert counts["found"] >= 0.99 * counts["wanted"]


@given(
    st.lists(
        st.sampled_from([*PHONES, *(one for all_ in OTHERS.values() for one in all_.split("|")), "so", "and", "7"])
    )
)
def test_finds_are_in_order_and_apart(parts: list[str]) -> None:
    """Spans do not overlap, and masking leaves all text between them as it is."""
    text = " | ".join(parts)
    found = pii.find(text)
    assert all(one.start < one.end for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    masked = pii.mask(text, found)
    for one in found:
        masked = masked.replace(f"<{one.kind}>", text[one.start : one.end], 1)
    assert masked == text


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    """Whatever the text, finds lie in it."""
    for one in pii.find(text):
        assert 0 <= one.start < one.end <= len(text)
        assert one.kind in pii.KINDS


def test_a_mask_names_the_kind() -> None:
    """What is found is replaced by its kind, and nothing else changes."""
    text = "Ana (ana@mail.example, +44 20 7946 0018) pays with 4111 1111 1111 1111."
    assert pii.masked(text) == "Ana (<EMAIL>, <PHONE>) pays with <CARD>."
    assert pii.masked("nothing here") == "nothing here"


def test_finds_that_overlap_are_one() -> None:
    """The kind that says most stands for both."""
    assert pii.masked("https://x.example/?mail=ana@mail.example now") == "<URL> now"
    assert pii.masked("password: ana@mail.example1") == "password: <SECRET>"


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_part_has_its_part_of_the_finds(start: int, end: int) -> None:
    """A find that a border cuts is clipped: no part of a text shows what the whole masks."""
    text = "Write to ana@mail.example or call +44 20 7946 0018 today"
    start, end = min(start, end), max(start, end)
    spans = pii.within(pii.find(text), start, end)
    part = text[start:end]
    assert all(0 <= one.start < one.end <= len(part) for one in spans)
    whole = set()
    for one in pii.find(text):
        whole |= set(range(one.start, one.end))
    hidden = {start + at for one in spans for at in range(one.start, one.end)}
    assert hidden == whole & set(range(start, start + len(part)))


HOSTILE = (
    "@|a@|a@a.|1 |1-|1.|123 456 |(|+|+1 |00 |GB82 |GB82WEST|4111 |a:|::1 |:|http://|www.|a.com/|"
    "-----BEGIN PRIVATE KEY-----|password: |key=|token: x|eyJaaaaaaaa.eyJ|sk-|sk_live_|SG.|ssn |((1|http://a.b/?k=(|"
    "1\u20131|\u0663 |AccountKey=a"
).split("|")


@pytest.mark.parametrize("part", HOSTILE)
def test_no_text_takes_more_than_its_length(part: str) -> None:
    """Of a quarter of a mebibyte of half a find, each is read in a second; what is quadratic outlasts the timeout."""
    pii.find((part * (262_144 // len(part) + 1))[:262_144])


def test_the_measure_counts_overlaps_of_one_kind() -> None:
    """The evaluation's table: a label is recalled by a find of its kind that overlaps, and others count as wrong."""
    rows = [
        {"text": "to ana@mail.example", "spans": [{"type": "EMAIL_ADDRESS", "start": 3, "end": 10}]},
        {"text": "from 203.0.113.7", "spans": [{"type": "PERSON", "start": 0, "end": 4}]},
        {"text": "Lisbon", "spans": [{"type": "US_SSN", "start": 0, "end": 6}]},
    ]
    counts, misses = measured.measure(rows)
    assert (counts[pii.EMAIL]["recalled"], counts[pii.EMAIL]["right"]) == (1, 1)
    assert counts[pii.IP] == {"labels": 0, "finds": 1, "recalled": 0, "right": 0} or counts[pii.IP]["finds"] == 1
    assert sorted(miss[:2] for miss in misses) == [("missed", pii.US_SSN), ("wrong", pii.IP)]
    assert "| EMAIL | 1 | 1 | 1.000 | 1.000 | 1.000 |" in measured.table(counts)


def test_the_measure_reads_a_file(tmp_path: Path) -> None:
    """`python -m tests.eval.pii FILE` prints the table."""
    file = tmp_path / "labelled.json"
    file.write_text('[{"text": "ana@mail.example", "spans": [{"type": "EMAIL_ADDRESS", "start": 0, "end": 16}]}]')
    done = subprocess.run(
        [sys.executable, "-m", "tests.eval.pii", str(file)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "| all | 1 | 1 | 1.000 | 1.000 | 1.000 |" in done.stdout
