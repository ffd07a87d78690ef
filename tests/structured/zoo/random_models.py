"""Random models: sequences of layers, with skips and concatenations.

A model is a list of whole numbers: which layer, and how. So hypothesis can make one,
and make one that fails smaller.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Weights:
    """Hands out weights in the order they are asked for, or notes what they are."""

    def __init__(self, given=None):
        self.given, self.shapes = given, {}

    def __call__(self, *shape):
        name = f"{len(self.shapes):03d}"
        self.shapes[name] = shape
        return jnp.zeros(shape) if self.given is None else self.given[name]


def conv(w, x, width, groups=1, size=3):
    kernel = w(size, size, x.shape[-1] // groups, width)
    numbers = ("NHWC", "HWIO", "NHWC")
    return w(width) + lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", None, None, numbers, feature_group_count=groups
    )


def dense(w, x, width):
    return x @ w(x.shape[-1], width) + w(width)


def normed(w, x, statistics):
    return statistics(x) * w(x.shape[-1]) + w(x.shape[-1])


def layer_norm(x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt((x * x).mean(-1, keepdims=True) - mean**2 + 1e-3)


def two_pass(x):
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3)


def group_norm(x):
    parts = x.reshape(*x.shape[:-1], 2, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    square = (parts**2).mean(axes, keepdims=True)
    return (parts * lax.rsqrt(square + 1e-3)).reshape(x.shape)


def batch_norm(w, x):
    return (x - w(x.shape[-1])) * lax.rsqrt(w(x.shape[-1]) ** 2 + 0.1) * w(x.shape[-1])


def attention(w, x, width):
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    q, k, v = (jnp.einsum("btc,chd->bthd", tokens, w(x.shape[-1], 2, 3)) for _ in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / 3**0.5, axis=-1)
    mixed = jnp.einsum("bhts,bshd->bthd", weights, v)
    out = jnp.einsum("bthd,hdc->btc", mixed, w(2, 3, width))
    return out.reshape(*x.shape[:-1], width)


def scanned(w, x):
    up, down = w(2, x.shape[-1], 5), w(2, 5, x.shape[-1])

    def body(carry, layer):
        return carry + jnp.tanh(carry @ layer[0]) @ layer[1], None

    return lax.scan(body, x, (up, down))[0]


def excited(w, x):
    gate = jax.nn.relu(dense(w, x.mean((1, 2)), 3))
    return x * jax.nn.sigmoid(dense(w, gate, x.shape[-1]))[:, None, None]


def shuffled(x):
    parts = x.reshape(*x.shape[:-1], 2, -1)
    return jnp.swapaxes(parts, -1, -2).reshape(x.shape)


def residual(w, x, other):
    return x + (
        other if other.shape == x.shape else conv(w, other, x.shape[-1], size=1)
    )


def glu(x):
    one, other = jnp.split(x, 2, axis=-1)
    return one * jax.nn.sigmoid(other)


@jax.custom_jvp
def swish(x):
    return x * jax.nn.sigmoid(x)


swish.defjvp(lambda p, t: (swish(*p), t[0] * jax.nn.sigmoid(p[0])))

# Each takes the weights, the activations, earlier activations and an even width.
LAYERS = [
    lambda w, x, old, n: jax.nn.relu(conv(w, x, n)),
    lambda w, x, old, n: jax.nn.gelu(conv(w, x, n)),
    lambda w, x, old, n: jax.nn.sigmoid(conv(w, x, n, size=1)),
    lambda w, x, old, n: swish(conv(w, x, n)),
    lambda w, x, old, n: jax.nn.softplus(dense(w, x, n)),
    lambda w, x, old, n: jnp.tanh(dense(w, x, n)),
    lambda w, x, old, n: conv(w, x, x.shape[-1], groups=x.shape[-1]),
    lambda w, x, old, n: conv(w, x, 2 * x.shape[-1], groups=x.shape[-1], size=1),
    lambda w, x, old, n: conv(w, x, n, groups=2),
    lambda w, x, old, n: normed(w, x, layer_norm),
    lambda w, x, old, n: normed(w, x, two_pass),
    lambda w, x, old, n: normed(w, x, group_norm),
    lambda w, x, old, n: batch_norm(w, x),
    lambda w, x, old, n: x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3),
    lambda w, x, old, n: residual(w, x, old[n % len(old)]),
    lambda w, x, old, n: jnp.concatenate([x, old[n % len(old)]], axis=-1),
    lambda w, x, old, n: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1),
    lambda w, x, old, n: excited(w, x),
    lambda w, x, old, n: attention(w, x, n),
    lambda w, x, old, n: scanned(w, x),
    lambda w, x, old, n: jax.checkpoint(lambda a: jax.nn.silu(a))(dense(w, x, n)),
    lambda w, x, old, n: glu(dense(w, x, 2 * n)),
    lambda w, x, old, n: jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], axis=-1),
    lambda w, x, old, n: shuffled(x),
    lambda w, x, old, n: x[..., ::-1],
    lambda w, x, old, n: x + x[..., ::-1],
    lambda w, x, old, n: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1))),
    lambda w, x, old, n: x[..., : max(2, x.shape[-1] // 2)],
    lambda w, x, old, n: x[..., ::2] + x[..., 1::2],
    lambda w, x, old, n: jnp.repeat(x, 2, axis=-1)[..., : x.shape[-1]],
    lambda w, x, old, n: jax.nn.softmax(x, axis=-1),
    lambda w, x, old, n: x * jnp.max(x, axis=-1, keepdims=True),
    lambda w, x, old, n: x * jnp.tanh(x.mean(-1, keepdims=True)),
    lambda w, x, old, n: jnp.where(x > 0, x, x * w(x.shape[-1])),
    lambda w, x, old, n: lax.cond(x.sum() > 0, jnp.tanh, jax.nn.relu, x),
    lambda w, x, old, n: lax.fori_loop(0, 2, lambda i, a: jnp.tanh(a) + x, x),
    lambda w, x, old, n: jnp.stack([x, jnp.tanh(x)], -1).reshape(*x.shape[:-1], -1),
    lambda w, x, old, n: jnp.cumsum(x, axis=1),
    lambda w, x, old, n: jnp.exp(x / 4),
]


def apply(layers, w, x):
    """Runs the layers, then a dense layer on the mean or on the flattened rest."""
    x = conv(w, x, 4)
    old = [x]
    for kind, width in layers:
        made = LAYERS[kind](w, x, old, width)
        # Concatenations must not grow without end, nor may a width become odd.
        if made.shape[-1] % 2 == 0 and made.shape[-1] <= 16:
            old.append(x)
            x = made
    if len(layers) % 2:
        return dense(w, x.reshape(len(x), -1), 3)
    return dense(w, x.mean((1, 2)), 3)


def build(layers):
    """Returns `(apply, variables, inputs)` of a list of (kind, width)."""
    x = np.random.default_rng(1).normal(size=(2, 3, 3, 3)).astype(np.float32)
    weights = Weights()
    jax.eval_shape(lambda x: apply(layers, weights, x), x)
    rng = np.random.default_rng(0)
    variables = {
        name: rng.normal(0.1, 0.7 / np.sqrt(np.prod(shape[:-1]) + 1), shape).astype(
            np.float32
        )
        for name, shape in weights.shapes.items()
    }
    return lambda tree, x: apply(layers, Weights(tree), x), variables, (x,)
