"""The names of Standpipe's own logs and work. A log's begins with a character that no id of a caller has
(`validate.identifier`).

Long-term memory is made of events, as conversations are: so the same append makes it exactly once, the same chain shows
what was changed, and the same rebuild makes what is derived.
"""

from __future__ import annotations

from typing import Final, NamedTuple

OWN: Final = "~"
"""What a name of our own begins with, and what separates its parts."""

EVERYONE: Final = "~"
"""The subject whose documents all subjects of a tenant recall."""


EXTRACTS: Final = "extract:"
"""What the name of an extractor's work orders begins with; those of other names are an embedding model's."""


class Own(NamedTuple):
    """What one of our own logs holds."""

    subject: str
    document: str
    """Empty: the changes of the subject's memory."""


def memory_log(subject: str) -> str:
    """Return the log of the changes of a subject's memory that were not made in a turn."""
    return f"{OWN}m{OWN}{subject}"


def document_log(subject: str, document: str) -> str:
    """Return the log of a document's versions. `subject` is EVERYONE for one that belongs to all."""
    return f"{OWN}d{OWN}{'' if subject == EVERYONE else subject}{OWN}{document}"


def is_own(session: str) -> bool:
    """Return whether a log is one of our own."""
    return session.startswith(OWN)


def is_document(session: str) -> bool:
    """Return whether a log is that of a document's versions."""
    return session.startswith(f"{OWN}d{OWN}")


def own(session: str) -> Own:
    """Return what one of our own logs holds. Raises ValueError for any other name."""
    parts = session.split(OWN)
    if len(parts) == 3 and parts[:2] == ["", "m"]:
        return Own(parts[2], "")
    if len(parts) == 4 and parts[:2] == ["", "d"] and parts[3]:
        return Own(parts[2] or EVERYONE, parts[3])
    raise ValueError("not a log of our own")
