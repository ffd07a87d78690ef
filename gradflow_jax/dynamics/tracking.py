"""Tracks the products of θ, g and Hg in training, in memory of one size.

Samples stand in arrays of a fixed capacity, at every `stride`-th step. When they are
full every other one goes and the stride doubles. With a capacity of 4 and a stride of
1, the steps held are

    0 1 2 3   full at step 4: 0 and 2 stay, the stride is 2
    0 2 4 6   full at step 8: 0 and 4 stay, the stride is 4
    0 4 8 …

The step that finds the arrays full is itself due by the doubled stride, because the
capacity is even: it is capacity · stride = (capacity / 2) · (2 · stride).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradflow_jax.dynamics.clock import (
    LearningRate,
    add_compensated,
    check_learning_rate,
    time_of_step,
)
from gradflow_jax.dynamics.evolution import (
    loss_and_products,
)
from gradflow_jax.dynamics.inner_products import Products
from gradflow_jax.dynamics.loss_calls import drop_aux, hold_arguments
from gradflow_jax.dynamics.options import checked_sizes
from gradflow_jax.scores.evaluation import evaluate_then
from gradflow_jax.scores.losses import LossFn, of_a_loss
from gradflow_jax.structured.units import Units, check_units
from gradflow_jax.trees import Params, check_floating, widen


class TrackState(NamedTuple):
    """The state of `track`; `tracked` reads it.

    Attributes:
        step_count: how many steps were made.
        time: the sum of their learning rates.
        lost: by how much rounding left it above that sum.
        stride: steps from one sample to the next.
        size: samples held.
        steps: [capacity], the steps before which the samples were taken.
        times: [capacity], the sums of the learning rates before these steps.
        loss: [capacity], the losses of the samples.
        products: [capacity, product, set].
    """

    step_count: jax.Array
    time: jax.Array
    lost: jax.Array
    stride: jax.Array
    size: jax.Array
    steps: jax.Array
    times: jax.Array
    loss: jax.Array
    products: jax.Array


@of_a_loss("")
def track(
    loss_fn: LossFn,
    *,
    every: int = 1,
    capacity: int = 256,
    learning_rate: LearningRate = 1.0,
    units: Units | None = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Tracks the quantities of gradient flow in training, as a link of an optax chain.

        track = gf.dynamics.track(loss_fn, every=50, learning_rate=0.1)
        tx = optax.chain(optax.sgd(0.1), track)
        updates, state = tx.update(grads, state, params, loss_args=(batch,))
        evolution = gf.dynamics.tracked(state, params)

    It leaves the updates as they are and evaluates `loss_fn(params, *loss_args)` in the
    second order, at the parameters before the step: two to three gradients more in a
    tracked step, or five with `jax.custom_vjp` in the loss, nothing in the others. Its
    memory is that of `capacity` samples: when it is full every other sample goes and
    the stride doubles, so that the samples lie evenly over the whole run, however long
    it gets. Hand over data that stay the same for curves of one loss; with each step's
    batch they are noisy. On the CPU, where convolutions are slow in a branch, use
    `Recorder` outside of the compiled step.

    Args:
        loss_fn: `loss_fn(params, *loss_args)`, a scalar, the mean over the data; or
            `gf.over_batches(loss_fn)`, whose batches, a list, are compiled one after
            the other.
        every: steps from one tracked step to the next, at the start.
        capacity: the most samples held, an even number.
        learning_rate: the time that a step takes, a number or an optax schedule
            `count -> value`: η under plain SGD and η/(1 − μ) with momentum μ; then it
            is the flow's. 1.0 counts steps. See `predicted_rates` for what has no
            such time.
        units: of the model, from `gf.find_units`; None leaves units out.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; the aux is
            discarded.

    Returns:
        A `GradientTransformationExtraArgs`. Its `update` takes `loss_args`, a tuple,
        by keyword; a chain hands it on, and so does `nnx.Optimizer.update`.

    Raises:
        ValueError: if `every` or `capacity` is not a whole number above 0, `capacity`
            is odd, or a learning rate is negative or not finite; at `update`, if params
            or `loss_args` are missing.
        TypeError: for a learning rate that is no number, or units that are none; at
            `init`, for parameters that are not real floating-point arrays; at
            `update`, if `loss_args` is not a tuple, the loss no scalar or a schedule
            returns none.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w, scale: jnp.sum(scale * w**2) / 2
        >>> tracker = gf.dynamics.track(loss_fn, every=2, learning_rate=0.5)
        >>> tx = optax.chain(optax.sgd(0.5), tracker)
        >>> w, scale = jnp.array([4.0]), jnp.array([1.0])
        >>> state = tx.init(w)
        >>> for _ in range(4):
        ...     grads = jax.grad(loss_fn)(w, scale)
        ...     updates, state = tx.update(grads, state, w, loss_args=(scale,))
        ...     w = optax.apply_updates(w, updates)
        >>> evolution = gf.dynamics.tracked(state, w)
        >>> evolution.times.tolist(), evolution.loss.tolist()
        ([0.0, 1.0], [8.0, 0.5])
    """
    every, capacity = checked_sizes(every, capacity)
    check_learning_rate(learning_rate)
    check_units(units, optional=True)
    take_sample = drop_aux(
        evaluate_then(
            partial(loss_and_products, units), loss_fn, order=2, has_aux=has_aux
        ),
        has_aux,
    )

    def init(params: Params) -> TrackState:
        check_floating(params, "params")
        dtype = jnp.result_type(*map(widen, jax.tree.leaves(params)))
        sets = len(jax.tree.leaves(params))
        sets += sum(family.size for family in units or ())
        whole_numbers = partial(jnp.zeros, dtype=jnp.int32)
        return TrackState(
            step_count=whole_numbers(()),
            time=jnp.zeros((), dtype),
            lost=jnp.zeros((), dtype),
            stride=jnp.full((), every, jnp.int32),
            size=whole_numbers(()),
            steps=whole_numbers(capacity),
            times=jnp.zeros(capacity, dtype),
            loss=jnp.zeros(capacity, dtype),
            products=jnp.zeros((capacity, len(Products._fields), sets), dtype),
        )

    def record(state: TrackState, params: Params, loss_args: Any) -> TrackState:
        loss, products = take_sample(params, *loss_args)
        full = state.size == capacity
        # Of full arrays the samples 0, 2, 4, … move to the first half. The second half
        # repeats them, and is overwritten from `size` on.
        order = jnp.where(
            full, jnp.arange(capacity) * 2 % capacity, jnp.arange(capacity)
        )
        size = jnp.where(full, capacity // 2, state.size)

        def append(held: jax.Array, entry: Any) -> jax.Array:
            return held[order].at[size].set(entry.astype(held.dtype))

        return state._replace(
            stride=jnp.where(full, 2 * state.stride, state.stride),
            size=size + 1,
            steps=append(state.steps, state.step_count),
            times=append(state.times, state.time),
            loss=append(state.loss, loss),
            products=append(state.products, products),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: Params | None = None,
        *,
        loss_args: tuple[Any, ...] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TrackState]:
        del extra_args
        if params is None or loss_args is None:
            lacking = "params" if params is None else "loss_args"
            raise ValueError(
                f"track lacks {lacking}, of which it evaluates the loss: call "
                "tx.update(updates, state, params, loss_args=(batch,)), with all that "
                "the loss takes after params."
            )
        if not isinstance(loss_args, tuple):
            raise TypeError(
                f"loss_args is a {type(loss_args).__name__}: pass a tuple of what the "
                "loss takes after params, for one batch (batch,)."
            )
        due = state.step_count % state.stride == 0
        # The branch is compiled as a whole, so an iterator over batches becomes a list.
        held, _ = hold_arguments(loss_fn, loss_args, {})
        state = jax.lax.cond(due, record, lambda state, *_: state, state, params, held)
        rate = time_of_step(learning_rate, state.step_count)
        time, lost = add_compensated(state.time, state.lost, rate)
        step_count = state.step_count + 1
        return updates, state._replace(step_count=step_count, time=time, lost=lost)

    return optax.GradientTransformationExtraArgs(init, update)
