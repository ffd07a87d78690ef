"""Every measure against the numbers that the authors' release computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from tests.scores.reference_problem import (
    LAYERS,
    batches_of,
    logits_of,
    loss_at,
    params_of,
    read_reference,
)

TOLERANCE = {1: 1e-4, 5: 1e-4, 200: 1e-3}

# This maps the release's word for a measure to our name, and to whether it takes an
# origin.
PER_FILTER = {
    "mag_based": "magnitude",
    "loss_based": "loss_preservation",
    "biased_loss": "biased_loss_preservation",
    "biased_loss_init": "biased_loss_preservation",
    "tfo": "taylor",
    "fisher": "fisher",
    "grasp": "grasp",
    "grad_preserve": "gradient_norm_preservation",
}


@pytest.fixture(scope="module")
def reference():
    return read_reference()


@pytest.fixture(scope="module")
def params(reference):
    return params_of(reference)


@pytest.fixture(scope="module")
def batches(reference):
    return batches_of(reference)


@pytest.fixture(scope="module")
def logits_fn(reference):
    return logits_of(reference)


@pytest.fixture(scope="module")
def at_temperature(logits_fn, params, batches):
    """Returns the derivatives at T, each temperature evaluated once."""
    origin = jax.tree.map(lambda leaf: 0.8 * leaf, params)
    by_temperature = {}

    def evaluate(temperature):
        if temperature not in by_temperature:
            loss = gf.over_batches(loss_at(logits_fn, temperature))
            differentiate = gf.differentiate(loss, squares="batch", origin=origin)
            by_temperature[temperature] = differentiate(params, batches)
        return by_temperature[temperature]

    return evaluate


def assert_close(actual, expected, tolerance):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_ranks_alike(actual, expected, tolerance):
    """Filters stand in the same order where they differ by more than the tolerance."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    gap = expected[:, None] - expected[None, :]
    apart = gap > tolerance * np.abs(expected).max()
    assert np.all((actual[:, None] > actual[None, :])[apart])


def test_the_network_is_the_reference_s(reference, params, logits_fn):
    assert_close(logits_fn(params, reference["images"]), reference["logits"], 1e-5)


@pytest.mark.parametrize("temperature", [1, 200])
def test_gradients_and_hessian_products(reference, at_temperature, temperature):
    d = at_temperature(temperature)
    for name, field in (("grad", d.gradient), ("hg", d.hessian_gradient)):
        for i in range(11):
            expected = reference[f"{name}|T{temperature}|{i}"]
            if i < 9:
                leaf = ("kernel", "scale", "bias")[i % 3]
                layer = field[("conv" if leaf == "kernel" else "bn") + str(i // 3)]
                actual = layer[leaf]
                if leaf == "kernel":
                    expected = expected.transpose(2, 3, 1, 0)
            else:
                actual = field["dense"]["kernel" if i == 9 else "bias"]
                expected = expected.T
            assert_close(actual, expected.reshape(actual.shape), TOLERANCE[temperature])


@pytest.mark.parametrize(
    ("word", "temperature"),
    [(word, t) for word in PER_FILTER if "gra" not in word for t in (1, 5)]
    + [(word, t) for word in ("grasp", "grad_preserve") for t in (1, 200)],
)
def test_filters_score_as_in_the_release(reference, at_temperature, word, temperature):
    d = at_temperature(temperature)
    if word != "biased_loss_init":
        d = d._replace(origin=None)
    scores = gf.score(d, PER_FILTER[word], axis=-1)
    for i, layer in enumerate(LAYERS):
        expected = reference[f"{word}|T{temperature}|{i}"]
        actual = scores[layer]["kernel"]
        assert_close(actual, expected, TOLERANCE[temperature])
        assert_ranks_alike(actual, expected, TOLERANCE[temperature])


@pytest.mark.parametrize("temperature", [1, 5])
def test_batch_norm_measures(reference, params, logits_fn, batches, temperature):
    scale = gf.batch_norm_scale(params)
    loss = gf.over_batches(loss_at(logits_fn, temperature))
    taylor = gf.batch_norm_taylor(loss)(params, batches)
    assert sorted(scale) == sorted(taylor) == ["bn0", "bn1", "bn2"]
    for i in range(3):
        for word, scores in (("bn", scale), ("nvidia", taylor)):
            expected = reference[f"{word}|T{temperature}|{i}"]
            assert_close(scores[f"bn{i}"], expected, 1e-4)
            assert_ranks_alike(scores[f"bn{i}"], expected, 1e-4)


def test_weights_l1_is_the_sum_of_magnitudes(reference, params):
    scores = gf.magnitude(params)
    for i, layer in enumerate(LAYERS):
        actual = scores[layer]["kernel"].sum((0, 1, 2))
        assert_close(actual, reference[f"l1|T1|{i}"], 1e-5)


@pytest.mark.parametrize("word", list(PER_FILTER))
def test_measures_by_name_sum_to_the_release_s(
    reference, params, logits_fn, batches, word
):
    """The public functions, weight by weight, add up to each filter's score."""
    temperature = 1
    loss = gf.over_batches(loss_at(logits_fn, temperature))
    origin = jax.tree.map(lambda leaf: 0.8 * leaf, params)
    if word == "mag_based":
        scores = jax.tree.map(jnp.square, gf.magnitude(params))
        outer = jnp.sqrt
    elif word == "tfo":
        scores, outer = gf.first_order_terms(loss)(params, batches), jnp.abs
    elif word == "grad_preserve":
        scores, outer = gf.grasp(loss)(params, batches), jnp.abs
    else:
        options = {"origin": origin} if word.endswith("init") else {}
        measure = getattr(gf, PER_FILTER[word])
        scores, outer = measure(loss, **options)(params, batches), lambda total: total
    for i, layer in enumerate(LAYERS):
        actual = outer(scores[layer]["kernel"].sum((0, 1, 2)))
        assert_close(actual, reference[f"{word}|T{temperature}|{i}"], 1e-4)
