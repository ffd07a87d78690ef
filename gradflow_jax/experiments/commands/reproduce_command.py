"""The options of `gradflow-jax reproduce`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gradflow_jax.experiments.commands.options import (
    Percent,
    Percents,
    Schedule,
    out_options,
)
from gradflow_jax.experiments.formatting import join_words
from gradflow_jax.experiments.names import MEASURE_NAMES, MODEL_NAMES, PAPER_MEASURES
from gradflow_jax.experiments.reproduction.record import RunSettings

_PAPER = RunSettings("vgg13", "magnitude", 0.75, 25)
# With a few hundred images --fast takes seconds: it shows how a run goes.
_FAST = {"examples": 300, "tests": 200, "batch_size": 50, "rounds": 2}
_FAST_EPOCHS = 2


@click.command()
@click.option("--model", required=True, type=click.Choice(MODEL_NAMES))
@click.option(
    "--measure",
    required=True,
    type=click.Choice(MEASURE_NAMES),
    metavar="NAME",
    help=f"Rank filters by this measure. The paper's: {join_words(PAPER_MEASURES)}. "
    f"Also: {join_words(n for n in MEASURE_NAMES if n not in PAPER_MEASURES)}.",
)
@click.option(
    "--prune",
    type=Percent(),
    help="Remove so many percent of all filters; 0 trains the whole network. "
    "Default: 75.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="In so many rounds, each after an epoch. Default: 25; with --fast 2.",
)
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="cifar10, cifar100, or the path of an archive of theirs, of a folder or tar "
    "with train/CLASS/*.png|jpg and test/CLASS/*, of an .npz or of IDX files. subset "
    "is the Fashion-MNIST in the package. Default: cifar10; with --fast subset.",
)
@click.option(
    "--examples",
    type=click.IntRange(2),
    help="Train on so many images, equally many of each class. Default: all.",
)
@click.option(
    "--tests", type=click.IntRange(2), help="Test on so many images. Default: all."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**31 - 1001),
    help="Of the weights, the order of the images, augmentation and chance.",
)
@click.option(
    "--width",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Multiply the number of filters of every layer.",
)
@click.option(
    "--schedule",
    type=Schedule(),
    help="Epochs and learning rate of each stage; rounds are in the first. Default: "
    f"{Schedule.to_text(_PAPER.schedule)}.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help=f"Images a step. Default: {_PAPER.batch_size}.",
)
@click.option(
    "--warmup",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Epochs before that of the first round.",
)
@click.option(
    "--thresholds",
    type=Percents(),
    help="How many percent are gone after each round, instead of --prune and --rounds.",
)
@click.option(
    "--tracked",
    is_flag=True,
    help="Rank by an exponential average over the last mini-batches of the epoch.",
)
@click.option(
    "--momentum",
    default="reset",
    show_default=True,
    type=click.Choice(["reset", "keep"]),
    help="What becomes of the optimizer's momentum when filters are cut.",
)
@click.option(
    "--cut-stem",
    is_flag=True,
    help="Cut a ResNet's first convolution too, with the stream of its first stage.",
)
@click.option(
    "--published-rules",
    is_flag=True,
    help="Choose filters as the authors' release does, quirks included.",
)
@click.option(
    "--correlate-every",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    metavar="EPOCHS",
    help="Compare how the paper's measures rank the filters; 0 for never.",
)
@click.option(
    "--fast",
    is_flag=True,
    help="A tiny network on a few hundred images: less than a minute.",
)
@out_options(
    "The folder for the numbers, the network and the checkpoints. Default: "
    "runs/MODEL-MEASURE-PRUNE-ROUNDS-SEED.",
    "Start anew where --out holds a run.",
)
def reproduce(
    data: str | None, out: Path | None, force: bool, quiet: bool, **options: Any
) -> None:
    """Prune one of the paper's networks in rounds while it is trained.

    After each of the first epochs the filters of all layers are ranked together and
    those of the lowest scores are cut out: weights and statistics are smaller
    from then on, and so is every later step.

    Stopped at any moment, even killed, the same command goes on from the last epoch,
    and ends with the very numbers that it would have had.
    """
    settings = _settings(**options)
    from gradflow_jax.experiments.commands import reproduce_job

    reproduce_job.run(settings, data, out, force=force, quiet=quiet)


def _settings(**options: Any) -> RunSettings:
    """Returns the settings that options ask for, with defaults for those left out."""
    fields = {name: value for name, value in options.items() if value is not None}
    fields |= _implied_by_thresholds(fields)
    # What was asked for stands last in each line, and wins over the defaults.
    if fields["fast"]:
        fields = {**_FAST, **fields}
    fields = {"prune": _PAPER.prune, "rounds": _PAPER.rounds, **fields}
    if not fields["prune"]:
        fields["rounds"] = 0
    if fields["fast"] and "schedule" not in fields:
        first_stage = fields["warmup"] + fields["rounds"] + _FAST_EPOCHS
        fields["schedule"] = (first_stage, 0.1), (1, 0.01), (1, 0.001)
    return RunSettings(**fields)


def _implied_by_thresholds(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns prune and rounds as thresholds imply them; {} without thresholds.

    Raises:
        click.UsageError: if one of the two was asked for and differs.
    """
    if "thresholds" not in fields:
        return {}
    thresholds = fields["thresholds"]
    implied = {"prune": thresholds[-1], "rounds": len(thresholds)}
    for name, value in implied.items():
        asked = fields.get(name, value)
        if asked != value:
            percent = name == "prune"
            amount = f"{100 * value:g} percent" if percent else f"{value} rounds"
            asked_amount = 100 * asked if percent else asked
            raise click.UsageError(
                f"--thresholds are {amount}, but --{name} is {asked_amount:g}: leave "
                f"--{name} out."
            )
    return implied
