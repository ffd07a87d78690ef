"""The time of training: warm-ups, momentum, decay, and sums of many small terms."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow_jax import dynamics
from gradflow_jax.dynamics.clock import add_compensated, check_learning_rate

CURVATURE = np.array([1.0, 2.0, 3.0])
START = np.array([1.0, -2.0, 0.5])


def loss_fn(w):
    return jnp.sum(CURVATURE * w**2) / 2


@functools.cache
def make_step(tx, loss=loss_fn):
    @jax.jit
    def step(w, state):
        updates, state = tx.update(jax.grad(loss)(w), state, w, loss_args=())
        return optax.apply_updates(w, updates), state

    return step


def record(schedule, steps):
    """Returns the evolution of SGD as `track` has it and as `Recorder` has it."""
    recorder = dynamics.Recorder(loss_fn, learning_rate=schedule)
    tx = optax.chain(
        optax.sgd(schedule), dynamics.track(loss_fn, learning_rate=schedule)
    )
    w, state = jnp.asarray(START), tx.init(START)
    for _ in range(steps):
        recorder(w)
        w, state = make_step(tx)(w, state)
    return dynamics.tracked(state, START), recorder.evolution()


def ramp(*rates):
    """A schedule of these rates, the last of which stays."""
    return lambda count: jnp.asarray(rates)[jnp.minimum(count, len(rates) - 1)]


SCHEDULES = {
    "starts at 0": optax.warmup_cosine_decay_schedule(0.0, 0.01, 3, 30),
    "ends in 0": ramp(*[0.01] * 6, 0.0),
    "three times 0": ramp(0.0, 0.0, *[0.01] * 9),
    "returns to 0": ramp(*[0.01] * 4, 0.0, 0.0, *[0.01] * 4),
    "0 at every other step": lambda count: 0.01 * (count % 2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_where_no_time_passes_the_rates_are_those_of_the_point(name, float64):
    """As measured without the samples that stand still, by track and by Recorder."""
    for evolution in record(SCHEDULES[name], 12):
        assert (np.diff(evolution.times) == 0).any()
        moving = np.flatnonzero(np.diff(evolution.times, prepend=-1.0) > 0)
        point_of = np.cumsum(np.diff(evolution.times, prepend=-1.0) > 0) - 1
        once = jax.tree.map(lambda leaf, moving=moving: leaf[moving], evolution)
        expected = dynamics.measured_rates(once)
        measured = dynamics.measured_rates(evolution)
        jax.tree.map(
            lambda rate, of_points, point_of=point_of: np.testing.assert_array_equal(
                rate, of_points[point_of]
            ),
            measured,
            expected,
        )
        predicted = dynamics.predicted_rates(evolution).loss
        np.testing.assert_allclose(measured.loss, predicted, rtol=0.1)


def test_a_run_whose_time_stands_still_has_no_rates(float64):
    for evolution in record(lambda count: 0.0 * count, 4):
        rates = jax.tree.leaves(dynamics.measured_rates(evolution))
        assert np.isnan(np.concatenate(rates)).all()


def evolution_of(times, values):
    values = dynamics.Products(*[np.asarray(values, float)] * 5)
    return dynamics.Evolution(np.asarray(times, float), values.g2, values, {}, {})


NAN = np.nan
JUMPS = {
    # Left of the jump the values are t², right of it 5 − t.
    "two values at one time": (
        [0, 1, 2, 3, 3, 4, 5, 6],
        [0, 1, 4, 9, 2, 1, 0, -1],
        [0, 2, 4, 6, -1, -1, -1, -1],
        [2, 2, 2, 2, 0, 0, 0, 0],
    ),
    "the time goes back": (
        [0, 1, 2, 1, 2, 3],
        [0, 1, 4, 4, 3, 2],
        [0, 2, 4, -1, -1, -1],
        [2, 2, 2, 0, 0, 0],
    ),
    "it goes back at each step": ([3, 2, 1], [0, 1, 2], [NAN] * 3, [NAN] * 3),
    "two samples on one side": (
        [0, 1, 1, 2, 3],
        [0, 2, 0, 1, 4],
        [2, 2, 0, 2, 4],
        [NAN, NAN, 2, 2, 2],
    ),
    "a time that is no number": (
        [0, 1, NAN, 3, 4],
        [0, 1, 2, 3, 5],
        [1, 1, NAN, 2, 2],
        [NAN] * 5,
    ),
    "a time without end": ([0, 1, 2, np.inf], [0, 1, 4, 9], [0, 2, 4, NAN], None),
    "times that differ by less than offsets can": (
        [0, 1e-30, 1, 2],
        [0, 1e-30, 1, 2],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
    ),
}


@pytest.mark.parametrize("name", JUMPS)
def test_rates_on_the_sides_of_a_jump_are_one_sided(name):
    times, values, first, second = JUMPS[name]
    rates = dynamics.measured_rates(evolution_of(times, values))
    np.testing.assert_allclose(rates.loss, first, atol=1e-9)
    if second is not None:
        np.testing.assert_allclose(rates.model.theta2_second, second, atol=1e-9)


def test_a_loss_that_diverged_has_rates_before_it_did():
    rates = dynamics.measured_rates(evolution_of(range(8), [0, 1, 2, 3, 4, 5, 6, NAN]))
    np.testing.assert_allclose(rates.loss[:4], 1, atol=1e-9)
    assert np.isnan(rates.loss[5:]).all()


@pytest.mark.parametrize("rate", [1e-3, lambda count: 1e-3, ramp(1e-3)])
def test_a_million_steps_take_as_long_as_they_take(rate):
    """In float32, whose plain sum is 0.9 % short."""
    tx = dynamics.track(jnp.sum, every=500_000, capacity=4, learning_rate=rate)
    w = np.ones(1, np.float32)

    @jax.jit
    def run(state):
        def step(state, _):
            return tx.update(w, state, w, loss_args=())[1], None

        return jax.lax.scan(step, state, length=1_000_000)[0]

    state = run(tx.init(w))
    assert state.time.dtype == jnp.float32
    np.testing.assert_allclose(state.time, 1000, rtol=2e-7)
    np.testing.assert_allclose(dynamics.tracked(state, w).times, [0, 500], rtol=2e-7)


def test_a_compensated_sum_keeps_terms_that_are_small_beside_it():
    total, lost = jnp.float32(1e8), jnp.float32(0)
    for _ in range(100):
        total, lost = add_compensated(total, lost, 1.0)
    assert float(total) - float(lost) == 1e8 + 100


def time_ratio(tx, time_of_a_step, loss):
    """Returns by how much the loss of late steps falls faster than predicted."""
    track = dynamics.track(loss, learning_rate=time_of_a_step)
    tx = optax.chain(tx, track)
    w, state = jnp.asarray(START), tx.init(START)
    for _ in range(80):
        w, state = make_step(tx, loss)(w, state)
    evolution = dynamics.tracked(state, START)
    measured = dynamics.measured_rates(evolution).loss
    return (measured / dynamics.predicted_rates(evolution).loss)[60:-2].mean()


def with_decay(w):
    return loss_fn(w) + 0.5 * jnp.sum(w**2) / 2


# Curvature bends the path of momentum, by about ηλ/(1 − μ)².
OPTIMIZERS = {
    "momentum": (optax.sgd(1e-4, 0.9), 1e-4 / (1 - 0.9), loss_fn, 1.0),
    "Nesterov": (optax.sgd(1e-4, 0.9, nesterov=True), 1e-4 / (1 - 0.9), loss_fn, 1.0),
    "η alone": (optax.sgd(1e-4, 0.9), 1e-4, loss_fn, 10.0),
    "decay in the loss": (optax.sgd(1e-3), 1e-3, with_decay, 1.0),
    "decay in the optimizer": (
        optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1e-3)),
        1e-3,
        loss_fn,
        1.31,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_time_of_a_step_is_what_the_page_says(name, float64):
    *arguments, expected = OPTIMIZERS[name]
    np.testing.assert_allclose(time_ratio(*arguments), expected, rtol=0.05)


BAD_RATES = {
    "negative": (-0.1, ValueError, "learning_rate is -0.1: pass a finite number, 0 or"),
    "nan": (NAN, ValueError, "learning_rate is nan: pass a finite number, 0 or above"),
    "bool": (True, TypeError, "learning_rate is True: pass real numbers"),
    "none": (None, TypeError, "learning_rate is None: pass real numbers"),
    "text": ("0.1", TypeError, "learning_rate is '0.1': pass real numbers"),
    "several": ([0.1, 0.2], TypeError, "learning_rate is list: pass one real number"),
    "huge": (10**400, TypeError, "learning_rate is a number of more than 64 bits"),
}


@pytest.mark.parametrize("name", BAD_RATES)
@pytest.mark.parametrize("maker", [dynamics.track, dynamics.Recorder])
def test_times_of_a_step_that_are_none_are_refused(maker, name):
    rate, kind, message = BAD_RATES[name]
    with pytest.raises(kind, match=re.escape(message)):
        maker(loss_fn, learning_rate=rate)


@pytest.mark.parametrize("returned", [None, "0.1", np.ones(2), 1j])
def test_a_schedule_that_returns_no_number_is_refused(returned):
    message = r"learning_rate\(count\) returned .*: a schedule returns one real number"
    tx = dynamics.track(jnp.sum, learning_rate=lambda count: returned)
    w = np.ones(1, np.float32)
    with pytest.raises(TypeError, match=message):
        tx.update(w, tx.init(w), w, loss_args=())
    recorder = dynamics.Recorder(jnp.sum, learning_rate=lambda count: returned)
    with pytest.raises(TypeError, match=message):
        recorder(w)


def test_numbers_of_numpy_and_jax_are_numbers():
    for rate in (np.float32(0.1), np.int64(1), jnp.float32(0.1), 0, np.array(0.5)):
        check_learning_rate(rate)


def test_rates_are_asked_of_evolutions():
    for rates in (dynamics.measured_rates, dynamics.predicted_rates):
        with pytest.raises(TypeError, match="evolution is a dict: pass what gf.dynam"):
            rates({})
