"""Cuts one trained network by many measures at many sparsities and fine-tunes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.scoring_data import same_for_all
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.measuring import Scorer, UnitScores
from gradflow_jax.experiments.networks.timing import Times
from gradflow_jax.experiments.networks.training import FINETUNE_LEARNING_RATE, Trainer
from gradflow_jax.experiments.sweep.cut_and_time import Cuttable
from gradflow_jax.experiments.sweep.settings import UNIT_SCOPES, StructuredSettings
from gradflow_jax.experiments.sweep.weights import (
    FINETUNE_SEED,
    TIMED,
    Silent,
    Watcher,
    digest,
    watched,
)
from gradflow_jax.models import SmallCNN
from gradflow_jax.structured import choose_units
from gradflow_jax.trees import PyTree


@dataclass(frozen=True)
class StructuredRow:
    """One network: dense (measure "dense", sparsity 0) or cut and fine-tuned.

    Rows are equal without regard to times.

    Attributes:
        seed: which network.
        measure: what the units were ranked by.
        sparsity: the fraction asked to be removed.
        widths: how many units are left, by layer.
        parameters: how many are left.
        flops: multiply-accumulates of one image.
        pruned_accuracy: on the test set right after the cut.
        pruned_loss: likewise.
        accuracy: after fine-tuning.
        loss: likewise.
        kept: which units are left, by layer.
        forward_ms: the forward pass of `FORWARD_BATCH` images.
        dense_forward_ms: that of the dense network, measured in turn with it.
        times_faster: the median over pairs of calls.
    """

    seed: int
    measure: str
    sparsity: float
    widths: dict[str, int]
    parameters: int
    flops: int
    pruned_accuracy: float
    pruned_loss: float
    accuracy: float
    loss: float
    kept: dict[str, list[int]]
    forward_ms: float = field(compare=False, metadata=TIMED)
    dense_forward_ms: float = field(compare=False, metadata=TIMED)
    times_faster: float = field(compare=False, metadata=TIMED)


def check_reachable(settings: StructuredSettings, dataset: Dataset) -> None:
    """Checks that the sparsities can be reached, before anything is trained.

    Raises:
        ValueError: if one cannot, saying how much can be removed.
    """
    cuttable = Cuttable(Trainer(dataset))
    zeros = {family.name: np.zeros(family.size) for family in cuttable.units}
    choose(cuttable, zeros, max(settings.sparsities), settings)


def run_structured_sweep(
    settings: StructuredSettings, dataset: Dataset, watcher: Watcher | None = None
) -> Iterator[StructuredRow]:
    """Trains a network for each seed, cuts and fine-tunes it; yields each result.

    As `run_sweep`, but for networks that are smaller and not masked: they are trained
    and evaluated at the widths that are left, and their forward pass is timed.

    Args:
        settings: what to do.
        dataset: labelled images.
        watcher: told of progress.

    Yields:
        For each seed a row of the dense network, then one for each measure and
        sparsity.
    """
    watcher = watcher or Silent()
    trainer = Trainer(dataset)
    cuttable = Cuttable(trainer)
    scorer = Scorer(trainer.forward.loss, SmallCNN.NORMALISED, watcher.step)
    fit = watched(trainer, watcher)

    def row(
        seed: int,
        measure: str,
        sparsity: float,
        keep: PyTree,
        numbers: tuple[float, float, float, float],
        times: Times,
    ) -> StructuredRow:
        return StructuredRow(
            seed,
            measure,
            sparsity,
            cuttable.widths(keep),
            cuttable.units.parameters(keep),
            cuttable.units.flops(keep),
            *numbers,
            cuttable.kept(keep),
            *times,
        )

    def tune(
        what: str, seed: int, dense: Network, keep: PyTree
    ) -> tuple[tuple[float, float, float, float], Times]:
        watcher.stage(what, 0)
        small = cuttable.cut(dense, keep)
        times = cuttable.time(small, dense)
        tuned = fit(
            what,
            small,
            settings.finetune_epochs,
            seed=seed + FINETUNE_SEED,
            peak=FINETUNE_LEARNING_RATE,
        )
        return (*trainer.evaluate(small), *trainer.evaluate(tuned)), times

    for seed in settings.seeds:
        start = trainer.init(seed)
        dense = fit(f"seed {seed}: training", start, settings.epochs, seed=seed)
        accuracy, loss = trainer.evaluate(dense)
        numbers = accuracy, loss, accuracy, loss
        yield row(seed, "dense", 0.0, {}, numbers, cuttable.time(dense, dense))
        watcher.stage(f"seed {seed}: scoring", 0)
        scores = scorer.of_units(
            settings.measures,
            dense,
            start.params,
            cuttable.units,
            same_for_all(dataset, seed),
            seed=seed,
        )
        # Two measures that choose the same units get the same network, trained once.
        trained = {}
        for measure in settings.measures:
            for sparsity in settings.sparsities:
                keep = choose(cuttable, scores[measure], sparsity, settings)
                key = digest(keep)
                if key not in trained:
                    what = f"seed {seed}: {measure} {100 * sparsity:g} %"
                    trained[key] = tune(what, seed, dense, keep)
                yield row(seed, measure, sparsity, keep, *trained[key])


def choose(
    cuttable: Cuttable,
    scores: UnitScores,
    sparsity: float,
    settings: StructuredSettings,
) -> PyTree:
    """Returns which units stay, by the family's name: those of the highest scores."""
    return choose_units(
        scores,
        cuttable.units,
        sparsity=sparsity,
        budget=settings.budget,
        scope=UNIT_SCOPES[settings.scope],
        floor=settings.floor,
        round_to=settings.round_to,
    )
