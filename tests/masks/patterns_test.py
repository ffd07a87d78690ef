"""N of every M along an axis, against loops in numpy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf

checked = settings(max_examples=60, deadline=None, derandomize=True, database=None)
# Rows are (shape, m, axis). They are few, since each new shape compiles.
CASES = (
    ((8, 3), 4, -2),
    ((3, 8), 4, -1),
    ((3, 3, 4, 2), 4, -2),
    ((6, 2), 3, 0),
    ((2, 6), 2, 1),
    ((2, 3, 5), 1, 1),
)


def groups_of(array, m, axis):
    """The groups of m along an axis, one after the other."""
    moved = np.moveaxis(np.asarray(array), axis, 0)
    indices = itertools.product(*map(range, moved.shape[1:]))
    return [
        moved[(slice(start, start + m), *index)]
        for index in indices
        for start in range(0, moved.shape[0], m)
    ]


def everything(path, leaf):
    return True


@checked
@given(
    st.sampled_from(CASES),
    st.lists(
        st.sampled_from((0.0, -0.0, 1.0, 3e38, -3e38))
        | st.floats(
            width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
)
def test_keeps_the_n_highest_of_each_group_and_the_lower_index_of_equals(
    case, values, seed, n
):
    shape, m, axis = case
    n = min(n, m)
    rng = np.random.default_rng(seed)
    scores = np.asarray(rng.choice(values, shape), np.float32)
    mask = gf.n_of_m_masks(scores, n=n, m=m, axis=axis)
    assert mask.shape == shape and mask.dtype == bool
    for group, kept in zip(
        groups_of(scores, m, axis), groups_of(mask, m, axis), strict=True
    ):
        highest = sorted(range(m), key=lambda i: (-group[i], i))[:n]
        assert np.flatnonzero(kept).tolist() == sorted(highest)


def test_two_of_four_inputs_is_the_default():
    scores = {"kernel": jnp.arange(16.0).reshape(8, 2), "bias": jnp.zeros(2)}
    masks = gf.n_of_m_masks(scores)
    column = [False, False, True, True] * 2
    assert masks["kernel"].T.tolist() == [column, column]
    assert masks["bias"].tolist() == [True, True]


def test_all_of_m_keeps_everything_and_none_of_m_nothing():
    scores = jnp.ones((4, 2))
    assert gf.n_of_m_masks(scores, n=4, m=4).all()
    assert not gf.n_of_m_masks(scores, n=0, m=4).any()


def test_among_equals_the_lower_index_stays():
    mask = gf.n_of_m_masks(jnp.ones((4, 1)))
    assert mask[:, 0].tolist() == [True, True, False, False]


def test_the_two_zeros_are_one_score():
    mask = gf.n_of_m_masks(jnp.array([[-0.0], [0.0], [-0.0], [0.0]]))
    assert mask[:, 0].tolist() == [True, True, False, False]


def test_denormal_scores_are_ranked_above_zero():
    mask = gf.n_of_m_masks(np.array([[0.0], [1e-40], [2e-40], [0.0]], np.float32))
    assert mask[:, 0].tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_ranked(dtype):
    mask = gf.n_of_m_masks(jnp.array([[1.0], [4.0], [3.0], [2.0]], dtype))
    assert mask[:, 0].tolist() == [False, True, True, False]


def test_vectors_may_be_pruned_along_their_only_axis():
    scores = {"bias": jnp.array([1.0, 2.0, 4.0, 3.0])}
    masks = gf.n_of_m_masks(scores, n=1, m=2, axis=0, prunable=everything)
    assert masks["bias"].tolist() == [False, True, True, False]


@pytest.mark.parametrize("shape", [(4, 0), (0, 4)])
def test_an_empty_leaf_has_an_empty_mask(shape):
    masks = gf.n_of_m_masks({"empty": jnp.zeros(shape), "kernel": jnp.ones((4, 1))})
    assert masks["empty"].shape == shape and masks["kernel"].sum() == 2


def test_is_the_same_under_jit():
    scores = jnp.array([[3.0, 1.0], [3.0, 2.0], [5.0, 2.0], [-1.0, 2.0]])
    np.testing.assert_array_equal(
        gf.n_of_m_masks(scores), jax.jit(gf.n_of_m_masks)(scores)
    )


def test_combined_with_global_masks_it_prunes_further():
    scores = jnp.arange(16.0).reshape(4, 4)
    pattern = gf.n_of_m_masks(scores)
    both = gf.combine(pattern, gf.global_masks(scores, sparsity=0.75))
    assert both.tolist() == [[False] * 4] * 3 + [[True] * 4]


@pytest.mark.parametrize("n, m", [(5, 4), (-1, 4), (0, 0), (1, -1)])
def test_an_impossible_n_of_m_is_an_error(n, m):
    with pytest.raises(ValueError, match=f"n of m is {n} of {m}; 0 <= n <= m"):
        gf.n_of_m_masks(jnp.ones((4, 4)), n=n, m=m)


@pytest.mark.parametrize(
    "shape, axis", [((6, 2), -2), ((2, 6), 1), ((4, 4), 2), ((4, 4), -3)]
)
def test_an_axis_that_m_does_not_divide_is_an_error(shape, axis):
    scores = {"kernel": jnp.ones(shape)}
    with pytest.raises(
        ValueError,
        match=rf"leaf 'kernel' of shape \({shape[0]}, {shape[1]}\) has no axis {axis} "
        "that is a multiple of 4: choose another axis or m",
    ):
        gf.n_of_m_masks(scores, axis=axis)


def test_a_scalar_has_no_axis():
    with pytest.raises(ValueError, match=r"leaf 'a' of shape \(\) has no axis -2"):
        gf.n_of_m_masks({"a": jnp.ones(())}, prunable=everything)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_an_error(value):
    scores = {"kernel": jnp.ones((4, 2)).at[1, 1].set(value)}
    with pytest.raises(ValueError, match="leaf 'kernel' has 1 of 8 values that are no"):
        gf.n_of_m_masks(scores)


def test_integer_scores_are_an_error():
    with pytest.raises(TypeError, match=r"scores leaf 'a' is int32\[4,2\]"):
        gf.n_of_m_masks({"a": jnp.ones((4, 2), jnp.int32)})


def test_an_empty_tree_is_an_error():
    with pytest.raises(ValueError, match="scores has no leaves"):
        gf.n_of_m_masks({})


def test_no_prunable_leaf_is_an_error():
    with pytest.raises(ValueError, match="no leaf is prunable among: bias"):
        gf.n_of_m_masks({"bias": jnp.ones(4)})
