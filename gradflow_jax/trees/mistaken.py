"""Refuses what is handed over in place of a tree of arrays: a module, a function."""

import jax

from gradflow_jax.trees.flax_objects import is_nnx_module
from gradflow_jax.trees.names import label
from gradflow_jax.trees.types import ArrayTree


def check_is_tree(tree: ArrayTree, what: str) -> None:
    """Checks that a value is a tree, whatever its leaves.

    Args:
        tree: what was handed over.
        what: what the caller calls it: "params", "scores".

    Raises:
        TypeError: at an `nnx.Module`, which holds more than parameters, and at a
            function, such as a measure in place of its scores.

    Example:
        >>> check_is_tree(abs, "scores")
        Traceback (most recent call last):
        TypeError: scores is the function abs: call it with the parameters first, ...
    """
    _check_not_nnx_module(tree, what)
    _check_not_function(tree, what)


def _check_not_function(tree: ArrayTree, what: str) -> None:
    """Raises TypeError at a measure, or a loss, in place of what it is called with."""
    if not (callable(tree) and jax.tree_util.all_leaves([tree])):
        return
    name = getattr(tree, "__name__", type(tree).__name__)
    if what == "params":
        raise TypeError(
            f"params is the function {name}: pass the pytree of parameter arrays, and "
            "a loss to a measure that is made of one, "
            "gf.loss_preservation(loss_fn)(params, batch)."
        )
    raise TypeError(
        f"{what} is the function {name}: call it with the parameters first, such as "
        "gf.magnitude(params) or gf.loss_preservation(loss_fn)(params, batch), and "
        "pass what it returns."
    )


def _check_not_nnx_module(tree: ArrayTree, what: str) -> None:
    """Raises TypeError at an `nnx.Module`, which holds more than parameters."""
    if not is_nnx_module(tree):
        return
    from flax import nnx

    kind = type(tree).__name__
    not_params = [
        ("/".join(str(key) for key in path), variable)
        for path, variable in nnx.to_flat_state(nnx.state(tree))
        if not isinstance(variable, nnx.Param)
    ]
    if not_params:
        path, variable = not_params[0]
        obstacle = f"its {label(path)} is a {type(variable).__name__}, not a Param"
    else:
        obstacle = "its parameters are nnx.Param variables, not a pytree of arrays"
    raise TypeError(
        f"{what} is a whole nnx.Module ({kind}); {obstacle}. Pass its parameters, "
        "nnx.state(model, nnx.Param), and write what comes back into it by "
        "nnx.update(model, ...); a loss of them begins with "
        "nnx.merge(graphdef, params, rest, copy=True), the parts of "
        "nnx.split(model, nnx.Param, ...)."
    )
