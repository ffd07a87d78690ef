"""Recording from outside of the step, in the loops of linen and NNX."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradflow_jax as gf
from gradflow_jax import dynamics
from tests.dynamics.small_models import Counted

X = jnp.asarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2))


def assert_close(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_loop_of_linen_and_optax():
    model = nn.Dense(3)
    params = model.init(jax.random.key(0), X)["params"]
    loss = Counted(lambda p, x: jnp.mean(model.apply({"params": p}, x) ** 2))
    record = dynamics.Recorder(loss, every=2, learning_rate=0.1)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1))
    gradient = jax.jit(jax.grad(loss.loss))
    traces = set()
    for _ in range(5):
        record(state.params, X)
        traces.add(loss.traces)
        state = state.apply_gradients(grads=gradient(state.params, X))
    assert len(traces) == 1
    run = dynamics.gradient_descent(loss.loss, 0.1)(params, [0, 2, 4], X)
    assert_close(record.evolution(), dynamics.follow(loss.loss)(run, X))
    assert list(record.evolution().leaves) == ["bias", "kernel"]


def test_a_loop_of_nnx():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graphdef, params, other_state = nnx.split(model, nnx.Param, ...)

    def loss(params, x):
        return jnp.mean(nnx.merge(graphdef, params, other_state)(x) ** 2)

    # Before the model moves, whose variables these are.
    run = dynamics.gradient_descent(loss, 0.1)(params, range(3), X)
    rate = optax.constant_schedule(0.1)
    record = dynamics.Recorder(loss, learning_rate=rate)
    record_module = dynamics.Recorder(
        lambda model, x: jnp.mean(model(x) ** 2), learning_rate=rate
    )
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    for _ in range(3):
        record(nnx.state(model, nnx.Param), X)
        record_module(model, X)
        grads = nnx.grad(lambda model: jnp.mean(model(X) ** 2))(model)
        optimizer.update(model, grads)
    assert_close(record.evolution(), dynamics.follow(loss)(run, X))
    assert_close(record_module.evolution(), record.evolution())
    assert list(record_module.evolution().leaves) == ["bias", "kernel"]


def test_it_records_what_is_tracked_and_thins_as_it_does():
    def loss(w, x):
        return jnp.sum((w * x) ** 2), None

    options = {"every": 2, "capacity": 4, "learning_rate": 0.5, "has_aux": True}
    record, tx = dynamics.Recorder(loss, **options), gf.dynamics.track(loss, **options)
    state = tx.init(X[0])
    update = jax.jit(lambda state, w, x: tx.update(w, state, w, loss_args=(x,))[1])
    for step in range(21):
        w = X[step % 6]
        record(w, X[1])
        state = update(state, w, X[1])
    evolution = record.evolution()
    assert evolution.times.tolist() == [0.0, 4.0, 8.0]
    assert_close(evolution, dynamics.tracked(state, X[0]))


def test_over_batches():
    loss = gf.over_batches(lambda w, x: jnp.mean((w * x) ** 2))
    record = dynamics.Recorder(loss)
    record(jnp.array([2.0]), [jnp.array([1.0, 2.0]), jnp.array([3.0])])
    np.testing.assert_allclose(record.evolution().loss, [4 * 14 / 3], rtol=1e-6)


@pytest.mark.parametrize("has_aux", [1, "True", np.ones(2), None])
def test_has_aux_is_true_or_false(has_aux):
    for make in (dynamics.Recorder, dynamics.follow, dynamics.track):
        with pytest.raises(TypeError, match="^has_aux is .*: pass True or False"):
            make(jnp.sum, has_aux=has_aux)


def test_without_samples_there_is_no_evolution():
    with pytest.raises(ValueError, match="nothing was recorded yet: call it with"):
        dynamics.Recorder(jnp.sum).evolution()
