"""What holds for all tests: a slow machine is no failure; real servers, one of each a worker, started at first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import Postgres, Redis, RedisCluster, logs

settings.register_profile("standpipe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("standpipe")

LONGEST = {"test_rolling.py", "test_neighbours.py", "test_freshness.py", "test_cli.py", "test_chaos.py"}
"""Files whose tests take minutes together."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A quick PostgreSQL for all tests of this worker; who stops or kills one makes another."""
    with Postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[str]:
    """The URI of an empty database, gone after the test."""
    name = postgres_server.create_database()
    yield postgres_server.dsn(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Redis]:
    """A Redis for all tests of this worker; who stops or kills one makes another."""
    with Redis() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: Redis) -> Redis:
    """Return a Redis that is empty."""
    shared_redis.flush()
    return shared_redis


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    """A cluster for a module's tests, which may do to it what they mend again."""
    with RedisCluster() as cluster:
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes long go first, and unit tests last, so that no worker waits for another at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Show the ends of the servers' logs with a failure."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {name}", tail) for name, tail in logs()]
    return report
