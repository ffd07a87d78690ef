"""The networks that are measured, in plain JAX: two kinds for images, one for text.

`apply(params, images, running)` returns logits and the statistics of each batch norm:
those of the batch where `running` is None (training mode), else those of `running`.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow_jax.models.convolution import convolve

Tree = dict[str, Any]

# Convolutions and widths of a VGG-13; P is a pooling.
VGG13 = (64, 64, "P", 128, 128, "P", 256, 256, "P", 512, 512, "P", 512, 512, "P")


class Network(NamedTuple):
    """A function of images, and what makes its parameters from a seed."""

    init: Callable[[int], Tree]
    apply: Callable[..., tuple[jax.Array, Tree]]


class Problem(NamedTuple):
    """A loss and its arguments: `loss(params, batch, *others)`."""

    loss: Callable[..., jax.Array]
    params: Tree
    batch: Any
    others: tuple[Any, ...] = ()

    @property
    def arguments(self) -> tuple[Any, ...]:
        """All of them."""
        return self.params, self.batch, *self.others


def resnet(depth: int, classes: int = 10) -> Network:
    """A ResNet for images of 32×32: depth 20, 56, ... 6n + 2, shortcuts of 1×1."""
    plan = list(_basic_blocks((depth - 2) // 6))

    def init(seed: int) -> Tree:
        draw = _Draw(seed)
        params = {"stem": draw.conv_norm(3, 3, 16)}
        for name, inputs, width, stride in plan:
            params[name] = {
                "first": draw.conv_norm(3, inputs, width),
                "second": draw.conv_norm(3, width, width),
            }
            if stride > 1:
                params[name]["shortcut"] = draw.conv_norm(1, inputs, width)
        return params | {"head": draw.dense(64, classes)}

    def apply(
        params: Tree, images: jax.Array, running: Tree | None = None
    ) -> tuple[jax.Array, Tree]:
        norm = _Norms(running)
        x = jax.nn.relu(norm("stem", params["stem"], images))
        for name, _, _, stride in plan:
            block, own = params[name], x
            x = jax.nn.relu(norm(name + "/first", block["first"], x, stride))
            x = norm(name + "/second", block["second"], x)
            if "shortcut" in block:
                own = norm(name + "/shortcut", block["shortcut"], own, stride)
            x = jax.nn.relu(x + own)
        return _dense(params["head"], jnp.mean(x, (1, 2))), norm.seen

    return Network(init, apply)


def _basic_blocks(each: int) -> Iterator[tuple[str, int, int, int]]:
    """Yields name, inputs, width and stride of each block."""
    inputs = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(each):
            stride = 2 if stage and not block else 1
            yield f"stage{stage}_block{block:02}", inputs, width, stride
            inputs = width


def vgg(plan: tuple[int | str, ...] = VGG13, classes: int = 10) -> Network:
    """A VGG with batch norm for images of 32×32."""
    widths = [width for width in plan if width != "P"]

    def init(seed: int) -> Tree:
        draw = _Draw(seed)
        inputs = [3, *widths[:-1]]
        layers = [draw.conv_norm(3, *pair) for pair in zip(inputs, widths, strict=True)]
        params = {f"conv{i:02}": layer for i, layer in enumerate(layers)}
        return params | {"head": draw.dense(widths[-1], classes)}

    def apply(
        params: Tree, images: jax.Array, running: Tree | None = None
    ) -> tuple[jax.Array, Tree]:
        norm, x, names = _Norms(running), images, iter(sorted(params))
        for width in plan:
            if width == "P":
                window = (1, 2, 2, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
            else:
                name = next(names)
                x = jax.nn.relu(norm(name, params[name], x))
        return _dense(params["head"], jnp.mean(x, (1, 2))), norm.seen

    return Network(init, apply)


class _Draw:
    """Draws parameters by NumPy, so that nothing is compiled for it."""

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)

    def normal(self, scale: float, *shape: int) -> jax.Array:
        drawn = self._generator.standard_normal(shape, np.float32) * np.float32(scale)
        return jnp.asarray(drawn)

    def conv_norm(self, size: int, inputs: int, outputs: int) -> Tree:
        scale = math.sqrt(2 / (size * size * inputs))
        kernel = self.normal(scale, size, size, inputs, outputs)
        return {"conv": {"kernel": kernel}, "norm": scale_and_bias(outputs)}

    def dense(self, inputs: int, outputs: int) -> Tree:
        kernel = self.normal(1 / math.sqrt(inputs), inputs, outputs)
        return {"kernel": kernel, "bias": jnp.asarray(np.zeros(outputs, np.float32))}


def scale_and_bias(width: int) -> Tree:
    """Returns the parameters of a normalization that does nothing more."""
    one, zero = np.ones(width, np.float32), np.zeros(width, np.float32)
    return {"scale": jnp.asarray(one), "bias": jnp.asarray(zero)}


class _Norms:
    """Convolutions with batch norm; remembers the statistics by name."""

    def __init__(self, running: Tree | None):
        self._running, self.seen = running, {}

    def __call__(
        self, name: str, params: Tree, x: jax.Array, stride: int = 1
    ) -> jax.Array:
        # As the library's own networks: matrices are multiplied on the smallest maps.
        x = convolve(
            x,
            params["conv"]["kernel"],
            (stride, stride),
            # Not "SAME", which at a stride of two pads one side alone; torch both.
            [(params["conv"]["kernel"].shape[0] // 2,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self._running is None:
            mean = jnp.mean(x, (0, 1, 2))
            statistics = mean, jnp.mean(x * x, (0, 1, 2)) - mean * mean
        else:
            statistics = self._running[name]
        self.seen[name] = mean, variance = statistics
        norm = params["norm"]
        factor = norm["scale"] * lax.rsqrt(variance + 1e-5)
        return (x - mean) * factor + norm["bias"]


def _dense(params: Tree, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean of −log p of the labels, [...], under logits, [..., class]."""
    logs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(logs, labels[..., None], -1))


def image_batch(size: int, seed: int = 1) -> tuple[jax.Array, jax.Array]:
    """Returns random images and labels."""
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((size, 32, 32, 3), np.float32)
    return jnp.asarray(images), jnp.asarray(generator.integers(0, 10, size))


def image_loss(network: Network) -> Callable[..., jax.Array]:
    """Returns a new `loss(params, (images, labels), running)`."""

    def loss(params: Tree, batch: Any, running: Tree | None) -> jax.Array:
        images, labels = batch
        return cross_entropy(network.apply(params, images, running)[0], labels)

    return loss


def image_problem(network: Network, size: int, *, train: bool) -> Problem:
    """A network in training mode, or with statistics that fit its parameters."""
    params, batch, running = network.init(0), image_batch(size), None
    if not train:
        _, running = jax.jit(network.apply)(params, batch[0])
    return Problem(image_loss(network), params, batch, (running,))


def text_problem(
    layers: int = 4, width: int = 128, length: int = 64, size: int = 16
) -> Problem:
    """A causal transformer of four heads on random bytes."""
    draw, vocabulary = _Draw(0), 256
    params: Tree = {
        "tokens": {"embedding": draw.normal(0.02, vocabulary, width)},
        "places": {"embedding": draw.normal(0.02, length, width)},
        "norm": scale_and_bias(width),
        "head": draw.dense(width, vocabulary),
    }
    for layer in range(layers):
        params[f"layer{layer}"] = {
            "norm1": scale_and_bias(width),
            "qkv": draw.dense(width, 3 * width),
            "out": draw.dense(width, width),
            "norm2": scale_and_bias(width),
            "up": draw.dense(width, 4 * width),
            "down": draw.dense(4 * width, width),
        }
    generator = np.random.default_rng(1)
    tokens = jnp.asarray(generator.integers(0, vocabulary, (size, length + 1)))
    return Problem(functools.partial(_text_loss, layers=layers), params, tokens)


def _text_loss(params: Tree, tokens: jax.Array, layers: int) -> jax.Array:
    x = params["tokens"]["embedding"][tokens[:, :-1]] + params["places"]["embedding"]
    for layer in range(layers):
        own = params[f"layer{layer}"]
        x = x + _attention(own, _layer_norm(own["norm1"], x))
        hidden = jax.nn.gelu(_dense(own["up"], _layer_norm(own["norm2"], x)))
        x = x + _dense(own["down"], hidden)
    return cross_entropy(
        _dense(params["head"], _layer_norm(params["norm"], x)), tokens[:, 1:]
    )


def _attention(params: Tree, x: jax.Array, heads: int = 4) -> jax.Array:
    apart = _dense(params["qkv"], x).reshape(*x.shape[:2], 3, heads, -1)
    query, key, value = jnp.moveaxis(apart, 2, 0)
    weights = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    allowed = jnp.tril(jnp.ones(weights.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(allowed, weights, -1e9))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return _dense(params["out"], mixed.reshape(x.shape))


def _layer_norm(params: Tree, x: jax.Array) -> jax.Array:
    centered = x - jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(centered * centered, -1, keepdims=True)
    return centered * lax.rsqrt(variance + 1e-5) * params["scale"] + params["bias"]


def resnet50_shapes(width: int = 64, classes: int = 1000) -> list[tuple[int, ...]]:
    """Returns the shapes of a ResNet-50's 161 leaves; 25.6 M weights at width 64."""
    shapes: list[tuple[int, ...]] = [(7, 7, 3, width), (width,), (width,)]
    inputs = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for block in range(blocks):
            kernels = [(1, 1, inputs, inner), (3, 3, inner, inner)]
            kernels.append((1, 1, inner, 4 * inner))
            if not block:
                kernels.append((1, 1, inputs, 4 * inner))
            for kernel in kernels:
                shapes += [kernel, kernel[-1:], kernel[-1:]]
            inputs = 4 * inner
    return [*shapes, (inputs, classes), (classes,)]


def llama_shapes(
    width: int, inner: int, key_width: int, layers: int = 30
) -> list[tuple[int, ...]]:
    """Returns the shapes of a Llama's kernels, seven a layer, without embeddings.

    SmolLM2-135M has width 576, inner 1536 and keys of width 192: 106 M weights.
    """
    attention = [(width, width), (width, key_width), (width, key_width), (width, width)]
    return layers * [*attention, (width, inner), (width, inner), (inner, width)]
