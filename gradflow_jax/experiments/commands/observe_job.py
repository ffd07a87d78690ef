"""What `gradflow-jax observe` does: the five observations, shown and written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import rich.box
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.commands.bars import Bars
from gradflow_jax.experiments.commands.options import check_free, make_folder
from gradflow_jax.experiments.data.dataset import DataError, Dataset, load, some_of
from gradflow_jax.experiments.data.pixels import normalized
from gradflow_jax.experiments.environment import versions
from gradflow_jax.experiments.names import SMALL_CNN
from gradflow_jax.models import MODELS, SmallCNN
from gradflow_jax.observations import Observations, Problem, Study, observe, problem_of
from gradflow_jax.observations.findings import CONFIDENCE
from gradflow_jax.plotting import observations as drawing

JSON_NAME, PLOT_NAME = "observations.json", "observations.png"


def run(
    model: str,
    data: str,
    out: Path,
    *,
    examples: int,
    seeds: range,
    force: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Evaluates the five observations and writes them to a folder.

    Args:
        model: a name among `MODELS`, for its small stand-in, or that of the small CNN.
        data: the name or the path of images.
        out: the folder.
        examples: images at most, equally many of each class.
        seeds: one network each.
        force: whether files in the folder are replaced.
        quiet: whether nothing is printed.
        options: steps, finetune_steps and sparsity of the study.

    Raises:
        click.UsageError: if the data cannot be read, or the folder cannot be made or
            holds observations that `force` does not replace.
    """
    check_free((out / name for name in (JSON_NAME, PLOT_NAME)), force)
    dataset = _dataset(data, examples)
    make_folder(out)
    study = Study(
        _problem(model, dataset),
        steps=options["steps"],
        finetuning=options["finetune_steps"],
        sparsity=options["sparsity"],
    )
    console = Console(quiet=quiet)
    console.print(f"Data: {dataset}", highlight=False, markup=False, soft_wrap=True)
    parts = len(seeds) + len(Observations._fields)
    with Bars(parts, console, of="parts") as bars:

        def progress(done: int, of: int) -> None:
            bars.stage("training" if done < len(seeds) else "observing", 0)
            bars.row(done)
            bars.step()

        found = observe(study, seeds=seeds, progress=progress)
    console.print(_table(found))
    about = {"model": model, "data": str(dataset)}
    about |= {"seeds": len(seeds), "seed": seeds.start}
    _write(out, found, {**about, **options, "versions": versions()})
    console.print(
        f"Written to {out}: {JSON_NAME}, {PLOT_NAME}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _dataset(source: str, examples: int) -> Dataset:
    try:
        whole = load(source)
        return some_of(whole, min(examples, len(whole.y_train)))
    except DataError as error:
        raise click.UsageError(str(error)) from error


def _problem(model: str, dataset: Dataset) -> Problem:
    shape, classes = dataset.x_train.shape[1:], dataset.classes

    def make(rngs: Any) -> Any:
        # Batch norm is in training mode: it takes the statistics of the batch.
        if model == SMALL_CNN:
            return SmallCNN(shape, classes, rngs=rngs)
        return MODELS[model](shape, classes, fast=True, rngs=rngs)

    return problem_of(make, normalized(dataset.x_train), dataset.y_train)


def _table(found: Observations) -> Table:
    table = Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 1, 0),
        pad_edge=False,
        caption="mean over the seeds and its interval at "
        f"{100 * CONFIDENCE:g} %; positive is as claimed",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    table.add_column("claim of the paper", ratio=1)
    table.add_column("verdict", max_width=15)
    table.add_column("mean", justify="right", no_wrap=True)
    before = 0
    for number, one in found.findings:
        between = "one seed"
        if one.interval is not None:
            between = "{:+.2g} to {:+.2g}".format(*one.interval)
        name = str(number) if number != before else ""
        table.add_row(
            name, one.claim, one.verdict, f"{one.mean:+.2g} {one.unit}\n{between}"
        )
        before = number
    return table


def _write(out: Path, found: Observations, about: dict[str, Any]) -> None:
    content = {"settings": about, **{n: _plain(o) for n, o in found._asdict().items()}}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_whole(out / JSON_NAME, lambda path: path.write_text(text, encoding="utf-8"))
    figure = _figure(
        found, f"{about['model']} on {about['data']}, {about['seeds']} seeds"
    )
    write_whole(out / PLOT_NAME, lambda path: figure.savefig(path, dpi=110))


def _plain(observation: Any) -> dict[str, Any]:
    """Returns an observation as JSON holds it."""
    fields = {
        field.name: getattr(observation, field.name)
        for field in dataclasses.fields(observation)
    }
    return {
        name: value.tolist()
        if isinstance(value, np.ndarray)
        else [one._asdict() for one in value]
        if name == "findings"
        else value
        for name, value in fields.items()
    }


def _figure(found: Observations, title: str) -> Figure:
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    drawing.convergence(axes[0], found.first)
    drawing.rank_correlations(axes[1], found.second, found.third)
    drawing.change_by_rounds(axes[2], found.third)
    drawing.shares_by_depth(axes[3], found.fourth)
    drawing.recovery(axes[4], found.fifth)
    numbers = "1", "2 and 3", "3", "4", "5"
    for ax, number in zip(axes, numbers, strict=False):
        ax.set_title(f"observation {number}", fontsize=10)
        ax.legend(fontsize=8)
    axes[5].set_axis_off()
    figure.suptitle(title)
    return figure
