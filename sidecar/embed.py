"""Texts to vectors on one device; the one file that imports onnxruntime.

A text's vector has the same bits whatever else is in flight (P6): on a CPU one text a run, never padded, never
batched, which is also about twice as fast as padded batches of mixed length. The bits are those of one release of
ONNX Runtime on one kind of processor; between kinds float32 sums differ in the last place, and so what is
computed from vectors is rounded before it ranks anything.

int8 is the default. On one CPU thread (13 / 110 / 256 tokens) a run takes 1.3 / 10 / 26 ms, against 4.2 / 26 /
62 ms in float32, and the process with grpc, numpy and o200k_base holds 170 MB with it, against 227. Nothing is
lost: dense search alone recalls as much evidence (LoCoMo, 997 questions, within the first 10 / 30 / 60 turns
.509 / .665 / .758, float32 .504 / .666 / .748).

ONNX Runtime's memory arena stays on: without it the process is 35 MB larger after texts of mixed length, and
long texts take 6 % more time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidecar import limits
from sidecar.embedding import Vector
from sidecar.errors import Internal, ModelInvalid, StandpipeError
from sidecar.model import MODEL_FILES, TOKENIZER_FILE, Model, Precision

PROVIDER = "CPUExecutionProvider"

Tokens = NDArray[np.int32]
"""A text as the model reads it: [n], special tokens included, n <= tokens_max, without padding."""

_SENTENCE_OUTPUTS = ("sentence_vector", "sentence_embedding")


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a run is padded to. A text's shape follows from its own tokens and kind, and its bits from its shape."""

    rows: int
    tokens: int


class Embedder:
    """A model loaded on a device. Every method may be called from any thread and releases the GIL as it computes."""

    def __init__(self, model: Model, *, precision: Precision = "int8", threads: int = 1) -> None:
        """Verify the model's files, load them and embed a first text.

        `threads` are ONNX Runtime's own, within one run. Raises ModelInvalid for a file that is missing or not of
        its hash, for a graph that does not take token ids or does not answer as `model` says, and if another
        provider than the CPU took the session.
        """
        # The tokenizer's batches would start a thread for each processor of the node, and the pod has others to serve.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # Here and not above: a sidecar without an embedder of its own is 30 MB smaller.
        import onnxruntime  # noqa: PLC0415
        import tokenizers  # noqa: PLC0415

        self.model = model
        self.precision = precision
        self.device = "cpu"
        self.threads = threads
        self.id = f"{model.id}/{precision}"
        """What vectors must have in common to be compared."""
        path = model.file(MODEL_FILES[precision])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(model.file(TOKENIZER_FILE)))
            self._session = onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER])
        except StandpipeError:
            raise
        # Both libraries raise types of their own, bare Exception among them.
        except Exception as error:
            raise ModelInvalid(f"{model.directory}: cannot be loaded ({type(error).__name__})") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(model.tokens_max)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != PROVIDER:
            raise ModelInvalid(f"the session must run on {PROVIDER} and runs on {self.provider}")
        self._takes_types = self._check_inputs()
        self._output, self._states = self._choose_output()
        try:
            # The longest run of all grows the arena to where it stays.
            self.dimensions = self.embed_one("warm " * model.tokens_max).size
        except StandpipeError:
            raise
        except Exception as error:
            raise ModelInvalid(f"{path.name}: cannot be run ({type(error).__name__})") from error
        if model.dimensions not in (None, self.dimensions):
            raise ModelInvalid(f"{path.name}: must answer with {model.dimensions} dimensions, not {self.dimensions}")

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Read texts as they stand, without a prefix, each cut to the model's `tokens_max`.

        Characters past `limits.embed_text_chars_max` are not seen either; a lone surrogate is read as `?`.
        """
        readable = [text[: limits.embed_text_chars_max].encode("utf-8", "replace").decode("utf-8") for text in texts]
        # What reads a single text holds the GIL meanwhile, up to 100 ms; this does not, and is quicker besides.
        return [np.array(one.ids, np.int32) for one in self._tokenizer.encode_batch_fast(readable)]

    def shape(self, tokens: int, *, query: bool) -> Shape:  # noqa: ARG002 - a GPU runs the two in different shapes
        """Tell the only shape that a text of so many tokens ever runs in, as a query or as a passage."""
        return Shape(rows=1, tokens=tokens)

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Embed 1 to `shape.rows` texts of this shape in one run: [len(texts), dimensions].

        A row that is not finite comes back as it is: the text alone has failed. What the runtime raises goes through.
        """
        assert 1 <= len(texts) <= shape.rows
        ids = np.zeros((shape.rows, shape.tokens), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : text.size] = text
            mask[row, : text.size] = 1
        feed = {"input_ids": ids, "attention_mask": mask}
        if self._takes_types:
            feed["token_type_ids"] = np.zeros_like(ids)
        answers: NDArray[np.float32] = self._session.run([self._output], feed)[0][: len(texts)]
        if self._states:
            pooled = (
                states[0] if self.model.pooling == "cls" else states[: text.size].mean(axis=0, dtype=np.float32)
                for states, text in zip(answers, texts, strict=True)
            )
            answers = np.stack([np.asarray(vector, np.float32) for vector in pooled])
        vectors = np.asarray(answers, np.float32)
        if self.model.normalise and self.model.pooling != "graph":
            lengths = np.sqrt(np.sum(vectors * vectors, axis=1, keepdims=True))
            vectors = vectors / np.maximum(lengths, np.float32(1e-12))
        return vectors

    def embed_one(self, text: str, *, query: bool = True) -> Vector:
        """Embed a text as it stands, without a prefix: float32 [dimensions].

        Raises Internal if the graph answers with anything but finite numbers.
        """
        (tokens,) = self.tokenise([text])
        vector: Vector = self.run([tokens], self.shape(tokens.size, query=query))[0]
        if not np.isfinite(vector).all():
            raise Internal("the embedding model answered with a number that is not finite")
        return vector

    def _check_inputs(self) -> bool:
        """Tell whether the graph takes token types, which are all zero."""
        names = {value.name for value in self._session.get_inputs()}
        needed, optional = {"input_ids", "attention_mask"}, {"token_type_ids"}
        if not needed <= names <= needed | optional:
            raise ModelInvalid("the graph must take input_ids and attention_mask, and may take token_type_ids")
        return "token_type_ids" in names

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
