"""Embedders without a model: a text's tokens are its characters, and a test says what its vector is, and when."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidecar.embed import Embedder, Shape, Tokens
from sidecar.embedding import Vector
from sidecar.model import Model

DIMENSIONS = 8


class StandIn(Embedder):
    """Gives each text a vector of its own, in runs of one text, or of padded shapes as a GPU has them."""

    def __init__(  # loads no model
        self,
        *,
        name: str = "stand-in@1",
        dimensions: int = DIMENSIONS,
        tokens_max: int = 4096,
        run_tokens: int = 0,
        device: str = "cpu",
        query_prefix: str = "",
        passage_prefix: str = "",
    ) -> None:
        """`run_tokens`: the padded tokens of a run of fixed shape; 0: one text a run."""
        self.model = Model(
            directory=Path(), id=name, tokens_max=tokens_max, query_prefix=query_prefix, passage_prefix=passage_prefix
        )
        self.precision, self.provider, self.device = "fp32", "none", device
        self.id = f"{name}/fp32"
        self.dimensions = dimensions
        self.run_tokens = run_tokens

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Return one special token and a token for each character."""
        return [np.array([0, *map(ord, text)][: self.model.tokens_max], np.int32) for text in texts]

    def shape(self, tokens: int, *, query: bool) -> Shape:
        """Return a shape of the text's own, or the power of two that holds it, with half the rows for queries."""
        if not self.run_tokens:
            return Shape(rows=1, tokens=tokens)
        bucket = 1 << (tokens - 1).bit_length()
        return Shape(rows=max(1, self.run_tokens // bucket // (2 if query else 1)), tokens=bucket)

    def run(self, texts: Sequence[Tokens], shape: Shape) -> NDArray[np.float32]:
        """Answer with the vectors of texts that all belong into this run."""
        assert 1 <= len(texts) <= shape.rows
        assert {self.shape(text.size, query=query) for query in (False, True) for text in texts} >= {shape}
        return np.stack([self.vector(text_of(text)) for text in texts])

    def vector(self, text: str) -> Vector:
        """Return the vector of one text: the first bytes of its hash."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        return np.frombuffer((digest * self.dimensions)[: self.dimensions], np.uint8).astype(np.float32)


def text_of(tokens: Tokens) -> str:
    """Return the text of which a stand-in made these tokens."""
    return "".join(map(chr, tokens[1:]))
