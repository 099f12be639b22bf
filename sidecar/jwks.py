"""Callers' tokens that an issuer signed, checked with its public keys: a JWKS, from a file or over https.

A token whose key is not known makes the keys be read again, at most once in `jwks_pause_s`; its call waits for that, so
that a key which was published before a token was signed with it is always found. Only signatures of public keys count:
a token that names no algorithm, or one with a shared secret, is refused whatever the JWKS holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt

from sidecar import limits
from sidecar.authority import Authority
from sidecar.errors import AuthenticatorUnavailable, ConfigInvalid, Unauthenticated
from sidecar.mounted import read
from sidecar.telemetry import Telemetry
from sidecar.verifier import Vouched

SETTING: Final = "auth_jwks"

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_RSA_BITS_MIN: Final = 2048
_CURVES: Final[Mapping[tuple[str, str], str]] = {
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("EC", "P-521"): "ES512",
    ("OKP", "Ed25519"): "EdDSA",
}
_REQUIRED: Final = ("exp", "iss", "aud", "sub")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and what it may have signed with."""

    id: str
    public: Any
    algorithms: tuple[str, ...]


def parse(content: bytes, where: str) -> tuple[Key, ...]:
    """Return the keys of a JWKS that can check signatures; others are passed over. Raises ConfigInvalid without any."""
    try:
        listed = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigInvalid(f"{where} must be a JWKS: an object with a list of keys", field=SETTING) from None
    if not isinstance(listed, list) or len(listed) > limits.jwks_keys_max:
        raise ConfigInvalid(f"{where} must have a list of at most {limits.jwks_keys_max} keys", field=SETTING)
    keys = tuple(key for key in (_key(one) for one in listed) if key is not None)
    if not keys:
        raise ConfigInvalid(f"{where} must have a public key of RSA, an elliptic curve or Ed25519", field=SETTING)
    return keys


def _key(entry: Any) -> Key | None:
    """Return a key of a JWKS; None for one that checks no signatures, or that is secret or weak."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    kind, named, key_id = (str(entry.get(name, "")) for name in ("kty", "alg", "kid"))
    curve = str(entry.get("crv", ""))
    algorithms: tuple[str, ...] = ()
    if kind == "RSA":
        algorithms = _RSA
    elif (kind, curve) in _CURVES:
        algorithms = (_CURVES[kind, curve],)
    if named:
        algorithms = tuple(one for one in algorithms if one == named)
    if not algorithms or "d" in entry:  # whose private half is in a JWKS is no secret
        return None
    try:
        public = jwt.PyJWK(entry, algorithm=algorithms[0]).key
    except Exception:  # whatever a library makes of parts that are no key
        return None
    if kind == "RSA" and public.key_size < _RSA_BITS_MIN:
        return None
    return Key(key_id, public, algorithms)


class Jwks:
    """A verifier; see `sidecar.verifier`."""

    def __init__(
        self, place: str, *, issuer: str, audience: str, authority: Authority | None, telemetry: Telemetry
    ) -> None:
        """`place` is a path, or where `authority` is given, what that is asked for."""
        self._place = place
        self._issuer = issuer
        self._audience = audience
        self._authority = authority
        self._telemetry = telemetry
        self._keys: tuple[Key, ...] = ()
        self._content = b""
        self._problem = ""
        self._read_at = float("-inf")
        self._reading: asyncio.Task[bool] | None = None
        self._waiting = 0

    @property
    def basis(self) -> object:
        """The keys."""
        return self._keys

    @property
    def away(self) -> bool:
        """Never: it vouches for no longer than it must not ask."""
        return False

    @property
    def count(self) -> int:
        """How many keys are in force."""
        return len(self._keys)

    async def open(self) -> None:
        """Read the keys. A file must be good; an address may come later, and is then asked for with the first token."""
        if self._authority is None:
            self._content = await asyncio.to_thread(read, Path(self._place), SETTING)
            self._keys = parse(self._content, self._place)
            self._read_at = time.monotonic()
        else:
            await self._look()

    async def check(self, token: str) -> Vouched:
        """Check the signature, and whom the token is of, for and until."""
        key_id, algorithm = _header(token)
        asked_at = time.monotonic()
        keys = self._candidates(key_id)
        if not keys:
            if not await self._read_since(asked_at):
                raise AuthenticatorUnavailable("the keys that callers' tokens are signed with cannot be read just now")
            keys = self._candidates(key_id)
        for key in keys:
            if algorithm in key.algorithms:
                with contextlib.suppress(jwt.InvalidSignatureError):
                    return self._claims(token, key, algorithm)
        raise Unauthenticated("the token is not signed with a key of its issuer")

    async def run(self) -> None:
        """Read the keys again and again: one that was withdrawn must not count for as long as its tokens would."""
        while True:
            await asyncio.sleep(limits.mounted_look_s if self._authority is None else limits.jwks_look_s)
            await self._look()

    def close(self) -> None:
        """Give threads and reading up."""
        if self._reading is not None:
            self._reading.cancel()
        if self._authority is not None:
            self._authority.close()

    def _candidates(self, key_id: str | None) -> list[Key]:
        if key_id is None:
            return list(self._keys) if len(self._keys) == 1 else []
        return [key for key in self._keys if key.id == key_id]

    def _claims(self, token: str, key: Key, algorithm: str) -> Vouched:
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=limits.jwt_leeway_s,
                options={"require": list(_REQUIRED)},
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is not meant for this server") from None
        except Exception:  # a library's words about what a stranger wrote go nowhere
            raise Unauthenticated("the token is not valid") from None
        name = claims["sub"]
        if not isinstance(name, str) or not 0 < len(name) <= limits.caller_chars_max or name.startswith("dns:"):
            raise Unauthenticated("the token's subject is not a caller's name")
        until = time.monotonic() + max(0.0, float(claims["exp"]) - time.time())
        return Vouched(name, fresh_until=until, good_until=until, again_at=until)

    async def _read_since(self, moment: float) -> bool:
        """See to it that the keys are read once more after a moment; return whether they could be."""
        if self._waiting >= limits.authority_waiting_max:
            return False
        self._waiting += 1
        try:
            while self._read_at < moment:
                if self._reading is None or self._reading.done():
                    wait_s = max(0.0, self._read_at + limits.jwks_pause_s - time.monotonic())
                    self._reading = asyncio.create_task(self._look(wait_s))
                # Whoever leaves must not end what others wait for.
                if not await asyncio.shield(self._reading):
                    return False
            return True
        finally:
            self._waiting -= 1

    async def _look(self, wait_s: float = 0.0) -> bool:
        """Read the keys; what is wrong leaves those in force that there are. Return whether they could be read."""
        await asyncio.sleep(wait_s)
        began = time.monotonic()
        try:
            content = await self._read()
            if content != self._content:
                self._keys = parse(content, self._place)
                self._content = content
                self._telemetry.mounted_taken_up.labels(SETTING).inc()
                self._telemetry.log.info("keys taken up", keys=len(self._keys))
        except ConfigInvalid as error:
            if error.message != self._problem:
                self._problem = error.message
                self._telemetry.mounted_refused.labels(SETTING).inc()
                self._telemetry.log.error(  # noqa: TRY400 - the words are ours
                    "changed files refused", setting=SETTING, problem=error.message
                )
            return False
        except AuthenticatorUnavailable:
            return False
        self._problem = ""
        self._read_at = began
        return True

    async def _read(self) -> bytes:
        if self._authority is None:
            return await asyncio.to_thread(read, Path(self._place), SETTING)
        return await self._authority.ask("GET", self._place)


def _header(token: str) -> tuple[str | None, str]:
    """Return the id of the key and the algorithm that a token names. Raises Unauthenticated for what is no token."""
    try:
        header = jwt.get_unverified_header(token)
    except Exception:  # a library's words about what a stranger wrote go nowhere
        raise Unauthenticated("the token is not a signed JWT") from None
    key_id, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(algorithm, str) or not (key_id is None or isinstance(key_id, str)):
        raise Unauthenticated("the token is not a signed JWT")
    return key_id, algorithm
