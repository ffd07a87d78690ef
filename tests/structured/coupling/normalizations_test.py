"""Scales and shifts of normalizations, found by what is computed with them."""

import flax.linen as nn
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.structured.coupling.normalizations import normalizations_of
from gradflow_jax.structured.units import program_of
from gradflow_jax.trees import named_leaves

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)


def draw(**shapes):
    return {
        name: np.abs(RNG.normal(size=shape).astype(np.float32))
        for name, shape in shapes.items()
    }


PARAMS = draw(w=(4, 6), b=(6,), m=(6,), v=(6,), g=(6,), s=(6,), out=(6, 3))


# One normalization, γ · (x − μ) / √σ² + β, in the orders that people write it in.
FORMS = {
    "rsqrt": lambda h, p: (h - p["m"]) * jax.lax.rsqrt(p["v"] + 1e-5) * p["g"] + p["s"],
    "divided": lambda h, p: p["g"] * (h - p["m"]) / jnp.sqrt(p["v"] + 1e-5) + p["s"],
    "power": lambda h, p: (h - p["m"]) * (p["v"] + 1e-5) ** -0.5 * p["g"] + p["s"],
    "folded": lambda h, p: (
        h * (p["g"] / jnp.sqrt(p["v"] + 1e-5))
        + (p["s"] - p["m"] * p["g"] / jnp.sqrt(p["v"] + 1e-5))
    ),
    "of the batch": lambda h, p: (
        (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5) * p["g"] + p["s"]
    ),
    "called": jax.jit(
        lambda h, p: p["s"] + jax.nn.standardize(h, axis=0) * p["g"].reshape(1, 6)
    ),
}


def units_of(normalize):
    def apply(params, x):
        hidden = normalize(x @ params["w"] + params["b"], params)
        return jax.nn.relu(hidden) @ params["out"]

    return gf.find_units(apply, PARAMS, X)


@pytest.mark.parametrize("name", FORMS)
def test_a_scale_is_found_whatever_the_leaves_are_called(name):
    units = units_of(FORMS[name])
    assert normalizations_of(program_of(units)) == [("g", "s")]
    scores = gf.score_units(PARAMS, units, "batch_norm_scale")
    np.testing.assert_allclose(scores["w[1]"], PARAMS["g"])


OTHERS = {
    "scaled, not normalized": lambda h, p: jnp.tanh(h) * p["g"] + p["s"],
    "shifted": lambda h, p: jax.lax.rsqrt(h**2 + 1.0) * h + p["s"],
    "scaled behind a sum": lambda h, p: (
        (jax.nn.standardize(h, axis=0) + p["s"]) * p["g"]
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_is_multiplied_is_no_scale(name):
    units = units_of(OTHERS[name])
    assert normalizations_of(program_of(units)) == []
    with pytest.raises(ValueError, match=r"the units of 'w\[1\]' pass none"):
        gf.score_units(PARAMS, units, "batch_norm_scale")


class Residual(nn.Module):
    """A stream that two norms read, and a layer without a norm behind it."""

    @nn.compact
    def __call__(self, x):
        def norm(x):
            return nn.BatchNorm(use_running_average=True)(x)

        x = norm(nn.Dense(6)(x))
        x = nn.relu(x + norm(nn.Dense(6)(nn.relu(x))))
        return nn.Dense(3)(nn.relu(nn.Dense(5)(x)))


def drawn_like(tree):
    return jax.tree.map(
        lambda leaf: np.abs(RNG.normal(size=leaf.shape)).astype(np.float32) + 0.5, tree
    )


@pytest.fixture(scope="module")
def residual():
    net = Residual()
    variables = jax.eval_shape(net.init, jax.random.key(0), X)
    variables = drawn_like(variables)
    return net, variables, gf.find_units(net, variables, X)


STREAM, BARE = "params/Dense_0/kernel[1]", "params/Dense_3/kernel[1]"


def test_a_unit_that_passes_several_norms_has_the_sum_of_their_scales(residual):
    _, variables, units = residual
    norms = variables["params"]
    scores = gf.score_units(
        variables["params"], units, "batch_norm_scale", ignore="params/Dense_3/*"
    )
    expected = norms["BatchNorm_0"]["scale"] + norms["BatchNorm_1"]["scale"]
    np.testing.assert_allclose(scores[STREAM], expected, rtol=1e-6)
    assert BARE not in scores


def test_units_without_a_norm_are_named_and_need_no_scores(residual):
    _, variables, units = residual
    with pytest.raises(ValueError, match=r"'params/Dense_3/kernel\[1\]' pass none.*ig"):
        gf.score_units(variables["params"], units, "batch_norm_scale")
    scores = gf.score_units(variables["params"], units, "batch_norm_scale", ignore=BARE)
    keep = gf.choose_units(scores, units, sparsity=0.25, ignore=BARE)
    assert keep[BARE].all() and not keep[STREAM].all()
    with pytest.raises(ValueError, match=r"lack the family 'params/Dense_3/.*ignore="):
        gf.choose_units(scores, units, sparsity=0.25)


@pytest.mark.models
def test_the_taylor_term_is_that_of_scale_and_shift(residual):
    net, variables, units = residual

    def loss(params, x):
        return jnp.mean(net.apply({**variables, "params": params}, x) ** 2)

    batches = [X, X[::-1] * 2]
    d = gf.differentiate(gf.over_batches(loss), order=1, squares="batch")(
        variables["params"], batches
    )
    scores = gf.score_units(d, units, "batch_norm_taylor", ignore=BARE)
    gradients = [jax.grad(loss)(variables["params"], batch) for batch in batches]
    expected = 0.0
    for norm in ("BatchNorm_0", "BatchNorm_1"):
        for name in ("scale", "bias"):
            squares = [np.asarray(g[norm][name]) ** 2 for g in gradients]
            expected += variables["params"][norm][name] ** 2 * np.mean(squares, 0)
    np.testing.assert_allclose(scores[STREAM], expected, rtol=1e-4)
    of_layers = gf.score(d, "batch_norm_taylor")
    total = of_layers["BatchNorm_0"] + of_layers["BatchNorm_1"]
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="needs squared_gradient, which these"):
        gf.score_units(d._replace(gradient_rms=None), units, "batch_norm_taylor")


class Module(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def test_an_nnx_module_is_scored_as_it_is():
    model = Module()
    model.norm.scale[...] = jnp.arange(6.0) - 2
    units = gf.find_units(model, X)
    scores = gf.score_units(model, units, "batch_norm_scale", normalize="max")
    np.testing.assert_allclose(scores["first/kernel[1]"], np.abs(np.arange(6) - 2) / 3)
    of_layers = gf.score(model, "batch_norm_scale")
    assert of_layers["norm"].tolist() == [2.0, 1.0, 0.0, 1.0, 2.0, 3.0]


def test_the_measures_of_the_table_are_taken_by_name():
    d = gf.differentiate(lambda p: sum(jnp.sum(x**2) for x in p.values()), order=2)
    d = d(PARAMS)
    np.testing.assert_array_equal(
        gf.score(d, "gradient_norm_increase")["w"], gf.score(d, "grasp")["w"]
    )
    magnitudes = dict(named_leaves(gf.score(PARAMS, "magnitude")))
    np.testing.assert_array_equal(magnitudes["w"], PARAMS["w"])
    with pytest.raises(ValueError, match="taylor needs gradient: pass what gf.diff"):
        gf.score(PARAMS, "taylor")
    with pytest.raises(
        ValueError, match="scores channels, not weights, .* leave out axis="
    ):
        gf.score(PARAMS, "batch_norm_scale", axis=1)
    with pytest.raises(ValueError, match="random scores need a key"):
        gf.score(d, "random")
    with pytest.raises(TypeError, match="params leaf 'w' is int32"):
        gf.score({"w": jnp.ones(2, jnp.int32)}, "magnitude")
