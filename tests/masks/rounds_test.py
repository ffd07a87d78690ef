"""Floors and earlier masks in every selection, against loops in NumPy."""

import jax
import numpy as np
import pytest

import gradflow_jax as gf

RNG = np.random.default_rng(4)
SCORES = {
    "a": RNG.permutation(32).astype(np.float32).reshape(8, 4),
    "b": RNG.permutation(24).astype(np.float32).reshape(12, 2) - 30,
}
# In rounds of rising sparsity.
ROUNDS = {
    "global": lambda s, i, **more: gf.global_masks(s, sparsity=0.2 * i, **more),
    "layerwise": lambda s, i, **more: gf.layerwise_masks(s, sparsity=0.2 * i, **more),
    "erdos_renyi": lambda s, i, **more: gf.layerwise_masks(
        s, allocation=gf.erdos_renyi(s, sparsity=0.2 * i), **more
    ),
    "families": lambda s, i, **more: gf.group_masks(s, {"*": 0.2 * i}, **more),
    "n of 4": lambda s, i, **more: gf.n_of_m_masks(s, n=4 - i, axis=0, **more),
}
every_selection = pytest.mark.parametrize("select", ROUNDS.values(), ids=ROUNDS)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@every_selection
def test_a_weight_that_is_pruned_does_not_return_and_the_number_is_exact(select):
    masks, differs, generator = None, False, np.random.default_rng(0)
    for i in (1, 2, 3):
        scores = jax.tree.map(lambda leaf: generator.permuted(leaf, axis=None), SCORES)
        before, masks = masks, select(scores, i, previous=masks)
        fresh = select(scores, i)
        assert flat(masks).sum() == flat(fresh).sum()
        if before is not None:
            assert not np.any(flat(masks) & ~flat(before))
            differs |= bool(np.any(flat(masks) != flat(fresh)))
    assert differs


@every_selection
def test_what_is_not_ranked_stays_as_it_was(select):
    scores = SCORES | {"bias": np.ones(4, np.float32)}
    previous = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), scores)
    previous["bias"][1] = False
    try:
        masks = select(scores, 2, previous=previous)
    except ValueError as error:
        # An allocation keeps all of the bias, and says so.
        assert "previous masks keep 3 weights of leaf 'bias', but 4" in str(error)
        return
    assert masks["bias"].tolist() == [True, False, True, True]


@every_selection
def test_the_masks_of_another_tree_name_what_is_missing_and_what_is_there(select):
    previous = {"a": np.ones((8, 4), bool), "c": np.ones((12, 2), bool)}
    message = "previous lacks the leaf 'b' and has the leaf 'c', which scores lacks"
    with pytest.raises(ValueError, match=message):
        select(SCORES, 2, previous=previous)
    with pytest.raises(TypeError, match="previous leaf 'a' is float32"):
        select(SCORES, 2, previous=SCORES)


@every_selection
def test_a_floor_above_what_is_kept_is_an_error_that_names_both(select):
    with pytest.raises(ValueError, match=r"floor=0\.9 keeps .*: lower the floor"):
        select(SCORES, 2, floor=0.9)
    with pytest.raises(TypeError, match="floor is True, not a number"):
        select(SCORES, 2, floor=True)


def test_the_floor_of_a_family_keeps_the_best_of_each_leaf():
    """All of "b" ranks below "a", so that "b" would lose everything."""
    masks = gf.group_masks(SCORES, {"*": 0.5}, floor=0.25)
    assert masks["b"].sum() == 6 and masks["a"].sum() == 22
    lowest = np.sort(SCORES["b"], axis=None)[-6]
    np.testing.assert_array_equal(masks["b"], SCORES["b"] >= lowest)
    assert gf.group_masks(SCORES, {"*": 0.5})["b"].sum() == 0


def test_the_floor_of_a_layer_is_in_the_numbers_of_an_allocation():
    allocation = {"a": 30, "b": 2}
    with pytest.raises(ValueError, match="the allocation of leaf 'b' keeps only 2"):
        gf.layerwise_masks(SCORES, allocation=allocation, floor=0.25)
    masks = gf.layerwise_masks(SCORES, allocation=allocation, floor=0.05)
    assert masks["b"].sum() == 2


def test_a_pattern_inside_of_earlier_masks_names_the_remedy():
    previous = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), SCORES)
    previous["a"][:4] = False
    with pytest.raises(ValueError, match=r"4 groups of 4 .* gf\.combine\(previous"):
        gf.n_of_m_masks(SCORES, axis=0, previous=previous)
