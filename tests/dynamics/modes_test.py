"""JAX's strict modes: no promotion of ranks or of dtypes, in the library's own code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow_jax as gf

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(2, 6, 2)).astype(np.float32)
MODES = {
    "ranks": {"jax_numpy_rank_promotion": "raise"},
    "dtypes": {"jax_numpy_dtype_promotion": "strict"},
    "both": {
        "jax_numpy_rank_promotion": "raise",
        "jax_numpy_dtype_promotion": "strict",
    },
}


@pytest.fixture(params=MODES)
def mode(request):
    """Runs a test in a strict mode."""
    before = {name: getattr(jax.config, name) for name in MODES[request.param]}
    for name, value in MODES[request.param].items():
        jax.config.update(name, value)
    yield request.param
    for name, value in before.items():
        jax.config.update(name, value)


def apply(params, x):
    # Parameters of two dtypes, as mixed precision has them.
    hidden = jnp.tanh(x @ params["in"].astype(jnp.float32))
    return hidden @ params["out"]


def loss(params, x, y):
    return jnp.mean((apply(params, x) - y) ** 2)


PARAMS = {
    "in": RNG.normal(size=(2, 3)).astype(jnp.bfloat16),
    "out": RNG.normal(size=(3, 2)).astype(np.float32),
}
MASKS = {name: np.asarray(leaf > 0) for name, leaf in PARAMS.items()}


def see_training():
    """Returns what each function of the room, and of those it feeds, finds."""
    units = gf.find_units(apply, PARAMS, X)
    # Optax's own schedules promote the count.
    options = {"learning_rate": lambda n: 0.1 - 0.01 * jnp.float32(n), "units": units}
    run = gf.dynamics.gradient_descent(loss, 0.1, target=0.0)(PARAMS, [0, 1, 3], X, Y)
    tx = optax.chain(optax.sgd(0.1), gf.dynamics.track(loss, capacity=2, **options))
    record = gf.dynamics.Recorder(loss, capacity=2, **options)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, X, Y)
        updates, state = tx.update(grads, state, params, loss_args=(X, Y))
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        record(params, X, Y)
        params, state = step(params, state)
    evolution = gf.dynamics.follow(loss, units=units)(run, X, Y)
    effects = gf.dynamics.removal_effects(loss, scales=(1, 0.5))(PARAMS, MASKS, X, Y)
    others = gf.loss_preservation(loss)(PARAMS, X, Y)
    scores = gf.magnitude(PARAMS)
    masks = PARAMS, MASKS, X
    report = gf.connectivity.effective_report(apply, *masks, units=units)
    return {
        "run": run,
        "evolution": evolution,
        "rates": gf.dynamics.measured_rates(evolution),
        "predicted": gf.dynamics.predicted_rates(evolution),
        "tracked": gf.dynamics.tracked(state, params, units=units),
        "recorded": record.evolution(),
        "effects": effects,
        "effective": gf.connectivity.effective_masks(apply, *masks),
        "report": [layer.kept for layer in report.effective.layers],
        "spearman": gf.scores.spearman(scores, others),
        "overlap": gf.scores.top_overlap(scores, others, sparsity=0.5),
        "inverted": gf.masks.invert_scores(scores),
        "shuffled": gf.masks.shuffle_masks(jax.random.key(0), MASKS),
        "labels": gf.masks.shuffle_labels(jax.random.key(0), np.arange(4)),
        "pixels": gf.masks.shuffle_pixels(jax.random.key(0), X),
    }


@pytest.fixture(scope="module")
def usual():
    return see_training()


@pytest.mark.models
def test_strict_modes_change_nothing(usual, mode):
    found = see_training()
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x, float), np.asarray(y, float), rtol=1e-5, atol=1e-6
        ),
        found,
        usual,
    )
