"""The options of `gradflow-jax evaluate`."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="The images to test on, as `reproduce` takes them. Default: cifar10; of a "
    "--fast run subset.",
)
def evaluate(run: Path, data: str | None) -> None:
    """Test a network that `reproduce` saved: accuracy, FLOPs and compression.

    RUN is the folder of a run, or the model.safetensors in it.
    """
    from gradflow_jax.experiments.commands import evaluate_job

    evaluate_job.run(run, data)
