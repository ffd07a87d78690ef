"""Plots of what pruning does: what they draw, in which units, and that they render."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gradflow_jax.plotting import (
    Curve,
    PredictionCheck,
    Recovery,
    accuracy_against_sparsity,
    correlation_matrix,
    loss_against_gradient_norm,
    mask_picture,
    measured_and_predicted,
    score_histograms,
    sparsity_by_layer,
)


@pytest.fixture
def ax(tmp_path):
    """An axis of a figure that is rendered when the test has drawn."""
    figure = Figure(layout="constrained")
    yield figure.subplots()
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def tick_labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def legend_names(ax):
    return ax.get_legend_handles_labels()[1]


def test_bands_lie_around_the_means(ax):
    curves = {
        "magnitude": Curve([0.5, 0.9, 0.98], [0.86, 0.84, 0.5], [0.01, 0.02, 0.1]),
        "random": Curve([0.5, 0.9], [0.8, 0.4], [0.0, 0.1]),
    }
    drawn = accuracy_against_sparsity(ax, curves, spread="bands")
    for band, (name, curve) in zip(ax.collections, curves.items(), strict=True):
        assert drawn[name].lines[2] == ()  # no bars
        corners = band.get_paths()[0].vertices
        last = np.isclose(1 - corners[:, 0], 1 - curve.sparsities[-1], rtol=0.02)
        ends = corners[last, 1].min(), corners[last, 1].max()
        mean, half = curve.means[-1], curve.deviations[-1]
        np.testing.assert_allclose(ends, (mean - half, mean + half))
        assert to_rgb(band.get_facecolor()[0][:3]) == to_rgb(
            drawn[name].lines[0].get_color()
        )


def test_direct_and_effective_sparsity_are_joined(ax):
    layers, direct, effective = ["stem", "head"], [0.5, 0.9], [0.6, 1.0]
    drawn = sparsity_by_layer(ax, layers, direct, effective)
    np.testing.assert_array_equal(drawn.direct.get_xdata(), direct)
    np.testing.assert_array_equal(drawn.effective.get_xdata(), effective)
    gaps = [segment[:, 0].tolist() for segment in drawn.gaps.get_segments()]
    assert gaps == [[0.5, 0.6], [0.9, 1.0]]
    assert tick_labels(ax.yaxis) == layers and ax.yaxis_inverted()
    assert ax.get_xlabel() == "sparsity / %"
    assert legend_names(ax) == ["direct", "effective"]


def test_each_cell_of_a_matrix_has_its_number(ax):
    values = [[1.0, -0.001, np.nan], [-0.001, 1.0, -0.456], [np.nan, -0.456, 1.0]]
    names = ["magnitude", "grasp", "random"]
    drawn = correlation_matrix(ax, names, values)
    cells = [text.get_text() for text in drawn.numbers]
    assert cells[:3] == ["1.00", "0.00", "–"]
    assert cells[5] == "−0.46"
    assert [text.get_position() for text in drawn.numbers[:2]] == [(0, 0), (1, 0)]
    assert drawn.image.get_clim() == (-1, 1)
    assert tick_labels(ax.xaxis) == tick_labels(ax.yaxis) == names
    assert ax.get_title() == "Spearman's ρ"
    # Legible: light on dark, dark on light.
    for text, value in zip(drawn.numbers, np.ravel(values), strict=True):
        if not np.isnan(value):
            ground = np.dot(drawn.image.to_rgba(value)[:3], [0.3, 0.6, 0.1])
            ink = np.dot(to_rgb(text.get_color()), [0.3, 0.6, 0.1])
            assert abs(ink - ground) > 0.4


def test_histograms_stand_on_the_line_of_their_layer(ax):
    counts = {"stem": [1, 4, 2], "head": [0, 0, 0]}
    drawn = score_histograms(
        ax, [1e-3, 1e-2, 1e-1, 1], counts, measure="|θ|", threshold=0.05
    )
    values, edges, baseline = drawn["stem"].get_data()
    heights = baseline - values
    np.testing.assert_allclose(heights / heights.max(), [0.25, 1.0, 0.5])
    np.testing.assert_array_equal(edges, [1e-3, 1e-2, 1e-1, 1])
    np.testing.assert_array_equal(drawn["head"].get_data().values, 1)
    assert ax.get_xscale() == "log" and ax.yaxis_inverted()
    assert tick_labels(ax.yaxis) == ["stem", "head"]
    assert ax.get_xlabel() == "|θ|"
    assert legend_names(ax) == ["threshold"]


def test_scores_with_a_unit_say_it(ax):
    score_histograms(
        ax, [-1, 0, 1], {"a": [1, 2]}, measure="grasp", unit="nats²", scale="linear"
    )
    assert ax.get_xlabel() == "grasp / nats²" and ax.get_xscale() == "linear"
    assert ax.get_ylabel() == "weights per bin / the highest of the layer"


def test_a_dense_layers_mask_is_a_cell_a_weight(ax):
    mask = np.array([[True, False, True], [False, True, True]])
    effective = mask & np.array([True, True, False])
    image = mask_picture(ax, mask, effective=effective)
    np.testing.assert_array_equal(image.get_array(), [[2, 0, 1], [0, 2, 1]])
    assert ax.get_xlabel() == "number of the output unit"
    assert ax.get_ylabel() == "number of the input unit"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["removed", "kept, on no path", "kept"]


def test_a_convolutions_mask_is_a_window_for_each_pair_of_channels(ax):
    mask = np.random.default_rng(0).random((2, 3, 4, 50)) < 0.5
    shown = mask_picture(ax, mask).get_array()
    assert shown.shape == (8, 150)
    np.testing.assert_array_equal(shown[2:4, 9:12] == 2, mask[:, :, 1, 3])
    assert tick_labels(ax.yaxis) == ["0", "1", "2", "3"]
    assert ax.get_xlabel() == "number of the output channel"


def test_a_mask_of_another_rank_is_an_error():
    with pytest.raises(ValueError, match=r"a mask of shape \(3,\) is no picture"):
        mask_picture(Figure().subplots(), np.ones(3, bool))


def test_predictions_are_lines_through_measured_points(ax):
    check = PredictionCheck([0, 1, 2], [1.0, 0.4, 0.1], [1.0, 0.37, 0.14])
    drawn = measured_and_predicted(
        ax, {"loss": check}, quantity="loss / nats", scale="log"
    )["loss"]
    np.testing.assert_array_equal(drawn.measured.get_xydata()[:, 1], check.measured)
    np.testing.assert_array_equal(drawn.predicted.get_xydata()[:, 1], check.predicted)
    assert drawn.measured.get_linestyle() == "None"
    assert drawn.predicted.get_linestyle() == "-"
    assert ax.get_ylabel() == "loss / nats" and ax.get_yscale() == "log"
    assert ax.get_xlabel() == "training time / steps × step size"
    assert legend_names(ax) == ["loss, predicted", "loss, measured"]


def test_networks_go_from_pruned_to_tuned(ax):
    networks = {
        "grasp": Recovery(30.0, 3.0, 0.2, 0.5),
        "gradient_norm_preservation": Recovery(10.0, 1.0, 0.1, 0.3),
    }
    drawn = loss_against_gradient_norm(ax, networks, dense=(0.05, 0.2))
    for name, network in networks.items():
        pruned, tuned, way = drawn[name]
        end = [network.tuned_gradient_norm, network.tuned_loss]
        assert pruned.get_xydata().tolist() == [[network.gradient_norm, network.loss]]
        assert tuned.get_xydata().tolist() == [end]
        assert way.get_xydata()[0].tolist() == [network.gradient_norm, network.loss]
        assert pruned.get_markerfacecolor() == "white" != tuned.get_markerfacecolor()
    assert legend_names(ax) == [*networks, "dense"]
    assert ax.get_xlabel() == "gradient norm squared ‖g‖² / nats²"
    assert ax.get_ylabel() == "loss / nats"
    ax.figure.canvas.draw()
    assert {"0.2", "0.5", "1", "2"} <= set(tick_labels(ax.yaxis))
