import numpy as np
import pytest
from matplotlib.figure import Figure

from gradflow_jax.plotting import Curve, accuracy_against_sparsity

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
