"""Fractions of each layer, one layer below the other: sparsities and pruned shares."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from gradflow_jax.plotting import drawable
from gradflow_jax.plotting.curves import COLORS, look_of_measure

# The part of the gap between two layers that the measures of one layer spread over.
_DODGE = 0.6


class DrawnLayers(NamedTuple):
    """The artists that stand for the layers.

    Attributes:
        direct: a point a layer.
        effective: another.
        gaps: the lines between the two.
    """

    direct: Line2D
    effective: Line2D
    gaps: LineCollection


class LayerShares(NamedTuple):
    """The share of the filters of each layer that one measure pruned.

    Attributes:
        means: in [0, 1], one a layer.
        deviations: half the length of the error bars.
    """

    means: Sequence[float]
    deviations: Sequence[float]


@drawable.takes(
    ax=drawable.axes,
    layers=drawable.texts,
    direct=drawable.numbers(),
    effective=drawable.numbers(),
)
def sparsity_by_layer(
    ax: Axes, layers: Sequence[str], direct: Sequence[float], effective: Sequence[float]
) -> DrawnLayers:
    """Draws the direct and the effective sparsity of each layer, joined by a line.

    Long lines are layers of which much is kept in vain. Layers stand one below the
    other, the first at the top, so that long names can be read.

    Args:
        ax: where to draw.
        layers: their names, from input to output.
        direct: the fraction of each that is removed, in [0, 1].
        effective: the fraction of each that is removed or on no path, in [0, 1].

    Returns:
        What was drawn.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> drawn = sparsity_by_layer(ax, ["conv", "dense"], [0.5, 0.9], [0.5, 0.95])
        >>> drawn.effective.get_xdata().tolist()
        [0.5, 0.95]
    """
    drawable.same_length({"layers": layers, "direct": direct, "effective": effective})
    rows = np.arange(len(layers))
    gaps = ax.hlines(rows, direct, effective, colors="0.6", linewidth=1.5, zorder=1)
    (direct_points,) = ax.plot(
        direct,
        rows,
        "o",
        color=COLORS[0],
        markersize=8,
        markerfacecolor="white",
        markeredgewidth=1.6,
        label="direct",
    )
    # These points are smaller and full, so that both show where they are equal.
    (effective_points,) = ax.plot(
        effective, rows, "o", color=COLORS[1], markersize=4, label="effective"
    )
    _set_axes(ax, layers, "sparsity", grid="both")
    return DrawnLayers(direct_points, effective_points, gaps)


@drawable.takes(
    ax=drawable.axes,
    layers=drawable.texts,
    shares=drawable.by_name(drawable.curve(LayerShares, "means", "deviations")),
    order=drawable.texts,
)
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
        shares: by the name in the legend; "dense" is drawn dotted and gray.
        order: all names of a figure with several panels, so that each has the same
            color and marker in all of them.

    Returns:
        What was drawn for each measure, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> shares = LayerShares(means=[0.2, 0.8], deviations=[0.1, 0.05])
        >>> drawn = pruned_by_layer(ax, ["conv", "dense"], {"grasp": shares})
        >>> ax.get_xlabel()
        'filters pruned / %'
    """
    drawable.same_length(
        {"layers": layers}
        | {f"shares[{name!r}].means": share.means for name, share in shares.items()}
    )
    order = drawable.order_of(shares, order)
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
            **look_of_measure(i, name),
        )
    for layer in range(len(layers) - 1):
        ax.axhline(layer + 0.5, color="0.9", linewidth=0.7)
    _set_axes(ax, layers, "filters pruned", grid="x")
    return drawn


def _set_axes(
    ax: Axes, layers: Sequence[str], fraction: str, *, grid: Literal["both", "x"]
) -> None:
    """Labels a plot of a fraction in [0, 1] of each layer, the first at the top."""
    ax.set_yticks(range(len(layers)), layers)
    ax.tick_params("y", labelsize=8, length=0)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.set_xlabel(f"{fraction} / %")
    ax.set_ylabel("layer, from input to output")
    ax.grid(color="0.9", linewidth=0.7, axis=grid)
    ax.set_axisbelow(True)
