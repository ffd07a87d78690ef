"""Prunes one trained network by many measures at many sparsities and fine-tunes."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.scoring_data import same_for_all
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.measuring import Scorer, prunable
from gradflow_jax.experiments.networks.training import FINETUNE_LEARNING_RATE, Trainer
from gradflow_jax.experiments.sweep.settings import Settings
from gradflow_jax.masks import (
    erdos_renyi_kernel,
    global_masks,
    layerwise_masks,
    prune,
    report,
)
from gradflow_jax.models import SmallCNN
from gradflow_jax.trees import PyTree

# Of a row's fields that hold a measured time and differ between equal runs.
TIMED = {"timed": True}

# Added to a seed: another order of images than the dense network saw last.
FINETUNE_SEED = 1_000_000


def _global(scores: PyTree, sparsity: float) -> PyTree:
    return global_masks(scores, sparsity=sparsity, prunable=prunable)


def _layerwise(scores: PyTree, sparsity: float) -> PyTree:
    return layerwise_masks(scores, sparsity=sparsity, prunable=prunable)


def _erk(scores: PyTree, sparsity: float) -> PyTree:
    kept = erdos_renyi_kernel(scores, sparsity=sparsity, prunable=prunable)
    return layerwise_masks(scores, allocation=kept)


SCOPES: dict[str, Callable[[PyTree, float], PyTree]] = {
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


class Watcher(Protocol):
    """Is told what a sweep is doing."""

    def stage(self, description: str, steps: int) -> None:
        """Begins a stage of so many steps."""

    def step(self) -> None:
        """One step is done."""


class Silent:
    """A watcher that does nothing."""

    def stage(self, description: str, steps: int) -> None:
        """Does nothing."""

    def step(self) -> None:
        """Does nothing."""


def rows_in_all(settings: Settings) -> int:
    """Returns how many rows a sweep yields."""
    pruned = len(settings.measures) * len(settings.sparsities)
    return len(settings.seeds) * (1 + pruned)


def watched(trainer: Trainer, watcher: Watcher) -> Callable[..., Network]:
    """Returns `fit(description, network, epochs, **options)`, told to the watcher."""

    def step(done: int, total: int) -> None:
        watcher.step()

    def fit(description: str, network: Network, epochs: int, **options: Any) -> Network:
        watcher.stage(description, epochs * trainer.steps_per_epoch)
        return trainer.fit(network, epochs=epochs, progress=step, **options)

    return fit


def run_sweep(
    settings: Settings, dataset: Dataset, watcher: Watcher | None = None
) -> Iterator[Row]:
    """Trains a network for each seed, prunes and fine-tunes it; yields each result.

    All pruned networks of a seed start from the same dense one, are fine-tuned on the
    same order of images, and keep the classifier whole. The numbers depend on the
    settings, the data, the versions of the packages and the machine alone.

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
    scorer = Scorer(trainer.forward.loss, SmallCNN.NORMALISED, watcher.step)

    fit = watched(trainer, watcher)
    for seed in settings.seeds:
        start = trainer.init(seed)
        dense = fit(f"seed {seed}: training", start, settings.epochs, seed=seed)
        accuracy, loss = trainer.evaluate(dense)
        whole = report(
            jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), dense.params),
            prunable=prunable,
        )
        yield Row(
            seed, "dense", 0.0, whole.kept, whole.size, 0.0,
            accuracy, loss, accuracy, loss, _layers(whole),
        )  # fmt: skip
        watcher.stage(f"seed {seed}: scoring", 0)
        scores = scorer(
            settings.measures,
            dense,
            start.params,
            same_for_all(dataset, seed),
            seed=seed,
        )
        # Two measures that choose the same weights get the same network, trained once.
        trained: dict[bytes, tuple[float, float, float, float]] = {}
        for measure in settings.measures:
            for sparsity in settings.sparsities:
                masks = SCOPES[settings.scope](scores[measure], sparsity)
                key = digest(masks)
                if key not in trained:
                    pruned = Network(prune(dense.params, masks), dense.stats)
                    tuned = fit(
                        f"seed {seed}: {measure} {100 * sparsity:g} %",
                        pruned,
                        settings.finetune_epochs,
                        seed=seed + FINETUNE_SEED,
                        peak=FINETUNE_LEARNING_RATE,
                        masks=masks,
                    )
                    trained[key] = (
                        *trainer.evaluate(pruned),
                        *trainer.evaluate(tuned),
                    )
                found = report(masks, prunable=prunable)
                yield Row(
                    seed, measure, sparsity, found.kept, found.size,
                    found.total_sparsity, *trained[key], _layers(found),
                )  # fmt: skip


def _layers(found: Any) -> dict[str, int]:
    return {layer.path: layer.kept for layer in found.layers if layer.prunable}


def digest(flags: PyTree) -> bytes:
    """Returns what tells trees of bool of one structure apart."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(flags):
        found.update(np.packbits(np.asarray(leaf)).tobytes())
    return found.digest()
