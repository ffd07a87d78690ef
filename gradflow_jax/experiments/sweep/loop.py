"""The loop of a sweep, whether weights are masked or units are cut.

For each seed one network is trained. It is scored by each measure, pruned at each
sparsity from the same dense weights, and fine-tuned on the same order of images, so
that results of one seed differ in what was pruned and in nothing else.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.scoring_data import (
    ScoringData,
    balanced_scoring_data,
)
from gradflow_jax.experiments.networks.architecture import Network
from gradflow_jax.experiments.networks.training import FINETUNE_LEARNING_RATE, Trainer
from gradflow_jax.experiments.sweep.settings import Settings
from gradflow_jax.masks import EqualScoresWarning
from gradflow_jax.trees import ArrayTree, Masks, Params

FINETUNE_SEED = 1_000_000
"""Added to a seed, so that fine-tuning sees another order of images than training."""

TIMED = {"timed": True}
"""The metadata of a row's fields that hold a measured time: equal runs differ in it."""

AnyRow = TypeVar("AnyRow", covariant=True)
AnyScores = TypeVar("AnyScores", bound=ArrayTree)
AnyKeep = TypeVar("AnyKeep", bound=ArrayTree)


class SweepWatcher(Protocol):
    """Is told what a sweep is doing."""

    def stage(self, description: str, steps: int) -> None:
        """Begins a stage of so many steps."""

    def step(self) -> None:
        """One step is done."""


class SilentSweepWatcher:
    """A watcher that does nothing."""

    def stage(self, description: str, steps: int) -> None:
        """Does nothing."""

    def step(self) -> None:
        """Does nothing."""


class Pruner(Protocol[AnyRow, AnyScores, AnyKeep]):
    """What differs between a sweep that masks weights and one that cuts units.

    `keep` is in all of it what `choose` returned, a tree of bool in which True keeps.
    """

    def score(
        self, dense: Network, origin: Params, data: ScoringData, seed: int
    ) -> Mapping[str, AnyScores]:
        """Returns scores by each measure of the settings, by its name.

        Args:
            dense: the trained network.
            origin: the parameters that it was trained from.
            data: what it is scored on.
            seed: of random scores.
        """
        ...

    def choose(self, scores: AnyScores, sparsity: float) -> AnyKeep:
        """Returns what stays, by the scores of one measure."""
        ...

    def kept_by_position(self, scores: AnyScores, keep: AnyKeep) -> int:
        """Returns how much of what stays has the score of what goes."""
        ...

    def prune(self, dense: Network, keep: AnyKeep) -> Network:
        """Returns the network without what goes, before fine-tuning."""
        ...

    def time(self, pruned: Network, dense: Network) -> Mapping[str, float]:
        """Returns the fields of a row that hold measured times, by name."""
        ...

    def masks(self, keep: AnyKeep) -> Masks | None:
        """Returns the masks that fine-tuning holds to; None where it needs none."""
        ...

    def row(self, keep: AnyKeep | None, **fields: Any) -> AnyRow:
        """Returns a row of the results.

        Args:
            keep: what stays; None of the dense network, which keeps all.
            fields: its seed, measure, sparsity, accuracies, losses, times, and how
                much equal scores kept by position.
        """
        ...


def rows_in_all(settings: Settings) -> int:
    """Returns how many rows a sweep yields."""
    pruned = len(settings.measures) * len(settings.sparsities)
    return len(settings.seeds) * (1 + pruned)


def sweep(
    settings: Settings,
    dataset: Dataset,
    make_pruner: Callable[[Trainer, SweepWatcher], Pruner[AnyRow, AnyScores, AnyKeep]],
    watcher: SweepWatcher | None,
) -> Iterator[AnyRow]:
    """Trains a network for each seed, prunes and fine-tunes it; yields each result."""
    watcher = watcher or SilentSweepWatcher()
    trainer = Trainer(dataset)
    pruner = make_pruner(trainer, watcher)
    fit = watch_fit(trainer, watcher)
    for seed in settings.seeds:
        start = trainer.init(seed)
        dense = fit(f"seed {seed}: training", start, settings.epochs, seed=seed)
        quality = {**_test_twice(trainer, dense, dense), **pruner.time(dense, dense)}
        yield pruner.row(None, seed=seed, measure="dense", sparsity=0.0, **quality)
        watcher.stage(f"seed {seed}: scoring", 0)
        data = balanced_scoring_data(trainer.dataset, seed)
        scores = pruner.score(dense, start.params, data, seed)
        # Two measures that choose the same get the same network, trained once.
        quality_of: dict[bytes, Mapping[str, float]] = {}
        for measure in settings.measures:
            for sparsity in settings.sparsities:
                with warnings.catch_warnings():
                    # The results say it of each network.
                    warnings.simplefilter("ignore", EqualScoresWarning)
                    keep = pruner.choose(scores[measure], sparsity)
                key = digest(keep)
                if key not in quality_of:
                    stage = f"seed {seed}: {measure} {100 * sparsity:g} %"
                    watcher.stage(stage, 0)
                    pruned = pruner.prune(dense, keep)
                    times = pruner.time(pruned, dense)
                    tuned = fit(
                        stage,
                        pruned,
                        settings.finetune_epochs,
                        seed=seed + FINETUNE_SEED,
                        peak=FINETUNE_LEARNING_RATE,
                        masks=pruner.masks(keep),
                    )
                    tests = _test_twice(trainer, pruned, tuned)
                    quality_of[key] = {**tests, **times}
                yield pruner.row(
                    keep,
                    seed=seed,
                    measure=measure,
                    sparsity=sparsity,
                    by_position=pruner.kept_by_position(scores[measure], keep),
                    **quality_of[key],
                )


def _test_twice(trainer: Trainer, pruned: Network, tuned: Network) -> dict[str, float]:
    """Returns a row's test accuracies and losses, by the names of its fields."""
    pruned_accuracy, pruned_loss = trainer.evaluate(pruned)
    accuracy, loss = trainer.evaluate(tuned)
    return {
        "pruned_accuracy": pruned_accuracy,
        "pruned_loss": pruned_loss,
        "accuracy": accuracy,
        "loss": loss,
    }


def watch_fit(trainer: Trainer, watcher: SweepWatcher) -> Callable[..., Network]:
    """Returns `fit(description, network, epochs, **options)`, told to the watcher."""

    def step(done: int, total: int) -> None:
        watcher.step()

    def fit(description: str, network: Network, epochs: int, **options: Any) -> Network:
        watcher.stage(description, epochs * trainer.steps_per_epoch)
        return trainer.fit(network, epochs=epochs, progress=step, **options)

    return fit


def digest(flags: ArrayTree) -> bytes:
    """Returns a SHA-256 of a tree of bool, equal for equal trees of one structure."""
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(flags):
        sha256.update(np.packbits(np.asarray(leaf)).tobytes())
    return sha256.digest()
