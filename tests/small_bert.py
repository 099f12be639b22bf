"""Small BERTs with random weights, for tests that need a model of their own: other sizes and tokenizers, every form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from sidecar import bert
from sidecar.model import MODEL_FILES, Model, Precision

SMALL = bert.Config(dimensions=64, layers=2, heads=4, positions=128, epsilon=1e-12)


def random_weights(
    config: bert.Config, *, words: int = 30_522, wide: int = 256, spread: float = 1.0, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Make float32 weights of a BERT under the names of the public checkpoints, normal and of this deviation."""
    random = np.random.default_rng(seed)
    d = config.dimensions
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, d),
        "embeddings.position_embeddings.weight": (config.positions, d),
        "embeddings.token_type_embeddings.weight": (2, d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
    for layer in range(config.layers):
        name = f"encoder.layer.{layer}."
        for part, size in {
            "attention.self.query": (d, d),
            "attention.self.key": (d, d),
            "attention.self.value": (d, d),
            "attention.output.dense": (d, d),
            "intermediate.dense": (wide, d),
            "output.dense": (d, wide),
        }.items():
            shapes |= {f"{name}{part}.weight": size, f"{name}{part}.bias": size[:1]}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{name}{part}.weight": (d,), f"{name}{part}.bias": (d,)}
    return {name: (spread * random.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def write_bert(
    directory: Path,
    config: bert.Config = SMALL,
    *,
    words: Sequence[str] = (),
    precisions: Sequence[Precision] = ("fp32", "fp16", "int8"),
    card: str = "",
) -> Model:
    """Write a model directory as users lay one there: graphs, a tokenizer of characters or of these words, a card."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(words or [chr(code) for code in range(32, 127)])]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    split = tokenizers.pre_tokenizers.Whitespace() if words else tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    weights = random_weights(config, words=len(vocabulary), spread=0.2)
    for precision in precisions:
        (directory / MODEL_FILES[precision]).write_bytes(bert.build(config, weights, form=precision))
    said = {"id": directory.name, "tokens_max": config.positions, "pooling": "graph"}
    (directory / "model.yaml").write_text(card or json.dumps(said))
    return Model.open(directory)
