"""At which equation a leaf meets the model's inputs first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

import gradflow_jax as gf
from gradflow_jax.programs.uses import first_uses

X = np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32)
NAMES = ("d", "c", "b", "a")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name in NAMES:
            x = jnp.tanh(nn.Dense(3, name=name)(x))
        return x


def init(key):
    return Net().init(key, X[:1])["params"]


def plain(params, x):
    return Net().apply({"params": params}, x)


def over_leaves(change):
    return lambda params, x: plain(jax.tree.map(change, params), x)


def in_a_scan(params, x):
    turn = lambda carry, _: (carry, plain(params, x))  # noqa: E731
    return jax.lax.scan(turn, 0, None, length=2)[1][0]


def as_a_carry(params, x):
    turn = lambda _, carry: (carry[0], plain(carry[0], x))  # noqa: E731
    return jax.lax.fori_loop(0, 2, turn, (params, jnp.zeros((len(x), 3))))[1]


def in_a_while_loop(params, x):
    return jax.lax.while_loop(
        lambda carry: jnp.sum(carry) < -1, lambda carry: plain(params, carry), x
    )


def in_a_branch(params, x):
    return jax.lax.cond(jnp.sum(x) > 0, plain, lambda params, x: x, params, x)


@jax.custom_jvp
def with_a_rule(params, x):
    return plain(params, x)


with_a_rule.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))

WRAPPED = {
    "jitted": jax.jit(plain),
    "checkpointed": jax.checkpoint(plain),
    "both, of casts": jax.jit(
        jax.checkpoint(over_leaves(lambda leaf: leaf.astype(jnp.bfloat16)))
    ),
    "scaled": over_leaves(lambda leaf: 2 * leaf * 1.0),
    "masked": over_leaves(lambda leaf: leaf * jnp.ones(leaf.shape)),
    "transposed": over_leaves(lambda leaf: leaf.T.reshape(-1).reshape(leaf.T.shape).T),
    "a rule of its own": with_a_rule,
    "mapped": jax.vmap(plain, in_axes=(None, 0)),
    "in a scan": in_a_scan,
    "as a carry": as_a_carry,
    "in a while loop": in_a_while_loop,
    "in a branch": in_a_branch,
}


def depth_of(apply):
    return gf.observations.Problem(init, apply, X, np.arange(4) % 3).depth


@pytest.mark.parametrize("case", WRAPPED)
def test_the_order_of_layers_is_that_of_the_plain_model(case):
    leaves = [f"{name}/{kind}" for name in NAMES for kind in ("kernel", "bias")]
    assert depth_of(plain) == {leaf: place for place, leaf in enumerate(leaves)}
    assert depth_of(WRAPPED[case]) == depth_of(plain)
    assert list(depth_of(WRAPPED[case])) == leaves


def test_leaves_of_one_equation_share_a_place():
    def of_one_vector(params, x):
        vector, unravel = ravel_pytree(params)
        return plain(unravel(vector), x)

    assert set(depth_of(of_one_vector).values()) == {0}


def test_leaves_that_meet_each_other_first_are_followed_together():
    def apply(params, x):
        scaled = params["v"] * params["g"] / jnp.linalg.norm(params["v"])
        return (x @ params["z"]) @ scaled + params["a"]

    params = {"v": X.T @ X, "g": 1.0, "z": X.T @ X, "a": 1.0, "alone": 1.0}
    used = lambda params, x: (apply(params, x), params["alone"] + 1)  # noqa: E731
    numbers = first_uses(jax.make_jaxpr(used)(params, X).jaxpr, sorted(params))
    assert list(numbers) == ["z", "g", "v", "a", "alone"]
    assert numbers["g"] == numbers["v"]


def test_a_first_state_that_is_constant_holds_inputs_later():
    """So the recurrent kernel meets them where it is read, and not at the sum."""

    def apply(params, x):
        def step(state, row):
            return jnp.tanh(state @ params["a"] + row @ params["b"]), None

        return jax.lax.scan(step, jnp.zeros(3), x)[0]

    params = {"a": X.T @ X, "b": X.T @ X}
    numbers = first_uses(jax.make_jaxpr(apply)(params, X).jaxpr, sorted(params))
    assert list(numbers) == ["a", "b"]
