"""Checks what a measure is given as a loss, and counts the examples of a batch."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gradflow_jax.programs.parameters import HeldModule, part_module
from gradflow_jax.trees import Params, describe, is_real_floating, named_leaves

LossFn = Callable[..., Any]
"""`loss_fn(params, *args, **kwargs)`: a scalar, or `(scalar, aux)` with `has_aux`."""

# The keyword by which a module's other state reaches the loss through all that hands
# on keyword arguments. It is no identifier, so no argument of a loss has its name.
_HELD_MODULE = "held module"


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
        value, aux = loss_fn(params, *args, **kwargs), None
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
        if not is_real_floating(value) or jnp.shape(value) != ():
            raise TypeError(
                f"the loss returned {describe(value)}, not a scalar: return one real "
                "number, the mean over the batch (jnp.mean)."
            )
        return value, aux

    return checked_loss


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


def batch_size(batch: Any) -> int:
    """Returns the number of examples of a batch: its arrays' leading axis.

    Raises:
        ValueError: if the arrays disagree about it or there is none.
    """
    sizes = {
        path: jnp.shape(leaf)[0] for path, leaf in named_leaves(batch) if jnp.ndim(leaf)
    }
    if len(set(sizes.values())) != 1:
        lengths = ", ".join(f"{path or 'batch'}: {n}" for path, n in sizes.items())
        raise ValueError(
            "the number of examples of a batch cannot be told from the leading axes "
            f"of its arrays ({lengths or 'there is no array'}). Pass "
            "weight=lambda batch: ... to over_batches, or move what is not data out "
            "of the batch."
        )
    return next(iter(sizes.values()))
