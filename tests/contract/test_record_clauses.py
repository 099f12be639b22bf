"""The record contract and its suite agree: a clause without a test is a promise that nobody keeps."""

from __future__ import annotations

import re

from sidecar.stores import record
from tests.contract.record_suite import RecordSuite


def test_every_clause_is_named_by_a_test() -> None:
    """Each Rn of the contract's docstring has a test_rnn_, and each such test has its clause."""
    clauses = {int(number) for number in re.findall(r"^R(\d+) ", record.__doc__ or "", re.MULTILINE)}
    tested = {int(number) for name in vars(RecordSuite) for number in re.findall(r"^test_r(\d\d)_", name)}
    assert clauses == set(range(1, len(clauses) + 1))
    assert tested == clauses


def test_every_test_says_what_it_shows() -> None:
    """Each test of the suite has a docstring of one sentence that cites its clause."""
    for name, test in vars(RecordSuite).items():
        if name.startswith("test_r"):
            assert f"R{int(name[6:8])}" in (test.__doc__ or ""), name
