"""Callers' tokens that a file lists: one, or two while one takes over from the other. They name no caller."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from sidecar.errors import ConfigInvalid, Unauthenticated
from sidecar.mounted import Mounted, follow
from sidecar.telemetry import Telemetry
from sidecar.verifier import Vouched

_TOKEN: Final = re.compile(rb"[!-~]{16,4096}")
_TOKENS_MAX: Final = 2

SETTING: Final = "auth_token_file"


def parse(content: bytes, path: str) -> tuple[bytes, ...]:
    """Return the digests of a file's tokens. Raises ConfigInvalid, which quotes none of them."""
    lines = [line.strip() for line in content.splitlines()]
    tokens = [line for line in lines if line]
    if not 1 <= len(tokens) <= _TOKENS_MAX:
        raise ConfigInvalid(f"{path} must hold one token or two, one a line", field=SETTING)
    for number, line in enumerate(lines, 1):
        if line and not _TOKEN.fullmatch(line):
            raise ConfigInvalid(
                f"{path}, line {number}: a token has 16 to 4096 printable ASCII characters and no blank", field=SETTING
            )
    return tuple(hashlib.sha256(token).digest() for token in tokens)


class TokenFile:
    """A verifier; see `sidecar.verifier`."""

    def __init__(self, path: str, telemetry: Telemetry) -> None:
        self._tokens = Mounted([path], lambda content: parse(content, path), setting=SETTING, telemetry=telemetry)

    @property
    def basis(self) -> object:
        """The digests."""
        return self._tokens.value

    @property
    def away(self) -> bool:
        """Never: it vouches for no longer than it must not ask."""
        return False

    @property
    def count(self) -> int:
        """How many tokens are in force."""
        return len(self._tokens.value)

    async def open(self) -> None:
        """Prepare nothing: the file was read."""

    async def check(self, token: str) -> Vouched:
        """Compare with all, in a time that says nothing about any."""
        digest = hashlib.sha256(token.encode()).digest()
        found = [hmac.compare_digest(digest, one) for one in self._tokens.value]
        if not any(found):
            raise Unauthenticated("the token is not one of this server's")
        return Vouched("")

    async def run(self) -> None:
        """Take the file up anew when it changes."""
        await follow(self._tokens)

    def close(self) -> None:
        """Release nothing."""
