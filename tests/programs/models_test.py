"""Functions and modules of every framework, taken as they are."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf
from gradflow_jax.connectivity import effective_masks, effective_report
from gradflow_jax.programs.models import as_function, kind_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(np.float32)
FIRST, BIAS, LAST = (
    RNG.normal(size=shape).astype(np.float32) for shape in ((3, 6), (6,), (6, 2))
)
KEEP = np.arange(6) % 3 != 1
# Of the first layer's units, the second has lost its outgoing weights.
KEPT = np.ones((3, 6), bool), np.ones(6, bool), np.ones((6, 2), bool)
KEPT[2][1] = False


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.relu(nn.Dense(6)(x))
        return nn.Dense(2, use_bias=False)(hidden)


class NNX(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.last = nnx.Linear(6, 2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


class Equinox(eqx.Module):
    first: jax.Array
    bias: jax.Array
    last: jax.Array
    act: object = jax.nn.relu

    def __call__(self, x):
        return self.act(x @ self.first + self.bias) @ self.last


def plain(params, x):
    return jax.nn.relu(x @ params["first"] + params["bias"]) @ params["last"]


PARAMS = {"first": FIRST, "bias": BIAS, "last": LAST}
EXPECTED = KEPT[0] & (np.arange(6) != 1)


def test_an_equinox_module_is_cut_as_it_is():
    module = Equinox(*map(jnp.asarray, (FIRST, BIAS, LAST)))
    units = gf.find_units(module, X[:1])
    assert [(family.name, family.size) for family in units] == [("first[1]", 6)]
    keep = {"first[1]": KEEP}
    variables = eqx.filter(module, eqx.is_array)
    assert gf.structured.cut_error(variables, units, keep, X) < 1e-6
    small = gf.shrink(module, units, keep)
    cut = gf.cut(variables, units, keep)
    expected = plain(
        {"first": FIRST[:, KEEP], "bias": BIAS[KEEP], "last": LAST[KEEP]}, X
    )
    np.testing.assert_allclose(small(cut, X), expected, rtol=1e-5)
    # What is cut is the module's arrays; with the rest it is a module again.
    whole = eqx.combine(cut, eqx.filter(module, eqx.is_array, inverse=True))
    np.testing.assert_allclose(whole(X), expected, rtol=1e-5)


def test_wrapped_functions_of_equinox_are_functions():
    assert kind_of(eqx.filter_jit(plain)) == "function"


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="or an Equinox module, not dict"):
        gf.find_units(PARAMS, X)


def linen():
    variables = {"params": {"Dense_0": {"kernel": FIRST, "bias": BIAS}}}
    variables["params"]["Dense_1"] = {"kernel": LAST}
    masks = {"params": {"Dense_0": {"kernel": KEPT[0], "bias": KEPT[1]}}}
    masks["params"]["Dense_1"] = {"kernel": KEPT[2]}
    return Linen(), variables, masks, lambda m: m["params"]["Dense_0"]["kernel"]


def nnx_module():
    module = NNX()
    params = nnx.state(module, nnx.Param)
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    kernel = masks["last"]["kernel"]
    masks["last"]["kernel"] = kernel.replace(jnp.asarray(KEPT[2]))
    return module, params, masks, lambda m: jax.tree.leaves(m["first"]["kernel"])[0]


def equinox():
    module = Equinox(*map(jnp.asarray, (FIRST, BIAS, LAST)))
    variables = eqx.filter(module, eqx.is_array)
    masks = eqx.tree_at(lambda m: (m.first, m.bias, m.last), variables, KEPT)
    return module, variables, masks, lambda m: m.first


@pytest.mark.parametrize("make", [linen, nnx_module, equinox])
def test_connectivity_takes_modules(make):
    model, params, masks, first_kernel = make()
    found = effective_masks(model, params, masks, X[:1])
    np.testing.assert_array_equal(first_kernel(found), EXPECTED)
    report = effective_report(model, params, masks, X[:1])
    assert report.direct.total_kept > report.effective.total_kept


def test_parameters_of_an_nnx_module_alone_meet_its_other_variables():
    module = NNX()
    module.norm.mean[...] = jnp.arange(6.0)
    apply = as_function(module)
    for variables in (nnx.state(module), nnx.state(module, nnx.Param)):
        np.testing.assert_allclose(apply(variables, X), module(X), rtol=1e-6)


def test_sums_over_units_are_those_of_the_weights_that_go_with_them():
    params = jax.tree.map(np.abs, PARAMS)
    units = gf.find_units(plain, params, X)
    (name,) = (family.name for family in units)
    sums = gf.structured.sum_over_units(params, units, scope="all")[name]
    for unit in range(6):
        cut = gf.cut(params, units, {name: np.arange(6) != unit})
        total, left = (
            sum(float(np.sum(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree))
            for tree in (params, cut)
        )
        np.testing.assert_allclose(sums[unit], total - left, rtol=1e-6)
    made = gf.structured.sum_over_units(params, units)[name]
    np.testing.assert_allclose(made, np.abs(FIRST).sum(0), rtol=1e-6)
    with pytest.raises(ValueError, match="scope is 'some'; it is one of 'producing',"):
        gf.structured.sum_over_units(params, units, scope="some")
