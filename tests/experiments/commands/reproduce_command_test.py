"""The commands reproduce and evaluate as a user meets them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gradflow_jax import cli
from gradflow_jax.experiments.commands import reproduce_command, reproduce_job
from gradflow_jax.experiments.data.dataset import load, some_of
from gradflow_jax.experiments.errors import FolderError
from gradflow_jax.experiments.reproduction.ownership import LOCK_NAME
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.experiments.reproduction.record_reading import read_record

COMMAND = Path(sys.executable).parent / "gradflow-jax"
BASE = ["--model", "vgg13", "--measure", "magnitude"]
# Seconds of compiling: one cut, of the measure that needs no gradient.
SHORT = [*BASE, "--fast", "--rounds", "1", "--schedule", "1@0.1,1@0.01"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """What the command sets ends with the test; the working folder is empty."""
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("GRADFLOW_JAX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def refused(monkeypatch, capsys, *arguments):
    """Runs a command that must stop by one line and code 2; returns the line."""
    monkeypatch.setattr(sys, "argv", ["gradflow-jax", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("gradflow-jax: "), errors
    assert errors[0].endswith("--help.")
    return errors[0]


def called(monkeypatch, capsys, *arguments):
    """Runs a command that must end well and without a warning; returns its screen."""
    monkeypatch.setattr(sys, "argv", ["gradflow-jax", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    screen = capsys.readouterr()
    assert (stop.value.code or 0, screen.err) == (0, "")
    return screen.out


def installed(*arguments, code=0):
    """Runs the installed command."""
    if not COMMAND.exists():
        pytest.skip(f"{COMMAND} is absent: pip install -e '.[test]' installs it")
    run = subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stderr
    return run


class Asked:
    """Takes the place of `run_in_folder`, and refuses what it was asked for."""

    def __call__(self, out, settings, dataset, watcher=None):
        self.out, self.settings, self.dataset = out, settings, dataset
        raise FolderError("asked.")


@pytest.fixture
def asked(monkeypatch):
    """Returns what options ask for: settings, and the data set and the folder."""
    runs = Asked()
    monkeypatch.setattr(reproduce_job, "run_in_folder", runs)

    def ask(*options):
        found = CliRunner().invoke(reproduce_command.reproduce, list(options))
        assert found.exit_code == 2 and "asked." in found.output, found.output
        return runs

    return ask


SUBSET = ["--data", "subset"]


def test_without_options_it_is_the_papers_run(asked):
    found = asked(*BASE, *SUBSET)
    assert found.settings == RunSettings(
        "vgg13",
        "magnitude",
        prune=0.75,
        rounds=25,
        seed=0,
        width=1.0,
        schedule=((80, 0.1), (40, 0.01), (40, 0.001)),
        warmup=0,
        batch_size=128,
    )
    assert str(found.out) == str(Path("runs", "vgg13-magnitude-75-25-0"))
    assert str(found.dataset) == "Fashion-MNIST subset (5,000 + 1,000 images)"


def test_each_option_is_a_setting(asked):
    options = "--model mobilenet --measure grasp --prune 62.5% --rounds 3 --seed 7 "
    options += "--width 0.5 --schedule 8@0.2,1@1e-3 --batch-size 32 --warmup 2 "
    options += "--examples 500 --tests 100 --thresholds 30,40%,62.5 --tracked "
    options += "--momentum keep --cut-stem --published-rules --correlate-every 2"
    found = asked(*options.split(), *SUBSET, "--out", "there")
    assert found.settings == RunSettings(
        "mobilenet",
        "grasp",
        prune=0.625,
        rounds=3,
        seed=7,
        width=0.5,
        schedule=((8, 0.2), (1, 0.001)),
        warmup=2,
        batch_size=32,
        examples=500,
        tests=100,
        thresholds=(0.3, 0.4, 0.625),
        tracked=True,
        momentum="keep",
        cut_stem=True,
        published_rules=True,
        correlate_every=2,
    )
    assert str(found.out) == "there"
    assert (len(found.dataset.y_train), len(found.dataset.y_test)) == (500, 100)


def test_fast_is_small_where_nothing_else_is_said(asked):
    found = asked(*BASE, "--fast")
    assert found.settings == RunSettings(
        "vgg13",
        "magnitude",
        prune=0.75,
        rounds=2,
        schedule=((4, 0.1), (1, 0.01), (1, 0.001)),
        batch_size=50,
        examples=300,
        tests=200,
        fast=True,
    )
    assert (len(found.dataset.y_train), len(found.dataset.y_test)) == (300, 200)
    # Rounds in fast runs get the epochs they need.
    found = asked(*BASE, "--fast", "--rounds", "9", "--warmup", "3")
    assert found.settings.schedule[0] == (14, 0.1)
    options = "--examples 100 --tests 50 --batch-size 10 --schedule 2@0.5"
    found = asked(*BASE, "--fast", *options.split())
    assert found.settings.schedule == ((2, 0.5),) and found.settings.batch_size == 10
    assert (found.settings.examples, found.settings.tests) == (100, 50)


def test_thresholds_say_how_much_and_in_how_many_rounds(asked):
    found = asked(*BASE, *SUBSET, "--thresholds", "20,40,60").settings
    assert (found.prune, found.rounds) == (0.6, 3)
    found = asked(*BASE, "--fast", "--thresholds", "12.5%").settings
    assert (found.thresholds, found.prune, found.rounds) == ((0.125,), 0.125, 1)


def test_nothing_to_prune_is_training_alone(asked):
    found = asked(*BASE, *SUBSET, "--prune", "0")
    assert (found.settings.prune, found.settings.rounds) == (0.0, 0)
    assert found.out.name == "vgg13-magnitude-0-0-0"
    # Also where rounds are asked for.
    assert asked(*BASE, "--fast", "--prune", "0%").settings.rounds == 0


BAD_OPTIONS = {
    "fraction": (
        ["--prune", "0.75"],
        "0.75 is a percentage below 1: did you mean 75? Say 0.75% if not.",
    ),
    "all": (["--prune", "100"], "100 is outside [0, 100) percent."),
    "negative": (["--prune=-1"], "-1 is outside [0, 100) percent."),
    "nan": (["--prune", "nan"], "nan is outside [0, 100) percent."),
    "word": (["--prune", "most"], "'most' is not a percentage such as 75."),
    "schedule": (
        ["--schedule", "80x0.1"],
        "'80x0.1' is no stage such as 80@0.1: epochs from 1 on, then @, then a "
        "positive learning rate.",
    ),
    "no epoch": (["--schedule", "4@0.1,0@0.1"], "'0@0.1' is no stage such as 80@0.1"),
    "no rate": (["--schedule", "4@"], "'4@' is no stage such as 80@0.1"),
    "zero rate": (["--schedule", "4@0"], "'4@0' is no stage such as 80@0.1"),
    "nan rate": (["--schedule", "4@nan"], "'4@nan' is no stage such as 80@0.1"),
    "rounds": (
        ["--rounds", "5", "--schedule", "4@0.1,9@0.01"],
        "5 rounds of one epoch do not fit into the first stage of 4 epochs.",
    ),
    "warm-up": (
        ["--rounds", "3", "--warmup", "2", "--schedule", "4@0.1"],
        "2 epochs of warm-up and 3 rounds of one epoch do not fit",
    ),
    "no rounds": (["--rounds", "0"], "0 is not in the range x>=1."),
    "falling": (
        ["--thresholds", "50,40,75"],
        "'--thresholds': 50,40,75 do not rise from above 0.",
    ),
    "none at first": (["--thresholds", "0,40"], "0,40 do not rise from above 0."),
    "too few": (
        ["--rounds", "3", "--thresholds", "50,75"],
        "--thresholds are 2 rounds, but --rounds is 3: leave --rounds out.",
    ),
    "other end": (
        ["--prune", "75", "--thresholds", "50,70%"],
        "--thresholds are 70 percent, but --prune is 75: leave --prune out.",
    ),
    "no threshold": (
        ["--thresholds", "a,75"],
        "'--thresholds': 'a' is not a percentage such as 75.",
    ),
    "model": (["--model", "vgg"], "'vgg' is not one of 'vgg13', 'mobilenet'"),
    "measure": (["--measure", "gras"], "'gras' is not one of 'magnitude'"),
    "data": (["--data", "absent"], "absent does not exist: pass 'subset'"),
    "examples": (
        ["--data", "subset", "--examples", "5001"],
        "5,001 train images of Fashion-MNIST subset (5,000 + 1,000 images) were asked "
        "for: there are 5,000.",
    ),
    "tests": (["--data", "subset", "--tests", "1001"], "there are 1,000."),
    "batch": (
        ["--fast", "--batch-size", "301"],
        "batch_size is 301: Fashion-MNIST subset, 300 + 200 of 5,000 + 1,000 images "
        "allows from 1 to 300.",
    ),
    "too much": (["--fast", "--prune", "97"], "91.6"),
    "out": (["--out", __file__], "is a file."),
    "pattern": (["--fast", "--out", "a[1]"], "a[1] has one of * ? [ in it"),
    "no folder": (["--fast", "--out", f"{__file__}/out"], "cannot be made: Not a dir"),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options_are_one_line(monkeypatch, capsys, case):
    options, message = BAD_OPTIONS[case]
    line = refused(monkeypatch, capsys, "reproduce", *BASE, *options)
    assert message in line
    # Nothing is left that the next run would go on with.
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_missing_data_set_is_a_line_that_says_which_file_to_put_where(
    monkeypatch, capsys, tmp_path, name
):
    archive = name.replace("r1", "r-1") + "-python.tar.gz"
    line = refused(monkeypatch, capsys, "reproduce", *BASE, "--data", name)
    assert f"{name} is not in {tmp_path / 'data'}: put {archive} there" in line
    monkeypatch.setenv("GRADFLOW_JAX_DATA", str(tmp_path / "sets"))
    line = refused(monkeypatch, capsys, "reproduce", *BASE, "--data", name)
    assert f"{name} is not in {tmp_path / 'sets'}: put" in line
    # The paper's is the default.
    line = refused(monkeypatch, capsys, "reproduce", *BASE)
    assert f"cifar10 is not in {tmp_path / 'sets'}" in line


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the screen of a run by the installed command.

    Its path is longer than a line of the screen, and not to be broken.
    """
    out = tmp_path_factory.mktemp("run") / ("long" * 20) / "out"
    return out, installed("reproduce", *SHORT, "--out", out)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run's folder."""
    shutil.copytree(finished[0], tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.runs
def test_a_run_ends_in_a_table(finished):
    out, run = finished
    record = read_record(out / "run.json")
    assert record.complete and len(record.epochs) == 2 and len(record.rounds) == 1
    assert "Data: Fashion-MNIST subset, 300 + 200 of" in run.stdout
    assert "dense       36  100.0" in run.stdout and " 9   25.0" in run.stdout
    times = json.loads((out / "times.json").read_text())["rounds"][0]
    assert f" {times['dense_forward_ms']:.1f}" in run.stdout
    last = f"{100 * record.epochs[-1].test_accuracy:.1f} % of the test images"
    assert f"after 2 epochs: {last}" in run.stdout
    lines = run.stdout.splitlines()
    assert max(len(line) for line in lines if str(out) not in line) <= 80
    assert lines[-1].startswith(f"Written to {out}: ")
    for name in ("run.json", "times.json", "model.safetensors", "checkpoints"):
        assert name in run.stdout
    assert run.stderr == ""


@pytest.mark.runs
def test_the_saved_network_has_the_accuracy_of_the_run(
    monkeypatch, capsys, finished, tmp_path
):
    out, _ = finished
    record = read_record(out / "run.json")
    used = some_of(load("subset"), 300, 200)
    np.savez(
        tmp_path / "used.npz",
        x_train=used.x_train,
        y_train=used.y_train,
        x_test=used.x_test,
        y_test=used.y_test,
    )
    data = tmp_path / "used.npz"
    screen = called(monkeypatch, capsys, "evaluate", out, "--data", data)
    found = dict(line.split(None, 1) for line in screen.splitlines())
    last = record.epochs[-1]
    assert found["accuracy"] == f"{100 * last.test_accuracy:.2f} %"
    assert found["loss"] == f"{last.test_loss:.4f}"
    assert found["tested"] == "on    200 images of used"
    assert found["filters"] == "9 of 36 (25.0 %)"
    size, dense = record.rounds[-1].size, record.dense
    assert found["parameters"] == f"{size.parameters:,} of {dense.parameters:,}"
    assert found["compression"].endswith("bytes)")
    assert max(map(len, screen.splitlines())) <= 80


@pytest.mark.runs
def test_a_run_is_reported(monkeypatch, capsys, finished, tmp_path):
    out, _ = finished
    screen = called(monkeypatch, capsys, "report", out, "--out", tmp_path / "report")
    assert "magnitude" in screen and "report.md" in screen
    assert (tmp_path / "report" / "report.json").exists()


@pytest.mark.runs
def test_the_same_command_once_more_says_so_and_changes_nothing(finished):
    out, first = finished
    before = (out / "run.json").read_bytes(), (out / "model.safetensors").read_bytes()
    found = CliRunner().invoke(reproduce_command.reproduce, [*SHORT, "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert f"The run in {out} had ended: there is nothing to do." in found.output
    assert found.output.splitlines()[2:] == first.stdout.splitlines()[1:]
    after = (out / "run.json").read_bytes(), (out / "model.safetensors").read_bytes()
    assert after == before


@pytest.mark.runs
def test_a_folder_of_another_run_is_refused(monkeypatch, capsys, finished):
    out, _ = finished
    before = (out / "run.json").read_bytes()
    options = [*SHORT, "--out", out, "--seed", "3"]
    line = refused(monkeypatch, capsys, "reproduce", *options)
    assert (
        "a run with seed 0, but now it is 3: choose another --out, or --force" in line
    )
    assert (out / "run.json").read_bytes() == before


@pytest.mark.runs
def test_a_run_goes_on_where_it_was(copied):
    """Of a run that had ended, all but the first epoch is taken away."""
    before = (copied / "run.json").read_bytes()
    shutil.rmtree(copied / "checkpoints" / "2")
    found = CliRunner().invoke(
        reproduce_command.reproduce, [*SHORT, "--out", str(copied)]
    )
    assert found.exit_code == 0, found.output
    assert f"Going on with the run in {copied} after epoch 1." in found.output
    assert (copied / "run.json").read_bytes() == before


@pytest.mark.runs
def test_a_damaged_checkpoint_is_one_line_on_the_screen(copied):
    for file in (copied / "checkpoints" / "2" / "arrays").rglob("d/*"):
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
    run = installed("reproduce", *SHORT, "--out", copied, code=2)
    assert f"the checkpoint {copied / 'checkpoints' / '2'} is damaged: " in run.stderr
    assert len(run.stderr.splitlines()) == 1, run.stderr


@pytest.mark.runs
def test_force_does_not_delete_a_run_that_is_in_use(monkeypatch, capsys, copied):
    before = (copied / "run.json").read_bytes()
    with open(copied / LOCK_NAME, "w") as file:
        fcntl = pytest.importorskip("fcntl", reason="Windows has no such locks")
        fcntl.flock(file, fcntl.LOCK_EX)
        line = refused(
            monkeypatch, capsys, "reproduce", *SHORT, "--out", copied, "--force"
        )
    assert f"{copied} is in use by another run" in line
    assert (copied / "run.json").read_bytes() == before


@pytest.mark.runs
def test_nothing_pruned_trains_without_rounds(tmp_path, tiny_npz):
    options = "--fast --prune 0 --schedule 1@0.1,1@0.01 --examples 120 --tests 60"
    found = CliRunner().invoke(
        reproduce_command.reproduce,
        [*BASE, *options.split(), "--data", str(tiny_npz), "--out", str(tmp_path)],
    )
    assert found.exit_code == 0, (found.output, found.exception)
    record = read_record(tmp_path / "run.json")
    assert record.complete and record.rounds == () and len(record.epochs) == 2
    assert record.best_accuracy == max(row.test_accuracy for row in record.epochs)
    assert "dense" in found.output
    assert (tmp_path / "model.safetensors").exists()


def test_evaluate_without_a_run(monkeypatch, capsys, tmp_path):
    line = refused(monkeypatch, capsys, "evaluate", tmp_path, *SUBSET)
    assert f"{tmp_path / 'run.json'} cannot be read: it is absent." in line
    assert f"says what network {tmp_path} is" in line
    assert "reproduce` wrote" in line
    line = refused(monkeypatch, capsys, "evaluate", tmp_path / "absent", *SUBSET)
    assert "does not exist" in line


@pytest.mark.runs
def test_evaluate_on_images_that_it_was_not_trained_for(
    monkeypatch, capsys, finished, tiny_npz
):
    line = refused(monkeypatch, capsys, "evaluate", finished[0], "--data", tiny_npz)
    assert "was trained on Fashion-MNIST subset, 300 + 200 of" in line
    assert "28×28×1 pixels in 10 classes, and tiny (120 + 60 images) has 7×7×1" in line
    assert "in 3 classes: pass the --data of the run." in line


@pytest.mark.runs
def test_evaluate_before_there_is_a_network(monkeypatch, capsys, copied):
    (copied / "model.safetensors").unlink()
    line = refused(monkeypatch, capsys, "evaluate", copied, *SUBSET)
    assert f"{copied} holds no model.safetensors: the run has not ended" in line


@pytest.mark.runs
def test_evaluate_a_broken_record_or_network(monkeypatch, capsys, copied):
    model = copied / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-9])
    line = refused(monkeypatch, capsys, "evaluate", copied, *SUBSET)
    assert f"{model} is no safetensors file, or a broken one" in line
    record = json.loads((copied / "run.json").read_text())
    del record["settings"]["prune"]
    (copied / "run.json").write_text(json.dumps(record))
    line = refused(monkeypatch, capsys, "evaluate", copied, *SUBSET)
    assert "run.json cannot be read: it is no record of a run: " in line
    assert "settings lacks 'prune'" in line
    (copied / "run.json").write_text("{")
    line = refused(monkeypatch, capsys, "evaluate", copied, *SUBSET)
    assert f"{copied / 'run.json'} cannot be read: it is no JSON" in line


@pytest.mark.parametrize("command", ["reproduce", "evaluate", "report"])
def test_help_has_80_columns(monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "argv", ["gradflow-jax", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "--out" in text or command == "evaluate"
