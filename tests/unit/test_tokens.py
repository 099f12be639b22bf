"""Counting tokens: the published encodings, offline, in counts that add up (P5)."""

from __future__ import annotations

import socket
import time
from itertools import pairwise
from typing import Any

import pytest
import tiktoken_ext.openai_public  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar import limits
from sidecar.errors import LimitExceeded, ModelInvalid, TokenizerUnknown
from sidecar.tokens import ENCODINGS, Tokenizers, is_safe_segment

# What the patterns of the encodings treat apart, so that short texts hold the boundaries between them.
PIECES = st.sampled_from(
    [
        *[" ", "  ", "\t", "\n", "\r", "\r\n", "\x0b", "\x1c", "\x85", "\u00a0", "\u2028", "\u3000"],
        *["/", "//", "!", "...", "{", '"', "'", "'s", "'LL", "<|endoftext|>"],
        *["a", "Hello", "WORLD", "ǅ", "ʰ", "漢", "\u0301", "1", "1234", "²", "😀", "👩‍👩‍👧", "\ud800"],
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)
SEGMENTS = TEXTS.map(lambda text: text + "\n").filter(is_safe_segment)


@pytest.mark.parametrize("name", ENCODINGS)
@given(segments=st.lists(SEGMENTS, max_size=6))
@example(segments=["a!\n", "'s b\n", "1\r\n", "2 \n \n", "x\n\n", "\u0301y\n", "don't\n", "LL\n"])
@settings(max_examples=400, deadline=None)
def test_counts_of_safe_segments_add_up(tokenizers: Tokenizers, name: str, segments: list[str]) -> None:
    """P5: the count of a concatenation of safe segments is the sum of their counts, in both encodings."""
    count = tokenizers.get(name).count
    assert count("".join(segments)) == sum(map(count, segments))


@pytest.mark.parametrize("name", ENCODINGS)
@given(body=st.text(min_size=1, max_size=40), following=st.text(min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_one_newline_between_any_texts_is_a_boundary(
    tokenizers: Tokenizers, name: str, body: str, following: str
) -> None:
    """P5: a safe segment may follow any safe segment, whatever characters of Unicode they are of."""
    first, second = f"x{body.rstrip()}\n", f"{following}\n"
    if is_safe_segment(second):
        count = tokenizers.get(name).count
        assert count(first + second) == count(first) + count(second)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("o200k_base", "!\n", "/*\n"),
        ("o200k_base", "a\n", "\nb\n"),
        ("cl100k_base", "a\n", "\nb\n"),
        ("cl100k_base", "a", "b\n"),
    ],
)
def test_segments_that_are_not_safe_do_not_add_up(tokenizers: Tokenizers, name: str, first: str, second: str) -> None:
    """Each half of the rule of safe segments is needed: without it there is a counterexample."""
    count = tokenizers.get(name).count
    assert not (is_safe_segment(first) and is_safe_segment(second))
    assert count(first + second) != count(first) + count(second)


@pytest.mark.parametrize("text", ["", "\n", " a\n", "/a\n", "a", "\u3000a\n"])
def test_texts_that_are_not_safe_segments(text: str) -> None:
    """A segment starts with what is neither whitespace nor a slash, and ends in a newline."""
    assert not is_safe_segment(text)


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_are_those_that_tiktoken_publishes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash, pattern and special tokens are the very ones of the installed tiktoken."""
    expected: dict[str, str] = {}

    def load(_url: str, expected_hash: str) -> dict[bytes, int]:
        expected["hash"] = expected_hash
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", load)
    published: dict[str, Any] = getattr(tiktoken_ext.openai_public, name)()
    assert ENCODINGS[name].ranks_sha256 == expected["hash"]
    assert ENCODINGS[name].pattern == published["pat_str"]
    assert ENCODINGS[name].special_tokens == published["special_tokens"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cl100k_base", "tiktoken is great!", 6),
        ("o200k_base", "tiktoken is great!", 6),
        ("cl100k_base", "お誕生日おめでとう", 9),
        ("o200k_base", "お誕生日おめでとう", 8),
        ("o200k_base", "", 0),
    ],
)
def test_counts_are_the_published_ones(tokenizers: Tokenizers, name: str, text: str, expected: int) -> None:
    """The examples of OpenAI's cookbook come out as they are printed there."""
    assert tokenizers.get(name).count(text) == expected


@pytest.mark.parametrize("name", ENCODINGS)
def test_special_tokens_are_plain_text(tokenizers: Tokenizers, name: str) -> None:
    """What looks like a special token is counted as the characters that it is made of."""
    assert tokenizers.get(name).count("<|endoftext|>") > 1


@pytest.mark.parametrize("name", ENCODINGS)
def test_lone_surrogates_count_as_replacement_characters(tokenizers: Tokenizers, name: str) -> None:
    """A text that is no valid Unicode is counted and does not end the process."""
    count = tokenizers.get(name).count
    assert count("a \ud800 b") == count("a \ufffd b")


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("text", [" ", "\n", "a", "A", "漢", "!", "1", "\u0301", "'s", "😀", " a", "\t ", "\r\n", "/"])
def test_long_repetitions_are_counted_in_time(tokenizers: Tokenizers, name: str, text: str) -> None:
    """Half a million of any one character, alone or before another, takes a few tenths of a second."""
    long = (text * limits.whitespace_run_chars_max)[: limits.whitespace_run_chars_max]
    before = time.thread_time()
    counts = [tokenizers.get(name).count(long), tokenizers.get(name).count(long + "x")]
    assert time.thread_time() - before < 5
    assert min(counts) > 1000


def test_endless_whitespace_is_refused(tokenizers: Tokenizers) -> None:
    """A run of whitespace past the limit, on which tiktoken would panic, names the limit instead."""
    text = "a" + " " * (limits.whitespace_run_chars_max + 1) + "b"
    with pytest.raises(LimitExceeded) as caught:
        tokenizers.get("o200k_base").count(text)
    assert caught.value.metadata == {
        "limit": "whitespace_run_chars_max",
        "maximum": str(limits.whitespace_run_chars_max),
        "actual": str(limits.whitespace_run_chars_max + 1),
    }


def test_long_texts_of_short_runs_are_counted(tokenizers: Tokenizers) -> None:
    """The limit is on a run of whitespace, not on a text."""
    line = "a line of no great length\n"
    count = tokenizers.get("cl100k_base").count
    assert count(line * 50_000) == count(line) * 50_000


def test_a_tokenizer_is_loaded_once_and_quickly(models_directory: Any) -> None:
    """The second request answers with the first one's tokenizer, and the first takes less than a second."""
    fresh = Tokenizers(models_directory / "tokenizers")
    before = time.thread_time()
    first = fresh.get("o200k_base")
    assert time.thread_time() - before < 1
    assert fresh.get("o200k_base") is first
    assert first.name == "o200k_base"


def test_loading_touches_no_network(models_directory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither whole nor missing ranks make tiktoken open a socket."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert Tokenizers(models_directory / "tokenizers").get("cl100k_base").count("a b") == 2
    with pytest.raises(ModelInvalid):
        Tokenizers(models_directory / "nothing").get("cl100k_base")


def test_ranks_of_another_hash_are_refused_and_kept(models_directory: Any, tmp_path: Any) -> None:
    """One flipped byte is refused with both hashes, and the file stays as it is."""
    data = bytearray((models_directory / "tokenizers" / "cl100k_base.tiktoken").read_bytes())
    data[1000] ^= 1
    path = tmp_path / "cl100k_base.tiktoken"
    path.write_bytes(data)
    with pytest.raises(ModelInvalid) as caught:
        Tokenizers(tmp_path).get("cl100k_base")
    assert caught.value.metadata["expected_sha256"] == ENCODINGS["cl100k_base"].ranks_sha256
    assert caught.value.metadata["actual_sha256"] not in (ENCODINGS["cl100k_base"].ranks_sha256, "")
    assert path.read_bytes() == data


def test_missing_ranks_name_the_file_and_the_hash(tmp_path: Any) -> None:
    """A missing file is told apart from a wrong one."""
    with pytest.raises(ModelInvalid, match=r"o200k_base\.tiktoken: is missing") as caught:
        Tokenizers(tmp_path).get("o200k_base")
    assert caught.value.metadata["actual_sha256"] == "missing"


def test_unknown_tokenizers_list_the_known(tokenizers: Tokenizers) -> None:
    """The error names what would be right, and not what was asked for."""
    with pytest.raises(TokenizerUnknown, match="cl100k_base,o200k_base") as caught:
        tokenizers.get("gpt2-of-someone")
    assert caught.value.metadata == {"known": "cl100k_base,o200k_base"}
    assert "someone" not in caught.value.message


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-2024-05-13", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-4.1-mini", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-5.1-codex", "o200k_base"),
        ("o1-preview", "o200k_base"),
        ("o3", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("gpt-oss-120b", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-32k", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("ft:gpt-3.5-turbo:org:name:id", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
    ],
)
def test_models_have_the_encoding_that_tiktoken_states(model: str, expected: str) -> None:
    """Exact, dated and fine-tuned names of models are known."""
    assert Tokenizers.for_model(model) == expected


@pytest.mark.parametrize("model", ["", "llama-4", "text-davinci-003", "gpt2", "claude"])
def test_unknown_models_list_the_known(model: str) -> None:
    """A model of no encoding that is here is an error and never a guess."""
    with pytest.raises(TokenizerUnknown) as caught:
        Tokenizers.for_model(model)
    known = caught.value.metadata["known"].split(",")
    assert {"gpt-4o", "gpt-5*"} <= set(known)
    assert all(first < second for first, second in pairwise(known))
    assert len(caught.value.metadata["known"]) < 2048
