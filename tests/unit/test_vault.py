"""The keys of encryption at rest: their file, their command, wrapping, and the sealing of one value."""

from __future__ import annotations

import asyncio
import base64
import os
import shlex
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import limits, vault
from sidecar.config import Config
from sidecar.errors import ConfigInvalid, StoreCorrupt, StoreUnavailable
from sidecar.stores.record import StoredKey
from sidecar.vault import DataKey, KeyCommand, KeyFile, Vault
from tests import keys

OLD, NEW = "old:" + base64.b64encode(b"o" * 32).decode(), "new:" + base64.b64encode(b"n" * 32).decode()
KEY = DataKey(b"i" * 16, b"k" * 32)


async def opened(path: Path, *lines: str) -> Vault:
    """Return a vault of a file with these lines."""
    found = Vault(KeyFile(str(keys.write(path, *lines))))
    await found.open()
    return found


async def made(found: Vault, subject: str = "ana") -> StoredKey:
    """Return a new subject's key as the record store keeps it."""
    key_id, wrapped, wrapping = await found.make("acme", subject)
    return StoredKey(subject=subject, key_id=key_id, wrapped=wrapped, wrapping=wrapping)


def age(found: Vault, seconds: float) -> None:
    """Pretend that the keys were read so long ago."""
    found._read_at = time.monotonic() - seconds


# --- one value -----------------------------------------------------------------------------------------------------


@given(value=st.binary(max_size=200), identity=st.binary(max_size=40))
def test_what_is_sealed_opens_in_its_place_alone(value: bytes, identity: bytes) -> None:
    """A value opens under its key for its row; for another row, or with one bit changed, it does not (P11)."""
    sealed = KEY.seal(value, identity)
    assert vault.is_sealed(sealed)
    assert vault.key_id_of(sealed) == KEY.id
    assert len(sealed) == len(value) + vault.OVERHEAD_BYTES
    assert KEY.open(sealed, identity) == value
    flipped = bytearray(sealed)
    flipped[len(sealed) // 2 + 12] ^= 1
    for wrong, of in ((sealed, identity + b"x"), (bytes(flipped), identity), (sealed[:-1], identity)):
        with pytest.raises(StoreCorrupt):
            KEY.open(wrong, of)
    with pytest.raises(StoreCorrupt):
        DataKey(KEY.id, b"K" * 32).open(sealed, identity)


def test_equal_values_look_different() -> None:
    """Every sealing has a nonce of its own, so that nobody sees who said the same."""
    assert len({KEY.seal(b"yes", b"row") for _ in range(100)}) == 100


def test_what_was_never_sealed_is_told_apart() -> None:
    """No serialised message begins with a zero, and no vector with a scale that is no number."""
    for plain in (b"", b"\x00" * 400, b"\n\x05hello", vault.MAGIC, vault.MAGIC + bytes(vault.OVERHEAD_BYTES - 5)):
        assert not vault.is_sealed(plain)
    assert str(memoryview(vault.MAGIC).cast("f")[0]) == "nan"


def test_other_purposes_have_other_keys() -> None:
    """A derived key has the id of its own, opens nothing of it, and is the same each time."""
    other = KEY.derived("tail s")
    assert other.id == KEY.id
    assert KEY.derived("tail s").open(other.seal(b"x", b""), b"") == b"x"
    with pytest.raises(StoreCorrupt):
        KEY.derived("tail t").open(other.seal(b"x", b""), b"")
    assert KEY.digest(b"x") != DataKey(KEY.id, b"K" * 32).digest(b"x")


# --- the file ------------------------------------------------------------------------------------------------------


async def test_a_file_has_keys_comments_and_empty_lines(tmp_path: Path) -> None:
    """The first key wraps, the others are known, and what begins with # is for people."""
    found = await opened(tmp_path / "keys", "# of this year", "", NEW, f"  {OLD}  ", "#" + vault.new_line())
    assert (found.first, found.ids) == ("new", ("new", "old"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "new\n",
        f"{NEW}\n{NEW}\n",
        "new:" + base64.b64encode(b"n" * 31).decode(),
        "new:" + base64.b64encode(b"n" * 33).decode(),
        "new:" + "=" * 44,
        NEW.replace(":", " "),
        "a b:" + NEW.partition(":")[2],
        "x" * 65 + ":" + NEW.partition(":")[2],
        NEW + "é",
    ],
)
async def test_a_file_that_holds_no_keys(tmp_path: Path, text: str) -> None:
    """Whatever is no list of keys is refused with its line, and no key is quoted."""
    path = keys.write(tmp_path / "keys")
    path.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        await Vault(KeyFile(str(path))).open()
    assert caught.value.field == "encryption_keys_file"
    assert NEW.partition(":")[2][:20] not in caught.value.message


async def test_a_file_that_everybody_can_read(tmp_path: Path) -> None:
    """A key that others can read is no secret; the group's may be how an orchestrator mounts it."""
    path = keys.write(tmp_path / "keys", NEW)
    path.chmod(0o640)
    await Vault(KeyFile(str(path))).open()
    path.chmod(0o604)
    with pytest.raises(ConfigInvalid, match="read by everybody"):
        await Vault(KeyFile(str(path))).open()
    with pytest.raises(ConfigInvalid, match="No such file"):
        await Vault(KeyFile(str(tmp_path / "none"))).open()


async def test_a_file_is_not_read_beyond_its_bound(tmp_path: Path) -> None:
    """Of what is larger than limits.wrapping_keys_bytes no more is read, and it is refused."""
    path = keys.write(tmp_path / "keys", NEW, "#" * (limits.wrapping_keys_bytes - len(NEW) - 1))
    assert path.stat().st_size == limits.wrapping_keys_bytes + 1
    with pytest.raises(ConfigInvalid, match=f"at most {limits.wrapping_keys_bytes} bytes"):
        await Vault(KeyFile(str(path))).open()


def test_a_new_line_is_one() -> None:
    """Each new key is another, under the id that was asked for, which has no odd characters."""
    lines = {vault.new_line() for _ in range(20)}
    assert len(vault.parse("\n".join(lines))) == 20
    assert vault.new_line("2026-11").startswith("2026-11:")
    with pytest.raises(ConfigInvalid):
        vault.new_line("a b")


# --- the command ---------------------------------------------------------------------------------------------------


def python(code: str) -> KeyCommand:
    """Return a command that runs some Python."""
    return KeyCommand(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}")


async def test_a_command_prints_keys() -> None:
    """What a command prints is read as a file is; no shell stands between."""
    found = Vault(python(f"print('{NEW}')"))
    await found.open()
    assert found.ids == ("new",)
    assert (await KeyCommand("echo a $HOME; b").read()).strip() == "a $HOME; b"


async def test_a_command_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A command that fails, is not there or prints nonsense is told as a setting, without what it said."""
    for source, what in (
        (python(f"import sys; print('{NEW}'); print('secret', file=sys.stderr); sys.exit(3)"), "exit code 3"),
        (python("print('secret')"), "line 1 of the encryption keys"),
        (python("print('\\xff')"), "are ASCII"),
        (python(f"print('#' * {limits.wrapping_keys_bytes}); print('#' * 9_000_000)"), "at most"),
        (KeyCommand("/nowhere/at/all"), "cannot be run"),
    ):
        with pytest.raises(ConfigInvalid, match=what) as caught:
            await Vault(source).open()
        assert "secret" not in caught.value.message
    assert "secret" not in caplog.text


async def test_a_command_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command has limits.wrapping_command_ms, and is then killed."""
    monkeypatch.setattr(limits, "wrapping_command_ms", 500)
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(ConfigInvalid, match="within 500 ms"):
        await Vault(python(code)).open()
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


# --- wrapping ------------------------------------------------------------------------------------------------------


async def test_a_key_opens_for_its_subject_alone(tmp_path: Path) -> None:
    """A wrapped key that stands under another tenant, subject or id does not open (P8)."""
    found = await opened(tmp_path / "keys", NEW)
    stored = await made(found)
    key = await found.unwrap("acme", stored)
    assert key.id == stored.key_id
    assert stored.wrapping == "new"
    for tenant, wrong in (
        ("other", stored),
        ("acme", replace(stored, subject="bob")),
        ("acme", replace(stored, key_id=bytes(16))),
        ("acme", replace(stored, wrapped=stored.wrapped[:-1] + b"x")),
        ("acme", replace(stored, wrapped=b"")),
    ):
        with pytest.raises(StoreCorrupt):
            await found.unwrap(tenant, wrong)


async def test_a_key_wrapped_anew_is_the_same_key(tmp_path: Path) -> None:
    """After a rotation what was sealed opens, and the old wrapping key is not needed."""
    before = await opened(tmp_path / "keys", OLD)
    stored = await made(before)
    sealed = (await before.unwrap("acme", stored)).seal(b"hello", b"row")
    both = await opened(tmp_path / "keys", NEW, OLD)
    wrapped, wrapping = await both.rewrap("acme", stored)
    assert wrapping == "new"
    after = await opened(tmp_path / "keys", NEW)
    key = await after.unwrap("acme", replace(stored, wrapped=wrapped, wrapping=wrapping))
    assert key.open(sealed, b"row") == b"hello"
    with pytest.raises(StoreUnavailable) as caught:
        await after.unwrap("acme", stored)
    assert caught.value.metadata == {"encryption_key": "old"}


async def test_another_key_under_the_same_id(tmp_path: Path) -> None:
    """A wrapping key that is not the one that wrapped is told as such."""
    stored = await made(await opened(tmp_path / "keys", NEW))
    wrong = await opened(tmp_path / "keys", "new:" + OLD.partition(":")[2])
    with pytest.raises(StoreCorrupt, match="another encryption key of the same id"):
        await wrong.unwrap("acme", stored)


async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """What is new in the file wraps after limits.wrapping_keys_s at the latest, without a restart."""
    found = await opened(tmp_path / "keys", OLD)
    keys.write(tmp_path / "keys", NEW, OLD)
    age(found, limits.wrapping_keys_s - 5)
    assert (await made(found)).wrapping == "old"
    age(found, limits.wrapping_keys_s)
    assert (await made(found)).wrapping == "new"


async def test_an_unknown_key_is_looked_for(tmp_path: Path) -> None:
    """A key that is not there is looked for at once, but not more than once in limits.wrapping_pause_s."""
    found = await opened(tmp_path / "keys", OLD)
    stored = await made(await opened(tmp_path / "others", NEW))
    with pytest.raises(StoreUnavailable):
        await found.unwrap("acme", stored)
    keys.write(tmp_path / "keys", OLD, NEW)
    with pytest.raises(StoreUnavailable):
        await found.unwrap("acme", stored)
    age(found, limits.wrapping_pause_s)
    assert (await found.unwrap("acme", stored)).id == stored.key_id


async def test_a_file_that_is_gone_for_a_moment(tmp_path: Path) -> None:
    """While the file cannot be read, the keys that were read before go on working."""
    found = await opened(tmp_path / "keys", OLD)
    stored = await made(found)
    (tmp_path / "keys").unlink()
    age(found, limits.wrapping_keys_s)
    assert (await found.unwrap("acme", stored)).id == stored.key_id


async def test_many_calls_read_the_file_once(tmp_path: Path) -> None:
    """However many want a key that is not there, the source is read for all of them."""
    found = await opened(tmp_path / "keys", OLD)
    stored = await made(await opened(tmp_path / "others", NEW))
    reads = 0

    class Counting(KeyFile):
        async def read(self) -> str:
            nonlocal reads
            reads += 1
            return await super().read()

    found._source = Counting(str(keys.write(tmp_path / "keys", OLD, NEW)))
    age(found, limits.wrapping_pause_s)
    await asyncio.gather(*(found.unwrap("acme", stored) for _ in range(20)))
    assert reads == 1


def test_nothing_starts_without_a_word() -> None:
    """Without keys the configuration must say that content is stored in plain text."""
    assert vault.vault_of(Config(plaintext=True)) is None
    assert vault.vault_of(Config(encryption_keys_file="keys")) is not None
    assert vault.vault_of(Config(encryption_keys_command="print-keys")) is not None
    with pytest.raises(ConfigInvalid) as caught:
        vault.vault_of(Config())
    assert caught.value.field == "encryption_keys_file"


def test_the_tests_own_file_is_private() -> None:
    """The tests encrypt with a file as a deployment does."""
    assert stat.S_IMODE(Path(keys.key_file()).stat().st_mode) == 0o600
