"""The doctor: a healthy deployment has nothing to mend, and each fault is found with what to do about it.

What the engines of servers find stands in `tests/contract`, with the servers.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import namedtuple
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from sidecar import doctor, limits
from sidecar.config import Config
from sidecar.embed import CUDA, Embedder
from sidecar.finding import Finding, Outcome
from sidecar.model import Model
from sidecar.stores import sqlite
from sidecar.stores.sqlite import SqliteRecord
from tests import keys
from tests.certificates import Certificates
from tests.contract.record_suite import turn
from tests.issuer import ISSUER, ApiServer, Issuer

Found = Mapping[tuple[str, str], Finding]


async def examine(**settings: Any) -> Found:
    """Examine a deployment; return what was found by area and check."""
    how = {} if "plaintext" in settings else {"encryption_keys_file": keys.key_file()}
    areas = await doctor.examine(Config(**how, **settings))
    found = {(area, one.check): one for area, findings in areas.items() for one in findings}
    assert all(one.found and "\n" not in one.found for one in found.values())
    assert all(bool(one.advice) == (one.outcome in {Outcome.WARNING, Outcome.FAILED}) for one in found.values())
    return found


def unfit(found: Found) -> list[tuple[str, str]]:
    """Return what is to be mended."""
    return [check for check, one in found.items() if one.advice]


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Make a store with a turn in it."""
    record = SqliteRecord(tmp_path / "record.db")
    await record.open()
    await record.append(turn())
    await record.close()
    return tmp_path / "record.db"


def no_model(path: Path) -> dict[str, Any]:
    """Return settings that name a store and no model."""
    return {"record": f"sqlite:{path}", "embedder": "none"}


async def test_a_healthy_deployment_has_nothing_to_mend(path: Path, models_directory: Path) -> None:
    """Everything is looked at, everything is fine, and the provider is the one that computes."""
    found = await examine(record=f"sqlite:{path}", models_dir=str(models_directory))
    assert unfit(found) == []
    assert {one.outcome for one in found.values()} == {Outcome.OK}
    assert {area for area, _ in found} == {"record store", "encryption", "hot store", "model", "tokenizers"}
    assert "CPUExecutionProvider" in found["model", "embedder"].found
    assert f"{sqlite.SCHEMA}, of this release" in found["record store", "schema"].found


async def test_another_model_than_the_one_that_ranks(path: Path, models_directory: Path) -> None:
    """Settings that give another model than the one that ranks are told so, and how to move."""
    settings = {"record": f"sqlite:{path}", "models_dir": str(models_directory)}
    assert ("model", "ranking") not in await examine(**settings)  # nothing ranks yet
    embedder = Embedder(Model.open(models_directory / "all-MiniLM-L6-v2"))
    record = SqliteRecord(path)
    await record.open()
    await record.serve(embedder.id, instead_of="")
    await record.close()
    found = (await examine(**settings))["model", "ranking"]
    assert (found.outcome, embedder.id in found.found) == (Outcome.OK, True)
    found = (await examine(**settings, precision="fp32"))["model", "ranking"]
    assert (found.outcome, embedder.id in found.found) == (Outcome.WARNING, True)
    assert "embedder_before" in found.advice
    found = (await examine(**settings, precision="fp32", embedder_before="all-MiniLM-L6-v2/int8"))["model", "ranking"]
    assert found.outcome == Outcome.OK


async def test_a_deployment_that_never_started_is_not_made(tmp_path: Path, models_directory: Path) -> None:
    """A store that is not there yet is no fault, and is not there afterwards either."""
    found = await examine(**no_model(tmp_path / "new.db"), models_dir=str(models_directory))
    assert unfit(found) == []
    assert "not there yet" in found["record store", "file"].found
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new.db").touch(mode=0o600)
    found = await examine(**no_model(tmp_path / "new.db"), models_dir=str(models_directory))
    assert "none yet" in found["record store", "schema"].found
    assert (tmp_path / "new.db").stat().st_size == 0


# --- the SQLite file ---------------------------------------------------------------------------------------------


async def record_of(path: Path, check: str) -> Finding:
    """Examine a file; return what was found of one check."""
    return (await examine(**no_model(path)))["record store", check]


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """The directory is named, and nothing is made."""
    found = await record_of(tmp_path / "none" / "record.db", "file")
    assert (found.outcome, str(tmp_path / "none") in found.found) == (Outcome.FAILED, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do anything")
async def test_what_refuses_writes(path: Path) -> None:
    """A file and a directory that the user may not write to are told from each other."""
    path.chmod(0o400)
    assert (await record_of(path, "permissions")).outcome == Outcome.FAILED
    path.parent.chmod(0o500)
    try:
        assert (await record_of(path, "directory")).outcome == Outcome.FAILED
    finally:
        path.parent.chmod(0o700)


async def test_a_file_that_others_may_read(path: Path) -> None:
    """The file holds conversations: the command that closes it is told."""
    path.chmod(0o644)
    found = await record_of(path, "permissions")
    assert (found.outcome, found.advice.startswith(f"chmod 600 {path}")) == (Outcome.WARNING, True)


async def test_a_disk_that_is_nearly_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At disk_free_bytes there is a warning, one byte above there is none."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - as shutil has it
    for free_bytes, outcome in ((limits.disk_free_bytes - 1, Outcome.WARNING), (limits.disk_free_bytes, Outcome.OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free_bytes: usage(0, 0, free))
        assert (await record_of(path, "disk")).outcome == outcome


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (f"PRAGMA user_version = {sqlite.SCHEMA + 1}", "run a newer release"),
        ("PRAGMA application_id = 1", "another application"),
    ],
)
async def test_a_file_of_another_release_or_application(path: Path, statement: str, says: str) -> None:
    """A newer file, and one that is not ours, are refused as a start would refuse them."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
    found = await record_of(path, "file")
    assert (found.outcome, says in found.found) == (Outcome.FAILED, True)


async def test_a_file_of_the_release_before(path: Path) -> None:
    """A start will bring it up to date; the examination does not."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM expansions")
    for _ in range(2):
        assert "the next start" in (await record_of(path, "schema")).found


async def test_a_file_that_is_damaged(path: Path) -> None:
    """Pages of zeros are found; a file that is no database too."""
    with path.open("r+b") as file:
        file.seek(8 << 10)
        file.write(bytes(64 << 10))
    found = await examine(**no_model(path))
    assert [found[check].outcome for check in unfit(found) if check[0] == "record store"] == [Outcome.FAILED]
    path.write_bytes(b"no database at all" * 1000)
    assert "no SQLite database" in (await record_of(path, "file")).found


async def test_a_file_too_large_to_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read in half of examine_ms is said not to have been checked."""
    record = SqliteRecord(path)
    await record.open()
    for _ in range(300):
        await record.append(turn(texts=["word " * 200]))
    await record.close()
    monkeypatch.setattr(limits, "examine_ms", -1000)
    assert [one.outcome for one in await record.examine() if one.check == "pages"] == [Outcome.SKIPPED]


async def test_work_that_is_parked(path: Path) -> None:
    """A work order that nobody tries any more is told, with the command that shows it."""
    record = SqliteRecord(path)
    await record.open()
    for _ in range(limits.work_attempts_max):
        (claim,) = await record.claim(model="m", worker="w", lease_s=60, count_max=1)
        await record.release(claim, reason="INTERNAL")
    await record.close()
    found = await record_of(path, "work")
    assert (found.outcome, found.found.startswith("1 order is parked")) == (Outcome.WARNING, True)
    assert "standpipe parked" in found.advice


# --- addresses ---------------------------------------------------------------------------------------------------


async def test_a_password_is_not_shown(models_directory: Path) -> None:
    """Nothing of what is found holds the password of an address."""
    found = await examine(
        record="postgresql://u:hunter2@127.0.0.1:1/d",
        hot="redis://u:hunter2@127.0.0.1:1",
        embedder="none",
        models_dir=str(models_directory),
    )
    assert {area for area, _ in unfit(found)} == {"record store", "hot store"}
    assert "hunter2" not in repr(found)


# --- models ------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, models_directory: Path) -> Path:
    """Copy the models, for a test to spoil."""
    made = shutil.copytree(models_directory, tmp_path / "models")
    return Path(made)


async def model_of(models: Path, **settings: Any) -> Found:
    """Examine the models of a deployment without anything else."""
    return await examine(record=f"sqlite:{models.parent}/new.db", models_dir=str(models), **settings)


@pytest.mark.parametrize("fault", ["changed", "missing"])
async def test_a_file_of_the_model_is_not_as_pinned(models: Path, fault: str) -> None:
    """A changed file and a missing one are named, with the command that makes them again."""
    file = models / "all-MiniLM-L6-v2" / "model.int8.onnx"
    file.unlink() if fault == "missing" else file.write_bytes(file.read_bytes()[:-1])
    found = await model_of(models)
    assert unfit(found) == [("model", "embedder")]
    assert "model.int8.onnx" in found["model", "embedder"].found
    assert "standpipe model fetch" in found["model", "embedder"].advice


async def test_a_model_without_hashes(models: Path) -> None:
    """A model that is laid there by hand works; that nothing vouches for its files is said."""
    (models / "all-MiniLM-L6-v2" / "model.yaml").unlink()
    found = await model_of(models)
    assert unfit(found) == [("model", "model.int8.onnx"), ("model", "tokenizer.json")]
    assert found["model", "embedder"].outcome == Outcome.OK


async def test_a_model_that_is_moved_away_from(models: Path) -> None:
    """Both models of a move are loaded, each on the device that it would compute on."""
    found = await model_of(models, precision="fp32", embedder_before="all-MiniLM-L6-v2/int8")
    assert unfit(found) == []
    assert found["model", "embedder"].found.startswith("device is cpu: all-MiniLM-L6-v2@")
    assert "/int8 computes on the CPU, 384 dimensions" in found["model", "embedder_before"].found


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime is for GPUs")
async def test_a_gpu_that_is_not_there(models: Path) -> None:
    """A GPU that is asked for and lacking is a fault; where one would only be nice, what computes instead is said."""
    found = await model_of(models, device="gpu")
    assert unfit(found) == [("model", "embedder")]
    assert found["model", "embedder"].advice == "Correct the setting `device`."
    found = await model_of(models, device="auto")
    assert unfit(found) == []
    assert "computes on the CPU, since this onnxruntime is for CPUs only" in found["model", "embedder"].found


async def test_no_model_at_all(models: Path) -> None:
    """A model that is not there is a fault, and none that is asked for is none."""
    assert unfit(await model_of(models, embedder="nothing")) == [("model", "embedder")]
    assert unfit(await model_of(models, embedder="none")) == []


async def test_ranks_that_are_not_as_pinned(models: Path) -> None:
    """Each tokenizer is looked at for itself."""
    (models / "tokenizers" / "cl100k_base.tiktoken").write_bytes(b"IQ== 0\n")
    found = await model_of(models, embedder="none", tokenizers=("o200k_base", "cl100k_base", "unknown"))
    assert unfit(found) == [("tokenizers", "cl100k_base"), ("tokenizers", "unknown")]
    assert "standpipe model ranks" in found["tokenizers", "cl100k_base"].advice


# --- callers -----------------------------------------------------------------------------------------------------


async def callers(tmp_path: Path, **given: Any) -> Found:
    """Examine how callers are known."""
    found = await examine(**no_model(tmp_path / "new.db"), **given)
    return {check: one for check, one in found.items() if check[0] == "callers"}


async def test_how_callers_are_known(tmp_path: Path) -> None:
    """Tokens, keys, tenants, certificates and an API server that are good are said to be so, with how many they are."""
    made, issuer = Certificates.make(tmp_path / "tls"), Issuer("ES256", "RS256")
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("tenants:\n- {tenant: acme, callers: ['system:serviceaccount:acme:*']}\n")
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-callers-1\n")
    assert await callers(tmp_path) == {}
    found = await callers(tmp_path, auth_token_file=str(tokens))
    assert found["callers", "auth_token_file"].found == "tokens: 1"
    jwks = {"auth_jwks": str(issuer.write(tmp_path / "jwks.json")), "auth_issuer": ISSUER}
    tls = {"tls_cert_file": str(made.certificate), "tls_key_file": str(made.key)}
    found = await callers(tmp_path, **jwks, **tls, tls_client_ca_file=str(made.authority), tenants_file=str(tenants))
    assert unfit(found) == []
    assert [one.found for one in found.values()] == [
        "a certificate and its key, and clients'", "entries: 1", "keys: 2"
    ]  # fmt: skip
    with ApiServer(made) as api:
        found = await callers(tmp_path, **api.settings(tmp_path), tenants_file=str(tenants))
        assert unfit(found) == []
        for answer, status in ((None, 403), (b'{"status": 1}', 0)):
            api.answer, api.status = answer, status
            found = await callers(tmp_path, **api.settings(tmp_path), tenants_file=str(tenants))
            assert unfit(found) == [("callers", "auth_review")]
            assert "system:auth-delegator" in found["callers", "auth_review"].advice
        api.answer, api.status = None, 0
        api.accounts["a-token-of-nobody"] = ("anybody", ["standpipe"])
        found = await callers(tmp_path, **api.settings(tmp_path), tenants_file=str(tenants))
        assert unfit(found) == [("callers", "auth_review")]
        https = {
            **api.settings(tmp_path),
            "auth_review": "",
            "auth_jwks": f"{api.url}/openid/v1/jwks",
            "auth_issuer": ISSUER,
        }
        assert unfit(await callers(tmp_path, **https, tenants_file=str(tenants))) == [("callers", "auth_jwks")]
        api.jwks = issuer.jwks()
        found = await callers(tmp_path, **https, tenants_file=str(tenants))
        assert found["callers", "auth_jwks"].found == "keys: 2"


async def test_what_is_wrong_with_how_callers_are_known(tmp_path: Path) -> None:
    """A broken file is named with its setting; nothing that it holds is said."""
    broken = tmp_path / "broken"
    broken.write_text("short")
    found = await callers(tmp_path, auth_token_file=str(broken))
    assert unfit(found) == [("callers", "auth_token_file")]
    assert "short" not in repr(found)
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("tenants:\n- {tenant: acme, callers: ['dns:acme.example']}\n")
    jwks = {"auth_jwks": str(broken), "auth_issuer": ISSUER}
    assert unfit(await callers(tmp_path, **jwks, tenants_file=str(tenants))) == [("callers", "auth_jwks")]
    found = await callers(tmp_path, **jwks, tenants_file=str(broken))
    assert unfit(found) == [("callers", "tenants_file")]
    assert str(broken) in found["callers", "tenants_file"].found
    tls = {"tls_cert_file": str(broken), "tls_key_file": str(broken)}
    assert unfit(await callers(tmp_path, **tls)) == [("callers", "tls_cert_file")]
