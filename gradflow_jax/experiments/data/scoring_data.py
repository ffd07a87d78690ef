"""Draws the images that networks are scored on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow_jax.experiments.data.augmentation import augment
from gradflow_jax.experiments.data.dataset import Dataset
from gradflow_jax.experiments.data.pixels import normalize_pixels

SCORING_EXAMPLES = 2560
SCORING_BATCH = 128

ScoringBatches = Sequence[tuple[Any, Any]]


class ScoringData(NamedTuple):
    """What measures are evaluated on.

    Attributes:
        batches: (images, labels) each, for measures of first order.
        balanced: with equally many images of each class, for those of second order.
    """

    batches: ScoringBatches
    balanced: ScoringBatches


def balanced_indices(dataset: Dataset, rng: np.random.Generator) -> np.ndarray:
    """Returns training images at random, equally many of each class."""
    order = rng.permutation(len(dataset.y_train))
    of_class = [order[dataset.y_train[order] == c] for c in range(dataset.classes)]
    each = min(SCORING_EXAMPLES // dataset.classes, min(map(len, of_class)))
    # Classes take turns, so that each batch of the order is balanced too.
    return np.stack([indices[:each] for indices in of_class], axis=1).ravel()


def split_into_batches(chosen: np.ndarray) -> list[np.ndarray]:
    """Divides images into batches, of one size where that is not tiny.

    Scoring is compiled for each shape, and a smaller last batch would be a second one.
    """
    count = len(chosen)
    # This is the largest size that divides the number of images, down to a quarter of
    # a batch.
    sizes = range(min(SCORING_BATCH, count), SCORING_BATCH // 4, -1)
    size = next((n for n in sizes if count % n == 0), SCORING_BATCH)
    return np.split(chosen, range(size, count, size))


def balanced_batches(dataset: Dataset, seed: int) -> ScoringBatches:
    """Returns batches of (images, labels) with equally many examples of each class."""
    chosen = balanced_indices(dataset, np.random.default_rng(seed))
    return [
        (normalize_pixels(dataset.x_train[i]), dataset.y_train[i])
        for i in split_into_batches(chosen)
    ]


def balanced_scoring_data(dataset: Dataset, seed: int) -> ScoringData:
    """Returns balanced data for measures of every order."""
    balanced = balanced_batches(dataset, seed)
    return ScoringData(balanced, balanced)


def scoring_data_of_round(dataset: Dataset, *, seed: int, epoch: int) -> ScoringData:
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

    def augmented_batches(chosen: np.ndarray, stream: int) -> ScoringBatches:
        # Each list and each batch of it is augmented by a key of its own.
        stream_key = jax.random.fold_in(key, stream)
        batches = []
        for number, indices in enumerate(split_into_batches(chosen)):
            batch_key = jax.random.fold_in(stream_key, number)
            images = _augment_and_normalize(dataset.x_train[indices], batch_key)
            batches.append((images, dataset.y_train[indices]))
        return batches

    return ScoringData(augmented_batches(drawn, 0), augmented_batches(balanced, 1))


@jax.jit
def _augment_and_normalize(images: jax.Array, key: jax.Array) -> jax.Array:
    return normalize_pixels(augment(images, key))
