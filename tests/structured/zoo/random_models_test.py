"""Random models: whatever is offered is exact, whatever is not is refused."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import gradflow_jax as gf
from tests.structured.zoo.cases import keep_of
from tests.structured.zoo.random_models import LAYERS, build

LAYER = st.tuples(st.integers(0, len(LAYERS) - 1), st.sampled_from([4, 6, 8]))


def run(layers):
    """Cuts a model; returns how many families it has, or None if it is not finite."""
    apply, variables, inputs = build(layers)
    units = gf.find_units(apply, variables, *inputs)
    everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    whole = np.asarray(units.model.run_masked(variables, everything, *inputs))
    # The proof assumes that what stays is finite.
    if not np.isfinite(whole).all() or np.abs(whole).max() > 1e4:
        return None
    families = list(units)
    for chosen in [families, *([family] for family in families[:2])]:
        if chosen:
            keep = keep_of(chosen)
            error = gf.structured.cut_error(variables, units, keep, *inputs)
            assert error <= 2e-5, (layers, list(keep))
    return len(families)


def cut_models(count, fewest, most):
    """Checks models of so many layers; most are models, and most of them are cut."""
    numbers = []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.lists(LAYER, min_size=fewest, max_size=most))
    def check(layers):
        numbers.append(run(layers))

    check()
    finite = [number for number in numbers if number is not None]
    assert len(finite) > 0.8 * count
    assert sum(number > 0 for number in finite) > 0.4 * count


@pytest.mark.models
@pytest.mark.parametrize("part", [0, 1])
def test_random_models_are_cut_exactly_or_refused(part):
    """Two hundred models; in two parts, for two processes."""
    cut_models(100, 1 + 3 * part, 3 + 5 * part)


def test_small_random_models_are_cut_exactly_or_refused():
    cut_models(15, 1, 2)


def test_every_kind_of_layer_is_among_them():
    assert len(LAYERS) >= 25
    models = [build([(kind, 4)]) for kind in range(len(LAYERS))]

    # In one program, since each is small.
    @jax.jit
    def outputs(variables, inputs):
        return [
            apply(tree, *x)
            for (apply, _, _), tree, x in zip(models, variables, inputs, strict=True)
        ]

    for output in outputs([model[1] for model in models], [m[2] for m in models]):
        assert np.isfinite(output).all()
