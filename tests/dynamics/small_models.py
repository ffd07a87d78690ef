"""A quadratic, and small networks in the three ways that parameters come."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.linalg import expm

import gradflow_jax as gf
from gradflow_jax import dynamics

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 3, 8)
POINTS = RNG.normal(size=(8, 5))
IMAGES = RNG.normal(size=(8, 4, 4, 1))
TOKENS = RNG.integers(0, 6, (8, 4))


class Problem(NamedTuple):
    loss: Any
    params: Any
    args: tuple
    units: Any


N = 5
A = RNG.normal(size=(N, N))
A, B = A @ A.T / N + np.eye(N) / 5, RNG.normal(size=N)
THETA = RNG.normal(size=N)


def split(theta):
    """The parameters of the quadratic, as two leaves."""
    return {"a": jnp.asarray(theta[..., :2]), "b": jnp.asarray(theta[..., 2:])}


def joined(tree):
    return np.concatenate([tree["a"], tree["b"]], axis=-1)


def quadratic(params, a, b):
    """½θᵀAθ − bᵀθ, whose gradient is Aθ − b and whose Hessian is A."""
    theta = jnp.concatenate([params["a"], params["b"]])
    return 0.5 * theta @ a @ theta - b @ theta


def quadratic_flow(times):
    """θ(t) in closed form."""
    lowest = np.linalg.solve(A, B)
    return np.stack([lowest + expm(-A * t) @ (THETA - lowest) for t in times])


class Counted:
    """A loss that counts how often it is traced."""

    def __init__(self, loss):
        self.loss, self.traces = loss, 0

    def __call__(self, *args, **kwargs):
        self.traces += 1
        return self.loss(*args, **kwargs)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def drawn(*shape):
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))


def mlp():
    """A plain pytree."""

    def apply(params, x):
        hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
        return hidden @ params["out"]["kernel"]

    def loss(params, x, labels):
        return cross_entropy(apply(params, x), labels)

    params = {
        "in": {"kernel": drawn(5, 4), "bias": drawn(4)},
        "out": {"kernel": drawn(4, 3)},
    }
    units = gf.find_units(apply, params, POINTS)
    return Problem(loss, params, (POINTS, LABELS), units)


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), padding="VALID", param_dtype=float)(x)
        x = nn.BatchNorm(use_running_average=True, param_dtype=float)(x)
        x = nn.silu(x).reshape(len(x), -1)
        return nn.Dense(3, param_dtype=float)(x)


def conv():
    """Linen, with batch norm in eval mode."""
    model = ConvNet()
    variables = model.init(jax.random.key(0), IMAGES)
    stats = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])

    def loss(params, x, labels):
        logits = model.apply({"params": params, "batch_stats": stats}, x)
        return cross_entropy(logits, labels)

    units = gf.find_units(model, variables, IMAGES)
    return Problem(loss, variables["params"], (IMAGES, LABELS), units)


class Transformer(nnx.Module):
    """Of two heads, by hand: Flax has the softmax of attention in float32."""

    def __init__(self):
        options = {"rngs": nnx.Rngs(0), "param_dtype": float}
        self.embed = nnx.Embed(
            6, 4, embedding_init=nnx.initializers.normal(1.0), **options
        )
        self.norm = nnx.LayerNorm(4, **options)
        self.mixed = nnx.LinearGeneral(4, (3, 2, 3), **options)
        self.merge = nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), **options)
        self.up, self.down = nnx.Linear(4, 6, **options), nnx.Linear(6, 4, **options)
        self.head = nnx.Linear(4, 3, **options)

    def __call__(self, tokens):
        x = self.embed(tokens)
        query, key, value = jnp.moveaxis(self.mixed(self.norm(x)), -3, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key))
        x = x + self.merge(jnp.einsum("bhqk,bkhd->bqhd", weights, value))
        x = x + self.down(nnx.gelu(self.up(x)))
        return self.head(x.mean(1))


def transformer():
    """NNX."""
    model = Transformer()
    graphdef, params, other_state = nnx.split(model, nnx.Param, ...)

    def loss(params, tokens, labels):
        return cross_entropy(nnx.merge(graphdef, params, other_state)(tokens), labels)

    return Problem(
        loss, params, (TOKENS, LABELS), gf.find_units(model, jnp.asarray(TOKENS))
    )


MAKERS = {"mlp": mlp, "conv": conv, "transformer": transformer}
each_problem = pytest.mark.parametrize(
    "name", ["mlp"] + [pytest.param(n, marks=pytest.mark.models) for n in [*MAKERS][1:]]
)


@functools.cache
def problem(name):
    return MAKERS[name]()


@functools.cache
def run_of(name):
    """The flow of a problem and its evolution, computed once for all tests."""
    small_model = problem(name)
    flow = gf.dynamics.gradient_flow(small_model.loss, rtol=1e-11, atol=1e-13)
    trajectory = flow(small_model.params, np.linspace(0, 0.012, 9), *small_model.args)
    follow = dynamics.follow(small_model.loss, units=small_model.units)
    return trajectory, follow(trajectory, *small_model.args)
