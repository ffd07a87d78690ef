"""Shows a sweep to a person: bars while it runs, a table, a picture."""

import signal
from collections.abc import Sequence
from pathlib import Path

import rich.box
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.sweep.results import AnyRow, Spread, spread
from gradflow_jax.experiments.sweep.weights import Row
from gradflow_jax.experiments.sweep.settings import Settings
from gradflow_jax.plotting import Curve, accuracy_against_sparsity
from gradflow_jax.atomic_files import write_whole


class Bars:
    """Shows work as two bars, all of it and what is being done; stops it at Ctrl-C.

    The interrupt is raised at the next step, not wherever Python happens to be: inside
    a callback of the garbage collector, which JAX has, Python would only print it. A
    second Ctrl-C is raised at once.
    """

    def __init__(self, total: int, console: Console, *, of: str = "networks"):
        """Makes bars for so many networks, or of what else; a context manager."""
        self._interrupted = False
        self._progress = Progress(
            TextColumn("{task.description:<42}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=console.quiet,
        )
        self._all = self._progress.add_task(of, total=total)
        self._stage = self._progress.add_task("loading", total=None)

    def __enter__(self) -> "Bars":
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, *_: object) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def stage(self, description: str, steps: int) -> None:
        """Begins a stage; without a number of steps the bar pulses."""
        self._progress.reset(self._stage, description=description, total=steps or None)

    def step(self, description: str | None = None) -> None:
        """One step is done; what is being done may be said anew."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._progress.update(self._stage, advance=1, description=description)

    def row(self, done: int | None = None) -> None:
        """One network is done, or so many are in all."""
        if done is None:
            self._progress.advance(self._all)
        else:
            self._progress.update(self._all, completed=done)


def accuracy_table(settings: Settings, dataset: Dataset, rows: Sequence[Row]) -> Table:
    """Returns the accuracies after fine-tuning, a line a measure."""
    several = len(settings.seeds) > 1
    dense = spread(rows, "dense", 0.0, "accuracy")
    table = Table(
        title=f"Test accuracy (%) on {dataset.name} after pruning and fine-tuning",
        caption=f"dense: {percent(dense)}"
        + (f"; mean ± deviation over {len(settings.seeds)} seeds" if several else ""),
        title_justify="left",
        # Narrow, so that the names of measures stand whole in 80 columns.
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption_justify="left",
    )
    table.add_column("measure", no_wrap=True)
    for sparsity in settings.sparsities:
        table.add_column(f"{100 * sparsity:g} %", justify="right", no_wrap=True)
    for measure in settings.measures:
        cells = [
            percent(spread(rows, measure, sparsity, "accuracy"))
            for sparsity in settings.sparsities
        ]
        table.add_row(measure, *cells)
    return table


def write_accuracy_plot(
    settings: Settings, dataset: Dataset, rows: Sequence[AnyRow], path: Path
) -> None:
    """Draws accuracy against sparsity right after pruning and after fine-tuning."""
    # A Figure and no pyplot: nothing is left open and no window system is asked for.
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    fields = {"pruned_accuracy": "right after pruning", "accuracy": "after fine-tuning"}
    dense = spread(rows, "dense", 0.0, "accuracy")
    for ax, (field, title) in zip(axes, fields.items(), strict=True):
        curves = {}
        for measure in settings.measures:
            found = {s: spread(rows, measure, s, field) for s in settings.sparsities}
            there = [s for s in settings.sparsities if found[s].seeds]
            if there:
                curves[measure] = Curve(
                    there,
                    [found[s].mean for s in there],
                    [found[s].deviation for s in there],
                )
        accuracy_against_sparsity(
            ax, curves, dense=dense.mean, removed=settings.removed
        )
        ax.set_title(title)
    axes[1].set_ylabel("")
    bars = ", bars: deviation" if dense.seeds > 1 else ""
    figure.suptitle(
        f"Small CNN on {dataset.name}, {settings.title}, "
        f"{dense.seeds} seed{'s' if dense.seeds != 1 else ''}{bars}"
    )
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=120))


def percent(found: Spread) -> str:
    """Returns the mean in percent, with the deviation where there are several seeds."""
    if found.seeds < 2:
        return f"{100 * found.mean:.1f}"
    return f"{100 * found.mean:.1f}±{100 * found.deviation:.1f}"
