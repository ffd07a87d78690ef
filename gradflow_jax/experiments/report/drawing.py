"""The figures of a report, of one block each."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from matplotlib.figure import Figure

from gradflow_jax.experiments.formatting import counted
from gradflow_jax.experiments.report.runs import Block, Run, left, spread_of
from gradflow_jax.experiments.reproduction.record import EpochRow
from gradflow_jax.plotting import (
    EpochCurve,
    LayerShares,
    correlations_over_epochs,
    pruned_by_layer,
    training_curves,
)
from gradflow_jax.plotting.training import DENSE

# What the others are compared with, where it is among them: the paper's own measure of
# first order, near to which it finds the rest.
REFERENCE = "loss_preservation"

_PANEL = 4.6
_BANDS = "bands: deviation over seeds; vertical lines: rounds"


def figures(block: Block, order: Sequence[str]) -> dict[str, Figure]:
    """Draws what there is to draw of a block.

    Args:
        block: the runs.
        order: the names of the measures of the whole report, which decides how each is
            drawn.

    Returns:
        Figures by what they show: "training", "layers", "correlations".
    """
    order = [*order, DENSE]
    found = {"training": _training(block, order)}
    if block.runs:
        found["layers"] = _layers(block, order[:-1])
    panels = _correlation_panels(block)
    if panels:
        found["correlations"] = _correlations(block, panels, order)
    return found


def layer_shares(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Returns the fraction of filters pruned of each layer, one a run."""
    return {
        layer: [
            1 - left(run).widths[layer] / run.record.dense.widths[layer] for run in runs
        ]
        for layer in runs[0].record.dense.widths
    }


def _training(block: Block, order: Sequence[str]) -> Figure:
    columns = block.rounds or [0]
    figure, axes = _panels(2, len(columns), 3.3, sharex="col", sharey="row")
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
        ax.set_title(counted(count) if count else "unpruned")
    _finish(figure, axes, block, (*block.runs, *block.dense), order, _BANDS)
    return figure


def _curve(runs: Sequence[Run], number: Callable[[EpochRow], float]) -> EpochCurve:
    rows = list(zip(*(run.record.epochs for run in runs), strict=False))
    found = [spread_of([number(row) for row in of_epoch]) for of_epoch in rows]
    return EpochCurve(
        [of_epoch[0].epoch for of_epoch in rows],
        [one.mean for one in found],
        [one.deviation for one in found],
    )


def _round_epochs(runs: Sequence[Run]) -> list[int]:
    return sorted({row.epoch for run in runs for row in run.record.rounds})


def _layers(block: Block, order: Sequence[str]) -> Figure:
    names = list(layer_shares(block.runs))
    height = max(3.0, 0.27 * len(names))
    figure, axes = _panels(1, len(block.rounds), height, sharey=True)
    for ax, count in zip(axes[0], block.rounds, strict=True):
        shares = {}
        for measure in block.measures:
            runs = block.of(measure, count)
            if runs:
                own = layer_shares(runs)
                found = [spread_of(own[name]) for name in names]
                shares[measure] = LayerShares(
                    [one.mean for one in found], [one.deviation for one in found]
                )
        pruned_by_layer(ax, names, shares, order=order)
        ax.set_title(counted(count))
        ax.label_outer()
    _finish(figure, axes, block, block.runs, order, "bars: deviation over seeds")
    return figure


_Panel = tuple[str, str, dict[str, EpochCurve], list[int]]


def _correlation_panels(block: Block) -> list[_Panel]:
    """Returns the title, reference, curves and epochs of rounds of each panel.

    Of several kinds of runs each has a panel, of a single one each reference has.
    """
    groups = {DENSE: list(block.dense)}
    for count in block.rounds:
        for measure in block.measures:
            groups[f"{measure}, {counted(count)}"] = block.of(measure, count)
    found: list[tuple[str, list[Run]]] = []
    for name, runs in groups.items():
        own = [run for run in runs if run.record.correlations]
        if own:
            found.append((name, own))
    panels = []
    for name, runs in found:
        measures = runs[0].record.correlations[0].measures
        main = REFERENCE if REFERENCE in measures else measures[0]
        for reference in (main,) if len(found) > 1 else measures:
            curves = {
                other: _correlation(runs, reference, other)
                for other in measures
                if other != reference
            }
            panels.append((name, reference, curves, _round_epochs(runs)))
    return panels


def _correlated(block: Block) -> list[Run]:
    return [run for run in (*block.runs, *block.dense) if run.record.correlations]


def _correlation(runs: Sequence[Run], first: str, second: str) -> EpochCurve:
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        for row in run.record.correlations:
            if first in row.measures and second in row.measures:
                i, j = row.measures.index(first), row.measures.index(second)
                by_epoch.setdefault(row.epoch, []).append(row.spearman[i][j])
    epochs = sorted(by_epoch)
    found = [spread_of(by_epoch[epoch]) for epoch in epochs]
    return EpochCurve(
        epochs, [one.mean for one in found], [one.deviation for one in found]
    )


def _correlations(
    block: Block, panels: Sequence[_Panel], order: Sequence[str]
) -> Figure:
    names = list(order)
    names += [n for _, _, curves, _ in panels for n in curves if n not in names]
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure, axes = _panels(down, across, 2.7, sharex=True, sharey=False)
    spare = axes.ravel()[len(panels) :]
    for ax, (name, reference, curves, rounds) in zip(
        axes.ravel(), panels, strict=False
    ):
        correlations_over_epochs(
            ax, curves, reference=reference, rounds=rounds, order=names
        )
        ax.set_title(f"network: {name}", fontsize=9)
    for ax in spare:
        ax.set_axis_off()
    for ax in axes.ravel()[: len(panels) - across]:
        ax.set_xlabel("")
    for ax in axes.ravel()[len(panels) - across : len(panels)]:
        # Also above an empty panel.
        ax.tick_params(labelbottom=True)
    _finish(figure, axes, block, _correlated(block), names, _BANDS)
    return figure


def _panels(
    down: int,
    across: int,
    height: float,
    *,
    sharex: bool | Literal["col"] = False,
    sharey: bool | Literal["row"] = False,
) -> tuple[Figure, Any]:
    # A Figure and no pyplot: nothing is left open and no window system is asked for.
    size = (max(7.0, _PANEL * across + 1), height * down + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(
        down, across, sharex=sharex, sharey=sharey, squeeze=False
    )


def _finish(
    figure: Figure,
    axes: Any,
    block: Block,
    runs: Sequence[Run],
    order: Sequence[str],
    notes: str,
) -> None:
    """Adds one legend of all panels, and of what and how many runs it is.

    Of `runs` is what was drawn; of `block` they are.
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
    )
