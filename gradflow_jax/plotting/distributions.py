"""Histograms of the scores of each layer."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch

from gradflow_jax.plotting import drawable
from gradflow_jax.plotting.curves import COLORS

# The highest bar of a layer fills this part of the gap to the layer above.
_HEIGHT = 0.85


@drawable.takes(
    ax=drawable.axes,
    edges=drawable.numbers(),
    counts=drawable.by_name(drawable.numbers()),
    measure=drawable.text,
    unit=drawable.optional(drawable.text),
    threshold=drawable.optional(drawable.number),
    scale=drawable.one_of("log", "linear"),
)
def score_histograms(
    ax: Axes,
    edges: Sequence[float],
    counts: Mapping[str, npt.ArrayLike],
    *,
    measure: str = "score",
    unit: str | None = None,
    threshold: float | None = None,
    scale: Literal["log", "linear"] = "log",
) -> dict[str, StepPatch]:
    """Draws the histogram of each layer's scores, one below the other on one axis.

    What is to the left of the threshold is pruned: a layer that lies there as a
    whole vanishes. Each histogram is as high as its highest bar allows.

    Args:
        ax: where to draw.
        edges: of the bins, one more than bins.
        counts: how many scores are in each bin, by layer, from input to output.
        measure: what scored, for the axis.
        unit: of the scores, for the axis; None of those that have none.
        threshold: where the pruning cuts.
        scale: of the axis of scores; signed scores need "linear".

    Returns:
        What was drawn for each layer, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for counts of another number than bins, or another scale.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> edges, counts = [0.01, 0.1, 1.0], {"conv": [3, 9], "dense": [40, 8]}
        >>> drawn = score_histograms(ax, edges, counts, measure="|θ|", threshold=0.1)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['conv', 'dense']
    """
    for name, layer_counts in counts.items():
        bins = np.size(layer_counts)
        if bins != len(edges) - 1:
            raise ValueError(
                f"counts[{name!r}] has the length {bins}, but there are "
                f"{len(edges)} edges, of {len(edges) - 1} bins."
            )
    drawn = {}
    for row, (name, layer_counts) in enumerate(counts.items()):
        heights = np.asarray(layer_counts, float)
        # An empty layer has bars of height 0, not 0 / 0.
        highest = max(heights.max(initial=0.0), 1.0)
        drawn[name] = ax.stairs(
            row - _HEIGHT * heights / highest,
            edges,
            baseline=row,
            fill=True,
            facecolor=COLORS[4],
            edgecolor=COLORS[0],
            linewidth=0.8,
        )
        ax.axhline(row, color="0.6", linewidth=0.6)
    if threshold is not None:
        ax.axvline(
            threshold,
            color=COLORS[1],
            linestyle="--",
            linewidth=1.4,
            label="threshold",
        )
    ax.set_xscale(scale)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_yticks(range(len(counts)), list(counts), va="bottom")
    ax.tick_params("y", labelsize=8, length=0)
    ax.set_ylim(len(counts) - 0.9, -1.0)
    ax.set_xlabel(measure if unit is None else f"{measure} / {unit}")
    ax.set_ylabel("weights per bin / the highest of the layer")
    ax.grid(color="0.93", linewidth=0.7, axis="x")
    ax.set_axisbelow(True)
    return drawn
