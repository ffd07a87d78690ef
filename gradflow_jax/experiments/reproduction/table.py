"""The table of one run in the terminal: what each round left, and its accuracies."""

from collections.abc import Sequence

from rich.table import Table

from gradflow_jax.experiments.formatting import compact_count, plain_table
from gradflow_jax.experiments.networks.timing import Times
from gradflow_jax.experiments.reproduction.record import RunRecord, Size


def table_of_rounds(record: RunRecord, times: Sequence[Times]) -> Table:
    """Returns a table of a line for the dense network and one for each round.

    Args:
        record: of the run.
        times: of the forward pass after each round.
    """
    settings, last = record.settings, record.epochs[-1]
    best = record.best_accuracy
    table = plain_table(
        title=f"{settings.model} by {settings.measure}, seed {settings.seed}",
        caption=f"after {last.epoch} epochs: {_percent(last.test_accuracy)} % of the "
        "test images"
        + (f", at best {_percent(best)} %" if best is not None else "")
        + "\nbefore, after: test accuracy (%) before the cut and right after it"
        "\nFLOPs: multiply-accumulates an image; faster: a forward pass than dense",
    )
    for name in (
        "round", "filters", "%", "parameters", "FLOPs", "ms", "faster",
        "before", "after",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    dense = record.dense
    # Each round timed the dense network anew, beside its own; the first is shown.
    before = f"{times[0].reference_milliseconds:.1f}" if times else ""
    table.add_row("dense", *_size_cells(dense, dense), before, *[""] * 3)
    for row, time in zip(record.rounds, times, strict=True):
        table.add_row(
            str(row.round),
            *_size_cells(row.size, dense),
            f"{time.milliseconds:.1f}",
            f"{time.faster:.1f}×",
            _percent(row.accuracy_before),
            _percent(row.accuracy),
        )
    return table


def _size_cells(size: Size, dense: Size) -> tuple[str, ...]:
    return (
        f"{size.filters:,}",
        f"{100 * size.filters / dense.filters:.1f}",
        f"{size.parameters:,}",
        compact_count(size.flops),
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
