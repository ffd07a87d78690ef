"""Allocations against another way to find them, and against the papers' formulas."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf

checked = settings(max_examples=100, deadline=None, derandomize=True, database=None)
fractions = st.sampled_from((0.0, 0.5, 0.8, 0.95, 0.99, 1.0)) | st.floats(0, 1)
lengths = st.sampled_from((1, 2, 3, 5, 8, 16, 64, 300))
# Other shapes do not say which of their axes are inputs.
shapes = st.lists(
    st.tuples(lengths, lengths) | st.tuples(lengths, lengths, lengths, lengths),
    min_size=1,
)
some = st.integers(0, 9)

WORDS = ("out", "head", "window", "stack", "group")

both = pytest.mark.parametrize("allocate", [gf.erdos_renyi, gf.erdos_renyi_kernel])


def everything(path, leaf):
    return True


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def density(allocate, shape):
    """The papers' density of a layer, up to the common factor."""
    if allocate is gf.erdos_renyi:
        shape = shape[-2:]
    return sum(shape) / math.prod(shape)


def shares_by_bisection(keep, sizes, densities):
    """Solves Σ size · min(1, ε · density) = keep for ε by halving an interval."""

    def shares(epsilon):
        return [
            size * min(1.0, epsilon * dense)
            for size, dense in zip(sizes, densities, strict=True)
        ]

    low, high = 0.0, 1.0 / min(densities)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(shares(middle)) < keep:
            low = middle
        else:
            high = middle
    return shares(high)


@both
class TestErdosRenyi:
    @checked
    @given(shapes, fractions)
    def test_agrees_with_bisection(self, allocate, shapes, sparsity):
        params = [leaf(*shape) for shape in shapes]
        sizes = [math.prod(shape) for shape in shapes]
        keep = sum(sizes) - round(sparsity * sum(sizes))
        allocation = allocate(params, sparsity=sparsity)
        expected = shares_by_bisection(
            keep, sizes, [density(allocate, shape) for shape in shapes]
        )
        assert sum(allocation) == keep
        for number, share, size in zip(allocation, expected, sizes, strict=True):
            assert abs(number - share) <= 1 + 1e-6 * size
            assert 0 <= number <= size

    @checked
    @given(
        st.lists(
            st.tuples(some, st.just("in")) | st.tuples(some, st.sampled_from(WORDS)),
            min_size=1,
            max_size=4,
        ).map(lambda axes: [*axes, (3, "in")]),
        fractions,
    )
    def test_the_sum_is_exact_whatever_axes_are_and_with_empty_leaves(
        self, allocate, axes, sparsity
    ):
        numbers, words = zip(*axes, strict=True)
        shapes = [numbers, numbers[1:], (4, 0), (0, 3)]
        roles = [words, words[1:], ("in", "out"), ("out", "in")]
        params = [leaf(*shape) for shape in shapes]
        sizes = [math.prod(shape) for shape in shapes]
        allocation = allocate(
            params, sparsity=sparsity, roles=roles, prunable=everything
        )
        assert sum(allocation) == sum(sizes) - round(sparsity * sum(sizes))
        for number, size in zip(allocation, sizes, strict=True):
            assert type(number) is int and 0 <= number <= size

    def test_sparsity_0_keeps_all_and_1_nothing(self, allocate):
        params = {"a": leaf(3, 3, 4, 8), "b": leaf(32, 10), "c": leaf(10)}
        dense = {"a": 288, "b": 320, "c": 10}
        assert allocate(params, sparsity=0.0) == dense
        assert allocate(params, sparsity=1.0) == {"a": 0, "b": 0, "c": 10}

    def test_what_a_full_layer_cannot_take_goes_to_the_others(self, allocate):
        params = {"small": leaf(2, 2), "large": leaf(100, 100)}
        allocation = allocate(params, sparsity=0.5)
        assert allocation == {"small": 4, "large": 4998}

    def test_small_layers_stay_denser(self, allocate):
        params = [leaf(10, 10), leaf(40, 40), leaf(80, 80)]
        numbers = allocate(params, sparsity=0.9)
        densities = [
            number / math.prod(param.shape)
            for number, param in zip(numbers, params, strict=True)
        ]
        assert densities == sorted(densities, reverse=True)

    def test_layers_that_are_not_prunable_are_kept_whole(self, allocate):
        params = {"kernel": leaf(10, 10), "bias": leaf(10), "head": leaf(10, 20)}
        allocation = allocate(
            params, sparsity=0.9, prunable=lambda path, leaf: path == "kernel"
        )
        assert allocation == {"kernel": 10, "bias": 10, "head": 200}

    def test_equal_layers_that_do_not_divide_favor_the_earlier(self, allocate):
        assert allocate([leaf(1, 2)] * 3, sparsity=1 / 3) == [2, 1, 1]

    def test_values_do_not_matter_only_shapes(self, allocate):
        shapes = [(3, 3, 4, 8), (32, 10)]
        of_shapes = allocate([leaf(*shape) for shape in shapes], sparsity=0.8)
        of_arrays = allocate([np.full(s, np.nan) for s in shapes], sparsity=0.8)
        assert of_shapes == of_arrays

    def test_is_the_tree_of_params_with_ints(self, allocate):
        class Layer(NamedTuple):
            kernel: object
            bias: object

        params = {"stack": [Layer(leaf(4, 4), leaf(4)), Layer(leaf(4, 2), leaf(2))]}
        allocation = allocate(params, sparsity=0.5)
        assert jax.tree.structure(allocation) == jax.tree.structure(params)
        assert all(type(number) is int for number in jax.tree.leaves(allocation))

    def test_layerwise_masks_keep_these_numbers(self, allocate):
        shapes = {"conv": (3, 3, 4, 8), "dense": (32, 10)}
        params = {
            path: np.arange(math.prod(shape), dtype="f").reshape(shape)
            for path, shape in shapes.items()
        }
        allocation = allocate(params, sparsity=0.9)
        masks = gf.layerwise_masks(params, allocation=allocation)
        kept = jax.tree.map(lambda mask: int(mask.sum()), masks)
        assert kept == allocation

    @pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
    def test_a_sparsity_out_of_range_is_an_error(self, allocate, sparsity):
        with pytest.raises(
            ValueError, match=rf"sparsity is {sparsity}, outside \[0, 1\]"
        ):
            allocate([leaf(2, 2)], sparsity=sparsity)

    def test_a_sparsity_that_is_no_number_is_an_error(self, allocate):
        with pytest.raises(TypeError, match="sparsity is 'abc', not a number"):
            allocate([leaf(2, 2)], sparsity="abc")

    def test_a_traced_sparsity_is_an_error(self, allocate):
        with pytest.raises(TypeError, match="sparsity is traced.*static argument"):
            jax.jit(lambda s: allocate([jnp.ones((2, 2))], sparsity=s))(0.5)

    def test_no_prunable_leaf_is_an_error(self, allocate):
        with pytest.raises(ValueError, match="no leaf is prunable among: bias"):
            allocate({"bias": leaf(3)}, sparsity=0.5)
        with pytest.raises(ValueError, match="params has no leaves: {}"):
            allocate({}, sparsity=0.5)


class TestDensities:
    # The four layers are far from full, and their numbers divide exactly.
    SHAPES = ((3, 3, 64, 128), (1, 1, 64, 64), (5, 5, 32, 64), (256, 512))

    def ratio(self, allocate, i):
        """The density of layer i over that of the last, a dense one."""
        params = [leaf(*shape) for shape in self.SHAPES]
        numbers = allocate(params, sparsity=0.97)
        sizes = [math.prod(shape) for shape in self.SHAPES]
        return (numbers[i] / sizes[i]) / (numbers[-1] / sizes[-1])

    @pytest.mark.parametrize("i", range(3))
    def test_erdos_renyi_is_inputs_plus_outputs_over_their_product(self, i):
        *_, inputs, outputs = self.SHAPES[i]
        expected = (inputs + outputs) / (inputs * outputs) / (768 / (256 * 512))
        assert self.ratio(gf.erdos_renyi, i) == pytest.approx(expected, rel=5e-3)

    @pytest.mark.parametrize("i", range(3))
    def test_erdos_renyi_kernel_counts_the_window_too(self, i):
        h, w, inputs, outputs = self.SHAPES[i]
        expected = (h + w + inputs + outputs) / (h * w * inputs * outputs)
        expected /= 768 / (256 * 512)
        assert self.ratio(gf.erdos_renyi_kernel, i) == pytest.approx(expected, rel=5e-3)

    @both
    def test_a_map_gets_what_it_gets_as_a_dense_kernel(self, allocate):
        plain = {"query": leaf(64, 64), "mlp": leaf(64, 256), "out": leaf(64, 64)}
        shaped = {
            "query": leaf(64, 4, 16),
            "mlp": leaf(256, 64),
            "out": leaf(4, 16, 64),
        }
        roles = {
            "query": ("in", "head", "out"),
            "mlp": ("out", "in"),
            "out": ("in", "in", "out"),
        }
        expected = allocate(plain, sparsity=0.9)
        assert allocate(shaped, sparsity=0.9, roles=roles) == expected

    @both
    @pytest.mark.parametrize("word", ["stack", "group"])
    def test_each_layer_of_a_stack_has_the_density_of_the_layer(self, allocate, word):
        apart = {str(i): leaf(16, 4, 4) for i in range(3)} | {"mlp": leaf(16, 32)}
        roles = dict.fromkeys("012", ("in", "head", "out")) | {"mlp": ("in", "out")}
        expected = allocate(apart, sparsity=0.9, roles=roles)
        stacked = {"all": leaf(3, 16, 4, 4), "mlp": leaf(16, 32)}
        allocation = allocate(
            stacked,
            sparsity=0.9,
            roles={"all": (word, "in", "head", "out"), "mlp": ("in", "out")},
        )
        assert allocation["all"] == sum(expected[key] for key in "012")

    def test_the_window_stands_where_roles_say(self):
        shapes = {"HWIO": (3, 5, 4, 8), "OIHW": (8, 4, 3, 5), "WIO": (15, 4, 8)}
        roles = {
            "HWIO": ("window", "window", "in", "out"),
            "OIHW": ("out", "in", "window", "window"),
            "WIO": ("window", "in", "out"),
        }
        params = {name: leaf(*shape) for name, shape in shapes.items()}
        numbers = gf.erdos_renyi(params, sparsity=0.7, roles=roles)
        assert set(numbers.values()) == {144}
        numbers = gf.erdos_renyi_kernel(params, sparsity=0.7, roles=roles)
        # (3 + 5 + 4 + 8) : 20 : (15 + 4 + 8), scaled to 432
        assert numbers == {"HWIO": 129, "OIHW": 129, "WIO": 174}

    @both
    @pytest.mark.parametrize(
        "name, shape",
        [("query", (64, 4, 16)), ("weight", (8, 4)), ("conv", (3, 2, 5))],
    )
    def test_a_shape_that_does_not_say_its_inputs_is_an_error(
        self, allocate, name, shape
    ):
        with pytest.raises(
            ValueError, match=f"'{name}' .*pass roles=gf.structured.axis"
        ):
            allocate({name: leaf(*shape), "mlp": leaf(64, 256)}, sparsity=0.9)

    @both
    def test_a_leaf_without_inputs_is_an_error(self, allocate):
        roles = {"a": ("in", "out"), "positions": ("out", "out")}
        with pytest.raises(ValueError, match="'positions' has the roles .*ignore="):
            allocate({name: leaf(4, 4) for name in roles}, sparsity=0.5, roles=roles)

    @both
    def test_unknown_roles_are_an_error_that_asks_for_words(self, allocate):
        roles = {"a": ("in", "out"), "tied": ("unknown", "unknown")}
        with pytest.raises(ValueError, match="'tied' .*To say it, write its words"):
            allocate({name: leaf(4, 4) for name in roles}, sparsity=0.5, roles=roles)

    def test_they_agree_on_matrices(self):
        params = [leaf(10, 20), leaf(30, 5), leaf(64, 64)]
        assert gf.erdos_renyi(params, sparsity=0.8) == gf.erdos_renyi_kernel(
            params, sparsity=0.8
        )


class TestQuotas:
    PARAMS = {
        "conv1": {"kernel": leaf(3, 3, 1, 10), "bias": leaf(10)},
        "conv2": {"kernel": leaf(3, 3, 10, 10), "bias": leaf(10)},
        "dense": {"kernel": leaf(10, 10), "bias": leaf(10)},
    }

    def kernels(self, *args, **kwargs):
        allocation = gf.quotas(self.PARAMS, *args, **kwargs)
        assert all(layer["bias"] == 10 for layer in allocation.values())
        return [layer["kernel"] for layer in allocation.values()]

    def test_a_path_has_its_own_sparsity_and_the_rest_the_common_one(self):
        assert self.kernels({"dense/kernel": 0.5}, sparsity=0.9) == [9, 90, 50]

    def test_a_pattern_covers_several_leaves(self):
        assert self.kernels({"conv*/kernel": 0.5}) == [45, 450, 100]

    def test_of_several_patterns_the_first_decides(self):
        first = {"conv1/*l": 0.0, "conv*/kernel": 0.5}
        assert self.kernels(first) == [90, 450, 100]
        reverse = dict(reversed(first.items()))
        assert self.kernels(reverse) == [45, 450, 100]

    def test_a_quota_of_0_is_a_quota(self):
        assert self.kernels({"dense/kernel": 0.0}, sparsity=1.0) == [0, 0, 100]

    def test_a_path_named_is_pruned_even_where_prunable_says_no(self):
        allocation = gf.quotas(self.PARAMS, {"dense/bias": 0.3})
        assert allocation["dense"] == {"kernel": 100, "bias": 7}

    def test_prunable_chooses_the_others(self):
        allocation = gf.quotas(
            self.PARAMS, {}, sparsity=0.5, prunable=lambda path, leaf: "bias" in path
        )
        assert allocation["dense"] == {"kernel": 100, "bias": 5}

    def test_nothing_asked_for_keeps_everything(self):
        assert self.kernels({}) == [90, 900, 100]

    def test_patterns_mind_the_case(self):
        with pytest.raises(ValueError, match="the quota 'Dense/kernel' matches no"):
            gf.quotas(self.PARAMS, {"Dense/kernel": 0.5})

    def test_a_bare_array_has_the_empty_path(self):
        assert gf.quotas(leaf(2, 5), {"": 0.5}) == 5

    @checked
    @given(st.integers(1, 5000), fractions)
    def test_n_minus_the_rounded_product_is_kept(self, size, sparsity):
        assert gf.quotas([leaf(1, size)], {}, sparsity=sparsity) == [
            size - round(sparsity * size)
        ]

    def test_is_the_tree_of_params_with_ints(self):
        allocation = gf.quotas(self.PARAMS, {"dense/*": 0.5}, sparsity=0.2)
        assert jax.tree.structure(allocation) == jax.tree.structure(self.PARAMS)
        assert all(type(number) is int for number in jax.tree.leaves(allocation))

    def test_layerwise_masks_keep_these_numbers(self):
        scores = {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.array([3.0, 1.0, 2.0])}
        allocation = gf.quotas(scores, {"b": 1 / 3}, sparsity=0.75)
        masks = gf.layerwise_masks(scores, allocation=allocation)
        assert masks["a"].tolist() == [[False, False], [False, True]]
        assert masks["b"].tolist() == [True, False, True]

    def test_a_pattern_that_matches_no_leaf_is_an_error(self):
        with pytest.raises(
            ValueError, match="the quota 'head' matches no leaf; there are conv1/"
        ):
            gf.quotas(self.PARAMS, {"head": 0.5})

    @pytest.mark.parametrize("quota", [-0.1, 1.5])
    def test_a_quota_out_of_range_is_an_error(self, quota):
        with pytest.raises(ValueError, match=rf"{quota}, outside \[0, 1\]"):
            gf.quotas(self.PARAMS, {"dense/kernel": quota})

    def test_a_quota_that_is_no_number_is_an_error(self):
        with pytest.raises(TypeError, match="'abc', not a number"):
            gf.quotas(self.PARAMS, {"dense/kernel": "abc"})

    def test_a_sparsity_out_of_range_is_an_error(self):
        with pytest.raises(ValueError, match=r"sparsity is 7\.0, outside \[0, 1\]"):
            gf.quotas(self.PARAMS, {}, sparsity=7)

    def test_a_traced_sparsity_is_an_error(self):
        with pytest.raises(TypeError, match="sparsity is traced.*static argument"):
            jax.jit(lambda s: gf.quotas(jnp.ones((2, 2)), {}, sparsity=s))(0.5)

    def test_no_prunable_leaf_is_an_error(self):
        with pytest.raises(ValueError, match="no leaf is prunable among: bias"):
            gf.quotas({"bias": leaf(3)}, {}, sparsity=0.5)
