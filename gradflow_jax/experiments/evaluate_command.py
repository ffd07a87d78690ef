"""The options of `gradflow-jax evaluate`."""

from pathlib import Path

import click
from rich.console import Console

from gradflow_jax.experiments.data import DataError, load
from gradflow_jax.experiments.run_files import MODEL_NAME, RECORD_NAME
from gradflow_jax.experiments.run_record import from_json
from gradflow_jax.experiments.saved_network import evaluate_saved
from gradflow_jax.experiments.structured_table import compact


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--data",
    default="cifar10",
    show_default=True,
    metavar="NAME|PATH",
    help="The images to test on, as `reproduce` takes them.",
)
def evaluate(run: Path, data: str) -> None:
    """Test a network that `reproduce` saved: accuracy, FLOPs and compression.

    RUN is the folder of a run, or the model.safetensors in it.
    """
    folder = run if run.is_dir() else run.parent
    model = folder / MODEL_NAME if run.is_dir() else run
    try:
        record = from_json((folder / RECORD_NAME).read_text())
    except OSError as error:
        raise click.UsageError(
            f"{folder} holds no {RECORD_NAME}, which says what network it is: pass the "
            f"folder that `gradflow-jax reproduce` wrote ({error.strerror})."
        ) from error
    except ValueError as error:
        raise click.UsageError(f"{folder / RECORD_NAME}: {error}.") from error
    if not model.is_file():
        raise click.UsageError(
            f"{folder} holds no {MODEL_NAME}: the run has not ended; start it again."
        )
    try:
        dataset = load(data)
        found = evaluate_saved(model, record.settings, dataset)
    except (DataError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    size, dense = found.size, found.dense
    left = 100 * size.filters / dense.filters
    lines = [
        f"{record.settings.model} of {record.data}",
        f"tested on    {len(dataset.y_test):,} images of {dataset.name}",
        f"accuracy     {100 * found.accuracy:.2f} %",
        f"loss         {found.loss:.4f}",
        f"filters      {size.filters:,} of {dense.filters:,} ({left:.1f} %)",
        f"parameters   {size.parameters:,} of {dense.parameters:,}",
        f"FLOPs        {compact(size.flops)} of {compact(dense.flops)} "
        "multiply-accumulates an image",
        f"compression  {found.dense_bytes / found.bytes:.2f}× ({found.bytes:,} bytes)",
    ]
    Console().print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
