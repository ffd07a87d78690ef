"""The products of θ, g and Hg tracked in training, in memory of one size."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradflow_jax.dynamics.evolution import Evolution, evolved, reading
from gradflow_jax.dynamics.inner_products import Products
from gradflow_jax.dynamics.trajectory import held_batches
from gradflow_jax.scores.evaluation import finished
from gradflow_jax.scores.losses import LossFn
from gradflow_jax.structured.units import Units
from gradflow_jax.trees import PyTree, check_floating, widen

LearningRate = float | Callable[[Any], Any]


class TrackState(NamedTuple):
    """The state of `track`; `tracked` reads it.

    Attributes:
        seen: how many steps.
        time: the sum of their learning rates.
        stride: steps from one sample to the next.
        size: samples held.
        steps: [capacity], the steps before which they were taken.
        times: [capacity].
        loss: [capacity].
        products: [capacity, product, set].
    """

    seen: jax.Array
    time: jax.Array
    stride: jax.Array
    size: jax.Array
    steps: jax.Array
    times: jax.Array
    loss: jax.Array
    products: jax.Array


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

    It leaves the updates as they are and evaluates `loss_fn(params, *loss_args)` in
    the second order, at the parameters before the step: two to three gradients more in
    a tracked step, nothing in the others. Its memory is that of `capacity` samples:
    when it is full every other sample goes and the stride doubles, so that the
    samples lie evenly over the whole run, however long it gets. Hand over data that
    stay the same for curves of one loss; with each step's batch they are noisy. On the
    CPU, where convolutions are slow in a branch, use `Recorder` outside of the
    compiled step.

    Args:
        loss_fn: `loss_fn(params, *loss_args)`, a scalar, the mean over the data; or
            `gf.over_batches(loss_fn)`, whose batches, a list, are compiled one after
            the other.
        every: steps from one tracked step to the next, at the start.
        capacity: the most samples held, an even number.
        learning_rate: the time that a step takes, a number or an optax schedule
            `count -> value`: under plain SGD the flow's. 1.0 counts steps.
        units: of the model, from `gf.find_units`; None leaves units out.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; aux is left
            out.

    Returns:
        A `GradientTransformationExtraArgs`. Its `update` takes `loss_args`, a tuple,
        by keyword; a chain hands it on, and so does `nnx.Optimizer.update`.

    Raises:
        ValueError: if `every` or `capacity` is not a whole number above 0, or
            `capacity` is odd; at `update`, if params or `loss_args` are missing.
        TypeError: at `init`, for parameters that are not real floating-point arrays;
            at `update`, if `loss_args` is not a tuple, or the loss no scalar.

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
    check_sizes(every, capacity)
    evaluate = finished(partial(reading, units), loss_fn, order=2, has_aux=has_aux)

    def init(params: PyTree) -> TrackState:
        check_floating(params, "params")
        dtype = jnp.result_type(*map(widen, jax.tree.leaves(params)))
        sets = len(jax.tree.leaves(params))
        sets += sum(family.size for family in units or ())
        number = partial(jnp.zeros, dtype=jnp.int32)
        return TrackState(
            seen=number(()),
            time=jnp.zeros((), dtype),
            stride=jnp.full((), every, jnp.int32),
            size=number(()),
            steps=number(capacity),
            times=jnp.zeros(capacity, dtype),
            loss=jnp.zeros(capacity, dtype),
            products=jnp.zeros((capacity, len(Products._fields), sets), dtype),
        )

    def record(state: TrackState, params: PyTree, loss_args: Any) -> TrackState:
        found = evaluate(params, *loss_args)
        loss, products = found[0] if has_aux else found
        full = state.size == capacity
        order = jnp.where(
            full, jnp.arange(capacity) * 2 % capacity, jnp.arange(capacity)
        )
        size = jnp.where(full, capacity // 2, state.size)

        def put(held: jax.Array, sample: Any) -> jax.Array:
            return held[order].at[size].set(sample.astype(held.dtype))

        return state._replace(
            stride=jnp.where(full, 2 * state.stride, state.stride),
            size=size + 1,
            steps=put(state.steps, state.seen),
            times=put(state.times, state.time),
            loss=put(state.loss, loss),
            products=put(state.products, products),
        )

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        loss_args: tuple[Any, ...] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, TrackState]:
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
        due = state.seen % state.stride == 0
        held = held_batches(loss_fn, loss_args)
        state = jax.lax.cond(due, record, lambda state, *_: state, state, params, held)
        seen = state.seen + 1
        if callable(learning_rate):
            time = state.time + learning_rate(state.seen)
        else:
            # Many small summands would add up their rounding.
            time = learning_rate * seen
        time = jnp.asarray(time, state.time.dtype)
        return updates, state._replace(seen=seen, time=time)

    return optax.GradientTransformationExtraArgs(init, update)


def tracked(
    opt_state: PyTree, params: PyTree, *, units: Units | None = None
) -> Evolution:
    """Returns what `track` has tracked so far.

    Args:
        opt_state: the optimizer's state, for Flax NNX `optimizer.opt_state`.
        params: the parameters, whose leaves lend their names.
        units: those that `track` was given.

    Returns:
        The evolution, each sample at the sum of the learning rates before it.

    Raises:
        ValueError: if the state holds no samples, or those of other params or units.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> tx = gf.dynamics.track(lambda w: jnp.sum(w**2))
        >>> w = jnp.array([3.0])
        >>> _, state = tx.update(w, tx.init(w), w, loss_args=())
        >>> gf.dynamics.tracked(state, w).loss.tolist()
        [9.0]
    """
    found = [
        # Flax NNX keeps each of a state's arrays in a variable.
        TrackState(*jax.tree.leaves(state))
        for state in jax.tree.leaves(
            opt_state, is_leaf=lambda node: isinstance(node, TrackState)
        )
        if isinstance(state, TrackState)
    ]
    if not found:
        raise ValueError(
            "opt_state holds no samples: make the optimizer by "
            "optax.chain(tx, gf.dynamics.track(loss_fn))."
        )
    state, count = found[0], int(found[0].size)
    sets = len(jax.tree.leaves(params)) + sum(family.size for family in units or ())
    if (held := state.products.shape[-1]) != sets:
        raise ValueError(
            f"the state holds samples of {held} leaves and units, but params and units "
            f"have {sets}: pass those that were tracked."
        )
    if not count:
        raise ValueError("nothing was tracked yet: call tx.update first.")
    readings = zip(state.loss[:count], state.products[:count], strict=True)
    return evolved(state.times[:count], list(readings), params, units)


def check_sizes(every: int, capacity: int) -> None:
    """Checks how often samples are taken and how many are held.

    Raises:
        ValueError: naming the option and what was found.
    """
    for name, value in (("every", every), ("capacity", capacity)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}: pass a whole number above 0.")
    if capacity % 2:
        raise ValueError(
            f"capacity is {capacity}: pass an even number, half of which stay when it "
            "is full."
        )
