"""Records the products of θ, g and Hg by a plain call in a training loop."""

from functools import partial
from typing import Any

import jax

from gradflow_jax.dynamics.clock import (
    LearningRate,
    check_learning_rate,
    time_of_step,
)
from gradflow_jax.dynamics.evolution import (
    Evolution,
    evolution_of,
    loss_and_products,
)
from gradflow_jax.dynamics.loss_calls import drop_aux
from gradflow_jax.dynamics.options import checked_sizes
from gradflow_jax.programs.parameters import params_of
from gradflow_jax.scores.evaluation import evaluate_then
from gradflow_jax.scores.losses import LossFn, check_loss
from gradflow_jax.structured.units import Units, check_units
from gradflow_jax.trees import Params


class Recorder:
    """A callback that records the quantities of gradient flow in any training loop.

        record = gf.dynamics.Recorder(loss_fn, every=50, learning_rate=0.1)
        for batch in batches:
            record(model, held_out)  # or params, as the loss takes them
            train_step(model, optimizer, batch)
        evolution = record.evolution()

    It does what `gf.dynamics.track` does, from outside of the compiled step: nothing of
    the loop changes, and the loss may be one of `gf.over_batches`, batch after batch.
    When `capacity` samples are held, every other one goes and the stride doubles.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the data;
            or `gf.over_batches(loss_fn)`.
        every: calls from one recorded call to the next, at the start.
        capacity: the most samples held, an even number.
        learning_rate: the time that a call stands for, a number or an optax schedule
            `count -> value`: η under plain SGD and η/(1 − μ) with momentum μ; then it
            is the flow's. 1.0 counts calls. See `predicted_rates` for what has no
            such time.
        units: of the model, from `gf.find_units`; None leaves units out.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; the aux is
            discarded.

    Raises:
        TypeError: for a learning rate that is no number, or units that are none; at
            a call, if a schedule returns no number.
        ValueError: if `every` or `capacity` is not a whole number above 0, `capacity`
            is odd, or a learning rate is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> record = gf.dynamics.Recorder(lambda w: jnp.sum(w**2), every=2)
        >>> for step in range(4):
        ...     record(jnp.array([10.0 - step]))
        >>> record.evolution().loss.tolist()
        [100.0, 64.0]
    """

    def __init__(
        self,
        loss_fn: LossFn,
        *,
        every: int = 1,
        capacity: int = 256,
        learning_rate: LearningRate = 1.0,
        units: Units | None = None,
        has_aux: bool = False,
    ):
        check_loss(loss_fn, "Recorder", "Recorder(loss_fn)")
        every, capacity = checked_sizes(every, capacity)
        check_learning_rate(learning_rate)
        check_units(units, optional=True)
        evaluate = evaluate_then(
            partial(loss_and_products, units), loss_fn, order=2, has_aux=has_aux
        )
        self._take_sample = drop_aux(evaluate, has_aux)
        self._units, self._rate = units, learning_rate
        self._capacity, self._stride = capacity, every
        self._count, self._time = 0, 0.0
        self._samples: list[tuple[float, Any]] = []
        self._params: Params | None = None

    def __call__(self, params: Params, /, *args: Any, **kwargs: Any) -> None:
        """Counts a step and, where one is due, records the model before it."""
        if self._count % self._stride == 0:
            if len(self._samples) == self._capacity:
                # The doubled stride divides this call's number too, because the
                # capacity is even: `tracking` shows an example.
                self._samples, self._stride = self._samples[::2], 2 * self._stride
            sample = self._take_sample(params, *args, **kwargs)
            self._samples.append((self._time, sample))
            # Names are read off the tree's structure: no weight is kept alive.
            self._params = jax.eval_shape(lambda params: params, params_of(params))
        # A sum of Python's numbers is of float64: a million terms are exact enough.
        self._time += float(time_of_step(self._rate, self._count))
        self._count += 1

    def evolution(self) -> Evolution:
        """Returns what was recorded, each sample at the sum of the rates before it.

        Raises:
            ValueError: if nothing was recorded yet.
        """
        if self._params is None:
            raise ValueError(
                "nothing was recorded yet: call it with the parameters and what the "
                "loss takes, at each step."
            )
        times, samples = zip(*self._samples, strict=True)
        return evolution_of(times, samples, self._params, self._units)
