"""The tables of a sweep in the terminal: accuracies, and of cuts sizes and speed."""

import functools
from collections.abc import Sequence
from statistics import mean

from rich.console import Group
from rich.table import Table

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.formatting import (
    Grid,
    column_widths,
    compact_count,
    fill_table,
    screen,
)
from gradflow_jax.experiments.networks.timing import PAIRS
from gradflow_jax.experiments.sweep.cut_and_time import FORWARD_BATCH
from gradflow_jax.experiments.sweep.results import (
    COLLAPSED,
    has_collapsed,
    names_of_rows,
    notes_of_rows,
    spread,
)
from gradflow_jax.experiments.sweep.settings import Settings, StructuredSettings
from gradflow_jax.experiments.sweep.units import StructuredRow
from gradflow_jax.experiments.sweep.weights import Row
from gradflow_jax.observations.findings import Spread

_HEADER = (
    "removed", "widths", "parameters", "FLOPs", "ms", "faster", "cut", "tuned",
)  # fmt: skip


def accuracy_table(settings: Settings, dataset: Dataset, rows: Sequence[Row]) -> Group:
    """Returns the accuracies after fine-tuning, a line a measure."""
    seeds = len(settings.seeds)
    over_seeds = f"; mean ± deviation over {seeds} seeds" if seeds > 1 else ""
    dense = percent(spread(rows, "dense", 0.0, "accuracy"))
    shared = names_of_rows(settings.measures, rows)
    grid = Grid(
        f"Test accuracy (%) on {dataset.name} after pruning and fine-tuning",
        ["measure", *(f"{100 * sparsity:g} %" for sparsity in settings.sparsities)],
        [
            [
                " = ".join(names),
                *(
                    percent(spread(rows, measure, sparsity, "accuracy"))
                    + f" {COLLAPSED}" * has_collapsed(rows, measure, sparsity)
                    for sparsity in settings.sparsities
                ),
            ]
            for measure, names in shared.items()
        ],
        [f"dense: {dense}{over_seeds}", *notes_of_rows(list(shared), rows)],
    )
    return Group(*screen(grid))


def cut_table(
    settings: StructuredSettings, dataset: Dataset, rows: Sequence[StructuredRow]
) -> Group:
    """Returns the tables of a sweep over units, a block a measure, dense first."""
    # Each measure's name stands on a line of its own: as a column the longest would
    # leave too little of 80 columns for the numbers. rich lets no cell span columns, so
    # each block is a table, and blocks agree in the widths that all cells need.
    dense = _cells(rows, "dense", 0.0, "dense")
    shared = names_of_rows(settings.measures, rows)
    blocks = {
        " = ".join(names): [
            _cells(rows, measure, sparsity, f"{100 * sparsity:g} %")
            for sparsity in settings.sparsities
        ]
        for measure, names in shared.items()
    }
    lines = [_HEADER, dense, *(line for block in blocks.values() for line in block)]
    widths = column_widths(lines)
    block_of = functools.partial(fill_table, _HEADER, words=0, widths=widths)
    parts: list[str | Table] = [
        f"Test accuracy (%) on {dataset.name} right after the cut and fine-tuned",
        "",
        block_of([dense], show_header=True),
    ]
    for measure, block in blocks.items():
        parts += ["", measure, block_of(block, show_header=False)]
    parts += [
        "",
        f"removed: of all {settings.removed}; widths: {'·'.join(rows[0].widths)}",
        f"FLOPs: multiply-accumulates an image; ms: forward, {FORWARD_BATCH} images",
        f"faster: than dense, the median of {PAIRS} pairs of calls",
    ]
    if len(settings.seeds) > 1:
        seeds = len(settings.seeds)
        parts.append(f"means, of accuracies with deviations, over {seeds} seeds")
    parts += notes_of_rows(list(shared), rows)
    return Group(*parts)


def _cells(
    rows: Sequence[StructuredRow], measure: str, sparsity: float, name: str
) -> tuple[str, ...]:
    """Returns the cells of a line: means over the seeds of one measure and sparsity."""
    seeds = [r for r in rows if r.measure == measure and r.sparsity == sparsity]

    def over_seeds(field: str) -> float:
        return mean(getattr(row, field) for row in seeds)

    layers = [mean(row.widths[layer] for row in seeds) for layer in seeds[0].widths]
    return (
        name,
        "·".join(f"{width:.0f}" for width in layers),
        f"{over_seeds('parameters'):,.0f}",
        compact_count(over_seeds("flops")),
        f"{over_seeds('forward_ms'):.2f}",
        f"{over_seeds('times_faster'):.1f}×",
        percent(spread(rows, measure, sparsity, "pruned_accuracy")),
        percent(spread(rows, measure, sparsity, "accuracy")),
    )


def percent(accuracy: Spread) -> str:
    """Returns the mean in percent, with the deviation where there are several seeds."""
    if accuracy.seeds < 2:
        return f"{100 * accuracy.mean:.1f}"
    return f"{100 * accuracy.mean:.1f}±{100 * accuracy.deviation:.1f}"
