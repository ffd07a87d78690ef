"""Predicted and measured rates, along the flows of three networks and of samples."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow_jax import dynamics
from gradflow_jax.trees import named_leaves
from tests.dynamics.small_models import each_problem, problem, run_of

pytestmark = pytest.mark.usefixtures("float64")


def assert_agree(measured, predicted):
    """To 1e-4 of what a rate is at most, at the times with neighbors on both sides.

    A weight without a gradient, such as the bias of the keys, has rates of 0, which
    are measured to rounding.
    """
    scale = np.abs(predicted).max(0)
    error = np.abs(measured - predicted)[2:-2]
    assert (error <= 1e-4 * scale + 1e-9).all(), (error.max(0) / scale).max()


@each_problem
def test_rates_are_as_predicted(name):
    """Of the model, of each leaf and of each unit."""
    (_, evolution), small_model = run_of(name), problem(name)
    predicted = dynamics.predicted_rates(evolution)
    measured = dynamics.measured_rates(evolution)
    assert list(predicted.leaves) == [
        path for path, _ in named_leaves(small_model.params)
    ]
    sizes = {family: rates.g2.shape[1] for family, rates in predicted.units.items()}
    assert sizes == {family.name: family.size for family in small_model.units} != {}
    jax.tree.map(assert_agree, measured, predicted)


def evolution_of(times, values):
    values = dynamics.Products(*[np.asarray(values)] * 5)
    return dynamics.Evolution(np.asarray(times), values.g2, values, {}, {"f": values})


def test_measured_rates_are_exact_for_polynomials_at_any_times():
    times = np.array([0.0, 0.1, 0.15, 1.0, 1e3, 1001.0, 1002.5])
    measured = dynamics.measured_rates(evolution_of(times, times**4 - 3 * times**2))
    np.testing.assert_allclose(measured.loss, 4 * times**3 - 6 * times, 1e-9, 1e-9)
    second = 12 * times**2 - 6
    np.testing.assert_allclose(measured.model.theta2_second, second, 1e-7, 1e-9)
    columns = times[:, None] * np.array([1.0, 2.0])
    rates = dynamics.measured_rates(evolution_of(times, columns)).units["f"]
    np.testing.assert_allclose(rates.g2, np.tile([1.0, 2.0], (7, 1)), rtol=1e-9)


def test_three_samples_are_the_least():
    measured = dynamics.measured_rates(evolution_of([0.0, 1.0, 2.0], [0.0, 1.0, 4.0]))
    np.testing.assert_allclose(measured.model.theta2, [0, 2, 4], atol=1e-12)
    np.testing.assert_allclose(measured.model.theta2_second, 2)
    for count, message in ((1, "has 1 sample:"), (2, "has 2 samples: a second")):
        with pytest.raises(ValueError, match=re.escape(message)):
            dynamics.measured_rates(evolution_of(range(count), range(count)))


def test_a_run_of_large_steps_leaves_the_flow():
    """What the comparison is for: at ηλ = 0.2 the rates of descent are others."""

    def loss(w):
        return jnp.sum(w**2)

    errors = []
    for eta in (0.1, 0.01):
        run = dynamics.gradient_descent(loss, eta)(jnp.ones(1), range(7))
        evolution = dynamics.follow(loss)(run)
        measured = dynamics.measured_rates(evolution).loss
        predicted = dynamics.predicted_rates(evolution).loss
        errors.append(abs(measured / predicted - 1)[3])
    assert errors[0] > 0.05 and 5 < errors[0] / errors[1] < 20
