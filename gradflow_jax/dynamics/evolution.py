"""The products of θ, g and Hg along a trajectory, by the names of their weights."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.dynamics.inner_products import (
    Products,
    named_products,
    packed_products,
)
from gradflow_jax.dynamics.loss_calls import drop_aux
from gradflow_jax.dynamics.trajectory import Trajectory, check_trajectory
from gradflow_jax.scores.derivatives import Derivatives
from gradflow_jax.scores.evaluation import evaluate_then
from gradflow_jax.scores.losses import LossFn, of_a_loss
from gradflow_jax.structured.units import Units, check_units
from gradflow_jax.trees import Params, fetch, named_leaves, real_array


class Evolution(NamedTuple):
    """The loss and the products of θ, g and Hg along a run.

    Attributes:
        times: [time].
        loss: L, [time].
        model: of all weights, each product [time].
        leaves: of each leaf of params, by its path, [time].
        units: of the weights that make each unit, by its family's name, [time, unit].
    """

    times: np.ndarray
    loss: np.ndarray
    model: Products
    leaves: dict[str, Products]
    units: dict[str, Products]


def check_evolution(evolution: Any) -> None:
    """Checks that a value is an evolution, whose quantities have an axis of its times.

    Raises:
        TypeError: for what is no evolution, or holds other things than products.
        ValueError: naming a quantity that has another first axis.
    """
    if not isinstance(evolution, Evolution):
        raise TypeError(
            f"evolution is a {type(evolution).__name__}: pass what gf.dynamics.follow, "
            "tracked or Recorder.evolution returned."
        )
    sets = {"model": evolution.model}
    for name, by_name in (("leaves", evolution.leaves), ("units", evolution.units)):
        if not isinstance(by_name, dict):
            raise TypeError(
                f"the evolution's {name} is a {type(by_name).__name__}: products by "
                "name are a dict."
            )
        sets |= {f"{name} {key!r}": products for key, products in by_name.items()}
    quantities = {"loss": evolution.loss}
    for name, products in sets.items():
        if not isinstance(products, Products):
            raise TypeError(
                f"the evolution's {name} is a {type(products).__name__}, and not "
                "gf.dynamics.Products."
            )
        quantities |= {f"{name}.{key}": x for key, x in products._asdict().items()}
    times = real_array(evolution.times, "the evolution's times")
    for name, quantity in quantities.items():
        array = real_array(quantity, f"the evolution's {name}")
        if times.ndim != 1 or array.shape[:1] != times.shape:
            raise ValueError(
                f"the evolution's {name} has shape {array.shape}, but its times have "
                f"{times.shape}: each quantity is [time] or [time, unit]."
            )


@of_a_loss("(trajectory, batch)")
def follow(
    loss_fn: LossFn, *, units: Units | None = None, has_aux: bool = False
) -> Callable[..., Evolution]:
    """Evaluates ‖θ‖², ‖g‖², θᵀg, θᵀHg and gᵀHg along a trajectory, set by set.

    Each time of the trajectory costs one evaluation of the second order,
    `gf.differentiate`, about three gradients, or five where a function in the loss has
    a reverse rule alone (`jax.custom_vjp`); all sets of weights share it. Runs that
    are too long to be kept are tracked as they go: `track`.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the data;
            or `gf.over_batches(loss_fn)`.
        units: of the model, from `gf.find_units`; None leaves units out.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; the aux is
            discarded.

    Returns:
        A function `(trajectory, *args, **kwargs) -> Evolution`, compiled once. Times
        at which a flow that met its target stood still are left out.

    Raises:
        TypeError: for units that are none; at the call, for what is no trajectory,
            params that are not real floating-point arrays or a loss that is not a
            scalar.
        ValueError: at the call, for units of another model.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda params: jnp.sum(jnp.array([1.0, 2.0]) * params["w"] ** 2)
        >>> descend = gf.dynamics.gradient_descent(loss_fn, 0.125)
        >>> run = descend({"w": jnp.array([4.0, 2.0])}, [0, 1])
        >>> evolution = gf.dynamics.follow(loss_fn)(run)
        >>> evolution.loss.tolist(), evolution.leaves["w"].theta_g.tolist()
        ([24.0, 11.0], [48.0, 22.0])
    """
    check_units(units, optional=True)
    take_sample = drop_aux(
        evaluate_then(
            partial(loss_and_products, units), loss_fn, order=2, has_aux=has_aux
        ),
        has_aux,
    )

    def evaluate_along(
        trajectory: Trajectory, /, *args: Any, **kwargs: Any
    ) -> Evolution:
        check_trajectory(trajectory)
        times = np.asarray(trajectory.times)
        # A flow that met its target repeats the time at which it stopped. The time
        # prepended is below the first, so that the first always counts.
        moving = np.flatnonzero(np.diff(times, prepend=-1.0) > 0)
        samples = [take_sample(trajectory.at(int(i)), *args, **kwargs) for i in moving]
        return evolution_of(times[moving], samples, trajectory.params, units)

    return evaluate_along


def loss_and_products(
    units: Units | None, d: Derivatives
) -> tuple[jax.Array, jax.Array]:
    """Returns the sample of a model at one time: the loss, and packed products.

    `evolution_of` takes a list of these.
    """
    return d.loss, packed_products(d, units)


def evolution_of(
    times: Any, samples: Sequence[Any], params: Params, units: Units | None
) -> Evolution:
    """Returns samples at times as an evolution, with the products by name.

    Args:
        times: [time].
        samples: of `loss_and_products`, one a time, with the same units.
        params: a tree like that of the samples, whose leaves lend their names.
        units: those of the samples.
    """
    # One transfer brings all samples from the device.
    samples = fetch(list(samples), "samples")
    losses, packed = map(np.stack, zip(*samples, strict=True))
    paths = [path for path, _ in named_leaves(params)]
    return Evolution(np.asarray(times), losses, *named_products(packed, paths, units))
