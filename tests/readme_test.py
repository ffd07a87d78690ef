"""The page of `transforms`: every row of its table of methods is run."""

import re

import jax
import jax.numpy as jnp
import pytest

import gradflow_jax as gf

PAGE = gf.transforms.__doc__
METHODS = dict(re.findall(r"^\| ([^|`]+?) \|.* \| `(gf\..*)` \|$", PAGE, re.M))


def loss_fn(params, batch):
    hidden = jnp.tanh(batch @ params["a"]["kernel"] + params["a"]["bias"])
    return jnp.mean((hidden @ params["b"]["kernel"]) ** 2)


def test_the_table_is_found():
    assert {"SNIP", "GraSP", "2:4 sparsity"} < set(METHODS) and len(METHODS) == 8


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_the_sparsity_it_says(method):
    key = jax.random.key(0)
    kernels = jax.random.normal(key, (8, 20)), jax.random.normal(key, (20, 2))
    names = {
        "gf": gf,
        "loss_fn": loss_fn,
        "params": {
            "a": {"kernel": kernels[0], "bias": jnp.ones(20)},
            "b": {"kernel": kernels[1]},
        },
        "batch": jax.random.normal(key, (6, 8)),
        "key": key,
    }
    masks = eval(METHODS[method], names)
    found = gf.report(masks)
    assert found.sparsity == pytest.approx(0.5 if method == "2:4 sparsity" else 0.9)
    assert masks["a"]["bias"].all()
