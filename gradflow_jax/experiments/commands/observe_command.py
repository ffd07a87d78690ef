"""The options of `gradflow-jax observe`."""

from pathlib import Path
from typing import Any

import click

from gradflow_jax.experiments.commands.options import Fraction, out_options
from gradflow_jax.experiments.names import MODEL_NAMES, SMALL_CNN


@click.command()
@click.option(
    "--model",
    default=SMALL_CNN,
    show_default=True,
    type=click.Choice([SMALL_CNN, *MODEL_NAMES]),
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
    default=200,
    show_default=True,
    type=click.IntRange(10),
    help="Steps of training.",
)
@click.option(
    "--finetune-steps",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Steps after pruning.",
)
@click.option(
    "--sparsity",
    default="0.8",
    show_default=True,
    type=Fraction(),
    help="Remove this fraction of the prunable weights, 0.8 or 80%.",
)
@out_options(
    "The folder for observations.json and observations.png.",
    "Replace what is in --out.",
    default="observations",
)
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
    from gradflow_jax.experiments.commands import observe_job

    observe_job.run(
        model,
        data,
        out,
        examples=examples,
        seeds=range(seed, seed + seeds),
        force=force,
        quiet=quiet,
        **options,
    )
