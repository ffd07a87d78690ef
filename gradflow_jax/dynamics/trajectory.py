"""What gradient flow and gradient descent return: states at times."""

from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.trees import Params, is_traced


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
    params: Params
    loss: jax.Array
    reached: jax.Array

    def at(self, index: int) -> Params:
        """Returns the parameters at one of the times, a tree like params."""
        return jax.tree.map(lambda leaf: leaf[index], self.params)


def check_rising(values: Any, name: str) -> None:
    """Checks that values are one list of finite numbers ≥ 0, each above the last.

    Raises:
        ValueError: naming what was found; traced values are not known yet, and pass.
    """
    if np.ndim(values) != 1 or not np.size(values):
        raise ValueError(
            f"{name} has shape {np.shape(values)}: pass a list of at least one number."
        )
    if is_traced(values):
        return
    numbers = np.asarray(values)
    rising = numbers[0] >= 0 and (np.diff(numbers) > 0).all()
    if not rising or not np.isfinite(numbers).all():
        raise ValueError(
            f"{name} is {numbers.tolist()}: the run starts at 0 and goes forward, so "
            f"{name} are finite, not negative, and each larger than the last."
        )
