"""Who calls: a bearer token and certificates, from files that are read again when they change.

Kubernetes renews what it mounts by putting another directory behind a link, so a look at a file's inode and time tells,
for some microseconds a call. A token is in no `repr`, no error and no log of this client.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import grpc

__all__ = ["FileInvalid", "TlsFiles", "TokenFile", "tls"]

TOKEN_BYTES_MAX: Final = 64 << 10
"""What is read of a token's file. Real tokens have some 2 KiB, and gRPC's servers take 8 to 16 KiB of metadata."""

_READINGS_MAX: Final = 5
"""Of files that change while they are read; a mount is swapped once a minute at most."""

_TOKEN: Final = re.compile(rb"[!-~]+")

_Stamp: TypeAlias = tuple[tuple[int, ...], ...]


class FileInvalid(ValueError):
    """A file that is missing or does not hold what it must; `field` is the argument that named it."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Secret(str):
    """A text that a traceback which shows variables does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return stars."""
        return "***"


class TokenFile:
    """A file whose first line is a bearer token; a second one, which a server may take as well, is left alone."""

    def __init__(self, path: str) -> None:
        """Read it. Raises FileInvalid."""
        self._path = path
        stamp = _stamp([path])
        self._known = (stamp, _bearer(path))  # one attribute: threads never mix two readings

    def authorization(self, *, anew: bool = False) -> Secret:
        """Return "Bearer ..." of the file as it is now; `anew` reads it even if it looks as it did.

        A file that cannot be read just now leaves the token in force: the server judges it.
        """
        try:
            stamp = _stamp([self._path])
            if anew or stamp != self._known[0]:
                self._known = (stamp, _bearer(self._path))
        except FileInvalid:
            pass
        return self._known[1]


class TlsFiles:
    """The certificates of those whom to trust, and, where a server asks for one, an own certificate with its key."""

    def __init__(self, *, ca_file: str, cert_file: str = "", key_file: str = "") -> None:
        """Read them, all as PEM; `cert_file` and `key_file` come together. Raises FileInvalid."""
        self._ca_file, self._cert_file, self._key_file = ca_file, cert_file, key_file
        self._paths = [path for path in (ca_file, cert_file, key_file) if path]
        self._seen: _Stamp = ()
        self.credentials = self._read()
        """Those of the files as they were when they were last found valid: for a new channel."""

    def renewed(self) -> bool:
        """Look whether the files are others now, and valid: then there are new `credentials`.

        Files that do not fit together just now, since one of them was renewed before the other, are looked at again
        when the other follows; `credentials` stay as they are until then.
        """
        try:
            if _stamp(self._paths) == self._seen:
                return False
            self.credentials = self._read()
        except FileInvalid:
            return False
        return True

    def _read(self) -> grpc.ChannelCredentials:
        """Read all files as they are at one time. Raises FileInvalid."""
        for _ in range(_READINGS_MAX):
            self._seen = _stamp(self._paths)
            try:
                found = self._read_once()
            except FileInvalid:
                if _stamp(self._paths) == self._seen:
                    raise
            else:
                if _stamp(self._paths) == self._seen:
                    return found
        raise FileInvalid("what it names changes while it is read", field="ca_file")

    def _read_once(self) -> grpc.ChannelCredentials:
        try:
            authorities = Path(self._ca_file).read_bytes()
            ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ValueError):  # an SSLError is an OSError
            raise FileInvalid(f"{self._ca_file} must hold certificates, as PEM", field="ca_file") from None
        if not self._cert_file:
            return grpc.ssl_channel_credentials(authorities)
        try:
            chain, key = Path(self._cert_file).read_bytes(), Path(self._key_file).read_bytes()
            pair = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            pair.load_cert_chain(self._cert_file, self._key_file, password="")  # never asks for one
        except (OSError, ValueError):
            text = f"{self._cert_file} and {self._key_file} must be a certificate and its key, as PEM"
            raise FileInvalid(text, field="cert_file") from None
        return grpc.ssl_channel_credentials(authorities, key, chain)


def tls(ca_file: str, cert_file: str, key_file: str) -> TlsFiles | None:
    """Return what to speak TLS with; None, for plaintext, if no file is named. Raises ValueError."""
    if bool(cert_file) != bool(key_file):
        raise ValueError("give both cert_file and key_file, or neither")
    if cert_file and not ca_file:
        raise ValueError("cert_file needs ca_file: whom to trust with it")
    return TlsFiles(ca_file=ca_file, cert_file=cert_file, key_file=key_file) if ca_file else None


def _stamp(paths: Sequence[str]) -> _Stamp:
    """Return what differs once any of the files was replaced or written."""
    found: list[tuple[int, ...]] = []
    for path in paths:
        try:
            about = os.stat(path)  # noqa: PTH116 - once a call, and a Path costs as much again
        except OSError:
            found.append(())
        else:
            found.append((about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(found)


def _bearer(path: str) -> Secret:
    try:
        with Path(path).open("rb") as file:
            lines = file.read(TOKEN_BYTES_MAX + 1).strip().splitlines()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "no path"
        raise FileInvalid(f"{path} cannot be read: {cause}", field="token_file") from None
    token = lines[0].strip() if lines else b""
    if len(token) > TOKEN_BYTES_MAX or not _TOKEN.fullmatch(token):
        text = f"{path} must hold a token: a line of at most {TOKEN_BYTES_MAX} ASCII characters without blanks"
        raise FileInvalid(text, field="token_file")
    return Secret(f"Bearer {token.decode('ascii')}")
