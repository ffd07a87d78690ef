"""Global selection, against NumPy and against what is promised."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradflow_jax as gf
from gradflow_jax.masks.selection import exact_threshold
from tests.masks.score_trees import (
    DENORMAL,
    FEW_SHAPES,
    ORDINARY,
    WITH_MATRICES,
    checked,
    everything,
    expected,
    flat,
    fractions,
    jitted_global,
    kept_of,
    same,
    score_trees,
    ties_are_meant,
)


@ties_are_meant
class TestGlobal:
    @checked
    @given(score_trees(), fractions)
    def test_equals_a_sort_in_numpy(self, scores, sparsity):
        masks = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        keep = kept_of(flat(scores).size, sparsity)
        np.testing.assert_array_equal(flat(masks), expected(scores, keep))

    @checked
    @given(score_trees(special=DENORMAL), fractions)
    def test_denormal_scores_are_ranked_like_others(self, scores, sparsity):
        masks = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        keep = kept_of(flat(scores).size, sparsity)
        np.testing.assert_array_equal(flat(masks), expected(scores, keep))

    @checked
    @given(score_trees(special=ORDINARY + DENORMAL), fractions)
    def test_keeps_exactly_the_number_asked_for(self, scores, sparsity):
        masks = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        assert flat(masks).sum() == kept_of(flat(scores).size, sparsity)

    @checked
    @given(score_trees(), fractions)
    def test_every_kept_score_is_at_least_every_pruned_one(self, scores, sparsity):
        masks = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        values, kept = flat(scores), flat(masks)
        if kept.any() and not kept.all():
            assert values[kept].min() >= values[~kept].max()

    @checked
    @given(score_trees(special=ORDINARY + DENORMAL), fractions, fractions)
    def test_what_a_higher_sparsity_keeps_a_lower_keeps_too(self, scores, a, b):
        low, high = sorted((a, b))
        dense = gf.global_masks(scores, sparsity=low, prunable=everything)
        sparse = gf.global_masks(scores, sparsity=high, prunable=everything)
        assert not np.any(flat(sparse) & ~flat(dense))

    @checked
    @given(score_trees(special=ORDINARY + DENORMAL), fractions)
    def test_is_deterministic(self, scores, sparsity):
        first = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        assert same(
            first, gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        )

    @checked
    @given(score_trees(FEW_SHAPES, ORDINARY + DENORMAL), st.sampled_from((0.0, 1 / 3)))
    def test_is_the_same_under_jit(self, scores, sparsity):
        eager = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        assert same(eager, jitted_global(scores, sparsity))

    @checked
    @given(score_trees(WITH_MATRICES), fractions)
    def test_by_default_vectors_and_scalars_are_kept_whole(self, scores, sparsity):
        masks = gf.global_masks(scores, sparsity=sparsity)
        matrices = {path: x for path, x in scores.items() if x.ndim >= 2}
        keep = kept_of(sum(x.size for x in matrices.values()), sparsity)
        chosen = {path: masks[path] for path in matrices}
        np.testing.assert_array_equal(flat(chosen), expected(matrices, keep))
        assert all(masks[path].all() for path in masks.keys() - matrices.keys())

    @checked
    @given(score_trees(), fractions)
    def test_masks_are_bool_in_the_tree_of_scores(self, scores, sparsity):
        masks = gf.global_masks(scores, sparsity=sparsity, prunable=everything)
        assert jax.tree.structure(masks) == jax.tree.structure(scores)
        for path, mask in masks.items():
            assert mask.dtype == bool and mask.shape == scores[path].shape

    def test_among_equals_the_earlier_leaf_then_the_lower_index_stays(self):
        scores = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
        masks = gf.global_masks(scores, sparsity=0.25)
        assert masks["a"].tolist() == [[True, True], [True, True]]
        assert masks["b"].tolist() == [[True, True], [False, False]]

    def test_the_two_zeros_are_one_score(self):
        scores = jnp.array([[-0.0, 0.0, -0.0, 0.0]])
        masks = gf.global_masks(scores, sparsity=0.5)
        assert masks.tolist() == [[True, True, False, False]]

    def test_one_dominating_leaf_takes_everything(self):
        scores = {"large": jnp.full((3, 4), 1e9), "small": jnp.full((4, 3), 1e-9)}
        masks = gf.global_masks(scores, sparsity=0.5)
        assert masks["large"].all() and not masks["small"].any()

    def test_scores_are_told_apart_at_the_last_bit(self):
        scores = np.nextafter(np.float32(1), np.float32([[0, 2, 0, 2]]))
        masks = gf.global_masks(scores, sparsity=0.5)
        assert masks.tolist() == [[False, True, False, True]]

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision_leaves_are_ranked_in_float32(self, dtype):
        # In bfloat16 256 and 257 are one number; the leaf in float32 tells them apart.
        scores = {
            "half": jnp.full((1, 2), 256, dtype),
            "single": jnp.array([[257.0, 255.0]]),
        }
        masks = gf.global_masks(scores, sparsity=0.75)
        assert masks["half"].tolist() == [[False, False]]
        assert masks["single"].tolist() == [[True, False]]

    def test_denormals_of_float16_are_ranked(self):
        scores = np.array([[0.0, 1e-7, 2e-7, 0.0]], np.float16)
        masks = gf.global_masks(scores, sparsity=0.75)
        assert masks.tolist() == [[False, False, True, False]]

    def test_float64_is_ranked_in_float64(self):
        scores = np.array([[1.0, 1.0 + 1e-12, 1.0 - 1e-12]])
        jax.config.update("jax_enable_x64", True)
        try:
            masks = gf.global_masks(scores, sparsity=2 / 3)
        finally:
            jax.config.update("jax_enable_x64", False)
        assert masks.tolist() == [[False, True, False]]

    def test_a_leaf_of_one_weight_is_ranked(self):
        scores = {"one": jnp.array([[1.0]]), "two": jnp.array([[2.0]])}
        masks = gf.global_masks(scores, sparsity=0.5)
        assert (bool(masks["one"]), bool(masks["two"])) == (False, True)

    def test_python_numbers_are_leaves_too(self):
        masks = gf.global_masks({"a": 1.0, "b": 2.0}, sparsity=0.5, prunable=everything)
        assert (bool(masks["a"]), bool(masks["b"])) == (False, True)

    def test_empty_leaves_alone_give_empty_masks(self):
        masks = gf.global_masks({"a": np.zeros((4, 0), np.float32)}, sparsity=0.5)
        assert masks["a"].shape == (4, 0)

    def test_an_excluded_leaf_may_hold_nan(self):
        scores = {"bias": jnp.array([jnp.nan]), "kernel": jnp.array([[1.0, 2.0]])}
        masks = gf.global_masks(scores, sparsity=0.5)
        assert masks["bias"].tolist() == [True]
        assert masks["kernel"].tolist() == [[False, True]]

    def test_maps_over_a_batch_of_scores(self):
        scores = jnp.arange(8.0).reshape(2, 2, 2)
        masks = jax.vmap(lambda s: gf.global_masks(s, sparsity=0.5))(scores)
        assert masks[0].tolist() == masks[1].tolist() == [[False, False], [True, True]]

    def test_scores_that_jit_does_not_trace_may_stand_beside_traced_ones(self):
        constant = jnp.array([[1.0, 4.0]])

        @jax.jit
        def masks(scores):
            return gf.global_masks({"a": constant, "b": scores}, sparsity=0.5)

        kept = masks(jnp.array([[2.0, 3.0]]))
        assert kept["a"].tolist() == [[False, True]]
        assert kept["b"].tolist() == [[False, True]]

    def test_a_new_sparsity_floor_or_round_compiles_nothing(self):
        scores = {"a": jnp.arange(12.0).reshape(4, 3), "b": jnp.ones((2, 3))}
        masks = gf.global_masks(scores, sparsity=0.1, floor=0.01)
        gf.global_masks(scores, sparsity=0.1, previous=masks)
        gf.layerwise_masks(scores, sparsity=0.1)
        gf.global_masks(scores, sparsity=0.1)
        before = exact_threshold._highest._cache_size()
        for sparsity in (0.2, 0.5, 0.9):
            gf.global_masks(scores, sparsity=sparsity)
            gf.global_masks(scores, sparsity=sparsity, floor=0.05)
            masks = gf.global_masks(scores, sparsity=sparsity, previous=masks)
            gf.layerwise_masks(scores, sparsity=sparsity)
        assert exact_threshold._highest._cache_size() == before


@ties_are_meant
class TestFloor:
    @checked
    @given(score_trees(FEW_SHAPES), fractions, st.sampled_from((0.05, 0.25, 0.5, 1.0)))
    def test_the_highest_of_each_leaf_stay_then_the_highest_of_all(
        self, scores, sparsity, floor
    ):
        keep = kept_of(flat(scores).size, sparsity)
        minimum = [math.ceil(Fraction(str(floor)) * x.size) for x in scores.values()]
        if sum(minimum) > keep:
            with pytest.raises(ValueError, match="lower the floor or the sparsity"):
                gf.global_masks(
                    scores, sparsity=sparsity, floor=floor, prunable=everything
                )
            return
        masks = gf.global_masks(
            scores, sparsity=sparsity, floor=floor, prunable=everything
        )
        np.testing.assert_array_equal(flat(masks), expected(scores, keep, minimum))
        for number, mask in zip(minimum, masks.values(), strict=True):
            assert mask.sum() >= number

    def test_the_layer_that_would_vanish_keeps_its_best(self):
        scores = {"large": jnp.full((4, 5), 9.0), "small": jnp.arange(20.0) / 100}
        masks = gf.global_masks(scores, sparsity=0.5, floor=0.05, prunable=everything)
        assert masks["large"].sum() == 19
        assert np.flatnonzero(masks["small"]).tolist() == [19]

    def test_no_floor_is_a_floor_of_zero(self):
        scores = {"a": jnp.arange(12.0).reshape(4, 3), "b": jnp.ones((2, 3))}
        assert same(
            gf.global_masks(scores, sparsity=0.5),
            gf.global_masks(scores, sparsity=0.5, floor=0.0),
        )

    def test_a_floor_of_seven_per_cent_of_100_weights_is_7(self):
        # 0.07 · 100 is 7.000000000000001 in floating point.
        masks = gf.global_masks(jnp.ones((10, 10)), sparsity=0.93, floor=0.07)
        assert masks.sum() == 7

    def test_floors_beyond_the_budget_are_an_error(self):
        with pytest.raises(
            ValueError, match=r"floor=0\.9 keeps 4 weights, but sparsity=0\.5 keeps"
        ):
            gf.global_masks(jnp.ones((2, 2)), sparsity=0.5, floor=0.9)

    @pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan])
    def test_a_floor_out_of_range_is_an_error(self, floor):
        with pytest.raises(ValueError, match=rf"floor is {floor}, outside \[0, 1\]"):
            gf.global_masks(jnp.ones((2, 2)), sparsity=0.5, floor=floor)

    def test_a_floor_that_is_no_number_is_an_error(self):
        with pytest.raises(TypeError, match="floor is 'abc', not a number"):
            gf.global_masks(jnp.ones((2, 2)), sparsity=0.5, floor="abc")

    def test_a_traced_floor_is_an_error(self):
        with pytest.raises(TypeError, match="floor is traced.*static argument"):
            jax.jit(
                lambda floor: gf.global_masks(
                    jnp.ones((2, 2)), sparsity=0.5, floor=floor
                )
            )(0.1)
