"""The options of `gradflow-jax observe`."""

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

from gradflow_jax.dynamics import Observations, Problem, Study, problem_of
from gradflow_jax.dynamics import observe as evaluate
from gradflow_jax.dynamics.findings import CONFIDENCE
from gradflow_jax.experiments.data import DataError, Dataset, load, some_of
from gradflow_jax.experiments.forward import scaled
from gradflow_jax.experiments.options import Fraction, check_free, make_folder
from gradflow_jax.experiments.presenting import Bars
from gradflow_jax.experiments.results import versions
from gradflow_jax.models import MODELS, SmallCNN
from gradflow_jax.plotting import observations as drawing
from gradflow_jax.whole_files import write_whole

JSON_NAME, PLOT_NAME = "observations.json", "observations.png"
_CNN = "cnn"
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Study)}


@click.command()
@click.option(
    "--model",
    default=_CNN,
    show_default=True,
    type=click.Choice([_CNN, *MODELS]),
    help="The small CNN of `prune`, or the small stand-in of one of the paper's "
    "networks.",
)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="NAME|PATH",
    help="digits are scikit-learn's; others as `reproduce` takes them.",
)
@click.option(
    "--examples",
    default=1000,
    show_default=True,
    type=click.IntRange(2),
    help="Train and score on so many images, equally many of each class.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, help="The first seed.")
@click.option(
    "--steps",
    default=_DEFAULTS["steps"],
    show_default=True,
    type=click.IntRange(10),
    help="Steps of training.",
)
@click.option(
    "--finetune-steps",
    default=_DEFAULTS["finetuning"],
    show_default=True,
    type=click.IntRange(1),
    help="Steps after pruning.",
)
@click.option(
    "--sparsity",
    default=str(_DEFAULTS["sparsity"]),
    show_default=True,
    type=Fraction(),
    help="Remove this fraction of the prunable weights, 0.8 or 80%.",
)
@click.option(
    "--out",
    default="observations",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help=f"The folder for {JSON_NAME} and {PLOT_NAME}.",
)
@click.option("--force", is_flag=True, help="Replace what is in --out.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def observe(
    model: str,
    data: str,
    examples: int,
    seeds: int,
    seed: int,
    out: Path,
    force: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Test the paper's five observations on networks of several seeds.

    Each network is trained, looked at on the way, pruned in the middle and
    fine-tuned. A verdict is of the interval of the mean over the seeds: held where
    all of it is as the paper claims, contradicted where none of it is.
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
    parts = seeds + len(Observations._fields)
    with Bars(parts, console, of="parts") as bars:

        def progress(done: int, of: int) -> None:
            bars.stage("training" if done < seeds else "observing", 0)
            bars.row(done)
            bars.step()

        found = evaluate(study, seeds=range(seed, seed + seeds), progress=progress)
    console.print(_table(found))
    about = {"model": model, "data": str(dataset), "seeds": seeds, "seed": seed}
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
        if model == _CNN:
            return SmallCNN(shape, classes, rngs=rngs)
        return MODELS[model](shape, classes, fast=True, rngs=rngs)

    return problem_of(make, scaled(dataset.x_train), dataset.y_train)


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
