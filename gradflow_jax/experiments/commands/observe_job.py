"""What `gradflow-jax observe` does: the five observations, shown and written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gradflow_jax.atomic_files import write_whole
from gradflow_jax.experiments.commands.bars import Bars
from gradflow_jax.experiments.commands.options import check_free, make_folder
from gradflow_jax.experiments.data.dataset import DataError, Dataset, load, some_of
from gradflow_jax.experiments.data.pixels import normalize_pixels
from gradflow_jax.experiments.environment import versions
from gradflow_jax.experiments.formatting import plain_table
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

        observations = observe(study, seeds=seeds, progress=progress)
    console.print(_table_of_findings(observations))
    about = {"model": model, "data": str(dataset)}
    about |= {"seeds": len(seeds), "seed": seeds.start}
    _write(out, observations, {**about, **options, "versions": versions()})
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
        # Batch norm stays in training mode, in which it takes the batch's statistics.
        if model == SMALL_CNN:
            return SmallCNN(shape, classes, rngs=rngs)
        return MODELS[model](shape, classes, fast=True, rngs=rngs)

    return problem_of(make, normalize_pixels(dataset.x_train), dataset.y_train)


def _table_of_findings(observations: Observations) -> Table:
    table = plain_table(
        padding=(0, 1, 1, 0),
        caption="mean over the seeds and its interval at "
        f"{100 * CONFIDENCE:g} %; positive is as claimed",
    )
    table.add_column("", no_wrap=True)
    table.add_column("claim of the paper", ratio=1)
    table.add_column("verdict", max_width=15)
    table.add_column("mean", justify="right", no_wrap=True)
    number_above = 0
    for number, finding in observations.findings:
        interval = "one seed"
        if finding.interval is not None:
            interval = "{:+.2g} to {:+.2g}".format(*finding.interval)
        # An observation's number stands at the first of its findings only.
        name = str(number) if number != number_above else ""
        mean = f"{finding.mean:+.2g} {finding.unit}"
        table.add_row(name, finding.claim, finding.verdict, f"{mean}\n{interval}")
        number_above = number
    return table


def _write(out: Path, observations: Observations, about: dict[str, Any]) -> None:
    by_name = {n: _to_plain(o) for n, o in observations._asdict().items()}
    content = {"settings": about, **by_name}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_whole(out / JSON_NAME, lambda path: path.write_text(text, encoding="utf-8"))
    title = f"{about['model']} on {about['data']}, {about['seeds']} seeds"
    figure = _draw(observations, title)
    write_whole(out / PLOT_NAME, lambda path: figure.savefig(path, dpi=110))


def _to_plain(observation: Any) -> dict[str, Any]:
    """Returns an observation as JSON holds it: arrays are lists, findings dicts."""
    plain = {}
    for field in dataclasses.fields(observation):
        value = getattr(observation, field.name)
        if field.name == "findings":
            value = [finding._asdict() for finding in value]
        plain[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return plain


def _draw(observations: Observations, title: str) -> Figure:
    """Draws each observation in a panel; the second and third share one."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    drawing.convergence(axes[0], observations.first)
    drawing.rank_correlations(axes[1], observations.second, observations.third)
    drawing.change_by_rounds(axes[2], observations.third)
    drawing.shares_by_depth(axes[3], observations.fourth)
    drawing.recovery(axes[4], observations.fifth)
    numbers = "1", "2 and 3", "3", "4", "5"
    for ax, number in zip(axes, numbers, strict=False):
        ax.set_title(f"observation {number}", fontsize=10)
        ax.legend(fontsize=8)
    axes[5].set_axis_off()
    figure.suptitle(title)
    return figure
