"""Curves over epochs and shares of layers, one line for each measure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from gradflow_jax.plotting.curves import look

# The name that is drawn as what it is: the network before pruning.
DENSE = "dense"

# The part of the gap between two layers that the measures of one layer spread over.
_DODGE = 0.6


class EpochCurve(NamedTuple):
    """One line over epochs.

    Attributes:
        epochs: from 1.
        means: over seeds.
        deviations: half the height of the band around the line.
    """

    epochs: Sequence[int]
    means: Sequence[float]
    deviations: Sequence[float]


class LayerShares(NamedTuple):
    """The share of the filters of each layer that one measure pruned.

    Attributes:
        means: in [0, 1], one a layer.
        deviations: half the length of the error bars.
    """

    means: Sequence[float]
    deviations: Sequence[float]


class DrawnCurve(NamedTuple):
    """What stands for one curve.

    Attributes:
        line: through the means.
        band: of the deviations.
    """

    line: Line2D
    band: PolyCollection


def training_curves(
    ax: Axes,
    curves: Mapping[str, EpochCurve],
    *,
    quantity: Literal["training loss", "test accuracy"] = "training loss",
    rounds: Sequence[int] = (),
    order: Sequence[str] = (),
) -> dict[str, DrawnCurve]:
    """Draws training loss or test accuracy over epochs, a line and band a measure.

    The axis of losses is logarithmic: what tells measures apart late in training is
    small beside the loss at its start.

    Args:
        ax: where to draw.
        curves: by the name in the legend; "dense" is drawn dotted and grey.
        quantity: what the curves are of; losses in nats, accuracies in [0, 1].
        rounds: the epochs after which filters were pruned, marked by vertical lines.
        order: all names of a figure with several panels, so that each has the same
            colour and marker in all of them.

    Returns:
        What was drawn for each curve, by name.
    """
    for epoch in rounds:
        ax.axvline(epoch, color="0.75", linewidth=0.8, zorder=0.5)
    drawn = curves_over(ax, curves, order)
    if quantity == "training loss":
        ax.set_yscale("log")
        # Not powers of ten alone: losses may stay within one decade.
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.set_ylabel("training loss / nats")
    else:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        ax.set_ylabel("test accuracy / %")
    return drawn


def pruned_by_layer(
    ax: Axes,
    layers: Sequence[str],
    shares: Mapping[str, LayerShares],
    *,
    order: Sequence[str] = (),
) -> dict[str, ErrorbarContainer]:
    """Draws the share of filters pruned in each layer, a line for each measure.

    Layers stand one below the other, the first at the top, so that long names can be
    read; the lines run down through the network. Points of one layer are drawn side by
    side, so that equal ones all show.

    Args:
        ax: where to draw.
        layers: their names, from input to output.
        shares: by the name in the legend.
        order: as of `training_curves`.

    Returns:
        What was drawn for each measure, by name.
    """
    order = order or list(shares)
    drawn = {}
    for name, share in shares.items():
        i = order.index(name)
        shift = _DODGE * ((i + 0.5) / len(order) - 0.5)
        drawn[name] = ax.errorbar(
            share.means,
            np.arange(len(layers)) + shift,
            xerr=share.deviations,
            label=name,
            capsize=0,
            elinewidth=0.8,
            linewidth=0.7,
            **_look(i, name),
        )
    for gap in range(len(layers) - 1):
        ax.axhline(gap + 0.5, color="0.9", linewidth=0.7)
    ax.set_yticks(range(len(layers)), layers)
    ax.tick_params("y", labelsize=8, length=0)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.set_xlabel("filters pruned / %")
    ax.set_ylabel("layer, from input to output")
    ax.grid(color="0.9", linewidth=0.7, axis="x")
    ax.set_axisbelow(True)
    return drawn


def correlations_over_epochs(
    ax: Axes,
    curves: Mapping[str, EpochCurve],
    *,
    reference: str,
    rounds: Sequence[int] = (),
    order: Sequence[str] = (),
) -> dict[str, DrawnCurve]:
    """Draws how alike measures rank filters, over epochs, against one measure.

    Args:
        ax: where to draw.
        curves: rank correlations in [−1, 1] by the name of the other measure.
        reference: the name of the measure that the others are compared with.
        rounds: as of `training_curves`.
        order: as of `training_curves`.

    Returns:
        What was drawn for each curve, by name.
    """
    ax.axhline(0, color="0.5", linewidth=0.8)
    for epoch in rounds:
        ax.axvline(epoch, color="0.75", linewidth=0.8, zorder=0.5)
    drawn = curves_over(ax, curves, order)
    ax.set_ylim(-1.05, 1.05)
    ax.set_ylabel(f"Spearman's ρ with\n{reference}")
    return drawn


def curves_over(
    ax: Axes, curves: Mapping[str, EpochCurve], order: Sequence[str] = ()
) -> dict[str, DrawnCurve]:
    """Draws a line with a band for each curve; for the other functions to label."""
    order = order or list(curves)
    drawn = {}
    for name, curve in curves.items():
        i = order.index(name)
        style = _look(i, name)
        # Few markers, each line's at other epochs, so that no two hide one another.
        gap = max(1, len(curve.epochs) // 8)
        (line,) = ax.plot(
            curve.epochs,
            curve.means,
            label=name,
            linewidth=1.2,
            markevery=(i * gap // len(order), gap),
            **style,
        )
        means, half = np.asarray(curve.means), np.asarray(curve.deviations)
        band = ax.fill_between(
            curve.epochs,
            means - half,
            means + half,
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )
        drawn[name] = DrawnCurve(line, band)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.grid(color="0.93", linewidth=0.7)
    ax.set_axisbelow(True)
    return drawn


def _look(i: int, name: str) -> dict[str, Any]:
    return {"color": "0.35", "linestyle": ":"} if name == DENSE else look(i)
