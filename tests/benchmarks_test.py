"""The command of the benchmarks runs, and what is made of its figures is right."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"


def load_module(name):
    """Returns a module of the benchmarks, which are no part of the test run."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows():
    yield load_module("rows")
    del sys.modules["rows"]


@pytest.fixture(scope="module")
def history(rows):
    yield load_module("history")
    del sys.modules["history"]


def run(*options):
    return subprocess.run(
        [sys.executable, str(FOLDER / "run.py"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.runs
def test_the_command_prints_a_table():
    done = run("--quick", "-k", "step_benchmark and recompilations")
    assert done.returncode == 0, done.stdout
    for name in ("adamw", "sgd with momentum"):
        row = f"| recompilations at new masks: {name} | 0 | ≤ 0 | yes |"
        assert done.stdout.count(row) == 2, done.stdout  # When made, and at the end.


@pytest.mark.runs
def test_the_script_for_devices_runs_here_in_small(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "on_device.py"), "--small", "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (file,) = tmp_path.glob("*.json")
    made = json.loads(file.read_text())
    assert made["environment"]["device"] in file.name
    works = [row["work"] for row in made["rows"]]
    for start in (
        "largest error of grasp, highest precision",
        "ḡ and Hḡ over ḡ: transformer",
        "sort over ours",
        "masked step over plain",
        "cut over built so small, training",
        "units of",
    ):
        assert any(work.startswith(start) for work in works), (start, works)
    absent = [row for row in made["rows"] if row["value"] is None]
    assert all(row["note"] == "torch is not here" for row in absent), absent


@pytest.mark.runs
def test_small_sizes_are_not_compared():
    done = run("--quick", "--compare")
    assert done.returncode == 2 and "drop --quick or --compare" in done.stdout


def test_worse_is_told_by_ratios_alone(rows):
    def made(work, value, better="lower", **more):
        return rows.Row(work, value, (value * 0.9, value * 1.1), better=better, **more)

    old = [made("a", 2.0, milliseconds={"ours": 5.0}), made("b", 10.0, "higher")]
    old += [made("c", 1.0), made("reported", 1.0, ""), rows.Row("gone", None)]
    new = [made("a", 2.0, milliseconds={"ours": 500.0}), made("b", 7.0, "higher")]
    new += [made("c", 1.3), made("reported", 9.0, ""), made("new", 99.0)]
    found = rows.regressions(old, new)
    assert [line.split(":")[0] for line in found] == ["b", "c"]
    assert "was 1.00×" in found[1]


@pytest.mark.parametrize(
    ("better", "value", "met"),
    [("lower", 2.0, True), ("lower", 2.1, False), ("higher", 2.1, True)]
    + [("higher", 1.9, False), ("lower", None, None)],
)
def test_targets(rows, better, value, met):
    assert rows.Row("a", value, better=better, target=2.0).met is met
    assert rows.Row("a", value, better=better).met is None


def test_rows_are_kept_merged_and_printed(rows, tmp_path):
    first = [rows.Row("a | b", 1.5, (1.25, 2), target=1.0, better="lower")]
    first.append(rows.Row("count", 3, unit="bytes", memory={"ours": {"held": 2**20}}))
    path = tmp_path / "new" / "cpu.json"
    rows.save(path, {"device": "cpu"}, first)
    where, loaded = rows.load(path)
    assert where == {"device": "cpu"} and [row.work for row in loaded] == [
        "a | b",
        "count",
    ]
    text = path.with_suffix(".md").read_text()
    assert "| a ∣ b | 1.50× (1.25–2.00) | ≤ 1× | **missed** |" in text
    assert "| count | 3.00 bytes | reported | – |  | ours: held 1.0 MiB |" in text
    merged = rows.merged(loaded, [rows.Row("count", 4), rows.Row("more", 5)])
    assert [(row.work, row.value) for row in merged] == [
        ("a | b", 1.5),
        ("count", 4),
        ("more", 5),
    ]


def test_results_are_kept_of_every_target_and_device(rows):
    """What the README quotes: measured on the CPU, with versions and spread."""
    where, kept = rows.load(FOLDER / "results" / "cpu.json")
    assert where["device"] == "cpu" and {"jax", "jaxlib", "torch"} < where.keys()
    assert all(row.quartiles for row in kept if row.unit == "×" and row.value)
    assert sum(row.target is not None for row in kept) > 20
    missed = [row for row in kept if row.met is False]
    assert all(row.note for row in missed), "a miss is explained"


def test_the_history_has_one_line_a_commit_and_device(rows, history, tmp_path):
    path = tmp_path / "history.jsonl"
    where = {"device": "cpu", "jax": "0.10.2"}
    kept = [rows.Row("a", 1.23456), rows.Row("bytes", 7, unit="B"), rows.Row("b", None)]
    first = history.line_of(history.Commit("Faster", "2026-11-25"), where, kept)
    assert first["ratios"] == {"a": 1.235} and first["jax"] == "0.10.2"
    history.append(path, first)
    again = history.line_of(history.Commit("Faster", "2026-11-25"), where, kept[:0])
    history.append(path, again)
    history.append(path, first | {"device": "gpu"})
    history.append(path, first | {"commit": "Faster still"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["commit"], line["device"]) for line in lines] == [
        ("Faster", "cpu"),
        ("Faster", "gpu"),
        ("Faster still", "cpu"),
    ]
    assert lines[0]["ratios"] == {}


def test_the_history_ends_with_the_table_that_is_kept(rows, history):
    path = FOLDER / "results" / "history.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    where, kept = rows.load(path.with_name(f"{rows.file_stem(last['device'])}.json"))
    commit = history.Commit(last["commit"], last["date"])
    assert last == history.line_of(commit, where, kept)


def test_a_commit_is_known_inside_of_a_checkout_alone(history, tmp_path):
    assert history.last_commit(tmp_path) is None
