"""Records of runs on disk, gathered into blocks that can be compared."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from gradflow_jax.experiments.formatting import counted
from gradflow_jax.experiments.names import MEASURE_NAMES
from gradflow_jax.experiments.report.orderings import alike, final_accuracy
from gradflow_jax.experiments.reproduction.record import (
    RECORD_NAME,
    RunRecord,
    RunSettings,
    Size,
    from_json,
)
from gradflow_jax.experiments.reproduction.times import read_times
from gradflow_jax.observations.findings import Spread

# Settings that say how to prune and mean nothing of a dense run; and the seed.
_CUTS = frozenset(
    "measure prune rounds seed warmup thresholds tracked momentum cut_stem "
    "published_rules correlate_every".split()
)


class Run(NamedTuple):
    """One run and what was timed of it.

    Attributes:
        record: of the run.
        times_faster: of the last round's network than of the dense one, if timed.
    """

    record: RunRecord
    times_faster: float | None


class Collected(NamedTuple):
    """What was found.

    Attributes:
        runs: the complete ones.
        incomplete: the file and the record of each of the rest.
    """

    runs: list[Run]
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
    runs: Sequence[Run]
    dense: Sequence[Run]

    @property
    def measures(self) -> list[str]:
        """Their names, in the order of all tables."""
        return ordered({run.record.settings.measure for run in self.runs})

    @property
    def rounds(self) -> list[int]:
        """The numbers of rounds, from fewest to most."""
        return sorted({run.record.settings.rounds for run in self.runs})

    def of(self, measure: str, rounds: int) -> list[Run]:
        """Returns the runs of one cell of the table, by seed."""
        return [
            run
            for run in self.runs
            if run.record.settings.measure == measure
            and run.record.settings.rounds == rounds
        ]


def ordered(measures: Iterable[str]) -> list[str]:
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
    found: dict[Path, Path] = {}
    for path in paths:
        files = sorted(path.rglob(RECORD_NAME)) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no {RECORD_NAME}, at any depth.")
        for file in files:
            found.setdefault(file.resolve(), file)
    runs: list[Run] = []
    incomplete = []
    taken: dict[Any, Path] = {}
    for file in found.values():
        record = _read(file)
        if not record.complete:
            incomplete.append((file, record))
            continue
        first = taken.setdefault(_identity(record), file)
        if first is not file:
            raise ValueError(
                f"{first} and {file} are one run, {described(record.settings)} on "
                f"{record.data}: leave one of them out."
            )
        times = read_times(file.parent)
        runs.append(Run(record, times[-1].faster if times else None))
    return Collected(runs, incomplete)


def blocks(runs: Iterable[Run]) -> list[Block]:
    """Gathers runs, sorted by model, data and what was pruned.

    A dense run stands in each block that was trained as it was, or in one of its own.
    """
    dense: dict[Any, list[Run]] = {}
    pruned: dict[Any, list[Run]] = {}
    runs = list(runs)
    names = ordered({run.record.settings.measure for run in runs})

    def place(run: Run) -> Any:
        own = run.record.settings
        return names.index(own.measure), own.rounds, own.seed

    for run in sorted(runs, key=place):
        if run.record.settings.rounds == 0:
            dense.setdefault(_training(run.record), []).append(run)
        else:
            pruned.setdefault(alike(run.record), []).append(run)
    found = []
    for (data, settings), own in pruned.items():
        found.append(
            Block(data, settings, own, dense.get(_training(own[0].record), ()))
        )
    met = {_training(run.record) for own in pruned.values() for run in own}
    for training, own in dense.items():
        if training not in met:
            found.append(Block(*alike(own[0].record), (), own))
    return sorted(
        found, key=lambda one: (one.settings.model, one.data, repr(one.settings))
    )


def described(settings: RunSettings) -> str:
    """Returns which run it is, in the words of its settings."""
    if settings.rounds == 0:
        return f"{settings.model}, dense, seed {settings.seed}"
    return (
        f"{settings.model}, {settings.measure}, {counted(settings.rounds)}, "
        f"seed {settings.seed}"
    )


def over_seeds(runs: Iterable[Run], number: Callable[[Run], float | None]) -> Spread:
    """Returns mean and deviation of a number over the runs that have it."""
    return spread_of([value for run in runs if (value := number(run)) is not None])


def spread_of(values: Sequence[float]) -> Spread:
    """Returns mean and deviation; not-a-number where a value is infinite or none."""
    if not values or not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, len(values))
    deviation = stdev(values) if len(values) > 1 else 0.0
    return Spread(mean(values), deviation, len(values))


def final(run: Run) -> float:
    """Returns the test accuracy after the last epoch."""
    return final_accuracy(run.record)


def best(run: Run) -> float | None:
    """Returns the best test accuracy after the last round, if there is an epoch."""
    return run.record.best_accuracy


def left(run: Run) -> Size:
    """Returns the size after the last round."""
    return run.record.rounds[-1].size if run.record.rounds else run.record.dense


def filters_left(run: Run) -> float:
    """Returns the fraction of filters that is left."""
    return left(run).filters / run.record.dense.filters


def parameters_left(run: Run) -> float:
    """Returns the fraction of parameters that is left."""
    return left(run).parameters / run.record.dense.parameters


def flops_left(run: Run) -> float:
    """Returns the fraction of multiply-accumulates that is left."""
    return left(run).flops / run.record.dense.flops


def times_faster(run: Run) -> float | None:
    """Returns how many times faster the forward pass is than dense, if timed."""
    return run.times_faster


NUMBERS: dict[str, Callable[[Run], float | None]] = {
    "accuracy": final,
    "best_accuracy": best,
    "filters_left": filters_left,
    "parameters_left": parameters_left,
    "flops_left": flops_left,
    "times_faster": times_faster,
}
"""All numbers of a run that tables show, by name."""


def _read(file: Path) -> RunRecord:
    try:
        record = from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}.") from error
    if record.complete and not record.epochs:
        raise ValueError(f"{file} cannot be read: it is complete but has no epoch.")
    return record


def _training(record: RunRecord) -> Any:
    """Returns what decides a run that is not pruned, but for its seed."""
    own = record.settings
    values = [getattr(own, one.name) for one in fields(own) if one.name not in _CUTS]
    return record.data, tuple(values)


def _identity(record: RunRecord) -> Any:
    """Returns what two different runs differ in."""
    own = record.settings
    if own.rounds == 0:
        return _training(record), own.seed
    return record.data, replace(own, correlate_every=0)
