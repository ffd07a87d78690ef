"""Gradient flow against closed forms, its target, and what it refuses."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax import dynamics
from tests.dynamics.small_models import (
    THETA,
    A,
    B,
    Counted,
    each_problem,
    joined,
    quadratic,
    quadratic_flow,
    run_of,
    split,
)

TIMES = np.array([0.0, 0.3, 1.0, 2.5])


def norm2(tree):
    return sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))


def half_square(w):
    """Of which the flow is w₀·e⁻ᵗ."""
    return jnp.sum(w**2) / 2


def test_a_quadratic_flows_as_its_closed_form(float64):
    run = gf.dynamics.gradient_flow(quadratic, rtol=1e-10, atol=1e-12)(
        split(THETA), TIMES, A, B
    )
    expected = quadratic_flow(TIMES)
    np.testing.assert_allclose(joined(run.params), expected, rtol=1e-8, atol=1e-10)
    losses = [quadratic(split(theta), A, B) for theta in expected]
    np.testing.assert_allclose(run.loss, losses, rtol=1e-8)
    assert run.times.tolist() == TIMES.tolist() and run.reached == jnp.inf
    np.testing.assert_array_equal(joined(run.at(2)), joined(run.params)[2])


def test_in_float32():
    flow = gf.dynamics.gradient_flow(quadratic)
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), split(THETA))
    data = jnp.float32(A), jnp.float32(B)
    run = flow(start, TIMES, *data)
    assert {leaf.dtype for leaf in jax.tree.leaves(run)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(joined(run.params), quadratic_flow(TIMES), 1e-4, 1e-5)


def test_bfloat16_flows_in_float32():
    run = gf.dynamics.gradient_flow(half_square)(jnp.ones(2, jnp.bfloat16), [0.0, 1.0])
    assert run.params.dtype == jnp.float32
    np.testing.assert_allclose(run.params[1], np.exp(-1), rtol=1e-4)


@each_problem
def test_the_distance_travelled_is_bounded_by_the_loss_gained(float64, name):
    trajectory, evolution = run_of(name)
    np.testing.assert_allclose(trajectory.loss, evolution.loss, rtol=1e-12)
    for i, t in enumerate(trajectory.times[1:], 1):
        params, start = trajectory.at(i), trajectory.at(0)
        distance = norm2(jax.tree.map(jnp.subtract, params, start))
        assert 0 < distance <= t * (trajectory.loss[0] - trajectory.loss[i])


def test_the_flow_stops_where_the_target_is_met(float64):
    flow = gf.dynamics.gradient_flow(half_square, target=0.5, rtol=1e-10, atol=1e-12)
    run = flow(jnp.array([2.0]), [0.0, 0.5, 1.0, 4.0])
    met = np.log(2)  # 2·e⁻ᵗ = 1
    np.testing.assert_allclose(run.reached, met, rtol=1e-8)
    np.testing.assert_allclose(run.times, [0, 0.5, met, met], rtol=1e-8)
    np.testing.assert_allclose(run.params[:, 0], 2 * np.exp(-run.times), rtol=1e-8)
    np.testing.assert_allclose(run.loss, run.params[:, 0] ** 2 / 2, rtol=1e-12)
    assert dynamics.follow(half_square)(run).times.tolist() == run.times[:3].tolist()
    assert flow(jnp.array([2.0]), [0.0, 0.1, 0.2, 0.3]).reached == jnp.inf
    at_once = flow(jnp.array([0.5]), [0.0, 0.5, 1.0, 4.0])
    assert at_once.reached == 0 and at_once.times.tolist() == [0.0] * 4
    assert at_once.params.tolist() == [[0.5]] * 4


def test_new_times_and_data_trace_nothing():
    loss = Counted(lambda w, x: half_square(w * x))
    flow, w, x = gf.dynamics.gradient_flow(loss), jnp.ones(2), jnp.ones(2)
    flow(w, [0.0, 1.0], x)
    traces = loss.traces
    flow(2 * w, [0.5, 3.0], 2 * x)
    assert loss.traces == traces


def test_over_batches_it_is_the_flow_of_the_mean_loss(float64):
    def loss(w, x):
        return jnp.mean((w * x - 1) ** 2)

    w, x = jnp.array([0.3, -0.2]), jnp.asarray(np.linspace(0, 1, 12).reshape(6, 2))
    whole = gf.dynamics.gradient_flow(loss)(w, TIMES, x)
    flow = gf.dynamics.gradient_flow(gf.over_batches(loss))
    for batches in ([x[:4], x[4:]], lambda: iter([x[:4], x[4:]])):
        run = flow(w, TIMES, batches)
        np.testing.assert_allclose(run.params, whole.params, rtol=1e-6)
        np.testing.assert_allclose(run.loss, whole.loss, rtol=1e-6)
    with pytest.raises(TypeError, match="batches is a single"):
        flow(w, TIMES, x)


def test_keywords_and_aux():
    def loss(w, *, scale):
        return half_square(w) * scale, jnp.zeros(3)

    run = gf.dynamics.gradient_flow(loss, has_aux=True)(
        jnp.ones(1), [1.0], scale=jnp.ones(())
    )
    np.testing.assert_allclose(run.params, [[np.exp(-1)]], rtol=1e-4)


STIFF = jnp.array([1.0, 1e5])


def stiff(w):
    return jnp.sum(STIFF * w**2) / 2


def test_a_flow_that_does_not_arrive_says_so():
    flow = gf.dynamics.gradient_flow(stiff, max_steps=50)
    with pytest.raises(RuntimeError, match=r"came to t = 0.0\d+ of 1 in max_steps=50"):
        flow(jnp.ones(2), [0.0, 1.0])
    inside = jax.jit(lambda w: flow(w, jnp.array([0.0, 1.0])))(jnp.ones(2))
    assert np.isinf(inside.params[1]).all() and inside.params[0].tolist() == [1, 1]


def test_a_stiff_flow_takes_another_solver(float64):
    import diffrax

    flow = gf.dynamics.gradient_flow(stiff, max_steps=200, solver=diffrax.Kvaerno5())
    run = flow(jnp.ones(2), [1.0])
    np.testing.assert_allclose(run.params, [[np.exp(-1), 0]], rtol=1e-5, atol=1e-7)


BAD_TIMES = {
    "none": ([], "times has shape (0,): pass a list of at least one number."),
    "a number": (1.0, "times has shape (): pass a list"),
    "back": ([0.0, 2.0, 1.0], "times is [0.0, 2.0, 1.0]: the run starts at 0"),
    "twice": ([1.0, 1.0], "times is [1.0, 1.0]"),
    "before": ([-1.0], "times is [-1.0]"),
    "nan": ([0.0, np.nan], "times is [0.0, nan]"),
}


@pytest.mark.parametrize("case", BAD_TIMES)
def test_times_that_do_not_rise_are_refused(case):
    times, message = BAD_TIMES[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        gf.dynamics.gradient_flow(half_square)(jnp.ones(1), times)


def test_options_that_are_no_numbers_are_refused():
    flow = gf.dynamics.gradient_flow
    for options, kind, message in (
        ({"solver": "Tsit5"}, TypeError, "solver is 'Tsit5': pass a solver of diffrax"),
        ({"rtol": 0.0}, ValueError, "rtol is 0.0: pass a number above 0."),
        ({"atol": None}, TypeError, "atol is None: pass real numbers."),
        ({"target": [1.0]}, TypeError, "target is list: pass one real number."),
        ({"max_steps": 0.5}, ValueError, "max_steps is 0.5: pass a whole number above"),
        (
            {"max_steps": 2**40},
            ValueError,
            "a whole number above 0, and below 2³¹",
        ),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            flow(half_square, **options)
    with pytest.raises(TypeError, match="times is list: pass real numbers"):
        flow(half_square)(jnp.ones(1), ["0", "1"])


def test_what_has_no_gradient_does_not_flow():
    with pytest.raises(TypeError, match="params leaf 'n' is int32.*; only floating"):
        gf.dynamics.gradient_flow(half_square)({"n": jnp.arange(2)}, [1.0])
    with pytest.raises(TypeError, match=r"the loss returned float32\[2\], not a scal"):
        gf.dynamics.gradient_flow(lambda w: w)(jnp.ones(2), [1.0])


def test_without_diffrax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ModuleNotFoundError, match=r"install 'gradflow-jax\[flow\]'"):
        gf.dynamics.gradient_flow(half_square)
