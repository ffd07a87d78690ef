"""Finds the units of a model in the program that it is."""

from typing import Any, Literal

from gradflow_jax.programs.models import ModelLike, as_model
from gradflow_jax.structured.coupling.tracing import Traced
from gradflow_jax.structured.grouping import families_of
from gradflow_jax.structured.units import Units
from gradflow_jax.trees.numbers import check_choice


def find_units(
    model: ModelLike,
    *args: Any,
    leaks: Literal["refuse", "fold"] = "refuse",
    **options: Any,
) -> Units:
    """Finds what can be removed from a model as a whole: filters, neurons, heads.

    The model is traced once, without computing anything. Which slices of which leaves
    go together follows from its equations, whatever its layers are called; each
    family of units is proved to be removable, or is refused with the reason and the
    equation. Trace the model as it is evaluated: dropout off, running statistics.

    Args:
        model: a pure function `apply(variables, *inputs)`, a linen module, or an NNX or
            Equinox module, which holds its variables itself.
        *args: the variables (not of a module that holds them), then example inputs:
            arrays or `jax.ShapeDtypeStruct`s. The numbers in them do not matter.
        leaks: "refuse" families whose removed units would leave a constant in the next
            layer, such as sigmoid(0) = ½. "fold" offers them where the next layer is
            linear and has a bias: the cut adds the constant to it.
        **options: keyword arguments of every call of the model, `train=False`.

    Returns:
        The families of units and what was refused.

    Raises:
        TypeError: if the variables or the example inputs are missing.
        ValueError: if the model is not a pure function of its arguments, or fails on
            these inputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> def apply(params, x):
        ...     return jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
        >>> units = gf.find_units(apply, params, jnp.ones((1, 3)))
        >>> print(units.explain("out"))
        out float32[8,2]
          axis 0 of 8: 8 units of in[1], which are removed with in[1]
          axis 1 of 2: cannot be cut: it is an axis of the model's output
    """
    check_choice(leaks, ["refuse", "fold"], "leaks")
    known = as_model(model, args, options, caller="find_units")
    traced = Traced(known.apply, known.variables, known.inputs)
    families, refused = families_of(traced, known.is_parameter, leaks)
    return Units(
        tuple(families), tuple(refused), traced.leaves, known.inputs, known, traced
    )
