"""The documents say what there is: their links lead somewhere, and the tests that they name are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "k8s").rglob("*.md"))]


def missing(text: str, place: Path) -> list[str]:
    """Return the links of a document, and the tests that it names, that lead nowhere; and what a merge left behind."""
    found = re.findall(r"^(?:<{7}|>{7}) .*", text, re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path = link.partition("#")[0]
        if path and "://" not in path and not (place.parent / path).exists():
            found.append(link)
    for path, test in re.findall(r"`(tests/[\w./]+\.py)(?:::(\w+))?`", text):
        file = ROOT / path
        if not file.exists() or (test and not re.search(rf"^\s*(async )?def {test}\(", file.read_text(), re.MULTILINE)):
            found.append(f"{path}::{test}")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_is_there(document: Path) -> None:
    """Every link to a file of ours leads to it, and every test that is named as proof exists."""
    assert missing(document.read_text(), document) == []


def test_what_is_missing_is_found() -> None:
    """A link that leads nowhere and a test that is not there are found; others are not."""
    here = Path(__file__)
    fine = "[a](test_docs.py) [b](https://example.com/x) `tests/unit/test_docs.py::test_what_is_missing_is_found`"
    assert missing(fine, here) == []
    wrong = (
        "<<<<<<< HEAD\n[a](nothing.md) `tests/unit/test_nothing.py` `tests/unit/test_docs.py::test_that_nobody_wrote`"
    )
    assert missing(wrong, here) == [
        "<<<<<<< HEAD",
        "nothing.md",
        "tests/unit/test_nothing.py::",
        "tests/unit/test_docs.py::test_that_nobody_wrote",
    ]
