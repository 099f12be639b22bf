"""The package as others install it: what is in it, how little it brings, its types, and the oldest libraries."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.double import Double, Fault, served
from tests.clients.languages import Driver, DriverError, Language

ROOT = Path(__file__).parents[3]
OLDEST = ("grpcio==1.62.0", "protobuf==4.25.0", "googleapis-common-protos==1.63.0")
"""The least that pyproject.toml asks for: `test_the_oldest_libraries_are_those_that_are_asked_for`."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("error")]

USES = """
import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, assert_type

import standpipe
from standpipe import Bundle, Commit, assistant, errors, sync, tool_call, tool_result, user


async def answer(bundle: Bundle) -> str:
    assert_type(bundle.version, int)
    assert_type(bundle.to_openai(), list[dict[str, Any]])
    assert_type(bundle.to_anthropic("q"), dict[str, Any])
    return bundle.text


async def main() -> None:
    async with standpipe.connect("unix:/nowhere", tenant="acme", deadline_ms=100) as client:
        assert_type(client, standpipe.Client)
        session = client.session("s", subject="anna")
        bundle = await session.hydrate("q", budget_tokens=5, include=["history"], caps={"recall": 3})
        assert_type(bundle, Bundle)
        done = await session.commit([user("Hi"), tool_call("c", "f", {"a": 1}), tool_result("c", "2")], bundle=bundle)
        assert_type(done, Commit)
        assert_type((await session.turn("q", answer)).commit.token, str)
        async for event in session.events():
            print(event)
        try:
            await session.end()
        except errors.Conflict as error:
            assert_type(error.current_version, int | None)
            assert_type(error.field, str | None)
            assert_type(error.metadata, dict[str, str])
    with sync.connect() as blocking:
        assert_type(blocking.session("s").hydrate("q"), Bundle)
        assert_type(blocking.session("s").commit(assistant("Ho"), mode="append"), Commit)


asyncio.run(main())
"""
MISUSES = {
    "text is no entry": 's.commit("Hi")',
    "an unknown mode": 's.commit(standpipe.user("Hi"), mode="perhaps")',
    "an unknown source": 's.hydrate("q", include=["histroy"])',
    "a deadline that is a text": 's.hydrate("q", deadline_ms="5")',
    "an option that does not exist": 's.hydrate("q", budget=5)',
    "a result that is a coroutine": "len(standpipe.connect().session('s').hydrate().text)",
}


ALONE = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}}
"""An environment in which this tree is not found."""


def build(source: Path, kind: str, place: Path) -> Path:
    """Build the package from a tree by its own backend, as pip does."""
    place.mkdir(exist_ok=True)
    code = f"import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, place], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return place / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the wheel and the sdist of this tree, without what lies around in it."""
    place = tmp_path_factory.mktemp("package")
    tree = place / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return build(tree, "wheel", place / "wheel"), build(tree, "sdist", place / "sdist")


@pytest.fixture(scope="module")
def light(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the Python of a virtual environment with the wheel and the oldest libraries, and nothing else."""
    place = tmp_path_factory.mktemp("light")
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, str(built[0]), *OLDEST], env=ALONE, check=True)
    yield python
    shutil.rmtree(place)


def run(python: Path, code: str) -> str:
    """Run code in a virtual environment, with warnings as errors; return what it printed."""
    command = [python, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd="/", env=ALONE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.needs("pip")
def test_what_the_wheel_and_the_sdist_hold(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Every module of both packages, the types, SQL and Lua; no test; and the sdist makes the same wheel."""
    wheel, sdist = built
    names = set(zipfile.ZipFile(wheel).namelist())
    trees = {ROOT / "clients" / "python" / "standpipe": "standpipe", ROOT / "sidecar": "sidecar"}
    wanted = {
        f"{package}/{path.relative_to(tree)}"
        for tree, package in trees.items()
        for path in tree.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and (path.suffix != ".pyi" or package == "standpipe")
    }
    assert wanted - names == set()
    assert {"standpipe/py.typed", "standpipe/v1/context_pb2.pyi"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"standpipe", "sidecar"}
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = set(zipfile.ZipFile(build(unpacked, "wheel", tmp_path / "wheel")).namelist())
    assert again == names


def test_the_oldest_libraries_are_those_that_are_asked_for() -> None:
    """What is tried out below is the least that the package's metadata lets an installer choose."""
    asked = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0]
    for one in OLDEST:
        name, _, version = one.partition("==")
        assert f'"{name}>={version.removesuffix(".0")},' in asked


def test_the_clients_lock_has_what_the_tests_have_and_the_frameworks_tests_are_of_its_versions() -> None:
    """What `make test-clients` installs changes nothing that `make setup` has installed."""
    pinned = {
        name: dict(re.findall(r"(?m)^([a-z0-9._-]+)==([^ \n]+)", (ROOT / ".ci" / f"{name}.lock").read_text()))
        for name in ("dev", "clients", "framework-tests")
    }
    assert pinned["dev"].items() <= pinned["clients"].items()
    assert pinned["framework-tests"].items() <= pinned["clients"].items()
    assert set(pinned["framework-tests"]) == {"langgraph-checkpoint", "openai-agents"}


@pytest.mark.needs("pip")
def test_the_oldest_libraries_import_every_stub(light: Path) -> None:
    """All generated modules import on the oldest protobuf and grpcio, without a warning."""
    code = """
import importlib, pkgutil, google.protobuf, grpc, standpipe, standpipe.sync, standpipe.v1
names = [one.name for one in pkgutil.iter_modules(standpipe.v1.__path__)]
for name in names:
    importlib.import_module(f"standpipe.v1.{name}")
print(google.protobuf.__version__, grpc.__version__, len(names))
"""
    protobuf, grpc, count = run(light, code).split()
    assert (protobuf, grpc) == ("4.25.0", "1.62.0")
    assert int(count) == len(list((ROOT / "clients" / "python" / "standpipe" / "v1").glob("*_pb2*.py")))


@pytest.mark.needs("pip")
def test_the_client_brings_nothing_of_the_server(light: Path) -> None:
    """Beside pip's own, an installation has grpcio, protobuf and googleapis' protos, and the client imports no more."""
    code = """
import sys, importlib.metadata as m
before = set(sys.modules)
import standpipe, standpipe.sync
loaded = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted({one.name.lower() for one in m.distributions()} - {"pip", "setuptools", "wheel"}))
print(*sorted(loaded))
"""
    installed, loaded = run(light, code).splitlines()
    assert installed.split() == ["googleapis-common-protos", "grpcio", "protobuf", "standpipe"]
    assert {name for name in loaded.split() if "cython" not in name} == {"google", "grpc", "standpipe"}


@pytest.mark.needs("pip")
async def test_the_oldest_libraries_call(light: Path, directory: Path) -> None:
    """A hydrate, a commit, an error with details and a retry go through the oldest libraries as through today's."""
    double = Double()
    language = Language("oldest", directory=ROOT, start=(str(light), "tests/clients/python/driver.py"))
    async with served(double, f"unix:{directory}/s.sock") as target:
        with Driver(language) as driver:
            await asyncio.to_thread(driver, "connect", target=target)
            double.plan("HydrateContext", Fault("UNAVAILABLE"))
            found = await asyncio.to_thread(driver, "hydrate", session="s", subject="anna", query="Olá 📎")
            assert found["openai"] == [{"role": "user", "content": "Olá 📎"}]
            entries = [{"message": {"role": "ROLE_USER", "text": "Olá 📎"}}]
            done = await asyncio.to_thread(driver, "commit", session="s", entries=entries, from_bundle=True)
            assert done["version"] == 1
            with pytest.raises(DriverError) as caught:
                await asyncio.to_thread(driver, "commit", session="s", entries=entries, expected_version=0)
            assert caught.value.error["reason"] == "VERSION_CONFLICT"
    assert len(double.asked("HydrateContext")) == 2


@pytest.mark.needs("pip")
def test_types_reach_who_installs_the_package(light: Path, tmp_path: Path) -> None:
    """A strict program against the installed package passes, and each misuse is found."""
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-grpc.*,google.*]\nignore_missing_imports = true\n")
    start = "import standpipe\n\n\nasync def f(s: standpipe.Session) -> None:\n    "
    programs = {"uses": USES, **{f"misuse_{at}": start + line for at, line in enumerate(MISUSES.values())}}
    for name, code in programs.items():
        (tmp_path / f"{name}.py").write_text(code + "\n")
    command = [sys.executable, "-m", "mypy", "--python-executable", light, *(f"{name}.py" for name in programs)]
    said = subprocess.run(command, cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=False).stdout
    wrong = {line.partition(":")[0] for line in said.splitlines() if ": error:" in line}
    assert "not-found" not in said, said
    assert wrong == {f"{name}.py" for name in programs} - {"uses.py"}, said
