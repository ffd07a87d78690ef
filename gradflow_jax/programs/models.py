"""Functions, linen modules and NNX modules as one thing: a pure function of variables.

Flax is not imported for it: whoever holds a Flax module has imported Flax.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradflow_jax.trees import PyTree


@dataclass(frozen=True, eq=False)
class Model:
    """A model as a pure function.

    Attributes:
        kind: what it was given as.
        given: the function or the module.
        apply: `apply(variables, *inputs)`.
        variables: the shapes of its variables.
        inputs: those of its example inputs.
        is_parameter: whether a path's leaf is trained, not a statistic.
        options: keyword arguments of every call.
    """

    kind: Literal["function", "linen", "nnx"]
    given: Any
    apply: Callable[..., Any]
    variables: PyTree
    inputs: tuple[Any, ...]
    is_parameter: Callable[[str], bool]
    options: dict[str, Any]

    @cached_property
    def masked(self) -> Callable[..., Any]:
        """`masked(variables, masks, *inputs)`: the model with some weights at zero.

        The masks are data: whatever they keep, one program is compiled.
        """

        def zeroed(leaf: Any, mask: Any) -> Any:
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
            return leaf if is_key else jnp.where(mask, leaf, jnp.zeros_like(leaf))

        @jax.jit
        def run(variables: PyTree, masks: PyTree, *inputs: Any) -> Any:
            return self.apply(jax.tree.map(zeroed, variables, masks), *inputs)

        return run


def kind_of(model: Any) -> Literal["function", "linen", "nnx"]:
    """Returns what a model is.

    Raises:
        TypeError: if it is neither a Flax module nor a function.
    """
    nnx, linen = sys.modules.get("flax.nnx"), sys.modules.get("flax.linen")
    if nnx is not None and isinstance(model, nnx.Module):
        return "nnx"
    if linen is not None and isinstance(model, linen.Module):
        return "linen"
    if not callable(model):
        raise TypeError(
            f"a model is a function apply(variables, *inputs), a linen or an NNX "
            f"module, not {type(model).__name__}."
        )
    return "function"


def unwrapped(model: Any) -> Any:
    """Returns the linen module of which a user passed the method `apply`."""
    linen = sys.modules.get("flax.linen")
    owner = getattr(model, "__self__", None)
    if linen is not None and isinstance(owner, linen.Module):
        if getattr(model, "__name__", "") == "apply":
            return owner
    return model


def as_function(model: Any, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns a model as a pure function `apply(variables, *inputs, **options)`.

    Of an NNX module the variables are `nnx.state(model)`; what it does to its own
    statistics is forgotten.

    Args:
        model: a function, a linen or an NNX module.
        options: keyword arguments of every call, unless a call gives its own.
    """
    kind = kind_of(model)
    if kind != "nnx":
        run = model.apply if kind == "linen" else model

        def apply(variables: PyTree, *inputs: Any, **given: Any) -> Any:
            return run(variables, *inputs, **{**options, **given})

        return apply
    nnx = sys.modules["flax.nnx"]
    graphdef = nnx.graphdef(model)

    def merged(variables: PyTree, *inputs: Any, **given: Any) -> Any:
        whole = nnx.merge(graphdef, variables, copy=True)
        return whole(*inputs, **{**options, **given})

    return merged


def door(model: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Model:
    """Makes a model of what the user has.

    Raises:
        TypeError: if the variables or the example inputs are missing.
    """
    model = unwrapped(model)
    kind = kind_of(model)
    if kind == "nnx":
        variables, inputs = sys.modules["flax.nnx"].state(model), tuple(args)
    elif not args:
        raise TypeError(
            "find_units(model, variables, *inputs) lacks the variables: arrays or "
            "jax.ShapeDtypeStructs, as jax.eval_shape(module.init, key, x) gives."
        )
    else:
        variables, inputs = args[0], tuple(args[1:])
    if not jax.tree.leaves(inputs):
        raise TypeError(
            "find_units lacks example inputs: a batch as the model is called with, "
            "arrays or jax.ShapeDtypeStructs."
        )
    apply, trained = as_function(model, options), _parameters(kind, variables)
    # Shapes, lest the units keep the full weights alive.
    variables, inputs = jax.eval_shape(lambda *trees: trees, variables, inputs)
    return Model(kind, model, apply, variables, inputs, trained, dict(options))


def _parameters(kind: str, variables: PyTree) -> Callable[[str], bool]:
    if kind == "nnx" or type(variables).__module__.startswith("flax.nnx"):
        nnx = sys.modules["flax.nnx"]
        return _nnx_parameters(nnx, variables).__contains__
    if isinstance(variables, Mapping) and "params" in variables:
        return lambda path: path.startswith("params/")
    return lambda path: True


def _nnx_parameters(nnx: Any, variables: PyTree) -> set[str]:
    return {
        "/".join(map(str, path))
        for path, variable in nnx.to_flat_state(variables)
        if issubclass(_nnx_kind(nnx, variable), nnx.Param)
    }


def _nnx_kind(nnx: Any, variable: Any) -> type:
    """Returns a variable's class, which older states of Flax hold beside its value."""
    if isinstance(variable, nnx.Variable):
        return type(variable)
    return getattr(variable, "type", type(variable))
