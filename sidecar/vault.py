r"""Encryption at rest: the keys, and the sealing of one value.

::

    wrapping key   ──wraps──>   a subject's data key   ──seals──>   bodies, items, vectors, checkpoints, tails
    (a mounted file, or            (32 random bytes; the                 (AES-256-GCM, the row's identity
     what a command prints)         record store keeps it wrapped)        as associated data)

Wrapping keys never reach a store, so a store's files, its backups and its replicas are unreadable without them; and
when a subject is erased its data key goes, so that no copy of what was sealed can be opened again (P11). The first
wrapping key wraps; the others are for what was wrapped before. Their source is read again every
`limits.wrapping_keys_s`, and when a key is asked for that is not among them: rotation takes no restart.

A sealed value says what it is and which key opens it::

    b"\0\1\xff\xff"  key id (16)  nonce (12)  ciphertext and tag (16 more than the plain text)

No value in plain text begins so: a serialised message never begins with a zero, and as a vector's scale the first four
bytes are no number. So what was written before encryption was switched on is told apart, and read as it is. This is the
only file that imports `cryptography`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import os
import re
import secrets
import shlex
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sidecar import canonical, limits
from sidecar.config import Config
from sidecar.errors import ConfigInvalid, StoreCorrupt, StoreUnavailable

MAGIC: Final = b"\x00\x01\xff\xff"
"""What every sealed value begins with; the second byte is the number of its form."""

KEY_ID_BYTES: Final = 16
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = len(MAGIC) + KEY_ID_BYTES
_TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = _HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES
"""How much longer a sealed value is."""

_LINE = re.compile(r"(?P<id>[A-Za-z0-9._-]{1,64}):(?P<key>[A-Za-z0-9+/]{43}=)")
FORM: Final = "one key a line, ID:BASE64 of 32 bytes, as `standpipe keys new` prints it"


def is_sealed(value: bytes) -> bool:
    """Return whether a stored value is sealed."""
    return value.startswith(MAGIC) and len(value) >= OVERHEAD_BYTES


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the data key that a sealed value names."""
    return sealed[len(MAGIC) : _HEAD_BYTES]


class DataKey:
    """A subject's key, unwrapped: it lives in the memory of processes alone."""

    __slots__ = ("_aead", "_raw", "id")

    def __init__(self, key_id: bytes, raw: bytes) -> None:
        self.id = key_id
        self._raw = raw
        self._aead = AESGCM(raw)

    def seal(self, value: bytes, identity: bytes) -> bytes:
        """Return a value sealed for the row of an identity, under a nonce of its own."""
        nonce = os.urandom(_NONCE_BYTES)
        return MAGIC + self.id + nonce + self._aead.encrypt(nonce, value, identity)

    def open(self, sealed: bytes, identity: bytes) -> bytes:
        """Return what was sealed. Raises StoreCorrupt for another row's value, or one that was changed."""
        nonce = sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES]
        try:
            return self._aead.decrypt(nonce, sealed[_HEAD_BYTES + _NONCE_BYTES :], identity)
        except InvalidTag:
            raise StoreCorrupt("a sealed value is not that of its row, or was changed") from None

    def digest(self, value: bytes) -> bytes:
        """Return 32 bytes that tell equal values of the subject, and nothing to whoever lacks the key."""
        return hmac.digest(self._raw, b"digest" + value, "sha256")

    def derived(self, purpose: str) -> DataKey:
        """Return the key for another purpose, under the same id: what it seals does not count for this one."""
        return DataKey(self.id, hmac.digest(self._raw, b"derive" + purpose.encode(), "sha256"))


class Wrapped(Protocol):
    """A subject's data key as it is stored."""

    @property
    def subject(self) -> str:
        """Whose it is."""

    @property
    def key_id(self) -> bytes:
        """Its id."""

    @property
    def wrapped(self) -> bytes:
        """Itself."""

    @property
    def wrapping(self) -> str:
        """The id of the key that wraps it."""


def new_line(key_id: str = "") -> str:
    """Return a new wrapping key, as a line of the file. Raises ConfigInvalid for an id of other characters."""
    line = f"{key_id or 'k' + secrets.token_hex(4)}:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"
    parse(line)
    return line


def parse(text: str) -> dict[str, AESGCM]:
    """Read wrapping keys, the first of which wraps. Raises ConfigInvalid, never with a key in it."""
    keys: dict[str, AESGCM] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        found = _LINE.fullmatch(words)
        if not found:
            raise ConfigInvalid(f"line {number} of the encryption keys is no key: {FORM}", field="encryption_keys_file")
        if found["id"] in keys:
            raise ConfigInvalid(
                f"line {number} of the encryption keys has an id that stands above", field="encryption_keys_file"
            )
        try:
            raw = base64.b64decode(found["key"], validate=True)
        except binascii.Error:  # bits that no 32 bytes have
            raise ConfigInvalid(
                f"line {number} of the encryption keys is no key: {FORM}", field="encryption_keys_file"
            ) from None
        keys[found["id"]] = AESGCM(raw)
    if not keys:
        raise ConfigInvalid(f"there is no encryption key: {FORM}", field="encryption_keys_file")
    return keys


class KeyFile:
    """Wrapping keys in a file that others than its owner and group cannot read.

    Unless it is on a read-only mount, as a Kubernetes Secret is: root owns its files, everybody may read them, and of
    everybody only the containers that the volume is mounted into have them.
    """

    field = "encryption_keys_file"

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    async def read(self) -> str:
        """Return the file's text. Raises ConfigInvalid."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                found, mount = os.fstat(file.fileno()), os.fstatvfs(file.fileno())
                if found.st_mode & stat.S_IROTH and not mount.f_flag & os.ST_RDONLY:
                    raise ConfigInvalid("the file can be read by everybody: chmod o-rwx it", field=self.field)
                raw = file.read(limits.wrapping_keys_bytes + 1)
        except OSError as error:
            raise ConfigInvalid(f"the file cannot be read: {error.strerror}", field=self.field) from None
        return _text(raw, self.field)


class KeyCommand:
    """Wrapping keys that a command prints, such as one that asks a vault of secrets. No shell reads it."""

    field = "encryption_keys_command"

    def __init__(self, command: str) -> None:
        self._command = command

    async def read(self) -> str:
        """Return what the command prints. Raises ConfigInvalid; what it said is never part of an error."""
        try:
            process = await asyncio.create_subprocess_exec(
                *shlex.split(self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise ConfigInvalid(f"the command cannot be run: {error.strerror}", field=self.field) from None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(limits.wrapping_command_ms / 1000):
                raw = b""
                while len(raw) <= limits.wrapping_keys_bytes and (more := await process.stdout.read(1 << 16)):
                    raw += more
                if len(raw) <= limits.wrapping_keys_bytes:
                    await process.wait()
        except TimeoutError:
            raise ConfigInvalid(
                f"the command did not end within {limits.wrapping_command_ms} ms", field=self.field
            ) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()  # reads the pipe to its end, so that the transport is closed
        text = _text(raw, self.field)
        if process.returncode:
            raise ConfigInvalid(f"the command failed with exit code {process.returncode}", field=self.field)
        return text


def _text(raw: bytes, field: str) -> str:
    if len(raw) > limits.wrapping_keys_bytes:
        raise ConfigInvalid(f"encryption keys have at most {limits.wrapping_keys_bytes} bytes", field=field)
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigInvalid(f"encryption keys are ASCII: {FORM}", field=field) from None


class Vault:
    """The wrapping keys, and what they wrap. Shared by every task of the process."""

    def __init__(self, source: KeyFile | KeyCommand) -> None:
        self._source = source
        self._keys: Mapping[str, AESGCM] = {}
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        """Read the keys. Raises ConfigInvalid."""
        self._keys = parse(await self._source.read())
        self._read_at = time.monotonic()

    @property
    def first(self) -> str:
        """The id of the key that wraps."""
        return next(iter(self._keys))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the first first."""
        return tuple(self._keys)

    async def make(self, tenant: str, subject: str) -> tuple[bytes, bytes, str]:
        """Make a data key for a subject; return its id, itself wrapped, and the id of what wraps it."""
        key_id = secrets.token_bytes(KEY_ID_BYTES)
        return (key_id, *await self._wrap(_owned(tenant, subject, key_id), secrets.token_bytes(_KEY_BYTES)))

    async def unwrap(self, tenant: str, stored: Wrapped) -> DataKey:
        """Return a data key. Raises StoreUnavailable without its wrapping key, StoreCorrupt if that is another."""
        return DataKey(stored.key_id, await self._unwrap(tenant, stored))

    async def rewrap(self, tenant: str, stored: Wrapped) -> tuple[bytes, str]:
        """Return the same data key wrapped by the first wrapping key, and its id. Raises as `unwrap` does."""
        return await self._wrap(_owned(tenant, stored.subject, stored.key_id), await self._unwrap(tenant, stored))

    async def _wrap(self, owned: bytes, raw: bytes) -> tuple[bytes, str]:
        await self._refresh(None)
        wrapping, nonce = self.first, os.urandom(_NONCE_BYTES)
        return nonce + self._keys[wrapping].encrypt(nonce, raw, owned), wrapping

    async def _unwrap(self, tenant: str, stored: Wrapped) -> bytes:
        await self._refresh(stored.wrapping)
        key = self._keys.get(stored.wrapping)
        if key is None:
            raise StoreUnavailable(
                "a subject's key is wrapped by an encryption key that is not at hand", encryption_key=stored.wrapping
            )
        nonce, wrapped = stored.wrapped[:_NONCE_BYTES], stored.wrapped[_NONCE_BYTES:]
        try:
            return key.decrypt(nonce, wrapped, _owned(tenant, stored.subject, stored.key_id))
        except (InvalidTag, ValueError):
            raise StoreCorrupt(
                "a subject's key was wrapped by another encryption key of the same id, or was changed",
                encryption_key=stored.wrapping,
            ) from None

    async def _refresh(self, wanted: str | None) -> None:
        """Read the source again if its time has come, or for a key that is not there, soon after the last time at best.

        A source that cannot be read just now leaves what was read before.
        """

        def due() -> bool:
            age_s = time.monotonic() - self._read_at
            missing = wanted is not None and wanted not in self._keys
            return age_s >= (limits.wrapping_pause_s if missing else limits.wrapping_keys_s)

        if due():
            async with self._reading:
                if due():
                    with contextlib.suppress(ConfigInvalid):
                        self._keys = parse(await self._source.read())
                    self._read_at = time.monotonic()


def vault_of(config: Config) -> Vault | None:
    """Return the configured keys, not yet read; None for plain text. Raises ConfigInvalid if neither is asked for."""
    if config.encryption_keys_file:
        return Vault(KeyFile(config.encryption_keys_file))
    if config.encryption_keys_command:
        return Vault(KeyCommand(config.encryption_keys_command))
    if config.plaintext:
        return None
    raise ConfigInvalid(
        "content is encrypted at rest: name the file that `standpipe keys new` was written to, or say plaintext: true",
        field="encryption_keys_file",
    )


def _owned(tenant: str, subject: str, key_id: bytes) -> bytes:
    return canonical.pack(("key", tenant, subject, key_id))
