"""The zoo's NNX models, with random weights and statistics, in eval mode."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.structured.zoo.plain import IMAGES, ROWS, SERIES, TOKENS, Case, fill

ZOO: dict[str, Callable[[], Case]] = {}
# Functions that return (model, inputs).
MODELS: dict[str, Callable[[], tuple]] = {}


def number(leaf):
    """Returns what stands where `fill` left the shape of a count or of a random key."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))


def entry(x):
    """Registers the model that a class builds, given the shape of its input."""

    def register(function):
        name = function.__name__

        def build():
            model = nnx.eval_shape(lambda: function(nnx.Rngs(0)))
            model.eval()
            nnx.update(model, jax.tree.map(number, fill(nnx.state(model), name)))
            return model, (jnp.asarray(fill({"input": x}, name)["input"]),)

        def case():
            model, inputs = build()
            graphdef, state = nnx.split(model)
            return Case(lambda v, x: nnx.merge(graphdef, v)(x), state, inputs)

        MODELS[name], ZOO[name] = build, case
        return function

    return register


def pool(x):
    return nnx.max_pool(x, (2, 2), (2, 2))


def mean(x):
    return x.mean((1, 2))


def flatten(x):
    return x.reshape(len(x), -1)


def conv(before, after, rngs, size=3, **how):
    return nnx.Conv(before, after, (size, size), rngs=rngs, **how)


def groups(width, rngs):
    return nnx.GroupNorm(width, num_groups=2, rngs=rngs)


def batch(width, rngs):
    return nnx.BatchNorm(width, rngs=rngs)


@entry(ROWS)
def mlp(rngs):
    first, second = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 9, rngs=rngs)
    return nnx.Sequential(
        first, nnx.relu, second, nnx.gelu, nnx.Linear(9, 3, rngs=rngs)
    )


@entry(IMAGES)
def vgg(rngs):
    return nnx.Sequential(
        conv(3, 5, rngs),
        batch(5, rngs),
        nnx.relu,
        pool,
        conv(5, 7, rngs),
        batch(7, rngs),
        nnx.relu,
        pool,
        flatten,
        nnx.Linear(28, 9, rngs=rngs),
        nnx.relu,
        nnx.Linear(9, 3, rngs=rngs),
    )


class Residual(nnx.Module):
    """A residual block of two convolutions, projected where the width changes."""

    def __init__(self, before, inner, after, norm, rngs):
        stride = 1 if before == after else 2
        self.first = conv(before, inner, rngs, strides=stride, use_bias=False)
        self.first_norm = norm(inner, rngs)
        self.second = conv(inner, after, rngs)
        self.second_norm = norm(after, rngs)
        if before != after:
            self.shortcut = conv(before, after, rngs, size=1, strides=stride)

    def __call__(self, x):
        y = nnx.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return nnx.relu(y + (x if x.shape == y.shape else self.shortcut(x)))


def residuals(widths, norm, rngs):
    before, inner, after, last = widths
    return nnx.Sequential(
        conv(3, before, rngs),
        Residual(before, inner, before, norm, rngs),
        Residual(before, last, after, norm, rngs),
        mean,
        nnx.Linear(after, 3, rngs=rngs),
    )


@entry(IMAGES)
def resnet_bn(rngs):
    return residuals((6, 5, 9, 7), batch, rngs)


@entry(IMAGES)
def resnet_gn(rngs):
    return residuals((6, 4, 8, 10), groups, rngs)


class Inverted(nnx.Module):
    """Expands, filters each channel and projects."""

    def __init__(self, before, inner, after, rngs):
        self.expand = conv(before, inner, rngs, size=1)
        self.expand_norm = batch(inner, rngs)
        self.depthwise = conv(inner, inner, rngs, feature_group_count=inner)
        self.depthwise_norm = batch(inner, rngs)
        self.project = conv(inner, after, rngs, size=1)
        self.project_norm = batch(after, rngs)

    def __call__(self, x):
        y = nnx.relu6(self.expand_norm(self.expand(x)))
        y = nnx.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if x.shape == y.shape else y


@entry(IMAGES)
def mobilenet(rngs):
    return nnx.Sequential(
        conv(3, 5, rngs),
        batch(5, rngs),
        nnx.relu6,
        Inverted(5, 8, 5, rngs),
        Inverted(5, 11, 7, rngs),
        mean,
        nnx.Linear(7, 3, rngs=rngs),
    )


class Block(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, width, heads, qkv, hidden, norm, rngs):
        self.first_norm, self.second_norm = (
            norm(width, rngs=rngs),
            norm(width, rngs=rngs),
        )
        self.attention = nnx.MultiHeadAttention(
            heads, width, qkv_features=qkv, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x, mask=None):
        x = x + self.attention(self.first_norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.second_norm(x))))


@entry(SERIES)
def transformer_block(rngs):
    return nnx.Sequential(
        nnx.Linear(5, 8, rngs=rngs),
        Block(8, 2, 12, 11, nnx.LayerNorm, rngs),
        nnx.Linear(8, 3, rngs=rngs),
    )


class LM(nnx.Module):
    """A causal language model with its embedding for a head."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.first = Block(8, 2, 12, 10, nnx.RMSNorm, rngs)
        self.second = Block(8, 3, 15, 13, nnx.RMSNorm, rngs)
        self.norm = nnx.RMSNorm(8, rngs=rngs)

    def __call__(self, tokens):
        mask = nnx.make_causal_mask(tokens)
        x = self.second(self.first(self.embed(tokens), mask), mask)
        return self.embed.attend(self.norm(x))


@entry(TOKENS)
def lm_tied(rngs):
    return LM(rngs)


@entry(SERIES)
def lstm(rngs):
    cell = nnx.OptimizedLSTMCell(5, 7, rngs=rngs)
    return nnx.Sequential(nnx.RNN(cell, rngs=rngs), nnx.Linear(7, 3, rngs=rngs))


@entry(SERIES)
def gru(rngs):
    cell = nnx.GRUCell(5, 7, rngs=rngs)
    return nnx.Sequential(nnx.RNN(cell, rngs=rngs), nnx.Linear(7, 3, rngs=rngs))
