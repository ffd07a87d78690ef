"""What kinds of leaves and of trees a saved cut brings back, to the bit."""

from collections import OrderedDict
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.structured.saving.leaf_arrays import dtype_of, kind_of_leaf
from gradflow_jax.structured.saving.tree_records import rebuild_tree, record_tree
from gradflow_jax.trees import named_leaves

X = np.ones((1, 3), np.float32)
A, B = np.ones((3, 4), np.float32), np.arange(4, dtype=np.float32).reshape(4, 1)


def pair(first, second):
    """A model of two layers, whatever else its variables are."""
    return lambda p, x: jnp.tanh(x @ first(p)) @ second(p)


def saved_and_loaded(folder, model, variables, *inputs, **options):
    units = gf.find_units(model, variables, *(inputs or (X,)))
    keep = {family.name: np.arange(family.size) % 2 == 0 for family in units}
    small = gf.cut(variables, units, keep)
    gf.save_cut(folder / "cut", small, units, keep)
    return small, gf.load_cut(folder / "cut", **options)


def bits(tree):
    return {
        path: (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
        for path, leaf in named_leaves(tree)
    }


DTYPES = """
    bool int8 int16 int32 uint8 uint16 uint32 float16 bfloat16 float32 int4 uint4 int2
    float8_e4m3fn float8_e5m2 float8_e4m3b11fnuz float8_e3m4 float4_e2m1fn complex64
""".split()


def test_numbers_of_every_dtype_come_back_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    extra = {}
    for name in DTYPES:
        dtype = jnp.dtype(name)
        values = np.asarray(rng.integers(-2, 2, (2, 3)) * (name[0] not in "bu"))
        extra[name] = (values + (name[0] in "bu")).astype(np.float32).astype(dtype)
    # Every bit pattern of these is a number or a NaN.
    extra["float8_e5m2"] = np.arange(256, dtype=np.uint8).view(jnp.float8_e5m2)
    extra["wide"] = np.array([1 / 3, 2**60], np.float64)
    extra["none"] = np.zeros((0, 3), np.float32)
    extra["transposed"] = np.arange(6, dtype=np.float16).reshape(2, 3).T
    extra["strided"] = np.arange(9, dtype=np.int32)[::-2]
    extra["one"] = np.float32(2)
    tree = {"in": A, "out": B, "extra": extra}
    model = pair(lambda p: p["in"], lambda p: p["out"])
    small, loaded = saved_and_loaded(tmp_path, model, tree)
    assert bits(loaded.variables) == bits(small)
    assert isinstance(loaded.variables["in"], jax.Array)
    # JAX would make these narrower, and so they stay with NumPy.
    assert loaded.variables["extra"]["wide"].dtype == np.float64
    del tree["extra"]["wide"], loaded.original["extra"]["wide"]
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in named_leaves(tree)} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in named_leaves(loaded.original)
    }


def test_another_reader_of_the_format_reads_the_same(tmp_path):
    tree = {
        "a/b": A,
        "out": {
            "w": B,
            "half": jnp.ones(3, jnp.bfloat16),
            "on": np.array([True, False]),
        },
        "narrow": np.arange(3, dtype=np.int8),
        "scale": np.float32(2),
    }
    small, _ = saved_and_loaded(
        tmp_path, pair(lambda p: p["a/b"], lambda p: p["out"]["w"]), tree
    )
    read = safetensors.flax.load_file(tmp_path / "cut")
    assert bits(small) == {
        path: (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
        for path, leaf in read.items()
    }


class Pair(NamedTuple):
    first: object
    second: object


TREES = {
    "keys with slashes": {"a/b": {"w": A}, "out/w": B},
    "keys that collide": {"a/b": A, "a": {"b": B}},
    "a name that starts another's": {"a": A, "a/b": B, "a/b/c": np.ones(2)},
    "numbers for keys": {1: A, 10: [B, (np.ones(2), None)], 2: {}},
    "tuples for keys": {("a", "kernel"): A, ("b", 3): B},
    "equal text": OrderedDict({1: A, "1": B}),
    "empty keys": {"": A, "x": {"": B}},
    "lists and tuples": [(A, [B]), (), [], {}, None, ({"deep": [np.ones(1)]},)],
    "an ordered dict": OrderedDict(z=A, a=B),
    "signs": {"[0]*?": A, "ü\n\"'\\": B},
}


@pytest.mark.parametrize("name", TREES)
def test_the_very_tree_comes_back_without_like(tmp_path, name):
    tree = TREES[name]
    matrices = [leaf for _, leaf in named_leaves(tree) if np.ndim(leaf) == 2]
    first = [leaf is matrices[0] for leaf in jax.tree.leaves(tree)].index(True)
    second = [leaf is matrices[1] for leaf in jax.tree.leaves(tree)].index(True)
    if matrices[0] is B:
        first, second = second, first
    model = pair(
        lambda p: jax.tree.leaves(p)[first], lambda p: jax.tree.leaves(p)[second]
    )
    small, loaded = saved_and_loaded(tmp_path, model, tree)
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(small)
    assert jax.tree.structure(loaded.original) == jax.tree.structure(tree)
    assert bits(loaded.variables) == bits(small)
    assert gf.find_units(model, loaded.original, X).leaves.keys() == bits(tree).keys()


def test_other_containers_come_back_as_dicts_or_like_the_given_tree(tmp_path):
    tree = Pair({"w": A}, Pair(B, None))
    model = pair(lambda p: p[0]["w"], lambda p: p[1][0])
    small, loaded = saved_and_loaded(tmp_path, model, tree)
    assert loaded.variables.keys() == {"first", "second"}
    assert bits(loaded.variables) == bits(small)
    again = gf.load_cut(tmp_path / "cut", like=tree)
    assert jax.tree.structure(again.variables) == jax.tree.structure(tree)


def nested(depth):
    tree = np.ones(1)
    for _ in range(depth):
        tree = [tree]
    return tree


def test_trees_that_a_file_does_not_hold_are_refused():
    for key in (1.5, b"a", ("a", 2.5), None):
        with pytest.raises(TypeError, match="whose keys are strings, integers and tup"):
            record_tree({key: np.ones(1)})
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        record_tree(nested(102))
    (leaf,) = jax.tree.leaves(rebuild_tree(record_tree(nested(100))))
    assert (leaf.shape, leaf.dtype) == ((1,), np.float64)


def test_names_that_the_format_does_not_hold_are_refused(tmp_path):
    for name in ("__metadata__", "half \ud800"):
        model = pair(lambda p: p["in"], lambda p, name=name: p[name])
        with pytest.raises(ValueError, match="a name that a safetensors file does not"):
            saved_and_loaded(tmp_path, model, {"in": A, name: B})
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_is_none_or_that_this_jax_lacks_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="'float12' is no dtype of numbers in"):
        dtype_of("float12")
    from gradflow_jax.structured.saving import leaf_arrays

    monkeypatch.setattr(leaf_arrays, "_NUMBERS", {"float13"})
    dtype_of.cache_clear()
    with pytest.raises(ValueError, match="'float13' is no dtype of numbers in this"):
        dtype_of("float13")


@pytest.mark.parametrize("impl", ("threefry2x32", "rbg", "unsafe_rbg"))
def test_random_keys_come_back(tmp_path, impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 2)
    tree = {"in": A, "out": B, "keys": keys, "raw": jax.random.key_data(keys)}
    model = pair(lambda p: p["in"], lambda p: p["out"])
    _, loaded = saved_and_loaded(tmp_path, model, tree)
    found = loaded.variables["keys"]
    assert found.dtype == keys.dtype == loaded.original["keys"].dtype
    assert (jax.random.key_data(found) == jax.random.key_data(keys)).all()
    assert kind_of_leaf("keys", keys) == f"key:{impl}"


class Cached(nnx.Module):
    """Has what a state holds besides parameters and statistics."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.cache = nnx.Cache(jnp.ones((2, 4)))
        self.seen = nnx.Variable(jnp.zeros((), jnp.int32))
        self.second = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(self.drop(nnx.relu(self.norm(self.first(x)))))


@pytest.fixture(scope="module")
def cached():
    model = Cached(nnx.Rngs(0))
    model.eval()
    units = gf.find_units(model, X)
    keep = {family.name: np.arange(family.size) % 2 == 0 for family in units}
    return model, units, keep


LEFT_OUT = {
    "nothing": None,
    "random state": nnx.RngState,
    "the cache": nnx.Cache,
    "both": nnx.Any(nnx.RngState, nnx.Cache),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_all_variables_of_nnx_are_carried_or_left_out(tmp_path, cached, name):
    model, units, keep = cached
    state = nnx.state(model)
    if LEFT_OUT[name] is not None:
        state = nnx.state(model, nnx.Not(LEFT_OUT[name]))
    small = gf.cut(state, units, keep)
    gf.save_cut(tmp_path / "cut", small, units, keep)
    loaded = gf.load_cut(tmp_path / "cut")
    saved = dict(named_leaves(small))
    assert dict(named_leaves(loaded.variables)).keys() == saved.keys()
    assert dict(named_leaves(loaded.original)).keys() == units.leaves.keys()
    # What was left out is that of the model that it is put into.
    fresh = Cached(nnx.Rngs(1))
    fresh.eval()
    again = gf.load_cut(tmp_path / "cut", like=fresh)
    shrunk = gf.shrink(fresh, units, again.keep)
    nnx.update(shrunk, again.variables)
    expected = dict(named_leaves(nnx.state(fresh))) | saved
    for path, leaf in named_leaves(nnx.state(shrunk)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, expected[path] = map(jax.random.key_data, (leaf, expected[path]))
        assert np.array_equal(leaf, expected[path]), path
    # The module itself is as good as its state.
    gf.save_cut(tmp_path / "again", shrunk, units, keep)
    loaded = gf.load_cut(tmp_path / "again").variables
    assert dict(named_leaves(loaded)).keys() == units.leaves.keys()


@pytest.mark.parametrize("kind", (nnx.BatchStat, nnx.Param))
def test_what_the_forward_pass_reads_is_not_left_out(tmp_path, cached, kind):
    model, units, keep = cached
    state = (
        gf.cut(nnx.state(model, nnx.Not(kind)), units, keep)
        if (kind is nnx.BatchStat)
        else nnx.state(model, nnx.RngState)
    )
    with pytest.raises(ValueError, match="lack the leaf .* be only what is no param"):
        gf.save_cut(tmp_path / "cut", state, units, keep)


def test_statistics_of_linen_are_carried(tmp_path):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x))
            self.variable("cache", "index", lambda: jnp.zeros((), jnp.int32))
            return nn.Dense(1)(jnp.tanh(x))

    variables = jax.eval_shape(Net().init, jax.random.key(0), X)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
    small, loaded = saved_and_loaded(tmp_path, Net(), variables)
    assert loaded.variables.keys() == {"params", "batch_stats", "cache"}
    assert bits(loaded.variables) == bits(small)
