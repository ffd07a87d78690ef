"""How the transformations of a loss in this folder call it: its batches and its aux."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gradflow_jax.scores.arguments import check_batches, take_arguments
from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.losses import LossFn


def drop_aux(evaluate: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """Returns an evaluation of a loss that returns no aux.

    Args:
        evaluate: returns what is evaluated or, if the loss has an aux, a pair of that
            and the aux.
        has_aux: whether the loss returns `(loss, aux)`.

    Raises:
        TypeError: for what is neither True nor False.
    """
    if not isinstance(has_aux, (bool, np.bool_)):
        raise TypeError(f"has_aux is a {type(has_aux).__name__}: pass True or False.")
    if not has_aux:
        return evaluate

    def evaluate_alone(*args: Any, **kwargs: Any) -> Any:
        result, _ = evaluate(*args, **kwargs)
        return result

    return evaluate_alone


def hold_arguments(
    loss_fn: LossFn, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns a loss's arguments as JAX takes them, its batches, if any, as a list.

    What is compiled as a whole needs all of its data at once.

    Raises:
        TypeError: at an argument that is neither an array nor a flag, or at batches
            that are none.
    """
    if isinstance(loss_fn, BatchedLoss) and args:
        batches: Any = args[0]() if callable(args[0]) else args[0]
        check_batches(batches, passes=1)
        args = list(batches), *args[1:]
    return take_arguments(args, kwargs)
