"""What gradient flow and gradient descent return: states at times."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.scores.batching import BatchedLoss
from gradflow_jax.scores.losses import LossFn
from gradflow_jax.trees import PyTree, is_traced


class Trajectory(NamedTuple):
    """A model at several times.

    Attributes:
        times: [time]; a run that met its target stands still from then on, and this is
            the time at which it stopped wherever a later one was asked for.
        params: a tree like params, of leaves [time, ...], float32 at least.
        loss: [time].
        reached: the time at which the loss met its target; inf if it did not, or had
            none.
    """

    times: jax.Array
    params: PyTree
    loss: jax.Array
    reached: jax.Array

    def at(self, index: int) -> PyTree:
        """Returns the parameters at one of the times, a tree like params."""
        return jax.tree.map(lambda leaf: leaf[index], self.params)


def check_rising(values: Any, name: str) -> None:
    """Checks that values are one list of finite numbers ≥ 0, each above the last.

    Raises:
        ValueError: naming what was found; values that are traced pass unseen.
    """
    if np.ndim(values) != 1 or not np.size(values):
        raise ValueError(
            f"{name} has shape {np.shape(values)}: pass a list of at least one number."
        )
    if is_traced(values):
        return
    found = np.asarray(values)
    if not np.isfinite(found).all() or found[0] < 0 or not (np.diff(found) > 0).all():
        raise ValueError(
            f"{name} is {found.tolist()}: the run starts at 0 and goes forward, so "
            f"{name} are finite, not negative, and each larger than the last."
        )


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
