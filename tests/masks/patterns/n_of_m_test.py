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
from tests.masks.score_trees import ties_are_meant

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


@ties_are_meant
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


@pytest.mark.parametrize("shape, axis", [((6, 2), -2), ((2, 6), 1)])
def test_an_axis_that_m_does_not_divide_is_an_error(shape, axis):
    scores = {"kernel": jnp.ones(shape)}
    with pytest.raises(
        ValueError,
        match=rf"leaf 'kernel' of shape \({shape[0]}, {shape[1]}\) has 6 inputs, along "
        rf"axis {axis % 2}, and 6 is no multiple of 4: choose another axis or m",
    ):
        gf.n_of_m_masks(scores, axis=axis)


@pytest.mark.parametrize("axis", [2, -3, (0, 2)])
def test_an_axis_that_is_not_there_is_an_error(axis):
    with pytest.raises(ValueError, match=r"'kernel' of shape \(4, 4\) has no axis"):
        gf.n_of_m_masks({"kernel": jnp.ones((4, 4))}, axis=axis)


@pytest.mark.parametrize("axis", [(0, 0), (0, -2), ()])
def test_an_axis_named_twice_or_not_at_all_is_an_error(axis):
    with pytest.raises(ValueError, match="name one axis or more, each once"):
        gf.n_of_m_masks({"kernel": jnp.ones((4, 4))}, axis=axis)


@pytest.mark.parametrize("axis", ["-2", 1.0, True, ("kernel",)])
def test_an_axis_that_is_no_number_is_an_error(axis):
    with pytest.raises(TypeError, match="axis of .* is .*, not a whole number"):
        gf.n_of_m_masks({"kernel": jnp.ones((4, 4))}, axis=axis)


def test_an_axis_of_no_leaf_is_an_error():
    with pytest.raises(ValueError, match="axis 'head' matches no leaf"):
        gf.n_of_m_masks({"kernel": jnp.ones((4, 4))}, axis={"head": 0})


# Of each layout: its shape, its roles, and the axes as those of a dense kernel
# [..., in, out], whose groups are known from the loops above.
LAYOUTS = {
    "query": ((8, 2, 3), ("in", "head", "out"), (0, 1, 2), (8, 6)),
    "out": ((2, 4, 3), ("in", "in", "out"), (0, 1, 2), (8, 3)),
    "weight": ((3, 8), ("out", "in"), (1, 0), (8, 3)),
    "scanned": ((2, 8, 2, 3), ("stack", "in", "head", "out"), (0, 1, 2, 3), (2, 8, 6)),
    "ensemble": ((2, 3, 4), ("group", "out", "in"), (0, 2, 1), (2, 4, 3)),
    "WIO": ((3, 4, 5), ("window", "in", "out"), (0, 1, 2), (3, 4, 5)),
    "OIHW": (
        (2, 4, 1, 3),
        ("out", "in", "window", "window"),
        (2, 3, 1, 0),
        (1, 3, 4, 2),
    ),
    "between": ((2, 3, 4), ("in", "out", "in"), (0, 2, 1), (8, 3)),
}


def test_every_layout_gets_the_mask_of_its_dense_kernel_to_the_bit():
    rng = np.random.default_rng(0)
    scores = {
        name: rng.permutation(math.prod(shape)).reshape(shape).astype(np.float32)
        for name, (shape, *_) in LAYOUTS.items()
    }
    roles = {name: words for name, (_, words, *_) in LAYOUTS.items()}
    dense = {
        name: scores[name].transpose(order).reshape(plain)
        for name, (_, _, order, plain) in LAYOUTS.items()
    }

    @jax.jit
    def both(scores, dense):
        return (
            gf.n_of_m_masks(scores, roles=roles),
            gf.n_of_m_masks(dense, axis=-2),
        )

    masks, dense_masks = both(scores, dense)
    for name, (_, _, order, plain) in LAYOUTS.items():
        mask = np.asarray(masks[name]).transpose(order).reshape(plain)
        np.testing.assert_array_equal(mask, dense_masks[name], name)


def test_axes_by_path_go_before_roles_and_the_first_pattern_before_others():
    scores = {"a": jnp.arange(16.0).reshape(4, 4), "b": jnp.arange(16.0).reshape(4, 4)}
    masks = gf.n_of_m_masks(
        scores,
        axis={"a": (0,), "[ab]": 1},
        roles={"a": ("out", "in"), "b": ("in", "out")},
    )
    assert masks["a"].tolist() == [[False] * 4] * 2 + [[True] * 4] * 2
    assert masks["b"].tolist() == [[False, False, True, True]] * 4


REFUSED = {
    "a vector": ({"a": (4,)}, "a"),
    "a scalar": ({"a": ()}, "a"),
    "a query": ({"query/kernel": (8, 4, 4)}, "query/kernel"),
    "a convolution in one dimension": ({"conv/kernel": (3, 4, 4)}, "conv/kernel"),
    "one in three": ({"conv/kernel": (3, 3, 3, 4, 4)}, "conv/kernel"),
    "a weight": ({"weight": (4, 8)}, "weight"),
    "that of a recurrent cell": ({"cell/weight_ih": (12, 4)}, "cell/weight_ih"),
    "that of torch's attention": ({"in_proj_weight": (12, 4)}, "in_proj_weight"),
    "a query under scan": ({"query/kernel": (4, 8, 4, 4)}, "query/kernel"),
    "one by its bias": ({"a/kernel": (4, 8, 4, 4), "a/bias": (4, 4, 4)}, "a/kernel"),
    "a kernel whose outputs come first": ({"kernel": (4, 8), "bias": (4,)}, "kernel"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_shape_that_does_not_say_its_inputs_is_refused(kind):
    shapes, path = REFUSED[kind]
    scores = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}
    with pytest.raises(
        ValueError,
        match=rf"scores leaf '{path}' of shape .*pass roles=gf.structured.axis_roles"
        r"\(model, params, x\) or axis=",
    ):
        jax.eval_shape(
            lambda scores: gf.n_of_m_masks(
                scores, prunable=lambda path, leaf: not path.endswith("bias")
            ),
            scores,
        )


def test_what_roles_lack_or_do_not_know_is_an_error():
    scores = {"a": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match=r"roles lacks scores leaf 'a' .*axis=\{'a'"):
        gf.n_of_m_masks(scores, roles={"b": ("in", "out")})
    with pytest.raises(ValueError, match=r"two uses of it disagree.*axis=\{'a'"):
        gf.n_of_m_masks(scores, roles={"a": ("unknown", "out")})
    with pytest.raises(ValueError, match="no axis of it is summed over"):
        gf.n_of_m_masks(scores, roles={"a": ("out", "head")})
    with pytest.raises(
        ValueError, match=r"roles leaf 'a' is \('in',\), but scores has"
    ):
        gf.n_of_m_masks(scores, roles={"a": ("in",)})
    with pytest.raises(ValueError, match="has the word 'input'; the words are in, out"):
        gf.n_of_m_masks(scores, roles={"a": ("input", "out")})
    with pytest.raises(TypeError, match="roles leaf 'a' is 'in', not a tuple with a"):
        gf.n_of_m_masks(scores, roles={"a": "in"})


@pytest.mark.parametrize("extra", ["scores", "roles"])
def test_roles_of_all_variables_are_those_of_the_parameters(extra):
    scores, roles = {"a": jnp.arange(16.0).reshape(4, 4)}, {"a": ("out", "in")}
    if extra == "scores":
        masks = gf.n_of_m_masks({"params": scores}, roles=roles)["params"]
    else:
        masks = gf.n_of_m_masks(scores, roles={"params": roles, "batch_stats": {}})
    assert masks["a"].tolist() == [[False, False, True, True]] * 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
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
