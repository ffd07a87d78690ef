"""Selection in rounds: what was removed never returns."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import gradflow_jax as gf
from tests.masks.score_trees import (
    FEW_SHAPES,
    checked,
    everything,
    expected,
    flat,
    fractions,
    kept_of,
    mask_trees,
    same,
    score_trees,
    ties_are_meant,
)


@ties_are_meant
class TestPrevious:
    @checked
    @given(st.data(), score_trees(FEW_SHAPES), fractions)
    def test_a_weight_removed_never_returns(self, data, scores, sparsity):
        previous = data.draw(mask_trees(scores))
        keep = kept_of(flat(scores).size, sparsity)
        if flat(previous).sum() < keep:
            with pytest.raises(ValueError, match="a pruned weight never returns"):
                gf.global_masks(
                    scores, sparsity=sparsity, previous=previous, prunable=everything
                )
            return
        masks = gf.global_masks(
            scores, sparsity=sparsity, previous=previous, prunable=everything
        )
        np.testing.assert_array_equal(
            flat(masks), expected(scores, keep, alive=previous)
        )
        assert not np.any(flat(masks) & ~flat(previous))

    @checked
    @given(st.data(), score_trees(FEW_SHAPES))
    def test_floors_count_only_what_is_left(self, data, scores):
        previous = data.draw(mask_trees(scores))
        minimum = [math.ceil(x.size / 4) for x in scores.values()]
        size, living = flat(scores).size, int(flat(previous).sum())
        assume(sum(minimum) <= living)
        keep = data.draw(st.integers(sum(minimum), living))
        masks = gf.global_masks(
            scores,
            sparsity=1 - keep / size,
            floor=0.25,
            previous=previous,
            prunable=everything,
        )
        np.testing.assert_array_equal(
            flat(masks), expected(scores, keep, minimum, previous)
        )

    def test_rounds_of_pruning_are_nested(self):
        rng = np.random.default_rng(0)
        masks = None
        for sparsity in (0.2, 0.5, 0.8):
            scores = {"a": rng.random((4, 3)), "b": rng.random((2, 3))}
            before = masks
            masks = gf.global_masks(scores, sparsity=sparsity, previous=before)
            assert flat(masks).sum() == kept_of(18, sparsity)
            if before is not None:
                assert not np.any(flat(masks) & ~flat(before))

    def test_scores_and_masks_may_both_be_traced(self):
        scores, previous = jnp.arange(8.0).reshape(2, 4), jnp.arange(8).reshape(2, 4)
        previous = previous % 2 == 0

        def masks(scores, previous):
            return gf.global_masks(scores, sparsity=0.75, previous=previous)

        eager = masks(scores, previous)
        assert np.flatnonzero(eager).tolist() == [4, 6]
        assert same(eager, jax.jit(masks)(scores, previous))

    def test_masks_of_an_earlier_round_may_be_constants_of_a_jitted_function(self):
        scores = jnp.array([[4.0, 3.0], [2.0, 1.0]])
        previous = jnp.array([[False, True], [True, True]])
        masks = jax.jit(
            lambda scores: gf.global_masks(scores, sparsity=0.5, previous=previous)
        )(scores)
        assert masks.tolist() == [[False, True], [True, False]]

    def test_scores_may_be_constants_where_the_masks_are_traced(self):
        scores = jnp.array([[4.0, 3.0], [2.0, 1.0]])
        previous = jnp.array([[False, True], [True, True]])
        masks = jax.jit(
            lambda previous: gf.global_masks(scores, sparsity=0.5, previous=previous)
        )(previous)
        assert masks.tolist() == [[False, True], [True, False]]

    def test_what_was_removed_of_a_leaf_now_excluded_does_not_quietly_return(self):
        scores = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
        previous = {"bias": jnp.array([True, False]), "kernel": jnp.ones((2, 2), bool)}
        try:
            masks = gf.global_masks(scores, sparsity=0.5, previous=previous)
        except ValueError:
            return
        assert not masks["bias"][1]

    def test_too_few_left_is_an_error(self):
        previous = jnp.array([[True, False], [False, False]])
        with pytest.raises(ValueError, match="previous masks keep 1 weights, but 2 "):
            gf.global_masks(jnp.ones((2, 2)), sparsity=0.5, previous=previous)

    def test_masks_of_another_structure_are_an_error(self):
        scores = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
        with pytest.raises(ValueError, match="previous lacks the leaf 'b'"):
            gf.global_masks(
                scores, sparsity=0.5, previous={"a": jnp.ones((2, 2), bool)}
            )

    def test_masks_of_another_shape_are_an_error(self):
        with pytest.raises(ValueError, match=r"previous leaf 'a' has shape \(3, 2\)"):
            gf.global_masks(
                {"a": jnp.ones((2, 2))},
                sparsity=0.5,
                previous={"a": jnp.ones((3, 2), bool)},
            )

    def test_masks_that_are_not_bool_are_an_error(self):
        scores = {"a": jnp.ones((2, 2))}
        with pytest.raises(TypeError, match=r"previous leaf 'a' is float32\[2,2\]"):
            gf.global_masks(scores, sparsity=0.5, previous=scores)
