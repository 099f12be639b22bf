"""Measures what `sidecar.pii` finds in a file of labelled texts: ``python -m tests.eval.pii FILE``.

The file is a JSON list of {"text", "spans": [{"type", "start", "end"}]}, offsets in code points. A find and a label of
one type match if they overlap. Types that have no counterpart here, such as names, are not counted.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from sidecar import pii

TYPES = {
    "EMAIL_ADDRESS": pii.EMAIL,
    "PHONE_NUMBER": pii.PHONE,
    "CREDIT_CARD": pii.CARD,
    "IBAN_CODE": pii.IBAN,
    "IP_ADDRESS": pii.IP,
    "US_SSN": pii.US_SSN,
    "DOMAIN_NAME": pii.URL,
}
"""Kinds by the labels of the file."""


def measure(rows: list[dict[str, Any]]) -> tuple[dict[str, Counter[str]], list[tuple[str, str, str, str]]]:
    """Return counts of labels, finds and matches by kind; and the misses: (what, kind, part, what is around it)."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in TYPES.values()}
    misses = []
    for row in rows:
        text = row["text"]
        labels = [
            pii.Span(span["start"], span["end"], TYPES[span["type"]]) for span in row["spans"] if span["type"] in TYPES
        ]
        finds = [one for one in pii.find(text) if one.kind in counts]
        for kind, count in counts.items():
            wanted = [one for one in labels if one.kind == kind]
            found = [one for one in finds if one.kind == kind]
            count["labels"] += len(wanted)
            count["finds"] += len(found)
            for what, those, others in (("recalled", wanted, found), ("right", found, wanted)):
                for one in those:
                    if any(one.start < other.end and other.start < one.end for other in others):
                        count[what] += 1
                    else:
                        part = text[max(0, one.start - 40) : one.end + 15]
                        misses.append(
                            ("missed" if what == "recalled" else "wrong", kind, text[one.start : one.end], part)
                        )
    return counts, misses


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| kind | labels | finds | precision | recall | F1 |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for kind, count in (*counts.items(), ("all", sum(counts.values(), Counter[str]()))):
        precision = count["right"] / count["finds"] if count["finds"] else 1.0
        recall = count["recalled"] / count["labels"] if count["labels"] else 1.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        figures = f"{precision:.3f} | {recall:.3f} | {f1:.3f}"
        lines.append(f"| {kind} | {count['labels']} | {count['finds']} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and with ``--misses`` what was missed and what was found wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--misses", action="store_true")
    arguments = parser.parse_args()
    counts, misses = measure(json.loads(arguments.file.read_text()))
    print(table(counts))
    if arguments.misses:
        for miss in misses:
            print(*miss[:2], *map(repr, miss[2:]))


if __name__ == "__main__":
    main()
