"""The paper's observations, against what NumPy makes of the same networks."""

import dataclasses

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

import gradflow_jax as gf
from gradflow_jax.observations import Problem, Study, observe, problem_of
from gradflow_jax.observations.runs import SeededRun
from gradflow_jax.observations.third import _prune_in_rounds

KEYS = jax.random.split(jax.random.key(0), 3)
INPUTS = jax.random.normal(KEYS[0], (48, 6))
LABELS = np.asarray(jnp.argmax(INPUTS @ jax.random.normal(KEYS[1], (6, 3)), 1))
SMALL = {"steps": 12, "moments": 3, "batch_size": 16, "finetuning": 6, "sparsity": 0.5}


def init(key):
    a, b = jax.random.split(key)
    return {"in": jax.random.normal(a, (6, 8)) / 3, "out": jax.random.normal(b, (8, 3))}


def apply(params, x):
    return jnp.maximum(x @ params["in"], 0) @ params["out"]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        # Names whose order is not that of their use.
        return nn.Dense(3, name="a")(nn.relu(nn.Dense(8, name="b")(x)))


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.second = nnx.Linear(8, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.first = nnx.Linear(6, 8, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


MODELS = {"functions": (init, apply), "linen": Linen(), "nnx": Normed}


@pytest.fixture(scope="module")
def study():
    return Study(Problem(init, apply, INPUTS, LABELS), **SMALL)


@pytest.fixture(scope="module")
def observations(study):
    return observe(study, seeds=(3, 5))


@pytest.fixture(scope="module")
def runs(study):
    return [study.run(seed) for seed in (3, 5)]


def loss(params, x=INPUTS, y=LABELS, temperature=1.0):
    """Cross-entropy in NumPy and float64."""
    hidden = np.maximum(np.asarray(x, float) @ np.asarray(params["in"], float), 0)
    logits = hidden @ np.asarray(params["out"], float) / temperature
    logits -= logits.max(1, keepdims=True)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log[np.arange(len(y)), y].mean()


def flat(tree):
    return np.concatenate([np.ravel(tree["in"]), np.ravel(tree["out"])])


def products(params, temperature=1.0):
    """θ ⊙ g and θ ⊙ Hg, with H from jax.hessian of all 72 weights."""
    leaves, rebuild = jax.flatten_util.ravel_pytree(params)

    def value(vector):
        logits = apply(rebuild(vector), INPUTS) / temperature
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    gradient = jax.grad(value)(leaves)
    product = jax.hessian(value)(leaves) @ gradient
    return np.asarray(leaves * gradient), np.asarray(leaves * product)


def tree(vector):
    """Returns 72 numbers as weights."""
    return {"in": vector[:48].reshape(6, 8), "out": vector[48:].reshape(8, 3)}


def kept(scores, sparsity=0.5):
    """The highest half of the weights, none of 20 having to be spared."""
    order = np.argsort(-flat(scores), kind="stable")
    flags = np.zeros(order.size, bool)
    flags[order[: order.size - round(sparsity * order.size)]] = True
    size = np.size(scores["in"])
    split = {"in": flags[:size], "out": flags[size:]}
    return {
        name: leaf_scores.reshape(np.shape(scores[name]))
        for name, leaf_scores in split.items()
    }


def masked(params, masks):
    return {name: np.where(masks[name], leaf, 0) for name, leaf in params.items()}


@pytest.mark.runs
def test_a_run_is_kept_at_its_moments(study, runs):
    for run in runs:
        assert run.steps == (1, 6, 10) and len(run.losses) == 12
        assert len(run.params) == len(run.soon) == 3
        np.testing.assert_allclose(
            flat(run.initial), flat(init(jax.random.key(run.seed)))
        )
        # The loss before the first step is that of the first weights, on one batch.
        order = np.random.default_rng(run.seed).permutation(48)[:16]
        first = loss(run.initial, INPUTS[order], LABELS[order])
        np.testing.assert_allclose(run.losses[0], first, rtol=1e-5)
    again = study.run(runs[0].seed)
    assert (flat(again.soon[2]) == flat(runs[0].soon[2])).all()


@pytest.mark.runs
def test_larger_weights(study, runs, observations):
    first = observations.first
    for i, run in enumerate(runs):
        params = jax.device_get(run.params[1])
        size = jax.tree.map(np.abs, params)
        largest = loss(masked(params, kept(size)))
        smallest = loss(masked(params, kept(jax.tree.map(np.negative, size))))
        np.testing.assert_allclose(first.largest[i], largest, rtol=1e-5)
        np.testing.assert_allclose(first.others[i], smallest, rtol=1e-5)
        gain, _ = products(params)
        ways = {
            "magnitude_losses": kept(size),
            "preservation_losses": kept(
                {
                    "in": abs(gain[:48]).reshape(6, 8),
                    "out": abs(gain[48:]).reshape(8, 3),
                }
            ),
        }
        for name, masks in ways.items():
            curve = getattr(first, name)[i]
            assert curve.shape == (6,)
            order = np.random.default_rng(run.seed).permutation(48)[:16]
            start = loss(masked(params, masks), INPUTS[order], LABELS[order])
            np.testing.assert_allclose(curve[0], start, rtol=1e-5)
    instant, area = first.findings
    np.testing.assert_allclose(instant.values, first.others - first.largest)
    gaps = first.preservation_losses - first.magnitude_losses
    np.testing.assert_allclose(area.values, gaps.mean(1), rtol=1e-6)


@pytest.mark.runs
def test_slow_weights(runs, observations):
    second = observations.second
    assert second.steps == (1, 6, 10) and second.correlation.shape == (2, 3)
    for i, run in enumerate(runs):
        for j, (before, after) in enumerate(zip(run.params, run.soon, strict=True)):
            change = abs(flat(after) ** 2 - flat(before) ** 2)
            gain, _ = products(before)
            expected = stats.spearmanr(change, abs(gain)).statistic
            # Float32 ties and orders near-equal numbers otherwise.
            np.testing.assert_allclose(second.correlation[i, j], expected, atol=0.01)
    np.testing.assert_allclose(
        second.findings[0].values, second.correlation.mean(1), rtol=1e-6
    )


def test_along_the_flow_the_change_is_the_score():
    """Gradient descent on all data in small steps: |Δθ²| = 2η |θg| + O(η²)."""
    still = Study(
        Problem(init, apply, INPUTS, LABELS),
        optimizer=optax.sgd(1e-2),
        **{**SMALL, "batch_size": 48},
        lag=1,
    )
    run = still.run(0)
    second = gf.observations.loss_preservation_removes_the_slowest(still, [run])
    assert (second.correlation > 0.99).all()


@pytest.mark.runs
def test_preserving_magnitude(study, runs, observations):
    third = observations.third
    for i, run in enumerate(runs):
        for j, params in enumerate(run.params):
            gain, _ = products(params)
            rho = stats.spearmanr(abs(flat(params)), abs(gain)).statistic
            np.testing.assert_allclose(third.correlation[i, j], rho, atol=0.01)
        params = jax.device_get(run.params[1])
        once = loss(masked(params, kept(jax.tree.map(np.abs, params)))) - loss(params)
        np.testing.assert_allclose(third.change[i, 0], abs(once), atol=1e-6)
        np.testing.assert_allclose(third.largest[i, 0], abs(once), atol=1e-6)
        gain, _ = products(params)
        biased = abs(gain) * abs(flat(params) - flat(run.initial))
        scores = tree(biased)
        change = loss(masked(params, kept(scores))) - loss(params)
        np.testing.assert_allclose(third.biased[i], abs(change), atol=1e-6)
    assert third.rounds == (1, 5, 25)
    assert (third.largest <= third.change + 1e-9).all()
    related, largest, all_cuts, biased = third.findings
    np.testing.assert_allclose(related.values, third.correlation.mean(1), rtol=1e-6)
    gaps = third.largest[:, 0] - third.largest[:, 2]
    np.testing.assert_allclose(largest.values, gaps)
    np.testing.assert_allclose(all_cuts.values, third.change[:, 0] - third.change[:, 2])
    np.testing.assert_allclose(biased.values, third.change[:, 0] - third.biased)


@pytest.mark.runs
def test_increasing_gradient_norm(runs, observations):
    fourth = observations.fourth
    assert fourth.temperatures == (1.0, 200.0) and fourth.layers == ("in", "out")
    for t, temperature in enumerate(fourth.temperatures):
        for i, run in enumerate(runs):
            gain, _ = products(run.params[1])
            _, product = products(run.params[1], temperature)
            rho = stats.spearmanr(product, gain).statistic
            np.testing.assert_allclose(fourth.correlation[t, i], rho, atol=0.01)
            scores = {
                "in": product[:48].reshape(6, 8),
                "out": product[48:].reshape(8, 3),
            }
            masks = kept(scores)
            shares = [1 - masks[name].mean() for name in ("in", "out")]
            # At T = 200 scores are 1e-9, and float32 may order two otherwise.
            np.testing.assert_allclose(fourth.pruned[t, i], shares, atol=0.05)
    early = fourth.findings[1]
    expected = np.sign(fourth.pruned[0, :, 0] - fourth.pruned[0, :, 1])
    np.testing.assert_allclose(early.values, expected)


@pytest.mark.runs
def test_preserving_gradient_norm(runs, observations):
    fifth = observations.fifth
    assert fifth.measures == ("grasp", "gradient_norm_preservation")
    for i, run in enumerate(runs):
        params = jax.device_get(run.params[1])
        np.testing.assert_allclose(fifth.loss[:, i, 0], loss(params), rtol=1e-5)
        _, product = products(params)
        size = abs(product)
        scores = tree(size)
        cut = masked(params, kept(scores))
        np.testing.assert_allclose(fifth.loss[1, i, 1], loss(cut), rtol=1e-4)
        value = jax.grad(
            lambda p: Problem(init, apply, INPUTS, LABELS).loss(p, (INPUTS, LABELS))
        )
        norm = (flat(value(cut)) ** 2).sum()
        np.testing.assert_allclose(fifth.gradient_norm[1, i, 1], norm, rtol=1e-3)
    right_after, tuned, changed = fifth.findings
    np.testing.assert_allclose(
        right_after.values, fifth.loss[0, :, 1] - fifth.loss[1, :, 1]
    )
    np.testing.assert_allclose(tuned.values, fifth.loss[0, :, 2] - fifth.loss[1, :, 2])
    factors = abs(np.log(fifth.gradient_norm[..., 1] / fifth.gradient_norm[..., 0]))
    np.testing.assert_allclose(changed.values, factors[0] - factors[1])


@pytest.mark.runs
def test_more_seeds_and_temperatures_compile_nothing(observations):
    traces = []

    def counted(params, x):
        traces.append(x.shape)
        return apply(params, x)

    counted_study = Study(Problem(init, counted, INPUTS, LABELS), **SMALL)
    observe(counted_study, seeds=(3,))
    first = len(traces)
    again = observe(counted_study, seeds=(3, 5))
    assert len(traces) == first
    assert str(again) == str(observations)


@pytest.mark.parametrize("kind", [pytest.param("linen", marks=pytest.mark.runs), "nnx"])
def test_a_model_of_the_users_goes_through_as_it_is(kind):
    problem = problem_of(MODELS[kind], INPUTS, LABELS)
    told = []
    observations = observe(
        Study(problem, **SMALL), seeds=(0, 1), progress=lambda *now: told.append(now)
    )
    assert told == [(done, 7) for done in range(8)]
    lines = str(observations).splitlines()
    assert len(lines) == len(observations.findings) == 14
    assert [line[:3] for line in lines[:3]] == ["(1)", "(1)", "(2)"]
    assert all(np.isfinite(finding.mean) for _, finding in observations.findings)
    # In the order of their use, which is neither that of names nor of attributes.
    ends = (
        ("b/kernel", "a/kernel")
        if kind == "linen"
        else ("first/kernel", "second/kernel")
    )
    assert observations.fourth.layers == ends
    # What is claimed of rounds names the ones that are compared.
    claims = [finding.claim for finding in observations.third.findings[1:3]]
    assert claims == [
        "no cut by magnitude in 25 rounds changes the loss as much as the largest in 1",
        "all cuts by magnitude in 25 rounds change the loss less than in 1",
    ]


def test_functions_are_taken_as_they_are():
    problem = problem_of(MODELS["functions"], INPUTS, LABELS)
    assert problem.init is init and problem.apply is apply


def test_a_batch_norm_takes_the_statistics_of_the_batch():
    problem = problem_of(Normed, INPUTS, LABELS)
    params = problem.init(jax.random.key(0))
    module = Normed(nnx.Rngs(jax.random.key(0)))
    np.testing.assert_allclose(problem.apply(params, INPUTS), module(INPUTS), rtol=1e-5)


def test_an_equinox_module_is_mapped_over_examples():
    def make(key):
        return eqx.nn.MLP(INPUTS.shape[1], 3, 8, 1, key=key)

    problem = problem_of(make, INPUTS, LABELS)
    key = jax.random.key(4)
    params = problem.init(key)
    expected = np.stack([make(key)(example) for example in INPUTS[:5]])
    np.testing.assert_allclose(
        problem.apply(params, INPUTS[:5]), expected, rtol=1e-5, atol=1e-6
    )
    # The weights are those of the params, not of the module that was traced.
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert not problem.apply(zeros, INPUTS[:5]).any()
    assert list(problem.depth) == [
        f"layers/{layer}/{name}" for layer in (0, 1) for name in ("weight", "bias")
    ]


class Stateful(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(nn.Dense(3)(x))


def test_models_that_are_none():
    with pytest.raises(TypeError, match="has weights already, and each seed takes"):
        problem_of(Normed(nnx.Rngs(0)), INPUTS, LABELS)
    with pytest.raises(TypeError, match="MLP has weights already, and each seed"):
        problem_of(eqx.nn.MLP(3, 3, 8, 1, key=jax.random.key(0)), INPUTS, LABELS)
    with pytest.raises(TypeError, match="makes dict of a key"):
        problem_of(lambda key: {"w": jnp.ones(3)}, INPUTS, LABELS)
    with pytest.raises(TypeError, match="makes dict of nnx.Rngs"):
        problem_of(lambda rngs: {"w": jnp.ones(3)}, INPUTS, LABELS)
    with pytest.raises(TypeError, match="a model is a function"):
        problem_of(3, INPUTS, LABELS)
    problem = problem_of(Stateful(), INPUTS, LABELS)
    with pytest.raises(ValueError, match="has batch_stats beside params: pass a pair"):
        problem.init(jax.random.key(0))


@pytest.mark.parametrize(
    "labels", [LABELS[:-1], LABELS.astype(float), np.eye(3)[LABELS]], ids=str
)
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="pass one integer label for each input"):
        Problem(init, apply, INPUTS, labels)


@pytest.mark.parametrize("rounds", [1, 4, 6, 25])
def test_rounds_share_the_steps_of_fine_tuning_and_take_no_more(study, rounds):
    """Also where there are fewer steps than rounds; each round has an order of data."""
    taken = []

    def train(params, steps, *, seed, **options):
        taken.append((steps, seed))
        return {steps: params}, np.zeros(steps)

    counted = dataclasses.replace(study)
    object.__setattr__(counted, "train", train)
    params = init(jax.random.key(0))
    run = SeededRun(3, params, (1,), [params], [params], np.zeros(1))
    _prune_in_rounds(counted, run, rounds)
    assert sum(steps for steps, _ in taken) == SMALL["finetuning"]
    assert all(steps > 0 for steps, _ in taken)
    assert len({seed for _, seed in taken}) == len(taken) == min(rounds, 6)
    assert all(seed[0] == 3 for _, seed in taken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", True), ("steps", 0), ("steps", 2), ("steps", 12.0), ("steps", "12"),
        ("batch_size", 0), ("batch_size", False), ("moments", 0), ("lag", 0),
        ("lag", 12), ("finetuning", 0), ("finetuning", True), ("finetuning", -5),
        ("sparsity", True), ("sparsity", 1.5), ("sparsity", float("nan")),
        ("sparsity", "0.5"), ("floor", -0.1), ("floor", False), ("floor", None),
    ],
)  # fmt: skip
def test_numbers_of_a_study_are_refused_by_name(study, name, value):
    message = "^steps is 12: finite differences" if name == "lag" and value else name
    with pytest.raises((TypeError, ValueError), match=f"^{message} is |{message}"):
        dataclasses.replace(study, **{name: value})


def test_numbers_of_a_study_may_be_of_numpy(study):
    counts = {
        "steps": np.int64(9),
        "finetuning": np.int32(3),
        "batch_size": np.uint8(4),
    }
    made = dataclasses.replace(study, **counts, sparsity=np.float32(0.5))
    assert made.steps == 9 and made.sparsity == 0.5
    assert type(made.steps) is int and type(made.sparsity) is float
    # There are no more moments than steps, however many are asked for.
    many = dataclasses.replace(study, moments=2**31 - 1)
    assert many._steps_of_moments() == tuple(range(1, 11))
