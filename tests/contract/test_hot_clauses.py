"""The hot contract and its suite agree: a clause without a test is a promise that nobody keeps."""

from __future__ import annotations

import re

from sidecar.stores import hot
from sidecar.stores.memory import MemoryHot
from sidecar.stores.redis import RedisHot
from tests.contract.hot_suite import CoherentHotSuite, HotSuite
from tests.contract.test_hot_memory import TestMemoryHot as MemorySuite
from tests.contract.test_hot_redis import TestRedisHot as RedisSuite


def test_every_clause_is_named_by_a_test() -> None:
    """Each Hn of the contract's docstring has a test_hnn_ that cites it, and each such test has its clause."""
    clauses = {int(number) for number in re.findall(r"^H(\d+) ", hot.__doc__ or "", re.MULTILINE)}
    tests = [test for suite in (HotSuite, CoherentHotSuite) for test in vars(suite).items() if test[0][:6] == "test_h"]
    assert clauses == set(range(1, len(clauses) + 1))
    assert {int(name[6:8]) for name, _ in tests} == clauses
    for name, test in tests:
        assert f"H{int(name[6:8])}" in (test.__doc__ or ""), name


def test_only_a_declared_capability_leaves_clauses_out() -> None:
    """A coherent engine runs the whole suite; one that is not runs what binds every engine (H8)."""
    assert RedisHot.capabilities.coherent
    assert issubclass(RedisSuite, CoherentHotSuite)
    assert not MemoryHot.capabilities.coherent
    assert issubclass(MemorySuite, HotSuite)
    assert not issubclass(MemorySuite, CoherentHotSuite)
