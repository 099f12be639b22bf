"""Policies at run time: versions are parsed once and kept, routes are followed as the record store has them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import cast

from sidecar import limits, policy, segment
from sidecar.errors import BudgetTooSmall, PolicyInvalid, PolicyNotFound, RouteNotFound
from sidecar.policy import Policy
from sidecar.stores.record import PolicyRead, Record, StoredPolicy, StoredRoute
from sidecar.tokens import Tokenizers

DEFAULT = "default"
"""The route, and the built-in policy, that exist without being set."""


@dataclass(frozen=True, slots=True)
class _Pointer:
    """Where a route pointed, and when that was asked for, in `time.monotonic()` seconds."""

    policy_name: str
    policy_version: int
    asked_at: float


@dataclass(slots=True)
class Policies:
    """Parsed versions, and where routes pointed when they were last seen."""

    record: Record
    tokenizers: Tokenizers
    _versions: OrderedDict[tuple[str, str, int], Policy] = field(default_factory=OrderedDict)
    _routes: OrderedDict[tuple[str, str], _Pointer] = field(default_factory=OrderedDict)

    def nearest(self, tenant: str, route: str, *, since: float = 0.0) -> Policy | None:
        """Return the policy that the route pointed at when it was last seen, if it is at hand.

        `since` is the point in `time.monotonic()` seconds at or after which it must have been asked for.
        """
        pointer = self._routes.get((tenant, route))
        if pointer is None or pointer.asked_at < since:
            return None
        version = (tenant, pointer.policy_name, pointer.policy_version)
        found = self._versions.get(version)
        if found is not None:  # what is used stays, whatever other tenants use
            self._routes.move_to_end((tenant, route))
            self._versions.move_to_end(version)
        return found

    async def follow(self, tenant: str, route: str, stored: StoredRoute | None, *, asked_at: float) -> Policy:
        """Return the policy of a route as it was just read. Raises RouteNotFound."""
        if stored is None and route != DEFAULT:
            raise RouteNotFound("no such route", field="route")
        pointer = self._saw(tenant, route, stored, asked_at=asked_at)
        return await self.version(tenant, pointer.policy_name, pointer.policy_version)

    def routes_in_use(self) -> list[tuple[str, str]]:
        """Return (tenant, route) of all that were followed."""
        return list(self._routes)

    def saw(self, tenant: str, route: str, stored: StoredRoute | None, *, asked_at: float) -> None:
        """Take note of where a route that is in use pointed when it was asked for."""
        if stored is None and route != DEFAULT:
            self._routes.pop((tenant, route), None)
        else:
            self._saw(tenant, route, stored, asked_at=asked_at)

    def _saw(self, tenant: str, route: str, stored: StoredRoute | None, *, asked_at: float) -> _Pointer:
        name, version = (stored.policy_name, stored.policy_version) if stored else (DEFAULT, 0)
        pointer = _Pointer(name, version, asked_at)
        held = self._routes.get((tenant, route))
        if held is None or held.asked_at <= asked_at:
            self._routes[tenant, route] = pointer
        if len(self._routes) > limits.policy_cache_max:
            self._routes.popitem(last=False)
        return pointer

    async def version(self, tenant: str, name: str, version: int) -> Policy:
        """Return one version. Raises PolicyNotFound."""
        key = (tenant, name, version)
        if key not in self._versions:
            document = self.built_in()
            if (name, version) != (DEFAULT, 0):
                (stored,) = await self.record.fetch([PolicyRead(tenant=tenant, name=name, version=version)])
                if stored is None:
                    raise PolicyNotFound("no such policy version")
                document = cast(StoredPolicy, stored).document
            # In a thread, since it may load a tokenizer.
            self._versions[key] = await asyncio.to_thread(
                policy.parse, document, version=version, tokenizers=self.tokenizers
            )
            if len(self._versions) > limits.policy_cache_max:
                self._versions.popitem(last=False)
        return self._versions[key]

    def built_in(self) -> str:
        """Return the document of the built-in policy: it counts with the first tokenizer of the configuration."""
        return policy.BUILT_IN.format(tokenizer=self.tokenizers.written[0])

    async def publish(self, tenant: str, document: str) -> tuple[StoredPolicy, bool]:
        """Check and store a document; the flag says whether it became a new version."""
        name, digest = await asyncio.to_thread(self._check, document)  # the largest takes a second to read
        return await self.record.publish_policy(tenant, name=name, document=document, digest=digest)

    def _check(self, document: str) -> tuple[str, bytes]:
        parsed = policy.parse(document, version=0, tokenizers=self.tokenizers)
        count = self.tokenizers.get(parsed.tokenizer).count
        prompt_tokens = sum(segment.prompt_piece(one.name, one.text, count).tokens for one in parsed.prompts)
        try:
            policy.allocate(parsed, prompt_tokens=prompt_tokens, total_tokens=None, caps={}, include=frozenset())
        except BudgetTooSmall as error:  # it would fail every hydrate
            raise PolicyInvalid(error.message, field="budget_tokens", **error.metadata) from None
        return parsed.name, policy.digest(document)
