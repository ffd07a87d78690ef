"""Matrices of measures, with their numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.text import Text

from gradflow_jax.plotting import drawable


class DrawnMatrix(NamedTuple):
    """The artists that stand for a matrix.

    Attributes:
        image: the colors.
        numbers: the text of each cell, row by row.
    """

    image: AxesImage
    numbers: list[Text]


@drawable.takes(
    ax=drawable.axes,
    names=drawable.texts,
    values=drawable.numbers(2),
    quantity=drawable.text,
)
def correlation_matrix(
    ax: Axes,
    names: Sequence[str],
    values: npt.ArrayLike,
    *,
    quantity: str = "Spearman's ρ",
) -> DrawnMatrix:
    """Draws how far measures agree, a colored cell with a number for each pair.

    Orange is below 0 and purple above, in shades that also differ in gray. A cell of a
    score without an order, NaN, is gray with a dash.

    Args:
        ax: where to draw.
        names: of the measures.
        values: [name, name], in [−1, 1].
        quantity: what the numbers are, for the title; it has no unit.

    Returns:
        What was drawn.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> names = ["magnitude", "grasp"]
        >>> drawn = correlation_matrix(ax, names, [[1.0, -0.25], [-0.25, 1.0]])
        >>> [number.get_text() for number in drawn.numbers]
        ['1.00', '−0.25', '−0.25', '1.00']
    """
    drawable.same_length(
        {"names": names, "values": values, "a row of values": np.transpose(values)}
    )
    values = np.ma.masked_invalid(np.asarray(values, float))
    ax.set_facecolor("0.85")
    image = ax.imshow(values, cmap="PuOr", vmin=-1, vmax=1)
    font_size = max(5.0, min(9.0, 90 / max(len(names), 1)))
    numbers = []
    for (row, column), value in np.ndenumerate(values.filled(np.nan)):
        has_order = not np.isnan(value)
        numbers.append(
            ax.text(
                column,
                row,
                # U+2212 is as wide as a digit. Adding 0.0 takes the sign from −0.0,
                # and the second replacement takes it from what is rounded to 0.00.
                f"{value + 0.0:.2f}".replace("-", "−").replace("−0.00", "0.00")
                if has_order
                else "–",
                ha="center",
                va="center",
                fontsize=font_size,
                color="white" if has_order and abs(value) > 0.7 else "black",
            )
        )
    places = range(len(names))
    ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, names)
    ax.tick_params(length=0, labelsize=8)
    ax.set_title(quantity, fontsize=10)
    ax.spines[:].set_visible(False)
    return DrawnMatrix(image, numbers)
