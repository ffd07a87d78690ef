"""Draws the README's picture of results that are kept: `python draw_pruned.py`.

The accuracies are those of `gradflow-jax prune`, the times those of the benchmarks.
"""

import csv
import json
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradflow_jax.plotting import Curve, accuracy_against_sparsity, look

HERE = Path(__file__).parent
SWEEP = HERE / "fashion-mnist-cpu" / "prune.csv"
BENCHMARKS = HERE.parents[1] / "tests" / "benchmarks" / "results" / "cpu.json"
TIMED = "masked over cut: {}, half of the channels gone, forward at batch 16"


def draw_accuracies(ax: Axes) -> None:
    """Draws accuracy after fine-tuning against sparsity, of each measure."""
    accuracies: dict[str, dict[float, list[float]]] = {}
    for row in csv.DictReader(SWEEP.open()):
        by_sparsity = accuracies.setdefault(row["measure"].replace("_", " "), {})
        by_seed = by_sparsity.setdefault(float(row["sparsity"]), [])
        by_seed.append(float(row["accuracy"]))
    (dense,) = accuracies.pop("dense").values()
    curves = {
        measure: Curve(
            [*by_sparsity],
            [mean(by_seed) for by_seed in by_sparsity.values()],
            [stdev(by_seed) for by_seed in by_sparsity.values()],
        )
        for measure, by_sparsity in accuracies.items()
    }
    accuracy_against_sparsity(ax, curves, dense=mean(dense))
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    ax.set_title("A small CNN on Fashion-MNIST, masked", fontsize=10)


def draw_times(ax: Axes) -> None:
    """Draws how long networks take with half of their channels masked and cut."""
    rows = {row["work"]: row for row in json.loads(BENCHMARKS.read_text())["rows"]}
    networks = "VGG-13", "ResNet-56"
    for i, kind in enumerate(("masked", "cut")):
        times = [rows[TIMED.format(name)]["milliseconds"][kind] for name in networks]
        places = [place + 0.38 * (i - 0.5) for place in range(len(networks))]
        bars = ax.bar(places, times, width=0.36, color=look(i)["color"], label=kind)
        ax.bar_label(bars, fmt="%.0f", fontsize=8)
    ax.set_xticks(range(len(networks)), networks)
    ax.set_ylabel("time of a forward pass / ms")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    ax.set_title("Half of the channels gone", fontsize=10)


def main() -> None:
    """Writes the picture beside the data."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    draw_accuracies(left)
    draw_times(right)
    figure.savefig(SWEEP.with_name("pruned.png"), dpi=110)


if __name__ == "__main__":
    main()
