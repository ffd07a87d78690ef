"""The command as a user meets it: files, screens, exit codes."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

import gradflow_jax as gf
from gradflow_jax import cli
from gradflow_jax.experiments.commands import observe_job, report_job
from gradflow_jax.experiments.names import (
    MEASURE_NAMES,
    MODEL_NAMES,
    PAPER_MEASURES,
    WEIGHT_MEASURES,
)
from gradflow_jax.experiments.networks.measuring import MEASURES
from gradflow_jax.experiments.sweep import results
from gradflow_jax.experiments.sweep.settings import (
    UNIT_SCOPES,
    Settings,
    StructuredSettings,
)
from gradflow_jax.experiments.sweep.weights import SCOPES
from gradflow_jax.models import MODELS
from gradflow_jax.observations import Study
from gradflow_jax.scores import RULES
from gradflow_jax.structured import choosing

ROOT = Path(gf.__file__).parents[1]
COMMAND = Path(sys.executable).parent / "gradflow-jax"


def call(monkeypatch, *arguments):
    """Runs the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["gradflow-jax", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """That of processes, which share what they compiled.

    The runs in this process, which some are compared with, compile it anew.
    """
    return {
        **os.environ,
        "COLUMNS": "80",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def run_installed(out, options, environment):
    """Runs the installed command; returns what it printed."""
    if not COMMAND.exists():
        pytest.skip(f"{COMMAND} is absent: pip install -e '.[test]' installs it")
    run = subprocess.run(
        [COMMAND, "prune", *options, "--out", out],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_npz, environment):
    """One run of the installed command, its folder and its screen."""
    out = tmp_path_factory.mktemp("run") / "out"
    options = ["--measure", "magnitude", "--measure", "random", "--sparsity", "80%"]
    options += ["--sparsity", "0.5", "--seeds", "2", "--epochs", "2"]
    return out, run_installed(out, [*options, "--data", tiny_npz], environment)


STRUCTURED = ["--structured", "--measure", "magnitude", "--sparsity", "50%"]
STRUCTURED += ["--sparsity", "0.75", "--epochs", "1"]


@pytest.fixture(scope="module")
def finished_structured(tmp_path_factory, tiny_npz, environment):
    """As `finished`, of cut networks."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, run_installed(out, [*STRUCTURED, "--data", tiny_npz], environment)


@pytest.mark.runs
def test_a_run_writes_every_number_with_settings_and_versions(finished):
    out, run = finished
    assert sorted(path.name for path in out.iterdir()) == [
        "accuracy.png",
        "results.csv",
        "results.json",
    ]
    found = json.loads((out / "results.json").read_text())
    assert found["complete"] and found["data"] == "tiny (120 + 60 images)"
    assert found["settings"]["seeds"] == [0, 1]
    assert found["settings"]["sparsities"] == [0.5, 0.8]
    assert set(found["versions"]) >= {"python", "jax", "flax", "optax", "device"}
    assert len(found["rows"]) == 2 * (1 + 2 * 2)
    with (out / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found["rows"])
    for line, row in zip(lines, found["rows"], strict=True):
        assert float(line["accuracy"]) == row["accuracy"]
        assert line["jax"] == found["versions"]["jax"] and line["epochs"] == "2"
    assert (out / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert run.stderr == ""


@pytest.mark.runs
def test_the_screen_names_the_data_and_ends_in_a_table(finished):
    out, run = finished
    assert "tiny (120 + 60 images)" in run.stdout
    assert "Test accuracy (%) on tiny" in run.stdout
    assert "50 %" in run.stdout and "±" in run.stdout
    for name in ("magnitude", "random", "dense", "results.json"):
        assert name in run.stdout


@pytest.mark.runs
def test_a_result_is_replaced_only_by_force(finished, monkeypatch, capsys, tiny_npz):
    out, _ = finished
    before = (out / "results.json").read_text()
    assert call(monkeypatch, "prune", "--out", out, "--data", tiny_npz) == 2
    assert "exists already; choose another --out, or --force" in capsys.readouterr().err
    assert (out / "results.json").read_text() == before
    # With force and the same settings the same files come out, byte for byte.
    options = ["--measure", "magnitude", "--measure", "random", "--sparsity", "0.5"]
    options += ["--sparsity", "0.8", "--seeds", "2", "--epochs", "2", "--quiet"]
    options += ["--out", out, "--data", tiny_npz, "--force"]
    csv_before = (out / "results.csv").read_text()
    assert call(monkeypatch, "prune", *options) == 0
    assert (out / "results.json").read_text() == before
    assert (out / "results.csv").read_text() == csv_before
    assert capsys.readouterr() == ("", "")


@pytest.mark.runs
def test_a_structured_run_writes_what_is_left_and_apart_from_it_the_times(
    finished_structured,
):
    out, run = finished_structured
    assert sorted(path.name for path in out.iterdir()) == [
        "accuracy.png",
        "results.csv",
        "results.json",
        "times.csv",
    ]
    found = json.loads((out / "results.json").read_text())
    assert found["complete"] and found["settings"]["seeds"] == [0]
    assert found["settings"]["budget"] == "units"
    assert found["settings"]["floor"] == 0.05
    assert [sum(row["widths"].values()) for row in found["rows"]] == [112, 56, 28]
    assert not any("ms" in name or "times" in name for name in found["rows"][0])
    with (out / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, found["rows"], strict=True):
        assert int(line["parameters"]) == row["parameters"]
        assert f"conv1={row['widths']['conv1']} conv2=" in line["widths"]
        assert float(line["accuracy"]) == row["accuracy"] and line["budget"] == "units"
    with (out / "times.csv").open() as file:
        times = list(csv.DictReader(file))
    assert [line["measure"] for line in times] == ["dense", "magnitude", "magnitude"]
    assert all(float(line["forward_ms"]) > 0 for line in times)
    assert (out / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert run.stderr == ""


@pytest.mark.runs
def test_the_structured_screen_is_a_table_of_80_columns(finished_structured):
    _, run = finished_structured
    assert "16·32·64" in run.stdout and "faster" in run.stdout
    assert "magnitude\n   50 %" in run.stdout and "times.csv" in run.stdout
    lines = [line for line in run.stdout.splitlines() if "Written" not in line]
    assert max(map(len, lines)) <= 80


@pytest.mark.runs
def test_equal_structured_runs_give_equal_files_but_for_times(
    finished_structured, monkeypatch, capsys, tiny_npz
):
    out, _ = finished_structured
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    options = ["prune", *STRUCTURED, "--out", out, "--data", tiny_npz, "--quiet"]
    assert call(monkeypatch, *options) == 2
    capsys.readouterr()
    assert call(monkeypatch, *options, "--force") == 0
    assert capsys.readouterr() == ("", "")
    for path in out.iterdir():
        assert (path.read_bytes() == before[path.name]) == (path.name != "times.csv")


def test_times_of_another_run_are_protected(monkeypatch, capsys, tmp_path):
    (tmp_path / "times.csv").touch()
    assert call(monkeypatch, "prune", "--out", tmp_path) == 2
    assert "times.csv exists already" in capsys.readouterr().err


@pytest.mark.runs
@pytest.mark.parametrize("mode", [[], ["--structured"]], ids=["masked", "cut"])
def test_an_interrupt_leaves_what_was_finished(tmp_path, tiny_npz, mode, environment):
    if not COMMAND.exists():
        pytest.skip(f"{COMMAND} is absent: pip install -e '.[test]' installs it")
    out = tmp_path / "out"
    options = ["--measure", "random", "--seeds", "1000", "--epochs", "1"]
    run = subprocess.Popen(
        [COMMAND, "prune", *mode, *options, "--data", tiny_npz, "--out", out],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        try:
            deadline = time.monotonic() + 120
            while not (out / "results.json").exists() and time.monotonic() < deadline:
                assert run.poll() is None, run.stderr.read()
                time.sleep(0.1)
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130
    # Only its own word, and no traceback.
    assert errors.splitlines()[-1] == "gradflow-jax: stopped.", errors
    assert "Traceback" not in errors
    found = json.loads((out / "results.json").read_text())
    assert found["complete"] is False and found["rows"]
    assert (out / "results.csv").exists() and (out / "accuracy.png").exists()
    assert (out / "times.csv").exists() == bool(mode)
    assert not [path for path in out.iterdir() if "partial" in path.name]


BAD_OPTIONS = {
    "percent": (["--sparsity", "90"], "90 is outside [0, 1); did you mean 90%?"),
    "negative": (["--sparsity=-0.1"], "-0.1 is outside [0, 1)."),
    "all": (["--sparsity", "1"], "1 is outside [0, 1)."),
    "nan": (["--sparsity", "nan"], "nan is outside [0, 1)."),
    "word": (["--sparsity", "most"], "'most' is not a fraction such as 0.9 or 90%."),
    "measure": (["--measure", "magnitud"], "'magnitud' is not one of 'magnitude'"),
    "scope": (["--scope", "local"], "'local' is not one of 'global'"),
    "epochs": (["--epochs", "0"], "0 is not in the range x>=1"),
    "seeds": (["--seeds", "0"], "0 is not in the range 1<=x<=1000"),
    "seed": (["--seed", "-1"], "-1 is not in the range"),
    "data": (["--data", "absent"], "absent does not exist: pass 'subset', 'digits'"),
    "out": (["--out", __file__], "is a file."),
    "round": (["--round-to", "8"], "--round-to is of --structured; add it."),
    "option": (["--sparse", "0.5"], "No such option"),
    "argument": (["now"], "unexpected extra argument"),
    "budget alone": (["--budget", "units"], "--budget says what --structured counts"),
    "budget of what": (
        ["--structured", "--budget", "bytes"],
        "'bytes' is not one of 'units'",
    ),
    "structured scope": (
        ["--structured", "--scope", "erk"],
        "--scope erk is of weights; with --structured: global, layerwise.",
    ),
    "measure of units": (
        ["--measure", "magnitude_1_norm"],
        "magnitude_1_norm differs from others for whole units only; add --structured.",
    ),
    "structured sparsity": (
        ["--structured", "--sparsity", "95%"],
        "ask for at most 0.9375.",
    ),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options_are_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, case):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    assert call(monkeypatch, "prune", *options) == 2
    output, errors = capsys.readouterr()
    assert output == "" and len(errors.splitlines()) == 1
    assert message in errors and errors.startswith("gradflow-jax: ")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_and_help(monkeypatch, capsys):
    assert call(monkeypatch, "prun") == 2
    assert "No such command 'prun'" in capsys.readouterr().err
    assert call(monkeypatch, "--help") == 0
    screen = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"\n  {command} " in screen
    assert call(monkeypatch, "prune", "--help") == 0
    text = capsys.readouterr().out
    for option in (
        "--measure",
        "--sparsity",
        "--seeds",
        "--scope",
        "--structured",
        "--budget",
        "--force",
        "--quiet",
    ):
        assert option in text
    assert max(map(len, text.splitlines())) <= 80
    assert call(monkeypatch, "--version") == 0
    assert gf.__version__ in capsys.readouterr().out


HELP = """
import contextlib, io, json, sys
import gradflow_jax
from gradflow_jax import cli

found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["gradflow-jax", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code
    found.append(screen.getvalue())
print(json.dumps([found, list(sys.modules)]))
"""


def test_help_is_there_before_jax_would_be():
    arguments = [["--version"], ["--help"], ["-h"]]
    arguments += [[command, "--help"] for command in cli.COMMANDS]
    run = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    screens, modules = json.loads(run.stdout)
    beginnings = ["gradflow-jax, version "] + 2 * ["Usage: gradflow-jax [OPTIONS]"]
    beginnings += [f"Usage: gradflow-jax {command} " for command in cli.COMMANDS]
    for screen, beginning in zip(screens, beginnings, strict=True):
        assert screen.startswith(beginning)
    # What takes longer to import than a reader waits.
    slow = {"jax", "flax", "optax", "numpy", "scipy", "matplotlib", "grain", "orbax"}
    assert not slow & set(modules)


def words_of_help(monkeypatch, capsys, command):
    """Returns a help screen with single spaces between its words."""
    assert call(monkeypatch, command, "--help") == 0
    return " ".join(capsys.readouterr().out.split())


def test_names_are_those_of_the_tables_of_networks_and_measures():
    assert MODEL_NAMES == tuple(MODELS)
    assert MEASURE_NAMES == tuple(MEASURES)
    assert set(RULES) < set(MEASURES), "each rule has a row in experiments/names.py"
    of_weights = (name for name, measure in MEASURES.items() if measure.weights)
    assert WEIGHT_MEASURES == tuple(of_weights)
    assert set(PAPER_MEASURES) < set(MEASURES)


def test_choices_of_prune_are_what_sweeps_take(monkeypatch, capsys):
    screen = words_of_help(monkeypatch, capsys, "prune")
    assert f"--scope [{'|'.join(SCOPES)}]" in screen
    assert set(UNIT_SCOPES.values()) < set(get_args(choosing.Scope))
    of, _ = get_args(choosing.Budget)
    assert f"--budget [{'|'.join(get_args(of))}]" in screen
    assert f"All by default: {', '.join(Settings().measures)}." in screen
    assert f"by default by {', '.join(StructuredSettings().measures)}." in screen
    assert set(StructuredSettings().measures) < set(MEASURES)
    assert set(Settings().measures) < set(MEASURES)


def test_choices_of_reproduce_are_the_networks_and_every_measure(monkeypatch, capsys):
    screen = words_of_help(monkeypatch, capsys, "reproduce")
    assert f"--model [{'|'.join(MODELS)}]" in screen
    offered = re.search(r"The paper's: (.*?)\. Also: (.*?)\.", screen)
    names = ", ".join(offered.groups()).split(", ")
    assert sorted(names) == sorted(MEASURES)


def test_choices_and_defaults_of_observe_are_those_of_a_study(monkeypatch, capsys):
    screen = words_of_help(monkeypatch, capsys, "observe")
    assert f"--model [cnn|{'|'.join(MODELS)}]" in screen
    study = {field.name: field.default for field in dataclasses.fields(Study)}
    for option, name in (
        ("--steps INTEGER RANGE", "steps"),
        ("--finetune-steps INTEGER RANGE", "finetuning"),
        ("--sparsity FRACTION", "sparsity"),
    ):
        default = rf"{option} (?:(?! --).)*\[default: {study[name]};"
        assert re.search(default, screen), option


def test_help_names_the_files_that_are_written(monkeypatch, capsys):
    for command, names in {
        "prune": (results.JSON_NAME, results.CSV_NAME, results.PLOT_NAME),
        "observe": (observe_job.JSON_NAME, observe_job.PLOT_NAME),
        "report": (report_job.PAGE_NAME, report_job.JSON_NAME),
    }.items():
        screen = words_of_help(monkeypatch, capsys, command)
        assert set(names) < set(re.findall(r"\w+\.\w+", screen)), command
    assert results.TIMES_NAME in words_of_help(monkeypatch, capsys, "prune")


def test_a_folder_that_cannot_be_made(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert call(monkeypatch, "prune", "--out", tmp_path / "file" / "out") == 2
    assert "cannot be made: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("rich", ["--help"]), ("matplotlib", ["observe", "--quiet"])],
    ids=["of all commands", "of one command"],
)
def test_without_its_packages_the_command_says_what_to_install(
    tmp_path, package, arguments
):
    """One is hidden from a fresh interpreter by a module that refuses to load."""
    (tmp_path / package).mkdir()
    refusal = f"raise ModuleNotFoundError('No module named X', name={package!r})"
    (tmp_path / package / "__init__.py").write_text(refusal)
    program = "from gradflow_jax.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        f"gradflow-jax: the command needs {package}: pip install 'gradflow-jax[cli]' "
        "brings what it needs."
    ]


def test_what_is_needed_for_one_feature_is_said_by_its_own_message(capsys):
    with pytest.raises(SystemExit) as stop:
        cli._stop_without(ModuleNotFoundError("saving needs safetensors: install it."))
    assert stop.value.code == 1
    message = "gradflow-jax: saving needs safetensors: install it.\n"
    assert capsys.readouterr().err == message


def test_the_command_is_installed():
    assert COMMAND.exists() or shutil.which("gradflow-jax")
