"""The picture of a sweep: accuracy against sparsity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.sweep.results import (
    COLLAPSED,
    AnyRow,
    has_collapsed,
    names_of_rows,
    notes_of_rows,
    spread,
)
from gradflow_jax.experiments.sweep.settings import Settings
from gradflow_jax.plotting import Curve, accuracy_against_sparsity


def write_accuracy_plot(
    settings: Settings, dataset: Dataset, rows: Sequence[AnyRow], path: Path
) -> None:
    """Draws accuracy against sparsity right after pruning and after fine-tuning."""
    # Unlike pyplot a Figure leaves nothing open and asks for no window system.
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shared = names_of_rows(settings.measures, rows)
    fields = {"pruned_accuracy": "right after pruning", "accuracy": "after fine-tuning"}
    dense = spread(rows, "dense", 0.0, "accuracy")
    for ax, (field, title) in zip(axes, fields.items(), strict=True):
        curves, collapsed = {}, {}
        for measure, names in shared.items():
            # A sweep that was stopped has no rows yet of some sparsities.
            spreads = {s: spread(rows, measure, s, field) for s in settings.sparsities}
            reached = {s: accuracy for s, accuracy in spreads.items() if accuracy.seeds}
            if reached:
                name = " =\n".join(names)
                collapsed[name] = [has_collapsed(rows, measure, s) for s in reached]
                curves[name] = Curve(
                    list(reached),
                    [accuracy.mean for accuracy in reached.values()],
                    [accuracy.deviation for accuracy in reached.values()],
                )
        drawn = accuracy_against_sparsity(
            ax, curves, dense=dense.mean, removed=settings.removed
        )
        _mark_collapsed(ax, drawn, collapsed)
        ax.set_title(title)
    axes[1].set_ylabel("")
    bars = ", bars: deviation" if dense.seeds > 1 else ""
    figure.suptitle(
        f"Small CNN on {dataset.name}, {settings.title}, "
        f"{dense.seeds} seed{'s' if dense.seeds != 1 else ''}{bars}"
    )
    notes = notes_of_rows(list(shared), rows)
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=8)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=120))


def _mark_collapsed(
    ax: Axes,
    drawn: Mapping[str, ErrorbarContainer],
    collapsed: Mapping[str, Sequence[bool]],
) -> None:
    """Marks the points of networks of which a layer is empty."""
    points = [
        np.asarray(drawn[name].lines[0].get_xydata())[flags]
        for name, flags in collapsed.items()
        if any(flags)
    ]
    if points:
        ax.plot(
            *np.concatenate(points).T,
            "o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor="red",
            label=f"{COLLAPSED} a layer is empty",
        )
