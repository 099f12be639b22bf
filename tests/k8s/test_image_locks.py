"""What the images are to hold, without building one: the locks have what is asked for, at what the tests ran with."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.k8s import tools

IMAGE = tools.ROOT / "k8s" / "image"
PROJECT = tomllib.loads((tools.ROOT / "pyproject.toml").read_text())["project"]


def locked(text: str) -> dict[str, str]:
    """Return the releases that a lock pins, by name."""
    return dict(re.findall(r"(?m)^([A-Za-z0-9_.-]+)==([^ ;\\]+)", text))


def asked(extra: str) -> set[str]:
    """Return the names that an extra asks for, those of the project included."""
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]
    names = {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in requirements}
    return names - {"standpipe"} | (asked("sidecar-base") if "standpipe" in names else set())


@pytest.mark.parametrize(("variant", "extra"), [("cpu", "sidecar"), ("cuda13", "sidecar-gpu")])
def test_an_image_holds_all_that_is_asked_for(variant: str, extra: str) -> None:
    """A dependency that is new in pyproject.toml is in the images too, by `make lock`; no host is named."""
    text = (IMAGE / f"{variant}.lock").read_text()
    assert asked(extra) <= locked(text).keys()
    assert "://" not in text


@pytest.mark.parametrize("variant", ["cpu", "cuda13"])
def test_an_image_holds_the_releases_that_the_tests_ran_with(variant: str) -> None:
    """What both locks name, they name at one release."""
    tested = locked((tools.ROOT / ".ci" / "dev.lock").read_text())
    here = locked((IMAGE / f"{variant}.lock").read_text())
    assert {name: here[name] for name in here.keys() & tested.keys()} == {
        name: tested[name] for name in here.keys() & tested.keys()
    }
    assert len(here.keys() & tested.keys()) > 15


def test_every_file_of_a_model_is_pinned() -> None:
    """Every file of a model has its hash in the list that a build is held against."""
    names = {line.split()[1] for line in (IMAGE / "models.sha256").read_text().splitlines()[1:]}
    assert {"all-MiniLM-L6-v2/model.int8.onnx", "all-MiniLM-L6-v2/model.fp16.onnx"} <= names
    assert "all-MiniLM-L6-v2/model.onnx" not in names
