"""How the transformations of a loss in this folder call it: its batches and its aux."""

from collections.abc import Callable, Mapping
from typing import Any

from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.losses import LossFn


def drop_aux(evaluate: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """Returns an evaluation of a loss that returns no aux.

    Args:
        evaluate: returns what is evaluated or, if the loss has an aux, a pair of that
            and the aux.
        has_aux: whether the loss returns `(loss, aux)`.
    """
    if not has_aux:
        return evaluate

    def evaluate_alone(*args: Any, **kwargs: Any) -> Any:
        result, _ = evaluate(*args, **kwargs)
        return result

    return evaluate_alone


def held_batches(loss_fn: LossFn, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns a loss's arguments with its batches, if it takes some, as a list.

    What is compiled as a whole needs all of its data at once.
    """
    if not isinstance(loss_fn, BatchedLoss) or not args:
        return args
    batches: Any = args[0]() if callable(args[0]) else args[0]
    # A single batch is refused by the loss itself, which says how to pass it.
    if not (hasattr(batches, "shape") or isinstance(batches, Mapping)):
        batches = list(batches)
    return batches, *args[1:]
