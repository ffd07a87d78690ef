"""The zoo's plain functions: small networks of jax.numpy on nested dicts.

The widths are read from the weights, so that a network runs when it is cut.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from jax.tree_util import keystr, tree_map_with_path

ROWS, SERIES, IMAGES = (3, 5), (2, 6, 5), (2, 8, 8, 3)
TOKENS = (np.arange(12, dtype=np.int32) * 5 % 11).reshape(2, 6)
GATE = np.linspace(-1, 2, 7, dtype=np.float32)


class Case(NamedTuple):
    apply: Callable
    variables: Any
    inputs: tuple


ZOO: dict[str, Callable[[], Case]] = {}


def fill(tree, seed=""):
    """Returns the tree with random numbers for its shapes and its float arrays."""

    def draw(path, leaf):
        shape = leaf if isinstance(leaf, tuple) else leaf.shape
        if shape is not leaf and not jnp.issubdtype(leaf.dtype, np.floating):
            return leaf
        name = keystr(path)
        rng = np.random.default_rng(zlib.crc32((seed + name).encode()))
        if "var" in name:
            return jnp.asarray(rng.uniform(0.5, 1.5, shape).astype(np.float32))
        noise = rng.normal(size=shape)
        if "scale" in name:
            noise = 1 + 0.3 * noise
        elif "input" not in name:
            noise /= np.sqrt(np.prod(shape[:-1]))
        return jnp.asarray(noise.astype(np.float32))

    return tree_map_with_path(draw, tree, is_leaf=lambda t: type(t) is tuple)


def model(*inputs, **variables):
    """Registers apply(variables, *inputs), given the shapes of what it takes."""

    def register(apply, name=None):
        def case():
            given = fill({f"input{i}": x for i, x in enumerate(inputs)}, name)
            return Case(apply, fill(variables, name), tuple(given.values()))

        name = name or apply.__name__
        ZOO[name] = case
        return apply

    return register


def net(x, before, after, **variables):
    """Registers a middle(variables, h) of these widths between a stem and a head."""

    def register(middle, name=None):
        def apply(v, x):
            h = middle(v, (conv if x.ndim == 4 else dense)(v["stem"], x))
            return dense(v["head"], h.mean((1, 2)) if h.ndim == 4 else h)

        stem = (K if len(x) == 4 else D)(x[-1], before)
        shapes = {"stem": stem, "head": D(after, 3)} | variables
        model(x, **shapes)(apply, name or middle.__name__)

    return register


def D(*shape):
    return {"w": shape, "b": (*shape[:-2], shape[-1])}


def K(before, after, size=3):
    return {"w": (size, size, before, after), "b": (after,)}


def dense(p, x):
    return x @ p["w"] + p["b"]


def conv(p, x, stride=1, groups=1):
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    how["feature_group_count"] = groups
    return lax.conv_general_dilated(x, p["w"], [stride] * 2, "SAME", **how) + p["b"]


def block(p, x, stride=1, groups=1):
    return nn.relu(conv(p, x, stride, groups))


def feed(v, h, act=nn.relu):
    return dense(v["down"], act(dense(v["up"], h)))


def rms(h):
    return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-5)


def fast(h):
    mean = h.mean(-1, keepdims=True)
    return (h - mean) * lax.rsqrt((h * h).mean(-1, keepdims=True) - mean**2 + 1e-5)


def two_pass(h):
    h = h - h.mean(-1, keepdims=True)
    return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-5)


def heads(p, h, count=2):
    return dense(p, h).reshape(*h.shape[:2], count, -1)


def attend(q, k, x):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), x)


def rotate(x):
    a, b = jnp.split(x, 2, axis=-1)
    rate = 100.0 ** (-jnp.arange(a.shape[-1]) / a.shape[-1])
    angle = jnp.arange(x.shape[1])[:, None, None] * rate
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


cubic = jax.custom_jvp(lambda h: h + h**3)
cubic.defjvp(lambda h, t: (cubic(*h), (1 + 3 * h[0] ** 2) * t[0]))
square = jax.custom_vjp(lambda h: h * h)
square.defvjp(lambda h: (h * h, h), lambda h, g: (2 * h * g,))

# The networks are laid out by hand, as a table.
# fmt: off
for i, (name, middle) in enumerate({
    "mlp_relu": nn.relu, "mlp_gelu": nn.gelu, "mlp_sigmoid": nn.sigmoid,
    "mlp_tanh": jnp.tanh, "exp_act": jnp.exp,
    "custom_jvp_mlp": cubic, "custom_vjp_mlp": square,
    "l2_normalize": lambda h: h / jnp.linalg.norm(h, axis=1, keepdims=True),
    "flip_add": lambda h: nn.relu(h) + h[:, ::-1],
    "roll_add": lambda h: nn.relu(h) + jnp.roll(h, 1, 1),
    "batch_norm_train": lambda h: (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-3),
    # Nothing can be cut of these.
    "softmax_hidden": nn.softmax, "cumsum_hidden": lambda h: jnp.cumsum(h, 1),
    "sort_hidden": lambda h: jnp.sort(h, 1), "reciprocal": lambda h: 1 / h,
    "argmax_gate": lambda h: h * nn.one_hot(h.argmax(1), h.shape[1]),
    "fft_hidden": lambda h: jnp.fft.fft(h).real,
}.items()):
    net(ROWS, 6 + i % 7, 6 + i % 7)(lambda v, h, f=middle: f(h), name)
net(ROWS, 7, 1)(lambda v, h: h.max(1, keepdims=True), "max_pool_hidden")
net(ROWS, 7, 7)(lambda v, h: h * GATE, "const_gate")
net(ROWS, 12, 6)(lambda v, h: h.reshape(len(h), -1, 2).max(-1), "maxout")
net(ROWS, 7, 14)(lambda v, h: nn.relu(jnp.concatenate([h, -h], 1)), "crelu")
net(ROWS, 14, 7)(lambda v, h: nn.glu(h), "split_glu")
net(ROWS, 7, 7, a=(7,))(lambda v, h: jnp.where(h > 0, h, v["a"] * h), "prelu")
net(ROWS, 10, 6, a=D(5, 6), b=D(5, 6))(
    lambda v, h: dense(v["a"], h[:, ::2]) * dense(v["b"], h[:, 1::2]), "strided")
net(ROWS, 7, 7, a=D(7, 7))(
    lambda v, h: nn.relu(dense(v["a"], nn.relu(dense(v["a"], h)))), "shared_layer")
net(ROWS, 6, 9, v=(6, 9), g=(9,))(lambda v, h: nn.relu(
    nn.relu(h) @ (v["v"] * v["g"] / jnp.linalg.norm(v["v"], axis=0))), "weight_norm")
net(ROWS, 6, 9, base=D(6, 9), a=(6, 4), b=(4, 9))(lambda v, h: jnp.tanh(
    nn.relu(h) @ (v["base"]["w"] + v["a"] @ v["b"]) + v["base"]["b"]), "lora")
net(ROWS, 6, 6, gate=D(6, 9), up=D(6, 9), down=D(9, 6))(lambda v, h: h + dense(
    v["down"], nn.silu(dense(v["gate"], h)) * dense(v["up"], h)), "swiglu")
net(ROWS, 6, 7, router=D(6, 4), up=D(4, 6, 9), down=D(4, 9, 7))(lambda v, h: jnp.einsum(
    "be,ebj->bj", nn.softmax(dense(v["router"], h)), jax.vmap(feed, (0, None))(
        {"up": v["up"], "down": v["down"]}, h)), "moe_dense")
model(ROWS, up=D(5, 7), down=D(7, 3))(lambda v, x: feed(
    v, x, lambda h: lax.cond(x[0, 0] > 0, nn.relu, jnp.tanh, h)), "cond_mlp")
model(ROWS, (4,), up=D(4, 6), down=D(6, 35), head=D(7, 3))(lambda v, x, z: dense(
    v["head"], nn.relu(x @ feed(v, z).reshape(x.shape[1], -1))), "hypernet")
model(IMAGES, a=K(3, 6), b=K(6, 7), head=D(112, 3))(lambda v, x: dense(v["head"], block(
    v["b"], block(v["a"], x), 2).reshape(len(x), -1)), "conv_flatten_dense")
for name, middle in {
    "remat_mlp": lambda v, h: jax.checkpoint(lambda v, h: h + feed(v, h))(v, h),
    "nested_jit": lambda v, h: jax.jit(lambda v, h: h + jax.jit(feed)(v, h))(v, h),
    "while_mlp": lambda v, h: lax.fori_loop(0, 3, lambda i, h: h + feed(v, h), h),
}.items():
    net(ROWS, 6, 6, up=D(6, 9), down=D(9, 6))(middle, name)
for name, norm in {
    "layer_norm_fast": fast, "layer_norm_two_pass": two_pass, "rms_norm": rms,
}.items():
    net(SERIES, 8, 8, up=D(8, 11), down=D(11, 8), scale=(8,), shift=(8,))(
        lambda v, h, f=norm: f(h + feed(v, f(h) * v["scale"] + v["shift"])), name)
net(IMAGES, 9, 12, a=K(3, 6), b=K(2, 12))(lambda v, h: block(
    v["b"], block(v["a"], nn.relu(h), groups=3), groups=3), "grouped_conv")
net(IMAGES, 5, 7, a=K(1, 10), b=K(10, 7, 1))(lambda v, h: block(
    v["b"], block(v["a"], nn.relu(h), groups=h.shape[3])), "depthwise_multiplier")
net(IMAGES, 7, 6, up=D(7, 4), down=D(4, 7), a=K(7, 6))(lambda v, h: block(
    v["a"], h * nn.sigmoid(feed(v, h.mean((1, 2))))[:, None, None]), "squeeze_excite")
net(IMAGES, 6, 5, a=K(6, 5))(lambda v, h: block(v["a"], jax.image.resize(
    nn.relu(h), (len(h), 16, 16, h.shape[3]), "bilinear")), "bilinear_resize")
net(IMAGES, 8, 6, a=K(4, 6))(lambda v, h: block(v["a"], nn.relu(h).reshape(
    *h.shape[:3], 2, -1).swapaxes(3, 4).reshape(h.shape), groups=2), "channel_shuffle")
net(IMAGES, 20, 4, a=K(5, 4))(lambda v, h: block(v["a"], nn.relu(h).reshape(
    2, 8, 8, 2, 2, -1).swapaxes(2, 3).reshape(2, 16, 16, -1)), "pixel_shuffle")

@net(IMAGES, 8, 8, scale=(8,), shift=(8,))
def group_norm(v, h):
    groups = h.reshape(*h.shape[:3], 2, -1)
    h = nn.standardize(groups, (1, 2, 4)).reshape(h.shape)
    return nn.relu(h * v["scale"] + v["shift"])

@net(IMAGES, 4, 22, a=K(4, 5), b=K(9, 6), c=K(15, 7))
def concat_densenet(v, h):
    for name in "abc":
        h = jnp.concatenate([h, block(v[name], h)], axis=3)
    return h

@net(IMAGES, 4, 5, a=K(4, 6), b=K(10, 5))
def unet_repeat(v, h):
    up = block(v["a"], h, 2).repeat(2, axis=1).repeat(2, axis=2)
    return block(v["b"], jnp.concatenate([up, nn.relu(h)], axis=3))

@net(IMAGES, 4, 5, a=K(4, 6), up=K(6, 7, 2), b=K(11, 5))
def unet_conv_transpose(v, h):
    up = lax.conv_transpose(block(v["a"], h, 2), v["up"]["w"], (2, 2), "SAME")
    return block(v["b"], jnp.concatenate([up + v["up"]["b"], nn.relu(h)], axis=3))

@net(IMAGES, 4, 8, a=K(4, 5), b=K(5, 8))
def residual_pad(v, h):
    padded = jnp.pad(nn.relu(h)[:, ::2, ::2], [(0, 0)] * 3 + [(2, 2)])
    return nn.relu(padded + conv(v["b"], block(v["a"], nn.relu(h), 2)))

@model((2, 3, 8, 8), w=(6, 3, 3, 3), b=(6,), head=D(384, 3))
def nchw_flatten(v, x):
    h = lax.conv(x, v["w"], (1, 1), "SAME") + v["b"][:, None, None]
    return dense(v["head"], nn.relu(h).reshape(len(x), -1))

@net(ROWS, 6, 6, up=D(6, 18), down=D(9, 6))
def fused_swiglu(v, h):
    gate, up = dense(v["up"], h).reshape(len(h), 2, -1).swapaxes(0, 1)
    return h + dense(v["down"], nn.silu(gate) * up)

@net(ROWS, 8, 8, layers={"up": D(3, 8, 11), "down": D(3, 11, 8), "scale": (3, 8)})
def scan_layers(v, h):
    def layer(h, p):
        return h + feed(p, rms(h) * p["scale"]), None
    return lax.scan(layer, h, v["layers"])[0]

@model(TOKENS, table=(11, 8), up=D(8, 9), down=D(9, 8))
def tied_embedding(v, tokens):
    h = v["table"][tokens]
    return rms(h + feed(v, rms(h))) @ v["table"].T

PARTS = {"q": D(8, 12), "k": D(8, 12), "v": D(8, 10), "o": D(10, 8)}
GROUPED = {"q": D(8, 12), "k": D(8, 6), "v": D(8, 10), "o": D(20, 8)}
FUSED = {"qkv": D(8, 30), "o": D(10, 8)}
def grouped(v, h):
    q = heads(v["q"], h, 4).reshape(2, 6, 2, 2, -1)
    scores = jnp.einsum("bqgrd,bkgd->bgrqk", q, heads(v["k"], h)) / np.sqrt(q.shape[-1])
    return jnp.einsum("bgrqk,bkgd->bqgrd", nn.softmax(scores), heads(v["v"], h))

for name, (shapes, mix) in {
    "attention": (PARTS, lambda v, h: attend(*(heads(v[n], h) for n in "qkv"))),
    "rotary": (PARTS, lambda v, h: attend(
        rotate(heads(v["q"], h)), rotate(heads(v["k"], h)), heads(v["v"], h))),
    "fused_qkv_reshape": (FUSED, lambda v, h: attend(*jnp.moveaxis(
        dense(v["qkv"], h).reshape(2, 6, 3, 2, -1), 2, 0))),
    "fused_qkv_split": (FUSED, lambda v, h: attend(*(
        x.reshape(2, 6, 2, -1) for x in jnp.split(dense(v["qkv"], h), 3, axis=2)))),
    "grouped_query": (GROUPED, lambda v, h: attend(
        heads(v["q"], h, 4), *(heads(v[n], h).repeat(2, axis=2) for n in "kv"))),
    "grouped_query_einsum": (GROUPED, grouped),
}.items():
    net(SERIES, 8, 8, **shapes)(
        lambda v, h, f=mix: h + dense(v["o"], f(v, h).reshape(*h.shape[:2], -1)), name)

@net(SERIES, 6, 7, i=D(6, 28), h=(7, 28))
def lstm(v, h):
    def step(carry, x):
        i, f, g, o = jnp.split(dense(v["i"], x) + carry[1] @ v["h"], 4, axis=1)
        cell = nn.sigmoid(f) * carry[0] + nn.sigmoid(i) * jnp.tanh(g)
        out = nn.sigmoid(o) * jnp.tanh(cell)
        return (cell, out), out
    start = jnp.zeros((2, len(v["h"])))
    return lax.scan(step, (start, start), h.swapaxes(0, 1))[1][-1]

@net(SERIES, 6, 7, i=D(6, 21), h=D(7, 21))
def gru(v, h):
    def step(out, x):
        a, b = (jnp.split(dense(*p), 3, axis=1) for p in ((v["i"], x), (v["h"], out)))
        r, z = nn.sigmoid(a[0] + b[0]), nn.sigmoid(a[1] + b[1])
        out = z * out + (1 - z) * jnp.tanh(a[2] + r * b[2])
        return out, out
    return lax.scan(step, jnp.zeros((2, len(v["h"]["w"]))), h.swapaxes(0, 1))[1][-1]
