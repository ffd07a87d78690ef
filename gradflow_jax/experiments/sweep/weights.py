"""Prunes weights of one trained network by many measures, and fine-tunes it."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.scoring_data import ScoringData
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.measuring import Scorer, prunable
from gradflow_jax.experiments.networks.training import Trainer
from gradflow_jax.experiments.sweep.loop import (
    SweepWatcher,
    sweep,
)
from gradflow_jax.experiments.sweep.settings import Settings
from gradflow_jax.masks import (
    erdos_renyi_kernel,
    global_masks,
    layerwise_masks,
    prune,
    report,
)
from gradflow_jax.models import SmallCNN
from gradflow_jax.trees import Masks, Params, Scores


def _global(scores: Scores, sparsity: float) -> Masks:
    return global_masks(scores, sparsity=sparsity, prunable=prunable)


def _layerwise(scores: Scores, sparsity: float) -> Masks:
    return layerwise_masks(scores, sparsity=sparsity, prunable=prunable)


def _erk(scores: Scores, sparsity: float) -> Masks:
    densities = erdos_renyi_kernel(scores, sparsity=sparsity, prunable=prunable)
    return layerwise_masks(scores, allocation=densities)


SCOPES: dict[str, Callable[[Scores, float], Masks]] = {
    "global": _global,
    "layerwise": _layerwise,
    "erk": _erk,
}


@dataclass(frozen=True)
class Row:
    """One network: dense (measure "dense", sparsity 0) or pruned and fine-tuned.

    Attributes:
        seed: which network.
        measure: what the weights were ranked by.
        sparsity: the fraction of prunable weights asked to be removed.
        kept: prunable weights left.
        prunable: prunable weights in all.
        total_sparsity: the fraction removed of all weights.
        pruned_accuracy: on the test set right after pruning.
        pruned_loss: likewise.
        accuracy: after fine-tuning.
        loss: likewise.
        layers: kept of each pruned leaf, by path.
        collapsed: the leaves among them of which no weight is left, by path: no signal
            passes the layer.
        by_position: kept weights that have the score of removed ones, so that their
            position decided.
    """

    seed: int
    measure: str
    sparsity: float
    kept: int
    prunable: int
    total_sparsity: float
    pruned_accuracy: float
    pruned_loss: float
    accuracy: float
    loss: float
    layers: dict[str, int] = field(default_factory=dict)
    collapsed: list[str] = field(default_factory=list)
    by_position: int = 0


class _WeightPruner:
    """Masks the weights of the lowest scores; masked weights stay at exactly 0.0."""

    def __init__(self, settings: Settings, trainer: Trainer, watcher: SweepWatcher):
        self._measures, self._choose = settings.measures, SCOPES[settings.scope]
        loss = trainer.forward.loss
        self._scorer = Scorer(loss, SmallCNN.NORMALIZED, watcher.step)
        params = jax.eval_shape(lambda: trainer.init(0)).params
        self._all_kept = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)

    def score(
        self, dense: Network, origin: Params, data: ScoringData, seed: int
    ) -> Mapping[str, Scores]:
        return self._scorer(self._measures, dense, origin, data, seed=seed)

    def choose(self, scores: Scores, sparsity: float) -> Masks:
        return self._choose(scores, sparsity)

    def kept_by_position(self, scores: Scores, keep: Masks) -> int:
        return report(keep, scores=scores, prunable=prunable).by_position or 0

    def prune(self, dense: Network, keep: Masks) -> Network:
        return Network(prune(dense.params, keep), dense.stats)

    def time(self, pruned: Network, dense: Network) -> Mapping[str, float]:
        """Times nothing: a masked network does all the work of the dense one."""
        return {}

    def masks(self, keep: Masks) -> Masks:
        return keep

    def row(self, keep: Masks | None, **fields: Any) -> Row:
        counts = report(self._all_kept if keep is None else keep, prunable=prunable)
        return Row(
            kept=counts.kept,
            prunable=counts.size,
            total_sparsity=counts.total_sparsity,
            layers={
                layer.path: layer.kept for layer in counts.layers if layer.prunable
            },
            collapsed=[
                layer.path
                for layer in counts.layers
                if layer.prunable and not layer.kept
            ],
            **fields,
        )


def run_sweep(
    settings: Settings, dataset: Dataset, watcher: SweepWatcher | None = None
) -> Iterator[Row]:
    """Trains a network for each seed, prunes and fine-tunes it; yields each result.

    All pruned networks of a seed start from the same dense one, are fine-tuned on the
    same order of images, and keep the classifier whole. The numbers depend on the
    settings, the data, the versions of the packages and the machine alone.

    Args:
        settings: what to do.
        dataset: labeled images.
        watcher: told of progress.

    Returns:
        An iterator: for each seed a row of the dense network, then one for each
        measure and sparsity.
    """
    return sweep(settings, dataset, functools.partial(_WeightPruner, settings), watcher)
