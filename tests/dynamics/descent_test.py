"""Gradient descent as optax's, and as gradient flow in the limit."""

import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow_jax.dynamics import convergence_order, gradient_descent
from tests.dynamics.small_models import (
    THETA,
    A,
    B,
    Counted,
    joined,
    quadratic,
    quadratic_flow,
    split,
)


def half_square(w):
    return jnp.sum(w**2) / 2


def test_it_is_sgd(float64):
    run = gradient_descent(quadratic, 0.1)(split(THETA), [0, 2, 5], A, B)
    tx, theta, states = optax.sgd(0.1), THETA, []
    state = tx.init(theta)
    for step in range(6):
        if step in (0, 2, 5):
            states.append(theta)
        updates, state = tx.update(A @ theta - B, state, theta)
        theta = optax.apply_updates(theta, updates)
    np.testing.assert_allclose(joined(run.params), states, rtol=1e-12)
    np.testing.assert_allclose(run.times, [0, 0.2, 0.5], rtol=1e-12)
    losses = [quadratic(split(theta), A, B) for theta in np.array(states)]
    np.testing.assert_allclose(run.loss, losses, rtol=1e-12)
    assert run.reached == jnp.inf


def test_its_distance_to_the_flow_is_of_the_order_of_the_step(float64):
    rates = 0.02 / 2 ** np.arange(4)
    ends = [
        joined(gradient_descent(quadratic, eta)(split(THETA), [n], A, B).at(0))
        for eta, n in zip(rates, 25 * 2 ** np.arange(4), strict=True)
    ]
    expected = quadratic_flow([0.5])[0]
    distances = np.linalg.norm(ends - expected, axis=1)
    assert abs(convergence_order(rates, distances, 0 * distances) - 1) < 0.05


def test_it_stops_at_the_first_step_that_meets_the_target():
    descend = gradient_descent(half_square, 0.5, target=1.0)
    run = descend(jnp.array([4.0]), [1, 3, 9])  # 4, 2, 1: the losses 8, 2, ½
    assert run.reached == 1.0 and run.times.tolist() == [0.5, 1.0, 1.0]
    assert run.params.tolist() == [[2.0], [1.0], [1.0]]
    assert descend(jnp.array([4.0]), [0, 1]).reached == jnp.inf
    assert descend(jnp.array([1.0]), [0, 1]).reached == 0


def test_new_steps_and_data_trace_nothing():
    loss = Counted(lambda w, x: (half_square(w * x), None))
    descend = gradient_descent(loss, 0.5, has_aux=True)
    descend(jnp.ones(1), [0, 1], jnp.ones(1))
    traces = loss.traces
    run = descend(2 * jnp.ones(1), [2, 30], 0.5 * jnp.ones(1))
    assert loss.traces == traces
    np.testing.assert_allclose(run.params[:, 0], 2 * 0.875 ** np.array([2, 30]), 1e-5)


def test_bad_steps_and_rates_are_refused():
    for rate, kind, message in (
        (-0.1, ValueError, "learning_rate is -0.1: pass a number above 0"),
        (0, ValueError, "learning_rate is 0: pass a number above 0"),
        (np.inf, ValueError, "learning_rate is inf: pass a finite number"),
        ("0.1", TypeError, "learning_rate is '0.1': pass real numbers"),
        (True, TypeError, "learning_rate is True: pass real numbers"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            gradient_descent(half_square, rate)
    with pytest.raises(ValueError, match="target is nan: pass a finite number."):
        gradient_descent(half_square, 0.1, target=np.nan)
    descend = gradient_descent(half_square, 0.1)
    for steps, kind, message in (
        ([0.5], TypeError, "steps are float64: pass the numbers of steps"),
        ([3, 1], ValueError, "steps is [3, 1]: the run starts at 0"),
        (np.array([3, 1], np.uint8), ValueError, "steps is [3, 1]: the run starts"),
        ("12", TypeError, "steps is '12': pass real numbers"),
        ([[0], [1, 2]], TypeError, "steps is list: pass real numbers"),
        (np.array(["2020-01-01"], "M8"), TypeError, "steps is datetime64[D]: pass"),
        (None, TypeError, "steps is None: pass real numbers"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            descend(jnp.ones(1), steps)
