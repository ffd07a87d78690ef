"""The results of a sweep on disk: JSON, CSV and times, written whole or not at all."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.environment import versions
from gradflow_jax.experiments.sweep.loop import TIMED
from gradflow_jax.experiments.sweep.settings import Settings
from gradflow_jax.experiments.sweep.units import StructuredRow
from gradflow_jax.experiments.sweep.weights import Row
from gradflow_jax.observations.findings import Spread

JSON_NAME, CSV_NAME, PLOT_NAME = "results.json", "results.csv", "accuracy.png"
TIMES_NAME = "times.csv"
COLLAPSED = "∅"
"""What marks a network of which a layer is empty."""
AnyRow = Row | StructuredRow


def existing_files(out: Path) -> list[Path]:
    """Returns the result files that a folder holds already."""
    names = (JSON_NAME, CSV_NAME, TIMES_NAME, PLOT_NAME)
    return [out / name for name in names if (out / name).exists()]


def write_results(
    out: Path,
    settings: Settings,
    dataset: Dataset,
    rows: Sequence[AnyRow],
    complete: bool,
) -> list[str]:
    """Writes all rows so far as JSON and CSV, replacing what was written before.

    No time and no path is in them, so that equal runs give equal files; what was timed
    is in a CSV of its own.

    Returns:
        The names of the files.
    """
    about = {
        "data": str(dataset),
        "settings": asdict(settings),
        "versions": versions(),
        "complete": complete,
    }
    content = json.dumps({**about, "rows": [_numbers(row) for row in rows]}, indent=1)
    write_whole(out / JSON_NAME, lambda path: path.write_text(content + "\n"))
    tables = {
        CSV_NAME: [_numbers(row) for row in rows],
        TIMES_NAME: [_times(row) for row in rows if _timed_fields(row)],
    }
    names = [JSON_NAME]
    for name, lines in tables.items():
        if name == TIMES_NAME and not lines:
            # Times that are there are of another run, whose other files are replaced.
            (out / name).unlink(missing_ok=True)
            continue
        table = _csv(settings, dataset, lines)
        write_whole(out / name, lambda path, table=table: path.write_text(table))
        names.append(name)
    return names


def spread(rows: Sequence[AnyRow], measure: str, sparsity: float, field: str) -> Spread:
    """Returns mean and deviation of one column over the seeds that have it."""
    values = [
        getattr(row, field)
        for row in rows
        if row.measure == measure and row.sparsity == sparsity
    ]
    deviation = stdev(values) if len(values) > 1 else 0.0
    return Spread(mean(values) if values else float("nan"), deviation, len(values))


def names_of_rows(
    measures: Sequence[str], rows: Sequence[AnyRow]
) -> dict[str, tuple[str, ...]]:
    """Returns the names that share the results of a measure, by the first of them.

    Two measures that differ in their sums over sets of weights alone, as loss
    preservation and Taylor, choose the same weights, and are fine-tuned as one.
    """
    shared: dict[str, tuple[str, ...]] = {}
    results_of: dict[str, list[dict[str, Any]]] = {}
    for measure in measures:
        results = [_numbers(row) | {"measure": ""} for row in _rows_of(measure, rows)]
        like = next(
            (name for name in shared if results and results_of[name] == results), None
        )
        if like is None:
            shared[measure], results_of[measure] = (measure,), results
        else:
            shared[like] += (measure,)
    return shared


def notes_of_rows(measures: Sequence[str], rows: Sequence[AnyRow]) -> list[str]:
    """Returns which layers collapsed, and what equal scores left to positions."""
    notes = []
    for measure in measures:
        rows_of_measure = _rows_of(measure, rows)
        collapsed = dict.fromkeys(
            path for row in rows_of_measure for path in row.collapsed
        )
        if collapsed:
            notes.append(
                f"{COLLAPSED} {measure}: nothing is left of {', '.join(collapsed)}"
            )
    for measure in measures:
        most = max((row.by_position for row in _rows_of(measure, rows)), default=0)
        if most:
            notes.append(
                f"{measure}: up to {most:,} kept by position among equal scores"
            )
    return notes


def has_collapsed(rows: Sequence[AnyRow], measure: str, sparsity: float) -> bool:
    """Says whether a layer was emptied under one seed at least."""
    return any(
        row.collapsed
        for row in rows
        if row.measure == measure and row.sparsity == sparsity
    )


def _timed_fields(row: AnyRow) -> list[str]:
    """Returns the names of the fields that hold a measured time."""
    return [field.name for field in fields(row) if field.metadata == TIMED]


def _numbers(row: AnyRow) -> dict[str, Any]:
    """Returns what the settings, the data and the versions decide."""
    cells = asdict(row)
    for name in _timed_fields(row):
        del cells[name]
    return cells


def _times(row: AnyRow) -> dict[str, Any]:
    """Returns which network it is and what was timed."""
    copied_fields = ["seed", "measure", "sparsity", *_timed_fields(row)]
    return {name: getattr(row, name) for name in copied_fields}


def _csv(settings: Settings, dataset: Dataset, rows: Sequence[dict[str, Any]]) -> str:
    """Returns one line a row, each with the settings and versions behind it."""
    common = {"data": str(dataset), **asdict(settings), **versions()}
    for name in ("measures", "sparsities", "seeds"):
        del common[name]
    lines = [
        {**{name: _cell(value) for name, value in row.items()}, **common}
        for row in rows
    ]
    text = io.StringIO()
    names = list(lines[0]) if lines else [*common]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Returns a value as a cell: layers as "conv1=16 conv2=32", lists as "0,3"."""
    if isinstance(value, dict):
        return " ".join(f"{layer}={_cell(part)}" for layer, part in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _rows_of(measure: str, rows: Sequence[AnyRow]) -> list[AnyRow]:
    return [row for row in rows if row.measure == measure]
