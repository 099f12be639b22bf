"""The image as a node runs it: what is in it, whose it is, and that all of it runs with nothing that it may write.

`make image` makes it, or TEST_IMAGE names another. `standpipe:<version>-cuda13` is tested too where it was built.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import tarfile
import tomllib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from standpipe import sync
from standpipe.turn import user
from tests.k8s import tools
from tests.servers import Postgres, Redis, wait_for

VERSION = tomllib.loads((tools.ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGE = os.environ.get("TEST_IMAGE", f"localhost/standpipe:{VERSION}-cpu")
CUDA_IMAGE = f"localhost/standpipe:{VERSION}-cuda13"
LOCKS = tools.ROOT / "k8s" / "image"
SBOM = "usr/share/standpipe/sbom.cdx.json"
USER = 10001
RESTRICTED = (
    *("--network", "none", "--read-only", "--read-only-tmpfs=false"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
)
"""As a restricted pod is, and more: there is no network, and no directory to write to that a test does not name."""
SOCKET = "unix:/run/standpipe/standpipe.sock"

pytestmark = pytest.mark.needs("podman")


@functools.cache
def limits() -> tuple[str, ...]:
    """Give a container the limits that this process has: podman would ask for higher ones."""
    words = []
    for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(kind)[1]
        number = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        words += ["--ulimit", f"{name}={number}:{number}"]
    return tuple(words)


def podman(*words: str | Path, fails: bool = False) -> str:
    """Run podman to its end and return what it wrote to both of its streams."""
    return tools.run(tools.need("podman"), *words, fails=fails)


def standpipe(*words: str | Path, options: Sequence[str | Path] = (), image: str = IMAGE, fails: bool = False) -> str:
    """Run a command of the image, restricted, and return what it wrote."""
    return podman("run", "--rm", *limits(), *RESTRICTED, *options, image, *words, fails=fails)


@dataclass(frozen=True)
class Entry:
    """A file of the image: what a listing says of it, and of some the content."""

    mode: int
    uid: int
    gid: int
    kind: bytes
    sha256: str = ""


@dataclass(frozen=True)
class Content:
    """All of an image's files, by their paths without the leading slash, and its configuration."""

    image: str
    files: dict[str, Entry]
    sbom: dict[str, Any]
    config: dict[str, Any]


@pytest.fixture(scope="module", params=[IMAGE, CUDA_IMAGE], ids=["cpu", "cuda13"])
def content(request: pytest.FixtureRequest) -> Content:
    """Read an image as a container begins with it."""
    image = request.param
    tools.image(image)
    files, sbom = {}, b""
    container = podman("create", *limits(), image).strip().splitlines()[-1]
    try:
        with subprocess.Popen([tools.need("podman"), "export", container], stdout=subprocess.PIPE) as export:
            assert export.stdout
            with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                for member in archive:
                    name, digest = member.name.removeprefix("./"), ""
                    if member.isfile() and (name.startswith("models/") or name == SBOM):
                        file = archive.extractfile(member)
                        assert file
                        data = file.read()
                        digest = hashlib.sha256(data).hexdigest()
                        sbom = data if name == SBOM else sbom
                    files[name] = Entry(stat.S_IMODE(member.mode), member.uid, member.gid, member.type, digest)
            assert not export.stdout.read(1)
        assert export.returncode == 0
    finally:
        podman("rm", container)
    return Content(image, files, json.loads(sbom), json.loads(podman("image", "inspect", image))[0])


# --- what is in it --------------------------------------------------------------------------------------------


def test_the_image_says_what_it_is_and_runs_as_nobody(content: Content) -> None:
    """A user by number, one entry point without arguments, and the labels that registries read."""
    config, labels = content.config["Config"], content.config["Labels"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["standpipe"]
    assert not config.get("Cmd")
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert labels["org.opencontainers.image.version"] == VERSION
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.created"].endswith("Z")


def test_the_image_has_no_shell_and_nothing_that_installs(content: Content) -> None:
    """Whoever gets in finds no shell, no package manager, no downloader and no compiler's headers."""
    unwanted = set(
        "sh bash dash busybox ash env apt dpkg pip pip3 curl wget perl gcc ld ldd tar su login mount".split()
    )
    programs = {
        PurePosixPath(name).name
        for name, entry in content.files.items()
        if entry.kind != tarfile.DIRTYPE and entry.mode & 0o111
    }
    assert not programs & unwanted


def test_no_file_gives_rights_and_none_is_anybodys_to_write(content: Content) -> None:
    """No set-user-id, no file writable to all, and the program's user owns two empty directories and no file."""
    for name, entry in content.files.items():
        if entry.kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            continue
        assert not entry.mode & (stat.S_ISUID | stat.S_ISGID), name
        assert not entry.mode & stat.S_IWOTH or (name.rstrip("/") == "tmp" and entry.mode & stat.S_ISVTX), name
        if entry.kind == tarfile.REGTYPE:
            assert (entry.uid, entry.gid) == (0, 0), name
            assert not entry.mode & stat.S_IWGRP, name
    owned = {name.rstrip("/"): (entry.gid, entry.mode) for name, entry in content.files.items() if entry.uid == USER}
    assert owned == {"var/lib/standpipe": (0, 0o770), "run/standpipe": (0, 0o770)}


def test_all_modules_have_their_bytecode(content: Content) -> None:
    """Nothing is compiled at start, in each container anew: a read-only image would never keep it."""
    sources = {name for name in content.files if re.match(r"(opt/standpipe|usr)/.*\.py$", name)}
    assert len(sources) > 1000
    for name in sources:
        path = PurePosixPath(name)
        assert str(path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc") in content.files, name


# --- the bill of materials -------------------------------------------------------------------------------------


def test_the_bill_of_materials_is_valid(content: Content) -> None:
    """It holds against the schema of CycloneDX 1.6, all of it."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert content.sbom["specVersion"] == "1.6"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(content.sbom)) is None


def test_every_file_belongs_to_one_component(content: Content) -> None:
    """The longest place that fits is one component's, and no component is without a file."""
    places = {
        each["location"].lstrip("/"): component["bom-ref"]
        for component in content.sbom["components"]
        for each in component["evidence"]["occurrences"]
    }
    used = set()
    for name, entry in content.files.items():
        if entry.kind == tarfile.DIRTYPE or name.startswith(("dev/", "proc/", "sys/")):
            continue
        # What podman lays into a container for its own mounts.
        if name in ("etc/hosts", "etc/hostname", "etc/resolv.conf", "run/.containerenv", "etc/mtab"):
            continue
        fitting = [name, *(f"{parent}/" for parent in PurePosixPath(name).parents)]
        owner = next((places[place] for place in fitting if place in places), None)
        assert owner, f"{name} belongs to nothing"
        used.add(owner)
    assert used == {component["bom-ref"] for component in content.sbom["components"]}


def test_every_component_has_a_version_a_licence_and_an_address(content: Content) -> None:
    """Scanners find a package by its address; a lawyer finds the licence. What the lock pins is there, and no more."""
    for component in content.sbom["components"]:
        assert component["version"], component["name"]
        assert component["licenses"], component["name"]
        assert component["purl"].startswith("pkg:"), component["name"]
    variant = content.image.rpartition("-")[2]
    locked = dict(re.findall(r"(?m)^([A-Za-z0-9_.-]+)==([^ ;\\]+)", (LOCKS / f"{variant}.lock").read_text()))
    found = {
        component["purl"].removeprefix("pkg:pypi/").partition("@")[0]: component["version"]
        for component in content.sbom["components"]
        if component["purl"].startswith("pkg:pypi/")
    }
    assert found.pop("standpipe") == VERSION
    assert found == locked


def test_models_are_those_that_were_pinned(content: Content) -> None:
    """The image, the bill of materials and the list in the tree say the same SHA-256 of each file."""
    pinned = {
        f"models/{name}": sha256
        for sha256, name in (line.split() for line in (LOCKS / "models.sha256").read_text().splitlines()[1:])
    }
    there = {name: entry.sha256 for name, entry in content.files.items() if entry.sha256 and name != SBOM}
    assert there.items() <= pinned.items()
    assert len([name for name in there if name.endswith(".onnx")]) == 1
    said = {
        file["name"].lstrip("/"): file["hashes"][0]["content"]
        for component in content.sbom["components"]
        for file in component.get("components", ())
    }
    assert said == there


def test_scanners_find_debians_packages(content: Content) -> None:
    """For each of Debian's packages there is what dpkg knew of it, where scanners of small images look."""
    names = {part["name"] for part in content.sbom["components"] if part["purl"].startswith("pkg:deb/")}
    assert {"libc6", "libssl3", "libsqlite3-0", "ca-certificates"} <= names
    assert {f"var/lib/dpkg/status.d/{name}" for name in names} <= content.files.keys()


# --- that it runs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image() -> str:
    """Return the image for CPUs."""
    tools.image(IMAGE)
    return IMAGE


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory as an emptyDir is: anybody's."""
    tmp_path.chmod(0o755)
    for name in ("run", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    return tmp_path


@contextlib.contextmanager
def serving(shared: Path, *words: str, options: Sequence[str | Path] = (), command: str = "serve") -> Iterator[str]:
    """Run a server of the image, restricted, and yield its container's name once its socket answers."""
    name = f"standpipe-test-{uuid.uuid4().hex[:8]}"
    mounts = (f"--volume={shared}/run:/run/standpipe", f"--volume={shared}/data:/var/lib/standpipe")
    settings = ("--listen", SOCKET) if command != "work" else ()
    podman(
        *("run", "--detach", "--name", name, *limits(), *RESTRICTED, *mounts, *options),
        *(IMAGE, command, *settings, *words),
    )
    try:
        if command != "work":
            wait_for(
                lambda: "started" in podman("logs", name) or _ended(name),
                f"{command} to start",
                seconds=60,
            )
        assert not _ended(name), podman("logs", name)
        yield name
    finally:
        podman("rm", "--force", "--time", "5", name)


def _ended(name: str) -> bool:
    return podman("inspect", "--format", "{{.State.Running}}", name).strip() != "true"


def beside(shared: Path, *words: str, files: Path | None = None, fails: bool = False) -> str:
    """Run a command of the image beside a server, through its socket."""
    mounts = [f"--volume={shared}/run:/run/standpipe"]
    if files:
        mounts.append(f"--volume={files}:/files:ro")
    return standpipe(*words, options=(*mounts, "--env", f"STANDPIPE_TARGET={SOCKET}"), fails=fails)


def test_the_image_knows_its_version(image: str) -> None:
    """With no network, no capability and nothing to write to."""
    assert standpipe("--version").strip() == f"standpipe, version {VERSION}"


@pytest.mark.parametrize("who", [f"{USER}:{USER}", "1000710000:0", f"23456:{USER}"], ids=["own", "openshift", "group"])
def test_it_serves_as_any_user(image: str, shared: Path, who: str) -> None:
    """A cluster may give it any user, of group 0 or of the image's: it hydrates and commits all the same."""
    words = ("--plaintext", "true", "--record", "sqlite:/var/lib/standpipe/record.db")
    with serving(shared, *words, options=("--user", who)), sync.connect(f"unix:{shared}/run/standpipe.sock") as client:
        session = client.session("s1", subject="ana")
        session.commit([user("My bicycle is green.")], mode="append")
        bundle = session.hydrate(query="Which colour has the bicycle?")
        assert "My bicycle is green." in json.dumps(bundle.to_openai())


def test_the_commands_run_beside_a_server(image: str, shared: Path) -> None:
    """What an operator types, through the socket: each of these imports what the server does not."""
    policy, notes = shared / "files" / "policy.yaml", shared / "files" / "notes.md"
    policy.parent.mkdir()
    policy.write_text("policy: short\nbudget:\n  total_tokens: 1000\nsystem: Answer briefly.\n")
    notes.write_text("# Boiler\n\nThe boiler was serviced in May.\n")
    keys = shared / "data" / "keys"
    keys.write_text(
        "\n".join(line for line in standpipe("keys", "new").splitlines() if not line.startswith("#")) + "\n"
    )
    keys.chmod(0o640)
    os.chown(keys, USER, USER)
    record = ("--record", "sqlite:/var/lib/standpipe/record.db")
    settings = (*record, "--encryption-keys-file", "/var/lib/standpipe/keys")
    with serving(shared, *settings):
        said = functools.partial(beside, shared, files=policy.parent)
        assert '"version": 1' in said(
            "commit", "s1", "--subject", "ana", "--user", "The gate sticks.", "--append", "--json"
        )
        assert "The gate sticks." in said("hydrate", "s1", "--query", "gate", "--openai")
        assert "all-MiniLM-L6-v2" in said("info")
        assert said("events", "s1")
        assert said("memory", "ingest", "/files/notes.md")
        assert "boiler" in said("memory", "search", "ana", "boiler")
        assert said("policy", "list")
        assert said("subject", "export", "ana")
        assert said("health")
        assert said("smoke")
    done = standpipe("doctor", *settings, options=(f"--volume={shared}/data:/var/lib/standpipe",))
    assert "failed" not in done
    standpipe("rebuild", *settings, options=(f"--volume={shared}/data:/var/lib/standpipe",))


def test_the_demo_runs_in_the_image(image: str) -> None:
    """It alone asks for a directory for what passes, as any tmpfs is, and says so where there is none."""
    assert "asyncio.run(main())" in standpipe("demo", options=("--tmpfs", "/tmp"))
    assert "TMPDIR names one" in standpipe("demo", fails=True)


def test_an_embedder_serves_and_a_sidecar_uses_it(image: str, shared: Path) -> None:
    """`embed` needs no store and no key; a sidecar that names it loads no model."""
    with serving(shared, command="embed"):
        words = ("--plaintext", "true", "--record", "sqlite:/var/lib/standpipe/record.db")
        other = shared / "other"
        other.mkdir()
        for name in ("run", "data"):
            (other / name).mkdir()
            (other / name).chmod(0o777)
        address = ("--embedder-address", "unix:/embedder/standpipe.sock")
        with (
            serving(other, *words, *address, options=(f"--volume={shared}/run:/embedder",)),
            sync.connect(f"unix:{other}/run/standpipe.sock") as client,
        ):
            client.session("s1", subject="ana").commit([user("Rain on Tuesday.")], mode="append")
            assert "Rain" in json.dumps(client.session("s1").hydrate(query="weather").to_openai())


def test_migrate_and_work_on_postgresql_and_redis(image: str, shared: Path) -> None:
    """The drivers' libraries are all there: the schema is brought up, and orders of a sidecar are worked off."""
    with Postgres() as postgres, Redis(unixsocketperm="777") as redis:
        name = postgres.create_database()
        with postgres.connect(name) as database:
            database.execute("CREATE EXTENSION IF NOT EXISTS vector")
        stores = (f"--volume={postgres.directory}:/postgres", f"--volume={redis.directory}:/redis")
        postgres.directory.chmod(0o755)
        redis.directory.chmod(0o755)
        record = f"postgresql://postgres@/{name}?host=/postgres&port={postgres.port}"
        assert standpipe("migrate", "--record", record, options=stores)
        settings = ("--plaintext", "true", "--record", record, "--hot", "redis+unix:///redis/socket")
        with (
            serving(shared, *settings, "--project", "false", options=stores),
            sync.connect(f"unix:{shared}/run/standpipe.sock") as client,
        ):
            client.session("s1", subject="ana").commit([user("The key is under the mat.")], mode="append")
            assert '"stopped"' in standpipe("work", "--once", *settings, options=stores)
            assert "mat" in json.dumps(client.session("s1").hydrate(query="key").to_openai())


def test_a_model_of_another_byte_is_refused(image: str, shared: Path, content: Content) -> None:
    """What was baked is verified again at start: a changed layer or a mount over it does not embed."""
    container = podman("create", *limits(), image).strip().splitlines()[-1]
    changed = shared / "model.int8.onnx"
    try:
        podman("cp", f"{container}:/models/all-MiniLM-L6-v2/model.int8.onnx", str(changed))
    finally:
        podman("rm", container)
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    changed.chmod(0o644)
    over = f"--volume={changed}:/models/all-MiniLM-L6-v2/model.int8.onnx:ro"
    said = standpipe("embed", options=(over,), fails=True)
    assert "SHA-256 must be" in said


def test_sigterm_ends_it_in_order(image: str, shared: Path) -> None:
    """It is process 1, which has no signal handlers but its own: SIGTERM drains it, and the exit code is 0."""
    words = ("--plaintext", "true", "--record", "sqlite:/var/lib/standpipe/record.db", "--embedder", "none")
    with serving(shared, *words) as name:
        podman("kill", "--signal", "TERM", name)
        wait_for(lambda: _ended(name), "the end", seconds=30)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"
        assert '"stopped"' in podman("logs", name)


def test_without_a_gpu_the_image_for_gpus_refuses_to_use_one() -> None:
    """It says what is missing, and commands that need none run."""
    tools.image(CUDA_IMAGE)
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine may have a GPU")
    said = standpipe("embed", "--device", "gpu", image=CUDA_IMAGE, fails=True)
    assert "there is no NVIDIA driver: libcuda.so.1 cannot be loaded" in said
    assert standpipe("--version", image=CUDA_IMAGE).strip() == f"standpipe, version {VERSION}"
