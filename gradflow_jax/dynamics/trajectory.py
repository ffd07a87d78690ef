"""What gradient flow and gradient descent return: states at times."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import (
    Params,
    check_floating,
    is_traced,
    label,
    named_leaves,
    real_array,
)


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


def check_trajectory(trajectory: Any) -> None:
    """Checks that a value is a trajectory, whose params have an axis of its times.

    Raises:
        TypeError: for what is no trajectory.
        ValueError: naming the leaf that has another first axis.
    """
    if not isinstance(trajectory, Trajectory):
        raise TypeError(
            f"trajectory is a {type(trajectory).__name__}: pass the run that "
            "gf.dynamics.gradient_flow or gradient_descent returned."
        )
    times = real_array(trajectory.times, "the trajectory's times")
    check_floating(trajectory.params, "the trajectory's params")
    for path, leaf in named_leaves(trajectory.params):
        if times.ndim != 1 or jnp.shape(leaf)[:1] != times.shape:
            raise ValueError(
                f"the trajectory's params {label(path)} has shape {jnp.shape(leaf)}, "
                f"but its times have {times.shape}: a leaf is [time, ...]."
            )


def check_rising(values: Any, name: str) -> Any:
    """Returns an array of one axis of finite numbers ≥ 0, each above the last.

    Raises:
        TypeError: for what are no real numbers.
        ValueError: naming what was found; traced values are not known yet, and pass.
    """
    array = real_array(values, name)
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"{name} has shape {array.shape}: pass a list of at least one number."
        )
    if is_traced(array):
        return array
    rising = array[0] >= 0 and (array[1:] > array[:-1]).all()
    if not rising or not np.isfinite(array).all():
        raise ValueError(
            f"{name} is {array.tolist()}: the run starts at 0 and goes forward, so "
            f"{name} are finite, not negative, and each larger than the last."
        )
    return array
