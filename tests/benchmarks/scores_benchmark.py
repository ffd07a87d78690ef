"""The measures of one batch, beside the gradient and beside raw JAX code."""

import functools

import jax
import networks
import pytest
from measuring import Ratio, temporaries
from raw_scores import raw_grasp, raw_loss_preservation, reverse_over_reverse

import gradflow_jax as gf

PROBLEMS = ("ResNet-20, training mode", "ResNet-20, eval mode", "transformer")
# What (ḡ, Hḡ) may cost, in gradients.
TARGETS = dict(zip(PROBLEMS, (2.4, 3.4, 3.1), strict=True))


def problem_named(name, quick):
    if name == "transformer":
        return networks.text_problem(**({"layers": 1, "size": 4} if quick else {}))
    train = "training" in name
    network = networks.resnet(8 if quick else 20)
    return networks.image_problem(network, 64 if train else 16, train=train)


def every_measure(loss):
    """All ten, with those of batch norm and of chance, in one jit."""
    evaluate = gf.differentiate(loss, order=2, squares="batch")

    @jax.jit
    def scores(params, *args):
        return (
            gf.score_all(evaluate(params, *args)),
            gf.batch_norm_scale(params),
            gf.batch_norm_taylor(loss)(params, *args),
            gf.random(jax.random.key(0))(params),
        )

    return scores


RAW = {gf.grasp: raw_grasp, gf.loss_preservation: raw_loss_preservation}


def calls(functions, problem):
    return {
        kind: functools.partial(function, *problem.arguments)
        for kind, function in functions.items()
    }


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_derivatives_over_the_gradient(paired, quick, name):
    problem = problem_named(name, quick)
    functions = {
        "ours": gf.differentiate(problem.loss),
        "gradient": jax.jit(jax.grad(problem.loss)),
        "reverse over reverse": reverse_over_reverse(problem.loss),
    }
    memory = {
        kind: temporaries(function.lower(*problem.arguments).compile())
        for kind, function in functions.items()
    }
    paired(
        calls(functions, problem),
        Ratio(f"ḡ and Hḡ over ḡ: {name}", "ours", "gradient", TARGETS[name]),
        Ratio(
            f"reverse over reverse over ḡ: {name}", "reverse over reverse", "gradient"
        ),
        memory=memory,
    )


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("measure", RAW, ids=lambda measure: measure.__name__)
def test_measure_over_raw_jax(paired, quick, measure, name):
    problem = problem_named(name, quick)
    functions = {"ours": measure(problem.loss), "raw": RAW[measure](problem.loss)}
    paired(
        calls(functions, problem),
        Ratio(f"{measure.__name__} over raw JAX: {name}", "ours", "raw", 1.02),
        rounds=31,
    )


def test_every_measure_over_grasp(paired, quick):
    problem = problem_named(PROBLEMS[0], quick)
    functions = {
        "ours": every_measure(problem.loss),
        "grasp": gf.grasp(problem.loss),
    }
    paired(
        calls(functions, problem),
        Ratio(
            f"all ten measures at once over grasp: {PROBLEMS[0]}", "ours", "grasp", 1.1
        ),
    )


@pytest.mark.parametrize("measure", [gf.loss_preservation, gf.grasp])
def test_recompilations(counted, measure):
    problem, traced = problem_named(PROBLEMS[0], quick=True), []

    def loss(*args):
        traced.append(args)
        return problem.loss(*args)

    scores = measure(loss)
    scores(*problem.arguments)
    before = len(traced)
    for seed in (2, 3):
        batch = networks.image_batch(64, seed)
        scores(problem.params, batch, *problem.others)
    work = f"recompilations at new batches: {measure.__name__}"
    counted(work, len(traced) - before, "", at_most=0)
