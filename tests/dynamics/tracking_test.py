"""Tracking in training: the samples, their memory, and what an untracked step does."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow_jax as gf
from gradflow_jax import dynamics
from tests.dynamics.small_models import problem

W = {"w": jnp.array([4.0, -2.0]), "v": jnp.array([1.0])}
X = jnp.array([1.0, 0.5])


def loss_fn(params, x):
    return jnp.sum(x * params["w"] ** 2) / 2 + jnp.sum(params["v"] ** 4)


def train(tx, steps, loss=loss_fn, params=W, args=(X,)):
    """Returns what is left after steps compiled once, and the states between."""
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, args):
        traces.append(1)
        grads = jax.grad(loss)(params, *args)
        updates, state = tx.update(grads, state, params, loss_args=args)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.copy, params)
    state = tx.init(params)
    states = [jax.tree.map(np.array, state)]
    for _ in range(steps):
        params, state = step(params, state, args)
        states.append(jax.tree.map(np.array, state))
    assert len(traces) == 1
    return params, states


def assert_close(actual, expected, rtol=1e-5):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=1e-6)


def test_samples_are_those_of_the_run_followed(float64):
    """With units, under SGD, every other step."""
    mlp = problem("mlp")
    args = tuple(map(jnp.asarray, mlp.args))
    tracker = gf.dynamics.track(mlp.loss, every=2, learning_rate=0.1, units=mlp.units)
    tx = optax.chain(optax.sgd(0.1), tracker)
    params, states = train(tx, 7, mlp.loss, mlp.params, args)
    evolution = dynamics.tracked(states[-1], mlp.params, units=mlp.units)
    descend = dynamics.gradient_descent(mlp.loss, 0.1)
    run = descend(mlp.params, [0, 2, 4, 6, 7], *args)
    expected = dynamics.follow(mlp.loss, units=mlp.units)(run, *args)
    assert_close(evolution, jax.tree.map(lambda leaf: leaf[:-1], expected))
    assert_close(params, run.at(-1))


def test_a_full_buffer_is_thinned_so_that_the_run_stays_covered():
    tx = gf.dynamics.track(
        loss_fn, every=3, capacity=4, learning_rate=lambda count: 0.5 * count
    )
    _, states = train(optax.chain(optax.sgd(0.01), tx), 60)
    shapes = jax.tree.map(np.shape, states[0])
    taken = {0: [0.0]}
    for done, (_, state) in enumerate(states):
        assert jax.tree.map(np.shape, (optax.EmptyState(), state))[1] == shapes[1]
        stride, steps = int(state.stride), state.steps[: state.size].tolist()
        assert steps == list(range(0, done, stride)) and state.step_count == done
        taken[done] = steps
    assert stride == 24 and taken[60] == [0, 24, 48] and taken[12] == [0, 3, 6, 9]
    times = dynamics.tracked(states[-1], W).times
    assert times.tolist() == [0.5 * sum(range(step)) for step in taken[60]]


def test_steps_that_are_not_tracked_evaluate_nothing():
    ran = []

    def loss(params, x):
        jax.debug.callback(lambda: ran.append(1))
        return loss_fn(params, x)

    tx = gf.dynamics.track(loss, every=4)
    update = jax.jit(lambda state: tx.update(W, state, W, loss_args=(X,))[1])
    state, counts = tx.init(W), []
    for _ in range(6):
        ran.clear()
        state = update(state)
        jax.effects_barrier()
        counts.append(len(ran))
    assert counts[0] == counts[4] > 0 and counts[1:4] == [0, 0, 0] and not counts[5]


def test_updates_and_other_links_are_left_alone():
    masks = {"w": jnp.array([True, False]), "v": jnp.array([True])}
    plain = optax.chain(optax.adam(0.1), gf.apply_mask(masks))
    chained = optax.chain(
        gf.dynamics.track(loss_fn), optax.adam(0.1), gf.apply_mask(masks)
    )
    (params, _), (expected, _) = train(chained, 5), train(plain, 5)
    chex.assert_trees_all_equal(params, expected)
    assert params["w"][1] == 0


def test_in_float64_the_samples_are(float64):
    w = np.linspace(1, 2, 3)
    tx = gf.dynamics.track(lambda w: jnp.sum(w**3))
    _, state = tx.update(w, tx.init(w), w, loss_args=())
    evolution = dynamics.tracked(state, w)
    assert {leaf.dtype for leaf in jax.tree.leaves(evolution)} == {np.dtype("float64")}
    np.testing.assert_allclose(evolution.model.g_hg, [(54 * w**5).sum()], rtol=1e-14)


def test_in_an_nnx_optimizer():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graphdef, params, other_state = nnx.split(model, nnx.Param, ...)
    x = jnp.ones((4, 2))

    def loss(params, x):
        return jnp.mean(nnx.merge(graphdef, params, other_state)(x) ** 2)

    # Before the model moves, whose variables these are.
    run = dynamics.gradient_descent(loss, 0.1)(params, [0, 2], x)
    tx = optax.chain(
        optax.sgd(0.1), gf.dynamics.track(loss, every=2, learning_rate=0.1)
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
        optimizer.update(model, grads, loss_args=(x,))

    for _ in range(3):
        step(model, optimizer, x)
    evolution = dynamics.tracked(optimizer.opt_state, params)
    assert_close(evolution, dynamics.follow(loss)(run, x))
    assert list(evolution.leaves) == ["bias", "kernel"]


def test_over_batches_and_with_aux():
    def loss(w, x):
        return jnp.mean((w * x) ** 2), x

    tx, w = gf.dynamics.track(gf.over_batches(loss), has_aux=True), jnp.array([2.0])
    batches = [jnp.array([1.0, 2.0]), jnp.array([3.0])]
    _, state = tx.update(w, tx.init(w), w, loss_args=(batches,))
    np.testing.assert_allclose(dynamics.tracked(state, w).loss, [4 * 14 / 3], rtol=1e-6)


OPTIONS = {
    "every": ({"every": 0}, "every is 0: pass a whole number above 0, and"),
    "part": ({"every": 0.5}, "every is 0.5: pass a whole number"),
    "none": ({"capacity": True}, "capacity is True: pass a whole number"),
    "odd": ({"capacity": 5}, "capacity is 5: pass an even number"),
}


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("maker", [gf.dynamics.track, dynamics.Recorder])
def test_bad_sizes_are_refused(maker, case):
    options, message = OPTIONS[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        maker(loss_fn, **options)


def test_sizes_of_numpy_are_sizes():
    tx = gf.dynamics.track(loss_fn, every=np.int64(3), capacity=np.uint8(4))
    _, states = train(tx, 7)
    assert states[-1].steps[:3].tolist() == [0, 3, 6]


@pytest.mark.parametrize("units", [{}, "units", lambda: None])
def test_units_that_are_none_are_refused(units):
    for call in (
        lambda: gf.dynamics.track(loss_fn, units=units),
        lambda: dynamics.Recorder(loss_fn, units=units),
        lambda: dynamics.follow(loss_fn, units=units),
        lambda: dynamics.tracked(optax.EmptyState(), W, units=units),
    ):
        with pytest.raises(TypeError, match="units is a .*, not what gf.find_units"):
            call()


def test_an_update_says_what_it_lacks():
    tx = gf.dynamics.track(loss_fn)
    state = tx.init(W)
    with pytest.raises(ValueError, match="track lacks loss_args, of which"):
        tx.update(W, state, W)
    with pytest.raises(ValueError, match="track lacks params, of which"):
        tx.update(W, state, loss_args=(X,))
    with pytest.raises(TypeError, match=r"loss_args is a ArrayImpl: pass a tuple"):
        tx.update(W, state, W, loss_args=X)
    with pytest.raises(TypeError, match="params leaf 'w' is int32"):
        tx.init({"w": jnp.arange(2)})


def test_states_that_hold_no_samples_of_these_params_are_refused():
    with pytest.raises(ValueError, match="opt_state holds no samples: make the"):
        dynamics.tracked(optax.sgd(0.1).init(W), W)
    tx = gf.dynamics.track(loss_fn)
    state = tx.init(W)
    with pytest.raises(ValueError, match="nothing was tracked yet: call tx.update"):
        dynamics.tracked(state, W)
    message = "holds samples of 2 leaves and units, but params and units have 1"
    with pytest.raises(ValueError, match=message):
        dynamics.tracked(state, {"w": W["w"]})


def test_a_state_that_track_did_not_make_is_refused():
    tx = gf.dynamics.track(loss_fn)
    _, state = tx.update(W, tx.init(W), W, loss_args=(X,))
    keys, dates = jax.random.split(jax.random.key(0), 2), np.zeros((), "M8[D]")
    for field, value in (
        ("products", None), ("loss", 1.0), ("times", "now"), ("times", keys),
        ("size", keys[0]), ("time", dates),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="a TrackState that gf.dynamics.track did"):
            dynamics.tracked(state._replace(**{field: value}), W)
    with pytest.raises(TypeError, match="opt_state is traced by jax.jit or a like"):
        jax.jit(lambda state: dynamics.tracked(state, W).loss)(state)
