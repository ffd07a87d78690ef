"""The times of a run's networks on disk, apart from its record since they vary."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.networks.timing import Times
from gradflow_jax.experiments.reproduction.record_reading import read_json
from gradflow_jax.experiments.typed_values import check_range, convert

TIMES_NAME = "times.json"


class _Row(NamedTuple):
    """The times after one round, as the file names them; `Times` has their order."""

    round: int
    forward_ms: float
    dense_forward_ms: float
    times_faster: float


def write_times(folder: Path, times: Sequence[Times]) -> None:
    """Writes the times of the forward pass after each round of a run."""
    rows = [_Row(number, *time)._asdict() for number, time in enumerate(times, 1)]
    text = json.dumps({"rounds": rows}, indent=1) + "\n"
    write_whole(folder / TIMES_NAME, lambda path: path.write_text(text))


def read_times(folder: Path) -> list[Times]:
    """Returns what `write_times` wrote, nothing where there is no such file.

    Raises:
        ValueError: if the file cannot be read, naming it.
    """
    file = folder / TIMES_NAME
    if not os.path.lexists(file):
        return []
    content = read_json(file)
    rows = content.get("rounds") if isinstance(content, dict) else None
    try:
        times = [Times(*row[1:]) for row in convert(Sequence[_Row], rows, "rounds")]
        for i, row in enumerate(times):
            for field, number in zip(_Row._fields[1:], row, strict=True):
                check_range(number, f"rounds[{i}].{field}", 0)
        return times
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
