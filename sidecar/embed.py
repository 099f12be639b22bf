"""Texts to vectors on the CPU; the one file that imports onnxruntime.

A text's vector has the same bits whatever else is in flight (P6): one text a run, never padded, never batched.
That is also about twice as fast here as padded batches of mixed length. The bits are those of one release of
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

import numpy as np

from sidecar import limits
from sidecar.embedding import Vector
from sidecar.errors import Internal, ModelInvalid, StandpipeError
from sidecar.model import MODEL_FILES, TOKENIZER_FILE, Model, Precision

PROVIDER = "CPUExecutionProvider"

_SENTENCE_OUTPUTS = ("sentence_vector", "sentence_embedding")


class Embedder:
    """A model loaded on the CPU. `embed_one` may be called from any thread and releases the GIL as it runs."""

    def __init__(self, model: Model, *, precision: Precision = "int8", threads: int = 1) -> None:
        """Verify the model's files, load them and embed a first text.

        `threads` are ONNX Runtime's own, within one run. Raises ModelInvalid for a file that is missing or not of
        its hash, for a graph that does not take token ids or does not answer as `model` says, and if another
        provider than the CPU took the session.
        """
        # Here and not above: a sidecar without an embedder of its own is 30 MB smaller.
        import onnxruntime  # noqa: PLC0415
        import tokenizers  # noqa: PLC0415

        self.model = model
        self.precision = precision
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

    def embed_one(self, text: str) -> Vector:
        """Embed a text as it stands, without a prefix: float32 [dimensions].

        The tokens past the model's `tokens_max` and the characters past `limits.embed_text_chars_max` are not seen;
        a lone surrogate is read as `?`. Raises Internal if the graph answers with anything but finite numbers.
        """
        readable = text[: limits.embed_text_chars_max].encode("utf-8", "replace").decode("utf-8")
        ids = np.array([self._tokenizer.encode(readable).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self._takes_types:
            feed["token_type_ids"] = np.zeros_like(ids)
        answer = self._session.run([self._output], feed)[0][0]
        if self._states:
            answer = answer[0] if self.model.pooling == "cls" else answer.mean(axis=0, dtype=np.float32)
        vector: Vector = np.asarray(answer, np.float32)
        if self.model.normalise and self.model.pooling != "graph":
            vector = vector / np.maximum(np.sqrt(np.sum(vector * vector)), np.float32(1e-12))
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
