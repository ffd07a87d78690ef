"""Modules of any framework as pairs (init, apply), and those that are none."""

import functools

import equinox as eqx
import jax
import numpy as np
import pytest
from flax import linen, nnx

from gradflow_jax.observations import problem_of

X = np.random.default_rng(10).normal(size=(6, 3)).astype(np.float32)
Y = np.arange(6) % 2


class Keyword(nnx.Module):
    def __init__(self, width=4, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.second = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


class Positional(Keyword):
    def __init__(self, rngs):
        super().__init__(rngs=rngs)


class Dropping(Keyword):
    def __init__(self, *, rate=0.5, rngs):
        super().__init__(rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return super().__call__(self.dropout(x))


def in_evaluation(rngs):
    model = Dropping(rngs=rngs)
    model.eval()
    return model


MAKERS = {
    "a keyword": Keyword,
    "a place": Positional,
    "a bound width": functools.partial(Keyword, 5),
    "a function": lambda rngs: Keyword(rngs=rngs),
    "a function of a keyword": lambda *, rngs: Keyword(rngs=rngs),
    "an inherited keyword": type("Inherited", (Keyword,), {}),
    "dropout in evaluation mode": in_evaluation,
    "dropout that drops nothing": functools.partial(Dropping, rate=0.0),
}


@pytest.mark.parametrize("case", MAKERS)
def test_what_makes_an_nnx_module_makes_a_problem(case):
    problem = problem_of(MAKERS[case], X, Y)
    params = problem.init(jax.random.key(1))
    apply = jax.jit(problem.apply)
    np.testing.assert_array_equal(apply(params, X), apply(params, X))
    kernel = params["first"]["kernel"][...]
    expected = jax.nn.relu(X @ kernel) @ params["second"]["kernel"][...]
    np.testing.assert_allclose(apply(params, X), expected, rtol=1e-4, atol=1e-5)


def test_a_module_that_draws_is_refused():
    class Noisy(Keyword):
        def __init__(self, rngs):
            super().__init__(rngs=rngs)
            self.rngs = rngs

        def __call__(self, x):
            return super().__call__(x + jax.random.normal(self.rngs.noise(), x.shape))

    for make in (Dropping, Noisy):
        with pytest.raises(
            ValueError, match="draws random numbers.* pair .init, apply"
        ):
            problem_of(make, X, Y)


class WithMode(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        return linen.Dropout(0.5, deterministic=not train)(linen.Dense(2)(x))


class LinenDropout(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, deterministic=False)(linen.Dense(2)(x))


class NnxMode(Keyword):
    def __call__(self, x, train):
        return super().__call__(x)


class NeedsWidth(Keyword):
    def __init__(self, width, *, rngs):
        super().__init__(width, rngs=rngs)


class EquinoxWidth(eqx.Module):
    layer: eqx.nn.Linear

    def __init__(self, width, *, key):
        self.layer = eqx.nn.Linear(3, width, key=key)


def test_modules_that_take_more_than_the_inputs_are_told_the_pair():
    problem = problem_of(WithMode(), X, Y)
    with pytest.raises(
        TypeError, match=r"WithMode cannot .*'train'.*pair \(init, appl"
    ):
        problem.init(jax.random.key(0))
    problem = problem_of(LinenDropout(), X, Y)
    params = problem.init(jax.random.key(0))
    with pytest.raises(TypeError, match=r"LinenDropout cannot.*pair \(init, apply"):
        problem.apply(params, X)
    with pytest.raises(
        TypeError, match=r"NnxMode cannot .*'train'.*pair \(init, apply"
    ):
        problem_of(NnxMode, X, Y)
    for make in (NeedsWidth, EquinoxWidth):
        with pytest.raises(TypeError, match=f"{make.__name__}.*functools.partial"):
            problem_of(make, X, Y)


def test_errors_of_other_kinds_in_a_module_are_its_own():
    class Broken(linen.Module):
        @linen.compact
        def __call__(self, x):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        problem_of(Broken(), X, Y).init(jax.random.key(0))
