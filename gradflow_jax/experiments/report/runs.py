"""Reads records of runs from disk and gathers them into blocks that can be compared."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from gradflow_jax.experiments.formatting import rounds_in_words
from gradflow_jax.experiments.names import MEASURE_NAMES
from gradflow_jax.experiments.report.orderings import comparable_part, final_accuracy
from gradflow_jax.experiments.reproduction.record import (
    RECORD_NAME,
    RunRecord,
    RunSettings,
    Size,
)
from gradflow_jax.experiments.reproduction.record_reading import read_record
from gradflow_jax.experiments.reproduction.times import read_times
from gradflow_jax.observations.findings import Spread

# These settings say how to prune, which decides nothing of a dense run. The seed, too,
# is none of what runs must share to be trained alike.
_NOT_OF_TRAINING = frozenset(
    "measure prune rounds seed warmup thresholds tracked momentum cut_stem "
    "published_rules correlate_every".split()
)


class RecordedRun(NamedTuple):
    """One run and what was timed of it.

    Attributes:
        record: of the run.
        times_faster: of the last round's network than of the dense one, if timed.
    """

    record: RunRecord
    times_faster: float | None


class Collected(NamedTuple):
    """The runs that were read.

    Attributes:
        runs: the complete ones.
        incomplete: the file and the record of each that has not ended.
    """

    runs: list[RecordedRun]
    incomplete: list[tuple[Path, RunRecord]]


@dataclass(frozen=True)
class Block:
    """Runs that differ in measure, rounds and seed alone.

    Attributes:
        data: the data set's name and size.
        settings: what they share; measure, rounds and seed mean nothing.
        runs: that were pruned.
        dense: that were not, and were trained alike.
    """

    data: str
    settings: RunSettings
    runs: Sequence[RecordedRun]
    dense: Sequence[RecordedRun]

    @property
    def measures(self) -> list[str]:
        """Their names, in the order of all tables."""
        return in_listed_order({run.record.settings.measure for run in self.runs})

    @property
    def rounds(self) -> list[int]:
        """The numbers of rounds, from fewest to most."""
        return sorted({run.record.settings.rounds for run in self.runs})

    def of(self, measure: str, rounds: int) -> list[RecordedRun]:
        """Returns the runs of one cell of the table, by seed."""
        return [
            run
            for run in self.runs
            if run.record.settings.measure == measure
            and run.record.settings.rounds == rounds
        ]


def in_listed_order(measures: Iterable[str]) -> list[str]:
    """Returns names of measures as the package lists them, unknown ones last."""
    known = {name: i for i, name in enumerate(MEASURE_NAMES)}
    return sorted(measures, key=lambda name: (known.get(name, len(known)), name))


def collect(paths: Iterable[Path]) -> Collected:
    """Reads the records in folders, at any depth, and in files.

    A file that is reached in two ways is read once.

    Raises:
        ValueError: if a folder has none, one cannot be read, or two are of one run; it
            names the files.
    """
    by_real_path: dict[Path, Path] = {}
    for path in paths:
        files = sorted(path.rglob(RECORD_NAME)) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no {RECORD_NAME}, at any depth.")
        for file in files:
            by_real_path.setdefault(file.resolve(), file)
    runs: list[RecordedRun] = []
    incomplete = []
    file_of_run: dict[Any, Path] = {}
    for file in by_real_path.values():
        record = read_record(file)
        if not record.complete:
            incomplete.append((file, record))
            continue
        first = file_of_run.setdefault(_identity(record), file)
        if first is not file:
            raise ValueError(
                f"{first} and {file} are one run, {describe(record.settings)} on "
                f"{record.data}: leave one of them out."
            )
        times = read_times(file.parent)
        runs.append(RecordedRun(record, times[-1].faster if times else None))
    return Collected(runs, incomplete)


def blocks(runs: Iterable[RecordedRun]) -> list[Block]:
    """Gathers runs, sorted by model, data and what was pruned.

    A dense run stands in each block that was trained as it was, or in one of its own.
    """
    dense: dict[Any, list[RecordedRun]] = {}
    pruned: dict[Any, list[RecordedRun]] = {}
    runs = list(runs)
    names = in_listed_order({run.record.settings.measure for run in runs})

    def order_in_tables(run: RecordedRun) -> Any:
        settings = run.record.settings
        return names.index(settings.measure), settings.rounds, settings.seed

    for run in sorted(runs, key=order_in_tables):
        if run.record.settings.rounds == 0:
            dense.setdefault(_training(run.record), []).append(run)
        else:
            pruned.setdefault(comparable_part(run.record), []).append(run)
    gathered = []
    for (data, settings), group in pruned.items():
        trained_alike = dense.get(_training(group[0].record), ())
        gathered.append(Block(data, settings, group, trained_alike))
    placed = {_training(run.record) for group in pruned.values() for run in group}
    for training, group in dense.items():
        if training not in placed:
            gathered.append(Block(*comparable_part(group[0].record), (), group))
    return sorted(
        gathered,
        key=lambda block: (block.settings.model, block.data, repr(block.settings)),
    )


def describe(settings: RunSettings) -> str:
    """Returns which run it is, in the words of its settings."""
    if settings.rounds == 0:
        return f"{settings.model}, dense, seed {settings.seed}"
    return (
        f"{settings.model}, {settings.measure}, {rounds_in_words(settings.rounds)}, "
        f"seed {settings.seed}"
    )


def over_seeds(
    runs: Iterable[RecordedRun], number: Callable[[RecordedRun], float | None]
) -> Spread:
    """Returns mean and deviation of a number over the runs that have it."""
    return spread_of([value for run in runs if (value := number(run)) is not None])


def spread_of(values: Sequence[float]) -> Spread:
    """Returns mean and deviation; not-a-number where a value is infinite or none."""
    if not values or not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, len(values))
    deviation = stdev(values) if len(values) > 1 else 0.0
    return Spread(mean(values), deviation, len(values))


def final(run: RecordedRun) -> float:
    """Returns the test accuracy after the last epoch."""
    return final_accuracy(run.record)


def best(run: RecordedRun) -> float | None:
    """Returns the best test accuracy after the last round, if there is an epoch."""
    return run.record.best_accuracy


def left(run: RecordedRun) -> Size:
    """Returns the size after the last round."""
    return run.record.rounds[-1].size if run.record.rounds else run.record.dense


def filters_left(run: RecordedRun) -> float:
    """Returns the fraction of filters that is left."""
    return left(run).filters / run.record.dense.filters


def parameters_left(run: RecordedRun) -> float:
    """Returns the fraction of parameters that is left."""
    return left(run).parameters / run.record.dense.parameters


def flops_left(run: RecordedRun) -> float:
    """Returns the fraction of multiply-accumulates that is left."""
    return left(run).flops / run.record.dense.flops


def times_faster(run: RecordedRun) -> float | None:
    """Returns how many times faster the forward pass is than dense, if timed."""
    return run.times_faster


NUMBERS: dict[str, Callable[[RecordedRun], float | None]] = {
    "accuracy": final,
    "best_accuracy": best,
    "filters_left": filters_left,
    "parameters_left": parameters_left,
    "flops_left": flops_left,
    "times_faster": times_faster,
}
"""All numbers of a run that tables show, by name."""


def _training(record: RunRecord) -> Any:
    """Returns what decides a run that is not pruned, but for its seed."""
    names = [field.name for field in fields(record.settings)]
    values = [
        getattr(record.settings, name) for name in names if name not in _NOT_OF_TRAINING
    ]
    return record.data, tuple(values)


def _identity(record: RunRecord) -> Any:
    """Returns what tells two runs apart: equal ones are one run, done twice."""
    settings = record.settings
    if settings.rounds == 0:
        return _training(record), settings.seed
    return record.data, replace(settings, correlate_every=0)
