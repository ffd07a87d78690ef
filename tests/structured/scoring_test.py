"""Scores of units against the measures' formulas on sets of weights, by hand."""

import itertools

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.trees import named_leaves
from tests.structured.zoo import linen as zoo_linen
from tests.structured.zoo import nnx as zoo_nnx
from tests.structured.zoo import plain as zoo_plain

SCORES = {
    "magnitude": lambda d: np.linalg.norm(d.params),
    "loss_preservation": lambda d: np.abs(d.params * d.gradient).sum(),
    "biased_loss_preservation": lambda d: (
        np.abs(d.params - d.origin) * np.abs(d.params * d.gradient)
    ).sum(),
    "taylor": lambda d: abs((d.params * d.gradient).sum()),
    "fisher": lambda d: (d.params**2 * d.squared_gradient).sum(),
    "grasp": lambda d: (d.params * d.hessian_gradient).sum(),
    "gradient_norm_preservation": lambda d: abs((d.params * d.hessian_gradient).sum()),
}

at = np.s_


def head(u, *starts):
    """Returns the places of a head of five dimensions, by start."""
    return [start + 5 * u + i for start in starts for i in range(5)]


def dims(u, *starts):
    """Returns the places of one dimension in two such heads."""
    return [start + 5 * i + u for start in starts for i in (0, 1)]


# Of each model, by family: how many units, what makes unit u, and what goes with it.
# fmt: off
BY_HAND = {
    "mlp_relu": {"stem/w[1]": (
        6, lambda u: {"stem/w": at[:, u]},
        lambda u: {"stem/b": u, "head/w": u})},
    "vgg_bn_flatten": {
        "params/Conv_0/kernel[3]": (
            5, lambda u: {"Conv_0/kernel": at[..., u]},
            lambda u: {"Conv_0/bias": u, "BatchNorm_0/scale": u,
                       "BatchNorm_0/bias": u, "Conv_1/kernel": at[:, :, u]}),
        "params/Conv_1/kernel[3]": (
            7, lambda u: {"Conv_1/kernel": at[..., u]},
            lambda u: {"Conv_1/bias": u, "BatchNorm_1/scale": u,
                       "BatchNorm_1/bias": u, "Dense_0/kernel": at[u::7]}),
        "params/Dense_0/kernel[1]": (
            9, lambda u: {"Dense_0/kernel": at[:, u]},
            lambda u: {"Dense_0/bias": u, "Dense_1/kernel": u})},
    "attention": {
        "k/w[1].0": (
            2, lambda u: {"q/w": at[:, 6 * u : 6 * u + 6],
                          "k/w": at[:, 6 * u : 6 * u + 6], "v/w": at[:, head(u, 0)]},
            lambda u: {"q/b": at[6 * u : 6 * u + 6], "k/b": at[6 * u : 6 * u + 6],
                       "v/b": head(u, 0), "o/w": head(u, 0)}),
        "k/w[1].1": (
            6, lambda u: {"q/w": at[:, u::6], "k/w": at[:, u::6]},
            lambda u: {"q/b": at[u::6], "k/b": at[u::6]}),
        "v/w[1]": (
            5, lambda u: {"v/w": at[:, dims(u, 0)]},
            lambda u: {"v/b": dims(u, 0), "o/w": dims(u, 0)})},
    "fused_qkv_split": {
        "qkv/w[1].0": (
            2, lambda u: {"qkv/w": at[:, head(u, 0, 10, 20)]},
            lambda u: {"qkv/b": head(u, 0, 10, 20), "o/w": head(u, 0)}),
        "qkv/w[1].1": (
            5, lambda u: {"qkv/w": at[:, dims(u, 20)]},
            lambda u: {"qkv/b": dims(u, 20), "o/w": dims(u, 0)}),
        "qkv/w[1].2": (
            5, lambda u: {"qkv/w": at[:, dims(u, 0, 10)]},
            lambda u: {"qkv/b": dims(u, 0, 10)})},
    "tied_embedding": {
        "down/w[1]": (
            8, lambda u: {"table": at[:, u], "down/w": at[:, u]},
            lambda u: {"down/b": u, "up/w": u})},
    # A recurrent kernel's unit is a row and four columns, which meet.
    "lstm": {"h[1]": (
        7, lambda u: {"h": at[:, u::7], "i/w": at[:, u::7]},
        lambda u: {"h": u, "i/b": at[u::7], "head/w": u})},
}
# fmt: on


def model_of(name):
    """Returns what find_units takes, and the parameters."""
    if name in zoo_plain.ZOO:
        apply, variables, inputs = zoo_plain.ZOO[name]()
        return (apply, variables, *inputs), variables
    module, variables, inputs = zoo_linen.MODULES[name]()
    return (module, variables, *inputs), variables["params"]


def random_derivatives(params):
    """Returns what a loss could say of parameters, and an origin."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return rng.normal(size=leaf.shape).astype(np.float32)

    g, hg, g2, origin = (jax.tree.map(draw, params) for _ in range(4))
    return Derivatives(params, None, g, hg, jax.tree.map(np.square, g2), origin)


def weights(d, *places):
    """Returns the derivatives of the weights at some places, each once."""

    def gathered(tree):
        leaves, masks = dict(named_leaves(tree)), {}
        for path, where in (item for one in places for item in one.items()):
            masks.setdefault(path, np.zeros(leaves[path].shape, bool))[where] = True
        return np.concatenate(
            [np.asarray(leaves[path], np.float64)[mask] for path, mask in masks.items()]
        )

    return Derivatives(*(0.0 if tree is None else gathered(tree) for tree in d))


@pytest.mark.parametrize("name", BY_HAND)
def test_scores_are_the_measures_formulas_on_the_units_weights(name):
    given, params = model_of(name)
    units = gf.find_units(*given)
    d = random_derivatives(params)
    cases = [(d, measure) for measure in SCORES]
    cases.append((d._replace(origin=None), "biased_loss_preservation"))
    for (own, measure), scope in itertools.product(cases, ("producing", "all")):
        found = gf.score_units(own, units, measure, scope=scope)
        assert found.keys() == {family.name for family in units}
        for family, (size, makes, goes) in BY_HAND[name].items():
            also = goes if scope == "all" else lambda u: {}
            sets = [weights(own, makes(u), also(u)) for u in range(size)]
            expected = list(map(SCORES[measure], sets))
            assert found[family].dtype == np.float64
            np.testing.assert_allclose(found[family], expected, 2e-5, 2e-5)


def two_layers(p, x):
    return jnp.tanh(x @ p["in"]) @ p["out"]


PARAMS = {"in": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "out": jnp.ones((2, 1))}
UNITS = gf.find_units(two_layers, PARAMS, jnp.ones((1, 2)))


def test_the_place_of_the_absolute_value_decides_what_is_kept():
    params = {"in": jnp.ones((2, 2)), "out": jnp.ones((2, 1))}
    gradient = {"in": jnp.array([[1.0, 0.4], [-1.0, 0.4]]), "out": jnp.zeros((2, 1))}
    product = {"in": jnp.array([[-3.0, 1.0], [-1.0, 0.5]]), "out": jnp.zeros((2, 1))}
    d = Derivatives(params, None, gradient, product)
    expected = {
        "loss_preservation": ([2.0, 0.8], [True, False]),
        "taylor": ([0.0, 0.8], [False, True]),
        "grasp": ([-4.0, 1.5], [False, True]),
        "gradient_norm_preservation": ([4.0, 1.5], [True, False]),
    }
    for measure, (scores, kept) in expected.items():
        found = gf.score_units(d, UNITS, measure)
        np.testing.assert_allclose(found["in[1]"], scores, 1e-6)
        keep = gf.choose_units(found, UNITS, sparsity=0.5)
        assert keep["in[1]"].tolist() == kept, measure


STEM = "stem/w[1]"


def test_what_differentiate_returns_is_scored():
    apply, params, (x,) = zoo_plain.ZOO["mlp_tanh"]()
    y = jnp.arange(9.0).reshape(3, 3)

    def loss(p, batch):
        return jnp.mean((apply(p, batch[0]) - batch[1]) ** 2)

    def gradient(p):
        return jax.grad(loss)(p, (x, y))

    origin = jax.tree.map(np.ones_like, params)
    d = gf.differentiate(loss, squares="batch", origin=origin)(params, (x, y))

    @jax.jit
    def products(p):
        return jax.jvp(gradient, (p,), (gradient(p),))

    g, hg = products(params)
    expected = Derivatives(params, None, g, hg, jax.tree.map(np.abs, g), origin)
    units = gf.find_units(apply, params, x)
    sets = [weights(expected, {"stem/w": at[:, u]}) for u in range(units[STEM].size)]
    for measure, rule in SCORES.items():
        found = gf.score_units(d, units, measure)[STEM]
        np.testing.assert_allclose(found, list(map(rule, sets)), 1e-4, 1e-6)


def test_variables_are_scored_as_their_parameters():
    given, params = model_of("vgg_bn_flatten")
    units = gf.find_units(*given)
    expected = gf.score_units(params, units)
    found = gf.score_units(given[1], units)
    chex.assert_trees_all_equal(found, expected)
    # So are the Param leaves of an NNX model.
    model, inputs = zoo_nnx.MODELS["vgg"]()
    units = gf.find_units(model, *inputs)
    found = gf.score_units(nnx.state(model, nnx.Param), units)
    assert len(found) == len(units) == 3
    for family in units:
        kernel = dict(named_leaves(nnx.state(model)))[family.producers[0].path]
        norms = np.linalg.norm(np.asarray(kernel).reshape(-1, family.size), axis=0)
        np.testing.assert_allclose(found[family.name], norms, 1e-5)


def test_half_precision_is_summed_in_single():
    # 300 ones are 256 in bfloat16.
    params = {"in": jnp.ones((300, 2), jnp.bfloat16), "out": jnp.ones((2, 1))}
    units = gf.find_units(two_layers, params, jnp.ones((1, 300)))
    np.testing.assert_allclose(gf.score_units(params, units)["in[1]"], 300**0.5, 1e-6)


def test_normalizations():
    apply, params, inputs = zoo_plain.ZOO["conv_flatten_dense"]()
    units = gf.find_units(apply, params, *inputs)
    d = random_derivatives(params)
    raw = gf.score_units(d, units, "grasp")
    assert any((scores < 0).any() for scores in raw.values())
    # A filter of the first layer takes 3 x 3 x 3 + 1 weights and its slice of the next
    # kernel along; one of the second, which makes 4 x 4 of 8 x 8, takes 16 rows of 3.
    saved = {
        "parameters": {"a/w[3]": 28 + 9 * 7, "b/w[3]": 9 * 6 + 1 + 16 * 3},
        "flops": {"a/w[3]": 2 * 64 * 27 + 2016, "b/w[3]": 2 * 16 * (54 + 3)},
        "mean": {name: np.abs(scores).mean() for name, scores in raw.items()},
        "max": {name: np.abs(scores).max() for name, scores in raw.items()},
    }
    zeros = jax.tree.map(np.zeros_like, params)
    for normalize, scales in saved.items():
        found = gf.score_units(d, units, "grasp", normalize=normalize)
        nothing = gf.score_units(zeros, units, normalize=normalize)
        for name, scores in raw.items():
            np.testing.assert_allclose(found[name], scores / scales[name], 1e-12)
            assert (nothing[name] == 0).all()


GRADIENT = Derivatives(PARAMS, None, PARAMS)
NAN, WIDE = ({"in": jnp.ones((2, n)).at[0, 1].set(jnp.nan)} for n in (2, 3))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (PARAMS, {"measure": "size"}, "no measure 'size'; known are magnitude, "),
        (PARAMS, {"scope": "next"}, "scope is 'next'; it is one of 'producing', 'all'"),
        (PARAMS, {"normalize": "sum"}, "normalize is 'sum'; it is one of None, 'mean'"),
        (PARAMS, {"measure": "taylor"}, "taylor needs gradient: pass what gf.differ"),
        (GRADIENT, {"measure": "grasp"}, "grasp needs hessian_gradient, .* order=2"),
        (GRADIENT, {"measure": "fisher"}, "fisher needs squared_gradient, .* squares="),
        (PARAMS | NAN, {}, "unit 1 of 'in.1.' is nan"),
        (
            {"w": jnp.ones((2, 2))},
            {},
            "params leaf 'w', float32.2,2., stands where no copy",
        ),
        ({"n": jnp.ones(())}, {}, "params holds no leaf of the model: it has n"),
        (PARAMS | WIDE, {}, "'in' is float.*2,3., but .*2,2."),
        ({"out": PARAMS["out"]}, {}, "hold none of the leaves of the family 'in.1.'"),
    ],
)
def test_errors(given, options, message):
    with pytest.raises(ValueError, match=message):
        gf.score_units(given, UNITS, **options)


def bilinear(p, x):
    h = x @ p["in"]
    return (h + jnp.einsum("bi,bj,ijk->bk", h, h, p["w"])) @ p["out"]


def pairs(p, x):
    h = x @ p["in"]
    return (h[:, :, None] * h[:, None]).reshape(len(x), -1) @ p["w"]


@pytest.mark.parametrize(
    ("apply", "shape", "count"), [(bilinear, (3, 3, 3), 27 - 8), (pairs, (9, 1), 5)]
)
def test_a_weight_that_is_a_unit_s_more_than_once_counts_once(apply, shape, count):
    params = {"in": jnp.zeros((2, 3)), "w": jnp.ones(shape), "out": jnp.zeros((3, 1))}
    units = gf.find_units(apply, params, jnp.ones((1, 2)))
    (scores,) = gf.score_units(params, units, scope="all").values()
    np.testing.assert_allclose(scores**2, count, 1e-5)


def test_copies_of_parameters_are_refused():
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
    with pytest.raises(ValueError, match="'in'"):
        gf.score_units(copies, UNITS)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_magnitudes_neither_underflow_nor_overflow(scale):
    params = jax.tree.map(lambda leaf: leaf * scale, PARAMS)
    found = gf.score_units(params, UNITS)["in[1]"]
    np.testing.assert_allclose(found, [5 * scale, scale], 1e-5)
