"""Checks what a measure is given as a loss, and calls it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from gradflow_jax.programs.models import kind_of
from gradflow_jax.programs.parameters import HeldModule, part_module
from gradflow_jax.scores.arguments import release_flags
from gradflow_jax.trees import Params, describe, is_real_floating
from gradflow_jax.trees.dtypes import has_values
from gradflow_jax.trees.numbers import check_bool

LossFn = Callable[..., Any]
"""`loss_fn(params, *args, **kwargs)`: a scalar, or `(scalar, aux)` with `has_aux`."""

# The keyword by which a module's other state reaches the loss through all that hands
# on keyword arguments. It is no identifier, so no argument of a loss has its name.
_HELD_MODULE = "held module"

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)

_HINTS = {"temperature": "A temperature divides the logits inside of the loss."}

_Transformation = TypeVar("_Transformation", bound=Callable[..., Any])


def of_a_loss(call: str) -> Callable[[_Transformation], _Transformation]:
    """Has a transformation of a loss say how it is called where it is given no loss.

    Args:
        call: what its result is called with, `"(params, batch)"`.

    Returns:
        A decorator. What it makes raises a TypeError for parameters or a model in place
        of the loss, for what is the loss's own and stands beside it, and for an option
        that is neither True nor False where it is one of these by default.
    """

    def decorate(transformation: _Transformation) -> _Transformation:
        name = transformation.__name__
        parameters = inspect.signature(transformation).parameters.values()
        positional = [
            parameter.name
            for parameter in parameters
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        known = [parameter.name for parameter in parameters]
        switches = {p.name for p in parameters if isinstance(p.default, bool)}
        phrase = f"{name}({', '.join(positional)}){call}"

        @functools.wraps(transformation)
        def transform(*args: Any, **options: Any) -> Any:
            loss_fn = args[0] if args else options.get("loss_fn", transformation)
            check_loss(loss_fn, name, phrase)
            if len(args) > len(positional):
                raise TypeError(
                    f"{name} was given {len(args) - len(positional)} arguments more "
                    f"than it takes: what the loss takes goes to the function that it "
                    f"returns, {phrase}."
                )
            for option in options.keys() - known:
                more = f" {_HINTS[option]}" if option in _HINTS else ""
                raise TypeError(
                    f"{name} has no argument {option}=; it takes {', '.join(known)}. "
                    f"What the loss takes goes to {phrase}.{more}"
                )
            for switch in switches & set(options):
                check_bool(options[switch], switch)
            return transformation(*args, **options)

        return transform  # type: ignore[return-value]

    return decorate


def check_loss(loss_fn: Any, name: str, phrase: str) -> None:
    """Checks that a loss is a function, and not parameters or a model.

    Args:
        loss_fn: what was handed over as the loss.
        name: the transformation of it.
        phrase: how that is called.

    Raises:
        TypeError: naming what was handed over.
    """
    if callable(loss_fn) and kind_of(loss_fn) == "function":
        return
    raise TypeError(
        f"{name} is a transformation of a loss, and its loss_fn is "
        f"{describe(loss_fn)}: pass the loss first, {phrase}, where loss_fn(params, "
        "batch) returns a scalar."
    )


def scalar_loss(loss_fn: LossFn, has_aux: bool) -> LossFn:
    """Makes a loss that returns `(value, aux)` and checks that value is a scalar.

    Every evaluation of a loss passes here, so here the loss of an NNX module is given
    the whole module: see `take_module`.

    Raises:
        TypeError: when called, if the loss is not one real floating-point number, or
            is not `(loss, aux)` exactly where `has_aux` says so.
    """

    def checked_loss(params: Params, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        held: HeldModule | None = kwargs.pop(_HELD_MODULE, None)
        if held is not None:
            params = held.with_params(params)
        args, kwargs = release_flags(args, kwargs)
        value, aux = _call_traced(loss_fn, params, args, kwargs), None
        is_pair = isinstance(value, tuple) and len(value) == 2
        if has_aux:
            if not is_pair:
                raise TypeError(
                    "has_aux=True, but the loss returned a "
                    f"{type(value).__name__}: return (loss, aux)."
                )
            value, aux = value
        elif isinstance(value, tuple):
            raise TypeError(
                f"the loss returned a tuple of {len(value)}: return the loss alone, "
                "or (loss, aux) with has_aux=True."
            )
        is_number = is_real_floating(value) and has_values(value)
        if not is_number or jnp.shape(value) != ():
            raise TypeError(
                f"the loss returned {describe(value)}, not a scalar: return one real "
                "number, the mean over the batch (jnp.mean)."
            )
        return value, aux

    return checked_loss


def _call_traced(loss_fn: LossFn, params: Params, args: Any, kwargs: Any) -> Any:
    """Calls a loss, and says in words what cannot be done while it is traced.

    Raises:
        TypeError: where the loss asks for the value of an array, or changes a module
            that belongs to another trace.
    """
    try:
        return loss_fn(params, *args, **kwargs)
    except _NEEDS_VALUES as error:
        first_line = str(error).partition("\n")[0]
        raise TypeError(
            "the loss asks for the value of an array while it is traced, as jax.grad "
            "and jax.jit call it: bind what decides in Python, such as a number of "
            "steps or an axis, by functools.partial(loss_fn, name=...); bools and "
            "texts may be arguments of their own. Of arrays decide by jnp.where or "
            f"jax.lax.cond. JAX says: {first_line}"
        ) from error
    except Exception as error:
        # Flax need not be imported to know its error.
        if type(error).__name__ != "TraceContextError":
            raise
        raise TypeError(
            "the loss changes a module of NNX that was made outside of it, as batch "
            "norm and dropout do in training mode: merge a copy in the loss, "
            "nnx.merge(graphdef, params, rest, copy=True), or pass the module itself "
            "in place of params."
        ) from error


def take_module(
    params: Params, kwargs: dict[str, Any]
) -> tuple[Params, dict[str, Any]]:
    """Returns params and keyword arguments with which a `scalar_loss` is called.

    Of an NNX module these are its parameters, by which alone the loss is
    differentiated, and among the keyword arguments what else the module holds. Trees
    and arguments of no module are returned as they are.
    """
    params, held = part_module(params)
    return params, kwargs if held is None else {**kwargs, _HELD_MODULE: held}
