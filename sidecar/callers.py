"""Who calls, and for which tenant: every call's credential is looked at here, once, before anything else (P8).

::

    token, or client certificate ──verifier──> caller's name ──tenants file──> the tenants and methods that it may use

Callers are named `system:serviceaccount:NAMESPACE:NAME` and the like (the `sub` of a token that an issuer signed, the
username of one that an API server reviewed), `spiffe://…` or another URI of a client's certificate, `dns:NAME` for a
DNS name of one. The tenants file says what they may do; without one every caller with a token of ours acts for the
configured tenant. The file::

    tenants:
    - tenant: acme                                  # or "{namespace}": that of the caller's service account
      callers: ["system:serviceaccount:acme:*"]     # * stands for anything but : and /
      methods: ["ContextService/*"]                 # of the API, Service/Method; left out: all

A caller may act for the tenants of all entries that match it. What a token says is kept by its SHA-256, for as long as
its verifier vouches for it, so that a known caller costs microseconds and no question.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from sidecar import limits
from sidecar.authority import Authority, trusted
from sidecar.config import TENANT, Config
from sidecar.errors import (
    AuthenticatorUnavailable,
    ConfigInvalid,
    DeadlineExceeded,
    InvalidField,
    TenantDenied,
    Unauthenticated,
)
from sidecar.mounted import Mounted, follow
from sidecar.telemetry import Telemetry
from sidecar.token_file import TokenFile
from sidecar.tokenreview import TokenReview
from sidecar.verifier import Verifier, Vouched
from standpipe.v1 import context_pb2, memory_pb2, policy_pb2, session_pb2

SETTING: Final = "tenants_file"
NAMESPACE: Final = "{namespace}"

METHODS: Final[Mapping[str, str]] = {
    method.name: f"{service.name}/{method.name}"
    for file in (context_pb2, session_pb2, policy_pb2, memory_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Service/Method by the method's name, which no two services share."""

_ACCOUNT: Final = re.compile(r"system:serviceaccount:([^:/]+):[^:/]+")
_PATTERN: Final = re.compile(r"[!-~]+")
_BEARER: Final = re.compile(r"(?i:bearer) +([!-~]+)")

Rights = Mapping[str, frozenset[str]]
"""The methods that a caller may use, by tenant."""


# --- the tenants file ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: who may do what for a tenant."""

    tenant: str
    callers: re.Pattern[str]
    methods: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tenants:
    """What a tenants file says."""

    entries: tuple[Entry, ...]

    def rights(self, names: Sequence[str]) -> Rights:
        """Return what a caller of these names may do."""
        found: dict[str, frozenset[str]] = {}
        for entry in self.entries:
            for name in names:
                if not entry.callers.fullmatch(name):
                    continue
                tenant = entry.tenant
                if tenant == NAMESPACE:
                    account = _ACCOUNT.fullmatch(name)
                    if account is None or not TENANT.fullmatch(account[1]):
                        continue
                    tenant = account[1]
                found[tenant] = found.get(tenant, frozenset()) | entry.methods
        return found


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Strict(_LOADER):  # type: ignore[misc]
    """Refuses a key that stands twice: one of the two would silently say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Make a mapping of a node."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(keys) != len(set(keys)):
            raise yaml.YAMLError
        return super().construct_mapping(node, deep)


def parse(content: bytes, path: str) -> Tenants:
    """Read a tenants file. Raises ConfigInvalid, which names the file and the field and quotes nothing."""

    def wrong(place: str, must_be: str) -> ConfigInvalid:
        return ConfigInvalid(f"{path}: {place} must be {must_be}", field=SETTING)

    try:
        whole = yaml.load(content.decode(), _Strict)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError):
        raise wrong("it", "YAML, with no key twice") from None
    if not isinstance(whole, dict) or whole.keys() != {"tenants"}:
        raise wrong("it", "a mapping with the key tenants and no other")
    listed = whole["tenants"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= limits.tenants_entries_max:
        raise wrong("tenants", f"a list of 1 to {limits.tenants_entries_max} entries")
    entries = []
    for at, one in enumerate(listed):
        place = f"tenants[{at}]"
        if not isinstance(one, dict) or not {"tenant", "callers"} <= one.keys() <= {"tenant", "callers", "methods"}:
            raise wrong(place, "a mapping with tenant and callers, and methods if not all")
        tenant, callers, allowed = one["tenant"], one["callers"], one.get("methods", ["*/*"])
        if not isinstance(tenant, str) or not (tenant == NAMESPACE or TENANT.fullmatch(tenant)):
            raise wrong(f"{place}.tenant", f"1 to 128 characters of A-Z a-z 0-9 . _ : - @ / +, or {NAMESPACE}")
        for name, patterns in (("callers", callers), ("methods", allowed)):
            if not isinstance(patterns, list) or not 1 <= len(patterns) <= limits.tenants_patterns_max:
                raise wrong(f"{place}.{name}", f"a list of 1 to {limits.tenants_patterns_max} texts")
        for number, pattern in enumerate(callers):
            if (
                not isinstance(pattern, str)
                or len(pattern) > limits.caller_chars_max
                or not _PATTERN.fullmatch(pattern)
            ):
                raise wrong(
                    f"{place}.callers[{number}]",
                    f"1 to {limits.caller_chars_max} printable ASCII characters without a blank",
                )
            if tenant == NAMESPACE and not pattern.startswith("system:serviceaccount:"):
                raise wrong(f"{place}.callers[{number}]", f"of service accounts where the tenant is {NAMESPACE}")
        found: set[str] = set()
        for number, pattern in enumerate(allowed):
            some = _methods(pattern) if isinstance(pattern, str) else frozenset()
            if not some:
                raise wrong(f"{place}.methods[{number}]", "Service/Method of the API, either of which may be *")
            found |= some
        every = re.compile("|".join(_expression(pattern) for pattern in callers))
        entries.append(Entry(tenant, every, frozenset(found)))
    return Tenants(tuple(entries))


def _expression(pattern: str) -> str:
    """Return a regular expression; what stands between two stars is sought once, so that no name takes long."""
    first, *rest = (re.escape(part) for part in re.sub(r"\*+", "*", pattern).split("*"))
    if not rest:
        return first
    return first + "".join(f"(?>[^:/]*?{part})" for part in rest[:-1]) + f"[^:/]*{rest[-1]}"


def _methods(pattern: str) -> frozenset[str]:
    expression = re.compile(_expression(pattern))
    return frozenset(method for method, whole in METHODS.items() if expression.fullmatch(whole))


# --- the callers ---------------------------------------------------------------------------------------------------


class Callers:
    """What a process knows of its callers. Used by one event loop."""

    def __init__(
        self,
        *,
        tenant: str,
        verifier: Verifier | None,
        tenants: Mounted[Tenants] | None,
        telemetry: Telemetry,
        others: Sequence[Mounted[Any]] = (),
    ) -> None:
        """Without `tenants` all callers act for `tenant`. `others` are files to look after beside."""
        self._tenant = tenant
        self._verifier = verifier
        self._tenants = tenants
        self._log = telemetry.log
        self._files = [*others, *([tenants] if tenants else [])]
        self._known: OrderedDict[bytes, Vouched] = OrderedDict()
        self._basis = verifier.basis if verifier else None
        self._rights: OrderedDict[tuple[str, ...], Rights] = OrderedDict()
        self._read: Tenants | None = None
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        outcome = telemetry.authentications.labels  # looked up once: that costs more than counting
        self._accepted, self._missing, self._refused = outcome("accepted"), outcome("missing"), outcome("refused")
        self._denied, self._unavailable = outcome("denied"), outcome("unavailable")

    @property
    def several(self) -> bool:
        """Whether they may act for more than one tenant."""
        return self._tenants is not None

    async def open(self) -> None:
        """Prepare. Raises ConfigInvalid."""
        if self._verifier:
            await self._verifier.open()

    async def run(self) -> None:
        """Look after files and keys until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._verifier:
                group.create_task(self._verifier.run())
            if self._files:
                group.create_task(follow(*self._files))

    def close(self) -> None:
        """Release everything."""
        for task in self._asking.values():
            task.cancel()
        if self._verifier:
            self._verifier.close()

    async def admit(
        self,
        method: str,
        *,
        authorization: Sequence[str],
        certificate: Callable[[], Sequence[str]],
        tenant: str | None,
        deadline: float,
    ) -> str:
        """Return the tenant that a call is for.

        `authorization` is what the call brings under that name; `certificate` gives the names in its client's
        certificate; `tenant` is what the request names, None if a request of the method names none. Raises
        Unauthenticated, AuthenticatorUnavailable, TenantDenied, DeadlineExceeded; InvalidField where a caller that acts
        for several tenants names none.
        """
        try:
            names = await self._names(authorization, certificate, deadline)
            found = self._granted(names, method, tenant)
        except Unauthenticated:
            (self._refused if authorization else self._missing).inc()
            raise
        except (AuthenticatorUnavailable, DeadlineExceeded):
            self._unavailable.inc()
            raise
        except (TenantDenied, InvalidField):
            self._denied.inc()
            raise
        self._accepted.inc()
        return found

    # --- whose a credential is ---

    async def _names(
        self, authorization: Sequence[str], certificate: Callable[[], Sequence[str]], deadline: float
    ) -> tuple[str, ...]:
        if self._verifier is not None and (authorization or self._tenants is None):
            return (await self._vouched(self._verifier, _token(authorization), deadline),)
        if authorization:
            raise Unauthenticated("this server takes no tokens")
        names = tuple(certificate())
        if not names:
            raise Unauthenticated("the call brings neither a token nor a client's certificate that names it")
        return names

    async def _vouched(self, verifier: Verifier, token: str, deadline: float) -> str:
        if self._basis is not verifier.basis:
            self._basis = verifier.basis
            self._known.clear()
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        now = time.monotonic()
        good = known is not None and now < known.good_until
        if known is not None and (now < known.fresh_until or (good and verifier.away)):
            if now >= known.again_at and digest not in self._asking:
                self._ask_again(verifier, token, digest)
            return known.name
        left_s = max(0.0, deadline - now)
        try:
            async with asyncio.timeout(left_s / 2 if good else left_s):  # the call has yet to be done
                found = await verifier.check(token)
        except TimeoutError:
            if known is not None and good:
                return known.name
            raise DeadlineExceeded("the deadline passed while the token was checked", phase="authenticate") from None
        except AuthenticatorUnavailable:
            if known is not None and good:
                return known.name
            raise
        except Unauthenticated:
            self._known.pop(digest, None)
            raise
        self._keep(digest, found)
        return found.name

    def _keep(self, digest: bytes, found: Vouched) -> None:
        if found.fresh_until:
            self._known[digest] = found
            self._known.move_to_end(digest)
            if len(self._known) > limits.callers_known_max:
                self._known.popitem(last=False)

    def _ask_again(self, verifier: Verifier, token: str, digest: bytes) -> None:
        async def ask() -> None:
            try:
                self._keep(digest, await verifier.check(token))
            except Unauthenticated:
                self._known.pop(digest, None)
            except AuthenticatorUnavailable:  # it is asked again, and holds meanwhile for as long as it is good
                await asyncio.sleep(limits.authority_call_ms / 1000)

        task = asyncio.create_task(ask())
        self._asking[digest] = task
        task.add_done_callback(lambda _: self._asking.pop(digest, None))

    # --- what it may do ---

    def _granted(self, names: tuple[str, ...], method: str, tenant: str | None) -> str:
        if self._tenants is None:
            if tenant and tenant != self._tenant:
                raise TenantDenied("the request names a tenant that is not the caller's", field="tenant_id")
            return self._tenant
        rights = self._rights_of(names, self._tenants.value)
        if not rights:
            raise TenantDenied("no entry of the tenants file names the caller")
        if tenant is None:
            if any(method in methods for methods in rights.values()):
                return ""
            raise TenantDenied("no entry of the tenants file lets the caller use this method")
        if not tenant:
            if len(rights) > 1:
                raise InvalidField("must be named: the caller acts for several tenants", field="tenant_id")
            (tenant,) = rights
        methods = rights.get(tenant)
        if methods is None:
            raise TenantDenied("the request names a tenant that is not the caller's", field="tenant_id")
        if method not in methods:
            raise TenantDenied("no entry of the tenants file lets the caller use this method for the tenant")
        return tenant

    def _rights_of(self, names: tuple[str, ...], tenants: Tenants) -> Rights:
        if self._read is not tenants:
            self._read = tenants
            self._rights.clear()
        rights = self._rights.get(names)
        if rights is None:
            rights = self._rights[names] = tenants.rights(names)
            if len(self._rights) > limits.callers_known_max:
                self._rights.popitem(last=False)
        return rights


def _token(authorization: Sequence[str]) -> str:
    if not authorization:
        raise Unauthenticated("the call brings no token: metadata authorization, Bearer and a token")
    found = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
    if found is None or len(found[1]) > limits.bearer_bytes:
        raise Unauthenticated("metadata authorization must be Bearer and a token, once")
    return found[1]


# --- from the settings ---------------------------------------------------------------------------------------------


def tenants_of(config: Config, telemetry: Telemetry) -> Mounted[Tenants] | None:
    """Read the tenants file, if one is configured. Raises ConfigInvalid."""
    path = config.tenants_file
    if not path:
        return None
    return Mounted([path], lambda content: parse(content, path), setting=SETTING, telemetry=telemetry)


def verifier_of(config: Config, telemetry: Telemetry) -> tuple[Verifier | None, list[Mounted[Any]]]:
    """Make the configured verifier, and return the files to look after beside. Raises ConfigInvalid."""
    if config.auth_token_file:
        return TokenFile(config.auth_token_file, telemetry), []
    place = config.auth_jwks or config.auth_review
    if not place:
        return None, []
    authority, files = None, []
    if place.startswith("https://"):
        trusts = trusted(config.auth_ca_file, telemetry)
        files = [trusts] if trusts else []
        authority = Authority(place, trusts=trusts, token_file=config.auth_api_token_file, telemetry=telemetry)
    if config.auth_review:
        assert authority is not None
        return TokenReview(audience=config.auth_audience, authority=authority), files
    from sidecar.jwks import Jwks

    jwks = Jwks(
        authority.path if authority else place,
        issuer=config.auth_issuer,
        audience=config.auth_audience,
        authority=authority,
        telemetry=telemetry,
    )
    return jwks, files


@contextlib.asynccontextmanager
async def callers_of(config: Config, telemetry: Telemetry) -> AsyncIterator[Callers | None]:
    """Know the callers, and look after what they are known by; None: calls need no credential. Raises ConfigInvalid."""
    verifier, others = verifier_of(config, telemetry)
    tenants = tenants_of(config, telemetry)
    if verifier is None and tenants is None:
        yield None
        return
    callers = Callers(tenant=config.tenant, verifier=verifier, tenants=tenants, telemetry=telemetry, others=others)
    try:
        await callers.open()
        task = asyncio.create_task(callers.run())
        try:
            yield callers
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    finally:
        callers.close()
