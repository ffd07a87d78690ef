"""The options of `gradflow-jax prune`."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from gradflow_jax.experiments import results
from gradflow_jax.experiments.data import DataError, Dataset, load
from gradflow_jax.experiments.measuring import MEASURES
from gradflow_jax.experiments.presenting import (
    Bars,
    accuracy_table,
    write_accuracy_plot,
)
from gradflow_jax.experiments.sweep import SCOPES, Row, Settings, rows_in_all, run_sweep

_DEFAULTS = Settings()


class Fraction(click.FloatRange):
    """A sparsity: a fraction in [0, 1), or a percentage with its sign."""

    name = "fraction"

    def __init__(self) -> None:
        super().__init__(0.0, 1.0, max_open=True)

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Returns the fraction that 0.9 and 90% stand for."""
        text = str(value).strip()
        scale = 1.0
        if text.endswith("%"):
            text, scale = text[:-1], 100.0
        try:
            fraction = float(text) / scale
        except ValueError:
            self.fail(f"{value!r} is not a fraction such as 0.9 or 90%.", param, ctx)
        if not 0.0 <= fraction < 1.0:
            hint = f"; did you mean {text}%?" if 1 < fraction < 100 else "."
            self.fail(f"{value} is outside [0, 1){hint}", param, ctx)
        return round(fraction, 12)


@click.command()
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=click.Choice(list(MEASURES)),
    metavar="NAME",
    help=f"Rank weights by this measure; repeatable. All by default: "
    f"{', '.join(MEASURES)}.",
)
@click.option(
    "--sparsity",
    "sparsities",
    multiple=True,
    type=Fraction(),
    help="Remove this fraction of the prunable weights, 0.9 or 90%; repeatable. "
    f"Default: {', '.join(f'{s:g}' for s in _DEFAULTS.sparsities)}.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**31 - 1001),
    help="The first seed: of the weights, the order of the images and chance.",
)
@click.option(
    "--seeds",
    default=len(_DEFAULTS.seeds),
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How many networks are trained; error bars are over them.",
)
@click.option(
    "--scope",
    default=_DEFAULTS.scope,
    show_default=True,
    type=click.Choice(list(SCOPES)),
    help="Rank all layers together, or each by itself: at one sparsity (layerwise) "
    "or at Erdős–Rényi-kernel densities (erk).",
)
@click.option(
    "--epochs",
    default=_DEFAULTS.epochs,
    show_default=True,
    type=click.IntRange(1),
    help="Epochs of training the dense network.",
)
@click.option(
    "--finetune-epochs",
    default=_DEFAULTS.finetune_epochs,
    show_default=True,
    type=click.IntRange(1),
    help="Epochs of training each pruned network.",
)
@click.option(
    "--data",
    default="subset",
    show_default=True,
    metavar="NAME|PATH",
    help="subset: the Fashion-MNIST subset in the package. auto: all of Fashion-MNIST "
    "where Debian's dataset-fashion-mnist is installed. Or a folder of IDX files, or "
    "an .npz with x_train, y_train, x_test, y_test.",
)
@click.option(
    "--out",
    default="prune-results",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for results.json, results.csv and accuracy.png.",
)
@click.option("--force", is_flag=True, help="Replace results that are in --out.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def prune(
    measures: tuple[str, ...],
    sparsities: tuple[float, ...],
    seed: int,
    seeds: int,
    scope: str,
    epochs: int,
    finetune_epochs: int,
    data: str,
    out: Path,
    force: bool,
    quiet: bool,
) -> None:
    """Prune a small CNN by every measure and compare what is left.

    Trains a convolutional network with batch norm on real images, scores its weights,
    removes those of the lowest scores at several sparsities, fine-tunes what is left
    through the masked optimizer, and writes every number and a plot to --out. Without
    options it takes some two minutes on two CPU cores.
    """
    taken = results.existing(out)
    if taken and not force:
        raise click.UsageError(
            f"{taken[0]} exists already; choose another --out, or --force to replace."
        )
    try:
        dataset = load(data)
    except DataError as error:
        raise click.UsageError(str(error)) from error
    settings = Settings(
        measures=_unique(measures) or _DEFAULTS.measures,
        sparsities=tuple(sorted(_unique(sparsities))) or _DEFAULTS.sparsities,
        seeds=tuple(range(seed, seed + seeds)),
        scope=scope,
        epochs=epochs,
        finetune_epochs=finetune_epochs,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{out} cannot be made: {error.strerror}.") from error
    console = Console(quiet=quiet)
    console.print(f"Data: {dataset}", highlight=False)
    rows = _run(settings, dataset, out, console)
    console.print(accuracy_table(settings, dataset, rows))
    names = (results.JSON_NAME, results.CSV_NAME, results.PLOT_NAME)
    console.print(f"Written to {out}: {', '.join(names)}", highlight=False)


def _run(
    settings: Settings, dataset: Dataset, out: Path, console: Console
) -> list[Row]:
    """Runs the sweep and keeps what is finished on disk, whatever happens."""
    rows: list[Row] = []
    complete = False
    with Bars(rows_in_all(settings), console) as bars:
        try:
            for row in run_sweep(settings, dataset, bars):
                rows.append(row)
                bars.row()
                results.write_results(out, settings, dataset, rows, complete=False)
            complete = True
        finally:
            if rows:
                results.write_results(out, settings, dataset, rows, complete)
                write_accuracy_plot(settings, dataset, rows, out / results.PLOT_NAME)
            if not complete and rows:
                console.print(
                    f"Stopped: {len(rows)} of {rows_in_all(settings)} networks are "
                    f"in {out}.",
                    highlight=False,
                )
    return rows


def _unique(values: tuple) -> tuple:
    return tuple(dict.fromkeys(values))
