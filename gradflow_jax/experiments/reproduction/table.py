"""The table of one run in the terminal: what each round left, and its accuracies."""

from collections.abc import Sequence

from rich.console import Group

from gradflow_jax.experiments.formatting import Grid, compact_count, screen
from gradflow_jax.experiments.networks.timing import Times
from gradflow_jax.experiments.reproduction.record import RunRecord, Size

_HEADER = (
    "round", "filters", "%", "parameters", "FLOPs", "ms", "faster", "before", "after",
)  # fmt: skip


def table_of_rounds(record: RunRecord, times: Sequence[Times]) -> Group:
    """Returns a table of a line for the dense network and one for each round.

    Args:
        record: of the run.
        times: of the forward pass after each round.
    """
    settings, last = record.settings, record.epochs[-1]
    best = record.best_accuracy
    dense = record.dense
    # Each round timed the dense network anew, beside its own; the first is shown.
    before = f"{times[0].reference_milliseconds:.1f}" if times else ""
    rows = [("dense", *_size_cells(dense, dense), before, "", "", "")]
    for row, time in zip(record.rounds, times, strict=True):
        rows.append(
            (
                str(row.round),
                *_size_cells(row.size, dense),
                f"{time.milliseconds:.1f}",
                f"{time.faster:.1f}×",
                _percent(row.accuracy_before),
                _percent(row.accuracy),
            )
        )
    grid = Grid(
        f"{settings.model} by {settings.measure}, seed {settings.seed}",
        _HEADER,
        rows,
        [
            f"after {last.epoch} epochs: {_percent(last.test_accuracy)} % of the test "
            "images" + (f", at best {_percent(best)} %" if best is not None else ""),
            "before, after: test accuracy (%) before the cut and right after it",
            "FLOPs: multiply-accumulates an image; faster: a forward pass than dense",
            *_note_of_positions(record),
        ],
        words=0,
    )
    return Group(*screen(grid))


def _note_of_positions(record: RunRecord) -> list[str]:
    """Returns the rounds in which equal scores left it to positions what stays."""
    counts = [
        f"{row.by_position:,} in round {row.round}"
        for row in record.rounds
        if row.by_position
    ]
    return [f"kept by position among equal scores: {', '.join(counts)}"] * bool(counts)


def _size_cells(size: Size, dense: Size) -> tuple[str, ...]:
    return (
        f"{size.filters:,}",
        f"{100 * size.filters / dense.filters:.1f}",
        f"{size.parameters:,}",
        compact_count(size.flops),
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
