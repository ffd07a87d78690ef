"""Quantities over time, beside what a theory predicts of them."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gradflow_jax.plotting import drawable
from gradflow_jax.plotting.curves import look


class PredictionCheck(NamedTuple):
    """A quantity over time, as measured and as predicted.

    Attributes:
        times: when it was measured.
        measured: its values.
        predicted: what they should be, at the same times.
    """

    times: npt.ArrayLike
    measured: npt.ArrayLike
    predicted: npt.ArrayLike


class DrawnPredictionCheck(NamedTuple):
    """The artists that stand for one quantity.

    Attributes:
        measured: the points.
        predicted: the line.
    """

    measured: Line2D
    predicted: Line2D


@drawable.takes(
    ax=drawable.axes,
    checks=drawable.by_name(
        drawable.curve(PredictionCheck, "times", "measured", "predicted")
    ),
    quantity=drawable.text,
    time=drawable.text,
    scale=drawable.one_of("linear", "log", "symlog"),
)
def measured_and_predicted(
    ax: Axes,
    checks: Mapping[str, PredictionCheck],
    *,
    quantity: str,
    time: str = "training time / steps × step size",
    scale: Literal["linear", "log", "symlog"] = "linear",
) -> dict[str, DrawnPredictionCheck]:
    """Draws what was measured as points and what was predicted as a line through them.

    Where a theory holds each line runs through its points.

    Args:
        ax: where to draw.
        checks: by the name in the legend.
        quantity: what is drawn, with its unit, for the axis: "loss / nats".
        time: what times are, with their unit, for the axis.
        scale: of the axis of the quantity.

    Returns:
        What was drawn for each, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> check = PredictionCheck([0.0, 0.1], measured=[2, 1.8], predicted=[2, 1.81])
        >>> drawn = measured_and_predicted(ax, {"flow": check}, quantity="loss / nats")
        >>> drawn["flow"].predicted.get_label()
        'flow, predicted'
    """
    drawn = {}
    for i, (name, check) in enumerate(checks.items()):
        style = look(i)
        (line,) = ax.plot(
            check.times,
            check.predicted,
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=1.4,
            label=f"{name}, predicted",
            zorder=2,
        )
        (points,) = ax.plot(
            check.times,
            check.measured,
            color=style["color"],
            linestyle="none",
            marker=style["marker"],
            markersize=6,
            # Points are hollow, so that the line is seen to run through them.
            markerfacecolor="none",
            markeredgewidth=1.2,
            label=f"{name}, measured",
            zorder=3,
        )
        drawn[name] = DrawnPredictionCheck(points, line)
    ax.set_yscale(scale)
    ax.set_xlabel(time)
    ax.set_ylabel(quantity)
    ax.grid(color="0.93", linewidth=0.7)
    ax.set_axisbelow(True)
    return drawn
