"""The servers that tests start: they do what a test asks of them, and end with the run however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from tests.servers import Postgres, Redis, RedisCluster, Sentinel, wait_for

ROOT = Path(__file__).parents[2]


def test_postgres_is_killed_paused_and_comes_back() -> None:
    """What PostgreSQL committed outlives kill -9, a pause answers nobody, and databases come from templates."""
    with Postgres(durable=True) as server:
        template = server.create_database()
        with server.connect(template) as db:
            db.execute("CREATE EXTENSION vector")
            db.execute("CREATE TABLE kept AS SELECT '[1,2]'::vector AS v")
        copy = server.create_database(template)
        server.kill9()
        assert not server.ready()
        server.start()
        with server.connect(copy) as db:
            assert db.execute("SELECT v::text FROM kept").fetchone() == ("[1,2]",)
        server.pause()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(server.dsn(copy), connect_timeout=2)
        server.resume()
        server.restart()
        server.drop_database(copy)
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(server.dsn(copy))


def test_redis_is_killed_paused_and_flushed() -> None:
    """Redis keeps nothing when it is killed or flushed, and keeps what it has over a pause."""
    with Redis(maxmemory="10mb") as server:
        server.call("SET", "key", 1)
        server.pause()
        with server.client(timeout_s=0.1) as client, pytest.raises(redis.TimeoutError):
            client.get("key")
        server.resume()
        assert server.call("GET", "key") == "1"
        server.flush()
        assert server.call("DBSIZE") == 0
        server.call("SET", "key", 1)
        server.kill9()
        server.start()
        assert server.call("DBSIZE") == 0
        assert server.call("CONFIG", "GET", "maxmemory") == {"maxmemory": "10485760"}


def test_a_cluster_moves_slots_and_fails_over_to_what_lags(redis_cluster: RedisCluster) -> None:
    """A slot moves with its keys; a replica that could not follow takes over without the last writes."""
    key = "{tag}key"
    slot = redis_cluster.slot_of(key)
    source = redis_cluster.master_of(slot)
    source.call("SET", key, "old")
    target = next(one for one in redis_cluster.masters() if one is not source)
    asked: list[str] = []
    redis_cluster.migrate(slot, target, between=lambda: asked.append(source.call("CLUSTER", "COUNTKEYSINSLOT", slot)))
    assert asked == [1, 0]
    redis_cluster.settle()
    master = redis_cluster.master_of(slot)
    assert master is target
    replica = redis_cluster.replicas(master)[0]
    wait_for(
        lambda: replica.info("replication")["slave_repl_offset"] == master.info("replication")["master_repl_offset"], ""
    )
    redis_cluster.lag(master)
    master.call("SET", key, "new")
    before = master.info("replication")["master_replid"]
    redis_cluster.fail_over(replica)
    assert replica.call("GET", key) == "old"
    assert replica.info("replication")["master_replid"] != before
    redis_cluster.follow(master)
    redis_cluster.settle()
    assert redis_cluster.master_of(slot) is replica


def test_sentinels_promote_a_replica() -> None:
    """Sentinels agree on another master when they are told to."""
    with Sentinel() as sentinel:
        before = sentinel.master()
        after = sentinel.fail_over()
        assert after is not before
        assert sentinel.url.endswith("/standpipe")


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    """Servers and their directories are gone after kill -9 of whoever started them, and what it had planned is done."""
    program = (
        "import sys, time\n"
        "from tests.servers import Postgres, Redis, at_the_end, forget_end\n"
        "for name in ('planned', 'forgotten'):\n"
        "    at_the_end('touch', f'{sys.argv[1]}/{name}')\n"
        "forget_end('touch', f'{sys.argv[1]}/forgotten')\n"
        "for server in (Postgres().start(), Redis().start()):\n"
        "    print(server.popen.pid, server.directory, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        started = [run.stdout.readline().split() for _ in range(2)]
        assert all(psutil.pid_exists(int(pid)) and Path(directory).is_dir() for pid, directory in started)
        run.send_signal(signal.SIGKILL)
    for pid, directory in started:
        wait_for(lambda pid=pid: not psutil.pid_exists(int(pid)), "the server is gone")  # type: ignore[misc]
        wait_for(lambda directory=directory: not Path(directory).exists(), "its directory is gone")  # type: ignore[misc]
    assert [one.name for one in tmp_path.iterdir()] == ["planned"]
