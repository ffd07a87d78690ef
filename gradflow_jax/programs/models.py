"""Functions, linen and NNX modules as one thing: a pure function of variables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradflow_jax.trees import PyTree, is_linen_module, is_nnx_module, is_nnx_state


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
    if is_nnx_module(model):
        return "nnx"
    if is_linen_module(model):
        return "linen"
    if not callable(model):
        raise TypeError(
            f"a model is a function apply(variables, *inputs), a linen or an NNX "
            f"module, not {type(model).__name__}."
        )
    return "function"


def unwrapped(model: Any) -> Any:
    """Returns the linen module of which a user passed the method `apply`."""
    owner = getattr(model, "__self__", None)
    is_apply = getattr(model, "__name__", "") == "apply"
    return owner if is_apply and is_linen_module(owner) else model


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
    from flax import nnx

    graphdef = nnx.graphdef(model)

    def merged(variables: PyTree, *inputs: Any, **given: Any) -> Any:
        whole = nnx.merge(graphdef, variables, copy=True)
        return whole(*inputs, **{**options, **given})

    return merged


def state_of(module: Any) -> PyTree:
    """Returns all variables of an NNX module."""
    from flax import nnx

    return nnx.state(module)


def door(model: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Model:
    """Makes a model of what the user has.

    Raises:
        TypeError: if the variables or the example inputs are missing.
    """
    model = unwrapped(model)
    kind = kind_of(model)
    if kind == "nnx":
        variables, inputs = state_of(model), tuple(args)
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
    if kind == "nnx" or is_nnx_state(variables):
        return _nnx_parameters(variables).__contains__
    if isinstance(variables, Mapping) and "params" in variables:
        return lambda path: path.startswith("params/")
    return lambda path: True


def _nnx_parameters(variables: PyTree) -> set[str]:
    from flax import nnx

    return {
        "/".join(map(str, path))
        for path, variable in nnx.to_flat_state(variables)
        if issubclass(_nnx_kind(variable), nnx.Param)
    }


def _nnx_kind(variable: Any) -> type:
    """Returns a variable's class, which older states of Flax hold beside its value."""
    from flax import nnx

    if isinstance(variable, nnx.Variable):
        return type(variable)
    return getattr(variable, "type", type(variable))
