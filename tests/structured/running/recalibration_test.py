"""Running statistics measured anew, against NumPy's of all examples at once."""

import flax.linen as nn
import flax.nnx as nnx
import jax
import numpy as np
import pytest

import gradflow_jax as gf

RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(2, 3, (n, 4)).astype(np.float32) for n in (5, 7, 4)]
ALL = np.concatenate(BATCHES)


class Net(nn.Module):
    divided: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(6)(x)
        # What is computed from the width is a number of the recorded program.
        x = x / x.shape[-1] if self.divided else x
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x)


@pytest.fixture(scope="module", params=[False, True], ids=["native", "recorded"])
def cut_net(request):
    net = Net(request.param)
    shapes = jax.eval_shape(net.init, jax.random.key(0), BATCHES[0])
    variables = jax.tree.map(
        lambda leaf: np.abs(RNG.normal(size=leaf.shape)).astype(np.float32), shapes
    )
    units = gf.find_units(net, variables, BATCHES[0])
    keep = {family.name: np.arange(family.size) % 2 == 0 for family in units}
    return net, variables, units, keep


def expected(net, variables):
    layer = variables["params"]["Dense_0"]
    hidden = (ALL @ layer["kernel"] + layer["bias"]) / (6 if net.divided else 1)
    return hidden.mean(0), hidden.var(0)


def test_statistics_of_a_linen_module_are_those_of_all_examples(cut_net):
    net, variables, _, _ = cut_net
    new = gf.recalibrate(net, variables, iter(BATCHES))
    statistics = new["batch_stats"]["BatchNorm_0"]
    mean, var = expected(net, variables)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], var, rtol=1e-4)
    assert new["params"] is variables["params"] or jax.tree.all(
        jax.tree.map(np.array_equal, new["params"], variables["params"])
    )
    again = gf.recalibrate(net.apply, new, [(x,) for x in BATCHES], train=False)
    np.testing.assert_allclose(
        again["batch_stats"]["BatchNorm_0"]["var"], var, rtol=1e-4
    )


@pytest.mark.models
def test_of_a_cut_they_are_those_of_the_units_that_stay(cut_net):
    net, variables, units, keep = cut_net
    small, weights = gf.shrink(net, units, keep), gf.cut(variables, units, keep)
    assert small.native != net.divided
    before = np.asarray(small(weights, BATCHES[0]))
    new = gf.recalibrate(small, weights, BATCHES)
    mean, var = (values[::2] for values in expected(net, variables))
    statistics = new["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], var, rtol=1e-4)
    # Nothing of it stays in the model.
    np.testing.assert_array_equal(small(weights, BATCHES[0]), before)


class Module(nnx.Module):
    def __init__(self, norm=True):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.9, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x, train=None):
        x = self.first(x)
        if self.norm is not None:
            x = self.norm(x, use_running_average=None if train is None else not train)
        return self.last(self.dropout(nnx.relu(x)))


def test_a_new_nnx_module_holds_its_new_statistics():
    model = Module()
    model.eval()
    new = gf.recalibrate(model, BATCHES)
    hidden = ALL @ np.asarray(model.first.kernel[...])
    np.testing.assert_allclose(new.norm.mean[...], hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new.norm.var[...], hidden.var(0), rtol=1e-4)
    assert (new.norm.momentum, new.norm.use_running_average) == (0.9, True)
    assert not np.any(model.norm.mean[...])
    with pytest.raises(ValueError, match="'norm' does not measure.*train=True"):
        gf.recalibrate(model, BATCHES, train=False)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((Module(), BATCHES[0]), TypeError, "batches is ndarray, which is one batch"),
        ((Module(), 3), TypeError, "batches is int, not an iterable"),
        ((Module(),), TypeError, r"recalibrate\(model, batches\) was given 0"),
        ((Net(), BATCHES), TypeError, r"\(model, variables, batches\) was given 0"),
        ((Net(),), TypeError, r"\(model, variables, batches\) was given 0"),
        ((Module(), []), ValueError, "there is no batch"),
        ((Module(norm=False), BATCHES), ValueError, "calls no batch norm of Flax"),
        ((Module(), ["a"]), TypeError, "batches leaf '0' is str"),
        ((Module(), [np.float32(1)]), ValueError, "a batch has no first axis"),
        ((lambda p, x: x, {}, BATCHES), TypeError, "finds the batch norms of Flax"),
        (({}, {}, BATCHES), TypeError, "not dict"),
        ((Net(), None, BATCHES), TypeError, "variables is NoneType, not the collect"),
        ((Net(), np.ones(2), BATCHES), TypeError, "variables is float.*2., not"),
        ((Net(), {"params": 1.0}, BATCHES), TypeError, "variables is dict, not the c"),
        ((Net(), {"params": {0: 1.0}}, BATCHES), TypeError, "variables is dict, not"),
        ((Net(), {"a": object()}, BATCHES), TypeError, "leaf 'a' is object, no array"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        gf.recalibrate(*arguments)
