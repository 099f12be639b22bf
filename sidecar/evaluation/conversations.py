"""Recorded conversations with questions, read from JSON as people have it: with gaps, odd dates and odder texts.

A file is a list of conversations, or a mapping that holds one under "conversations"::

    {"id", "source", "turns": [{"id", "session", "at", "speaker", "role", "text"}],
     "questions": [{"id", "question", "category", "evidence": [turn ids]}]}

Only `turns` with a `text` must be there. What the API would refuse is cleaned or left out here, and counted: a
figure is worth nothing if nobody knows what it was measured on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sidecar import limits

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SPACE_RUN = re.compile(r"(\s)\s{999,}")
_BLANK = re.compile(r"[\s\u2028\u2029]+")
_LIST_MARKS = re.compile(r"[\s,;]+")
_ORDINAL = re.compile(r"(?<=\d)(st|nd|rd|th)\b", re.IGNORECASE)

_DATES = (
    "%I:%M %p on %d %B, %Y",  # 1:56 pm on 8 May, 2023
    "%I:%M %p on %d %B %Y",
    "%I:%M %p, %d %B, %Y",
    "%B-%d-%Y",  # March-15-2024
    "%d-%B-%Y",
    "%B %d, %Y",
    "%B %d %Y",
    "%d %B, %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%d %b %Y",
    "%b-%d-%Y",
    "%Y/%m/%d (%a) %H:%M",  # 2023/05/20 (Sat) 02:21
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%m/%d/%Y",
)

_ASSISTANTS = frozenset(("assistant", "ai", "bot", "model", "gpt", "agent", "system", "tool", "function"))
_USERS = frozenset(("user", "human", "customer", "client"))

_PIECE_BYTES = limits.message_bytes // 2
_PIECES_MAX = 12
"""Of one turn: longer texts are cut into so many messages, and the rest is left out."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance that the API takes."""

    id: str
    at: datetime | None
    is_user: bool
    speaker: str
    texts: tuple[str, ...]
    """One, unless it was too long for one message."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked after the conversation."""

    id: str
    text: str
    category: str
    """Empty if there is none."""
    evidence: frozenset[str]
    """Ids of the turns that hold the answer; only those that the conversation has."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation, in sessions."""

    id: str
    source: str
    sessions: tuple[tuple[Turn, ...], ...]
    """In the order of their first turns; none is empty."""
    questions: tuple[Question, ...]

    @property
    def turns(self) -> list[Turn]:
        """All turns, session after session."""
        return [turn for session in self.sessions for turn in session]


@dataclass(slots=True)
class DataSet:
    """One file."""

    name: str
    """The file's stem."""
    conversations: list[Conversation]
    notes: Counter[str] = field(default_factory=Counter)
    """What was cleaned or left out, and how often."""

    @property
    def is_locomo(self) -> bool:
        """Whether its categories are LoCoMo's 1 to 5, the last of which cannot be answered."""
        categories = {question.category for one in self.conversations for question in one.questions}
        return bool(categories) and categories <= {"1", "2", "3", "4", "5"}


def read(directory: Path) -> tuple[list[DataSet], list[str]]:
    """Read the *.json of a directory, or one file; return (sets by name, a line for each file that is none)."""
    paths = sorted(directory.glob("*.json")) if directory.is_dir() else [directory]
    sets, skipped = [], []
    for path in paths:
        try:
            found = parse(path.stem, json.loads(path.read_text(encoding="utf-8", errors="replace")))
        except (OSError, ValueError, RecursionError) as error:
            skipped.append(f"{path.name}: cannot be read ({type(error).__name__}), skipped")
            continue
        if found.conversations:
            sets.append(found)
        else:
            skipped.append(f"{path.name}: holds no conversations with turns, skipped")
    return sets, skipped


def parse(name: str, raw: Any) -> DataSet:
    """Return the conversations of one file's content; none if it has another shape."""
    if isinstance(raw, Mapping):
        raw = raw.get("conversations", [raw])
    found = DataSet(name, [])
    for index, one in enumerate(raw if isinstance(raw, list) else []):
        if isinstance(one, Mapping) and isinstance(one.get("turns"), list):
            conversation = _conversation(one, index, found.notes)
            if conversation.sessions:
                found.conversations.append(conversation)
            else:
                found.notes["conversations_empty"] += 1
    return found


def moment(text: Any) -> datetime | None:
    """Return when something was said, in UTC if no zone is given; None if it is not to be understood."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        try:
            return datetime.fromtimestamp(text, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    if not isinstance(text, str) or not text.strip():
        return None
    plain = _ORDINAL.sub("", " ".join(text.split()))
    found = None
    try:
        found = datetime.fromisoformat(plain)
    except ValueError:
        for form in _DATES:
            try:
                found = datetime.strptime(plain, form)  # noqa: DTZ007 - the zone is set below
                break
            except ValueError:
                continue
    if found is None:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    try:
        return found.astimezone(UTC)
    except OverflowError:
        return None


def _conversation(raw: Mapping[str, Any], index: int, notes: Counter[str]) -> Conversation:
    sessions: dict[str, list[Turn]] = {}
    ids: set[str] = set()
    session, first_speaker = "1", ""
    for place, one in enumerate(raw["turns"]):
        if not isinstance(one, Mapping) or not isinstance(one.get("text"), str):
            notes["turns_without_text"] += 1
            continue
        session = _word(one.get("session")) or session
        speaker = _speaker(one.get("speaker"), notes)
        first_speaker = first_speaker or speaker
        texts = _texts(one["text"], notes)
        if not texts:
            notes["turns_empty"] += 1
            continue
        at = moment(one.get("at"))
        if at is None:
            notes["turns_without_time"] += 1
        turn_id = _word(one.get("id")) or str(place)
        if turn_id in ids:
            notes["turn_ids_repeated"] += 1
        ids.add(turn_id)
        is_user = _is_user(one.get("role"), speaker, first_speaker, notes)
        sessions.setdefault(session, []).append(Turn(turn_id, at, is_user, speaker, texts))
    questions = raw.get("questions")
    return Conversation(
        id=_word(raw.get("id")) or str(index),
        source=_word(raw.get("source")),
        sessions=tuple(tuple(turns) for turns in sessions.values()),
        questions=tuple(_questions(questions if isinstance(questions, list) else [], ids, notes)),
    )


def _questions(raw: Iterable[Any], ids: set[str], notes: Counter[str]) -> Iterable[Question]:
    for place, one in enumerate(raw):
        text = _clean(one.get("question"), notes) if isinstance(one, Mapping) else ""
        if not text:
            notes["questions_empty"] += 1
            continue
        while len(text.encode()) > limits.query_bytes:
            text = text[: len(text) * 3 // 4]
        evidence = frozenset(_evidence(one.get("evidence"), ids, notes))
        if not evidence:
            notes["questions_without_evidence"] += 1
        yield Question(_word(one.get("id")) or f"q{place}", text, _word(one.get("category")), evidence)


def _evidence(raw: Any, ids: set[str], notes: Counter[str]) -> Iterable[str]:
    for one in raw if isinstance(raw, list | tuple) else [raw]:
        if isinstance(one, list | tuple):
            yield from _evidence(one, ids, notes)
            continue
        word = _word(one.get("id") if isinstance(one, Mapping) else one)
        known = [word] if word in ids else [part for part in _LIST_MARKS.split(word) if part in ids]
        if word and not known:
            notes["evidence_unknown"] += 1
        yield from known


def _texts(text: str, notes: Counter[str]) -> tuple[str, ...]:
    clean = _clean(text, notes)
    if len(clean.encode()) <= limits.message_bytes:
        return (clean,) if clean else ()
    notes["turns_cut"] += 1
    size = _PIECE_BYTES // 4  # whatever the script, so many characters fit
    pieces = [clean[at : at + size].strip() for at in range(0, len(clean), size)]
    return tuple(piece for piece in pieces if piece)[:_PIECES_MAX]


def _clean(text: Any, notes: Counter[str]) -> str:
    if not isinstance(text, str):
        return ""
    clean = _SPACE_RUN.sub(r"\1", _CONTROL.sub(" ", text))
    if clean != text:
        notes["texts_cleaned"] += 1
    return clean if clean.strip() else ""


def _speaker(raw: Any, notes: Counter[str]) -> str:
    if not isinstance(raw, str):
        return ""
    name = _BLANK.sub(" ", _CONTROL.sub(" ", raw)).strip()
    while len(name.encode()) > limits.name_bytes:
        name = name[:-1].rstrip()
    if name != raw:
        notes["speakers_cleaned"] += 1
    return name


def _is_user(role: Any, speaker: str, first_speaker: str, notes: Counter[str]) -> bool:
    """Tell the side by the role, or else by the speaker: who speaks first is the user."""
    name = role.strip().lower() if isinstance(role, str) else ""
    if name in _USERS or name in _ASSISTANTS:
        return name in _USERS
    notes["turns_without_role"] += 1
    return speaker == first_speaker


def _word(raw: Any) -> str:
    """Return an id, a category or a session number as text."""
    if isinstance(raw, str):
        return _CONTROL.sub(" ", raw).strip()
    return str(raw) if isinstance(raw, int | float) else ""
