"""Functions and modules of any framework as one thing: a pure function of variables.

A model is a function `apply(variables, *inputs)`, a linen module, or a module that
holds its variables itself: of Flax NNX or of Equinox.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradflow_jax.trees import (
    ArrayTree,
    Masks,
    is_linen_module,
    is_nnx_module,
    is_nnx_state,
    named_leaves,
)
from gradflow_jax.trees.checks import check_numbers

ModelLike = Callable[..., Any]
"""A function `apply(variables, *inputs)`, or a module of linen, NNX or Equinox."""

Kind = Literal["function", "linen", "nnx", "equinox"]
HOLDS_VARIABLES: tuple[Kind, ...] = ("nnx", "equinox")


@dataclass(frozen=True, eq=False)
class Model:
    """A model as a pure function.

    Attributes:
        kind: what it was given as.
        source: the function or the module that was given.
        apply: `apply(variables, *inputs)`.
        variables: the shapes of its variables.
        inputs: those of its example inputs.
        is_parameter: whether a path's leaf is trained, not a statistic.
        options: keyword arguments of every call.
    """

    kind: Kind
    source: Any
    apply: Callable[..., Any]
    variables: ArrayTree
    inputs: tuple[Any, ...]
    is_parameter: Callable[[str], bool]
    options: dict[str, Any]

    @cached_property
    def run_masked(self) -> Callable[..., Any]:
        """`masked(variables, masks, *inputs)`: the model with some weights at zero.

        The masks are data: whatever they keep, one program is compiled.
        """

        def zeroed(leaf: Any, mask: Any) -> Any:
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
            return leaf if is_key else jnp.where(mask, leaf, jnp.zeros_like(leaf))

        @jax.jit
        def run(variables: ArrayTree, masks: Masks, *inputs: Any) -> Any:
            return self.apply(jax.tree.map(zeroed, variables, masks), *inputs)

        return run


def kind_of(model: object) -> Kind:
    """Returns what a model is.

    Raises:
        TypeError: if it is neither a module nor a function.
    """
    if is_nnx_module(model):
        return "nnx"
    if is_linen_module(model):
        return "linen"
    if is_equinox_module(model):
        return "equinox"
    if not callable(model):
        raise TypeError(
            f"a model is a function apply(variables, *inputs), or a linen, an NNX or "
            f"an Equinox module, not {type(model).__name__}."
        )
    return "function"


def is_equinox_module(model: object) -> bool:
    """Says whether a model is an Equinox module that holds arrays."""
    if not any(kind.__module__.startswith("equinox") for kind in type(model).__mro__):
        return False
    import equinox

    # Wrappers such as `eqx.filter_jit(f)` are modules too, but hold no variables.
    return isinstance(model, equinox.Module) and bool(arrays_of(model))


def arrays_of(module: Any) -> list[Any]:
    """Returns the leaves of a tree that are arrays."""
    return [leaf for leaf in jax.tree.leaves(module) if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def unwrap_apply(model: Any) -> Any:
    """Returns the linen module of which a user passed the method `apply`."""
    owner = getattr(model, "__self__", None)
    is_apply = getattr(model, "__name__", "") == "apply"
    return owner if is_apply and is_linen_module(owner) else model


def as_function(
    model: Any, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Returns a model as a pure function `apply(variables, *inputs, **options)`.

    The variables of a module that holds them are what `variables_of` returns, or of an
    NNX module its `nnx.Param`s alone: its other variables are then as it holds them.
    What it does to its own statistics is forgotten.

    Args:
        model: a function, or a linen, an NNX or an Equinox module.
        options: keyword arguments of every call, unless a call gives its own.
    """
    options = options or {}
    model = unwrap_apply(model)
    kind = kind_of(model)
    if kind == "nnx":
        run = _nnx_function(model)
    elif kind == "equinox":
        run = _equinox_function(model)
    else:
        run = model.apply if kind == "linen" else model

    def apply(variables: ArrayTree, *inputs: Any, **changed: Any) -> Any:
        return run(variables, *inputs, **{**options, **changed})

    return apply


def _nnx_function(module: Any) -> Callable[..., Any]:
    from flax import nnx

    graphdef, state = nnx.split(module)
    count = len(jax.tree.leaves(state))

    def apply(variables: Any, *inputs: Any, **options: Any) -> Any:
        if len(jax.tree.leaves(variables)) < count:
            variables = nnx.merge_state(state, variables)
        return nnx.merge(graphdef, variables, copy=True)(*inputs, **options)

    return apply


def _equinox_function(module: Any) -> Callable[..., Any]:
    import equinox

    _, rest = equinox.partition(module, _is_array)

    def apply(variables: Any, *inputs: Any, **options: Any) -> Any:
        return equinox.combine(variables, rest)(*inputs, **options)

    return apply


def variables_of(module: ModelLike) -> ArrayTree:
    """Returns the variables of a module that holds them: a state, or a module.

    Of an Equinox module they are the module with its arrays alone.
    """
    if kind_of(module) == "nnx":
        from flax import nnx

        return nnx.state(module)
    import equinox

    return equinox.filter(module, _is_array)


def nest_like_state(state: Any, leaves: Sequence[Any]) -> dict[Any, Any]:
    """Returns leaves as nested dicts, named as in an `nnx.State`."""
    from flax import nnx

    nested: dict[Any, Any] = {}
    for (path, _), leaf in zip(nnx.to_flat_state(state), leaves, strict=True):
        *folders, name = path
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return nested


def as_model(
    source: ModelLike, args: Sequence[Any], options: Mapping[str, Any], *, caller: str
) -> Model:
    """Makes a model of what the user has.

    Args:
        source: a function or a module.
        args: the variables, unless the module holds them, and example inputs.
        options: keyword arguments of every call.
        caller: what an error calls the function that was called.

    Raises:
        TypeError: if the variables or the example inputs are missing, or hold a leaf
            that is no array of numbers.
    """
    source = unwrap_apply(source)
    kind = kind_of(source)
    if kind in HOLDS_VARIABLES:
        variables, inputs = variables_of(source), tuple(args)
        if inputs and _are_variables(inputs[0], source, variables):
            raise TypeError(
                f"{caller} was handed variables beside a module that holds its own: "
                f"write {caller}(model, *inputs)."
            )
    elif not args:
        raise TypeError(
            f"{caller}(model, variables, *inputs) lacks the variables: arrays or "
            "jax.ShapeDtypeStructs, as jax.eval_shape(module.init, key, x) gives."
        )
    else:
        variables, inputs = args[0], tuple(args[1:])
    check_numbers(variables, "variables")
    check_numbers(inputs, "inputs")
    if not jax.tree.leaves(inputs):
        raise TypeError(
            f"{caller} lacks example inputs: a batch as the model is called with, "
            "arrays or jax.ShapeDtypeStructs."
        )
    apply = as_function(source, options)
    is_parameter = _parameters(kind, variables)
    # Shapes are kept, lest the units keep the full weights alive.
    variables, inputs = jax.eval_shape(lambda *trees: trees, variables, inputs)
    return Model(kind, source, apply, variables, inputs, is_parameter, dict(options))


def _are_variables(value: Any, source: Any, variables: ArrayTree) -> bool:
    """Says whether a value is the module, or the variables of one, and no input."""
    if type(value) is type(source):
        return True
    if not is_nnx_state(value):
        return False
    names = {name for name, _ in named_leaves(variables)}
    return {name for name, _ in named_leaves(value)} <= names


def _parameters(kind: str, variables: ArrayTree) -> Callable[[str], bool]:
    if kind == "nnx" or is_nnx_state(variables):
        return _nnx_parameters(variables).__contains__
    if isinstance(variables, Mapping) and "params" in variables:
        return lambda path: path.startswith("params/")
    return lambda path: True


def _nnx_parameters(variables: Any) -> set[str]:
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
