"""What `gradflow-jax evaluate` does: tests a saved network and prints numbers."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from gradflow_jax.experiments.data.dataset import DataError, Dataset, load
from gradflow_jax.experiments.formatting import compact_count
from gradflow_jax.experiments.reproduction.folder import MODEL_NAME
from gradflow_jax.experiments.reproduction.record import (
    RECORD_NAME,
    RunRecord,
)
from gradflow_jax.experiments.reproduction.record_reading import read_record
from gradflow_jax.experiments.reproduction.saved_network import evaluate_saved


def run(path: Path, data: str | None) -> None:
    """Tests the network in the folder of a run, or in the file, on the images of data.

    Raises:
        click.UsageError: if one of them cannot be read or they do not fit.
    """
    folder = path if path.is_dir() else path.parent
    model = folder / MODEL_NAME if path.is_dir() else path
    record_file = folder / RECORD_NAME
    try:
        record = read_record(record_file)
    except ValueError as error:
        raise click.UsageError(
            f"{error} It says what network {path} is: pass the folder that "
            "`gradflow-jax reproduce` wrote."
        ) from error
    if not model.is_file():
        raise click.UsageError(
            f"{folder} holds no {MODEL_NAME}: the run has not ended; start it again."
        )
    try:
        dataset = load(data or ("subset" if record.settings.fast else "cifar10"))
        _check_fits(record, dataset)
        evaluation = evaluate_saved(model, record.settings, dataset)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    size, dense = evaluation.size, evaluation.dense
    compression = evaluation.dense_bytes / evaluation.bytes
    left = 100 * size.filters / dense.filters
    lines = [
        f"{record.settings.model} of {record.data}",
        f"tested on    {len(dataset.y_test):,} images of {dataset.name}",
        f"accuracy     {100 * evaluation.accuracy:.2f} %",
        f"loss         {evaluation.loss:.4f}",
        f"filters      {size.filters:,} of {dense.filters:,} ({left:.1f} %)",
        f"parameters   {size.parameters:,} of {dense.parameters:,}",
        f"FLOPs        {compact_count(size.flops)} of {compact_count(dense.flops)} "
        "multiply-accumulates an image",
        f"compression  {compression:.2f}× ({evaluation.bytes:,} bytes)",
    ]
    Console().print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def _check_fits(record: RunRecord, dataset: Dataset) -> None:
    """Checks that images are of the shape and classes that a run's network takes.

    Raises:
        DataError: naming both, if they are not.
    """

    def in_words(shape: Sequence[int], classes: int) -> str:
        return f"{'×'.join(map(str, shape))} pixels in {classes} classes"

    takes = in_words(record.image_shape, record.classes)
    has = in_words(dataset.x_test.shape[1:], dataset.classes)
    if takes != has:
        raise DataError(
            f"the network was trained on {record.data}, {takes}, and {dataset} has "
            f"{has}: pass the --data of the run."
        )
