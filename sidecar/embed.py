"""Texts to vectors on one device; the one file that imports onnxruntime.

A text's vector has the same bits whatever else is in flight (P6), since nothing that decides them depends on company.
On a CPU a run takes one text, unpadded, which is also about twice as fast as padded batches of mixed length. On a GPU
it takes one of a few fixed shapes, padded with empty rows: a text's shape follows from its own tokens and kind, and the
kernels that run, with the order in which they add, follow from the shape. That this holds is proven at start, with a
text in the first row alone and in other rows among others; a graph that fails there is refused. The bits are those of
one release of ONNX Runtime on one kind of device; between kinds float32 sums differ in the last place, and so what is
computed from vectors is rounded before it ranks anything.

int8 is the default on a CPU. On one thread (13 / 110 / 256 tokens) a run takes 1.3 / 10 / 26 ms, against 4.2 / 26 /
62 ms in float32, and the process with grpc, numpy and o200k_base holds 170 MB with it, against 227. Nothing is lost:
dense search alone recalls as much evidence (LoCoMo, 997 questions, within the first 10 / 30 / 60 turns .509 / .665 /
.758, float32 .504 / .666 / .748).

One thread is the default: a second is quicker only where a processor is idle, and the pod has others to serve. Threads
that wait never spin: with ten others who want two processors, spinning held up the event loop 15 to 80 ms at the 99th
percentile, sleeping 7 to 17. A lower priority for the worker (nice 10) serves nobody: queries wait for it too, 120 ms
and more at the 99th percentile, for 50 to 110. The bits are the same on any number of threads.

ONNX Runtime's memory arena stays on: without it the process is 35 MB larger after texts of mixed length, and long texts
take 6 % more time. On a GPU the arena has a limit, every shape runs at start, and nothing is given back: so what the
process will ever need it holds from then on, and who shares the GPU knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidecar import limits
from sidecar.embedding import Vector
from sidecar.errors import ConfigInvalid, EmbedderUnavailable, Internal, ModelInvalid, StandpipeError
from sidecar.model import MODEL_FILES, TOKENIZER_FILE, Model, Precision

_T = TypeVar("_T")

# ONNX Runtime would send its maker what it runs, under an id that it keeps in the home directory; it asks this before
# anything else, by one name or the other as its release is.
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}

Device = Literal["cpu", "gpu", "auto"]
Tokens = NDArray[np.int32]
"""A text as the model reads it: [n], special tokens included, n <= tokens_max, without padding."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
GPU_MEMORY_BYTES = 2 << 30

_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Tokens that runs are padded to on a GPU, as many as keep what is padded near a fifth; twice the last, and so on, for
models of longer texts."""
_NO_MEMORY = ("smaller than requested bytes", "Failed to allocate memory", "out of memory")
"""What ONNX Runtime and CUDA say when there is not enough."""
_READERS_MAX = 8
"""Threads that tokenise for a GPU, each 10 to 50 texts in a millisecond."""
_SENTENCE_OUTPUTS = ("sentence_vector", "sentence_embedding")
_NEEDED_INPUTS = ("input_ids", "attention_mask")
_OPTIONAL_INPUTS = ("token_type_ids", "key_lengths")
_RUNS_TO_CAPTURE = 3
"""Of each shape at start: one as it is, one that is recorded as a CUDA graph, and one that plays it."""
_NUMPY_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a run is padded to. A text's shape follows from its own tokens and kind, and its bits from its shape."""

    rows: int
    tokens: int


class Embedder:
    """A model loaded on a device. Every method may be called from any thread and releases the GIL as it computes."""

    def __init__(
        self,
        model: Model,
        *,
        precision: Precision = "int8",
        device: Device = "cpu",
        threads: int = 1,
        gpu_memory_bytes: int = GPU_MEMORY_BYTES,
        padded: tuple[int, int] | None = None,
    ) -> None:
        """Verify the model's files, load them and embed a first text; on a GPU, every shape.

        `threads` are ONNX Runtime's own on a CPU, within one run; no more are used than the process has processors.
        `padded` are the tokens of a run of queries and of one of passages: a GPU's default, and what makes a CPU run as
        a GPU does. Raises ConfigInvalid where `device` is gpu and no GPU takes all of it, and ModelInvalid for a file
        that is missing or not of its hash, and for a graph that takes no token ids, does not answer as `model` says,
        answers the same to all texts, or with other bits to a text in company.
        """
        # Here and not above: a sidecar without an embedder of its own is 30 MB smaller.
        import tokenizers  # noqa: PLC0415

        self.model = model
        self.precision = precision
        self.id = f"{model.id}/{precision}"
        """What vectors must have in common to be compared."""
        self.broken = False
        """Whether the device has failed. A GPU's errors last until the process ends, and so it must."""
        path = model.file(MODEL_FILES[precision])
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(model.file(TOKENIZER_FILE)))
        except StandpipeError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise ModelInvalid(f"{model.directory}: cannot be loaded ({type(error).__name__})") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(model.tokens_max)
        self.threads = min(threads, processors())
        self._run_tokens = padded
        self._slots: dict[Shape, _Slot] = {}
        lacking = _lacking() if device != "cpu" else None
        self._thread = _Thread() if padded or (device != "cpu" and not lacking) else None
        if self._thread:
            weakref.finalize(self, self._thread.end)
        try:
            if device != "cpu" and not lacking:
                self._session, lacking = self._on_device(lambda: _on_cuda(path, gpu_memory_bytes))
            if device == "gpu" and lacking:
                raise ConfigInvalid(f"device must be cpu or auto here: {lacking}", field="device")
            if device == "cpu" or lacking:
                if self._thread and not padded:
                    self._thread.end()
                    self._thread = None
                self._session = self._on_device(lambda: _on_cpu(path, self.threads))
        except StandpipeError:
            raise
        except Exception as error:
            raise ModelInvalid(f"{model.directory}: cannot be loaded ({type(error).__name__})") from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider not in (CPU, CUDA):
            raise ModelInvalid(f"the session must run on {CPU} or {CUDA} and runs on {self.provider}")
        self.device: Literal["cpu", "gpu"] = "gpu" if self.provider == CUDA else "cpu"
        self.chosen = f"device is {device}: {self.id} computes on the {self.device.upper()}"
        """Where it computes, and why not on a GPU where one was looked for: a sentence for a log."""
        if lacking:
            self.chosen += f", since {lacking}"
        # Of itself the tokenizer starts a thread for each processor of the node, which the pod shares with others; none
        # keeps a CPU's model busy, and a GPU embeds what several read.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if self.device == "gpu" else "false")
        os.environ.setdefault("RAYON_NUM_THREADS", str(min(_READERS_MAX, processors())))
        if self.device == "gpu" and padded is None:
            self._run_tokens = (limits.embed_query_run_tokens, limits.embed_passage_run_tokens)
        self._inputs = self._check_inputs()
        self._output, self._states = self._choose_output()
        try:
            self.dimensions = self._on_device(self._start)
        except StandpipeError:
            raise
        except Exception as error:
            if self.device == "gpu" and any(words in str(error) for words in _NO_MEMORY):
                message = f"gpu_memory_bytes must be more than {gpu_memory_bytes}, or the GPU must have more to give"
                raise ConfigInvalid(message, field="gpu_memory_bytes") from error
            raise ModelInvalid(f"{path.name}: cannot be run ({type(error).__name__})") from error
        if model.dimensions not in (None, self.dimensions):
            raise ModelInvalid(f"{path.name}: must answer with {model.dimensions} dimensions, not {self.dimensions}")
        if self._run_tokens:
            self._on_device(self._prove)

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Read texts as they stand, without a prefix, each cut to the model's `tokens_max`.

        Characters past `limits.embed_text_chars_max` are not seen either; a lone surrogate is read as `?`.
        """
        readable = [text[: limits.embed_text_chars_max].encode("utf-8", "replace").decode("utf-8") for text in texts]
        # What reads a single text holds the GIL meanwhile, up to 100 ms; this does not, and is quicker besides.
        return [np.array(one.ids, np.int32) for one in self._tokenizer.encode_batch_fast(readable)]

    def shape(self, tokens: int, *, query: bool) -> Shape:
        """Tell the only shape that a text of so many tokens ever runs in, as a query or as a passage."""
        if self._run_tokens is None:
            return Shape(rows=1, tokens=tokens)
        bucket = next(bucket for bucket in self._buckets() if tokens <= bucket)
        return Shape(rows=max(1, self._run_tokens[0 if query else 1] // bucket), tokens=bucket)

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Embed 1 to `shape.rows` texts of this shape in one run: [len(texts), dimensions].

        A row that is not finite comes back as it is: that text alone has failed. What a CPU's run raises goes through;
        a GPU's is EmbedderUnavailable, for good: every shape ran once, so what fails now is the device.
        """
        assert 1 <= len(texts) <= shape.rows
        if self.broken:
            raise EmbedderUnavailable("the GPU failed")
        try:
            return self._on_device(lambda: self._run(texts, shape))
        except Exception as error:
            if self.device == "cpu":
                raise
            self.broken = True
            raise EmbedderUnavailable("the GPU failed") from error

    def embed_one(self, text: str, *, query: bool = True) -> Vector:
        """Embed a text as it stands, without a prefix: float32 [dimensions].

        Raises Internal if the graph answers with anything but finite numbers.
        """
        (tokens,) = self.tokenise([text])
        vector: Vector = self.run([tokens], self.shape(tokens.size, query=query))[0]
        if not np.isfinite(vector).all():
            raise Internal("the embedding model answered with a number that is not finite")
        return vector

    def _on_device(self, function: Callable[[], _T]) -> _T:
        return self._thread.call(function) if self._thread else function()

    def _run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        feed = _feed(texts, shape, self._inputs)
        if self._run_tokens is None:
            answers = self._session.run([self._output], feed)[0]
        else:
            answers = self._slots[shape].run(feed)
        return self._pool(answers[: len(texts)], texts)

    def _pool(self, answers: NDArray[Any], texts: Sequence[Tokens]) -> NDArray[np.float32]:
        """Make vectors of what the graph answered for these texts: what it did not do itself is done row by row."""
        if self._states:
            pooled = (
                states[0] if self.model.pooling == "cls" else states[: text.size].mean(axis=0, dtype=np.float32)
                for states, text in zip(answers, texts, strict=True)
            )
            answers = np.stack([np.asarray(vector, np.float32) for vector in pooled])
        vectors: NDArray[np.float32] = np.asarray(answers, np.float32)
        if self.model.normalise and self.model.pooling != "graph":
            lengths = np.sqrt(np.sum(vectors * vectors, axis=1, keepdims=True))
            vectors = vectors / np.maximum(lengths, np.float32(1e-12))
        return vectors

    def _start(self) -> int:
        """Run what takes the most memory, or every shape; answer with the size of a vector."""
        longest = self._probe(self.model.tokens_max)
        if self._run_tokens is None:
            # The longest run of all grows the arena to where it stays.
            vector = self._run([longest], Shape(rows=1, tokens=longest.size))[0]
            if not np.isfinite(vector).all():
                raise Internal("the embedding model answered with a number that is not finite")
            return int(vector.size)
        alone = Shape(rows=1, tokens=longest.size)
        answer = self._session.run([self._output], _feed([longest], alone, self._inputs), _options(graph=-1))[0]
        shapes = {self.shape(tokens, query=query) for tokens in self._buckets() for query in (True, False)}
        # The largest first, so that those after it find its memory.
        for number, shape in enumerate(
            sorted(shapes, key=lambda one: (one.rows * one.tokens, one.rows), reverse=True), start=1
        ):
            size = (shape.rows, *((shape.tokens,) if self._states else ()), answer.shape[-1])
            slot = _Slot(self._session, self._output, np.empty(size, answer.dtype), graph=number, device=self.device)
            self._slots[shape] = slot
            for _ in range(_RUNS_TO_CAPTURE if self.device == "gpu" else 1):
                slot.run(_feed([longest[: shape.tokens]], shape, self._inputs))
        return int(answer.shape[-1])

    def _prove(self) -> None:
        """Show that a text has the same bits alone in the first row and in other rows among other texts."""
        random = np.random.default_rng(0)
        for shape in sorted(self._slots):
            text = self._probe(shape.tokens)
            others = [self._probe(int(random.integers(1, shape.tokens + 1)), row + 1) for row in range(shape.rows)]
            rows = {0, 1, shape.rows // 2, shape.rows - 1} & set(range(shape.rows))
            alone = self._run([text], shape)[0]
            together = self._run([text if row in rows else others[row] for row in range(shape.rows)], shape)
            if not np.isfinite(alone).all():
                raise Internal("the embedding model answered with a number that is not finite")
            if any(together[row].tobytes() != alone.tobytes() for row in rows):
                raise ModelInvalid(
                    f"{MODEL_FILES[self.precision]}: a text's vector has other bits in company than alone, in runs of"
                    f" {shape.rows} texts of {shape.tokens} tokens on {self.provider}; a graph that quantises as it"
                    " goes, such as int8, is for a CPU"
                )
            strangers = together[sorted(set(range(shape.rows)) - rows)]
            if strangers.size and (strangers == alone).all():
                raise ModelInvalid(f"{MODEL_FILES[self.precision]}: all texts have one vector on {self.provider}")

    def _probe(self, tokens: int, seed: int = 0) -> Tokens:
        """Make a text of so many tokens, any of the vocabulary."""
        words = self._tokenizer.get_vocab_size(with_added_tokens=False)
        return np.random.default_rng(seed).integers(words, size=tokens, dtype=np.int32)

    def _buckets(self) -> list[int]:
        """List the tokens that runs are padded to, up to the longest text."""
        longest, buckets = self.model.tokens_max, list(_BUCKETS)
        while buckets[-1] < longest:
            buckets.append(2 * buckets[-1])
        return [*(bucket for bucket in buckets if bucket < longest), longest]

    def _check_inputs(self) -> Mapping[str, Any]:
        """Name the graph's inputs, each with the type of its numbers."""
        types = {value.name: _NUMPY_TYPES.get(value.type) for value in self._session.get_inputs()}
        if not set(_NEEDED_INPUTS) <= types.keys() <= {*_NEEDED_INPUTS, *_OPTIONAL_INPUTS} or None in types.values():
            raise ModelInvalid(
                f"the graph must take {' and '.join(_NEEDED_INPUTS)}, and may take {' and '.join(_OPTIONAL_INPUTS)}"
            )
        return types

    def _choose_output(self) -> tuple[str, bool]:
        """Name the output to read, and tell whether it has a state for each token, [1, tokens, dimensions].

        Exports often have several. A named sentence vector is preferred, then token states, and only then any
        other: what BERT calls its pooled output is no sentence vector.
        """
        ranks = {value.name: len(value.shape) for value in self._session.get_outputs()}
        vectors = [name for name, rank in ranks.items() if rank == 2]
        states = [name for name, rank in ranks.items() if rank == 3]
        named = [name for name in vectors if name in _SENTENCE_OUTPUTS]
        order = {"graph": named + vectors, "mean": states, "cls": states}
        choice = order.get(self.model.pooling or "", named + states + vectors)
        if not choice:
            raise ModelInvalid("the graph has no output that the model's pooling could be done with")
        return choice[0], choice[0] in states


class _Slot:
    """The memory on the device that one shape's runs read and write, always the same: a CUDA graph knows no other."""

    def __init__(self, session: Any, output: str, answer: NDArray[Any], *, graph: int, device: str) -> None:
        self._session = session
        self._place = "cuda" if device == "gpu" else "cpu"
        self._options = _options(graph=graph)
        self._binding = session.io_binding()
        self._inputs: dict[str, Any] = {}
        self._answer = self._value(answer)
        self._binding.bind_ortvalue_output(output, self._answer)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run what is fed, of this shape, and copy the answer."""
        for name, array in feed.items():
            if name not in self._inputs:
                self._inputs[name] = self._value(array)
                self._binding.bind_ortvalue_input(name, self._inputs[name])
            self._inputs[name].update_inplace(array)
        self._session.run_with_iobinding(self._binding, self._options)
        return np.array(self._answer.numpy())

    def _value(self, like: NDArray[Any]) -> Any:
        from onnxruntime import OrtValue  # noqa: PLC0415

        return OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype.type, self._place, 0)


class _Thread:
    """Runs one call after another on a thread of its own: a CUDA graph belongs to the thread that recorded it."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        # A daemon, so that a run that never ends cannot keep the process from ending.
        threading.Thread(target=_work, args=(self._calls,), name="device", daemon=True).start()

    def call(self, function: Callable[[], _T]) -> _T:
        """Wait for what the function answers or raises."""
        future: Future[_T] = Future()
        self._calls.put((function, future))
        return future.result()

    def end(self) -> None:
        """Let the thread end once what was called is done; it may be told twice."""
        self._calls.put(None)


def _work(calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while (call := calls.get()) is not None:
        function, future = call
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        # What was called knows its embedder, which may end while this waits.
        del call, function, future


def processors(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the processors that this process may use, at least 1: a container's quota is often less than it sees."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_file, period_file in (("cpu.max", "cpu.max"), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            quota = int((root / quota_file).read_text().split()[0])  # "max" without a quota
            period = int((root / period_file).read_text().split()[-1])
            if quota > 0:  # -1 without a quota
                count = min(count, quota // period)
    return max(1, count)


def _feed(texts: Sequence[Tokens], shape: Shape, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Pad texts to their shape. A row without a text has one token, since the mean of none is no number."""
    lengths = np.ones(shape.rows, np.int32)
    lengths[: len(texts)] = [text.size for text in texts]
    seen = np.arange(shape.tokens) < lengths[:, None]
    ids = np.zeros((shape.rows, shape.tokens), np.int32)
    ids[: len(texts)][seen[: len(texts)]] = np.concatenate(texts)
    mask = seen.astype(np.int32)
    feed = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in inputs:
        feed["token_type_ids"] = np.zeros_like(ids)
    if "key_lengths" in inputs:
        begins = np.arange(shape.rows + 1, dtype=np.int32) * np.int32(shape.tokens)
        feed["key_lengths"] = np.concatenate([lengths, begins, begins])
    return {name: array.astype(inputs[name], copy=False) for name, array in feed.items()}


def _options(*, graph: int) -> Any:
    """Make the options of a run that plays this CUDA graph, which a CPU does not look at; -1 for none."""
    from onnxruntime import RunOptions  # noqa: PLC0415

    options = RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def _on_cpu(path: Path, threads: int) -> Any:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that wait for the next run without sleeping are taken from whoever shares the pod.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=[CPU])


def _on_cuda(path: Path, memory_bytes: int) -> tuple[Any, str | None]:
    """Load a graph so that all of it is computed by a GPU, or say why that cannot be."""
    import onnxruntime  # noqa: PLC0415

    # What goes wrong is said here, in the error; ONNX Runtime would print it besides.
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    # Patterns are what each shape's first run allocates, once more and in one piece: three times the memory.
    options.enable_mem_pattern = False
    # Without this a CPU computes whatever a GPU cannot, all of it included, and nobody says so.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    cuda = {
        "device_id": "0",
        "gpu_mem_limit": str(memory_bytes),
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1",
        "use_tf32": "0",  # or fp32 would not be
    }
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[(CUDA, cuda)], enable_fallback=0)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        return None, f"the GPU does not take all of {path.name}: {reason}"
    if session.get_providers()[0] != CUDA:
        return None, f"ONNX Runtime chose {session.get_providers()[0]}"
    return session, None


def _lacking() -> str | None:
    """Say what a GPU lacks to be used; None if that cannot be told without trying."""
    import onnxruntime  # noqa: PLC0415

    if CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime is for CPUs only; standpipe[sidecar-gpu] has the other, in place of standpipe[sidecar]"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver: libcuda.so.1 cannot be loaded"
    count = ctypes.c_int(0)
    if code := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver fails with error {code}"
    if not count.value:
        return "the NVIDIA driver sees no GPU"
    # CUDA's libraries may lie in packages, where no loader looks. What is not found is printed, and shows below.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    # Attention needs cuDNN, be it to do without it.
    for library in (
        str(Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"),
        "libcudnn.so.9",
    ):
        try:
            ctypes.CDLL(library, os.RTLD_LAZY)
        except OSError as error:
            return f"a library of CUDA's cannot be loaded: {error}"
    return None
