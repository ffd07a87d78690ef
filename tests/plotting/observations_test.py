"""The plots of the observations draw their numbers and say what they are."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradflow_jax.observations.fifth import PreservingGradientNorm
from gradflow_jax.observations.first import LargerWeights
from gradflow_jax.observations.fourth import IncreasingGradientNorm
from gradflow_jax.observations.second import SlowWeights
from gradflow_jax.observations.third import PreservingMagnitude
from gradflow_jax.plotting import observations as drawing

RNG = np.random.default_rng(0)


@pytest.fixture
def ax():
    figure = Figure(layout="constrained")
    yield figure.subplots()
    # All of it can be drawn.
    figure.savefig(io.BytesIO(), format="png")


def numbers(*shape):
    return RNG.uniform(0.1, 1.0, shape)


THIRD = PreservingMagnitude(
    (1, 5), numbers(3, 2), (1, 5, 25), numbers(3, 3), numbers(3, 3), numbers(3), ()
)


def test_convergence(ax):
    first = LargerWeights(numbers(3), numbers(3), numbers(3, 4), numbers(3, 4), ())
    drawn = drawing.convergence(ax, first)
    x, y = drawn["magnitude"].line.get_data()
    assert list(x) == [1, 2, 3, 4]
    np.testing.assert_allclose(y, first.magnitude_losses.mean(0))
    y = drawn["loss_preservation"].line.get_ydata()
    np.testing.assert_allclose(y, first.preservation_losses.mean(0))
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "step of fine-tuning"
    assert ax.get_ylabel() == "training loss / nats"


def test_rank_correlations(ax):
    second = SlowWeights((1, 5), numbers(3, 2), ())
    drawn = drawing.rank_correlations(ax, second, THIRD)
    for name, observation in (("change of θ²", second), ("magnitude", THIRD)):
        x, y = drawn[name].line.get_data()
        assert list(x) == [1, 5]
        np.testing.assert_allclose(y, observation.correlation.mean(0))
    assert "ρ" in ax.get_ylabel() and ax.get_xlabel() == "step of training"


def test_change_by_rounds(ax):
    drawn = drawing.change_by_rounds(ax, THIRD)
    for name, by_seed in (("largest cut", THIRD.largest), ("all cuts", THIRD.change)):
        np.testing.assert_allclose(drawn[name].lines[0].get_ydata(), by_seed.mean(0))
        (bars,) = drawn[name].lines[2]
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        half = by_seed.std(0, ddof=1)
        np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * half)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "5", "25"]
    assert ax.get_ylabel() == "change of the loss |ΔL| / nats"


def test_one_seed_has_no_bars(ax):
    of_one_seed = PreservingMagnitude(
        (1,), numbers(1, 1), (1, 5), numbers(1, 2), numbers(1, 2), numbers(1), ()
    )
    (bars,) = drawing.change_by_rounds(ax, of_one_seed)["all cuts"].lines[2]
    assert all(np.ptp(segment[:, 1]) == 0 for segment in bars.get_segments())


def test_shares_by_depth(ax):
    pruned = numbers(2, 3, 2)
    fourth = IncreasingGradientNorm(
        (1.0, 200.0), ("first/kernel", "last/kernel"), numbers(2, 3), pruned, ()
    )
    drawn = drawing.shares_by_depth(ax, fourth)
    assert list(drawn) == ["T = 1", "T = 200"]
    shares = np.asarray(drawn["T = 200"].lines[0].get_xdata(), float)
    np.testing.assert_allclose(shares, pruned[1].mean(0))
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == ["first/kernel", "last/kernel"]
    assert ax.get_xlabel() == "weights pruned by GraSP / %"


def test_recovery(ax):
    fifth = PreservingGradientNorm(("a", "b"), numbers(2, 3, 3), numbers(2, 3, 3), ())
    drawn = drawing.recovery(ax, fifth)
    loss = np.exp(np.log(fifth.loss).mean(1))
    norm = np.exp(np.log(fifth.gradient_norm).mean(1))
    for i, name in enumerate("ab"):
        points = drawn[name].pruned.get_xydata(), drawn[name].tuned.get_xydata()
        for j, point in enumerate(points, 1):
            np.testing.assert_allclose(point, [[norm[i, j], loss[i, j]]])
    assert "nats" in ax.get_xlabel() and "nats" in ax.get_ylabel()
