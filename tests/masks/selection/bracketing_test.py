"""The search in a bracket, pass by pass, on the eight scores of the room's page."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow_jax.masks.selection.bracketing import Bracket, narrow
from gradflow_jax.masks.selection.counting import Totals

A, B = np.array([3, 9, 5]), np.array([9, 1, 9, 7, 2])


# NumPy's arrays are searched from outside of programs, JAX's inside.
both_ways = pytest.mark.parametrize("xp", [np, jnp])


def bracket_of(xp, *columns):
    return Bracket(*(xp.asarray(column, np.int32) for column in columns))


@both_ways
def test_the_passes_are_those_of_the_page(xp):
    passes = []

    def count_reaching(pivots, asked):
        counts = [[int((block >= p).sum()) for p in pivots[0]] for block in (A, B)]
        passes.append((pivots[0].tolist(), np.sum(counts, 0).tolist()))
        return xp.asarray(counts, np.int32)

    bracket = bracket_of(xp, [1], [9], [3, 5], [0, 0])
    # Without jit `lax.while_loop` is Python's, and the pivots are numbers.
    with jax.disable_jit():
        settled = narrow(count_reaching, Totals.of([2]), np.array([0, 0]), bracket)
    assert passes == [([3, 5, 6, 8], [6, 5, 4, 3]), ([9] * 4, [3] * 4)]
    assert [leaf.tolist() for leaf in settled] == [[9], [9], [1, 2], [0, 0]]


@both_ways
def test_the_cut_among_ties_is_that_of_the_page(xp):
    passes = []

    def count_early(pivots, asked):
        counts = []
        for block, own_pivots in zip((A, B), pivots, strict=True):
            places = -1 - np.flatnonzero(block == 9)
            counts.append([int((places >= pivot).sum()) for pivot in own_pivots])
        passes.append((pivots[1].tolist(), counts[1]))
        return xp.asarray(counts, np.int32)

    bracket = bracket_of(xp, [-3, -5], [-1, -1], [1, 2], [0, 0])
    with jax.disable_jit():
        settled = narrow(count_early, Totals.of([1, 1]), np.arange(2), bracket)
    assert passes == [([-4, -3, -2, -1], [2, 2, 1, 1])]
    # The first block was settled from the start and keeps its bracket.
    assert settled.low.tolist() == [-3, -1] and settled.high.tolist() == [-1, -1]
