"""Results on disk: JSON, CSV and a picture, written whole or not at all."""

import csv
import importlib.metadata
import io
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import jax

from gradflow_jax.experiments.data import Dataset
from gradflow_jax.experiments.sweep import Row, Settings

JSON_NAME, CSV_NAME, PLOT_NAME = "results.json", "results.csv", "accuracy.png"
_PACKAGES = ("gradflow-jax", "jax", "jaxlib", "flax", "optax", "numpy")


class Spread(NamedTuple):
    """Of one quantity over seeds.

    Attributes:
        mean: the mean.
        deviation: the standard deviation of the sample; 0 of a single seed.
        seeds: how many.
    """

    mean: float
    deviation: float
    seeds: int


def existing(out: Path) -> list[Path]:
    """Returns the result files that a folder holds already."""
    names = (JSON_NAME, CSV_NAME, PLOT_NAME)
    return [out / name for name in names if (out / name).exists()]


def write_results(
    out: Path, settings: Settings, dataset: Dataset, rows: Sequence[Row], complete: bool
) -> None:
    """Writes all rows so far as JSON and CSV, replacing what was written before.

    No time and no path is in them, so that equal runs give equal files.
    """
    about = {
        "data": str(dataset),
        "settings": asdict(settings),
        "versions": versions(),
        "complete": complete,
    }
    content = json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1)
    write_whole(out / JSON_NAME, lambda path: path.write_text(content + "\n"))
    table = _csv(settings, dataset, rows)
    write_whole(out / CSV_NAME, lambda path: path.write_text(table))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file beside `path` and puts it in its place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def spread(rows: Sequence[Row], measure: str, sparsity: float, field: str) -> Spread:
    """Returns mean and deviation of one column over the seeds that have it."""
    values = [
        getattr(row, field)
        for row in rows
        if row.measure == measure and row.sparsity == sparsity
    ]
    deviation = stdev(values) if len(values) > 1 else 0.0
    return Spread(mean(values) if values else float("nan"), deviation, len(values))


def versions() -> dict[str, str]:
    """Returns the versions of what computes the numbers, and the kind of device."""
    found = {"python": platform.python_version()}
    found.update({name: importlib.metadata.version(name) for name in _PACKAGES})
    return {**found, "device": jax.devices()[0].device_kind}


def _csv(settings: Settings, dataset: Dataset, rows: Sequence[Row]) -> str:
    """Returns one line a row, each with the settings and versions behind it."""
    common = {
        "data": str(dataset),
        "scope": settings.scope,
        "epochs": settings.epochs,
        "finetune_epochs": settings.finetune_epochs,
        **versions(),
    }
    lines = []
    for row in rows:
        cells = asdict(row)
        kept = cells.pop("layers")
        cells["layers"] = " ".join(f"{path}={count}" for path, count in kept.items())
        lines.append({**cells, **common})
    text = io.StringIO()
    names = list(lines[0]) if lines else [*common]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
