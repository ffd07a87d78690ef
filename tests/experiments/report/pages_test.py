"""The report as a user meets it, of runs that never were."""

import io
import json
import re
from dataclasses import replace
from statistics import mean, stdev

import pytest
from click.testing import CliRunner
from rich.console import Console

from gradflow_jax.experiments.commands.report_command import report
from gradflow_jax.experiments.networks.timing import Times
from gradflow_jax.experiments.report.runs import collect
from gradflow_jax.experiments.reproduction.table import table_of_rounds
from tests.experiments.report.made_runs import DATA, MEASURES, made_run, write_run

GRADIENT_NORM = MEASURES[4]


def call(*arguments):
    """Runs the command; returns its exit code, screen and error."""
    environment = {"COLUMNS": "80"}
    found = CliRunner(env=environment).invoke(report, list(map(str, arguments)))
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout, " ".join(found.stderr.split())


RECORDS = [
    made_run(measure, rounds, seed, prune=0.75)
    for seed in (0, 1, 2)
    for rounds in (1, 5)
    for measure in MEASURES
]
DENSE = [made_run("magnitude", 0, seed, prune=0.0) for seed in (0, 1, 2)]


def accuracies(measure, rounds):
    return [
        100 * record.epochs[-1].test_accuracy
        for record in RECORDS
        if (record.settings.measure, record.settings.rounds) == (measure, rounds)
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One report of all runs, its folder and its screen."""
    folder = tmp_path_factory.mktemp("runs")
    for i, record in enumerate(RECORDS):
        write_run(folder / "deep" / str(i), record, 1.5 + 0.1 * record.settings.seed)
    for i, record in enumerate(DENSE):
        write_run(folder / f"dense{i}", record)
    begun = made_run("random", seed=3)
    write_run(folder / "begun", replace(begun, complete=False, epochs=begun.epochs[:4]))
    # A file that is reached in two ways is one run.
    paths = folder, folder / "dense0" / "run.json"
    code, screen, error = call(*paths, "--out", folder / "out")
    assert (code, error) == (0, "")
    return folder / "out", screen


def test_the_screen_is_the_table_of_the_paper_in_80_columns(finished):
    _, screen = finished
    lines = screen.splitlines()
    assert max(len(line) for line in lines if " /" not in line) <= 80
    assert f"vgg13 on {DATA}" in lines
    assert "75 % of filters pruned; width 1; epochs: 8 at 0.1, 4 at 0.01" in lines
    assert any(re.fullmatch("measure +1 round +5 rounds", line) for line in lines)
    for measure in MEASURES:
        cells = []
        for rounds in (1, 5):
            values = accuracies(measure, rounds)
            cells.append(f"{mean(values):.2f}±{stdev(values):.2f}")
        assert any(re.fullmatch(f"{measure} +{' +'.join(cells)}", x) for x in lines)
    dense = [100 * record.epochs[-1].test_accuracy for record in DENSE]
    cell = f"{mean(dense):.2f}±{stdev(dense):.2f}"
    assert any(re.fullmatch(f"dense +{cell} +{cell}", line) for line in lines)
    assert "mean±deviation of the sample over 3 seeds" in lines
    assert "(4 of 12 epochs)" in screen and "Left out, incomplete: " in screen


def test_the_screen_says_what_is_left(finished):
    _, screen = finished
    runs = [r for r in RECORDS if r.settings.measure == "magnitude"][:2]
    assert [run.settings.rounds for run in runs] == [1, 5]
    part = screen.split("What is left after the last round (%)")[1].splitlines()
    assert part[1].split() == "measure rounds filters parameters FLOPs faster".split()
    row = next(line.split() for line in part if line.startswith("magnitude"))
    own = [
        run for run in RECORDS
        if (run.settings.measure, run.settings.rounds) == ("magnitude", 1)
    ]  # fmt: skip
    for cell, name in zip(row[2:], ("filters", "parameters", "flops"), strict=False):
        shares = [
            100 * getattr(run.rounds[-1].size, name) / getattr(run.dense, name)
            for run in own
        ]
        assert cell == f"{mean(shares):.1f}"
    assert row[-1] == "1.60×"


def test_screens_say_what_equal_scores_left_to_positions(tmp_path):
    chance = made_run("fisher", 2, by_position=7)
    for i, record in enumerate([made_run("magnitude", 2), chance]):
        write_run(tmp_path / str(i), record)
    code, screen, error = call(tmp_path, "--out", tmp_path / "out")
    assert (code, error) == (0, "")
    note = "fisher: up to 7 filters kept by position among equal scores in a round"
    assert screen.count("by position") == 1 and note in screen
    assert note in (tmp_path / "out" / "report.md").read_text()
    table = Console(width=80, record=True, file=io.StringIO())
    table.print(table_of_rounds(chance, [Times(1.0, 2.0, 2.0)] * 2))
    note = "kept by position among equal scores: 7 in round 1, 7 in round 2"
    assert note in table.export_text()


def test_the_page_has_the_same_numbers_settings_figures_and_orderings(finished):
    out, screen = finished
    page = (out / "report.md").read_text()
    for cell in re.findall(r"\d+\.\d\d±\d\.\d\d", screen):
        assert cell in page
    for name in re.findall(r"!\[[^]]+\]\((.*?)\)", page):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in out.iterdir()) == [
        "report.json",
        "report.md",
        "vgg13-cifar-10-75-layers.png",
        "vgg13-cifar-10-75-training.png",
    ]
    for line in ("seed: 0; 1; 2", "rounds: 1; 5", "batch_size: 128", "jax: 0.10.2"):
        assert f"\n- {line}\n" in page
    assert "- schedule: 8 at 0.1, 4 at 0.01\n" in page
    assert "vgg13, random, 1 round, seed 3 on CIFAR-10" in page
    assert "4 of 12 epochs" in page and str(out.parent) not in page
    assert "\n\n\n" not in page and "## Orderings" in page
    assert "| (a) 1 round: gradient_norm_preservation − grasp | 3 |" in page


def test_the_numbers_behind_are_of_every_seed(finished):
    out, _ = finished
    (block,) = json.loads((out / "report.json").read_text())["blocks"]
    found = {(own["measure"], own["rounds"]): own for own in block["results"]}
    assert len(found) == 1 + 2 * len(MEASURES)
    own = found["grasp", 5]
    assert own["seeds"] == [0, 1, 2]
    values = accuracies("grasp", 5)
    assert [100 * x for x in own["accuracy"]["of_seeds"]] == pytest.approx(values)
    assert 100 * own["accuracy"]["mean"] == pytest.approx(mean(values))
    assert own["times_faster"]["of_seeds"] == [1.5, 1.6, 1.7]
    assert set(own["pruned_of_layers"]) == {"conv1", "conv2", "conv3"}
    assert found["dense", 0]["times_faster"]["mean"] is None
    assert len(block["orderings"]) == 2 + 2 + 2 + 5
    assert block["orderings"][0]["claim"]["letter"] == "a"


def disagreeing(folder):
    """Writes runs of which two orderings are against the paper."""
    for seed in range(3):
        for measure, gain in (("grasp", 0.1), (GRADIENT_NORM, 0.0)):
            accuracy = 0.8 + gain + 0.001 * seed * (1 + gain)
            run = made_run(measure, 1, seed, accuracy=accuracy)
            write_run(folder / f"{measure}{seed}", run)


def test_a_report_says_where_runs_disagree_with_the_paper(tmp_path):
    disagreeing(tmp_path / "runs")
    _, screen, _ = call(tmp_path / "runs", "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    said = "(a) gradient_norm_preservation beats grasp in test accuracy: not with 1"
    for text in (" ".join(screen.split()), page):
        assert (
            "contradicted: 1" in text and "These runs disagree with the paper" in text
        )
        assert f"- {said} round, −10.01 points (−10.03 to −9.99)" in text
    # And where none does.
    runs = [made_run(m, 1, s) for m in ("random", "magnitude") for s in (0, 1)]
    for i, run in enumerate(runs):
        write_run(tmp_path / "others" / str(i), run)
    _, screen, _ = call(tmp_path / "others", "--out", tmp_path / "other")
    assert "No two runs differ in what the paper's orderings are about." in screen


def test_a_report_is_replaced_only_by_force_and_is_the_same_again(tmp_path):
    disagreeing(tmp_path / "runs")
    out = tmp_path / "out"
    assert call(tmp_path / "runs", "--out", out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, screen, error = call(tmp_path / "runs", "--out", out)
    assert code == 2 and screen == ""
    assert "report.md exists already; choose another --out, or --force" in error
    found = call(tmp_path / "runs", "--out", out, "--force", "--quiet")
    assert found == (0, "", "")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Of the report before, no figure stays that is not drawn anew.
    (out / "mine.png").touch()
    write_run(tmp_path / "other", made_run(model="mobilenet"))
    assert call(tmp_path / "other", "--out", out, "--force", "--quiet") == found
    names = {path.name for path in out.iterdir()}
    assert names.isdisjoint(name for name in before if name.endswith(".png"))
    assert {"mine.png", "report.md", "report.json"} < names


def test_two_records_of_one_run_are_refused(tmp_path):
    write_run(tmp_path / "a", made_run(seed=1))
    write_run(tmp_path / "b", made_run(seed=1, correlated=MEASURES))
    code, _, error = call(tmp_path, "--out", tmp_path / "out")
    assert code == 2 and not (tmp_path / "out").exists()
    assert (
        f"{tmp_path}/a/run.json and {tmp_path}/b/run.json are one run, vgg13, "
        f"magnitude, 1 round, seed 1 on {DATA}: leave one of them out." in error
    )
    # Of dense ones the measure means nothing.
    for name in "cd":
        write_run(tmp_path / "dense" / name, made_run({"c": "a", "d": "b"}[name], 0))
    with pytest.raises(ValueError, match="vgg13, dense, seed 0"):
        collect([tmp_path / "dense"])


BAD_FILES = {
    "text": ("run.json", "{", "run.json cannot be read: it is no JSON"),
    "fields": ("run.json", '{"version": 2, "epochs": []}', "no record of a run"),
    "version": ("run.json", '{"version": 99}', "its format is 99"),
    "bytes": (
        "run.json",
        b"\xff\xff",
        "run.json cannot be read: it is no JSON ('utf-8'",
    ),
    "times": ("times.json", '{"rounds": [{}]}', "cannot be read: rounds[0] lacks"),
    "times text": ("times.json", "1", "read: rounds is None: it is a list"),
}


@pytest.mark.parametrize("case", list(BAD_FILES))
def test_what_cannot_be_read_is_named(tmp_path, case):
    name, content, message = BAD_FILES[case]
    write_run(tmp_path / "run", made_run())
    path = tmp_path / "run" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, screen, error = call(tmp_path, "--out", tmp_path / "out")
    assert code == 2 and screen == "" and not (tmp_path / "out").exists()
    assert message in error and str(path) in error


def test_where_there_is_nothing_to_report(tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, error = call(tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2 and "empty holds no run.json, at any depth." in error
    write_run(tmp_path / "begun", replace(made_run(), complete=False))
    code, _, error = call(tmp_path / "begun", "--out", tmp_path / "out")
    assert code == 2 and "none of the runs is complete: " in error
    write_run(tmp_path / "void", replace(made_run(), epochs=()))
    code, _, error = call(tmp_path / "void", "--out", tmp_path / "out")
    assert code == 2 and "it is complete but has 0 epochs of 12" in error
    write_run(tmp_path / "whole", made_run())
    (tmp_path / "file").touch()
    code, _, error = call(tmp_path / "whole", "--out", tmp_path / "file" / "out")
    assert code == 2 and "cannot be made: Not a directory" in error
    (tmp_path / "folder" / "run.json").mkdir(parents=True)
    code, _, error = call(tmp_path / "folder", "--out", tmp_path / "out")
    assert code == 2 and "run.json is a folder: data are in regular files." in error
    assert call(tmp_path / "absent")[0] == call()[0] == 2


def test_a_run_that_diverged_is_shown_and_is_null_in_json(tmp_path):
    bad = made_run("grasp", 1, 0, accuracy=float("nan"))
    write_run(tmp_path / "a", bad)
    write_run(tmp_path / "b", made_run(GRADIENT_NORM, 1, 0))
    code, screen, _ = call(tmp_path, "--out", tmp_path / "out")
    assert code == 0 and re.search("grasp +nan", screen)
    assert "no verdict, a run diverged: 1" in screen
    text = (tmp_path / "out" / "report.json").read_text()
    assert "NaN" not in text and '"mean": null' in text


def test_many_rounds_are_several_tables_on_the_screen(tmp_path):
    for rounds in range(1, 8):
        for seed in (0, 1):
            write_run(
                tmp_path / f"{rounds}{seed}", made_run(GRADIENT_NORM, rounds, seed)
            )
    _, screen, _ = call(tmp_path, "--out", tmp_path / "out")
    lines = screen.splitlines()
    assert max(len(line) for line in lines if " /" not in line) <= 80
    heads = [line.split() for line in lines if re.match("measure .*round", line)]
    assert "7 rounds" in screen and len(heads) == 2 * 2 + 1
