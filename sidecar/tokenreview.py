"""Callers' tokens that the Kubernetes API server reviews: TokenReview, with an audience of our own.

What it vouched for counts for `review_fresh_s`, and is asked again before that ends, while calls go on; a service
account that was deleted is out by then. While the API server is away nobody can be deleted either: known callers stay
known for `review_good_s`, and others get AUTHENTICATOR_UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from typing import Any, Final

from sidecar import limits
from sidecar.authority import Authority
from sidecar.errors import AuthenticatorUnavailable, Unauthenticated
from sidecar.verifier import Vouched

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"


class TokenReview:
    """A verifier; see `sidecar.verifier`."""

    def __init__(self, *, audience: str, authority: Authority) -> None:
        self._audience = audience
        self._authority = authority
        self._at_work: dict[bytes, asyncio.Task[Vouched]] = {}
        self._refused: OrderedDict[bytes, float] = OrderedDict()

    @property
    def basis(self) -> object:
        """Always the same."""
        return self._authority

    @property
    def away(self) -> bool:
        """Whether the API server does not answer."""
        return self._authority.away

    async def open(self) -> None:
        """Prepare nothing: a server that is away may come."""

    async def check(self, token: str) -> Vouched:
        """Have a token reviewed, once for all who ask meanwhile."""
        digest = hashlib.sha256(token.encode()).digest()
        if self._refused.get(digest, 0.0) > time.monotonic():
            raise _refusal()
        review = self._at_work.get(digest)
        if review is None:
            review = asyncio.create_task(self._review(token, digest))
            self._at_work[digest] = review
            review.add_done_callback(lambda done: self._done(digest, done))
        return await asyncio.shield(review)  # whoever leaves must not end what others wait for

    async def run(self) -> None:
        """Look after nothing."""
        await asyncio.Event().wait()

    def close(self) -> None:
        """Give reviews and threads up."""
        for review in self._at_work.values():
            review.cancel()
        self._authority.close()

    def _done(self, digest: bytes, review: asyncio.Task[Vouched]) -> None:
        del self._at_work[digest]
        if not review.cancelled():
            review.exception()  # whoever asked may have left

    async def _review(self, token: str, digest: bytes) -> Vouched:
        asked_at = time.monotonic()
        question = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        path = self._authority.path.rstrip("/") + PATH
        name = _caller(await self._authority.ask("POST", path, json.dumps(question).encode()), self._audience)
        if not name:
            self._refused[digest] = asked_at + limits.review_refused_s
            if len(self._refused) > limits.callers_known_max:
                self._refused.popitem(last=False)
            raise _refusal()
        return Vouched(
            name,
            fresh_until=asked_at + limits.review_fresh_s,
            good_until=asked_at + limits.review_good_s,
            again_at=asked_at + limits.review_fresh_s / 2,
        )


def _refusal() -> Unauthenticated:
    return Unauthenticated("the API server does not know the token, or it is not meant for this server")


def _caller(answer: bytes, audience: str) -> str:
    """Return whose the token is; empty: nobody's, or not for us. Raises AuthenticatorUnavailable for no review."""
    try:
        status: Any = json.loads(answer)["status"]
        authenticated = status.get("authenticated", False)
        problem = status.get("error", "")
        name = status["user"]["username"] if authenticated else ""
        audiences = status.get("audiences") or []
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise AuthenticatorUnavailable("the API server's answer is no review") from None
    if authenticated is not True or problem:
        return ""
    # One that knows no audiences answers without any: such a token may be meant for anybody.
    if not isinstance(audiences, list) or audience not in audiences:
        return ""
    return name if isinstance(name, str) and 0 < len(name) <= limits.caller_chars_max else ""
