"""Reads records of runs from files, which may hold anything."""

import json
import math
import re
from pathlib import Path
from typing import Any

from gradflow_jax.experiments.data import regular_files
from gradflow_jax.experiments.errors import reason_of
from gradflow_jax.experiments.reproduction.record import (
    VERSION,
    EpochRow,
    RunRecord,
    Size,
)
from gradflow_jax.experiments.typed_values import check_range, convert, describe

# That of a run of 10,000 epochs has 3 MB.
_MAX_FILE = 2**26
_MAX_LOSS = 3.5e38
# Names go into titles and into the names of files, where other signs mean something.
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_LAYER = re.compile(r"[\w./\[\]'\" -]{1,200}")


def read_json(file: Path) -> Any:
    """Returns what a file of JSON holds.

    Raises:
        ValueError: naming the file, if it is none or cannot be read.
    """
    raw = regular_files.read_bytes(file, _MAX_FILE)
    try:
        return json.loads(raw.decode("utf-8"))
    # JSON that is nested too deep ends the recursion of its parser.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} cannot be read: it is no JSON ({reason_of(error)})."
        ) from None


def read_record(file: Path) -> RunRecord:
    """Returns the record that a file holds.

    Raises:
        ValueError: naming the file, if it cannot be read or holds none; one line that
            says what is wrong with it.
    """
    content = read_json(file)
    try:
        return to_record(content)
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None


def to_record(content: Any) -> RunRecord:
    """Returns the record that `to_json` wrote, of what JSON made of it.

    Raises:
        ValueError: if the content is none, naming what is wrong with it.
    """
    if not isinstance(content, dict) or "version" not in content:
        raise ValueError("it is no record of a run")
    content = dict(content)
    version = content.pop("version")
    if version != VERSION or isinstance(version, bool):
        raise ValueError(
            f"its format is {describe(version)}, this version reads {VERSION}"
        )
    try:
        record = convert(RunRecord, content, "record")
        _check(record)
    except ValueError as error:
        raise ValueError(
            f"it is no record of a run: {str(error).rstrip('.')}"
        ) from None
    return record


def _check(record: RunRecord) -> None:
    """Checks what types do not say: that the numbers are of one run.

    Raises:
        ValueError: naming the first that is not.
    """
    settings = record.settings
    for name in ("model", "measure"):
        if not _NAME.fullmatch(getattr(settings, name)):
            raise ValueError(f"{name} is {describe(getattr(settings, name))}: no name")
    check_range(settings.prune, "prune", 0, 1)
    check_range(settings.rounds, "rounds", 0)
    check_range(len(record.image_shape), "the length of image_shape", 3, 3)
    for i, size in enumerate(record.image_shape):
        check_range(size, f"image_shape[{i}]", 1)
    check_range(record.classes, "classes", 1)
    _check_size(record.dense, "dense", record.dense)
    _check_count(len(record.epochs), settings.epochs, "epochs", record.complete)
    _check_count(len(record.rounds), settings.rounds, "rounds", record.complete)
    for i, row in enumerate(record.epochs):
        check_range(row.epoch, f"epochs[{i}].epoch", i + 1, i + 1)
        _check_epoch(row, f"epochs[{i}]")
    for i, row in enumerate(record.rounds):
        check_range(row.round, f"rounds[{i}].round", i + 1, i + 1)
        check_range(row.epoch, f"rounds[{i}].epoch", 0, settings.epochs)
        _check_size(row.size, f"rounds[{i}].size", record.dense)
        if row.by_position is not None:
            check_range(
                row.by_position, f"rounds[{i}].by_position", 0, row.size.filters
            )
    for i, row in enumerate(record.correlations):
        count = len(row.measures)
        square = [len(line) for line in row.spearman] == [count] * count
        if not count or not square or len(set(row.measures)) != count:
            raise ValueError(
                f"correlations[{i}] has no number for each pair of its measures"
            )
        for measure in row.measures:
            if not _NAME.fullmatch(measure):
                raise ValueError(
                    f"correlations[{i}] is of {describe(measure)}: no name"
                )
    if record.best_accuracy is not None:
        _check_fraction(record.best_accuracy, "best_accuracy")


def _check_count(count: int, asked: int, what: str, complete: bool) -> None:
    if count > asked or complete and count != asked:
        state = "complete" if complete else "incomplete"
        raise ValueError(f"it is {state} but has {count} {what} of {asked}")


def _check_epoch(row: EpochRow, name: str) -> None:
    for accuracy in ("train_accuracy", "test_accuracy"):
        _check_fraction(getattr(row, accuracy), f"{name}.{accuracy}")
    for loss in ("train_loss", "test_loss"):
        # A run that diverged has infinities; what is finite is a float32.
        if math.isfinite(value := getattr(row, loss)):
            check_range(value, f"{name}.{loss}", -_MAX_LOSS, _MAX_LOSS)


def _check_fraction(value: float, name: str) -> None:
    # That of a run that diverged may be no number.
    if not math.isnan(value):
        check_range(value, name, 0, 1)


def _check_size(size: Size, name: str, dense: Size) -> None:
    """Checks that a size is positive and none of it larger than the dense one."""
    for part in ("filters", "parameters", "flops"):
        check_range(getattr(size, part), f"{name}.{part}", 1, getattr(dense, part))
    if size.widths.keys() != dense.widths.keys():
        raise ValueError(f"{name}.widths has other layers than the dense network")
    for layer, width in size.widths.items():
        if not _LAYER.fullmatch(layer):
            raise ValueError(f"{name}.widths has the layer {describe(layer)}: no name")
        check_range(width, f"{name}.widths.{layer}", 0, dense.widths[layer])
        check_range(dense.widths[layer], f"dense.widths.{layer}", 1)
