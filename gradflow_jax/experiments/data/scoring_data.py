"""The images that networks are scored on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.experiments.data.augmentation import augmented
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.pixels import normalized

SCORING_EXAMPLES = 2560
SCORING_BATCH = 128

Batches = Sequence[tuple[Any, Any]]


class ScoringData(NamedTuple):
    """What measures are evaluated on.

    Attributes:
        batches: (images, labels) each, for measures of first order.
        balanced: with equally many images of each class, for those of second order.
    """

    batches: Batches
    balanced: Batches


def balanced_indices(dataset: Dataset, rng: np.random.Generator) -> np.ndarray:
    """Returns training images at random, equally many of each class."""
    order = rng.permutation(len(dataset.y_train))
    of_class = [order[dataset.y_train[order] == c] for c in range(dataset.classes)]
    each = min(SCORING_EXAMPLES // dataset.classes, min(map(len, of_class)))
    # One of each class after the other, so that the batches are balanced too.
    return np.stack([indices[:each] for indices in of_class], axis=1).ravel()


def in_batches(chosen: np.ndarray) -> list[np.ndarray]:
    """Divides images into batches, of one size where that is not tiny.

    So that one shape is compiled and not a second for what is left over.
    """
    count = len(chosen)
    sizes = range(min(SCORING_BATCH, count), SCORING_BATCH // 4, -1)
    size = next((n for n in sizes if count % n == 0), SCORING_BATCH)
    return np.split(chosen, range(size, count, size))


def balanced_batches(dataset: Dataset, seed: int) -> Batches:
    """Returns batches of (images, labels) with equally many examples of each class."""
    chosen = balanced_indices(dataset, np.random.default_rng(seed))
    return [
        (normalized(dataset.x_train[i]), dataset.y_train[i]) for i in in_batches(chosen)
    ]


def same_for_all(dataset: Dataset, seed: int) -> ScoringData:
    """Returns balanced data for measures of every order."""
    balanced = balanced_batches(dataset, seed)
    return ScoringData(balanced, balanced)


def for_round(dataset: Dataset, *, seed: int, epoch: int) -> ScoringData:
    """Returns what a round scores on: images augmented as for training.

    Args:
        dataset: whose training images to take.
        seed: of the run.
        epoch: after which the round is.
    """
    rng = np.random.default_rng([seed, epoch])
    count = min(SCORING_EXAMPLES, len(dataset.y_train))
    drawn = rng.permutation(len(dataset.y_train))[:count]
    balanced = balanced_indices(dataset, rng)
    key = jax.random.fold_in(jax.random.key(seed), epoch)

    def ready(chosen: np.ndarray, number: int) -> Batches:
        own = jax.random.fold_in(key, number)
        return [
            (_prepared(dataset.x_train[i], jax.random.fold_in(own, at)), labels)
            for at, i in enumerate(in_batches(chosen))
            for labels in (dataset.y_train[i],)
        ]

    return ScoringData(ready(drawn, 0), ready(balanced, 1))


@jax.jit
def _prepared(images: jax.Array, key: jax.Array) -> jax.Array:
    return normalized(augmented(images, key))
