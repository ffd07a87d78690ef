"""Graph networks: rows are moved by scatter, and channels stay channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.connectivity import effective_masks

RNG = np.random.default_rng(0)
NODES = 5
SENDERS, RECEIVERS = np.array([0, 1, 2, 3, 4, 0]), np.array([1, 2, 3, 4, 0, 2])
TO_SOME = np.array([1, 2, 3, 3, 0, 2])
X = RNG.normal(size=(NODES, 4)).astype(np.float32)


def draw(**shapes):
    return {
        name: RNG.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


PARAMS = draw(a=(4, 6), b=(6, 8), c=(8, 3))
HEADS = draw(w=(4, 8), sent=(2, 4), received=(2, 4), out=(8, 3))
ONE = draw(a=(4, 6), c=(6, 3))


def convolutions(params, x, senders, receivers):
    """A graph convolutional network: means over neighbors, twice."""
    degree = jax.ops.segment_sum(jnp.ones(len(receivers)), receivers, NODES)
    for name in "ab":
        x = jax.nn.relu(x @ params[name])
        x = jax.ops.segment_sum(x[senders], receivers, NODES)
        x = x / jnp.maximum(degree, 1)[:, None]
    return x @ params["c"]


def attention(params, x, senders, receivers):
    """A graph attention network: a softmax over the edges of each node."""
    heads = (x @ params["w"]).reshape(NODES, 2, 4)
    logits = (heads * params["sent"]).sum(-1)[senders]
    logits = jnp.tanh(logits + (heads * params["received"]).sum(-1)[receivers])
    largest = jax.ops.segment_max(logits, receivers, NODES)
    weights = jnp.exp(logits - largest[receivers])
    weights = weights / jax.ops.segment_sum(weights, receivers, NODES)[receivers]
    messages = weights[..., None] * heads[senders]
    summed = jax.ops.segment_sum(messages, receivers, NODES)
    return jax.nn.elu(summed.reshape(NODES, 8)) @ params["out"]


def by_segments(reduce, after=lambda x: x):
    def apply(params, x, senders, receivers):
        messages = jax.nn.relu(x @ params["a"])[senders]
        return after(reduce(messages, receivers, NODES)) @ params["c"]

    return apply


def written(how, value):
    def apply(params, x, senders, receivers):
        table = jnp.full((NODES, 6), value)
        rows = jnp.tanh(x @ params["a"])
        return getattr(table.at[receivers[:NODES]], how)(rows) @ params["c"]

    return apply


def above_zero(x):
    return jnp.maximum(x, 0)


MODELS = {
    "convolutions": (convolutions, PARAMS, [6, 8]),
    "attention": (attention, HEADS, [2, 4]),
    "sum": (by_segments(jax.ops.segment_sum), ONE, [6]),
    "max": (by_segments(jax.ops.segment_max, above_zero), ONE, [6]),
    "min": (by_segments(jax.ops.segment_min), ONE, [6]),
    "prod": (by_segments(jax.ops.segment_prod), ONE, [6]),
    "add": (written("add", 0.0), ONE, [6]),
    "subtract": (written("subtract", 0.0), ONE, [6]),
    "set": (written("set", 0.0), ONE, [6]),
    "multiply": (written("multiply", 1.0), ONE, [6]),
    "minimum": (written("min", 0.0), ONE, [6]),
    "maximum": (written("max", 0.0), ONE, [6]),
}


@pytest.mark.models
@pytest.mark.parametrize("places", ["in the program", "given"])
@pytest.mark.parametrize("name", MODELS)
def test_channels_pass_what_moves_rows(name, places):
    apply, params, sizes = MODELS[name]
    inputs = (X, SENDERS, RECEIVERS)
    if places == "in the program":
        function, inputs = apply, (X,)
        edges = jnp.asarray(SENDERS), jnp.asarray(RECEIVERS)

        def apply(params, x):
            return function(params, x, *edges)

    units = gf.find_units(apply, params, *inputs)
    assert [family.size for family in units] == sizes
    keep = {family.name: np.arange(family.size) % 2 == 0 for family in units}
    assert gf.cut_error(params, units, keep, *inputs) < 1e-5


# What a removed channel holds where rows of constants are written, and where it is
# known only if each place is written to.
HELD = {
    "add": (written("add", 0.0), True, True),
    "multiply": (written("multiply", 1.0), True, False),
    "multiply zeros": (written("multiply", 0.0), True, True),
    "set": (written("set", 1.0), True, False),
    "min": (written("min", 1.0), True, False),
    "max": (written("max", -1.0), True, False),
    "max of more": (written("max", 1.0), False, False),
    "segments": (by_segments(jax.ops.segment_max), True, False),
    "segments above 0": (by_segments(jax.ops.segment_sum, above_zero), True, True),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_removed_channel_holds_depends_on_where_is_written(name):
    """Where it holds 0, zeroing what makes it is removing it; else its readers go."""
    apply, *expected = HELD[name]
    for receivers, is_zero in zip((RECEIVERS, TO_SOME), expected, strict=True):
        units = gf.find_units(
            lambda params, x, to=receivers: apply(
                params, x, jnp.asarray(SENDERS), jnp.asarray(to)
            ),
            ONE,
            X,
        )
        zeroed = [family.zeroed for family in units]
        assert (zeroed == [{("a", 1)}]) == is_zero


def test_units_along_the_rows_that_are_written_are_refused_with_the_reason():
    ids = jnp.array([0, 1, 0, 2, 2, 1])

    def summed_over_units(params, x):
        hidden = jax.ops.segment_sum(jnp.tanh(x @ params["a"]).T, ids, 3)
        return hidden.T @ params["c"][:3]

    def written_to(params, x):
        table = jnp.tanh(x @ params["a"])
        return table.at[:, ids[:2]].set(0.0) @ params["c"]

    for apply, text in (
        (summed_over_units, "each of its indices is written at a place of its own"),
        (written_to, "it is written to at indices that the program computes"),
    ):
        units = gf.find_units(apply, ONE, X)
        assert not units.families
        assert text in units.explain("a")


def gated(params, x, receivers):
    """Messages multiply what receives them."""
    messages, gates = x @ params["a"], x @ params["g"]
    return gates.at[receivers[:NODES]].multiply(messages) @ params["c"]


def test_signals_stay_in_their_channels_wherever_rows_go():
    """What is read of channel 0 alone needs the weights of channel 0 alone."""
    masks = {name: np.ones_like(leaf, bool) for name, leaf in ONE.items()}
    masks["c"][1:] = False
    for how in ("add", "multiply", "max", "set"):
        edges = SENDERS, RECEIVERS
        effective = effective_masks(written(how, 1.0), ONE, masks, X, *edges)
        assert np.asarray(effective["a"])[:, 0].all()
        assert not np.asarray(effective["a"])[:, 1:].any()


def test_a_product_at_places_needs_both_factors():
    params = {**ONE, "g": ONE["a"]}
    masks = {name: np.ones_like(leaf, bool) for name, leaf in params.items()}
    masks["g"][:, 2:] = False
    for places in (RECEIVERS, jnp.asarray(RECEIVERS)):
        effective = effective_masks(gated, params, masks, X, places)
        read = np.asarray(effective["a"]).any(0)
        assert read.tolist() == [True, True] + [False] * 4
