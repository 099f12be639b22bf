"""An embedding model as it lies on disk, in a directory of its own.

::

    all-MiniLM-L6-v2
    ├── model.onnx          float32
    ├── model.fp16.onnx     for a GPU
    ├── model.int8.onnx
    ├── tokenizer.json
    └── model.yaml          what `Model` says, with the SHA-256 of the other four

`sidecar.fetch` makes this one. Any other BERT-like encoder is used by laying its directory there by hand:
`model.onnx` and `tokenizer.json` suffice, and `model.yaml` says what is not as `Model` assumes. For int8 it
needs a `model.int8.onnx` too, and for fp16 a `model.fp16.onnx`: nothing is converted as it is loaded, so that one
file has one vector for a text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import yaml

from sidecar import pinned
from sidecar.errors import ModelInvalid

Precision = Literal["fp32", "fp16", "int8"]
Pooling = Literal["graph", "mean", "cls"]

MODEL_FILES: Mapping[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "model.yaml"

TOKENS_MAX = 256
"""Of one text: what all-MiniLM-L6-v2 was trained on. What stands behind them is not seen."""
CARD_BYTES_MAX = 64 << 10
"""Of a model.yaml. Ours has 400 bytes."""
ID_CHARS_MAX = 128
"""Of a model's id, which is stored beside every vector."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """An embedding model in a directory: what `model.yaml` says, or the defaults where there is none."""

    directory: Path
    id: str
    """Name and hash of the weights: what a stored vector must be compared by, together with the precision."""
    tokens_max: int = TOKENS_MAX
    dimensions: int | None = None
    """None: as many as the graph answers with."""
    pooling: Pooling | None = None
    """How token states become one vector. `graph`: the graph does it, and normalises too. None: by the rank of
    the graph's output, the mean under the mask for 3."""
    normalise: bool = True
    """Whether the vector is divided by its length, unless the graph does it."""
    query_prefix: str = ""
    passage_prefix: str = ""
    cosine_floor: float | None = None
    """Cosine from which an item of a scope has something to say to a query, which differs between models: some find no
    two texts farther apart than 0.7. None: as for all-MiniLM-L6-v2."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file. A file that is not listed is not verified; every listed one must be as listed."""

    @classmethod
    def open(cls, directory: Path) -> Model:
        """Read the model in a directory, the names and types of its `model.yaml` included.

        The files are verified as they are asked for, with `file`: the larger precision need not be hashed to
        use the smaller. Without a `model.yaml` the id is the directory's name and the hash of `model.onnx`.
        Raises ModelInvalid if there is no model, or its card cannot be read.
        """
        if (directory / CARD_FILE).exists():
            return _read_card(directory)
        path = directory / MODEL_FILES["fp32"]
        if not path.is_file():
            raise ModelInvalid(f"{directory}: holds no {path.name}; `standpipe model fetch` makes one")
        with path.open("rb") as file:
            weights_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(directory=directory, id=f"{directory.resolve().name}@{weights_sha256[:12]}")

    def file(self, name: str) -> Path:
        """Answer with the path of a file, verified if its hash is known. Raises ModelInvalid if it is not so."""
        path = self.directory / name
        if name in self.files:
            pinned.verify(path, self.files[name])
        elif not path.is_file():
            raise ModelInvalid(f"{path}: is missing{self._advice(name)}")
        return path

    def _advice(self, name: str) -> str:
        """Say what can be done where a precision is asked for that is not there."""
        there = [precision for precision, file in MODEL_FILES.items() if (self.directory / file).is_file()]
        if name not in MODEL_FILES.values() or not there:
            return ""
        return (
            f"; the setting precision can be {' or '.join(there)} here, and `standpipe model fetch` adds what a release"
            " before did not make of its own model"
        )


def _read_card(directory: Path) -> Model:
    path = directory / CARD_FILE
    try:
        with path.open("rb") as file:
            card: Any = yaml.safe_load(file.read(CARD_BYTES_MAX))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelInvalid(f"{path}: cannot be read as YAML") from error
    if not isinstance(card, dict):
        raise ModelInvalid(f"{path}: must be a mapping")
    for key, value in card.items():
        check = _CARD_CHECKS.get(key)
        if check is None:
            raise ModelInvalid(f"{path}: has a key that is none of {', '.join(_CARD_CHECKS)}")
        if not check[0](value):
            raise ModelInvalid(f"{path}: {key} must be {check[1]}")
    if "id" not in card:
        raise ModelInvalid(f"{path}: id must be given")
    return Model(directory=directory, **card)


def _is_files(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and PurePosixPath(name).name == name
        and isinstance(sha256, str)
        and re.fullmatch("[0-9a-f]{64}", sha256)
        for name, sha256 in value.items()
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_CARD_CHECKS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "id": (
        lambda value: isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX,
        f"1 to {ID_CHARS_MAX} characters",
    ),
    "tokens_max": (_is_count, "a positive integer"),
    "dimensions": (lambda value: value is None or _is_count(value), "a positive integer"),
    "pooling": (lambda value: value in (None, *get_args(Pooling)), "one of graph, mean, cls"),
    "normalise": (lambda value: isinstance(value, bool), "true or false"),
    "query_prefix": (lambda value: isinstance(value, str), "a string"),
    "passage_prefix": (lambda value: isinstance(value, str), "a string"),
    "cosine_floor": (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1,
        "a number from -1 to 1",
    ),
    "files": (_is_files, "a mapping of file names to SHA-256 in hexadecimal"),
}
