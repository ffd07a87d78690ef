"""Finds the units of a model in the program that it is."""

from typing import Any, Literal

from gradflow_jax.programs.models import door
from gradflow_jax.structured.grouping import families_of
from gradflow_jax.structured.coupling.program import Rule
from gradflow_jax.structured.coupling.tracing import RULES, Traced
from gradflow_jax.structured.units import Units


def find_units(
    model: Any,
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
        model: a pure function `apply(variables, *inputs)`, a linen module, or an NNX
            module, which holds its variables itself.
        *args: the variables (not for an NNX module), then example inputs: arrays or
            `jax.ShapeDtypeStruct`s. The numbers in them do not matter.
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
    if leaks not in ("refuse", "fold"):
        raise ValueError(f'leaks is {leaks!r}; it is "refuse" or "fold".')
    own = door(model, args, options)
    traced = Traced(own.apply, own.variables, own.inputs)
    families, refused = families_of(traced, own.is_parameter, leaks)
    return Units(
        tuple(families), tuple(refused), traced.leaves, own.inputs, own, traced
    )


def register_rule(primitive: str, rule: Rule) -> None:
    """Tells how the axes of a primitive's results follow from those of its operands.

    Args:
        primitive: its name, as an error or `jax.make_jaxpr` prints it.
        rule: takes an equation, which has `params`, `operands` (a tuple of axes for
            each), `shapes` (of the results), `unite(axis, axis)`, `pin(axes, text)`
            and `pinned(shape, text)`, and returns a tuple of axes for each result.
            An axis that stands in an operand and in a result is carried; united axes
            lose the same indices. `gf.elementwise` is the rule of primitives that
            compute index by index.

    Returns:
        Nothing.

    A primitive that carries axes must be free to be bound at other sizes of them. What
    it makes of zeros is only known for elementwise ones, which are evaluated.

    Example:
        >>> import gradflow_jax as gf
        >>> def normalise(equation):  # works along the last axis, carries the others
        ...     (dims,) = equation.operands
        ...     equation.pin(dims[-1:], "it is normalised along this axis")
        ...     return [dims]
        >>> gf.register_rule("my_norm", normalise)
    """
    if not isinstance(primitive, str) or not callable(rule):
        raise TypeError(
            f"register_rule takes the name of a primitive and a function, not "
            f"{primitive!r} and {rule!r}."
        )
    RULES[primitive] = rule
