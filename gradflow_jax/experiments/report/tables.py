"""The tables of a report: one content for the terminal and for Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import NamedTuple

import rich.box
from rich.table import Table
from rich.text import Text

from gradflow_jax.experiments.formatting import counted
from gradflow_jax.experiments.report.runs import (
    Block,
    Run,
    best,
    filters_left,
    final,
    flops_left,
    over_seeds,
    parameters_left,
    times_faster,
)
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.observations.findings import Spread

COLUMNS = 80
NONE = "–"
_DEFAULTS = RunSettings(model="", measure="", prune=0.0, rounds=0)


class Grid(NamedTuple):
    """A table.

    Attributes:
        title: one line.
        header: names of the columns; the first is of words, the rest of numbers.
        rows: of as many cells.
        notes: lines below it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def title(block: Block) -> list[str]:
    """Returns what a block is of: the model and data, then what else decides it."""
    own = block.settings
    stages = ", ".join(f"{epochs} at {rate:g}" for epochs, rate in own.schedule)
    words = [f"width {own.width:g}", f"epochs: {stages}"]
    if block.runs:
        words.insert(0, f"{100 * own.prune:g} % of filters pruned")
    # Those of the title and those of rows and columns.
    named = "model measure prune rounds seed width schedule correlate_every".split()
    for one in fields(own):
        value = getattr(own, one.name)
        if one.name not in named and value != getattr(_DEFAULTS, one.name):
            words.append(f"{one.name} {_word(value)}")
    return [f"{own.model} on {block.data}", "; ".join(words)]


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def grids(block: Block) -> list[Grid]:
    """Returns the tables of a block: accuracy at the end, the best, what is left."""
    counts = {len(block.of(m, r)) for m in block.measures for r in block.rounds} - {0}
    counts |= {len(block.dense)} - {0}
    optimistic = "chosen by the test set, so that it flatters"
    found = [
        _accuracies(block, counts, "Test accuracy (%) after the last epoch", final),
        _accuracies(
            block,
            counts,
            "Best test accuracy (%) of the epochs after the last round",
            best,
            optimistic,
        ),
    ]
    # Of dense networks all is left.
    return [*found, _reached(block)] if block.runs else found


def _accuracies(
    block: Block,
    counts: set[int],
    name: str,
    number: Callable[[Run], float | None],
    *notes: str,
) -> Grid:
    def cell(runs: Iterable[Run]) -> str:
        found = over_seeds(runs, number)
        several = f" ({found.seeds})" if len(counts) > 1 and found.seeds else ""
        return percent(found) + several

    rounds = block.rounds
    rows: list[list[str]] = []
    if block.dense:
        # The same under each number of rounds: what pruned networks compare with.
        rows.append(["dense", *[cell(block.dense)] * max(1, len(rounds))])
    for measure in block.measures:
        rows.append([measure, *(cell(block.of(measure, count)) for count in rounds)])
    header = ["measure", *(map(counted, rounds) if rounds else ["unpruned"])]
    return Grid(name, header, rows, [_seeds(counts), *notes])


def _seeds(counts: set[int]) -> str:
    if len(counts) > 1:
        return "mean±deviation of the sample (number of seeds)"
    (count,) = counts
    if count == 1:
        return "a single seed"
    return f"mean±deviation of the sample over {count} seeds"


def _reached(block: Block) -> Grid:
    header = ["measure", "rounds", "filters", "parameters", "FLOPs", "faster"]
    rows = []
    for measure in block.measures:
        for count in block.rounds:
            runs = block.of(measure, count)
            if runs:
                rows.append([measure, str(count), *_left(runs)])
    if block.dense:
        rows.insert(0, ["dense", NONE, *_left(block.dense)])
    notes = [
        "means over seeds; FLOPs: multiply-accumulates of an image",
        "faster: times the speed of the dense network's forward pass, where timed",
    ]
    if block.settings.published_rules:
        notes.append(
            "by the published rules filters are mapped to zero, which cuts nothing"
        )
    return Grid("What is left after the last round (%)", header, rows, notes)


def _left(runs: Sequence[Run]) -> list[str]:
    found = [
        over_seeds(runs, number)
        for number in (filters_left, parameters_left, flops_left)
    ]
    faster = over_seeds(runs, times_faster)
    return [
        *(f"{100 * one.mean:.1f}" if one.seeds else NONE for one in found),
        f"{faster.mean:.2f}×" if faster.seeds else NONE,
    ]


def percent(found: Spread) -> str:
    """Returns the mean in percent, with the deviation where there are several seeds."""
    if not found.seeds:
        return NONE
    if found.seeds == 1:
        return f"{100 * found.mean:.2f}"
    return f"{100 * found.mean:.2f}±{100 * found.deviation:.2f}"


def screen(grid: Grid) -> list[Text | Table]:
    """Returns title, table and notes for a terminal of `COLUMNS`.

    The table is cut into several where it is too wide.
    """
    widths = [
        max(len(name), *(len(row[i]) for row in grid.rows))
        for i, name in enumerate(grid.header)
    ]
    # Of each part: the columns beside the first, and their width with it.
    parts: list[list[int]] = [[]]
    used = widths[0] + 1
    for i in range(1, len(widths)):
        if parts[-1] and used + widths[i] + 2 > COLUMNS:
            parts.append([])
            used = widths[0] + 1
        parts[-1].append(i)
        used += widths[i] + 2
    # Not as title and caption of the table, which wrap at its width.
    return [
        Text(grid.title, "italic"),
        *(_table(grid, [0, *part]) for part in parts),
        *(Text(note, "dim italic") for note in grid.notes),
    ]


def _table(grid: Grid, columns: Sequence[int]) -> Table:
    table = Table(
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for i in columns:
        justify = "right" if i else "left"
        table.add_column(Text(grid.header[i]), justify=justify, no_wrap=True)
    before = None
    for row in grid.rows:
        cells = [Text(row[i]) for i in columns]
        # A name that is repeated from the row above is not shown again.
        if row[0] == before:
            cells[0] = Text("")
        before = row[0]
        table.add_row(*cells)
    return table


def markdown(grid: Grid) -> list[str]:
    """Returns the lines of the table in Markdown, its title above it."""
    rule = ["---", *["--:"] * (len(grid.header) - 1)]
    lines = [grid.header, rule, *grid.rows]
    return [
        f"**{grid.title}**",
        "",
        *(f"| {' | '.join(line)} |" for line in lines),
        "",
        *(f"{note}  " for note in grid.notes[:-1]),
        *grid.notes[-1:],
        "",
    ]
