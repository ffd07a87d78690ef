"""Cut models in files: restored in a new process, and what cannot be saved or loaded.

The models' code is a file of its own, which the new process imports; it gets the saved
cut and never the original weights.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves
from tests.structured.zoo import plain as zoo_plain

MODELS = """
import flax.linen as nn
import jax
from flax import nnx


def plain(p, x):
    x = jax.nn.relu(x.astype(p["a"].dtype) @ p["a"] + p["bias"])
    return (jax.nn.relu(x @ p["b"]) @ p["c"]).astype("float32")


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (4, 6):
            x = nn.Conv(width, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
        self.layers = nnx.Sequential(nnx.Conv(2, 5, (3, 3), rngs=rngs), norm, nnx.relu)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layers(x).mean((1, 2)))
"""

SCRIPT = """
import resource

import numpy as np
from flax import nnx

import gradflow_jax as gf
from models import Linen, Nnx, plain

given, outputs = np.load("inputs.npz"), {}
for name, model in {"linen": Linen(), "plain": plain}.items():
    saved = gf.load_cut(f"{name}.safetensors")
    units = gf.find_units(model, saved.original, given[name])
    small = gf.shrink(model, units, saved.keep)
    outputs[name] = small(saved.variables, given[name])

model = nnx.eval_shape(lambda: Nnx(nnx.Rngs(0)))
cut = gf.load_cut("nnx.safetensors", like=nnx.state(model))
small = gf.shrink(model, gf.find_units(model, given["nnx"]), cut.keep)
nnx.update(small, cut.variables)
np.savez("outputs.npz", **outputs, nnx=small(given["nnx"]))

# Nothing longer than this can be written any more.
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    gf.save_cut("plain.safetensors", saved.variables, units, saved.keep)
except Exception as error:
    print(type(error).__name__, error.filename)
"""


def randomly(tree):
    """Returns a tree with random numbers, of the shapes and dtypes of its leaves."""
    draw = np.random.default_rng(0).uniform
    return jax.tree.map(lambda x: jnp.asarray(draw(0.1, 1, x.shape), x.dtype), tree)


def some(units, seed=0):
    """Returns a keep set that leaves about two thirds of each family."""
    rng = np.random.default_rng(seed)
    return {
        f.name: rng.permutation(np.arange(f.size) < max(2, 2 * f.size // 3))
        for f in units
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves three cut models, runs them, and runs the script in a new process."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "models.py").write_text(MODELS)
    (folder / "restore.py").write_text(SCRIPT)
    spec = importlib.util.spec_from_file_location("models", folder / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    rows = np.linspace(-1, 2, 20, dtype=np.float32).reshape(4, 5)
    images = np.linspace(-1, 2, 256, dtype=np.float32).reshape(2, 8, 8, 2)
    module, model = models.Linen(), models.Nnx(nnx.Rngs(0))
    nnx.update(model, randomly(nnx.state(model)))
    full = {"a": (5, 7), "bias": (7,), "b": (7, 6), "c": (6, 3)}
    full = {name: jax.ShapeDtypeStruct(full[name], jnp.bfloat16) for name in full}
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    result = SimpleNamespace(folder=folder, full={}, cut={}, keep={}, outputs={})
    for name, own, args in (
        ("plain", models.plain, (randomly(full), rows)),
        ("linen", module, (randomly(variables), images)),
        ("nnx", model, (images,)),
    ):
        units = gf.find_units(own, *args)
        keep = result.keep[name] = some(units)
        tree = args[0] if args[1:] else nnx.state(model)
        cut, small = gf.cut(tree, units, keep), gf.shrink(own, units, keep)
        given = (cut, *args[1:]) if args[1:] else args
        result.full[name], result.cut[name] = dict(named_leaves(tree)), cut
        result.outputs[name] = small(*given)
        gf.save_cut(folder / f"{name}.safetensors", cut, units, keep)
    np.savez(folder / "inputs.npz", plain=rows, linen=images, nnx=images)
    result.files = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    done = subprocess.run(
        [sys.executable, "restore.py"], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(gf.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result.printed = done.stdout
    return result


NAMES = ["plain", "linen", "nnx"]


@pytest.mark.runs
@pytest.mark.parametrize("name", NAMES)
def test_a_new_process_computes_the_same_bits(saved, name):
    restored = np.load(saved.folder / "outputs.npz")[name]
    assert restored.shape[1] == 3 and np.ptp(restored) > 0
    assert np.array_equal(restored, saved.outputs[name])


@pytest.mark.runs
def test_a_write_that_fails_leaves_the_old_file_whole(saved):
    assert saved.printed.strip() == "OSError plain.safetensors"
    left = {p.name: p.read_bytes() for p in saved.folder.iterdir() if p.is_file()}
    assert saved.files.items() <= left.items()
    assert not [name for name in left if "partial" in name or "tmp" in name]


@pytest.mark.runs
@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_is_what_was_saved(saved, name):
    own = gf.load_cut(saved.folder / f"{name}.safetensors")
    loaded, cut = (dict(named_leaves(t)) for t in (own.variables, saved.cut[name]))
    assert loaded.keys() == cut.keys() == dict(named_leaves(own.original)).keys()
    for path, leaf in loaded.items():
        full = saved.full[name][path]
        assert leaf.dtype == cut[path].dtype == full.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(cut[path]).tobytes()
        # Its indices say where it was in the original.
        for axis, kept in own.indices.get(path, {}).items():
            full = np.asarray(full).take(kept, axis)
        assert np.array_equal(full, leaf)
    for path, leaf in named_leaves(own.original):
        full = saved.full[name][path]
        assert leaf == jax.ShapeDtypeStruct(full.shape, full.dtype)
    assert own.keep.keys() == saved.keep[name].keys() and own.indices
    for family, flags in saved.keep[name].items():
        assert own.keep[family].tolist() == flags.tolist()


W = jnp.arange(12.0).reshape(3, 4)


def apply(p, x):
    return jnp.tanh(x @ p["in"]) @ p["out"]


PARAMS = {"in": W, "out": jnp.ones((4, 1)), "free": jnp.ones(2)}
UNITS = gf.find_units(apply, PARAMS, jnp.ones((1, 3)))
KEEP = {"in[1]": np.array([True, False, True, True])}
SMALL = gf.cut(PARAMS, UNITS, KEEP)


def deleted():
    array = jnp.ones(2)
    array.delete()
    return array


# By the message, what is not saved.
NOT_SAVED = {
    r"'in' has the shape .3, 4., but this cut has .3, 3.: pass gf.cut": PARAMS,
    "'x' has the shape .2,., but this cut has no such": SMALL | {"x": jnp.ones(2)},
    "lack the leaf '.*', which the model has": {"in": SMALL["in"]},
    "'free' was deleted, as a step does": SMALL | {"free": deleted()},
    "'free' is str, but saved": SMALL | {"free": "weights"},
    "is <U1.2., but saved are": SMALL | {"free": np.array(["a", "b"])},
    "is object.2., but": SMALL | {"free": np.array([{}, None])},
    "is datetime64.D..2., but": SMALL | {"free": np.zeros(2, "M8[D]")},
    "is a whole number that int32 cannot hold, but": SMALL | {"free": 2**40},
    "a ShapeDtypeStruct, which has no values": jax.eval_shape(lambda: SMALL),
    "variables .the array itself. has the shape .., but": 3,
    "variables lack the leaf 'free'": None,
}


@pytest.mark.parametrize("message", NOT_SAVED)
def test_what_cannot_be_saved_leaves_the_old_file(tmp_path, message):
    file = tmp_path / "model"
    gf.save_cut(file, SMALL, UNITS, KEEP)
    before = file.read_bytes()
    with pytest.raises((ValueError, TypeError), match=message):
        gf.save_cut(file, NOT_SAVED[message], UNITS, KEEP)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_what_is_no_path_no_units_or_is_traced(tmp_path):
    with pytest.raises(TypeError, match="path is a int: pass the path of a file"):
        gf.save_cut(3, SMALL, UNITS, KEEP)
    with pytest.raises(TypeError, match="path is a NoneType"):
        gf.load_cut(None)
    with pytest.raises(ValueError, match="holds a null character"):
        gf.save_cut("a\0b", SMALL, UNITS, KEEP)
    with pytest.raises(ValueError, match="a.*b is no safetensors file.*: .*null byte"):
        gf.load_cut("a\0b")
    with pytest.raises(
        TypeError, match="units is a dict, not what gf.find_units returned"
    ):
        gf.save_cut(tmp_path / "model", SMALL, KEEP, KEEP)
    with pytest.raises(TypeError, match="'free' is traced by jax.jit, but"):
        jax.eval_shape(
            lambda tree: gf.save_cut(tmp_path / "m", tree, UNITS, KEEP), SMALL
        )
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_one_line_says_what_to_install(tmp_path, monkeypatch):
    gf.save_cut(tmp_path / "model", SMALL, UNITS, KEEP)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    message = r"needs safetensors: pip install 'gradflow-jax.saving.'\.$"
    with pytest.raises(ModuleNotFoundError, match=message) as error:
        gf.save_cut(tmp_path / "folder" / "other", SMALL, UNITS, KEEP)
    # By this the terminal tells it from a package that a command lacks.
    assert error.value.name is None
    with pytest.raises(ModuleNotFoundError, match=message):
        gf.load_cut(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_path_that_cannot_be_written_or_read_is_named(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    for path in (tmp_path / "folder", tmp_path / (300 * "x")):
        with pytest.raises(OSError) as error:
            gf.save_cut(path, SMALL, UNITS, KEEP)
        assert str(path) in str(error.value)
        with pytest.raises(OSError) as error:
            gf.load_cut(path)
        assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError):
        gf.load_cut(tmp_path / "other")
    # What only looks like a file cannot be mapped.
    if Path("/proc/self/status").exists():
        with pytest.raises(OSError, match="/proc/self/status cannot be read: "):
            gf.load_cut("/proc/self/status")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_structure_of_like(tmp_path):
    tree, file = [{"w": W}, {"w": W.T}], tmp_path / "list"
    two = lambda p, x: jnp.tanh(x @ p[0]["w"]) @ p[1]["w"]  # noqa: E731
    units = gf.find_units(two, tree, jnp.ones((1, 3)))
    keep = {"0/w[1]": KEEP["in[1]"]}
    gf.save_cut(file, cut := gf.cut(tree, units, keep), units, keep)
    again = gf.load_cut(file, like=tree)
    assert jax.tree.structure(again.original) == jax.tree.structure(tree)
    chex.assert_trees_all_equal(again.variables, cut)
    again = gf.load_cut(file)
    assert jax.tree.structure(again.variables) == jax.tree.structure(tree)
    assert jax.tree.structure(again.original) == jax.tree.structure(tree)
    with pytest.raises(ValueError, match="like leaf '1/w' has .*3, 4.* has .*4, 3"):
        gf.load_cut(file, like=[{"w": W}, {"w": W}])
    with pytest.raises(ValueError, match="like leaf '2' has .* has no such leaf"):
        gf.load_cut(file, like=[*tree, W])


def test_like_has_all_leaves(tmp_path):
    gf.save_cut(tmp_path / "model", SMALL, UNITS, KEEP)
    with pytest.raises(ValueError, match="like"):
        gf.load_cut(tmp_path / "model", like={"in": W})


def test_a_tree_of_one_array(tmp_path):
    units = gf.find_units(lambda w, x: jnp.tanh(x @ w) @ w.T, W, jnp.ones((1, 3)))
    keep = {family.name: KEEP["in[1]"] for family in units}
    gf.save_cut(tmp_path / "one", gf.cut(W, units, keep), units, keep)
    found = gf.load_cut(tmp_path / "one")
    assert np.array_equal(found.variables, W[:, [0, 2, 3]])


def test_arrays_that_lie_otherwise_in_memory_are_saved_by_their_values(tmp_path):
    for free in (np.arange(4, dtype=np.float32)[::-2], np.arange(2, dtype=">f4")):
        gf.save_cut(tmp_path / "model", SMALL | {"free": free}, UNITS, KEEP)
        loaded = gf.load_cut(tmp_path / "model").variables["free"]
        assert loaded.tolist() == free.tolist() and loaded.dtype == np.float32


@pytest.mark.parametrize("name", ["swiglu", "conv_flatten_dense", "fused_qkv_reshape"])
def test_two_cuts_amount_to_the_composed_one(name):
    apply, variables, inputs = zoo_plain.ZOO[name]()
    units = gf.find_units(apply, variables, *inputs)
    # Both heads stay: a family of one unit is none, and its name goes to another.
    first = {n: f for n, f in some(units).items() if units[n].size > 2}
    small, run = gf.cut(variables, units, first), gf.shrink(apply, units, first)
    left = gf.find_units(run, small, *inputs)
    second = {n: f for n, f in some(left, 1).items() if n in first}
    both = gf.structured.compose_keep(units, first, left, second)
    once, twice = gf.cut(variables, units, both), gf.cut(small, left, second)
    chex.assert_trees_all_equal(once, twice)
    outputs = gf.shrink(run, left, second)(twice, *inputs)
    expected = gf.shrink(apply, units, both)(once, *inputs)
    np.testing.assert_allclose(outputs, expected, 1e-5, 1e-6)


def test_cuts_that_do_not_compose():
    with pytest.raises(ValueError, match="shape .3, 4., but the first cut leaves"):
        gf.structured.compose_keep(UNITS, KEEP, UNITS, KEEP)
    small = gf.find_units(apply, SMALL, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="keep names the family 'x'"):
        gf.structured.compose_keep(UNITS, KEEP, small, {"x": np.array([True])})
    with pytest.raises(ValueError, match="bool"):
        gf.structured.compose_keep(UNITS, KEEP, small, {"in[1]": np.array([0, 1, 2])})


def test_cuts_compose_where_families_change_their_names():
    """One head is no family any more, and the others at its place move up."""
    apply, variables, inputs = zoo_plain.ZOO["fused_qkv_split"]()
    units = gf.find_units(apply, variables, *inputs)
    (heads,) = (family for family in units if family.size == 2)
    first = {heads.name: np.array([True, False])}
    small, run = gf.cut(variables, units, first), gf.shrink(apply, units, first)
    again = gf.find_units(run, small, *inputs)
    second = {f.name: np.arange(f.size) != 1 for f in again}
    assert not set(second) <= {family.name for family in units} or any(
        again[name].leaves != units[name].leaves for name in second
    )
    both = gf.structured.compose_keep(units, first, again, second)
    once, twice = gf.cut(variables, units, both), gf.cut(small, again, second)
    chex.assert_trees_all_equal(once, twice)
