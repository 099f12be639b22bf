"""Conformance: one suite per contract, subclassed by each engine, against real stores."""

import pytest

pytest.register_assert_rewrite("tests.contract.record_suite", "tests.contract.hot_suite")
