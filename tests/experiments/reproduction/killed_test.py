"""A run of the command that is killed again and again ends as if it never was."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gradflow_jax.experiments.reproduction.checkpoints import Checkpoints
from gradflow_jax.experiments.reproduction.folder import CHECKPOINTS_NAME, MODEL_NAME
from gradflow_jax.experiments.reproduction.record import RECORD_NAME
from gradflow_jax.experiments.reproduction.record_reading import read_record
from gradflow_jax.experiments.reproduction.times import TIMES_NAME
from gradflow_jax.structured import load_cut

COMMAND = Path(sys.executable).parent / "gradflow-jax"
OPTIONS = ["--model", "vgg13", "--measure", "grasp", "--fast", "--quiet"]
KILLS = int(os.environ.get("GRADFLOW_JAX_KILLS", "4"))

# Starting again costs importing and compiling. Killed processes share what they
# compiled. The one that they are compared with compiles all of it anew: with their
# cache it would run the very programs they run, and a difference that comes of
# compiling in another process could not show.
OWN = {name: text for name, text in os.environ.items() if "COMPILATION" not in name}


def cached(folder):
    return {
        **OWN,
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start(out, environment):
    return subprocess.Popen(
        [COMMAND, "reproduce", *OPTIONS, "--out", out],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(run):
    output, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert output == ""


def listing(out):
    """Returns the names in a folder and in that of its checkpoints."""
    found = []
    for folder in (out, out / CHECKPOINTS_NAME):
        try:
            found.append(sorted(os.listdir(folder)))
        except FileNotFoundError:
            found.append([])
    return found


def wait_for_changes(run, out, count):
    """Waits until names in a folder changed so often, or the run has ended."""
    before = listing(out)
    while count and run.poll() is None:
        now = listing(out)
        count -= now != before
        before = now
        time.sleep(0.001)


def check_whole(out, copy):
    """Checks all that has its final name, in a copy.

    Orbax may delete in the copy for a moment yet: it is to be left where it is.
    """
    if not out.exists():
        return
    shutil.copytree(out, copy)
    epochs = 0
    if (copy / RECORD_NAME).exists():
        epochs = len(read_record(copy / RECORD_NAME).epochs)
    if (copy / TIMES_NAME).exists():
        json.loads((copy / TIMES_NAME).read_text())
    if (copy / MODEL_NAME).exists():
        load_cut(copy / MODEL_NAME)
    folder = copy / CHECKPOINTS_NAME
    if folder.exists():
        numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.latest() == max(numbers, default=None)
            # A record is of a checkpoint, so that a later run can go on from it.
            assert epochs <= max(numbers, default=0)
            for number in numbers:
                saved = checkpoints.restore(number)
                assert len(saved.about["record"]["epochs"]) == number


@pytest.mark.runs
def test_a_run_that_is_killed_at_any_moment_ends_as_one_that_is_not(tmp_path):
    if not COMMAND.exists():
        pytest.skip(f"{COMMAND} is absent: pip install -e '.[test]' installs it")
    whole = tmp_path / "whole"
    began = time.monotonic()
    finish(start(whole, OWN))
    duration = time.monotonic() - began
    expected = {name: (whole / name).read_bytes() for name in (RECORD_NAME, MODEL_NAME)}

    random = np.random.default_rng(0)
    environment = cached(tmp_path / "cache")
    kills, ends, killed_in, longest = 0, 0, False, duration
    # A folder whose run ends before the last kill is compared, and another begun.
    while kills < KILLS or killed_in:
        out = tmp_path / f"killed-{ends}"
        started = time.monotonic()
        with start(out, environment) as run:
            if kills < KILLS:
                # Most of the time passes in importing and compiling, so every other
                # kill is when something is being written.
                moment = random.uniform(0, longest)
                if kills % 2:
                    wait_for_changes(run, out, random.integers(1, 25))
                    moment = random.uniform(0, 0.02)
                try:
                    run.wait(timeout=moment)
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.wait()
            if kills == KILLS or run.returncode == 0:
                finish(run)
                for name, content in expected.items():
                    assert (out / name).read_bytes() == content, (name, ends)
                ends, killed_in = ends + 1, False
                # What is compiled already takes less time, and kills shall hit.
                longest = min(longest, time.monotonic() - started)
            else:
                assert run.returncode == -9, run.stderr.read()
                kills, killed_in = kills + 1, True
                check_whole(out, tmp_path / f"copy-{kills}")
    assert ends
    took = time.monotonic() - began
    print(f"{kills} kills, {ends} ends in {took:.0f} s; undisturbed {duration:.0f} s")
