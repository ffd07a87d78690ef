"""A score of −inf is never kept, in any selection, inside jit and outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf

RNG = np.random.default_rng(9)
SCORES = {
    "a": RNG.permutation(32).astype(np.float32).reshape(8, 4) - 16,
    "b": RNG.permutation(24).astype(np.float32).reshape(12, 2) + 0.5,
}
PREVIOUS = {
    "a": np.arange(32).reshape(8, 4) % 3 > 0,
    "b": np.arange(24).reshape(12, 2) % 12 > 3,
}
SELECTIONS = {
    "global": lambda s, **more: gf.global_masks(s, sparsity=0.5, **more),
    "layerwise": lambda s, **more: gf.layerwise_masks(s, sparsity=0.5, **more),
    "allocation": lambda s, **more: gf.layerwise_masks(
        s, allocation={"a": 14, "b": 13}, **more
    ),
    "families": lambda s, **more: gf.group_masks(s, {"a": 0.5, "b": 0.4}, **more),
    "1 of 4": lambda s, **more: gf.n_of_m_masks(s, n=1, m=4, axis=0, **more),
}
every_selection = pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)


def in_scores(masks):
    """Earlier masks, said in scores."""
    return jax.tree.map(lambda s, m: np.where(m, s, -np.inf), SCORES, masks)


def same(masks, others):
    jax.tree.map(np.testing.assert_array_equal, masks, others)


@every_selection
def test_earlier_masks_may_be_said_in_scores(select):
    by_scores = select(in_scores(PREVIOUS))
    same(by_scores, select(SCORES, previous=PREVIOUS))
    for mask, before in zip(
        jax.tree.leaves(by_scores), jax.tree.leaves(PREVIOUS), strict=True
    ):
        assert not np.any(mask & ~before)
        assert np.any(mask)
    same(by_scores, jax.jit(select)(in_scores(PREVIOUS)))


@every_selection
def test_inside_jit_too_few_are_kept_rather_than_one_that_never_is(select):
    none_left = {"a": np.zeros((8, 4), bool), "b": PREVIOUS["b"]}
    masks = jax.jit(select)(in_scores(none_left))
    assert not np.any(masks["a"])


@every_selection
@pytest.mark.parametrize("how", ["scores", "previous"])
def test_more_of_them_than_the_sparsity_removes_are_an_error(select, how):
    none_left = {"a": np.arange(32).reshape(8, 4) < 2, "b": np.zeros((12, 2), bool)}
    with pytest.raises(ValueError, match="higher sparsity|gf.combine"):
        if how == "scores":
            select(in_scores(none_left))
        else:
            select(SCORES, previous=none_left)


def test_the_error_names_the_leaf_the_number_and_the_remedy():
    scores = {"a": SCORES["a"], "b": np.full((12, 2), -np.inf, np.float32)}
    message = (
        r"scores hold 24 values of −inf \(never keep\), 24 of them in leaf 'b', which "
        r"leave 32 weights of the 45 that sparsity=0\.2 keeps: ask for a higher"
    )
    with pytest.raises(ValueError, match=message):
        gf.global_masks(scores, sparsity=0.2)
    with pytest.raises(ValueError, match="scores of leaf 'b' hold 24 values of −inf"):
        gf.layerwise_masks(scores, sparsity=0.2)
    with pytest.raises(ValueError, match="'b' has 6 groups of 4 in which fewer than 1"):
        gf.n_of_m_masks(scores, n=1, m=4, axis=0)


@pytest.mark.parametrize("value, name", [(np.nan, "nan"), (np.inf, "inf")])
@every_selection
def test_nan_and_inf_beside_it_are_still_an_error(select, value, name):
    scores = in_scores(PREVIOUS)
    scores["b"][11, 1] = value
    with pytest.raises(ValueError, match=rf"'b' has 1 of 24 values .*\(1 {name}\)"):
        select(scores)


def test_a_leaf_that_an_allocation_keeps_whole_may_hold_anything():
    weird = np.array([[np.nan, -np.nan], [np.inf, -np.inf]], np.float32)
    scores = {"a": weird, "b": SCORES["b"]}
    masks = gf.layerwise_masks(scores, allocation={"a": 4, "b": 3})
    assert masks["a"].all() and masks["b"].sum() == 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision_knows_it_too(dtype):
    scores = jnp.asarray([[-jnp.inf, -3e4, 1.0, -jnp.inf]], dtype)
    masks = gf.global_masks(scores, sparsity=0.5)
    assert masks.tolist() == [[False, True, True, False]]
    with pytest.raises(ValueError, match="2 values of −inf"):
        gf.global_masks(scores, sparsity=0.25)
