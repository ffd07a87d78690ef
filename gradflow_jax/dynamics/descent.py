"""Gradient descent, θ ← θ − η ∇L(θ): gradient flow by Euler's steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow_jax.dynamics.loss_calls import drop_aux, hold_arguments
from gradflow_jax.dynamics.options import check_positive
from gradflow_jax.dynamics.trajectory import Trajectory, check_rising
from gradflow_jax.scores.evaluation import differentiate
from gradflow_jax.scores.losses import LossFn, of_a_loss
from gradflow_jax.trees import Params, check_floating, check_number, widen


@of_a_loss("(params, steps, batch)")
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
        learning_rate: η, a positive number.
        target: the loss at which the descent stops; None lets it run.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; the aux is
            discarded.

    Returns:
        A function `(params, steps, *args, **kwargs) -> Trajectory`, compiled once for
        any steps of one number. `steps`: [time], whole numbers of steps made,
        increasing, not negative; the trajectory's times are η times them.

    Raises:
        TypeError: for a learning rate or a target that is no real number; at the
            call, for steps that are no whole numbers, parameters that are not real
            floating-point arrays or a loss that is not a scalar.
        ValueError: for a learning rate that is not positive, or a number that is not
            finite; at the call, for steps that do not rise from 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> descend = gf.dynamics.gradient_descent(lambda w: jnp.sum(w**2) / 2, 0.5)
        >>> run = descend(jnp.array([4.0]), [0, 1, 3])
        >>> run.times.tolist(), run.params.tolist()
        ([0.0, 0.5, 1.5], [[4.0], [2.0], [0.5]])
    """
    check_positive(learning_rate, "learning_rate")
    if target is not None:
        check_number(target, "target")
    differentiated = differentiate(loss_fn, order=1, has_aux=has_aux)
    derivatives = drop_aux(differentiated, has_aux)

    def take_step(leaf: jax.Array, slope: jax.Array) -> jax.Array:
        return leaf - learning_rate * slope

    @jax.jit
    def solve(params: Params, steps: jax.Array, loss_inputs: Any) -> Trajectory:
        args, kwargs = loss_inputs

        # A state is (steps made, θ, ∇L(θ), L(θ)): the gradient at θ is computed once,
        # for the loss that is saved and for the step that follows.
        def state_at(done: jax.Array, params: Params) -> Any:
            d = derivatives(params, *args, **kwargs)
            return done, params, d.gradient, d.loss

        def meets_target(loss: jax.Array) -> jax.Array:
            return jnp.zeros((), bool) if target is None else loss <= target

        def advance_to(state: Any, step: jax.Array) -> Any:
            def goes_on(state: Any) -> jax.Array:
                done, _, _, loss = state
                return (done < step) & ~meets_target(loss)

            def descend(state: Any) -> Any:
                done, params, slopes, _ = state
                return state_at(done + 1, jax.tree.map(take_step, params, slopes))

            state = jax.lax.while_loop(goes_on, descend, state)
            done, params, _, loss = state
            return state, (done, params, loss)

        start = state_at(jnp.zeros((), steps.dtype), jax.tree.map(widen, params))
        final_state, saved = jax.lax.scan(advance_to, start, steps)
        done, _, _, loss = final_state
        counts, states, losses = saved
        times = learning_rate * counts.astype(losses.dtype)
        end = learning_rate * done.astype(losses.dtype)
        reached = jnp.where(meets_target(loss), end, jnp.inf)
        return Trajectory(times, states, losses, reached)

    def descent(params: Params, steps: Any, /, *args: Any, **kwargs: Any) -> Trajectory:
        check_floating(params, "params")
        steps = check_rising(steps, "steps")
        if not jnp.issubdtype(steps.dtype, jnp.integer):
            raise TypeError(
                f"steps are {steps.dtype}: pass the numbers of steps after which the "
                "model is wanted, whole numbers."
            )
        return solve(params, jnp.asarray(steps), hold_arguments(loss_fn, args, kwargs))

    return descent
