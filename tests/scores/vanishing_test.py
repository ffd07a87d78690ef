"""Derivatives that vanish in the computing: of single examples, in half precision."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow_jax as gf

RNG = np.random.default_rng(6)
X = RNG.normal(size=(6, 3)).astype(np.float32)
Y = RNG.normal(size=(6, 2)).astype(np.float32)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.norm(self.hidden(x))))


def net_loss(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


@pytest.mark.parametrize("batched", [False, True], ids=["batch", "batches"])
def test_examples_whose_norm_is_of_a_batch_are_refused(batched):
    """A batch of one is its own mean: nothing before the norm has a gradient."""
    model, lift, data = Net(nnx.Rngs(0)), lambda loss: loss, (X, Y)
    if batched:
        lift, data = gf.over_batches, [(X[:4], Y[:4]), (X[4:], Y[4:])]
    for measure in (gf.fisher, gf.batch_norm_taylor):
        with pytest.raises(ValueError, match=r"'hidden/kernel'.*model.eval\(\)"):
            measure(lift(net_loss), per_example=True)(model, data)
    model.eval()
    scores = gf.fisher(lift(net_loss), per_example=True)(model, data)
    assert (scores["hidden"]["kernel"][...] > 0).any()


def test_dead_units_and_unread_leaves_are_no_such_thing():
    params = {"used": jnp.ones(3), "dead": jnp.zeros(3), "unread": jnp.ones(2)}

    def loss(params, x):
        return jnp.mean((x * params["used"] + jax.nn.relu(-1 - params["dead"])) ** 2)

    scores = gf.fisher(loss, per_example=True)(params, X)
    assert not scores["dead"].any() and not scores["unread"].any()


def test_small_gradients_are_squared_beside_the_weight():
    """g² underflows in float32 where (θg)² does not."""
    theta, x = jnp.float32(1e12), np.array([[1e-23, 2e-23]], np.float32).repeat(2, 0)
    loss = lambda w, x: jnp.mean(x, 0) @ w  # noqa: E731
    w, expected = jnp.full(2, theta), np.array([1e-22, 4e-22])
    for options in ({}, {"per_example": True}):
        np.testing.assert_allclose(gf.fisher(loss, **options)(w, x), expected, 1e-5)
    batched = gf.fisher(gf.over_batches(loss))(w, [x, x[:1]])
    np.testing.assert_allclose(batched, expected, 1e-5)
    d = gf.differentiate(gf.over_batches(loss), order=1, squares="batch")(w, [x, x])
    np.testing.assert_allclose(d.gradient_rms, x[0], 1e-5)
    assert not d.squared_gradient.any()


def test_fisher_of_one_batch_ranks_as_loss_preservation_and_of_examples_not():
    params = {"w": RNG.normal(size=(3, 2)).astype(np.float32)}
    loss = lambda p, batch: jnp.mean((batch[0] @ p["w"] - batch[1]) ** 2)  # noqa: E731
    saliency = gf.loss_preservation(loss)(params, (X, Y))["w"]
    np.testing.assert_allclose(
        gf.fisher(loss)(params, (X, Y))["w"], saliency**2, rtol=1e-5
    )
    of_examples = gf.fisher(loss, per_example=True)(params, (X, Y))["w"]
    assert (np.argsort(of_examples, None) != np.argsort(saliency, None)).any()


def half_loss(temperature):
    def loss(params, batch):
        x, y = batch
        logits = jnp.tanh(x @ params["a"]) @ params["b"] / temperature
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss


HALVES = {
    "a": (RNG.normal(size=(3, 8)) / 2).astype(np.float16),
    "b": (RNG.normal(size=(8, 3)) / 3).astype(np.float16),
}
HALF_BATCH = X.astype(np.float16), np.arange(6) % 3


@pytest.mark.parametrize("batched", [False, True], ids=["batch", "batches"])
def test_products_that_float16_cannot_hold_are_told(batched):
    loss = half_loss(200.0)
    lift, data = (
        (gf.over_batches, [HALF_BATCH]) if batched else (lambda f: f, HALF_BATCH)
    )
    with pytest.warns(UserWarning, match="of Hḡ of float16 params .* float32 copy"):
        gf.grasp(lift(loss))(HALVES, data)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), HALVES)
    wide_batch = X.astype(np.float16).astype(np.float32), HALF_BATCH[1]
    brain = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), HALVES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gf.grasp(lift(loss))(wide, [wide_batch] if batched else wide_batch)
        gf.grasp(lift(loss))(brain, data)
        gf.grasp(lift(half_loss(1.0)))(HALVES, data)


def test_gradients_that_are_all_zero_in_float16_are_told():
    loss = lambda w, x: jnp.mean(x * w)  # noqa: E731
    with pytest.warns(UserWarning, match="4 of 4 entries of ḡ"):
        gf.taylor(loss)(np.ones(4, np.float16), np.full(4, 1e-7, np.float16))
