"""What removed slices hold behind rarer primitives: the cut model is the masked one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow_jax as gf

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(np.float32)
SHAPES = {"a": (3, 6), "experts": (2, 6, 4), "b": (6, 2), "c": (4, 2)}
PARAMS = {n: RNG.normal(size=shape).astype(np.float32) for n, shape in SHAPES.items()}
SIZES = np.array([2, 3], np.int32)


def experts(params, x):
    hidden = jax.nn.relu(x @ params["a"])
    return jax.nn.relu(lax.ragged_dot(hidden, params["experts"], SIZES)) @ params["c"]


def written(how):
    def apply(params, x):
        hidden = jax.nn.relu(x @ params["a"])
        places = jnp.argmax(x, 1)
        return getattr(jnp.zeros((3, 6)).at[places], how)(hidden) @ params["b"]

    return apply


def largest(params, x):
    return lax.top_k((x @ params["a"]).T, 2)[0].sum(0)


def numbers_of_the_largest(params, x):
    return lax.top_k((x @ params["a"]).T, 2)[1].astype(float).sum(0)


def transformed(params, x):
    return jnp.abs(jnp.fft.fft(x @ params["a"], axis=0)) @ params["b"]


def shifted_spectrum(params, x):
    return jnp.fft.fft(jax.nn.sigmoid(x @ params["a"]), axis=0).real.sum(1)


@pytest.mark.parametrize(
    ("apply", "families"),
    [
        (experts, {"a[1]": 6, "experts[2]": 4}),
        (written("set"), {"a[1]": 6}),
        (written("add"), {"a[1]": 6}),
        (written("max"), {"a[1]": 6}),
        (largest, {"a[1]": 6}),
        (transformed, {"a[1]": 6}),
    ],
    ids=["experts", "set", "add", "max", "top_k", "fft"],
)
def test_what_is_proved_is_the_masked_model(apply, families):
    units = gf.find_units(apply, PARAMS, X)
    assert {family.name: family.size for family in units} == families
    keep = {name: np.arange(size) % 3 != 1 for name, size in families.items()}
    assert gf.structured.cut_error(PARAMS, units, keep, X) < 1e-6


@pytest.mark.parametrize("apply", [numbers_of_the_largest, shifted_spectrum])
def test_what_would_not_be_is_refused(apply):
    units = gf.find_units(apply, PARAMS, X)
    assert not units.families
    assert "removed slice" in units.explain("a") or "leaks" in units.explain("a")
