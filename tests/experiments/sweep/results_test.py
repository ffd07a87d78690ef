import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
from rich.console import Console

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.formatting import compact_count
from gradflow_jax.experiments.sweep import picture
from gradflow_jax.experiments.sweep.picture import write_accuracy_plot
from gradflow_jax.experiments.sweep.results import names_of_rows, write_results
from gradflow_jax.experiments.sweep.settings import Settings, StructuredSettings
from gradflow_jax.experiments.sweep.table import accuracy_table, cut_table
from gradflow_jax.experiments.sweep.units import StructuredRow
from gradflow_jax.experiments.sweep.weights import Row

IMAGES, LABELS = np.zeros((2, 4, 4, 1), np.uint8), np.arange(2)
DATA = Dataset("Fashion-MNIST subset", IMAGES, LABELS, IMAGES, LABELS, 2)
CUT = StructuredRow(
    seed=0,
    measure="dense",
    sparsity=0.0,
    widths={"conv1": 16, "conv2": 32, "dense": 64},
    parameters=1_105_978,
    flops=355_008,
    pruned_accuracy=0.9,
    pruned_loss=0.3,
    accuracy=0.95,
    loss=0.2,
    kept={"conv1": [0, 3], "conv2": [1], "dense": [2]},
    forward_ms=123.456,
    dense_forward_ms=200.0,
    times_faster=1.62,
)
MASKED = Row(
    seed=0,
    measure="dense",
    sparsity=0.0,
    kept=10,
    prunable=10,
    total_sparsity=0.0,
    pruned_accuracy=0.9,
    pruned_loss=0.3,
    accuracy=0.95,
    loss=0.2,
    layers={"conv1/kernel": 10},
)


def test_times_stand_apart_and_go_with_the_run_they_are_of(tmp_path):
    settings = StructuredSettings(budget="flops")
    names = write_results(tmp_path, settings, DATA, [CUT], True)
    assert names == ["results.json", "results.csv", "times.csv"]
    slower = replace(CUT, forward_ms=1e6)
    assert slower == CUT
    before = (tmp_path / "results.json").read_bytes()
    write_results(tmp_path, settings, DATA, [slower], True)
    assert (tmp_path / "results.json").read_bytes() == before
    with (tmp_path / "results.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["widths"] == "conv1=16 conv2=32 dense=64"
    assert line["kept"] == "conv1=0,3 conv2=1 dense=2" and line["budget"] == "flops"
    with (tmp_path / "times.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["forward_ms"] == "1000000.0" and line["times_faster"] == "1.62"
    assert "accuracy" not in line and "jax" in line
    # A run that times nothing leaves no times of another beside its numbers.
    names = write_results(tmp_path, Settings(), DATA, [MASKED], True)
    assert names == ["results.json", "results.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[::-1])
    with (tmp_path / "results.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["layers"] == "conv1/kernel=10" and line["scope"] == "global"


def test_the_table_of_cut_networks_fits_80_columns():
    names = ("gradient_norm_preservation", "random")
    settings = StructuredSettings(names, (0.5, 0.975), (0, 1), budget="parameters")
    rows = [
        replace(CUT, seed=seed, measure=measure, sparsity=sparsity, accuracy=accuracy)
        for seed, accuracy in ((0, 0.8), (1, 0.9))
        for measure, sparsities in (
            ("dense", (0.0,)),
            *((n, (0.5, 0.975)) for n in names),
        )
        for sparsity in sparsities
    ]
    console = Console(width=80, file=io.StringIO())
    with console.capture() as screen:
        console.print(cut_table(settings, DATA, rows))
    text = screen.get()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for line in lines[4:5] + lines[7:9]:
        # Of accuracies the means and the deviations over both seeds.
        expected = ["16·32·64", "1,105,978", "355 k", "123.46", "1.6×"]
        expected += ["90.0±0.0", "85.0±7.1"]
        assert re.split(" {2,}", line.strip())[1:] == expected
    assert "of all parameters" in text and "over 2 seeds" in text


def test_counts_are_said_in_three_digits():
    assert compact_count(599) == "599"
    assert compact_count(13_662) == "13.7 k"
    assert compact_count(999_700) == "1 M"
    assert compact_count(1_234_567) == "1.23 M"
    assert compact_count(5e12) == "5 T"


# Taylor chooses as loss preservation does; the scale of batch norm empties two layers.
MEASURES = ("loss_preservation", "taylor", "batch_norm_scale")
SWEPT = [
    MASKED,
    replace(MASKED, measure="loss_preservation", sparsity=0.9),
    replace(MASKED, measure="taylor", sparsity=0.9),
    replace(
        MASKED,
        measure="batch_norm_scale",
        sparsity=0.9,
        accuracy=0.1,
        layers={"conv1/kernel": 0, "conv2/kernel": 0},
        collapsed=["conv1/kernel", "conv2/kernel"],
        by_position=784,
    ),
]
SWEEP = Settings(MEASURES, (0.9,), (0,))


def printed(table):
    console = Console(width=80, file=io.StringIO())
    with console.capture() as screen:
        console.print(table)
    return screen.get()


def test_a_collapsed_layer_and_what_positions_kept_are_in_the_table():
    text = printed(accuracy_table(SWEEP, DATA, SWEPT))
    assert re.search(r"batch_norm_scale +10\.0 ∅", text)
    assert "∅ batch_norm_scale: nothing is left of conv1/kernel, conv2/kernel" in text
    assert "up to 784 kept by position among equal scores" in text
    assert text.count("∅") == 2 and max(map(len, text.splitlines())) <= 80


def test_measures_of_equal_results_share_a_row():
    text = printed(accuracy_table(SWEEP, DATA, SWEPT))
    assert re.search(r"loss_preservation = taylor +95\.0\n", text)
    # One other number, and they are two measures.
    other = [*SWEPT[:2], replace(SWEPT[2], loss=0.21), SWEPT[3]]
    assert list(names_of_rows(MEASURES, other)) == list(MEASURES)
    # Of a sweep that was stopped nothing is known of the later ones.
    assert list(names_of_rows(MEASURES, SWEPT[:2])) == list(MEASURES)


def test_the_numbers_on_disk_name_the_layers(tmp_path):
    write_results(tmp_path, SWEEP, DATA, SWEPT, True)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["collapsed"] for row in rows[:3]] == [[], [], []]
    assert rows[3]["collapsed"] == ["conv1/kernel", "conv2/kernel"]
    assert rows[3]["by_position"] == 784
    with (tmp_path / "results.csv").open() as file:
        *_, line = csv.DictReader(file)
    assert line["collapsed"] == "conv1/kernel,conv2/kernel"


def test_the_picture_marks_them(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        picture, "write_whole", lambda path, write: figures.append(write.__closure__)
    )
    write_accuracy_plot(SWEEP, DATA, SWEPT, tmp_path / "accuracy.png")
    (closure,) = figures
    (figure,) = (cell.cell_contents for cell in closure)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "loss_preservation =\ntaylor" in texts and "∅ a layer is empty" in texts
    assert "kept by position" in figure.get_supxlabel()
    for ax, expected in zip(figure.axes, (0.9, 0.1), strict=True):
        (marked,) = (
            line for line in ax.lines if line.get_label() == "∅ a layer is empty"
        )
        assert marked.get_ydata().tolist() == [expected]
