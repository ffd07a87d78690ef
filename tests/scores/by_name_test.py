"""Scores of neurons, of kernels in any layout, against those of the dense kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow_jax as gf
from gradflow_jax.scores import RULES, Derivatives

# Of each layout: its shape, its roles, and the axes in the order [in, neurons].
LAYOUTS = {
    "query": ((6, 2, 3), ("in", "head", "out"), (0, 1, 2)),
    "out": ((2, 3, 6), ("in", "in", "out"), (0, 1, 2)),
    "weight": ((6, 4), ("out", "in"), (1, 0)),
    "scanned": ((2, 6, 2, 3), ("stack", "in", "head", "out"), (1, 0, 2, 3)),
    "conv": ((3, 2, 6), ("window", "in", "out"), (0, 1, 2)),
    "bias": ((6,), ("out",), (0,)),
    "scalar": ((), (), ()),
}
ROLES = {name: words for name, (_, words, _) in LAYOUTS.items()}


@pytest.fixture(scope="module")
def d():
    rng = np.random.default_rng(0)

    def draw():
        return {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, (shape, *_) in LAYOUTS.items()
        }

    squares = jax.tree.map(np.square, draw())
    return Derivatives(draw(), 0.0, draw(), draw(), squares, draw())


def test_a_neuron_has_one_score_in_every_layout(d):
    scores = jax.jit(
        lambda d: {name: gf.score(d, name, roles=ROLES) for name in RULES}
    )(d)
    for measure, rule in RULES.items():
        terms = rule.term(d)
        for name, (shape, words, order) in LAYOUTS.items():
            inputs = [
                n for n, w in zip(shape, words, strict=True) if w in ("in", "window")
            ]
            rows = int(np.prod(inputs))
            dense = np.asarray(terms[name]).transpose(order).reshape(rows, -1)
            expected = np.asarray(rule.outer(dense.sum(0)))
            result = np.asarray(scores[measure][name])
            np.testing.assert_allclose(
                result.ravel(), expected, rtol=1e-4, atol=1e-5, err_msg=name
            )
            kept = [
                n
                for n, w in zip(shape, words, strict=True)
                if w not in ("in", "window")
            ]
            assert list(result.shape) == kept


def test_a_scalar_beside_kernels_is_scored_as_it_is(d):
    scores = gf.score(d, "taylor", axis=-1)
    product = d.params["scalar"] * d.gradient["scalar"]
    np.testing.assert_allclose(scores["scalar"], abs(product), rtol=1e-6)
    # A square of such a weight would be zero in float32.
    tiny = gf.score(d._replace(params={"a": jnp.float32(1e-30)}), "magnitude", axis=-1)
    np.testing.assert_allclose(tiny["a"], 1e-30, rtol=1e-6)
    assert scores["query"].shape == (3,) and scores["bias"].shape == (6,)


def test_axes_by_path_leave_the_other_leaves_per_weight_or_to_roles(d):
    axis = {"query": (1, 2), "weight": 0}
    shapes = jax.tree.map(jnp.shape, gf.score(d, "taylor", axis=axis))
    assert shapes["query"] == (2, 3) and shapes["weight"] == (6,)
    assert shapes["out"] == (2, 3, 6) and shapes["scalar"] == ()
    by_roles = gf.score(
        d, "taylor", axis=axis, roles={**ROLES, "query": ("unknown",) * 3}
    )
    assert by_roles["query"].shape == (2, 3) and by_roles["out"].shape == (6,)


def test_a_leaf_that_lacks_the_axis_is_an_error_that_says_how_to_name_others(d):
    with pytest.raises(
        ValueError, match=r"'bias' of shape \(6,\) has no axis -2: name"
    ):
        gf.score(d, "taylor", axis=-2)


def test_unknown_roles_are_an_error_that_asks_for_an_axis(d):
    with pytest.raises(ValueError, match=r"'out' .* axis=\{'out': ...\}"):
        gf.score(d, "taylor", roles={**ROLES, "out": ("unknown",) * 3})
    with pytest.raises(ValueError, match="roles lacks scores leaf 'bias'"):
        gf.score(d, "taylor", roles={"query": ROLES["query"]})
