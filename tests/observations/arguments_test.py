"""What is handed over to be observed, each argument wrong in turn."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import gradflow_jax as gf
from gradflow_jax.observations import Problem, SeededRun, Study, observe, problem_of

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(48, 6)).astype(np.float32)
LABELS = np.arange(48) % 3


def init(key):
    return {"in": jax.random.normal(key, (6, 8)), "out": np.ones((8, 3), np.float32)}


def apply(params, x):
    return jax.numpy.tanh(x @ params["in"]) @ params["out"]


@pytest.fixture(scope="module")
def study():
    return Study(Problem(init, apply, INPUTS, LABELS))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, [1]], "^labels is a list: pass an array of numbers"),
        (None, "^labels is a NoneType: pass an array of numbers"),
        (["0", "1"], r"^labels is <U1\[2\], to numpy"),
        (np.ma.masked_array(LABELS), "^labels is a masked array of NumPy, whose"),
        ([], "^labels are float.*.0. and inputs float32.48,6.: pass one integer"),
        (LABELS - 1, "^labels go down to -1: they count classes from 0"),
    ],
)
def test_labels_that_count_no_classes(labels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Problem(init, apply, INPUTS, labels)


def test_lists_are_arrays_of_a_problem():
    problem = Problem(init, apply, [[0.0] * 6] * 2, [0, 2])
    assert problem.inputs.shape == (2, 6) and problem.labels.tolist() == [0, 2]
    assert list(problem.depth) == ["in", "out"]
    with pytest.raises(ValueError, match="^inputs and labels are empty: pass one"):
        Problem(init, apply, np.ones((0, 6)), np.ones(0, int))
    with pytest.raises(TypeError, match="^inputs is a list: pass an array of numbers"):
        problem_of((init, apply), [[1.0], [1.0, 2.0]], [0, 1])


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((3, apply), "^init is a int: pass a function, init.key. -> params"),
        ((init, "model"), "^apply is a str: pass a function, apply.params, inputs."),
        ((lambda key: "w", apply), "^params .* is str"),
        ((lambda key: {"w": key}, apply), "^params leaf 'w' is key"),
        (
            (init, lambda params, x: "logits"),
            "^apply returned str for 1 inputs",
        ),
        ((init, lambda params, x: (x, None)), "^apply returned tuple for 1 inputs"),
        ((init, lambda params, x: x[0]), r"^apply returned float32\[6\] for 1 inputs"),
        (
            (init, lambda params, x: x[:, :2]),
            "logits of 2 classes, but labels go",
        ),
    ],
)
def test_functions_that_make_no_classifier(functions, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Problem(*functions, INPUTS, LABELS).depth  # noqa: B018


def test_a_run_is_of_weights_and_of_a_seed(study):
    text = dataclasses.replace(
        study, problem=Problem(lambda key: "w", apply, INPUTS, LABELS)
    )
    with pytest.raises(TypeError, match="^params .* is str"):
        text.run(0)
    with pytest.raises(ValueError, match="^steps is 0: pass a whole number above 0"):
        study.train(init(jax.random.key(0)), 0, seed=0)
    for wrong in (
        {"problem": (init, apply)},
        {"optimizer": ["init", "update"]},
        {"optimizer": optax.sgd(0.1)._replace(update=None)},
    ):
        (name,) = wrong
        with pytest.raises(TypeError, match=f"^{name} is a .*: pass a"):
            dataclasses.replace(study, **wrong)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ((), "^seeds is empty: pass one at least"),
        (3, "^seeds is a int: pass range.5."),
        (np.array(3), "^seeds is a ndarray: pass range"),
        ("012", "^seeds is a str: pass range"),
        (b"012", "^seeds is a bytes: pass range"),
        ({0: 1}, "^seeds is a dict: pass range"),
        ([0, 1.0], r"^seeds\[1\] is 1.0, not a whole number"),
        ([True], r"^seeds\[0\] is True, not a whole number"),
        ([-1], r"^seeds\[0\] is -1: pass a whole number from 0 to 2³² − 1"),
        ([2**32], r"^seeds\[0\] is 4294967296: pass a whole number from 0"),
        ([10**5000], r"^seeds\[0\] is a number of more than 64 bits: pass"),
        ([1, np.int64(1)], "^seeds has 1 twice: a network takes its own seed"),
    ],
)
def test_seeds_that_are_none(study, seeds, message):
    with pytest.raises((TypeError, ValueError), match=message):
        observe(study, seeds=seeds)
    with pytest.raises((TypeError, ValueError), match=message):
        study.runs(seeds)


def test_what_is_observed_is_a_study_and_progress_a_function(study):
    with pytest.raises(TypeError, match="^study is a Problem: pass how networks are"):
        observe(study.problem)
    with pytest.raises(TypeError, match="^progress is a list: pass a function, progr"):
        observe(study, progress=[])


RUN = SeededRun(0, {}, (1,), [{}], [{}], np.zeros(1))
OBSERVATIONS = (
    gf.observations.larger_weights_converge_faster,
    gf.observations.loss_preservation_removes_the_slowest,
    gf.observations.magnitude_preserves_loss,
    gf.observations.increasing_gradient_norm_raises_loss,
    gf.observations.preserving_gradient_norm_is_better,
)


@pytest.mark.parametrize("evaluate", OBSERVATIONS, ids=lambda fn: fn.__name__)
def test_an_observation_takes_a_study_and_its_runs(study, evaluate):
    for runs, message in (
        ("", "^runs is a str: pass study.runs"),
        ((), "^runs is empty: pass one at least, such as study.runs"),
        ((3,), r"^runs\[0\] is a int: pass what study.runs"),
        ((RUN._replace(params=None),), r"^runs\[0\] holds no lists of moments"),
        ((RUN._replace(steps=()),), r"^runs\[0\] has 0 steps, and params of 1 and 1"),
        ((RUN._replace(steps=(), params=[], soon=[]),), r"^runs\[0\] has 0 steps"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            evaluate(study, runs)
    with pytest.raises(TypeError, match="^study is a NoneType: pass how networks are"):
        evaluate(None, (RUN,))


@pytest.mark.parametrize(
    ("evaluate", "options", "message"),
    [
        (OBSERVATIONS[2], {"rounds": 5}, "^rounds is a int: pass .1, 5, 25."),
        (OBSERVATIONS[2], {"rounds": ()}, "^rounds is empty: pass one at least"),
        (OBSERVATIONS[2], {"rounds": (1, 2.5)}, r"^rounds\[1\] is 2.5: pass a whole"),
        (OBSERVATIONS[2], {"rounds": range(3)}, r"^rounds\[0\] is 0: pass a whole"),
        (OBSERVATIONS[2], {"rounds": (5, 1)}, "^rounds are .5, 1.: name them from few"),
        (OBSERVATIONS[3], {"temperatures": 2.0}, "^temperatures is a float: pass"),
        (OBSERVATIONS[3], {"temperatures": []}, "^temperatures is empty: pass one"),
        (OBSERVATIONS[3], {"temperatures": "12"}, "^temperatures is a str: pass"),
        (OBSERVATIONS[3], {"temperatures": [0.0]}, r"^temperatures\[0\] is 0.0: pass"),
        (OBSERVATIONS[4], {"temperatures": [1, "2"]}, r"^temperatures\[1\] is '2': pa"),
        (OBSERVATIONS[4], {"temperatures": [1.0]}, "^temperatures are .1.0.: pass two"),
    ],
)
def test_options_of_observations(study, evaluate, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        evaluate(study, (RUN,), **options)
