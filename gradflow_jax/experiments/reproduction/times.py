"""The times of a run's networks on disk, apart from its record since they vary."""

import json
from collections.abc import Sequence
from pathlib import Path

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.networks.timing import Times

TIMES_NAME = "times.json"
_FIELDS = "forward_ms", "dense_forward_ms", "times_faster"


def write_times(folder: Path, times: Sequence[Times]) -> None:
    """Writes the times of the forward pass after each round of a run."""
    rows = [
        {"round": number, **dict(zip(_FIELDS, time, strict=True))}
        for number, time in enumerate(times, 1)
    ]
    text = json.dumps({"rounds": rows}, indent=1) + "\n"
    write_whole(folder / TIMES_NAME, lambda path: path.write_text(text))


def read_times(folder: Path) -> list[Times]:
    """Returns what `write_times` wrote, nothing where there is no such file.

    Raises:
        ValueError: if the file cannot be read, naming it.
    """
    file = folder / TIMES_NAME
    if not file.exists():
        return []
    try:
        rows = json.loads(file.read_text())["rounds"]
        return [Times(*(float(row[name]) for name in _FIELDS)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error!r}.") from error
