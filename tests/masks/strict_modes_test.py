"""Scores become masks, and masks are used, also where JAX promotes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow_jax as gf

RANKS = {"jax_numpy_rank_promotion": "raise"}
DTYPES = {"jax_numpy_dtype_promotion": "strict"}
MODES = [
    pytest.param(RANKS | DTYPES, id="both"),
    pytest.param(RANKS, id="ranks", marks=pytest.mark.models),
    pytest.param(DTYPES, id="dtypes", marks=pytest.mark.models),
]


@pytest.fixture(params=MODES)
def strict(request):
    options = request.param
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def masks_of(dtype):
    """Every selection of small scores, in rounds, and what masks are for."""
    rng = np.random.default_rng(2)
    params = {
        "a": jnp.asarray(rng.normal(size=(8, 4)), dtype),
        "b": jnp.asarray(rng.normal(size=(4, 8)), jnp.float32),
        "bias": jnp.zeros(4, dtype),
    }
    scores = gf.magnitude(params)
    masks = gf.global_masks(scores, sparsity=0.25)
    made = {
        "floor": gf.global_masks(scores, sparsity=0.5, floor=0.1, previous=masks),
        "layerwise": gf.layerwise_masks(scores, sparsity=0.5, previous=masks),
        "allocation": gf.layerwise_masks(
            scores, allocation=gf.erdos_renyi_kernel(scores, sparsity=0.5)
        ),
        "families": gf.group_masks(scores, {"a": 0.5, "b": 0.25}),
        "pattern": gf.n_of_m_masks(scores, n=1, m=2),
    }
    combined = gf.combine(*made.values())
    tx = gf.apply_mask(combined)
    pruned = gf.prune(params, combined)
    updates, _ = tx.update(params, tx.init(params), params)
    stepped = optax.apply_updates(params, updates)
    report = gf.report(combined, pruned, scores=scores)
    numbers = report.kept, report.violations, gf.report(combined, stepped).violations
    packed = gf.unpack_masks(gf.pack_masks(combined), params)
    return made | {"packed": packed}, numbers, gf.overlap(combined, packed)


def test_scores_become_masks(strict):
    scores = {"a": np.arange(32, dtype=np.float32).reshape(8, 4)}
    masks = gf.global_masks(scores, sparsity=0.5)
    assert np.ravel(masks["a"]).tolist() == [False] * 16 + [True] * 16
    assert gf.n_of_m_masks(scores, n=1, m=2)["a"].sum() == 16


@pytest.mark.models
def test_all_masks_are_made_and_used(strict):
    masks, numbers, overlap = masks_of(jnp.bfloat16)
    kept = {
        name: int(tree["a"].sum() + tree["b"].sum()) for name, tree in masks.items()
    }
    expected = dict.fromkeys(("floor", "layerwise", "allocation", "pattern"), 32)
    assert expected | {"families": 40, "packed": numbers[0]} == kept
    assert numbers[1:] == (0, 0) and overlap == 1.0
