"""The examination of a Redis: nothing to mend where all is well, and each fault that is planted is found (H14)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sidecar import limits
from sidecar.finding import Finding, Outcome
from sidecar.stores import redis_examination
from sidecar.stores.redis import RedisHot
from sidecar.view import View
from tests.servers import Redis, RedisCluster, Sentinel

Found = Mapping[str, Finding]
FIT = {"maxmemory": "64mb", "maxmemory_policy": "allkeys-lru"}


@pytest.fixture(scope="module")
def fit() -> Iterator[Redis]:
    """A server as the doctor would have it."""
    with Redis(**FIT) as server:
        yield server


async def examine(address: str) -> Found:
    """Examine a hot store; return what was found by check, of several the last that asks for something."""
    hot: RedisHot[View] = RedisHot(address)
    found = await hot.examine()
    assert all(bool(one.advice) == (one.outcome in {Outcome.WARNING, Outcome.FAILED}) for one in found)
    return {one.check: one for one in found} | {one.check: one for one in found if one.advice}


def unfit(found: Found) -> dict[str, Outcome]:
    """Return what is to be mended."""
    return {check: one.outcome for check, one in found.items() if one.advice}


async def test_a_healthy_server_has_nothing_to_mend(fit: Redis) -> None:
    """Every check is made, none asks for anything, and nothing is left behind."""
    for address in (fit.url, f"redis+unix://{fit.socket}"):
        found = await examine(address)
        assert {one.outcome for one in found.values()} == {Outcome.OK}
        assert list(found) == ["server", "role", "memory", "clock", "distance", "protocol"]
    with fit.client() as client:
        assert client.dbsize() == 0


async def test_sentinels_lead_to_the_primary() -> None:
    """Behind sentinels the primary is examined, with what follows it."""
    with Sentinel(replicas=1, sentinels=1, **FIT) as sentinels:
        found = await examine(sentinels.url)
        assert unfit(found) == {}
        assert "1 replica" in found["role"].found


# --- what is planted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"maxmemory": "0"}, "without a limit"), ({"maxmemory-policy": "noeviction"}, "refuses writes")],
)
async def test_memory_that_grows_or_refuses(redis_server: Redis, settings: Mapping[str, str], says: str) -> None:
    """No limit, and a limit at which writes fail, are told with the two settings that mend them."""
    for name, value in {"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru", **settings}.items():
        redis_server.call("CONFIG", "SET", name, value)
    found = await examine(redis_server.url)
    redis_server.call("CONFIG", "SET", "maxmemory", 0)
    assert unfit(found) == {"memory": Outcome.WARNING}
    assert says in found["memory"].found
    assert "allkeys-lru" in found["memory"].advice


async def test_a_replica_is_no_hot_store(fit: Redis) -> None:
    """A replica's address is told from its primary's; the protocol is not tried on it."""
    with Redis(replicaof=f"127.0.0.1 {fit.port}", **FIT) as replica:
        found = await examine(replica.url)
    assert unfit(found) == {"role": Outcome.FAILED}
    assert "primary" in found["role"].advice
    assert "protocol" not in found


@pytest.fixture
def user(fit: Redis) -> Iterator[str]:
    """Make a user with all that the advice names; its name."""
    fit.call("ACL", "SETUSER", "sidecar", "on", ">hunter2", "~standpipe1:*", *redis_examination.COMMANDS.split())
    yield "sidecar"
    fit.call("ACL", "DELUSER", "sidecar")


async def test_the_rights_that_are_advised_suffice(fit: Redis, user: str) -> None:
    """Who has what the advice says can do all that is done."""
    assert unfit(await examine(f"redis://{user}:hunter2@127.0.0.1:{fit.port}")) == {}


@pytest.mark.parametrize(
    ("without", "check"),
    [
        ("-eval -evalsha", "protocol"),
        ("-hset", "protocol"),
        ("-del", "protocol"),
        ("-info", "server"),
        ("resetkeys", "protocol"),
    ],
)
async def test_rights_that_lack(fit: Redis, user: str, without: str, check: str) -> None:
    """A user that lacks a command or the keys is found out by trying, and what it needs is told."""
    fit.call("ACL", "SETUSER", user, *without.split())
    found = await examine(f"redis://{user}:hunter2@127.0.0.1:{fit.port}")
    assert unfit(found) == {check: Outcome.FAILED}
    assert "+evalsha" in found[check].advice
    assert "hunter2" not in repr(found)


async def test_a_wrong_password(fit: Redis, user: str) -> None:
    """The one finding says that the server refuses the user, and not the password."""
    found = await examine(f"redis://{user}:hunter3@127.0.0.1:{fit.port}")
    assert unfit(found) == {"server": Outcome.FAILED}
    assert "AuthenticationError" in found["server"].found
    assert "hunter" not in repr(found)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
async def test_a_server_that_is_not_there(scheme: str) -> None:
    """Nobody at the address: one finding, without the password."""
    found = await examine(f"{scheme}://:hunter2@127.0.0.1:1")
    assert unfit(found) == {"server": Outcome.FAILED}
    assert "hunter2" not in repr(found)


async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs is given up after half of examine_ms."""
    monkeypatch.setattr(limits, "examine_ms", 200)
    with Redis() as server:
        server.pause()
        found = await examine(server.url)
    assert unfit(found) == {"server": Outcome.FAILED}
    assert "in time" in found["server"].found


@pytest.mark.parametrize(
    ("info", "outcome", "says"),
    [
        ({"redis_version": "6.0.16"}, Outcome.FAILED, "Redis 6.0.16"),
        ({"redis_version": "6.2.0"}, Outcome.OK, "Redis 6.2.0"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, Outcome.OK, "Valkey 8.1.0"),
    ],
)
def test_versions_that_cannot_be_had_here(info: Mapping[str, Any], outcome: Outcome, says: str) -> None:
    """A Redis without what the scripts need is told, and Valkey by its own name."""
    found = redis_examination._version(info)
    assert (found.outcome, found.found) == (outcome, says)


# --- clusters ----------------------------------------------------------------------------------------------------


async def test_a_cluster_is_told_as_one(redis_cluster: RedisCluster) -> None:
    """Servers that are alike give one finding a check, and one that is not is named."""
    for node in redis_cluster.nodes:
        node.call("CONFIG", "SET", "maxmemory", "64mb")
        node.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    found = await examine(redis_cluster.url)
    assert unfit(found) == {}
    assert "3 primaries" in found["cluster"].found
    assert found["role"].found.startswith("a primary with 1 replica")
    first = redis_cluster.nodes[0]
    first.call("CONFIG", "SET", "maxmemory", 0)
    found = await examine(redis_cluster.url)
    assert unfit(found) == {"memory": Outcome.WARNING}
    assert found["memory"].found.startswith(f"127.0.0.1:{first.port}: ")


async def test_a_cluster_with_a_slot_that_nobody_serves(redis_cluster: RedisCluster) -> None:
    """A lost slot fails the cluster; the protocol is not tried then."""
    node = redis_cluster.master_of(7)
    for one in redis_cluster.nodes:
        one.call("CLUSTER", "DELSLOTS", 7)
    try:
        found = await examine(redis_cluster.url)
    finally:
        node.call("CLUSTER", "ADDSLOTS", 7)
        redis_cluster.settle()
    assert found["cluster"].outcome == Outcome.FAILED
    assert "16,383" in found["cluster"].found
    assert "protocol" not in found
