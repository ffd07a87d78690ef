"""The tables of a report, made once, for the terminal and for Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

from gradflow_jax.experiments.formatting import Grid, rounds_in_words
from gradflow_jax.experiments.report.runs import (
    Block,
    RecordedRun,
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

NONE = "–"
_DEFAULTS = RunSettings(model="", measure="", prune=0.0, rounds=0)


def title(block: Block) -> list[str]:
    """Returns what a block is of: the model and data, then what else decides it."""
    settings = block.settings
    stages = ", ".join(f"{epochs} at {rate:g}" for epochs, rate in settings.schedule)
    words = [f"width {settings.width:g}", f"epochs: {stages}"]
    if block.runs:
        words.insert(0, f"{100 * settings.prune:g} % of filters pruned")
    # Titles, rows and columns say these; others are said where they are no defaults.
    shown = "model measure prune rounds seed width schedule correlate_every".split()
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in shown and value != getattr(_DEFAULTS, field.name):
            words.append(f"{field.name} {_word(value)}")
    return [f"{settings.model} on {block.data}", "; ".join(words)]


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def grids(block: Block) -> list[Grid]:
    """Returns the tables of a block: accuracy at the end, the best, what is left."""
    seeds = {len(block.of(m, r)) for m in block.measures for r in block.rounds} - {0}
    seeds |= {len(block.dense)} - {0}
    optimistic = "chosen by the test set, so that it flatters"
    accuracies = [
        _accuracies(block, seeds, "Test accuracy (%) after the last epoch", final),
        _accuracies(
            block,
            seeds,
            "Best test accuracy (%) of the epochs after the last round",
            best,
            optimistic,
        ),
    ]
    # A block of dense networks alone needs no table of what is left: all is.
    return [*accuracies, _sizes(block)] if block.runs else accuracies


def _accuracies(
    block: Block,
    seeds: set[int],
    name: str,
    number: Callable[[RecordedRun], float | None],
    *notes: str,
) -> Grid:
    """Returns a grid of accuracies, a row a measure and a column a number of rounds.

    Args:
        block: the runs.
        seeds: the numbers of seeds that its cells have; cells name theirs if they
            differ.
        name: the grid's title.
        number: the accuracy of a run.
        *notes: what else the grid says below.
    """

    def cell(runs: Iterable[RecordedRun]) -> str:
        accuracy = over_seeds(runs, number)
        several = f" ({accuracy.seeds})" if len(seeds) > 1 and accuracy.seeds else ""
        return percent(accuracy) + several

    rounds = block.rounds
    rows: list[list[str]] = []
    if block.dense:
        # Pruned networks of any number of rounds compare with the same dense ones.
        rows.append(["dense", *[cell(block.dense)] * max(1, len(rounds))])
    for measure in block.measures:
        rows.append([measure, *(cell(block.of(measure, count)) for count in rounds)])
    header = ["measure", *(map(rounds_in_words, rounds) if rounds else ["unpruned"])]
    return Grid(name, header, rows, [_seeds_in_words(seeds), *notes])


def _seeds_in_words(seeds: set[int]) -> str:
    if len(seeds) > 1:
        return "mean±deviation of the sample (number of seeds)"
    (count,) = seeds
    if count == 1:
        return "a single seed"
    return f"mean±deviation of the sample over {count} seeds"


def _sizes(block: Block) -> Grid:
    """Returns a grid of what is left of the networks and how fast they are."""
    header = ["measure", "rounds", "filters", "parameters", "FLOPs", "faster"]
    rows = []
    for measure in block.measures:
        for count in block.rounds:
            runs = block.of(measure, count)
            if runs:
                rows.append([measure, str(count), *_size_cells(runs)])
    if block.dense:
        rows.insert(0, ["dense", NONE, *_size_cells(block.dense)])
    notes = [
        "means over seeds; FLOPs: multiply-accumulates of an image",
        "faster: times the speed of the dense network's forward pass, where timed",
    ]
    if block.settings.published_rules:
        notes.append(
            "by the published rules filters are mapped to zero, which cuts nothing"
        )
    notes += _notes_of_positions(block)
    return Grid("What is left after the last round (%)", header, rows, notes)


def _notes_of_positions(block: Block) -> list[str]:
    """Returns for each measure what equal scores left to positions in some round."""
    notes = []
    for measure in block.measures:
        counts = [
            row.by_position or 0
            for run in block.runs
            if run.record.settings.measure == measure
            for row in run.record.rounds
        ]
        if most := max(counts, default=0):
            notes.append(
                f"{measure}: up to {most:,} filters kept by position among equal "
                "scores in a round"
            )
    return notes


def _size_cells(runs: Sequence[RecordedRun]) -> list[str]:
    shares = [
        over_seeds(runs, number)
        for number in (filters_left, parameters_left, flops_left)
    ]
    faster = over_seeds(runs, times_faster)
    return [
        *(f"{100 * share.mean:.1f}" if share.seeds else NONE for share in shares),
        f"{faster.mean:.2f}×" if faster.seeds else NONE,
    ]


def percent(accuracy: Spread) -> str:
    """Returns the mean in percent, with the deviation where there are several seeds."""
    if not accuracy.seeds:
        return NONE
    if accuracy.seeds == 1:
        return f"{100 * accuracy.mean:.2f}"
    return f"{100 * accuracy.mean:.2f}±{100 * accuracy.deviation:.2f}"
