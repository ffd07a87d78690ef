"""Runs the benchmarks and prints their table: `python tests/benchmarks/run.py`.

The table goes to `results/<device>.md`, what can be compared to the `.json` beside it,
and its ratios to a line of `results/history.jsonl` that names the commit. Torch, and a
checkout of jaxpruner whose path stands in the environment variable JAXPRUNER, are
measured beside the library where they are.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

# A child process, and torch, need the accelerator's memory too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import history
import pytest
import rows
from measuring import Measuring

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests named so")
    parser.add_argument(
        "--quick", action="store_true", help="small and few; nothing is written"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare the ratios with those in results instead of writing them; "
        "exit with 1 if one is worse",
    )
    parser.add_argument("--results", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    if chosen.quick and chosen.compare:
        parser.error("the ratios of small sizes are others: drop --quick or --compare")
    return chosen


def measure(quick: bool, only: str | None) -> tuple[int, list[rows.Row]]:
    """Runs the tests of this folder; returns pytest's exit status and the rows."""
    plugin = Measuring(quick, lambda row: print(f"\n{_line(row)}", flush=True))
    with tempfile.TemporaryDirectory() as storage:
        options = ["-c", str(HERE / "benchmarks.ini"), "--rootdir", str(HERE)]
        options += ["-s", "-q", "-rs", f"--benchmark-storage=file://{storage}"]
        options += ["-k", only] if only else []
        status = pytest.main([*options, str(HERE)], plugins=[plugin])
    return int(status), plugin.rows


def _line(row: rows.Row) -> str:
    return rows.table([row]).splitlines()[-1]


def write(path: Path, found: list[rows.Row], partly: bool) -> None:
    """Writes all rows; or some, in place of those of the same environment."""
    where = rows.environment()
    before, old = rows.load(path)
    if partly and old and before != where:
        print(f"Not written: {path.name} holds rows of another environment; run all.")
        return
    kept = rows.merged(old, found) if partly else found
    rows.save(path, where, kept)
    commit = history.last_commit(HERE)
    if commit is not None:
        line = history.line_of(commit, where, kept)
        history.append(path.with_name("history.jsonl"), line)


def main() -> int:
    """Runs the command; returns the exit status."""
    chosen = arguments()
    status, found = measure(chosen.quick, chosen.k)
    where = rows.environment()
    print("\n" + ", ".join(f"{key} {value}" for key, value in where.items()) + "\n")
    if chosen.quick:
        print("Quick: sizes are smaller than the rows say, and ratios are others.\n")
    print(rows.table(found))
    path = chosen.results / f"{rows.file_stem(where['device'])}.json"
    if chosen.compare:
        worse = rows.regressions(rows.load(path)[1], found)
        print(
            "\n".join(["Worse than before:", *worse] if worse else ["Nothing worse."])
        )
        return status or bool(worse)
    if found and not chosen.quick:
        write(path, found, partly=bool(chosen.k or status))
    return status


if __name__ == "__main__":
    sys.exit(main())
