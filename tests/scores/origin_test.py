"""θ₀ of biased loss preservation: the parameters when the measure was made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf

X = np.random.default_rng(7).normal(size=(5, 3)).astype(np.float32)


def loss_fn(model, x):
    return jnp.mean(model(x) ** 2)


def train(model):
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda leaf: leaf + 1, params))


KEPT = {
    "split": lambda model: nnx.split(model, nnx.Param)[1],
    "state": lambda model: nnx.state(model, nnx.Param),
    "the module": lambda model: model,
}


@pytest.mark.parametrize("case", KEPT)
def test_an_origin_kept_before_training_stays(case):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    origin = KEPT[case](model)
    before = gf.biased_loss_preservation(loss_fn, origin=origin)
    first = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    train(model)
    # The distance from the origin is 1 everywhere.
    scores, expected = before(model, X), gf.loss_preservation(loss_fn)(model, X)
    for a, b in zip(*map(jax.tree.leaves, (scores, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for lift, data in ((lambda loss: loss, X), (gf.over_batches, [X])):
        late = gf.biased_loss_preservation(lift(loss_fn), origin=origin)
        with pytest.raises(ValueError, match="origin holds the very arrays of params"):
            late(model, data)
    copied = gf.biased_loss_preservation(loss_fn, origin=first)(model, X)
    for a, b in zip(*map(jax.tree.leaves, (copied, scores)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_arrays_of_numpy_that_are_written_to_are_copied():
    params = {"w": np.ones((3, 2), np.float32)}
    loss = lambda params, x: jnp.mean(x @ params["w"])  # noqa: E731
    measure = gf.biased_loss_preservation(loss, origin=params)
    with pytest.raises(ValueError, match="origin holds the very arrays"):
        measure(params, X)
    params["w"] += 1
    expected = gf.loss_preservation(loss)(params, X)["w"]
    np.testing.assert_allclose(measure(params, X)["w"], expected, rtol=1e-6)


def test_leaves_that_were_frozen_may_be_those_of_the_origin():
    origin = {"a": jnp.ones(3), "b": jnp.ones(3)}
    params = {"a": origin["a"], "b": jnp.zeros(3)}
    loss = lambda p, x: jnp.mean((x * (p["a"] + p["b"])) ** 2)  # noqa: E731
    scores = gf.biased_loss_preservation(loss, origin=origin)(params, X)
    assert not scores["a"].any()
    d = gf.differentiate(loss, order=1, origin=origin)
    with pytest.raises(ValueError, match="jax.tree.map.jnp.copy"):
        d(origin, X)


def test_an_origin_outlives_a_step_that_its_arrays_were_donated_to():
    params = {"w": jnp.ones((3, 2))}
    loss = lambda params, x: jnp.mean(x @ params["w"])  # noqa: E731
    measure = gf.biased_loss_preservation(loss, origin=params)
    params = jax.jit(lambda tree: {"w": tree["w"] + 1}, donate_argnums=0)(params)
    expected = gf.loss_preservation(loss)(params, X)["w"]
    np.testing.assert_allclose(measure(params, X)["w"], expected, rtol=1e-6)
