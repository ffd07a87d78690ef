"""Which runs share a table and a figure, and what these say they are of."""

import re
from statistics import mean

import pytest
from matplotlib.container import ErrorbarContainer

from gradflow_jax.experiments.report.drawing import figures
from gradflow_jax.experiments.report.runs import RecordedRun, blocks
from gradflow_jax.experiments.report.tables import grids, title
from tests.experiments.report.made_runs import MEASURES, made_run


def of(*records):
    return [RecordedRun(record, None) for record in records]


def test_cells_say_how_many_seeds_where_they_differ():
    runs = of(made_run("grasp", 1, 0), made_run("grasp", 1, 1), made_run("random", 5))
    (block,) = blocks(runs)
    grid, *_ = grids(block)
    assert grid.header == ["measure", "1 round", "5 rounds"]
    grasp, random = sorted(grid.rows)
    assert re.fullmatch(r"\d\d\.\d\d±\d\.\d\d \(2\)", grasp[1]) and grasp[2] == "–"
    assert random[1] == "–" and re.fullmatch(r"\d\d\.\d\d \(1\)", random[2])
    assert grid.notes == ["mean±deviation of the sample (number of seeds)"]


def test_all_settings_but_measure_rounds_and_seed_make_a_block_and_name_it():
    base = made_run("grasp", 5, 3)
    others = [
        made_run(prune=0.9),
        made_run(data="Digits (9 + 9 images)"),
        made_run(width=0.5),
        made_run(schedule=((3, 0.1),)),
        made_run(tracked=True),
        made_run(published_rules=True),
        made_run(thresholds=(0.1, 0.2)),
    ]
    found = blocks(of(made_run(), base, *others))
    assert len(found) == 1 + len(others)
    titles = {"; ".join(title(block)) for block in found}
    assert len(titles) == len(found)
    assert any("tracked yes" in one for one in titles)
    assert any("thresholds 0.1, 0.2" in one for one in titles)


def test_a_dense_run_stands_in_each_block_that_was_trained_alike():
    dense = made_run("random", 0, prune=0.0)
    apart = made_run("random", 0, prune=0.0, batch_size=64)
    found = blocks(of(made_run(prune=0.5), made_run(prune=0.9), dense, apart))
    assert [[run.record for run in one.dense] for one in found if one.runs] == [
        [dense], [dense],
    ]  # fmt: skip
    (alone,) = (one for one in found if not one.runs)
    assert [run.record for run in alone.dense] == [apart]
    assert "batch_size 64" in title(alone)[1]
    assert grids(alone)[0].header == ["measure", "unpruned"]


def test_figures_have_a_panel_for_each_number_of_rounds_and_one_legend():
    layers = {f"blocks/{i}/conv1/conv/kernel[3]": 16 for i in range(30)}
    runs = [
        made_run(m, r, s, layers=layers, correlated=MEASURES)
        for m in ("grasp", "magnitude")
        for r in (1, 5)
        for s in (0, 1)
    ]
    (block,) = blocks(of(*runs, made_run("", 0, prune=0.0, layers=layers)))
    found = figures(block, MEASURES)
    assert list(found) == ["training", "layers", "correlations"]
    training, shares, ranks = found.values()
    assert [ax.get_title() for ax in training.axes] == ["1 round", "5 rounds", "", ""]
    labels = [text.get_text() for text in training.legends[0].get_texts()]
    assert labels == ["magnitude", "grasp", "dense"]
    colors = {
        line.get_color()
        for ax in training.axes
        for line in ax.get_lines()
        if line.get_label() == "grasp"
    }
    assert len(colors) == 1
    # A panel for each kind of network, against loss preservation.
    assert len([ax for ax in ranks.axes if ax.axison]) == 4
    assert ranks.axes[0].get_ylabel().endswith("loss_preservation")
    shares.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in shares.axes[0].get_yticklabels()]
    assert len(boxes) == 30 and min(box.x0 for box in boxes) >= 0
    ends = sorted((box.y0, box.y1) for box in boxes)
    assert all(a[1] <= b[0] for a, b in zip(ends, ends[1:], strict=False))
    (bars,) = (
        one
        for one in shares.axes[0].containers
        if isinstance(one, ErrorbarContainer) and one.get_label() == "grasp"
    )
    own = [r for r in runs if (r.settings.measure, r.settings.rounds) == ("grasp", 1)]
    first = [1 - r.rounds[-1].size.widths["blocks/0/conv1/conv/kernel[3]"] / 16
             for r in own]  # fmt: skip
    assert bars.lines[0].get_xdata()[0] == pytest.approx(mean(first))
    assert ", 2 seeds\nbands" in ranks.get_suptitle()
    # Of one kind of network, a panel for each reference.
    (block,) = blocks(of(runs[0], made_run("grasp", 5, 1, layers=layers)))
    ranks = figures(block, MEASURES)["correlations"]
    # One of the two was compared.
    assert ranks.get_suptitle().endswith(", 1 seed")
    assert len([ax for ax in ranks.axes if ax.axison]) == len(MEASURES)
