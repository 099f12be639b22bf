"""The ONNX graph of a BERT sentence encoder, written from its weights; the one file that imports onnx.

::

    input_ids, attention_mask   int64 [batch, tokens]; int32 in the fp16 form
    key_lengths                 int32 [3 * batch + 2], only in the fp16 form: the tokens of each text, then twice where
                                each one begins in the padded batch, and where the last one ends
    sentence_vector             float32 [batch, dimensions], mean over the mask, of length 1

Only operators of the standard opset stand in the fp32 and int8 forms, so that any execution provider can run them. They
are laid out so that ONNX Runtime fuses them (BiasGelu, FusedMatMul, DynamicQuantizeMatMul): on one CPU thread that is
within 5 % of its own fused Attention operators. Query, key and value are one matrix product, the scale of
the attention is folded into the query's weights, and the token type, which is always 0, into the positions.

The int8 form holds the weights of every linear layer as int8 per output channel and each word's embedding as
int8 with a scale of its own; activations are quantised as they come. The linear weights use 7 of the 8 bits:
processors with AVX2 but no VNNI add two products in 16 bits and would saturate, so that the same text would
have one vector on one pod and another vector on the next (P6).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sidecar.errors import ModelInvalid

GRAPH_VERSION = 1
"""Part of every model's id: raise it with any change that can change a bit of a vector."""

OPSET = 17
"""The first with LayerNormalization; everything newer in ONNX Runtime >= 1.15 reads it."""
IR_VERSION = 8
FUSED = "com.microsoft"
"""The domain of ONNX Runtime's fused operators, which the fp16 form uses."""
HEADER_BYTES_MAX = 1 << 20
"""Of a safetensors file. The header of a BERT is about 10 KB."""
LINEAR_LEVELS = 63
"""Of a linear layer's int8 weights, on either side of zero: 7 bits, see above."""
EMBEDDING_LEVELS = 127
"""Of an embedding's int8 weights: they are only looked up, so that nothing can saturate."""
MASKED = -1e4
"""Added to the attention score of a masked token; small enough for softmax, and fp16 holds it."""

Array = NDArray[Any]
Form = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Config:
    """The shape of a BERT, from the `config.json` that stands beside its weights."""

    dimensions: int
    layers: int
    heads: int
    positions: int
    epsilon: float

    @classmethod
    def parse(cls, text: str | bytes) -> Config:
        """Read a config.json. Raises ModelInvalid for anything but an absolute-position BERT with GELU."""
        try:
            values = json.loads(text)
            plain = values.get("position_embedding_type", "absolute") == "absolute"
            if values["model_type"] != "bert" or values["hidden_act"] != "gelu" or not plain:
                raise ModelInvalid("config.json: must be of model type bert, activation gelu, absolute positions")
            config = cls(
                dimensions=int(values["hidden_size"]),
                layers=int(values["num_hidden_layers"]),
                heads=int(values["num_attention_heads"]),
                positions=int(values["max_position_embeddings"]),
                epsilon=float(values["layer_norm_eps"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelInvalid("config.json: cannot be read as the configuration of a BERT") from error
        return config


def read_safetensors(data: bytes) -> dict[str, Array]:
    """Read the float32 tensors of a safetensors file, as views into `data`. Raises ModelInvalid if malformed."""
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        if header_bytes > HEADER_BYTES_MAX:
            raise ModelInvalid(f"safetensors: the header must have at most {HEADER_BYTES_MAX} bytes")
        tensors: dict[str, Array] = {}
        for name, entry in json.loads(data[8 : 8 + header_bytes]).items():
            if name != "__metadata__" and entry["dtype"] == "F32":
                start, end = entry["data_offsets"]
                chunk = memoryview(data)[8 + header_bytes :][start:end]
                tensors[name] = np.frombuffer(chunk, "<f4").reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelInvalid("safetensors: the file is malformed or truncated") from error
    return tensors


def build(config: Config, weights: dict[str, Array], *, form: Form) -> bytes:
    """Write the graph of a BERT's weights as a serialised ONNX model.

    `weights` has the names of the public checkpoints (`encoder.layer.0.attention.self.query.weight`); an
    outer `bert.` is allowed. Raises ModelInvalid if a tensor is missing or of another shape.
    """
    named = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    try:
        model = _Fused(config, named).model() if form == "fp16" else _Graph(config, named, int8=form == "int8").model()
        onnx.checker.check_model(model, full_check=True)
    except KeyError as error:
        raise ModelInvalid(f"the weights lack the tensor {error.args[0]}") from error
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelInvalid("the weights do not have the shapes that config.json states") from error
    return bytes(model.SerializeToString(deterministic=True))


class _Writer:
    """Nodes and constants as they are written, each under the next free name."""

    def __init__(self, config: Config, weights: dict[str, Array]) -> None:
        self._config = config
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def _finish(self, inputs: dict[str, tuple[int, list[str]]], *, domains: tuple[str, ...] = ()) -> onnx.ModelProto:
        """Close the graph over what was written; each input has an element type and its dimensions."""
        taken = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
        vector: list[str | int] = ["batch", self._config.dimensions]
        output = helper.make_tensor_value_info("sentence_vector", TensorProto.FLOAT, vector)
        graph = helper.make_graph(self._nodes, "sentence_encoder", taken, [output], self._constants)
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="standpipe")

    def _node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        return self._nodes_of(operator, list(inputs), outputs=1, output=output, **attributes)[0]

    def _nodes_of(
        self, operator: str, inputs: list[str], *, outputs: int, output: str | None = None, **attributes: Any
    ) -> list[str]:
        name = output or f"n{len(self._nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def _constant(self, values: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def _scalar(self, value: float) -> str:
        return self._constant(np.float32(value))

    def _integers(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))


class _Graph(_Writer):
    """The fp32 and the int8 form."""

    def __init__(self, config: Config, weights: dict[str, Array], *, int8: bool) -> None:
        super().__init__(config, weights)
        self._int8 = int8

    def model(self) -> onnx.ModelProto:
        config = self._config
        mask = self._node("Cast", "attention_mask", to=TensorProto.FLOAT)
        masked = self._node("Mul", self._node("Sub", self._scalar(1), mask), self._scalar(MASKED))
        score_bias = self._node("Unsqueeze", masked, self._integers(1, 2))  # [batch, 1, 1, tokens]
        states = self._embeddings()
        for layer in range(config.layers):
            states = self._layer(f"encoder.layer.{layer}.", states, score_bias)
        self._sentence_vector(states, mask)
        ids = (TensorProto.INT64, ["batch", "tokens"])
        return self._finish({"input_ids": ids, "attention_mask": ids})

    def _embeddings(self) -> str:
        """[batch, tokens, dimensions] of the token ids."""
        table = self._weights["embeddings.word_embeddings.weight"]
        if self._int8:
            rows, scales = _quantise(table, axis=1, levels=EMBEDDING_LEVELS)
            row = self._node("Gather", self._constant(rows), "input_ids")
            scale = self._node("Gather", self._constant(scales), "input_ids")
            words = self._node("Mul", self._node("Cast", row, to=TensorProto.FLOAT), scale)
        else:
            words = self._node("Gather", self._constant(table), "input_ids")
        positions = self._weights["embeddings.position_embeddings.weight"]
        positions = positions + self._weights["embeddings.token_type_embeddings.weight"][0]
        tokens = self._node("Shape", "input_ids", start=1, end=2)
        zero = self._integers(0)
        places = self._node("Slice", self._constant(positions), zero, tokens, zero)
        return self._normalise(self._node("Add", words, places), "embeddings.LayerNorm")

    def _layer(self, name: str, states: str, score_bias: str) -> str:
        """One encoder layer: [batch, tokens, dimensions] to the same."""
        config, weights = self._config, self._weights
        heads, width = config.heads, config.dimensions // config.heads
        scale = np.float32(1 / math.sqrt(width))
        parts = [(name + f"attention.self.{part}", by) for part, by in (("query", scale), ("key", 1), ("value", 1))]
        weight = np.concatenate([weights[part + ".weight"].T * by for part, by in parts], axis=1)
        bias = np.concatenate([weights[part + ".bias"] * by for part, by in parts])
        joint = self._node("Reshape", self._linear(states, weight, bias), self._integers(0, 0, 3, heads, width))
        joint = self._node("Transpose", joint, perm=[2, 0, 3, 1, 4])  # [3, batch, heads, tokens, width]
        query, key, value = (self._node("Gather", joint, self._constant(np.int64(i)), axis=0) for i in range(3))
        scores = self._node("MatMul", query, self._node("Transpose", key, perm=[0, 1, 3, 2]))
        shares = self._node("Softmax", self._node("Add", scores, score_bias), axis=-1)
        seen = self._node("Transpose", self._node("MatMul", shares, value), perm=[0, 2, 1, 3])
        seen = self._node("Reshape", seen, self._integers(0, 0, config.dimensions))
        attended = self._named_linear(seen, name + "attention.output.dense")
        states = self._normalise(self._node("Add", attended, states), name + "attention.output.LayerNorm")
        wide = self._gelu(self._named_linear(states, name + "intermediate.dense"))
        narrow = self._named_linear(wide, name + "output.dense")
        return self._normalise(self._node("Add", narrow, states), name + "output.LayerNorm")

    def _sentence_vector(self, states: str, mask: str) -> None:
        """Take the mean of the states under the mask, of length 1; the floors are for a mask of zeros."""
        row = self._node("MatMul", self._node("Unsqueeze", mask, self._integers(1)), states)
        total = self._node("Squeeze", row, self._integers(1))
        count = self._node("ReduceSum", mask, self._integers(1), keepdims=1)
        mean = self._node("Div", total, self._node("Clip", count, self._scalar(1e-9)))
        length = self._node("ReduceL2", mean, axes=[1], keepdims=1)
        self._node("Div", mean, self._node("Clip", length, self._scalar(1e-12)), output="sentence_vector")

    def _named_linear(self, values: str, name: str) -> str:
        return self._linear(values, self._weights[name + ".weight"].T, self._weights[name + ".bias"])

    def _linear(self, values: str, weight: Array, bias: Array) -> str:
        """Write values @ weight + bias; weight is [in, out]."""
        if not self._int8:
            return self._node("Add", self._node("MatMul", values, self._constant(weight)), self._constant(bias))
        quantised, scales = _quantise(weight, axis=0, levels=LINEAR_LEVELS)
        rows, row_scale, row_zero = self._nodes_of("DynamicQuantizeLinear", [values], outputs=3)
        zeros = self._constant(np.zeros(weight.shape[1], np.int8))
        product = self._node("MatMulInteger", rows, self._constant(quantised), row_zero, zeros)
        scale = self._node("Mul", row_scale, self._constant(scales[0]))
        product = self._node("Mul", self._node("Cast", product, to=TensorProto.FLOAT), scale)
        return self._node("Add", product, self._constant(bias))

    def _normalise(self, values: str, name: str) -> str:
        scale, bias = (self._constant(self._weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self._node("LayerNormalization", values, scale, bias, axis=-1, epsilon=self._config.epsilon)

    def _gelu(self, values: str) -> str:
        """Write the exact form, with erf, as ONNX Runtime looks for it."""
        erf = self._node("Erf", self._node("Div", values, self._scalar(math.sqrt(2))))
        doubled = self._node("Mul", values, self._node("Add", erf, self._scalar(1)))
        return self._node("Mul", doubled, self._scalar(0.5))


class _Fused(_Writer):
    """The fp16 form."""

    def model(self) -> onnx.ModelProto:
        config = self._config
        states = self._embeddings()
        for layer in range(config.layers):
            states = self._layer(f"encoder.layer.{layer}.", states)
        self._sentence_vector(states)
        ids = (TensorProto.INT32, ["batch", "tokens"])
        lengths = (TensorProto.INT32, ["lengths"])
        return self._finish({"input_ids": ids, "attention_mask": ids, "key_lengths": lengths}, domains=(FUSED,))

    def _embeddings(self) -> str:
        d = self._config.dimensions
        words = self._weights["embeddings.word_embeddings.weight"]
        positions = self._tensor("embeddings.position_embeddings.weight", self._config.positions, d)
        positions = positions + self._weights["embeddings.token_type_embeddings.weight"][0]
        inputs = ["input_ids", "", self._half(words), self._half(positions), "", *self._norm("embeddings.LayerNorm")]
        # Its second output, a mask in another form, must be there, and nothing reads it.
        states, _ = self._nodes_of(
            "EmbedLayerNormalization", inputs, outputs=2, domain=FUSED, epsilon=self._config.epsilon
        )
        return states

    def _layer(self, name: str, states: str) -> str:
        d, parts = self._config.dimensions, [f"{name}attention.self.{part}" for part in ("query", "key", "value")]
        joint = self._half(np.concatenate([self._tensor(part + ".weight", d, d).T for part in parts], axis=1))
        joint_bias = self._half(np.concatenate([self._tensor(part + ".bias", d) for part in parts]))
        inputs = (states, joint, joint_bias, "key_lengths")
        seen = self._node("Attention", *inputs, domain=FUSED, num_heads=self._config.heads)
        states = self._joined(seen, states, name + "attention.output.dense", name + "attention.output.LayerNorm", d)
        bias = self._weights[name + "intermediate.dense.bias"]
        wide = self._product(states, name + "intermediate.dense", bias.size, d)
        wide = self._node("BiasGelu", wide, self._half(bias), domain=FUSED)
        return self._joined(wide, states, name + "output.dense", name + "output.LayerNorm", bias.size)

    def _joined(self, values: str, residue: str, dense: str, norm: str, width: int) -> str:
        """Write the normalised sum of a linear layer, of values of this width, and what goes past it."""
        d = self._config.dimensions
        bias = self._half(self._tensor(dense + ".bias", d))
        inputs = (self._product(values, dense, d, width), residue, *self._norm(norm), bias)
        return self._node("SkipLayerNormalization", *inputs, domain=FUSED, epsilon=self._config.epsilon)

    def _sentence_vector(self, states: str) -> None:
        """Divide the sum of the states under the mask by its length, which a mean's divisor would not change.

        As products of matrices: reductions are left to cuDNN, which need not be there.
        """
        mask = self._node("Unsqueeze", self._node("Cast", "attention_mask", to=TensorProto.FLOAT), self._integers(1))
        total = self._node("MatMul", mask, self._node("Cast", states, to=TensorProto.FLOAT))  # [batch, 1, dimensions]
        square = self._node("MatMul", total, self._node("Transpose", total, perm=[0, 2, 1]))
        length = self._node("Clip", self._node("Sqrt", square), self._scalar(1e-12))
        self._node("Squeeze", self._node("Div", total, length), self._integers(1), output="sentence_vector")

    def _product(self, values: str, name: str, *shape: int) -> str:
        return self._node("MatMul", values, self._half(self._tensor(name + ".weight", *shape).T))

    def _norm(self, name: str) -> list[str]:
        return [self._half(self._tensor(f"{name}.{part}", self._config.dimensions)) for part in ("weight", "bias")]

    def _tensor(self, name: str, *shape: int) -> Array:
        """Take a tensor that must have this shape: what checks ONNX graphs does not know the fused operators."""
        tensor = self._weights[name]
        if tensor.shape != shape:
            raise ValueError(name)
        return tensor

    def _half(self, values: Array) -> str:
        return self._constant(np.asarray(values, np.float16))


def _quantise(weight: Array, *, axis: int, levels: int) -> tuple[Array, Array]:
    """Round to int8, symmetric, one float32 scale per slice along `axis`, which the scales keep with size 1."""
    peaks = np.abs(weight).max(axis=axis, keepdims=True)
    scales = (np.where(peaks > 0, peaks, np.float32(1)) / np.float32(levels)).astype(np.float32)
    return np.rint(weight / scales).astype(np.int8), scales
