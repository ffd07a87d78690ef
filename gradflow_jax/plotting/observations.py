"""The paper's five observations, each drawn from what was evaluated."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from gradflow_jax.observations.fifth import PreservingGradientNorm
from gradflow_jax.observations.first import LargerWeights
from gradflow_jax.observations.fourth import IncreasingGradientNorm
from gradflow_jax.observations.second import SlowWeights
from gradflow_jax.observations.third import PreservingMagnitude
from gradflow_jax.plotting.curves import look
from gradflow_jax.plotting.recovery import (
    DrawnRecovery,
    Recovery,
    loss_against_gradient_norm,
)
from gradflow_jax.plotting.training import (
    DrawnCurve,
    EpochCurve,
    LayerShares,
    curves_over,
    pruned_by_layer,
)


def convergence(ax: Axes, found: LargerWeights) -> dict[str, DrawnCurve]:
    """Draws the training loss of fine-tuning: magnitude and loss preservation.

    Args:
        ax: where to draw; the axis of losses is logarithmic.
        found: observation 1.

    Returns:
        What was drawn for each measure, by name.
    """
    losses = {
        "magnitude": found.magnitude_losses,
        "loss_preservation": found.preservation_losses,
    }
    steps = range(1, found.magnitude_losses.shape[1] + 1)
    drawn = curves_over(ax, {name: _curve(steps, own) for name, own in losses.items()})
    ax.set_yscale("log")
    ax.set_xlabel("step of fine-tuning")
    ax.set_ylabel("training loss / nats")
    return drawn


def rank_correlations(
    ax: Axes, second: SlowWeights, third: PreservingMagnitude
) -> dict[str, DrawnCurve]:
    """Draws what loss preservation is correlated with over training.

    Args:
        ax: where to draw.
        second: observation 2, of the change of θ².
        third: observation 3, of the magnitude.

    Returns:
        What was drawn for each, by name.
    """
    curves = {
        "change of θ²": _curve(second.steps, second.correlation),
        "magnitude": _curve(third.steps, third.correlation),
    }
    ax.axhline(0, color="0.5", linewidth=0.8)
    drawn = curves_over(ax, curves)
    ax.set_ylim(-1.05, 1.05)
    ax.set_xlabel("step of training")
    ax.set_ylabel("Spearman's ρ with\nloss preservation")
    return drawn


def change_by_rounds(
    ax: Axes, found: PreservingMagnitude
) -> dict[str, ErrorbarContainer]:
    """Draws how much cuts by magnitude change the loss, over the number of rounds.

    Args:
        ax: where to draw; the axis of changes is logarithmic.
        found: observation 3.

    Returns:
        What was drawn for the largest cut and for all of them, by name.
    """
    drawn = {}
    for i, (name, own) in enumerate(
        {"largest cut": found.largest, "all cuts": found.change}.items()
    ):
        drawn[name] = ax.errorbar(
            range(len(found.rounds)),
            own.mean(0),
            yerr=_deviation(own),
            label=name,
            capsize=3,
            linewidth=1.2,
            **look(i),
        )
    ax.set_xticks(range(len(found.rounds)), list(map(str, found.rounds)))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("rounds of pruning")
    ax.set_ylabel("change of the loss |ΔL| / nats")
    ax.grid(color="0.93", linewidth=0.7)
    ax.set_axisbelow(True)
    return drawn


def shares_by_depth(
    ax: Axes, found: IncreasingGradientNorm
) -> dict[str, ErrorbarContainer]:
    """Draws the share of each layer that GraSP prunes, a line for each temperature.

    Args:
        ax: where to draw.
        found: observation 4.

    Returns:
        What was drawn for each temperature, by name.
    """
    shares = {
        f"T = {T:g}": LayerShares(own.mean(0).tolist(), _deviation(own).tolist())
        for T, own in zip(found.temperatures, found.pruned, strict=True)
    }
    drawn = pruned_by_layer(ax, found.layers, shares)
    ax.set_xlabel("weights pruned by GraSP / %")
    return drawn


def recovery(ax: Axes, found: PreservingGradientNorm) -> dict[str, DrawnRecovery]:
    """Draws loss over ‖g‖² right after pruning and after fine-tuning.

    Args:
        ax: where to draw; both axes are logarithmic.
        found: observation 5; its geometric means over seeds are drawn.

    Returns:
        What was drawn for each measure, by name.
    """
    loss, norm = (
        np.exp(np.log(own).mean(1)) for own in (found.loss, found.gradient_norm)
    )
    networks = {
        name: Recovery(norm[i, 1], loss[i, 1], norm[i, 2], loss[i, 2])
        for i, name in enumerate(found.measures)
    }
    return loss_against_gradient_norm(ax, networks, dense=(norm[0, 0], loss[0, 0]))


def _curve(steps: Sequence[int], values: np.ndarray) -> EpochCurve:
    return EpochCurve(list(steps), values.mean(0).tolist(), _deviation(values).tolist())


def _deviation(values: np.ndarray) -> np.ndarray:
    """Returns the deviation over the seeds, which are the first axis."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])
