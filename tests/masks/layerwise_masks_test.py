"""Selection layer by layer, against NumPy and against what is promised."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradflow_jax as gf
from tests.masks.score_trees import (
    DENORMAL,
    ORDINARY,
    WITH_MATRICES,
    checked,
    everything,
    expected,
    flat,
    fractions,
    kept_of,
    same,
    score_trees,
    ties_are_meant,
)


@ties_are_meant
class TestLayerwise:
    @checked
    @given(score_trees(), fractions)
    def test_equals_a_sort_of_each_leaf_in_numpy(self, scores, sparsity):
        masks = gf.layerwise_masks(scores, sparsity=sparsity, prunable=everything)
        for path, leaf in scores.items():
            kept = expected({path: leaf}, kept_of(leaf.size, sparsity))
            np.testing.assert_array_equal(np.ravel(masks[path]), kept)

    @checked
    @given(score_trees(special=DENORMAL), fractions)
    def test_denormal_scores_are_ranked_like_others(self, scores, sparsity):
        masks = gf.layerwise_masks(scores, sparsity=sparsity, prunable=everything)
        for path, leaf in scores.items():
            kept = expected({path: leaf}, kept_of(leaf.size, sparsity))
            np.testing.assert_array_equal(np.ravel(masks[path]), kept)

    @checked
    @given(score_trees(special=ORDINARY + DENORMAL), fractions)
    def test_keeps_exactly_the_number_asked_for_of_each_leaf(self, scores, sparsity):
        masks = gf.layerwise_masks(scores, sparsity=sparsity, prunable=everything)
        for path, leaf in scores.items():
            assert masks[path].sum() == kept_of(leaf.size, sparsity)

    @checked
    @given(score_trees(), fractions)
    def test_every_kept_score_is_at_least_every_pruned_one_of_its_leaf(
        self, scores, sparsity
    ):
        masks = gf.layerwise_masks(scores, sparsity=sparsity, prunable=everything)
        for path, leaf in scores.items():
            kept = np.asarray(masks[path])
            if kept.any() and not kept.all():
                assert leaf[kept].min() >= leaf[~kept].max()

    @checked
    @given(score_trees(special=ORDINARY + DENORMAL), fractions, fractions)
    def test_what_a_higher_sparsity_keeps_a_lower_keeps_too(self, scores, a, b):
        low, high = sorted((a, b))
        dense = gf.layerwise_masks(scores, sparsity=low, prunable=everything)
        sparse = gf.layerwise_masks(scores, sparsity=high, prunable=everything)
        assert not np.any(flat(sparse) & ~flat(dense))

    @checked
    @given(score_trees(WITH_MATRICES), fractions)
    def test_by_default_vectors_and_scalars_are_kept_whole(self, scores, sparsity):
        masks = gf.layerwise_masks(scores, sparsity=sparsity)
        for path, leaf in scores.items():
            size = leaf.size
            kept = kept_of(size, sparsity) if leaf.ndim >= 2 else size
            assert masks[path].sum() == kept

    @checked
    @given(st.data(), score_trees())
    def test_an_allocation_says_how_many_of_each_leaf(self, data, scores):
        allocation = {
            path: data.draw(st.integers(0, leaf.size)) for path, leaf in scores.items()
        }
        masks = gf.layerwise_masks(scores, allocation=allocation)
        for path, leaf in scores.items():
            kept = expected({path: leaf}, allocation[path])
            np.testing.assert_array_equal(np.ravel(masks[path]), kept)

    def test_is_the_same_under_jit(self):
        scores = {"a": jnp.array([[3.0, 1.0, 3.0]]), "b": jnp.array([[0.0], [1.0]])}

        def masks(scores):
            return gf.layerwise_masks(scores, sparsity=0.5)

        assert same(masks(scores), jax.jit(masks)(scores))

    def test_a_leaf_that_an_allocation_keeps_whole_may_hold_nan(self):
        scores = {"a": jnp.array([jnp.nan]), "b": jnp.array([1.0, 2.0])}
        masks = gf.layerwise_masks(scores, allocation={"a": 1, "b": 1})
        assert masks["a"].tolist() == [True] and masks["b"].tolist() == [False, True]

    @pytest.mark.parametrize(
        "number", [np.int64(1), np.array(1), jnp.array(1)], ids=["scalar", "0d", "jax"]
    )
    def test_integers_of_numpy_and_jax_are_an_allocation(self, number):
        masks = gf.layerwise_masks(jnp.arange(4.0), allocation=number)
        assert masks.tolist() == [False, False, False, True]

    @pytest.mark.parametrize(
        "arguments", [{}, {"sparsity": 0.5, "allocation": {"a": 1}}]
    )
    def test_it_takes_sparsity_or_allocation_and_one_of_them(self, arguments):
        with pytest.raises(TypeError, match="either sparsity= or allocation="):
            gf.layerwise_masks({"a": jnp.ones((2, 2))}, **arguments)

    def test_an_allocation_of_fractions_is_an_error(self):
        with pytest.raises(TypeError, match=r"leaf 'a' is 0\.5, not a number.*quotas"):
            gf.layerwise_masks({"a": jnp.ones((2, 2))}, allocation={"a": 0.5})

    def test_an_allocation_of_words_is_an_error(self):
        with pytest.raises(TypeError, match="leaf 'a' is 'all', not a number"):
            gf.layerwise_masks({"a": jnp.ones((2, 2))}, allocation={"a": "all"})

    def test_a_traced_allocation_is_an_error(self):
        with pytest.raises(TypeError, match="allocation.*traced"):
            jax.jit(lambda k: gf.layerwise_masks(jnp.ones((2, 2)), allocation=k))(2)

    @pytest.mark.parametrize("number", [-1, 5])
    def test_an_allocation_beyond_the_leaf_is_an_error(self, number):
        with pytest.raises(
            ValueError, match=f"leaf 'a' keeps {number} weights of a leaf that has 4"
        ):
            gf.layerwise_masks({"a": jnp.ones((2, 2))}, allocation={"a": number})

    def test_an_allocation_of_another_tree_is_an_error(self):
        scores = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
        with pytest.raises(ValueError, match="allocation lacks the leaf 'b'"):
            gf.layerwise_masks(scores, allocation={"a": 1})

    def test_an_allocation_with_arrays_is_an_error(self):
        with pytest.raises(ValueError, match=r"allocation leaf 'a' has shape \(2,\)"):
            gf.layerwise_masks(
                {"a": jnp.ones((2, 2))}, allocation={"a": np.array([1, 1])}
            )


both = pytest.mark.parametrize("select", [gf.global_masks, gf.layerwise_masks])


@both
class TestErrors:
    @pytest.mark.parametrize("value, name", [(math.nan, "nan"), (math.inf, "inf")])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_scores_that_are_not_finite(self, select, value, name, dtype):
        scores = {"a": jnp.ones((2, 2)), "b": jnp.array([[1.0, value, value]])}
        scores = jax.tree.map(lambda leaf: leaf.astype(dtype), scores)
        with pytest.raises(
            ValueError,
            match=rf"leaf 'b' has 2 of 3 values that are not finite \(2 {name}\): "
            ".*exclude the leaf by ignore= or prunable=",
        ):
            select(scores, sparsity=0.5)

    def test_integer_scores(self, select):
        with pytest.raises(TypeError, match=r"scores leaf 'a' is int32\[2,2\]"):
            select({"a": jnp.ones((2, 2), jnp.int32)}, sparsity=0.5)

    def test_complex_scores(self, select):
        with pytest.raises(
            TypeError, match=r"scores leaf 'a' is complex64\[2,2\]; .*real weights"
        ):
            select({"a": jnp.ones((2, 2), jnp.complex64)}, sparsity=0.5)

    def test_masks_in_place_of_scores(self, select):
        with pytest.raises(TypeError, match=r"scores leaf 'a' is bool\[2,2\]"):
            select({"a": jnp.ones((2, 2), bool)}, sparsity=0.5)

    @pytest.mark.parametrize("sparsity", [-0.1, 1.1, 90.0, math.nan])
    def test_a_sparsity_out_of_range(self, select, sparsity):
        with pytest.raises(
            ValueError, match=rf"sparsity is {sparsity}, outside \[0, 1\]"
        ):
            select(jnp.ones((2, 2)), sparsity=sparsity)

    def test_a_sparsity_in_per_cent_is_recognized(self, select):
        with pytest.raises(ValueError, match="a fraction, not per cent"):
            select(jnp.ones((2, 2)), sparsity=90)

    @pytest.mark.parametrize("sparsity", ["abc", [0.5]])
    def test_a_sparsity_that_is_no_number(self, select, sparsity):
        with pytest.raises(TypeError, match="sparsity is .*, not a number in"):
            select(jnp.ones((2, 2)), sparsity=sparsity)

    def test_a_traced_sparsity(self, select):
        with pytest.raises(TypeError, match="sparsity is traced.*static argument"):
            jax.jit(lambda s: select(jnp.ones((2, 2)), sparsity=s))(0.5)

    def test_an_empty_tree(self, select):
        with pytest.raises(ValueError, match="scores has no leaves"):
            select({}, sparsity=0.5)

    def test_no_prunable_leaf(self, select):
        with pytest.raises(
            ValueError, match=r"no leaf is prunable among: bias float32\[3\].*prunable="
        ):
            select({"bias": jnp.ones(3)}, sparsity=0.5)
