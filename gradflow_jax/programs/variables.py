"""The variables that a function is given: a tree, or a module that holds them."""

from typing import Any

from gradflow_jax.programs.models import (
    arrays_of,
    is_equinox_module,
    unwrap_apply,
    variables_of,
)
from gradflow_jax.trees import ArrayTree, is_linen_module, is_nnx_module
from gradflow_jax.trees.checks import check_numbers


def variables_in(tree: ArrayTree, *, what: str) -> ArrayTree:
    """Returns the variables of a module that holds them, or a tree of them as it is.

    Args:
        tree: variables, or a module of NNX or Equinox.
        what: what an error calls it.

    Raises:
        TypeError: at a linen module or a function, which hold none, or at a leaf that
            is no array of numbers.
    """
    refuse_model(tree, what)
    if is_nnx_module(tree) or is_equinox_module(tree):
        module: Any = tree
        tree = variables_of(module)
    check_numbers(tree, what)
    return tree


def refuse_model(tree: ArrayTree, what: str) -> None:
    """Raises TypeError at a model, which holds none, in place of variables."""
    source = unwrap_apply(tree)
    if is_linen_module(source) or (callable(tree) and not arrays_of(tree)):
        raise TypeError(
            f"{what} is {type(source).__name__}, a model that holds no arrays: pass "
            "the variables that it is called with, as init returned them or "
            "training left them."
        )
