"""The contract of what tells whose a token is: a file of tokens, a JWKS, or the review of an API server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Vouched:
    """Whose a token is, and for how long. Times are of `time.monotonic`."""

    name: str
    """The caller, such as system:serviceaccount:NAMESPACE:NAME; empty where a token names nobody."""
    fresh_until: float = 0.0
    """Until then it need not be asked again; 0: it must be, for each call."""
    good_until: float = 0.0
    """Until then it holds if nobody can be asked, and no longer."""
    again_at: float = 0.0
    """From then on it is asked again while calls go on, so that none waits for the answer."""


class Verifier(Protocol):
    """Tells whose a token is. Used by one event loop."""

    @property
    def basis(self) -> object:
        """By what it tells: what was vouched for on the basis of another object holds no more."""

    @property
    def away(self) -> bool:
        """Whether what it has to ask failed to answer, so that who is known need not wait for it again."""

    async def open(self) -> None:
        """Prepare. Raises ConfigInvalid for what cannot come right by itself."""

    async def check(self, token: str) -> Vouched:
        """Tell whose a token is.

        Raises Unauthenticated for one that is nobody's or not meant for this server, AuthenticatorUnavailable where
        that cannot be told now. It ends within `authority_call_ms` and a pause, whoever waits for it.
        """

    async def run(self) -> None:
        """Look after what it tells by, until cancelled."""

    def close(self) -> None:
        """Release what it holds."""
