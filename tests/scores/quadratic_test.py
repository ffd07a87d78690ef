"""Every measure on ½θᵀAθ − bᵀθ, whose gradient is Aθ − b and whose Hessian is A."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf

pytestmark = pytest.mark.usefixtures("strict_ranks")

RNG = np.random.default_rng(0)
N, BATCHES = 5, 3
A = RNG.normal(size=(BATCHES, N, N))
A = A + A.transpose(0, 2, 1)
B = RNG.normal(size=(BATCHES, N))
THETA, ORIGIN = RNG.normal(size=N), RNG.normal(size=N)
WEIGHTS = np.array([4.0, 4.0, 1.0])
SHARES = WEIGHTS / WEIGHTS.sum()

G_EACH = np.einsum("bij,j->bi", A, THETA) - B
G = SHARES @ G_EACH
HG = np.einsum("b,bij,j->i", SHARES, A, G)
G2 = SHARES @ G_EACH**2

MEASURES = {
    "loss_preservation": ({}, abs(THETA * G)),
    "biased_loss_preservation": ({}, abs(THETA) * abs(THETA * G)),
    "biased_loss_preservation from an origin": (
        {"origin": ORIGIN},
        abs(THETA - ORIGIN) * abs(THETA * G),
    ),
    "taylor": ({}, abs(THETA * G)),
    "first_order_terms": ({}, THETA * G),
    "fisher": ({}, THETA**2 * G2),
    "grasp": ({}, THETA * HG),
    "gradient_norm_increase": ({}, THETA * HG),
    "gradient_norm_preservation": ({}, abs(THETA * HG)),
}


def split(theta):
    """The parameters as two leaves, so that Hḡ must cross them."""
    return {"a": jnp.asarray(theta[:2]), "b": jnp.asarray(theta[2:])}


def joined(tree):
    return np.concatenate([tree["a"], tree["b"]])


def loss_fn(params, batch):
    a, b = batch
    theta = jnp.concatenate([params["a"], params["b"]])
    return 0.5 * theta @ a @ theta - b @ theta


def weigh(batch):
    return dict(zip(B[:, 0], WEIGHTS, strict=True))[float(batch[1][0])]


@pytest.mark.parametrize("name", list(MEASURES))
def test_over_batches(float64, name):
    options, expected = MEASURES[name]
    options = {key: split(value) for key, value in options.items()}
    loss = gf.over_batches(loss_fn, weight=weigh)
    measure = getattr(gf, name.split()[0])(loss, **options)
    scores = measure(split(THETA), list(zip(A, B, strict=True)))
    np.testing.assert_allclose(joined(scores), expected, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "fisher"])
def test_of_one_batch(float64, name):
    """The mean of quadratics is the quadratic of the means."""
    options, expected = MEASURES[name]
    options = {key: split(value) for key, value in options.items()}
    measure = getattr(gf, name.split()[0])(loss_fn, **options)
    mean = (np.einsum("b,bij->ij", SHARES, A), SHARES @ B)
    scores = measure(split(THETA), mean)
    np.testing.assert_allclose(joined(scores), expected, rtol=1e-12)


@pytest.mark.parametrize("name", list(gf.scores.RULES))
def test_a_rule_s_outer_function_takes_sums_of_jax_and_of_numpy(float64, name):
    rule, sums = gf.scores.RULES[name], np.array([0.0, 2.25, 1e-300])
    outer = {"magnitude": np.sqrt, "taylor": np.abs}.get(name, lambda x: x)
    of_numpy = rule.outer(sums)
    assert isinstance(of_numpy, np.ndarray)
    np.testing.assert_array_equal(of_numpy, outer(sums))
    of_jax = jax.jit(rule.outer)(sums)
    assert isinstance(of_jax, jax.Array)
    np.testing.assert_allclose(of_jax, outer(sums), rtol=1e-15)


def test_fisher_of_one_batch(float64):
    scores = gf.fisher(loss_fn)(split(THETA), (A[0], B[0]))
    np.testing.assert_allclose(joined(scores), THETA**2 * G_EACH[0] ** 2, rtol=1e-12)


@pytest.mark.parametrize("over_batches", [False, True])
def test_fisher_per_example_takes_the_mean_of_each_example_squared(
    float64, over_batches
):
    def mean_loss(params, batch):
        return jnp.mean(jax.vmap(lambda *example: loss_fn(params, example))(*batch))

    expected = THETA**2 * (G_EACH**2).mean(0)
    if over_batches:
        measure = gf.fisher(gf.over_batches(mean_loss), per_example=True)
        scores = measure(split(THETA), [(A[:2], B[:2]), (A[2:], B[2:])])
    else:
        scores = gf.fisher(mean_loss, per_example=True)(split(THETA), (A, B))
    np.testing.assert_allclose(joined(scores), expected, rtol=1e-12)


def test_all_measures_come_from_one_evaluation(float64):
    traces = 0

    def counted(params, batch):
        nonlocal traces
        traces += 1
        return loss_fn(params, batch)

    params = split(THETA)
    differentiate = gf.differentiate(counted, squares="batch", origin=split(ORIGIN))
    d = differentiate(params, (A[0], B[0]))
    traced = traces
    scores = gf.score_all(d)
    assert traces == traced
    options = {"biased_loss_preservation": {"origin": split(ORIGIN)}}
    assert "magnitude" in scores and len(scores) == 7
    for name, scored in scores.items():
        if name == "magnitude":
            expected = gf.magnitude(params)
        else:
            measure = getattr(gf, name)(loss_fn, **options.get(name, {}))
            expected = measure(params, (A[0], B[0]))
        np.testing.assert_allclose(joined(scored), joined(expected), rtol=1e-12)


def test_magnitude_and_chance_look_at_nothing_but_params():
    params = split(THETA)
    np.testing.assert_allclose(joined(gf.magnitude(params)), abs(THETA), rtol=1e-6)
    first = gf.random(jax.random.key(0))
    scores = first(params, "any", batch=None)
    assert (joined(scores) >= 0).all() and (joined(scores) < 1).all()
    assert len(set(joined(scores))) == N
    np.testing.assert_array_equal(joined(scores), joined(first(params)))
    with_another_key = gf.random(jax.random.key(1))(params)
    assert (joined(scores) != joined(with_another_key)).all()


def test_magnitude_of_tiny_weights_does_not_underflow():
    tiny = jnp.array([1e-30, 2e-30], jnp.float32)
    assert gf.magnitude(tiny).tolist() == tiny.tolist()
    d = gf.differentiate(lambda w: jnp.sum(w), order=1)(tiny)
    assert gf.score(d, "magnitude").tolist() == tiny.tolist()
