"""What `gradflow-jax prune` does: a sweep that is shown and kept on disk."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from gradflow_jax.experiments.commands.bars import Bars
from gradflow_jax.experiments.commands.options import check_free, make_folder
from gradflow_jax.experiments.data.dataset import DataError, Dataset, load
from gradflow_jax.experiments.formatting import join_words
from gradflow_jax.experiments.sweep import results
from gradflow_jax.experiments.sweep.loop import rows_in_all
from gradflow_jax.experiments.sweep.picture import write_accuracy_plot
from gradflow_jax.experiments.sweep.settings import Settings, StructuredSettings
from gradflow_jax.experiments.sweep.table import accuracy_table, cut_table
from gradflow_jax.experiments.sweep.units import (
    check_reachable,
    run_structured_sweep,
)
from gradflow_jax.experiments.sweep.weights import run_sweep


def run(settings: Settings, data: str, out: Path, *, force: bool, quiet: bool) -> None:
    """Runs a sweep on the images of data and writes what it finds to a folder.

    Raises:
        click.UsageError: if the data cannot be read, a sparsity cannot be reached, or
            the folder cannot be made or holds results that `force` does not replace.
    """
    check_free(results.existing_files(out), force)
    try:
        dataset = load(data)
    except DataError as error:
        raise click.UsageError(str(error)) from error
    if isinstance(settings, StructuredSettings):
        try:
            check_reachable(settings, dataset)
        except ValueError as error:
            raise click.UsageError(f"--structured: {error}") from error
    make_folder(out)
    console = Console(quiet=quiet)
    console.print(f"Data: {dataset}", highlight=False)
    _sweep(settings, dataset, out, console)


def _sweep(settings: Settings, dataset: Dataset, out: Path, console: Console) -> None:
    """Runs the sweep and shows it; keeps what is finished on disk, whatever happens."""
    rows: list[Any] = []
    names: list[str] = []
    complete = False
    with Bars(rows_in_all(settings), console) as bars:
        if isinstance(settings, StructuredSettings):
            yielded = run_structured_sweep(settings, dataset, bars)
        else:
            yielded = run_sweep(settings, dataset, bars)
        try:
            for row in yielded:
                rows.append(row)
                bars.row()
                results.write_results(out, settings, dataset, rows, complete=False)
            complete = True
        finally:
            if rows:
                names = results.write_results(out, settings, dataset, rows, complete)
                write_accuracy_plot(settings, dataset, rows, out / results.PLOT_NAME)
            if not complete and rows:
                console.print(
                    f"Stopped: {len(rows)} of {rows_in_all(settings)} networks are "
                    f"in {out}.",
                    highlight=False,
                )
    if isinstance(settings, StructuredSettings):
        # Lines are printed whole, also where the terminal is narrower than the table.
        table = cut_table(settings, dataset, rows)
        console.print(table, "", highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(accuracy_table(settings, dataset, rows))
    console.print(
        f"Written to {out}: {join_words([*names, results.PLOT_NAME])}",
        highlight=False,
    )
