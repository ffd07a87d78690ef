"""Which leaf of a model a leaf of another tree mirrors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow_jax as gf
from gradflow_jax.trees.mirroring import find_mirrors, is_packed, packed_shape

PARAMS = {
    "conv": {"kernel": np.ones((3, 9), np.float32)},
    "kernel": np.ones((2, 4), np.float32),
    "count": np.float32(1),
}


def mirrored(tree, of=PARAMS):
    return {mirror.path: (mirror.of, mirror.kind) for mirror in find_mirrors(tree, of)}


def test_copies_of_the_parameters_and_of_a_part_of_them_are_found():
    tree = {"mu": PARAMS, "nu": [{"kernel": np.ones((2, 4))}]}
    assert mirrored(tree) == {
        "mu/conv/kernel": ("conv/kernel", "same"),
        "mu/kernel": ("kernel", "same"),
        "mu/count": ("count", "same"),
        "nu/0/kernel": ("kernel", "same"),
    }
    # The keys decide, and then the shape: this is no moment of the other kernel.
    assert mirrored({"conv": {"kernel": np.ones((2, 4))}}) == {
        "conv/kernel": ("conv/kernel", None)
    }


@pytest.mark.parametrize(
    "shape, dtype, kind",
    [
        ((3, 9), bool, "same"),
        ((3, 9), np.int32, "same"),
        ((3, 2), np.uint8, "packed"),
        ((3, 2), np.float32, None),
        ((5, 3, 9), np.float32, "stacked"),
        ((9,), np.float32, None),
        ((3,), np.float32, None),
        ((3, 9, 5), np.float32, None),
        ((), np.float32, None),
    ],
)
def test_a_shape_says_how_it_mirrors(shape, dtype, kind):
    leaf = np.ones(shape, dtype)
    assert mirrored({"conv/kernel": leaf}) == {"conv/kernel": ("conv/kernel", kind)}
    assert is_packed(leaf, (3, 9)) == (kind == "packed")


@pytest.mark.parametrize(
    "count",
    [
        3,
        np.int32(3),
        jnp.zeros((), jnp.uint32),
        jax.ShapeDtypeStruct((), np.int32),
    ],
)
def test_a_count_of_steps_mirrors_no_scalar(count):
    assert mirrored({"count": count}) == {"count": (None, None)}
    assert mirrored(count, np.float32(1)) == {"": (None, None)}
    assert mirrored({"count": 3.0}, {"count": 1.0}) == {"count": ("count", "same")}
    # One number, and not all of the parameters: it may be a rate.
    assert mirrored({"count": 3.0}) == {"count": (None, None)}


def test_an_array_without_a_path_is_mirrored_by_what_has_its_shape():
    state = optax.adam(0.1).init(jnp.ones(3))
    assert mirrored(state, np.ones(3)) == {
        "0/count": (None, None),
        "0/mu": ("", "same"),
        "0/nu": ("", "same"),
    }


def test_a_collection_of_linen_may_be_left_out_of_a_path():
    of = {
        "params": {"dense": {"kernel": np.ones((2, 3))}},
        "batch_stats": {"dense": {"kernel": np.ones(2)}, "bn": {"mean": np.ones(3)}},
    }
    assert mirrored({"ema": of["params"]}, of) == {
        "ema/dense/kernel": ("params/dense/kernel", "same"),
    }
    assert mirrored(of["batch_stats"], of) == {
        "bn/mean": ("batch_stats/bn/mean", "same"),
        "dense/kernel": ("batch_stats/dense/kernel", "same"),
    }
    assert mirrored(of, of) == {
        path: (path, "same") for path, _ in gf.trees.named_leaves(of)
    }


@pytest.mark.parametrize("shape", [(), (1,), (8,), (9,), (4, 17)])
def test_packed_shapes_are_those_of_packed_masks(shape):
    bits = np.packbits(np.ones(shape, bool), axis=-1) if shape else np.ones(())
    assert packed_shape(shape) == bits.shape


def labels(params):
    return {key: "a" if key == "w" else "b" for key in params}


# Each as a function of the parameters.
OPTIMIZERS = {
    "adam": lambda p: optax.adam(0.1),
    "momentum": lambda p: optax.sgd(0.1, momentum=0.9),
    "chained twice": lambda p: optax.chain(optax.trace(0.9), optax.trace(0.5)),
    "multi-steps": lambda p: optax.MultiSteps(optax.adam(0.1), 2),
    "average": lambda p: optax.chain(optax.rmsprop(0.1), optax.ema(0.9)),
    "hyperparameters": lambda p: optax.inject_hyperparams(optax.adam)(
        learning_rate=0.1
    ),
    "partition": lambda p: optax.partition(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, labels(p)
    ),
    "masked": lambda p: optax.masked(optax.adam(0.1), {key: key == "w" for key in p}),
    "pruned": lambda p: optax.chain(optax.adam(0.1), gf.apply_mask()),
    "schedule free": lambda p: optax.contrib.schedule_free_adamw(0.1),
}
FIELDS = """
    mu nu trace 0 1 count inner_states inner_state masks hyperparams learning_rate ema
    acc_grads a z
""".split()


@pytest.mark.parametrize("field", FIELDS)
def test_parameters_may_be_called_as_the_fields_of_a_state(field):
    """The shapes tell the leaves apart, so each mirror shows whose it is."""
    params = {
        field: {
            "w": np.ones((2, 3), np.float32),
            "deep": {"w": np.ones(4, np.float32)},
        },
        "w": np.ones(5, np.float32),
    }
    shapes = {path: leaf.shape for path, leaf in gf.trees.named_leaves(params)}
    for name, make in OPTIMIZERS.items():
        state = jax.eval_shape(make(params).init, params)
        mirrors = find_mirrors(state, params)
        for mirror in mirrors:
            if mirror.leaf.shape:
                assert mirror.kind == "same", (name, mirror)
                assert shapes[mirror.of] == mirror.leaf.shape, (name, mirror)
                assert mirror.path.endswith(mirror.of), (name, mirror)
            else:
                assert mirror.of is None, (name, mirror)
        assert any(mirror.of for mirror in mirrors), name


@pytest.mark.parametrize("field", FIELDS)
def test_a_part_of_the_parameters_is_mirrored_where_fields_have_their_names(field):
    """As an optimizer of some variables of a module holds it, without masked nodes."""
    model = {field: {"w": np.ones(3)}, "w": np.ones(3), "statistics": np.ones(3)}
    for part in ({"w": model["w"]}, {field: model[field]}):
        for name in ("adam", "momentum", "chained twice", "average", "pruned"):
            state = jax.eval_shape(OPTIMIZERS[name](part).init, part)
            for mirror in find_mirrors(state, model):
                expected = None if mirror.leaf.shape == () else [*part][0]
                assert (mirror.of or "").split("/")[0] == (expected or ""), (
                    name,
                    mirror,
                )


def test_a_state_that_lost_its_classes_is_mirrored_by_the_names_of_its_keys():
    params = {"mu": {"w": np.ones((2, 3))}, "w": np.ones(4)}
    state = {"0": {"count": 3, "mu": params, "nu": params}, "1": {}}
    assert {path: of for path, (of, _) in mirrored(state, params).items()} == {
        "0/count": None,
        "0/mu/mu/w": "mu/w",
        "0/mu/w": "w",
        "0/nu/mu/w": "mu/w",
        "0/nu/w": "w",
    }


def test_keys_with_slashes_are_mirrored_by_the_keys_and_not_by_the_joined_path():
    params = {"a/b": np.ones((2, 3)), "a": {"b": np.ones(4)}, "b": np.ones(5)}
    for tree in (params, {"mu": params, "nu": params}, [{"a": {"b": np.ones(4)}}]):
        for mirror in find_mirrors(tree, params):
            assert mirror.kind == "same", mirror
    # Where it says which, a flat dict of paths is a copy too.
    assert mirrored({"conv/kernel": np.ones((3, 9))}) == {
        "conv/kernel": ("conv/kernel", "same")
    }


def test_of_lookahead_the_fast_weights_have_moments():
    params = optax.LookaheadParams.init_synced({"fast": np.ones(2), "w": np.ones(3)})
    state = jax.eval_shape(optax.lookahead(optax.adam(0.1), 2, 0.5).init, params)
    assert {mirror.of for mirror in find_mirrors(state, params)} == {
        None,
        "fast/fast",
        "fast/w",
    }
