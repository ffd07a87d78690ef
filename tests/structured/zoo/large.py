"""The zoo's large networks, whose variables are shapes: for jax.eval_shape only."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.structured.zoo.linen import Block, norm
from tests.structured.zoo.plain import Case, rms, rotate

ZOO: dict[str, Callable[[], Case]] = {}


def entry(*shape, dtype=jnp.float32):
    """Registers the module that a function returns, given the shape of its input."""

    def register(function):
        def case():
            module, x = function(), jax.ShapeDtypeStruct(shape, dtype)
            variables = jax.eval_shape(module.init, jax.random.key(0), x)
            return Case(module.apply, variables, (x,))

        ZOO[function.__name__] = case
        return function

    return register


def conv(width, size=3, stride=1, **how):
    return nn.Conv(width, (size, size), stride, use_bias=False, **how)


class VGG13(nn.Module):
    """Convolution, ReLU and batch norm in this order, for CIFAR images."""

    width_divisor: int = 1
    classes: int = 100

    @nn.compact
    def __call__(self, x):
        for width in (64, 128, 256, 512, 512):
            for _ in range(2):
                x = norm()(nn.relu(conv(width // self.width_divisor)(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


class MobileNetV1(nn.Module):
    """Depthwise and pointwise convolutions, for CIFAR images."""

    width_divisor: int = 1
    classes: int = 100

    @nn.compact
    def __call__(self, x):
        blocks = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))
        blocks += 5 * ((512, 1),) + ((1024, 2), (1024, 1))
        x = nn.relu(norm()(conv(32 // self.width_divisor)(x)))
        for width, stride in blocks:
            depthwise = conv(x.shape[3], 3, stride, feature_group_count=x.shape[3])
            x = nn.relu(norm()(depthwise(x)))
            x = nn.relu(norm()(conv(width // self.width_divisor, 1)(x)))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


class ResNet56(nn.Module):
    """Basic blocks of two convolutions, nine a stage, for CIFAR images."""

    width_divisor: int = 1
    classes: int = 100
    blocks: int = 9

    @nn.compact
    def __call__(self, x):
        x = nn.relu(norm()(conv(16 // self.width_divisor)(x)))
        for stage in range(3):
            width = 2**stage * 16 // self.width_divisor
            for block in range(self.blocks):
                stride = 2 if stage and not block else 1
                y = nn.relu(norm()(conv(width, 3, stride)(x)))
                y = norm()(conv(width)(y))
                if x.shape != y.shape:
                    x = norm()(conv(width, 1, stride)(x))
                x = nn.relu(x + y)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class ResNet50(nn.Module):
    """Bottleneck blocks, for ImageNet images."""

    width_divisor: int = 1
    classes: int = 1000

    @nn.compact
    def __call__(self, x):
        x = nn.relu(norm()(conv(64 // self.width_divisor, 7, 2)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            width = 2**stage * 64 // self.width_divisor
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                y = nn.relu(norm()(conv(width, 1)(x)))
                y = nn.relu(norm()(conv(width, 3, stride)(y)))
                y = norm()(conv(4 * width, 1)(y))
                if x.shape != y.shape:
                    x = norm()(conv(4 * width, 1, stride)(x))
                x = nn.relu(x + y)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class ViTB16(nn.Module):
    """A pre-norm vision transformer with a class token."""

    layers: int = 12
    classes: int = 1000

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(768, (16, 16), 16)(x).reshape(len(x), -1, 768)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, 768))
        x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        where = self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
        x = x + where
        for _ in range(self.layers):
            x = Block(12, 768, 3072)(x)
        return nn.Dense(self.classes)(nn.LayerNorm()(x)[:, 0])


class GPT(nn.Module):
    """GPT-2 medium: its embedding is its head."""

    layers: int = 24

    @nn.compact
    def __call__(self, tokens):
        embed, mask = nn.Embed(50257, 1024), nn.make_causal_mask(tokens)
        x = embed(tokens) + nn.Embed(1024, 1024)(jnp.arange(tokens.shape[1]))
        for _ in range(self.layers):
            x = Block(16, 1024, 4096)(x, mask)
        return embed.attend(nn.LayerNorm()(x))


@entry(1, 32, 32, 3)
def vgg13():
    return VGG13()


@entry(1, 32, 32, 3)
def mobilenet_v1():
    return MobileNetV1()


@entry(1, 32, 32, 3)
def resnet56():
    return ResNet56()


@entry(1, 224, 224, 3)
def resnet50():
    return ResNet50()


@entry(1, 224, 224, 3)
def vit_b16():
    return ViTB16()


@entry(1, 512, dtype=jnp.int32)
def gpt24():
    return GPT()


def grouped_query(p, x):
    """Returns causal attention with as many key and value heads as p["k"] has."""
    q, k, v = (jnp.einsum("btc,c...d->bt...d", x, p[name]) for name in "qkv")
    q = rotate(q.reshape(*q.shape[:2], -1, q.shape[-1])).reshape(q.shape)
    scores = jnp.einsum("bqgrd,bkgd->bgrqk", q, rotate(k)) / np.sqrt(q.shape[-1])
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = nn.softmax(jnp.where(seen, scores, -jnp.inf))
    mixed = jnp.einsum("bgrqk,bkgd->bqgrd", weights, v)
    return jnp.einsum("bqgrd,grdc->bqc", mixed, p["o"])


def decode(v, tokens):
    x = v["embedding"][tokens]
    for i in range(len(v["layers"])):
        p = v["layers"][f"layer_{i}"]
        x = x + grouped_query(p, rms(x) * p["attention_scale"])
        h = rms(x) * p["feed_scale"]
        x = x + (nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return (rms(x) * v["scale"]) @ v["head"]


def billion(layers=22, width=2048, groups=4, queries=8, size=64, hidden=5632):
    """Returns a decoder with gated layers and grouped queries; 1.1e9 parameters."""
    layer = {
        "q": (width, groups, queries, size),
        "k": (width, groups, size),
        "v": (width, groups, size),
        "o": (groups, queries, size, width),
        "gate": (width, hidden),
        "up": (width, hidden),
        "down": (hidden, width),
        "attention_scale": (width,),
        "feed_scale": (width,),
    }
    shapes = {
        "embedding": (32000, width),
        "layers": {f"layer_{i}": layer for i in range(layers)},
        "scale": (width,),
        "head": (width, 32000),
    }
    variables = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda t: isinstance(t, tuple),
    )
    return Case(decode, variables, (jax.ShapeDtypeStruct((1, 128), jnp.int32),))


ZOO["billion"] = billion
