"""The sparsity of each layer, as pruned and as it works."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from gradflow_jax.plotting.curves import COLOURS


class DrawnLayers(NamedTuple):
    """What stands for the layers.

    Attributes:
        direct: a point a layer.
        effective: another.
        gaps: the lines between the two.
    """

    direct: Line2D
    effective: Line2D
    gaps: LineCollection


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
    """
    rows = np.arange(len(layers))
    gaps = ax.hlines(rows, direct, effective, colors="0.6", linewidth=1.5, zorder=1)
    (own,) = ax.plot(
        direct,
        rows,
        "o",
        color=COLOURS[0],
        markersize=8,
        markerfacecolor="white",
        markeredgewidth=1.6,
        label="direct",
    )
    # Smaller and full, so that both show where they are equal.
    (other,) = ax.plot(
        effective, rows, "o", color=COLOURS[1], markersize=4, label="effective"
    )
    ax.set_yticks(rows, layers)
    ax.tick_params("y", labelsize=8, length=0)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.set_xlabel("sparsity / %")
    ax.set_ylabel("layer, from input to output")
    ax.grid(color="0.9", linewidth=0.7)
    ax.set_axisbelow(True)
    return DrawnLayers(own, other, gaps)
