"""The architectures, against arithmetic, NumPy and what can be cut from them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.models import MODELS, ConvNorm
from gradflow_jax.models.conv_norm import linear
from gradflow_jax.trees import named_leaves

pytestmark = pytest.mark.models
CIFAR = (32, 32, 3)


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def abstract(name, shape=CIFAR, classes=100, **options):
    """Returns a network of shapes, in eval mode."""
    model = nnx.eval_shape(
        lambda: MODELS[name](shape, classes, rngs=nnx.Rngs(0), **options)
    )
    model.eval()
    return model


def images(shape, count=2):
    return jax.ShapeDtypeStruct((count, *shape), jnp.float32)


def drawn(model):
    """Returns a model with random weights and statistics for its shapes."""

    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if path.endswith("var"):
            noise = 0.5 + np.abs(noise)
        elif path.endswith("kernel"):
            noise *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif path.endswith("scale"):
            noise = 1 + 0.3 * noise
        return jnp.asarray(noise, jnp.float32)

    graphdef, state = nnx.split(model)
    leaves = [draw(path, leaf) for path, leaf in named_leaves(state)]
    return nnx.merge(graphdef, jax.tree.structure(state).unflatten(leaves))


def numbers(model):
    return {path: np.asarray(leaf) for path, leaf in named_leaves(nnx.state(model))}


def called(model, x):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)


# Parameters of a convolution and its norm; of a depthwise one; of a linear layer.
def conv(before, after, size=3):
    return size * size * before * after + 2 * after


def depthwise(channels):
    return (9 + 2) * channels


def dense(before, after):
    return before * after + after


def vgg(widths):
    pairs = zip((3, *widths), widths, strict=False)
    return sum(conv(*pair) for pair in pairs) + dense(widths[-1], 100)


def mobilenet(widths):
    pairs = list(zip(widths, widths[1:], strict=False))
    blocks = sum(depthwise(before) + conv(before, after, 1) for before, after in pairs)
    return conv(3, widths[0]) + blocks + dense(widths[-1], 100)


def resnet(blocks, widths):
    total = conv(3, widths[0]) + dense(widths[-1], 100)
    for count, after in zip(blocks, widths, strict=True):
        total += 2 * count * conv(after, after)
    for before, after in zip(widths, widths[1:], strict=False):
        total += conv(before, after) - conv(after, after) + conv(before, after, 1)
    return total


WIDE = (64, 128, 256, 512)
COUNTS = {
    "vgg13": vgg((64, 64, 128, 128, 256, 256, 512, 512, 512, 512)),
    "mobilenet": mobilenet((32, 64, 128, 128, 256, 256, *6 * (512,), 1024, 1024)),
    "resnet56": resnet((9, 9, 9), (16, 32, 64)),
    "resnet18": resnet((2, 2, 2, 2), WIDE),
    "resnet34": resnet((3, 4, 6, 3), WIDE),
}
# The number of producers of each family: one, or all that write to a stream.
PRODUCERS = {
    "vgg13": 10 * [1],
    "mobilenet": 14 * [1],
    "resnet56": 27 * [1] + 3 * [10],
    "resnet18": 8 * [1] + 4 * [3],
    "resnet34": 16 * [1] + [4, 4, 5, 7],
}
UNITS = {
    "vgg13": 2944,
    "mobilenet": 5984,
    "resnet56": 9 * (16 + 32 + 64) + 112,
    "resnet18": 2 * sum(WIDE) + sum(WIDE),
    "resnet34": 3 * 64 + 4 * 128 + 6 * 256 + 3 * 512 + sum(WIDE),
}


@functools.cache
def found(name):
    model = abstract(name)
    return model, gf.find_units(model, images(CIFAR))


def halves(units):
    return {f.name: np.arange(f.size) % 2 == 0 for f in units}


def test_the_published_counts_of_parameters():
    assert set(MODELS) == set(COUNTS)
    assert (COUNTS["vgg13"], COUNTS["resnet56"]) == (9_459_236, 861_620)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_families_at_full_width(name):
    model, units = found(name)
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in params) == COUNTS[name] == units.parameters()
    assert sorted(len(f.producers) for f in units) == PRODUCERS[name]
    assert sum(f.size for f in units) == UNITS[name]


@pytest.mark.parametrize("name", MODELS)
def test_half_of_a_full_network_is_the_network_of_half_width(name):
    model, units = found(name)
    small = gf.shrink(model, units, halves(units))
    half = abstract(name, width=0.5)

    def shapes(model):
        return {path: leaf.shape for path, leaf in named_leaves(nnx.state(model))}

    assert shapes(small) == shapes(half)


@pytest.mark.parametrize("name", MODELS)
def test_each_norm_has_the_filters_of_its_convolution(name):
    leaves = dict(named_leaves(nnx.state(abstract(name))))
    kernels = {path for path in leaves if path.endswith("/conv/kernel")}
    assert len(kernels) == sum(leaf.ndim == 4 for leaf in leaves.values())
    for kernel in kernels:
        for part in ("scale", "bias", "mean", "var"):
            norm = leaves[kernel.replace("/conv/kernel", f"/norm/{part}")]
            assert norm.shape == leaves[kernel].shape[-1:]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("shape", "fast"),
    (
        (CIFAR, False),
        ((28, 28, 1), False),
        ((28, 28, 1), True),
        ((8, 8, 1), True),
        ((64, 48, 3), True),
    ),
)
def test_logits_of_images_of_any_size(name, shape, fast):
    graphdef, state = nnx.split(abstract(name, shape, 10, fast=fast))
    run = jax.eval_shape(lambda v, x: nnx.merge(graphdef, v)(x), state, images(shape))
    assert run.shape == (2, 10)


@pytest.mark.parametrize(
    ("size", "pools", "left"),
    ((32, 5, 1), (28, 4, 1), (8, 3, 1), (64, 5, 4), (1, 0, 1)),
)
def test_vgg_leaves_out_pooling_of_what_is_small(size, pools, left):
    model = abstract("vgg13", (size, size, 3))
    assert model.pooled == (1, 3, 5, 7, 9)[:pools]
    assert model.classifier.in_features == 512 * left


def test_widths_are_multiplied_and_no_layer_is_too_narrow():
    def widths(**options):
        return [
            layer.conv.out_features for layer in abstract("vgg13", **options).layers
        ]

    assert widths(width=0.25) == [16, 16, 32, 32, 64, 64, 128, 128, 128, 128]
    assert widths(width=0.02) == [4, 4, 4, 4, 5, 5, 10, 10, 10, 10]
    assert widths(fast=True) == [8, 12, 16]
    assert widths(fast=True, width=0.3) == [4, 4, 5]


def test_fast_networks_have_each_kind_of_connection():
    def shortcuts(name):
        blocks = abstract(name, fast=True).blocks
        return [block.shortcut is not None for block in blocks]

    assert shortcuts("resnet56") == [False, True, False, True]
    assert shortcuts("resnet18") == [False, True, True, True]
    assert shortcuts("resnet34") == [False, True, False, True, False, True]
    blocks = abstract("mobilenet", fast=True).blocks
    assert [block.depthwise.conv.strides for block in blocks] == [1, 2, 1]


def convolved(x, kernel, strides=1):
    """PyTorch's convolution by its definition: zeros of half a kernel on each side.

    The number of groups follows from the kernel's input channels.
    """
    size, groups = kernel.shape[0], x.shape[3] // kernel.shape[2]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (
        range(0, length - size + 1, strides) for length in (x.shape[1], x.shape[2])
    )
    pieces = np.stack(
        [[x[:, i : i + size, j : j + size] for j in columns] for i in rows]
    )
    pieces = pieces.reshape(*pieces.shape[:-1], groups, -1)
    kernel = kernel.reshape(*kernel.shape[:-1], groups, -1)
    out = np.einsum("hwbijgc,ijcgf->bhwgf", pieces, kernel)
    return out.reshape(*out.shape[:3], -1)


def normalized(x, leaves, path):
    mean, var, scale, bias = (
        leaves[f"{path}norm/{part}"] for part in ("mean", "var", "scale", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


@pytest.mark.parametrize(
    ("size", "strides", "groups", "length", "order"),
    (
        (3, 1, 1, 6, "norm_first"),
        (3, 1, 1, 6, "relu_first"),
        (3, 1, 1, 6, "linear"),
        (3, 2, 1, 6, "norm_first"),
        (3, 2, 1, 7, "linear"),
        (3, 2, 4, 6, "norm_first"),
        (1, 1, 1, 6, "norm_first"),
        (1, 2, 1, 7, "linear"),
    ),
)
def test_a_layer_is_what_pytorch_computes(size, strides, groups, length, order):
    def make():
        options = {"strides": strides, "groups": groups, "order": order}
        return ConvNorm(4, 8, size, **options, rngs=nnx.Rngs(0))

    layer = drawn(nnx.eval_shape(make))
    layer.eval()
    x = normal(2, length, length, 4)
    leaves = numbers(layer)
    y = convolved(x, leaves["conv/kernel"], strides)
    assert y.shape == (2, -(-length // strides), -(-length // strides), 8)
    if order == "relu_first":
        y = normalized(np.maximum(y, 0), leaves, "")
    else:
        y = normalized(y, leaves, "")
        y = np.maximum(y, 0) if order == "norm_first" else y
    np.testing.assert_allclose(called(layer, x), y, rtol=1e-4, atol=1e-4)


def test_training_normalizes_by_the_batch_and_keeps_nine_tenths():
    layer = drawn(nnx.eval_shape(lambda: ConvNorm(3, 5, rngs=nnx.Rngs(0))))
    before = numbers(layer)
    layer.train()
    x = normal(4, 6, 6, 3)
    y = convolved(x, before["conv/kernel"])
    batch = {"norm/mean": y.mean((0, 1, 2)), "norm/var": y.var((0, 1, 2))}
    expected = np.maximum(normalized(y, before | batch, ""), 0)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    after = numbers(layer)
    for path, value in batch.items():
        kept = 0.9 * before[path] + 0.1 * value
        np.testing.assert_allclose(after[path], kept, rtol=1e-4, atol=1e-5)


def test_vgg_is_convolution_then_relu_then_norm():
    model = drawn(abstract("vgg13", (9, 8, 3), 10, fast=True))
    leaves = numbers(model)
    x = normal(2, 9, 8, 3)
    y = x
    for number in range(3):
        y = np.maximum(convolved(y, leaves[f"layers/{number}/conv/kernel"]), 0)
        y = normalized(y, leaves, f"layers/{number}/")
        if number < 2:  # The last row of nine is not pooled.
            height, width = y.shape[1] // 2, y.shape[2] // 2
            y = y[:, : 2 * height, : 2 * width]
            y = y.reshape(2, height, 2, width, 2, -1).max((2, 4))
    y = y.reshape(2, -1) @ leaves["classifier/kernel"] + leaves["classifier/bias"]
    np.testing.assert_allclose(called(model, x), y, rtol=1e-4, atol=1e-4)


def test_weights_start_as_pytorchs():
    weights_of = {
        27: ConvNorm(3, 64, rngs=nnx.Rngs(0)).conv.kernel,
        9: ConvNorm(64, 64, groups=64, rngs=nnx.Rngs(0)).conv.kernel,
        16: linear(16, 400, rngs=nnx.Rngs(0)).kernel,
        4: linear(4, 400, rngs=nnx.Rngs(0)).bias,
    }
    for fan_in, weights in weights_of.items():
        values = np.asarray(weights[...]) * np.sqrt(fan_in)
        assert -1 <= values.min() < -0.95 and 0.95 < values.max() <= 1
        assert abs(values.std() - 3**-0.5) < 0.05


def test_what_is_no_layer():
    with pytest.raises(ValueError, match="size is 2; only an odd kernel"):
        ConvNorm(3, 4, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="order is 'relu'; it is \"norm_first\""):
        ConvNorm(3, 4, order="relu", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", MODELS)
def test_models_of_other_seeds_are_one_to_jit(name):
    def graphdef(seed):
        make = functools.partial(MODELS[name], CIFAR, 4, fast=True)
        return nnx.graphdef(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(seed))))

    assert graphdef(0) == graphdef(1)


@pytest.mark.parametrize("name", MODELS)
def test_a_fast_network_trains_and_is_cut(name):
    shape, classes = (8, 8, 1), 4
    x = normal(4, *shape)
    # Random weights, since compiling what makes fresh ones takes longer than all this.
    model = drawn(abstract(name, shape, classes, fast=True))
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, stats, x):
        def loss(params):
            model = nnx.merge(graphdef, params, stats, copy=True)
            model.train()
            losses = -jax.nn.log_softmax(model(x))[jnp.arange(4), jnp.arange(4)]
            return losses.mean(), nnx.split(model, nnx.Param, ...)[2]

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), stats, value

    trained, after, first = step(params, stats, x)
    for old, new in ((params, trained), (stats, after)):
        for (path, leaf), moved in zip(
            named_leaves(old), jax.tree.leaves(new), strict=True
        ):
            assert np.isfinite(moved).all() and np.any(leaf != moved), path
    assert step(trained, after, x)[2] < first

    units = gf.find_units(model, x)
    keep = halves(units)
    assert len(units) > 2
    assert gf.structured.cut_error(nnx.state(model), units, keep, x) < 1e-5
    small = gf.shrink(model, units, keep)
    sizes = {path: leaf.shape for path, leaf in named_leaves(nnx.state(small))}
    assert sizes == units.shapes(keep)
