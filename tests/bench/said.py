"""Texts as people and assistants say them, made up: English-like, of the lengths that real chat has.

What they mean does not matter to a bench; how their words split into tokens and how their lengths are spread does.
Words are drawn as in English, a few of them very often, and stand in sentences with names, numbers and dates between.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

_GLUE = (
    "the and to of a in that it is for on with as was at be this have from or by not are but we you they he she an "
    "my your our his her their which so if when there what about just then than into over after before because"
).split()
_VERBS = (
    "said made took went came saw knew got gave found thought told became showed left felt put brought began kept "
    "held wrote stood heard let meant set met ran paid sat spoke lay led read grew lost fell sent built understood "
    "drew broke spent cut rose drove bought wore chose booked fixed planned moved cooked tried asked called walked"
).split()
_NOUNS = (
    "time year people way day thing world life hand part child eye woman place work week case point company number "
    "group problem fact money house book water room mother area school family student country question night home "
    "office door friend kitchen garden train ticket dentist invoice password meeting deadline recipe budget holiday "
    "airport bicycle camera puppy concert guitar marathon passport mortgage plumber landlord neighbour grandmother "
    "appointment prescription subscription spreadsheet presentation thunderstorm allotment sourdough greenhouse "
    "database container deployment firmware thermostat carburettor physiotherapist anniversary documentary"
).split()
_MORE = (
    "new good old great small large early late long little own other right big high different next few public bad "
    "same able whole sure real best better free full special easy clear recent certain personal open red difficult "
    "available likely short single medical current wrong private past foreign fine common poor natural significant "
    "really quite maybe already never always often still again almost together yesterday tomorrow somewhere "
    "unfortunately apparently definitely eventually"
).split()
_NAMES = "Amara Bertil Chiara Dmitri Eleni Farouk Greta Hideo Ilse Jomo Katarzyna Lior Malmö Turin Osaka Quito".split()
_OPENINGS = ("Well,", "Oh", "I think", "Right, so", "Honestly,", "Could you tell me whether", "It turns out that")
_ASKS = (
    "When did",
    "Where did",
    "Why has",
    "Who was with",
    "How often does",
    "What did",
    "Which one of",
    "Do you know if",
)

_LENGTHS = ((0.55, 16.0, 0.6), (0.30, 60.0, 0.5), (0.15, 170.0, 0.4))
"""Share, median and spread in words: what is said in passing, what is told, and what an assistant explains."""

_WORDS_MAX = 600
"""Of one text: beyond what any model here reads."""


class Said:
    """A source of texts, each another, the same from the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._known: set[str] = set()
        self._weights = {
            id(words): list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
            for words in (_GLUE, _VERBS, _NOUNS, _MORE)
        }

    def passages(self, count: int) -> list[str]:
        """Return texts of mixed lengths: of all-MiniLM-L6-v2's tokens 40 in the median, 70 in the mean, at most 256."""
        return [self._new(lambda: self._text(self._length())) for _ in range(count)]

    def queries(self, count: int) -> list[str]:
        """Return questions as they are asked of a memory: 15 tokens in the median, 34 at the 99th percentile."""
        return [self._new(self._question) for _ in range(count)]

    def _new(self, say: Callable[[], str]) -> str:
        """Say what was not said before: no cache and no shared run may answer in a model's place."""
        while (text := say()) in self._known:
            pass
        self._known.add(text)
        return text

    def _question(self) -> str:
        words = min(40, max(5, round(self._random.lognormvariate(2.4, 0.4))))
        return f"{self._random.choice(_ASKS)} {self._sentence(words - 3).lower()[:-1]}?"

    def _length(self) -> int:
        ((_, median, spread),) = self._random.choices(_LENGTHS, [share for share, _, _ in _LENGTHS])
        return min(_WORDS_MAX, max(2, round(median * self._random.lognormvariate(0, spread))))

    def _text(self, words: int) -> str:
        sentences = []
        while words > 0:
            length = min(words, self._random.randint(5, 18))
            sentences.append(self._sentence(length))
            words -= length
        return " ".join(sentences)

    def _sentence(self, words: int) -> str:
        said = [self._random.choice(_OPENINGS)] if words > 6 and self._random.random() < 0.3 else []
        kinds = itertools.cycle((_GLUE, _NOUNS, _VERBS, _GLUE, _GLUE, _MORE, _NOUNS))
        said += [self._word(next(kinds)) for _ in range(max(1, words - len(said)))]
        return " ".join(said).capitalize() + self._random.choice("....!?")

    def _word(self, words: list[str]) -> str:
        luck = self._random.random()
        if luck < 0.02:
            return self._random.choice(_NAMES)
        if luck < 0.04:
            return f"{next(self._numbers) * 7919 % 1_000_003}"
        if luck < 0.05:
            return f"{self._random.randint(1, 28)}/{self._random.randint(1, 12)}"
        return self._random.choices(words, cum_weights=self._weights[id(words)])[0]
