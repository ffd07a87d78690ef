"""Scores a trained network by every measure, each on the data the paper gives it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.experiments.data import Dataset
from gradflow_jax.experiments.training import Network, Trainer, scaled
from gradflow_jax.models import SmallCNN
from gradflow_jax.scores import (
    Derivatives,
    batch_norm_scale,
    batch_norm_taylor,
    differentiate,
    fisher,
    magnitude,
    over_batches,
    random,
    score,
)
from gradflow_jax.trees import PyTree, default_prunable, map_named, named_leaves, widen

SCORING_EXAMPLES = 2560
SCORING_BATCH = 128

# The temperatures of the paper: training's for first-order measures, a flat softmax
# for GraSP, none for gradient-norm preservation.
GRASP_TEMPERATURE = 200.0
PRESERVATION_TEMPERATURE = 1.0


def prunable(path: str, leaf: Any) -> bool:
    """All kernels but the classifier's, which no unit of a batch norm stands for."""
    return default_prunable(path, leaf) and not path.startswith("classifier/")


class Scorer:
    """Scores networks of one trainer; the steps are compiled once for all of them."""

    def __init__(self, trainer: Trainer, progress: Callable[[], None] = lambda: None):
        """Binds the measures to the trainer's loss.

        Args:
            trainer: whose loss and data they are.
            progress: called after each batch.
        """
        loss = over_batches(trainer.loss, progress=lambda done, total: progress())
        self._dataset = trainer.dataset
        self._first_order = differentiate(loss, order=1, squares="batch")
        self._second_order = differentiate(loss)
        self._per_example = fisher(loss, per_example=True)
        self._batch_norm_taylor = batch_norm_taylor(loss)

    def __call__(
        self, measures: Iterable[str], network: Network, origin: PyTree, *, seed: int
    ) -> dict[str, PyTree]:
        """Returns the scores of each measure named, trees like the parameters.

        Args:
            measures: names among `MEASURES`.
            network: the trained network.
            origin: the parameters it was trained from.
            seed: of the choice of scoring data, and of random scores.
        """
        sample = _Sample(self, network, origin, seed)
        return {name: MEASURES[name](sample) for name in measures}


class _Sample:
    """One network and its scoring data; derivatives are evaluated when first needed."""

    def __init__(self, scorer: Scorer, network: Network, origin: PyTree, seed: int):
        self._scorer = scorer
        self.params, self._stats = network
        self.origin = origin
        self.seed = seed
        self._batches = balanced_batches(scorer._dataset, seed)
        self._first: Derivatives | None = None

    def evaluate(self, measure: Callable[..., Any], **options: Any) -> Any:
        """Evaluates a measure of the scorer over the data."""
        return measure(self.params, self._batches, stats=self._stats, **options)

    def first_order(self, name: str, origin: PyTree | None = None) -> PyTree:
        """Returns one of the scores that share a first-order evaluation."""
        found = self._first or self.evaluate(self._scorer._first_order)
        self._first = found
        return score(found._replace(origin=origin), name)

    def second_order(self, name: str, temperature: float) -> PyTree:
        """Returns a score that has a temperature of its own."""
        evaluate = self._scorer._second_order
        return score(self.evaluate(evaluate, temperature=temperature), name)

    def per_example(self) -> PyTree:
        """Returns Fisher scores of single examples."""
        return self.evaluate(self._scorer._per_example)

    def batch_norm_taylor(self) -> PyTree:
        """Returns the Taylor score of each channel's batch norm, spread over it."""
        return _spread(self.evaluate(self._scorer._batch_norm_taylor), self.params)


MEASURES: dict[str, Callable[[_Sample], PyTree]] = {
    "magnitude": lambda s: magnitude(s.params),
    "loss_preservation": lambda s: s.first_order("loss_preservation"),
    "biased_loss_preservation": lambda s: s.first_order("biased_loss_preservation"),
    "biased_from_init": lambda s: s.first_order("biased_loss_preservation", s.origin),
    "taylor": lambda s: s.first_order("taylor"),
    "fisher": lambda s: s.first_order("fisher"),
    "fisher_per_example": lambda s: s.per_example(),
    "grasp": lambda s: s.second_order("grasp", GRASP_TEMPERATURE),
    "gradient_norm_preservation": lambda s: s.second_order(
        "gradient_norm_preservation", PRESERVATION_TEMPERATURE
    ),
    "batch_norm_scale": lambda s: _spread(batch_norm_scale(s.params), s.params),
    "batch_norm_taylor": lambda s: s.batch_norm_taylor(),
    "random": lambda s: random(jax.random.key(s.seed))(s.params),
}
"""Each measure of the experiments by name; `biased_from_init` has the initial
parameters as origin. The batch-norm measures score channels: each weight of the filter
that a channel normalises gets its score, so that whole filters go."""


def balanced_batches(dataset: Dataset, seed: int) -> Sequence[tuple[Any, Any]]:
    """Returns batches of (images, labels) with equally many examples of each class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset.y_train))
    of_class = [order[dataset.y_train[order] == c] for c in range(dataset.classes)]
    each = min(SCORING_EXAMPLES // dataset.classes, min(map(len, of_class)))
    # One of each class after the other, so that the batches are balanced too.
    chosen = np.stack([indices[:each] for indices in of_class], axis=1).ravel()
    pieces = np.split(chosen, range(SCORING_BATCH, len(chosen), SCORING_BATCH))
    return [(scaled(dataset.x_train[i]), dataset.y_train[i]) for i in pieces]


def _spread(channels: dict[str, jax.Array], params: PyTree) -> PyTree:
    """Gives each weight of a filter the score of the channel it makes; 0 elsewhere."""
    by_kernel = {SmallCNN.NORMALISED[path]: scores for path, scores in channels.items()}
    assert set(by_kernel) <= {path for path, _ in named_leaves(params)}

    def of_weights(path: str, leaf: Any) -> jax.Array:
        zeros = jnp.zeros_like(widen(leaf))
        return zeros + by_kernel[path] if path in by_kernel else zeros

    return map_named(of_weights, params)
