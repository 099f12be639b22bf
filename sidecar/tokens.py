r"""Counts of tokens, exact and offline; the one file that imports tiktoken.

The ranks come from files on disk and from nowhere else. tiktoken's own loader would delete a file of a wrong
hash and fetch another from the network without a timeout, so it is not used: a file is verified here, then
parsed, then handed over. Loading takes 0.3 s and 46 MB for o200k_base, 0.15 s and 24 MB for cl100k_base, with
a peak of 30 MB more. A count of 100 characters takes 3 µs.

Counts add up over *safe* segments (`is_safe_segment`), and so fitting a budget is integer arithmetic (P5):
the count of a concatenation is the sum of the counts. A segment is safe if it

- ends in a newline: both encodings end a piece behind a run of newlines, with whatever whitespace stands in
  and before it, unless more whitespace follows; and
- starts with neither whitespace nor `/`: whitespace would join the newline of the segment before, and so does
  `/` in o200k_base, which takes punctuation, newlines and slashes into one piece (`"!\n" + "/*\n"` is 3
  tokens, its parts are 1 and 1).
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import tiktoken
import tiktoken.model

from sidecar import limits, pinned
from sidecar.errors import LimitExceeded, ModelInvalid, TokenizerUnknown

_WHITESPACE_RUN = re.compile(r"\s+")


@dataclass(frozen=True)
class Encoding:
    """What is published of an encoding: the hash of its ranks, the pattern of its pieces, its special tokens."""

    ranks_sha256: str
    pattern: str
    special_tokens: Mapping[str, int]


ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "o200k_base": Encoding(
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
        ),
        "cl100k_base": Encoding(
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
            r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
            {
                "<|endoftext|>": 100257,
                "<|fim_prefix|>": 100258,
                "<|fim_middle|>": 100259,
                "<|fim_suffix|>": 100260,
                "<|endofprompt|>": 100276,
            },
        ),
    }
)

# Its special tokens apart, and those are never counted as such, this encoding is o200k_base.
_SAME_COUNTS = {"o200k_harmony": "o200k_base"}


def is_safe_segment(text: str) -> bool:
    """Tell whether the counts of texts of this form add up, in every encoding of this module; see above."""
    return text.endswith("\n") and not text[0].isspace() and text[0] != "/"


class Tokenizer:
    """One encoding, loaded. Counting releases the GIL and may run in any thread."""

    def __init__(self, name: str, encoding: tiktoken.Encoding) -> None:
        self.name = name
        self._encoding = encoding

    def count(self, text: str) -> int:
        """Count the tokens of a text, taken as plain: what looks like a special token is not one.

        A lone surrogate counts as U+FFFD does. Raises LimitExceeded for a run of whitespace of more than
        limits.whitespace_run_chars_max.
        """
        if len(text) > limits.whitespace_run_chars_max:
            run = max((match.end() - match.start() for match in _WHITESPACE_RUN.finditer(text)), default=0)
            if run > limits.whitespace_run_chars_max:
                raise LimitExceeded(
                    f"a run of whitespace must have at most {limits.whitespace_run_chars_max} characters",
                    limit="whitespace_run_chars_max",
                    maximum=limits.whitespace_run_chars_max,
                    actual=run,
                )
        return len(self._encoding.encode_ordinary(text))


class Tokenizers:
    """The encodings whose ranks lie in a directory as `<name>.tiktoken`; each is loaded once, at first use.

    `written` names those whose counts are stored at write; the first one leads.
    """

    def __init__(self, directory: Path, written: Sequence[str] = ("o200k_base",)) -> None:
        self._directory = directory
        self.written = tuple(written)
        self._loaded: dict[str, Tokenizer] = {}
        self._loading = threading.Lock()

    def get(self, name: str) -> Tokenizer:
        """Answer with the tokenizer of that name.

        Raises TokenizerUnknown for a name that is not in ENCODINGS, ModelInvalid for ranks that are missing or
        not those that are pinned.
        """
        tokenizer = self._loaded.get(self.known(name))
        if tokenizer is None:
            with self._loading:
                if name not in self._loaded:
                    self._loaded[name] = Tokenizer(name, _load(name, self._directory / f"{name}.tiktoken"))
                tokenizer = self._loaded[name]
        return tokenizer

    @staticmethod
    def known(name: str) -> str:
        """Return the name if there is such a tokenizer, loaded or not. Raises TokenizerUnknown."""
        if name not in ENCODINGS:
            raise _unknown("tokenizer", list(ENCODINGS))
        return name

    @property
    def loaded(self) -> Sequence[str]:
        """The names of those that were asked for."""
        return tuple(self._loaded)

    @staticmethod
    def for_model(model: str) -> str:
        """Name the encoding of an OpenAI model, dated and fine-tuned names included, as tiktoken's tables do.

        Raises TokenizerUnknown, with the known models, for any other: a guess would break every budget.
        """
        try:
            name = tiktoken.model.encoding_name_for_model(model)
        except KeyError:
            name = ""
        name = _SAME_COUNTS.get(name, name)
        if name not in ENCODINGS:
            exact, prefixes = tiktoken.model.MODEL_TO_ENCODING, tiktoken.model.MODEL_PREFIX_TO_ENCODING
            known = [model for model, encoding in exact.items() if encoding in ENCODINGS]
            known += [f"{prefix}*" for prefix, encoding in prefixes.items() if encoding in ENCODINGS]
            raise _unknown("model", known)
        return name


def _unknown(noun: str, known: list[str]) -> TokenizerUnknown:
    names = ",".join(sorted(known))
    return TokenizerUnknown(f"no tokenizer is known for that {noun}; known: {names}", known=names)


def _load(name: str, path: Path) -> tiktoken.Encoding:
    encoding = ENCODINGS[name]
    ranks: dict[bytes, int] = {}
    try:
        for line in pinned.read(path, encoding.ranks_sha256).splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    except (ValueError, binascii.Error) as error:
        raise ModelInvalid(f"{path.name}: is not a file of ranks") from error
    loaded = tiktoken.Encoding(
        name,
        pat_str=encoding.pattern,
        mergeable_ranks=ranks,
        special_tokens=dict(encoding.special_tokens),
    )
    # The encoder has its own copy. This one is 26 MB, and only decoding and listing tokens would read it.
    ranks.clear()
    return loaded
