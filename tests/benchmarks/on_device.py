"""What the library costs on this device, and whether its scores are right there.

    python tests/benchmarks/on_device.py            8 minutes at most
    python tests/benchmarks/on_device.py --small    small sizes, for a try on a CPU

It needs jax, flax, optax, chex and numpy alone; torch is measured beside them where it
is. The parts stand in the order of their worth and each has its budget of seconds: what
does not fit is left out, and the table says so. Rows are printed as they are made, and
`--out` writes them after each part, so that a run that is cut off has told something.
"""

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

# A part needs the memory that another has given back, and torch needs some too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

HERE = Path(__file__).resolve().parent
# The script is started by its path, from wherever.
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import device_parts  # noqa: E402
import rows  # noqa: E402


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--budget", type=float, default=460.0, help="seconds in all")
    parser.add_argument("--out", type=Path, help="the folder of the table")
    parser.add_argument("--only", nargs="*", help="names of parts", default=())
    return parser.parse_args()


class Journal:
    """The rows so far, printed as they come and written after each part."""

    def __init__(self, out: Path | None):
        self.rows: list[rows.Row] = []
        self._out = out
        self._start = time.monotonic()

    def seconds(self) -> float:
        """Returns how long the run has taken."""
        return time.monotonic() - self._start

    def add(self, row: rows.Row) -> None:
        """Keeps a row and prints it."""
        self.rows.append(row)
        line = rows.table([row]).splitlines()[-1]
        print(f"{self.seconds():6.1f} s  {line}", flush=True)

    def say(self, text: str) -> None:
        """Prints a line."""
        print(f"{self.seconds():6.1f} s  {text}", flush=True)

    def write(self) -> None:
        """Writes the table, where a folder was named."""
        if self._out is not None and self.rows:
            where = rows.environment()
            path = self._out / f"{rows.file_stem(where['device'])}-device.json"
            rows.save(path, where, self.rows)


def run_part(
    journal: Journal, part: device_parts.Part, small: bool, until: float
) -> None:
    """Makes the rows of one part until its time, or that of the run, is over."""
    end = min(journal.seconds() + part.budget, until)
    try:
        for row in part.rows(small):
            journal.add(row)
            if journal.seconds() > end:
                journal.say(f"{part.name}: its time is over")
                break
    except Exception as error:
        # One part that does not run here must not cost the others.
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        journal.add(rows.Row(part.name, None, rounds=0, note=reason[:200]))


def main() -> int:
    """Runs the parts; exits with 1 if one of them failed or found a wrong score."""
    chosen = arguments()
    journal = Journal(chosen.out)
    where = rows.environment()
    journal.say(", ".join(f"{key} {value}" for key, value in where.items()))
    for part in device_parts.PARTS:
        if chosen.only and part.name not in chosen.only:
            continue
        if journal.seconds() > chosen.budget:
            note = "left out: the time of the run is over"
            journal.add(rows.Row(part.name, None, rounds=0, note=note))
            continue
        journal.say(f"{part.name}, {part.budget:g} s at most")
        run_part(journal, part, chosen.small, chosen.budget)
        journal.write()
    print("\n" + rows.table(journal.rows))
    failed = [row for row in journal.rows if row.met is False and row.unit != "×"]
    broken = [row for row in journal.rows if row.value is None and "Error" in row.note]
    return int(bool(failed or broken))


if __name__ == "__main__":
    sys.exit(main())
