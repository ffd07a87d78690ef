"""The images that networks are scored on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gradflow_jax.experiments.data import Dataset
from gradflow_jax.experiments.forward import scaled

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


def balanced_batches(dataset: Dataset, seed: int) -> Batches:
    """Returns batches of (images, labels) with equally many examples of each class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset.y_train))
    of_class = [order[dataset.y_train[order] == c] for c in range(dataset.classes)]
    each = min(SCORING_EXAMPLES // dataset.classes, min(map(len, of_class)))
    # One of each class after the other, so that the batches are balanced too.
    chosen = np.stack([indices[:each] for indices in of_class], axis=1).ravel()
    pieces = np.split(chosen, range(SCORING_BATCH, len(chosen), SCORING_BATCH))
    return [(scaled(dataset.x_train[i]), dataset.y_train[i]) for i in pieces]


def same_for_all(dataset: Dataset, seed: int) -> ScoringData:
    """Returns balanced data for measures of every order."""
    balanced = balanced_batches(dataset, seed)
    return ScoringData(balanced, balanced)
