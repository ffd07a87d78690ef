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
