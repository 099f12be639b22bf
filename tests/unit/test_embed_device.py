"""Fixed shapes, as a GPU runs them: the same bits in any company, proven at start; and what runs where, and why."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sidecar import bert, embed, limits
from sidecar.batching import EmbedQueue
from sidecar.embed import CUDA, Embedder, Shape, Tokens, processors
from sidecar.errors import ConfigInvalid, EmbedderUnavailable, Internal, ModelInvalid
from sidecar.model import Model, Precision
from sidecar.telemetry import Log, Telemetry
from tests import gpu
from tests.small_bert import SMALL, write_bert

PADDED = (64, 256)
"""Padded tokens of a run of queries and of passages: a GPU's rules, at a size that a CPU computes in milliseconds."""
ROOT = Path(__file__).parents[2]
GPU_WHEEL = ROOT / ".cache" / "tools" / "onnxruntime-gpu"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Write a small BERT in every form."""
    return write_bert(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def padded(request: pytest.FixtureRequest, small: Model) -> Embedder:
    """Load it as a GPU would run it, in both precisions that a GPU runs."""
    return Embedder(small, precision=request.param, padded=PADDED)


def texts_of(sizes: list[int], seed: int = 0) -> list[Tokens]:
    """Make texts of so many tokens."""
    random = np.random.default_rng(seed)
    return [random.integers(4, 99, size).astype(np.int32) for size in sizes]


# Shapes


def test_a_shape_follows_from_a_texts_tokens_and_kind(padded: Embedder) -> None:
    """The edges of each bucket, for queries and for passages; the last bucket is the longest text."""
    buckets = [16, 32, 48, 64, 96, 128]
    for shortest, bucket in zip([1, *(bucket + 1 for bucket in buckets)], buckets, strict=False):
        for tokens in (shortest, bucket):
            assert padded.shape(tokens, query=True) == Shape(rows=max(1, 64 // bucket), tokens=bucket)
            assert padded.shape(tokens, query=False) == Shape(rows=256 // bucket, tokens=bucket)


@pytest.mark.parametrize(("longest", "expected"), [(10, 10), (100, 100), (700, 700), (2048, 2048)])
def test_buckets_end_with_the_models_longest_text(tmp_path: Path, longest: int, expected: int) -> None:
    """A model of other lengths than all-MiniLM-L6-v2 has its own last bucket, and none beyond its positions."""
    config = bert.Config(dimensions=16, layers=1, heads=2, positions=longest, epsilon=1e-12)
    used = Embedder(write_bert(tmp_path / "m", config, precisions=["fp32"]), precision="fp32", padded=(1, 1))
    assert used.shape(longest, query=True) == Shape(rows=1, tokens=expected)
    assert used.shape(1, query=True).tokens <= 16
    assert np.isfinite(used.embed_one("a b " * 3000)).all()


def test_a_cpu_runs_each_text_alone_unless_told(small: Model) -> None:
    """By default a text's shape is its own size."""
    used = Embedder(small, precision="fp32")
    assert used.shape(7, query=True) == used.shape(7, query=False) == Shape(rows=1, tokens=7)
    assert (used.device, used.provider, used.chosen) == (
        "cpu",
        "CPUExecutionProvider",
        "device is cpu: small/fp32 computes on the CPU",
    )


# Invariance


@given(data=st.data(), sizes=st.lists(st.integers(1, 128), min_size=1, max_size=12), query=st.booleans())
@settings(max_examples=25, deadline=None)
def test_company_changes_no_bit(padded: Embedder, data: st.DataObject, sizes: list[int], query: bool) -> None:
    """P6: whatever texts share a run, in whatever order, each has the bits that it has alone."""
    by_shape: dict[Shape, list[Tokens]] = {}
    for text in texts_of(sizes, seed=len(sizes)):
        by_shape.setdefault(padded.shape(text.size, query=query), []).append(text)
    for shape, texts in by_shape.items():
        company = data.draw(st.permutations(texts))[: shape.rows]
        for text, vector in zip(company, padded.run(company, shape), strict=True):
            assert vector.tobytes() == padded.run([text], shape)[0].tobytes()


def test_a_thousand_texts_alone_and_in_company(padded: Embedder) -> None:
    """P6: with texts of every length, in random company, not one bit differs."""
    draw = random.Random(5)
    texts = texts_of([draw.choice([1, 3, 9, 16, 17, 40, 80, 128]) for _ in range(1000)])
    alone = [padded.run([text], padded.shape(text.size, query=False))[0].tobytes() for text in texts]
    order = draw.sample(range(1000), 1000)
    differing = 0
    for shape in {padded.shape(text.size, query=False) for text in texts}:
        here = [i for i in order if padded.shape(texts[i].size, query=False) == shape]
        while here:
            count = draw.randint(1, shape.rows)
            company, here = here[:count], here[count:]
            vectors = padded.run([texts[i] for i in company], shape)
            differing += sum(vector.tobytes() != alone[i] for i, vector in zip(company, vectors, strict=True))
    assert differing == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_real_model_in_company(model: Model, exact_embedder: Embedder, precision: Precision) -> None:
    """P6: the same holds for all-MiniLM-L6-v2, whose vectors are those of float32, cosine >= 0.9999 and 0.999."""
    used = Embedder(model, precision=precision, padded=PADDED)
    words = [
        "the boiler was serviced in May",
        "What did she say?",
        "東京都に住んでいます。",
        "a",
        "",
        "naïve café " * 9,
    ]
    tokens = used.tokenise(words)
    for query in (True, False):
        for text, words_of_text in zip(tokens, words, strict=True):
            shape = used.shape(text.size, query=query)
            alone = used.run([text], shape)[0]
            company = [one for one in tokens if used.shape(one.size, query=query) == shape][-shape.rows :]
            for other, vector in zip(company, used.run(company, shape), strict=True):
                assert other is not text or vector.tobytes() == alone.tobytes()
            cosine = float(alone @ exact_embedder.embed_one(words_of_text))
            assert cosine >= (0.9999 if precision == "fp32" else 0.999)


def test_padding_is_no_part_of_a_text(small: Model, padded: Embedder) -> None:
    """A text in a padded run has the vector of the text alone, but for rounding."""
    exact = Embedder(small, precision=padded.precision)
    for text in ("a", "What did she say?", "the boiler was serviced " * 4):
        assert float(padded.embed_one(text) @ exact.embed_one(text)) >= 0.99999


def test_a_run_takes_as_many_texts_as_it_has_rows(padded: Embedder) -> None:
    """One row, all rows, and neither none nor more."""
    shape = padded.shape(16, query=True)
    for count in (1, shape.rows):
        assert padded.run(texts_of([16] * count), shape).shape == (count, 64)
    for count in (0, shape.rows + 1):
        with pytest.raises(AssertionError):
            padded.run(texts_of([16] * count), shape)


def test_answers_are_copies(padded: Embedder) -> None:
    """What one run answered is not overwritten by the next, though both use the same memory on the device."""
    one, other = texts_of([9, 9])
    shape = padded.shape(9, query=True)
    first = padded.run([one], shape)
    kept = first.copy()
    padded.run([other], shape)
    np.testing.assert_array_equal(first, kept)


def test_threads_may_ask_at_once(padded: Embedder) -> None:
    """Runs from several threads come one after another, each with its own answer."""
    texts = texts_of([8, 20, 60, 100], seed=9)
    expected = [padded.run([text], padded.shape(text.size, query=True)).tobytes() for text in texts]
    answers: list[list[bytes]] = [[] for _ in texts]

    def ask(place: int) -> None:
        shape = padded.shape(texts[place].size, query=True)
        answers[place].extend(padded.run([texts[place]], shape).tobytes() for _ in range(20))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[one] * 20 for one in expected]


def test_an_embedder_that_is_let_go_ends_its_thread(small: Model) -> None:
    """The thread of its device does not keep an embedder alive, nor outlive it."""
    before = {thread for thread in threading.enumerate() if thread.name == "device"}
    used = Embedder(small, precision="fp32", padded=(16, 16))
    (thread,) = {thread for thread in threading.enumerate() if thread.name == "device"} - before
    del used
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


# The proof at start


def test_a_graph_that_quantises_as_it_goes_is_refused(small: Model) -> None:
    """int8 takes its scale from the whole run: the proof at start finds that company changes bits."""
    with pytest.raises(ModelInvalid, match=r"model\.int8\.onnx: a text's vector has other bits in company than alone"):
        Embedder(small, precision="int8", padded=PADDED)
    assert Embedder(small, precision="int8").dimensions == 64


def planted(directory: Path, operator: str) -> Model:
    """Write a graph that mixes texts: what the operator makes of the whole run is added to each."""
    table = np.random.default_rng(0).normal(size=(99, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["seen"]),
        helper.make_node(operator, ["seen"], ["all"], axes=[0, 1, 2], keepdims=1),
        helper.make_node("Mul", ["all", "little"], ["some"]),
        helper.make_node("Add", ["seen", "some"], ["states"]),
    ]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.float32([1e-5]), "little")]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "tokens", 4])
    graph = helper.make_graph(nodes, "g", inputs, [output], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_bert(directory, precisions=[])
    onnx.save(made, directory / "model.onnx")
    (directory / "model.yaml").write_text(json.dumps({"id": "planted", "tokens_max": 32}))
    return Model.open(directory)


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMean"])
def test_a_planted_leak_between_texts_is_found(tmp_path: Path, operator: str) -> None:
    """P6: a hundred-thousandth of what stands beside a text is enough to refuse the graph."""
    leaking = planted(tmp_path / "leaking", operator)
    with pytest.raises(ModelInvalid, match="other bits in company"):
        Embedder(leaking, precision="fp32", padded=PADDED)


def test_a_device_that_computes_nothing_is_found(tmp_path: Path) -> None:
    """Vectors that are the same for all texts are equal alone and in company, and no vectors."""
    nothing = planted(tmp_path / "nothing", "ReduceMax")
    made = onnx.load(nothing.directory / "model.onnx")
    for constant in made.graph.initializer:
        constant.CopyFrom(numpy_helper.from_array(np.zeros(tuple(constant.dims), np.float32), constant.name))
    onnx.save(made, nothing.directory / "model.onnx")
    with pytest.raises(ModelInvalid, match="all texts have one vector on CPUExecutionProvider"):
        Embedder(nothing, precision="fp32", padded=PADDED)


def test_numbers_that_are_not_finite_are_found_at_start(tmp_path: Path) -> None:
    """A graph that answers with infinities in fixed shapes is refused as it is elsewhere."""
    write_bert(tmp_path / "m", precisions=["fp32"])
    made = onnx.load(tmp_path / "m" / "model.onnx")
    made.graph.node[-1].op_type = "Add"  # in the place of the division by the length
    for constant in made.graph.initializer:
        if constant.dims == [] and constant.data_type == TensorProto.FLOAT:
            constant.CopyFrom(numpy_helper.from_array(np.float32(np.inf), constant.name))
    onnx.save(made, tmp_path / "m" / "model.onnx")
    with pytest.raises(Internal, match="not finite"):
        Embedder(Model.open(tmp_path / "m"), precision="fp32", padded=PADDED)


# Models of users


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_token_states_are_pooled_in_fixed_shapes(tmp_path: Path, pooling: str, element: int) -> None:
    """An export that answers with a state for each token, in either float, comes to the vector of the text alone."""
    write_bert(tmp_path / "m", precisions=[])
    table = np.random.default_rng(0).normal(size=(99, 8)).astype(np.float32 if element == 1 else np.float16)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    output = helper.make_tensor_value_info("last_hidden_state", element, ["batch", "tokens", 8])
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    graph = helper.make_graph(nodes, "g", inputs, [output], [numpy_helper.from_array(table, "table")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "m" / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text(json.dumps({"id": "theirs", "pooling": pooling, "tokens_max": 64}))
    used = Embedder(Model.open(tmp_path / "m"), precision="fp32", padded=PADDED)
    alone = Embedder(Model.open(tmp_path / "m"), precision="fp32")
    for text in ("a", "another text", "a text of some more characters"):
        assert used.embed_one(text).tobytes() == alone.embed_one(text).tobytes()
        assert used.embed_one(text).dtype == np.float32


def test_a_model_of_many_scripts_and_512_tokens_works(tmp_path: Path) -> None:
    """A user's model with another vocabulary, longer texts and prefixes is used as its card says, on either way."""
    words = ["query", "passage", ":", "猫", "кошка", "قطة", "γάτα", "chat", "고양이", "बिल्ली"]
    config = bert.Config(dimensions=32, layers=1, heads=4, positions=512, epsilon=1e-12)
    card = json.dumps(
        {"id": "theirs", "tokens_max": 512, "pooling": "graph", "query_prefix": "query: ", "cosine_floor": 0.7}
    )
    made = write_bert(tmp_path / "theirs", config, words=words, card=card)
    assert (made.query_prefix, made.passage_prefix, made.cosine_floor) == ("query: ", "", 0.7)
    for precision in ("fp32", "fp16"):
        used = Embedder(made, precision=precision, padded=(512, 1024))
        alone = Embedder(made, precision=precision)
        for text in ("猫 кошка", "قطة γάτα chat 고양이", "बिल्ली " * 700):
            (tokens,) = used.tokenise([text])
            assert 1 not in tokens  # every word is known
            assert float(used.embed_one(text) @ alone.embed_one(text)) >= 0.99999
        assert used.tokenise(["बिल्ली " * 700])[0].size == 512


def test_fp16_that_is_not_there_is_no_fp32_in_silence(tmp_path: Path) -> None:
    """A directory with model.onnx alone says which precision it can be used in, and what adds the other."""
    made = write_bert(tmp_path / "theirs", precisions=["fp32"])
    with pytest.raises(ModelInvalid, match=r"model\.fp16\.onnx: is missing; the setting precision can be fp32 here"):
        Embedder(made, precision="fp16")
    assert Embedder(made, precision="fp32", padded=PADDED).dimensions == 64


# The device


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime is for GPUs")
def test_without_cuda_a_gpu_is_refused_and_auto_says_what_it_chose(small: Model) -> None:
    """The package for CPUs is named as what is lacking; auto computes on the CPU, in the same precision."""
    with pytest.raises(ConfigInvalid, match=r"this onnxruntime is for CPUs only; standpipe\[sidecar-gpu\]") as caught:
        Embedder(small, precision="fp16", device="gpu")
    assert caught.value.field == "device"
    used = Embedder(small, precision="fp16", device="auto")
    assert (used.device, used.id) == ("cpu", "small/fp16")
    assert used.chosen.startswith("device is auto: small/fp16 computes on the CPU, since this onnxruntime is for CPUs")
    assert used.shape(5, query=True) == Shape(rows=1, tokens=5)


@pytest.fixture(scope="module")
def gpu_wheel() -> Path:
    """Return where onnxruntime-gpu lies, which is never installed beside onnxruntime."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("onnxruntime-gpu is for Linux on x86-64")
    if not (GPU_WHEEL / "onnxruntime").is_dir():
        missing = f"no onnxruntime-gpu in {GPU_WHEEL}: `make tools` puts it there"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return GPU_WHEEL


def on_gpu_wheel(wheel: Path, program: str) -> str:
    """Run a program with onnxruntime-gpu in the place of onnxruntime."""
    path = os.pathsep.join([str(wheel), str(ROOT), str(ROOT / "clients" / "python")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_silent_fallback_is_real(gpu_wheel: Path, small: Model) -> None:
    """Asked for CUDA where there is none, ONNX Runtime computes on the CPU and raises nothing."""
    program = f"""
import onnxruntime
assert {CUDA!r} in onnxruntime.get_available_providers()
onnxruntime.set_default_logger_severity(4)
session = onnxruntime.InferenceSession({str(small.directory / "model.onnx")!r}, providers=[{CUDA!r}])
print(session.get_providers())
"""
    assert on_gpu_wheel(gpu_wheel, program).strip() == "['CPUExecutionProvider']"


def test_a_gpu_that_ends_on_the_cpu_refuses_to_start(gpu_wheel: Path, small: Model) -> None:
    """The same package, asked by an embedder: gpu is refused and says what is lacking, auto says what it chose."""
    program = f"""
from pathlib import Path
from sidecar import embed
from sidecar.embed import Embedder
from sidecar.errors import ConfigInvalid
from sidecar.model import Model
model = Model.open(Path({str(small.directory)!r}))
def refused():
    try:
        Embedder(model, precision="fp16", device="gpu")
    except ConfigInvalid as error:
        return error.message
print(refused())
print(Embedder(model, precision="fp16", device="auto").chosen)
embed._lacking = lambda: None  # what is lacking escapes those who look for it: the session itself must tell
print(refused())
print(Embedder(model, precision="fp16", device="auto").chosen)
"""
    lines = on_gpu_wheel(gpu_wheel, program).splitlines()
    assert re.match("device must be cpu or auto here: (there is no NVIDIA driver|the NVIDIA driver)", lines[0])
    assert lines[1].startswith("device is auto: small/fp16 computes on the CPU, since ")
    assert lines[2].startswith("device must be cpu or auto here: the GPU does not take all of model.fp16.onnx")
    assert lines[3].startswith("device is auto: small/fp16 computes on the CPU, since the GPU does not take all")


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime is for GPUs")
def test_the_gpus_own_list_can_be_rehearsed(small: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """What one command goes through on a GPU runs here too, in its shapes; without a GPU the command says so."""
    arguments = ["--models-dir", str(small.directory.parent), "--model", small.directory.name]
    assert gpu.main(arguments) == gpu.LACKING
    assert "Nothing was looked at: device must be cpu or auto here" in capsys.readouterr().out
    assert gpu.main([*arguments, "--rehearse", "--texts", "40"]) == 0
    told = capsys.readouterr().out
    assert told.count("0 of 40 differ") == 2
    assert "NO" not in told


def test_a_run_that_fails_on_a_gpu_breaks_the_embedder(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU fails with lasts: callers hear that there is no embedder, and the process that it must end."""
    used = Embedder(small, precision="fp32", padded=(16, 16))
    (text,) = texts_of([5])
    shape = used.shape(5, query=True)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(used._slots[shape], "run", fail)
    with pytest.raises(RuntimeError):
        used.run([text], shape)
    assert not used.broken
    used.device = "gpu"
    with pytest.raises(EmbedderUnavailable, match="the GPU failed"):
        used.run([text], shape)
    assert used.broken
    monkeypatch.undo()
    with pytest.raises(EmbedderUnavailable):
        used.run([text], shape)


async def test_what_a_gpu_failed_with_is_logged_once(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator reads why the process had to end; callers do not, and nobody's text is in it."""
    used = Embedder(small, precision="fp32", padded=(16, 16))
    used.device = "gpu"

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered" + " and so on" * 99)

    for slot in used._slots.values():
        monkeypatch.setattr(slot, "run", fail)
    written = io.StringIO()
    queue = EmbedQueue(used, telemetry=Telemetry(Log(stream=written)))
    for word in ("secret", "words"):
        with pytest.raises(EmbedderUnavailable) as caught:
            await queue.embed_query(word, deadline_s=5)
        assert "700" not in caught.value.message
    await queue.close()
    (line,) = [json.loads(line) for line in written.getvalue().splitlines()]
    assert (line["level"], line["event"], line["model"]) == ("error", "device failed", "small/fp32")
    assert line["cause"].startswith("CUDA failure 700")
    assert len(line["cause"]) <= 300


def test_each_shape_is_held_from_the_start(small: Model) -> None:
    """Every shape that a text can ask for has its memory before the first text comes."""
    used = Embedder(small, precision="fp32", padded=PADDED)
    shapes = {used.shape(tokens, query=query) for tokens in range(1, SMALL.positions + 1) for query in (True, False)}
    assert set(used._slots) == shapes


def test_a_gpus_runs_are_as_large_as_the_limits_say() -> None:
    """A query waits for at most one run of passages, and shares its own with many."""
    assert limits.embed_query_run_tokens // embed._BUCKETS[0] == 128
    assert limits.embed_passage_run_tokens // embed._BUCKETS[0] == 1024


# Processors


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory in the place of /sys/fs/cgroup, on a node of 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "nonsense"}, 16),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_threads_keep_to_a_containers_quota(quota: Path, files: dict[str, str], expected: int) -> None:
    """Both forms of a cgroup's quota are read, rounded down, and never to none."""
    for name, text in files.items():
        (quota / name).parent.mkdir(exist_ok=True)
        (quota / name).write_text(text)
    assert processors(quota) == expected


def test_no_more_threads_than_processors(small: Model) -> None:
    """A setting that is larger than the container is cut to it."""
    assert Embedder(small, precision="fp32", threads=64).threads == min(64, processors())


def test_onnx_runtime_tells_its_maker_nothing(tmp_path: Path) -> None:
    """Loaded as Standpipe loads it, it keeps no id in the home directory and nothing to send under it."""
    silenced = {"CI", "PYTEST_CURRENT_TEST", "ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"}
    environment = {name: value for name, value in os.environ.items() if name not in silenced}
    command = [sys.executable, "-c", "import sidecar.embed, onnxruntime"]
    done = subprocess.run(command, env={**environment, "HOME": str(tmp_path)}, capture_output=True, check=True)
    assert not list(tmp_path.iterdir())
    assert not done.stderr
