"""Parameters, told from what frameworks keep beside them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax.core import freeze

import gradflow_jax as gf
from gradflow_jax.trees import check_trained

KERNEL = {"dense": {"kernel": np.ones((3, 2), np.float32)}}
MEAN = {"norm": {"mean": np.zeros(2, np.float32)}}


class Variables(NamedTuple):
    params: Any
    batch_stats: Any


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


class Random(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.dropout = (
            nnx.Linear(3, 2, rngs=rngs),
            nnx.Dropout(0.5, rngs=rngs),
        )


REFUSED = {
    "statistics": ({"params": KERNEL, "batch_stats": MEAN}, "'batch_stats'"),
    "frozen": (freeze({"params": KERNEL, "batch_stats": MEAN}), "'batch_stats'"),
    "a cache": ({"params": KERNEL, "cache": {"key": jnp.ones(2)}}, "'cache'"),
    "a buffer": ({"params": KERNEL, "buffers": [jnp.ones(2)]}, "'buffers'"),
    "two models": (
        {"a": {"params": KERNEL, "batch_stats": MEAN}, "b": KERNEL},
        "params 'a' holds 'batch_stats'",
    ),
    "fields": (Variables(KERNEL, MEAN), "'batch_stats'"),
    "another name": ({"weights": KERNEL, "batch_stats": MEAN}, "beside parameters"),
    "a state": (nnx.state(Net(nnx.Rngs(0))), "'norm/mean' is a BatchStat"),
    "counts": (nnx.state(Random(nnx.Rngs(0))), r"nnx.state\(model, nnx.Param\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_trained_is_refused_by_every_measure_of_a_loss(case):
    tree, words = REFUSED[case]
    loss = lambda params: 0.0  # noqa: E731
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), tree)
    calls = [
        check_trained,
        gf.grasp(loss),
        gf.taylor(gf.over_batches(loss)),
        gf.dynamics.Recorder(loss),
    ]
    if case not in ("counts",):
        calls.append(lambda tree: gf.dynamics.removal_effects(loss)(tree, masks))
        calls.append(lambda tree: gf.dynamics.gradient_descent(loss, 0.1)(tree, [0]))
    for call in calls:
        with pytest.raises(TypeError, match=words):
            call(tree)


def test_counts_of_random_numbers_have_no_magnitude():
    state = nnx.state(Random(nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"uint32.*pass nnx.state\(model, nnx.Param\)"):
        gf.magnitude(nnx.filter_state(state, nnx.RngCount))


ACCEPTED = {
    "of one collection": {"params": KERNEL},
    "a number beside": {"params": KERNEL, "temperature": jnp.ones(())},
    "layers": {"cache": KERNEL, "dense": KERNEL},
    "a state": nnx.state(Net(nnx.Rngs(0)), nnx.Param),
    "statistics alone": nnx.state(Net(nnx.Rngs(0)), nnx.BatchStat),
    "low rank": nnx.state(nnx.LoRALinear(3, 2, lora_rank=1, rngs=nnx.Rngs(0))),
    "a list": [jnp.ones(2), jnp.ones(3)],
    "an array": jnp.ones(2),
    "nothing": {},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_trained_is_accepted(case):
    check_trained(ACCEPTED[case])


def test_scores_of_weights_are_those_with_statistics_held():
    class Normed(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.BatchNorm(use_running_average=True)(linen.Dense(2)(x))

    x = np.random.default_rng(8).normal(size=(5, 3)).astype(np.float32)
    variables = jax.jit(Normed().init)(jax.random.key(0), x)
    loss = lambda variables, x: jnp.mean(Normed().apply(variables, x) ** 2)  # noqa: E731
    with pytest.raises(TypeError, match="further argument of the loss, loss_fn"):
        gf.grasp(loss)(variables, x)

    # The remedy of the message, obeyed.
    def held(params, x, batch_stats):
        return loss({"params": params, "batch_stats": batch_stats}, x)

    gf.grasp(held)(variables["params"], x, variables["batch_stats"])
