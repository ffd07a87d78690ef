"""Shows why float32 and float64 differ by more than rounding: a ReLU decides."""

import jax
import jax.numpy as jnp
import numpy as np

import gradflow_jax as gf

RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(8, 5)), RNG.normal(size=(8, 3))
PARAMS = {"in": RNG.normal(size=(5, 32)), "out": RNG.normal(size=(32, 3))}
# On the first example each unit is on by far less than float32 tells from off.
PARAMS["bias"] = 1e-12 - X[0] @ PARAMS["in"]


def hidden(params, x):
    return x @ params["in"] + params["bias"]


def loss_fn(params, x, y, active=None):
    before = hidden(params, x)
    after = jnp.where(before > 0 if active is None else active, before, 0.0)
    return jnp.mean((after @ params["out"] - y) ** 2)


def apart(actual, expected):
    """The largest relative difference of a leaf."""
    return max(
        np.linalg.norm(a - b) / np.linalg.norm(b)
        for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True)
    )


def test_derivatives_agree_where_each_relu_decides_alike(float64):
    exact, rounded = (
        jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), (PARAMS, X, Y))
        for dtype in (np.float64, np.float32)
    )
    active = hidden(*exact[:2]) > 0
    assert active[0].all() and not (hidden(*rounded[:2]) > 0)[0].all()
    differentiate = gf.differentiate(loss_fn)
    reference = differentiate(*exact)
    free, told = differentiate(*rounded), differentiate(*rounded, active)
    for field in ("gradient", "hessian_gradient"):
        expected = getattr(reference, field)
        assert apart(getattr(free, field), expected) > 1e-2
        assert apart(getattr(told, field), expected) < 1e-5
