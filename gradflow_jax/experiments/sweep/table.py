"""Tables of a sweep: accuracies; sizes, speed and accuracy of what was cut."""

from collections.abc import Sequence
from statistics import mean

import rich.box
from rich.table import Table

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.formatting import compact
from gradflow_jax.experiments.networks.timing import PAIRS
from gradflow_jax.experiments.sweep.cut_and_time import FORWARD_BATCH
from gradflow_jax.experiments.sweep.results import spread
from gradflow_jax.experiments.sweep.settings import Settings, StructuredSettings
from gradflow_jax.experiments.sweep.units import StructuredRow
from gradflow_jax.experiments.sweep.weights import Row
from gradflow_jax.observations.findings import Spread

_HEADER = (
    "removed", "widths", "parameters", "FLOPs", "ms", "faster", "cut", "tuned",
)  # fmt: skip


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


def cut_table(
    settings: StructuredSettings, dataset: Dataset, rows: Sequence[StructuredRow]
) -> str:
    """Returns the lines of the table, a block a measure, the dense network first."""
    # Each measure's name stands on a line of its own: as a column the longest would
    # leave too little of 80 columns for the numbers.
    lines: list[str | tuple[str, ...]] = [_HEADER, _cells(rows, "dense", 0.0, "dense")]
    for measure in settings.measures:
        lines += ["", measure]
        lines += [
            _cells(rows, measure, sparsity, f"{100 * sparsity:g} %")
            for sparsity in settings.sparsities
        ]
    cells = [line for line in lines if not isinstance(line, str)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = [
        line
        if isinstance(line, str)
        else "  ".join(
            f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)
        )
        for line in lines
    ]
    text.insert(1, "─" * len(text[0]))
    several = len(settings.seeds)
    words = [
        f"Test accuracy (%) on {dataset.name} right after the cut and fine-tuned",
        "",
        *text,
        "",
        f"removed: of all {settings.removed}; widths: {'·'.join(rows[0].widths)}",
        f"FLOPs: multiply-accumulates an image; ms: forward, {FORWARD_BATCH} images",
        f"faster: than dense, the median of {PAIRS} pairs of calls",
    ]
    if several > 1:
        words.append(f"means, of accuracies with deviations, over {several} seeds")
    return "\n".join(words)


def _cells(
    rows: Sequence[StructuredRow], measure: str, sparsity: float, name: str
) -> tuple[str, ...]:
    own = [row for row in rows if row.measure == measure and row.sparsity == sparsity]

    def over_seeds(field: str) -> float:
        return mean(getattr(row, field) for row in own)

    layers = [mean(row.widths[layer] for row in own) for layer in own[0].widths]
    return (
        name,
        "·".join(f"{width:.0f}" for width in layers),
        f"{over_seeds('parameters'):,.0f}",
        compact(over_seeds("flops")),
        f"{over_seeds('forward_ms'):.2f}",
        f"{over_seeds('times_faster'):.1f}×",
        percent(spread(rows, measure, sparsity, "pruned_accuracy")),
        percent(spread(rows, measure, sparsity, "accuracy")),
    )


def percent(found: Spread) -> str:
    """Returns the mean in percent, with the deviation where there are several seeds."""
    if found.seeds < 2:
        return f"{100 * found.mean:.1f}"
    return f"{100 * found.mean:.1f}±{100 * found.deviation:.1f}"
