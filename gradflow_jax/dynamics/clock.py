"""The time of training: the sum of the times of its steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.trees import check_number, describe, is_real_floating

LearningRate = float | Callable[[Any], Any]
"""The time that a step takes: a number, or a schedule `count -> value`."""


def check_learning_rate(learning_rate: LearningRate) -> None:
    """Checks that the time of a step is a number, or may be asked for.

    Raises:
        TypeError: for what is neither a number nor a schedule.
        ValueError: for a number that is not finite or is negative.
    """
    if not callable(learning_rate):
        check_number(learning_rate, "learning_rate", least=0.0)


def time_of_step(learning_rate: LearningRate, count: Any) -> Any:
    """Returns the time that a step takes.

    Args:
        learning_rate: a number or a schedule.
        count: how many steps were made before it.

    Raises:
        TypeError: if a schedule returns anything but one real number.
    """
    if not callable(learning_rate):
        return learning_rate
    rate = learning_rate(count)
    is_whole = isinstance(rate, int) and not isinstance(rate, bool)
    if not (is_whole or is_real_floating(rate)) or jnp.ndim(rate):
        raise TypeError(
            f"learning_rate(count) returned {describe(rate)}: a schedule returns one "
            "real number for each count."
        )
    return rate


def add_compensated(
    total: jax.Array, lost: jax.Array, term: Any
) -> tuple[jax.Array, jax.Array]:
    """Adds a term to a sum of many, and keeps what the rounding takes from it.

    A million steps of 1e-3, added in float32, come to 991; with what each addition lost
    handed to the next, to 1000.

    Args:
        total: the sum so far.
        lost: by how much it is above the sum of the terms.
        term: is added.

    Returns:
        Both after the addition.

    Reference:
        Kahan, Further remarks on reducing truncation errors, Communications of the
        ACM, 1965.
    """
    term = jnp.asarray(term, total.dtype) - lost
    longer = total + term
    return longer, (longer - total) - term
