"""The recorded program: what it computes, its derivatives, and what is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.structured import Shrunk
from tests.structured.zoo.cases import case, keep_of, units_of

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event)
)


def compiled(function, *args):
    """Returns how many programs a call compiles, and what it returns."""
    before = len(COMPILED)
    result = jax.block_until_ready(function(*args))
    events = COMPILED[before:]
    return events.count("/jax/core/compile/backend_compile_duration"), result


def mean_by_width(params, x):
    """Divides by a width that Python reads, so that the recorded program must run."""
    h = jax.nn.relu(x @ params["in"])
    h = h + jnp.tanh(h @ params["middle"])
    return (h / h.shape[-1]) @ params["out"]


def by_width():
    """Returns its variables, an input and its units, at widths of no other test."""
    rng = np.random.default_rng(0)
    shapes = {"in": (19, 23), "middle": (23, 23), "out": (23, 17)}
    params = {
        name: jnp.asarray(rng.normal(size=shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    x = jnp.asarray(rng.normal(size=(13, 19)).astype(np.float32))
    return params, x, gf.find_units(mean_by_width, params, x)


def test_a_cut_is_checked_by_two_programs():
    """The masked model, for all keep sets, and the cut one; nothing runs op by op."""
    params, x, units = by_width()
    first = {"in[1]": np.arange(23) % 4 > 0}
    count, error = compiled(gf.structured.cut_error, params, units, first, x)
    assert error < 1e-6 and count == 2
    second = {"in[1]": np.arange(23) % 5 != 1}
    count, error = compiled(gf.structured.cut_error, params, units, second, x)
    assert error < 1e-6 and count == 1


def test_a_cut_model_is_one_program_for_each_shape_of_its_inputs():
    params, x, units = by_width()
    keep = {"in[1]": np.arange(23) % 3 > 0}
    count, small = compiled(gf.cut, params, units, keep)
    assert count == 0
    run = gf.shrink(mean_by_width, units, keep)
    assert not run.native and "15 for 23" in run.why
    masked = jax.jit(gf.prune)(params, units.masks(keep, params))
    for inputs in (x, x[:11]):
        count, result = compiled(run, small, inputs)
        np.testing.assert_allclose(
            result, jax.jit(mean_by_width)(masked, inputs), rtol=1e-5, atol=1e-6
        )
        assert count == 1
        assert compiled(run, small, inputs)[0] == 0


@pytest.mark.parametrize(
    "name", ["plain/attention", "plain/custom_jvp_mlp", "linen/vit", "plain/rotary"]
)
def test_gradients_of_the_cut_program_are_the_masked_models(name):
    """Under the recorded program too, with relu'(0) = 0 and not ½."""
    _, _, variables, inputs = case(name)
    units = units_of(name)
    keep = keep_of(units)

    def loss(run):
        return lambda tree: jnp.sum(jnp.sin(jax.tree.leaves(run(tree, *inputs))[0]))

    masked = jax.jit(gf.prune)(variables, units.masks(keep, variables))
    full = gf.cut(jax.jit(jax.grad(loss(units.model.apply)))(masked), units, keep)
    small = jax.jit(jax.grad(loss(Shrunk(units, keep).program)))(
        gf.cut(variables, units, keep)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), full, small
    )


def test_relu_of_zero_has_no_slope_in_the_recorded_program():
    def apply(params, x):
        return jax.nn.relu(x @ params["in"]) @ params["out"]

    params = {"in": jnp.zeros((2, 4)), "out": jnp.ones((4, 1))}
    x = jnp.ones((1, 2))
    units = gf.find_units(apply, params, x)
    keep = {"in[1]": np.array([True, False, True, True])}
    run = Shrunk(units, keep).program
    small = gf.cut(params, units, keep)
    slopes = jax.grad(lambda tree: run(tree, x).sum())(small)
    assert np.all(np.asarray(slopes["in"]) == 0)


def test_the_recorded_program_runs_at_other_batch_sizes_and_under_jit():
    model, _, variables, inputs = case("plain/attention")
    units = units_of("plain/attention")
    keep = keep_of(units)
    small = gf.shrink(model, units, keep)
    assert not small.native
    masked = jax.jit(gf.prune)(variables, units.masks(keep, variables))
    for count in (1, 5):
        x = np.random.default_rng(count).normal(size=(count, *inputs[0].shape[1:]))
        x = x.astype(np.float32)
        found = jax.jit(small)(gf.cut(variables, units, keep), x)
        expected = jax.jit(model)(masked, x)
        np.testing.assert_allclose(expected, found, rtol=1e-4, atol=1e-5)


def test_a_slice_at_a_place_that_is_computed_is_as_wide_as_what_is_left():
    def apply(params, x):
        hidden = jax.nn.relu(x @ params["in"])
        place = jnp.argmax(x[0, :, 0])
        return jax.lax.dynamic_slice_in_dim(hidden, place, 1, axis=1) @ params["out"]

    rng = np.random.default_rng(0)
    shapes = {"in": (3, 5), "out": (5, 2)}
    params = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    units = gf.find_units(apply, params, x)
    keep = {"in[1]": np.array([True, False, True, True, False])}
    kept = np.flatnonzero(keep["in[1]"])
    small = gf.cut(params, units, keep)
    hidden = np.maximum(x[:, [x[0, :, 0].argmax()]] @ params["in"][:, kept], 0)
    np.testing.assert_allclose(
        Shrunk(units, keep).program(small, x), hidden @ params["out"][kept], rtol=1e-5
    )
