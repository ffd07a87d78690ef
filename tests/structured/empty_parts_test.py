"""Parts of no width: nothing of them can be removed, and none is offered."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)


def weights(**shapes):
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


def parted(p, x):
    none, gate, value, end = jnp.split(x @ p["in"], [0, 4, 10], axis=-1)
    hidden = jnp.tanh(value) * jnp.mean(gate**2, -1, keepdims=True)
    return (none + end) @ p["skip"] + hidden @ p["out"]


def sliced(p, x):
    hidden = jnp.tanh(x @ p["in"])
    return hidden[:, 3:3] @ p["skip"] + hidden @ p["out"]


def joined(p, x):
    return jnp.concatenate([x @ p["skip"], jnp.tanh(x @ p["in"])], 1) @ p["out"]


def empty_heads(p, x):
    heads = (x @ p["skip"]).reshape(5, 0, 2)
    return jnp.einsum("bhd,hdo->bo", heads, p["o"]) + jnp.tanh(x @ p["in"]) @ p["out"]


def whole_beside_nothing(p, x):
    hidden = jnp.cumsum(x @ p["in"], 1)
    return jnp.concatenate([x[:, :0], hidden], 1) @ p["out"]


MODELS = [
    (parted, {"in": (4, 10), "skip": (0, 3), "out": (6, 3)}, [4, 6]),
    (sliced, {"in": (4, 6), "skip": (0, 3), "out": (6, 3)}, [6]),
    (joined, {"in": (4, 6), "skip": (4, 0), "out": (6, 3)}, [6]),
    (empty_heads, {"in": (4, 6), "skip": (4, 0), "o": (0, 2, 3), "out": (6, 3)}, [6]),
]


@pytest.mark.parametrize("apply, shapes, sizes", MODELS)
def test_what_has_no_width_is_not_offered(apply, shapes, sizes):
    params = weights(**shapes)
    units = gf.find_units(apply, params, X)
    assert [family.size for family in units] == sizes
    keep = {family.name: np.arange(family.size) % 2 == 0 for family in units}
    assert gf.cut_error(params, units, keep, X) < 1e-5
    assert "0: cannot be cut: it has no index" in units.explain("skip")


def test_a_part_of_no_width_is_not_why_another_stays():
    params = weights(**{"in": (4, 6), "out": (6, 3)})
    units = gf.find_units(whole_beside_nothing, params, X)
    assert not units.families
    assert "works along this axis as a whole" in units.explain("out")
