"""Global and layer-by-layer selection, against numpy and against what is promised."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gradflow_jax as gf
from gradflow_jax.masks.selection import exact_threshold

# Each new combination of shapes compiles the selection anew: few shapes, many values.
SHAPES = (
    ((4, 3),),
    ((2, 3), (4,), ()),
    ((1,), (1, 1), (), (2, 2, 2, 3), (7,), (2, 1, 2)),
    ((0, 4), (3, 2)),
    ((30, 10), (1,)),
    ((3, 1, 2), (2, 3), (3, 1, 2), (2, 3)),
)
# Where floors, earlier masks or jit make other programs of the same shapes.
FEW_SHAPES = SHAPES[3:]
WITH_MATRICES = tuple(s for s in SHAPES if any(len(shape) > 1 for shape in s))
ORDINARY = (0.0, -0.0, 1.0, -1.0, 1.0000001, 3e38, -3e38, 2e-38, -2e-38)
DENORMAL = (0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.1e-38, 1.2e-38)

checked = settings(max_examples=60, deadline=None, derandomize=True, database=None)
fractions = st.sampled_from((0.0, 0.1, 1 / 3, 0.5, 0.95, 1.0)) | st.floats(0, 1)


def everything(path, leaf):
    return True


@st.composite
def score_trees(draw, shapes=SHAPES, special=ORDINARY):
    """Trees filled from a few values, so that ties are the rule."""
    numbers = st.floats(
        width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
    )
    values = draw(st.lists(st.sampled_from(special) | numbers, min_size=1, max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = draw(st.sampled_from(shapes))
    return {
        "abcdef"[i]: np.asarray(rng.choice(values, shape), np.float32)
        for i, shape in enumerate(chosen)
    }


@st.composite
def mask_trees(draw, tree):
    density = draw(st.sampled_from((0.0, 0.3, 0.7, 1.0)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {k: np.asarray(rng.random(x.shape) < density) for k, x in tree.items()}


def kept_of(size, sparsity):
    return size - round(sparsity * size)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def ranked(scores, among):
    """The indices in `among`, the highest score first, the lower index among equals."""
    indices = np.flatnonzero(among)
    return indices[np.lexsort((indices, -scores[indices]))]


def expected(tree, keep, minimum=None, alive=None):
    """Which of the flat scores stay, by sorting in numpy."""
    scores = flat(tree)
    alive = np.ones(scores.shape, bool) if alive is None else flat(alive)
    kept = np.zeros(scores.shape, bool)
    if minimum is not None:
        ends = np.cumsum([leaf.size for leaf in tree.values()])
        for number, leaf, end in zip(minimum, tree.values(), ends, strict=True):
            inside = np.zeros(scores.shape, bool)
            inside[end - leaf.size : end] = True
            kept[ranked(scores, inside & alive)[:number]] = True
    rest = ranked(scores, alive & ~kept)
    kept[rest[: keep - kept.sum()]] = True
    return kept


def same(masks, others):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(masks), jax.tree.leaves(others), strict=True)
    )


jitted_global = jax.jit(
    lambda scores, sparsity: gf.global_masks(
        scores, sparsity=sparsity, prunable=everything
    ),
    static_argnums=1,
)


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


class TestLayerwise:
    @checked
    @given(score_trees(), fractions)
    def test_equals_a_sort_of_each_leaf_in_numpy(self, scores, sparsity):
        masks = gf.layerwise_masks(scores, sparsity=sparsity, prunable=everything)
        for path, leaf in scores.items():
            wanted = expected({path: leaf}, kept_of(leaf.size, sparsity))
            np.testing.assert_array_equal(np.ravel(masks[path]), wanted)

    @checked
    @given(score_trees(special=DENORMAL), fractions)
    def test_denormal_scores_are_ranked_like_others(self, scores, sparsity):
        masks = gf.layerwise_masks(scores, sparsity=sparsity, prunable=everything)
        for path, leaf in scores.items():
            wanted = expected({path: leaf}, kept_of(leaf.size, sparsity))
            np.testing.assert_array_equal(np.ravel(masks[path]), wanted)

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
            wanted = expected({path: leaf}, allocation[path])
            np.testing.assert_array_equal(np.ravel(masks[path]), wanted)

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

    @pytest.mark.parametrize("given", [{}, {"sparsity": 0.5, "allocation": {"a": 1}}])
    def test_it_takes_sparsity_or_allocation_and_one_of_them(self, given):
        with pytest.raises(TypeError, match="either sparsity= or allocation="):
            gf.layerwise_masks({"a": jnp.ones((2, 2))}, **given)

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
    @pytest.mark.parametrize(
        "value, name", [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
    )
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_scores_that_are_not_finite(self, select, value, name, dtype):
        scores = {"a": jnp.ones((2, 2)), "b": jnp.array([[1.0, value, value]])}
        scores = jax.tree.map(lambda leaf: leaf.astype(dtype), scores)
        with pytest.raises(
            ValueError,
            match=rf"leaf 'b' has 2 of 3 values that are not finite \(2 {name}\): "
            ".*exclude the leaf by prunable=",
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

    def test_a_sparsity_in_per_cent_is_recognised(self, select):
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
