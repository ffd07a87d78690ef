"""Random models: whatever is offered is exact, whatever is not is refused."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import gradflow_jax as gf
from tests.structured.cases import keep_of
from tests.structured.random_models import LAYERS, build

MODELS = 100  # a part
LAYER = st.tuples(st.integers(0, len(LAYERS) - 1), st.sampled_from([4, 6, 8]))


@pytest.mark.models
@pytest.mark.parametrize("part", [0, 1])
def test_random_models_are_cut_exactly_or_refused(part):
    """Two hundred models; in two parts, for two processes."""
    checked = []

    @settings(
        max_examples=MODELS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.lists(LAYER, min_size=1 + 3 * part, max_size=3 + 5 * part))
    def run(layers):
        apply, variables, inputs = build(layers)
        whole = np.asarray(apply(variables, *inputs))
        # The proof assumes that what stays is finite.
        if not np.isfinite(whole).all() or np.abs(whole).max() > 1e4:
            return
        units = gf.find_units(apply, variables, *inputs)
        families = list(units)
        for chosen in [families, *([family] for family in families[:2])]:
            if chosen:
                keep = keep_of(chosen)
                error = gf.cut_error(variables, units, keep, *inputs)
                assert error <= 2e-5, (layers, list(keep))
        checked.append(len(families))

    run()
    # Most are models, and most of them can be cut.
    assert len(checked) > 0.8 * MODELS
    assert sum(count > 0 for count in checked) > 0.4 * MODELS


def test_every_kind_of_layer_is_among_them():
    assert len(LAYERS) >= 25
    for kind in range(len(LAYERS)):
        apply, variables, inputs = build([(kind, 4)])
        assert np.isfinite(apply(variables, *inputs)).all()
