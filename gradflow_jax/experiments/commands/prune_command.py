"""The options of `gradflow-jax prune`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gradflow_jax.experiments.commands.options import Fraction, out_options
from gradflow_jax.experiments.formatting import join_words
from gradflow_jax.experiments.names import MEASURE_NAMES, WEIGHT_MEASURES
from gradflow_jax.experiments.sweep.settings import (
    BUDGETS,
    SCOPE_NAMES,
    UNIT_SCOPES,
    Settings,
    StructuredSettings,
)

_DEFAULTS, _STRUCTURED = Settings(), StructuredSettings()


@click.command()
@click.option(
    "--measure",
    "measures",
    multiple=True,
    type=click.Choice(MEASURE_NAMES),
    metavar="NAME",
    help="Rank weights by this measure; repeatable. All by default: "
    f"{join_words(WEIGHT_MEASURES)}. With --structured units are ranked; by default by "
    f"{join_words(_STRUCTURED.measures)}.",
)
@click.option(
    "--sparsity",
    "sparsities",
    multiple=True,
    type=Fraction(),
    help="Remove this fraction of the prunable weights, 0.9 or 90%; repeatable. "
    f"Default: {join_words(_DEFAULTS.sparsities)}; "
    f"with --structured {join_words(_STRUCTURED.sparsities)}.",
)
@click.option(
    "--structured",
    is_flag=True,
    help="Remove whole filters and neurons: the network is cut, trained and timed at "
    "the widths that are left.",
)
@click.option(
    "--budget",
    type=click.Choice(BUDGETS),
    help="With --structured, what the sparsities count. "
    f"Default: {_STRUCTURED.budget}.",
)
@click.option(
    "--round-to",
    type=click.IntRange(1),
    help="With --structured, cut layers to multiples of this width: odd ones can be "
    f"slower than wider ones. Default: {_STRUCTURED.round_to}.",
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
    type=click.IntRange(1, 1000),
    help="How many networks are trained; error bars are over them. Default: "
    f"{len(_DEFAULTS.seeds)}; with --structured {len(_STRUCTURED.seeds)}.",
)
@click.option(
    "--scope",
    default=_DEFAULTS.scope,
    show_default=True,
    type=click.Choice(SCOPE_NAMES),
    help="Rank all layers together, or each by itself: at one sparsity (layerwise) "
    "or, of weights, at Erdős–Rényi-kernel densities (erk).",
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
@out_options(
    "The folder for results.json, results.csv, accuracy.png and, with "
    "--structured, times.csv.",
    "Replace results that are in --out.",
    default="prune-results",
)
def prune(
    measures: tuple[str, ...],
    sparsities: tuple[float, ...],
    structured: bool,
    budget: Any,
    round_to: int | None,
    seed: int,
    seeds: int | None,
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

    With --structured it scores filters and neurons, cuts them out and fine-tunes the
    smaller network, whose forward pass is timed beside the dense one's. That takes
    about as long.
    """
    if structured:
        if scope not in UNIT_SCOPES:
            raise click.UsageError(
                f"--scope {scope} is of weights; with --structured: "
                f"{join_words(UNIT_SCOPES)}."
            )
    elif budget is not None:
        raise click.UsageError(
            "--budget says what --structured counts; add --structured."
        )
    elif round_to is not None:
        raise click.UsageError("--round-to is of --structured; add it.")
    _check_measures(measures, structured)
    defaults = _STRUCTURED if structured else _DEFAULTS
    count = len(defaults.seeds) if seeds is None else seeds
    settings = replace(
        defaults,
        measures=_unique(measures) or defaults.measures,
        sparsities=tuple(sorted(_unique(sparsities))) or defaults.sparsities,
        seeds=tuple(range(seed, seed + count)),
        scope=scope,
        epochs=epochs,
        finetune_epochs=finetune_epochs,
    )
    if isinstance(settings, StructuredSettings):
        settings = replace(
            settings,
            budget=budget or settings.budget,
            round_to=round_to or settings.round_to,
        )
    from gradflow_jax.experiments.commands import prune_job

    prune_job.run(settings, data, out, force=force, quiet=quiet)


def _check_measures(measures: Sequence[str], structured: bool) -> None:
    """Refuses measures that are measures of units alone, where weights are pruned.

    Raises:
        click.UsageError: naming the first such measure.
    """
    for name in measures:
        if name not in WEIGHT_MEASURES and not structured:
            raise click.UsageError(
                f"{name} differs from others for whole units only; add --structured."
            )


def _unique(values: tuple) -> tuple:
    return tuple(dict.fromkeys(values))
