"""Curves over epochs, one line for each measure."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from gradflow_jax.plotting import drawable
from gradflow_jax.plotting.curves import DENSE as DENSE
from gradflow_jax.plotting.curves import look_of_measure


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


CURVES = drawable.by_name(drawable.curve(EpochCurve, "epochs", "means", "deviations"))
"""The check of curves by name."""


class DrawnCurve(NamedTuple):
    """The artists that stand for one curve.

    Attributes:
        line: through the means.
        band: of the deviations.
    """

    line: Line2D
    band: PolyCollection


@drawable.takes(
    ax=drawable.axes,
    curves=CURVES,
    quantity=drawable.one_of("training loss", "test accuracy"),
    rounds=drawable.numbers(),
    order=drawable.texts,
)
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
        curves: by the name in the legend; "dense" is drawn dotted and gray.
        quantity: what the curves are of; losses in nats, accuracies in [0, 1].
        rounds: the epochs after which filters were pruned, marked by vertical lines.
        order: all names of a figure with several panels, so that each has the same
            color and marker in all of them.

    Returns:
        What was drawn for each curve, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> curve = EpochCurve([1, 2], means=[2.3, 0.4], deviations=[0.1, 0.1])
        >>> drawn = training_curves(ax, {"magnitude": curve}, rounds=[1])
        >>> ax.get_ylabel(), ax.get_yscale()
        ('training loss / nats', 'log')
    """
    for epoch in rounds:
        ax.axvline(epoch, color="0.75", linewidth=0.8, zorder=0.5)
    drawn = curves_over(ax, curves, order)
    if quantity == "training loss":
        ax.set_yscale("log")
        # Losses may stay within one decade, where powers of ten alone are no scale.
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.set_ylabel("training loss / nats")
    else:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        ax.set_ylabel("test accuracy / %")
    return drawn


@drawable.takes(
    ax=drawable.axes,
    curves=CURVES,
    reference=drawable.text,
    rounds=drawable.numbers(),
    order=drawable.texts,
)
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
        rounds: the epochs after which filters were pruned, as in `training_curves`.
        order: all names of a figure with several panels, as in `training_curves`.

    Returns:
        What was drawn for each curve, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> curve = EpochCurve([1, 2], means=[0.6, 0.8], deviations=[0.1, 0.1])
        >>> drawn = correlations_over_epochs(ax, {"grasp": curve}, reference="taylor")
        >>> drawn["grasp"].line.get_ydata().tolist()
        [0.6, 0.8]
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
    """Draws a line with a band for each curve, and leaves the labels to its caller."""
    order = drawable.order_of(curves, order)
    drawn = {}
    for name, curve in curves.items():
        i = order.index(name)
        style = look_of_measure(i, name)
        # Each line has eight or so markers, which start at an epoch of its own: so no
        # two lines hide one another's.
        gap = max(1, len(curve.epochs) // 8)
        (line,) = ax.plot(
            curve.epochs,
            curve.means,
            label=name,
            linewidth=1.2,
            markevery=(i * gap // len(order), gap),
            **style,
        )
        means, half_height = np.asarray(curve.means), np.asarray(curve.deviations)
        band = ax.fill_between(
            curve.epochs,
            means - half_height,
            means + half_height,
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
