"""What removal does: in closed form, to its order, in three kinds of trees."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.dynamics import convergence_order
from tests.dynamics.small_models import (
    THETA,
    A,
    B,
    Counted,
    each_problem,
    joined,
    problem,
    quadratic,
    split,
)

MASKS = {"a": jnp.array([True, False]), "b": jnp.array([True, False, False])}
SCALES = (0.004, 0.002, 0.001)


def masks_of(params):
    """Of half of the weights, by chance."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.5), params)


def test_a_quadratic_in_closed_form(float64):
    effects = gf.dynamics.removal_effects(quadratic, scales=(1.0, 0.5))
    removal = effects(split(THETA), MASKS, A, B)
    scales = np.array([1.0, 0.5])
    g, r = A @ THETA - B, np.where(joined(MASKS), 0, THETA)

    def close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)

    close(removal.scales, scales)
    close(removal.loss_first, -scales * (r @ g))
    close(removal.loss_second, -scales * (r @ g) + scales**2 * (r @ A @ r) / 2)
    close(removal.loss, removal.loss_second)
    close(removal.gradient_norm_first, -2 * scales * (r @ A @ g))
    moved = g - scales[:, None] * (A @ r)
    close(removal.gradient_norm, (moved**2).sum(1) - g @ g)


@each_problem
def test_predictions_have_the_order_they_promise(float64, name):
    small_model = problem(name)
    masks = masks_of(small_model.params)
    effects = gf.dynamics.removal_effects(small_model.loss, scales=SCALES)
    removal = effects(small_model.params, masks, *small_model.args)
    orders = [
        (2, removal.loss_first, removal.loss),
        (3, removal.loss_second, removal.loss),
        (2, removal.gradient_norm_first, removal.gradient_norm),
    ]
    for order, predicted, measured in orders:
        assert abs(convergence_order(SCALES, predicted, measured) - order) < 0.1


def test_predictions_are_sums_of_scores(float64):
    mlp = problem("mlp")
    masks = masks_of(mlp.params)
    removal = gf.dynamics.removal_effects(mlp.loss)(mlp.params, masks, *mlp.args)

    def removed(scores):
        pairs = zip(jax.tree.leaves(scores), jax.tree.leaves(masks), strict=True)
        return sum(jnp.sum(jnp.where(mask, 0, leaf)) for leaf, mask in pairs)

    first = removed(gf.first_order_terms(mlp.loss)(mlp.params, *mlp.args))
    second = removed(gf.grasp(mlp.loss)(mlp.params, *mlp.args))
    np.testing.assert_allclose(removal.loss_first, [-first], rtol=1e-10)
    np.testing.assert_allclose(removal.gradient_norm_first, [-2 * second], rtol=1e-10)
    pruned = gf.prune(mlp.params, masks)
    change = mlp.loss(pruned, *mlp.args) - mlp.loss(mlp.params, *mlp.args)
    np.testing.assert_allclose(removal.loss, [change], rtol=1e-9)


def test_over_batches_effects_are_those_of_the_mean_loss(float64):
    mlp = problem("mlp")
    x, labels = mlp.args
    masks = masks_of(mlp.params)
    expected = gf.dynamics.removal_effects(mlp.loss)(mlp.params, masks, *mlp.args)
    loss = gf.over_batches(
        lambda params, batch: (mlp.loss(params, *batch), 0.0), micro_batch=2
    )
    batches = [(x[:4], labels[:4]), (x[4:], labels[4:])]
    removal = gf.dynamics.removal_effects(loss, has_aux=True)(
        mlp.params, masks, batches
    )
    chex.assert_trees_all_close(removal, expected, rtol=1e-9)


def test_new_masks_and_data_trace_nothing():
    loss = Counted(lambda w, x, *, shift: jnp.sum((w * x + shift) ** 2))
    effects = gf.dynamics.removal_effects(loss, scales=(1.0, 0.5))
    w, masks = jnp.ones(2), jnp.array([True, False])
    effects(w, masks, jnp.ones(2), shift=jnp.ones(2))
    traces = loss.traces
    effects(2 * w, ~masks, jnp.zeros(2), shift=jnp.zeros(2))
    assert loss.traces == traces


def test_masks_that_do_not_fit_are_refused():
    effects = gf.dynamics.removal_effects(lambda w: jnp.sum(w["w"] ** 2))
    with pytest.raises(TypeError, match=r"masks leaf 'w' is float32\[2\], not bool"):
        effects({"w": jnp.ones(2)}, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="masks lacks the leaf 'w'"):
        effects({"w": jnp.ones(2)}, {"v": jnp.ones(2, bool)})


BAD_ORDERS = {
    "one": (([0.1], [1.0], [0.0]), "scales is [0.1]: an order takes two positive ones"),
    "zero": (([0.1, 0.0], [1.0, 2.0], [0.0, 0.0]), "scales is [0.1, 0.0]"),
    "nan": (
        ([0.2, 0.1], [1.0, np.nan], [0.0, 2.0]),
        "the errors are [1.0, nan]",
    ),
    "shapes": (([0.2, 0.1], [1.0], [0.0, 2.0]), "have the shapes (2,), (1,) and (2,)"),
    "exact": (([0.2, 0.1], [1.0, 2.0], [0.0, 2.0]), "the errors are [1.0, 0.0]: where"),
}


@pytest.mark.parametrize("case", BAD_ORDERS)
def test_what_has_no_order_is_refused(case):
    arguments, message = BAD_ORDERS[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        convergence_order(*arguments)


@pytest.mark.parametrize("scales", [range(1, 3), np.array([1, 2]), (1.0, 2.0)])
def test_scales_are_a_sequence_of_any_kind(scales):
    effects = gf.dynamics.removal_effects(lambda w: jnp.sum(w**2), scales=scales)
    removal = effects(jnp.array([2.0]), jnp.array([False]))
    assert removal.loss.tolist() == [-4.0, 0.0]


def test_scales_are_numbers():
    for scales, kind, message in (
        ((), ValueError, "scales has shape (0,): pass a sequence of at least one"),
        (1.0, ValueError, "scales has shape (): pass a sequence"),
        ("1", TypeError, "scales is '1': pass real numbers"),
        ([True], TypeError, "scales is list: pass real numbers"),
        ({0.5, 1.0}, TypeError, "scales is set: pass real numbers"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            gf.dynamics.removal_effects(jnp.sum, scales=scales)
    with pytest.raises(TypeError, match="measured is list: pass real numbers"):
        convergence_order([0.2, 0.1], [1.0, 2.0], ["a", "b"])
