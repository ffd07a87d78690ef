"""A convolution by one product of matrices, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.models.conv_norm import ConvNorm
from gradflow_jax.models.convolution import convolve

RNG = np.random.default_rng(0)
# Size of the images, of the kernel, stride.
CASES = [(4, 3, 1), (3, 3, 1), (2, 3, 1), (1, 3, 1), (5, 3, 2), (4, 1, 2), (4, 5, 1)]


class TwoLayers(nnx.Module):
    def __init__(self):
        self.first = ConvNorm(3, 4, rngs=nnx.Rngs(0))
        self.second = ConvNorm(4, 5, strides=2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.second(self.first(x))


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def by_xla(x, kernel, strides, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers
    )


def primitives(function, *arguments):
    return {eqn.primitive.name for eqn in jax.make_jaxpr(function)(*arguments).eqns}


@pytest.mark.parametrize("size, window, stride", CASES)
def test_values_and_derivatives_are_xla_s(size, window, stride):
    x, kernel = drawn(2, size, size, 3), drawn(window, window, 3, 4)
    tangents = drawn(*x.shape), drawn(*kernel.shape)
    how = (stride, stride), [(window // 2, window // 2)] * 2
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def everything(convolution):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolution(x, kernel)))

        @jax.jit
        def values_and_derivatives(x, kernel, tangents):
            gradient = jax.grad(loss, (0, 1))
            # The gradients, and a Hessian's product.
            products = jax.jvp(gradient, (x, kernel), tangents)
            return convolution(x, kernel), products

        # They are arguments: of constants XLA computed wrong products in jaxlib 0.7.2.
        return values_and_derivatives(x, kernel, tangents)

    ours = everything(lambda *a: convolve(*a, *how, **options))
    theirs = everything(lambda *a: by_xla(*a, *how))
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_which_way_is_taken(monkeypatch):
    def way(size, **options):
        x, kernel = np.ones((1, size, size, 2)), np.ones((3, 3, 2, 2))
        if options:
            kernel = kernel[:, :, :1]
        numbers = ("NHWC", "HWIO", "NHWC")
        found = primitives(
            lambda *a: convolve(
                *a, (1, 1), [(1, 1)] * 2, dimension_numbers=numbers, **options
            ),
            x,
            kernel,
        )
        (name,) = found & {"conv_general_dilated", "dot_general"}
        return name

    assert way(4) == "dot_general" and way(5) == "conv_general_dilated"
    assert way(4, feature_group_count=2) == "conv_general_dilated"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert way(4) == "conv_general_dilated"


def test_what_is_read_of_a_layer_is_the_same_in_both_ways(monkeypatch):
    layers = TwoLayers()
    layers.eval()
    x = drawn(1, 4, 4, 3)

    def read():
        units = gf.find_units(layers, x)
        roles = gf.structured.axis_roles(layers, x)
        families = [(f.name, f.size, [str(s) for s in f.slices]) for f in units]
        return families, units.flops(), jax.tree.leaves(roles)

    by_product = read()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert read() == by_product


def test_a_network_whose_last_map_is_one_place_is_cut():
    model = TwoLayers()
    model.eval()
    x = drawn(3, 2, 2, 3)
    units = gf.find_units(model, x)
    name = next(f.name for f in units if f.size == 4)
    keep = {name: np.array([True, False, False, True])}
    small = gf.cut(model, units, keep)
    assert small(x).shape == (3, 1, 1, 5)
    assert small.first.conv.kernel.shape == (3, 3, 3, 2)
    masked = nnx.clone(model)
    graph, params, rest = nnx.split(masked, nnx.Param, ...)
    masked = nnx.merge(graph, gf.prune(params, units.masks(keep, params)), rest)
    np.testing.assert_allclose(small(x), masked(x), atol=1e-6)
