"""Second-order products through functions that have a reverse rule alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf

RNG = np.random.default_rng(5)
PARAMS = {
    "a": RNG.normal(size=(3, 4)).astype(np.float32),
    "b": RNG.normal(size=(4, 2)).astype(np.float32),
}
BATCH = tuple(RNG.normal(size=(6, n)).astype(np.float32) for n in (3, 2))


def swish(x):
    return x * jax.nn.sigmoid(x)


@jax.custom_vjp
def reverse_only(x):
    return swish(x)


def backward(x, cotangent):
    gate = jax.nn.sigmoid(x)
    return (cotangent * (gate + x * gate * (1 - gate)),)


reverse_only.defvjp(lambda x: (swish(x), x), backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def with_static_argument(power, x):
    return swish(x) ** power


with_static_argument.defvjp(
    lambda power, x: (swish(x) ** power, x),
    lambda power, x, cotangent: jax.vjp(lambda x: swish(x) ** power, x)[1](cotangent),
)


def in_a_scan(x):
    return jax.lax.scan(lambda x, _: (reverse_only(x), None), x, None, length=2)[0]


ACTIVATIONS = {
    "plain": (reverse_only, swish),
    "static": (functools.partial(with_static_argument, 2), lambda x: swish(x) ** 2),
    "jitted": (jax.jit(reverse_only), swish),
    "checkpointed": (jax.checkpoint(reverse_only), swish),
    "mapped": (jax.vmap(reverse_only), swish),
    "in a loop": (in_a_scan, lambda x: swish(swish(x))),
}


def loss_of(activation):
    def loss_fn(params, batch):
        x, y = batch
        return jnp.mean((activation(x @ params["a"]) @ params["b"] - y) ** 2)

    return loss_fn


def assert_close(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_the_product_is_that_of_forward_mode(case):
    special, plain = ACTIVATIONS[case]
    actual = gf.grasp(loss_of(special))(PARAMS, BATCH)
    assert_close(actual, gf.grasp(loss_of(plain))(PARAMS, BATCH))


def test_over_batches_and_along_a_run_it_is_the_same():
    special, plain = loss_of(reverse_only), loss_of(swish)
    batches = [tuple(part[rows] for part in BATCH) for rows in (slice(4), slice(4, 6))]
    expected = gf.grasp(plain)(PARAMS, BATCH)
    assert_close(gf.grasp(gf.over_batches(special))(PARAMS, batches), expected)
    masks = jax.tree.map(lambda leaf: leaf > 0, PARAMS)
    effects = [
        gf.dynamics.removal_effects(loss)(PARAMS, masks, BATCH)
        for loss in (special, plain)
    ]
    assert_close(*effects)
    run = gf.dynamics.gradient_descent(plain, 0.1)(PARAMS, [0], BATCH)
    followed = [gf.dynamics.follow(loss)(run, BATCH).model for loss in (special, plain)]
    assert_close(*followed)
    tracker, params = gf.dynamics.track(special), jax.tree.map(jnp.asarray, PARAMS)
    state = tracker.init(params)
    _, state = tracker.update(params, state, params, loss_args=(BATCH,))
    assert_close(gf.dynamics.tracked(state, params).model, followed[1])


def test_a_backward_rule_without_a_derivative_is_refused_in_words():
    @jax.custom_vjp
    def on_the_host(x):
        return swish(x)

    def backward(x, cotangent):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return (jax.pure_callback(lambda x, c: x * c, shape, x, cotangent),)

    on_the_host.defvjp(lambda x: (swish(x), x), backward)
    gf.taylor(loss_of(on_the_host))(PARAMS, BATCH)
    with pytest.raises(TypeError, match="backward rule .* custom_vjp_test.py:"):
        gf.grasp(loss_of(on_the_host))(PARAMS, BATCH)
