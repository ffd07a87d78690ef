"""The products of θ, g and Hg: in closed form, of units, and two invariances."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax import dynamics
from tests.dynamics.small_models import (
    LABELS,
    POINTS,
    THETA,
    A,
    B,
    Counted,
    cross_entropy,
    drawn,
    problem,
    quadratic,
    quadratic_flow,
    run_of,
    split,
)

TIMES = np.array([0.0, 0.5, 1.0])


def trajectory_of(params):
    """Of one time."""
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
    return dynamics.Trajectory(jnp.zeros(1), stacked, jnp.zeros(1), jnp.inf)


def test_a_quadratic_in_closed_form(float64):
    run = gf.dynamics.gradient_flow(quadratic, rtol=1e-11, atol=1e-13)(
        split(THETA), TIMES, A, B
    )
    evolution = dynamics.follow(quadratic)(run, A, B)
    theta = quadratic_flow(TIMES)
    g = theta @ A - B
    hg = g @ A
    terms = [theta**2, g**2, theta * g, theta * hg, g * hg]
    for name, columns in (("a", np.s_[:, :2]), ("b", np.s_[:, 2:]), ("", np.s_[:, :])):
        sums = evolution.leaves[name] if name else evolution.model
        np.testing.assert_allclose(sums, [x[columns].sum(1) for x in terms], rtol=1e-8)
    assert evolution.times.tolist() == TIMES.tolist() and evolution.units == {}
    np.testing.assert_allclose(evolution.loss, run.loss, rtol=1e-12)


def test_all_sets_share_one_evaluation_of_the_second_order():
    """The loss is traced as often, and run as often, as by `gf.differentiate`."""
    ran = []

    def loss(params, a, b):
        jax.debug.callback(lambda: ran.append(1))
        return quadratic(params, a, b)

    def counts(call, times):
        counted = Counted(loss)
        function = call(counted)
        ran.clear()
        function()
        jax.effects_barrier()
        return counted.traces, len(ran) / times

    params = jax.tree.map(jnp.float32, split(THETA))
    data = jnp.float32(A), jnp.float32(B)
    run = dynamics.gradient_descent(quadratic, 0.1)(params, range(4), *data)
    alone = counts(lambda f: lambda: gf.differentiate(f)(params, *data), 1)
    follow = counts(lambda f: lambda: dynamics.follow(f)(run, *data), 4)
    assert follow == alone


def test_over_batches_the_evolution_is_that_of_the_mean_loss(float64):
    mlp = problem("mlp")
    run, expected = run_of("mlp")
    x, labels = mlp.args
    loss = gf.over_batches(lambda params, batch: mlp.loss(params, *batch))
    batches = [(x[:4], labels[:4]), (x[4:], labels[4:])]
    evolution = dynamics.follow(loss, units=mlp.units)(run, batches)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-9), evolution, expected
    )


def test_products_of_units_are_their_scores(float64):
    """Also of a leaf that makes the units by both of its axes."""

    def apply(params, x):
        x = x @ params["in"]
        x = x + jnp.tanh(x @ params["both"]) + jnp.tanh(x @ params["both"].T)
        return x @ params["out"]

    def loss(params, x, labels):
        return cross_entropy(apply(params, x), labels)

    params = {"in": drawn(5, 4), "both": drawn(4, 4), "out": drawn(4, 3)}
    units = gf.find_units(apply, params, POINTS)
    (family,) = units
    assert [part.path for part in family.producers].count("both") == 2
    d = gf.differentiate(loss)(params, POINTS, LABELS)
    follow = dynamics.follow(loss, units=units)
    products = follow(trajectory_of(params), POINTS, LABELS).units[family.name]

    def scores(measure):
        return gf.score_units(d, units, measure)[family.name]

    np.testing.assert_allclose(products.theta2[0], scores("magnitude") ** 2, rtol=1e-12)
    np.testing.assert_allclose(abs(products.theta_g[0]), scores("taylor"), rtol=1e-12)
    np.testing.assert_allclose(products.theta_hg[0], scores("grasp"), rtol=1e-12)


def test_layers_of_a_homogeneous_net_have_one_sum(float64):
    """ReLU, no bias, no norm: scaling one layer is scaling another."""

    def loss(kernels, x, labels):
        for kernel in kernels[:-1]:
            x = jax.nn.relu(x @ kernel)
        return cross_entropy(x @ kernels[-1], labels)

    kernels = [drawn(5, 6), drawn(6, 4), drawn(4, 3)]
    run = dynamics.gradient_descent(loss, 0.1)(kernels, [0, 3], POINTS, LABELS)
    evolution = dynamics.follow(loss)(run, POINTS, LABELS)
    sums = np.stack([layer.theta_g for layer in evolution.leaves.values()])
    np.testing.assert_allclose(sums - sums[:1], 0, atol=1e-8 * abs(sums).max())


def test_a_filter_under_train_mode_batch_norm_is_scale_invariant(float64):
    def apply(params, x):
        x = x @ params["kernel"]
        # No epsilon: it would break the invariance by a little.
        x = (x - x.mean(0)) / x.std(0)
        return jnp.tanh(params["scale"] * x) @ params["out"]

    def loss(params, x, labels):
        return cross_entropy(apply(params, x), labels)

    params = {"kernel": drawn(5, 4), "scale": 1 + drawn(4), "out": drawn(4, 3)}

    def in_eval_mode(params, x):
        return jnp.tanh(params["scale"] * (x @ params["kernel"])) @ params["out"]

    units = gf.find_units(in_eval_mode, params, POINTS)
    run = dynamics.gradient_descent(loss, 0.1)(params, [0, 3], POINTS, LABELS)
    products = dynamics.follow(loss, units=units)(run, POINTS, LABELS).units[
        "kernel[1]"
    ]
    np.testing.assert_allclose(products.theta_g, 0, atol=1e-8 * products.theta2.max())
    np.testing.assert_allclose(products.theta_hg, -products.g2, rtol=1e-8)


def test_units_of_another_model_are_refused(float64):
    mlp = problem("mlp")

    def refused(params, message):
        follow = dynamics.follow(lambda params: 0.0 * own_norm(params), units=mlp.units)
        with pytest.raises(ValueError, match=re.escape(message)):
            follow(trajectory_of(params))

    def own_norm(params):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

    wider = {"in": {"kernel": jnp.ones((5, 7)), "bias": jnp.ones(7)}}
    refused(wider, "params leaf 'in/bias' is float64[7], but the")
    refused({"out": {"kernel": jnp.ones((4, 3))}}, "params hold none of the leaves")


def test_aux_is_left_out():
    run = trajectory_of({"w": jnp.ones(2)})
    follow = dynamics.follow(lambda p, x: (jnp.sum(p["w"] * x), x), has_aux=True)
    assert follow(run, jnp.ones(2)).model.theta_g.tolist() == [2.0]


def test_what_is_no_trajectory_is_not_followed():
    follow = dynamics.follow(lambda params: jnp.sum(params["w"]))
    with pytest.raises(TypeError, match="trajectory is a dict: pass the run that gf.d"):
        follow({"w": jnp.ones(2)})


def test_a_trajectory_whose_leaves_have_other_times_is_refused():
    run = trajectory_of({"w": jnp.ones(2)})
    follow = dynamics.follow(lambda params: jnp.sum(params["w"]))
    with pytest.raises(ValueError, match=r"params leaf 'w' has shape \(3,\), but its"):
        follow(run._replace(params={"w": jnp.ones(3)}))
    with pytest.raises(TypeError, match="the trajectory's times is 'now': pass real"):
        follow(run._replace(times="now"))


PRODUCTS = dynamics.Products(*[np.arange(3.0)] * 5)
WHOLE = dynamics.Evolution(
    np.arange(3.0), np.arange(3.0), PRODUCTS, {}, {"f": PRODUCTS}
)
NOT_WHOLE = {
    "times": ({"times": None}, "the evolution's times is None: pass real numbers"),
    "loss": ({"loss": np.ones(2)}, "the evolution's loss has shape (2,), but its tim"),
    "one time": ({"times": 1.0}, "the evolution's loss has shape (3,), but its times"),
    "model": ({"model": {}}, "the evolution's model is a dict, and not gf.dynamics.P"),
    "units": ({"units": [PRODUCTS]}, "the evolution's units is a list: products by"),
    "g2": (
        {"units": {"f": PRODUCTS._replace(g2="g")}},
        "the evolution's units 'f'.g2 is 'g': pass real numbers",
    ),
}


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_an_evolution_whose_parts_do_not_fit_is_refused(case):
    fields, message = NOT_WHOLE[case]
    for rates in (dynamics.measured_rates, dynamics.predicted_rates):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            rates(WHOLE._replace(**fields))
