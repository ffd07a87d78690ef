"""Tracking gradient flow in training: a tracked step, and one that is not."""

from functools import partial

import jax
import jax.numpy as jnp
import networks
import optax
import pytest
from measuring import Ratio

import gradflow_jax as gf
from gradflow_jax import dynamics
from gradflow_jax.dynamics.evolution import loss_and_products
from gradflow_jax.scores.evaluation import evaluate_then

PROBLEMS = ("ResNet-20, training mode", "transformer")
# A count of steps that no run here reaches.
NEVER = 2**30

BRANCH = (
    "tens of times: so slow is XLA's CPU at a convolution's gradient in a branch. "
    "Record such networks from outside of the step"
)

MEMORY = (
    "what the branch would need is allocated in every step: where this makes it more "
    "than 32 MiB, glibc maps it anew each time, and pages fault"
)


def problem_named(name, quick):
    if name == "transformer":
        return networks.text_problem(**({"layers": 1, "size": 4} if quick else {}))
    network = networks.resnet(8 if quick else 20)
    return networks.image_problem(network, 16 if quick else 64, train=True)


class Stepper:
    """Steps of SGD in one jit, which reuses the memory of its arguments."""

    def __init__(self, problem, *trackers):
        # A copy: the steps donate it.
        self.params = jax.tree.map(jnp.copy, problem.params)
        self.args = problem.arguments[1:]
        tx = optax.chain(optax.sgd(1e-4, momentum=0.9), *trackers)
        self.state = tx.init(self.params)

        def step(params, state, args):
            gradient = jax.grad(problem.loss)(params, *args)
            updates, state = tx.update(gradient, state, params, loss_args=args)
            return optax.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self):
        self.params, self.state = self.step(self.params, self.state, self.args)
        return self.params


class Recorded(Stepper):
    """The same, each after a call of a recorder."""

    def __init__(self, problem, **options):
        super().__init__(problem)
        self.record = dynamics.Recorder(problem.loss, **options)

    def __call__(self):
        self.record(self.params, *self.args)
        return super().__call__()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_that_is_tracked(paired, missing, quick, name):
    """Tracking is one evaluation of the second order and sums over weights."""
    problem = problem_named(name, quick)
    evaluate = evaluate_then(partial(loss_and_products, None), problem.loss, order=2)
    gradient = jax.jit(jax.grad(problem.loss))
    contestants = {
        "ours": lambda: evaluate(*problem.arguments),
        "gradient": lambda: gradient(*problem.arguments),
        "recorded": Recorded(problem),
        "plain": Stepper(problem),
    }
    ratios = [
        Ratio(f"what is tracked over the gradient: {name}", "ours", "gradient", 3.5),
        Ratio(f"recorded step over plain: {name}", "recorded", "plain"),
    ]
    work = f"tracked step over plain: {name}"
    if name != "transformer" and jax.devices()[0].platform == "cpu":
        missing(work, BRANCH)
    else:
        contestants["tracked"] = Stepper(problem, gf.dynamics.track(problem.loss))
        ratios.append(Ratio(work, "tracked", "plain"))
    paired(contestants, *ratios)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_that_is_not_tracked(paired, quick, name):
    problem = problem_named(name, quick)
    contestants = {
        "ours": Stepper(problem, gf.dynamics.track(problem.loss, every=NEVER)),
        "recorded": Recorded(problem, every=NEVER),
        "plain": Stepper(problem),
    }
    paired(
        contestants,
        Ratio(f"untracked step over plain: {name}", "ours", "plain", 1.02, note=MEMORY),
        Ratio(f"unrecorded step over plain: {name}", "recorded", "plain", 1.02),
        rounds=31,
    )


def test_memory_does_not_grow(counted):
    problem = problem_named("transformer", quick=True)
    stepper = Stepper(problem, gf.dynamics.track(problem.loss, capacity=4))

    def held():
        return sum(leaf.nbytes for leaf in jax.tree.leaves(stepper.state))

    before = held()
    for _ in range(12):
        stepper()
    work = "bytes that the state of tracking grows by in 12 steps"
    counted(work, held() - before, "bytes", at_most=0)
