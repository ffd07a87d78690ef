import numpy as np
import pytest
from matplotlib.figure import Figure

from gradflow_jax.plotting import (
    Curve,
    EpochCurve,
    LayerShares,
    accuracy_against_sparsity,
    correlations_over_epochs,
    pruned_by_layer,
    training_curves,
)

CURVES = {
    "magnitude": Curve([0.5, 0.9, 0.98], [0.86, 0.84, 0.5], [0.01, 0.02, 0.1]),
    "random": Curve([0.5, 0.9], [0.8, 0.4], [0.0, 0.0]),
}


@pytest.fixture
def ax():
    return Figure().subplots()


def test_each_curve_is_drawn_through_its_points_with_error_bars(ax):
    drawn = accuracy_against_sparsity(ax, CURVES, dense=0.87)
    assert list(drawn) == list(CURVES)
    for name, curve in CURVES.items():
        line, _, bars = drawn[name].lines
        x, y = line.get_data()
        # Curves stand side by side by a hair.
        x = np.asarray(x, float)
        np.testing.assert_allclose(1 - x, 1 - np.array(curve.sparsities), rtol=0.02)
        np.testing.assert_allclose(np.asarray(y, float), curve.means)
        ends = [np.asarray(bar.get_segments()) for bar in bars][0][:, :, 1]
        half = (ends[:, 1] - ends[:, 0]) / 2
        np.testing.assert_allclose(half, curve.deviations, atol=1e-12)


def test_axes_say_what_they_show_and_in_which_unit(ax):
    accuracy_against_sparsity(ax, CURVES, dense=0.87)
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "prunable weights removed / %"
    assert ax.get_ylabel() == "test accuracy / %"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["50", "90", "98"]
    _, labels = ax.get_legend_handles_labels()
    assert set(labels) == {"magnitude", "random", "dense"}


def test_a_dozen_curves_look_different(ax):
    many = {f"measure {i}": Curve([0.5, 0.9], [0.5, 0.4], [0, 0]) for i in range(12)}
    drawn = accuracy_against_sparsity(ax, many)
    looks = set()
    for container in drawn.values():
        line = container.lines[0]
        looks.add((line.get_color(), line.get_linestyle(), line.get_marker()))
    assert len(looks) == 12


def test_it_renders(ax, tmp_path):
    accuracy_against_sparsity(ax, CURVES)
    ax.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


EPOCHS = {
    "magnitude": EpochCurve([1, 2, 3, 4], [2.0, 0.5, 0.1, 0.03], [0.1, 0.1, 0.2, 0]),
    "grasp": EpochCurve([1, 2, 3, 4], [2.1, 0.7, 0.2, 0.05], [0.0, 0.1, 0.05, 0.01]),
    "dense": EpochCurve([1, 2, 3, 4], [1.9, 0.4, 0.1, 0.02], [0.0, 0.0, 0.0, 0.0]),
}


def upright(ax):
    """Returns where the vertical lines of an axis are."""
    lines = (line for line in ax.get_lines() if line.get_label().startswith("_"))
    return [line.get_xdata()[0] for line in lines if len(set(line.get_xdata())) == 1]


@pytest.mark.parametrize("quantity", ["training loss", "test accuracy"])
def test_training_curves_are_drawn_with_bands_and_rounds(ax, quantity):
    drawn = training_curves(ax, EPOCHS, quantity=quantity, rounds=[1, 3])
    assert list(drawn) == list(EPOCHS)
    for name, curve in EPOCHS.items():
        line, band = drawn[name]
        x, y = line.get_data()
        np.testing.assert_array_equal(x, curve.epochs)
        np.testing.assert_array_equal(y, curve.means)
        corners = band.get_paths()[0].vertices
        at_2 = sorted(set(corners[corners[:, 0] == 2, 1]))
        mean, half = curve.means[1], curve.deviations[1]
        np.testing.assert_allclose(at_2, sorted({mean - half, mean + half}))
    assert upright(ax) == [1, 3]
    assert ax.get_xlabel() == "epoch"
    unit = {"training loss": "nats", "test accuracy": "%"}[quantity]
    assert ax.get_ylabel() == f"{quantity} / {unit}"
    assert ax.get_yscale() == ("log" if unit == "nats" else "linear")
    _, labels = ax.get_legend_handles_labels()
    assert labels == list(EPOCHS)


def test_losses_are_labeled_in_plain_numbers(ax):
    training_curves(ax, EPOCHS)
    ax.figure.canvas.draw()
    labels = {tick.get_text() for tick in ax.get_yticklabels()}
    assert {"0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"} <= labels


def test_an_order_keeps_looks_where_curves_are_missing(ax):
    order = ["magnitude", "grasp", "dense"]
    full = training_curves(ax, EPOCHS, order=order)
    part = training_curves(ax, {"grasp": EPOCHS["grasp"]}, order=order)
    for look in ("get_color", "get_marker", "get_linestyle"):
        in_full, in_part = (
            getattr(drawn["grasp"].line, look)() for drawn in (full, part)
        )
        assert in_full == in_part
    assert full["dense"].line.get_linestyle() == ":"


def test_shares_of_layers_run_down_from_the_first(ax):
    layers = ["stem", "blocks/0/conv1/conv/kernel[3]", "head"]
    shares = {
        "magnitude": LayerShares([0.1, 0.5, 1.0], [0.0, 0.1, 0.0]),
        "random": LayerShares([0.3, 0.3, 0.3], [0.02, 0.02, 0.02]),
    }
    drawn = pruned_by_layer(ax, layers, shares)
    for name, share in shares.items():
        line, _, bars = drawn[name].lines
        x, y = line.get_data()
        np.testing.assert_allclose(np.asarray(x, float), share.means)
        # Side by side within the gap of a layer.
        np.testing.assert_array_equal(np.round(np.asarray(y, float)), [0, 1, 2])
        ends = np.asarray(bars[0].get_segments())[:, :, 0]
        np.testing.assert_allclose((ends[:, 1] - ends[:, 0]) / 2, share.deviations)
    ax.figure.canvas.draw()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == layers
    assert ax.yaxis_inverted()
    assert ax.get_xlabel() == "filters pruned / %"
    assert ax.get_ylabel() == "layer, from input to output"


def test_correlations_are_drawn_from_minus_one_to_one(ax):
    curves = {
        "grasp": EpochCurve([5, 10], [-0.2, 0.1], [0.1, 0.1]),
        "random": EpochCurve([5, 10], [0.0, 0.02], [0.0, 0.0]),
    }
    drawn = correlations_over_epochs(
        ax, curves, reference="loss_preservation", rounds=[7]
    )
    for name, curve in curves.items():
        np.testing.assert_array_equal(drawn[name].line.get_ydata(), curve.means)
    assert upright(ax) == [7]
    low, high = ax.get_ylim()
    assert low < -1 and high > 1
    assert ax.get_ylabel() == "Spearman's ρ with\nloss_preservation"
    assert ax.get_xlabel() == "epoch"
