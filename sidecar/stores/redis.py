"""The Redis engine of the hot contract: the tail of a session's log is one hash, and every call one script.

It runs on Redis 6.2 or later and on Valkey: one server, Sentinel or Cluster, by the address's scheme::

    redis://[user[:password]@]host[:port][/db]
    redis+unix://[user[:password]@]/path
    redis+sentinel://[user[:password]@]host[:port],host[:port].../master[/db][?sentinel_username=&sentinel_password=]
    redis+cluster://[user[:password]@]host[:port],host[:port]...

`rediss` instead of `redis` is TLS, with the files `ca`, `cert` and `key` in the query. The user needs
``~standpipe1:* +evalsha +eval +info +time +hmget +hget +hset +hsetnx +hstrlen +del +pttl +pexpire +scan +unlink``; of a
cluster also ``+cluster|slots +cluster|shards +cluster|info +asking``.

The scripts in `lua/` are the protocol: each is one round trip, does work for what it returns or stores and never for
the length of a session, and answers with who runs it: the replication id of a master, which a restart and a promotion
both change (H11). Time is the server's own.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import hashlib
import re
import secrets
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.maint_notifications import MaintNotificationsConfig

from sidecar import limits
from sidecar.breaker import Breaker
from sidecar.errors import ConfigInvalid, HotUnavailable
from sidecar.finding import Finding, failed
from sidecar.stores import redis_examination
from sidecar.stores.hot import SLOTS, Capabilities, Found, Hot, HotKey, Place, Ticket, V
from sidecar.stores.memory import MemoryHot
from sidecar.stores.record import Checkpoint, Deadline, EventKind, Head, SessionState, StoredEvent
from sidecar.stores.redis_examination import Ask, Server

PREFIX: Final = "standpipe1:"
"""The number is that of the stored form: two releases with different forms never read each other's."""

LUA = Path(__file__).parent / "lua"
_HEAD = struct.Struct(">Q32sBQQQQ")
_EVENT = struct.Struct(">BQQQ")
_WEIGHT = struct.Struct(">Q")
_MARK = re.compile(r"[A-Za-z0-9._:@/+-]{1,256}")
_SCHEME = re.compile(r"redis(?P<tls>s)?(\+(?P<kind>unix|sentinel|cluster))?")
_FILES = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
_NEW_TTL_MS = limits.view_ttl_s * 1000
_BARE_TTL_MS = limits.hot_bare_ttl_s * 1000


class Script:
    """One of the scripts."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, name: str) -> Script:
        """Read a script's file, behind the text that all of them share."""
        return cls((LUA / "entry.lua").read_text() + (LUA / f"{name}.lua").read_text())


class _Lanes:
    """The ways to one server. Commands that find none free go together, in one round trip, when one is.

    A lone command goes at once. Who gives up while it waits, or is among others, takes nobody's answer away.
    """

    def __init__(self, client: Redis, *, timeout_s: float) -> None:
        self._client: Any = client
        self._timeout_s = timeout_s
        self._free = limits.hot_lanes_max
        self._waiting: list[tuple[Sequence[Any], asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, *command: Any) -> Any:
        """Run a command, and return its answer."""
        if not self._free:
            answer = asyncio.get_running_loop().create_future()
            self._waiting.append((command, answer))
            return await answer
        self._free -= 1
        try:
            return await self._client.execute_command(*command)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Free a lane, or send on it what waits."""
        self._free += 1
        batch = [(command, answer) for command, answer in self._waiting if not answer.done()]
        self._waiting = []
        if batch:
            self._free -= 1
            task = asyncio.create_task(self._send(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, batch: Sequence[tuple[Sequence[Any], asyncio.Future[Any]]]) -> None:
        found: Sequence[Any]
        try:
            async with asyncio.timeout(self._timeout_s), self._client.pipeline(transaction=False) as pipeline:
                for command, _ in batch:
                    pipeline.execute_command(*command)
                found = await pipeline.execute(raise_on_error=False)
        except Exception as error:
            found = [error] * len(batch)
        finally:
            self._leave()
        for (_, answer), one in zip(batch, found, strict=True):
            if answer.done():
                continue
            if isinstance(one, Exception):
                answer.set_exception(one)
            else:
                answer.set_result(one)

    async def close(self) -> None:
        """Wait for what is under way: its time is bounded."""
        if self._tasks:
            await asyncio.wait(self._tasks)


class RedisHot(Hot[V]):
    """Tails in Redis, and in this process the views folded from them."""

    engine = "redis"
    capabilities = Capabilities(coherent=True)

    def __init__(
        self,
        address: str,
        *,
        bytes_max: int = limits.view_cache_bytes,
        session_bytes_max: int = limits.hot_session_bytes_max,
        timeout_ms: int = limits.hot_timeout_ms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._prefix = PREFIX
        """Of keys, and of incarnations: whoever keeps other entries in a server speaks of another server (H11)."""
        self._client = _client(address, timeout_s=timeout_ms / 1000)
        self._views: MemoryHot[V] = MemoryHot(bytes_max=bytes_max, clock=clock)
        self._session_bytes_max = session_bytes_max
        self._timeout_s = timeout_ms / 1000
        self._free = asyncio.Semaphore(limits.hot_connections_max)
        client = self._client
        self._lanes = None if isinstance(client, RedisCluster) else _Lanes(client, timeout_s=self._timeout_s)
        self._call = self._lanes.call if self._lanes else client.execute_command
        self._breaker = Breaker(clock=clock)
        self._scripts = {name: Script.load(name) for name in ("fetch", "announce", "publish", "withdraw")}
        self._servers: dict[str, str] = {}
        """The name of the cluster's node by its replication id; without a cluster the one that answered last."""

    async def open(self, *, deployment: str = "") -> None:
        self._prefix = f"{PREFIX}{deployment}"  # connections are made when they are needed

    async def examine(self) -> Sequence[Finding]:
        other: RedisHot[V] = RedisHot(self._address, timeout_ms=limits.examine_ms)
        try:
            return await other._examine()
        finally:
            await other.close()

    def held(self, key: HotKey) -> V | None:
        return self._views.held(key)

    def keep(self, key: HotKey, view: V, *, ttl_s: float | None = None) -> bool:
        return self._views.keep(key, view, ttl_s=ttl_s)

    async def fetch(self, key: HotKey, *, ttl_s: float | None = None, deadline: Deadline | None = None) -> Found[V]:
        view = self._views.held(key, ttl_s=ttl_s)
        place, (now_ms, life, version, grant, *tail) = await self._run(
            "fetch",
            (key.tenant, key.session),
            secrets.token_hex(16),
            view.version if view is not None else 0,
            key.tokenizer,
            round(ttl_s * 1000) if ttl_s else 0,
            _NEW_TTL_MS,
            _BARE_TTL_MS,
            deadline=deadline,
        )
        return Found(
            view=view,
            gained=_unpack_state(key, tail) if tail else None,
            version=version,
            grant=grant,
            ticket=Ticket(place, life.decode(), now_ms),
        )

    async def announce(
        self, tenant: str, session: str, *, mark: str, lasts_ms: int, deadline: Deadline | None = None
    ) -> Ticket:
        place, (now_ms, life) = await self._run(
            "announce",
            (tenant, session),
            secrets.token_hex(16),
            _checked(mark),
            lasts_ms,
            _NEW_TTL_MS,
            _BARE_TTL_MS,
            limits.hot_marks_max,
            deadline=deadline,
        )
        return Ticket(place, life.decode(), now_ms)

    async def publish(
        self,
        tenant: str,
        session: str,
        state: SessionState,
        *,
        ticket: Ticket,
        grant: int,
        mark: str = "",
        deadline: Deadline | None = None,
    ) -> Place:
        if state.after_version + len(state.events) != state.head.version:
            raise ValueError("a published state must reach its head")
        checkpoint = state.checkpoint
        place, _ = await self._run(
            "publish",
            (tenant, session),
            ticket.place.incarnation.removeprefix(self._prefix),
            ticket.life,
            ticket.asked_at_ms,
            _checked(mark) if mark else "",
            grant,
            state.after_version,
            state.head.version,
            _pack_head(state.head),
            checkpoint.tokenizer if checkpoint else "",
            b"%d " % checkpoint.version + _WEIGHT.pack(checkpoint.weight_bytes) + checkpoint.body
            if checkpoint
            else b"",
            self._session_bytes_max,
            _BARE_TTL_MS,
            *map(_pack_event, state.events),
            deadline=deadline,
        )
        return place

    async def withdraw(
        self, tenant: str, session: str, *, ticket: Ticket, mark: str, version: int, deadline: Deadline | None = None
    ) -> Place:
        place, _ = await self._run(
            "withdraw",
            (tenant, session),
            ticket.place.incarnation.removeprefix(self._prefix),
            ticket.life,
            _checked(mark),
            version,
            _BARE_TTL_MS,
            deadline=deadline,
        )
        return place

    async def forget(self, tenant: str, session: str) -> None:
        await self._views.forget(tenant, session)
        async with self._guarded(None):
            await self._client.execute_command("DEL", self.key(tenant, session))

    async def flush(self) -> None:
        await self._views.flush()
        async with self._guarded(None, timeout_s=limits.deadline_default_ms / 1000):
            async for key in self._client.scan_iter(match=f"{self._prefix}{{*", count=1000):
                await self._client.execute_command("UNLINK", key)

    def slot(self, tenant: str, session: str) -> int:
        return slot_of(self.key(tenant, session))

    def key(self, tenant: str, session: str) -> bytes:
        """Return the key of a session."""
        return key_of(tenant, session, prefix=self._prefix)

    def slots_of(self, incarnation: str) -> Sequence[tuple[int, int]]:
        name = self._servers.get(incarnation.removeprefix(self._prefix))
        if name is None:
            return ()
        if not isinstance(self._client, RedisCluster):
            return ((0, SLOTS),)
        ranges: list[tuple[int, int]] = []
        for slot, (primary, *_) in sorted(self._client.nodes_manager.slots_cache.items()):
            if primary.name == name:
                start = ranges.pop()[0] if ranges and ranges[-1][1] == slot else slot
                ranges.append((start, slot + 1))
        return ranges

    async def close(self) -> None:
        await self._views.close()
        if self._lanes:
            await self._lanes.close()
        await self._client.aclose()
        pool = getattr(self._client, "connection_pool", None)
        if isinstance(pool, SentinelConnectionPool):  # the driver leaves those to the sentinels open
            for sentinel in pool.sentinel_manager.sentinels:
                await sentinel.aclose()

    async def _examine(self) -> list[Finding]:
        client = self._client
        try:
            if not isinstance(client, RedisCluster):
                return await redis_examination.examine(self, [Server("", _asking(client))], clustered=False)
            async with _explained("to meet the cluster"):
                await client.initialize()
            servers = [Server(node.name, _asking(node)) for node in client.get_nodes()]
            return await redis_examination.examine(self, servers, clustered=True)
        except HotUnavailable as error:
            return [failed("server", error.message, redis_examination.UNREACHED)]

    async def _run(
        self, name: str, session: tuple[str, str], *args: bytes | str | int, deadline: Deadline | None
    ) -> tuple[Place, list[Any]]:
        """Run a script on a session's entry; return who answered, and what else it answered."""
        script, key = self._scripts[name], self.key(*session)
        async with self._guarded(deadline):
            try:
                answer = await self._call("EVALSHA", script.sha, 1, key, *args)
            except NoScriptError:  # a server that is new, or was told to forget its scripts: it keeps this one
                answer = await self._call("EVAL", script.text, 1, key, *args)
            replication = answer[0].decode()
            if replication not in self._servers:
                await self._meet(replication)
        return Place(slot_of(key), self._prefix + replication if replication else ""), answer[1:]

    @contextlib.asynccontextmanager
    async def _guarded(self, deadline: Deadline | None, *, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Bound a call in time and in number, and turn whatever the driver raises into HotUnavailable (H13)."""
        most_s = self._timeout_s if timeout_s is None else timeout_s
        left_s = most_s if deadline is None else min(most_s, deadline - time.monotonic())
        if left_s <= 0:
            raise HotUnavailable("no time is left for the hot store")
        if self._breaker.check() is not None:
            raise HotUnavailable("the hot store did not answer of late, and is left alone for a moment")
        try:
            async with asyncio.timeout(left_s), self._free:
                yield
        except TimeoutError:
            if left_s == most_s:  # a caller in a hurry says nothing about the store
                self._breaker.failure()
            raise HotUnavailable("the hot store did not answer in time") from None
        except Exception as error:  # of the driver's own tree, of the system, or of a transport that was closed
            self._breaker.failure()
            raise HotUnavailable(f"the hot store failed: {type(error).__name__}") from None
        self._breaker.success()

    async def _meet(self, replication: str) -> None:
        """Learn who a server is that answers for the first time."""
        if isinstance(self._client, RedisCluster):
            await self._client.nodes_manager.initialize()  # it holds more slots than the one that led here
            nodes = self._client.get_primaries()
            said = await asyncio.gather(*(node.execute_command("INFO", "replication") for node in nodes))
            self._servers = {one["master_replid"]: node.name for node, one in zip(nodes, said, strict=True)}
        elif replication:
            self._servers = {replication: ""}
        else:  # a master that was demoted: the next connection looks for its successor
            await self._client.connection_pool.disconnect()


@contextlib.asynccontextmanager
async def _explained(what: str) -> AsyncIterator[None]:
    """Raise HotUnavailable with the driver's word for what happened. No breaker: an examination wants every answer."""
    try:
        async with asyncio.timeout(limits.examine_ms / 2000):
            yield
    except TimeoutError:
        raise HotUnavailable(f"no answer {what} came in time") from None
    except Exception as error:
        raise HotUnavailable(f"it failed {what}: {type(error).__name__}") from None


def _asking(server: Redis | ClusterNode) -> Ask:
    async def ask(command: str) -> Any:
        async with _explained(f"at {command}"):
            return await server.execute_command(command)

    return ask


def key_of(tenant: str, session: str, *, prefix: str = PREFIX) -> bytes:
    """Return the key of a session: one hash tag. No id holds a bar or a brace (`sidecar.validate`)."""
    return f"{prefix}{{{tenant}|{session}}}".encode()


def slot_of(key: bytes) -> int:
    """Return the slot of a key: the checksum of its hash tag."""
    return binascii.crc_hqx(key[key.index(b"{") + 1 : -1], 0) % SLOTS


def _checked(mark: str) -> str:
    if not _MARK.fullmatch(mark):
        raise ValueError("a mark is 1 to 256 characters of A-Z a-z 0-9 . _ : - @ / +")
    return mark


# --- what is stored ------------------------------------------------------------------------------------------------


def _pack_head(head: Head) -> bytes:
    fixed = _HEAD.pack(
        head.version,
        head.event_hash,
        head.ended,
        head.weight_bytes,
        head.position_end,
        head.created_at_us,
        head.updated_at_us,
    )
    return fixed + head.subject.encode()


def _pack_event(event: StoredEvent) -> bytes:
    """Pack what a fold reads of an event: its request and its hashes stay in the record store."""
    return _EVENT.pack(event.kind, event.committed_at_us, event.weight_end_bytes, event.position_end) + event.body


def _unpack_state(key: HotKey, tail: list[Any]) -> SessionState:
    after, packed_head, packed_checkpoint, *events = tail
    version, event_hash, ended, weight, position, created_at_us, updated_at_us = _HEAD.unpack_from(packed_head)
    checkpoint = None
    if packed_checkpoint:
        _, _, rest = packed_checkpoint.partition(b" ")
        (weight_there,) = _WEIGHT.unpack_from(rest)
        checkpoint = Checkpoint(
            session=key.session,
            tokenizer=key.tokenizer,
            version=after,
            weight_bytes=weight_there,
            body=rest[_WEIGHT.size :],
        )
    return SessionState(
        head=Head(
            session=key.session,
            subject=packed_head[_HEAD.size :].decode(),
            version=version,
            event_hash=event_hash,
            ended=bool(ended),
            weight_bytes=weight,
            position_end=position,
            created_at_us=created_at_us,
            updated_at_us=updated_at_us,
        ),
        checkpoint=checkpoint,
        events=[_unpack_event(key.session, at, packed) for at, packed in enumerate(events, after + 1)],
        after_version=after,
    )


def _unpack_event(session: str, version: int, packed: bytes) -> StoredEvent:
    kind, committed_at_us, weight_end, position_end = _EVENT.unpack_from(packed)
    return StoredEvent(
        session=session,
        version=version,
        kind=EventKind(kind),
        request_id="",
        committed_at_us=committed_at_us,
        body=packed[_EVENT.size :],
        previous_hash=b"",
        event_hash=b"",
        weight_end_bytes=weight_end,
        position_end=position_end,
    )


# --- the address ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where the hot store is, checked."""

    kind: str
    """single, unix, sentinel or cluster."""
    hosts: tuple[tuple[str, int], ...]
    path: str
    """The socket, or the name of the master."""
    options: dict[str, Any]
    """For connections to servers."""
    sentinel_options: dict[str, Any]

    @classmethod
    def parse(cls, address: str) -> Address:
        """Read an address. Raises ConfigInvalid, never with a password in it."""
        try:
            parts = urlsplit(address)
        except ValueError:  # brackets that do not match
            raise ConfigInvalid("hot must be an address", field="hot") from None
        scheme = _SCHEME.fullmatch(parts.scheme)
        _demand(scheme is not None, "begin with redis, rediss, redis+unix, redis+sentinel or redis+cluster, and ://")
        assert scheme is not None
        kind, tls = scheme["kind"] or "single", bool(scheme["tls"])
        login, _, where = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path)
        options: dict[str, Any] = {"username": unquote(user) or None, "password": unquote(password) or None}
        sentinel_options: dict[str, Any] = {}
        database = ""
        if kind == "unix":
            _demand(path.startswith("/") and not where and not tls, "name a socket: redis+unix:///path")
        else:
            path, _, database = path.removeprefix("/").partition("/")
        if kind == "single":
            path, database = "", path
        elif kind == "sentinel":
            _demand(bool(path), "name the master: redis+sentinel://host:port/master")
            sentinel_options = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        elif kind == "cluster":
            _demand(not path, "name no database: a cluster has one")
        if database:
            _demand(bool(re.fullmatch(r"[0-9]{1,5}", database)), "have a number as its database")
            options["db"] = int(database)
        if tls:
            secure = {"ssl": True, **{_FILES[name]: query.pop(name) for name in tuple(query) if name in _FILES}}
            options |= secure
            sentinel_options |= secure if kind == "sentinel" else {}
        _demand(not query, "have no other options than ca, cert and key, and those of its scheme")
        hosts = () if kind == "unix" else tuple(_host(host, kind) for host in where.split(","))
        _demand(kind != "single" or len(hosts) == 1, "name one server")
        return cls(kind, hosts, path, options, sentinel_options)


def _host(text: str, kind: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:(?P<port>[0-9]{1,5}))?", text)
    _demand(found is not None, "name its servers as host:port")
    assert found is not None
    port = int(found["port"] or (26_379 if kind == "sentinel" else 6379))
    _demand(0 < port < 65_536, "have ports from 1 to 65535")
    return found["host"].strip("[]"), port


def _demand(good: bool, what: str) -> None:
    if not good:
        raise ConfigInvalid(f"hot must {what}", field="hot")


def _client(address: str, *, timeout_s: float) -> Redis | RedisCluster:
    """Make the driver's client. It retries nothing by itself: the caller has the record store.

    It notices before the caller's timeout that a server hangs, and then looks for another.
    """
    where = Address.parse(address)
    never = Retry(NoBackoff(), 0)
    options = {
        "protocol": 3,
        "retry": never,
        "socket_timeout": timeout_s / 2,
        "socket_connect_timeout": timeout_s / 2,
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        **where.options,
    }
    if where.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in where.hosts]
        return RedisCluster(
            startup_nodes=nodes,
            require_full_coverage=False,
            reinitialize_steps=0,  # else every fifth redirect closes the connections that other calls wait on
            max_connections=limits.hot_connections_max,
            **options,
        )
    tls = options.pop("ssl", False)
    if where.kind == "sentinel":
        brief = {"retry": never, "socket_timeout": timeout_s / 4, "socket_connect_timeout": timeout_s / 4}
        if tls:
            options["ssl"] = True
        sentinel: Any = Sentinel(where.hosts, sentinel_kwargs=brief | where.sentinel_options, **options)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(where.path)
        return master
    kind: type[Connection | SSLConnection | UnixDomainSocketConnection] = SSLConnection if tls else Connection
    if where.kind == "unix":
        kind, options["path"] = UnixDomainSocketConnection, where.path
    else:
        options["host"], options["port"] = where.hosts[0]
    return Redis.from_pool(ConnectionPool(connection_class=kind, **options))
