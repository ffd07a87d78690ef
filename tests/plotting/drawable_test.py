"""What cannot be drawn is refused by its name, and before anything is drawn."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradflow_jax import observations, plotting

CURVE = plotting.Curve([0.5, 0.9], [0.9, 0.8], [0.1, 0.1])
EPOCHS = plotting.EpochCurve([1, 2], [0.5, 0.4], [0.1, 0.1])
SHARES = plotting.LayerShares([0.5, 0.5], [0.1, 0.1])
ONES = np.ones((2, 3))
THIRD = observations.PreservingMagnitude((1,), ONES, (1, 5), ONES, ONES, ONES[0], ())
FOURTH = observations.IncreasingGradientNorm(
    (1.0,), ("a",), ONES, np.ones((2, 1, 1)), ()
)
FIFTH = observations.PreservingGradientNorm(("a",), *[np.ones((1, 1, 2))] * 2, ())

REFUSED = {
    "no axes": (
        lambda ax: plotting.training_curves(None, {"a": EPOCHS}),
        "ax is a NoneType: pass what to draw on, such as plt.gca()",
    ),
    "a list of curves": (
        lambda ax: plotting.training_curves(ax, [EPOCHS]),
        "curves is a list: pass a dict, by the names in the legend.",
    ),
    "a list in place of a curve": (
        lambda ax: plotting.accuracy_against_sparsity(ax, {"a": [0.5, 0.9]}),
        "curves['a'] is a list: pass a gf.plotting.Curve, which has sparsities, means",
    ),
    "another record": (
        lambda ax: plotting.accuracy_against_sparsity(ax, {"a": EPOCHS}),
        "curves['a'] is a EpochCurve: pass a gf.plotting.Curve, which has",
    ),
    "lengths of a curve": (
        lambda ax: plotting.training_curves(ax, {"a": EPOCHS._replace(means=[1.0])}),
        "curves['a'].means has the length 1, but curves['a'].epochs has 2",
    ),
    "texts in a curve": (
        lambda ax: plotting.training_curves(ax, {"a": EPOCHS._replace(means="ab")}),
        "curves['a'].means is 'ab': pass real numbers.",
    ),
    "axes of a curve": (
        lambda ax: plotting.training_curves(ax, {"a": EPOCHS._replace(means=ONES)}),
        "curves['a'].means has shape (2, 3): pass numbers along 1 axis.",
    ),
    "a name that is none": (
        lambda ax: plotting.training_curves(ax, {1: EPOCHS}),
        "the name 1 in curves is a int: pass a text.",
    ),
    "a quantity": (
        lambda ax: plotting.training_curves(ax, {"a": EPOCHS}, quantity="loss"),
        "quantity is 'loss'; choose 'training loss' or 'test accuracy'.",
    ),
    "an order": (
        lambda ax: plotting.training_curves(ax, {"a": EPOCHS}, order=("b",)),
        "order lacks 'a': it has all names, or none.",
    ),
    "an order that is a text": (
        lambda ax: plotting.pruned_by_layer(ax, ["a", "b"], {"c": SHARES}, order="c"),
        "order is a str: pass a list of names.",
    ),
    "layers": (
        lambda ax: plotting.pruned_by_layer(ax, ["a"], {"c": SHARES}),
        "shares['c'].means has the length 2, but layers has 1",
    ),
    "sparsities": (
        lambda ax: plotting.sparsity_by_layer(ax, ["a"], [0.5], [0.5, 0.5]),
        "effective has the length 2, but layers has 1",
    ),
    "bins": (
        lambda ax: plotting.score_histograms(ax, [0, 1, 2], {"a": [1]}),
        "counts['a'] has the length 1, but there are 3 edges, of 2 bins.",
    ),
    "a threshold": (
        lambda ax: plotting.score_histograms(ax, [0, 1], {"a": [1]}, threshold=np.nan),
        "threshold is nan: pass a finite number.",
    ),
    "names of a matrix": (
        lambda ax: plotting.correlation_matrix(ax, ["a"], np.eye(2)),
        "values has the length 2, but names has 1",
    ),
    "a point": (
        lambda ax: plotting.loss_against_gradient_norm(
            ax, {"a": plotting.Recovery(1.0, [1.0], 1.0, 1.0)}
        ),
        "networks['a'].loss is a list: pass one number.",
    ),
    "the dense network": (
        lambda ax: plotting.loss_against_gradient_norm(ax, {}, dense=[1.0]),
        "dense has the length 1, but (‖g‖², loss) has 2",
    ),
    "a part of a line": (
        lambda ax: plotting.look(0.5),
        "i is a float: pass a whole number.",
    ),
    "a line before the first": (
        lambda ax: plotting.look(-1),
        "i is below 0: pass a whole number, from 0 on.",
    ),
    "a tree of masks": (
        lambda ax: plotting.mask_picture(ax, {"kernel": ONES > 0}),
        "the mask is a dict: a picture is of one layer, masks['layer']['kernel'].",
    ),
    "a mask of numbers": (
        lambda ax: plotting.mask_picture(ax, ONES),
        "the mask (the array itself) is float32[2,3], not bool",
    ),
    "another effective mask": (
        lambda ax: plotting.mask_picture(ax, ONES > 0, effective=ONES.T > 0),
        "effective (the array itself) has shape (3, 2), but the mask has (2, 3)",
    ),
    "rounds": (
        lambda ax: plotting.observations.change_by_rounds(ax, THIRD),
        "a row of largest has the length 3, but rounds has 2",
    ),
    "temperatures": (
        lambda ax: plotting.observations.shares_by_depth(ax, FOURTH),
        "pruned has the length 2, but temperatures has 1",
    ),
    "times": (
        lambda ax: plotting.observations.recovery(ax, FIFTH),
        "loss has shape (1, 1, 2): [measure, seed, 3], before pruning",
    ),
    "another observation": (
        lambda ax: plotting.observations.convergence(ax, THIRD),
        "first is a PreservingMagnitude: pass a gf.observations.LargerWeights",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_named(name):
    draw, message = REFUSED[name]
    ax = Figure().subplots()
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        draw(ax)
    assert not ax.has_data()


def test_a_run_that_diverged_is_drawn():
    curve = plotting.EpochCurve([1, 2], [0.5, np.nan], np.array([0.1, np.nan]))
    ax = Figure().subplots()
    line = plotting.training_curves(ax, {"a": curve}, quantity="test accuracy")[
        "a"
    ].line
    np.testing.assert_array_equal(line.get_ydata(), [0.5, np.nan])
