"""What `gradflow-jax reproduce` does: a run in a folder that is shown as it goes."""

import os
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from gradflow_jax.experiments.commands.bars import Bars
from gradflow_jax.experiments.data.dataset import DataError, Dataset, load, some_of
from gradflow_jax.experiments.errors import (
    CheckpointError,
    FolderError,
    SettingsError,
)
from gradflow_jax.experiments.formatting import join_words
from gradflow_jax.experiments.reproduction import folder
from gradflow_jax.experiments.reproduction.folder import run_in_folder
from gradflow_jax.experiments.reproduction.record import RunSettings
from gradflow_jax.experiments.reproduction.rounds import check_rounds
from gradflow_jax.experiments.reproduction.table import table_of_rounds
from gradflow_jax.experiments.reproduction.times import read_times


def run(
    settings: RunSettings,
    data: str | None,
    out: Path | None,
    *,
    force: bool,
    quiet: bool,
) -> None:
    """Runs, or goes on with, what settings say, and prints the table of its rounds.

    Raises:
        click.UsageError: if the settings cannot be met, the data cannot be read, or the
            folder cannot be used.
    """
    try:
        check_rounds(settings)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    dataset = _dataset(data or ("subset" if settings.fast else "cifar10"), settings)
    if out is None:
        name = "{0.model}-{0.measure}-{1:g}-{0.rounds}-{0.seed}"
        out = Path("runs") / name.format(settings, 100 * settings.prune)
    if force:
        try:
            folder.delete_run(out)
        except FolderError as error:
            raise click.UsageError(str(error)) from error
    # A GPU's sums differ from run to run without this flag, and XLA reads it when the
    # first device is asked for, which is below.
    flag = "--xla_gpu_deterministic_ops=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    console = Console(quiet=quiet)

    def say(line: str) -> None:
        # The line is printed as it is: a path is not wrapped, and a name in brackets is
        # no style of rich.
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"Data: {dataset}")
    try:
        with Bars(settings.epochs, console, of="epochs") as bars:
            watcher = _BarsWatcher(bars, settings.epochs, out, say)
            record = run_in_folder(out, settings, dataset, watcher)
    except (SettingsError, FolderError, CheckpointError) as error:
        raise click.UsageError(str(error)) from error
    console.print(
        table_of_rounds(record, read_times(out)), highlight=False, soft_wrap=True
    )
    files = [path.name for path in folder.existing_files(out)]
    say(f"Written to {out}: {join_words(files)}")


class _BarsWatcher:
    """A `RunWatcher` that shows a run as bars, and says where it goes on from."""

    def __init__(self, bars: Bars, epochs: int, out: Path, say: Callable[[str], None]):
        self._bars, self._epochs, self._out, self._say = bars, epochs, out, say
        self._stage = ""
        # The first call of `epoch` comes before any training: it tells the start.
        self._first = True

    def epoch(self, done: int) -> None:
        if self._first and done == self._epochs:
            self._say(f"The run in {self._out} had ended: there is nothing to do.")
        elif self._first and done:
            self._say(f"Going on with the run in {self._out} after epoch {done}.")
        self._first = False
        self._bars.row(done)

    def begin(self, what: str, steps: int) -> None:
        self._stage = what
        self._bars.stage(what, steps)

    def step(self, loss: float, accuracy: float) -> None:
        self._bars.step(f"{self._stage} {loss:.3f} {100 * accuracy:.0f} %")


def _dataset(source: str, settings: RunSettings) -> Dataset:
    try:
        whole = load(source)
        if settings.examples is None and settings.tests is None:
            return whole
        return some_of(
            whole,
            settings.examples or len(whole.y_train),
            settings.tests or len(whole.y_test),
        )
    except DataError as error:
        raise click.UsageError(str(error)) from error
