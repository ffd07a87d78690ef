"""Gradient flow, dθ/dt = −∇L(θ), integrated to a tolerance by diffrax."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gradflow_jax.dynamics.loss_calls import drop_aux, hold_arguments
from gradflow_jax.dynamics.options import check_positive, checked_count
from gradflow_jax.dynamics.trajectory import Trajectory, check_rising
from gradflow_jax.masks.selection.placement import explicit_sharding
from gradflow_jax.scores.evaluation import differentiate
from gradflow_jax.scores.losses import LossFn, of_a_loss
from gradflow_jax.trees import (
    ArrayTree,
    Params,
    check_floating,
    check_number,
    is_traced,
    label,
    named_leaves,
    widen,
)

if TYPE_CHECKING:
    import diffrax


@of_a_loss("(params, times, batch)")
def gradient_flow(
    loss_fn: LossFn,
    *,
    target: float | None = None,
    solver: "diffrax.AbstractSolver | None" = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_steps: int = 10_000,
    has_aux: bool = False,
) -> Callable[..., Trajectory]:
    """Integrates dθ/dt = −∇L(θ) from the parameters given, at time 0.

    It is what gradient descent tends to as its learning rate goes to 0, and what the
    measures are about; `gradient_descent` is its discrete twin. It needs diffrax:
    `pip install 'gradflow-jax[flow]'`. The integration is one compiled loop, in which
    XLA's CPU is slow at a convolution's gradient. The trap: curvature. The explicit
    solvers take steps of about 2/λ, with λ the largest eigenvalue of the Hessian,
    however slowly the loss still falls; for long flows pass `diffrax.Kvaerno5()`.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, a scalar, the mean over the data;
            or `gf.over_batches(loss_fn)`, whose batches are then all held at once and
            compiled one after the other: few and large ones.
        target: the loss at which the flow stops; None lets it run.
        solver: of diffrax; None is `diffrax.Tsit5()`.
        rtol: the relative error of the weights in each step.
        atol: the absolute one, for weights near 0. In float32 below 1e-8 it is
            rounding that is measured, and steps become tiny.
        max_steps: after which it is given up.
        has_aux: whether the loss returns `(loss, aux)`, as in `jax.grad`; the aux is
            discarded.

    Returns:
        A function `(params, times, *args, **kwargs) -> Trajectory`, compiled once for
        any times of one number. `times`: [time], increasing, not negative.

    Raises:
        ModuleNotFoundError: if diffrax is not installed.
        TypeError: for a solver that is none, or a tolerance or target that is no real
            number; at the call, for times that are no real numbers, params that are not
            real floating-point arrays or lie on explicit axes of a mesh, or a loss that
            is not a scalar.
        ValueError: for a tolerance that is not positive, or `max_steps` that is no
            whole number above 0; at the call, for times that do not rise from 0.
        RuntimeError: at the call, if the flow did not arrive in `max_steps`. Inside
            your own `jax.jit` nothing is raised and what was not reached is inf.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradflow_jax as gf
        >>> loss_fn = lambda w: jnp.sum(w**2) / 2  # w(t) = w(0)·e⁻ᵗ
        >>> flow = gf.dynamics.gradient_flow(loss_fn)
        >>> run = flow(jnp.array([1.0, -2.0]), [0.0, 1.0])
        >>> print(run.params[1], run.loss[1])
        [ 0.367... -0.735...] 0.338...
        >>> halved = gf.dynamics.gradient_flow(loss_fn, target=1.25)
        >>> print(halved(jnp.array([1.0, -2.0]), [9.0]).reached.round(4))  # ln(2) / 2
        0.3466

    Reference:
        Kidger, On Neural Differential Equations, 2021 (diffrax); Lubana & Dick, ICLR
        2021, for the view of pruning.
    """
    diffrax, optimistix = _import_libraries()
    solver = diffrax.Tsit5() if solver is None else solver
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(
            f"solver is {solver!r}: pass a solver of diffrax, such as "
            "diffrax.Kvaerno5(), or None."
        )
    check_positive(rtol, "rtol")
    check_positive(atol, "atol")
    max_steps = checked_count(max_steps, "max_steps")
    if target is not None:
        check_number(target, "target")
    differentiated = differentiate(loss_fn, order=1, has_aux=has_aux)
    evaluate = drop_aux(differentiated, has_aux)

    def derivatives(params: Params, loss_inputs: Any) -> Any:
        args, kwargs = loss_inputs
        return evaluate(params, *args, **kwargs)

    def velocity(t: Any, params: Params, loss_inputs: Any) -> ArrayTree:
        return jax.tree.map(jnp.negative, derivatives(params, loss_inputs).gradient)

    # diffrax passes the arguments of an event's condition by keyword, and stops where
    # its sign changes.
    def gap(t: Any, y: ArrayTree, args: Any, **kwargs: Any) -> jax.Array:
        return derivatives(y, args).loss - target

    event = None
    if target is not None:
        locate = optimistix.Bisection(rtol, max(atol, rtol * abs(target)), flip=True)
        event = diffrax.Event(gap, locate, direction=False)

    def state_at(t: Any, params: Params, loss_inputs: Any) -> Any:
        return params, derivatives(params, loss_inputs).loss

    @jax.jit
    def solve(params: Params, times: jax.Array, loss_inputs: Any) -> Any:
        params = jax.tree.map(widen, params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        times = times.astype(dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            solver,
            t0=jnp.zeros((), dtype),
            t1=times[-1],
            dt0=None,
            y0=params,
            args=loss_inputs,
            saveat=diffrax.SaveAt(
                subs=[
                    diffrax.SubSaveAt(ts=times, fn=state_at),
                    diffrax.SubSaveAt(t1=True, fn=state_at),
                ]
            ),
            stepsize_controller=diffrax.PIDController(rtol, atol),
            event=event,
            max_steps=max_steps,
            throw=False,
        )
        # The first of two savings is at the times asked for, the second at the end.
        saved_times, end_times = solution.ts
        states, final = solution.ys
        stopped = jnp.zeros((), bool)
        if target is not None:
            # A flow that starts at or below the target crosses no zero of the gap, so
            # diffrax runs it on: its start is its end.
            loss = derivatives(params, loss_inputs).loss
            start = jnp.zeros_like(end_times), (params, loss)
            starts_below = loss <= target
            # The mask of the event decides, not the solution's result: in float32 a
            # root may be as close as it gets and yet not within the tolerance.
            stopped = starts_below | solution.event_mask
            end_times, final = jax.tree.map(
                lambda at_start, at_end: jnp.where(starts_below, at_start, at_end),
                start,
                (end_times, final),
            )
        # diffrax leaves inf at times after the event, where the flow stands still.
        after = stopped & (times > end_times[0])

        def stand_still(saved: jax.Array, final: jax.Array) -> jax.Array:
            # The mask [time] is broadcast over a leaf's own axes, [time, ...].
            late = after.reshape(-1, *[1] * (saved.ndim - 1))
            return jnp.where(late, final, saved)

        params, loss = jax.tree.map(stand_still, states, final)
        reached = jnp.where(stopped, end_times[0], jnp.inf)
        run = Trajectory(stand_still(saved_times, end_times), params, loss, reached)
        arrived = stopped | (solution.result == diffrax.RESULTS.successful)
        return run, arrived, end_times[0]

    def flow(params: Params, times: Any, /, *args: Any, **kwargs: Any) -> Trajectory:
        check_floating(params, "params")
        for path, leaf in named_leaves(params):
            if explicit_sharding(leaf) is not None:
                raise TypeError(
                    f"params {label(path)} lies on explicit axes of a mesh, which "
                    "diffrax's loops do not keep: put params on a mesh of automatic "
                    "axes (AxisType.Auto), or descend by gradient_descent."
                )
        times = check_rising(times, "times")
        loss_inputs = hold_arguments(loss_fn, args, kwargs)
        run, arrived, end = solve(params, jnp.asarray(times), loss_inputs)
        if not is_traced(arrived) and not arrived:
            raise RuntimeError(
                f"the flow came to t = {float(end):g} of {float(times[-1]):g} in "
                f"max_steps={max_steps}: allow more, ask for less accuracy by rtol "
                "and atol, or pass solver=diffrax.Kvaerno5(), which takes long steps "
                "on stiff losses. A loss that is not finite ends here too."
            )
        return run

    return flow


def _import_libraries() -> Any:
    """Returns diffrax and optimistix, which only a flow needs."""
    try:
        import diffrax
        import optimistix
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "integrating gradient flow needs diffrax: pip install 'gradflow-jax[flow]'."
        ) from error
    return diffrax, optimistix
