"""Draws the paper's five observations from what `observe` evaluated."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from gradflow_jax.observations.averages import average_over_seeds
from gradflow_jax.observations.fifth import PreservingGradientNorm
from gradflow_jax.observations.first import LargerWeights
from gradflow_jax.observations.fourth import IncreasingGradientNorm
from gradflow_jax.observations.second import SlowWeights
from gradflow_jax.observations.third import PreservingMagnitude
from gradflow_jax.plotting import drawable
from gradflow_jax.plotting.curves import look
from gradflow_jax.plotting.layers import LayerShares, pruned_by_layer
from gradflow_jax.plotting.recovery import (
    DrawnRecovery,
    Recovery,
    loss_against_gradient_norm,
)
from gradflow_jax.plotting.training import DrawnCurve, EpochCurve, curves_over


@drawable.takes(
    ax=drawable.axes,
    first=drawable.record(
        LargerWeights,
        magnitude_losses=drawable.numbers(2),
        preservation_losses=drawable.numbers(2),
    ),
)
def convergence(ax: Axes, first: LargerWeights) -> dict[str, DrawnCurve]:
    """Draws the training loss of fine-tuning: magnitude and loss preservation.

    Args:
        ax: where to draw; the axis of losses is logarithmic.
        first: observation 1.

    Returns:
        What was drawn for each measure, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> losses = np.array([[2.0, 1.0], [2.2, 1.2]])  # [seed, step]
        >>> first = LargerWeights(losses[:, 0], losses[:, 0], losses, losses, ())
        >>> convergence(ax, first)["magnitude"].line.get_ydata().tolist()
        [2.1, 1.1]
    """
    losses = {
        "magnitude": first.magnitude_losses,
        "loss_preservation": first.preservation_losses,
    }
    steps = range(1, first.magnitude_losses.shape[1] + 1)
    curves = {name: _curve(steps, by_seed) for name, by_seed in losses.items()}
    drawn = curves_over(ax, curves)
    ax.set_yscale("log")
    ax.set_xlabel("step of fine-tuning")
    ax.set_ylabel("training loss / nats")
    return drawn


@drawable.takes(
    ax=drawable.axes,
    second=drawable.record(
        SlowWeights, steps=drawable.numbers(), correlation=drawable.numbers(2)
    ),
    third=drawable.record(
        PreservingMagnitude, steps=drawable.numbers(), correlation=drawable.numbers(2)
    ),
)
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

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> rho = np.array([[0.5, 0.7]])  # [seed, moment]
        >>> second, change = SlowWeights((1, 9), rho, ()), np.ones((1, 2))
        >>> third = PreservingMagnitude((1, 9), rho, (1, 5), change, change, rho[0], ())
        >>> rank_correlations(ax, second, third)["magnitude"].line.get_ydata().tolist()
        [0.5, 0.7]
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


@drawable.takes(
    ax=drawable.axes,
    third=drawable.record(
        PreservingMagnitude,
        rounds=drawable.numbers(),
        largest=drawable.numbers(2),
        change=drawable.numbers(2),
    ),
)
def change_by_rounds(
    ax: Axes, third: PreservingMagnitude
) -> dict[str, ErrorbarContainer]:
    """Draws how much cuts by magnitude change the loss, over the number of rounds.

    Args:
        ax: where to draw; the axis of changes is logarithmic.
        third: observation 3.

    Returns:
        What was drawn for the largest cut and for all of them, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> rho, change = np.ones((2, 1)), np.array([[3.0, 1.0], [5.0, 1.0]])
        >>> third = PreservingMagnitude((1,), rho, (1, 5), change, change, rho[0], ())
        >>> change_by_rounds(ax, third)["all cuts"].lines[0].get_ydata().tolist()
        [4.0, 1.0]
    """
    for name in ("largest", "change"):
        by_round = np.transpose(getattr(third, name))
        drawable.same_length({"rounds": third.rounds, f"a row of {name}": by_round})
    drawn = {}
    changes = {"largest cut": third.largest, "all cuts": third.change}
    for i, (name, by_seed) in enumerate(changes.items()):
        average = average_over_seeds(by_seed)
        drawn[name] = ax.errorbar(
            range(len(third.rounds)),
            average.means,
            yerr=average.deviations,
            label=name,
            capsize=3,
            linewidth=1.2,
            **look(i),
        )
    ax.set_xticks(range(len(third.rounds)), list(map(str, third.rounds)))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("rounds of pruning")
    ax.set_ylabel("change of the loss |ΔL| / nats")
    ax.grid(color="0.93", linewidth=0.7)
    ax.set_axisbelow(True)
    return drawn


@drawable.takes(
    ax=drawable.axes,
    fourth=drawable.record(
        IncreasingGradientNorm,
        temperatures=drawable.numbers(),
        layers=drawable.texts,
        pruned=drawable.numbers(3),
    ),
)
def shares_by_depth(
    ax: Axes, fourth: IncreasingGradientNorm
) -> dict[str, ErrorbarContainer]:
    """Draws the share of each layer that GraSP prunes, a line for each temperature.

    Args:
        ax: where to draw.
        fourth: observation 4.

    Returns:
        What was drawn for each temperature, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> pruned = np.array([[[0.9, 0.5]]])  # [T, seed, layer]
        >>> fourth = IncreasingGradientNorm(
        ...     (200.0,), ("conv", "dense"), np.ones((1, 1)), pruned, ())
        >>> list(shares_by_depth(ax, fourth))
        ['T = 200']
    """
    drawable.same_length({"temperatures": fourth.temperatures, "pruned": fourth.pruned})
    shares_by_temperature = {}
    for T, by_seed in zip(fourth.temperatures, fourth.pruned, strict=True):
        average = average_over_seeds(by_seed)
        shares_by_temperature[f"T = {T:g}"] = LayerShares(
            average.means.tolist(), average.deviations.tolist()
        )
    drawn = pruned_by_layer(ax, fourth.layers, shares_by_temperature)
    ax.set_xlabel("weights pruned by GraSP / %")
    return drawn


@drawable.takes(
    ax=drawable.axes,
    fifth=drawable.record(
        PreservingGradientNorm,
        measures=drawable.texts,
        loss=drawable.numbers(3),
        gradient_norm=drawable.numbers(3),
    ),
)
def recovery(ax: Axes, fifth: PreservingGradientNorm) -> dict[str, DrawnRecovery]:
    """Draws loss over ‖g‖² right after pruning and after fine-tuning.

    Args:
        ax: where to draw; both axes are logarithmic.
        fifth: observation 5; its geometric means over seeds are drawn.

    Returns:
        What was drawn for each measure, by name.

    Raises:
        TypeError: for what cannot be drawn, by its name.
        ValueError: for lists that belong together and differ in length.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> values = np.ones((2, 1, 3))  # [measure, seed, before and after]
        >>> names = ("grasp", "gradient_norm_preservation")
        >>> list(recovery(ax, PreservingGradientNorm(names, values, values, ())))
        ['grasp', 'gradient_norm_preservation']
    """
    for name in ("loss", "gradient_norm"):
        quantity = getattr(fifth, name)
        drawable.same_length({"measures": fifth.measures, name: quantity})
        if np.shape(quantity)[2] != 3:
            raise ValueError(
                f"{name} has shape {np.shape(quantity)}: [measure, seed, 3], before "
                "pruning, right after it and after fine-tuning."
            )
    loss, norm = fifth.mean_loss, fifth.mean_gradient_norm
    # The last axis is: before pruning, right after it, after fine-tuning.
    networks = {
        name: Recovery(norm[i, 1], loss[i, 1], norm[i, 2], loss[i, 2])
        for i, name in enumerate(fifth.measures)
    }
    return loss_against_gradient_norm(ax, networks, dense=(norm[0, 0], loss[0, 0]))


def _curve(steps: Sequence[int], values: np.ndarray) -> EpochCurve:
    """Returns the curve of values [seed, step] over the steps of training."""
    means, deviations = average_over_seeds(values)
    return EpochCurve(list(steps), means.tolist(), deviations.tolist())
