"""The report of effective sparsity: its numbers, its table, dead units."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow_jax as gf
from gradflow_jax.connectivity import effective_report

checked = settings(max_examples=25, deadline=None, derandomize=True, database=None)
X = jax.random.normal(jax.random.key(0), (32, 3))


def apply(v, x):
    h = jax.nn.relu(x @ v["a"]["kernel"] + v["a"]["bias"])
    h = (h @ v["b"]["kernel"] - v["norm"]["mean"]) / jnp.sqrt(v["norm"]["var"] + 0.1)
    h = jnp.tanh(h * v["norm"]["scale"] + v["norm"]["bias"])
    return h @ v["c"]["kernel"] + v["c"]["bias"]


SHAPES = {
    "a": {"kernel": (3, 4), "bias": (4,)},
    "b": {"kernel": (4, 5)},
    "norm": {"scale": (5,), "bias": (5,), "mean": (5,), "var": (5,)},
    "c": {"kernel": (5, 2), "bias": (2,)},
}


def numbers(seed, some_zero=False):
    rng = np.random.default_rng(seed)

    def draw(shape):
        drawn = (
            np.abs(rng.normal(size=shape)) if shape == (5,) else rng.normal(size=shape)
        )
        if some_zero and len(shape) == 1:
            drawn = drawn * rng.integers(0, 2, shape)
        return jnp.asarray(drawn, jnp.float32)

    return jax.tree.map(draw, SHAPES, is_leaf=lambda node: type(node) is tuple)


def masks_of(params, **kernels):
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    for name, mask in kernels.items():
        masks[name]["kernel"] = jnp.asarray(mask)
    return masks


PARAMS = numbers(0)
UNITS = gf.find_units(apply, PARAMS, X)
report_of = partial(effective_report, apply, units=UNITS)
run = jax.jit(apply)


@checked
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.2, 0.4, 0.6)))
def test_a_dead_unit_leaks_exactly_if_its_removal_changes_the_output(seed, density):
    params, rng = numbers(seed, some_zero=True), np.random.default_rng(seed)
    masks = masks_of(
        params,
        **{name: rng.random(SHAPES[name]["kernel"]) < density for name in "abc"},
    )
    pruned = gf.prune(params, masks)
    before = run(pruned, X)
    report = report_of(params, masks, X[:1])
    assert [dead.size for dead in report.units] == [4, 5]
    for dead in report.units:
        for number in (*dead.silent, *dead.leaking):
            keep = {dead.family: np.arange(dead.size) != number}
            after = run(gf.prune(pruned, UNITS.masks(keep, params)), X)
            # To the bit: a silent unit adds zeros. Constants pass tanh whatever x is.
            assert bool((after != before).any()) == (number in dead.leaking)


def test_units_that_are_alive_are_not_listed():
    report = report_of(PARAMS, masks_of(PARAMS), X[:1])
    assert all(dead.silent == dead.leaking == () for dead in report.units)
    assert report.collapsed == () and report.guessed == ()
    assert report.direct == report.effective
    assert len(str(report).splitlines()) == 5 + 9


def test_layers_collapse():
    masks = masks_of(PARAMS, b=np.zeros((4, 5), bool))
    report = report_of(PARAMS, masks, X[:1])
    assert report.collapsed == ("a/kernel", "b/kernel", "c/kernel")
    assert report.direct.sparsity == pytest.approx(20 / 42)
    assert report.effective.sparsity == 1.0
    first, second = report.units
    # Nothing leads on from the first layer; the second has its batch norm's shift.
    assert first == ("a/kernel[1]", 4, (0, 1, 2, 3), ())
    assert second == ("b/kernel[1]", 5, (), (0, 1, 2, 3, 4))
    *_, collapsed, first_family, second_family = str(report).splitlines()
    assert collapsed == "collapsed: a/kernel, b/kernel, c/kernel"
    assert (
        first_family
        == "a/kernel[1]: 4 of 4 units dead, 0 of them with a constant that goes on"
    )
    assert "5 of 5 units dead, 5 of them" in second_family


def test_both_sparsities_stand_in_the_table_and_in_its_html():
    masks = masks_of(PARAMS, a=np.ones((3, 4), bool) & (np.arange(4) > 1))
    report = effective_report(apply, PARAMS, masks, X[:1])
    assert report.units == ()
    rows = [line.split() for line in str(report).splitlines()]
    assert ["a/kernel", "3×4", "6", "6", "12", "50.00%", "50.00%"] in rows
    assert ["b/kernel", "4×5", "20", "10", "20", "0.00%", "50.00%"] in rows
    assert rows[0][-2:] == ["effective", "sparsity"]
    markup = report._repr_html_()
    assert "<td" in markup and "50.00%" in markup and "not pruned" in markup
    assert len({len(line) for line in str(report).splitlines()}) == 1


def test_statistics_closed_over_are_constants():
    fixed = {name: PARAMS["norm"][name] for name in ("mean", "var")}
    params = {**PARAMS, "norm": {n: PARAMS["norm"][n] for n in ("scale", "bias")}}

    def closed(v, x):
        return apply({**v, "norm": {**v["norm"], **fixed}}, x)

    masks = masks_of(params, b=np.ones((4, 5), bool) & (np.arange(5) != 2))
    units = gf.find_units(closed, params, X)
    report = effective_report(closed, params, masks, X[:1], units=units)
    assert report.units[1] == ("b/kernel[1]", 5, (), (2,))
    # Without shift and scale its constant is tanh(0).
    params["norm"]["bias"] = params["norm"]["bias"].at[2].set(0.0)
    params["norm"]["scale"] = params["norm"]["scale"].at[2].set(0.0)
    report = effective_report(closed, params, masks, X[:1], units=units)
    assert report.units[1] == ("b/kernel[1]", 5, (2,), ())


def test_in_a_loop_a_dead_unit_is_what_it_is_at_its_last_step():
    def recurrent(v, x):
        def step(h, x):
            return jnp.tanh(x @ v["in"] + h @ v["again"] + v["bias"]), None

        h, _ = jax.lax.scan(step, jnp.zeros((len(x), 4)), x.swapaxes(0, 1))
        return h @ v["out"]

    params = {
        "in": jnp.ones((3, 4)),
        "again": jnp.eye(4),
        "bias": jnp.array([0.0, 0.0, 1.0, 1.0]),
        "out": jnp.ones((4, 2)),
    }
    x = jnp.ones((1, 5, 3))
    units = gf.find_units(recurrent, params, x)
    masks = {
        "in": jnp.ones((3, 4), bool).at[:, 1:3].set(False),
        "again": jnp.eye(4, dtype=bool),
        "bias": jnp.ones(4, bool),
        "out": jnp.ones((4, 2), bool),
    }
    (dead,) = effective_report(recurrent, params, masks, x, units=units).units
    assert (dead.silent, dead.leaking) == ((1,), (2,))


def test_constants_of_inner_functions_have_numbers_too():
    def inner(v, x):
        ones = jax.jit(lambda: jnp.ones(3))()
        h = x @ v["in"] + v["bias"]
        h = jax.lax.cond(v["bias"].sum() > 0, jnp.sin, jnp.tanh, h)
        return (h * ones) @ v["out"]

    params = {"in": jnp.ones((2, 3)), "bias": jnp.ones(3), "out": jnp.ones((3, 1))}
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    masks["in"] = masks["in"].at[:, 0].set(False)
    x = jnp.ones((1, 2))
    units = gf.find_units(inner, params, x)
    (dead,) = effective_report(inner, params, masks, x, units=units).units
    assert (dead.silent, dead.leaking) == ((), (0,))


def test_primitives_without_a_rule_are_named():
    def factored(v, x):
        return jnp.linalg.cholesky(x @ v)

    report = partial(effective_report, factored)
    printed_report = report(jnp.ones((2, 2)), jnp.ones((2, 2), bool), jnp.ones((2, 2)))
    assert printed_report.guessed == ("cholesky",)
    assert str(printed_report).endswith("\nwithout a rule: cholesky")
    assert "<p>without a rule: cholesky</p>" in printed_report._repr_html_()


def test_units_of_another_model_are_an_error():
    other_model = {"kernel": jnp.ones((3, 2))}
    report = partial(effective_report, lambda v, x: x @ v["kernel"], units=UNITS)
    with pytest.raises(ValueError, match="params"):
        report(other_model, {"kernel": jnp.ones((3, 2), bool)}, X)


def test_arguments_that_are_no_arrays_are_named():
    params, masks = {"w": np.ones((2, 2))}, {"w": np.ones((2, 2), bool)}

    def apply(params, x):
        return x @ params["w"]

    for call in (gf.connectivity.effective_masks, gf.connectivity.effective_report):
        with pytest.raises(TypeError, match="inputs leaf '0' is str, no array of"):
            call(apply, params, masks, "batch")
        with pytest.raises(TypeError, match="params leaf 'w' is range, no array of"):
            call(apply, {"w": range(2)}, masks, np.ones((1, 2)))
        with pytest.raises(TypeError, match=r"masks leaf 'w' is float32\[2,2\], not"):
            call(apply, params, params, np.ones((1, 2)))
    with pytest.raises(TypeError, match="units is a dict, not what gf.find_units"):
        gf.connectivity.effective_report(
            apply, params, masks, np.ones((1, 2)), units={}
        )


@pytest.mark.parametrize("output", ["logits", np.array(["a"]), (None, object())])
def test_what_is_no_output_of_a_model_is_named(output):
    params, masks = {"w": np.ones((2, 2))}, {"w": np.ones((2, 2), bool)}
    message = "what the model returns, .* is .*, no array of numbers"
    for call in (gf.connectivity.effective_masks, gf.connectivity.effective_report):
        with pytest.raises(TypeError, match=message):
            call(lambda params, x: output, params, masks, np.ones((1, 2)))


def test_shapes_do_where_no_unit_asks_for_numbers():
    shapes = jax.eval_shape(lambda *trees: trees, PARAMS, X)
    masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), PARAMS)
    gf.connectivity.effective_masks(apply, shapes[0], masks, X)
    for params, x, what in ((shapes[0], X, "params"), (PARAMS, shapes[1], "inputs")):
        with pytest.raises(
            TypeError, match=f"^{what} .* is a shape without values: wit"
        ):
            effective_report(apply, params, masks, x, units=UNITS)
