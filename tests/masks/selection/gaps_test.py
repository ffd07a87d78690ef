"""What a search has left, against counts of all ranks."""

import numpy as np
import pytest

from gradflow_jax.masks.selection.gaps import Chunks, Gap, chunk_size

RNG = np.random.default_rng(0)
SIZES = [40, 1, 88, 127]
RANK = RNG.integers(-50, 50, sum(SIZES)).astype(np.int32)
# Ever closer pivots, some at the ends of the gap before; then others beyond it.
SEARCHES = [
    [[-30, -10, 10, 30], [-10, -5, 0, 10], [-5, -4, -3, -3], [-5, -5, -5, -4]],
    [[-(2**31), 0, 20, 2**31 - 1], [0, 5, 6, 20], [20, 30, 40, 45], [1, 2, 3, 4]],
    [[0, 1, 2, 3], [-9, -8, 4, 5], [-20, 0, 1, 2], [60, 61, 62, 63]],
]


def reached(rank, pivots, sizes):
    blocks = np.split(rank, np.cumsum(sizes)[:-1])
    return [[np.sum(block >= pivot) for pivot in pivots] for block in blocks]


@pytest.mark.parametrize("search", SEARCHES)
def test_counts_within_a_gap_are_those_of_all(search):
    last = None
    for pivots in np.array(search, np.int32):
        gap = last and last[0].around(pivots, *last[1:])
        if gap is None:
            gap = Gap.of_all(RANK, SIZES)
        counts = gap.count_reaching(pivots)
        np.testing.assert_array_equal(counts, reached(RANK, pivots, SIZES))
        last = gap, pivots, counts


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("worth", [2, 10**6])
def test_counts_of_chunks_are_those_of_all(search, worth, monkeypatch):
    monkeypatch.setattr(Chunks, "_WORTH", worth)
    by_chunk = RANK.reshape(4, 64)
    chunks, looked_at = Chunks(by_chunk.shape, RANK.dtype), []

    def ranks_in(places):
        looked_at.append(len(places))
        return by_chunk[places].reshape(-1)

    for pivots in np.array(search, np.int32):
        gap = chunks.around(pivots, ranks_in)
        if gap is None:
            of_chunks = [[np.sum(row >= p) for row in by_chunk] for p in pivots]
            counts = chunks.note(pivots, np.array(of_chunks))
        else:
            counts = gap.count_reaching(pivots)
        np.testing.assert_array_equal(counts, reached(RANK, pivots, [len(RANK)]))
    assert worth > 2 or search is not SEARCHES[0] or looked_at


def test_chunks_fill_axes_or_equal_parts_of_one():
    sizes = {
        (512, 512, 3, 3): 144,
        (3, 3, 512, 512): 128,
        (2048, 1000): 125,
        (10**6,): 125,
        (30, 769): 769,
        (5, 7, 3): 105,
        (40, 2): 80,
    }
    assert {shape: chunk_size(shape) for shape in sizes} == sizes
