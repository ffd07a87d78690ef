"""Tracking gradient flow in training: a tracked step, and one that is not."""

import jax
import jax.numpy as jnp
import networks
import optax
import pytest
from measuring import Ratio

import gradflow_jax as gf
from gradflow_jax import dynamics

PROBLEMS = ("ResNet-20, training mode", "transformer")
# A count of steps that no run here reaches.
NEVER = 2**30

BRANCH = (
    "XLA's CPU computes a convolution's gradient in a branch many times slower: record "
    "such networks from outside of the step"
)


def problem_named(name, quick):
    if name == "transformer":
        return networks.text_problem(**({"layers": 1, "size": 4} if quick else {}))
    network = networks.resnet(8 if quick else 20)
    return networks.image_problem(network, 16 if quick else 64, train=True)


class Stepper:
    """Steps of SGD in one jit, which reuses the memory of its arguments."""

    def __init__(self, problem, tracker=None, record=None):
        # A copy: the steps donate it.
        self.params = jax.tree.map(jnp.copy, problem.params)
        self.args, self.record = problem.arguments[1:], record
        tx = optax.with_extra_args_support(optax.sgd(1e-4, momentum=0.9))
        if tracker is not None:
            tx = optax.chain(tx, tracker)
        self.state = tx.init(self.params)

        def step(params, state, args):
            gradient = jax.grad(problem.loss)(params, *args)
            updates, state = tx.update(gradient, state, params, loss_args=args)
            return optax.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self):
        if self.record is not None:
            self.record(self.params, *self.args)
        self.params, self.state = self.step(self.params, self.state, self.args)
        return self.params


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_that_is_tracked(paired, quick, name):
    problem = problem_named(name, quick)
    gradient = jax.jit(jax.grad(problem.loss))
    contestants = {
        "ours": Stepper(problem, gf.track(problem.loss)),
        "recorded": Stepper(problem, record=dynamics.Recorder(problem.loss)),
        "gradient": lambda: gradient(*problem.arguments),
    }
    inside = Ratio(f"tracked step over the gradient: {name}", "ours", "gradient", 3.5)
    if name != "transformer" and jax.devices()[0].platform == "cpu":
        inside = inside._replace(at_most=None, note=BRANCH)
    paired(
        contestants,
        inside,
        Ratio(f"recorded step over the gradient: {name}", "recorded", "gradient", 3.5),
    )


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_that_is_not_tracked(paired, quick, name):
    problem = problem_named(name, quick)
    never = gf.track(problem.loss, every=NEVER)
    record = dynamics.Recorder(problem.loss, every=NEVER)
    contestants = {
        "ours": Stepper(problem, never),
        "recorded": Stepper(problem, record=record),
        "plain": Stepper(problem),
    }
    paired(
        contestants,
        Ratio(f"untracked step over plain: {name}", "ours", "plain", 1.02),
        Ratio(f"unrecorded step over plain: {name}", "recorded", "plain", 1.02),
        rounds=31,
    )


def test_memory_does_not_grow(counted):
    problem = problem_named("transformer", quick=True)
    stepper = Stepper(problem, gf.track(problem.loss, capacity=4))

    def held():
        return sum(leaf.nbytes for leaf in jax.tree.leaves(stepper.state))

    before = held()
    for _ in range(12):
        stepper()
    work = "bytes that the state of tracking grows by in 12 steps"
    counted(work, held() - before, "bytes", at_most=0)
