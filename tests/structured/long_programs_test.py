"""Programs of thousands of equations, of numbers alone, and of the host's code."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.programs.constants import Allowance, evaluate_equation

IN, OUT, X = (
    np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for shape in ((4, 8), (8, 3), (5, 4))
)
PARAMS = {"in": IN, "out": OUT}


def model(change):
    def apply(params, x):
        return change(jax.nn.relu(x @ params["in"])) @ params["out"]

    return apply


def sizes(apply):
    return [family.size for family in gf.find_units(apply, PARAMS, X)]


def scaled_by_a_chain(h):
    factor = jnp.ones(())
    for step in range(3000):
        factor = factor * 0.999 + 1e-3 * (step % 3)
    return h * factor


def scaled_step_by_step(h):
    for _ in range(3000):
        h = h * 0.999
    return h


def picked_by_a_chain(h):
    order = jnp.arange(8)
    for _ in range(1000):
        order = order + 1 - 1
    return h[:, order]


def joined_again_and_again(h):
    parts = h
    for _ in range(1200):
        parts = jnp.concatenate([parts, h], 1)
    return parts[:, :8]


@pytest.mark.models
@pytest.mark.parametrize(
    "change",
    [
        scaled_by_a_chain,
        scaled_step_by_step,
        picked_by_a_chain,
        joined_again_and_again,
    ],
)
def test_thousands_of_equations_in_a_row_are_no_recursion(change):
    apply = model(change)
    units = gf.find_units(apply, PARAMS, X)
    assert [family.size for family in units] == [8]
    keep = {family.name: np.arange(8) % 2 == 0 for family in units}
    assert gf.shrink(apply, units, keep) is not None
    assert units.shapes(keep) == {"in": (4, 4), "out": (4, 3)}


def nested(depth):
    """Returns a function of [5, 8] that calls one, which calls one, and so on."""
    closed = jax.make_jaxpr(lambda h: h * 0.5)(jnp.ones((5, 8)))
    for _ in range(depth):
        function = jax.extend.core.jaxpr_as_fun(closed)
        inner = jax.jit(lambda h, function=function: function(h)[0] * 0.99)
        closed = jax.make_jaxpr(inner)(jnp.ones((5, 8)))
    return lambda h: jax.extend.core.jaxpr_as_fun(closed)(h)[0]


def test_hundreds_of_nested_calls_are_read():
    assert sizes(model(nested(200))) == [8]


def endless(h):
    factor = jax.lax.while_loop(lambda c: c > 0, lambda c: c + 1.0, 1.0)
    return h * factor


def very_long(h):
    factor = jax.lax.fori_loop(0, 2**31 - 1, lambda i, c: c * 1.0, 1.0)
    return h * factor


def test_a_loop_of_numbers_alone_is_not_run():
    assert sizes(model(endless)) == [8]
    assert sizes(model(very_long)) == [8]
    masks = {"in": np.ones((4, 8), bool), "out": np.zeros((8, 3), bool)}
    masks["out"][0] = True
    effective = jax.eval_shape(
        lambda: gf.connectivity.effective_masks(model(endless), PARAMS, masks, X)
    )
    assert effective["in"].shape == (4, 8)


CALLS = []


def host(x):
    CALLS.append(x)
    return np.float32(2.0)


def called_back(h):
    number = jax.ShapeDtypeStruct((), np.float32)
    return h * jax.pure_callback(host, number, np.float32(1.0))


def called_back_in_a_call(h):
    return jax.jit(called_back)(h)


def called_back_in_a_loop(h):
    return jax.lax.scan(lambda c, _: (called_back(c), None), h, length=2)[0]


@pytest.mark.parametrize(
    "change", [called_back, called_back_in_a_call, called_back_in_a_loop]
)
def test_the_hosts_code_is_not_called_by_an_analysis(change):
    CALLS.clear()
    apply = model(change)
    units = gf.find_units(apply, PARAMS, X)
    assert [family.size for family in units] == [8]
    gf.shrink(apply, units, {family.name: np.arange(8) > 2 for family in units})
    masks = {"in": np.ones((4, 8), bool), "out": np.ones((8, 3), bool)}
    jax.eval_shape(lambda: gf.connectivity.effective_masks(apply, PARAMS, masks, X))
    assert not CALLS


def test_a_callback_in_order_is_refused():
    def apply(params, x):
        jax.debug.print("{}", x.sum())
        return x @ params["in"] @ params["out"]

    with pytest.raises(ValueError, match="the model has side effects"):
        gf.find_units(apply, PARAMS, X)


def test_what_is_evaluated_is_bounded():
    (eqn,) = jax.make_jaxpr(lambda x: x + 1.0)(jnp.zeros(600)).eqns
    operands = [np.zeros(600, np.float32), np.float32(1.0)]
    (result,) = evaluate_equation(eqn, operands, Allowance(1000))
    np.testing.assert_array_equal(result, np.ones(600))
    assert evaluate_equation(eqn, operands, Allowance(1000), largest=599) is None
    allowance = Allowance(1000)
    results = [evaluate_equation(eqn, operands, allowance) for _ in range(3)]
    assert [result is None for result in results] == [False, True, True]


def test_an_equation_that_fails_alone_is_unknown():
    number = jax.make_jaxpr(lambda: jax.lax.axis_index("x"), axis_env=[("x", 2)])()
    assert evaluate_equation(number.eqns[0], [], Allowance()) is None
