"""Records and times of odd content are refused in a line, or are whole reports."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gradflow_jax.experiments.commands.evaluate_command import evaluate
from gradflow_jax.experiments.commands.report_command import report
from gradflow_jax.experiments.report import pages
from gradflow_jax.experiments.report.runs import RecordedRun, blocks
from gradflow_jax.experiments.reproduction.record_reading import read_record, to_record
from gradflow_jax.experiments.reproduction.times import read_times
from tests.experiments.data.hostile_files import damage
from tests.experiments.report.made_runs import made_run, write_run
from tests.experiments.reproduction.odd_records import (
    ODD_VALUES,
    changed,
    content,
    places,
)

WHOLE = content()
OTHER = to_record(content(measure="grasp"))


def check_pages(record):
    """Makes all texts of a report of a record and one that differs in the measure."""
    for block in blocks([RecordedRun(record, None), RecordedRun(OTHER, 2.0)]):
        section = pages.section_of(block, {})
        assert pages.to_markdown([section], []) and pages.to_json([section], [])


@pytest.mark.parametrize("kind", range(len(ODD_VALUES) + 1))
def test_a_record_in_which_a_value_is_odd_is_refused_or_reported(kind):
    accepted, value = 0, (*ODD_VALUES, ...)[kind]
    for place in places(WHOLE):
        try:
            record = to_record(changed(WHOLE, place, value))
        except ValueError as error:
            line = str(error)
            assert len(line) < 300 and line.isprintable(), place
            assert "format is" in line or "no record of a run" in line
        else:
            accepted += 1
            check_pages(record)
    assert accepted < 30


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("settings", "rounds"), True, "settings.rounds is True: it is an integer"),
        (("settings", "prune"), float("nan"), "prune is nan: it is finite"),
        (("settings", "model"), "../x", "model is '../x': no name"),
        (("settings", "schedule"), [], "the number of stages in schedule is 0"),
        (("epochs", 0, "epoch"), 2, "epoch is 2: it is finite, at least 1"),
        (("epochs", 0, "train_loss"), "1", "train_loss is '1': it is a number"),
        (("epochs", 0, "test_loss"), 1e300, r"epochs\[0\].test_loss is 1e\+300"),
        (("epochs", 0, "test_accuracy"), 90, r"\[0\].test_accuracy is 90: .* most 1"),
        (("epochs",), [], "it is complete but has 0 epochs of 6"),
        (("rounds",), {}, "rounds is an object of length 0: it is a list"),
        (("dense", "filters"), 0, "dense.filters is 0: it is finite, at least 1"),
        (("dense", "widths"), {"a": 1}, "has other layers than the dense network"),
        (("dense", "widths", "conv1"), "8", "widths.'conv1' is '8': it is an integer"),
        (("correlations", 0, "spearman"), [[1]], "no number for each pair"),
        (("image_shape",), [8, 8], "the length of image_shape is 2"),
        (("versions",), {"jax": 1}, "versions.'jax' is 1: it is a line of text"),
        (("version",), True, "its format is True, this version reads 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_record_is_named(place, value, message):
    with pytest.raises(ValueError, match=message):
        to_record(changed(WHOLE, place, value))


TEXTS = {
    "nothing": "",
    "half": json.dumps(WHOLE)[: len(json.dumps(WHOLE)) // 2],
    "nested": "[" * 200_000,
    "nested objects": '{"a":' * 200_000,
    "many digits": '{"version": ' + "9" * 5000 + "}",
    "no UTF-8": b"\xff\xfe\x00",
    "a list": "[1]",
    "text": '"run"',
    "a number": "NaN",
    "null": "null",
    "no object": '{"version": 1}',
}


@pytest.mark.parametrize("case", list(TEXTS))
@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_commands_refuse_a_record_in_a_line(tmp_path, case, command):
    folder = write_run(tmp_path / "run", made_run()).parent
    raw = TEXTS[case] if isinstance(TEXTS[case], bytes) else TEXTS[case].encode()
    (folder / "run.json").write_bytes(raw)
    line = refused(command, folder, tmp_path / "out")
    assert f"{folder / 'run.json'} cannot be read: " in line
    assert not (tmp_path / "out").exists()


def refused(command, folder, out):
    """Returns the line by which a command refuses a folder of a run."""
    if command == "report":
        called = CliRunner().invoke(report, [str(folder), "--out", str(out)])
    else:
        called = CliRunner().invoke(evaluate, [str(folder), "--data", "subset"])
    assert called.exit_code == 2 and isinstance(called.exception, SystemExit)
    return " ".join(called.stderr.split())


def times_of(value):
    """Returns a file of times with one that JSON may say."""
    row = {"round": 1, "forward_ms": "?", "dense_forward_ms": 1.0, "times_faster": 1.0}
    return json.dumps({"rounds": [row]}).replace('"?"', value)


@pytest.mark.parametrize(
    "text",
    [
        '{"rounds": 1}',
        '{"rounds": {}}',
        '{"rounds": [1]}',
        '{"rounds": [{}]}',
        '{"rounds": null}',
        "[" * 200_000,
        "[]",
        "",
        *map(times_of, ("true", '"1"', "NaN", "1e400", "-1", "9" * 400)),
    ],
    ids=lambda text: text[:30],
)
def test_odd_times_are_refused_in_a_line(tmp_path, text):
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(ValueError, match="times.json cannot be read: ") as caught:
        read_times(tmp_path)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_record_with_flipped_bytes_is_refused_or_reported(tmp_path):
    file = write_run(tmp_path / "run", made_run())
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    refusals = 0
    for _ in range(60):
        file.write_bytes(damage(whole, rng))
        try:
            check_pages(read_record(file))
        except ValueError as error:
            refusals += 1
            assert str(file) in str(error) and str(error).isprintable()
    assert refusals > 30


@pytest.mark.runs
def test_what_is_accepted_is_drawn(tmp_path):
    """Of each accepted record of a sample the whole report is made."""
    rng, made = np.random.default_rng(0), 0
    all_places = list(places(WHOLE))
    while made < 20:
        place = all_places[int(rng.integers(len(all_places)))]
        value = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
        try:
            record = to_record(changed(WHOLE, place, value))
        except ValueError:
            continue
        write_run(tmp_path / str(made), record)
        out = tmp_path / "out" / str(made)
        called = CliRunner().invoke(
            report, [str(tmp_path / str(made)), "--out", str(out)]
        )
        assert called.exit_code == 0, (place, value, called.output)
        made += 1


def test_a_dollar_in_the_name_of_the_data_is_no_formula(tmp_path):
    write_run(tmp_path / "run", made_run(data=r"5$ and \frac$ (2 + 2 images)"))
    out = tmp_path / "out"
    called = CliRunner().invoke(report, [str(tmp_path / "run"), "--out", str(out)])
    assert called.exit_code == 0, called.output


@pytest.mark.runs
def test_a_report_that_is_replaced_deletes_its_own_figures_alone(tmp_path):
    write_run(tmp_path / "run", made_run())
    out = tmp_path / "out"
    out.mkdir()
    names = ["old-training.png", "photo.png", "run.csv", "x-layers.png"]
    for name in names:
        (out / name).write_text("kept?")
    figures = dict(zip(("training", "a", "b", "layers"), names, strict=True))
    figures |= {"correlations": "../run/run.json"}
    (out / "report.json").write_text(json.dumps({"blocks": [{"figures": figures}]}))
    arguments = [str(tmp_path / "run"), "--out", str(out), "--force"]
    assert CliRunner().invoke(report, arguments).exit_code == 0
    assert [(out / name).exists() for name in names] == [False, True, True, False]
    assert (tmp_path / "run" / "run.json").exists()
