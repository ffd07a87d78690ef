"""Weights divided by their norms, and arrays that a module holds in no variable."""

import flax.linen as nn
import flax.nnx as nnx
import jax
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.trees import named_leaves

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 5, 5, 3)).astype(np.float32)


def drawn(tree):
    return jax.tree.map(
        lambda leaf: (
            RNG.normal(size=leaf.shape).astype(leaf.dtype)
            if np.issubdtype(leaf.dtype, np.floating)
            else leaf
        ),
        tree,
    )


def half(units):
    return {family.name: np.arange(family.size) % 2 == 0 for family in units}


class Linen(nn.Module):
    layer: nn.Module
    norm: type
    options: tuple = ()

    @nn.compact
    def __call__(self, x):
        called = {} if self.norm is nn.WeightNorm else {"update_stats": False}
        x = nn.relu(self.norm(self.layer, **dict(self.options))(x, **called))
        return nn.Dense(3)(x.reshape(len(x), -1))


LINEN = {
    "weight norm": (Linen(nn.Dense(8), nn.WeightNorm), X),
    "of a convolution": (Linen(nn.Conv(8, (3, 3)), nn.WeightNorm), IMAGES),
    "without a scale": (
        Linen(nn.Dense(8), nn.WeightNorm, (("use_scale", False),)),
        X,
    ),
    "of the whole": (
        Linen(nn.Dense(8), nn.WeightNorm, (("feature_axes", None),)),
        X,
    ),
    "spectral norm": (Linen(nn.Dense(8), nn.SpectralNorm), X),
}


@pytest.mark.models
@pytest.mark.parametrize("name", LINEN)
def test_a_linen_network_is_cut_with_the_norms_of_its_weights(name):
    net, x = LINEN[name]
    variables = drawn(jax.eval_shape(net.init, jax.random.key(0), x))
    units = gf.find_units(net, variables, x)
    assert [family.size for family in units] == [8]
    assert gf.cut_error(variables, units, half(units), x) < 1e-5
    assert gf.shrink(net, units, half(units)).native


class Module(nnx.Module):
    def __init__(self, make):
        rngs = nnx.Rngs(0)
        self.first = make(rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        # The features stand on all axes but the first and those of pixels.
        return self.last(x.mean((1, 2)) if x.ndim == 4 else x.reshape(len(x), -1))


class Holding(nnx.Module):
    """It holds arrays in a list and in a dict, and one in a cache."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 8, rngs=rngs)
        self.factors = nnx.data([RNG.normal(size=8).astype(np.float32)])
        self.named = nnx.data({("a", 1): jax.numpy.ones((1, 8))})
        self.cache = nnx.Cache(jax.numpy.ones(8))

    def __call__(self, x):
        product = self.factors[0] * self.named["a", 1] * self.cache[...]
        return self.linear(x) * product


def weight_norm(layer, **options):
    return lambda rngs: nnx.WeightNorm(layer(rngs), rngs=rngs, **options)


def linear(rngs):
    return nnx.Linear(4, 8, rngs=rngs)


NNX = {
    "weight norm": (weight_norm(linear), X, [8]),
    "without a scale": (weight_norm(linear, use_scale=False), X, [8]),
    "of the whole": (weight_norm(linear, feature_axes=None), X, [8]),
    "of the other axis": (weight_norm(linear, feature_axes=0), X, [8]),
    "of a convolution": (
        weight_norm(lambda rngs: nnx.Conv(3, 8, (3, 3), rngs=rngs)),
        IMAGES,
        [8],
    ),
    "of several axes": (
        weight_norm(
            lambda rngs: nnx.LinearGeneral(4, (2, 4), rngs=rngs), feature_axes=(-2, -1)
        ),
        X,
        [2, 4],
    ),
    "arrays in no variable": (Holding, X, [8]),
}


@pytest.mark.models
@pytest.mark.skipif(not hasattr(nnx, "WeightNorm"), reason="Flax has no such layer yet")
@pytest.mark.parametrize("name", NNX)
def test_an_nnx_network_is_shrunk_with_what_stands_beside_its_variables(name):
    make, x, sizes = NNX[name]
    net = Module(make)
    nnx.update(net, drawn(nnx.state(net)))
    units = gf.find_units(net, x)
    assert [family.size for family in units] == sizes
    keep = half(units)
    small = gf.shrink(net, units, keep)
    masked = nnx.clone(net)
    masks = units.masks(keep, nnx.state(net))
    nnx.update(masked, gf.prune(nnx.state(net), masks))
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)
    shapes = {path: leaf.shape for path, leaf in named_leaves(nnx.state(small))}
    assert shapes == units.shapes(keep)
