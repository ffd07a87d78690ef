"""Cuts units of one trained network by many measures, and fine-tunes it."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.scoring_data import ScoringData
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.measuring import Scorer
from gradflow_jax.experiments.networks.training import Trainer
from gradflow_jax.experiments.sweep.cut_and_time import Cuttable
from gradflow_jax.experiments.sweep.loop import (
    TIMED,
    SweepWatcher,
    sweep,
)
from gradflow_jax.experiments.sweep.settings import UNIT_SCOPES, StructuredSettings
from gradflow_jax.models import SmallCNN
from gradflow_jax.structured import choose_units
from gradflow_jax.structured.choosing import ties_of_units
from gradflow_jax.structured.scoring import UnitScores
from gradflow_jax.structured.units import Keep
from gradflow_jax.trees import Params


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
        collapsed: the layers of which no unit is left; the floor leaves one at least.
        by_position: units left that have the score of removed ones, so that their
            position decided.
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
    collapsed: list[str] = field(default_factory=list)
    by_position: int = 0


def check_reachable(settings: StructuredSettings, dataset: Dataset) -> None:
    """Checks that the sparsities can be reached, before anything is trained.

    Raises:
        ValueError: if one cannot, saying how much can be removed.
    """
    cuttable = Cuttable(Trainer(dataset))
    # Whatever the scores are, as much can go; equal ones would call for a warning.
    scores = {family.name: np.arange(family.size) for family in cuttable.units}
    choose(cuttable, scores, max(settings.sparsities), settings)


class _UnitPruner:
    """Cuts out the units of the lowest scores: what is left is a smaller network."""

    def __init__(
        self, settings: StructuredSettings, trainer: Trainer, watcher: SweepWatcher
    ):
        self._settings, self._cuttable = settings, Cuttable(trainer)
        loss = trainer.forward.loss
        self._scorer = Scorer(loss, SmallCNN.NORMALIZED, watcher.step)

    def score(
        self, dense: Network, origin: Params, data: ScoringData, seed: int
    ) -> Mapping[str, UnitScores]:
        measures, units = self._settings.measures, self._cuttable.units
        return self._scorer.of_units(measures, dense, origin, units, data, seed=seed)

    def choose(self, scores: UnitScores, sparsity: float) -> Keep:
        return choose(self._cuttable, scores, sparsity, self._settings)

    def kept_by_position(self, scores: UnitScores, keep: Keep) -> int:
        scope = UNIT_SCOPES[self._settings.scope]
        ties = ties_of_units(scores, self._cuttable.units, keep, scope)
        return sum(tie.chosen for tie in ties)

    def prune(self, dense: Network, keep: Keep) -> Network:
        return self._cuttable.cut(dense, keep)

    def time(self, pruned: Network, dense: Network) -> Mapping[str, float]:
        times = self._cuttable.time(pruned, dense)
        return {
            "forward_ms": times.milliseconds,
            "dense_forward_ms": times.reference_milliseconds,
            "times_faster": times.faster,
        }

    def masks(self, keep: Keep) -> None:
        """Returns None: the units that would be masked are not there."""

    def row(self, keep: Keep | None, **fields: Any) -> StructuredRow:
        # A family that is not named keeps all of its units.
        keep = {} if keep is None else keep
        widths = self._cuttable.widths(keep)
        return StructuredRow(
            widths=widths,
            collapsed=[layer for layer, width in widths.items() if not width],
            parameters=self._cuttable.units.parameters(keep),
            flops=self._cuttable.units.flops(keep),
            kept=self._cuttable.kept(keep),
            **fields,
        )


def run_structured_sweep(
    settings: StructuredSettings,
    dataset: Dataset,
    watcher: SweepWatcher | None = None,
) -> Iterator[StructuredRow]:
    """Trains a network for each seed, cuts and fine-tunes it; yields each result.

    It differs from `run_sweep` in that networks become smaller instead of masked: they
    are fine-tuned and evaluated at the widths that are left, and their forward pass is
    timed.

    Args:
        settings: what to do.
        dataset: labeled images.
        watcher: told of progress.

    Returns:
        An iterator: for each seed a row of the dense network, then one for each
        measure and sparsity.
    """
    return sweep(settings, dataset, functools.partial(_UnitPruner, settings), watcher)


def choose(
    cuttable: Cuttable,
    scores: UnitScores,
    sparsity: float,
    settings: StructuredSettings,
) -> Keep:
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
