"""Judges the sample of mutants: `python -m tests.mutants.judge`.

Each mutant is planted in a copy of the checkout and judged by its room's tests, of
every tier, with `-x`: *killed* where one fails, *survived* where all pass, *no answer*
after `PATIENCE` times what the room's tests take without a mutant. The test that is
named after the mutant's file goes first. Two are judged side by side, each by one
process. The table goes to the file of `--out`.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutants.operators import planted
from tests.mutants.sample import PACKAGE, SAMPLE, places, rooms

ROOT = PACKAGE.parent
PATIENCE = 3


class Verdict(NamedTuple):
    """What a room's tests said of a checkout."""

    word: str
    test: str
    seconds: float


def copied(folder):
    """Copies what the tests need of this checkout into a folder."""
    folder.mkdir()
    for name in ("gradflow_jax", "tests", "notebooks", "pyproject.toml", "README.md"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)


def plant(folder, mutant):
    """Changes a copy; returns the name of the changed file."""
    ((path, _),) = places(mutant["room"])[mutant["before"]]
    text = planted(path.read_text(), mutant["before"], mutant["after"])
    (folder / path.relative_to(ROOT)).write_text(text)
    return path.stem


def run_tests(folder, room, first, limit):
    """Runs a room's tests in a copy until one fails."""
    tests = sorted((folder / "tests" / room).rglob("*_test.py"))
    tests.sort(key=lambda path: path.name != f"{first}_test.py")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-m", ""]
    command += ["-p", "no:cacheprovider", *map(str, tests)]
    command += [str(folder / "gradflow_jax" / room)]
    began = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            output, _ = run.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, 9)
            return Verdict("no answer", "", time.monotonic() - began)
    seconds = time.monotonic() - began
    if run.returncode == 0:
        return Verdict("survived", "", seconds)
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(output)
    return Verdict("killed", found[1].removeprefix(f"{folder}/"), seconds)


def judge(mutant, limit):
    """Returns the file and the verdict of one mutant."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkout"
        copied(folder)
        name = plant(folder, mutant)
        return name, run_tests(folder, mutant["room"], name, limit)


def unmutated(room):
    """Returns how long a room's tests take; they must pass."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkout"
        copied(folder)
        verdict = run_tests(folder, room, "", None)
    if verdict.word != "survived":
        raise SystemExit(f"{room}: {verdict.test} fails without a mutant")
    return verdict.seconds


def shown(text):
    """Returns a statement as a cell of a table."""
    line = " ".join(text.removesuffix("\n    ...").split())
    return f"`{line.replace('|', chr(92) + '|')}`"


def table(results, times):
    """Returns the table of a judgement, as Markdown."""
    counts = {"killed": 0, "survived": 0, "no answer": 0}
    rows = []
    for mutant, (name, verdict) in results:
        counts[verdict.word] += 1
        words = [f"{mutant['room']}/{name}", mutant["operator"]]
        words += [shown(mutant["before"]), shown(mutant["after"])]
        test = f"`{verdict.test.removeprefix('tests/')}`" if verdict.test else ""
        words += ["x" if verdict.word == word else "" for word in counts]
        rows.append("| " + " | ".join([*words, test, f"{verdict.seconds:.0f}"]) + " |")
    total = ", ".join(f"{count} {word}" for word, count in counts.items())
    columns = ["file", "operator", "before", "after", *counts, "by", "s"]
    unhurt = ", ".join(f"{room} {seconds:.0f} s" for room, seconds in times.items())
    return "\n".join(
        [
            f"{len(results)} mutants: {total}.",
            "",
            f"Without a mutant, one process, two side by side: {unhurt}.",
            "",
            f"| {' | '.join(columns)} |",
            "| --- " * len(columns) + "|",
            *rows,
            "",
        ]
    )


def arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--room", action="append", choices=rooms(), help="only this one"
    )
    parser.add_argument("--out", type=Path, required=True, help="of the table")
    parser.add_argument("--title", default="The sample of mutants")
    parser.add_argument(
        "--unmutated",
        action="append",
        default=[],
        metavar="ROOM=SECONDS",
        help="what its tests take without a mutant, where that was measured already",
    )
    return parser.parse_args()


def main():
    """Judges the sample and writes its table."""
    chosen = arguments()
    judged = chosen.room or rooms()
    sample = json.loads(SAMPLE.read_text())["mutants"]
    known = dict(pair.split("=") for pair in chosen.unmutated)

    def time_of(room):
        return float(known[room]) if room in known else unmutated(room)

    with ThreadPoolExecutor(2) as pool:
        times = dict(zip(judged, pool.map(time_of, judged), strict=True))
        sample = [mutant for mutant in sample if mutant["room"] in judged]
        limits = [PATIENCE * times[mutant["room"]] for mutant in sample]
        results = []
        for mutant, found in zip(sample, pool.map(judge, sample, limits), strict=True):
            results.append((mutant, found))
            print(mutant["room"], mutant["operator"], *found[1], flush=True)
    chosen.out.write_text(f"# {chosen.title}\n\n{table(results, times)}")


if __name__ == "__main__":
    main()
