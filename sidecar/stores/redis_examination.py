"""What may be wrong with a Redis or Valkey that serves as the hot store, asked of each server and by trying.

The engine hands in a function for each server that runs one command there, so that this file needs no driver.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sidecar import limits
from sidecar.errors import StandpipeError
from sidecar.finding import Finding, Outcome, clock, failed, ok, skipped, warning
from sidecar.stores.hot import SLOTS, Hot, HotKey
from sidecar.stores.record import EventKind, Head, SessionState, StoredEvent

VERSION_MIN: Final = (6, 2)
"""What the scripts run on; Valkey goes on from Redis 7.2 and says so."""

UNREACHED: Final = "Start it, or correct the address, user and password in `hot`."
COMMANDS: Final = (
    "+eval +evalsha +info +time +hmget +hget +hset +hsetnx +hstrlen +del +pttl +pexpire +scan +unlink"
    " +cluster|slots +cluster|shards +cluster|info +asking"
)
ACL: Final = f"Let its user do what a sidecar does: ACL SETUSER … ~standpipe1:* {COMMANDS}"
EVICTION: Final = "CONFIG SET maxmemory to what it may take, and maxmemory-policy to allkeys-lru."


class Ask(Protocol):
    """Run a command on one server; raise a StandpipeError if it fails."""

    def __call__(self, command: str) -> Awaitable[Any]:
        """Return the answer, as the driver reads it."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the hot store."""

    name: str
    """host:port."""
    ask: Ask


async def examine(hot: Hot[Any], servers: Sequence[Server], *, clustered: bool) -> list[Finding]:
    """Make every check: of each server, of the cluster, and of the protocol through all of it."""
    of_servers = []
    for server in servers:
        try:
            of_servers.append((server.name, await _server(server.ask, clustered=clustered)))
        except StandpipeError as error:
            advice = ACL if "NoPermission" in error.message else UNREACHED
            of_servers.append((server.name, [failed("server", error.message, advice)]))
    found = _gathered(of_servers) if clustered else of_servers[0][1]
    if clustered:
        found.append(await _cluster(servers[0].ask))
    if all(one.outcome != Outcome.FAILED for one in found):
        found.append(await _there_and_back(hot))
    return found


def _gathered(of_servers: Sequence[tuple[str, Sequence[Finding]]]) -> list[Finding]:
    """Return one finding for each check and outcome: what is fine in a word, what is not by the servers' names."""
    alike: dict[tuple[str, Outcome, str], list[str]] = {}
    for name, findings in of_servers:
        for one in findings:
            found = one.found if one.outcome == Outcome.OK else f"{name}: {one.found}"
            alike.setdefault((one.check, one.outcome, one.advice), []).append(found)
    return [
        Finding(check, outcome, "; ".join(dict.fromkeys(found)), advice)
        for (check, outcome, advice), found in alike.items()
    ]


async def _server(ask: Ask, *, clustered: bool) -> list[Finding]:
    info: Mapping[str, Any] = await ask("INFO")
    return [_version(info), _role(info, clustered=clustered), _memory(info), *await _clock(ask)]


def _version(info: Mapping[str, Any]) -> Finding:
    valkey = info.get("valkey_version")
    found = f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"
    numbers = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if numbers < VERSION_MIN:
        return failed("server", found, f"Upgrade it to {'.'.join(map(str, VERSION_MIN))} or later.")
    return ok("server", found)


def _role(info: Mapping[str, Any], *, clustered: bool) -> Finding:
    replicas = int(info.get("connected_slaves", 0))
    if info["role"] != "master":
        if clustered:
            return _replica(info)
        advice = "Name the primary in `hot`, or let redis+sentinel:// find it: writes to a replica are refused."
        return failed("role", "a replica", advice)
    behind_s = max((int(info[f"slave{number}"].get("lag", 0)) for number in range(replicas)), default=0)
    if not replicas:
        return ok("role", "a primary without replicas: while it is away the record store answers")
    return ok("role", f"a primary with {replicas} {'replica' if replicas == 1 else 'replicas'}, {behind_s} s behind")


def _replica(info: Mapping[str, Any]) -> Finding:
    if info.get("master_link_status") != "up":
        return warning("role", "a replica that lost its primary", "Look at its log: a failover to it loses views.")
    return ok("role", "a replica")


def _memory(info: Mapping[str, Any]) -> Finding:
    limit_bytes, policy = int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", "noeviction"))
    used = f"{int(info['used_memory']) / (1 << 20):,.0f} MiB in use"
    if not limit_bytes:
        return warning("memory", f"{used}, without a limit", EVICTION)
    found = f"{used} of {limit_bytes / (1 << 20):,.0f}, {policy}"
    if policy == "noeviction":
        return warning("memory", f"{found}: once full, it refuses writes", EVICTION)
    return ok("memory", found)


async def _clock(ask: Ask) -> list[Finding]:
    """Ask for the time, and see what the way takes."""
    way_s = float("inf")
    for _ in range(5):
        before_s = time.time()
        seconds, microseconds = await ask("TIME")
        after_s = time.time()
        way_s = min(way_s, after_s - before_s)
    found = f"{way_s * 1000:.1f} ms there and back"
    distance = ok("distance", found)
    if way_s * 1000 > limits.hot_timeout_ms / 2:
        advice = f"Bring it nearer: a call that takes {limits.hot_timeout_ms} ms is given up."
        distance = warning("distance", found, advice)
    return [clock(before_s, int(seconds) + int(microseconds) / 1e6, after_s), distance]


async def _cluster(ask: Ask) -> Finding:
    try:
        info: Mapping[str, Any] = await ask("CLUSTER INFO")
    except StandpipeError as error:
        return skipped("cluster", error.message)
    slots = int(info["cluster_slots_ok"])
    if info["cluster_state"] != "ok" or slots < SLOTS:
        advice = "Look at CLUSTER NODES: the sessions of a slot without a primary come from the record store."
        return failed("cluster", f"state {info['cluster_state']}, {slots:,} of {SLOTS:,} slots served", advice)
    return ok("cluster", f"{SLOTS:,} slots served by {info['cluster_size']} primaries")


async def _there_and_back(hot: Hot[Any]) -> Finding:
    """Commit a turn of a session that nobody has through the whole protocol, and remove it."""
    tenant, session = "doctor", secrets.token_hex(16)
    key = HotKey(tenant, session, "doctor")
    try:
        try:
            ticket = await hot.announce(tenant, session, mark="doctor", lasts_ms=1000)
            await hot.publish(tenant, session, _a_turn(session), ticket=ticket, grant=1, mark="doctor")
            found = await hot.fetch(key)
        finally:
            await hot.forget(tenant, session)
    except StandpipeError as error:
        return failed("protocol", error.message, ACL)
    if found.gained is None or found.grant != 1:
        advice = "Look whether something evicts or writes in between, such as a maxmemory that is too small."
        return failed("protocol", "what was published did not come back", advice)
    return ok("protocol", "a turn was announced, published, fetched and removed")


def _a_turn(session: str) -> SessionState:
    head = Head(
        session=session,
        subject="doctor",
        version=1,
        event_hash=bytes(32),
        ended=False,
        weight_bytes=1,
        position_end=0,
        created_at_us=0,
        updated_at_us=0,
    )
    event = StoredEvent(
        session=session,
        version=1,
        kind=EventKind.TURN,
        request_id="doctor",
        committed_at_us=0,
        body=b"",
        previous_hash=bytes(32),
        event_hash=bytes(32),
        weight_end_bytes=1,
        position_end=0,
    )
    return SessionState(head=head, checkpoint=None, events=[event], after_version=0)
