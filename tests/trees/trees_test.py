"""Names of leaves, what is prunable by default, and the checks of trees."""

import dataclasses
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from gradflow_jax import trees


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    query: Any
    value: Any


class Twins(Pair):
    pass


jax.tree_util.register_pytree_with_keys(
    Twins,
    lambda twins: ((("twin", twins.first), ("twin", twins.second)), None),
    lambda _, children: Twins(*children),
)


class Unregistered:
    pass


def names(tree):
    return [path for path, _ in trees.named_leaves(tree)]


class TestNames:
    @pytest.mark.parametrize(
        "tree, expected",
        [
            ({"b": 1.0, "a": 2.0}, ["a", "b"]),
            ({"conv": {"kernel": 1.0, "bias": 2.0}}, ["conv/bias", "conv/kernel"]),
            ([1.0, [2.0, 3.0]], ["0", "1/0", "1/1"]),
            ((1.0, {"x": 2.0}), ["0", "1/x"]),
            ({1: 1.0, 2: 2.0}, ["1", "2"]),
            (Pair(1.0, {"x": 2.0}), ["first", "second/x"]),
            ({"layers": [Pair(1.0, 2.0)]}, ["layers/0/first", "layers/0/second"]),
            ({"linear/~/w": 1.0}, ["linear/~/w"]),
            (1.0, [""]),
            ({}, []),
            ({"none": None, "x": 1.0}, ["x"]),
        ],
    )
    def test_are_paths(self, tree, expected):
        assert names(tree) == expected

    def test_of_a_dataclass_are_its_fields(self):
        attention = Attention({"kernel": 1.0}, {"kernel": 2.0})
        assert names({"a": attention}) == ["a/query/kernel", "a/value/kernel"]

    def test_a_field_called_value_keeps_its_name(self):
        assert names({"a": Attention(1.0, 2.0)}) == ["a/query", "a/value"]

    def test_a_dict_key_called_value_keeps_its_name(self):
        tree = {"a": {"query": 1.0, "value": 2.0}}
        assert names(tree) == ["a/query", "a/value"]

    def test_of_an_nnx_state_are_those_of_its_arrays(self):
        model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        variables = nnx.state(model, nnx.Param)
        arrays = jax.tree.map(jnp.asarray, nnx.to_pure_dict(variables))
        assert names(variables) == names(arrays) == ["bias", "kernel"]

    @pytest.mark.parametrize(
        "tree, expected",
        [
            ({"a": {"b": 1.0}, "a/b": 2.0}, ["'a'/'b'", "'a/b'"]),
            ({"a/b": {"c": 1.0}, "a": {"b/c": 2.0}, "d": 3.0}, 
             ["'a'/'b/c'", "'a/b'/'c'", "d"]),
            (OrderedDict({1: 1.0, "1": 2.0}), ["1", "'1'"]),
            ([{"0/x": 1.0}, OrderedDict({True: 1.0, "True": 2.0})], 
             ["0/0/x", "1/True", "1/'True'"]),
            ({"": 1.0}, ["''"]),
            ({"": {"": 1.0}, "x": 2.0}, ["/", "x"]),
            ({"a": 1.0, "a/b": 2.0}, ["a", "a/b"]),
        ],
    )  # fmt: skip
    def test_no_two_leaves_have_one(self, tree, expected):
        assert names(tree) == expected

    def test_that_cannot_be_told_apart_are_refused(self):
        # This one names both of its children alike.
        with pytest.raises(ValueError, match="two leaves of the tree would both be"):
            trees.named_leaves({"twins": Twins(1.0, 2.0)})
        tree = {"a": {"b": 1.0}, "a/b": 2.0, "'a/b'": 3.0}
        with pytest.raises(ValueError, match=r"called .*: tree\[.*and tree\[.*Rename"):
            trees.named_leaves(tree)

    def test_leaves_come_in_the_order_of_jax(self):
        tree = {"b": [1.0, 2.0], "a": Pair(3.0, 4.0)}
        leaves = [leaf for _, leaf in trees.named_leaves(tree)]
        assert leaves == jax.tree.leaves(tree) == [3.0, 4.0, 1.0, 2.0]

    def test_map_named_gives_each_leaf_its_path(self):
        tree = {"a": [1.0, 2.0]}
        mapped = trees.map_named(lambda path, x, y: f"{path}={x + y}", tree, tree)
        assert mapped == {"a": ["a/0=2.0", "a/1=4.0"]}


class TestDefaultPrunable:
    @pytest.mark.parametrize(
        "path, shape, prunable",
        [
            ("dense/kernel", (3, 4), True),
            ("conv/kernel", (3, 3, 4, 8), True),
            ("embed/embedding", (100, 16), True),
            ("linear/weight", (4, 3), True),
            ("lora_a", (4, 2), True),
            ("", (3, 4), True),
            ("bias_net/kernel", (3, 4), True),
            ("scale/kernel", (3, 4), True),
            ("dense/bias", (4,), False),
            ("attention/query/bias", (8, 16), False),
            ("layers/norm/scale", (12, 64), False),
            ("norm/gamma", (2, 3), False),
            ("norm/beta", (2, 3), False),
            ("norm/offset", (2, 3), False),
            ("bias", (2, 3), False),
            ("kernel", (4,), False),
            ("temperature", (), False),
        ],
    )
    def test_kernels_and_embeddings_are(self, path, shape, prunable):
        assert trees.default_prunable(path, jnp.ones(shape)) is prunable
        of_shape = trees.default_prunable(path, jax.ShapeDtypeStruct(shape, "float32"))
        assert of_shape is prunable

    def test_a_number_is_not(self):
        assert not trees.default_prunable("kernel", 1.0)


class TestPrunableFlags:
    def test_are_in_the_order_of_leaves(self):
        tree = {"a": jnp.ones(2), "b": jnp.ones((2, 2))}
        assert trees.prunable_flags(tree, trees.default_prunable) == [False, True]

    def test_anything_true_is_true(self):
        flags = trees.prunable_flags([1.0, 2.0], lambda path, leaf: np.bool_(path))
        assert flags == [True, True] and all(type(flag) is bool for flag in flags)

    def test_none_prunable_is_an_error_that_shows_five_leaves(self):
        tree = {name: jnp.ones(3) for name in "abcdefg"}
        with pytest.raises(ValueError) as error:
            trees.prunable_flags(tree, trees.default_prunable)
        message = str(error.value)
        assert "no leaf is prunable among: a float32[3], b float32[3]" in message
        assert "e float32[3] and 2 more" in message and "f float32" not in message
        assert "prunable=lambda path, leaf" in message

    def test_five_leaves_are_not_called_more(self):
        with pytest.raises(ValueError, match=r"e float32\[3\]\. By default"):
            trees.prunable_flags({n: jnp.ones(3) for n in "abcde"}, lambda *_: False)


class TestDescribe:
    @pytest.mark.parametrize(
        "leaf, expected",
        [
            (jnp.ones((3, 4)), "float32[3,4]"),
            (jnp.ones(3, jnp.bfloat16), "bfloat16[3]"),
            (np.ones((2,), np.int8), "int8[2]"),
            (np.float16(1), "float16[]"),
            (jnp.zeros((0, 2), bool), "bool[0,2]"),
            (jax.ShapeDtypeStruct((2, 3), jnp.float32), "float32[2,3]"),
            (1.0, "float32[]"),
            (1, "int32[]"),
            (True, "bool[]"),
            (1j, "complex64[]"),
            ("text", "str"),
            (None, "NoneType"),
            (len, "builtin_function_or_method"),
            (lambda: 0, "function"),
            (Unregistered(), "Unregistered"),
            ([1.0], "list"),
        ],
    )
    def test_gives_dtype_and_shape_or_the_type(self, leaf, expected):
        assert trees.describe(leaf) == expected

    def test_of_keys_of_random_numbers(self):
        assert trees.describe(jax.random.key(0)) == "key<fry>[]"
        assert trees.describe(jax.random.split(jax.random.key(0), 3)) == "key<fry>[3]"


class TestCheckFloating:
    @pytest.mark.parametrize(
        "leaf",
        [1.0, np.float64(1), np.ones(2), jnp.ones(2, jnp.bfloat16), jnp.zeros((0, 3))],
    )
    def test_passes_real_floating_leaves(self, leaf):
        trees.check_floating({"a": leaf}, "params")

    def test_none_is_no_leaf(self):
        trees.check_floating({"a": 1.0, "none": None}, "params")

    @pytest.mark.parametrize(
        "leaf, shown",
        [
            (1, r"int32\[\]"),
            (True, r"bool\[\]"),
            (jnp.ones(2, jnp.int8), r"int8\[2\]"),
            (jax.random.key(0), r"key<fry>\[\]"),
            ("text", "str"),
            (len, "builtin_function_or_method"),
            (Unregistered(), "Unregistered"),
        ],
    )
    def test_names_the_leaf_what_it_is_and_the_remedy(self, leaf, shown):
        with pytest.raises(
            TypeError,
            match=f"params leaf 'net/a' is {shown}; .*keep the others out",
        ):
            trees.check_floating({"net": {"a": leaf}}, "params")

    def test_a_shape_without_values_passes_where_shapes_suffice(self):
        params = {"a": jax.ShapeDtypeStruct((2,), np.float32)}
        trees.check_floating(params, "params", or_shapes=True)
        with pytest.raises(TypeError, match=r"'a' is float32\[2\], a shape with"):
            trees.check_floating(params, "params")

    def test_complex_leaves_have_a_remedy_of_their_own(self):
        with pytest.raises(TypeError, match=r"'a' is complex64\[\]; .*two leaves"):
            trees.check_floating({"a": 1j}, "params")

    @pytest.mark.parametrize("tree", [{}, [], None, {"a": None}])
    def test_a_tree_without_leaves_is_an_error(self, tree):
        with pytest.raises(ValueError, match="params has no leaves: .*Pass the pytree"):
            trees.check_floating(tree, "params")

    def test_a_whole_nnx_module_is_an_error_that_says_how_to_split_it(self):
        with pytest.raises(TypeError, match=r"whole nnx.Module \(Linear\).*nnx.split"):
            trees.check_floating(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "params")

    def test_of_an_nnx_module_it_names_what_is_no_param(self):
        with pytest.raises(TypeError, match="leaf 'mean' is a BatchStat, not a Param"):
            trees.check_floating(nnx.BatchNorm(2, rngs=nnx.Rngs(0)), "params")


class TestCheckMasks:
    def test_passes_bool_leaves(self):
        trees.check_masks({"a": jnp.ones(2, bool), "b": np.array(True), "c": True})

    @pytest.mark.parametrize(
        "leaf, shown",
        [(1.0, r"float32\[\]"), (jnp.ones(2, jnp.int8), r"int8\[2\]"), ("x", "str")],
    )
    def test_names_the_leaf_what_it_is_and_the_remedy(self, leaf, shown):
        with pytest.raises(
            TypeError,
            match=f"masks leaf 'a' is {shown}, not bool .*gf.global_masks",
        ):
            trees.check_masks({"a": leaf})

    def test_a_shape_is_no_mask(self):
        with pytest.raises(TypeError, match=r"masks leaf 'a' is bool\[2\], a shape"):
            trees.check_masks({"a": jax.ShapeDtypeStruct((2,), bool)})

    def test_a_tree_without_leaves_is_an_error(self):
        with pytest.raises(ValueError, match="previous has no leaves: {}"):
            trees.check_masks({}, what="previous")


class TestAlignedLeaves:
    def aligned(self, tree, like):
        return trees.aligned_leaves(tree, like, what="masks", like_what="params")

    def test_gives_the_leaves_in_order(self):
        assert self.aligned({"b": 1, "a": 2}, {"a": 1.0, "b": 2.0}) == [2, 1]

    def test_containers_may_differ_where_paths_agree(self):
        assert self.aligned((1, [2]), [1.0, (2.0,)]) == [1, 2]

    def test_an_nnx_state_and_its_arrays_are_one_tree(self):
        variables = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
        arrays = jax.tree.map(jnp.asarray, nnx.to_pure_dict(variables))
        assert len(self.aligned(arrays, variables)) == 2
        assert len(self.aligned(variables, arrays)) == 2

    def test_dtypes_may_differ(self):
        self.aligned({"a": jnp.ones(2, bool)}, {"a": jnp.ones(2)})

    def test_a_missing_leaf_is_named(self):
        with pytest.raises(
            ValueError,
            match="masks and params are different trees: masks lacks the leaf 'b/x'. "
            "Make masks from this very tree of params",
        ):
            self.aligned({"a": 1}, {"a": 1.0, "b": {"x": 2.0}})

    def test_a_leaf_too_many_is_named(self):
        with pytest.raises(
            ValueError, match="masks has the leaf 'b', which params lacks. Make masks"
        ):
            self.aligned({"a": 1, "b": 2}, {"a": 1.0})

    def test_none_in_place_of_a_leaf_is_a_missing_leaf(self):
        with pytest.raises(ValueError, match="masks lacks the leaf 'b'"):
            self.aligned({"a": 1, "b": None}, {"a": 1.0, "b": 2.0})

    def test_a_shape_that_differs_is_named_with_both_shapes(self):
        with pytest.raises(
            ValueError,
            match=r"masks leaf 'a' has shape \(3,\), but params has \(2, 3\) there",
        ):
            self.aligned({"a": jnp.ones(3)}, {"a": jnp.ones((2, 3))})

    def test_another_order_is_an_error(self):
        class Reversed(NamedTuple):
            second: Any
            first: Any

        with pytest.raises(ValueError, match="the leaves stand in another order"):
            self.aligned(Reversed(1, 2), Pair(1.0, 2.0))


class TestMaskLeaves:
    def test_are_bool_and_fit(self):
        kept, params = {"a": jnp.ones(2, bool)}, {"a": jnp.ones(2)}
        (leaf,) = trees.mask_leaves(kept, params)
        assert leaf is kept["a"]

    def test_that_are_not_bool_are_told_before_the_shape(self):
        with pytest.raises(TypeError, match="masks leaf 'a' is float32"):
            trees.mask_leaves({"a": jnp.ones(2)}, {"a": jnp.ones(3)})


class TestCheckFinite:
    def test_passes_finite_and_empty_leaves(self):
        trees.check_finite("a", jnp.array([0.0, -3e38]))
        trees.check_finite("a", np.zeros((0, 2), np.float32))

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_counts_what_is_not_finite_by_kind(self, dtype):
        leaf = jnp.array([[1.0, jnp.inf], [jnp.nan, 0.0]], dtype)
        with pytest.raises(
            ValueError, match=r"leaf 'a' has 2 of 4 .* \(1 nan, 1 inf\): .*prunable="
        ):
            trees.check_finite("a", leaf)

    def test_a_scalar_is_checked_too(self):
        with pytest.raises(ValueError, match="has 1 of 1 values"):
            trees.check_finite("a", np.float32(np.nan))

    def test_passes_what_is_traced(self):
        @jax.jit
        def checked(leaf):
            trees.check_finite("a", leaf)
            return leaf

        assert np.isnan(checked(jnp.nan))


class TestOrderOfKeys:
    @pytest.mark.parametrize(
        "tree, place",
        [
            ({1: np.ones(2), "b": np.ones(2)}, "tree has keys of int and str"),
            (
                {"in": [{None: 1, "b": 2}]},
                r"tree\['in'\]\[0\] has keys of NoneType",
            ),
            (FrozenDict({(0,): 1.0, 1: 2.0}), "tree has keys of int and tuple"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize(
        "function", [trees.named_leaves, trees.check_trained, trees.check_masks]
    )
    def test_a_dict_whose_keys_have_none_is_named(self, function, tree, place):
        with pytest.raises(
            ValueError, match=f"the dict {place}.*name all of its leaves"
        ):
            function(tree)

    def test_an_ordered_dict_keeps_its_own(self):
        assert names(OrderedDict([("b", 1.0), (1, 2.0)])) == ["b", "1"]

    def test_errors_of_other_containers_are_theirs(self):
        class Broken(dict):
            pass

        def flatten(tree):
            raise ValueError("broken")

        jax.tree_util.register_pytree_node(Broken, flatten, lambda _, x: Broken())
        with pytest.raises(ValueError, match="^broken$"):
            names([Broken()])


class TestIsNumeric:
    @pytest.mark.parametrize(
        "leaf",
        [
            SimpleNamespace(shape=(2,), dtype="float32"),
            SimpleNamespace(shape="wide", dtype=np.dtype("float32")),
            np.dtype("float32"),
            2**70,
            -(10**5000),
        ],
        ids=lambda leaf: type(leaf).__name__,
    )
    def test_what_only_looks_like_numbers_is_none(self, leaf):
        assert not trees.is_numeric(leaf) and not trees.is_real_floating(leaf)

    def test_of_python_s_numbers_those_that_jax_holds(self):
        assert all(map(trees.is_numeric, (True, 2**31 - 1, -(2**31), 1e308, 1j)))
        assert trees.describe(2**31) == "a whole number that int32 cannot hold"


class TestWiden:
    @pytest.mark.parametrize(
        "dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
    )
    def test_gives_float32_at_least(self, dtype):
        wide = trees.widen(jnp.array([0.5, 1.0], dtype))
        assert wide.dtype == jnp.float32 and wide.tolist() == [0.5, 1.0]

    def test_leaves_float64_as_it_is(self):
        jax.config.update("jax_enable_x64", True)
        try:
            wide = trees.widen(np.array([0.1]))
        finally:
            jax.config.update("jax_enable_x64", False)
        assert wide.dtype == jnp.float64 and wide.tolist() == [0.1]

    def test_takes_numbers_and_numpy_arrays(self):
        assert trees.widen(1.5).dtype == jnp.float32
        assert trees.widen(np.float16(1.5)).dtype == jnp.float32

    def test_a_traced_value_is_told_from_an_array(self):
        traced = []

        @jax.jit
        def seen(x):
            traced.append(trees.is_traced(x))
            return x

        seen(1.0)
        assert traced == [True]
        assert not trees.is_traced(jnp.ones(2)) and not trees.is_traced(1.0)
