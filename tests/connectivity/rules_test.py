"""Where signals pass a primitive, against where its derivatives are not zero."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradflow_jax.connectivity import effective_masks

POINTS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
CHOICE = jnp.array([True, False, True, False])

FUNCTIONS = {
    "cumsum": lambda h: jnp.cumsum(h),
    "cumsum_back": lambda h: lax.cumsum(h, 0, reverse=True),
    "cumprod": lambda h: jnp.cumprod(h),
    "cummax": lambda h: lax.cummax(h),
    "cumlogsumexp": lambda h: lax.cumlogsumexp(h),
    "sort": lambda h: jnp.sort(h),
    "top_k": lambda h: lax.top_k(h, 2)[0],
    "approx_top_k": lambda h: lax.approx_max_k(
        h.reshape(2, 2), 1, reduction_dimension=0
    )[0],
    "spectrum": lambda h: jnp.abs(jnp.fft.rfft(h.reshape(2, 2))),
    "added": lambda h: jnp.ones(3).at[jnp.array([2, 2])].add(h[1:3]),
    "multiplied": lambda h: h.at[jnp.array([2, 0])].multiply(
        h[1:3], unique_indices=True
    ),
    "largest at places": lambda h: h.at[jnp.array([2, 0])].max(h[1:3]),
    "segments": lambda h: jax.ops.segment_sum(h, np.array([0, 1, 0, 2]), 3),
    "reverse": lambda h: h[::-1],
    "roll": lambda h: jnp.roll(h, 1),
    "tile": lambda h: jnp.tile(h, 2),
    "pad": lambda h: jnp.pad(h, (1, 0))[:4] + 0 * h,
    "transpose": lambda h: h.reshape(2, 2).T.ravel(),
    "product": lambda h: jnp.prod(h),
    "largest": lambda h: jnp.stack([h[:2].max(), h[2:].min()]),
    "softmax": lambda h: jax.nn.softmax(h.reshape(2, 2)).ravel(),
    "choice": lambda h: jnp.where(CHOICE, h, h[::-1]),
    "choice_of_nothing": lambda h: jnp.where(h > 9, 0.0, 0.0) + h,
    "share": lambda h: h / h[:2].sum(),
    "inverse": lambda h: 1 / h,
    "power": lambda h: jnp.abs(h) ** h[::-1],
    "clip": lambda h: jnp.clip(h, -5.0, 5.0),
    "difference": lambda h: jnp.diff(h),
    "convolution": lambda h: jnp.convolve(h, jnp.array([1.0, 0.0, 2.0]))[:4],
    "constant_matrix": lambda h: h @ jnp.tri(4),
    "picked": lambda h: h[jnp.array([3, 3, 0])],
    "slices": lambda h: jnp.concatenate([h[::2], h[:1]]),
    "windows": lambda h: lax.reduce_window(h, 0.0, lax.add, (2,), (1,), "VALID"),
    "pools": lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (2,), (2,), "VALID"),
    "gate": lambda h: h[:2] * h[2:],
    "custom": lambda h: jax.nn.relu6(jax.nn.silu(h)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signals_pass_where_a_derivative_is_not_zero(name):
    function = FUNCTIONS[name]
    jacobian = jax.jacobian(lambda h: jnp.ravel(function(h)))
    slopes = jax.jit(jax.vmap(jacobian))(POINTS)
    depends = np.asarray((slopes != 0).any(0))

    def apply(v, x):
        return function(v["before"] * x) * v["after"]

    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    params = {
        "before": jnp.ones(4),
        "after": jnp.ones(jax.eval_shape(function, POINTS[0]).shape),
    }
    for position, slope in enumerate(depends):
        after = np.arange(len(depends)) == position
        masks = {
            "before": jnp.ones(4, bool),
            "after": jnp.asarray(after.reshape(params["after"].shape)),
        }
        effective = find(params, masks, jnp.ones(4))
        np.testing.assert_array_equal(effective["before"], slope)
        np.testing.assert_array_equal(
            jnp.ravel(effective["after"]), after & slope.any()
        )


@pytest.mark.parametrize(
    "function",
    [lambda h: jnp.argmax(h), lambda h: lax.stop_gradient(h), lambda h: jnp.sign(h)],
    ids=["argmax", "stop_gradient", "sign"],
)
def test_what_has_no_slope_passes_signals_too(function):
    find = partial(
        effective_masks,
        lambda v, x: function(v * x),
        prunable=lambda path, leaf: True,
    )
    masks = jnp.array([True, False, True])
    np.testing.assert_array_equal(find(jnp.ones(3), masks, jnp.ones(3)), masks)


@pytest.mark.parametrize(
    ("gate", "open_"),
    [(jnp.tanh, False), (jax.nn.sigmoid, True), (jnp.exp, True), (jax.nn.relu, False)],
)
def test_a_factor_that_no_input_reaches_is_what_the_primitive_makes_of_zero(
    gate, open_
):
    def apply(v, x):
        return gate(v["gate"] * x) * (v["kernel"] * x)

    masks = {"gate": jnp.zeros(2, bool), "kernel": jnp.ones(2, bool)}
    params = jax.tree.map(lambda mask: jnp.ones(2), masks)
    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    assert find(params, masks, jnp.ones(2))["kernel"].tolist() == [open_] * 2


def test_weights_that_make_a_constant_factor_are_on_the_path_of_what_it_multiplies():
    def apply(v, x):
        gate = jax.nn.relu((v["dead"] * x + v["bias"]) * v["gate"])
        return gate * v["kernel"] * x

    masks = {name: jnp.ones(2, bool) for name in ("bias", "gate", "kernel")}
    masks["dead"] = jnp.zeros(2, bool)
    masks["bias"] = jnp.array([True, False])
    params = jax.tree.map(lambda mask: jnp.ones(2), masks)
    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    effective = find(params, masks, jnp.ones(2))
    for name in ("bias", "gate", "kernel"):
        assert effective[name].tolist() == [True, False]


def test_rows_of_a_mixture_meet_any_expert_that_keeps_a_weight():
    def apply(v, x):
        return lax.ragged_dot(x * v["scale"], v["experts"], jnp.array([1, 1]))

    masks = {"scale": jnp.ones(3, bool), "experts": np.zeros((2, 3, 2), bool)}
    masks["experts"][0, 0], masks["experts"][1, 2, 1] = True, True
    params = jax.tree.map(lambda mask: jnp.ones(mask.shape), masks)
    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    effective = find(params, masks, jnp.ones((2, 3)))
    assert effective["scale"].tolist() == [True, False, True]
    np.testing.assert_array_equal(effective["experts"], masks["experts"])


def test_sizes_that_are_computed_reach_what_the_experts_make():
    def apply(v, x):
        sizes = jnp.int32(v["router"] * x)
        return lax.ragged_dot(jnp.ones((2, 3)), v["experts"], sizes)

    masks = {"router": jnp.array([True, False]), "experts": jnp.ones((2, 3, 2), bool)}
    params = jax.tree.map(lambda mask: jnp.ones(mask.shape), masks)
    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    effective = find(params, masks, jnp.ones(2))
    assert effective["router"].tolist() == [True, False]
    assert effective["experts"].all()


def test_a_position_is_not_zero_where_the_numbers_that_it_orders_are():
    def apply(v, x):
        positions = lax.top_k(v["order"], 2)[1]
        return positions * (v["kernel"] * x)

    masks = {"order": jnp.zeros(4, bool), "kernel": jnp.ones(2, bool)}
    params = jax.tree.map(lambda mask: jnp.ones(mask.shape), masks)
    find = partial(effective_masks, apply, prunable=lambda path, leaf: True)
    assert find(params, masks, jnp.ones(2))["kernel"].tolist() == [True, True]
