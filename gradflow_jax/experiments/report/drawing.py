"""Draws the figures of a report, each of one block of runs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from matplotlib.figure import Figure

from gradflow_jax.experiments.formatting import rounds_in_words
from gradflow_jax.experiments.report.runs import Block, RecordedRun, left, spread_of
from gradflow_jax.experiments.reproduction.record import EpochRow
from gradflow_jax.plotting import (
    EpochCurve,
    LayerShares,
    correlations_over_epochs,
    pruned_by_layer,
    training_curves,
)
from gradflow_jax.plotting.training import DENSE

# The other measures are compared with this one where a run has it: the paper finds them
# near to it, its own measure of first order.
REFERENCE = "loss_preservation"

KINDS = ("training", "layers", "correlations")
"""What figures show."""

_PANEL = 4.6
_BANDS = "bands: deviation over seeds; vertical lines: rounds"


def figures(block: Block, order: Sequence[str]) -> dict[str, Figure]:
    """Draws what there is to draw of a block.

    Args:
        block: the runs.
        order: the names of the measures of the whole report, which decides how each is
            drawn.

    Returns:
        Figures by what they show, one of `KINDS`.
    """
    order = [*order, DENSE]
    drawn = {"training": _draw_training(block, order)}
    if block.runs:
        drawn["layers"] = _draw_layers(block, order[:-1])
    panels = _correlation_panels(block)
    if panels:
        drawn["correlations"] = _draw_correlations(block, panels, order)
    return drawn


def layer_shares(runs: Sequence[RecordedRun]) -> dict[str, list[float]]:
    """Returns the fraction of filters pruned of each layer, one a run."""
    return {
        layer: [
            1 - left(run).widths[layer] / run.record.dense.widths[layer] for run in runs
        ]
        for layer in runs[0].record.dense.widths
    }


def _draw_training(block: Block, order: Sequence[str]) -> Figure:
    """Draws loss and accuracy over epochs, a column for each number of rounds."""
    columns = block.rounds or [0]
    figure, axes = _make_panels(2, len(columns), 3.3, sharex="col", sharey="row")
    quantities: dict[Any, Callable[[EpochRow], float]] = {
        "training loss": lambda row: row.train_loss,
        "test accuracy": lambda row: row.test_accuracy,
    }
    for row, (quantity, number) in zip(axes, quantities.items(), strict=True):
        for ax, count in zip(row, columns, strict=True):
            groups = {m: block.of(m, count) for m in block.measures}
            groups[DENSE] = list(block.dense)
            training_curves(
                ax,
                {name: _curve(runs, number) for name, runs in groups.items() if runs},
                quantity=quantity,
                rounds=_round_epochs([run for runs in groups.values() for run in runs]),
                order=order,
            )
            ax.label_outer()
    for ax, count in zip(axes[0], columns, strict=True):
        ax.set_title(rounds_in_words(count) if count else "unpruned")
    _add_legend(figure, axes, block, (*block.runs, *block.dense), order, _BANDS)
    return figure


def _curve(
    runs: Sequence[RecordedRun], number: Callable[[EpochRow], float]
) -> EpochCurve:
    """Returns the mean and deviation over runs of a number of each epoch."""
    epochs = list(zip(*(run.record.epochs for run in runs), strict=False))
    spreads = [spread_of([number(row) for row in of_runs]) for of_runs in epochs]
    return EpochCurve(
        [of_runs[0].epoch for of_runs in epochs],
        [over_runs.mean for over_runs in spreads],
        [over_runs.deviation for over_runs in spreads],
    )


def _round_epochs(runs: Sequence[RecordedRun]) -> list[int]:
    return sorted({row.epoch for run in runs for row in run.record.rounds})


def _draw_layers(block: Block, order: Sequence[str]) -> Figure:
    """Draws what each layer lost, a column for each number of rounds."""
    layers = list(layer_shares(block.runs))
    height = max(3.0, 0.27 * len(layers))
    figure, axes = _make_panels(1, len(block.rounds), height, sharey=True)
    for ax, count in zip(axes[0], block.rounds, strict=True):
        by_measure = {}
        for measure in block.measures:
            runs = block.of(measure, count)
            if runs:
                shares = layer_shares(runs)
                spreads = [spread_of(shares[layer]) for layer in layers]
                by_measure[measure] = LayerShares(
                    [over_runs.mean for over_runs in spreads],
                    [over_runs.deviation for over_runs in spreads],
                )
        pruned_by_layer(ax, layers, by_measure, order=order)
        ax.set_title(rounds_in_words(count))
        ax.label_outer()
    _add_legend(figure, axes, block, block.runs, order, "bars: deviation over seeds")
    return figure


_Panel = tuple[str, str, dict[str, EpochCurve], list[int]]


def _correlation_panels(block: Block) -> list[_Panel]:
    """Returns the title, reference, curves and epochs of rounds of each panel.

    Where there are several kinds of runs, each kind has a panel, in which measures are
    compared with one reference. Where there is a single kind, each measure has a panel
    in which it is the reference.
    """
    groups = {DENSE: list(block.dense)}
    for count in block.rounds:
        for measure in block.measures:
            groups[f"{measure}, {rounds_in_words(count)}"] = block.of(measure, count)
    kinds = {name: _runs_with_correlations(runs) for name, runs in groups.items()}
    kinds = {name: runs for name, runs in kinds.items() if runs}
    panels = []
    for name, runs in kinds.items():
        measures = runs[0].record.correlations[0].measures
        main = REFERENCE if REFERENCE in measures else measures[0]
        for reference in (main,) if len(kinds) > 1 else measures:
            curves = {
                measure: _correlation(runs, reference, measure)
                for measure in measures
                if measure != reference
            }
            panels.append((name, reference, curves, _round_epochs(runs)))
    return panels


def _runs_with_correlations(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """Returns the runs in which measures were compared."""
    return [run for run in runs if run.record.correlations]


def _correlation(runs: Sequence[RecordedRun], first: str, second: str) -> EpochCurve:
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        for row in run.record.correlations:
            if first in row.measures and second in row.measures:
                i, j = row.measures.index(first), row.measures.index(second)
                by_epoch.setdefault(row.epoch, []).append(row.spearman[i][j])
    epochs = sorted(by_epoch)
    spreads = [spread_of(by_epoch[epoch]) for epoch in epochs]
    return EpochCurve(
        epochs,
        [over_runs.mean for over_runs in spreads],
        [over_runs.deviation for over_runs in spreads],
    )


def _draw_correlations(
    block: Block, panels: Sequence[_Panel], order: Sequence[str]
) -> Figure:
    names = list(order)
    names += [n for _, _, curves, _ in panels for n in curves if n not in names]
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure, axes = _make_panels(down, across, 2.7, sharex=True, sharey=False)
    spare_axes = axes.ravel()[len(panels) :]
    for ax, (name, reference, curves, rounds) in zip(
        axes.ravel(), panels, strict=False
    ):
        correlations_over_epochs(
            ax, curves, reference=reference, rounds=rounds, order=names
        )
        ax.set_title(f"network: {name}", fontsize=9)
    for ax in spare_axes:
        ax.set_axis_off()
    for ax in axes.ravel()[: len(panels) - across]:
        ax.set_xlabel("")
    for ax in axes.ravel()[len(panels) - across : len(panels)]:
        # matplotlib labels the lowest row alone, which may be empty below this panel.
        ax.tick_params(labelbottom=True)
    runs = _runs_with_correlations([*block.runs, *block.dense])
    _add_legend(figure, axes, block, runs, names, _BANDS)
    return figure


def _make_panels(
    down: int,
    across: int,
    height: float,
    *,
    sharex: bool | Literal["col"] = False,
    sharey: bool | Literal["row"] = False,
) -> tuple[Figure, Any]:
    # Unlike pyplot a Figure leaves nothing open and asks for no window system.
    size = (max(7.0, _PANEL * across + 1), height * down + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(
        down, across, sharex=sharex, sharey=sharey, squeeze=False
    )


def _add_legend(
    figure: Figure,
    axes: Any,
    block: Block,
    runs: Sequence[RecordedRun],
    order: Sequence[str],
    notes: str,
) -> None:
    """Adds one legend of all panels, and a title: what was run, on how many seeds.

    Args:
        figure: to be completed.
        axes: its panels.
        block: the runs that the figure is of.
        runs: those of them that were drawn.
        order: the names of the measures, in the legend's order.
        notes: what bands or bars show.
    """
    entries = {}
    for ax in axes.ravel():
        handles, labels = ax.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    names = sorted(entries, key=list(order).index)
    figure.legend(
        [entries[name] for name in names],
        names,
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    seeds = {run.record.settings.seed for run in runs}
    many = f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}"
    pruned = f", {100 * block.settings.prune:g} % of filters pruned"
    figure.suptitle(
        f"{block.settings.model} on {block.data}{pruned if block.runs else ''}, {many}"
        + (f"\n{notes}" if len(seeds) > 1 else ""),
        fontsize=11,
        # The name of the data is a person's, and a dollar in it begins no formula.
        parse_math=False,
    )
