"""Gradient descent, θ ← θ − η ∇L(θ): gradient flow by Euler's steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.dynamics.trajectory import Trajectory, check_rising, held_batches
from gradflow_jax.scores.evaluation import differentiate
from gradflow_jax.scores.losses import LossFn
from gradflow_jax.trees import PyTree, check_floating, widen


def gradient_descent(
    loss_fn: LossFn,
    learning_rate: float,
    *,
    target: float | None = None,
    has_aux: bool = False,
) -> Callable[..., Trajectory]:
    """Descends on the whole data by steps of one length: the discrete gradient flow.

    A step is Euler's on dθ/dt = −∇L(θ) with Δt = η, so that step k is at time ηk and
    the distance to `gradient_flow` is of the order of η. It needs no diffrax. The
    steps are one compiled loop, in which XLA's CPU is slow at a convolution's gradient.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the data;
            or `gf.over_batches(loss_fn)`, whose batches are then all held at once and
            compiled one after the other: few and large ones.
        learning_rate: η, positive.
        target: the loss at which the descent stops; None lets it run.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; aux is left
            out.

    Returns:
        A function `(params, steps, *args, **kwargs) -> Trajectory`, compiled once for
        any steps of one number. `steps`: [time], whole numbers of steps made,
        increasing, not negative; the trajectory's times are η times them.

    Raises:
        TypeError: at the call, for steps that are no whole numbers, parameters that
            are not real floating-point arrays or a loss that is not a scalar.
        ValueError: for a learning rate that is not positive; at the call, for steps
            that do not rise from 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> descend = gf.dynamics.gradient_descent(lambda w: jnp.sum(w**2) / 2, 0.5)
        >>> run = descend(jnp.array([4.0]), [0, 1, 3])
        >>> run.times.tolist(), run.params.tolist()
        ([0.0, 0.5, 1.5], [[4.0], [2.0], [0.5]])
    """
    if not learning_rate > 0:
        raise ValueError(
            f"learning_rate is {learning_rate}: pass the positive length of a step."
        )
    gradient = differentiate(loss_fn, order=1, has_aux=has_aux)

    def moved(leaf: jax.Array, slope: jax.Array) -> jax.Array:
        return leaf - learning_rate * slope

    @jax.jit
    def solve(params: PyTree, steps: jax.Array, data: Any) -> Trajectory:
        args, kwargs = data

        def here(done: jax.Array, params: PyTree) -> Any:
            found = gradient(params, *args, **kwargs)
            found = found[0] if has_aux else found
            return done, params, found.gradient, found.loss

        def met(loss: jax.Array) -> jax.Array:
            return jnp.zeros((), bool) if target is None else loss <= target

        def until(state: Any, step: jax.Array) -> Any:
            def goes_on(state: Any) -> jax.Array:
                done, _, _, loss = state
                return (done < step) & ~met(loss)

            def descend(state: Any) -> Any:
                done, params, slopes, _ = state
                return here(done + 1, jax.tree.map(moved, params, slopes))

            state = jax.lax.while_loop(goes_on, descend, state)
            done, params, _, loss = state
            return state, (done, params, loss)

        start = here(jnp.zeros((), steps.dtype), jax.tree.map(widen, params))
        (done, _, _, loss), saved = jax.lax.scan(until, start, steps)
        counts, states, losses = saved
        times = learning_rate * counts.astype(losses.dtype)
        last = learning_rate * done.astype(losses.dtype)
        return Trajectory(times, states, losses, jnp.where(met(loss), last, jnp.inf))

    def descent(params: PyTree, steps: Any, /, *args: Any, **kwargs: Any) -> Trajectory:
        check_floating(params, "params")
        check_rising(steps, "steps")
        steps = steps if isinstance(steps, jax.Array) else np.asarray(steps)
        if not jnp.issubdtype(steps.dtype, jnp.integer):
            raise TypeError(
                f"steps are {steps.dtype}: pass the numbers of steps after which the "
                "model is wanted, whole numbers."
            )
        return solve(params, jnp.asarray(steps), (held_batches(loss_fn, args), kwargs))

    return descent
