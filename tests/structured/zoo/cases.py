"""The zoo's models under one roof, as `find_units` takes them."""

import functools

import numpy as np
from flax import nnx

import gradflow_jax as gf
from tests.structured.zoo import linen as zoo_linen
from tests.structured.zoo import nnx as zoo_nnx
from tests.structured.zoo import plain as zoo_plain


@functools.cache
def case(name):
    """Returns a model, what find_units takes behind it, its variables and inputs."""
    zoo, key = name.split("/")
    if zoo == "nnx":
        model, inputs = zoo_nnx.MODELS[key]()
        model.eval()
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        return model, inputs, nnx.state(model), inputs
    if zoo == "linen" and key != "batch_norm_train":
        model, variables, inputs = zoo_linen.MODULES[key]()
    else:
        model, variables, inputs = {"linen": zoo_linen, "plain": zoo_plain}[zoo].ZOO[
            key
        ]()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return model, (variables, *inputs), variables, inputs


@functools.cache
def units_of(name):
    """Returns the units of a model of the zoo."""
    model, args, *_ = case(name)
    return gf.find_units(model, *args)


def keep_of(families, seed=0):
    """Returns a keep set that removes a third of each family, one unit at least."""
    rng = np.random.default_rng(seed)
    keep = {}
    for family in families:
        flags = np.ones(family.size, bool)
        count = max(1, family.size // 3)
        flags[rng.choice(family.size, count, replace=False)] = False
        keep[family.name] = flags
    return keep


NAMES = [
    f"{zoo}/{name}"
    for zoo, names in (
        ("plain", zoo_plain.ZOO),
        ("linen", zoo_linen.ZOO),
        ("nnx", zoo_nnx.MODELS),
    )
    for name in names
]
