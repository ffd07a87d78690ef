"""Loss and gradient norm of networks, right after pruning and after fine-tuning.

The paper's observations 4 and 5: raising the gradient norm removes what raises the loss
most, and preserving it does better.
"""

from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gradflow_jax.plotting import drawable
from gradflow_jax.plotting.curves import look


class Recovery(NamedTuple):
    """A network right after pruning and after fine-tuning.

    Attributes:
        gradient_norm: ‖g‖² right after pruning, of the mean loss.
        loss: right after pruning, in nats.
        tuned_gradient_norm: ‖g‖² after fine-tuning.
        tuned_loss: after fine-tuning, in nats.
    """

    gradient_norm: float
    loss: float
    tuned_gradient_norm: float
    tuned_loss: float


class DrawnRecovery(NamedTuple):
    """The artists that stand for one network.

    Attributes:
        pruned: its point right after pruning.
        tuned: its point after fine-tuning.
        way: the line between the two.
    """

    pruned: Line2D
    tuned: Line2D
    way: Line2D


@drawable.takes(
    ax=drawable.axes,
    networks=drawable.by_name(
        drawable.record(
            Recovery,
            gradient_norm=drawable.any_number,
            loss=drawable.any_number,
            tuned_gradient_norm=drawable.any_number,
            tuned_loss=drawable.any_number,
        )
    ),
    dense=drawable.optional(drawable.numbers()),
)
def loss_against_gradient_norm(
    ax: Axes,
    networks: Mapping[str, Recovery],
    *,
    dense: tuple[float, float] | None = None,
) -> dict[str, DrawnRecovery]:
    """Draws loss over ‖g‖², from right after pruning to after fine-tuning.

    Hollow points are right after pruning, full ones after fine-tuning. To the right
    are networks whose loss can still fall fast, and above those that pruning hurt.

    Args:
        ax: where to draw; both axes are logarithmic.
        networks: by the name of the measure that pruned.
        dense: ‖g‖² and loss of the unpruned network, drawn as a gray cross.

    Returns:
        What was drawn for each, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> network = Recovery(0.9, 1.7, tuned_gradient_norm=0.1, tuned_loss=0.3)
        >>> drawn = loss_against_gradient_norm(ax, {"grasp": network}, dense=(0.1, 0.2))
        >>> drawn["grasp"].way.get_ydata().tolist()
        [1.7, 0.3]
    """
    if dense is not None:
        drawable.same_length({"(‖g‖², loss)": ("‖g‖²", "loss"), "dense": dense})
    drawn = {}
    for i, (name, network) in enumerate(networks.items()):
        style = look(i)
        norms = network.gradient_norm, network.tuned_gradient_norm
        losses = network.loss, network.tuned_loss
        (way,) = ax.plot(
            norms,
            losses,
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=0.9,
            alpha=0.7,
        )
        points = []
        # End 0 of the way is the pruned network, end 1 the tuned one.
        for end, face in enumerate(("white", style["color"])):
            (point,) = ax.plot(
                norms[end],
                losses[end],
                color=style["color"],
                linestyle="none",
                marker=style["marker"],
                markersize=8,
                markerfacecolor=face,
                markeredgewidth=1.4,
                label=name if end else None,
            )
            points.append(point)
        drawn[name] = DrawnRecovery(points[0], points[1], way)
    if dense is not None:
        ax.plot(
            *dense, "+", color="0.35", markersize=12, markeredgewidth=2, label="dense"
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    # Losses may stay within one decade, where powers of ten alone are no scale.
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.set_xlabel("gradient norm squared ‖g‖² / nats²")
    ax.set_ylabel("loss / nats")
    ax.set_title("hollow: right after pruning; full: after fine-tuning", fontsize=9)
    ax.grid(color="0.93", linewidth=0.7)
    ax.set_axisbelow(True)
    return drawn
