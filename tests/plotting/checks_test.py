"""Data of the wrong kind get one line that names what is taken."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradflow_jax import plotting
from gradflow_jax.plotting import Curve, EpochCurve, LayerShares, PredictionCheck

LINE = [0.9, 0.8]


@pytest.fixture
def ax():
    return Figure().subplots()


BY_NAME = {
    "accuracy_against_sparsity": (Curve, {}, r"Curve\(sparsities, means, deviations\)"),
    "training_curves": (EpochCurve, {}, r"EpochCurve\(epochs, means, deviations\)"),
    "correlations_over_epochs": (EpochCurve, {"reference": "x"}, r"EpochCurve\(epochs"),
    "measured_and_predicted": (PredictionCheck, {"quantity": "x"}, "PredictionCheck"),
}


@pytest.mark.parametrize("name", list(BY_NAME))
def test_plots_of_named_tuples_say_which_they_take(ax, name):
    kind, options, remedy = BY_NAME[name]
    draw = getattr(plotting, name)
    for entry in (LINE, tuple(LINE), np.ones((3, 2)), {"means": LINE}, 0.5, None):
        with pytest.raises(TypeError, match=rf"\['grasp'\] is of type .*: .*{remedy}"):
            draw(ax, {"grasp": entry}, **options)
    for entries in ([LINE], kind(LINE, LINE, LINE), "grasp", None):
        with pytest.raises(TypeError, match=f"is of type .*: pass a .*{remedy}"):
            draw(ax, entries, **options)
    with pytest.raises(ValueError, match=r"\['grasp'\] differs in length: .* 2, .* 1"):
        draw(ax, {"grasp": kind(LINE, LINE, LINE[:1])}, **options)
    assert draw(ax, {"grasp": kind(LINE, LINE, LINE)}, **options).keys() == {"grasp"}


def test_other_plots_say_what_they_take(ax):
    with pytest.raises(TypeError, match=r"networks\['a'\] is of .* tuple: .*Recovery"):
        plotting.loss_against_gradient_norm(ax, {"a": (1, 2, 3, 4)})
    with pytest.raises(TypeError, match=r"shares\['a'\] is of .* list: .*LayerShares"):
        plotting.pruned_by_layer(ax, ["x", "y"], {"a": LINE})
    with pytest.raises(ValueError, match=r"shares\['a'\] differs in length"):
        plotting.pruned_by_layer(ax, ["x", "y"], {"a": LayerShares(LINE, LINE[:1])})
    with pytest.raises(ValueError, match="differs in length: layers 1, direct 2"):
        plotting.sparsity_by_layer(ax, ["x"], LINE, LINE)
    with pytest.raises(ValueError, match=r"values has .* \[2, 3\]: it is \[2, 2\]"):
        plotting.correlation_matrix(ax, ["x", "y"], np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"counts\['x'\] has .* \[3\]: it is \[2\]"):
        plotting.score_histograms(ax, [0.1, 1, 10], {"x": [1, 2, 3]})
    with pytest.raises(TypeError, match="counts is of type list: pass a dict"):
        plotting.score_histograms(ax, [0.1, 1, 10], [[1, 2]])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("convergence", 1),
        ("rank_correlations", 2),
        ("change_by_rounds", 1),
        ("shares_by_depth", 1),
        ("recovery", 1),
    ],
)
def test_plots_of_observations_say_which_they_take(ax, name, arguments):
    with pytest.raises(TypeError, match=r"is of type list: pass the \w+ that gradflow"):
        getattr(plotting.observations, name)(ax, *([LINE] * arguments))
