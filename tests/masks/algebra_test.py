"""Applying, combining and comparing masks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf
from gradflow_jax.trees import is_numeric

checked = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SHAPES = {"bias": (3,), "kernel": (2, 3), "scalar": ()}


@st.composite
def masks(draw):
    return {
        path: np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        .astype(bool)
        .reshape(shape)
        for path, shape in SHAPES.items()
        for size in [math.prod(shape)]
    }


def invert(tree):
    return jax.tree.map(np.logical_not, tree)


def union(*trees):
    return gf.combine(*trees, how="union")


def same(tree, other_tree):
    assert jax.tree.structure(tree) == jax.tree.structure(other_tree)
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, other_tree)))


def subset(tree, other_tree):
    inside = jax.tree.map(lambda x, y: bool(np.all(x <= y)), tree, other_tree)
    return all(jax.tree.leaves(inside))


class TestApply:
    def test_a_removed_weight_is_positive_zero_whatever_it_was(self):
        odd = jnp.array([jnp.nan, jnp.inf, -jnp.inf, -0.0, 3e38, -1.0])
        pruned = np.asarray(gf.prune(odd, jnp.zeros(6, bool)))
        assert pruned.tobytes() == np.zeros(6, np.float32).tobytes()

    def test_a_kept_weight_keeps_its_bits(self):
        odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, 1 / 3], np.float32)
        kept = np.asarray(gf.prune(odd, np.ones(6, bool)))
        assert kept.tobytes() == odd.tobytes()

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
    def test_the_dtype_stays(self, dtype):
        pruned = gf.prune(jnp.array([1.5, -2.0], dtype), jnp.array([True, False]))
        assert pruned.dtype == dtype and pruned.tolist() == [1.5, 0.0]

    def test_float64_stays(self):
        jax.config.update("jax_enable_x64", True)
        try:
            pruned = gf.prune(np.array([0.1, 0.2]), np.array([True, False]))
        finally:
            jax.config.update("jax_enable_x64", False)
        assert pruned.dtype == np.float64 and pruned.tolist() == [0.1, 0.0]

    @checked
    @given(masks(), masks())
    def test_one_after_the_other_is_their_intersection(self, a, b):
        params = jax.tree.map(lambda mask: np.full(mask.shape, 2.0, np.float32), a)
        twice = gf.prune(gf.prune(params, a), b)
        assert same(twice, gf.prune(params, gf.combine(a, b)))
        assert same(twice, jax.tree.map(lambda x, y: 2.0 * (x & y), a, b))

    def test_is_the_same_under_jit(self):
        params, kept = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
        assert jax.jit(gf.prune)(params, kept).tolist() == [1.0, 0.0, 3.0]

    def test_no_gradient_flows_to_a_removed_weight(self):
        kept = jnp.array([True, False])
        gradient = jax.grad(lambda x: gf.prune(x, kept).sum())(jnp.ones(2))
        assert gradient.tolist() == [1.0, 0.0]

    def test_swapped_arguments_are_an_error(self):
        params, kept = {"a": jnp.ones((2, 2))}, {"a": jnp.ones((2, 2), bool)}
        with pytest.raises(TypeError, match=r"masks leaf 'a' is float32\[2,2\], not"):
            gf.prune(kept, params)

    def test_masks_of_another_structure_are_an_error(self):
        params = {"a": jnp.ones(2), "b": jnp.ones(2)}
        with pytest.raises(ValueError, match="masks lacks the leaf 'b'"):
            gf.prune(params, {"a": jnp.ones(2, bool)})

    def test_masks_with_a_leaf_too_many_are_an_error(self):
        kept = {"a": jnp.ones(2, bool), "b": jnp.ones(2, bool)}
        with pytest.raises(
            ValueError, match="masks has the leaf 'b', which params lacks"
        ):
            gf.prune({"a": jnp.ones(2)}, kept)

    def test_masks_of_another_shape_are_an_error_even_where_they_broadcast(self):
        with pytest.raises(
            ValueError, match=r"masks leaf 'a' has shape \(1,\), but params has \(2,\)"
        ):
            gf.prune({"a": jnp.ones(2)}, {"a": jnp.ones(1, bool)})

    @pytest.mark.parametrize("dtype", ["int32", "float32"])
    def test_masks_that_are_not_bool_are_an_error(self, dtype):
        with pytest.raises(TypeError, match=rf"masks leaf 'a' is {dtype}\[2\], not bo"):
            gf.prune({"a": jnp.ones(2)}, {"a": jnp.ones(2, dtype)})

    def test_no_masks_are_an_error(self):
        with pytest.raises(ValueError, match="masks has no leaves"):
            gf.prune({"a": jnp.ones(2)}, {})

    def test_no_params_are_an_error(self):
        with pytest.raises(ValueError, match="params has no leaves"):
            gf.prune({}, {"a": jnp.ones(2, bool)})

    def test_integer_params_are_an_error(self):
        with pytest.raises(TypeError, match=r"params leaf 'a' is int32\[2\]"):
            gf.prune({"a": jnp.ones(2, jnp.int32)}, {"a": jnp.ones(2, bool)})

    def test_complex_params_are_an_error(self):
        with pytest.raises(TypeError, match=r"params leaf 'a' is complex64\[2\]"):
            gf.prune({"a": jnp.ones(2, jnp.complex64)}, {"a": jnp.ones(2, bool)})


class TestCombine:
    @checked
    @given(masks(), masks(), masks())
    def test_the_laws_of_sets_hold(self, a, b, c):
        both, either = gf.combine(a, b), union(a, b)
        assert same(gf.combine(a, a), a) and same(union(a, a), a)
        assert same(both, gf.combine(b, a)) and same(either, union(b, a))
        assert same(invert(both), union(invert(a), invert(b)))
        assert same(invert(either), gf.combine(invert(a), invert(b)))
        assert same(gf.combine(a, b, c), gf.combine(both, c))
        assert same(union(a, b, c), union(either, c))
        assert same(gf.combine(a, either), a) and same(union(a, both), a)
        assert subset(both, a) and subset(both, b)
        assert subset(a, either) and subset(b, either)

    @checked
    @given(masks(), masks())
    def test_it_is_and_and_or_leaf_by_leaf(self, a, b):
        assert same(gf.combine(a, b), jax.tree.map(np.logical_and, a, b))
        assert same(union(a, b), jax.tree.map(np.logical_or, a, b))

    def test_one_mask_is_itself(self):
        kept = {"a": jnp.array([True, False])}
        assert same(gf.combine(kept), kept) and same(union(kept), kept)

    def test_leaves_stay_bool(self):
        kept = jnp.array([True, False])
        assert gf.combine(kept, kept).dtype == union(kept, kept).dtype == bool

    def test_is_the_same_under_jit(self):
        a, b = jnp.array([True, True, False]), jnp.array([True, False, False])
        assert jax.jit(gf.combine)(a, b).tolist() == [True, False, False]

    def test_no_mask_is_an_error(self):
        with pytest.raises(TypeError, match="at least one mask tree, found none"):
            gf.combine()

    def test_another_way_to_combine_is_an_error(self):
        with pytest.raises(
            ValueError, match="how is 'xor'; it is one of 'intersection', 'union'"
        ):
            gf.combine(jnp.ones(2, bool), how="xor")

    def test_masks_of_another_structure_are_an_error(self):
        a = {"a": jnp.ones(2, bool), "b": jnp.ones(2, bool)}
        with pytest.raises(ValueError, match="masks 2 lacks the leaf 'b'"):
            gf.combine(a, a, {"a": jnp.ones(2, bool)})

    def test_masks_of_another_shape_are_an_error(self):
        with pytest.raises(ValueError, match=r"masks 1 leaf 'a' has shape \(3,\)"):
            gf.combine({"a": jnp.ones(2, bool)}, {"a": jnp.ones(3, bool)})

    @pytest.mark.parametrize("place", [0, 1])
    def test_masks_that_are_not_bool_are_an_error(self, place):
        trees = [{"a": jnp.ones(2, bool)}, {"a": jnp.ones(2, bool)}]
        trees[place] = {"a": jnp.ones(2)}
        with pytest.raises(TypeError, match=rf"masks {place} leaf 'a' is float32\[2\]"):
            gf.combine(*trees)


class TestOverlap:
    def test_by_hand(self):
        a = {"x": jnp.array([[True, True, False]]), "y": jnp.array([[True, False]])}
        b = {"x": jnp.array([[True, False, False]]), "y": jnp.array([[True, True]])}
        assert gf.overlap(a, b) == 2 / 4

    @checked
    @given(masks(), masks())
    def test_equals_numpy(self, a, b):
        flat_a, flat_b = (
            np.concatenate([np.ravel(tree[path]) for path in SHAPES]) for tree in (a, b)
        )
        union = np.sum(flat_a | flat_b)
        expected = np.sum(flat_a & flat_b) / union if union else 1.0
        got = gf.overlap(a, b, prunable=lambda path, leaf: True)
        assert got == expected == gf.overlap(b, a, prunable=lambda path, leaf: True)
        assert type(got) is float

    def test_only_prunable_leaves_count(self):
        a = {"bias": jnp.array([True, True]), "kernel": jnp.array([[True, False]])}
        b = {"bias": jnp.array([True, True]), "kernel": jnp.array([[False, True]])}
        assert gf.overlap(a, b) == 0.0
        assert gf.overlap(a, b, prunable=lambda path, leaf: True) == 0.5

    def test_a_mask_with_itself_overlaps_wholly_even_where_it_keeps_nothing(self):
        kept = jnp.array([[True, False]])
        assert gf.overlap(kept, kept) == 1.0
        assert gf.overlap(kept & False, kept & False) == 1.0

    def test_random_masks_overlap_as_chance_says(self):
        a, b = (np.random.default_rng(i).random((100, 400)) < 0.2 for i in (0, 1))
        assert gf.overlap(a, b) == pytest.approx(0.2 / (2 - 0.2), rel=0.05)

    def test_masks_of_another_structure_are_an_error(self):
        a = {"x": jnp.ones((1, 2), bool), "y": jnp.ones((1, 2), bool)}
        with pytest.raises(ValueError, match="b lacks the leaf 'y'"):
            gf.overlap(a, {"x": jnp.ones((1, 2), bool)})

    def test_masks_of_another_shape_are_an_error(self):
        with pytest.raises(ValueError, match=r"b leaf 'x' has shape \(1, 3\)"):
            gf.overlap({"x": jnp.ones((1, 2), bool)}, {"x": jnp.ones((1, 3), bool)})

    def test_masks_that_are_not_bool_are_an_error(self):
        kept = {"x": jnp.ones((1, 2), bool)}
        with pytest.raises(TypeError, match=r"a leaf 'x' is float32\[1,2\], not bool"):
            gf.overlap({"x": jnp.ones((1, 2))}, kept)
        with pytest.raises(TypeError, match=r"b leaf 'x' is float32\[1,2\], not bool"):
            gf.overlap(kept, {"x": jnp.ones((1, 2))})

    def test_no_prunable_leaf_is_an_error(self):
        kept = {"bias": jnp.ones(2, bool)}
        with pytest.raises(ValueError, match=r"no leaf is prunable among: bias bool"):
            gf.overlap(kept, kept)

    def test_no_leaf_is_an_error(self):
        with pytest.raises(ValueError, match="a has no leaves"):
            gf.overlap({}, {})


@pytest.mark.parametrize("how", [None, 1, np.ones(2), np.array(["union"]), 10**99])
def test_what_names_no_operation_is_an_error(how):
    with pytest.raises(ValueError, match="how is .*; it is one of 'intersection', 'u"):
        gf.combine(np.ones(2, bool), how=how)


def test_shapes_without_values_are_an_error():
    shape, mask = jax.ShapeDtypeStruct((2,), bool), np.ones(2, bool)
    for call in (
        lambda: gf.prune({"a": np.ones(2, np.float32)}, {"a": shape}),
        lambda: gf.prune({"a": jax.ShapeDtypeStruct((2,), "float32")}, {"a": mask}),
        lambda: gf.combine({"a": mask}, {"a": shape}),
        lambda: gf.report({"a": shape}),
    ):
        with pytest.raises(TypeError, match="leaf 'a' is .*2., a shape without values"):
            call()


def test_keys_without_an_order_are_an_error():
    tree = {1: np.ones(2, np.uint8), "b": np.ones(2, np.uint8)}
    for packed, like in ((tree, {}), ({}, tree)):
        with pytest.raises(ValueError, match="has keys of int and str"):
            gf.unpack_masks(packed, like)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_dtypes_that_jax_does_not_know_are_an_error(dtype):
    odd = np.ones((2, 2), dtype)
    assert not is_numeric(odd)
    for call in (
        lambda: gf.prune({"a": odd}, {"a": np.ones((2, 2), bool)}),
        lambda: gf.global_masks({"a": odd}, sparsity=0.5),
    ):
        with pytest.raises(TypeError, match=r"leaf 'a' is .*\[2,2\]; .* convert"):
            call()
