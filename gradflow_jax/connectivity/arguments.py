"""Checks a model's parameters, masks and inputs before it is read for its paths."""

from collections.abc import Sequence
from typing import Any

import jax

from gradflow_jax.programs.parameters import params_of
from gradflow_jax.programs.variables import variables_in
from gradflow_jax.trees import (
    Masks,
    Params,
    is_nnx_module,
    label,
    mask_leaves,
    named_leaves,
)
from gradflow_jax.trees.checks import check_numbers


def check_arguments(
    params: Params, masks: Masks, inputs: Sequence[Any], *, or_shapes: bool = True
) -> None:
    """Checks that all are trees of arrays, and masks those of params.

    Args:
        params: the parameters.
        masks: their masks.
        inputs: of the model.
        or_shapes: whether shapes may stand for params and inputs, as where no number
            of theirs matters.

    Raises:
        TypeError: naming the leaf and what was found.
        ValueError: if params and masks are different trees.
    """
    check_numbers(params, "params")
    check_numbers(inputs, "inputs")
    mask_leaves(masks, params)
    if or_shapes:
        return
    for what, tree in {"params": params, "inputs": inputs}.items():
        for path, leaf in named_leaves(tree):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise TypeError(
                    f"{what} {label(path)} is a shape without values: with units the "
                    "model is run, so pass an array."
                )


def parameters_in(params: Params) -> Params:
    """Returns the parameters that masks are of, where a module holds them.

    Raises:
        TypeError: at a model that holds none.
    """
    if is_nnx_module(params):
        return params_of(params)
    return variables_in(params, what="params")
