"""Batch invariance: what finds a breach of it, and that there is none. All of it at length: `make eval-embed`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.embed import Embedder
from sidecar.model import Model
from tests.bench.said import Said
from tests.eval.embedding import MODEL, Way, differing

PADDED = (16, 32)
"""Tokens of runs of queries and of passages: two short texts in one, since a text alone costs as much as a full run."""

MODELS = Path(os.environ.get("STANDPIPE_MODELS_DIR") or Path(__file__).parents[2] / ".cache" / "models")


class Leaning(Embedder):
    """An embedder that is not as promised: what stands beside a text shows in its vector."""

    def run(self, texts, shape):
        """Turn every vector a little for each text of the run."""
        return super().run(texts, shape) * (1 + len(texts) * 1e-6)


def _short(count):
    """Make texts of at most 16 tokens."""
    return [text for text in Said(3).queries(8 * count) if len(text.split()) < 9][:count]


@pytest.mark.parametrize("way", [Way("int8"), Way("fp32", padded=PADDED)], ids=str)
async def test_company_changes_no_bit(way):
    """Texts have the same bits alone and in company, one a run and several in padded shapes (P6)."""
    texts = _short(24)
    embedder = way.embedder(Model.open(MODELS / MODEL))
    assert await differing(embedder, texts[:16], texts[16:], seed=1) == []


async def test_a_vector_that_depends_on_company_is_found():
    """The measure is no blank: with a planted mistake it names the texts, of both kinds."""
    texts = _short(24)
    embedder = Leaning(Model.open(MODELS / MODEL), precision="fp32", padded=(32, 32))
    found = await differing(embedder, texts[:12], texts[12:], seed=1)
    assert any(place < 12 for place in found)
    assert any(place >= 12 for place in found)


def test_texts_are_new_and_the_same_from_a_seed():
    """No text comes twice, which a cache would answer; another process makes the same ones."""
    said, again = Said(7), Said(7)
    passages, queries = said.passages(500), said.queries(500)
    assert len({*passages, *queries}) == 1000
    assert (again.passages(500), again.queries(500)) == (passages, queries)
