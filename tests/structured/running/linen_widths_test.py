"""Linen modules run on hand-cut variables against their masked full variables."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow_jax.structured.running.linen_widths import at_widths
from gradflow_jax.trees import map_named

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


X = normal(2, 5, 4)
KEPT = [0, 2, 3, 5]  # of six
HALF = [0, 1, 4, 5]  # two of three groups of two


def variables_of(module, *inputs, **kwargs):
    """Variables with other than initial biases, scales and statistics."""
    shapes = jax.eval_shape(lambda: module.init(KEY, *inputs, **kwargs))
    return jax.tree.map(lambda leaf: np.abs(normal(*leaf.shape)) + 0.5, shapes)


def indices_of(path, cuts):
    """The kept indices by axis of a leaf, of the first of `cuts` whose end it has."""
    for ending, indices in cuts.items():
        if re.search(f"(^|/){ending}$", path):
            return indices
    return {}


def cut(variables, cuts):
    def taken(path, leaf):
        for axis, kept in indices_of(path, cuts).items():
            leaf = np.take(leaf, kept, axis)
        return leaf

    return map_named(taken, variables)


def masked(variables, cuts):
    def zeroed(path, leaf):
        for axis, kept in indices_of(path, cuts).items():
            gone = [i for i in range(leaf.shape[axis]) if i not in kept]
            leaf = leaf.copy()
            np.moveaxis(leaf, axis, 0)[gone] = 0
        return leaf

    return map_named(zeroed, variables)


def compare(module, cuts, *inputs, **options):
    """Runs cut and masked variables; returns both outputs and the cut variables."""
    variables = variables_of(module, *inputs)
    before = repr(module)
    small = cut(variables, cuts)
    expected = jax.jit(module.apply)(masked(variables, cuts), *inputs)
    found = jax.jit(at_widths(module, **options))(small, *inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert repr(module) == before
    return small


class Between(nn.Module):
    """Layers with a dense layer of six before them and one of two behind."""

    layers: tuple = ()
    width: int = 6

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="first")(x)
        for layer in self.layers:
            x = layer(x)
        return nn.Dense(2, name="last")(x)


class Same(nn.Module):
    """The same in setup."""

    def setup(self):
        self.first = nn.Dense(6)
        self.inner = (nn.Conv(6, (3,)), nn.BatchNorm(use_running_average=True))
        self.last = nn.Dense(2)

    def __call__(self, x):
        x = self.first(x)
        for layer in self.inner:
            x = layer(x)
        return self.last(x)


def ends(kept):
    return {
        "first/kernel": {1: kept},
        "first/bias": {0: kept},
        "last/kernel": {0: kept},
    }


def vectors(kept):
    return {"(bias|scale|mean|var)": {-1: kept}}


def square(kept):
    return {"kernel": {-2: kept, -1: kept}}


LAST_BIAS = {"last/bias": {}}
TWO_HEADS = {
    "(query|key|value)/kernel": {0: KEPT, 1: [0, 2]},
    "(query|key|value)/bias": {0: [0, 2]},
    "out/kernel": {0: [0, 2], 2: KEPT},
}
NORM = nn.BatchNorm(use_running_average=True, parent=None)

# Layers between the first and the last, the indices they keep of six, and their cuts.
CASES = {
    "nothing": ((), KEPT, {}),
    "dense": ((nn.Dense(6),), KEPT, square(KEPT)),
    "conv": ((nn.Conv(6, (3,)), NORM), KEPT, square(KEPT)),
    "depthwise": (
        (nn.Conv(6, (3,), feature_group_count=6),),
        KEPT,
        {"kernel": {-1: KEPT}},
    ),
    "whole_groups": (
        (nn.Conv(6, (3,), feature_group_count=3),),
        HALF,
        {"kernel": {-1: HALF}},
    ),
    "of_each_group": (
        (nn.Conv(6, (3,), feature_group_count=2),),
        KEPT,
        {"kernel": {-2: [0, 2], -1: KEPT}},
    ),
    "conv_transpose": ((nn.ConvTranspose(6, (3,)),), KEPT, square(KEPT)),
    "flipped": (
        (nn.ConvTranspose(6, (3,), transpose_kernel=True),),
        KEPT,
        square(KEPT),
    ),
    "dense_general": (
        (
            nn.DenseGeneral((3, 6)),
            nn.DenseGeneral(6, axis=(-2, -1)),
        ),
        KEPT,
        {
            "layers_0/kernel": {0: KEPT, 1: [0, 2], 2: KEPT},
            "layers_0/bias": {0: [0, 2], 1: KEPT},
            "layers_1/kernel": {0: [0, 2], 1: KEPT, 2: KEPT},
        },
    ),
    "einsum": ((nn.Einsum((6, 6), "...a,ab->...b"),), KEPT, square(KEPT)),
    "group_size": (
        (nn.GroupNorm(num_groups=None, group_size=2, reduction_axes=(-1,)),),
        HALF,
        {},
    ),
    "attention": (
        (nn.MultiHeadDotProductAttention(3, qkv_features=12, out_features=6),),
        KEPT,
        {
            "(query|key)/kernel": {0: KEPT, 1: [0, 2]},
            "value/kernel": {0: KEPT, 1: [0, 2], 2: [0, 1, 3]},
            "(query|key)/bias": {0: [0, 2]},
            "value/bias": {0: [0, 2], 1: [0, 1, 3]},
            "out/kernel": {0: [0, 2], 1: [0, 1, 3], 2: KEPT},
            "out/bias": {0: KEPT},
        },
    ),
    "multi_head": ((nn.MultiHeadAttention(3),), KEPT, TWO_HEADS),
    "remat": (
        (nn.remat(nn.Conv)(6, (3,), feature_group_count=6),),
        KEPT,
        {"kernel": {-1: KEPT}},
    ),
    **{
        name: ((nn.RNN(getattr(nn, name)(6)),), KEPT, square(KEPT))
        for name in (
            "LSTMCell",
            "OptimizedLSTMCell",
            "GRUCell",
            "SimpleCell",
            "MGUCell",
        )
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_runs_at_the_widths_of_its_parameters(name):
    layers, kept, cuts = CASES[name]
    compare(Between(layers), LAST_BIAS | ends(kept) | cuts | vectors(kept), X)


def test_layers_of_setup():
    cuts = LAST_BIAS | ends(KEPT) | square(KEPT) | vectors(KEPT)
    compare(Same(), cuts, X)


@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
def test_self_attention_calls_itself_by_super():
    cuts = LAST_BIAS | ends(KEPT) | TWO_HEADS | vectors(KEPT)
    compare(Between((nn.SelfAttention(3),)), cuts, X)


def test_both_directions_of_a_recurrent_network():
    class Directions(nn.Module):
        @nn.compact
        def __call__(self, x):
            cells = nn.GRUCell(6), nn.GRUCell(6)
            return nn.Bidirectional(*map(nn.RNN, cells), merge_fn=jnp.add)(x)[..., :1]

    always = {"h./kernel": {0: KEPT, 1: KEPT}, "i./kernel": {1: KEPT}}
    compare(Directions(), always | {"bias": {0: KEPT}}, X)


def test_a_convolutional_cell():
    class Frames(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.RNN(nn.ConvLSTMCell(6, (3,)))(x)[..., :1]

    gates = [6 * gate + i for gate in range(4) for i in KEPT]
    cuts = {"hh/kernel": {1: KEPT, 2: gates}, "ih/kernel": {2: gates}}
    compare(Frames(), cuts | {"bias": {0: gates}}, normal(2, 3, 4, 1))


class Block(nn.Module):
    """A residual block, as `nn.scan` wants it."""

    @nn.compact
    def __call__(self, x, _):
        y = nn.Conv(6, (3,), feature_group_count=6)(nn.Dense(6)(x))
        return x + nn.Dense(x.shape[-1])(nn.GroupNorm(3)(y)), None


class Stacked(nn.Module):
    """Two blocks in a scan, recomputed in the gradient."""

    @nn.compact
    def __call__(self, x):
        lifted = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        return lifted(name="blocks")(x, None)[0]


STACKED_CUTS = {
    "Dense_0/kernel": {2: HALF},
    "Dense_1/kernel": {1: HALF},
    "Dense_1/bias": {},
    "Conv_0/kernel": {-1: HALF},
} | vectors(HALF)


@pytest.mark.parametrize("told", ("full", "groups"))
def test_stacked_and_recomputed_blocks(told):
    full = jax.eval_shape(Stacked().init, KEY, X)
    options = {"full": full, "groups": {"blocks/GroupNorm_0": 2}}
    compare(Stacked(), STACKED_CUTS, X, **{told: options[told]})


def test_gradients_are_those_of_the_masked_model():
    variables = variables_of(Stacked(), X)
    run = at_widths(Stacked(), groups={"blocks/GroupNorm_0": 2})

    @jax.jit
    def gradients(small, large):
        found = jax.grad(lambda v: jnp.sum(run(v, X) ** 2))(small)
        full = jax.grad(lambda v: jnp.sum(Stacked().apply(v, X) ** 2))(large)
        return found, full

    found, full = gradients(
        cut(variables, STACKED_CUTS), masked(variables, STACKED_CUTS)
    )
    full = cut(jax.tree.map(np.asarray, full), STACKED_CUTS)
    chex.assert_trees_all_close(found, full, rtol=1e-3, atol=1e-2)


def test_layers_side_by_side():
    class Side(nn.Module):
        @nn.compact
        def __call__(self, x):
            lifted = nn.vmap(
                nn.Conv, variable_axes={"params": 1}, split_rngs={"params": True}
            )
            x = lifted(6, (3,), feature_group_count=2)(x)
            return nn.Dense(1, name="last")(x)

    # The axis of the copies stands second in the leaves.
    cuts = {"last/kernel": {0: KEPT}, "last/bias": {}}
    cuts |= {"kernel": {-1: KEPT}, "bias": {0: KEPT}}
    compare(Side(), cuts, normal(2, 2, 5, 4))


def test_statistics_are_updated_at_their_new_width():
    class Trained(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dense(6, name="first")(x)
            x = nn.BatchNorm(use_running_average=not train)(x=x)
            return nn.Dense(features=2, name="last")(inputs=x)

    cuts = LAST_BIAS | ends(KEPT) | vectors(KEPT)
    variables = variables_of(Trained(), X, train=False)
    run = at_widths(Trained(), train=True, mutable=["batch_stats"])
    found, updated = jax.jit(run)(cut(variables, cuts), X)
    expected, full = jax.jit(Trained().apply, static_argnames=("train", "mutable"))(
        masked(variables, cuts), X, train=True, mutable="batch_stats"
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    full = cut(jax.tree.map(np.asarray, full), cuts)
    chex.assert_trees_all_close(updated, full, rtol=1e-5)
    # A keyword of the call goes before one given once for all.
    evaluated = jax.eval_shape(
        lambda v: run(v, X, train=False, mutable=False), cut(variables, cuts)
    )
    assert evaluated.shape == (2, 5, 2)


class Tied(nn.Module):
    """An embedding used twice, and a module that its methods share."""

    def setup(self):
        self.table = nn.Embed(5, 6)
        self.mix = nn.Dense(6)

    def encode(self, tokens):
        return self.mix(self.mix(self.table(tokens)))

    def __call__(self, tokens):
        return self.table.attend(self.encode(tokens))


def test_an_embedding_attends_and_methods_are_called_by_name():
    tokens = np.array([[0, 3, 1]])
    cuts = {"embedding": {1: KEPT}} | square(KEPT) | vectors(KEPT)
    small = compare(Tied(), cuts, tokens)
    encode = at_widths(Tied(), method="encode")
    assert jax.eval_shape(encode, small, tokens).shape == (1, 3, 4)
    one = cut(small, {"embedding": {0: [0]}})
    assert jax.eval_shape(at_widths(Tied()), one, tokens * 0).shape == (1, 3, 1)


def test_parameters_may_be_boxed():
    init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
    small = {"kernel": nn.Partitioned(jnp.ones((4, 2)), names=(None, "model"))}
    run = at_widths(nn.Dense(6, kernel_init=init, use_bias=False))
    assert run({"params": small}, X).shape == (2, 5, 2)


def test_initialization_and_a_missing_parameter_are_as_in_flax():
    with pytest.raises(Exception, match='no parameter named "kernel"|kernel'):
        at_widths(nn.Dense(6))({"params": {}}, X)
    (y, made) = at_widths(nn.Dense(6), mutable=True)({}, X, rngs={"params": KEY})
    assert y.shape == (2, 5, 6) and made["params"]["kernel"].shape == (4, 6)


# What cannot be


class Grouped(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.layer(x)


NORMED = nn.GroupNorm(4, parent=None)
CONVOLVED = nn.Conv(8, (3,), feature_group_count=4, parent=None)
FOUR = {"params": {"layer": {"scale": np.ones(4), "bias": np.ones(4)}}}
EIGHT = {"params": {"layer": {"scale": np.ones(8), "bias": np.ones(8)}}}


def kernel(ins, outs):
    leaves = {"kernel": np.ones((3, ins, outs)), "bias": np.ones(outs)}
    return {"params": {"layer": leaves}}


@pytest.mark.parametrize(
    "layer, variables, channels, options, message",
    (
        (
            NORMED,
            FOUR,
            4,
            {},
            "the group norm 'layer' had 4 groups before the cut and has 4 channels "
            "now; whether whole groups were removed they do not tell. Pass full=",
        ),
        (NORMED, FOUR, 4, {"full": {"params": {}}}, "the group norm 'layer' had 4"),
        (NORMED, FOUR, 4, {"full": EIGHT}, "they can be 2 or 4 groups"),
        (NORMED, FOUR, 4, {"groups": {"layer": 3}}, "groups['layer'] is 3, which does"),
        (
            CONVOLVED,
            kernel(2, 6),
            7,
            {},
            "the convolution 'layer' has a kernel of 2 inputs a group and 6 outputs, "
            "and 7 channels come in: these are not 3 equal groups",
        ),
        (CONVOLVED, kernel(2, 6), 8, {}, "these are not 4 equal groups"),
        (CONVOLVED, kernel(2, 6), 6, {"groups": {"layer": 2}}, "not 2 equal groups"),
    ),
)
def test_groups_that_are_open_or_do_not_fit(
    layer, variables, channels, options, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        at_widths(Grouped(layer), **options)(variables, normal(2, 5, channels))


@pytest.mark.parametrize("count", (2, 4))
def test_groups_that_are_said(count):
    run = at_widths(Grouped(NORMED), groups={"layer": count})
    x = normal(2, 5, 4)
    expected = nn.GroupNorm(count).apply({"params": FOUR["params"]["layer"]}, x)
    np.testing.assert_allclose(run(FOUR, x), expected, rtol=1e-5)
    if count == 4:  # channels of each group, when there were as many before
        np.testing.assert_allclose(
            at_widths(Grouped(NORMED), full=FOUR)(FOUR, x), expected, rtol=1e-5
        )


@pytest.mark.parametrize("name", ("mean", "var"))
def test_statistics_of_size_one_do_not_broadcast(name):
    variables = {
        "params": {"scale": np.ones(4), "bias": np.ones(4)},
        "batch_stats": {"mean": np.ones(4), "var": np.ones(4)} | {name: np.ones(1)},
    }
    message = f"batch_stats {name} has shape (1,), but the batch norm's input has"
    with pytest.raises(ValueError, match=re.escape(message)):
        at_widths(nn.BatchNorm(use_running_average=True))(variables, X)


def test_a_carry_of_the_full_width_is_refused():
    cell = nn.GRUCell(6)
    carry = np.zeros((2, 6), np.float32)
    full = variables_of(cell, carry, X[:, 0])
    cuts = {"h./kernel": {0: KEPT, 1: KEPT}, "i./kernel": {1: KEPT}}
    small = cut(full, cuts | {"bias": {0: KEPT}})
    with pytest.raises(ValueError, match="the cell '' has 4 features, but its carry"):
        at_widths(cell)(small, carry, X[:, 0])
    _, y = jax.eval_shape(at_widths(cell), small, carry[:, :4], X[:, 0])
    assert y.shape == (2, 4)
