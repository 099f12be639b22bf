"""Tests of recall: exact, deterministic, alike at any snapshot, silent when nothing is relevant."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import recall
from sidecar.recall import (
    DIMENSIONS_MAX,
    Block,
    Item,
    Query,
    Settings,
    chunk,
    item_terms,
    pack_terms,
    quantise,
    rank,
    terms,
    unpack_terms,
)

DIMENSIONS = 16
WORDS = "boat harbour anna ben river paint yellow ticket qx4471 sister rain kettle June".split()
OPEN = Settings(cosine_floor=-1, lexical_floor=0, lexical_floor_alone=0, score_floor=-99)
"""No floor: everything is ranked."""


@st.composite
def scopes(draw, size_max: int = 24) -> list[Item]:
    """Scopes of interleaved sessions, messages of several chunks, and items without a vector."""
    items, position = [], 0
    for message in range(draw(st.integers(1, size_max))):
        session, speaker = draw(st.integers(0, 2)), draw(st.sampled_from(["Anna", "Ben"]))
        for _ in range(draw(st.integers(1, 3))):
            position += draw(st.integers(1, 3))
            text = " ".join(draw(st.lists(st.sampled_from(WORDS), max_size=6)))
            vector, scale = None, np.float32(0)
            if draw(st.booleans()):
                vector, scale = quantise(draw(vectors()))
            items.append(
                Item(
                    position=position,
                    message=message,
                    session=session,
                    speaker=speaker,
                    terms=item_terms(text, speaker=speaker, year=2024, month=6, day=1 + session),
                    tokens=draw(st.integers(1, 200)),
                    vector=vector,
                    scale=scale,
                )
            )
    return items


@st.composite
def vectors(draw) -> np.ndarray:
    """Unit vectors."""
    values = np.array(draw(st.lists(st.integers(-9, 9), min_size=DIMENSIONS, max_size=DIMENSIONS)), float)
    values[0] += 0.5
    return (values / np.linalg.norm(values)).astype(np.float32)


@st.composite
def queries(draw) -> Query:
    """Queries with and without a vector."""
    text = " ".join(draw(st.lists(st.sampled_from([*WORDS, "what", "?"]), max_size=5)))
    return Query.of(text, draw(st.none() | vectors()))


def block_of(items: list[Item]) -> Block:
    block = Block(DIMENSIONS)
    block.append(items)
    return block


def talk(*lines: str, speaker: str = "Anna") -> list[Item]:
    """One session without vectors, a message a line."""
    return [
        Item(position=i, message=i, session=0, speaker=speaker, terms=terms(line), tokens=10)
        for i, line in enumerate(lines)
    ]


def same(one: recall.Ranking, other: recall.Ranking) -> bool:
    return (
        one.items.tolist() == other.items.tolist()
        and one.scores.tolist() == other.scores.tolist()
        and {k: v.tolist() for k, v in one.parts.items()} == {k: v.tolist() for k, v in other.parts.items()}
    )


# Determinism ------------------------------------------------------------


@given(scopes(), queries(), st.data())
def test_appending_in_any_batches_equals_building_at_once(items, query, data):
    """A block is the same however its items came."""
    block, start = Block(DIMENSIONS), 0
    while start < len(items):
        step = data.draw(st.integers(1, 5))
        block.append(items[start : start + step])
        start += step
    assert same(rank(block, query, settings=OPEN), rank(block_of(items), query, settings=OPEN))


@given(scopes(), queries())
def test_merging_the_tail_changes_nothing(items, query):
    """Sorted postings and their tail answer as one."""
    block = Block(DIMENSIONS)
    block._postings.TAIL_MIN = 3
    for item in items:
        block.append([item])
    assert same(rank(block, query, settings=OPEN), rank(block_of(items), query, settings=OPEN))


@given(scopes(), queries(), st.integers(0, 80), st.integers(0, 80))
def test_a_snapshot_equals_a_block_of_just_its_items(items, query, limit, vector_limit):
    """Past the limits neither items nor vectors exist, in the statistics either."""
    then = [
        item if item.position <= vector_limit else replace(item, vector=None, scale=np.float32(0))
        for item in items
        if item.position <= limit
    ]
    now = rank(block_of(items), query, settings=OPEN, limit_positions=limit, vector_limit=vector_limit)
    assert same(now, rank(block_of(then), query, settings=OPEN))


@given(scopes(), queries())
def test_vectors_that_come_late_equal_vectors_at_once(items, query):
    """Embedding behind the log leads to the same block."""
    block = block_of([replace(item, vector=None, scale=np.float32(0)) for item in items])
    for item in items:
        if item.vector is not None:
            block.put_vector(item.position, item.vector, item.scale)
    assert same(rank(block, query, settings=OPEN), rank(block_of(items), query, settings=OPEN))


@given(scopes(), queries())
def test_scores_are_the_sum_of_their_parts_and_descend_with_ties_by_position(items, query):
    """Every score is explained to the last micro-unit, and the order is total."""
    ranking = rank(block_of(items), query, settings=OPEN)
    assert len(ranking.items) == len(items)
    assert (sum(ranking.parts.values()) == ranking.scores).all()
    keys = list(zip((-ranking.scores).tolist(), ranking.items.tolist(), strict=True))
    assert keys == sorted(keys)


@given(scopes(), queries(), st.integers(1, 5))
def test_a_short_ranking_holds_the_best_candidates(items, query, count):
    """Bounding the candidates cuts the order of the whole and does not disturb it."""
    free = replace(OPEN, repeat_cost=0)
    whole = rank(block_of(items), query, settings=free)
    short = rank(block_of(items), query, settings=replace(free, candidates_max=count))
    assert short.items.tolist() == whole.items[:count].tolist()


@given(scopes(), queries(), st.sets(st.integers(0, 80)))
def test_other_items_are_not_ranked_and_change_no_score_but_repeats(items, query, others):
    """What is no candidate is context still."""
    free = replace(OPEN, repeat_cost=0)
    block = block_of(items)
    among = ~np.isin(block.positions, list(others))
    whole, rest = (rank(block, query, settings=free, among=each) for each in (None, among))
    keep = among[whole.items]
    assert rest.items.tolist() == whole.items[keep].tolist()
    assert rest.scores.tolist() == whole.scores[keep].tolist()


def test_what_is_no_candidate_shows_no_relevance():
    """A query that only others answer finds nothing, however much room there is."""
    block = block_of(talk("boat", "rain", "river"))
    assert len(rank(block, Query.of("boat")).items)
    assert not len(rank(block, Query.of("boat"), among=np.array([False, True, True])).items)


def test_equal_items_stand_in_order_of_position():
    """Ties go to the earlier item."""
    ranking = rank(
        block_of(talk(*["the red kettle"] * 9)),
        Query.of("kettle"),
        settings=replace(OPEN, neighbour_weight=0),
    )
    assert ranking.items.tolist() == list(range(9))


# Relevance ------------------------------------------------------------


def test_an_item_without_a_vector_is_ranked_by_its_terms_alone():
    """A turn just written can come first before it is embedded."""
    far, near = (quantise(np.eye(DIMENSIONS, dtype=np.float32)[i]) for i in (0, 1))
    items = [replace(item, vector=far[0], scale=far[1]) for item in talk("rain", "harbour", "river")]
    fresh = replace(talk("the yellow boat")[0], position=9, message=9, session=9)
    ranking = rank(block_of([*items, fresh]), Query.of("yellow boat", np.eye(DIMENSIONS)[1]))
    assert ranking.items[0] == 3
    assert ranking.parts["dense"][0] == 0
    assert ranking.parts["lexical"][0] == recall.MICRO
    assert near[1] > 0


def test_a_query_about_something_else_recalls_nothing():
    """Below the floor the section is empty, with vectors and without."""
    east, north = np.eye(DIMENSIONS)[0], np.eye(DIMENSIONS)[1]
    vector, scale = quantise(east)
    lines = ["I paint boats in the harbour", "The kettle is yellow", "My sister likes rain"]
    plain = talk(*lines)
    embedded = [replace(item, vector=vector, scale=scale) for item in plain]
    assert not len(rank(block_of(plain), Query.of("What is the capital of Mongolia?")).items)
    assert not len(rank(block_of(embedded), Query.of("What is the capital of Mongolia?", north)).items)
    assert len(rank(block_of(embedded), Query.of("What is the capital of Mongolia?", east)).items) == 3
    assert len(rank(block_of(embedded), Query.of("yellow kettle", north)).items)


def test_a_named_speaker_comes_first():
    """Who is asked about is a reason to look at what they said."""
    items = talk("I like rain", "I like rain")
    items[1] = replace(items[1], speaker="Ben Nevis", session=1)
    assert rank(block_of(items), Query.of("Does Ben Nevis like rain?")).items[0] == 1
    assert rank(block_of(items), Query.of("Does Ben like rain?")).items[0] == 0


def test_neighbours_and_session_lift_an_answer_that_shares_no_word():
    """An answer is found by its question, in its own session only."""
    items = talk("What colour is the boat?", "Yellow.", "Good night.")
    items[2] = replace(items[2], session=1)
    parts = rank(block_of(items), Query.of("boat"), settings=OPEN)
    lift = dict(zip(parts.items.tolist(), parts.parts["neighbours"].tolist(), strict=True))
    assert lift[1] == 250_000
    assert lift[2] == 0


def test_long_messages_pay_for_their_chances():
    """Of equal chunks that of a short message goes first; repeats of a message fall back."""
    items = talk("boat", "boat", "boat", "boat")
    items = [replace(item, message=min(i, 3), session=i) for i, item in enumerate(items)]
    items = [replace(item, message="long" if i < 3 else "short") for i, item in enumerate(items)]
    ranking = rank(block_of(items), Query.of("boat"), settings=OPEN)
    assert ranking.items.tolist() == [3, 0, 1, 2]
    assert ranking.parts["repeat"].tolist() == [0, 0, -100_000, -200_000]


def test_the_tail_far_below_the_best_is_left_out():
    """Tokens are not spent on what scores under the floor's share of the best."""
    items = [replace(item, session=i) for i, item in enumerate(talk("boat", "rain", "river"))]
    assert rank(block_of(items), Query.of("boat")).items.tolist() == [0]


def test_empty_cases():
    """An empty block, an empty snapshot, an empty query and an empty append do nothing."""
    block = Block(DIMENSIONS)
    block.append([])
    assert not len(rank(block, Query.of("boat", np.eye(DIMENSIONS)[0])).items)
    block.append(talk("boat"))
    assert not len(rank(block, Query.of("boat"), limit_positions=-1).items)
    assert not len(rank(block, Query.of("")).items)
    assert not len(rank(block, Query.of("boat"), among=np.array([False])).items)
    assert len(rank(block, Query.of("boat")).items) == 1


def test_a_block_refuses_positions_out_of_order_and_unknown_ones():
    """Positions ascend, and a refused append changes nothing."""
    block = block_of(talk("boat", "rain"))
    for bad in (talk("rain"), list(reversed(talk("a", "b", "c", "d")))):
        with pytest.raises(ValueError, match="ascend"):
            block.append(bad)
    assert len(block) == 2
    with pytest.raises(KeyError):
        block.put_vector(7, np.zeros(DIMENSIONS, np.int8), np.float32(1))


def test_a_block_knows_its_size():
    """The cache that holds blocks is bounded by their bytes."""
    block = Block()
    items = talk(*["the yellow boat"] * 1_000)
    block.append(items)
    assert 384_000 < block.nbytes < 2_000_000


# Terms ------------------------------------------------------------


def test_terms_are_the_same_in_every_process():
    """Hashes are stored, so they must outlive the process, its hash seed and the release."""
    assert terms("Anna's running boats").hashes.tolist() == sorted(
        recall.crc32(stem) for stem in (b"anna", b"run", b"boat")
    )
    code = "from sidecar import recall; print(recall.pack_terms(recall.terms('Zürich 東京都 boats')).hex())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert runs == {(pack_terms(terms("Zürich 東京都 boats")).hex() + "\n").encode()}


@given(st.text())
def test_terms_survive_packing(text):
    """Terms are ascending, distinct, counted, and round-trip through bytes."""
    found = terms(text)
    assert (np.diff(found.hashes.astype(np.int64)) > 0).all()
    assert (found.counts > 0).all()
    again = unpack_terms(pack_terms(found))
    assert again.hashes.tolist() == found.hashes.tolist()
    assert again.counts.tolist() == found.counts.tolist()


def test_unpacking_refuses_what_is_not_terms():
    """Five bytes a term."""
    with pytest.raises(ValueError, match="five bytes"):
        unpack_terms(b"123456")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("東京", "昨日は東京都に行きました"),
        ("여행", "지난주에 여행을 갔어요"),
        ("กรุงเทพ", "ฉันไปกรุงเทพเมื่อวาน"),
        ("Übung", "Wir machen eine U\u0308bung"),
        ("ΟΔΟΣ", "η οδος"),
        ("हिन्दी", "मैं हिन्दी सीख रहा हूँ"),
        ("ＡＢＣ", "abc"),
        ("what happened in June", item_terms("rain", speaker="Anna", year=2024, month=6, day=3)),
        ("2024", item_terms("rain", speaker="Anna", year=2024, month=6, day=3)),
    ],
)
def test_terms_find_what_they_should(query, text):
    """Scripts without spaces, combining marks, case, width and dates are found."""
    held = text if isinstance(text, recall.Terms) else terms(text)
    assert set(terms(query).hashes.tolist()) & set(held.hashes.tolist())


def test_counts_stop_at_a_byte():
    """A word said a thousand times counts 255."""
    assert terms("boat " * 1_000).counts.tolist() == [255]


# Chunks ------------------------------------------------------------


@given(st.text(alphabet="ab. \n。!字", max_size=400), st.integers(1, 40))
def test_chunks_cover_the_text_verbatim_within_their_size(text, tokens_max):
    """No gap, no overlap, nothing too large."""
    spans = chunk(text, len, tokens_max)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(0 < end - start <= tokens_max for start, end in spans)


def test_chunks_prefer_paragraphs_to_sentences_to_words():
    """A cut falls at the coarsest boundary that makes the pieces fit."""
    text = "One two. Three four.\n\nFive six seven eight nine ten."
    pieces = [text[start:end] for start, end in chunk(text, lambda t: len(t.split()), 4)]
    assert pieces == ["One two. Three four.\n\n", "Five six seven eight ", "nine ten."]


def test_a_short_text_is_one_chunk_and_an_empty_one_none():
    """Most turns are not cut."""
    assert chunk("a boat", len) == [(0, 6)]
    assert chunk("", len) == []


def test_cutting_a_long_text_counts_each_character_a_few_times():
    """A message of a megabyte does not take quadratic time."""
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return len(text)

    text = "word " * 20_000
    chunk(text, count)
    assert counted < 20 * len(text)


# Vectors ------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2_100))
def test_dot_products_are_exact(seed, rows):
    """Float32 BLAS gives the integers' own dot products, at the largest dimension too."""
    rng = np.random.default_rng(seed)
    matrix = rng.choice(np.array([-127, -1, 0, 1, 126, 127], np.int8), (rows, DIMENSIONS_MAX))
    vector = rng.choice(np.array([-127, 127], np.int8), DIMENSIONS_MAX)
    matrix[0] = vector
    assert (recall._dots(matrix, vector) == matrix.astype(np.int64) @ vector.astype(np.int64)).all()
    assert DIMENSIONS_MAX * 127**2 < 2**24


@given(vectors())
def test_quantising_keeps_the_direction(vector):
    """The stored vector is within half a step of the given one, its largest component at 127."""
    ints, scale = quantise(vector)
    assert ints.dtype == np.int8
    assert np.abs(ints.astype(int)).max() == 127
    assert np.abs(ints * scale - vector).max() <= scale * 0.5001


def test_many_vectors_are_packed_as_each_is_alone():
    """P6: a vector's bytes do not depend on its company, a zero one and the smallest and largest numbers included."""
    vectors = np.random.default_rng(7).standard_normal((500, 384)).astype(np.float32)
    vectors[3] = 0
    vectors[4] *= np.float32(1e-44)
    vectors[5] *= np.float32(1e37)
    vectors[6, 1:] = 0
    assert recall.pack_vectors(vectors) == [recall.pack_vector(*recall.quantise(vector)) for vector in vectors]
    assert recall.pack_vectors(vectors[:0]) == []


def test_quantising_refuses_what_is_no_vector():
    """NaN, infinity, matrices and too many dimensions are errors; zeros mean no vector."""
    for bad in ([math.nan], [math.inf], [[1.0]], np.ones(DIMENSIONS_MAX + 1)):
        with pytest.raises(ValueError, match="vector"):
            quantise(np.array(bad))
    ints, scale = quantise(np.zeros(3))
    assert scale == 0
    assert not ints.any()


def test_rounded_logarithms_are_far_from_a_tie():
    """No count's logarithm lies so near a rounding boundary that a maths library could tip it."""
    thousandths = np.log2(np.arange(1, 2**16, dtype=np.float64)) * 1000
    assert np.abs(np.abs(thousandths - np.rint(thousandths)) - 0.5).min() > 1e-9
