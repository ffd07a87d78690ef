"""The search in a bracket, pass by pass, on the eight scores of the room's page."""

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.masks.selection.bracketing import Bracket, narrow
from gradflow_jax.masks.selection.counting import Totals

A, B = np.array([3, 9, 5]), np.array([9, 1, 9, 7, 2])


def int32(*numbers):
    return jnp.asarray(numbers, jnp.int32)


def test_the_passes_are_those_of_the_page():
    passes = []

    def count_reaching(pivots):
        counts = [[int((block >= p).sum()) for p in pivots[0]] for block in (A, B)]
        passes.append((pivots[0].tolist(), np.sum(counts, 0).tolist()))
        return jnp.asarray(counts, jnp.int32)

    bracket = Bracket(int32(1), int32(9), int32(3, 5), int32(0, 0))
    # Without jit `lax.while_loop` is Python's, and the pivots are numbers.
    with jax.disable_jit():
        settled = narrow(count_reaching, Totals.of([2]), np.array([0, 0]), bracket)
    assert passes == [([3, 5, 7], [6, 5, 4]), ([8, 8, 9], [3, 3, 3])]
    assert [leaf.tolist() for leaf in settled] == [[9], [9], [1, 2], [0, 0]]


def test_the_cut_among_ties_is_that_of_the_page():
    passes = []

    def count_early(pivots):
        counts = []
        for block, own_pivots in zip((A, B), pivots, strict=True):
            places = -1 - np.flatnonzero(block == 9)
            counts.append([int((places >= pivot).sum()) for pivot in own_pivots])
        passes.append((pivots[1].tolist(), counts[1]))
        return jnp.asarray(counts, jnp.int32)

    bracket = Bracket(int32(-3, -5), int32(-1, -1), int32(1, 2), int32(0, 0))
    with jax.disable_jit():
        settled = narrow(count_early, Totals.of([1, 1]), np.arange(2), bracket)
    assert passes == [([-4, -3, -2], [2, 2, 1])]
    # The first block was settled from the start and keeps its bracket.
    assert settled.low.tolist() == [-3, -2] and settled.high.tolist() == [-1, -1]
