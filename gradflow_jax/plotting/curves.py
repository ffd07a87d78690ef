"""Curves over sparsity, one for each measure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from gradflow_jax.plotting import drawable

# These are Okabe and Ito's colors, which the color-blind tell apart; where they run
# out the markers and line styles go on.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
LINES = ("-", "--")

DENSE = "dense"
"""The name in a legend that stands for the network before pruning."""

# Neighboring curves stand so far apart, in the natural logarithm of the density.
_DODGE = 0.012


class Curve(NamedTuple):
    """One line of a plot.

    Attributes:
        sparsities: fractions in [0, 1).
        means: accuracies in [0, 1].
        deviations: half the length of the error bars, or half the height of the band.
    """

    sparsities: Sequence[float]
    means: Sequence[float]
    deviations: Sequence[float]


@drawable.takes(i=drawable.count)
def look(i: int) -> dict[str, Any]:
    """Returns how the i-th line of a plot is drawn.

    Args:
        i: from 0; colors, markers and line styles repeat, together only after 84.

    Returns:
        Keyword arguments of `Axes.plot`.

    Raises:
        TypeError: for what is no whole number.
        ValueError: for one below 0.

    Example:
        >>> look(0)["color"], look(0)["marker"]
        ('#0072B2', 'o')
    """
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": LINES[i // len(COLORS) % len(LINES)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def look_of_measure(i: int, name: str) -> dict[str, Any]:
    """Returns how the i-th measure is drawn: as any line, but dotted if dense."""
    return {"color": "0.35", "linestyle": ":"} if name == DENSE else look(i)


@drawable.takes(
    ax=drawable.axes,
    curves=drawable.by_name(drawable.curve(Curve, "sparsities", "means", "deviations")),
    dense=drawable.optional(drawable.number),
    removed=drawable.text,
    spread=drawable.one_of("bars", "bands"),
)
def accuracy_against_sparsity(
    ax: Axes,
    curves: Mapping[str, Curve],
    *,
    dense: float | None = None,
    removed: str = "prunable weights",
    spread: Literal["bars", "bands"] = "bars",
) -> dict[str, ErrorbarContainer]:
    """Draws accuracy against sparsity, a line with its spread for each measure.

    The axis is logarithmic in the density 1 − sparsity, so that 90, 95 and 98 % stand
    apart. Curves are drawn side by side by a hair, so that equal ones both show. Bars
    keep many curves apart; bands are for few curves of many points.

    Args:
        ax: where to draw.
        curves: by the name in the legend.
        dense: the accuracy of the unpruned network, drawn as a dotted line.
        removed: what the sparsities count, for the axis.
        spread: draws the deviations as error bars, or as bands around the lines.

    Returns:
        What was drawn for each curve, by name; bands are among `ax.collections`, in
        the order of the curves.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> curve = Curve([0.5, 0.9], means=[0.95, 0.91], deviations=[0.01, 0.02])
        >>> drawn = accuracy_against_sparsity(ax, {"magnitude": curve}, dense=0.96)
        >>> ax.get_xlabel()
        'prunable weights removed / %'
    """
    drawn = {}
    ticks = sorted(
        {sparsity for curve in curves.values() for sparsity in curve.sparsities}
    )
    ax.set_xscale("function", functions=(_to_axis, _from_axis))
    for i, (name, curve) in enumerate(curves.items()):
        shift = _DODGE * (i - (len(curves) - 1) / 2)
        places = _from_axis(_to_axis(curve.sparsities) + shift)
        drawn[name] = ax.errorbar(
            places,
            curve.means,
            yerr=curve.deviations if spread == "bars" else None,
            label=name,
            linewidth=1.3,
            capsize=2,
            elinewidth=0.8,
            **look(i),
        )
        if spread == "bands":
            means, half_height = np.asarray(curve.means), np.asarray(curve.deviations)
            ax.fill_between(
                places,
                means - half_height,
                means + half_height,
                color=look(i)["color"],
                alpha=0.2,
                linewidth=0,
            )
    if dense is not None:
        ax.axhline(dense, color="0.35", linestyle=":", linewidth=1.2, label="dense")
    ax.set_xticks(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.set_xlabel(f"{removed} removed / %")
    ax.set_ylabel("test accuracy / %")
    ax.grid(color="0.9", linewidth=0.7)
    ax.set_axisbelow(True)
    return drawn


def _to_axis(sparsity: Any) -> Any:
    # Clipping keeps the logarithm finite where matplotlib asks beyond a sparsity of 1.
    return -np.log(np.maximum(1e-6, 1 - np.asarray(sparsity, float)))


def _from_axis(position: Any) -> Any:
    return 1 - np.exp(-np.asarray(position, float))
